//! Our node in the place of kernels with two NIs (docs/protocol/upper.md §2, §3): the same orders at the same times, the same rails
//! lost and back; what it asks of whom, by which NI and when, is held against what the kernel asked. The others are model
//! kernels, one for each pair of NIDs. Whole and a byte at a time. What differs is listed with its reason ([`REASONS`]).

use std::collections::BTreeSet;
use std::net::IpAddr;

use transport::lnd::{Config, Payload};
use transport::lnet::{Event, Op};
use transport::testing::capture::{SignKind, flows};
use transport::testing::data::Spot;
use transport::testing::dialogue::{self, Said};
use transport::testing::kernel::{Kernel, KernelConfig};
use transport::testing::net::{Cut, Net, SEC};
use transport::wire::{LnetBody, Nid, PingInfo, ProcessId, Version, ping};

use crate::{CHUNKS, folder};

/// Sink of a ping that a user asks for, and of one of LNet's own, in bytes.
const USERS: u32 = 3960;
const OWN: u32 = 272;
/// Time before the first captured message, in which nodes get to know each other, in ns.
const BEFORE: u64 = 20 * SEC;

/// Differences, and why.
const REASONS: &[(&str, &str, &str)] = &[
    (
        "mr-resend-refused",
        "turns",
        "a kernel's turns count what the NI sends beside, recovery pings by it too: it is passed over more often; ours count \
         the messages among which is chosen",
    ),
    (
        "mr-rail-silent",
        "pairs",
        "a kernel's NIDs have turns of their own, which the recovery ping has put out of step: 11->22, 21->12; here the NID that was \
         used least recently has its turn",
    ),
    (
        "mr-link-down-fatal",
        "sequence of the way up",
        "a kernel pushes that an NI is up before it counts that, and tells the number behind from then on; here the push has it",
    ),
];

fn told(capture: &str) -> BTreeSet<&'static str> {
    REASONS.iter().filter(|r| r.0 == capture).map(|r| r.1).collect()
}

fn nid(host: u8) -> Nid {
    Nid::tcp([192, 168, 80, host].into(), 0)
}

fn ip(host: u8) -> IpAddr {
    nid(host).ip().unwrap()
}

fn said(capture: &str) -> Vec<Said> {
    dialogue::said(&folder("upper").join(format!("{capture}.pcap"))).unwrap()
}

/// A request of the node in question: time in ns, source and destination (last bytes), sink of a GET or 0, handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    at: u64,
    from: u8,
    to: u8,
    sink: u32,
    handle: u64,
}

fn host(nid: Nid) -> u8 {
    match nid.ip() {
        Some(IpAddr::V4(a)) => a.octets()[3],
        other => panic!("{other:?}"),
    }
}

fn asked(all: &[Said], own: [u8; 2]) -> Vec<Asked> {
    let mine = |s: &&Said| own.map(nid).contains(&s.hdr.src_nid);
    let request = |s: &Said| {
        let sink = match s.hdr.body {
            LnetBody::Get { sink_length, .. } => sink_length,
            LnetBody::Put { .. } => 0,
            _ => return None,
        };
        let (from, to) = (host(s.hdr.src_nid), host(s.hdr.dest_nid));
        Some(Asked { at: s.at, from, to, sink, handle: s.handle().object })
    };
    all.iter().filter(mine).filter_map(request).collect()
}

/// A network with our node at `own`, and model kernels at `theirs`.
struct World {
    net: Net,
    kernels: Vec<Kernel>,
    own: [u8; 2],
    /// Bytes that our node has written, and its requests so far, with the time of each.
    written: usize,
    seen: Vec<Asked>,
    user: u64,
}

impl World {
    fn new(own: [u8; 2], theirs: [u8; 2], chunk: usize) -> World {
        let cfg = Config::new(nid(own[0]), 1_700_000_000_000_000_000).also(nid(own[1]));
        World::new_with(Config { transaction_timeout: 20 * SEC, ..cfg }, own, theirs, chunk)
    }

