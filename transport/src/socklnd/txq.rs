//! A connection's queue of messages (docs/protocol/socklnd.md §6.4). How zero-copy ACKs ride on what is queued is the
//! table of its carrier ([`TxCarrier`]): from that message to the tail all are of one kind.

use std::collections::VecDeque;

use fsm::Fsm;

use super::carrier::{CarrierAction, CarrierEvent, TxCarrier};
use super::version::Carry;
use crate::lnd::{Payload, Tx, trim};
use crate::wire::ksock::{COOKIE_KEEPALIVE, KsockType};
use crate::wire::{ConnType, Version, ksock};

impl<T> Tx<T> {
    /// Kind of its ksock header.
    pub(super) fn kind(&self) -> KsockType {
        if self.hdr.is_some() { KsockType::Lnet } else { KsockType::Noop }
    }

    /// Kind of carrier that it makes.
    fn as_carrier(&self, typed: bool) -> TxCarrier {
        match (self.cookie0, self.cookie1) {
            _ if self.hdr.is_some() => TxCarrier::Message,
            (0, COOKIE_KEEPALIVE) if typed => TxCarrier::Alive,
            (0, _) => TxCarrier::Single,
            (c0, c1) if c0 > c1 => TxCarrier::Pair,
            _ => TxCarrier::Range,
        }
    }

    /// Bytes on the wire of a connection of `version`: a message is packed for the connection that takes it.
    pub(super) fn nob(&self, version: Version) -> u64 {
        match self.hdr {
            None => ksock::LEN as u64,
            Some(_) => version.hdr_len() as u64 + self.payload.len(),
        }
    }
}

/// A NOOP that ACKs `cookie`, or is a keepalive.
pub(super) fn noop<T: Default>(cookie: u64) -> Tx<T> {
    Tx {
        hdr: None,
        cookie0: 0,
        cookie1: cookie,
        payload: Payload::empty(),
        done: T::default(),
        deadline: u64::MAX,
        credit: false,
        answer: false,
        strange: false,
        pinned: false,
        free: false,
        retries: 0,
        passed: true,
        forwarded: false,
        routed: false,
        begins: false,
        bulk: false,
    }
}

/// Ways in which an ACK was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Merged {
    /// A NOOP was queued for it.
    Queued,
    /// It rides on a message that was queued already.
    Rides,
    /// It was queued already (or a queued ACK says what the keepalive would).
    Needless,
}

/// The queue.
#[derive(Debug)]
pub(super) struct TxQueue<T> {
    version: Version,
    /// Way of ACKs.
    carry: Carry,
    q: VecDeque<Tx<T>>,
    /// Number of messages that have left: the position of `q`'s front.
    head: u64,
    carrier: Fsm<TxCarrier>,
    /// Position of the carrier, if there is one.
    at: u64,
    bytes: u64,
}

impl<T: Default> TxQueue<T> {
    pub(super) fn new(version: Version, ctype: ConnType) -> TxQueue<T> {
        let carry = version.carry(ctype);
        TxQueue { version, carry, q: VecDeque::new(), head: 0, carrier: Fsm::START, at: 0, bytes: 0 }
    }

    /// The version that the HELLOs agreed on, and the type. Nothing is queued before.
    pub(super) fn begin(&mut self, version: Version, ctype: ConnType) {
        (self.version, self.carry) = (version, version.carry(ctype));
    }

