//! The same answers on DPDK's telemetry socket, for `dpdk-telemetry.py` and what collects from it.
//!
//! | command | answer |
//! |---|---|
//! | `/pollnd/counters` | all counters, summed over lcores |
//! | `/pollnd/lcores` | how many lcores, and how busy each is |
//! | `/pollnd/lcores,N` | the counters of lcore N |
//! | `/pollnd/nis` | the NIs' NIDs, and messages of each |
//! | `/pollnd/nis,NID` | the figures of one, summed over lcores |
//! | `/pollnd/connections` | connections, up to 255: number, and addresses and state |
//! | `/pollnd/connections,N` | everything about connection N of that list |
//! | `/pollnd/connections,ADDRESS:PORT` | everything about the connection with that peer |
//! | `/pollnd/tunables` | tunables and their values |
//! | `/pollnd/tunables,NAME` | everything about one |

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use dataplane::dpdk::{Eal, TelemetryValue, telemetry};
use serde_json::Value;
use transport::lnet::figures::{Latency, NiFigures};
use transport::node::Control;
use transport::node::inspect::{Filter, Inspection, NoAnswer, Row};

/// Entries of one answer that DPDK has room for.
const ENTRIES: usize = 255;

/// A process has one EAL, and so one node that is shown.
static SHOWN: OnceLock<(Arc<Control>, Arc<Inspection>)> = OnceLock::new();

type Answer = Vec<(String, TelemetryValue)>;

/// Registers the commands. One that DPDK refuses is told in the log.
pub(crate) fn offer(eal: &Eal, control: &Arc<Control>, front: &Arc<Inspection>) {
    if SHOWN.set((control.clone(), front.clone())).is_err() {
        return;
    }
    for (cmd, help, f) in [
        ("/pollnd/counters", "Counters of the node, summed over its lcores", counters as fn(&str) -> Answer),
        ("/pollnd/lcores", "How busy lcores are. Parameters: an lcore, for its counters", lcores),
        ("/pollnd/nis", "Messages of NIs. Parameters: the NID of one, for its figures", nis),
        (
            "/pollnd/connections",
            "TCP connections. Parameters: a number of the list or a peer's ADDRESS:PORT, for all about one",
            connections,
        ),
        ("/pollnd/tunables", "Tunables. Parameters: the name of one, for all about it", tunables),
    ] {
        if let Err(e) = telemetry(eal, cmd, help, f) {
            tracing::warn!("{e}");
        }
    }
}

fn problem(e: impl std::fmt::Display) -> Answer {
    vec![("error".into(), TelemetryValue::Text(e.to_string()))]
}

fn counters(_: &str) -> Answer {
    let Some((c, _)) = SHOWN.get() else { return Vec::new() };
    c.snapshot().into_iter().map(|(k, v)| (k.to_owned(), TelemetryValue::U64(v))).collect()
}

/// One level of names and values: DPDK's dictionaries know numbers and texts.
fn flat(v: &Value, into: &mut Answer) {
    for (k, v) in v.as_object().into_iter().flatten() {
        let value = match v {
            Value::Object(_) => {
                flat(v, into);
                continue;
            }
            Value::Null => continue,
            Value::Number(n) if n.is_u64() => TelemetryValue::U64(n.as_u64().unwrap_or(0)),
            Value::Bool(b) => TelemetryValue::U64(u64::from(*b)),
            Value::String(s) => TelemetryValue::Text(s.clone()),
            other => TelemetryValue::Text(other.to_string()),
        };
        into.push((k.clone(), value));
    }
}

fn lcores(which: &str) -> Answer {
    let Some((_, front)) = SHOWN.get() else { return Vec::new() };
    let n = front.lcores();
    if which.is_empty() {
        let mut a = vec![("lcores".into(), TelemetryValue::U64(n as u64))];
        for i in 0..n.min(ENTRIES) {
            let busy = match front.counts(i) {
                Ok(c) => format!("{:.1}% busy", 100.0 * c.loop_stats.busy()),
                Err(e) => e.to_string(),
            };
            a.push((i.to_string(), TelemetryValue::Text(busy)));
        }
        return a;
    }
    match which.parse().ok().filter(|i| *i < n) {
        None => problem(format!("{which:?} is no lcore of this node: 0 to {}", n - 1)),
        Some(i) => match front.counts(i) {
            Err(e) => problem(e),
            Ok(c) => {
                let (mut a, mut lcore) = (Answer::new(), super::lcore(i, &c));
                // They have a command of their own.
                lcore.as_object_mut().and_then(|l| l.remove("nis"));
                flat(&lcore, &mut a);
                // Those that never counted anything are left out: an answer has room for so many.
                a.retain(|(_, v)| *v != TelemetryValue::U64(0));
                a.truncate(ENTRIES);
                a
            }
        },
    }
}

