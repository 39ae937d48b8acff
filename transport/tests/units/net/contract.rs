//! The contract, rule by rule.

use super::world::{Stack, World};
use transport::net::{Colour, Event, NetError, Provision, Queue, Request, TmState};
use transport::testing::data::bytes;
use transport::testing::net::SEC;

const ECANCELED: i32 = 125;
const ETIMEDOUT: i32 = 110;

all! {
    states
    names_that_are_none
    every_queue
    adds_that_are_refused
    references
    replies
    pools
    sync_delivery
    statistics
    aborts
    drains
}

/// Of those who cannot be reached, and so differ by datagrams.
mod not_by_datagrams {
    use super::{cancels, timeouts};

    both! { timeouts cancels }
}

fn errno<T: std::fmt::Debug>(r: Result<T, NetError>) -> i32 {
    r.map_err(|e| e.errno()).unwrap_err()
}

fn recv(min_size: u64, max_msgs: u32) -> Request {
    Request::MsgRecv { min_size, max_msgs }
}

/// States that the others told of, with their status.
fn told<S: Stack>(w: &World<S>, i: usize) -> Vec<(TmState, i32)> {
    let state = |e: &Event| match e {
        Event::State { state, status, .. } => Some((*state, *status)),
        _ => None,
    };
    w.ends[i].others.iter().filter_map(state).collect()
}

fn states<S: Stack>() {
    let mut w = World::<S>::cold(1);
    assert_eq!(w.with(0, |d, tm| d.state(tm)), TmState::Initialized);
    let b = w.sink(0, 100);
    assert_eq!(errno(w.try_add(0, b, &recv(1, 1), None)), 22);
    assert_eq!(w.with(0, |d, tm| errno(d.ep_create(tm, &S::name(1)))), 22);
    assert_eq!(w.with(0, |d, tm| (errno(d.pending(tm)), errno(d.confine(tm, 2)))), (22, 22));
    w.with(0, |d, tm| d.confine(tm, 1)).unwrap();
    assert_eq!(w.with(0, |d, _| errno(d.fini())), 16);
    // The event comes before anything may be relied on; the machine is taken away when it was taken.
    w.with(0, |d, tm| d.start(tm, &S::name(0))).unwrap();
    w.run(SEC / 1000);
    assert_eq!(w.with(0, |d, tm| errno(d.start(tm, &S::name(0)))), 22);
    assert_eq!(
        w.with(0, |d, tm| (
            errno(d.confine(tm, 1)),
            errno(d.deliver_synchronously(tm)),
            errno(d.tm_fini(tm))
        )),
        (22, 22, 22)
    );
    w.take(0);
    assert_eq!(told(&w, 0), [(TmState::Started, 0)]);
    let own = w.with(0, |d, tm| d.own_ep(tm)).unwrap();
    assert!(w.with(0, |d, _| d.ep_put(own)).is_err(), "the machine's own reference");
    w.with(0, |d, tm| d.stop(tm, false)).unwrap();
    w.run(SEC / 1000);
    assert_eq!(
        w.with(0, |d, tm| (d.state(tm), errno(d.stop(tm, false)), errno(d.tm_fini(tm)))),
        (TmState::Stopped, 22, 16)
    );
    w.take(0);
    assert_eq!(told(&w, 0), [(TmState::Started, 0), (TmState::Stopped, 0)]);
    w.with(0, |d, tm| d.tm_fini(tm)).unwrap();
    assert_eq!(w.with(0, |d, tm| (d.state(tm), errno(d.tm_fini(tm)))), (TmState::Undefined, 22));
    // Another one at the same address; one that is stopped before it was started.
    w.ends[0].tm = w.with(0, |d, _| d.tm_init());
    w.start(0);
    let second = w.with(0, |d, _| d.tm_init());
    w.with(0, |d, _| d.stop(second, true)).unwrap();
    w.take(0);
    assert_eq!(w.with(0, |d, _| d.state(second)), TmState::Stopped);
    w.with(0, |d, _| d.tm_fini(second)).unwrap();
    w.finish();
}

