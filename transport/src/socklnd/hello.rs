//! The handshake of a connection (docs/protocol/socklnd.md §1, §2.6, §2.7): a state machine for each role.
//!
//! The node that was dialled (`passive`):
//!
//! ```text
//!          Request          Hello / writes its HELLO
//!  REQUEST -------> HELLO -------------------------------> UP
//!     |               |--- Busy / NONE in the peer's version ------------> DEAD
//!     |               '--- Version / NONE in ours, to our own NID -------> DEAD
//!     '------------------- Version / the acceptor's refusal -------------> DEAD
//!  REQUEST, HELLO: Unfit, Timeout / FIN ---------------------------------> DEAD
//!                  Bad, Lost / RST --------------------------------------> DEAD
//! ```
//!
//! The node that dialled (`active`; request and HELLO left when TCP was connected):
//!
//! ```text
//!          Hello
//!   REPLY -------> UP
//!     |--- Busy / another attempt in 1 s --------------------------------> DEAD
//!     |--- Downgrade / another attempt at once, in the peer's version ---> DEAD
//!     |--- Unfit, Timeout / FIN, back off -------------------------------> DEAD
//!     '--- Bad, Version, Lost / RST, back off ---------------------------> DEAD
//! ```
//!
//! A node that has read everything closes with FIN, one that leaves bytes unread with RST, as sockets of kernels do of
//! themselves (field report L7). NONE goes before a FIN: a RST may overtake it, and a peer that never reads it takes
//! its dial for failed.
//!
//! Nothing that belongs to a handshake moves UP or DEAD; a connection that is closed (`Ended`) goes to DEAD from anywhere.

use fsm::Fsm;

use crate::wire::{ConnType, Hello, Nid, ProcessId, Version, WireError, acceptor, hello};

use crate::lnd::{Config, Counters, NiId};

fsm::fsm! {
    /// States of the handshake of a connection that the peer made.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Passive {
        /// The acceptor request is to come.
        Request,
        /// The HELLO is to come.
        Hello,
        /// Messages flow.
        Up,
        /// Closed or closing.
        Dead,
    }

    /// States of the handshake of a connection that we dialled.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Active {
        /// Request and HELLO are sent, the answer is to come.
        Reply,
        /// Messages flow.
        Up,
        /// Closed or closing.
        Dead,
    }

    /// Events of a handshake.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum HsEvent {
        /// A good acceptor request.
        Request,
        /// A good HELLO of a type that is wanted.
        Hello,
        /// Passive: there are enough of the type. Active: the peer said NONE.
        Busy,
        /// A version (or protocol) that is not spoken here.
        Version,
        /// Active: the peer wants another version.
        Downgrade,
        /// Read to its end, and not acceptable.
        Unfit,
        /// Anything else that is wrong: what follows stays unread.
        Bad,
        /// Not finished in time.
        Timeout,
        /// The stream ended.
        Lost,
        /// The connection is closed, whatever it was at.
        Ended,
    }

    /// Actions on a transition.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum HsAction {
        /// Nothing: wait for more, or it is over.
        Wait,
        /// Write our HELLO and register the connection.
        AnswerAndUp,
        /// Register the connection.
        Up,
        /// Write HELLO NONE, then close.
        AnswerNone,
        /// Write HELLO NONE to our own NID, then close.
        AnswerVersion,
        /// Write the acceptor's refusal, then close.
        Refuse,
        /// Close, and dial again in a second.
        Retry,
        /// Close, and dial again now.
        Again,
        /// Close in order; if we dialled, back off.
        Leave,
        /// Close with RST; if we dialled, back off.
        Close,
    }

    table Passive + HsEvent => HsAction {
        start Request;
        else "it is ignored";
        Request + Request => Hello, Wait;
        Request + Version => Dead, Refuse;
        Hello + Hello => Up, AnswerAndUp;
        Hello + Busy => Dead, AnswerNone;
        Hello + Version => Dead, AnswerVersion;
        Request | Hello + Unfit | Timeout => Dead, Leave;
        Request | Hello | Up + Ended => Dead, Wait;
        Request | Hello + _ => Dead, Close;
    }

    table Active + HsEvent => HsAction {
        start Reply;
        else "it is ignored";
        Reply + Hello => Up, Up;
        Reply + Busy => Dead, Retry;
        Reply + Downgrade => Dead, Again;
        Reply + Unfit | Timeout => Dead, Leave;
        Reply | Up + Ended => Dead, Wait;
        Reply + _ => Dead, Close;
    }
}

