//! `pollnd node`, `ping`, `put` and `get` between processes on kernel sockets.

#![allow(missing_docs)]

mod configs;
#[allow(dead_code)]
mod proc;

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use bench::net::{ASK_LEN, Ask, AskKind};
use proc::{End, Proc, can, nid, node, own_ip, run, start};
use rustix::net::{AddressFamily, SocketType, bind, connect, ipproto, socket};
use rustix::process::Signal;
use transport::net::Desc;
use transport::wire::netsock::{Addr, Bdesc, Cookie, HDR_LEN, PacketHdr, PacketType};

/// The object of `put --json` or `get --json`: all messages, nothing copied, down in order.
fn moved(e: &End, n: u64, size: u64) {
    let v = e.json();
    for (name, want) in
        [("messages", n), ("bytes", n * size), ("crc_bad", 0), ("tx_copied_bytes", 0), ("rx_copied_bytes", 0)]
    {
        assert_eq!(v[name].as_u64(), Some(want), "{name}: {v}");
    }
    assert_eq!(v["clean"].as_bool(), Some(true), "{v}");
}

#[test]
fn ping_put_and_get_between_two_processes() {
    if !can("ping_put_and_get_between_two_processes") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let (client, server) = (nid(a), nid(b));
    let up = node(b, &[]);
    let ping = run(&["ping", &server, "--nid", &client]).good();
    let lines: Vec<_> = ping.out.lines().collect();
    assert_eq!(lines[..2], ["12345-0@lo", &format!("12345-{server}")], "as lctl ping shows it");
    assert!(lines[2].starts_with("time ") && lines[2].contains(" us, features 0x"), "{ping:?}");
    assert!(lines[3].starts_with("1 ping, 1 answered, 0 lost; shortest "), "{ping:?}");
    let both = ["--nid", &client, "--json"];
    let bulk = |args: &[&str]| run(&[args, &both].concat()).good();
    moved(&bulk(&["put", &server, "-c", "20"]), 20, 1 << 20);
    moved(&bulk(&["get", &server, "-c", "20"]), 20, 1 << 20);
    // Below the size from which pages and zero-copy ACKs are used, and an odd size.
    moved(&bulk(&["put", &server, "-c", "3", "-s", "97"]), 3, 97);
    moved(&bulk(&["put", &server, "-c", "3", "-s", "16385"]), 3, 16_385);
    let text = run(&["put", &server, "--nid", &client, "-c", "2", "-s", "4096"]).good();
    assert!(text.out.contains("2 messages of 4096 bytes"), "{text:?}");

    let bytes = (20 << 20) + 3 * 97 + 3 * 16_385 + 2 * 4096;
    let end = up.stop().good().says(&[&format!("28 PUTs, {bytes} bytes; checked 28, wrong 0")]);
    assert!(end.errors().is_empty(), "{end:?}");
    // Those that were sent before the connection for bulk was there ask for none.
    assert!(end.counter("zc_acks_tx") <= 23, "{end:?}");
    let asked = end.counter("zc_requested");
    assert!(asked <= 20 && end.counter("zc_acked") == asked, "{end:?}");
    for gone in
        ["lendings_out", "rx_lent_out", "rx_pool_bytes_in_use", "rx_copied_bytes", "tx_copied_bytes", "conns"]
    {
        assert_eq!(end.counter(gone), 0, "{gone}: {end:?}");
    }
    assert!(end.err.contains("going down"), "{end:?}");
}

#[test]
fn without_lending_every_byte_is_copied_once() {
    if !can("without_lending_every_byte_is_copied_once") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let up = node(b, &["--copy"]);
    run(&["put", &nid(b), "--nid", &nid(a), "-c", "40", "-s", "1000000"]).good();
    let end = up.stop().good().says(&["checked 40, wrong 0"]);
    assert_eq!((end.counter("rx_copied_bytes"), end.counter("rx_lent_bytes")), (40_000_000, 0), "{end:?}");
}

#[test]
fn two_clients_and_a_ping_at_once() {
    if !can("two_clients_and_a_ping_at_once") {
        return;
    }
    let (a, b, c, s) = (own_ip(), own_ip(), own_ip(), own_ip());
    let up = node(s, &[]);
    let put = |ip| start(&["put", &nid(s), "--nid", &nid(ip), "-c", "60", "--json"]);
    let (one, two) = (put(a), put(b));
    run(&["ping", &nid(s), "--nid", &nid(c)]).good();
    for p in [one, two] {
        moved(&p.end().good(), 60, 1 << 20);
    }
    let end = up.stop().good().says(&["120 PUTs,", "checked 120, wrong 0"]);
    assert!(end.errors().is_empty(), "{end:?}");
}

