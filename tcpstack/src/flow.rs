//! One connection: what the shim knows beside smoltcp.
//!
//! Offsets are of the stream (0 is the first byte); the FIN takes one more. `una <= sent <= permit <= fed_end <=
//! shadow.end()` on the sending side; `fed <= nxt <= wire_edge <= smol_edge` on the receiving side.

use std::collections::VecDeque;

use hugepages::RxFrag;

use crate::addr::Addr;
use crate::cc::Congestion;
use crate::config::{Counters, FlowCounters};
use crate::engine::{Emission, Engine, FEED_MAX, Feed, State};
use crate::opts::TS_LEN;
use crate::phantom::PhantomSocket;
use crate::phase::{Ev, Phase};
use crate::pmtu::Path;
use crate::reasm::Reasm;
use crate::rtt::Rtt;
use crate::sack::Sacks;
use crate::sender::Sender;
use crate::seq::Seq;
use crate::shadow::Shadow;
use crate::stamps::Stamps;
use crate::stats::Seen;
use crate::table::Key;
use crate::wire::{self, Template};

/// What the one resend timer of a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    Off,
    /// SYN or SYN-ACK unanswered.
    Syn,
    /// Data or FIN unacknowledged: reordering window, probe or time-out, whatever [`Sender::deadline`] says.
    Data,
    /// The peer's window is shut and data waits.
    Persist,
    /// Our FIN is acknowledged, the peer's has not come.
    Fin,
}

/// Whether an ACK has to go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AckDue {
    No,
    /// With data, or at the next turn.
    Soon,
    /// At this turn.
    Now,
}

pub(crate) const NO_FIN: u64 = u64::MAX;

pub(crate) struct Flow {
    pub(crate) key: Key,
    pub(crate) phase: Phase,
    /// In the list of connections to serve.
    pub(crate) queued: bool,
    pub(crate) ev_readable: bool,
    pub(crate) ev_progress: bool,
    pub(crate) opened: bool,
    pub(crate) passive: bool,
    pub(crate) want_fin: bool,
    pub(crate) fin_permit: bool,
    pub(crate) fin_sent: bool,
    pub(crate) fin_rcvd: bool,
    pub(crate) fin_fed: bool,
    pub(crate) syn_due: bool,
    /// smoltcp has to be asked whether or not there is other reason to.
    pub(crate) poll: bool,
    /// The window is held back for want of pool memory; `waits` while it is on the list of such.
    pub(crate) starved: bool,
    pub(crate) waits: bool,
    pub(crate) ack_due: AckDue,
    pub(crate) dup_acks_due: u8,

    // sending
    pub(crate) una: u64,
    pub(crate) sent: u64,
    pub(crate) permit: u64,
    pub(crate) fed_end: u64,
    pub(crate) iss: Seq,
    /// Our number on the wire less smoltcp's.
    pub(crate) delta: u32,
    /// The peer's window, in bytes from `una`, and as the field.
    pub(crate) wnd: u32,
    pub(crate) wnd_field: u16,
    pub(crate) wnd_news: bool,
    pub(crate) max_wnd: u32,
    pub(crate) wl1: Seq,
    pub(crate) snd_scale: u8,
    /// Payload of a full segment: the path's MSS less the options that each segment carries.
    pub(crate) mss: u16,
    pub(crate) path: Path,
    /// Where a try of the full size began.
    pub(crate) trial_from: u64,
    /// The network said that the peer cannot be reached.
    pub(crate) soft_error: bool,
    pub(crate) stamps: Stamps,
    /// Both SYNs had SACK permitted.
    pub(crate) sack_ok: bool,
    pub(crate) fed_una: u64,

    // receiving
    pub(crate) irs: Seq,
    pub(crate) nxt: u64,
    pub(crate) fed: u64,
    /// Highest offset acknowledged on the wire, and by smoltcp.
    pub(crate) acked: u64,
    pub(crate) smol_acked: u64,
    pub(crate) smol_edge: u64,
    pub(crate) wire_edge: u64,
    pub(crate) fin_at: u64,
    pub(crate) rcv_scale: u8,
    pub(crate) offer_scale: Option<u8>,
    pub(crate) ready: VecDeque<RxFrag>,
    pub(crate) handed: u64,
    pub(crate) credited: u64,
    pub(crate) credit_due: u32,
    /// Recent payload and the pool memory behind it: what a window costs.
    pub(crate) density: (u32, u32),

    pub(crate) clock: Clock,
    pub(crate) clock_at: u64,
    pub(crate) tries: u8,
    pub(crate) stuck_since: u64,
    pub(crate) last_rx: u64,
    pub(crate) probes: u8,
    pub(crate) challenge_at: u64,

    pub(crate) tmpl: Template,
    pub(crate) next_hop: Addr,
    /// [`crate::neighbour::Neighbours::epoch`] at which `tmpl` has the next hop's place.
    pub(crate) hop_epoch: u32,
    pub(crate) listener: u16,
    pub(crate) rtt: Rtt,
    pub(crate) tx: Sender,
    pub(crate) ooo: Reasm,
    pub(crate) sacks: Sacks,
    pub(crate) shadow: Shadow,
    pub(crate) stats: FlowCounters,
    pub(crate) seen: Seen,
    pub(crate) sock: PhantomSocket,
}

