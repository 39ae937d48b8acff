//! Gateways: whether they are there, forward, and have the networks that our routes lead to (docs/protocol/upper.md §1.5).
//!
//! ```text
//!           Check              Answered
//!  QUIET ----------> ASKING ------------> TELLING
//!    ^  ^   ping       |  ^       push      |  |
//!    |  |              |  '- Short / ping   |  |
//!    |  '--------------'     once more      |  |
//!    |   Unpushed: it is there              |  |
//!    |   Failed: it is gone                 |  |
//!    '--------------------------------------'  |
//!    |   Told                                  |
//!    '-----------------------------------------'
//!        Untold: it is gone
//! ```
//!
//! A gateway is checked when its first route is added, and then every `alive_router_check_interval`, by one shard: its home. A check is a
//! ping, and a push of our info to those that want it: routers mark a network down of which they hear nothing. What comes of it is
//! told to all shards, and each weighs its routes; so is what a gateway pushes unasked. A route is up while its gateway has answered,
//! forwards, and its NIs on both networks are up, as far as it tells of them. Before the first answer it is down.

use fsm::Fsm;
use smallvec::SmallVec;

use super::Lnet;
use crate::hash::OwnMap;
use crate::lnd::{Config, Cx};

use crate::wire::{NetId, NiStatus, Nid, PingInfo, ping};

/// Networks of a gateway that are kept.
const NETS_MAX: usize = 64;
/// Sinks that are tried for one answer.
const SINKS: u8 = 3;

fsm::fsm! {
    /// A check of a gateway.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Check {
        /// None is under way.
        Quiet,
        /// A ping is on its way.
        Asking,
        /// It has answered, and is being pushed our info.
        Telling,
    }

    /// Its causes of change.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Sign {
        /// The time of the next check has come.
        Check,
        /// Its answer was longer than the sink.
        Short,
        /// It has answered, and is to be told of us.
        Answered,
        /// It has answered, and takes no pushes.
        Unpushed,
        /// The ping has failed.
        Failed,
        /// The push was acknowledged.
        Told,
        /// The push has failed.
        Untold,
    }

    /// Actions on a transition.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Do {
        /// Nothing.
        Nothing,
        /// Ping it.
        Ping,
        /// Push our info to it.
        Push,
        /// Its routes are down.
        Lose,
    }

    table Check + Sign => Do {
        start Quiet;
        else "it is ignored";
        Quiet + Check => Asking, Ping;
        Asking + Short => Asking, Ping;
        Asking + Answered => Telling, Push;
        Asking + Unpushed => Quiet, Nothing;
        Asking + Failed => Quiet, Lose;
        Telling + Told => Quiet, Nothing;
        Telling + Untold => Quiet, Lose;
    }
}

/// The word of a gateway about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// Messages may be given to it to be forwarded.
    forwards: bool,
    /// Its networks, and whether one of its NIs there is up.
    nets: SmallVec<[(NetId, bool); 4]>,
}

impl Said {
    /// What `info` says of the node that is known as `gateway`.
    fn of(gateway: Nid, info: &PingInfo) -> Said {
        let mut said = Said { forwards: info.features & ping::FEAT_RTE_DISABLED == 0, nets: SmallVec::new() };
        for ni in info.nis.iter().chain(&info.large) {
            let up = ni.status == NiStatus::Up;
            // Of the network between us the NI that we send to counts.
            said.forwards &= up || ni.nid != gateway;
            let net = ni.nid.net();
            if let Some((_, any)) = said.nets.iter_mut().find(|(n, _)| *n == net) {
                *any |= up;
            } else if said.nets.len() < NETS_MAX {
                said.nets.push((net, up));
            }
        }
        said
    }
}

/// A gateway.
#[derive(Debug)]
struct Gateway {
    check: Fsm<Check>,
    /// Number of the operation that is on its way.
    serial: Option<u64>,
    /// Sinks tried for this answer.
    sinks: u8,
    /// Time of the next check, in ns; `u64::MAX` where its home has begun one, until it tells.
    next: u64,
    /// Its last word; `None` before the first, and when the last check failed.
    said: Option<Said>,
}

/// The gateways of a shard's routes.
#[derive(Debug)]
pub(super) struct Gateways {
    all: OwnMap<Nid, Gateway>,
    /// The first time that something is due, in ns.
    wake: u64,
}

impl Gateways {
    /// Those of the routes that the configuration begins with.
    pub(super) fn new(cfg: &Config) -> Gateways {
        let mut g = Gateways { all: OwnMap::default(), wake: u64::MAX };
        cfg.routes.iter().for_each(|r| g.added(0, r.gateway));
        g
    }

    /// Time at which a check is due, in ns.
    #[inline]
    pub(super) fn wake(&self) -> u64 {
        self.wake
    }

    /// It has one more route: it is asked at once.
    pub(super) fn added(&mut self, now: u64, nid: Nid) {
        let new = || Gateway { check: Fsm::START, serial: None, sinks: 0, next: now, said: None };
        self.all.entry(nid).or_insert_with(new).next = now;
        self.wake = self.wake.min(now);
    }

    /// It has no route any more.
    pub(super) fn remove(&mut self, nid: Nid) {
        self.all.remove(&nid);
    }

    fn look(&mut self) {
        self.wake = self.all.values().map(|g| g.next).min().unwrap_or(u64::MAX);
    }
}

impl Lnet {
    /// Weighs the routes by a gateway anew.
    pub(super) fn weigh(&mut self, cx: &Cx, gateway: Nid) {
        let said = self.gateways.all.get(&gateway).and_then(|g| g.said.as_ref());
        for row in self.routes.by_gateway(gateway) {
            let there = said.and_then(|s| s.nets.iter().find(|(net, _)| *net == row.route.net));
            row.direct = there.is_some();
            let needs_ni = cx.cfg.avoid_asym_router_failure && (row.direct || row.route.hop == Some(1));
            row.up = said.is_some_and(|s| s.forwards) && (!needs_ni || there.is_some_and(|(_, up)| *up));
        }
    }
}
