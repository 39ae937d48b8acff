//! The program on DPDK ports: `demo` and its measures, nodes of two processes over a vhost link, and what a
//! machine or a command line does not have.

#![cfg(feature = "dpdk")]
#![allow(missing_docs)]

mod browser;
#[allow(dead_code)]
mod proc;

use std::path::Path;
use std::process::Command;

use proc::{End, Proc, pollnd, run, start};
use rustix::process::Signal;
use serde_json::Value;

/// `pollnd node` with these arguments, which does not start.
fn refused(args: &[&str], words: &[&str]) -> End {
    let end = run(&[&["node", "--nid", "10.9.0.1@tcp", "--run-for", "0.1"], args].concat());
    assert!(!end.out.contains("is up on"), "it says that it runs: {end:?}");
    end.failed(1, words)
}

#[test]
fn what_the_machine_or_the_port_lacks_is_named() {
    refused(&["--carrier", "dpdk"], &["--port", "--vdev"]);
    refused(
        &["--port", "net_ring0", "--vdev", "net_ring1"],
        &["1 addresses of NIs for 2 ports", "--ni-ports"],
    );
    refused(&["--vdev", "net_ring0", "--vdev", "net_ring0"], &["--vdev net_ring0: it is named twice"]);
    let two = ["--vdev", "net_tap0,iface=a", "--vdev", "net_tap0,iface=b", "--ni", "10.8.0.1@tcp1"];
    refused(&two, &["two ports are called net_tap0", "net_tap1"]);
    refused(&["--vdev", "net_ring0", "--rss", "on", "--", "--no-huge"], &["does not offer rss"]);
    refused(&["--vdev", "net_ring"], &["\"net_ring\"", "net_tap0,iface=tap7"]);
    refused(&["--port", "nonsense"], &["nonsense", "pollnd doctor"]);
    // The last function of the last device of the last bus: free on all but wondrous machines.
    refused(&["--port", "0000:ff:1f.7"], &["0000:ff:1f.7", "vfio-pci"]);
    refused(&["--vdev", "net_nosuch0"], &["net_nosuch0", "librte-net"]);
    let long = format!("net_tap0,iface={}", "x".repeat(120));
    // Field report 7.
    refused(&["--vdev", &long], &["net_tap0", "140 bytes", "127"]);
    // Field report 19.
    refused(&["--vdev", "net_af_packet0,iface=x,qpairs=2"], &["qpairs=2", "leave qpairs out"]);
    refused(&["--vdev", "net_vhost0,iface=/no/such/dir/v.sock"], &["/no/such/dir", "does not exist"]);
    refused(
        &["--vdev", "net_virtio_user0,path=/no/such/v.sock,queues=1"],
        &["/no/such/v.sock", "start the other end first"],
    );
    refused(&["--vdev", "net_ring0", "--prefix", "64"], &["--prefix 64", "10.9.0.1@tcp", "1 to 32 bits"]);
    refused(
        &["--vdev", "net_ring0", "--gateway", "fd00::1"],
        &["--gateway fd00::1", "family of 10.9.0.1@tcp"],
    );
    // Field report 15.
    refused(
        &["--vdev", "net_ring0", "--gateway", "10.8.0.1"],
        &["--gateway 10.8.0.1", "outside of the network of 10.9.0.1@tcp, 10.9.0.0/24", "the prefix"],
    );
    refused(&["--vdev", "net_ring0", "--gateway", "10.9.0.1"], &["--gateway 10.9.0.1", "own address"]);
    refused(&["--vdev", "net_virtio_user0,path=/etc/hostname"], &["/etc/hostname", "is no socket"]);
    refused(&["--vdev", "net_ring0", "--tunable", "nagle=1"], &["nagle=1", "always 0"]);
    refused(&["--vdev", "net_ring0", "--cpu-pattern", "0[x]"], &["cpu_pattern", "0[x]", "0[0-3]"]);
    refused(&["--vdev", "net_ring0", "--cpu-pattern", "0[8191]"], &["8191", "does not exist"]);
    refused(&["--vdev", "net_ring0", "--lcores", "64", "--cpu-pattern", "0[0]"], &["64", "ask for 1"]);
    refused(&["--vdev", "net_ring0", "--pcap", "/no/such/dir/x.pcap"], &["/no/such/dir/x.pcap"]);
    let unknown = refused(
        &["--vdev", "net_ring0", "--", "--no-such-option"],
        &["--no-such-option", "after --", "-- --help"],
    );
    assert!(!unknown.out.contains("Usage"), "60 lines where results belong: {unknown:?}");
    refused(&["--vdev", "net_ring0", "--", "no-huge", "--no-huge"], &["\"no-huge\"", "options only"]);
    refused(&["--vdev", "net_vhost0,iface="], &["net_vhost0 has no iface=", "net_vhost0,iface=/tmp/v.sock"]);
    refused(
        &["--vdev", "net_af_packet0,iface=nosuch7"],
        &["net_af_packet0", "no interface nosuch7", "ip link"],
    );
    refused(&["--vdev", "net_ring0", "--", "--proc-type", "secondary"], &["secondary", "primary"]);
}

