//! The session of a member: at most one (selftest.md §4).
//!
//! ```text
//!          Make*                             MakeOurs: one more must be ended
//!   FREE ─────────> HELD(n) ──────┐          MakeOther: refused, EBUSY
//!    ^                 │  ^       │          MakeForce: another takes its place
//!    └─────────────────┘  └───────┘          EndOther: refused, EBUSY
//!     EndOurs of the last, Expire
//! ```

use super::super::Config;
use crate::wire::srpc::status::{EBUSY, EINVAL, ESRCH};
use crate::wire::srpc::{Name, Sid};

fsm::fsm! {
    /// State of the session.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum State {
        /// There is none.
        Free,
        /// There is one, made so many times.
        Held(u32),
    }

    /// Requests about it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Request {
        /// To make one that names no session.
        MakeAny,
        /// To make the one that there is.
        MakeOurs,
        /// To make another one.
        MakeOther,
        /// To make another one, whatever there is.
        MakeForce,
        /// To end one that names no session.
        EndAny,
        /// To end the one that there is.
        EndOurs,
        /// To end another one.
        EndOther,
        /// No request of the framework came in time.
        Expire,
    }

    /// The effect of a request.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Act {
        /// Nothing: all is well.
        Fine,
        /// Nothing: the request names no session (EINVAL).
        Nameless,
        /// Nothing: another session has the node (EBUSY).
        Busy,
        /// Nothing: there is no session (ESRCH).
        NoSession,
        /// A session begins; the old one, if any, ends.
        Begin,
        /// The session ends.
        End,
    }

    table State + Request => Act {
        start Free;
        else "nothing happens";
        _ + MakeAny | EndAny => same, Nameless;
        Free + MakeOurs | MakeOther | MakeForce => Held(1), Begin;
        Held(n) + MakeOurs => Held(n.saturating_add(1)), Fine;
        Held(_) + MakeOther | EndOther => same, Busy;
        Held(_) + MakeForce => Held(1), Begin;
        Free + EndOurs | EndOther => same, NoSession;
        Held(n) + EndOurs if n > 1 => Held(n - 1), Fine;
        Held(_) + EndOurs | Expire => Free, End;
    }
}

impl Act {
    /// Status of the answer.
    pub(super) fn status(self) -> u32 {
        match self {
            Act::Fine | Act::Begin | Act::End => 0,
            Act::Nameless => EINVAL,
            Act::Busy => EBUSY,
            Act::NoSession => ESRCH,
        }
    }
}

/// The session that there is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) sid: Sid,
    pub(super) name: Name,
    pub(super) features: u32,
    /// Time at which it was made, in ns.
    pub(super) started: u64,
}

/// The session's state, and until when it lasts.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    state: fsm::Fsm<State>,
    now: Option<Session>,
    /// Slots of the timer are counted from here, in ns.
    origin: Option<u64>,
    /// Last request of the framework, in ns.
    heard: u64,
}

impl Sessions {
    /// The session, if there is one.
    pub(super) fn get(&self) -> Option<&Session> {
        self.now.as_ref()
    }

    /// Its name to others; the invalid one where there is none.
    pub(super) fn sid(&self) -> Sid {
        self.now.map_or(Sid::INVALID, |s| s.sid)
    }

    /// Whether it is the session that there is.
    pub(super) fn is(&self, sid: Sid) -> bool {
        self.now.is_some_and(|s| s.sid == sid)
    }

    /// A request of the framework came: the time begins again.
    pub(super) fn heard(&mut self, now: u64) {
        self.origin.get_or_insert(now);
        self.heard = now;
    }

    /// A request to make a session.
    pub(super) fn make(&mut self, new: Session, force: bool) -> Act {
        let request = match (new.sid.is_any(), self.is(new.sid), force) {
            (true, ..) => Request::MakeAny,
            (_, true, _) => Request::MakeOurs,
            (_, _, true) => Request::MakeForce,
            _ => Request::MakeOther,
        };
        let act = self.state.apply(request).unwrap_or(Act::Nameless);
        if act == Act::Begin {
            self.now = Some(new);
        }
        act
    }

    /// A request to end a session.
    pub(super) fn end(&mut self, sid: Sid) -> Act {
        let request = match (sid.is_any(), self.is(sid)) {
            (true, _) => Request::EndAny,
            (_, true) => Request::EndOurs,
            _ => Request::EndOther,
        };
        let act = self.state.apply(request).unwrap_or(Act::Nameless);
        if act == Act::End {
            self.now = None;
        }
        act
    }

    /// Time at which it expires: in the first slot of the timer in which its time is over.
    pub(super) fn deadline(&self, cfg: &Config) -> Option<u64> {
        if cfg.session_timeout == 0 || self.now.is_none() {
            return None;
        }
        let (origin, slot) = (self.origin?, cfg.timer_slot.max(1));
        let over = self.heard.saturating_add(cfg.session_timeout).saturating_sub(origin);
        Some(origin.saturating_add(over.div_ceil(slot).saturating_mul(slot)))
    }

    /// Whether it has expired by now; then it has ended.
    pub(super) fn expires(&mut self, now: u64, cfg: &Config) -> bool {
        if self.deadline(cfg).is_none_or(|t| t > now) {
            return false;
        }
        let ended = self.state.apply(Request::Expire) == Some(Act::End);
        self.now = None;
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<State>(), @r"
        Free + MakeAny -> Free, Nameless
        Free + MakeOurs -> Held, Begin
        Free + MakeOther -> Held, Begin
        Free + MakeForce -> Held, Begin
        Free + EndAny -> Free, Nameless
        Free + EndOurs -> Free, NoSession
        Free + EndOther -> Free, NoSession
        Held + MakeAny -> Held, Nameless
        Held + MakeOurs -> Held, Fine
        Held + MakeOther -> Held, Busy
        Held + MakeForce -> Held, Begin
        Held + EndAny -> Held, Nameless
        Held + EndOurs if n > 1 -> Held, Fine
        Held + EndOurs -> Free, End
        Held + EndOther -> Held, Busy
        Held + Expire -> Free, End
        otherwise: nothing happens
        ");
    }
}
