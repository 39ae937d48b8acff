//! Looking at nodes that run on kernel sockets: `pollnd connections`, `stats`, `capture`, and the control socket.

#![allow(missing_docs)]

#[allow(dead_code)]
mod proc;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proc::{Place, Proc, eventually, nid, own_ip, pollnd};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};
use serde_json::Value;

const PORT: [&str; 2] = ["--accept-port", "10988"];

impl Place {
    fn node(&self, ip: Ipv4Addr) -> Proc {
        self.start(&[&["node", "--nid", &nid(ip)], &PORT[..]].concat()).up()
    }

    /// Pings once a second for a long time; it has had an answer.
    fn ping(&self, from: Ipv4Addr, to: Ipv4Addr) -> Proc {
        let mut p = self.start(&[&["ping", &nid(to), "--nid", &nid(from), "-c", "1000"], &PORT[..]].concat());
        p.until("an answer", |out, _| out.contains("time "));
        p
    }

    fn sockets(&self) -> Vec<PathBuf> {
        let all = std::fs::read_dir(self.0.path().join("pollnd"));
        let all = all.into_iter().flatten().map(|e| e.unwrap().path());
        all.filter(|p| p.extension().is_some_and(|x| x == "sock")).collect()
    }

    fn socket(&self, p: &Proc) -> PathBuf {
        self.0.path().join("pollnd").join(format!("{}.sock", p.id()))
    }

    fn connections(&self, p: &Proc, more: &[&str]) -> Vec<Value> {
        let node = p.id().to_string();
        let v = self.run(&[&["connections", "--json", "--node", &node], more].concat()).good().json();
        v["connections"].as_array().unwrap().clone()
    }
}

fn n(v: &Value, k: &str) -> u64 {
    v[k].as_u64().unwrap_or_else(|| panic!("no {k} in {v}"))
}

#[test]
fn both_ends_show_the_same_connections() {
    let (at, a, b) = (Place::new(), own_ip(), own_ip());
    let node = at.node(b);
    let ping = at.ping(a, b);
    // Between two pings nothing is on its way; then the ends agree. The kernel counts the SYN as acknowledged.
    let agree = || {
        let (ours, theirs) = (at.connections(&ping, &[]), at.connections(&node, &[]));
        let same = ours.iter().all(|x| {
            let y = theirs.iter().find(|y| y["local"] == x["remote"] && y["remote"] == x["local"]);
            y.is_some_and(|y| {
                n(y, "bytes_received") + 1 == n(x, "bytes_acked")
                    && n(y, "bytes_acked") == n(x, "bytes_received")
            })
        });
        (same && !ours.is_empty() && ours.len() == theirs.len()).then_some((ours, theirs))
    };
    let end = Instant::now() + Duration::from_secs(60);
    let (ours, theirs) = loop {
        if let Some(both) = agree() {
            break both;
        }
        assert!(Instant::now() < end, "{:?}\n{:?}", at.connections(&ping, &[]), at.connections(&node, &[]));
    };
    for (rows, ip, passive) in [(&ours, b, false), (&theirs, a, true)] {
        for r in rows {
            assert_eq!(
                (r["state"].as_str(), r["passive"].as_bool()),
                (Some("ESTABLISHED"), Some(passive)),
                "{r}"
            );
            assert!(r["remote"].as_str().unwrap().starts_with(&format!("{ip}:")), "{r}");
            assert!(n(r, "cwnd") > 0 && n(r, "mss") > 500 && n(r, "pmtu") > n(r, "mss"), "{r}");
            assert!(n(r, "rto_ns") >= 1_000_000 && n(r, "srtt_ns") > 0 && n(r, "rcv_wnd") > 0, "{r}");
            assert!(r["algorithm"].as_str().is_some_and(|a| !a.is_empty()), "{r}");
            assert_eq!((n(r, "backlog"), n(r, "in_flight"), n(r, "lcore")), (0, 0, 0), "{r}");
        }
    }
    let text = at.run(&["connections", "--node", &node.id().to_string()]).good();
    assert_eq!(text.out.lines().count(), 1 + 2 * theirs.len(), "{text:?}");
    text.says(&["ESTABLISHED", "cwnd:", "rtt:", "bytes_acked:", &a.to_string()]);
    ping.stop();
    node.stop().good();
}

