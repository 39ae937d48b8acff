//! Hosts, time, and the judgement at the end.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use dataplane::fault::Rng;
use dataplane::link::{LinkCounters, LinkPort, Path, join};
use dataplane::pkt::Port;
use hugepages::LendSlab;

use super::app::{End, Tokens};
use super::oracle::{Oracle, Resends, line};
use super::scenario::{Conn, MS, Pause, SEC, Scenario, Stop};
use crate::{CloseWhy, Counters, Dial, Event, FlowId, Listen, Stack, Work};

/// Where runs start: "an age ago" is after 0, too.
const START: u64 = SEC;
const PORT: u16 = 988;
const FIRST_LOCAL: u16 = 10_000;
/// Turns after which a run spins.
const STEPS_MAX: u64 = 200_000_000;

/// Outcome of a run. Of each host, in order.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Payload bytes received.
    pub received: Vec<u64>,
    /// Payload received while it was measured, in bit/s: from `warm` to `at`, or from the first connection's
    /// opening to the last byte.
    pub goodput: Vec<f64>,
    /// Counts of the stacks.
    pub stacks: Vec<Counters>,
    /// Retransmissions.
    pub resends: Vec<Resends>,
    /// Faults of the network to frames towards the host.
    pub links: Vec<LinkCounters>,
    /// Virtual time from the start to the last connection's end, in ns.
    pub took: u64,
    /// Turns of the hosts.
    pub turns: u64,
}

impl Outcome {
    /// A count of host `i` by its name; 0 where there is none such.
    pub fn count(&self, i: usize, name: &str) -> u64 {
        let mut n = 0;
        if let Some(c) = self.stacks.get(i) {
            c.each(|k, v| n += if k == name { v } else { 0 });
        }
        n
    }

    /// Of the host's frames with payload, the part that was sent again without need.
    pub fn needless(&self, i: usize) -> f64 {
        let r = self.resends.get(i).copied().unwrap_or_default();
        r.needless as f64 / r.segments.max(1) as f64
    }
}

struct Host {
    stack: Stack<LinkPort>,
    ends: Vec<End>,
    flows: HashMap<FlowId, usize>,
    /// Connection number -> index in `ends`.
    conns: HashMap<usize, usize>,
    /// Connections dialled, by number, and those to be dialled once more.
    dialled: HashMap<FlowId, usize>,
    redial: Vec<usize>,
    tokens: Tokens,
    busy: bool,
    asleep_until: u64,
    next_pause: u64,
    pause: Option<Pause>,
    rng: Rng,
}

impl Host {
    fn awake(&mut self, now: u64) -> bool {
        if now < self.asleep_until {
            return false;
        }
        if let Some(p) = self.pause
            && now >= self.next_pause
        {
            self.asleep_until = now + 1 + self.rng.below(p.most);
            self.next_pause = self.asleep_until + 1 + self.rng.below(2 * p.every);
            // Timers that were due meanwhile are looked at then.
            self.busy = true;
            return false;
        }
        self.busy
            || self.stack.port().ready()
            || self.stack.deadline().is_some_and(|t| t <= now)
            || self.ends.iter().any(|e| e.next_time(now).is_some_and(|t| t <= now))
    }

    fn next_time(&self, now: u64, turn: u64) -> Option<u64> {
        if now < self.asleep_until {
            return Some(self.asleep_until);
        }
        if self.busy {
            return Some(now + turn);
        }
        let app = self.ends.iter().filter_map(|e| e.next_time(now)).min();
        [self.stack.deadline(), self.stack.port().deadline(), app].into_iter().flatten().min()
    }

    fn turn(&mut self, now: u64) -> Result<(), String> {
        let a = self.stack.poll(now);
        self.hear(now)?;
        let mut did = false;
        for e in &mut self.ends {
            did |= e.serve(&mut self.stack, &mut self.tokens, now)?;
        }
        self.reap()?;
        let b = self.stack.flush(now);
        // A frame sent late may have closed a connection.
        self.hear(now)?;
        self.busy = did || a != Work::Idle || b != Work::Idle;
        Ok(())
    }

