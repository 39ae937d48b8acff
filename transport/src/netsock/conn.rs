//! A connection: whether it may be used, and the reader of what comes by it.
//!
//! ```text
//!          Doom           Close
//!   OPEN -------> DOOMED -------> CLOSING
//!    |  <-------                    ^
//!    |   Spare                      |
//!    '--------- Close --------------'
//! ```
//!
//! DOOMED: a packet of the peer's was refused, or one of ours was given up in the middle, so the connection must end. But Motr
//! dies of a close while it writes: so the end waits until the peer is between packets and has been quiet for a moment; no new
//! packet is begun meanwhile. It is spared if what was given up is acknowledged before.
//!
//! ```text
//!            Bytes            Bind
//!   IDLE ----------> HEADER ---------> PAYLOAD ------.
//!    ^  <---------    |  |               |           |
//!    |      Get       |  | Full          | Unbind    |
//!    |                |  v               |           |
//!    |                | PARKED -- Bind --+--> PAYLOAD|
//!    |                |  | Refuse        v           |
//!    |                '--+- Refuse --> DRAIN         |
//!    |                                   |           |
//!    '------------ Done -----------------'-----------'
//! ```
//!
//! PARKED: a message for which no buffer is queued; nothing is read until one is, or it was longer than every buffer for too
//! long. DRAIN: payload that nobody takes any more,
//! up to the end of its packet.

use std::collections::VecDeque;
use std::net::SocketAddr;

use fsm::Fsm;

use super::list::{Linked, Links, List};
use crate::stream::slab::Key;
use crate::stream::{ConnId, Progress};
use crate::wire::netsock::{Addr, HDR_LEN, PacketError, PacketHdr};

/// Silence of a peer after which it is taken to be between packets, in ns. Packets that it has queued follow one another
/// faster.
const QUIET: u64 = 20_000_000;

fsm::fsm! {
    /// Use of a connection.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum ConnState { Open, Doomed, Closing }

    /// Events of a connection.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum ConnEvent {
        /// It is to be closed when the peer is quiet.
        Doom,
        /// It need not.
        Spare,
        /// It is closed.
        Close,
    }

    table ConnState + ConnEvent {
        start Open;
        else "nothing: it is so already";
        Open + Doom => Doomed;
        Doomed + Spare => Open;
        Open | Doomed + Close => Closing;
    }
}

fsm::fsm! {
    /// Where the reader stands.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum RxState { Idle, Header, Parked, Payload, Drain }

    /// Events of the reader.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum RxEvent {
        /// The first bytes of a header.
        Bytes,
        /// The header was a GET's, which has no payload.
        Get,
        /// No buffer for the message.
        Full,
        /// The payload has a buffer.
        Bind,
        /// The packet is refused, its payload is not wanted.
        Refuse,
        /// The buffer was given up.
        Unbind,
        /// The payload has come to its end.
        Done,
    }

    table RxState + RxEvent {
        start Idle;
        else "never: the reader looks at its state first";
        Idle + Bytes => Header;
        Header + Get => Idle;
        Header + Full => Parked;
        Header | Parked + Bind => Payload;
        Header | Parked + Refuse => Drain;
        Payload + Unbind => Drain;
        Payload | Drain + Done => Idle;
    }
}

/// The reader of a connection.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) state: Fsm<RxState>,
    hdr: [u8; HDR_LEN],
    have: usize,
    /// The packet whose payload comes, or waits.
    pub(super) packet: Option<PacketHdr>,
    pub(super) buf: Key,
    /// Bytes of payload to come.
    pub(super) left: u64,
    /// Time at which its packet was parked, or got its buffer, in ns.
    pub(super) since: u64,
    /// Time at which more must have come, in ns; `u64::MAX` between packets, and while we are what it waits for.
    /// Of a parked message, when it is refused.
    pub(super) deadline: u64,
}

impl Reader {
    fn new() -> Reader {
        Reader {
            state: Fsm::START,
            hdr: [0; HDR_LEN],
            have: 0,
            packet: None,
            buf: Key::NOWHERE,
            left: 0,
            since: 0,
            deadline: u64::MAX,
        }
    }

