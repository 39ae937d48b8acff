//! The pipes of a simulated network: what one end of a connection holds, and how bytes get from it to the other.

use std::collections::VecDeque;
use std::net::SocketAddr;

use fsm::Fsm;
use hugepages::RxFrag;

use super::ends::{EndAction, EndEvent, EndState, OPEN};
use super::{Ev, Lend, Net, NoCopy, conn_id};
use crate::node::Input;
use crate::stream::{CloseWhy, Happened, Progress, SendMsg, StreamRx};
use crate::wire::AcceptorReq;

/// Bytes that arrive at once.
const SEGMENT: usize = 32 << 10;

/// Received bytes of one end, as the machine sees them.
#[derive(Default)]
pub struct Inbox {
    pub(super) frags: VecDeque<RxFrag>,
    /// Bytes that the machine has taken.
    pub taken: u64,
}

impl StreamRx for Inbox {
    fn next(&mut self) -> Option<RxFrag> {
        let f = self.frags.pop_front()?;
        self.taken += u64::from(f.len());
        Some(f)
    }

    fn unread(&mut self, rest: RxFrag) {
        self.taken -= u64::from(rest.len());
        self.frags.push_front(rest);
    }
}

/// Ways to lose a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Both ends hear a RST; what is on its way is lost.
    Reset,
    /// One end's TCP forgets the connection and its machine hears of a RST; the other end finds out when it sends.
    ResetOne(usize),
    /// Both ends hear a FIN where their streams stand; what is on its way is lost. Whoever has sent more than was acknowledged,
    /// or sends later, is reset.
    Fin,
    /// Nothing gets through any more.
    Silence,
}

/// One end of a connection.
pub(super) struct End {
    pub(super) node: usize,
    pub(super) addr: SocketAddr,
    pub(super) inbox: Inbox,
    /// Bytes that the machine has pushed, in the stream's positions.
    pub(super) pushed: u64,
    /// Of those, transmitted.
    pub(super) sent: u64,
    /// Of those, acknowledged.
    pub(super) acked: u64,
    /// Bytes that came while the machine had not closed it.
    pub(super) arrived: u64,
    /// Bytes that came after that and were acknowledged: an acknowledgement proves that TCP has bytes, not that anybody will.
    pub(super) dropped: u64,
    /// Time at which the last of what is on its way comes here, in ns.
    pub(super) comes: u64,
    /// Pushed and not transmitted: the window was shut.
    pub(super) backlog: VecDeque<Vec<u8>>,
    /// Time at which the last byte sent has left, in ns.
    pub(super) leaves: u64,
    /// The peer's FIN has come.
    pub(super) fin: bool,
    /// Its RST has come, behind bytes that the machine may still read.
    pub(super) reset: bool,
    /// Closed in order: a FIN follows the backlog.
    pub(super) ends: bool,
    /// Of an end that is the test's own: its process has closed it.
    pub(super) shut: bool,
    pub(super) state: Fsm<EndState>,
    /// Bytes pushed, for tests that look at the wire.
    pub(super) record: Vec<u8>,
}

impl End {
    pub(super) fn new(node: usize, addr: SocketAddr) -> End {
        End {
            node,
            addr,
            inbox: Inbox::default(),
            pushed: 0,
            sent: 0,
            acked: 0,
            arrived: 0,
            dropped: 0,
            comes: 0,
            backlog: VecDeque::new(),
            leaves: 0,
            fin: false,
            reset: false,
            ends: false,
            shut: false,
            state: OPEN,
            record: Vec::new(),
        }
    }

    /// Goes through the table; gives whether the machine is to be told that the connection is closed.
    pub(super) fn moves(&mut self, event: EndEvent) -> bool {
        self.state.apply(event) == Some(EndAction::Tell)
    }

    /// The machine has closed it, or it was lost, or the machine was told that it is closed.
    pub(super) fn closed(&self) -> bool {
        self.state != EndState::Open
    }

