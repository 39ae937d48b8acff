//! The model of a kernel's lnet_selftest (`transport::testing::kernel::selftest`) in the place of every kernel that was
//! recorded, as a member in both roles and as a console: what it says is what that kernel said. A model that errs would
//! make our own nodes err with it.

use std::collections::{BTreeSet, VecDeque};

use crate::lst::{Actor, Found, Reason, Replay, Sent, Verdict, with_interface};
use crate::orders::{self, Order};
use crate::{captures, folder};
use transport::testing::dialogue::{self, Said};
use transport::testing::kernel::selftest::{Cmd, Selftest};
use transport::testing::srpc::{self, service};
use transport::wire::{LnetHdr, Nid};

/// Interface of the model's handles for a stamp of 0.
const STAMP: u64 = 7;

struct Model {
    kernel: Selftest,
    now: u64,
    sent: Vec<Sent>,
    orders: VecDeque<Cmd>,
}

impl Model {
    fn new(me: Nid, peers: impl Iterator<Item = Nid>, start: u64, orders: Vec<Order>) -> Model {
        let mut kernel = Selftest::new(me, STAMP, 1);
        peers.for_each(|p| kernel.lnet.know(p));
        // Kernels of the probes had been members of sessions before.
        if me.to_string().starts_with("192.168.77") && orders.is_empty() {
            [service::BRW, service::PING].into_iter().for_each(|s| kernel.post(s));
        }
        Model { kernel, now: start, sent: Vec::new(), orders: orders.iter().map(|l| Cmd::parse(l)).collect() }
    }

    fn drain(&mut self) {
        while let Some(m) = self.kernel.lnet.out.pop_front() {
            if m.to == self.kernel.lnet.nid {
                let hdr = LnetHdr {
                    dest_nid: m.to,
                    src_nid: m.to,
                    dest_pid: 12345,
                    src_pid: 12345,
                    payload_len: m.payload.len() as u32,
                    body: m.body,
                };
                self.kernel.hear(self.now, &hdr, m.payload);
            } else {
                self.sent.push(Sent { to: m.to, body: m.body, payload: m.payload });
            }
            self.kernel.sent(self.now, m.token, true);
        }
    }
}

impl Actor for Model {
    fn tell(&mut self, hdr: LnetHdr, payload: Vec<u8>) {
        let hdr = with_interface(hdr, STAMP << 32 | 0x18ec);
        self.kernel.hear(self.now, &hdr, payload);
        self.drain();
    }

    fn now(&self) -> u64 {
        self.now
    }

    fn pass(&mut self, ns: u64) {
        let until = self.now + ns;
        while let Some(d) = self.kernel.deadline().filter(|d| *d <= until) {
            self.now = self.now.max(d);
            self.kernel.tick(self.now);
            self.drain();
        }
        self.now = until;
    }

    fn take(&mut self) -> Vec<Sent> {
        self.drain();
        std::mem::take(&mut self.sent)
    }

    fn next_order(&mut self) -> bool {
        if self.kernel.console.busy() {
            return false;
        }
        let Some(cmd) = self.orders.pop_front() else { return false };
        self.kernel.order(self.now, &cmd);
        true
    }
}

/// Nodes of a dialogue that take part in lnet_selftest.
pub fn nodes(said: &[Said]) -> BTreeSet<Nid> {
    let of = |s: &Said| matches!(s.portal(), Some(srpc::TESTS..=srpc::BULK));
    said.iter().filter(|s| of(s)).flat_map(|s| [s.hdr.src_nid, s.hdr.dest_nid]).collect()
}

/// Time at which the dialogue of lst-session-expiry begins so that its session ends when it did, in ns.
pub const SESSION_IN_SLOT: u64 = 1_003_340_000_000;

/// When the first node's time starts, in ns: kernels' timers have slots, and what a capture tells of them is where they are.
fn start(capture: &str) -> u64 {
    if capture == "lst-session-expiry" { SESSION_IN_SLOT } else { 1_000_000_000_000 }
}

fn play(dir: &str, capture: &str, me: Nid, said: &[Said]) -> Found {
    let peers = nodes(said).into_iter().filter(|n| *n != me);
    let mut model = Model::new(me, peers, start(capture), orders::of(dir, capture, me, said));
    Replay::play(me, said, &mut model)
}

/// Captures that are not played, or nodes of one that are not, and why.
const LEFT_OUT: &[(&str, &str, &str)] = &[
    ("lst-stop-force", "", "begins in the middle of a session"),
    ("mr-lst", "", "several NIDs a node"),
    ("mr-resend-zc-put", "", "several NIDs a node"),
    ("lst-node-panic-off8", "192.168.80.11@tcp", "the console sent what no console may send"),
    ("rt-v2-to-v3", "192.168.80.11@tcp", "two batches side by side: the model's console has one"),
];