/// The NIs' figures, summed over lcores.
fn all_nis(front: &Inspection) -> Result<Vec<NiFigures>, NoAnswer> {
    let mut all: Vec<NiFigures> = Vec::new();
    for lcore in 0..front.lcores() {
        for ni in &front.counts(lcore)?.nis {
            match all.iter_mut().find(|a| a.nid == ni.nid) {
                Some(a) => *a = a.and(ni),
                None => all.push(*ni),
            }
        }
    }
    Ok(all)
}

fn nis(which: &str) -> Answer {
    let Some((_, front)) = SHOWN.get() else { return Vec::new() };
    let all = match all_nis(front) {
        Ok(all) => all,
        Err(e) => return problem(e),
    };
    if which.is_empty() {
        let short = |ni: &NiFigures| {
            let m = &ni.moved;
            format!(
                "{}: sent {}, received {}, dropped {}",
                ni.nid,
                m.sent.all(),
                m.received.all(),
                ni.dropped.messages.all()
            )
        };
        let numbered = all.iter().enumerate();
        return numbered.map(|(i, ni)| (i.to_string(), TelemetryValue::Text(short(ni)))).collect();
    }
    let Some(ni) = all.iter().find(|ni| ni.nid.to_string() == which) else {
        let nids: Vec<String> = all.iter().map(|ni| ni.nid.to_string()).collect();
        return problem(format!("{which:?} is no NI of this node: {}", nids.join(", ")));
    };
    let counts = ni.counts().into_iter().chain(ni.gauges());
    let mut a: Answer = counts.map(|(name, n)| (name.to_owned(), TelemetryValue::U64(n))).collect();
    for (op, l) in ni.by_operation() {
        let mut add = |what: &str, n| a.push((format!("lnet_latency_{op}_{what}"), TelemetryValue::U64(n)));
        add("count", l.count());
        add("sum_ns", l.sum_ns);
        let mut so_far = 0;
        for (bucket, n) in l.buckets.iter().enumerate().filter(|(_, n)| **n > 0) {
            so_far += n;
            if let Some(bound) = Latency::bound(bucket) {
                add(&format!("le_{bound}_ns"), so_far);
            }
        }
    }
    a
}

fn connections(which: &str) -> Answer {
    let Some((_, front)) = SHOWN.get() else { return Vec::new() };
    let peer: Option<SocketAddr> = which.parse().ok();
    let number: Option<usize> = which.parse().ok();
    if !which.is_empty() && peer.is_none() && number.is_none() {
        return problem(format!(
            "{which:?} is neither a number of /pollnd/connections nor a peer's ADDRESS:PORT"
        ));
    }
    let filter = Filter { peer: peer.map(|p| p.ip()), port: peer.map(|p| p.port()), ..Filter::default() };
    let (mut i, mut list, mut one) = (0, Answer::new(), None);
    let asked = front.connections(filter, |row: &Row| {
        if peer.is_some() || number == Some(i) {
            one = Some(super::connection(row));
            return false;
        }
        if number.is_none() {
            let s = &row.stats;
            list.push((
                i.to_string(),
                TelemetryValue::Text(format!("{} {} {}", s.local, s.remote, s.state.name())),
            ));
        }
        i += 1;
        number.is_some() || i < ENTRIES
    });
    match (asked, one) {
        (Err(e), _) => problem(e),
        (Ok(()), Some(v)) => {
            let mut a = Answer::new();
            flat(&v, &mut a);
            a
        }
        (Ok(()), None) if which.is_empty() => list,
        (Ok(()), None) => problem(format!("no connection {which}")),
    }
}

fn tunables(which: &str) -> Answer {
    let Some((_, front)) = SHOWN.get() else { return Vec::new() };
    let name = Some(which).filter(|w| !w.is_empty());
    let rows = front.config(0).map_err(|e| e.to_string()).and_then(|c| super::tunables::rows(&c, name));
    match (rows, name) {
        (Err(e), _) => problem(e),
        (Ok(rows), None) => rows
            .iter()
            .filter_map(|r| {
                let v = r["value"].as_str().map_or_else(|| r["value"].to_string(), str::to_owned);
                Some((r["name"].as_str()?.to_owned(), TelemetryValue::Text(v)))
            })
            .collect(),
        (Ok(rows), Some(_)) => {
            let mut a = Answer::new();
            rows.iter().for_each(|r| flat(r, &mut a));
            a.retain(|(k, _)| k != "line");
            a
        }
    }
}
