//! Configuration of a node.

use std::net::{IpAddr, SocketAddr};

use super::NiId;
use super::by_hand::PeerByHand;
use super::owner::{AppId, SHARDS_MAX};
use super::route::Route;
use crate::stream::{Bucket, ShardId};
use crate::wire::ping;
use crate::wire::{ConnType, Nid, Pid, ProcessId, Version, nid};

/// One second in ns.
pub const SEC: u64 = 1_000_000_000;
/// Time between two looks at the links of ports, in ns: kernels tell their peers within 26 ms (docs/protocol/upper.md §2).
pub(crate) const LINKS_EVERY: u64 = 5_000_000;
/// The same where the node has one NI, which can tell nobody: only users look at it.
const LINK_EVERY: u64 = SEC;

/// Peers that the acceptor takes (docs/protocol/socklnd.md §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Accept {
    /// Peers with a source port up to 1023; the others are closed before a byte is read.
    #[default]
    Secure,
    /// Every source port. A peer on a port above 1023 is known by its address and port, whatever it says: each of
    /// its connections is a peer of its own (§9).
    All,
    /// Every source port, and every HELLO is believed: for nodes that trust each other's users. Kernels have no
    /// such setting.
    Trust,
    /// Nobody: this node only dials.
    None,
}

/// TCP under the streams. Some tunables have a meaning over one of them only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TcpKind {
    /// The kernel's sockets, or a network of a test.
    #[default]
    Sockets,
    /// Our own TCP on a port.
    Port,
}

/// Settings of TCP, for each connection when it is made (docs/protocol/socklnd.md §10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Silence before TCP's first keep-alive probe, in s; 0 or less disables them.
    pub keepalive_idle: i32,
    /// Probes without any answer before the connection is given up; 0 or less disables them.
    pub keepalive_count: i32,
    /// Time between probes, in s; 0 or less disables them.
    pub keepalive_intvl: i32,
    /// IP type of service, or traffic class, of our packets.
    pub tos: Option<u8>,
    /// Hold back small segments while others are not acknowledged.
    pub nagle: bool,
    /// Bytes of a connection that may be sent and not acknowledged, or wait; 0 for as many as are good.
    pub tx_buffer: u32,
    /// Bytes of a connection that may be received and not read; 0 for as many as are good.
    pub rx_buffer: u32,
    /// Connections that may wait to be accepted.
    pub backlog: u16,
}

impl Default for Tcp {
    fn default() -> Tcp {
        Tcp {
            keepalive_idle: 30,
            keepalive_count: 5,
            keepalive_intvl: 5,
            tos: None,
            nagle: false,
            tx_buffer: 0,
            rx_buffer: 0,
            backlog: 127,
        }
    }
}

impl Tcp {
    /// Idle time and interval in s, and the number of probes; `None` when one of the three disables them.
    pub fn keepalive(&self) -> Option<(u32, u32, u8)> {
        let on = |n: i32| u32::try_from(n).ok().filter(|n| *n > 0);
        let count = on(self.keepalive_count)?.min(127) as u8;
        Some((on(self.keepalive_idle)?, on(self.keepalive_intvl)?, count))
    }

    /// The byte in IP headers: kernels set it only with keep-alive, and leave the two bits of ECN alone.
    pub fn mark(&self) -> Option<u8> {
        self.tos.map(|t| t & !3).filter(|_| self.keepalive().is_some())
    }
}

/// A shard's place among those of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shards {
    pub(crate) me: ShardId,
    pub(crate) count: u16,
}

/// A shard that a node cannot have: names of lends and of applications' queues have room for [`SHARDS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {me} of {count}: a node has 1 to {SHARDS_MAX} shards, numbered from 0")]
pub struct ShardsError {
    me: u16,
    count: u16,
}

impl Shards {
    /// A node of one shard.
    pub const SINGLE: Shards = Shards { me: ShardId(0), count: 1 };

