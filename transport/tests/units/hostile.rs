//! Peers that take all they can: each test ends with what they made the node hold given back, an honest peer served all
//! the while, and the node down in order. Bounds are of gauges, never of times. Field reports 2 to 4.

use std::net::{IpAddr, SocketAddr, TcpStream};

use dataplane::clock::Clock;
use transport::lnd::{Accept, Held, Payload, Sink, Tcp};
use transport::lnet::{Event, MdMem, Op};
use transport::node::sock::{SockConfig, SockStreams};
use transport::node::{Input, Inspect, NoApp, NodeBuilder, Streams};
use transport::stream::{Close, Happened, InlineHdr, LendId, Pages, SendMsg};
use transport::testing::data::Spot;
use transport::testing::net::{Net, SEC};
use transport::wire::{ConnType, Hello, LnetBody, LnetHdr, Nid, Version, WireHandle};

use crate::raw::{
    AT, attach, config, header, hello, id, message, nid, noop, pages, ping_op, put, put_op, start,
};

const MIB: u64 = 1 << 20;
/// One host ends at half of the budget; beside it stands what the honest one holds, a set and a few answers, and what was
/// charged last for the queue of a peer.
const HONEST: u64 = 30 << 10;

/// Node 1 with a budget and 4 KiB to GET at portal 5, and an honest node 2 that is connected to it.
fn victim(budget: u64) -> (Net, Vec<u64>) {
    let mut net = Net::new();
    net.record = false;
    net.raw_acks = false;
    net.add(transport::lnd::Config { budget, tx_window: 16 << 10, ..config(1) });
    net.add(config(2));
    attach(&mut net, 0, MdMem::Source(pages(4096)), true);
    let mut times = Vec::new();
    honest(&mut net, &mut times);
    // TCP has acknowledged all of it, and the set is whole.
    net.run(SEC);
    (net, times)
}

/// One ping of the honest node; it must be answered within a second of virtual time.
fn honest(net: &mut Net, times: &mut Vec<u64>) {
    net.op(1, ping_op(id(1)));
    net.run_until(net.now + SEC, |n| !n.nodes[1].events.is_empty());
    let events = net.take_events(1);
    match &events[..] {
        [Event::Ping { info: Ok(_), rtt_ns, .. }] => times.push(*rtt_ns),
        other => panic!("an honest ping came to {other:?}: {:?}", net.nodes[0].machine.held()),
    }
}

fn tell(test: &str, mut times: Vec<u64>) {
    times.sort_unstable();
    let at = |q: usize| times[(times.len() * q / 100).min(times.len() - 1)];
    println!("{test}: {} honest pings, p50 {} ns, p99 {} ns of virtual time", times.len(), at(50), at(99));
}

fn held(net: &Net) -> Held {
    let m = &net.nodes[0].machine;
    assert_eq!(m.held().used, m.held_recounted());
    m.held()
}

/// Takes node 1 down; it ends in order.
fn goes_down(mut net: Net) {
    net.op(0, Op::Shutdown { tag: 7 });
    net.run(5 * SEC);
    let down = net.take_events(0).iter().any(|e| matches!(e, Event::ShutDown { tag: 7 }));
    assert!(down, "{:?}", net.nodes[0].machine.gauges());
    let h = held(&net);
    assert_eq!((h.answers, h.handshakes, h.conns, h.stalled), (0, 0, 0, 0), "{h:?}");
}

/// Process `pid` of 10.0.0.66, as [`hello`] and [`header`] have it but for that.
fn of_pid(pid: u32) -> Hello {
    Hello { src_pid: pid, ..hello(Version::V3, ConnType::Control) }
}

fn join(net: &mut Net, pid: u32, port: u16) -> usize {
    let link = net.raw_connect(SocketAddr::new([10, 0, 0, 66].into(), port), 0);
    net.raw_send(link, &start(&of_pid(pid)));
    net.run(SEC / 100);
    link
}

