//! Copy jobs: messages whose payload has come whole, to be copied or summed by whichever lcore of the CPT has time.
//!
//! A home that may offload (`Machine::offload`) keeps a payload's fragments instead of copying them, if that is work
//! enough (`Config::offload_from`), and gives the message away as a copy job when its last
//! byte is there. Whoever has the job owns all that it needs, runs it, and sends it back; meanwhile the home takes the next
//! messages of the connection. Those that come behind a job are finished behind it: their zero-copy ACKs, LNet ACKs and
//! events leave in the order of the stream. A message that would do something else than store a payload waits until all
//! jobs are back, and so does the next one when there are many. A job outlives its connection, which a FIN ends without
//! regard to it, since the peer may be there again at once as somebody new: the message came whole, so its event is good,
//! but nobody is there to be told.
//!
//! ```text
//!   home                                 any lcore of the CPT
//!   match, keep fragments
//!   last byte      ── Offer ──────────>  run: copy, sum, let the buffers go
//!   next messages
//!                  <──────── JobDone ──
//!   check, zero-copy ACK, LNet ACK, event: in order
//! ```

use std::collections::VecDeque;

use super::Socklnd;
use super::rx::WaitFor;
use crate::lnd::{Cx, Placement, Upper};
use crate::stream::slab::Key;
use crate::stream::{BUCKETS, Bucket, ConnId};
use crate::wire::{KsockHdr, LnetHdr};

/// Messages of a connection in copy jobs, and behind them.
const MOST: usize = 64;
/// Copy jobs kept for the next messages.
const SPARE: usize = 32;

/// A message that was received whole, with all that is left to do. Opaque to runtimes.
#[derive(Debug)]
pub(crate) struct CopyJob<D> {
    conn: ConnId,
    bucket: Bucket,
    /// Time at which it came, in ns.
    came: u64,
    /// Place in the connection's order.
    serial: u64,
    hdr: LnetHdr,
    ksock: KsockHdr,
    delivery: D,
    /// The operation belongs to another bucket than the connection.
    foreign: bool,
    placement: Option<Placement>,
}

impl<D> CopyJob<D> {
    /// Bucket whose home it belongs to.
    pub(crate) fn bucket(&self) -> Bucket {
        self.bucket
    }

    /// Bytes to be copied and summed in all.
    pub(crate) fn work(&self) -> u64 {
        self.placement.as_ref().map_or(0, Placement::work)
    }

    /// Copies and sums `most` bytes, or up to one fragment more; true when nothing is left and the copy job is to go home.
    pub(crate) fn run(&mut self, most: u32) -> bool {
        self.placement.as_mut().is_none_or(|p| p.run(most))
    }
}

/// The messages of a connection from the first copy job that is out, in order; `None` for those that are out.
#[derive(Debug)]
pub(super) struct CopyQueue<D> {
    first: u64,
    slots: VecDeque<Option<Box<CopyJob<D>>>>,
}

impl<D> Default for CopyQueue<D> {
    fn default() -> CopyQueue<D> {
        CopyQueue { first: 0, slots: VecDeque::new() }
    }
}

impl<D> CopyQueue<D> {
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether the next message must wait until all are back.
    pub(super) fn is_full(&self) -> bool {
        self.slots.len() >= MOST
    }
}

/// Copy jobs that a home has out.
#[derive(Debug)]
pub(super) struct CopyJobs<D> {
    on: bool,
    out: Box<[u32; BUCKETS]>,
    /// Messages in copy jobs, or behind them, whose operation belongs to another bucket.
    foreign: u32,
    // Boxed as they are handed around.
    spare: Vec<Box<CopyJob<D>>>,
}

impl<D> CopyJobs<D> {
    pub(super) fn new() -> CopyJobs<D> {
        CopyJobs { on: false, out: Box::new([0; BUCKETS]), foreign: 0, spare: Vec::new() }
    }

    pub(super) fn out(&self) -> usize {
        self.out.iter().map(|n| *n as usize).sum()
    }

    /// Whether all copy jobs stay with one bucket when that moves.
    pub(super) fn movable(&self) -> bool {
        self.foreign == 0
    }

    /// The bucket leaves: what is out will come back elsewhere.
    pub(super) fn take(&mut self, b: Bucket) -> u32 {
        self.out.get_mut(usize::from(b.0)).map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn put(&mut self, b: Bucket, out: u32) {
        if let Some(n) = self.out.get_mut(usize::from(b.0)) {
            *n += out;
        }
    }
}

impl<U: Upper> Socklnd<U> {
    /// Whether messages with much to copy or sum are given away as copy jobs (`Output::Offer`). Each must come back, run, as
    /// `Input::JobDone`.
    pub(crate) fn offload(&mut self, on: bool) {
        self.copy_jobs.on = on;
    }