    /// The machine was told that it is closed: TCP lets go of its pages.
    pub(super) fn dead(&self) -> bool {
        matches!(self.state.get(), EndState::Ended | EndState::Gone)
    }

    /// Its TCP knows nothing of the connection any more.
    pub(super) fn gone(&self) -> bool {
        matches!(self.state.get(), EndState::Lost | EndState::Gone)
    }
}

/// A connection.
pub(super) struct Link {
    pub(super) ends: [End; 2],
    /// Cut: nothing gets through.
    pub(super) silent: bool,
    /// Cut, and whoever sends is reset.
    pub(super) resets: bool,
    /// Bytes to this end are lost: whoever sent them is gone, and sends none of them again.
    pub(super) lost: [bool; 2],
    /// Network of the NI that was dialled, once the request for it has been pushed.
    pub(super) network: Option<u16>,
}

impl std::ops::Index<usize> for Link {
    type Output = End;
    fn index(&self, end: usize) -> &End {
        &self.ends[end]
    }
}

impl std::ops::IndexMut<usize> for Link {
    fn index_mut(&mut self, end: usize) -> &mut End {
        &mut self.ends[end]
    }
}

impl Net {
    /// Loses a connection.
    pub fn cut(&mut self, link: usize, how: Cut) {
        self.links[link].silent |= !matches!(how, Cut::ResetOne(_));
        self.links[link].resets = how == Cut::Fin || self.links[link].resets && how != Cut::Silence;
        match how {
            Cut::Reset => {
                for end in 0..2 {
                    self.died(link, end);
                }
            }
            Cut::ResetOne(end) => {
                self.links[link].lost[1 - end] = true;
                self.died(link, end);
                self.probe(link, 1 - end);
            }
            Cut::Fin => {
                for end in 0..2 {
                    self.links[link][end].fin = true;
                    self.offer(link, end);
                    self.probe(link, end);
                    self.sends_again(link, end);
                }
            }
            Cut::Silence => {}
        }
    }

    /// An end sends what waits for a window that nobody opens any more.
    fn probe(&mut self, link: usize, end: usize) {
        self.transmit(link, end);
        let node = self.links[link][end].node;
        if node != usize::MAX && self.nodes[node].alive {
            self.drain(node);
        }
    }

    /// Whether who sends to an end is reset: its TCP has forgotten the connection, or the network has.
    fn resets(&self, link: usize, end: usize) -> bool {
        let e = &self.links[link][end];
        self.links[link].resets || e.gone() && e.node != usize::MAX && self.nodes[e.node].alive
    }

    /// An end's TCP forgets the connection, and its machine hears of a RST.
    pub(super) fn died(&mut self, link: usize, end: usize) {
        self.links[link][end].backlog.clear();
        self.ended(link, end, EndEvent::Forget, CloseWhy::Reset);
    }

    pub(super) fn closed(&mut self, link: usize, end: usize, why: CloseWhy) {
        let event = if why == CloseWhy::Local { EndEvent::Told } else { EndEvent::Reset };
        self.ended(link, end, event, why);
    }

    fn ended(&mut self, link: usize, end: usize, event: EndEvent, why: CloseWhy) {
        if !self.links[link][end].moves(event) {
            return;
        }
        self.links[link][end].inbox.frags.clear();
        let node = self.links[link][end].node;
        if node == usize::MAX || !self.nodes[node].alive {
            return;
        }
        self.input(node, Input::Stream(Happened::Closed(conn_id(link, end), why)));
        self.look_for_releases(node, (link, end));
    }

