//! The sender's scoreboard (RFC 2018, RFC 6675 §3): bytes that are out, when they were sent, and their fate.
//!
//! A record is a run of bytes sent at one time, merged up to 64 KiB and split where a SACK block or a resend cuts
//! it. Records lie end to end from the first byte that is not acknowledged to the last one sent; the FIN counts as
//! one byte. Each is in one of three states:
//!
//! ```text
//!   sent ──> Flight ──── deemed lost ────> Lost
//!              │ ^                          │ │
//!              │ └───────── resent ─────────┘ │
//!              └─────> Sacked <───────────────┘ (a block of SACK; it was late, not lost)
//! ```
//!
//! Sacked neighbours are one record, so the number of records before the highest sacked byte is that of the holes,
//! not of the segments. An ACK costs a look-up for each block and one step for each record whose state it changes.
//! Blocks of a hostile peer cut on segment boundaries only, and not at all when there are [`RECORDS_MAX`].

use std::collections::VecDeque;
use std::ops::Range;

/// Most bytes of a record that is not sacked.
pub const RECORD_MAX: u32 = 65_536;
/// Records of one connection beyond which nothing is split any more: 192 KiB of memory.
pub const RECORDS_MAX: usize = 8192;

/// Fate of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// On its way, as far as is known.
    Flight,
    /// Deemed lost and not sent again yet.
    Lost,
    /// The peer holds it out of order.
    Sacked,
}

/// Bytes sent at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Stream offset of the first.
    pub start: u64,
    /// Time at which they were sent last, in ns.
    pub sent_at: u64,
    /// Number of bytes.
    pub len: u32,
    /// Their fate.
    pub fate: Fate,
    /// They were sent more than once.
    pub resent: bool,
}

const _: () = assert!(size_of::<Record>() == 24);

impl Record {
    /// One past the last byte.
    #[inline]
    pub fn end(&self) -> u64 {
        self.start + u64::from(self.len)
    }

    #[inline]
    fn part(&self, r: Range<u64>) -> Record {
        Record { start: r.start, len: (r.end - r.start) as u32, ..*self }
    }
}

/// Result of an acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acked {
    /// Bytes delivered that were not known to be: acknowledged or sacked for the first time.
    pub delivered: u64,
    /// Bytes among them that were sent more than once.
    pub resent: u64,
    /// The peer let go of bytes that it had sacked (RFC 2018 §8): the acknowledgement ends where it holds more.
    pub reneged: bool,
}

/// The scoreboard of one connection, in stream offsets.
#[derive(Debug, Default)]
pub struct Scoreboard {
    recs: VecDeque<Record>,
    una: u64,
    end: u64,
    flight: u64,
    lost: u64,
    sacked: u64,
    /// No lost record starts before this.
    first_lost: u64,
}

impl Scoreboard {
    /// First byte that is not acknowledged.
    pub fn una(&self) -> u64 {
        self.una
    }

    /// One past the last byte sent.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Bytes that are neither acknowledged, sacked nor deemed lost (RFC 6675 `pipe`).
    #[inline]
    pub fn flight(&self) -> u64 {
        self.flight
    }

    /// Bytes deemed lost and not sent again yet.
    #[inline]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Bytes sacked.
    #[inline]
    pub fn sacked(&self) -> u64 {
        self.sacked
    }

