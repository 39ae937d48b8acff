/* pollnd for C: a user-space LNet node in your process. Made by cbindgen of capi/src: do not edit. */

#ifndef POLLND_H
#define POLLND_H

#include <stddef.h>
#include <stdint.h>

// Rules for all functions
// -----------------------
// Errors: a function that can fail gives 0 or more when it has done its work, else an errno negated. `pollnd_error()`
// then has the text for people, which names the thing, the value and the remedy. A null pointer where none may be, a length
// that cannot be and a text that is not UTF-8 give -EINVAL, and nothing has been done. No call ever aborts or unwinds: an
// inner fault gives -ENOTRECOVERABLE.
//
// Threads: every function may be called from any thread at any time, except that a thing must not be used any more once
// it is given to its _free function. No function calls back. None waits, but `pollnd_node_start`, `pollnd_node_stop`,
// `pollnd_node_free`, `pollnd_event_next` and `pollnd_net_next`, which hold no lock while they wait.
//
// Structures: fill them with zeros first (`= {0}`); a member that is left 0 or NULL has the usual value. A `size` member is
// the structure's sizeof. Structures and texts that are given to a call need not outlive it; what does is said.
//
// Operations: each has a `tag` of the caller's choice, which every event of it repeats. Its last event has
// `POLLND_LAST` set in `flags`, and there is exactly one of these for each operation that was accepted.
//
// This is the interface's version: programs made for another major one do not fit.
#define POLLND_VERSION_MAJOR 0

// Grows when something is added.
#define POLLND_VERSION_MINOR 1

// Option: any source port of a peer will do, and none of ours is below 1024. For nodes whose users trust each other. Give
// them a port above 1023.
#define POLLND_UNPRIVILEGED 1

// Option: over kernel sockets, ask the kernel again and again instead of sleeping: a core for the lowest latency.
#define POLLND_SPIN 2

// Option: listen nowhere. Peers that want to connect back cannot.
#define POLLND_NO_LISTEN 4

// Option: Motr's net contract over LNet (`pollnd_net_of`), as an application of the node's.
#define POLLND_NET_OVER_LNET 8

// Process of every kernel node, and of a pollnd node.
#define POLLND_PID_LUSTRE 12345

// Any process, in a match entry.
#define POLLND_PID_ANY 4294967295

// PUT: ask for an ACK.
#define POLLND_WANT_ACK 1

// Match entry: takes PUTs into `memory`, from its first byte on.
#define POLLND_ENTRY_FILL 1

// Match entry: takes PUTs of up to `length` bytes each; the bytes are lent to the event as they came, without a copy.
#define POLLND_ENTRY_LEND 2

// Match entry: takes PUTs of up to `length` bytes each and drops the bytes.
#define POLLND_ENTRY_DROP 3

// Match entry: answers GETs from `memory`, or from a copy of `bytes`.
#define POLLND_ENTRY_GIVE 4

// Match entry: operations fill it one behind the other; else the initiator's offset counts.
#define POLLND_OWN_OFFSET 1

// Match entry: longer payload is cut to the room; else the message is dropped.
#define POLLND_TRUNCATE 2

// Match entry: no ACK even where the initiator wants one.
#define POLLND_NO_ACK 4

// Event: a match entry is in place; `entry` is its name.
#define POLLND_EVENT_ATTACHED 1

// Event: a PUT has left, and its memory may be written again. It says nothing of delivery.
#define POLLND_EVENT_SEND 2

// Event: a PUT was stored at the target; `mlength` bytes of it.
#define POLLND_EVENT_ACK 3

// Event: a GET has ended; `mlength` bytes came, into its memory or, if it has none, into `pieces`.
#define POLLND_EVENT_REPLY 4

// Event: a PUT came for a match entry; its bytes are in the entry's memory at `offset`, or in `pieces`.
#define POLLND_EVENT_PUT 5

// Event: a GET came for a match entry, and its memory is not needed for it any more.
#define POLLND_EVENT_GET 6

