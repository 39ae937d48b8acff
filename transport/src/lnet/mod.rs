//! LNet above its LNDs: NIs, peers, portals, operations, answers (docs/protocol/lnet.md).
//!
//! `Lnet` is one shard's part of a node. `ops`, `portal` and `peer` hold what it knows; `command` starts what applications
//! ask for, `hop` chooses its way, by `routes` where no NI leads there, `credits` sends it when there is room, `parse` finds out where
//! a message's payload goes, `answer` sends ACKs and REPLYs, `forward` passes on what is for other nodes, `cut` before it is whole, `remote` asks other shards,
//! `upper` is what LNDs call,
//! `asking` what discovery has under way.

pub(crate) mod aliases;
mod answer;
pub mod api;
mod asking;
mod beside;
mod buffers;
pub mod by_hand;
mod causes;
mod claims;
mod class;
mod command;
mod credits;
mod cut;
mod discovery;
mod drops;
mod elsewhere;
mod enabling;
mod entry;
mod events;
mod far;
mod faulted;
pub mod faults;
pub mod figures;
mod forward;
mod gateways;
mod guest;
mod health;
mod held;
mod hop;
mod index;
mod kept;
mod lease;
mod lines;
mod links;
mod migration;
mod ni;
mod ni_stage;
mod nis;
mod no_conn;
pub(crate) mod ops;
mod own;
mod pace;
mod parse;
mod peer;
pub(crate) mod portal;
#[cfg(test)]
#[path = "tests/portal_model.rs"]
mod portal_model;
mod pushes;
mod queues;
mod rails;
mod recovery;
pub(crate) mod remote;
mod resend;
pub mod routes;
mod routing;
mod set_health;
mod shares;
mod stuck;
mod upper;
mod views;
mod word;

use std::collections::VecDeque;

use self::aliases::Aliases;
pub use self::api::*;
use self::buffers::Buffers;
pub use self::buffers::BuffersView;
pub use self::causes::{BEST, Cause, Causes, NiHealth};
pub use self::class::BufferClass;
use self::cut::Cuts;
use self::discovery::Discovery;
use self::drops::Drops;
pub use self::enabling::{RoutingAsk, RoutingState, RoutingView};
use self::events::Events;
use self::far::Fars;
use self::faulted::Faults;
use self::figures::NiFigures;
use self::forward::Passing;
use self::gateways::Gateways;
use self::health::Health;
use self::held::WaitOn;
use self::kept::Kept;
use self::lease::{Lease, Returned};
pub(crate) use self::migration::Migrating;
use self::migration::{Arrival, Renamed};
use self::ni::Ni;
pub use self::ni_stage::Stage as NiStage;
use self::ops::Ops;
use self::own::{OwnMessage, OwnWork};
use self::peer::Peer;
use self::portal::Portals;
use self::queues::Total;
use self::rails::Rails;
use self::recovery::Recovery;
pub use self::remote::ShardMsg;
use self::remote::{Body, Waiter};
use self::resend::Unsent;
use self::routes::Routes;
use self::routing::Routing;
pub use self::set_health::HealthAsk;
use self::stuck::Stuck;
pub use self::views::PeerNiView;
use crate::lnd::timers::Timers;
use crate::lnd::{AppId, Config, Cx, Lnd, LnetError, NIS_MAX, NiId, Payload, Sink, Ticket, Tx, pop};
use crate::stream::ShardId;
use crate::stream::slab::{Key, Slab};
use crate::wire::{LnetHdr, Nid, ProcessId};

/// A message of LNet's.
pub(crate) type Msg = Tx<TxDone>;

const _: () = assert!(size_of::<Msg>() <= crate::lnd::budget::MESSAGE);

/// The party to be told of the end of a message's sending.
#[derive(Debug, Default)]
pub(crate) enum TxDone {
    /// Nobody: ACKs and NOOPs.
    #[default]
    Nothing,
    /// A PUT without ACK, taken up at that time (ns): its SEND event.
    Put { app: AppId, tag: u64, ni: NiId, began: u64 },
    /// An operation that waits for an answer too.
    Op(Key),
    /// One of these, for the second time.
    Again(Box<TxDone>),
    /// The REPLY to a GET that matched.
    Reply(GetGrant),
    /// Another node's, which held a router buffer.
    Forward(Lease),
}

