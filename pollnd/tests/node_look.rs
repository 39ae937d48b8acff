//! Looking at nodes that run on DPDK ports: what `pollnd connections`, `stats`, `capture` and DPDK's telemetry show of
//! two processes over a vhost link.

#![cfg(feature = "dpdk")]
#![allow(missing_docs)]

#[allow(dead_code)]
mod proc;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use pcap_file::pcap::PcapReader;
use proc::{Place, Proc};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType, connect, recv, send, socket,
};
use rustix::process::Signal;
use serde_json::Value;

const A: &str = "10.9.0.1";
const B: &str = "10.9.0.2";

impl Place {
    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// The node at the vhost end, up.
    fn node(&self) -> Proc {
        let vhost = format!("net_vhost0,iface={},queues=1,tso=1", self.path("v.sock"));
        self.start(&["node", "--nid", &format!("{B}@tcp"), "--vdev", &vhost, "--", "--no-huge"]).up()
    }

    /// A command at the other end.
    fn other(&self, args: &[&str]) -> Proc {
        let virtio =
            format!("net_virtio_user0,path={},queues=1,queue_size=1024,mrg_rxbuf=1", self.path("v.sock"));
        let nid = format!("{A}@tcp");
        self.start(&[args, &["--nid", &nid, "--vdev", &virtio, "--", "--no-huge"]].concat())
    }

    fn ping(&self) -> Proc {
        let mut p = self.other(&["ping", &format!("{B}@tcp"), "-c", "1000"]);
        p.until("an answer", |out, _| out.contains("time "));
        p
    }

    fn ask(&self, p: &Proc, what: &[&str]) -> Value {
        let node = p.id().to_string();
        self.run(&[what, &["--json", "--node", &node]].concat()).good().json()
    }

    fn connections(&self, p: &Proc) -> Vec<Value> {
        self.ask(p, &["connections"])["connections"].as_array().unwrap().clone()
    }
}

fn n(v: &Value, k: &str) -> u64 {
    v[k].as_u64().unwrap_or_else(|| panic!("no {k} in {v}"))
}

/// Stops a pair whose one end pings: the other is told first that it goes.
fn stop(ping: Proc, node: Proc) {
    ping.signal(Signal::TERM);
    ping.end();
    node.stop().good();
}

#[test]
fn both_ends_show_the_same_connections_and_what_the_lcore_did() {
    let at = Place::new();
    let node = at.node();
    let ping = at.ping();
    // Between two pings nothing is on its way; then the ends agree.
    let end = Instant::now() + Duration::from_secs(60);
    let (ours, theirs) = loop {
        let (ours, theirs) = (at.connections(&ping), at.connections(&node));
        let same = ours.iter().all(|x| {
            let y = theirs.iter().find(|y| y["local"] == x["remote"] && y["remote"] == x["local"]);
            y.is_some_and(|y| {
                n(y, "bytes_received") == n(x, "bytes_acked") && n(y, "bytes_acked") == n(x, "bytes_received")
            })
        });
        // The first answer comes before the connections of other types are up.
        let up =
            ours.iter().chain(&theirs).all(|c| c["state"] == "ESTABLISHED" && n(c, "bytes_received") > 0);
        if same && up && ours.len() > 1 && ours.len() == theirs.len() {
            break (ours, theirs);
        }
        assert!(Instant::now() < end, "{ours:?}\n{theirs:?}");
    };
    for (rows, peer, passive) in [(&ours, B, false), (&theirs, A, true)] {
        for r in rows {
            assert_eq!(
                (r["state"].as_str(), r["passive"].as_bool()),
                (Some("ESTABLISHED"), Some(passive)),
                "{r}"
            );
            assert!(r["remote"].as_str().unwrap().starts_with(&format!("{peer}:")), "{r}");
            // Two nodes that share a CPU may keep each other waiting for longer than a probe does.
            let resent = n(r, "bytes_retrans");
            assert_eq!(
                (n(r, "bytes_sent") - resent, n(r, "in_flight"), n(r, "backlog")),
                (n(r, "bytes_acked"), 0, 0),
                "{r}"
            );
            assert!(n(r, "bytes_acked") > 0 && n(r, "bytes_received") > 0, "{r}");
            assert!(n(r, "segs_out") >= n(r, "data_segs_out") && n(r, "data_segs_out") > 0, "{r}");
            assert!(n(r, "mss") > 1000 && n(r, "pmtu") == 1500 && n(r, "rcv_wnd") > 10_000, "{r}");
            assert_eq!(r["algorithm"].as_str(), Some("cubic"), "{r}");
            if resent == 0 {
                assert!(n(r, "cwnd") >= 10 * n(r, "mss") && r["ssthresh"].is_null(), "{r}");
                assert_eq!(r["recovery"].as_str(), Some("open"), "{r}");
            }
            assert_eq!((r["timestamps"].as_bool(), r["sack"].as_bool()), (Some(true), Some(true)), "{r}");
            assert!(n(r, "srtt_ns") > 0 && n(r, "min_rtt_ns") <= n(r, "srtt_ns"), "{r}");
            assert!(n(r, "rto_ns") >= n(r, "srtt_ns") && n(r, "age_ns") > 0, "{r}");
            assert_eq!(n(r, "snd_zero_window_ns"), 0, "{r}");
            assert_eq!(n(r, "retransmits") + n(r, "rtos") > 0, resent > 0, "{r}");
        }
    }
    let v = at.ask(&node, &["stats"]);
    let l = &v["lcores"][0];
    let c = &l["counters"];
    assert!(n(l, "busy_ns") > 0 && n(l, "idle_ns") > 0 && n(c, "port_rx_packets") > 0, "{v}");
    assert!(n(c, "rx_polls") > n(c, "rx_empty_polls") && n(c, "rx_empty_polls") > 0, "{v}");
    assert!(n(c, "port_rx_packets") >= n(c, "rx_polls") - n(c, "rx_empty_polls"), "{v}");
    // Bursts are counted where they are received, and turns where they end.
    assert!(n(l, "busy_turns") + n(l, "idle_turns") <= n(c, "rx_polls") + 1, "{v}");
    telemetry_agrees(&at, &node, &theirs);
    stop(ping, node);
}