// Event: a match entry is gone.
#define POLLND_EVENT_UNLINK 7

// Event: a ping has ended; `nis` are the target's interfaces.
#define POLLND_EVENT_PING 8

// Event: an operation was not accepted, or the node went down with it; `status` says why.
#define POLLND_EVENT_REFUSED 9

// Flag of an event: the operation's last one. Its memory is the program's again.
#define POLLND_LAST 1

// Transport of the net contract: netsock's own wire protocol, at the node's `net_sock`.
#define POLLND_NET_SOCK 1

// Transport of the net contract: LNet, as Motr uses it, on a node with POLLND_NET_OVER_LNET.
#define POLLND_NET_LNET 2

// Queue: takes messages.
#define POLLND_MSG_RECV 0

// Queue: sends a message.
#define POLLND_MSG_SEND 1

// Queue: is filled by whoever has its descriptor.
#define POLLND_PASSIVE_RECV 2

// Queue: is fetched by whoever has its descriptor.
#define POLLND_PASSIVE_SEND 3

// Queue: fetches the buffer of a descriptor.
#define POLLND_ACTIVE_RECV 4

// Queue: fills the buffer of a descriptor.
#define POLLND_ACTIVE_SEND 5

// Most bytes of a descriptor.
#define POLLND_DESC_MAX 64

// Flag of a setup: events of the transfer machine's buffers wait until `pollnd_net_deliver` asks for them.
#define POLLND_TM_SYNC 1

// Net event: a transfer machine has another state, `state`. The last one is that it has stopped or failed.
#define POLLND_NET_STATE 1

// Net event: an end-point is there, or, if `status` says so, is not.
#define POLLND_NET_EP 2

// Net event: a buffer is queued; `desc` is that of a passive one.
#define POLLND_NET_ADDED 3

// Net event: `length` bytes came to `offset` of a buffer's memory, or were sent from it, or, if `status` says so, were not.
#define POLLND_NET_BUFFER 4

// Net event: `length` is the number that was asked for.
#define POLLND_NET_COUNT 5

// Net event: `counts` are those of the queue that was asked about.
#define POLLND_NET_STATS 6

// Net event: events wait to be delivered; or, with a `status`, nobody will hear of any.
#define POLLND_NET_PENDING 7

// Net event: a pool that was empty has a buffer.
#define POLLND_NET_POOL_FILLED 8

// Net event: a pool has fewer buffers than its threshold.
#define POLLND_NET_POOL_BELOW 9

// Net event: a pool is gone.
#define POLLND_NET_POOL 10

// State: it gets ready.
#define POLLND_TM_STARTING 2

// State: buffers may be added.
#define POLLND_TM_STARTED 3

// State: what is queued comes to its end.
#define POLLND_TM_STOPPING 4

// State: it has come to its end.
#define POLLND_TM_STOPPED 5

// State: it could not be started, or not go on.
#define POLLND_TM_FAILED 6

// Memory that operations use without copying. `pollnd_memory_alloc` and `pollnd_memory_wrap` make it,
// `pollnd_memory_free` takes it.
struct pollnd_memory;

// A domain of Motr's net contract. It is the node's, and goes with it.
struct pollnd_net;

// A node. `pollnd_node_start` makes it, `pollnd_node_free` takes it.
struct pollnd_node;

// A buffer for a queue of a transfer machine.
struct pollnd_net_args {
    // sizeof(struct pollnd_net_args).
    uint32_t size;
    // POLLND_MSG_RECV to POLLND_ACTIVE_SEND.
    uint32_t queue;
    // The transfer machine.
    uint64_t tm;
    // Memory, used from its first byte on. On a queue that receives nothing else may use it meanwhile.
    struct pollnd_memory *memory;
    // Bytes of it.
    uint32_t length;
    // The buffer is given up after so many ms, with ETIMEDOUT; 0: never.
    uint32_t timeout_ms;
    // POLLND_MSG_SEND: the end-point.
    uint64_t ep;
    // POLLND_MSG_RECV: bytes that must be left for another message, and over LNet the most that one may have; 0: `length`.
    uint32_t min_size;
    // POLLND_MSG_RECV: messages at most; 0: 1.
    uint32_t max_messages;
    // POLLND_ACTIVE_RECV, POLLND_ACTIVE_SEND: the descriptor, as the passive side's event had it.
    const void *desc;
    // Its bytes.
    uint32_t desc_length;
};

