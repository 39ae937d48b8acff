//! Answers that may never come: what a client does when nothing ends any more.
//!
//! A router or a peer that dies takes with it what it had accepted. LNet tells no error of that: a GET whose REPLY is lost, and a PUT
//! whose ACK is, end with the transaction's time-out, minutes later (docs/protocol/upper.md §3). So a client that waits for them waits
//! for nothing. When no operation has ended well for a while, those that are out are doubted: another is begun beside them, then one
//! more now and then, until one ends well.

/// Rules of a client that goes on without answers.
#[derive(Clone, Copy, Debug)]
pub struct Losing {
    /// Operations that may be out beside those in flight.
    pub spare: u64,
    /// Time after which one that is doubted is given up while others end well, in ns.
    pub patience: u64,
}

/// Shortest time without an end after which answers are doubted, in ns.
const STALL: u64 = 1_000_000_000;
/// Time for which answers are waited for when the time to begin is over and none has ever come, in ns.
const FIRST: u64 = 2_000_000_000;

/// Ends of operations so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// Time of the latest good end, in ns.
    good: Option<u64>,
    /// Longest time that one took whose end was not doubted, in ns.
    longest: u64,
    /// Time at which answers are doubted, in ns.
    doubt: u64,
}

impl Losing {
    /// Time without an end after which answers are doubted, in ns: a slow network is no dead one.
    fn stall(&self, pace: &Pace) -> u64 {
        pace.longest.saturating_mul(4).max(STALL).min(self.patience / 2)
    }

    /// An operation has ended well; `took` is its time in ns, where that says something of the network.
    pub(super) fn ended(&self, pace: &mut Pace, now: u64, took: Option<u64>) {
        pace.longest = pace.longest.max(took.unwrap_or(0));
        pace.good = Some(now);
        pace.doubt = now + self.stall(pace);
    }

    /// One has begun, with none awaited before it. The longer nothing ends, the seldomer another is tried.
    pub(super) fn begun(&self, pace: &mut Pace, now: u64) {
        let silent = pace.good.map_or(0, |t| now.saturating_sub(t));
        pace.doubt = now + self.stall(pace).max(silent / 4);
    }

    /// Whether answers are to be doubted. Before the first there is nothing to compare with.
    pub(super) fn doubts(&self, pace: &Pace, now: u64) -> bool {
        pace.good.is_some() && now >= pace.doubt
    }

    /// Start of the latest operation that is given up if it is doubted, in ns.
    pub(super) fn given_up(&self, pace: &Pace, now: u64) -> Option<u64> {
        pace.good.and(now.checked_sub(self.patience.max(pace.longest.saturating_mul(4))))
    }

    /// Whether answers are waited for no longer, when the time to begin was over at `end`, in ns.
    pub(super) fn is_past(&self, pace: &Pace, now: u64, end: u64) -> bool {
        let grace = pace.good.map_or(FIRST.min(self.patience), |_| self.stall(pace));
        now.saturating_sub(end.max(pace.good.unwrap_or(0))) >= grace
    }
}
