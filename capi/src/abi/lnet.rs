//! Nodes, memory, and LNet's operations and events.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use transport::wire::{Nid, ProcessId};

use super::{Block, bytes, given, maybe, place, sized, text, write_text};
use crate::error::{self, Error, guard, guard_void};
use crate::event::Held;
use crate::node::{Node, Place, Source, To};
use crate::start::Options;
use crate::types::{
    POLLND_ENTRY_DROP, POLLND_ENTRY_FILL, POLLND_ENTRY_GIVE, POLLND_ENTRY_LEND, POLLND_NO_ACK,
    POLLND_OWN_OFFSET, POLLND_TRUNCATE, POLLND_WANT_ACK, pollnd_entry_args, pollnd_event, pollnd_get_args,
    pollnd_memory, pollnd_net, pollnd_nid, pollnd_options, pollnd_process, pollnd_put_args,
};

/// A node. `pollnd_node_start` makes it, `pollnd_node_free` takes it.
#[allow(non_camel_case_types, reason = "the name that C sees")]
pub struct pollnd_node {
    pub(crate) node: Arc<Node>,
    /// Its domain over netsock.
    pub(crate) sock: Option<pollnd_net>,
    /// Its domain over LNet.
    pub(crate) lnet: Option<pollnd_net>,
}

/// The library's version, "0.1.0". The text is the library's, and stays.
#[unsafe(no_mangle)]
pub extern "C" fn pollnd_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The text of the last call of this thread's that failed; empty if none has. It is the library's, and is there until the
/// thread's next call that fails.
#[unsafe(no_mangle)]
pub extern "C" fn pollnd_error() -> *const c_char {
    error::last()
}

/// Reads a NID: "10.0.0.1@tcp", "fd00::1@tcp2".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_nid_parse(from: *const c_char, nid: *mut pollnd_nid) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let (from, nid) = unsafe { (text(from, "from")?, place(nid, "nid")?) };
        let read: Nid = from.parse().map_err(|e| Error::invalid(format_args!("NID {from:?}: {e}")))?;
        nid.write(read.into());
        Ok(0)
    })
}

/// Writes a NID as text into `room` bytes at `to`, with a zero behind it; gives the text's length. 64 bytes are enough.
/// -ENOSPC: too little room, nothing is written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_nid_text(nid: *const pollnd_nid, to: *mut c_char, room: usize) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        unsafe { write_text(&given(nid, "nid")?.nid().to_string(), to, room, "to") }
    })
}

/// Reads a process: "12345-10.0.0.1@tcp", or a NID, which means the process POLLND_PID_LUSTRE there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_process_parse(from: *const c_char, process: *mut pollnd_process) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let (from, process) = unsafe { (text(from, "from")?, place(process, "process")?) };
        let read: ProcessId =
            from.parse().map_err(|e| Error::invalid(format_args!("process {from:?}: {e}")))?;
        process.write(read.into());
        Ok(0)
    })
}

/// Starts a node, and comes back when it listens. `*node` is the caller's, who gives it to `pollnd_node_free`.
/// Errors: -EINVAL for options that cannot be, the kernel's number for what the kernel refuses (-EADDRINUSE, -EACCES),
/// -EOPNOTSUPP for a device if the library was built without DPDK, -EIO for what DPDK refuses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_node_start(
    options: *const pollnd_options,
    node: *mut *mut pollnd_node,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let (plain, node) = unsafe { (sized(options, "options")?, place(node, "node")?) };
        // SAFETY: as above: texts of the options are null or ended by a zero.
        let options = unsafe {
            Options {
                plain,
                nids: text(plain.nids, "nids")?,
                listen: text(plain.listen, "listen")?,
                tunables: text(plain.tunables, "tunables")?,
                device: text(plain.device, "device")?,
                eal_args: text(plain.eal_args, "eal_args")?,
                gateway: text(plain.gateway, "gateway")?,
                net_sock: text(plain.net_sock, "net_sock")?,
            }
        };
        let (started, nets) = options.start()?;
        let [sock, lnet] = nets.map(|n| n.map(|net| pollnd_net { net }));
        node.write(Box::into_raw(Box::new(pollnd_node { node: Arc::new(started), sock, lnet })));
        Ok(0)
    })
}

