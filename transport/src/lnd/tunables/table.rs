//! The table, in the order of docs/protocol/socklnd.md §10.

use std::fmt::Write as _;

use super::{FLAG, Module, OnPorts, Tunable, What, protocol, version};
use crate::lnd::config::{Accept, Config, SEC};
use What::{Fixed, Number, Word};

const MS: u64 = 1_000_000;
const DAY: i64 = 86_400;
/// Most that TCP's own times take, in s, and probes (`tcp(7)`).
const TCP_TIME: i64 = 32_767;
const TCP_PROBES: i64 = 127;
const FORWARDING: &[&str] = &["disabled", "enabled"];
/// Most router buffers of a class.
const BUFFERS: i64 = 1 << 20;
const ACCEPT: &[&str] = &["secure", "all", "none", "trust"];
const MAPPED: &str = "windows are mapped when the node starts";
/// Numbers that a kernel's module parameter of type `int` takes.
const INT: (i64, i64) = (i32::MIN as i64, i32::MAX as i64);

fn flag(b: bool) -> i64 {
    i64::from(b)
}

fn secs(ns: u64) -> i64 {
    i64::try_from(ns / SEC).unwrap_or(i64::MAX)
}

fn ns(secs: i64) -> u64 {
    u64::try_from(secs).unwrap_or(0).saturating_mul(SEC)
}

impl Tunable {
    const fn new(
        module: Module,
        name: &'static str,
        unit: &'static str,
        about: &'static str,
        what: What,
    ) -> Tunable {
        Tunable {
            name,
            module,
            unit,
            about,
            runtime: false,
            loads: INT,
            empty: false,
            ports: OnPorts::Same,
            what,
        }
    }

    /// Least number with which a kernel works.
    const fn least(self, n: i64) -> Tunable {
        Tunable { loads: (n, self.loads.1), ..self }
    }

    /// Greatest number with which a kernel works.
    const fn most(self, n: i64) -> Tunable {
        Tunable { loads: (self.loads.0, n), ..self }
    }

    /// Kernels take no word, too, for the first one.
    const fn or_empty(self) -> Tunable {
        Tunable { empty: true, ..self }
    }

    /// It may be changed while the node runs.
    const fn rw(self) -> Tunable {
        Tunable { runtime: true, ..self }
    }

    const fn ports(self, ports: OnPorts) -> Tunable {
        Tunable { ports, ..self }
    }
}

const fn sock(name: &'static str, unit: &'static str, about: &'static str, what: What) -> Tunable {
    Tunable::new(Module::Ksocklnd, name, unit, about, what)
}

const fn lnet(name: &'static str, unit: &'static str, about: &'static str, what: What) -> Tunable {
    Tunable::new(Module::Lnet, name, unit, about, what)
}

const fn own(name: &'static str, unit: &'static str, about: &'static str, what: What) -> Tunable {
    Tunable::new(Module::Pollnd, name, unit, about, what)
}

