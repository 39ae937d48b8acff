//! A second protocol beside socklnd, on a port of its own: over kernel sockets, over TCP stacks on queues, and with its
//! streams on another lcore than its peer's home. LNet goes on on the same node meanwhile.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use dataplane::mem::{MemConfig, pair};
use transport::lnd::{AppId, Config, Shards};
use transport::lnet::{Event, Op};
use transport::node::{App, BesideError, Inspect, Machine, NodeBuilder, Ops, Shard, Streams, Work};
use transport::stream::ShardId;
use transport::wire::{Nid, ProcessId};

use crate::echo::{Echo, Job, Seen};
use crate::nodes::{beginning, builder, lcores, stack};

const PORT: u16 = 7007;

/// Pings the other node, and remembers what came of it.
#[derive(Default)]
struct Pings(Option<Op>, Vec<Event>);

impl App for Pings {
    fn turn(&mut self, _: u64, ops: &mut Ops) -> Work {
        ops.extend(self.0.take().map(|op| (AppId::FIRST, op)));
        Work::Idle
    }
    fn event(&mut self, _: u64, _: AppId, ev: Event, _: &mut Ops) {
        self.1.push(ev);
    }
}

fn nid(ip: IpAddr) -> Nid {
    Nid::tcp(ip, 0)
}

fn job(from: IpAddr, to: IpAddr) -> (Job, Vec<u8>) {
    let parts: Vec<Vec<u8>> = [300_000, 5, 70_000]
        .iter()
        .enumerate()
        .map(|(n, len)| (0..*len).map(|i: usize| (i.wrapping_mul(31) >> 3) as u8 ^ n as u8).collect())
        .collect();
    let all = parts.concat();
    (Job { to: SocketAddr::new(to, PORT), from, parts }, all)
}

/// Whether what is waited for has come.
type Done<'a, R, S> = dyn FnMut(&mut Shard<R, Pings>, &mut [Shard<S, Pings>]) -> bool + 'a;

/// Turns `all` until the echo has come back whole and a ping was answered, then until both nodes are down.
fn play<R: Streams + Inspect, S: Streams + Inspect>(
    mut client: Shard<R, Pings>,
    servers: &mut [Shard<S, Pings>],
    (seen, sent): (&Mutex<Seen>, &[u8]),
    mut pass: impl FnMut(bool),
) {
    let mut rounds = 0;
    let mut until = |done: &mut Done<'_, R, S>| {
        while !done(&mut client, servers) {
            rounds += 1;
            assert!(rounds < 2_000_000, "{:?}", seen.lock().unwrap().back.len());
            let mut work = client.turn();
            servers.iter_mut().for_each(|s| work = work.and(s.turn()));
            pass(work.is_busy());
        }
    };
    until(&mut |c, _| seen.lock().unwrap().closed == 1 && c.app.1.len() == 1);
    until(&mut |c, s| {
        let quiet = |m: &Machine| (m.gauges().lends, m.gauges().conns) == (0, 3);
        quiet(&c.machine) && s.iter().map(|s| s.machine.gauges().conns).sum::<usize>() == 3
    });
    {
        let seen = seen.lock().unwrap();
        assert!(seen.back == sent, "{} of {} bytes", seen.back.len(), sent.len());
        let mut home = seen.home.clone();
        home.sort_unstable();
        assert_eq!(home, [0, 1, 2], "each loan comes home once");
    }
    let mut begun = false;
    until(&mut |c, s| {
        if !std::mem::replace(&mut begun, true) {
            c.shut_down();
            s.iter_mut().for_each(Shard::shut_down);
        }
        assert!(matches!(c.app.1[..], [Event::Ping { info: Ok(_), .. }]), "{:?}", c.app.1);
        c.is_down() && s.iter().all(Shard::is_down)
    });
}

fn ping(to: IpAddr) -> Pings {
    Pings(Some(Op::Ping { tag: 1, target: ProcessId::lustre(nid(to)) }), Vec::new())
}

/// Servers' echo, and its records where it is by reference.
fn echoes(by_reference: bool, n: u16) -> (Vec<Echo>, Vec<Arc<Mutex<Seen>>>) {
    if by_reference {
        (0..n).map(|_| Echo::by_reference()).unzip()
    } else {
        ((0..n).map(|_| Echo::default()).collect(), vec![])
    }
}

