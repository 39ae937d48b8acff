//! Cut-through: a long message begins to leave before it is whole (docs/protocol/upper.md §1.2).
//!
//! ```text
//!   forward       it is long, no sum covers its payload, nobody broke one off lately: parts are asked for
//!   part          16 KiB or more have come                          Passing::Begins, Part   at the home of its sender
//!   cut_begins    its next hop                     ── CutBegins ──> perhaps on another shard, where it is kept by its name
//!   cut_hears     is the way clear?                ── CutPart ────> header and what is here; each part as it comes
//!   cut_here      the last part, or it broke off   ── CutEnds ────> the connection goes on, or its set is ended
//! ```
//!
//! ```text
//!       Part / is the way clear?               Part / passed on
//!         .---.                                  .---.
//!         |   v      Clear / header, first part  |   v       Whole / the last part
//!        GATHERED -----------------------------> LEAVING ------------------------------> OVER
//!            |                                       '--- Broken / the set is ended ----> OVER
//!            | Barred
//!            '-------> STORED   Part / kept
//!        GATHERED, STORED:   Whole / sent as any message, Broken / dropped -------------> OVER
//! ```
//!
//! It leaves early only where nothing is before it: the peer has credits, a connection that is up, and nothing queued there. Where
//! something is, nothing would be gained, and it is gathered, looked at again with each part, and once it is whole goes the way of
//! every message. So credits, queues and resends know whole messages only, and the order on a connection is what it was.
//!
//! A header on a stream promises a payload. If that does not come the set has to end, and with it what is queued there for others.
//! So a sender whose message broke off, or was slow, is stored for [`SOURCE_BARRED`] from then on, whoever its messages are for, and what
//! is for the next hop of such a one for [`HOP_BARRED`], whoever sends it. However many strangers there are, a peer loses one set in that
//! time, and one that comes slower than [`SLOW`] holds its connection up once: for a second at most, the pace that all must keep from
//! when they begin to leave (`pace.rs`). Its sender's connection is read on, and the rest dropped. Who is barred goes with the home of
//! its address.
//!
//! A bucket of which a message comes or leaves in parts does not move.

use std::net::IpAddr;

use fsm::Fsm;

use super::forward::{Passing, passed};
use super::lease::Lease;
use super::pace;
use super::remote::Body;
use super::{Delivery, Lnet, Msg, TxDone};
use crate::hash::OwnMap;
use crate::lnd::config::SEC;
use crate::lnd::{Arrived, Config, Cx, Data, Lnd, NiId, Payload, Pieces, Stored};
use crate::stream::slab::Key;
use crate::stream::{Bucket, ShardId};
use crate::wire::{LnetHdr, ProcessId};

/// Time for which messages of a host that broke one off are stored, in ns.
const SOURCE_BARRED: u64 = 600 * SEC;
/// A message that takes longer to come than so, in ns, is a slow sender's.
const SLOW: u64 = SEC / 10;
/// Time for which messages for a next hop are stored that lost a set so, or was held up, in ns.
const HOP_BARRED: u64 = 60 * SEC;
/// Addresses that are barred at a time; with more, all are.
const BARRED: usize = 256;
/// Low bits of a name, which tell messages of a shard apart.
const NAME_BITS: u32 = 48;

fsm::fsm! {
    /// A message that is not whole, at the home of its next hop.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Cut {
        /// It may leave when its way is clear.
        Gathered,
        /// It leaves when it is whole.
        Stored,
        /// Its header is on a stream.
        Leaving,
        /// No part of it follows.
        Over,
    }

    /// Events of its payload, and of its way.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum CutEvent {
        /// A part has come.
        Part,
        /// Nothing is before it.
        Clear,
        /// The next hop's header has a sum over the payload, or that lost a set lately.
        Barred,
        /// The last part has come.
        Whole,
        /// The rest will not come, or not in time.
        Broken,
    }

    /// Consequences.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum CutAction {
        /// See whether its way is clear.
        Look,
        /// Keep what is here.
        Keep,
        /// Put its header and what is here on a stream.
        Begin,
        /// Put the part on the stream.
        Pass,
        /// Send it as any message.
        Launch,
        /// Put the last part on the stream.
        Last,
        /// Nothing of it has left: drop it.
        Drop,
        /// End the set that it was leaving on.
        Abort,
    }

    table Cut + CutEvent => CutAction {
        start Gathered;
        else "it is ignored";
        Gathered + Part => same, Look;
        Gathered + Clear => Leaving, Begin;
        Gathered + Barred => Stored, Keep;
        Stored + Part => same, Keep;
        Leaving + Part => same, Pass;
        Gathered | Stored + Whole => Over, Launch;
        Gathered | Stored + Broken => Over, Drop;
        Leaving + Whole => Over, Last;
        Leaving + Broken => Over, Abort;
    }
}

