//! How the peers of a bucket move from one home to another while their streams run.
//!
//! The old home asks; the new one agrees or refuses. When all that the old home has told others is out, it packs
//! ([`Luggage`]) and from then on passes on whatever still comes to it. Every other shard changes its map when it is
//! told, and answers with a marker in the same ring as what it had sent before: when all markers are in, nothing comes
//! by the old way any more, and the new home is told so. Until then it holds back what was sent to it at once, and
//! opens it behind what came by the old way. So each stream's events keep their order, and nothing is lost or comes
//! twice, whatever happens to the connections meanwhile.
//!
//! ```text
//!   old home                         new home                        every other shard
//!            ── Ask ──────────────>                                    (sends to the old home)
//!            <───────────── Yes ──
//!   packs    ── Adopt ────────────>  adopts, changes its map, holds
//!            <────────── Marker ──
//!            ── Moved ──────────────────────────────────────────────>  changes its map
//!            <───────────────────────────────────────────── Marker ──  (sends to the new home)
//!            ── passes on ────────>  holds
//!   all in   ── AllIn ────────────>  opens what it held
//! ```
//!
//! A shard leads at most one bucket out and lets one in at a time. The two sides' tables:
//!
//! ```text
//!   leaving:   IDLE ── Propose ──> ASKED ── Yes ──> READY ── Parted ──> SETTLING ── AllIn ──> IDLE
//!                                    │ No             │ No, Off
//!                                    '──> IDLE        '──> IDLE
//!   arriving:  IDLE ── Ask ──> PROMISED ── Adopt ──> HOLDING ── AllIn ──> IDLE
//!                                 │ Cancel
//!                                 '──> IDLE
//! ```

use crate::node::Luggage;
use crate::stream::{Bucket, CloseWhy, ConnId, ShardId};
use hugepages::RxLent;

/// How long the old home may wait for its rings to drain before it gives a move up, in ns.
pub(super) const PATIENCE: u64 = 1_000_000_000;

fsm::fsm! {
    /// Where the old home stands.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Leave {
        /// Nothing leaves.
        Idle,
        /// The new home has been asked.
        Asked,
        /// It has agreed.
        Ready,
        /// The bucket is gone; markers are out.
        Settling,
    }

    /// What moves it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum LeaveEvent {
        /// The balancer wants a move.
        Propose,
        /// The new home agrees.
        Yes,
        /// It refuses, or takes its word back.
        No,
        /// The bucket cannot go now.
        Off,
        /// It has gone.
        Parted,
        /// All markers are in.
        AllIn,
    }

    table Leave + LeaveEvent {
        start Idle;
        else "the event says nothing";
        Idle + Propose => Asked;
        Asked + Yes => Ready;
        Asked | Ready + No => Idle;
        Ready + Off => Idle;
        Ready + Parted => Settling;
        Settling + AllIn => Idle;
    }
}

fsm::fsm! {
    /// Where the new home stands.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Arrive {
        /// Nothing comes.
        Idle,
        /// It has agreed.
        Promised,
        /// The bucket is here; what was sent here at once is held.
        Holding,
    }

    /// What moves it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum ArriveEvent {
        /// The old home asks.
        Ask,
        /// It has thought better of it.
        Cancel,
        /// Here the bucket is.
        Adopt,
        /// Nothing more comes by the old way.
        AllIn,
    }

    table Arrive + ArriveEvent {
        start Idle;
        else "the event says nothing, or is refused";
        Idle + Ask => Promised;
        Promised + Cancel => Idle;
        Promised + Adopt => Holding;
        Holding + AllIn => Idle;
    }
}

/// What two shards say to each other about a move.
pub(super) enum MoveMsg {
    Ask(Bucket),
    Yes(Bucket),
    No(Bucket),
    Cancel(Bucket),
    /// With the bytes of its streams that had not been taken.
    Adopt(Box<Luggage>, Vec<StreamLeft>),
    Moved(Bucket, ShardId),
    Marker(Bucket),
    AllIn(Bucket),
    /// How busy the sender was of late, in thousandths.
    Busy(u32),
}

/// The end of a stream that another lcore owns, as it lay at the old home.
pub(super) struct StreamLeft {
    pub(super) conn: ConnId,
    pub(super) rx: Vec<RxLent>,
    pub(super) fin: bool,
    pub(super) closed: Option<CloseWhy>,
    pub(super) closing: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaving_transitions() {
        insta::assert_snapshot!(fsm::listing::<Leave>(), @r"
        Idle + Propose -> Asked
        Asked + Yes -> Ready
        Asked + No -> Idle
        Ready + No -> Idle
        Ready + Off -> Idle
        Ready + Parted -> Settling
        Settling + AllIn -> Idle
        otherwise: the event says nothing
        ");
    }

    #[test]
    fn arriving_transitions() {
        insta::assert_snapshot!(fsm::listing::<Arrive>(), @r"
        Idle + Ask -> Promised
        Promised + Cancel -> Idle
        Promised + Adopt -> Holding
        Holding + AllIn -> Idle
        otherwise: the event says nothing, or is refused
        ");
    }
}
