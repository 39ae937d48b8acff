//! lnet_selftest: a console's requests, and members that serve and ask, in virtual time.

use transport::lnd::{Data, Payload};
use transport::lnet::{Event, MeId, Op, OpRefused};
use transport::node::Input;
use transport::selftest::{self, Ask, Bulk, Ops, RpcError, Rpcs};
use transport::testing::data::{lent, payload};
use transport::testing::net::SEC;
use transport::testing::pair::{id, nid};
use transport::wire::srpc::{
    self, Body, Message, Name, Service, Sid, TestParams, TestReq, check, opc, rw, status,
};
use transport::wire::{ByteOrder, ProcessId};

use crate::group::{CONSOLE, Group, MIB, OTHER, SID, brw_test, debug, make, ping_test, remove};

/// selftest.md §4: MKSN, RMSN and DEBUG, as live kernels answer them (testdata/captures/probes/selftest-requests.txt).
#[test]
fn one_session_for_whoever_made_it() {
    let mut g = Group::new(1);
    let none = |g: &mut Group| {
        let name = Name::default();
        let want = Body::DebugReply { status: status::ESRCH, sid: Sid::INVALID, timeout: 0, nbatch: 0, name };
        assert_eq!(g.ask(2, debug()).body, want);
    };
    none(&mut g);
    let reply =
        |status, sid, name: &str| Body::MakeSessionReply { status, sid, timeout: 100, name: Name::new(name) };
    assert_eq!(g.ask(2, make(Sid::INVALID, 0)).body, reply(status::EINVAL, Sid::INVALID, ""));
    assert_eq!(g.ask(2, make(Sid::INVALID, 1)).body, reply(status::EINVAL, Sid::INVALID, ""));
    assert_eq!(g.status(2, remove(SID)), status::ESRCH);
    assert_eq!(g.ask(2, make(SID, 0)).body, reply(0, SID, ""));
    assert_eq!(g.ask(2, make(SID, 1)).body, reply(0, SID, ""), "of the same session: once more");
    assert_eq!(g.ask(2, make(OTHER, 0)).body, reply(status::EBUSY, SID, "ours"));
    assert_eq!(g.ask(2, remove(OTHER)).body, Body::RemoveSessionReply { status: status::EBUSY, sid: SID });
    assert_eq!(g.ask(2, remove(SID)).body, Body::RemoveSessionReply { status: 0, sid: SID });
    assert_eq!(g.members[1].session(), Some(SID), "made twice, it is to be ended twice");
    assert_eq!(g.ask(2, remove(SID)).body, Body::RemoveSessionReply { status: 0, sid: Sid::INVALID });
    none(&mut g);
    // By force, another takes its place, whose features it has.
    g.begin(2);
    let forced = g.ask_with(2, Message::new(0, make(OTHER, 1)), Bulk::None).outcome.unwrap();
    assert_eq!((forced.features, forced.body), (0, reply(0, OTHER, "")));
    // Features of a session's requests are the session's; DEBUG is answered to everybody.
    let stat = Body::Stat { rpyid: 0, sid: OTHER, kind: 0 };
    let refused = g.ask(2, stat);
    assert_eq!((refused.body.status(), refused.body.sid(), refused.features), (Some(71), Some(OTHER), 0));
    assert_eq!(g.status(2, debug()), 0);
    for body in [debug(), make(SID, 0)] {
        let unknown = g.ask_with(2, Message::new(2, body), Bulk::None).outcome.unwrap();
        assert_eq!((unknown.body.status(), unknown.body.sid()), (Some(71), Some(OTHER)), "{body:?}");
    }
    let old = Message { version: 2, ..Message::new(1, debug()) };
    assert_eq!(g.ask_with(2, old, Bulk::None).outcome.unwrap().body.status(), Some(status::EPROTO));
    g.assert_quiet();
}