/// The receiver of a message's payload, to be told of its end.
#[derive(Debug, Default)]
pub(crate) enum Delivery {
    /// Nobody: the message is dropped, or done.
    #[default]
    Nothing,
    /// A PUT that matched.
    Put(PutGrant),
    /// A push of ping info, of which so many bytes are taken.
    Push(u32),
    /// The REPLY to an operation of ours.
    Reply(Key),
    /// The same, by the operation's wire handle: keys do not last when homes move.
    Object(u64),
    /// Another node's, which is passed on.
    Forward(Lease),
    /// Another node's that may leave before it is whole, by its name.
    Cut(u64),
    /// The REPLY to an operation of another shard's, by its wire handle.
    Elsewhere(u64),
}

/// A PUT or GET as it goes to the owner of its portal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatchReq {
    pub(crate) hdr: LnetHdr,
    /// The peer that delivered it.
    pub(crate) sender: Nid,
}

/// Leave to store a PUT. Returned to the portal's owner, with the sink and the PUT's header, when that is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PutGrant {
    pub(crate) owner: ShardId,
    pub(crate) me: Key,
    pub(crate) app: AppId,
    /// The peer that delivered it.
    pub(crate) sender: Nid,
    pub(crate) mlength: u32,
    pub(crate) offset: u32,
    /// The MD lets us ACK it.
    pub(crate) ack: bool,
}

/// Leave to answer a GET. Returned to the portal's owner when the REPLY's pages are home.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GetGrant {
    pub(crate) owner: ShardId,
    pub(crate) me: Key,
    pub(crate) asked: Asked,
    pub(crate) mlength: u32,
    pub(crate) offset: u32,
}

/// The words of a GET that its event repeats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) source: ProcessId,
    pub(crate) dest: Nid,
    /// The peer that delivered it.
    pub(crate) sender: Nid,
    pub(crate) portal: u32,
    pub(crate) match_bits: u64,
    pub(crate) rlength: u32,
}

/// Verdict of the portal's owner on a PUT or GET.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each GET")]
pub(crate) enum Verdict {
    /// Store it there.
    Put(PutGrant, Sink),
    /// Send that.
    Get(GetGrant, Payload),
    /// Keep it until it hears more.
    Wait(WaitOn),
    /// Drop it, for this reason.
    Drop(DropWhy),
}

/// Reason why a PUT or GET is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropWhy {
    NoMatch,
    TooLong,
    BadOffset,
}

/// A held message to go on with before this input is done.
#[derive(Debug)]
enum Resume {
    /// Match entries are to be looked for again.
    Find(Ticket),
    /// It has been found, or will not be.
    Found(Waiter, Box<Verdict>),
}

/// LNet on one shard.
#[derive(Debug)]
pub(crate) struct Lnet {
    pub(crate) peers: Slab<Peer>,
    /// Messages that wait for credits.
    waiting: Total,
    /// The last target: saves a look-up for most operations, and that table hashes its keys with care.
    recent: Option<Key>,
    /// The same of messages that are passed on, by the NI that they came by.
    recent_hops: [Option<Key>; NIS_MAX],
    pub(crate) ops: Ops,
    pub(crate) portals: Portals,
    /// Messages of this node to itself that wait for a match entry's sink.
    pub(crate) own: Slab<OwnMessage>,
    own_work: OwnWork,
    /// Figures of NIs whose places others have.
    gone: NiFigures,
    nis: Vec<Ni>,
    /// Held messages to go on with before this input is done: whatever NI they came by.
    again: VecDeque<Resume>,
    /// Messages dropped, by portal.
    pub(crate) drops: Drops,
    /// Peers to look at again before this input is done.
    kicks: VecDeque<Key>,
    /// Of peers.
    timers: Timers,
    /// Room for what is due.
    due: Vec<u32>,
    /// Set while going down; emptied when the event is out.
    pub(crate) shutdown: Option<(AppId, u64)>,
    /// Our ping info as it goes out, and its sequence number, which each change of our NIs moves on.
    ping_info: Payload,
    sequence: u32,
    /// An NI that peers have not been told of.
    newest: Option<NiId>,
    /// Names of Multi-Rail peers.
    pub(crate) aliases: Aliases,
    discovery: Discovery,
    rails: Rails,
    health: Health,
    recovery: Recovery,
    /// Messages that have not left, and may go by another pair.
    unsent: VecDeque<Unsent>,
    routes: Routes,
    gateways: Gateways,
    pub(crate) fars: Fars,
    /// Figures of NIDs without an entry.
    pub(crate) kept: Kept,
    /// Only while there are fault rules.
    faults: Option<Box<Faults>>,
    routing: Routing,
    buffers: Buffers,
    stuck: Stuck,
    /// Messages of other nodes that are here whole, and parts of those that are not.
    passing: VecDeque<Passing>,
    cuts: Cuts,
    /// Router buffers on their way home.
    homeward: VecDeque<Returned>,
    /// Boxes for messages that go to another shard.
    #[expect(clippy::vec_box, reason = "the boxes are what is kept")]
    spare: Vec<Box<Option<Msg>>>,
    /// For applications.
    pub(crate) events: Events,
    /// For other shards.
    mail: VecDeque<(ShardId, ShardMsg)>,
    /// A bucket that has come, until nothing about it comes over its old home.
    arrival: Option<Arrival>,
    renamed: Renamed,
}

