//! The client, which measures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hugepages::{Backing, PageRunMut};
use transport::net::{
    BufEvent, BufId, Buffer, Desc, Domain, EpId, Event, NetApp, Queue, Request, TmId, TmState, Unadded, Xprt,
};
use transport::netsock::Notice;
use transport::stream::DialError;
use transport::wire::netsock::errno;

use super::ask::WRONG;
use super::{
    ASK_LEN, Ask, AskKind, Job, NetCtl, STALL, Work, fill, is_filled, room, run_of, to_recv, to_send, words,
};
use crate::ctl::bump;

/// Bytes of a message, and buffers for messages, that a node has if it is told nothing.
const NODE_MESSAGE: u64 = 64 << 10;
const NODE_BUFFERS: usize = 64;
/// Longest time until it looks at the time of what is under way, in ns.
const LOOK: u64 = 10_000_000;
/// Times of operations that are handed over together at most.
const TOOK: usize = 1024;
/// Bits of a tag that tell the operation's place.
const PLACE_BITS: u32 = 16;
/// Buffers to send messages from, for each operation: a message that has come back is not yet known to be acknowledged.
const SENDS: usize = 4;
/// Buffers to take messages, for each operation.
const RECVS: usize = 2;
/// Buffers for messages of each operation.
pub(super) const BUFFERS: usize = SENDS + RECVS;

fn get(n: &AtomicU64) -> u64 {
    n.load(Ordering::Relaxed)
}

/// A place for an operation.
struct Place {
    /// 0 while it is free.
    tag: u64,
    begun: u64,
    /// The buffer for bulk, while it is not queued.
    bulk: Option<Buffer>,
    /// Its name, while it is.
    queued: Option<BufId>,
    /// The node's descriptor is waited for.
    offer: bool,
    /// The answer is waited for.
    answer: bool,
}

/// The client's application.
pub struct Client {
    job: Job,
    ctl: Arc<NetCtl>,
    backing: Arc<dyn Backing>,
    tm: Option<TmId>,
    to: Option<EpId>,
    places: Vec<Place>,
    free: Vec<usize>,
    /// Runs for messages.
    runs: Vec<PageRunMut>,
    seq: u64,
    /// Times of operations in ns that were not handed over yet.
    took: Vec<u64>,
    since: Option<u64>,
    /// No more operations are begun.
    closing: bool,
    /// Operations under way are given up.
    ending: bool,
    next: u64,
    /// The last dial to the node came to nothing.
    unreached: Option<DialError>,
}

impl Client {
    /// A client with pages of `backing`.
    pub fn new(job: Job, ctl: Arc<NetCtl>, backing: &Arc<dyn Backing>) -> Client {
        Client {
            ctl,
            backing: backing.clone(),
            tm: None,
            to: None,
            places: Vec::new(),
            free: (0..job.flight.min(1 << PLACE_BITS)).rev().collect(),
            runs: Vec::new(),
            seq: 0,
            took: Vec::with_capacity(TOOK),
            since: None,
            closing: false,
            ending: false,
            next: 0,
            unreached: None,
            job,
        }
    }

    /// Bytes of a message.
    fn message_len(&self) -> u64 {
        if self.job.work == Work::Ping { self.job.size } else { ASK_LEN as u64 }
    }

    fn page_run(&self, len: u64) -> Result<PageRunMut, String> {
        PageRunMut::new(self.backing.clone(), len as usize).map_err(|e| e.to_string())
    }

    fn furnish<X: Xprt>(&mut self, net: &mut Domain<X>, tm: TmId) -> Result<(), String> {
        let target = self.job.target.clone();
        self.to = Some(net.ep_create(tm, &target).map_err(|e| e.to_string())?);
        let (flight, len) = (self.free.len(), self.message_len());
        let takes = len.max(ASK_LEN as u64);
        for _ in 0..flight * RECVS {
            let run = self.page_run(takes)?;
            let b = to_recv(net, run).map_err(|e| e.to_string())?;
            self.listen(net, tm, b);
        }
        for _ in 0..flight * SENDS {
            let mut run = self.page_run(len)?;
            run.bytes_mut().fill(0x5a);
            self.runs.push(run);
        }
        for _ in 0..flight {
            let size = self.job.size;
            let bulk = match self.job.work {
                Work::Ping => None,
                w if !w.writes() => {
                    let pages = || PageRunMut::new(self.backing.clone(), size as usize);
                    Some(net.register(room(self.job.intake, size, pages)?).map_err(|u| u.why.to_string())?)
                }
                _ => {
                    let mut run = self.page_run(size)?;
                    fill(&mut run, 0, 0, size as usize);
                    Some(to_send(net, run, size).map_err(|e| e.to_string())?)
                }
            };
            self.places.push(Place { tag: 0, begun: 0, bulk, queued: None, offer: false, answer: false });
        }
        Ok(())
    }