/// Address and interface of the PCI device that carries the default route.
fn routed() -> Option<(String, String)> {
    let iface = dataplane::doctor::default_route_ifaces(Path::new("/")).into_iter().next()?;
    let ports = dataplane::doctor::pci_ports(Path::new("/"));
    ports.into_iter().find(|p| p.ifaces.contains(&iface)).map(|p| (p.addr, iface))
}

#[test]
fn the_port_with_the_default_route_is_left_alone() {
    let test = "the_port_with_the_default_route_is_left_alone";
    let Some((addr, iface)) = routed() else {
        println!("SKIP: {test}: no PCI device carries the default route");
        return;
    };
    let driver = || std::fs::read_link(format!("/sys/bus/pci/devices/{addr}/driver")).ok();
    let before = driver();
    refused(&["--port", &addr], &[&addr, &iface, "default route", "another port"]);
    for vdev in [format!("net_af_packet0,iface={iface}"), format!("net_tap0,remote={iface}")] {
        refused(&["--vdev", &vdev], &[&iface, "default route", "another port"]);
    }
    assert_eq!((driver(), routed()), (before, Some((addr.clone(), iface.clone()))));
    run(&["doctor"]).says(&[&addr, &iface, "leave it to the kernel"]);
}

/// Field report 13: two nodes on one machine that are told to poll the same CPU.
#[test]
fn a_node_that_polls_where_another_does_is_told() {
    let node = |nid: &str, more: &[&str]| {
        let pages = ["--", "--no-huge", "-m", "300"];
        start(&[&["node", "--nid", nid, "--vdev", "net_ring0"], more, &pages[..]].concat())
    };
    let first = node("10.9.0.1@tcp", &[]).up();
    let end = first.id();
    let cpu = dataplane::lcore::polled(Path::new("/"), 0).into_iter().find(|p| p.pid == end).unwrap().cpu;
    let pattern = format!("0[{cpu}]");
    let second = node("10.9.0.2@tcp", &["--cpu-pattern", &pattern]).up().stop().good();
    let says = format!("lcore 0 is on CPU {cpu}, which lcore-0 of process ");
    assert!(second.err.contains(&says) && second.err.contains("--cpu-pattern"), "{second:?}");
    first.stop().good();
}

/// A device name and its vhost socket.
fn vhost(dir: &Path) -> (String, String) {
    let sock = dir.join("v.sock").display().to_string();
    (
        format!("net_vhost0,iface={sock},queues=1,tso=1"),
        format!("net_virtio_user0,path={sock},queues=1,queue_size=1024,mrg_rxbuf=1"),
    )
}

/// Its driver waits in the EAL, which no order reaches.
#[test]
fn a_node_that_waits_for_its_backend_hears_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let virtio = format!("{},server=1", vhost(dir.path()).1);
    let mut node = start(&["node", "--nid", "10.9.0.1@tcp", "--vdev", &virtio, "--", "--no-huge"]);
    node.until("\"waits for its vhost backend\"", |_, err| err.contains("waits for its vhost backend"));
    node.signal(Signal::TERM);
    let end = node.end();
    assert!(end.status.code() == Some(1) && end.err.contains("before it was up"), "{end:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "its socket is left");
}

