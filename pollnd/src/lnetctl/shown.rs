//! Texts of lnetctl, by its names and in its order (docs/lnetctl.md). A node fills these in; a command leaves out what was not
//! asked for, and prints the rest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The levels of `-v`, as far as they differ: 1 counts and settings, 2 counts by type and health, 4 selection policies and states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Level(pub(crate) u8);

impl Level {
    fn keep<T>(self, from: u8, part: &mut Option<T>) {
        if self.0 < from {
            *part = None;
        }
    }
}

/// `net show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nets {
    /// Networks.
    pub(crate) net: Vec<Net>,
}

/// A network, with our NIs on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Net {
    /// Its name, such as tcp1.
    #[serde(rename = "net type")]
    pub(crate) name: String,
    /// NIs on it.
    #[serde(rename = "local NI(s)")]
    pub(crate) nis: Vec<LocalNi>,
}

/// An NI.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LocalNi {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<String>,
    /// By number, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) interfaces: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) statistics: Option<Statistics>,
    #[serde(rename = "udsp info", skip_serializing_if = "Option::is_none")]
    pub(crate) udsp: Option<UdspInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sent_stats: Option<Messages>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) received_stats: Option<Messages>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dropped_stats: Option<Messages>,
    #[serde(rename = "health stats", skip_serializing_if = "Option::is_none")]
    pub(crate) health: Option<NiHealth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tunables: Option<NiTunables>,
    #[serde(rename = "lnd tunables", skip_serializing_if = "Option::is_none")]
    pub(crate) lnd_tunables: Option<LndTunables>,
    #[serde(rename = "dev cpt", skip_serializing_if = "Option::is_none")]
    pub(crate) dev_cpt: Option<i64>,
    #[serde(rename = "CPT", skip_serializing_if = "Option::is_none")]
    pub(crate) cpt: Option<String>,
}

impl LocalNi {
    /// Leaves out what that level does not show.
    pub(crate) fn at(&mut self, level: Level) {
        level.keep(1, &mut self.statistics);
        level.keep(1, &mut self.tunables);
        level.keep(1, &mut self.lnd_tunables);
        level.keep(1, &mut self.dev_cpt);
        level.keep(1, &mut self.cpt);
        level.keep(2, &mut self.sent_stats);
        level.keep(2, &mut self.received_stats);
        level.keep(2, &mut self.dropped_stats);
        level.keep(2, &mut self.health);
        level.keep(4, &mut self.udsp);
    }

    /// As a kernel has it, a peer may have no more messages in flight than the NI. Files say the node's number for all NIs.
    pub(crate) fn cap(&mut self) {
        if let Some(t) = &mut self.tunables {
            t.peer_credits = t.peer_credits.min(t.credits);
        }
    }

    /// Leaves what makes the same NI again: its interface, where that is enough, or else its NID.
    pub(crate) fn backup(&mut self, by_interface: bool) {
        let interfaces = self.interfaces.take().filter(|_| by_interface);
        let nid = self.nid.take().filter(|_| !by_interface);
        let lnd_tunables = self.lnd_tunables.take().map(|t| LndTunables { timeout: None, ..t });
        let (tunables, cpt) = (self.tunables.take(), self.cpt.take());
        *self = LocalNi { nid, interfaces, tunables, lnd_tunables, cpt, ..LocalNi::default() };
    }
}

/// Messages of an NI or a peer, and times in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Statistics {
    pub(crate) send_count: u64,
    pub(crate) recv_count: u64,
    pub(crate) drop_count: u64,
    pub(crate) put_egress_samples: u64,
    pub(crate) put_egress_min_nsec: u64,
    pub(crate) put_egress_max_nsec: u64,
    pub(crate) put_egress_avg_nsec: u64,
    pub(crate) get_rtt_samples: u64,
    pub(crate) get_rtt_min_nsec: u64,
    pub(crate) get_rtt_max_nsec: u64,
    pub(crate) get_rtt_avg_nsec: u64,
    pub(crate) put_ack_samples: u64,
    pub(crate) put_ack_min_nsec: u64,
    pub(crate) put_ack_max_nsec: u64,
    pub(crate) put_ack_avg_nsec: u64,
}

/// Priorities of selection policies: -1, as there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UdspInfo {
    #[serde(rename = "net priority")]
    pub(crate) net_priority: i64,
    #[serde(rename = "nid priority")]
    pub(crate) nid_priority: i64,
}

