//! Slots of 8 s (docs/protocol/selftest.md §4, §5): our member ends a session, and our console looks after idle members, in the
//! slot in which the model of a kernel does.

use std::collections::BTreeMap;

use crate::SEC;
use crate::lst::{Actor, Sent};
use crate::replay_kernel::Model;
use crate::replay_selftest::Ours;
use crate::sessions::SLOTS_BEGIN;
use transport::testing::srpc::{Sid, Srpc, kind, service};
use transport::wire::{LnetBody, LnetHdr, Nid, Version, WireHandle};

fn nids() -> (Nid, Nid) {
    ("192.168.90.1@tcp".parse().unwrap(), "192.168.90.2@tcp".parse().unwrap())
}

/// A PUT of lnet_selftest from one to the other.
fn put(from: Nid, to: Nid, (portal, match_bits): (u32, u64), payload: &Srpc) -> LnetHdr {
    let body = LnetBody::Put { ack: WireHandle::NONE, match_bits, hdr_data: 0, portal, offset: 0 };
    let payload_len = payload.bytes.len() as u32;
    LnetHdr { dest_nid: to, src_nid: from, dest_pid: 12345, src_pid: 12345, payload_len, body }
}

fn ours(me: Nid, peer: Nid, orders: &[String]) -> Ours {
    Ours::among(me, BTreeMap::from([(peer, Version::V3)]), SLOTS_BEGIN, orders.to_vec())
}

/// Each session's last request comes at another place of a slot.
#[test]
fn sessions_end_in_the_slots_of_kernels() {
    let (me, by) = nids();
    let make = Srpc::new(kind::MAKE, 1).with_sid(Sid(by.to_nid4().unwrap(), 1)).with("rpyid", 1);
    let debug = Srpc::new(kind::DEBUG, 1).with("rpyid", 2);
    let mut slots = Vec::new();
    for step in 0..33 {
        let last = SLOTS_BEGIN + SEC / 8 + step * SEC / 2;
        let said = [(SLOTS_BEGIN, service::MAKE, &make), (last, service::DEBUG, &debug)];
        let mut model = Model::new(me, [by].into_iter(), SLOTS_BEGIN, Vec::new());
        for (at, of, q) in said {
            model.pass(at - model.now());
            model.tell(put(by, me, (51, of), q), q.bytes.clone());
        }
        while model.kernel.expired == 0 {
            model.pass(SEC / 10);
        }
        let end = model.now();
        let mut node = ours(me, by, &[]);
        for (at, of, q) in said {
            let now = node.now();
            node.pass(at.saturating_sub(now));
            node.tell(put(by, me, (51, of), q), q.bytes.clone());
        }
        let now = node.now();
        node.pass(end - SEC / 4 - now);
        assert!(node.node.member.session().is_some(), "{step}: over before {end}");
        node.pass(SEC / 2);
        assert_eq!(node.node.member.session(), None, "{step}: not over at {end}");
        slots.push((end - SLOTS_BEGIN) / (8 * SEC));
    }
    // 100 s, in slots that begin with the first: three of them are met.
    slots.dedup();
    assert_eq!(slots, [13, 14, 15]);
}

/// Runs a console with one idle member for five minutes; gives the seconds in which it asked the member anything.
fn asks(console: &mut impl Actor, me: Nid, member: Nid) -> Vec<(u64, u32)> {
    let mut out = Vec::new();
    while console.next_order() {
        console.pass(SEC / 100);
        answer(console, me, member, &mut out);
    }
    while console.now() < SLOTS_BEGIN + 290 * SEC {
        console.pass(SEC / 20);
        answer(console, me, member, &mut out);
    }
    out
}

/// The member answers whatever it is asked.
fn answer(console: &mut impl Actor, me: Nid, member: Nid, out: &mut Vec<(u64, u32)>) {
    // Orders wait for each other's answers.
    for _ in 0..20 {
        for Sent { body, payload, .. } in console.take() {
            let q = Srpc::of(&payload);
            if !matches!(body, LnetBody::Put { portal: 51, .. }) {
                continue;
            }
            out.push(((console.now() - SLOTS_BEGIN + SEC / 2) / SEC, q.kind()));
            let r = Srpc::new(q.kind() + 1, 1).with_sid(q.sid()).with("timeout", 100);
            console.tell(put(member, me, (52, q.get("rpyid")), &r), r.bytes.clone());
        }
        console.pass(SEC / 100);
    }
}

#[test]
fn idle_members_are_looked_after_in_the_slots_of_kernels() {
    let (me, member) = nids();
    let orders = ["new_session s".to_owned(), format!("add_group g {member}")];
    let mut model = Model::new(me, [member].into_iter(), SLOTS_BEGIN, orders.to_vec());
    let theirs = asks(&mut model, me, member);
    let mine = asks(&mut ours(me, member, &orders), me, member);
    assert_eq!(mine, theirs);
    // Every 8 s the console looks for members that were idle for 50 s: these are asked every 56 s.
    let at: Vec<u64> = mine.iter().filter(|a| a.1 == kind::DEBUG).map(|a| a.0).collect();
    assert_eq!(at, [56, 112, 168, 224, 280]);
}
