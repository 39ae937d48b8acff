//! Routers on two DPDK ports each, between two nodes over the kernel's TCP in network namespaces of their own: one is killed,
//! another is taken meanwhile, and the first serves again when it is back.
//!
//! ```text
//!   10.94.0.1@tcp, in A ──┬── TAP ── 10.94.0.2@tcp R1 10.94.1.2@tcp1 ── TAP ──┬── B: 10.94.1.1@tcp1
//!                         └── TAP ── 10.94.0.3@tcp R2 10.94.1.3@tcp1 ── TAP ──┘
//! ```

#![cfg(feature = "dpdk")]
#![allow(missing_docs)]

#[allow(dead_code)]
mod lab;

use std::process::Command;
use std::time::{Duration, Instant};

use lab::{Namespace, Proc, missing};
use serde_json::Value;

const A: &str = "10.94.0.1@tcp";
const B: &str = "10.94.1.1@tcp1";
/// Gateways are looked at once a second, so that a route comes and goes within the test.
const CHECKS: [&str; 4] =
    ["--tunable", "alive_router_check_interval=1", "--tunable", "router_ping_timeout=2"];
/// A route is up, or no longer taken, within this time: a bound for a run that hangs.
const LONG: Duration = Duration::from_secs(60);

/// Both namespaces; each has an address on every TAP device that is moved there.
struct World {
    sides: [Namespace; 2],
}

impl World {
    /// Starts router `n`, 2 or 3, and moves its TAP devices to where its users are.
    fn router(&self, n: u8) -> Proc {
        let tap = |side: usize| format!("rt{n}s{side}");
        let vdev =
            |side: usize| format!("net_tap{side},iface={},mac=02:00:00:94:{side:02x}:{n:02x}", tap(side));
        let (near, far) = (format!("10.94.0.{n}@tcp"), format!("10.94.1.{n}@tcp1"));
        let mut c = Command::new(env!("CARGO_BIN_EXE_pollnd"));
        c.args(["node", "--nid", &near, "--ni", &far, "--routing", "--vdev", &vdev(0), "--vdev", &vdev(1)]);
        c.args(CHECKS).args(["--lcores", "1", "--idle", "yield", "--prefix", "24", "--", "--no-huge"]);
        let mut router = Proc::start(c);
        router.wait_for("is up on");
        for (side, ns) in self.sides.iter().enumerate() {
            let (tap, own) = (tap(side), format!("10.94.{side}.1"));
            let moved = Command::new("ip").args(["link", "set", &tap, "netns", ns.name()]).status();
            assert!(moved.is_ok_and(|s| s.success()), "{tap}");
            ns.ip(&["addr", "add", &format!("{own}/32"), "dev", &tap]);
            ns.ip(&["link", "set", &tap, "up"]);
            ns.ip(&["route", "add", &format!("10.94.{side}.{n}/32"), "dev", &tap, "src", &own]);
        }
        router
    }

    /// A node of side `side` with routes by both routers.
    fn node(&self, side: usize, nid: &str) -> Proc {
        let other = ["tcp1", "tcp"][side];
        let own = ["tcp", "tcp1"][side];
        let by = |n: u8| format!("{other} 10.94.{side}.{n}@{own}");
        let (first, second) = (by(2), by(3));
        let routes = ["--route", &first, "--route", &second];
        let mut node = Proc::start(
            self.sides[side]
                .pollnd(&[&["node", "--nid", nid, "--carrier", "sockets"], &routes[..], &CHECKS].concat()),
        );
        node.wait_for("is up on");
        node
    }

