//! The neighbours of one lcore: which Ethernet address an IP address of either family is at. What ARP (RFC 826)
//! and neighbour discovery (RFC 4861) say of them is brought to the same few events.
//!
//! ```text
//!         Use, Doubt                 Answer
//!    None ────────> Incomplete ─────────────────────────> Reachable <─────────────┐
//!     │  ▲              │  │                               │      │               │ Answer
//!     │  └─── Spent ────┘  └─ Moved, Asks ────────┐        │   UseOld, Doubt      │
//!     │                                           ▼        │      └───> Probe ────┘
//!     └───────── Asks ─────────────────────────> Stale <───┘             │ ▲
//!                                                 │   Moved, Denied,     │ │
//!                                                 │   Asks               │ │
//!                                                 └───── Use, Doubt ─────┼─┘
//!                                                         None <── Spent ┘   Probe: Moved ──> Stale
//! ```
//!
//! An address once known is used while it is asked for again. A mapping that has just changed does not change again
//! for a second unless it is in doubt, so that two stations that claim one address do not make connections hop
//! between them. A connection notices a change when it is served next: [`Neighbours::epoch`] counts changes, so
//! that nothing has to walk the connections.

use std::collections::HashMap;

use fsm::Fsm;

use crate::addr::Addr;
use crate::wire::Mac;

/// Entries kept at most.
pub const MAX: usize = 1024;
/// Entries looked at to find the one that makes room.
const SAMPLE: usize = 8;
/// Time between questions for one address, in ns (RFC 4861 §10: RETRANS_TIMER).
pub const RETRY: u64 = 1_000_000_000;
/// Questions before an address counts as unreachable.
const TRIES: u8 = 3;
/// An answer is used without asking again for this long, in ns.
const FRESH: u64 = 60_000_000_000;
/// A mapping that has changed is not believed to change again for this long, in ns.
const LOCK: u64 = 1_000_000_000;

fsm::fsm! {
    /// A state of knowledge about a neighbour.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum State {
        /// Nothing is known, and nobody asks.
        None,
        /// Asked for, never answered.
        Incomplete,
        /// It has answered.
        Reachable,
        /// It said where it is without being asked.
        Stale,
        /// Known, and asked for again.
        Probe,
    }

    /// An event, judged by what is known.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Judged {
        /// Somebody here wants to send to it.
        Use,
        /// The same, and its answer is old.
        UseOld,
        /// It seems to have gone silent.
        Doubt,
        /// A question is due.
        Due,
        /// A question is due, and all have been asked.
        Spent,
        /// It asks for us, from another place than is known.
        Asks,
        /// It says where it is, as an answer to us.
        Answer,
        /// It says unasked that it is at another place than is known.
        Moved,
        /// It says that it is at another place, and not to believe that over what is known.
        Denied,
    }

    /// An action on an entry.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Act {
        /// Begin to ask.
        Seek,
        /// Ask once more.
        Ask,
        /// Forget it: it does not answer.
        Dead,
        /// Take its place.
        Learn,
        /// Take its place, and the time.
        Confirm,
        /// Nothing.
        Keep,
    }

    table State + Judged => Act {
        start None;
        else "what is known stays";
        None + Use | UseOld | Doubt => Incomplete, Seek;
        None + Asks => Stale, Learn;
        Reachable + UseOld | Doubt => Probe, Seek;
        Stale + Use | UseOld | Doubt => Probe, Seek;
        Incomplete | Probe + Due => same, Ask;
        Incomplete | Probe + Spent => None, Dead;
        Incomplete | Reachable | Stale + Asks => Stale, Learn;
        Probe + Asks => Probe, Learn;
        Incomplete | Reachable | Stale | Probe + Answer => Reachable, Confirm;
        Incomplete | Reachable | Stale | Probe + Moved => Stale, Learn;
        Reachable + Denied => Stale, Keep;
    }
}

/// An event at a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ev {
    /// Somebody here wants to send to it.
    Use,
    /// It seems to have gone silent.
    Doubt,
    /// Time has passed.
    Tick,
    /// It asks for us, and says where it is.
    AsksUs(Mac),
    /// It says where it is.
    Told {
        /// There.
        mac: Mac,
        /// As an answer to us.
        solicited: bool,
        /// Even if we know another address of it (RFC 4861 §4.4, the O flag; always so with ARP).
        overrides: bool,
    },
}

