//! Portals beside a model of docs/protocol/lnet.md §4 that was written from there: every kind of entry and message, and
//! random lives of entries.
//!
//! The model keeps lists and walks them. Two lines of it are not the document's, whose kernels are unsafe there: an
//! offset beyond the MD drops the message, and room ends where the MD does.

use proptest::prelude::*;

use super::aliases::Aliases;
use super::api::{Event, MdMem, MdSpec, MeId, OpRefused};
use super::events::Events;
use super::held::WaitOn;
use super::portal::Portals;
use super::remote::{Waiter, Who};
use super::{DropWhy, MatchReq, Verdict};
use crate::lnd::{AppId, Data, NiId, Payload, Sink, Ticket};
use crate::stream::{Bucket, ConnId, ShardId};
use crate::wire::{LnetBody, LnetHdr, Nid, ProcessId, WireHandle};

/// NIDs of initiators. The last two are one peer's, whose primary NID is the first of them.
const NIDS: [[u8; 4]; 4] = [[10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 1, 3], [10, 0, 2, 3]];
const PIDS: [u32; 2] = [12345, 7];
const PORTAL: u32 = 5;

fn nid(n: usize) -> Nid {
    Nid::tcp(NIDS[n].into(), 0)
}

/// An entry as an application describes it.
#[derive(Clone, Debug)]
struct Spec {
    nid: Option<usize>,
    pid: Option<usize>,
    bits: u64,
    ignore: u64,
    put: bool,
    length: u32,
    threshold: Option<u32>,
    max_size: Option<u32>,
    manage_remote: bool,
    truncate: bool,
}

/// A message.
#[derive(Clone, Debug)]
struct Asks {
    put: bool,
    portal: u32,
    nid: usize,
    pid: usize,
    bits: u64,
    offset: u32,
    rlength: u32,
}

#[derive(Clone, Debug)]
struct ModelEntry {
    id: u64,
    spec: Spec,
    threshold: Option<u32>,
    offset: u32,
}

/// An entry's verdict on a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Skip,
    Drop(DropWhy),
    Take { offset: u32, mlength: u32 },
}

/// A portal's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Take { id: u64, offset: u32, mlength: u32, last: bool },
    Drop(DropWhy),
    Held,
}

impl ModelEntry {
    fn exhausted(&self) -> bool {
        let full = |m: u32| u64::from(self.offset) + u64::from(m) > u64::from(self.spec.length);
        self.threshold == Some(0) || self.spec.max_size.is_some_and(full)
    }

    fn test(&self, a: &Asks) -> Says {
        let s = &self.spec;
        let of_peer = |n: usize| if n == 3 { 2 } else { n };
        // 1.
        if self.exhausted() {
            return Says::Skip;
        }
        // 2.
        if s.put != a.put {
            return Says::Skip;
        }
        // 3.
        if (s.bits ^ a.bits) & !s.ignore != 0 {
            return Says::Skip;
        }
        // 4.
        if s.pid.is_some_and(|p| p != a.pid) {
            return Says::Skip;
        }
        // 5.
        if s.nid.is_some_and(|n| of_peer(n) != of_peer(a.nid)) {
            return Says::Skip;
        }
        // 6.
        let offset = if s.manage_remote { a.offset } else { self.offset };
        if offset > s.length {
            return Says::Drop(DropWhy::BadOffset);
        }
        let left = s.length - offset;
        let room = match s.max_size {
            Some(m) if m < left => m,
            _ => left,
        };
        // 7.
        if a.rlength <= room {
            Says::Take { offset, mlength: a.rlength }
        } else if s.truncate {
            Says::Take { offset, mlength: room }
        } else {
            Says::Drop(DropWhy::TooLong)
        }
    }
}

#[derive(Default)]
struct Model {
    unique: Option<bool>,
    lazy: bool,
    entries: Vec<ModelEntry>,
    held: Vec<(u32, Asks)>,
}

