//! The connections of a stack: by address and by slot, those that are to be served or wait, and what the user is to
//! be told of them.
//!
//! ```text
//!   Key ── table ──> slot ──> Flow            dirty      to be served, in order
//!              └───> TIME-WAIT entry          starved    the window is held back for want of pool memory
//!                                             resolving  the next hop is asked for
//!                                             wheel      the earliest deadline of each
//! ```
//!
//! A connection is taken out of its slot while it is served, so that the rest of the stack can be used meanwhile.

use std::collections::VecDeque;

use crate::event::{Event, FlowId};
use crate::flow::Flow;
use crate::opts::Ts;
use crate::seq::Seq;
use crate::table::{FlowTable, Key, Place};
use crate::timewait::{Entry, TimeWait, Verdict};
use crate::wheel::Wheel;
use crate::wire::Seg;

/// Place of a connection, and the lists that it stands in.
struct Slot {
    flow: Option<Box<Flow>>,
    generation: u32,
    /// In `dirty`.
    queued: bool,
    /// In `starved`, or in `resolving`: before it is open a connection cannot be in the former, afterwards not in the
    /// latter.
    waits: bool,
    /// The user is to be told that it is readable, and how far it is.
    readable: bool,
    progress: bool,
}

const _: () = assert!(size_of::<Slot>() == 16);

/// An event in its turn. Nearly all are of the first two kinds, which are told as of the time that they are asked for.
#[derive(Clone, Copy)]
enum Turn {
    Readable(FlowId),
    Progress(FlowId),
    /// The next of the others.
    Other,
}

/// The connections.
pub(crate) struct Flows {
    table: FlowTable,
    slots: Vec<Slot>,
    free: Vec<u32>,
    live: u32,
    tw: TimeWait,
    dirty: VecDeque<u32>,
    starved: VecDeque<u32>,
    resolving: Vec<u32>,
    wheel: Wheel,
    fired: Vec<u32>,
    events: VecDeque<Turn>,
    /// The events of [`Turn::Other`].
    others: VecDeque<Event>,
}

impl Flows {
    /// No connections. TIME-WAIT lasts `wait` ns, for at most `max` of them; `at_once` timers fire at a time at most.
    pub(crate) fn new(secret: [u64; 2], wait: u64, max: usize, at_once: usize) -> Flows {
        Flows {
            table: FlowTable::new(secret),
            slots: Vec::new(),
            free: Vec::new(),
            live: 0,
            tw: TimeWait::new(wait, max),
            dirty: VecDeque::new(),
            starved: VecDeque::new(),
            resolving: Vec::new(),
            wheel: Wheel::new(0),
            fired: Vec::with_capacity(at_once),
            events: VecDeque::new(),
            others: VecDeque::new(),
        }
    }

    // ---- slots ----

    /// Connections that are not over.
    pub(crate) fn live(&self) -> u32 {
        self.live
    }

    /// Slots, those in use and those once used.
    pub(crate) fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Memory of one connection in the tables, in bytes.
    pub(crate) const BYTES: usize = size_of::<Slot>() + FlowTable::BYTES_AN_ENTRY + Wheel::BYTES_A_TIMER;

    #[inline]
    pub(crate) fn get(&self, id: FlowId) -> Option<&Flow> {
        let s = self.slots.get(id.slot() as usize)?;
        s.flow.as_deref().filter(|_| s.generation == id.generation())
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.slot(id)?.flow.as_deref_mut()
    }

    /// The connection in a slot.
    #[inline]
    pub(crate) fn at(&mut self, slot: u32) -> Option<&mut Flow> {
        self.slots.get_mut(slot as usize)?.flow.as_deref_mut()
    }

    /// The name of the connection in a slot.
    #[inline]
    pub(crate) fn id(&self, slot: u32) -> FlowId {
        let generation = self.slots.get(slot as usize).map_or(0, |s| s.generation);
        FlowId::new(slot, generation)
    }

