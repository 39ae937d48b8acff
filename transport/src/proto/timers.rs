//! Deadlines: handshakes, dials, silence in either direction, cookies, queues, answers, keepalive
//! (docs/protocol/socklnd.md §6.5, §8).
//!
//! Each connection, peer and operation has one timer. It is set to the earliest of its deadlines or before: a deadline
//! moves on with every message, a timer when it fires and finds that. So traffic sets hardly a timer, and what fires
//! costs the same however many others there are.

use super::api::LnetError;
use super::budget::trim;
use super::config::SEC;
use super::hello::HsEvent;
use super::io::DialError;
use super::look::DialWhy;
use super::machine::Machine;
use super::peer::{DialEvent, DialState};
use super::slab::Key;
use super::standing::{StandEvent, Standing};
use crate::wire::ConnType;
use crate::wire::ksock::COOKIE_KEEPALIVE;
use ::wheel::Wheel;

/// Until something is looked at again that another's deadline should have ended, in ns: the kernel's reaper ticks as
/// often.
pub(super) const LOOK_AGAIN: u64 = SEC;
/// Timers of a kind that fire for one input; more wait for the next. A slot of the wheel fires as one.
const A_TURN: usize = 64;
/// Shortest time between two keepalives to a peer, in ns.
const KEEPALIVE_RETRY: u64 = 10 * SEC;

/// A timer for each entry of a slab, by its position.
#[derive(Debug)]
pub(super) struct Timers {
    wheel: Wheel,
    /// Nothing fires before this.
    wake: u64,
}

impl Timers {
    pub(super) fn new() -> Timers {
        Timers { wheel: Wheel::new(0), wake: u64::MAX }
    }

    /// Sees to it that the entry is looked at soon after `at`, or before.
    #[inline]
    pub(super) fn by(&mut self, now: u64, entry: Key, at: u64) {
        if self.wheel.at(entry.index).is_none_or(|t| t > at) {
            self.set(now, entry, at);
        }
    }

    #[cold]
    fn set(&mut self, now: u64, entry: Key, at: u64) {
        if at == u64::MAX {
            return;
        }
        if self.wheel.is_empty() {
            // It stood still while nothing was timed.
            self.wheel.expire(now, 1, &mut Vec::new());
        }
        self.wheel.set(entry.index, at);
        self.wake = self.wake.min(Wheel::fires(at.max(now)));
    }

    /// The entry has gone.
    pub(super) fn cancel(&mut self, entry: Key) {
        self.wheel.cancel(entry.index);
        if self.wheel.is_empty() {
            self.wake = u64::MAX;
        }
    }

    /// When to ask for what is due; `u64::MAX` when nothing is timed.
    pub(super) fn wake(&self) -> u64 {
        self.wake
    }

    /// Puts the positions of some entries into `due` whose time has come.
    pub(super) fn due(&mut self, now: u64, due: &mut Vec<u32>) {
        if self.wake <= now {
            self.wheel.expire(now, A_TURN, due);
            self.wake = self.wheel.next().unwrap_or(u64::MAX);
        }
    }
}

impl Machine {
    /// Looks at whatever's time has come.
    pub(super) fn timer(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.conn_timers.due(self.now, &mut due);
        self.counters.timers_fired += due.len() as u64;
        for i in due.drain(..) {
            if let Some(key) = self.conns.key_at(i as usize) {
                self.conn_timer(key);
            }
        }
        self.peer_timers.due(self.now, &mut due);
        self.counters.timers_fired += due.len() as u64;
        for i in due.drain(..) {
            if let Some(key) = self.peers.key_at(i as usize) {
                self.peer_timer(key);
            }
        }
        self.ops.timers.due(self.now, &mut due);
        self.counters.timers_fired += due.len() as u64;
        for i in due.drain(..) {
            if let Some(op) = self.ops.overdue(self.now, i) {
                self.counters.err_no_answer += 1;
                let event = self.ops.fail(op, self.now, LnetError::TimedOut);
                self.complete_some(event);
            }
        }
        self.due = due;
    }

    /// Looks at a connection by then.
    pub(super) fn conn_by(&mut self, conn: Key, at: u64) {
        self.conn_timers.by(self.now, conn, at);
    }

    /// Looks at a peer by then.
    pub(super) fn peer_by(&mut self, peer: Key, at: u64) {
        self.peer_timers.by(self.now, peer, at);
    }

