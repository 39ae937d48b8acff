//! `pollnd node`, `ping`, `put` and `get` between processes on kernel sockets.

#![allow(missing_docs)]

mod browser;
mod configs;
mod figures;
mod motr;
#[allow(dead_code)]
mod proc;

use std::cell::Cell;
use std::net::Ipv4Addr;

use proc::{End, Proc, can, nid, node, own_ip, run, start};
use rustix::process::Signal;

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
    let way = ["put", server, "--nid", &nid(client), "--timeout", "2"];
    let mut p = start(&[&way[..], &["-c", "10000000", "-s", "65536"]].concat());
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
        // It tries for a while whether the server is there again.
        let end = put.end().failed(1, &["PUT to", &server, "of 10000000 messages had completed"]);
        let end = end.tells(&["nothing has come through for", "had ended with an error"]);
        let why = ["the connection to the peer was lost", "the peer cannot be reached"];
        assert!(why.iter().any(|w| end.err.contains(w)), "{end:?}");
        // The same address serves again at once.
        let up = node(b, copy);
        moved(&run(&["put", &server, "--nid", &nid(a), "-c", "5", "--json"]).good(), 5, 1 << 20);
        up.stop().good().says(&["checked 5, wrong 0"]);
    }
}

/// As pings do: errors of messages are theirs alone, over a node of its own and through one that runs, and are told at the end.
#[test]
fn a_long_transfer_survives_a_restart_of_its_peer() {
    if !can("a_long_transfer_survives_a_restart_of_its_peer") {
        return;
    }
    // Messages that had left, and died with the peer, are waited for as long.
    let soon = ["--tunable", "lnet_transaction_timeout=6"];
    let near = node(own_ip(), &soon);
    let (pid, own) = (near.id().to_string(), nid(own_ip()));
    for (what, by) in [("put", &["--nid", &own, soon[0], soon[1]][..]), ("get", &["--node", &pid])] {
        let b = own_ip();
        let server = nid(b);
        let up = node(b, &[]);
        let more = ["-c", "10000000", "-s", "65536", "-w", "0.1", "--timeout", "100", "--json"];
        let mut p = start(&[&[what, &server][..], by, &more].concat());
        let flows = |out: &str| {
            let mut rows = out.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
            rows.next_back().is_some_and(|r| r["messages"].as_u64() > Some(0) && r["failed"] == 0)
        };
        p.until("messages", |out, _| flows(out));
        up.kill();
        p.until("word of the trouble", |_, err| err.contains("messages end with an error"));
        p.until("an interval without messages", |out, _| !flows(out));
        let up = node(b, &[]);
        p.until("messages again", |out, _| flows(out));
        let end = p.stop().failed(1, &["interrupted", "had ended with an error"]);
        let v: serde_json::Value = serde_json::from_str(end.out.lines().last().unwrap()).unwrap();
        let errors: u64 =
            v["errors"].as_array().unwrap().iter().map(|e| e["messages"].as_u64().unwrap()).sum();
        assert!(errors > 0 && v["failed"].as_u64() == Some(errors), "{v}");
        up.stop().good().says(&["wrong 0"]);
    }
    near.stop().good();
}

