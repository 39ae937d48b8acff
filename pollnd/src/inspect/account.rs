//! A node's account of itself for lnetctl's questions: NIs, peers, statistics, settings (docs/lnetctl.md).

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use transport::lnd::route::RouteParseError;
use transport::lnd::{ByType, Config, Moved};
use transport::lnet::figures::{Dropped, NiFigures, PeerFigures, Span, Spans};
use transport::lnet::routes::{RouteAsk, RouteView};
use transport::lnet::{BEST, Cause, Causes};
use transport::node::inspect::Inspection;
use transport::wire::{Nid, NidParseError, ping};

use super::failure::Failure;
use super::ni_facts::{interface, seconds, tunable};
use super::ni_orders::{self, NetOrder};
use super::peer_orders;
use super::router_buffers as router;
use super::set_orders::{self, SetOrder};
use super::shared::{Shared, say};
use crate::args::NodeArgs;
use crate::config::checked::cpt_list;
use crate::config::keys::Part;
use crate::config::reload::Live;
use crate::iface;
use crate::lnetctl::routed::RouteShown;
use crate::lnetctl::shown::{
    Global, LndTunables, LocalNi, Messages, Net, NiHealth, NiTunables, NidCpt, NodeStats, Peer, PeerHealth,
    PeerNi, Statistics, UdspInfo, state,
};

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
    Routing {},
    /// Statistics of the node.
    Stats {},
    /// Counts them from 0 on.
    Reset {},
    /// Settings.
    Global {},
}

/// A NID of which nothing is kept has had no failure.
const HEALTHY: PeerHealth = PeerHealth {
    value: BEST as u64,
    dropped: 0,
    timeout: 0,
    error: 0,
    network_timeout: 0,
    ping_count: 0,
    next_ping: 0,
};
/// No policy says anything.
const NO_UDSP: UdspInfo = UdspInfo { net_priority: -1, nid_priority: -1 };

impl From<ByType> for Messages {
    fn from(b: ByType) -> Messages {
        Messages { put: b.put, get: b.get, reply: b.reply, ack: b.ack, hello: 0 }
    }
}

