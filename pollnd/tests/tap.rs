//! A node on a DPDK port against the Linux kernel's TCP, over a TAP device in a namespace of the test's own.

#![cfg(feature = "dpdk")]
#![allow(missing_docs)]

#[allow(dead_code)]
mod lab;

use std::process::Command;
use std::time::{Duration, Instant};

use lab::{KERNEL, KERNEL6, Lab, Namespace, PORT, PORT6, Proc, missing};
use serde_json::Value;

/// False, and a line that says so, when the machine cannot run the test.
fn can(test: &str, tools: &[&str]) -> bool {
    let why = missing(tools);
    if let Some(why) = &why {
        println!("SKIP: {test}: {why}");
    }
    why.is_none()
}

/// MiB of the large transfers: 1024 unless POLLND_TAP_MIB says less, for debugging.
fn large() -> u64 {
    std::env::var("POLLND_TAP_MIB").ok().and_then(|s| s.parse().ok()).unwrap_or(1024)
}

fn json(out: &str) -> Value {
    out.lines().find_map(|l| serde_json::from_str(l).ok()).unwrap_or_else(|| panic!("no JSON in {out}"))
}

/// A counter of a node's end: a line of its own, left out when 0.
fn counter(out: &str, name: &str) -> u64 {
    let value = out.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |v| v.parse().unwrap_or_else(|_| panic!("{name} in {out}")))
}

/// The client's report: everything sent once, nothing copied on the way out, and it went down in order.
fn sent(what: &str, out: &str, n: u64) {
    let v = json(out);
    assert_eq!(v["messages"].as_u64(), Some(n), "{v}");
    assert_eq!((v["clean"].as_bool(), v["crc_bad"].as_u64()), (Some(true), Some(0)), "{v}");
    let gbit = v["bytes"].as_f64().unwrap() * 8e-9 / v["wall_s"].as_f64().unwrap();
    println!("{what}: {gbit:.2} Gbit/s, {}", v);
}

/// The server's report: so many PUTs came, and each had the bytes that were sent.
fn checked(out: &str, n: u64) {
    assert!(out.contains(&format!("{n} PUTs,")), "{out}");
    assert!(out.contains(&format!("checked {n}, wrong 0")), "{out}");
}

/// The kernel's counters that must be 0 on a wire that neither loses nor delays.
fn sane(lab: &Lab) {
    sane_with_faults(lab);
    none_of(
        lab,
        &[
            // A node that goes down resets a connection whose other end has not closed in time: FINs that were lost, and sent
            // again, may be too late.
            "TcpExtTCPAbortOnData",
            "TcpEstabResets",
            // A RST behind a lost segment is not where the kernel expects it: it asks (RFC 5961 §3.2). So it does when a SYN-ACK
            // comes twice, since the ACK of the first one was lost (§4.2).
            "TcpExtTCPChallengeACK",
            "TcpExtTCPACKSkippedSeq",
            "TcpExtTCPSYNChallenge",
            // A frame that was held for some milliseconds has a timestamp older than the last one (RFC 7323 §5).
            "TcpExtPAWSEstab",
            "TcpExtTCPACKSkippedPAWS",
        ],
    );
}

/// The kernel's counters that must be 0, whatever the wire does.
fn sane_with_faults(lab: &Lab) {
    none_of(
        lab,
        &[
            "TcpInCsumErrors",
            "IpInHdrErrors",
            "IpInAddrErrors",
            "TcpExtTCPAbortOnTimeout",
            "TcpExtTCPAbortFailed",
            "TcpExtTCPBacklogDrop",
            // SACK blocks that make no sense.
            "TcpExtTCPSACKDiscard",
        ],
    );
    // A SYN-ACK that comes twice is one of these, too.
    assert!(
        count(lab, "TcpInErrs") <= count(lab, "TcpExtTCPSYNChallenge"),
        "TcpInErrs in {:?}",
        lab.counters()
    );
}

fn none_of(lab: &Lab, names: &[&str]) {
    let c = lab.counters();
    for name in names {
        assert_eq!(c.get(*name), None, "{name} in {c:?}");
    }
}

