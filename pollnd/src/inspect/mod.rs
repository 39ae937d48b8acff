//! Looking at a running node: its connections, its lcores, its packets; and going through it.
//!
//! A node listens on a UNIX socket of its user's alone ([`run_dir`]). An asker connects and writes one JSON object a line
//! ([`Request`]) and reads JSON objects, one a line: rows, then an object with `end` or `error`. The node's side
//! ([`server`]) runs on threads of its own; lcores are asked by message ([`transport::node::inspect`]), page by page,
//! so that a reader who stops reading holds up nobody but himself.

pub(crate) mod account;
mod askers;
mod baseline;
pub(crate) mod capture;
pub(crate) mod claim;
pub(crate) mod client;
pub(crate) mod connections;
mod diag;
pub(crate) mod failure;
pub(crate) mod faults;
mod guests;
pub(crate) mod lcores;
mod ni_facts;
pub(crate) mod ni_orders;
pub(crate) mod nis;
mod peer_orders;
mod peer_shown;
pub(crate) mod router_buffers;
mod run_dir;
pub(crate) mod seats;
pub(crate) mod server;
pub(crate) mod set_orders;
pub(crate) mod shared;
#[cfg(feature = "dpdk")]
pub(crate) mod telemetry;
pub(crate) mod tunables;
mod verbs;

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tcpstack::ConnStats;
use transport::node::inspect::{Counts, Row};
use transport::socklnd::{Contact, PeerBrief};
use transport::wire::ConnType;

use crate::args::values::TRANSFER_MAX;
use crate::config::source::Source;
use crate::job::Job;

/// Questions to a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Request {
    /// Identity of the node.
    Hello {},
    /// Connections, all or those of a peer or in a state.
    Connections {
        /// The peer's address.
        peer: Option<IpAddr>,
        /// The peer's port.
        port: Option<u16>,
        /// The state's name.
        state: Option<String>,
        /// Rows at most.
        #[serde(default)]
        most: Option<u32>,
    },
    /// Peers that are remembered.
    Peers {
        /// Rows at most.
        #[serde(default)]
        most: Option<u32>,
    },
    /// Counters of each lcore.
    Lcores {},
    /// Tunables, all or one.
    Tunables {
        /// Its name.
        name: Option<String>,
    },
    /// Pings a peer from this node.
    Ping {
        /// The peer's NID.
        target: String,
        /// Longest wait, in seconds.
        timeout: f64,
        /// Has the node find out who that is, too: where it does not know, or anew.
        #[serde(default)]
        discover: Option<seats::Again>,
    },
    /// Moves payload between this node and a peer, and checks it.
    Bulk {
        /// Description of a transfer.
        job: Job,
    },
    /// Types a verb at the node's console of lnet_selftest.
    Selftest {
        /// The verb and what it is told.
        words: Vec<String>,
        /// LST_SESSION.
        key: Option<u32>,
        /// LST_FEATURES, of whoever types.
        #[serde(default)]
        features: Option<u32>,
    },
    /// Sets a tunable.
    Tune {
        /// Its name.
        name: String,
        /// To what.
        value: String,
    },
    /// Prints the configuration.
    Export {},
    /// Becomes what a configuration file says: all of it, or nothing.
    Apply {
        /// The file's text; the node reads the file that it was started with where this is `None`.
        file: Option<Source>,
    },
    /// Gets what a configuration file says, all of it or nothing, and keeps all else.
    Import {
        /// The file's text.
        file: Source,
    },
    /// A question of lnetctl's.
    Lnet {
        /// The question.
        ask: account::Ask,
    },
    /// Shows or changes fault rules.
    Fault {
        /// Those that delay; else those that drop or fail.
        delay: bool,
        /// The verb.
        order: faults::Order,
    },
    /// Writes packets to a file until enough came, the time is over, or the asker goes.
    Capture {
        /// The peer's address.
        peer: IpAddr,
        /// The peer's port.
        port: Option<u16>,
        /// Our port.
        local_port: Option<u16>,
        /// The file, seen from the node.
        out: PathBuf,
        /// Packets at most.
        packets: Option<u64>,
        /// Seconds at most.
        seconds: Option<f64>,
        /// Bytes of each packet.
        snaplen: u32,
    },
}

impl Request {
    /// Programs ask, too, and their figures have passed no command line.
    ///
    /// # Errors
    /// The figure that is out of range, and the range.
    fn check(&self) -> Result<(), String> {
        let seconds = |name: &str, s: Option<f64>| match s {
            Some(s) if !(0.001..=86_400.0).contains(&s) => {
                Err(format!("{name:?}: {s:e} is not a number of seconds from 0.001 to 86400"))
            }
            _ => Ok(()),
        };
        match self {
            Request::Ping { timeout, .. } => seconds("timeout", Some(*timeout)),
            Request::Bulk { job } if job.size > TRANSFER_MAX => {
                Err(format!("\"size\": {} bytes, and a transfer has at most {TRANSFER_MAX}", job.size))
            }
            Request::Bulk { job } => {
                seconds("timeout", Some(job.timeout))?;
                seconds("seconds", job.seconds)?;
                seconds("every", job.every)
            }
            Request::Capture { snaplen, .. } if !(54..=65_535).contains(snaplen) => {
                Err(format!("\"snaplen\": {snaplen} is not a number of bytes from 54 to 65535"))
            }
            Request::Capture { seconds: s, .. } => seconds("seconds", *s),
            _ => Ok(()),
        }
    }
}

