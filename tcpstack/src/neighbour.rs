//! The neighbours of one lcore: which Ethernet address an IP address of either family is at. What ARP (RFC 826)
//! and neighbour discovery (RFC 4861) say of them is brought to the same few events.
//!
//! ```text
//!            Use                     Told, solicited
//!   (none) ───────> Incomplete ─────────────────────────> Reachable <──────────────┐
//!     │  ▲              │  │                               │      │                │ Told, solicited
//!     │  └─ 3 asked ────┘  └─ Told, unsolicited ──┐        │   Use after 60 s,     │
//!     │                                           ▼        │   Doubt               │
//!     └───────── AsksUs ───────────────────────> Stale <───┘      │                │
//!                                                 │    another    └──> Probe ──────┘
//!                                                 │    address          │  ▲
//!                                                 └──────── Use ────────┼──┘
//!                                                        (none) <───────┘ 3 asked
//! ```
//!
//! An address once known is used while it is asked for again. A mapping that has just changed does not change again
//! for a second unless it is in doubt, so that two stations that claim one address do not make connections hop
//! between them. A connection notices a change when it is served next: [`Neighbours::epoch`] counts changes, so
//! that nothing has to walk the connections.

use std::collections::HashMap;

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

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Asked for, never answered.
    Incomplete {
        /// Questions asked.
        tries: u8,
        /// When the next one is due (ns).
        next: u64,
    },
    /// It has answered.
    Reachable {
        /// Its address.
        mac: Mac,
        /// When (ns).
        at: u64,
    },
    /// It said where it is without being asked.
    Stale {
        /// Its address.
        mac: Mac,
    },
    /// Known, and asked for again.
    Probe {
        /// Its address so far.
        mac: Mac,
        /// Questions asked.
        tries: u8,
        /// When the next one is due (ns).
        next: u64,
    },
}

/// What happens to a neighbour.
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

/// What is to be done then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    None,
    /// Ask: this station, or everybody.
    Ask(Option<Mac>),
    /// It does not answer.
    Dead,
}

impl State {
    /// The Ethernet address, where there is one.
    pub fn mac(&self) -> Option<Mac> {
        match self {
            State::Incomplete { .. } => None,
            State::Reachable { mac, .. } | State::Stale { mac } | State::Probe { mac, .. } => Some(*mac),
        }
    }

    fn due(&self) -> u64 {
        match self {
            State::Incomplete { next, .. } | State::Probe { next, .. } => *next,
            State::Reachable { .. } | State::Stale { .. } => u64::MAX,
        }
    }

    /// The transition; `None` for no entry. `held` says that the mapping has just changed.
    pub fn step(s: Option<State>, ev: Ev, now: u64, held: bool) -> (Option<State>, Act) {
        use State::*;
        let some = |s| (Some(s), Act::None);
        match (s, ev) {
            (None, Ev::Use) => some(Incomplete { tries: 0, next: now }),
            (None, Ev::AsksUs(mac)) => some(Stale { mac }),
            (None, _) => (None, Act::None),
            (Some(Reachable { mac, at }), Ev::Use) if now.saturating_sub(at) > FRESH => {
                some(Probe { mac, tries: 0, next: now })
            }
            (Some(Reachable { mac, .. }), Ev::Doubt) | (Some(Stale { mac }), Ev::Use | Ev::Doubt) => {
                some(Probe { mac, tries: 0, next: now })
            }
            (Some(s), Ev::Use | Ev::Doubt) => some(s),
            (Some(Incomplete { tries, next } | Probe { tries, next, .. }), Ev::Tick)
                if now >= next && tries >= TRIES =>
            {
                (None, Act::Dead)
            }
            (Some(Incomplete { tries, next }), Ev::Tick) if now >= next => {
                (Some(Incomplete { tries: tries + 1, next: now + RETRY }), Act::Ask(None))
            }
            // Directly first (RFC 1122 §2.3.2.1), then everybody: it may have moved.
            (Some(Probe { mac, tries, next }), Ev::Tick) if now >= next => {
                let to = (tries == 0).then_some(mac);
                (Some(Probe { mac, tries: tries + 1, next: now + RETRY }), Act::Ask(to))
            }
            (Some(s), Ev::Tick) => some(s),
            (Some(Incomplete { .. }), Ev::AsksUs(mac)) => some(Stale { mac }),
            (Some(s), Ev::AsksUs(mac)) if s.mac() == Some(mac) || held => some(s),
            (Some(Probe { tries, next, .. }), Ev::AsksUs(mac)) => some(Probe { mac, tries, next }),
            (Some(_), Ev::AsksUs(mac)) => some(Stale { mac }),
            (Some(s), Ev::Told { mac, solicited, overrides }) => {
                let same = s.mac().is_none_or(|m| m == mac);
                // Only an answer to a question that is open clears a doubt about who has the address.
                let open = matches!(s, Incomplete { .. } | Probe { .. });
                match (same || overrides, solicited, s) {
                    (false, _, Reachable { mac, .. }) => some(Stale { mac }),
                    (false, ..) => some(s),
                    _ if !same && held && !(solicited && open) => some(s),
                    (true, true, _) => some(Reachable { mac, at: now }),
                    (true, false, Incomplete { .. }) => some(Stale { mac }),
                    (true, false, _) if same => some(s),
                    (true, false, _) => some(Stale { mac }),
                }
            }
        }
    }
}

