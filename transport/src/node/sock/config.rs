//! What the socket runtime is told, and why it may not start.

use std::io;
use std::net::SocketAddr;

use crate::proto::{LENDINGS, ShardId, Tcp};

/// How the runtime passes the time when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Idle {
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
    /// What to do when there is nothing to do.
    pub idle: Idle,
    /// Size of a receive buffer: the most that one read brings.
    pub rx_buf: usize,
    /// Receive buffers.
    pub rx_bufs: usize,
    /// Lendings that may be out; the machine is told the same number.
    pub lendings: usize,
    /// What the kernel is told about each connection, and how many it lets wait to be accepted.
    pub tcp: Tcp,
    /// This shard.
    pub shard: ShardId,
}

impl Default for SockConfig {
    fn default() -> SockConfig {
        SockConfig {
            listen: Vec::new(),
            idle: Idle::Block,
            rx_buf: 128 << 10,
            rx_bufs: 1024,
            lendings: LENDINGS as usize,
            tcp: Tcp::default(),
            shard: ShardId(0),
        }
    }
}

/// Why the runtime could not start.
#[derive(Debug, thiserror::Error)]
pub enum SockError {
    /// The kernel refused to listen.
    #[error("cannot listen on {addr}: {source}{}", listen_remedy(.source))]
    Listen {
        /// Address.
        addr: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// No epoll.
    #[error("cannot wait for sockets: {0}")]
    Poll(io::Error),
}

pub(super) fn listen_remedy(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE: setcap cap_net_bind_service=+ep on the pollnd program, run as root, or listen on a higher port (--accept-port 10988), as all nodes that talk to each other must then"
        }
        io::ErrorKind::AddrInUse => "; another program listens there: `ss -ltnp` names it",
        io::ErrorKind::AddrNotAvailable => {
            "; no interface of this machine has that address: `ip addr` lists them"
        }
        _ => "",
    }
}
