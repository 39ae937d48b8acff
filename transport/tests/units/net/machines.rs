//! Several machines of a domain over netsock, each at an address of its own on its node.

use std::sync::{Arc, Mutex};

use transport::lnd::Config as NodeConfig;
use transport::net::{
    BufEvent, BufId, Desc, Domain, Event, Memory, NetError, Provision, Queue, Request, Sock, TmId, TmState,
};
use transport::netsock::Config;
use transport::node::{Input, Machine};
use transport::testing::net::{Cut, Net, SEC};
use transport::testing::netsock::{addr, into, pages};
use transport::wire::Nid;

use super::world::{Carried, OverSock, Shared, World, get};

const MS: u64 = SEC / 1000;
const EADDRINUSE: i32 = 98;
const EADDRNOTAVAIL: i32 = 99;
const ENETDOWN: i32 = 100;
const ETIMEDOUT: i32 = 110;
const ECANCELED: i32 = 125;

/// A node with a domain that has no port before a machine asks for one.
struct Node {
    node: usize,
    d: Shared<Sock>,
}

fn node(net: &mut Net, n: u8) -> Node {
    let cfg = Config { stall: 3 * SEC, ..Config::new(addr(n, 1), u64::from(n) << 56) };
    let d = Arc::new(Mutex::new(Domain::new(Sock::new(cfg).unwrap(), 0)));
    let cfg = NodeConfig { tx_window: u64::MAX / 4, ..NodeConfig::new(Nid::tcp([10, 0, 0, n].into(), 0), 1) };
    let node = net.add(cfg.clone());
    net.nodes[node].machine = Machine::new(cfg).with(0, Box::new(Carried(d.clone()))).unwrap();
    Node { node, d }
}

/// The event of a buffer: its machine, its queue, the status, who it came from and the first byte.
type End = (TmId, Queue, i32, Option<String>, Option<u8>);

impl Node {
    fn with<R>(&self, net: &mut Net, f: impl FnOnce(&mut Domain<Sock>) -> R) -> R {
        let r = {
            let mut d = get(&self.d);
            d.turn(net.now);
            f(&mut d)
        };
        net.input(self.node, Input::Timer);
        r
    }

    /// Starts a machine; gives it with the name of its own end-point, or the error number with which it fails.
    fn start(&self, net: &mut Net, name: &str) -> Result<(TmId, String), i32> {
        let tm = self.with(net, |d| {
            let tm = d.tm_init();
            d.start(tm, name).map(|()| tm).map_err(|e: NetError| e.errno())
        })?;
        net.run(MS);
        match self.events(net)[..] {
            [Event::State { tm: of, state: TmState::Started, ep: Some(ep), .. }] if of == tm => {
                Ok((tm, get(&self.d).ep_name(ep).unwrap()))
            }
            [Event::State { tm: of, state: TmState::Failed, status, .. }] if of == tm => {
                self.with(net, |d| d.tm_fini(tm)).unwrap();
                Err(status)
            }
            ref other => panic!("{name}: {other:?}"),
        }
    }

    fn events(&self, net: &mut Net) -> Vec<Event> {
        let all = std::iter::from_fn(|| get(&self.d).event()).collect();
        net.input(self.node, Input::Timer);
        all
    }

    fn listen(&self, net: &mut Net, tm: TmId) -> BufId {
        self.with(net, |d| {
            let b = d.register(Memory::Recv(into(100))).unwrap();
            d.add(tm, b, &Request::MsgRecv { min_size: 100, max_msgs: 1 }, None)
                .map_err(|u| u.why)
                .unwrap()
                .id
        })
    }

    /// Sends a message of 100 bytes of a seed, for at most a second.
    fn send(&self, net: &mut Net, tm: TmId, to: &str, seed: u64) {
        let until = net.now + SEC;
        self.with(net, |d| {
            let to = d.ep_create(tm, to).unwrap();
            let b = d.register(Memory::Send(pages(100, seed).0)).unwrap();
            let send = Request::MsgSend { to, len: 100 };
            d.add(tm, b, &send, Some(until)).map_err(|u| u.why).unwrap();
            d.ep_put(to).unwrap();
        });
    }

    /// The events of buffers, which are deregistered.
    fn ends(&self, net: &mut Net) -> Vec<End> {
        let mut out = Vec::new();
        while let Some(e) = { get(&self.d).event() } {
            let Event::Buffer(BufEvent { tm, queue, status, ep, buffer: Some(b), offset, len, .. }) = e
            else {
                continue;
            };
            let from = ep.map(|ep| get(&self.d).ep_name(ep).unwrap());
            let first = b.bytes(offset, len).next().and_then(|p| p.first().copied());
            get(&self.d).deregister(b).unwrap();
            out.push((tm, queue, status, from, first));
        }
        net.input(self.node, Input::Timer);
        out
    }
}