struct Entry {
    addr: Addr,
    state: State,
    /// When the Ethernet address last changed (ns).
    changed: u64,
    /// Somebody here has wanted it; strangers that asked for us make room first.
    wanted: bool,
}

/// What to do about an address.
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
        self.slots.get(*self.index.get(a)?)?.state.mac()
    }

    /// Where `a` is. When that is not known, or is old, the next [`Neighbours::poll`] asks.
    pub fn lookup(&mut self, a: &Addr, now: u64) -> Lookup {
        self.event(a, Ev::Use, now);
        self.peek(a).map_or(Lookup::Wait, Lookup::Known)
    }

    /// Something happened to `a`.
    pub fn event(&mut self, a: &Addr, ev: Ev, now: u64) {
        let at = self.index.get(a).copied();
        let old = at.and_then(|i| self.slots.get(i));
        let (mac, was) = (old.and_then(|e| e.state.mac()), old.map(|e| e.state));
        let held = old.is_some_and(|e| mac.is_some() && now.saturating_sub(e.changed) < LOCK);
        let Some(state) = State::step(was, ev, now, held).0 else { return };
        if let (true, Ev::AsksUs(m) | Ev::Told { mac: m, overrides: true, .. }) = (held, ev) {
            self.held += u64::from(state.mac() != Some(m));
        }
        if state.due() != u64::MAX {
            self.next = Some(self.next.map_or(state.due(), |n| n.min(state.due())));
        }
        let moved = state.mac() != mac;
        self.epoch = self.epoch.wrapping_add(u32::from(moved));
        let wanted = matches!(ev, Ev::Use);
        match at.and_then(|i| self.slots.get_mut(i)) {
            Some(e) => {
                e.state = state;
                e.wanted |= wanted;
                if moved {
                    e.changed = now;
                }
            }
            None => self.add(Entry { addr: *a, state, changed: now, wanted }),
        }
    }

    fn add(&mut self, e: Entry) {
        if self.slots.len() < MAX {
            self.index.insert(e.addr, self.slots.len());
            return self.slots.push(e);
        }
        // One of a few: a stranger's, else what changed longest ago. Where somebody waits for all of them, whom
        // nobody has wanted is not kept.
        let worth = |e: &Entry| (e.state.due() != u64::MAX, e.wanted, e.changed);
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

    /// When [`Neighbours::poll`] has something to do (ns).
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
            let (state, act) = State::step(Some(e.state), Ev::Tick, now, false);
            match act {
                Act::Ask(to) => ask(e.addr, to),
                Act::Dead => dead(e.addr),
                Act::None => (),
            }
            match state {
                Some(s) => {
                    e.state = s;
                    if s.due() != u64::MAX {
                        self.next = Some(self.next.map_or(s.due(), |n| n.min(s.due())));
                    }
                    i += 1;
                }
                None => {
                    let gone = self.slots.swap_remove(i);
                    self.index.remove(&gone.addr);
                    if let Some(e) = self.slots.get(i) {
                        self.index.insert(e.addr, i);
                    }
                }
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
    fn the_table() {
        let mac = [1; 6];
        let states = [
            None,
            Some(State::Incomplete { tries: 1, next: 0 }),
            Some(State::Reachable { mac, at: 0 }),
            Some(State::Stale { mac }),
            Some(State::Probe { mac, tries: 0, next: 0 }),
        ];
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
        let show = |s: Option<State>| match s {
            None => "(none)".to_owned(),
            Some(s) => {
                let name = format!("{s:?}");
                let mac = s.mac().map_or(String::new(), |m| m[0].to_string());
                format!("{}{mac}", name.split(' ').next().unwrap_or(""))
            }
        };
        let mut t = String::new();
        for held in [false, true] {
            for s in states {
                let row: Vec<_> = evs
                    .iter()
                    .filter_map(|(n, e)| {
                        let (x, act) = State::step(s, *e, FRESH + 1, held);
                        let act = if act == Act::None { String::new() } else { format!("/{act:?}") };
                        (x != s || !act.is_empty()).then(|| format!("{n}>{}{act}", show(x)))
                    })
                    .collect();
                t += &format!("{}{}: {}\n", if held { "held " } else { "" }, show(s), row.join(", "));
            }
        }
        insta::assert_snapshot!(t, @"
        (none): use>Incomplete, asks>Stale2
        Incomplete: tick>Incomplete/Ask(None), asks>Stale2, same S>Reachable1, same ->Stale1, other ->Stale2, other O>Stale2, other S>Reachable2, other SO>Reachable2
        Reachable1: use>Probe1, doubt>Probe1, asks>Stale2, same S>Reachable1, other ->Stale1, other O>Stale2, other S>Stale1, other SO>Reachable2
        Stale1: use>Probe1, doubt>Probe1, asks>Stale2, same S>Reachable1, other O>Stale2, other SO>Reachable2
        Probe1: tick>Probe1/Ask(Some([1, 1, 1, 1, 1, 1])), asks>Probe2, same S>Reachable1, other O>Stale2, other SO>Reachable2
        held (none): use>Incomplete, asks>Stale2
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