/// One question to DPDK's telemetry socket of `p`, as dpdk-telemetry.py asks it.
fn telemetry(p: &Proc, question: &str) -> Value {
    let dirs = [
        std::env::var("RUNTIME_DIRECTORY").ok(),
        Some("/var/run".into()),
        std::env::var("XDG_RUNTIME_DIR").ok(),
    ];
    let name = format!("dpdk/pollnd-{}/dpdk_telemetry.v2", p.id());
    let found = dirs.into_iter().flatten().map(|d| Path::new(&d).join(&name)).find(|p| p.exists());
    let path = found.unwrap_or_else(|| panic!("no {name}"));
    let fd = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    connect(&fd, &SocketAddrUnix::new(path).unwrap()).unwrap();
    let mut b = vec![0; 1 << 16];
    recv(&fd, &mut b[..], RecvFlags::empty()).unwrap();
    send(&fd, question.as_bytes(), SendFlags::empty()).unwrap();
    let (_, n) = recv(&fd, &mut b[..], RecvFlags::empty()).unwrap();
    let v: Value = serde_json::from_slice(&b[..n]).unwrap_or_else(|e| panic!("{e}: {question}"));
    v[question.split(',').next().unwrap()].clone()
}

fn telemetry_agrees(at: &Place, node: &Proc, rows: &[Value]) {
    let list = telemetry(node, "/pollnd/connections");
    assert_eq!(list.as_object().unwrap().len(), rows.len(), "{list}");
    let first = list["0"].as_str().unwrap();
    assert!(first.contains(&format!("{B}:988 {A}:")) && first.ends_with("ESTABLISHED"), "{list}");
    let remote = first.split(' ').nth(1).unwrap();
    for which in ["0", remote] {
        let one = telemetry(node, &format!("/pollnd/connections,{which}"));
        assert_eq!(one["remote"].as_str(), Some(remote), "{one}");
        assert!(n(&one, "bytes_received") > 0 && n(&one, "srtt_ns") > 0, "{one}");
    }
    for (wrong, says) in [
        ("/pollnd/connections,nonsense", "ADDRESS:PORT"),
        ("/pollnd/connections,77", "77"),
        ("/pollnd/lcores,9", "0 to 0"),
    ] {
        let v = telemetry(node, wrong);
        assert!(v["error"].as_str().is_some_and(|e| e.contains(says)), "{wrong}: {v}");
    }
    let lcores = telemetry(node, "/pollnd/lcores");
    assert!(n(&lcores, "lcores") == 1 && lcores["0"].as_str().unwrap().ends_with("% busy"), "{lcores}");
    let one = telemetry(node, "/pollnd/lcores,0");
    assert!(n(&one, "busy_ns") > 0 && n(&one, "port_rx_packets") > 0, "{one}");
    let nis = telemetry(node, "/pollnd/nis");
    assert!(nis["0"].as_str().is_some_and(|t| t.starts_with(&format!("{B}@tcp: sent "))), "{nis}");
    let ni = telemetry(node, &format!("/pollnd/nis,{B}@tcp"));
    assert!(
        n(&ni, "recv_count") > 0 && n(&ni, "credits") > 0 && n(&ni, "lnet_latency_get_count") == 0,
        "{ni}"
    );
    let none = telemetry(node, "/pollnd/nis,10.9.0.77@tcp");
    assert!(none["error"].as_str().is_some_and(|e| e.contains(&format!("{B}@tcp"))), "{none}");
    let now = at.ask(node, &["stats"]);
    let time = |v: &Value| n(v, "busy_ns") + n(v, "idle_ns");
    assert!(time(&now["lcores"][0]) > time(&one), "asked later: {now} {one}");
}