/// A node of the other byte order is understood and answered in ours.
#[test]
fn the_other_byte_order() {
    let mut g = Group::new(1);
    let big = Message { order: ByteOrder::Big, ..Message::new(1, make(SID, 0)) };
    let reply = g.ask_with(2, big, Bulk::None).outcome.unwrap();
    assert_eq!((reply.order, reply.body.sid(), reply.body.status()), (ByteOrder::Little, Some(SID), Some(0)));
    assert_eq!(g.status(2, Body::Test(TestReq { is_client: false, ..brw_test(2, 3, 4096, 1, 1) })), 0);
    // Its data is in its own order, too.
    let body = Body::Brw { rpyid: 0, bulkid: 0, rw: rw::WRITE, len: 4096, flags: check::FULL };
    let words = srpc::BRW_WORD.to_be_bytes().repeat(512);
    for (order, want) in [(ByteOrder::Big, 0), (ByteOrder::Little, status::EBADMSG)] {
        let write = Message { order, ..Message::new(1, body) };
        let done = g.ask_with(2, write, Bulk::Source(payload(&words)));
        assert_eq!(done.outcome.unwrap().body, Body::BrwReply { status: want }, "{order:?}");
    }
    // And its list of destinations.
    let list: Vec<u8> = [SID.nid4.to_be_bytes().to_vec(), 12345u32.to_be_bytes().to_vec()].concat();
    let client = Message { order: ByteOrder::Big, ..Message::new(1, Body::Test(brw_test(1, 1, 8, 1, 1))) };
    let done = g.ask_with(2, client, Bulk::Source(payload(&list)));
    assert_eq!(done.outcome.unwrap().body.status(), Some(0));
    g.assert_quiet();
}

/// selftest.md §4: TEST and BATCH.
#[test]
fn tests_and_batches_are_refused_as_a_kernel_refuses_them() {
    let mut g = Group::new(2);
    let add = |g: &mut Group, t: TestReq| g.status(2, Body::Test(t));
    let server = TestReq { is_client: false, ndest: 0, ..ping_test(1, 1) };
    assert_eq!(add(&mut g, server), status::ENOENT);
    assert_eq!(g.batch(2, 1, opc::QUERY, 0).0, status::ESRCH);
    g.begin(2);
    g.begin(3);
    for odd in [
        TestReq { loops: 0, ..server },
        TestReq { concur: 0, ..server },
        TestReq { concur: 1025, ..server },
        TestReq { sid: Sid::INVALID, ..server },
        TestReq { ndest: srpc::DEST_MAX + 1, ..server },
        TestReq { is_client: true, ..server },
        TestReq { service: 13, ..server },
        TestReq { service: 5, ..server },
    ] {
        assert_eq!(add(&mut g, odd), status::EINVAL, "{odd:?}");
    }
    assert_eq!(add(&mut g, TestReq { sid: OTHER, ..server }), status::ENOENT);
    assert_eq!(g.batch(2, 1, opc::QUERY, 0).0, status::ENOENT, "no test named it");
    assert_eq!(add(&mut g, server), 0);
    assert_eq!((g.batch(2, 1, opc::QUERY, 0), g.batch(2, 1, opc::QUERY, 1)), ((0, 0), (0, 0)));
    assert_eq!(g.batch(2, 1, opc::QUERY, 2).0, status::ENOENT);
    assert_eq!(g.batch(2, 1, opc::QUERY, u32::MAX).0, status::EINVAL);
    // A server's test does nothing when it is run.
    assert_eq!((g.batch(2, 1, opc::RUN, 0), g.batch(2, 1, opc::QUERY, 0)), ((0, 0), (0, 0)));
    // An unknown request of a batch has no reply.
    let odd = Message::new(1, Body::Batch { rpyid: 0, sid: SID, batch: 1, opc: 9, testidx: 0, arg: 0 });
    assert_eq!(g.ask_with(2, odd, Bulk::None).outcome, Err(RpcError::TimedOut));
    g.begin(2);
    // A client's test is refused by its parameters once its destinations are there.
    g.test(1, 2, &[3], ping_test(u32::MAX, 2));
    let list = payload(&srpc::dest(id(3)));
    let bad = Message::new(1, Body::Test(brw_test(2, 1, 4100, 1, 1)));
    let done = g.ask_with(2, bad, Bulk::Source(list));
    assert_eq!(done.outcome.unwrap().body.status(), Some(status::EINVAL));
    assert_eq!(g.batch(2, 1, opc::RUN, 0), (0, 0));
    assert_eq!((g.batch(2, 1, opc::QUERY, 0), g.batch(2, 1, opc::QUERY, 2)), ((0, 1), (0, 2)));
    assert_eq!(add(&mut g, server), status::EBUSY);
    assert_eq!(g.batch(2, 1, opc::STOP, 0), (0, 0));
    g.run(SEC);
    assert_eq!(g.batch(2, 1, opc::QUERY, 0), (0, 0));
    // Without a list there is no test, and no reply.
    let nowhere = Message::new(1, Body::Test(ping_test(1, 1)));
    assert_eq!(g.ask_with(2, nowhere, Bulk::None).outcome, Err(RpcError::TimedOut));
    g.assert_quiet();
}

