//! One connection as socklnd sees it.

use std::collections::VecDeque;
use std::net::SocketAddr;

use arrayvec::ArrayVec;
use fsm::Fsm;

use super::copy_jobs::CopyQueue;
use super::hello::{self, Handshake};
use super::rx::Rx;
use super::standing::Standing;
use super::txq::TxQueue;
use crate::lnd::Upper;
use crate::stream::slab::Key;
use crate::stream::{Bucket, ConnId};
use crate::wire::{ByteOrder, ConnType, Nid, Version};

/// A connection, from `Opened` to `Closed`.
#[derive(Debug)]
pub(crate) struct Conn<U: Upper> {
    pub(super) id: ConnId,
    /// Bucket of the peer's address.
    pub(super) bucket: Bucket,
    /// Host that it is charged to.
    pub(super) host: Key,
    /// Charged for answers on its stream that have no pages, in bytes.
    pub(super) owed: u64,
    /// Set once the HELLO is through, or from the start on one that we dialled.
    pub(super) peer: Option<Key>,
    /// The NID that our HELLO names: the one in the peer's, unless its port says otherwise.
    pub(super) claimed: Option<Nid>,
    /// Our own end's type.
    pub(super) ctype: ConnType,
    /// The version asked for while the handshake lasts, then the one agreed on.
    pub(super) version: Version,
    /// The peer's V2 HELLO has the TCP magic: so has our answer.
    pub(super) tcp_magic: bool,
    /// The peer's end is at one of our own addresses.
    pub(super) own_ip: bool,
    /// An unprivileged peer's address: it is known by that, whatever it says (socklnd.md §9).
    pub(super) renamed: Option<SocketAddr>,
    pub(super) hs: Handshake,
    pub(super) hs_buf: ArrayVec<u8, { hello::BUF }>,
    /// Time at which the handshake is given up, in ns; when the node goes down, and it has ended: when it is reset.
    pub(super) hs_deadline: u64,
    /// Whether its end would end the set.
    pub(super) standing: Fsm<Standing>,
    /// A HELD one is used then, in ns.
    pub(super) held_until: u64,
    /// Order of the peer's ksock headers.
    pub(super) order: ByteOrder,
    pub(super) rx: Rx<U::Delivery>,
    /// The peer is gone: what it sent is read, but nothing waits for it to read.
    pub(super) ended: bool,
    /// A FIN came behind the message that waits.
    pub(super) fin: bool,
    /// The peer has gone, and by then all that it left unread is over, in ns.
    pub(super) over: u64,
    /// Messages that are in copy jobs, and those behind them.
    pub(super) copy_queue: Option<Box<CopyQueue<U::Delivery>>>,
    pub(super) txq: TxQueue<U::Token>,
    /// Stream position behind everything pushed.
    pub(super) pushed: u64,
    pub(super) acked: u64,
    /// Time at which the peer last took some of it, in ns.
    pub(super) took_at: u64,
    pub(super) sent: u64,
    /// Bytes pushed and not acknowledged beyond which messages wait: none while one leaves in parts.
    pub(super) window: u64,
    /// The message that leaves in parts.
    pub(super) begun: Key,
    /// TCP must have made progress by then; meaningful while `pushed > acked`.
    pub(super) tx_deadline: u64,
    /// Lends pushed, oldest first; released ones leave from the front.
    pub(super) lends: VecDeque<Key>,
    /// Time at which messages could flow, in ns.
    pub(super) up_at: u64,
    /// Second of the last message, or of the HELLO: for the choice among equals.
    pub(super) last_used: u64,
}

impl<U: Upper> Conn<U> {
    pub(super) fn new(id: ConnId, hs: Handshake, bucket: Bucket, host: Key) -> Conn<U> {
        Conn {
            id,
            bucket,
            host,
            owed: 0,
            peer: None,
            claimed: None,
            ctype: ConnType::None,
            version: Version::V3,
            tcp_magic: false,
            own_ip: false,
            renamed: None,
            hs,
            hs_buf: ArrayVec::new(),
            hs_deadline: u64::MAX,
            standing: Fsm::START,
            held_until: u64::MAX,
            order: ByteOrder::Little,
            rx: Rx::new(),
            ended: false,
            fin: false,
            over: u64::MAX,
            copy_queue: None,
            txq: TxQueue::new(Version::V3, ConnType::None),
            pushed: 0,
            acked: 0,
            took_at: 0,
            sent: 0,
            window: 0,
            begun: Key::NOWHERE,
            tx_deadline: u64::MAX,
            lends: VecDeque::new(),
            up_at: 0,
            last_used: 0,
        }
    }

    /// Whether the peer made it.
    pub(super) fn passive(&self) -> bool {
        matches!(self.hs, Handshake::Passive(_))
    }

    /// Whether its handshake was admitted, and is under way.
    pub(super) fn admitted(&self) -> bool {
        self.hs.shaking() && self.hs_deadline != u64::MAX
    }

    /// Whether messages flow.
    pub(super) fn up(&self) -> bool {
        self.hs.up()
    }

    /// Whether nothing is under way in either direction that a FIN would cut off. Headers that TCP has taken but
    /// not seen acknowledged (an ACK for a cookie, sent a moment ago) go before the FIN and need nothing of ours,
    /// and a RST would make the peer lose them; pages on the way are wanted back at once. Messages in copy jobs have come whole.
    pub(super) fn quiet(&self) -> bool {
        let delivered = self.pushed == self.acked || self.lends.is_empty();
        self.txq.is_empty() && delivered && self.rx.at_boundary() && self.begun == Key::NOWHERE
    }

    /// TCP has acknowledged a part of what was `out` on the stream: gives what is not charged for answers any more, in bytes.
    pub(super) fn answers_read(&mut self, out: u64) -> u64 {
        let left = self.pushed - self.acked;
        // Which messages those bytes were is not known: as many as their share of the stream.
        let owed = if left == 0 { 0 } else { (self.owed.saturating_mul(left) / out.max(1)).min(self.owed) };
        std::mem::replace(&mut self.owed, owed) - owed
    }

    /// Whether a message of it is in a copy job.
    pub(super) fn jobs_out(&self) -> bool {
        self.copy_queue.as_ref().is_some_and(|b| !b.is_empty())
    }

    /// Bytes that a new message would wait for.
    pub(super) fn backlog(&self) -> u64 {
        self.txq.bytes() + (self.pushed - self.sent.min(self.pushed))
    }
}
