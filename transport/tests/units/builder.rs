//! Assembling a node: what is refused is refused by name and remedy before anything has started; what is not, runs.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dataplane::clock::Clock;
use dataplane::mem::{MemConfig, MemPort, pair};
use hugepages::LendSlab;
use tcpstack::{Stack, StackConfig};
use transport::lnd::{Accept, AppId, Config, Route, RouteError, Shards};
use transport::lnet::faults::{Fault, FaultRate, FaultRule, NidPattern};
use transport::lnet::routes::RouteAsk;
use transport::lnet::{Event, Op};
use transport::node::inspect::Inspection;
use transport::node::lcore::LcoreStreams;
use transport::node::sock::{SockConfig, SockStreams};
use transport::node::{
    App, BuildError, Control, Lcores, Machine, NoApp, NodeBuilder, NotAlone, Order, Shard, rings,
};
use transport::stream::{Homes, ShardId};
use transport::wire::{Nid, ProcessId};

fn of(nid: &str) -> NodeBuilder {
    NodeBuilder::new(nid.parse().unwrap())
}

fn refused(b: &NodeBuilder, says: &[&str]) {
    let e = b.check().unwrap_err().to_string();
    assert!(says.iter().all(|s| e.contains(s)), "{e} does not say {says:?}");
    // Nothing gets further.
    assert_eq!(b.probe().unwrap_err().to_string(), e);
    assert_eq!(b.clone().plan().err().unwrap().to_string(), e);
    assert_eq!(b.clone().sockets(NoApp).err().unwrap().to_string(), e);
    assert_eq!(b.clone().run(NoApp).err().unwrap().to_string(), e);
}

#[test]
fn a_nid_that_no_machine_can_have_is_refused() {
    let nid = |ip: &str| Nid::tcp(ip.parse().unwrap(), 0);
    refused(&NodeBuilder::new(Nid::LO), &["0@lo has no IP address", "10.0.0.1@tcp"]);
    refused(&NodeBuilder::new(Nid::ANY), &["has no IP address", "10.0.0.1@tcp"]);
    for (ip, is) in [
        ("0.0.0.0", "stands for any"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "the broadcast address"),
    ] {
        refused(&NodeBuilder::new(nid(ip)), &[ip, is, "the address of one machine"]);
    }
    for (ip, is) in [("::", "stands for any"), ("ff02::1", "multicast"), ("fe80::1", "link-local")] {
        refused(&NodeBuilder::new(nid(ip)), &[ip, is, "fd00::1@tcp"]);
    }
}

#[test]
fn routes_that_cannot_be_are_refused() {
    let node = |routes: &[&str]| {
        let routes = routes.iter().map(|r| r.parse().unwrap()).collect();
        of("127.0.61.4@tcp").unprivileged(20_988).config(|c| c.routes = routes)
    };
    refused(&node(&["tcp1 127.0.61.4@tcp"]), &["gateway 127.0.61.4@tcp is this node itself"]);
    refused(&node(&["tcp1 127.0.61.9@tcp2"]), &["127.0.61.9@tcp2", "none of this node's networks"]);
    refused(&node(&["tcp 127.0.61.9@tcp"]), &["tcp is a network of this node's own"]);
    let good = "tcp1 127.0.61.9@tcp";
    refused(&node(&[good, "tcp1 127.0.61.9@tcp 3"]), &["a route to tcp1 by 127.0.61.9@tcp already"]);
    assert!(node(&[good]).check().is_ok());
    // Of a site's list a node takes what it can have.
    let site = ["tcp 127.0.61.9@tcp", good, "tcp1 127.0.61.9@tcp2", good].map(|r| r.parse().unwrap());
    let node = node(&[]).config(|c| c.site_routes = site.to_vec());
    assert!(node.check().is_ok());
    let shard = node.listen_at([]).sockets(NoApp).unwrap();
    assert_eq!(shard.machine.routes().map(|r| r.gateway.to_string()).collect::<Vec<_>>(), ["127.0.61.9@tcp"]);
}

