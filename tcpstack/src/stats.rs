//! A connection seen from outside: what `ss -ti` shows of the kernel's, under the names that RFCs and `ss` use.
//!
//! [`ConnStats`] is a copy, made when somebody asks ([`crate::Stack::connection`], [`crate::Stack::connections`]); making one
//! allocates nothing. A value is `None` where it does not exist (no round trip was measured yet) or where what
//! carries the connection does not tell.

use std::net::SocketAddr;

use arrayvec::ArrayString;

use crate::phase::Phase;

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
            /// State of loss recovery: `open`, `disorder`, `recovery` or `loss`.
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
    /// Time at which payload was last sent.
    last_send_ago_ns,
    /// Time at which payload was last received.
    last_recv_ago_ns,
    /// When the peer last acknowledged anything, old or new.
    last_ack_ago_ns,
}

/// Time that something was shut.
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

/// Times that a connection remembers for those who ask, beside its counters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    born: u64,
    /// When payload was last sent, and received.
    sent: Option<u64>,
    received: Option<u64>,
    /// The peer's window, and ours.
    snd_shut: Shut,
    rcv_shut: Shut,
}

impl Seen {
    pub(crate) fn new(now: u64) -> Seen {
        Seen { born: now, sent: None, received: None, snd_shut: Shut::default(), rcv_shut: Shut::default() }
    }

    /// Payload was sent.
    #[inline]
    pub(crate) fn sent(&mut self, now: u64) {
        self.sent = Some(now);
    }

    /// Payload was received.
    #[inline]
    pub(crate) fn received(&mut self, now: u64) {
        self.received = Some(now);
    }

    /// Notes whether the windows are shut: the peer's, and ours.
    #[inline]
    pub(crate) fn windows(&mut self, snd_shut: bool, rcv_shut: bool, now: u64) {
        self.snd_shut.is(snd_shut, now);
        self.rcv_shut.is(rcv_shut, now);
    }

    pub(crate) fn report(&self, r: &mut ConnStats, now: u64) {
        let ago = |t: u64| now.saturating_sub(t);
        r.snd_zero_window_ns = Some(self.snd_shut.total(now));
        r.rcv_zero_window_ns = Some(self.rcv_shut.total(now));
        r.age_ns = Some(ago(self.born));
        r.last_send_ago_ns = self.sent.map(ago);
        r.last_recv_ago_ns = self.received.map(ago);
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
