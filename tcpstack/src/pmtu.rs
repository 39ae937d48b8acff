//! Path MTU: what routers say (RFC 1191, RFC 8201), remembered for each destination, and what is guessed when they
//! say nothing (RFC 2923, in the spirit of RFC 4821).
//!
//! ```text
//!           TooBig                               after 10 minutes
//!   Full ─────────────> Told ─────────────────────────────────────────> Full
//!    │  ▲                │                         2 s, later 10 min
//!    │  │                └── Silent twice ──> Hole ─────────────────> Trial
//!    │  └───────────────────────────────────── │ ▲ ───── Arrived ─────┘ │
//!    └────────────── Silent twice ─────────────┘ └──────── Silent ──────┘
//! ```
//!
//! *Silent* is a time-out while a full segment is out: where small segments pass and full ones vanish without a
//! word, somebody drops what is too big and says nothing, or nobody hears it. An outage looks the same, so the first
//! try of the full size comes soon; the next ones are as rare as RFC 1191 §6.3 wants.
//!
//! TooBig in Hole leads to Told as well: a word is better than a guess.

use std::collections::{HashMap, VecDeque};

use fsm::Fsm;

use crate::addr::Addr;

/// A learned size is forgotten, and a larger one tried, after this long, in ns (RFC 1191 §6.3, RFC 8201 §4).
pub const AGE: u64 = 600_000_000_000;
/// First try of the full size after a guess, in ns.
pub const SOON: u64 = 2_000_000_000;
/// Destinations remembered at most.
pub const MAX: usize = 1024;
/// Smallest MTU of a link that carries IPv6 (RFC 8200 §5), in bytes.
pub const FLOOR6: u16 = 1280;
/// Smallest MTU that is taken from a router of IPv4 by default, in bytes; as Linux has it.
pub const FLOOR4: u16 = 552;
/// No limit.
const ANY: u16 = u16::MAX;

/// MTUs that networks have (RFC 1191 §7.1), to try where a router names none.
const PLATEAUS: [u16; 9] = [32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508, 296];
/// Sizes to try where nobody says anything: Ethernet, IPv6's least, and what is small enough for about everything.
const GUESSES: [u16; 3] = [1500, FLOOR6, 1006];

/// The MTU to try after a packet of `len` bytes was too big for a router that did not say what is not.
pub fn plateau(len: u16) -> u16 {
    PLATEAUS.into_iter().find(|p| *p < len).unwrap_or(68)
}

fsm::fsm! {
    /// A view of a connection's path.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum State {
        /// It takes what the port and the peer do.
        Full,
        /// A router said what it takes.
        Told,
        /// Full segments vanish; smaller ones are sent.
        Hole,
        /// The full size is tried again.
        Trial,
    }

    /// An event, judged by what is sent now.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Judged {
        /// A router said how many bytes are the most.
        TooBig,
        /// A time-out while a full segment was out, and there is a smaller size.
        Silent,
        /// The same, twice or four times in a row.
        SilentTwice,
        /// A full segment has arrived.
        Arrived,
        /// The size in use has aged.
        Aged,
    }

    /// An action on the size.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Act {
        /// The router's.
        Heed,
        /// A smaller one that other networks have.
        Guess,
        /// The largest again.
        Raise,
        /// It is the one.
        Keep,
    }

    table State + Judged => Act {
        start Full;
        else "the size stays";
        _ + TooBig => Told, Heed;
        Full | Told | Hole + SilentTwice => Hole, Guess;
        Trial + Silent | SilentTwice => Hole, Guess;
        Trial + Arrived => Full, Keep;
        Told + Aged => Full, Raise;
        Hole + Aged => Trial, Raise;
    }
}

/// An event on a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ev {
    /// A router said that this many bytes are the most.
    TooBig(u16),
    /// A time-out while a full segment was out, this many in a row.
    Silent(u8),
    /// A full segment has arrived.
    Arrived,
    /// Time has passed.
    Tick,
}

/// The path of one connection: what of an IP packet it takes.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    state: Fsm<State>,
    /// Time at which more is tried, in ns; in Told and Hole.
    until: u64,
    /// Largest IP packet that passes, as far as known, in bytes.
    mtu: u16,
    /// MSS that the peer and the port allow, in bytes.
    limit: u16,
    /// A try of the full size has failed.
    failed: bool,
}

impl Default for Path {
    fn default() -> Path {
        Path { state: Fsm::START, until: 0, mtu: ANY, limit: ANY, failed: false }
    }
}

impl Path {
    /// The state.
    pub fn state(&self) -> State {
        self.state.get()
    }

