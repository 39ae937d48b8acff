//! What a machine is told at birth.

use std::net::{IpAddr, SocketAddr};

use super::io::ShardId;
use crate::wire::ping::FEAT_MINIMAL;
use crate::wire::{Nid, Pid, ProcessId, Version, nid};

/// One second in ns.
pub const SEC: u64 = 1_000_000_000;

/// Whom the acceptor takes (docs/protocol/socklnd.md §1).
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

/// Which shard of the node this machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shards {
    /// This one.
    pub me: ShardId,
    /// How many there are; at least 1.
    pub count: u16,
}

impl Shards {
    /// A node of one shard.
    pub const SINGLE: Shards = Shards { me: ShardId(0), count: 1 };

    /// Home of the peer at `ip`: where its connections and the operations on it belong.
    pub fn home_of(self, ip: IpAddr) -> ShardId {
        let fold = |bytes: &[u8]| {
            let h = bytes
                .iter()
                .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
            // Neighbours differ in the low bits alone so far; these steps spread them.
            let h = (h ^ h >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
            h ^ h >> 29
        };
        let h = match ip {
            IpAddr::V4(a) => fold(&a.octets()),
            IpAddr::V6(a) => fold(&a.octets()),
        };
        ShardId(((h >> 32) % u64::from(self.count.max(1))) as u16)
    }

    /// Owner of a portal: where its match entries are attached.
    pub fn owner_of(self, portal: u32) -> ShardId {
        ShardId((portal % u32::from(self.count.max(1))) as u16)
    }
}

/// Configuration of a [`Machine`](super::Machine). Times are in ns, sizes in bytes. Defaults are socklnd.md §10's.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our NID.
    pub nid: Nid,
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
    /// Port that nodes listen on.
    pub port: u16,
    /// Dial from a port that only root may bind.
    pub privileged: bool,
    /// Whom to accept.
    pub accept: Accept,
    /// BULK_IN and BULK_OUT connections that we open to a peer, of each.
    pub conns_per_peer: u8,
    /// Connections of one type that we let a peer open.
    pub max_conns_per_type: u16,
    /// Connections whose HELLO has not come yet, over all peers.
    pub max_embryonic: usize,
    /// Peers remembered.
    pub max_peers: usize,
    /// Messages a peer may have in flight (lnet.md §7).
    pub peer_credits: u32,
    /// Messages the NI may have in flight.
    pub ni_credits: u32,
    /// Operations of applications that may wait for one peer.
    pub max_queued: usize,
    /// ACKs, REPLYs and zero-copy ACKs that may wait for one peer before we stop reading from it.
    pub max_answers: usize,
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
    /// Without progress for so long, a connection set is closed (socklnd.md §8).
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
    /// Feature bits of our ping info.
    pub ping_features: u32,
    /// Sequence number of our ping info.
    pub ping_sequence: u32,
}

impl Config {
    /// The defaults for a node `nid` that starts at `epoch`, wall clock in ns.
    pub fn new(nid: Nid, epoch: u64) -> Config {
        Config {
            nid,
            pid: nid::PID_LUSTRE,
            incarnation: epoch,
            interface_cookie: epoch,
            first_object: 1,
            object_step: 1,
            shards: Shards::SINGLE,
            port: 988,
            privileged: true,
            accept: Accept::Secure,
            conns_per_peer: 1,
            max_conns_per_type: 64,
            max_embryonic: 1024,
            max_peers: 65_536,
            peer_credits: 8,
            ni_credits: 256,
            max_queued: 16_384,
            max_answers: 4096,
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
            ping_features: FEAT_MINIMAL,
            ping_sequence: 1,
        }
    }

    /// Who we are.
    pub fn id(&self) -> ProcessId {
        ProcessId { nid: self.nid, pid: self.pid }
    }

    /// The version that we speak first with `peer`.
    pub fn first_version(&self, peer: Nid) -> Version {
        let family = Version::first(peer.to_nid4().is_none());
        // 20-byte NIDs fit into V4 alone.
        if family == Version::V4 { family } else { self.version.unwrap_or(family) }
    }

    /// Where the node `nid` listens.
    pub fn addr_of(&self, nid: Nid) -> Option<SocketAddr> {
        nid.ip().map(|ip| SocketAddr::new(ip, self.port))
    }
}
