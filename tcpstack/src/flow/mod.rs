//! One connection, as far as the shim knows it beside smoltcp.
//!
//! ```text
//!   input   segments in, by RFC 9293 §3.10.7       output  fed to smoltcp, permitted, sent
//!      │                                              │
//!      └────┬──────────────┬──────────────┬───────────┴┬─────────────┐
//!         send           recv          scaled        timers         hop
//!   sent, acknowledged,  order, reader, smoltcp's     resends,       headers to the
//!   window, path         window, ACKs   socket        keep-alive     next hop
//! ```
//!
//! Each part has its fields to itself; `una <= sent <= permit` on the sending side, `fed <= nxt <= edge` on the receiving
//! one.

use std::net::SocketAddr;

use dataplane::pkt::Port;
use hugepages::{HeapRxPool, Lent, RxFrag};

use crate::config::{Counters, FlowCounters, KeepAlive, StackConfig};
use crate::ending::CloseWhy;
use crate::engine::Engine;
use crate::icmp_error::{Cause, Report};
use crate::io::Io;
use crate::memory::Memory;
use crate::neighbour::Neighbours;
use crate::opts::{OptBytes, Opts};
use crate::phantom::PhantomSocket;
use crate::phase::Phase;
use crate::seq::Seq;
use crate::stamps::Stamps;
use crate::stats::{ConnStats, Name, Seen};
use crate::table::Key;
use crate::timewait::Entry;
use crate::wire::{self, Fields, Mac, Seg};

mod hop;
mod input;
mod output;
mod recv;
pub(crate) mod scaled;
mod send;
mod timers;

pub(crate) use hop::Hop;
pub(crate) use input::{Cx, Fate};
pub(crate) use output::{Served, Serving};
use recv::RecvSide;
use scaled::Scaled;
use send::{SendSide, SynSays};
pub(crate) use timers::Expiry;
use timers::Timers;

/// A connection.
pub(crate) struct Flow {
    key: Key,
    /// The listener that it came to, of one that the peer began.
    listener: Option<u16>,
    opened: bool,
    syn_due: bool,
    /// It is over, for this reason; kept for bytes that are still to be read.
    why: Option<CloseWhy>,
    stamps: Stamps,
    timers: Timers,
    snd: SendSide,
    rcv: RecvSide,
    scaled: Scaled,
    hop: Hop,
    stats: FlowCounters,
    seen: Seen,
}

// A connection's own state beside smoltcp's socket: at most 26 cache lines.
const _: () = assert!(size_of::<Flow>() <= 1664);

/// Beginning of a connection.
pub(crate) struct Begun {
    pub(crate) key: Key,
    pub(crate) sock: PhantomSocket,
    pub(crate) hop: Hop,
    /// Our initial sequence number.
    pub(crate) iss: Seq,
    /// Offset of our timestamps.
    pub(crate) stamps: u32,
}

/// Result of an ICMP error for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heeded {
    /// Nothing: it quotes no segment that is out.
    No,
    /// It is remembered as the reason, should the peer stay silent.
    Noted,
    /// A packet was too big; the router names this MTU.
    TooBig(u32),
    /// A dial ends.
    Ends(CloseWhy),
}

impl Flow {
    /// A connection that begins with our SYN.
    pub(crate) fn dial(b: Begun, now: u64) -> Flow {
        let mut f = Flow::new(b, None, now);
        f.scaled.ask();
        f
    }

    /// A connection that begins with a SYN to listener `l`. `None` when smoltcp does not take that.
    pub(crate) fn accept(
        b: Begun,
        l: u16,
        (s, o): (&Seg, &Opts),
        own_mss: u16,
        (cfg, e, c): (&StackConfig, &mut Engine, &mut Counters),
        now: u64,
    ) -> Option<Flow> {
        let mut f = Flow::new(b, Some(l), now);
        f.take_syn(s, o, cfg, own_mss, now);
        f.scaled.feed_syn((e, c, &f.key), (&f.rcv, &f.snd), false, o.scale).then_some(f)
    }

