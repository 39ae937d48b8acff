//! `pollnd put` and `pollnd get`: a transfer, over a node of its own or through one that runs.

use std::sync::Arc;
use std::time::Duration;

use bench::ctl::Ctl;
use bench::workload::Client;
use dataplane::clock::pause;
use serde_json::{Value, json};

use crate::access::{self, Access};
use crate::args::BulkArgs;
use crate::assemble;
use crate::inspect::Request;
use crate::inspect::client::Client as Asker;
use crate::job::{Beat, Follow, Job, Moved, SPARE, Step, Told, Way};
use crate::running::{self, Role, Setup};
use crate::{out, settings, signals, units};

fn say_beat(b: &Beat, json: bool) -> Result<(), String> {
    if json {
        return out::line(json!(b));
    }
    let (rate, each) = (units::rate(b.bytes, b.wall_s), units::per_second(b.messages, b.wall_s));
    let mut messages = units::many(b.messages, "message");
    if b.failed > 0 {
        messages += &format!(", {}", units::many(b.failed, "error"));
    }
    out::line(format_args!("{:>9}  {:>12}  {:>14}  {messages}", units::time(b.at_s), rate, each))
}

fn say_told(t: &Told, job: &Job, json: bool) -> Result<(), String> {
    match t {
        Told::Beat(b) => say_beat(b, json),
        Told::Trouble { trouble } => {
            out::note(format_args!("{}: {trouble}", job.what()));
            Ok(())
        }
    }
}

/// Owner of the node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Own,
    Running,
}

fn say(job: &Job, m: &Moved, whose: Whose) -> Result<(), String> {
    let what = if job.pieces() == 1 {
        format!("{} of {}", units::many(m.messages, "message"), units::many(job.size, "byte"))
    } else {
        let [transfers, bytes, messages] =
            [(m.transfers, "transfer"), (job.size, "byte"), (m.messages, "message")]
                .map(|(n, w)| units::many(n, w));
        format!("{transfers} of {bytes} in {messages}")
    };
    let (here, by) = match whose {
        Whose::Own => ("here", "pollnd"),
        Whose::Running => ("of the node", "the node"),
    };
    let resent =
        m.retransmits.map(|n| format!("; {}", units::many(n, "TCP retransmission"))).unwrap_or_default();
    out::line(format_args!(
        "{what} in {}: {}, {}; {:.2} CPU-seconds {here}; copied by {by}: {} B sent, {} B received{resent}",
        units::time(m.wall_s),
        units::rate(m.bytes, m.wall_s),
        units::per_second(m.messages, m.wall_s),
        m.cpu_s,
        m.tx_copied_bytes,
        m.rx_copied_bytes,
    ))
}

/// The transfer of a command line.
fn job(a: &BulkArgs, way: Way) -> Job {
    Job {
        way,
        target: a.target.to_string(),
        size: a.size,
        count: a.count.or(if a.seconds.is_some() { None } else { Some(1024) }),
        seconds: a.seconds,
        timeout: a.timeout,
        every: a.watch,
    }
}

/// A transfer that has ended: its figures, as far as they are known, and whether it came to its end.
type Ended = (Option<Moved>, Result<(), String>);

pub(crate) fn main(mut a: BulkArgs, way: Way) -> Result<(), String> {
    let job = job(&a, way);
    let command = if way == Way::Put { "put" } else { "get" };
    let (whose, (moved, ended)) = match access::find(&a.via, &mut a.node, a.target, command) {
        Ok(Access::Node(asker)) => (Whose::Running, through(&job, asker, a.json)),
        Ok(Access::Own(claim)) => (Whose::Own, own(&job, &a, Setup::new(Role::Dialler(command), claim))),
        Err(e) => (Whose::Own, (None, Err(e))),
    };
    match (&moved, &ended) {
        (Some(m), Ok(())) if !a.json => say(&job, m, whose)?,
        _ => {}
    }
    let done = ended.and_then(|()| moved.as_ref().map_or(Ok(()), |m| job.judge(m)));
    if a.json {
        out::line(object(moved.as_ref(), &done))?;
    }
    done
}

/// The result as JSON: the figures, as far as they are known, and the error if it failed.
fn object(moved: Option<&Moved>, done: &Result<(), String>) -> Value {
    let mut v = moved.map_or_else(|| json!({}), |m| json!(m));
    if let Err(e) = done {
        v["error"] = json!(e);
    }
    v
}

fn through(job: &Job, mut asker: Asker, json: bool) -> Ended {
    asker.patient();
    // The node then tells how far it had come.
    let ready = asker.hang_up().and_then(signals::first);
    let answer = ready.and_then(|()| {
        asker.try_rows(&Request::Bulk { job: job.clone() }, |v| {
            serde_json::from_value::<Told>(v).map_or(Ok(()), |t| say_told(&t, job, json))
        })
    });
    let moved = |v: &Value| serde_json::from_value(v.clone()).map_err(|e| format!("{e} in {v}"));
    match answer {
        Ok(end) => moved(&end["end"]).map_or_else(|e| (None, Err(e)), |m| (Some(m), Ok(()))),
        Err(e) => (asker.refusal().and_then(|v| moved(&v["moved"]).ok()), Err(e)),
    }
}

fn own(job: &Job, a: &BulkArgs, setup: Setup) -> Ended {
    let ctl = Arc::new(Ctl::default());
    let (c, target) = (ctl.clone(), a.target);
    let started = settings::peer_credits(&a.node).and_then(|flight| {
        let cfg = job.client(flight, SPARE as u64, 0);
        let make = Box::new(move |backing: &_| {
            Client::new(cfg, c, target, backing).map(|c| Box::new(c) as _).map_err(|e| e.to_string())
        });
        assemble::start(&a.node, setup, make)
    });
    let node = match started {
        Ok(n) => n,
        Err(e) => return (None, Err(e)),
    };
    access::await_route(&node, a.target, a.timeout);
    let mut follow = Follow::new(job, ctl);
    let result = loop {
        match follow.step(node.stopped(), node.front(), a.target) {
            Step::On => pause(Duration::from_millis(1)),
            Step::Tell(t) => {
                if let Err(e) = say_told(&t, job, a.json) {
                    break Err(e);
                }
            }
            Step::End(ended) => break ended,
        }
    };
    let so_far = follow.moved();
    let down = node.stop();
    let ends = down.as_deref().unwrap_or_default();
    let moved = Moved {
        tx_copied_bytes: ends.iter().map(|e| e.streams.tx_copied_bytes).sum(),
        rx_copied_bytes: ends.iter().map(|e| e.proto.rx_copied_bytes).sum(),
        retransmits: ends.iter().filter_map(|e| e.streams.retransmits).reduce(|a, b| a + b),
        clean: Some(down.is_ok() && ends.iter().all(|e| e.clean)),
        ..so_far
    };
    let ended = running::both(result.map_err(|e| job.failure(&moved, &e)), down.map(drop));
    (Some(moved), ended)
}
