//! Fault rules: messages that are dropped, failed or delayed on purpose, to see what the others do (docs/protocol/upper.md
//! §6, the kernel's `lnetctl fault`).
//!
//! A drop rule works on messages that are received: their payload is read, their zero-copy cookie acknowledged, and nobody
//! hears of them. One with health errors works on messages that are sent: nothing leaves, and they fail here. A delay rule
//! works on both. Rules are tried in their order, and the first that hits a message has it. A shard has rules and counts of its
//! own: of 1/N, each shard takes one in N of its messages.

use std::fmt;
use std::str::FromStr;

use super::causes::Cause;
use crate::lnd::LnetError;
use crate::lnd::config::SEC;
use crate::wire::{LnetBody, LnetHdr, Nid, NidParseError};

/// Most rules of a node.
pub const RULES_MAX: usize = 64;

/// NIDs that a rule means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NidPattern {
    /// All: `*`.
    Any,
    /// All of a network, by one of its NIDs: `*@tcp`.
    Net(Nid),
    /// One.
    One(Nid),
}

impl NidPattern {
    fn means(self, nid: Nid) -> bool {
        match self {
            NidPattern::Any => true,
            NidPattern::Net(n) => n.same_net(nid),
            NidPattern::One(n) => n == nid,
        }
    }
}

impl FromStr for NidPattern {
    type Err = NidParseError;

    fn from_str(s: &str) -> Result<NidPattern, NidParseError> {
        match s.strip_prefix('*') {
            Some("") => Ok(NidPattern::Any),
            Some(net) => format!("255.255.255.255{net}").parse().map(NidPattern::Net),
            None => s.parse().map(NidPattern::One),
        }
    }
}

impl fmt::Display for NidPattern {
    /// As `lctl net_drop_list` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NidPattern::Any => Nid::ANY.fmt(f),
            NidPattern::Net(n) | NidPattern::One(n) => n.fmt(f),
        }
    }
}

/// Frequency of a rule's hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultRate {
    /// One of so many messages, at a random place among them; at least 1.
    OneIn(u32),
    /// One message every so many seconds, at a random time; at least 1.
    Every(u32),
}

/// Effects of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Messages received are dropped.
    Drop,
    /// Messages sent fail at once with one of these errors ([`HEALTH_ERRORS`], a bit each).
    Fail(u16),
    /// Messages sent or received go on so many ns later.
    Delay(u64),
}

/// Health errors by the names that lnetctl gives them, and the errors that operations end with.
pub const HEALTH_ERRORS: [(&str, LnetError); 10] = [
    ("local_interrupt", LnetError::ConnLost),
    ("local_dropped", LnetError::ConnLost),
    ("local_aborted", LnetError::ConnLost),
    ("local_no_route", LnetError::Unreachable),
    ("local_error", LnetError::ConnLost),
    ("local_timeout", LnetError::TimedOut),
    ("remote_error", LnetError::ConnLost),
    ("remote_dropped", LnetError::ConnLost),
    ("remote_timeout", LnetError::TimedOut),
    ("network_timeout", LnetError::TimedOut),
];

/// Message types by name, with their bits.
pub const MESSAGES: [(&str, u8); 4] = [("ACK", 1), ("PUT", 2), ("GET", 4), ("REPLY", 8)];
const ALL_MESSAGES: u8 = 15;
const WITH_PORTALS: u8 = 2 | 4;

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultRule {
    /// Sources.
    pub source: NidPattern,
    /// Destinations.
    pub dest: NidPattern,
    /// Its rate.
    pub rate: FaultRate,
    /// Portals, a bit each; 0 for all. Only PUTs and GETs have one.
    pub portals: u64,
    /// Types of messages, bits of [`MESSAGES`]; 0 for all.
    pub messages: u8,
    /// Its effect.
    pub fault: Fault,
}

/// Reason why a rule was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// 0 is no rate, and no interval.
    #[error("please provide either drop rate or interval but not both at the same time.")]
    Rate,
    /// A delay of nothing.
    #[error("latency cannot be zero: give --latency in seconds")]
    Latency,
    /// No health error.
    #[error("a rule that fails messages needs a health error")]
    Health,
    /// Portals are looked at, and no type that has one is left.
    #[error("only PUT and GET have a portal: leave --portal out, or --message")]
    Portal,
    /// There are too many.
    #[error("there are {RULES_MAX} rules already, as many as there may be: delete some")]
    Full,
}

