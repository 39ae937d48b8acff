//! The LND contract as socklnd keeps it: LNet's requests.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;

use super::Socklnd;
use crate::lnd::budget::{Cause, QUEUE};
use crate::lnd::{Arrived, Cx, Hold, Lnd, LnetError, NiId, Pieces, Placement, Ticket, Tx, Upper, Way};
use crate::stream::slab::Key;
use crate::wire::{LnetHdr, Nid, ProcessId, Version};

use super::begun::DRAINED;
use super::conn::Conn;
use super::parts::Parts;
use super::rx::{RxState, WaitFor};

impl<U: Upper> Lnd<U> for Socklnd<U> {
    #[inline]
    fn ni(&self) -> NiId {
        self.ni
    }

    #[inline]
    fn way(&mut self, cx: &mut Cx, peer: Key, tx: &Tx<U::Token>) -> Option<Way> {
        Socklnd::way(self, cx, peer, tx)
    }

    #[inline]
    fn is_apart(&self, cx: &Cx, peer: Key, tx: &Tx<U::Token>) -> bool {
        Socklnd::is_apart(self, cx, peer, tx)
    }

    #[inline]
    fn send(&mut self, up: &mut U, cx: &mut Cx, peer: Key, tx: &mut Tx<U::Token>, way: Option<Way>) {
        self.send_by(up, cx, peer, tx, way);
    }

    #[inline]
    fn recv(
        &mut self,
        up: &mut U,
        cx: &mut Cx,
        conn: Key,
        placement: &mut Option<Placement>,
        delivery: U::Delivery,
        mlength: u32,
    ) {
        self.begin(up, cx, conn, placement, delivery, mlength);
    }

    fn in_parts(&mut self, conn: Key, least: u32) {
        if let Some(c) = self.conns.get_mut(conn) {
            c.rx.parts = Parts::asked(c.rx.ticket, least);
        }
    }

    fn begin(&mut self, up: &mut U, cx: &mut Cx, peer: Key, tx: &mut Tx<U::Token>, way: Way) -> Key {
        self.begin_leaving(up, cx, peer, tx, way)
    }

    fn is_drained(&self, way: Way) -> bool {
        self.conns.get(way.conn).is_some_and(|c| c.pushed - c.acked <= DRAINED)
    }

    fn sums(&self, cx: &Cx, way: Way) -> bool {
        cx.cfg.enable_csum && self.conns.get(way.conn).is_some_and(|c| c.version == Version::V2)
    }

    fn carries(&self, way: Way, hdr: &LnetHdr) -> bool {
        self.conns.get(way.conn).is_some_and(|c| c.version == Version::V4 || hdr.fits_nid4())
    }

    fn more(&mut self, up: &mut U, cx: &mut Cx, begun: Key, pieces: Pieces, last: bool) {
        self.leave_on(up, cx, begun, pieces, last);
    }

    fn break_off(&mut self, up: &mut U, cx: &mut Cx, begun: Key) -> bool {
        self.break_off_begun(up, cx, begun)
    }

    #[inline]
    fn skip(&mut self, up: &mut U, cx: &mut Cx, conn: Key) {
        self.skip(up, cx, conn);
    }

    fn hold(&mut self, up: &mut U, cx: &mut Cx, conn: Key, hold: Hold) {
        match hold {
            Hold::Match => self.stall(up, cx, conn, WaitFor::Match),
            Hold::Lazy => {
                cx.counters.lazy_stalls += 1;
                let most = cx.cfg.timeout();
                self.stall_for(up, cx, conn, WaitFor::Match, most);
            }
            Hold::LazyFor(most) => {
                cx.counters.lazy_stalls += 1;
                self.stall_alone(up, cx, conn, hold, most);
            }
            Hold::Sink => {
                let came = self.conns.get(conn).map_or(0, |c| c.rx.came);
                let most = (came + cx.cfg.timeout()).saturating_sub(cx.now);
                self.stall_alone(up, cx, conn, hold, most);
            }
            Hold::Buffer => {
                cx.counters.forward_waits += 1;
                let most = cx.cfg.timeout();
                self.stall_for(up, cx, conn, WaitFor::Buffer, most);
                self.waits_once(up, cx, conn);
            }
            Hold::Unread => self.wait_for_reader(up, cx, conn),
        }
    }

    fn refuse(&mut self, up: &mut U, cx: &mut Cx, conn: Key) {
        self.protocol_error(up, cx, conn);
    }

    fn read(&mut self, up: &mut U, cx: &mut Cx, conn: Key) {
        self.read_behind(up, cx, conn);
    }

    fn again(&mut self, up: &mut U, cx: &mut Cx, ticket: &Ticket) {
        if let Some(key) = self.by_id.get(&ticket.conn).copied()
            && self.conns.get(key).is_some_and(|c| c.rx.ticket == ticket.serial && c.rx.wait.is_for_lnet())
        {
            self.resume(up, cx, key);
        }
    }

    #[inline]
    fn ticket(&self, conn: Key) -> Option<Ticket> {
        self.conns.get(conn).map(|c| Ticket {
            ni: self.ni,
            conn: c.id,
            bucket: c.bucket,
            serial: c.rx.ticket,
        })
    }