fn names_that_are_none<S: Stack>() {
    let mut w = World::<S>::new(1);
    for bad in [
        "",
        "1.2.3@tcp:12345:34:1",
        "10.0.0.2@tcp:12345:34:*",
        "10.0.0.2@tcp:1:34:1",
        "10.0.0.2@tcp:12345:34:5000",
    ] {
        let e = w.with(0, |d, tm| d.ep_create(tm, bad)).unwrap_err();
        assert!([22, 71].contains(&e.errno()), "{bad}: {e}");
    }
    // No name, another node's, one that is taken: refused at once, or by an event.
    let (others, taken) = (S::name(8), S::name(0));
    for (bad, why) in [("nonsense", [22, 22]), (&others, [99, 2]), (&taken, [98, 98])] {
        let tm = w.with(0, |d, _| d.tm_init());
        let status = match w.with(0, |d, _| d.start(tm, bad)) {
            Err(e) => e.errno(),
            Ok(()) => {
                w.run(SEC / 1000);
                w.take(0);
                told(&w, 0).last().unwrap().1
            }
        };
        assert!(why.contains(&status), "{bad}: {status}");
        assert_eq!(w.with(0, |d, _| d.state(tm)), TmState::Failed);
        w.with(0, |d, _| d.tm_fini(tm)).unwrap();
    }
    w.finish();
    // The native form has no *.
    let Some((form, _)) = taken.rsplit_once(':').filter(|_| !taken.starts_with("inet")) else { return };
    let mut w = World::<S>::cold(1);
    w.with(0, |d, tm| d.start(tm, &format!("{form}:*"))).unwrap();
    w.take(0);
    let own = w.with(0, |d, tm| d.own_ep(tm).map(|e| d.ep_addr(e).unwrap().to_string())).unwrap();
    assert!(!own.contains('*'), "{own}");
    w.finish();
}

fn every_queue<S: Stack>() {
    let mut w = World::<S>::new(2);
    for (n, len) in [1, 100, 70_000, 1 << 19].into_iter().enumerate() {
        let room = if n % 2 == 0 { w.sink(1, len) } else { w.lent(1, len) };
        let m = w.add(1, room, &recv(len as u64, 1), None).id;
        let room = if n % 2 == 0 { w.lent(1, len) } else { w.sink(1, len) };
        let p = w.add(1, room, &Request::PassiveRecv, None);
        let data = w.source(1, len, 3);
        let q = w.add(1, data, &Request::PassiveSend { len: len as u64 }, None);
        let (to, from) = (p.desc.unwrap(), q.desc.unwrap());
        assert_eq!((to.bytes().len(), from.bytes().len()), (48, 48));
        w.msg_send(0, 1, (len, 1), None);
        let data = w.source(0, len, 2);
        w.add(0, data, &Request::ActiveSend { desc: to, len: len as u64 }, None);
        let room = w.sink(0, len);
        let f = w.add(0, room, &Request::ActiveRecv { desc: from }, None).id;
        w.run(20 * SEC);
        let got = w.take(1);
        assert_eq!((got.len(), w.take(0).iter().filter(|t| t.id != f).count()), (3, 2));
        for t in got {
            let want = if t.id == m {
                bytes(len, 1)
            } else if t.id == p.id {
                bytes(len, 2)
            } else {
                Vec::new()
            };
            assert!(t.status == 0 && t.bytes == want && t.last && t.offset == 0, "{:?}", t.status);
            assert_eq!(t.from.is_some(), t.id == m);
        }
        let back = w.home(0, f);
        assert!(back.bytes(0, len as u64).collect::<Vec<_>>().concat() == bytes(len, 3));
        // The same buffer again, for less.
        let q = w.source(1, 1, 4);
        let q = w.add(1, q, &Request::PassiveSend { len: 1 }, None);
        w.add(0, back, &Request::ActiveRecv { desc: q.desc.unwrap() }, None);
        w.run(SEC);
        assert_eq!(w.take(0).pop().unwrap().bytes, bytes(1, 4));
        w.take(1);
    }
    w.finish();
}

