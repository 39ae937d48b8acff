//! Accepting connections, for as long as the kernel has any to give.
//!
//! The poller tells once that connections wait (epoll's edge). Whoever stops before the queue is empty must come back by
//! itself: in the next turn when it was enough for one, after [`RETRY`] or as soon as a descriptor is free when the kernel
//! had none (tokio 3529, mio 845).

use std::io;

use super::config::{is_exhausted, remedy};
use super::{ConnInfo, SockStreams, Streams};

/// Connections taken from one listener in one turn at most, so that those that are open are served, too.
const ACCEPTS_A_TURN: usize = 256;
/// Time that a listener waits for descriptors or memory, in ns.
const RETRY: u64 = 100_000_000;
/// The log says so once in this time at most, in ns.
const SAY_EVERY: u64 = 60_000_000_000;

/// State of accepting.
#[derive(Debug, Default)]
pub(super) struct Accepting {
    /// More may wait: look in the next turn.
    pub(super) again: bool,
    /// The kernel had no descriptor or memory: look then, in ns.
    pub(super) retry_at: Option<u64>,
    said_at: Option<u64>,
}

impl Accepting {
    /// Whether to look at `now`.
    pub(super) fn due(&self, now: u64) -> bool {
        self.again || self.retry_at.is_some_and(|t| t <= now)
    }

    /// A descriptor of ours is free.
    pub(super) fn descriptor_free(&mut self) {
        self.again |= self.retry_at.take().is_some();
    }
}

/// Errors of one connection, not of the listener (accept(2)).
fn of_one_connection(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        e.kind(),
        K::ConnectionAborted
            | K::ConnectionReset
            | K::Interrupted
            | K::NetworkDown
            | K::NetworkUnreachable
            | K::HostUnreachable
            | K::PermissionDenied
    )
}

impl SockStreams {
    /// Takes what waits, up to a bound.
    pub(super) fn accept_all(&mut self) {
        self.accepting.again = false;
        self.accepting.retry_at = None;
        for i in 0..self.listeners.places() {
            let mut left = ACCEPTS_A_TURN;
            while let Some(l) = self.listeners.get(i) {
                if left == 0 {
                    self.accepting.again = true;
                    break;
                }
                left -= 1;
                match l.accept() {
                    Ok((sock, remote)) => {
                        let Ok(local) = sock.local_addr() else { continue };
                        let info = ConnInfo { local, remote, dial: None };
                        match self.insert(sock, info) {
                            Ok(id) => self.opened.push_back(id),
                            Err(e) => self.accept_later(&e),
                        }
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) if of_one_connection(&e) => {}
                    Err(e) if is_exhausted(&e) => {
                        self.accept_later(&e);
                        break;
                    }
                    // It will accept nothing more.
                    Err(e) => {
                        tracing::error!(error = %e, "a listening socket is lost{}", remedy(&e));
                        self.listeners.lose(i, self.poll.registry());
                        break;
                    }
                }
            }
        }
    }

    /// The kernel cannot give us connections now.
    fn accept_later(&mut self, e: &io::Error) {
        let now = self.now();
        self.counters.accept_waits += 1;
        self.accepting.retry_at = Some(now + RETRY);
        if self.accepting.said_at.is_none_or(|t| now.saturating_sub(t) >= SAY_EVERY) {
            self.accepting.said_at = Some(now);
            tracing::warn!(
                error = %e,
                open = self.conns.len() - self.free.len(),
                "cannot accept connections now: they wait in the kernel's queue, and are tried again as descriptors become free; \
                 more of them: ulimit -Hn, or LimitNOFILE= of the service (said once a minute at most)"
            );
        }
    }
}
