//! Differences between the versions of the protocol (docs/protocol/socklnd.md §5 to §7): framing is
//! [`Version`]'s own ([`Version::hdr_len`] and its neighbours), the rules of a connection are here. A fifth version
//! goes here, into `wire::hello`, and nowhere else.
//!
//! | | V1 | V2 | V3, V4 |
//! |---|---|---|---|
//! | ksock header, NOOPs, ACKs | no | yes | yes |
//! | checksum of ours | no | header and payload, if `enable_csum` | none |
//! | checksum of the peer's covers | | header and payload | payload |
//! | keepalive cookie | no | no | yes |
//! | zero-copy requests of ours | no | if `zc_v2` | once our BULK_OUT is up |
//! | ACKs merge | | ride on messages | on BULK_IN with each other, elsewhere as V2 |
//! | types bind | no | no | yes |

use crate::lnd::Config;
use crate::wire::{ConnType, Version};

/// Coverage of a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SumOver {
    /// There is none.
    Nothing,
    /// The ksock header with a zeroed checksum, the LNet header and the payload.
    Message,
    /// The payload.
    Payload,
}

/// Way of ACKs in a queue (socklnd.md §6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carry {
    /// Messages only: there are no ACKs.
    Append,
    /// An ACK rides on an LNet message, or waits as a NOOP for one.
    Ride,
    /// NOOPs only: ACKs join into pairs and ranges.
    Merge,
}

impl Version {
    /// Coverage of a received message's checksum, if it has one (socklnd.md §5.3).
    pub(super) fn sum_over(self) -> SumOver {
        match self {
            Version::V1 => SumOver::Nothing,
            Version::V2 => SumOver::Message,
            Version::V3 | Version::V4 => SumOver::Payload,
        }
    }

    /// Way of ACKs on a connection of type `ctype`.
    pub(super) fn carry(self, ctype: ConnType) -> Carry {
        match (self, ctype) {
            (Version::V1, _) => Carry::Append,
            (Version::V3 | Version::V4, ConnType::BulkIn) => Carry::Merge,
            _ => Carry::Ride,
        }
    }

    /// Whether a peer has read what its TCP has acknowledged, without a zero-copy ACK, as far as can be known: it may never read it, but in
    /// versions 1 and 2 there is nothing else to go by.
    pub(super) fn reads_what_tcp_has(self) -> bool {
        matches!(self, Version::V1 | Version::V2)
    }

    /// Whether a message may ask for a zero-copy ACK, given whether our BULK_OUT is up: that is where V3 kernels
    /// answer without fail (socklnd.md §6.3). On V2 it is how the protocol was meant, and how today's kernels are
    /// brought down (§6.3, last paragraph): only where the configuration says that the peer bears it.
    pub(super) fn may_ask_zc(self, bulk_out: bool, cfg: &Config) -> bool {
        match self {
            Version::V1 => false,
            Version::V2 => cfg.zc_v2,
            Version::V3 | Version::V4 => bulk_out,
        }
    }
}
