//! Fault rules at work: a message is judged where it is received, and where it is sent. A shard without rules asks one
//! question a message.
//!
//! A received message that is delayed holds up its connection, as kernels do; one that is sent is passed by those behind it.
//! Deleting a rule lets the messages go that it delays, at once and in their order (docs/protocol/upper.md §6).

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::faults::{FaultAsk, FaultError, FaultView, Going, Hit, RuleId, Rules};
use super::{Delivery, Lnet, Msg};
use crate::hash::OwnMap;
use crate::lnd::{Arrived, Cx, Hold, Lnd, LnetError, NiId, Ticket};
use crate::stream::ConnId;
use crate::stream::slab::Key;

/// Messages of a shard that are delayed at a time; more are not.
const DELAYED_MAX: usize = 65_536;

/// Rules, and messages that they hold.
#[derive(Debug)]
pub(super) struct Faults {
    rules: Rules,
    delayed: BinaryHeap<Delayed>,
    /// Those of them that are sent, by peer.
    to: OwnMap<Key, usize>,
    /// The last message of a connection that was judged: it is shown again when what held it is over.
    judged: OwnMap<ConnId, u64>,
    serial: u64,
}

#[derive(Debug)]
struct Delayed {
    until: u64,
    /// Of two for the same time the older goes first.
    serial: u64,
    by: RuleId,
    what: What,
}

#[derive(Debug)]
enum What {
    Received(Ticket),
    Sent(NiId, Key, Box<Msg>),
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Delayed) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Delayed {}

impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Delayed) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Delayed {
    fn cmp(&self, other: &Delayed) -> Ordering {
        (other.until, other.serial).cmp(&(self.until, self.serial))
    }
}

impl Faults {
    fn hold(&mut self, until: u64, by: RuleId, what: What) {
        self.serial += 1;
        if let What::Sent(_, peer, _) = &what {
            *self.to.entry(*peer).or_default() += 1;
        }
        self.delayed.push(Delayed { until, serial: self.serial, by, what });
    }

    /// The time of the messages has come whose rule has been deleted.
    fn let_go(&mut self) {
        let mut delayed = std::mem::take(&mut self.delayed).into_vec();
        for d in delayed.iter_mut().filter(|d| !self.rules.has(d.by)) {
            d.until = 0;
        }
        self.delayed = delayed.into();
    }

    fn take(&mut self, now: u64) -> Option<What> {
        if self.delayed.peek()?.until > now {
            return None;
        }
        let what = self.delayed.pop()?.what;
        if let What::Sent(_, peer, _) = &what
            && let Some(n) = self.to.get_mut(peer)
        {
            *n -= 1;
            if *n == 0 {
                self.to.remove(peer);
            }
        }
        Some(what)
    }
}

impl Lnet {
    /// Does what is asked about rules.
    pub(crate) fn fault(&mut self, cx: &Cx, ask: FaultAsk) -> Result<usize, FaultError> {
        let faults = self.faults.get_or_insert_with(|| {
            Box::new(Faults {
                rules: Rules::new(cx.cfg.incarnation ^ u64::from(cx.cfg.shards.me.0)),
                delayed: BinaryHeap::new(),
                to: OwnMap::default(),
                judged: OwnMap::default(),
                serial: 0,
            })
        });
        let done = faults.rules.ask(cx.now, ask);
        if matches!(ask, FaultAsk::Delete { .. } | FaultAsk::Remove(_)) {
            faults.let_go();
        }
        self.end_faults();
        done
    }