    /// Room for the rest of the header.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.hdr.get_mut(self.have..).unwrap_or_default()
    }

    /// Bytes came into it; what it says, when it is whole.
    pub(super) fn came(&mut self, n: usize) -> Option<Result<PacketHdr, PacketError>> {
        self.have += n;
        if self.have < HDR_LEN {
            return None;
        }
        self.have = 0;
        Some(PacketHdr::parse(&self.hdr))
    }

    /// Whether the peer is in the middle of a packet.
    pub(super) fn in_packet(&self) -> bool {
        self.state != RxState::Idle
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) id: ConnId,
    /// The peer's end, as its packets must name it but for the port.
    pub(super) remote: Addr,
    pub(super) at: SocketAddr,
    /// The peer that it was dialled for; `None` when the peer connected.
    pub(super) peer: Option<Key>,
    /// We dialled it.
    pub(super) ours: bool,
    pub(super) state: Fsm<ConnState>,
    pub(super) rx: Reader,
    /// Bytes given to TCP.
    pub(super) pushed: u64,
    pub(super) progress: Progress,
    /// The buffer whose packet is with TCP in part.
    pub(super) current: Option<Key>,
    /// Ends of packets that are with TCP, and their buffers.
    pub(super) flight: VecDeque<(u64, Key)>,
    /// Buffers in flight, or the current one, that were given up.
    pub(super) given_up: u32,
    /// Answers to GETs that came by it.
    pub(super) answers: List,
    /// Active receives whose GET went by it.
    pub(super) asked: List,
    /// The peer has sent all it will.
    pub(super) fin: bool,
    /// A packet of the peer's was refused.
    pub(super) refused: bool,
    /// Time at which it was opened, or bytes came last, in ns.
    pub(super) heard: u64,
    /// It ends at this time whatever comes, in ns; `u64::MAX` for no such time.
    pub(super) limit: u64,
    pub(super) links: Links,
}

impl Conn {
    pub(super) fn new(id: ConnId, at: SocketAddr, peer: Option<Key>, now: u64) -> Conn {
        Conn {
            id,
            remote: Addr::stream(at),
            at,
            peer,
            ours: peer.is_some(),
            state: Fsm::START,
            rx: Reader::new(),
            pushed: 0,
            progress: Progress::default(),
            current: None,
            flight: VecDeque::new(),
            given_up: 0,
            answers: List::EMPTY,
            asked: List::EMPTY,
            fin: false,
            refused: false,
            heard: now,
            limit: u64::MAX,
            links: Links::NONE,
        }
    }

    /// When a doomed connection may end, in ns, if nothing comes: the peer is between packets, and no packet of ours but those
    /// given up would be cut off.
    fn ripe(&self) -> u64 {
        let cut = self.current.is_some() && self.given_up == 0;
        if self.state == ConnState::Doomed && !self.rx.in_packet() && !cut {
            self.heard.saturating_add(QUIET)
        } else {
            u64::MAX
        }
    }

    /// Whether an end in order cuts no packet off, of either side.
    pub(super) fn quiet(&self) -> bool {
        self.current.is_none() && !self.rx.in_packet() && self.given_up == 0
    }

    /// Time at which it is to end, in ns, unless something comes before.
    pub(super) fn deadline(&self) -> u64 {
        self.rx.deadline.min(self.limit).min(self.ripe())
    }
}

impl Linked for Conn {
    fn links(&self) -> Links {
        self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conn_transitions() {
        insta::assert_snapshot!(fsm::listing::<ConnState>(), @r"
        Open + Doom -> Doomed
        Open + Close -> Closing
        Doomed + Spare -> Open
        Doomed + Close -> Closing
        otherwise: nothing: it is so already
        ");
    }

    #[test]
    fn reader_transitions() {
        insta::assert_snapshot!(fsm::listing::<RxState>(), @r"
        Idle + Bytes -> Header
        Header + Get -> Idle
        Header + Full -> Parked
        Header + Bind -> Payload
        Header + Refuse -> Drain
        Parked + Bind -> Payload
        Parked + Refuse -> Drain
        Payload + Unbind -> Drain
        Payload + Done -> Idle
        Drain + Done -> Idle
        otherwise: never: the reader looks at its state first
        ");
    }
}