/// The node's NID number `index`, counted from 0; gives the number of its NIDs. -ENOENT: it has none of that number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_node_nid(
    node: *const pollnd_node,
    index: u32,
    nid: *mut pollnd_nid,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let (node, nid) = unsafe { (given(node, "node")?, place(nid, "nid")?) };
        let all = node.node.nids();
        let found = all.get(index as usize).ok_or_else(|| {
            Error::new(
                libc::ENOENT,
                format_args!("NID {index} of a node that has {}: they count from 0", all.len()),
            )
        })?;
        nid.write((*found).into());
        Ok(i32::try_from(all.len()).unwrap_or(i32::MAX))
    })
}

/// Stops a node in order, within about 10 s: its operations end, its connections are closed. Its events can be taken still;
/// new operations give -ESHUTDOWN. A second stop does nothing. Memory of operations that it had not begun, since events
/// were not taken, is free to be freed when the node has been.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_node_stop(node: *const pollnd_node) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        unsafe { given(node, "node")? }.node.stop().map(|()| 0)
    })
}

/// Stops a node if it runs, and frees it; events that were not taken are lost. NULL does nothing. Memory and events that
/// the program has stay, and are freed by their own functions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_node_free(node: *mut pollnd_node) {
    guard_void(|| {
        if node.is_null() {
            return;
        }
        // SAFETY: it came from `pollnd_node_start`, and is not used any more, by C's promise.
        let node = unsafe { Box::from_raw(node) };
        if let Err(e) = node.node.stop() {
            tracing::error!("{}", e.text);
        }
    });
}

/// New memory of `length` bytes, aligned to 64, that the node's port can send from without a copy: huge pages where the EAL
/// has them, else ordinary ones. `*memory` is the caller's, who gives it to `pollnd_memory_free`. Errors: -ENOMEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_memory_alloc(
    node: *const pollnd_node,
    length: usize,
    memory: *mut *mut pollnd_memory,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let (node, memory) = unsafe { (given(node, "node")?, place(memory, "memory")?) };
        let block = node.node.memory(length)?;
        memory.write(Box::into_raw(Box::new(pollnd_memory { block })));
        Ok(0)
    })
}

/// Makes `length` bytes of the caller's at `bytes`, aligned to 64, memory for operations. Over kernel sockets they are used
/// as they are; a DPDK port copies what it sends from there. They have to stay until `pollnd_memory_free` has given 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_memory_wrap(
    bytes: *mut c_void,
    length: usize,
    memory: *mut *mut pollnd_memory,
) -> c_int {
    guard(|| {
        let ptr = NonNull::new(bytes.cast::<u8>()).ok_or_else(|| super::no("bytes", "null"))?;
        // SAFETY: C's promise, as the header has it.
        let (block, memory) = unsafe { (Block::of(ptr, length)?, place(memory, "memory")?) };
        memory.write(Box::into_raw(Box::new(pollnd_memory { block })));
        Ok(0)
    })
}

/// Address of the first byte; NULL for NULL. It stays as long as the memory.
/// While an operation sends from the memory the program must not write the bytes that it sends; while one fills it, the
/// program may read what its events have named.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_memory_bytes(memory: *const pollnd_memory) -> *mut c_void {
    // SAFETY: C's promise, as the header has it.
    unsafe { given(memory, "memory") }.map_or(ptr::null_mut(), |m| m.block.addr().cast())
}

/// Length in bytes; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_memory_length(memory: *const pollnd_memory) -> usize {
    // SAFETY: C's promise, as the header has it.
    unsafe { given(memory, "memory") }.map_or(0, |m| m.block.len())
}

/// Frees memory; wrapped bytes are the caller's again. NULL does nothing. -EBUSY: an operation uses it, and its last event
/// was not taken; the memory stays.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_memory_free(memory: *mut pollnd_memory) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let Some(m) = (unsafe { maybe(memory, "memory")? }) else { return Ok(0) };
        m.block.free()?;
        // SAFETY: it came from one of the two functions above, and is not used any more, by C's promise.
        drop(unsafe { Box::from_raw(memory) });
        Ok(0)
    })
}

