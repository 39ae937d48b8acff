//! Boxes: messages whose payload has come whole, to be copied or summed by whichever lcore of the CPT has time.
//!
//! A home that is told to share ([`Machine::share`]) keeps a payload's fragments instead of copying them, if that is work
//! enough ([`Config::box_from`](super::Config::box_from)), and gives the message away as a box when its last byte is
//! there. Whoever has the box owns all that it needs, runs it, and sends it back; meanwhile the home takes the next
//! messages of the connection. Those that come behind a box are finished behind it: their zero-copy ACKs, LNet ACKs and
//! events leave in the order of the stream. A message that would do something else than store a payload waits until all
//! boxes are back, and so does the next one when there are many. A box outlives its connection, which a FIN ends without regard to it, since the peer may be there
//! again at once as somebody new: the message came whole, so its event is good, but nobody is there to be told.
//!
//! ```text
//!   home                                 any lcore of the CPT
//!   match, keep fragments
//!   last byte      ── Offer ──────────>  run: copy, sum, let the buffers go
//!   next messages
//!                  <────────── Boxed ──
//!   check, zero-copy ACK, LNet ACK, event: in order
//! ```

use std::collections::VecDeque;

use super::conn::Conn;
use super::homes::{BUCKETS, Bucket};
use super::io::{ConnId, Output};
use super::lnet::Delivery;
use super::machine::Machine;
use super::placement::Placement;
use super::rx::WaitFor;
use super::slab::Key;
use crate::wire::{KsockHdr, LnetHdr};

/// Messages of a connection in boxes, and behind them.
const MOST: usize = 64;
/// Boxes kept for the next messages.
const SPARE: usize = 32;

/// A message that was received whole, with all that is left to do. Opaque to runtimes.
#[derive(Debug)]
pub struct MsgBox {
    conn: ConnId,
    bucket: Bucket,
    /// When it came, in ns.
    came: u64,
    /// Place in the connection's order.
    serial: u64,
    hdr: LnetHdr,
    ksock: KsockHdr,
    delivery: Delivery,
    /// Names the operation that a REPLY ends, since keys do not last when homes move.
    object: u64,
    /// The operation belongs to another bucket than the connection.
    foreign: bool,
    placement: Option<Placement>,
}

impl MsgBox {
    /// Whose home it belongs to.
    pub fn bucket(&self) -> Bucket {
        self.bucket
    }

    /// Bytes to be copied and summed in all.
    pub fn work(&self) -> u64 {
        self.placement.as_ref().map_or(0, Placement::work)
    }

    /// Copies and sums `most` bytes, or up to one fragment more; true when nothing is left and the box is to go home.
    pub fn run(&mut self, most: u32) -> bool {
        self.placement.as_mut().is_none_or(|p| p.run(most))
    }
}

/// The messages of a connection from the first box that is out, in order; `None` for those that are out.
#[derive(Debug, Default)]
pub(super) struct Boxed {
    first: u64,
    slots: VecDeque<Option<Box<MsgBox>>>,
}

impl Boxed {
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether the next message must wait until all are back.
    pub(super) fn is_full(&self) -> bool {
        self.slots.len() >= MOST
    }
}

/// What a machine has out.
#[derive(Debug)]
pub(super) struct Boxes {
    on: bool,
    out: Box<[u32; BUCKETS]>,
    /// Messages in boxes, or behind them, whose operation belongs to another bucket.
    foreign: u32,
    // Boxed as they are handed around.
    #[expect(clippy::vec_box, reason = "the boxes are what is kept")]
    spare: Vec<Box<MsgBox>>,
}

impl Boxes {
    pub(super) fn new() -> Boxes {
        Boxes { on: false, out: Box::new([0; BUCKETS]), foreign: 0, spare: Vec::new() }
    }

    pub(super) fn out(&self) -> usize {
        self.out.iter().map(|n| *n as usize).sum()
    }

    /// Whether all that is boxed stays with one bucket when that moves.
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

impl Machine {
    /// Whether messages with much to copy or sum are given away as boxes ([`Output::Offer`]). Each box must come back,
    /// run, as [`Input::Boxed`](super::Input::Boxed).
    pub fn share(&mut self, on: bool) {
        self.boxes.on = on;
    }

    /// Whether the payload that was just matched is to be kept for a box.
    pub(super) fn may_box(&self, key: Key, placement: &Placement, delivery: &Delivery) -> bool {
        let own = || match delivery {
            Delivery::Nothing | Delivery::Push(_) => false,
            Delivery::Put(_) => true,
            Delivery::Reply(op) => {
                let bucket = self.conns.get(key).map(|c| c.bucket);
                self.ops.get(*op).is_some_and(|r| r.bucket() == bucket)
            }
        };
        self.boxes.on && placement.keeps() && placement.work() >= u64::from(self.cfg.box_from) && own()
    }

