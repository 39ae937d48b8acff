//! The handshake of a connection (docs/protocol/socklnd.md §1, §2.6, §2.7): both roles in one table.
//!
//! ```text
//!  passive:  REQUEST --Request--> HELLO --Hello--> UP            (writes its HELLO)
//!               |                   |---Busy-----> DEAD          (writes NONE in the peer's version)
//!               |                   '---Version--> DEAD          (writes NONE in ours, to its own NID)
//!               |---Version------------------------> DEAD        (writes the refusal)
//!  active:   REPLY --Hello--> UP
//!               |---Busy--> DEAD                                 (tries again after 1 s)
//!               '---Downgrade--> DEAD                            (tries again at once, in the version asked for)
//!  any:      --Bad, Timeout, Lost--> DEAD                        (silent)
//! ```

use crate::wire::{ConnType, Hello, Nid, ProcessId, Version, WireError, acceptor, hello};

use super::config::Config;
use super::counters::Counters;

/// State of a connection's handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HsState {
    /// Passive: the acceptor request is to come.
    Request,
    /// Passive: the HELLO is to come.
    Hello,
    /// Active: request and HELLO are sent, the answer is to come.
    Reply,
    /// Messages flow.
    Up,
    /// Closed or closing.
    Dead,
}

/// What moves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HsEvent {
    /// A good acceptor request.
    Request,
    /// A good HELLO of a type that is wanted.
    Hello,
    /// Passive: the race is lost, or there are enough of the type. Active: the peer said NONE.
    Busy,
    /// A version (or protocol) that is not spoken here.
    Version,
    /// Active: the peer wants another version.
    Downgrade,
    /// Anything else that is wrong.
    Bad,
    /// Not finished in time.
    Timeout,
    /// The stream ended.
    Lost,
}

/// What the machine does on a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HsAction {
    /// Wait for more.
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
    /// Close.
    Close,
}

/// The transition table.
pub(super) fn next(state: HsState, event: HsEvent) -> (HsState, HsAction) {
    use {HsAction as A, HsEvent as E, HsState as S};
    match (state, event) {
        (S::Request, E::Request) => (S::Hello, A::Wait),
        (S::Request, E::Version) => (S::Dead, A::Refuse),
        (S::Hello, E::Hello) => (S::Up, A::AnswerAndUp),
        (S::Hello, E::Busy) => (S::Dead, A::AnswerNone),
        (S::Hello, E::Version) => (S::Dead, A::AnswerVersion),
        (S::Reply, E::Hello) => (S::Up, A::Up),
        (S::Reply, E::Busy) => (S::Dead, A::Retry),
        (S::Reply, E::Downgrade) => (S::Dead, A::Again),
        _ => (S::Dead, A::Close),
    }
}

/// What the front of a stream holds, while a handshake lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Front {
    /// Collect so many bytes in all.
    Need(usize),
    /// An acceptor request for one of our NIDs.
    Request,
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
        WireError::BadConnType(_) => counters.err_conn_type += 1,
        _ => counters.err_hello_ips += 1,
    }
    HsEvent::Bad
}

/// Reads an acceptor request.
pub(super) fn request(buf: &[u8], cfg: &Config, counters: &mut Counters) -> Front {
    match acceptor::AcceptorReq::parse(buf) {
        Err(WireError::Truncated { need, .. }) => Front::Need(need),
        Err(e) => {
            let event = fail(&e, counters);
            Front::Fail(if acceptor::deserves_refusal(&e) { HsEvent::Version } else { event })
        }
        Ok((req, _)) if req.target == cfg.nid => Front::Request,
        Ok(_) => {
            counters.err_target_nid += 1;
            Front::Fail(HsEvent::Bad)
        }
    }
}

/// Reads a HELLO, in either role.
pub(super) fn hello(buf: &[u8], counters: &mut Counters) -> Front {
    match Hello::parse(buf) {
        Err(WireError::Truncated { need, .. }) => Front::Need(need),
        Err(e) => Front::Fail(fail(&e, counters)),
        Ok((h, _)) => Front::Hello(h),
    }
}

/// Judges a HELLO on a passive connection; gives our own type when it is wanted. What a `renamed` peer says of its
/// NID means nothing.
pub(super) fn judge_passive(h: &Hello, renamed: bool, counters: &mut Counters) -> Result<ConnType, HsEvent> {
    // A NID of any network will do, our own too, since a node may dial itself (lnet.md §9). Who is not of our network
    // gets nothing but zero-copy ACKs (lnet.md §5).
    if h.src_nid.is_any() || (h.src_nid == Nid::LO && !renamed) {
        counters.err_hello_nid += 1;
        return Err(HsEvent::Bad);
    }
    match h.ctype.invert() {
        ConnType::None => {
            counters.err_conn_type += 1;
            Err(HsEvent::Bad)
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
        return HsEvent::Bad;
    }
    if h.ctype == ConnType::None {
        return if h.version == version { HsEvent::Busy } else { HsEvent::Downgrade };
    }
    if h.ctype.invert() != mine {
        counters.err_conn_type += 1;
        return HsEvent::Bad;
    }
    HsEvent::Hello
}

/// Our HELLO.
pub(super) fn ours(cfg: &Config, dst: Nid, ctype: ConnType, version: Version) -> Hello {
    Hello {
        version,
        order: crate::wire::ByteOrder::Little,
        tcp_magic: false,
        src_nid: cfg.nid,
        dst_nid: dst,
        src_pid: cfg.pid,
        dst_pid: 0,
        src_incarnation: cfg.incarnation,
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
    fn transitions() {
        use {HsEvent as E, HsState as S};
        let mut text = String::new();
        for s in [S::Request, S::Hello, S::Reply, S::Up, S::Dead] {
            for e in [E::Request, E::Hello, E::Busy, E::Version, E::Downgrade, E::Bad, E::Timeout, E::Lost] {
                let (n, a) = next(s, e);
                if a != HsAction::Close {
                    text += &format!("{s:?} + {e:?} -> {n:?}, {a:?}\n");
                } else {
                    assert_eq!(n, S::Dead);
                }
            }
        }
        insta::assert_snapshot!(text, @r"
        Request + Request -> Hello, Wait
        Request + Version -> Dead, Refuse
        Hello + Hello -> Up, AnswerAndUp
        Hello + Busy -> Dead, AnswerNone
        Hello + Version -> Dead, AnswerVersion
        Reply + Hello -> Up, Up
        Reply + Busy -> Dead, Retry
        Reply + Downgrade -> Dead, Again
        ");
    }
}