/// Pings a process: ends with a PING event. -EAGAIN: so many operations wait as `depth` allows; take events first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_ping(
    node: *const pollnd_node,
    target: *const pollnd_process,
    tag: u64,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let (node, target) = unsafe { (given(node, "node")?, given(target, "target")?) };
        node.node.ping(tag, target.target()).map(|()| 0)
    })
}

/// The bytes of a PUT, or that a match entry gives.
///
/// # Safety
/// As the header has it.
unsafe fn source<'a>(
    at: *const c_void,
    memory: *const pollnd_memory,
    offset: u32,
    length: u32,
) -> Result<Source<'a>, Error> {
    // SAFETY: passed on.
    match unsafe { maybe(memory, "memory")? } {
        Some(_) if !at.is_null() => {
            Err(Error::invalid("both bytes and memory are given: name one of them, and leave the other NULL"))
        }
        Some(m) => Ok(Source::Memory(&m.block, offset, length)),
        // SAFETY: passed on.
        None => Ok(Source::Bytes(unsafe { bytes(at, length as usize, "bytes")? })),
    }
}

fn flags(given: u32, known: u32, what: &str) -> Result<(), Error> {
    if given & !known == 0 {
        return Ok(());
    }
    let strange = given & !known;
    Err(Error::invalid(format_args!("flags {strange:#x} of {what} are not known: leave them out")))
}

/// Sends a PUT: a SEND event and, if it was asked for, an ACK event follow, in either order; the later is the last.
/// -EAGAIN: so many operations wait as `depth` allows. -EBUSY: another operation fills `memory`. -EMSGSIZE: over 1 MiB.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_put(
    node: *const pollnd_node,
    args: *const pollnd_put_args,
    tag: u64,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let (node, a) = unsafe { (given(node, "node")?, sized(args, "args")?) };
        flags(a.flags, POLLND_WANT_ACK, "a PUT")?;
        // SAFETY: as above.
        let (from, source) =
            unsafe { (maybe(a.from, "from")?, source(a.bytes, a.memory, a.memory_offset, a.length)?) };
        let rest = (a.offset, a.hdr_data, a.flags & POLLND_WANT_ACK != 0);
        let from = from.map(pollnd_nid::nid);
        let to = To { target: a.target.target(), from, portal: a.portal, match_bits: a.match_bits };
        node.node.put(tag, to, rest, &source).map(|()| 0)
    })
}

/// Fetches bytes: ends with a REPLY event. -EAGAIN: so many operations wait as `depth` allows. -EBUSY: another operation
/// uses `memory`. -EMSGSIZE: over 1 MiB.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_get(
    node: *const pollnd_node,
    args: *const pollnd_get_args,
    tag: u64,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let (node, a) = unsafe { (given(node, "node")?, sized(args, "args")?) };
        // SAFETY: as above.
        let (from, memory) = unsafe { (maybe(a.from, "from")?, maybe(a.memory, "memory")?) };
        let place = memory.map_or(Place::Lend(a.length), |m| Place::Memory(&m.block, a.length));
        let from = from.map(pollnd_nid::nid);
        let to = To { target: a.target.target(), from, portal: a.portal, match_bits: a.match_bits };
        node.node.get(tag, to, &place).map(|()| 0)
    })
}

