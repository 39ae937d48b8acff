//! LNet of a model kernel, above its socklnd: discovery before the first message to a node, match entries for one use,
//! GETs that are given up, and what a kernel answers, drops or dies of (docs/protocol/lnet.md §3, §6.3; selftest.md §1, §6).
//! It does no I/O: messages come by [`Upper::hear`] and leave by [`Upper::out`].

use std::collections::{BTreeMap, VecDeque};

use super::TIMEOUT;
use crate::testing::srpc::{self, BULK, FRAMEWORK, TESTS};
use crate::wire::{LnetBody, LnetHdr, Nid, PingInfo, ProcessId, WireHandle, ping};

/// Bytes that a kernel asks a ping for.
const PING_ROOM: u32 = 272;
/// Features of a kernel's ping info.
pub const FEATURES: u32 = 0x1e;

/// A message that leaves.
#[derive(Clone, Debug)]
pub struct Wire {
    /// Its target.
    pub to: Nid,
    /// Its header's part that is its own.
    pub body: LnetBody,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Names it when it has been sent; 0 where nobody asks.
    pub token: u64,
}

/// Events for lnet_selftest.
#[derive(Clone, Debug)]
pub enum Came {
    /// A PUT to one of the request portals.
    Request {
        /// Its sender.
        from: Nid,
        /// 50 or 51.
        portal: u32,
        /// Match bits.
        service: u64,
        /// Payload.
        payload: Vec<u8>,
    },
    /// An entry has taken a PUT.
    Put {
        /// The entry's.
        token: u64,
        /// Payload.
        payload: Vec<u8>,
    },
    /// A GET of ours has been answered, or not.
    Got {
        /// The GET's.
        token: u64,
        /// Payload.
        payload: Option<Vec<u8>>,
    },
    /// A PUT or a REPLY has left for good: with its zero-copy ACK, where it asked for one.
    Sent {
        /// The message's, or the entry's.
        token: u64,
        /// It has left.
        ok: bool,
    },
}

/// Memory of an entry.
#[derive(Clone, Debug)]
pub enum Mem {
    /// Takes a PUT of at most so many bytes.
    Sink(usize),
    /// Answers a GET.
    Source(Vec<u8>),
}

#[derive(Clone, Debug)]
struct Entry {
    token: u64,
    mem: Mem,
}

/// Knowledge of a node.
#[derive(Debug)]
enum Peer {
    /// Its ping, or the push to it, is under way, since; what waits for the end of that.
    Asked(u64, WireHandle, VecDeque<Wire>),
    Known,
}

/// Counts as STAT gives them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Messages and payload bytes sent.
    pub send: (u64, u64),
    /// The same received.
    pub recv: (u64, u64),
    /// The same dropped.
    pub drop: (u64, u64),
}

/// Whether a node with this info takes part in discovery.
fn takes_part(info: &[u8]) -> bool {
    PingInfo::parse(info).is_ok_and(|i| i.features & ping::FEAT_DISCOVERY != 0)
}

/// The model.
#[derive(Debug)]
pub struct Upper {
    /// The node's NID.
    pub nid: Nid,
    interface: u64,
    next: u64,
    peers: BTreeMap<Nid, Peer>,
    entries: BTreeMap<(Nid, u64), Entry>,
    gets: BTreeMap<u64, (u64, u64)>,
    /// Messages that leave.
    pub out: VecDeque<Wire>,
    /// Events.
    pub came: VecDeque<Came>,
    /// Counts.
    pub counts: Counts,
    /// Messages to the portals of lnet_selftest that no implementation sends so.
    pub odd: Vec<String>,
}

impl Upper {
    /// A kernel's LNet; the interface cookie of its handles.
    pub fn new(nid: Nid, interface: u64) -> Upper {
        Upper {
            nid,
            interface,
            next: 0x1c11,
            peers: BTreeMap::new(),
            entries: BTreeMap::new(),
            gets: BTreeMap::new(),
            out: VecDeque::new(),
            came: VecDeque::new(),
            counts: Counts::default(),
            odd: Vec::new(),
        }
    }

    fn handle(&mut self) -> WireHandle {
        self.next += 4;
        WireHandle { interface: self.interface, object: self.next }
    }

    /// Entries that wait.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// A node that needs no discovery any more.
    pub fn know(&mut self, peer: Nid) {
        self.peers.insert(peer, Peer::Known);
    }