/// A `put` from `client` with no end in sight, under way.
fn endless(server: &str, client: Ipv4Addr) -> Proc {
    let mut p = start(&["put", server, "--nid", &nid(client), "-c", "10000000", "-s", "65536"]);
    p.until("a connection for control and two for bulk", |_, _| proc::connections(client) == 3);
    // Eight messages behind those that are under way.
    run(&["get", server, "--nid", &nid(own_ip()), "-c", "8"]).good();
    p
}

#[test]
fn a_client_whose_server_is_killed_says_so() {
    if !can("a_client_whose_server_is_killed_says_so") {
        return;
    }
    for copy in [&[][..], &["--copy"]] {
        let (a, b) = (own_ip(), own_ip());
        let server = nid(b);
        let up = node(b, copy);
        let put = endless(&server, a);
        up.kill();
        let end = put.end().failed(1, &["PUT to", &server, "of 10000000 messages had completed"]);
        // The second when it has dialled once more already.
        let why = ["the connection to the peer was lost", "the peer cannot be reached"];
        assert!(why.iter().any(|w| end.err.contains(w)), "{end:?}");
        // The same address serves again at once.
        let up = node(b, copy);
        moved(&run(&["put", &server, "--nid", &nid(a), "-c", "5", "--json"]).good(), 5, 1 << 20);
        up.stop().good().says(&["checked 5, wrong 0"]);
    }
}

#[test]
fn a_server_whose_client_is_killed_serves_the_next() {
    if !can("a_server_whose_client_is_killed_serves_the_next") {
        return;
    }
    for copy in [&[][..], &["--copy"]] {
        let (a, b) = (own_ip(), own_ip());
        let server = nid(b);
        let up = node(b, copy);
        let put = endless(&server, a);
        put.kill();
        run(&["put", &server, "--nid", &nid(a), "-c", "5"]).good();
        // A message that was cut off is none with wrong bytes.
        let end = up.stop().good().says(&["wrong 0"]);
        assert_eq!((end.counter("rx_lent_out"), end.counter("rx_pool_bytes_in_use")), (0, 0), "{end:?}");
    }
}

#[test]
fn a_pinger_finds_a_restarted_server_again() {
    if !can("a_pinger_finds_a_restarted_server_again") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let mut up = node(b, &[]);
    let mut ping = start(&["ping", &nid(b), "--nid", &nid(a), "-c", "1000", "-i", "0.2"]);
    let seen = Cell::new(0);
    let answers = |out: &str| out.matches("time ").count();
    for restart in [Some(true), Some(false), None] {
        ping.until("what there is", |out, _| {
            seen.set(answers(out));
            true
        });
        ping.until("one more answer", |out, _| answers(out) > seen.get());
        match restart {
            Some(true) => up.kill(),
            Some(false) => drop(up.stop().good()),
            None => break,
        }
        up = node(b, &[]);
    }
    // Those that found nobody were lost, and it said so.
    ping.signal(Signal::INT);
    let end = ping.end();
    assert!(end.out.contains("answered"), "{end:?}");
    up.stop().good();
}

#[test]
fn interrupting_a_client_is_no_error_of_the_server() {
    if !can("interrupting_a_client_is_no_error_of_the_server") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let up = node(b, &[]);
    let put = endless(&nid(b), a);
    put.signal(Signal::INT);
    put.end().failed(1, &["going down", "interrupted", "of 10000000 messages"]);
    let end = up.stop().good().says(&["wrong 0"]);
    assert_eq!((end.counter("rx_lent_out"), end.counter("rx_pool_bytes_in_use")), (0, 0), "{end:?}");
}

#[test]
fn a_node_goes_down_when_its_time_is_over() {
    let b = own_ip();
    let end = run(&["node", "--nid", &nid(b), "--accept-port", "10988", "--run-for", "0.1"]).good();
    let first = format!("{} is up on kernel sockets, port 10988", nid(b));
    assert!(end.out.starts_with(&first), "{end:?}");
    end.says(&["0 PUTs, 0 bytes; checked 0, wrong 0"]);
}

