//! A node's account of itself for lnetctl's questions: NIs, peers, statistics, settings (docs/lnetctl.md).

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use transport::lnd::Config;
use transport::lnd::route::RouteParseError;
use transport::lnet::figures::NiFigures;
use transport::lnet::routes::{RouteAsk, RouteView};
use transport::lnet::{BEST, Cause};
use transport::node::inspect::Inspection;
use transport::wire::{Nid, NidParseError};

use super::failure::Failure;
use super::ni_facts::{NO_UDSP, caused, interface, seconds, statistics, tunable};
use super::ni_orders::{self, NetOrder};
use super::peer_orders;
use super::peer_shown::peers;
use super::router_buffers as router;
use super::set_orders::{self, SetOrder};
use super::shared::{Shared, say};
use crate::args::NodeArgs;
use crate::config::checked::cpt_list;
use crate::config::keys::Part;
use crate::config::reload::Live;
use crate::iface;
use crate::lnetctl::routed::RouteShown;
use crate::lnetctl::shown::{Global, LndTunables, LocalNi, Net, NiHealth, NiTunables, NidCpt, NodeStats};

/// Questions.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Ask {
    /// Networks and NIs: a row each network.
    Nets {
        /// Only what makes the same NIs again.
        backup: bool,
    },
    /// Adds NIs.
    AddNet(Box<NetOrder>),
    /// Deletes NIs.
    DelNet(Box<NetOrder>),
    /// Peers: a row each, or the one that has this NID.
    Peers {
        /// One of its NIDs.
        nid: Option<String>,
    },
    /// Adds a peer by hand, or NIDs to one.
    AddPeer {
        /// As `--peer-nids` takes it.
        peer: String,
    },
    /// Deletes a peer, or NIDs of it.
    DelPeer {
        /// The NID that it goes by.
        primary: String,
        /// Those NIDs; none for all of it.
        nids: Vec<String>,
    },
    /// Sets values of NIs.
    SetNet(Box<SetOrder>),
    /// Sets values of peers' NIs.
    SetPeer(Box<SetOrder>),
    /// NIDs that are being recovered: a row each.
    Recovery {
        /// Those of peers; else this node's own.
        peers: bool,
    },
    /// CPTs of NIDs: a row each.
    CptOfNid {
        /// They.
        nids: Vec<String>,
    },
    /// Routes: a row each.
    Routes {},
    /// Adds a route.
    AddRoute {
        /// As `--route` takes it.
        route: String,
    },
    /// Deletes a route.
    DelRoute {
        /// The network that it leads to.
        net: String,
        /// Its gateway.
        gateway: String,
    },
    /// Routing, if the node routes.
    Routing {
        /// With the buffers that it is set to have, and not those that there are.
        settings: bool,
    },
    /// Statistics of the node.
    Stats {},
    /// Counts them from 0 on.
    Reset {},
    /// Settings.
    Global {},
}

/// Figures of NIs over all lcores, and what the lcores say besides.
struct Sum {
    nis: Vec<NiFigures>,
    /// Of NIs that were deleted.
    gone: NiFigures,
    ops: u64,
    waiting: u64,
    counted: Counted,
}

/// Counters of all lcores that have lnetctl's names.
type Counted = HashMap<&'static str, u64>;

fn sum(front: &Inspection) -> Result<Sum, String> {
    let (gone, counted) = (NiFigures::none(), HashMap::new());
    let mut all = Sum { nis: Vec::new(), gone, ops: 0, waiting: 0, counted };
    for lcore in 0..front.lcores() {
        let c = front.counts(lcore).map_err(|e| e.to_string())?;
        c.proto.iter().for_each(|(name, n)| *all.counted.entry(name).or_default() += n);
        all.ops += c.ops;
        all.waiting += c.waiting;
        all.gone = all.gone.and(&c.gone);
        for ni in &c.nis {
            match all.nis.iter_mut().find(|n| n.nid == ni.nid) {
                Some(n) => *n = n.and(ni),
                None => all.nis.push(*ni),
            }
        }
    }
    Ok(all)
}

