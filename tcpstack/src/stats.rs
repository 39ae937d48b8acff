//! A connection seen from outside: what `ss -ti` shows of the kernel's, under the names that RFCs and `ss` use.
//!
//! [`ConnStats`] is a copy, made when somebody asks ([`Stack::connection`], [`Stack::connections`]); making one
//! allocates nothing. A value is `None` where it does not exist (no round trip was measured yet) or where what
//! carries the connection does not tell.

use std::net::SocketAddr;

use arrayvec::ArrayString;
use dataplane::pkt::Port;
use hugepages::RxFrag;

use crate::config::FlowCounters;
use crate::flow::Flow;
use crate::phase::Phase;
use crate::stack::{FlowId, Slot, Stack};
use crate::table::FlowTable;
use crate::wheel::Wheel;

/// The name of an algorithm, as `ss` prints it.
pub type Name = ArrayString<16>;

macro_rules! stats {
    ($($(#[$d:meta])* $f:ident,)*) => {
        /// One connection. Bytes are of payload; times are in ns, `_ago` ones before the time of asking.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct ConnStats {
            /// Our address and port.
            pub local: SocketAddr,
            /// The peer's.
            pub remote: SocketAddr,
            /// State (RFC 9293 §3.3.2).
            pub state: Phase,
            /// The peer began it.
            pub passive: Option<bool>,
            /// Congestion control algorithm.
            pub algorithm: Option<Name>,
            /// What loss recovery is at: `open`, `disorder`, `recovery` or `loss`.
            pub recovery: Option<&'static str>,
            /// Timestamps were negotiated (RFC 7323).
            pub timestamps: Option<bool>,
            /// Selective acknowledgement was negotiated (RFC 2018).
            pub sack: Option<bool>,
            $($(#[$d])* pub $f: Option<u64>,)*
        }

        impl ConnStats {
            /// A connection of which only addresses and state are known.
            pub fn new(local: SocketAddr, remote: SocketAddr, state: Phase) -> ConnStats {
                ConnStats {
                    local,
                    remote,
                    state,
                    passive: None,
                    algorithm: None,
                    recovery: None,
                    timestamps: None,
                    sack: None,
                    $($f: None,)*
                }
            }

            /// Every number by name, unknown ones included.
            pub fn each(&self, mut f: impl FnMut(&'static str, Option<u64>)) {
                $(f(stringify!($f), self.$f);)*
            }
        }
    };
}

stats! {
    /// Bytes received in order and not read yet.
    recv_queue,
    /// Bytes pushed and not acknowledged.
    backlog,
    /// Bytes pushed and not sent.
    not_sent,
    /// Bytes sent and not acknowledged.
    in_flight,
    /// Bytes taken to be on their way (RFC 6675 `pipe`).
    pipe,
    /// Bytes taken to be lost and not sent again yet.
    lost,
    /// Bytes that the peer holds out of order, as its SACK blocks say.
    sacked,
    /// Congestion window (RFC 5681), in bytes.
    cwnd,
    /// Slow start threshold, in bytes; unknown until the first loss.
    ssthresh,
    /// Bytes sent, resent ones included.
    bytes_sent,
    /// Bytes sent again.
    bytes_retrans,
    /// Bytes acknowledged by the peer.
    bytes_acked,
    /// Bytes received in order.
    bytes_received,
    /// Segments sent, as they are on the wire.
    segs_out,
    /// Segments received (a packet that the device joined is one).
    segs_in,
    /// Segments sent with payload.
    data_segs_out,
    /// Segments received with payload.
    data_segs_in,
    /// Frames sent again.
    retransmits,
    /// Retransmission time-outs (RFC 6298).
    rtos,
    /// Tail loss probes sent (RFC 8985).
    tlps,
    /// Losses that a tail loss probe repaired.
    tlp_recoveries,
    /// Fast recoveries begun (RFC 5681).
    fast_recoveries,
    /// Reductions of the window undone, since nothing had been lost (RFC 3708, 4015).
    undone,
    /// SACK blocks received (RFC 2018).
    sack_blocks,
    /// SACK blocks sent.
    sack_blocks_out,
    /// Duplicates that the peer reported (RFC 2883).
    dsacks,
    /// Duplicates that we reported.
    dsacks_out,
    /// Reordering taken into account, in segments: where loss is told by counting.
    reordering,
    /// Reordering taken into account, as a time: where loss is told by time (RFC 8985).
    reo_wnd_ns,
    /// Duplicate ACKs received (RFC 5681).
    dup_acks,
    /// Segments received before their turn.
    out_of_order,
    /// Pool memory behind data out of order, in bytes.
    out_of_order_bytes,
    /// Smoothed round-trip time.
    srtt_ns,
    /// Its variation (RFC 6298).
    rttvar_ns,
    /// The shortest round trip measured.
    min_rtt_ns,
    /// Retransmission time-out now.
    rto_ns,
    /// Time-outs in a row: each has doubled the time-out.
    backoff,
    /// The peer's window, in bytes.
    snd_wnd,
    /// The window that the peer was last offered, in bytes.
    rcv_wnd,
    /// Window scale of the peer.
    snd_wscale,
    /// Our window scale.
    rcv_wscale,
    /// Most payload of a segment sent, in bytes.
    mss,
    /// Most bytes of a packet to the peer, IP header included.
    pmtu,
    /// Time that the peer's window was shut.
    snd_zero_window_ns,
    /// Time that the window we offer was shut.
    rcv_zero_window_ns,
    /// Time since the connection was begun.
    age_ns,
    /// When payload was last sent.
    last_send_ago_ns,
    /// When payload was last received.
    last_recv_ago_ns,
    /// When the peer last acknowledged anything, old or new.
    last_ack_ago_ns,
}

/// How long something was shut.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shut {
    since: Option<u64>,
    total: u64,
}

impl Shut {
    /// Says how it is now.
    #[inline]
    pub(crate) fn is(&mut self, shut: bool, now: u64) {
        if shut != self.since.is_some() {
            match self.since.take() {
                Some(t) => self.total += now.saturating_sub(t),
                None => self.since = Some(now),
            }
        }
    }

    /// Time shut, in ns, up to `now`.
    pub(crate) fn total(&self, now: u64) -> u64 {
        self.total + self.since.map_or(0, |t| now.saturating_sub(t))
    }
}

/// What a connection remembers for those who ask, beside its counters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) born: u64,
    /// When payload was last sent, and received.
    pub(crate) sent: Option<u64>,
    pub(crate) received: Option<u64>,
    /// The peer's window, and ours.
    pub(crate) snd_shut: Shut,
    pub(crate) rcv_shut: Shut,
}

impl Seen {
    pub(crate) fn new(now: u64) -> Seen {
        Seen { born: now, sent: None, received: None, snd_shut: Shut::default(), rcv_shut: Shut::default() }
    }
}

impl Flow {
    /// Counts a frame that was sent with `bytes` of payload.
    #[inline]
    pub(crate) fn count_out(&mut self, bytes: u32) {
        let mss = u32::from(self.mss);
        let segs = if bytes <= mss { 1 } else { u64::from(bytes.div_ceil(mss)) };
        self.stats.segs_out += segs;
        if bytes > 0 {
            self.stats.data_segs_out += segs;
            self.stats.bytes_sent += u64::from(bytes);
        }
    }

    /// Notes whether the windows are shut.
    #[inline]
    pub(crate) fn see_windows(&mut self, now: u64) {
        if self.phase().synchronised() {
            self.seen.snd_shut.is(self.wnd == 0, now);
            self.seen.rcv_shut.is(self.window_field() == 0, now);
        }
    }

    fn conn_stats(&self, now: u64, cfg: &crate::config::StackConfig, mtu: u16) -> ConnStats {
        let (n, ago) = (&self.stats, |t: u64| now.saturating_sub(t));
        let rtt = Some(self.rtt.srtt()).filter(|t| *t > 0);
        let open = self.phase().synchronised();
        ConnStats {
            passive: Some(self.passive),
            algorithm: Name::from(self.tx.cc().name()).ok(),
            recovery: Some(self.tx.state().name()),
            timestamps: open.then(|| self.stamps.on()),
            sack: open.then_some(self.sack_ok),
            recv_queue: Some(self.nxt - self.handed.min(self.nxt)),
            backlog: Some(self.backlog()),
            not_sent: Some(self.shadow.end().saturating_sub(self.sent)),
            in_flight: Some(self.sent.saturating_sub(self.una)),
            pipe: Some(self.tx.pipe(u32::from(self.mss))),
            lost: Some(self.tx.board().lost()),
            sacked: Some(self.tx.board().sacked()),
            cwnd: Some(self.tx.cwnd()),
            ssthresh: Some(self.tx.ssthresh()).filter(|t| *t < u64::MAX),
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
            out_of_order_bytes: Some(self.ooo.truesize()),
            srtt_ns: rtt,
            rttvar_ns: rtt.map(|_| self.rtt.var()),
            min_rtt_ns: rtt.map(|_| self.tx.min_rtt()),
            reo_wnd_ns: rtt.map(|t| self.tx.reo_wnd(t, u32::from(self.mss))),
            rto_ns: Some(self.rtt.rto(&cfg.rto)),
            backoff: Some(u64::from(self.rtt.backoff())),
            snd_wnd: Some(u64::from(self.wnd)),
            rcv_wnd: Some(self.wire_edge.saturating_sub(self.rcv_nxt())),
            snd_wscale: open.then_some(u64::from(self.snd_scale)),
            rcv_wscale: open.then_some(u64::from(self.rcv_scale)),
            mss: Some(u64::from(self.mss)),
            pmtu: Some(u64::from(self.packet_size().min(mtu))),
            snd_zero_window_ns: Some(self.seen.snd_shut.total(now)),
            rcv_zero_window_ns: Some(self.seen.rcv_shut.total(now)),
            age_ns: Some(ago(self.seen.born)),
            last_send_ago_ns: self.seen.sent.map(ago),
            last_recv_ago_ns: self.seen.received.map(ago),
            last_ack_ago_ns: open.then(|| ago(self.last_rx)),
            ..ConnStats::new(self.local(), self.remote(), self.phase())
        }
    }
}

impl<P: Port> Stack<P> {
    /// Counts of a connection; `None` when it is over.
    pub fn flow_counters(&self, id: FlowId) -> Option<FlowCounters> {
        let f = self.flow(id)?;
        let (srtt, mss) = (f.rtt.srtt(), u32::from(f.mss));
        Some(FlowCounters {
            cwnd: f.tx.cwnd(),
            ssthresh: f.tx.ssthresh(),
            in_flight: f.tx.pipe(mss),
            srtt_ns: srtt,
            rttvar_ns: f.rtt.var(),
            min_rtt_ns: f.tx.min_rtt(),
            rto_ns: f.rtt.rto(&self.cfg.rto),
            reo_wnd_ns: f.tx.reo_wnd(srtt, mss),
            peer_window: u64::from(f.wnd),
            backlog: f.backlog(),
            ooo_truesize: f.ooo.truesize(),
            ..f.stats
        })
    }

    /// Names of the state of a connection's loss recovery ([`crate::recover`]) and of its congestion control.
    /// `None` when it is over.
    pub fn flow_recovery(&self, id: FlowId) -> Option<(&'static str, &'static str)> {
        let f = self.flow(id)?;
        Some((f.tx.state().name(), f.tx.cc().name()))
    }

    /// Memory that a connection occupies, in bytes: its state, smoltcp's socket, its queues and its share of the
    /// tables. Lent pages and receive buffers are not counted. `None` when it is over.
    pub fn flow_memory(&self, id: FlowId) -> Option<usize> {
        let f = self.flow(id)?;
        let fixed =
            size_of::<Flow>() + size_of::<smoltcp::socket::tcp::Socket<'static>>() + size_of::<Slot>();
        let queues = f.shadow.memory() + f.tx.board().memory() + f.ready.capacity() * size_of::<RxFrag>();
        Some(fixed + queues + FlowTable::BYTES_AN_ENTRY + Wheel::BYTES_A_TIMER)
    }

    /// A connection, as of the last turn; `None` when it is over.
    pub fn connection(&self, id: FlowId) -> Option<ConnStats> {
        self.flow(id).map(|f| f.conn_stats(self.now, &self.cfg, self.io.port.caps().mtu))
    }

    /// The connections in `count` slots from `first` on (see [`FlowId::slot`]), as of the last turn. Slots are
    /// numbered from 0 to [`Stack::slots`], so the whole table can be walked in pieces; a connection that lives
    /// through the walk is met once.
    pub fn connections(&self, first: u32, count: u32) -> impl Iterator<Item = (FlowId, ConnStats)> + '_ {
        let mtu = self.io.port.caps().mtu;
        let slots = self.slots.iter().zip(0u32..).skip(first as usize).take(count as usize);
        slots.filter_map(move |(s, slot)| {
            let f = s.flow.as_deref()?;
            Some((FlowId { slot, generation: s.generation }, f.conn_stats(self.now, &self.cfg, mtu)))
        })
    }

    /// Slots of the table of connections, those in use and those once used.
    pub fn slots(&self) -> u32 {
        self.slots.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shut_is_counted_while_it_lasts_and_after() {
        let mut s = Shut::default();
        s.is(false, 5);
        s.is(true, 10);
        s.is(true, 15);
        assert_eq!(s.total(20), 10);
        s.is(false, 30);
        assert_eq!(s.total(100), 20);
        s.is(true, 200);
        assert_eq!(s.total(201), 21);
    }
}