/// A command that gives up leaves operations behind that LNet has not ended, and their seat to the next.
#[test]
fn commands_that_gave_up_hold_no_seat_of_a_node() {
    if !can("commands_that_gave_up_hold_no_seat_of_a_node") {
        return;
    }
    let (near, b) = (node(own_ip(), &[]), own_ip());
    let far = node(b, &[]);
    let (pid, there) = (near.id().to_string(), nid(b));
    let silent = own_ip();
    let _mute = std::net::TcpListener::bind((silent, 988)).unwrap();
    for _ in 0..8 {
        let given_up = run(&["put", &nid(silent), "--node", &pid, "--timeout", "0.1"]);
        given_up.failed(1, &["no answer within 100 ms"]);
        run(&["ping", &nid(silent), "--node", &pid, "--timeout", "0.1"]).failed(1, &["no answer within"]);
    }
    for what in ["put", "get"] {
        run(&[what, &there, "--node", &pid, "-c", "10"]).good();
    }
    run(&["ping", &there, "--node", &pid]).good();
    // One that is killed asks for nothing more: not even those that wait longest.
    for _ in 0..6 {
        let p = start(&["ping", &nid(silent), "--node", &pid, "--timeout", "3000"]);
        std::thread::sleep(std::time::Duration::from_millis(100));
        p.kill();
    }
    run(&["put", &there, "--node", &pid, "-c", "10"]).good();
    near.stop().good();
    far.stop().good().says(&["wrong 0"]);
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

/// A run of seconds over kernel sockets: figures that are read again, a page whose plots are all laid out with their data, and two
/// reports beside each other.
#[test]
fn a_benchmark_report_is_a_page_with_every_plot_and_figures_to_compare() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let report = |args: &[&str]| run(&[&["bench", "report"], args].concat());
    let small = ["--quick", "--sockets-only", "--seconds", "0.02"];
    report(&[&small[..], &["--output", &at("a")]].concat()).good().says(&["nothing lost", "a/report.html"]);
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(at("a/report.json")).unwrap()).unwrap();
    // PUT, GET, BRW: three sizes 8 at a time and the smallest alone; pings.
    let points = json["points"].as_array().unwrap();
    assert_eq!((points.len(), &json["nothing_lost"]), (4 * 4 + 2, &true.into()), "{json}");
    for p in points {
        let f = &p["figures"];
        let [rate, p50, p999] =
            [&f["per_s"], &f["p50_us"], &f["p999_us"]].map(|v| v["median"].as_f64().unwrap());
        assert!(rate > 0.0 && 0.0 < p50 && p50 <= p999, "{p}");
        let payload = p["case"]["op"] != "ping";
        assert_eq!(f["gbps"]["median"].as_f64() > Some(0.0), payload, "{p}");
    }
    assert_eq!(json["fits"].as_array().unwrap().len(), 4, "{json}");
    // Files that are there are left alone, and nothing is measured for it.
    let held = report(&[&small[..], &["--output", &at("a")]].concat());
    held.failed(2, &["report.html: it is there already", "--force"]);
    // Drawn again, with a comparison; the same figures are never better or worse.
    let [figures, page] = [at("a/report.json"), at("b.html")];
    let both = ["--from", &figures, "--against", &figures, "--html", &page];
    report(&both).good().says(&["0 figures better, 0 worse, 72 within noise", "1.00 x ~", "has 2 rounds"]);
    // Reports without a case in common are known before anything is measured.
    let others =
        [&small[..], &["--ops", "put,ping", "--sizes", "128", "--concurrency", "4", "--output", &at("c")]];
    let there = "it has PUT, GET, BRW write, BRW read, ping of 64 B, 16 KiB, 1 MiB, 1, 8 at a time, on \"kernel sockets\"";
    let here = "this report has PUT, ping of 128 B, 4 at a time, on \"kernel sockets\"";
    report(&[&others.concat()[..], &["--against", &figures]].concat())
        .failed(2, &["a/report.json", there, here]);
    assert!(!dir.path().join("c").exists());
    let Some(browser) =
        browser::browser("a_benchmark_report_is_a_page_with_every_plot_and_figures_to_compare")
    else {
        return;
    };
    for (page, width) in [(at("a/report.html"), 1280), (page, 420)] {
        let seen = browser::look(browser, page.as_ref(), width);
        // Goodput, CPU, cost: four each; latency: five.
        assert_eq!((&seen["plots"], &seen["bad"]), (&17.into(), &serde_json::json!([])), "{seen}");
        assert!(seen["dots"].as_u64() >= Some(4 * 3 * 3 + 5 * 2 * 4), "{seen}");
    }
}

