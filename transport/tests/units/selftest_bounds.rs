//! lnet_selftest's members at their bounds: RPCs that fail at once, and memory of as many units as there can be.

use transport::lnet::faults::{Fault, FaultAsk, FaultRate, FaultRule, NidPattern};
use transport::selftest::Bulk;
use transport::testing::data::payload;
use transport::testing::net::SEC;
use transport::testing::pair::{id, nid};
use transport::wire::ProcessId;
use transport::wire::srpc::{self, Body, Message, TestReq, opc, rw};

use crate::group::{Group, SID, brw_test, debug, ping_test, remove};

/// A test that goes on after errors, whose RPCs fail at once: each unit asks again after a pause, and so many of them in a slot;
/// stop, query and the end of the session are answered meanwhile, and end them at once.
#[test]
fn units_whose_rpcs_fail_at_once_are_paced() {
    let away = ProcessId::lustre("10.0.0.9@tcp7".parse().unwrap());
    let kinds = [ping_test(1, 1), brw_test(rw::WRITE, 1, 4096, 1, 1), brw_test(rw::READ, 3, 4096, 1, 1)];
    for (concur, dest, least, most) in
        [(1, away, 90, 101), (1000, away, 10_000, 17_100), (1000, id(3), 10_000, 17_100)]
    {
        for kind in kinds {
            let mut g = Group::new(2);
            g.begin(2);
            g.begin(3);
            if dest != away {
                // LNet takes the operation, and the message fails.
                let rule = FaultRule {
                    source: NidPattern::Net(nid(9)),
                    dest: NidPattern::One(nid(3)),
                    rate: FaultRate::OneIn(1),
                    portals: 0,
                    messages: 2,
                    fault: Fault::Fail(1 << 3),
                };
                g.ask(3, debug());
                let now = g.net.now;
                assert_eq!(g.net.nodes[1].machine.fault(now, FaultAsk::Add(rule)), Ok(1));
            }
            let t = TestReq { stop_onerr: false, loops: u32::MAX, concur, ..kind };
            let added =
                g.ask_with(2, Message::new(1, Body::Test(t)), Bulk::Source(payload(&srpc::dest(dest))));
            assert_eq!(added.outcome.unwrap().body.status(), Some(0));
            let failed = |g: &mut Group| {
                let (fw, ..) = g.stat(2);
                fw.ping_errors + fw.brw_errors
            };
            for _ in 0..2 {
                let before = failed(&mut g);
                assert_eq!(g.batch(2, 1, opc::RUN, 0), (0, 0));
                g.run(SEC);
                let n = failed(&mut g) - before;
                assert!((least..=most).contains(&n), "{concur} units, {n} failed in a second");
                assert_eq!(g.batch(2, 1, opc::QUERY, 1), (0, concur));
                assert_eq!(g.batch(2, 1, opc::STOP, 0), (0, 0));
                assert_eq!(g.batch(2, 1, opc::QUERY, 0), (0, 0), "at once");
                let n = failed(&mut g);
                g.run(SEC);
                assert_eq!(failed(&mut g), n, "none goes on");
            }
            assert_eq!(g.batch(2, 1, opc::RUN, 0), (0, 0));
            g.run(SEC / 10);
            assert_eq!(g.status(2, remove(SID)), 0);
            let timed = g.members[1].deadline();
            assert!(timed.is_none_or(|t| t > g.net.now + SEC), "nothing of it is left: {timed:?}");
            g.assert_quiet();
        }
    }
    // RPCs that are counted end so, too.
    let mut g = Group::new(1);
    g.begin(2);
    let t = TestReq { stop_onerr: false, ..ping_test(7, 3) };
    g.ask_with(2, Message::new(1, Body::Test(t)), Bulk::Source(payload(&srpc::dest(away))));
    assert_eq!(g.batch(2, 1, opc::RUN, 0), (0, 0));
    g.run(SEC);
    assert_eq!((g.batch(2, 1, opc::QUERY, 0), g.stat(2).0.ping_errors), ((0, 0), 21));
}

/// Memory of as many units as a member has goes back with the session: of both roles, and of LNet below; also where they are given up
/// in the middle.
#[test]
fn a_session_gives_back_the_memory_of_its_units() {
    let places = |g: &Group| [1, 2].map(|n| g.members[n].places() + g.net.nodes[n].machine.places());
    for expires in [false, true] {
        let mut g = Group::with(2, |c| c.max_queued = 1 << 17, |m| m.served = 1 << 16);
        g.begin(2);
        g.begin(3);
        g.test(1, 2, &[3], ping_test(2, 1));
        assert_eq!(g.batch(2, 1, opc::RUN, 0), (0, 0));
        g.run(SEC);
        let before = places(&g);
        for batch in 2..66 {
            let list = payload(&srpc::dest(id(3)));
            let t = TestReq {
                batch: 2,
                ..brw_test(rw::READ, 1, 8, u32::MAX, if batch < 65 { 1024 } else { 1023 })
            };
            let done = g.ask_with(2, Message::new(1, Body::Test(t)), Bulk::Source(list));
            assert_eq!(done.outcome.unwrap().body.status(), Some(0));
        }
        assert_eq!(g.batch(2, 2, opc::RUN, 0), (0, 0));
        let asked = |g: &Group| g.members[1].under_way().0;
        g.run_until(g.net.now + 10 * SEC, |g| asked(g) == 65_535);
        assert_eq!(asked(&g), 65_535);
        let most = places(&g);
        assert!(most[0] > 65_536 * 4, "{most:?}");
        if expires {
            // Nobody answers any more: all RPCs are under way when the session is over.
            g.net.kill(2, false);
            g.run(120 * SEC);
            assert_eq!(g.members[1].session(), None);
        } else {
            assert_eq!(g.status(2, remove(SID)), 0);
            assert_eq!(g.status(3, remove(SID)), 0);
            g.assert_quiet();
            // And it serves as before.
            g.begin(2);
            g.begin(3);
            g.test(1, 2, &[3], ping_test(200, 64));
            assert_eq!(g.batch(2, 1, opc::RUN, 0), (0, 0));
            g.run(10 * SEC);
            assert_eq!((g.batch(2, 1, opc::QUERY, 0), g.stat(2).0.ping_errors), ((0, 0), 0));
        }
        let after = places(&g);
        // Each table keeps a few thousand. The server that was killed is not asked.
        let good = |n: usize| after[n] <= before[n] + 30_000;
        assert!(good(0) && (expires || good(1)), "{before:?} {most:?} {after:?}");
    }
}

/// A session's name is its maker's: nothing of it moves the cursor of a terminal, or begins a line.
#[test]
fn a_name_has_no_control_characters_where_it_is_shown() {
    let shown = srpc::Name::new("\u{1b}[2J\r\nall's well\u{9b}").text();
    assert_eq!(shown, r"\u{1b}[2J\r\nall's well\u{9b}");
    assert_eq!(srpc::Name::new("käse@host-1.example").text(), "käse@host-1.example");
}
