//! `ping`, `put` and `get` as people use them: beside a running node and through it, to peers that do not answer, into pipes
//! and full disks. Numbers are those of docs/implvulns.md, "Field reports".

#![allow(missing_docs)]

#[allow(dead_code)]
mod lab;
#[allow(dead_code)]
mod proc;

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use lab::{Namespace, missing};
use proc::{Proc, can, nid, node, own_ip, pollnd, run, start};
use rustix::process::Signal;

#[test]
fn report_16_commands_of_its_nid_go_through_a_running_node() {
    if !can("report_16_commands_of_its_nid_go_through_a_running_node") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let (here, there) = (nid(a), nid(b));
    let (near, far) = (node(a, &[]), node(b, &[]));
    let pid = near.id().to_string();
    let through = format!("through the node of {here} that runs here (process {pid})");
    // A transfer is under way while the others come and go.
    let long = start(&["put", &there, "--nid", &here, "-t", "2", "-s", "64k", "--json"]);
    run(&["ping", &there, "--nid", &here]).good().tells(&[&through]).says(&[&there, "1 answered"]);
    run(&["ping", &there, "--node", &pid, "-c", "3", "-i", "0.01"]).good().says(&["3 pings, 3 answered"]);
    for (command, size, messages) in
        [("put", "0", 6), ("put", "100", 6), ("get", "16385", 6), ("get", "2M", 12)]
    {
        let v = run(&[command, &there, "--node", &pid, "-c", "6", "-s", size, "--json"]).good().json();
        assert_eq!(
            (v["messages"].as_u64(), v["crc_bad"].as_u64()),
            (Some(messages), Some(0)),
            "{command} {size}: {v}"
        );
        // A kernel's TCP sends again without telling.
        assert!(v.get("retransmits").is_some_and(serde_json::Value::is_null), "{v}");
    }
    let stats = run(&["stats", "--node", &pid, "--json"]).good().json();
    let counters = &stats["lcores"][0]["counters"];
    assert!(counters["conns"].as_u64() > Some(0) && counters["retransmits"].is_null(), "{stats}");
    // The peer's omissions are told as they are to a node of its own.
    let nobody = nid(own_ip());
    run(&["get", &nobody, "--node", &pid]).failed(1, &["GET from", &nobody, "TCP RST", "0 of 1024 messages"]);
    run(&["ping", &nobody, "--nid", &here]).failed(1, &[&nobody, "TCP RST"]);
    run(&["ping", "fd00::1@tcp", "--node", &pid]).failed(1, &["fd00::1@tcp", "address family"]);
    // It pings itself, too.
    run(&["ping", &here, "--node", &pid]).good().says(&[&here]);
    let v = long.end().good().json();
    assert!(v["messages"].as_u64() > Some(10) && v["crc_bad"] == 0, "{v}");
    let end = near.stop().good();
    assert!(end.errors().is_empty(), "{end:?}");
    let end = far.stop().good().says(&["wrong 0"]);
    assert_eq!(
        (end.counter("peers_rebooted"), end.counter("sets_closed")),
        (0, 1),
        "one node, one set: {end:?}"
    );
}

#[test]
fn report_16_who_leaves_in_the_middle_leaves_the_seat() {
    if !can("report_16_who_leaves_in_the_middle_leaves_the_seat") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let (near, far) = (node(a, &[]), node(b, &[]));
    let pid = near.id().to_string();
    // More than there are seats.
    for _ in 0..12 {
        let mut p = start(&["put", &nid(b), "--node", &pid, "-t", "600", "-w", "0.1", "-s", "4k"]);
        p.until("a line", |out, _| out.contains("messages"));
        p.kill();
    }
    run(&["put", &nid(b), "--node", &pid, "-c", "10"]).good();
    near.stop().good();
    far.stop().good().says(&["wrong 0"]);
}

