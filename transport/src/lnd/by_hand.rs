//! Peers as a user configures them by hand: their NIDs, which count before any node has said a word (docs/protocol/upper.md §2).

use std::fmt;
use std::str::FromStr;

use crate::wire::{Brief, Nid, NidParseError};

/// Most NIDs of a peer.
pub const NIDS_OF_PEER: usize = 32;
/// Most NIDs of all peers that a node has by hand.
pub const BY_HAND_MAX: usize = 4096;

/// Stands behind the NID of a peer that is not Multi-Rail.
const NON_MR: &str = "non-mr";

/// A peer by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerByHand {
    /// Its NIDs, the primary one first; at most [`NIDS_OF_PEER`].
    pub nids: Vec<Nid>,
    /// It is used as one that has several NIDs; one that is not has only the primary one.
    pub multi_rail: bool,
}

/// Reason why there is no such peer, or can be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It has no NID.
    #[error("a peer without NIDs: give its primary one")]
    Nothing,
    /// The NID is no node's.
    #[error("{0} is no NID that a peer could have: give one as 10.0.0.2@tcp")]
    Nobody(Nid),
    /// The NID is this node's.
    #[error("{0} is this node's own: give a NID of the peer")]
    Own(Nid),
    /// The peer has it already.
    #[error("{0} is a NID of this peer already: leave it out")]
    Twice(Nid),
    /// The peer has each of these NIDs already.
    #[error("the peer {primary} has {nid} already: give a NID that it does not have")]
    Has {
        /// The first of them that is not the primary one.
        nid: Nid,
        /// The primary NID of the peer.
        primary: Nid,
    },
    /// The peer is there, and no other NID was named.
    #[error("the peer {0} is there by hand already: give a NID that it is to have, too, or delete it first")]
    There(Nid),
    /// The NID is of another peer by hand.
    #[error("{nid} is a NID of the peer {primary} by hand: delete it there first")]
    Taken {
        /// It.
        nid: Nid,
        /// The primary NID of that peer.
        primary: Nid,
    },
    /// The NID is not the one that the peer goes by.
    #[error("{nid} is not the primary NID of its peer: give {primary}")]
    Primary {
        /// It.
        nid: Nid,
        /// The one that it goes by.
        primary: Nid,
    },
    /// The NID is not of that peer.
    #[error("{nid} is no NID of the peer {primary}: `pollnd lnetctl peer show` lists those that it has")]
    NotOf {
        /// It.
        nid: Nid,
        /// The primary NID of the peer.
        primary: Nid,
    },
    /// A peer that is not Multi-Rail has several NIDs.
    #[error(
        "the peer {0} is not Multi-Rail, and has one NID: leave the others out, or have it be Multi-Rail"
    )]
    OneRail(Nid),
    /// The peer has too many.
    #[error("the peer {0} has more than {NIDS_OF_PEER} NIDs, as many as a peer may have: leave some out")]
    TooMany(Nid),
    /// There are too many.
    #[error("peers by hand have {BY_HAND_MAX} NIDs, as many as there may be: delete some")]
    Full,
}

impl PeerError {
    /// The kernel's error number for it, positive (from knowledge).
    pub fn errno(self) -> i32 {
        match self {
            PeerError::Nothing | PeerError::Nobody(_) | PeerError::Own(_) => 22,
            PeerError::Twice(_) | PeerError::Has { .. } | PeerError::There(_) | PeerError::Taken { .. } => 17,
            PeerError::Primary { .. } => 19,
            PeerError::NotOf { .. } => 2,
            PeerError::OneRail(_) => 1,
            PeerError::TooMany(_) | PeerError::Full => 28,
        }
    }
}

impl PeerByHand {
    /// The NID that it goes by.
    pub fn primary(&self) -> Option<Nid> {
        self.nids.first().copied()
    }

    /// Whether a node with the NIDs `own` can have it beside those others, of which each is told by its NIDs.
    ///
    /// # Errors
    /// [`PeerError`]
    pub fn check<'a>(
        &self,
        own: &[Nid],
        others: impl IntoIterator<Item = &'a [Nid]>,
    ) -> Result<(), PeerError> {
        let primary = self.primary().ok_or(PeerError::Nothing)?;
        if self.nids.len() > NIDS_OF_PEER {
            return Err(PeerError::TooMany(primary));
        }
        if !self.multi_rail && self.nids.len() > 1 {
            return Err(PeerError::OneRail(primary));
        }
        for (i, nid) in self.nids.iter().enumerate() {
            if nid.ip().is_none() || nid.station().is_err() {
                return Err(PeerError::Nobody(*nid));
            }
            if own.contains(nid) {
                return Err(PeerError::Own(*nid));
            }
            if self.nids.iter().take(i).any(|n| n == nid) {
                return Err(PeerError::Twice(*nid));
            }
        }
        let mut all = self.nids.len();
        for other in others {
            if let Some(nid) = self.nids.iter().find(|n| other.contains(n))
                && let Some(primary) = other.first()
            {
                return Err(PeerError::Taken { nid: *nid, primary: *primary });
            }
            all += other.len();
        }
        if all > BY_HAND_MAX { Err(PeerError::Full) } else { Ok(()) }
    }

    /// Whether a node with these NIDs can have all of them.
    ///
    /// # Errors
    /// [`PeerError`] of the first that it cannot.
    pub fn check_all(peers: &[PeerByHand], own: &[Nid]) -> Result<(), PeerError> {
        for (i, peer) in peers.iter().enumerate() {
            peer.check(own, peers.iter().take(i).map(|p| &p.nids[..]))?;
        }
        Ok(())
    }
}