    /// The MSS that peer and port allow, before what the path takes, in bytes.
    pub fn set_limit(&mut self, mss: u16) {
        self.limit = mss;
    }

    /// The MSS now, in bytes, options not considered; `headers` are those of IP and TCP.
    pub fn mss(&self, headers: u16) -> u16 {
        self.limit.min(self.mtu.saturating_sub(headers))
    }

    /// A router said that `mtu` bytes are the most; that counts until then (ns).
    pub fn tell(&mut self, mtu: u16, until: u64) {
        let _ = self.state.apply(Judged::TooBig);
        (self.mtu, self.until) = (mtu, until);
    }

    /// Whether something is due at `now` (ns).
    #[inline]
    pub fn due(&self, now: u64) -> bool {
        matches!(self.state.get(), State::Told | State::Hole) && now >= self.until
    }

    /// Takes in an event. `size` is the largest IP packet sent now and `floor` the smallest to go down to, in bytes.
    /// Returns whether the size changed.
    pub fn step(&mut self, ev: Ev, (size, floor): (u16, u16), now: u64) -> bool {
        let (was, mut mtu) = (self.mtu, ANY);
        let judged = match ev {
            Ev::TooBig(n) => {
                mtu = n.max(floor);
                Judged::TooBig
            }
            Ev::Silent(n) => {
                // Even where no smaller size is left.
                self.failed |= self.state == State::Trial;
                let smaller = GUESSES.into_iter().chain([floor]).find(|g| *g < size && *g >= floor);
                let Some(guess) = smaller else { return false };
                mtu = guess;
                if n >= 2 && n.is_multiple_of(2) { Judged::SilentTwice } else { Judged::Silent }
            }
            Ev::Arrived => Judged::Arrived,
            Ev::Tick if self.due(now) => Judged::Aged,
            Ev::Tick => return false,
        };
        match self.state.apply(judged) {
            None => return false,
            Some(Act::Heed) => (self.mtu, self.until) = (mtu, now + AGE),
            Some(Act::Guess) => (self.mtu, self.until) = (mtu, now + if self.failed { AGE } else { SOON }),
            Some(Act::Raise) => self.mtu = ANY,
            Some(Act::Keep) => self.failed = false,
        }
        self.mtu != was
    }
}

/// Path MTUs of destinations, as routers said them.
#[derive(Default)]
pub struct Paths {
    known: HashMap<Addr, (u16, u64)>,
    order: VecDeque<(u64, Addr)>,
}

impl Paths {
    /// The largest packet towards `a` and how long that counts (ns), if something is known at `now`.
    pub fn get(&self, a: &Addr, now: u64) -> Option<(u16, u64)> {
        self.known.get(a).copied().filter(|k| now < k.1)
    }

    /// A router said that `mtu` bytes are the most towards `a`.
    pub fn learn(&mut self, a: &Addr, mtu: u16, now: u64) {
        while self.order.len() >= MAX
            && let Some((until, old)) = self.order.pop_front()
        {
            if self.known.get(&old).is_some_and(|k| k.1 == until) {
                self.known.remove(&old);
            }
        }
        self.known.insert(*a, (mtu, now + AGE));
        self.order.push_back((now + AGE, *a));
    }

