//! Descriptors, limits and peers that are not as they should be, and what only one of the transports can.

use super::world::{OverLnet, OverSock, Stack, World, get};
use transport::lnet::Op;
use transport::net::{Desc, Event, Memory, NetError, Queue, Request, TmState};
use transport::testing::data::bytes;
use transport::testing::net::{Cut, Net, SEC};
use transport::testing::netsock::{into, pages};

const ECANCELED: i32 = 125;
const ESHUTDOWN: i32 = 108;
const ECONNRESET: i32 = 104;
/// Bytes of netsock's header.
const HDR: u64 = 160;
/// As much as LNet moves of memory that does not begin and end with pages, about.
const BIG: usize = 1 << 19;

all! {
    descriptors_of_a_machine_before
    refused_memory
    nodes_that_go_down
}

/// By datagrams nothing is heard of a peer that refuses, or dies.
mod not_by_datagrams {
    use super::{dead_peers, descriptors};

    both! { descriptors dead_peers }
}

fn errno<T: std::fmt::Debug>(r: Result<T, NetError>) -> i32 {
    r.map_err(|e| e.errno()).unwrap_err()
}

fn recv(min_size: u64, max_msgs: u32) -> Request {
    Request::MsgRecv { min_size, max_msgs }
}

/// Of the wrong direction, of the wrong size, of the other transport, and none at all.
fn descriptors<S: Stack>() {
    let mut w = World::<S>::new(2);
    let b = w.sink(1, 100);
    let p = w.add(1, b, &Request::PassiveRecv, None);
    let b = w.source(1, 100, 1);
    let q = w.add(1, b, &Request::PassiveSend { len: 100 }, None);
    let (fill, fetch) = (p.desc.clone().unwrap(), q.desc.clone().unwrap());
    let mut bent = fill.bytes().to_vec();
    bent[33] ^= 1;
    let bent = Desc::new(&bent).unwrap();
    let send = |desc: &Desc, len| Request::ActiveSend { desc: desc.clone(), len };
    let get = |desc: &Desc| Request::ActiveRecv { desc: desc.clone() };
    let tries = [
        (w.source(0, 100, 2), send(&fetch, 100), 1),
        (w.sink(0, 100), get(&fill), 1),
        (w.source(0, 101, 2), send(&fill, 101), 27),
        (w.sink(0, 99), get(&fetch), 27),
        (w.source(0, 100, 2), send(&bent, 100), 22),
    ];
    for (b, req, want) in tries {
        match w.try_add(0, b, &req, None) {
            // LNet's descriptors say what they are for.
            Err(e) => assert!(S::RETAINS && e.errno() == want, "{req:?}: {e}"),
            // netsock's do not: the far side refuses, and this one hears nothing (a send is no delivery), that its connection is
            // lost, or that the answer did not fit.
            Ok(_) => {
                assert!(!S::RETAINS);
                w.run(2 * SEC);
                let got = w.take(0);
                assert!(got.len() == 1 && [0, 104, 90].contains(&got[0].status), "{req:?}: {got:?}");
            }
        }
    }
    let short = Desc::new(&fill.bytes()[..47]).unwrap();
    let b = w.source(0, 1, 2);
    assert_eq!(errno(w.try_add(0, b, &send(&short, 1), None)), if S::RETAINS { 22 } else { 71 });
    assert_eq!(errno(Desc::new(&[0; 65])), 22);
    // Neither passive buffer was touched, but where an answer that did not fit was sent.
    let b = w.source(0, 100, 5);
    w.add(0, b, &send(&fill, 100), None);
    w.run(2 * SEC);
    assert_eq!(w.take(0)[0].status, 0);
    let got = w.take(1);
    assert!(got.iter().any(|t| t.id == p.id && t.bytes == bytes(100, 5)), "{got:?}");
    // One that was used is dead.
    let b = w.source(0, 100, 6);
    w.add(0, b, &send(&fill, 100), None);
    w.run(2 * SEC);
    assert!([0, 104].contains(&w.take(0)[0].status));
    assert!(w.take(1).iter().all(|t| t.id != p.id));
    w.finish();
}

