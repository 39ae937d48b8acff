//! Serving a connection: smoltcp is brought up to date and asked what may be sent; the shim sends it, and what
//! has to be sent again.

use dataplane::pkt::Port;

use crate::ending::CloseWhy;
use crate::flow::{AckDue, Clock, Flow};
use crate::io::Io;
use crate::phase::Phase;
use crate::seq::Seq;
use crate::stack::{Event, Stack};
use crate::table::Place;
use crate::timewait::Entry;
use crate::uplink::marks;
use crate::wire::{self, Fields};

/// Segments taken from smoltcp for one connection in one turn at most.
const EMISSIONS: usize = 64;

/// How serving a connection went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    Done,
    /// More to do at the next turn.
    Again,
    /// The shim and smoltcp disagree, or the connection cannot go on.
    Broken,
}

impl<P: Port> Stack<P> {
    /// Serves every connection on the list once.
    pub(crate) fn serve_all(&mut self) -> u32 {
        let n = self.dirty.len();
        self.stuck = 0;
        for _ in 0..n {
            let Some(i) = self.dirty.pop_front() else { break };
            self.serve(i);
        }
        n as u32 - self.stuck
    }

    fn serve(&mut self, i: u32) {
        let id = self.id(i);
        // The connection is taken out while it is served, so that the rest of the stack can be used.
        let Some(mut f) = self.slots.get_mut(i as usize).and_then(|s| s.flow.take()) else { return };
        f.queued = false;
        self.relink(i, &mut f);
        if f.path.due(self.now) {
            self.path_due(&mut f);
        }
        let sent = f.sent;
        let before = marks(&self.c);
        let served = match f.phase() {
            Phase::Resolve | Phase::Closed => Served::Done,
            _ => self.serve_flow(&mut f),
        };
        if f.sent > sent && !f.ev_progress {
            f.ev_progress = true;
            self.events.push_back(Event::Progress { flow: id, acked: 0, sent: 0 });
        }
        let (phase, again) = (f.phase(), served == Served::Again);
        let after = marks(&self.c);
        self.stuck += u32::from(again && after.0 > before.0 && after.1 == before.1);
        if f.starved && !f.waits {
            f.waits = true;
            self.c.window_starved += 1;
            self.starved.push_back(i);
        }
        if again && !f.queued {
            f.queued = true;
            self.dirty.push_back(i);
        }
        if let Some(s) = self.slots.get_mut(i as usize) {
            s.flow = Some(f);
        }
        match (served, phase) {
            (Served::Broken, _) => {
                self.c.desync += 1;
                self.abort(i, CloseWhy::Reset);
            }
            (Served::Done, Phase::TimeWait) => self.time_wait(i),
            (Served::Done, Phase::Closed) => self.end(i, CloseWhy::Fin),
            _ => self.arm(i),
        }
    }

    fn serve_flow(&mut self, f: &mut Flow) -> Served {
        let window = self.engine.rx_window();
        let opening = matches!(f.phase(), Phase::SynSent | Phase::SynReceived);
        if !opening && !f.feed(&mut self.engine, &mut self.c) {
            return Served::Broken;
        }
        f.exchange();
        let end = f.shadow.end();
        if f.want_fin && f.phase().may_send() && f.permit >= end {
            // Only now: smoltcp does not take a window in LAST-ACK while bytes are unsent.
            f.sock.with(|s| s.close());
            f.poll = true;
        }
        let mut served = Served::Done;
        // What smoltcp knows of received bytes lags ([`crate::scaled`]), so whether to acknowledge is not asked of it.
        let unacked = f.rcv_nxt() > f.acked;
        if (unacked || f.wants_poll(window)) && self.may_wait(f) {
            f.ack_due = AckDue::Soon;
            return Served::Again;
        }
        if unacked {
            f.ack_due = AckDue::Now;
        }
        if f.wants_poll(window) {
            f.poll = false;
            for k in 0..=EMISSIONS {
                if k == EMISSIONS {
                    served = Served::Again;
                    break;
                }
                let Some(m) = self.engine.poll(&mut f.sock) else { break };
                f.record(&m, &mut self.c);
                if m.plen == 0 || f.permit >= f.fed_end {
                    break;
                }
            }
        }
        if f.want_fin && f.phase().may_send() && f.permit >= f.shadow.end() {
            served = Served::Again; // everything is permitted now: the FIN is next
        }
        let mss = self.io.mss(false);
        if f.advance_edge(&mut self.mem, self.now, mss) && f.window_news() {
            f.ack_due = AckDue::Now;
        }
        f.see_windows(self.now);
        match self.io_transmit(f) {
            Served::Done => served,
            other => other,
        }
    }

