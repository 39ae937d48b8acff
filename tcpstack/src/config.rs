//! Configuration of a stack, and its counters.

use std::net::{IpAddr, SocketAddr};

use crate::cc::Congestion;
use crate::pmtu::FLOOR4;
use crate::rtt::RtoLimits;

/// Keep-alive of idle connections (RFC 9293 §3.8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first probe, in ns.
    pub idle: u64,
    /// Time between probes, in ns.
    pub interval: u64,
    /// Probes without any answer before the connection is given up.
    pub count: u8,
}

/// Time without progress after which a connection is given up, unless told, in ns (RFC 9293 §3.8.3).
pub const USER_TIMEOUT: u64 = 100_000_000_000;

/// One stack: one lcore, one queue pair, its addresses.
#[derive(Clone, Debug)]
pub struct StackConfig {
    /// Our addresses, 1 to 16 of either family, each with the length of its network's prefix in bits. Peers inside
    /// one of these networks are asked for by ARP or neighbour discovery. With an IPv6 address comes the
    /// link-local one of the port's Ethernet address.
    pub addrs: Vec<(IpAddr, u8)>,
    /// Next hops for everybody else, at most one of each family. Without one for IPv6 the router is used that
    /// advertises itself.
    pub gateways: Vec<IpAddr>,
    /// VLAN id: packets of others are dropped, ours are tagged (by the device where it can).
    pub vlan: Option<u16>,
    /// Type of service (IPv4) or traffic class (IPv6) of TCP's packets; its two bits of ECN count as 0.
    pub tos: u8,
    /// Most bytes a peer may have in flight to one connection (64 KiB to 1 GiB). A connection begins with 256 KiB and
    /// gets more as its reader keeps up.
    pub rx_window: u32,
    /// Pool memory that received data of all connections may occupy, in bytes; the port's pool bounds it, too.
    pub rx_budget: u64,
    /// Most bytes one connection may have in flight (64 KiB to 1 GiB).
    pub tx_window: u32,
    /// Bytes pushed and not acknowledged beyond which a push is refused; one push may overshoot it. A connection
    /// whose congestion window needs more gets twice that window, up to 32 MiB.
    pub backlog: u64,
    /// Payload of at least this many bytes in a frame is attached; less is copied into the header's buffer.
    pub attach_min: u32,
    /// Received payload below this many bytes is copied out of the port's buffer at once.
    pub copy_below: u32,
    /// Small buffers for that, of `copy_below` bytes each.
    pub small_bufs: usize,
    /// Pool memory that one connection's out-of-order data may occupy, in bytes.
    pub ooo_max: u64,
    /// Receive fragments that one connection may have waiting for its reader.
    pub ready_max: usize,
    /// Packets waiting for the port beyond which nothing more is emitted.
    pub tx_depth: usize,
    /// Offer and accept timestamps (RFC 7323): PAWS, and round trips of what was sent twice.
    pub timestamps: bool,
    /// Offer and accept selective acknowledgements (RFC 2018), and report duplicates (RFC 2883).
    pub sack: bool,
    /// Congestion control.
    pub congestion: Congestion,
    /// Delay that a peer is first assumed to hold the ACK of a lone segment for, in ns (RFC 8985 §7.2); the connection
    /// learns what it really does.
    pub tlp_ack_delay: u64,
    /// Retransmission time-out.
    pub rto: RtoLimits,
    /// SYN sent again this often before giving up.
    pub syn_retries: u8,
    /// SYN-ACK sent again this often before the half-open connection is given up.
    pub synack_retries: u8,
    /// SYNs beyond a listener's backlog are answered with cookies; else they are dropped.
    pub syn_cookies: bool,
    /// No progress for this long ends a connection, in ns (RFC 9293 §3.8.3: at least 100 s).
    pub user_timeout: u64,
    /// Wait in FIN-WAIT-2 for the peer's FIN, in ns.
    pub fin_timeout: u64,
    /// Keep-alive, unless `None`.
    pub keepalive: Option<KeepAlive>,
    /// TIME-WAIT, in ns.
    pub time_wait: u64,
    /// TIME-WAIT entries kept.
    pub time_wait_max: usize,
    /// Connections at most.
    pub max_flows: u32,
    /// Challenge ACKs a second, all connections together, on average; the number of each second is drawn.
    pub challenge_acks: u32,
    /// RSTs a second to segments of no connection, on average; the number of each second is drawn.
    pub resets: u32,
    /// Smallest path MTU that is believed of a router of IPv4, in bytes (at least 256); what names less is ignored.
    /// Of IPv6 it is 1280.
    pub min_pmtu: u16,
    /// Secret of sequence numbers and tables; random when `None`.
    pub secret: Option<[u64; 2]>,
}

