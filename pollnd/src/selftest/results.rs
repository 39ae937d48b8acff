//! Results of the console as JSON.

use serde_json::{Value, json};
use transport::selftest::console::book::{Counts, NodeState};
use transport::selftest::console::report::{NodeRates, Report};
use transport::wire::Nid;

fn counts(c: &Counts) -> Value {
    json!({ "active": c.active, "busy": c.busy, "down": c.down, "unknown": c.unknown, "total": c.total() })
}

fn nodes(all: &[(Nid, NodeState)]) -> Value {
    all.iter().map(|(n, s)| json!({ "nid": n.to_string(), "state": s.name() })).collect()
}

fn rates((nid, r): &(Nid, NodeRates)) -> Value {
    json!({
        "nid": nid.to_string(), "recv_per_s": r.recv_rate, "send_per_s": r.send_rate,
        "recv_bytes_per_s": r.recv_bytes, "send_bytes_per_s": r.send_bytes,
    })
}

fn names(nids: &[Nid]) -> Value {
    nids.iter().map(Nid::to_string).collect()
}

/// A result.
pub(crate) fn of(r: &Report) -> Value {
    match r {
        Report::Session { name, stamp, nid, key, features, timeout_s, force, nodes, new: _ } => json!({
            "session": name, "id": format!("{stamp}@{nid}"), "key": key, "features": features, "timeout_s": timeout_s,
            "force": force, "nodes": nodes,
        }),
        Report::Added { ids } => json!({ "added": ids }),
        Report::GroupDeleted => json!({ "deleted": true }),
        Report::Names { what, names } => json!({ *what: names }),
        Report::GroupCounts { name, counts: c, .. } => json!({ "group": name, "counts": counts(c) }),
        Report::GroupNodes { name, nodes: n } => json!({ "group": name, "nodes": nodes(n) }),
        Report::Pinged { nid, state, session } => json!({
            "nid": nid.to_string(), "state": state.name(), "session": session.as_ref().map(|s| &s.0),
            "console": session.as_ref().map(|s| s.1.to_string()),
        }),
        Report::NoNodes { name } => json!({ "name": name, "nodes": [] }),
        Report::TestAdded => json!({ "added": true }),
        Report::Batch { name, tests, running, clients, servers } => json!({
            "batch": name, "tests": tests, "running": running, "clients": counts(clients), "servers": counts(servers),
        }),
        Report::Test { index, kind, times, concurrency, clients, servers } => json!({
            "test": index, "kind": kind, "loop": times, "concurrency": concurrency, "clients": counts(clients),
            "servers": counts(servers),
        }),
        Report::BatchNodes { nodes: n } => json!({ "nodes": nodes(n) }),
        Report::Running { batch } => json!({ "batch": batch, "running": true }),
        Report::Stopped { batch } => json!({ "batch": batch, "running": false }),
        Report::Query { batch, test, unknown, total, idle, running, failed } => json!({
            "batch": batch, "test": test, "unknown": unknown, "total": total, "idle": idle, "running": running,
            "failed": failed,
        }),
        Report::QueryNode { nid, state, active } => json!({
            "nid": nid.to_string(), "state": state.name(), "running": active.as_ref().ok(), "error": active.as_ref().err(),
        }),
        Report::QueryEmpty => json!({ "nodes": [] }),
        Report::Stat { group, unheard, nodes, .. } => json!({
            "group": group, "failed": unheard.len(), "nodes": nodes.iter().map(rates).collect::<Value>(),
            "unheard": names(unheard),
        }),
        Report::StatUnheard { group, nodes } => json!({
            "errors_of": group, "error": "no answer to stat", "nodes": names(nodes),
        }),
        Report::ErrorsOf { group } => json!({ "errors_of": group }),
        Report::NodeErrors { nid, brw, ping, rpc } => json!({
            "nid": nid.to_string(), "brw_errors": brw, "ping_errors": ping, "rpc_errors": rpc.map(|r| r[0]),
            "rpc_dropped": rpc.map(|r| r[1]), "rpc_expired": rpc.map(|r| r[2]),
        }),
        Report::NodeUnheard { nid } => json!({ "nid": nid.to_string(), "error": "it does not answer" }),
        Report::ErrorsTotal { group, nodes } => json!({ "group": group, "error_nodes": nodes }),
        Report::Failed { text } => json!({ "error": text }),
        Report::Note { text } => json!({ "note": text }),
        Report::Help { text } => json!({ "help": text }),
    }
}
