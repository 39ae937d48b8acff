//! Messages of lnet_selftest (docs/protocol/selftest.md §2, §3): 160 bytes each, in the sender's byte order, unused tail
//! zero. Names are bytes in either order.

mod codec;

pub use self::codec::{dest, parse_dest};
use super::bytes::ByteOrder;
use super::{Nid, without_controls};

/// Magic of every message.
pub const MAGIC: u32 = 0xEEB0_F00D;
/// The version that all releases speak.
pub const VERSION: u32 = 1;
/// Size of every message, in bytes.
pub const LEN: usize = 160;
/// Feature bit: bulk has a length in bytes, and test parameters the layout "v1".
pub const FEAT_BULK_LEN: u32 = 1;
/// All feature bits that are known.
pub const FEATS: u32 = FEAT_BULK_LEN;
/// Magic inside of PING.
pub const PING_MAGIC: u32 = 0xBABE_FACE;
/// The word that data of check=simple and check=full is made of, in the order of the node that made them.
pub const BRW_WORD: u64 = 0xEEB0_EEB1_EEB2_EEB3;
/// Most bytes of a BRW.
pub const BRW_MAX: u32 = 1 << 20;
/// Size of an entry of a destination list, in bytes.
pub const DEST_LEN: usize = 12;
/// Size of a page of a destination list, in bytes.
pub const DEST_PAGE: usize = 4096;
/// Entries of a page of a destination list; none straddles two.
pub const DEST_A_PAGE: usize = DEST_PAGE / DEST_LEN;
/// Most destinations of a test.
pub const DEST_MAX: u32 = 256 * DEST_A_PAGE as u32;
/// Size of names, in bytes.
pub const NAME_LEN: usize = 32;

/// Status words of replies: positive errno of Linux.
pub mod status {
    /// No such batch or test.
    pub const ENOENT: u32 = 2;
    /// No such session.
    pub const ESRCH: u32 = 3;
    /// Input or output failed.
    pub const EIO: u32 = 5;
    /// No memory.
    pub const ENOMEM: u32 = 12;
    /// Another session has the node, or the batch runs.
    pub const EBUSY: u32 = 16;
    /// The request makes no sense.
    pub const EINVAL: u32 = 22;
    /// Version or features are not those of the session.
    pub const EPROTO: u32 = 71;
    /// The data is not what it should be.
    pub const EBADMSG: u32 = 74;
}

/// Services, by their match bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// Asks after the session.
    Debug,
    /// Makes a session.
    MakeSession,
    /// Ends a session.
    RemoveSession,
    /// Runs, stops or queries a batch.
    Batch,
    /// Adds a test.
    Test,
    /// Reads counters.
    Stat,
    /// Obsolete; a console's.
    Join,
    /// Bulk read or write.
    Brw,
    /// Ping.
    Ping,
}

/// Service, its id, the types of its request and reply.
const SERVICES: [(Service, u32, u32, u32); 9] = [
    (Service::Debug, 0, 10, 11),
    (Service::MakeSession, 1, 0, 1),
    (Service::RemoveSession, 2, 2, 3),
    (Service::Batch, 3, 4, 5),
    (Service::Test, 4, 8, 9),
    (Service::Stat, 5, 6, 7),
    (Service::Join, 6, 16, 17),
    (Service::Brw, 11, 12, 13),
    (Service::Ping, 12, 14, 15),
];

impl Service {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Service> {
        SERVICES.into_iter().map(|s| s.0)
    }

    fn row(self) -> (Service, u32, u32, u32) {
        SERVICES.into_iter().find(|s| s.0 == self).unwrap_or((self, 0, 10, 11))
    }

    /// Its number: the match bits of its requests.
    pub fn id(self) -> u32 {
        self.row().1
    }

    /// By its number.
    pub fn by_id(id: u32) -> Option<Service> {
        SERVICES.into_iter().find(|s| s.1 == id).map(|s| s.0)
    }