impl StackConfig {
    /// The defaults for an address and its network's prefix length in bits.
    pub fn new(addr: impl Into<IpAddr>, prefix: u8) -> StackConfig {
        StackConfig {
            addrs: vec![(addr.into(), prefix)],
            gateways: Vec::new(),
            vlan: None,
            tos: 0,
            rx_window: 16 << 20,
            rx_budget: u64::MAX,
            tx_window: 16 << 20,
            backlog: 4 << 20,
            attach_min: 512,
            copy_below: 512,
            small_bufs: 8192,
            ooo_max: 32 << 20,
            ready_max: 16_384,
            tx_depth: 256,
            timestamps: true,
            sack: true,
            congestion: Congestion::Cubic,
            tlp_ack_delay: 25_000_000,
            rto: RtoLimits::default(),
            syn_retries: 6,
            synack_retries: 5,
            syn_cookies: true,
            user_timeout: USER_TIMEOUT,
            fin_timeout: 60_000_000_000,
            keepalive: Some(KeepAlive { idle: 30_000_000_000, interval: 5_000_000_000, count: 6 }),
            time_wait: 5_000_000_000,
            time_wait_max: 16_384,
            max_flows: 65_536,
            challenge_acks: 1000,
            resets: 1000,
            min_pmtu: FLOOR4,
            secret: None,
        }
    }
}

/// Address to listen at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Our address. `0.0.0.0` stands for all of ours of IPv4, `::` for all of ours.
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
    /// Half-open connections at most; SYNs beyond are answered with cookies ([`StackConfig::syn_cookies`]), or
    /// dropped and counted. Open ones are bounded by [`StackConfig::max_flows`] alone.
    pub backlog: u32,
}

/// Both ends of a connection to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
}

/// Reason why a stack was not made.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// The kernel refused the mappings of the phantom rings.
    #[error(
        "cannot map {bytes} bytes of phantom rings: {source}; raise vm.max_map_count or make the windows smaller"
    )]
    Map {
        /// Window in bytes.
        bytes: u32,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// A window is out of range.
    #[error("window of {0} bytes: it must be from 65536 to 1073741824")]
    Window(u32),
    /// An address cannot be a host's.
    #[error("{0}/{1} is no host address: use a unicast address with a prefix of 0 to 32 bits (IPv6: 128)")]
    Address(IpAddr, u8),
    /// Too many addresses, or none.
    #[error("{0} addresses: a stack has 1 to 16")]
    Addresses(usize),
    /// A gateway cannot be one, or is one too many.
    #[error("{0} is no gateway: name one unicast address of each family at most")]
    Gateway(IpAddr),
    /// The port's MTU is too small.
    #[error("port {port} has an MTU of {mtu}: at least {least} is needed here (IPv4: 576, IPv6: 1280)")]
    Mtu {
        /// Port name.
        port: String,
        /// Its MTU.
        mtu: u16,
        /// The least that it has to be.
        least: u16,
    },
}

/// Reason why a port is not listened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Not this stack's address.
    #[error("{0} is not an address of this stack")]
    NotOurs(IpAddr),
    /// Port 0, or already listened on.
    #[error("port {0} is already listened on, or 0")]
    Port(u16),
}