#[test]
fn connections_are_chosen_by_peer_port_and_state() {
    let (at, a, b) = (Place::new(), own_ip(), own_ip());
    let node = at.node(b);
    let ping = at.ping(a, b);
    let all = at.connections(&node, &[]);
    assert!(!all.is_empty());
    let count = |filter: &str| at.connections(&node, &[filter]).len();
    assert_eq!((count(&a.to_string()), count(&own_ip().to_string())), (all.len(), 0));
    assert_eq!(count(all[0]["remote"].as_str().unwrap()), 1);
    assert_eq!(count(&format!("{a}:9")), 0);
    assert_eq!((count("established"), count("SYN-SENT")), (all.len(), 0));
    let e = at.run(&["connections", "nonsense"]);
    e.failed(2, &["nonsense", "10.0.0.2:1023", "ESTABLISHED"]);
    // Again and again, until it is told to end or the node does.
    let mut watch = at.start(&["connections", "--node", &node.id().to_string(), "-w", "0.1"]);
    watch.until("a third look", |out, _| out.matches("Recv-Q").count() >= 3);
    ping.stop();
    node.stop().good();
    watch.end().failed(1, &["has ended"]);
}

#[test]
fn stats_tell_how_busy_the_lcore_is() {
    let (at, a, b) = (Place::new(), own_ip(), own_ip());
    let node = at.node(b);
    let id = node.id().to_string();
    at.run(&[&["put", &nid(b), "--nid", &nid(a), "-c", "50"], &PORT[..]].concat()).good();
    let v = at.run(&["stats", "--json", "--node", &id]).good().json();
    let [l] = &v["lcores"].as_array().unwrap()[..] else { panic!("{v}") };
    assert_eq!((n(l, "lcore"), n(&l["counters"], "rx_lent_bytes")), (0, 50 << 20), "{v}");
    let (busy, idle) = (n(l, "busy_ns"), n(l, "idle_ns"));
    assert!(busy > 0 && idle > 0 && n(l, "busy_turns") > 0 && n(l, "idle_turns") > 0, "{v}");
    let ratio = busy as f64 / (busy + idle) as f64;
    assert!((l["busy"].as_f64().unwrap() - ratio).abs() < 1e-6, "{v}");
    at.run(&["stats", "--all", "--node", &id]).good().says(&["busy", "rx_lent_bytes 52428800"]);
    node.stop().good();
}

#[test]
fn a_capture_on_kernel_sockets_is_refused_with_the_tool_for_it() {
    let (at, b) = (Place::new(), own_ip());
    let node = at.node(b);
    let out = at.0.path().join("x.pcap");
    let out = out.to_str().unwrap();
    let e = at.run(&["capture", "--peer", "10.0.0.2", "--out", out]);
    e.failed(1, &["kernel sockets", "tcpdump -i any", "host 10.0.0.2"]);
    assert!(!Path::new(out).exists());
    node.stop().good();
}

#[test]
fn which_node_is_asked_is_clear_or_said() {
    let (at, a, b) = (Place::new(), own_ip(), own_ip());
    let none =
        at.run(&["connections"]).failed(1, &["no node runs", "pollnd node", at.0.path().to_str().unwrap()]);
    assert!(none.out.is_empty(), "{none:?}");
    let one = at.node(a);
    at.run(&["stats"]).good();
    let two = at.node(b);
    at.run(&["stats"])
        .failed(1, &["2 nodes run", &one.id().to_string(), &two.id().to_string(), &nid(a), &nid(b)]);
    at.run(&["stats", "--node", &two.id().to_string()]).good();
    let path = at.socket(&one).display().to_string();
    at.run(&["stats", "--node", &path]).good();
    at.run(&["stats", "--node", "1"]).failed(1, &["process number 1"]);
    at.run(&["stats", "--node", "/no/such.sock"]).failed(1, &["/no/such.sock", "control socket"]);
    // One that is killed leaves its socket; whoever comes next clears it away.
    one.kill();
    assert!(Path::new(&path).exists());
    at.run(&["stats"]).good();
    assert!(!Path::new(&path).exists());
    two.stop().good();
    assert!(at.sockets().is_empty(), "one that ends removes its own");
}

