//! Selective acknowledgements, the receiver's side: which blocks an ACK reports (RFC 2018 §4), and which
//! duplicates (RFC 2883).
//!
//! ```text
//!   acknowledged │      island            island      island        [..] = one option's blocks, at most 4,
//!   ─────────────┤····██████████····████████████····████····             3 beside timestamps
//!            nxt ^     3rd touched      1st           2nd          -> [1st touched][2nd][3rd]
//! ```
//!
//! The island that the last segment went to comes first, then those touched before, then the lowest ones that
//! nothing was said of. Where one turn touched more islands than an option takes, more ACKs go out, so that the
//! peer hears of each. A duplicate is reported once, in front of all blocks, in a segment without payload: a
//! super-segment would repeat it in each of its parts.

use std::ops::Range;

use arrayvec::ArrayVec;

use crate::opts::SACK_MAX;
use crate::reasm::Reasm;

/// Islands whose order of arrival is remembered.
const RECENT: usize = 8;
/// Duplicates that may wait to be reported; more in one turn are merged or forgotten.
const DUPS: usize = 4;

/// Blocks and duplicates to report. Offsets are of the stream.
#[derive(Default)]
pub struct Sacks(Option<Box<Inner>>);

#[derive(Default)]
struct Inner {
    /// An offset in each island, the last one touched first.
    recent: ArrayVec<u64, RECENT>,
    /// Number of them that were touched since they were last reported.
    fresh: usize,
    dups: ArrayVec<(u64, u64), DUPS>,
}

/// Blocks of one option, as offsets.
pub type Blocks = ArrayVec<Range<u64>, SACK_MAX>;

impl Sacks {
    /// Whether an ACK has to go out for what is not reported yet.
    #[inline]
    pub fn owes(&self) -> bool {
        self.0.as_ref().is_some_and(|i| i.fresh > 0 || !i.dups.is_empty())
    }

    /// A segment went to the island around `at`.
    pub fn touch(&mut self, at: u64, ooo: &Reasm) {
        let Some(island) = ooo.island_of(at) else { return };
        let i = self.0.get_or_insert_default();
        i.retain(|off| !island.contains(&off) && ooo.island_of(off).is_some());
        if i.recent.is_full() {
            i.recent.pop();
        }
        i.recent.insert(0, island.start);
        i.fresh = (i.fresh + 1).min(i.recent.len());
    }

    /// `dup` came although it was there already.
    pub fn duplicate(&mut self, dup: Range<u64>) {
        if dup.is_empty() {
            return;
        }
        let i = self.0.get_or_insert_default();
        if let Some(last) = i.dups.last_mut()
            && last.1 == dup.start
        {
            last.1 = dup.end;
        } else if i.dups.try_push((dup.start, dup.end)).is_err() {
            i.dups.pop();
            i.dups.push((dup.start, dup.end));
        }
    }

    /// The blocks of the next segment, at most `room` of them; the number of those that report a duplicate comes
    /// with them (0 or 1). `bare` says that it has no payload.
    pub fn blocks(&self, ooo: &Reasm, room: usize, bare: bool) -> (Blocks, usize) {
        let mut out = Blocks::new();
        let Some(i) = self.0.as_ref() else { return (out, 0) };
        let room = room.min(SACK_MAX);
        let add = |b: Range<u64>, out: &mut Blocks| {
            if out.len() < room && !out.contains(&b) {
                out.push(b);
            }
        };
        let dup = i.dups.first().filter(|_| bare);
        if let Some(d) = dup {
            add(d.0..d.1, &mut out);
            // RFC 2883 §4: the block that the duplicate is part of comes next.
            ooo.island_of(d.0).into_iter().for_each(|b| add(b, &mut out));
        }
        let skip = i.fresh.saturating_sub(room - out.len());
        for at in i.recent.iter().skip(skip) {
            ooo.island_of(*at).into_iter().for_each(|b| add(b, &mut out));
        }
        ooo.islands().take(2 * SACK_MAX).for_each(|b| add(b, &mut out));
        (out, usize::from(dup.is_some()))
    }

    /// A segment with the blocks of [`Sacks::blocks`] was sent.
    pub fn sent(&mut self, ooo: &Reasm, room: usize, bare: bool) {
        let Some(i) = self.0.as_mut() else { return };
        let mut room = room.min(SACK_MAX);
        if bare && !i.dups.is_empty() {
            let (start, _) = i.dups.remove(0);
            room = room.saturating_sub(1 + usize::from(ooo.island_of(start).is_some()));
        }
        i.fresh = i.fresh.saturating_sub(room);
        i.retain(|off| ooo.island_of(off).is_some());
    }
}