    fn hear(&mut self, now: u64) -> Result<(), String> {
        while let Some(e) = self.stack.event() {
            match e {
                Event::Opened { flow, local, remote, passive } => {
                    let port = if passive { remote.port() } else { local.port() };
                    let conn = usize::from(port.wrapping_sub(FIRST_LOCAL));
                    let i = *self.conns.get(&conn).ok_or_else(|| format!("a stranger's port {port}"))?;
                    let end = &mut self.ends[i];
                    if end.opened.replace(now).is_some() {
                        return Err(format!("connection {conn} opened twice"));
                    }
                    end.flow = Some(flow);
                    self.flows.insert(flow, i);
                }
                Event::Readable(_) => (),
                Event::Progress { flow, acked, sent } => {
                    let Some(end) = self.flows.get(&flow).map(|i| &mut self.ends[*i]) else { continue };
                    if acked > sent || sent > end.pushed || acked < end.acked {
                        return Err(format!("acknowledged {acked}, sent {sent} of {}", end.pushed));
                    }
                    end.acked = acked;
                    end.full = false;
                }
                Event::PeerFin(flow) => {
                    if let Some(i) = self.flows.get(&flow) {
                        self.ends[*i].peer_fin = true;
                    }
                }
                // A reader here reads all there is.
                Event::Ended(_) => {}
                Event::Closed { flow, why } => {
                    let Some(i) = self.flows.remove(&flow) else {
                        if why == CloseWhy::Unresolved
                            && let Some(conn) = self.dialled.remove(&flow)
                        {
                            // Every question for the neighbour was lost: an application tries again.
                            self.redial.push(conn);
                            continue;
                        }
                        return Err(format!("a connection that never opened ended: {why:?}"));
                    };
                    let end = &mut self.ends[i];
                    end.flow = None;
                    if why != CloseWhy::Fin || end.closed.replace(why).is_some() {
                        return Err(format!("a connection ended with {why:?} after {} bytes", end.got));
                    }
                }
            }
        }
        Ok(())
    }

    fn reap(&mut self) -> Result<(), String> {
        let mut twice = None;
        let out = &mut self.tokens.out;
        self.stack.slab().reap(|t, _| {
            if !out.remove(&t) {
                twice = Some(t);
            }
        });
        twice.map_or(Ok(()), |t| Err(format!("lending {t} let go twice")))
    }

    fn got(&self) -> u64 {
        self.ends.iter().map(|e| e.got).sum()
    }
}

struct World<'a> {
    s: &'a Scenario,
    clock: Rc<Cell<u64>>,
    hosts: Vec<Host>,
    oracle: Rc<RefCell<Oracle>>,
    /// Connections not yet dialled, the next one last.
    later: Vec<(u64, usize, Conn)>,
    turns: u64,
}

/// Plays a scenario.
///
/// # Errors
/// The fault of a run, when it happened, and the counters then. The seed is in the text.
pub fn run(s: &Scenario) -> Result<Outcome, String> {
    let mut w = World::new(s)?;
    let r = w.play();
    r.map_err(|e| {
        let mut t = format!("seed {} at {} ns: {e}", s.seed, w.now());
        for (i, h) in w.hosts.iter().enumerate() {
            let ends: Vec<_> = h.ends.iter().map(|e| (e.pushed, e.acked, e.got, e.closed)).collect();
            t += &format!("\nhost {i} (pushed, acknowledged, got, closed) {ends:?}\n  ");
            h.stack.counters().each(|k, v| {
                if v > 0 {
                    t += &format!("{k} {v} ");
                }
            });
            t += &format!("\n  {:?}", h.stack.port().link_counters());
        }
        t
    })
}

