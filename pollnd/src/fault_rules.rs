//! Fault rules in words: as programs, options and configuration files write them.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use transport::lnet::faults::{Fault, FaultError, FaultRate, FaultRule, HEALTH_ERRORS, MESSAGES, NidPattern};
use transport::wire::Brief;

/// Names of a rule's values.
pub(crate) const KEYS: &str = "source, dest, rate, interval, portal, message, latency, health_error";
/// Every health error.
const ALL_HEALTH: u16 = (1 << HEALTH_ERRORS.len()) - 1;
const RANDOM: &str = "random";
/// Longest delay, in s.
const LATENCY_MAX: f64 = 86_400.0;
const ALL_MESSAGES: u8 = 15;

/// A rule as a program writes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleText {
    pub(crate) source: String,
    pub(crate) dest: String,
    #[serde(default)]
    pub(crate) rate: Option<u32>,
    #[serde(default)]
    pub(crate) interval: Option<u32>,
    #[serde(default)]
    pub(crate) portal: Vec<u8>,
    #[serde(default)]
    pub(crate) message: Vec<String>,
    /// Seconds.
    #[serde(default)]
    pub(crate) latency: Option<f64>,
    #[serde(default)]
    pub(crate) health_error: Vec<String>,
}

/// Reason why an order about rules was not done.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// A NID that is none.
    #[error("{what} {}: {why}; or * for all, *@tcp for all of a network", Brief(.nid))]
    Nid {
        /// Its place in the rule.
        what: &'static str,
        /// Its text.
        nid: String,
        /// Its fault.
        why: String,
    },
    /// Words that make no rule.
    #[error("{0}")]
    Words(String),
    /// No rule is meant.
    #[error("{0}")]
    None(String),
    /// There is no node, or it does not answer, or it objects.
    #[error("{0}")]
    Node(String),
}

/// The NIDs behind a word, the value of `what`.
///
/// # Errors
/// [`Failed::Nid`]
pub(crate) fn pattern(what: &'static str, nid: &str) -> Result<NidPattern, Failed> {
    nid.parse().map_err(|e| Failed::Nid { what, nid: nid.to_owned(), why: format!("{e}") })
}

/// The rule behind the words; one of those that delay, or of the others.
///
/// # Errors
/// [`Failed`], but for `None` and `Node`.
pub(crate) fn rule(delay: bool, t: &RuleText) -> Result<FaultRule, Failed> {
    let words = |e: String| Failed::Words(e);
    let rate = match (t.rate, t.interval) {
        (Some(n), None) => FaultRate::OneIn(n),
        (None, Some(s)) => FaultRate::Every(s),
        _ => return Err(words(FaultError::Rate.to_string())),
    };
    let mut messages = 0;
    for m in &t.message {
        let found = MESSAGES.iter().find(|(name, _)| name.eq_ignore_ascii_case(m));
        messages |= found
            .ok_or_else(|| {
                // lnetctl's line, and the names that it leaves out.
                let names: Vec<&str> = MESSAGES.iter().map(|m| m.0).collect();
                words(format!("unknown message type {}\nit is one of {}", Brief(m), names.join(", ")))
            })?
            .1;
    }
    let mut health = 0u16;
    for e in &t.health_error {
        health |= match HEALTH_ERRORS.iter().position(|(name, _)| name == e) {
            Some(at) => 1 << at,
            None if e == "random" => ALL_HEALTH,
            None => {
                let names: Vec<&str> = HEALTH_ERRORS.iter().map(|e| e.0).collect();
                let names = names.join(", ");
                return Err(words(format!(
                    "unknown health error {}: it is one of {names}, random",
                    Brief(e)
                )));
            }
        };
    }
    let fault = match (delay, t.latency, health) {
        (true, None, _) => return Err(words(FaultError::Latency.to_string())),
        (true, Some(s), 0) => Fault::Delay((s.clamp(0.0, LATENCY_MAX) * 1e9).round() as u64),
        (true, ..) => {
            return Err(words("--health_error is for drop rules: leave it out, or --latency".into()));
        }
        (false, Some(_), _) => return Err(words("--latency is for delay rules: leave it out".into())),
        (false, None, 0) => Fault::Drop,
        (false, None, mask) => Fault::Fail(mask),
    };
    let mut portals = 0;
    for p in &t.portal {
        let bit = 1u64.checked_shl((*p).into());
        portals |= bit.ok_or_else(|| words(format!("portal {p}: portals are 0 to 63")))?;
    }
    let (source, dest) = (pattern("source", &t.source)?, pattern("dest", &t.dest)?);
    FaultRule { source, dest, rate, portals, messages, fault }.checked().map_err(|e| words(e.to_string()))
}

fn number<T: std::str::FromStr + PartialOrd + Default>(text: &str) -> Option<T> {
    text.parse().ok().filter(|n| *n > T::default())
}

