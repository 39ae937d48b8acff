//! Routes: the gateways that lead to networks which no NI of ours is on (docs/protocol/upper.md §1.5, docs/protocol/lnet.md §8).
//!
//! Every shard has the same table, and is told the same of the gateways (`transport/src/lnet/gateways.rs`). Of routes that are up the one with the
//! lowest priority is taken, then the one with the fewest hops; those that are equal take turns.
//!
//! A gateway is not given what is for a NID of its own on another network: it takes that for an error of ours, and ends the set
//! (docs/protocol/lnet.md §5). Anybody may name such a NID as the source of a message that we answer.

use smallvec::SmallVec;

use super::Lnet;
use super::hop::ni_to_gateway;
use crate::hash::OwnMap;
use crate::lnd::route::{Route, RouteError};
use crate::lnd::{Config, Cx, NiId, ROUTES_MAX};
use crate::wire::{NetId, NiStatus, Nid, PingInfo, ProcessId, Version, ping};

/// Networks of a gateway that are kept, and NIDs on them.
const NETS_MAX: usize = 64;

/// Orders about routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteAsk {
    /// One more. Its gateway is asked at once.
    Add(Route),
    /// The one to the same network by the same gateway has these hops and this priority from now on. It stays up or down as its gateway's word has it,
    /// so no message is without it.
    Set(Route),
    /// One less.
    Del {
        /// The network that it leads to.
        net: NetId,
        /// Its gateway.
        gateway: Nid,
    },
}

/// A route, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteView {
    /// The network that it leads to.
    pub net: NetId,
    /// Its gateway.
    pub gateway: Nid,
    /// Networks between, where it was said.
    pub hop: Option<u8>,
    /// Priority; the lowest is taken first.
    pub priority: u32,
    /// Messages may take it.
    pub up: bool,
    /// Its gateway has answered the last check.
    pub heard: bool,
    /// Its gateway is not on the network that it leads to, as far as it has told. That it was said to be (a hop of 1) changes nothing.
    pub multi_hop: bool,
}

impl RouteView {
    /// It, as a configuration has it.
    pub fn route(&self) -> Route {
        Route { net: self.net, gateway: self.gateway, hop: self.hop, priority: self.priority }
    }
}

/// The word of a gateway about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// Messages may be given to it to be forwarded.
    forwards: bool,
    /// Its networks, and whether one of its NIs there is up.
    nets: SmallVec<[(NetId, bool); 4]>,
    /// Its NIDs on networks other than that between us.
    far: SmallVec<[Nid; 2]>,
}

impl Said {
    /// Takes from `info` all that it says of the node that is known as `gateway`.
    pub(super) fn of(gateway: Nid, info: &PingInfo) -> Said {
        let forwards = info.features & ping::FEAT_RTE_DISABLED == 0;
        let mut said = Said { forwards, nets: SmallVec::new(), far: SmallVec::new() };
        for ni in info.nis.iter().chain(&info.large) {
            let up = ni.status == NiStatus::Up;
            // Of the network between us the NI that we send to counts.
            said.forwards &= up || ni.nid != gateway;
            let net = ni.nid.net();
            if net != gateway.net() && said.far.len() < NETS_MAX {
                said.far.push(ni.nid);
            }
            if let Some((_, any)) = said.nets.iter_mut().find(|(n, _)| *n == net) {
                *any |= up;
            } else if said.nets.len() < NETS_MAX {
                said.nets.push((net, up));
            }
        }
        said
    }
}

/// A route, and whether it is up.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) route: Route,
    pub(super) up: bool,
    /// The gateway is on the network.
    direct: bool,
    /// The gateway's own NIDs on the network.
    own: SmallVec<[Nid; 1]>,
    /// Its last turn.
    turn: u64,
}

impl Row {
    /// Whether its gateway can be told of `target`: a NID of 20 bytes has no place in headers of versions before 4, which gateways on
    /// IPv4 are spoken to in unless `names_long`.
    fn can_name(&self, target: Nid, names_long: bool) -> bool {
        names_long || self.route.gateway.is_large() || !target.is_large()
    }