/// A client may send a server requests as soon as it is told that the server's test was added: they have their entries by then, however long it
/// takes to attach these.
#[test]
fn a_server_is_told_of_when_its_entries_are_attached() {
    for refused in [false, true] {
        let mut g = Group::new(1);
        g.begin(2);
        let server = Message::new(1, Body::Test(TestReq { is_client: false, ndest: 0, ..ping_test(1, 1) }));
        let mut ops = Ops::new();
        for tag in [5, 6] {
            let (peer, bulk) = (id(2), Bulk::None);
            let ask =
                Ask { tag, peer, from: None, service: Service::Test, request: server, bulk, timeout_ns: SEC };
            g.rpcs.start(g.net.now, ask, &mut ops);
        }
        // The console's node alone goes on.
        for _ in 0..10 {
            for (_, app, ev) in std::mem::take(&mut g.net.nodes[0].events) {
                assert_eq!(app, CONSOLE);
                g.done.extend(g.rpcs.event(g.net.now, ev, &mut ops));
            }
            ops.drain(..).for_each(|(app, op)| g.net.input(0, Input::Cmd(app, op)));
            g.net.run(SEC / 100);
        }
        let now = g.net.now;
        let requests = std::mem::take(&mut g.net.nodes[1].events);
        assert!(matches!(&requests[..], [(_, _, Event::Put(_)), (_, _, Event::Put(_))]), "{requests:?}");
        let app = requests[0].1;
        for (_, app, ev) in requests {
            g.members[1].event(now, app, ev, &mut ops);
        }
        let attached: Vec<u64> = ops.drain(..).map(|(_, op)| attached(&op)).collect();
        assert_eq!(attached, [Service::Brw, Service::Ping].map(|s| u64::from(s.id())), "no reply yet");
        let event = |tag, refused| match refused {
            true => Event::Refused { tag, why: OpRefused::PortalKind(50) },
            false => Event::Attached { tag, me: MeId(tag) },
        };
        g.members[1].event(now, app, event(attached[0], false), &mut ops);
        assert!(ops.is_empty(), "one is not enough");
        g.members[1].event(now, app, event(attached[1], refused), &mut ops);
        assert_eq!(ops.iter().filter(|(_, op)| matches!(op, Op::Put { portal: 52, .. })).count(), 2);
        ops.drain(..).for_each(|(app, op)| g.net.input(1, Input::Cmd(app, op)));
        g.run(SEC);
        let done: Vec<_> = g.done.drain(..).map(|d| (d.tag, d.outcome.unwrap().body.status())).collect();
        assert_eq!(done, [(5, Some(0)), (6, Some(0))]);
        g.assert_quiet();
    }
}

/// The service of an entry that is being attached.
fn attached(op: &Op) -> u64 {
    match op {
        Op::Attach { portal: 50, match_bits, .. } => *match_bits,
        other => panic!("{other:?}"),
    }
}

