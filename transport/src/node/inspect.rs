//! Inspection: questions to the lcores of a running node, and their answers.
//!
//! An lcore looks at one flag a turn. Where it is set it takes the question out of its mailbox, fills the room for the
//! answer that came with it, and puts it back; it neither allocates nor waits, and what one question may cost is
//! bounded ([`PAGE`] connections). The asker sleeps between looks, and gives up at its deadline.
//!
//! ```text
//!   Inspection::ask ── Question ──> Mailbox.asks ──> Shard::turn: fills it ──> Mailbox.answers ──> Inspection
//!        (any thread, one at a time)                       (the lcore)
//! ```

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dataplane::clock::Clock;
use dataplane::tap::TapEnd;

use super::counters::StreamCounters;
use super::handover;
pub use super::loop_stats::LoopStats;
pub use super::nis::{AboutNis, NiAsk, Site};
pub use super::pages::{Filter, PAGE, Page, Peers, Row, Rows};
use crate::lnd::tunables::Change;
use crate::lnd::{Config, Counters, NIS_MAX, PeerError, RouteError};
use crate::lnet::by_hand::{ByHandView, PeerAsk};
use crate::lnet::faults::{FaultAsk, FaultError, FaultView};
use crate::lnet::figures::{NiFigures, PeerFigures};
use crate::lnet::routes::{RouteAsk, RouteView};
use crate::lnet::{HealthAsk, PeerNiView, RoutingView};
use crate::socklnd::PeerBrief;
use crate::stream::Homes;
use crate::wire::{Nid, ProcessId};

/// Counters beyond the common ones that an lcore may tell.
const MORE: usize = 512;
/// Questions that may wait for an lcore that does not turn.
const WAITING: usize = 8;

/// Counters of an lcore.
#[derive(Debug)]
pub struct Counts {
    /// Protocol.
    pub proto: Counters,
    /// Streams and buffers.
    pub streams: StreamCounters,
    /// The polling loop.
    pub loop_stats: LoopStats,
    /// The TCP stack and the port, where they are ours; and the mesh.
    pub more: Vec<(&'static str, u64)>,
    /// NIs, the primary one first, and `0@lo` behind them.
    pub nis: Vec<NiFigures>,
    /// NIs that were deleted, together.
    pub gone: NiFigures,
    /// Operations that wait for an answer.
    pub ops: u64,
    /// Messages that wait for credits, or until their peer is known.
    pub waiting: u64,
}

impl Counts {
    fn new() -> Counts {
        Counts {
            proto: Counters::default(),
            streams: StreamCounters::default(),
            loop_stats: LoopStats::default(),
            more: Vec::with_capacity(MORE),
            nis: Vec::with_capacity(NIS_MAX + 1),
            gone: NiFigures::none(),
            ops: 0,
            waiting: 0,
        }
    }

    /// Adds a count, while there is room.
    pub fn add(&mut self, name: &'static str, n: u64) {
        if self.more.len() < self.more.capacity() {
            self.more.push((name, n));
        }
    }