    /// Shard `me`, counted from 0, of `count`.
    ///
    /// # Errors
    /// [`ShardsError`] unless `me` is below `count`, and that at most [`SHARDS_MAX`].
    pub const fn new(me: u16, count: u16) -> Result<Shards, ShardsError> {
        if me < count && count <= SHARDS_MAX {
            Ok(Shards { me: ShardId(me), count })
        } else {
            Err(ShardsError { me, count })
        }
    }

    /// This one.
    pub fn me(self) -> ShardId {
        self.me
    }

    /// Number of shards; at least 1.
    pub fn count(self) -> u16 {
        self.count
    }

    /// Home of the peer at `ip` when the node starts: where its connections and the operations on it belong until
    /// its [`Bucket`] moves.
    pub fn home_of(self, ip: IpAddr) -> ShardId {
        ShardId(u16::from(Bucket::of(ip).0) % self.count.max(1))
    }

    /// Owner of a portal: where its match entries are attached.
    pub fn owner_of(self, portal: u32) -> ShardId {
        ShardId((portal % u32::from(self.count.max(1))) as u16)
    }
}

/// Pieces of pages that a runtime has on loan at once, unless told: two messages of 1 MiB in pages of 4 KiB for each of
/// sixteen peers.
pub const LENDINGS: u32 = 8192;

/// Work from which messages are given away, in bytes: copy jobs of that size gain 1.5 times (`pollnd bench cpt --size 65536`).
const BOX_FROM: u32 = 64 << 10;

/// Most NIs of a node.
pub const NIS_MAX: usize = 16;

/// Router buffers of a kernel, by class (docs/protocol/upper.md §1.3): tiny, small, large.
const ROUTER_BUFFERS: [u32; 3] = [2048, 16_384, 1024];

/// Settings of a node that passes messages on from one of its networks to another (docs/protocol/upper.md §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Routing {
    /// It does so from the start, without an order.
    pub forwarding: bool,
    /// Router buffers of the node for messages without payload, with up to 4 KiB of it, and with more; 0 for a kernel's number.
    pub buffers: [u32; 3],
    /// Router buffers that a peer may hold; 0 for as many as its credits ([`Config::peer_credits`]).
    pub peer_credits: u32,
    /// Long messages begin to leave before they are whole, where nothing is before them. One that then breaks off ends the
    /// connection set that it was leaving on.
    pub cut_through: bool,
}

impl Routing {
    /// Router buffers of the node, by class.
    pub fn buffers(&self) -> [u32; 3] {
        let mut all = self.buffers;
        all.iter_mut().zip(ROUTER_BUFFERS).filter(|(n, _)| **n == 0).for_each(|(n, usual)| *n = usual);
        all
    }
}

/// An NI of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NiConfig {
    /// Its NID.
    pub nid: Nid,
    /// Messages it may have in flight; as many as [`Config::ni_credits`] where this is `None`.
    pub credits: Option<u32>,
    /// Its place on every shard, which stays its own while the node runs.
    pub(crate) place: u8,
}

impl NiConfig {
    /// An NI `nid`, with what the configuration has for all.
    pub fn new(nid: Nid) -> NiConfig {
        NiConfig { nid, credits: None, place: 0 }
    }
}

