//! One peer: its set of connections, and when to dial (docs/protocol/socklnd.md §3, §4).
//!
//! ```text
//!          Want              Opened            Up
//!   IDLE --------> DIALLING --------> SHAKING -----> IDLE        (and Want again while a type is missing)
//!    ^                |                |  | |
//!    |                |                |  | |- Again --> IDLE    (the peer wants another version)
//!    |                | Failed  Failed |  | '- Enough -> IDLE    (the third NONE to a dial of this type)
//!    | Due            v                |  |
//!    |------------ BACK_OFF <----------'  | None
//!    | Due                                v
//!    '--------------------------------- WAITING
//!  DIALLING, SHAKING: Clear -> IDLE, when the set is closed      SHAKING: Renamed -> SHAKING, when the peer moves
//! ```
//!
//! WAITING keeps queued messages; BACK_OFF has failed them, and refuses new ones until it is over. Neither ends with the
//! set, but by its time. After the third NONE a peer has enough of that type until the set closes, as kernels
//! say it; with nothing open the attempt has failed. A NONE touches no other type: those are dialled then.
//!
//! A kernel puts its own dial off while it accepts from the same peer (§4). Here a HELLO is read, judged and answered
//! in one input, so there is no such while; the table in `standing` says what becomes of two dials at once.

use std::collections::VecDeque;

use fsm::Fsm;
use smallvec::SmallVec;

use super::zc::ZcTable;
use crate::lnd::{Config, LnetError, Moved, Tx};
use crate::stream::slab::Key;
use crate::stream::{Bucket, DialError, DialId};
use crate::wire::{ConnType, ProcessId, Version};

/// NONE answers before a type is given up.
pub(super) const MAX_NONES: u8 = 3;

/// Reasons why a dial gave no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialWhy {
    /// TCP did not connect.
    #[error("{0}")]
    Tcp(DialError),
    /// TCP connected, and no answer to our HELLO came in time.
    #[error("it took the connection and said nothing")]
    Silent,
    /// TCP connected, and the peer closed the connection instead of answering our HELLO.
    #[error("it closed the connection without a word")]
    Closed,
    /// The peer's acceptor refused our request, in words of its own.
    #[error("its acceptor refused the request")]
    Refused,
    /// The answer to our HELLO is NONE, each time.
    #[error("it answers our HELLO with NONE")]
    None,
    /// No version that both speak.
    #[error("it speaks no version that this node speaks")]
    Version,
    /// The answer is no HELLO, or that of another node.
    #[error("its answer is not the HELLO of that node")]
    Malformed,
}

fsm::fsm! {
    /// States of dialling a peer.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum DialState {
        /// Nothing under way.
        Idle,
        /// TCP is connecting.
        Dialling(DialId, ConnType),
        /// HELLOs are exchanged on this connection.
        Shaking(Key, ConnType),
        /// NONE came; the next attempt is due then.
        Waiting(u64),
        /// Hard failure; no attempt before then.
        BackOff(u64),
    }

    /// Events of dialling.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum DialEvent {
        /// A connection is wanted: dial with this id.
        Want(DialId, ConnType),
        /// TCP is connected.
        Opened(Key),
        /// The connection has another key: the peer has moved.
        Renamed(Key),
        /// The HELLO was good.
        Up,
        /// The peer said NONE; the next attempt may be made then.
        None(u64),
        /// It came to nothing; the next attempt may be made then.
        Failed(u64),
        /// Enough NONEs: no attempt until somebody wants one.
        Enough,
        /// The peer wants another version: at once again.
        Again,
        /// The set was closed under it.
        Clear,
        /// The time waited for has come.
        Due,
    }

    table DialState + DialEvent {
        start Idle;
        else "the event says nothing";
        Idle + Want(id, ctype) => Dialling(id, ctype);
        Dialling(_, ctype) + Opened(conn) => Shaking(conn, ctype);
        Shaking(_, ctype) + Renamed(conn) => Shaking(conn, ctype);
        Shaking(..) + Up => Idle;
        Shaking(..) + None(until) => Waiting(until);
        Shaking(..) + Enough | Again => Idle;
        Dialling(..) | Shaking(..) + Failed(until) => BackOff(until);
        Dialling(..) | Shaking(..) + Clear => Idle;
        Waiting(_) | BackOff(_) + Due => Idle;
    }
}

