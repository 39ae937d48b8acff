//! Addresses that the network has lost: one rail of several.

use std::net::IpAddr;

use super::{Cut, Net};
use crate::stream::DialError;

impl Net {
    /// Nothing goes to or from the address any more: its connections are cut that way, and dials are refused where that is by RST,
    /// else lost.
    pub fn unplug(&mut self, ip: IpAddr, how: Cut) {
        let why = if how == Cut::Reset { DialError::Refused } else { DialError::TimedOut };
        self.unplugged.insert(ip, why);
        for link in 0..self.links.len() {
            let e = &self.links[link];
            let here = (0..2).any(|end| e[end].addr.ip() == ip);
            if here && (0..2).any(|end| !e[end].closed()) {
                self.cut(link, how);
            }
        }
    }

    /// The address is there again; what was cut stays so.
    pub fn plug(&mut self, ip: IpAddr) {
        self.unplugged.remove(&ip);
    }

    /// The port of a node that has the address has a link, or has none: its driver says so.
    pub fn link_state(&mut self, node: usize, ip: IpAddr, up: bool) {
        self.nodes[node].machine.link(self.now, ip, up);
        self.drain(node);
    }
}
