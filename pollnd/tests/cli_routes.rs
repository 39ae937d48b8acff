//! Commands with a node of their own, on nodes behind a router: they wait until their routes are up.

#![allow(missing_docs)]

#[allow(dead_code)]
mod proc;

use proc::{Place, eventually, own_ip, run, start};

const PORT: [&str; 2] = ["--accept-port", "10988"];

#[test]
fn commands_reach_nodes_behind_a_router_with_a_node_of_their_own() {
    let of = |net: &str| format!("{}@{net}", own_ip());
    let (near, far, there) = (of("tcp"), of("tcp1"), of("tcp1"));
    let soon = ["--tunable", "alive_router_check_interval=1", "--tunable", "router_ping_timeout=1"];
    let (back, on) = (format!("tcp {far}"), format!("tcp1 {near}"));
    let router =
        start(&[&["node", "--nid", &near, "--ni", &far, "--routing"], &soon[..], &PORT].concat()).up();
    let server = start(&[&["node", "--nid", &there, "--route", &back], &soon[..], &PORT].concat()).up();
    let pid = router.id().to_string();
    eventually("a router", || {
        run(&["lnetctl", "routing", "show", "--node", &pid]).good().out.contains("enable: 1")
    });
    let ways: [&[&str]; 3] = [
        &["ping", &there, "-c", "3"],
        &["put", &there, "-c", "3", "-s", "64k"],
        &["selftest", "quick", "--to", &there, "--seconds", "1"],
    ];
    for way in ways {
        let here = of("tcp");
        let from: &[&str] = if way[0] == "selftest" { &["--from", &here] } else { &[] };
        run(&[way, from, &["--nid", &here, "--route", &on], &PORT].concat()).good();
    }
    // Without --nid: from where this machine reaches the gateway. What is on its address may be another test's.
    for way in &ways[..2] {
        let at = Place::new();
        let own = ["--route", &on, "--accept", "none", "--accept-port", "10988"];
        at.run(&[way, &own[..]].concat())
            .good()
            .tells(&["as 127.0.0.1@tcp, from where this machine reaches", near.trim_end_matches("@tcp")]);
    }
    server.stop().good();
    let end = router.stop().good();
    assert!(end.counter("forwarded_msgs") > 12, "{end:?}");
}