/// Configuration of a [`Machine`](crate::node::Machine). Times are in ns, sizes in bytes. Defaults are socklnd.md §10's.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our NIs, [`NIS_MAX`] at most, in the order in which they came. The first one's NID is the primary one.
    pub nis: Vec<NiConfig>,
    /// Routes that it begins with.
    pub routes: Vec<Route>,
    /// Routes of a list that all nodes of a site have: those that this node cannot have are none of its own.
    pub site_routes: Vec<Route>,
    /// Peers by hand that it begins with.
    pub peers: Vec<PeerByHand>,
    /// Our process id.
    pub pid: Pid,
    /// Constant for the life of the NI and new at each start: wall clock in ns (socklnd.md §4).
    pub incarnation: u64,
    /// Epoch in our wire handles (lnet.md §1.5): wall clock in ns.
    pub interface_cookie: u64,
    /// First object cookie of our wire handles.
    pub first_object: u64,
    /// Difference of two object cookies.
    pub object_step: u64,
    /// This shard.
    pub shards: Shards,
    /// Port that nodes listen on; for CONTROL connections only, if `port_bulk` names another.
    pub port: u16,
    /// Port that nodes listen on for connections of every other type; the same one where this is `None`.
    pub port_bulk: Option<u16>,
    /// Dial from a port that only root may bind.
    pub privileged: bool,
    /// Dial IPv6 peers from other ports, too. Lustre kernels that accept such a connection crash (socklnd.md §9): only
    /// where all peers are nodes like this one.
    pub unprivileged_v6: bool,
    /// Peers to accept.
    pub accept: Accept,
    /// BULK_IN and BULK_OUT connections that we open to a peer, of each; 0 to derive it from `link_mbps`.
    pub conns_per_peer: u8,
    /// Speed of the link in Mbit/s, as far as it is known.
    pub link_mbps: Option<u32>,
    /// Connections of one type that we let a peer open: as many as kernels can count (socklnd.md §3).
    pub max_conns_per_type: u16,
    /// Connections whose HELLO has not come yet, over all peers and NIs.
    pub max_embryonic: usize,
    /// Connections that there are descriptors for: peers' are shared by host, our own are not refused.
    pub max_conns: usize,
    /// Peers remembered, by all NIs.
    pub max_peers: usize,
    /// Applications that speak to whom strangers name, as a member of lnet_selftest does. Names cost nothing: peers that are
    /// known by them alone get half of the entries, and of the budget what one host may hold; messages share the NI's credits as
    /// answers do.
    pub strangers: Vec<AppId>,
    /// Bytes that strangers may make this shard hold: answers that they do not read, handshakes, connections, peers.
    pub budget: u64,
    /// Messages a peer may have in flight (lnet.md §7).
    pub peer_credits: u32,
    /// Messages an NI may have in flight, unless it says otherwise ([`NiConfig::credits`]).
    pub ni_credits: u32,
    /// Operations of applications that may wait for one peer.
    pub max_queued: usize,
    /// ACKs, REPLYs and zero-copy ACKs that may wait for one peer before we stop reading from it.
    pub max_answers: usize,
    /// Pieces of pages that the runtime can have on loan at once.
    pub lendings: u32,
    /// The version that we speak first, and the highest that we answer; where this is `None` the family of the
    /// address decides about the first, and all are answered. Peers with IPv6 NIDs are spoken to in V4 anyway.
    pub version: Option<Version>,
    /// Connections of three types to a peer, rather than untyped ones.
    pub typed_conns: bool,
    /// Sums in our V2 messages (socklnd.md §5.3).
    pub enable_csum: bool,
    /// Spoils the next sum of ours, once: to see what the peer does.
    pub inject_csum_error: bool,
    /// Ask for zero-copy ACKs on V2 as well. Lustre kernels up to 2.17.57 die of it (socklnd.md §6.3): only for peers
    /// that are known to bear it.
    pub zc_v2: bool,
    /// Zero-copy ACKs leave on connections without LNet messages.
    pub nonblk_zcack: bool,
    /// Of equally good connections, the one used least recently.
    pub round_robin: bool,
    /// A reset or a protocol error in answer to our HELLO is taken for a peer that speaks V1 only (origins.md).
    pub v1_on_reset: bool,
    /// Message size from which a message is bulk (socklnd.md §7).
    pub min_bulk: u32,
    /// Payload from which we ask for a zero-copy ACK.
    pub zc_min_payload: u32,
    /// Bytes pushed on a stream and not yet acknowledged by TCP beyond which messages wait in the queue.
    pub tx_window: u64,
    /// Without progress for so long, a connection set is closed (socklnd.md §8); 0 for LNet's [`Config::lnd_timeout`].
    pub timeout: u64,
    /// For the acceptor request, and again for the HELLO.
    pub accept_timeout: u64,
    /// Shortest time between two attempts to connect.
    pub min_reconnect: u64,
    /// Longest.
    pub max_reconnect: u64,
    /// Silence after which a NOOP asks for a sign of life; 0 for never.
    pub keepalive: u64,
    /// For an ACK or REPLY to come.
    pub transaction_timeout: u64,
    /// Times that a message that has not left is sent again by another pair of NIDs; it divides `transaction_timeout`, too.
    pub retry_count: u32,
    /// Step of health values, of 1000: down for a failure, up for a recovery ping that is answered. 0: failures lower nothing.
    pub health_sensitivity: u16,
    /// Time for which a NID that has failed is pinged; 0 for as long as it takes.
    pub recovery_limit: u64,
    /// Longest interval between two such pings.
    pub max_recovery_interval: u64,
    /// Bytes to be copied and summed from which a message may be given away
    /// ([`Machine::offload`](crate::node::Machine::offload)); those that are both count twice.
    pub offload_from: u32,
    /// TCP under the streams.
    pub tcp_kind: TcpKind,
    /// Settings of that TCP.
    pub tcp: Tcp,
    /// Peers are asked who they are before the first message to them, and told who we are (lnet.md §6.3).
    pub discovery: bool,
    /// A gateway is asked again so long after it was asked last (upper.md §1.5).
    pub alive_router_check_interval: u64,
    /// For a gateway's answer to come.
    pub router_ping_timeout: u64,
    /// A route whose gateway is on the network that it leads to is up only while an NI of the gateway's there is up.
    pub avoid_asym_router_failure: bool,
    /// Messages from another network are dropped where they come by a node that is no gateway to it.
    pub drop_asym_route: bool,
    /// Feature bits of our ping info, where they are to be other than what is true ([`Config::features`]).
    pub ping_features: Option<u32>,
    /// Sequence number of our ping info, where it is to be another than a fresh node's ([`Config::sequence`]).
    pub ping_sequence: Option<u32>,
    /// Passing messages on.
    pub routing: Routing,
}