impl RuleText {
    /// Takes a value by its name; lists have one after the other. `None`: there is no such name.
    pub(crate) fn take(&mut self, name: &str, value: &str) -> Option<Result<(), String>> {
        let bad = |takes| format!("{name}: {:?} is none of its values; it takes {takes}", Brief(value));
        let whole = || number(value).map(Some).ok_or_else(|| bad("a whole number from 1 to 4294967295"));
        let nids = |what| pattern(what, value).map(|_| value.to_owned()).map_err(|e| e.to_string());
        Some(match name {
            "source" => nids("source").map(|s| self.source = s),
            "dest" => nids("dest").map(|s| self.dest = s),
            "rate" => whole().map(|n| self.rate = n),
            "interval" => whole().map(|n| self.interval = n),
            "portal" => {
                let portal = value.parse().ok().filter(|n: &u8| *n < 64);
                portal.ok_or_else(|| bad("0 to 63")).map(|n| self.portal.push(n))
            }
            "latency" => {
                let seconds = number(value).filter(|s: &f64| *s <= LATENCY_MAX);
                seconds.ok_or_else(|| bad("seconds up to 86400")).map(|s| self.latency = Some(s))
            }
            // They are looked at together.
            "message" => {
                self.message.push(value.to_owned());
                Ok(())
            }
            "health_error" => {
                self.health_error.push(value.to_owned());
                Ok(())
            }
            _ => return None,
        })
    }

    /// The words of a rule.
    pub(crate) fn of(r: &FaultRule) -> RuleText {
        let named = |p: NidPattern| match p {
            NidPattern::Any => "*".to_owned(),
            NidPattern::Net(n) => format!("*@{}", n.net()),
            NidPattern::One(n) => n.to_string(),
        };
        let (rate, interval) = match r.rate {
            FaultRate::OneIn(n) => (Some(n), None),
            FaultRate::Every(s) => (None, Some(s)),
        };
        let messages = MESSAGES.iter().filter(|m| r.messages != ALL_MESSAGES && r.messages & m.1 != 0);
        let (mut latency, mut health_error) = (None, Vec::new());
        match r.fault {
            Fault::Drop => {}
            Fault::Fail(ALL_HEALTH) => health_error.push(RANDOM.to_owned()),
            Fault::Fail(mask) => {
                let some = HEALTH_ERRORS.iter().enumerate().filter(|(i, _)| mask >> i & 1 != 0);
                health_error.extend(some.map(|(_, e)| e.0.to_owned()));
            }
            Fault::Delay(ns) => latency = Some(ns as f64 / 1e9),
        }
        RuleText {
            source: named(r.source),
            dest: named(r.dest),
            rate,
            interval,
            portal: (0..64).filter(|p| r.portals >> p & 1 != 0).collect(),
            message: messages.map(|m| m.0.to_owned()).collect(),
            latency,
            health_error,
        }
    }

    /// The values that are said, by their names: several of one that is a list.
    pub(crate) fn said(&self) -> Vec<(&'static str, Vec<String>)> {
        let list = |all: &[u8]| all.iter().map(u8::to_string).collect::<Vec<_>>();
        let mut all = vec![
            ("source", vec![self.source.clone()]),
            ("dest", vec![self.dest.clone()]),
            ("rate", self.rate.iter().map(u32::to_string).collect()),
            ("interval", self.interval.iter().map(u32::to_string).collect()),
            ("portal", list(&self.portal)),
            ("message", self.message.clone()),
            ("latency", self.latency.iter().map(f64::to_string).collect()),
            ("health_error", self.health_error.clone()),
        ];
        all.retain(|(_, values)| !values.is_empty());
        all
    }

    /// The rule behind words that were taken one by one; one of those that delay, or of the others.
    ///
    /// # Errors
    /// Words that are missing, or do not go together.
    pub(crate) fn whole(&self, delay: bool) -> Result<FaultRule, String> {
        if self.source.is_empty() || self.dest.is_empty() {
            return Err("a rule without source or dest: give both, such as *@tcp".into());
        }
        // Neither files nor values of an option have dashes before their names, and each of them is one line.
        rule(delay, self).map_err(|e| e.to_string().replace("--", "").replace('\n', "; "))
    }
}

/// Whether a rule delays messages; else it drops them, or has them fail.
pub(crate) fn delays(r: &FaultRule) -> bool {
    matches!(r.fault, Fault::Delay(_))
}

/// The kinds of rules, and whether they delay.
pub(crate) const KINDS: [(&str, bool); 2] = [("drop", false), ("delay", true)];

fn kind(r: &FaultRule) -> &'static str {
    KINDS.iter().find(|k| k.1 == delays(r)).map_or("", |k| k.0)
}

/// A rule as `--fault` takes it: `drop source=*@tcp dest=* rate=10 message=PUT,GET`.
pub(crate) fn words(r: &FaultRule) -> String {
    let mut out = kind(r).to_owned();
    for (name, values) in RuleText::of(r).said() {
        let _ = write!(out, " {name}={}", values.join(","));
    }
    out
}