/// A message that is not whole, at the home of its next hop.
#[derive(Debug)]
struct Leaving {
    state: Fsm<Cut>,
    ni: NiId,
    via: ProcessId,
    msg: Msg,
    /// Bytes that have come of it, as long as nothing has left.
    pieces: Pieces,
    /// The LND's name for it, once it leaves; since when it does, in ns, and bytes that have left.
    begun: Key,
    since: u64,
    left: u64,
}

impl Leaving {
    /// Time by which more of it has to be here, once it leaves, in ns.
    fn due(&self, cx: &Cx) -> u64 {
        pace::due(self.since, self.left, cx.cfg.timeout())
    }
}

/// A message that is not whole, at the home of its sender.
#[derive(Debug)]
struct Coming {
    /// The home of its next hop.
    home: ShardId,
    /// Time at which its first part came, in ns.
    began: u64,
    /// The host that sends it.
    ip: Option<IpAddr>,
}

/// Addresses that messages are stored for, until then, in ns.
#[derive(Debug, Default)]
pub(super) struct Barred {
    until: Vec<(IpAddr, u64)>,
    /// All are, since there were too many.
    all: u64,
}

impl Barred {
    fn bar(&mut self, now: u64, ip: IpAddr, until: u64) {
        self.until.retain(|(other, t)| *t > now && *other != ip);
        if self.until.len() < BARRED {
            self.until.push((ip, until));
        } else {
            self.all = until;
        }
    }

    /// Takes out the addresses of a bucket. Where all are barred they are so there, too.
    fn take(&mut self, b: Bucket) -> Barred {
        let (of, rest) =
            std::mem::take(&mut self.until).into_iter().partition(|(ip, _)| Bucket::of(*ip) == b);
        self.until = rest;
        Barred { until: of, all: self.all }
    }

    fn has(&self, now: u64, ip: Option<IpAddr>) -> bool {
        let one = || self.until.iter().any(|(other, t)| *t > now && Some(*other) == ip);
        self.all > now || (!self.until.is_empty() && one())
    }
}

/// Messages of a shard that are not whole.
#[derive(Debug)]
pub(super) struct Cuts {
    /// Name of the next one that comes.
    next: u64,
    /// Those that come here.
    coming: OwnMap<u64, Coming>,
    /// Those whose next hop's home is here.
    leaving: OwnMap<u64, Leaving>,
    /// Time at which one of them may be late, in ns, or before that.
    wake: u64,
    /// Hosts that broke a message off.
    sources: Barred,
    /// Peers that lost a set by one.
    hops: Barred,
}

impl Cuts {
    pub(super) fn new(cfg: &Config) -> Cuts {
        Cuts {
            next: u64::from(cfg.shards.me.0) << NAME_BITS,
            coming: OwnMap::default(),
            leaving: OwnMap::default(),
            wake: u64::MAX,
            sources: Barred::default(),
            hops: Barred::default(),
        }
    }

    pub(super) fn wake(&self) -> u64 {
        self.wake
    }

    /// Whether messages of a host are stored: it broke one off, or one of its is slow.
    fn bars_source(&self, now: u64, ip: Option<IpAddr>) -> bool {
        let slow = |c: &Coming| c.ip == ip && now.saturating_sub(c.began) > SLOW;
        self.sources.has(now, ip) || ip.is_some() && self.coming.values().any(slow)
    }
}