/// A captured packet: ports and addresses from and to, flags, bytes kept, whole length.
struct Packet {
    ports: [u16; 2],
    addrs: [Vec<u8>; 2],
    flags: u8,
    kept: usize,
    whole: u32,
}

fn read(path: &str) -> Vec<Packet> {
    let mut r = PcapReader::new(File::open(path).unwrap()).unwrap();
    let mut v = vec![];
    while let Some(p) = r.next_packet() {
        let p = p.unwrap();
        let b = &p.data;
        assert_eq!((b[12], b[13], b[14], b[23]), (8, 0, 0x45, 6), "TCP in IPv4");
        let port = |at: usize| u16::from_be_bytes([b[at], b[at + 1]]);
        v.push(Packet {
            ports: [port(34), port(36)],
            addrs: [b[26..30].to_vec(), b[30..34].to_vec()],
            flags: b[47],
            kept: b.len(),
            whole: p.orig_len,
        });
    }
    v
}

#[test]
fn a_capture_has_one_connection_from_its_syn_to_its_fin_and_nothing_else() {
    const SYN: u8 = 2;
    const FIN: u8 = 1;
    let at = Place::new();
    let node = at.node();
    let id = node.id().to_string();
    let (all, one) = (at.path("all.pcap"), at.path("one.pcap"));
    let node_arg = ["--node", &id];
    let capture = |args: &[&str]| {
        let mut c = at.start(&[&["capture"], args, &node_arg].concat());
        c.until("its start", |_, err| err.contains("capturing"));
        c
    };
    let put = || at.other(&["put", &format!("{B}@tcp"), "-c", "20"]).end().good();

    // The third of three connections, which carries the bulk: its port is the third from the top. The others are left
    // out.
    let port = 1021;
    let c = capture(&["--peer", &format!("{A}:{port}"), "--local-port", "988", "--out", &one]);
    put();
    c.stop().good();
    let seen = read(&one);
    let (us, them) = (vec![10, 9, 0, 2], vec![10, 9, 0, 1]);
    for Packet { ports, addrs, kept, whole, .. } in &seen {
        let ours = *ports == [988, port] && *addrs == [us.clone(), them.clone()];
        let theirs = *ports == [port, 988] && *addrs == [them.clone(), us.clone()];
        assert!(ours || theirs, "{ports:?} {addrs:?}");
        assert!(*kept <= 128 && *kept as u32 <= *whole);
    }
    assert!(seen.iter().any(|p| p.kept == 128 && p.whole > 1000), "cut to its headers");
    let flags: Vec<u8> = seen.iter().map(|p| p.flags).collect();
    assert_eq!((flags[0], flags.iter().filter(|f| *f & SYN != 0).count()), (SYN, 2), "{flags:?}");
    assert_eq!(flags.iter().filter(|f| *f & FIN != 0).count(), 2, "{flags:?}");
    assert!(
        flags.iter().rposition(|f| f & FIN != 0).unwrap() + 2 >= flags.len(),
        "ends with FIN and its ACK: {flags:?}"
    );

    // Everything with the peer: several connections.
    let c = capture(&["--peer", A, "--out", &all]);
    let second = at.run(&[&["capture", "--peer", A, "--out", &one], &node_arg[..]].concat());
    second.failed(1, &["another capture is under way"]);
    put();
    let end = c.stop().good();
    let seen = read(&all);
    assert!(end.out.starts_with(&format!("{} packets in {all}, 0 dropped", seen.len())), "{end:?}");
    let peers: BTreeSet<u16> =
        seen.iter().map(|p| if p.ports[0] == 988 { p.ports[1] } else { p.ports[0] }).collect();
    assert!(peers.len() > 1, "{peers:?}");
    assert!(peers.contains(&port), "{peers:?}");

    // So many and no more; and a file that cannot be made.
    let few = capture(&["--peer", A, "--out", &all, "--packets", "5", "--snaplen", "65535"]);
    put();
    few.end().good().says(&["5 packets in", "0 dropped"]);
    assert_eq!(read(&all).len(), 5);
    let none = at.run(&[&["capture", "--peer", A, "--out", "/no/such/x.pcap"], &node_arg[..]].concat());
    none.failed(1, &["/no/such/x.pcap"]);
    let brief = at.run(
        &[&["capture", "--peer", "10.9.0.77", "--seconds", "0.1", "--out", &all], &node_arg[..]].concat(),
    );
    brief.good().says(&["0 packets"]);
    // A capture whose asker has gone ends, and its node goes down in order.
    capture(&["--peer", A, "--out", &one]).kill();
    let again = Instant::now() + Duration::from_secs(60);
    while !at
        .run(&[&["capture", "--peer", A, "--seconds", "0.1", "--out", &all], &node_arg[..]].concat())
        .status
        .success()
    {
        assert!(Instant::now() < again);
    }
    let last = capture(&["--peer", A, "--out", &all]);
    node.stop().good();
    last.end().good().says(&["0 packets"]);
}
