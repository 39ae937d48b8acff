//! The byte streams of one lcore: the seam between a machine and the wire.

use std::net::{IpAddr, SocketAddr};

use dataplane::pkt::{Armed, Nap};
use tcpstack::SiblingMsg;

use super::nis::Site;
use crate::lnd::{NiError, Tcp};
use crate::stream::{Action, Close, ConnId, DialSpec, Happened, InlineHdr, LendId, Path, SendMsg};

/// Result of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// So many things were done; come back at once.
    Busy(u32),
    /// Nothing to do now.
    Idle,
}

impl Work {
    /// Of two turns' work, all of it.
    #[must_use]
    pub fn and(self, other: Work) -> Work {
        match (self, other) {
            (Work::Busy(a), Work::Busy(b)) => Work::Busy(a.saturating_add(b)),
            (Work::Idle, w) | (w, Work::Idle) => w,
        }
    }

    /// Whether there was any.
    pub fn is_busy(self) -> bool {
        matches!(self, Work::Busy(_))
    }

    /// `Busy(n)`, or `Idle` for 0.
    pub fn of(n: usize) -> Work {
        if n == 0 { Work::Idle } else { Work::Busy(u32::try_from(n).unwrap_or(u32::MAX)) }
    }
}

/// Streams of one lcore. Implemented over the queues of a port, in memory too ([`LcoreStreams`](super::lcore::LcoreStreams)),
/// and over kernel sockets ([`SockStreams`](super::sock::SockStreams)).
///
/// An action on a stream that has gone is dropped, and its lend comes home all the same.
pub trait Streams {
    /// The time in ns.
    fn now(&self) -> u64;

    /// Starts a connection. Exactly one [`Happened::Opened`] or [`Happened::DialFailed`] with this id follows.
    fn dial(&mut self, d: &DialSpec);

    /// Pushes a message on a stream.
    fn send(&mut self, c: ConnId, m: SendMsg);

    /// Lifts the hold on a lend of a stream.
    fn unhold(&mut self, c: ConnId, l: LendId);

    /// The machine takes bytes of a stream again.
    fn read(&mut self, c: ConnId);

    /// Closes a stream.
    fn close(&mut self, c: ConnId, how: Close);

    /// Listens at an address that the configuration does not name. [`Happened::Listening`] follows.
    fn listen(&mut self, at: SocketAddr);

    /// Ends what [`Streams::listen`] began: no [`Happened::Opened`] of a connection to there follows.
    fn unlisten(&mut self, at: SocketAddr);

    /// Takes the address of an NI that the node gets, and listens at it. One that another NI has, too, is there already.
    ///
    /// # Errors
    /// [`NiError::Listen`], [`NiError::Address`], [`NiError::NoPort`]. Nothing has changed.
    fn open_ni(&mut self, site: &Site, at: &[SocketAddr]) -> Result<(), NiError>;

    /// Listens no more at an address of an NI. Connections go on.
    fn close_ni(&mut self, at: SocketAddr);

    /// No NI has the address any more, and no connection.
    fn drop_address(&mut self, ip: IpAddr);

    /// Takes datagrams at an address. [`Happened::Listening`] follows; [`Streams::unlisten`] ends it.
    fn bind(&mut self, at: SocketAddr);

    /// Sends a datagram.
    fn datagram(&mut self, path: Path, m: SendMsg);

    /// Pushes a message that has no pages, if nothing is before it; `false` where it has to be sent as others are.
    #[inline]
    fn send_short(&mut self, _: ConnId, _: &InlineHdr) -> bool {
        false
    }

    /// Does what the machine wants of a stream. A short message is read where it lies, another is taken out.
    #[inline]
    fn act(&mut self, action: &mut Action) {
        match action {
            Action::Dial(d) => self.dial(d),
            Action::Send(c, m) => {
                if m.lend.is_some() || !self.send_short(*c, &m.hdr) {
                    self.send(*c, m.take());
                }
            }
            Action::Unhold(c, l) => self.unhold(*c, *l),
            Action::Read(c) => self.read(*c),
            Action::Close(c, how) => self.close(*c, *how),
            Action::Listen(at) => self.listen(*at),
            Action::Unlisten(at) => self.unlisten(*at),
            Action::Bind(at) => self.bind(*at),
            Action::Datagram(path, m) => self.datagram(*path, m.take()),
        }
    }

    /// Receives, runs timers, and tells what happened: all `Progress` before any `Bytes`. `now` is of [`Streams::now`]: whoever turns them
    /// has asked for it already, and reading a clock is a good part of a turn that finds nothing.
    fn turn(&mut self, now: u64, sink: &mut dyn FnMut(Happened<'_>)) -> Work;

    /// Sends what was asked for since the last turn.
    fn flush(&mut self) -> Work;

    /// Time at which [`Streams::turn`] wants to be called next if nothing arrives, in ns.
    fn deadline(&self) -> Option<u64>;

    /// Waits for something to arrive, until `until` (ns) at the latest. Streams that can only be polled sleep for `nap`, and
    /// return at once without one.
    fn wait(&mut self, until: Option<u64>, nap: Option<Nap>);

    /// Has a packet end the next wait of this thread, where a driver can; [`Streams::wait`] of one of several then waits for all.
    fn arm(&mut self) -> Armed {
        Armed::Never
    }

    /// Whether anything can come or go: the link of a port is up.
    fn linked(&self) -> bool {
        true
    }

    /// Whether what has this address of ours has a link. The kernel's interfaces are not watched: those always have one.
    fn has_link(&self, _ip: IpAddr) -> bool {
        self.linked()
    }

    /// Ends every stream at once, as far as peers can still be told, since nothing will be turned again.
    fn abort_all(&mut self);

    /// Takes in tunables of connections that are made from now on.
    fn tune(&mut self, tcp: &Tcp);

    /// The TCP stack of this queue, as those of the other queues of the same port know it; `None` where the kernel has
    /// the connections.
    fn sibling(&mut self) -> Option<&mut dyn Sibling>;
}

/// A TCP stack of one queue, among those of the other queues of its port (`tcpstack/src/siblings.rs`).
pub trait Sibling {
    /// The next message for another queue's stack, and which queue.
    fn tell(&mut self) -> Option<(u16, Told)>;

    /// Takes in a message of another queue's stack.
    fn hear(&mut self, told: Told);
}

/// A message between the stacks of two queues of a port.
#[derive(Debug)]
pub struct Told {
    /// The place of the port among those of the lcore.
    pub port: u8,
    /// The message.
    pub msg: SiblingMsg,
}
