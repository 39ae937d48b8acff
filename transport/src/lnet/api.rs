//! Operations of applications, and the events that they hear.

use hugepages::PageRunMut;

use crate::lnd::{Counters, Data, LnetError, Payload, Sink};
use crate::wire::{Nid, PingInfo, ProcessId};

/// A match entry. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeId(pub u64);

/// Memory behind a match entry.
#[derive(Debug)]
pub enum MdMem {
    /// Answers GETs.
    Source(Payload),
    /// Takes PUTs.
    Sink(Sink),
}

/// A memory descriptor (docs/protocol/lnet.md §4).
#[derive(Debug)]
pub struct MdSpec {
    /// Memory; it also says which operation the MD allows.
    pub mem: MdMem,
    /// Operations until it is exhausted; `None` for no limit.
    pub threshold: Option<u32>,
    /// Most bytes an operation may take; the MD is exhausted when less room than that is left.
    pub max_size: Option<u32>,
    /// The initiator's offset counts; else operations fill the MD one behind the other.
    pub manage_remote: bool,
    /// Longer payload is cut to the room instead of dropped.
    pub truncate: bool,
    /// No ACK even when the initiator wants one.
    pub ack_disable: bool,
}

impl MdSpec {
    /// An MD over `mem` for any number of operations, each at the initiator's offset, none truncated.
    pub fn new(mem: MdMem) -> MdSpec {
        MdSpec {
            mem,
            threshold: None,
            max_size: None,
            manage_remote: true,
            truncate: false,
            ack_disable: false,
        }
    }
}

/// An operation. `tag` is the application's own and comes back in every event of the operation.
#[derive(Debug)]
pub enum Op {
    /// Sends `payload` to whoever matches at `target`. Completes with [`Event::Send`] and, if `ack`,
    /// [`Event::Ack`]; the one with `done` set is the last.
    Put {
        /// The application's own.
        tag: u64,
        /// Target.
        target: ProcessId,
        /// The NID of ours that it leaves from; `None`: of the NI that leads to the target.
        from: Option<Nid>,
        /// Portal there, below 64.
        portal: u32,
        /// Match bits.
        match_bits: u64,
        /// Offset in the target's MD, in bytes, if that MD lets us manage it.
        offset: u32,
        /// Opaque word for the target.
        hdr_data: u64,
        /// Up to 1 MiB.
        payload: Payload,
        /// Ask for an ACK.
        ack: bool,
    },
    /// Fetches up to `len` bytes. Completes with one [`Event::Reply`].
    Get {
        /// The application's own.
        tag: u64,
        /// Target.
        target: ProcessId,
        /// The NID of ours that it leaves from; `None`: of the NI that leads to the target.
        from: Option<Nid>,
        /// Portal there, below 64.
        portal: u32,
        /// Match bits.
        match_bits: u64,
        /// Memory for the bytes; its length is asked for.
        sink: Sink,
    },
    /// Asks a node for its ping info. Completes with one [`Event::Ping`].
    Ping {
        /// The application's own.
        tag: u64,
        /// Whom.
        target: ProcessId,
    },
    /// Has the node find out who a peer is, and tell it of itself, before anything is sent to it (docs/protocol/lnet.md §6.3), and asks
    /// it for its ping info. Completes with one [`Event::Ping`].
    Discover {
        /// The application's own.
        tag: u64,
        /// Whom.
        target: ProcessId,
        /// One that is known is asked again.
        force: bool,
    },
    /// Attaches a match entry with its MD. Completes with [`Event::Attached`]; PUT and GET events follow, and
    /// [`Event::Unlink`] or an event with `unlinked` set ends it.
    Attach {
        /// The application's own.
        tag: u64,
        /// Portal, below 64.
        portal: u32,
        /// Initiators that may match; either part may be ANY.
        who: ProcessId,
        /// Match bits.
        match_bits: u64,
        /// Bits that need not match.
        ignore_bits: u64,
        /// The MD.
        md: MdSpec,
    },
    /// Takes a match entry away; its [`Event::Unlink`] comes when nothing uses it any more.
    Unlink {
        /// Echoed if the entry is not known.
        tag: u64,
        /// Portal that it was attached to.
        portal: u32,
        /// The entry.
        me: MeId,
    },
    /// Makes a portal lazy, or ends that. PUTs to a lazy portal that no entry matches are not dropped: each waits, and its
    /// connection is not read on, until an entry that matches is attached, the portal is lazy no longer (it is dropped
    /// then), or the connection ends, by the time-out of received messages at the latest. One of another node's, by a gateway,
    /// waits for 250 ms at most and is dropped then; for 4 s after such a one none that the gateway brings waits
    /// (docs/protocol/lnet.md §4). GETs are dropped as elsewhere. No event but [`Event::Refused`].
    Lazy {
        /// Echoed if it is refused.
        tag: u64,
        /// Portal, 1 to 63.
        portal: u32,
        /// Lazy from now on, or no longer.
        on: bool,
    },
    /// Asks a shard for the counts of its messages. Completes with one [`Event::Counts`].
    Counts {
        /// The application's own.
        tag: u64,
        /// Number of the shard; of one that is none, the one that is asked.
        shard: u16,
    },
    /// Takes no more operations and connections, fails what waits, closes all connections. Completes with
    /// [`Event::ShutDown`] when the last one is gone and every lend has come home.
    Shutdown {
        /// The application's own.
        tag: u64,
    },
}