    fn listen<X: Xprt>(&self, net: &mut Domain<X>, tm: TmId, buffer: Buffer) {
        let req = Request::MsgRecv { min_size: buffer.size(), max_msgs: 1 };
        if let Err(u) = net.add(tm, buffer, &req, None) {
            let _ = net.deregister(u.buffer);
            if !self.ending && net.state(tm) == TmState::Started {
                self.ctl.fail(format!("a buffer for messages: {}", u.why));
            }
        }
    }

    fn is_over(&self, now: u64) -> bool {
        let late = self.job.begin_for.zip(self.since).is_some_and(|(ns, t)| now.saturating_sub(t) >= ns);
        self.closing || self.seq >= self.job.limit || late
    }

    /// The error of an operation, which ends all.
    fn fail(&mut self, status: i32, what: &str) {
        bump(&self.ctl.failed, 1);
        let to = &self.job.target;
        let (len, flight) = (self.message_len(), self.job.flight);
        let dial = self.unreached.filter(|_| status == errno::ETIMEDOUT);
        let remedy = match status {
            errno::ETIMEDOUT if dial.is_some() => {
                "; look whether the host is up, and whether a filter drops connections to it".to_owned()
            }
            errno::ETIMEDOUT if get(&self.ctl.completed) == 0 => format!(
                "; is there a transfer machine, with buffers for messages of {len} bytes? Start one by `pollnd net node {to} \
                 --message {} --buffers {}`",
                len.max(NODE_MESSAGE),
                flight.max(NODE_BUFFERS)
            ),
            errno::ETIMEDOUT => format!(
                "; it has answered before: look whether it runs, give a longer --timeout, or it --buffers {} or more",
                flight.max(NODE_BUFFERS)
            ),
            errno::ECONNRESET => "; look whether it still runs, or was started again".to_owned(),
            errno::ECONNREFUSED => {
                format!("; is there a transfer machine? Start one by `pollnd net node {to}`")
            }
            errno::EHOSTUNREACH | errno::ENETUNREACH => {
                "; look whether the host is up, at the address, and at the routes there and back".to_owned()
            }
            errno::EMSGSIZE => "; give a smaller --size, or the node a larger --bulk or --message".to_owned(),
            s if s == WRONG as i32 => "; the bytes were changed on their way, or in memory".to_owned(),
            _ => String::new(),
        };
        let dial = dial.map_or_else(String::new, |d| format!("; {d}"));
        self.ctl.fail(format!("{to}: {what}: {}{dial}{remedy}", words(status)));
        self.ending = true;
    }

    fn not_queued(&mut self, u: &Unadded) {
        bump(&self.ctl.failed, 1);
        self.ctl.fail(format!("{}: {}", self.job.target, u.why));
        self.ending = true;
    }

    /// Begins operations.
    fn pump<X: Xprt>(&mut self, net: &mut Domain<X>) {
        let (Some(tm), Some(to), now) = (self.tm, self.to, net.now()) else { return };
        while !self.ending && !self.is_over(now) && !self.runs.is_empty() {
            let Some(i) = self.free.pop() else { return };
            self.since.get_or_insert(now);
            if self.seq == 0 {
                self.ctl.first_ns.store(now, Ordering::Relaxed);
            }
            self.seq += 1;
            bump(&self.ctl.started, 1);
            let tag = self.seq << PLACE_BITS | i as u64;
            if let Some(p) = self.places.get_mut(i) {
                (p.tag, p.begun) = (tag, now);
            }
            if let Err(u) = self.begin(net, (tm, to), i, tag) {
                self.not_queued(&u);
                let _ = net.deregister(u.buffer);
            }
        }
    }

