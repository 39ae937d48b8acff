//! Model kernels as hosts of a simulated network: each has an LNet and an lnet_selftest ([`Selftest`]), a model socklnd for
//! every node of ours that it speaks with, and a plain channel of the network's latency to the other model kernels.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::net::IpAddr;

use super::lnet::Wire;
use super::selftest::{Cmd, Selftest};
use super::{Above, Kernel, KernelConfig, Up};
use crate::testing::net::{Cut, Net};
use crate::testing::rng::Rng;
use crate::testing::srpc::{FRAMEWORK, TESTS};
use crate::wire::{LnetBody, LnetHdr, Nid, PingInfo, ProcessId, Version, ping};

/// One of them.
pub struct Host {
    /// lnet_selftest, and LNet below it.
    pub selftest: Selftest,
    nid: Nid,
    version: Version,
    /// By the place of the node that each speaks with.
    kernels: BTreeMap<usize, Kernel>,
    /// It runs.
    pub alive: bool,
    life: u64,
    /// Connections before this one are none of this life's.
    first_link: usize,
}

/// A message from host to host: whose, in which of its lives, and what.
type Between = (usize, u64, LnetHdr, Vec<u8>);

/// All of them.
#[derive(Default)]
pub struct Hosts {
    /// The hosts.
    pub list: Vec<Host>,
    by_ip: HashMap<IpAddr, usize>,
    /// Nodes of ours, by address.
    ours: HashMap<IpAddr, usize>,
    /// Messages between hosts, by arrival.
    between: BTreeMap<(u64, u64), Between>,
    serial: u64,
    due: BinaryHeap<Reverse<(u64, usize)>>,
    rng: u64,
}

impl Hosts {
    /// None yet.
    pub fn new(net: &mut Net, seed: u64) -> Hosts {
        net.raw_seen = Some(Vec::new());
        Hosts { rng: seed, ..Hosts::default() }
    }

    fn word(&mut self) -> u64 {
        let mut r = Rng(self.rng);
        let w = r.word();
        self.rng = r.0;
        w
    }

    /// A node of ours that hosts may speak with.
    pub fn know(&mut self, ip: IpAddr, node: usize) {
        self.ours.insert(ip, node);
    }

    /// A kernel at this NID that speaks up to this version.
    pub fn add(&mut self, net: &mut Net, nid: Nid, version: Version) -> usize {
        let n = self.list.len();
        let seed = self.word();
        self.list.push(Host {
            selftest: Selftest::new(nid, 100 + seed % 1000, seed),
            nid,
            version,
            kernels: BTreeMap::new(),
            alive: true,
            life: 1,
            first_link: net.links(),
        });
        let ip = nid.ip().unwrap_or([0, 0, 0, 0].into());
        self.by_ip.insert(ip, n);
        net.raw_listen(ip);
        n
    }

    /// An order for a host's console.
    pub fn order(&mut self, net: &mut Net, host: usize, cmd: &Cmd) {
        self.list[host].selftest.order(net.now, cmd);
        self.settle(net, host);
    }

    /// A host's power is gone: nothing comes from it any more, and nothing is answered.
    pub fn kill(&mut self, net: &mut Net, host: usize) {
        let h = &mut self.list[host];
        h.alive = false;
        for k in h.kernels.values() {
            k.links_of().for_each(|l| net.cut(l, Cut::Silence));
        }
        h.kernels.clear();
    }

    /// It is started again, and remembers nothing.
    pub fn restart(&mut self, net: &Net, host: usize) {
        let seed = self.word();
        let h = &mut self.list[host];
        h.life += 1;
        h.alive = true;
        h.first_link = net.links();
        h.selftest = Selftest::new(h.nid, 2000 + h.life * 1000 + seed % 1000, seed);
    }

    /// The next time at which a host does something by itself.
    pub(super) fn next_due(&mut self) -> Option<u64> {
        while let Some(Reverse((t, h))) = self.due.peek().copied() {
            if self.list[h].due() == Some(t) {
                break;
            }
            self.due.pop();
            let again = self.list[h].due();
            self.due.extend(again.filter(|a| *a > t).map(|a| Reverse((a, h))));
        }
        let between = self.between.keys().next().map(|k| k.0);
        [self.due.peek().map(|d| d.0.0), between].into_iter().flatten().min()
    }