/// A machine that was started again at its address knows nothing of descriptors that the one before it gave.
fn descriptors_of_a_machine_before<S: Stack>() {
    let mut w = World::<S>::new(2);
    let b = w.source(1, 100, 1);
    let old = w.add(1, b, &Request::PassiveSend { len: 100 }, None).desc.unwrap();
    w.with(1, |d, tm| d.stop(tm, true)).unwrap();
    w.take(1);
    w.run(SEC);
    w.take(1);
    w.with(1, |d, tm| d.tm_fini(tm)).unwrap();
    w.ends[1].tm = w.with(1, |d, _| d.tm_init());
    w.start(1);
    let b = w.source(1, 100, 2);
    let new = w.add(1, b, &Request::PassiveSend { len: 100 }, None);
    let b = w.sink(0, 100);
    let id = w.add(0, b, &Request::ActiveRecv { desc: old }, None).id;
    w.run(2 * SEC);
    // netsock's connection is lost; LNet has no answer.
    w.with(0, |d, _| d.del(id));
    let got = w.take(0);
    assert!(got.len() == 1 && [104, ECANCELED].contains(&got[0].status), "{got:?}");
    assert!(w.take(1).is_empty(), "a buffer that nobody asked for");
    let b = w.sink(0, 100);
    w.add(0, b, &Request::ActiveRecv { desc: new.desc.unwrap() }, None);
    w.run(2 * SEC);
    assert!(w.take(0)[0].bytes == bytes(100, 2));
    w.finish();
}

fn refused_memory<S: Stack>() {
    let mut w = World::<S>::new(1);
    let limits = w.with(0, |d, _| d.limits());
    let (two, _) = pages((1 << 20) + 1, 1);
    let r = w.with(0, |d, _| d.register(Memory::Send(two)));
    assert_eq!(limits.desc, 48);
    match r {
        Err(u) => assert_eq!((S::RETAINS, u.why.errno(), limits.buffer), (true, 27, 1 << 20)),
        Ok(b) => {
            assert!(!S::RETAINS);
            w.with(0, |d, _| d.deregister(b)).unwrap();
        }
    }
    // Two runs that do not begin and end with pages: 257 of them.
    match w.with(0, |d, _| d.register(Memory::Recv(into(1 << 20)))) {
        Err(u) => assert_eq!((S::RETAINS, u.why.errno()), (true, 27)),
        Ok(b) => {
            assert!(!S::RETAINS);
            w.with(0, |d, _| d.deregister(b)).unwrap();
        }
    }
    let none = w.with(0, |d, _| d.register(Memory::Send(Default::default()))).unwrap_err();
    assert_eq!(none.why.errno(), 22);
    let sizes = w.with(0, |d, _| [d.rpc_sizes(0), d.rpc_sizes(1), d.rpc_sizes(100_000)]);
    let want = if S::RETAINS {
        [(1 << 20, 1), (4096, 256), (100_000, 10)]
    } else {
        [(limits.buffer, 1), (4096, 1), (100_000, 1)]
    };
    assert_eq!(sizes.map(|s| (s.message, s.messages)), want);
    w.finish();
}

/// A peer that dies: whatever was on its way ends, once, with an error.
fn dead_peers<S: Stack>() {
    for rst in [true, false] {
        let mut w = World::<S>::new(2);
        w.net.window = 100_000;
        let b = w.sink(1, BIG);
        let p = w.add(1, b, &Request::PassiveRecv, None).desc.unwrap();
        let b = w.source(1, BIG, 1);
        let q = w.add(1, b, &Request::PassiveSend { len: BIG as u64 }, None).desc.unwrap();
        let b = w.source(0, BIG, 2);
        w.add(0, b, &Request::ActiveSend { desc: p, len: BIG as u64 }, None);
        let b = w.sink(0, BIG);
        w.add(0, b, &Request::ActiveRecv { desc: q }, None);
        w.run(SEC / 2000);
        let node = w.ends[1].node;
        w.net.kill(node, rst);
        // TCP itself gives up on a silent peer; here somebody has to.
        if !rst {
            for id in w.open(0) {
                w.with(0, |d, _| d.del(id));
            }
        }
        w.run(400 * SEC);
        let got = w.take(0);
        assert_eq!(got.len(), 2, "{:?}", w.open(0));
        assert!(got.iter().all(|t| t.status != 0), "{got:?}");
        w.ends.pop();
        w.finish();
    }
}