    /// Whether the only thing to say is an ACK of little, which may go with data at the next turn.
    fn may_wait(&self, f: &Flow) -> bool {
        let unacked = f.rcv_nxt() - f.acked;
        f.ack_due == AckDue::No
            && !f.poll
            && f.dup_acks_due == 0
            && !f.sacks.owes()
            && !f.tx.has_lost()
            && unacked > 0
            && unacked < 2 * u64::from(f.mss)
            && f.permit == f.fed_end
            && f.sent == f.limit()
            && f.phase().may_send()
    }

    fn io_transmit(&mut self, f: &mut Flow) -> Served {
        let (io, c, cfg, now) = (&mut self.io, &mut self.c, &self.cfg, self.now);
        let phase = f.phase();
        if f.syn_due {
            let flags = if phase == Phase::SynSent { wire::SYN } else { wire::SYN | wire::ACK };
            let ack = if phase == Phase::SynSent { Seq(0) } else { f.rcv_seq(0) };
            let win = f.smol_edge.min(65_535) as u16;
            let o = f.syn_options(io.mss(f.tmpl.v6()), &self.cfg, now);
            if !io.control(&f.tmpl, &Fields { seq: f.iss, ack, flags, win }, &o, c) {
                return Served::Again;
            }
            f.syn_due = false;
            f.count_out(0);
            f.stuck_since = now;
            c.syn_resent += u64::from(f.tries > 0);
            let wait = self.cfg.rto.initial << f.tries.min(6);
            f.set_clock(Clock::Syn, now + wait);
            return Served::Done;
        }
        if phase == Phase::SynReceived {
            // A challenge, or where we are: the handshake itself sends no plain ACK.
            return f.send_acks(io, c).err().unwrap_or(Served::Done);
        }
        if !phase.synchronised() && phase != Phase::Closed {
            return Served::Done;
        }
        let sent =
            f.resend(io, c, cfg).and_then(|()| f.send_new(io, c, cfg)).and_then(|()| f.send_acks(io, c));
        if f.una < f.snd_max() {
            f.set_clock(Clock::Data, f.tx.deadline());
        }
        if let Err(s) = sent {
            return s;
        }
        let shut = f.una == f.snd_max() && f.sent < f.shadow.end() && f.limit() == f.sent;
        if shut && f.clock == Clock::Off {
            f.stuck_since = now;
            f.tries = 0;
            f.set_clock(Clock::Persist, now + f.rtt.rto(&cfg.rto));
        }
        Served::Done
    }

    /// Both sides are done: the rest is a table entry, once everything received has been read.
    fn time_wait(&mut self, i: u32) {
        let now = self.now;
        let Some(f) = self.at(i) else { return };
        f.shut();
        let e = Entry {
            key: f.key,
            snd_nxt: f.snd_seq(f.snd_max()),
            rcv_nxt: f.rcv_seq(f.rcv_nxt()),
            win: f.window_field(),
            until: 0,
            ts: f.stamps.recent(),
        };
        let t = self.tw.insert(e, now);
        self.table.insert(e.key, Place::TimeWait(t));
        self.end(i, CloseWhy::Fin);
    }
}

impl Flow {
    pub(crate) fn fields(&self, off: u64, flags: u8) -> Fields {
        Fields {
            seq: self.snd_seq(off),
            ack: self.rcv_seq(self.rcv_nxt()),
            flags: wire::ACK | flags,
            win: self.window_field(),
        }
    }

    /// An ACK is out, with `bare` options or those of payload.
    pub(crate) fn acked_now(&mut self, bare: bool, now: u64, c: &mut crate::config::Counters) {
        self.rcv.stamped(self.stamps.val(now), now);
        self.acked = self.rcv_nxt();
        self.sent_edge = self.wire_edge;
        self.ack_due = AckDue::No;
        self.reported(bare, c);
    }

    fn send_acks<P: Port>(&mut self, io: &mut Io<P>, c: &mut crate::config::Counters) -> Result<(), Served> {
        // A peer without SACK counts duplicate ACKs, one for each segment out of order (RFC 5681 §3.2).
        while self.dup_acks_due > 0 || self.ack_due == AckDue::Now || self.sacks.owes() {
            if io.deep(c) {
                return Err(Served::Again);
            }
            let f = self.fields(self.snd_max(), 0);
            if !io.control(&self.tmpl, &f, &self.options(io.now, true), c) {
                return Err(Served::Again);
            }
            c.tx_pure_acks += 1;
            self.count_out(0);
            self.dup_acks_due = self.dup_acks_due.saturating_sub(1);
            self.acked_now(true, io.now, c);
        }
        Ok(())
    }

    /// A segment without data, one before what is next: whoever gets it answers with an ACK.
    pub(crate) fn probe<P: Port>(&mut self, io: &mut Io<P>, c: &mut crate::config::Counters) -> bool {
        let mut f = self.fields(self.una, 0);
        f.seq = Seq(f.seq.0.wrapping_sub(1));
        self.count_out(0);
        io.control(&self.tmpl, &f, &self.options(io.now, true), c)
    }
}
