//! RPCs that a member serves: each is held until its reply has left, and a peer holds no more than what all others leave.

use std::collections::HashMap;

use crate::lnd::AppId;
use crate::lnet::{Op, PutEvent};
use crate::selftest::Ops;
use crate::stream::slab::{Key, Slab};
use crate::wire::srpc::{LnetCounters, Message, RpcCounters, TestReq};
use crate::wire::{ByteOrder, Nid, ProcessId};

use super::super::{RDMA_PORTAL, TEST_PORTAL};
use crate::lnd::{Payload, Sink};

/// The operation of an RPC, in its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A match entry for requests; the rest of the tag is the service.
    Entry,
    /// The reply.
    Reply,
    /// PUT of bulk.
    Send,
    /// GET of bulk.
    Fetch,
    /// GET of a destination list.
    List,
    /// LNet's counts.
    Counts,
}

const PART_SHIFT: u32 = 29;

pub(super) fn tag(key: Key, part: Part) -> u64 {
    key.word() | (part as u64) << PART_SHIFT
}

pub(super) fn untag(tag: u64) -> (Key, Part) {
    let part = match tag >> PART_SHIFT & 7 {
        1 => Part::Reply,
        2 => Part::Send,
        3 => Part::Fetch,
        4 => Part::List,
        5 => Part::Counts,
        _ => Part::Entry,
    };
    (Key::from_word(tag & !(7 << PART_SHIFT)), part)
}

/// Condition that an RPC waits for before its reply.
#[derive(Debug)]
pub(super) enum Wait {
    Nothing,
    /// Bulk of `len` bytes.
    Bulk {
        len: u32,
        flags: u32,
    },
    /// A destination list.
    List(Box<TestReq>),
    /// So many shards' counts.
    Counts(u16, Box<LnetCounters>),
}

/// An RPC that is served.
#[derive(Debug)]
pub(super) struct Served {
    /// Its place counts as this node's, which delivered it: sources cost nothing to invent.
    by: Nid,
    /// It is a test service's.
    test: bool,
    /// NID and process that the reply goes to.
    pub(super) peer: ProcessId,
    /// NID of ours that it leaves from.
    pub(super) dest: Nid,
    /// Match bits of the reply.
    rpyid: u64,
    /// Order of the requester's integers.
    pub(super) order: ByteOrder,
    pub(super) reply: Message,
    pub(super) wait: Wait,
}

/// RPCs that are served.
#[derive(Debug)]
pub(super) struct Server {
    app: AppId,
    most: usize,
    /// RPCs of test services among them: the framework always has places left, or nobody could stop a test that takes all.
    tests: usize,
    calls: Slab<Served>,
    by_peer: HashMap<Nid, u32>,
    pub(super) counters: RpcCounters,
}

impl Server {
    pub(super) fn new(app: AppId, most: usize) -> Server {
        Server {
            app,
            most,
            tests: 0,
            calls: Slab::new(),
            by_peer: HashMap::new(),
            counters: RpcCounters::default(),
        }
    }

    /// Places for them.
    #[cfg(feature = "testing")]
    pub(super) fn places(&self) -> usize {
        self.calls.capacity() + self.by_peer.capacity()
    }

    /// RPCs held now.
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether one more RPC of the peer may be held: half of the places are anybody's, of the rest a peer leaves as many
    /// free as it holds, so that some who never read their replies do not keep the others from being served. An eighth is the
    /// framework's alone.
    fn admits(&self, peer: Nid, test: bool) -> bool {
        let used = self.calls.len();
        if test && self.tests >= self.most - self.most / 8 {
            return false;
        }
        let own = || self.by_peer.get(&peer).copied().unwrap_or(0) as usize;
        used < self.most && (used < self.most / 2 || own() < self.most - used)
    }

