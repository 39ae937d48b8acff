//! Motr's net contract.

use std::ffi::{CString, c_char, c_int};
use std::ptr;
use std::time::Duration;

use transport::net::{Colour, Desc, Memory, RecvVec, Request, Sink, TmState};

use super::{bytes, given, place, pollnd_node, sized, text};
use crate::domain::{Said, Setup, Want, What};
use crate::error::{Error, c_text, guard, guard_void};
use crate::types::{
    POLLND_ACTIVE_RECV, POLLND_ACTIVE_SEND, POLLND_LAST, POLLND_MSG_RECV, POLLND_MSG_SEND, POLLND_NET_ADDED,
    POLLND_NET_BUFFER, POLLND_NET_COUNT, POLLND_NET_EP, POLLND_NET_LNET, POLLND_NET_PENDING, POLLND_NET_POOL,
    POLLND_NET_POOL_BELOW, POLLND_NET_POOL_FILLED, POLLND_NET_SOCK, POLLND_NET_STATE, POLLND_NET_STATS,
    POLLND_PASSIVE_RECV, POLLND_PASSIVE_SEND, POLLND_TM_FAILED, POLLND_TM_STARTED, POLLND_TM_STARTING,
    POLLND_TM_STOPPED, POLLND_TM_STOPPING, pollnd_memory, pollnd_net, pollnd_net_args, pollnd_net_counts,
    pollnd_net_event,
};

/// Parts of an event that lie elsewhere.
#[derive(Default)]
struct NetHeld {
    from: Option<CString>,
    error: Option<CString>,
    counts: Option<pollnd_net_counts>,
}

/// The node's domain over a transport, POLLND_NET_SOCK or POLLND_NET_LNET. It is the node's: it is there until
/// `pollnd_node_free`. -ENOENT: the node was started without it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_of(
    node: *const pollnd_node,
    transport: u32,
    net: *mut *const pollnd_net,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let (node, net) = unsafe { (given(node, "node")?, place(net, "net")?) };
        let (found, how) = match transport {
            POLLND_NET_SOCK => (&node.sock, "net_sock"),
            POLLND_NET_LNET => (&node.lnet, "POLLND_NET_OVER_LNET"),
            t => {
                return Err(Error::invalid(format_args!(
                    "transport {t}: give POLLND_NET_SOCK or POLLND_NET_LNET"
                )));
            }
        };
        let found = found.as_ref().ok_or_else(|| {
            Error::new(
                libc::ENOENT,
                format_args!("the node was started without that transport: give it {how}"),
            )
        })?;
        net.write(ptr::from_ref::<pollnd_net>(found));
        Ok(0)
    })
}

/// Makes a transfer machine and starts it at an address, "inet:stream:127.0.0.1@7011" or "127.0.0.1@tcp:12345:34:1", with
/// a * for a number that is chosen. STATE events follow, of which the last one says that it has stopped, or failed. `*tm` is
/// its name. -EAGAIN, here and below: so many calls wait as the node's `depth` allows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_start(
    net: *const pollnd_net,
    address: *const c_char,
    tag: u64,
    tm: *mut u64,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let (net, address, tm) = unsafe { (given(net, "net")?, text(address, "address")?, place(tm, "tm")?) };
        let setup = Setup { name: address.into(), pool: None, colour: Colour::ANY, sync: false, cpts: None };
        tm.write(net.net.start(setup, tag)?);
        Ok(0)
    })
}

/// Stops a transfer machine, when its buffers have ended, or, with `abort`, by giving them up. Its end-points go with it.
/// -ENOENT: it has stopped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_stop(net: *const pollnd_net, tm: u64, abort: c_int) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        unsafe { given(net, "net")? }.net.stop(tm, abort != 0).map(|()| 0)
    })
}

