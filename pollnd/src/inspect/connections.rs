//! `pollnd connections`: a running node's connections, as `ss -ti` shows the kernel's.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::Request;
use super::client::Client;
use crate::args::{ConnFilter, ConnectionsArgs};
use crate::out;

/// `pollnd connections`.
///
/// # Errors
/// No node, or it does not answer.
pub(crate) fn main(a: &ConnectionsArgs) -> Result<(), String> {
    let mut c = Client::new(a.asked.node.as_deref())?;
    let all = |peer, port, state| Request::Connections { peer, port, state, most: None };
    let r = match &a.filter {
        None => all(None, None, None),
        Some(ConnFilter::Peer(p)) => all(Some(p.ip), p.port, None),
        Some(ConnFilter::State(s)) => all(None, None, Some(s.name().to_owned())),
    };
    loop {
        if a.out.json {
            let mut all = Vec::new();
            c.rows(&r, |v| all.push(v))?;
            out::line(json!({ "connections": all }))?;
        } else {
            out::line(format_args!(
                "{:<13} {:>8} {:>8}  {:<24} {:<24} Lcore",
                "State", "Recv-Q", "Send-Q", "Local", "Peer"
            ))?;
            c.try_rows(&r, |v| out::text(entry(&v)))?;
        }
        let Some(every) = a.again.watch else { return Ok(()) };
        std::thread::sleep(Duration::from_secs_f64(every));
        if !a.out.json {
            out::line("")?;
        }
    }
}

fn number(v: &Value, k: &str) -> String {
    v[k].as_u64().map_or_else(|| "-".into(), |n| n.to_string())
}

/// Times in ms, as `ss` has them.
fn ms(v: &Value, k: &str) -> String {
    v[k].as_u64().map_or_else(
        || "-".into(),
        |ns| {
            let t = format!("{:.3}", ns as f64 / 1e6);
            t.trim_end_matches('0').trim_end_matches('.').to_owned()
        },
    )
}

/// Two lines of one connection: addresses, and everything else under the names of `ss` where it has one.
fn entry(v: &Value) -> String {
    let text = |k: &str| v[k].as_str().unwrap_or("-").to_owned();
    let mut o = format!(
        "{:<13} {:>8} {:>8}  {:<24} {:<24} {}\n\t",
        text("state"),
        number(v, "recv_queue"),
        number(v, "backlog"),
        text("local"),
        text("remote"),
        number(v, "lcore")
    );
    for (k, word) in [("timestamps", "ts"), ("sack", "sack")] {
        if v[k].as_bool() == Some(true) {
            let _ = write!(o, "{word} ");
        }
    }
    let _ = write!(
        o,
        "{} wscale:{},{} rto:{} rtt:{}/{} minrtt:{} mss:{} pmtu:{} cwnd:{} ssthresh:{} {}",
        text("algorithm"),
        number(v, "snd_wscale"),
        number(v, "rcv_wscale"),
        ms(v, "rto_ns"),
        ms(v, "srtt_ns"),
        ms(v, "rttvar_ns"),
        ms(v, "min_rtt_ns"),
        number(v, "mss"),
        number(v, "pmtu"),
        number(v, "cwnd"),
        number(v, "ssthresh"),
        text("recovery")
    );
    const SHOWN: [&str; 17] = [
        "place",
        "recv_queue",
        "backlog",
        "snd_wscale",
        "rcv_wscale",
        "rto_ns",
        "srtt_ns",
        "rttvar_ns",
        "min_rtt_ns",
        "mss",
        "pmtu",
        "cwnd",
        "ssthresh",
        "lcore",
        "last_send_ago_ns",
        "last_recv_ago_ns",
        "last_ack_ago_ns",
    ];
    let _ = write!(
        o,
        " lastsnd:{} lastrcv:{} lastack:{}",
        ms(v, "last_send_ago_ns"),
        ms(v, "last_recv_ago_ns"),
        ms(v, "last_ack_ago_ns")
    );
    // Everything else that is known, and not 0 unless it always counts.
    let rest = v.as_object().into_iter().flatten();
    for (k, n) in rest.filter(|(k, _)| !SHOWN.contains(&k.as_str())) {
        let Some(n) = n.as_u64() else { continue };
        match k.strip_suffix("_ns") {
            _ if n == 0 && !k.starts_with("bytes_") => {}
            Some(name) => {
                let _ = write!(o, " {name}:{}", ms(v, k).as_str());
            }
            None => {
                let _ = write!(o, " {k}:{n}");
            }
        }
    }
    o.push('\n');
    o
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_shown_as_ss_does() {
        let v = json!({
            "lcore": 0, "local": "10.0.0.1:988", "remote": "10.0.0.2:1023", "state": "ESTABLISHED", "passive": true,
            "algorithm": "cubic", "recovery": "open", "timestamps": true, "sack": false, "recv_queue": 5,
            "backlog": 70, "snd_wscale": 7, "rcv_wscale": 5, "rto_ns": 50_000_000, "srtt_ns": 40_500,
            "rttvar_ns": 12_000, "min_rtt_ns": 30_000, "mss": 1448, "pmtu": 1500, "cwnd": 14_480, "ssthresh": null,
            "last_send_ago_ns": 1_000_000, "last_recv_ago_ns": null, "last_ack_ago_ns": 0, "bytes_acked": 0,
            "bytes_sent": 70, "dup_acks": 0, "rtos": 3, "age_ns": 2_000_000_000u64,
        });
        let text = entry(&v).replace('\t', "        ");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "ESTABLISHED          5       70  10.0.0.1:988             10.0.0.2:1023            0"
        );
        assert_eq!(
            lines[1].trim(),
            "ts cubic wscale:7,5 rto:50 rtt:0.041/0.012 minrtt:0.03 mss:1448 pmtu:1500 cwnd:14480 ssthresh:- open \
             lastsnd:1 lastrcv:- lastack:0 age:2000 bytes_acked:0 bytes_sent:70 rtos:3"
        );
    }
}