/// Kernels that died, and of what.
const DIED: &[(&str, &str, &str)] = &[
    ("crashes-and-stall", "192.168.77.11@tcp", "the kernel panics of a BRW request"),
    ("lst-node-panic-off8", "192.168.80.12@tcp", "the kernel panics: offset 8 and length 4096"),
    ("lst-node-panic-off8", "192.168.80.13@tcp", "the kernel panics: offset 8 and length 4096"),
];

const BEFORE: &str =
    "a kernel counts from when lnet_selftest was loaded, and its LNet from its start; the model from here on";

const OTHERS: &str = "others spoke with the kernel meanwhile: it put bulk, and nobody had asked for any here";

const fn r(what: &'static str, captures: &'static [&'static str], why: &'static str) -> Reason {
    Reason { what, captures, why }
}

/// Differences between the model and kernels, and why.
const REASONS: &[Reason] = &[
    r(
        "MKSN_REPLY.name",
        &["lst-distribute-discard", "lst-session-expiry"],
        "a kernel's buffers keep what earlier replies left in them: the name of a session that it was once busy with",
    ),
    r("MKSN_REPLY.timeout", &["selftest-requests"], "the same: a timeout that EINVAL does not fill in"),
    r("PING_REQST.nanos", &[], "the client's clock"),
    r("PING_REQST.seconds", &[], "the client's clock"),
    r("STAT_REPLY.bulk_get", &[], BEFORE),
    r("STAT_REPLY.bulk_put", &[], BEFORE),
    r("STAT_REPLY.drop_*", &[], BEFORE),
    r("STAT_REPLY.msgs_*", &[], BEFORE),
    r("STAT_REPLY.recv_*", &[], BEFORE),
    r("STAT_REPLY.send_*", &[], BEFORE),
    r("STAT_REPLY.rpc*", &[], BEFORE),
    r("STAT_REPLY.bulk_put: grows otherwise", &["selftest-requests"], OTHERS),
    r("STAT_REPLY.rpc_errors: grows otherwise", &["selftest-requests"], OTHERS),
    r("STAT_REPLY.rpcs_rcvd: grows otherwise", &["selftest-requests"], OTHERS),
    r("STAT_REPLY.rpcs_sent: grows otherwise", &["selftest-requests"], OTHERS),
    r("STAT_REPLY.running_ms", &[], "milliseconds since the session began"),
    r("STAT_REPLY.sid_*", &["active-sets"], "the session is from before the capture"),
    r("STAT_REPLY.status", &["active-sets"], "the session is from before the capture"),
    r("besides: DEBUG_REPLY", &["active-hellos"], "asked by a pid to which there was no connection"),
    r("besides: PING_REPLY", &["lst-full-session"], "the capture ends before"),
    r("besides: STAT_REPLY", &["selftest-requests"], "the kernel had died of another probe"),
    r("bulk PUT: bytes that nobody checks", &[], "what is not checked is whatever was there"),
    r("bulk REPLY: bytes that nobody checks", &[], "what is not checked is whatever was there"),
    r(
        "bulk PUT: order",
        &["v1-forced-connect-ping-lst", "v3-zc-off"],
        "without a zero-copy ACK to wait for, the reply overtakes the bulk on another connection",
    ),
];

#[test]
fn the_model_says_what_kernels_said() {
    let (mut verdict, mut died) = (Verdict::default(), Vec::new());
    for dir in ["lnet", "probes", "upper"] {
        for capture in captures(dir) {
            let said = dialogue::said(&folder(dir).join(&capture).with_extension("pcap")).unwrap();
            for me in nodes(&said) {
                let out =
                    |l: &&(&str, &str, &str)| l.0 == capture && (l.1.is_empty() || l.1 == me.to_string());
                if !orders::is_kernel(dir, me) || LEFT_OUT.iter().any(|l| out(&l)) {
                    continue;
                }
                let played = std::panic::catch_unwind(|| play(dir, &capture, me, &said));
                match played {
                    Ok(found) => verdict.add(&capture, me, found),
                    Err(why) => {
                        let why = why.downcast_ref::<String>().cloned().unwrap_or_default();
                        died.push((capture.clone(), me.to_string(), why));
                    }
                }
            }
        }
    }
    assert_eq!(died.len(), DIED.len(), "{died:?}");
    for ((capture, me, why), listed) in died.iter().zip(DIED) {
        assert!(
            (capture.as_str(), me.as_str()) == (listed.0, listed.1) && why.starts_with(listed.2),
            "{why}"
        );
    }
    verdict.holds(REASONS);
    assert!(verdict.compared > 1200, "{} messages", verdict.compared);
}
