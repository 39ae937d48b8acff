//! `pollnd bench report` on a DPDK port against a node elsewhere, over a TAP device in a namespace of the test's own.

#![cfg(feature = "dpdk")]
#![allow(missing_docs)]

#[allow(dead_code)]
mod lab;

use lab::{KERNEL, Namespace, PORT, Proc, missing};
use serde_json::Value;

/// The peer is a node on kernel sockets, with an address that is there before the port's device is.
#[test]
fn a_report_over_a_port_against_a_node_on_kernel_sockets() {
    if let Some(why) = missing(&[]) {
        println!("SKIP: a_report_over_a_port_against_a_node_on_kernel_sockets: {why}");
        return;
    }
    let (ns, dir) = (Namespace::new(), tempfile::tempdir().unwrap());
    let json = dir.path().join("a.json");
    ns.ip(&["addr", "add", "10.99.0.1/32", "dev", "lo"]);
    let mut node = Proc::start(ns.pollnd(&["node", "--nid", KERNEL]));
    node.wait_for("is up on");
    let to = json.to_str().unwrap();
    let small = [
        "--ops",
        "put,get,brw-write,brw-read,ping",
        "--sizes",
        "64,64k",
        "--concurrency",
        "1,4",
        "--rounds",
        "1",
    ];
    let set = ["bench", "report", "--peer", KERNEL, "--nid", PORT, "--json", to, "--seconds", "0.02"];
    let port = ["--vdev", "net_tap0,iface=dtap0", "--", "--no-huge"];
    let report = Proc::start(ns.pollnd(&[&set[..], &small, &port].concat()));
    // The device is there when the driver has made it.
    let mut way = ns.inside("sh");
    way.args(["-c", "until ip link set dtap0 up && ip route add 10.99.0.0/24 dev dtap0 src 10.99.0.1; do sleep 0.02; done"]);
    Proc::start(way).finish();
    let out = report.finish();
    assert!(out.contains("no operation failed") && !out.contains("left out"), "{out}");
    let v: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    let points = v["points"].as_array().unwrap();
    // PUT, GET and both BRWs: two sizes, and the smallest alone; pings.
    assert_eq!((points.len(), &v["nothing_lost"]), (4 * 3 + 2, &true.into()), "{v}");
    for p in points {
        assert_eq!(p["side"]["carrier"], "peer", "{p}");
        assert!(p["figures"]["per_s"]["median"].as_f64() > Some(0.0), "{p}");
    }
    let dpdk = v["machine"]["dpdk"].as_str().unwrap();
    assert!(dpdk.contains("net_tap0") && !dpdk.contains("not used"), "{dpdk}");
    node.stop();
}