#[test]
fn report_16_a_command_beside_another_of_its_nid_is_refused_by_name() {
    if !can("report_16_a_command_beside_another_of_its_nid_is_refused_by_name") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let (me, there) = (nid(a), nid(b));
    let up = node(b, &[]);
    let mut put = start(&["put", &there, "--nid", &me, "-c", "10000000", "-s", "65536"]);
    put.until("three connections", |_, _| proc::connections(a) == 3);
    let pid = put.id();
    let words = [&format!("{me}: `pollnd put` (process {pid})"), &format!("kill {pid}")[..], "--nid"];
    for args in [&["ping", &there, "--nid", &me][..], &["get", &there, "--nid", &me], &["node", "--nid", &me]]
    {
        run(args).failed(1, &words);
    }
    run(&["ping", &there, "--node", &pid.to_string()])
        .failed(1, &["--node", "`pollnd put`", "`pollnd node`"]);
    assert!(put.runs(), "and goes on");
    // The lock of a process that was killed is nobody's.
    put.kill();
    run(&["ping", &there, "--nid", &me]).good();
    let second = run(&["node", "--nid", &there]).failed(1, &["`pollnd node`", &format!("kill {}", up.id())]);
    assert!(!second.out.contains("is up"), "{second:?}");
    up.stop().good();
}

/// A listener that is there already may be the kernel's node of that NID.
#[test]
fn report_16_a_port_that_somebody_has_is_not_passed_over() {
    let (a, b) = (own_ip(), own_ip());
    let other = TcpListener::bind((a, 10_988)).unwrap();
    let ping = |more: &[&str]| {
        run(&[&["ping", &nid(b), "--nid", &nid(a), "--accept-port", "10988", "--timeout", "1"], more]
            .concat())
    };
    ping(&[]).failed(1, &[&format!("{a}:10988"), "in use", "--accept none"]);
    ping(&["--accept", "none"]).failed(1, &["TCP RST"]);
    drop(other);
}

/// A peer that takes connections and does this with each.
fn peer(ip: Ipv4Addr, act: impl Fn(TcpStream) + Send + 'static) {
    let l = TcpListener::bind((ip, 10_988)).unwrap();
    std::thread::spawn(move || l.incoming().flatten().for_each(act));
}

#[test]
fn report_17_each_way_not_to_answer_has_its_text() {
    let (a, mute, shut, odd, gone) = (own_ip(), own_ip(), own_ip(), own_ip(), own_ip());
    peer(mute, std::mem::forget);
    peer(shut, drop);
    peer(odd, |mut s| {
        let _ = s.read(&mut [0; 256]);
        let _ = s.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n                                             ");
    });
    let refused = own_ip();
    peer(refused, |mut s| {
        let _ = s.read(&mut [0; 256]);
        // The acceptor's magic and version, and nothing else of a request.
        let _ = s.write_all(&[&0xACCE_7100u32.to_le_bytes()[..], &1u32.to_le_bytes(), &[0; 48]].concat());
        let _ = s.read(&mut [0; 256]);
    });
    let own = ["--nid", &nid(a), "--accept-port", "10988"];
    for (ip, words) in [
        (mute, &["no answer within 1.00 s (--timeout)", "connected, but silent", "says nothing"][..]),
        (shut, &["cannot be reached", "closed it without a HELLO"]),
        (odd, &["cannot be reached", "no HELLO"]),
        (refused, &["cannot be reached", "acceptor has refused"]),
        (gone, &["cannot be reached", "TCP RST", "listening"]),
    ] {
        for command in ["ping", "put", "get"] {
            let end = run(&[&[command, &nid(ip), "--timeout", "1"], &own[..]].concat());
            end.failed(1, words).failed(1, &[&nid(ip)]);
        }
    }
    let up = node(a, &["--accept-port", "10988"]);
    let pid = up.id().to_string();
    for command in ["ping", "put"] {
        run(&[command, &nid(mute), "--timeout", "1", "--node", &pid]).failed(1, &["connected, but silent"]);
    }
    up.stop().good();
}

