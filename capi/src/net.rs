//! The net contract for a program: transfer machines, end-points and buffers by names, and their events.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use slab::Slab;
use transport::net::{Colour, Memory};
use transport::node::Bell;

use crate::domain::{AskPool, AskTm, Call, Lines, Said, Setup, Tenant, Want, What};
use crate::error::Error;

/// An operation that has not ended.
struct Pending {
    /// The program's.
    tag: u64,
    /// Distinguishes those that had the same place.
    serial: u32,
}

/// A domain of a node's.
pub(crate) struct Net {
    lines: Arc<Lines>,
    pending: Mutex<Slab<Pending>>,
    serial: AtomicU32,
}

fn key_of(name: u64) -> usize {
    (name & u64::from(u32::MAX)) as usize
}

fn stopped() -> Error {
    Error::new(libc::ESHUTDOWN, "the node is stopped: start another one")
}

impl Net {
    /// A domain in which so many calls and events may wait, and the program's end of it for the lcore.
    pub(crate) fn new(depth: usize) -> (Arc<Net>, Tenant) {
        let (calls, said) = (ArrayQueue::new(depth), ArrayQueue::new(depth));
        let lines = Arc::new(Lines { calls, said, bell: Bell::default() });
        let net = Net { lines: lines.clone(), pending: Mutex::default(), serial: AtomicU32::new(1) };
        (Arc::new(net), Tenant::new(lines))
    }

    fn pending(&self) -> MutexGuard<'_, Slab<Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, call: Call) -> Result<(), Error> {
        if self.lines.bell.gone() {
            return Err(stopped());
        }
        self.lines.calls.push(call).map_err(|_| {
            Error::new(
                libc::EAGAIN,
                "the ring of calls is full: take events, then try again, or give the node more depth",
            )
        })
    }

    /// Makes a call whose events have `tag`; gives its name, which `call` is given.
    fn begin(&self, tag: u64, call: impl FnOnce(u64) -> Call) -> Result<u64, Error> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed) | 1 << 31;
        let key = self.pending().insert(Pending { tag, serial });
        let name = u64::from(serial) << 32 | key as u64;
        self.send(call(name)).inspect_err(|_| {
            self.pending().try_remove(key);
        })?;
        Ok(name)
    }

    fn known(&self, what: &str, name: u64) -> Result<(), Error> {
        let pending = self.pending();
        let known = pending.get(key_of(name)).is_some_and(|p| u64::from(p.serial) == name >> 32);
        if known {
            Ok(())
        } else {
            Err(Error::new(
                libc::ENOENT,
                format_args!("{what} {name:#x} has ended: its last event was taken"),
            ))
        }
    }

    pub(crate) fn start(&self, setup: Setup, tag: u64) -> Result<u64, Error> {
        if let Some(p) = &setup.pool {
            self.known("pool", p.pool)?;
        }
        self.begin(tag, |name| Call::Start(name, Box::new(setup)))
    }

    pub(crate) fn pool(&self, threshold: usize, colours: u32, tag: u64) -> Result<u64, Error> {
        self.begin(tag, |name| Call::Pool(name, threshold, colours))
    }

    pub(crate) fn pool_put(&self, pool: u64, colour: Colour, mem: Memory, tag: u64) -> Result<u64, Error> {
        self.known("pool", pool)?;
        self.begin(tag, |buf| Call::PoolPut { buf, pool, colour, mem })
    }

    pub(crate) fn pool_free(&self, pool: u64) -> Result<(), Error> {
        self.known("pool", pool)?;
        self.send(Call::PoolFree(pool))
    }

    pub(crate) fn ask_pool(&self, pool: u64, ask: AskPool, tag: u64) -> Result<(), Error> {
        self.known("pool", pool)?;
        self.begin(tag, |op| Call::AskPool(op, pool, ask)).map(drop)
    }

    pub(crate) fn ask_tm(&self, tm: u64, ask: AskTm, tag: u64) -> Result<(), Error> {
        self.known("transfer machine", tm)?;
        self.begin(tag, |op| Call::AskTm(op, tm, ask)).map(drop)
    }

    pub(crate) fn stop(&self, tm: u64, abort: bool) -> Result<(), Error> {
        self.known("transfer machine", tm)?;
        self.send(Call::Stop(tm, abort))
    }

    pub(crate) fn ep(&self, tm: u64, text: &str, tag: u64) -> Result<u64, Error> {
        self.known("transfer machine", tm)?;
        self.begin(tag, |ep| Call::Ep { ep, tm, name: text.into() })
    }

    pub(crate) fn ep_put(&self, ep: u64) -> Result<(), Error> {
        self.send(Call::EpPut(ep))
    }

    pub(crate) fn add(
        &self,
        tm: u64,
        mem: Memory,
        want: Want,
        time: Option<Duration>,
        tag: u64,
    ) -> Result<u64, Error> {
        self.known("transfer machine", tm)?;
        let time = time.map(|t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX));
        self.begin(tag, |buf| Call::Add { buf, tm, mem, want, time })
    }

    pub(crate) fn del(&self, buf: u64) -> Result<(), Error> {
        self.known("buffer", buf)?;
        self.send(Call::Del(buf))
    }

    /// The next event and its tag, waited for so long at most, in ms; for ever if less than 0.
    pub(crate) fn next(&self, timeout_ms: i32) -> Result<Option<(u64, Said)>, Error> {
        let until = u64::try_from(timeout_ms).ok().map(|ms| Instant::now() + Duration::from_millis(ms));
        if let Some(said) = self.lines.bell.wait(until, || self.take()) {
            return Ok(Some(said));
        }
        if !self.lines.bell.gone() {
            return Ok(None);
        }
        // Calls that nobody took give their memory back; whatever has not ended went with the node.
        while self.lines.calls.pop().is_some() {}
        let mut pending = self.pending();
        let first = pending.iter().next().map(|(key, _)| key).ok_or_else(stopped)?;
        let p = pending.remove(first);
        let what = What::Bytes { len: 0, offset: 0, from: None };
        let name = u64::from(p.serial) << 32 | first as u64;
        Ok(Some((p.tag, Said { name, last: true, status: Err(stopped()), what })))
    }

    fn take(&self) -> Option<(u64, Said)> {
        loop {
            let said = self.lines.said.pop()?;
            let (key, mut pending) = (key_of(said.name), self.pending());
            let Some(p) = pending.get(key).filter(|p| u64::from(p.serial) == said.name >> 32) else {
                continue;
            };
            let tag = p.tag;
            if said.last {
                pending.remove(key);
            }
            return Some((tag, said));
        }
    }
}
