//! Structures and constants of the header. Comments here are its text.
//!
//! General rules stand in the header's first comment, which is [`POLLND_VERSION_MAJOR`]'s.
#![allow(non_camel_case_types, reason = "the names that C sees")]

use std::ffi::{c_char, c_void};

use transport::wire::{Nid, ProcessId};

/// Rules for all functions
/// -----------------------
/// Errors: a function that can fail gives 0 or more when it has done its work, else an errno negated. `pollnd_error()`
/// then has the text for people, which names the thing, the value and the remedy. A null pointer where none may be, a length
/// that cannot be and a text that is not UTF-8 give -EINVAL, and nothing has been done. No call ever aborts or unwinds: an
/// inner fault gives -ENOTRECOVERABLE.
///
/// Threads: every function may be called from any thread at any time, except that a thing must not be used any more once
/// it is given to its _free function. No function calls back. None waits, but `pollnd_node_start`, `pollnd_node_stop`,
/// `pollnd_node_free`, `pollnd_event_next` and `pollnd_net_next`, which hold no lock while they wait.
///
/// Structures: fill them with zeros first (`= {0}`); a member that is left 0 or NULL has the usual value. A `size` member is
/// the structure's sizeof. Structures and texts that are given to a call need not outlive it; what does is said.
///
/// Operations: each has a `tag` of the caller's choice, which every event of it repeats. Its last event has
/// `POLLND_LAST` set in `flags`, and there is exactly one of these for each operation that was accepted.
///
/// This is the interface's version: programs made for another major one do not fit.
pub const POLLND_VERSION_MAJOR: u32 = 0;
/// Grows when something is added.
pub const POLLND_VERSION_MINOR: u32 = 1;

/// Option: any source port of a peer will do, and none of ours is below 1024. For nodes whose users trust each other. Give
/// them a port above 1023.
pub const POLLND_UNPRIVILEGED: u32 = 1;
/// Option: over kernel sockets, ask the kernel again and again instead of sleeping: a core for the lowest latency.
pub const POLLND_SPIN: u32 = 2;
/// Option: listen nowhere. Peers that want to connect back cannot.
pub const POLLND_NO_LISTEN: u32 = 4;

/// Option: Motr's net contract over LNet (`pollnd_net_of`), as an application of the node's.
pub const POLLND_NET_OVER_LNET: u32 = 8;

/// Options of a node.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pollnd_options {
    /// sizeof(struct pollnd_options).
    pub size: u32,
    /// POLLND_UNPRIVILEGED, POLLND_SPIN, POLLND_NO_LISTEN, POLLND_NET_OVER_LNET.
    pub flags: u32,
    /// Its NIDs, with commas: "10.0.0.1@tcp" or "10.0.0.1@tcp,10.0.0.1@tcp1". Must be given.
    pub nids: *const c_char,
    /// LNet's TCP port; 0: 988.
    pub port: u32,
    /// Operations and events that may wait at a time, each, of LNet and of each domain; 0: 256. When so many events wait, no new operation is begun.
    pub depth: u32,
    /// Addresses to listen on, with commas, "10.0.0.1:988"; NULL: the NIDs' addresses at `port`. Kernel sockets only.
    pub listen: *const c_char,
    /// Tunables by the kernel's names, with commas, "peer_credits=16,sock_timeout=20"; docs/tunables.md lists them.
    pub tunables: *const c_char,
    /// A DPDK port, "0000:05:00.0" or "net_virtio_user0,path=/tmp/v.sock,queue_size=1024"; NULL: kernel sockets.
    pub device: *const c_char,
    /// Arguments for DPDK's EAL, with spaces. The EAL is the process's: those of its first node on a port count.
    pub eal_args: *const c_char,
    /// The port's router, an address; NULL: none.
    pub gateway: *const c_char,
    /// Bits of the port's network; 0: 24, or 64 with IPv6.
    pub prefix: u32,
    /// MTU of the port in bytes; 0: 1500.
    pub mtu: u32,
    /// Polling lcores of a node on a port; 0: 1.
    pub lcores: u32,
    /// Motr's net contract over netsock (`pollnd_net_of`): the address that it listens at, "inet:stream:10.0.0.1@7011", for a
    /// transfer machine; others listen at addresses of their own. NULL: none. A node on a port has one lcore then.
    pub net_sock: *const c_char,
    /// Memory of the EAL for `pollnd_memory_alloc`, in MiB, beside the port's own; 0: 64. Of the process's first node on a
    /// port it counts.
    pub memory_mb: u32,
}

