//! The carrier of a connection's queue: how zero-copy ACKs ride and join (docs/protocol/socklnd.md §6.4).
//!
//! The *carrier* is the first queued message that can still take or give an ACK; the state is what it is, the events
//! are what is queued. BEHIND: the carrier moves on to the message behind it, and then is what that is (`Is`).
//!
//! On V2, and on V3 and V4 everywhere but on BULK_IN, ACKs ride on messages:
//!
//! ```text
//!           Message                   any ACK / it rides
//!    NONE ----------> MESSAGE ----------------------------> BEHIND
//!     | |              '-- Message / appended
//!     | | Apart             Message / takes the NOOP's ACK and its place
//!     | '------------> SINGLE ------------------------------> BEHIND
//!     |                '-- any ACK / appended
//!     |   Keepalive         Message / takes the NOOP's place
//!     '--------------> ALIVE -------------------------------> BEHIND
//!                      '-- any ACK / appended
//! ```
//!
//! On BULK_IN of V3 and V4 there are only NOOPs, and they join:
//!
//! ```text
//!           Keepalive            Apart                Near              Between, Above, Below
//!    NONE -----------> ALIVE ----------> SINGLE ---------------> PAIR ----------------> RANGE --.
//!     |                                  ^    |                   |                      |  ^   | Above,
//!     |            Apart                 |    | Apart / joins,    | Apart / appended     |  '---' Below
//!     '----------------------------------'    | and is closed     |                      |
//!                                             v                   v                      v
//!                                           BEHIND              BEHIND                 BEHIND
//!    ALIVE, SINGLE, PAIR, RANGE: Keepalive / dropped.   SINGLE, PAIR, RANGE: Known / dropped.
//! ```
//!
//! A message that leaves is never changed: as the carrier leaves (`Left`), the state becomes that of the one behind.

use super::version::Carry;

fsm::fsm! {
    /// Kinds of carriers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum TxCarrier {
        /// There is none.
        None,
        /// An LNet message whose ACK word is free.
        Message,
        /// A NOOP that is a keepalive: words (0, 1).
        Alive,
        /// A NOOP with one ACK: words (0, k).
        Single,
        /// A NOOP with two: words (larger, smaller).
        Pair,
        /// A NOOP with all from the first to the last: words (first, last).
        Range,
        /// The carrier has moved on to the message behind, which is looked at next.
        Behind,
    }

    /// Events of the queue.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum CarrierEvent {
        /// An LNet message is queued.
        Message,
        /// A keepalive is queued.
        Keepalive,
        /// An ACK that the carrier has already.
        Known,
        /// An ACK at most 2 from a single one.
        Near,
        /// The ACK between the two of a pair.
        Between,
        /// The ACK behind the last of two neighbours, or of a range.
        Above,
        /// The ACK before the first of them.
        Below,
        /// Any other ACK.
        Apart,
        /// The carrier leaves the queue.
        Left,
        /// The message behind is that, or there is none.
        Is(TxCarrier),
    }

    /// Ways to queue a message or an ACK.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum CarrierAction {
        /// It goes to the tail. Where the carrier moves on, it may be the next.
        Append,
        /// It goes to the tail and is the carrier.
        Carry,
        /// The ACK goes into the message's word.
        Ride,
        /// The message takes the NOOP's ACK and its place.
        TakeOver,
        /// The message takes the NOOP's place; the message itself is proof of life.
        TakePlace,
        /// The ACK joins the carrier's words.
        Join,
        /// Nothing: it is said already.
        Drop,
    }

    table TxCarrier + CarrierEvent => CarrierAction by Carry {
        start None;
        else "an ACK is dropped: V1 has none; an LNet message is appended, but none is given to a BULK_IN of V3 (socklnd.md §7)";
        Append {
            None + Message => same, Append;
        }
        Ride {
            None + Message => Message, Carry;
            None + Keepalive => Alive, Carry;
            None + Apart => Single, Carry;
            Message + Message => same, Append;
            Message + Keepalive | Apart => Behind, Ride;
            Alive + Message => Behind, TakePlace;
            Single + Message => Behind, TakeOver;
            Alive | Single + Keepalive | Apart => same, Append;
            Message | Alive | Single + Left => Behind, Drop;
            Behind + Is(next) => { next }, Drop;
        }
        // The rows of socklnd.md §6.4.
        Merge {
            None + Keepalive => Alive, Carry;
            None + Apart => Single, Carry;
            Alive | Single | Pair | Range + Keepalive => same, Drop;
            Alive + Apart => Single, Join;
            Single | Pair | Range + Known => same, Drop;
            Single + Near => Pair, Join;
            Single + Apart => Behind, Join;
            Pair + Between | Above | Below => Range, Join;
            Range + Above | Below => same, Join;
            Pair | Range + Apart => Behind, Append;
            Alive | Single | Pair | Range + Left => Behind, Drop;
            Behind + Is(next) => { next }, Drop;
        }
    }
}