    #[expect(clippy::result_large_err, reason = "the buffer itself comes back, unboxed")]
    fn begin<X: Xprt>(
        &mut self,
        net: &mut Domain<X>,
        (tm, to): (TmId, EpId),
        i: usize,
        tag: u64,
    ) -> Result<(), Unadded> {
        let Some(mut run) = self.runs.pop() else { return Ok(()) };
        let (check, size, until) = (self.job.check, self.job.size, Some(net.now() + self.job.timeout));
        if self.job.work == Work::Ping {
            if let Some(front) = run.bytes_mut().get_mut(..8) {
                front.copy_from_slice(&tag.to_le_bytes());
            }
            if check {
                fill(&mut run, tag, 8, size as usize);
            }
        } else {
            let (Some(place), work) = (self.places.get_mut(i), self.job.work) else { return Ok(()) };
            let mut bulk = place.bulk.take();
            if check
                && work.writes()
                && let Some(mut run) = bulk.take().and_then(|b| run_of(net, b))
            {
                fill(&mut run, tag, 0, size as usize);
                bulk = to_send(net, run, size).ok();
            }
            let Some(bulk) = bulk else { return Ok(()) };
            let mut desc = None;
            if work.is_own() {
                place.bulk = Some(bulk);
            } else {
                let req =
                    if work.writes() { Request::PassiveSend { len: size } } else { Request::PassiveRecv };
                let added = net.add(tm, bulk, &req, until)?;
                (place.queued, desc) = (Some(added.id), added.desc);
            }
            (place.offer, place.answer) = (work.is_own(), check && work.writes());
            let kind = work.ask();
            Ask { kind, check, tag, len: size, seed: tag, status: 0, desc }.write(run.bytes_mut());
        }
        let len = self.message_len();
        let message = match to_send(net, run, len) {
            Ok(b) => b,
            Err(e) => {
                self.ctl.fail(e.to_string());
                self.ending = true;
                return Ok(());
            }
        };
        net.add(tm, message, &Request::MsgSend { to, len }, until).map(drop)
    }

    /// The place of a tag.
    fn place(&mut self, tag: u64) -> Option<(usize, &mut Place)> {
        let i = (tag & ((1 << PLACE_BITS) - 1)) as usize;
        self.places.get_mut(i).filter(|p| tag != 0 && p.tag == tag).map(|p| (i, p))
    }

    /// An operation has come to its good end, once its buffer and its answer are there.
    fn end(&mut self, now: u64, tag: u64) {
        let Some((i, p)) = self.place(tag) else { return };
        if p.offer || p.answer || p.queued.is_some() {
            return;
        }
        let took = now.saturating_sub(p.begun);
        p.tag = 0;
        self.free.push(i);
        self.ctl.last_ns.store(now, Ordering::Relaxed);
        // In this order: who sees the count finds the bytes.
        bump(&self.ctl.bytes, self.job.size);
        if took > STALL {
            bump(&self.ctl.stalls, 1);
        }
        self.took.push(took);
        if self.took.len() == TOOK {
            self.ctl.took(&mut self.took);
        }
        bump(&self.ctl.completed, 1);
    }

    /// A message came: a ping that is back, or an answer.
    fn message<X: Xprt>(&mut self, net: &mut Domain<X>, mut e: BufEvent) {
        let Some(buffer) = e.buffer.take() else { return };
        if e.status == 0 {
            self.came(net, &buffer, &e);
        }
        if net.state(e.tm) == TmState::Started {
            self.listen(net, e.tm, buffer);
        } else {
            let _ = net.deregister(buffer);
        }
    }

    /// The node's descriptor is here: the active part begins.
    fn offered<X: Xprt>(&mut self, net: &mut Domain<X>, tm: TmId, tag: u64, desc: Desc) {
        let (len, writes, timeout) = (self.job.size, self.job.work.writes(), self.job.timeout);
        let Some((_, place)) = self.place(tag).filter(|(_, p)| p.offer) else { return };
        let Some(bulk) = place.bulk.take() else { return };
        place.offer = false;
        let req = if writes { Request::ActiveSend { desc, len } } else { Request::ActiveRecv { desc } };
        let until = (place.begun + timeout).max(net.now() + 1);
        match net.add(tm, bulk, &req, Some(until)) {
            Ok(added) => place.queued = Some(added.id),
            Err(u) => {
                self.not_queued(&u);
                let _ = net.deregister(u.buffer);
            }
        }
    }

    fn came<X: Xprt>(&mut self, net: &mut Domain<X>, buffer: &Buffer, e: &BufEvent) {
        let front = buffer.bytes(e.offset, e.len).next().unwrap_or_default();
        if self.job.work != Work::Ping {
            let Some(ask) = Ask::parse(front) else { return };
            if ask.kind == AskKind::Offer
                && let Some(desc) = ask.desc
            {
                return self.offered(net, e.tm, ask.tag, desc);
            }
            if ask.kind != AskKind::Done {
                return;
            }
            let Some((_, place)) = self.place(ask.tag) else { return };
            place.answer = false;
            if ask.status == WRONG {
                bump(&self.ctl.wrong, 1);
            }
            match i32::try_from(ask.status).unwrap_or(errno::EPROTO) {
                0 => {
                    bump(&self.ctl.checked, 1);
                    self.end(e.time, ask.tag);
                }
                status => self.fail(status, "bulk, as the node says"),
            }
            return;
        }
        let Some(tag) = front.get(..8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes) else {
            return;
        };
        // One that is late, or a stranger's.
        if self.place(tag).is_none() {
            return;
        }
        if self.job.check || e.len != self.job.size {
            bump(&self.ctl.checked, 1);
            let rest = self.job.size - 8;
            let good = e.len == self.job.size && is_filled(buffer.bytes(e.offset + 8, rest), tag, rest);
            if !good {
                bump(&self.ctl.wrong, 1);
                return self.fail(WRONG as i32, "a message that came back");
            }
        }
        self.end(e.time, tag);
    }