    fn held(&self, ticket: &Ticket) -> Option<Arrived> {
        let key = *self.by_id.get(&ticket.conn)?;
        let c = self.conns.get(key).filter(|c| c.up() && c.rx.ticket == ticket.serial)?;
        let waits = c.rx.state == RxState::ParseWait && c.rx.wait.is_for_lnet();
        waits.then(|| self.arrived(key)).flatten()
    }

    #[inline]
    fn find(&self, id: ProcessId) -> Option<Key> {
        self.by_peer.get(&id).and_then(|k| self.peers.get(*k)).map(|p| p.up)
    }

    fn add(&mut self, up: &mut U, cx: &mut Cx, id: ProcessId) -> Option<Key> {
        let key = self.add_peer(up, cx, id, None)?;
        self.peers.get(key).map(|p| p.up)
    }

    fn charge_host(&mut self, up: &mut U, cx: &mut Cx, peer: Key, ip: IpAddr) {
        self.recharge_peer(up, cx, peer, ip);
    }

    fn let_go(&mut self, up: &mut U, cx: &mut Cx, peer: Key) {
        if let Some(p) = self.peers.get_mut(peer) {
            p.let_go = true;
        }
        self.forget_if_idle(up, cx, peer);
    }

    #[inline]
    fn charge_queues(&mut self, cx: &mut Cx, peer: Key, lines: u8) {
        if let Some(p) = self.peers.get_mut(peer).filter(|p| p.queues < lines) {
            let more = lines - std::mem::replace(&mut p.queues, lines);
            cx.budget.charge(p.host, Cause::Peers, u64::from(more) * QUEUE);
        }
    }

    #[inline]
    fn may_ask(&self, cx: &Cx, peer: Key) -> bool {
        self.peers.get(peer).is_none_or(|p| p.answers < cx.cfg.max_answers && !cx.budget.over(p.host))
    }

    #[inline]
    fn answer_queued(&mut self, cx: &mut Cx, peer: Key) {
        self.answer_queued(cx, peer);
    }

    #[inline]
    fn answer_dropped(&mut self, up: &mut U, cx: &mut Cx, peer: Key) {
        self.answer_left(up, cx, peer);
    }

    #[inline]
    fn connected(&self, peer: Key) -> bool {
        self.peers.get(peer).is_some_and(|p| !p.conns.is_empty())
    }

    #[inline]
    fn queued(&self, peer: Key) -> usize {
        self.peers.get(peer).map_or(0, |p| p.queue.len())
    }

    fn forget_if_idle(&mut self, up: &mut U, cx: &mut Cx, peer: Key) {
        self.forget_if_idle(up, cx, peer);
    }

    fn give_back(&mut self, up: &mut U, cx: &mut Cx, peer: Key, why: LnetError) {
        let n = self.peers.get(peer).map_or(0, |p| p.queue.len());
        for _ in 0..n {
            let Some(p) = self.peers.get_mut(peer) else { return };
            match p.queue.pop_front() {
                Some(answer) if answer.answer => p.queue.push_back(answer),
                Some(tx) => self.end_tx(up, cx, peer, tx, Err(why)),
                None => return,
            }
        }
    }

    fn took(&self, peer: Key) -> u64 {
        let Some(p) = self.peers.get(peer) else { return 0 };
        let passes = |c: &&Conn<U>| {
            let lent = |l: &Key| self.lends.get(*l).is_some_and(|l| l.until != u64::MAX);
            c.txq.passes() || c.lends.iter().any(lent)
        };
        let conns = p.conns.iter().filter_map(|c| self.conns.get(*c));
        conns.filter(passes).map(|c| c.took_at).max().unwrap_or(0)
    }

    fn end_passed_on(&mut self, up: &mut U, cx: &mut Cx, peer: Key, nids: &HashSet<Nid>, streams: bool) {
        let is_for =
            |tx: &Tx<U::Token>| tx.forwarded && tx.hdr.as_ref().is_some_and(|h| nids.contains(&h.dest_nid));
        let Some(p) = self.peers.get_mut(peer) else { return };
        let conns = p.conns.clone();
        let (over, left): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut p.queue).into_iter().partition(is_for);
        p.queue = left;
        for tx in over {
            self.end_tx(up, cx, peer, tx, Err(LnetError::TimedOut));
        }
        for conn in conns {
            let Some(c) = self.conns.get_mut(conn) else { continue };
            c.txq.iter_mut().filter(|tx| is_for(tx)).for_each(|tx| tx.deadline = cx.now);
            for lend in c.lends.iter().filter(|_| streams) {
                if let Some(l) = self.lends.get_mut(*lend).filter(|l| l.until != u64::MAX) {
                    l.until = cx.now;
                }
            }
            self.conn_by(cx, conn, cx.now);
        }
    }

    fn fail_queues(&mut self, up: &mut U, cx: &mut Cx, why: LnetError) {
        for peer in self.peers.keys().collect::<Vec<_>>() {
            self.fail_queue(up, cx, peer, why);
        }
    }

    fn go_down(&mut self, up: &mut U, cx: &mut Cx) {
        self.go_down(up, cx);
    }

    fn leave(&mut self, up: &mut U, cx: &mut Cx) {
        self.leave(up, cx);
    }
}
