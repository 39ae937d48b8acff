//! NIs that a running node gets, and why it does not.

use std::net::{IpAddr, SocketAddr};

use super::NIS_MAX;
use crate::stream::ListenError;
use crate::wire::{NetId, Nid, NidParseError};

/// An NI that a running node is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewNi {
    /// Its NID.
    pub nid: Nid,
    /// Messages it may have in flight; as many as [`Config::ni_credits`](super::Config::ni_credits) where this is `None`.
    pub credits: Option<u32>,
    /// Constant for its life and another than that of one with this NID before: wall clock in ns (docs/protocol/socklnd.md §4).
    pub incarnation: u64,
}

/// Reason why a running node does not get an NI, or does not lose one. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NiError {
    /// The NID has no address.
    #[error("{0} has no IP address: an NI needs a NID that others reach it by, for example 10.0.0.1@tcp")]
    NoAddress(Nid),
    /// The address is no single machine's.
    #[error(transparent)]
    Nid(#[from] NidParseError),
    /// The node has it.
    #[error("{0} is an NI of this node already: give another address, or another network, such as tcp7")]
    Twice(Nid),
    /// The node does not have it.
    #[error("{0} is no NI of this node: `pollnd lnetctl net show` lists them")]
    Unknown(Nid),
    /// It has as many as it may.
    #[error("{0} would be NI number {n} of this node, and a node has {NIS_MAX} at most: delete one", n = NIS_MAX + 1)]
    Full(Nid),
    /// Those that were deleted are not over yet.
    #[error(
        "there is no place for {0} yet: connections of NIs that were deleted are still closing; try again in some seconds"
    )]
    Closing(Nid),
    /// A route leads to its network.
    #[error(
        "{nid}: a route leads to {net}, and it would be this node's own network: delete the route first (`pollnd lnetctl route del`)"
    )]
    Routed {
        /// The NI.
        nid: Nid,
        /// Its network.
        net: NetId,
    },
    /// The runtime cannot use its address.
    #[error("cannot listen on {}: {why}", place(at))]
    Listen {
        /// Where; port 0 of a node that does not listen.
        at: SocketAddr,
        /// Why.
        why: ListenError,
    },
    /// No port can have the address.
    #[error("{ip} cannot be an address of the port: {why}")]
    Address {
        /// The address.
        ip: IpAddr,
        /// Why.
        why: String,
    },
    /// There is no such port.
    #[error(
        "the node has no port number {0}: ports are those that it was started with; restart it with one more"
    )]
    NoPort(u8),
    /// The place that it is to have is not as it should be: somebody else changes NIs, too.
    #[error("the node's NIs are being changed by somebody else: try again")]
    Place,
    /// The node goes down.
    #[error("the node is shutting down")]
    Down,
}

/// An address, with the port if that is known.
fn place(at: &SocketAddr) -> String {
    if at.port() == 0 { at.ip().to_string() } else { at.to_string() }
}

impl NiError {
    /// The kernel's error number for it, positive.
    pub fn errno(&self) -> i32 {
        match self {
            NiError::NoAddress(_) | NiError::Nid(_) | NiError::Unknown(_) | NiError::Address { .. } => 22,
            NiError::Twice(_) => 17,
            NiError::Full(_) => 28,
            NiError::Closing(_) | NiError::Place => 16,
            NiError::Routed { .. } => 87,
            NiError::Listen { why: ListenError::InUse, .. } => 98,
            NiError::Listen { why: ListenError::NotOurs, .. } => 99,
            NiError::Listen { why: ListenError::Denied, .. } => 13,
            NiError::Listen { why: ListenError::Local, .. } => 5,
            NiError::NoPort(_) => 19,
            NiError::Down => 108,
        }
    }
}
