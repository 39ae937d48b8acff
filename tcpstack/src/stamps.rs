//! Timestamps of one connection (RFC 7323): what we write into TSval and TSecr, and which segments of the peer's
//! are too old to be of this connection's present (PAWS).
//!
//! TSval counts ms (RFC 7323 §5.4: from 1 ms to 1 s a tick, so that it takes 24 days until half of its range has
//! gone by) from an offset that is the connection's own and secret: nobody learns from one connection how long the
//! host has been up, or where another one's numbers are. The offset stays with the addresses and ports, so a later
//! connection in the same place continues where the earlier one was (RFC 6191).

use crate::opts::Ts;

/// Length of a tick, in ns.
pub const TICK: u64 = 1_000_000;
/// Age beyond which TS.Recent says nothing, in ns: 24 days (RFC 7323 §5.5).
pub const OUTDATED: u64 = 24 * 86_400 * 1_000_000_000;

/// Our TSval at time `now` (ns) where the offset is `offset`.
#[inline]
pub fn clock(offset: u32, now: u64) -> u32 {
    offset.wrapping_add((now / TICK) as u32)
}

/// Whether TSval `a` is before `b` (modulo 2^32).
#[inline]
pub fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Judgement of a segment by its timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing against it.
    Fine,
    /// Older than what was seen before: to be acknowledged and dropped (RFC 7323 §5.3 R1).
    Old,
    /// There should be some. RFC 7323 §3.2 would drop the segment; Linux never did, and peers live on that: old kernels,
    /// and what strips options on the way, send none once the SYNs are through. It is taken, without this check.
    Missing,
}

/// The state of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamps {
    offset: u32,
    /// TS.Recent, and when it was taken (ns).
    recent: u32,
    recent_at: u64,
    on: bool,
}

impl Stamps {
    /// Nothing agreed on yet.
    pub fn new(offset: u32) -> Stamps {
        Stamps { offset, ..Stamps::default() }
    }

    /// Both SYNs had the option; the peer's said `val`.
    pub fn agree(&mut self, val: u32, now: u64) {
        (self.recent, self.recent_at, self.on) = (val, now, true);
    }

    /// Whether each segment has to carry them.
    #[inline]
    pub fn on(&self) -> bool {
        self.on
    }

    /// TS.Recent, if they are in use.
    pub fn recent(&self) -> Option<u32> {
        self.on.then_some(self.recent)
    }

    /// TSval of a segment sent at `now` (ns).
    #[inline]
    pub fn val(&self, now: u64) -> u32 {
        clock(self.offset, now)
    }

    /// The option of a SYN that offers them.
    pub fn offer(&self, now: u64) -> Ts {
        Ts { val: self.val(now), ecr: 0 }
    }

    /// The option of a segment with an ACK, if they are in use.
    #[inline]
    pub fn option(&self, now: u64) -> Option<Ts> {
        self.on.then(|| Ts { val: self.val(now), ecr: self.recent })
    }

    /// Judges a segment that is no RST.
    #[inline]
    pub fn judge(&self, ts: Option<Ts>, now: u64) -> Verdict {
        match ts {
            _ if !self.on => Verdict::Fine,
            None => Verdict::Missing,
            Some(t) if before(t.val, self.recent) && !self.outdated(now) => Verdict::Old,
            Some(_) => Verdict::Fine,
        }
    }

    fn outdated(&self, now: u64) -> bool {
        now.saturating_sub(self.recent_at) > OUTDATED
    }

    /// Takes TSval of an acceptable segment that covers the number last acknowledged (RFC 7323 §4.3).
    #[inline]
    pub fn take(&mut self, ts: Option<Ts>, now: u64) {
        if let Some(t) = ts
            && self.on
            && (!before(t.val, self.recent) || self.outdated(now))
        {
            (self.recent, self.recent_at) = (t.val, now);
        }
    }

    /// Round-trip time by an ACK's TSecr (RFC 7323 §4), in ns: whole ticks and one more, since less than a tick
    /// cannot be told from none. Only for ACKs that advance SND.UNA. `None` for an echo of what was never sent.
    pub fn rtt(&self, ts: Option<Ts>, now: u64) -> Option<u64> {
        let t = ts.filter(|_| self.on)?;
        let ticks = self.val(now).wrapping_sub(t.ecr);
        (ticks < 1 << 31).then(|| (u64::from(ticks) + 1) * TICK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = TICK;

    fn ts(val: u32) -> Option<Ts> {
        Some(Ts { val, ecr: 0 })
    }

    #[test]
    fn nothing_is_asked_of_who_has_not_agreed() {
        let mut s = Stamps::new(5);
        assert_eq!((s.judge(None, 0), s.judge(ts(1), 0), s.option(0)), (Verdict::Fine, Verdict::Fine, None));
        s.take(ts(9), 0);
        assert_eq!((s.recent(), s.rtt(ts(1), 0), s.offer(7 * MS)), (None, None, Ts { val: 12, ecr: 0 }));
    }

    #[test]
    fn old_ones_are_told_across_the_wrap_and_until_they_are_outdated() {
        let mut s = Stamps::new(0);
        s.agree(u32::MAX - 1, 0);
        assert_eq!(s.judge(ts(u32::MAX - 2), 1), Verdict::Old);
        assert_eq!(s.judge(ts(u32::MAX - 1), 1), Verdict::Fine);
        assert_eq!(s.judge(None, 1), Verdict::Missing);
        s.take(ts(3), 10);
        assert_eq!((s.recent(), s.judge(ts(2), 10 + OUTDATED)), (Some(3), Verdict::Old));
        s.take(ts(2), 10 + OUTDATED);
        assert_eq!(s.recent(), Some(3));
        assert_eq!(s.judge(ts(2), 11 + OUTDATED), Verdict::Fine);
        s.take(ts(2), 11 + OUTDATED);
        assert_eq!(s.recent(), Some(2));
    }

    #[test]
    fn an_echo_gives_the_round_trip_and_an_impossible_one_none() {
        let mut s = Stamps::new(u32::MAX);
        s.agree(1, 0);
        let ecr = s.val(10 * MS);
        let t = Some(Ts { val: 1, ecr });
        assert_eq!((s.rtt(t, 10 * MS + 5), s.rtt(t, 13 * MS)), (Some(MS), Some(4 * MS)));
        assert_eq!(s.rtt(t, 9 * MS), None, "from the future");
    }
}