/// Reason why a connection was not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Families that differ.
    #[error("{0} to {1}: both ends of a connection are IPv4 or both are IPv6")]
    Family(SocketAddr, SocketAddr),
    /// The local address is not ours.
    #[error("{0} is not an address of this stack")]
    NotOurs(IpAddr),
    /// The peer cannot be a host, or is ourselves.
    #[error("{0} cannot be connected to: it is not another host's unicast address with a port")]
    BadPeer(SocketAddr),
    /// Outside the network, and there is no gateway.
    #[error("{0} is outside the local network and no gateway is configured")]
    NoRoute(IpAddr),
    /// These addresses and ports are taken by a connection.
    #[error("port {0} is already connected to that peer: dial from another")]
    InUse(u16),
    /// Too many connections.
    #[error("{0} connections are open, the configured maximum")]
    TooMany(u32),
    /// The kernel refused another mapping for the phantom rings.
    #[error(
        "no addresses for the buffers of another connection beside {live}: {kind}; raise vm.max_map_count"
    )]
    Map {
        /// Connections that there are.
        live: u32,
        /// The kernel's error.
        kind: std::io::ErrorKind,
    },
}

/// Reason why bytes were not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// Too much is not acknowledged yet: push again after a `Progress` event.
    #[error("{backlog} bytes are not acknowledged yet, the limit is {limit}")]
    Full {
        /// Bytes pushed and not acknowledged.
        backlog: u64,
        /// The limit.
        limit: u64,
    },
    /// The connection is not open for sending, or is no more.
    #[error("the connection is not open for sending")]
    NotOpen,
    /// More header bytes than a push takes.
    #[error("{0} header bytes: at most {HDR_MAX} are copied, attach the rest")]
    HeaderTooLong(usize),
}

/// Most header bytes of one push: what 120 bytes of headers and 160 of payload are.
pub const HDR_MAX: usize = 280;

