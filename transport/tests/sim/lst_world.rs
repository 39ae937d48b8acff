//! A network of nodes with lnet_selftest, ours and model kernels, and what must hold of it at any time and at rest.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;

use super::NEVER;
use transport::lnd::Config;
use transport::lnet::faults::{Fault, FaultAsk, FaultRate, FaultRule, FaultView, NidPattern};
use transport::testing::dialogue::{self, Said};
use transport::testing::kernel::hosts::Hosts;
use transport::testing::kernel::selftest::Cmd;
use transport::testing::members::LstNode;
use transport::testing::net::{Net, SEC};
use transport::testing::rng::Rng;
use transport::testing::srpc::{BULK, FRAMEWORK, Srpc, TESTS, kind};
use transport::wire::{LnetBody, Nid, Version};

/// Services that a member always takes requests for, and those that it takes once it was a server.
const SERVICES: usize = 6;
const TEST_SERVICES: usize = 2;
/// Bits of messages in a rule, as `lctl` lists them.
const PUT: u8 = 2;
const GET: u8 = 4;

/// Occupant of a NID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Ours(usize),
    Kernel(usize),
}

/// Counts of a member.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// RPCs that failed.
    pub errors: u64,
    /// Requests of its units that have left.
    pub sent: u64,
    /// Requests received.
    pub rcvd: u64,
    /// Bulk bytes that it got and put as a server.
    pub bulk: [u64; 2],
}

pub struct World {
    pub net: Net,
    pub hosts: Hosts,
    pub ours: Vec<LstNode>,
    pub places: Vec<Place>,
    /// Features that the sessions of each place's console begin with.
    pub features: Vec<u32>,
    /// Places that say something to themselves, and whether bulk is among it: none of it is on the wire.
    pub own: Vec<usize>,
    pub own_bulk: bool,
    /// Units may have given up RPCs: somebody has stopped them, or ended their session.
    pub gives_up: bool,
    /// Nodes of ours with fault rules, and whether these were there before anything was said.
    ruled: Vec<(usize, bool)>,
    ruled_at: u64,
    due: BinaryHeap<Reverse<(u64, usize)>>,
    verbose: bool,
}

pub fn nid(place: usize) -> Nid {
    super::nid(place, false)
}

impl World {
    pub fn new(r: &mut Rng, size: usize, kernels: u64) -> World {
        let mut net = Net::new();
        net.chunk = 16 << 10;
        net.record = true;
        let features: Vec<u32> = (0..size).map(|_| r.pick(&[0, 1, 1])).collect();
        let (mut ours, mut places) = (Vec::new(), Vec::new());
        for (n, f) in features.iter().enumerate() {
            if r.chance(kernels) {
                places.push(Place::Kernel(usize::MAX));
            } else {
                let version = r.pick(&[None, None, None, Some(Version::V2), Some(Version::V1)]);
                let cfg = Config { version, ..Config::new(nid(n), 1_700_000_000_000_000_000 + n as u64) };
                places.push(Place::Ours(ours.len()));
                ours.push(LstNode::with_features(&mut net, cfg, *f));
            }
        }
        let mut hosts = Hosts::new(&mut net, r.word());
        for (n, place) in places.iter_mut().enumerate() {
            match place {
                Place::Ours(o) => hosts.know(nid(n).ip().unwrap_or(IpAddr::from([0; 4])), ours[*o].node),
                Place::Kernel(h) => {
                    let version = r.pick(&[Version::V3, Version::V3, Version::V2, Version::V1]);
                    *h = hosts.add(&mut net, nid(n), version);
                }
            }
        }
        let mut w = World {
            net,
            hosts,
            ours,
            places,
            features,
            own: Vec::new(),
            own_bulk: false,
            gives_up: false,
            ruled: Vec::new(),
            ruled_at: 0,
            due: BinaryHeap::new(),
            verbose: std::env::var("TRACE").is_ok(),
        };
        (0..w.ours.len()).for_each(|n| w.pump(n));
        w
    }

