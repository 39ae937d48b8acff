//! TIME-WAIT (RFC 9293 §3.3.2), as a table of our own: a connection that is over costs 64 bytes, not a socket.
//!
//! Nothing may revive the old connection, its FIN may still come again and wants an ACK, and a new SYN that is
//! plainly later takes the place at once (RFC 6191, RFC 1122 §4.2.2.13): by its timestamp where there is one, by its
//! sequence number otherwise.

use std::collections::VecDeque;

use crate::opts::Ts;
use crate::seq::Seq;
use crate::stamps::before;
use crate::table::Key;
use crate::wire::{self, Seg};

/// The rest of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Addresses.
    pub key: Key,
    /// Our next sequence number, FIN counted.
    pub snd_nxt: Seq,
    /// The peer's next sequence number, FIN counted.
    pub rcv_nxt: Seq,
    /// Last window offered, as in the field.
    pub win: u16,
    /// Time at which the wait ends (ns).
    pub until: u64,
    /// The peer's last timestamp, where they were in use.
    pub ts: Option<u32>,
}

const _: () = assert!(size_of::<Entry>() <= 64);

/// Answer to a segment for an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Drop,
    /// The last ACK again.
    Ack,
    /// The last ACK again: the timestamp is older than the last one (PAWS).
    Old,
    /// A new connection may begin; our initial sequence number must be after this.
    Reuse(Seq),
}

impl Entry {
    /// Whether a SYN with these numbers begins a later connection (RFC 6191 §2). With timestamps on both sides of
    /// the wait, the old connection's segments are told from the new one's by them.
    fn gives_way(&self, seq: Seq, ts: Option<Ts>) -> bool {
        match (ts, self.ts) {
            (Some(t), Some(recent)) if t.val != recent => before(recent, t.val),
            (Some(_), None) => true,
            _ => seq.after(self.rcv_nxt),
        }
    }
}

/// The table. Entries are numbered; the flow table knows the numbers.
pub struct TimeWait {
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    order: VecDeque<(u64, u32)>,
    wait: u64,
    max: usize,
}

impl TimeWait {
    /// A table of at most `max` entries that wait `wait` ns.
    pub fn new(wait: u64, max: usize) -> TimeWait {
        TimeWait { slots: Vec::new(), free: Vec::new(), order: VecDeque::new(), wait, max: max.max(1) }
    }

    /// Adds an entry; `until` is set here. Returns its number.
    pub fn insert(&mut self, mut e: Entry, now: u64) -> u32 {
        e.until = now + self.wait;
        let i = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[i as usize] = Some(e);
        self.order.push_back((e.until, i));
        i
    }

    /// The entry of a number.
    pub fn get(&self, i: u32) -> Option<&Entry> {
        self.slots.get(i as usize)?.as_ref()
    }

