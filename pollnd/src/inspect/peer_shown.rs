//! Peers, as `lnetctl peer show` has them: their NIDs, states, credits and figures (docs/lnetctl.md).

use std::collections::{HashMap, HashSet};

use transport::lnet::figures::PeerFigures;
use transport::lnet::{BEST, Cause};
use transport::node::inspect::Inspection;
use transport::wire::{NetId, Nid, ping};

use super::ni_facts::{NO_UDSP, caused, statistics};
use super::router_buffers as router;
use crate::lnetctl::shown::{Peer, PeerHealth, PeerNi, state};

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
        let used = self.nis.iter().map(|f| f.id.nid);
        let unused = self.nids.iter().copied().filter(|n| !self.nis.iter().any(|f| f.id.nid == *n));
        let mut nids: Vec<Nid> = used.chain(unused).collect();
        // The order of its own list, where it told one.
        nids.sort_by_key(|n| self.nids.iter().position(|k| k == n));
        let gateway = nids.iter().filter_map(|n| known.gateways.get(n).copied()).reduce(|a, b| a || b);
        let discovered = self.features != 0;
        let forwards = discovered && self.features & ping::FEAT_RTE_DISABLED == 0;
        let bits = [
            (multi_rail, state::MULTI_RAIL),
            (gateway.is_some() && forwards, state::ROUTER_ENABLED),
            (self.by_hand.is_some(), state::CONFIGURED),
            (discovered, state::DISCOVERED),
            (discovered && self.told, state::UP_TO_DATE),
            (gateway.is_some() && discovered, state::ROUTER_DISCOVERED),
        ];
        let figures = |nid| self.nis.iter().find(|f| f.id.nid == nid);
        let ni = |nid: Nid| peer_ni(nid, figures(nid), credits, (known, gateway));
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
    /// Gateways of ours, and whether they have answered the last check.
    gateways: HashMap<Nid, bool>,
    /// Networks that NIs of ours are on.
    nets: Vec<NetId>,
    /// Router buffers that a peer may hold.
    buffers: i64,
}

impl About {
    /// The state of a peer's NI; `gateway` is whether its node has answered, where that is a gateway of ours. Of others nobody looks,
    /// unless the node routes.
    fn state(&self, nid: Nid, gateway: Option<bool>) -> &'static str {
        let answers = gateway.or(self.routes.then_some(true));
        let up = || self.seen.get(&nid).is_none_or(|s| s.up);
        answers.map_or("NA", |answers| if answers && up() { "up" } else { "down" })
    }
}

fn peer_ni(
    nid: Nid,
    f: Option<&PeerFigures>,
    credits: i64,
    (known, gateway): (&About, Option<bool>),
) -> PeerNi {
    // One behind a router, or on a network that is not ours, has no credits of its own.
    let far = f.is_some_and(|f| f.routed) || !known.nets.contains(&nid.net());
    let (credits, buffers) = if far { (0, 0) } else { (credits, known.buffers) };
    let of = |get: fn(&PeerFigures) -> u32| i64::from(f.map_or(0, get));
    let (used, waiting, most) = (of(|f| f.credits_used), of(|f| f.waiting), of(|f| f.most));
    let (moved, dropped, spans) = f.map(|f| (f.moved, f.dropped, f.spans)).unwrap_or_default();
    PeerNi {
        nid: nid.to_string(),
        udsp: Some(NO_UDSP),
        state: Some(known.state(nid, gateway).into()),
        max_ni_tx_credits: Some(credits),
        available_tx_credits: Some(credits - used - waiting),
        min_tx_credits: Some(credits - most),
        tx_q_num_of_buf: Some(i64::try_from(f.map_or(0, |f| f.waiting_bytes)).unwrap_or(i64::MAX)),
        available_rtr_credits: Some(buffers - of(|f| f.buffers)),
        min_rtr_credits: Some(buffers - of(|f| f.buffers_most)),
        refcount: Some(1 + i64::from(far) + used + waiting),
        statistics: Some(statistics(&moved, &dropped, &spans)),
        sent_stats: Some(moved.sent.into()),
        received_stats: Some(moved.received.into()),
        dropped_stats: Some(dropped.messages.into()),
        health: Some(known.seen.get(&nid).map_or(HEALTHY, |s| s.health)),
    }
}

