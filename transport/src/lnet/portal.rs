//! Portals, match entries and their MDs (docs/protocol/lnet.md §4).

use std::collections::VecDeque;

use super::aliases::Aliases;
use super::entry::{Me, Mem, Test, Wanted};
use super::events::Events;
use super::held::{WaitOn, Waiting};
use super::index::{Exact, Linked, List};
use super::remote::Waiter;
use super::{Asked, DropWhy, GetGrant, PutGrant, Verdict};
use crate::lnd::{AppId, Data, LnetError, Sink, Ticket};
use crate::lnet::api::{Event, GetEvent, MdMem, MdSpec, MeId, OpRefused, PutEvent};
use crate::stream::ShardId;
use crate::stream::slab::{Key, Slab};
use crate::wire::nid::PID_ANY;
use crate::wire::{LnetBody, LnetHdr, Nid, ProcessId, lnet};

/// Whether a portal's entries name one sender and bits each, or patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unique,
    Wildcard,
}

#[derive(Debug, Default)]
struct Portal {
    /// As its first entry had it.
    kind: Option<Kind>,
    /// Entries with ignore bits. The others are in [`Portals::exact`].
    ignoring: List,
    /// PUTs that nothing matches wait.
    lazy: bool,
    waiters: VecDeque<Key>,
}

/// The portals that this shard owns.
#[derive(Debug)]
pub(crate) struct Portals {
    me: ShardId,
    portals: Vec<Portal>,
    entries: Slab<Me>,
    exact: Exact,
    waiting: Waiting,
}

/// Request of a message; `None` for one that asks for no entry.
#[inline]
fn wanted(hdr: &LnetHdr) -> Option<Wanted> {
    match hdr.body {
        LnetBody::Put { portal, match_bits: bits, offset, .. } => {
            Some(Wanted { put: true, portal, bits, offset, rlength: hdr.payload_len })
        }
        LnetBody::Get { portal, match_bits: bits, src_offset: offset, sink_length: rlength, .. } => {
            Some(Wanted { put: false, portal, bits, offset, rlength })
        }
        _ => None,
    }
}

impl Portals {
    pub(crate) fn new(me: ShardId) -> Portals {
        let portals = (0..lnet::PORTALS).map(|_| Portal::default()).collect();
        let (entries, exact, waiting) = (Slab::new(), Exact::new(), Waiting::new());
        Portals { me, portals, entries, exact, waiting }
    }

    /// Attaches an entry behind the others of its kind. What has waited for it is to be looked for by
    /// [`Portals::matches_now`].
    pub(crate) fn attach(
        &mut self,
        at: (AppId, u64),
        portal: u32,
        who: ProcessId,
        (bits, ignore): (u64, u64),
        md: MdSpec,
    ) -> Result<MeId, OpRefused> {
        let p = self.portals.get_mut(portal as usize).ok_or(OpRefused::Portal(portal))?;
        let unique = ignore == 0 && !who.nid.is_any() && who.pid != PID_ANY;
        let kind = if unique { Kind::Unique } else { Kind::Wildcard };
        if p.kind.is_some_and(|k| k != kind) {
            return Err(OpRefused::PortalKind(portal));
        }
        let len = match &md.mem {
            MdMem::Source(p) => p.len(),
            MdMem::Sink(s) => u64::from(s.len()),
        };
        let len = u32::try_from(len).map_err(|_| OpRefused::TooLong(len))?;
        p.kind = Some(kind);
        let key = self.entries.insert(Me::new(at, portal, who, (bits, ignore), len, md));
        if ignore != 0 {
            p.ignoring.push(&mut self.entries, key);
        } else {
            self.exact.push(&mut self.entries, key);
        }
        Ok(MeId(key.word()))
    }

