//! NIs that nodes on DPDK ports get and lose while they run: two processes over a vhost link, of two lcores each.

#![cfg(feature = "dpdk")]
#![allow(missing_docs)]

mod openmetrics;
#[allow(dead_code)]
mod proc;

use std::path::Path;

use proc::{End, Proc, run, start};

/// A device name of each end of a link of two queues.
fn link(dir: &Path) -> [String; 2] {
    let sock = dir.join("v.sock").display().to_string();
    [
        format!("net_vhost0,iface={sock},queues=2,tso=1"),
        format!("net_virtio_user0,path={sock},queues=2,queue_size=1024,mrg_rxbuf=1"),
    ]
}

fn ctl(node: &Proc, words: &[&str]) -> End {
    run(&[&["lnetctl", "--node", &node.id().to_string()], words].concat())
}

/// Of two lcores each: an export has settings, and no sums over lcores, so that a node takes its own. What they tell Prometheus is such a page.
#[test]
fn settings_of_several_lcores_are_no_sums() {
    let at = "127.0.0.1:19871";
    let words = [
        "node",
        "--nid",
        "10.9.0.1@tcp",
        "--vdev",
        "net_ring0",
        "--ni",
        "10.7.0.1@tcp2",
        "--vdev",
        "net_ring1",
    ];
    let more = ["--lcores", "2", "--idle", "yield", "--routing", "--metrics", at];
    let few = ["--tunable", "large_router_buffers=1", "--tunable", "small_router_buffers=7"];
    let node = start(&[&words[..], &more, &few, &["--", "--no-huge"]].concat()).up();
    ctl(&node, &["net", "add", "--nid", "10.8.0.1@tcp1", "--if", "net_ring1", "--credits", "300"]).good();
    let shown = ctl(&node, &["net", "show", "-v"]).good().out;
    let credits: Vec<&str> = shown.lines().filter_map(|l| l.trim().strip_prefix("credits: ")).collect();
    assert_eq!(credits, ["0", "256", "256", "300"], "{shown}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("own.yaml").display().to_string();
    for form in [&["export"][..], &["export", "--backup"]] {
        ctl(&node, &[form, &[&file]].concat()).good();
        ctl(&node, &["import", &file]).good().tells(&["nothing is other"]);
    }
    openmetrics::page(at);
    node.stop().good();
}

#[test]
fn nis_come_and_go_on_a_port_while_bulk_passes() {
    let dir = tempfile::tempdir().unwrap();
    let devices = link(dir.path());
    let figures = ["127.0.0.1:19872", "127.0.0.1:19873"];
    let node = |nid: &str, device: &str, at: &str| {
        // Each NID is a peer of its own, so that what passes by one NI passes by no other.
        let alone = ["--tunable", "lnet_peer_discovery_disabled=1", "--", "--no-huge"];
        let words =
            ["node", "--nid", nid, "--vdev", device, "--lcores", "2", "--idle", "yield", "--metrics", at];
        start(&[&words[..], &alone].concat()).up()
    };
    let [a, b] = [0, 1].map(|i| node(["10.9.0.1@tcp", "10.9.0.2@tcp"][i], &devices[i], figures[i]));
    let id = a.id().to_string();
    ctl(&a, &["ping", "10.9.0.2@tcp"]).good();
    // Another address, another family, and another network on an address that is there.
    let pairs = [
        ("10.8.0.1@tcp1", "10.8.0.2@tcp1"),
        ("fd09::1@tcp2", "fd09::2@tcp2"),
        ("10.9.0.1@tcp3", "10.9.0.2@tcp3"),
    ];
    for (own, other) in pairs {
        ctl(&a, &["net", "add", "--nid", own]).good();
        ctl(&b, &["net", "add", "--nid", other, "--if", "net_virtio_user0"]).good();
        ctl(&a, &["ping", other]).good().says(&[other]);
        let put = run(&["put", other, "-c", "20", "--json", "--node", &id]).good().json();
        assert_eq!((put["messages"].as_u64(), put["crc_bad"].as_u64()), (Some(20), Some(0)), "{put}");
    }
    ctl(&a, &["net", "show"]).good().says(&["nid: fd09::1@tcp2", "0: net_vhost0"]);
    // A port that the node does not drive.
    let other = ["net", "add", "--nid", "10.7.0.1@tcp4", "--if", "net_ring7"];
    ctl(&a, &other).failed(234, &["net_ring7", "net_vhost0", "ports are opened when it starts"]);
    ctl(&a, &["net", "add", "--nid", "10.9.0.255@tcp4"]).failed(234, &["errno: -22", "broadcast address"]);

    // One comes and goes, and what passes by the first does not notice.
    let mut put = start(&["put", "10.9.0.2@tcp3", "-t", "10", "-w", "1", "--json", "--node", &id]);
    for _ in 0..10 {
        for n in [&a, &b] {
            ctl(n, &["net", "del", "--net", "tcp1"]).good();
        }
        ctl(&a, &["ping", "10.8.0.2@tcp1"]).failed(255, &[]);
        ctl(&b, &["net", "add", "--nid", "10.8.0.2@tcp1"]).good();
        ctl(&a, &["net", "add", "--nid", "10.8.0.1@tcp1"]).good();
        ctl(&a, &["ping", "10.8.0.2@tcp1"]).good();
    }
    let lasted = put.runs();
    let put = put.end().good();
    assert!(lasted, "it was to last longer: {put:?}");
    let sum: serde_json::Value = serde_json::from_str(put.out.trim().lines().last().unwrap()).unwrap();
    assert_eq!(sum["crc_bad"].as_u64(), Some(0), "{put:?}");
    assert!(sum["messages"].as_u64().is_some_and(|n| n > 10), "{put:?}");
    for at in figures {
        openmetrics::page(at);
    }
    // All of them go, and the first comes back.
    for net in ["tcp", "tcp1", "tcp2", "tcp3"] {
        ctl(&a, &["net", "del", "--net", net]).good();
    }
    ctl(&a, &["net", "show"]).good().says(&["0@lo"]);
    ctl(&a, &["net", "add", "--nid", "10.9.0.1@tcp"]).good();
    ctl(&a, &["ping", "10.9.0.2@tcp"]).good();
    for node in [a, b] {
        let end = node.stop().good();
        for gone in ["quarantined", "lendings_out", "rx_lent_out", "rx_pool_bytes_in_use", "tx_copied_bytes"]
        {
            assert_eq!(end.counter(gone), 0, "{gone}: {end:?}");
        }
    }
}