    /// Lets the next thing happen; `false`, with the time at `until`, when there is none before that.
    pub fn step(&mut self, net: &mut Net, until: u64) -> bool {
        let at = self.next_due().map_or(until, |d| d.min(until)).max(net.now);
        if net.step_before(at) {
            self.seen(net);
            return true;
        }
        let mut did = false;
        while let Some(entry) = self.between.first_entry().filter(|e| e.key().0 <= net.now) {
            let (host, life, hdr, payload) = entry.remove();
            did = true;
            if self.list[host].alive && self.list[host].life == life {
                self.list[host].selftest.hear(net.now, &hdr, payload);
                self.settle(net, host);
            }
        }
        while let Some(Reverse((t, h))) = self.due.peek().copied().filter(|d| d.0.0 <= net.now) {
            self.due.pop();
            if self.list[h].due() == Some(t) {
                did = true;
                self.fire(net, h);
            }
        }
        self.seen(net);
        did || at < until
    }

    /// Runs until then, in ns.
    pub fn run_until(&mut self, net: &mut Net, until: u64) {
        while self.step(net, until) {}
    }

    /// Looks at the connections at which something happened.
    pub fn seen(&mut self, net: &mut Net) {
        let seen = net.raw_seen.as_mut().map(std::mem::take).unwrap_or_default();
        for link in seen {
            let [a, b] = net.addresses(link).map(|a| a.ip());
            let ends = [(a, b), (b, a)];
            let found = ends.iter().find_map(|(h, n)| Some((*self.by_ip.get(h)?, *self.ours.get(n)?)));
            if let Some((host, node)) = found
                && self.list[host].alive
            {
                self.kernel(net, host, node).look(net);
                self.settle(net, host);
            }
        }
    }

    fn kernel(&mut self, net: &mut Net, host: usize, node: usize) -> &mut Kernel {
        let seed = self.word();
        let h = &mut self.list[host];
        h.kernels.entry(node).or_insert_with(|| {
            let cfg = KernelConfig {
                nids: Vec::new(),
                peer: None,
                nid: h.nid,
                version: h.version,
                conns_per_peer: 1,
                incarnation: 77 + h.life,
                discovery: false,
            };
            let mut k = Kernel::new(net, cfg, node, seed);
            k.begin(h.life);
            // Made when the first bytes come: the connection that they came on is there already.
            k.links = h.first_link;
            k
        })
    }

    fn fire(&mut self, net: &mut Net, host: usize) {
        let now = net.now;
        let h = &mut self.list[host];
        h.kernels.values_mut().for_each(|k| k.fire(net));
        if h.selftest.deadline().is_some_and(|d| d <= now) {
            h.selftest.tick(now);
        }
        self.settle(net, host);
    }

    /// Carries messages up and down until there are none.
    fn settle(&mut self, net: &mut Net, host: usize) {
        let now = net.now;
        loop {
            let h = &mut self.list[host];
            let mut ups = Vec::new();
            for k in h.kernels.values_mut() {
                ups.append(&mut k.ups());
            }
            if ups.is_empty() && h.selftest.lnet.out.is_empty() {
                break;
            }
            for up in ups {
                match up {
                    Up::Came(hdr, payload) => h.selftest.hear(now, &hdr, payload),
                    Up::Ended(token, ok) => h.selftest.sent(now, token, ok),
                }
            }
            while let Some(m) = self.list[host].selftest.lnet.out.pop_front() {
                self.leave(net, host, m);
            }
            let h = &mut self.list[host];
            let posted: Vec<(u32, u64)> = h.selftest.services();
            h.kernels.values_mut().for_each(|k| k.post(net, &posted));
        }
        let due = self.list[host].due();
        self.due.extend(due.map(|d| Reverse((d, host))));
    }

    fn leave(&mut self, net: &mut Net, host: usize, m: Wire) {
        let ip = m.to.ip().unwrap_or([0, 0, 0, 0].into());
        if let Some(node) = self.ours.get(&ip).copied() {
            let k = self.kernel(net, host, node);
            return k.give(net, m);
        }
        let Some(to) = self.by_ip.get(&ip).copied() else {
            return self.list[host].selftest.sent(net.now, m.token, false);
        };
        let from = self.list[host].nid;
        let pid = ProcessId::lustre(from).pid;
        let hdr = LnetHdr {
            dest_nid: m.to,
            src_nid: from,
            dest_pid: pid,
            src_pid: pid,
            payload_len: m.payload.len() as u32,
            body: m.body,
        };
        let alive = self.list[to].alive;
        if alive {
            self.serial += 1;
            let life = self.list[to].life;
            let at = net.now + if to == host { 1000 } else { net.latency };
            self.between.insert((at, self.serial), (to, life, hdr, m.payload));
        }
        self.list[host].selftest.sent(net.now, m.token, alive);
    }
}