impl FaultRule {
    /// The rule as it is kept, with nothing left open.
    ///
    /// # Errors
    /// [`FaultError`], but for `Full`.
    pub fn checked(mut self) -> Result<FaultRule, FaultError> {
        if matches!(self.rate, FaultRate::OneIn(0) | FaultRate::Every(0)) {
            return Err(FaultError::Rate);
        }
        match self.fault {
            Fault::Delay(0) => return Err(FaultError::Latency),
            Fault::Fail(mask) if u32::from(mask).trailing_zeros() >= HEALTH_ERRORS.len() as u32 => {
                return Err(FaultError::Health);
            }
            _ => {}
        }
        if self.messages == 0 {
            self.messages = ALL_MESSAGES;
        }
        if self.portals != 0 {
            self.messages &= WITH_PORTALS;
        }
        if self.messages & ALL_MESSAGES == 0 { Err(FaultError::Portal) } else { Ok(self) }
    }

    /// Whether a node can have all of these.
    ///
    /// # Errors
    /// [`FaultError`]
    pub fn check_all(rules: &[FaultRule]) -> Result<(), FaultError> {
        if rules.len() > RULES_MAX {
            Err(FaultError::Full)
        } else {
            rules.iter().try_for_each(|r| r.checked().map(drop))
        }
    }

    fn delays(&self) -> bool {
        matches!(self.fault, Fault::Delay(_))
    }

    fn means(&self, h: &LnetHdr) -> bool {
        let (bit, portal) = match h.body {
            LnetBody::Ack { .. } => (1, None),
            LnetBody::Put { portal, .. } => (2, Some(portal)),
            LnetBody::Get { portal, .. } => (4, Some(portal)),
            LnetBody::Reply { .. } => (8, None),
        };
        self.messages & bit != 0
            && self.source.means(h.src_nid)
            && self.dest.means(h.dest_nid)
            && (self.portals == 0
                || portal.is_some_and(|p| self.portals.checked_shr(p).is_some_and(|m| m & 1 != 0)))
    }
}

/// A rule with its counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultView {
    /// The rule.
    pub rule: FaultRule,
    /// Messages that it means.
    pub met: u64,
    /// Those of them that it hit.
    pub hit: u64,
    /// Those by type, in the order of [`MESSAGES`].
    pub by_type: [u64; 4],
}

impl FaultView {
    /// Adds the counts of the same rule on another shard.
    pub fn add(&mut self, other: &FaultView) {
        self.met += other.met;
        self.hit += other.hit;
        for (n, more) in self.by_type.iter_mut().zip(other.by_type) {
            *n += more;
        }
    }
}

impl fmt::Display for FaultView {
    /// As `lctl net_drop_list` and `net_delay_list` have it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = &self.rule;
        let (rate, interval) = match r.rate {
            FaultRate::OneIn(n) => (n, 0),
            FaultRate::Every(s) => (0, s),
        };
        write!(f, "{}->{} (1/{rate} | {interval}", r.source, r.dest)?;
        if let Fault::Delay(ns) = r.fault {
            write!(f, ", latency {}", ns / SEC)?;
        }
        let hex = if r.portals == 0 { "" } else { "0x" };
        let [ack, put, get, reply] = self.by_type;
        write!(
            f,
            ") ptl {hex}{:x}, msg {:x}, {}/{}, PUT {put}, ACK {ack}, GET {get}, REP {reply}",
            r.portals, r.messages, self.hit, self.met
        )
    }
}

/// Orders about rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultAsk {
    /// One more.
    Add(FaultRule),
    /// Deletes the rules that drop or fail, or those that delay, between these; `None` for any.
    Delete {
        /// Those that delay.
        delay: bool,
        /// Of these sources.
        source: Option<NidPattern>,
        /// Of these destinations.
        dest: Option<NidPattern>,
    },
    /// Deletes the last one that is the same in all.
    Remove(FaultRule),
    /// Sets their counts to 0, and begins their rates anew.
    Reset {
        /// Those that delay.
        delay: bool,
    },
}

/// A direction, as a message is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Going {
    In,
    Out,
}

/// A verdict on a message that a rule hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hit {
    Drop,
    Fail(Cause, LnetError),
    /// So many ns, by this rule.
    Delay(u64, RuleId),
}

/// A rule of a shard; no later one has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RuleId(u64);

#[derive(Debug)]
struct Rule {
    id: RuleId,
    view: FaultView,
    /// Of [`FaultRate::OneIn`]: the message that is hit. Of [`FaultRate::Every`]: the time in ns from which one is, and the
    /// beginning of the next interval.
    next: u64,
    base: u64,
}