/// Each check in each direction, with features 0 and 1, over several destinations: as many RPCs as were asked for, no byte
/// copied, every page home.
#[test]
fn brw_and_ping_by_a_group() {
    let mut g = Group::new(3);
    for n in 2..=4 {
        g.begin(n);
    }
    let mut batch = 1;
    let (mut read, mut written, mut pings) = (0, 0, 0);
    let run = |g: &mut Group, batch| {
        assert_eq!(g.batch(2, batch, opc::RUN, 0), (0, 0));
        g.run(SEC / 2);
        assert_eq!(g.batch(2, batch, opc::QUERY, 0), (0, 0), "all of it has ended");
    };
    for rw in [rw::READ, rw::WRITE] {
        for flags in [check::NONE, check::SIMPLE, check::FULL, check::DISCARD] {
            for len in [8, 4096, 65_528, MIB] {
                g.test(batch, 2, &[3, 4], brw_test(rw, flags, len, 3, 2));
                let bytes = u64::from(len) * 2 * 2 * 3;
                if rw == rw::READ {
                    read += bytes
                } else {
                    written += bytes
                }
                run(&mut g, batch);
                batch += 7;
            }
        }
        g.test(batch, 2, &[3], ping_test(5, 3));
        pings += 15;
        run(&mut g, batch);
        batch += 7;
    }
    let (fw, rpc, lnet) = g.stat(2);
    assert_eq!((fw.brw_errors, fw.ping_errors, fw.active_batches, fw.zombie_sessions), (0, 0, 0, 0));
    assert_eq!(u64::from(rpc.rpcs_sent), 2 * 16 * 2 * 2 * 3 + pings);
    // All that it fetched is the lists of destinations.
    assert_eq!((rpc.errors, rpc.rpcs_expired, rpc.bulk_get), (0, 0, 2 * (16 * 2 + 1) * 12));
    assert!(lnet.send_length >= written && lnet.recv_length >= read, "{lnet:?}");
    assert!(fw.running_ms >= 2000);
    let served: Vec<_> = [3, 4].map(|n| g.stat(n).1).into_iter().collect();
    assert_eq!(served.iter().map(|c| c.bulk_put).sum::<u64>(), read);
    assert_eq!(served.iter().map(|c| c.bulk_get).sum::<u64>(), written);
    for n in 0..4 {
        let c = g.net.nodes[n].machine.counters();
        assert_eq!((c.rx_copied_bytes, c.rx_lend_refused), (0, 0), "node {n}");
    }
    let meter = g.members[1].meter();
    assert_eq!(meter.take_rtt().map(|h| h.len()), Some(2 * 16 * 12 + pings));
    g.assert_quiet();
}

#[test]
fn version_0_of_the_parameters() {
    let mut g = Group::new(2);
    for n in [2, 3] {
        let made = g.ask_with(n, Message::new(0, make(SID, 0)), Bulk::None).outcome.unwrap();
        assert_eq!((made.body.status(), made.features), (Some(0), 0));
    }
    let params = TestParams::BrwV0 { opc: rw::WRITE, npages: 3, flags: check::FULL };
    let t = TestReq { service: Service::Brw.id(), params, ..ping_test(4, 1) };
    let ask =
        |g: &mut Group, to, body| g.ask_with(to, Message::new(0, body), Bulk::None).outcome.unwrap().body;
    assert_eq!(ask(&mut g, 3, Body::Test(TestReq { is_client: false, ..t })).status(), Some(0));
    // Whole pages are offered, of which the list's bytes are fetched.
    let mut list = srpc::dest(id(3)).to_vec();
    list.resize(4096, 0);
    let done = g.ask_with(2, Message::new(0, Body::Test(t)), Bulk::Source(payload(&list)));
    assert_eq!(done.outcome.unwrap().body.status(), Some(0));
    let run = Body::Batch { rpyid: 0, sid: SID, batch: 1, opc: opc::RUN, testidx: 0, arg: 0 };
    assert_eq!(ask(&mut g, 2, run).status(), Some(0));
    g.run(SEC);
    let served = g.members[2].counters();
    assert_eq!((served.bulk_get, served.errors, served.rpcs_dropped), (4 * 3 * 4096, 0, 0));
    // Without the feature, a length is whole pages.
    let odd = Body::Brw { rpyid: 0, bulkid: 0, rw: rw::READ, len: 4104, flags: check::NONE };
    let done = g.ask_with(3, Message::new(0, odd), Bulk::Sink(4104));
    assert_eq!(done.outcome.unwrap().body, Body::BrwReply { status: status::EINVAL });
    g.assert_quiet();
}