impl Op {
    /// Its tag.
    pub(crate) fn tag(&self) -> u64 {
        match self {
            Op::Put { tag, .. }
            | Op::Get { tag, .. }
            | Op::Ping { tag, .. }
            | Op::Discover { tag, .. }
            | Op::Attach { tag, .. }
            | Op::Unlink { tag, .. }
            | Op::Lazy { tag, .. }
            | Op::Counts { tag, .. }
            | Op::Shutdown { tag } => *tag,
        }
    }

    /// The operation, taken out of its place.
    pub(crate) fn take(&mut self) -> Op {
        std::mem::replace(self, Op::Shutdown { tag: 0 })
    }
}

/// Pieces of memory that a payload may be of: LNet's LNET_MAX_IOV.
pub const PIECES_MAX: usize = 256;

/// Reason why an operation was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpRefused {
    /// Portal 64 or more.
    #[error("portal {0} does not exist; portals are 0 to 63")]
    Portal(u32),
    /// Payload, or GET length, over 1 MiB.
    #[error("{0} bytes in one operation; at most 1048576 are allowed: split it")]
    TooLong(u64),
    /// Payload of more pieces than one message may have.
    #[error("a payload of {0} pieces; at most {PIECES_MAX} are allowed: join some")]
    Pieces(usize),
    /// No NI is of the target's network and address family, and no route leads there.
    #[error(
        "no NI of this node leads to {0}: give a NID on the network of one of them, and of its address family, or the node \
         an NI there, or a route"
    )]
    Target(Nid),
    /// Routes lead to the target's network, and none of them is up.
    #[error(
        "no route to {0} is up: `pollnd lnetctl route show` tells of each; a gateway has to answer, to forward (`lnetctl set \
         routing 1`), and to have its NIs up"
    )]
    NoRoute(Nid),
    /// Routes to the target's network are up, and it has a NID that their gateways cannot be told of.
    #[error(
        "routes to the network of {0} are up, by gateways on IPv4 that speak version 3, in which that NID cannot be told: start the node, \
         its gateway and {0} with `--tunable protocol=4`, or route by an IPv6 NID of the gateway"
    )]
    LongNid(Nid),
    /// An operation that is to leave from a NID of another node's.
    #[error("{0} is none of this node's NIDs: give one of those, or none, and LNet chooses")]
    From(Nid),
    /// An operation that is to leave from an NI of another network, or address family, than the target's.
    #[error("the NI {from} does not lead to {to}: give an NI on that network, or none, and LNet chooses")]
    FromAway {
        /// The NI.
        from: Nid,
        /// The target.
        to: Nid,
    },
    /// Pushes of ping info come to portal 0, and no peer may have to wait for their ACKs.
    #[error("portal {0} is LNet's own and cannot be lazy: use another portal")]
    LazyOwn(u32),
    /// A GET for lnet_selftest's requests (lnet.md §3, field report L8).
    #[error(
        "a GET to portal {0} panics a Lustre kernel that has lnet_selftest loaded, which takes PUTs there: use another portal"
    )]
    SelftestGet(u32),
    /// An IPv6 peer that only an unprivileged port could dial, which crashes kernels (socklnd.md §9).
    #[error(
        "{0} cannot be dialled: over IPv6 a connection from a port above 1023 crashes Lustre kernels; give this program CAP_NET_BIND_SERVICE (setcap cap_net_bind_service=+ep), or, where all peers are pollnd, give --tunable unprivileged_v6=1"
    )]
    Unprivileged(Nid),
    /// The peer's queue is full.
    #[error("{0} operations wait for this peer already: wait for completions")]
    QueueFull(usize),
    /// The node knows as many peers as it may.
    #[error("this node knows {0} peers, as many as it may: raise max_peers")]
    TooManyPeers(usize),
    /// No such match entry.
    #[error("match entry {0:?} is not attached (any more)")]
    NoSuchMe(MeId),
    /// A portal's first entry fixes whether its entries are unique or wildcards.
    #[error("portal {0} holds entries of the other kind (unique or wildcard): use another portal")]
    PortalKind(u32),
    /// The node is going down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// A PUT that matched, after its payload was stored.