    fn new_with(cfg: Config, own: [u8; 2], theirs: [u8; 2], chunk: usize) -> World {
        let mut net = Net::new();
        net.chunk = chunk;
        net.latency = 1_000_000;
        net.syn_timeout = SEC;
        net.add(cfg);
        let nids = theirs.map(nid).to_vec();
        let mut kernels = Vec::new();
        for (i, (t, o)) in theirs.into_iter().flat_map(|t| own.map(|o| (t, o))).enumerate() {
            let cfg = KernelConfig {
                nid: nid(t),
                nids: nids.clone(),
                peer: Some(nid(o)),
                version: Version::V3,
                conns_per_peer: 1,
                incarnation: 100 + u64::from(t),
                discovery: false,
            };
            kernels.push(Kernel::new(&mut net, cfg, 0, i as u64));
        }
        let mut w = World { net, kernels, own, written: 0, seen: Vec::new(), user: 10 };
        // The first message has the peer asked, and told: both knew each other before the capture began.
        let put = Spot(9, 9).put(1, ProcessId::lustre(nid(theirs[0])), Payload::empty(), false);
        w.net.op(0, put);
        w.until(BEFORE);
        w.net.take_events(0);
        w
    }

    fn until(&mut self, at: u64) {
        while self.net.now < at {
            let until = at.min(self.net.now + 2_000_000);
            if let Some((first, others)) = self.kernels.split_first_mut() {
                first.run_until(&mut self.net, until);
                others.iter_mut().for_each(|k| k.catch_up(&mut self.net));
            }
            self.look();
        }
    }

    /// Puts down what our node has asked since the last look.
    fn look(&mut self) {
        let links = 0..self.net.links();
        let written = links.clone().map(|l| self.net.wire(l, 0).0.len() + self.net.wire(l, 1).0.len()).sum();
        if std::mem::replace(&mut self.written, written) == written {
            return;
        }
        for a in asked(&dialogue::on_wire(&self.net, links), self.own) {
            let known = |b: &Asked| (b.handle, b.from, b.to, b.sink) == (a.handle, a.from, a.to, a.sink);
            if !self.seen.iter().any(known) {
                self.seen.push(Asked { at: self.net.now.saturating_sub(BEFORE), ..a });
            }
        }
    }

    /// The second NID of the peer is out of reach.
    fn loses_second(&mut self, theirs: u8, how: Cut) {
        self.net.unplug(ip(theirs), how);
        for k in self.kernels.iter_mut().skip(2) {
            k.loses_peer(&mut self.net);
        }
    }

    /// At that time of the capture a user pings the peer's primary NID.
    fn user_pings(&mut self, at: u64, to: u8) {
        self.until(BEFORE + at);
        self.user += 1;
        self.net.op(0, Op::Ping { tag: self.user, target: ProcessId::lustre(nid(to)) });
    }

    /// Ends of users' pings, in the order of their tags.
    fn answered(&mut self) -> Vec<bool> {
        let ended = self.net.take_events(0).into_iter().filter_map(|e| match e {
            Event::Ping { tag, info, .. } => Some((tag, info.is_ok())),
            _ => None,
        });
        let mut ended: Vec<_> = ended.collect();
        ended.sort();
        ended.into_iter().map(|e| e.1).collect()
    }

    /// Requests with such a sink since the capture began, a message that was sent again as often as it was.
    fn with_sink(&self, sink: u32) -> Vec<Asked> {
        self.seen.iter().filter(|a| a.sink == sink && a.at > 0).copied().collect()
    }
}

/// Pairs, as text; a handle that comes again stands behind a `=`.
fn pairs(all: &[Asked]) -> Vec<String> {
    all.iter().map(|a| format!("{}->{}", a.from, a.to)).collect()
}