/// A node that goes down: its machine has failed, once, each of its buffers has ended, and no machine starts there any more.
fn nodes_that_go_down<S: Stack>() {
    for idle in [true, false] {
        let mut w = World::<S>::new(2);
        if !idle {
            let b = w.sink(1, BIG);
            let p = w.add(1, b, &Request::PassiveRecv, None).desc.unwrap();
            let b = w.source(0, BIG, 2);
            w.add(0, b, &Request::ActiveSend { desc: p, len: BIG as u64 }, None);
        }
        let waits = w.msg_recv(0, 4096, None);
        let b = w.source(0, BIG, 1);
        let fetched = w.add(0, b, &Request::PassiveSend { len: BIG as u64 }, None).id;
        w.run(SEC / 2000);
        let node = w.ends[0].node;
        w.net.op(node, Op::Shutdown { tag: 7 });
        w.run(60 * SEC);
        let got = w.take(0);
        assert!(w.open(0).is_empty(), "{:?}", w.open(0));
        for id in [waits, fetched] {
            let ends: Vec<_> = got.iter().filter(|t| t.id == id).collect();
            assert!(matches!(ends[..], [t] if t.last && t.status != 0), "{ends:?}");
        }
        let failed = |w: &World<S>| {
            let of = |e: &Event| matches!(e, Event::State { state: TmState::Failed, status: ESHUTDOWN, .. });
            w.ends[0].others.iter().filter(|e| of(e)).count()
        };
        assert_eq!(failed(&w), 1, "{:?}", w.ends[0].others);
        assert_eq!(w.with(0, |d, tm| d.state(tm)), TmState::Failed);
        w.del_all(1);
        w.finish();
    }
}

/// Several messages in one buffer, until there are as many as it may have, or too little is left (§5.7).
#[test]
fn lnet_buffers_take_several_messages() {
    for (lend, min, max, lens) in
        [(false, 300, 3, [300, 200, 300]), (true, 300, 3, [300, 200, 300]), (false, 300, 9, [300, 300, 110])]
    {
        let mut w = World::<OverLnet>::new(2);
        let b = if lend { w.lent(1, 1000) } else { w.sink(1, 1000) };
        let id = w.add(1, b, &recv(min, max), None).id;
        let mut at = 0;
        for (n, len) in lens.into_iter().enumerate() {
            w.msg_send(0, 1, (len, n as u64), None);
            w.run(SEC);
            let got = w.take(1);
            assert_eq!(got.len(), 1);
            let t = &got[0];
            assert_eq!((t.id, t.status, t.offset, t.last), (id, 0, at, n == 2), "{lend} {max}");
            assert!(t.bytes == bytes(len, n as u64));
            at += len as u64;
            assert_eq!(get(&w.ends[1].d).messages(id), if n == 2 { 0 } else { n as u32 + 1 });
        }
        w.take(0);
        // All of them are there.
        let b = w.home(1, id);
        let all: Vec<u8> = lens.into_iter().enumerate().flat_map(|(n, len)| bytes(len, n as u64)).collect();
        assert!(b.bytes(0, at).collect::<Vec<_>>().concat() == all);
        // Given up after the first: what came stays, and the end is told.
        w.add(1, b, &recv(min, max), None);
        w.msg_send(0, 1, (100, 9), None);
        w.run(SEC);
        assert!(!w.take(1)[0].last);
        w.with(1, |d, _| d.del(id));
        w.run(SEC);
        let got = w.take(1);
        assert_eq!((got.len(), got[0].status, got[0].last), (1, ECANCELED, true));
        w.finish();
    }
}

/// Messages in one buffer whose events are taken after it has ended: each is shown where it lies, and the last event gives it back.
#[test]
fn lnet_messages_are_there_until_the_last_event() {
    let mut w = World::<OverLnet>::new(2);
    let b = w.sink(1, 1000);
    let id = w.add(1, b, &recv(300, 3), None).id;
    for seed in 0..3 {
        w.msg_send(0, 1, (200, seed), None);
    }
    w.run(SEC);
    assert_eq!(w.with(1, |d, tm| d.queue_len(tm, Queue::MsgRecv)), 0);
    assert!(!w.with(1, |d, _| d.del(id)), "it has ended");
    let got = w.take(1);
    let all: Vec<_> = got.iter().map(|t| (t.offset, t.last, t.bytes == bytes(200, t.offset / 200))).collect();
    assert_eq!(all, [(0, false, true), (200, false, true), (400, true, true)]);
    w.finish();
}