impl Config {
    /// The defaults for a node `nid` that starts at `epoch`, wall clock in ns.
    pub fn new(nid: Nid, epoch: u64) -> Config {
        Config {
            nis: vec![NiConfig::new(nid)],
            routes: Vec::new(),
            site_routes: Vec::new(),
            peers: Vec::new(),
            pid: nid::PID_LUSTRE,
            incarnation: epoch,
            interface_cookie: epoch,
            first_object: 1,
            object_step: 1,
            shards: Shards::SINGLE,
            port: 988,
            port_bulk: None,
            privileged: true,
            unprivileged_v6: false,
            accept: Accept::Secure,
            conns_per_peer: 0,
            link_mbps: None,
            max_conns_per_type: 255,
            max_embryonic: 1024,
            max_conns: usize::MAX,
            max_peers: 65_536,
            strangers: Vec::new(),
            budget: 256 << 20,
            peer_credits: 8,
            ni_credits: 256,
            max_queued: 16_384,
            max_answers: 4096,
            lendings: LENDINGS,
            version: None,
            typed_conns: true,
            enable_csum: false,
            inject_csum_error: false,
            zc_v2: false,
            nonblk_zcack: true,
            round_robin: true,
            v1_on_reset: false,
            min_bulk: 1024,
            zc_min_payload: 16_384,
            tx_window: 4 << 20,
            timeout: 50 * SEC,
            accept_timeout: 5 * SEC,
            min_reconnect: SEC,
            max_reconnect: 60 * SEC,
            keepalive: 30 * SEC,
            transaction_timeout: 150 * SEC,
            retry_count: 2,
            health_sensitivity: 100,
            recovery_limit: 0,
            max_recovery_interval: 900 * SEC,
            offload_from: BOX_FROM,
            tcp_kind: TcpKind::Sockets,
            tcp: Tcp::default(),
            discovery: true,
            alive_router_check_interval: 60 * SEC,
            router_ping_timeout: 50 * SEC,
            avoid_asym_router_failure: true,
            drop_asym_route: false,
            ping_features: None,
            ping_sequence: None,
            routing: Routing::default(),
        }
    }

    /// Router buffers that a peer may hold.
    #[inline]
    pub fn peer_router_credits(&self) -> u32 {
        if self.routing.peer_credits == 0 { self.peer_credits } else { self.routing.peer_credits }
    }

