//! `pollnd fault`: rules of a running node that drop, fail or delay messages.

use std::io;
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use transport::lnet::faults::{Fault, FaultAsk, FaultView};
use transport::node::inspect::Inspection;

use super::Request;
use super::client::Client;
use super::shared::say;
use crate::args::{FaultAddArgs, FaultArgs, FaultKind, FaultVerb};
use crate::fault_rules::{Failed, RuleText, pattern, rule};
use crate::out;

/// Orders about rules.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Order {
    /// One more.
    Add(RuleText),
    /// Deletes one that is the same in all.
    Remove(RuleText),
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

fn ask(delay: bool, order: &Order) -> Result<Option<FaultAsk>, Failed> {
    Ok(match order {
        Order::List {} => None,
        Order::Reset {} => Some(FaultAsk::Reset { delay }),
        Order::Add(text) => Some(FaultAsk::Add(rule(delay, text)?)),
        Order::Remove(text) => Some(FaultAsk::Remove(rule(delay, text)?)),
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
            // All of none are gone, as with kernels.
            Some(0) if d.all => Ok(()),
            Some(0) => {
                let shows = format!("`pollnd fault {kind} list` shows them");
                Err(Failed::None(format!("no {kind} rule is between these: {shows}")))
            }
            _ => Ok(()),
        },
        FaultVerb::Add(_) | FaultVerb::Reset(_) => client.one(&request).map(drop).map_err(Failed::Node),
    }
}
