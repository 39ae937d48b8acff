//! Commands on nodes behind a router: with a node of their own, when they wait until its routes are up, and through one that runs.

#![allow(missing_docs)]

#[allow(dead_code)]
mod proc;

use proc::{Place, Proc, eventually, own_ip, run, start};

const PORT: [&str; 2] = ["--accept-port", "10988"];

const SOON: [&str; 4] = ["--tunable", "alive_router_check_interval=1", "--tunable", "router_ping_timeout=1"];

/// A router that routes, and a node behind it.
struct Behind {
    router: Proc,
    server: Proc,
    /// The network before the router, and the one behind it.
    nets: [String; 2],
    /// The router's NID before it, and the node's NID.
    near: String,
    there: String,
    /// The route of users before the router.
    on: String,
}

fn of(net: &str) -> String {
    format!("{}@{net}", own_ip())
}

impl Behind {
    /// Commands look for nodes that have a route to a network: the networks of test number `n` are no other test's.
    fn new(n: u32) -> Behind {
        let first = 1000 + 4 * (std::process::id() % 15_000) + 2 * n;
        let nets = [first, first + 1].map(|n| format!("tcp{n}"));
        let [near, far, there] = [&nets[0], &nets[1], &nets[1]].map(|net| of(net));
        let (back, on) = (format!("{} {far}", nets[0]), format!("{} {near}", nets[1]));
        let router =
            start(&[&["node", "--nid", &near, "--ni", &far, "--routing"], &SOON[..], &PORT].concat()).up();
        let server = start(&[&["node", "--nid", &there, "--route", &back], &SOON[..], &PORT].concat()).up();
        let pid = router.id().to_string();
        eventually("a router", || {
            run(&["lnetctl", "routing", "show", "--node", &pid]).good().out.contains("enable: 1")
        });
        Behind { router, server, nets, near, there, on }
    }

    /// A ping and a PUT.
    fn ways(&self) -> [Vec<&str>; 2] {
        [vec!["ping", &self.there, "-c", "3"], vec!["put", &self.there, "-c", "3", "-s", "64k"]]
    }

    fn stop(self, forwarded: u64) {
        self.server.stop().good();
        let end = self.router.stop().good();
        assert!(end.counter("forwarded_msgs") > forwarded, "{end:?}");
    }
}

#[test]
fn commands_reach_nodes_behind_a_router_with_a_node_of_their_own() {
    let b = Behind::new(0);
    let selftest = vec!["selftest", "quick", "--to", &b.there, "--seconds", "1"];
    for way in b.ways().iter().chain([&selftest]) {
        let here = of(&b.nets[0]);
        let from: &[&str] = if way[0] == "selftest" { &["--from", &here] } else { &[] };
        let end = run(&[way, from, &["--nid", &here, "--route", &b.on], &PORT].concat()).good();
        assert!(!end.out.contains("retransmission"), "over kernel sockets nobody counts them: {end:?}");
    }
    // Without --nid: from where this machine reaches the gateway. What is on its address may be another test's.
    for way in b.ways() {
        let at = Place::new();
        let own = ["--route", &b.on, "--accept", "none", "--accept-port", "10988"];
        let (as_own, near) =
            (format!("as 127.0.0.1@{}, from where this machine", b.nets[0]), b.near.split('@').next());
        at.run(&[&way[..], &own].concat()).good().tells(&[&as_own, near.unwrap()]);
    }
    b.stop(12);
}

/// A node that has a route to the target's network is meant, wherever this machine would send to the target itself.
#[test]
fn commands_reach_nodes_behind_a_router_through_the_node_that_has_a_route() {
    let (b, at) = (Behind::new(1), Place::new());
    let [here, second] = [(); 2].map(|()| of(&b.nets[0]));
    let node =
        |nid: &str| at.start(&[&["node", "--nid", nid, "--route", &b.on], &SOON[..], &PORT].concat()).up();
    let client = node(&here);
    eventually("a route", || at.ctl(&client, &["route", "show", "-v"]).good().out.contains("state: up"));
    let by = format!("through the node of {here} that runs here (process {})", client.id());
    for way in b.ways() {
        at.run(&way).good().tells(&[&by, &format!("which has a route to {}", b.nets[1])]);
    }
    // One that nobody is: the node that asks has forgotten it when it tells.
    let (there, pid) = (of(&b.nets[1]), client.id().to_string());
    let behind = ["no answer within", "it is behind a router: no answer has come back by one"];
    at.run(&["ping", &there, "--timeout", "2", "--node", &pid]).failed(1, &behind);
    // To a network that it has no route to, by an address that it has.
    let (own, pid) = (here.replace(&b.nets[0], "tcp9"), client.id().to_string());
    let named = [&*here, &format!("process {pid}"), "has that address", &format!("--node {pid}")];
    at.run(&[&["ping", "127.9.9.9@tcp9", "--nid", &own], &PORT[..]].concat()).failed(1, &named);
    at.run(&[&["node", "--nid", &own], &PORT[..]].concat()).failed(1, &named[..3]);
    // Of several the user has to say one.
    let other = node(&second);
    at.run(&b.ways()[0]).failed(1, &["2 nodes", "--node", &pid, &other.id().to_string(), &second]);
    other.stop().good();
    client.stop().good();
    b.stop(6);
}

/// A question to a network whose only gateway is not there fails for that.
#[test]
fn a_gateway_that_is_not_there_is_named() {
    let [from, dead] = [(); 2].map(|()| of("tcp"));
    let by = format!("tcp9 {dead}");
    let ping = ["ping", "127.9.9.9@tcp9", "--nid", &from, "--route", &by, "--timeout", "1"];
    let ping = run(&[&ping[..], &PORT].concat());
    ping.failed(1, &["no route to 127.9.9.9@tcp9 is up", "its gateway", &dead, "refuses connections"]);
}