// Counts of a queue of a transfer machine, since its start or since they were set to zero.
struct pollnd_net_counts {
    // Buffers that were queued.
    uint64_t adds;
    // Buffers that were given up.
    uint64_t dels;
    // Events without an error.
    uint64_t successes;
    // Events with one; of POLLND_MSG_RECV also buffers that the pool did not have.
    uint64_t failures;
    // Time of buffers in the queue, in ns.
    uint64_t time_ns;
    // Bytes moved.
    uint64_t bytes;
    // Most bytes of one event.
    uint64_t max_bytes;
};

// An event of the net contract. Members that its kind does not name are 0.
struct pollnd_net_event {
    // POLLND_NET_STATE to POLLND_NET_POOL.
    uint32_t kind;
    // POLLND_LAST.
    uint32_t flags;
    // 0, or an errno negated.
    int32_t status;
    // POLLND_TM_...
    uint32_t state;
    // The operation's.
    uint64_t tag;
    // The transfer machine, end-point, buffer or pool.
    uint64_t name;
    // Bytes that came, or were sent; the number that was asked for.
    uint64_t length;
    // Offset in the memory at which they begin.
    uint64_t offset;
    // The end-point that a message came from, with a reference for the program, which gives it to `pollnd_net_ep_put`; else 0.
    uint64_t ep;
    // Its address as text. It belongs to the event.
    const char *from;
    // Bytes of the descriptor.
    uint32_t desc_length;
    // The descriptor, for the active side.
    uint8_t desc[64];
    // If `status` is not 0, the text that names the thing and the remedy. It belongs to the event.
    const char *error;
    // The counts that were asked for. They belong to the event.
    const struct pollnd_net_counts *counts;
    // The library's.
    void *held;
};

// A NID, as LNet has it in memory and on the wire (struct lnet_nid). All zeros: none.
struct pollnd_nid {
    // Size, type, number of the network (big-endian), address.
    uint8_t bytes[20];
};

// A process on a node.
struct pollnd_process {
    // Its node. In a match entry all zeros is any node.
    struct pollnd_nid nid;
    // Its number; 0: POLLND_PID_LUSTRE, in a match entry any.
    uint32_t pid;
};

// Options of a node.
struct pollnd_options {
    // sizeof(struct pollnd_options).
    uint32_t size;
    // POLLND_UNPRIVILEGED, POLLND_SPIN, POLLND_NO_LISTEN, POLLND_NET_OVER_LNET.
    uint32_t flags;
    // Its NIDs, with commas: "10.0.0.1@tcp" or "10.0.0.1@tcp,10.0.0.1@tcp1". Must be given.
    const char *nids;
    // LNet's TCP port; 0: 988.
    uint32_t port;
    // Operations and events that may wait at a time, each, of LNet and of each domain; 0: 256. When so many events wait, no new operation is begun.
    uint32_t depth;
    // Addresses to listen on, with commas, "10.0.0.1:988"; NULL: the NIDs' addresses at `port`. Kernel sockets only.
    const char *listen;
    // Tunables by the kernel's names, with commas, "peer_credits=16,sock_timeout=20"; docs/tunables.md lists them.
    const char *tunables;
    // A DPDK port, "0000:05:00.0" or "net_virtio_user0,path=/tmp/v.sock,queue_size=1024"; NULL: kernel sockets.
    const char *device;
    // Arguments for DPDK's EAL, with spaces. The EAL is the process's: those of its first node on a port count.
    const char *eal_args;
    // The port's router, an address; NULL: none.
    const char *gateway;
    // Bits of the port's network; 0: 24, or 64 with IPv6.
    uint32_t prefix;
    // MTU of the port in bytes; 0: 1500.
    uint32_t mtu;
    // Polling lcores of a node on a port; 0: 1.
    uint32_t lcores;
    // Motr's net contract over netsock (`pollnd_net_of`): the address that it listens at, "inet:stream:10.0.0.1@7011", for a
    // transfer machine; others listen at addresses of their own. NULL: none. A node on a port has one lcore then.
    const char *net_sock;
    // Memory of the EAL for `pollnd_memory_alloc`, in MiB, beside the port's own; 0: 64. Of the process's first node on a
    // port it counts.
    uint32_t memory_mb;
};