fn adds_that_are_refused<S: Stack>() {
    let mut w = World::<S>::new(2);
    let now = w.net.now;
    let ep = w.with(0, |d, tm| d.ep_create(tm, &S::name(1))).unwrap();
    let send = |len| Request::MsgSend { to: ep, len };
    let (now, past) = (Some(now), Some(now - 1));
    for (b, req, until, want) in [
        (w.sink(0, 100), recv(1, 1), now, 62),
        (w.sink(0, 100), recv(1, 1), past, 62),
        (w.source(0, 100, 1), send(100), past, 62),
        (w.sink(0, 100), recv(101, 1), None, 22),
        (w.sink(0, 100), recv(0, 1), None, 22),
        (w.sink(0, 100), recv(1, 0), None, 22),
        (w.sink(0, 100), send(1), None, 22),
        (w.source(0, 100, 1), recv(1, 1), None, 22),
        (w.source(0, 100, 1), send(0), None, 22),
        (w.source(0, 100, 1), send(101), None, 22),
        (w.source(0, 100, 1), Request::PassiveRecv, None, 22),
        (w.sink(0, 100), Request::PassiveSend { len: 1 }, None, 22),
    ] {
        assert_eq!(errno(w.try_add(0, b, &req, until)), want, "{req:?}");
    }
    w.with(0, |d, _| d.ep_put(ep)).unwrap();
    let b = w.source(0, 100, 1);
    assert_eq!(errno(w.try_add(0, b, &send(100), None)), 22, "an end-point that is gone");
    let foreign = w.sink(1, 100);
    let id = foreign.id();
    let u = w.with(0, |d, tm| d.add(tm, foreign, &recv(1, 1), None)).unwrap_err();
    assert_eq!((u.why.errno(), u.buffer.id()), (22, id));
    w.with(1, |d, _| d.deregister(u.buffer)).unwrap();
    assert_eq!(w.with(0, |d, tm| d.stats(tm, Queue::MsgRecv, false)).unwrap().adds, 0);
    assert!(w.take(0).is_empty());
    w.finish();
}

fn timeouts<S: Stack>() {
    let mut w = World::<S>::new(2);
    let q = w.source(1, 100, 1);
    let q = w.add(1, q, &Request::PassiveSend { len: 100 }, None).desc.unwrap();
    let p = w.sink(1, 100);
    let p = w.add(1, p, &Request::PassiveRecv, None).desc.unwrap();
    // Nobody answers there from now on.
    let peer = w.ends[1].node;
    (w.net.nodes[peer].deaf, w.net.nodes[peer].mute) = (true, true);
    let at = w.net.now + SEC / 2;
    let mut ids = vec![w.msg_recv(0, 100, Some(at))];
    for (b, req) in [
        (w.sink(0, 100), Request::PassiveRecv),
        (w.source(0, 100, 1), Request::PassiveSend { len: 100 }),
        (w.sink(0, 100), Request::ActiveRecv { desc: q }),
    ] {
        ids.push(w.add(0, b, &req, Some(at)).id);
    }
    w.run(SEC / 2 - SEC / 100);
    assert!(w.take(0).is_empty());
    w.run(SEC / 10);
    let got = w.take(0);
    assert!(ids.iter().all(|i| got.iter().any(|t| t.id == *i && t.status == ETIMEDOUT)), "{got:?}");
    assert_eq!(got.len(), ids.len());
    // A send ends when the transport lets go of its pages.
    let at = w.net.now + SEC / 2;
    w.msg_send(0, 1, (100, 1), Some(at));
    let b = w.source(0, 100, 1);
    w.add(0, b, &Request::ActiveSend { desc: p, len: 100 }, Some(at));
    w.run(200 * SEC);
    let got = w.take(0);
    assert_eq!(got.iter().map(|t| t.status).collect::<Vec<_>>(), [ETIMEDOUT; 2]);
    // A timeout is of one use: the buffer waits for as long as it takes now.
    let again = w.home(0, ids[0]);
    w.add(0, again, &recv(100, 1), None);
    w.run(10 * SEC);
    assert!(w.take(0).is_empty());
    (w.net.nodes[peer].deaf, w.net.nodes[peer].mute) = (false, false);
    w.finish();
}