/// Attaches a match entry: an ATTACHED event follows, then PUT or GET events, and the last one when it is exhausted or was
/// taken away. `*entry`, if `entry` is not NULL, is its name. -EAGAIN and -EBUSY as for the others.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_attach(
    node: *const pollnd_node,
    args: *const pollnd_entry_args,
    tag: u64,
    entry: *mut u64,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let (node, a, memory) = unsafe {
            let a = sized(args, "args")?;
            (given(node, "node")?, a, maybe(a.memory, "memory")?)
        };
        flags(a.flags, POLLND_OWN_OFFSET | POLLND_TRUNCATE | POLLND_NO_ACK, "a match entry")?;
        // SAFETY: as above.
        let name = if entry.is_null() { None } else { Some(unsafe { place(entry, "entry")? }) };
        let mut given_bytes = Source::Bytes(&[]);
        let mem = match (a.kind, memory) {
            (POLLND_ENTRY_GIVE, _) => {
                // SAFETY: as above.
                given_bytes = unsafe { source(a.bytes, a.memory, a.memory_offset, a.length)? };
                Ok(())
            }
            (POLLND_ENTRY_FILL, Some(m)) => Err(Place::Memory(&m.block, a.length)),
            (POLLND_ENTRY_FILL, None) => return Err(super::no("memory", "null")),
            (POLLND_ENTRY_LEND, None) => Err(Place::Lend(a.length)),
            (POLLND_ENTRY_DROP, None) => Err(Place::Drop(a.length)),
            (POLLND_ENTRY_LEND | POLLND_ENTRY_DROP, Some(_)) => {
                return Err(Error::invalid(
                    "memory for an entry that needs none: leave it NULL, or use POLLND_ENTRY_FILL",
                ));
            }
            (kind, _) => {
                return Err(Error::invalid(format_args!(
                    "kind {kind} of a match entry: give POLLND_ENTRY_..."
                )));
            }
        };
        let mem = mem.as_ref().map(|()| &given_bytes);
        let found =
            node.node.attach(tag, a.who.who(), a.portal, (a.match_bits, a.ignore_bits), mem, |md| {
                md.threshold = (a.threshold != 0).then_some(a.threshold);
                md.max_size = (a.max_size != 0).then_some(a.max_size);
                md.manage_remote = a.flags & POLLND_OWN_OFFSET == 0;
                md.truncate = a.flags & POLLND_TRUNCATE != 0;
                md.ack_disable = a.flags & POLLND_NO_ACK != 0;
            })?;
        if let Some(name) = name {
            name.write(found);
        }
        Ok(0)
    })
}

/// Takes a match entry away: its last event follows when no message uses it any more. -EAGAIN: its ATTACHED event was not
/// taken yet, or so many operations wait as `depth` allows. -ENOENT: its last event was taken.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_unlink(node: *const pollnd_node, entry: u64) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        unsafe { given(node, "node")? }.node.unlink(entry).map(|()| 0)
    })
}

/// Makes a portal, 1 to 63, lazy, or, with `on` 0, ends that: PUTs that no entry of a lazy portal matches wait for one; those
/// of nodes behind a gateway for 250 ms at most, then they are dropped. No event follows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_lazy(node: *const pollnd_node, portal: u32, on: c_int) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        unsafe { given(node, "node")? }.node.lazy(portal, on != 0).map(|()| 0)
    })
}

/// Takes the next event, and waits for it up to `timeout_ms`: 0 not at all, less than 0 for ever. Gives 1 with an event, 0
/// without. The event's bytes and texts are there until it is given to `pollnd_event_release`. -ESHUTDOWN: the node is
/// stopped, and all events are taken. Several threads may wait; each event goes to one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_event_next(
    node: *const pollnd_node,
    timeout_ms: c_int,
    event: *mut pollnd_event,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let (node, event) = unsafe { (given(node, "node")?, place(event, "event")?) };
        let found = node.node.next(timeout_ms)?;
        Ok(i32::from(found.map(|e| event.write(e)).is_some()))
    })
}

/// Gives back what an event holds: lent bytes, interfaces, its text. Lent bytes are receive buffers of the node's: it copies
/// what comes, or waits, when the program keeps many. NULL, and an event that holds nothing, do nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_event_release(event: *mut pollnd_event) {
    guard_void(|| {
        if event.is_null() {
            return;
        }
        // SAFETY: C's promise: it is an event, zeros or from `pollnd_event_next`, and nobody else's during the call.
        let event = unsafe { &mut *event };
        let held = std::mem::replace(&mut event.held, ptr::null_mut());
        (event.pieces, event.pieces_count) = (ptr::null(), 0);
        (event.nis, event.nis_count) = (ptr::null(), 0);
        event.error = ptr::null();
        if !held.is_null() {
            // SAFETY: an event's `held` is such a box, and was its only owner.
            drop(unsafe { Box::from_raw(held.cast::<Held>()) });
        }
    });
}
