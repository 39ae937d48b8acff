//! A transfer goes on when a router dies with what it had accepted, and a second one is there.

#![allow(missing_docs)]

#[allow(dead_code)]
mod proc;

use proc::{Place, Proc, eventually, own_ip};
use rustix::process::Signal;
use serde_json::Value;

const SOON: [&str; 6] = [
    "--accept-port",
    "10988",
    "--tunable",
    "alive_router_check_interval=1",
    "--tunable",
    "router_ping_timeout=1",
];

/// Owner of the node that asks.
#[derive(PartialEq, Eq)]
enum By {
    Running,
    Itself,
}

/// A transfer by two routers, of which the better one has `signal` while it runs: the other carries it on, and its time holds.
fn survives(way: &str, signal: Signal, by: By, more: &[&str]) {
    let at = Place::new();
    let of = |ip, net: &str| format!("{ip}@{net}");
    let [a, b, first, second] = [(); 4].map(|()| own_ip());
    let router = |ip| {
        let (near, far) = (of(ip, "tcp"), of(ip, "tcp1"));
        at.start(&[&["node", "--nid", &near, "--ni", &far, "--routing"], &SOON[..], more].concat()).up()
    };
    let mut routers = [router(first), router(second)];
    let routes = |net: &str, there: &str| {
        [(first, 0), (second, 1)].map(|(ip, prio)| format!("{net} {} 1 {prio}", of(ip, there)))
    };
    let with = |routes: &[String; 2]| {
        let each = routes.iter().flat_map(|r| ["--route".to_owned(), r.clone()]);
        each.chain(SOON.iter().chain(more).map(|w| (*w).to_owned())).collect::<Vec<_>>()
    };
    let node = |nid: &str, routes: &[String; 2]| {
        let all = with(routes);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        at.start(&[&["node", "--nid", nid], &all[..]].concat()).up()
    };
    let up = |n: &Proc| {
        eventually("two routes", || {
            at.ctl(n, &["route", "show", "-v"]).good().out.matches("state: up").count() == 2
        });
    };
    let (here, there) = (of(a, "tcp"), of(b, "tcp1"));
    let server = node(&there, &routes("tcp", "tcp1"));
    up(&server);
    let (on, mut asker) = (routes("tcp1", "tcp"), None);
    let mut args: Vec<String> =
        [way, &there, "--nid", &here, "-t", "10", "--timeout", "100", "-w", "0.2", "--json"]
            .map(str::to_owned)
            .into();
    if by == By::Running {
        let n = node(&here, &on);
        up(&n);
        asker = Some(n);
    } else {
        args.extend(with(&on));
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut transfer = at.start(&args);
    transfer.until("a beat with messages", |out, _| beats(out).iter().any(|b| messages(b) > 0));
    routers[0].signal(signal);
    let end = transfer.end();
    let all = beats(&end.out);
    let (last, each) = all.split_last().unwrap();
    // The last one may be cut by the end, and the machine may be busy.
    let late = each.iter().rev().take(10).map(messages).sum::<u64>();
    assert!(late > 0, "nothing by the second router: {end:#?}");
    // Had it ended by its time-out, that would be the error.
    if let Some(e) = last["error"].as_str() {
        assert!(e.contains("messages ended with an error: "), "{e}");
        assert_eq!((end.status.code(), last["unanswered"].as_u64()), (Some(1), Some(0)));
    } else {
        assert_eq!((end.status.code(), last["failed"].as_u64()), (Some(0), Some(0)));
    }
    if signal == Signal::KILL && way == "get" {
        assert!(last["error"].as_str().unwrap().contains("no answer has come"), "{last}");
    }
    asker.map(|n| n.stop().good());
    server.stop().good();
    if signal == Signal::STOP {
        routers[0].signal(Signal::CONT);
    }
    assert_eq!(routers[0].runs(), signal == Signal::STOP);
}

fn beats(out: &str) -> Vec<Value> {
    out.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
}

fn messages(beat: &Value) -> u64 {
    beat["messages"].as_u64().unwrap_or(0)
}

#[test]
fn a_put_by_a_router_that_is_killed() {
    survives("put", Signal::KILL, By::Running, &[]);
}

#[test]
fn a_get_by_a_router_that_is_killed() {
    survives("get", Signal::KILL, By::Itself, &[]);
}

#[test]
fn a_get_by_a_router_that_is_terminated() {
    survives("get", Signal::TERM, By::Running, &["--tunable", "protocol=4"]);
}

#[test]
fn a_put_by_a_router_that_falls_silent() {
    survives("put", Signal::STOP, By::Itself, &["--tunable", "protocol=4"]);
}