    /// Queued messages, to be renamed as the connection moves.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Tx<T>> {
        self.q.iter_mut()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.q.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.q.len()
    }

    /// Whether messages of other nodes are queued.
    pub(super) fn passes(&self) -> bool {
        self.q.iter().any(|tx| tx.forwarded)
    }

    /// Bytes queued, headers included.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Puts a message at the tail; gives its position.
    fn append(&mut self, tx: Tx<T>) -> u64 {
        self.bytes += tx.nob(self.version);
        self.q.push_back(tx);
        self.head + self.q.len() as u64 - 1
    }

    fn get_mut(&mut self, position: u64) -> Option<&mut Tx<T>> {
        self.q.get_mut(usize::try_from(position.checked_sub(self.head)?).ok()?)
    }

    /// Takes the message behind for the carrier, where the carrier has moved on.
    fn look_behind(&mut self) {
        if self.carrier == TxCarrier::Behind {
            self.at += 1;
            let (at, typed) = (self.at, self.version.is_typed());
            let next = self.get_mut(at).map_or(TxCarrier::None, |tx| tx.as_carrier(typed));
            self.carrier.apply_by(self.carry, CarrierEvent::Is(next));
        }
    }

    /// Queues an LNet message; gives whether it took over a queued NOOP.
    pub(super) fn push_lnet(&mut self, mut tx: Tx<T>) -> bool {
        let version = self.version;
        let act = self.carrier.apply_by(self.carry, CarrierEvent::Message).unwrap_or(CarrierAction::Append);
        let took = match act {
            CarrierAction::TakeOver | CarrierAction::TakePlace => {
                let (at, bytes) = (self.at, tx.nob(version));
                if let Some(noop) = self.get_mut(at) {
                    if act == CarrierAction::TakeOver {
                        tx.cookie1 = noop.cookie1;
                    }
                    let old = noop.nob(version);
                    *noop = tx;
                    self.bytes = self.bytes - old + bytes;
                }
                true
            }
            CarrierAction::Carry => {
                self.at = self.append(tx);
                false
            }
            CarrierAction::Append | CarrierAction::Ride | CarrierAction::Join | CarrierAction::Drop => {
                self.append(tx);
                false
            }
        };
        self.look_behind();
        took
    }

    /// Queues an ACK (or the keepalive cookie).
    pub(super) fn push_ack(&mut self, k: u64) -> Merged {
        let (state, at) = (self.carrier.get(), self.at);
        let words = match state {
            TxCarrier::None => (0, 0),
            _ => self.get_mut(at).map_or((0, 0), |tx| (tx.cookie0, tx.cookie1)),
        };
        let event = if k == COOKIE_KEEPALIVE && self.version.is_typed() {
            CarrierEvent::Keepalive
        } else if self.carry == Carry::Merge {
            state.relation(words, k)
        } else {
            CarrierEvent::Apart
        };
        let act = self.carrier.apply_by(self.carry, event).unwrap_or(CarrierAction::Drop);
        let merged = match act {
            CarrierAction::Carry => {
                self.at = self.append(noop(k));
                Merged::Queued
            }
            // Appended first: then the carrier has somewhere to go.
            CarrierAction::Append => {
                self.append(noop(k));
                Merged::Queued
            }
            CarrierAction::Ride | CarrierAction::Join => {
                if let Some(tx) = self.get_mut(at) {
                    (tx.cookie0, tx.cookie1) =
                        if act == CarrierAction::Ride { (words.0, k) } else { state.joined(words, k) };
                }
                Merged::Rides
            }
            CarrierAction::Drop | CarrierAction::TakeOver | CarrierAction::TakePlace => Merged::Needless,
        };
        self.look_behind();
        merged
    }

    /// Time at which the first of the messages that are passed on has waited too long, in ns; `None` where there is none.
    pub(super) fn due(&self) -> Option<u64> {
        self.q.iter().filter(|tx| tx.forwarded).map(|tx| tx.deadline).min().filter(|d| *d != u64::MAX)
    }

    /// Takes out a message that is passed on and has waited too long. The ACK that rides on it, its second word, stays as a NOOP.
    pub(super) fn take_overdue(&mut self, now: u64) -> Option<Tx<T>> {
        let at = self.q.iter().position(|tx| tx.forwarded && tx.deadline <= now)?;
        let tx = self.q.get_mut(at)?;
        self.bytes -= tx.nob(self.version);
        if tx.cookie1 != 0 {
            // One that has an ACK is before the carrier, which is not changed.
            let ack = noop(tx.cookie1);
            self.bytes += ack.nob(self.version);
            return Some(std::mem::replace(tx, ack));
        }
        let position = self.head + at as u64;
        if self.carrier != TxCarrier::None && self.at == position {
            self.carrier.apply_by(self.carry, CarrierEvent::Left);
            self.look_behind();
        }
        if self.carrier != TxCarrier::None && self.at > position {
            self.at -= 1;
        }
        self.q.remove(at)
    }

    /// Takes the message that leaves next.
    pub(super) fn pop(&mut self) -> Option<Tx<T>> {
        let tx = self.q.pop_front()?;
        self.bytes -= tx.nob(self.version);
        self.head += 1;
        trim(&mut self.q);
        if self.carrier != TxCarrier::None && self.at < self.head {
            self.carrier.apply_by(self.carry, CarrierEvent::Left);
            self.look_behind();
        }
        Some(tx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{LnetBody, LnetHdr, Nid, WireHandle};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn msg() -> Tx<()> {
        let hdr = LnetHdr {
            dest_nid: Nid::LO,
            src_nid: Nid::LO,
            dest_pid: 0,
            src_pid: 0,
            payload_len: 0,
            body: LnetBody::Reply { handle: WireHandle::NONE },
        };
        Tx::lnet(hdr, Payload::empty(), ())
    }

    fn words(q: &mut TxQueue<()>) -> Vec<(bool, u64, u64)> {
        let mut out = Vec::new();
        while let Some(t) = q.pop() {
            out.push((t.hdr.is_some(), t.cookie0, t.cookie1));
        }
        assert_eq!(q.bytes(), 0);
        out
    }

    fn bulk_in(acks: &[u64]) -> Vec<(bool, u64, u64)> {
        let mut q = TxQueue::new(Version::V3, ConnType::BulkIn);
        for k in acks {
            q.push_ack(*k);
        }
        words(&mut q)
    }

    #[test]
    fn the_examples_of_the_specification() {
        assert_eq!(bulk_in(&[5, 7]), [(false, 7, 5)]);
        assert_eq!(bulk_in(&[5, 7, 6]), [(false, 5, 7)]);
        assert_eq!(bulk_in(&[5, 7, 6, 8]), [(false, 5, 8)]);
        assert_eq!(bulk_in(&[5, 9]), [(false, 9, 5)]);
        assert_eq!(bulk_in(&[5, 9, 10]), [(false, 9, 5), (false, 0, 10)]);
    }

    #[test]
    fn every_rule_once() {
        assert_eq!(bulk_in(&[5, 1]), [(false, 0, 5)], "2: a queued ACK is proof of life");
        assert_eq!(bulk_in(&[1, 5]), [(false, 0, 5)], "3: an ACK takes the keepalive's place");
        assert_eq!(bulk_in(&[5, 5]), [(false, 0, 5)], "4");
        assert_eq!(bulk_in(&[5, 6]), [(false, 6, 5)], "5");
        assert_eq!(bulk_in(&[5, 6, 4]), [(false, 4, 6)], "7");
        assert_eq!(bulk_in(&[5, 6, 7]), [(false, 5, 7)], "8");
        assert_eq!(bulk_in(&[5, 6, 7, 6]), [(false, 5, 7)], "9");
        assert_eq!(bulk_in(&[5, 6, 7, 4]), [(false, 4, 7)], "10");
        assert_eq!(bulk_in(&[5, 6, 7, 20]), [(false, 5, 7), (false, 0, 20)], "11");
        assert_eq!(
            bulk_in(&[5, 6, 7, 20, 21]),
            [(false, 5, 7), (false, 21, 20)],
            "11, then 5 on the new carrier"
        );
    }

    #[test]
    fn other_types_piggyback() {
        let mut q = TxQueue::new(Version::V3, ConnType::Control);
        assert!(!q.push_lnet(msg()));
        assert_eq!(q.push_ack(7), Merged::Rides);
        assert_eq!(q.push_ack(8), Merged::Queued);
        assert!(q.push_lnet(msg()), "the message takes the NOOP's ACK and place");
        assert!(!q.push_lnet(msg()));
        assert_eq!(words(&mut q), [(true, 0, 7), (true, 0, 8), (true, 0, 0)]);
    }

    #[test]
    fn what_leaves_is_not_changed() {
        let mut q = TxQueue::new(Version::V3, ConnType::Control);
        q.push_lnet(msg());
        assert_eq!(q.pop().map(|t| t.cookie1), Some(0));
        assert_eq!(q.push_ack(9), Merged::Queued);
        assert_eq!(words(&mut q), [(false, 0, 9)]);
    }

    proptest! {
        /// Whatever is queued between sends, every ACK leaves exactly once.
        #[test]
        fn acks_are_conserved(ops in prop::collection::vec((0u8..6, 2u64..40), 1..200), bulk_in: bool) {
            let ctype = if bulk_in { ConnType::BulkIn } else { ConnType::Control };
            let (mut q, mut want, mut got) = (TxQueue::new(Version::V3, ctype), BTreeSet::new(), Vec::new());
            let take = |t: Tx<()>, got: &mut Vec<u64>| match (t.hdr.is_some(), t.cookie0, t.cookie1) {
                (_, 0, 0) | (_, 0, 1) => {}
                (true, _, k) | (false, 0, k) => got.push(k),
                (false, a, b) if a > b => got.extend([a, b]),
                (false, a, b) => got.extend(a..=b),
            };
            let (mut overdue, mut late) = (0, 0);
            for (op, k) in ops {
                match op {
                    0 if !bulk_in => drop(q.push_lnet(msg())),
                    4 if !bulk_in => {
                        q.push_lnet(Tx { forwarded: true, deadline: k, ..msg() });
                        overdue += 1;
                    }
                    5 => while let Some(t) = q.take_overdue(k) {
                        prop_assert!(t.forwarded && t.deadline <= k);
                        late += 1;
                    },
                    1 => if let Some(t) = q.pop() {
                        overdue -= i32::from(t.forwarded);
                        take(t, &mut got)
                    },
                    _ => if want.insert(k) { q.push_ack(k); },
                }
            }
            while let Some(t) = q.pop() {
                overdue -= i32::from(t.forwarded);
                take(t, &mut got)
            }
            prop_assert_eq!(overdue, late);
            got.sort_unstable();
            prop_assert_eq!(got, want.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(q.bytes(), 0);
        }
    }
}