/// A connection as JSON; what is not known is `null`.
pub(crate) fn connection(r: &Row) -> Value {
    let s: &ConnStats = &r.stats;
    let mut m = Map::new();
    for (k, v) in [
        ("lcore", json!(r.conn.shard.0)),
        ("place", json!(r.conn.index)),
        ("local", json!(s.local.to_string())),
        ("remote", json!(s.remote.to_string())),
        ("state", json!(s.state.name())),
        ("passive", json!(s.passive)),
        ("algorithm", json!(s.algorithm.as_deref())),
        ("recovery", json!(s.recovery)),
        ("timestamps", json!(s.timestamps)),
        ("sack", json!(s.sack)),
    ] {
        m.insert(k.into(), v);
    }
    s.each(|k, v| drop(m.insert(k.into(), json!(v))));
    Value::Object(m)
}

fn kind(t: ConnType) -> &'static str {
    match t {
        ConnType::None => "none",
        ConnType::Any => "any",
        ConnType::Control => "control",
        ConnType::BulkIn => "bulk in",
        ConnType::BulkOut => "bulk out",
    }
}

/// A peer as JSON, with the places of its connections.
fn peer(p: &PeerBrief) -> Value {
    let typed = p.typed.iter().flatten();
    let typed = typed.map(|(c, t)| json!({ "lcore": c.shard.0, "place": c.index, "type": kind(*t) }));
    json!({
        "peer": p.id.to_string(),
        "conns": p.conns,
        "contact": match p.contact {
            Contact::Idle => "idle",
            Contact::Connecting => "connecting",
            Contact::Shaking => "greeting",
            Contact::Waiting => "waiting",
            Contact::Routed => "NA",
        },
        "why": p.why.map(|w| w.to_string()),
        "credits_used": p.credits_used,
        "queued": p.queued,
        "typed": typed.collect::<Vec<_>>(),
    })
}

/// An lcore's counters as JSON.
pub(crate) fn lcore(n: usize, c: &Counts) -> Value {
    let counters: Map<String, Value> = c
        .proto
        .iter()
        .chain(c.streams.iter())
        .chain(c.more.iter().copied())
        .map(|(k, v)| (k.to_owned(), json!(v)))
        .collect();
    json!({
        "lcore": n,
        "busy": c.loop_stats.busy(),
        "busy_ns": c.loop_stats.busy_ns,
        "idle_ns": c.loop_stats.idle_ns,
        "busy_turns": c.loop_stats.busy_turns,
        "idle_turns": c.loop_stats.idle_turns,
        "counters": counters,
        "nis": c.nis.iter().map(nis::row).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_s_figures_are_held_to_their_ranges() {
        let check = |r: &str| serde_json::from_str::<Request>(r).unwrap().check();
        let capture = |seconds: &str, snaplen: u32| {
            check(&format!(
                r#"{{"do":"capture","peer":"10.0.0.2","port":null,"local_port":null,"out":"/tmp/x","packets":null,"seconds":{seconds},"snaplen":{snaplen}}}"#
            ))
        };
        let bulk = |size: u64, seconds: &str, every: &str| {
            check(&format!(
                r#"{{"do":"bulk","job":{{"way":"put","target":"10.0.0.2@tcp","size":{size},"count":3,"seconds":{seconds},"timeout":10,"every":{every}}}}}"#
            ))
        };
        let ping = |t: &str| check(&format!(r#"{{"do":"ping","target":"10.0.0.2@tcp","timeout":{t}}}"#));
        assert_eq!((capture("null", 128), bulk(0, "1", "null"), ping("0.1")), (Ok(()), Ok(()), Ok(())));
        for (e, says) in [
            // It had ended the thread, and no capture was possible any more.
            (capture("1e300", 128), "\"seconds\": 1e300"),
            (capture("-1", 128), "\"seconds\": -1e0"),
            (capture("1", 0), "\"snaplen\": 0"),
            (capture("1", u32::MAX), "54 to 65535"),
            (bulk(u64::MAX, "null", "1"), "\"size\""),
            (bulk(1, "-1", "1"), "\"seconds\""),
            (bulk(1, "1", "0"), "\"every\""),
            (ping("1e300"), "\"timeout\""),
        ] {
            let e = e.unwrap_err();
            assert!(e.contains(says), "{e}");
        }
    }
}
