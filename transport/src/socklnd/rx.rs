//! Framing of received messages (docs/protocol/socklnd.md §8).
//!
//! ```text
//!               Lnet                 Header            Payload
//!   KSM_HEADER ------> LNET_HEADER ---------> PARSE ------------> LNET_PAYLOAD
//!    |  ^  ^            (V1 starts here)       | |                 ^   |   |
//!    '--'  |                                   | | Wait    Payload |   |   |
//!    Noop  |                                   | '--> PARSE_WAIT --'   |   |
//!          |                                   |      ^  |  |          |   |
//!          |                                   |      '--'  |          |   |
//!          |                              Slop |      Wait  | Slop     | Slop
//!          |                                   v            v          v   |
//!          |           Done                  SLOP <--------------------'   |
//!          |<---------------------------------'                            |
//!          '<--- Done ---- (PARSE, PARSE_WAIT, LNET_PAYLOAD) --------------'
//! ```
//!
//! `Done`: the message has no more bytes. Any other event, in any state, closes the set. V1 has no ksock headers: there
//! every message starts in LNET_HEADER, and `Begin` and `Done` lead there.

use arrayvec::ArrayVec;
use fsm::Fsm;

use super::parts::Parts;
use crate::lnd::{Hold, Placement};
use crate::wire::ksock::Checksum;
use crate::wire::{KsockHdr, LnetHdr, Version, lnet};

fsm::fsm! {
    /// State of the receiving side.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum RxState {
        KsmHeader,
        LnetHeader,
        Parse,
        ParseWait,
        LnetPayload,
        Slop,
    }

    /// Events of receiving.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum RxEvent {
        /// The HELLO is through: messages of that version follow.
        Begin(Version),
        /// A NOOP was read.
        Noop,
        /// A ksock header of an LNet message was read.
        Lnet,
        /// An LNet header was read.
        Header,
        /// No buffer yet.
        Wait,
        /// Payload goes to a placement.
        Payload,
        /// The rest of the message is to be dropped.
        Slop,
        /// The message has no more bytes; another of that version follows.
        Done(Version),
    }

    table RxState + RxEvent {
        start KsmHeader;
        else "a protocol error of ours or theirs: the set is closed";
        KsmHeader + Begin(Version::V1) => LnetHeader;
        KsmHeader + Begin(_) => same;
        KsmHeader + Noop => same;
        KsmHeader + Lnet => LnetHeader;
        LnetHeader + Header => Parse;
        Parse | ParseWait + Wait => ParseWait;
        Parse | ParseWait + Payload => LnetPayload;
        Parse | ParseWait | LnetPayload + Slop => Slop;
        Parse | ParseWait | LnetPayload | Slop + Done(Version::V1) => LnetHeader;
        Parse | ParseWait | LnetPayload | Slop + Done(_) => KsmHeader;
    }
}

/// State in which messages of a version start.
pub(super) fn start(version: Version) -> RxState {
    if version.has_ksock() { RxState::KsmHeader } else { RxState::LnetHeader }
}

/// Reasons why a connection waits in PARSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitFor {
    /// Nothing.
    Nothing,
    /// For a buffer: another message has the MD's run, or another shard has been asked for the match.
    Match,
    /// For a router buffer.
    Buffer,
    /// For the peer to read: too many answers wait for it.
    Answers,
    /// Messages before it are in copy jobs.
    CopyJobs,
}

impl WaitFor {
    /// Whether LNet says when the wait is over.
    pub(super) fn is_for_lnet(self) -> bool {
        matches!(self, WaitFor::Match | WaitFor::Buffer)
    }
}

