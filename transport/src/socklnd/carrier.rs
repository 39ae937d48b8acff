//! The carrier of a connection's queue: how zero-copy ACKs ride and join (docs/protocol/socklnd.md §6.4).
//!
//! The *carrier* is the first queued message that can still take or give an ACK; the state is what it is, the events
//! are what is queued. *behind*: the carrier moves on to the message behind it, or there is none.
//!
//! On V2, and on V3 and V4 everywhere but on BULK_IN, ACKs ride on messages:
//!
//! ```text
//!           Message                   any ACK / it rides
//!    NONE ----------> MESSAGE ----------------------------> behind
//!     | |              '-- Message / appended
//!     | | Apart             Message / takes the NOOP's ACK and its place
//!     | '------------> SINGLE ------------------------------> behind
//!     |                '-- any ACK / appended
//!     |   Keepalive         Message / takes the NOOP's place
//!     '--------------> ALIVE -------------------------------> behind
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
//!                                           behind              behind                 behind
//!    ALIVE, SINGLE, PAIR, RANGE: Keepalive / dropped.   SINGLE, PAIR, RANGE: Known / dropped.
//! ```
//!
//! A message that leaves is never changed: as the carrier leaves (`Left`), the state is that of the one behind.

use super::version::Carry;

/// What the carrier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
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
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
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
}

/// What is done with what is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
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

/// The state that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// The carrier stays where it is.
    Is(Carrier),
    /// The carrier moves on.
    Behind,
}

/// The transition table.
pub(super) fn next(carry: Carry, state: Carrier, event: Ask) -> (To, Act) {
    use {Act as A, Ask as E, Carrier as S};
    match (carry, state, event) {
        (_, _, E::Left) => (To::Behind, A::Drop),
        (_, S::None, E::Keepalive) if carry != Carry::Append => (To::Is(S::Alive), A::Carry),
        (Carry::Ride, S::None, E::Message) => (To::Is(S::Message), A::Carry),
        (Carry::Ride, S::Message, E::Message) => (To::Is(state), A::Append),
        (Carry::Ride, S::Alive, E::Message) => (To::Behind, A::TakePlace),
        (Carry::Ride, _, E::Message) => (To::Behind, A::TakeOver),
        (Carry::Ride, S::None, _) => (To::Is(S::Single), A::Carry),
        (Carry::Ride, S::Message, _) => (To::Behind, A::Ride),
        (Carry::Ride, _, _) => (To::Is(state), A::Append),
        // The rows of socklnd.md §6.4, in its order.
        (Carry::Merge, S::None, E::Apart) => (To::Is(S::Single), A::Carry),
        (Carry::Merge, _, E::Keepalive) => (To::Is(state), A::Drop),
        (Carry::Merge, S::Alive, E::Apart) => (To::Is(S::Single), A::Join),
        (Carry::Merge, _, E::Known) => (To::Is(state), A::Drop),
        (Carry::Merge, S::Single, E::Near) => (To::Is(S::Pair), A::Join),
        (Carry::Merge, S::Single, E::Apart) => (To::Behind, A::Join),
        (Carry::Merge, S::Pair, E::Between | E::Above | E::Below) => (To::Is(S::Range), A::Join),
        (Carry::Merge, S::Range, E::Above | E::Below) => (To::Is(S::Range), A::Join),
        (Carry::Merge, S::Pair | S::Range, E::Apart) => (To::Behind, A::Append),
        // V1 has no ACKs; and no LNet message is ever given to a BULK_IN of V3 (socklnd.md §7).
        (Carry::Append | Carry::Merge, _, E::Message) => (To::Is(state), A::Append),
        (Carry::Append | Carry::Merge, _, _) => (To::Is(state), A::Drop),
    }
}

impl Carrier {
    /// How the ACK `k` stands to a carrier with these words.
    pub(super) fn relation(self, (c0, c1): (u64, u64), k: u64) -> Ask {
        // All from `lo` to `hi`, neighbours or a range.
        let beside = |lo: u64, hi: u64| match k {
            k if lo <= k && k <= hi => Ask::Known,
            k if hi.checked_add(1) == Some(k) => Ask::Above,
            k if k.checked_add(1) == Some(lo) => Ask::Below,
            _ => Ask::Apart,
        };
        match self {
            Carrier::None | Carrier::Message | Carrier::Alive => Ask::Apart,
            Carrier::Single if k == c1 => Ask::Known,
            Carrier::Single if k.abs_diff(c1) <= 2 => Ask::Near,
            Carrier::Single => Ask::Apart,
            Carrier::Pair if k == c0 || k == c1 => Ask::Known,
            Carrier::Pair if c0 - c1 == 2 && k == c1 + 1 => Ask::Between,
            Carrier::Pair if c0 - c1 == 1 => beside(c1, c0),
            Carrier::Pair => Ask::Apart,
            Carrier::Range => beside(c0, c1),
        }
    }