impl Model {
    /// The messages that an entry takes or drops as it comes; `None` is EPERM.
    fn attach(&mut self, id: u64, spec: &Spec) -> Option<Vec<(u32, Outcome)>> {
        let unique = spec.ignore == 0 && spec.nid.is_some() && spec.pid.is_some();
        if *self.unique.get_or_insert(unique) != unique {
            return None;
        }
        let threshold = spec.threshold;
        self.entries.push(ModelEntry { id, spec: spec.clone(), threshold, offset: 0 });
        let (mut out, mut held) = (Vec::new(), Vec::new());
        for (name, asks) in std::mem::take(&mut self.held) {
            let at = self.entries.iter().position(|e| e.id == id);
            match at.map_or(Says::Skip, |i| self.entries[i].test(&asks)) {
                Says::Skip => held.push((name, asks)),
                Says::Drop(why) => out.push((name, Outcome::Drop(why))),
                Says::Take { offset, mlength } => {
                    out.push((name, self.take(at.unwrap(), offset, mlength)));
                }
            }
        }
        self.held = held;
        Some(out)
    }

    /// Step 8.
    fn take(&mut self, at: usize, offset: u32, mlength: u32) -> Outcome {
        let e = &mut self.entries[at];
        e.threshold = e.threshold.map(|t| t - 1);
        e.offset = offset + mlength;
        let (id, last) = (e.id, e.exhausted());
        if last {
            self.entries.remove(at);
        }
        Outcome::Take { id, offset, mlength, last }
    }

    fn find(&mut self, name: u32, a: &Asks) -> Outcome {
        if a.portal != PORTAL {
            return Outcome::Drop(DropWhy::NoMatch);
        }
        let ignoring = (0..self.entries.len()).filter(|i| self.entries[*i].spec.ignore != 0);
        let exact = (0..self.entries.len()).filter(|i| self.entries[*i].spec.ignore == 0);
        for at in ignoring.chain(exact).collect::<Vec<_>>() {
            match self.entries[at].test(a) {
                Says::Skip => {}
                Says::Drop(why) => return Outcome::Drop(why),
                Says::Take { offset, mlength } => return self.take(at, offset, mlength),
            }
        }
        if self.lazy && a.put {
            self.held.push((name, a.clone()));
            return Outcome::Held;
        }
        Outcome::Drop(DropWhy::NoMatch)
    }
}

/// The portals, with the names that the model has for entries.
struct Real {
    portals: Portals,
    aliases: Aliases,
    names: Vec<(MeId, u64)>,
    /// Grants that are not done.
    out: Vec<(Verdict, u64, MatchReq)>,
}

impl Real {
    fn new() -> Real {
        let (portals, mut aliases) = (Portals::new(ShardId(0)), Aliases::default());
        aliases.learn(NIDS[2].into(), NIDS[2].into(), &[nid(2), nid(3)]);
        Real { portals, aliases, names: Vec::new(), out: Vec::new() }
    }

    fn request(a: &Asks) -> MatchReq {
        let handle = WireHandle::NONE;
        let (portal, match_bits) = (a.portal, a.bits);
        let body = if a.put {
            LnetBody::Put { ack: handle, match_bits, hdr_data: 0, portal, offset: a.offset }
        } else {
            LnetBody::Get { handle, match_bits, portal, src_offset: a.offset, sink_length: a.rlength }
        };
        let payload_len = if a.put { a.rlength } else { 0 };
        let (src_nid, src_pid) = (nid(a.nid), PIDS[a.pid]);
        let hdr = LnetHdr { dest_nid: nid(0), src_nid, dest_pid: 12345, src_pid, payload_len, body };
        MatchReq { hdr, sender: nid(0) }
    }

    fn ticket(name: u32) -> Ticket {
        let conn = ConnId { shard: ShardId(0), index: name, generation: 0 };
        Ticket { ni: NiId(0), conn, bucket: Bucket(0), serial: 1 }
    }

