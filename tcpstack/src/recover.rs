//! The state of loss recovery.
//!
//! ```text
//!            gap                    loss
//!   Open ──────────> Disorder ───────────────> Recovery ───┐ timeout
//!    ^ ^              │   │  ^                  │  │       v
//!    │ └─── whole ────┘   │  │    done (gap)    │  │      Loss ──┐
//!    │                    │  └──────────────────┘  │       │ │   │ timeout
//!    │                    └─────── timeout ────────┼──────>│ │<──┘
//!    └──────────────── done, or undone (whole) ────┴───────┘
//! ```
//!
//! * **Open**: everything comes in order. A loss, or a time-out, may also come straight from here.
//! * **Disorder**: the peer holds something out of order (SACK, or duplicate ACKs); nothing is deemed lost yet.
//! * **Recovery**: something is lost; RACK, a probe or duplicate ACKs told (RFC 6675, 8985). It is sent again within
//!   what [`crate::prr`] allows. Ends when everything sent before it began is acknowledged.
//! * **Loss**: the timer ran out (RFC 6298 §5.4). Everything not sacked is sent again, in slow start. Ends likewise.
//!
//! Either may prove needless: then it is undone, and the window is what it was.

/// The state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum State {
    /// Nothing is missing.
    #[default]
    Open,
    /// Something came out of order.
    Disorder,
    /// Losses are being repaired.
    Recovery,
    /// So are all that a time-out declared.
    Loss,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something arrived behind a gap.
    Gap,
    /// Nothing is held behind a gap any more.
    Whole,
    /// Something was deemed lost.
    Lost,
    /// The retransmission timer ran out.
    Timeout,
    /// What was out when recovery began is acknowledged, or recovery was undone; `gap` says that something is still
    /// held behind a gap.
    Done {
        /// Whether there is one.
        gap: bool,
    },
}

impl State {
    /// The transition.
    #[must_use]
    pub fn next(self, ev: Event) -> State {
        match (self, ev) {
            (_, Event::Timeout) => State::Loss,
            (State::Open, Event::Gap) => State::Disorder,
            (State::Disorder, Event::Whole) => State::Open,
            (State::Open | State::Disorder, Event::Lost) => State::Recovery,
            (State::Recovery | State::Loss, Event::Done { gap: false }) => State::Open,
            (State::Recovery | State::Loss, Event::Done { gap: true }) => State::Disorder,
            (s, _) => s,
        }
    }

    /// Whether losses are being repaired.
    pub fn recovering(self) -> bool {
        matches!(self, State::Recovery | State::Loss)
    }

    /// Name, for people.
    pub fn name(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Disorder => "disorder",
            State::Recovery => "recovery",
            State::Loss => "loss",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_transition() {
        let mut log = String::new();
        for s in [State::Open, State::Disorder, State::Recovery, State::Loss] {
            for ev in [
                Event::Gap,
                Event::Whole,
                Event::Lost,
                Event::Timeout,
                Event::Done { gap: false },
                Event::Done { gap: true },
            ] {
                let n = s.next(ev);
                if n != s {
                    log += &format!("{:<8} {ev:?} -> {}\n", s.name(), n.name());
                }
            }
        }
        insta::assert_snapshot!(log, @r"
        open     Gap -> disorder
        open     Lost -> recovery
        open     Timeout -> loss
        disorder Whole -> open
        disorder Lost -> recovery
        disorder Timeout -> loss
        recovery Timeout -> loss
        recovery Done { gap: false } -> open
        recovery Done { gap: true } -> disorder
        loss     Done { gap: false } -> open
        loss     Done { gap: true } -> disorder
        ");
    }
}