/// Messages by type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Messages {
    pub(crate) put: u64,
    pub(crate) get: u64,
    pub(crate) reply: u64,
    pub(crate) ack: u64,
    /// No node sends one as a message of LNet's.
    pub(crate) hello: u64,
}

/// Health of an NI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NiHealth {
    pub(crate) fatal_error: u64,
    #[serde(rename = "health value")]
    pub(crate) value: u64,
    pub(crate) interrupts: u64,
    pub(crate) dropped: u64,
    pub(crate) aborted: u64,
    #[serde(rename = "no route")]
    pub(crate) no_route: u64,
    pub(crate) timeouts: u64,
    pub(crate) error: u64,
    pub(crate) ping_count: u64,
    pub(crate) next_ping: u64,
}

/// Settings of an NI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NiTunables {
    pub(crate) peer_timeout: i64,
    pub(crate) peer_credits: i64,
    pub(crate) peer_buffer_credits: i64,
    pub(crate) credits: i64,
}

/// Settings of the LND.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LndTunables {
    pub(crate) conns_per_peer: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<i64>,
    pub(crate) tos: i64,
}

/// `peer show`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peers {
    pub(crate) peer: Vec<Peer>,
}

/// A peer, with its NIs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peer {
    #[serde(rename = "primary nid")]
    pub(crate) primary: String,
    #[serde(rename = "Multi-Rail")]
    pub(crate) multi_rail: bool,
    /// Bits of [`super::shown::state`].
    #[serde(rename = "peer state", skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<u64>,
    #[serde(rename = "peer ni")]
    pub(crate) nis: Vec<PeerNi>,
}

/// Bits of a peer's state, of those that kernels were seen with (docs/protocol/upper.md §5).
pub(crate) mod state {
    /// It said that it has several NIs, or may have.
    pub(crate) const MULTI_RAIL: u64 = 1;
    /// A gateway of ours that forwards.
    pub(crate) const ROUTER_ENABLED: u64 = 1 << 2;
    /// It was configured by hand.
    pub(crate) const CONFIGURED: u64 = 1 << 3;
    /// It has answered who it is.
    pub(crate) const DISCOVERED: u64 = 1 << 4;
    /// Its NIDs are those that it last told of.
    pub(crate) const UP_TO_DATE: u64 = 1 << 8;
    /// A gateway of ours that has answered who it is.
    pub(crate) const ROUTER_DISCOVERED: u64 = 1 << 17;
}

/// A peer's NI.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PeerNi {
    pub(crate) nid: String,
    #[serde(rename = "udsp info", skip_serializing_if = "Option::is_none")]
    pub(crate) udsp: Option<UdspInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_ni_tx_credits: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) available_tx_credits: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) min_tx_credits: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tx_q_num_of_buf: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) available_rtr_credits: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) min_rtr_credits: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refcount: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) statistics: Option<Statistics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sent_stats: Option<Messages>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) received_stats: Option<Messages>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dropped_stats: Option<Messages>,
    #[serde(rename = "health stats", skip_serializing_if = "Option::is_none")]
    pub(crate) health: Option<PeerHealth>,
}

/// Health of a peer's NI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PeerHealth {
    #[serde(rename = "health value")]
    pub(crate) value: u64,
    pub(crate) dropped: u64,
    pub(crate) timeout: u64,
    pub(crate) error: u64,
    #[serde(rename = "network timeout")]
    pub(crate) network_timeout: u64,
    pub(crate) ping_count: u64,
    pub(crate) next_ping: u64,
}

impl Peer {
    /// Leaves out what that level does not show.
    pub(crate) fn at(&mut self, level: Level) {
        level.keep(4, &mut self.state);
        self.nis.iter_mut().for_each(|n| n.at(level));
    }

    /// Whether it was configured by hand, or anything has been heard of it: of a NID that was only tried nothing is kept.
    pub(crate) fn is_there(&self) -> bool {
        let known = state::MULTI_RAIL | state::CONFIGURED | state::DISCOVERED;
        let heard = |n: &PeerNi| n.statistics.as_ref().is_some_and(|s| s.recv_count > 0);
        self.state.is_some_and(|s| s & known != 0) || self.nis.iter().any(heard)
    }

