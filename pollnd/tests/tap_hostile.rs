//! Hostile peers of a node that runs: over a DPDK port from the kernel's TCP in a namespace of the test's own, and over
//! kernel sockets on loopback. After each, what they made the node hold is given back within a stated bound, an honest
//! peer was served all the while (its p50 and p99 are printed), and the node goes down in order. Field reports 1 to 4.

#![cfg(feature = "dpdk")]
#![allow(missing_docs)]

mod hostile;
#[allow(dead_code)]
mod lab;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use hostile::{Honest, dial, gets, join, join_as, start, write_some};
use lab::{Lab, PORT, Proc, missing};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use transport::wire::ConnType;

/// The node on the port, who is hostile, and who is not.
const NODE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const MALLORY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const ALICE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 3);
/// How long what is given back may take: for one that is not, no measure.
const LIMIT: Duration = Duration::from_secs(20);
/// The budget of the nodes here, in MiB.
const BUDGET: u64 = 32;

/// False, and a line that says so, when the machine cannot run the test.
fn can(test: &str) -> bool {
    let why = missing(&[]);
    if let Some(why) = &why {
        println!("SKIP: {test}: {why}");
    }
    why.is_none()
}

/// A node under attack.
struct Victim {
    node: Proc,
    lab: Option<Lab>,
    at: Ipv4Addr,
    mallory: Ipv4Addr,
    alice: Ipv4Addr,
}

impl Victim {
    /// On a DPDK port, its peers in a namespace.
    fn on_port() -> Victim {
        let lab = Lab::new(9000, &[]);
        for ip in
            [ALICE, Ipv4Addr::new(10, 99, 0, 11), Ipv4Addr::new(10, 99, 0, 12), Ipv4Addr::new(10, 99, 0, 13)]
        {
            lab.add(ip);
        }
        let mut node = Proc::start(lab.port(&["node", "--budget", &BUDGET.to_string()]));
        node.wait_for("is up on");
        let _ = PORT;
        Victim { node, lab: Some(lab), at: NODE, mallory: MALLORY, alice: ALICE }
    }

    /// On loopback, at addresses of the test's own; `limit` descriptors at most, if so.
    fn on_sockets(n: u8, limit: Option<u32>) -> Victim {
        let pid = std::process::id();
        let ip = |last| Ipv4Addr::new(127, 192 + (pid >> 8 & 0x1f) as u8, pid as u8, n * 8 + last);
        let limit = limit.map_or(String::new(), |n| format!("ulimit -n {n}; "));
        let mut c = Command::new("sh");
        c.arg("-c").arg(format!(
            "{limit}exec {} node --nid {}@tcp --budget {BUDGET}",
            env!("CARGO_BIN_EXE_pollnd"),
            ip(1)
        ));
        let mut node = Proc::start(c);
        node.wait_for("is up on");
        Victim { node, lab: None, at: ip(1), mallory: ip(2), alice: ip(3) }
    }