// A PUT. Its bytes are either at `bytes`, and copied before `pollnd_put` comes back, or in `memory`, and sent from there:
// then the program must not write them until the operation's SEND event. Neither: no bytes.
struct pollnd_put_args {
    // sizeof(struct pollnd_put_args).
    uint32_t size;
    // POLLND_WANT_ACK.
    uint32_t flags;
    // The target.
    struct pollnd_process target;
    // Portal there, 0 to 63.
    uint32_t portal;
    // The NID of the node's that it leaves from; NULL: LNet chooses.
    const struct pollnd_nid *from;
    // Match bits.
    uint64_t match_bits;
    // A word for the target.
    uint64_t hdr_data;
    // Offset in the target's memory, in bytes, where that lets the initiator manage it.
    uint32_t offset;
    // Number of bytes, at most 1 MiB.
    uint32_t length;
    // The bytes, to be copied.
    const void *bytes;
    // Or the memory that they are in.
    struct pollnd_memory *memory;
    // Offset of the first of them in `memory`.
    uint32_t memory_offset;
};

// A GET.
struct pollnd_get_args {
    // sizeof(struct pollnd_get_args).
    uint32_t size;
    // Bytes to fetch, 1 to 1 MiB.
    uint32_t length;
    // The target.
    struct pollnd_process target;
    // Portal there, 0 to 63.
    uint32_t portal;
    // The NID of the node's that it leaves from; NULL: LNet chooses.
    const struct pollnd_nid *from;
    // Match bits.
    uint64_t match_bits;
    // Memory that is filled from its first byte on, and that no other operation may use meanwhile; NULL: the bytes are lent to
    // the event as they came, without a copy.
    struct pollnd_memory *memory;
};

// A match entry with its memory.
struct pollnd_entry_args {
    // sizeof(struct pollnd_entry_args).
    uint32_t size;
    // POLLND_ENTRY_FILL, POLLND_ENTRY_LEND, POLLND_ENTRY_DROP or POLLND_ENTRY_GIVE.
    uint32_t kind;
    // POLLND_OWN_OFFSET, POLLND_TRUNCATE, POLLND_NO_ACK.
    uint32_t flags;
    // Portal, 0 to 63.
    uint32_t portal;
    // Initiators that match; all zeros: any.
    struct pollnd_process who;
    // Operations until it is exhausted; 0: no limit.
    uint32_t threshold;
    // Match bits.
    uint64_t match_bits;
    // Bits that need not match.
    uint64_t ignore_bits;
    // Most bytes an operation may take: it is exhausted when less room is left; 0: no such limit.
    uint32_t max_size;
    // Bytes: of a message, or of the memory.
    uint32_t length;
    // Memory. It is used until the entry's last event; operations of others may read it at the same time if it is given.
    struct pollnd_memory *memory;
    // Offset in it of the first byte that is given.
    uint32_t memory_offset;
    // POLLND_ENTRY_GIVE without memory: the bytes, copied before the call comes back.
    const void *bytes;
};

// Bytes that lie together, as struct iovec.
struct pollnd_piece {
    // The first.
    const void *base;
    // Their number.
    size_t length;
};

// An interface of a node that was pinged.
struct pollnd_ni {
    // Its NID.
    struct pollnd_nid nid;
    // 1 if it is up, else 0.
    uint32_t up;
};