    /// The messages that have waited on a lazy portal for an entry that has just been attached, with what becomes of each;
    /// those that it does not match wait on.
    pub(crate) fn matches_now(&mut self, portal: u32, me: MeId, aliases: &Aliases) -> Vec<(Waiter, Verdict)> {
        let key = Key::from_word(me.0);
        let Some(p) = self.portals.get_mut(portal as usize).filter(|p| !p.waiters.is_empty()) else {
            return Vec::new();
        };
        let (list, mut verdicts) = (std::mem::take(&mut p.waiters), Vec::new());
        for waiter in &list {
            let Some(w) = self.waiting.get(*waiter) else { continue };
            let req = w.req;
            let Some((me, asked)) = self.entries.get(key).zip(wanted(&req.hdr)) else { break };
            let verdict = match me.test(&req.hdr, &asked, aliases) {
                Test::Skip if me.dying => break,
                Test::Skip => continue,
                Test::Busy => Verdict::Wait(WaitOn::Entry(key)),
                Test::Drop(why) => Verdict::Drop(why),
                Test::Take { offset, mlength } => self.grant(key, (&req.hdr, req.sender), offset, mlength),
            };
            let Some(w) = self.waiting.take(*waiter) else { continue };
            match verdict {
                Verdict::Wait(on) => self.wait(on, w),
                verdict => verdicts.push((w, verdict)),
            }
        }
        if let Some(p) = self.portals.get_mut(portal as usize) {
            p.waiters = list;
            p.waiters.retain(|k| self.waiting.get(*k).is_some());
        }
        verdicts
    }

    /// Makes a portal lazy, or ends that; gives the messages that have waited and are to be dropped.
    pub(crate) fn lazy(&mut self, portal: u32, on: bool) -> Result<Vec<Waiter>, OpRefused> {
        let p = self.portals.get_mut(portal as usize).ok_or(OpRefused::Portal(portal))?;
        p.lazy = on;
        let list = if on { VecDeque::new() } else { std::mem::take(&mut p.waiters) };
        Ok(self.waiting.take_all(list))
    }

    /// Looks for an entry: those with ignore bits first, then those with exact bits, each FIFO.
    pub(crate) fn find(&mut self, hdr: &LnetHdr, sender: Nid, aliases: &Aliases) -> Verdict {
        let Some(asked) = wanted(hdr) else { return Verdict::Drop(DropWhy::NoMatch) };
        let Some(p) = self.portals.get(asked.portal as usize) else {
            return Verdict::Drop(DropWhy::NoMatch);
        };
        let lists = [p.ignoring.first(), self.exact.first(asked.portal, asked.bits)];
        for mut key in lists {
            while let Some(me) = self.entries.get(key) {
                match me.test(hdr, &asked, aliases) {
                    Test::Skip => key = me.next(),
                    Test::Busy => return Verdict::Wait(WaitOn::Entry(key)),
                    Test::Drop(why) => return Verdict::Drop(why),
                    Test::Take { offset, mlength } => {
                        return self.grant(key, (hdr, sender), offset, mlength);
                    }
                }
            }
        }
        if p.lazy && asked.put {
            return Verdict::Wait(WaitOn::Portal(asked.portal));
        }
        Verdict::Drop(DropWhy::NoMatch)
    }

