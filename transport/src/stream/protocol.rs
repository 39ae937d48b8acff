//! A protocol on streams that is not LNet's: it stands beside socklnd, with a port or with addresses of its own.

use super::{Action, Happened};

/// A protocol. It names dials and loans as it likes, below 2^44: whoever joins it with others of the shard keeps the
/// names apart.
pub trait Protocol {
    /// Takes what happened to its streams at `now`, in ns.
    fn handle(&mut self, now: u64, happened: Happened<'_>);

    /// The next thing to do.
    fn act(&mut self) -> Option<Action>;

    /// Time at which [`Protocol::timer`] is due, in ns; `None` when nothing is timed.
    fn deadline(&self) -> Option<u64>;

    /// The time of [`Protocol::deadline`] has come.
    fn timer(&mut self, now: u64);

    /// The node goes down: connections are to be closed, and none made any more.
    fn shut_down(&mut self, now: u64);

    /// Shows `each` the names and values of what it counts.
    fn counts(&self, _each: &mut dyn FnMut(&'static str, u64)) {}
}