    fn attach(&mut self, id: u64, spec: &Spec) -> Option<Vec<(u32, Outcome)>> {
        let mem = if spec.put {
            MdMem::Sink(Sink::Discard(spec.length))
        } else {
            let run = hugepages::PageRunMut::new(std::sync::Arc::new(hugepages::PrivatePages), 64).unwrap();
            MdMem::Source(
                Payload::Pages([run.freeze().slice_all()].into_iter().collect()).slice(0, spec.length),
            )
        };
        let (threshold, max_size) = (spec.threshold, spec.max_size);
        let (manage_remote, truncate) = (spec.manage_remote, spec.truncate);
        let md = MdSpec { threshold, max_size, manage_remote, truncate, ..MdSpec::new(mem) };
        let who = ProcessId {
            nid: spec.nid.map_or(Nid::ANY, nid),
            pid: spec.pid.map_or(ProcessId::ANY.pid, |p| PIDS[p]),
        };
        let me = match self.portals.attach((AppId::FIRST, id), PORTAL, who, (spec.bits, spec.ignore), md) {
            Ok(me) => me,
            Err(OpRefused::PortalKind(PORTAL)) => return None,
            Err(e) => panic!("{e}"),
        };
        self.names.push((me, id));
        let found = self.portals.matches_now(PORTAL, me, &self.aliases);
        let name = |w: &Waiter| match w.who {
            Who::Conn(ticket) => ticket.conn.index,
            Who::Own(_) => panic!("none of ours"),
        };
        Some(found.into_iter().map(|(w, v)| (name(&w), self.outcome(w.req, v))).collect())
    }

    fn outcome(&mut self, req: MatchReq, verdict: Verdict) -> Outcome {
        let (me, offset, mlength) = match &verdict {
            Verdict::Put(g, _) => (g.me, g.offset, g.mlength),
            Verdict::Get(g, payload) => {
                assert_eq!(payload.len(), u64::from(g.mlength));
                (g.me, g.offset, g.mlength)
            }
            Verdict::Drop(why) => return Outcome::Drop(*why),
            Verdict::Wait(_) => return Outcome::Held,
        };
        let id = self.names.iter().find(|(m, _)| m.0 == me.word()).unwrap().1;
        let last = !self.portals.attached().contains(&MeId(me.word()));
        self.out.push((verdict, id, req));
        Outcome::Take { id, offset, mlength, last }
    }

    fn find(&mut self, name: u32, a: &Asks) -> Outcome {
        let req = Real::request(a);
        let verdict = self.portals.find(&req.hdr, req.sender, &self.aliases);
        if let Verdict::Wait(on) = verdict {
            assert_eq!(on, WaitOn::Portal(PORTAL));
            self.portals.wait(on, Waiter { who: Who::Conn(Real::ticket(name)), req });
        }
        self.outcome(req, verdict)
    }

