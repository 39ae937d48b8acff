//! Addresses that a protocol has the lcore listen at while it runs.

use std::net::SocketAddr;

use dataplane::pkt::Port;
use tcpstack::Listen;

use super::LcoreStreams;
use crate::stream::ListenError;

/// The fate of an address.
pub(super) type Listened = (SocketAddr, Result<(), ListenError>);

pub(super) fn why(e: tcpstack::ListenError) -> ListenError {
    match e {
        tcpstack::ListenError::NotOurs(_) => ListenError::NotOurs,
        tcpstack::ListenError::Port(0) => ListenError::Local,
        tcpstack::ListenError::Port(_) => ListenError::InUse,
    }
}

impl<P: Port> LcoreStreams<P> {
    pub(super) fn listen_at(&mut self, at: SocketAddr) {
        let l = Listen { addr: at.ip(), port: at.port(), backlog: self.backlog };
        let done = self.stack.listen(l).map_err(why);
        self.listened.push_back((at, done));
    }

    pub(super) fn unlisten_at(&mut self, at: SocketAddr) {
        self.stack.unlisten(at.ip(), at.port());
        self.stack.close_datagrams(at.ip(), at.port());
        // Nobody was told of this yet. Connections that wait in the stack are looked at when they are gathered.
        self.listened.retain(|l| l.0 != at);
    }
}
