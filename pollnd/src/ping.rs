//! `pollnd ping`: what `lctl ping` shows, with the time it took, again and again, and in sum.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use transport::lnd::AppId;
use transport::lnet::Op;
use transport::node::{Handle, rings};
use transport::wire::ProcessId;

use crate::access::{self, Access};
use crate::args::PingArgs;
use crate::assemble;
use crate::inspect::Request;
use crate::inspect::client::Client;
use crate::inspect::seats::{DEPTH, Pong, one_ping};
use crate::running::{Node, Role, Setup};
use crate::{out, signals, units};

/// Pings and their answers so far.
#[derive(Default)]
struct Sum {
    sent: u64,
    lost: u64,
    /// Round trips in ns: least, sum, most.
    times: Option<(u64, u64, u64)>,
    /// The pings themselves, for JSON.
    each: Vec<Value>,
    last_error: Option<String>,
}

impl Sum {
    fn add(&mut self, r: &Result<Pong, String>, keep: bool) {
        self.sent += 1;
        match r {
            Ok(p) => {
                let (least, sum, most) = self.times.unwrap_or((u64::MAX, 0, 0));
                self.times = Some((least.min(p.rtt_ns), sum + p.rtt_ns, most.max(p.rtt_ns)));
            }
            Err(e) => {
                self.lost += 1;
                self.last_error = Some(e.clone());
            }
        }
        if keep {
            self.each.push(match r {
                Ok(p) => json!(p),
                Err(e) => json!({ "error": e }),
            });
        }
    }

    fn answered(&self) -> u64 {
        self.sent - self.lost
    }

    fn mean(&self) -> Option<u64> {
        self.times.map(|(_, sum, _)| sum / self.answered().max(1))
    }

    fn text(&self) -> String {
        let pings = units::many(self.sent, "ping");
        let mut o = format!("{pings}, {} answered, {} lost", self.answered(), self.lost);
        if let (Some((least, _, most)), Some(mean)) = (self.times, self.mean()) {
            let [least, mean, most] = [least, mean, most].map(|ns| units::time(ns as f64 * 1e-9));
            o += &format!("; shortest {least}, mean {mean}, longest {most}");
        }
        o
    }

    fn json(&self, target: &str) -> Value {
        json!({
            "target": target, "sent": self.sent, "answered": self.answered(), "lost": self.lost,
            "min_ns": self.times.map(|t| t.0), "mean_ns": self.mean(), "max_ns": self.times.map(|t| t.2),
            "pings": self.each,
        })
    }
}

/// Sender of the pings.
enum Pinger {
    Own(Box<Node>, Handle),
    Through(Client, Arc<AtomicBool>),
}

impl Pinger {
    fn ping(&mut self, a: &PingArgs, n: u64) -> Result<Pong, String> {
        match self {
            Pinger::Own(node, handle) => {
                let patience = Duration::try_from_secs_f64(a.timeout).map_err(|e| e.to_string())?;
                let target = ProcessId::lustre(a.target);
                let op = Op::Ping { tag: n, target };
                one_ping(handle, node.front(), op, patience, &mut Vec::new(), || node.stopped())
                    .map_err(|e| e.text)
            }
            Pinger::Through(c, _) => {
                let (target, timeout) = (a.target.to_string(), a.timeout);
                let r = Request::Ping { target, timeout, discover: None };
                let answer = c.one(&r)?;
                serde_json::from_value(answer["end"].clone()).map_err(|e| format!("{e} in {answer}"))
            }
        }
    }

    /// Whether the node that it goes through answers no more.
    fn gone(&self) -> bool {
        matches!(self, Pinger::Through(c, _) if c.gone())
    }

    fn stopped(&self) -> bool {
        match self {
            Pinger::Own(node, _) => node.stopped(),
            Pinger::Through(_, stopped) => stopped.load(Ordering::Relaxed),
        }
    }
}

/// Waits for the next ping; false when the node goes down first.
fn pause(p: &Pinger, until: Instant) -> bool {
    while Instant::now() < until {
        if p.stopped() {
            return false;
        }
        dataplane::clock::pause((until - Instant::now()).min(Duration::from_millis(20)));
    }
    true
}

