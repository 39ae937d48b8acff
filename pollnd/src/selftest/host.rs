//! The console of a node: a thread of its own in a seat beside the node's application. Commands of this process and of
//! others type verbs at it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bench::measure::cpu_time;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use transport::lnd::AppId;
use transport::node::{Handle, Ops, Seat};
use transport::selftest::Meter;
use transport::selftest::console::report::Report;
use transport::selftest::console::{Console, Said, Setup};
use transport::wire::{Nid, srpc};

use super::results;
use crate::limits;

/// Sleep of the console while it waits for answers.
const NAP: Duration = Duration::from_micros(100);
/// Longest sleep while it has a session and nothing to do.
const DOZE: Duration = Duration::from_millis(500);
/// Looks within it are one: the groups of a `stat`, whose rounds are a second apart at least.
const LOOK: Duration = Duration::from_millis(250);

/// Something that a verb says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Piece {
    /// Whole lines, as lst prints them.
    pub(crate) text: String,
    /// They go to standard error.
    pub(crate) fault: bool,
    /// The same as JSON.
    pub(crate) result: Value,
    /// Measures of the member of the console's node, with the pieces of `run` and `stat`.
    pub(crate) own: Option<Own>,
}

/// Counts of the console's node so far, and round trips since the look before.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Own {
    /// RPCs that it asked and that ended well, and those that did not.
    pub(crate) rpcs: u64,
    pub(crate) failed: u64,
    /// Payload that its own RPCs moved, in bytes.
    pub(crate) moved: u64,
    /// Payload that it served, in bytes.
    pub(crate) served: u64,
    /// CPU time of its process, in seconds.
    pub(crate) cpu_s: f64,
    /// Round trips in us: p50, p99, p99.9.
    pub(crate) rtt_us: Option<[f64; 3]>,
    /// The same since a batch was run last.
    pub(crate) run_rtt_us: Option<[f64; 3]>,
}

/// Output of a verb.
pub(crate) enum Out {
    /// A piece.
    Piece(Box<Piece>),
    /// The end, with the exit status.
    End(u8),
}

/// A verb that somebody types.
pub(crate) struct Typed {
    pub(crate) words: Vec<String>,
    /// LST_SESSION.
    pub(crate) key: Option<u32>,
    /// LST_FEATURES.
    pub(crate) features: Option<u32>,
    pub(crate) out: Sender<Out>,
    /// Ends it early once set.
    pub(crate) cut: Arc<AtomicBool>,
}

/// The console of a node.
pub(crate) struct Host {
    typed: Mutex<Sender<Typed>>,
}

impl Host {
    /// A console in `seat`, whose events are those of `app`, of a node of `own`.
    ///
    /// # Errors
    /// The kernel refuses the thread.
    pub(crate) fn start(seat: Seat, app: AppId, own: Nid, meter: Option<Arc<Meter>>) -> Result<Host, String> {
        let (typed, verbs) = mpsc::channel();
        // It ends when the last sender goes.
        drop(limits::thread("selftest console", move || run(seat, app, own, meter.as_deref(), &verbs))?);
        Ok(Host { typed: Mutex::new(typed) })
    }

    /// Types a verb; its output comes to `t.out`.
    ///
    /// # Errors
    /// The console has ended.
    pub(crate) fn type_in(&self, t: Typed) -> Result<(), String> {
        let typed = self.typed.lock().unwrap_or_else(PoisonError::into_inner);
        typed.send(t).map_err(|_| "the console of this node has ended: start the node again".to_owned())
    }
}

fn unix_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// Name of a session that is given none: as lst, user@machine.
fn name() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut name = format!("{user}@{}", host.trim());
    while name.len() > 31 {
        name.pop();
    }
    name
}

/// The console and what it is typed.
struct Running<'a> {
    console: Console,
    ops: Ops,
    begun: Instant,
    meter: Option<&'a Meter>,
    /// Verbs at work, by number, and whether they were cut.
    typed: BTreeMap<u64, (Typed, bool)>,
    /// Round trips of the node's member since a batch was run last.
    trips: Option<Histogram<u64>>,
    /// The latest look at them, and what it found.
    looked: Option<(Instant, Option<[f64; 3]>)>,
}