/// The rules of a shard.
#[derive(Debug)]
pub(super) struct Rules {
    rules: Vec<Rule>,
    added: u64,
    seed: u64,
}

impl Rules {
    /// None; `seed` is for random places.
    pub(super) fn new(seed: u64) -> Rules {
        Rules { rules: Vec::new(), added: 0, seed }
    }

    /// Does what is asked; gives the number of rules that it concerned.
    ///
    /// # Errors
    /// [`FaultError`]
    pub(super) fn ask(&mut self, now: u64, ask: FaultAsk) -> Result<usize, FaultError> {
        let before = self.rules.len();
        match ask {
            FaultAsk::Add(_) if before >= RULES_MAX => Err(FaultError::Full),
            FaultAsk::Add(rule) => {
                let view = FaultView { rule: rule.checked()?, met: 0, hit: 0, by_type: [0; 4] };
                let mut rule = Rule { id: RuleId(self.added), view, next: 0, base: 0 };
                self.added += 1;
                rule.begin(now, &mut self.seed);
                self.rules.push(rule);
                Ok(1)
            }
            FaultAsk::Delete { delay, source, dest } => {
                self.rules.retain(|r| {
                    let rule = &r.view.rule;
                    rule.delays() != delay
                        || source.is_some_and(|s| s != rule.source)
                        || dest.is_some_and(|d| d != rule.dest)
                });
                Ok(before - self.rules.len())
            }
            FaultAsk::Remove(rule) => {
                let at = self.rules.iter().rposition(|r| Ok(r.view.rule) == rule.checked());
                Ok(at.map(|at| self.rules.remove(at)).iter().count())
            }
            FaultAsk::Reset { delay } => {
                let mut n = 0;
                for r in self.rules.iter_mut().filter(|r| r.view.rule.delays() == delay) {
                    r.begin(now, &mut self.seed);
                    n += 1;
                }
                Ok(n)
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether the rule has not been deleted.
    pub(super) fn has(&self, id: RuleId) -> bool {
        self.rules.iter().any(|r| r.id == id)
    }

    /// The rules, in their order.
    pub(super) fn views(&self) -> impl Iterator<Item = FaultView> + '_ {
        self.rules.iter().map(|r| r.view)
    }

    /// Judges a message.
    pub(super) fn judge(&mut self, now: u64, going: Going, h: &LnetHdr) -> Option<Hit> {
        let seed = &mut self.seed;
        // A message that is dropped is not delayed before.
        for delays in [false, true] {
            for r in self.rules.iter_mut().filter(|r| r.view.rule.delays() == delays) {
                let works = match r.view.rule.fault {
                    Fault::Drop => going == Going::In,
                    Fault::Fail(_) => going == Going::Out,
                    Fault::Delay(_) => true,
                };
                if works && r.view.rule.means(h) && r.hits(now, seed) {
                    r.count(h);
                    return Some(match r.view.rule.fault {
                        Fault::Drop => Hit::Drop,
                        Fault::Fail(mask) => {
                            let (cause, why) = pick(mask, seed);
                            Hit::Fail(cause, why)
                        }
                        Fault::Delay(ns) => Hit::Delay(ns, r.id),
                    });
                }
            }
        }
        None
    }
}

impl Rule {
    fn begin(&mut self, now: u64, seed: &mut u64) {
        (self.view.met, self.view.hit, self.view.by_type) = (0, 0, [0; 4]);
        match self.view.rule.rate {
            FaultRate::OneIn(n) => self.next = below(seed, u64::from(n)),
            FaultRate::Every(s) => {
                self.next = now + below(seed, u64::from(s) * SEC);
                self.base = now + u64::from(s) * SEC;
            }
        }
    }

    /// Whether this message is the one.
    fn hits(&mut self, now: u64, seed: &mut u64) -> bool {
        let n = self.view.met;
        self.view.met += 1;
        match self.view.rule.rate {
            FaultRate::OneIn(rate) => {
                let hit = n == self.next;
                if self.view.met.is_multiple_of(u64::from(rate)) {
                    self.next = self.view.met + below(seed, u64::from(rate));
                }
                hit
            }
            FaultRate::Every(s) => {
                let hit = now >= self.next;
                if hit {
                    self.base = self.base.max(now);
                    self.next = self.base + below(seed, u64::from(s) * SEC);
                    self.base += u64::from(s) * SEC;
                }
                hit
            }
        }
    }

    fn count(&mut self, h: &LnetHdr) {
        self.view.hit += 1;
        let at = match h.body {
            LnetBody::Ack { .. } => 0,
            LnetBody::Put { .. } => 1,
            LnetBody::Get { .. } => 2,
            LnetBody::Reply { .. } => 3,
        };
        if let Some(n) = self.view.by_type.get_mut(at) {
            *n += 1;
        }
    }
}

/// One of the errors in the mask.
fn pick(mask: u16, seed: &mut u64) -> (Cause, LnetError) {
    let some = || Cause::ALL.into_iter().zip(HEALTH_ERRORS).enumerate().filter(|(i, _)| mask >> i & 1 != 0);
    let n = below(seed, some().count() as u64) as usize;
    some().nth(n).map_or((Cause::LocalError, LnetError::ConnLost), |(_, (cause, e))| (cause, e.1))
}

/// A number below `n`, at least 1, that a seed repeats (splitmix64).
fn below(seed: &mut u64, n: u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *seed;
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z ^ z >> 31) % n.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::WireHandle;

    const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/texts/fault/");

    fn rule(source: &str, dest: &str, rate: FaultRate, messages: u8, fault: Fault) -> FaultRule {
        let (source, dest) = (source.parse().unwrap(), dest.parse().unwrap());
        FaultRule { source, dest, rate, portals: 0, messages, fault }
    }

    fn hdr(body: LnetBody) -> LnetHdr {
        let (src_nid, dest_nid) =
            ("192.168.80.12@tcp".parse().unwrap(), "192.168.80.11@tcp".parse().unwrap());
        LnetHdr { dest_nid, src_nid, dest_pid: 12345, src_pid: 12345, payload_len: 0, body }
    }

    fn get(portal: u32) -> LnetHdr {
        let handle = WireHandle::NONE;
        hdr(LnetBody::Get { handle, match_bits: 0, portal, src_offset: 0, sink_length: 0 })
    }

    /// The kernel's own lists, byte for byte.
    #[test]
    fn lists_are_printed_as_lctl_does() {
        let one = FaultRate::OneIn;
        let reply = hdr(LnetBody::Reply { handle: WireHandle::NONE });
        for (file, rule, met) in [
            ("02-drop-list.txt", rule("*@tcp", "*@tcp", one(2), 4, Fault::Drop), None),
            (
                "13-drop-list.txt",
                rule("192.168.80.12@tcp", "192.168.80.11@tcp", one(1), 8, Fault::Drop),
                Some((Going::In, 1, reply)),
            ),
            (
                "17-delay-list.txt",
                rule("*@tcp", "192.168.80.12@tcp", one(1), 4, Fault::Delay(2 * SEC)),
                Some((Going::Out, 1, LnetHdr { dest_nid: "192.168.80.12@tcp".parse().unwrap(), ..get(0) })),
            ),
            (
                "21-drop-list.txt",
                rule("*@tcp", "*@tcp", one(1), 4, Fault::Fail(1 << 5)),
                Some((Going::Out, 2, get(0))),
            ),
            (
                "29-lctl-drop-add.txt",
                rule("*@tcp", "*@tcp7", one(3), 2, Fault::Drop),
                Some((Going::In, 1, get(0))),
            ),
        ] {
            let mut rules = Rules::new(1);
            rules.ask(0, FaultAsk::Add(rule)).unwrap();
            if let Some((going, n, h)) = met {
                for _ in 0..n {
                    let _ = rules.judge(0, going, &h);
                }
                // The other direction does not count.
                if rule.fault == Fault::Drop {
                    assert_eq!(rules.judge(0, Going::Out, &h), None);
                }
            }
            let mut text: String = rules.views().map(|v| format!("{v}\n")).collect();
            text += "found total 1\n";
            assert_eq!(text, std::fs::read_to_string(format!("{DIR}{file}")).unwrap(), "{file}");
        }
    }

    #[test]
    fn patterns_portals_and_types_choose() {
        let all = rule("*", "*", FaultRate::OneIn(1), 0, Fault::Drop);
        let met = |r: FaultRule, h: &LnetHdr| r.checked().unwrap().means(h);
        assert!(met(all, &get(3)) && met(all, &hdr(LnetBody::Reply { handle: WireHandle::NONE })));
        let of = |source, dest| rule(source, dest, FaultRate::OneIn(1), 4, Fault::Drop);
        assert!(met(of("*@tcp", "192.168.80.11@tcp"), &get(0)) && met(of("192.168.80.12@tcp", "*"), &get(0)));
        assert!(!met(of("*@tcp1", "*"), &get(0)) && !met(of("*", "192.168.80.12@tcp"), &get(0)));
        let ported = FaultRule { portals: 1 << 3 | 1 << 63, ..all };
        assert_eq!([3, 63, 4, 64, u32::MAX].map(|p| met(ported, &get(p))), [true, true, false, false, false]);
        assert!(!met(ported, &hdr(LnetBody::Reply { handle: WireHandle::NONE })), "it has no portal");
        let e = |r: FaultRule| r.checked().unwrap_err();
        assert_eq!(e(FaultRule { messages: 8, ..ported }), FaultError::Portal);
        assert_eq!(e(FaultRule { rate: FaultRate::Every(0), ..all }), FaultError::Rate);
        assert_eq!(e(FaultRule { fault: Fault::Delay(0), ..all }), FaultError::Latency);
        assert_eq!(
            [0, 1 << 10].map(|m| e(FaultRule { fault: Fault::Fail(m), ..all })),
            [FaultError::Health; 2]
        );
    }

    /// One of each N, at a place that is not always the same; one each interval.
    #[test]
    fn rates_and_intervals_are_kept() {
        let mut rules = Rules::new(7);
        rules.ask(0, FaultAsk::Add(rule("*", "*", FaultRate::OneIn(5), 0, Fault::Drop))).unwrap();
        let mut places = [0; 5];
        for _ in 0..200 {
            let hits: Vec<usize> = (0..5).filter(|_| rules.judge(0, Going::In, &get(0)).is_some()).collect();
            assert_eq!(hits.len(), 1);
            places[hits[0]] += 1;
        }
        assert!(places.iter().all(|n| *n > 10), "{places:?}");
        let mut rules = Rules::new(7);
        rules.ask(0, FaultAsk::Add(rule("*", "*", FaultRate::Every(3), 0, Fault::Delay(9)))).unwrap();
        let hits = (0..6000)
            .filter(|ms| rules.judge(ms * SEC / 100, Going::In, &get(0)) == Some(Hit::Delay(9, RuleId(0))));
        let hits = hits.count();
        assert!((19..=21).contains(&hits), "{hits} in 60 s");
    }

    #[test]
    fn rules_are_deleted_by_what_they_are_between_and_bounded() {
        let mut rules = Rules::new(1);
        let drop = |dest: &str| rule("*", dest, FaultRate::OneIn(1), 0, Fault::Drop);
        let late = rule("*", "*", FaultRate::OneIn(1), 0, Fault::Delay(SEC));
        for r in [drop("10.0.0.1@tcp"), drop("10.0.0.2@tcp"), late] {
            assert_eq!(rules.ask(0, FaultAsk::Add(r)), Ok(1));
        }
        assert_eq!(rules.judge(0, Going::Out, &get(0)), Some(Hit::Delay(SEC, RuleId(2))));
        assert_eq!(rules.ask(0, FaultAsk::Reset { delay: true }), Ok(1));
        assert!(rules.views().all(|v| v.met == 0));
        // The last of two, and nothing where there is none.
        assert_eq!(rules.ask(0, FaultAsk::Add(late)), Ok(1));
        let _ = rules.judge(0, Going::Out, &get(0));
        assert_eq!(rules.ask(0, FaultAsk::Remove(late)), Ok(1));
        assert_eq!(rules.views().map(|v| v.met).sum::<u64>(), 1);
        assert_eq!(rules.ask(0, FaultAsk::Remove(drop("10.0.0.3@tcp"))), Ok(0));
        let dest = Some("10.0.0.1@tcp".parse().unwrap());
        assert_eq!(rules.ask(0, FaultAsk::Delete { delay: false, source: None, dest }), Ok(1));
        assert_eq!(rules.ask(0, FaultAsk::Delete { delay: false, source: None, dest: None }), Ok(1));
        assert_eq!(rules.views().count(), 1);
        for _ in 1..RULES_MAX {
            assert_eq!(rules.ask(0, FaultAsk::Add(late)), Ok(1));
        }
        assert_eq!(rules.ask(0, FaultAsk::Add(late)), Err(FaultError::Full));
        assert_eq!(
            FaultError::Rate.to_string() + "\n",
            std::fs::read_to_string(format!("{DIR}28-drop-add-both.txt.stderr")).unwrap()
        );
    }
}
