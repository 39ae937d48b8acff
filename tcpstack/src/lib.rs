//! One TCP stack an lcore: smoltcp as the state machine, a shim for reliability and zero copy.
//!
//! smoltcp 0.14, unmodified, never sees a payload byte, a lost segment or a clock that moves. It is fed what a
//! lossless, ordered network would have delivered, and what it emits are permissions: so many bytes may go out,
//! this window may be offered. Everything else is the shim's.
//!
//! ```text
//!   port ─ packet ─> stack/input ─ segment ─> flow/input ─ in order, trimmed, joined ─> flow/scaled ─> smoltcp
//!                    (link, ARP, IP,          (RFC 5961 guards, ACKs, reassembly,         phantom rings  │
//!                     ICMP, RST)               loss recovery)                                            │
//!   port <─ packet ─ Io <─ shadow queue <──── flow/output: lost, new, ACKs <──────── permissions <───────┘
//!                                             as far as [`sender`] has room
//! ```
//!
//! * **Zero copy.** [`Stack::push`] copies at most [`HDR_MAX`] header bytes and holds payload by
//!   [`hugepages::Lent`]; frames attach it. A piece is let go when the peer has acknowledged past its end.
//!   [`Stack::next`] hands out receive buffers; [`Stack::credit`] opens the window again.
//! * **One retransmitter** ([`sender`]): from the shadow queue, in real time. smoltcp emits each byte once. A
//!   [`scoreboard`] knows what is out, [`rack`] and [`tlp`] what is lost, [`cc`] and [`prr`] how much may be out;
//!   [`newreno`] takes over where the peer has no SACK. What smoltcp permits is an upper bound.
//! * **Units.** One byte of the stream that smoltcp sees stands for 256 of ours (the `scaled` module): what it
//!   copies of its own costs next to nothing, and one emission permits a whole window.
//! * **Super-segments.** The shim cuts what is permitted by TSO where the port has it, or to plain segments of the
//!   peer's MSS.
//! * **Cheap demultiplexing.** One look-up a segment ([`table`]), one set of one socket a connection, one feed and
//!   one round of emissions a connection and turn, however many segments came.
//! * **Both families.** A connection's addresses are 16 bytes ([`addr`]), its headers a template of either kind
//!   ([`wire`]); one cache knows the neighbours of both ([`neighbour`]), one of path MTUs the destinations ([`pmtu`]).
//! * **One of several.** Where a port has several queues each has a stack of its own; they tell each other what only
//!   one of them hears ([`siblings`]).
//! * **Bounded.** Half-open connections, out-of-order data and waiting buffers have limits; the window offered
//!   follows the memory that the port really has left, of which each host has a share.
//!
//! A [`Stack`] lives on one lcore. Time is an argument, in ns; there is no clock, lock or thread in here, so the
//! same code runs in a simulation.
//!
//! ```
//! use dataplane::mem::{MemConfig, pair};
//! use hugepages::LendSlab;
//! use std::net::Ipv4Addr;
//! use tcpstack::{Dial, Event, Listen, Stack, StackConfig};
//!
//! let (pa, pb) = pair(&MemConfig::default());
//! let ip = |n| Ipv4Addr::new(10, 0, 0, n);
//! let mut a = Stack::new(StackConfig::new(ip(1), 24), pa, LendSlab::new(16))?;
//! let mut b = Stack::new(StackConfig::new(ip(2), 24), pb, LendSlab::new(16))?;
//! b.listen(Listen { addr: ip(2).into(), port: 988, backlog: 16 })?;
//! let flow = a.dial(1, Dial { local: (ip(1), 1023).into(), remote: (ip(2), 988).into() })?;
//! let mut heard = Vec::new();
//! for now in 1..20 {
//!     a.turn(now);
//!     b.turn(now);
//!     while let Some(e) = a.event() {
//!         if let Event::Opened { .. } = e {
//!             a.push(flow, b"hello", &[])?;
//!         }
//!     }
//!     while let Some(e) = b.event() {
//!         if let Event::Readable(f) = e {
//!             while let Some(x) = b.next(f) {
//!                 heard.extend_from_slice(x.bytes());
//!                 b.credit(f, x.len());
//!             }
//!         }
//!     }
//! }
//! assert_eq!(heard, b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Not here yet, each with its place: pacing belongs in [`sender`], where the window acts; HyStart++ (RFC 9406) would
//! end the first slow start of [`cc`] before it fills a queue; ECN needs both header fields and [`cc`].
#![deny(unsafe_code)]

pub mod addr;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod arp;
pub mod cc;
pub mod config;
pub mod cookie;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod csum;
mod ending;
pub mod engine;
mod event;
mod flow;
mod flows;
pub mod host;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod icmp;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod icmp_error;
mod io;
pub mod isn;
pub mod limit;
mod link;
mod listen;
mod memory;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod nd;
pub mod neighbour;
pub mod newreno;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod opts;
pub mod phantom;
pub mod phase;
pub mod pmtu;
pub mod prr;
pub mod rack;
pub mod reasm;
pub mod recover;
pub mod rtt;
pub mod sack;
pub mod scoreboard;
pub mod sender;
pub mod seq;
pub mod shadow;
pub mod siblings;
pub mod stack;
pub mod stamps;
pub mod stats;
pub mod table;
#[cfg(feature = "testing")]
pub mod testing;
pub mod timewait;
pub mod tlp;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod udp;
pub use ::wheel;
mod window;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod wire;

pub use cc::Congestion;
pub use config::{
    Counters, Dial, DialError, FlowCounters, HDR_MAX, KeepAlive, Listen, ListenError, PushError, StackConfig,
    StackError, USER_TIMEOUT,
};
pub use ending::{Close, CloseWhy};
pub use event::{Event, FlowId, Pos};
pub use link::Duplicate;
pub use phase::Phase;
pub use rtt::RtoLimits;
pub use siblings::{SiblingMsg, Stray};
pub use stack::{Stack, Work};
pub use stats::ConnStats;
pub use udp::{Datagram, Undelivered};