/// selftest.md §4.2, §4.3: whoever asks is served, and wrong requests are answered without bulk, or not at all.
#[test]
fn anybody_is_served_and_bad_requests_cost_nothing() {
    let mut g = Group::new(1);
    g.begin(2);
    assert_eq!(g.status(2, Body::Test(TestReq { is_client: false, ..ping_test(1, 1) })), 0);
    assert_eq!(g.status(2, remove(SID)), 0);
    let ping = |magic, seq| Body::Ping { rpyid: 0, magic, seq, secs: 1, nanos: 2 };
    for (features, status, back) in
        [(0, 0, 0), (1, 0, 1), (2, status::EPROTO, 1), (u32::MAX, status::EPROTO, 1)]
    {
        let m = g.ask_with(2, Message::new(features, ping(srpc::PING_MAGIC, 9)), Bulk::None).outcome.unwrap();
        assert_eq!((m.features, m.body), (back, Body::PingReply { status, magic: srpc::PING_MAGIC, seq: 9 }));
    }
    let odd = g.ask_with(2, Message::new(1, ping(1, 9)), Bulk::None);
    assert_eq!(odd.outcome, Err(RpcError::TimedOut));
    let brw = |rw, len, flags| Body::Brw { rpyid: 0, bulkid: 0, rw, len, flags };
    let bad = [
        (0, 4096, 1),
        (3, 4096, 1),
        (1, 4096, 0),
        (1, 4096, 9),
        (1, 0, 1),
        (1, MIB + 1, 1),
        (1, u32::MAX, 1),
    ];
    for (rw, len, flags) in bad {
        let done = g.ask_with(2, Message::new(1, brw(rw, len, flags)), Bulk::Sink(4096));
        assert_eq!(
            done.outcome.unwrap().body,
            Body::BrwReply { status: status::EINVAL },
            "{rw} {len} {flags}"
        );
    }
    let done = g.ask_with(2, Message::new(2, brw(1, 4096, 1)), Bulk::Sink(4096));
    assert_eq!(done.outcome.unwrap().body, Body::BrwReply { status: status::EPROTO });
    // Data is as the check wants it, and no more than that is looked at.
    let done = g.ask_with(2, Message::new(1, brw(rw::READ, 4100, check::FULL)), Bulk::Sink(4100));
    assert_eq!(lent(&done.data), srpc::BRW_WORD.to_le_bytes().repeat(513)[..4100]);
    drop(done);
    let words = srpc::BRW_WORD.to_le_bytes().repeat(512);
    let mut bad = words.clone();
    bad[2000] ^= 1;
    let cases =
        [(&words, check::FULL, 0), (&bad, check::SIMPLE, 0), (&bad, check::NONE, 0), (&bad, check::FULL, 74)];
    for (data, flags, status) in cases {
        let done = g.ask_with(2, Message::new(1, brw(rw::WRITE, 4096, flags)), Bulk::Source(payload(data)));
        assert_eq!(done.outcome.unwrap().body, Body::BrwReply { status }, "{flags}");
    }
    // Bulk that cannot be had: no reply, which the requester finds out by itself.
    let done = g.ask_with(2, Message::new(1, brw(rw::WRITE, 4096, 1)), Bulk::None);
    assert_eq!(done.outcome, Err(RpcError::TimedOut));
    g.assert_quiet();
    let c = g.members[1].counters();
    assert_eq!((c.rpcs_dropped, c.errors), (2, 1), "{c:?}");
}

/// upper.md §4: what is in flight when a batch is stopped by force is given up, and what comes later for it finds nothing.
#[test]
fn a_stop_by_force_gives_up_what_is_in_flight() {
    for (rw, force) in [(rw::WRITE, 1), (rw::READ, 1), (rw::WRITE, 0), (rw::READ, 0)] {
        let mut g = Group::new(2);
        g.begin(2);
        g.begin(3);
        g.test(4, 2, &[3], brw_test(rw, check::FULL, MIB, u32::MAX, 8));
        assert_eq!(g.batch(2, 4, opc::RUN, 0), (0, 0));
        g.run(SEC / 50);
        assert_eq!(g.batch(2, 4, opc::QUERY, 1), (0, 8));
        assert_eq!(g.batch(2, 4, opc::STOP, force), (0, 0));
        if force == 1 {
            assert_eq!(g.batch(2, 4, opc::QUERY, 0), (0, 0));
        }
        g.run(SEC);
        assert_eq!(g.batch(2, 4, opc::QUERY, 0), (0, 0));
        let (fw, rpc, _) = g.stat(2);
        assert_eq!((fw.brw_errors, rpc.rpcs_expired), (0, 0), "none of them failed by itself");
        // Of each unit one was abandoned.
        assert_eq!(rpc.errors, if force == 1 { 8 } else { 0 });
        // It can be run again.
        assert_eq!(g.batch(2, 4, opc::RUN, 0), (0, 0));
        g.run(SEC / 50);
        assert_eq!(g.batch(2, 4, opc::QUERY, 1), (0, 8));
        assert_eq!(g.status(2, remove(SID)), 0, "the end of the session stops it");
        g.assert_quiet();
    }
}