#[test]
fn the_end_of_a_link_that_is_left_alone_says_so_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let (vhost, virtio) = vhost(dir.path());
    let up = start(&["node", "--nid", "10.9.0.2@tcp", "--vdev", &vhost]).up();
    // Each of its pings takes a second: it is killed between two.
    let ping = ["ping", "10.9.0.2@tcp", "--nid", "10.9.0.1@tcp", "--vdev", &virtio, "-c", "100"];
    let mut ping = start(&ping);
    ping.until("an answer", |out, _| out.contains("time "));
    // Field report 9: a socket that is served is left alone, one that a killed node left is taken away.
    let sock = dir.path().join("v.sock").display().to_string();
    refused(&["--vdev", &vhost], &[&sock, "another program serves it"]);
    up.kill();
    let again = start(&["node", "--nid", "10.9.0.2@tcp", "--vdev", &vhost]).up();
    ping.signal(Signal::TERM);
    ping.until("\"going down\"", |_, err| err.contains("going down"));
    // The other end may or may not be back to acknowledge its farewell.
    ping.signal(Signal::TERM);
    let end = ping.end();
    assert!(end.err.contains("interrupted") || end.status.success(), "{end:?}");
    again.stop().good();
    std::fs::write(&sock, "no socket").unwrap();
    refused(&["--vdev", &vhost], &[&sock, "of another kind"]);
}

/// A node at the virtio end of a link whose other end comes, is killed, and comes again.
fn other_end_comes_and_goes(vhost: &str, virtio: &str) {
    let peer = || start(&["node", "--nid", "10.9.0.2@tcp", "--vdev", vhost, "--", "--no-huge"]);
    let mut first = peer().up();
    let mut node = start(&["node", "--nid", "10.9.0.1@tcp", "--vdev", virtio, "--", "--no-huge"]).up();
    // A node that listens may be up a moment before its link is.
    let ask = ["10.9.0.1@tcp", "--nid", "10.9.0.2@tcp", "--vdev", vhost, "--", "--no-huge"];
    if virtio.contains("server=1") {
        first.kill();
        run(&[&["ping"], &ask[..]].concat()).good().says(&["time "]);
        first = peer().up();
    }
    for _ in 0..2 {
        let ups = node.heard("its link is up");
        first.kill();
        first = peer().up();
        node.until("the link up again", |_, err| err.matches("its link is up").count() > ups);
        assert!(node.runs() && first.runs());
    }
    first.stop().good();
    run(&[&["ping"], &ask[..]].concat()).good().says(&["10.9.0.1@tcp", "time "]);
    let put = run(&[&["put", "-c", "20"], &ask[..]].concat()).good();
    assert!(put.out.contains("20 messages"), "{put:?}");
    let end = node.stop().good().says(&["20 PUTs,", "checked 20, wrong 0"]);
    // Field report L5: it tells of a link that is down, and does not go on about it.
    let lines = end.err.lines().count();
    assert!(lines < 200 && !end.err.contains("Invalid port_id"), "{lines} lines: {}", end.err);
}

#[test]
fn report_9_a_client_finds_its_backend_again() {
    let dir = tempfile::tempdir().unwrap();
    let (vhost, virtio) = vhost(dir.path());
    other_end_comes_and_goes(&vhost, &virtio);
}

#[test]
fn report_9_a_server_is_found_again_by_its_backend() {
    let dir = tempfile::tempdir().unwrap();
    let (vhost, virtio) = vhost(dir.path());
    other_end_comes_and_goes(&format!("{vhost},client=1"), &format!("{virtio},server=1"));
}

#[test]
fn the_second_signal_ends_a_node_that_cannot_drain() {
    let dir = tempfile::tempdir().unwrap();
    let (vhost, virtio) = vhost(dir.path());
    let mut up = start(&["node", "--nid", "10.9.0.2@tcp", "--vdev", &vhost]).up();
    let mut ping = start(&["ping", "10.9.0.2@tcp", "--nid", "10.9.0.1@tcp", "--vdev", &virtio, "-c", "100"]);
    ping.until("an answer", |out, _| out.contains("time "));
    // Its end of the connections acknowledges nothing any more.
    ping.signal(Signal::STOP);
    up.signal(Signal::TERM);
    up.until("\"going down\"", |_, err| err.contains("going down"));
    up.signal(Signal::TERM);
    up.end().failed(1, &["left at once"]);
}