// An event. Members that its kind does not name are 0.
struct pollnd_event {
    // POLLND_EVENT_...
    uint32_t kind;
    // POLLND_LAST.
    uint32_t flags;
    // 0, or an errno negated.
    int32_t status;
    // The portal of a match entry.
    uint32_t portal;
    // The operation's.
    uint64_t tag;
    // The match entry, for `pollnd_unlink`.
    uint64_t entry;
    // Match bits of the message.
    uint64_t match_bits;
    // The initiator's word.
    uint64_t hdr_data;
    // Bytes sent, or asked for.
    uint32_t rlength;
    // Bytes moved.
    uint32_t mlength;
    // Offset in the memory at which they begin.
    uint32_t offset;
    // The initiator of a PUT or GET.
    struct pollnd_process initiator;
    // The NID that it was sent from: an answer goes there.
    struct pollnd_nid source;
    // The NID of ours that it was sent to: an answer leaves from there.
    struct pollnd_nid dest;
    // A ping's round trip in ns.
    uint64_t rtt_ns;
    // Feature bits of a node that was pinged, and its process.
    uint32_t features;
    // Its process.
    uint32_t pid;
    // Lent bytes, in order. They belong to the event.
    const struct pollnd_piece *pieces;
    // Number of pieces.
    size_t pieces_count;
    // Interfaces of a node that was pinged. They belong to the event.
    const struct pollnd_ni *nis;
    // Number of interfaces.
    size_t nis_count;
    // If `status` is not 0, the text that names the thing and the remedy. It belongs to the event.
    const char *error;
    // The library's.
    void *held;
};