/// Two NIs on one address, and one on another: each network is pinged, and bulk goes by each.
#[test]
fn a_node_has_the_nis_that_it_is_given() {
    if !can("a_node_has_the_nis_that_it_is_given") {
        return;
    }
    let (a, b, c) = (own_ip(), own_ip(), own_ip());
    let (first, second, third) = (nid(b), format!("{b}@tcp1"), format!("{c}@tcp2"));
    let mut up = node(b, &["--ni", &second, "--ni", &third]);
    up.until("all of them", |out, _| out.contains(&format!("{first}, {second}, {third} is up on")));
    for (own, target) in [(nid(a), &first), (format!("{a}@tcp1"), &second), (format!("{a}@tcp2"), &third)] {
        let ping = run(&["ping", target, "--nid", &own]).good();
        let said: Vec<_> = ping.out.lines().take(4).collect();
        let all = [
            "12345-0@lo".to_owned(),
            format!("12345-{first}"),
            format!("12345-{second}"),
            format!("12345-{third}"),
        ];
        assert_eq!(said, all, "{ping:?}");
        moved(&run(&["put", target, "-c", "2", "--nid", &own, "--json"]).good(), 2, 1 << 20);
    }
    // A node of two NIs asks by each; by none, what it has no NI for.
    let both = [nid(a), format!("{a}@tcp1")];
    let from = ["--nid", &both[0], "--ni", &both[1]];
    for target in [&first, &second] {
        run(&[&["ping", target], &from[..]].concat()).good();
    }
    run(&[&["ping", &third], &from[..]].concat()).failed(1, &[&third, "network"]);
    let end = up.stop().good().says(&["6 PUTs"]);
    assert_eq!((end.counter("err_dest_nid"), end.counter("err_target_nid")), (0, 0), "{end:?}");
    // NIs that cannot be are refused before anything starts.
    run(&["node", "--nid", &first, "--ni", &first]).failed(1, &["named twice", &second]);
    run(&["node", "--nid", &first, "--ni", "224.0.0.1@tcp1"]).failed(2, &["--ni", "multicast"]);
    run(&["node", "--nid", &first, "--ni", "198.51.100.77@tcp1"])
        .failed(1, &["198.51.100.77", "`ip addr` lists them"]);
    run(&["ping", &first, "--ni", &second]).failed(2, &["--nid"]);
}

/// `pollnd net ARGS --json`, its object.
fn net(args: &[&str]) -> serde_json::Value {
    run(&[&["net"], args, &["--json"]].concat()).good().json()
}

/// Over both transports: each operation once, each byte checked, both ends down in order.
#[test]
fn motrs_messages_and_bulk_over_both_transports() {
    let (a, b) = (own_ip(), own_ip());
    let sock = [format!("inet:stream:{a}@7000"), format!("inet:stream:{b}@7000")];
    let lnet = [format!("{a}@tcp:12345:34:*"), format!("{b}@tcp:12345:34:1")];
    for ([here, there], xprt) in [(&sock, "sock"), (&lnet, "lnet")] {
        if xprt == "lnet" && !can("motrs_messages_and_bulk_over_both_transports") {
            return;
        }
        let node = start(&["net", "node", there]).up();
        let own = ["--from", here, "--check"];
        let (mut operations, mut bytes) = (0, 0);
        for (verb, size, count) in [
            (&["ping"][..], 8_u64, 20_u64),
            (&["ping"], 4097, 200),
            (&["bulk"], 1 << 20, 20),
            (&["bulk", "--write"], 1, 3),
            (&["bulk", "--read"], 1 << 20, 20),
            (&["bulk", "--read", "--copy"], 70_001, 9),
        ] {
            let (s, c) = (size.to_string(), count.to_string());
            let v = net(&[verb, &[there, "-s", &s, "-c", &c], &own].concat());
            let want = [
                ("operations", count),
                ("bytes", count * size),
                ("checked", count),
                ("wrong", 0),
                ("failed", 0),
            ];
            for (name, want) in want {
                assert_eq!(v[name].as_u64(), Some(want), "{name}: {v}");
            }
            assert!(v["xprt"] == xprt && v["error"].is_null() && v["p99_us"].as_f64() > Some(0.0), "{v}");
            (operations, bytes) = (operations + count, bytes + count * size);
        }
        // One at a time for a while, and more than the node has memory for at a time.
        let v = net(&["ping", there, "--from", here, "-t", "0.3", "--concurrency", "1"]);
        assert!(v["operations"].as_u64() > Some(10) && v["interrupted"] == false, "{v}");
        (operations, bytes) =
            (operations + v["operations"].as_u64().unwrap(), bytes + v["bytes"].as_u64().unwrap());
        let v = net(&["bulk", there, "--from", here, "-c", "100", "--concurrency", "40", "-s", "64k"]);
        assert_eq!(v["operations"], 100, "{v}");
        (operations, bytes) = (operations + 100, bytes + (100 << 16));
        let text = run(&["net", "ping", there, "--from", here, "-c", "5"]).good();
        assert!(
            text.out.starts_with("ping of 4096 bytes, 8 at a time: ") && text.out.contains("CPU s/GiB"),
            "{text:?}"
        );
        let said = format!("{} operations, {} bytes; failed 0, checked", operations + 5, bytes + 5 * 4096);
        node.stop().good().says(&[&said, "wrong 0"]);
    }
}