#[test]
fn the_control_socket_is_its_users_alone() {
    let (at, a) = (Place::new(), own_ip());
    let node = at.node(a);
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    let socket = at.socket(&node);
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    node.stop().good();
    // A folder that others may write to is not used; the node runs all the same, with a socket elsewhere or none.
    std::fs::set_permissions(at.0.path().join("pollnd"), PermissionsExt::from_mode(0o777)).unwrap();
    let node = at.node(own_ip());
    assert!(at.sockets().is_empty());
    node.stop().good();
}

/// A tunable of a node, by `pollnd tunables NAME --json`.
fn tunable(at: &Place, p: &Proc, name: &str) -> Value {
    let v = at.run(&["tunables", name, "--json", "--node", &p.id().to_string()]).good().json();
    let [t] = &v["tunables"].as_array().unwrap()[..] else { panic!("{v}") };
    t.clone()
}

#[test]
fn tunables_are_shown_set_and_refused_by_the_kernels_names() {
    let (at, b) = (Place::new(), own_ip());
    let file = at.0.path().join("site.conf");
    std::fs::write(&file, "options ksocklnd credits=512 keepalive=77 tos=0x20\noptions lnet networks=tcp")
        .unwrap();
    let more = ["--options", file.to_str().unwrap(), "--tunable", "peer_credits=32", "--keepalive", "11"];
    let mut node = at.start(&[&["node", "--nid", &nid(b)], &PORT[..], &more].concat()).up();
    node.until("a word about networks", |_, err| {
        err.contains("line 2: networks=tcp is passed over: --nid names")
    });
    let value = |name: &str| n(&tunable(&at, &node, name), "value");
    assert_eq!(["credits", "peer_credits", "keepalive", "tos"].map(value), [512, 32, 11, 32]);
    assert_eq!((value("accept_port"), value("accept_port_bulk")), (10_988, 10_988));
    let t = tunable(&at, &node, "keepalive");
    assert_eq!(
        (n(&t, "default"), t["change"].as_str(), t["unit"].as_str()),
        (30, Some("rw"), Some("s")),
        "{t}"
    );
    at.run(&["tunables", "accept"]).good().says(&["accept ", "lnet", "ro", "secure, all, none, trust"]);

    // Set, seen by whoever looks, and only that one.
    let all = |at: &Place| at.run(&["tunables"]).good().out;
    let before = all(&at);
    let set = ["tunables", "zc_min_payload=0x10000", "--json"];
    assert_eq!(n(&at.run(&set).good().json()["tunables"][0], "value"), 65_536);
    let differ: Vec<String> = {
        let after = all(&at);
        before.lines().zip(after.lines()).filter(|(x, y)| x != y).map(|(_, y)| y.to_owned()).collect()
    };
    assert!(differ.len() == 1 && differ[0].starts_with("zc_min_payload "), "{differ:?}");

    for (what, says) in [
        ("zc_min_payload=100", "zc_min_payload=100: it takes 2048 to 16777216 (bytes)"),
        (
            "credits=300",
            "credits=300: it is read at load time: start the node again with --tunable credits=300",
        ),
        ("nconnds=5", "nconnds=5: here it is always 4"),
        ("lnet_retry_count=200", "lnet_transaction_timeout=150 and lnet_retry_count=200"),
        ("nosuch=1", "nosuch is no tunable"),
        ("nosuch", "nosuch is no tunable"),
    ] {
        at.run(&["tunables", what]).failed(1, &[says]);
    }
    assert_eq!(["zc_min_payload", "credits", "lnet_retry_count"].map(value), [65_536, 512, 2]);
    node.stop().good();
}

