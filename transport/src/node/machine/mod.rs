//! One shard of a node without anything that runs it: [`Machine`] joins LNet to the LNDs of its NIs.
//!
//! It is deterministic: it has no clock, no thread and no socket, and the same inputs give the same outputs. A runtime
//! (`transport::node`, or the test harness) owns the streams and drives it:
//!
//! ```text
//!            Stream, Cmd, From, MigrateIn, Settled, Moved, JobDone, Timer
//!  runtime ---------------------------------------------------------> Machine::handle(now, input)
//!          <--------------------------------------------------------- Machine::poll() until None
//!            Stream, Complete, To, Offer                              Machine::deadline()
//! ```
//!
//! ```
//! use transport::lnd::{AppId, Config};
//! use transport::lnet::Op;
//! use transport::node::{Input, Machine, Output};
//! use transport::stream::Action;
//! use transport::wire::{Nid, ProcessId};
//!
//! let (here, there): (Nid, Nid) = ("10.0.0.1@tcp".parse()?, "10.0.0.2@tcp".parse()?);
//! let mut machine = Machine::new(Config::new(here, 1));
//! machine.handle(1_000, Input::Cmd(AppId::FIRST, Op::Ping { tag: 1, target: ProcessId::lustre(there) }));
//! let Some(Output::Stream(Action::Dial(d))) = machine.poll() else { unreachable!() };
//! assert_eq!((d.remote.port(), d.privileged), (988, true));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod beside;
mod looking;
mod nis;

use std::net::IpAddr;

use self::beside::Beside;
pub use self::beside::BesideError;
pub use self::nis::Places;
use crate::lnd::tunables::Change;
use crate::lnd::{AppId, Config, Counters, Cx, Held, NIS_MAX, NiId, PeerError, RouteError};
use crate::lnet::by_hand::{ByHandView, PeerAsk};
use crate::lnet::faults::{FaultAsk, FaultError, FaultView};
use crate::lnet::routes::{RouteAsk, RouteView};
use crate::lnet::{Delivery, Event, HealthAsk, Lnet, Op, RoutingAsk, RoutingView, ShardMsg};
use crate::socklnd::{self, Socklnd};
use crate::stream::{Action, BUCKETS, Bucket, ConnId, DialId, Happened, Protocol, ShardId};
use crate::wire::Nid;

/// A message that has come whole, to be copied or summed by whichever lcore has time.
#[derive(Debug)]
pub struct CopyJob {
    ni: NiId,
    message: Box<socklnd::CopyJob<Delivery>>,
}

impl CopyJob {
    /// The bucket that it belongs to.
    pub fn bucket(&self) -> Bucket {
        self.message.bucket()
    }

    /// Bytes to be copied and summed in all.
    pub fn work(&self) -> u64 {
        self.message.work()
    }

    /// Copies and sums `most` bytes, or up to one fragment more; true when nothing is left and the copy job is to go home.
    pub fn run(&mut self, most: u32) -> bool {
        self.message.run(most)
    }
}

/// Inputs, in the order they happen.
pub enum Input<'a> {
    /// To a stream.
    Stream(Happened<'a>),
    /// An application's operation.
    Cmd(AppId, Op),
    /// A message of another shard of the node.
    From(ShardId, ShardMsg),
    /// A bucket of peers has its home here now; it came from this shard.
    MigrateIn(ShardId, Box<Migrating>),
    /// Nothing about the bucket that has come comes over its old home any more.
    Settled(Bucket),
    /// A bucket has its home on that shard now.
    Moved(Bucket, ShardId),
    /// A copy job has been run, and is back at its home.
    JobDone(CopyJob),
    /// The time of [`Machine::deadline`] has come.
    Timer,
}

/// Orders to the runtime. Those of a kind are in order.
pub enum Output {
    /// On a stream.
    Stream(Action),
    /// For an application.
    Complete(AppId, Event),
    /// For another shard of the node.
    To(ShardId, ShardMsg),
    /// For whichever lcore of the CPT has time: to be run there, and to come back as [`Input::JobDone`] to the home that
    /// its bucket has by then. Only while [`Machine::offload`] is on.
    Offer(CopyJob),
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Output::Stream(Action::Send(c, m)) => {
                write!(f, "Send({c:?}, {} B + {} runs, {:?})", m.hdr.len(), m.pay.len(), m.lend)
            }
            Output::Stream(Action::Datagram(p, m)) => {
                write!(f, "Datagram({p:?}, {} B + {} runs, {:?})", m.hdr.len(), m.pay.len(), m.lend)
            }
            Output::Stream(a) => write!(f, "{a:?}"),
            Output::Complete(a, e) => write!(f, "Complete({a:?}, {e:?})"),
            Output::To(s, _) => write!(f, "To({s:?})"),
            Output::Offer(b) => write!(f, "Offer({} B)", b.work()),
        }
    }
}

