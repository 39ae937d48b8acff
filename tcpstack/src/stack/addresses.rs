//! Addresses that come and go while the stack runs.

use std::net::IpAddr;

use dataplane::pkt::Port;

use super::Stack;
use crate::config::StackError;

/// Least MTU of a port that IPv6 is spoken on, in bytes (RFC 8200 §5).
pub(super) const LEAST_V6: u16 = 1280;

impl<P: Port> Stack<P> {
    /// Has one more address, in a network with a prefix of so many bits; the link is told of it. One that it has stays as it is.
    ///
    /// # Errors
    /// [`StackError::Address`], [`StackError::Addresses`], [`StackError::Mtu`] of a port that cannot carry IPv6.
    pub fn add_address(&mut self, ip: IpAddr, prefix: u8) -> Result<(), StackError> {
        if self.owns(ip) {
            return Ok(());
        }
        let caps = self.io.port().caps();
        if ip.is_ipv6() && caps.mtu < LEAST_V6 {
            return Err(StackError::Mtu { port: caps.name.clone(), mtu: caps.mtu, least: LEAST_V6 });
        }
        self.host.add(ip, prefix, self.io.mac())?;
        self.link.again();
        Ok(())
    }

    /// Has an address no more: packets to it are not for this stack. Its connections are to be over.
    pub fn remove_address(&mut self, ip: IpAddr) {
        self.host.remove(ip, self.io.mac());
    }
}
