//! `pollnd fault`: rules of a running node that drop, fail or delay messages.

use std::io;
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use transport::lnet::faults::{
    Fault, FaultAsk, FaultError, FaultRate, FaultRule, FaultView, HEALTH_ERRORS, MESSAGES, NidPattern,
};
use transport::node::inspect::Inspection;

use super::Request;
use super::client::Client;
use super::shared::say;
use crate::args::{FaultAddArgs, FaultArgs, FaultKind, FaultVerb};
use crate::out;

/// A rule as a program writes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleText {
    source: String,
    dest: String,
    #[serde(default)]
    rate: Option<u32>,
    #[serde(default)]
    interval: Option<u32>,
    #[serde(default)]
    portal: Vec<u8>,
    #[serde(default)]
    message: Vec<String>,
    /// Seconds.
    #[serde(default)]
    latency: Option<f64>,
    #[serde(default)]
    health_error: Vec<String>,
}

/// Orders about rules.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Order {
    /// One more.
    Add(RuleText),
    /// Deletes some; with no NID all of the kind.
    Del {
        /// Their sources.
        source: Option<String>,
        /// Their destinations.
        dest: Option<String>,
    },
    /// Shows them.
    List {},
    /// Begins anew.
    Reset {},
}

/// Reason why an order about rules was not done.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// A NID that is none.
    #[error("{what} {nid}: {why}; or * for all, *@tcp for all of a network")]
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

fn pattern(what: &'static str, nid: &str) -> Result<NidPattern, Failed> {
    nid.parse().map_err(|e| Failed::Nid { what, nid: nid.to_owned(), why: format!("{e}") })
}