/// What both ends of a link must have come to.
fn whole(end: &End) {
    assert!(end.errors().is_empty() && !end.err.contains("EAL cannot be stopped"), "{end:?}");
    // An end that is not run for half a second has the other copy what waits in its ring.
    let stood = end.err.contains("its ring took nothing for half a second");
    assert!(stood || end.counter("linearised") == 0, "{end:?}");
    for gone in ["tx_copied_bytes", "quarantined", "lendings_out", "rx_lent_out", "rx_pool_bytes_in_use"] {
        assert_eq!(end.counter(gone), 0, "{gone}: {end:?}");
    }
}

/// Pings, PUTs and GETs between two processes at `nids` over a vhost link.
fn two_processes(nids: [&str; 2], more: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let (vhost, virtio) = vhost(dir.path());
    let up = start(&[&["node", "--nid", nids[1], "--vdev", &vhost], more].concat()).up();
    let me = ["--nid", nids[0], "--vdev", &virtio];
    run(&[&["ping", nids[1]], &me[..], more].concat()).good().says(&[nids[1], "time "]);
    if more.contains(&"sleep") {
        // By now it has been without work for longer than it takes to fall asleep.
        let v = run(&["stats", "--json", "--node", &up.id().to_string()]).good().json();
        let naps = v["lcores"][0]["counters"]["port_naps"].as_u64();
        assert!(naps.is_some_and(|n| n > 0), "{v}");
    }
    // A link that was down is up again for the next process.
    let json = ["-c", "50", "--json"];
    let put = run(&[&["put", nids[1]], &json[..], &me, more].concat()).good().json();
    assert_eq!((put["messages"].as_u64(), put["tx_copied_bytes"].as_u64()), (Some(50), Some(0)), "{put}");
    assert_eq!(put["clean"].as_bool(), Some(true), "{put}");
    // The link loses nothing, but a process that does not run for a while is asked again.
    assert!(put["retransmits"].as_u64().is_some_and(|n| n < 20), "{put}");
    let get = run(&[&["get", nids[1]], &json[..], &me, more].concat()).good().json();
    assert_eq!((get["messages"].as_u64(), get["crc_bad"].as_u64()), (Some(50), Some(0)), "{get}");
    let end = up.stop().good().says(&["50 PUTs,", "checked 50, wrong 0"]);
    whole(&end);
}

#[test]
fn two_processes_over_a_vhost_link() {
    two_processes(["10.9.0.1@tcp", "10.9.0.2@tcp"], &["--", "--no-huge"]);
    two_processes(["10.9.0.1@tcp", "10.9.0.2@tcp"], &[]);
}

/// A node whose port is a file's: what the file says of it is so, and stays so while it runs.
#[test]
fn a_port_by_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let (vhost, virtio) = vhost(dir.path());
    let path = dir.path().join("pollnd.yaml").display().to_string();
    let put = |mtu: u16, keepalive: u16| {
        let text = format!(
            "net: [{{net type: tcp, local NI(s): [{{nid: 10.9.0.2@tcp, lnd tunables: {{keepalive: {keepalive}}}}}]}}]\n\
             dpdk:\n  device: \"{vhost}\"\n  mtu: {mtu}\n  queues: 1\n  lro: off\n  eal: [--no-huge]\n\
             telemetry: {{dpdk: false}}\n"
        );
        std::fs::write(&path, text).unwrap();
    };
    put(4000, 20);
    run(&["config", "check", &path]).good();
    let up = start(&["node", "--config", &path]).up();
    let folder = format!("/var/run/dpdk/pollnd-{}", up.id());
    assert!(!Path::new(&folder).join("dpdk_telemetry.v2").exists());
    let me = [
        "--nid",
        "10.9.0.1@tcp",
        "--vdev",
        &virtio,
        "--mtu",
        "4000",
        "--tso",
        "off",
        "--json",
        "--",
        "--no-huge",
    ];
    let moved = run(&[&["put", "10.9.0.2@tcp", "-c", "20"], &me[..]].concat()).good().json();
    assert_eq!(
        (moved["messages"].as_u64(), moved["tx_copied_bytes"].as_u64()),
        (Some(20), Some(0)),
        "{moved}"
    );
    let id = up.id().to_string();
    let config = |verb: &[&str]| run(&[&["config"], verb, &["--node", &id]].concat());
    let lines = [
        format!("device: {vhost}"),
        "mtu: 4000".into(),
        "lro: off".into(),
        "eal: [\"--no-huge\"]".into(),
        "dpdk: false".into(),
    ];
    let exported = config(&["export"]).good();
    for l in lines {
        assert!(exported.out.lines().any(|x| x.trim() == l), "{l}: {exported:?}");
    }
    put(4000, 21);
    config(&["apply"]).good().says(&["keepalive: was 20, is 21"]);
    put(1500, 22);
    config(&["apply"]).failed(1, &["mtu: 1500 (", "pollnd.yaml:4:8), and the node runs with 4000"]);
    run(&["tunables", "keepalive", "--node", &id]).good().says(&["21"]);
    let end = up.stop().good().says(&["MTU 4000", "20 PUTs,", "checked 20, wrong 0"]);
    whole(&end);
    // Features that a device does not have, and queues beyond the lcores.
    refused(&["--vdev", "net_ring0", "--tso", "on", "--", "--no-huge"], &["net_ring0", "does not offer tso"]);
    refused(&["--vdev", "net_ring0", "--queues", "2"], &["2 queues for 1 lcores"]);
}

