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
//! A gateway is checked when its first route is added, when its last connection ends, and every `alive_router_check_interval`, by one
//! shard: its home. A check is a ping, and a push of our info to those that want it: routers mark a network down of which they hear nothing. What comes of it is
//! told to all shards, and each weighs its routes; so is what a gateway pushes unasked. A route is up while its gateway has answered,
//! forwards, and its NIs on both networks are up, as far as it tells of them. Before the first answer it is down.

use fsm::Fsm;

use super::Lnet;
use super::discovery::{About, News, PUSHERS, SINKS, Step, Subject};
use super::hop::ni_to_gateway;
use super::ops::OpKind;
use super::remote::Body;
use super::routes::Said;
use crate::hash::OwnMap;
use crate::lnd::config::SEC;
use crate::lnd::{Config, Cx, Lnd};
use crate::stream::slab::Key;
use crate::stream::{Bucket, ShardId};
use crate::wire::{Nid, PingInfo, ProcessId, ping};

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
    /// Time at which the latest check began, in ns.
    began: u64,
    /// Time after which it is asked again if the check fails, in ns: its connections ended while it was there. 0 for an interval.
    again: u64,
    /// Time at which its last connection ended, in ns, until it has answered a check; 0 for none.
    lost_at: u64,
    /// Its last word; `None` before the first, and when the last check failed.
    said: Option<Said>,
}

/// Least time between two checks of a gateway whose connections end, in ns: it may accept them, and end them at once. Those of one that
/// does not answer then come after this time, twice this, and so on, as recovery pings of kernels do.
const AGAIN: u64 = SEC;

