//! A buffer on one of the six queues, and how far its transfer is.
//!
//! ```text
//!           Listen           Fill                  Fill
//!    NEW ----------> QUEUED -------> FILLING <-------------- ASKED
//!     |               |  ^            |  '---- Asked ---------> ^
//!     |         Write |  |<-- Reset --'                         |
//!     | Write         v  |                                      |
//!     '-----------> WAITING --------------- Asked --------------'
//!                     |  |
//!                Part |  '------ Whole -----.      WAITING, SENDING, PUSHED: Reset -> QUEUED
//!                     v                     v      each of them:             End -> ENDING
//!                  SENDING --- Whole ---> PUSHED
//! ```
//!
//! QUEUED waits for a peer; WAITING for a connection or its turn on one; ASKED for the answer to a GET that is out; PUSHED and
//! ENDING for pages. Reset: the connection was lost, and the buffer is whole again; Asked: the same, where the answer may
//! still come by the connection that the GET went by.

use fsm::Fsm;

use super::list::{Linked, Links};
use super::memory::Sink;
use super::{BufId, Queue};
use crate::stream::Pages;
use crate::stream::slab::Key;
use crate::wire::netsock::{Bdesc, Cookie};

fsm::fsm! {
    /// Progress of a transfer.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum BufState { New, Queued, Waiting, Sending, Pushed, Asked, Filling, Ending }

    /// Events of a transfer.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum BufEvent {
        /// It is there for a peer.
        Listen,
        /// It is to be written.
        Write,
        /// Some of its packet is with TCP.
        Part,
        /// All of its packet is with TCP.
        Whole,
        /// Its GET is with TCP.
        Asked,
        /// A packet for it comes in.
        Fill,
        /// The connection is lost: it is whole again.
        Reset,
        /// Its end is known.
        End,
    }

    table BufState + BufEvent {
        start New;
        else "never: whoever finds a buffer looks at its state first";
        New + Listen => Queued;
        New | Queued + Write => Waiting;
        Waiting + Part => Sending;
        Waiting | Sending + Whole => Pushed;
        Waiting | Filling + Asked => Asked;
        Queued | Asked + Fill => Filling;
        Waiting | Sending | Pushed | Filling + Reset => Queued;
        New | Queued | Waiting | Sending | Pushed | Asked | Filling + End => Ending;
    }
}

/// The list that a buffer is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Nowhere,
    /// Messages go to the first that holds them.
    Messages,
    /// Behind other packets to this peer.
    Writers(Key),
    /// Answers to GETs on this connection.
    Answers(Key),
    /// GETs that went by this connection.
    Asked(Key),
}

/// A buffer.
#[derive(Debug)]
pub(super) struct Buf {
    pub(super) queue: Queue,
    pub(super) tag: u64,
    /// Time at which it times out, in ns; `u64::MAX` for never.
    pub(super) until: u64,
    pub(super) cookie: Cookie,
    pub(super) state: Fsm<BufState>,
    /// The other side's buffer: target of a send, descriptor of an active receive, source of what comes in.
    pub(super) other: Bdesc,
    /// Pages to send.
    pub(super) data: Pages,
    /// Bytes to send; bytes that came, once they have.
    pub(super) len: u64,
    pub(super) sink: Option<Sink>,
    /// Slice and offset of the next byte to push.
    pub(super) at: (usize, u32),
    /// The connection that its packet goes, or its GET went, by.
    pub(super) conn: Key,
    /// Where on it the packet ends, once all of it is with TCP.
    pub(super) end: u64,
    /// The connection that fills it.
    pub(super) filler: Key,
    /// Datagrams that have come for it, where others are to come.
    pub(super) part: Key,
    /// Datagrams to send: bytes of each but the last, and the number of the next.
    pub(super) cut: u64,
    pub(super) idx: u32,
    /// Loans that are out.
    pub(super) lent: u32,
    /// Error number with which it ends, 0 for none, once that is known.
    pub(super) fate: Option<i32>,
    /// Error number with which it ends should its connection be lost: it was cancelled when TCP had sent all of it.
    pub(super) cancelled: Option<i32>,
    /// A connection is to end for it, unless it is acknowledged before.
    pub(super) given_up: bool,
    pub(super) place: Place,
    pub(super) links: Links,
}

impl Linked for Buf {
    fn links(&self) -> Links {
        self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// Bits of a name that are the slot, of a buffer or an end-point. Above it are 20 bits that tell uses of it apart.
pub(super) const SLOT_BITS: u32 = 24;
const USE_BITS: u32 = 20;

/// Bits of a cookie's first word below the slot: the queue, at a place that keeps the word a multiple of 8.
const COOKIE_SHIFT: u32 = 16;

/// The cookie of a buffer in slot `key`: opaque to peers.
pub(super) fn cookie(key: Key, queue: Queue, generation: u64) -> Cookie {
    Cookie { addr: (u64::from(key.index) + 1) << COOKIE_SHIFT | (queue as u64) << 3, generation }
}

/// The slot that a cookie names.
pub(super) fn slot(c: Cookie) -> Option<usize> {
    (c.addr >> COOKIE_SHIFT).checked_sub(1).and_then(|s| usize::try_from(s).ok())
}

/// Whether a cookie was made for an active receive.
pub(super) fn of_active_recv(c: Cookie) -> bool {
    c.addr & ((1 << COOKIE_SHIFT) - 1) == (Queue::ActiveRecv as u64) << 3
}

/// A name of 44 bits for use number `n` of a slot: those of loans and dials.
pub(super) fn name(slot: Key, n: u64) -> u64 {
    let turn = n % (1 << USE_BITS);
    turn << SLOT_BITS | u64::from(slot.index)
}

/// The slot in a name.
pub(super) fn slot_of_name(name: u64) -> usize {
    (name & ((1 << SLOT_BITS) - 1)) as usize
}

impl From<Key> for BufId {
    fn from(key: Key) -> BufId {
        BufId(key.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<BufState>(), @r"
        New + Listen -> Queued
        New + Write -> Waiting
        New + End -> Ending
        Queued + Write -> Waiting
        Queued + Fill -> Filling
        Queued + End -> Ending
        Waiting + Part -> Sending
        Waiting + Whole -> Pushed
        Waiting + Asked -> Asked
        Waiting + Reset -> Queued
        Waiting + End -> Ending
        Sending + Whole -> Pushed
        Sending + Reset -> Queued
        Sending + End -> Ending
        Pushed + Reset -> Queued
        Pushed + End -> Ending
        Asked + Fill -> Filling
        Asked + End -> Ending
        Filling + Asked -> Asked
        Filling + Reset -> Queued
        Filling + End -> Ending
        otherwise: never: whoever finds a buffer looks at its state first
        ");
    }

    /// Motr takes a cookie's first word for the address of a word.
    #[test]
    fn cookies_are_what_motr_takes_for_an_address() {
        for index in [0, 1, 1 << 23] {
            for queue in Queue::ALL {
                let c = cookie(Key { index, generation: 7 }, queue, 9);
                assert!(c.addr > 4096 && c.addr.is_multiple_of(8) && !c.is_none());
                assert_eq!(slot(c), Some(index as usize));
                assert_eq!(of_active_recv(c), queue == Queue::ActiveRecv);
            }
        }
        assert_eq!(slot(Cookie::NONE), None);
    }
}