    /// Bytes have come to an end.
    pub(super) fn data(&mut self, link: usize, end: usize, mut bytes: Vec<u8>) {
        let node = self.links[link][end].node;
        if !self.links[link].resets && (self.links[link].silent || self.links[link].lost[end]) {
            return;
        }
        if self.resets(link, end) {
            return self.at(self.latency, Ev::Closed(link, 1 - end, CloseWhy::Reset));
        }
        if self.links[link][end].shut || self.links[link][end].closed() && node != usize::MAX {
            return self.after_close(link, end, bytes.len());
        }
        if self.links[link][end].closed() || (node == usize::MAX && !self.raw_acks) {
            return;
        }
        let before = self.links[link][end].arrived;
        let cut =
            self.cut_at.filter(|c| (c.link, c.end) == (link, end) && before + bytes.len() as u64 >= c.at);
        if let Some(c) = cut {
            bytes.truncate((c.at - before) as usize);
        }
        self.links[link][end].arrived += bytes.len() as u64;
        for part in bytes.chunks(self.chunk).filter(|_| node != usize::MAX) {
            let frag = self.nodes[node].pool.copy_of(part).expect("a buffer for every byte in flight");
            self.links[link][end].inbox.frags.push_back(frag);
            if self.piecemeal {
                self.offer(link, end);
            }
        }
        self.offer(link, end);
        let pos = self.links[link][end].arrived;
        self.at(self.latency, Ev::Ack(link, 1 - end, pos));
        if let Some(c) = cut {
            self.cut_at = None;
            self.cut(link, c.how);
        }
    }

    /// The other end's TCP has acknowledged everything before `acked`, and may have opened its window.
    pub(super) fn ack(&mut self, link: usize, end: usize, acked: u64) {
        if self.links[link].silent {
            return;
        }
        let e = &mut self.links[link][end];
        e.acked = e.acked.max(acked);
        let (node, progress) = (e.node, Progress { acked: e.acked, sent: e.sent.max(acked) });
        self.input_at(link, end, Input::Stream(Happened::Progress(conn_id(link, end), progress)));
        self.look_for_releases(node, (link, end));
        self.transmit(link, end);
    }

    pub(super) fn fin(&mut self, link: usize, end: usize) {
        if !self.links[link].silent {
            self.links[link][end].fin = true;
            self.offer(link, end);
        }
    }

    /// Gives a machine the bytes of a connection, and its end.
    pub(super) fn offer(&mut self, link: usize, end: usize) {
        let e = &mut self.links[link][end];
        if e.closed() || e.node == usize::MAX || !self.nodes[e.node].alive || self.nodes[e.node].paused {
            return;
        }
        let (node, id) = (e.node, conn_id(link, end));
        if !e.inbox.frags.is_empty() {
            let mut inbox = std::mem::take(&mut e.inbox);
            let before = inbox.taken;
            self.nodes[node].machine.handle(self.now, Input::Stream(Happened::Bytes(id, &mut inbox)));
            let taken = inbox.taken;
            self.links[link][end].inbox = inbox;
            self.drain(node);
            if taken > before && !self.links[link][1 - end].backlog.is_empty() {
                let pos = self.links[link][end].arrived;
                self.at(self.latency, Ev::Ack(link, 1 - end, pos));
            }
        }
        let e = &self.links[link][end];
        if e.fin && !e.closed() {
            let all = e.inbox.frags.is_empty();
            let end = if all { Happened::PeerFin(id) } else { Happened::LastBytes(id) };
            self.input(node, Input::Stream(end));
        }
        let e = &self.links[link][end];
        if e.reset && !e.closed() {
            match e.inbox.frags.is_empty() {
                true => self.closed(link, end, CloseWhy::Reset),
                false => self.input(node, Input::Stream(Happened::Ended(id))),
            }
        }
    }

    /// Lets a node that was paused read again.
    pub fn resume(&mut self, node: usize) {
        self.nodes[node].paused = false;
        for link in 0..self.links.len() {
            for end in 0..2 {
                if self.links[link][end].node == node {
                    self.offer(link, end);
                }
            }
        }
    }