impl Statistics {
    fn of(moved: &Moved, dropped: &Dropped, spans: &Spans) -> Statistics {
        let times = |s: &Span| (s.samples, s.min_ns, s.max_ns, s.mean_ns());
        let (left, got, acked) = (times(&spans.put_egress), times(&spans.get_rtt), times(&spans.put_ack));
        Statistics {
            send_count: moved.sent.all(),
            recv_count: moved.received.all(),
            drop_count: dropped.messages.all(),
            put_egress_samples: left.0,
            put_egress_min_nsec: left.1,
            put_egress_max_nsec: left.2,
            put_egress_avg_nsec: left.3,
            get_rtt_samples: got.0,
            get_rtt_min_nsec: got.1,
            get_rtt_max_nsec: got.2,
            get_rtt_avg_nsec: got.3,
            put_ack_samples: acked.0,
            put_ack_min_nsec: acked.1,
            put_ack_max_nsec: acked.2,
            put_ack_avg_nsec: acked.3,
        }
    }
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

fn caused(causes: &Causes, cause: Cause) -> u64 {
    causes.get(cause as usize).copied().unwrap_or(0)
}

/// State of peers' NIDs. Times are those of the node's clock, in s, as kernels have them since they were booted.
fn well(front: &Inspection) -> Result<HashMap<Nid, Seen>, String> {
    let (mut all, now) = (HashMap::new(), front.now());
    let asked = front.peer_nis(|v| {
        let of = |cause| caused(&v.causes, cause);
        let health = PeerHealth {
            value: v.health.into(),
            dropped: of(Cause::RemoteDropped),
            timeout: of(Cause::RemoteTimeout),
            error: of(Cause::RemoteError),
            network_timeout: of(Cause::NetworkTimeout),
            ping_count: v.ping_count.into(),
            next_ping: if v.next_ping == 0 { 0 } else { (now + v.next_ping) / 1_000_000_000 },
        };
        all.insert(v.nid, Seen { health, up: v.up && v.health == BEST });
        true
    });
    asked.map(|()| all).map_err(|e| e.to_string())
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

fn local(f: &NiFigures, cfg: &Config, a: &NodeArgs) -> LocalNi {
    let real = f.nid != Nid::LO;
    let of = |name| if real { tunable(cfg, Part::Tunables, name) } else { 0 };
    let interface = if real { interface(a, f.nid) } else { None };
    LocalNi {
        nid: Some(f.nid.to_string()),
        status: Some(if f.health.fatal || f.silent { "down" } else { "up" }.into()),
        interfaces: interface.map(|i| [("0".to_owned(), i)].into()),
        statistics: Some(Statistics::of(&f.moved, &f.dropped, &f.spans)),
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
            // An NI may have its own.
            credits: if real { f.credits.into() } else { 0 },
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

/// The NIs of one peer, as far as they are known.
#[derive(Default)]
struct Known {
    features: u32,
    told: bool,
    nis: Vec<PeerFigures>,
    /// It is by hand, and Multi-Rail or not.
    by_hand: Option<bool>,
    /// NIDs that it told of, or that it has by hand.
    nids: Vec<Nid>,
}

impl Known {
    fn add(&mut self, f: &PeerFigures) {
        self.features |= f.features;
        self.told |= f.told;
        if !f.nids.is_empty() {
            self.nids = f.nids.to_vec();
        }
        match self.nis.iter_mut().find(|n| n.id.nid == f.id.nid) {
            // The same NID by another NI of ours, or under another process id.
            Some(n) => {
                n.moved += f.moved;
                n.dropped += f.dropped;
                n.spans += f.spans;
                n.credits_used += f.credits_used;
                n.waiting += f.waiting;
                n.waiting_bytes += f.waiting_bytes;
                n.most = n.most.max(f.most);
                n.buffers += f.buffers;
                n.buffers_most = n.buffers_most.max(f.buffers_most);
            }
            None => self.nis.push(f.clone()),
        }
    }

    fn shown(&self, primary: Nid, credits: i64, known: &About) -> Peer {
        let multi_rail = self.by_hand.unwrap_or(self.features & ping::FEAT_MULTI_RAIL != 0);
        let bits = [
            (multi_rail, state::MULTI_RAIL),
            (self.by_hand.is_some(), state::CONFIGURED),
            (self.features != 0, state::DISCOVERED),
            (self.features != 0 && self.told, state::UP_TO_DATE),
        ];
        let used = self.nis.iter().map(|f| f.id.nid);
        let unused = self.nids.iter().copied().filter(|n| !self.nis.iter().any(|f| f.id.nid == *n));
        let mut nids: Vec<Nid> = used.chain(unused).collect();
        // The order of its own list, where it told one.
        nids.sort_by_key(|n| self.nids.iter().position(|k| k == n));
        let ni = |nid: Nid| peer_ni(nid, self.nis.iter().find(|f| f.id.nid == nid), credits, known);
        Peer {
            primary: primary.to_string(),
            multi_rail,
            state: Some(bits.iter().filter(|b| b.0).map(|b| b.1).sum()),
            nis: nids.into_iter().map(ni).collect(),
        }
    }
}

/// A peer's NID.
struct Seen {
    health: PeerHealth,
    /// It is up as far as it says, and at its best: a router takes it for alive.
    up: bool,
}

/// State of peers' NIDs, and routes by them.
#[derive(Default)]
struct About {
    seen: HashMap<Nid, Seen>,
    /// This node routes: it tells who is alive.
    routes: bool,
    /// Gateways of ours, and whether a route by them is up.
    gateways: HashMap<Nid, bool>,
    /// Router buffers that a peer may hold.
    buffers: i64,
}

impl About {
    /// The state of a peer's NI: of others than gateways nobody looks, unless the node routes.
    fn state(&self, nid: Nid) -> &'static str {
        let alive = self.gateways.get(&nid).copied();
        let alive = alive.or(self.routes.then(|| self.seen.get(&nid).is_none_or(|s| s.up)));
        alive.map_or("NA", |up| if up { "up" } else { "down" })
    }
}

fn peer_ni(nid: Nid, f: Option<&PeerFigures>, credits: i64, known: &About) -> PeerNi {
    // One behind a router has no credits of its own.
    let (credits, buffers) = if f.is_some_and(|f| f.routed) { (0, 0) } else { (credits, known.buffers) };
    let of = |get: fn(&PeerFigures) -> u32| i64::from(f.map_or(0, get));
    let (used, waiting, most) = (of(|f| f.credits_used), of(|f| f.waiting), of(|f| f.most));
    let (moved, dropped, spans) = f.map(|f| (f.moved, f.dropped, f.spans)).unwrap_or_default();
    PeerNi {
        nid: nid.to_string(),
        udsp: Some(NO_UDSP),
        state: Some(known.state(nid).into()),
        max_ni_tx_credits: Some(credits),
        available_tx_credits: Some(credits - used - waiting),
        min_tx_credits: Some(credits - most),
        tx_q_num_of_buf: Some(i64::try_from(f.map_or(0, |f| f.waiting_bytes)).unwrap_or(i64::MAX)),
        available_rtr_credits: Some(buffers - of(|f| f.buffers)),
        min_rtr_credits: Some(buffers - of(|f| f.buffers_most)),
        refcount: Some(1 + used + waiting),
        statistics: Some(Statistics::of(&moved, &dropped, &spans)),
        sent_stats: Some(moved.sent.into()),
        received_stats: Some(moved.received.into()),
        dropped_stats: Some(dropped.messages.into()),
        health: Some(known.seen.get(&nid).map_or(HEALTHY, |s| s.health)),
    }
}

/// Peers by their primary NIDs, in the order in which they are found.
fn peers(front: &Inspection, only: Option<Nid>) -> Result<Vec<Peer>, String> {
    let cfg = front.config(0).map_err(|e| e.to_string())?;
    let (mut all, mut at): (Vec<(Nid, Known)>, HashMap<Nid, usize>) = Default::default();
    let asked = front.peer_figures(|f| {
        if only.is_none_or(|o| o == f.id.nid || f.nids.contains(&o)) {
            let primary = f.nids.first().copied().unwrap_or(f.id.nid);
            let place = *at.entry(primary).or_insert_with(|| {
                all.push((primary, Known::default()));
                all.len() - 1
            });
            if let Some((_, known)) = all.get_mut(place) {
                known.add(f);
            }
        }
        true
    });
    asked.map_err(|e| e.to_string())?;
    for hand in front.by_hand(None).map_err(|e| e.to_string())?.1 {
        let Some(primary) = hand.primary().filter(|_| only.is_none_or(|o| hand.nids.contains(&o))) else {
            continue;
        };
        let place = *at.entry(primary).or_insert_with(|| {
            all.push((primary, Known::default()));
            all.len() - 1
        });
        if let Some((_, known)) = all.get_mut(place) {
            (known.by_hand, known.nids) = (Some(hand.multi_rail), hand.nids);
        }
    }
    let (credits, routes) = (cfg.peer_credits.into(), router::shown(front)?.is_some());
    let buffers = cfg.peer_router_credits().into();
    let mut about = About { seen: well(front)?, routes, buffers, gateways: HashMap::new() };
    for r in front.routes(None).map_err(|e| e.to_string())?.1 {
        *about.gateways.entry(r.gateway).or_default() |= r.up;
    }
    Ok(all.iter().map(|(primary, known)| known.shown(*primary, credits, &about)).collect())
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
        Ask::Routing {} => router::shown(front).map(|r| json!(r)),
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
    use super::*;

    #[test]
    fn settings_of_a_node_that_is_told_nothing_are_a_kernel_s() {
        let text = include_str!("../../../testdata/texts/lnetctl/global-show.yaml");
        let shown = crate::lnetctl::shown::GlobalShow { global: global(&Config::new(Nid::LO, 0)) };
        assert_eq!(crate::lnetctl::layout::OLD.text(&shown).unwrap(), text);
    }

    #[test]
    fn nids_of_one_peer_are_one_peer() {
        let nid = |n: u8| Nid::tcp([10, 0, 0, n].into(), 0);
        let figures = |n: u8, nids: &[Nid], put: u64| PeerFigures {
            id: transport::wire::ProcessId::lustre(nid(n)),
            nids: nids.iter().copied().collect(),
            routed: false,
            features: if nids.is_empty() { 0 } else { 0x1e },
            told: true,
            moved: Moved { sent: ByType { put, ..ByType::default() }, ..Moved::default() },
            dropped: Dropped::default(),
            spans: Spans::default(),
            credits_used: 2,
            waiting: 1,
            waiting_bytes: 100,
            most: 5,
            buffers: 3,
            buffers_most: 10,
        };
        let mut known = Known::default();
        let nids = [nid(2), nid(3), nid(4)];
        known.add(&figures(3, &nids, 5));
        known.add(&figures(2, &nids, 7));
        known.add(&figures(3, &nids, 1));
        let ill = PeerHealth { value: 600, ping_count: 3, ..HEALTHY };
        let seen = [(nid(3), Seen { health: ill, up: false })].into();
        let mut about = About { seen, routes: false, gateways: [(nid(2), true)].into(), buffers: 9 };
        let p = known.shown(nid(2), 8, &about);
        assert_eq!([0, 1].map(|at: usize| p.nis[at].health), [Some(HEALTHY), Some(ill)]);
        assert_eq!((&*p.primary, p.multi_rail, p.state), ("10.0.0.2@tcp", true, Some(273)));
        let shown: Vec<_> = p.nis.iter().map(|n| (&*n.nid, n.sent_stats.unwrap().put)).collect();
        assert_eq!(shown, [("10.0.0.2@tcp", 7), ("10.0.0.3@tcp", 6), ("10.0.0.4@tcp", 0)]);
        let n = &p.nis[0];
        assert_eq!(
            (n.max_ni_tx_credits, n.available_tx_credits, n.min_tx_credits),
            (Some(8), Some(5), Some(3))
        );
        assert_eq!((n.tx_q_num_of_buf, n.refcount, n.state.as_deref()), (Some(100), Some(4), Some("up")));
        // Those that wait are missing, as on a kernel.
        assert_eq!((n.available_rtr_credits, n.min_rtr_credits), (Some(6), Some(-1)));
        // Whoever routes tells who is alive, as a kernel does: one that was never seen to fail is.
        let states = |about: &About| [2, 3, 4].map(|n| about.state(nid(n)));
        assert_eq!(states(&about), ["up", "NA", "NA"]);
        about.routes = true;
        assert_eq!(states(&about), ["up", "down", "up"]);
        // One that has not been asked.
        let mut known = Known::default();
        known.add(&figures(5, &[], 1));
        let p = known.shown(nid(5), 8, &About::default());
        assert_eq!((p.multi_rail, p.state, p.nis.len()), (false, Some(0), 1));
    }
}
