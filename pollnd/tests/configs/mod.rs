//! Nodes by configuration files, and changes to them while they run.

use std::cell::Cell;

use rustix::process::Signal;

use crate::endless;
use crate::proc::{End, Proc, can, eventually, nid, own_ip, run, start};

/// A file of a configuration, with its path.
fn config(dir: &tempfile::TempDir, text: &str) -> String {
    let path = dir.path().join("pollnd.yaml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Its node, up.
fn by_file(path: &str, more: &[&str]) -> Proc {
    start(&[&["node", "--config", path], more].concat()).up()
}

/// `pollnd config VERB...` of a node.
fn configure(p: &Proc, args: &[&str]) -> End {
    run(&[&["config"], args, &["--node", &p.id().to_string()]].concat())
}

#[test]
fn a_node_by_a_file_is_as_the_file_says_and_the_command_line_wins() {
    if !can("a_node_by_a_file_is_as_the_file_says_and_the_command_line_wins") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (own_ip(), own_ip());
    // The sample, for an address that this machine has.
    let sample = include_str!("../../../dist/pollnd.yaml").replace("10.0.0.1@tcp", &nid(a));
    let path = config(&dir, &sample);
    run(&["config", "check", &path]).good().says(&["good: 1 NI, 12 values"]);
    let shown = run(&["config", "show", &path]).good();
    let line = |name: &str| {
        let l = shown
            .out
            .lines()
            .find(|l| l.trim_start().starts_with(name))
            .unwrap_or_else(|| panic!("{name}: {shown:?}"));
        l.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("credits:"), format!("credits: 512 # {path}:13:24, at start"));
    assert_eq!(line("tos:"), "tos: -1 # default, at start");
    assert_eq!(line("numa_range:"), "numa_range: 0 # always so");
    let up = by_file(&path, &["--tunable", "credits=300", "--tunable", "keepalive=7"]);
    up.err_has(&[
        &format!("--tunable credits=300 of the command line wins over {path}:13:24: credits: 512"),
        "--tunable keepalive=7 of the command line wins",
    ]);
    run(&["ping", &nid(a), "--nid", &nid(b)]).good();
    let exported = configure(&up, &["export"]).good();
    for l in [
        "credits: 300",
        "peer_credits: 16",
        "conns_per_peer: 2",
        "keepalive: 7",
        "budget: 64",
        "accept: trust",
    ] {
        assert!(exported.out.lines().any(|x| x.trim() == l), "{l}: {exported:?}");
    }
    up.stop().good();
    // The export starts the same node.
    let path = config(&dir, &exported.out);
    let again = by_file(&path, &[]);
    assert_eq!(again.heard("pollnd.yaml"), 0);
    assert_eq!(configure(&again, &["export"]).good().out, exported.out);
    again.stop().good();
    // An NI by its interface, and beside it what a kernel's node prints of other things.
    let text = "net:\n- net type: tcp\n  local NI(s):\n  - interfaces: {0: lo}\nnode: {accept_port: 7988, accept: trust}\nudsp: []\n";
    let path = config(&dir, text);
    let lo = by_file(&path, &[]);
    lo.err_has(&["udsp is passed over: this node chooses NIDs by health, credits and turn alone"]);
    let end = lo.stop().good();
    assert!(end.out.starts_with("127.0.0.1@tcp is up on kernel sockets, ports 7988 and 988"), "{end:?}");
}

/// A file without the rule that delayed a message, by `config apply` and by `lnetctl import`: the message goes at once.
#[test]
fn a_file_that_drops_a_delay_lets_its_messages_go() {
    if !can("a_file_that_drops_a_delay_lets_its_messages_go") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (own_ip(), own_ip());
    let text = format!("net:\n- net type: tcp\n  local NI(s):\n  - nid: {}\n", nid(a));
    let late = "fault:\n  delay:\n  - {source: '*', dest: '*', rate: 1, latency: 1000, message: GET}\n";
    let path = config(&dir, &text);
    let up = by_file(&path, &[]);
    let id = up.id().to_string();
    // The file that it was started by, and one that is named.
    for named in [&[][..], &[path.as_str()]] {
        config(&dir, &format!("{text}{late}"));
        configure(&up, &["apply"]).good();
        let mut waits = start(&["ping", &nid(a), "--nid", &nid(b), "--timeout", "40"]);
        eventually("a message that is delayed", || {
            let listed = run(&["fault", "delay", "list", "--json", "--node", &id]).good().json();
            listed["rules"][0]["hit"].as_u64() == Some(1)
        });
        assert!(waits.runs());
        config(&dir, &text);
        configure(&up, &[&["apply"], named].concat()).good();
        waits.end().good();
    }
    up.stop().good();
}

#[test]
fn a_running_node_takes_a_file_whole_or_not_at_all_and_traffic_goes_on() {
    if !can("a_running_node_takes_a_file_whole_or_not_at_all_and_traffic_goes_on") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (own_ip(), own_ip());
    let text = |more: &str| format!("net:\n- net type: tcp\n  local NI(s):\n  - nid: {}\n{more}", nid(a));
    let path = config(&dir, &text(""));
    let mut up = by_file(&path, &[]);
    let put = endless(&nid(a), b);
    let mut ping = start(&["ping", &nid(a), "--nid", &nid(own_ip()), "-c", "100000", "-i", "0.01"]);
    ping.until("answers", |out, _| out.matches("time ").count() > 3);
    let id = up.id().to_string();
    let tuned = |name: &str| {
        let t = run(&["tunables", name, "--json", "--node", &id]).good().json();
        t["tunables"][0]["value"].as_i64().unwrap()
    };
    let ports = || {
        let c = run(&["connections", "--json", "--node", &id]).good().json();
        let mut all: Vec<String> =
            c["connections"].as_array().unwrap().iter().map(|c| c["remote"].to_string()).collect();
        all.sort();
        all
    };
    let before = ports();
    assert!(before.len() >= 4, "{before:?}");
    // By the command, by a signal, and back to the defaults.
    config(
        &dir,
        &text(
            "    lnd tunables: {keepalive: 9, zc_min_payload: 65536}\nglobal: {transaction_timeout: 3, retry_count: 1, discovery: 0}\nlog: {level: info}\n",
        ),
    );
    let done = configure(&up, &["apply"]).good();
    done.says(&[
        "keepalive: was 30, is 9",
        "lnet_transaction_timeout: was 150, is 3",
        "lnet_peer_discovery_disabled: was 0, is 1",
        "log: level: was warn, is info",
    ]);
    assert_eq!((tuned("keepalive"), tuned("zc_min_payload"), tuned("lnet_retry_count")), (9, 65_536, 1));
    configure(&up, &["apply"]).good().says(&["nothing is other"]);
    config(&dir, &text("    lnd tunables: {keepalive: 11}\nlog: {level: info}\n"));
    up.signal(Signal::HUP);
    up.until("the signal's effect", |_, err| err.contains("keepalive: was 9, is 11"));
    assert_eq!(
        (tuned("keepalive"), tuned("zc_min_payload"), tuned("lnet_transaction_timeout")),
        (11, 16_384, 150)
    );
    // A value that needs a restart is named, and the rest has not happened.
    let refused = text("    lnd tunables: {keepalive: 12, tos: 8}\n    tunables: {credits: 99}\nnode: {selftest: false, accept: none}\n")
        .replace(&nid(a), &nid(own_ip()));
    let other = dir.path().join("other.yaml").display().to_string();
    std::fs::write(&other, refused).unwrap();
    configure(&up, &["apply", &other]).failed(
        1,
        &[
            "nothing was changed: this needs a restart",
            "tos: 8",
            "selftest: false",
            "accept: none",
            "runs with secure",
        ],
    );
    std::fs::write(&path, text("    lnd tunables: {keepalive: soon}\n    frobs: 1\n")).unwrap();
    configure(&up, &["apply"]).failed(
        2,
        &[
            "pollnd.yaml:5:31: keepalive: \"soon\" is none of its values",
            ":6:5: \"frobs\" is no key of an NI",
        ],
    );
    up.signal(Signal::HUP);
    up.until("the fault", |_, err| {
        err.contains("nothing was changed:\n") && err.contains("keepalive: \"soon\"")
    });
    assert_eq!(tuned("keepalive"), 11);
    assert_eq!(ports(), before, "no connection was lost, none made");
    // Messages went on all the time, and do.
    let answered = Cell::new(0);
    for _ in 0..2 {
        ping.until("one more answer", |out, _| out.matches("time ").count() > answered.get());
        ping.until("a count", |out, _| {
            answered.set(out.matches("time ").count());
            true
        });
    }
    ping.signal(Signal::INT);
    ping.end().says(&[" 0 lost"]);
    put.signal(Signal::INT);
    put.end().failed(1, &["interrupted", "of 10000000 messages"]);
    let end = up.stop().good().says(&["wrong 0"]);
    assert!(end.errors().is_empty(), "{end:?}");
    assert_eq!((end.counter("rx_lent_out"), end.counter("rx_pool_bytes_in_use")), (0, 0), "{end:?}");
}

/// Routes of a file of options, routing and buffers are as the files say after each change, and a running node takes them.
#[test]
fn a_router_is_one_by_its_file_and_ceases_to_be_one_by_it() {
    if !can("a_router_is_one_by_its_file_and_ceases_to_be_one_by_it") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (a, b, g) = (own_ip(), own_ip(), own_ip());
    let options = dir.path().join("lustre.conf");
    let optional = |routes: &str| {
        std::fs::write(&options, format!("options lnet routes=\"{routes}\"\n")).unwrap();
    };
    optional(&format!("tcp7 {g}@tcp"));
    let text = |more: &str| {
        format!(
            "net:\n- net type: tcp\n  local NI(s):\n  - nid: {a}@tcp\n- net type: tcp1\n  local NI(s):\n  - nid: {b}@tcp1\nnode: {{options: [{}]}}\n{more}",
            options.display()
        )
    };
    let path = config(&dir, &text("routing: {enable: 1}\nbuffers: {small: 100}\n"));
    let up = by_file(&path, &[]);
    let ctl = |args: &[&str]| run(&[&["lnetctl"], args, &["--node", &up.id().to_string()]].concat());
    let buffers = || ctl(&["routing", "show"]).good();
    let exports = |l: &str| configure(&up, &["export"]).good().out.lines().any(|x| x.trim() == l);
    buffers().says(&["nbuffers: 100"]);
    assert!(exports("forwarding: enabled") && exports("small_router_buffers: 100"));
    // A change of something else leaves the routes that there are.
    config(&dir, &text("routing: {enable: 1}\nbuffers: {small: 100}\nglobal: {discovery: 0}\n"));
    let done = configure(&up, &["apply"]).good();
    assert_eq!(done.out.lines().collect::<Vec<_>>(), ["lnet_peer_discovery_disabled: was 0, is 1"]);
    ctl(&["route", "show"]).good().says(&["net: tcp7"]);
    // By hand, and back by the file.
    ctl(&["set", "small_buffers", "200"]).good();
    buffers().says(&["nbuffers: 200"]);
    ctl(&["set", "routing", "0"]).good();
    assert!(exports("small_router_buffers: 200") && !exports("forwarding: enabled"));
    optional(&format!("tcp8 {g}@tcp"));
    let done = configure(&up, &["apply"]).good();
    done.says(&[
        "forwarding: was disabled, is enabled",
        "small_router_buffers: was 200, is 100",
        &format!("route: tcp7 {g}@tcp is gone"),
        &format!("route: tcp8 {g}@tcp is new"),
    ]);
    buffers().says(&["nbuffers: 100"]);
    ctl(&["route", "show", "--net", "tcp8"]).good().says(&["net: tcp8"]);
    ctl(&["route", "show", "--net", "eth8"]).failed(234, &["cannot parse net"]);
    // Whoever asks is told of all that is passed over.
    config(&dir, &text("routing: {enable: 0}\nudsp: []\n"));
    let done = configure(&up, &["apply"]).good();
    let done = done.says(&["forwarding: was enabled, is disabled"]);
    assert!(done.err.contains("udsp is passed over"), "{done:?}");
    assert!(!exports("forwarding: enabled"));
    // One that the node cannot have is none of a site's for it, and a fault in its own file.
    optional(&format!("tcp9 {g}@tcp; tcp10 {g}@tcp9"));
    configure(&up, &["apply"]).good();
    ctl(&["route", "show"]).good().says(&["net: tcp9"]);
    config(
        &dir,
        &text(&format!("route:\n- {{net: tcp9, gateway: {g}@tcp}}\n- {{net: tcp10, gateway: {g}@tcp9}}\n")),
    );
    configure(&up, &["apply"]).failed(2, &["is on none of this node's networks"]);
    ctl(&["route", "show"]).good().says(&["net: tcp9"]);
    up.stop().good();
}

#[test]
fn a_file_that_is_wrong_starts_nothing_and_is_told_whole() {
    let dir = tempfile::tempdir().unwrap();
    let at = |n: &str| dir.path().join(n).display().to_string();
    let both = |path: &str, says: &[&str]| {
        let a = run(&["config", "check", path]).failed(2, says);
        let b = run(&["node", "--config", path]).failed(2, says);
        assert_eq!(a.err, b.err);
        assert!(b.out.is_empty(), "{b:?}");
    };
    let path = config(&dir, include_str!("../../../testdata/config/bad.yaml"));
    both(&path, &[&format!("{path}:6:29: peer_timeout: \"60\""), &format!("{path}:41:1: \"metrics\"")]);
    assert_eq!(run(&["config", "check", &path]).err.lines().count(), 29);
    std::fs::write(&path, b"net:\n- net type: t\xfc\n").unwrap();
    both(&path, &[&format!("{path}:2:14: a byte that is not UTF-8")]);
    std::fs::File::create(at("long")).unwrap().set_len((1 << 20) + 1).unwrap();
    both(&at("long"), &["more than 1048576 bytes"]);
    both("/dev/zero", &["/dev/zero: it is no regular file"]);
    both("/dev/null", &["the file says nothing"]);
    both(&at("none"), &["No such file"]);
    // Values that are wrong together, of options and of addresses.
    let ni = "net: [{net type: tcp, local NI(s): [{nid: 10.0.0.1@tcp}]}]\n";
    let port = |more: &str| config(&dir, &format!("{ni}dpdk:\n  device: net_ring0\n{more}"));
    both(
        &port("  gateway: 10.0.1.254\n"),
        &["pollnd.yaml:4:12: gateway 10.0.1.254: it is outside of the network"],
    );
    both(&port("  eal: [-x\n"), &["no YAML"]);
    let twice = ni.replace("}]}]", "}, {nid: 10.0.0.1@tcp}]}]");
    both(&config(&dir, &twice), &["10.0.0.1@tcp stands here a second time"]);
    let none = config(&dir, "global: {discovery: 1}\n");
    run(&["node", "--config", &none]).failed(2, &["it names no NI", "--nid"]);
    run(&["config", "check", &none]).good().says(&["--nid has to name one"]);
    let far = config(&dir, "net: [{net type: tcp, local NI(s): [{interfaces: {0: none0}}]}]\n");
    both(&far, &["pollnd.yaml:1:37: interfaces: none0 is no interface of this machine"]);
    run(&["config", "export", "--node", &at("sock")]).failed(1, &["should be the control socket"]);
}
