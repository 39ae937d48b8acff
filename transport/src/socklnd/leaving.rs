//! Going down in order: handshakes that are under way come to their end before the connections close.
//!
//! ```text
//!         Shutdown             Settled
//!     UP ----------> WAITING ----------> GONE
//!      |                |                 ^ ^
//!      |                '-----------------' |
//!      |                       Over         |
//!      '------------------------------------'
//!                     Delete
//! ```
//!
//! Settled: no handshake that may come to something is under way, and none was within SETTLE. Over: LINGER has passed.
//! A kernel whose dial we reset logs an error and fails the message that it dialled for; one whose HELLO is answered before
//! the FIN does neither. So in WAITING nothing new is asked or dialled, and operations have failed, but handshakes go on and
//! peers are answered. In GONE everything closes; whoever still comes before LINGER is over is answered and sent a FIN. A
//! handshake older than LINGER is not waited for: its peer says nothing. Nor is a dial to which no TCP has answered within CONNECTS:
//! nobody is there who could be owed an answer.
//!
//! Delete: the NI is deleted while the node runs. As with kernels nothing is waited for (docs/protocol/upper.md §2). Only connections
//! that have not named their NI stay until they have: they may be another's that has the address, too.

use fsm::Fsm;

use super::Socklnd;
use super::peer::DialState;
use crate::lnd::config::SEC;
use crate::lnd::{Cx, LnetError, Upper};
use crate::stream::slab::Key;
use crate::stream::{Action, Close};
use crate::wire::Nid;

/// Time that a node that goes down leaves its peers to close, in ns: those that are there do within a round trip.
const CLOSES: u64 = SEC / 2;
/// Longest wait for handshakes, in ns.
const LINGER: u64 = SEC;
/// Longest wait for TCP to connect, in ns: many round trips of a network where somebody answers.
const CONNECTS: u64 = SEC / 20;
/// Time without any handshake after which none is expected, in ns: a kernel that was dialled dials back beside it.
const SETTLE: u64 = SEC / 20;
/// Time between two looks, in ns.
const LOOK: u64 = SEC / 200;

fsm::fsm! {
    /// Stages of the way down.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Stage {
        /// The node runs.
        Up,
        /// Handshakes are waited for.
        Waiting,
        /// Everything closes, or has closed.
        Gone,
    }

    /// Events of the way down.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Event {
        /// The node is to go down.
        Shutdown,
        /// There is no handshake to wait for.
        Settled,
        /// The time is over.
        Over,
        /// The NI is deleted.
        Delete,
    }

    table Stage + Event {
        start Up;
        else "the event says nothing";
        Up + Shutdown => Waiting;
        Up + Delete => Gone;
        Waiting + Settled | Over => Gone;
    }
}

/// The way down of an LND.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    stage: Fsm<Stage>,
    /// Time at which LINGER is over.
    until: u64,
    /// When to look again; never, but in WAITING.
    pub(super) look_at: u64,
    /// Time at which a handshake last moved; 0 for never.
    pub(super) shaken_at: u64,
}

impl Default for Leaving {
    fn default() -> Leaving {
        Leaving { stage: Fsm::START, until: u64::MAX, look_at: u64::MAX, shaken_at: 0 }
    }
}

impl Leaving {
    /// Whether only closing connections are waited for.
    pub(super) fn gone(&self) -> bool {
        self.stage == Stage::Gone
    }

    /// Whether nothing new is begun.
    pub(super) fn begun(&self) -> bool {
        self.stage != Stage::Up
    }
}

/// The end of what an LND that goes down does not do any more.
pub(super) fn why(cx: &Cx) -> LnetError {
    if cx.down { LnetError::ShuttingDown } else { LnetError::NoNi }
}

impl<U: Upper> Socklnd<U> {
    /// Begins to go down: at once where no handshake is, or was a moment ago.
    pub(super) fn go_down(&mut self, up: &mut U, cx: &mut Cx) {
        if self.leaving.stage.apply(Event::Shutdown).is_some() {
            self.leaving.until = cx.now + LINGER;
            self.leaving.look_at = cx.now;
        } else if self.leaving.gone() {
            // Its NI was deleted: nameless connections are waited for no longer.
            self.let_go(up, cx);
        }
        self.leave_when_due(up, cx);
    }

    /// The NI is deleted: everything ends now.
    pub(super) fn leave(&mut self, up: &mut U, cx: &mut Cx) {
        if self.leaving.stage.apply(Event::Delete).is_some() {
            (self.leaving.until, self.nid) = (cx.now, Nid::LO);
            self.let_go(up, cx);
        }
    }

