//! Operations of this node that wait for an answer: PUTs with ACK, GETs, pings.

use crate::hash::OwnMap;
use crate::lnd::budget::trim_map;
use crate::lnd::timers::{LOOK_AGAIN, Timers};
use crate::lnd::{AppId, Data, LnetError, NiId, Sink};
use crate::lnet::aliases::Aliases;
use crate::lnet::api::Event;
use crate::lnet::figures::{Latencies, Timed};
use crate::stream::Bucket;
use crate::stream::slab::{Key, Slab};
use crate::wire::{Nid, WireHandle};

/// In an NI's place: `0@lo`, for operations on this node itself.
pub(crate) const LO: NiId = NiId(u8::MAX);

/// Kind of an operation, by what it waits for.
#[derive(Debug)]
pub(crate) enum OpKind {
    /// SEND and ACK; which have come.
    Put { sent: bool, acked: bool },
    /// The REPLY. The sink is absent while the payload is being stored.
    Get { sink: Option<Sink> },
    /// The REPLY of a ping of so many bytes at most; `placing` while its payload is read.
    Ping { placing: bool, sink: u32 },
}

/// An operation.
#[derive(Debug)]
pub(crate) struct OpRec {
    pub(crate) app: AppId,
    pub(crate) tag: u64,
    pub(crate) target: Nid,
    /// The peer that the request was given to: the target, or a gateway.
    pub(crate) via: Nid,
    pub(crate) kind: OpKind,
    pub(crate) object: u64,
    /// Time at which it was taken up, in ns.
    pub(crate) began: u64,
    pub(crate) deadline: u64,
    /// The NI that it goes by. Its latencies are those of applications' operations.
    pub(super) ni: NiId,
}

impl OpRec {
    /// Whether nothing of the answer has come.
    fn waits(&self) -> bool {
        match &self.kind {
            OpKind::Put { acked, .. } => !acked,
            OpKind::Get { sink } => sink.is_some(),
            OpKind::Ping { placing, .. } => !placing,
        }
    }

    /// It goes by another pair of NIDs: the peer's NID that is asked now answers, or the same node behind another gateway.
    pub(crate) fn goes_by(&mut self, ni: NiId, via: Nid, routed: bool) {
        (self.via, self.ni) = (via, ni);
        if !routed {
            self.target = via;
        }
    }

    /// Bucket of the peer that it was given to.
    pub(crate) fn bucket(&self) -> Option<Bucket> {
        self.via.ip().map(Bucket::of)
    }
}

/// News of a PUT with ACK.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PutTold {
    pub(crate) app: AppId,
    pub(crate) tag: u64,
    /// Nothing more will be told of it.
    pub(crate) done: bool,
    /// Time at which it was taken up, in ns.
    pub(crate) began: u64,
}

/// The operations of a shard.
#[derive(Debug)]
pub(crate) struct Ops {
    recs: Slab<OpRec>,
    by_object: OwnMap<u64, Key>,
    /// By NI.
    pub(crate) latencies: Vec<Latencies>,
    /// Of operations on this node itself.
    pub(crate) own_latencies: Latencies,
    interface: u64,
    next_object: u64,
    step: u64,
    /// Operations that began here and have gone elsewhere have ended by then, in ns.
    away_until: u64,
    /// By position. Those of operations that have ended stay: the next one there is looked at too early once, and
    /// traffic sets none.
    pub(crate) timers: Timers,
}

impl Ops {
    pub(crate) fn new(interface: u64, first: u64, step: u64, nis: usize) -> Ops {
        Ops {
            recs: Slab::new(),
            by_object: OwnMap::default(),
            latencies: vec![Latencies::default(); nis],
            own_latencies: Latencies::default(),
            interface,
            next_object: first,
            step: step.max(1),
            away_until: 0,
            timers: Timers::new(),
        }
    }

    /// Registers an operation and gives it the handle that its answer will name. Part of its callers: it has much to hand over.
    #[inline(always)]
    pub(crate) fn start(
        &mut self,
        (app, tag): (AppId, u64),
        (target, via, ni): (Nid, Nid, NiId),
        kind: OpKind,
        (now, deadline): (u64, u64),
    ) -> (Key, WireHandle) {
        let object = self.next_object;
        self.next_object = object.wrapping_add(self.step);
        let key = self.recs.insert(OpRec { app, tag, target, via, kind, object, began: now, deadline, ni });
        self.by_object.insert(object, key);
        self.timers.by(now, key, deadline);
        (key, WireHandle { interface: self.interface, object })
    }