    fn new(b: Begun, listener: Option<u16>, now: u64) -> Flow {
        let t = b.hop.tmpl();
        Flow {
            key: b.key,
            listener,
            opened: false,
            syn_due: false,
            why: None,
            stamps: Stamps::new(b.stamps),
            timers: Timers::new(now),
            snd: SendSide::new(b.iss, t.l3, t.v6()),
            rcv: RecvSide::new(now),
            scaled: Scaled::new(b.sock),
            hop: b.hop,
            stats: FlowCounters::default(),
            seen: Seen::new(now),
        }
    }

    /// Its SYN-ACK is out, as a cookie with window scale `scale`: smoltcp says its own to nobody. The round trip is not
    /// known. Whether smoltcp agrees.
    pub(crate) fn cookie_was_out(&mut self, scale: Option<u8>, e: &mut Engine, c: &mut Counters) -> bool {
        self.timers.syn_unseen();
        let Some(m) = self.scaled.emit(e).filter(|m| m.scale == scale) else { return false };
        self.scaled.record(&m, &mut self.rcv, &self.snd, c)
    }

    /// The SYN that it began with was a segment of its own.
    pub(crate) fn count_syn(&mut self) {
        self.stats.segs_in = 1;
    }

    /// The peer's SYN: its numbers, window and options. Ours offers, or will answer, what `cfg` says.
    fn take_syn(&mut self, s: &Seg, o: &Opts, cfg: &StackConfig, own_mss: u16, now: u64) {
        let sack = cfg.sack && o.sack_permitted;
        self.rcv.begin(s.seq, sack);
        if let Some(t) = o.ts.filter(|_| cfg.timestamps) {
            self.stamps.agree(t.val, now);
        }
        let named = o.mss.unwrap_or_else(|| wire::default_mss(self.key.is_v6()));
        let says = SynSays {
            window: s.win,
            seq: s.seq,
            scale: o.scale.unwrap_or(0),
            sack,
            stamps: self.stamps.on(),
            mss: named.clamp(wire::MIN_MSS, own_mss),
        };
        self.snd.begin(&says, cfg);
    }