/// PUTs and GETs of a node of two lcores with two ports, to one whose file names two, on each network; the second link has
/// `queues` queues.
fn two_ports(queues: u16, says: &str) {
    let dir = tempfile::tempdir().unwrap();
    let link = |n: u16, queues: u16| {
        let sock = dir.path().join(format!("v{n}.sock")).display().to_string();
        (
            format!("net_vhost{n},iface={sock},queues={queues},tso=1"),
            format!("net_virtio_user{n},path={sock},queues={queues},queue_size=1024,mrg_rxbuf=1"),
        )
    };
    let ((vhost0, virtio0), (vhost1, virtio1)) = (link(0, 2), link(1, queues));
    let path = dir.path().join("pollnd.yaml").display().to_string();
    let text = format!(
        "net:\n- net type: tcp\n  local NI(s): [{{nid: 10.9.0.2@tcp}}]\n- net type: tcp1\n  local NI(s): [{{nid: 10.9.1.2@tcp1}}]\n\
         dpdk: {{device: [\"{vhost0}\", \"{vhost1}\"], mtu: [4000, default], lcores: 2, idle: sleep, eal: [--no-huge]}}\n"
    );
    std::fs::write(&path, text).unwrap();
    run(&["config", "check", &path]).good();
    let up = start(&["node", "--config", &path]).up();
    let id = up.id().to_string();
    run(&["config", "export", "--node", &id])
        .good()
        .says(&[&format!("device: [\"{vhost0}\", \"{vhost1}\"]"), "mtu: [4000, default]"]);
    // The ports the other way round, which the command line says.
    let me = ["--nid", "10.9.0.1@tcp", "--ni", "10.9.1.1@tcp1", "--vdev", &virtio1, "--vdev", &virtio0];
    let ports = ["--ni-ports", "1,0", "--mtu", "1500,4000", "--lcores", "2", "--idle", "yield"];
    let rest = ["--timeout", "60", "--json", "--", "--no-huge"];
    for (what, nid) in
        [("put", "10.9.0.2@tcp"), ("put", "10.9.1.2@tcp1"), ("get", "10.9.1.2@tcp1"), ("get", "10.9.0.2@tcp")]
    {
        let v = run(&[&[what, nid, "-c", "20"], &me[..], &ports[..], &rest[..]].concat()).good().json();
        assert_eq!((v["messages"].as_u64(), v["clean"].as_bool()), (Some(20), Some(true)), "{v}");
        let bad = v["crc_bad"].as_u64().unwrap_or(0) + v["tx_copied_bytes"].as_u64().unwrap_or(0);
        assert_eq!(bad, 0, "{v}");
    }
    // Each time before the other end had anything to say.
    let v = run(&["stats", "--json", "--node", &id]).good().json();
    assert!(v["lcores"][0]["counters"]["port_naps"].as_u64().is_some_and(|n| n > 0), "{v}");
    let end = up.stop().good();
    whole(&end.says(&["port net_vhost0", "port net_vhost1", says, "40 PUTs,", "checked 40, wrong 0"]));
}

#[test]
fn a_node_has_several_ports() {
    two_ports(2, "2 queues, mirrored, MTU 1500");
    // An lcore has a queue of each port or of none.
    two_ports(1, "1 queue (port net_vhost1 has no more), MTU 4000");
}