/// `pollnd fault`, with the options and texts of `lnetctl fault` (docs/protocol/upper.md §6).
#[test]
fn fault_rules_drop_fail_and_delay_messages_of_a_node_that_runs() {
    let (at, a, b) = (Place::new(), own_ip(), own_ip());
    let node = at.node(a);
    let other = at.start(&[&["node", "--nid", &nid(b)], &PORT[..]].concat()).up();
    let id = node.id().to_string();
    let fault = |args: &[&str]| at.run(&[&["fault"], args, &["--node", &id]].concat());
    let all = ["--source", "*@tcp", "--dest", "*@tcp"];
    let ping = |timeout: &str| at.run(&["ping", &nid(b), "--node", &id, "--timeout", timeout]);
    ping("10").good();
    // What it sends fails at once.
    let fails = ["--rate", "1", "--message", "GET", "--health_error", "local_timeout"];
    fault(&[&["drop", "add"], &all[..], &fails].concat()).good();
    ping("10").failed(1, &[]);
    let listed = fault(&["drop", "list"]).good();
    let line =
        "255.255.255.255@tcp->255.255.255.255@tcp (1/1 | 0) ptl 0, msg 4, 1/1, PUT 0, ACK 0, GET 1, REP 0";
    assert_eq!(listed.out, format!("{line}\nfound total 1\n"));
    let json = fault(&["drop", "list", "--json"]).good().json();
    assert_eq!((n(&json["rules"][0], "hit"), n(&json["rules"][0], "get")), (1, 1));
    fault(&["drop", "reset"]).good();
    fault(&["drop", "list"]).good().says(&["0/0"]);
    fault(&[&["drop", "del"], &all[..]].concat()).good();
    fault(&[&["drop", "del"], &all[..]].concat()).failed(1, &["no drop rule"]);
    ping("10").good();
    // What it receives is lost, or comes late.
    fault(&[&["drop", "add"], &all[..], &["--rate", "1", "--message", "REPLY"]].concat()).good();
    ping("0.5").failed(1, &[]);
    fault(&["drop", "del", "--all"]).good();
    fault(&[&["delay", "add"], &all[..], &["--rate", "1", "--message", "REPLY", "--latency", "1"]].concat())
        .good();
    ping("20").good();
    fault(&["delay", "show"]).good().says(&["(1/1 | 0, latency 1)", "found total 1"]);
    fault(&["drop", "list"]).good().says(&["found total 0"]);
    fault(&["delay", "del", "--all"]).good();
    // A rule that is deleted lets go what it delays, sent and received.
    for message in ["GET", "REPLY"] {
        let late = ["--rate", "1", "--message", message, "--latency", "1000"];
        fault(&[&["delay", "add"], &all[..], &late].concat()).good();
        let mut waits = at.start(&["ping", &nid(b), "--node", &id, "--timeout", "40"]);
        eventually("a message that is delayed", || {
            fault(&["delay", "list", "--json"]).good().json()["rules"][0]["hit"].as_u64() == Some(1)
        });
        assert!(waits.runs());
        fault(&[&["delay", "del"], &all[..]].concat()).good();
        waits.end().good();
    }
    for (args, says) in [
        (
            &["--rate", "1", "--interval", "2"][..],
            "please provide either drop rate or interval but not both at the same time.",
        ),
        (&[], "please provide either drop rate or interval"),
        (&["--rate", "1", "--message", "FOO"], "unknown message type FOO\nit is one of ACK, PUT, GET, REPLY"),
        (&["--rate", "1", "--health_error", "foo"], "unknown health error foo"),
    ] {
        fault(&[&["drop", "add"], &all[..], args].concat()).failed(1, &[says]);
    }
    other.stop().good();
    node.stop().good();
}

/// Commands to a peer that takes nothing are killed, one after the other: those to another find a seat, and what was left is counted.
#[test]
fn killed_commands_to_one_peer_leave_seats_to_others() {
    let at = Place::new();
    let [a, b, c] = [(); 3].map(|()| own_ip());
    let node = at.start(&[&["node", "--nid", &nid(a), "--peer-credits", "32"], &PORT[..]].concat()).up();
    let others = [b, c].map(|ip| at.start(&[&["node", "--nid", &nid(ip)], &PORT[..]].concat()).up());
    let id = node.id().to_string();
    let put = |to: Ipv4Addr, n: &str| {
        at.start(&["put", &nid(to), "-c", n, "-s", "1M", "--timeout", "60", "--node", &id])
    };
    for ip in [b, c] {
        put(ip, "1").end().good();
    }
    let left = || -> (u64, u64) {
        let v = at.run(&["stats", "--all", "--json", "--node", &id]).good().json();
        let of = |k: &str| n(&v["lcores"][0]["counters"], k);
        (of("guests_left_ops"), of("guests_left_bytes"))
    };
    assert_eq!(left(), (0, 0));
    others[0].signal(Signal::STOP);
    // More than there is room for.
    for round in 0..8 {
        let before = left().0;
        let mut killed = put(b, "100000");
        std::thread::sleep(Duration::from_millis(500));
        if killed.runs() {
            killed.kill();
            eventually("the guest has left", || left().0 > before);
        }
        println!("{round}: {:?} left", left());
    }
    let (ops, bytes) = left();
    assert!((1..=160).contains(&ops) && bytes == ops << 20, "{ops} operations, {bytes} bytes");
    put(b, "1").end().failed(1, &["that earlier commands through this node gave up"]);
    at.run(&["ping", &nid(c), "--node", &id]).good();
    put(c, "4").end().good();
    others[0].signal(Signal::CONT);
    eventually("what was left has come to its end", || left() == (0, 0));
    others.into_iter().for_each(|o| drop(o.stop()));
    node.stop().good();
}