    // ---- state ----

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn local(&self) -> SocketAddr {
        SocketAddr::new(self.key.local.to_ip(), self.key.lport())
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.key.remote.to_ip(), self.key.rport())
    }

    /// The connection's state: smoltcp's, which is fed what changes it at once, and before it address resolution.
    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        Phase::of(self.scaled.state(), self.hop.is_known())
    }

    /// The listener that it came to, of one that the peer began.
    pub(crate) fn listener(&self) -> Option<u16> {
        self.listener
    }

    /// The user was told of it, or has dialled it.
    pub(crate) fn is_known(&self) -> bool {
        self.listener.is_none() || self.opened
    }

    /// Whether headers have an IPv6 address.
    #[inline]
    pub(crate) fn v6(&self) -> bool {
        self.hop.tmpl().v6()
    }

    /// Everything before the first offset is acknowledged, everything before the second was sent.
    #[inline]
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.snd.una().min(self.snd.end()), self.snd.sent())
    }

    /// Everything before this offset was sent.
    #[inline]
    pub(crate) fn sent(&self) -> u64 {
        self.snd.sent()
    }

    // ---- the user ----

    /// Whether more may be pushed.
    #[inline]
    pub(crate) fn may_push(&self) -> bool {
        !self.snd.wants_fin() && self.phase().may_send()
    }

    #[inline]
    pub(crate) fn backlog(&self) -> u64 {
        self.snd.backlog()
    }

    /// Most that may be waiting for its acknowledgement, in bytes, where `least` is what is always allowed.
    #[inline]
    pub(crate) fn backlog_max(&self, least: u64) -> u64 {
        self.snd.backlog_max(least)
    }

    /// Appends to what is to be sent; returns the offset of the end.
    #[inline]
    pub(crate) fn push(&mut self, hdr: &[u8], pay: &[Lent]) -> u64 {
        self.snd.push(hdr, pay)
    }

    /// A FIN is to follow everything pushed.
    pub(crate) fn finish(&mut self) {
        self.snd.finish();
    }

    /// The next received bytes.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<RxFrag> {
        self.rcv.pop()
    }

    /// Bytes in order wait for the reader.
    #[inline]
    pub(crate) fn is_unread(&self) -> bool {
        self.rcv.is_unread()
    }

    /// Nobody reads any more.
    #[inline]
    pub(crate) fn discards(&self) -> bool {
        self.rcv.discards()
    }

    /// The reader gives `bytes` back. Whether the connection is to be served for that: the peer should hear of it, or
    /// smoltcp, which offers a window when it has doubled, has something to say.
    #[inline]
    pub(crate) fn credit(&mut self, bytes: u32, rx_window: u32, step: u64, now: u64) -> bool {
        if !self.rcv.credit(bytes) {
            return false;
        }
        let pace = (self.snd.rtt().srtt(), self.snd.mss());
        self.rcv.on_read(self.scaled.edge(), pace, step, now)
            || self.scaled.wants_poll(&self.rcv, &self.snd, rx_window)
    }

    /// The reader has gone. Returns the bytes in order that nobody has read. The peer has `patience` (ns) to take those
    /// that it is still to be sent.
    pub(crate) fn discard(&mut self, m: &mut Memory, now: u64, patience: u64) -> u64 {
        if !self.rcv.discards() && self.phase().synchronised() {
            self.timers.hurry(now, patience);
        }
        self.rcv.discard(m)
    }

    // ---- memory ----

    /// It shares receive memory with the other connections of its peer's address.
    pub(crate) fn join(&mut self, m: &mut Memory) {
        self.rcv.join(m, &self.key.remote);
    }

    /// It is forgotten: its host holds nothing for it any more.
    pub(crate) fn leave(&mut self, m: &mut Memory) {
        self.rcv.leave(m);
    }

    /// Bytes were received in order.
    #[inline]
    pub(crate) fn received(&mut self, n: u64, m: &mut Memory, pool: &HeapRxPool, c: &mut Counters, now: u64) {
        self.rcv.received(m, pool, c, now);
        self.stats.rx_bytes += n;
    }

    /// The window is held back for want of pool memory.
    #[inline]
    pub(crate) fn is_starved(&self) -> bool {
        self.rcv.is_starved()
    }

    /// Offers more window, as far as memory goes. Whether the edge moved.
    pub(crate) fn advance_edge(&mut self, m: &mut Memory, now: u64, mss: u16) -> bool {
        self.rcv.advance_edge(self.scaled.edge(), m, now, mss, &mut self.stats)
    }

    // ---- below IP ----

    pub(crate) fn hop(&self) -> &Hop {
        &self.hop
    }

    /// The next hop of a dial is at `mac`, as of `epoch`.
    pub(crate) fn hop_found(&mut self, mac: Mac, epoch: u32) {
        self.hop.found(mac, epoch);
    }

    /// Goes where the next hop is by now.
    #[inline]
    pub(crate) fn follow(&mut self, n: &Neighbours) {
        self.hop.follow(n);
    }

    // ---- time ----

    /// Time at which the earliest thing that it waits for is due (ns).
    #[inline]
    pub(crate) fn deadline(&self, keepalive: Option<&KeepAlive>) -> u64 {
        let at = self.timers.at();
        keepalive.filter(|_| self.is_idle()).map_or(at, |k| at.min(self.timers.keepalive_at(k)))
    }

    /// It is open, and nothing is out.
    #[inline]
    fn is_idle(&self) -> bool {
        self.snd.is_quiet() && self.phase().synchronised()
    }

    /// Acts on a timer that may have come.
    pub(crate) fn on_timer(&mut self, cx: &mut Cx<'_>) -> Expiry {
        let says = (self.is_idle(), self.listener.is_some(), self.scaled.permit());
        let expiry = self.timers.expire(says, &mut self.snd, &self.rcv, &mut self.stats, cx);
        self.syn_due |= expiry == Expiry::Syn;
        expiry
    }

    /// Two time-outs in a row, or keep-alive probes without an answer, and each further one: the next hop may be
    /// another one, and the last answer to the question about it may have been a forger's.
    pub(crate) fn doubts_hop(&self) -> bool {
        self.snd.rtt().backoff() >= 2 || self.timers.unanswered() >= 2
    }

    /// The link is back: an answer that is waited for is asked for again at `at` (ns). Whether there is one.
    pub(crate) fn link_is_back(&mut self, at: u64) -> bool {
        let waits = self.timers.link_is_back(at);
        if waits {
            self.snd.path_is_back(at);
        }
        waits
    }

    // ---- the path ----

    /// Whether a larger segment size is to be tried at `now` (ns).
    #[inline]
    pub(crate) fn path_due(&self, now: u64) -> bool {
        self.snd.path_due(now)
    }

    /// A router has said that `mtu` bytes are the most; that counts until then (ns).
    pub(crate) fn path_told(&mut self, mtu: u16, until: u64) {
        self.snd.path_told(mtu, until);
    }

    /// The size in use has aged: `heard` is what another connection has heard since. Whether a larger one is tried.
    pub(crate) fn path_aged(&mut self, heard: Option<(u16, u64)>, cfg: &StackConfig, now: u64) -> bool {
        self.snd.path_aged(heard, cfg, now)
    }

    /// A router said that `mtu` bytes are the most. Whether segments are smaller from here on.
    pub(crate) fn too_big(&mut self, mtu: u16, cfg: &StackConfig, now: u64) -> bool {
        self.snd.too_big(mtu, cfg, now)
    }

    /// The largest IP packet sent, in bytes.
    pub(crate) fn packet_size(&self) -> u16 {
        self.snd.packet_size()
    }

    /// Judges an ICMP error that names this connection.
    pub(crate) fn heed(&mut self, r: &Report) -> Heeded {
        match self.phase() {
            Phase::SynSent if r.seq == self.snd.iss() => match r.cause {
                Cause::Refused => return Heeded::Ends(CloseWhy::Refused),
                Cause::Prohibited => return Heeded::Ends(CloseWhy::Unreachable),
                Cause::Soft => (),
                Cause::TooBig(_) => return Heeded::No,
            },
            Phase::Resolve | Phase::SynSent | Phase::SynReceived | Phase::TimeWait | Phase::Closed => {
                return Heeded::No;
            }
            _ => match (self.snd.is_out(r.seq), r.cause) {
                (None, _) | (Some(false), Cause::TooBig(_)) => return Heeded::No,
                (Some(true), Cause::TooBig(mtu)) => return Heeded::TooBig(mtu),
                // RFC 5927 §5.2: what would be hard is soft once both ends are synchronised.
                (Some(_), Cause::Refused | Cause::Prohibited | Cause::Soft) => (),
            },
        }
        self.snd.told_unreachable();
        Heeded::Noted
    }

    /// Reason why it ends if the peer stays silent.
    pub(crate) fn silent_why(&self) -> CloseWhy {
        if self.phase() == Phase::SynReceived { CloseWhy::Timeout } else { self.snd.silent_why() }
    }

    // ---- its end ----

    /// Ends it at once, with a RST where there is somebody to tell.
    pub(crate) fn abort<P: Port>(&mut self, why: CloseWhy, e: &mut Engine, io: &mut Io<P>, c: &mut Counters) {
        // In SYN-SENT there is nobody to tell (RFC 9293 §3.10.5), nor where no SYN-ACK was answered.
        let phase = self.phase();
        let mute = phase == Phase::SynReceived && why == CloseWhy::Timeout;
        self.scaled.abort();
        if mute || matches!(phase, Phase::Resolve | Phase::SynSent | Phase::Closed) {
            return;
        }
        // smoltcp says whether a RST is due; where it is, the numbers are the shim's.
        if self.scaled.emit(e).is_some_and(|m| m.flags & wire::RST != 0) {
            let r = Fields { win: 0, ..self.fields(self.snd.nxt(), wire::RST) };
            let o = OptBytes::plain(self.stamps.option(io.now()));
            io.control(self.hop.tmpl(), &r, &o, c);
        }
    }

    /// It is over: nothing is sent or taken in any more, and only what came in order is kept. The first reason stands;
    /// whether this is the first.
    pub(crate) fn end(&mut self, why: CloseWhy) -> (bool, CloseWhy) {
        let first = self.why.is_none();
        (first, *self.why.get_or_insert(why))
    }

    /// Lets go of all but what came in order.
    pub(crate) fn let_go(&mut self, m: &mut Memory) {
        self.scaled.abort();
        self.snd.clear();
        self.rcv.end_of_all(m);
        self.timers.stop();
    }

    /// Both sides are done: the entry that remains of it.
    pub(crate) fn time_wait(&mut self) -> Entry {
        self.scaled.abort();
        Entry {
            key: self.key,
            snd_nxt: self.snd.seq(self.snd.nxt()),
            rcv_nxt: self.rcv.seq(self.rcv.nxt()),
            win: self.rcv.window_field(),
            until: 0,
            ts: self.stamps.recent(),
        }
    }

    // ---- for those who ask ----

    pub(crate) fn counters(&self, cfg: &StackConfig) -> FlowCounters {
        let mut n = FlowCounters { ooo_truesize: self.rcv.out_of_order(), ..self.stats };
        self.snd.count(&mut n, &cfg.rto);
        n
    }

    /// Names of the state of loss recovery and of congestion control.
    pub(crate) fn names(&self) -> (&'static str, &'static str) {
        self.snd.names()
    }

    /// Memory of the state and the queues, in bytes.
    pub(crate) fn memory(&self) -> usize {
        size_of::<Flow>() + self.snd.memory() + self.rcv.memory()
    }

    /// The connection as of `now` (ns), through a port of this MTU.
    pub(crate) fn conn_stats(&self, now: u64, cfg: &StackConfig, mtu: u16) -> ConnStats {
        let n = &self.stats;
        let phase = self.phase();
        let open = phase.synchronised();
        let mut r = ConnStats {
            passive: Some(self.listener.is_some()),
            algorithm: Name::from(self.snd.names().1).ok(),
            timestamps: open.then(|| self.stamps.on()),
            sack: open.then_some(self.rcv.sack()),
            bytes_sent: Some(n.bytes_sent),
            bytes_retrans: Some(n.resent_bytes),
            bytes_acked: Some(n.acked_bytes),
            bytes_received: Some(n.rx_bytes),
            segs_out: Some(n.segs_out),
            segs_in: Some(n.segs_in),
            data_segs_out: Some(n.data_segs_out),
            data_segs_in: Some(n.data_segs_in),
            retransmits: Some(n.resent),
            rtos: Some(n.rto),
            tlps: Some(n.tlp_probes),
            tlp_recoveries: Some(n.tlp_recoveries),
            fast_recoveries: Some(n.fast_recoveries),
            undone: Some(n.undone),
            dup_acks: Some(n.dup_acks),
            sack_blocks: Some(n.sack_blocks),
            sack_blocks_out: Some(n.sack_blocks_out),
            dsacks: Some(n.dsacks),
            dsacks_out: Some(n.dsacks_out),
            out_of_order: Some(n.out_of_order),
            snd_wscale: open.then_some(u64::from(self.snd.scale())),
            rcv_wscale: open.then_some(u64::from(self.rcv.scale())),
            pmtu: Some(u64::from(self.snd.packet_size().min(mtu))),
            last_ack_ago_ns: open.then(|| now.saturating_sub(self.timers.last_rx())),
            ..ConnStats::new(self.local(), self.remote(), phase)
        };
        self.snd.report(&mut r, &cfg.rto);
        self.rcv.report(&mut r);
        self.seen.report(&mut r, now);
        r
    }
}
