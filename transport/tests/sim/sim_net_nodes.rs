//! The `net` contract by threads' handles on whole nodes: over kernel sockets, each node on a thread of its own, and over TCP
//! stacks on queues in virtual time; both transports.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dataplane::mem::{MemConfig, Spread, pair, pair_of_queues};
use dataplane::steer::{KEY, Rss};
use hugepages::{Backing, PrivatePages};
use transport::lnd::{AppId, Config, Shards};
use transport::net::{
    AskError, Call, Domain, Event, Heard, Host, LnetXprt, Memory, NetHandle, Queue, Request, Sock, Threaded,
    TmState, threaded,
};
use transport::netsock::Config as SockConfig;
use transport::node::{NoApp, NodeBuilder, Shard, Turn};
use transport::stream::ShardId;
use transport::wire::Nid;
use transport::wire::netsock::Addr;

use crate::net_suite::{Pass, Side, contract, furnished, several};
use crate::nodes::{beginning, builder, lcores, stack};

const PORT: u16 = 7011;
/// Calls and events that a ring has room for.
const DEPTH: usize = 8;

fn memory() -> Arc<dyn Backing> {
    Arc::new(PrivatePages)
}

fn over_sock(ip: IpAddr, app: Threaded) -> Box<Host<Sock, Threaded>> {
    let addr = Addr::stream(SocketAddr::new(ip, PORT));
    Box::new(Host::new(Domain::new(Sock::new(SockConfig::new(addr, 1)).unwrap(), 0), app))
}

fn over_lnet(cfg: &Config, app: Threaded) -> Host<LnetXprt, Threaded> {
    Host::new(Domain::new(LnetXprt::new(AppId::FIRST, cfg.nids().collect(), cfg.pid), 0), app)
}

fn name(ip: IpAddr, sock: bool) -> String {
    if sock { format!("inet:stream:{ip}@{PORT}") } else { format!("{ip}@tcp:12345:34:1") }
}

/// A node on kernel sockets.
fn on_sockets(ip: IpAddr, sock: bool, app: Threaded) -> Box<dyn Turn> {
    let cfg = Config::new(Nid::tcp(ip, 0), 5);
    let node = NodeBuilder::of(cfg.clone()).unprivileged(9893);
    if sock {
        let node = node.listen_at([9893, PORT].map(|p| SocketAddr::new(ip, p)));
        Box::new(node.sockets(NoApp).unwrap().with(PORT, over_sock(ip, app)).unwrap())
    } else {
        Box::new(node.sockets(over_lnet(&cfg, app)).unwrap())
    }
}

/// Turns a node until it is told to go down, and until it is.
fn turned(mut node: Box<dyn Turn>, down: &AtomicBool) {
    while !down.load(Ordering::Acquire) {
        if !node.turn().is_busy() {
            node.wait(None);
        }
    }
    node.shut_down();
    while !node.is_down() {
        if !node.turn().is_busy() {
            node.wait(None);
        }
    }
    let end = node.end();
    assert!(end.clean, "{:?}", end.left);
}

