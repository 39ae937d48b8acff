//! Deadlines: handshakes, dials, silence in either direction, cookies, queues, answers, keepalive
//! (docs/protocol/socklnd.md §6.5, §8).

use super::api::LnetError;
use super::config::SEC;
use super::hello::HsEvent;
use super::machine::Machine;
use super::peer::{DialState, NONES_APART};
use super::slab::Key;
use crate::wire::ConnType;
use crate::wire::ksock::COOKIE_KEEPALIVE;

/// Deadlines of many seconds are met within this, in ns: the kernel's reaper ticks as often.
pub(super) const GRAIN: u64 = SEC;
/// Shortest time between two keepalives to a peer, in ns.
const KEEPALIVE_RETRY: u64 = 10 * SEC;

impl Machine {
    /// Walks everything that is timed, if it is time. That is once a second at most while there are connections
    /// (handshakes and retries, which are exact, aside).
    pub(super) fn timer(&mut self) {
        if self.now < self.wake {
            return;
        }
        self.wake = u64::MAX;
        for i in 0..self.conns.capacity() {
            if let Some(key) = self.conns.key_at(i) {
                self.conn_timer(key);
            }
        }
        for i in 0..self.peers.capacity() {
            if let Some(key) = self.peers.key_at(i) {
                self.peer_timer(key);
            }
        }
        if self.ops.next_deadline <= self.now {
            let mut overdue = Vec::new();
            self.ops.overdue(self.now, false, &mut overdue);
            for op in overdue {
                self.counters.err_no_answer += 1;
                let event = self.ops.fail(op, self.now, LnetError::TimedOut);
                self.complete_some(event);
            }
        }
        self.wake_about(self.ops.next_deadline);
    }

    fn conn_timer(&mut self, key: Key) {
        let now = self.now;
        let Some(c) = self.conns.get(key) else { return };
        if c.up() {
            let peer = c.peer;
            let unacked = c.pushed > c.acked;
            if let Some(d) = c.rx.deadline {
                if d <= now {
                    self.counters.err_rx_timeout += 1;
                    return self.close_set(peer, LnetError::TimedOut, false);
                }
                self.wake_about(d);
            }
            let Some(c) = self.conns.get(key) else { return };
            if unacked {
                let d = c.tx_deadline;
                if d <= now {
                    self.counters.err_tx_timeout += 1;
                    return self.close_set(peer, LnetError::TimedOut, false);
                }
                self.wake_about(d);
            }
        } else if c.hs.shaking() {
            let d = c.hs_deadline;
            if d <= now {
                self.handshake_event(key, HsEvent::Timeout);
            } else {
                self.wake_at(d);
            }
        }
    }

    fn peer_timer(&mut self, key: Key) {
        let now = self.now;
        let Some(p) = self.peers.get(key) else { return };
        match p.dial {
            DialState::Idle => {}
            DialState::Dialling(..) if p.dial_deadline <= now => self.dial_hard_failure(key),
            DialState::Dialling(..) => self.wake_about(p.dial_deadline),
            // The connection's own deadline covers it.
            DialState::Shaking(..) => {}
            DialState::Waiting(t) if t <= now && p.unwanted() => self.end_back_off(key),
            DialState::Waiting(t) if t <= now => self.maybe_dial(key),
            DialState::BackOff(t) if t <= now => self.end_back_off(key),
            DialState::Waiting(t) | DialState::BackOff(t) => self.wake_at(t),
        }
        self.forgive(key);
        let Some(p) = self.peers.get(key) else { return };
        if p.zc.overdue(now) {
            self.counters.err_zc_timeout += 1;
            return self.close_set(Some(key), LnetError::TimedOut, false);
        }
        if let Some(d) = p.zc.deadline() {
            self.wake_about(d);
        }
        // The queue is in the order of its deadlines: messages that were routed again keep theirs and their place.
        let n = self.peers.get(key).map_or(0, |p| p.queue.len());
        for _ in 0..n {
            let Some(p) = self.peers.get_mut(key) else { return };
            match p.queue.front() {
                Some(tx) if tx.deadline <= now => {
                    let Some(tx) = p.queue.pop_front() else { break };
                    self.counters.err_queue_timeout += 1;
                    self.end_tx(key, tx, Err(LnetError::TimedOut));
                }
                Some(tx) => {
                    let d = tx.deadline;
                    self.wake_about(d);
                    break;
                }
                None => break,
            }
        }
        self.keepalive(key);
    }

    /// Forgets how long to back off, once the longest interval has passed twice since the last failure; and the NONEs
    /// that we told, once they are no row any more.
    fn forgive(&mut self, key: Key) {
        let Some(p) = self.peers.get_mut(key) else { return };
        if p.nones_told > 0 {
            let at = p.told_at + NONES_APART;
            if at > self.now {
                self.wake_about(at);
            } else {
                p.nones_told = 0;
                self.forget_if_idle(key);
            }
        }
        let Some(p) = self.peers.get_mut(key) else { return };
        if p.interval == 0 || p.dial != DialState::Idle {
            return;
        }
        let at = p.failed_at + 2 * self.cfg.max_reconnect;
        if at > self.now {
            return self.wake_about(at);
        }
        p.interval = 0;
        self.forget_if_idle(key);
    }

    fn end_back_off(&mut self, key: Key) {
        if let Some(p) = self.peers.get_mut(key)
            && let Some(next) = super::peer::next(p.dial, super::peer::DialEvent::Clear)
        {
            p.dial = next;
        }
        self.forget_if_idle(key);
    }

    fn keepalive(&mut self, key: Key) {
        let now = self.now;
        let Some(p) = self.peers.get_mut(key) else { return };
        if self.cfg.keepalive == 0 || p.conns.is_empty() {
            return;
        }
        let due = (p.last_alive + self.cfg.keepalive).max(p.last_keepalive + KEEPALIVE_RETRY);
        if now < due {
            return self.wake_about(due);
        }
        p.last_keepalive = now;
        let quiet = p
            .conns
            .iter()
            .filter_map(|c| self.conns.get(*c))
            .any(|c| c.version.is_typed() && c.ctype == ConnType::BulkIn && c.txq.is_empty());
        self.wake_about(now + KEEPALIVE_RETRY);
        if quiet {
            self.noop(key, None, COOKIE_KEEPALIVE, true);
        }
    }
}