fn at(n: u8, port: u16) -> String {
    format!("inet:stream:10.0.0.{n}@{port}")
}

/// First byte of the bytes of a seed.
fn first(seed: u64) -> Option<u8> {
    Some(transport::testing::data::byte(seed, 0))
}

#[test]
fn each_at_an_address_of_its_own_that_starts_and_stops_while_others_run() {
    let mut net = Net::new();
    let (a, b) = (node(&mut net, 1), node(&mut net, 2));
    let star = "10.0.0.1@tcp:12345:34:*";
    let names = [at(1, 5001), at(1, 5002), star.to_owned(), star.to_owned()];
    let many: Vec<_> = names.iter().map(|name| a.start(&mut net, name).unwrap()).collect();
    let own: Vec<&str> = many.iter().map(|m| m.1.as_str()).collect();
    assert_eq!(own, [at(1, 5001), at(1, 5002), at(1, 9216), at(1, 9217)]);
    let (peer, there) = b.start(&mut net, &at(2, 6001)).unwrap();
    // A message to each, which has it and no other, and one back from each.
    for (seed, (tm, name)) in (1..).zip(&many) {
        a.listen(&mut net, *tm);
        b.listen(&mut net, peer);
        b.send(&mut net, peer, name, seed);
        a.send(&mut net, *tm, &there, seed + 100);
    }
    net.run(SEC / 2);
    let mut heard = a.ends(&mut net);
    heard.retain(|e| e.1 == Queue::MsgRecv);
    heard.sort_by_key(|e| many.iter().position(|m| m.0 == e.0));
    let want = (1..).zip(&many).map(|(seed, m)| (m.0, Queue::MsgRecv, 0, Some(there.clone()), first(seed)));
    assert_eq!(heard, want.collect::<Vec<_>>());
    let mut from: Vec<_> = b.ends(&mut net).into_iter().filter_map(|e| Some((e.3?, e.4))).collect();
    from.sort();
    let want = (101..).zip(&many).map(|(seed, m)| (m.1.clone(), first(seed)));
    assert_eq!(from, want.collect::<Vec<_>>());
    // Refused: an address that a machine of the domain has, at once; one of LNet's, and one of another node's, by an event.
    let refused = [(at(1, 5002), EADDRINUSE), (at(1, 988), EADDRINUSE), (at(9, 5001), EADDRNOTAVAIL)];
    for (name, errno) in refused {
        assert_eq!(a.start(&mut net, &name), Err(errno), "{name}");
    }
    // One stops; nobody is at its address, the others go on.
    let (stopped, name) = &many[0];
    a.listen(&mut net, *stopped);
    a.listen(&mut net, many[1].0);
    a.with(&mut net, |d| d.stop(*stopped, true)).unwrap();
    assert_eq!(a.ends(&mut net).iter().map(|e| (e.0, e.2)).collect::<Vec<_>>(), [(*stopped, ECANCELED)]);
    net.run(SEC / 10);
    let last = a.events(&mut net);
    assert!(
        matches!(&last[..], [Event::State { tm, state: TmState::Stopped, .. }] if tm == stopped),
        "{last:?}"
    );
    b.send(&mut net, peer, name, 7);
    b.send(&mut net, peer, &many[1].1, 8);
    net.run(2 * SEC);
    assert_eq!(a.ends(&mut net).iter().map(|e| (e.0, e.2)).collect::<Vec<_>>(), [(many[1].0, 0)]);
    let mut statuses: Vec<i32> = b.ends(&mut net).iter().map(|e| e.2).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [0, ETIMEDOUT]);
    a.with(&mut net, |d| d.tm_fini(*stopped)).unwrap();
    // Another one starts there, and takes what comes now.
    let (again, same) = a.start(&mut net, name).unwrap();
    assert_eq!(&same, name);
    a.listen(&mut net, again);
    b.send(&mut net, peer, name, 9);
    net.run(10 * SEC);
    assert_eq!(a.ends(&mut net), [(again, Queue::MsgRecv, 0, Some(there), first(9))]);
    assert_eq!(get(&a.d).xprt().machines().count(), 4);
}