#[test]
fn defaults_need_no_node() {
    let at = Place::new();
    let v = at.run(&["tunables", "--defaults", "--json"]).good().json();
    let all = v["tunables"].as_array().unwrap();
    assert!(
        all.len() > 40 && all.iter().all(|t| t["value"] == t["default"] && t["about"].is_string()),
        "{v}"
    );
    at.run(&["tunables", "tos", "--defaults"]).good().says(&["tos", "-1", "-1 to 255 (byte)", "default -1"]);
    at.run(&["tunables", "tos=8", "--defaults"]).failed(1, &["--defaults asks no node"]);
    at.run(&["tunables"]).failed(1, &["no node runs"]);
}

#[test]
fn control_connections_and_the_others_have_a_port_each() {
    let (at, a, b) = (Place::new(), own_ip(), own_ip());
    let ports = ["--tunable", "accept_port=10988", "--tunable", "accept_port_bulk=10989"];
    let node = at.start(&[&["node", "--nid", &nid(b)], &ports[..]].concat());
    let node = node.up();
    let mut ping = at.start(&[&["ping", &nid(b), "--nid", &nid(a), "-c", "1000"], &ports[..]].concat());
    ping.until("an answer", |out, _| out.contains("time "));
    let end = Instant::now() + Duration::from_secs(60);
    while at.connections(&node, &[]).len() < 3 {
        assert!(Instant::now() < end, "{:?}", at.connections(&node, &[]));
    }
    let mut ours: Vec<String> =
        at.connections(&node, &[]).iter().map(|c| c["local"].as_str().unwrap().to_owned()).collect();
    ours.sort_unstable();
    assert_eq!(ours, [format!("{b}:10988"), format!("{b}:10989"), format!("{b}:10989")]);
    ping.stop();
    node.stop().good();
}