    /// Notes that an operation that an application began took so long: of the node's own nobody is told.
    #[inline]
    fn took_of(&mut self, app: AppId, op: Timed, ni: NiId, ns: u64) {
        if app != AppId::NODE {
            self.took(op, ni, ns);
        }
    }

    /// Notes that an operation by the NI took so long.
    #[inline]
    pub(crate) fn took(&mut self, op: Timed, ni: NiId, ns: u64) {
        let all = match self.latencies.get_mut(ni.index()) {
            Some(all) => all,
            None if ni == LO => &mut self.own_latencies,
            None => return,
        };
        if let Some(l) = all.get_mut(op as usize) {
            l.record(ns);
        }
    }

    /// The operation that an answer from `src` names.
    pub(crate) fn find(&self, handle: WireHandle, src: Nid, aliases: &Aliases) -> Option<Key> {
        if handle.interface != self.interface {
            return None;
        }
        let key = *self.by_object.get(&handle.object)?;
        // Handles are easy to guess; an answer counts only from the node that was asked, by whichever of its NIDs.
        self.recs.get(key).is_some_and(|r| aliases.acts_for(r.target, src)).then_some(key)
    }

    /// The operation with that handle.
    pub(crate) fn by_object(&self, object: u64) -> Option<Key> {
        self.by_object.get(&object).copied()
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut OpRec> {
        self.recs.get_mut(key)
    }

    pub(crate) fn get(&self, key: Key) -> Option<&OpRec> {
        self.recs.get(key)
    }

    /// Takes out the operations on peers of a bucket, to be put in elsewhere; those on this node's `own` NIDs stay.
    pub(crate) fn take(&mut self, b: Bucket, own: &[Nid]) -> Vec<(Key, OpRec)> {
        let all: Vec<Key> = self.recs.keys().collect();
        let of =
            |k: &Key| self.recs.get(*k).is_some_and(|r| r.bucket() == Some(b) && !own.contains(&r.target));
        let some: Vec<Key> = all.into_iter().filter(of).collect();
        some.into_iter().filter_map(|k| Some((k, self.give(k)?))).collect()
    }

    /// Puts in an operation of another shard, whose handle stays.
    pub(crate) fn put(&mut self, now: u64, rec: OpRec) -> Key {
        let (object, deadline) = (rec.object, rec.deadline);
        let key = self.recs.insert(rec);
        self.by_object.insert(object, key);
        self.timers.by(now, key, deadline);
        key
    }

    pub(crate) fn len(&self) -> usize {
        self.recs.len()
    }

    /// Places for operations.
    #[cfg(feature = "testing")]
    pub(crate) fn places(&self) -> usize {
        self.recs.capacity() + self.by_object.capacity()
    }

    /// Takes out an operation that goes on elsewhere.
    pub(crate) fn give(&mut self, key: Key) -> Option<OpRec> {
        let rec = self.end(key)?;
        self.away_until = self.away_until.max(rec.deadline.saturating_add(LOOK_AGAIN));
        Some(rec)
    }

    /// Whether an operation with this handle, which began here and is not here, can be elsewhere.
    pub(crate) fn may_be_elsewhere(&self, now: u64, object: u64) -> bool {
        let ahead = self.next_object.wrapping_sub(object);
        now < self.away_until && ahead != 0 && ahead < 1 << 63
    }

    fn end(&mut self, key: Key) -> Option<OpRec> {
        let rec = self.recs.remove(key)?;
        self.by_object.remove(&rec.object);
        trim_map(&mut self.by_object);
        Some(rec)
    }

    /// The request has left, or will not.
    pub(crate) fn sent(
        &mut self,
        key: Key,
        now: u64,
        status: Result<(), LnetError>,
    ) -> Option<(AppId, Event)> {
        let Err(e) = status else {
            let PutTold { app, tag, done, .. } = self.put_sent(key)?;
            return Some((app, Event::Send { tag, status, done }));
        };
        let rec = self.recs.get_mut(key)?;
        let (app, tag) = (rec.app, rec.tag);
        match rec.kind {
            OpKind::Put { .. } => {
                self.end(key);
                Some((app, Event::Send { tag, status: Err(e), done: true }))
            }
            _ => self.fail(key, now, e),
        }
    }

    /// The request has left: news of a PUT, whose SEND that is.
    #[inline]
    pub(crate) fn put_sent(&mut self, key: Key) -> Option<PutTold> {
        let rec = self.recs.get_mut(key)?;
        let OpKind::Put { sent, acked } = &mut rec.kind else { return None };
        *sent = true;
        let told = PutTold { app: rec.app, tag: rec.tag, done: *acked, began: rec.began };
        if told.done {
            self.end(key);
        }
        Some(told)
    }

    /// The ACK has come.
    pub(crate) fn acked(
        &mut self,
        key: Key,
        now: u64,
        status: Result<(), LnetError>,
        mlength: u32,
    ) -> Option<(AppId, Event)> {
        let PutTold { app, tag, done, .. } = self.put_acked(key, status.is_ok().then_some(now))?;
        Some((app, Event::Ack { tag, status, mlength, done }))
    }

    /// The ACK of a PUT has come at this time, in ns, or will not.
    #[inline]
    pub(crate) fn put_acked(&mut self, key: Key, at: Option<u64>) -> Option<PutTold> {
        let rec = self.recs.get_mut(key)?;
        let OpKind::Put { sent, acked } = &mut rec.kind else { return None };
        if std::mem::replace(acked, true) {
            return None;
        }
        let told = PutTold { app: rec.app, tag: rec.tag, done: *sent, began: rec.began };
        let ni = rec.ni;
        if told.done {
            self.end(key);
        }
        if let Some(now) = at {
            self.took_of(told.app, Timed::PutAck, ni, now.saturating_sub(told.began));
        }
        Some(told)
    }

    /// Ends a GET or a ping (or a PUT's wait for its ACK) with an error, if no payload is being stored.
    pub(crate) fn fail(&mut self, key: Key, now: u64, e: LnetError) -> Option<(AppId, Event)> {
        match &mut self.recs.get_mut(key)?.kind {
            OpKind::Put { .. } => self.acked(key, now, Err(e), 0),
            OpKind::Get { sink: None } | OpKind::Ping { placing: true, .. } => None,
            OpKind::Get { sink } => {
                let sink = sink.take();
                self.reply(key, now, Err(e), 0, Data::Discarded, sink)
            }
            OpKind::Ping { .. } => self.pong(key, now, Err(e)),
        }
    }

    /// Ends a GET.
    pub(crate) fn reply(
        &mut self,
        key: Key,
        now: u64,
        status: Result<(), LnetError>,
        mlength: u32,
        data: Data,
        sink: Option<Sink>,
    ) -> Option<(AppId, Event)> {
        let rec = self.end(key)?;
        if status.is_ok() {
            self.took_of(rec.app, Timed::Get, rec.ni, now.saturating_sub(rec.began));
        }
        let sink = match sink {
            Some(Sink::Copy(run)) => Some(run),
            _ => None,
        };
        Some((rec.app, Event::Reply { tag: rec.tag, status, mlength, data, sink }))
    }

    /// Ends a ping.
    pub(crate) fn pong(
        &mut self,
        key: Key,
        now: u64,
        info: Result<crate::wire::PingInfo, LnetError>,
    ) -> Option<(AppId, Event)> {
        let rec = self.end(key)?;
        let OpKind::Ping { .. } = rec.kind else { return None };
        let rtt_ns = now.saturating_sub(rec.began);
        if info.is_ok() {
            self.took_of(rec.app, Timed::Ping, rec.ni, rtt_ns);
        }
        Some((rec.app, Event::Ping { tag: rec.tag, info, rtt_ns }))
    }

    /// Looks at the operation at this position of [`Ops::timers`]; gives it when it is overdue. One whose payload is
    /// being stored is left to the connection that does it.
    pub(crate) fn overdue(&mut self, now: u64, position: u32) -> Option<Key> {
        let key = self.recs.key_at(position as usize)?;
        let rec = self.recs.get(key)?;
        let at = match rec.deadline {
            later if later > now => later,
            _ if rec.waits() => return Some(key),
            _ => now + LOOK_AGAIN,
        };
        self.timers.by(now, key, at);
        None
    }

    /// All that wait for an answer, but for those whose payload is being stored.
    pub(crate) fn waiting(&self) -> Vec<Key> {
        let all = self.recs.keys();
        all.filter(|k| self.recs.get(*k).is_some_and(OpRec::waits)).collect()
    }
}
