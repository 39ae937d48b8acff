//! Model routers: kernels with an NI on each of two or more networks, that forward what is for nodes of ours there
//! (docs/protocol/upper.md §1). Each hop is a model socklnd with connections, cookies and refusals of its own; a message is taken whole,
//! and its zero-copy ACK leaves, before it goes on. One for its NID on another network than it came by ends the set.

use std::collections::{BTreeSet, VecDeque};

use super::lnet::Wire;
use super::{Kernel, KernelConfig, Up, ZC_MIN};
use crate::testing::net::{Cut, Net};
use crate::testing::srpc::{FRAMEWORK, TESTS};
use crate::wire::{LnetBody, LnetHdr, NiStatus, Nid, PingInfo, ProcessId, Version, WireHandle, ping};

/// Features of a router that forwards.
pub const FORWARDS: u32 = 0x1a;
/// Features of one that does not (yet).
pub const STARTING: u32 = 0x1e;

/// One of them.
pub struct Router {
    nids: Vec<Nid>,
    /// By its NID on the network, and the node's there.
    hops: Vec<(Nid, Nid, Kernel)>,
    /// Features of its ping info.
    pub features: u32,
    /// Its NIDs that are down.
    pub down: BTreeSet<Nid>,
    /// It runs.
    pub alive: bool,
    /// It answers no ping, and no push.
    pub mute: bool,
    /// Bulk waits so long in its buffers, in ns, and everything else overtakes it.
    pub bulk_delay: u64,
    /// Messages that wait there, with their times.
    late: VecDeque<(u64, LnetHdr, Vec<u8>)>,
    /// Messages forwarded: their headers.
    pub forwarded: Vec<LnetHdr>,
    /// Messages for others that it dropped.
    pub dropped: u64,
    /// Messages for its NIDs that came by another network than that one's.
    pub strayed: u64,
    /// Pings and pushes that came for it, with the time in ns.
    pub pings: Vec<(u64, Nid)>,
    /// The same of pushes.
    pub pushes: Vec<(u64, Nid)>,
    life: u64,
    serial: u64,
}

/// All routers of a network.
pub struct Routers {
    /// The routers.
    pub list: Vec<Router>,
}

impl Routers {
    /// None yet.
    pub fn new(net: &mut Net) -> Routers {
        net.raw_seen = Some(Vec::new());
        Routers { list: Vec::new() }
    }

    /// A router with these NIDs, one on each network, between these nodes of ours: NIDs and places in the network.
    pub fn add(&mut self, net: &mut Net, nids: &[Nid], nodes: &[(Nid, usize)]) -> usize {
        let mut router = Router {
            nids: nids.to_vec(),
            hops: Vec::new(),
            features: FORWARDS,
            down: BTreeSet::new(),
            alive: true,
            mute: false,
            bulk_delay: 0,
            late: VecDeque::new(),
            forwarded: Vec::new(),
            dropped: 0,
            strayed: 0,
            pings: Vec::new(),
            pushes: Vec::new(),
            life: 0,
            serial: 1 << 32,
        };
        router.start(net, nodes);
        self.list.push(router);
        self.list.len() - 1
    }

    /// A router's power is gone.
    pub fn kill(&mut self, net: &mut Net, router: usize) {
        let r = &mut self.list[router];
        r.alive = false;
        for (_, _, k) in &r.hops {
            k.links_of().for_each(|l| net.cut(l, Cut::Silence));
        }
        r.hops.clear();
    }

    /// It is there again, and remembers nothing.
    pub fn restart(&mut self, net: &mut Net, router: usize, nodes: &[(Nid, usize)]) {
        let r = &mut self.list[router];
        r.alive = true;
        r.life += 1;
        r.start(net, nodes);
    }

    /// A router pushes its info to all nodes that it knows.
    pub fn push(&mut self, net: &mut Net, router: usize) {
        let r = &mut self.list[router];
        let info = r.info();
        for (_, _, k) in &mut r.hops {
            r.serial += 1;
            let ack = WireHandle { interface: 5, object: r.serial };
            let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
            let body = LnetBody::Put { ack, match_bits, hdr_data: 0, portal, offset: 0 };
            let to = k.cfg.nid;
            k.give(net, Wire { to, body, payload: info.clone(), token: 0 });
        }
        self.settle(net);
    }

    /// A router says something to a node at this place, over its hop there.
    ///
    /// # Panics
    /// It has no such hop.
    pub fn say(&mut self, net: &mut Net, router: usize, node: usize, hdr: &LnetHdr, payload: Vec<u8>) {
        let r = &mut self.list[router];
        let Some((_, _, k)) = r.hops.iter_mut().find(|h| h.2.node == node) else {
            panic!("no hop to {node}")
        };
        k.forward(net, &mut r.serial, hdr, payload);
        self.settle(net);
    }

    /// Lets the next thing happen; `false`, with the time at `until`, when there is none before that.
    pub fn step(&mut self, net: &mut Net, until: u64) -> bool {
        let hops = || self.list.iter().flat_map(|r| &r.hops);
        let late = self.list.iter().filter_map(|r| r.late.front().map(|l| l.0));
        let due = hops().filter_map(|h| h.2.next_due()).chain(late).min();
        let at = due.map_or(until, |d| d.min(until)).max(net.now);
        let went = net.step_before(at);
        let mut hops = self.list.iter_mut().flat_map(|r| &mut r.hops);
        if !went {
            hops.by_ref().for_each(|h| h.2.fire(net));
            self.list.iter_mut().for_each(|r| r.release(net));
        }
        let seen = net.raw_seen.as_mut().map(std::mem::take).unwrap_or_default();
        for link in seen {
            let ends = net.addresses(link).map(|a| a.ip());
            let ours = |nid: Nid| nid.ip().is_some_and(|ip| ends.contains(&ip));
            for (_, _, k) in self.list.iter_mut().flat_map(|r| &mut r.hops).filter(|h| ours(h.0) && ours(h.1))
            {
                k.look(net);
            }
        }
        self.settle(net);
        went || at < until
    }