impl DialState {
    /// The type of the dial that is under way.
    pub(super) fn under_way(self) -> Option<ConnType> {
        match self {
            DialState::Dialling(_, t) | DialState::Shaking(_, t) => Some(t),
            DialState::Idle | DialState::Waiting(_) | DialState::BackOff(_) => None,
        }
    }
}

/// The last call of a set that its peer ended: bytes that its connections have received are still read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LastCall {
    pub(super) why: LnetError,
    /// The peer closed in order.
    pub(super) clean: bool,
    /// It is closed then, in ns.
    pub(super) until: u64,
}

/// Connections of a peer by type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Have {
    pub(super) any: usize,
    pub(super) control: usize,
    pub(super) bulk_in: usize,
    pub(super) bulk_out: usize,
}

impl Have {
    /// Counts one more.
    pub(super) fn add(&mut self, ctype: ConnType) {
        match ctype {
            ConnType::None => {}
            ConnType::Any => self.any += 1,
            ConnType::Control => self.control += 1,
            ConnType::BulkIn => self.bulk_in += 1,
            ConnType::BulkOut => self.bulk_out += 1,
        }
    }
}

/// NONE answers to dials of each type since one of it came up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Nones([u8; 4]);

impl Nones {
    fn slot(&mut self, ctype: ConnType) -> Option<&mut u8> {
        self.0.get_mut(match ctype {
            ConnType::None => return None,
            ConnType::Any => 0,
            ConnType::Control => 1,
            ConnType::BulkIn => 2,
            ConnType::BulkOut => 3,
        })
    }

    /// Number of them.
    pub(super) fn of(mut self, ctype: ConnType) -> u8 {
        self.slot(ctype).map_or(0, |n| *n)
    }

    /// Counts one more; gives the number, this one included.
    pub(super) fn add(&mut self, ctype: ConnType) -> u8 {
        self.slot(ctype).map_or(0, |n| {
            *n = n.saturating_add(1);
            *n
        })
    }

    /// A dial of the type came up.
    pub(super) fn forget(&mut self, ctype: ConnType) {
        self.slot(ctype).map(std::mem::take);
    }
}

/// A peer.
#[derive(Debug)]
pub(super) struct Peer<T> {
    pub(super) id: ProcessId,
    /// LNet's entry.
    pub(super) up: Key,
    /// Bucket of the address in its NID.
    pub(super) bucket: Bucket,
    /// Host that it is charged to: the one at its NID's address once that has connected, until then the one that named it.
    pub(super) host: Key,
    /// Connections that passed the HELLO, oldest first.
    pub(super) conns: SmallVec<[Key; 4]>,
    /// The connections that small messages and bulk take, each where it is the only one that suits best, and the state of
    /// the LND's sets (`Socklnd::sets`) that they are true of.
    pub(super) usual: ([Key; 2], u32),
    /// Connections of each bulk type that we open: fixed when the peer becomes known (docs/protocol/socklnd.md §3).
    pub(super) want: u8,
    /// Number of connections when none was missing: while there are as many, none is.
    pub(super) whole: usize,
    /// We dial this peer: one that dialled us is not dialled back while it is connected.
    pub(super) active: bool,
    dial: Fsm<DialState>,
    /// Time at which the present dial is given up.
    pub(super) dial_deadline: u64,
    /// NONE answers: of a type with [`MAX_NONES`] none is dialled until the set has closed.
    pub(super) nones: Nones,
    /// The set is being closed.
    pub(super) leaving: Option<LastCall>,
    /// Present interval between attempts, in ns.
    pub(super) interval: u64,
    /// Last hard failure.
    pub(super) failed_at: u64,
    /// No back-off keeps it.
    pub(super) let_go: bool,
    /// Reason why the last dial failed, until one succeeds.
    pub(super) why: Option<DialWhy>,
    /// Incarnation of the present set.
    pub(super) incarnation: Option<u64>,
    /// Version agreed on, or asked for by a refusal; forgotten with the last connection (socklnd.md §2.7).
    pub(super) version: Option<Version>,
    pub(super) zc: ZcTable,
    /// Messages that wait for a connection.
    pub(super) queue: VecDeque<Tx<T>>,
    /// ACKs, REPLYs and NOOPs not yet on a stream.
    pub(super) answers: usize,
    /// REPLYs on a stream whose pages are not home.
    pub(super) lent: usize,
    /// LNet's queue for it was used, and is charged for the places that it keeps.
    pub(super) queues: u8,
    /// Last received byte, or TCP acknowledgement.
    pub(super) last_alive: u64,
    pub(super) last_keepalive: u64,
    /// Connections that stopped reading since `answers` was too high.
    pub(super) stalled: SmallVec<[Key; 4]>,
    /// Messages from and to it.
    pub(super) moved: Box<Moved>,
}