fn count(lab: &Lab, name: &str) -> u64 {
    lab.counters().get(name).copied().unwrap_or(0)
}

/// `n` messages of so many bytes from the port's side to the kernel's, and as many back; both servers check each byte.
fn puts_each_way(what: &str, lab: &Lab, n: u64, bytes: u32) {
    let (count, size) = (n.to_string(), bytes.to_string());
    let more = ["--count", &count, "--size", &size, "--json"];
    let args = [&["put", KERNEL], &more[..]].concat();
    let mut node = Proc::start(lab.kernel(&["node"]));
    node.wait_for("is up on");
    let out = Proc::start(lab.port(&args)).finish();
    sent(&format!("{what}, port to kernel"), &out, n);
    assert_eq!(json(&out)["tx_copied_bytes"].as_u64(), Some(0), "{out}");
    checked(&node.stop(), n);

    let args = [&["put", PORT], &more[..]].concat();
    let mut node = Proc::start(lab.port(&["node"]));
    node.wait_for("is up on");
    sent(&format!("{what}, kernel to port"), &Proc::start(lab.kernel(&args)).finish(), n);
    let end = node.stop();
    checked(&end, n);
    // Of what came, the infos of discovery go to no application.
    let taken = counter(&end, "rx_lent_bytes") + counter(&end, "rx_copied_bytes");
    assert_eq!(taken, n * u64::from(bytes), "{end}");
    for c in ["tx_copied_bytes", "lendings_out", "rx_lent_out", "rx_pool_bytes_in_use", "quarantined"] {
        assert_eq!(counter(&end, c), 0, "{c}: {end}");
    }
}

/// A second network on the address of the port, and one more address: each is dialled through the kernel's TCP.
#[test]
fn the_nis_of_a_port_are_reached_through_the_kernel() {
    if !can("the_nis_of_a_port_are_reached_through_the_kernel", &[]) {
        return;
    }
    let lab = Lab::new(9000, &[]);
    let nis = ["10.99.0.2@tcp1", "10.99.0.9@tcp2"];
    let mut node = Proc::start(lab.port(&["node", "--ni", nis[0], "--ni", nis[1]]));
    node.wait_for(&format!("{PORT}, {}, {} is up on", nis[0], nis[1]));
    for (own, target) in [(KERNEL, PORT), ("10.99.0.1@tcp1", nis[0]), ("10.99.0.1@tcp2", nis[1])] {
        let out = Proc::start(lab.kernel_as(own, &["ping", target])).finish();
        assert!([PORT, nis[0], nis[1]].iter().all(|n| out.contains(&format!("12345-{n}"))), "{out}");
        let args = ["put", target, "--count", "4", "--size", "1000000", "--json"];
        sent(target, &Proc::start(lab.kernel_as(own, &args)).finish(), 4);
    }
    let end = node.stop();
    checked(&end, 12);
    for c in
        ["err_dest_nid", "err_target_nid", "tx_copied_bytes", "lendings_out", "rx_lent_out", "quarantined"]
    {
        assert_eq!(counter(&end, c), 0, "{c}: {end}");
    }
}

#[test]
fn pings_cross_both_ways() {
    if !can("pings_cross_both_ways", &[]) {
        return;
    }
    for mtu in [1500, 9000] {
        let lab = Lab::new(mtu, &[]);
        let mut node = Proc::start(lab.kernel(&["node"]));
        node.wait_for("is up on");
        let out = Proc::start(lab.port(&["ping", KERNEL, "--count", "2"])).finish();
        assert_eq!(out.matches(KERNEL).count(), 2, "{out}");
        node.stop();
        let mut node = Proc::start(lab.port(&["node"]));
        node.wait_for("is up on");
        let out = Proc::start(lab.kernel(&["ping", PORT, "--count", "2"])).finish();
        assert_eq!(out.matches(PORT).count(), 2, "{out}");
        node.stop();
        sane(&lab);
    }
}