impl Lnet {
    /// An entry of a peer, in bytes.
    #[cfg(test)]
    pub(crate) const PEER_BYTES: usize = size_of::<Peer>();

    /// LNet without peers, over the NIs that `cfg` names.
    pub(crate) fn new(cfg: &Config) -> Lnet {
        // Each shard's handles differ from the others'.
        let (shards, me) = (u64::from(cfg.shards.count.max(1)), u64::from(cfg.shards.me.0));
        let first = cfg.first_object.wrapping_add(me.wrapping_mul(cfg.object_step));
        let (routing, nis) = (Routing::new(cfg), Ni::all(cfg));
        let mut lnet = Lnet {
            peers: Slab::new(),
            waiting: Total::default(),
            recent: None,
            recent_hops: [None; NIS_MAX],
            ops: Ops::new(cfg.interface_cookie, first, cfg.object_step.wrapping_mul(shards), cfg.nis.len()),
            portals: Portals::new(cfg.shards.me),
            own: Slab::new(),
            own_work: OwnWork::new(),
            gone: NiFigures::none(),
            again: VecDeque::new(),
            drops: Drops::default(),
            kicks: VecDeque::new(),
            timers: Timers::new(),
            due: Vec::new(),
            shutdown: None,
            ping_info: links::own_info(cfg, &nis, &routing, cfg.sequence()),
            nis,
            sequence: cfg.sequence(),
            newest: None,
            aliases: Aliases::first(cfg.nids(), &cfg.peers),
            discovery: Discovery::new(cfg),
            rails: Rails::default(),
            health: Health::default(),
            recovery: Recovery::default(),
            unsent: VecDeque::new(),
            routes: Lnet::first_routes(cfg),
            gateways: Gateways::new(cfg),
            fars: Fars::new(),
            kept: Kept::new(),
            faults: None,
            routing,
            buffers: Buffers::default(),
            stuck: Stuck::default(),
            passing: VecDeque::new(),
            cuts: Cuts::new(cfg),
            homeward: VecDeque::new(),
            spare: Vec::new(),
            events: Events::default(),
            mail: VecDeque::new(),
            arrival: None,
            renamed: Renamed::default(),
        };
        lnet.begin_watch(cfg);
        lnet
    }

    /// The next message for another shard.
    #[inline]
    pub(crate) fn mail(&mut self) -> Option<(ShardId, ShardMsg)> {
        pop(&mut self.mail)
    }

    /// Time at which a timer is due, in ns; `u64::MAX` for never.
    pub(crate) fn wake(&self) -> u64 {
        let wake = self.timers.wake().min(self.ops.timers.wake()).min(self.fault_wake());
        let wake = wake.min(self.routing.wake()).min(self.recovery_wake()).min(self.gateways.wake());
        let wake = wake.min(self.cuts.wake());
        if self.discovery.changed.is_some() || self.own_work.len() > 0 { 0 } else { wake }
    }