/// Every shard begins with them.
#[test]
fn fault_rules_that_cannot_be_are_refused_and_others_are_there_at_start() {
    let any = NidPattern::Any;
    let rate = FaultRate::OneIn(1);
    let rule = FaultRule { source: any, dest: any, rate, portals: 0, messages: 0, fault: Fault::Drop };
    let node = |rules: Vec<FaultRule>| of("127.0.61.4@tcp").unprivileged(20_988).faults(rules);
    refused(&node(vec![FaultRule { rate: FaultRate::Every(0), ..rule }]), &["either drop rate or interval"]);
    refused(&node(vec![rule; 65]), &["64 rules"]);
    let shard = node(vec![rule; 2]).listen_at([]).sockets(NoApp).unwrap();
    assert_eq!(shard.machine.fault_rules().map(|v| v.rule.messages).collect::<Vec<_>>(), [15; 2]);
}

/// Homes move within a CPT alone, so the homes of the beginning tell it.
#[test]
fn the_cpt_of_a_nid_is_that_of_its_homes() {
    let front = Arc::new(Inspection::new(4, Clock::monotonic()));
    let nids: Vec<Nid> = (1..255).map(|n| Nid::tcp([10, 0, 0, n].into(), 0)).collect();
    assert!(nids.iter().all(|nid| front.cpt_of(*nid) == 0), "nothing is known of CPTs");
    let lcores = Lcores { cpts: vec![0, 3, 3, 0], ..Lcores::new(4, 1, 1) };
    drop(of("10.5.0.1@tcp").lcores(lcores).inspection(front.clone()).plan().unwrap());
    let mut of_cpt = [0; 4];
    for nid in nids {
        let ip = nid.ip().unwrap();
        let cpt = front.cpt_of(nid);
        let home = Homes::new(4).of(ip);
        assert_eq!(cpt == 3, home == ShardId(1) || home == ShardId(2), "{nid}");
        assert_eq!(front.cpt_of(Nid::tcp(ip, 7)), cpt, "whatever the network");
        of_cpt[cpt as usize] += 1;
    }
    assert!(of_cpt[0] > 60 && of_cpt[3] > 60, "{of_cpt:?}");
}

#[test]
fn nis_that_cannot_be_are_refused() {
    let node = || of("127.0.61.4@tcp").unprivileged(20_988);
    let nid = |s: &str| s.parse::<Nid>().unwrap();
    refused(&node().also(nid("127.0.61.4@tcp")), &["127.0.61.4@tcp is named twice", "127.0.61.4@tcp1"]);
    refused(
        &of("fd00::4@tcp3").also(nid("10.0.0.1@tcp")).also(nid("fd00::4@tcp3")),
        &["twice", "fd00::4@tcp4"],
    );
    refused(&node().also(nid("224.0.0.9@tcp1")), &["224.0.0.9@tcp1", "multicast", "one machine"]);
    refused(&node().also(Nid::LO), &["0@lo has no IP address"]);
    refused(&node().config(|c| c.nis.clear()), &["0 NIs", "1 to 16"]);
    let all = |n: u16| (1..n).fold(node(), |b, i| b.also(Nid::tcp([127, 0, 61, 4].into(), i)));
    refused(&all(17), &["17 NIs", "1 to 16", "a second node"]);
    // One address is listened on once, whatever its networks.
    assert_eq!(all(16).listens_at(), ["127.0.61.4:20988".parse().unwrap()]);
    all(16).probe().unwrap();
    // An address of the list that is not this machine's is named.
    let e = node().also(nid("198.51.100.77@tcp1")).probe().unwrap_err().to_string();
    assert!(e.contains("198.51.100.77") && e.contains("`ip addr` lists them"), "{e}");
}