fn get(src: Nid, pid: u32) -> Vec<u8> {
    let handle = WireHandle { interface: 1, object: 1 };
    let body = LnetBody::Get { handle, match_bits: 5, portal: 5, src_offset: 0, sink_length: 4096 };
    message(Version::V3, &LnetHdr { src_nid: src, src_pid: pid, ..header(body, 0) }, 0)
}

/// Field report 2: memory had no total, since what one peer could make us hold was bounded, and peers were 65,536.
#[test]
fn three_hundred_pids_that_never_read() {
    let (mut net, mut times) = victim(4 * MIB);
    let baseline = held(&net);
    let links: Vec<usize> = (0..300).map(|i| join(&mut net, 1000 + i, 1023 - i as u16)).collect();
    for (i, link) in links.iter().enumerate() {
        net.raw_send(*link, &get(nid(66), 1000 + i as u32).repeat(200));
        if i % 10 == 0 {
            honest(&mut net, &mut times);
        }
    }
    for _ in 0..100 {
        net.run(SEC / 100);
        honest(&mut net, &mut times);
        let h = held(&net);
        assert!(h.used <= 2 * MIB + HONEST, "{h:?}");
    }
    let h = held(&net);
    assert!(h.stalled > 100 && h.answers > 0, "they were stalled by then: {h:?}");
    // The honest one waits neither for memory nor for the NI's credits, of which the others hold their share alone.
    tell("three_hundred_pids_that_never_read", times.clone());
    for link in &links {
        net.raw_reset(*link);
    }
    net.run(SEC);
    assert!(!net.take_events(0).is_empty());
    honest(&mut net, &mut times);
    // They are dialled once for what waited, refused, and forgotten when their back-off is.
    net.run(300 * SEC);
    honest(&mut net, &mut times);
    net.run(SEC);
    assert_eq!(held(&net), baseline);
    let g = net.nodes[0].machine.gauges();
    assert_eq!((g.peers, g.conns, g.queued, g.lends, g.credits_used), (1, 3, 0, 0, 0), "{g:?}");
    goes_down(net);
}

/// The same peers are there when the node is told to go down (field report 3).
#[test]
fn down_while_answers_wait_for_peers_that_never_read() {
    let (mut net, mut times) = victim(4 * MIB);
    for i in 0..20 {
        let link = join(&mut net, 1000 + i, 1023 - i as u16);
        net.raw_send(link, &get(nid(66), 1000 + i).repeat(500));
    }
    net.run(SEC);
    honest(&mut net, &mut times);
    assert!(held(&net).stalled > 0);
    goes_down(net);
}

/// ACKs have no pages: they are charged until TCP has acknowledged them.
#[test]
fn acks_that_are_not_read_stall_their_host_until_it_reads() {
    let (mut net, mut times) = victim(MIB);
    let md = transport::lnet::MdSpec::new(MdMem::Sink(Sink::Lend(4096)));
    net.op(0, Spot(6, 6).attach(0, md));
    net.take_events(0);
    let link = join(&mut net, 12345, 1000);
    let ack = WireHandle { interface: 1, object: 3 };
    let body = LnetBody::Put { ack, match_bits: 6, hdr_data: 0, portal: 6, offset: 0 };
    const N: usize = 2000;
    let before = net.nodes[0].machine.counters().msgs_rx;
    net.raw_send(link, &message(Version::V3, &header(body, 8), 0).repeat(N));
    net.run(SEC);
    honest(&mut net, &mut times);
    let h = held(&net);
    assert!(h.stalled == 1 && h.used <= MIB / 2 + HONEST, "{h:?}");
    // It reads, again and again: each PUT is taken, and each is ACKed.
    for _ in 0..200 {
        net.raw_ack(link);
        net.run(SEC / 100);
    }
    let h = held(&net);
    assert_eq!((h.answers, h.stalled), (0, 0), "{h:?}");
    let c = net.nodes[0].machine.counters();
    assert_eq!(c.msgs_rx - before, N as u64 + times.len() as u64 - 1);
    goes_down(net);
}