#[test]
fn report_17_no_route_and_no_neighbour_are_told_apart() {
    if let Some(why) = missing(&[]) {
        println!("SKIP: report_17_no_route_and_no_neighbour_are_told_apart: {why}");
        return;
    }
    let ns = Namespace::new();
    let ping = |args: &[&str]| {
        let mut c = ns.inside(env!("CARGO_BIN_EXE_pollnd"));
        c.args(["ping", "--accept-port", "10988"]).args(args);
        Proc::start(c).end()
    };
    let away = "198.51.100.7@tcp";
    ping(&[away]).failed(1, &["no way to 198.51.100.7", "--nid", "--node"]);
    ping(&[away, "--nid", "127.0.0.1@tcp"]).failed(1, &[away, "cannot be reached", "no route leads there"]);
    ns.ip(&["link", "add", "v0", "type", "veth", "peer", "name", "v1"]);
    ns.ip(&["addr", "add", "10.98.0.1/24", "dev", "v0"]);
    ns.ip(&["link", "set", "v0", "up"]);
    ns.ip(&["link", "set", "v1", "up"]);
    let end = ping(&["10.98.0.9@tcp"]).failed(1, &["10.98.0.9@tcp", "cannot be reached", "no host answers"]);
    end.tells(&["as 10.98.0.1@tcp, from where this machine reaches 10.98.0.9"]);
    // Before the kernel has given up it is still connecting.
    ping(&["10.98.0.8@tcp", "--timeout", "0.5"]).failed(1, &["no answer within 500 ms", "nobody answers"]);
}

/// Standard output of `c` is read for so many lines, then closed.
fn cut_off(mut c: Command, lines: usize) -> (std::process::ExitStatus, String) {
    let mut child = c.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    for _ in 0..lines {
        let mut line = String::new();
        assert!(out.read_line(&mut line).unwrap() > 0, "{c:?} ends too soon");
    }
    drop(out);
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (child.wait().unwrap(), err)
}

#[test]
fn report_18_who_reads_no_more_ends_a_command_without_a_word() {
    if !can("report_18_who_reads_no_more_ends_a_command_without_a_word") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let (up, far) = (node(a, &[]), node(b, &[]));
    let pid = up.id().to_string();
    for (args, lines) in [
        (&["stats", "-w", "0.2", "--node", &pid][..], 3),
        (&["stats", "-w", "0.1", "--json", "--node", &pid], 1),
        (&["connections", "-w", "0.1", "--node", &pid], 2),
        (&["ping", &nid(b), "-c", "1000", "-i", "0.01", "--node", &pid], 5),
        (&["ping", &nid(b), "-c", "1000", "-i", "0.01", "--nid", &nid(own_ip())], 5),
        (&["put", &nid(b), "-t", "600", "-w", "0.1", "-s", "4k", "--nid", &nid(own_ip())], 2),
        (&["get", &nid(b), "-t", "600", "-w", "0.1", "-s", "4k", "--node", &pid], 2),
    ] {
        let (status, err) = cut_off(pollnd(args), lines);
        assert_eq!(status.signal(), Some(13), "{args:?}: {status:?} {err}");
        assert!(err.is_empty(), "{args:?}: {err}");
    }
    up.stop().good();
    let end = far.stop().good();
    assert!(end.errors().is_empty(), "they went in order: {end:?}");
}

/// Rust's start code puts /dev/null in the place of what is closed, and nothing that is written there fails.
#[test]
fn report_18_a_closed_standard_output_is_an_error() {
    let ip = own_ip();
    let up = node(ip, &["--accept-port", "10988", "--accept", "trust"]);
    let pid = up.id().to_string();
    for args in [
        &["stats", "-w", "0.1", "--node", &pid][..],
        &["connections", "-w", "0.1", "--node", &pid],
        &["capture", "--peer", "10.0.0.1", "--out", "/dev/null", "--node", &pid],
        &["bench", "repeat", "1000", "--sockets-only"],
        &["ping", &nid(ip), "-c", "1000000", "--node", &pid],
        &["node", "--nid", &nid(own_ip())],
        &["doctor"],
        &["--help"],
    ] {
        let mut c = Command::new("sh");
        c.args(["-c", "exec \"$0\" \"$@\" >&-", env!("CARGO_BIN_EXE_pollnd")]).args(args);
        Proc::start(c).end().failed(1, &["standard output is closed", ">/dev/null"]);
    }
    let mut c = pollnd(&["stats", "--node", &pid]);
    assert!(c.stdout(Stdio::null()).status().unwrap().success(), "nobody is to read it, as told");
    up.stop().good();
}