/// All of them.
pub static ALL: &[Tunable] = &[
    sock(
        "sock_timeout",
        "s",
        "no progress for so long ends a peer's connections; 0: (lnet_transaction_timeout - 1) / (lnet_retry_count + 1)",
        Number(0..=DAY, |c| secs(c.timeout), |c, v| c.timeout = ns(v)),
    )
    .least(0)
    .rw(),
    sock(
        "credits",
        "messages",
        "in flight over all peers",
        Number(1..=65_535, |c| c.ni_credits.into(), |c, v| c.ni_credits = v as u32),
    )
    .least(1),
    sock(
        "peer_credits",
        "messages",
        "in flight to a peer, at most credits",
        Number(1..=65_535, |c| c.peer_credits.into(), |c, v| c.peer_credits = v as u32),
    )
    .least(1),
    sock(
        "peer_buffer_credits",
        "messages",
        "router buffers of a peer for messages up to 4 KiB, and for longer ones; 0: as many as peer_credits",
        Number(0..=65_535, |c| c.routing.peer_credits.into(), |c, v| c.routing.peer_credits = v as u32),
    )
    .least(0),
    sock("peer_timeout", "s", "when a silent peer is dead to a router", Fixed(180, "routers watch networks here, not peers")),
    sock("nscheds", "threads a CPT", "scheduler threads", Fixed(0, "lcores do that work: --lcores")),
    sock(
        "nconnds",
        "threads",
        "connection daemons",
        Fixed(4, "lcores make connections without threads of their own"),
    ),
    sock(
        "nconnds_max",
        "threads",
        "connection daemons at most",
        Fixed(64, "lcores make connections without threads of their own"),
    ),
    sock(
        "min_reconnectms",
        "ms",
        "first interval between attempts to connect",
        Number(
            1000..=3_600_000,
            |c| (c.min_reconnect / MS) as i64,
            |c, v| c.min_reconnect = v as u64 * MS,
        ),
    )
    .rw(),
    sock(
        "max_reconnectms",
        "ms",
        "longest interval between attempts to connect",
        Number(
            1000..=3_600_000,
            |c| (c.max_reconnect / MS) as i64,
            |c, v| c.max_reconnect = v as u64 * MS,
        ),
    )
    .rw(),
    sock(
        "eager_ack",
        "mask",
        "acknowledge messages of these connection types at once",
        Fixed(0, "our TCP acknowledges at once, and the kernel's sockets when the kernel sees fit"),
    )
    .rw(),
    sock(
        "typed_conns",
        FLAG,
        "connections of three types to a peer",
        Number(0..=1, |c| flag(c.typed_conns), |c, v| c.typed_conns = v != 0),
    ),
    sock(
        "min_bulk",
        "bytes",
        "messages from here on, headers included, are bulk",
        Number(0..=1 << 20, |c| c.min_bulk.into(), |c, v| c.min_bulk = v as u32),
    )
    .rw(),
    sock(
        "tx_buffer_size",
        "bytes",
        "a connection's send buffer; 0: as much as is good",
        Number(0..=1 << 30, |c| c.tcp.tx_buffer.into(), |c, v| c.tcp.tx_buffer = v as u32),
    )
    .least(0)
    .rw()
    .ports(OnPorts::AtStart(MAPPED)),
    sock(
        "rx_buffer_size",
        "bytes",
        "a connection's receive buffer; 0: as much as is good",
        Number(0..=1 << 30, |c| c.tcp.rx_buffer.into(), |c, v| c.tcp.rx_buffer = v as u32),
    )
    .least(0)
    .rw()
    .ports(OnPorts::AtStart(MAPPED)),
    sock(
        "nagle",
        FLAG,
        "hold back small segments",
        Number(0..=1, |c| flag(c.tcp.nagle), |c, v| c.tcp.nagle = v != 0),
    )
    .rw()
    .ports(OnPorts::Fixed(0, "our TCP never holds back small segments")),
    sock(
        "round_robin",
        FLAG,
        "of equally good connections, the one used least recently",
        Number(0..=1, |c| flag(c.round_robin), |c, v| c.round_robin = v != 0),
    )
    .rw(),
    sock(
        "keepalive",
        "s",
        "silence before a peer is asked for a sign of life; 0: never",
        Number(0..=DAY, |c| secs(c.keepalive), |c, v| c.keepalive = ns(v)),
    )
    .rw(),
    sock(
        "keepalive_idle",
        "s",
        "silence before TCP's first probe; 0 or less: no probes",
        Number(-1..=TCP_TIME, |c| c.tcp.keepalive_idle.into(), |c, v| c.tcp.keepalive_idle = v as i32),
    )
    .most(TCP_TIME)
    .rw(),
    sock(
        "keepalive_count",
        "probes",
        "unanswered probes that end a connection; 0 or less: no probes",
        Number(-1..=TCP_PROBES, |c| c.tcp.keepalive_count.into(), |c, v| c.tcp.keepalive_count = v as i32),
    )
    .most(TCP_PROBES)
    .rw(),
    sock(
        "keepalive_intvl",
        "s",
        "time between TCP's probes; 0 or less: no probes",
        Number(-1..=TCP_TIME, |c| c.tcp.keepalive_intvl.into(), |c, v| c.tcp.keepalive_intvl = v as i32),
    )
    .most(TCP_TIME)
    .rw(),
    sock(
        "enable_csum",
        FLAG,
        "checksums in what is sent in version 2",
        Number(0..=1, |c| flag(c.enable_csum), |c, v| c.enable_csum = v != 0),
    )
    .rw(),
    sock(
        "inject_csum_error",
        FLAG,
        "spoil the next such checksum, once on each lcore",
        Number(0..=1, |c| flag(c.inject_csum_error), |c, v| c.inject_csum_error = v != 0),
    )
    .rw(),
    sock(
        "nonblk_zcack",
        FLAG,
        "zero-copy ACKs leave on connections without LNet messages",
        Number(0..=1, |c| flag(c.nonblk_zcack), |c, v| c.nonblk_zcack = v != 0),
    )
    .rw(),
    sock(
        "zc_min_payload",
        "bytes",
        "payload from which a zero-copy ACK is asked for",
        Number(2048..=16 << 20, |c| c.zc_min_payload.into(), |c, v| c.zc_min_payload = v as u32),
    )
    .least(0)
    .rw(),
    sock("zc_recv", FLAG, "receive without copying", Fixed(0, "receive buffers are lent without it")).rw(),
    sock(
        "zc_recv_min_nfrags",
        "fragments",
        "from how many on",
        Fixed(16, "receive buffers are lent without it"),
    )
    .rw(),
    sock(
        "conns_per_peer",
        "connections",
        "opened to a peer, of each bulk type; 0: by the link's speed",
        Number(0..=127, |c| c.conns_per_peer.into(), |c, v| c.conns_per_peer = v as u8),
    )
    .least(0)
    .rw(),
    sock(
        "tos",
        "byte",
        "type of service in IP headers; -1: none",
        Number(-1..=255, |c| c.tcp.tos.map_or(-1, i64::from), |c, v| c.tcp.tos = u8::try_from(v).ok()),
    )
    .least(-1)
    .most(255),
    sock("enable_irq_affinity", FLAG, "interrupts near the CPT", Fixed(0, "queues are polled")),
    sock("skip_mr_route_setup", FLAG, "leave the kernel's routes alone", Fixed(0, "no route is ever set")).rw(),
    sock("backoff_init", "s", "of patched TCP stacks", Fixed(3, "no TCP that we use has that patch")).rw(),
    sock("backoff_max", "s", "of patched TCP stacks", Fixed(3, "no TCP that we use has that patch")).rw(),
    sock(
        "protocol",
        "version",
        "spoken first, and highest answered to IPv4; 4: to IPv4 peers, too",
        Number(1..=4, |c| protocol(c.version), |c, v| c.version = version(v)),
    )
    .least(1)
    .most(4),
    lnet(
        "accept",
        "word",
        "whom to accept",
        Word(
            ACCEPT,
            |c| match c.accept {
                Accept::Secure => 0,
                Accept::All => 1,
                Accept::None => 2,
                Accept::Trust => 3,
            },
            |c, v| {
                c.accept = match v {
                    0 => Accept::Secure,
                    1 => Accept::All,
                    2 => Accept::None,
                    _ => Accept::Trust,
                }
            },
        ),
    ),
    lnet(
        "accept_port",
        "port",
        "where nodes listen",
        Number(
            1..=65_535,
            |c| c.port.into(),
            |c, v| {
                c.port_bulk = Some(c.bulk_port());
                c.port = v as u16;
            },
        ),
    )
    .least(1)
    .most(65_535),
    lnet(
        "accept_port_bulk",
        "port",
        "where nodes listen for all types but CONTROL",
        Number(1..=65_535, |c| c.bulk_port().into(), |c, v| c.port_bulk = Some(v as u16)),
    )
    .least(1)
    .most(65_535),
    lnet(
        "accept_backlog",
        "connections",
        "that may wait to be accepted",
        Number(1..=65_535, |c| c.tcp.backlog.into(), |c, v| c.tcp.backlog = v as u16),
    )
    .least(1),
    lnet(
        "accept_timeout",
        "s",
        "for an acceptor request, and again for its HELLO",
        Number(1..=3600, |c| secs(c.accept_timeout), |c, v| c.accept_timeout = ns(v)),
    )
    .least(1)
    .rw(),
    lnet(
        "forwarding",
        "word",
        "pass messages on between networks, from the start",
        Word(FORWARDING, |c| flag(c.routing.forwarding), |c, v| c.routing.forwarding = v == 1),
    )
    .or_empty()
    .rw(),
    lnet(
        "tiny_router_buffers",
        "buffers",
        "for messages without payload on their way through; 0: 2048",
        Number(0..=BUFFERS, |c| c.routing.buffers[0].into(), |c, v| c.routing.buffers[0] = v as u32),
    )
    .least(0)
    .rw(),
    lnet(
        "small_router_buffers",
        "buffers",
        "for those of up to 4 KiB; 0: 16384",
        Number(0..=BUFFERS, |c| c.routing.buffers[1].into(), |c, v| c.routing.buffers[1] = v as u32),
    )
    .least(0)
    .rw(),
    lnet(
        "large_router_buffers",
        "buffers",
        "for those of up to 1 MiB; 0: 1024",
        Number(0..=BUFFERS, |c| c.routing.buffers[2].into(), |c, v| c.routing.buffers[2] = v as u32),
    )
    .least(0)
    .rw(),
    lnet(
        "lnet_transaction_timeout",
        "s",
        "for an ACK or REPLY to come",
        Number(1..=3600, |c| secs(c.transaction_timeout), |c, v| c.transaction_timeout = ns(v)),
    )
    .least(1)
    .rw(),
    lnet(
        "lnet_retry_count",
        "retries",
        "times that a message that has not left goes by another pair of NIDs, before its deadline; a divisor, too (sock_timeout)",
        Number(0..=255, |c| c.retry_count.into(), |c, v| c.retry_count = v as u32),
    )
    .least(0)
    .rw(),
    lnet(
        "lnet_health_sensitivity",
        "points",
        "step of health values, of 1000: down for a failure, up for a recovery ping that is answered; 0: nothing lowers them",
        Number(0..=1000, |c| c.health_sensitivity.into(), |c, v| c.health_sensitivity = v as u16),
    )
    .least(0)
    .most(1000)
    .rw(),
    lnet(
        "lnet_recovery_limit",
        "s",
        "for how long a peer's NID that has failed is pinged; 0: until it is well",
        Number(0..=DAY, |c| secs(c.recovery_limit), |c, v| c.recovery_limit = ns(v)),
    )
    .least(0)
    .rw(),
    lnet(
        "lnet_max_recovery_ping_interval",
        "s",
        "longest interval between two such pings",
        Number(1..=3600, |c| secs(c.max_recovery_interval), |c, v| c.max_recovery_interval = ns(v)),
    )
    .least(1)
    .rw(),
    lnet(
        "lnet_peer_discovery_disabled",
        FLAG,
        "send to peers without asking them first who they are, and tell none who we are",
        Number(0..=1, |c| flag(!c.discovery), |c, v| c.discovery = v == 0),
    )
    .rw(),
    lnet(
        "alive_router_check_interval",
        "s",
        "between two checks of a gateway; 0: only when its first route is added",
        Number(
            0..=DAY,
            |c| secs(c.alive_router_check_interval),
            |c, v| c.alive_router_check_interval = ns(v),
        ),
    )
    .rw(),
    lnet(
        "router_ping_timeout",
        "s",
        "for a gateway to answer a check",
        Number(1..=3600, |c| secs(c.router_ping_timeout), |c, v| c.router_ping_timeout = ns(v)),
    )
    .least(1)
    .rw(),
    lnet(
        "avoid_asym_router_failure",
        FLAG,
        "a route whose gateway is on its network is up only while an NI of the gateway's there is",
        Number(0..=1, |c| flag(c.avoid_asym_router_failure), |c, v| c.avoid_asym_router_failure = v != 0),
    )
    .rw(),
    lnet(
        "lnet_drop_asym_route",
        FLAG,
        "drop messages from another network that come by a node that is no gateway to it",
        Number(0..=1, |c| flag(c.drop_asym_route), |c, v| c.drop_asym_route = v != 0),
    )
    .rw(),
    own(
        "zc_v2",
        FLAG,
        "ask for zero-copy ACKs in version 2, too: kills Lustre kernels up to 2.17.57",
        Number(0..=1, |c| flag(c.zc_v2), |c, v| c.zc_v2 = v != 0),
    ),
    own(
        "cut_through",
        FLAG,
        "long messages for other nodes begin to leave before they are whole",
        Number(0..=1, |c| flag(c.routing.cut_through), |c, v| c.routing.cut_through = v != 0),
    )
    .rw(),
    own(
        "v1_on_reset",
        FLAG,
        "take a peer that resets our HELLO for one of version 1",
        Number(0..=1, |c| flag(c.v1_on_reset), |c, v| c.v1_on_reset = v != 0),
    ),
    own(
        "unprivileged_v6",
        FLAG,
        "dial IPv6 peers from ports above 1023, too: crashes Lustre kernels that accept them",
        Number(0..=1, |c| flag(c.unprivileged_v6), |c, v| c.unprivileged_v6 = v != 0),
    ),
];

/// A line about one of them, with its value in `cfg`.
pub fn line(t: &Tunable, cfg: &Config) -> String {
    let change = if t.runtime(cfg) { "rw" } else { "ro" };
    let (module, value) = (t.module.name(), t.value(cfg));
    let takes = match (t.fixed(cfg), t.at_start(cfg)) {
        (Some(why), _) => format!("fixed: {why}"),
        (None, Some(why)) => format!("{}; ro: {why}", t.takes()),
        (None, None) => t.takes(),
    };
    format!("{:<28}{value:>6}  {module:<9}{change}  {takes}", t.name)
}

/// A table of all of them with their values in `cfg`.
pub fn table(cfg: &Config) -> String {
    let mut out = String::new();
    for t in ALL {
        let _ = writeln!(out, "{}", line(t, cfg));
    }
    out
}