#[test]
fn lcores_that_cannot_be_are_refused() {
    let node = || of("127.0.61.1@tcp").unprivileged(20_988);
    let lcores = |n| Lcores::new(n, 1 << 20, 512);
    for n in [0, 65, u16::MAX] {
        refused(&node().lcores(lcores(n)), &[&format!("{n} lcores"), "1 to 64"]);
    }
    refused(&node().lcores(lcores(5)).cores(4), &["5 lcores on 4 cores", "ask for 4 at most"]);
    for queues in [0, 3] {
        let l = Lcores { queues, ..lcores(2) };
        refused(&node().lcores(l), &[&format!("{queues} queues for 2 lcores"), "1 to 2"]);
    }
    refused(
        &node().lcores(Lcores { cpts: vec![0, 1, 1], ..lcores(2) }),
        &["CPTs of 3 lcores, but 2 lcores", "the CPT of each"],
    );
    for b in [node().lcores(lcores(64)), node().lcores(lcores(2)).cores(2)] {
        b.check().unwrap();
        // But not where one thread turns it all.
        let (e, n) = (b.probe().unwrap_err().to_string(), b.clone().run(NoApp).err().unwrap().to_string());
        assert!(e.contains("a node on kernel sockets") && e.contains("one thread") && e == n, "{e}");
        let e = b.plan().unwrap().single(sock("127.0.61.1"), NoApp).err().unwrap();
        assert!(matches!(e, BuildError::OneThread(2 | 64)), "{e}");
    }
    let plan = node().lcores(lcores(2)).plan().unwrap();
    let e = plan.meshed(ShardId(2), Some(sock("127.0.61.1")), NoApp).err().unwrap();
    assert!(matches!(e, BuildError::NoSuchLcore { me: 2, lcores: 2 }), "{e}");
}

/// Mail for other shards has no way out of one that is alone, so such a shard is not made.
#[test]
fn a_shard_of_a_node_of_several_cannot_be_alone() {
    let config = |me, count| Config {
        shards: Shards::new(me, count).unwrap(),
        ..Config::new("10.0.0.1@tcp".parse().unwrap(), 1)
    };
    let alone = |me, count| Shard::alone(Machine::new(config(me, count)), sock("127.0.61.2"), NoApp).err();
    assert_eq!(alone(0, 1), None);
    assert_eq!(alone(1, 2), Some(NotAlone { me: 1, count: 2 }));
    assert!(alone(0, 64).unwrap().to_string().contains("Shard::meshed"));
}

fn sock(ip: &str) -> SockStreams {
    let listen = vec![SocketAddr::new(ip.parse().unwrap(), 0)];
    SockStreams::new(SockConfig { listen, ..SockConfig::default() }, Clock::monotonic()).unwrap()
}

#[test]
fn an_address_or_a_port_that_the_kernel_refuses_is_named_before_a_thread_starts() {
    // TEST-NET-2 is no address of any machine.
    for node in [of("198.51.100.77@tcp").unprivileged(20_988), of("198.51.100.77@tcp").listen_at([])] {
        for e in [node.probe().unwrap_err(), node.run(NoApp).err().unwrap()] {
            let e = e.to_string();
            assert!(e.contains("198.51.100.77") && e.contains("`ip addr` lists them"), "{e}");
        }
    }
    let first = of("127.0.61.2@tcp").unprivileged(20_988).run(NoApp).unwrap();
    // The application is not made either.
    let made = || -> Result<NoApp, String> { panic!("too early") };
    let e = of("127.0.61.2@tcp").unprivileged(20_988).start(Arc::default(), made).err().unwrap().to_string();
    assert!(e.contains("127.0.61.2:20988") && e.contains("`ss -ltunp` names it"), "{e}");
    assert!(first.stop().unwrap().clean);
}

#[test]
fn what_keeps_an_application_from_being_made_is_told_by_the_node_that_stops() {
    let control = Arc::new(Control::default());
    let node = of("127.0.61.3@tcp").unprivileged(20_988);
    let node = node.start(control.clone(), || Err::<NoApp, _>("no pages".to_owned())).unwrap();
    assert_eq!(control.order(), Order::Drain);
    assert_eq!(node.stop().unwrap_err(), "no pages");
}