impl Host {
    fn due(&self) -> Option<u64> {
        if !self.alive {
            return None;
        }
        let kernels = self.kernels.values().filter_map(Kernel::next_due);
        kernels.chain(self.selftest.deadline()).min()
    }
}

impl Kernel {
    /// An LNet is above.
    pub(super) fn begin(&mut self, life: u64) {
        self.above = Some(Above::default());
        // Ports of the life before may be in use at the peer.
        self.port = 1023 - (life as u16 % 8) * 60;
        self.peer.route = true;
    }

    pub(super) fn next_due(&self) -> Option<u64> {
        self.due.peek().map(|d| d.0.0)
    }

    pub(super) fn fire(&mut self, net: &mut Net) {
        while self.due.peek().is_some_and(|d| d.0.0 <= net.now) {
            if let Some(Reverse((_, due))) = self.due.pop() {
                self.timer(net, due);
            }
        }
    }

    pub(super) fn ups(&mut self) -> Vec<Up> {
        self.above.as_mut().map(|a| std::mem::take(&mut a.ups)).unwrap_or_default()
    }

    pub(super) fn give(&mut self, net: &mut Net, m: Wire) {
        self.at(net.now + super::TIMEOUT + 1, super::Due::Look);
        // To one on another network it goes by the peer.
        let to = Some(m.to).filter(|to| !to.same_net(self.them));
        self.launch_to(net, to, m.body, m.payload, m.token);
    }

    /// These services have buffers: what waited for one is taken, and its connection read on.
    fn post(&mut self, net: &mut Net, posted: &[(u32, u64)]) {
        let Some(above) = &mut self.above else { return };
        if above.posted.len() == posted.len() {
            return;
        }
        above.posted = posted.iter().copied().collect();
        for n in 0..self.conns.len() {
            if self.conns[n].stalled.is_some_and(|s| posted.contains(&s.1)) {
                self.conns[n].stalled = None;
                self.read(net, n);
            }
        }
    }

    /// Says something in its own name, or in that of a node behind it.
    fn speak(&mut self, net: &mut Net, serial: &mut u64, from: Nid, body: LnetBody, payload: Vec<u8>) {
        if from == self.cfg.nid {
            return self.give(net, Wire { to: from, body, payload, token: 0 });
        }
        let (pid, payload_len) = (ProcessId::lustre(from).pid, payload.len() as u32);
        let (dest_nid, src_nid) = (self.them, from);
        let hdr = LnetHdr { dest_nid, src_nid, dest_pid: pid, src_pid: pid, payload_len, body };
        self.forward(net, serial, &hdr, payload);
    }

    /// Its connections that are not closed.
    pub(super) fn links_of(&self) -> impl Iterator<Item = usize> {
        self.conns.iter().filter(|c| c.state != super::State::Closed).map(|c| c.link)
    }
}

impl Selftest {
    /// Portals and services that have buffers.
    pub(super) fn services(&self) -> Vec<(u32, u64)> {
        let framework = (0..=5).map(|s| (FRAMEWORK, s));
        framework.chain(self.posted().map(|s| (TESTS, s))).collect()
    }
}

/// Hosts without a mind: each says to one node of ours what it is told to say, over a model socklnd, and answers pings and pushes.
pub struct Puppets {
    node: usize,
    by_nid: BTreeMap<Nid, Kernel>,
    versions: BTreeMap<Nid, Version>,
    /// Messages of ours to each of them, in order; pings and pushes that they have answered are not among them.
    pub heard: Vec<(Nid, LnetHdr, Vec<u8>)>,
    /// Those that answer no ping before they are told to, and no push.
    pub quiet: [BTreeSet<Nid>; 2],
    /// Those whose answer a ping was that they were not told of.
    pub pinged: BTreeSet<Nid>,
    /// Those that are behind a router, which is one of them.
    behind: BTreeMap<Nid, Nid>,
    /// NIDs of routers, each with all of its own.
    routers: BTreeMap<Nid, Vec<Nid>>,
    serial: u64,
}