/// A server that is lost: units end with the first error, which the session counts.
#[test]
fn a_server_that_is_gone() {
    let mut g = Group::with(2, |_| {}, |m| m.rpc_timeout = 5 * SEC);
    g.begin(2);
    g.begin(3);
    g.test(1, 2, &[3], brw_test(rw::WRITE, check::NONE, 4096, u32::MAX, 3));
    g.test(1, 2, &[3], ping_test(u32::MAX, 2));
    assert_eq!(g.batch(2, 1, opc::RUN, 0), (0, 0));
    g.run(SEC / 100);
    g.net.kill(2, false);
    g.run(60 * SEC);
    assert_eq!(g.batch(2, 1, opc::QUERY, 0), (0, 0));
    let (fw, ..) = g.stat(2);
    assert_eq!((fw.brw_errors, fw.ping_errors), (3, 2), "one a unit");
}

/// Field captures: 106 to 107 s after the last request, since timers have slots of 8 s. Pings to others do not count.
#[test]
fn a_session_ends_with_its_console() {
    let mut g = Group::new(2);
    g.begin(2);
    g.begin(3);
    g.test(1, 2, &[3], ping_test(u32::MAX, 1));
    assert_eq!(g.batch(2, 1, opc::RUN, 0), (0, 0));
    let begun = g.net.now;
    g.run_until(begun + 200 * SEC, |g| g.members[1].session().is_none());
    let after = g.net.now - begun;
    assert!((100 * SEC..=108 * SEC).contains(&after), "{after}");
    let asked = g.members[1].counters().rpcs_sent;
    assert!(asked > 1000);
    g.run(20 * SEC);
    assert_eq!(g.members[1].counters().rpcs_sent, asked, "its batches ended with it");
    // One that is asked in time lasts.
    g.begin(2);
    for _ in 0..3 {
        g.run(99 * SEC);
        assert_eq!(g.status(2, debug()), 0);
    }
    g.run(300 * SEC);
    assert_eq!(g.members[1].session(), None);
    g.assert_quiet();
    // 0: never.
    let mut g = Group::with(1, |_| {}, |m| m.session_timeout = 0);
    g.begin(2);
    g.run(1000 * SEC);
    assert_eq!(g.members[1].session(), Some(SID));
}

/// A list of more than a page: 341 entries and 4 bytes that are none. Kernels' consoles cut the last page short.
#[test]
fn long_lists_of_destinations() {
    let mut g = Group::with(1, |_| {}, |m| m.session_timeout = 0);
    g.begin(2);
    let mut all = 0;
    for (n, came) in [(341_u32, 341), (342, 341), (1023, 1022)] {
        let mut list = Vec::new();
        for i in 0..n {
            if i > 0 && i % 341 == 0 {
                list.extend([0xee; 4]);
            }
            list.extend(srpc::dest(ProcessId::lustre(nid((i % 200 + 10) as u8))));
        }
        list.truncate(12 * n as usize);
        let t = TestReq { ndest: n, batch: n.into(), ..ping_test(1, 1) };
        let done = g.ask_with(2, Message::new(1, Body::Test(t)), Bulk::Source(payload(&list)));
        assert_eq!(done.outcome.unwrap().body.status(), Some(0));
        assert_eq!(g.batch(2, n.into(), opc::RUN, 0), (0, 0));
        g.run(200 * SEC);
        assert_eq!(g.batch(2, n.into(), opc::QUERY, 1), (0, 0), "{n}");
        // Nobody is there: each unit ends with an error.
        all += came;
        assert_eq!(g.stat(2).0.ping_errors, all, "{n}");
    }
}