    pub fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:.6} {}", self.net.now as f64 * 1e-9, what());
        }
    }

    fn pump(&mut self, n: usize) {
        self.ours[n].pump(&mut self.net);
        self.note(n);
    }

    fn note(&mut self, n: usize) {
        let due = self.ours[n].deadline(&self.net);
        self.due.extend(due.map(|d| Reverse((d, n))));
    }

    /// Lets the next thing happen.
    fn step(&mut self, until: u64) -> bool {
        while let Some(Reverse((t, n))) = self.due.peek().copied() {
            if self.ours[n].deadline(&self.net) == Some(t) {
                break;
            }
            self.due.pop();
            let later = self.ours[n].deadline(&self.net).filter(|d| *d > t);
            self.due.extend(later.map(|d| Reverse((d, n))));
        }
        let at = self.due.peek().map_or(until, |d| d.0.0.min(until)).max(self.net.now);
        self.net.last = None;
        let went = self.hosts.step(&mut self.net, at);
        if let Some(n) = self.net.last {
            self.pump(n);
            self.invariants(n);
        }
        let mut did = false;
        while let Some(Reverse((_, n))) = self.due.peek().copied().filter(|d| d.0.0 <= self.net.now) {
            self.due.pop();
            self.pump(n);
            self.accounts(n);
            did = true;
        }
        self.kernels_account();
        went || did || at < until
    }

    pub fn run(&mut self, ns: u64) {
        let until = self.net.now + ns;
        while self.step(until) {}
    }

    /// Bounds that hold at any time.
    fn invariants(&self, n: usize) {
        let node = &self.net.nodes[self.ours[n].node];
        if !node.alive {
            return;
        }
        let g = node.machine.gauges();
        assert!(g.cookies <= g.lends, "node {n}: a cookie without its pages: {g:?}");
        let (asked, served) = self.ours[n].member.under_way();
        let consoles = self.ours[n].console.under_way();
        // Reply and bulk of what is asked, and requests.
        let most = SERVICES + TEST_SERVICES + 2 * (asked + consoles);
        assert!(
            g.entries <= most + g.lends,
            "node {n}: {g:?}, {asked} asked, {consoles} of its console, {served} served"
        );
        self.accounts(n);
    }

    /// Each RPC that a node of ours has begun is under way, or has ended well, or badly, or was given up.
    fn accounts(&self, n: usize) {
        use std::sync::atomic::Ordering::Relaxed;
        let o = &self.ours[n];
        if !o.alive(&self.net) {
            return;
        }
        let m = o.member.meter();
        let (good, bad) = (m.rpcs.load(Relaxed), m.failed.load(Relaxed));
        let known = good + bad + o.member.under_way().0 as u64;
        let told = || format!("node {n}: {:?} begun, {good} good, {bad} bad, {known} in all", o.issued);
        assert!(if self.gives_up { known <= o.issued[0] } else { known == o.issued[0] }, "{}", told());
        assert!(o.left[0] <= o.issued[0] && o.left[1] <= o.issued[1], "{}, {:?} left", told(), o.left);
        assert_eq!(u64::from(o.member.counters().rpcs_sent), o.left[0], "{}", told());
    }

    /// The same of model kernels, whose state is their own; of a large network's one at a time.
    fn kernels_account(&self) {
        let all = self.hosts.list.len();
        let first = if all > 8 { self.net.steps as usize % all } else { 0 };
        for h in self.hosts.list.iter().skip(first).take(8) {
            let s = &h.selftest;
            let known = s.done[0] + s.done[1] + s.outstanding();
            assert_eq!(s.issued[0], known, "{}: {:?} done", s.lnet.nid, s.done);
            assert_eq!(u64::from(s.rpc.sent), s.left[0] + s.left[1], "{}", s.lnet.nid);
        }
    }

    /// Gives a console an order, and waits until that has ended.
    pub fn order(&mut self, place: usize, line: &str) {
        self.say(|| format!("{place}: {line}"));
        self.gives_up |= ["stop", "end_session", "new_session --force"].iter().any(|v| line.starts_with(v));
        // It may be looking after idle nodes.
        self.idle(place);
        match self.places[place] {
            Place::Kernel(h) => {
                let old = line.starts_with("new_session") && self.features[place] == 0;
                let line = if old { format!("LST_FEATURES=0 {line}") } else { line.to_owned() };
                self.hosts.order(&mut self.net, h, &Cmd::parse(&line));
            }
            Place::Ours(n) => {
                let line = line.replace("stat ", "stat --delay 1 --count 1 ");
                self.ours[n].type_in(&mut self.net, &line);
                self.note(n);
            }
        }
        self.idle(place);
        assert!(!self.busy(place), "{line} does not end");
        if let (Place::Ours(n), true) = (self.places[place], self.verbose) {
            self.ours[n].said.drain(..).for_each(|s| println!("    {s:?}"));
        }
    }

    fn idle(&mut self, place: usize) {
        let end = self.net.now + 200 * SEC;
        while self.busy(place) && self.net.now < end && self.step(end) {}
    }

    fn busy(&self, place: usize) -> bool {
        match self.places[place] {
            Place::Kernel(h) => self.hosts.list[h].selftest.console.busy(),
            Place::Ours(n) => !self.ours[n].console.is_idle(),
        }
    }

    pub fn kill(&mut self, place: usize, rst: bool) {
        self.say(|| format!("{place} is gone, rst {rst}"));
        // Of a console whose members' sessions end of themselves, too.
        self.gives_up = true;
        match self.places[place] {
            Place::Kernel(h) => self.hosts.kill(&mut self.net, h),
            Place::Ours(n) => self.ours[n].kill(&mut self.net, rst),
        }
    }

    pub fn restart(&mut self, place: usize) {
        self.say(|| format!("{place} begins anew"));
        match self.places[place] {
            Place::Kernel(h) => self.hosts.restart(&self.net, h),
            Place::Ours(n) => {
                self.ours[n].restart(&mut self.net);
                self.note(n);
            }
        }
    }

    // ---- rules

    /// Puts one to three rules on one or two nodes of ours; of delays alone, short ones, where nothing may be lost.
    pub fn place_rules(&mut self, r: &mut Rng, delays: bool) {
        let from_start = self.net.links() == 0;
        self.ruled_at = self.net.now;
        for _ in 0..(1 + r.below(2)).min(self.ours.len() as u64) {
            let n = r.below(self.ours.len() as u64) as usize;
            for _ in 0..1 + r.below(3) {
                let rule = self.rule(r, delays);
                self.say(|| format!("rule on {n}: {rule:?}"));
                let (node, now) = (self.ours[n].node, self.net.now);
                let added = self.net.nodes[node].machine.fault(now, FaultAsk::Add(rule));
                assert_eq!(added, Ok(1), "{rule:?}");
            }
            if self.ruled.iter().all(|x| x.0 != n) {
                self.ruled.push((n, from_start));
            }
        }
    }

    fn rule(&self, r: &mut Rng, delays: bool) -> FaultRule {
        let place = |r: &mut Rng| match r.below(4) {
            0 => NidPattern::Net(nid(0)),
            1 => NidPattern::One(nid(r.below(self.places.len() as u64) as usize)),
            _ => NidPattern::Any,
        };
        let (source, dest) = (place(r), place(r));
        // PUTs are dropped at one portal a rule, so that a rule's count is its portal's.
        let (portals, messages) = r.pick(&[
            (1 << TESTS, PUT),
            (1 << TESTS, PUT),
            (1 << FRAMEWORK, PUT),
            (1 << BULK, PUT),
            (1 << BULK, GET),
            (0, GET),
            (0, 8),
            (0, 1),
            (1, PUT),
        ]);
        let all =
            FaultRule { source, dest, rate: FaultRate::OneIn(1), portals, messages, fault: Fault::Drop };
        if delays {
            let rate = if r.chance(70) {
                FaultRate::OneIn(2 + r.below(8) as u32)
            } else {
                FaultRate::Every(1 + r.below(4) as u32)
            };
            return FaultRule { rate, fault: Fault::Delay(1 + r.below(SEC / 5)), ..all };
        }
        let fault = match r.below(6) {
            0 => Fault::Delay(1 + r.below(3 * SEC)),
            1 => Fault::Fail(1 << r.below(10)),
            _ => Fault::Drop,
        };
        let rate = match r.below(4) {
            0 => FaultRate::OneIn(1),
            1 => FaultRate::Every(1 + r.below(10) as u32),
            _ => FaultRate::OneIn(2 + r.below(20) as u32),
        };
        FaultRule { rate, fault, ..all }
    }

    /// Rules have hit as often as they say, and what they hit is counted; requests that were sent have come, or were dropped by
    /// a rule. For networks that lose nothing themselves, at rest. Gives the messages that rules have dropped.
    pub fn rules_are_right(&self) -> u64 {
        // Bytes on a connection that ended may not have come.
        let whole = (0..self.net.links()).all(|l| !self.net.wire(l, 0).1 && !self.net.wire(l, 1).1);
        let (mut dropped, mut requests) = (0, 0);
        for (n, from_start) in &self.ruled {
            let machine = &self.net.nodes[self.ours[*n].node].machine;
            let views: Vec<FaultView> = machine.fault_rules().collect();
            let c = machine.counters();
            let hits = |is: fn(&Fault) -> bool| -> u64 {
                views.iter().filter(|v| is(&v.rule.fault)).map(|v| v.hit).sum()
            };
            let by_kind = [
                hits(|f| *f == Fault::Drop),
                hits(|f| matches!(f, Fault::Fail(_))),
                hits(|f| matches!(f, Fault::Delay(_))),
            ];
            assert_eq!(by_kind, [c.drop_fault, c.fault_fails, c.fault_delays], "node {n}: {views:?}");
            dropped += c.drop_fault;
            for v in &views {
                assert_eq!(v.by_type.iter().sum::<u64>(), v.hit, "node {n}: {v:?}");
                let most = match v.rule.rate {
                    FaultRate::OneIn(one) => v.met / u64::from(one)..=v.met.div_ceil(u64::from(one)),
                    FaultRate::Every(s) => 0..=(self.net.now - self.ruled_at) / (u64::from(s) * SEC) + 2,
                };
                assert!(most.contains(&v.hit), "node {n}: {v:?}");
                let drops = v.rule.fault == Fault::Drop;
                if drops && (1 << TESTS | 1 << FRAMEWORK) & v.rule.portals != 0 {
                    requests += v.hit;
                }
            }
            // The first rule that drops sees everything.
            let first = views.iter().find(|v| v.rule.fault == Fault::Drop);
            if let Some(v) = first.filter(|_| *from_start && whole) {
                let (came, own) =
                    (self.came(*n, &v.rule), self.own.iter().any(|p| self.places[*p] == Place::Ours(*n)));
                assert!(if own { v.met >= came } else { v.met == came }, "node {n}: {came} came, {v:?}");
            }
        }
        if whole {
            let sum = |f: fn(&Counts) -> u64| (0..self.places.len()).map(|p| f(&self.counts(p))).sum::<u64>();
            let consoles: u64 = (0..self.places.len()).map(|p| self.framework_sent(p)).sum();
            assert_eq!(sum(|c| c.sent) + consoles, sum(|c| c.rcvd) + requests, "requests, {dropped} dropped");
        }
        dropped
    }

    /// Messages on the wire to a node that a rule means.
    fn came(&self, n: usize, rule: &FaultRule) -> u64 {
        let me = self.net.nodes[self.ours[n].node].machine.config().nid();
        let its = |l: &usize| self.net.addresses(*l).iter().any(|a| Some(a.ip()) == me.ip());
        let said = dialogue::on_wire(&self.net, (0..self.net.links()).filter(its));
        let meant = |p: NidPattern, nid: Nid| match p {
            NidPattern::Any => true,
            NidPattern::Net(_) => nid.same_net(me),
            NidPattern::One(one) => one == nid,
        };
        let is = |s: &&Said| {
            let bit = match s.hdr.body {
                LnetBody::Ack { .. } => 1,
                LnetBody::Put { .. } => PUT,
                LnetBody::Get { .. } => GET,
                LnetBody::Reply { .. } => 8,
            };
            let at = rule.portals == 0 || s.portal().is_some_and(|p| rule.portals >> p & 1 != 0);
            let (source, dest) = (meant(rule.source, s.hdr.src_nid), meant(rule.dest, s.hdr.dest_nid));
            s.hdr.dest_nid == me && rule.messages & bit != 0 && at && source && dest
        };
        said.iter().filter(is).count() as u64
    }

    // ---- counts

    pub fn counts(&self, place: usize) -> Counts {
        match self.places[place] {
            Place::Kernel(h) => {
                let s = &self.hosts.list[h].selftest;
                let (errors, rcvd) = (s.rpc.errors.into(), s.rpc.rcvd.into());
                Counts { errors, sent: s.left[0], rcvd, bulk: [s.rpc.bulk_get, s.rpc.bulk_put] }
            }
            Place::Ours(n) => {
                let c = self.ours[n].member.counters();
                let (errors, rcvd) = (c.errors.into(), c.rpcs_rcvd.into());
                Counts { errors, sent: self.ours[n].left[0], rcvd, bulk: [c.bulk_get, c.bulk_put] }
            }
        }
    }

    /// Requests of a place's console that have left.
    fn framework_sent(&self, place: usize) -> u64 {
        match self.places[place] {
            Place::Kernel(h) => self.hosts.list[h].selftest.left[1],
            Place::Ours(n) => self.ours[n].left[1],
        }
    }

    /// RPCs that all units have begun.
    pub fn begun(&self) -> u64 {
        let of = |place: &Place| match place {
            Place::Kernel(h) => self.hosts.list[*h].selftest.issued[0],
            Place::Ours(n) => self.ours[*n].issued[0],
        };
        self.places.iter().map(of).sum()
    }

    /// STAT tells what each member counts, ours by its counters, a model kernel by its own state; so do its sums. For a network
    /// that is quiet. Gives the number of answers.
    pub fn stat_is_right(&self, console: usize) -> u64 {
        let last = |node: Nid| -> Option<Srpc> {
            let stat = kind::STAT + 1;
            match self.places[console] {
                Place::Kernel(h) => {
                    let all = &self.hosts.list[h].selftest.console.outcomes;
                    let of = |r: &Srpc| r.kind() == stat && r.get("status") == 0;
                    let mut replies =
                        all.iter().filter(|o| o.node == node).filter_map(|o| o.reply.as_ref().ok());
                    replies.rfind(|r| of(r)).cloned()
                }
                Place::Ours(n) => {
                    let all = &self.ours[n].replies;
                    let of = |r: &Srpc| r.kind() == stat && r.get("status") == 0;
                    all.iter().rfind(|(nid, r)| *nid == node && of(r)).map(|x| x.1.clone())
                }
            }
        };
        let mut n = 0;
        for place in 0..self.places.len() {
            // A kernel's console counts its own questions, those behind the answer, too.
            let own = place == console && matches!(self.places[place], Place::Kernel(_));
            let Some(r) = last(nid(place)).filter(|_| !own) else { continue };
            let c = self.counts(place);
            let tells = ["rpc_errors", "rpcs_sent", "rpcs_rcvd", "bulk_get"].map(|f| r.get(f));
            let sent = c.sent
                + if matches!(self.places[place], Place::Kernel(_)) { self.framework_sent(place) } else { 0 };
            let counts = [c.errors, sent, c.rcvd, c.bulk[0]];
            assert_eq!((tells, r.get("bulk_put")), (counts, c.bulk[1]), "{place}: {r:?}");
            let lengths = r.get("send_length") >= c.bulk[1] && r.get("recv_length") >= c.bulk[0];
            assert!(lengths || self.own_bulk, "{place}: {r:?}");
            n += 1;
        }
        n
    }

    /// Everything has ended and is home; nobody is in a session.
    pub fn at_rest(&self) {
        for (place, at) in self.places.iter().enumerate() {
            match *at {
                Place::Ours(n) => {
                    let o = &self.ours[n];
                    let (node, under_way) = (o.node, o.member.under_way());
                    let machine = &self.net.nodes[node].machine;
                    let g = machine.gauges();
                    assert_eq!(o.member.session(), None, "{place}: {g:?}");
                    assert_eq!((under_way, o.console.under_way()), ((0, 0), 0), "{place}: {g:?}");
                    assert!(g.entries <= SERVICES + TEST_SERVICES, "{place}: {g:?}");
                    self.net.assert_at_rest(node);
                    let c = machine.counters();
                    for (name, v) in c.iter() {
                        assert!(v == 0 || !NEVER.contains(&name), "{place}: {name} {v}");
                    }
                    // Each drop has its portal.
                    let mut drops = 0;
                    machine.drops(&mut |_, v| drops += v);
                    assert_eq!(drops, c.drop_no_match + c.drop_too_long + c.drop_bad_offset, "{place}");
                }
                Place::Kernel(h) => {
                    let s = &self.hosts.list[h].selftest;
                    assert_eq!(s.lnet.odd, Vec::<String>::new());
                    assert_eq!(s.state(), (None, 0, 0), "{place}");
                    assert_eq!(s.under_way(), (0, 0, 0), "{place}");
                }
            }
        }
    }
}