impl<T> Peer<T> {
    pub(super) fn new(id: ProcessId, host: Key, want: u8, now: u64) -> Peer<T> {
        Peer {
            id,
            up: Key::NOWHERE,
            bucket: id.nid.ip().map(Bucket::of).unwrap_or_default(),
            host,
            conns: SmallVec::new(),
            usual: ([Key::NOWHERE; 2], 0),
            want: want.max(1),
            whole: usize::MAX,
            active: false,
            dial: Fsm::START,
            dial_deadline: u64::MAX,
            nones: Nones::default(),
            leaving: None,
            interval: 0,
            failed_at: 0,
            let_go: false,
            why: None,
            incarnation: None,
            version: None,
            zc: ZcTable::new(),
            queue: VecDeque::new(),
            answers: 0,
            lent: 0,
            queues: 0,
            last_alive: now,
            last_keepalive: now,
            stalled: SmallVec::new(),
            moved: Box::default(),
        }
    }

    /// State of its dialling.
    pub(super) fn dial(&self) -> DialState {
        self.dial.get()
    }

    /// Applies the dial table; gives whether the event meant anything.
    pub(super) fn dial_event(&mut self, event: DialEvent) -> bool {
        self.dial.apply(event).is_some()
    }

    /// The connection that a dial waits for has another key now.
    pub(super) fn rename_dial(&mut self, name: impl FnOnce(Key) -> Key) {
        if let DialState::Shaking(conn, _) = self.dial() {
            self.dial_event(DialEvent::Renamed(name(conn)));
        }
    }

    /// Whether it needs no dial: none is under way or put off, and no connection is missing.
    pub(super) fn is_whole(&self) -> bool {
        self.dial == DialState::Idle && self.whole == self.conns.len()
    }

    /// Whether nothing would be lost by forgetting it: how long to back off would be, for a while.
    pub(super) fn idle(&self) -> bool {
        self.interval == 0 && self.unwanted() && self.dial == DialState::Idle && self.zc.len() == 0
    }

    /// Whether nobody needs a connection to it: none is open, and nothing waits for one.
    pub(super) fn unwanted(&self) -> bool {
        self.conns.is_empty() && self.queue.is_empty()
    }

    /// The type to open next (socklnd.md §3), given what there is, but for types that the peer has enough of.
    pub(super) fn missing(&self, have: Have, typed: bool) -> Option<ConnType> {
        let Have { any, control, bulk_in, bulk_out } = have;
        let want = usize::from(self.want);
        let order: [Option<ConnType>; 3] = if !typed {
            [(any < want).then_some(ConnType::Any), None, None]
        } else if control == 0 && self.nones.of(ConnType::Control) < MAX_NONES {
            [Some(ConnType::Control), None, None]
        } else {
            let first = (bulk_in < want && bulk_in <= bulk_out).then_some(ConnType::BulkIn);
            let second = (bulk_out < want).then_some(ConnType::BulkOut);
            [first, second, (bulk_in < want).then_some(ConnType::BulkIn)]
        };
        order.into_iter().flatten().find(|t| self.nones.of(*t) < MAX_NONES)
    }