#[test]
fn a_port_that_accepts_nobody_has_no_listener() {
    let dir = tempfile::tempdir().unwrap();
    let (vhost, virtio) = vhost(dir.path());
    let up = start(&["node", "--nid", "10.9.0.2@tcp", "--vdev", &vhost, "--accept", "none"]).up();
    let ping = run(&["ping", "10.9.0.2@tcp", "--nid", "10.9.0.1@tcp", "--vdev", &virtio]);
    ping.failed(1, &["ping 10.9.0.2@tcp"]);
    let end = up.stop().good();
    // RST to the SYN: no connection was ever there to be refused by the acceptor.
    assert_eq!((end.counter("conns_up"), end.counter("err_unprivileged")), (0, 0), "{end:?}");
}

#[test]
fn two_processes_over_ipv6() {
    two_processes(["fd09::1@tcp", "fd09::2@tcp"], &[]);
    // The gateway is nobody: neighbours are asked for themselves.
    two_processes(
        ["fd09::1@tcp", "fd09::2@tcp"],
        &["--idle", "sleep", "--prefix", "126", "--gateway", "fd09::3"],
    );
}

/// Packets that each lcore of the node with process number `id` received.
fn received(id: u32) -> Vec<u64> {
    let stats = run(&["stats", "--json", "--node", &id.to_string()]).good().json();
    let lcores = stats["lcores"].as_array().unwrap_or_else(|| panic!("{stats}"));
    lcores.iter().map(|l| l["counters"]["port_rx_packets"].as_u64().unwrap_or(0)).collect()
}

#[test]
fn two_lcores_have_a_queue_each() {
    // Who dials does so from the queue of the peer's home, and the home is one or the other by the peer's address.
    let mut used = [0; 2];
    for host in [2, 3] {
        let dir = tempfile::tempdir().unwrap();
        let sock = dir.path().join("v.sock").display().to_string();
        let vhost = format!("net_vhost0,iface={sock},queues=2,tso=1");
        let virtio = format!("net_virtio_user0,path={sock},queues=2,queue_size=1024,mrg_rxbuf=1");
        let nid = format!("10.9.0.{host}@tcp");
        let up = start(&["node", "--nid", &nid, "--lcores", "2", "--vdev", &vhost, "--", "--no-huge"]).up();
        let mine = ["--nid", "10.9.0.1@tcp", "--lcores", "2", "--vdev", &virtio, "--json", "--", "--no-huge"];
        for what in ["put", "get"] {
            let v = run(&[&[what, &nid, "-c", "20"], &mine[..]].concat()).good().json();
            assert_eq!((v["messages"].as_u64(), v["clean"].as_bool()), (Some(20), Some(true)), "{v}");
            let bad = v["crc_bad"].as_u64().unwrap_or(0) + v["tx_copied_bytes"].as_u64().unwrap_or(0);
            assert_eq!(bad, 0, "{v}");
        }
        received(up.id()).iter().zip(&mut used).for_each(|(n, sum)| *sum += n);
        let end = up.stop().good().says(&["2 queues, mirrored", "20 PUTs,", "checked 20, wrong 0"]);
        whole(&end);
    }
    assert!(used.iter().all(|n| *n > 250), "one queue had all: {used:?}");
}

/// `pollnd demo --json` with these arguments.
fn demo(mut c: Command, args: &[&str]) -> Value {
    c.args(args);
    let end = Proc::start(c).end().good();
    assert_eq!(end.out.lines().count(), 1, "one object and nothing else: {end:?}");
    end.json()
}

/// A number that is there and more than 0.
fn some(v: &Value, group: &str, name: &str) -> f64 {
    let n = v[group][name].as_f64().unwrap_or_else(|| panic!("no {group}.{name} in {v}"));
    assert!(n > 0.0, "{group}.{name} in {v}");
    n
}

