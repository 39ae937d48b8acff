//! A port that did not start is started again, until it runs: silent, it would neither receive nor send, and nobody would know.
//!
//! ```text
//!          Stopped                Started
//!   Runs ──────────> Stopped ─────────────> Runs
//! ```
//!
//! The first try comes a second later, each next one after twice the time, at most [`RETRY_MOST`]: drivers log each failure.

use std::time::{Duration, Instant};

use dataplane::dpdk::EthPort;
use fsm::Fsm;

use super::{Rare, YIELD};

/// Time until a port that does not start is started again the first time.
const RETRY: Duration = Duration::from_secs(1);
/// Most time between two tries.
const RETRY_MOST: Duration = Duration::from_secs(10);

fsm::fsm! {
    /// Whether the port is started.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Run {
        Runs,
        /// It was stopped, and did not start.
        Stopped,
    }

    /// Events of it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum RunEvent {
        Stopped,
        Started,
    }

    table Run + RunEvent {
        start Runs;
        else "nothing changes";
        Runs + Stopped => Stopped;
        Stopped + Started => Runs;
    }
}

/// A port that can be started, as far as it matters here.
pub(super) trait Startable {
    /// Name, as DPDK knows it.
    fn name(&self) -> &str;
    /// Whether it is started.
    fn runs(&self) -> bool;
    /// Whether its device is given up: it is made anew elsewhere.
    fn is_away(&self) -> bool;
    /// Starts it.
    fn start(&mut self) -> Result<(), String>;
    /// Stops and starts it.
    fn restart(&mut self) -> Result<(), String>;
}

impl Startable for EthPort {
    fn name(&self) -> &str {
        EthPort::name(self)
    }

    fn runs(&self) -> bool {
        self.is_running()
    }

    fn is_away(&self) -> bool {
        EthPort::is_away(self)
    }

    fn start(&mut self) -> Result<(), String> {
        EthPort::start(self).map_err(|e| e.to_string())
    }

    fn restart(&mut self) -> Result<(), String> {
        EthPort::restart(self, YIELD).map_err(|e| e.to_string())
    }
}

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It does not run, and why.
    Fails(String),
    /// It runs again.
    Runs(String),
}

/// Starts a port again that did not start.
#[derive(Debug)]
pub(super) struct Starts {
    state: Fsm<Run>,
    /// Time at which it was seen stopped.
    since: Instant,
    /// Time of the next try, and the time from that to the one after it.
    next: (Instant, Duration),
    tries: u32,
    told: Rare,
}

impl Starts {
    pub(super) fn new(now: Instant) -> Starts {
        Starts { state: Fsm::START, since: now, next: (now, RETRY), tries: 0, told: Rare::default() }
    }

    /// Whether it runs, as far as was seen.
    pub(super) fn runs(&self) -> bool {
        self.state == Run::Runs
    }

    /// Stops and starts the port.
    pub(super) fn restart(&mut self, port: &mut impl Startable, now: Instant) -> Option<Said> {
        let why = port.restart().err()?;
        if port.runs() {
            return Some(Said::Fails(why));
        }
        self.stopped(now);
        self.told.due(now).then(|| fails(port.name(), &why))
    }

    /// Looks at the port, and starts it when it does not run and a try is due.
    pub(super) fn look(&mut self, port: &mut impl Startable, now: Instant) -> Option<Said> {
        if port.is_away() {
            return None;
        }
        if port.runs() {
            return self.started(port.name(), now);
        }
        self.stopped(now);
        let (at, after) = self.next;
        if now < at {
            return None;
        }
        self.next = (now + after, RETRY_MOST.min(after * 2));
        self.tries += 1;
        match port.start() {
            Ok(()) if port.runs() => self.started(port.name(), now),
            Ok(()) => None,
            Err(why) => self.told.due(now).then(|| fails(port.name(), &why)),
        }
    }

    fn stopped(&mut self, now: Instant) {
        if self.state.apply(RunEvent::Stopped).is_some() {
            (self.since, self.next, self.tries) = (now, (now + RETRY, 2 * RETRY), 0);
            self.told = Rare::default();
        }
    }