// A transfer machine with a pool, with synchronous delivery, or of certain CPTs.
struct pollnd_net_setup {
    // sizeof(struct pollnd_net_setup).
    uint32_t size;
    // POLLND_TM_SYNC.
    uint32_t flags;
    // Its address, as of `pollnd_net_start`. Must be given.
    const char *address;
    // The pool that its queue for messages is filled from; 0: none.
    uint64_t pool;
    // With a pool: buffers that wait for messages; less than 2: 2.
    uint32_t min_queue;
    // With a pool: as of a buffer for messages. Must be given.
    uint32_t min_size;
    // With a pool: as of a buffer for messages; 0: 1.
    uint32_t max_messages;
    // Its colour, 1 to the pool's `colours`: it prefers buffers of that one; 0: none.
    uint32_t colour;
    // CPTs that may serve it, a bit each, where a node's lcore is of CPT 0; 0: any.
    uint64_t cpts;
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The node's domain over a transport, POLLND_NET_SOCK or POLLND_NET_LNET. It is the node's: it is there until
// `pollnd_node_free`. -ENOENT: the node was started without it.
int pollnd_net_of(const struct pollnd_node *node, uint32_t transport, const struct pollnd_net **net);

// Makes a transfer machine and starts it at an address, "inet:stream:127.0.0.1@7011" or "127.0.0.1@tcp:12345:34:1", with
// a * for a number that is chosen. STATE events follow, of which the last one says that it has stopped, or failed. `*tm` is
// its name. -EAGAIN, here and below: so many calls wait as the node's `depth` allows.
int pollnd_net_start(const struct pollnd_net *net,
                     const char *address,
                     uint64_t tag,
                     uint64_t *tm);

// Stops a transfer machine, when its buffers have ended, or, with `abort`, by giving them up. Its end-points go with it.
// -ENOENT: it has stopped.
int pollnd_net_stop(const struct pollnd_net *net,
                    uint64_t tm,
                    int abort);

// Makes the end-point of an address for a transfer machine that is started. `*ep` is its name, which may be used at once;
// an EP event says whether it is one.
int pollnd_net_ep(const struct pollnd_net *net,
                  uint64_t tm,
                  const char *address,
                  uint64_t tag,
                  uint64_t *ep);

// Gives a reference on an end-point back: that of `pollnd_net_ep`, or of an event. No event follows.
int pollnd_net_ep_put(const struct pollnd_net *net, uint64_t ep);

// Queues a buffer. An ADDED event follows, with the descriptor of a passive one; then BUFFER events, of which the last one
// ends it and gives its memory back. A buffer that is not taken has the last one only. `*buffer`, if `buffer` is not NULL, is
// its name. -EBUSY: `memory` is used.
int pollnd_net_add(const struct pollnd_net *net,
                   const struct pollnd_net_args *args,
                   uint64_t tag,
                   uint64_t *buffer);

// Gives a buffer up: its last event follows, with -ECANCELED unless it is too late for that. -ENOENT: it has ended.
int pollnd_net_del(const struct pollnd_net *net,
                   uint64_t buffer);

// Takes the domain's next event, and waits for it up to `timeout_ms`: 0 not at all, less than 0 for ever. Gives 1 with an
// event, 0 without. The event's texts are there until it is given to `pollnd_net_release`. -ESHUTDOWN: the node is stopped,
// and all events are taken.
int pollnd_net_next(const struct pollnd_net *net,
                    int timeout_ms,
                    struct pollnd_net_event *event);

// Frees an event's texts and counts. NULL, and an event that has none, do nothing.
void pollnd_net_release(struct pollnd_net_event *event);

// The library's version, "0.1.0". The text is the library's, and stays.
const char *pollnd_version(void);

// The text of the last call of this thread's that failed; empty if none has. It is the library's, and is there until the
// thread's next call that fails.
const char *pollnd_error(void);

// Reads a NID: "10.0.0.1@tcp", "fd00::1@tcp2".
int pollnd_nid_parse(const char *from, struct pollnd_nid *nid);

// Writes a NID as text into `room` bytes at `to`, with a zero behind it; gives the text's length. 64 bytes are enough.
// -ENOSPC: too little room, nothing is written.
int pollnd_nid_text(const struct pollnd_nid *nid,
                    char *to,
                    size_t room);

// Reads a process: "12345-10.0.0.1@tcp", or a NID, which means the process POLLND_PID_LUSTRE there.
int pollnd_process_parse(const char *from, struct pollnd_process *process);

// Starts a node, and comes back when it listens. `*node` is the caller's, who gives it to `pollnd_node_free`.
// Errors: -EINVAL for options that cannot be, the kernel's number for what the kernel refuses (-EADDRINUSE, -EACCES),
// -EOPNOTSUPP for a device if the library was built without DPDK, -EIO for what DPDK refuses.
int pollnd_node_start(const struct pollnd_options *options,
                      struct pollnd_node **node);

// The node's NID number `index`, counted from 0; gives the number of its NIDs. -ENOENT: it has none of that number.
int pollnd_node_nid(const struct pollnd_node *node,
                    uint32_t index,
                    struct pollnd_nid *nid);

// Stops a node in order, within about 10 s: its operations end, its connections are closed. Its events can be taken still;
// new operations give -ESHUTDOWN. A second stop does nothing. Memory of operations that it had not begun, since events
// were not taken, is free to be freed when the node has been.
int pollnd_node_stop(const struct pollnd_node *node);

// Stops a node if it runs, and frees it; events that were not taken are lost. NULL does nothing. Memory and events that
// the program has stay, and are freed by their own functions.
void pollnd_node_free(struct pollnd_node *node);

// New memory of `length` bytes, aligned to 64, that the node's port can send from without a copy: huge pages where the EAL
// has them, else ordinary ones. `*memory` is the caller's, who gives it to `pollnd_memory_free`. Errors: -ENOMEM.
int pollnd_memory_alloc(const struct pollnd_node *node,
                        size_t length,
                        struct pollnd_memory **memory);

// Makes `length` bytes of the caller's at `bytes`, aligned to 64, memory for operations. Over kernel sockets they are used
// as they are; a DPDK port copies what it sends from there. They have to stay until `pollnd_memory_free` has given 0.
int pollnd_memory_wrap(void *bytes,
                       size_t length,
                       struct pollnd_memory **memory);

// Address of the first byte; NULL for NULL. It stays as long as the memory.
// While an operation sends from the memory the program must not write the bytes that it sends; while one fills it, the
// program may read what its events have named.
void *pollnd_memory_bytes(const struct pollnd_memory *memory);

// Length in bytes; 0 for NULL.
size_t pollnd_memory_length(const struct pollnd_memory *memory);

// Frees memory; wrapped bytes are the caller's again. NULL does nothing. -EBUSY: an operation uses it, and its last event
// was not taken; the memory stays.
int pollnd_memory_free(struct pollnd_memory *memory);

// Pings a process: ends with a PING event. -EAGAIN: so many operations wait as `depth` allows; take events first.
int pollnd_ping(const struct pollnd_node *node,
                const struct pollnd_process *target,
                uint64_t tag);

// Sends a PUT: a SEND event and, if it was asked for, an ACK event follow, in either order; the later is the last.
// -EAGAIN: so many operations wait as `depth` allows. -EBUSY: another operation fills `memory`. -EMSGSIZE: over 1 MiB.
int pollnd_put(const struct pollnd_node *node,
               const struct pollnd_put_args *args,
               uint64_t tag);

// Fetches bytes: ends with a REPLY event. -EAGAIN: so many operations wait as `depth` allows. -EBUSY: another operation
// uses `memory`. -EMSGSIZE: over 1 MiB.
int pollnd_get(const struct pollnd_node *node,
               const struct pollnd_get_args *args,
               uint64_t tag);

// Attaches a match entry: an ATTACHED event follows, then PUT or GET events, and the last one when it is exhausted or was
// taken away. `*entry`, if `entry` is not NULL, is its name. -EAGAIN and -EBUSY as for the others.
int pollnd_attach(const struct pollnd_node *node,
                  const struct pollnd_entry_args *args,
                  uint64_t tag,
                  uint64_t *entry);

// Takes a match entry away: its last event follows when no message uses it any more. -EAGAIN: its ATTACHED event was not
// taken yet, or so many operations wait as `depth` allows. -ENOENT: its last event was taken.
int pollnd_unlink(const struct pollnd_node *node,
                  uint64_t entry);

// Makes a portal, 1 to 63, lazy, or, with `on` 0, ends that: PUTs that no entry of a lazy portal matches wait for one; those
// of nodes behind a gateway for 250 ms at most, then they are dropped. No event follows.
int pollnd_lazy(const struct pollnd_node *node,
                uint32_t portal,
                int on);

// Takes the next event, and waits for it up to `timeout_ms`: 0 not at all, less than 0 for ever. Gives 1 with an event, 0
// without. The event's bytes and texts are there until it is given to `pollnd_event_release`. -ESHUTDOWN: the node is
// stopped, and all events are taken. Several threads may wait; each event goes to one.
int pollnd_event_next(const struct pollnd_node *node,
                      int timeout_ms,
                      struct pollnd_event *event);

// Gives back what an event holds: lent bytes, interfaces, its text. Lent bytes are receive buffers of the node's: it copies
// what comes, or waits, when the program keeps many. NULL, and an event that holds nothing, do nothing.
void pollnd_event_release(struct pollnd_event *event);

// As `pollnd_net_start`, with a pool, with synchronous delivery, or of certain CPTs. With a pool, `min_queue` buffers of it
// wait for messages as long as the machine is started: they are queued behind its STARTED event, before the event of each
// message that took one, and when memory is put into the pool. A pool that has too few leaves a deficit. To stop the
// machine, give `abort`, or give its buffers up. -ENOENT: the pool is gone.
int pollnd_net_start_with(const struct pollnd_net *net,
                          const struct pollnd_net_setup *setup,
                          uint64_t tag,
                          uint64_t *tm);

// Makes a pool without buffers. `*pool` is its name, which may be used at once, by any number of transfer machines. Events of
// it: POOL_FILLED when it was empty and has a buffer, POOL_BELOW when it has less than `threshold` of them, and at last POOL
// when it is gone. Its buffers have `colours` colours, 0 to 1024: a machine takes that one of its colour which was used last,
// and else of all that one which was used longest ago. `pollnd_net_pool_free` frees it, or the node's end.
int pollnd_net_pool(const struct pollnd_net *net,
                    uint32_t threshold,
                    uint32_t colours,
                    uint64_t tag,
                    uint64_t *pool);

// Puts the first `length` bytes of memory into a pool as a buffer for messages, of a colour, 1 to the pool's `colours`, or 0
// for none. It is the pool's, then a transfer machine's, and nothing else may use it. BUFFER events follow as of
// `pollnd_net_add` once messages came into it, the last of which gives the memory back: put it again for the next message.
// `*buffer`, if `buffer` is not NULL, is its name; `pollnd_net_del` gives up a buffer that waits for messages, and does
// nothing to one that is free. -EBUSY: `memory` is used. -ENOENT: the pool is gone.
int pollnd_net_pool_put(const struct pollnd_net *net,
                        uint64_t pool,
                        uint32_t colour,
                        struct pollnd_memory *memory,
                        uint32_t length,
                        uint64_t tag,
                        uint64_t *buffer);

// Takes a free buffer out of a pool, as a transfer machine of that colour would. A COUNT event says 1, or 0 if there is none;
// before it the buffer has its last event, with -ECANCELED. -ENOENT: the pool is gone.
int pollnd_net_pool_get(const struct pollnd_net *net,
                        uint64_t pool,
                        uint32_t colour,
                        uint64_t tag);

// Asks for the number of a pool's free buffers, which a COUNT event says. -ENOENT: the pool is gone.
int pollnd_net_pool_count(const struct pollnd_net *net, uint64_t pool, uint64_t tag);

// Frees a pool: its free buffers have their last events, with -ECANCELED, and nothing can be put into it any more. Its own last
// event, POOL, follows when no transfer machine has it. -ENOENT: that was taken.
int pollnd_net_pool_free(const struct pollnd_net *net,
                         uint64_t pool);

// Lets `min_queue` buffers of its pool wait for a transfer machine's messages, 2 at least. A COUNT event says how many the pool
// did not have; -EINVAL in it: the machine has no pool. -ENOENT: it has stopped.
int pollnd_net_pool_length(const struct pollnd_net *net,
                           uint64_t tm,
                           uint32_t min_queue,
                           uint64_t tag);

// Asks for the number of buffers that a transfer machine's pool did not have, which a COUNT event says. -ENOENT: it has
// stopped.
int pollnd_net_deficit(const struct pollnd_net *net,
                       uint64_t tm,
                       uint64_t tag);

// Delivers the events that wait for a transfer machine with POLLND_TM_SYNC: a COUNT event says how many, and they follow it.
// Events that wait are delivered when the machine stops, too. -EINVAL in the COUNT event: it is not started. -ENOENT: it has
// stopped.
int pollnd_net_deliver(const struct pollnd_net *net,
                       uint64_t tm,
                       uint64_t tag);

// Asks whether events wait for a transfer machine: a COUNT event says 1 or 0. -EINVAL in it: it is not started. -ENOENT: it
// has stopped.
int pollnd_net_pending(const struct pollnd_net *net,
                       uint64_t tm,
                       uint64_t tag);

// Asks to hear when an event waits for a transfer machine with POLLND_TM_SYNC: one PENDING event follows, at once if there is
// one already, and with -ECANCELED if the machine comes to its end before; with -EINVAL if its events do not wait. -ENOENT: it
// has stopped.
int pollnd_net_notify(const struct pollnd_net *net,
                      uint64_t tm,
                      uint64_t tag);

// Asks for the counts of a transfer machine's queue, POLLND_MSG_RECV to POLLND_ACTIVE_SEND, and with `reset` sets them to zero.
// A STATS event has them. -ENOENT: the machine has stopped.
int pollnd_net_stats(const struct pollnd_net *net,
                     uint64_t tm,
                     uint32_t queue,
                     int reset,
                     uint64_t tag);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* POLLND_H */
