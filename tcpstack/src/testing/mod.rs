//! Stacks on a simulated network, in virtual time (feature `testing`).
//!
//! A [`Scenario`] is all there is to a run: the network, the stacks' configurations, what the applications do, and
//! one seed. [`run`] plays it and returns what it came to, or in words what went wrong. It checks as it goes: each
//! byte at its place, each lending let go once, smoltcp never retransmitting, everything home at the end.
//!
//! ```
//! use tcpstack::testing::{Conn, Scenario, Writer, run};
//!
//! let bulk = Conn { writers: [Writer::bulk(300_000), Writer::Silent], ..Conn::default() };
//! let s = Scenario::new(1).with_link(25_000_000_000, 40_000, 9000).with_loss(0.01).with(bulk);
//! let o = run(&s)?;
//! assert_eq!(o.received, [0, 300_000]);
//! # Ok::<(), String>(())
//! ```

mod app;
mod oracle;
mod random;
mod scenario;
mod world;

pub use app::{Reader, Writer};
pub use oracle::{Oracle, Resends};
pub use random::random;
pub use scenario::{Conn, MS, Pause, SEC, Scenario, Stop, US};
pub use world::{Outcome, run};