fn ni_health(f: &NiFigures) -> NiHealth {
    let of = |cause| caused(&f.health.causes, cause);
    NiHealth {
        fatal_error: f.health.fatal.into(),
        value: f.health.value.into(),
        interrupts: of(Cause::LocalInterrupt),
        dropped: of(Cause::LocalDropped),
        aborted: of(Cause::LocalAborted),
        no_route: of(Cause::LocalNoRoute),
        timeouts: of(Cause::LocalTimeout),
        error: of(Cause::LocalError),
        // One of ours that has failed is not pinged: it is well again after a while.
        ping_count: 0,
        next_ping: 0,
    }
}

/// NIDs that are being recovered, of peers or of this node.
fn recovering(front: &Inspection, peers: bool) -> Result<Vec<Nid>, String> {
    if !peers {
        let ill = |n: &NiFigures| n.nid != Nid::LO && n.health.value < BEST;
        return Ok(sum(front)?.nis.into_iter().filter(ill).map(|n| n.nid).collect());
    }
    let mut all = Vec::new();
    let asked = front.peer_nis(|v| {
        // One that several of our NIs speak with is shown for each.
        if v.recovering && !all.contains(&v.nid) {
            all.push(v.nid);
        }
        true
    });
    asked.map(|()| all).map_err(|e| e.to_string())
}

/// The CPTs of NIDs.
fn cpts(front: &Inspection, nids: &[String]) -> Result<Vec<NidCpt>, String> {
    let of = |nid: Nid| NidCpt { nid: nid.to_string(), cpt: front.cpt_of(nid) };
    nids.iter().map(|n| n.parse().map(of).map_err(|e: NidParseError| e.to_string())).collect()
}

/// Messages that an NI may have in flight on an lcore, as configured: the figure of that name is the sum over lcores.
fn credits(cfg: &Config, nid: Nid) -> u32 {
    let own = cfg.nis.iter().find(|n| n.nid == nid).and_then(|n| n.credits);
    own.unwrap_or(cfg.ni_credits)
}

fn local(f: &NiFigures, cfg: &Config, a: &NodeArgs) -> LocalNi {
    let real = f.nid != Nid::LO;
    let of = |name| if real { tunable(cfg, Part::Tunables, name) } else { 0 };
    let interface = if real { interface(a, f.nid) } else { None };
    LocalNi {
        nid: Some(f.nid.to_string()),
        status: Some(if f.health.fatal || f.silent { "down" } else { "up" }.into()),
        interfaces: interface.map(|i| [("0".to_owned(), i)].into()),
        statistics: Some(statistics(&f.moved, &f.dropped, &f.spans)),
        udsp: Some(NO_UDSP),
        sent_stats: Some(f.moved.sent.into()),
        received_stats: Some(f.moved.received.into()),
        dropped_stats: Some(f.dropped.messages.into()),
        // Kernels have none of `lo`.
        health: Some(if real { ni_health(f) } else { NiHealth::default() }),
        tunables: Some(NiTunables {
            peer_timeout: of("peer_timeout"),
            peer_credits: of("peer_credits"),
            peer_buffer_credits: of("peer_buffer_credits"),
            credits: if real { credits(cfg, f.nid).into() } else { 0 },
        }),
        lnd_tunables: real.then(|| LndTunables {
            conns_per_peer: cfg.conns().into(),
            timeout: Some(seconds(cfg.timeout())),
            tos: tunable(cfg, Part::Lnd, "tos"),
        }),
        dev_cpt: Some(-1),
        cpt: Some(cpt_list(a.cpu_pattern.as_deref())),
    }
}

/// Networks, `lo` first, as kernels have them.
fn nets(front: &Inspection, a: &NodeArgs) -> Result<Vec<Net>, String> {
    let cfg = front.config(0).map_err(|e| e.to_string())?;
    let mut nis = sum(front)?.nis;
    nis.sort_by_key(|n| n.nid != Nid::LO);
    let mut all: Vec<Net> = Vec::new();
    for f in &nis {
        let name = f.nid.net().to_string();
        let ni = local(f, &cfg, a);
        match all.iter_mut().find(|n| n.name == name) {
            Some(net) => net.nis.push(ni),
            None => all.push(Net { name, nis: vec![ni] }),
        }
    }
    Ok(all)
}

/// Settings that make the same NIs again. One whose interface would give it another address, or that is on a port, is told by its NID.
fn kept(mut all: Vec<Net>) -> Vec<Net> {
    all.retain(|n| n.name != "lo");
    for ni in all.iter_mut().flat_map(|n| &mut n.nis) {
        let own = ni.nid.as_deref().and_then(|n| n.parse::<Nid>().ok()).and_then(|n| n.ip());
        let by_interface = ni.interfaces.iter().flat_map(|i| i.values()).find_map(|i| iface::address(i));
        ni.backup(own.is_none() || own == by_interface);
    }
    all
}