/// A bucket's peers between two homes. The runtime sees to it that nothing reaches either machine in between, and that
/// what was on its way to the old home arrives at the new one before anything that was sent there at once
/// (`transport::node::migration`). Operations are held back by the new home from [`Input::MigrateIn`] to [`Input::Settled`],
/// but for those that the old home passes on, so that an application's keep their order.
#[derive(Debug)]
pub struct Migrating {
    bucket: Bucket,
    /// Of each NI's LND.
    lnds: Vec<socklnd::Migrating<Lnet>>,
    lnet: crate::lnet::Migrating,
}

impl Migrating {
    /// The bucket of the peers.
    pub fn bucket(&self) -> Bucket {
        self.bucket
    }

    /// Dials under way to them.
    pub fn dials(&self) -> impl Iterator<Item = DialId> + '_ {
        self.lnds.iter().flat_map(socklnd::Migrating::dials)
    }

    /// Their connections.
    pub fn conns(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.lnds.iter().flat_map(socklnd::Migrating::conns)
    }
}

/// Gauges of what is out at the moment: all zero (but `conns_up`, `peers` and `entries`) when a node is quiet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Connections that passed the HELLO.
    pub conns_up: usize,
    /// Connections in any state, closing ones too.
    pub conns: usize,
    /// Peers remembered.
    pub peers: usize,
    /// Zero-copy cookies pending.
    pub cookies: usize,
    /// Lends not released.
    pub lends: usize,
    /// Messages that hold credits.
    pub credits_used: usize,
    /// Operations that wait for an answer.
    pub ops: usize,
    /// Match entries attached or in use.
    pub entries: usize,
    /// Messages queued for a credit, a connection or room on a stream.
    pub queued: usize,
    /// Messages received that wait at portals of this shard, for an entry or its sink.
    pub held: usize,
    /// Messages in copy jobs.
    pub copy_jobs: usize,
    /// Messages of other nodes that hold a router buffer, or wait for one.
    pub on_their_way: usize,
}

/// One shard of a node. See the [module](self) for how it is driven.
#[derive(Debug)]
pub struct Machine {
    cx: Cx,
    lnet: Lnet,
    /// The LND of each NI's place.
    lnds: Vec<Socklnd<Lnet>>,
    /// NIs that were deleted, and are not over.
    leaving: u8,
    /// Protocols that are not LNet's.
    beside: Beside,
}

/// The LND that something happened to: by what it named a dial or a loan, by the address that a peer connected to, by the
/// connection.
fn whose<'a>(lnds: &'a mut [Socklnd<Lnet>], happened: &Happened<'_>) -> Option<&'a mut Socklnd<Lnet>> {
    if lnds.len() <= 1 {
        return lnds.first_mut();
    }
    let at = match happened {
        Happened::Opened(_, info) => match info.dial {
            Some(dial) => usize::from(dial.number()),
            // Several NIs may share the address: the request says more.
            None => lnds.iter().position(|l| l.nid().ip() == Some(info.local.ip())).unwrap_or(0),
        },
        Happened::DialFailed(dial, _) => usize::from(dial.number()),
        Happened::Released(loan) => usize::from(loan.number()),
        // No LND asks for an address.
        Happened::Listening(..) => return None,
        Happened::Progress(c, _)
        | Happened::Bytes(c, _)
        | Happened::LastBytes(c)
        | Happened::PeerFin(c)
        | Happened::Ended(c)
        | Happened::Closed(c, _) => lnds.iter().position(|l| l.has(*c))?,
        Happened::Datagram(..) | Happened::Undelivered(..) => return None,
    };
    lnds.get_mut(at)
}