    /// The words of a carrier in this state that `k` has joined.
    pub(super) fn joined(self, (c0, c1): (u64, u64), k: u64) -> (u64, u64) {
        match self {
            Carrier::Alive => (0, k),
            Carrier::Single => (k.max(c1), k.min(c1)),
            _ => (c0.min(c1).min(k), c0.max(c1).max(k)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [Carrier; 6] = {
        use Carrier as S;
        [S::None, S::Message, S::Alive, S::Single, S::Pair, S::Range]
    };
    const ACKS: [Ask; 6] = [Ask::Known, Ask::Near, Ask::Between, Ask::Above, Ask::Below, Ask::Apart];

    /// What can come up: elsewhere than on BULK_IN no ACK is compared with others, and each state has the relations
    /// that `relation` gives.
    fn possible(carry: Carry, s: Carrier, e: Ask) -> bool {
        let noop = !matches!(s, Carrier::None | Carrier::Message);
        match carry {
            Carry::Append => s == Carrier::None && e == Ask::Message,
            Carry::Ride => {
                !matches!(s, Carrier::Pair | Carrier::Range) && (!ACKS.contains(&e) || e == Ask::Apart)
            }
            Carry::Merge => match e {
                Ask::Message => false,
                Ask::Keepalive | Ask::Apart => s != Carrier::Message,
                Ask::Left => noop,
                Ask::Known => noop && s != Carrier::Alive,
                Ask::Near => s == Carrier::Single,
                Ask::Between => s == Carrier::Pair,
                Ask::Above | Ask::Below => matches!(s, Carrier::Pair | Carrier::Range),
            },
        }
    }

    #[test]
    fn transitions() {
        let mut text = String::new();
        for carry in [Carry::Append, Carry::Ride, Carry::Merge] {
            text += &format!("{carry:?}\n");
            for s in STATES {
                for e in [Ask::Message, Ask::Keepalive].into_iter().chain(ACKS).chain([Ask::Left]) {
                    if possible(carry, s, e) && (s, e) != (Carrier::None, Ask::Left) {
                        let (to, act) = next(carry, s, e);
                        let to = match to {
                            To::Is(s) => format!("{s:?}"),
                            To::Behind => "behind".to_owned(),
                        };
                        text += &format!("  {s:?} + {e:?} -> {to}, {act:?}\n");
                    }
                }
            }
        }
        insta::assert_snapshot!(text, @r"
        Append
          None + Message -> None, Append
        Ride
          None + Message -> Message, Carry
          None + Keepalive -> Alive, Carry
          None + Apart -> Single, Carry
          Message + Message -> Message, Append
          Message + Keepalive -> behind, Ride
          Message + Apart -> behind, Ride
          Message + Left -> behind, Drop
          Alive + Message -> behind, TakePlace
          Alive + Keepalive -> Alive, Append
          Alive + Apart -> Alive, Append
          Alive + Left -> behind, Drop
          Single + Message -> behind, TakeOver
          Single + Keepalive -> Single, Append
          Single + Apart -> Single, Append
          Single + Left -> behind, Drop
        Merge
          None + Keepalive -> Alive, Carry
          None + Apart -> Single, Carry
          Alive + Keepalive -> Alive, Drop
          Alive + Apart -> Single, Join
          Alive + Left -> behind, Drop
          Single + Keepalive -> Single, Drop
          Single + Known -> Single, Drop
          Single + Near -> Pair, Join
          Single + Apart -> behind, Join
          Single + Left -> behind, Drop
          Pair + Keepalive -> Pair, Drop
          Pair + Known -> Pair, Drop
          Pair + Between -> Range, Join
          Pair + Above -> Range, Join
          Pair + Below -> Range, Join
          Pair + Apart -> behind, Append
          Pair + Left -> behind, Drop
          Range + Keepalive -> Range, Drop
          Range + Known -> Range, Drop
          Range + Above -> Range, Join
          Range + Below -> Range, Join
          Range + Apart -> behind, Append
          Range + Left -> behind, Drop
        ");
    }

    /// Words, the ACK and how it stands to them; and what the words are when it has joined.
    #[test]
    fn relations() {
        use {Ask as E, Carrier as S};
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