    /// Whether it is a test's, whose requests go to portal 50; the framework's go to 51.
    pub fn is_test(self) -> bool {
        matches!(self, Service::Brw | Service::Ping)
    }
}

/// Name of a session: a C string in 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Name(pub [u8; NAME_LEN]);

impl Name {
    /// The first 31 bytes of `s`.
    pub fn new(s: &str) -> Name {
        let mut raw = [0; NAME_LEN];
        for (dst, src) in raw.iter_mut().take(NAME_LEN - 1).zip(s.bytes()) {
            *dst = src;
        }
        Name(raw)
    }

    /// The text up to its NUL. It is a peer's, and may be shown at a terminal: control characters are escaped.
    pub fn text(&self) -> String {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(NAME_LEN);
        without_controls(&String::from_utf8_lossy(self.0.get(..end).unwrap_or_default()))
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.text())
    }
}

/// Names a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sid {
    /// NID of the console, in its 64-bit form.
    pub nid4: u64,
    /// Any number that the console uses once.
    pub stamp: i64,
}

impl Sid {
    /// No session.
    pub const INVALID: Sid = Sid { nid4: u64::MAX, stamp: -1 };

    /// Whether it names none: its NID is ANY.
    pub fn is_any(self) -> bool {
        self.nid4 == u64::MAX
    }

    /// NID of the console.
    pub fn nid(self) -> Nid {
        Nid::from_nid4(self.nid4)
    }
}

/// Requests of a batch.
pub mod opc {
    /// Starts all of its client tests.
    pub const RUN: u32 = 1;
    /// Stops them.
    pub const STOP: u32 = 2;
    /// Asks how many are active.
    pub const QUERY: u32 = 3;
}

/// Direction of a BRW, as the client sees it.
pub mod rw {
    /// The server PUTs.
    pub const READ: u32 = 1;
    /// The server GETs.
    pub const WRITE: u32 = 2;
}

/// Checks of a BRW.
pub mod check {
    /// None.
    pub const NONE: u32 = 1;
    /// First and last word of each page.
    pub const SIMPLE: u32 = 2;
    /// Every word.
    pub const FULL: u32 = 3;
    /// None, and what is received need not be stored.
    pub const DISCARD: u32 = 4;
}

/// Parameters of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestParams {
    /// Of PING; both unused.
    Ping {
        /// Size.
        size: u32,
        /// Flags.
        flags: u32,
    },
    /// Of BRW without [`FEAT_BULK_LEN`].
    BrwV0 {
        /// [`rw`].
        opc: u32,
        /// Pages of 4096 bytes.
        npages: u32,
        /// [`check`].
        flags: u32,
    },
    /// Of BRW.
    Brw {
        /// [`rw`].
        opc: u16,
        /// [`check`].
        flags: u16,
        /// Bytes.
        len: u32,
        /// Offset in the client's first page, in bytes.
        offset: u32,
    },
    /// Of a service that has no tests.
    Other([u8; 12]),
}

/// Adds a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestReq {
    /// Match bits of the reply.
    pub rpyid: u64,
    /// Match bits of the destination list.
    pub bulkid: u64,
    /// Session.
    pub sid: Sid,
    /// Batch.
    pub batch: u64,
    /// Number of the service.
    pub service: u32,
    /// RPCs of each unit; all ones for no end.
    pub loops: u32,
    /// Units for each destination.
    pub concur: u32,
    /// The node asks; else it only serves.
    pub is_client: bool,
    /// A unit ends with its first error.
    pub stop_onerr: bool,
    /// Entries of the destination list.
    pub ndest: u32,
    /// Parameters of the service.
    pub params: TestParams,
}

/// Counters of the test node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameworkCounters {
    /// Since the session was made, in ms.
    pub running_ms: u32,
    /// Batches that run.
    pub active_batches: u32,
    /// Sessions that end, and have not yet.
    pub zombie_sessions: u32,
    /// BRWs of our units that failed.
    pub brw_errors: u32,
    /// PINGs of our units that failed.
    pub ping_errors: u32,
}