#[test]
fn report_18_a_full_disk_is_an_error() {
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ip = own_ip();
    let up = node(ip, &["--accept-port", "10988", "--accept", "trust"]);
    let pid = up.id().to_string();
    let (target, sim) = (nid(ip), ["bench", "tcp-sim", "--loss", "0", "--seeds", "1", "--seconds", "0.001"]);
    let own = nid(own_ip());
    for args in [
        &["doctor"][..],
        &["doctor", "--json"],
        &["tunables", "--defaults"],
        &["tunables", "--node", &pid],
        &["stats", "--node", &pid],
        &["connections", "--node", &pid],
        &["ping", &target, "--node", &pid],
        &["put", &target, "-c", "1", "--nid", &own, "--accept-port", "10988"],
        &["node", "--nid", &own, "--accept-port", "10988"],
        &sim,
        &["--help"],
        &["--version"],
        &["help", "ping"],
    ] {
        let o = pollnd(args).stdin(Stdio::null()).stdout(full()).output().unwrap();
        let err = String::from_utf8_lossy(&o.stderr);
        assert_eq!(o.status.code(), Some(1), "{args:?}: {err}");
        assert!(err.contains("cannot write to standard output: No space left"), "{args:?}: {err}");
    }
    // There is nowhere to tell that standard error is full, and the exit code is that of the command.
    for (args, code) in
        [(&["ping", &nid(own_ip()), "--nid", &own, "-v"][..], 1), (&["ping", &target, "--node", &pid], 0)]
    {
        let o = pollnd(args).stdin(Stdio::null()).stderr(full()).output().unwrap();
        assert_eq!(o.status.code(), Some(code), "{args:?}");
    }
    up.stop().good();
}

/// A transfer that fails says so in its object, with what had been moved: over a node of its own, through one that runs, and
/// where none is to be had.
#[test]
fn a_transfer_that_fails_prints_its_object() {
    if !can("a_transfer_that_fails_prints_its_object") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let (here, there, nobody) = (nid(a), nid(b), nid(own_ip()));
    let (near, far) = (node(a, &[]), node(b, &[]));
    let pid = near.id().to_string();
    let own = nid(own_ip());
    for command in ["put", "get"] {
        for which in [&["--nid", &own][..], &["--node", &pid]] {
            let args = [&[command, &nobody, "-c", "3", "--json"][..], which].concat();
            let end = run(&args).failed(1, &[&nobody, "TCP RST", "0 of 3 messages"]);
            let v = end.json();
            let error = v["error"].as_str().unwrap_or_default();
            assert!(error.contains(&nobody) && error.contains("TCP RST"), "{v}");
            assert_eq!(["messages", "bytes"].map(|k| v[k].as_u64()), [Some(0); 2], "{v}");
        }
    }
    for command in ["put", "get", "ping"] {
        let end = run(&[command, &nobody, "--node", "/nonexistent", "--json"]).failed(1, &["/nonexistent"]);
        assert!(end.json()["error"].as_str().is_some_and(|e| e.contains("/nonexistent")), "{end:?}");
    }
    // One that is interrupted had moved something.
    let mut long = start(&["put", &there, "--nid", &own, "-t", "60", "-w", "0.1", "--json"]);
    long.until("a line", |out, _| out.lines().count() > 1);
    let end = long.stop();
    let last: serde_json::Value = serde_json::from_str(end.out.lines().last().unwrap()).unwrap();
    assert!(end.status.code() == Some(1) && last["messages"].as_u64() > Some(0), "{end:?}");
    assert!(last["error"].as_str().is_some_and(|e| e.contains("interrupted")), "{end:?}");
    run(&["ping", &there, "--nid", &here]).good();
    near.stop().good();
    far.stop().good();
}