impl fmt::Display for PeerByHand {
    /// As [`PeerByHand::from_str`] takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, nid) in self.nids.iter().enumerate() {
            write!(f, "{}{nid}", if i == 0 { "" } else { "," })?;
        }
        if self.multi_rail { Ok(()) } else { write!(f, " {NON_MR}") }
    }
}

/// Reason why a text is no peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerParseError {
    /// Words that are missing, or too many.
    #[error(
        "{:?} is no peer: write NID[,NID...], the primary one first, for example 10.0.0.2@tcp,10.0.1.2@tcp; or NID {NON_MR}",
        Brief(.0)
    )]
    Words(String),
    /// One of its NIDs.
    #[error(transparent)]
    Nid(#[from] NidParseError),
    /// NIDs that do not go together.
    #[error(transparent)]
    Peer(#[from] PeerError),
}

impl FromStr for PeerByHand {
    type Err = PeerParseError;

    /// `NID[,NID...]`, or `NID non-mr`.
    fn from_str(s: &str) -> Result<PeerByHand, PeerParseError> {
        let words: Vec<&str> = s.split_whitespace().collect();
        let (nids, multi_rail) = match words.as_slice() {
            [nids] => (nids, true),
            [nids, word] if *word == NON_MR => (nids, false),
            _ => return Err(PeerParseError::Words(s.to_owned())),
        };
        let nids = nids.split(',').map(str::parse).collect::<Result<_, NidParseError>>()?;
        let peer = PeerByHand { nids, multi_rail };
        peer.check(&[], [])?;
        Ok(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_written_as_it_is_read() {
        for text in ["10.0.0.2@tcp", "10.0.0.2@tcp,10.0.1.2@tcp1,fd00::2@tcp", "10.0.0.2@tcp non-mr"] {
            assert_eq!(text.parse::<PeerByHand>().unwrap().to_string(), text);
        }
        for (bad, says) in [
            ("", "write NID"),
            ("10.0.0.2@tcp mr", "write NID"),
            ("10.0.0.2@tcp,", "NID"),
            ("10.0.0.x@tcp", "10.0.0.x"),
            ("10.0.0.2@tcp,10.0.0.2@tcp", "already"),
            ("10.0.0.2@tcp,10.0.0.3@tcp non-mr", "not Multi-Rail"),
            ("0@lo", "could have"),
            ("224.0.0.1@tcp", "could have"),
        ] {
            let e = bad.parse::<PeerByHand>().unwrap_err().to_string();
            assert!(e.contains(says), "{bad}: {e}");
        }
    }

    #[test]
    fn peers_that_a_node_cannot_have_are_refused() {
        let own = ["10.0.0.9@tcp".parse().unwrap()];
        let peer = |s: &str| s.parse::<PeerByHand>().unwrap();
        let check = |all: &[&str]| {
            let all: Vec<_> = all.iter().map(|s| peer(s)).collect();
            PeerByHand::check_all(&all, &own).map_err(PeerError::errno)
        };
        assert_eq!(check(&["10.0.0.1@tcp,10.0.0.2@tcp", "10.0.0.3@tcp,10.0.0.4@tcp9"]), Ok(()));
        assert_eq!(check(&["10.0.0.1@tcp,10.0.0.2@tcp", "10.0.0.3@tcp,10.0.0.2@tcp"]), Err(17));
        assert_eq!(check(&["10.0.0.1@tcp,10.0.0.9@tcp"]), Err(22));
        let nid = |n: u32| Nid::tcp((0x0b00_0000 + n).to_be_bytes().into(), 0);
        let many = |n: u32, len: u32| PeerByHand { nids: (n..n + len).map(nid).collect(), multi_rail: true };
        let most = NIDS_OF_PEER as u32;
        assert_eq!(many(0, most).check(&own, []), Ok(()));
        assert_eq!(many(0, most + 1).check(&own, []), Err(PeerError::TooMany(nid(0))));
        let mut all: Vec<_> = (0..BY_HAND_MAX as u32 / most).map(|n| many(n * most, most)).collect();
        assert_eq!(PeerByHand::check_all(&all, &own), Ok(()));
        all.push(peer("10.0.0.1@tcp"));
        assert_eq!(PeerByHand::check_all(&all, &own), Err(PeerError::Full));
    }
}
