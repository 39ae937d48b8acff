//! Figures of LNet for Prometheus: NIs, routes, NIDs of peers and router buffers, as `lnetctl` tells them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use transport::lnet::figures::NiFigures;
use transport::lnet::routes::RouteView;
use transport::lnet::{BEST, BufferClass, PeerNiView, RoutingState};
use transport::node::inspect::{Counts, Inspection};
use transport::wire::Nid;

use crate::inspect::router_buffers::{Sum, sums};

/// Most NIDs of peers that have rows of their own: those that are not well come first.
const NIDS: usize = 1000;

/// A figure that goes up and down: its rows with their labels.
fn gauge<'a, const N: usize>(
    e: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    labels: [&str; N],
    rows: impl Iterator<Item = ([&'a str; N], i64)>,
) -> fmt::Result {
    let mut m = e.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (values, n) in rows {
        let mut pairs = [("", ""); N];
        pairs.iter_mut().zip(labels.iter().zip(values)).for_each(|(p, (l, v))| *p = (*l, v));
        m.encode_family(&pairs)?.encode_gauge(&n)?;
    }
    Ok(())
}

/// Own NIs over all lcores that have answered.
pub(super) fn nis(e: &mut DescriptorEncoder<'_>, answered: &[(&str, &Counts)]) -> fmt::Result {
    let mut all: Vec<(String, NiFigures)> = Vec::new();
    for ni in answered.iter().flat_map(|(_, c)| &c.nis).filter(|ni| ni.nid != Nid::LO) {
        match all.iter_mut().find(|(_, n)| n.nid == ni.nid) {
            Some((_, n)) => *n = n.and(ni),
            None => all.push((ni.nid.to_string(), *ni)),
        }
    }
    let rows = |of: fn(&NiFigures) -> i64| all.iter().map(move |(nid, n)| ([nid.as_str()], of(n)));
    let up = ("ni_up", "Whether the NI is up, as lnetctl net show tells its status");
    gauge(e, up, ["nid"], rows(|n| i64::from(!n.health.fatal && !n.silent)))?;
    let health = ("ni_health", "Health value of the NI, from 0 to 1000");
    gauge(e, health, ["nid"], rows(|n| n.health.value.into()))
}

fn routes(e: &mut DescriptorEncoder<'_>, all: &[RouteView]) -> fmt::Result {
    let named: Vec<_> = all.iter().map(|r| (r.net.to_string(), r.gateway.to_string(), r.up)).collect();
    let rows = named.iter().map(|(net, gateway, up)| ([net.as_str(), gateway.as_str()], i64::from(*up)));
    gauge(e, ("route_up", "Whether the route to net by gateway is up"), ["net", "gateway"], rows)
}

/// NIDs of peers; where there are too many, those that are not well before the others.
fn peer_nis(e: &mut DescriptorEncoder<'_>, all: impl Iterator<Item = PeerNiView>) -> fmt::Result {
    // A NID that several of our NIs speak with comes once for each, and may be another between two pages: the worse counts.
    let mut worst: HashMap<Nid, PeerNiView> = HashMap::new();
    for v in all {
        let seen = worst.entry(v.nid).or_insert(v);
        if (v.up, v.health) < (seen.up, seen.health) {
            *seen = v;
        }
    }
    let of = |v: PeerNiView| ((v.up && v.health == BEST, v.nid.to_string()), (v.primary.to_string(), v));
    let all: BTreeMap<_, _> = worst.into_values().map(of).collect();
    let shown = || all.iter().take(NIDS).map(|((_, nid), (peer, v))| ([nid.as_str(), peer.as_str()], v));
    let labels = ["nid", "peer"];
    let up = (
        "peer_ni_up",
        "Whether the NID is up, as its node says; of 1000 NIDs, those that are not well first",
    );
    gauge(e, up, labels, shown().map(|(l, v)| (l, i64::from(v.up))))?;
    let health = (
        "peer_ni_health",
        "Health value of the NID, from 0 to 1000; of 1000 NIDs, those that are not well first",
    );
    gauge(e, health, labels, shown().map(|(l, v)| (l, v.health.into())))
}

fn router(e: &mut DescriptorEncoder<'_>, (state, sums): (RoutingState, [Sum; 3])) -> fmt::Result {
    let on = matches!(state, RoutingState::On | RoutingState::Stopping);
    let help = "Whether the node passes on messages of others";
    gauge(e, ("routing", help), [], [([], i64::from(on))].into_iter())?;
    if state == RoutingState::Off {
        return Ok(());
    }
    let name = |class| match class {
        BufferClass::Tiny => "tiny",
        BufferClass::Small => "small",
        BufferClass::Large => "large",
    };
    let rows = |of: fn(&Sum) -> i64| sums.iter().map(move |s| ([name(s.0)], of(s)));
    let number = |s: &Sum| i64::try_from(s.1).unwrap_or(i64::MAX);
    let class = ["class"];
    gauge(e, ("router_buffers", "Router buffers, by class"), class, rows(number))?;
    let free = "Router buffers that are free, by class; below 0 it is messages that wait for one";
    gauge(e, ("router_credits", free), class, rows(|s| s.2))?;
    gauge(e, ("router_mincredits", "The least that router_credits was"), class, rows(|s| s.3))
}

/// Figures of routes and peers; those of an lcore that does not answer are left out.
pub(super) fn encode(e: &mut DescriptorEncoder<'_>, front: &Inspection) -> fmt::Result {
    if let Ok((_, all)) = front.routes(None) {
        routes(e, &all)?;
    }
    let mut nids = Vec::new();
    // An lcore that does not answer is told of as such.
    let _ = front.peer_nis(|v| {
        nids.push(*v);
        true
    });
    peer_nis(e, nids.into_iter())?;
    match sums(front) {
        Ok(sums) => router(e, sums),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;
    use transport::lnet::Causes;

    use super::*;

    #[derive(Debug)]
    struct Told;

    fn nid(n: u16) -> Nid {
        Nid::tcp([10, 0, (n >> 8) as u8, n as u8].into(), 0)
    }

    /// NIDs of two peers, the second's not well, and of many more.
    fn views() -> impl Iterator<Item = PeerNiView> {
        (1..2000).map(|n| PeerNiView {
            nid: nid(n),
            primary: nid(n / 2 * 2),
            own: None,
            multi_rail: true,
            up: n != 1998,
            health: if n == 1999 { 600 } else { BEST },
            causes: Causes::default(),
            recovering: false,
            ping_count: 0,
            next_ping: 0,
        })
    }

    impl Collector for Told {
        fn encode(&self, mut e: DescriptorEncoder<'_>) -> fmt::Result {
            let route = |gateway: &str, up| RouteView {
                net: "tcp1".parse().unwrap(),
                gateway: gateway.parse().unwrap(),
                hop: None,
                priority: 0,
                up,
                heard: up,
                multi_hop: false,
            };
            routes(&mut e, &[route("10.0.0.9@tcp", true), route("10.0.0.8@tcp", false)])?;
            // Twice, as where two NIs of ours speak with them, and one is not well any more.
            let later = views().map(|v| match v.nid == nid(5) {
                true => PeerNiView { health: 700, ..v },
                false => v,
            });
            peer_nis(&mut e, views().chain(later))?;
            let sums = BufferClass::ALL.map(|c| (c, 64, if c == BufferClass::Large { -2 } else { 60 }, -3));
            router(&mut e, (RoutingState::On, sums))
        }
    }

    #[test]
    fn what_a_router_s_users_are_alerted_of_is_told_and_bounded() {
        let mut registry = Registry::with_prefix("pollnd");
        registry.register_collector(Box::new(Told));
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        for line in [
            "pollnd_route_up{net=\"tcp1\",gateway=\"10.0.0.9@tcp\"} 1",
            "pollnd_route_up{net=\"tcp1\",gateway=\"10.0.0.8@tcp\"} 0",
            "pollnd_peer_ni_up{nid=\"10.0.7.206@tcp\",peer=\"10.0.7.206@tcp\"} 0",
            "pollnd_peer_ni_health{nid=\"10.0.7.207@tcp\",peer=\"10.0.7.206@tcp\"} 600",
            "pollnd_peer_ni_health{nid=\"10.0.0.5@tcp\",peer=\"10.0.0.4@tcp\"} 700",
            "pollnd_routing 1",
            "pollnd_router_buffers{class=\"tiny\"} 64",
            "pollnd_router_credits{class=\"small\"} 60",
            "pollnd_router_credits{class=\"large\"} -2",
            "pollnd_router_mincredits{class=\"large\"} -3",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in {page}");
        }
        for name in ["pollnd_peer_ni_up{", "pollnd_peer_ni_health{"] {
            let all: Vec<&str> =
                page.lines().filter(|l| l.starts_with(name)).filter_map(|l| l.split(' ').next()).collect();
            let apart: BTreeSet<&str> = all.iter().copied().collect();
            assert_eq!((all.len(), apart.len()), (NIDS, NIDS));
        }
    }
}