    /// Looks at all that is timed at the next chance: settings have changed.
    pub(super) fn look_at_all(&mut self) {
        let now = self.now;
        (0..self.conns.capacity())
            .filter_map(|i| self.conns.key_at(i))
            .for_each(|k| self.conn_timers.by(now, k, now));
        (0..self.peers.capacity())
            .filter_map(|i| self.peers.key_at(i))
            .for_each(|k| self.peer_timers.by(now, k, now));
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
                self.conn_by(key, d);
            }
            let Some(c) = self.conns.get(key) else { return };
            if unacked {
                let d = c.tx_deadline;
                if d <= now {
                    self.counters.err_tx_timeout += 1;
                    return self.close_set(peer, LnetError::TimedOut, false);
                }
                self.conn_by(key, d);
            }
            let Some(c) = self.conns.get(key) else { return };
            if c.standing == Standing::Held {
                let d = c.held_until;
                if d <= now {
                    self.stand(key, StandEvent::Overdue);
                } else {
                    self.conn_by(key, d);
                }
            }
        } else if c.hs.shaking() {
            let d = c.hs_deadline;
            if d <= now {
                self.handshake_event(key, HsEvent::Timeout);
            } else {
                self.conn_by(key, d);
            }
        } else {
            self.linger(key);
        }
    }

    fn peer_timer(&mut self, key: Key) {
        let now = self.now;
        let Some(p) = self.peers.get(key) else { return };
        match p.leaving {
            Some(l) if l.until <= now => self.leave_set(key),
            Some(l) => self.peer_by(key, l.until),
            None => {}
        }
        let Some(p) = self.peers.get(key) else { return };
        match p.dial() {
            DialState::Idle => {}
            DialState::Dialling(..) if p.dial_deadline <= now => {
                self.came_to(key, DialWhy::Tcp(DialError::TimedOut));
                self.dial_hard_failure(key);
            }
            DialState::Dialling(..) => self.peer_by(key, p.dial_deadline),
            // The connection's own deadline ends it; what the peer waits for besides is looked at then.
            DialState::Shaking(..) => self.peer_by(key, p.dial_deadline.max(now + LOOK_AGAIN)),
            DialState::Waiting(t) if t <= now && p.unwanted() => self.end_back_off(key),
            DialState::Waiting(t) if t <= now => self.maybe_dial(key),
            DialState::BackOff(t) if t <= now => self.end_back_off(key),
            DialState::Waiting(t) | DialState::BackOff(t) => self.peer_by(key, t),
        }
        self.forgive(key);
        let Some(p) = self.peers.get(key) else { return };
        if p.zc.overdue(now) {
            self.counters.err_zc_timeout += 1;
            return self.close_set(Some(key), LnetError::TimedOut, false);
        }
        if let Some(d) = p.zc.deadline() {
            self.peer_by(key, d);
        }
        self.end_overdue_answers(key);
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
                    self.peer_by(key, d);
                    break;
                }
                None => break,
            }
        }
        self.keepalive(key);
    }

    /// Ends answers that have waited too long for credits where there is no connection, whose own time-outs would see to
    /// them. They stand in the order of their deadlines.
    fn end_overdue_answers(&mut self, key: Key) {
        while let Some(p) = self.peers.get_mut(key) {
            match p.waiting.front().map_or(u64::MAX, |tx| tx.deadline) {
                u64::MAX => return,
                d if d > self.now => return self.peer_by(key, d),
                _ if !p.conns.is_empty() => return self.peer_by(key, self.now + self.cfg.timeout()),
                _ => {}
            }
            let Some(tx) = p.waiting.pop_front() else { return };
            trim(&mut p.waiting);
            self.counters.err_queue_timeout += 1;
            self.end_tx(key, tx, Err(LnetError::TimedOut));
            // An operation behind it may have room.
            self.kicks.push_back(key);
            self.forget_if_idle(key);
        }
    }

    /// Forgets how long to back off, once the longest interval has passed twice since the last failure.
    fn forgive(&mut self, key: Key) {
        let Some(p) = self.peers.get_mut(key) else { return };
        if p.interval == 0 || p.dial() != DialState::Idle {
            return;
        }
        let at = p.failed_at + 2 * self.cfg.max_reconnect;
        if at > self.now {
            return self.peer_by(key, at);
        }
        p.interval = 0;
        self.forget_if_idle(key);
    }

    fn end_back_off(&mut self, key: Key) {
        if let Some(p) = self.peers.get_mut(key) {
            p.dial_event(DialEvent::Due);
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
            return self.peer_by(key, due);
        }
        p.last_keepalive = now;
        let quiet = p
            .conns
            .iter()
            .filter_map(|c| self.conns.get(*c))
            .filter(|c| c.standing != Standing::Held)
            .any(|c| c.version.is_typed() && c.ctype == ConnType::BulkIn && c.txq.is_empty());
        self.peer_by(key, now + KEEPALIVE_RETRY);
        if quiet {
            self.noop(key, None, COOKIE_KEEPALIVE, true);
        }
    }
}