/// The rule behind the words.
fn rule(delay: bool, t: &RuleText) -> Result<FaultRule, Failed> {
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
                words(format!("unknown message type {m}\nit is one of {}", names.join(", ")))
            })?
            .1;
    }
    let mut health = 0u16;
    for e in &t.health_error {
        health |= match HEALTH_ERRORS.iter().position(|(name, _)| name == e) {
            Some(at) => 1 << at,
            None if e == "random" => (1 << HEALTH_ERRORS.len()) - 1,
            None => {
                let names: Vec<&str> = HEALTH_ERRORS.iter().map(|e| e.0).collect();
                let names = names.join(", ");
                return Err(words(format!("unknown health error {e}: it is one of {names}, random")));
            }
        };
    }
    let fault = match (delay, t.latency, health) {
        (true, None, _) => return Err(words(FaultError::Latency.to_string())),
        (true, Some(s), 0) => Fault::Delay((s.clamp(0.0, 86_400.0) * 1e9) as u64),
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

fn ask(delay: bool, order: &Order) -> Result<Option<FaultAsk>, Failed> {
    Ok(match order {
        Order::List {} => None,
        Order::Reset {} => Some(FaultAsk::Reset { delay }),
        Order::Add(text) => Some(FaultAsk::Add(rule(delay, text)?)),
        Order::Del { source, dest } => Some(FaultAsk::Delete {
            delay,
            source: source.as_deref().map(|n| pattern("source", n)).transpose()?,
            dest: dest.as_deref().map(|n| pattern("dest", n)).transpose()?,
        }),
    })
}

fn row(v: &FaultView) -> Value {
    let by_type = |at: usize| v.by_type.get(at).copied();
    json!({
        "line": v.to_string(), "source": v.rule.source.to_string(), "dest": v.rule.dest.to_string(),
        "matched": v.met, "hit": v.hit, "ack": by_type(0), "put": by_type(1), "get": by_type(2), "reply": by_type(3),
    })
}

/// The node's side: does what is asked, and shows the rules of the kind where they are to be listed. Ends with the number of rules
/// that it concerned.
pub(super) fn serve(
    s: &mut UnixStream,
    front: &Inspection,
    delay: bool,
    order: &Order,
) -> io::Result<Result<Value, String>> {
    let asked = ask(delay, order).map_err(|e| e.to_string());
    let done = asked.and_then(|ask| front.faults(ask).map_err(|e| e.to_string()));
    let (done, rules) = match done {
        Ok(all) => all,
        Err(e) => return Ok(Err(e)),
    };
    let n = match done {
        Ok(n) => n,
        Err(e) => return Ok(Err(e.to_string())),
    };
    if !matches!(order, Order::List {}) {
        tracing::info!("fault rules of kind {}: {order:?}", if delay { "delay" } else { "drop" });
        return Ok(Ok(json!(n)));
    }
    let of_kind = |v: &&FaultView| matches!(v.rule.fault, Fault::Delay(_)) == delay;
    for v in rules.iter().filter(of_kind) {
        say(s, &row(v))?;
    }
    Ok(Ok(json!(rules.iter().filter(of_kind).count())))
}

impl From<&FaultAddArgs> for RuleText {
    fn from(a: &FaultAddArgs) -> RuleText {
        RuleText {
            source: a.source.clone(),
            dest: a.dest.clone(),
            rate: a.rate,
            interval: a.interval,
            portal: a.portal.clone(),
            message: a.message.clone(),
            latency: a.latency,
            health_error: a.health_error.clone(),
        }
    }
}

/// `pollnd fault`.
///
/// # Errors
/// No node, it does not answer, or what is wrong with the rule.
pub(crate) fn main(a: &FaultArgs) -> Result<(), String> {
    run(&a.kind, None).map_err(|e| e.to_string())
}

/// The same, of the node that the verb names, or else of `node`.
///
/// # Errors
/// As [`main`], by kind.
pub(crate) fn run(kind: &FaultKind, node: Option<&str>) -> Result<(), Failed> {
    let (delay, verb) = match kind {
        FaultKind::Drop(v) => (false, v),
        FaultKind::Delay(v) => (true, v),
    };
    let kind = if delay { "delay" } else { "drop" };
    let (order, asked) = match verb {
        FaultVerb::Add(a) => {
            let text = RuleText::from(a);
            // Before a node is looked for.
            rule(delay, &text)?;
            (Order::Add(text), &a.asked)
        }
        FaultVerb::Del(a) => (Order::Del { source: a.source.clone(), dest: a.dest.clone() }, &a.asked),
        FaultVerb::List(a) => (Order::List {}, &a.asked),
        FaultVerb::Reset(a) => (Order::Reset {}, &a.asked),
    };
    let mut rows = Vec::new();
    let mut client = Client::new(asked.node.as_deref().or(node)).map_err(Failed::Node)?;
    let request = Request::Fault { delay, order };
    match verb {
        FaultVerb::List(a) => {
            client.rows(&request, |v| rows.push(v)).map_err(Failed::Node)?;
            if a.out.json {
                for r in rows.iter_mut().filter_map(Value::as_object_mut) {
                    r.remove("line");
                }
                return out::line(json!({ "rules": rows })).map_err(Failed::Node);
            }
            let lines = rows.iter().filter_map(|r| r["line"].as_str()).map(|l| format!("{l}\n"));
            out::err(&format!("LNet {kind} rules:\n"));
            let text = lines.collect::<String>() + &format!("found total {}\n", rows.len());
            out::text(text).map_err(Failed::Node)
        }
        FaultVerb::Del(d) => match client.one(&request).map_err(Failed::Node)?["end"].as_u64() {
            Some(0) if d.all => Err(Failed::None(format!("there are no {kind} rules"))),
            Some(0) => {
                let shows = format!("`pollnd fault {kind} list` shows them");
                Err(Failed::None(format!("no {kind} rule is between these: {shows}")))
            }
            _ => Ok(()),
        },
        FaultVerb::Add(_) | FaultVerb::Reset(_) => client.one(&request).map(drop).map_err(Failed::Node),
    }
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
}