/// A NID, as LNet has it in memory and on the wire (struct lnet_nid). All zeros: none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct pollnd_nid {
    /// Size, type, number of the network (big-endian), address.
    pub bytes: [u8; 20],
}

/// Process of every kernel node, and of a pollnd node.
pub const POLLND_PID_LUSTRE: u32 = 12345;
/// Any process, in a match entry.
pub const POLLND_PID_ANY: u32 = 0xffff_ffff;

/// A process on a node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct pollnd_process {
    /// Its node. In a match entry all zeros is any node.
    pub nid: pollnd_nid,
    /// Its number; 0: POLLND_PID_LUSTRE, in a match entry any.
    pub pid: u32,
}

/// Memory that operations use without copying. `pollnd_memory_alloc` and `pollnd_memory_wrap` make it,
/// `pollnd_memory_free` takes it.
pub struct pollnd_memory {
    pub(crate) block: crate::abi::Block,
}

/// PUT: ask for an ACK.
pub const POLLND_WANT_ACK: u32 = 1;

/// A PUT. Its bytes are either at `bytes`, and copied before `pollnd_put` comes back, or in `memory`, and sent from there:
/// then the program must not write them until the operation's SEND event. Neither: no bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pollnd_put_args {
    /// sizeof(struct pollnd_put_args).
    pub size: u32,
    /// POLLND_WANT_ACK.
    pub flags: u32,
    /// The target.
    pub target: pollnd_process,
    /// Portal there, 0 to 63.
    pub portal: u32,
    /// The NID of the node's that it leaves from; NULL: LNet chooses.
    pub from: *const pollnd_nid,
    /// Match bits.
    pub match_bits: u64,
    /// A word for the target.
    pub hdr_data: u64,
    /// Offset in the target's memory, in bytes, where that lets the initiator manage it.
    pub offset: u32,
    /// Number of bytes, at most 1 MiB.
    pub length: u32,
    /// The bytes, to be copied.
    pub bytes: *const c_void,
    /// Or the memory that they are in.
    pub memory: *mut pollnd_memory,
    /// Offset of the first of them in `memory`.
    pub memory_offset: u32,
}

/// A GET.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pollnd_get_args {
    /// sizeof(struct pollnd_get_args).
    pub size: u32,
    /// Bytes to fetch, 1 to 1 MiB.
    pub length: u32,
    /// The target.
    pub target: pollnd_process,
    /// Portal there, 0 to 63.
    pub portal: u32,
    /// The NID of the node's that it leaves from; NULL: LNet chooses.
    pub from: *const pollnd_nid,
    /// Match bits.
    pub match_bits: u64,
    /// Memory that is filled from its first byte on, and that no other operation may use meanwhile; NULL: the bytes are lent to
    /// the event as they came, without a copy.
    pub memory: *mut pollnd_memory,
}

/// Match entry: takes PUTs into `memory`, from its first byte on.
pub const POLLND_ENTRY_FILL: u32 = 1;
/// Match entry: takes PUTs of up to `length` bytes each; the bytes are lent to the event as they came, without a copy.
pub const POLLND_ENTRY_LEND: u32 = 2;
/// Match entry: takes PUTs of up to `length` bytes each and drops the bytes.
pub const POLLND_ENTRY_DROP: u32 = 3;
/// Match entry: answers GETs from `memory`, or from a copy of `bytes`.
pub const POLLND_ENTRY_GIVE: u32 = 4;

/// Match entry: operations fill it one behind the other; else the initiator's offset counts.
pub const POLLND_OWN_OFFSET: u32 = 1;
/// Match entry: longer payload is cut to the room; else the message is dropped.
pub const POLLND_TRUNCATE: u32 = 2;
/// Match entry: no ACK even where the initiator wants one.
pub const POLLND_NO_ACK: u32 = 4;