#[test]
fn a_node_that_accepts_nobody_does_not_listen() {
    let (at, a) = (Place::new(), own_ip());
    let node = at.start(&[&["node", "--nid", &nid(a), "--accept", "none"], &PORT[..]].concat()).up();
    let refused = std::net::TcpStream::connect((a, 10_988)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    node.stop().good().says(&["is up on kernel sockets, not listening"]);
}

/// One line to the socket, and the line that answers.
fn say(s: &mut UnixStream, line: &str) -> Value {
    s.write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(s).read_line(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer:?}"))
}

#[test]
fn askers_that_talk_nonsense_or_do_not_listen_hold_up_nobody() {
    let (at, a, b) = (Place::new(), own_ip(), own_ip());
    let node = at.node(b);
    let ping = at.ping(a, b);
    let path = at.socket(&node);
    let connect = || {
        let s = UnixStream::connect(&path).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        s
    };
    let mut s = connect();
    for (line, says) in [
        ("nonsense\n", "not a request"),
        ("{\"do\":\"dance\"}\n", "dance"),
        ("{\"do\":\"connections\",\"state\":\"x\"}\n", "ESTABLISHED"),
        ("\u{0}\n", "not a request"),
    ] {
        let v = say(&mut s, line);
        assert!(v["error"].as_str().is_some_and(|e| e.contains(says)), "{line}: {v}");
    }
    assert_eq!(say(&mut s, "{\"do\":\"hello\"}\n")["nid"].as_str(), Some(&nid(b)[..]));
    let v = say(&mut connect(), &"x".repeat(2_129_921));
    assert!(v["error"].as_str().is_some_and(|e| e.contains("2129920 bytes")), "{v}");
    // One that asks and asks, and never reads: the pipe fills, and only its own answers wait.
    let mut deaf = connect();
    deaf.set_nonblocking(true).unwrap();
    let question = "{\"do\":\"connections\"}\n".repeat(200);
    while deaf.write(question.as_bytes()).is_ok_and(|k| k == question.len()) {}
    assert!(!at.connections(&node, &[]).is_empty());
    // Those who are silent, whether they have never asked, or half, or have their answer, make room for those who ask.
    let crowd: Vec<_> = (0..60)
        .map(|n| {
            let mut s = connect();
            let said: &[u8] = [&b""[..], b"{\"do\":", b"{\"do\":\"hello\"}\n"][n % 3];
            // The first ones may be cut off already.
            let _ = s.write_all(said);
            s
        })
        .collect();
    for _ in 0..10 {
        at.run(&["stats", "--node", &path.display().to_string()]).good();
    }
    drop(crowd);
    drop(deaf);
    ping.stop();
    node.stop().good();
}

/// The node cut off the seventeenth last of those who had come, though none of them had been heard yet.
#[test]
fn many_who_ask_at_once_are_all_answered() {
    let (at, b) = (Place::new(), own_ip());
    let node = at.node(b);
    let path = at.socket(&node);
    let mut crowd: Vec<_> = (0..60).map(|_| UnixStream::connect(&path).unwrap()).collect();
    for s in &mut crowd {
        s.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        s.write_all(b"{\"do\":\"hello\"}\n").unwrap();
    }
    for mut s in crowd {
        assert_eq!(say(&mut s, "")["nid"].as_str(), Some(&nid(b)[..]));
    }
    node.stop().good();
}

/// One that has asked for more than it reads, and reads a little now and then: the node ends all the same, and says no more.
#[test]
fn an_asker_that_reads_slowly_does_not_hold_up_the_end() {
    const QUESTIONS: usize = 1000;
    let (at, b) = (Place::new(), own_ip());
    let node = at.node(b);
    let mut slow = UnixStream::connect(at.socket(&node)).unwrap();
    slow.write_all("{\"do\":\"tunables\",\"name\":null}\n".repeat(QUESTIONS).as_bytes()).unwrap();
    let reader = std::thread::spawn(move || {
        let (mut all, mut some) = (Vec::new(), vec![0; 16 << 10]);
        while let Ok(n @ 1..) = slow.read(&mut some) {
            all.extend_from_slice(&some[..n]);
            std::thread::sleep(Duration::from_millis(20));
        }
        String::from_utf8_lossy(&all).matches("\"end\"").count()
    });
    node.stop().good();
    let answers = reader.join().unwrap();
    assert!(answers < QUESTIONS, "the node has waited for its reader");
}

/// Field report 21: where a socket's path would be too long, the next folder has it, and it is said.
#[test]
fn a_run_folder_with_too_long_a_path_is_not_the_only_one() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("x".repeat(120));
    std::fs::create_dir(&long).unwrap();
    let start = |args: &[&str]| {
        let mut c = pollnd(args);
        c.env("XDG_RUNTIME_DIR", &long);
        Proc::start(c)
    };
    let ip = own_ip();
    let up = start(&[&["node", "--nid", &nid(ip)], &PORT[..]].concat()).up();
    let pid = up.id().to_string();
    start(&["stats", "--node", &pid]).end().good().says(&["busy"]);
    let end = up.stop().good();
    end.tells(&[
        &long.display().to_string(),
        "at most 94",
        "the control socket is in",
        "set XDG_RUNTIME_DIR to a shorter path",
    ]);
    assert!(!long.join("pollnd").exists());
}