impl World<'_> {
    fn new(s: &Scenario) -> Result<World<'_>, String> {
        let clock = Rc::new(Cell::new(START));
        let mut ports = join(&shifted(s), s.seed, &clock);
        let oracle = Rc::new(RefCell::new(Oracle::default()));
        if let Some(p) = ports.first_mut() {
            let t = oracle.clone();
            let trace = std::env::var_os("TRACE").is_some();
            p.observe(Box::new(move |seen| {
                t.borrow_mut().see(seen);
                if trace {
                    println!("{}", line(seen));
                }
            }));
        }
        let mut hosts = Vec::new();
        for (i, port) in ports.into_iter().enumerate() {
            let cfg = s.stacks.get(i).ok_or("a path without a stack")?.clone();
            let addrs = cfg.addrs.clone();
            let mut stack = Stack::new(cfg, port, LendSlab::new(8192)).map_err(|e| e.to_string())?;
            for (addr, _) in addrs {
                stack.listen(Listen { addr, port: PORT, backlog: 4096 }).map_err(|e| e.to_string())?;
            }
            let mut rng = Rng::new(s.seed.wrapping_mul(31) + i as u64);
            let pause = s.pauses.get(i).copied().flatten();
            hosts.push(Host {
                stack,
                ends: Vec::new(),
                flows: HashMap::new(),
                conns: HashMap::new(),
                dialled: HashMap::new(),
                redial: Vec::new(),
                tokens: Tokens::new(),
                busy: true,
                asleep_until: 0,
                next_pause: pause.map_or(u64::MAX, |p| START + rng.below(2 * p.every)),
                pause,
                rng,
            });
        }
        let mut later: Vec<_> =
            s.conns.iter().enumerate().map(|(k, c)| (START + c.at, k, c.clone())).collect();
        later.sort_by_key(|x| std::cmp::Reverse((x.0, x.1)));
        for (k, c) in s.conns.iter().enumerate() {
            for (side, i) in [c.from, c.to].into_iter().enumerate() {
                let h = hosts.get_mut(i).ok_or("a connection without a host")?;
                h.conns.insert(k, h.ends.len());
                h.ends.push(End::new(side, k as u64, c.writers[side], c.readers[side], s.seed));
            }
        }
        Ok(World { s, clock, hosts, oracle, later, turns: 0 })
    }

    fn now(&self) -> u64 {
        self.clock.get()
    }

    fn dial(&mut self) -> Result<(), String> {
        let now = self.now();
        for k in self.hosts.iter_mut().flat_map(|h| std::mem::take(&mut h.redial)) {
            self.later.push((now, k, self.s.conns[k].clone()));
        }
        while self.later.last().is_some_and(|x| x.0 <= now) {
            let Some((_, k, c)) = self.later.pop() else { break };
            let addr = |i: usize| self.s.stacks[i].addrs.get(usize::from(c.v6)).map(|a| a.0);
            let (Some(from), Some(to)) = (addr(c.from), addr(c.to)) else {
                return Err("a connection between hosts without addresses".into());
            };
            let (local, remote) = ((from, FIRST_LOCAL + k as u16).into(), (to, PORT).into());
            let h = &mut self.hosts[c.from];
            let flow = h.stack.dial(now, Dial { local, remote }).map_err(|e| e.to_string())?;
            h.dialled.insert(flow, k);
            h.busy = true;
        }
        Ok(())
    }

    /// One step: everybody who has something to do now, then the clock. `false` when nothing will ever happen
    /// before `until`; the clock is there then.
    fn step(&mut self, until: u64) -> Result<bool, String> {
        self.dial()?;
        let now = self.now();
        for h in &mut self.hosts {
            if h.awake(now) {
                self.turns += 1;
                h.turn(now)?;
            }
        }
        if self.turns > STEPS_MAX {
            return Err("the stacks do not come to rest".into());
        }
        let dial = self.later.last().map(|x| x.0);
        let next = self.hosts.iter().filter_map(|h| h.next_time(now, self.s.turn)).chain(dial).min();
        let next = next.map_or(u64::MAX, |t| t.max(now + self.s.turn));
        self.clock.set(next.min(until));
        Ok(next <= until)
    }

    fn run_to(&mut self, until: u64) -> Result<(), String> {
        while self.now() < until {
            self.step(until)?;
        }
        Ok(())
    }

    fn play(&mut self) -> Result<Outcome, String> {
        let (mut measured, mut span) = (vec![], 1);
        let mut limit = START + self.s.limit;
        match self.s.stop {
            Stop::Done(max) => limit = limit.min(START + max),
            Stop::At { warm, at } => {
                self.run_to(START + warm)?;
                let before: Vec<u64> = self.hosts.iter().map(Host::got).collect();
                self.run_to(START + at)?;
                measured = self.hosts.iter().zip(before).map(|(h, b)| h.got() - b).collect();
                span = at - warm;
                self.hosts.iter_mut().flat_map(|h| &mut h.ends).for_each(End::stop);
                self.hosts.iter_mut().for_each(|h| h.busy = true);
            }
        }
        while !self.later.is_empty() || self.hosts.iter().flat_map(|h| &h.ends).any(|e| e.closed.is_none()) {
            if self.now() >= limit {
                return Err("not done in time".into());
            }
            if !self.step(limit)? && self.now() >= limit {
                return Err("nothing will ever happen again".into());
            }
        }
        let took = self.now() - START;
        if measured.is_empty() {
            let ends = || self.hosts.iter().flat_map(|h| &h.ends);
            let first = ends().filter_map(|e| e.opened).min().unwrap_or(START);
            span = ends().map(|e| e.last_got).max().unwrap_or(first).saturating_sub(first).max(1);
            measured = self.hosts.iter().map(Host::got).collect();
        }
        self.compare()?;
        self.come_home()?;
        let oracle = self.oracle.borrow();
        Ok(Outcome {
            received: self.hosts.iter().map(Host::got).collect(),
            goodput: measured.iter().map(|b| *b as f64 * 8e9 / span as f64).collect(),
            stacks: self.hosts.iter().map(|h| h.stack.counters()).collect(),
            resends: (0..self.hosts.len()).map(|i| oracle.of(i)).collect(),
            links: self.hosts.iter().map(|h| h.stack.port().link_counters()).collect(),
            took,
            turns: self.turns,
        })
    }

    /// Everything that one end sent was received by the other.
    fn compare(&self) -> Result<(), String> {
        for (k, c) in self.s.conns.iter().enumerate() {
            let end = |i: usize| self.hosts[i].conns.get(&k).map(|e| &self.hosts[i].ends[*e]);
            if let (Some(a), Some(b)) = (end(c.from), end(c.to))
                && (a.pushed, b.pushed) != (b.got, a.got)
            {
                return Err(format!(
                    "connection {k}: {} and {} bytes sent, {} and {} received",
                    a.pushed, b.pushed, b.got, a.got
                ));
            }
        }
        Ok(())
    }

    /// After the last connection nothing is left anywhere.
    fn come_home(&mut self) -> Result<(), String> {
        for h in &mut self.hosts {
            h.pause = None;
            h.asleep_until = 0;
            h.ends.iter_mut().for_each(End::relax);
        }
        for i in 0..self.hosts.len() {
            for j in 0..self.hosts.len() {
                self.hosts[i].stack.port_mut().set_path(j, Path::default().delay(MS));
            }
        }
        let wait = self.s.stacks.iter().map(|c| c.time_wait).max().unwrap_or(0);
        let until = self.now() + wait + 10 * SEC;
        self.run_to(until)?;
        // Lazy drivers free on later bursts.
        for _ in 0..12 {
            self.hosts.iter_mut().for_each(|h| h.stack.nudge());
            let until = self.now() + 2 * MS;
            self.run_to(until)?;
        }
        for (i, h) in self.hosts.iter_mut().enumerate() {
            h.turn(self.clock.get())?;
            let c = h.stack.counters();
            let (free, all) = h.stack.port().rx_memory();
            let left = [
                ("bytes that smoltcp sent again", c.smoltcp_resent),
                ("times that smoltcp disagreed", c.desync),
                ("connections", u64::from(h.stack.flows())),
                ("TIME-WAIT entries", h.stack.time_waits() as u64),
                ("bytes of receive buffers out", all - free),
                ("bytes of small buffers out", h.stack.small_memory().0),
                ("lendings out", h.tokens.out.len() as u64),
                ("packets that a device would refuse", h.stack.port().counters().tx_dropped),
            ];
            if let Some((what, n)) = left.iter().find(|x| x.1 != 0) {
                return Err(format!("host {i}: {n} {what}"));
            }
        }
        Ok(())
    }
}

/// The network's times, counted from the start of the run.
fn shifted(s: &Scenario) -> dataplane::link::LinkConfig {
    let mut link = s.link.clone();
    for p in &mut link.paths {
        p.mtu.iter_mut().for_each(|m| m.0 += START);
        p.down.iter_mut().for_each(|d| *d = (d.0 + START, d.1 + START));
    }
    link
}