impl Gateway {
    /// A check that is under way is forgotten; gives the number of its operation.
    fn forget_check(&mut self) -> Option<u64> {
        (self.check, self.sinks) = (Fsm::START, 0);
        self.serial.take()
    }
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
        for route in cfg.all_routes() {
            g.added(0, route.gateway);
        }
        g
    }

    /// Time at which a check is due, in ns.
    #[inline]
    pub(super) fn wake(&self) -> u64 {
        self.wake
    }

    /// Whether it has answered the last check.
    pub(super) fn has_answered(&self, nid: Nid) -> bool {
        self.all.get(&nid).is_some_and(|g| g.said.is_some())
    }

    /// It has one more route: it is asked at once. Gives whether it had none.
    pub(super) fn added(&mut self, now: u64, nid: Nid) -> bool {
        let is_new = !self.all.contains_key(&nid);
        let new = || Gateway {
            check: Fsm::START,
            serial: None,
            sinks: 0,
            next: now,
            began: now,
            again: 0,
            lost_at: 0,
            said: None,
        };
        self.all.entry(nid).or_insert_with(new).next = now;
        self.wake = self.wake.min(now);
        is_new
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
    pub(super) fn weigh(&mut self, cfg: &Config, gateway: Nid) {
        let said = self.gateways.all.get(&gateway).and_then(|g| g.said.as_ref());
        if self.routes.weigh(gateway, said, cfg.avoid_asym_router_failure) {
            self.questions_lost(gateway, u64::MAX, false);
        }
    }

    /// The configuration has changed.
    pub(super) fn weigh_all(&mut self, cfg: &Config) {
        for gateway in self.gateways.all.keys().copied().collect::<Vec<_>>() {
            self.weigh(cfg, gateway);
        }
    }

    // ---- checks

    /// Begins the checks whose time has come.
    pub(super) fn check_gateways<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) {
        if cx.down {
            self.gateways.wake = u64::MAX;
        }
        if self.gateways.wake > cx.now {
            return;
        }
        let now = cx.now;
        let due = |(nid, g): (&Nid, &mut Gateway)| {
            let home = nid.ip().map(|ip| cx.homes.of(ip));
            let here = home == Some(cx.cfg.shards.me);
            if g.next > now {
                return None;
            }
            g.next = if here { next_check(cx) } else { u64::MAX };
            g.began = now;
            here.then_some(*nid)
        };
        let all: Vec<Nid> = self.gateways.all.iter_mut().filter_map(due).collect();
        for gateway in all {
            self.sign(cx, lnds, gateway, Sign::Check);
        }
        self.gateways.look();
    }

    fn sign<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], gateway: Nid, sign: Sign) {
        let Some(g) = self.gateways.all.get_mut(&gateway) else { return };
        match g.check.apply(sign) {
            Some(Do::Ping) => self.check(cx, lnds, gateway, false),
            Some(Do::Push) => self.check(cx, lnds, gateway, true),
            Some(Do::Lose) => {
                cx.counters.router_checks_failed += 1;
                let again = std::mem::take(&mut g.again);
                if again > 0 && again < cx.cfg.alive_router_check_interval {
                    (g.next, g.again) = (g.next.min(cx.now.saturating_add(again)), again.saturating_mul(2));
                    self.gateways.look();
                }
                self.gateway_said(cx, gateway, None);
            }
            Some(Do::Nothing) | None => {}
        }
    }

    /// The peer that is the gateway, with its LND.
    fn gateway_peer<'a, L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &'a mut [L],
        gateway: Nid,
    ) -> Option<(&'a mut L, Key)> {
        let lnd = lnds.get_mut(ni_to_gateway(&self.nis, gateway, |_, _| true)?.index())?;
        // However much waits for it: a check is not refused.
        let id = ProcessId::lustre(gateway);
        let peer = match lnd.find(id) {
            Some(peer) => peer,
            None => self.target_peer(cx, lnd, id, None).ok()?,
        };
        Some((lnd, peer))
    }

    /// Pings a gateway, or pushes our info to it.
    fn check<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], gateway: Nid, push: bool) {
        let Some((lnd, peer)) = self.gateway_peer(cx, lnds, gateway) else {
            return self.sign(cx, lnds, gateway, if push { Sign::Untold } else { Sign::Failed });
        };
        let sink = self.discovery.sink;
        let kind = if push {
            OpKind::Put { sent: false, acked: false }
        } else {
            OpKind::Ping { placing: false, sink }
        };
        let (about, patience) = (About::Gateway(gateway), cx.cfg.router_ping_timeout);
        let (serial, op, handle) = self.node_op(cx.now, about, (gateway, gateway, lnd.ni()), kind, patience);
        if let Some(g) = self.gateways.all.get_mut(&gateway) {
            g.serial = Some(serial);
            g.sinks += u8::from(!push);
        }
        let target = ProcessId::lustre(gateway);
        let mut tx = if push {
            let info = self.discovery.info;
            if let Some(known) = self.known(Subject::from(peer)) {
                known.more().told = info;
            }
            self.push_of(cx, lnd.ni(), target, (op, handle))
        } else {
            cx.counters.router_checks += 1;
            self.ping_of(cx, lnd.ni(), target, (op, handle), sink)
        };
        self.launch(cx, lnd, peer, &mut tx);
    }

    /// An operation of a check has ended.
    pub(super) fn checked<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], gateway: Nid, news: News) {
        let Some(g) = self.gateways.all.get_mut(&gateway) else { return };
        // That of a check of before the gateway was forgotten, and named again, says nothing of this one.
        let (News::Answer(serial, _) | News::Pushed(serial, _)) = &news else { return };
        if g.serial.take_if(|s| s == serial).is_none() {
            return;
        }
        let sign = match news {
            News::Pushed(_, Ok(())) => {
                cx.counters.pushes_acked += 1;
                Sign::Told
            }
            News::Answer(_, Ok(bytes)) => {
                if let Some(whole) = ping::whole_len(&bytes).filter(|n| *n as usize > bytes.len())
                    && g.sinks < SINKS
                    && !cx.down
                {
                    self.discovery.sink = self.discovery.sink.max(whole);
                    return self.sign(cx, lnds, gateway, Sign::Short);
                }
                (g.sinks, g.again) = (0, 0);
                match PingInfo::parse(&bytes) {
                    Ok(info) => self.gateway_answered(cx, lnds, gateway, &info),
                    Err(_) => {
                        cx.counters.err_ping_info += 1;
                        Sign::Failed
                    }
                }
            }
            News::Answer(_, Err(_)) => {
                g.sinks = 0;
                Sign::Failed
            }
            _ => Sign::Untold,
        };
        self.sign(cx, lnds, gateway, sign);
    }

    /// A gateway has answered a check. It need not be asked again before the first message to it.
    fn gateway_answered<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        gateway: Nid,
        info: &PingInfo,
    ) -> Sign {
        self.gateway_said(cx, gateway, Some(Said::of(gateway, info)));
        let lost_at = self.gateways.all.get_mut(&gateway).map_or(0, |g| std::mem::take(&mut g.lost_at));
        if lost_at > 0 {
            self.questions_lost(gateway, lost_at, true);
        }
        if let Some((_, peer)) = self.gateway_peer(cx, lnds, gateway) {
            let subject = Subject::from(peer);
            if let Some(known) = self.known(subject) {
                known.standing.apply(Step::Heard);
            }
            self.take_info(cx, subject, info);
        }
        let wanted = info.features & cx.cfg.features() & PUSHERS == PUSHERS;
        if wanted && !cx.down { Sign::Answered } else { Sign::Unpushed }
    }

    // ---- what is known

    /// A node tells of itself unasked. `by` is the peer that delivered it.
    pub(super) fn gateway_tells(&mut self, cx: &Cx, by: Nid, source: Nid, info: &PingInfo) {
        if self.routes.is_empty() || by != source {
            return;
        }
        // It may speak by another of its NIDs than we know it by.
        let named = |g: &&Nid| **g == source || self.aliases.acts_for(**g, source);
        let Some(gateway) = self.gateways.all.keys().find(named).copied() else { return };
        let said = Said::of(gateway, info);
        let known = self.gateways.all.get(&gateway).and_then(|g| g.said.as_ref());
        if known != Some(&said) {
            self.gateway_said(cx, gateway, Some(said));
        }
    }

    /// Takes in what a gateway said, or that it did not answer, and tells the other shards.
    fn gateway_said(&mut self, cx: &Cx, gateway: Nid, said: Option<Said>) {
        self.post_all(cx, || Body::Gateway(gateway, said.clone().map(Box::new)));
        self.heard_of(cx, gateway, said);
    }

    fn heard_of(&mut self, cx: &Cx, gateway: Nid, said: Option<Said>) {
        let Some(g) = self.gateways.all.get_mut(&gateway) else { return };
        g.said = said;
        self.weigh(&cx.cfg, gateway);
    }

    /// Another shard tells what a gateway said, or that it did not answer.
    pub(super) fn told_of_gateway(&mut self, cx: &Cx, gateway: Nid, said: Option<Said>) {
        let here = gateway.ip().map(|ip| cx.homes.of(ip)) == Some(cx.cfg.shards.me);
        if let Some(g) = self.gateways.all.get_mut(&gateway).filter(|_| !here) {
            g.next = next_check(cx);
        }
        self.heard_of(cx, gateway, said);
        self.gateways.look();
    }

    /// A route by a gateway has come that had none here. Its home may have heard of it before, and have asked it.
    pub(super) fn ask_home(&mut self, cx: &Cx, gateway: Nid) {
        let me = cx.cfg.shards.me;
        if let Some(home) = gateway.ip().map(|ip| cx.homes.of(ip)).filter(|h| *h != me) {
            self.post(home, Body::AskGateway(gateway, me));
        }
    }

    /// The last connection with that NID has ended. One of a gateway's is asked at once, so that messages go by another if it does not
    /// take a connection any more; what was on its way to it is not waited for.
    pub(super) fn gateway_lost(&mut self, cx: &Cx, nid: Nid) {
        if self.routes.is_empty() || cx.cfg.alive_router_check_interval == 0 {
            return;
        }
        let (homes, me) = (&cx.homes, cx.cfg.shards.me);
        let here = |g: &Nid| g.ip().map(|ip| homes.of(ip)) == Some(me);
        let named = |g: &Nid| *g == nid || self.aliases.acts_for(*g, nid);
        let Some((_, g)) = self.gateways.all.iter_mut().find(|(g, _)| named(g) && here(g)) else { return };
        if g.said.is_none() {
            return;
        }
        g.lost_at = cx.now;
        if let Some(serial) = g.forget_check() {
            self.discovery.asked.remove(&serial);
        }
        (g.next, g.again) = (cx.now.max(g.began.saturating_add(AGAIN)), AGAIN);
        self.gateways.look();
    }

    /// A shard asks what a gateway said last. One that has not been asked yet tells all when it answers.
    pub(super) fn asked_of_gateway(&mut self, cx: &Cx, gateway: Nid, shard: ShardId) {
        let home = gateway.ip().map(|ip| cx.homes.of(ip)).filter(|h| *h != cx.cfg.shards.me);
        if let Some(home) = home {
            // It has moved since.
            return self.post(home, Body::AskGateway(gateway, shard));
        }
        if let Some(said) = self.gateways.all.get(&gateway).and_then(|g| g.said.clone()) {
            self.post(shard, Body::Gateway(gateway, Some(Box::new(said))));
        }
    }

    // ---- other homes

    /// A bucket goes to another shard, and the checks of its gateways with it: those that are under way begin again there.
    pub(super) fn gateways_leave(&mut self, b: Bucket) {
        for (nid, g) in &mut self.gateways.all {
            if nid.ip().map(Bucket::of) != Some(b) {
                continue;
            }
            if let Some(serial) = g.forget_check() {
                self.discovery.asked.remove(&serial);
            }
        }
    }

    /// A bucket has come.
    pub(super) fn gateways_come(&mut self, cx: &Cx, b: Bucket) {
        for (nid, g) in &mut self.gateways.all {
            if g.next == u64::MAX && nid.ip().map(Bucket::of) == Some(b) {
                g.next = cx.now;
            }
        }
        self.gateways.look();
    }
}

/// Time of the check after one that begins now, in ns.
fn next_check(cx: &Cx) -> u64 {
    match cx.cfg.alive_router_check_interval {
        0 => u64::MAX,
        ns => cx.now.saturating_add(ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<Check>(), @r"
        Quiet + Check -> Asking, Ping
        Asking + Short -> Asking, Ping
        Asking + Answered -> Telling, Push
        Asking + Unpushed -> Quiet, Nothing
        Asking + Failed -> Quiet, Lose
        Telling + Told -> Quiet, Nothing
        Telling + Untold -> Quiet, Lose
        otherwise: it is ignored
        ");
    }
}