// A connection's own state beside smoltcp's socket: at most 24 cache lines.
const _: () = assert!(size_of::<Flow>() <= 1536);

impl Flow {
    pub(crate) fn new(key: Key, sock: PhantomSocket, tmpl: Template, next_hop: Addr, now: u64) -> Flow {
        Flow {
            key,
            phase: Phase::Resolve,
            queued: false,
            ev_readable: false,
            ev_progress: false,
            opened: false,
            passive: false,
            want_fin: false,
            fin_permit: false,
            fin_sent: false,
            fin_rcvd: false,
            fin_fed: false,
            syn_due: false,
            poll: false,
            starved: false,
            waits: false,
            ack_due: AckDue::No,
            dup_acks_due: 0,
            una: 0,
            sent: 0,
            permit: 0,
            fed_end: 0,
            iss: Seq(0),
            delta: 0,
            wnd: 0,
            wnd_field: 0,
            wnd_news: false,
            max_wnd: 0,
            wl1: Seq(0),
            snd_scale: 0,
            mss: wire::DEFAULT_MSS,
            path: Path::default(),
            trial_from: 0,
            soft_error: false,
            stamps: Stamps::default(),
            sack_ok: false,
            fed_una: 0,
            irs: Seq(0),
            nxt: 0,
            fed: 0,
            acked: 0,
            smol_acked: 0,
            smol_edge: 0,
            wire_edge: 0,
            fin_at: NO_FIN,
            rcv_scale: 0,
            offer_scale: None,
            ready: VecDeque::new(),
            handed: 0,
            credited: 0,
            credit_due: 0,
            density: (1, 1),
            clock: Clock::Off,
            clock_at: u64::MAX,
            tries: 0,
            stuck_since: now,
            last_rx: now,
            probes: 0,
            challenge_at: 0,
            tmpl,
            next_hop,
            hop_epoch: 0,
            listener: u16::MAX,
            rtt: Rtt::default(),
            tx: Sender::new(Congestion::default(), u32::from(wire::DEFAULT_MSS), false, 0),
            ooo: Reasm::default(),
            sacks: Sacks::default(),
            shadow: Shadow::default(),
            stats: FlowCounters::default(),
            seen: Seen::new(now),
            sock,
        }
    }

    /// Takes the path's MSS, in bytes without any options (RFC 6691).
    pub(crate) fn set_mss(&mut self, path: u16) {
        self.mss = path.max(wire::MIN_MSS) - if self.stamps.on() { TS_LEN } else { 0 };
    }

    /// Sequence number on the wire of a sending offset.
    #[inline]
    pub(crate) fn snd_seq(&self, off: u64) -> Seq {
        self.iss.plus(1).plus(off)
    }

    /// Sequence number of a receiving offset.
    #[inline]
    pub(crate) fn rcv_seq(&self, off: u64) -> Seq {
        self.irs.plus(1).plus(off)
    }

    /// Next offset expected, the FIN counted.
    #[inline]
    pub(crate) fn rcv_nxt(&self) -> u64 {
        self.nxt + u64::from(self.fin_rcvd)
    }

    /// One past the highest offset sent, the FIN counted.
    #[inline]
    pub(crate) fn snd_max(&self) -> u64 {
        self.sent + u64::from(self.fin_sent)
    }

    /// Bytes pushed and not acknowledged.
    pub(crate) fn backlog(&self) -> u64 {
        self.shadow.end() - self.una.min(self.shadow.end())
    }

    pub(crate) fn go(&mut self, ev: Ev) -> bool {
        match self.phase.next(ev) {
            Some(p) => {
                self.phase = p;
                true
            }
            None => false,
        }
    }

    pub(crate) fn set_clock(&mut self, c: Clock, at: u64) {
        self.clock = c;
        self.clock_at = at;
    }

    /// A SYN's window, which is never scaled.
    pub(crate) fn syn_window(&mut self, win: u16, seq: Seq) {
        (self.wnd, self.wnd_field, self.wl1) = (u32::from(win), win, seq);
        self.max_wnd = self.wnd;
    }

    /// Feeds the peer's SYN.
    pub(crate) fn feed_syn(
        &mut self,
        e: &mut Engine,
        c: &mut Counters,
        acks: bool,
        scale: Option<u8>,
    ) -> Option<Emission> {
        let f = Feed {
            seq: self.irs,
            ack: acks.then(|| Seq(self.iss.plus(1).0.wrapping_sub(self.delta))),
            flags: wire::SYN,
            win: self.wnd_field,
            scale,
        };
        c.fed += 1;
        self.poll = true;
        e.feed(&mut self.sock, &self.key, &f, 0)
    }

