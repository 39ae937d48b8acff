//! The `net` contract by threads' handles on whole nodes: over kernel sockets, each node on a thread of its own, and over TCP
//! stacks on queues in virtual time; both transports.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dataplane::mem::{MemConfig, pair};
use hugepages::{Backing, PrivatePages};
use transport::lnd::{AppId, Config};
use transport::net::{
    AskError, Call, Domain, Event, Heard, Host, LnetXprt, Memory, NetHandle, Queue, Request, Sock, Threaded,
    TmState, threaded,
};
use transport::netsock::Config as SockConfig;
use transport::node::{NoApp, NodeBuilder, Turn};
use transport::wire::Nid;
use transport::wire::netsock::Addr;

use crate::net_suite::{Pass, Side, contract, furnished};
use crate::nodes::{beginning, builder, stack};

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
            node.wait();
        }
    }
    node.shut_down();
    while !node.is_down() {
        if !node.turn().is_busy() {
            node.wait();
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
        for h in [&a, &b] {
            while let Some(heard) = h.wait(LONG) {
                assert!(
                    matches!(heard, Heard::Event(Event::State { state: TmState::Failed, .. })),
                    "{heard:?}"
                );
            }
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
fn pools_and_synchronous_delivery_over_kernel_sockets() {
    over_kernel_sockets([[127, 47, 0, 9], [127, 47, 0, 10]], true, furnished_part);
    over_kernel_sockets([[127, 47, 0, 11], [127, 47, 0, 12]], false, furnished_part);
}

#[test]
fn pools_and_synchronous_delivery_over_queues() {
    [true, false].into_iter().for_each(|sock| over_queues(sock, furnished_part));
}