/// A terminal, and `pollnd top` at it.
struct AtTerminal {
    child: Child,
    /// The user's end.
    user: File,
    /// The program's end, which stays open when it has left.
    there: File,
    before: Termios,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl AtTerminal {
    fn top(at: &Place, args: &[&str]) -> AtTerminal {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let path = ptsname(&user, Vec::new()).unwrap();
        // A test program that leads a session has no terminal, and would have this one: its end would be the program's, too.
        let mut options = File::options();
        let options = options.read(true).write(true).custom_flags(libc::O_NOCTTY);
        let there = options.open(path.to_str().unwrap()).unwrap();
        // In a session without a controlling terminal: /dev/tty would be whichever the tests run at.
        let mut c = Command::new("setsid");
        c.arg(env!("CARGO_BIN_EXE_pollnd")).arg("top").args(args);
        let end = || there.try_clone().unwrap();
        c.env("XDG_RUNTIME_DIR", at.0.path()).env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end());
        let before = tcgetattr(&there).unwrap();
        let size = |cols, rows| Winsize { ws_col: cols, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&there, size(100, 30)).unwrap();
        let child = c.spawn().unwrap();
        let (user, shown) = (File::from(user), Arc::<Mutex<Vec<u8>>>::default());
        let (mut from, to) = (user.try_clone().unwrap(), shown.clone());
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut some) {
                to.lock().unwrap().extend_from_slice(&some[..n]);
            }
        });
        AtTerminal { child, user, there, before, shown }
    }

    /// Another size, and all of it drawn again.
    fn resize(&self, cols: u16, rows: u16) {
        self.shown.lock().unwrap().clear();
        tcsetwinsize(&self.there, Winsize { ws_col: cols, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 })
            .unwrap();
        self.signal(Signal::WINCH);
    }

    fn signal(&self, s: Signal) {
        kill_process(Pid::from_raw(self.child.id().cast_signed()).unwrap(), s).unwrap();
    }

    fn shows(&self, what: &str) {
        eventually(what, || String::from_utf8_lossy(&self.shown.lock().unwrap()).contains(what));
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.there).unwrap()
    }

    /// Its end; the terminal is as it was.
    fn end(mut self) -> ExitStatus {
        let mut status = None;
        eventually("end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let (was, is) = (&self.before, self.modes());
        assert_eq!((was.input_modes, was.output_modes), (is.input_modes, is.output_modes));
        assert_eq!((was.local_modes, was.control_modes), (is.local_modes, is.control_modes));
        // The screen that was there before is back, and so is the cursor.
        self.shows("\u{1b}[?1049l");
        self.shows("\u{1b}[?25h");
        status.unwrap()
    }
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn top_shows_a_node_and_leaves_the_terminal_as_it_was() {
    let (at, a, b) = (Place::new(), own_ip(), own_ip());
    at.run(&["top"]).failed(2, &["no terminal", "--once"]);
    at.run(&["top", "--once"]).failed(1, &["no node runs"]);
    let node = at.node(b);
    let id = node.id().to_string();
    let ping = at.ping(a, b);
    // As text: of what pings once a second, and of what it pings.
    let once = |p: &Proc, seconds| {
        let id = p.id().to_string();
        at.run(&["top", "--once", "-i", seconds, "--node", &id, "--width", "150"]).good()
    };
    let pings = format!("process {}", ping.id());
    once(&ping, "1.2").says(&[&nid(a), &pings, "ping ", "p99", "control", "connections: ", &b.to_string()]);
    let text = once(&node, "0.1").says(&[&nid(b), "kernel sockets", &nid(a), "errors 0", "0/256"]);
    assert!(text.out.lines().all(|l| l.chars().count() <= 150), "{text:?}");

    let mut top = AtTerminal::top(&at, &["-i", "0.1", "--node", &id]);
    for what in ["\u{1b}[?1049h", &nid(b), &id, &nid(a)] {
        top.shows(what);
    }
    assert!(!top.modes().local_modes.contains(LocalModes::ICANON), "keys are heard one by one");
    top.resize(20, 5);
    top.shows("small");
    top.resize(120, 40);
    top.shows("control");
    // It waits for a node that was killed, and goes on with the next of its NID.
    node.kill();
    top.shows("waiting");
    let node = at.node(b);
    let mut wide = [100, 101].into_iter().cycle();
    eventually("node that has come back", || {
        // All of it is drawn again at another size alone.
        top.resize(wide.next().unwrap(), 30);
        std::thread::sleep(Duration::from_millis(100));
        String::from_utf8_lossy(&top.shown.lock().unwrap()).contains(&node.id().to_string())
    });
    top.user.write_all(b"q").unwrap();
    assert_eq!(top.end().code(), Some(0));

    let mut top = AtTerminal::top(&at, &["--node", &node.id().to_string()]);
    top.shows(&nid(b));
    top.user.write_all(b"\x03").unwrap();
    assert_eq!(top.end().code(), Some(0));
    let top = AtTerminal::top(&at, &["--node", &node.id().to_string()]);
    top.shows(&nid(b));
    top.signal(Signal::TERM);
    assert_eq!(top.end().signal(), Some(15));
    ping.stop();
    node.stop().good();
}