/// Counters of RPCs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RpcCounters {
    /// LNet events that told of an error.
    pub errors: u32,
    /// Requests sent.
    pub rpcs_sent: u32,
    /// Requests received.
    pub rpcs_rcvd: u32,
    /// Requests received that got no reply.
    pub rpcs_dropped: u32,
    /// Requests that waited too long for their reply.
    pub rpcs_expired: u32,
    /// Bytes that the server fetched.
    pub bulk_get: u64,
    /// Bytes that the server sent.
    pub bulk_put: u64,
}

impl RpcCounters {
    /// The sum of two.
    #[must_use]
    pub fn and(self, o: &RpcCounters) -> RpcCounters {
        RpcCounters {
            errors: self.errors.wrapping_add(o.errors),
            rpcs_sent: self.rpcs_sent.wrapping_add(o.rpcs_sent),
            rpcs_rcvd: self.rpcs_rcvd.wrapping_add(o.rpcs_rcvd),
            rpcs_dropped: self.rpcs_dropped.wrapping_add(o.rpcs_dropped),
            rpcs_expired: self.rpcs_expired.wrapping_add(o.rpcs_expired),
            bulk_get: self.bulk_get.wrapping_add(o.bulk_get),
            bulk_put: self.bulk_put.wrapping_add(o.bulk_put),
        }
    }
}

/// Counters of LNet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LnetCounters {
    /// Messages that there are now.
    pub msgs_alloc: u32,
    /// Most messages that there were at once.
    pub msgs_max: u32,
    /// Errors.
    pub errors: u32,
    /// Messages sent.
    pub send_count: u32,
    /// Messages received.
    pub recv_count: u32,
    /// Messages routed.
    pub route_count: u32,
    /// Messages dropped.
    pub drop_count: u32,
    /// Payload sent, in bytes.
    pub send_length: u64,
    /// Payload received, in bytes.
    pub recv_length: u64,
    /// Payload routed, in bytes.
    pub route_length: u64,
    /// Payload dropped, in bytes.
    pub drop_length: u64,
}

/// A message's body. Requests have a `rpyid`, and where there is bulk a `bulkid`: the match bits of what comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, clippy::large_enum_variant)]
pub enum Body {
    MakeSession { rpyid: u64, sid: Sid, force: u32, name: Name },
    MakeSessionReply { status: u32, sid: Sid, timeout: u32, name: Name },
    RemoveSession { rpyid: u64, sid: Sid },
    RemoveSessionReply { status: u32, sid: Sid },
    Batch { rpyid: u64, sid: Sid, batch: u64, opc: u32, testidx: u32, arg: u32 },
    BatchReply { status: u32, sid: Sid, active: u32, time: u32 },
    Test(TestReq),
    TestReply { status: u32, sid: Sid },
    Stat { rpyid: u64, sid: Sid, kind: u32 },
    StatReply { status: u32, sid: Sid, fw: FrameworkCounters, rpc: RpcCounters, lnet: LnetCounters },
    Debug { rpyid: u64, sid: Sid, flags: u32 },
    DebugReply { status: u32, sid: Sid, timeout: u32, nbatch: u32, name: Name },
    Join { rpyid: u64, sid: Sid, group: Name },
    JoinReply { status: u32, sid: Sid, timeout: u32, session: Name },
    Brw { rpyid: u64, bulkid: u64, rw: u32, len: u32, flags: u32 },
    BrwReply { status: u32 },
    Ping { rpyid: u64, magic: u32, seq: u32, secs: u64, nanos: u64 },
    PingReply { status: u32, magic: u32, seq: u32 },
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Order of the sender's integers.
    pub order: ByteOrder,
    /// [`VERSION`], or one that is answered with EPROTO.
    pub version: u32,
    /// Features of the session.
    pub features: u32,
    /// The rest.
    pub body: Body,
}

