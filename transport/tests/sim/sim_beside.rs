//! A second protocol beside socklnd, on a port of its own: over kernel sockets, over TCP stacks on queues, and with its
//! streams on another lcore than its peer's home. LNet goes on on the same node meanwhile.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dataplane::clock::Clock;
use dataplane::mem::{MemConfig, MemPort, pair};
use hugepages::LendSlab;
use tcpstack::{Listen, Stack, StackConfig};
use transport::lnd::{Accept, AppId, Config, Shards};
use transport::lnet::{Event, Op};
use transport::node::lcore::LcoreRt;
use transport::node::links::{Linked, Rings, relay_budget};
use transport::node::sock::{SockConfig, SockRt};
use transport::node::{App, BesideError, Machine, Ops, Runtime, Shard, Work};
use transport::stream::ShardId;
use transport::wire::{Nid, ProcessId};

use crate::echo::{Echo, Job, Seen};

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

/// Turns `all` until the echo has come back whole and a ping was answered, then until both nodes are down.
fn play<R: Runtime, S: Runtime>(
    mut client: Shard<R, Pings>,
    servers: &mut [Shard<S, Pings>],
    (seen, sent): (&Mutex<Seen>, &[u8]),
    mut pass: impl FnMut(bool),
) {
    let mut rounds = 0;
    let mut until = |done: &mut dyn FnMut(&mut Shard<R, Pings>, &mut [Shard<S, Pings>]) -> bool| {
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

#[test]
fn over_kernel_sockets() {
    let (a, b): (IpAddr, IpAddr) = ([127, 45, 0, 1].into(), [127, 45, 0, 2].into());
    let node = |ip: IpAddr, echo: Echo| {
        let config =
            Config { accept: Accept::Trust, port: 9889, privileged: false, ..Config::new(nid(ip), 5) };
        let listen = [9889, PORT].map(|p| SocketAddr::new(ip, p)).to_vec();
        let rt = SockRt::new(SockConfig { listen, ..SockConfig::default() }, Clock::monotonic()).unwrap();
        (Machine::new(config).with(PORT, Box::new(echo)).unwrap(), rt)
    };
    let (job, sent) = job(a, b);
    let (echo, seen) = Echo::client(job);
    let (machine, rt) = node(a, echo);
    let client = Shard::new(machine, rt, ping(b));
    let (machine, rt) = node(b, Echo::default());
    let mut servers = [Shard::new(machine, rt, Pings::default())];
    play(client, &mut servers, (&seen, &sent), |_| {});
}

type Rt = LcoreRt<MemPort>;

fn stack(port: MemPort, ip: Ipv4Addr, now: &Arc<AtomicU64>) -> Rt {
    let cfg = StackConfig { secret: Some([3, 1]), ..StackConfig::new(ip, 16) };
    let mut stack = Stack::new(cfg, port, LendSlab::new(512)).unwrap();
    for port in [988, PORT] {
        stack.listen(Listen { addr: IpAddr::V4(ip), port, backlog: 16 }).unwrap();
    }
    LcoreRt::new(stack, Clock::virtual_time(now.clone()), ShardId(0))
}

/// The server has so many shards, of which the first owns the queue; the client's home is shard `home`.
fn over_queues(shards: u16, home: u16) {
    let mem = MemConfig::default();
    let now = Arc::new(AtomicU64::new(1_000_000_000));
    let server = Ipv4Addr::new(10, 6, 0, 1);
    let count = Shards::new(0, shards).unwrap();
    let us = (2..=250)
        .map(|i| Ipv4Addr::new(10, 6, 1, i))
        .find(|ip| count.home_of(IpAddr::V4(*ip)) == ShardId(home))
        .unwrap();
    let (p, q) = pair(&mem);
    let (job, sent) = job(us.into(), server.into());
    let (echo, seen) = Echo::client(job);
    let machine = Machine::new(Config::new(nid(us.into()), 1)).with(PORT, Box::new(echo)).unwrap();
    let client = Shard::new(machine, stack(p, us, &now), ping(server.into()));
    let rings = Rings::new(shards);
    let mut own = Some(stack(q, server, &now));
    let mut servers: Vec<_> = (0..shards)
        .map(|i| {
            let config =
                Config { shards: Shards::new(i, shards).unwrap(), ..Config::new(nid(server.into()), 2) };
            let t = now.clone();
            let budget = relay_budget((mem.rx_buf * mem.rx_bufs) as u64, mem.rx_bufs);
            let time = Box::new(move || t.load(Ordering::Relaxed));
            let rt = Linked::new(own.take(), config.shards, vec![ShardId(0)], &rings, budget, time);
            let machine = Machine::new(config).with(PORT, Box::new(Echo::default())).unwrap();
            Shard::new(machine, rt.among((0..shards).map(ShardId)), Pings::default())
        })
        .collect();
    play(client, &mut servers, (&seen, &sent), |busy| {
        now.fetch_add(if busy { 1_000 } else { 20_000 }, Ordering::Relaxed);
    });
}

#[test]
fn over_a_queue() {
    over_queues(1, 0);
}

#[test]
fn at_a_home_that_is_not_the_lcore_that_owns_its_streams() {
    over_queues(3, 2);
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