    /// Looks at whatever's time has come.
    pub(crate) fn timer<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) {
        if let Some(features) = self.discovery.changed.take() {
            self.tell_all(cx, lnds, features);
        }
        self.check_gateways(cx, lnds);
        self.own_turn(cx, lnds);
        self.routing_turn(cx, lnds);
        self.end_late_cuts(cx, lnds);
        self.end_delays(cx, lnds);
        if self.recovery_wake() <= cx.now {
            self.recover(cx, lnds);
        }
        let mut due = std::mem::take(&mut self.due);
        self.timers.due(cx.now, &mut due);
        cx.counters.timers_fired += due.len() as u64;
        for i in due.drain(..) {
            if let Some(peer) = self.peers.key_at(i as usize)
                && let Some(lnd) = self.lnd_of(lnds, peer)
            {
                self.end_overdue(cx, lnd, peer);
                self.relieve(cx, peer);
            }
        }
        self.ask_for_stuck(cx, lnds);
        self.ops.timers.due(cx.now, &mut due);
        cx.counters.timers_fired += due.len() as u64;
        for i in due.drain(..) {
            if let Some(op) = self.ops.overdue(cx.now, i) {
                cx.counters.err_no_answer += 1;
                self.unanswered(cx, op);
                let event = self.ops.fail(op, cx.now, LnetError::TimedOut);
                self.complete_some(event);
            }
        }
        self.due = due;
    }

    /// Whether [`Lnet::settle`] has something to do.
    #[inline]
    pub(crate) fn is_unsettled(&self) -> bool {
        let peers = !self.kicks.is_empty() || !self.again.is_empty() || self.has_discovered();
        peers || self.has_to_pass()
    }

    /// Looks again at one peer whose credits changed, or at a held message; gives whether there was one.
    #[inline]
    pub(crate) fn settle<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) -> bool {
        if let Some(peer) = self.kicks.pop_front() {
            if let Some(lnd) = self.lnd_of(lnds, peer) {
                self.send_waiting(cx, lnd, peer);
            }
            return true;
        }
        if self.discovers(cx, lnds)
            || self.go_again(cx, lnds)
            || self.has_to_pass() && self.passes_on(cx, lnds)
        {
            return true;
        }
        if self.again.is_empty() {
            return false;
        }
        self.go_on(cx, lnds);
        true
    }

    /// Says that the node is down, if that is what is left to do.
    pub(crate) fn down(&mut self) {
        if self.ops.len() == 0
            && self.portals.len() == 0
            && let Some((app, tag)) = self.shutdown.take()
        {
            self.complete(app, Event::ShutDown { tag });
        }
    }

    /// Messages that wait.
    pub(crate) fn queued(&self) -> usize {
        self.own.len()
            + self.own_work.len()
            + self.unsent.len()
            + self.delayed()
            + self.fars.held
            + self.waiting()
    }

    /// Messages that wait for credits, or until their peer is known.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.get() + self.discovery.held
    }

    /// The same, counted anew.
    #[cfg(feature = "testing")]
    pub(crate) fn waiting_recounted(&self) -> usize {
        self.peers.values().map(Peer::waits).sum()
    }

    /// Places in tables and queues.
    #[cfg(feature = "testing")]
    pub(crate) fn places(&self) -> usize {
        let queues = self.again.capacity() + self.events.places() + self.own_work.places();
        self.portals.places() + self.ops.places() + self.own.capacity() + queues
    }

    /// Credits that messages to a peer hold, and messages that wait for one.
    pub(crate) fn credits(&self, peer: Key) -> (u32, usize) {
        self.peers.get(peer).map_or((0, 0), |p| (p.uses.credits, p.waits()))
    }

    // Always: where the kind of event is known it is never moved as a whole.
    #[inline(always)]
    fn complete(&mut self, app: AppId, event: Event) {
        // Of the operations that the runtime begins, only the last one ends with an event.
        if app == AppId::NODE && !matches!(event, Event::ShutDown { .. } | Event::Refused { .. }) {
            return self.discovery.hear(&event);
        }
        self.events.push(app, event);
    }

    /// A message of an application's has left, or failed. No [`Event`] is made of it yet.
    #[inline]
    fn complete_send(&mut self, app: AppId, tag: u64, status: Result<(), LnetError>, done: bool) {
        if app == AppId::NODE {
            return self.discovery.hear(&Event::Send { tag, status, done });
        }
        self.events.push_send(app, tag, status, done);
    }

    /// An application's PUT was acknowledged.
    #[inline]
    fn complete_ack(&mut self, app: AppId, tag: u64, mlength: u32, done: bool) {
        if app == AppId::NODE {
            return self.discovery.hear(&Event::Ack { tag, status: Ok(()), mlength, done });
        }
        self.events.push_ack(app, tag, mlength, done);
    }

    #[inline(always)]
    fn complete_some(&mut self, event: Option<(AppId, Event)>) {
        if let Some((app, event)) = event {
            self.complete(app, event);
        }
    }

    fn post(&mut self, to: ShardId, body: Body) {
        self.mail.push_back((to, ShardMsg(body)));
    }

    /// Tells all other shards.
    fn post_all(&mut self, cx: &Cx, body: impl Fn() -> Body) {
        for shard in (0..cx.cfg.shards.count).map(ShardId).filter(|s| *s != cx.cfg.shards.me) {
            self.post(shard, body());
        }
    }
}
