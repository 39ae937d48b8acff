//! Figures of NIs: as JSON, and as the lines of `pollnd stats`.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use transport::lnet::figures::{Latency, NiFigures, Timed};

use crate::units;

/// An NI's figures on an lcore as JSON.
pub(super) fn row(f: &NiFigures) -> Value {
    let mut m = Map::new();
    m.insert("nid".into(), json!(f.nid.to_string()));
    for (name, n) in f.counts().into_iter().chain(f.gauges()) {
        m.insert(name.into(), json!(n));
    }
    let latencies = f.by_operation().map(|(name, l)| {
        (name.to_owned(), json!({ "count": l.count(), "sum_ns": l.sum_ns, "buckets": l.buckets }))
    });
    m.insert("lnet_latency".into(), Value::Object(latencies.collect()));
    Value::Object(m)
}

/// Latencies of an operation, of what [`row`] has made; none where a node tells none.
pub(crate) fn latency(ni: &Value, op: Timed) -> Latency {
    let v = &ni["lnet_latency"][op.name()];
    let mut l = Latency { sum_ns: v["sum_ns"].as_u64().unwrap_or(0), ..Latency::default() };
    let told = v["buckets"].as_array().into_iter().flatten().map(|n| n.as_u64().unwrap_or(0));
    l.buckets.iter_mut().zip(told).for_each(|(bucket, n)| *bucket = n);
    l
}

/// The bound of a latency, in words.
pub(crate) fn bound(ns: Option<u64>) -> String {
    match ns {
        None => "-".into(),
        Some(u64::MAX) => "over 17.2 s".into(),
        Some(ns) => units::time(ns as f64 / 1e9),
    }
}

/// The figures of an lcore's NIs, since those of `before` where there are some. `0@lo` is told when something was said there.
pub(super) fn lines(now: &Value, before: Option<&Value>) -> String {
    let list = |v: &Value| v["nis"].as_array().cloned().unwrap_or_default();
    let were = before.map(list).unwrap_or_default();
    let mut o = String::new();
    for ni in list(now) {
        let was = were.iter().find(|w| w["nid"] == ni["nid"]).unwrap_or(&Value::Null);
        let of = |v: &Value, k: &str| v[k].as_u64().unwrap_or(0);
        let grown = |k: &str| of(&ni, k).saturating_sub(of(was, k));
        let nid = ni["nid"].as_str().unwrap_or_default();
        if nid == "0@lo" && of(&ni, "send_count") == 0 {
            continue;
        }
        let _ = write!(
            o,
            "      {nid}: sent {} ({} B), received {} ({} B), dropped {}",
            grown("send_count"),
            grown("send_bytes"),
            grown("recv_count"),
            grown("recv_bytes"),
            grown("drop_count"),
        );
        match of(&ni, "credits") {
            0 => o.push('\n'),
            all => {
                let _ = writeln!(o, "; {} of {all} credits in use", of(&ni, "credits_used"));
            }
        }
        for op in Timed::ALL {
            let l = latency(&ni, op).since(&latency(was, op));
            if l.count() == 0 {
                continue;
            }
            let mean = units::time(l.sum_ns as f64 / l.count() as f64 / 1e9);
            let [half, most, nearly] = [0.5, 0.9, 0.99].map(|share| bound(l.at_most(share)));
            let _ = writeln!(
                o,
                "        {}: {}, mean {mean}, at most {half} (p50), {most} (p90), {nearly} (p99)",
                op.name(),
                l.count()
            );
        }
    }
    o
}

#[cfg(test)]
mod tests {
    use transport::lnd::{ByType, Moved};
    use transport::lnet::figures::{Dropped, Spans};

    use super::*;

    #[test]
    fn figures_come_through_json_and_are_told_since_the_look_before() {
        let mut f = NiFigures {
            nid: "10.0.0.1@tcp".parse().unwrap(),
            moved: Moved {
                sent: ByType { put: 7, ack: 3, ..ByType::default() },
                send_bytes: 1000,
                received: ByType { reply: 9, ..ByType::default() },
                recv_bytes: 0,
            },
            dropped: Dropped { messages: ByType { get: 1, ..ByType::default() }, bytes: 0 },
            credits: 256,
            credits_used: 3,
            health: Default::default(),
            silent: false,
            credits_most: 8,
            spans: Spans::default(),
            latencies: Default::default(),
        };
        let put = &mut f.latencies[Timed::PutAck as usize];
        (put.buckets[6], put.buckets[7], put.buckets[25], put.sum_ns) = (8, 1, 1, 40_000_000_000);
        let first = row(&f);
        assert_eq!(latency(&first, Timed::PutAck), f.latencies[Timed::PutAck as usize]);
        assert_eq!(latency(&Value::Null, Timed::Get), Latency::default(), "a node that tells none");
        let (ni, all) = (json!({ "nis": [first] }), |o: &str| {
            o.split('\n').map(str::trim).collect::<Vec<_>>().join("\n")
        });
        assert_eq!(
            all(&lines(&ni, None)),
            "10.0.0.1@tcp: sent 10 (1000 B), received 9 (0 B), dropped 1; 3 of 256 credits in use\n\
             put_ack: 10, mean 4.00 s, at most 65.5 us (p50), 131 us (p90), over 17.2 s (p99)\n"
        );
        f.moved.sent.get += 2;
        let put = &mut f.latencies[Timed::PutAck as usize];
        (put.buckets[0], put.sum_ns) = (2, put.sum_ns + 2000);
        let later = json!({ "nis": [row(&f), { "nid": "0@lo" }] });
        assert_eq!(
            all(&lines(&later, Some(&ni))),
            "10.0.0.1@tcp: sent 2 (0 B), received 0 (0 B), dropped 0; 3 of 256 credits in use\n\
             put_ack: 2, mean 1.00 us, at most 1.02 us (p50), 1.02 us (p90), 1.02 us (p99)\n"
        );
    }
}