/// Field report L6: the peers of a node that was killed learn of the new one when it starts, not when they next need it.
#[test]
fn a_node_that_was_killed_is_seen_again_when_it_starts() {
    if !can("a_node_that_was_killed_is_seen_again_when_it_starts", &[]) {
        return;
    }
    let lab = Lab::new(1500, &[]);
    let mut far = Proc::start(lab.kernel(&["node"]));
    far.wait_for("is up on");
    let start = || {
        let mut near = Proc::start(lab.port(&["node"]));
        near.wait_for("is up on");
        near
    };
    // The kernel may answer the SYN of a used port with a challenge ACK and so lose one old connection before the HELLO with
    // the new incarnation comes: that is no reboot then, but the old set goes all the same.
    let renewed = || {
        let stats = Command::new(env!("CARGO_BIN_EXE_pollnd"))
            .args(["stats", "--json", "--node", &far.id().to_string()])
            .output()
            .unwrap();
        let v: Value = serde_json::from_slice(&stats.stdout).unwrap();
        let count = |name: &str| v["lcores"][0]["counters"][name].as_u64().unwrap();
        if count("conns") == 0 { 0 } else { count("sets_closed") }
    };
    let wait = |what: &str, ready: &mut dyn FnMut() -> bool| {
        let begun = Instant::now();
        while !ready() {
            assert!(begun.elapsed() < Duration::from_secs(60), "no {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
        begun.elapsed()
    };
    let mut near = start();
    // Through the node that runs there.
    let ping = || Proc::start(lab.kernel(&["ping", PORT])).finish();
    ping();
    for n in 1..=3 {
        wait("list of peers", &mut || lab.known(PORT).iter().any(|l| l == KERNEL));
        near.kill();
        near = start();
        let took = wait("news of the restart", &mut || renewed() == n);
        println!(
            "after kill -9, restart {n}: its peer knew {:.0} ms after it was up",
            took.as_secs_f64() * 1e3
        );
        assert!(ping().contains(PORT));
    }
    near.stop();
    assert!(lab.known(PORT).is_empty());
    // Three that were killed, and one that went in order.
    let end = far.stop();
    assert_eq!(counter(&end, "sets_closed"), 4, "{end}");
    assert!(counter(&end, "peers_rebooted") <= 3, "{end}");
}

#[test]
fn ipv6_in_version_4_both_ways() {
    if !can("ipv6_in_version_4_both_ways", &[]) {
        return;
    }
    for mtu in [1500, 9000] {
        let lab = Lab::new(mtu, &[]);
        lab.add6();
        let bulk = |way, nid| [way, nid, "--count", "64", "--json"];
        let mut node = Proc::start(lab.kernel_as(KERNEL6, &["node"]));
        node.wait_for("is up on");
        let out = Proc::start(lab.port_as(PORT6, &["ping", KERNEL6, "--count", "2"])).finish();
        assert_eq!(out.matches(KERNEL6).count(), 2, "{out}");
        sent("PUT, port to kernel", &Proc::start(lab.port_as(PORT6, &bulk("put", KERNEL6))).finish(), 64);
        sent("GET, kernel to port", &Proc::start(lab.port_as(PORT6, &bulk("get", KERNEL6))).finish(), 64);
        checked(&node.stop(), 64);
        let mut node = Proc::start(lab.port_as(PORT6, &["node"]));
        node.wait_for("is up on");
        let out = Proc::start(lab.kernel_as(KERNEL6, &["ping", PORT6, "--count", "2"])).finish();
        assert_eq!(out.matches(PORT6).count(), 2, "{out}");
        sent("PUT, kernel to port", &Proc::start(lab.kernel_as(KERNEL6, &bulk("put", PORT6))).finish(), 64);
        sent("GET, port to kernel", &Proc::start(lab.kernel_as(KERNEL6, &bulk("get", PORT6))).finish(), 64);
        let end = node.stop();
        checked(&end, 64);
        for c in ["tx_copied_bytes", "lendings_out", "rx_lent_out", "rx_pool_bytes_in_use", "quarantined"] {
            assert_eq!(counter(&end, c), 0, "{c}: {end}");
        }
        sane(&lab);
    }
}

#[test]
fn a_gibibyte_each_way_arrives_byte_for_byte() {
    if !can("a_gibibyte_each_way_arrives_byte_for_byte", &[]) {
        return;
    }
    let lab = Lab::new(9000, &[]);
    puts_each_way("MTU 9000", &lab, large(), 1 << 20);
    sane(&lab);
    let wire = lab.wire();
    for way in ["to_tap", "to_vhost"] {
        assert!(wire.get(way, "bytes") > large() << 20, "{wire:?}");
        assert!(wire.get(way, "supers") > large(), "super-segments cross whole: {wire:?}");
    }
}

#[test]
fn gets_bring_every_byte_both_ways() {
    if !can("gets_bring_every_byte_both_ways", &[]) {
        return;
    }
    let lab = Lab::new(9000, &[]);
    let n = large() / 4;
    let count = n.to_string();
    let mut node = Proc::start(lab.kernel(&["node"]));
    node.wait_for("is up on");
    sent(
        "GET, kernel to port",
        &Proc::start(lab.port(&["get", KERNEL, "--count", &count, "--json"])).finish(),
        n,
    );
    node.stop();
    let mut node = Proc::start(lab.port(&["node"]));
    node.wait_for("is up on");
    sent(
        "GET, port to kernel",
        &Proc::start(lab.kernel(&["get", PORT, "--count", &count, "--json"])).finish(),
        n,
    );
    let end = node.stop();
    assert_eq!(counter(&end, "tx_copied_bytes"), 0, "{end}");
    // Pieces under 512 bytes, at the end of a frame, travel with its headers.
    let (attached, small) = (counter(&end, "tx_attached_bytes"), counter(&end, "tx_short_bytes"));
    // Each byte once, and what a probe of the tail may have sent again.
    let (sent, want) = (attached + small, n << 20);
    assert!((want..want + want / 100).contains(&sent), "{sent} of {want}: {end}");
    assert!(small < (n << 20) / 100, "{end}");
    sane(&lab);
}

#[test]
fn at_1500_bytes_with_and_without_segmentation_by_the_device() {
    if !can("at_1500_bytes_with_and_without_segmentation_by_the_device", &[]) {
        return;
    }
    let lab = Lab::new(1500, &[]);
    puts_each_way("MTU 1500", &lab, large() / 4, 1 << 20);
    sane(&lab);
    drop(lab);
    // Checksums filled in before the kernel sees them: it verifies each one.
    let lab = Lab::new(1500, &["--complete"]);
    puts_each_way("MTU 1500, no TSO, checksums judged", &lab, large() / 16, 1 << 20);
    sane(&lab);
    let wire = lab.wire();
    assert_eq!((wire.get("to_tap", "supers"), wire.get("to_vhost", "supers")), (0, 0), "{wire:?}");
    assert!(wire.get("to_tap", "partial") > 1000, "the port left checksums to the device: {wire:?}");
}

/// Bytes each way, in MiB, that a test with losses moves: enough for hundreds of losses, or for a few where each one
/// is rare.
fn lossy() -> u64 {
    (large() / 16).max(1)
}

#[test]
fn with_losses_everything_still_arrives() {
    if !can("with_losses_everything_still_arrives", &[]) {
        return;
    }
    for (rate, share) in [("0.001", 1), ("0.01", 1), ("0.05", 4)] {
        let lab = Lab::new(1500, &["--no-tso", "--loss", rate, "--loss-back", rate]);
        puts_each_way(&format!("{rate} lost"), &lab, (lossy() / share).max(1), 1 << 20);
        assert!(count(&lab, "TcpRetransSegs") > 0, "the kernel had to send again");
        sane_with_faults(&lab);
        let wire = lab.wire();
        assert!(wire.get("injected", "lost") > 10 && wire.get("to_vhost", "lost") > 10, "{wire:?}");
    }
}

#[test]
fn out_of_order_everything_still_arrives() {
    if !can("out_of_order_everything_still_arrives", &[]) {
        return;
    }
    let lab = Lab::new(1500, &["--no-tso", "--reorder", "0.02", "--reorder-back", "0.02"]);
    puts_each_way("2 % out of order", &lab, lossy(), 1 << 20);
    assert!(count(&lab, "TcpExtTCPOFOQueue") > 10, "the kernel saw the disorder");
    sane_with_faults(&lab);
    let held = count(&lab, "TcpExtPAWSEstab");
    let wire = lab.wire();
    assert!(held <= wire.get("injected", "reordered"), "{held} old timestamps, {wire:?}");
    assert!(wire.get("injected", "reordered") > 100 && wire.get("to_vhost", "reordered") > 100, "{wire:?}");
}

/// A capture as tshark reads it: a row a frame, a column a field, several values in a column.
struct Decoded(Vec<Vec<Vec<String>>>);

const FIELDS: [&str; 11] = [
    "ip.src",
    "lnet.ksm_type",
    "lnet.ksm_zc_req_cookie",
    "lnet.ksm_zc_ack_cookie",
    "lnet.msg_type",
    "lnet.nid.addr",
    "lnet.payload_length",
    "lnet.msg_dst_match_bits",
    "lnet.ptl_index",
    "_ws.malformed",
    "_ws.expert.message",
];

impl Decoded {
    fn of(lab: &Lab, file: &std::path::Path) -> Decoded {
        let mut c = lab.inside("tshark");
        c.arg("-r").arg(file).args(["-d", "tcp.port==988,lnet", "-T", "fields", "-E", "aggregator=|"]);
        for f in FIELDS {
            c.args(["-e", f]);
        }
        let out = c.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let values = |s: &str| s.split('|').filter(|v| !v.is_empty()).map(str::to_owned).collect();
        Decoded(text.lines().map(|l| l.split('\t').map(values).collect()).collect())
    }

    fn column<'a>(row: &'a [Vec<String>], name: &str) -> &'a [String] {
        &row[FIELDS.iter().position(|f| *f == name).unwrap()]
    }

    /// All values of a field in packets from `src`.
    fn all(&self, src: &str, name: &str) -> Vec<&str> {
        let from = self.0.iter().filter(|r| Self::column(r, "ip.src").iter().any(|s| s == src));
        from.flat_map(|r| Self::column(r, name)).map(String::as_str).collect()
    }

    /// Count of this value of a field in packets from `src`.
    fn count(&self, src: &str, name: &str, value: &str) -> usize {
        self.all(src, name).iter().filter(|v| **v == value).count()
    }
}