    /// Time after which users of a router know that it has changed, and after which a silent network is down to it, in ns.
    pub fn router_check_time(&self) -> u64 {
        self.alive_router_check_interval.saturating_add(self.router_ping_timeout)
    }

    /// Time between two looks at the links of its ports, in ns, where it has any. On the link of an only NI nothing depends but what
    /// users are shown.
    pub(crate) fn links_every(&self) -> Option<u64> {
        let every = if self.nis.len() > 1 { LINKS_EVERY } else { LINK_EVERY };
        (self.tcp_kind == TcpKind::Port).then_some(every)
    }

    /// The primary NID: that of the first NI.
    pub fn nid(&self) -> Nid {
        self.nis.first().map_or(Nid::LO, |n| n.nid)
    }

    /// NIDs of all NIs.
    pub fn nids(&self) -> impl Iterator<Item = Nid> + '_ {
        self.nis.iter().map(|n| n.nid)
    }

    /// The routes that it begins with: its own, and of the site's those that it can have, as kernels take them.
    pub fn all_routes(&self) -> Vec<Route> {
        let nids: Vec<Nid> = self.nids().collect();
        let mut all = self.routes.clone();
        for route in &self.site_routes {
            if route.check(&nids, all.iter()).is_ok() {
                all.push(*route);
            }
        }
        all
    }

    /// The NIs of a node that starts have the places of their order.
    pub(crate) fn placed(mut self) -> Config {
        (0..).zip(&mut self.nis).for_each(|(place, ni)| ni.place = place);
        self
    }

    /// The NI of that NID.
    pub(crate) fn ni_of(&self, nid: Nid) -> Option<NiId> {
        self.nis.iter().find(|n| n.nid == nid).map(|n| NiId(n.place))
    }

    /// The same with another primary NID.
    #[must_use]
    pub fn with_nid(mut self, nid: Nid) -> Config {
        match self.nis.first_mut() {
            Some(first) => first.nid = nid,
            None => self.nis.push(NiConfig::new(nid)),
        }
        self
    }

    /// The same with one more NI.
    #[must_use]
    pub fn also(mut self, nid: Nid) -> Config {
        self.nis.push(NiConfig::new(nid));
        self
    }

    /// Our process at the primary NID.
    pub fn id(&self) -> ProcessId {
        ProcessId { nid: self.nid(), pid: self.pid }
    }

    /// Feature bits of our ping info: a node that does not route, takes messages from any NID of a peer by any NI, and takes
    /// part in discovery if that is on.
    pub fn features(&self) -> u32 {
        let discovery = if self.discovery { ping::FEAT_DISCOVERY } else { 0 };
        let own = ping::FEAT_RTE_DISABLED | ping::FEAT_MULTI_RAIL | discovery;
        // Without a status kernels ask again without pause (lnet.md §6.2).
        self.ping_features.unwrap_or(own) | ping::FEAT_NI_STATUS
    }

    /// Sequence number of our ping info when the node starts: 1, and one more for each NI (upper.md §2).
    pub fn sequence(&self) -> u32 {
        self.ping_sequence.unwrap_or(1 + self.nis.len() as u32)
    }

    /// The version that we speak first with `peer`.
    pub fn first_version(&self, peer: Nid) -> Version {
        let family = if peer.to_nid4().is_none() { Version::V4 } else { Version::V3 };
        // 20-byte NIDs fit into V4 alone.
        if family == Version::V4 { family } else { self.version.unwrap_or(family) }
    }

    /// Whether a connection to `nid` may be dialled: kernels crash on one over IPv6 from a port above 1023
    /// (socklnd.md §9).
    pub fn may_dial(&self, nid: Nid) -> bool {
        self.privileged || self.unprivileged_v6 || nid.to_nid4().is_some()
    }

    /// Port that nodes listen on for connections other than CONTROL.
    pub fn bulk_port(&self) -> u16 {
        self.port_bulk.unwrap_or(self.port)
    }

    /// Ports to listen on: none where nobody is accepted.
    pub fn listen_ports(&self) -> impl Iterator<Item = u16> + use<> {
        let (port, bulk) = (self.port, self.bulk_port());
        let some = (self.accept != Accept::None).then_some(port);
        some.into_iter().chain(some.map(|_| bulk).filter(|b| *b != port))
    }

    /// Address at which the node `nid` accepts connections that are of type `ctype` at our end.
    pub fn addr_of(&self, nid: Nid, ctype: ConnType) -> Option<SocketAddr> {
        let port = if ctype == ConnType::Control { self.port } else { self.bulk_port() };
        nid.ip().map(|ip| SocketAddr::new(ip, port))
    }

    /// The LNDs' share of a transaction's time, in ns (socklnd.md §8): whole seconds.
    pub fn lnd_timeout(&self) -> u64 {
        let whole = (self.transaction_timeout / SEC).saturating_sub(1);
        (whole / (u64::from(self.retry_count) + 1)).max(1) * SEC
    }

    /// Without progress for so long, a connection set is closed, in ns.
    pub fn timeout(&self) -> u64 {
        if self.timeout == 0 { self.lnd_timeout() } else { self.timeout }
    }

    /// Connections of each bulk type that we open to a peer (socklnd.md §3): as asked for, or by the link's speed.
    pub fn conns(&self) -> u8 {
        match self.conns_per_peer {
            0 => (self.link_mbps.unwrap_or(0) / 1000).max(1).ilog2() as u8 / 2 + 1,
            n => n,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cfg() -> Config {
        Config::new(Nid::LO, 1)
    }

    #[test]
    fn connections_by_the_speed_of_the_link() {
        let mut c = cfg();
        let mut of = |mbps| {
            c.link_mbps = mbps;
            c.conns()
        };
        assert_eq!([None, Some(0), Some(10), Some(1000), Some(2500)].map(&mut of), [1; 5]);
        assert_eq!([10_000, 25_000, 40_000, 50_000].map(|m| of(Some(m))), [2, 3, 3, 3]);
        assert_eq!([100_000, 200_000, 400_000].map(|m| of(Some(m))), [4, 4, 5]);
        c.conns_per_peer = 7;
        assert_eq!(c.conns(), 7);
    }

    #[test]
    fn the_time_that_lnet_gives_its_drivers() {
        let mut c = cfg();
        let mut of = |transaction, retries| {
            (c.transaction_timeout, c.retry_count) = (transaction * SEC, retries);
            c.lnd_timeout() / SEC
        };
        // Of 2.17, of 2.14 and 2.15, without retries, and where nothing is left.
        assert_eq!([of(150, 2), of(50, 2), of(50, 0), of(2, 2), of(1, 0)], [49, 16, 49, 1, 1]);
        assert_eq!(c.timeout() / SEC, 50);
        c.timeout = 0;
        assert_eq!(c.timeout() / SEC, 1);
    }

    #[test]
    fn keepalive_is_off_when_one_of_its_three_is() {
        let on = Tcp { tos: Some(0x2f), ..Tcp::default() };
        assert_eq!((on.keepalive(), on.mark()), (Some((30, 5, 5)), Some(0x2c)));
        for off in [
            Tcp { keepalive_idle: 0, ..on },
            Tcp { keepalive_count: -1, ..on },
            Tcp { keepalive_intvl: 0, ..on },
        ] {
            assert_eq!((off.keepalive(), off.mark()), (None, None));
        }
    }

    #[test]
    fn control_and_the_other_types_have_a_port_each() {
        let mut c = cfg();
        let nid: Nid = Nid::tcp([10, 0, 0, 2].into(), 0);
        let port = |c: &Config, t| c.addr_of(nid, t).map(|a| a.port());
        assert_eq!(c.listen_ports().collect::<Vec<_>>(), [988]);
        c.port_bulk = Some(1988);
        assert_eq!(c.listen_ports().collect::<Vec<_>>(), [988, 1988]);
        assert_eq!(port(&c, ConnType::Control), Some(988));
        for t in [ConnType::Any, ConnType::BulkIn, ConnType::BulkOut] {
            assert_eq!(port(&c, t), Some(1988));
        }
        c.accept = Accept::None;
        assert_eq!(c.listen_ports().count(), 0);
    }
}
