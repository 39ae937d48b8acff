//! `pollnd net` on a DPDK port against the Linux kernel's TCP, over a TAP device in a namespace of the test's own.

#![cfg(feature = "dpdk")]
#![allow(missing_docs)]

mod figures;
#[allow(dead_code)]
mod lab;

use std::process::Command;

use figures::went_well;
use lab::{Lab, Proc, missing};
use serde_json::Value;

/// Pings of the test, and bulk transfers each way.
const PINGS: u64 = 200;
const BULKS: u64 = 100;
/// Bytes of each.
const PING: u64 = 4097;
const BULK: u64 = 1 << 20;

fn json(out: &str) -> Value {
    out.lines().find_map(|l| serde_json::from_str(l).ok()).unwrap_or_else(|| panic!("no JSON in {out}"))
}

/// Counters of the node `pid`, of its only lcore; `until` waits for them.
fn counters(pid: u32, until: impl Fn(&dyn Fn(&str) -> u64) -> bool) -> Value {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let mut c = Command::new(env!("CARGO_BIN_EXE_pollnd"));
        let out = c.args(["stats", "--json", "--node", &pid.to_string()]).output().unwrap();
        let v: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
        let c = v["lcores"][0]["counters"].clone();
        let count = |name: &str| c[name].as_u64().unwrap_or_else(|| panic!("{name} in {c}"));
        if until(&count) {
            return c;
        }
        assert!(std::time::Instant::now() < end, "{c}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Messages and bulk both ways between a node and a client, each byte checked, whichever of them is on the port: nothing is
/// copied on its way out, what comes is lent, and all pages are home when the client has gone.
#[test]
fn motrs_messages_and_bulk_cross_a_port_both_ways() {
    if let Some(why) = missing(&[]) {
        println!("SKIP: motrs_messages_and_bulk_cross_a_port_both_ways: {why}");
        return;
    }
    let lab = Lab::new(9000, &[]);
    lab.add6();
    let sock = ["inet:stream:10.99.0.1@7000", "inet:stream:10.99.0.2@7000"];
    let sock6 = ["inet6:stream:fd99::1@7000", "inet6:stream:fd99::2@7000"];
    let lnet = ["10.99.0.1@tcp:12345:34:1", "10.99.0.2@tcp:12345:34:2"];
    for (xprt, [kernel, port]) in [("sock", sock), ("sock", sock6), ("lnet", lnet)] {
        for on_port in [true, false] {
            let (there, here) = if on_port { (port, kernel) } else { (kernel, port) };
            let side = |port: bool, args: &[&str]| if port { lab.on_port(args) } else { lab.on_kernel(args) };
            let mut node = Proc::start(side(on_port, &["net", "node", there, "--xprt", xprt, "--json"]));
            node.wait_for("\"up\"");
            let ask = |verb: &[&str], size: u64, count: u64| {
                let (s, c) = (size.to_string(), count.to_string());
                let own = [there, "--from", here, "--xprt", xprt, "-s", &s, "-c", &c, "--check", "--json"];
                let v = json(&Proc::start(side(!on_port, &[&["net"], verb, &own].concat())).finish());
                went_well(&v, count, size);
                let carrier = v["carrier"].as_str().unwrap();
                assert!(
                    carrier.starts_with(if on_port { "kernel sockets" } else { "port net_virtio_user0" }),
                    "{v}"
                );
                println!("{xprt}, {verb:?}: {:.2} Gbit/s, {v}", v["bytes_per_s"].as_f64().unwrap() * 8e-9);
            };
            ask(&["ping"], PING, PINGS);
            ask(&["bulk", "--write"], BULK, BULKS);
            ask(&["bulk", "--read"], BULK, BULKS);
            // Over IPv6 as over IPv4, and it takes time.
            let rounds = if kernel == sock6[0] { 1 } else { 2 };
            if rounds == 2 {
                ask(&["bulk", "--active", "--write"], BULK, BULKS);
                ask(&["bulk", "--active", "--read"], BULK, BULKS);
            }
            if on_port {
                let conns = if xprt == "sock" { "netsock_conns" } else { "conns" };
                let home = ["lendings_out", "rx_lent_out", "rx_pool_bytes_in_use", "quarantined"];
                let c = counters(node.id(), |n| n(conns) == 0 && home.iter().all(|h| n(h) == 0));
                let n = |name: &str| c[name].as_u64().unwrap();
                let payload = PINGS * PING + rounds * BULKS * BULK;
                assert_eq!(n("tx_copied_bytes"), 0, "{c}");
                // Pieces under 512 bytes, at the end of a frame, travel with its headers.
                let short = if xprt == "sock" { n("tx_short_bytes") } else { 0 };
                assert!(n("tx_attached_bytes") + short >= payload, "{c}");
                if xprt == "sock" {
                    // Messages go into the memory given; bulk is lent, all of it.
                    let none = ["netsock_copied_bytes", "netsock_refused", "netsock_loans"].map(n);
                    assert_eq!(none, [0; 3], "{c}");
                } else {
                    assert_eq!((n("rx_copied_bytes"), n("rx_lend_refused")), (0, 0), "{c}");
                    assert!(n("rx_lent_bytes") >= payload, "{c}");
                }
            }
            let v: Value = serde_json::from_str(node.stop().lines().last().unwrap()).unwrap();
            assert_eq!((v["checked"].as_u64(), v["wrong"].as_u64()), (Some(rounds * BULKS), Some(0)), "{v}");
            // A client that has all its bytes goes in order, and so acknowledges the last ones, too.
            assert_eq!(
                (v["completed"].as_u64(), v["failed"].as_u64()),
                (Some(PINGS + 2 * rounds * BULKS), Some(0)),
                "{v}"
            );
        }
    }
    // Nobody listens, or is there: the error says which, whoever asks. The kernel takes its time, so it begins.
    let ping = |port: bool, from: &str, to: &str| {
        let args = ["net", "ping", to, "--from", from, "-c", "1", "--timeout", "60"];
        Proc::start(if port { lab.on_port(&args) } else { lab.on_kernel(&args) })
    };
    let away = "inet:stream:10.99.0.77@7000";
    let kernels = ping(false, "inet:stream:10.99.0.1@7002", away);
    for [kernel, port] in [sock, sock6] {
        ping(true, port, kernel).fails_with(1, &["no connection", "Connection refused"]);
        let mut node = Proc::start(lab.on_port(&["net", "node", port]));
        node.wait_for("is up");
        let closed = port.replace("@7000", "@7009");
        let refused = ping(false, &kernel.replace("@7000", "@7001"), &closed);
        refused.fails_with(1, &["no connection", "Connection refused"]);
        node.stop();
    }
    ping(true, sock[1], away).fails_with(1, &["no connection", "No route to host"]);
    kernels.fails_with(1, &["no connection", "No route to host"]);
    let c = lab.counters();
    for name in ["TcpInCsumErrors", "IpInHdrErrors", "IpInAddrErrors", "TcpExtTCPBacklogDrop"] {
        assert_eq!(c.get(name), None, "{name} in {c:?}");
    }
}

/// The same by datagrams, of one packet and of several, a few at a time, since what the TAP has no room for is lost. The
/// kernel finds every checksum right.
#[test]
fn datagrams_cross_a_port_both_ways() {
    if let Some(why) = missing(&[]) {
        println!("SKIP: datagrams_cross_a_port_both_ways: {why}");
        return;
    }
    let lab = Lab::new(9000, &[]);
    lab.add6();
    let four = ["inet:dgram:10.99.0.1@7000", "inet:dgram:10.99.0.2@7000"];
    let six = ["inet6:dgram:fd99::1@7000", "inet6:dgram:fd99::2@7000"];
    // A client on the port takes a second to start: it does once, for what it has to fetch.
    for ([kernel, port], on_port) in [(four, true), (six, true), (four, false)] {
        let (there, here) = if on_port { (port, kernel) } else { (kernel, port) };
        let side = |port: bool, args: &[&str]| if port { lab.on_port(args) } else { lab.on_kernel(args) };
        let mut node = Proc::start(side(on_port, &["net", "node", there, "--json"]));
        node.wait_for("\"up\"");
        let ask = |verb: &[&str], size: u64, count: u64| {
            let (s, c) = (size.to_string(), count.to_string());
            let own = [there, "--from", here, "-s", &s, "-c", &c, "--concurrency", "1", "--check", "--json"];
            let v = json(&Proc::start(side(!on_port, &[&["net"], verb, &own].concat())).finish());
            went_well(&v, count, size);
        };
        if on_port {
            ask(&["ping"], 64, 100);
            ask(&["ping"], 20_000, 50);
            ask(&["bulk", "--write"], 65_536, 20);
        }
        ask(&["bulk", "--read"], 65_536, 20);
        let v: Value = serde_json::from_str(node.stop().lines().last().unwrap()).unwrap();
        assert_eq!((v["failed"].as_u64(), v["wrong"].as_u64()), (Some(0), Some(0)), "{v}");
    }
    let c = lab.counters();
    for name in ["UdpInCsumErrors", "Udp6InCsumErrors", "IpInHdrErrors", "Ip6InHdrErrors", "IpInAddrErrors"] {
        assert_eq!(c.get(name), None, "{name} in {c:?}");
    }
}
