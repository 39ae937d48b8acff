//! Datagrams: a service of the runtime beside its streams. Nothing is kept of them between two: no connection, no order.

use std::net::{IpAddr, SocketAddr};

/// The two ends of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// Our address.
    pub local_ip: IpAddr,
    /// The peer's.
    pub remote_ip: IpAddr,
    /// Our port.
    pub local_port: u16,
    /// The peer's.
    pub remote_port: u16,
}

impl Path {
    /// From `local`, where the runtime takes datagrams, to `remote`.
    pub fn new(local: SocketAddr, remote: SocketAddr) -> Path {
        let (local_port, remote_port) = (local.port(), remote.port());
        Path { local_ip: local.ip(), remote_ip: remote.ip(), local_port, remote_port }
    }

    /// Our end.
    pub fn local(&self) -> SocketAddr {
        SocketAddr::new(self.local_ip, self.local_port)
    }

    /// The peer's end.
    pub fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.remote_ip, self.remote_port)
    }
}

/// Reason why datagrams do not get to a peer. That they get there is never told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DgramError {
    /// The path takes no more than so many bytes in one, headers of UDP and IP not counted. Nobody cuts them up.
    #[error("the path takes datagrams of at most {0} bytes")]
    TooBig(u32),
    /// The peer's host has nobody at that port (ICMP).
    #[error("nobody takes datagrams there: is a node up at that address and port?")]
    Refused,
    /// There is no way there, or it is forbidden.
    #[error("no way to the peer: look at the route, and at firewalls")]
    Unreachable,
    /// The runtime takes no datagrams at our end, or has no socket left.
    #[error("cannot send datagrams from that address here")]
    Local,
}

/// Bytes of IP and UDP headers of a datagram.
pub const fn dgram_headers(v6: bool) -> u32 {
    if v6 { 40 + 8 } else { 20 + 8 }
}