/// All that was sent back by reference is home, and of it nothing was copied.
fn nothing_copied(seen: &[Arc<Mutex<Seen>>]) {
    let all: Vec<_> = seen.iter().map(|s| s.lock().unwrap()).collect();
    for s in &all {
        assert_eq!((s.home.len(), s.copied), (s.by_reference, 0));
    }
    assert!(all.is_empty() || all.iter().any(|s| s.by_reference > 0));
}

#[test]
fn over_kernel_sockets() {
    on_kernel_sockets(45, false);
}

#[test]
fn by_reference_over_kernel_sockets() {
    on_kernel_sockets(46, true);
}

fn on_kernel_sockets(net: u8, by_reference: bool) {
    let (a, b): (IpAddr, IpAddr) = ([127, net, 0, 1].into(), [127, net, 0, 2].into());
    let node = |ip: IpAddr, echo: Echo, app: Pings| {
        NodeBuilder::of(Config::new(nid(ip), 5))
            .unprivileged(9889)
            .listen_at([9889, PORT].map(|p| SocketAddr::new(ip, p)))
            .sockets(app)
            .unwrap()
            .with(PORT, Box::new(echo))
            .unwrap()
    };
    let (job, sent) = job(a, b);
    let (echo, seen) = Echo::client(job);
    let client = node(a, echo, ping(b));
    let (mut echoes, back) = echoes(by_reference, 1);
    let mut servers = [node(b, echoes.remove(0), Pings::default())];
    play(client, &mut servers, (&seen, &sent), |_| {});
    nothing_copied(&back);
}

/// The server has so many shards, of which the first owns the queue; the client's home is shard `home`.
fn over_queues(shards: u16, home: u16, by_reference: bool) {
    let mem = MemConfig::default();
    let now = beginning();
    let server = Ipv4Addr::new(10, 6, 0, 1);
    let count = Shards::new(0, shards).unwrap();
    let us = (2..=250)
        .map(|i| Ipv4Addr::new(10, 6, 1, i))
        .find(|ip| count.home_of(IpAddr::V4(*ip)) == ShardId(home))
        .unwrap();
    let (p, q) = pair(&mem);
    let (job, sent) = job(us.into(), server.into());
    let (echo, seen) = Echo::client(job);
    let node = |ip: Ipv4Addr, epoch| {
        builder(ip, epoch, &now).listen_at([988, PORT].map(|p| SocketAddr::new(ip.into(), p)))
    };
    let client = node(us, 1).over(stack(us, p, 3, 512), ping(server.into())).unwrap();
    let client = client.with(PORT, Box::new(echo)).unwrap();
    let plan = node(server, 2).lcores(lcores(shards, 1, &mem)).plan().unwrap();
    let mut own = Some(plan.lcore(ShardId(0), stack(server, q, 3, 512)).unwrap());
    let (echoes, back) = echoes(by_reference, shards);
    let mut servers: Vec<_> = (0..)
        .zip(echoes)
        .map(|(i, echo)| {
            let shard = plan.meshed(ShardId(i), own.take(), Pings::default()).unwrap();
            shard.with(PORT, Box::new(echo)).unwrap()
        })
        .collect();
    play(client, &mut servers, (&seen, &sent), |busy| {
        now.fetch_add(if busy { 1_000 } else { 20_000 }, Ordering::Relaxed);
    });
    nothing_copied(&back);
}

#[test]
fn over_a_queue() {
    over_queues(1, 0, false);
}

#[test]
fn by_reference_over_a_queue_and_from_another_lcore() {
    over_queues(1, 0, true);
    over_queues(3, 2, true);
}

#[test]
fn at_a_home_that_is_not_the_lcore_that_owns_its_streams() {
    over_queues(3, 2, false);
}

#[test]
fn a_port_has_one_protocol() {
    let machine = || Machine::new(Config::new(nid([10, 6, 0, 9].into()), 1));
    let e = machine().with(988, Box::new(Echo::default())).err();
    assert_eq!(e, Some(BesideError::Taken(988)));
    let two = machine().with(PORT, Box::new(Echo::default())).unwrap().with(PORT, Box::new(Echo::default()));
    let e = two.err().unwrap().to_string();
    assert!(e.contains("7007") && e.contains("a port of its own"), "{e}");
}