    /// Runs a command of A's node until it ends well: a route may be down, or its gateway has just died.
    fn until_well(&self, args: &[&str]) -> String {
        let end = Instant::now() + LONG;
        loop {
            let out = self.sides[0].pollnd(args).args(["--nid", A]).output().unwrap();
            if out.status.success() {
                return String::from_utf8(out.stdout).unwrap();
            }
            assert!(Instant::now() < end, "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// PUTs and GETs of 1 MiB to B, each checked, and so many of each in all.
    fn bulk(&self, n: u64) {
        for what in ["put", "get"] {
            let count = n.to_string();
            let out = self.until_well(&[what, B, "-c", &count, "-s", "1M", "--json"]);
            let v: Value =
                out.lines().find_map(|l| serde_json::from_str(l).ok()).unwrap_or_else(|| panic!("{out}"));
            assert_eq!((v["messages"].as_u64(), v["crc_bad"].as_u64()), (Some(n), Some(0)), "{v}");
        }
    }

    /// A rule that delays A's messages for B at a router, and is deleted: they go on at once, and so does what is behind them.
    fn lets_go(&self, router: &Proc) {
        let id = router.id().to_string();
        let fault = |args: &[&str]| {
            let out = Command::new(env!("CARGO_BIN_EXE_pollnd"))
                .args([&["fault", "delay"], args, &["--node", &id]].concat())
                .output()
                .unwrap();
            assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap()
        };
        fault(&["add", "--source", A, "--dest", B, "--rate", "1", "--message", "PUT", "--latency", "1000"]);
        let put = |n: &str| self.sides[0].pollnd(&["put", B, "-c", n, "-s", "1M", "--nid", A]);
        // Routers take turns.
        let waits = Proc::start(put("2"));
        let end = Instant::now() + LONG;
        while fault(&["list", "--json"]).contains("\"hit\":0") {
            assert!(Instant::now() < end, "nothing is delayed: {}", fault(&["list"]));
            std::thread::sleep(Duration::from_millis(20));
        }
        fault(&["del", "--all"]);
        waits.finish();
        self.until_well(&["put", B, "-c", "2", "-s", "1M"]);
    }

    /// Whether A's node says of the routes by R1 and R2 that they are up.
    fn routes(&self, pid: u32) -> String {
        let pid = pid.to_string();
        let out = self.sides[0].pollnd(&["lnetctl", "route", "show", "-v", "--node", &pid]).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    }

    fn until_routes(&self, pid: u32, up: usize) {
        let end = Instant::now() + LONG;
        while self.routes(pid).matches("state: up").count() != up {
            assert!(Instant::now() < end, "{up} routes are to be up: {}", self.routes(pid));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A count of a router's end; a count of 0 is not printed.
fn count(out: &str, name: &str) -> u64 {
    let value = out.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |v| v.parse().unwrap_or_else(|_| panic!("{name} in {out}")))
}

/// It has passed on so many bytes at least, copied none of them, and has all it lent back.
fn went_down_well(out: &str, bytes: u64) {
    assert!(count(out, "forwarded_bytes") >= bytes, "{out}");
    for never in ["forward_copied_bytes", "rx_copied_bytes", "tx_copied_bytes", "linearised", "lendings_out"]
    {
        assert_eq!(count(out, never), 0, "{never}: {out}");
    }
}

#[test]
fn routers_on_two_ports_stand_in_for_each_other() {
    if let Some(why) = missing(&[]) {
        println!("SKIP: routers_on_two_ports_stand_in_for_each_other: {why}");
        return;
    }
    let w = World { sides: [Namespace::new(), Namespace::new()] };
    let (first, second) = (w.router(2), w.router(3));
    let (server, client) = (w.node(1, B), w.node(0, A));
    w.until_routes(client.id(), 2);
    w.until_well(&["ping", B]);
    w.bulk(32);
    for router in [&first, &second] {
        w.lets_go(router);
    }
    let quick = ["selftest", "quick", "--from", A, "--to", B, "--seconds", "2", "--check", "full"];
    assert!(w.until_well(&quick).contains("errors: 0"));
    first.kill();
    w.until_routes(client.id(), 1);
    w.until_well(&["ping", B]);
    w.bulk(32);
    let first = w.router(2);
    w.until_routes(client.id(), 2);
    w.bulk(32);
    client.stop();
    assert!(server.stop().contains("wrong 0"));
    // Each took its turn.
    went_down_well(&first.stop(), 8 << 20);
    went_down_well(&second.stop(), 32 << 20);
}