    /// Runs `f` where the peers are.
    fn peers<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        match &self.lab {
            Some(lab) => lab.within(f),
            None => f(),
        }
    }

    /// A counter of the node's now, summed over lcores.
    fn count(&self, name: &str) -> u64 {
        let pid = self.node.id().to_string();
        let end = Instant::now() + LIMIT;
        loop {
            let mut c = Command::new(env!("CARGO_BIN_EXE_pollnd"));
            let out = c.args(["stats", "--node", &pid, "--json"]).output().unwrap();
            if let Ok(v) = serde_json::from_slice::<Value>(&out.stdout) {
                let lcores = v["lcores"].as_array().unwrap().iter();
                return lcores.filter_map(|l| l["counters"][name].as_u64()).sum();
            }
            // Its control socket takes a descriptor, too.
            assert!(Instant::now() < end, "{out:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Anonymous memory of the node's process, in MiB.
    fn anon(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.node.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() >> 10
    }

    /// Waits until a gauge is at most so much.
    fn until_at_most(&self, name: &str, most: u64) {
        let end = Instant::now() + LIMIT;
        loop {
            let n = self.count(name);
            if n <= most {
                return;
            }
            assert!(Instant::now() < end, "{name} is {n}, not {most} or less");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What only an honest peer with one connection holds is left, and the node goes down in order.
    fn recovers(self, test: &str, honest: Honest) {
        self.until_at_most("conns", 1);
        for (gauge, most) in [
            ("budget_answers", 2048),
            ("budget_handshakes", 0),
            ("budget_conns", 4096),
            ("budget_stalled", 0),
            ("lendings_out", 0),
            ("rx_lent_out", 0),
            // What the port's ring and the flow of the honest peer hold for a moment.
            ("rx_pool_bytes_in_use", 256 << 10),
        ] {
            self.until_at_most(gauge, most);
        }
        honest.tell(test);
        let anon = self.anon();
        println!("{test}: RssAnon {anon} MiB at the end");
        let Victim { node, lab, .. } = self;
        node.stop();
        drop(lab);
    }

    fn honest(&self) -> Honest {
        let (alice, at) = (self.alice, self.at);
        self.peers(|| Honest::new(alice, at))
    }
}

/// Field report 1: refused HELLOs with bytes that nobody reads behind them.
fn refused_hellos_with_unread_bytes(test: &str, v: Victim) {
    let mut honest = v.honest();
    let (mallory, at) = (v.mallory, v.at);
    v.peers(|| {
        for i in 0..80u16 {
            let mut s = dial(mallory, 1022 - i, at).unwrap();
            let mut bytes = vec![b'x'; 60_016];
            bytes[..16].copy_from_slice(&[0x63, 0x69, 0x72, 0x45, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            let _ = s.write_all(&bytes);
            let mut refusal = [0; 16];
            // The kernel's TCP may lose it: it resets whoever sends what is not read.
            let _ = s.read_exact(&mut refusal);
            let _ = s.shutdown(Shutdown::Write);
            let _ = s.set_read_timeout(Some(Duration::from_secs(2)));
            let _ = s.read_to_end(&mut Vec::new());
            if i % 4 == 0 {
                honest.ping();
            }
        }
    });
    v.recovers(test, honest);
}

/// Field report 2: one host, 300 pids, GETs of 1 MiB that it never reads.
fn pids_that_never_read(test: &str, v: Victim) {
    let mut honest = v.honest();
    let before = v.anon();
    let (mallory, at) = (v.mallory, v.at);
    let mut most = 0;
    let socks: Vec<TcpStream> = v.peers(|| {
        let mut socks: Vec<TcpStream> =
            (0..300u16).map(|i| join(mallory, 1022 - i, 1000 + u32::from(i), at).unwrap()).collect();
        for (i, s) in socks.iter_mut().enumerate() {
            write_some(s, &gets((mallory, 1000 + i as u32), at, 1000), Duration::from_millis(4));
            if i % 3 == 0 {
                honest.ping();
            }
        }
        for _ in 0..200 {
            honest.ping();
            most = most.max(v.anon());
        }
        socks
    });
    let used = v.count("budget_used") >> 20;
    println!(
        "{test}: RssAnon {before} MiB before, {most} MiB at most; {used} MiB charged, {} stalled",
        v.count("budget_stalled")
    );
    assert!(used <= BUDGET / 2 + 1, "{used} MiB charged");
    // What is charged, and buffers that stand unread at the runtime.
    assert!(most <= before + BUDGET + 48, "{before} MiB before, {most} MiB at most");
    drop(socks);
    v.recovers(test, honest);
}

/// Field report 3: answers to peers that left, and to peers that stay and never close.
fn down_with_answers_queued(test: &str, v: Victim, stays: bool) {
    let mut honest = v.honest();
    let (mallory, at) = (v.mallory, v.at);
    let left = v.peers(|| {
        let mut set: Vec<TcpStream> = [ConnType::Control, ConnType::BulkIn, ConnType::BulkOut]
            .into_iter()
            .zip(1000..)
            .map(|(t, port)| join_as(mallory, port, 12345, at, t).unwrap())
            .collect();
        write_some(&mut set[0], &gets((mallory, 12345), at, 4500), Duration::from_millis(500));
        (0..50).for_each(|_| honest.ping());
        stays.then_some(set)
    });
    // Those that left are noticed, or not yet: it is all the same.
    honest.tell(test);
    let Victim { node, lab, .. } = v;
    node.stop();
    drop((left, lab));
}

fn half_messages_and_mute_connections(test: &str, v: Victim, hosts: &[Ipv4Addr]) {
    let mut honest = v.honest();
    let (at, whole) = (v.at, gets((v.mallory, 12345), v.at, 1));
    v.peers(|| {
        let mut socks = Vec::new();
        for i in 0..2000usize {
            let host = hosts[i / 500];
            let Ok(mut s) = dial(host, 1022 - (i % 500) as u16, at) else { continue };
            let pid = 2000 + i as u32;
            let said = match i % 4 {
                0 => Vec::new(),
                1 => start(host, pid, at, ConnType::Control)[..1 + i % 71].to_vec(),
                2 => start(host, pid, at, ConnType::Control),
                _ => [start(host, pid, at, ConnType::Control), whole[..1 + i % (whole.len() - 1)].to_vec()]
                    .concat(),
            };
            let _ = s.write_all(&said);
            socks.push(s);
            if i % 20 == 0 {
                honest.ping();
            }
        }
        println!("{test}: {} connections", socks.len());
        honest.ping();
    });
    v.recovers(test, honest);
}

/// Answers to sources that lead nowhere.
fn answers_to_nobody(test: &str, v: Victim) {
    let mut honest = v.honest();
    let (mallory, at) = (v.mallory, v.at);
    v.peers(|| {
        let mut s = join(mallory, 1000, 12345, at).unwrap();
        for i in 0..500u32 {
            let [a, b, ..] = at.octets();
            let nobody = Ipv4Addr::new(a, b, 0, 100 + (i % 100) as u8);
            let _ = s.write_all(&gets((nobody, 12345 + i), at, 4));
            if i % 10 == 0 {
                honest.ping();
            }
        }
        honest.ping();
    });
    let used = v.count("budget_used");
    assert!(used <= BUDGET << 19, "{used}");
    honest.tell(test);
    let Victim { node, lab, .. } = v;
    node.stop();
    drop(lab);
}

macro_rules! on_port {
    ($($name:ident($($more:expr),*) => $test:ident;)*) => {$(
        #[test]
        fn $test() {
            if can(stringify!($test)) {
                $name(stringify!($test), Victim::on_port() $(, $more)*);
            }
        }
    )*};
}

on_port! {
    refused_hellos_with_unread_bytes() => report_1_on_a_port;
    pids_that_never_read() => report_2_on_a_port;
    down_with_answers_queued(false) => report_3_on_a_port_from_peers_that_left;
    down_with_answers_queued(true) => report_3_on_a_port_from_peers_that_stay;
    half_messages_and_mute_connections(&[
        MALLORY,
        Ipv4Addr::new(10, 99, 0, 11),
        Ipv4Addr::new(10, 99, 0, 12),
        Ipv4Addr::new(10, 99, 0, 13),
    ]) => half_messages_and_mute_connections_on_a_port;
    answers_to_nobody() => answers_to_nobody_on_a_port;
}

macro_rules! on_sockets {
    ($($n:expr, $name:ident($($more:expr),*) => $test:ident;)*) => {$(
        #[test]
        fn $test() {
            if can(stringify!($test)) {
                $name(stringify!($test), Victim::on_sockets($n, None) $(, $more)*);
            }
        }
    )*};
}

on_sockets! {
    1, refused_hellos_with_unread_bytes() => report_1_on_sockets;
    2, pids_that_never_read() => report_2_on_sockets;
    3, down_with_answers_queued(false) => report_3_on_sockets_from_peers_that_left;
    4, down_with_answers_queued(true) => report_3_on_sockets_from_peers_that_stay;
    5, answers_to_nobody() => answers_to_nobody_on_sockets;
}

#[test]
fn half_messages_and_mute_connections_on_sockets() {
    const TEST: &str = "half_messages_and_mute_connections_on_sockets";
    if can(TEST) {
        let v = Victim::on_sockets(6, None);
        let [a, b, c, d] = v.mallory.octets();
        let hosts = [0, 2, 3, 4].map(|n| Ipv4Addr::new(a, b, c, d + n));
        half_messages_and_mute_connections(TEST, v, &hosts);
    }
}

/// Field report 4: a listener was deaf for good after descriptors had run out.
#[test]
fn report_4_descriptors_run_out_and_come_back() {
    const TEST: &str = "report_4_descriptors_run_out_and_come_back";
    if !can(TEST) {
        return;
    }
    let v = Victim::on_sockets(7, None);
    // Fewer than it knows of: of those that it knows of one host leaves some (below).
    let few = Rlimit { current: Some(48), maximum: Some(48) };
    prlimit(Pid::from_raw(v.node.id().cast_signed()), Resource::Nofile, few).unwrap();
    let mut honest = v.honest();
    // More than there are descriptors, and than the kernel lets wait: its handshakes may fail or hang for some.
    let socks: Vec<TcpStream> = (0..120u16).filter_map(|i| dial(v.mallory, 1022 - i, v.at).ok()).collect();
    for _ in 0..50 {
        honest.ping();
    }
    v.until_at_most("conns", 48);
    assert!(v.count("accept_waits") > 0, "descriptors have run out");
    drop(socks);
    // It hears again.
    let mut late = Honest::new(Ipv4Addr::from(u32::from(v.alice) + 1), v.at);
    late.ping();
    drop(late);
    let said = v.node.said_so_far();
    assert_eq!(said.matches("cannot accept connections now").count(), 1, "{said}");
    v.recovers(TEST, honest);
}

/// Field report 4: one host with idle connections had all descriptors, for as long as it liked: no other was connected, and
/// `pollnd stats` had no answer.
#[test]
fn report_4_one_host_leaves_descriptors_to_others() {
    const TEST: &str = "report_4_one_host_leaves_descriptors_to_others";
    if !can(TEST) {
        return;
    }
    let v = Victim::on_sockets(8, Some(48));
    let mut honest = v.honest();
    let idle = |i: u16| join(v.mallory, 1022 - i, 1000 + u32::from(i), v.at).ok();
    let socks: Vec<TcpStream> = (0..60).filter_map(idle).collect();
    assert!((8..=24).contains(&socks.len()), "{} connections", socks.len());
    let mut late = Honest::new(Ipv4Addr::from(u32::from(v.alice) + 1), v.at);
    late.ping();
    honest.ping();
    drop(late);
    assert!(v.count("err_over_budget") > 0 && v.count("accept_waits") == 0);
    drop(socks);
    v.recovers(TEST, honest);
}