/// Gives what happened to the LND that it happened to. A connection whose request names another NI goes on there.
fn sort_out(cx: &mut Cx, lnet: &mut Lnet, lnds: &mut [Socklnd<Lnet>], happened: Happened<'_>) {
    let Some(lnd) = whose(lnds, &happened) else { return };
    lnd.handle(lnet, cx, happened);
    if let Some((ni, conn)) = lnd.misrouted()
        && let Some(other) = lnds.get_mut(ni.index())
    {
        other.take_over(lnet, cx, *conn);
    }
}

impl Machine {
    /// A machine with no connections.
    pub fn new(cfg: Config) -> Machine {
        let cfg = cfg.placed();
        let (me, incarnation) = (cfg.shards.me, cfg.incarnation);
        let lnd = |(ni, nid)| Socklnd::new(me, NiId(ni), nid, incarnation);
        let lnds = (0..NIS_MAX as u8).zip(cfg.nids()).map(lnd).collect();
        Machine { lnet: Lnet::new(&cfg), lnds, leaving: 0, cx: Cx::new(cfg), beside: Beside::default() }
    }

    /// The same with a protocol beside socklnd, which gets the connections that peers make to `port`. The runtime must
    /// listen there. Each shard of a node needs one: it serves the peers whose home that shard is. With `port` 0 it has none,
    /// and asks for addresses itself ([`Action::Listen`]): those connections, and all that a protocol dials, stay on its shard.
    ///
    /// # Errors
    /// [`BesideError`]: the port is socklnd's or another protocol's, or there are too many.
    pub fn with(mut self, port: u16, protocol: Box<dyn Protocol + Send>) -> Result<Machine, BesideError> {
        if self.cx.cfg.listen_ports().any(|p| p == port) {
            return Err(BesideError::Taken(port));
        }
        self.beside.add(port, protocol)?;
        Ok(self)
    }

    /// Whether it goes down, or has gone: it takes no operation any more.
    #[inline]
    pub fn goes_down(&self) -> bool {
        self.cx.down
    }

    /// Configuration.
    pub fn config(&self) -> &Config {
        &self.cx.cfg
    }

    /// Changes a tunable at `now`, in ns. What is timed is looked at again at the next chance; deadlines that run stay as they
    /// are, as with kernels.
    pub fn tune(&mut self, now: u64, change: &Change) {
        let Machine { cx, lnet, lnds, .. } = self;
        cx.now = cx.now.max(now);
        let before = cx.cfg.features();
        change.apply(&mut cx.cfg);
        lnds.iter_mut().for_each(|l| l.look_at_all(cx));
        lnet.tuned(cx, lnds, before);
        self.settle();
    }

    /// Cost of the messages of each bucket's peers to this shard so far, in ns: an estimate, by messages and by bytes
    /// copied or summed.
    pub fn load(&self) -> &[u64; BUCKETS] {
        &self.cx.load
    }

    /// Counts so far.
    pub fn counters(&self) -> &Counters {
        &self.cx.counters
    }

    /// Shows `each` how many PUTs and GETs were dropped, by cause and portal; only those counts that are not 0.
    pub fn drops(&self, each: &mut dyn FnMut(&'static str, u64)) {
        self.lnet.drops.each(each);
    }

    /// Shows `each` what the protocols beside socklnd count.
    pub fn beside(&self, each: &mut dyn FnMut(&'static str, u64)) {
        self.beside.counts(each);
    }

    /// Counters, with what is held now.
    pub fn tally(&self) -> Counters {
        let h = self.cx.budget.held();
        Counters {
            budget_limit: h.limit,
            budget_used: h.used,
            budget_answers: h.answers,
            budget_handshakes: h.handshakes,
            budget_conns: h.conns,
            budget_peers: h.peers,
            budget_stalled: h.stalled as u64,
            ..self.cx.counters
        }
    }

    /// Adds, deletes or resets fault rules of this shard at `now`, in ns; gives how many it concerned.
    ///
    /// # Errors
    /// [`FaultError`]
    pub fn fault(&mut self, now: u64, ask: FaultAsk) -> Result<usize, FaultError> {
        self.cx.now = self.cx.now.max(now);
        self.lnet.fault(&self.cx, ask)
    }

    /// The fault rules of this shard, in their order, with their counts.
    pub fn fault_rules(&self) -> impl Iterator<Item = FaultView> + '_ {
        self.lnet.fault_rules()
    }

    /// Does what is asked about routing, if anything, at `now`, in ns: an order to any shard is one to the node. Gives routing of
    /// this shard as it is then.
    pub fn routing(&mut self, now: u64, ask: Option<RoutingAsk>) -> RoutingView {
        if let Some(ask) = ask {
            let Machine { cx, lnet, lnds, .. } = self;
            cx.now = cx.now.max(now);
            lnet.route_ask(cx, lnds, ask);
            self.settle();
        }
        self.routing_view()
    }

    /// Routing of this shard as it is.
    pub fn routing_view(&self) -> RoutingView {
        self.lnet.routing_view()
    }

    /// Adds or deletes a route of this shard at `now`, in ns; every shard of a node has the same.
    ///
    /// # Errors
    /// [`RouteError`]
    pub fn route(&mut self, now: u64, ask: RouteAsk) -> Result<(), RouteError> {
        self.cx.now = self.cx.now.max(now);
        let done = self.lnet.route(&self.cx, ask);
        self.settle();
        done
    }

    /// The routes of this shard, in the order in which they came.
    pub fn routes(&self) -> impl Iterator<Item = RouteView> + '_ {
        self.lnet.routes()
    }