    /// Holds an RPC; `None`, and it is dropped, where its peer holds too many.
    pub(super) fn hold(
        &mut self,
        p: &PutEvent,
        request: &Message,
        reply: Message,
        wait: Wait,
    ) -> Option<Key> {
        let (rpyid, order) = (request.body.rpyid()?, request.order);
        let test = p.portal == TEST_PORTAL;
        if !self.admits(p.sender, test) {
            self.dropped();
            return None;
        }
        self.tests += usize::from(test);
        *self.by_peer.entry(p.sender).or_insert(0) += 1;
        let peer = ProcessId { nid: p.source, pid: p.initiator.pid };
        Some(self.calls.insert(Served { by: p.sender, test, peer, dest: p.dest, rpyid, order, reply, wait }))
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Served> {
        self.calls.get_mut(key)
    }

    /// An RPC has ended.
    pub(super) fn release(&mut self, key: Key) -> Option<Served> {
        let call = self.calls.remove(key)?;
        self.tests -= usize::from(call.test);
        if let Some(n) = self.by_peer.get_mut(&call.by) {
            *n = n.saturating_sub(1);
            if *n == 0 {
                self.by_peer.remove(&call.by);
            }
        }
        Some(call)
    }

    /// An RPC ends without a reply, which its requester finds out by itself.
    pub(super) fn give_up(&mut self, key: Key) {
        if self.release(key).is_some() {
            self.dropped();
        }
    }

    /// A request gets no reply.
    pub(super) fn dropped(&mut self) {
        self.counters.rpcs_dropped = self.counters.rpcs_dropped.wrapping_add(1);
    }

    /// LNet told of an error.
    pub(super) fn erred(&mut self) {
        self.counters.errors = self.counters.errors.wrapping_add(1);
    }

    /// Sends the reply of an RPC, which ends when that has left.
    pub(super) fn reply(&mut self, key: Key, ops: &mut Ops) {
        let Some(call) = self.calls.get_mut(key) else { return };
        call.wait = Wait::Nothing;
        let payload = Payload::copy_of(&call.reply.emit()).unwrap_or_else(Payload::empty);
        let (way, rpyid) = ((call.peer, call.dest), call.rpyid);
        self.put(tag(key, Part::Reply), way, rpyid, payload, ops);
    }

    fn put(&self, tag: u64, way: (ProcessId, Nid), match_bits: u64, payload: Payload, ops: &mut Ops) {
        let (target, from) = (way.0, Some(way.1));
        let portal = RDMA_PORTAL;
        let put =
            Op::Put { tag, target, from, portal, match_bits, offset: 0, hdr_data: 0, payload, ack: false };
        ops.push_back((self.app, put));
    }

    /// Sends bulk.
    pub(super) fn send(&mut self, key: Key, bulkid: u64, pages: Payload, ops: &mut Ops) {
        let Some(call) = self.calls.get(key) else { return };
        self.put(tag(key, Part::Send), (call.peer, call.dest), bulkid, pages, ops);
    }

    /// Fetches bulk, or a destination list: it is lent to us.
    pub(super) fn fetch(&mut self, key: Key, part: Part, match_bits: u64, len: u32, ops: &mut Ops) {
        let Some(call) = self.calls.get(key) else { return };
        let (tag, target, from, sink) = (tag(key, part), call.peer, Some(call.dest), Sink::Lend(len));
        ops.push_back((self.app, Op::Get { tag, target, from, portal: RDMA_PORTAL, match_bits, sink }));
    }

    /// Asks each shard for LNet's counts.
    pub(super) fn count(&mut self, key: Key, shards: u16, ops: &mut Ops) {
        for shard in 0..shards {
            ops.push_back((self.app, Op::Counts { tag: tag(key, Part::Counts), shard }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lnd::Data;
    use crate::lnet::MeId;
    use crate::selftest::FRAMEWORK_PORTAL;
    use crate::wire::srpc::{Body, Sid};

    /// Peers that never read fill the test services' places, be they ever so many; the framework still answers.
    #[test]
    fn tests_leave_places_to_the_framework() {
        let nid = |n: usize| Nid::tcp(std::net::Ipv4Addr::from(0x0a00_0000 + n as u32).into(), 0);
        for most in [1, 2, 8, 100, 8192] {
            let app = AppId::new(1).unwrap();
            let mut s = Server::new(app, most);
            let put = |s: &mut Server, n: usize, portal| {
                let (source, initiator) = (nid(n), ProcessId::lustre(nid(n)));
                let p = PutEvent {
                    tag: 0,
                    me: MeId(0),
                    status: Ok(()),
                    initiator,
                    source,
                    dest: nid(0),
                    sender: source,
                    portal,
                    match_bits: 0,
                    hdr_data: 0,
                    rlength: 0,
                    mlength: 0,
                    offset: 0,
                    data: Data::Discarded,
                    unlinked: None,
                };
                let debug = || Message::new(1, Body::Debug { rpyid: 7, sid: Sid::INVALID, flags: 0 });
                s.hold(&p, &debug(), debug(), Wait::Nothing)
            };
            let all: Vec<Key> = (0..2 * most).filter_map(|n| put(&mut s, n, TEST_PORTAL)).collect();
            assert_eq!(all.len(), most - most / 8);
            let mut framework = 0;
            while put(&mut s, 10_000 + framework, FRAMEWORK_PORTAL).is_some() {
                framework += 1;
            }
            assert_eq!(framework, most / 8);
            // Places that come free serve tests again.
            all.into_iter().for_each(|k| drop(s.release(k)));
            assert!(put(&mut s, 1, TEST_PORTAL).is_some());
        }
    }

    #[test]
    fn a_tag_names_the_rpc_and_its_part() {
        let key = Key { index: (1 << PART_SHIFT) - 1, generation: u32::MAX };
        for part in [Part::Entry, Part::Reply, Part::Send, Part::Fetch, Part::List, Part::Counts] {
            assert_eq!(untag(tag(key, part)), (key, part));
        }
    }
}
