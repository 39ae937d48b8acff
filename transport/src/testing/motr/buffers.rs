//! Buffers of the model (netsock.md §4, §9).

use crate::wire::netsock::{Addr, Bdesc, Cookie};

/// Queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MQueue {
    /// Takes a message.
    MsgRecv,
    /// Sends one to the other side.
    MsgSend,
    /// Waits to be filled.
    PassiveRecv,
    /// Waits to be fetched.
    PassiveSend,
    /// Fetches.
    ActiveRecv(Bdesc),
    /// Fills.
    ActiveSend(Bdesc),
}

/// A buffer.
#[derive(Debug)]
pub struct MBuf {
    pub(super) queue: MQueue,
    pub(super) cookie: Cookie,
    /// Where it goes, or what may come into it; zeros for anything.
    pub(super) peer: Bdesc,
    pub(super) bytes: Vec<u8>,
    pub(super) room: usize,
    pub(super) queued: bool,
    /// A reader has it, or had it when its connection was lost.
    pub(super) busy: bool,
    /// A writer for it is at work.
    pub(super) written: bool,
}

impl MBuf {
    pub(super) fn new(queue: MQueue, cookie: Cookie, target: Bdesc, bytes: Vec<u8>, room: usize) -> MBuf {
        let peer = match queue {
            MQueue::MsgRecv | MQueue::PassiveRecv | MQueue::PassiveSend => Bdesc::default(),
            _ => target,
        };
        MBuf { queue, cookie, peer, bytes, room, queued: true, busy: false, written: false }
    }
}

/// The end of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its number.
    pub buf: usize,
    /// 0, or an error number.
    pub status: i32,
    /// Bytes that came.
    pub bytes: Vec<u8>,
    /// The sender of a message.
    pub from: Option<Addr>,
}
