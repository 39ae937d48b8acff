//! Words of files and command lines come back in errors: without what a terminal would obey, and not whole where it is long.

#![allow(missing_docs)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Clears a terminal's screen.
const STRANGE: &str = "\\e[2J\\a";

fn pollnd(args: &[&str], home: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pollnd")).args(args).env("XDG_RUNTIME_DIR", home).output().unwrap()
}

/// Its exit code, and what it said, in which nothing is for the terminal but ends of lines.
fn told(args: &[&str], home: &Path) -> (Option<i32>, String) {
    let out = pollnd(args, home);
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{args:?}: {text:?}");
    (out.status.code(), text)
}

/// Checks a file of this text.
fn check(text: &str, home: &Path) -> (Option<i32>, String) {
    let file = home.join("f.yaml");
    fs::write(&file, text).unwrap();
    told(&["config", "check", file.to_str().unwrap()], home)
}

/// A file with a value of somebody else's at each place that takes one.
fn places(value: &str) -> Vec<String> {
    let v = format!("\"{value}\"");
    vec![
        format!("route: [{{net: {v}, gateway: 10.0.0.1@tcp}}]\n"),
        format!("route: [{{net: tcp1, gateway: {v}}}]\n"),
        format!("route: [{{net: tcp1, gateway: 10.0.0.1@tcp, hop: {v}}}]\n"),
        format!("route: [{{{v}: 1}}]\n"),
        format!("peer: [{{primary nid: {v}}}]\n"),
        format!("peer: [{{primary nid: 10.0.0.1@tcp, peer ni: [{{nid: {v}}}]}}]\n"),
        format!("peer: [{{primary nid: 10.0.0.1@tcp, Multi-Rail: {v}}}]\n"),
        format!("fault: {{drop: [{{source: {v}, dest: \"*\", rate: 1}}]}}\n"),
        format!("fault: {{drop: [{{source: \"*\", dest: \"*\", rate: {v}}}]}}\n"),
        format!("fault: {{drop: [{{source: \"*\", dest: \"*\", rate: 1, message: {v}}}]}}\n"),
        format!("net: [{{net type: {v}, local NI(s): []}}]\n"),
        format!("net: [{{net type: tcp, local NI(s): [{{nid: {v}}}]}}]\n"),
        format!("net: [{{net type: tcp, local NI(s): [{{interfaces: {{0: {v}}}}}]}}]\n"),
        format!(
            "net: [{{net type: tcp, local NI(s): [{{nid: 10.0.0.1@tcp, tunables: {{credits: {v}}}}}]}}]\n"
        ),
        format!("global: {{retry_count: {v}}}\n"),
        format!("global: {{{v}: 1}}\n"),
        format!("node: {{accept: {v}}}\n"),
        format!("node: {{options: [{v}]}}\n"),
        format!("dpdk: {{device: {v}}}\n"),
        format!("dpdk: {{device: net_tap0, mtu: {v}}}\n"),
        format!("log: {{level: {v}}}\n"),
        format!("{v}: 1\n"),
        format!("routing: {{enable: {v}}}\n"),
        format!("buffers: {{tiny: {v}}}\n"),
    ]
}

#[test]
fn a_file_does_not_speak_to_the_terminal() {
    let home = tempfile::tempdir().unwrap();
    for text in places(STRANGE) {
        let (code, said) = check(&text, home.path());
        // Of a filter of the log the fault alone is said.
        let shown = said.contains("\\u{1b}[2J") || text.starts_with("log");
        assert!(code == Some(2) && shown, "{text}: {code:?} {said}");
    }
    // A value of several lines is one line of the error.
    let (code, said) = check("route: [{net: \"tcp1\\nroute\", gateway: 10.0.0.1@tcp}]\n", home.path());
    assert!(code == Some(2) && said.lines().count() == 1 && said.contains("tcp1\\nroute"), "{said}");
}

#[test]
fn a_long_value_is_not_said_whole() {
    let home = tempfile::tempdir().unwrap();
    let long = "9".repeat(200_000);
    // Keys that are as long are none, says the parser; a port may have any name.
    let is_taken = |t: &String| !t.contains(&format!("\"{long}\":")) && !t.contains("device: \"");
    for text in places(&long).iter().filter(|t| is_taken(t)) {
        let (code, said) = check(text, home.path());
        let begin = &text[..40];
        // A path is named whole.
        let most = if begin.contains("options") { 2 * long.len() + 2000 } else { 2000 };
        assert!(code == Some(2) && said.len() < most, "{begin}: {code:?}, {} bytes", said.len());
    }
    let (code, said) = check(&format!("global: {{retry_count: !{long} 1}}\n"), home.path());
    assert!(code == Some(2) && said.len() < 2000 && said.contains("have no tags"), "{} bytes", said.len());
}

/// A file that `apply` refuses, whatever the node, is refused here.
#[test]
fn files_of_options_are_looked_at_where_no_ni_is_named() {
    let home = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let p = home.path().join(name);
        fs::write(&p, text).unwrap();
        p.display().to_string()
    };
    let good = put("good.conf", "options ksocklnd peer_credits=32\n");
    let bad = put("bad.conf", "options ksocklnd tos=999\n");
    for (options, code, says) in [
        (&*good, 0, "good: no NI"),
        (&*bad, 2, "tos=999"),
        ("/no/such.conf", 2, "/no/such.conf"),
        ("/dev/tty", 2, "/dev/tty"),
    ] {
        let (is, said) = check(&format!("node: {{options: [{options}]}}\n"), home.path());
        assert!(is == Some(code) && said.contains(says), "{options}: {is:?} {said}");
    }
    let (is, said) = check("global: {transaction_timeout: 5, retry_count: 20}\n", home.path());
    assert!(is == Some(2) && said.contains("lnet_retry_count=20"), "{is:?} {said}");
}

#[test]
fn a_command_line_does_not_speak_to_the_terminal() {
    let home = tempfile::tempdir().unwrap();
    let strange = "a\u{1b}[2J";
    for args in [
        &["ping", strange][..],
        &["node", "--nid", strange],
        &["node", "--nid", "127.0.0.9@tcp", "--route", strange],
        &["node", "--nid", "127.0.0.9@tcp", "--peer-nids", strange],
        &["node", "--nid", "127.0.0.9@tcp", "--fault", strange],
        &["node", "--nid", "127.0.0.9@tcp", "--tunable", strange],
        &["node", "--nid", "127.0.0.9@tcp", "--options", strange],
        &["node", "--config", strange],
        &["config", "check", strange],
        &["lnetctl", "import", strange],
        &["lnetctl", "net", "show", "--net", strange],
        &["lnetctl", "peer", "add", "--prim_nid", strange, "--nid", "10.0.0.1@tcp"],
        &["lnetctl", "route", "add", "--net", "tcp1", "--gateway", strange],
        &["connections", "--peer", strange],
        &["stats", "--node", strange],
        &["selftest", "lst", "ping", strange],
    ] {
        let (code, said) = told(args, home.path());
        assert!(code != Some(0), "{args:?}: {said}");
    }
}