struct Entry {
    addr: Addr,
    state: Fsm<State>,
    /// Ethernet address, unless the state is Incomplete.
    mac: Mac,
    /// Questions asked.
    tries: u8,
    /// Time at which the next one is due, in Incomplete and Probe, in ns.
    next: u64,
    /// Time at which it answered, in Reachable, in ns.
    at: u64,
    /// Time at which the Ethernet address last changed (ns).
    changed: u64,
    /// Somebody here has wanted it; strangers that asked for us make room first.
    wanted: bool,
}

impl Entry {
    /// One of which nothing is known.
    fn new(addr: Addr, now: u64) -> Entry {
        Entry { addr, state: Fsm::START, mac: [0; 6], tries: 0, next: 0, at: 0, changed: now, wanted: false }
    }

    /// The Ethernet address, where there is one.
    fn mac(&self) -> Option<Mac> {
        (!matches!(self.state.get(), State::None | State::Incomplete)).then_some(self.mac)
    }

    /// Whether an answer is waited for.
    fn asks(&self) -> bool {
        matches!(self.state.get(), State::Incomplete | State::Probe)
    }

    /// Time at which the next question is due, in ns.
    fn due(&self) -> u64 {
        if self.asks() { self.next } else { u64::MAX }
    }

    /// Judges an event; `None` when it says nothing new, or nothing to be believed. `held` says that the mapping has
    /// just changed.
    fn judge(&self, ev: Ev, now: u64, held: bool) -> Option<Judged> {
        Some(match ev {
            Ev::Use if now.saturating_sub(self.at) > FRESH => Judged::UseOld,
            Ev::Use => Judged::Use,
            Ev::Doubt => Judged::Doubt,
            Ev::Tick if now < self.due() => return None,
            Ev::Tick if self.tries >= TRIES => Judged::Spent,
            Ev::Tick => Judged::Due,
            Ev::AsksUs(mac) if self.mac().is_some_and(|m| m == mac || held) => return None,
            Ev::AsksUs(_) => Judged::Asks,
            Ev::Told { mac, solicited, overrides } => {
                let same = self.mac().is_none_or(|m| m == mac);
                match (same, overrides) {
                    (false, false) => Judged::Denied,
                    // Only an answer to a question that is open clears a doubt about who has the address.
                    (false, true) if held && !(solicited && self.asks()) => return None,
                    _ if solicited => Judged::Answer,
                    (true, _) if self.mac().is_some() => return None,
                    _ => Judged::Moved,
                }
            }
        })
    }

    /// Takes in an event.
    fn step(&mut self, ev: Ev, now: u64, held: bool) -> Option<Act> {
        let judged = self.judge(ev, now, held)?;
        let act = self.state.apply(judged)?;
        match (act, ev) {
            (Act::Seek, _) => (self.tries, self.next) = (0, now),
            (Act::Ask, _) => (self.tries, self.next) = (self.tries + 1, now + RETRY),
            (Act::Learn, Ev::AsksUs(mac) | Ev::Told { mac, .. }) => self.mac = mac,
            (Act::Confirm, Ev::AsksUs(mac) | Ev::Told { mac, .. }) => (self.mac, self.at) = (mac, now),
            _ => (),
        }
        Some(act)
    }
}

/// Result of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Here it is.
    Known(Mac),
    /// It is being asked for.
    Wait,
}

/// The cache.
#[derive(Default)]
pub struct Neighbours {
    slots: Vec<Entry>,
    index: HashMap<Addr, usize>,
    hand: usize,
    next: Option<u64>,
    epoch: u32,
    held: u64,
}

impl Neighbours {
    /// Number of changes of any address's place so far (modulo 2^32).
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Changes not believed because there had just been one.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Where `a` is, as far as known; nothing is asked.
    pub fn peek(&self, a: &Addr) -> Option<Mac> {
        self.slots.get(*self.index.get(a)?)?.mac()
    }

    /// Where `a` is. When that is not known, or is old, the next [`Neighbours::poll`] asks.
    pub fn lookup(&mut self, a: &Addr, now: u64) -> Lookup {
        self.event(a, Ev::Use, now);
        self.peek(a).map_or(Lookup::Wait, Lookup::Known)
    }