fn stats(front: &Inspection) -> Result<NodeStats, String> {
    let all = sum(front)?;
    let over = |get: fn(&NiFigures) -> u64| all.nis.iter().chain([&all.gone]).map(get).sum::<u64>();
    let of = |name| all.counted.get(name).copied().unwrap_or(0);
    // Messages that are passed on are neither sent nor received, as kernels count (docs/lnetctl.md).
    let own = |all: u64, passed| all.saturating_sub(of(passed));
    Ok(NodeStats {
        msgs_alloc: over(|n| n.credits_used.into()) + all.waiting,
        msgs_max: over(|n| n.credits_most.into()),
        rst_alloc: all.ops,
        send_count: own(over(|n| n.moved.sent.all()), "forwarded_msgs"),
        resend_count: of("resend_count"),
        response_timeout_count: of("response_timeout_count"),
        local_interrupt_count: of("local_interrupt_count"),
        local_dropped_count: of("local_dropped_count"),
        local_aborted_count: of("local_aborted_count"),
        local_no_route_count: of("local_no_route_count"),
        local_timeout_count: of("local_timeout_count"),
        local_error_count: of("local_error_count"),
        remote_dropped_count: of("remote_dropped_count"),
        remote_error_count: of("remote_error_count"),
        remote_timeout_count: of("remote_timeout_count"),
        network_timeout_count: of("network_timeout_count"),
        failed_resends: of("failed_resends"),
        successful_resends: of("successful_resends"),
        recv_count: own(over(|n| n.moved.received.all()), "forward_rx_msgs"),
        route_count: of("forwarded_msgs"),
        drop_count: over(|n| n.dropped.messages.all()),
        send_length: own(over(|n| n.moved.send_bytes), "forwarded_bytes"),
        recv_length: own(over(|n| n.moved.recv_bytes), "forward_rx_bytes"),
        route_length: of("forwarded_bytes"),
        drop_length: over(|n| n.dropped.bytes),
        ..NodeStats::default()
    })
}

fn routes(front: &Inspection) -> Result<Vec<RouteShown>, String> {
    let (_, all) = front.routes(None).map_err(|e| e.to_string())?;
    let shown = |r: &RouteView| RouteShown {
        state: Some(if r.up { "up" } else { "down" }.into()),
        kind: Some(if r.multi_hop { "multi-hop" } else { "single-hop" }.into()),
        ..RouteShown::of(&r.route())
    };
    Ok(all.iter().map(shown).collect())
}

/// The order of a question about routes.
fn route_order(ask: &Ask) -> Result<RouteAsk, String> {
    match ask {
        Ask::AddRoute { route } => {
            Ok(RouteAsk::Add(route.parse().map_err(|e: RouteParseError| e.to_string())?))
        }
        Ask::DelRoute { net, gateway } => {
            let bad = |e: NidParseError| e.to_string();
            Ok(RouteAsk::Del { net: net.parse().map_err(bad)?, gateway: gateway.parse().map_err(bad)? })
        }
        _ => Err("that is no order about routes".into()),
    }
}

fn change_route(shared: &Shared, ask: &Ask) -> Result<Value, Failure> {
    // A file that is being applied has looked at the routes.
    let _alone = shared.about.live.as_deref().map(Live::alone);
    let (done, _) = shared.front.routes(Some(route_order(ask)?)).map_err(|e| e.to_string())?;
    done.map_err(|e| Failure::numbered(e, e.errno()))?;
    tracing::info!("routes: {ask:?}");
    Ok(json!(null))
}

fn global(cfg: &Config) -> Global {
    let of = |name| tunable(cfg, Part::Global, name);
    Global {
        numa_range: of("numa_range"),
        max_interfaces: of("max_interfaces"),
        discovery: of("discovery"),
        drop_asym_route: of("drop_asym_route"),
        retry_count: of("retry_count"),
        transaction_timeout: of("transaction_timeout"),
        health_sensitivity: of("health_sensitivity"),
        recovery_interval: of("recovery_interval"),
        router_sensitivity: of("router_sensitivity"),
        lnd_timeout: seconds(cfg.lnd_timeout()),
        response_tracking: of("response_tracking"),
        recovery_limit: of("recovery_limit"),
        max_recovery_ping_interval: of("max_recovery_ping_interval"),
    }
}