/// A node on net_tap, and the namespace whose kernel is at the other end.
fn on_net_tap() -> (Namespace, Proc) {
    let ns = Namespace::new();
    let node = ["node", "--nid", PORT, "--vdev", "net_tap0,iface=dtap0", "--", "--no-huge"];
    let mut node = Proc::start(ns.pollnd(&node));
    node.wait_for("is up on");
    ns.ip(&["addr", "add", "10.99.0.1/24", "dev", "dtap0"]);
    ns.ip(&["link", "set", "dtap0", "up"]);
    (ns, node)
}

#[test]
fn report_5_net_tap_carries_bulk() {
    if !can("report_5_net_tap_carries_bulk", &[]) {
        return;
    }
    let (ns, node) = on_net_tap();
    let me = [PORT, "--nid", KERNEL, "--json"];
    for (way, count, size) in [("get", 1, 16_384), ("get", 64, 1 << 20), ("put", 64, 1 << 20)] {
        let (c, s) = (count.to_string(), size.to_string());
        let out = Proc::start(ns.pollnd(&[&[way, "-c", &c, "-s", &s], &me[..]].concat())).finish();
        sent(&format!("net_tap, {way}"), &out, count);
    }
    checked(&node.stop(), 64);
}

/// Pieces of odd lengths, which net_tap's own checksums are wrong for: messages came by retransmissions of other cuts, or never.
#[test]
fn messages_of_odd_sizes_cross_net_tap_as_they_are() {
    if !can("messages_of_odd_sizes_cross_net_tap_as_they_are", &[]) {
        return;
    }
    let (ns, node) = on_net_tap();
    for size in ["1", "1447", "4097", "65537", "1048575"] {
        for way in ["put", "get"] {
            let args = [way, PORT, "--nid", KERNEL, "-c", "64", "-s", size, "--json"];
            sent(&format!("net_tap, {way} of {size}"), &Proc::start(ns.pollnd(&args)).finish(), 64);
        }
    }
    let end = node.stop();
    checked(&end, 5 * 64);
    let kernel = ns.counters().unwrap();
    assert_eq!(kernel.get("TcpInCsumErrors"), None, "{kernel:?}");
    assert_eq!(counter(&end, "linearised"), 0, "{end}");
}