    /// Attaches an entry for one use by `peer`.
    pub fn attach(&mut self, peer: Nid, bits: u64, token: u64, mem: Mem) {
        let before = self.entries.insert((peer, bits), Entry { token, mem });
        assert!(before.is_none(), "match bits {bits:#x} are used twice");
    }

    /// Takes an entry away.
    pub fn unlink(&mut self, peer: Nid, bits: u64) {
        self.entries.remove(&(peer, bits));
    }

    /// Sends a PUT without an ACK.
    pub fn put(&mut self, now: u64, to: Nid, (portal, match_bits): (u32, u64), payload: Vec<u8>, token: u64) {
        let body = LnetBody::Put { ack: WireHandle::NONE, match_bits, hdr_data: 0, portal, offset: 0 };
        self.send(now, Wire { to, body, payload, token });
    }

    /// Sends a GET.
    pub fn get(&mut self, now: u64, to: Nid, match_bits: u64, len: u32, token: u64) {
        let handle = self.handle();
        self.gets.insert(handle.object, (token, now));
        let body = LnetBody::Get { handle, match_bits, portal: BULK, src_offset: 0, sink_length: len };
        self.send(now, Wire { to, body, payload: Vec::new(), token: 0 });
    }

    /// Sends a message once its target is known: a ping goes first to one that is not.
    fn send(&mut self, now: u64, m: Wire) {
        let to = m.to;
        match self.peers.get_mut(&to) {
            _ if to == self.nid => self.leave(m),
            Some(Peer::Known) => self.leave(m),
            Some(Peer::Asked(_, _, queue)) => queue.push_back(m),
            None => {
                let handle = self.handle();
                self.peers.insert(to, Peer::Asked(now, handle, VecDeque::from([m])));
                let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
                let body =
                    LnetBody::Get { handle, match_bits, portal, src_offset: 0, sink_length: PING_ROOM };
                self.leave(Wire { to, body, payload: Vec::new(), token: 0 });
            }
        }
    }

    fn leave(&mut self, m: Wire) {
        self.counts.send.0 += 1;
        self.counts.send.1 += m.payload.len() as u64;
        self.out.push_back(m);
    }

    fn answer(&mut self, to: Nid, body: LnetBody, payload: Vec<u8>, token: u64) {
        self.leave(Wire { to, body, payload, token });
    }

    fn info(&self) -> Vec<u8> {
        let mut info = Vec::new();
        PingInfo::new([self.nid], ProcessId::lustre(self.nid).pid, FEATURES, 2).emit(&mut info);
        info
    }

    /// The socklnd tells what became of a message.
    pub fn sent(&mut self, token: u64, ok: bool) {
        if token != 0 {
            self.came.push_back(Came::Sent { token, ok });
        }
    }

    /// Time at which something is given up next, in ns.
    pub fn deadline(&self) -> Option<u64> {
        let asked = self.peers.values().filter_map(|p| match p {
            Peer::Asked(since, ..) => Some(since + TIMEOUT),
            Peer::Known => None,
        });
        asked.chain(self.gets.values().map(|g| g.1 + TIMEOUT)).min()
    }

    /// Gives up what has had no answer.
    pub fn tick(&mut self, now: u64) {
        let late: Vec<Nid> = self
            .peers
            .iter()
            .filter(|p| matches!(p.1, Peer::Asked(since, ..) if since + TIMEOUT <= now))
            .map(|p| *p.0)
            .collect();
        for nid in late {
            // It is asked anew before the next message.
            if let Some(Peer::Asked(_, _, queue)) = self.peers.remove(&nid) {
                for m in queue {
                    self.sent(m.token, false);
                }
            }
        }
        let late: Vec<u64> = self.gets.iter().filter(|g| g.1.1 + TIMEOUT <= now).map(|g| *g.0).collect();
        for object in late {
            if let Some((token, _)) = self.gets.remove(&object) {
                self.came.push_back(Came::Got { token, payload: None });
            }
        }
    }

    fn drops(&mut self, payload: &[u8]) {
        self.counts.drop.0 += 1;
        self.counts.drop.1 += payload.len() as u64;
    }