    /// A machine pushes a message.
    pub(super) fn push(&mut self, node: usize, (link, end): (usize, usize), msg: SendMsg) {
        assert_eq!(msg.lend.is_none(), msg.pay.is_empty(), "pages without a lend, or a lend without pages");
        assert!(!msg.hold || msg.lend.is_some());
        let network = &mut self.links[link].network;
        if end == 0 && network.is_none() {
            *network = AcceptorReq::parse(&msg.hdr).ok().map(|(r, _)| r.target.net_num());
        }
        let e = &mut self.links[link][end];
        assert!(!e.closed(), "a push after the close");
        let mut bytes = msg.hdr.to_vec();
        for p in &msg.pay {
            p.chunks().for_each(|b| bytes.extend_from_slice(b));
        }
        // A message that has begun is pushed on, as one that is pushed whole is.
        let fits = e.pushed - e.acked < self.nodes[node].machine.config().tx_window;
        assert!(fits || msg.hdr.is_empty(), "the window is not kept");
        e.pushed += bytes.len() as u64;
        if self.record {
            e.record.extend_from_slice(&bytes);
        }
        let end_of_msg = e.pushed;
        for segment in bytes.chunks(SEGMENT) {
            e.backlog.push_back(segment.to_vec());
        }
        if msg.hold {
            self.cookie(node, (link, end), &msg.hdr);
        }
        if let Some(id) = msg.lend {
            let until = self.nic_hold.as_mut().map_or(0, |(rng, most)| self.now + rng.below(*most));
            let lend = Lend {
                conn: (link, end),
                end: end_of_msg,
                hold: msg.hold,
                nic_until: until,
                asked: false,
                pages: NoCopy(msg.pay),
            };
            assert!(self.nodes[node].lends.insert(id, lend).is_none(), "a lend's name was used twice");
        }
        self.transmit(link, end);
    }

    /// Sends what is queued, as far as the other end's window goes.
    fn transmit(&mut self, link: usize, end: usize) {
        let before = self.links[link][end].sent;
        // A probe of a shut window is answered by a RST.
        let bounded = !self.resets(link, 1 - end);
        while let Some(front) = self.links[link][end].backlog.front() {
            let len = front.len() as u64;
            let e = &self.links[link][end];
            if bounded && e.sent > self.links[link][1 - end].inbox.taken + self.window {
                break;
            }
            // Segments follow one another at 100 Gb/s, so that messages of several connections overlap.
            let leaves = e.leaves.max(self.now) + len * 8 / 100;
            let e = &mut self.links[link][end];
            (e.leaves, e.sent) = (leaves, e.sent + len);
            let Some(segment) = e.backlog.pop_front() else { break };
            let delay = self.travel(link, 1 - end, leaves - self.now);
            self.at(delay, Ev::Data(link, 1 - end, segment));
        }
        let e = &mut self.links[link][end];
        if e.backlog.is_empty() && std::mem::take(&mut e.ends) {
            let left = e.leaves.saturating_sub(self.now);
            let delay = self.travel(link, 1 - end, left);
            self.at(delay, Ev::Fin(link, 1 - end));
        }
        let e = &self.links[link][end];
        // Known to the machine before any answer can be.
        if e.sent > before && !e.closed() && e.node != usize::MAX && self.nodes[e.node].alive {
            let (node, progress) = (e.node, Progress { acked: e.acked, sent: e.sent });
            self.nodes[node]
                .machine
                .handle(self.now, Input::Stream(Happened::Progress(conn_id(link, end), progress)));
            self.note_timer(node);
        }
    }

    pub(super) fn close_in_order(&mut self, link: usize, end: usize) {
        self.links[link][end].ends = true;
        self.transmit(link, end);
    }

    /// Bytes have come to an end that its process has closed. Our own TCP acknowledges and drops them ([`Net::discards`]); a
    /// kernel's forgets the connection and says so by a RST (RFC 9293 §3.6.1), and what it has not sent is lost.
    fn after_close(&mut self, link: usize, end: usize, len: usize) {
        let e = &mut self.links[link][end];
        let own = e.node != usize::MAX;
        if own && !self.nodes[e.node].alive {
            return;
        }
        if own && self.discards {
            e.dropped += len as u64;
            let pos = e.arrived + e.dropped;
            return self.at(self.latency, Ev::Ack(link, 1 - end, pos));
        }
        e.backlog.clear();
        if own {
            e.moves(EndEvent::Forget);
        }
        self.reset(link, 1 - end);
    }
}