    /// Destinations remembered.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const S: u64 = 1_000_000_000;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<State>(), @r"
        Full + TooBig -> Told, Heed
        Full + SilentTwice -> Hole, Guess
        Told + TooBig -> Told, Heed
        Told + SilentTwice -> Hole, Guess
        Told + Aged -> Full, Raise
        Hole + TooBig -> Told, Heed
        Hole + SilentTwice -> Hole, Guess
        Hole + Aged -> Trial, Raise
        Trial + TooBig -> Told, Heed
        Trial + Silent -> Hole, Guess
        Trial + SilentTwice -> Hole, Guess
        Trial + Arrived -> Full, Keep
        otherwise: the size stays
        ");
    }

    /// A path in a state whose time has come.
    fn path(state: State, failed: bool) -> Path {
        let mut p = Path::default();
        let size = (9000, 552);
        let events: &[Ev] = match state {
            State::Full => &[],
            State::Told => &[Ev::TooBig(1400)],
            State::Hole => &[Ev::Silent(2)],
            State::Trial => &[Ev::Silent(2), Ev::Tick],
        };
        for e in events {
            p.until = 0;
            p.step(*e, size, 0);
            p.until = 0;
        }
        assert_eq!(p.state(), state);
        Path { mtu: 9000, limit: 8960, failed, until: 9, ..p }
    }

    #[test]
    fn the_table() {
        let states = [State::Full, State::Told, State::Hole, State::Trial];
        let evs = [
            ("too big", Ev::TooBig(1400)),
            ("silent once", Ev::Silent(1)),
            ("silent twice", Ev::Silent(2)),
            ("silent thrice", Ev::Silent(3)),
            ("arrived", Ev::Arrived),
            ("tick", Ev::Tick),
        ];
        let name = |s: State| format!("{s:?}").split(' ').next().unwrap_or("").to_owned();
        let mut t = String::new();
        for failed in [false, true] {
            for state in states {
                let row: Vec<_> = evs
                    .iter()
                    .filter_map(|(n, e)| {
                        let mut p = path(state, failed);
                        p.step(*e, (9000, 552), 10 * S);
                        let wait = match p.state() {
                            State::Told | State::Hole => format!(" {} s", (p.until / S).max(10) - 10),
                            _ => String::new(),
                        };
                        let changed = p.state() != state || p.until != 9;
                        changed.then(|| format!("{n}>{}{wait} {}", name(p.state()), p.mtu))
                    })
                    .collect();
                t += &format!("{}{}: {}\n", name(state), if failed { " failed" } else { "" }, row.join(", "));
            }
        }
        insta::assert_snapshot!(t, @"
        Full: too big>Told 600 s 1400, silent twice>Hole 2 s 1500
        Told: too big>Told 600 s 1400, silent twice>Hole 2 s 1500, tick>Full 65535
        Hole: too big>Told 600 s 1400, silent twice>Hole 2 s 1500, tick>Trial 65535
        Trial: too big>Told 600 s 1400, silent once>Hole 600 s 1500, silent twice>Hole 600 s 1500, silent thrice>Hole 600 s 1500, arrived>Full 9000
        Full failed: too big>Told 600 s 1400, silent twice>Hole 600 s 1500
        Told failed: too big>Told 600 s 1400, silent twice>Hole 600 s 1500, tick>Full 65535
        Hole failed: too big>Told 600 s 1400, silent twice>Hole 600 s 1500, tick>Trial 65535
        Trial failed: too big>Told 600 s 1400, silent once>Hole 600 s 1500, silent twice>Hole 600 s 1500, silent thrice>Hole 600 s 1500, arrived>Full 9000
        ");
    }

    #[test]
    fn guesses_go_down_to_the_floor_and_no_further() {
        let mut p = Path::default();
        let mut sizes = vec![9000];
        for n in 1..20 {
            let size = sizes[sizes.len() - 1];
            if p.step(Ev::Silent(n), (size, FLOOR4), u64::from(n)) {
                sizes.push(p.mtu);
            }
        }
        assert_eq!(sizes, [9000, 1500, 1280, 1006, 552]);
        let mut p = Path::default();
        assert!(p.step(Ev::Silent(2), (1500, FLOOR6), 0) && p.mtu == 1280);
        assert!(!p.step(Ev::Silent(4), (1280, FLOOR6), 0) && p.mtu == 1280);
    }

    #[test]
    fn the_mss_follows_path_peer_and_port() {
        let mut p = Path::default();
        p.set_limit(8960);
        assert_eq!(p.mss(40), 8960);
        p.step(Ev::TooBig(1400), (9000, 552), 0);
        assert_eq!((p.mss(40), p.mss(60)), (1360, 1340));
        p.set_limit(536);
        assert_eq!(p.mss(40), 536);
        p.step(Ev::TooBig(10), (9000, 552), 0);
        assert_eq!(p.mss(20), 532, "never below the floor");
    }

    #[test]
    fn plateaus_lie_below_what_was_too_big() {
        for (len, want) in [(65_535, 32_000), (9000, 8166), (1500, 1492), (1492, 1006), (576, 508), (100, 68)]
        {
            assert_eq!(plateau(len), want);
        }
    }

    #[test]
    fn destinations_are_forgotten_by_time_and_by_number() {
        let mut c = Paths::default();
        let a = |n: u32| Addr::v4(n);
        c.learn(&a(1), 1400, 0);
        c.learn(&a(1), 1300, 5);
        assert_eq!((c.get(&a(1), 6), c.get(&a(2), 6)), (Some((1300, AGE + 5)), None));
        assert_eq!(c.get(&a(1), AGE + 5), None);
        for n in 0..5000 {
            c.learn(&a(n), 1400, u64::from(n));
        }
        assert!(c.len() <= MAX && c.order.len() <= MAX);
        assert_eq!(c.get(&a(4999), 5000).map(|k| k.0), Some(1400));
    }
}