    /// The interval after one more hard failure, in ns.
    pub(super) fn back_off(&mut self, cfg: &Config) -> u64 {
        // The upper bound has the last word: nothing keeps it above the lower one.
        self.interval = self.interval.saturating_mul(2).max(cfg.min_reconnect).min(cfg.max_reconnect);
        self.interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Key = Key { index: 0, generation: 0 };

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<DialState>(), @r"
        Idle + Want -> Dialling
        Dialling + Opened -> Shaking
        Dialling + Failed -> BackOff
        Dialling + Clear -> Idle
        Shaking + Renamed -> Shaking
        Shaking + Up -> Idle
        Shaking + None -> Waiting
        Shaking + Failed -> BackOff
        Shaking + Enough -> Idle
        Shaking + Again -> Idle
        Shaking + Clear -> Idle
        Waiting + Due -> Idle
        BackOff + Due -> Idle
        otherwise: the event says nothing
        ");
    }

    #[test]
    fn opening_order() {
        for (per_peer, typed, want) in [
            (1, true, "Control BulkIn BulkOut"),
            (2, true, "Control BulkIn BulkOut BulkIn BulkOut"),
            (2, false, "Any Any"),
        ] {
            let p = Peer::<()>::new(ProcessId::ANY, HOST, per_peer, 0);
            let (mut have, mut order) = (Have::default(), Vec::new());
            while let Some(t) = p.missing(have, typed) {
                have.add(t);
                order.push(format!("{t:?}"));
            }
            assert_eq!(order.join(" "), want);
        }
    }

    /// LU-17258: a BULK_IN that is refused for good costs BULK_OUT nothing.
    #[test]
    fn a_refused_type_is_given_up_alone() {
        use ConnType::{BulkIn, BulkOut, Control};
        let mut p = Peer::<()>::new(ProcessId::ANY, HOST, 1, 0);
        let control = Have { control: 1, ..Have::default() };
        let out = Have { bulk_out: 1, ..control };
        assert_eq!(p.missing(control, true), Some(BulkIn));
        p.nones.add(BulkIn);
        assert_eq!((p.missing(control, true), p.missing(out, true)), (Some(BulkIn), Some(BulkIn)));
        (1..MAX_NONES).for_each(|_| assert!(p.nones.add(BulkIn) > 1));
        assert_eq!((p.missing(control, true), p.missing(out, true)), (Some(BulkOut), None));
        // CONTROL is asked for first, as long as it may be had.
        p.nones.add(Control);
        assert_eq!(p.missing(Have::default(), true), Some(Control));
        (1..MAX_NONES).for_each(|_| assert!(p.nones.add(Control) > 1));
        assert_eq!(p.missing(Have::default(), true), Some(BulkOut));
        p.nones.forget(Control);
        assert_eq!(p.missing(Have::default(), true), Some(Control));
    }

    #[test]
    fn back_off_doubles_within_its_bounds() {
        use crate::lnd::config::SEC;
        let mut cfg = Config::new(crate::wire::Nid::LO, 1);
        let mut p = Peer::<()>::new(ProcessId::ANY, HOST, 1, 0);
        let got: Vec<u64> = (0..8).map(|_| p.back_off(&cfg) / SEC).collect();
        assert_eq!(got, [1, 2, 4, 8, 16, 32, 60, 60]);
        // Changed while the node runs, and the wrong way round.
        (cfg.min_reconnect, cfg.max_reconnect) = (20 * SEC, 10 * SEC);
        assert_eq!(p.back_off(&cfg) / SEC, 10);
    }
}
