//! `pollnd bench connections`: what a packet costs with few and with many connections, and what idle ones cost.
//!
//! Two stacks and the in-memory link on one thread. Small messages go to connections drawn at random, ten in a
//! round, each answered by a smaller one; told is the CPU time of a packet, sending and receiving it. Then nothing
//! is sent, and told is the CPU time of a turn that finds nothing. Every round measures every row once, so that a
//! slow minute of the machine meets all of them; told are medians over the rounds, and medians of the ratios to the
//! first row within a round. [`crate::embryos`] does as much for whole nodes and what they time.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use dataplane::fault::Rng;
use dataplane::mem::{Crossing, MemConfig, MemPort, pair};
use hugepages::{LendSlab, PageRun, PageRunMut, PrivatePages};
use serde::Serialize;
use tcpstack::{Dial, Event, FlowId, Listen, Stack, StackConfig};

use crate::embryos::{self, TurnRow};
use crate::measure::thread_cpu;
use crate::repeat::median;
use crate::report::{RanOn, many};
use crate::tcp::load;

/// Payload of a message, in bytes, after a header of 96.
pub const MESSAGE: usize = 1024;
const HEADER: usize = 96;
/// The answer, in bytes.
pub const REPLY: usize = 64;
/// Messages in a round.
const WAVE: usize = 10;
/// From one turn to the next, in ns.
const TURN_NS: u64 = 1_000;
const PATIENCE: u32 = 100_000;
/// Connections opened at a time.
const BATCH: usize = 64;
const FIRST_PORT: u16 = 1024;
/// Most connections: one address dials one port.
pub const MOST: u32 = 60_000;

const ADDR: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 79, 0, 1), Ipv4Addr::new(10, 79, 0, 2)];

/// Two stacks with connections between them.
struct Crowd {
    a: Stack<MemPort>,
    b: Stack<MemPort>,
    flows: Vec<FlowId>,
    page: PageRun,
    rng: Rng,
    now: u64,
    answered: u64,
    /// Bytes of unfinished messages that have come, by the connection's slot.
    heard: Vec<usize>,
}

impl Crowd {
    fn new(connections: u32) -> Result<Crowd, String> {
        let mem = MemConfig { tso_max: 0, crossing: Crossing::Share, ..MemConfig::default() };
        let (a, b) = pair(&mem);
        let stack = |n: usize, port| {
            let mut config = StackConfig::new(ADDR[n], 24);
            config.secret = Some([n as u64 + 1, 0x636f_6e6e]);
            Stack::new(config, port, LendSlab::new(1024)).map_err(|e| e.to_string())
        };
        let page = PageRunMut::new(Arc::new(PrivatePages), MESSAGE).map_err(|e| e.to_string())?.freeze();
        let (mut a, mut b) = (stack(0, a)?, stack(1, b)?);
        b.listen(Listen { addr: IpAddr::V4(ADDR[1]), port: 988, backlog: 4096 })
            .map_err(|e| e.to_string())?;
        a.turn(1);
        let mut c =
            Crowd { a, b, flows: Vec::new(), page, rng: Rng::new(7), now: 1, answered: 0, heard: Vec::new() };
        while c.flows.len() < connections as usize {
            c.open(BATCH.min(connections as usize - c.flows.len()))?;
        }
        Ok(c)
    }

    fn open(&mut self, n: usize) -> Result<(), String> {
        let goal = self.flows.len() + n;
        for i in self.flows.len()..goal {
            let local = (ADDR[0], FIRST_PORT + i as u16).into();
            self.a
                .dial(self.now, Dial { local, remote: (ADDR[1], 988).into() })
                .map_err(|e| e.to_string())?;
        }
        for _ in 0..PATIENCE {
            self.turn()?;
            if self.flows.len() == goal {
                return Ok(());
            }
        }
        Err(format!("{} of {goal} connections opened", self.flows.len()))
    }