    /// Ends an operation: its event tells all of it, and the entry ends with its last one.
    fn complete(&mut self, at: usize) {
        let (verdict, id, req) = self.out.remove(at);
        // An entry out of its portal ends with the last that is in flight.
        let still = self.out.iter().any(|(_, other, _)| *other == id);
        let gone = |me: MeId, p: &Portals| !still && !p.attached().contains(&me);
        let primary = |n: Nid| if n == nid(3) { nid(2) } else { n };
        match verdict {
            Verdict::Put(g, sink) => {
                let ends = gone(MeId(g.me.word()), &self.portals);
                let (h, mut events) = (req.hdr, Events::default());
                let stored = (sink, Data::Discarded);
                let waiters = self.portals.put_done((&g, &h), stored, Ok(()), &self.aliases, &mut events);
                assert!(waiters.unwrap().is_empty());
                let Some((_, Event::Put(e))) = events.pop() else { panic!() };
                assert_eq!((e.tag, e.unlinked.is_some(), e.status), (id, ends, Ok(())));
                assert_eq!((e.initiator.nid, e.source, e.dest), (primary(h.src_nid), h.src_nid, h.dest_nid));
                assert_eq!((e.initiator.pid, e.sender, e.portal), (h.src_pid, nid(0), PORTAL));
                assert_eq!((e.rlength, e.mlength, e.offset), (h.payload_len, g.mlength, g.offset));
            }
            Verdict::Get(g, _) => {
                let ends = gone(MeId(g.me.word()), &self.portals);
                let Some((_, Event::Get(e))) = self.portals.get_done(&g, Ok(()), &self.aliases) else {
                    panic!()
                };
                let h = req.hdr;
                assert_eq!((e.tag, e.unlinked, e.status), (id, ends, Ok(())));
                assert_eq!((e.initiator.nid, e.source, e.dest), (primary(h.src_nid), h.src_nid, h.dest_nid));
                assert_eq!((e.initiator.pid, e.sender, e.portal), (h.src_pid, nid(0), PORTAL));
                assert_eq!((e.mlength, e.offset), (g.mlength, g.offset));
            }
            Verdict::Drop(_) | Verdict::Wait(_) => unreachable!(),
        }
    }
}

/// One entry, and the same message three times: all kinds of both, at and around every bound.
#[test]
fn every_kind_of_entry_meets_every_kind_of_message() {
    let mut met = 0;
    for kind in 0..32u32 {
        let [put, manage_remote, truncate, sends, unlike] = [0, 1, 2, 3, 4].map(|b| kind >> b & 1 != 0);
        for (length, max_size) in [
            (0, None),
            (0, Some(0)),
            (10, None),
            (10, Some(0)),
            (10, Some(4)),
            (10, Some(10)),
            (10, Some(11)),
        ] {
            for threshold in [None, Some(0), Some(1), Some(2)] {
                for offset in [0, 1, 6, 10, 11, u32::MAX] {
                    for rlength in [0, 1, 4, 5, 9, 10, 11, 1 << 20] {
                        let (bits, ignore) = (6, if unlike { 1 } else { 0 });
                        let (nid, pid) = (None, None);
                        let spec = Spec {
                            nid,
                            pid,
                            bits,
                            ignore,
                            put,
                            length,
                            threshold,
                            max_size,
                            manage_remote,
                            truncate,
                        };
                        let asks =
                            Asks { put: sends, portal: PORTAL, nid: 0, pid: 0, bits: 7, offset, rlength };
                        let asks = if unlike { asks } else { Asks { bits: 6, ..asks } };
                        let (mut model, mut real) = (Model::default(), Real::new());
                        assert_eq!(real.attach(1, &spec), model.attach(1, &spec));
                        for name in 0..3 {
                            let want = model.find(name, &asks);
                            assert_eq!(real.find(name, &asks), want, "{spec:?} {asks:?}, time {name}");
                            met += usize::from(matches!(want, Outcome::Take { .. }));
                        }
                        (0..real.out.len()).for_each(|_| real.complete(0));
                    }
                }
            }
        }
    }
    assert!(met > 10_000, "{met}");
}

#[derive(Clone, Debug)]
enum Step {
    Attach(Spec),
    Message(Asks),
    Unlink(usize),
    Complete(usize),
    Lazy(bool),
    /// The connection of a message that waits ends.
    End(usize),
}

