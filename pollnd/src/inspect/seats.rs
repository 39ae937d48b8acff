//! Seats of a node, for the commands of other processes: each is an application of the node like any other, behind rings.
//!
//! A guest that leaves does not wait for operations that are out: those are owed to the seat, by their tags, and whoever sits there next
//! passes them over. A node looks after its free seats ([`Seats::hear`]), since what comes there may hold memory.
//!
//! Operations that are out to one node that takes nothing leave room for commands to others: half of a seat at most, and no more than is free there.
//! Pages of what is out count with it ([`Seats::left`]).

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use hugepages::Backing;
use serde::{Deserialize, Serialize};
use transport::lnd::AppId;
use transport::lnet::{Event, Op, OpRefused};
use transport::node::inspect::Inspection;
use transport::node::{Handle, Seat};
use transport::selftest::Meter;
use transport::wire::{Nid, PingInfo, ProcessId};

use super::failure::Failure;
use crate::selftest::host::Host;
use crate::{units, why};

/// Seats of a node.
const SEATS: u16 = 5;
/// The seat of the console of lnet_selftest, behind the others.
const CONSOLE: u16 = SEATS + 1;
/// Operations and events of a seat.
pub(crate) const DEPTH: usize = 64;
/// Tags of each guest begin at a multiple of this.
pub(super) const TAGS: u64 = 1 << 16;
/// Tags of greetings begin here, beyond those of guests.
const GREETINGS: u64 = 1 << 62;
/// Sleep of a guest that has nothing to do.
pub(super) const NAP: Duration = Duration::from_micros(50);

/// The seats of a node, and memory for what is sent from them.
#[derive(Default)]
pub(crate) struct Seats {
    seats: Mutex<Vec<GuestSeat>>,
    pub(super) backing: OnceLock<Arc<dyn Backing>>,
    /// The console's, until it has sat down.
    console_seat: Mutex<Option<Seat>>,
    console: OnceLock<Result<Host, String>>,
    /// Operations that were owed to the seats that are taken, when they were.
    aside: Mutex<Left>,
    /// The NID in its sessions' names, and its node's measures.
    own: OnceLock<Nid>,
    meter: OnceLock<Arc<Meter>>,
}

/// An operation that was given up before it had come to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owed {
    /// Its tag.
    pub(super) tag: u64,
    /// The node that it is out to.
    pub(super) to: Nid,
    /// Bytes of its pages.
    pub(super) bytes: u64,
}

/// Operations that guests have left, and bytes of their pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Left {
    ops: u64,
    bytes: u64,
}

impl Left {
    fn of(owed: &[Owed]) -> Left {
        Left { ops: owed.len() as u64, bytes: owed.iter().map(|o| o.bytes).sum() }
    }
}

/// A seat, and the operations that were given up in it: the next one there hears of them.
pub(super) struct GuestSeat {
    pub(super) seat: Seat,
    pub(super) owed: Vec<Owed>,
}

/// Reason why there is no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoSeat {
    /// All are taken.
    Taken,
    /// So many operations of guests that have left are out in the free ones.
    Owed(usize),
    /// So many of them are out to that node, and leave room to others.
    OwedBy(Nid, usize),
}

impl NoSeat {
    /// In words, of a node whose operations end within so long.
    pub(super) fn text(self, longest: Duration) -> String {
        let out = |n: usize, to: &str| {
            format!(
                "{}{to} that earlier commands through this node gave up are still out, and more must not be added to them: they end \
                 within {} (lnet_transaction_timeout); try again then",
                units::many(n as u64, "operation"),
                units::time(longest.as_secs_f64())
            )
        };
        match self {
            NoSeat::Taken => {
                format!("{SEATS} other commands go through this node now: try again when one has ended")
            }
            NoSeat::Owed(n) => out(n, ""),
            NoSeat::OwedBy(nid, n) => out(n, &format!(" to {nid}")),
        }
    }
}

impl GuestSeat {
    /// Hears what has come since it was left.
    fn hear(&mut self) {
        if self.owed.is_empty() {
            return;
        }
        let handle = self.seat.take();
        while let Some(ev) = handle.event() {
            settle(&mut self.owed, &ev);
        }
    }
}

/// Whether an event is that of an operation that is owed; its last one settles that.
pub(super) fn settle(owed: &mut Vec<Owed>, ev: &Event) -> bool {
    let (tag, last) = match ev {
        Event::Ping { tag, .. } | Event::Refused { tag, .. } | Event::Reply { tag, .. } => (*tag, true),
        Event::Send { tag, done, .. } | Event::Ack { tag, done, .. } => (*tag, *done),
        _ => return false,
    };
    let Some(at) = owed.iter().position(|o| o.tag == tag) else { return false };
    if last {
        owed.swap_remove(at);
    }
    true
}

