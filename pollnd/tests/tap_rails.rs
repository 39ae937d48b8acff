//! Two nodes over the kernel's TCP, in network namespaces of their own, with an NI on each of two links between them: an interface
//! goes down, and its NI with it; what goes on goes by the other.
//!
//! ```text
//!   10.95.0.1@tcp  ── veth ── 10.95.0.2@tcp
//!   10.95.1.1@tcp1 ── veth ── 10.95.1.2@tcp1
//! ```
//!
//! The same where both are of the network tcp, and each NI may speak with either NID of the other node.

#![allow(missing_docs)]

#[allow(dead_code)]
mod lab;

use std::time::{Duration, Instant};

use lab::{Namespace, Proc, missing};

/// What is waited for has come within this time: a bound for a run that hangs.
const LONG: Duration = Duration::from_secs(60);

struct Node {
    ns: Namespace,
    proc: Proc,
    nids: [String; 2],
}

impl Node {
    fn new(ns: Namespace, n: usize, second: &str) -> Node {
        let nids = [format!("10.95.0.{n}@tcp"), format!("10.95.1.{n}@{second}")];
        let args = ["node", "--nid", &nids[0], "--ni", &nids[1], "--carrier", "sockets"];
        let mut proc = Proc::start(ns.pollnd(&args));
        proc.wait_for("is up on");
        Node { ns, proc, nids }
    }

    fn ctl(&self, args: &[&str]) -> String {
        let pid = self.proc.id().to_string();
        let out = self.ns.pollnd(&[args, &["--node", &pid]].concat()).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Status and fatal errors of its NIs, as `net show` has them.
    fn states(&self) -> Vec<String> {
        let shown = self.ctl(&["lnetctl", "net", "show", "-v", "2"]);
        let of = |name: &'static str| {
            shown.lines().filter_map(move |l| Some(l.trim().strip_prefix(name)?.trim().to_owned()))
        };
        let fatal: Vec<String> = of("fatal_error:").collect();
        of("status:").zip(fatal).skip(1).map(|(s, f)| format!("{s} {f}")).collect()
    }