/// SYN refused on one rail: the ping goes by the other at once, and the NID is dialled to be pinged when the kernel dialled it.
#[test]
fn a_refused_connection() {
    let own = [11, 21];
    let captured = asked(&said("mr-resend-refused"), own);
    // The node's refused connection is seen as a SYN only, at 44.183: what was to go there left by the other rail at 44.195.
    let users: Vec<Asked> = captured.iter().filter(|a| a.sink == USERS && a.at > 40 * SEC).copied().collect();
    let lost = captured.iter().find(|a| a.sink == USERS && (a.from, a.to) == (21, 23)).unwrap().at;
    let back = captured.iter().find(|a| a.sink == OWN && a.to == 23).unwrap();
    let flows = flows(&folder("upper").join("mr-resend-refused.pcap")).unwrap();
    let to_it = flows.iter().filter(|f| f.from_start && (f.active.ip(), f.passive.ip()) == (ip(21), ip(23)));
    let dials = to_it.filter_map(|f| f.signs.iter().find(|s| s.kind == SignKind::Syn)).map(|s| s.at);
    // Up to the one that was answered: what follows completes its set.
    let dials: Vec<u64> = dials.filter(|at| *at < back.at).collect();
    for chunk in CHUNKS {
        let mut w = World::new(own, [13, 23], chunk);
        w.net.dialled = Some(Vec::new());
        // Both rails are used before, as they were.
        w.user_pings(0, 13);
        w.user_pings(lost - SEC / 2, 13);
        w.until(BEFORE + lost);
        w.loses_second(23, Cut::Reset);
        w.until(BEFORE + 30 * SEC);
        let before = w.with_sink(USERS).len();
        for (i, u) in users.iter().enumerate() {
            if i == users.len() - 1 {
                w.until(BEFORE + back.at - SEC);
                w.net.plug(ip(23));
            }
            w.user_pings(u.at, 13);
        }
        w.until(BEFORE + users.last().unwrap().at + 2 * SEC);
        assert!(w.answered().iter().all(|ok| *ok), "none is lost");
        let ours = w.with_sink(USERS)[before..].to_vec();
        assert_eq!(ours.len(), users.len(), "each was sent on one rail");
        assert!(ours.iter().take(ours.len() - 1).all(|a| a.to == 13), "{ours:?}");
        assert!(users.iter().all(|a| a.to == 13), "{users:?}");
        let late = ours.iter().zip(&users).map(|(a, b)| a.at.abs_diff(b.at)).max().unwrap();
        assert!(late < SEC / 20, "{late} ns: at once");
        let c = w.net.nodes[0].machine.counters();
        assert_eq!((c.resend_count, c.successful_resends, c.remote_dropped_count >= 1), (1, 1, true));
        let mut differ = BTreeSet::new();
        if pairs(&ours) != pairs(&users) {
            differ.insert("turns");
        }
        assert_eq!(differ, told("mr-resend-refused"), "{:?}, captured {:?}", pairs(&ours), pairs(&users));
        // The user's ping that was refused, and recovery pings 1, 2, 4 and 8 s after it and each other, the last one answered.
        let dialled = w.net.dialled.take().unwrap();
        let ours = dialled.iter().filter(|d| d.2.ip() == ip(23) && d.0 > BEFORE + 40 * SEC);
        let ours: Vec<u64> = ours.map(|d| d.0 - BEFORE).take(dials.len()).collect();
        let apart: Vec<u64> = dials.iter().zip(&ours).map(|(a, b)| a.abs_diff(*b) / (SEC / 1000)).collect();
        assert!(dials.len() == 5 && ours.len() == 5, "{ours:?}");
        // A kernel counts each pause from when its thread came to it.
        assert!(apart.iter().all(|ms| *ms < 400), "{apart:?} ms: {ours:?} and {dials:?}");
        let ping = w.with_sink(OWN).into_iter().find(|a| a.to == 23 && a.at > 40 * SEC).unwrap();
        assert!(ping.at.abs_diff(back.at) < SEC / 2, "{} and {}", ping.at, back.at);
    }
}

