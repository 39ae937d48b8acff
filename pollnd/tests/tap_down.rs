//! A router on two TAPs in namespaces of their own, whose device is down for long under bulk: the driver takes nothing, which the
//! node does not see. When it is up again all goes on, as after a short time, and nothing is left lent.
//!
//! ```text
//!   10.93.0.1@tcp, in A ── TAP ── 10.93.0.2@tcp R 10.93.1.2@tcp1 ── TAP ── B: 10.93.1.1@tcp1
//! ```

#![cfg(feature = "dpdk")]
#![allow(missing_docs)]

#[allow(dead_code)]
mod lab;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::{Namespace, Proc, missing};
use serde_json::Value;

const A: &str = "10.93.0.1@tcp";
const B: &str = "10.93.1.1@tcp1";
/// Gateways are looked at once a second, and connections that are cut off end soon.
const TUNED: [&str; 6] = [
    "--tunable",
    "alive_router_check_interval=1",
    "--tunable",
    "router_ping_timeout=2",
    "--tunable",
    "lnet_transaction_timeout=6",
];
/// All is well again within this time: a bound for a run that hangs.
const LONG: Duration = Duration::from_secs(120);

struct World {
    sides: [Namespace; 2],
}

fn ip(args: &[&str]) {
    assert!(Command::new("ip").args(args).status().is_ok_and(|s| s.success()), "ip {args:?}");
}

impl World {
    /// The router, whose devices are moved to A and B.
    fn router(&self) -> Proc {
        let vdev = |side: usize| format!("net_tap{side},iface=td{side},mac=02:00:00:93:{side:02x}:02");
        let mut c = Command::new(env!("CARGO_BIN_EXE_pollnd"));
        c.args(["node", "--nid", "10.93.0.2@tcp", "--ni", "10.93.1.2@tcp1", "--routing"]);
        c.args(["--vdev", &vdev(0), "--vdev", &vdev(1)]).args(TUNED);
        c.args(["--lcores", "1", "--idle", "yield", "--prefix", "24", "--", "--no-huge"]);
        let mut router = Proc::start(c);
        router.wait_for("is up on");
        for (side, ns) in self.sides.iter().enumerate() {
            let tap = format!("td{side}");
            ip(&["link", "set", &tap, "netns", ns.name()]);
            ns.ip(&["addr", "add", &format!("10.93.{side}.1/24"), "dev", &tap]);
            ns.ip(&["link", "set", &tap, "up"]);
        }
        router
    }

    fn node(&self, side: usize, nid: &str) -> Proc {
        let way = ["tcp1 10.93.0.2@tcp", "tcp 10.93.1.2@tcp1"];
        let args = ["node", "--nid", nid, "--carrier", "sockets", "--route", way[side]];
        let mut node = Proc::start(self.sides[side].pollnd(&[&args[..], &TUNED].concat()));
        node.wait_for("is up on");
        node
    }

    /// Waits until a counter of the router's has grown by so much.
    fn until(router: &Proc, name: &str, by: u64) {
        let (before, end) = (count(router, name), Instant::now() + LONG);
        while count(router, name) < before + by {
            assert!(Instant::now() < end, "{name} does not grow: {}", router.said_so_far());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Puts and gets until one of each ends well.
    fn until_well(&self, router: &Proc) {
        let end = Instant::now() + LONG;
        for verb in ["put", "get"] {
            loop {
                let args = [verb, B, "--nid", A, "-c", "4", "-s", "1M", "--timeout", "3"];
                let out = self.sides[0].pollnd(&args).output().unwrap();
                if out.status.success() {
                    break;
                }
                let why = String::from_utf8_lossy(&out.stderr).into_owned();
                assert!(Instant::now() < end, "{verb}: {why}\n{}", router.said_so_far());
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Ends the bulk when it goes.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A counter of a node, summed over lcores.
fn count(node: &Proc, name: &str) -> u64 {
    let pid = node.id().to_string();
    let out = Command::new(env!("CARGO_BIN_EXE_pollnd"))
        .args(["stats", "--all", "--json", "--node", &pid])
        .output();
    let v: Value = serde_json::from_slice(&out.unwrap().stdout).unwrap();
    v["lcores"].as_array().unwrap().iter().filter_map(|l| l["counters"][name].as_u64()).sum()
}

#[test]
fn a_tap_that_was_down_for_long_under_bulk_serves_again() {
    if let Some(why) = missing(&[]) {
        println!("SKIP: a_tap_that_was_down_for_long_under_bulk_serves_again: {why}");
        return;
    }
    let w = World { sides: [Namespace::new(), Namespace::new()] };
    let router = w.router();
    let (server, client) = (w.node(1, B), w.node(0, A));
    w.until_well(&router);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        // Transfers that are cut off fail, and begin again. Each way has pages for one of the devices.
        for verb in ["put", "get"] {
            let (w, stop) = (&w, &stop);
            s.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let bulk = [verb, B, "--nid", A, "-t", "10", "-s", "1M", "--timeout", "3"];
                    let _ = w.sides[0].pollnd(&bulk).output().unwrap();
                }
            });
        }
        // A test that fails does not wait for it.
        let stops = Stops(&stop);
        // With bulk under way each way.
        World::until(&router, "lent", 64);
        w.sides[0].ip(&["link", "set", "td0", "down"]);
        // Until connections with pages in what the port does not take have been given up, and the pages with them.
        World::until(&router, "tx_unsent", 1);
        w.sides[0].ip(&["link", "set", "td0", "up"]);
        w.until_well(&router);
        drop(stops);
    });
    assert_eq!((count(&router, "port_restarts"), count(&router, "port_failed_starts")), (0, 0));
    let end = Instant::now() + LONG;
    while count(&router, "lendings_out") > 0 {
        assert!(Instant::now() < end, "pages are out: {}", router.said_so_far());
        std::thread::sleep(Duration::from_millis(100));
    }
    client.stop();
    server.stop();
    let said = router.stop_and_tell();
    assert!(!said.contains("ERROR") && !said.contains("stopping and starting"), "{said}");
}
