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

fsm::fsm! {
    /// A state of loss recovery.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum State {
        /// Nothing is missing.
        Open,
        /// Something came out of order.
        Disorder,
        /// Losses are being repaired.
        Recovery,
        /// So are all that a time-out declared.
        Loss,
    }

    /// An event that changes it.
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
        /// All that was out when recovery began is acknowledged, or recovery was undone; `gap` says that something is
        /// still held behind a gap.
        Done {
            /// Whether there is one.
            gap: bool,
        },
    }

    table State + Event {
        start Open;
        else "the state stays";
        Open + Gap => Disorder;
        Disorder + Whole => Open;
        Open | Disorder + Lost => Recovery;
        _ + Timeout => Loss;
        Recovery | Loss + Done { gap: false } => Open;
        Recovery | Loss + Done { gap: true } => Disorder;
    }
}

impl State {
    /// Whether losses are being repaired.
    #[inline]
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
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<State>(), @r"
        Open + Gap -> Disorder
        Open + Lost -> Recovery
        Open + Timeout -> Loss
        Disorder + Whole -> Open
        Disorder + Lost -> Recovery
        Disorder + Timeout -> Loss
        Recovery + Timeout -> Loss
        Recovery + Done { gap: false } -> Open
        Recovery + Done { gap: true } -> Disorder
        Loss + Timeout -> Loss
        Loss + Done { gap: false } -> Open
        Loss + Done { gap: true } -> Disorder
        otherwise: the state stays
        ");
    }
}