    fn until(&self, states: &[&str]) {
        let end = Instant::now() + LONG;
        while self.states() != states {
            assert!(Instant::now() < end, "{states:?}: {}", self.ctl(&["lnetctl", "net", "show", "-v", "2"]));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Pushes that it has taken.
    fn heard(&self) -> u64 {
        let v: serde_json::Value = serde_json::from_str(&self.ctl(&["stats", "--json"])).unwrap();
        let lcores = v["lcores"].as_array().unwrap();
        lcores.iter().map(|l| l["counters"]["pushes_taken"].as_u64().unwrap_or(0)).sum()
    }

    /// It has taken more pushes than `before`.
    fn hears(&self, before: u64) {
        let end = Instant::now() + LONG;
        while self.heard() == before {
            assert!(Instant::now() < end, "nothing was heard of the other's link");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// So many pings of the other's NID, one after the other, none of which is lost.
    fn pings(&self, nid: &str, n: &str) {
        let out = self.ctl(&["ping", nid, "-c", n, "-i", "0.01", "--timeout", "10"]);
        assert_eq!(out.matches("time ").count(), n.parse::<usize>().unwrap(), "{out}");
    }
}

/// Two nodes, with a link for each NI; the second NI's network is `second`.
fn two_links(second: &str) -> [Node; 2] {
    let spaces = [Namespace::new(), Namespace::new()];
    for link in 0..2 {
        let ends = [0, 1].map(|side| format!("rl{link}s{side}"));
        spaces[0].ip(&[
            "link",
            "add",
            &ends[0],
            "type",
            "veth",
            "peer",
            "name",
            &ends[1],
            "netns",
            spaces[1].name(),
        ]);
        for (side, ns) in spaces.iter().enumerate() {
            ns.ip(&["addr", "add", &format!("10.95.{link}.{}/24", side + 1), "dev", &ends[side]]);
            ns.ip(&["link", "set", &ends[side], "up"]);
        }
    }
    let [a, b] = spaces;
    let nodes = [Node::new(a, 1, second), Node::new(b, 2, second)];
    nodes.iter().for_each(|n| n.until(&["up 0", "up 0"]));
    nodes
}

#[test]
fn an_interface_goes_down_and_its_ni_with_it() {
    if let Some(why) = missing(&[]) {
        println!("SKIP: an_interface_goes_down_and_its_ni_with_it: {why}");
        return;
    }
    let [a, b] = two_links("tcp1");
    // Each is the node that is meant in its own namespace, and in a third one neither is.
    for node in [&a, &b] {
        let out = node.ns.pollnd(&["lnetctl", "net", "show", "--net", "tcp"]).output().unwrap();
        assert!(String::from_utf8_lossy(&out.stdout).contains(&node.nids[0]), "{out:?}");
    }
    let elsewhere = Namespace::new().pollnd(&["lnetctl", "net", "del", "--net", "tcp1"]).output().unwrap();
    let said =
        String::from_utf8_lossy(&elsewhere.stderr).into_owned() + &String::from_utf8_lossy(&elsewhere.stdout);
    assert!(!elsewhere.status.success() && said.contains("no node runs in this network namespace"), "{said}");
    a.ctl(&["lnetctl", "discover", &b.nids[0]]);
    a.pings(&b.nids[0], "5");
    // Both ends of a link that is down lose their carrier.
    for (rail, states) in [(1, ["up 0", "down 1"]), (0, ["down 1", "up 0"])] {
        let name = format!("rl{rail}s0");
        a.ns.ip(&["link", "set", &name, "down"]);
        a.until(&states);
        b.until(&states);
        for nid in &b.nids {
            a.pings(nid, "20");
        }
        a.ns.ip(&["link", "set", &name, "up"]);
        a.until(&["up 0", "up 0"]);
        b.until(&["up 0", "up 0"]);
        a.pings(&b.nids[rail], "20");
    }
    // An address that goes takes its NI along, too.
    b.ns.ip(&["addr", "del", "10.95.1.2/24", "dev", "rl1s1"]);
    b.until(&["up 0", "down 1"]);
    a.pings(&b.nids[1], "20");
    b.ns.ip(&["addr", "add", "10.95.1.2/24", "dev", "rl1s1"]);
    b.until(&["up 0", "up 0"]);
    // An only NI has a state, too, and one that is added where there is no link.
    b.ctl(&["lnetctl", "net", "del", "--net", "tcp1"]);
    for (order, states) in [("down", ["down 1"]), ("up", ["up 0"])] {
        b.ns.ip(&["link", "set", "rl0s1", order]);
        b.until(&states);
    }
    a.pings(&b.nids[0], "20");
    b.ns.ip(&["link", "set", "rl1s1", "down"]);
    b.ctl(&["lnetctl", "net", "add", "--nid", "10.95.1.2@tcp1"]);
    b.until(&["up 0", "down 1"]);
    a.proc.stop();
    b.proc.stop();
}

/// Neither node sends to the NID of the other whose link is lost, though its own NIs that are up could, and pairs of those were used.
#[test]
fn a_link_of_two_in_one_network_goes_down() {
    if let Some(why) = missing(&[]) {
        println!("SKIP: a_link_of_two_in_one_network_goes_down: {why}");
        return;
    }
    let [a, b] = two_links("tcp");
    a.ctl(&["lnetctl", "discover", &b.nids[0]]);
    for (node, other) in [(&a, &b), (&b, &a)] {
        other.nids.iter().for_each(|nid| node.pings(nid, "8"));
    }
    for (rail, states) in [(1, ["up 0", "down 1"]), (0, ["down 1", "up 0"])] {
        let (name, before) = (format!("rl{rail}s0"), [a.heard(), b.heard()]);
        a.ns.ip(&["link", "set", &name, "down"]);
        a.until(&states);
        b.until(&states);
        a.hears(before[0]);
        b.hears(before[1]);
        for nid in &b.nids {
            a.pings(nid, "20");
        }
        for nid in &a.nids {
            b.pings(nid, "20");
        }
        let before = [a.heard(), b.heard()];
        a.ns.ip(&["link", "set", &name, "up"]);
        a.until(&["up 0", "up 0"]);
        b.until(&["up 0", "up 0"]);
        a.hears(before[0]);
        b.hears(before[1]);
        a.pings(&b.nids[1 - rail], "20");
    }
    a.proc.stop();
    b.proc.stop();
}
