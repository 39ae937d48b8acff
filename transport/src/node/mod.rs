//! Nodes that run: a protocol machine, a runtime that carries its streams, and the applications on it.
//!
//! * [`shard`]: the loop of one lcore, the same over every runtime.
//! * [`runtime`]: the seam. [`sock`] carries streams over kernel sockets, [`lcore`] over a TCP stack on a NIC
//!   queue or, with an in-memory port and virtual time, a simulated network; [`links`] joins shards, and [`moving`]
//!   moves peers between them, as [`balance`] sees fit.
//! * [`app`]: what uses the node, on its lcore or behind rings.
//! * [`desk`]: asking a node while it runs.
//! * `handover`: the flags and rings between its threads.
//! * `unlent`: messages that wait for lendings, of both runtimes.
//! * [`mod@run`]: threads, signals, drain, idling, and what happens when an lcore panics.

pub mod app;
pub mod balance;
pub mod desk;
mod handover;
pub mod lcore;
pub mod links;
pub mod moving;
pub mod run;
pub mod runtime;
pub mod shard;
pub mod sock;
mod unlent;

pub use app::{App, Beside, Handle, NoApp, Ops, RingApp, Seat, Sitting, beside, rings};
pub use run::{Control, Idle, NodeEnd, Order, Turn, run};
pub use runtime::{RtCounters, Runtime, StreamCmd, Work};
pub use shard::Shard;