macro_rules! counters {
    ($(#[$m:meta])* $name:ident { $($(#[$d:meta])* $f:ident,)* }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$d])* pub $f: u64,)* }
        impl $name {
            /// Names and values, for telemetry.
            pub fn each(&self, mut f: impl FnMut(&'static str, u64)) { $(f(stringify!($f), self.$f);)* }
        }
    };
}

counters! {
    /// Counts of one stack since it was made.
    Counters {
        /// Receive bursts asked for.
        rx_polls,
        /// Receive bursts that brought nothing.
        rx_empty_polls,
        /// Receive bursts that brought as many packets as one can: more were waiting.
        rx_full_bursts,
        /// TCP segments that reached a connection (a coalesced packet is one).
        rx_segments,
        /// Payload bytes accepted in order.
        rx_bytes,
        /// Bytes copied on receiving, LNet headers and all: small pieces, into buffers that fit them.
        rx_small_bytes,
        /// Payload bytes in order that nobody read, their connection having been closed.
        rx_discarded_bytes,
        /// Packets dropped: lengths that contradict each other.
        rx_malformed,
        /// Packets dropped: not for us.
        rx_not_ours,
        /// Packets dropped: protocol not spoken.
        rx_protocol,
        /// IP fragments dropped: nothing is reassembled. A peer whose packets have DF clear sends through a router with
        /// a smaller MTU, and no byte of its full segments arrives: let it discover the path's MTU, or lower the MTU or
        /// MSS on one side.
        rx_fragments,
        /// Packets dropped: wrong checksum.
        rx_bad_csum,
        /// Packets dropped: impossible source address.
        rx_martian,
        /// Segments with bytes that were there already.
        rx_duplicate,
        /// Segments that came before their turn.
        rx_out_of_order,
        /// Segments or bytes beyond the window.
        rx_beyond_window,
        /// Segments dropped because the connection holds too many buffers, its host has its share of receive memory, or that was
        /// short and they were out of order.
        rx_overflow,
        /// Segments dropped: ACK of bytes never sent.
        rx_ack_unsent,
        /// Segments dropped: ACK older than any window.
        rx_ack_old,
        /// Segments dropped: flags that contradict each other.
        rx_bad_flags,
        /// Segments dropped: a timestamp older than the last one (PAWS, RFC 7323 §5).
        paws_rejected,
        /// Segments without a timestamp where both sides agreed on them (RFC 7323 §3.2): taken all the same, as Linux does.
        ts_missing,
        /// SACK blocks sent, those that report duplicates included.
        sack_blocks,
        /// Of these, duplicates reported (D-SACK, RFC 2883).
        dsacks,
        /// RSTs that were not in sequence.
        rx_bad_rst,
        /// SYNs dropped: the backlog was full and no cookie possible, or there were too many connections.
        syn_dropped,
        /// SYNs answered with a cookie, the backlog being full.
        syn_cookies_sent,
        /// Connections opened by a cookie that came back.
        syn_cookies_accepted,
        /// ACKs to a listener that overflowed lately without a good cookie.
        syn_cookies_failed,
        /// Half-open connections that ended before they opened.
        half_open_lost,
        /// Segments fed to smoltcp.
        fed,
        /// Segments that smoltcp emitted.
        emitted,
        /// Bytes that smoltcp emitted a second time; 0 unless the scheme is broken.
        smoltcp_resent,
        /// Times smoltcp and the shim disagreed; 0 unless the scheme is broken. The connection is reset.
        desync,
        /// TCP frames sent (a super-segment is one).
        tx_segments,
        /// Payload bytes sent, resent ones included.
        tx_bytes,
        /// Payload bytes attached by reference.
        tx_attached_bytes,
        /// Pushed header bytes copied into frames.
        tx_header_bytes,
        /// Payload bytes copied because the piece in the frame was short.
        tx_short_bytes,
        /// Payload bytes copied because they could not be attached.
        tx_copied_bytes,
        /// Frames that carry bytes sent before.
        tx_resent,
        /// Bytes sent again, in stream offsets (a FIN is one).
        tx_resent_bytes,
        /// Frames without payload, FIN or SYN.
        tx_pure_acks,
        /// Retransmission time-outs.
        rto,
        /// Fast recoveries begun (RFC 6675, RFC 8985 §6.2).
        fast_recoveries,
        /// Tail loss probes sent (RFC 8985 §7).
        tlp_probes,
        /// Losses that a tail loss probe repaired.
        tlp_recoveries,
        /// Connections on which reordering was seen.
        reordering_seen,
        /// Reductions undone because what was sent again had arrived (RFC 3708, RFC 4015).
        undone,
        /// SACK blocks taken in.
        rx_sack_blocks,
        /// SACK blocks ignored: outside what is out, or too many.
        rx_sack_ignored,
        /// Duplicates that peers reported (D-SACK, RFC 2883).
        rx_dsack,
        /// Times that a peer let go of what it had sacked (RFC 2018 §8).
        sack_reneged,
        /// Window probes.
        window_probes,
        /// Keep-alive probes.
        keepalive_probes,
        /// SYN and SYN-ACK resends.
        syn_resent,
        /// Frames not built because the port had no buffer; tried again.
        tx_no_buffer,
        /// Times emission stopped because the port's queue was deep.
        tx_deep,
        /// Frames dropped since the port had taken none for long.
        tx_unsent,
        /// Rounds in which nothing moved because the port took nothing.
        port_stalls,
        /// Times the link went down or came up.
        link_changes,
        /// Times a window was held back for want of receive memory.
        window_starved,
        /// Pushes refused because too much was not acknowledged.
        push_refused,
        /// RSTs sent for segments of no connection.
        rst_sent,
        /// RSTs not sent, being over their budget.
        rst_limited,
        /// Challenge ACKs (RFC 5961) and answers to probes.
        challenge_acks,
        /// Those not sent, being too many for their connection or for the stack.
        challenge_limited,
        /// Connections begun by us.
        dialled,
        /// Connections begun by peers.
        accepted,
        /// Connections over.
        closed,
        /// TIME-WAIT entries reused early.
        time_wait_reused,
        /// UDP datagrams taken in.
        udp_rx,
        /// UDP datagrams dropped since too many waited to be taken.
        udp_rx_lost,
        /// UDP datagrams to a port that nobody has: their senders are told, at a bounded rate.
        udp_no_port,
        /// UDP datagrams sent.
        udp_tx,
        /// UDP datagrams that the port cannot send, or that waited for a neighbour while too many did.
        udp_tx_lost,
        /// ARP requests sent.
        arp_requests,
        /// ARP replies sent.
        arp_replies,
        /// ARP packets of others with our address: two hosts share it.
        arp_duplicate_address,
        /// Neighbour solicitations sent.
        nd_solicits,
        /// Neighbour advertisements sent.
        nd_adverts,
        /// Neighbour discovery of others with our address: two hosts share it.
        nd_duplicate_address,
        /// Changes of a neighbour's Ethernet address not believed, having come within a second of the last.
        neighbour_held,
        /// Reports of the groups we listen to, sent.
        mld_reports,
        /// ICMP errors about segments of ours that are out, or passed on to the stack of another queue.
        icmp_errors,
        /// ICMP errors that nothing came of: about nothing that is out, not believed, or over the rate limit.
        icmp_errors_ignored,
        /// Times a connection's segments became smaller because a router said so.
        pmtu_lowered,
        /// Claims of a path MTU not believed: below the floor, or not below what was sent.
        pmtu_ignored,
        /// Times a connection's segments became smaller because full ones seemed to vanish without a word.
        pmtu_black_holes,
        /// Times a connection tried larger segments again.
        pmtu_raised,
        /// Echo requests answered.
        icmp_echo,
        /// Echo requests over the rate limit or too long.
        icmp_limited,
        /// Neighbours, routers and ICMP errors told to the stacks of the port's other queues.
        siblings_told,
        /// Neighbours and routers not told, being over the rate limit.
        siblings_untold,
        /// Messages heard from stacks of other queues.
        siblings_heard,
        /// Segments handed to the stack of the queue that they should have come to.
        strays_handed,
        /// Segments that came to another queue and were judged here: nearly always a connection's of ours.
        strays_taken,
        /// Such segments dropped on either side: too many on their way, or no buffer for a copy.
        strays_lost,
    }
}

counters! {
    /// Counts of one connection.
    FlowCounters {
        /// Payload bytes received in order.
        rx_bytes,
        /// Payload bytes acknowledged by the peer.
        acked_bytes,
        /// Payload bytes sent, resent ones included.
        bytes_sent,
        /// Segments sent, those of a super-segment each.
        segs_out,
        /// Segments received.
        segs_in,
        /// Segments sent with payload.
        data_segs_out,
        /// Segments received with payload.
        data_segs_in,
        /// Duplicate ACKs received.
        dup_acks,
        /// Segments received before their turn.
        out_of_order,
        /// Frames resent.
        resent,
        /// Payload bytes resent.
        resent_bytes,
        /// Retransmission time-outs.
        rto,
        /// Tail loss probes sent.
        tlp_probes,
        /// Losses that a tail loss probe repaired.
        tlp_recoveries,
        /// Fast recoveries begun.
        fast_recoveries,
        /// Whether reordering was seen.
        reordering_seen,
        /// Reductions undone.
        undone,
        /// SACK blocks taken in.
        sack_blocks,
        /// SACK blocks sent.
        sack_blocks_out,
        /// Duplicates that the peer reported.
        dsacks,
        /// Duplicates reported to the peer.
        dsacks_out,
        /// Congestion window, in bytes.
        cwnd,
        /// Slow start threshold, in bytes; all ones before the first loss.
        ssthresh,
        /// Bytes in flight (RFC 6675 `pipe`).
        in_flight,
        /// Times the window offered was held back for want of memory.
        window_held,
        /// Smoothed round-trip time, in ns.
        srtt_ns,
        /// Its variation, in ns.
        rttvar_ns,
        /// Least round-trip time of the last seconds, in ns.
        min_rtt_ns,
        /// Retransmission time-out now, in ns.
        rto_ns,
        /// RACK's reordering window now, in ns.
        reo_wnd_ns,
        /// The peer's window, in bytes.
        peer_window,
        /// Bytes pushed and not acknowledged.
        backlog,
        /// Pool memory behind out-of-order data, in bytes.
        ooo_truesize,
    }
}
