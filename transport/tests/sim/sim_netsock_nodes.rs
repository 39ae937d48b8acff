//! netsock's transfer machines on whole nodes, over kernel sockets and over TCP stacks on queues: a message, a bulk each way,
//! many pieces, none of whose payload is copied on the way out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dataplane::mem::{MemConfig, pair};
use transport::lnd::{AppId, Config};
use transport::lnet::Event;
use transport::net::{self, Domain, Host, Memory, NetApp, Queue, Request, Sock, TmState};
use transport::netsock::{Completion, Config as TmConfig, Op};
use transport::node::{App, Inspect, NodeBuilder, Ops, Shard, Streams, Work};
use transport::testing::data::{bytes, filled};
use transport::testing::netsock::{Shared, into, lent, pages, received};
use transport::wire::Nid;
use transport::wire::netsock::Addr;

use crate::nodes::{beginning, builder, stack};

const PORT: u16 = 7008;
const LEN: usize = 3 << 20;

struct Quiet;

impl App for Quiet {
    fn turn(&mut self, _: u64, _: &mut Ops) -> Work {
        Work::Idle
    }
    fn event(&mut self, _: u64, _: AppId, _: Event, _: &mut Ops) {}
}

fn machine(ip: IpAddr) -> Shared {
    Shared::new(TmConfig::new(Addr::stream(SocketAddr::new(ip, PORT)), 1))
}

/// Turns both nodes until all buffers have ended, and looks at what came.
fn play<R: Streams + Inspect, S: Streams + Inspect>(
    (a, node_a): (&Shared, &mut Shard<R, Quiet>),
    (b, node_b): (&Shared, &mut Shard<S, Quiet>),
    mut pass: impl FnMut(bool),
) {
    let add = |tm: &Shared, op: Op, tag: u64| tm.get().add(0, op, tag, None).map_err(|u| u.why).unwrap().desc;
    let to = b.get().addr();
    add(b, Op::MsgRecv(lent(LEN)), 0);
    let fill = add(b, Op::PassiveRecv(into(LEN)), 1).unwrap();
    let fetch = add(b, Op::PassiveSend(pages(LEN, 3).0), 2).unwrap();
    add(a, Op::MsgSend { to, data: pages(LEN, 1).0 }, 3);
    add(a, Op::ActiveSend { desc: fill, data: pages(LEN, 2).0 }, 4);
    add(a, Op::ActiveRecv { desc: fetch, sink: into(LEN) }, 5);
    let mut ends: Vec<Completion> = Vec::new();
    let mut rounds = 0;
    while ends.len() < 6 {
        rounds += 1;
        assert!(rounds < 3_000_000, "{:?} {:?}", a.get(), b.get());
        pass(node_a.turn().and(node_b.turn()).is_busy());
        ends.extend([a, b].iter().flat_map(|tm| std::iter::from_fn(|| tm.get().done()).collect::<Vec<_>>()));
    }
    ends.sort_by_key(|c| c.tag);
    assert!(ends.iter().enumerate().all(|(n, c)| (c.tag, c.status) == (n as u64, 0)), "{ends:?}");
    for (n, seed) in [(0, 1), (1, 2), (5, 3)] {
        assert!(received(&ends[n]) == bytes(LEN, seed), "{n}");
    }
    drop(ends);
    let mut begun = false;
    while !(node_a.is_down() && node_b.is_down()) {
        if !std::mem::replace(&mut begun, true) {
            node_a.shut_down();
            node_b.shut_down();
        }
        rounds += 1;
        assert!(rounds < 6_000_000);
        pass(node_a.turn().and(node_b.turn()).is_busy());
    }
    for tm in [a, b] {
        let g = tm.get().gauges();
        assert_eq!((g.buffers, g.loans, g.conns), (0, 0, 0));
    }
}

/// Sends a message, and writes to its pages as soon as it hears of its end.
struct Rewrites {
    to: Option<Addr>,
    written: Arc<AtomicBool>,
}