/// A seat that is taken; it is free again when this goes.
pub(super) struct Taken<'a> {
    guests: &'a Seats,
    pub(super) seat: Option<GuestSeat>,
    aside: Left,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut seats = self.guests.seats();
        seats.extend(self.seat.take());
        let mut aside = self.guests.aside();
        aside.ops -= self.aside.ops;
        aside.bytes -= self.aside.bytes;
    }
}

impl Seats {
    /// Ids of the applications in the seats.
    pub(crate) fn ids() -> impl Iterator<Item = AppId> {
        (1..=CONSOLE).filter_map(|n| AppId::new(n).ok())
    }

    /// Opens the seats, over a node whose pages come from `backing`.
    pub(crate) fn open(&self, mut seats: Vec<Seat>, backing: &Arc<dyn Backing>) {
        *self.console_seat.lock().unwrap_or_else(PoisonError::into_inner) = seats.pop();
        *self.seats() = seats.into_iter().map(|seat| GuestSeat { seat, owed: Vec::new() }).collect();
        let _ = self.backing.set(backing.clone());
    }

    /// Tells the console its node's first NID.
    pub(crate) fn name(&self, own: Nid) {
        let _ = self.own.set(own);
    }

    /// Tells the console the measures of the node's member.
    pub(crate) fn measure(&self, meter: Arc<Meter>) {
        let _ = self.meter.set(meter);
    }

    /// The console; it sits down when it is asked for first.
    pub(crate) fn console(&self) -> Result<&Host, String> {
        let soon = || "this node is not up yet: try again".to_owned();
        let own = *self.own.get().ok_or_else(soon)?;
        let mut seat = self.console_seat.lock().unwrap_or_else(PoisonError::into_inner);
        if self.console.get().is_none() && seat.is_none() {
            return Err(soon());
        }
        let start = || {
            let seat = seat.take().ok_or_else(soon)?;
            let id = AppId::new(CONSOLE).map_err(|e| e.to_string())?;
            Host::start(seat, id, own, self.meter.get().cloned())
        };
        self.console.get_or_init(start).as_ref().map_err(String::clone)
    }

    fn seats(&self) -> std::sync::MutexGuard<'_, Vec<GuestSeat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears what comes to free seats: it may hold received payload.
    pub(crate) fn hear(&self) {
        self.seats().iter_mut().for_each(GuestSeat::hear);
    }

    fn aside(&self) -> std::sync::MutexGuard<'_, Left> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Operations that guests have left and that are still out, and bytes of their pages, as figures of the whole node.
    pub(crate) fn figures(&self) -> [(&'static str, u64); 2] {
        let left = self.left();
        [("guests_left_ops", left.ops), ("guests_left_bytes", left.bytes)]
    }

    fn left(&self) -> Left {
        let seats = self.seats();
        let aside = *self.aside();
        seats
            .iter()
            .map(|s| Left::of(&s.owed))
            .fold(aside, |a, b| Left { ops: a.ops + b.ops, bytes: a.bytes + b.bytes })
    }

    /// A free seat for a guest that has `ops` operations out at a time, to the node `to` if to one alone; the one that owes least.
    pub(super) fn take(&self, ops: usize, to: Option<Nid>) -> Result<Taken<'_>, NoSeat> {
        let mut seats = self.seats();
        seats.iter_mut().for_each(GuestSeat::hear);
        let owed = |c: &GuestSeat| c.owed.len();
        let theirs = |c: &GuestSeat| c.owed.iter().filter(|o| Some(o.to) == to).count();
        let best = seats.iter().enumerate().min_by_key(|(_, c)| owed(c)).ok_or(NoSeat::Taken)?.0;
        let fits = |c: &&GuestSeat| owed(c) + ops <= DEPTH;
        let shares = |c: &GuestSeat| theirs(c) == 0 || theirs(c) + ops <= (DEPTH / 2).min(DEPTH - owed(c));
        let Some(found) = seats.get(best).filter(fits) else {
            return Err(NoSeat::Owed(seats.iter().map(owed).sum()));
        };
        if let Some(nid) = to.filter(|_| !shares(found)) {
            return Err(NoSeat::OwedBy(nid, seats.iter().map(theirs).sum()));
        }
        let seat = seats.swap_remove(best);
        let left = Left::of(&seat.owed);
        let mut aside = self.aside();
        aside.ops += left.ops;
        aside.bytes += left.bytes;
        Ok(Taken { guests: self, seat: Some(seat), aside: left })
    }
}

