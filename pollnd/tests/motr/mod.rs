//! `pollnd net` between processes on kernel sockets.

mod hostile;

use rustix::process::Signal;

use crate::figures::went_well;
use crate::proc::{self, can, own_ip, run, start};

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
            (&["bulk", "--active"], 1 << 20, 20),
            (&["bulk", "--active", "--read"], 1 << 20, 20),
            (&["bulk", "--active", "--read", "--copy"], 70_001, 9),
        ] {
            let (s, c) = (size.to_string(), count.to_string());
            let v = net(&[verb, &[there, "-s", &s, "-c", &c], &own].concat());
            went_well(&v, count, size);
            assert!(v["xprt"] == xprt && v["error"].is_null() && v["p99_us"].as_f64() > Some(0.0), "{v}");
            (operations, bytes) = (operations + count, bytes + count * size);
        }
        // One at a time for a while, and more than the node has memory for at a time.
        let v = net(&["ping", there, "--from", here, "-t", "0.3", "--concurrency", "1"]);
        assert!(v["operations"].as_u64() > Some(10) && v["interrupted"] == false, "{v}");
        (operations, bytes) =
            (operations + v["operations"].as_u64().unwrap(), bytes + v["bytes"].as_u64().unwrap());
        for more in [&[][..], &["--active"], &["--active", "--read"]] {
            let many = ["bulk", there, "--from", here, "-c", "100", "--concurrency", "40", "-s", "64k"];
            let v = net(&[&many, more].concat());
            assert_eq!(v["operations"], 100, "{v}");
            (operations, bytes) = (operations + 100, bytes + (100 << 16));
        }
        let text = run(&["net", "ping", there, "--from", here, "-c", "5"]).good();
        assert!(
            text.out.starts_with("ping of 4096 bytes, 8 at a time: ") && text.out.contains("CPU s/GiB"),
            "{text:?}"
        );
        let said = format!("{} operations, {} bytes; failed 0, checked", operations + 5, bytes + 5 * 4096);
        let end = node.stop().good().says(&[&said, "wrong 0"]);
        // It asks to listen where it does already: nobody else is in the way.
        assert!(!end.err.contains("cannot listen"), "{end:?}");
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
            &["net", "ping", &nobody, "--from", &here][..],
            1,
            &["no connection", "Connection refused", "pollnd net node inet:stream:"][..],
        ),
        (&["net", "ping", &here, "--from", &here], 1, &["own address", "--from"]),
        (
            &["net", "ping", &here, "--from", "inet6:stream:::1@7000"],
            1,
            &["--from inet6:stream:::1@7000", "an IPv4 address"],
        ),
        (&["net", "ping", "10.0.0.1@tcp:12345:34:*"], 1, &["* names no transfer machine"]),
        (&["net", "bulk", "10.0.0.1@tcp:12345:34:1", "-s", "2M"], 1, &["--size 2097152", "1048576"]),
        (&["net", "node", "inet:stream:10.0.0.1"], 1, &["\"inet:stream:10.0.0.1\"", "IP@PORT"]),
        (&["net", "node", "unix:stream:x"], 1, &["inet6"]),
        (&["net", "ping", "inet7:stream:10.0.0.1@7000"], 1, &["inet7", "inet6"]),
        (&["net", "node", "10.0.0.1@tcp:12345:34:1", "--bulk", "2M"], 1, &["--bulk 2097152", "1048576"]),
        (&["net", "node", &here, "--lcores", "2"], 1, &["--lcores 2", "one thread"]),
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
    for more in [&[][..], &["--read"], &["--active"], &["--active", "--read"]] {
        let long = ["net", "bulk", &here, "--from", &from, "-s", "2M", "-c", "1"];
        run(&[&long, more].concat()).failed(1, &["Message too long", "--bulk"]);
    }
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
    assert_eq!(end.json()["failed"], 0, "what Ctrl-C gives up has not failed: {end:?}");
    assert!(end.json()["interrupted"] == true && end.json()["operations"].as_u64() > Some(0), "{end:?}");
    node.stop().good();
}

/// A node that hangs holds what was sent to it: its client tells the time-out and goes down nevertheless.
#[test]
fn a_client_over_lnet_goes_down_though_its_node_hangs() {
    if !can("a_client_over_lnet_goes_down_though_its_node_hangs") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let [here, there] = [a, b].map(|ip| format!("{ip}@tcp:12345:34:1"));
    let node = start(&["net", "node", &there]).up();
    let ping = ["net", "ping", &there, "--from", &here, "-s", "64k", "-t", "60", "--timeout", "1"];
    let client = start(&ping);
    proc::eventually("connection", || proc::connections(a) > 1);
    node.signal(Signal::STOP);
    let end = client.end().failed(1, &["timed out"]);
    assert!(!end.err.contains("did not stop"), "{end:?}");
    node.signal(Signal::CONT);
    node.stop().good();
}