/// Two namespaces joined by a veth pair: `va` in the first, and `vb` in the second with the address of [`KERNEL`].
fn veth() -> (Namespace, Namespace) {
    let (ours, kernels) = (Namespace::new(), Namespace::new());
    ours.ip(&["link", "add", "va", "type", "veth", "peer", "name", "vb", "netns", kernels.name()]);
    ours.ip(&["link", "set", "va", "up"]);
    kernels.ip(&["addr", "add", "10.99.0.1/24", "dev", "vb"]);
    kernels.ip(&["link", "set", "vb", "up"]);
    (ours, kernels)
}

#[test]
fn report_19_af_packet_beside_a_kernel_on_a_veth() {
    if !can("report_19_af_packet_beside_a_kernel_on_a_veth", &[]) {
        return;
    }
    let (ours, kernels) = veth();
    let args = ["node", "--nid", PORT, "--vdev", "net_af_packet0,iface=va", "--", "--no-huge"];
    let mut node = Proc::start(ours.pollnd(&args));
    node.wait_for("is up on");
    // The check at the start names the line that mends it, since the other end cannot be seen.
    node.wait_for("ethtool -K PEER tso off");
    let me = [PORT, "--nid", KERNEL];
    // Checksums that are only begun are no wrong ones: with the other end's offloads as they are.
    let out = Proc::start(kernels.pollnd(&[&["ping", "-c", "2"], &me[..]].concat())).finish();
    assert_eq!(out.matches("time ").count(), 2, "{out}");
    let get = ["get", "-c", "20", "--json"];
    sent("AF_PACKET, get", &Proc::start(kernels.pollnd(&[&get, &me[..]].concat())).finish(), 20);
    // Super-segments do not fit the ring; without them its TCP sends bulk, too.
    kernels.ip(&["link", "set", "vb", "gso_max_segs", "1"]);
    let put = ["put", "-c", "20", "--json"];
    sent("AF_PACKET, put", &Proc::start(kernels.pollnd(&[&put, &me[..]].concat())).finish(), 20);
    checked(&node.stop(), 20);
    // A kernel that has the port's address, too, answers in its place.
    ours.ip(&["addr", "add", "10.99.0.2/24", "dev", "va"]);
    let mut node = Proc::start(ours.pollnd(&args));
    node.wait_for("ip addr del 10.99.0.2/24 dev va");
    node.wait_for("is up on");
    node.stop();
}