    /// Whether `nid` is the gateway's own.
    pub(super) fn is_of_gateway(&self, nid: Nid) -> bool {
        self.own.contains(&nid)
    }

    /// Whether its gateway may be given a message for `target`.
    pub(super) fn takes(&self, target: Nid) -> bool {
        self.up && !self.is_of_gateway(target)
    }
}

/// The routes of a shard.
#[derive(Debug, Default)]
pub(super) struct Routes {
    by_net: OwnMap<NetId, Vec<Row>>,
    /// In the order in which they came.
    all: Vec<(NetId, Nid)>,
    turn: u64,
    /// Gateways on IPv4 are spoken to in version 4, too.
    names_long: bool,
}

impl Routes {
    /// One more, that is down.
    pub(super) fn add(&mut self, route: Route) {
        self.all.push((route.net, route.gateway));
        let row = Row { route, up: false, direct: false, own: SmallVec::new(), turn: 0 };
        self.by_net.entry(route.net).or_default().push(row);
    }

    /// One less; gives whether it was there.
    pub(super) fn del(&mut self, net: NetId, gateway: Nid) -> bool {
        let before = self.all.len();
        self.all.retain(|one| *one != (net, gateway));
        if let Some(rows) = self.by_net.get_mut(&net) {
            rows.retain(|r| r.route.gateway != gateway);
            if rows.is_empty() {
                self.by_net.remove(&net);
            }
        }
        self.all.len() < before
    }

    /// Gives the route to the same network by the same gateway these hops and this priority; gives whether it is there.
    fn set(&mut self, route: Route) -> bool {
        let rows = self.by_net.get_mut(&route.net).into_iter().flatten();
        let there = rows.filter(|r| r.route.gateway == route.gateway);
        there.map(|row| row.route = route).count() > 0
    }