/// State of a connection's handshake, by role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HsState {
    Passive(Passive),
    Active(Active),
}

/// The handshake of a connection, which the table of its role moves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Handshake {
    Passive(Fsm<Passive>),
    Active(Fsm<Active>),
}

impl Handshake {
    /// Of a connection that the peer made.
    pub(super) const ACCEPTED: Handshake = Handshake::Passive(Fsm::START);
    /// Of a connection that we dialled.
    pub(super) const DIALLED: Handshake = Handshake::Active(Fsm::START);

    pub(super) fn get(self) -> HsState {
        match self {
            Handshake::Passive(s) => HsState::Passive(s.get()),
            Handshake::Active(s) => HsState::Active(s.get()),
        }
    }

    /// Goes through the table of the role.
    pub(super) fn apply(&mut self, event: HsEvent) -> HsAction {
        let action = match self {
            Handshake::Passive(s) => s.apply(event),
            Handshake::Active(s) => s.apply(event),
        };
        action.unwrap_or(HsAction::Wait)
    }

    /// Whether messages flow.
    pub(super) fn up(self) -> bool {
        matches!(self.get(), HsState::Passive(Passive::Up) | HsState::Active(Active::Up))
    }

    /// Whether it is closed or closing.
    pub(super) fn dead(self) -> bool {
        matches!(self.get(), HsState::Passive(Passive::Dead) | HsState::Active(Active::Dead))
    }

    /// Whether the peer has not said which NI it wants.
    pub(super) fn nameless(self) -> bool {
        self.get() == HsState::Passive(Passive::Request)
    }

    /// Whether the handshake lasts.
    pub(super) fn shaking(self) -> bool {
        !self.up() && !self.dead()
    }
}

/// Findings at the front of a stream while a handshake lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Front {
    /// Collect so many bytes in all.
    Need(usize),
    /// An acceptor request for this NI.
    Request,
    /// One for another NI of this node.
    Elsewhere(NiId),
    /// A HELLO.
    Hello(Hello),
    /// Not acceptable.
    Fail(HsEvent),
}

fn fail(e: &WireError, counters: &mut Counters) -> HsEvent {
    match e {
        WireError::BadMagic { .. } => counters.err_magic += 1,
        WireError::BadVersion { .. } => {
            counters.err_version += 1;
            return HsEvent::Version;
        }
        WireError::BadConnType(_) => {
            counters.err_conn_type += 1;
            return HsEvent::Unfit;
        }
        WireError::ZeroIp(_) | WireError::NoHello(_) => {
            counters.err_hello_ips += 1;
            return HsEvent::Unfit;
        }
        _ => counters.err_hello_ips += 1,
    }
    HsEvent::Bad
}

/// Reads an acceptor request.
pub(super) fn request(buf: &[u8], own: Nid, cfg: &Config, counters: &mut Counters) -> Front {
    match acceptor::AcceptorReq::parse(buf) {
        Err(WireError::Truncated { need, .. }) => Front::Need(need),
        Err(e) => {
            let event = fail(&e, counters);
            Front::Fail(if acceptor::deserves_refusal(&e) { HsEvent::Version } else { event })
        }
        Ok((req, _)) if req.target == own => Front::Request,
        Ok((req, _)) => match cfg.ni_of(req.target) {
            Some(ni) => Front::Elsewhere(ni),
            None => {
                counters.err_target_nid += 1;
                Front::Fail(HsEvent::Bad)
            }
        },
    }
}

/// Reads a HELLO, in either role.
pub(super) fn hello(buf: &[u8], own: Nid, counters: &mut Counters) -> Front {
    match Hello::parse(buf) {
        Err(WireError::Truncated { need, .. }) => Front::Need(need),
        Err(e) => Front::Fail(fail(&e, counters)),
        // Kernels that try how a V1 of major 2 is answered begin as V2's first design does (lnet.md §10, origins.md);
        // but that one names whom it wants where they have something else.
        Ok((h, _)) if h.tcp_magic && h.version == Version::V2 && h.dst_nid != own => {
            counters.err_version += 1;
            Front::Fail(HsEvent::Version)
        }
        Ok((h, _)) => Front::Hello(h),
    }
}