    fn grant(&mut self, key: Key, (hdr, sender): (&LnetHdr, Nid), offset: u32, mlength: u32) -> Verdict {
        let Some(me) = self.entries.get_mut(key) else {
            return Verdict::Drop(DropWhy::NoMatch);
        };
        let mlength = match &me.mem {
            Mem::Sink(None) => return Verdict::Wait(WaitOn::Entry(key)),
            Mem::Sink(_) => mlength,
            // A REPLY carries at most the MTU, whatever the sink says.
            Mem::Source(_) => mlength.min(lnet::MTU),
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
        self.granted(key, (hdr, sender), offset, mlength)
    }

    /// The leave itself, built where it is returned.
    #[inline]
    fn granted(&mut self, key: Key, (hdr, sender): (&LnetHdr, Nid), offset: u32, mlength: u32) -> Verdict {
        let owner = self.me;
        match self.entries.get_mut(key).map(|me| (&mut me.mem, me.app, !me.ack_disable)) {
            Some((Mem::Source(pay), ..)) => Verdict::Get(
                GetGrant { owner, me: key, asked: asked(hdr, sender), mlength, offset },
                pay.slice(offset, mlength),
            ),
            Some((Mem::Sink(slot), app, ack)) => {
                let grant = PutGrant { owner, me: key, app, sender, mlength, offset, ack };
                match slot {
                    Some(Sink::Lend(n)) => Verdict::Put(grant, Sink::Lend(*n)),
                    Some(Sink::Discard(n)) => Verdict::Put(grant, Sink::Discard(*n)),
                    copy => match copy.take() {
                        Some(sink) => Verdict::Put(grant, sink),
                        None => Verdict::Wait(WaitOn::Entry(key)),
                    },
                }
            }
            None => Verdict::Drop(DropWhy::NoMatch),
        }
    }

    /// Takes an entry out of its portal's lists; it lives on while something is in flight.
    fn detach(&mut self, key: Key) {
        let Some(me) = self.entries.get_mut(key) else { return };
        if std::mem::replace(&mut me.dying, true) {
            return;
        }
        let ignoring = me.ignore != 0;
        let Some(p) = self.portals.get_mut(me.portal as usize) else { return };
        if ignoring {
            p.ignoring.remove(&mut self.entries, key);
        } else {
            self.exact.remove(&mut self.entries, key);
        }
    }

    /// Registers a message that waits.
    pub(crate) fn wait(&mut self, on: WaitOn, w: Waiter) {
        let list = match on {
            WaitOn::Entry(key) => self.entries.get_mut(key).map(|me| &mut me.waiters),
            WaitOn::Portal(portal) => self.portals.get_mut(portal as usize).map(|p| &mut p.waiters),
        };
        if let Some(list) = list {
            self.waiting.add(list, w);
        }
    }

    /// A message waits no longer: its connection has ended.
    pub(crate) fn forget(&mut self, ticket: &Ticket) {
        self.waiting.forget(ticket);
    }

    /// No message of this node to itself waits any longer.
    pub(crate) fn forget_own(&mut self) {
        self.waiting.forget_own();
    }

    /// Messages that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Ends a PUT: its event goes to `events`; gives who waited for the sink.
    pub(crate) fn put_done(
        &mut self,
        (grant, hdr): (&PutGrant, &LnetHdr),
        (sink, data): (Sink, Data),
        status: Result<(), LnetError>,
        aliases: &Aliases,
        events: &mut Events,
    ) -> Option<Vec<Waiter>> {
        let me = self.entries.get_mut(grant.me)?;
        me.in_flight = me.in_flight.saturating_sub(1);
        if let Mem::Sink(slot @ None) = &mut me.mem {
            *slot = Some(sink);
        }
        let (app, tag) = (me.app, me.tag);
        let waiters = if me.waiters.is_empty() { None } else { Some(std::mem::take(&mut me.waiters)) };
        let unlinked = (me.dying && me.in_flight == 0).then(|| self.bury(grant.me));
        let waiters = waiters.map(|w| self.waiting.take_all(w)).unwrap_or_default();
        let LnetBody::Put { portal, match_bits, hdr_data, .. } = hdr.body else { return None };
        let event = Event::Put(PutEvent {
            tag,
            me: MeId(grant.me.word()),
            status,
            initiator: ProcessId { nid: aliases.primary(hdr.src_nid), pid: hdr.src_pid },
            source: hdr.src_nid,
            dest: hdr.dest_nid,
            sender: grant.sender,
            portal,
            match_bits,
            hdr_data,
            rlength: hdr.payload_len,
            mlength: grant.mlength,
            offset: grant.offset,
            data,
            unlinked,
        });
        events.push_other(app, event);
        Some(waiters)
    }

    /// Ends a GET.
    pub(crate) fn get_done(
        &mut self,
        grant: &GetGrant,
        status: Result<(), LnetError>,
        aliases: &Aliases,
    ) -> Option<(AppId, Event)> {
        let me = self.entries.get_mut(grant.me)?;
        me.in_flight = me.in_flight.saturating_sub(1);
        let (app, tag) = (me.app, me.tag);
        let unlinked = me.dying && me.in_flight == 0;
        if unlinked {
            self.bury(grant.me);
        }
        let Asked { source, dest, sender, portal, match_bits, rlength } = grant.asked;
        let event = Event::Get(GetEvent {
            tag,
            me: MeId(grant.me.word()),
            status,
            initiator: ProcessId { nid: aliases.primary(source.nid), pid: source.pid },
            source: source.nid,
            dest,
            sender,
            portal,
            match_bits,
            rlength,
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
    pub(crate) fn unlink(&mut self, me: MeId) -> Result<(Option<(AppId, Event)>, Vec<Waiter>), OpRefused> {
        let key = Key::from_word(me.0);
        if self.entries.get(key).is_none_or(|m| m.dying) {
            return Err(OpRefused::NoSuchMe(me));
        }
        self.detach(key);
        let Some(entry) = self.entries.get_mut(key) else { return Err(OpRefused::NoSuchMe(me)) };
        let (waiters, in_flight) = (std::mem::take(&mut entry.waiters), entry.in_flight > 0);
        let (app, tag) = (entry.app, entry.tag);
        let waiters = self.waiting.take_all(waiters);
        if in_flight {
            return Ok((None, waiters));
        }
        let sink = self.bury(key);
        Ok((Some((app, Event::Unlink { tag, me, sink })), waiters))
    }

    /// The entries that are still attached.
    pub(crate) fn attached(&self) -> Vec<MeId> {
        let all = self.entries.keys();
        all.filter(|k| self.entries.get(*k).is_some_and(|m| !m.dying)).map(|k| MeId(k.word())).collect()
    }

    /// Places for entries, and lists of them.
    #[cfg(feature = "testing")]
    pub(crate) fn places(&self) -> usize {
        self.entries.capacity() + self.exact.lists()
    }

    /// Entries attached or still in use.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// The words of a GET that its event will repeat.
fn asked(hdr: &LnetHdr, sender: Nid) -> Asked {
    let (portal, match_bits, rlength) =
        wanted(hdr).map_or((lnet::PORTALS, 0, 0), |w| (w.portal, w.bits, w.rlength));
    let source = ProcessId { nid: hdr.src_nid, pid: hdr.src_pid };
    Asked { source, dest: hdr.dest_nid, sender, portal, match_bits, rlength }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::WireHandle;

    /// An entry whose sink another message has is as it was, however often one is told to wait for it.
    #[test]
    fn busy_takes_nothing() {
        let nid: Nid = "10.0.0.2@tcp".parse().unwrap();
        let body = LnetBody::Put { ack: WireHandle::NONE, match_bits: 7, hdr_data: 0, portal: 5, offset: 0 };
        let hdr = LnetHdr { dest_nid: nid, src_nid: nid, dest_pid: 1, src_pid: 1, payload_len: 10, body };
        let (mut p, none) = (Portals::new(ShardId(0)), Aliases::default());
        let page = hugepages::PageRunMut::new(std::sync::Arc::new(hugepages::PrivatePages), 100).unwrap();
        let md =
            MdSpec { threshold: Some(2), manage_remote: false, ..MdSpec::new(MdMem::Sink(Sink::Copy(page))) };
        p.attach((AppId::FIRST, 1), 5, ProcessId::ANY, (7, 0), md).unwrap();
        let Verdict::Put(first, sink) = p.find(&hdr, nid, &none) else { panic!("it matches") };
        let of = |p: &Portals| p.entries.get(first.me).map(|m| (m.threshold, m.offset, m.in_flight));
        assert_eq!(of(&p), Some((Some(1), 10, 1)));
        for _ in 0..3 {
            assert!(matches!(p.find(&hdr, nid, &none), Verdict::Wait(_)));
            assert!(matches!(p.grant(first.me, (&hdr, nid), 10, 10), Verdict::Wait(_)));
            assert_eq!(of(&p), Some((Some(1), 10, 1)));
        }
        let mut events = Events::default();
        p.put_done((&first, &hdr), (sink, Data::Discarded), Ok(()), &none, &mut events).unwrap();
        assert!(
            matches!(p.find(&hdr, nid, &none), Verdict::Put(PutGrant { offset: 10, .. }, _)),
            "the second of two"
        );
        assert!(matches!(p.find(&hdr, nid, &none), Verdict::Drop(DropWhy::NoMatch)), "and there is no third");
    }
}