    /// The end of a buffer for bulk.
    fn bulk<X: Xprt>(&mut self, net: &mut Domain<X>, e: BufEvent) {
        let (Some(mut buffer), check) = (e.buffer, self.job.check) else { return };
        let Some(place) = self.places.iter_mut().find(|p| p.queued == Some(e.id)) else {
            let _ = net.deregister(buffer);
            return;
        };
        place.queued = None;
        let (tag, mut good) = (place.tag, true);
        let came = matches!(e.queue, Queue::PassiveRecv | Queue::ActiveRecv);
        if came {
            let size = self.job.size;
            if e.status == 0 {
                good = e.len == size && (!check || is_filled(buffer.bytes(e.offset, e.len), tag, size));
            }
            // Lent pieces go home at once.
            buffer.clear();
        }
        place.bulk = Some(buffer);
        match e.status {
            0 => {
                if check && came {
                    bump(&self.ctl.checked, 1);
                }
                if !good {
                    bump(&self.ctl.wrong, 1);
                    return self.fail(WRONG as i32, "bulk");
                }
                self.end(e.time, tag);
            }
            _ if self.ending => {}
            status => self.fail(status, "bulk"),
        }
    }

    /// Ends what has waited too long: a message may be lost over LNet, or its answer never come.
    fn look<X: Xprt>(&mut self, net: &mut Domain<X>) {
        let (now, most) = (net.now(), self.job.timeout);
        self.unreached = self.to.and_then(|to| net.unreached(to));
        // A host that says no will say so again; one that says nothing may be slow.
        if let Some(why) = self.unreached.filter(|d| *d != DialError::TimedOut && !self.ending) {
            return self.fail(why.errno(), "no connection");
        }
        if !self.ending && self.places.iter().any(|p| p.tag != 0 && now.saturating_sub(p.begun) > most) {
            let what = if self.job.work == Work::Ping { "a message did not come back" } else { "bulk" };
            self.fail(errno::ETIMEDOUT, what);
        }
    }
}

impl<X: Xprt> NetApp<X> for Client {
    fn event(&mut self, net: &mut Domain<X>, event: Event) {
        match event {
            Event::State { tm, state: TmState::Started, ep, .. } => {
                self.tm = Some(tm);
                if let Err(e) = self.furnish(net, tm) {
                    self.ctl.fail(e);
                    self.ending = true;
                }
                self.ctl.came_up(ep.and_then(|e| net.ep_name(e).ok()).unwrap_or_default());
            }
            Event::State { tm, state: TmState::Stopped | TmState::Failed, status, .. } => {
                if self.tm.is_none() {
                    self.ctl.fail(format!("the transfer machine does not start: {}", words(status)));
                }
                if let Some(ep) = self.to.take() {
                    let _ = net.ep_put(ep);
                }
                let _ = net.tm_fini(tm);
                self.ctl.took(&mut self.took);
                self.ctl.done.store(true, Ordering::Release);
            }
            Event::Buffer(e) => {
                match e.queue {
                    Queue::MsgRecv => self.message(net, e),
                    Queue::MsgSend => {
                        let status = e.status;
                        self.runs.extend(e.buffer.and_then(|b| run_of(net, b)));
                        if status != 0 {
                            self.look(net);
                        }
                        if status != 0 && !self.ending {
                            self.fail(status, "a message");
                        }
                    }
                    _ => self.bulk(net, e),
                }
                self.pump(net);
            }
            _ => {}
        }
    }

    fn refused(&mut self, notice: &Notice, all: u64) {
        self.ctl.refused(*notice, all);
    }

    fn turn(&mut self, net: &mut Domain<X>) {
        let now = net.now();
        self.closing |= self.ctl.stop.load(Ordering::Relaxed);
        if now >= self.next {
            self.next = now + LOOK;
            self.ctl.took(&mut self.took);
            self.look(net);
        }
        self.pump(net);
        let Some(tm) = self.tm else { return };
        let idle = self.is_over(now) && self.free.len() == self.places.len();
        if (idle || self.ending) && net.state(tm) == TmState::Started {
            self.ending = true;
            if let Some(ep) = self.to.take() {
                let _ = net.ep_put(ep);
            }
            let _ = net.stop(tm, true);
        }
    }

    fn deadline(&self) -> Option<u64> {
        // The end is come to in a turn.
        Some(if self.ending { 0 } else { self.next }).filter(|_| !self.ctl.done.load(Ordering::Relaxed))
    }
}
