//! Routing on and off, and what peers are told of it (docs/protocol/upper.md §1.4, §1.5; the states: `enabling`).
//!
//! While routing is on, a network from which no ping came for as long as two checks of a user take is down: all its NIs are said to
//! be, and up with its next ping; peers are pushed each change, with the sequence number that they know. Only pings count, those for
//! other nodes too: were it any message, the ACK of the push that a network is down would bring it up, again and again.
//!
//! One shard, the first, decides, and tells the others; those tell it what they have heard, once a second, or at once where a
//! network was down.

use fsm::Fsm;

use super::Lnet;
use super::buffers::{BufferClass, Buffers};
use super::enabling::{Act, HeardAt, NiSet, RoutingAsk, RoutingState, RoutingView, Step, Told};
use super::remote::Body;
use crate::lnd::config::SEC;
use crate::lnd::{Config, Cx, Lnd, NIS_MAX, NiId};
use crate::stream::ShardId;
use crate::wire::ping;

/// Time between two looks at what was heard, in ns.
const LOOK: u64 = SEC;
/// STOPPING ends after so many times as long as it lasts at least.
const PATIENCE: u64 = 3;
/// The shard that decides.
const FIRST: ShardId = ShardId(0);

/// Part of the shard that decides.
#[derive(Debug)]
struct Decider {
    state: Fsm<RoutingState>,
    /// The state lasts until then at least, and until then at most, in ns.
    least: u64,
    most: u64,
    heard_at: HeardAt,
    /// Messages that other shards have on their way through.
    held: Vec<u32>,
}

/// Routing on one shard.
#[derive(Debug)]
pub(super) struct Routing {
    told: Told,
    /// By messages of this shard's peers.
    heard_at: HeardAt,
    /// Of those that were down, the ones that the decider has been told of.
    revived: NiSet,
    look_at: u64,
    /// Only on the first shard.
    decider: Option<Box<Decider>>,
    /// It is to begin with the first input.
    begins: bool,
}

impl Routing {
    pub(super) fn new(cfg: &Config) -> Routing {
        let first = cfg.shards.me == FIRST;
        let decider = || {
            Box::new(Decider {
                state: Fsm::START,
                least: 0,
                most: u64::MAX,
                heard_at: [0; NIS_MAX],
                held: vec![0; usize::from(cfg.shards.count.max(1))],
            })
        };
        Routing {
            told: Told { state: RoutingState::Off, down: NiSet::default(), asked: cfg.routing.buffers },
            heard_at: [0; NIS_MAX],
            revived: NiSet::default(),
            look_at: u64::MAX,
            decider: first.then(decider),
            begins: first && cfg.routing.forwarding,
        }
    }

    /// Whether messages for other nodes are passed on.
    #[inline]
    pub(super) fn forwards(&self) -> bool {
        self.told.state.forwards()
    }

    /// Feature bits, where a node that does not route has these.
    pub(super) fn features(&self, own: u32) -> u32 {
        if self.told.state == RoutingState::On { own & !ping::FEAT_RTE_DISABLED } else { own }
    }

    /// Whether it is noted what is heard.
    #[inline]
    pub(super) fn listens(&self) -> bool {
        self.told.state == RoutingState::On
    }

    /// Whether the NI's network is silent.
    pub(super) fn is_down(&self, ni: NiId) -> bool {
        self.told.down.has(ni)
    }

    /// Time at which there is something to look at, in ns.
    pub(super) fn wake(&self) -> u64 {
        if self.begins { 0 } else { self.look_at }
    }

    fn view(&self, buffers: &Buffers) -> RoutingView {
        RoutingView { state: self.told.state, asked: self.told.asked, buffers: buffers.views() }
    }
}

