//! Framing of what a connection receives (docs/protocol/socklnd.md §8).
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
//! every message starts in LNET_HEADER, and `Done` leads there.

use arrayvec::ArrayVec;

use crate::lnd::Placement;
use crate::wire::ksock::Checksum;
use crate::wire::{KsockHdr, LnetHdr, Version, lnet};

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

/// What moves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RxEvent {
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
    /// The message has no more bytes.
    Done,
}

/// Where messages of a version start.
pub(super) fn start(version: Version) -> RxState {
    if version.has_ksock() { RxState::KsmHeader } else { RxState::LnetHeader }
}

/// The transition table; `None` is a protocol error of ours or theirs, and closes the set.
pub(super) fn next(version: Version, state: RxState, event: RxEvent) -> Option<RxState> {
    use {RxEvent as E, RxState as S};
    Some(match (state, event) {
        (S::KsmHeader, E::Noop) => S::KsmHeader,
        (S::KsmHeader, E::Lnet) => S::LnetHeader,
        (S::LnetHeader, E::Header) => S::Parse,
        (S::Parse | S::ParseWait, E::Wait) => S::ParseWait,
        (S::Parse | S::ParseWait, E::Payload) => S::LnetPayload,
        (S::Parse | S::ParseWait | S::LnetPayload, E::Slop) => S::Slop,
        (S::Parse | S::ParseWait | S::LnetPayload | S::Slop, E::Done) => start(version),
        _ => return None,
    })
}

/// Why a connection waits in PARSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitFor {
    /// Nothing.
    Nothing,
    /// The MD's run is in another message's hands, or another shard has been asked.
    Match,
    /// Too many answers wait for this peer.
    Answers,
    /// Messages before it are in boxes.
    Boxes,
}

/// The receiving side of a connection.
#[derive(Debug)]
pub(super) struct Rx<D> {
    pub(super) state: RxState,
    pub(super) version: Version,
    /// The header being read.
    pub(super) buf: ArrayVec<u8, { lnet::LEN_V4 }>,
    pub(super) ksock: Option<KsockHdr>,
    /// Sum of the headers of a message whose checksum covers them.
    pub(super) sum: Option<Checksum>,
    pub(super) hdr: Option<LnetHdr>,
    /// When that came, in ns.
    pub(super) came: u64,
    pub(super) placement: Option<Placement>,
    pub(super) delivery: D,
    /// Bytes to drop after the placement.
    pub(super) slop: u32,
    pub(super) wait: WaitFor,
    /// When the message is given up; `None` at a boundary, and while we are what it waits for.
    pub(super) deadline: Option<u64>,
    /// Ticket of the question to another shard, so that a late answer finds its message or none.
    pub(super) ticket: u64,
}

impl<D: Default> Rx<D> {
    pub(super) fn new() -> Rx<D> {
        Rx {
            state: RxState::KsmHeader,
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
            ticket: 0,
        }
    }

    /// Whether the stream stands between two messages.
    pub(super) fn at_boundary(&self) -> bool {
        self.state == start(self.version) && self.buf.is_empty()
    }

    /// Whether a message that has no payload waits for its peer to read answers.
    pub(super) fn waits_whole(&self) -> bool {
        self.wait == WaitFor::Answers && self.hdr.is_some_and(|h| h.payload_len == 0)
    }

    /// The HELLO is through: messages of `version` follow.
    pub(super) fn begin(&mut self, version: Version) {
        self.version = version;
        self.state = start(version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        use {RxEvent as E, RxState as S};
        let mut text = String::new();
        for s in [S::KsmHeader, S::LnetHeader, S::Parse, S::ParseWait, S::LnetPayload, S::Slop] {
            for e in [E::Noop, E::Lnet, E::Header, E::Wait, E::Payload, E::Slop, E::Done] {
                if let Some(n) = next(Version::V3, s, e) {
                    text += &format!("{s:?} + {e:?} -> {n:?}\n");
                }
                // The other versions with ksock headers do the same, V1 goes on with the LNet header.
                for v in [Version::V2, Version::V4] {
                    assert_eq!(next(v, s, e), next(Version::V3, s, e));
                }
                let v1 = next(Version::V3, s, e).map(|n| if e == E::Done { S::LnetHeader } else { n });
                assert_eq!(next(Version::V1, s, e), v1);
            }
        }
        insta::assert_snapshot!(text, @r"
        KsmHeader + Noop -> KsmHeader
        KsmHeader + Lnet -> LnetHeader
        LnetHeader + Header -> Parse
        Parse + Wait -> ParseWait
        Parse + Payload -> LnetPayload
        Parse + Slop -> Slop
        Parse + Done -> KsmHeader
        ParseWait + Wait -> ParseWait
        ParseWait + Payload -> LnetPayload
        ParseWait + Slop -> Slop
        ParseWait + Done -> KsmHeader
        LnetPayload + Slop -> Slop
        LnetPayload + Done -> KsmHeader
        Slop + Done -> KsmHeader
        ");
    }
}
