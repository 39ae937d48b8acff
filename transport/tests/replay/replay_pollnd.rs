//! pollnd itself beside kernels, on 29 November 2026, before it took duplicates (field reports L1, L2): what the kernels
//! sent then goes into our machine of today, in pollnd's place and in the captures' time. It says no NONE, keeps the set
//! that it closed then, and hears the REPLYs.

use std::net::IpAddr;

use transport::testing::capture::{Msg, SignKind};
use transport::wire::{ConnType, Hello, LnetBody, LnetHdr, Version};

use crate::CHUNKS;
use crate::play::{Capture, Link, Place, Play, kernel};

/// Every life of pollnd in a capture.
fn lives(capture: &str, chunk: usize) -> Vec<(IpAddr, Play)> {
    let read = Capture::read(&format!("pollnd/{capture}")).without_refusals();
    let many = |c: &mut transport::lnd::Config| c.max_conns_per_type = 255;
    let nodes = read.nodes(true, |a| !kernel(a));
    assert!(!nodes.is_empty());
    nodes
        .into_iter()
        .map(|(me, list)| (me, Play::new(&read, Place::Kernel, me, &list, chunk, many).run()))
        .collect()
}

/// NONEs that the machine wrote, and those that pollnd did.
fn nones(p: &Play) -> (usize, usize) {
    let none = |b: &[u8]| Hello::parse(b).is_ok_and(|(h, _)| h.ctype == ConnType::None);
    let passive = || p.links.iter().filter(|l| !l.dials);
    (passive().filter(|l| none(&l.wrote)).count(), passive().filter(|l| none(&l.want())).count())
}

/// Time at which the kernel first ended a connection that was no duplicate of its own, in ns.
fn kernel_ended(p: &Play) -> u64 {
    let ends = [SignKind::Fin, SignKind::Reset];
    let ours = p.links.iter().filter(|l| l.dials);
    ours.filter_map(|l| l.sign(false, &ends)).min().unwrap_or(u64::MAX)
}

/// REPLYs that the kernel sent on connections that were up.
fn replies(links: &[Link]) -> usize {
    let reply = |m: &Msg| matches!(m, Msg::Lnet(_, LnetHdr { body: LnetBody::Reply { .. }, .. }, _));
    links.iter().flat_map(|l| &l.theirs).filter(|m| reply(&m.msg)).count()
}

/// Plays a capture; gives NONEs of then, duplicates that ended alone, and pings answered.
fn keeps(capture: &str, chunk: usize) -> (usize, u64, usize) {
    let (mut then, mut alone, mut pongs) = (0, 0, 0);
    for (me, p) in lives(capture, chunk) {
        let (now, before) = nones(&p);
        assert_eq!(now, 0, "{capture} {me}: NONE");
        let ended = kernel_ended(&p);
        for l in p.links.iter().filter(|l| l.dials) {
            let early = l.closed.is_some_and(|(at, _)| at < ended);
            let refused = l.flow.refused();
            assert!(
                !early || refused,
                "{capture} {me}: c{} closes at {:?}, before {ended}",
                l.number,
                l.closed
            );
        }
        let good = p.events.iter().filter(|e| matches!(e, transport::lnet::Event::Ping { info: Ok(_), .. }));
        let good = good.count();
        assert!(good >= replies(&p.links), "{capture} {me}: {good} of {} REPLYs", replies(&p.links));
        then += before;
        alone += p.machine.counters().duplicates_ended;
        pongs += good;
    }
    (then, alone, pongs)
}

#[test]
fn natural_races_over_kernel_sockets() {
    for chunk in CHUNKS {
        let (then, alone, pongs) = keeps("natural-sock", chunk);
        assert!(then >= 10 && alone >= 4 && pongs >= 40, "{then} {alone} {pongs}");
    }
}

#[test]
fn natural_races_over_dpdk() {
    for chunk in CHUNKS {
        let (then, alone, pongs) = keeps("natural-dpdk", chunk);
        assert!(then >= 10 && alone >= 4 && pongs >= 39, "{then} {alone} {pongs}");
    }
}

/// Frames 1040 to 1078: a REPLY that comes 2 ms after pollnd had closed the set for a duplicate.
#[test]
fn both_dial_at_once_many_times() {
    for chunk in CHUNKS {
        let (_, alone, pongs) = keeps("race2-dpdk-128", chunk);
        assert!(alone > 0 && pongs > 0, "{alone} {pongs}");
    }
}

/// Frames 302, 417, 439 and 485: the NONEs of three processes, then the kernel panics.
#[test]
fn losses_and_races() {
    for chunk in CHUNKS {
        let (mut now, mut then) = (0, 0);
        for (_, p) in lives("lossrace-136", chunk) {
            let (a, b) = nones(&p);
            (now, then) = (now + a, then + b);
        }
        assert!(now == 0 && then >= 4, "{now} {then}");
    }
}

/// A kernel that speaks V1 refuses with NONE, and its RST comes in the same burst: the dial goes on in V1.
#[test]
fn a_refusal_and_a_reset_in_one_burst() {
    for chunk in CHUNKS {
        let mut refusals = 0;
        for (me, p) in lives("matrix-dpdk-k1-p4", chunk) {
            let refused = p.links.iter().filter(|l| l.dials && l.flow.refused()).count() as u64;
            assert_eq!(nones(&p).0, 0);
            let c = p.machine.counters();
            assert!(c.downgrades >= u64::from(refused > 0), "{me}: {refused} refusals, {c:?}");
            let asks = |l: &&Link| l.dials && l.version == Version::V1;
            assert!(refused == 0 || p.links.iter().any(|l| asks(&l)));
            refusals += refused;
        }
        assert!(refusals >= 2, "{refusals}");
    }
}