/// A match entry with its memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pollnd_entry_args {
    /// sizeof(struct pollnd_entry_args).
    pub size: u32,
    /// POLLND_ENTRY_FILL, POLLND_ENTRY_LEND, POLLND_ENTRY_DROP or POLLND_ENTRY_GIVE.
    pub kind: u32,
    /// POLLND_OWN_OFFSET, POLLND_TRUNCATE, POLLND_NO_ACK.
    pub flags: u32,
    /// Portal, 0 to 63.
    pub portal: u32,
    /// Initiators that match; all zeros: any.
    pub who: pollnd_process,
    /// Operations until it is exhausted; 0: no limit.
    pub threshold: u32,
    /// Match bits.
    pub match_bits: u64,
    /// Bits that need not match.
    pub ignore_bits: u64,
    /// Most bytes an operation may take: it is exhausted when less room is left; 0: no such limit.
    pub max_size: u32,
    /// Bytes: of a message, or of the memory.
    pub length: u32,
    /// Memory. It is used until the entry's last event; operations of others may read it at the same time if it is given.
    pub memory: *mut pollnd_memory,
    /// Offset in it of the first byte that is given.
    pub memory_offset: u32,
    /// POLLND_ENTRY_GIVE without memory: the bytes, copied before the call comes back.
    pub bytes: *const c_void,
}

/// Event: a match entry is in place; `entry` is its name.
pub const POLLND_EVENT_ATTACHED: u32 = 1;
/// Event: a PUT has left, and its memory may be written again. It says nothing of delivery.
pub const POLLND_EVENT_SEND: u32 = 2;
/// Event: a PUT was stored at the target; `mlength` bytes of it.
pub const POLLND_EVENT_ACK: u32 = 3;
/// Event: a GET has ended; `mlength` bytes came, into its memory or, if it has none, into `pieces`.
pub const POLLND_EVENT_REPLY: u32 = 4;
/// Event: a PUT came for a match entry; its bytes are in the entry's memory at `offset`, or in `pieces`.
pub const POLLND_EVENT_PUT: u32 = 5;
/// Event: a GET came for a match entry, and its memory is not needed for it any more.
pub const POLLND_EVENT_GET: u32 = 6;
/// Event: a match entry is gone.
pub const POLLND_EVENT_UNLINK: u32 = 7;
/// Event: a ping has ended; `nis` are the target's interfaces.
pub const POLLND_EVENT_PING: u32 = 8;
/// Event: an operation was not accepted, or the node went down with it; `status` says why.
pub const POLLND_EVENT_REFUSED: u32 = 9;

/// Flag of an event: the operation's last one. Its memory is the program's again.
pub const POLLND_LAST: u32 = 1;

/// Bytes that lie together, as struct iovec.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pollnd_piece {
    /// The first.
    pub base: *const c_void,
    /// Their number.
    pub length: usize,
}

/// An interface of a node that was pinged.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pollnd_ni {
    /// Its NID.
    pub nid: pollnd_nid,
    /// 1 if it is up, else 0.
    pub up: u32,
}

/// An event. Members that its kind does not name are 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pollnd_event {
    /// POLLND_EVENT_...
    pub kind: u32,
    /// POLLND_LAST.
    pub flags: u32,
    /// 0, or an errno negated.
    pub status: i32,
    /// The portal of a match entry.
    pub portal: u32,
    /// The operation's.
    pub tag: u64,
    /// The match entry, for `pollnd_unlink`.
    pub entry: u64,
    /// Match bits of the message.
    pub match_bits: u64,
    /// The initiator's word.
    pub hdr_data: u64,
    /// Bytes sent, or asked for.
    pub rlength: u32,
    /// Bytes moved.
    pub mlength: u32,
    /// Offset in the memory at which they begin.
    pub offset: u32,
    /// The initiator of a PUT or GET.
    pub initiator: pollnd_process,
    /// The NID that it was sent from: an answer goes there.
    pub source: pollnd_nid,
    /// The NID of ours that it was sent to: an answer leaves from there.
    pub dest: pollnd_nid,
    /// A ping's round trip in ns.
    pub rtt_ns: u64,
    /// Feature bits of a node that was pinged, and its process.
    pub features: u32,
    /// Its process.
    pub pid: u32,
    /// Lent bytes, in order. They belong to the event.
    pub pieces: *const pollnd_piece,
    /// Number of pieces.
    pub pieces_count: usize,
    /// Interfaces of a node that was pinged. They belong to the event.
    pub nis: *const pollnd_ni,
    /// Number of interfaces.
    pub nis_count: usize,
    /// If `status` is not 0, the text that names the thing and the remedy. It belongs to the event.
    pub error: *const c_char,
    /// The library's.
    pub held: *mut c_void,
}

