//! Addresses that a protocol has the lcore listen at while it runs.

use std::net::SocketAddr;

use dataplane::pkt::Port;
use tcpstack::Listen;

use super::LcoreStreams;
use crate::lnd::NiError;
use crate::node::nis::Site;
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

    /// Takes the address of an NI that the node gets, and listens there.
    pub(super) fn open_address(&mut self, site: &Site, all: &[SocketAddr]) -> Result<(), NiError> {
        let Site { ip, prefix, .. } = *site;
        let had = self.stack.owns(ip);
        let bad = |e: tcpstack::StackError| NiError::Address { ip, why: e.to_string() };
        self.stack.add_address(ip, prefix).map_err(bad)?;
        let missing: Vec<SocketAddr> =
            all.iter().copied().filter(|at| !self.stack.listens_for(*at)).collect();
        for (n, at) in missing.iter().enumerate() {
            let l = Listen { addr: at.ip(), port: at.port(), backlog: self.backlog };
            if let Err(e) = self.stack.listen(l) {
                missing.iter().take(n).for_each(|at| self.stack.unlisten(at.ip(), at.port()));
                if !had {
                    self.stack.remove_address(ip);
                }
                return Err(NiError::Listen { at: *at, why: why(e) });
            }
        }
        Ok(())
    }

    pub(super) fn unlisten_at(&mut self, at: SocketAddr) {
        self.stack.unlisten(at.ip(), at.port());
        self.stack.close_datagrams(at.ip(), at.port());
        // Nobody was told of this yet. Connections that wait in the stack are looked at when they are gathered.
        self.listened.retain(|l| l.0 != at);
    }
}
