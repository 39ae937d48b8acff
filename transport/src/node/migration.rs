//! Migration: how the peers of a bucket move from one home to another while their streams run.
//!
//! The old home proposes; the new one agrees or refuses. When all mail of the old home is out, it packs the peers
//! ([`Migrating`]) and from then on passes on whatever still comes to it. Every other shard changes its map when it is
//! told, and answers with a marker in the same ring as what it had sent before: when all markers are in, nothing comes
//! by the old way any more, and the new home is told so. Until then it holds back what was sent to it at once, and
//! opens it behind what came by the old way. So each stream's events keep their order, and nothing is lost or comes
//! twice, whatever happens to the connections meanwhile.
//!
//! ```text
//!   old home                         new home                        every other shard
//!            ── Propose ──────────>                                    (sends to the old home)
//!            <─────────── Agree ──
//!   packs    ── Commit ───────────>  takes in, changes its map, holds
//!            <────────── Marker ──
//!            ── Moved ──────────────────────────────────────────────>  changes its map
//!            <───────────────────────────────────────────── Marker ──  (sends to the new home)
//!            ── passes on ────────>  holds
//!   all in   ── AllIn ────────────>  opens what it held
//! ```
//!
//! A shard has at most one bucket on its way out, and one on its way in. The two sides' tables:
//!
//! ```text
//!   out:  IDLE ── Propose ──> ASKED ── Agree ──> READY ── Commit ──> SETTLING ── AllIn ──> IDLE
//!                               │ Refuse           │ Refuse, Cancel
//!                               '──> IDLE          '──> IDLE
//!   in:   IDLE ── Propose ──> PROMISED ── Commit ──> HOLDING ── AllIn ──> IDLE
//!                                │ Cancel
//!                                '──> IDLE
//! ```

use crate::node::Migrating;
use crate::stream::{Bucket, CloseWhy, ConnId, ShardId};
use hugepages::RxLent;

/// Time limit for the old home's rings to drain, in ns; then it gives the move up.
pub(super) const PATIENCE: u64 = 1_000_000_000;

fsm::fsm! {
    /// The old home's state.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum MigrateOut {
        /// No bucket is on its way out.
        Idle,
        /// The new home has been asked.
        Asked,
        /// It has agreed.
        Ready,
        /// The bucket is gone; markers are out.
        Settling,
    }

    /// Events that change it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum OutEvent {
        /// The balancer wants a move.
        Propose,
        /// The new home agrees.
        Agree,
        /// It refuses, or takes its word back.
        Refuse,
        /// The bucket cannot go now.
        Cancel,
        /// The bucket has gone.
        Commit,
        /// All markers are in.
        AllIn,
    }

    table MigrateOut + OutEvent {
        start Idle;
        else "the event says nothing";
        Idle + Propose => Asked;
        Asked + Agree => Ready;
        Asked | Ready + Refuse => Idle;
        Ready + Cancel => Idle;
        Ready + Commit => Settling;
        Settling + AllIn => Idle;
    }
}

fsm::fsm! {
    /// The new home's state.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum MigrateIn {
        /// No bucket is on its way in.
        Idle,
        /// It has agreed.
        Promised,
        /// The bucket is here; what was sent here at once is held.
        Holding,
    }

    /// Events that change it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum InEvent {
        /// The old home proposes.
        Propose,
        /// It takes that back.
        Cancel,
        /// The bucket has come.
        Commit,
        /// Nothing more comes by the old way.
        AllIn,
    }

    table MigrateIn + InEvent {
        start Idle;
        else "the event says nothing, or is refused";
        Idle + Propose => Promised;
        Promised + Cancel => Idle;
        Promised + Commit => Holding;
        Holding + AllIn => Idle;
    }
}

/// Messages of two shards about a move.
pub(super) enum MigrationMsg {
    Propose(Bucket),
    Agree(Bucket),
    Refuse(Bucket),
    Cancel(Bucket),
    /// With the bytes of its streams that had not been taken.
    Commit(Box<Migrating>, Vec<MigratingStream>),
    Moved(Bucket, ShardId),
    Marker(Bucket),
    AllIn(Bucket),
    /// Share of the sender's time that was busy of late, in thousandths.
    Busy(u32),
}

/// The end of a stream that another lcore owns, as it lay at the old home.
pub(super) struct MigratingStream {
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
    fn migrate_out_transitions() {
        insta::assert_snapshot!(fsm::listing::<MigrateOut>(), @r"
        Idle + Propose -> Asked
        Asked + Agree -> Ready
        Asked + Refuse -> Idle
        Ready + Refuse -> Idle
        Ready + Cancel -> Idle
        Ready + Commit -> Settling
        Settling + AllIn -> Idle
        otherwise: the event says nothing
        ");
    }

    #[test]
    fn migrate_in_transitions() {
        insta::assert_snapshot!(fsm::listing::<MigrateIn>(), @r"
        Idle + Propose -> Promised
        Promised + Cancel -> Idle
        Promised + Commit -> Holding
        Holding + AllIn -> Idle
        otherwise: the event says nothing, or is refused
        ");
    }
}