impl NetApp<Sock> for Rewrites {
    fn event(&mut self, net: &mut Domain<Sock>, event: net::Event) {
        match event {
            net::Event::State { tm, state: TmState::Started, .. } => {
                let recv = net.register(Memory::Recv(into(LEN))).unwrap();
                let req = Request::MsgRecv { min_size: LEN as u64, max_msgs: 1 };
                net.add(tm, recv, &req, None).unwrap();
                if let Some(to) = self.to {
                    let data = [filled(LEN, 1).freeze().slice_all()].into_iter().collect();
                    let send = net.register(Memory::Send(data)).unwrap();
                    let to = net.ep_create(tm, &to.to_string()).unwrap();
                    net.add(tm, send, &Request::MsgSend { to, len: LEN as u64 }, None).unwrap();
                }
            }
            net::Event::Buffer(e) if e.queue == Queue::MsgSend => {
                assert_eq!(e.status, 0);
                let Ok(Memory::Send(pages)) = net.deregister(e.buffer.unwrap()) else { panic!("no pages") };
                let run = pages.into_iter().next().unwrap().into_run().unwrap();
                run.try_thaw().expect("an end with pages that are still out").bytes_mut().fill(0);
                self.written.store(true, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

/// The host of such an application.
fn rewrites(ip: IpAddr, to: Option<Addr>, written: &Arc<AtomicBool>) -> Box<Host<Sock, Rewrites>> {
    let addr = Addr::stream(SocketAddr::new(ip, PORT));
    let mut net = Domain::new(Sock::new(TmConfig::new(addr, 1)).unwrap(), 0);
    let tm = net.tm_init();
    net.start(tm, &addr.to_string()).unwrap();
    Box::new(Host::new(net, Rewrites { to, written: written.clone() }))
}

#[test]
fn pages_are_home_when_a_send_has_ended_over_kernel_sockets() {
    let ips: [IpAddr; 2] = [[127, 45, 0, 13].into(), [127, 45, 0, 14].into()];
    let written = Arc::default();
    let to = Addr::stream(SocketAddr::new(ips[1], PORT));
    let mut nodes = [(ips[0], Some(to)), (ips[1], None)].map(|(ip, to)| {
        NodeBuilder::of(Config::new(Nid::tcp(ip, 0), 5))
            .listen_at([SocketAddr::new(ip, PORT)])
            .sockets(Quiet)
            .unwrap()
            .with(PORT, rewrites(ip, to, &written))
            .unwrap()
    });
    for _ in 0..3_000_000 {
        nodes.iter_mut().for_each(|n| {
            n.turn();
        });
        if written.load(Ordering::Relaxed) {
            return;
        }
    }
    panic!("the send does not end");
}

#[test]
fn pages_are_home_when_a_send_has_ended_over_a_queue() {
    let now = beginning();
    let ips = [Ipv4Addr::new(10, 6, 0, 3), Ipv4Addr::new(10, 6, 0, 4)];
    let (p, q) = pair(&MemConfig::default());
    let written = Arc::default();
    let to = Addr::stream(SocketAddr::new(ips[1].into(), PORT));
    let mut nodes = [(ips[0], 1, p, Some(to)), (ips[1], 2, q, None)].map(|(ip, epoch, port, to)| {
        builder(ip, epoch, &now)
            .listen_at([SocketAddr::new(ip.into(), PORT)])
            .over(stack(ip, port, 3, 512), Quiet)
            .unwrap()
            .with(PORT, rewrites(ip.into(), to, &written))
            .unwrap()
    });
    for _ in 0..3_000_000 {
        let busy = nodes.iter_mut().fold(Work::Idle, |w, n| w.and(n.turn())).is_busy();
        now.fetch_add(if busy { 1_000 } else { 20_000 }, Ordering::Relaxed);
        if written.load(Ordering::Relaxed) {
            return;
        }
    }
    panic!("the send does not end");
}

#[test]
fn over_kernel_sockets() {
    let ips: [IpAddr; 2] = [[127, 45, 0, 11].into(), [127, 45, 0, 12].into()];
    let [a, b] = ips.map(machine);
    let node = |ip: IpAddr, tm: &Shared| {
        NodeBuilder::of(Config::new(Nid::tcp(ip, 0), 5))
            .unprivileged(9891)
            .listen_at([9891, PORT].map(|p| SocketAddr::new(ip, p)))
            .sockets(Quiet)
            .unwrap()
            .with(PORT, Box::new(tm.clone()))
            .unwrap()
    };
    let (mut node_a, mut node_b) = (node(ips[0], &a), node(ips[1], &b));
    play((&a, &mut node_a), (&b, &mut node_b), |_| {});
}

#[test]
fn over_a_queue() {
    let now = beginning();
    let ips = [Ipv4Addr::new(10, 6, 0, 1), Ipv4Addr::new(10, 6, 0, 2)];
    let [a, b] = ips.map(|ip| machine(ip.into()));
    let (p, q) = pair(&MemConfig::default());
    let node = |ip: Ipv4Addr, epoch, port, tm: &Shared| {
        builder(ip, epoch, &now)
            .listen_at([988, PORT].map(|p| SocketAddr::new(ip.into(), p)))
            .over(stack(ip, port, 3, 512), Quiet)
            .unwrap()
            .with(PORT, Box::new(tm.clone()))
            .unwrap()
    };
    let (mut node_a, mut node_b) = (node(ips[0], 1, p, &a), node(ips[1], 2, q, &b));
    play((&a, &mut node_a), (&b, &mut node_b), |busy| {
        now.fetch_add(if busy { 1_000 } else { 20_000 }, Ordering::Relaxed);
    });
    assert_eq!((a.get().stats().bytes_rx, b.get().stats().bytes_rx), (LEN as u64, 2 * LEN as u64));
}