    /// One that is not Multi-Rail can be made with its primary NID alone, whatever others it has told of.
    fn makeable(&mut self) {
        if !self.multi_rail {
            self.nis.retain(|n| n.nid == self.primary);
        }
    }

    /// Leaves what makes the same peer again.
    pub(crate) fn backup(&mut self) {
        self.makeable();
        self.state = None;
        for n in &mut self.nis {
            *n = PeerNi { nid: std::mem::take(&mut n.nid), ..PeerNi::default() };
        }
    }

    /// As `export` has it, which shows the state and no policies.
    pub(crate) fn exported(&mut self) {
        self.makeable();
        self.nis.iter_mut().for_each(|n| n.udsp = None);
    }
}

impl PeerNi {
    fn at(&mut self, level: Level) {
        for credits in [
            &mut self.max_ni_tx_credits,
            &mut self.available_tx_credits,
            &mut self.min_tx_credits,
            &mut self.tx_q_num_of_buf,
            &mut self.available_rtr_credits,
            &mut self.min_rtr_credits,
            &mut self.refcount,
        ] {
            level.keep(1, credits);
        }
        level.keep(1, &mut self.statistics);
        level.keep(2, &mut self.sent_stats);
        level.keep(2, &mut self.received_stats);
        level.keep(2, &mut self.dropped_stats);
        level.keep(2, &mut self.health);
        level.keep(4, &mut self.udsp);
    }
}

/// `peer list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PeerList {
    #[serde(rename = "peer list")]
    pub(crate) peers: Vec<NidOnly>,
}

/// A NID by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NidOnly {
    pub(crate) nid: String,
}

/// `stats show`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StatsShow {
    pub(crate) statistics: NodeStats,
}

/// Messages of a node: `_alloc` and `_max` now and at most at a time, `_count` so far, `_length` their payload in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeStats {
    pub(crate) msgs_alloc: u64,
    pub(crate) msgs_max: u64,
    pub(crate) rst_alloc: u64,
    pub(crate) errors: u64,
    pub(crate) send_count: u64,
    pub(crate) resend_count: u64,
    pub(crate) response_timeout_count: u64,
    pub(crate) local_interrupt_count: u64,
    pub(crate) local_dropped_count: u64,
    pub(crate) local_aborted_count: u64,
    pub(crate) local_no_route_count: u64,
    pub(crate) local_timeout_count: u64,
    pub(crate) local_error_count: u64,
    pub(crate) remote_dropped_count: u64,
    pub(crate) remote_error_count: u64,
    pub(crate) remote_timeout_count: u64,
    pub(crate) network_timeout_count: u64,
    pub(crate) failed_resends: u64,
    pub(crate) successful_resends: u64,
    pub(crate) recv_count: u64,
    pub(crate) route_count: u64,
    pub(crate) drop_count: u64,
    pub(crate) send_length: u64,
    pub(crate) recv_length: u64,
    pub(crate) route_length: u64,
    pub(crate) drop_length: u64,
}

/// `global show`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GlobalShow {
    pub(crate) global: Global,
}

/// Settings of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Global {
    pub(crate) numa_range: i64,
    pub(crate) max_interfaces: i64,
    pub(crate) discovery: i64,
    pub(crate) drop_asym_route: i64,
    pub(crate) retry_count: i64,
    pub(crate) transaction_timeout: i64,
    pub(crate) health_sensitivity: i64,
    pub(crate) recovery_interval: i64,
    pub(crate) router_sensitivity: i64,
    pub(crate) lnd_timeout: i64,
    pub(crate) response_tracking: i64,
    pub(crate) recovery_limit: i64,
    pub(crate) max_recovery_ping_interval: i64,
}

/// A good answer of `ping` or `discover`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    #[serde(rename = "primary nid")]
    pub(crate) primary: String,
    #[serde(rename = "Multi-Rail")]
    pub(crate) multi_rail: bool,
    pub(crate) peer_ni: Vec<NidOnly>,
}

/// `ping`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pinged {
    pub(crate) ping: Vec<Answer>,
}

/// `discover`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Discovered {
    pub(crate) discover: Vec<Answer>,
}

/// The CPT of a NID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NidCpt {
    pub(crate) nid: String,
    pub(crate) cpt: u32,
}

/// `cpt-of-nid`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CptOfNid {
    #[serde(rename = "cpt-of-nid")]
    pub(crate) all: Vec<NidCpt>,
}
