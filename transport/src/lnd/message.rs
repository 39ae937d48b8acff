//! A message on its way out: LNet's until it is sent, its LND's until it is on a stream.

use super::budget::Uses;
use super::memory::Payload;
use crate::stream::INLINE_PAYLOAD_MAX;
use crate::wire::LnetHdr;

/// A message to be sent. `T` is what LNet wants to hear back with its end.
#[derive(Debug)]
pub(crate) struct Tx<T> {
    /// `None` for a message of the LND's own (a NOOP).
    pub(crate) hdr: Option<LnetHdr>,
    /// Words of the LND's own.
    pub(crate) cookie0: u64,
    pub(crate) cookie1: u64,
    pub(crate) payload: Payload,
    pub(crate) done: T,
    /// Time at which it is given up unless it has a connection, in ns.
    pub(crate) deadline: u64,
    /// Holds a peer credit and an NI credit.
    pub(crate) credit: bool,
    /// Counts against the peer's limit of answers.
    pub(crate) answer: bool,
    /// Was asked for by a stranger: it takes of the NI's credits as answers do.
    pub(crate) strange: bool,
    /// Neither discovery nor a fault rule holds it up any more.
    pub(crate) passed: bool,
    /// Another node's, which is passed on.
    pub(crate) forwarded: bool,
    /// It leaves from the NI that its application named.
    pub(crate) pinned: bool,
    /// Any NID of its target's may get it.
    pub(crate) free: bool,
    /// Times that it was sent again.
    pub(crate) retries: u8,
    /// An operation on a node behind the peer, which is a gateway.
    pub(crate) routed: bool,
    /// More of its payload will follow.
    pub(crate) begins: bool,
    /// Its LND sends it by another connection than messages that are shorter ([`super::Lnd::is_apart`]).
    pub(crate) bulk: bool,
}

impl<T> Tx<T> {
    /// An LNet message.
    pub(crate) fn lnet(hdr: LnetHdr, payload: Payload, done: T) -> Tx<T> {
        Tx {
            hdr: Some(hdr),
            cookie0: 0,
            cookie1: 0,
            payload,
            done,
            deadline: u64::MAX,
            credit: false,
            answer: false,
            strange: false,
            passed: false,
            forwarded: false,
            pinned: false,
            free: false,
            retries: 0,
            routed: false,
            begins: false,
            bulk: false,
        }
    }

    /// The message, taken out of its place.
    pub(crate) fn take(&mut self) -> Tx<T>
    where
        T: Default,
    {
        let (payload, done) =
            (std::mem::replace(&mut self.payload, Payload::empty()), std::mem::take(&mut self.done));
        Tx { payload, done, ..*self }
    }

    /// Whether it needs no pages on a stream.
    pub(crate) fn is_short(&self) -> bool {
        match &self.payload {
            Payload::Inline(_) => true,
            Payload::Pages(p) => p.is_empty() || self.payload.len() <= INLINE_PAYLOAD_MAX as u64,
        }
    }

    /// Whether it leaves credits to this node's own operations, and shares the rest by host.
    pub(crate) fn shares(&self) -> bool {
        self.answer || self.strange
    }

    /// Lendings that an answer's pages take; small ones are copied behind the header.
    pub(crate) fn pieces(&self) -> u32 {
        match &self.payload {
            Payload::Pages(p) if self.answer && self.payload.len() > INLINE_PAYLOAD_MAX as u64 => {
                p.len() as u32
            }
            _ => 0,
        }
    }

    /// Credits and lendings of the shard that it holds, once it has its credits.
    #[inline]
    pub(crate) fn uses(&self) -> Uses {
        if !self.credit {
            return Uses::default();
        }
        let (answers, passed) = (self.shares().into(), self.forwarded.into());
        let short = (!self.forwarded && !self.bulk).into();
        Uses { credits: 1, answers, passed, short, pieces: self.pieces(), ..Uses::default() }
    }
}
