//! Questions to a shard about NIs that it gets or loses while it runs.

use std::net::IpAddr;

use super::machine::Places;
use crate::lnd::{NewNi, NiError};

/// The address of an NI, where streams have to be given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The address.
    pub ip: IpAddr,
    /// Bits of its network's prefix.
    pub prefix: u8,
    /// Place of the port that is to have it, among those of an lcore.
    pub port: u8,
}

/// Orders about a shard's places for NIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NiAsk {
    /// Shows them.
    Look,
    /// Makes one ready for an NI.
    Open(u8, NewNi, Site),
    /// Has the NI there run.
    Begin(u8),
    /// Deletes the NI there.
    Close(u8),
}

/// A question about NIs.
#[derive(Debug)]
pub struct AboutNis {
    /// An order, before they are shown.
    pub ask: NiAsk,
    /// Answer to the order.
    pub done: Result<(), NiError>,
    /// The places.
    pub places: Places,
}