impl TxCarrier {
    /// Relation of the ACK `k` to a carrier with these words.
    pub(super) fn relation(self, (c0, c1): (u64, u64), k: u64) -> CarrierEvent {
        // All from `lo` to `hi`, neighbours or a range.
        let beside = |lo: u64, hi: u64| match k {
            k if lo <= k && k <= hi => CarrierEvent::Known,
            k if hi.checked_add(1) == Some(k) => CarrierEvent::Above,
            k if k.checked_add(1) == Some(lo) => CarrierEvent::Below,
            _ => CarrierEvent::Apart,
        };
        match self {
            TxCarrier::None | TxCarrier::Message | TxCarrier::Alive | TxCarrier::Behind => {
                CarrierEvent::Apart
            }
            TxCarrier::Single if k == c1 => CarrierEvent::Known,
            TxCarrier::Single if k.abs_diff(c1) <= 2 => CarrierEvent::Near,
            TxCarrier::Single => CarrierEvent::Apart,
            TxCarrier::Pair if k == c0 || k == c1 => CarrierEvent::Known,
            TxCarrier::Pair if c0 - c1 == 2 && k == c1 + 1 => CarrierEvent::Between,
            TxCarrier::Pair if c0 - c1 == 1 => beside(c1, c0),
            TxCarrier::Pair => CarrierEvent::Apart,
            TxCarrier::Range => beside(c0, c1),
        }
    }

    /// The words of a carrier in this state that `k` has joined.
    pub(super) fn joined(self, (c0, c1): (u64, u64), k: u64) -> (u64, u64) {
        match self {
            TxCarrier::Alive => (0, k),
            TxCarrier::Single => (k.max(c1), k.min(c1)),
            _ => (c0.min(c1).min(k), c0.max(c1).max(k)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<TxCarrier>(), @r"
        Append
          None + Message -> None, Append
        Ride
          None + Message -> Message, Carry
          None + Keepalive -> Alive, Carry
          None + Apart -> Single, Carry
          Message + Message -> Message, Append
          Message + Keepalive -> Behind, Ride
          Message + Apart -> Behind, Ride
          Message + Left -> Behind, Drop
          Alive + Message -> Behind, TakePlace
          Alive + Keepalive -> Alive, Append
          Alive + Apart -> Alive, Append
          Alive + Left -> Behind, Drop
          Single + Message -> Behind, TakeOver
          Single + Keepalive -> Single, Append
          Single + Apart -> Single, Append
          Single + Left -> Behind, Drop
          Behind + Is -> next, Drop
        Merge
          None + Keepalive -> Alive, Carry
          None + Apart -> Single, Carry
          Alive + Keepalive -> Alive, Drop
          Alive + Apart -> Single, Join
          Alive + Left -> Behind, Drop
          Single + Keepalive -> Single, Drop
          Single + Known -> Single, Drop
          Single + Near -> Pair, Join
          Single + Apart -> Behind, Join
          Single + Left -> Behind, Drop
          Pair + Keepalive -> Pair, Drop
          Pair + Known -> Pair, Drop
          Pair + Between -> Range, Join
          Pair + Above -> Range, Join
          Pair + Below -> Range, Join
          Pair + Apart -> Behind, Append
          Pair + Left -> Behind, Drop
          Range + Keepalive -> Range, Drop
          Range + Known -> Range, Drop
          Range + Above -> Range, Join
          Range + Below -> Range, Join
          Range + Apart -> Behind, Append
          Range + Left -> Behind, Drop
          Behind + Is -> next, Drop
        otherwise: an ACK is dropped: V1 has none; an LNet message is appended, but none is given to a BULK_IN of V3 (socklnd.md §7)
        ");
    }

    /// Words, the ACK and how it stands to them; and what the words are when it has joined.
    #[test]
    fn relations() {
        use {CarrierEvent as E, TxCarrier as S};
        let top = u64::MAX;
        for (s, words, k, want, joined) in [
            (S::Alive, (0, 1), 9, E::Apart, (0, 9)),
            (S::Single, (0, 5), 5, E::Known, (5, 5)),
            (S::Single, (0, 5), 7, E::Near, (7, 5)),
            (S::Single, (0, 5), 3, E::Near, (5, 3)),
            (S::Single, (0, 5), 8, E::Apart, (8, 5)),
            (S::Single, (0, top), top - 2, E::Near, (top, top - 2)),
            (S::Pair, (7, 5), 6, E::Between, (5, 7)),
            (S::Pair, (7, 5), 5, E::Known, (5, 7)),
            (S::Pair, (7, 5), 8, E::Apart, (5, 8)),
            (S::Pair, (6, 5), 7, E::Above, (5, 7)),
            (S::Pair, (6, 5), 4, E::Below, (4, 6)),
            (S::Pair, (6, 5), 8, E::Apart, (5, 8)),
            (S::Pair, (top, top - 1), top - 2, E::Below, (top - 2, top)),
            (S::Range, (5, 9), 7, E::Known, (5, 9)),
            (S::Range, (5, 9), 10, E::Above, (5, 10)),
            (S::Range, (5, 9), 4, E::Below, (4, 9)),
            (S::Range, (5, 9), 11, E::Apart, (5, 11)),
            (S::Range, (5, top), 4, E::Below, (4, top)),
            (S::Range, (5, top), 2, E::Apart, (2, top)),
        ] {
            assert_eq!((s.relation(words, k), s.joined(words, k)), (want, joined), "{s:?} {words:?} {k}");
        }
    }
}
