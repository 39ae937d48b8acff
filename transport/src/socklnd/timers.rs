//! Deadlines: handshakes, dials, silence in either direction, cookies, queues, answers, keepalive
//! (docs/protocol/socklnd.md §6.5, §8).

use super::Socklnd;
use super::hello::HsEvent;
use super::peer::{DialEvent, DialState, DialWhy};
use super::rx::RxState;
use super::standing::{StandEvent, Standing};
use crate::lnd::config::SEC;
use crate::lnd::timers::LOOK_AGAIN;
use crate::lnd::{Cx, LnetError, Upper};
use crate::stream::DialError;
use crate::stream::slab::Key;
use crate::wire::ConnType;
use crate::wire::ksock::COOKIE_KEEPALIVE;

/// Shortest time between two keepalives to a peer, in ns.
const KEEPALIVE_RETRY: u64 = 10 * SEC;

impl<U: Upper> Socklnd<U> {
    /// Looks at the connections and peers whose time has come.
    pub(crate) fn timer(&mut self, up: &mut U, cx: &mut Cx) {
        let mut due = std::mem::take(&mut self.due);
        self.conn_timers.due(cx.now, &mut due);
        cx.counters.timers_fired += due.len() as u64;
        for i in due.drain(..) {
            if let Some(key) = self.conns.key_at(i as usize) {
                self.conn_timer(up, cx, key);
            }
        }
        self.peer_timers.due(cx.now, &mut due);
        cx.counters.timers_fired += due.len() as u64;
        for i in due.drain(..) {
            if let Some(key) = self.peers.key_at(i as usize) {
                self.peer_timer(up, cx, key);
            }
        }
        self.due = due;
    }

    /// Looks at a connection by then.
    pub(super) fn conn_by(&mut self, cx: &mut Cx, conn: Key, at: u64) {
        self.conn_timers.by(cx.now, conn, at);
    }

    /// Looks at a peer by then.
    pub(super) fn peer_by(&mut self, cx: &mut Cx, peer: Key, at: u64) {
        self.peer_timers.by(cx.now, peer, at);
    }

    /// Looks at all connections and peers at the next chance: settings have changed.
    pub(crate) fn look_at_all(&mut self, cx: &mut Cx) {
        let now = cx.now;
        self.conns.keys().for_each(|k| self.conn_timers.by(now, k, now));
        self.peers.keys().for_each(|k| self.peer_timers.by(now, k, now));
    }

    fn conn_timer(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        let now = cx.now;
        let Some(c) = self.conns.get(key) else { return };
        if c.up() {
            let peer = c.peer;
            let unacked = c.pushed > c.acked;
            if let Some(d) = c.rx.deadline {
                if d > now {
                    self.conn_by(cx, key, d);
                } else if let Some(held) = c.rx.gives_way
                    && c.rx.state == RxState::ParseWait
                {
                    self.give_way(up, cx, key, held);
                } else {
                    cx.counters.err_rx_timeout += 1;
                    return self.close_set(up, cx, peer, LnetError::TimedOut, false);
                }
            }
            let Some(c) = self.conns.get(key).filter(|c| c.up()) else { return };
            if unacked {
                let d = c.tx_deadline;
                if d <= now {
                    cx.counters.err_tx_timeout += 1;
                    return self.close_set(up, cx, peer, LnetError::TimedOut, false);
                }
                self.conn_by(cx, key, d);
            }
            let Some(c) = self.conns.get(key) else { return };
            let held = c.lends.iter().filter_map(|l| self.lends.get(*l)).map(|l| l.until).min();
            if let Some(d) = held.filter(|d| *d != u64::MAX) {
                if d <= now {
                    cx.counters.err_tx_timeout += 1;
                    return self.close_set(up, cx, peer, LnetError::TimedOut, false);
                }
                self.conn_by(cx, key, d);
            }
            self.end_overdue(up, cx, key);
            let Some(c) = self.conns.get(key) else { return };
            if c.standing == Standing::Held {
                let d = c.held_until;
                if d <= now {
                    self.stand(up, cx, key, StandEvent::Overdue);
                } else {
                    self.conn_by(cx, key, d);
                }
            }
        } else if c.hs.shaking() {
            let d = c.hs_deadline;
            if d <= now {
                self.handshake_event(up, cx, key, HsEvent::Timeout);
            } else {
                self.conn_by(cx, key, d);
            }
        } else {
            self.linger(cx, key);
        }
    }

