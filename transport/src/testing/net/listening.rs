//! Addresses that protocols listen at on a simulated network.

use std::net::SocketAddr;

use super::Net;
use crate::node::Input;
use crate::stream::{Happened, ListenError};

impl Net {
    pub(super) fn listen(&mut self, node: usize, at: SocketAddr) -> Result<(), ListenError> {
        let m = &self.nodes[node].machine;
        let first = node - usize::from(m.config().shards.me.0);
        if self.by_ip.get(&at.ip()) != Some(&first) {
            Err(ListenError::NotOurs)
        } else if self.listener(at).is_some() || m.config().listen_ports().any(|p| p == at.port()) {
            Err(ListenError::InUse)
        } else {
            self.listens.insert(at, Some(node));
            Ok(())
        }
    }

    pub(super) fn unlisten(&mut self, node: usize, at: SocketAddr) {
        if self.listener(at) == Some(node) {
            self.listens.insert(at, None);
        }
    }

    /// The node whose protocol listens at an address.
    pub(super) fn listener(&self, at: SocketAddr) -> Option<usize> {
        self.listens.get(&at).copied().flatten()
    }

    /// Whether a node that has an address answers connection requests to it. Where no protocol ever asked LNet does.
    pub(super) fn hears(&self, node: usize, at: SocketAddr) -> bool {
        let n = &self.nodes[node];
        n.alive && !n.deaf && self.listens.get(&at) != Some(&None)
    }

    /// The address is lost to the protocol that listens there.
    pub fn lose_listener(&mut self, at: SocketAddr) {
        if let Some(Some(node)) = self.listens.insert(at, None) {
            self.input(node, Input::Stream(Happened::Listening(at, Err(ListenError::Local))));
        }
    }
}