pub(crate) fn main(mut a: PingArgs) -> Result<(), String> {
    let mut pinger = match begin(&mut a) {
        Ok(p) => p,
        Err(e) => {
            if a.out.json {
                let mut none = Sum::default().json(&a.target.to_string());
                none["error"] = json!(e);
                out::line(none)?;
            }
            return Err(e);
        }
    };
    let outcome = pings(&a, &mut pinger);
    match pinger {
        Pinger::Own(node, handle) => {
            let ended = node.stop_after(outcome).map(drop);
            drop(handle);
            ended
        }
        Pinger::Through(..) => outcome,
    }
}

/// The node that pings: one that runs, or one of its own.
fn begin(a: &mut PingArgs) -> Result<Pinger, String> {
    match access::find(&a.via, &mut a.node, a.target, "ping")? {
        Access::Node(c) => {
            // The node's own limit comes first.
            c.wait_for(Duration::try_from_secs_f64(a.timeout + 5.0).map_err(|e| e.to_string())?);
            // A ping that is under way is given up, and those before it are summed up.
            let stopped = Arc::new(AtomicBool::new(false));
            let (told, cut) = (stopped.clone(), c.cut_off()?);
            signals::first(move || {
                told.store(true, Ordering::Relaxed);
                cut();
            })?;
            Ok(Pinger::Through(c, stopped))
        }
        Access::Own(claim) => {
            let (handle, app) = rings(AppId::FIRST, DEPTH);
            let setup = Setup::new(Role::Dialler("ping"), claim);
            let node = assemble::start(&a.node, setup, Box::new(move |_| Ok(Box::new(app) as _)))?;
            access::await_route(&node, a.target, a.timeout);
            Ok(Pinger::Own(Box::new(node), handle))
        }
    }
}

fn pings(a: &PingArgs, pinger: &mut Pinger) -> Result<(), String> {
    let target = a.target.to_string();
    let mut sum = Sum::default();
    let interval = Duration::try_from_secs_f64(a.interval).map_err(|e| e.to_string())?;
    let mut next = Instant::now();
    for n in 0..a.count {
        if !pause(pinger, next) {
            break;
        }
        next = Instant::now() + interval;
        let answer = pinger.ping(a, n);
        if pinger.stopped() && answer.is_err() {
            // Interrupted: that ping was never lost.
            break;
        }
        sum.add(&answer, a.out.json);
        match &answer {
            Ok(p) if !a.out.json => out::line(p.text())?,
            Err(e) if sum.sent < a.count || sum.answered() > 0 => {
                out::note(format_args!("ping {target}: {e}"));
            }
            _ => {}
        }
        if pinger.gone() {
            // Every further one would fail for the same reason, once an interval.
            break;
        }
    }
    if a.out.json {
        out::line(sum.json(&target))?;
    } else if sum.sent > 0 {
        out::line(sum.text())?;
    }
    match (sum.last_error, sum.sent) {
        (_, 0) => Err(format!("ping {target}: interrupted")),
        (Some(e), 1) => Err(format!("ping {target}: {e}")),
        (Some(e), _) if sum.lost == sum.sent => Err(format!("ping {target}: {e}")),
        (Some(_), _) => {
            Err(format!("ping {target}: {} of {} had no answer", sum.lost, units::many(sum.sent, "ping")))
        }
        (None, _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field report 21.
    #[test]
    fn pings_are_summed_up() {
        let pong = |rtt_ns| Ok(Pong { pid: 12345, nids: vec!["10.0.0.2@tcp".into()], features: 6, rtt_ns });
        let mut s = Sum::default();
        for r in [pong(30_000), Err("why".into()), pong(10_000)] {
            s.add(&r, true);
        }
        assert_eq!(s.text(), "3 pings, 2 answered, 1 lost; shortest 10.0 us, mean 20.0 us, longest 30.0 us");
        let v = s.json("10.0.0.2@tcp");
        assert_eq!(
            (&v["mean_ns"], &v["pings"][1]["error"], &v["pings"][2]["rtt_ns"]),
            (&json!(20_000), &json!("why"), &json!(10_000))
        );
        let mut none = Sum::default();
        none.add(&Err("why".into()), false);
        assert_eq!(none.text(), "1 ping, 0 answered, 1 lost");
    }
}