    /// Routes, in the order in which they came.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Row> + '_ {
        let row = |(net, gateway): &(NetId, Nid)| {
            self.by_net.get(net)?.iter().find(|r| r.route.gateway == *gateway)
        };
        self.all.iter().filter_map(row)
    }

    fn by_gateway(&mut self, gateway: Nid) -> impl Iterator<Item = &mut Row> + '_ {
        self.by_net.values_mut().flatten().filter(move |r| r.route.gateway == gateway)
    }

    /// Weighs the routes by a gateway, which has said that, or has not answered (upper.md §1.5). Those whose gateway is on the network
    /// itself need an NI there that is up, unless `avoid_asym_router_failure` is off. Where one is does not change while it is silent.
    /// Gives whether one was up and is not any more.
    pub(super) fn weigh(
        &mut self,
        gateway: Nid,
        said: Option<&Said>,
        avoid_asym_router_failure: bool,
    ) -> bool {
        let mut lost = false;
        for row in self.by_gateway(gateway) {
            let there = said.and_then(|s| s.nets.iter().find(|(net, _)| *net == row.route.net));
            let own = said.map(|s| s.far.iter().copied().filter(|n| n.net() == row.route.net).collect());
            row.own = own.unwrap_or_default();
            row.direct = if said.is_some() { there.is_some() } else { row.direct };
            let needs_ni = avoid_asym_router_failure && (row.direct || row.route.hop == Some(1));
            let up = said.is_some_and(|s| s.forwards) && (!needs_ni || there.is_some_and(|(_, up)| *up));
            lost |= std::mem::replace(&mut row.up, up) && !up;
        }
        lost
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether any route leads to the network, up or not.
    pub(super) fn lead_to(&self, net: NetId) -> bool {
        self.by_net.contains_key(&net)
    }

    /// Gateways of the routes to the network that are up.
    pub(super) fn up_to(&self, net: NetId) -> impl Iterator<Item = Nid> + '_ {
        self.by_net.get(&net).into_iter().flatten().filter(|r| r.up).map(|r| r.route.gateway)
    }

    /// Gateways of the routes that are up and may be given a message for `target`.
    pub(super) fn takers(&self, target: Nid) -> impl Iterator<Item = Nid> + '_ {
        let rows = self.by_net.get(&target.net()).into_iter().flatten();
        rows.filter(move |r| r.takes(target)).map(|r| r.route.gateway)
    }

    /// The gateway whose own NID `target` is, by a route that is up.
    pub(super) fn gateway_of(&self, target: Nid) -> Option<Nid> {
        let mut rows = self.by_net.get(&target.net())?.iter();
        rows.find(|r| r.up && r.is_of_gateway(target)).map(|r| r.route.gateway)
    }

    /// Routes to the network of `target` are up, and none of their gateways can be told of it.
    pub(super) fn cannot_name(&self, target: Nid) -> bool {
        let up = || self.by_net.get(&target.net()).into_iter().flatten().filter(|r| r.up);
        up().next().is_some() && !up().any(|r| r.can_name(target, self.names_long))
    }

    /// The route to the network by that gateway.
    pub(super) fn get(&self, net: NetId, gateway: Nid) -> Option<&Row> {
        self.by_net.get(&net)?.iter().find(|r| r.route.gateway == gateway)
    }

    /// Whether the node is a gateway of ours.
    pub(super) fn is_gateway(&self, nid: Nid) -> bool {
        self.all.iter().any(|(_, gateway)| *gateway == nid)
    }

    /// The gateway for a message to `target`: of the routes that are up, whose gateways `may` be taken, the best one whose turn it is.
    pub(super) fn choose(&mut self, target: Nid, may: impl Fn(Nid) -> bool) -> Option<Nid> {
        let rows = self.by_net.get_mut(&target.net())?;
        let names_long = self.names_long;
        let fits = |r: &&mut Row| r.can_name(target, names_long);
        let able = rows.iter_mut().filter(|r| r.takes(target) && may(r.route.gateway)).filter(fits);
        let best = able.min_by_key(|r| (r.route.priority, r.route.hops(), r.turn))?;
        self.turn += 1;
        best.turn = self.turn;
        Some(best.route.gateway)
    }
}

impl Lnet {
    /// Routes that the configuration begins with.
    pub(super) fn first_routes(cfg: &Config) -> Routes {
        let mut routes = Routes { names_long: cfg.version == Some(Version::V4), ..Routes::default() };
        cfg.all_routes().into_iter().take(ROUTES_MAX).for_each(|r| routes.add(r));
        routes
    }

    /// Adds, changes or deletes a route.
    ///
    /// # Errors
    /// [`RouteError`]
    pub(crate) fn route(&mut self, cx: &Cx, ask: RouteAsk) -> Result<(), RouteError> {
        match ask {
            RouteAsk::Add(route) => {
                let others: Vec<Route> = self.routes.iter().map(|r| r.route).collect();
                let nids: Vec<Nid> = cx.cfg.nids().collect();
                route.check(&nids, others.iter())?;
                self.routes.add(route);
                if self.gateways.added(cx.now, route.gateway) {
                    self.ask_home(cx, route.gateway);
                }
                self.weigh(&cx.cfg, route.gateway);
            }
            RouteAsk::Set(route) => {
                let Route { net, gateway, hop, .. } = route;
                if hop == Some(0) {
                    return Err(RouteError::Hop);
                }
                if !self.routes.set(route) {
                    return Err(RouteError::Unknown { net, gateway });
                }
                // One hop says that the gateway is on the network.
                self.weigh(&cx.cfg, gateway);
            }
            RouteAsk::Del { net, gateway } => {
                if !self.routes.del(net, gateway) {
                    return Err(RouteError::Unknown { net, gateway });
                }
                self.questions_lost(gateway, u64::MAX, false);
                if !self.routes.is_gateway(gateway) {
                    self.gateways.remove(gateway);
                }
            }
        }
        Ok(())
    }