    /// Adds an NI, while there is room.
    pub fn add_ni(&mut self, ni: NiFigures) {
        if self.nis.len() < self.nis.capacity() {
            self.nis.push(ni);
        }
    }
}

/// A question about fault rules.
#[derive(Debug)]
pub struct AboutFaults {
    /// An order, before they are shown.
    pub ask: Option<FaultAsk>,
    /// Answer to the order: how many rules it concerned.
    pub done: Result<usize, FaultError>,
    /// The rules; the asker has made room for [`RULES_MAX`](crate::lnet::faults::RULES_MAX).
    pub rules: Vec<FaultView>,
}

/// A question about routes.
#[derive(Debug)]
pub struct AboutRoutes {
    /// An order, before they are shown.
    pub ask: Option<RouteAsk>,
    /// Answer to the order.
    pub done: Result<(), RouteError>,
    /// The routes; the asker has made room for [`ROUTES_MAX`](crate::lnd::ROUTES_MAX).
    pub routes: Vec<RouteView>,
}

/// A question about peers by hand.
#[derive(Debug)]
pub struct AboutByHand {
    /// An order, before they are shown.
    pub ask: Option<PeerAsk>,
    /// Answer to the order.
    pub done: Result<(), PeerError>,
    /// Their NIDs; the asker has made room for [`BY_HAND_MAX`](crate::lnd::BY_HAND_MAX).
    pub nids: Vec<ByHandView>,
}

/// An order about health.
#[derive(Debug)]
pub struct AboutHealth {
    /// It.
    pub ask: HealthAsk,
    /// Number of values that it concerned.
    pub done: usize,
}

/// A question, and the room for its answer.
#[derive(Debug)]
pub enum Question {
    /// Connections.
    Page(Box<Page>),
    /// Peers.
    Peers(Box<Peers>),
    /// Figures of peers.
    Figures(Box<Rows<PeerFigures>>),
    /// NIDs of peers, and their health.
    PeerNis(Box<Rows<PeerNiView>>),
    /// Counters.
    Counts(Box<Counts>),
    /// Shows packets to this end, or to none; the answer is the end that was there before.
    Tap(Option<Box<TapEnd>>),
    /// The configuration as it is.
    Config(Box<Config>),
    /// Changes a tunable, from the next turn on.
    Tune(Change),
    /// Shows fault rules, or changes them.
    Faults(Box<AboutFaults>),
    /// The interface of this address has a link, or has none.
    Link(IpAddr, bool),
    /// Shows routing.
    Routing(Box<RoutingView>),
    /// Shows routes, or changes them.
    Routes(Box<AboutRoutes>),
    /// Shows peers by hand, or changes them.
    ByHand(Box<AboutByHand>),
    /// Sets values of health.
    Health(Box<AboutHealth>),
    /// Shows places for NIs, or changes one.
    Nis(Box<AboutNis>),
}

/// Looking in: an lcore's streams as somebody sees them who asks the node. Nothing here changes a stream.
pub trait Inspect {
    /// Counts.
    fn counters(&self) -> StreamCounters;

    /// Adds a page of connections.
    fn look(&mut self, page: &mut Page);

    /// Names and values of what else is counted.
    fn details(&self, f: &mut dyn FnMut(&'static str, u64));

    /// Shows packets to `tap`, or to nobody; returns whom they were shown to so far, or `tap` where there are no
    /// packets to show.
    fn tap(&mut self, tap: Option<Box<TapEnd>>) -> Option<Box<TapEnd>>;
}

/// Between an lcore and those who ask it.
pub type Mailbox = handover::Mailbox<Question>;

/// An lcore's end of its mailbox: when this value goes, with its shard, those who ask hear that it has ended.
#[derive(Debug)]
pub(crate) struct Attended(pub(crate) Arc<Mailbox>);

impl Drop for Attended {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// An lcore did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// Not in time.
    #[error(
        "lcore {lcore} has not answered within {ms} ms: it is held up, or its CPU is busy with other programs (the node's \
         log, and `top -H`, say more)"
    )]
    Late {
        /// Which.
        lcore: usize,
        /// Time waited, in ms.
        ms: u64,
    },
    /// Its shard is gone.
    #[error("lcore {lcore} has ended: the node goes down, or its shard has failed (the node's log says so)")]
    Ended {
        /// Which.
        lcore: usize,
    },
    /// The node has no such lcore.
    #[error("there is no lcore {lcore} in this node")]
    Unknown {
        /// Which.
        lcore: usize,
    },
}

/// Looks into a running node: the mailboxes of all its lcores.
pub struct Inspection {
    mailboxes: Vec<Arc<Mailbox>>,
    /// Serial number of the next question: an answer that comes too late is not taken for another's.
    next: Mutex<u64>,
    /// Held by whoever changes what is the same on all lcores: orders given at once would come to them in different orders.
    changes: Mutex<()>,
    /// The CPT of each lcore; none where one is for all.
    cpts: OnceLock<Vec<u32>>,
    clock: Clock,
}

/// Time limit for an answer. An lcore on kernel sockets may sleep for 10 ms, and a busy machine may not run it for
/// a second.
const PATIENCE: Duration = Duration::from_millis(3000);

impl Inspection {
    /// Mailboxes for `lcores` lcores, whose clock is `clock`.
    pub fn new(lcores: usize, clock: Clock) -> Inspection {
        Inspection {
            mailboxes: (0..lcores).map(|_| Arc::new(Mailbox::new(WAITING))).collect(),
            next: Mutex::new(0),
            changes: Mutex::new(()),
            cpts: OnceLock::new(),
            clock,
        }
    }