#[test]
fn the_default_address_is_on_the_way_to_the_node() {
    let there = format!("{}@tcp:12345:35:7", own_ip());
    let node = start(&["net", "node", &there, "--xprt", "sock", "--run-for", "60"]).up();
    let v = net(&["ping", &there, "--xprt", "sock", "-c", "3"]);
    assert!(
        v["operations"] == 3 && v["from"].as_str().is_some_and(|f| f.starts_with("inet:stream:127.")),
        "{v}"
    );
    let stats = run(&["stats", "--node", &node.id().to_string(), "--json"]).good();
    let counters = &stats.json()["lcores"][0]["counters"];
    assert_eq!(
        (counters["netsock_packets_rx"].as_u64(), counters["netsock_bytes_tx"].as_u64()),
        (Some(3), Some(3 * 4096)),
        "{stats:?}"
    );
    node.stop().good();
}

#[test]
fn faults_of_motrs_transport_are_named() {
    let (ip, other) = (own_ip(), own_ip());
    let here = format!("inet:stream:{ip}@7000");
    let nobody = format!("inet:stream:{other}@7000");
    for (args, code, says) in [
        (
            &["net", "ping", &nobody, "--from", &here, "--timeout", "0.3"][..],
            1,
            &["timed out", "pollnd net node inet:stream:"][..],
        ),
        (&["net", "ping", &here, "--from", &here], 1, &["own address", "--from"]),
        (&["net", "ping", "10.0.0.1@tcp:12345:34:*"], 1, &["* names no transfer machine"]),
        (&["net", "bulk", "10.0.0.1@tcp:12345:34:1", "-s", "2M"], 1, &["--size 2097152", "1048576"]),
        (&["net", "node", "inet:stream:10.0.0.1"], 1, &["\"inet:stream:10.0.0.1\"", "IP@PORT"]),
        (&["net", "node", "unix:stream:x"], 1, &["inet6"]),
        (&["net", "node", &here, "--lcores", "2"], 1, &["--lcores 2", "one lcore"]),
        (&["net", "bulk", &nobody, "--read", "--write"], 2, &["--write"]),
        (&["net", "ping", "inet:stream:255.255.255.255@7000"], 1, &["no way to 255.255.255.255", "--from"]),
        // More than any machine has.
        (
            &["net", "node", &here, "--buffers", "65536", "--message", "64M"],
            1,
            &["--message 67108864", "give less"],
        ),
        (&["net", "node", &here, "--bulks", "1024", "--bulk", "64M"], 1, &["--bulks 1024", "131072 MiB"]),
        (
            &["net", "ping", &nobody, "--concurrency", "1024", "-s", "64M"],
            1,
            &["--concurrency 1024", "give less"],
        ),
    ] {
        run(args).failed(code, says);
    }
    let node = start(&["net", "node", &here]).up();
    // The address is taken, and said to be.
    run(&["net", "node", &here]).failed(1, &["7000"]);
    // More than the node has memory for; it goes on.
    let from = format!("inet:stream:{other}@7001");
    run(&["net", "bulk", &here, "--from", &from, "-s", "2M", "-c", "1"])
        .failed(1, &["Message too long", "--bulk"]);
    // A message that the node has no buffer for waits, and the remedy is named.
    let ping = ["net", "ping", &here, "--from", &from, "-s", "65537", "-c", "1", "--timeout", "0.3"];
    run(&ping).failed(1, &["timed out", "65537 bytes", "--message 65537 --buffers 64"]);
    net(&["bulk", &here, "--from", &from, "-c", "1"]);
    // Ctrl-C: the figures until then.
    let mut long = start(&["net", "ping", &here, "--from", &from, "-t", "60", "--json"]);
    proc::eventually("connection", || proc::connections(other) > 1);
    assert!(long.runs());
    long.signal(Signal::INT);
    let end = long.end().failed(130, &["interrupted"]);
    assert!(end.json()["interrupted"] == true && end.json()["operations"].as_u64() > Some(0), "{end:?}");
    node.stop().good();
}

/// A peer of a transfer machine that speaks netsock, and means no good.
struct Mallory {
    ip: Ipv4Addr,
    at: SocketAddr,
    to: SocketAddr,
    number: u64,
}

impl Mallory {
    fn new(ip: Ipv4Addr, to: Ipv4Addr) -> Mallory {
        Mallory { ip, at: (ip, 7001).into(), to: (to, 7000).into(), number: 0 }
    }