    fn started(&mut self, name: &str, now: Instant) -> Option<Said> {
        self.state.apply(RunEvent::Started)?;
        let secs = (now - self.since).as_secs();
        Some(Said::Runs(format!("port {name}: it runs again after {secs} s, started {} times", self.tries)))
    }
}

fn fails(name: &str, why: &str) -> Said {
    Said::Fails(format!(
        "{why}; port {name} neither receives nor sends: its NIs are down until it starts, which is tried again each {} s or sooner \
         (counter port_failed_starts)",
        RETRY_MOST.as_secs()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A port whose driver refuses so many starts.
    struct Model {
        refuses: u32,
        runs: bool,
        away: bool,
        starts: Vec<u64>,
        at: u64,
    }

    impl Startable for Model {
        fn name(&self) -> &str {
            "p0"
        }

        fn runs(&self) -> bool {
            self.runs
        }

        fn is_away(&self) -> bool {
            self.away
        }

        fn start(&mut self) -> Result<(), String> {
            self.starts.push(self.at);
            self.runs = self.refuses == 0;
            self.refuses = self.refuses.saturating_sub(1);
            if self.runs { Ok(()) } else { Err("port p0: no such device".into()) }
        }

        fn restart(&mut self) -> Result<(), String> {
            self.runs = false;
            self.start()
        }
    }

    /// Restarted at 0 s and looked at ten times a second for so long: what is said, and when.
    fn run(port: &mut Model, secs: u64) -> Vec<(u64, Said)> {
        let start = Instant::now();
        let mut s = Starts::new(start);
        let mut said: Vec<(u64, Said)> = s.restart(port, start).map(|l| (0, l)).into_iter().collect();
        for tenth in 1..=secs * 10 {
            port.at = tenth / 10;
            said.extend(s.look(port, start + Duration::from_millis(tenth * 100)).map(|l| (tenth / 10, l)));
        }
        assert_eq!(s.runs(), port.runs);
        said
    }

    fn model(refuses: u32) -> Model {
        Model { refuses, runs: true, away: false, starts: Vec::new(), at: 0 }
    }

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<Run>(), @r"
        Runs + Stopped -> Stopped
        Stopped + Started -> Runs
        otherwise: nothing changes
        ");
    }

    #[test]
    fn a_port_that_does_not_start_is_started_again_until_it_runs() {
        let mut p = model(4);
        let said = run(&mut p, 60);
        assert_eq!(p.starts, [0, 1, 3, 7, 15]);
        assert!(p.runs);
        let [(0, Said::Fails(why)), (15, Said::Runs(again))] = &said[..] else { panic!("{said:?}") };
        assert!(why.contains("no such device") && why.contains("tried again"), "{why}");
        assert_eq!(again, "port p0: it runs again after 15 s, started 4 times");
    }

    #[test]
    fn one_that_never_starts_is_tried_each_ten_seconds_and_told_of_once_a_minute() {
        let mut p = model(u32::MAX);
        let said = run(&mut p, 200);
        assert!(p.starts.windows(2).skip(4).all(|w| w[1] - w[0] == 10), "{:?}", p.starts);
        let told: Vec<u64> = said.iter().map(|(at, _)| *at).collect();
        assert!(told.len() == 4 && told.windows(2).all(|w| w[1] - w[0] >= 60), "{told:?}");
    }

    #[test]
    fn one_that_starts_at_once_is_not_spoken_of_and_one_that_is_given_up_is_left_alone() {
        assert_eq!(run(&mut model(0), 5), []);
        let mut p = model(1);
        p.away = true;
        let said = run(&mut p, 30);
        assert_eq!((said.len(), &p.starts[..]), (1, &[0][..]), "{said:?}");
    }

    /// Made anew by somebody else, it is told of as well.
    #[test]
    fn one_that_runs_by_itself_is_seen() {
        let start = Instant::now();
        let (mut s, mut p) = (Starts::new(start), model(u32::MAX));
        assert!(matches!(s.restart(&mut p, start), Some(Said::Fails(_))) && !s.runs());
        p.runs = true;
        let said = s.look(&mut p, start + Duration::from_millis(100));
        assert!(matches!(said, Some(Said::Runs(_))) && s.runs(), "{said:?}");
    }
}