/// Units are bounded, and what does not fit is refused.
#[test]
fn more_units_than_a_member_has() {
    let mut g = Group::with(1, |_| {}, |m| m.units = 100);
    g.begin(2);
    let list = || Bulk::Source(payload(&srpc::dest(id(2))));
    for (concur, want) in [(60, 0), (60, status::ENOMEM), (40, 0), (1, status::ENOMEM)] {
        let t = Message::new(1, Body::Test(ping_test(1, concur)));
        assert_eq!(g.ask_with(2, t, list()).outcome.unwrap().body.status(), Some(want), "{concur}");
    }
    assert_eq!(g.status(2, remove(SID)), 0);
    g.begin(2);
    let t = Message::new(1, Body::Test(ping_test(1, 100)));
    assert_eq!(
        g.ask_with(2, t, list()).outcome.unwrap().body.status(),
        Some(0),
        "they went with the session"
    );
}

/// selftest.md §1: requests to test services are dropped before the first server's test, of whichever session, and keep nothing on
/// their connection waiting, as they do at kernels.
#[test]
fn requests_before_a_servers_test_are_dropped_at_once() {
    let mut g = Group::new(1);
    let ping = Message::new(1, Body::Ping { rpyid: 0, magic: srpc::PING_MAGIC, seq: 4, secs: 0, nanos: 0 });
    let mut ops = Ops::new();
    let (peer, service, bulk) = (id(2), Service::Ping, Bulk::None);
    let ask = Ask { tag: 9, peer, from: None, service, request: ping, bulk, timeout_ns: 30 * SEC };
    g.rpcs.start(g.net.now, ask, &mut ops);
    ops.drain(..).for_each(|(app, op)| g.net.input(0, Input::Cmd(app, op)));
    g.run(SEC / 10);
    let dropped = |g: &Group| g.net.nodes[1].machine.counters().drop_no_match;
    assert_eq!((dropped(&g), g.members[1].counters().rpcs_rcvd, g.done.len()), (1, 0, 0));
    let began = g.net.now;
    g.begin(2);
    assert_eq!(g.status(2, Body::Test(TestReq { is_client: false, ..ping_test(1, 1) })), 0);
    let served = g.ask_with(2, ping, Bulk::None).outcome.unwrap().body;
    assert_eq!(served, Body::PingReply { status: 0, magic: srpc::PING_MAGIC, seq: 4 });
    assert!(g.net.now < began + SEC, "nothing waited");
    assert_eq!(g.status(2, remove(SID)), 0);
    // They are served from then on, in no session, too.
    g.ask_with(2, ping, Bulk::None).outcome.unwrap();
    g.run(30 * SEC);
    assert!(matches!(&g.done[..], [d] if d.tag == 9 && d.outcome == Err(RpcError::TimedOut)), "{:?}", g.done);
    assert_eq!(dropped(&g), 1);
    g.assert_quiet();
}

/// A message that is no request is dropped and counted, and the connection goes on.
#[test]
fn malformed_requests_are_dropped() {
    let mut g = Group::new(1);
    let good = Message::new(1, debug()).emit();
    let (mut magic, mut kind) = (good, good);
    magic[0] ^= 1;
    kind[8] = 6;
    let reply = Message::new(1, Body::BrwReply { status: 0 }).emit();
    for bytes in [&good[..159], &magic, &kind, &reply, &[]] {
        let put = transport::lnet::Op::Put {
            tag: u64::MAX,
            target: id(2),
            from: None,
            portal: selftest::FRAMEWORK_PORTAL,
            match_bits: 0,
            offset: 0,
            hdr_data: 0,
            payload: Payload::copy_of(bytes).unwrap(),
            ack: false,
        };
        g.net.input(0, Input::Cmd(CONSOLE, put));
        g.run(SEC / 100);
    }
    let c = g.members[1].counters();
    assert_eq!((c.rpcs_rcvd, c.rpcs_dropped), (5, 5));
    let long = transport::testing::data::Spot(51, 0).put(u64::MAX, id(2), payload(&[1; 161]), false);
    g.net.input(0, Input::Cmd(CONSOLE, long));
    g.run(SEC / 100);
    assert_eq!(g.net.nodes[1].machine.counters().drop_too_long, 1);
    assert_eq!(g.status(2, debug()), status::ESRCH);
    g.assert_quiet();
}