#[derive(Debug)]
pub struct PutEvent {
    /// The match entry's tag.
    pub tag: u64,
    /// The match entry.
    pub me: MeId,
    /// Payload stored, or why not.
    pub status: Result<(), LnetError>,
    /// Its sender, by its primary NID as far as that is known.
    pub initiator: ProcessId,
    /// The NID that it was sent from: an answer goes there.
    pub source: Nid,
    /// Our NID that it was sent to: an answer leaves from there.
    pub dest: Nid,
    /// The node that delivered it (a router, if it is not the initiator).
    pub sender: Nid,
    /// Portal.
    pub portal: u32,
    /// Match bits of the message.
    pub match_bits: u64,
    /// The initiator's word.
    pub hdr_data: u64,
    /// Bytes sent.
    pub rlength: u32,
    /// Bytes stored.
    pub mlength: u32,
    /// Offset in the MD, in bytes.
    pub offset: u32,
    /// The bytes.
    pub data: Data,
    /// Set on the MD's last event, with the run of a [`Sink::Copy`].
    pub unlinked: Option<Option<PageRunMut>>,
}

/// A GET that matched, after the REPLY's pages came home.
#[derive(Debug)]
pub struct GetEvent {
    /// The match entry's tag.
    pub tag: u64,
    /// The match entry.
    pub me: MeId,
    /// REPLY sent, or why not.
    pub status: Result<(), LnetError>,
    /// Its sender, by its primary NID as far as that is known.
    pub initiator: ProcessId,
    /// The NID that it was sent from: an answer goes there.
    pub source: Nid,
    /// Our NID that it was sent to: an answer leaves from there.
    pub dest: Nid,
    /// The node that delivered it (a router, if it is not the initiator).
    pub sender: Nid,
    /// Portal.
    pub portal: u32,
    /// Match bits of the message.
    pub match_bits: u64,
    /// Bytes asked for.
    pub rlength: u32,
    /// Bytes sent.
    pub mlength: u32,
    /// Offset in the MD of the first of them, in bytes.
    pub offset: u32,
    /// Set on the MD's last event.
    pub unlinked: bool,
}