/// Named, with what is allowed, and nothing is written.
#[test]
fn a_benchmark_report_refuses_what_makes_no_sense() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (to, old) = (at("new"), at("old.json"));
    let refused = |args: &[&str], words: &[&str]| {
        run(&[&["bench", "report", "--sockets-only", "--output", &to], args].concat()).failed(2, words);
        assert!(!dir.path().join("new").exists(), "{args:?}");
    };
    refused(&["--sizes", "12"], &["--sizes", "12", "multiples of 8"]);
    refused(&["--ops", "shove"], &["--ops", "shove", "it takes put, get, brw-write, brw-read, ping"]);
    refused(&["--concurrency", "65"], &["--concurrency", "65", "from 1 to 64"]);
    refused(&["--seconds", "30"], &["the set takes about", "more than --at-most 300", "--rounds"]);
    refused(&["--lcores", "3"], &["--lcores", "--peer", "--link-lcores"]);
    refused(&["--against", &old], &["--against", "old.json", "No such file"]);
    std::fs::write(&old, "{\"report\": \"pollnd bench report\",\n \"version\": 9}").unwrap();
    refused(&["--against", &old], &["old.json: it is of version 9, and this pollnd reads version 1"]);
    std::fs::write(&old, "{\"report\": \"pollnd bench report\",\n \"version\": }").unwrap();
    refused(&["--against", &old], &["old.json: line 2, column 13: expected value; give a JSON file"]);
    run(&["bench", "report", "--quick"]).failed(2, &["nowhere to write to", "--output DIR"]);
    run(&["bench", "report", "--quick", "--json", "/no/such/x"]).failed(2, &["/no/such/x: No such file"]);
}

/// Against a `pollnd node`: all of it is served, and no session is left behind. Ctrl-C ends it, and nothing is written.
#[test]
fn a_benchmark_report_against_a_node_elsewhere() {
    let test = "a_benchmark_report_against_a_node_elsewhere";
    if !can(test) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("a.json");
    let (a, b) = (own_ip(), own_ip());
    let up = node(b, &[]);
    let (here, there) = (nid(a), nid(b));
    let args =
        ["bench", "report", "--quick", "--peer", &there, "--nid", &here, "--json", json.to_str().unwrap()];
    let end = run(&args).good();
    assert!(!end.out.contains("left out"), "{end:?}");
    // Nobody looked at the peer's memory.
    let end = end.says(&["no operation failed, and all of this side's memory came home"]);
    assert!(!end.out.contains("every message once"), "{end:?}");
    let v: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    let points = v["points"].as_array().unwrap();
    assert!(points.len() == 18 && points.iter().all(|p| p["side"]["carrier"] == "peer"), "{v}");
    assert!(points.iter().all(|p| p["figures"]["p50_us"]["median"].as_f64() > Some(0.0)), "{v}");
    let quick = ["selftest", "quick", "--from", &here, "--to", &there, "--seconds", "1", "--size", "4k"];
    run(&quick).good().says(&["errors: 0"]);
    std::fs::remove_file(&json).unwrap();
    // In the middle of BRW, and before anything else: the peer is in nobody's session afterwards.
    let id = up.id().to_string();
    let taken = || {
        let v = run(&["stats", "--json", "--node", &id]).good().json();
        v["lcores"][0]["counters"]["payload_rx_bytes"].as_u64().unwrap()
    };
    let before = taken();
    let bulk =
        ["--seconds", "60", "--at-most", "600", "--ops", "brw-write", "--sizes", "1M", "--concurrency", "8"];
    let long = start(&[&args[..], &bulk[..]].concat());
    proc::eventually("bulk of lnet_selftest", || taken() > before + (32 << 20));
    long.signal(Signal::INT);
    let end = long.end();
    assert!(!end.status.success() && !json.exists(), "{end:?}");
    assert!(end.err.contains("ending the session") && !end.err.contains("may be there still"), "{end:?}");
    let third = nid(own_ip());
    let quick = ["selftest", "quick", "--from", &third, "--to", &there, "--seconds", "1", "--size", "4k"];
    run(&quick).good().says(&["errors: 0"]);
    up.stop().good();
}
