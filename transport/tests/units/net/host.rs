//! A domain with its application on its shard, over both transports: calls from events, nothing between.

use std::sync::{Arc, Mutex};

use hugepages::PrivatePages;
use transport::lnd::{AppId, Config as NodeConfig};
use transport::net::{
    BufEvent, Call, Colour, Domain, Event, Heard, Host, LnetXprt, Memory, NetApp, NetHandle, Provision,
    Queue, Request, Sock, TmSetup, TmState, Xprt, threaded,
};
use transport::netsock::Config;
use transport::node::{Input, Machine};
use transport::testing::net::{Net, SEC};
use transport::testing::netsock::{addr, into, pages};
use transport::testing::pair;
use transport::wire::Nid;

/// Sends a message back and forth so many times.
struct PingPong {
    to: Option<&'static str>,
    turns: usize,
    heard: Arc<Mutex<usize>>,
}

impl<X: Xprt> NetApp<X> for PingPong {
    fn event(&mut self, net: &mut Domain<X>, event: Event) {
        match event {
            Event::State { state: TmState::Started, tm, .. } => {
                let b = net.register(Memory::Recv(into(100))).unwrap();
                net.add(tm, b, &Request::MsgRecv { min_size: 100, max_msgs: 1 }, None).unwrap();
                if let Some(to) = self.to {
                    let b = net.register(Memory::Send(pages(100, 1).0)).unwrap();
                    let to = net.ep_create(tm, to).unwrap();
                    net.add(tm, b, &Request::MsgSend { to, len: 100 }, None).unwrap();
                }
            }
            Event::Buffer(e) => {
                assert_eq!(e.status, 0);
                if e.queue != Queue::MsgRecv {
                    net.deregister(e.buffer.unwrap()).unwrap();
                    return;
                }
                *self.heard.lock().unwrap() += 1;
                if self.turns == 0 {
                    return;
                }
                self.turns -= 1;
                let buffer = e.buffer.unwrap();
                net.add(e.tm, buffer, &Request::MsgRecv { min_size: 100, max_msgs: 1 }, None).unwrap();
                let b = net.register(Memory::Send(pages(100, 1).0)).unwrap();
                // The queued buffer takes a reference of its own before the event's goes.
                net.add(e.tm, b, &Request::MsgSend { to: e.ep.unwrap(), len: 100 }, None).unwrap();
            }
            _ => {}
        }
    }
}

fn app(n: u8, to: &'static str) -> (PingPong, Arc<Mutex<usize>>) {
    let heard = Arc::<Mutex<usize>>::default();
    (PingPong { to: (n == 1).then_some(to), turns: 50, heard: heard.clone() }, heard)
}

#[test]
fn over_netsock() {
    let mut net = Net::new();
    let mut heard = Vec::new();
    for n in [2, 1] {
        let (app, count) = app(n, "inet:stream:10.0.0.2@5000");
        heard.push(count);
        let mut d = Domain::new(Sock::new(Config::new(addr(n, 5000), 1)).unwrap(), 0);
        let tm = d.tm_init();
        d.start(tm, &format!("inet:stream:10.0.0.{n}@5000")).unwrap();
        let cfg = NodeConfig::new(Nid::tcp([10, 0, 0, n].into(), 0), 1);
        let node = net.add(cfg.clone());
        net.nodes[node].machine = Machine::new(cfg).with(5000, Box::new(Host::new(d, app))).unwrap();
        net.input(node, Input::Timer);
    }
    net.run(SEC);
    let heard: Vec<usize> = heard.iter().map(|h| *h.lock().unwrap()).collect();
    assert_eq!(heard, [51, 50]);
}

#[test]
fn over_lnet() {
    let mut net = Net::new();
    let mut hosts = Vec::new();
    for n in [2, 1] {
        let cfg = pair::config(n);
        let mut d = Domain::new(LnetXprt::new(AppId::FIRST, cfg.nids().collect(), cfg.pid), 0);
        let tm = d.tm_init();
        d.start(tm, &format!("10.0.0.{n}@tcp:12345:34:1")).unwrap();
        let (app, heard) = app(n, "10.0.0.2@tcp:12345:34:1");
        hosts.push((net.add(cfg), Host::new(d, app), heard));
    }
    let until = net.now + SEC;
    loop {
        for (node, host, _) in &mut hosts {
            for e in net.take_events(*node) {
                host.heard(net.now, e);
            }
            host.run(net.now);
            while let Some((app, op)) = host.net.xprt_mut().op() {
                net.input(*node, Input::Cmd(app, op));
            }
        }
        if !net.step_before(until) && hosts.iter().all(|h| net.nodes[h.0].events.is_empty()) {
            break;
        }
    }
    let heard: Vec<usize> = hosts.iter().map(|h| *h.2.lock().unwrap()).collect();
    assert_eq!(heard, [51, 50]);
}

/// Waits for what the shard says.
fn hear(net: &mut Net, handle: &NetHandle) -> Heard {
    for _ in 0..10_000 {
        if let Some(heard) = handle.heard() {
            return heard;
        }
        net.run(SEC / 10_000);
    }
    panic!("nothing is heard")
}