/// Transport of the net contract: netsock's own wire protocol, at the node's `net_sock`.
pub const POLLND_NET_SOCK: u32 = 1;
/// Transport of the net contract: LNet, as Motr uses it, on a node with POLLND_NET_OVER_LNET.
pub const POLLND_NET_LNET: u32 = 2;

/// A domain of Motr's net contract. It is the node's, and goes with it.
pub struct pollnd_net {
    pub(crate) net: std::sync::Arc<crate::net::Net>,
}

/// Queue: takes messages.
pub const POLLND_MSG_RECV: u32 = 0;
/// Queue: sends a message.
pub const POLLND_MSG_SEND: u32 = 1;
/// Queue: is filled by whoever has its descriptor.
pub const POLLND_PASSIVE_RECV: u32 = 2;
/// Queue: is fetched by whoever has its descriptor.
pub const POLLND_PASSIVE_SEND: u32 = 3;
/// Queue: fetches the buffer of a descriptor.
pub const POLLND_ACTIVE_RECV: u32 = 4;
/// Queue: fills the buffer of a descriptor.
pub const POLLND_ACTIVE_SEND: u32 = 5;

/// Most bytes of a descriptor.
pub const POLLND_DESC_MAX: u32 = 64;

/// A buffer for a queue of a transfer machine.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pollnd_net_args {
    /// sizeof(struct pollnd_net_args).
    pub size: u32,
    /// POLLND_MSG_RECV to POLLND_ACTIVE_SEND.
    pub queue: u32,
    /// The transfer machine.
    pub tm: u64,
    /// Memory, used from its first byte on. On a queue that receives nothing else may use it meanwhile.
    pub memory: *mut pollnd_memory,
    /// Bytes of it.
    pub length: u32,
    /// The buffer is given up after so many ms, with ETIMEDOUT; 0: never.
    pub timeout_ms: u32,
    /// POLLND_MSG_SEND: the end-point.
    pub ep: u64,
    /// POLLND_MSG_RECV: bytes that must be left for another message, and over LNet the most that one may have; 0: `length`.
    pub min_size: u32,
    /// POLLND_MSG_RECV: messages at most; 0: 1.
    pub max_messages: u32,
    /// POLLND_ACTIVE_RECV, POLLND_ACTIVE_SEND: the descriptor, as the passive side's event had it.
    pub desc: *const c_void,
    /// Its bytes.
    pub desc_length: u32,
}

/// Flag of a setup: events of the transfer machine's buffers wait until `pollnd_net_deliver` asks for them.
pub const POLLND_TM_SYNC: u32 = 1;

/// A transfer machine with a pool, with synchronous delivery, or of certain CPTs.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pollnd_net_setup {
    /// sizeof(struct pollnd_net_setup).
    pub size: u32,
    /// POLLND_TM_SYNC.
    pub flags: u32,
    /// Its address, as of `pollnd_net_start`. Must be given.
    pub address: *const c_char,
    /// The pool that its queue for messages is filled from; 0: none.
    pub pool: u64,
    /// With a pool: buffers that wait for messages; less than 2: 2.
    pub min_queue: u32,
    /// With a pool: as of a buffer for messages. Must be given.
    pub min_size: u32,
    /// With a pool: as of a buffer for messages; 0: 1.
    pub max_messages: u32,
    /// Its colour, 1 to the pool's `colours`: it prefers buffers of that one; 0: none.
    pub colour: u32,
    /// CPTs that may serve it, a bit each, where a node's lcore is of CPT 0; 0: any.
    pub cpts: u64,
}

/// Counts of a queue of a transfer machine, since its start or since they were set to zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pollnd_net_counts {
    /// Buffers that were queued.
    pub adds: u64,
    /// Buffers that were given up.
    pub dels: u64,
    /// Events without an error.
    pub successes: u64,
    /// Events with one; of POLLND_MSG_RECV also buffers that the pool did not have.
    pub failures: u64,
    /// Time of buffers in the queue, in ns.
    pub time_ns: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Most bytes of one event.
    pub max_bytes: u64,
}