    /// The rules, in their order.
    pub(crate) fn fault_rules(&self) -> impl Iterator<Item = FaultView> + '_ {
        self.faults.iter().flat_map(|f| f.rules.views())
    }

    /// Without rules, and with nothing that they hold, nothing is asked any more.
    fn end_faults(&mut self) {
        if self.faults.as_ref().is_some_and(|f| f.rules.is_empty() && f.delayed.is_empty()) {
            self.faults = None;
        }
    }

    /// Whether a message that was received goes on; else it has been dropped, or is held for its time.
    #[cold]
    pub(super) fn received_passes<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, msg: &Arrived) -> bool {
        let Some(faults) = self.faults.as_mut() else { return true };
        let Some(ticket) = lnd.ticket(msg.key) else { return true };
        if faults.judged.insert(ticket.conn, ticket.serial) == Some(ticket.serial) {
            return true;
        }
        if faults.judged.len() > 2 * DELAYED_MAX {
            faults.judged.clear();
        }
        match faults.rules.judge(cx.now, Going::In, &msg.hdr) {
            Some(Hit::Drop) => {
                cx.counters.drop_fault += 1;
                self.drop_counted((lnd.ni(), Some(msg.peer)), &msg.hdr);
                lnd.recv(self, cx, msg.key, &mut None, Delivery::Nothing, 0);
                false
            }
            Some(Hit::Delay(ns, by)) if faults.delayed.len() < DELAYED_MAX && !cx.down => {
                cx.counters.fault_delays += 1;
                faults.hold(cx.now + ns, by, What::Received(ticket));
                lnd.hold(self, cx, msg.key, Hold::Match);
                false
            }
            _ => true,
        }
    }

    /// Whether a message is to be sent now; else it has failed, or is kept for its time.
    pub(super) fn sent_passes<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        peer: Key,
        tx: &mut Msg,
    ) -> bool {
        let Some((faults, hdr)) = self.faults.as_mut().zip(tx.hdr) else { return true };
        match faults.rules.judge(cx.now, Going::Out, &hdr) {
            Some(Hit::Fail(cause, why)) => {
                cx.counters.fault_fails += 1;
                self.failed(cx, peer, tx.take(), why, cause);
                false
            }
            Some(Hit::Delay(ns, by)) if faults.delayed.len() < DELAYED_MAX && !cx.down => {
                cx.counters.fault_delays += 1;
                faults.hold(cx.now + ns, by, What::Sent(lnd.ni(), peer, Box::new(tx.take())));
                false
            }
            _ => true,
        }
    }

    /// Time at which the next delayed message goes on, in ns.
    pub(super) fn fault_wake(&self) -> u64 {
        self.faults.as_ref().and_then(|f| f.delayed.peek()).map_or(u64::MAX, |d| d.until)
    }

    /// Messages that are delayed.
    pub(super) fn delayed(&self) -> usize {
        self.faults.as_ref().map_or(0, |f| f.delayed.len())
    }

    /// Whether a message to the peer is delayed: its entry must stay.
    #[inline]
    pub(super) fn delays_to(&self, peer: Key) -> bool {
        self.faults.as_ref().is_some_and(|f| f.to.contains_key(&peer))
    }

    /// Goes on with the messages whose time has come.
    pub(super) fn end_delays<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) {
        while let Some(what) = self.faults.as_mut().and_then(|f| f.take(cx.now)) {
            match what {
                What::Received(ticket) => {
                    if let Some(lnd) = lnds.get_mut(ticket.ni.index()) {
                        lnd.again(self, cx, &ticket);
                    }
                }
                What::Sent(ni, peer, mut tx) => {
                    if let Some(lnd) = lnds.get_mut(ni.index()) {
                        tx.passed = true;
                        self.launch(cx, lnd, peer, &mut tx);
                    }
                }
            }
        }
        self.end_faults();
    }

    /// Ends the delayed messages to these peers: their NI is deleted.
    pub(super) fn fail_delayed_to(&mut self, cx: &mut Cx, peers: &[Key], why: LnetError) {
        let Some(faults) = self.faults.as_mut() else { return };
        if !peers.iter().any(|p| faults.to.contains_key(p)) {
            return;
        }
        let of = |d: &Delayed| matches!(&d.what, What::Sent(_, peer, _) if peers.contains(peer));
        let (gone, left): (Vec<Delayed>, Vec<Delayed>) =
            std::mem::take(&mut faults.delayed).into_vec().into_iter().partition(of);
        faults.delayed = left.into();
        faults.to.retain(|peer, _| !peers.contains(peer));
        for d in gone {
            if let What::Sent(_, peer, tx) = d.what {
                self.not_sent(cx, peer, *tx, why, None);
            }
        }
    }

    /// Ends the delayed messages: the node goes down. Those that were received end with their connections.
    pub(super) fn fail_delayed(&mut self, cx: &mut Cx, why: LnetError) {
        while let Some(what) = self.faults.as_mut().and_then(|f| f.take(u64::MAX)) {
            if let What::Sent(_, peer, tx) = what {
                self.end(cx, peer, *tx, Err(why));
            }
        }
    }
}