/// Judges a HELLO on a passive connection; gives our own type when it is wanted. The NID that a `renamed` peer claims
/// means nothing.
pub(super) fn judge_passive(h: &Hello, renamed: bool, counters: &mut Counters) -> Result<ConnType, HsEvent> {
    // A NID of any network will do, our own too, since a node may dial itself (lnet.md §9). A peer of
    // another network gets nothing but zero-copy ACKs (lnet.md §5).
    if h.src_nid.is_any() || (h.src_nid == Nid::LO && !renamed) {
        counters.err_hello_nid += 1;
        return Err(HsEvent::Unfit);
    }
    match h.ctype.invert() {
        ConnType::None => {
            counters.err_conn_type += 1;
            Err(HsEvent::Unfit)
        }
        // An untyped connection is kept on V3, too, and never carries anything (socklnd.md §7, §13).
        mine => Ok(mine),
    }
}

/// Judges the answer to our HELLO of `version` (socklnd.md §2.7).
pub(super) fn judge_reply(
    h: &Hello,
    want: ProcessId,
    (version, mine): (Version, ConnType),
    counters: &mut Counters,
) -> HsEvent {
    if h.src_nid != want.nid || h.src_pid != want.pid {
        counters.err_hello_nid += 1;
        return HsEvent::Unfit;
    }
    if h.ctype == ConnType::None {
        return if h.version == version { HsEvent::Busy } else { HsEvent::Downgrade };
    }
    if h.ctype.invert() != mine {
        counters.err_conn_type += 1;
        return HsEvent::Unfit;
    }
    HsEvent::Hello
}

/// The HELLO of an NI of this incarnation.
pub(super) fn ours(
    cfg: &Config,
    incarnation: u64,
    (own, dst): (Nid, Nid),
    ctype: ConnType,
    version: Version,
) -> Hello {
    Hello {
        version,
        order: crate::wire::ByteOrder::Little,
        tcp_magic: false,
        src_nid: own,
        dst_nid: dst,
        src_pid: cfg.pid,
        dst_pid: 0,
        src_incarnation: incarnation,
        dst_incarnation: 0,
        ctype,
        ips: arrayvec::ArrayVec::new(),
    }
}

/// Most bytes a handshake message takes.
pub(super) const BUF: usize = hello::MAX_LEN;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passive_transitions() {
        insta::assert_snapshot!(fsm::listing::<Passive>(), @r"
        Request + Request -> Hello, Wait
        Request + Hello -> Dead, Close
        Request + Busy -> Dead, Close
        Request + Version -> Dead, Refuse
        Request + Downgrade -> Dead, Close
        Request + Unfit -> Dead, Leave
        Request + Bad -> Dead, Close
        Request + Timeout -> Dead, Leave
        Request + Lost -> Dead, Close
        Request + Ended -> Dead, Wait
        Hello + Request -> Dead, Close
        Hello + Hello -> Up, AnswerAndUp
        Hello + Busy -> Dead, AnswerNone
        Hello + Version -> Dead, AnswerVersion
        Hello + Downgrade -> Dead, Close
        Hello + Unfit -> Dead, Leave
        Hello + Bad -> Dead, Close
        Hello + Timeout -> Dead, Leave
        Hello + Lost -> Dead, Close
        Hello + Ended -> Dead, Wait
        Up + Ended -> Dead, Wait
        otherwise: it is ignored
        ");
    }

    #[test]
    fn active_transitions() {
        insta::assert_snapshot!(fsm::listing::<Active>(), @r"
        Reply + Request -> Dead, Close
        Reply + Hello -> Up, Up
        Reply + Busy -> Dead, Retry
        Reply + Version -> Dead, Close
        Reply + Downgrade -> Dead, Again
        Reply + Unfit -> Dead, Leave
        Reply + Bad -> Dead, Close
        Reply + Timeout -> Dead, Leave
        Reply + Lost -> Dead, Close
        Reply + Ended -> Dead, Wait
        Up + Ended -> Dead, Wait
        otherwise: it is ignored
        ");
    }
}
