//! Buffers that LNet knows: how far each is, and the tags of its operations.

use crate::lnet::MeId;
use crate::net::{BufId, Queue, TmId};
use crate::stream::slab::Key;

/// A buffer's place at LNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// Its entry is being attached.
    Asked,
    /// Its entry is there.
    There(MeId),
    /// It is a PUT or a GET.
    Out,
}

/// Names one use of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UseId(pub(super) Key);

/// One use of a buffer.
#[derive(Debug)]
pub(super) struct Use {
    pub(super) tm: TmId,
    pub(super) buf: BufId,
    pub(super) queue: Queue,
    pub(super) at: At,
    /// End of its time, in ns; `u64::MAX` for never.
    pub(super) until: u64,
    /// Error number with which it ends, unless it ends well: it was given up.
    pub(super) given_up: Option<i32>,
    /// Bytes that came in messages before.
    pub(super) came: u64,
    /// They lie where they came in, one message behind the other.
    pub(super) lent: bool,
}

/// Set in the tags of UNLINKs. Slabs have fewer places than that.
const UNLINK: u64 = 1 << 31;

/// The tag of an operation.
pub(super) fn tag(key: Key, unlink: bool) -> u64 {
    key.word() | if unlink { UNLINK } else { 0 }
}

/// The use that a tag names, and whether it is an UNLINK's.
pub(super) fn untag(tag: u64) -> (Key, bool) {
    (Key::from_word(tag & !UNLINK), tag & UNLINK != 0)
}
