//! Events of LNet, as events of buffers.

use super::LnetXprt;
use super::addr::LnetAddr;
use super::table::{At, Use, UseId, tag, untag};
use crate::lnd::{Data, LnetError};
use crate::lnet::{Event, MeId, Op, OpRefused, PutEvent};
use crate::net::{Came, Done, Queue, Said};
use crate::stream::slab::Key;
use crate::wire::ProcessId;
use crate::wire::netsock::errno;

/// An input/output error.
const EIO: i32 = 5;
/// A network is down.
const ENETDOWN: i32 = 100;

/// Linux's number of an operation's end.
fn status(e: LnetError) -> i32 {
    match e {
        LnetError::Unreachable => errno::EHOSTUNREACH,
        LnetError::Refused => errno::ECONNREFUSED,
        LnetError::ConnLost | LnetError::BrokenOff => errno::ECONNRESET,
        LnetError::TimedOut => errno::ETIMEDOUT,
        LnetError::TooLong => errno::EMSGSIZE,
        LnetError::Malformed => errno::EPROTO,
        LnetError::Checksum => EIO,
        LnetError::ShuttingDown => errno::ESHUTDOWN,
        LnetError::NoNi => ENETDOWN,
    }
}

/// The same of a refusal.
fn refused(why: &OpRefused) -> i32 {
    match why {
        OpRefused::QueueFull(_) | OpRefused::TooManyPeers(_) => errno::ENOBUFS,
        OpRefused::TooLong(_) | OpRefused::Pieces(_) => errno::EFBIG,
        OpRefused::Target(_)
        | OpRefused::NoRoute(_)
        | OpRefused::LongNid(_)
        | OpRefused::FromAway { .. }
        | OpRefused::Unprivileged(_) => errno::EHOSTUNREACH,
        OpRefused::ShuttingDown => errno::ESHUTDOWN,
        _ => errno::EINVAL,
    }
}

/// The end of a buffer, without bytes.
fn bare(key: Key, u: &Use, status: i32) -> Done<LnetAddr, UseId> {
    let (buf, token) = (u.buf, UseId(key));
    Done { buf, token, status, len: 0, offset: 0, from: None, came: Came::Nothing, retained: false }
}

impl LnetXprt {
    /// An event of this application's.
    pub fn event(&mut self, ev: Event) {
        match ev {
            Event::Attached { tag, me } => self.attached(tag, me),
            Event::Refused { tag, why } => {
                let (key, unlink) = untag(tag);
                if matches!(why, OpRefused::ShuttingDown) {
                    self.node_down();
                }
                // An UNLINK that came too late: the entry's last event is on its way.
                if !unlink {
                    self.ends(key, |u| bare(key, u, u.given_up.unwrap_or(refused(&why))));
                }
            }
            Event::Send { tag, status, .. } => self.over(tag, status),
            Event::Get(g) if g.unlinked => self.over(g.tag, g.status),
            Event::Reply { tag, status, mlength, data, .. } => self.reply(tag, status, mlength, data),
            Event::Put(p) => self.message(p),
            Event::Unlink { tag, .. } => {
                let (key, _) = untag(tag);
                // Unasked, entries go with their node.
                if self.uses.get(key).is_some_and(|u| u.given_up.is_none()) {
                    self.node_down();
                }
                self.ends(key, |u| bare(key, u, u.given_up.unwrap_or(errno::ECANCELED)));
            }
            Event::Get(_)
            | Event::Ack { .. }
            | Event::Ping { .. }
            | Event::Counts { .. }
            | Event::ShutDown { .. } => {}
        }
    }

    /// The node goes down: its machines have failed. Entries and operations end with events of their own. Whoever runs the node
    /// says so once, since a machine that has nothing with LNet would not hear of it.
    pub fn node_down(&mut self) {
        if !std::mem::replace(&mut self.down, true) {
            self.said.extend(self.machines.iter().map(|m| Said::Failed(m.tm, errno::ESHUTDOWN)));
        }
    }

    fn unlink(&mut self, key: Key, me: MeId) {
        let Some(u) = self.uses.get(key) else { return };
        let tm = u.tm;
        let Some(portal) = self.machine(tm).map(|m| m.addr.portal) else { return };
        self.ops.push_back((self.app, Op::Unlink { tag: tag(key, true), portal, me }));
    }

    fn attached(&mut self, word: u64, me: MeId) {
        let (key, _) = untag(word);
        let Some(u) = self.uses.get_mut(key) else { return };
        u.at = At::There(me);
        if u.given_up.is_some() {
            self.unlink(key, me);
        }
    }

    /// A buffer is given up. LNet has an entry taken away, and tells its end. A GET ends at once, since its bytes would be lent.
    /// A PUT ends when LNet lets go of its pages.
    pub(super) fn give_up(&mut self, key: Key, status: i32) {
        let Some(u) = self.uses.get_mut(key).filter(|u| u.given_up.is_none()) else { return };
        u.given_up = Some(status);
        match (u.at, u.queue) {
            (At::There(me), _) => self.unlink(key, me),
            (At::Out, Queue::ActiveRecv) => self.ends(key, |u| bare(key, u, status)),
            (At::Asked | At::Out, _) => {}
        }
    }

    /// A PUT has left, or a GET was answered, or not.
    fn over(&mut self, tag: u64, result: Result<(), LnetError>) {
        let (key, _) = untag(tag);
        if result == Err(LnetError::ShuttingDown) {
            self.node_down();
        }
        self.ends(key, |u| bare(key, u, ended(u, result)));
    }

    fn reply(&mut self, tag: u64, result: Result<(), LnetError>, mlength: u32, data: Data) {
        let (key, _) = untag(tag);
        if result == Err(LnetError::ShuttingDown) {
            self.node_down();
        }
        self.ends(key, |u| {
            let status = ended(u, result);
            let came = if status == 0 { Came::Data(data) } else { Came::Nothing };
            Done { len: mlength.into(), came, ..bare(key, u, status) }
        });
    }

    /// A PUT came into a buffer.
    fn message(&mut self, p: PutEvent) {
        let (key, _) = untag(p.tag);
        let Some(u) = self.uses.get_mut(key) else { return };
        let last = p.unlinked.is_some();
        let from = LnetAddr::sender(ProcessId { nid: p.source, ..p.initiator }, p.hdr_data);
        let status = ended(u, p.status);
        if status != 0 && !last {
            // The message is lost; the buffer waits for the next one.
            return;
        }
        // Lent ones lie one behind the other in the order in which they ended.
        let offset = if u.lent { u.came } else { p.offset.into() };
        u.came += u64::from(p.mlength);
        let came = if status == 0 { Came::Data(p.data) } else { Came::Nothing };
        let done =
            Done { len: p.mlength.into(), offset, from, came, retained: !last, ..bare(key, u, status) };
        if last {
            self.ends(key, |_| done);
        } else {
            self.said.push_back(Said::Done(done));
        }
    }
}

/// The status of a buffer whose operation ended so.
fn ended(u: &Use, result: Result<(), LnetError>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(e) => u.given_up.unwrap_or(status(e)),
    }
}
