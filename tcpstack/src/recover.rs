//! Loss recovery: three duplicate ACKs (RFC 5681 §3.2, NewReno of RFC 6582) or a time-out (RFC 6298 §5).
//!
//! ```text
//!            3rd duplicate ACK                        ACK >= recover
//!   Open ─────────────────────────> Fast ───────────────────────────> Open
//!     │                              │ time-out
//!     └──────── time-out ──────────> Timeout ── ACK >= recover ─────> Open
//! ```
//!
//! In Fast and Timeout a partial ACK sends the next hole. Without SACK the size of a hole is not known: the first
//! try is one segment, and as long as the ACK comes to exactly where the resent part ended (so what follows was
//! lost, too) the next try is twice as long, up to a limit. An ACK that jumps further starts at one segment again.
//!
//! SACK, RACK and congestion control belong beside this module: they refine which ranges are named lost
//! ([`Loss::step`]) and how much may be out (the window that [`crate::engine`] feeds to smoltcp).

use std::ops::Range;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A duplicate ACK: no data, no news, data outstanding.
    Dup,
    /// An ACK of new data.
    Ack,
    /// The retransmission timer ran out.
    Timeout,
}

/// Where the connection stands, in stream offsets and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ctx {
    /// First offset that is not acknowledged.
    pub una: u64,
    /// One past the highest offset ever sent.
    pub sent: u64,
    /// Segment size.
    pub mss: u32,
    /// Most to resend at a time.
    pub max: u32,
}

/// The state of recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing is known to be lost.
    Open {
        /// Duplicate ACKs in a row.
        dups: u8,
        /// End of the last recovery: duplicates below it are echoes of what was resent (RFC 6582 §3.2).
        recovered: u64,
    },
    /// Fast recovery.
    Fast {
        /// Recovery ends when this is acknowledged.
        recover: u64,
        /// End of what was resent.
        high: u64,
        /// Length of the last try.
        quantum: u32,
    },
    /// Recovery after a time-out.
    Timeout {
        /// As in Fast.
        recover: u64,
        /// As in Fast.
        high: u64,
        /// As in Fast.
        quantum: u32,
    },
}

impl Default for Loss {
    fn default() -> Loss {
        Loss::Open { dups: 0, recovered: 0 }
    }
}

/// Duplicate ACKs that mean a loss.
const DUP_THRESH: u8 = 3;

impl Loss {
    /// The transition: the new state, and what to resend now.
    pub fn step(self, ev: Event, c: &Ctx) -> (Loss, Option<Range<u64>>) {
        let first = |q: u32| (c.una + u64::from(q)).min(c.sent);
        match (self, ev) {
            (Loss::Open { dups, recovered }, Event::Dup) => {
                let dups = dups.saturating_add(1);
                if dups == DUP_THRESH && c.una >= recovered && c.sent > c.una {
                    let high = first(c.mss);
                    (Loss::Fast { recover: c.sent, high, quantum: c.mss }, Some(c.una..high))
                } else {
                    (Loss::Open { dups, recovered }, None)
                }
            }
            (Loss::Open { recovered, .. }, Event::Ack) => (Loss::Open { dups: 0, recovered }, None),
            (Loss::Fast { .. } | Loss::Timeout { .. }, Event::Dup) => (self, None),
            (Loss::Fast { recover, .. } | Loss::Timeout { recover, .. }, Event::Ack) if c.una >= recover => {
                (Loss::Open { dups: 0, recovered: recover }, None)
            }
            (Loss::Fast { recover, high, quantum }, Event::Ack) => {
                let (high, quantum, r) = Loss::next_hole(high, quantum, recover, c);
                (Loss::Fast { recover, high, quantum }, r)
            }
            (Loss::Timeout { recover, high, quantum }, Event::Ack) => {
                let (high, quantum, r) = Loss::next_hole(high, quantum, recover, c);
                (Loss::Timeout { recover, high, quantum }, r)
            }
            (_, Event::Timeout) if c.sent > c.una => {
                let high = first(c.mss);
                (Loss::Timeout { recover: c.sent, high, quantum: c.mss }, Some(c.una..high))
            }
            (_, Event::Timeout) => (self, None),
        }
    }