/// Zero-copy ACKs are NOOPs that a peer can ask for without an LNet answer.
#[test]
fn zero_copy_acks_that_are_not_read_stall_their_host() {
    let (mut net, mut times) = victim(MIB);
    let link = join(&mut net, 12345, 1000);
    // A PUT that nothing matches is dropped; its cookie is acknowledged all the same.
    for cookie in 2..4000 {
        net.raw_send(link, &message(Version::V3, &put(0), cookie));
    }
    net.run(SEC);
    honest(&mut net, &mut times);
    let h = held(&net);
    assert!(h.used <= MIB / 2 + HONEST, "{h:?}");
    net.raw_reset(link);
    net.run(SEC);
    assert_eq!(held(&net).answers, 0);
    goes_down(net);
}

#[test]
fn two_thousand_mute_connections() {
    let (mut net, mut times) = victim(64 * MIB);
    let baseline = held(&net);
    for i in 0..2000u16 {
        // Four addresses, as many ports as there are reserved ones.
        let from = SocketAddr::new([10, 0, 1, (i / 500) as u8].into(), 1023 - i % 500);
        let link = net.raw_connect(from, 0);
        if i % 2 == 0 {
            net.raw_send(link, &[0x65]);
        }
    }
    net.run(SEC / 10);
    let c = *net.nodes[0].machine.counters();
    let h = held(&net);
    assert!(c.err_too_many_embryonic > 0 && h.handshakes < 1024 * 4096, "{h:?}");
    // One that was never here gets a place, and so does one that is connected.
    net.add(config(3));
    net.op(2, ping_op(id(1)));
    net.run(SEC);
    assert!(matches!(net.take_events(2)[..], [Event::Ping { info: Ok(_), .. }]));
    for _ in 0..20 {
        honest(&mut net, &mut times);
    }
    tell("two_thousand_mute_connections", times);
    net.run(10 * SEC);
    let h = held(&net);
    // That of node 3, which stays, is a set like node 2's.
    assert_eq!((h.handshakes, h.conns), (0, 2 * baseline.conns), "{h:?}");
    goes_down(net);
}

#[test]
fn half_messages() {
    let (mut net, mut times) = victim(64 * MIB);
    let baseline = held(&net);
    let whole = message(Version::V3, &put(100), 0);
    let mut links = Vec::new();
    for i in 0..200u32 {
        let link = join(&mut net, 1000 + i, 1023 - i as u16);
        net.raw_send(link, &whole[..1 + i as usize % (whole.len() - 1)]);
        links.push(link);
    }
    net.run(SEC);
    honest(&mut net, &mut times);
    // A third end it with FIN, a third with RST, a third say nothing more.
    for (i, link) in links.into_iter().enumerate() {
        match i % 3 {
            0 => net.raw_fin(link),
            1 => net.raw_reset(link),
            _ => {}
        }
    }
    for _ in 0..60 {
        net.run(SEC);
        honest(&mut net, &mut times);
    }
    net.run(SEC);
    tell("half_messages", times);
    assert_eq!(held(&net), baseline);
    goes_down(net);
}

/// Sources that lead nowhere cost nothing to invent: all of them share what one host may hold.
#[test]
fn answers_to_nobody() {
    let (mut net, mut times) = victim(MIB);
    let baseline = held(&net);
    let link = join(&mut net, 12345, 1000);
    for i in 0..5000u32 {
        let nobody: Nid = format!("10.0.{}.{}@tcp", 2 + i / 250, 1 + i % 250).parse().unwrap();
        net.raw_send(link, &get(nobody, 12345));
        if i % 500 == 0 {
            honest(&mut net, &mut times);
            let h = held(&net);
            assert!(h.used <= MIB / 2 + HONEST, "{h:?}");
        }
    }
    net.run(SEC);
    let c = *net.nodes[0].machine.counters();
    assert!(c.drop_no_way_back > 4000, "{}", c.drop_no_way_back);
    net.raw_fin(link);
    net.run(300 * SEC);
    honest(&mut net, &mut times);
    net.run(SEC);
    tell("answers_to_nobody", times);
    assert_eq!(held(&net), baseline);
    goes_down(net);
}

