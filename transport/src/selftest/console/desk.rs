//! The desk of a console: its session, its book, what it has to say; and how answers change what it knows.

use std::collections::VecDeque;
use std::io;

use super::book::{Book, NodeState};
use super::report::{Report, id};
use crate::wire::Nid;
use crate::wire::srpc::{Body, Message, Sid};

/// Nanoseconds of a second.
pub(super) const SEC: u64 = 1_000_000_000;
/// Longest wait for the members' answers to a verb (selftest.md §5).
pub(super) const TRANSACTION: u64 = 30 * SEC;

/// No reply in time.
const ETIMEDOUT: u32 = 110;

/// Exit status of a verb that did not work, and of wrong words.
pub const FAILED: u8 = 255;
/// Exit status where members did not answer.
pub const UNHEARD: u8 = 254;
/// Exit status where members refused.
pub const REFUSED: u8 = 253;
/// Exit status of lst where there is no session to list groups of: EINVAL.
pub const NO_SESSION: u8 = 234;
/// Exit status of what was interrupted, as shells have it.
pub const INTERRUPTED: u8 = 130;

/// Every exit status of a verb, and its meaning.
pub const STATUSES: [(u8, &str); 6] = [
    (0, "done"),
    (FAILED, "wrong words, names that are not there, states that do not allow it; no node"),
    (UNHEARD, "members did not answer"),
    (REFUSED, "members refused, as those in another session do"),
    (NO_SESSION, "list_group without a session"),
    (INTERRUPTED, "interrupted; a stat without --count, which ends so, is done"),
];

/// The session.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) name: String,
    pub(super) sid: Sid,
    pub(super) nid: Nid,
    pub(super) key: u32,
    pub(super) features: u32,
    /// A member has agreed to the features.
    pub(super) fixed: bool,
    pub(super) timeout_s: u32,
    pub(super) force: bool,
}

/// An RPC without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fail {
    pub(super) errno: u32,
    pub(super) why: String,
}

/// An answer to a question, or none.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) nid: Nid,
    pub(super) got: Result<Message, Fail>,
}

impl Row {
    /// The reply, if it says that all is well.
    pub(super) fn good(&self) -> Option<&Message> {
        self.got.as_ref().ok().filter(|m| m.body.status() == Some(0))
    }

    /// The errno that a reply refuses with.
    fn refusal(&self) -> Option<u32> {
        self.got.as_ref().ok().and_then(|m| m.body.status()).filter(|s| *s != 0)
    }
}

/// A question to a node.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) nid: Nid,
    pub(super) body: Body,
    /// The destination list of a TEST.
    pub(super) dests: Vec<Nid>,
}

impl Question {
    pub(super) fn new(nid: Nid, body: Body) -> Question {
        Question { nid, body, dests: Vec::new() }
    }
}

/// Next step of a verb.
pub(super) enum Step {
    /// Asks, and goes on with the answers; each has so many ns.
    Ask(Box<dyn Doing>, Vec<Question>, u64),
    /// Goes on then, in ns, or once interrupted.
    Wait(Box<dyn Doing>, u64),
    /// Has ended, with an exit status.
    End(u8),
}

/// A verb on its way.
pub(super) trait Doing: Send {
    /// Goes on: `rows` answer what was asked, in the order of the questions.
    fn go_on(self: Box<Self>, desk: &mut Desk, rows: Vec<Row>) -> Step;

    /// Whether it only looks, so that an interruption may drop what is asked.
    fn only_looks(&self) -> bool {
        false
    }

    /// Exit status where it only looks, and an interruption has dropped what it asked.
    fn cut(&self) -> u8 {
        INTERRUPTED
    }
}

/// The desk.
pub(super) struct Desk {
    pub(super) book: Book,
    pub(super) session: Option<Session>,
    pub(super) now: u64,
    pub(super) reports: VecDeque<Report>,
    pub(super) interrupted: bool,
}

