//! Portals, match entries and their MDs (docs/protocol/lnet.md §4).

use std::collections::{HashMap, VecDeque};

use smallvec::SmallVec;

use super::remote::Waiter;
use super::{DropWhy, GetGrant, MatchReq, PutGrant, Verdict};
use crate::lnd::{AppId, Data, LnetError, Payload, Sink};
use crate::lnet::api::{Event, GetEvent, MdMem, MdSpec, MeId, OpRefused, PutEvent};
use crate::stream::ShardId;
use crate::stream::slab::{Key, Slab};
use crate::wire::nid::PID_ANY;
use crate::wire::{LnetBody, LnetHdr, ProcessId, lnet};

/// Memory of an MD; a copying sink is absent while a message is stored in it.
#[derive(Debug)]
enum Mem {
    Source(Payload),
    Sink(Option<Sink>),
}

#[derive(Debug)]
struct Me {
    app: AppId,
    tag: u64,
    portal: u32,
    who: ProcessId,
    bits: u64,
    ignore: u64,
    mem: Mem,
    len: u32,
    threshold: Option<u32>,
    max_size: Option<u32>,
    manage_remote: bool,
    truncate: bool,
    ack_disable: bool,
    /// Offset of the next operation, used where the initiator's does not count.
    offset: u32,
    in_flight: u32,
    /// Out of its portal; goes when nothing is in flight.
    dying: bool,
    waiters: VecDeque<Waiter>,
}

/// Whether a portal's entries name one sender and bits each, or patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unique,
    Wildcard,
}

#[derive(Debug, Default)]
struct Portal {
    kind: Option<Kind>,
    /// Entries with ignore bits, in the order they came.
    ignoring: VecDeque<Key>,
    /// The others by their bits, each list in the order they came.
    exact: HashMap<u64, SmallVec<[Key; 2]>>,
    entries: usize,
}

/// The outcome of testing one entry.
enum Test {
    Skip,
    Busy,
    Drop(DropWhy),
    Take { offset: u32, mlength: u32 },
}

impl Me {
    fn exhausted(&self) -> bool {
        self.threshold == Some(0)
            || self.max_size.is_some_and(|m| !self.manage_remote && self.offset.saturating_add(m) > self.len)
    }

    /// Steps 1 to 7 of lnet.md §4.
    fn test(&self, hdr: &LnetHdr, bits: u64, msg_offset: u32, rlength: u32) -> Test {
        let is_put = matches!(hdr.body, LnetBody::Put { .. });
        if self.dying
            || self.exhausted()
            || is_put != matches!(self.mem, Mem::Sink(_))
            || (self.bits ^ bits) & !self.ignore != 0
            || (self.who.pid != PID_ANY && self.who.pid != hdr.src_pid)
            || (!self.who.nid.is_any() && self.who.nid != hdr.src_nid)
        {
            return Test::Skip;
        }
        if matches!(self.mem, Mem::Sink(None)) {
            return Test::Busy;
        }
        let offset = if self.manage_remote { msg_offset } else { self.offset };
        let Some(left) = self.len.checked_sub(offset) else {
            return Test::Drop(DropWhy::BadOffset);
        };
        let room = self.max_size.map_or(left, |m| m.min(left));
        if rlength <= room {
            Test::Take { offset, mlength: rlength }
        } else if self.truncate {
            Test::Take { offset, mlength: room }
        } else {
            Test::Drop(DropWhy::TooLong)
        }
    }
}

/// The portals that this shard owns.
#[derive(Debug)]
pub(crate) struct Portals {
    me: ShardId,
    portals: Vec<Portal>,
    entries: Slab<Me>,
}

impl Portals {
    pub(crate) fn new(me: ShardId) -> Portals {
        let portals = (0..lnet::PORTALS).map(|_| Portal::default()).collect();
        Portals { me, portals, entries: Slab::new() }
    }

    /// Attaches an entry at the end of its list.
    pub(crate) fn attach(
        &mut self,
        (app, tag): (AppId, u64),
        portal: u32,
        who: ProcessId,
        (bits, ignore): (u64, u64),
        md: MdSpec,
    ) -> Result<MeId, OpRefused> {
        let p = self.portals.get_mut(portal as usize).ok_or(OpRefused::Portal(portal))?;
        let unique = ignore == 0 && !who.nid.is_any() && who.pid != PID_ANY;
        let kind = if unique { Kind::Unique } else { Kind::Wildcard };
        if *p.kind.get_or_insert(kind) != kind {
            return Err(OpRefused::PortalKind(portal));
        }
        let len = match &md.mem {
            MdMem::Source(p) => p.len(),
            MdMem::Sink(s) => u64::from(s.len()),
        };
        let len = u32::try_from(len).map_err(|_| OpRefused::TooLong(len))?;
        let mem = match md.mem {
            MdMem::Source(p) => Mem::Source(p),
            MdMem::Sink(s) => Mem::Sink(Some(s)),
        };
        let key = self.entries.insert(Me {
            app,
            tag,
            portal,
            who,
            bits,
            ignore,
            mem,
            len,
            threshold: md.threshold,
            max_size: md.max_size,
            manage_remote: md.manage_remote,
            truncate: md.truncate,
            ack_disable: md.ack_disable,
            offset: 0,
            in_flight: 0,
            dying: false,
            waiters: VecDeque::new(),
        });
        if ignore != 0 {
            p.ignoring.push_back(key);
        } else {
            p.exact.entry(bits).or_default().push(key);
        }
        p.entries += 1;
        Ok(MeId(key.word()))
    }