    /// Brings smoltcp up to date: acknowledgement, window, data in order, FIN. `false` when it does not take what
    /// it must.
    pub(crate) fn feed(&mut self, e: &mut Engine, c: &mut Counters) -> bool {
        loop {
            let n = (self.nxt - self.fed).min(u64::from(FEED_MAX)) as u32;
            let fin = self.fin_rcvd && !self.fin_fed && self.fed + u64::from(n) == self.fin_at;
            let acks = self.una > self.fed_una;
            // A window alone matters only while there may be something to send; in LAST-ACK smoltcp would answer.
            let window = self.wnd_news && self.phase.may_send();
            if n == 0 && !fin && !acks && !window {
                return true;
            }
            let f = Feed {
                seq: self.rcv_seq(self.fed + u64::from(self.fin_fed)),
                ack: Some(Seq(self.snd_seq(self.una).0.wrapping_sub(self.delta))),
                flags: if fin { wire::FIN } else { 0 },
                win: self.wnd_field,
                scale: None,
            };
            let before = self.sock.get().recv_queue();
            c.fed += 1;
            let answer = e.feed(&mut self.sock, &self.key, &f, n);
            self.fed += u64::from(n);
            self.fed_una = self.una;
            self.wnd_news = false;
            self.fin_fed |= fin;
            if answer.is_some() || self.sock.get().recv_queue() != before + n as usize {
                return false;
            }
        }
    }

    /// Whether smoltcp is where the shim thinks it is.
    pub(crate) fn agrees(&self) -> bool {
        let s = self.sock.get();
        match self.phase {
            Phase::Resolve | Phase::SynSent => s.state() == State::SynSent,
            Phase::SynReceived => s.state() == State::SynReceived,
            Phase::Established => s.state() == State::Established,
            Phase::FinWait1 => s.state() == State::FinWait1,
            Phase::FinWait2 => s.state() == State::FinWait2,
            Phase::CloseWait => s.state() == State::CloseWait,
            Phase::Closing => s.state() == State::Closing,
            Phase::LastAck => s.state() == State::LastAck,
            Phase::TimeWait => s.state() == State::TimeWait,
            Phase::Closed => s.state() == State::Closed,
        }
    }

    /// Hands pushed bytes to smoltcp as far as its buffer goes, and gives credited ones back.
    pub(crate) fn exchange(&mut self) {
        let mut give = std::mem::take(&mut self.credit_due) as usize;
        let mut want = (self.shadow.end() - self.fed_end) as usize;
        if give == 0 && want == 0 {
            return;
        }
        let mut taken = 0;
        self.sock.with(|s| {
            // Twice, for the rings' wrap.
            for _ in 0..2 {
                if give > 0 {
                    give -= s.recv(|b| (b.len().min(give), b.len().min(give))).unwrap_or(0);
                }
                if want > 0 {
                    let n = s.send(|b| (b.len().min(want), b.len().min(want))).unwrap_or(0);
                    want -= n;
                    taken += n as u64;
                }
            }
        });
        self.fed_end += taken;
        // Nothing is left but when smoltcp has not been fed what was read.
        self.credit_due = give as u32;
    }

    /// Takes in what smoltcp emitted.
    pub(crate) fn record(&mut self, m: &Emission, c: &mut Counters) {
        c.emitted += 1;
        if m.flags & wire::SYN != 0 {
            self.delta = self.iss.0.wrapping_sub(m.seq.0);
            self.offer_scale = m.scale;
            self.rcv_scale = m.scale.unwrap_or(0);
            self.smol_edge = u64::from(m.win);
            self.wire_edge = self.smol_edge;
            self.syn_due = true;
            return;
        }
        if m.flags & wire::RST != 0 {
            return;
        }
        let seq = Seq(m.seq.0.wrapping_add(self.delta));
        let off = (self.una as i64 + i64::from(seq.since(self.snd_seq(self.una)))).max(0) as u64;
        let end = off + u64::from(m.plen);
        if m.plen > 0 {
            if off < self.permit {
                c.smoltcp_resent += self.permit.min(end) - off;
            }
            self.permit = self.permit.max(end.min(self.shadow.end()));
        }
        if m.flags & wire::FIN != 0 {
            self.fin_permit = true;
        }
        let ack = self.fed + u64::from(self.fin_fed);
        let news = ack > self.smol_acked;
        self.smol_acked = ack;
        // The field is rounded down, so smoltcp's own edge may step back by less than one unit of the scale.
        let edge = ack + (u64::from(m.win) << self.rcv_scale);
        self.smol_edge = self.smol_edge.max(edge.saturating_sub((1 << self.rcv_scale) - 1));
        if news || m.plen == 0 {
            self.ack_due = self.ack_due.max(if news { AckDue::Now } else { AckDue::Soon });
        }
    }

    /// Whether asking smoltcp for segments can bring anything.
    pub(crate) fn wants_poll(&self, rx_window: u32) -> bool {
        // Bytes may be read, and credited, before smoltcp has seen them: it is fed when the flow is served.
        let held = self.fed.saturating_sub(self.credited);
        let window = u64::from(rx_window).saturating_sub(held);
        let offered = self.smol_edge.saturating_sub(self.rcv_nxt());
        self.poll
            || (self.permit < self.fed_end && self.permit < self.una + u64::from(self.wnd))
            || self.smol_acked < self.fed + u64::from(self.fin_fed)
            || (window / 2 >= offered && window > 0)
    }
}