    fn next_hole(high: u64, quantum: u32, recover: u64, c: &Ctx) -> (u64, u32, Option<Range<u64>>) {
        if c.una < high {
            return (high, quantum, None); // the rest of the last try is still on its way
        }
        let quantum = if c.una == high { (quantum * 2).min(c.max.max(c.mss)) } else { c.mss };
        let end = (c.una + u64::from(quantum)).min(recover);
        (end, quantum, Some(c.una..end))
    }

    /// Whether something is being recovered.
    pub fn active(&self) -> bool {
        !matches!(self, Loss::Open { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn c(una: u64, sent: u64) -> Ctx {
        Ctx { una, sent, mss: 100, max: 350 }
    }

    #[test]
    fn three_duplicates_then_partial_acks_then_done() {
        let mut l = Loss::default();
        let mut log = String::new();
        for (ev, ctx) in [
            (Event::Dup, c(0, 1000)),
            (Event::Dup, c(0, 1000)),
            (Event::Dup, c(0, 1000)),
            (Event::Dup, c(0, 1000)),
            (Event::Ack, c(100, 1200)),  // exactly the resent part: the hole goes on
            (Event::Ack, c(200, 1200)),  // half of the second try
            (Event::Ack, c(300, 1200)),  // all of it
            (Event::Ack, c(900, 1200)),  // a jump: another hole
            (Event::Ack, c(1000, 1200)), // recovered
            (Event::Dup, c(1000, 1200)),
        ] {
            let (n, r) = l.step(ev, &ctx);
            l = n;
            log += &format!("{ev:?}@{} -> {n:?} {r:?}\n", ctx.una);
        }
        insta::assert_snapshot!(log, @"
        Dup@0 -> Open { dups: 1, recovered: 0 } None
        Dup@0 -> Open { dups: 2, recovered: 0 } None
        Dup@0 -> Fast { recover: 1000, high: 100, quantum: 100 } Some(0..100)
        Dup@0 -> Fast { recover: 1000, high: 100, quantum: 100 } None
        Ack@100 -> Fast { recover: 1000, high: 300, quantum: 200 } Some(100..300)
        Ack@200 -> Fast { recover: 1000, high: 300, quantum: 200 } None
        Ack@300 -> Fast { recover: 1000, high: 650, quantum: 350 } Some(300..650)
        Ack@900 -> Fast { recover: 1000, high: 1000, quantum: 100 } Some(900..1000)
        Ack@1000 -> Open { dups: 0, recovered: 1000 } None
        Dup@1000 -> Open { dups: 1, recovered: 1000 } None
        ");
    }

    #[test]
    fn duplicates_below_the_last_recovery_are_echoes() {
        let mut l = Loss::Open { dups: 0, recovered: 500 };
        for _ in 0..5 {
            let (n, r) = l.step(Event::Dup, &c(400, 1000));
            assert_eq!(r, None);
            l = n;
        }
    }

    #[test]
    fn a_timeout_takes_over_from_anywhere_and_needs_something_outstanding() {
        let (l, r) = Loss::default().step(Event::Timeout, &c(10, 40));
        assert_eq!((l, r), (Loss::Timeout { recover: 40, high: 40, quantum: 100 }, Some(10..40)));
        let fast = Loss::Fast { recover: 900, high: 100, quantum: 100 };
        let (l, r) = fast.step(Event::Timeout, &c(0, 1000));
        assert_eq!((l, r), (Loss::Timeout { recover: 1000, high: 100, quantum: 100 }, Some(0..100)));
        assert!(l.active());
        assert_eq!(Loss::default().step(Event::Timeout, &c(40, 40)), (Loss::default(), None));
    }
}