/// All that the demo promises, but for its speed.
fn complete(v: &Value) {
    for name in ["goodput_gbps", "cpu_s", "gbit_per_cpu_s", "ratio_to_kernel_sockets"] {
        some(v, "bulk", name);
    }
    assert_eq!(v["bulk"]["tx_copied_bytes"].as_u64(), Some(0), "{v}");
    let [p50, p99, p999] = ["p50_us", "p99_us", "p999_us"].map(|n| some(v, "rtt", n));
    assert!(p50 <= p99 && p99 <= p999, "{v}");
    some(v, "rtt", "ratio_to_kernel_sockets");
    some(v, "ping", "p50_us");
    assert_eq!(v["nothing_lost"].as_bool(), Some(true), "{v}");
    assert_eq!(some(v, "counts", "zc_requested"), some(v, "counts", "zc_acked"), "{v}");
    some(v, "counts", "tx_attached_bytes");
    some(v, "selftest", "payload_bytes_per_s");
    assert_eq!(v["selftest"]["errors"].as_u64(), Some(0), "{v}");
    let lost = &v["nothing_lost_detail"];
    assert_eq!(lost["started"], lost["completed"], "{v}");
    assert!(lost["crc_checked"].as_u64() > Some(0), "{v}");
    for name in ["completed_twice", "failed", "crc_bad", "cookies_pending", "lendings_out", "rx_lent_out"] {
        assert_eq!(lost[name].as_u64(), Some(0), "{name}: {v}");
    }
    for name in ["cpu", "kernel", "dpdk", "memory", "link"] {
        assert!(v["ran_on"][name].as_str().is_some_and(|s| !s.is_empty()), "ran_on.{name} in {v}");
    }
}

#[test]
fn the_demo_shows_what_it_promises() {
    let v = demo(pollnd(&["demo"]), &["--json", "--seconds", "0.3"]);
    complete(&v);
    assert_eq!(v["bulk"]["rx_copied_bytes"].as_u64(), Some(0), "lent: {v}");
}

#[test]
fn report_7_the_demo_works_wherever_temporary_files_are() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(120)).join("with,comma").join("e".repeat(100));
    std::fs::create_dir_all(&deep).unwrap();
    let mut c = pollnd(&["demo"]);
    c.env("TMPDIR", &deep);
    complete(&demo(c, &["--json", "--seconds", "0.1", "--one-lcore"]));
    assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 0, "no socket is left");
}

/// The socket stayed in /tmp, and the EAL's folder under /run.
#[test]
fn a_demo_that_is_interrupted_leaves_nothing_behind() {
    let (tmp, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let some = |dir: &Path| std::fs::read_dir(dir).is_ok_and(|mut d| d.next().is_some());
    let mut c = pollnd(&["demo", "--seconds", "600", "--", "--no-huge"]);
    c.env("TMPDIR", tmp.path()).env("RUNTIME_DIRECTORY", run.path());
    let demo = Proc::start(c);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !some(tmp.path()) || !some(&run.path().join("dpdk")) {
        assert!(std::time::Instant::now() < end, "no link after a minute");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // The file is tried in the folder first: its socket is the one that stays.
    std::thread::sleep(std::time::Duration::from_millis(200));
    demo.signal(Signal::INT);
    let end = demo.end();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&end.status), Some(2), "{end:?}");
    let left = |dir: &Path| std::fs::read_dir(dir).unwrap().flatten().collect::<Vec<_>>();
    assert!(left(tmp.path()).is_empty(), "{:?}", left(tmp.path()));
    assert!(left(&run.path().join("dpdk")).is_empty(), "{:?}", left(&run.path().join("dpdk")));
}

#[test]
fn report_10_the_demo_does_without_a_run_time_folder_and_says_what_to_set() {
    let test = "report_10_the_demo_does_without_a_run_time_folder_and_says_what_to_set";
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: {test}: mounting takes root");
        return;
    }
    let mut c = Command::new("unshare");
    let script = "mount -t tmpfs none /run && mount -o remount,ro /run && exec \"$0\" demo \"$@\"";
    c.args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_pollnd")]);
    c.args(["--json", "--seconds", "0.1", "--one-lcore"]).env_remove("RUNTIME_DIRECTORY");
    let end = Proc::start(c).end().good();
    assert!(end.err.contains("RUNTIME_DIRECTORY") && end.err.contains("cannot be written"), "{end:?}");
    complete(&end.json());
}

#[test]
fn report_10_a_start_that_fails_leaves_nothing_under_the_run_time_folder() {
    let dir = tempfile::tempdir().unwrap();
    for args in [["--vdev", "net_nosuch0"], ["--vdev", "net_null0,nonsense=1"]] {
        let mut c = pollnd(&["node", "--nid", "10.9.0.1@tcp"]);
        c.args(args).args(["--", "--no-huge"]).env("RUNTIME_DIRECTORY", dir.path());
        Proc::start(c).end().failed(1, &[]);
        let left: Vec<_> = std::fs::read_dir(dir.path().join("dpdk")).unwrap().flatten().collect();
        assert!(left.is_empty(), "{args:?}: {left:?}");
    }
}