fn cancels<S: Stack>() {
    let mut w = World::<S>::new(2);
    let q = w.source(1, 100, 1);
    let q = w.add(1, q, &Request::PassiveSend { len: 100 }, None).desc.unwrap();
    let peer = w.ends[1].node;
    (w.net.nodes[peer].deaf, w.net.nodes[peer].mute) = (true, true);
    let mut ids = vec![w.msg_recv(0, 100, None), w.msg_send(0, 1, (100, 1), None)];
    for (b, req) in [
        (w.sink(0, 100), Request::PassiveRecv),
        (w.source(0, 100, 1), Request::PassiveSend { len: 100 }),
        (w.sink(0, 100), Request::ActiveRecv { desc: q }),
    ] {
        ids.push(w.add(0, b, &req, None).id);
    }
    w.run(SEC / 100);
    assert!(w.take(0).is_empty());
    for id in &ids {
        assert!(w.with(0, |d, _| d.del(*id)));
        w.with(0, |d, _| d.del(*id));
    }
    w.run(200 * SEC);
    let got = w.take(0);
    assert_eq!(got.iter().map(|t| t.status).collect::<Vec<_>>(), [ECANCELED; 5], "{got:?}");
    assert!(ids.iter().all(|id| !w.with(0, |d, _| d.del(*id))), "not queued any more");
    // At once, before the transport has done anything.
    let b = w.sink(0, 100);
    let id = b.id();
    w.add(0, b, &recv(1, 1), None);
    w.with(0, |d, _| d.del(id));
    w.run(SEC / 10);
    assert_eq!(w.take(0)[0].status, ECANCELED);
    (w.net.nodes[peer].deaf, w.net.nodes[peer].mute) = (false, false);
    w.finish();
}

fn references<S: Stack>() {
    let mut w = World::<S>::new(2);
    let (a, b) =
        w.with(0, |d, tm| (d.ep_create(tm, &S::name(1)).unwrap(), d.ep_create(tm, &S::name(1)).unwrap()));
    assert_eq!((a, w.with(0, |d, _| d.ep_refs(a))), (b, 2));
    assert_eq!(w.with(0, |d, _| d.ep_name(a)).unwrap(), S::name(1));
    w.with(0, |d, _| d.ep_get(a)).unwrap();
    for left in [2, 1] {
        w.with(0, |d, _| d.ep_put(a)).unwrap();
        assert_eq!(w.with(0, |d, _| d.ep_refs(a)), left);
    }
    // A queued message has a reference until its event was taken, and let go.
    w.msg_recv(1, 100, None);
    w.msg_send(0, 1, (100, 1), None);
    assert_eq!(w.with(0, |d, _| d.ep_refs(a)), 2);
    w.run(SEC);
    assert_eq!(w.with(0, |d, _| d.ep_refs(a)), 2);
    assert_eq!(w.next(0).unwrap().status, 0);
    assert_eq!(w.with(0, |d, _| d.ep_refs(a)), 2);
    assert_eq!(w.next(0), None);
    assert_eq!(w.with(0, |d, _| d.ep_refs(a)), 1);
    // So has a message that came on its sender.
    let event = w.next(1).unwrap();
    let sender = w.with(1, |d, tm| {
        let ep = d.ep_create(tm, &event.from.unwrap()).unwrap();
        assert_eq!(d.ep_refs(ep), 2);
        ep
    });
    assert_eq!(w.next(1), None);
    assert_eq!(w.with(1, |d, _| d.ep_refs(sender)), 1);
    // A machine with end-points stays.
    w.with(1, |d, tm| d.stop(tm, true)).unwrap();
    w.run(SEC);
    w.take(1);
    assert_eq!(w.with(1, |d, tm| (d.state(tm), errno(d.tm_fini(tm)))), (TmState::Stopped, 16));
    w.with(1, |d, _| d.ep_put(sender)).unwrap();
    assert!(w.with(1, |d, _| d.ep_name(sender)).is_err());
    w.with(0, |d, _| d.ep_put(a)).unwrap();
    w.finish();
}

/// A message comes from an end-point that can be sent to: the peer's machine itself.
fn replies<S: Stack>() {
    let mut w = World::<S>::new(2);
    w.msg_recv(1, 100, None);
    w.msg_recv(0, 100, None);
    w.msg_send(0, 1, (100, 1), None);
    w.run(SEC);
    let from = w.next(1).unwrap().from.unwrap();
    let (ep, own) =
        (w.with(1, |d, tm| d.ep_create(tm, &from)).unwrap(), w.with(0, |d, tm| d.own_ep(tm)).unwrap());
    assert_eq!(
        w.with(1, |d, _| d.ep_addr(ep).unwrap().to_string()),
        w.with(0, |d, _| d.ep_addr(own).unwrap().to_string())
    );
    let b = w.source(1, 50, 2);
    w.add(1, b, &Request::MsgSend { to: ep, len: 50 }, None);
    w.with(1, |d, _| d.ep_put(ep)).unwrap();
    w.run(SEC);
    let got = w.take(0);
    assert!(got.iter().any(|t| t.bytes == bytes(50, 2)), "{got:?}");
    w.finish();
}