impl Inner {
    /// Forgets islands that have merged with others or were acknowledged.
    fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        let (mut n, mut fresh) = (0, 0);
        let was = self.fresh;
        self.recent.retain(|off| {
            let k = keep(*off);
            fresh += usize::from(k && n < was);
            n += 1;
            k
        });
        self.fresh = fresh;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hugepages::HeapRxPool;

    struct Rx {
        pool: HeapRxPool,
        ooo: Reasm,
        s: Sacks,
    }

    impl Rx {
        fn new() -> Rx {
            Rx { pool: HeapRxPool::new(64, 256), ooo: Reasm::default(), s: Sacks::default() }
        }
        fn put(&mut self, at: u64, n: usize) {
            self.ooo.insert(at, self.pool.copy_of(&vec![0; n]).unwrap(), 1 << 20).unwrap();
            self.s.touch(at, &self.ooo);
        }
        /// One ACK: what it says.
        fn ack(&mut self, room: usize, bare: bool) -> String {
            let (b, d) = self.s.blocks(&self.ooo, room, bare);
            self.s.sent(&self.ooo, room, bare);
            let b: Vec<_> = b.iter().map(|r| format!("{}-{}", r.start, r.end)).collect();
            format!("{}{}", if d > 0 { "D:" } else { "" }, b.join(" "))
        }
    }

    #[test]
    fn the_last_touched_comes_first_and_neighbours_are_one() {
        let mut r = Rx::new();
        r.put(10, 5);
        r.put(30, 5);
        assert_eq!(r.ack(4, true), "30-35 10-15");
        r.put(15, 5);
        assert_eq!(r.ack(4, true), "10-20 30-35");
        r.put(20, 10);
        assert_eq!((r.ack(4, true), r.s.owes()), ("10-35".into(), false));
        assert_eq!(r.ack(4, true), "10-35", "in every ACK");
        while r.ooo.pop(10).is_some() {}
        r.put(50, 1);
        r.ooo.clear();
        assert_eq!(r.ack(4, true), "");
    }

    #[test]
    fn what_an_option_does_not_take_goes_into_further_acks() {
        let mut r = Rx::new();
        (1..=7).for_each(|i| r.put(i * 10, 5));
        assert_eq!(r.ack(3, true), "30-35 20-25 10-15");
        assert_eq!(r.ack(3, true), "60-65 50-55 40-45");
        assert!(r.s.owes());
        assert_eq!(r.ack(3, true), "70-75 60-65 50-55");
        assert!(!r.s.owes());
        // More islands than are remembered: the forgotten ones are the lowest that others are not said of.
        (8..=12).for_each(|i| r.put(i * 10, 5));
        while r.s.owes() {
            r.ack(3, true);
        }
        for _ in 0..8 {
            r.ooo.pop(10);
        }
        assert_eq!(r.ack(4, true), "120-125 110-115 100-105 90-95");
    }

    #[test]
    fn islands_that_nothing_was_said_of_fill_the_rest_from_the_lowest() {
        let mut r = Rx::new();
        (1..=12).for_each(|i| r.put(i * 10, 5));
        while r.s.owes() {
            r.ack(4, true);
        }
        (5..=12).for_each(|i| r.put(i * 10 + 5, 5));
        assert_eq!(r.ack(4, true), "50-130 10-15 20-25 30-35");
    }

    #[test]
    fn a_duplicate_is_said_once_in_front_and_never_beside_payload() {
        let mut r = Rx::new();
        r.put(50, 10);
        r.ack(3, true);
        r.s.duplicate(3..7);
        r.s.duplicate(52..55);
        r.s.duplicate(55..57);
        assert_eq!((r.ack(3, false), r.s.owes()), ("50-60".into(), true));
        assert_eq!(r.ack(3, true), "D:3-7 50-60");
        assert_eq!(r.ack(3, true), "D:52-57 50-60");
        assert_eq!((r.ack(3, true), r.s.owes()), ("50-60".into(), false));
        r.put(80, 5);
        r.ack(3, true);
        r.s.duplicate(52..53);
        assert_eq!(r.ack(3, true), "D:52-53 50-60 80-85", "its block before the one that was touched last");
        r.s.duplicate(5..5);
        assert!(!r.s.owes());
        (0..20).for_each(|i| r.s.duplicate(i * 10..i * 10 + 1));
        let n =
            (0..100).take_while(|_| std::mem::take(&mut r.s.owes()) && !r.ack(3, true).is_empty()).count();
        assert_eq!(n, DUPS);
    }
}