    /// Takes in an event at `a`.
    pub fn event(&mut self, a: &Addr, ev: Ev, now: u64) {
        let at = self.index.get(a).copied();
        let mut new = Entry::new(*a, now);
        let e = at.and_then(|i| self.slots.get_mut(i)).unwrap_or(&mut new);
        let mac = e.mac();
        let held = mac.is_some() && now.saturating_sub(e.changed) < LOCK;
        let _ = e.step(ev, now, held);
        if let (true, Ev::AsksUs(m) | Ev::Told { mac: m, overrides: true, .. }) = (held, ev) {
            self.held += u64::from(e.mac() != Some(m));
        }
        if e.due() != u64::MAX {
            self.next = Some(self.next.map_or(e.due(), |n| n.min(e.due())));
        }
        let moved = e.mac() != mac;
        self.epoch = self.epoch.wrapping_add(u32::from(moved));
        e.wanted |= matches!(ev, Ev::Use);
        if moved {
            e.changed = now;
        }
        if new.state != State::None {
            self.add(new);
        }
    }

    fn add(&mut self, e: Entry) {
        if self.slots.len() < MAX {
            self.index.insert(e.addr, self.slots.len());
            return self.slots.push(e);
        }
        // One of a few: a stranger's, else what changed longest ago. Where somebody waits for all of them, whom
        // nobody has wanted is not kept.
        let worth = |e: &Entry| (e.asks(), e.wanted, e.changed);
        let n = self.slots.len();
        let near = (0..SAMPLE).map(|k| (self.hand + k) % n);
        let Some(i) = near.min_by_key(|i| self.slots.get(*i).map(worth)) else { return };
        self.hand = (self.hand + SAMPLE) % n;
        if self.slots.get(i).is_some_and(|old| worth(old).0) && !e.wanted {
            return;
        }
        if let Some(old) = self.slots.get_mut(i) {
            self.index.remove(&old.addr);
            self.index.insert(e.addr, i);
            *old = e;
        }
    }

    /// Time at which [`Neighbours::poll`] has something to do (ns).
    pub fn deadline(&self) -> Option<u64> {
        self.next
    }

    /// Does what is due: `ask` gets each address to ask for and the station to ask (`None` for everybody), `dead`
    /// each address that did not answer.
    pub fn poll(&mut self, now: u64, mut ask: impl FnMut(Addr, Option<Mac>), mut dead: impl FnMut(Addr)) {
        if self.next.is_none_or(|n| now < n) {
            return;
        }
        self.next = None;
        let mut i = 0;
        while let Some(e) = self.slots.get_mut(i) {
            match e.step(Ev::Tick, now, false) {
                // Directly first (RFC 1122 §2.3.2.1), then everybody: it may have moved.
                Some(Act::Ask) => ask(e.addr, e.mac().filter(|_| e.tries == 1)),
                Some(Act::Dead) => dead(e.addr),
                _ => (),
            }
            if e.state != State::None {
                if e.due() != u64::MAX {
                    self.next = Some(self.next.map_or(e.due(), |n| n.min(e.due())));
                }
                i += 1;
                continue;
            }
            let gone = self.slots.swap_remove(i);
            self.index.remove(&gone.addr);
            if let Some(e) = self.slots.get(i) {
                self.index.insert(e.addr, i);
            }
        }
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const YOU: Mac = [2, 0, 0, 0, 0, 2];
    const THIEF: Mac = [6; 6];
    const S: u64 = 1_000_000_000;

    fn b() -> Addr {
        Addr::v4(0x0a00_0002)
    }

    fn polled(n: &mut Neighbours, now: u64) -> (Vec<(Addr, Option<Mac>)>, Vec<Addr>) {
        let (mut q, mut d) = (vec![], vec![]);
        n.poll(now, |a, m| q.push((a, m)), |a| d.push(a));
        (q, d)
    }

    fn answer(mac: Mac) -> Ev {
        Ev::Told { mac, solicited: true, overrides: true }
    }

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<State>(), @r"
        None + Use -> Incomplete, Seek
        None + UseOld -> Incomplete, Seek
        None + Doubt -> Incomplete, Seek
        None + Asks -> Stale, Learn
        Incomplete + Due -> Incomplete, Ask
        Incomplete + Spent -> None, Dead
        Incomplete + Asks -> Stale, Learn
        Incomplete + Answer -> Reachable, Confirm
        Incomplete + Moved -> Stale, Learn
        Reachable + UseOld -> Probe, Seek
        Reachable + Doubt -> Probe, Seek
        Reachable + Asks -> Stale, Learn
        Reachable + Answer -> Reachable, Confirm
        Reachable + Moved -> Stale, Learn
        Reachable + Denied -> Stale, Keep
        Stale + Use -> Probe, Seek
        Stale + UseOld -> Probe, Seek
        Stale + Doubt -> Probe, Seek
        Stale + Asks -> Stale, Learn
        Stale + Answer -> Reachable, Confirm
        Stale + Moved -> Stale, Learn
        Probe + Due -> Probe, Ask
        Probe + Spent -> None, Dead
        Probe + Asks -> Probe, Learn
        Probe + Answer -> Reachable, Confirm
        Probe + Moved -> Stale, Learn
        otherwise: what is known stays
        ");
    }