impl Puppets {
    /// Peers of the node at this place, each of a version.
    pub fn new(net: &mut Net, node: usize, peers: impl IntoIterator<Item = (Nid, Version)>) -> Puppets {
        net.raw_seen = Some(Vec::new());
        let versions: BTreeMap<Nid, Version> = peers.into_iter().collect();
        let mut by_nid = BTreeMap::new();
        for (nid, version) in &versions {
            let cfg = KernelConfig {
                nids: Vec::new(),
                peer: None,
                nid: *nid,
                version: *version,
                conns_per_peer: 1,
                incarnation: 78,
                discovery: false,
            };
            let mut k = Kernel::new(net, cfg, node, 1);
            k.begin(0);
            if let Some(a) = &mut k.above {
                // Whatever comes is heard.
                a.posted = (0..64).flat_map(|s| [(TESTS, s), (FRAMEWORK, s)]).collect();
            }
            by_nid.insert(*nid, k);
        }
        Puppets {
            node,
            by_nid,
            versions,
            heard: Vec::new(),
            quiet: Default::default(),
            pinged: BTreeSet::new(),
            behind: BTreeMap::new(),
            routers: BTreeMap::new(),
            serial: 1 << 32,
        }
    }

    /// One of them, `nids[0]`, is a router with these NIDs, and `far` is a node behind it.
    pub fn behind(&mut self, nids: &[Nid], far: Nid) {
        self.behind.insert(far, nids[0]);
        self.routers.insert(nids[0], nids.to_vec());
    }

    /// The node of ours.
    pub fn node(&self) -> usize {
        self.node
    }

    /// The version that one of them speaks.
    pub fn version(&self, nid: Nid) -> Option<Version> {
        self.versions.get(&nid).copied()
    }

    /// One of them says something.
    ///
    /// # Panics
    /// It is none of them.
    pub fn say(&mut self, net: &mut Net, from: Nid, body: LnetBody, payload: Vec<u8>) {
        let hop = self.behind.get(&from).copied().unwrap_or(from);
        let Some(k) = self.by_nid.get_mut(&hop) else { panic!("{from} is not there") };
        k.speak(net, &mut self.serial, from, body, payload);
        self.settle(net);
    }

    /// Lets the next thing happen; `false`, with the time at `until`, when there is none before that.
    pub fn step(&mut self, net: &mut Net, until: u64) -> bool {
        let of = |k: &Kernel, ends: &[IpAddr]| k.cfg.nid.ip().is_some_and(|ip| ends.contains(&ip));
        let more = super::step(&mut self.by_nid, net, until, of);
        self.settle(net);
        more
    }

    fn settle(&mut self, net: &mut Net) {
        for (nid, k) in &mut self.by_nid {
            loop {
                let ups = k.ups();
                if ups.is_empty() {
                    break;
                }
                for up in ups {
                    let Up::Came(hdr, payload) = up else { continue };
                    let far = self.behind.get(&hdr.dest_nid) == Some(nid);
                    let who = if far { hdr.dest_nid } else { *nid };
                    let answer = match hdr.body {
                        LnetBody::Get { portal: ping::PORTAL, .. } if self.quiet[0].contains(&who) => None,
                        LnetBody::Put { portal: ping::PORTAL, .. } if self.quiet[1].contains(&who) => None,
                        LnetBody::Get { handle, portal: ping::PORTAL, .. } => {
                            self.pinged.insert(who);
                            let (own, plain) = ([who], super::lnet::FEATURES);
                            let (nids, features) = match self.routers.get(&who) {
                                Some(nids) => (nids.as_slice(), super::router::FORWARDS),
                                None => (own.as_slice(), plain),
                            };
                            let mut info = Vec::new();
                            let nids = nids.iter().copied();
                            PingInfo::new(nids, hdr.dest_pid, features, 2).emit(&mut info);
                            Some((LnetBody::Reply { handle }, info))
                        }
                        LnetBody::Put { ack, match_bits, portal: ping::PORTAL, .. } => {
                            let mlength = payload.len() as u32;
                            Some((LnetBody::Ack { handle: ack, match_bits, mlength }, Vec::new()))
                        }
                        _ => None,
                    };
                    match answer {
                        Some((body, payload)) => k.speak(net, &mut self.serial, who, body, payload),
                        None => self.heard.push((who, hdr, payload)),
                    }
                }
            }
        }
    }
}