/// A warning of the start is said again where something fails by it.
#[test]
fn report_19_an_operation_that_fails_by_cut_frames_names_what_mends_them() {
    if !can("report_19_an_operation_that_fails_by_cut_frames_names_what_mends_them", &[]) {
        return;
    }
    let (ours, kernels) = veth();
    let mut node = Proc::start(kernels.pollnd(&["node", "--nid", KERNEL]));
    node.wait_for("is up on");
    let get = [
        "get",
        KERNEL,
        "--nid",
        PORT,
        "--vdev",
        "net_af_packet0,iface=va",
        "--timeout",
        "3",
        "--",
        "--no-huge",
    ];
    let end = ours.pollnd(&get).output().unwrap();
    let err = String::from_utf8_lossy(&end.stderr);
    let last = err.lines().last().unwrap_or_default();
    for says in ["GET from", "no answer within 3.00 s", "came cut", "port_rx_cut", "ethtool -K PEER tso off"]
    {
        assert!(last.contains(says), "{says}: {err}");
    }
    node.stop();
}

#[test]
fn tshark_reads_what_we_meant() {
    const TEST: &str = "tshark_reads_what_we_meant";
    const N: usize = 32;
    const SIZE: u32 = 100_000;
    /// The ping info of a node with one NI.
    const INFO: u32 = 48;
    if !can(TEST, &["tcpdump", "tshark"]) {
        return;
    }
    let lab = Lab::new(9000, &[]);
    let file = lab.file("x.pcap");
    let mut c = lab.inside("tcpdump");
    // Packets are handed over as they come: a ring of blocks would keep the last ones when the capture is stopped.
    c.args(["-i", lab::TAP, "-s", "0", "-B", "65536", "--immediate-mode", "-U", "-Z", "root", "-w"])
        .arg(&file);
    let mut capture = Proc::start(c);
    capture.wait_for("listening on");
    let mut node = Proc::start(lab.kernel(&["node"]));
    node.wait_for("is up on");
    Proc::start(lab.port(&["ping", KERNEL])).finish();
    node.stop();
    puts_each_way("captured", &lab, N as u64, SIZE);
    let said = capture.stop_and_tell();
    assert!(said.contains("\n0 packets dropped by kernel"), "{said}");

    let d = Decoded::of(&lab, &file);
    let (kernel, port) = ("10.99.0.1", "10.99.0.2");
    // The dissector has no body for a PUT on a portal that no Lustre service has, and says so of each by calling
    // it malformed: header and payload have the length that they should, and it has read the header alone. It
    // says the same of the kernel's own selftest PUTs. Nothing else may be wrong.
    let remark = |len: u32| format!("Capture:{} offset:96 (length:0) msg_type:1 ib_type:00", len + 96);
    let (remark, of_push) = (remark(SIZE), remark(INFO));
    let mut puts = 0;
    for row in &d.0 {
        let bad = Decoded::column(row, "_ws.malformed").len();
        let said = Decoded::column(row, "_ws.expert.message");
        let remarks = said.iter().filter(|m| **m == remark || **m == of_push).count();
        assert_eq!(said.iter().filter(|m| m.starts_with("Capture:")).count(), remarks, "{row:?}");
        assert_eq!(remarks > 0, bad > 0, "{row:?}");
        assert_eq!(
            remarks,
            Decoded::column(row, "lnet.msg_type").iter().filter(|t| *t == "1").count(),
            "{row:?}"
        );
        puts += said.iter().filter(|m| **m == remark).count();
    }
    assert_eq!(puts, 2 * N);
    // Each PUT once, and its ACK. The ping is a GET of the reserved portal 0 and a REPLY of 48 bytes; in each of the two
    // conversations whoever begins asks so, too, and both push what they would answer.
    const PUSHES: usize = 2;
    for (from, to) in [(port, kernel), (kernel, port)] {
        assert_eq!(d.count(from, "lnet.msg_type", "1"), N + PUSHES, "PUTs of {from}");
        assert_eq!(d.count(to, "lnet.msg_type", "0"), N + PUSHES, "ACKs of {to}");
        assert_eq!(d.count(from, "lnet.payload_length", &SIZE.to_string()), N);
        assert_eq!(d.count(from, "lnet.ptl_index", "40"), N);
        // In PUTs of one and ACKs for the other's.
        assert_eq!(d.count(from, "lnet.msg_dst_match_bits", "0x0000706f6c6c6e64"), 2 * N);
        let nids = d.all(from, "lnet.nid.addr");
        assert!(nids.chunks(2).all(|n| n == [to, from]), "destination and source: {nids:?}");
        assert!(d.all(from, "lnet.ksm_type").iter().all(|t| ["0x000000c0", "0x000000c1"].contains(t)));
        // Each cookie asked for is acknowledged once.
        let asked = |s, f| {
            let mut v: Vec<_> = d.all(s, f).into_iter().filter(|c| *c != "0x0000000000000000").collect();
            v.sort_unstable();
            v
        };
        let cookies = asked(from, "lnet.ksm_zc_req_cookie");
        assert!(!cookies.is_empty(), "{from} asked for no cookie");
        assert_eq!(cookies, asked(to, "lnet.ksm_zc_ack_cookie"), "cookies of {from}");
    }
    for (from, to, gets) in [(port, kernel, 2), (kernel, port, 1)] {
        assert_eq!((d.count(from, "lnet.msg_type", "2"), d.count(to, "lnet.msg_type", "3")), (gets, gets));
        // In GETs, pushes, and ACKs for the other's.
        assert_eq!(d.count(from, "lnet.msg_dst_match_bits", "0x8000000000000000"), gets + 2 * PUSHES);
        assert_eq!(d.count(to, "lnet.payload_length", &INFO.to_string()), gets + PUSHES);
    }
}