    fn turn(&mut self) -> Result<(), String> {
        self.now += TURN_NS;
        self.a.turn(self.now);
        while let Some(e) = self.a.event() {
            match e {
                Event::Opened { flow, .. } => self.flows.push(flow),
                Event::Readable(f) => self.answered += u64::from(read(&mut self.a, f)),
                Event::Closed { why, .. } => return Err(format!("a connection ended: {why:?}")),
                _ => (),
            }
        }
        self.a.slab().reap(|_, _| ());
        self.b.poll(self.now);
        while let Some(e) = self.b.event() {
            if let Event::Readable(f) = e {
                // One event may stand for several messages, or for a part of one.
                let slot = f.slot() as usize;
                if slot >= self.heard.len() {
                    self.heard.resize(slot + 1, 0);
                }
                self.heard[slot] += read(&mut self.b, f) as usize;
                while self.heard[slot] >= HEADER + MESSAGE {
                    self.heard[slot] -= HEADER + MESSAGE;
                    self.b.push(f, &[7; REPLY], &[]).map_err(|e| e.to_string())?;
                }
            }
        }
        self.b.flush(self.now);
        Ok(())
    }

    /// Sends to `WAVE` of the first `active` connections and waits for the answers.
    fn wave(&mut self, active: usize) -> Result<(), String> {
        let from = self.answered;
        let start = self.rng.below(active as u64) as usize;
        // A step that visits all of them, far apart.
        let step = if active > WAVE { active / WAVE } else { 1 };
        for i in 0..WAVE {
            let f = self.flows[(start + i * step) % active];
            let l = self.a.slab().lend(self.page.slice_all(), 0).map_err(|e| e.to_string())?;
            self.a.push(f, &[1; HEADER], &[l]).map_err(|e| e.to_string())?;
        }
        for _ in 0..PATIENCE {
            self.turn()?;
            if self.answered - from >= (WAVE * REPLY) as u64 {
                return Ok(());
            }
        }
        Err("an answer did not come".into())
    }

    fn packets(&self) -> u64 {
        self.a.counters().rx_segments + self.b.counters().rx_segments
    }

    /// Nanoseconds of CPU time a packet.
    fn busy(&mut self, active: usize, time: Duration) -> Result<f64, String> {
        self.run(active, time / 4)?;
        let (cpu, before) = (thread_cpu(), self.packets());
        self.run(active, time)?;
        Ok((thread_cpu() - cpu).as_nanos() as f64 / (self.packets() - before) as f64)
    }

    fn run(&mut self, active: usize, time: Duration) -> Result<(), String> {
        let until = thread_cpu() + time;
        while thread_cpu() < until {
            for _ in 0..64 {
                self.wave(active)?;
            }
        }
        Ok(())
    }

    /// Nanoseconds of CPU time of a turn that finds nothing, one stack's.
    fn idle(&mut self, time: Duration) -> Result<f64, String> {
        // Packets on their way, and delayed ACKs, come to rest.
        for _ in 0..1000 {
            self.turn()?;
        }
        let (from, mut n) = (thread_cpu(), 0u64);
        while thread_cpu() < from + time {
            for _ in 0..1024 {
                self.now += TURN_NS / 10;
                self.a.turn(self.now);
            }
            n += 1024;
        }
        Ok((thread_cpu() - from).as_nanos() as f64 / n as f64)
    }
}

fn read(s: &mut Stack<MemPort>, f: FlowId) -> u32 {
    let mut n = 0;
    while let Some(x) = s.next(f) {
        n += x.len();
    }
    s.credit(f, n);
    n
}

/// A number of connections, and what was measured with them.
#[derive(Clone, Debug, Serialize)]
pub struct ConnRow {
    /// Established connections.
    pub connections: u32,
    /// Those with traffic.
    pub active: u32,
    /// CPU time of a packet, sent and received, in ns: median, lowest, highest.
    pub packet_ns: [f64; 3],
    /// The same as a multiple of the first row's in the same round: median.
    pub packet_ratio: f64,
    /// CPU time of a turn that finds nothing, in ns: median.
    pub idle_turn_ns: f64,
    /// The same as a multiple of the first row's in the same round: median.
    pub idle_ratio: f64,
}

/// All rows.
#[derive(Clone, Debug, Serialize)]
pub struct Connections {
    /// Rounds.
    pub rounds: u32,
    /// In order.
    pub rows: Vec<ConnRow>,
    /// Of a node: what a turn costs with idle peers, and with handshakes that do not end.
    pub turns: Vec<TurnRow>,
    /// Load average of the machine over a minute, before and after.
    pub load: [f64; 2],
    /// The machine.
    pub ran_on: RanOn,
}

