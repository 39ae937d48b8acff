//! The model of a kernel's lnet_selftest (`transport::testing::kernel::selftest`) in the place of every kernel that was
//! recorded, as a member in both roles and as a console: what it says is what that kernel said. A model that errs would
//! make our own nodes err with it.

use std::collections::VecDeque;

use crate::lst::{Actor, COMMON, Found, Reason, Replay, Sent, Verdict, discovered, r, with_interface};
use crate::orders::Order;
use crate::sessions::{LeftOut, SESSION_IN_SLOT, SLOTS_BEGIN, Session, each_kernel, nodes};
use transport::testing::kernel::selftest::{Cmd, Selftest};
use transport::testing::srpc::service;
use transport::wire::{LnetHdr, Nid};

/// Interface of the model's handles for a stamp of 0.
const STAMP: u64 = 7;

pub struct Model {
    pub kernel: Selftest,
    now: u64,
    sent: Vec<Sent>,
    orders: VecDeque<Cmd>,
}

impl Model {
    pub fn new(me: Nid, peers: impl Iterator<Item = Nid>, start: u64, orders: Vec<Order>) -> Model {
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

/// Time of the first node, in ns: kernels' timers have slots, and what a capture tells of them is where they are.
fn start(capture: &str) -> u64 {
    if capture == "lst-session-expiry" { SESSION_IN_SLOT } else { SLOTS_BEGIN }
}

fn play(s: &Session, me: Nid) -> Found {
    let asked = discovered(me, &s.said);
    let peers = nodes(&s.said).into_iter().filter(|n| *n != me && asked.iter().all(|a| !a.contains(n)));
    let mut model = Model::new(me, peers, start(&s.capture), s.orders(me));
    Replay::play(me, &s.said, &mut model)
}

/// Captures that are not played, or nodes of one that are not, and why.
const LEFT_OUT: &[LeftOut] = &[
    ("lst-node-panic-off8", "192.168.80.11@tcp", "the console sent what no console may send"),
    ("mr-lst", "192.168.80.11@tcp", "two batches side by side: the model's console has one"),
    ("rt-v2-to-v3", "192.168.80.11@tcp", "two batches side by side: the model's console has one"),
];

/// Kernels that died, and of what.
const DIED: &[(&str, &str, &str)] = &[
    ("crashes-and-stall", "192.168.77.11@tcp", "the kernel panics of a BRW request"),
    ("lst-node-panic-off8", "192.168.80.12@tcp", "the kernel panics: offset 8 and length 4096"),
    ("lst-node-panic-off8", "192.168.80.13@tcp", "the kernel panics: offset 8 and length 4096"),
];

/// Differences between the model and kernels, and why.
const REASONS: &[Reason] =
    &[r("MKSN_REPLY.timeout", &["selftest-requests"], "the same: a timeout that EINVAL does not fill in")];

#[test]
fn the_model_says_what_kernels_said() {
    let (mut verdict, mut died) = (Verdict::default(), Vec::new());
    each_kernel(LEFT_OUT, |s, me| match std::panic::catch_unwind(|| play(s, me)) {
        Ok(found) => verdict.add(&s.capture, me, found),
        Err(why) => {
            let why = why.downcast_ref::<String>().cloned().unwrap_or_default();
            died.push((s.capture.clone(), me.to_string(), why));
        }
    });
    verdict.holds(COMMON.iter().chain(REASONS));
    assert_eq!(died.len(), DIED.len(), "{died:?}");
    for ((capture, me, why), listed) in died.iter().zip(DIED) {
        assert!(
            (capture.as_str(), me.as_str()) == (listed.0, listed.1) && why.starts_with(listed.2),
            "{why}"
        );
    }
    assert!(verdict.compared > 1500, "{} messages", verdict.compared);
}
