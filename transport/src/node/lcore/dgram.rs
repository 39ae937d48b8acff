//! Datagrams over the stack.

use std::collections::VecDeque;
use std::net::SocketAddr;

use dataplane::pkt::Port;
use hugepages::{Lent, RxFrag};
use smallvec::SmallVec;
use tcpstack::Undelivered;

use super::listening::why;
use super::{LcoreStreams, Lend};
use crate::stream::{ConnId, DgramError, Happened, Path, SendMsg, StreamRx};

/// Datagrams of an lcore.
#[derive(Default)]
pub(super) struct Datagrams {
    /// A port was opened for them.
    pub(super) used: bool,
    /// Those that wait for lendings.
    unlent: VecDeque<(Path, SendMsg)>,
    /// Paths by which nothing can be sent.
    undelivered: VecDeque<(Path, DgramError)>,
    /// The one that is shown.
    shown: VecDeque<RxFrag>,
}

struct Shown<'a>(&'a mut VecDeque<RxFrag>);

impl StreamRx for Shown<'_> {
    fn next(&mut self) -> Option<RxFrag> {
        self.0.pop_front()
    }
    fn unread(&mut self, rest: RxFrag) {
        self.0.push_front(rest);
    }
}

fn heard(what: Undelivered) -> DgramError {
    match what {
        Undelivered::TooBig(most) => DgramError::TooBig(most),
        Undelivered::Refused => DgramError::Refused,
        Undelivered::Unreachable => DgramError::Unreachable,
        Undelivered::Local => DgramError::Local,
    }
}

impl<P: Port> LcoreStreams<P> {
    pub(super) fn bind_at(&mut self, at: SocketAddr) {
        let done = self.stack.open_datagrams(at.ip(), at.port());
        self.datagrams.used |= done.is_ok();
        self.listened.push_back((at, done.map_err(why)));
    }

    /// Lends the pages of a datagram and gives it to the stack; gives it back while no lending is free.
    fn lend_datagram(&mut self, path: Path, mut m: SendMsg) -> Option<SendMsg> {
        let mut pay: SmallVec<[Lent; 2]> = SmallVec::new();
        if let Some(lend) = m.lend {
            let serial = self.serial.wrapping_add(1);
            let token = u64::from(serial) << 32 | self.lends.vacant_key() as u64;
            match self.slab.lend_all(m.pay, token, |l| pay.push(l)) {
                Ok(()) => {}
                Err(short) if short.never() => {
                    self.datagrams.undelivered.push_back((path, DgramError::Local));
                    self.orphans.push_back(lend);
                    return None;
                }
                Err(short) => {
                    m.pay = short.slices;
                    return Some(m);
                }
            }
            if pay.is_empty() {
                self.orphans.push_back(lend);
            } else {
                self.serial = serial;
                let conn = ConnId { shard: self.shard, index: u32::MAX, generation: u32::MAX };
                let (runs, hold) = (pay.len() as u32, SmallVec::new());
                self.lends.insert(Lend { id: lend, conn, serial, runs, hold });
            }
        }
        self.stack.send_datagram(path.local(), path.remote(), &m.hdr, pay);
        None
    }

    pub(super) fn send_datagram(&mut self, path: Path, m: SendMsg) {
        let waits = !self.datagrams.unlent.is_empty();
        if let Some(m) = if waits { Some(m) } else { self.lend_datagram(path, m) } {
            self.counters.lend_waits += 1;
            self.datagrams.unlent.push_back((path, m));
        }
    }

    /// Datagrams whose pages can be lent by now.
    #[inline]
    pub(super) fn retry_datagrams(&mut self) {
        while let Some((path, m)) = self.datagrams.unlent.pop_front() {
            if let Some(m) = self.lend_datagram(path, m) {
                self.datagrams.unlent.push_front((path, m));
                return;
            }
        }
    }

    /// Tells of datagrams that have come, and of paths by which none get there.
    pub(super) fn read_datagrams(&mut self, sink: &mut dyn FnMut(Happened<'_>)) -> usize {
        let mut n = 0;
        while let Some(d) = self.stack.datagram() {
            n += 1;
            let shown = &mut self.datagrams.shown;
            shown.extend(d.frags);
            sink(Happened::Datagram(Path::new(d.local, d.remote), d.len, &mut Shown(shown)));
            shown.clear();
        }
        let of_stack = std::iter::from_fn(|| self.stack.undelivered());
        self.datagrams.undelivered.extend(of_stack.map(|(l, r, what)| (Path::new(l, r), heard(what))));
        while let Some((path, why)) = self.datagrams.undelivered.pop_front() {
            n += 1;
            sink(Happened::Undelivered(path, why));
        }
        n
    }
}