/// Pings `peers` once each and hears them all out: they learn that the node is a new one.
pub(crate) fn greet(guests: &Seats, peers: &[Nid], stop: impl Fn() -> bool) {
    let Ok(mut taken) = guests.take(1, None) else { return };
    let Some(GuestSeat { seat, .. }) = &mut taken.seat else { return };
    let handle = seat.take();
    let (mut next, mut heard, mut good) = (0, 0, 0);
    while heard < peers.len() && !(stop() && heard >= next) {
        if let Some(nid) = peers.get(next).filter(|_| !stop()) {
            let op = Op::Ping { tag: GREETINGS + next as u64, target: ProcessId::lustre(*nid) };
            next += usize::from(handle.submit(op).is_ok());
        }
        match handle.event() {
            Some(Event::Ping { info, .. }) => {
                heard += 1;
                good += usize::from(info.is_ok());
            }
            Some(Event::Refused { .. }) => heard += 1,
            _ => dataplane::clock::pause(Duration::from_millis(1)),
        }
    }
    tracing::info!("peers from before the restart that have answered: {good} of {}", peers.len());
}

/// The answer to a ping.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pong {
    /// The node's process id.
    pub(crate) pid: u32,
    /// Its NIDs.
    pub(crate) nids: Vec<String>,
    /// Its features.
    pub(crate) features: u32,
    /// Round-trip time, in ns.
    pub(crate) rtt_ns: u64,
}

impl Pong {
    /// Of what a node says of itself.
    fn of(info: &PingInfo, rtt_ns: u64) -> Pong {
        let nids = info.nis.iter().chain(&info.large).map(|ni| ni.nid.to_string()).collect();
        Pong { pid: info.pid, nids, features: info.features, rtt_ns }
    }

    /// As `lctl ping` shows it, and the time.
    pub(crate) fn text(&self) -> String {
        let mut o = format!("{}-0@lo\n", self.pid);
        for nid in &self.nids {
            o += &format!("{}-{nid}\n", self.pid);
        }
        o + &format!("time {:.1} us, features {:#x}", self.rtt_ns as f64 / 1000.0, self.features)
    }
}

/// Discovery of a peer that has been discovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Again {
    /// It is left as it is.
    Known,
    /// It is asked anew.
    Anew,
}

