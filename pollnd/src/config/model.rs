//! The contents of a configuration file: NIs, and values of keys, each with its place.

use std::net::IpAddr;

use transport::lnd::{PeerByHand, Route};
use transport::lnet::faults::FaultRule;
use transport::wire::Nid;

use super::keys::{self, Key, Means, Part};
use super::yaml::{Fault, Place};

/// An NI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ni {
    /// Its beginning.
    pub(crate) at: Place,
    /// Its network, such as tcp1.
    pub(crate) net: String,
    /// Its NID.
    pub(crate) nid: Option<Nid>,
    /// The kernel's interface with its address.
    pub(crate) interface: Option<String>,
    /// Messages it may have in flight, where that is not what the node has for all.
    pub(crate) credits: Option<u32>,
    /// Its own word about them.
    pub(crate) credits_said: Option<u32>,
    /// CPTs that serve it, as lnetctl writes them: all.
    pub(crate) cpt: Option<(String, Place)>,
}

/// The value of a key.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    /// The key.
    pub(crate) key: &'static Key,
    /// Its place.
    pub(crate) at: Place,
    /// Its value, or the values of a list.
    pub(crate) values: Vec<String>,
}

impl Said {
    /// The value of a key that has one.
    pub(crate) fn value(&self) -> &str {
        self.values.first().map_or("", String::as_str)
    }
}

/// The content of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    /// NIs, the primary one first.
    pub(crate) nis: Vec<Ni>,
    /// Values of keys.
    pub(crate) said: Vec<Said>,
    /// Routes.
    pub(crate) routes: Vec<(Route, Place)>,
    /// Peers by hand.
    pub(crate) peers: Vec<(PeerByHand, Place)>,
    /// Fault rules.
    pub(crate) faults: Vec<(FaultRule, Place)>,
    /// Sections of lnetctl's that are passed over, and why.
    pub(crate) passed: Vec<Fault>,
}

impl Model {
    /// A node that has asked itself who it is exports itself among its peers, too.
    pub(super) fn forget_oneself(&mut self) {
        let own: Vec<Nid> = self.nis.iter().filter_map(|n| n.nid).collect();
        self.peers.retain(|(p, _)| !p.nids.iter().all(|n| own.contains(n)));
    }

    /// The value of the key `name` of `part`, if it is said.
    pub(crate) fn said(&self, part: Part, name: &str) -> Option<&Said> {
        self.said.iter().find(|s| s.key.part == part && s.key.name == name)
    }

    /// Whether it is a node on a port.
    pub(crate) fn on_port(&self) -> bool {
        self.said(Part::Dpdk, "device").is_some()
    }

    /// Tunables: name, value, and where it is said.
    pub(crate) fn tunables(&self) -> impl Iterator<Item = (&'static str, String, &Said)> {
        self.said.iter().filter_map(|s| match s.key.means {
            Means::Tunable(t) => Some((t.name, s.value().to_owned(), s)),
            Means::Not(t) => Some((t.name, keys::negated(s.value()), s)),
            _ => None,
        })
    }
}

/// The number of a network: 7 for tcp7.
pub(crate) fn network(net: &str) -> Option<u16> {
    let digits = net.strip_prefix("tcp")?;
    if digits.is_empty() {
        Some(0)
    } else {
        digits.parse().ok().filter(|_| digits == "0" || !digits.starts_with('0'))
    }
}

/// The NID of an NI whose interface has this address.
pub(crate) fn nid_of(ni: &Ni, ip: IpAddr) -> Nid {
    Nid::tcp(ip, network(&ni.net).unwrap_or(0))
}
