//! Nodes that run: a protocol machine, the streams that it uses, and the applications on it.
//!
//! * [`machine`]: LNet and its LNDs on one shard, without anything that runs them.
//! * [`builder`]: where a node is assembled, over any kind of streams.
//! * [`shard`]: the loop of one lcore, the same over every kind of streams, alone or among others.
//! * [`streams`]: the seam. [`sock`] carries streams over kernel sockets, [`lcore`] over a TCP stack on a NIC
//!   queue or, with an in-memory port and virtual time, a simulated network; [`ports`] joins those of several ports.
//! * [`mesh`]: what crosses shards; `migration` moves peers between them, as [`balance`] sees fit.
//! * [`app`]: what uses the node, on its lcore or behind rings.
//! * [`inspect`]: looking at a node while it runs.
//! * `handover`: the flags and rings between its threads; `bell`: the wait for what comes by one.
//! * `unlent`: messages that wait for lendings, of both kinds of streams.
//! * [`mod@run`]: threads, signals, drain, idling, and what happens when an lcore panics.

#[cfg(feature = "node")]
pub mod app;
#[cfg(feature = "node")]
pub mod balance;
#[cfg(feature = "node")]
mod bell;
#[cfg(feature = "node")]
pub mod builder;
#[cfg(feature = "node")]
mod conn_state;
#[cfg(feature = "node")]
mod counters;
#[cfg(feature = "node")]
pub(crate) mod handover;
#[cfg(feature = "node")]
mod idle;
#[cfg(feature = "node")]
pub mod inspect;
#[cfg(feature = "node")]
pub mod lcore;
mod loop_stats;
pub mod machine;
#[cfg(feature = "node")]
pub mod mesh;
#[cfg(feature = "node")]
mod migration;
#[cfg(feature = "node")]
mod nis;
#[cfg(feature = "node")]
mod nis_orders;
mod orders;
#[cfg(feature = "node")]
mod pages;
#[cfg(feature = "node")]
pub mod ports;
#[cfg(feature = "node")]
pub mod run;
#[cfg(feature = "node")]
pub mod shard;
#[cfg(feature = "node")]
pub mod sock;
#[cfg(feature = "node")]
pub mod streams;
#[cfg(feature = "node")]
mod unlent;

#[cfg(feature = "node")]
pub use app::{App, Beside, Handle, Joined, NoApp, Ops, RingApp, Seat, Sitting, beside, joined, rings};
#[cfg(feature = "node")]
pub use bell::Bell;
#[cfg(feature = "node")]
pub use builder::{BuildError, Lcores, NodeBuilder, Plan, Protocols, Running};
#[cfg(feature = "node")]
pub use counters::StreamCounters;
#[cfg(feature = "node")]
pub use idle::IdlePolicy;
#[cfg(feature = "node")]
pub use inspect::Inspect;
pub use machine::{BesideError, CopyJob, Gauges, Input, Machine, Migrating, Output};
#[cfg(feature = "node")]
pub use ports::{PORTS_MAX, Ports};
pub use run::{Control, NodeEnd, Order, Turn, run};
#[cfg(feature = "node")]
pub use shard::{NotAlone, Shard};
#[cfg(feature = "node")]
pub use streams::{Sibling, Streams, Told, Work};