    /// Looks for an entry: those with ignore bits first, then those with exact bits, each FIFO.
    pub(crate) fn find(&mut self, req: MatchReq) -> Verdict {
        let (portal, bits, msg_offset, rlength) = match req.hdr.body {
            LnetBody::Put { portal, match_bits, offset, .. } => {
                (portal, match_bits, offset, req.hdr.payload_len)
            }
            LnetBody::Get { portal, match_bits, src_offset, sink_length, .. } => {
                (portal, match_bits, src_offset, sink_length)
            }
            _ => return Verdict::Drop(DropWhy::NoMatch),
        };
        let Some(p) = self.portals.get(portal as usize) else {
            return Verdict::Drop(DropWhy::NoMatch);
        };
        let exact = p.exact.get(&bits).into_iter().flatten();
        let mut found = None;
        for key in p.ignoring.iter().chain(exact) {
            let Some(me) = self.entries.get(*key) else { continue };
            match me.test(&req.hdr, bits, msg_offset, rlength) {
                Test::Skip => {}
                Test::Busy => return Verdict::Busy(*key),
                Test::Drop(why) => return Verdict::Drop(why),
                Test::Take { offset, mlength } => {
                    found = Some((*key, offset, mlength));
                    break;
                }
            }
        }
        match found {
            Some((key, offset, mlength)) => self.grant(key, req, offset, mlength),
            None => Verdict::Drop(DropWhy::NoMatch),
        }
    }

    fn grant(&mut self, key: Key, req: MatchReq, offset: u32, mlength: u32) -> Verdict {
        let Some(me) = self.entries.get_mut(key) else {
            return Verdict::Drop(DropWhy::NoMatch);
        };
        let owner = self.me;
        let verdict = match &mut me.mem {
            Mem::Source(pay) => {
                // A REPLY carries at most the MTU, whatever the sink says.
                let mlength = mlength.min(lnet::MTU);
                let part = pay.slice(offset, mlength);
                Verdict::Get(GetGrant { owner, me: key, req, mlength, offset }, part)
            }
            Mem::Sink(slot) => {
                let sink = match slot {
                    Some(Sink::Lend(n)) => Sink::Lend(*n),
                    Some(Sink::Discard(n)) => Sink::Discard(*n),
                    copy => match copy.take() {
                        Some(sink) => sink,
                        None => return Verdict::Busy(key),
                    },
                };
                let ack = !me.ack_disable;
                Verdict::Put(PutGrant { owner, me: key, app: me.app, req, mlength, offset, ack }, sink)
            }
        };
        // After the last way out: who is told to come back later has used up nothing.
        if let Some(t) = &mut me.threshold {
            *t = t.saturating_sub(1);
        }
        me.offset = offset.saturating_add(mlength);
        me.in_flight += 1;
        if me.exhausted() {
            self.detach(key);
        }
        verdict
    }

    /// Takes an entry out of its portal's lists; it lives on while something is in flight.
    fn detach(&mut self, key: Key) {
        let Some(me) = self.entries.get_mut(key) else { return };
        if std::mem::replace(&mut me.dying, true) {
            return;
        }
        let Some(p) = self.portals.get_mut(me.portal as usize) else { return };
        p.entries = p.entries.saturating_sub(1);
        if me.ignore != 0 {
            p.ignoring.retain(|k| *k != key);
        } else if let Some(list) = p.exact.get_mut(&me.bits) {
            list.retain(|k| *k != key);
            if list.is_empty() {
                p.exact.remove(&me.bits);
            }
        }
        if p.entries == 0 {
            p.kind = None;
        }
    }

    /// Registers a message that waits for the sink of `key`.
    pub(crate) fn wait(&mut self, key: Key, w: Waiter) {
        if let Some(me) = self.entries.get_mut(key) {
            me.waiters.push_back(w);
        }
    }

    /// Ends a PUT: the event, and who waited for the sink.
    pub(crate) fn put_done(
        &mut self,
        grant: &PutGrant,
        sink: Sink,
        status: Result<(), LnetError>,
        data: Data,
    ) -> Option<(AppId, Event, VecDeque<Waiter>)> {
        let me = self.entries.get_mut(grant.me)?;
        me.in_flight = me.in_flight.saturating_sub(1);
        if let Mem::Sink(slot @ None) = &mut me.mem {
            *slot = Some(sink);
        }
        let (app, tag) = (me.app, me.tag);
        let waiters = std::mem::take(&mut me.waiters);
        let unlinked = (me.dying && me.in_flight == 0).then(|| self.bury(grant.me));
        let LnetBody::Put { portal, match_bits, hdr_data, .. } = grant.req.hdr.body else { return None };
        let event = Event::Put(PutEvent {
            tag,
            me: MeId(grant.me.word()),
            status,
            initiator: ProcessId { nid: grant.req.hdr.src_nid, pid: grant.req.hdr.src_pid },
            source: grant.req.hdr.src_nid,
            dest: grant.req.hdr.dest_nid,
            sender: grant.req.sender,
            portal,
            match_bits,
            hdr_data,
            rlength: grant.req.hdr.payload_len,
            mlength: grant.mlength,
            offset: grant.offset,
            data,
            unlinked,
        });
        Some((app, event, waiters))
    }