    /// Adds or deletes a peer by hand of this shard at `now`, in ns; every shard of a node has the same.
    ///
    /// # Errors
    /// [`PeerError`]
    pub fn peer_by_hand(&mut self, now: u64, ask: &PeerAsk) -> Result<(), PeerError> {
        let Machine { lnet, cx, lnds, .. } = self;
        cx.now = cx.now.max(now);
        let done = lnet.peer_ask(cx, lnds, ask);
        self.settle();
        done
    }

    /// NIDs of the peers by hand of this shard, those of a peer one after the other.
    pub fn by_hand(&self) -> impl Iterator<Item = ByHandView> + '_ {
        self.lnet.by_hand()
    }

    /// Sets values of health of the node's at `now`, in ns, whose first shard this is; gives how many it concerned.
    pub fn set_health(&mut self, now: u64, ask: &HealthAsk) -> usize {
        self.cx.now = self.cx.now.max(now);
        let done = self.lnet.health_ask(&self.cx, ask);
        self.settle();
        done
    }

    /// The primary NID of the peer that `nid` is one of, as far as discovery has told; else `nid` itself.
    pub fn primary(&self, nid: Nid) -> Nid {
        self.lnet.aliases.primary(nid)
    }

    /// All NIDs of the peer that `nid` is one of, the primary one first, as far as discovery has told; none of one with one NID.
    #[cfg(feature = "testing")]
    pub fn nids_of(&self, nid: Nid) -> Vec<Nid> {
        self.lnet.aliases.nids(nid).unwrap_or_default().to_vec()
    }

    /// NIDs of Multi-Rail peers that are kept.
    #[cfg(feature = "testing")]
    pub fn nids_kept(&self) -> usize {
        self.lnet.aliases.len()
    }

    /// Places in LNet's tables of entries, operations and messages to itself.
    #[cfg(feature = "testing")]
    pub fn places(&self) -> usize {
        self.lnet.places()
    }

    /// Memory that strangers make this shard hold now.
    pub fn held(&self) -> Held {
        self.cx.budget.held()
    }

    /// The same, in bytes, counted from what there is.
    #[cfg(feature = "testing")]
    pub fn held_recounted(&self) -> u64 {
        self.lnds.iter().map(Socklnd::held_recounted).sum()
    }

    /// Gauges now. Walks all connections and peers: not for every message.
    pub fn gauges(&self) -> Gauges {
        let out = self.lnds.iter().map(Socklnd::out).fold(socklnd::Out::default(), socklnd::Out::and);
        let (conns, lends) = self.beside.out();
        Gauges {
            conns_up: out.conns_up,
            conns: out.conns + conns,
            peers: out.peers,
            cookies: out.cookies,
            lends: out.lends + lends,
            credits_used: self.lnet.credits_used(),
            ops: self.lnet.ops.len(),
            entries: self.lnet.portals.len(),
            queued: out.queued + self.lnet.queued(),
            held: self.lnet.portals.waiting(),
            copy_jobs: out.copy_jobs,
            on_their_way: self.lnet.on_their_way(),
        }
    }

    /// The port that has this address of ours has a link since `now`, in ns, or has none: its NIs are up, or down.
    pub fn link(&mut self, now: u64, ip: IpAddr, up: bool) {
        let Machine { cx, lnet, lnds, .. } = self;
        cx.now = cx.now.max(now);
        lnet.link(cx, lnds, ip, up);
        self.settle();
    }

    /// Whether messages with much to copy or sum are given away as copy jobs ([`Output::Offer`]). Each copy job must come back,
    /// run, as [`Input::JobDone`].
    pub fn offload(&mut self, on: bool) {
        self.lnds.iter_mut().for_each(|l| l.offload(on));
    }

    /// Time at which to give [`Input::Timer`], in ns; `None` when nothing is timed.
    pub fn deadline(&self) -> Option<u64> {
        let lnds = self.lnds.iter().map(Socklnd::wake);
        let wake = lnds.fold(self.lnet.wake().min(self.beside.wake()), u64::min);
        (wake != u64::MAX).then_some(wake)
    }

    /// The next thing to do on a stream.
    #[inline]
    pub fn action(&mut self) -> Option<Action> {
        if self.cx.actions.is_empty() && !self.beside.is_empty() {
            return self.beside.act(self.cx.now, self.cx.cfg.shards.me);
        }
        self.cx.actions.pop()
    }

    /// Does all that there is to do on streams, in order, each action in its place: moving them costs more than most of
    /// them do.
    #[inline]
    pub fn act(&mut self, mut f: impl FnMut(&mut Action)) {
        self.cx.actions.each(&mut f);
        if !self.beside.is_empty() {
            while let Some(mut action) = self.action() {
                f(&mut action);
            }
        }
    }

    /// The next event for an application.
    #[inline]
    pub fn event(&mut self) -> Option<(AppId, Event)> {
        self.lnet.events.pop()
    }

    /// Gives all events for applications to `f`, in order. Moves each once less.
    #[inline]
    pub fn tell(&mut self, f: impl FnMut(AppId, Event)) {
        self.lnet.events.tell(f);
    }

    /// The next message for another shard of the node.
    #[inline]
    pub fn mail(&mut self) -> Option<(ShardId, ShardMsg)> {
        self.lnet.mail()
    }

    /// The next copy job to be given away.
    #[inline]
    pub fn offer(&mut self) -> Option<CopyJob> {
        let job = |(ni, l): (u8, &mut Socklnd<Lnet>)| Some(CopyJob { ni: NiId(ni), message: l.job()? });
        (0..).zip(&mut self.lnds).find_map(job)
    }

    /// The next thing to do, of whatever kind. Whoever does much asks for each kind by itself, which moves it once less.
    pub fn poll(&mut self) -> Option<Output> {
        if let Some(a) = self.action() {
            return Some(Output::Stream(a));
        }
        if let Some((app, ev)) = self.event() {
            return Some(Output::Complete(app, ev));
        }
        if let Some((to, msg)) = self.mail() {
            return Some(Output::To(to, msg));
        }
        self.offer().map(Output::Offer)
    }

    /// Takes what happened at `now`, in ns; `now` never goes back. All that follows from it is ready for
    /// [`Machine::poll`] when this returns.
    pub fn handle(&mut self, now: u64, input: Input<'_>) {
        let Machine { cx, lnet, lnds, beside, .. } = self;
        cx.now = cx.now.max(now);
        match input {
            Input::Stream(happened) => return self.hear(now, happened),
            Input::Cmd(app, mut op) => return self.command(now, app, &mut op),
            Input::From(from, msg) => lnet.shard_msg(cx, lnds, from, msg),
            Input::MigrateIn(from, migrating) => {
                let Migrating { bucket, lnds: below, lnet: above } = *migrating;
                cx.homes.set(bucket, cx.cfg.shards.me);
                cx.counters.homes_adopted += 1;
                lnet.migrate_in(cx, bucket, from, above);
                for (lnd, migrating) in lnds.iter_mut().zip(below) {
                    lnd.migrate_in(lnet, cx, bucket, migrating);
                }
                lnet.migrated_in();
            }
            Input::Settled(b) => lnet.settled(cx, lnds, b),
            Input::JobDone(b) => {
                if let Some(lnd) = lnds.get_mut(b.ni.index()) {
                    lnd.job_done(lnet, cx, b.message);
                }
            }
            Input::Moved(b, home) => cx.homes.set(b, home),
            Input::Timer => {
                lnds.iter_mut().for_each(|l| l.timer(lnet, cx));
                lnet.timer(cx, lnds);
                beside.timer(cx.now);
            }
        }
        self.settle();
    }

    /// Takes what happened to a stream at `now`, in ns: [`Input::Stream`], moved once less.
    #[inline]
    pub fn hear(&mut self, now: u64, happened: Happened<'_>) {
        let Machine { cx, lnet, lnds, beside, .. } = self;
        cx.now = cx.now.max(now);
        match &mut lnds[..] {
            [only] if beside.is_empty() => only.handle(lnet, cx, happened),
            lnds => {
                if let Some(happened) = beside.handle(cx.now, happened) {
                    sort_out(cx, lnet, lnds, happened);
                }
            }
        }
        self.settle();
    }

    /// Takes an application's operation out of its place at `now`, in ns: [`Input::Cmd`], never moved as a whole.
    #[inline]
    pub fn command(&mut self, now: u64, app: AppId, op: &mut Op) {
        let Machine { cx, lnet, lnds, beside, .. } = self;
        cx.now = cx.now.max(now);
        let was_up = !cx.down;
        lnet.command(cx, lnds, app, op);
        if was_up && cx.down {
            beside.shut_down(cx.now);
        }
        self.settle();
    }

    /// Looks again at the peers whose credits changed, until none is left. Each round puts a message on its way
    /// or ends it, so the work is bounded by what is queued.
    #[inline]
    fn settle(&mut self) {
        if self.cx.down || self.lnet.is_unsettled() || self.cx.budget.has_ready() {
            self.settle_all();
        }
    }

    fn settle_all(&mut self) {
        let Machine { cx, lnet, lnds, beside, .. } = self;
        if cx.down {
            lnds.iter_mut().for_each(|l| l.leave_when_due(lnet, cx));
        }
        loop {
            if lnet.settle(cx, lnds) {
                continue;
            }
            let Some((ni, conn)) = cx.budget.resumes() else { break };
            if let Some(lnd) = lnds.get_mut(ni.index()) {
                lnd.resume(lnet, cx, conn);
            }
        }
        if lnet.shutdown.is_some() && lnds.iter().all(Socklnd::gone) && beside.gone() {
            lnet.down();
        }
    }

    /// Home of a bucket: operations on its peers belong there.
    pub fn home_of(&self, b: Bucket) -> ShardId {
        self.cx.homes.at(b)
    }

    /// Whether a bucket can be moved as a whole.
    pub fn may_migrate(&self, b: Bucket) -> bool {
        !self.cx.down
            && self.leaving == 0
            && self.cx.homes.at(b) == self.cx.cfg.shards.me
            && self.beside.may_migrate(b)
            && self.lnet.may_migrate()
            && self.lnds.iter().all(|l| l.may_migrate(&self.lnet, b))
    }

    /// Packs a bucket for `to`; `None` when it cannot be moved now. All that this shard was told of its connections
    /// must have been handled, and all outputs carried out.
    pub fn migrate_out(&mut self, now: u64, b: Bucket, to: ShardId) -> Option<Box<Migrating>> {
        if !self.may_migrate(b) || to == self.cx.cfg.shards.me {
            return None;
        }
        let Machine { cx, lnet, lnds, .. } = self;
        cx.now = cx.now.max(now);
        cx.homes.set(b, to);
        let below: Vec<_> = lnds.iter_mut().map(|l| l.migrate_out(cx, b)).collect();
        let peers: Vec<_> = below.iter().flat_map(socklnd::Migrating::above).collect();
        let above = lnet.migrate_out(cx, b, &peers, below.iter().flat_map(socklnd::Migrating::hosts));
        cx.counters.homes_left += 1;
        self.settle();
        Some(Box::new(Migrating { bucket: b, lnds: below, lnet: above }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrating_peers_may_cross_threads() {
        fn check<T: Send>() {}
        check::<Migrating>();
        check::<CopyJob>();
    }

    /// Types that are moved for every message stay within a few cache lines.
    #[test]
    fn sizes() {
        // The largest is an answer to another shard, with the request that it answers.
        assert!(size_of::<Output>() <= 432, "{}", size_of::<Output>());
        assert!(size_of::<(AppId, Op)>() <= 320, "{}", size_of::<(AppId, Op)>());
        assert!(size_of::<Event>() <= 264);
    }
}
