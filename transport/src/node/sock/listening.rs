//! Listening sockets: those of the configuration, and those that a protocol asks for while the node runs.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::net::TcpListener;
use mio::{Interest, Registry, Token};

use super::{LISTENER, SockStreams, bind};
use crate::lnd::NiError;
use crate::stream::{Close, ListenError};

struct Listener {
    sock: TcpListener,
    at: SocketAddr,
    /// A protocol asked for it.
    asked: bool,
}

/// The listening sockets.
#[derive(Default)]
pub(super) struct Listeners {
    all: Vec<Option<Listener>>,
    /// The fate of addresses that were asked for.
    pub(super) told: VecDeque<(SocketAddr, Result<(), ListenError>)>,
}

pub(super) fn why(e: &io::Error) -> ListenError {
    match e.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse,
        io::ErrorKind::AddrNotAvailable => ListenError::NotOurs,
        io::ErrorKind::PermissionDenied => ListenError::Denied,
        _ => ListenError::Local,
    }
}

impl Listeners {
    /// Listens.
    pub(super) fn open(&mut self, at: SocketAddr, backlog: i32, with: &Registry) -> io::Result<()> {
        self.add(at, backlog, with, false)
    }

    fn add(&mut self, at: SocketAddr, backlog: i32, with: &Registry, asked: bool) -> io::Result<()> {
        let s = bind(at)?;
        s.listen(backlog)?;
        s.set_nonblocking(true)?;
        let mut sock = TcpListener::from_std(s.into());
        let place = self.all.iter().position(Option::is_none).unwrap_or(self.all.len());
        with.register(&mut sock, Token(LISTENER + place), Interest::READABLE)?;
        let listener = Some(Listener { sock, at, asked });
        match self.all.get_mut(place) {
            Some(free) => *free = listener,
            None => self.all.push(listener),
        }
        Ok(())
    }

    /// Their places; some may be empty.
    pub(super) fn places(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, place: usize) -> Option<&TcpListener> {
        self.all.get(place)?.as_ref().map(|l| &l.sock)
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &TcpListener> {
        self.all.iter().flatten().map(|l| &l.sock)
    }

    /// One accepts nothing more.
    pub(super) fn lose(&mut self, place: usize, with: &Registry) {
        let Some(mut l) = self.all.get_mut(place).and_then(Option::take) else { return };
        let _ = with.deregister(&mut l.sock);
        if l.asked {
            self.told.push_back((l.at, Err(ListenError::Local)));
        }
    }
}

impl SockStreams {
    pub(super) fn listen_at(&mut self, at: SocketAddr) {
        // No other program is in the way: the configuration has the node listen there.
        if self.listeners.all.iter().flatten().any(|l| !l.asked && l.at == at) {
            return self.listeners.told.push_back((at, Err(ListenError::InUse)));
        }
        let done = self.listeners.add(at, self.cfg.tcp.backlog.into(), self.poll.registry(), true);
        if let Err(e) = &done {
            tracing::warn!(%at, error = %e, "cannot listen{}", super::remedy(e));
        }
        self.listeners.told.push_back((at, done.map_err(|e| why(&e))));
    }

    /// Listens at the addresses of an NI that the node gets.
    pub(super) fn open_addresses(&mut self, ip: IpAddr, all: &[SocketAddr]) -> Result<(), NiError> {
        let not = |at, e: &io::Error| NiError::Listen { at, why: why(e) };
        let here = SocketAddr::new(ip, 0);
        // A node that does not listen dials from the address.
        bind(here).map_err(|e| not(*all.first().unwrap_or(&here), &e))?;
        let there = |at: &SocketAddr| {
            let whole = |l: &Listener| l.at.ip().is_unspecified() && l.at.is_ipv4() == at.is_ipv4();
            let all = self.listeners.all.iter().flatten();
            all.filter(|l| !l.asked && l.at.port() == at.port()).any(|l| l.at == *at || whole(l))
        };
        let missing: Vec<SocketAddr> = all.iter().copied().filter(|at| !there(at)).collect();
        for (n, at) in missing.iter().enumerate() {
            if let Err(e) = self.listeners.open(*at, self.cfg.tcp.backlog.into(), self.poll.registry()) {
                missing.iter().take(n).for_each(|before| self.close_address(*before));
                return Err(not(*at, &e));
            }
        }
        Ok(())
    }

    /// Listens no more at an address of an NI.
    pub(super) fn close_address(&mut self, at: SocketAddr) {
        let all = &mut self.listeners.all;
        let place = all.iter().position(|l| l.as_ref().is_some_and(|l| !l.asked && l.at == at));
        if let Some(mut l) = place.and_then(|i| all.get_mut(i)).and_then(Option::take) {
            let _ = self.poll.registry().deregister(&mut l.sock);
        }
    }

    pub(super) fn unlisten_at(&mut self, at: SocketAddr) {
        let all = &mut self.listeners;
        let place = all.all.iter().position(|l| l.as_ref().is_some_and(|l| l.asked && l.at == at));
        if let Some(mut l) = place.and_then(|i| all.all.get_mut(i)).and_then(Option::take) {
            let _ = self.poll.registry().deregister(&mut l.sock);
        }
        // Nobody was told of these.
        all.told.retain(|t| t.0 != at);
        for _ in 0..self.opened.len() {
            let Some(id) = self.opened.pop_front() else { return };
            match self.conn(id) {
                Some(c) if c.info.dial.is_none() && c.info.local == at => {
                    c.close = Some(Close::Abort);
                    self.remove(id.index as usize);
                }
                _ => self.opened.push_back(id),
            }
        }
    }
}