/// netsock has one message a buffer, whatever was asked for.
#[test]
fn sock_buffers_take_one() {
    let mut w = World::<OverSock>::new(2);
    let b = w.sink(1, 1000);
    w.add(1, b, &recv(100, 3), None);
    w.msg_send(0, 1, (300, 1), None);
    w.run(SEC);
    let got = w.take(1);
    assert_eq!((got.len(), got[0].last, got[0].bytes.len()), (1, true, 300));
    w.finish();
}

/// Machines of one portal are told apart by their numbers, the highest first.
#[test]
fn lnet_machines_share_a_portal() {
    let mut w = World::<OverLnet>::new(2);
    let star: Vec<String> = (0..3)
        .map(|_| {
            w.with(0, |d, _| {
                let tm = d.tm_init();
                d.start(tm, "10.0.0.1@tcp:12345:34:*").unwrap();
                d.own_ep(tm).map(|e| d.ep_name(e).unwrap()).unwrap()
            })
        })
        .collect();
    assert_eq!(star, [4095, 4094, 4093].map(|n| format!("10.0.0.1@tcp:12345:34:{n}")));
    w.msg_recv(0, 100, None);
    let ep = w.with(1, |d, tm| d.ep_create(tm, &star[1])).unwrap();
    let b = w.source(1, 100, 1);
    w.add(1, b, &Request::MsgSend { to: ep, len: 100 }, None);
    w.with(1, |d, _| d.ep_put(ep)).unwrap();
    w.run(SEC);
    // Sent, and dropped there: that machine waits for nothing.
    assert_eq!(w.take(1)[0].status, 0);
    assert!(w.take(0).is_empty());
}

/// A connection is lost while nobody reads it, since a message waits there for its buffer. What TCP has sent whole and nobody
/// acknowledged ends with it, given up or not.
#[test]
fn sock_sends_end_with_a_connection_that_nobody_reads() {
    for given_up in [false, true] {
        let mut w = World::<OverSock>::new(2);
        let b = w.source(1, 5000, 1);
        let answer = w.add(1, b, &Request::PassiveSend { len: 5000 }, None);
        let b = w.sink(0, 5000);
        w.add(0, b, &Request::ActiveRecv { desc: answer.desc.unwrap() }, None);
        w.msg_send(0, 1, (300, 2), None);
        let come = 2 * HDR + 300;
        w.net.run_until(2 * SEC, |net| net.links() > 0 && net.arrived(0, 1) == come);
        assert_eq!((w.net.arrived(0, 1), w.net.arrived(0, 0)), (come, 0), "the answer is under way");
        w.net.cut(0, Cut::Fin);
        if given_up {
            assert!(w.with(1, |d, _| d.del(answer.id)));
        }
        w.run(SEC);
        // It may be fetched again unless it was given up.
        let got: Vec<_> = w.take(1).iter().map(|t| (t.id, t.status)).collect();
        assert_eq!(got, if given_up { vec![(answer.id, ECANCELED)] } else { vec![] });
        assert_eq!(get(&w.ends[1].d).xprt().machines().map(|m| m.gauges().conns).sum::<usize>(), 0);
        w.finish();
    }
}

/// A peer that is not read shuts its window and forgets the connection: whoever waits for the window hears of it.
#[test]
fn sock_sends_that_wait_for_a_window_hear_of_a_reset() {
    let mut net = Net::new();
    net.window = 3000;
    let mut w = World::<OverSock>::on(net, 2);
    (0..2).for_each(|i| w.start(i));
    let node = w.ends[0].node;
    w.net.nodes[node].paused = true;
    w.msg_send(1, 0, (60_000, 1), None);
    w.run(SEC);
    assert!(w.take(1).is_empty());
    w.net.cut(0, Cut::ResetOne(1));
    w.run(SEC);
    let got = w.take(1);
    assert_eq!(got.iter().map(|t| t.status).collect::<Vec<_>>(), [ECONNRESET]);
    w.net.resume(node);
    w.finish();
}
