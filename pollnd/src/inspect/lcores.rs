//! `pollnd stats`: what each lcore of a running node has done, and how busy its polling loop is.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::Request;
use super::client::Client;
use super::nis;
use crate::args::StatsArgs;
use crate::out;

/// `pollnd stats`.
///
/// # Errors
/// No node, or it does not answer.
pub(crate) fn main(a: &StatsArgs) -> Result<(), String> {
    let mut c = Client::new(a.asked.node.as_deref())?;
    let mut last: BTreeMap<u64, Value> = BTreeMap::new();
    loop {
        let mut all = Vec::new();
        c.rows(&Request::Lcores {}, |v| all.push(v))?;
        if a.json {
            out::line(json!({ "lcores": all }))?;
        } else {
            out::text(table(&all, &last, a.all))?;
        }
        let Some(every) = a.again.watch else { return Ok(()) };
        last = all.into_iter().filter_map(|v| Some((v["lcore"].as_u64()?, v))).collect();
        std::thread::sleep(Duration::from_secs_f64(every));
        if !a.json {
            out::line("")?;
        }
    }
}

/// One line an lcore, counts since `last` or since the start; below it each counter, if all are wanted.
fn table(now: &[Value], last: &BTreeMap<u64, Value>, all: bool) -> String {
    let mut o = format!(
        "{:>5} {:>6} {:>12} {:>9} {:>11} {:>11} {:>12} {:>11} {:>6}\n",
        "lcore",
        "busy",
        "packets in",
        "a burst",
        "full bursts",
        "empty polls",
        "packets out",
        "retransmits",
        "conns"
    );
    for v in now {
        let n = v["lcore"].as_u64().unwrap_or(0);
        if let Some(why) = v["silent"].as_str() {
            o += &format!("{n:>5} {why}\n");
            continue;
        }
        let before = last.get(&n).filter(|b| b["silent"].is_null());
        let of = |b: &Value, k: &str| b["counters"][k].as_u64().or_else(|| b[k].as_u64());
        let grown = |k: &str| {
            let was = before.and_then(|b| of(b, k)).unwrap_or(0);
            of(v, k).map(|x| x.saturating_sub(was))
        };
        let show = |x: Option<u64>| x.map_or_else(|| "-".into(), |x| x.to_string());
        let (busy, idle) = (grown("busy_ns").unwrap_or(0), grown("idle_ns").unwrap_or(0));
        let polls = grown("rx_polls");
        let full = polls.zip(grown("rx_empty_polls")).map(|(all, empty)| all.saturating_sub(empty));
        let burst = grown("port_rx_packets").zip(full).filter(|(_, f)| *f > 0);
        o += &format!(
            "{n:>5} {:>5.1}% {:>12} {:>9} {:>11} {:>11} {:>12} {:>11} {:>6}\n",
            100.0 * busy as f64 / (busy + idle).max(1) as f64,
            show(grown("port_rx_packets")),
            burst.map_or_else(|| "-".into(), |(p, f)| format!("{:.1}", p as f64 / f as f64)),
            show(grown("rx_full_bursts")),
            show(grown("rx_empty_polls")),
            show(grown("port_tx_packets")),
            show(grown("retransmits")),
            show(of(v, "conns")),
        );
        if let Some(line) = held(&v["counters"]) {
            o += &line;
        }
        o += &nis::lines(v, before);
        for (k, _) in v["counters"].as_object().into_iter().flatten().filter(|_| all) {
            if let Some(x) = grown(k).filter(|x| *x > 0) {
                o += &format!("      {k} {x}\n");
            }
        }
    }
    o
}

/// Memory that strangers make an lcore hold, its limit, and its uses; `None` for a node that does not tell.
fn held(counters: &Value) -> Option<String> {
    let of = |k: &str| counters[k].as_u64().unwrap_or(0);
    let mib = |k: &str| of(k) as f64 / f64::from(1 << 20);
    let limit = counters["budget_limit"].as_u64()? >> 20;
    let parts = ["answers", "handshakes", "conns", "peers"]
        .map(|k| format!("{k} {:.1}", mib(&format!("budget_{k}"))));
    Some(format!(
        "      held for strangers {:.1} of {limit} MiB: {}; connections stalled {}, stalls {}, refused {}\n",
        mib("budget_used"),
        parts.join(", "),
        of("budget_stalled"),
        of("budget_stalls"),
        of("err_over_budget"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_a_line_of_its_own() {
        let c = json!({ "budget_limit": 64 << 20, "budget_used": 3 << 19, "budget_answers": 1 << 20, "budget_conns": 1 << 19,
            "budget_stalled": 7, "budget_stalls": 9 });
        assert_eq!(
            held(&c).unwrap().trim(),
            "held for strangers 1.5 of 64 MiB: answers 1.0, handshakes 0.0, conns 0.5, peers 0.0; connections stalled 7, stalls 9, refused 0"
        );
        assert_eq!(held(&json!({ "conns": 1 })), None);
    }

    #[test]
    fn counts_are_since_the_look_before() {
        let v = |busy: u64, packets: u64| {
            json!({ "lcore": 0, "busy_ns": busy, "idle_ns": 1000, "counters": {
                "port_rx_packets": packets, "port_tx_packets": 3, "rx_polls": 100, "rx_empty_polls": 90,
                "rx_full_bursts": 1, "retransmits": 0, "conns": 2,
            } })
        };
        let first = table(&[v(1000, 40)], &BTreeMap::new(), true);
        assert!(
            first.contains("50.0%") && first.contains(" 4.0 ") && first.contains("port_rx_packets 40"),
            "{first}"
        );
        let last = BTreeMap::from([(0, v(1000, 40))]);
        let second = table(&[v(1500, 45)], &last, false);
        assert!(second.contains("100.0%") && second.lines().nth(1).unwrap().contains(" 5 "), "{second}");
        let silent = table(&[json!({ "lcore": 1, "silent": "lcore 1 has not answered" })], &last, false);
        assert!(silent.contains("lcore 1 has not answered"), "{silent}");
    }
}
