//! The socklnd and LNet machines: bytes, a time and completions in; sends, placements and events out.
//!
//! [`Machine`] is one shard of a node. It is deterministic: it has no clock, no thread and no socket, and the same
//! inputs give the same outputs. A runtime (`transport::node`, or the test harness) owns the streams and drives it:
//!
//! ```text
//!            Opened, Progress, Bytes, PeerFin, Closed, Released, Cmd, From, Boxed, Timer
//!  runtime ------------------------------------------------------------------------> Machine::handle(now, input)
//!          <------------------------------------------------------------------------ Machine::poll() until None
//!            Dial, Send, Unhold, Read, Close, Complete, To, Offer                    Machine::deadline()
//! ```
//!
//! ```
//! use transport::proto::{AppId, Config, Input, Machine, Op, Output};
//! use transport::wire::{Nid, ProcessId};
//!
//! let (here, there): (Nid, Nid) = ("10.0.0.1@tcp".parse()?, "10.0.0.2@tcp".parse()?);
//! let mut machine = Machine::new(Config::new(here, 1));
//! machine.handle(1_000, Input::Cmd(AppId::FIRST, Op::Ping { tag: 1, target: ProcessId::lustre(there) }));
//! let Some(Output::Dial(d)) = machine.poll() else { unreachable!() };
//! assert_eq!((d.peer, d.remote.port(), d.privileged), (there, 988, true));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Inside, from the stream upwards: `hello` (handshakes), `rx` (framing), `txq` and `carrier` (queues, and how ACKs
//! ride), `zc` (zero-copy cookies), `peer` (connection sets), `standing` (duplicates), `lnet` (matching, MDs, operations). Those hold rules and
//! tables (docs/machines.md shows them side by side); `handshake`, `receive`, `send`, `sets`, `answer` and `timers`
//! are the machine's methods that apply them.

mod answer;
pub mod api;
mod boxes;
mod budget;
mod carrier;
mod choose;
pub mod config;
mod conn;
pub mod counters;
mod handshake;
mod held;
mod hello;
pub mod homes;
pub mod io;
mod leaving;
mod lnet;
mod look;
mod machine;
mod moving;
mod owner;
mod peer;
mod pieces;
mod placement;
mod receive;
mod rx;
mod send;
mod sets;
mod slab;
mod standing;
#[cfg(feature = "testing")]
pub mod testing;
mod timers;
pub mod tunables;
mod txq;
mod version;
mod zc;

pub use api::*;
pub use boxes::MsgBox;
pub use budget::Held;
pub(crate) use budget::trim;
pub use config::{Accept, Carrier, Config, LENDINGS, Shards, ShardsError, Tcp};
pub use counters::Counters;
pub use homes::{Bucket, Homes};
pub use io::*;
pub use lnet::remote::ShardMsg;
pub use look::{Contact, DialWhy, PeerBrief, PeerView};
pub(crate) use machine::BYTES_A_NS;
pub use machine::{Gauges, Machine};
pub use moving::Luggage;
pub(crate) use owner::Owner;
pub use owner::{AppId, AppIdError, SHARDS_MAX};
pub use pieces::{Pieces, RxPiece};