fn spec() -> impl Strategy<Value = Spec> {
    let some = |most: u32| prop_oneof![Just(None), (0..most).prop_map(Some)];
    // Mostly of one kind, so that most are let in.
    let who = prop_oneof![
        4 => (0..4usize, 0..2usize).prop_map(|(n, p)| (Some(n), Some(p))),
        1 => Just((None, None)),
        1 => (0..4usize).prop_map(|n| (Some(n), None)),
        1 => (0..2usize).prop_map(|p| (None, Some(p))),
    ];
    let ignore = prop_oneof![3 => Just(0u64), 1 => 1..4u64];
    (who, 0..4u64, ignore, any::<[bool; 3]>(), 0..12u32, some(3), some(8)).prop_map(
        |((nid, pid), bits, ignore, [put, manage_remote, truncate], length, threshold, max_size)| Spec {
            nid,
            pid,
            bits,
            ignore,
            put,
            length,
            threshold,
            max_size,
            manage_remote,
            truncate,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let portal = prop_oneof![20 => Just(PORTAL), 1 => Just(6), 1 => Just(64), 1 => Just(u32::MAX)];
    let asks = (any::<bool>(), portal, 0..4usize, 0..2usize, 0..4u64, 0..14u32, 0..14u32).prop_map(
        |(put, portal, nid, pid, bits, offset, rlength)| Asks {
            put,
            portal,
            nid,
            pid,
            bits,
            offset,
            rlength,
        },
    );
    prop_oneof![
        6 => spec().prop_map(Step::Attach),
        8 => asks.prop_map(Step::Message),
        2 => (0..8usize).prop_map(Step::Unlink),
        4 => (0..8usize).prop_map(Step::Complete),
        1 => any::<bool>().prop_map(Step::Lazy),
        1 => (0..8usize).prop_map(Step::End),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn entries_live_as_the_document_has_it(steps in prop::collection::vec(step(), 1..120)) {
        let (mut model, mut real) = (Model::default(), Real::new());
        for (n, step) in steps.iter().enumerate() {
            match step {
                Step::Attach(spec) => {
                    // Which of several was the last is told by what is left.
                    let each = |o: Outcome| match o {
                        Outcome::Take { id, offset, mlength, .. } => (Some((id, offset, mlength)), None),
                        other => (None, Some(other)),
                    };
                    let all = |v: Vec<(u32, Outcome)>| v.into_iter().map(|(n, o)| (n, each(o))).collect();
                    let (ours, its) = (real.attach(n as u64, spec), model.attach(n as u64, spec));
                    let ours: Option<Vec<_>> = ours.map(all);
                    prop_assert_eq!(ours, its.map(all));
                }
                Step::Message(asks) => {
                    prop_assert_eq!(real.find(n as u32, asks), model.find(n as u32, asks));
                }
                Step::Unlink(i) if *i < model.entries.len() => {
                    let id = model.entries.remove(*i).id;
                    let me = real.names.iter().find(|(_, name)| *name == id).unwrap().0;
                    let (event, waiters) = real.portals.unlink(me).unwrap();
                    prop_assert!(waiters.is_empty());
                    // The event comes now, or with what is in flight.
                    let now = !real.out.iter().any(|(_, other, _)| *other == id);
                    prop_assert_eq!(event.is_some(), now);
                    prop_assert!(real.portals.unlink(me).is_err(), "twice");
                }
                Step::Complete(i) if *i < real.out.len() => real.complete(*i),
                Step::Lazy(on) => {
                    model.lazy = *on;
                    let dropped = real.portals.lazy(PORTAL, *on).unwrap();
                    let held = if *on { Vec::new() } else { std::mem::take(&mut model.held) };
                    prop_assert_eq!(dropped.len(), held.len());
                }
                Step::End(i) if *i < model.held.len() => {
                    let (name, _) = model.held.remove(*i);
                    let other = Ticket { serial: 2, ..Real::ticket(name) };
                    real.portals.forget(&other);
                    prop_assert_eq!(real.portals.waiting(), model.held.len() + 1, "another message");
                    real.portals.forget(&Real::ticket(name));
                }
                Step::Unlink(_) | Step::Complete(_) | Step::End(_) => {}
            }
            prop_assert_eq!(real.portals.attached().len(), model.entries.len());
            prop_assert_eq!(real.portals.waiting(), model.held.len());
        }
        while !real.out.is_empty() {
            real.complete(0);
        }
        prop_assert_eq!(real.portals.len(), model.entries.len(), "ended entries are gone");
    }
}