impl Lnet {
    /// Whether a message that has come may leave before it is whole.
    pub(super) fn may_cut(&self, cx: &mut Cx, msg: &Arrived) -> bool {
        if msg.sum.is_some() {
            cx.counters.forward_cut_summed += 1;
            return false;
        }
        let barred = self.cuts.bars_source(cx.now, self.host_of(cx, msg.peer));
        cx.counters.forward_cut_barred += u64::from(barred);
        !barred
    }

    fn host_of(&self, cx: &Cx, peer: Key) -> Option<IpAddr> {
        self.peers.get(peer).and_then(|p| cx.budget.ip(p.host))
    }

    /// A part of a message has come: the first one gives it a name.
    pub(super) fn part_here(&mut self, cx: &mut Cx, delivery: &mut Delivery, pieces: Pieces, hdr: &LnetHdr) {
        if let Delivery::Forward(lease) = *delivery {
            let cut = self.cuts.next;
            self.cuts.next += 1;
            self.passing.push_back(Passing::Begins(cut, lease, *hdr));
            *delivery = Delivery::Cut(cut);
        }
        if let Delivery::Cut(cut) = *delivery {
            cx.counters.forward_copied_bytes += pieces.copied();
            self.passing.push_back(Passing::Part(cut, pieces));
        }
    }

    /// The rest of a message has come, or will not.
    pub(super) fn cut_here(
        &mut self,
        cx: &mut Cx,
        peer: Option<Key>,
        cut: u64,
        stored: Stored,
        hdr: &LnetHdr,
    ) {
        let last = match (stored.status, stored.data) {
            (Ok(()), Data::Lent(pieces)) => {
                cx.counters.forward_copied_bytes += pieces.copied();
                cx.counters.forward_rx_msgs += 1;
                cx.counters.forward_rx_bytes += u64::from(hdr.payload_len);
                Some(pieces)
            }
            _ => None,
        };
        let began = self.cuts.coming.get(&cut).map_or(cx.now, |c| c.began);
        if (last.is_none() || cx.now.saturating_sub(began) > SLOW)
            && let Some(ip) = peer.and_then(|p| self.host_of(cx, p))
        {
            self.cuts.sources.bar(cx.now, ip, cx.now + SOURCE_BARRED);
        }
        self.passing.push_back(Passing::Ends(cut, last));
    }

