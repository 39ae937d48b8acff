//! Nodes with IPv6 NIDs over kernel sockets, in a network namespace of the test's own.

#![allow(missing_docs)]

#[allow(dead_code)]
mod lab;
#[allow(dead_code)]
mod proc;

use std::process::Command;

use lab::{Namespace, missing};
use proc::{End, Proc};

const A: &str = "fd77::1@tcp";
const B: &str = "fd77::2@tcp";

/// A namespace with both addresses, unless the machine cannot have one.
fn place(test: &str) -> Option<Namespace> {
    if let Some(why) = missing(&["setpriv"]) {
        println!("SKIP: {test}: {why}");
        return None;
    }
    let ns = Namespace::new();
    ns.add6("fd77::1/128", "lo");
    ns.add6("fd77::2/128", "lo");
    Some(ns)
}

/// `pollnd ARGS` in the namespace.
fn pollnd(ns: &Namespace, args: &[&str]) -> Command {
    let mut c = ns.inside(env!("CARGO_BIN_EXE_pollnd"));
    c.args(args);
    c
}

/// The same for somebody who may not use ports below 1024.
fn nobody(ns: &Namespace, args: &[&str]) -> Command {
    let mut c = ns.inside("setpriv");
    c.args(["--bounding-set", "-net_bind_service", "--inh-caps", "-net_bind_service"]);
    c.args([env!("CARGO_BIN_EXE_pollnd")]).args(args);
    c
}

fn run(c: Command) -> End {
    Proc::start(c).end()
}

#[test]
fn pings_puts_and_gets_over_ipv6() {
    let Some(ns) = place("pings_puts_and_gets_over_ipv6") else { return };
    let node = Proc::start(pollnd(&ns, &["node", "--nid", B])).up();
    run(pollnd(&ns, &["ping", B, "--nid", A])).good().says(&[&format!("12345-{B}"), "time "]);
    let json = |way| run(pollnd(&ns, &[way, B, "--nid", A, "-c", "20", "--json"])).good().json();
    let (put, get) = (json("put"), json("get"));
    for v in [&put, &get] {
        assert_eq!((v["messages"].as_u64(), v["crc_bad"].as_u64()), (Some(20), Some(0)), "{v}");
    }
    // Families do not mix.
    run(pollnd(&ns, &["ping", "10.0.0.1@tcp", "--nid", A])).failed(1, &["10.0.0.1@tcp", "address family"]);
    let end = node.stop().good().says(&["20 PUTs,", "checked 20, wrong 0"]);
    assert!(end.errors().is_empty(), "{end:?}");
}

#[test]
fn an_unprivileged_node_dials_ipv6_peers_with_consent_only() {
    let Some(ns) = place("an_unprivileged_node_dials_ipv6_peers_with_consent_only") else { return };
    let port = ["--accept-port", "10988"];
    let node =
        |more: &[&str]| Proc::start(nobody(&ns, &[&["node", "--nid", B], &port[..], more].concat())).up();
    let ping = |more: &[&str]| run(nobody(&ns, &[&["ping", B, "--nid", A], &port[..], more].concat()));
    let up = node(&[]);
    ping(&[]).failed(1, &[B, "port above 1023", "setcap", "--tunable unprivileged_v6=1"]);
    ping(&["--tunable", "unprivileged_v6=1"]).good().says(&["time "]);
    up.stop().good().says(&["unprivileged"]);
}