/// Dials that hang hold the NI's credits of those sources, and the answers behind them held memory for hours: field
/// report 2's kind.
#[test]
fn answers_to_nobody_whose_dials_hang() {
    let (mut net, mut times) = victim(MIB);
    let baseline = held(&net);
    for i in 0..400u32 {
        net.raw_listen([10, 0, 2 + (i / 250) as u8, 1 + (i % 250) as u8].into());
    }
    let link = join(&mut net, 12345, 1000);
    for i in 0..400u32 {
        let mute: Nid = format!("10.0.{}.{}@tcp", 2 + i / 250, 1 + i % 250).parse().unwrap();
        net.raw_send(link, &get(mute, 12345));
    }
    net.run(SEC);
    assert!(net.nodes[0].machine.gauges().queued > 0, "answers wait for credits");
    net.raw_fin(link);
    // Their dials take 50 s, and who waits behind them takes no longer, but for those that get a credit then. The back-off
    // is forgotten later.
    for _ in 0..60 {
        net.run(SEC);
        honest(&mut net, &mut times);
    }
    let h = held(&net);
    assert!(h.answers <= HONEST + (128 << 10), "{h:?}");
    net.run(300 * SEC);
    honest(&mut net, &mut times);
    net.run(SEC);
    tell("answers_to_nobody_whose_dials_hang", times);
    assert_eq!(held(&net), baseline);
    goes_down(net);
}

/// Nine hosts held all of the NI's credits, a half of the rest each, and nobody else was answered for as long as they read
/// a byte at times: field report 2's kind.
#[test]
fn twelve_hosts_that_never_read() {
    let (mut net, mut times) = victim(16 * MIB);
    let mut links = Vec::new();
    for host in 10..22u8 {
        let ip = [10, 0, 9, host];
        let src_nid: Nid = format!("10.0.9.{host}@tcp").parse().unwrap();
        for i in 0..40u32 {
            let link = net.raw_connect(SocketAddr::new(ip.into(), 1022 - i as u16), 0);
            net.raw_send(link, &start(&Hello { src_nid, ..of_pid(1000 + i) }));
            net.run(SEC / 1000);
            net.raw_send(link, &get(src_nid, 1000 + i).repeat(20));
            links.push(link);
        }
        honest(&mut net, &mut times);
    }
    let (used, most) = (net.nodes[0].machine.gauges().credits_used, config(1).ni_credits as usize);
    // Three quarters of them, and one a host.
    assert!((most * 3 / 4..most * 3 / 4 + 12).contains(&used), "{used} of {most} credits are held");
    for _ in 0..20 {
        net.run(SEC / 10);
        honest(&mut net, &mut times);
    }
    tell("twelve_hosts_that_never_read", times);
    links.into_iter().for_each(|link| net.raw_reset(link));
    net.run(SEC);
    let h = held(&net);
    assert_eq!((h.stalled, net.nodes[0].machine.gauges().queued), (0, 0), "{h:?}");
    goes_down(net);
}

/// So many hosts, of so many processes each, that ask for all they can and read none.
fn greedy(net: &mut Net, hosts: std::ops::Range<u8>, pids: u32) -> Vec<usize> {
    let mut links = Vec::new();
    for host in hosts {
        let ip = [10, 0, 9, host + 1];
        let src_nid: Nid = format!("10.0.9.{}@tcp", host + 1).parse().unwrap();
        for i in 0..pids {
            let link = net.raw_connect(SocketAddr::new(ip.into(), 1022 - i as u16), 0);
            net.raw_send(link, &start(&Hello { src_nid, ..of_pid(1000 + i) }));
            net.run(SEC / 1000);
            net.raw_send(link, &get(src_nid, 1000 + i).repeat(20));
            links.push(link);
        }
    }
    net.run(SEC / 10);
    links
}