/// Makes the end-point of an address for a transfer machine that is started. `*ep` is its name, which may be used at once;
/// an EP event says whether it is one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_ep(
    net: *const pollnd_net,
    tm: u64,
    address: *const c_char,
    tag: u64,
    ep: *mut u64,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let (net, address, ep) = unsafe { (given(net, "net")?, text(address, "address")?, place(ep, "ep")?) };
        ep.write(net.net.ep(tm, address, tag)?);
        Ok(0)
    })
}

/// Gives a reference on an end-point back: that of `pollnd_net_ep`, or of an event. No event follows.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_ep_put(net: *const pollnd_net, ep: u64) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        unsafe { given(net, "net")? }.net.ep_put(ep).map(|()| 0)
    })
}

/// Queues a buffer. An ADDED event follows, with the descriptor of a passive one; then BUFFER events, of which the last one
/// ends it and gives its memory back. A buffer that is not taken has the last one only. `*buffer`, if `buffer` is not NULL, is
/// its name. -EBUSY: `memory` is used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_add(
    net: *const pollnd_net,
    args: *const pollnd_net_args,
    tag: u64,
    buffer: *mut u64,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let (net, a) = unsafe { (given(net, "net")?, sized(args, "args")?) };
        // SAFETY: as above.
        let (memory, desc) =
            unsafe { (given(a.memory, "memory")?, bytes(a.desc, a.desc_length as usize, "desc")?) };
        // SAFETY: as above.
        let name = if buffer.is_null() { None } else { Some(unsafe { place(buffer, "buffer")? }) };
        let len = u64::from(a.length);
        let desc = || Desc::new(desc).map_err(|e| Error::new(e.errno(), e));
        let want = match a.queue {
            POLLND_MSG_RECV => Want::Other(Request::MsgRecv {
                min_size: if a.min_size == 0 { len } else { a.min_size.into() },
                max_msgs: a.max_messages.max(1),
            }),
            POLLND_MSG_SEND => Want::Send(a.ep, len),
            POLLND_PASSIVE_RECV => Want::Other(Request::PassiveRecv),
            POLLND_PASSIVE_SEND => Want::Other(Request::PassiveSend { len }),
            POLLND_ACTIVE_RECV => Want::Other(Request::ActiveRecv { desc: desc()? }),
            POLLND_ACTIVE_SEND => Want::Other(Request::ActiveSend { desc: desc()?, len }),
            q => {
                return Err(Error::invalid(format_args!(
                    "queue {q}: give POLLND_MSG_RECV to POLLND_ACTIVE_SEND"
                )));
            }
        };
        let receives = [POLLND_MSG_RECV, POLLND_PASSIVE_RECV, POLLND_ACTIVE_RECV].contains(&a.queue);
        let mem = if receives {
            room(memory, a.length)?
        } else {
            Memory::Send([memory.block.slice(0, a.length)?].into_iter().collect())
        };
        let time = (a.timeout_ms > 0).then(|| Duration::from_millis(a.timeout_ms.into()));
        let made = net.net.add(a.tm, mem, want, time, tag)?;
        if let Some(name) = name {
            name.write(made);
        }
        Ok(0)
    })
}

/// Gives a buffer up: its last event follows, with -ECANCELED unless it is too late for that. -ENOENT: it has ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_del(net: *const pollnd_net, buffer: u64) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        unsafe { given(net, "net")? }.net.del(buffer).map(|()| 0)
    })
}

/// Takes the domain's next event, and waits for it up to `timeout_ms`: 0 not at all, less than 0 for ever. Gives 1 with an
/// event, 0 without. The event's texts are there until it is given to `pollnd_net_release`. -ESHUTDOWN: the node is stopped,
/// and all events are taken.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_next(
    net: *const pollnd_net,
    timeout_ms: c_int,
    event: *mut pollnd_net_event,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let (net, event) = unsafe { (given(net, "net")?, place(event, "event")?) };
        let found = net.net.next(timeout_ms)?;
        Ok(i32::from(found.map(|(tag, said)| event.write(of(tag, said))).is_some()))
    })
}