    fn dial(&self) -> TcpStream {
        let s = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::TCP)).unwrap();
        bind(&s, &SocketAddr::from((self.ip, 0))).unwrap();
        connect(&s, &self.to).unwrap();
        let s = TcpStream::from(s);
        s.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        s
    }

    /// A message of these bytes, in the name of the machine at `from`.
    fn message(&mut self, from: SocketAddr, payload: &[u8]) -> Vec<u8> {
        self.number += 1;
        let bdesc = |at, cookie| Bdesc { addr: Addr::stream(at), cookie };
        let size = payload.len() as u64;
        let hdr = PacketHdr {
            kind: PacketType::Put,
            src: bdesc(from, Cookie { addr: 0x7000, generation: self.number }),
            dst: bdesc(self.to, Cookie::NONE),
            idx: 0,
            nr: 1,
            size,
            offset: 0,
            total: size,
        };
        [&hdr.emit()[..], payload].concat()
    }

    /// Asks for bulk between the node and a buffer that is not there.
    fn ask(&mut self, kind: AskKind) -> Vec<u8> {
        let cookie = Cookie { addr: 0x7000, generation: 1 };
        let desc = Desc::new(&Bdesc { addr: Addr::stream(self.at), cookie }.emit()).unwrap();
        let ask = Ask { kind, check: false, tag: 1, len: 1 << 20, seed: 0, status: 0, desc: Some(desc) };
        let mut b = [0; ASK_LEN];
        assert!(ask.write(&mut b));
        self.message(self.at, &b)
    }
}

/// A peer that takes no answers, gives nothing that it is asked for, and takes no bulk holds all of a node's memory for a few
/// seconds, not for ever. Connections with garbage end, and the node says why.
#[test]
fn peers_that_take_nothing_starve_nobody_of_a_transfer_machine() {
    let (ip, hostile, honest) = (own_ip(), own_ip(), own_ip());
    let here = format!("inet:stream:{ip}@7000");
    let mut node = start(&["net", "node", &here, "--buffers", "8", "--bulks", "2"]).up();
    let mut mallory = Mallory::new(hostile, ip);
    // It listens, and accepts nothing.
    let _silent = TcpListener::bind(mallory.at).unwrap();
    // Until nothing more is taken.
    let mut flood = mallory.dial();
    let message = mallory.message(mallory.at, &[7; 60_000]);
    assert!((0..4000).any(|_| flood.write_all(&message).is_err()), "all of 240 MB were taken");
    let mut asks = [mallory.dial(), mallory.dial()];
    for (s, kind) in asks.iter_mut().zip([AskKind::Fetch, AskKind::Fill]) {
        let ask = mallory.ask(kind);
        assert!((0..20).all(|_| s.write_all(&ask).is_ok()), "asks were not taken");
    }
    let from = format!("inet:stream:{honest}@7000");
    let all = ["--from", &from, "-c", "3", "--concurrency", "1", "--check", "--timeout", "60"];
    for (verb, served) in [(&["ping", &here][..], 3), (&["bulk", &here], 3), (&["bulk", &here, "--read"], 3)]
    {
        let v = net(&[verb, &all[..]].concat());
        assert_eq!((v["operations"].as_u64(), v["wrong"].as_u64()), (Some(served), Some(0)), "{v}");
    }
    drop((flood, asks));
    let mut s = mallory.dial();
    s.write_all(&[0x55; HDR_LEN]).unwrap();
    assert_eq!(s.read(&mut [0]).unwrap(), 0);
    node.until("a word about garbage", |_, err| {
        err.contains("refused") && err.contains(&hostile.to_string())
    });
    node.stop().good().says(&["wrong 0"]);
}

/// A message in the node's own name goes to nobody: an answer to it would go round for ever.
#[test]
fn a_message_in_a_transfer_machines_own_name_is_not_answered() {
    let ip = own_ip();
    let node = start(&["net", "node", &format!("inet:stream:{ip}@7000")]).up();
    let mut mallory = Mallory::new(ip, ip);
    let back = TcpListener::bind(mallory.at).unwrap();
    let mut s = mallory.dial();
    let (own, ours) = (mallory.message(mallory.to, b"round"), mallory.message(mallory.at, b"there and back"));
    s.write_all(&[own, ours].concat()).unwrap();
    let mut answer = [0; HDR_LEN + 14];
    back.accept().unwrap().0.read_exact(&mut answer).unwrap();
    assert_eq!(&answer[HDR_LEN..], b"there and back");
    node.stop().good().says(&["1 operation, 14 bytes; failed 0"]);
}