/// A peer whose RPCs do not end holds no more places than it leaves to others; what is over that is dropped.
#[test]
fn a_peer_holds_no_more_than_it_leaves_to_others() {
    let mut g = Group::with(2, |_| {}, |m| m.served = 8);
    g.begin(2);
    g.begin(3);
    g.test(1, 3, &[2], ping_test(5, 2));
    let mut ops = Ops::new();
    for tag in 0..10 {
        // No entry for the data: the GET of it is never answered.
        let body = Body::Brw { rpyid: 0, bulkid: 0, rw: rw::WRITE, len: 4096, flags: check::NONE };
        let (peer, request, bulk) = (id(2), Message::new(1, body), Bulk::None);
        let service = Service::Brw;
        let ask = Ask { tag, peer, from: None, service, request, bulk, timeout_ns: 500 * SEC };
        g.rpcs.start(g.net.now, ask, &mut ops);
    }
    ops.drain(..).for_each(|(app, op)| g.net.input(0, Input::Cmd(app, op)));
    g.run(SEC);
    assert_eq!((g.members[1].under_way(), g.members[1].counters().rpcs_dropped), ((0, 4), 6));
    assert_eq!(g.batch(3, 1, opc::RUN, 0), (0, 0));
    g.run(SEC);
    let (fw, rpc, _) = g.stat(3);
    assert_eq!((fw.ping_errors, rpc.rpcs_sent), (0, 10), "another is served");
    g.run(600 * SEC);
    assert_eq!(g.done.len(), 10, "each of them timed out");
    g.done.clear();
    g.assert_quiet();
}

/// Tests and batches that anybody may add are bounded.
#[test]
fn no_end_of_tests() {
    let mut g = Group::new(1);
    g.begin(2);
    let server = TestReq { is_client: false, ndest: 0, ..ping_test(1, 1) };
    for batch in 0..4096 {
        assert_eq!(g.status(2, Body::Test(TestReq { batch, ..server })), 0);
    }
    assert_eq!(g.status(2, Body::Test(TestReq { batch: 7, ..server })), status::ENOMEM);
    assert_eq!(g.status(2, remove(SID)), 0);
    g.begin(2);
    assert_eq!(g.status(2, Body::Test(server)), 0);
}

/// A member tests itself: its messages go by memory.
#[test]
fn a_node_that_is_its_own_destination() {
    let mut g = Group::new(1);
    g.begin(2);
    g.test(1, 2, &[2], brw_test(rw::WRITE, check::FULL, 65_536, 10, 4));
    g.test(1, 2, &[2], brw_test(rw::READ, check::FULL, 65_536, 10, 4));
    g.test(1, 2, &[2], ping_test(10, 4));
    assert_eq!(g.batch(2, 1, opc::RUN, 0), (0, 0));
    g.run(SEC);
    assert_eq!(g.batch(2, 1, opc::QUERY, 0), (0, 0));
    let (fw, rpc, lnet) = g.stat(2);
    assert_eq!((fw.brw_errors, fw.ping_errors, rpc.rpcs_sent), (0, 0, 120));
    // The kernel counts what goes over 0@lo: request and reply of each, GET and REPLY of a write, PUT of a read.
    let (own, bulk) = (80 + 160 + 120, 80 * 65_536 + 240 * 160);
    let rest = |n: u32| n.checked_sub(own).filter(|n| *n < 60);
    assert!(rest(lnet.send_count).is_some() && rest(lnet.recv_count).is_some(), "{lnet:?}");
    let rest = |n: u64| n.checked_sub(bulk).filter(|n| *n < 10_000);
    assert!(rest(lnet.send_length).is_some() && rest(lnet.recv_length).is_some(), "{lnet:?}");
    g.assert_quiet();
}

/// An event of the console's that is none of its RPCs' does no harm.
#[test]
fn events_of_others() {
    let mut rpcs = Rpcs::new(CONSOLE, 0);
    let mut ops = Ops::new();
    for ev in [
        Event::Send { tag: 9, status: Ok(()), done: true },
        Event::ShutDown { tag: 0 },
        Event::Reply { tag: 1, status: Ok(()), mlength: 0, data: Data::Discarded, sink: None },
    ] {
        assert!(rpcs.event(0, ev, &mut ops).is_none());
    }
    rpcs.abort(5, &mut ops);
    assert!(rpcs.turn(u64::MAX, &mut ops).is_none() && rpcs.is_empty());
}