/// Nine hosts that read nothing took all of the NI's credits: no PUT or GET of the node's own left it for 50 s, field report
/// 2's kind.
#[test]
fn own_operations_go_on_whatever_answers_hold() {
    for hosts in [9, 12, 64] {
        let (mut net, mut times) = victim(64 * MIB);
        attach(&mut net, 1, MdMem::Sink(Sink::Lend(4096)), true);
        let links = greedy(&mut net, 0..hosts, 14);
        let (used, most) = (net.nodes[0].machine.gauges().credits_used, config(1).ni_credits as usize);
        assert!((most * 3 / 4..=most).contains(&used), "{hosts} hosts hold {used} of {most} credits");
        net.take_events(0);
        const N: u64 = 200;
        for tag in 0..N {
            net.op(0, put_op(tag, id(2), pages(4096), true));
        }
        net.run(SEC);
        let acked = |e: &&Event| matches!(e, Event::Ack { status: Ok(()), done: true, .. });
        let good = net.take_events(0).iter().filter(acked).count();
        let sent = net.nodes[0].machine.gauges();
        assert!(good == N as usize, "{good} of {N} beside {hosts} hosts: {sent:?}");
        net.take_events(1);
        honest(&mut net, &mut times);
        links.into_iter().for_each(|link| net.raw_reset(link));
        net.run(SEC);
        goes_down(net);
    }
}

/// A REPLY of many pieces takes as many lendings. Two processes had them all.
#[test]
fn lendings_are_shared_by_host() {
    let mut net = Net::new();
    net.record = false;
    net.raw_acks = false;
    net.add(transport::lnd::Config { lendings: 64, ..config(1) });
    net.add(config(2));
    let run = transport::testing::data::run(4096).freeze();
    let pieces = (0..16).map(|i| run.slice(i * 256, 256).unwrap()).collect();
    attach(&mut net, 0, MdMem::Source(Payload::Pages(pieces)), true);
    greedy(&mut net, 0..1, 10);
    greedy(&mut net, 1..6, 1);
    let g = net.nodes[0].machine.gauges();
    // The first host has 32 of the 48 that are for answers, each of the others those of one message.
    assert_eq!((g.lends, g.queued > 20), (2 + 5, true), "{g:?}");
    net.op(1, ping_op(id(1)));
    net.run(SEC);
    assert!(matches!(net.take_events(1)[..], [Event::Ping { info: Ok(_), .. }]));
    goes_down(net);
}

/// The cause alone is counted.
#[test]
fn a_hello_that_gets_no_peer_is_counted_once() {
    for (budget, max_peers, want) in [(8 << 10, 9, (1, 0)), (MIB, 0, (0, 1))] {
        let mut net = Net::new();
        net.add(transport::lnd::Config { budget, max_peers, ..config(1) });
        join(&mut net, 1000, 1000);
        let c = net.nodes[0].machine.counters();
        assert_eq!((c.err_over_budget, c.err_too_many_peers), want);
    }
}