    /// The connections in `count` slots from `first` on.
    pub(crate) fn range(&self, first: u32, count: u32) -> impl Iterator<Item = (FlowId, &Flow)> + '_ {
        let slots = self.slots.iter().zip(0u32..).skip(first as usize).take(count as usize);
        slots.filter_map(|(s, slot)| Some((FlowId::new(slot, s.generation), s.flow.as_deref()?)))
    }

    /// Adds a connection; returns its slot.
    pub(crate) fn add(&mut self, f: Box<Flow>) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                flow: None,
                generation: 0,
                queued: false,
                waits: false,
                readable: false,
                progress: false,
            });
            self.slots.len() as u32 - 1
        });
        self.live += 1;
        self.table.insert(*f.key(), Place::Flow(slot));
        self.put(slot, f);
        slot
    }

    /// Puts a connection into its slot, or back after [`Flows::next_dirty`].
    #[inline]
    pub(crate) fn put(&mut self, slot: u32, f: Box<Flow>) {
        if let Some(s) = self.slots.get_mut(slot as usize) {
            s.flow = Some(f);
        }
    }

    /// A connection is over, but kept for its reader: its address is free, and its timer is off.
    pub(crate) fn unlink(&mut self, slot: u32, key: &Key) {
        if self.table.get(key) == Some(Place::Flow(slot)) {
            self.table.remove(key);
        }
        self.wheel.cancel(slot);
        if let Some(s) = self.slots.get_mut(slot as usize) {
            s.waits = false;
        }
    }

    /// Forgets a connection; its slot is free.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<Box<Flow>> {
        let s = self.slots.get_mut(slot as usize)?;
        let f = s.flow.take()?;
        s.generation = s.generation.wrapping_add(1);
        (s.queued, s.readable, s.progress) = (false, false, false);
        self.unlink(slot, f.key());
        self.free.push(slot);
        self.live -= 1;
        Some(f)
    }

    // ---- addresses ----

    /// The connection, or TIME-WAIT entry, of an address.
    #[inline]
    pub(crate) fn find(&self, k: &Key) -> Option<Place> {
        self.table.get(k)
    }

    /// TIME-WAIT entries.
    pub(crate) fn time_waits(&self) -> usize {
        self.tw.len()
    }

    /// An entry in TIME-WAIT.
    pub(crate) fn time_wait(&self, t: u32) -> Option<Entry> {
        self.tw.get(t).copied()
    }

    /// Both ends of a connection are done: only this is kept of it.
    pub(crate) fn enter_time_wait(&mut self, e: Entry, now: u64) {
        let t = self.tw.insert(e, now);
        self.table.insert(e.key, Place::TimeWait(t));
    }

    /// A new connection takes the place of an entry. Returns the number that its own must be after.
    pub(crate) fn leave_time_wait(&mut self, t: u32) -> Option<Seq> {
        let e = self.tw.remove(t)?;
        self.table.remove(&e.key);
        Some(e.snd_nxt)
    }

    /// Judges a segment for an entry.
    pub(crate) fn in_time_wait(&mut self, t: u32, s: &Seg, ts: Option<Ts>, now: u64) -> Verdict {
        self.tw.on_segment(t, s, ts, now)
    }

    /// Forgets entries whose time has come.
    #[inline]
    pub(crate) fn expire_time_waits(&mut self, now: u64) {
        while let Some(e) = self.tw.expired(now) {
            self.table.remove(&e.key);
        }
    }

    // ---- those to be served ----

    /// Puts a connection on the list to be served.
    #[inline]
    pub(crate) fn mark(&mut self, slot: u32) {
        if let Some(s) = self.slots.get_mut(slot as usize)
            && s.flow.is_some()
            && !s.queued
        {
            s.queued = true;
            self.dirty.push_back(slot);
        }
    }

    /// Connections on the list.
    pub(crate) fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// The next connection to be served, and the connection taken out.
    #[inline]
    pub(crate) fn next_dirty(&mut self) -> Option<(u32, Option<Box<Flow>>)> {
        let slot = self.dirty.pop_front()?;
        let s = self.slots.get_mut(slot as usize);
        Some((
            slot,
            s.and_then(|s| {
                let f = s.flow.take()?;
                s.queued = false;
                Some(f)
            }),
        ))
    }

    // ---- those that wait ----

    /// Notes that the window of a connection is held back; whether that is new.
    #[inline]
    pub(crate) fn starve(&mut self, slot: u32) -> bool {
        let new = self.wait(slot);
        if new {
            self.starved.push_back(slot);
        }
        new
    }

    fn wait(&mut self, slot: u32) -> bool {
        self.slots.get_mut(slot as usize).is_some_and(|s| !std::mem::replace(&mut s.waits, true))
    }

    /// Connections whose window is held back, at most.
    pub(crate) fn starved(&self) -> usize {
        self.starved.len()
    }

    /// The next of them.
    pub(crate) fn next_starved(&mut self) -> Option<u32> {
        loop {
            let slot = self.starved.pop_front()?;
            let Some(s) = self.slots.get_mut(slot as usize) else { continue };
            let open = s.flow.as_deref().is_some_and(|f| f.hop().is_known());
            if open && std::mem::take(&mut s.waits) {
                return Some(slot);
            }
        }
    }

    /// A dial waits for its next hop.
    pub(crate) fn resolve(&mut self, slot: u32) {
        if self.wait(slot) {
            self.resolving.push(slot);
        }
    }

    /// A dial has its next hop.
    pub(crate) fn resolves_no_more(&mut self, slot: u32) {
        if let Some(s) = self.slots.get_mut(slot as usize) {
            s.waits = false;
        }
    }

    /// Whether a dial waits for its next hop.
    pub(crate) fn is_resolving(&self) -> bool {
        !self.resolving.is_empty()
    }

    /// Dials that wait for a hop of which `done` holds: they wait no more.
    pub(crate) fn resolved(&mut self, done: impl Fn(&Flow) -> bool) -> Vec<u32> {
        let mut out = Vec::new();
        let slots = &mut self.slots;
        self.resolving.retain(|i| {
            let Some(s) = slots.get_mut(*i as usize) else { return false };
            let Some(f) = s.flow.as_deref().filter(|f| !f.hop().is_known()) else { return false };
            if done(f) {
                s.waits = false;
                out.push(*i);
                return false;
            }
            true
        });
        out
    }

    // ---- timers ----

    /// Sets the wheel to the earliest deadline of a connection, unless it wakes before anyway.
    #[inline]
    pub(crate) fn arm(&mut self, slot: u32, at: u64) {
        if at != u64::MAX && self.wheel.at(slot).is_none_or(|w| w > at) {
            self.wheel.set(slot, at);
        }
    }

    /// Slots whose deadline has come, at most `max`; to be given back.
    #[inline]
    pub(crate) fn fired(&mut self, now: u64, max: usize) -> Vec<u32> {
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.expire(now, max, &mut fired);
        fired
    }

    /// Gives the list back.
    #[inline]
    pub(crate) fn fired_done(&mut self, mut fired: Vec<u32>) {
        fired.clear();
        self.fired = fired;
    }

    /// The earliest deadlines: of connections, and of TIME-WAIT (ns).
    pub(crate) fn deadlines(&self) -> [Option<u64>; 2] {
        [self.wheel.next(), self.tw.deadline()]
    }

    // ---- events ----

    /// Tells the user something.
    #[inline]
    pub(crate) fn tell(&mut self, e: Event) {
        self.others.push_back(e);
        self.events.push_back(Turn::Other);
    }

    /// Tells the user that bytes may be read, once until it hears.
    #[inline]
    pub(crate) fn tell_readable(&mut self, slot: u32) {
        let Some(s) = self.slots.get_mut(slot as usize) else { return };
        if !std::mem::replace(&mut s.readable, true) {
            self.events.push_back(Turn::Readable(FlowId::new(slot, s.generation)));
        }
    }

    /// Tells the user that a connection has got on, once until it hears; how far it is told then.
    #[inline]
    pub(crate) fn tell_progress(&mut self, slot: u32) {
        let Some(s) = self.slots.get_mut(slot as usize) else { return };
        if !std::mem::replace(&mut s.progress, true) {
            self.events.push_back(Turn::Progress(FlowId::new(slot, s.generation)));
        }
    }

    /// Whether there is something to tell.
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The next event of a connection that still is.
    #[inline]
    pub(crate) fn event(&mut self) -> Option<Event> {
        loop {
            match self.events.pop_front()? {
                Turn::Readable(id) => {
                    let Some(s) = self.slot(id) else { continue };
                    s.readable = false;
                    return Some(Event::Readable(id));
                }
                Turn::Progress(flow) => {
                    let Some(s) = self.slot(flow) else { continue };
                    s.progress = false;
                    let Some((acked, sent)) = s.flow.as_deref().map(Flow::progress) else { continue };
                    return Some(Event::Progress { flow, acked, sent });
                }
                Turn::Other => {
                    let e = self.others.pop_front()?;
                    match e {
                        Event::Opened { flow: id, .. } | Event::PeerFin(id) | Event::Ended(id)
                            if self.slot(id).is_none() => {}
                        _ => return Some(e),
                    }
                }
            }
        }
    }

    /// The slot of a connection that still is.
    #[inline]
    fn slot(&mut self, id: FlowId) -> Option<&mut Slot> {
        self.slots.get_mut(id.slot() as usize).filter(|s| s.generation == id.generation())
    }
}