/// Peers by their primary NIDs, in the order in which they are found.
pub(super) fn peers(front: &Inspection, only: Option<Nid>) -> Result<Vec<Peer>, String> {
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
    let (credits, routes) = (cfg.peer_credits.into(), router::shown(front, false)?.is_some());
    let buffers = cfg.peer_router_credits().into();
    let (_, all_routes) = front.routes(None).map_err(|e| e.to_string())?;
    let gateways = all_routes.iter().map(|r| (r.gateway, r.heard)).collect();
    let nets = cfg.nids().map(|n| n.net()).collect();
    let about = About { seen: well(front)?, routes, buffers, gateways, nets };
    let mut all = all.iter().map(|(primary, known)| known.shown(*primary, credits, &about)).collect();
    once_each(&mut all);
    Ok(all)
}

/// A NID that was found to be another peer's between two lcores' answers, or two pages of one's, is the later one's alone: files name
/// each once.
fn once_each(all: &mut Vec<Peer>) {
    let mut found = HashSet::new();
    for p in all.iter_mut().rev() {
        p.nis.retain(|n| found.insert(n.nid.clone()));
    }
    all.retain(|p| p.nis.iter().any(|n| n.nid == p.primary));
}

#[cfg(test)]
mod tests {
    use transport::lnd::{ByType, Moved};
    use transport::lnet::figures::{Dropped, Spans};
    use transport::wire::ProcessId;

    use super::*;
    use crate::lnetctl::lnetctl_tests;
    use crate::lnetctl::shown::Peers;

    /// Figures of a NID that has credits out, and that is one of `nids` of a peer with these features.
    fn figures(nid: Nid, nids: &[Nid], features: u32) -> PeerFigures {
        PeerFigures {
            id: ProcessId::lustre(nid),
            nids: nids.iter().copied().collect(),
            routed: false,
            features,
            told: true,
            moved: Moved::default(),
            dropped: Dropped::default(),
            spans: Spans::default(),
            credits_used: 2,
            waiting: 1,
            waiting_bytes: 100,
            most: 5,
            buffers: 3,
            buffers_most: 10,
        }
    }

    /// As c-peer-show-routed.yaml of the reference has a gateway: both of its NIs are up, and the one that we have no network with has no
    /// credits.
    #[test]
    fn a_gateway_is_shown_with_both_of_its_networks() {
        let golden: Peers = lnetctl_tests::read("lnetctl/c-peer-show-routed.yaml");
        let golden = golden.peer.iter().find(|p| p.primary == "192.168.80.12@tcp").unwrap();
        let [near, far] = ["192.168.80.12@tcp", "192.168.81.12@tcp1"].map(|n| n.parse::<Nid>().unwrap());
        let of_features = |features| PeerFigures {
            credits_used: 0,
            waiting: 0,
            waiting_bytes: 0,
            most: 1,
            buffers: 0,
            buffers_most: 0,
            ..figures(near, &[near, far], features)
        };
        let mut known = Known::default();
        known.add(&of_features(0x1a));
        let of = |heard| About {
            gateways: [(near, heard)].into(),
            nets: vec![near.net()],
            buffers: 8,
            ..About::default()
        };
        let p = known.shown(near, 8, &of(true));
        assert_eq!((p.multi_rail, p.state), (golden.multi_rail, golden.state));
        let said = |n: &PeerNi| {
            let tx = (n.max_ni_tx_credits, n.available_tx_credits);
            (n.nid.clone(), n.state.clone(), tx, n.available_rtr_credits, n.min_rtr_credits, n.refcount)
        };
        assert_eq!(
            p.nis.iter().map(said).collect::<Vec<_>>(),
            golden.nis.iter().map(said).collect::<Vec<_>>()
        );
        assert_eq!(p.nis[1].min_tx_credits, golden.nis[1].min_tx_credits);
        // One that does not answer, and one that does not forward.
        let states = |p: &Peer| p.nis.iter().map(|n| n.state.clone().unwrap()).collect::<Vec<_>>();
        assert_eq!(states(&known.shown(near, 8, &of(false))), ["down", "down"]);
        let mut idle = Known::default();
        idle.add(&of_features(0x1e));
        assert_eq!(idle.shown(near, 8, &of(true)).state, Some(131_345));
        // A NI of it that it says is down.
        let mut about = of(true);
        about.seen.insert(far, Seen { health: HEALTHY, up: false });
        assert_eq!(states(&known.shown(near, 8, &about)), ["up", "down"]);
    }

