//! Motr's net contract: pools, synchronous delivery and counts.

use std::ffi::c_int;

use transport::net::{Colour, Queue};

use super::contract::room;
use super::{given, place, sized, text};
use crate::domain::{AskPool, AskTm, Provisions, Setup};
use crate::error::{Error, guard};
use crate::types::{
    POLLND_ACTIVE_RECV, POLLND_ACTIVE_SEND, POLLND_MSG_RECV, POLLND_MSG_SEND, POLLND_PASSIVE_RECV,
    POLLND_PASSIVE_SEND, POLLND_TM_SYNC, pollnd_memory, pollnd_net, pollnd_net_setup,
};

/// Colours that a pool may have.
const COLOURS_MAX: u32 = 1024;

/// A colour of C's, where 0 is none.
fn colour_of(colour: u32) -> Colour {
    colour.checked_sub(1).map_or(Colour::ANY, Colour)
}

fn named(queue: u32) -> Result<Queue, Error> {
    Ok(match queue {
        POLLND_MSG_RECV => Queue::MsgRecv,
        POLLND_MSG_SEND => Queue::MsgSend,
        POLLND_PASSIVE_RECV => Queue::PassiveRecv,
        POLLND_PASSIVE_SEND => Queue::PassiveSend,
        POLLND_ACTIVE_RECV => Queue::ActiveRecv,
        POLLND_ACTIVE_SEND => Queue::ActiveSend,
        q => {
            return Err(Error::invalid(format_args!(
                "queue {q}: give POLLND_MSG_RECV to POLLND_ACTIVE_SEND"
            )));
        }
    })
}

/// As `pollnd_net_start`, with a pool, with synchronous delivery, or of certain CPTs. With a pool, `min_queue` buffers of it
/// wait for messages as long as the machine is started: they are queued behind its STARTED event, before the event of each
/// message that took one, and when memory is put into the pool. A pool that has too few leaves a deficit. To stop the
/// machine, give `abort`, or give its buffers up. -ENOENT: the pool is gone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_start_with(
    net: *const pollnd_net,
    setup: *const pollnd_net_setup,
    tag: u64,
    tm: *mut u64,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let (net, s): (&pollnd_net, &pollnd_net_setup) =
            unsafe { (given(net, "net")?, sized(setup, "setup")?) };
        // SAFETY: as above.
        let (address, tm) = unsafe { (text(s.address, "address")?, place(tm, "tm")?) };
        if s.flags & !POLLND_TM_SYNC != 0 {
            return Err(Error::invalid(format_args!("flags {:#x}: give POLLND_TM_SYNC, or 0", s.flags)));
        }
        let pool = match s.pool {
            0 => {
                let of_pools = [
                    (s.min_queue, "min_queue"),
                    (s.min_size, "min_size"),
                    (s.max_messages, "max_messages"),
                    (s.colour, "colour"),
                ];
                if let Some((v, name)) = of_pools.iter().find(|(v, _)| *v != 0) {
                    return Err(Error::invalid(format_args!(
                        "{name} {v}: for a machine with a pool only; leave it 0, or give pool"
                    )));
                }
                None
            }
            pool if s.min_size > 0 => Some(Provisions {
                pool,
                min_size: s.min_size.into(),
                max_msgs: s.max_messages.max(1),
                min_queue: s.min_queue as usize,
            }),
            _ => {
                return Err(Error::invalid(
                    "min_size 0: give the bytes that the pool's buffers must have left for a message",
                ));
            }
        };
        let setup = Setup {
            name: address.into(),
            pool,
            colour: colour_of(s.colour),
            sync: s.flags & POLLND_TM_SYNC != 0,
            cpts: (s.cpts != 0).then_some(s.cpts),
        };
        tm.write(net.net.start(setup, tag)?);
        Ok(0)
    })
}

/// Makes a pool without buffers. `*pool` is its name, which may be used at once, by any number of transfer machines. Events of
/// it: POOL_FILLED when it was empty and has a buffer, POOL_BELOW when it has less than `threshold` of them, and at last POOL
/// when it is gone. Its buffers have `colours` colours, 0 to 1024: a machine takes that one of its colour which was used last,
/// and else of all that one which was used longest ago. `pollnd_net_pool_free` frees it, or the node's end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_pool(
    net: *const pollnd_net,
    threshold: u32,
    colours: u32,
    tag: u64,
    pool: *mut u64,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let (net, pool) = unsafe { (given(net, "net")?, place(pool, "pool")?) };
        if colours > COLOURS_MAX {
            return Err(Error::invalid(format_args!("colours {colours}: give 0 to {COLOURS_MAX}")));
        }
        pool.write(net.net.pool(threshold as usize, colours, tag)?);
        Ok(0)
    })
}