/// Text of an errno, as lst prints it.
pub(super) fn strerror(errno: u32) -> String {
    let text = io::Error::from_raw_os_error(i32::try_from(errno).unwrap_or(i32::MAX)).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

impl Desk {
    pub(super) fn say(&mut self, r: Report) {
        self.reports.push_back(r);
    }

    /// Says what does not work; gives the exit status.
    pub(super) fn fail(&mut self, text: impl Into<String>) -> u8 {
        self.say(Report::Failed { text: text.into() });
        FAILED
    }

    /// Group, batch, test or name that is not there.
    pub(super) fn missing(&mut self, what: &str, name: &str, list: &str) -> u8 {
        self.fail(format!("Can't find {what} in current session: {name} is not there; {list} shows what is"))
    }

    /// Wrong for the state of things.
    pub(super) fn invalid(&mut self, why: impl std::fmt::Display) -> u8 {
        self.fail(format!("Invalid parameters list in command line: {why}"))
    }

    pub(super) fn sid(&self) -> Sid {
        self.session.as_ref().map_or(Sid::INVALID, |s| s.sid)
    }

    pub(super) fn features(&self) -> u32 {
        self.session.as_ref().map_or(crate::wire::srpc::FEATS, |s| s.features)
    }

    /// Takes an answer into the book: the session that a node names says what it is to us.
    pub(super) fn hear(&mut self, nid: Nid, got: &Result<Message, Fail>) {
        let (ours, now) = (self.sid(), self.now);
        let Some(node) = self.book.nodes.get_mut(&nid) else { return };
        match got {
            Ok(m) => {
                node.state = match m.body.sid() {
                    Some(sid) if sid == ours && !sid.is_any() => NodeState::Active,
                    Some(sid) if !sid.is_any() => NodeState::Busy,
                    _ => NodeState::Unknown,
                };
                node.heard = now;
                if let Body::MakeSessionReply { status: 0, timeout, .. }
                | Body::DebugReply { status: 0, timeout, .. } = m.body
                {
                    node.patience = u64::from(timeout) * SEC;
                }
            }
            Err(_) if node.state == NodeState::Active => node.state = NodeState::Down,
            Err(_) => {}
        }
    }

    /// Says which of the rows did not work, as lst does; gives the exit status. Statuses of `fine` are none.
    pub(super) fn judge(&mut self, what: &str, rows: &[Row], fine: &[u32]) -> u8 {
        let mut status = 0;
        for r in rows {
            let refusal = r.refusal().filter(|s| !fine.contains(s));
            match (&r.got, refusal) {
                (Err(f), _) => {
                    let mut text =
                        format!("{what} RPC failed on {}: {} ({})", id(r.nid), strerror(f.errno), f.why);
                    if f.errno == ETIMEDOUT {
                        text += &format!(
                            "; if `pollnd ping {}` is answered, its LNet runs and lnet_selftest does not: modprobe lnet_selftest \
                             there, or start its pollnd node without --no-selftest",
                            r.nid
                        );
                    }
                    self.say(Report::Failed { text });
                    status = if status == REFUSED { REFUSED } else { UNHEARD };
                }
                (Ok(m), Some(errno)) => {
                    let mut text = format!("operation {what} failed on {}: {}", id(r.nid), strerror(errno));
                    if let Body::MakeSessionReply { sid, name, .. } = m.body
                        && !sid.is_any()
                        && sid != self.sid()
                    {
                        text += &format!(
                            ": it is in session {} of {}; --force, of new_session or of selftest quick, takes it over",
                            name.text(),
                            sid.nid()
                        );
                    }
                    self.say(Report::Failed { text });
                    status = REFUSED;
                }
                _ => {}
            }
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node whose LNet runs and whose lnet_selftest does not drops the request: that is silence on the wire.
    #[test]
    fn silence_is_told_with_its_remedy() {
        let (book, reports) = (Book::default(), VecDeque::new());
        let mut desk = Desk { book, session: None, now: 0, reports, interrupted: false };
        for (errno, silent) in [(ETIMEDOUT, true), (111, false), (5, false)] {
            let got = Err(Fail { errno, why: "as the test has it".into() });
            let row = Row { nid: "10.0.0.2@tcp".parse().unwrap(), got };
            assert_eq!(desk.judge("create session", &[row], &[]), UNHEARD);
            let Some(Report::Failed { text }) = desk.reports.pop_front() else { panic!("nothing is said") };
            let remedies = ["pollnd ping 10.0.0.2@tcp", "modprobe lnet_selftest", "--no-selftest"];
            assert!(remedies.iter().all(|r| text.contains(r) == silent), "{errno}: {text}");
        }
    }
}
