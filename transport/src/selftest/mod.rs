//! lnet_selftest above LNet (docs/protocol/selftest.md): a member of a group in both roles, and the asking side of an RPC,
//! which a console shares.
//!
//! ```text
//!   console               member: serves the framework (portal 51) and tests (portal 50), asks as a client of tests
//!      └───────┬─────────────┘
//!            rpc                  a request and what comes back: reply and bulk on portal 52, in any order
//!            lnet
//! ```
//!
//! Sans-io as all below: events and a time in ns go in, operations come out. No RPC allocates once as many were under way
//! before; bulk leaves as pages by reference and is looked at in the buffers that it came in ([`pattern`]).

pub mod console;
pub mod member;
pub mod pattern;
pub mod rpc;

use std::collections::VecDeque;

pub use self::member::{Member, Meter};
pub use self::rpc::{Ask, Bulk, Done, RpcError, Rpcs};
use crate::lnd::AppId;
use crate::lnet::Op;

/// Portal of requests to test services.
pub const TEST_PORTAL: u32 = 50;
/// Portal of requests to the framework.
pub const FRAMEWORK_PORTAL: u32 = 51;
/// Portal of replies and bulk.
pub const RDMA_PORTAL: u32 = 52;
/// One second in ns.
const SEC: u64 = 1_000_000_000;

/// Operations that are to be started, in order.
pub type Ops = VecDeque<(AppId, Op)>;

/// Event queues of lnet_selftest on their lcore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppIds {
    /// The services of a member.
    pub server: AppId,
    /// RPCs that it asks.
    pub client: AppId,
    /// The console's.
    pub console: AppId,
}

impl AppIds {
    /// The ids `first` and those behind it.
    ///
    /// # Errors
    /// [`AppIdError`](crate::lnd::AppIdError): there are not so many ids.
    pub fn from(first: u16) -> Result<AppIds, crate::lnd::AppIdError> {
        let id = |n| AppId::new(first.saturating_add(n));
        Ok(AppIds { server: id(0)?, client: id(1)?, console: id(2)? })
    }
}

/// Parameters, as those of the kernel's module (selftest.md §8).
#[derive(Clone, Debug)]
pub struct Config {
    /// Event queues.
    pub apps: AppIds,
    /// A session without RPCs of the framework ends after so many ns, in the next slot of [`Config::timer_slot`]; 0: never.
    pub session_timeout: u64,
    /// Slots in which time-outs of sessions are looked at, in ns.
    pub timer_slot: u64,
    /// An RPC of a test ends after so many ns.
    pub rpc_timeout: u64,
    /// RPCs served at once. Half of the places are anybody's; of the rest a peer leaves as many free as it holds, and what it
    /// asks beyond that is dropped.
    pub served: usize,
    /// Units of all client tests together.
    pub units: usize,
    /// Shards of the node, each of which has LNet counters.
    pub shards: u16,
    /// Unix time in ns at the first turn: ids of RPCs begin there, and PINGs carry it.
    pub unix_ns: u64,
}

impl Config {
    /// The kernel's defaults, for a node whose clock says `unix_ns` of Unix time.
    pub fn new(apps: AppIds, unix_ns: u64) -> Config {
        Config {
            apps,
            session_timeout: 100 * SEC,
            timer_slot: 8 * SEC,
            rpc_timeout: 64 * SEC,
            served: 8192,
            units: 1 << 16,
            shards: 1,
            unix_ns,
        }
    }
}

/// First id of an [`Rpcs`]: as kernels begin, by the second, and apart from the other instances of a node.
pub fn first_id(unix_ns: u64, instance: u8) -> u64 {
    (unix_ns / SEC) << 48 | u64::from(instance) << 40
}
