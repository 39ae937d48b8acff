//! Pages on loan to connections.

use super::Socklnd;
use crate::lnd::budget::Uses;
use crate::lnd::{Cx, LnetError, Upper};
use crate::stream::LendId;
use crate::stream::slab::Key;

/// Pages on loan to a connection.
#[derive(Debug)]
pub(super) struct LendRec<T> {
    /// The runtime's name for it.
    pub(super) name: LendId,
    pub(super) done: T,
    pub(super) peer: Key,
    /// Stream position of the message's end.
    pub(super) end: u64,
    /// Waits for a zero-copy ACK.
    pub(super) held: bool,
    pub(super) failed: Option<LnetError>,
    /// The peer has read the message once it is home.
    pub(super) read: bool,
    /// Credits and lendings that the message holds, which go back with its end.
    pub(super) uses: Uses,
    /// Time by which it has to be home if it is another node's, in ns; else its set ends.
    pub(super) until: u64,
    /// The message of which this is a part, or [`Key::NOWHERE`].
    pub(super) whole: Key,
}

impl<U: Upper> Socklnd<U> {
    /// A loan is home: its message ends.
    pub(super) fn released(&mut self, up: &mut U, cx: &mut Cx, id: LendId) {
        let here = self.lends.key_at(id.slot()).filter(|k| self.lends.get(*k).is_some_and(|r| r.name == id));
        let Some(rec) = here.or_else(|| self.migrated_lends.remove(&id)).and_then(|k| self.lends.remove(k))
        else {
            return;
        };
        if rec.whole != Key::NOWHERE {
            return self.part_home(up, cx, rec.whole, rec.failed, rec.read);
        }
        if rec.uses.pieces > 0 {
            self.answer_home(cx, rec.peer);
        }
        let status = rec.failed.map_or(Ok(()), Err);
        if rec.read && status.is_ok() {
            up.read(&rec.done);
        }
        self.finalize(up, cx, rec.peer, rec.uses, rec.done, status);
    }

    /// Tells LNet that a message to this peer has left, or will not.
    #[inline]
    pub(super) fn finalize(
        &mut self,
        up: &mut U,
        cx: &mut Cx,
        peer: Key,
        uses: Uses,
        token: U::Token,
        status: Result<(), LnetError>,
    ) {
        let Some(p) = self.peers.get(peer) else { return up.finalize(cx, Key::NOWHERE, uses, token, status) };
        let (above, alone) = (p.up, p.conns.is_empty());
        up.finalize(cx, above, uses, token, status);
        if alone {
            // It may be forgotten now.
            up.kick(above);
        }
    }
}