/// Frees an event's texts and counts. NULL, and an event that has none, do nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_release(event: *mut pollnd_net_event) {
    guard_void(|| {
        // SAFETY: C's promise: it is null, or an event, zeros or from `pollnd_net_next`, and nobody else's during the call.
        let Some(event) = (unsafe { event.as_mut() }) else { return };
        let held = std::mem::replace(&mut event.held, ptr::null_mut());
        (event.from, event.error, event.counts) = (ptr::null(), ptr::null(), ptr::null());
        if !held.is_null() {
            // SAFETY: an event's `held` is such a box, and was its only owner.
            drop(unsafe { Box::from_raw(held.cast::<NetHeld>()) });
        }
    });
}

/// An event as C sees it.
fn of(tag: u64, said: Said) -> pollnd_net_event {
    let mut ev = pollnd_net_event {
        kind: 0,
        flags: if said.last { POLLND_LAST } else { 0 },
        status: said.status.as_ref().map_or_else(|e| -e.errno, |()| 0),
        state: 0,
        tag,
        name: said.name,
        length: 0,
        offset: 0,
        ep: 0,
        from: ptr::null(),
        desc_length: 0,
        desc: [0; 64],
        error: ptr::null(),
        counts: ptr::null(),
        held: ptr::null_mut(),
    };
    let mut held = NetHeld::default();
    match said.what {
        What::State(state) => {
            (ev.kind, ev.state) = (POLLND_NET_STATE, state_of(state));
        }
        What::Ep => ev.kind = POLLND_NET_EP,
        What::Added(desc) => {
            ev.kind = POLLND_NET_ADDED;
            if let Some(d) = &desc
                && let Some(to) = ev.desc.get_mut(..d.bytes().len())
            {
                to.copy_from_slice(d.bytes());
                ev.desc_length = d.bytes().len() as u32;
            }
        }
        What::Bytes { len, offset, from } => {
            (ev.kind, ev.length, ev.offset) = (POLLND_NET_BUFFER, len, offset);
            if let Some((ep, text)) = from {
                ev.ep = ep;
                held.from = Some(c_text(&text));
            }
        }
        What::Count(n) => (ev.kind, ev.length) = (POLLND_NET_COUNT, n),
        What::Stats(s) => {
            ev.kind = POLLND_NET_STATS;
            held.counts = Some(pollnd_net_counts {
                adds: s.adds,
                dels: s.dels,
                successes: s.successes,
                failures: s.failures,
                time_ns: s.time,
                bytes: s.bytes,
                max_bytes: s.max_bytes,
            });
        }
        What::Pending => ev.kind = POLLND_NET_PENDING,
        What::NotEmpty => ev.kind = POLLND_NET_POOL_FILLED,
        What::Below => ev.kind = POLLND_NET_POOL_BELOW,
        What::PoolGone => ev.kind = POLLND_NET_POOL,
    }
    held.error = said.status.err().map(|e| c_text(&e.text));
    if held.from.is_some() || held.error.is_some() || held.counts.is_some() {
        let held = Box::new(held);
        ev.from = held.from.as_ref().map_or(ptr::null(), |t| t.as_ptr());
        ev.error = held.error.as_ref().map_or(ptr::null(), |t| t.as_ptr());
        ev.counts = held.counts.as_ref().map_or(ptr::null(), ptr::from_ref);
        ev.held = Box::into_raw(held).cast();
    }
    ev
}

/// Memory to receive into.
pub(super) fn room(memory: &pollnd_memory, length: u32) -> Result<Memory, Error> {
    Ok(Memory::Recv(Sink::Into(RecvVec::new([memory.block.write(length as usize)?]))))
}

fn state_of(state: TmState) -> u32 {
    match state {
        TmState::Undefined => 0,
        TmState::Initialized => 1,
        TmState::Starting => POLLND_TM_STARTING,
        TmState::Started => POLLND_TM_STARTED,
        TmState::Stopping => POLLND_TM_STOPPING,
        TmState::Stopped => POLLND_TM_STOPPED,
        TmState::Failed => POLLND_TM_FAILED,
    }
}