/// Verbs for a console on the kernel's side that run BRW and PING between both nodes, each in both roles, for so long.
fn both_roles(seconds: u64) -> String {
    let mut verbs = format!("new_session tap\nadd_group k {KERNEL}\nadd_group p {PORT}\nadd_batch b\n");
    for (from, to) in [("k", "p"), ("p", "k")] {
        let test = format!("add_test --batch b --loop -1 --from {from} --to {to}");
        for brw in ["write check=full size=1M", "read check=full size=1M", "write check=simple size=4k"] {
            verbs += &format!("{test} --concurrency 2 brw {brw}\n");
        }
        verbs += &format!("{test} --concurrency 2 ping\n");
    }
    verbs + &format!("run b\nsleep {seconds}\nstop b\nshow_error k p\nend_session\n")
}

/// Anonymous memory of a process, in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|l| l.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    kib.and_then(|k| k.trim().parse::<u64>().ok()).map_or(0, |k| k << 10)
}

/// lnet_selftest between the port and a node on the kernel's TCP: no error, level memory at both, every page home.
fn selftest_for(seconds: u64) {
    use bench::growth::{Sample, judge};

    let lab = Lab::new(9000, &[]);
    let mut node = Proc::start(lab.port(&["node"]));
    node.wait_for("is up on");
    let script = lab.file("verbs");
    std::fs::write(&script, both_roles(seconds)).unwrap();
    let console = Proc::start(lab.kernel(&["selftest", "-f", script.to_str().unwrap()]));
    let (begun, pids) = (Instant::now(), [node.id(), console.id()]);
    let mut samples = [Vec::new(), Vec::new()];
    for second in 1..=seconds {
        std::thread::sleep(Duration::from_secs(second).saturating_sub(begun.elapsed()));
        for (samples, pid) in samples.iter_mut().zip(pids) {
            let (at_s, resident) = (begun.elapsed().as_secs_f64(), resident(pid));
            // A console that is done has none.
            samples.extend((resident > 0).then_some(Sample { at_s, resident, messages: second, bytes: 0 }));
        }
    }
    let out = console.finish();
    for group in ["k", "p"] {
        assert!(out.contains(&format!("Total 0 error nodes in {group}")), "{out}");
    }
    for (name, samples) in ["the port's node", "the kernel's side"].into_iter().zip(samples) {
        let g = judge(name, seconds as f64, samples);
        assert!(g.level, "{}", g.table());
    }
    let end = node.stop();
    assert!(
        counter(&end, "payload_rx_bytes") > 100 << 20 && counter(&end, "payload_tx_bytes") > 100 << 20,
        "{end}"
    );
    for c in [
        "rx_copied_bytes",
        "tx_copied_bytes",
        "lendings_out",
        "rx_lent_out",
        "rx_pool_bytes_in_use",
        "quarantined",
    ] {
        assert_eq!(counter(&end, c), 0, "{c}: {end}");
    }
    sane_with_faults(&lab);
}

#[test]
fn selftest_in_both_roles() {
    if can("selftest_in_both_roles", &[]) {
        selftest_for(40);
    }
}

#[test]
#[ignore = "soak: make soak; an hour, or SELFTEST seconds"]
fn selftest_for_an_hour() {
    if can("selftest_for_an_hour", &[]) {
        let seconds = std::env::var("SOAK_SELFTEST").ok().and_then(|s| s.parse().ok());
        selftest_for(seconds.unwrap_or(3600));
    }
}