/// Measures with each number of connections: traffic on all, and on as many as the first number; and a node's turns with
/// each pair of idle peers and embryonic connections. `seconds` is the CPU time of a figure in a round.
///
/// # Errors
/// A number out of range, or connections that did not open.
pub fn measure(
    numbers: &[u32],
    turns: &[(u32, u32)],
    rounds: u32,
    seconds: f64,
    each: &mut dyn FnMut(u32),
) -> Result<Connections, String> {
    let few = *numbers.first().ok_or("no number of connections")?;
    if few < WAVE as u32 || numbers.iter().any(|n| *n < few || *n > MOST) {
        return Err(format!("{numbers:?} connections: from {WAVE} to {MOST}, the fewest first"));
    }
    let turns = embryos::measure(turns, rounds, embryos::ROUND, each)?;
    let mut crowds = numbers.iter().map(|n| Crowd::new(*n)).collect::<Result<Vec<_>, _>>()?;
    let mut cases: Vec<(usize, u32)> =
        numbers.iter().enumerate().flat_map(|(i, n)| [(i, *n), (i, few)]).collect();
    cases.dedup();
    let (time, before) = (Duration::from_secs_f64(seconds), load());
    let mut figures = vec![Vec::new(); cases.len()];
    for r in 0..rounds {
        each(r);
        for (row, (i, active)) in figures.iter_mut().zip(&cases) {
            let c = &mut crowds[*i];
            row.push((c.busy(*active as usize, time)?, c.idle(time / 4)?));
        }
    }
    let rows = cases.iter().zip(&figures).map(|((i, active), f)| {
        let of = |pick: fn(&(f64, f64)) -> f64| f.iter().map(pick).collect::<Vec<f64>>();
        let (packet, idle) = (of(|x| x.0), of(|x| x.1));
        let to = |pick: fn(&(f64, f64)) -> f64| {
            let v: Vec<f64> = f.iter().zip(&figures[0]).map(|(x, base)| pick(x) / pick(base)).collect();
            median(&v)
        };
        let low = packet.iter().copied().fold(f64::INFINITY, f64::min);
        let high = packet.iter().copied().fold(0.0, f64::max);
        ConnRow {
            connections: numbers[*i],
            active: *active,
            packet_ns: [median(&packet), low, high],
            packet_ratio: to(|x| x.0),
            idle_turn_ns: median(&idle),
            idle_ratio: to(|x| x.1),
        }
    });
    let ran_on = RanOn { link: "in memory, both ends on one thread".into(), ..RanOn::look() };
    Ok(Connections { rounds, rows: rows.collect(), turns, load: [before, load()], ran_on })
}

impl Connections {
    /// The table.
    pub fn table(&self) -> String {
        let mut t = String::from(
            "\n  connections   with traffic   ns a packet (low - high)    to the first row   ns an idle turn   to the first row\n",
        );
        for r in &self.rows {
            let [mid, low, high] = r.packet_ns;
            t += &format!(
                "  {:>11} {:>14} {mid:>10.0} ({low:>6.0} - {high:>6.0}) {:>17.2} {:>17.1} {:>18.2}\n",
                r.connections, r.active, r.packet_ratio, r.idle_turn_ns, r.idle_ratio
            );
        }
        t += &embryos::table(&self.turns);
        t + &format!(
            "  medians of {}; load {:.1} before, {:.1} after; {} ({} cores)\n",
            many(self.rounds.into(), "round"),
            self.load[0],
            self.load[1],
            self.ran_on.cpu,
            self.ran_on.cores
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_answered_whatever_the_number() {
        let c = measure(&[10, 200], &[], 1, 0.001, &mut |_| ()).unwrap();
        let rows: Vec<_> = c.rows.iter().map(|r| (r.connections, r.active)).collect();
        assert_eq!(rows, [(10, 10), (200, 200), (200, 10)]);
        assert!(c.rows.iter().all(|r| r.packet_ns[0] > 0.0 && r.idle_turn_ns > 0.0), "{c:?}");
        assert!(measure(&[5], &[], 1, 0.001, &mut |_| ()).is_err());
    }
}