    #[test]
    fn a_nid_that_becomes_another_peers_meanwhile_is_shown_once() {
        let ni = |nid: &str| PeerNi { nid: nid.into(), ..PeerNi::default() };
        let peer = |nids: &[&str]| Peer {
            primary: nids[0].into(),
            multi_rail: true,
            state: None,
            nis: nids.iter().map(|n| ni(n)).collect(),
        };
        for (found, left) in [
            (vec![peer(&["b"]), peer(&["a", "b"])], vec![peer(&["a", "b"])]),
            (vec![peer(&["a", "b"]), peer(&["b"])], vec![peer(&["a"]), peer(&["b"])]),
            (vec![peer(&["a", "b"]), peer(&["c"])], vec![peer(&["a", "b"]), peer(&["c"])]),
        ] {
            let mut all = found.clone();
            once_each(&mut all);
            assert_eq!(all, left, "{found:?}");
        }
    }

    #[test]
    fn nids_of_one_peer_are_one_peer() {
        let nid = |n: u8| Nid::tcp([10, 0, 0, n].into(), 0);
        let figures = |n: u8, nids: &[Nid], put: u64| PeerFigures {
            moved: Moved { sent: ByType { put, ..ByType::default() }, ..Moved::default() },
            ..figures(nid(n), nids, if nids.is_empty() { 0 } else { 0x1e })
        };
        let mut known = Known::default();
        let nids = [nid(2), nid(3), nid(4)];
        known.add(&figures(3, &nids, 5));
        known.add(&figures(2, &nids, 7));
        known.add(&figures(3, &nids, 1));
        let ill = PeerHealth { value: 600, ping_count: 3, ..HEALTHY };
        let seen = [(nid(3), Seen { health: ill, up: false })].into();
        let nets = vec![nid(1).net()];
        let mut about = About { seen, routes: false, gateways: HashMap::new(), nets, buffers: 9 };
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
        assert_eq!((n.tx_q_num_of_buf, n.refcount, n.state.as_deref()), (Some(100), Some(4), Some("NA")));
        // Those that wait are missing, as on a kernel.
        assert_eq!((n.available_rtr_credits, n.min_rtr_credits), (Some(6), Some(-1)));
        // Whoever routes tells who is alive, as a kernel does: one that was never seen to fail is.
        let states = |about: &About, gateway| [2, 3, 4].map(|n| about.state(nid(n), gateway));
        assert_eq!(states(&about, None), ["NA"; 3]);
        about.routes = true;
        assert_eq!(states(&about, None), ["up", "down", "up"]);
        // One that has not been asked.
        let mut known = Known::default();
        known.add(&figures(5, &[], 1));
        let p = known.shown(nid(5), 8, &About::default());
        assert_eq!((p.multi_rail, p.state, p.nis.len()), (false, Some(0), 1));
    }
}
