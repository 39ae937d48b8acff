//! A connection over a kernel socket: messages that wait to be written, fragments that were read.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::net::Shutdown;

use fsm::Fsm;
use hugepages::{Lent, RxFrag};
use mio::net::TcpStream;
use smallvec::SmallVec;

use crate::lnd::trim;
use crate::node::conn_state::ConnState;
use crate::stream::{Close, CloseWhy, ConnId, ConnInfo, DialError, DialId, StreamRx};

/// Most slices in one write.
const IOV: usize = 64;

pub(super) struct TxItem {
    pub(super) hdr: crate::stream::InlineHdr,
    pub(super) pay: SmallVec<[Lent; 2]>,
    /// Bytes of this item that the kernel has taken.
    pub(super) done: usize,
}

impl TxItem {
    fn len(&self) -> usize {
        self.hdr.len() + self.pay.iter().map(|l| l.len() as usize).sum::<usize>()
    }

    /// Gives the bytes that the kernel has not taken yet, as far as there is room for slices.
    fn rest<'a>(&'a self, iov: &mut SmallVec<[IoSlice<'a>; IOV]>) {
        if let Some(b) = self.hdr.get(self.done..).filter(|b| !b.is_empty()) {
            iov.push(IoSlice::new(b));
        }
        let mut skip = self.done.saturating_sub(self.hdr.len());
        for l in &self.pay {
            while iov.len() < IOV && skip < l.len() as usize {
                let piece = l.chunk(skip as u32);
                iov.push(IoSlice::new(piece));
                skip += piece.len();
            }
            skip = skip.saturating_sub(l.len() as usize);
        }
    }
}

pub(super) struct Conn {
    pub(super) sock: TcpStream,
    pub(super) id: ConnId,
    pub(super) info: ConnInfo,
    pub(super) state: Fsm<ConnState>,
    pub(super) tx: VecDeque<TxItem>,
    pub(super) written: u64,
    pub(super) told: u64,
    pub(super) writable: bool,
    pub(super) readable: bool,
    pub(super) rx: VecDeque<RxFrag>,
    /// The machine asked for what was read: tell it.
    pub(super) wanted: bool,
    pub(super) eof: bool,
    /// The kernel has the peer's FIN, whatever is unread.
    pub(super) fin: bool,
    /// The kernel says that the connection is over, whatever is unread.
    pub(super) ended: bool,
    pub(super) close: Option<Close>,
    /// Time at which that was first seen, in ns.
    pub(super) closing_since: Option<u64>,
    /// Bytes that the next read asks for.
    pub(super) ask: usize,
    pub(super) dead: Option<CloseWhy>,
}

pub(super) const EINPROGRESS: i32 = 115;

pub(super) fn dial_error(e: &io::Error) -> DialError {
    match e.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => DialError::Refused,
        io::ErrorKind::TimedOut => DialError::TimedOut,
        io::ErrorKind::NetworkUnreachable => DialError::NoRoute,
        io::ErrorKind::HostUnreachable => DialError::NoNeighbour,
        _ => DialError::Local,
    }
}

pub(super) fn close_why(e: &io::Error) -> CloseWhy {
    match e.kind() {
        io::ErrorKind::TimedOut => CloseWhy::Timeout,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => CloseWhy::Unreachable,
        _ => CloseWhy::Reset,
    }
}

impl Conn {
    pub(super) fn new(sock: TcpStream, id: ConnId, info: ConnInfo) -> Conn {
        Conn {
            sock,
            id,
            info,
            state: Fsm::START,
            tx: VecDeque::new(),
            written: 0,
            told: 0,
            writable: false,
            readable: false,
            rx: VecDeque::new(),
            wanted: false,
            eof: false,
            fin: false,
            ended: false,
            close: None,
            closing_since: None,
            ask: super::FIRST_READ,
            dead: None,
        }
    }

    /// The dial that is under way.
    pub(super) fn dialling(&self) -> Option<DialId> {
        self.info.dial.filter(|_| self.state == ConnState::Dialling)
    }

    /// Bytes that the kernel has not taken yet.
    pub(super) fn waiting(&self) -> u64 {
        self.tx.iter().map(|t| (t.len() - t.done) as u64).sum()
    }

    /// Writes until the queue is empty or the kernel takes no more.
    pub(super) fn write(&mut self) -> usize {
        let mut calls = 0;
        while self.writable && !self.tx.is_empty() {
            let mut iov: SmallVec<[IoSlice<'_>; IOV]> = SmallVec::new();
            for item in &self.tx {
                item.rest(&mut iov);
                if iov.len() >= IOV {
                    break;
                }
            }
            calls += 1;
            let wrote = self.sock.write_vectored(&iov);
            drop(iov);
            match wrote {
                Ok(k) => self.taken(k),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.dead = Some(close_why(&e));
                    break;
                }
            }
        }
        if self.tx.is_empty() && self.close == Some(Close::Fin) && self.dead.is_none() {
            let _ = self.sock.shutdown(Shutdown::Write);
            self.dead = Some(CloseWhy::Local);
        }
        calls
    }

    fn taken(&mut self, mut k: usize) {
        self.written += k as u64;
        while k > 0 {
            let Some(item) = self.tx.front_mut() else { return };
            let left = item.len() - item.done;
            if k < left {
                item.done += k;
                return;
            }
            k -= left;
            self.tx.pop_front();
            trim(&mut self.tx);
        }
    }
}

pub(super) struct SockRx<'a>(pub(super) &'a mut VecDeque<RxFrag>);

impl StreamRx for SockRx<'_> {
    fn next(&mut self) -> Option<RxFrag> {
        self.0.pop_front()
    }
    fn unread(&mut self, rest: RxFrag) {
        self.0.push_front(rest);
    }
}