    /// Runs until then, in ns.
    pub fn run_until(&mut self, net: &mut Net, until: u64) {
        while self.step(net, until) {}
    }

    /// Runs for so many ns.
    pub fn run(&mut self, net: &mut Net, ns: u64) {
        self.run_until(net, net.now + ns);
    }

    fn settle(&mut self, net: &mut Net) {
        for r in &mut self.list {
            while r.hear(net) {}
        }
    }
}

impl Router {
    fn start(&mut self, net: &mut Net, nodes: &[(Nid, usize)]) {
        self.hops.clear();
        // Between a network of long NIDs and another all hops have to tell them.
        let long = self.nids.iter().any(|n| n.is_large());
        for (nid, node) in nodes {
            let Some(own) = self.nids.iter().copied().find(|n| n.same_net(*nid)) else { continue };
            let cfg = KernelConfig {
                nid: own,
                nids: Vec::new(),
                peer: Some(*nid),
                version: if long { Version::V4 } else { Version::V3 },
                conns_per_peer: 1,
                incarnation: 99 + self.life,
                discovery: false,
            };
            let mut k = Kernel::new(net, cfg, *node, 1 + self.life);
            k.begin(self.life);
            if let Some(above) = &mut k.above {
                // Whatever comes is stored, and is none of its own services' affair.
                above.posted = (0..64).flat_map(|s| [(TESTS, s), (FRAMEWORK, s)]).collect();
            }
            self.hops.push((own, *nid, k));
        }
    }

    fn info(&self) -> Vec<u8> {
        let pid = ProcessId::lustre(Nid::LO).pid;
        let mut info = PingInfo::new(self.nids.iter().copied(), pid, self.features, 3);
        for ni in info.nis.iter_mut().chain(&mut info.large).filter(|n| self.down.contains(&n.nid)) {
            ni.status = NiStatus::Down;
        }
        let mut bytes = Vec::new();
        info.emit(&mut bytes);
        bytes
    }

    /// Takes one message that has come; gives whether there was one.
    fn hear(&mut self, net: &mut Net) -> bool {
        let info = self.info();
        let mut came = Vec::new();
        for (at, (_, _, k)) in self.hops.iter_mut().enumerate() {
            came.extend(k.ups().into_iter().map(|up| (at, up)));
        }
        let any = !came.is_empty();
        for (at, up) in came {
            let Up::Came(hdr, payload) = up else { continue };
            if !self.nids.contains(&hdr.dest_nid) {
                self.forward(net, &hdr, payload);
                continue;
            }
            if self.hops[at].0 != hdr.dest_nid {
                self.strayed += 1;
                self.hops[at].2.wrong(net, "its NID on a different network");
                continue;
            }
            let from = hdr.src_nid;
            let (body, payload) = match hdr.body {
                LnetBody::Get { handle, portal: ping::PORTAL, sink_length, .. } => {
                    self.pings.push((net.now, from));
                    let mut info = info.clone();
                    info.truncate(sink_length as usize);
                    (LnetBody::Reply { handle }, info)
                }
                LnetBody::Put { ack, match_bits, portal: ping::PORTAL, .. } => {
                    self.pushes.push((net.now, from));
                    (LnetBody::Ack { handle: ack, match_bits, mlength: payload.len() as u32 }, Vec::new())
                }
                _ => continue,
            };
            // The answer leaves from the NID that was asked.
            let back = LnetHdr {
                dest_nid: from,
                src_nid: hdr.dest_nid,
                dest_pid: hdr.src_pid,
                src_pid: hdr.dest_pid,
                payload_len: payload.len() as u32,
                body,
            };
            if !self.mute {
                self.hops[at].2.forward(net, &mut self.serial, &back, payload);
            }
        }
        any
    }

    /// Sends what has waited long enough.
    fn release(&mut self, net: &mut Net) {
        while self.late.front().is_some_and(|l| l.0 <= net.now) {
            if let Some((_, hdr, payload)) = self.late.pop_front() {
                self.pass_on(net, &hdr, payload);
            }
        }
    }

    fn forward(&mut self, net: &mut Net, hdr: &LnetHdr, payload: Vec<u8>) {
        if self.bulk_delay > 0 && payload.len() >= ZC_MIN {
            return self.late.push_back((net.now + self.bulk_delay, *hdr, payload));
        }
        self.pass_on(net, hdr, payload);
    }

    fn pass_on(&mut self, net: &mut Net, hdr: &LnetHdr, payload: Vec<u8>) {
        let on = self.features & ping::FEAT_RTE_DISABLED == 0;
        let hop = self.hops.iter_mut().find(|h| h.1 == hdr.dest_nid && on);
        let Some((_, _, k)) = hop else {
            self.dropped += 1;
            return;
        };
        self.forwarded.push(*hdr);
        k.forward(net, &mut self.serial, hdr, payload);
    }
}

impl Kernel {
    /// Sends a message of another node's on, its header as it is.
    pub(super) fn forward(&mut self, net: &mut Net, serial: &mut u64, hdr: &LnetHdr, payload: Vec<u8>) {
        *serial += 1;
        self.routed.insert(*serial, *hdr);
        self.give(net, Wire { to: hdr.dest_nid, body: hdr.body, payload, token: *serial });
    }
}