/// A thread has all by calls and events; when it goes its machine stops, and its buffers are deregistered.
#[test]
fn a_thread_behind_rings() {
    let mut net = Net::new();
    let threads = [1, 2].map(|n| {
        let (handle, app) = threaded(4);
        let d = Domain::new(Sock::new(Config::new(addr(n, 5000), 1)).unwrap(), 0);
        let cfg = NodeConfig::new(Nid::tcp([10, 0, 0, n].into(), 0), 1);
        let node = net.add(cfg.clone());
        net.nodes[node].machine = Machine::new(cfg).with(5000, Box::new(Host::new(d, app))).unwrap();
        net.input(node, Input::Timer);
        handle.call(Call::Start(7, format!("inet:stream:10.0.0.{n}@5000").into())).unwrap();
        let Heard::Machine(7, Ok(tm)) = hear(&mut net, &handle) else { panic!() };
        let started = hear(&mut net, &handle);
        assert!(matches!(started, Heard::Event(Event::State { state: TmState::Started, .. })), "{started:?}");
        (handle, tm)
    });
    let [(a, from), (b, to)] = &threads;
    b.call(Call::Register(1, Memory::Recv(into(100)))).unwrap();
    let Heard::Registered(1, Ok(room)) = hear(&mut net, b) else { panic!() };
    b.call(Call::Add(2, *to, room, Request::MsgRecv { min_size: 100, max_msgs: 1 }, None)).unwrap();
    assert!(matches!(hear(&mut net, b), Heard::Added(2, Ok(_))));
    a.call(Call::EpCreate(3, *from, "10.0.0.2@tcp:12345:34:*".into())).unwrap();
    assert!(matches!(hear(&mut net, a), Heard::EndPoint(3, Err(_))));
    a.call(Call::EpCreate(3, *from, "inet:stream:10.0.0.2@5000".into())).unwrap();
    let Heard::EndPoint(3, Ok(ep)) = hear(&mut net, a) else { panic!() };
    a.call(Call::Register(4, Memory::Send(pages(100, 1).0))).unwrap();
    let Heard::Registered(4, Ok(data)) = hear(&mut net, a) else { panic!() };
    a.call(Call::Add(5, *from, data, Request::MsgSend { to: ep, len: 100 }, None)).unwrap();
    assert!(matches!(hear(&mut net, a), Heard::Added(5, Ok(_))));
    let Heard::Event(Event::Buffer(BufEvent { status: 0, buffer: Some(_), .. })) = hear(&mut net, a) else {
        panic!()
    };
    let Heard::Event(Event::Buffer(e)) = hear(&mut net, b) else { panic!() };
    assert_eq!((e.status, e.len), (0, 100));
    b.call(Call::EpPut(e.ep.unwrap())).unwrap();
    b.call(Call::Deregister(6, e.buffer.unwrap())).unwrap();
    assert!(matches!(hear(&mut net, b), Heard::Deregistered(6, Ok(_))));
    b.call(Call::Stop(*to, false)).unwrap();
    let stopped = hear(&mut net, b);
    assert!(matches!(stopped, Heard::Event(Event::State { state: TmState::Stopped, .. })), "{stopped:?}");
    b.call(Call::Fini(8, *to)).unwrap();
    assert!(matches!(hear(&mut net, b), Heard::Gone(8, Ok(()))));
    drop(threads);
    net.run(20 * SEC);
    for node in [0, 1] {
        assert_eq!(net.nodes[node].machine.gauges().conns, 0, "a machine whose thread has gone");
    }
}

/// Buffers in the pool of a thread that goes are given up, and those that its machine took from it; so are calls that it made
/// last.
#[test]
fn a_thread_that_goes_leaves_no_buffer_behind() {
    let (mut net, backing) = (Net::new(), Arc::new(PrivatePages));
    let (handle, app) = threaded(8);
    let d = Domain::new(Sock::new(Config::new(addr(1, 5000), 1)).unwrap(), 0);
    let cfg = NodeConfig::new(Nid::tcp([10, 0, 0, 1].into(), 0), 1);
    let node = net.add(cfg.clone());
    net.nodes[node].machine = Machine::new(cfg).with(5000, Box::new(Host::new(d, app))).unwrap();
    net.input(node, Input::Timer);
    let mut result = |call: Call| {
        let tag = call.tag();
        handle.call(call).unwrap();
        loop {
            let heard = hear(&mut net, &handle);
            if heard.tag() == tag {
                return heard;
            }
        }
    };
    let Heard::Pool(1, pool) = result(Call::Pool(1, 0, 0)) else { panic!() };
    let provision = Provision { pool, min_size: 100, max_msgs: 1, min_queue: 2 };
    let setup = TmSetup { pool: Some(provision), ..TmSetup::new("inet:stream:10.0.0.1@5000") };
    assert!(matches!(result(Call::StartWith(2, Box::new(setup))), Heard::Machine(2, Ok(_))));
    let mut last = None;
    for _ in 0..5 {
        let room = Memory::room(backing.clone(), 100).unwrap();
        let Heard::Registered(3, Ok(buffer)) = result(Call::Register(3, room)) else { panic!() };
        if let Some(before) = last.replace(buffer) {
            assert!(matches!(result(Call::PoolPut(4, pool, Colour::ANY, before)), Heard::Put(4, Ok(()))));
        }
    }
    assert!(matches!(result(Call::PoolLen(5, pool)), Heard::Count(5, Ok(2))));
    handle.call(Call::PoolPut(4, pool, Colour::ANY, last.unwrap())).unwrap();
    drop(handle);
    net.run(SEC);
    assert_eq!(Arc::strong_count(&backing), 1, "buffers that nobody has");
}