/// Pings a node and waits for its answer, or the reason why there is none. `owed` are the tags of operations that
/// were given up and are still out: this one's comes to them if it is.
///
/// # Errors
/// The reason.
pub(crate) fn one_ping(
    handle: &Handle,
    front: &Inspection,
    op: Op,
    timeout: Duration,
    owed: &mut Vec<Owed>,
    stopped: impl Fn() -> bool,
) -> Result<Pong, Failure> {
    let (Op::Ping { tag, target } | Op::Discover { tag, target, .. }) = op else {
        return Err("no ping".into());
    };
    let nid = target.nid;
    handle.submit(op).map_err(|e| e.to_string())?;
    owed.push(Owed { tag, to: nid, bytes: 0 });
    let end = Instant::now() + timeout;
    loop {
        let event = handle.event();
        if let Some(ev) = &event {
            settle(owed, ev);
        }
        match event {
            Some(Event::Ping { tag: t, info: Ok(info), rtt_ns }) if t == tag => {
                return Ok(Pong::of(&info, rtt_ns));
            }
            Some(Event::Ping { tag: t, info: Err(e), .. }) if t == tag => {
                let errno = why::number(front, nid, e);
                return Err(Failure::numbered(why::failed(front, nid, e.to_string()), errno));
            }
            Some(Event::Refused { tag: t, why }) if t == tag => {
                let unreachable =
                    matches!(why, OpRefused::Target(_) | OpRefused::NoRoute(_) | OpRefused::LongNid(_));
                let errno = if unreachable { libc::EHOSTUNREACH } else { libc::EINVAL };
                // The route is down since its gateway does not answer.
                return Err(Failure::numbered(why::failed(front, nid, why.to_string()), errno));
            }
            Some(_) => {}
            None if stopped() => return Err("interrupted".into()),
            None if Instant::now() > end => {
                let text = why::silent(front, nid, timeout);
                return Err(Failure::numbered(text, libc::ETIMEDOUT));
            }
            None => dataplane::clock::pause(NAP),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transport::lnd::LnetError;
    use transport::node::{App, NoApp, Ops, beside};

    fn seats() -> (Seats, impl App) {
        let (app, seats) = beside(NoApp, Seats::ids(), DEPTH);
        let guests = Seats::default();
        let backing: Arc<dyn Backing> = Arc::new(hugepages::PrivatePages);
        guests.open(seats, &backing);
        (guests, app)
    }

    fn nid(n: u8) -> Nid {
        Nid::tcp([10, 0, 0, n].into(), 0)
    }

    fn owed(tag: u64, to: u8) -> Owed {
        Owed { tag, to: nid(to), bytes: 1 << 20 }
    }

    /// A guest that gave operations up left its seat while they were out, and the next one there heard their ends.
    #[test]
    fn whoever_leaves_owes_what_is_out_and_the_next_sits_down_at_once() {
        let (guests, mut app) = seats();
        let mut all: Vec<_> = (0..SEATS).map(|_| guests.take(1, None).unwrap()).collect();
        assert_eq!(guests.take(1, None).err(), Some(NoSeat::Taken));
        // Each leaves with something out; one has more.
        for (i, p) in all.iter_mut().enumerate() {
            let c = p.seat.as_mut().unwrap();
            c.owed.extend([owed(7, 2)].into_iter().chain((i == 0).then_some(owed(8, 2))));
        }
        drop(all);
        let out = u64::from(SEATS) + 1;
        assert_eq!(guests.left(), Left { ops: out, bytes: out << 20 });
        let taken = guests.take(DEPTH / 2, None).unwrap();
        assert_eq!(taken.seat.as_ref().unwrap().owed, [owed(7, 2)], "the one that hears least");
        assert_eq!(guests.left().ops, out, "that one's, too");
        drop(taken);
        // Operations that are out have room for their ends.
        assert_eq!(guests.take(DEPTH, None).err(), Some(NoSeat::Owed(usize::from(SEATS) + 1)));
        let mut ops = Ops::new();
        let ends = [
            Event::Ping { tag: 7, info: Err(LnetError::TimedOut), rtt_ns: 0 },
            Event::Ack { tag: 7, status: Err(LnetError::TimedOut), mlength: 0, done: true },
        ];
        for (id, ev) in Seats::ids().zip(ends) {
            // That they have left says nothing of their end.
            app.event(0, id, Event::Send { tag: 7, status: Ok(()), done: false }, &mut ops);
            app.event(0, id, ev, &mut ops);
        }
        guests.hear();
        let clean: Vec<_> = std::iter::from_fn(|| guests.take(DEPTH, None).ok()).collect();
        assert!((1..=2).contains(&clean.len()), "{}", clean.len());
        drop(clean);
        let left = guests.left();
        assert!(left.ops < out && left.bytes == left.ops << 20, "{left:?}");
    }

    /// However many commands to nodes that take nothing are killed, those to another find a seat, with a transfer's operations, too.
    #[test]
    fn what_is_out_to_one_node_leaves_seats_to_commands_to_others() {
        for ops in [1, 8, 32] {
            let (guests, _app) = seats();
            let kill = |to: u8, tags: u64| {
                let mut taken = guests.take(ops, Some(nid(to)))?;
                let seat = taken.seat.as_mut().unwrap();
                seat.owed.extend((0..ops as u64).map(|n| owed(tags + n, to)));
                Ok::<(), NoSeat>(())
            };
            for to in [2, 3] {
                let killed = (0..).take_while(|n| kill(to, n * TAGS).is_ok()).count();
                assert!(
                    killed > 0 && killed * ops <= usize::from(SEATS) * DEPTH / 2,
                    "{to}: {killed} of {ops}"
                );
            }
            let refused = guests.take(ops, Some(nid(2))).err().unwrap();
            if ops < 32 {
                assert!(matches!(refused, NoSeat::OwedBy(to, _) if to == nid(2)), "{refused:?}");
                let all: Vec<_> = (0..SEATS).map(|_| guests.take(8, Some(nid(9))).unwrap()).collect();
                drop(all);
            }
        }
        let (guests, _app) = seats();
        let mut all: Vec<_> = (0..SEATS).map(|_| guests.take(32, Some(nid(2))).unwrap()).collect();
        all.iter_mut().for_each(|t| t.seat.as_mut().unwrap().owed.extend((0..32).map(|n| owed(n, 2))));
        drop(all);
        assert_eq!(guests.take(1, Some(nid(2))).err(), Some(NoSeat::OwedBy(nid(2), 160)));
        assert!(guests.take(32, Some(nid(3))).is_ok());
    }

    #[test]
    fn what_holds_the_seats_is_said_and_for_how_long() {
        let text = |n: NoSeat| n.text(Duration::from_secs(150));
        assert!(text(NoSeat::Taken).starts_with("5 other commands go through this node now"));
        let owed = text(NoSeat::Owed(320));
        assert!(
            owed.starts_with("320 operations that earlier commands") && owed.contains("150.0 s"),
            "{owed}"
        );
        assert!(!owed.contains("ping"), "{owed}");
        let to = text(NoSeat::OwedBy(nid(2), 1));
        assert!(to.starts_with("1 operation to 10.0.0.2@tcp that earlier commands"), "{to}");
    }
}
