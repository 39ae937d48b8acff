//! `pollnd selftest` as people use it: quick, scripts, verbs one at a time on a session that stays, and what is refused.

#![allow(missing_docs)]

#[allow(dead_code)]
mod proc;

use std::io::{Read, Seek, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use proc::{End, Proc, can, eventually, nid, node, own_ip, pollnd, run, start};
use rustix::process::Signal;

fn verb(key: &str, at: &str, words: &[&str]) -> End {
    let mut c: Command = pollnd(&[&["selftest", "--node", at], words].concat());
    c.env("LST_SESSION", key);
    Proc::start(c).end()
}

fn script(args: &[&str], lines: &str) -> End {
    let mut input = tempfile::tempfile().unwrap();
    input.write_all(lines.as_bytes()).unwrap();
    input.rewind().unwrap();
    let mut c = pollnd(&[&["selftest"], args].concat());
    c.stdin(input);
    Proc::reading(c).end()
}

/// The last of the JSON objects on its standard output.
fn last(end: &End) -> serde_json::Value {
    serde_json::from_str(end.out.lines().last().unwrap()).unwrap_or_else(|e| panic!("{e}: {end:#?}"))
}

#[test]
fn quick_measures_between_two_nodes_and_leaves_no_session() {
    if !can("quick_measures_between_two_nodes_and_leaves_no_session") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let (here, there) = (nid(a), nid(b));
    let far = node(b, &[]);
    let quick = |more: &[&str]| {
        run(&[&["selftest", "quick", "--from", &here, "--to", &there, "--seconds", "1"], more].concat())
    };
    // A node of its own, whose NID is that of --from.
    quick(&[]).good().says(&[
        "brw write of 1048576 bytes",
        "payload: ",
        "RPCs of this node",
        "p99.9",
        "CPU-seconds a GiB",
        "errors: 0",
    ]);
    quick(&["--ping"]).good().says(&["pings: ", "errors: 0"]);
    for more in [
        &["--read", "--size", "64k", "--check", "full"][..],
        &["--size", "4088", "--check", "simple", "--concurrency", "3"],
    ] {
        let end = quick(&[more, &["--json"]].concat()).good();
        let v = last(&end);
        let looks = end.out.lines().filter(|l| l.contains("\"group\""));
        assert!(
            looks.clone().count() > 1 && looks.clone().all(|l| !l.contains("\"rtt_us\":null")),
            "{end:?}"
        );
        assert!(v["payload_bytes_per_s"].as_f64().unwrap() > 0.0 && v["errors"] == 0, "{v}");
        assert!(v["own"]["rpcs"].as_u64().unwrap() > 0 && v["own"]["p99_us"].as_f64().unwrap() > 0.0, "{v}");
    }
    // Through a node that runs, which stays; the far one has no session left.
    let near = node(a, &[]);
    quick(&["--read"]).good().says(&["brw read", "errors: 0"]).tells(&["through the node of"]);
    let at = near.id().to_string();
    verb("5", &at, &["new_session", "s"]).good().says(&["SESSION: s FEATURES: 1 TIMEOUT: 300 FORCE: No"]);
    verb("5", &at, &["ping", "--nodes", &there]).good().says(&[&there, "Unknown [session: <NULL>"]);
    // Ctrl-C ends it in order.
    let mut long = start(&[
        "selftest",
        "quick",
        "--from",
        &here,
        "--to",
        &there,
        "--seconds",
        "600",
        "--force",
        "--json",
    ]);
    long.until("rates", |out, _| out.contains("\"group\":\"to\""));
    long.signal(Signal::INT);
    let end = long.end();
    assert_eq!(end.status.code(), Some(130), "{end:?}");
    assert!(end.err.contains("interrupted") && end.out.contains("payload_bytes_per_s"), "{end:?}");
    verb("6", &at, &["new_session", "t"]).good();
    verb("6", &at, &["ping", "--nodes", &there]).good().says(&["Unknown [session: <NULL>"]);
    drop((near, far));
    // Also before anything runs, while a member is waited for that says nothing. The status was 1.
    let silent = own_ip();
    let listener = std::net::TcpListener::bind((silent, 988)).unwrap();
    let early = start(&["selftest", "quick", "--from", &here, "--to", &nid(silent)]);
    let dialled = listener.accept().unwrap();
    early.signal(Signal::INT);
    let end = early.end();
    assert_eq!(end.status.code(), Some(130), "{end:?}");
    drop(dialled);
}

/// Members know of no end where the console was killed, or did not hear of them: they are that node's nevertheless.
#[test]
fn quick_takes_over_what_an_earlier_one_of_its_node_left() {
    if !can("quick_takes_over_what_an_earlier_one_of_its_node_left") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let (here, there) = (nid(a), nid(b));
    let far = node(b, &[]);
    let quick = ["selftest", "quick", "--from", &here, "--to", &there, "--json"];
    let mut killed = start(&[&quick[..], &["--seconds", "600"]].concat());
    killed.until("rates", |out, _| out.contains("\"group\":\"to\""));
    killed.kill();
    run(&[&quick[..], &["--seconds", "1"]].concat()).good();
    // Another node's is not taken unless asked for.
    let third = nid(own_ip());
    let mut killed =
        start(&["selftest", "quick", "--from", &third, "--to", &there, "--seconds", "600", "--json"]);
    killed.until("rates", |out, _| out.contains("\"group\":\"to\""));
    killed.kill();
    let refused = run(&[&quick[..], &["--seconds", "1"]].concat());
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = refused.out.clone() + &refused.err;
    let all =
        [&*format!("it is in session quick of {third}"), "--force, of new_session or of selftest quick"];
    assert!(all.iter().all(|w| said.contains(w)), "{refused:?}");
    run(&[&quick[..], &["--seconds", "1", "--force"]].concat()).good();
    far.stop().good();
}

#[test]
fn a_script_runs_to_its_end_and_its_session_goes_with_it() {
    if !can("a_script_runs_to_its_end_and_its_session_goes_with_it") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let (here, there) = (nid(a), nid(b));
    let far = node(b, &[]);
    let lines = format!(
        "# a session of two nodes\nnew_session two\nlst add_group c {here}\nlst add_group s {there}\nadd_batch b\n\
         add_test --batch b --loop 20 --concurrency 2 --from c --to s brw write check=full size=64k\n\
         add_test --batch b --loop 20 --from c --to s ping\nrun b\nstop b\nquery b --all\nlist_batch b\nshow_error c s\n\
         list_group s --all\nadd_test --batch b --from c --to s brw read size=4k off=8\nend_session\n"
    );
    let end = script(&[], &lines);
    assert_eq!(end.status.code(), Some(255), "the test that would stop a kernel: {end:?}");
    for says in [
        "SESSION: two",
        &format!("{there} are added to session"),
        "Test was added successfully",
        "b is running now",
        "Batch is stopped",
        &format!("12345-{here} [Active]: Idle"),
        "Batch: b Tests: 2 State: 176",
        "Total 0 error nodes in c",
        "Total 1 nodes [ s ]",
    ] {
        assert!(end.out.contains(says), "{says}: {end:?}");
    }
    assert!(end.err.contains("does not survive") && end.err.contains(":14: add_test"), "{end:?}");
    // The same as JSON: an object for each result, and one for the end of each verb.
    let end = script(
        &["--nid", &here, "--json"],
        &format!("new_session s\nadd_group g {there}\nlist_group g\nnosuch\n"),
    );
    assert_eq!(end.status.code(), Some(255));
    let lines: Vec<serde_json::Value> = end.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(lines.iter().any(|v| v["verb"] == "list_group" && v["counts"]["active"] == 1), "{lines:?}");
    assert!(lines.iter().any(|v| v["verb"] == "nosuch" && v["error"].is_string()), "{lines:?}");
    assert_eq!(lines.last().unwrap()["status"], 255);
    // From a file; members that nobody is at.
    let nobody = nid(own_ip());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("script");
    std::fs::File::create(&file)
        .unwrap()
        .write_all(format!("new_session s\nadd_group g {nobody}\nexit\nnosuch\n").as_bytes())
        .unwrap();
    let end = run(&["selftest", "--nid", &here, "-f", file.to_str().unwrap()]);
    assert_eq!(end.status.code(), Some(254), "{end:?}");
    let says = format!("create session RPC failed on 12345-{nobody}: Connection refused");
    assert!(end.err.contains(&says), "{end:?}");
    assert!(end.out.contains("Group is deleted"), "{end:?}");
    drop(far);
}

#[test]
fn a_session_stays_in_a_running_node_and_is_found_by_its_key() {
    if !can("a_session_stays_in_a_running_node_and_is_found_by_its_key") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let (near, far) = (node(a, &[]), node(b, &[]));
    let at = near.id().to_string();
    let v = |words: &[&str]| verb("80", &at, words);
    v(&["new_session", "--timeout", "100", "full"]).good();
    v(&["show_session"]).good().says(&["full ID: ", &nid(a), "KEY: 80 FEATURES: 1 NODES: 0"]);
    v(&["add_group", "g", &format!("{} {}", nid(a), nid(b))]).good();
    v(&["list_group"]).good().says(&["1) g", "Total 1 groups"]);
    v(&["add_test", "--from", "g", "--to", "g", "--loop", "-1", "ping"]).good();
    v(&["run"]).good().says(&["batch is running now"]);
    v(&["query"]).good().says(&["batch [0] is running"]);
    // One shell watches, others go on; Ctrl-C ends the watching alone.
    let mut c = pollnd(&["selftest", "--node", &at, "stat", "--delay", "1", "g"]);
    c.env("LST_SESSION", "80");
    let mut watching = Proc::start(c);
    watching.until("a look", |out, _| out.contains("[LNet Rates of g]"));
    v(&["query"]).good().says(&["batch [0] is running"]);
    watching.signal(Signal::INT);
    assert!(watching.end().status.success());
    v(&["stat", "--delay", "1", "--count", "1", "--rate", "g"])
        .good()
        .says(&["[LNet Rates of g]", "[R] Avg: "]);
    let end = verb("81", &at, &["list_group"]);
    assert_eq!(end.status.code(), Some(255));
    assert!(end.err.contains("has key 80, and LST_SESSION says 81"), "{end:?}");
    v(&["stop"]).good().says(&["Batch is stopped"]);
    v(&["end_session"]).good();
    assert_eq!(v(&["list_group"]).status.code(), Some(234), "as lst");
    v(&["end_session"]).good();
    drop((near, far));
}

/// lst's meaning, a clear sentence, lst's exit status; none of these takes a node.
#[test]
fn what_is_wrong_is_said_without_a_node() {
    for (words, status, says) in [
        (
            &["selftest", "frobnicate"][..],
            255,
            "lst: 'frobnicate' is not a valid command. See 'lst --list-commands'.",
        ),
        (
            &["selftest", "add_test", "--from", "a", "--to", "b", "brw", "read", "size=4100"],
            255,
            "write 4104",
        ),
        (&["selftest", "list_group"], 255, "Can't find env LST_SESSION or value is not valid"),
        (&["selftest", "-f", "/nonexistent/script"], 2, "/nonexistent/script"),
        (&["selftest", "quick", "--from", "foo@bar", "--to", "10.0.0.1@tcp"], 1, "foo@bar"),
        (&["selftest", "quick", "--from", "127.0.0.1@tcp", "--to", "10.0.0.[3-1]@tcp"], 1, "3-1"),
        (
            &["selftest", "quick", "--from", "127.0.0.1@tcp", "--to", "127.0.0.2@tcp", "--size", "4100"],
            1,
            "write 4104",
        ),
        (
            &["selftest", "quick", "--from", "127.0.0.1@tcp", "--to", "127.0.0.2@tcp", "--size", "2M"],
            2,
            "1048576",
        ),
        (&["selftest", "quick", "--from", "127.0.0.1@tcp"], 2, "--to"),
        // Of no effect, silently, until it was refused: its place is behind `quick`.
        (
            &["selftest", "--json", "quick", "--from", "127.0.0.1@tcp", "--to", "127.0.0.2@tcp"],
            2,
            "pollnd selftest quick --from NIDS --to NIDS [OPTIONS]",
        ),
    ] {
        let mut c = pollnd(words);
        c.env_remove("LST_SESSION");
        let end = Proc::start(c).end();
        assert_eq!(end.status.code(), Some(status), "{words:?}: {end:?}");
        assert!(end.err.contains(says), "{words:?}: {end:?}");
    }
    run(&["selftest", "help"]).good().says(&["usage: lst [COMMAND]"]);
    run(&["selftest", "help", "add_test"]).good().says(&["--distribute N:M"]);
    run(&["selftest", "--list-commands"]).good().says(&["add_group"]);
    run(&["selftest", "--help"]).good().says(&["LST_SESSION", "quick"]);
}

/// On a terminal, where logs have colours: each command there ended with a panic of the logger, which was built without them.
#[test]
fn quick_at_a_terminal_draws_rates_with_percentiles() {
    if !can("quick_at_a_terminal_draws_rates_with_percentiles") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let _far = node(b, &[]);
    let pollnd = env!("CARGO_BIN_EXE_pollnd");
    // `script` gives it a terminal for all three streams.
    let line =
        format!("stty cols 200; {pollnd} selftest quick --from {} --to {} --seconds 3", nid(a), nid(b));
    let mut c = Command::new("script");
    c.args(["-qec", &line, "/dev/null"]).env_remove("NO_COLOR").env("TERM", "xterm");
    let end = Proc::start(c).end();
    assert_eq!(end.status.code(), Some(0), "{end:?}");
    assert!(!end.out.contains("tracing-subscriber"), "{end:?}");
    let lines = || end.out.split(['\r', '\n']);
    assert!(lines().any(|l| l.contains("/3 s ")), "{end:?}");
    assert!(
        lines().filter(|l| l.contains("p99.9")).count() > 1,
        "while it runs, not in the table alone: {end:?}"
    );
}

/// A program that ends with the test, its terminal with it.
struct Terminal(Child);

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a line at a terminal, types Ctrl-C once it has shown `seen`, and gives exit status and output. The terminal is as it was before.
fn interrupted_at_a_terminal(line: &str, seen: &str) -> (Option<i32>, String) {
    let all = format!("trap : INT; stty cols 80; stty -g; {line}; s=$?; echo; stty -g; exit $s");
    let mut c = Command::new("script");
    c.args(["-qefc", &all, "/dev/null"]).env_remove("NO_COLOR").env("TERM", "xterm");
    let mut at = Terminal(c.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let (mut keys, mut screen) = (at.0.stdin.take().unwrap(), at.0.stdout.take().unwrap());
    // Lines that are drawn again and again have no ends.
    let shown = Arc::new(Mutex::new(Vec::new()));
    let to = shown.clone();
    let reader = std::thread::spawn(move || {
        let mut some = [0; 4096];
        while let Ok(n @ 1..) = screen.read(&mut some) {
            to.lock().unwrap().extend_from_slice(&some[..n]);
        }
    });
    let text = || String::from_utf8_lossy(&shown.lock().unwrap()).into_owned();
    eventually(seen, || text().contains(seen));
    keys.write_all(b"\x03").unwrap();
    let mut status = None;
    eventually("end", || {
        status = at.0.try_wait().unwrap();
        status.is_some()
    });
    reader.join().unwrap();
    let out = text();
    let modes: Vec<&str> = out.lines().map(str::trim).filter(|l| l.matches(':').count() > 10).collect();
    assert!(matches!(modes[..], [before, after] if before == after), "{out}");
    for (off, on) in [("\x1b[?25l", "\x1b[?25h"), ("\x1b[?7l", "\x1b[?7h")] {
        assert!(out.rfind(off) <= out.rfind(on), "the cursor is there, and lines wrap: {out}");
    }
    (status.and_then(|s| s.code()), out)
}

#[test]
fn ctrl_c_at_a_terminal_ends_in_order() {
    if !can("ctrl_c_at_a_terminal_ends_in_order") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let (here, there) = (nid(a), nid(b));
    let (near, far) = (node(a, &[]), node(b, &[]));
    let (at, pollnd) = (near.id().to_string(), env!("CARGO_BIN_EXE_pollnd"));
    let line = format!("{pollnd} selftest quick --from {here} --to {there} --seconds 600");
    let (status, out) = interrupted_at_a_terminal(&line, "/600 s ");
    assert_eq!(status, Some(130), "{out}");
    assert!(out.contains("interrupted") && out.contains("payload: "), "{out}");
    // Neither node has a session left.
    let v = |words: &[&str]| verb("7", &at, words);
    v(&["new_session", "s"]).good();
    v(&["ping", "--nodes", &there]).good().says(&["Unknown [session: <NULL>"]);
    // A `stat` without an end is done, and its session stays.
    v(&["add_group", "g", &format!("{here} {there}")]).good();
    let line = format!("LST_SESSION=7 {pollnd} selftest --node {at} stat --delay 1 g");
    let (status, out) = interrupted_at_a_terminal(&line, "[R]");
    assert_eq!(status, Some(0), "{out}");
    v(&["list_group"]).good().says(&["1) g"]);
    v(&["end_session"]).good();
    drop((near, far));
}

/// It counts where a session is begun, in a node that runs as well.
#[test]
fn features_of_a_session_are_those_of_its_shell() {
    for bad in ["2", "yes"] {
        let mut c = pollnd(&["selftest", "new_session", "s"]);
        c.env("LST_FEATURES", bad);
        Proc::start(c).end().failed(255, &[&format!("LST_FEATURES={bad}"), "give 0 or 1"]);
    }
    if !can("features_of_a_session_are_those_of_its_shell") {
        return;
    }
    let near = node(own_ip(), &[]);
    let at = near.id().to_string();
    for features in ["0", "1"] {
        let mut c = pollnd(&["selftest", "--node", &at, "new_session", "s"]);
        c.env("LST_SESSION", "8").env("LST_FEATURES", features);
        Proc::start(c).end().good().says(&[&format!("SESSION: s FEATURES: {features} ")]);
        verb("8", &at, &["end_session"]).good();
    }
}