    /// Deletes the routes whose gateways no NI leads to any more, as kernels do with the last NI of a network.
    pub(super) fn end_routes(&mut self) {
        let lost = |r: &&Row| !self.nis.iter().any(|n| !n.gone && n.reaches(r.route.gateway));
        let lost: Vec<Route> = self.routes.iter().filter(lost).map(|r| r.route).collect();
        for Route { net, gateway, .. } in lost {
            self.routes.del(net, gateway);
            self.gateways.remove(gateway);
        }
    }

    /// The routes, in the order in which they came.
    pub(crate) fn routes(&self) -> impl Iterator<Item = RouteView> + '_ {
        self.routes.iter().map(|r| {
            let Route { net, gateway, hop, priority } = r.route;
            let heard = self.gateways.has_answered(gateway);
            RouteView { net, gateway, hop, priority, up: r.up, heard, multi_hop: !r.direct }
        })
    }

    /// The gateway for a message to `target`, by an NI of those that it may leave by; not the node that `but` is a NID of.
    pub(super) fn gateway_to(
        &mut self,
        target: Nid,
        but: Option<Nid>,
        may: impl Fn(NiId, Nid) -> bool,
    ) -> Option<(NiId, ProcessId)> {
        if self.routes.is_empty() {
            return None;
        }
        let (nis, aliases) = (&self.nis, &self.aliases);
        let other = |g: Nid| but.is_none_or(|but| !aliases.are_one(g, but));
        let gateway = self.routes.choose(target, |g| other(g) && ni_to_gateway(nis, g, &may).is_some())?;
        let id = ni_to_gateway(nis, gateway, &may)?;
        let turn = self.rails.turn();
        if let Some(ni) = self.nis.get_mut(id.index()) {
            ni.used = turn;
        }
        Some((id, ProcessId::lustre(gateway)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(routes: &[&str]) -> Routes {
        let mut t = Routes::default();
        for r in routes {
            t.add(r.parse().unwrap());
        }
        t.by_net.values_mut().flatten().for_each(|r| r.up = true);
        t
    }

    fn turns(t: &mut Routes, to: &str, n: usize) -> String {
        let last = |nid: Nid| nid.ip().unwrap().to_string().chars().last().unwrap();
        (0..n).map(|_| t.choose(to.parse().unwrap(), |_| true).map_or('-', last)).collect()
    }

    #[test]
    fn the_lowest_priority_then_the_fewest_hops_then_in_turn() {
        let mut t = table(&[
            "tcp1 10.0.0.1@tcp 1 1",
            "tcp1 10.0.0.2@tcp",
            "tcp1 10.0.0.3@tcp 2",
            "tcp1 10.0.0.4@tcp 1",
            "tcp2 10.0.0.5@tcp 9 9",
        ]);
        assert_eq!(turns(&mut t, "10.1.0.1@tcp1", 5), "24242");
        assert_eq!(turns(&mut t, "10.1.0.1@tcp2", 2), "55");
        assert_eq!(turns(&mut t, "10.1.0.1@tcp3", 1), "-");
        // Whoever is down is passed over, and takes its turn again when it is back.
        for (down, seen) in [(2, "44"), (4, "33"), (3, "11"), (1, "--")] {
            let gateway: Nid = format!("10.0.0.{down}@tcp").parse().unwrap();
            t.by_gateway(gateway).for_each(|r| r.up = false);
            assert_eq!(turns(&mut t, "10.1.0.1@tcp1", 2), seen);
        }
        assert!(t.lead_to("tcp1".parse().unwrap()));
    }

    #[test]
    fn a_long_nid_goes_by_a_gateway_that_can_name_it() {
        let mut t = table(&["tcp1 10.0.0.1@tcp", "tcp1 fd00::2@tcp"]);
        assert_eq!(turns(&mut t, "fd01::1@tcp1", 3), "222");
        assert_eq!(turns(&mut t, "10.1.0.1@tcp1", 4), "1212");
        t.names_long = true;
        assert_eq!(turns(&mut t, "fd01::1@tcp1", 4), "1212", "version 4 can");
    }
}
