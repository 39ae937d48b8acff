//! One connection: what the shim knows beside smoltcp.
//!
//! Offsets are of the stream (0 is the first byte); the FIN takes one more. `una <= sent <= permit <= fed_end` on the
//! sending side, where the last two are whole units ([`crate::scaled`]) and may lie beyond what was pushed; `fed <= nxt
//! <= wire_edge <= smol_edge` on the receiving side.

use std::collections::VecDeque;

use hugepages::RxFrag;

use crate::addr::Addr;
use crate::cc::Congestion;
use crate::config::FlowCounters;
use crate::ending::CloseWhy;
use crate::opts::TS_LEN;
use crate::phantom::PhantomSocket;
use crate::phase::Phase;
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
use crate::window::RxWindow;
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
    /// The next hop is known: until then there is no SYN to send.
    pub(crate) resolved: bool,
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
    /// Nobody reads: what comes is acknowledged and discarded.
    pub(crate) discards: bool,
    /// It is over, for this reason; kept for what is still to be read.
    pub(crate) why: Option<CloseWhy>,
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
    /// The peer's window, in bytes from `una`.
    pub(crate) wnd: u32,
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
    /// Units that smoltcp knows to be acknowledged.
    pub(crate) fed_acks: u64,
    /// Window field that it was shown last.
    pub(crate) fed_win: Option<u16>,

    // receiving
    pub(crate) irs: Seq,
    pub(crate) nxt: u64,
    pub(crate) fed: u64,
    /// Highest offset acknowledged on the wire, and by smoltcp.
    pub(crate) acked: u64,
    pub(crate) smol_acked: u64,
    pub(crate) smol_edge: u64,
    pub(crate) wire_edge: u64,
    /// `wire_edge` as the peer last heard of it.
    pub(crate) sent_edge: u64,
    pub(crate) fin_at: u64,
    pub(crate) rcv_scale: u8,
    pub(crate) offer_scale: Option<u8>,
    pub(crate) ready: VecDeque<RxFrag>,
    /// Pool memory behind them.
    pub(crate) ready_size: u64,
    pub(crate) rcv: RxWindow,
    pub(crate) handed: u64,
    pub(crate) credited: u64,
    /// Units given back to smoltcp's buffer.
    pub(crate) given: u64,
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

// A connection's own state beside smoltcp's socket: at most 26 cache lines.
const _: () = assert!(size_of::<Flow>() <= 1664);

impl Flow {
    pub(crate) fn new(key: Key, sock: PhantomSocket, tmpl: Template, next_hop: Addr, now: u64) -> Flow {
        Flow {
            key,
            resolved: false,
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
            discards: false,
            why: None,
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
            fed_acks: 0,
            fed_win: None,
            irs: Seq(0),
            nxt: 0,
            fed: 0,
            acked: 0,
            smol_acked: 0,
            smol_edge: 0,
            wire_edge: 0,
            sent_edge: 0,
            fin_at: NO_FIN,
            rcv_scale: 0,
            offer_scale: None,
            ready: VecDeque::new(),
            ready_size: 0,
            rcv: RxWindow::new(now),
            handed: 0,
            credited: 0,
            given: 0,
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

    /// The connection's state: smoltcp's, which is fed what changes it at once, and before it address resolution.
    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        Phase::of(self.sock.get().state(), self.resolved)
    }

    /// The peer has acknowledged our FIN.
    #[inline]
    pub(crate) fn fin_acked(&self) -> bool {
        self.fin_sent && self.una > self.shadow.end()
    }

    /// It is over: smoltcp's socket is closed, whatever its state was. Nothing is asked of it any more.
    pub(crate) fn shut(&mut self) {
        self.sock.with(|s| s.abort());
    }

    pub(crate) fn set_clock(&mut self, c: Clock, at: u64) {
        self.clock = c;
        self.clock_at = at;
    }

    /// A SYN's window, which is never scaled.
    pub(crate) fn syn_window(&mut self, win: u16, seq: Seq) {
        (self.wnd, self.wl1) = (u32::from(win), seq);
        self.max_wnd = self.wnd;
    }
}