#[test]
fn report_21_sizes_times_and_intervals() {
    if !can("report_21_sizes_times_and_intervals") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let (client, server) = (nid(a), nid(b));
    for more in [&[][..], &["--copy"]] {
        let up = node(b, more);
        let mut puts = (0, 0);
        for (size, bytes, pieces) in [
            ("0", 0, 1),
            ("1", 1, 1),
            ("96", 96, 1),
            ("4k", 4096, 1),
            ("1M", 1 << 20, 1),
            ("1048577", (1 << 20) + 1, 2),
            ("16M", 16 << 20, 16),
        ] {
            for command in ["put", "get"] {
                let v =
                    run(&[command, &server, "--nid", &client, "-c", "3", "-s", size, "--json"]).good().json();
                let got = ["messages", "transfers", "bytes", "crc_bad"].map(|k| v[k].as_u64().unwrap());
                assert_eq!(got, [3 * pieces, 3, 3 * bytes, 0], "{command} {size}: {v}");
            }
            puts = (puts.0 + 3 * pieces, puts.1 + 3 * bytes);
        }
        let end = up.stop().good();
        let (n, bytes) = puts;
        assert!(end.out.contains(&format!("{n} PUTs, {bytes} bytes; checked {n}, wrong 0")), "{end:?}");
    }
    let up = node(b, &[]);
    let text = run(&["put", &server, "--nid", &client, "-c", "2", "-s", "2M"]).good();
    assert!(text.out.contains("2 transfers of 2097152 bytes in 4 messages"), "{text:?}");
    for size in ["0", "1"] {
        let text = run(&["put", &server, "--nid", &client, "-c", "1", "-s", size]).good();
        assert!(!text.out.contains("0.00 Gbit/s") && text.out.contains("1 message of "), "{text:?}");
    }
    let timed = run(&["get", &server, "--nid", &client, "-t", "0.5", "-w", "0.1", "-s", "4k"]).good();
    let lines: Vec<_> = timed.out.lines().collect();
    assert!(lines.len() > 2 && lines[..lines.len() - 1].iter().all(|l| l.contains("/s")), "{timed:?}");
    let timed =
        run(&["get", &server, "--nid", &client, "-t", "0.5", "-w", "0.1", "-s", "4k", "--json"]).good();
    let all: Vec<serde_json::Value> = timed.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let (last, beats) = all.split_last().unwrap();
    let sum: u64 = beats.iter().map(|b| b["messages"].as_u64().unwrap()).sum();
    let n = last["messages"].as_u64().unwrap();
    assert!(beats.len() > 1 && sum <= n && n > 0 && last["bytes"] == n * 4096, "{timed:?}");
    let v = run(&["ping", &server, "--nid", &client, "-c", "3", "-i", "0.01", "--json"]).good().json();
    assert_eq!(
        (v["sent"].as_u64(), v["answered"].as_u64(), v["lost"].as_u64()),
        (Some(3), Some(3), Some(0)),
        "{v}"
    );
    assert!(
        v["pings"].as_array().unwrap().iter().all(|p| p["nids"][0] == server && p["rtt_ns"].is_u64()),
        "{v}"
    );
    up.stop().good();
}

#[test]
fn report_21_without_a_nid_the_route_chooses_one() {
    if !can("report_21_without_a_nid_the_route_chooses_one") {
        return;
    }
    let b = own_ip();
    let up = node(b, &[]);
    // Tests of other programs may ping from 127.0.0.1 at the same time: then it is refused by name, and tried again.
    let as_found = format!("as 127.0.0.1@tcp, from where this machine reaches {b}");
    let end = (0..100)
        .map(|_| run(&["ping", &nid(b)]))
        .find(|e| !e.err.contains("a second node of it would cut"))
        .unwrap();
    end.good().tells(&[&as_found]).says(&["1 answered"]);
    up.stop().good();
    let e = run(&["ping", "2001:db8::1@tcp"]);
    assert!(e.status.code() == Some(1) && e.err.contains("2001:db8::1"), "{e:?}");
}

#[test]
fn report_21_a_lost_ping_is_told_and_the_next_one_sent() {
    if !can("report_21_a_lost_ping_is_told_and_the_next_one_sent") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let mut ping = start(&["ping", &nid(b), "--nid", &nid(a), "-c", "1000", "-i", "0.2"]);
    ping.until("a ping that is lost", |_, err| err.contains("TCP RST"));
    let up = node(b, &[]);
    ping.until("an answer", |out, _| out.contains("time "));
    ping.signal(Signal::INT);
    let end = ping.end().failed(1, &["had no answer", "going down"]).says(&["answered", "lost; shortest"]);
    assert!(!end.err.contains("interrupted"), "{end:?}");
    up.stop().good();
}