#[test]
fn the_demo_makes_progress_on_one_core() {
    let mut c = Command::new("taskset");
    c.args(["-c", "0", env!("CARGO_BIN_EXE_pollnd"), "demo"]);
    let v = demo(c, &["--json", "--seconds", "0.3", "--", "--no-huge"]);
    complete(&v);
    assert_eq!((v["ran_on"]["cores"].as_u64(), v["ran_on"]["lcores"].as_u64()), (Some(1), Some(1)), "{v}");
    assert!(v["ran_on"]["memory"].as_str().is_some_and(|m| m.contains("no-huge")), "{v}");
}

#[test]
fn the_demo_prints_a_table_and_no_live_line_where_there_is_no_terminal() {
    let end = run(&["demo", "--seconds", "0.1", "--one-lcore", "--copy"]).good().says(&[
        "1 MiB PUTs",
        "virtio link, 1 lcore",
        "kernel sockets",
        "64 B PUT + ACK",
        "LNet ping over the link: p50",
        "nothing lost:",
        "0 twice, 0 failed",
        "DPDK ",
    ]);
    let garbled = |s: &str| s.contains(['\x1b', '\r']);
    assert!(!garbled(&end.out) && !garbled(&end.err), "{end:?}");
}

#[test]
fn the_demo_can_do_without_dpdk() {
    let v = demo(pollnd(&["demo"]), &["--sockets-only", "--json", "--seconds", "0.1"]);
    assert!(v["bulk"].is_null() && v["rtt"].is_null(), "nothing that was not measured: {v}");
    assert!(v["kernel_sockets"]["bulk"]["goodput_gbps"].as_f64() > Some(0.0), "{v}");
    assert_eq!(v["nothing_lost"].as_bool(), Some(true), "{v}");
}

/// All sides of a benchmark report, which scripts read and people look at; one that is interrupted leaves nothing behind.
#[test]
fn a_benchmark_report_has_the_link_on_one_lcore_and_on_two() {
    let (dir, tmp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let quick = ["bench", "report", "--quick", "--rounds", "1", "--ops", "put,brw-read,ping"];
    run(&[&quick[..], &["--seconds", "0.02", "--output", &at("a")]].concat()).good().says(&[
        "virtio link, 1 lcore",
        "kernel sockets",
        "nothing lost",
    ]);
    let v: Value = serde_json::from_str(&std::fs::read_to_string(at("a/report.json")).unwrap()).unwrap();
    let links = std::thread::available_parallelism().unwrap().get().min(2);
    let points = v["points"].as_array().unwrap();
    assert_eq!(points.len(), (links + 1) * (2 * 4 + 2), "{v}");
    assert!(points.iter().all(|p| p["figures"]["per_s"]["median"].as_f64() > Some(0.0)), "{v}");
    assert!(v["machine"]["dpdk"].as_str().is_some_and(|d| d.starts_with("DPDK ")), "{v}");
    if let Some(browser) = browser::browser("a_benchmark_report_has_the_link_on_one_lcore_and_on_two") {
        let seen = browser::look(browser, at("a/report.html").as_ref(), 1280);
        // Goodput, CPU, cost of two operations; latency of three on each side; scaling, where there are two lcores.
        let plots = 3 * 2 + 3 * (links + 1) + if links > 1 { 2 } else { 0 };
        assert_eq!((&seen["plots"], &seen["bad"]), (&plots.into(), &serde_json::json!([])), "{seen}");
    }
    let mut c =
        pollnd(&[&quick[..], &["--seconds", "3", "--html", &at("b.html"), "--json", &at("b.json")]].concat());
    c.env("TMPDIR", tmp.path());
    let long = Proc::start(c);
    proc::eventually("a link", || std::fs::read_dir(tmp.path()).unwrap().next().is_some());
    long.signal(Signal::INT);
    assert!(!long.end().status.success());
    for (dir, names) in [(tmp.path(), 0), (dir.path(), 1)] {
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), names, "{}", dir.display());
    }
}