    /// Takes an entry out.
    pub fn remove(&mut self, i: u32) -> Option<Entry> {
        let e = self.slots.get_mut(i as usize)?.take()?;
        self.free.push(i);
        Some(e)
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Time at which the oldest entry ends (ns), at the latest.
    pub fn deadline(&self) -> Option<u64> {
        self.order.front().map(|o| o.0)
    }

    /// The next entry whose time has come, or the oldest when there are too many.
    pub fn expired(&mut self, now: u64) -> Option<Entry> {
        while let Some(&(at, i)) = self.order.front() {
            let full = self.len() > self.max;
            if at > now && !full {
                return None;
            }
            self.order.pop_front();
            // A restarted wait left an older line behind; so did an entry that was reused.
            if self.get(i).is_some_and(|e| e.until == at) {
                return self.remove(i);
            }
        }
        None
    }

    /// Judges a segment.
    pub fn on_segment(&mut self, i: u32, s: &Seg, ts: Option<Ts>, now: u64) -> Verdict {
        let wait = self.wait;
        let Some(e) = self.slots.get_mut(i as usize).and_then(Option::as_mut) else { return Verdict::Drop };
        if s.has(wire::RST) {
            return Verdict::Drop; // RFC 1337
        }
        if s.has(wire::SYN) {
            if !s.has(wire::ACK) && e.gives_way(s.seq, ts) {
                return Verdict::Reuse(e.snd_nxt);
            }
            return Verdict::Ack;
        }
        match (ts, e.ts.as_mut()) {
            (Some(t), Some(recent)) if before(t.val, *recent) => return Verdict::Old,
            (Some(t), Some(recent)) => *recent = t.val,
            _ => (),
        }
        if s.plen == 0 && !s.has(wire::FIN) && s.seq == e.rcv_nxt {
            return Verdict::Drop; // an ACK that was on its way
        }
        if s.has(wire::FIN) && e.until < now + wait {
            e.until = now + wait;
            self.order.push_back((e.until, i));
        }
        Verdict::Ack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u32) -> Entry {
        Entry {
            key: Key::v4(1, 2, 3, n as u16),
            snd_nxt: Seq(1000),
            rcv_nxt: Seq(2000),
            win: 5,
            until: 0,
            ts: None,
        }
    }

    fn seg(seq: u32, flags: u8, plen: u32) -> Seg {
        Seg { key: Key::default(), seq: Seq(seq), ack: Seq(1000), flags, win: 0, hlen: 20, plen }
    }

    #[test]
    fn only_a_later_syn_takes_the_place() {
        let mut t = TimeWait::new(5_000, 10);
        let i = t.insert(entry(1), 0);
        for (s, v) in [
            (seg(2001, wire::SYN, 0), Verdict::Reuse(Seq(1000))),
            (seg(1999, wire::SYN, 0), Verdict::Ack),
            (seg(2001, wire::SYN | wire::ACK, 0), Verdict::Ack),
            (seg(2000, wire::RST, 0), Verdict::Drop),
            (seg(2000, wire::ACK, 0), Verdict::Drop),
            (seg(1990, wire::ACK, 5), Verdict::Ack),
            (seg(1999, wire::ACK | wire::FIN, 0), Verdict::Ack),
        ] {
            assert_eq!(t.on_segment(i, &s, None, 1), v, "{s:?}");
        }
        assert_eq!(t.on_segment(99, &seg(0, 0, 0), None, 0), Verdict::Drop);
    }

    #[test]
    fn timestamps_judge_before_sequence_numbers() {
        let mut t = TimeWait::new(5_000, 10);
        let i = t.insert(Entry { ts: Some(u32::MAX), ..entry(1) }, 0);
        let ts = |val| Some(Ts { val, ecr: 0 });
        for (s, at, v) in [
            (seg(1, wire::SYN, 0), ts(0), Verdict::Reuse(Seq(1000))),
            (seg(2001, wire::SYN, 0), ts(u32::MAX - 1), Verdict::Ack),
            (seg(2001, wire::SYN, 0), ts(u32::MAX), Verdict::Reuse(Seq(1000))),
            (seg(1999, wire::SYN, 0), ts(u32::MAX), Verdict::Ack),
            (seg(2001, wire::SYN, 0), None, Verdict::Reuse(Seq(1000))),
            (seg(1999, wire::FIN | wire::ACK, 0), None, Verdict::Ack),
            (seg(1999, wire::FIN | wire::ACK, 0), ts(u32::MAX - 1), Verdict::Old),
            (seg(1999, wire::FIN | wire::ACK, 0), ts(9), Verdict::Ack),
            (seg(1999, wire::FIN | wire::ACK, 0), ts(8), Verdict::Old),
            (seg(2000, wire::RST, 0), None, Verdict::Drop),
        ] {
            assert_eq!(t.on_segment(i, &s, at, 1), v, "{s:?} {at:?}");
        }
        let j = t.insert(entry(2), 0);
        assert_eq!(t.on_segment(j, &seg(1, wire::SYN, 0), ts(1), 1), Verdict::Reuse(Seq(1000)));
    }

    #[test]
    fn the_wait_ends_and_a_repeated_fin_restarts_it() {
        let mut t = TimeWait::new(100, 10);
        let i = t.insert(entry(1), 0);
        t.insert(entry(2), 10);
        t.on_segment(i, &seg(1999, wire::FIN | wire::ACK, 0), None, 50);
        assert_eq!(t.expired(99), None);
        assert_eq!(t.expired(110).map(|e| e.key.rport()), Some(2));
        assert_eq!(t.expired(149), None);
        assert_eq!(t.expired(150).map(|e| e.key.rport()), Some(1));
        assert!(t.is_empty() && t.deadline().is_none());
    }

    #[test]
    fn the_oldest_makes_room() {
        let mut t = TimeWait::new(100, 2);
        (0..3).for_each(|n| {
            t.insert(entry(n), u64::from(n));
        });
        assert_eq!(t.expired(3).map(|e| e.key.rport()), Some(0));
        assert_eq!((t.expired(3), t.len()), (None, 2));
    }
}