/// Lets the nodes go whatever becomes of the test.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A part of the contract, for the handles of two domains by these names.
type Part = fn([NetHandle; 2], [String; 2], Pass<'_>);

fn main_part(handles: [NetHandle; 2], names: [String; 2], pass: Pass<'_>) {
    let [ha, hb] = handles;
    let a = Side::start(ha, memory(), &names[0], pass);
    let b = Side::start(hb, memory(), &names[1], pass);
    contract(a, b, pass);
}

fn furnished_part(handles: [NetHandle; 2], names: [String; 2], pass: Pass<'_>) {
    furnished(handles, &memory(), names.each_ref().map(String::as_str), pass);
}

fn several_part(handles: [NetHandle; 2], names: [String; 2], pass: Pass<'_>) {
    several(handles, &memory(), names.each_ref().map(String::as_str), pass);
}

fn over_kernel_sockets(ips: [[u8; 4]; 2], sock: bool, part: Part) {
    let ips = ips.map(IpAddr::from);
    let down = AtomicBool::new(false);
    std::thread::scope(|s| {
        let down = &down;
        let _ends = Ends(down);
        let handles = ips.map(|ip| {
            let (handle, app) = threaded(DEPTH);
            s.spawn(move || turned(on_sockets(ip, sock, app), down));
            handle
        });
        let mut pass = || std::thread::yield_now();
        part(handles, ips.map(|ip| name(ip, sock)), &mut pass);
    });
}

fn over_queues(sock: bool, part: Part) {
    let now = beginning();
    let ips = [Ipv4Addr::new(10, 6, 0, 1), Ipv4Addr::new(10, 6, 0, 2)];
    let (p, q) = pair(&MemConfig::default());
    let ((ha, aa), (hb, ab)) = (threaded(DEPTH), threaded(DEPTH));
    let node = |ip: Ipv4Addr, epoch, port, app| -> Box<dyn Turn> {
        let node = builder(ip, epoch, &now);
        let stack = stack(ip, port, 3, 512);
        if sock {
            let node = node.listen_at([988, PORT].map(|p| SocketAddr::new(ip.into(), p)));
            Box::new(node.over(stack, NoApp).unwrap().with(PORT, over_sock(ip.into(), app)).unwrap())
        } else {
            let cfg = Config::new(Nid::tcp(ip.into(), 0), epoch);
            Box::new(node.over(stack, over_lnet(&cfg, app)).unwrap())
        }
    };
    let mut nodes = [node(ips[0], 1, p, aa), node(ips[1], 2, q, ab)];
    let mut turn = || {
        let busy = nodes.iter_mut().fold(false, |busy, n| n.turn().is_busy() | busy);
        now.fetch_add(if busy { 1_000 } else { 20_000 }, Ordering::Relaxed);
    };
    part([ha, hb], ips.map(|ip| name(ip.into(), sock)), &mut turn);
    nodes.iter_mut().for_each(|n| n.shut_down());
    for _ in 0..3_000_000 {
        if nodes.iter().all(|n| n.is_down()) {
            break;
        }
        let busy = nodes.iter_mut().fold(false, |busy, n| n.turn().is_busy() | busy);
        now.fetch_add(if busy { 1_000 } else { 20_000 }, Ordering::Relaxed);
    }
    for n in &nodes {
        let end = n.end();
        assert!(end.clean, "{:?}", end.left);
        // Pages go out by reference.
        assert_eq!(end.streams.tx_copied_bytes, 0);
    }
}

/// Longer than anything here lasts.
const LONG: Duration = Duration::from_secs(60);

/// The next event of a buffer, waited for.
fn bytes_of(handle: &NetHandle) -> Vec<u8> {
    match handle.wait(LONG) {
        Some(Heard::Event(Event::Buffer(e))) if e.status == 0 => e.parts().collect::<Vec<_>>().concat(),
        other => panic!("{other:?}"),
    }
}

/// Threads that wait for what they asked and for their events, until their nodes end.
fn asked(ips: [[u8; 4]; 2], sock: bool) {
    let ips = ips.map(IpAddr::from);
    let down = AtomicBool::new(false);
    std::thread::scope(|s| {
        let down = &down;
        let ends = Ends(down);
        let [a, b] = ips.map(|ip| {
            let (handle, app) = threaded(DEPTH);
            s.spawn(move || turned(on_sockets(ip, sock, app), down));
            handle
        });
        let [from, to] = [(&a, ips[0]), (&b, ips[1])].map(|(h, ip)| h.start(&name(ip, sock)).unwrap());
        // At once over netsock, by an event over LNet.
        let errno = match a.start(&name(ips[0], sock)) {
            Err(AskError::Refused(e)) if sock => e.errno(),
            Err(AskError::Failed(errno)) if !sock => errno,
            other => panic!("{other:?}"),
        };
        assert_eq!(errno, 98);
        let ep = a.end_point(from, &name(ips[1], sock)).unwrap();
        let room = || Memory::room(memory(), 4096).unwrap();
        b.add(to, room(), Request::MsgRecv { min_size: 4096, max_msgs: 1 }).unwrap();
        assert!(b.wait(Duration::ZERO).is_none() && !b.ended());
        let send = Request::MsgSend { to: ep, len: 9 };
        let refused = a.add(from, room(), send.clone());
        assert!(matches!(&refused, Err(AskError::Unadded(u)) if u.why.errno() == 22), "{refused:?}");
        a.add(from, Memory::copy_of(memory(), b"a message").unwrap(), send).unwrap();
        assert_eq!(bytes_of(&a), b"");
        // Its event comes while something else is asked, and is not lost by it.
        let messages = || match b.ask(Call::Stats(1, to, Queue::MsgRecv, false)) {
            Ok(Heard::Stats(1, Ok(s))) => s.successes,
            other => panic!("{other:?}"),
        };
        while messages() == 0 {}
        assert_eq!(messages(), 1);
        assert_eq!(bytes_of(&b), b"a message");
        // Both rings are full of other calls, which keep their order.
        let mut calls = 0;
        while calls < 64 && a.call(Call::EpName(calls, ep)).is_ok() {
            calls += 1;
        }
        assert!(matches!(a.ask(Call::Stats(77, from, Queue::MsgSend, false)), Ok(Heard::Stats(77, Ok(_)))));
        for n in 0..calls {
            assert!(matches!(a.wait(LONG), Some(Heard::Name(tag, Ok(_))) if tag == n));
        }
        assert!(matches!(a.ask(Call::EpPut(ep)), Err(AskError::Silent(_))));
        // Nodes that go down say so, and wake those who wait.
        drop(ends);
        // A machine fails with its node, though nothing of it is queued and its thread calls nothing.
        for (h, own) in [(&a, from), (&b, to)] {
            let last: Vec<Heard> = std::iter::from_fn(|| h.wait(LONG)).collect();
            assert!(
                matches!(&last[..], [Heard::Event(Event::State { state: TmState::Failed, status: 108, tm, .. })] if *tm == own),
                "{last:?}"
            );
            assert!(h.ended());
            assert!(matches!(h.ask(Call::EpName(1, ep)), Err(AskError::Ended)));
        }
    });
}

#[test]
fn sock_by_threads_that_wait() {
    asked([[127, 47, 0, 5], [127, 47, 0, 6]], true);
}

#[test]
fn lnet_by_threads_that_wait() {
    asked([[127, 47, 0, 7], [127, 47, 0, 8]], false);
}

#[test]
fn sock_over_kernel_sockets() {
    over_kernel_sockets([[127, 47, 0, 1], [127, 47, 0, 2]], true, main_part);
}

#[test]
fn lnet_over_kernel_sockets() {
    over_kernel_sockets([[127, 47, 0, 3], [127, 47, 0, 4]], false, main_part);
}

#[test]
fn sock_over_queues() {
    over_queues(true, main_part);
}

#[test]
fn lnet_over_queues() {
    over_queues(false, main_part);
}

#[test]
fn messages_of_one_buffer_are_seen_with_their_events() {
    over_kernel_sockets([[127, 47, 0, 15], [127, 47, 0, 16]], false, several_part);
    over_queues(false, several_part);
}

#[test]
fn pools_and_synchronous_delivery_over_kernel_sockets() {
    over_kernel_sockets([[127, 47, 0, 9], [127, 47, 0, 10]], true, furnished_part);
    over_kernel_sockets([[127, 47, 0, 11], [127, 47, 0, 12]], false, furnished_part);
}

#[test]
fn pools_and_synchronous_delivery_over_queues() {
    [true, false].into_iter().for_each(|sock| over_queues(sock, furnished_part));
}

/// Machines of one domain over kernel sockets, at ports that they ask for; another process has some of those.
#[test]
fn machines_of_a_domain_over_kernel_sockets() {
    let [here, there] = [[127, 47, 0, 13], [127, 47, 0, 14]].map(IpAddr::from);
    let down = AtomicBool::new(false);
    std::thread::scope(|s| {
        let down = &down;
        let _ends = Ends(down);
        let [a, b] = [here, there].map(|ip| {
            let (handle, app) = threaded(DEPTH);
            s.spawn(move || {
                let node = NodeBuilder::of(Config::new(Nid::tcp(ip, 0), 5)).unprivileged(9894);
                turned(Box::new(node.sockets(NoApp).unwrap().with(0, over_sock(ip, app)).unwrap()), down);
            });
            handle
        });
        let busy = std::net::TcpListener::bind(SocketAddr::new(here, 9216)).unwrap();
        let failed = |name: String| match a.start(&name) {
            Err(AskError::Failed(errno)) => errno,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(failed(format!("inet:stream:{here}@9216")), 98);
        assert_eq!(failed(format!("inet:stream:{here}@9894")), 98, "LNet's port");
        assert_eq!(failed("inet:stream:192.0.2.7@7000".to_owned()), 99);
        // The lowest number that is free, also of other processes'.
        let many = [format!("{here}@tcp:12345:34:*"), format!("{here}@tcp:12345:34:*"), name(here, true)]
            .map(|name| a.start(&name).unwrap());
        drop(busy);
        let to = b.start(&name(there, true)).unwrap();
        let ep = b.end_point(to, &format!("inet:stream:{here}@9218")).unwrap();
        let recv = Request::MsgRecv { min_size: 100, max_msgs: 1 };
        let room = || Memory::room(memory(), 100).unwrap();
        a.add(many[1], room(), recv.clone()).unwrap();
        b.add(to, Memory::copy_of(memory(), b"to the second").unwrap(), Request::MsgSend { to: ep, len: 13 })
            .unwrap();
        match a.wait(LONG) {
            Some(Heard::Event(Event::Buffer(e))) => {
                assert_eq!(
                    (e.tm, e.parts().collect::<Vec<_>>().concat()),
                    (many[1], b"to the second".to_vec())
                );
                assert!(matches!(a.ask(Call::EpPut(e.ep.unwrap())), Err(AskError::Silent(_))));
                a.call(Call::EpPut(e.ep.unwrap())).unwrap();
            }
            other => panic!("{other:?}"),
        }
        // One stops, and its port is anybody's.
        a.call(Call::Stop(many[0], true)).unwrap();
        let stopped = a.wait(LONG);
        assert!(
            matches!(&stopped, Some(Heard::Event(Event::State { state: TmState::Stopped, tm, .. })) if *tm == many[0])
        );
        while let Err(e) = std::net::TcpListener::bind(SocketAddr::new(here, 9217)) {
            // The node's turn, which said so, goes on.
            assert_eq!(e.kind(), std::io::ErrorKind::AddrInUse);
            std::thread::yield_now();
        }
    });
}

/// Both nodes have so many lcores with a queue each; the machines of the contract are at one lcore of each, and so at home
/// there whatever queue their connections come to and whatever lcore their peer's address falls to.
fn over_lcores(queues: u16, idle: u16, at: [u16; 2], part: Part) -> u64 {
    let now = beginning();
    let mem = MemConfig::default();
    let count = queues + idle;
    let rss = Rss::new(KEY.to_vec(), (0..128).map(|i| i % queues).collect());
    let spread = Spread::Rss(queues, rss);
    let (p, q) = pair_of_queues(&mem, spread.clone(), spread);
    // Peers whose home is another lcore than the machine's.
    let home = |ip: &Ipv4Addr| Shards::new(0, count).unwrap().home_of(IpAddr::V4(*ip));
    let pick = |net: u8, not: u16| {
        (1..250).map(|i| Ipv4Addr::new(10, 6, net, i)).find(|ip| home(ip) != ShardId(not)).unwrap()
    };
    let ips = [pick(1, at[1]), pick(2, at[0])];
    let mut handles = Vec::new();
    let mut nodes = Vec::new();
    for ((ip, ports), (home, epoch)) in ips.into_iter().zip([p, q]).zip(at.into_iter().zip(1..)) {
        let plan = builder(ip, epoch, &now).lcores(lcores(count, queues, &mem)).plan().unwrap();
        let mut ports = ports.into_iter();
        for i in 0..count {
            let own =
                ports.next().map(|p| plan.lcore(ShardId(i), stack(ip, p, 3 + u64::from(i), 512)).unwrap());
            let mut shard = plan.meshed(ShardId(i), own, NoApp).unwrap();
            if i == home {
                let (handle, app) = threaded(DEPTH);
                handles.push(handle);
                shard = shard.with(0, over_sock(ip.into(), app)).unwrap();
            }
            nodes.push(shard);
        }
    }
    let turn = |nodes: &mut [Shard<_, NoApp>]| {
        let busy = nodes.iter_mut().fold(false, |busy, n| n.turn().is_busy() | busy);
        now.fetch_add(if busy { 1_000 } else { 20_000 }, Ordering::Relaxed);
    };
    let handles = <[NetHandle; 2]>::try_from(handles).ok().unwrap();
    part(handles, ips.map(|ip| name(ip.into(), true)), &mut || turn(&mut nodes));
    nodes.iter_mut().for_each(|n| n.shut_down());
    for _ in 0..3_000_000 {
        if nodes.iter().all(|n| n.is_down()) {
            break;
        }
        turn(&mut nodes);
    }
    let mut handed = 0;
    for n in &nodes {
        let end = n.end();
        assert!(end.clean, "{:?}", end.left);
        assert_eq!(end.streams.tx_copied_bytes, 0);
        n.details(&mut |name, v| handed += if name == "conns_handed_over" { v } else { 0 });
    }
    handed
}

#[test]
fn sock_on_an_lcore_of_several() {
    let mut handed = 0;
    for at in [[0, 1], [1, 0], [1, 1]] {
        handed += over_lcores(2, 0, at, main_part);
    }
    assert!(handed > 0, "no connection came to another lcore's queue");
    // On lcores without a queue everything is handed over.
    assert!(over_lcores(2, 1, [2, 2], main_part) > 0);
}