    /// A message has come.
    ///
    /// # Panics
    /// The kernel would.
    pub fn hear(&mut self, now: u64, hdr: &LnetHdr, payload: Vec<u8>) {
        self.counts.recv.0 += 1;
        self.counts.recv.1 += payload.len() as u64;
        let from = hdr.src_nid;
        match hdr.body {
            LnetBody::Get {
                handle, match_bits: ping::MATCH_BITS, portal: ping::PORTAL, sink_length, ..
            } => {
                let mut info = self.info();
                info.truncate(sink_length as usize);
                self.answer(from, LnetBody::Reply { handle }, info, 0);
            }
            LnetBody::Get { portal: TESTS, .. } => {
                panic!("the kernel panics: a GET to portal 50 that nothing matches")
            }
            LnetBody::Get { handle, match_bits, portal: BULK, sink_length, .. } => {
                match self.entries.remove(&(from, match_bits)) {
                    Some(Entry { token, mem: Mem::Source(mut bytes) }) => {
                        bytes.truncate(sink_length as usize);
                        self.answer(from, LnetBody::Reply { handle }, bytes, token);
                    }
                    other => {
                        self.entries.extend(other.map(|e| ((from, match_bits), e)));
                        self.drops(&payload);
                    }
                }
            }
            LnetBody::Put { ack, match_bits, portal: ping::PORTAL, .. } => {
                if ack != WireHandle::NONE {
                    let mlength = payload.len() as u32;
                    self.answer(from, LnetBody::Ack { handle: ack, match_bits, mlength }, Vec::new(), 0);
                }
                // One that tells of itself needs no ping; it is told of this node.
                if !self.peers.contains_key(&from) && takes_part(&payload) {
                    let handle = self.push(from);
                    self.peers.insert(from, Peer::Asked(now, handle, VecDeque::new()));
                }
            }
            LnetBody::Put { ack, match_bits, portal, offset, hdr_data }
                if (TESTS..=BULK).contains(&portal) =>
            {
                if (ack, offset, hdr_data, hdr.dest_pid, hdr.src_pid)
                    != (WireHandle::NONE, 0, 0, 12345, 12345)
                {
                    self.odd.push(format!("{hdr:?}"));
                }
                self.put_came(from, portal, match_bits, payload);
            }
            LnetBody::Put { .. } | LnetBody::Get { .. } => self.drops(&payload),
            LnetBody::Reply { handle } if handle.interface == self.interface => {
                if let Some((token, _)) = self.gets.remove(&handle.object) {
                    return self.came.push_back(Came::Got { token, payload: Some(payload) });
                }
                self.pinged(now, from, handle, &payload);
            }
            LnetBody::Ack { handle, .. } if handle.interface == self.interface => {
                if matches!(self.peers.get(&from), Some(Peer::Asked(_, h, _)) if *h == handle) {
                    self.known(from);
                }
            }
            LnetBody::Reply { .. } | LnetBody::Ack { .. } => self.drops(&payload),
        }
    }

    fn put_came(&mut self, from: Nid, portal: u32, match_bits: u64, payload: Vec<u8>) {
        if matches!(portal, TESTS | FRAMEWORK) {
            // Its buffers take no part of a longer one.
            if payload.len() > srpc::LEN {
                return self.drops(&payload);
            }
            return self.came.push_back(Came::Request { from, portal, service: match_bits, payload });
        }
        match self.entries.remove(&(from, match_bits)) {
            Some(Entry { token, mem: Mem::Sink(room) }) if payload.len() <= room => {
                self.came.push_back(Came::Put { token, payload });
            }
            other => {
                self.entries.extend(other.map(|e| ((from, match_bits), e)));
                self.drops(&payload);
            }
        }
    }

    /// The answer to the ping that goes before everything: who takes part in discovery is told of this node.
    fn pinged(&mut self, now: u64, from: Nid, handle: WireHandle, payload: &[u8]) {
        let Some(Peer::Asked(_, asked, _)) = self.peers.get(&from) else { return };
        if *asked != handle {
            return;
        }
        if !takes_part(payload) {
            return self.known(from);
        }
        let ack = self.push(from);
        if let Some(Peer::Asked(since, asked, _)) = self.peers.get_mut(&from) {
            (*since, *asked) = (now, ack);
        }
    }

    /// Tells a node of this one; gives the handle that the ACK will have.
    fn push(&mut self, to: Nid) -> WireHandle {
        let ack = self.handle();
        let (match_bits, portal, payload) = (ping::MATCH_BITS, ping::PORTAL, self.info());
        let body = LnetBody::Put { ack, match_bits, hdr_data: 0, portal, offset: 0 };
        self.leave(Wire { to, body, payload, token: 0 });
        ack
    }

    fn known(&mut self, peer: Nid) {
        if let Some(Peer::Asked(_, _, queue)) = self.peers.insert(peer, Peer::Known) {
            queue.into_iter().for_each(|m| self.leave(m));
        }
    }
}