/// Net event: a transfer machine has another state, `state`. The last one is that it has stopped or failed.
pub const POLLND_NET_STATE: u32 = 1;
/// Net event: an end-point is there, or, if `status` says so, is not.
pub const POLLND_NET_EP: u32 = 2;
/// Net event: a buffer is queued; `desc` is that of a passive one.
pub const POLLND_NET_ADDED: u32 = 3;
/// Net event: `length` bytes came to `offset` of a buffer's memory, or were sent from it, or, if `status` says so, were not.
pub const POLLND_NET_BUFFER: u32 = 4;
/// Net event: `length` is the number that was asked for.
pub const POLLND_NET_COUNT: u32 = 5;
/// Net event: `counts` are those of the queue that was asked about.
pub const POLLND_NET_STATS: u32 = 6;
/// Net event: events wait to be delivered; or, with a `status`, nobody will hear of any.
pub const POLLND_NET_PENDING: u32 = 7;
/// Net event: a pool that was empty has a buffer.
pub const POLLND_NET_POOL_FILLED: u32 = 8;
/// Net event: a pool has fewer buffers than its threshold.
pub const POLLND_NET_POOL_BELOW: u32 = 9;
/// Net event: a pool is gone.
pub const POLLND_NET_POOL: u32 = 10;

/// State: it gets ready.
pub const POLLND_TM_STARTING: u32 = 2;
/// State: buffers may be added.
pub const POLLND_TM_STARTED: u32 = 3;
/// State: what is queued comes to its end.
pub const POLLND_TM_STOPPING: u32 = 4;
/// State: it has come to its end.
pub const POLLND_TM_STOPPED: u32 = 5;
/// State: it could not be started, or not go on.
pub const POLLND_TM_FAILED: u32 = 6;

/// An event of the net contract. Members that its kind does not name are 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct pollnd_net_event {
    /// POLLND_NET_STATE to POLLND_NET_POOL.
    pub kind: u32,
    /// POLLND_LAST.
    pub flags: u32,
    /// 0, or an errno negated.
    pub status: i32,
    /// POLLND_TM_...
    pub state: u32,
    /// The operation's.
    pub tag: u64,
    /// The transfer machine, end-point, buffer or pool.
    pub name: u64,
    /// Bytes that came, or were sent; the number that was asked for.
    pub length: u64,
    /// Offset in the memory at which they begin.
    pub offset: u64,
    /// The end-point that a message came from, with a reference for the program, which gives it to `pollnd_net_ep_put`; else 0.
    pub ep: u64,
    /// Its address as text. It belongs to the event.
    pub from: *const c_char,
    /// Bytes of the descriptor.
    pub desc_length: u32,
    /// The descriptor, for the active side.
    pub desc: [u8; 64],
    /// If `status` is not 0, the text that names the thing and the remedy. It belongs to the event.
    pub error: *const c_char,
    /// The counts that were asked for. They belong to the event.
    pub counts: *const pollnd_net_counts,
    /// The library's.
    pub held: *mut c_void,
}

impl From<Nid> for pollnd_nid {
    fn from(nid: Nid) -> pollnd_nid {
        pollnd_nid { bytes: nid.to_nid16() }
    }
}

impl pollnd_nid {
    pub(crate) const NONE: pollnd_nid = pollnd_nid { bytes: [0; 20] };

    pub(crate) fn nid(&self) -> Nid {
        Nid::from_nid16(self.bytes)
    }

    fn is_none(&self) -> bool {
        *self == pollnd_nid::NONE
    }
}

impl From<ProcessId> for pollnd_process {
    fn from(p: ProcessId) -> pollnd_process {
        pollnd_process { nid: p.nid.into(), pid: p.pid }
    }
}

impl pollnd_process {
    pub(crate) const NONE: pollnd_process = pollnd_process { nid: pollnd_nid::NONE, pid: 0 };

    /// As a target.
    pub(crate) fn target(&self) -> ProcessId {
        let pid = if self.pid == 0 { POLLND_PID_LUSTRE } else { self.pid };
        ProcessId { nid: self.nid.nid(), pid }
    }

    /// As somebody who may match.
    pub(crate) fn who(&self) -> ProcessId {
        let nid = if self.nid.is_none() { Nid::ANY } else { self.nid.nid() };
        ProcessId { nid, pid: if self.pid == 0 { POLLND_PID_ANY } else { self.pid } }
    }
}