/// Puts the first `length` bytes of memory into a pool as a buffer for messages, of a colour, 1 to the pool's `colours`, or 0
/// for none. It is the pool's, then a transfer machine's, and nothing else may use it. BUFFER events follow as of
/// `pollnd_net_add` once messages came into it, the last of which gives the memory back: put it again for the next message.
/// `*buffer`, if `buffer` is not NULL, is its name; `pollnd_net_del` gives up a buffer that waits for messages, and does
/// nothing to one that is free. -EBUSY: `memory` is used. -ENOENT: the pool is gone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_pool_put(
    net: *const pollnd_net,
    pool: u64,
    colour: u32,
    memory: *mut pollnd_memory,
    length: u32,
    tag: u64,
    buffer: *mut u64,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let (net, memory) = unsafe { (given(net, "net")?, given(memory.cast_const(), "memory")?) };
        // SAFETY: as above.
        let name = if buffer.is_null() { None } else { Some(unsafe { place(buffer, "buffer")? }) };
        let made = net.net.pool_put(pool, colour_of(colour), room(memory, length)?, tag)?;
        if let Some(name) = name {
            name.write(made);
        }
        Ok(0)
    })
}

/// Takes a free buffer out of a pool, as a transfer machine of that colour would. A COUNT event says 1, or 0 if there is none;
/// before it the buffer has its last event, with -ECANCELED. -ENOENT: the pool is gone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_pool_get(
    net: *const pollnd_net,
    pool: u64,
    colour: u32,
    tag: u64,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let net = unsafe { given(net, "net")? };
        net.net.ask_pool(pool, AskPool::Get(colour_of(colour)), tag).map(|()| 0)
    })
}

/// Asks for the number of a pool's free buffers, which a COUNT event says. -ENOENT: the pool is gone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_pool_count(net: *const pollnd_net, pool: u64, tag: u64) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        unsafe { given(net, "net")? }.net.ask_pool(pool, AskPool::Len, tag).map(|()| 0)
    })
}

/// Frees a pool: its free buffers have their last events, with -ECANCELED, and nothing can be put into it any more. Its own last
/// event, POOL, follows when no transfer machine has it. -ENOENT: that was taken.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_pool_free(net: *const pollnd_net, pool: u64) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        unsafe { given(net, "net")? }.net.pool_free(pool).map(|()| 0)
    })
}

/// Lets `min_queue` buffers of its pool wait for a transfer machine's messages, 2 at least. A COUNT event says how many the pool
/// did not have; -EINVAL in it: the machine has no pool. -ENOENT: it has stopped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_pool_length(
    net: *const pollnd_net,
    tm: u64,
    min_queue: u32,
    tag: u64,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let net = unsafe { given(net, "net")? };
        net.net.ask_tm(tm, AskTm::Length(min_queue as usize), tag).map(|()| 0)
    })
}

/// Asks for the number of buffers that a transfer machine's pool did not have, which a COUNT event says. -ENOENT: it has
/// stopped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_deficit(net: *const pollnd_net, tm: u64, tag: u64) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        unsafe { given(net, "net")? }.net.ask_tm(tm, AskTm::Deficit, tag).map(|()| 0)
    })
}

/// Delivers the events that wait for a transfer machine with POLLND_TM_SYNC: a COUNT event says how many, and they follow it.
/// Events that wait are delivered when the machine stops, too. -EINVAL in the COUNT event: it is not started. -ENOENT: it has
/// stopped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_deliver(net: *const pollnd_net, tm: u64, tag: u64) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        unsafe { given(net, "net")? }.net.ask_tm(tm, AskTm::Deliver, tag).map(|()| 0)
    })
}

/// Asks whether events wait for a transfer machine: a COUNT event says 1 or 0. -EINVAL in it: it is not started. -ENOENT: it
/// has stopped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_pending(net: *const pollnd_net, tm: u64, tag: u64) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        unsafe { given(net, "net")? }.net.ask_tm(tm, AskTm::Pending, tag).map(|()| 0)
    })
}

/// Asks to hear when an event waits for a transfer machine with POLLND_TM_SYNC: one PENDING event follows, at once if there is
/// one already, and with -ECANCELED if the machine comes to its end before; with -EINVAL if its events do not wait. -ENOENT: it
/// has stopped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_notify(net: *const pollnd_net, tm: u64, tag: u64) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        unsafe { given(net, "net")? }.net.ask_tm(tm, AskTm::Notify, tag).map(|()| 0)
    })
}

/// Asks for the counts of a transfer machine's queue, POLLND_MSG_RECV to POLLND_ACTIVE_SEND, and with `reset` sets them to zero.
/// A STATS event has them. -ENOENT: the machine has stopped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pollnd_net_stats(
    net: *const pollnd_net,
    tm: u64,
    queue: u32,
    reset: c_int,
    tag: u64,
) -> c_int {
    guard(|| {
        // SAFETY: C's promise, as the header has it.
        let net = unsafe { given(net, "net")? };
        net.net.ask_tm(tm, AskTm::Stats(named(queue)?, reset != 0), tag).map(|()| 0)
    })
}