    /// Forgets the peers of an NI that was deleted, of which nothing is left: they have no connection, and nothing is on its way to them.
    pub(crate) fn forget_all(&mut self, up: &mut U, cx: &mut Cx) {
        for peer in self.peers.keys().collect::<Vec<_>>() {
            if let Some(p) = self.peers.get(peer) {
                up.peer_gone(p.up, &p.moved);
            }
            self.uncharge_peer(cx, peer);
            self.peers.remove(peer);
            self.peer_timers.cancel(peer);
        }
        self.by_peer.clear();
    }

    /// Looks whether there is something to wait for, when that is due.
    pub(crate) fn leave_when_due(&mut self, up: &mut U, cx: &mut Cx) {
        if self.leaving.look_at > cx.now {
            return;
        }
        let settled = self.leaving.shaken_at == 0 || cx.now >= self.leaving.shaken_at + SETTLE;
        let event = if cx.now >= self.leaving.until {
            Event::Over
        } else if settled && !self.shaking(cx) {
            Event::Settled
        } else {
            self.leaving.look_at = cx.now + LOOK;
            return;
        };
        self.leaving.look_at = u64::MAX;
        if self.leaving.stage.apply(event).is_some() {
            self.let_go(up, cx);
        }
    }

    /// Ends everything but the connections that have to be waited for.
    pub(super) fn let_go(&mut self, up: &mut U, cx: &mut Cx) {
        let why = why(cx);
        self.cut_off(cx);
        let peers: Vec<Key> = self.peers.keys().collect();
        for peer in peers {
            self.close_set(up, cx, Some(peer), why, true);
        }
        for conn in self.conns.keys().collect::<Vec<_>>() {
            let nameless = self.conns.get(conn).is_some_and(|c| c.hs.nameless());
            if cx.down || !nameless {
                self.end_conn(cx, conn, Close::Abort);
            }
        }
        up.gone(cx, self);
    }

    /// Going down, a connection closes: its peer has some time to do so, too.
    pub(super) fn lingers(&mut self, cx: &mut Cx, conn: Key) {
        let at = cx.now + CLOSES;
        if let Some(c) = self.conns.get_mut(conn) {
            c.hs_deadline = at;
        }
        self.conn_by(cx, conn, at);
    }

    /// Connections that are closing are waited for no longer: a peer that is gone, or does not close, would never let them
    /// end.
    fn cut_off(&mut self, cx: &mut Cx) {
        for conn in self.conns.keys() {
            if let Some(c) = self.conns.get(conn).filter(|c| c.hs.dead())
                && self.by_id.contains_key(&c.id)
            {
                cx.act(Action::Close(c.id, Close::Abort));
            }
        }
    }

    /// Going down: the peer had its time to close this connection.
    pub(super) fn linger(&mut self, cx: &mut Cx, conn: Key) {
        let Some(c) = self.conns.get(conn).filter(|c| self.leaving.gone() && c.hs.dead()) else { return };
        let (id, at) = (c.id, c.hs_deadline);
        if at > cx.now {
            // The timer was one of the connection's life.
            return self.conn_by(cx, conn, at);
        }
        cx.act(Action::Close(id, Close::Abort));
        self.lingers(cx, conn);
    }

    /// Whether a handshake is under way that may still come to something.
    fn shaking(&self, cx: &Cx) -> bool {
        let (now, timeout) = (cx.now, cx.cfg.timeout());
        let young = |deadline: u64, length: u64, most: u64| now < (deadline - length.min(deadline)) + most;
        let conns = self.conns.values();
        let shakes = conns.filter(|c| c.hs.shaking() && c.hs_deadline != u64::MAX).any(|c| {
            let length = if c.passive() { cx.cfg.accept_timeout } else { timeout };
            young(c.hs_deadline, length, LINGER)
        });
        let mut peers = self.peers.values();
        shakes
            || peers.any(|p| {
                matches!(p.dial(), DialState::Dialling(..)) && young(p.dial_deadline, timeout, CONNECTS)
            })
    }

    /// Whether a connection that a peer makes is answered.
    pub(super) fn takes_in(&self, cx: &Cx) -> bool {
        !self.leaving.begun() || cx.now < self.leaving.until
    }

    /// When to give up on the request or HELLO of a connection that a peer made. A peer that comes when all else has closed has
    /// until LINGER is over: one that says nothing must not hold everything up.
    pub(super) fn shake_by(&self, cx: &Cx) -> u64 {
        let at = cx.now + cx.cfg.accept_timeout;
        if self.leaving.gone() { at.min(self.leaving.until.max(cx.now)) } else { at }
    }

    /// A connection of this peer is up: it closes, too, if all others have closed already.
    pub(super) fn late(&mut self, up: &mut U, cx: &mut Cx, peer: Key) {
        if self.leaving.gone() {
            self.close_set(up, cx, Some(peer), why(cx), true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<Stage>(), @r"
        Up + Shutdown -> Waiting
        Up + Delete -> Gone
        Waiting + Settled -> Gone
        Waiting + Over -> Gone
        otherwise: the event says nothing
        ");
    }
}