impl Lnet {
    /// Does what is asked about routing.
    pub(crate) fn route_ask<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], ask: RoutingAsk) {
        if self.routing.decider.is_none() {
            return self.post(FIRST, Body::RoutingAsk(ask));
        }
        match ask {
            RoutingAsk::Enable => self.routing_step(cx, lnds, Step::Enable),
            RoutingAsk::Disable => {
                self.routing.begins = false;
                self.routing_step(cx, lnds, Step::Disable);
            }
            RoutingAsk::Buffers(class, n) => {
                let mut told = self.routing.told;
                if let Some(asked) = told.asked.get_mut(class as usize) {
                    *asked = n;
                }
                self.tell_routing(cx, lnds, told, false);
            }
        }
    }

    /// The configuration has changed. All shards hear of it, and the first one decides.
    pub(super) fn routing_tuned<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) {
        if self.routing.decider.is_none() {
            return;
        }
        let asked = cx.cfg.routing;
        for (class, n) in BufferClass::ALL.into_iter().zip(asked.buffers) {
            if self.routing.told.asked.get(class as usize) != Some(&n) {
                self.route_ask(cx, lnds, RoutingAsk::Buffers(class, n));
            }
        }
        // One that has not begun yet does as it was configured.
        let routes = self.routing.told.state.goes_on() || self.routing.begins;
        match asked.forwarding {
            true if !routes => self.route_ask(cx, lnds, RoutingAsk::Enable),
            false if routes => self.route_ask(cx, lnds, RoutingAsk::Disable),
            _ => {}
        }
    }

    /// Routing as it is.
    pub(crate) fn routing_view(&self) -> RoutingView {
        self.routing.view(&self.buffers)
    }

    fn routing_step<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], step: Step) {
        let Some(d) = &mut self.routing.decider else { return };
        let Some(act) = d.state.apply(step) else { return };
        let (time, state) = (cx.cfg.router_check_time(), d.state.get());
        (d.least, d.most) = match state {
            RoutingState::Off | RoutingState::On => (u64::MAX, u64::MAX),
            RoutingState::Starting => (u64::MAX, cx.now.saturating_add(time)),
            RoutingState::Stopping => {
                (cx.now.saturating_add(time), cx.now.saturating_add(time.saturating_mul(PATIENCE)))
            }
        };
        if state == RoutingState::On {
            d.heard_at = [cx.now; NIS_MAX];
        }
        // Nobody watches the networks of a node that does not route.
        let down = if state == RoutingState::On { self.routing.told.down } else { NiSet::default() };
        let told = Told { state, down, ..self.routing.told };
        self.tell_routing(cx, lnds, told, act == Act::Push);
        self.look_in_time(cx);
    }

    /// Looks when the state may end.
    fn look_in_time(&mut self, cx: &Cx) {
        let ends = self.routing.decider.iter().flat_map(|d| [d.least, d.most]).filter(|t| *t > cx.now);
        self.routing.look_at = ends.fold(self.routing.look_at, u64::min);
    }

    /// Routing is another, on all shards; peers are pushed our info if `push`.
    fn tell_routing<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], told: Told, push: bool) {
        self.post_all(cx, || Body::Routing(told, push));
        self.routing_told(cx, lnds, told, push);
    }

    /// Routing is another, says the shard that decides.
    pub(super) fn routing_told<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], told: Told, push: bool) {
        self.takes_routing(cx, told, push);
        (cx.cfg.routing.buffers, cx.cfg.routing.forwarding) =
            (told.asked, told.state.goes_on() || self.routing.begins);
        if told.state != RoutingState::Off {
            self.buffers.resize(&cx.cfg, cx.cfg.routing.buffers());
            self.routing.look_at = self.routing.look_at.min(cx.now + LOOK);
        } else {
            self.routing.look_at = u64::MAX;
            self.buffers.resize(&cx.cfg, [0; 3]);
        }
        self.look_at_lines(cx, lnds);
    }

    fn takes_routing(&mut self, cx: &Cx, told: Told, push: bool) {
        self.routing.told = told;
        self.routing.revived = NiSet::default();
        self.renew_info(&cx.cfg);
        if push {
            self.discovery.info_changed(cx.cfg.features());
        }
    }

    /// A ping was received by the NI, while this node routes.
    #[inline]
    pub(super) fn net_heard(&mut self, cx: &Cx, ni: NiId) {
        if let Some(at) = self.routing.heard_at.get_mut(ni.index()) {
            *at = cx.now;
        }
        if self.routing.is_down(ni) {
            self.net_up(cx, ni);
        }
    }

    /// A network that was silent is heard.
    #[cold]
    fn net_up(&mut self, cx: &Cx, ni: NiId) {
        if self.routing.revived.has(ni) {
            return;
        }
        if self.routing.decider.is_none() {
            self.routing.revived = self.routing.revived.and(NiSet::of(ni));
            return self.report_heard();
        }
        let heard = self.routing.heard_at;
        self.nets_heard(cx, &heard);
    }

    /// Tells the shard that decides what was heard here.
    fn report_heard(&mut self) {
        self.post(FIRST, Body::Heard(self.routing.heard_at, self.buffers.used()));
    }

    /// Another shard says what it has heard, and how many messages it has on their way through.
    pub(super) fn heard_there(&mut self, cx: &Cx, from: ShardId, heard: &HeardAt, held: u32) {
        if let Some(n) = self.routing.decider.as_mut().and_then(|d| d.held.get_mut(usize::from(from.0))) {
            *n = held;
        }
        self.nets_heard(cx, heard);
    }

    /// Networks of NIs that have received since it was last looked are up.
    fn nets_heard(&mut self, cx: &Cx, heard: &HeardAt) {
        let Some(d) = &mut self.routing.decider else { return };
        let mut fresh = NiSet::default();
        for (at, (known, said)) in (0u8..).zip(d.heard_at.iter_mut().zip(heard)) {
            if *said > *known {
                *known = *said;
                fresh = fresh.and(NiSet::of(NiId(at)));
            }
        }
        let mut told = self.routing.told;
        for ni in (0..NIS_MAX as u8).map(NiId).filter(|n| fresh.has(*n)) {
            told.down = told.down.without(self.net_of(ni));
        }
        if told != self.routing.told {
            self.post_all(cx, || Body::Routing(told, true));
            self.takes_routing(cx, told, true);
        }
    }

    /// The NIs of an NI's network.
    fn net_of(&self, ni: NiId) -> NiSet {
        let nid = self.nid_of(ni);
        let same = (0u8..).zip(&self.nis).filter(|(_, n)| n.nid.same_net(nid));
        same.fold(NiSet::default(), |all, (at, _)| all.and(NiSet::of(NiId(at))))
    }

    /// The time for a look has come, if it has.
    pub(super) fn routing_turn<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) {
        if std::mem::take(&mut self.routing.begins) {
            self.routing_step(cx, lnds, Step::Enable);
        }
        if cx.now < self.routing.look_at {
            return;
        }
        self.routing.look_at = cx.now + LOOK;
        if self.routing.decider.is_none() {
            return self.report_heard();
        }
        let heard = self.routing.heard_at;
        self.nets_heard(cx, &heard);
        self.look_for_silence(cx);
        let own = self.buffers.used();
        let Some(d) = &mut self.routing.decider else { return };
        let free = own == 0 && d.held.iter().all(|n| *n == 0);
        if cx.now >= d.most {
            self.routing_step(cx, lnds, Step::Due);
        } else if cx.now >= d.least && free {
            self.routing_step(cx, lnds, Step::Free);
        }
        self.look_in_time(cx);
    }

    /// Networks from which no ping came for long are down.
    fn look_for_silence(&mut self, cx: &Cx) {
        let mut told = self.routing.told;
        let Some(d) = self.routing.decider.as_ref().filter(|_| told.state == RoutingState::On) else {
            return;
        };
        let time = cx.cfg.router_check_time();
        let all = (0..self.nis.len().min(NIS_MAX) as u8).map(NiId);
        let (mut loud, mut quiet, mut due) = (NiSet::default(), NiSet::default(), u64::MAX);
        for ni in all {
            let until = d.heard_at.get(ni.index()).map_or(0, |t| t.saturating_add(time));
            if cx.now < until {
                (loud, due) = (loud.and(self.net_of(ni)), due.min(until));
            } else {
                quiet = quiet.and(self.net_of(ni));
            }
        }
        told.down = quiet.without(loud);
        self.routing.look_at = self.routing.look_at.min(due);
        if told != self.routing.told {
            self.post_all(cx, || Body::Routing(told, true));
            self.takes_routing(cx, told, true);
        }
    }
}