/// A rail falls silent: what is on it is lost with its time, and sent no second time; the NID is pinged, and used when it answers.
#[test]
fn a_silent_rail() {
    let own = [11, 21];
    let captured = asked(&said("mr-rail-silent"), own);
    let users: Vec<Asked> = captured.iter().filter(|a| a.sink == USERS).copied().collect();
    let lost = users.iter().position(|a| a.at > 6 * SEC).unwrap();
    let back = captured.iter().find(|a| a.sink == OWN).unwrap();
    for chunk in CHUNKS {
        let mut w = World::new(own, [12, 22], chunk);
        // So that the fourth one goes by the rail that falls silent, as it did.
        let mut answers = Vec::new();
        for (i, u) in users.iter().enumerate() {
            if i == lost {
                w.until(BEFORE + u.at - SEC / 10);
                let next_to_22 = w.with_sink(USERS).last().is_some_and(|a| a.to == 12);
                assert!(next_to_22, "turns: {:?}", pairs(&w.with_sink(USERS)));
                w.loses_second(22, Cut::Silence);
            } else if i == lost + 1 {
                w.until(BEFORE + back.at - SEC / 2);
                w.net.plug(ip(22));
            }
            w.user_pings(u.at, 12);
        }
        w.until(BEFORE + users.last().unwrap().at + 30 * SEC);
        answers.extend(w.answered());
        let failed: Vec<usize> = (0..answers.len()).filter(|i| !answers[*i]).collect();
        assert_eq!(failed, [lost], "the one that was on its way");
        let ours = w.with_sink(USERS);
        assert_eq!(ours.len(), users.len());
        let once: BTreeSet<u64> = ours.iter().map(|a| a.handle).collect();
        assert_eq!(once.len(), ours.len(), "none is sent again");
        let nis = |all: &[Asked]| all.iter().map(|a| a.from).collect::<Vec<_>>();
        assert_eq!(nis(&ours)[..lost], nis(&users)[..lost]);
        let turns = |all: &[Asked]| all.windows(2).all(|w| w[0].from != w[1].from);
        assert!(turns(&ours) && turns(&users[lost + 1..]), "{:?}", pairs(&ours));
        let mut differ = BTreeSet::new();
        if pairs(&ours[lost + 1..]) != pairs(&users[lost + 1..]) {
            differ.insert("pairs");
        }
        assert_eq!(differ, told("mr-rail-silent"), "{:?}, captured {:?}", pairs(&ours), pairs(&users));
    }
}

/// Carrier lost on one NI, and back: what the node pushes, byte for byte, by which NI, and how soon.
#[test]
fn a_link_that_is_lost() {
    let own = [13, 23];
    let all = said("mr-link-down-fatal");
    let pushes: Vec<&Said> = all
        .iter()
        .filter(|s| {
            matches!(s.hdr.body, LnetBody::Put { portal: ping::PORTAL, .. })
                && own.map(nid).contains(&s.hdr.src_nid)
        })
        .collect();
    let [down, up] = pushes[..] else { panic!("{pushes:?}") };
    for chunk in CHUNKS {
        // The number that it had before.
        let before = PingInfo::parse(&down.payload).unwrap().sequence - 1;
        let cfg = Config::new(nid(own[0]), 1_700_000_000_000_000_000).also(nid(own[1]));
        let cfg = Config { ping_sequence: Some(before), ..cfg };
        let mut w = World::new_with(cfg, own, [11, 21], chunk);
        let pushed = |w: &World| {
            let all = dialogue::on_wire(&w.net, 0..w.net.links());
            let mine = |s: &Said| {
                matches!(s.hdr.body, LnetBody::Put { portal: ping::PORTAL, .. })
                    && own.map(nid).contains(&s.hdr.src_nid)
            };
            all.into_iter().filter(|s| mine(s)).collect::<Vec<_>>()
        };
        let before = pushed(&w).len();
        w.net.unplug(ip(23), Cut::Silence);
        w.net.link_state(0, ip(23), false);
        w.until(BEFORE + 26_000_000);
        let now = pushed(&w);
        assert_eq!(
            now.len(),
            before + 2,
            "one push to each NID of the peer, where a kernel's is one in all, within 26 ms"
        );
        let news: Vec<&Said> = now.iter().filter(|s| s.payload == down.payload).collect();
        let to: BTreeSet<Nid> = news.iter().map(|s| s.hdr.dest_nid).collect();
        assert_eq!((news.len(), to.len()), (2, 2), "what the kernel pushed, byte for byte");
        assert!(news.iter().all(|s| host(s.hdr.src_nid) == host(down.hdr.src_nid)), "by the NI that is left");
        w.net.plug(ip(23));
        w.net.link_state(0, ip(23), true);
        w.until(BEFORE + 4 * SEC);
        let last = pushed(&w);
        let back: Vec<PingInfo> = last.iter().map(|s| PingInfo::parse(&s.payload).unwrap()).collect();
        let (want, got) =
            (PingInfo::parse(&up.payload).unwrap(), back.iter().max_by_key(|i| i.sequence).unwrap());
        assert_eq!((got.nis.clone(), got.features), (want.nis, want.features), "both are up again");
        let mut differ = BTreeSet::new();
        if got.sequence != want.sequence {
            differ.insert("sequence of the way up");
        }
        assert_eq!(differ, told("mr-link-down-fatal"));
    }
}