/// Field report 21: through a node as with one of its own.
#[test]
fn report_21_an_interrupted_command_through_a_node_tells_what_it_did() {
    if !can("report_21_an_interrupted_command_through_a_node_tells_what_it_did") {
        return;
    }
    let (a, b, mute) = (own_ip(), own_ip(), own_ip());
    peer(mute, std::mem::forget);
    let (near, far) = (node(a, &[]), node(b, &[]));
    let pid = near.id().to_string();
    for signal in [Signal::INT, Signal::TERM] {
        let mut ping = start(&["ping", &nid(b), "--node", &pid, "-c", "1000", "-i", "0.05"]);
        ping.until("an answer", |out, _| out.contains("time "));
        ping.signal(signal);
        let end = ping.end().good();
        assert!(end.out.contains(" answered, 0 lost; shortest") && end.err.is_empty(), "{end:?}");
        let mut put = start(&["put", &nid(b), "--node", &pid, "-t", "600", "-w", "0.1", "-s", "4k"]);
        put.until("a line", |out, _| out.contains("messages"));
        put.signal(signal);
        put.end().failed(1, &["PUT to", &nid(b), "interrupted", " messages had completed"]);
    }
    // One that waits for an answer does not wait for it any more.
    let lone = node(own_ip(), &["--accept-port", "10988"]);
    let ping = start(&["ping", &nid(mute), "--node", &lone.id().to_string(), "--timeout", "3600"]);
    proc::eventually("a connection", || proc::connections(mute) > 0);
    ping.signal(Signal::INT);
    ping.end().failed(1, &["interrupted"]);
    lone.stop().good();
    near.stop().good();
    far.stop().good();
}

/// Pings went on for as long as they were counted, each with the same error, once the node that they go through was dead.
#[test]
fn pings_through_a_node_end_with_it() {
    let (near, far) = (node(own_ip(), &["--accept-port", "10988"]), own_ip());
    let up = node(far, &["--accept-port", "10988"]);
    let mut ping =
        start(&["ping", &nid(far), "--node", &near.id().to_string(), "-c", "100000", "-i", "0.05"]);
    ping.until("an answer", |out, _| out.contains("time "));
    near.kill();
    let end = ping
        .end()
        .failed(1, &["the node at", "it has ended", " 1 of "])
        .says(&[" answered, 1 lost; shortest"]);
    assert_eq!(end.err.matches("the node at").count(), 1, "{end:?}");
    up.stop().good();
}

/// Field report 16: options that the running node does not heed are named.
#[test]
fn report_16_what_a_running_node_does_not_heed_is_named() {
    let (a, b) = (own_ip(), own_ip());
    let port = ["--accept-port", "10988", "--accept", "trust"];
    let (near, far) = (node(a, &port), node(b, &port));
    let through = format!("through the node of {} that runs here (process {})", nid(a), near.id());
    let ping = |more: &[&str]| run(&[&["ping", &nid(b), "--nid", &nid(a)], more].concat()).good();
    let end = ping(&[]);
    assert!(end.err.ends_with(&format!("{through}\n")), "{end:?}");
    ping(&["--peer-credits", "3"])
        .tells(&[&format!("{through}; it has settings of its own, --peer-credits is not used")]);
    ping(&["--accept-port", "10988", "--mtu", "9000", "--", "--no-huge"])
        .tells(&["these are not used: --mtu, --accept-port, EAL arguments after --"]);
    near.stop().good();
    far.stop().good();
}