/// Messages of a shard since it began, as lnet_selftest tells them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// LNet messages sent, those to this node itself among them.
    pub sent: u64,
    /// LNet messages received; those of this node to itself, too.
    pub received: u64,
    /// Messages received that nothing took.
    pub dropped: u64,
    /// Operations that ended without their answer, and messages without a connection.
    pub errors: u64,
    /// Payload sent, in bytes.
    pub sent_bytes: u64,
    /// Payload received, in bytes.
    pub received_bytes: u64,
    /// Payload received and dropped, in bytes.
    pub dropped_bytes: u64,
    /// Messages of other nodes that were passed on: neither sent nor received, as kernels count.
    pub routed: u64,
    /// Their payload, in bytes.
    pub routed_bytes: u64,
}

impl MessageCounts {
    pub(crate) fn of(c: &Counters) -> MessageCounts {
        let dropped = c.iter().filter(|(name, _)| name.starts_with("drop_")).map(|(_, n)| n).sum();
        MessageCounts {
            sent: c.msgs_tx + c.own_msgs - c.forwarded_msgs,
            received: c.msgs_rx + c.own_msgs - c.forward_rx_msgs,
            dropped,
            errors: c.err_no_answer + c.err_queue_timeout,
            sent_bytes: c.payload_tx_bytes + c.own_bytes - c.forwarded_bytes,
            received_bytes: c.payload_rx_bytes + c.own_bytes - c.forward_rx_bytes,
            dropped_bytes: c.rx_dropped_bytes,
            routed: c.forwarded_msgs,
            routed_bytes: c.forwarded_bytes,
        }
    }
}

/// An event for an application.
#[derive(Debug)]
pub enum Event {
    /// An operation was not accepted; its memory has been dropped.
    Refused {
        /// The operation's tag.
        tag: u64,
        /// Why.
        why: OpRefused,
    },
    /// A match entry is in place.
    Attached {
        /// The operation's tag.
        tag: u64,
        /// The entry.
        me: MeId,
    },
    /// A PUT has left and its pages may be written again. It says nothing of delivery.
    Send {
        /// The operation's tag.
        tag: u64,
        /// Sent, or why not.
        status: Result<(), LnetError>,
        /// Last event of the operation.
        done: bool,
    },
    /// A PUT was stored at the target.
    Ack {
        /// The operation's tag.
        tag: u64,
        /// Stored, or why we do not know.
        status: Result<(), LnetError>,
        /// Bytes stored.
        mlength: u32,
        /// Last event of the operation.
        done: bool,
    },
    /// A GET has ended.
    Reply {
        /// The operation's tag.
        tag: u64,
        /// Answered, or why not.
        status: Result<(), LnetError>,
        /// Bytes received.
        mlength: u32,
        /// The bytes.
        data: Data,
        /// The run of a [`Sink::Copy`].
        sink: Option<PageRunMut>,
    },
    /// A PUT came for a match entry.
    Put(PutEvent),
    /// A GET came for a match entry.
    Get(GetEvent),
    /// A match entry is gone.
    Unlink {
        /// The entry's tag.
        tag: u64,
        /// The entry.
        me: MeId,
        /// The run of a [`Sink::Copy`].
        sink: Option<PageRunMut>,
    },
    /// A ping has ended.
    Ping {
        /// The operation's tag.
        tag: u64,
        /// The node's info, or why we do not know it.
        info: Result<PingInfo, LnetError>,
        /// From the operation to the answer, in ns.
        rtt_ns: u64,
    },
    /// Counts of a shard.
    Counts {
        /// The operation's tag.
        tag: u64,
        /// They are.
        counts: MessageCounts,
    },
    /// The machine is down: no connections, no lends.
    ShutDown {
        /// The operation's tag.
        tag: u64,
    },
}