fn run(mut seat: Seat, app: AppId, own: Nid, meter: Option<&Meter>, verbs: &Receiver<Typed>) {
    let setup = Setup { app, own, name: name(), features: srpc::FEATS, unix_ns: unix_ns() };
    let begun = Instant::now();
    let mut r = Running {
        console: Console::new(setup),
        ops: Ops::new(),
        begun,
        meter,
        typed: BTreeMap::new(),
        trips: None,
        looked: None,
    };
    loop {
        // Without a session there is nothing to do; with one its members want a sign now and then.
        let next = if r.console.has_session() {
            match verbs.recv_timeout(r.until().min(DOZE)) {
                Ok(t) => Some(t),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        } else {
            match verbs.recv() {
                Ok(t) => Some(t),
                Err(_) => return,
            }
        };
        // The lcore looks at this seat's rings only while somebody sits there.
        let handle = seat.take();
        next.into_iter().for_each(|t| r.type_in(t));
        r.serve(&handle, verbs);
    }
}

impl Running<'_> {
    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    /// Time until it must be turned.
    fn until(&self) -> Duration {
        let now = self.now();
        self.console.deadline().map_or(DOZE, |t| Duration::from_nanos(t.saturating_sub(now)))
    }

    /// Hands over what there is; gives whether there was anything.
    fn turn(&mut self, handle: &Handle) -> bool {
        let mut busy = false;
        while let Some(ev) = handle.event() {
            busy = true;
            let now = self.now();
            self.console.event(now, ev, &mut self.ops);
        }
        let now = self.now();
        busy |= self.console.turn(now, &mut self.ops);
        while let Some((app, op)) = self.ops.pop_front() {
            if let Err(full) = handle.submit(op) {
                self.ops.push_front((app, *full.0));
                break;
            }
            busy = true;
        }
        busy
    }

    fn type_in(&mut self, t: Typed) {
        let verb = self.console.type_in(t.words.clone(), t.key, t.features);
        self.typed.insert(verb, (t, false));
    }

    /// Turns until nothing is under way. Verbs that come meanwhile run while others wait for their next look.
    fn serve(&mut self, handle: &Handle, verbs: &Receiver<Typed>) {
        loop {
            while let Ok(t) = verbs.try_recv() {
                self.type_in(t);
            }
            let busy = self.turn(handle);
            self.cut();
            self.deliver();
            let rest = self.typed.is_empty() && self.console.is_idle() && self.console.under_way() == 0;
            if rest && self.ops.is_empty() {
                return;
            }
            if !busy {
                dataplane::clock::pause(NAP);
            }
        }
    }

    /// Ends the verbs that are to end early.
    fn cut(&mut self) {
        let now = self.now();
        for (verb, (t, cut)) in &mut self.typed {
            if !*cut && t.cut.load(Ordering::Relaxed) {
                *cut = true;
                self.console.interrupt_one(now, *verb, &mut self.ops);
            }
        }
    }

    /// Gives everybody what his verb says; whoever does not listen any more has cut it, too.
    fn deliver(&mut self) {
        while let Some((verb, said)) = self.console.said_by() {
            match said {
                Said::Report(report) => {
                    let piece = Out::Piece(Box::new(self.piece(&report)));
                    let _ = self.typed.get(&verb).map(|(t, _)| t.out.send(piece));
                }
                Said::End(status) => {
                    let _ = self.typed.remove(&verb).map(|(t, _)| t.out.send(Out::End(status)));
                }
                Said::Exit => {}
            }
        }
    }

    fn piece(&mut self, report: &Report) -> Piece {
        let own = match report {
            Report::Running { .. } => {
                // Those from before are none of the run's.
                self.looked = None;
                let own = self.own();
                (self.trips, self.looked) = (None, None);
                Some(Own { rtt_us: None, run_rtt_us: None, ..own })
            }
            Report::Stat { .. } => Some(self.own()),
            _ => None,
        };
        Piece { text: report.text(), fault: report.is_fault(), result: results::of(report), own }
    }

    fn own(&mut self) -> Own {
        let cpu_s = cpu_time().as_secs_f64();
        let Some(m) = self.meter else { return Own { cpu_s, ..Own::default() } };
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let rtt_us = self.round_trips(m);
        Own {
            rpcs: get(&m.rpcs),
            failed: get(&m.failed),
            moved: get(&m.read) + get(&m.written),
            served: get(&m.served_read) + get(&m.served_written),
            cpu_s,
            rtt_us,
            run_rtt_us: quantiles(self.trips.as_ref()),
        }
    }

    /// Quantiles since the look before. All groups of a look are told the same: each draws the lines anew.
    fn round_trips(&mut self, m: &Meter) -> Option<[f64; 3]> {
        if let Some((_, found)) = self.looked.filter(|(at, _)| at.elapsed() < LOOK) {
            return found;
        }
        let recent = m.take_rtt();
        if let Some(h) = &recent {
            match &mut self.trips {
                // Both have the bounds of the member's: nothing is left out.
                Some(all) => drop(all.add(h)),
                None => self.trips = Some(h.clone()),
            }
        }
        let found = quantiles(recent.as_ref());
        self.looked = Some((Instant::now(), found));
        found
    }
}

/// p50, p99 and p99.9 in us.
fn quantiles(h: Option<&Histogram<u64>>) -> Option<[f64; 3]> {
    let h = h.filter(|h| !h.is_empty())?;
    Some([0.5, 0.99, 0.999].map(|q| h.value_at_quantile(q) as f64 / 1000.0))
}

/// The end of a verb, as it is told to another process.
pub(crate) fn end(status: u8) -> Value {
    json!({ "status": status })
}