fn pools<S: Stack>() {
    let mut w = World::<S>::cold(2);
    let pool = w.with(1, |d, _| d.pool(2, 1));
    let fill = |w: &mut World<S>| {
        let b = w.sink(1, 1000);
        w.pool_put(1, pool, b);
    };
    let p = Provision { pool, min_size: 1000, max_msgs: 1, min_queue: 3 };
    w.with(1, |d, tm| d.attach_pool(tm, p)).unwrap();
    w.with(1, |d, tm| d.colour(tm, Colour(0))).unwrap();
    fill(&mut w);
    w.start(0);
    w.start(1);
    assert_eq!(w.with(1, |d, tm| (d.queue_len(tm, Queue::MsgRecv), d.deficit(tm).unwrap())), (1, 2));
    assert_eq!(w.with(1, |d, tm| errno(d.attach_pool(tm, p))), 22);
    assert_eq!(w.with(1, |d, _| errno(d.pool_fini(pool))), 16);
    // Buffers that are put in go to whoever has too few.
    fill(&mut w);
    fill(&mut w);
    fill(&mut w);
    assert_eq!(w.with(1, |d, tm| (d.queue_len(tm, Queue::MsgRecv), d.deficit(tm).unwrap())), (3, 0));
    assert_eq!(w.with(1, |d, _| d.pool_len(pool)).unwrap(), 1);
    // A message takes one, and the next is there before its event is.
    w.msg_send(0, 1, (500, 1), None);
    w.run(SEC);
    assert_eq!(w.with(1, |d, tm| (d.queue_len(tm, Queue::MsgRecv), d.pool_len(pool).unwrap())), (3, 0));
    let others = &w.ends[1].others;
    assert!(others.iter().any(|e| matches!(e, Event::NotEmpty(p) if *p == pool)), "{others:?}");
    let e = loop {
        match w.with(1, |d, _| d.event()).unwrap() {
            Event::Buffer(e) => break e,
            other => w.ends[1].others.push(other),
        }
    };
    assert_eq!((e.status, e.pool, e.len), (0, Some(pool), 500));
    w.with(1, |d, _| d.pool_put(pool, Colour(0), e.buffer.unwrap())).map_err(|u| u.why).unwrap();
    w.with(1, |d, tm| d.pool_length(tm, 5)).unwrap();
    assert_eq!(w.with(1, |d, tm| (d.queue_len(tm, Queue::MsgRecv), d.deficit(tm).unwrap())), (4, 1));
    assert!(w.with(1, |d, tm| d.stats(tm, Queue::MsgRecv, false)).unwrap().failures >= 3);
    // Nothing is queued anew while the machine stops.
    w.with(1, |d, tm| d.stop(tm, true)).unwrap();
    let mut back = 0;
    for _ in 0..100 {
        w.run(SEC / 100);
        while let Some(e) = w.with(1, |d, _| d.event()) {
            if let Event::Buffer(e) = e {
                back += 1;
                assert_eq!(e.status, ECANCELED);
                w.with(1, |d, _| d.deregister(e.buffer.unwrap())).unwrap();
            }
        }
    }
    assert_eq!((back, w.with(1, |d, tm| d.state(tm))), (4, TmState::Stopped));
    w.with(1, |d, tm| d.tm_fini(tm)).unwrap();
    w.with(1, |d, _| d.pool_fini(pool)).unwrap();
    w.ends[1].tm = w.with(1, |d, _| d.tm_init());
    w.finish();
}