/// A value of `--fault`.
///
/// # Errors
/// The fault of the word.
pub(crate) fn typed(s: &str) -> Result<FaultRule, String> {
    let example = "such as \"drop source=*@tcp dest=*@tcp rate=10 message=PUT\"";
    let mut all = s.split_whitespace();
    let first = all.next().unwrap_or_default();
    let Some((_, delay)) = KINDS.iter().find(|k| k.0 == first) else {
        return Err(format!("{:?}: a rule begins with drop or delay, {example}", Brief(first)));
    };
    let mut text = RuleText::default();
    for word in all {
        let (name, values) =
            word.split_once('=').ok_or_else(|| format!("{:?} is not NAME=VALUE, {example}", Brief(word)))?;
        for value in values.split(',') {
            text.take(name, value)
                .ok_or_else(|| format!("{:?} is nothing that a rule has; there are {KEYS}", Brief(name)))??;
        }
    }
    text.whole(*delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(rate: Option<u32>, interval: Option<u32>) -> RuleText {
        let all = || "*@tcp".to_owned();
        RuleText {
            source: all(),
            dest: all(),
            rate,
            interval,
            portal: vec![],
            message: vec![],
            latency: None,
            health_error: vec![],
        }
    }

    /// upper.md §6, testdata/texts/fault.
    #[test]
    fn what_is_wrong_is_said_as_lnetctl_does() {
        let told = |name: &str| {
            let file = format!("{}/../testdata/texts/fault/{name}", env!("CARGO_MANIFEST_DIR"));
            std::fs::read_to_string(file).unwrap().trim_end().to_owned()
        };
        let both = told("28-drop-add-both.txt.stderr");
        for t in [text(Some(1), Some(2)), text(None, None)] {
            assert_eq!(rule(false, &t).unwrap_err().to_string(), both);
        }
        let foo = RuleText { message: vec!["FOO".into()], ..text(Some(1), None) };
        // Its line, and one more.
        let names = "\nit is one of ACK, PUT, GET, REPLY";
        assert_eq!(
            rule(false, &foo).unwrap_err().to_string(),
            told("26-drop-add-bad-msg.txt.stderr") + names
        );
        let e = |t: RuleText, delay| rule(delay, &t).unwrap_err().to_string();
        let one = || text(Some(1), None);
        assert!(e(RuleText { health_error: vec!["foo".into()], ..one() }, false).contains("local_timeout"));
        assert!(e(RuleText { source: "x@tcp".into(), ..one() }, false).starts_with("source x@tcp: "));
        assert!(e(one(), true).starts_with("latency cannot be zero"));
        assert!(e(RuleText { latency: Some(1.0), ..one() }, false).contains("--latency"));
        assert!(e(RuleText { portal: vec![64], ..one() }, false).contains("portal 64"));
        let some =
            RuleText { message: vec!["get".into(), "PUT".into()], portal: vec![50], ..text(None, Some(3)) };
        let r = rule(true, &RuleText { latency: Some(2.0), ..some }).unwrap();
        assert_eq!((r.messages, r.portals, r.fault), (6, 1 << 50, Fault::Delay(2_000_000_000)));
        let random = RuleText { health_error: vec!["random".into()], ..one() };
        assert_eq!(rule(false, &random).unwrap().fault, Fault::Fail(0x3ff));
    }

    #[test]
    fn a_rule_is_written_as_it_is_read() {
        for text in [
            "drop source=*@tcp dest=* rate=10",
            "drop source=10.0.0.1@tcp1 dest=*@tcp7 interval=5 portal=3,63 message=PUT",
            "drop source=* dest=fd00::2@tcp rate=1 message=GET health_error=local_timeout,network_timeout",
            "drop source=* dest=* rate=1 health_error=random",
            "delay source=* dest=* interval=4294967295 message=ACK,REPLY latency=2.3",
            "delay source=* dest=* rate=2 latency=0.000000007",
        ] {
            let r = typed(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(words(&r), text);
            assert_eq!(RuleText::of(&r).whole(delays(&r)), Ok(r));
        }
        for (bad, says) in [
            ("", "drop or delay"),
            ("slow source=*", "\"slow\""),
            ("drop source", "NAME=VALUE"),
            ("drop source=* dest=* rate=1 speed=3", "\"speed\" is nothing that a rule has"),
            ("drop source=* rate=1", "without source or dest"),
            ("drop source=x@tcp dest=* rate=1", "source x@tcp: "),
            ("drop source=* dest=* rate=0", "rate: \"0\""),
            ("drop source=* dest=* rate=1 interval=2", "not both at the same time"),
            ("drop source=* dest=* rate=1 portal=64", "portal: \"64\""),
            ("drop source=* dest=* rate=1 portal=3 message=ACK", "leave portal out"),
            ("drop source=* dest=* rate=1 message=FOO", "unknown message type FOO; it is one of"),
            ("drop source=* dest=* rate=1 latency=1", "latency is for delay rules"),
            ("delay source=* dest=* rate=1", "latency cannot be zero"),
            ("delay source=* dest=* rate=1 latency=inf", "latency: \"inf\""),
            ("delay source=* dest=* rate=1 latency=1 health_error=random", "health_error is for drop rules"),
        ] {
            let e = typed(bad).unwrap_err();
            assert!(e.contains(says), "{bad}: {e}");
        }
    }
}