    fn peer_timer(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        let now = cx.now;
        let Some(p) = self.peers.get(key) else { return };
        match p.leaving {
            Some(l) if l.until <= now => self.leave_set(up, cx, key),
            Some(l) => self.peer_by(cx, key, l.until),
            None => {}
        }
        let Some(p) = self.peers.get(key) else { return };
        match p.dial() {
            DialState::Idle => {}
            DialState::Dialling(..) if p.dial_deadline <= now => {
                self.came_to(key, DialWhy::Tcp(DialError::TimedOut));
                self.dial_hard_failure(up, cx, key);
            }
            DialState::Dialling(..) => self.peer_by(cx, key, p.dial_deadline),
            // The connection's own deadline ends it; what the peer waits for besides is looked at then.
            DialState::Shaking(..) => self.peer_by(cx, key, p.dial_deadline.max(now + LOOK_AGAIN)),
            DialState::Waiting(t) if t <= now && p.unwanted() && up.waiting(p.up) == 0 => {
                self.end_back_off(up, cx, key)
            }
            DialState::Waiting(t) if t <= now => self.maybe_dial(cx, key),
            DialState::BackOff(t) if t <= now => self.end_back_off(up, cx, key),
            DialState::Waiting(t) | DialState::BackOff(t) => self.peer_by(cx, key, t),
        }
        self.forgive(up, cx, key);
        let Some(p) = self.peers.get(key) else { return };
        if p.zc.overdue(now) {
            cx.counters.err_zc_timeout += 1;
            return self.close_set(up, cx, Some(key), LnetError::TimedOut, false);
        }
        if let Some(d) = p.zc.deadline() {
            self.peer_by(cx, key, d);
        }
        // Messages of other nodes have waited elsewhere before: they are not in the order of their deadlines.
        let (mut at, mut next) = (0, u64::MAX);
        while let Some(p) = self.peers.get_mut(key)
            && let Some(d) = p.queue.get(at).map(|tx| tx.deadline)
        {
            if d > now {
                (at, next) = (at + 1, next.min(d));
            } else if let Some(tx) = p.queue.remove(at) {
                cx.counters.err_queue_timeout += 1;
                self.end_tx(up, cx, key, tx, Err(LnetError::TimedOut));
            }
        }
        self.peer_by(cx, key, next);
        self.keepalive(up, cx, key);
    }

    /// Forgets how long to back off, once the longest interval has passed twice since the last failure.
    fn forgive(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        let Some(p) = self.peers.get_mut(key) else { return };
        if p.interval == 0 || p.dial() != DialState::Idle {
            return;
        }
        let at = p.failed_at + 2 * cx.cfg.max_reconnect;
        if at > cx.now {
            return self.peer_by(cx, key, at);
        }
        p.interval = 0;
        self.forget_if_idle(up, cx, key);
    }

    fn end_back_off(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        if let Some(p) = self.peers.get_mut(key) {
            p.dial_event(DialEvent::Due);
        }
        self.forget_if_idle(up, cx, key);
    }

    fn keepalive(&mut self, up: &mut U, cx: &mut Cx, key: Key) {
        let now = cx.now;
        let Some(p) = self.peers.get_mut(key) else { return };
        if cx.cfg.keepalive == 0 || p.conns.is_empty() {
            return;
        }
        let due = (p.last_alive + cx.cfg.keepalive).max(p.last_keepalive + KEEPALIVE_RETRY);
        if now < due {
            return self.peer_by(cx, key, due);
        }
        p.last_keepalive = now;
        let quiet = p
            .conns
            .iter()
            .filter_map(|c| self.conns.get(*c))
            .filter(|c| c.standing != Standing::Held)
            .any(|c| c.version.is_typed() && c.ctype == ConnType::BulkIn && c.txq.is_empty());
        self.peer_by(cx, key, now + KEEPALIVE_RETRY);
        if quiet {
            self.noop(up, cx, key, None, COOKIE_KEEPALIVE, true);
        }
    }
}