/// Bulk goes to the machine of its descriptor, whichever of a domain's that is.
#[test]
fn a_descriptor_names_its_machine() {
    let mut net = Net::new();
    let (a, b) = (node(&mut net, 1), node(&mut net, 2));
    let many = [5001, 5002, 5003].map(|port| a.start(&mut net, &at(1, port)).unwrap().0);
    let (peer, _) = b.start(&mut net, &at(2, 6001)).unwrap();
    let descs: Vec<Desc> = many
        .iter()
        .map(|tm| {
            a.with(&mut net, |d| {
                let room = d.register(Memory::Recv(into(3000))).unwrap();
                d.add(*tm, room, &Request::PassiveRecv, None).map_err(|u| u.why).unwrap().desc.unwrap()
            })
        })
        .collect();
    for (seed, desc) in [3, 1, 2].map(|n| (n as u64, &descs[n - 1])) {
        b.with(&mut net, |d| {
            let data = d.register(Memory::Send(pages(3000, seed).0)).unwrap();
            let req = Request::ActiveSend { desc: desc.clone(), len: 3000 };
            d.add(peer, data, &req, None).map_err(|u| u.why).unwrap();
        });
    }
    net.run(SEC);
    let mut ends = a.ends(&mut net);
    ends.sort_by_key(|e| many.iter().position(|m| *m == e.0));
    let want = (1..).zip(many).map(|(seed, tm)| (tm, Queue::PassiveRecv, 0, None, first(seed)));
    assert_eq!(ends, want.collect::<Vec<_>>());
}

#[test]
fn a_machine_whose_address_is_lost_fails_and_the_others_go_on() {
    let mut net = Net::new();
    let (a, b) = (node(&mut net, 1), node(&mut net, 2));
    let [lost, other] = [5001, 5002].map(|port| a.start(&mut net, &at(1, port)).unwrap().0);
    let (peer, _) = b.start(&mut net, &at(2, 6001)).unwrap();
    a.listen(&mut net, lost);
    a.listen(&mut net, other);
    net.lose_listener(addr(1, 5001).dialled().unwrap());
    let events: Vec<_> = a.events(&mut net);
    match &events[..] {
        [Event::State { tm, state: TmState::Failed, status: ENETDOWN, .. }, Event::Buffer(e)] => {
            assert_eq!((*tm, e.tm, e.queue, e.status), (lost, lost, Queue::MsgRecv, ECANCELED));
            assert!(e.buffer.is_some());
        }
        _ => panic!("{events:?}"),
    }
    a.with(&mut net, |d| d.tm_fini(lost)).unwrap();
    b.send(&mut net, peer, &at(1, 5002), 3);
    net.run(SEC);
    assert_eq!(a.ends(&mut net).iter().map(|e| (e.0, e.2)).collect::<Vec<_>>(), [(other, 0)]);
    // Its address may be asked for again.
    assert!(a.start(&mut net, &at(1, 5001)).is_ok());
}

/// Both buffers of a machine are being filled by peers that stop in mid-message; a third peer's message takes one of its pool's,
/// beyond the length of the queue.
#[test]
fn a_starved_machine_takes_buffers_of_its_pool() {
    let mut w = World::<OverSock>::cold(4);
    let pool = w.with(0, |d, _| d.pool(0, 0));
    let provision = Provision { pool, min_size: 100, max_msgs: 1, min_queue: 2 };
    w.with(0, |d, tm| d.attach_pool(tm, provision)).unwrap();
    for _ in 0..5 {
        let b = w.sink(0, 1 << 20);
        w.pool_put(0, pool, b);
    }
    (0..4).for_each(|i| w.start(i));
    let state = |w: &mut World<OverSock>| {
        let pooled = w.with(0, |d, _| d.pool_len(pool)).unwrap();
        (w.with(0, |d, tm| d.queue_len(tm, Queue::MsgRecv)), pooled)
    };
    assert_eq!(state(&mut w), (2, 3));
    // Two peers say nothing more in the middle of their messages.
    for i in [1, 2] {
        w.msg_send(i, 0, (1 << 20, i as u64), None);
        let link = w.net.links();
        w.net.run_until(5 * SEC, |net| net.links() > link && net.arrived(link, 1) > 1000);
        w.net.cut(link, Cut::Silence);
    }
    w.run(SEC / 100);
    assert_eq!(state(&mut w), (2, 3), "the queue is as long as it should be");
    w.msg_send(3, 0, (500, 9), None);
    w.run(SEC / 10);
    let got = w.take(0);
    assert_eq!(
        got.iter().map(|t| (t.status, t.bytes.len(), t.pool)).collect::<Vec<_>>(),
        [(0, 500, Some(pool))]
    );
    // Two were added; one of them has its message.
    assert_eq!(state(&mut w), (3, 1));
    assert_eq!(get(&w.ends[0].d).xprt().stats().parked, 1);
    w.run(10 * SEC);
    w.del_all(0);
    w.run(SEC);
}
