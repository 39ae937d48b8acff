//! Configuration of streams over kernel sockets, and the reasons why they may not start.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::lnd::{LENDINGS, Tcp};
use crate::stream::ShardId;

/// Way to pass the time when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IdleMode {
    /// Sleep in the kernel until something arrives.
    #[default]
    Block,
    /// Ask again and again: a core for the lowest latency that sockets give.
    Spin,
}

/// Configuration. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct SockConfig {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Way to pass the time when there is nothing to do.
    pub idle: IdleMode,
    /// Size of a receive buffer: the most that one read brings.
    pub rx_buf: usize,
    /// Receive buffers.
    pub rx_bufs: usize,
    /// Lendings that may be out; the machine is told the same number.
    pub lendings: usize,
    /// TCP parameters that the kernel is given for each connection, and its backlog.
    pub tcp: Tcp,
    /// This shard.
    pub shard: ShardId,
}

impl Default for SockConfig {
    fn default() -> SockConfig {
        SockConfig {
            listen: Vec::new(),
            idle: IdleMode::Block,
            rx_buf: 128 << 10,
            rx_bufs: 1024,
            lendings: LENDINGS as usize,
            tcp: Tcp::default(),
            shard: ShardId(0),
        }
    }
}

/// Reasons why streams cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SockError {
    /// The kernel refused to listen.
    #[error("cannot listen on {addr}: {source}{}", remedy(.source))]
    Listen {
        /// Address.
        addr: SocketAddr,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel refused an address to dial from.
    #[error("cannot use the address {ip}: {source}{}", remedy(.source))]
    Address {
        /// Address.
        ip: IpAddr,
        /// The kernel's error.
        source: io::Error,
    },
    /// No epoll.
    #[error("cannot wait for sockets: {}{}", .0, remedy(.0))]
    Poll(io::Error),
}

/// Linux's numbers (asm-generic/errno.h): the process, or the machine, has no descriptors left; no buffers; no memory.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;
const ENOBUFS: i32 = 105;
const ENOMEM: i32 = 12;

/// Whether nothing is wrong with what was asked for, but the process or the machine has no room for it.
pub(super) fn is_exhausted(e: &io::Error) -> bool {
    e.raw_os_error().is_some_and(|e| [EMFILE, ENFILE, ENOBUFS, ENOMEM].contains(&e))
}

pub(super) fn remedy(e: &io::Error) -> &'static str {
    if e.raw_os_error() == Some(EMFILE) {
        return "; this process may have no more descriptors: raise ulimit -n (LimitNOFILE= of the service)";
    }
    match e.kind() {
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE: setcap cap_net_bind_service=+ep on the pollnd program, run as root, or listen on a higher port (--accept-port 10988), as all nodes that talk to each other must then"
        }
        io::ErrorKind::AddrInUse => "; another program listens there: `ss -ltunp` names it",
        io::ErrorKind::AddrNotAvailable => {
            "; no interface of this machine has that address: `ip addr` lists them"
        }
        _ => "",
    }
}
