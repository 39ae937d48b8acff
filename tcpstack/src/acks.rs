//! What a segment acknowledges: window, new data, SACK blocks (RFC 9293 §3.10.7.4, RFC 2018, RFC 2883).

use std::ops::Range;

use arrayvec::ArrayVec;

use crate::flow::{Clock, Flow};
use crate::opts::{Opts, SACK_MAX, SackBlock};
use crate::segment::Cx;
use crate::sender::{AckIn, Ctx, Heard};
use crate::seq::offset_of;
use crate::stamps::before;
use crate::wire::{self, Seg};

type Blocks = ArrayVec<Range<u64>, SACK_MAX>;

impl Flow {
    /// Takes in the ACK of offset `a`, which is none of bytes never sent.
    pub(crate) fn on_ack(&mut self, s: &Seg, o: &Opts, a: i64, cx: &mut Cx<'_>) {
        let news = a > self.una as i64;
        let wnd = u32::from(s.win) << self.snd_scale;
        // Linux's form of RFC 9293 §3.10.7.4: a window counts when its segment is newer, or it
        // grew, or it is shut.
        let newer = s.seq.after(self.wl1);
        let update =
            a >= self.una as i64 && (news || newer || (s.seq == self.wl1 && (wnd > self.wnd || wnd == 0)));
        let changed = update && wnd != self.wnd;
        if update {
            self.wl1 = s.seq;
            self.wnd_news |= changed;
            self.wnd = wnd;
            self.max_wnd = self.max_wnd.max(wnd);
        }
        // RFC 5681 §2.
        let dup =
            a == self.una as i64 && s.plen == 0 && !s.has(wire::FIN) && !changed && self.snd_max() > self.una;
        self.stats.dup_acks += u64::from(dup);
        let sacks = self.sack_ok && !o.sack.is_empty();
        if news || dup || sacks {
            let (mut blocks, dsack) = if sacks { self.sacked(&o.sack, a, cx) } else { Default::default() };
            let echo = if news { self.stamps.rtt(o.ts, cx.now) } else { None };
            if news {
                let n = a as u64 - self.una;
                self.on_new_ack(a as u64);
                self.on_arrival(n, cx);
            }
            let ecr = o.ts.filter(|_| self.stamps.on()).map(|t| t.ecr);
            let stamps = self.stamps;
            let original = |t: u64| ecr.is_some_and(|e| before(e, stamps.val(t)));
            let mut k =
                Ctx { now: cx.now, mss: u32::from(self.mss), rtt: &mut self.rtt, limits: &cx.cfg.rto };
            let hole_max = cx.super_max;
            let mut ack = AckIn { una: self.una, dup, blocks: &mut blocks, dsack, echo, hole_max };
            let heard = self.tx.on_ack(&mut ack, original, &mut k);
            if heard != Heard::default() {
                self.note(&heard, cx);
            }
            self.rearm(news, cx);
        }
        if changed && self.wnd > 0 && self.clock == Clock::Persist {
            self.set_clock(Clock::Off, u64::MAX);
            self.tries = 0;
        }
    }

    fn on_new_ack(&mut self, a: u64) {
        let end = self.shadow.end();
        self.stats.acked_bytes += a.min(end) - self.una.min(end);
        self.una = a;
        self.shadow.release(a);
        self.tries = 0;
    }

    fn rearm(&mut self, news: bool, cx: &Cx<'_>) {
        if news {
            self.stuck_since = cx.now;
        }
        if self.una < self.snd_max() {
            self.set_clock(Clock::Data, self.tx.deadline());
        } else if news && self.fin_acked() && !self.fin_rcvd {
            self.set_clock(Clock::Fin, cx.now + cx.cfg.fin_timeout);
        } else if news {
            self.set_clock(Clock::Off, u64::MAX);
        }
    }

    /// The blocks of an ACK of `a` that make sense, and what it says arrived twice: that is the first block, when it
    /// lies below the ACK or within the second block (RFC 2883 §4). Others are counted.
    fn sacked(&mut self, list: &[SackBlock], a: i64, cx: &mut Cx<'_>) -> (Blocks, Option<Range<u64>>) {
        let (mut blocks, mut dsack) = (Blocks::new(), None);
        let base = self.snd_seq(self.una);
        let off = |b: &SackBlock| (offset_of(b.left, base, self.una), offset_of(b.right, base, self.una));
        let (end, above) = (self.snd_max() as i64, a.max(self.una as i64));
        let oldest = (self.una as i64 - i64::from(self.max_wnd)).max(0);
        let second = list.get(1).map(off);
        for (i, b) in list.iter().enumerate() {
            let (l, r) = off(b);
            let sound = l < r && l >= oldest && r <= end;
            if sound && i == 0 && (r <= a || second.is_some_and(|(x, y)| l >= x && r <= y)) {
                dsack = Some(l as u64..r as u64);
                cx.c.rx_dsack += 1;
                self.stats.dsacks += 1;
            } else if sound && l > above {
                blocks.push(l as u64..r as u64);
                cx.c.rx_sack_blocks += 1;
                self.stats.sack_blocks += 1;
            } else if !sound || a >= self.una as i64 {
                // An ACK that was overtaken may name what is acknowledged by now; any other is wrong.
                cx.c.rx_sack_ignored += 1;
            }
        }
        (blocks, dsack)
    }

    /// Counts what an ACK led to.
    fn note(&mut self, h: &Heard, cx: &mut Cx<'_>) {
        let (c, f) = (&mut *cx.c, &mut self.stats);
        for (seen, total, own) in [
            (h.entered, &mut c.fast_recoveries, &mut f.fast_recoveries),
            (h.undone, &mut c.undone, &mut f.undone),
            (h.probe_repaired, &mut c.tlp_recoveries, &mut f.tlp_recoveries),
            (h.reordering, &mut c.reordering_seen, &mut f.reordering_seen),
        ] {
            *total += u64::from(seen);
            *own += u64::from(seen);
        }
        c.sack_reneged += u64::from(h.reneged);
        c.rx_sack_ignored += u64::from(h.ignored);
    }
}