/// The same at the runtime, where lendings are: more answers than there are lendings to a peer that reads none hold up
/// neither its own connection's end, nor an operation of ours, nor what has no pages.
#[test]
fn answers_that_are_not_read_leave_lendings_to_operations_of_ours() {
    use std::io::Read;
    let ip: IpAddr = [127, 44, 0, 3].into();
    let tcp = Tcp { tx_buffer: 16 << 10, ..Tcp::default() };
    let cfg =
        SockConfig { listen: vec![SocketAddr::new(ip, 0)], lendings: 300, tcp, ..SockConfig::default() };
    let mut rt = SockStreams::new(cfg, Clock::monotonic()).unwrap();
    let at = rt.local_addrs()[0];
    let mut opened = Vec::new();
    let mute = TcpStream::connect(at).unwrap();
    let mut reader = TcpStream::connect(at).unwrap();
    while opened.len() < 2 {
        rt.turn(rt.now(), &mut |i| {
            if let Happened::Opened(id, info) = i {
                opened.push((id, info.remote));
            }
        });
    }
    let of = |s: &TcpStream| opened.iter().find(|o| o.1 == s.local_addr().unwrap()).unwrap().0;
    let (mute_id, reader_id) = (of(&mute), of(&reader));
    let Payload::Pages(page) = pages(1 << 20) else { unreachable!() };
    let msg = |n: u64, pay: bool, answer: bool| {
        let hdr = InlineHdr::try_from(&[n as u8; 8][..]).unwrap();
        let pay = if pay { page.clone() } else { Pages::new() };
        SendMsg { hdr, lend: (!pay.is_empty()).then_some(LendId(n)), pay, hold: false, answer }
    };
    for n in 0..400 {
        rt.send(mute_id, msg(n, true, true));
    }
    rt.flush();
    let c = rt.counters();
    assert_eq!((c.lendings_out, c.lend_waits), (256, 144), "44 are kept from answers");
    rt.send(reader_id, msg(1001, false, true));
    rt.send(reader_id, msg(1002, true, false));
    rt.send(reader_id, msg(1003, true, true));
    let (mut got, mut home) = (vec![0; 2 * 8 + (1 << 20)], Vec::new());
    reader.set_nonblocking(true).unwrap();
    let mut len = 0;
    while len < got.len() {
        rt.turn(rt.now(), &mut |i| home.extend(if let Happened::Released(l) = i { Some(l.0) } else { None }));
        rt.flush();
        len += reader.read(&mut got[len..]).unwrap_or(0);
    }
    assert_eq!((got[7], got[8]), (1001u64 as u8, 1002u64 as u8), "in the order of the connection");
    // A message that waits is let go with its connection, and the next has its turn.
    rt.close(mute_id, Close::Abort);
    let mut rest = vec![0; 8 + (1 << 20)];
    let mut len = 0;
    while len < rest.len() || home.len() < 402 {
        rt.turn(rt.now(), &mut |i| home.extend(if let Happened::Released(l) = i { Some(l.0) } else { None }));
        rt.flush();
        len += reader.read(&mut rest[len..]).unwrap_or(0);
    }
    home.sort_unstable();
    home.dedup();
    assert_eq!((home.len(), rt.counters().lendings_out), (402, 0), "each once");
}

/// A peer that speaks for another's NID pays for it until the other comes.
#[test]
fn who_comes_from_its_own_address_pays_for_itself() {
    let (mut net, _) = victim(64 * MIB);
    let before = held(&net);
    let link = net.raw_connect(SocketAddr::new([10, 0, 9, 9].into(), 1000), 0);
    net.raw_send(link, &start(&of_pid(12345)));
    net.run(SEC / 10);
    net.raw_send(link, &get(nid(66), 12345).repeat(100));
    net.run(SEC / 10);
    assert_eq!(held(&net).hosts, before.hosts + 1);
    join(&mut net, 12345, 1001);
    let h = held(&net);
    assert_eq!(h.hosts, before.hosts + 2, "{h:?}");
    net.raw_send(link, &noop(0, 0)[..3]);
    net.raw_fin(link);
    net.run(SEC);
    assert_eq!(held(&net).answers, 0);
    goes_down(net);
}

/// Two processes of one host share its part of the NI's credits: one that is woken though nothing of it waits any more
/// keeps nobody behind it asleep.
#[test]
fn who_waits_behind_one_that_waits_no_longer_is_woken() {
    let mut net = Net::new();
    net.record = false;
    net.raw_acks = false;
    net.add(transport::lnd::Config { ni_credits: 2, ..config(1) });
    attach(&mut net, 0, MdMem::Source(pages(4096)), true);
    let (a, b) = (join(&mut net, 1000, 1023), join(&mut net, 1001, 1022));
    [a, b].iter().for_each(|l| net.raw_ack(*l));
    for (link, pid) in [(a, 1000), (b, 1001), (a, 1000)] {
        net.raw_send(link, &get(nid(66), pid));
        net.run(SEC / 100);
    }
    let g = |net: &Net| {
        let g = net.nodes[0].machine.gauges();
        (g.credits_used, g.queued)
    };
    // The host has half of the credits: both the second of `a` and that of `b` wait.
    assert_eq!(g(&net), (1, 2));
    for (link, then) in [(a, (1, 1)), (a, (1, 0)), (b, (0, 0))] {
        net.raw_ack(link);
        net.run(SEC / 100);
        assert_eq!(g(&net), then);
    }
}