fn sync_delivery<S: Stack>() {
    let mut w = World::<S>::cold(2);
    w.with(1, |d, tm| d.deliver_synchronously(tm)).unwrap();
    w.start(0);
    w.start(1);
    assert_eq!(w.with(0, |d, tm| errno(d.notify(tm))), 22, "a machine whose events do not wait");
    w.msg_recv(1, 100, None);
    w.msg_recv(1, 100, None);
    w.with(1, |d, tm| d.notify(tm)).unwrap();
    assert!(!w.with(1, |d, tm| d.pending(tm)).unwrap());
    w.msg_send(0, 1, (100, 1), None);
    w.msg_send(0, 1, (100, 2), None);
    w.run(SEC);
    assert!(w.with(1, |d, tm| d.pending(tm)).unwrap());
    w.ends[1].others.clear();
    assert!(w.take(1).is_empty(), "events that nobody asked for");
    let signals = |w: &World<S>| w.ends[1].others.iter().filter(|e| matches!(e, Event::Pending(_))).count();
    assert_eq!(signals(&w), 1, "one signal for both");
    assert_eq!(w.with(1, |d, tm| d.deliver_all(tm)).unwrap(), 2);
    assert!(!w.with(1, |d, tm| d.pending(tm)).unwrap());
    assert_eq!(w.take(1).iter().map(|t| t.status).collect::<Vec<_>>(), [0, 0]);
    // Asked when one waits already.
    let id = w.msg_recv(1, 100, None);
    w.with(1, |d, _| d.del(id));
    w.run(SEC / 100);
    w.with(1, |d, tm| d.notify(tm)).unwrap();
    w.take(1);
    assert_eq!(signals(&w), 2);
    // Events that wait are delivered when the machine stops.
    w.with(1, |d, tm| d.stop(tm, false)).unwrap();
    assert_eq!(w.take(1)[0].status, ECANCELED);
    w.finish();
}

fn statistics<S: Stack>() {
    let mut w = World::<S>::new(2);
    for len in [100, 300] {
        w.msg_recv(1, len, None);
        w.msg_send(0, 1, (len, 1), None);
        w.run(SEC);
    }
    let id = w.msg_recv(1, 10, None);
    w.with(1, |d, _| d.del(id));
    w.run(SEC);
    w.take(0);
    w.take(1);
    let s = w.with(1, |d, tm| d.stats(tm, Queue::MsgRecv, true)).unwrap();
    assert_eq!((s.adds, s.dels, s.successes, s.failures, s.bytes, s.max_bytes), (3, 1, 2, 1, 400, 300));
    assert!(s.time > 0);
    assert_eq!(w.with(1, |d, tm| d.stats(tm, Queue::MsgRecv, false)).unwrap(), Default::default());
    let s = w.with(0, |d, tm| d.stats(tm, Queue::MsgSend, false)).unwrap();
    assert_eq!((s.adds, s.successes, s.failures, s.bytes, s.max_bytes), (2, 2, 0, 400, 300));
    w.finish();
}

/// With abort everything that is queued is given up, and the last event is the machine's.
fn aborts<S: Stack>() {
    let mut w = World::<S>::new(2);
    w.msg_recv(0, 100, None);
    let b = w.sink(0, 100);
    w.add(0, b, &Request::PassiveRecv, None);
    w.msg_recv(1, 100, None);
    w.msg_send(0, 1, (100, 1), None);
    w.run(SEC);
    w.with(0, |d, tm| d.stop(tm, true)).unwrap();
    let b = w.sink(0, 100);
    assert_eq!(errno(w.try_add(0, b, &recv(1, 1), None)), 22, "a machine that stops");
    w.run(SEC);
    assert_eq!(w.with(0, |d, tm| d.state(tm)), TmState::Stopping, "events were not taken");
    let mut statuses: Vec<i32> = w.take(0).iter().map(|t| t.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [0, ECANCELED, ECANCELED]);
    w.run(SEC);
    w.take(0);
    assert_eq!(told(&w, 0), [(TmState::Started, 0), (TmState::Stopped, 0)]);
    w.finish();
}

/// Without, it is stopped when they have ended by themselves.
fn drains<S: Stack>() {
    let mut w = World::<S>::new(2);
    let id = w.msg_recv(1, 100, None);
    w.with(1, |d, tm| d.stop(tm, false)).unwrap();
    w.run(SEC);
    assert!(w.take(1).is_empty());
    assert_eq!(w.with(1, |d, tm| d.state(tm)), TmState::Stopping);
    w.msg_send(0, 1, (100, 1), None);
    w.run(SEC);
    let got = w.take(1);
    assert_eq!((got.len(), got[0].id, got[0].status), (1, id, 0));
    w.run(SEC);
    w.take(1);
    assert_eq!(w.with(1, |d, tm| d.state(tm)), TmState::Stopped);
    w.finish();
}