    /// Ends a GET.
    pub(crate) fn get_done(
        &mut self,
        grant: &GetGrant,
        status: Result<(), LnetError>,
    ) -> Option<(AppId, Event)> {
        let me = self.entries.get_mut(grant.me)?;
        me.in_flight = me.in_flight.saturating_sub(1);
        let (app, tag) = (me.app, me.tag);
        let unlinked = me.dying && me.in_flight == 0;
        if unlinked {
            self.bury(grant.me);
        }
        let LnetBody::Get { portal, match_bits, sink_length, .. } = grant.req.hdr.body else { return None };
        let event = Event::Get(GetEvent {
            tag,
            me: MeId(grant.me.word()),
            status,
            initiator: ProcessId { nid: grant.req.hdr.src_nid, pid: grant.req.hdr.src_pid },
            source: grant.req.hdr.src_nid,
            dest: grant.req.hdr.dest_nid,
            sender: grant.req.sender,
            portal,
            match_bits,
            rlength: sink_length,
            mlength: grant.mlength,
            offset: grant.offset,
            unlinked,
        });
        Some((app, event))
    }

    fn bury(&mut self, key: Key) -> Option<hugepages::PageRunMut> {
        match self.entries.remove(key)?.mem {
            Mem::Sink(Some(Sink::Copy(run))) => Some(run),
            _ => None,
        }
    }

    /// Unlinks an entry; the event comes now, or with the last operation in flight. Waiters find another entry or
    /// none.
    #[allow(clippy::type_complexity)]
    pub(crate) fn unlink(
        &mut self,
        me: MeId,
    ) -> Result<(Option<(AppId, Event)>, VecDeque<Waiter>), OpRefused> {
        let key = Key::from_word(me.0);
        if self.entries.get(key).is_none_or(|m| m.dying) {
            return Err(OpRefused::NoSuchMe(me));
        }
        self.detach(key);
        let Some(entry) = self.entries.get_mut(key) else { return Err(OpRefused::NoSuchMe(me)) };
        let waiters = std::mem::take(&mut entry.waiters);
        if entry.in_flight > 0 {
            return Ok((None, waiters));
        }
        let (app, tag) = (entry.app, entry.tag);
        let sink = self.bury(key);
        Ok((Some((app, Event::Unlink { tag, me, sink })), waiters))
    }

    /// The entries that are still attached.
    pub(crate) fn attached(&self) -> Vec<MeId> {
        let all = (0..self.entries.capacity()).filter_map(|i| self.entries.key_at(i));
        all.filter(|k| self.entries.get(*k).is_some_and(|m| !m.dying)).map(|k| MeId(k.word())).collect()
    }

    /// Entries attached or still in use.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Nid, WireHandle};

    /// An entry whose sink another message has is as it was, however often one is told to wait for it.
    #[test]
    fn busy_takes_nothing() {
        let nid: Nid = "10.0.0.2@tcp".parse().unwrap();
        let body = LnetBody::Put { ack: WireHandle::NONE, match_bits: 7, hdr_data: 0, portal: 5, offset: 0 };
        let hdr = LnetHdr { dest_nid: nid, src_nid: nid, dest_pid: 1, src_pid: 1, payload_len: 10, body };
        let req = MatchReq { hdr, sender: nid };
        let mut p = Portals::new(ShardId(0));
        let page = hugepages::PageRunMut::new(std::sync::Arc::new(hugepages::PrivatePages), 100).unwrap();
        let md =
            MdSpec { threshold: Some(2), manage_remote: false, ..MdSpec::new(MdMem::Sink(Sink::Copy(page))) };
        p.attach((AppId::FIRST, 1), 5, ProcessId::ANY, (7, 0), md).unwrap();
        let Verdict::Put(first, sink) = p.find(req) else { panic!("it matches") };
        let of = |p: &Portals| p.entries.get(first.me).map(|m| (m.threshold, m.offset, m.in_flight));
        assert_eq!(of(&p), Some((Some(1), 10, 1)));
        for _ in 0..3 {
            assert!(matches!(p.find(req), Verdict::Busy(_)));
            assert!(matches!(p.grant(first.me, req, 10, 10), Verdict::Busy(_)));
            assert_eq!(of(&p), Some((Some(1), 10, 1)));
        }
        p.put_done(&first, sink, Ok(()), Data::Discarded).unwrap();
        assert!(matches!(p.find(req), Verdict::Put(PutGrant { offset: 10, .. }, _)), "the second of two");
        assert!(matches!(p.find(req), Verdict::Drop(DropWhy::NoMatch)), "and there is no third");
    }
}