/// Field report 4: what a turn leaves in the listener's queue is taken in the next ones, though the poller tells of it
/// once alone.
#[test]
fn many_connections_at_once_are_all_accepted() {
    let ip: IpAddr = [127, 44, 0, 1].into();
    let tcp = Tcp { backlog: 2000, ..Tcp::default() };
    let many = transport::lnd::Config { accept: Accept::Trust, max_embryonic: 1 << 16, tcp, ..config(1) };
    let mut node = NodeBuilder::of(many).listen_at([SocketAddr::new(ip, 0)]).sockets(NoApp).unwrap();
    let at = node.streams().unwrap().local_addrs()[0];
    const N: usize = 1500;
    let socks: Vec<TcpStream> = (0..N).map(|_| TcpStream::connect(at).unwrap()).collect();
    let mut turns = 0;
    while node.machine.gauges().conns < N {
        turns += 1;
        assert!(turns < 100, "{} of {N} were accepted", node.machine.gauges().conns);
        node.turn();
    }
    assert!(turns > 2, "a turn takes a part of them");
    drop(socks);
    // The kernel ends them in its own time.
    for _ in 0..1_000_000 {
        node.turn();
        if node.machine.gauges().conns == 0 {
            break;
        }
    }
    let h = node.machine.held();
    assert_eq!((h.used, h.hosts), (0, 0), "{h:?}");
}

/// The same over the real runtime: one that asks and never reads holds one receive buffer at most.
#[test]
fn unread_requests_hold_one_buffer_a_connection() {
    use std::io::Write;
    let ip: IpAddr = [127, 44, 0, 2].into();
    let poor = transport::lnd::Config { accept: Accept::Trust, budget: MIB, ..config(1) };
    let mut node = NodeBuilder::of(poor).listen_at([SocketAddr::new(ip, 0)]).sockets(NoApp).unwrap();
    let at = node.streams().unwrap().local_addrs()[0];
    let md = transport::lnet::MdSpec {
        truncate: true,
        ..transport::lnet::MdSpec::new(MdMem::Source(pages(4096)))
    };
    node.machine.handle(1, Input::Cmd(transport::lnd::AppId::FIRST, AT.attach(9, md)));
    let mut socks = Vec::new();
    for pid in 0..20 {
        let mut s = TcpStream::connect(at).unwrap();
        s.write_all(&start(&of_pid(1000 + pid))).unwrap();
        s.set_nonblocking(true).unwrap();
        socks.push((pid, s));
    }
    for _ in 0..2000 {
        for (pid, s) in &mut socks {
            // As much as the kernel takes: whole messages or not is all the same to memory.
            let _ = s.write(&get(nid(66), 1000 + *pid).repeat(50));
        }
        node.turn();
    }
    let (h, rt) = (node.machine.held(), node.counters());
    assert!(h.stalled > 0 && h.used <= MIB / 2 + HONEST, "{h:?}");
    assert!(rt.rx_pool_bytes_in_use <= 20 * (128 << 10), "{rt:?}");
    drop(socks);
    for _ in 0..20_000 {
        node.turn();
    }
    let (h, rt) = (node.machine.held(), node.counters());
    assert_eq!((h.answers, h.conns, h.stalled, rt.rx_pool_bytes_in_use, rt.conns), (0, 0, 0, 0, 0), "{h:?}");
}