    /// The mailbox of an lcore, to be given to its shard.
    pub fn mailbox(&self, lcore: usize) -> Option<Arc<Mailbox>> {
        self.mailboxes.get(lcore).cloned()
    }

    /// Number of lcores.
    pub fn lcores(&self) -> usize {
        self.mailboxes.len()
    }

    /// The lcores' time, in ns.
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Waits until nobody else changes what is the same on all lcores.
    pub(super) fn changing(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lcores of its node are in these CPTs; none where one is for all.
    pub(super) fn cpts_are(&self, cpts: &[u32]) {
        let _ = self.cpts.set(cpts.to_vec());
    }

    /// The CPT whose lcores are home to the peer of that NID: homes move within one alone. 0 where one is for all.
    pub fn cpt_of(&self, nid: Nid) -> u32 {
        let homes = Homes::new(self.mailboxes.len().try_into().unwrap_or(u16::MAX));
        let home = nid.ip().map_or(0, |ip| usize::from(homes.of(ip).0));
        self.cpts.get().and_then(|all| all.get(home)).copied().unwrap_or(0)
    }

    /// Asks one lcore and waits.
    ///
    /// # Errors
    /// [`NoAnswer`]
    pub fn ask(&self, lcore: usize, ask: Question) -> Result<Question, NoAnswer> {
        self.ask_within(lcore, ask, PATIENCE)
    }

    fn ask_within(&self, lcore: usize, ask: Question, patience: Duration) -> Result<Question, NoAnswer> {
        let late = NoAnswer::Late { lcore, ms: patience.as_millis() as u64 };
        let mailbox = self.mailboxes.get(lcore).ok_or(NoAnswer::Unknown { lcore })?;
        let mut serial = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *serial += 1;
        mailbox
            .ask(*serial, ask)
            .map_err(|_| if mailbox.closed() { NoAnswer::Ended { lcore } } else { late })?;
        let until = Instant::now() + patience;
        let mut nap = Duration::from_micros(20);
        loop {
            // Read before the answers: the last answer comes before the end.
            let closed = mailbox.closed();
            match mailbox.take(*serial) {
                Some(a) => return Ok(a),
                None if closed => return Err(NoAnswer::Ended { lcore }),
                None if Instant::now() > until => return Err(late),
                None => {
                    std::thread::sleep(nap);
                    nap = (nap * 2).min(Duration::from_millis(5));
                }
            }
        }
    }

    /// Shows the connections of all lcores to `each`, page by page, until it returns false.
    ///
    /// # Errors
    /// [`NoAnswer`] of the first lcore that does not; those before it were shown.
    pub fn connections(&self, filter: Filter, mut each: impl FnMut(&Row) -> bool) -> Result<(), NoAnswer> {
        for lcore in 0..self.mailboxes.len() {
            let mut page = Box::new(Page::new(filter, 0));
            while page.from.is_some() {
                page.rows.clear();
                let Question::Page(p) = self.ask(lcore, Question::Page(page))? else { break };
                page = p;
                if !page.rows.iter().all(&mut each) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Shows the peers of all lcores, or the only one that is asked for, to `each`, page by page, until it returns false.
    ///
    /// # Errors
    /// [`NoAnswer`] of the first lcore that does not; those before it were shown.
    pub fn peers(
        &self,
        only: Option<ProcessId>,
        mut each: impl FnMut(&PeerBrief) -> bool,
    ) -> Result<(), NoAnswer> {
        for lcore in 0..self.mailboxes.len() {
            let mut page = Box::new(Peers { only, from: Some(0), rows: Vec::with_capacity(PAGE) });
            while page.from.is_some() {
                page.rows.clear();
                let Question::Peers(p) = self.ask(lcore, Question::Peers(page))? else { break };
                page = p;
                if !page.rows.iter().all(&mut each) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Shows the rows of all lcores to `each`, page by page, until it returns false.
    fn rows<T>(
        &self,
        ask: fn(Box<Rows<T>>) -> Question,
        answer: fn(Question) -> Option<Box<Rows<T>>>,
        mut each: impl FnMut(&T) -> bool,
    ) -> Result<(), NoAnswer> {
        for lcore in 0..self.mailboxes.len() {
            let mut page = Box::new(Rows::new());
            while page.from.is_some() {
                page.rows.clear();
                let Some(p) = answer(self.ask(lcore, ask(page))?) else { break };
                page = p;
                if !page.rows.iter().all(&mut each) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Shows figures of the peers of all lcores to `each` until it returns false.
    ///
    /// # Errors
    /// [`NoAnswer`] of the first lcore that does not; those before it were shown.
    pub fn peer_figures(&self, each: impl FnMut(&PeerFigures) -> bool) -> Result<(), NoAnswer> {
        let answer = |q| if let Question::Figures(p) = q { Some(p) } else { None };
        self.rows(Question::Figures, answer, each)
    }

    /// Shows the NIDs of peers of all lcores to `each` until it returns false. A NID that several NIs of ours speak with is shown for
    /// each; figures of health are the same then.
    ///
    /// # Errors
    /// [`NoAnswer`] of the first lcore that does not; those before it were shown.
    pub fn peer_nis(&self, each: impl FnMut(&PeerNiView) -> bool) -> Result<(), NoAnswer> {
        let answer = |q| if let Question::PeerNis(p) = q { Some(p) } else { None };
        self.rows(Question::PeerNis, answer, each)
    }

    /// Counters of an lcore.
    ///
    /// # Errors
    /// [`NoAnswer`]
    pub fn counts(&self, lcore: usize) -> Result<Box<Counts>, NoAnswer> {
        match self.ask(lcore, Question::Counts(Box::new(Counts::new())))? {
            Question::Counts(c) => Ok(c),
            _ => Err(NoAnswer::Unknown { lcore }),
        }
    }

    /// An lcore's configuration, as it is now.
    ///
    /// # Errors
    /// [`NoAnswer`]
    pub fn config(&self, lcore: usize) -> Result<Box<Config>, NoAnswer> {
        match self.ask(lcore, Question::Config(Box::new(Config::new(Nid::LO, 0))))? {
            Question::Config(c) => Ok(c),
            _ => Err(NoAnswer::Unknown { lcore }),
        }
    }

    /// The interface of `ip`, an address of the node's, has a link, or has none: its NIs are up, or down, on all lcores. Only nodes that
    /// do not look themselves have to be told: those over kernel sockets.
    ///
    /// # Errors
    /// [`NoAnswer`]
    pub fn link(&self, ip: IpAddr, up: bool) -> Result<(), NoAnswer> {
        self.ask(0, Question::Link(ip, up)).map(drop)
    }

    /// Shows `each` the routing of every lcore, in order. What changes is known to the first lcore; others hear of it within a
    /// turn or two.
    ///
    /// # Errors
    /// [`NoAnswer`] of the first lcore that does not.
    pub fn routing(&self, mut each: impl FnMut(usize, &RoutingView)) -> Result<(), NoAnswer> {
        for lcore in 0..self.mailboxes.len() {
            let question = Question::Routing(Box::new(RoutingView::NONE));
            let Question::Routing(view) = self.ask(lcore, question)? else { break };
            each(lcore, &view);
        }
        Ok(())
    }

    /// Sets values of health; gives how many it concerned. The first lcore is asked, and tells the others within a turn or two.
    ///
    /// # Errors
    /// [`NoAnswer`]
    pub fn set_health(&self, ask: HealthAsk) -> Result<usize, NoAnswer> {
        match self.ask(0, Question::Health(Box::new(AboutHealth { ask, done: 0 })))? {
            Question::Health(about) => Ok(about.done),
            _ => Err(NoAnswer::Unknown { lcore: 0 }),
        }
    }

    /// Shows the packets of all lcores to what `end` makes, or to nobody where it makes none. True when the lcores
    /// have packets to show.
    ///
    /// # Errors
    /// [`NoAnswer`] of the first lcore that does not.
    pub fn tap(&self, mut end: impl FnMut() -> Option<TapEnd>) -> Result<bool, NoAnswer> {
        let mut any = false;
        for lcore in 0..self.mailboxes.len() {
            let given = end().map(Box::new);
            let on = given.is_some();
            let Question::Tap(before) = self.ask(lcore, Question::Tap(given))? else { continue };
            // Whoever has no packets gives back what it was given; a second look tells.
            any |= !on || before.is_none();
        }
        Ok(any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{ConnId, ShardId};
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tcpstack::{ConnStats, Phase};

    fn inspection() -> Inspection {
        Inspection::new(2, Clock::monotonic())
    }

    fn row(port: u16, state: Phase) -> Row {
        let stats = ConnStats::new(
            SocketAddr::from(([10, 0, 0, 1], 988)),
            SocketAddr::from(([10, 0, 0, 2], port)),
            state,
        );
        Row { conn: ConnId { shard: ShardId(0), index: 0, generation: 0 }, stats, kernel: false }
    }

    /// An lcore with a table of `n` connections, answering until it is told to end.
    fn lcore(mailbox: &Mailbox, n: u16, end: &AtomicBool) {
        while !end.load(Ordering::Relaxed) {
            if !mailbox.asked() {
                std::thread::yield_now();
                continue;
            }
            mailbox.answer(|a| {
                if let Question::Page(p) = a {
                    let from = p.step(usize::from(n)) as u16;
                    for port in from..n.min(from + PAGE as u16) {
                        let before = p.rows.capacity();
                        p.add(row(port, if port % 2 == 0 { Phase::Established } else { Phase::SynSent }));
                        assert_eq!(p.rows.capacity(), before, "an lcore allocates nothing");
                    }
                }
            });
        }
    }

    #[test]
    fn a_table_is_shown_in_pages_and_whole() {
        let (f, end) = (inspection(), AtomicBool::new(false));
        std::thread::scope(|s| {
            for (i, n) in [(0, 1000), (1, 0)] {
                let (mailbox, end) = (f.mailbox(i).unwrap(), &end);
                s.spawn(move || lcore(&mailbox, n, end));
            }
            let ports = |filter| {
                let mut v = vec![];
                f.connections(filter, |r| {
                    v.push(r.stats.remote.port());
                    true
                })
                .unwrap();
                v
            };
            assert_eq!(ports(Filter::default()), (0..1000).collect::<Vec<_>>());
            let even = Filter { state: Some(Phase::Established), ..Filter::default() };
            assert_eq!(ports(even).len(), 500);
            assert_eq!(ports(Filter { port: Some(77), ..Filter::default() }), [77]);
            let other = Filter { peer: Some([10, 0, 0, 3].into()), ..Filter::default() };
            assert!(ports(other).is_empty());
            let mut n = 0;
            f.connections(Filter::default(), |_| {
                n += 1;
                n < 5
            })
            .unwrap();
            assert_eq!(n, 5, "who has seen enough is shown no more");
            end.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn an_lcore_that_does_not_answer_is_named_and_its_late_answer_is_nobodys() {
        let f = inspection();
        let short = Duration::from_millis(5);
        let ask = |from| Question::Page(Box::new(Page::new(Filter::default(), from)));
        let e = f.ask_within(1, ask(7), short).unwrap_err();
        assert!(e.to_string().contains("lcore 1") && e.to_string().contains("5 ms"), "{e}");
        let mailbox = f.mailbox(1).unwrap();
        mailbox.answer(|_| {});
        std::thread::scope(|s| {
            s.spawn(|| {
                while !mailbox.asked() {
                    std::thread::yield_now();
                }
                mailbox.answer(|_| {});
            });
            let Ok(Question::Page(p)) = f.ask(1, ask(8)) else { panic!("no answer") };
            assert_eq!(p.from, Some(8), "not the one before");
        });
        // Questions do not pile up at an lcore that never turns.
        for _ in 0..3 * WAITING {
            assert!(f.ask_within(0, ask(0), Duration::ZERO).is_err());
        }
        assert_eq!(f.mailbox(0).unwrap().waiting(), WAITING);
    }

    #[test]
    fn who_asks_an_lcore_that_ends_hears_it_at_once() {
        let f = inspection();
        let ask = || Question::Page(Box::new(Page::new(Filter::default(), 0)));
        let never = Duration::from_secs(3600);
        let attended = Attended(f.mailbox(0).unwrap());
        std::thread::scope(|s| {
            let asker = s.spawn(|| f.ask_within(0, ask(), never).err());
            while !attended.0.asked() {
                std::thread::yield_now();
            }
            drop(attended);
            assert_eq!(asker.join().unwrap(), Some(NoAnswer::Ended { lcore: 0 }));
        });
        // Those who come later do, too, however many.
        for _ in 0..3 * WAITING {
            assert_eq!(f.ask_within(0, ask(), never).err(), Some(NoAnswer::Ended { lcore: 0 }));
        }
    }
}