    /// A message has come whole that goes into a box, or stands behind one.
    pub(super) fn box_up(
        &mut self,
        key: Key,
        (hdr, ksock): (LnetHdr, KsockHdr),
        delivery: Delivery,
        placement: Option<Placement>,
    ) {
        let Some(c) = self.conns.get_mut(key) else { return };
        let (bucket, conn, came) = (c.bucket, c.id, c.rx.came);
        let (object, home) = match &delivery {
            Delivery::Reply(op) => self.ops.get(*op).map_or((0, None), |r| (r.object, r.bucket())),
            _ => (0, Some(bucket)),
        };
        let foreign = home != Some(bucket);
        self.boxes.foreign += u32::from(foreign);
        let queue = c.boxed.get_or_insert_default();
        let serial = queue.first + queue.slots.len() as u64;
        let filled = MsgBox { conn, bucket, came, serial, hdr, ksock, delivery, object, foreign, placement };
        let filled = match self.boxes.spare.pop() {
            Some(mut b) => {
                *b = filled;
                b
            }
            None => Box::new(filled),
        };
        match filled.placement.as_ref().filter(|p| p.waits()) {
            Some(p) => {
                self.counters.boxes += 1;
                self.counters.rx_copied_bytes += p.copied_later();
                self.boxes.put(bucket, 1);
                queue.slots.push_back(None);
                self.out.push_back(Output::Offer(filled));
            }
            None => queue.slots.push_back(Some(filled)),
        }
    }

    /// A box has come back.
    pub(super) fn unboxed(&mut self, b: Box<MsgBox>) {
        if let Some(out) = self.boxes.out.get_mut(usize::from(b.bucket.0)) {
            *out = out.saturating_sub(1);
        }
        let Some(key) = self.by_id.get(&b.conn).copied() else { return self.end_box(None, b) };
        let queue = self.conns.get_mut(key).filter(|c| c.up()).and_then(|c| c.boxed.as_mut());
        let slot = queue.and_then(|q| {
            let i = usize::try_from(b.serial.checked_sub(q.first)?).ok()?;
            q.slots.get_mut(i)
        });
        match slot {
            Some(slot) => *slot = Some(b),
            None => return self.end_box(None, b),
        }
        while let Some(b) = self.next_back(key) {
            self.end_box(Some(key), b);
        }
        self.all_back(key);
    }

    /// The next message in order, if it is here.
    fn next_back(&mut self, key: Key) -> Option<Box<MsgBox>> {
        let q = self.conns.get_mut(key)?.boxed.as_mut()?;
        let b = q.slots.front_mut()?.take()?;
        q.slots.pop_front();
        q.first += 1;
        Some(b)
    }

    /// Goes on with what waited for the last box.
    fn all_back(&mut self, key: Key) {
        let waits = |c: &&Conn| c.up() && !c.boxes_out() && c.rx.wait == WaitFor::Boxes;
        if self.conns.get(key).filter(waits).is_some() {
            self.resume(key);
        }
    }

    /// A connection has died: ends the messages that wait for their turn. Those that are out end when they come.
    pub(super) fn end_boxed(&mut self, key: Key) {
        let Some(q) = self.conns.get_mut(key).and_then(|c| c.boxed.take()) else { return };
        for b in q.slots.into_iter().flatten() {
            self.end_box(None, b);
        }
    }

    /// Checks, ACKs and delivers a message; without its connection, delivers it alone.
    fn end_box(&mut self, key: Option<Key>, mut b: Box<MsgBox>) {
        self.boxes.foreign -= u32::from(b.foreign).min(self.boxes.foreign);
        let delivery = match std::mem::replace(&mut b.delivery, Delivery::Nothing) {
            Delivery::Reply(_) => self.ops.by_object(b.object).map_or(Delivery::Nothing, Delivery::Reply),
            d => d,
        };
        let finished = b.placement.take().map(Placement::finish);
        let (hdr, ksock, came) = (b.hdr, b.ksock, b.came);
        if self.boxes.spare.len() < SPARE {
            self.boxes.spare.push(b);
        }
        let at = key.and_then(|k| Some((self.conns.get(k)?.peer?, k, came)));
        self.conclude(at, &hdr, &ksock, delivery, finished);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn boxes_may_cross_threads() {
        fn check<T: Send>() {}
        check::<super::MsgBox>();
    }
}