impl Body {
    /// Its service, and whether it is a request.
    pub fn kind(&self) -> (Service, bool) {
        match self {
            Body::MakeSession { .. } => (Service::MakeSession, true),
            Body::MakeSessionReply { .. } => (Service::MakeSession, false),
            Body::RemoveSession { .. } => (Service::RemoveSession, true),
            Body::RemoveSessionReply { .. } => (Service::RemoveSession, false),
            Body::Batch { .. } => (Service::Batch, true),
            Body::BatchReply { .. } => (Service::Batch, false),
            Body::Test(_) => (Service::Test, true),
            Body::TestReply { .. } => (Service::Test, false),
            Body::Stat { .. } => (Service::Stat, true),
            Body::StatReply { .. } => (Service::Stat, false),
            Body::Debug { .. } => (Service::Debug, true),
            Body::DebugReply { .. } => (Service::Debug, false),
            Body::Join { .. } => (Service::Join, true),
            Body::JoinReply { .. } => (Service::Join, false),
            Body::Brw { .. } => (Service::Brw, true),
            Body::BrwReply { .. } => (Service::Brw, false),
            Body::Ping { .. } => (Service::Ping, true),
            Body::PingReply { .. } => (Service::Ping, false),
        }
    }

    /// Type word of its header.
    fn wire_type(&self) -> u32 {
        let (service, request) = self.kind();
        let (_, _, asks, answers) = service.row();
        if request { asks } else { answers }
    }

    /// Match bits of the reply to a request.
    pub fn rpyid(&self) -> Option<u64> {
        match self {
            Body::Test(t) => Some(t.rpyid),
            Body::MakeSession { rpyid, .. }
            | Body::RemoveSession { rpyid, .. }
            | Body::Batch { rpyid, .. }
            | Body::Stat { rpyid, .. }
            | Body::Debug { rpyid, .. }
            | Body::Join { rpyid, .. }
            | Body::Brw { rpyid, .. }
            | Body::Ping { rpyid, .. } => Some(*rpyid),
            _ => None,
        }
    }

    fn rpyid_mut(&mut self) -> Option<&mut u64> {
        match self {
            Body::Test(t) => Some(&mut t.rpyid),
            Body::MakeSession { rpyid, .. }
            | Body::RemoveSession { rpyid, .. }
            | Body::Batch { rpyid, .. }
            | Body::Stat { rpyid, .. }
            | Body::Debug { rpyid, .. }
            | Body::Join { rpyid, .. }
            | Body::Brw { rpyid, .. }
            | Body::Ping { rpyid, .. } => Some(rpyid),
            _ => None,
        }
    }

    /// Puts the match bits of reply and bulk into a request.
    pub fn set_ids(&mut self, rpy: u64, bulk: u64) {
        if let Some(id) = self.rpyid_mut() {
            *id = rpy;
        }
        match self {
            Body::Test(TestReq { bulkid, .. }) | Body::Brw { bulkid, .. } => *bulkid = bulk,
            _ => {}
        }
    }

    /// Status of a reply.
    pub fn status(&self) -> Option<u32> {
        match self {
            Body::MakeSessionReply { status, .. }
            | Body::RemoveSessionReply { status, .. }
            | Body::BatchReply { status, .. }
            | Body::TestReply { status, .. }
            | Body::StatReply { status, .. }
            | Body::DebugReply { status, .. }
            | Body::JoinReply { status, .. }
            | Body::BrwReply { status }
            | Body::PingReply { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Session that a message of the framework names. PING and BRW name none.
    pub fn sid(&self) -> Option<Sid> {
        match self {
            Body::Test(t) => Some(t.sid),
            Body::MakeSession { sid, .. }
            | Body::MakeSessionReply { sid, .. }
            | Body::RemoveSession { sid, .. }
            | Body::RemoveSessionReply { sid, .. }
            | Body::Batch { sid, .. }
            | Body::BatchReply { sid, .. }
            | Body::TestReply { sid, .. }
            | Body::Stat { sid, .. }
            | Body::StatReply { sid, .. }
            | Body::Debug { sid, .. }
            | Body::DebugReply { sid, .. }
            | Body::Join { sid, .. }
            | Body::JoinReply { sid, .. } => Some(*sid),
            _ => None,
        }
    }
}