    /// Records, in order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.recs.iter()
    }

    /// Memory that the records occupy, in bytes.
    pub fn memory(&self) -> usize {
        self.recs.capacity() * size_of::<Record>()
    }

    fn full(&self) -> bool {
        self.recs.len() >= RECORDS_MAX
    }

    /// Bytes up to `end` were sent for the first time. `mss` is the length of a segment on the wire.
    #[inline]
    pub fn sent(&mut self, end: u64, now: u64, mss: u32) {
        let len = end.saturating_sub(self.end).min(u64::from(u32::MAX)) as u32;
        let full = self.full();
        self.flight += u64::from(len);
        let start = self.end;
        self.end += u64::from(len);
        if let Some(b) = self.recs.back_mut()
            && b.fate == Fate::Flight
            && !b.resent
        {
            // Segments begin at multiples of the segment size within a record, which is what blocks are cut by.
            let fits = b.sent_at == now
                && b.len.is_multiple_of(mss.max(1))
                && len <= RECORD_MAX - b.len.min(RECORD_MAX);
            if fits || full {
                b.len += len;
                b.sent_at = now;
                return;
            }
        }
        self.recs.push_back(Record { start, sent_at: now, len, fate: Fate::Flight, resent: false });
    }

    /// Everything before `una` is acknowledged. `f` sees each record, or part of one, that this delivers.
    #[inline]
    pub fn ack(&mut self, una: u64, mut f: impl FnMut(&Record)) -> Acked {
        let mut a = Acked::default();
        let una = una.min(self.end);
        if una <= self.una {
            return a;
        }
        while let Some(r) = self.recs.front_mut()
            && r.start < una
        {
            let part = r.part(r.start..una.min(r.end()));
            let n = u64::from(part.len);
            match r.fate {
                Fate::Flight => self.flight -= n,
                Fate::Lost => self.lost -= n,
                Fate::Sacked => self.sacked -= n,
            }
            if r.fate != Fate::Sacked {
                a.delivered += n;
                a.resent += if r.resent { n } else { 0 };
                f(&part);
            }
            r.start += n;
            r.len -= part.len;
            if r.len == 0 {
                self.recs.pop_front();
            }
        }
        self.una = una;
        a.reneged = self.recs.front().is_some_and(|r| r.fate == Fate::Sacked);
        a
    }

    /// [`Scoreboard::ack`] where nothing is sacked, lost or sent again: gives how much is delivered, and the last of it.
    #[inline]
    pub fn ack_in_order(&mut self, una: u64) -> (u64, Option<Record>) {
        let una = una.min(self.end);
        let mut last = None;
        while let Some(r) = self.recs.front_mut()
            && r.start < una
        {
            let part = r.part(r.start..una.min(r.end()));
            last = Some(part);
            if part.len < r.len {
                r.start += u64::from(part.len);
                r.len -= part.len;
                break;
            }
            self.recs.pop_front();
        }
        let delivered = una.saturating_sub(self.una);
        self.flight -= delivered;
        self.una += delivered;
        (delivered, last)
    }

    /// The peer holds `r`, which must lie within what is out. `f` sees what this delivers. `false` in the second
    /// place when part of the block was ignored because it would cut too many records.
    pub fn sack(&mut self, r: Range<u64>, mss: u32, mut f: impl FnMut(&Record)) -> (Acked, bool) {
        let mut a = Acked::default();
        let mut taken = true;
        let mut i = self.recs.partition_point(|x| x.end() <= r.start);
        while let Some(&x) = self.recs.get(i)
            && x.start < r.end
        {
            i += 1;
            if x.fate == Fate::Sacked {
                continue;
            }
            // Whole segments within the block.
            let m = u64::from(mss.max(1));
            let lo = if r.start <= x.start { x.start } else { x.start + (r.start - x.start).div_ceil(m) * m };
            let hi = if r.end >= x.end() { x.end() } else { x.start + (r.end - x.start) / m * m };
            if lo >= hi {
                continue;
            }
            if self.full() && (lo > x.start || hi < x.end()) {
                taken = false;
                continue;
            }
            i -= 1;
            let part = x.part(lo..hi);
            f(&part);
            let n = u64::from(part.len);
            a.delivered += n;
            a.resent += if x.resent { n } else { 0 };
            *(if x.fate == Fate::Lost { &mut self.lost } else { &mut self.flight }) -= n;
            self.sacked += n;
            let at = self.carve(i, &x, lo..hi, Record { fate: Fate::Sacked, ..part });
            i = self.join(at);
        }
        (a, taken)
    }

    fn put(&mut self, i: usize, r: Record) {
        if let Some(x) = self.recs.get_mut(i) {
            *x = r;
        }
    }

    /// Makes `r`, within record `i` which is `x`, a record of its own with what `new` says of it. Returns its index.
    fn carve(&mut self, mut i: usize, x: &Record, r: Range<u64>, new: Record) -> usize {
        if r.start > x.start {
            self.put(i, x.part(x.start..r.start));
            i += 1;
            self.recs.insert(i, new);
        } else {
            self.put(i, new);
        }
        if r.end < x.end() {
            self.recs.insert(i + 1, x.part(r.end..x.end()));
        }
        i
    }

    /// Makes record `i`, which is sacked, one with its sacked neighbours. Returns the index of what follows.
    fn join(&mut self, i: usize) -> usize {
        let is = |r: Option<&Record>| r.is_some_and(|r| r.fate == Fate::Sacked);
        let after = if is(self.recs.get(i + 1)) { self.recs.remove(i + 1) } else { None };
        let first = if i > 0 && is(self.recs.get(i - 1)) { i - 1 } else { i };
        let own = if first < i { self.recs.remove(i) } else { None };
        if let Some(x) = self.recs.get_mut(first) {
            x.len += after.map_or(0, |r| r.len) + own.map_or(0, |r| r.len);
        }
        first + 1
    }

    /// Asks `verdict` about each record in flight, in order, until it says [`Verdict::Stop`]. Returns the bytes
    /// that are newly deemed lost.
    pub fn judge(&mut self, mut verdict: impl FnMut(&Record) -> Verdict) -> u64 {
        let before = self.lost;
        for r in &mut self.recs {
            if r.fate != Fate::Flight {
                continue;
            }
            match verdict(r) {
                Verdict::Keep => (),
                Verdict::Stop => break,
                Verdict::Lost => {
                    r.fate = Fate::Lost;
                    self.flight -= u64::from(r.len);
                    self.lost += u64::from(r.len);
                    self.first_lost = self.first_lost.min(r.start);
                }
            }
        }
        self.lost - before
    }

    /// Deems bytes in flight within `r` lost. Returns how many they are.
    pub fn lose(&mut self, r: Range<u64>) -> u64 {
        let before = self.lost;
        let mut i = self.recs.partition_point(|x| x.end() <= r.start);
        while let Some(&x) = self.recs.get(i)
            && x.start < r.end
        {
            i += 1;
            if x.fate == Fate::Flight {
                let (lo, hi) = (r.start.max(x.start), r.end.min(x.end()));
                self.flight -= hi - lo;
                self.lost += hi - lo;
                self.first_lost = self.first_lost.min(lo);
                i = 1 + self.carve(i - 1, &x, lo..hi, Record { fate: Fate::Lost, ..x.part(lo..hi) });
            }
        }
        self.lost - before
    }

    /// Everything that is not sacked is deemed lost; with `forget`, what was sacked too (RFC 2018 §8).
    pub fn lose_all(&mut self, forget: bool) {
        for r in &mut self.recs {
            if r.fate == Fate::Flight || (forget && r.fate == Fate::Sacked) {
                // When the parts of what was sacked were sent is forgotten, so nothing is to be timed by it.
                r.resent |= r.fate == Fate::Sacked;
                r.fate = Fate::Lost;
            }
        }
        self.lost += std::mem::take(&mut self.flight);
        if forget {
            self.lost += std::mem::take(&mut self.sacked);
        }
        self.first_lost = self.una;
    }

    /// Takes bytes that were deemed lost, and not sent again yet, to be on their way after all.
    pub fn unlose(&mut self) {
        for r in &mut self.recs {
            if r.fate == Fate::Lost {
                r.fate = Fate::Flight;
            }
        }
        self.flight += std::mem::take(&mut self.lost);
    }

    /// The first bytes to send again.
    #[inline]
    pub fn next_lost(&mut self) -> Option<Range<u64>> {
        if self.lost == 0 {
            return None;
        }
        let from = self.first_lost;
        let i = self.recs.partition_point(|x| x.end() <= from);
        let r = self.recs.range(i..).find(|x| x.fate == Fate::Lost)?;
        self.first_lost = r.start;
        Some(r.start..r.end())
    }

    /// The first `len` bytes of [`Scoreboard::next_lost`], or all of it, were sent again.
    pub fn resent(&mut self, len: u32, now: u64, mss: u32) {
        let Some(r) = self.next_lost() else { return };
        let i = self.recs.partition_point(|x| x.end() <= r.start);
        let end = r.end.min(r.start + u64::from(len));
        let n = end - r.start;
        self.lost -= n;
        self.flight += n;
        self.first_lost = end;
        let Some(&x) = self.recs.get(i) else { return };
        let full = self.full();
        let before = i.checked_sub(1).and_then(|j| self.recs.get_mut(j));
        if let Some(p) = before.filter(|p| p.fate == Fate::Flight && p.resent)
            && (full || (p.sent_at == now && p.len.is_multiple_of(mss.max(1)) && p.len < RECORD_MAX))
        {
            p.len += n as u32;
            p.sent_at = now;
            if end == x.end() {
                self.recs.remove(i);
            } else {
                self.put(i, x.part(end..x.end()));
            }
            return;
        }
        let new = Record { sent_at: now, fate: Fate::Flight, resent: true, ..x.part(r.start..end) };
        self.carve(i, &x, r.start..end, new);
    }
}

/// A record, as [`Scoreboard::judge`] shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Still on its way.
    Keep,
    /// Lost.
    Lost,
    /// Still on its way, and so is everything behind it.
    Stop,
}