fn rows<T: Serialize>(s: &mut UnixStream, all: Result<Vec<T>, String>) -> io::Result<Result<Value, Failure>> {
    let all = match all {
        Ok(all) => all,
        Err(e) => return Ok(Err(e.into())),
    };
    for row in &all {
        say(s, &json!(row))?;
    }
    Ok(Ok(json!(all.len())))
}

/// The node's side.
pub(super) fn serve(s: &mut UnixStream, shared: &Shared, ask: &Ask) -> io::Result<Result<Value, Failure>> {
    let front = &shared.front;
    let done = match ask {
        Ask::Nets { backup } => {
            let all = nets(front, &shared.args());
            return rows(s, if *backup { all.map(kept) } else { all });
        }
        Ask::Peers { nid } => match nid.as_deref().map(str::parse::<Nid>).transpose() {
            Ok(nid) => return rows(s, peers(front, nid)),
            Err(e) => Err(e.to_string()),
        },
        Ask::AddNet(order) => return Ok(ni_orders::add(shared, order)),
        Ask::DelNet(order) => return Ok(ni_orders::del(shared, order)),
        Ask::SetNet(order) => return Ok(set_orders::nets(front, order)),
        Ask::SetPeer(order) => {
            let is_there = |nid| peers(front, Some(nid)).map(|all| !all.is_empty());
            return Ok(set_orders::peers(front, order, is_there));
        }
        Ask::Recovery { peers } => {
            return rows(
                s,
                recovering(front, *peers).map(|all| all.iter().map(Nid::to_string).collect::<Vec<_>>()),
            );
        }
        Ask::CptOfNid { nids } => return rows(s, cpts(front, nids)),
        Ask::Routes {} => return rows(s, routes(front)),
        Ask::AddRoute { .. } | Ask::DelRoute { .. } => return Ok(change_route(shared, ask)),
        Ask::AddPeer { peer } => return Ok(peer_orders::add(shared, peer)),
        Ask::DelPeer { primary, nids } => {
            let is_there = |nid| peers(front, Some(nid)).map(|all| !all.is_empty());
            return Ok(peer_orders::del(shared, primary, nids, is_there));
        }
        Ask::Routing { settings } => router::shown(front, *settings).map(|r| json!(r)),
        Ask::Stats {} => stats(front).map(|now| json!(shared.baseline.since(now))),
        Ask::Reset {} => stats(front).map(|now| {
            shared.baseline.reset(now);
            json!(null)
        }),
        Ask::Global {} => front.config(0).map(|c| json!(global(&c))).map_err(|e| e.to_string()),
    };
    Ok(done.map_err(Failure::from))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use transport::lnd::NiConfig;

    use super::*;
    use crate::args::{Cli, Command};

    /// An own export was refused: of two lcores the sum was shown, and read as the number of each.
    #[test]
    fn settings_of_an_ni_are_no_sums_over_lcores() {
        let [own, usual]: [Nid; 2] = ["10.0.0.1@tcp1", "10.0.0.1@tcp"].map(|n| n.parse().unwrap());
        let mut cfg = Config::new(usual, 0);
        let mut ni = NiConfig::new(own);
        ni.credits = Some(300);
        cfg.nis.push(ni);
        let Command::Node(a) = Cli::parse_from(["pollnd", "node", "--nid", "10.0.0.1@tcp"]).command else {
            panic!()
        };
        for (nid, credits) in [(own, 300), (usual, 256)] {
            let lcore = NiFigures { nid, credits, ..NiFigures::none() };
            let shown = local(&lcore.and(&lcore), &cfg, &a.node).tunables.unwrap();
            assert_eq!((shown.credits, shown.peer_credits), (credits.into(), 8), "{nid}");
        }
    }

    #[test]
    fn settings_of_a_node_that_is_told_nothing_are_a_kernel_s() {
        let text = include_str!("../../../testdata/texts/lnetctl/global-show.yaml");
        let shown = crate::lnetctl::shown::GlobalShow { global: global(&Config::new(Nid::LO, 0)) };
        assert_eq!(crate::lnetctl::layout::OLD.text(&shown).unwrap(), text);
    }
}