/// Two lcores over one queue, in virtual time, and a node of one; seen through their mailboxes.
#[test]
fn a_plan_gives_the_shards_of_a_node() {
    let now = Arc::new(std::sync::atomic::AtomicU64::new(1_000_000_000));
    let clock = Clock::virtual_time(now.clone());
    let mem = MemConfig::default();
    let (a, b) = pair(&mem);
    let ips: [IpAddr; 2] = [[10, 5, 0, 1].into(), [10, 5, 0, 2].into()];
    let node = |i: usize| {
        NodeBuilder::new(Nid::tcp(ips[i], 0)).config(|c| c.accept = Accept::Trust).clock(clock.clone())
    };
    let stack = |i: usize, port| {
        let IpAddr::V4(ip) = ips[i] else { panic!() };
        Stack::new(StackConfig::new(ip, 24), port, LendSlab::new(64)).unwrap()
    };
    let (handle, app) = rings(AppId::FIRST, 4);
    let mut client = node(0).over(stack(0, a), app).unwrap();
    let lcores = Lcores { queues: 1, ..Lcores::new(2, (mem.rx_buf * mem.rx_bufs) as u64, mem.rx_bufs) };
    let inspection = Arc::new(Inspection::new(2, clock.clone()));
    let plan = node(1).lcores(lcores).inspection(inspection.clone()).plan().unwrap();
    assert_eq!(plan.config().listen_ports().collect::<Vec<_>>(), [988]);
    let own = plan.lcore(ShardId(0), stack(1, b)).unwrap();
    let app = || -> Box<dyn App> { Box::new(NoApp) };
    let mut servers = [
        plan.turnable(ShardId(0), Some(own), app()).unwrap(),
        plan.turnable(ShardId(1), None::<LcoreStreams<MemPort>>, app()).unwrap(),
    ];
    handle.submit(Op::Ping { tag: 1, target: ProcessId::lustre(Nid::tcp(ips[1], 0)) }).unwrap();
    let mut answer = None;
    for _ in 0..100_000 {
        now.fetch_add(1000, std::sync::atomic::Ordering::Relaxed);
        client.turn();
        for s in &mut servers {
            s.turn();
        }
        answer = handle.event();
        if answer.is_some() {
            break;
        }
    }
    assert!(matches!(answer, Some(Event::Ping { info: Ok(_), .. })), "{answer:?}");
    assert!(client.streams().unwrap().stack().listens(988));
    // Routes are changed on all lcores.
    let front = inspection.clone();
    let asker = std::thread::spawn(move || {
        let route: Route = "tcp1 10.5.0.9@tcp 2 7".parse().unwrap();
        let gone = RouteAsk::Del { net: route.net, gateway: route.gateway };
        [Some(RouteAsk::Add(route)), Some(RouteAsk::Add(route)), None, Some(gone), Some(gone)]
            .map(|ask| front.routes(ask).unwrap())
    });
    while !asker.is_finished() {
        now.fetch_add(1000, std::sync::atomic::Ordering::Relaxed);
        for s in &mut servers {
            s.turn();
        }
    }
    let answers = asker.join().unwrap();
    let said = answers.each_ref().map(|(done, routes)| (done.map_err(RouteError::errno), routes.len()));
    assert_eq!(said, [(Ok(()), 1), (Err(17), 1), (Ok(()), 1), (Ok(()), 0), (Err(2), 0)]);
    let r = answers[0].1[0];
    let text = format!("{} {} {:?} {} {} {}", r.net, r.gateway, r.hop, r.priority, r.up, r.multi_hop);
    assert_eq!(text, "tcp1 10.5.0.9@tcp Some(2) 7 false true");
    // An address that is not the stack's.
    let (a, _) = pair(&mem);
    let elsewhere = SocketAddr::from(([10, 5, 0, 9], 988));
    let e = node(0).listen_at([elsewhere]).over(stack(0, a), NoApp).err().unwrap().to_string();
    assert!(e.contains("10.5.0.9:988") && e.contains("the NID's address"), "{e}");
    drop(servers);
    assert!((0..2).all(|i| inspection.mailbox(i).unwrap().closed()), "their mailboxes went with them");
}