/// An NI is deleted and added again: FIN on all its connections, a push by the other one, a push by the new one over connections of
/// another incarnation; what is pushed is the kernel's, byte for byte.
#[test]
fn an_ni_that_is_deleted_and_added() {
    let own = [12, 22];
    let all = said("mr-net-del-add");
    let push = |s: &&Said| {
        matches!(s.hdr.body, LnetBody::Put { portal: ping::PORTAL, .. })
            && own.map(nid).contains(&s.hdr.src_nid)
    };
    let captured: Vec<&Said> = all.iter().filter(push).collect();
    let [less, more] = captured[..] else { panic!("{captured:?}") };
    for chunk in CHUNKS {
        // The number that it had before.
        let before = PingInfo::parse(&less.payload).unwrap().sequence - 1;
        let cfg = Config::new(nid(own[0]), 1_700_000_000_000_000_000).also(nid(own[1]));
        let mut w = World::new_with(Config { ping_sequence: Some(before), ..cfg }, own, [11, 21], chunk);
        // Both rails are used before, as they were.
        for at in 1..5 {
            w.user_pings(at * SEC, 11);
        }
        w.until(BEFORE + 6 * SEC);
        assert!(w.answered().iter().all(|ok| *ok));
        let pushed = |w: &World| {
            let all = dialogue::on_wire(&w.net, 0..w.net.links());
            all.into_iter().filter(|s| push(&s)).collect::<Vec<_>>()
        };
        let (told, links) = (pushed(&w).len(), w.net.links());
        let of_22 = |w: &World, link: usize| w.net.addresses(link).map(|a| a.ip()).contains(&ip(22));
        let ended = |w: &World, link: usize| (0..2).any(|end| w.net.wire(link, end).1);
        let open: Vec<usize> = (0..links).filter(|l| of_22(&w, *l) && !ended(&w, *l)).collect();
        assert!(open.len() >= 3, "{open:?}");
        w.net.del_ni(0..1, nid(22)).unwrap();
        // Connections close before anybody is told, in order.
        assert_eq!((pushed(&w).len(), w.net.resets), (told, 0));
        w.until(w.net.now + SEC);
        assert!(open.iter().all(|l| ended(&w, *l)) && w.net.resets == 0, "FIN on each");
        let ours = pushed(&w);
        assert_eq!(ours.len(), told + 1);
        let last = ours.last().unwrap();
        let is = |s: &Said| (host(s.hdr.src_nid), s.payload.clone());
        assert_eq!(is(last), is(less), "by the NI that is left, the kernel's own bytes");
        assert_eq!(w.net.links(), links, "over connections that there are");
        w.net.let_nis_go(0);

        w.until(w.net.now + 5 * SEC);
        w.net.add_ni(0..1, nid(22)).unwrap();
        w.until(w.net.now + SEC);
        let ours = pushed(&w);
        assert_eq!(ours.len(), told + 2);
        let last = ours.last().unwrap();
        assert_eq!(is(last), is(more), "by the NI that is new, the kernel's own bytes");
        let new: Vec<usize> = (links..w.net.links()).filter(|l| of_22(&w, *l)).collect();
        assert!(!new.is_empty(), "over new connections");
        // And is used as before.
        for at in 0..4 {
            w.user_pings(w.net.now - BEFORE + at * SEC, 11);
        }
        w.until(w.net.now + 5 * SEC);
        assert!(w.answered().iter().all(|ok| *ok));
        let late = w.with_sink(USERS);
        assert!(late.iter().rev().take(4).any(|a| a.from == 22), "{:?}", pairs(&late));
    }
}