    /// Finds the next hop of a message that is not whole.
    pub(super) fn cut_begins<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        cut: u64,
        lease: Lease,
        hdr: &LnetHdr,
    ) {
        // Without one its parts find nobody.
        let Some(hop) = self.next_hop(cx, lnds, lease, hdr) else { return };
        let (home, msg) = (hop.home(cx), passed(hdr, Payload::empty(), lease));
        let ip = self.host_of(cx, lease.key);
        self.cuts.coming.insert(cut, Coming { home, began: cx.now, ip });
        if home == cx.cfg.shards.me {
            self.keep_cut(cut, (hop.ni, hop.via), msg);
        } else {
            let mut boxed = self.spare.pop().unwrap_or_default();
            *boxed = Some(msg);
            self.post(home, Body::CutBegins(cut, hop.ni, hop.via, boxed));
        }
    }

    /// A message that is not whole has come to the home of its next hop, in a box.
    pub(super) fn cut_begins_here(&mut self, cut: u64, way: (NiId, ProcessId), mut boxed: Box<Option<Msg>>) {
        let msg = boxed.take();
        self.spare_box(Some(boxed));
        if let Some(msg) = msg {
            self.keep_cut(cut, way, msg);
        }
    }

    fn keep_cut(&mut self, cut: u64, (ni, via): (NiId, ProcessId), msg: Msg) {
        let (pieces, begun) = (Pieces::default(), Key::NOWHERE);
        self.cuts.leaving.insert(
            cut,
            Leaving { state: Fsm::START, ni, via, msg, pieces, begun, since: u64::MAX, left: 0 },
        );
    }

    /// Gives a part to the home of the next hop.
    pub(super) fn cut_goes_on<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        cut: u64,
        pieces: Pieces,
    ) {
        match self.cuts.coming.get(&cut).map(|c| c.home) {
            Some(home) if home == cx.cfg.shards.me => {
                self.cut_hears(cx, lnds, cut, CutEvent::Part, pieces);
            }
            Some(home) => self.post(home, Body::CutPart(cut, pieces)),
            None => {}
        }
    }

    /// Gives the last part, or word that none comes, to the home of the next hop.
    pub(super) fn cut_is_over<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        cut: u64,
        last: Option<Pieces>,
    ) {
        match self.cuts.coming.remove(&cut).map(|c| c.home) {
            Some(home) if home == cx.cfg.shards.me => self.cut_ends(cx, lnds, cut, last),
            Some(home) => self.post(home, Body::CutEnds(cut, last)),
            None => {}
        }
    }

    /// The last part has come to the home of the next hop, or none comes.
    pub(super) fn cut_ends<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        cut: u64,
        last: Option<Pieces>,
    ) {
        let event = if last.is_some() { CutEvent::Whole } else { CutEvent::Broken };
        self.cut_hears(cx, lnds, cut, event, last.unwrap_or_default());
    }

    /// Applies the table of a message that is not whole.
    pub(super) fn cut_hears<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnds: &mut [L],
        cut: u64,
        event: CutEvent,
        pieces: Pieces,
    ) {
        let Some(mut c) = self.cuts.leaving.remove(&cut) else { return };
        let Some(action) = c.state.apply(event) else { return };
        match action {
            CutAction::Look => {
                c.pieces.append(pieces);
                self.look_at_way(cx, lnds, &mut c);
            }
            CutAction::Keep => c.pieces.append(pieces),
            CutAction::Pass | CutAction::Last => {
                if cx.now.saturating_sub(c.since) > SLOW {
                    self.bar_hop(cx.now, &c);
                }
                c.left += pieces.bytes();
                if let Some(lnd) = lnds.get_mut(c.ni.index()) {
                    lnd.more(self, cx, c.begun, pieces, action == CutAction::Last);
                }
            }
            CutAction::Launch => {
                c.pieces.append(pieces);
                c.msg.payload = Payload::forwarded(std::mem::take(&mut c.pieces));
                return self.forward_via(cx, lnds, (c.ni, c.via), c.msg);
            }
            CutAction::Drop => {
                if let TxDone::Forward(lease) = c.msg.done {
                    self.homeward.push_back(lease.into());
                }
                return;
            }
            CutAction::Abort => self.abort_begun(cx, lnds, &c),
            // Of the way, which is looked at below.
            CutAction::Begin => {}
        }
        if c.state != Cut::Over {
            self.cuts.leaving.insert(cut, c);
        }
    }

    /// The rest of a message that is leaving will not come.
    #[cold]
    fn abort_begun<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], c: &Leaving) {
        let Some(lnd) = lnds.get_mut(c.ni.index()) else { return };
        if lnd.break_off(self, cx, c.begun) {
            cx.counters.forward_cut_aborted += 1;
            self.bar_hop(cx.now, c);
        }
    }

    /// Ends messages that leave and whose next part is late.
    pub(super) fn end_late_cuts<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L]) {
        if self.cuts.wake > cx.now {
            return;
        }
        let dues = self
            .cuts
            .leaving
            .iter()
            .filter(|(_, c)| c.state == Cut::Leaving)
            .map(|(cut, c)| (*cut, c.due(cx)));
        let (late, later): (Vec<_>, Vec<_>) = dues.partition(|(_, due)| *due <= cx.now);
        self.cuts.wake = later.into_iter().map(|(_, due)| due).min().unwrap_or(u64::MAX);
        for (cut, _) in late {
            self.cut_hears(cx, lnds, cut, CutEvent::Broken, Pieces::default());
        }
    }

    /// Messages for the next hop of this one are stored for a time.
    fn bar_hop(&mut self, now: u64, c: &Leaving) {
        if let Some(ip) = c.via.nid.ip() {
            self.cuts.hops.bar(now, ip, now + HOP_BARRED);
        }
    }

    /// The addresses of a bucket go to another shard: those that are barred are there, too.
    pub(super) fn barred_leave(&mut self, b: Bucket) -> [Barred; 2] {
        let Cuts { sources, hops, .. } = &mut self.cuts;
        [sources, hops].map(|barred| barred.take(b))
    }

    pub(super) fn barred_come(&mut self, now: u64, barred: [Barred; 2]) {
        let Cuts { sources, hops, .. } = &mut self.cuts;
        for (here, came) in [sources, hops].into_iter().zip(barred) {
            here.all = here.all.max(came.all);
            came.until.into_iter().for_each(|(ip, until)| here.bar(now, ip, until));
        }
    }

    /// Lets a message leave with what is here of it, if nothing is before it.
    fn look_at_way<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnds: &mut [L], c: &mut Leaving) {
        let Some(lnd) = lnds.get_mut(c.ni.index()).filter(|_| !cx.down) else { return };
        let Some(peer) = lnd.find(c.via) else { return };
        // One that takes nothing has whole messages, one at a time.
        if c.msg.hdr.as_ref().is_some_and(|hdr| self.stuck.has(hdr.dest_nid, cx.now)) {
            return;
        }
        let Some(way) = self.way_now(cx, lnd, peer, &c.msg).filter(|w| lnd.is_drained(*w)) else { return };
        let sums = lnd.sums(cx, way);
        let carried = c.msg.hdr.as_ref().is_some_and(|hdr| lnd.carries(way, hdr));
        if sums || !carried || self.cuts.hops.has(cx.now, c.via.nid.ip()) {
            *(if sums {
                &mut cx.counters.forward_cut_summed
            } else {
                &mut cx.counters.forward_cut_barred
            }) += 1;
            c.state.apply(CutEvent::Barred);
            return;
        }
        let Some(entry) = self.take_credit(cx, peer, &mut c.msg) else { return };
        c.state.apply(CutEvent::Clear);
        (c.since, c.left) = (cx.now, c.pieces.bytes());
        self.cuts.wake = self.cuts.wake.min(c.due(cx));
        cx.counters.forward_cut_msgs += 1;
        c.msg.payload = Payload::part(std::mem::take(&mut c.pieces));
        c.begun = lnd.begin(self, cx, entry, &mut c.msg, way);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<Cut>(), @r"
        Gathered + Part -> Gathered, Look
        Gathered + Clear -> Leaving, Begin
        Gathered + Barred -> Stored, Keep
        Gathered + Whole -> Over, Launch
        Gathered + Broken -> Over, Drop
        Stored + Part -> Stored, Keep
        Stored + Whole -> Over, Launch
        Stored + Broken -> Over, Drop
        Leaving + Part -> Leaving, Pass
        Leaving + Whole -> Over, Last
        Leaving + Broken -> Over, Abort
        otherwise: it is ignored
        ");
    }

    #[test]
    fn who_is_barred_goes_with_its_bucket() {
        let ips = [1, 2, 3].map(|n| IpAddr::from([10, 0, 0, n]));
        let mut here = Barred::default();
        ips.iter().for_each(|ip| here.bar(0, *ip, 10));
        let there = here.take(Bucket::of(ips[0]));
        let of = |b: &Barred| ips.map(|ip| b.has(9, Some(ip)));
        assert_eq!((of(&here), of(&there)), ([false, true, true], [true, false, false]));
    }

    #[test]
    fn hosts_are_barred_for_a_time_and_all_of_them_where_there_are_too_many() {
        let ip = |n: u16| Some(IpAddr::from([10, 0, (n >> 8) as u8, n as u8]));
        let mut b = Barred::default();
        assert!(!b.has(0, ip(1)));
        b.bar(0, ip(1).unwrap(), 10);
        assert!(b.has(9, ip(1)) && !b.has(9, ip(2)) && !b.has(10, ip(1)));
        b.bar(20, ip(1).unwrap(), 30);
        b.bar(25, ip(1).unwrap(), 35);
        assert!(b.has(34, ip(1)) && !b.has(35, ip(1)));
        assert_eq!(b.until.len(), 1);
        for n in 0..BARRED as u16 {
            b.bar(40, ip(n).unwrap(), 50);
        }
        assert!(b.has(49, ip(7)) && !b.has(49, ip(999)));
        b.bar(45, ip(999).unwrap(), 55);
        assert!(b.has(54, ip(999)) && b.has(54, ip(1000)) && !b.has(55, ip(999)));
        assert_eq!(b.until.len(), BARRED);
    }
}