    /// An entry in a state, of the station [1; 6].
    fn entry(state: State) -> Entry {
        let mut e = Entry::new(b(), 0);
        let events: &[Ev] = match state {
            State::None => &[],
            State::Incomplete => &[Ev::Use, Ev::Tick],
            State::Reachable => &[Ev::Use, Ev::Told { mac: [1; 6], solicited: true, overrides: true }],
            State::Stale => &[Ev::AsksUs([1; 6])],
            State::Probe => &[Ev::AsksUs([1; 6]), Ev::Use],
        };
        events.iter().for_each(|ev| {
            e.step(*ev, 0, false);
        });
        assert_eq!(e.state.get(), state);
        e.next = 0;
        e
    }

    /// All that there is to an entry in its state.
    fn facts(e: &Entry) -> String {
        let (s, asked) = (e.state.get(), e.asks().then_some((e.tries, e.next)));
        format!("{s:?} {:?} {asked:?} {:?}", e.mac(), (s == State::Reachable).then_some(e.at))
    }

    #[test]
    fn the_table() {
        let states = [State::None, State::Incomplete, State::Reachable, State::Stale, State::Probe];
        let told = |m: u8, solicited, overrides| Ev::Told { mac: [m; 6], solicited, overrides };
        let evs = [
            ("use", Ev::Use),
            ("doubt", Ev::Doubt),
            ("tick", Ev::Tick),
            ("asks", Ev::AsksUs([2; 6])),
            ("same S", told(1, true, false)),
            ("same -", told(1, false, false)),
            ("other -", told(2, false, false)),
            ("other O", told(2, false, true)),
            ("other S", told(2, true, false)),
            ("other SO", told(2, true, true)),
        ];
        let show = |e: &Entry| match e.state.get() {
            State::None => "(none)".to_owned(),
            s => format!("{s:?}{}", e.mac().map_or(String::new(), |m| m[0].to_string())),
        };
        let mut t = String::new();
        for held in [false, true] {
            for s in states {
                let row: Vec<_> = evs
                    .iter()
                    .filter_map(|(n, ev)| {
                        let mut e = entry(s);
                        let was = facts(&e);
                        let act = match e.step(*ev, FRESH + 1, held) {
                            Some(Act::Ask) => format!("/Ask({:?})", e.mac().filter(|_| e.tries == 1)),
                            Some(Act::Dead) => "/Dead".to_owned(),
                            _ => String::new(),
                        };
                        (facts(&e) != was || !act.is_empty()).then(|| format!("{n}>{}{act}", show(&e)))
                    })
                    .collect();
                t += &format!("{}{}: {}\n", if held { "held " } else { "" }, show(&entry(s)), row.join(", "));
            }
        }
        insta::assert_snapshot!(t, @"
        (none): use>Incomplete, doubt>Incomplete, asks>Stale2
        Incomplete: tick>Incomplete/Ask(None), asks>Stale2, same S>Reachable1, same ->Stale1, other ->Stale2, other O>Stale2, other S>Reachable2, other SO>Reachable2
        Reachable1: use>Probe1, doubt>Probe1, asks>Stale2, same S>Reachable1, other ->Stale1, other O>Stale2, other S>Stale1, other SO>Reachable2
        Stale1: use>Probe1, doubt>Probe1, asks>Stale2, same S>Reachable1, other O>Stale2, other SO>Reachable2
        Probe1: tick>Probe1/Ask(Some([1, 1, 1, 1, 1, 1])), asks>Probe2, same S>Reachable1, other O>Stale2, other SO>Reachable2
        held (none): use>Incomplete, doubt>Incomplete, asks>Stale2
        held Incomplete: tick>Incomplete/Ask(None), asks>Stale2, same S>Reachable1, same ->Stale1, other ->Stale2, other O>Stale2, other S>Reachable2, other SO>Reachable2
        held Reachable1: use>Probe1, doubt>Probe1, same S>Reachable1, other ->Stale1, other S>Stale1
        held Stale1: use>Probe1, doubt>Probe1, same S>Reachable1
        held Probe1: tick>Probe1/Ask(Some([1, 1, 1, 1, 1, 1])), same S>Reachable1, other SO>Reachable2
        ");
    }

    #[test]
    fn asks_three_times_then_gives_up() {
        let mut n = Neighbours::default();
        assert_eq!(n.lookup(&b(), 0), Lookup::Wait);
        for t in 0..3 {
            assert_eq!(polled(&mut n, t * S), (vec![(b(), None)], vec![]));
            assert_eq!(polled(&mut n, t * S + 1), (vec![], vec![]));
            assert_eq!(n.deadline(), Some((t + 1) * S));
        }
        assert_eq!(polled(&mut n, 3 * S), (vec![], vec![b()]));
        assert!(n.deadline().is_none() && n.is_empty());
    }

    #[test]
    fn learns_of_those_it_asked_for_and_of_those_who_ask_for_us_only() {
        let mut n = Neighbours::default();
        n.event(&b(), answer(YOU), 0);
        assert!(n.is_empty(), "nobody asked");
        n.event(&b(), Ev::AsksUs(YOU), 0);
        assert_eq!((n.peek(&b()), n.epoch()), (Some(YOU), 1));
        n.event(&b(), Ev::AsksUs(YOU), 0);
        assert_eq!(n.epoch(), 1, "no news");
    }

    #[test]
    fn an_old_answer_is_used_while_it_is_checked() {
        let mut n = Neighbours::default();
        n.lookup(&b(), 0);
        n.event(&b(), answer(YOU), 0);
        assert_eq!(n.lookup(&b(), 60 * S), Lookup::Known(YOU));
        assert_eq!(n.lookup(&b(), 61 * S), Lookup::Known(YOU));
        assert_eq!(polled(&mut n, 61 * S).0, [(b(), Some(YOU))], "asked directly");
        assert_eq!(polled(&mut n, 62 * S).0, [(b(), None)]);
        polled(&mut n, 63 * S);
        assert_eq!(polled(&mut n, 64 * S).1, [b()]);
        assert_eq!(n.lookup(&b(), 64 * S), Lookup::Wait);
    }

    #[test]
    fn two_stations_with_one_address_do_not_make_connections_hop() {
        let mut n = Neighbours::default();
        n.lookup(&b(), 0);
        n.event(&b(), answer(YOU), 0);
        let epoch = n.epoch();
        for i in 0..100 {
            n.event(&b(), Ev::Told { mac: THIEF, solicited: false, overrides: true }, i);
            n.event(&b(), Ev::AsksUs(THIEF), i);
        }
        assert_eq!((n.peek(&b()), n.epoch(), n.held()), (Some(YOU), epoch, 200));
        // In doubt, the answer counts; otherwise a move is believed once a second.
        n.event(&b(), Ev::Doubt, 200);
        n.event(&b(), answer(THIEF), 200);
        assert_eq!(n.peek(&b()), Some(THIEF));
        n.event(&b(), Ev::AsksUs(YOU), S);
        assert_eq!(n.peek(&b()), Some(THIEF));
        n.event(&b(), Ev::AsksUs(YOU), 201 + S);
        assert_eq!(n.peek(&b()), Some(YOU));
    }

    #[test]
    fn strangers_make_room_and_those_wanted_stay() {
        let mut n = Neighbours::default();
        for i in 0..10 {
            n.lookup(&Addr::v4(0x0b00_0000 + i), 0);
        }
        for i in 10..50_000u32 {
            n.event(&Addr::v4(0x0a00_0000 + i), Ev::AsksUs(YOU), u64::from(i));
            assert!(n.len() <= MAX && n.index.len() == n.len());
        }
        assert_eq!(polled(&mut n, S).0.len(), 10);
        for (a, i) in &n.index {
            assert_eq!(n.slots[*i].addr, *a);
        }
    }
}