    /// Whether the payload that was just matched is to be kept for a copy job.
    pub(super) fn may_offload(
        &self,
        up: &U,
        cx: &Cx,
        key: Key,
        placement: &Placement,
        delivery: &U::Delivery,
    ) -> bool {
        let own = || {
            let bucket = self.conns.get(key).map(|c| c.bucket);
            up.concerns(delivery).is_ok_and(|home| home.is_none_or(|b| Some(b) == bucket))
        };
        self.copy_jobs.on && placement.keeps() && placement.work() >= u64::from(cx.cfg.offload_from) && own()
    }

    /// A message has come whole that goes into a copy job, or stands behind one.
    pub(super) fn offload_message(
        &mut self,
        up: &mut U,
        cx: &mut Cx,
        key: Key,
        (hdr, ksock): (LnetHdr, KsockHdr),
        delivery: U::Delivery,
        placement: Option<Placement>,
    ) {
        let Some(c) = self.conns.get_mut(key) else { return };
        let (bucket, conn, came) = (c.bucket, c.id, c.rx.came);
        let foreign = up.concerns(&delivery).is_ok_and(|home| home.is_some_and(|b| b != bucket));
        let delivery = up.seal(delivery);
        self.copy_jobs.foreign += u32::from(foreign);
        let queue = c.copy_queue.get_or_insert_default();
        let serial = queue.first + queue.slots.len() as u64;
        let filled = CopyJob { conn, bucket, came, serial, hdr, ksock, delivery, foreign, placement };
        let filled = match self.copy_jobs.spare.pop() {
            Some(mut b) => {
                *b = filled;
                b
            }
            None => Box::new(filled),
        };
        match filled.placement.as_ref().filter(|p| p.waits()) {
            Some(p) => {
                cx.counters.boxes += 1;
                cx.counters.rx_copied_bytes += p.copied_later();
                self.copy_jobs.put(bucket, 1);
                queue.slots.push_back(None);
                self.jobs.push_back(filled);
            }
            None => queue.slots.push_back(Some(filled)),
        }
    }

    /// A copy job has come back.
    pub(crate) fn job_done(&mut self, up: &mut U, cx: &mut Cx, b: Box<CopyJob<U::Delivery>>) {
        if let Some(out) = self.copy_jobs.out.get_mut(usize::from(b.bucket.0)) {
            *out = out.saturating_sub(1);
        }
        let Some(key) = self.by_id.get(&b.conn).copied() else { return self.end_job(up, cx, None, b) };
        let queue = self.conns.get_mut(key).filter(|c| c.up()).and_then(|c| c.copy_queue.as_mut());
        let slot = queue.and_then(|q| {
            let i = usize::try_from(b.serial.checked_sub(q.first)?).ok()?;
            q.slots.get_mut(i)
        });
        match slot {
            Some(slot) => *slot = Some(b),
            None => return self.end_job(up, cx, None, b),
        }
        while let Some(b) = self.next_back(key) {
            self.end_job(up, cx, Some(key), b);
        }
        self.all_back(up, cx, key);
    }

    /// The next message in order, if it is here.
    fn next_back(&mut self, key: Key) -> Option<Box<CopyJob<U::Delivery>>> {
        let q = self.conns.get_mut(key)?.copy_queue.as_mut()?;
        let b = q.slots.front_mut()?.take()?;
        q.slots.pop_front();
        q.first += 1;
        Some(b)
    }

    /// Goes on with what waited for the last copy job.
    fn all_back(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        let c = self.conns.get(key);
        if c.is_some_and(|c| c.up() && !c.jobs_out() && c.rx.wait == WaitFor::CopyJobs) {
            self.resume(up, cx, key);
        }
    }

    /// A connection has died: ends the messages that wait for their turn. Those that are out end when they come.
    pub(super) fn end_jobs(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        let Some(q) = self.conns.get_mut(key).and_then(|c| c.copy_queue.take()) else { return };
        for b in q.slots.into_iter().flatten() {
            self.end_job(up, cx, None, b);
        }
    }

    /// Checks, ACKs and delivers a message; without its connection, delivers it alone.
    fn end_job(&mut self, up: &mut U, cx: &mut Cx, key: Option<Key>, mut b: Box<CopyJob<U::Delivery>>) {
        self.copy_jobs.foreign -= u32::from(b.foreign).min(self.copy_jobs.foreign);
        let delivery = up.unseal(std::mem::take(&mut b.delivery));
        let finished = b.placement.take().as_mut().map(Placement::finish);
        let (hdr, ksock, came) = (b.hdr, b.ksock, b.came);
        if self.copy_jobs.spare.len() < SPARE {
            self.copy_jobs.spare.push(b);
        }
        let at = key.and_then(|k| Some((self.conns.get(k)?.peer?, k, came)));
        self.conclude(up, cx, at, (&hdr, &ksock), delivery, finished);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn copy_jobs_may_cross_threads() {
        fn check<T: Send>() {}
        check::<super::CopyJob<()>>();
    }
}