/// A lock on the first NID alone let a second process take the others, and commands of those did not find the node.
#[test]
fn the_nid_of_each_ni_is_one_process_s_and_leads_to_its_node() {
    let (a, b, far) = (own_ip(), own_ip(), own_ip());
    let port = ["--accept-port", "10988", "--accept", "trust"];
    let own = [nid(a), format!("{a}@tcp1"), format!("{b}@tcp2")];
    let to = [nid(far), format!("{far}@tcp1"), format!("{far}@tcp2")];
    let start =
        |ip, nids: &[String; 3]| node(ip, &[&port[..], &["--ni", &nids[1], "--ni", &nids[2]]].concat());
    let (near, up) = (start(a, &own), start(far, &to));
    let through = |n: &str| format!("through the node of {n} that runs here (process {})", near.id());
    let elsewhere = ["--accept-port", "10989", "--run-for", "0.1"];
    for (own, to) in own.iter().zip(&to) {
        run(&["ping", to, "--nid", own]).good().tells(&[&through(own)]).says(&["1 answered"]);
        let process = format!("(process {})", near.id());
        run(&[&["node", "--nid", own], &elsewhere[..]].concat())
            .failed(1, &[own, &process, "or give --nid another address"]);
        run(&[&["node", "--nid", &nid(own_ip()), "--ni", own], &elsewhere[..]].concat())
            .failed(1, &[own, &process, "or give --ni another address"]);
    }
    near.stop().good();
    run(&[&["node", "--nid", &own[2], "--ni", &own[1]], &elsewhere[..]].concat()).good();
    up.stop().good();
}

/// Field report 15: the last address of a network is no machine's, whatever the interface is told.
#[test]
fn report_15_a_broadcast_address_is_no_machine() {
    let me = own_ip();
    let up = node(me, &["--accept-port", "10988"]);
    let last = "127.255.255.255@tcp";
    for command in ["ping", "put", "get"] {
        for more in [&[][..], &["--nid", &nid(own_ip())], &["--node", &up.id().to_string()]] {
            run(&[&[command, last], more].concat())
                .failed(1, &[last, "it is a broadcast address", "the address of one machine"]);
        }
    }
    up.stop().good();
}

/// Field report L6 over kernel sockets; `tap.rs` has the same over a port.
#[test]
fn report_l6_a_node_that_was_killed_is_seen_again_when_it_starts() {
    if !can("report_l6_a_node_that_was_killed_is_seen_again_when_it_starts") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let (mut near, far) = (node(a, &[]), node(b, &[]));
    run(&["ping", &nid(b), "--nid", &nid(a)]).good();
    for _ in 0..2 {
        // The list is written a second later.
        let list = proc::list_of_peers(&nid(a), &nid(b));
        let old = near.id();
        near.kill();
        assert!(list.exists());
        near = node(a, &[]);
        // Nobody asks for anything, and the peer has the new one's connections.
        proc::eventually("three connections", || proc::connections(a) == 3);
        assert_ne!(near.id(), old);
    }
    let list = proc::list_of_peers(&nid(a), &nid(b));
    near.stop().good();
    assert!(!list.exists(), "who went in order greets nobody");
    far.stop().good();
}

/// BRW of each kind and PING between two nodes on kernel sockets; the bench fails where an RPC does, or where something is left.
#[test]
fn lnet_selftest_over_kernel_sockets() {
    let end = run(&["bench", "selftest", "1", "--seconds", "0.1", "--sockets-only", "--json"]).good();
    let v = end.json();
    assert_eq!(v["nothing_lost"], true, "{v}");
    let rows = v["rows"].as_array().unwrap();
    assert!(rows.len() == 8 && rows.iter().all(|r| r["median"]["per_s"].as_f64() > Some(0.0)), "{v}");
}

/// The three nodes of a router on kernel sockets, beside the two ends alone; the bench fails where something is lost.
#[test]
fn a_router_over_kernel_sockets() {
    let end = run(&["bench", "router", "1", "--seconds", "0.1", "--sockets-only", "--json"]).good();
    let v = end.json();
    assert_eq!((&v["nothing_lost"], &v["copied"]), (&true.into(), &0.into()), "{v}");
    let round = &v["rounds"][0];
    let moved = |side: &str, what: &str| round["sockets"][side][what]["bytes"].as_u64() > Some(0);
    assert!(["direct", "through", "cut"].iter().all(|s| moved(s, "bulk") && moved(s, "small")), "{v}");
    assert!(round["link"].is_null() && v["figures"].as_array().unwrap().len() == 15, "{v}");
}