/// The receiving side of a connection.
#[derive(Debug)]
pub(super) struct Rx<D> {
    pub(super) state: Fsm<RxState>,
    pub(super) version: Version,
    /// The header being read.
    pub(super) buf: ArrayVec<u8, { lnet::LEN_V4 }>,
    pub(super) ksock: Option<KsockHdr>,
    /// Sum of the headers of a message whose checksum covers them.
    pub(super) sum: Option<Checksum>,
    pub(super) hdr: Option<LnetHdr>,
    /// Time at which the header came, in ns.
    pub(super) came: u64,
    pub(super) placement: Option<Placement>,
    pub(super) delivery: D,
    /// Bytes to drop after the placement.
    pub(super) slop: u32,
    pub(super) wait: WaitFor,
    /// When the message is given up; `None` at a boundary, and while we are what it waits for.
    pub(super) deadline: Option<u64>,
    /// In PARSE_WAIT the message alone is given up then, which waits for this, and not its set.
    pub(super) gives_way: Option<Hold>,
    /// Ticket of the match request to another shard, so that a late reply finds its message or none.
    pub(super) ticket: u64,
    /// The parts of a message that goes on before it is whole.
    pub(super) parts: Parts,
}

impl<D: Default> Rx<D> {
    pub(super) fn new() -> Rx<D> {
        Rx {
            state: Fsm::START,
            version: Version::V3,
            buf: ArrayVec::new(),
            ksock: None,
            sum: None,
            hdr: None,
            came: 0,
            placement: None,
            delivery: D::default(),
            slop: 0,
            wait: WaitFor::Nothing,
            deadline: None,
            gives_way: None,
            ticket: 0,
            parts: Parts::default(),
        }
    }

    /// Whether the stream stands between two messages.
    pub(super) fn at_boundary(&self) -> bool {
        self.state == start(self.version) && self.buf.is_empty()
    }

    /// Whether it is in the middle of a message of which a part was given up.
    pub(super) fn comes_in_parts(&self) -> bool {
        self.state == RxState::LnetPayload && self.parts.begun(self.ticket)
    }

    /// Whether a message that has come whole, since it has no payload, waits for answers to be read or for its buffer.
    /// Behind copy jobs it does not: a FIN ends the connection without regard to those.
    pub(super) fn waits_whole(&self) -> bool {
        (self.wait == WaitFor::Answers || self.wait.is_for_lnet())
            && self.hdr.is_some_and(|h| h.payload_len == 0)
    }

    /// The HELLO is through: messages of `version` follow.
    pub(super) fn begin(&mut self, version: Version) {
        self.version = version;
        self.state.apply(RxEvent::Begin(version));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<RxState>(), @r"
        KsmHeader + Begin(Version::V1) -> LnetHeader
        KsmHeader + Begin -> KsmHeader
        KsmHeader + Noop -> KsmHeader
        KsmHeader + Lnet -> LnetHeader
        LnetHeader + Header -> Parse
        Parse + Wait -> ParseWait
        Parse + Payload -> LnetPayload
        Parse + Slop -> Slop
        Parse + Done(Version::V1) -> LnetHeader
        Parse + Done -> KsmHeader
        ParseWait + Wait -> ParseWait
        ParseWait + Payload -> LnetPayload
        ParseWait + Slop -> Slop
        ParseWait + Done(Version::V1) -> LnetHeader
        ParseWait + Done -> KsmHeader
        LnetPayload + Slop -> Slop
        LnetPayload + Done(Version::V1) -> LnetHeader
        LnetPayload + Done -> KsmHeader
        Slop + Done(Version::V1) -> LnetHeader
        Slop + Done -> KsmHeader
        otherwise: a protocol error of ours or theirs: the set is closed
        ");
    }

    /// The first message and each that follows begin where those of the version do.
    #[test]
    fn messages_start_where_their_version_has_them() {
        for version in [Version::V1, Version::V2, Version::V3, Version::V4] {
            let mut rx = Rx::<()>::new();
            rx.begin(version);
            assert!(rx.at_boundary(), "{version:?}");
            if version.has_ksock() {
                rx.state.apply(RxEvent::Lnet);
            }
            for event in [RxEvent::Header, RxEvent::Slop, RxEvent::Done(version)] {
                assert!(rx.state.apply(event).is_some(), "{version:?} {event:?}");
            }
            assert!(rx.at_boundary(), "{version:?}");
        }
    }
}
