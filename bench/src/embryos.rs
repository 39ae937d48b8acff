//! Cost of a turn to a node that has idle peers, while others dial it and do not finish their handshakes.
//!
//! Idle peers are done with their HELLOs and say nothing more. Embryonic connections have been accepted, one after the
//! other, and say nothing at all, so that each reaches its deadline at a time of its own; whoever is thrown out dials
//! again. Time is virtual, a turn is a microsecond, and nothing else happens: told is the time of a turn, and of a turn
//! in which a handshake's time is over.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dataplane::mem::{MemConfig, MemPort, pair};
use serde::Serialize;
use tcpstack::{Dial, Event, Stack};
use transport::node::lcore::LcoreStreams;
use transport::node::{NoApp, Shard};
use transport::wire::ConnType;

use crate::inmem::{CLIENT, SERVER, TURN_NS, Time, node_with, stack};
use crate::measure::thread_cpu;
use crate::memory::{FIRST_PORT, opening};
use crate::repeat::median;

/// Idle peers, and embryonic connections beside them. The first row is what the others are compared with.
pub const ROWS: [(u32, u32); 4] = [(10, 10), (10_000, 10), (10, 1_000), (10_000, 1_000)];
/// Peers that open at a time.
const BATCH: u32 = 60;
/// Turns between two of the dialling side's, whose work is no part of the figure.
const BLOCK: u64 = 100;
const PATIENCE: u32 = 100_000;
/// Turns of a round, each a microsecond: two seconds.
pub const ROUND: u64 = 2_000_000_000 / TURN_NS;

/// A row.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TurnRow {
    /// Peers with a connection over which nothing goes.
    pub idle_peers: u32,
    /// Connections whose HELLO does not come.
    pub embryonic: u32,
    /// CPU time of a turn, in ns: median of the rounds.
    pub turn_ns: f64,
    /// The same as a multiple of the first row's in the same round: median.
    pub turn_ratio: f64,
    /// Time of a turn in which a handshake was given up, in ns: median.
    pub timeout_turn_ns: f64,
    /// The same as a multiple of the first row's.
    pub timeout_turn_ratio: f64,
    /// Number of such turns.
    pub timeouts: usize,
}

struct Embryos {
    node: Shard<LcoreStreams<MemPort>, NoApp>,
    peers: Stack<MemPort>,
    time: Time,
    port: u32,
    /// The next peer's number.
    next: u32,
    /// Bytes to send on a connection once it is open, by slot of the flow.
    says: Vec<Option<u32>>,
    gone: u32,
    /// Times of the turns in which a handshake was given up, in ns.
    given_up: Vec<f64>,
}

impl Embryos {
    fn new(idle: u32, embryonic: u32) -> Result<Embryos, String> {
        let (a, b) = pair(&MemConfig::default());
        let time = Time::new();
        // All are dialled from one address, which has half of the places.
        let places = embryonic as usize * 4;
        let node = node_with(SERVER, b, &time, NoApp, |c| c.max_embryonic = c.max_embryonic.max(places))?;
        let mut e = Embryos {
            node,
            peers: stack(CLIENT, a)?,
            time,
            port: FIRST_PORT,
            next: 0,
            says: Vec::new(),
            gone: 0,
            given_up: Vec::new(),
        };
        while e.next < idle {
            let goal = idle.min(e.next + BATCH);
            while e.next < goal {
                e.next += 1;
                e.dial(Some(e.next))?;
            }
            e.until(|e| e.node.machine.gauges().conns_up == goal as usize)?;
        }
        // One after the other, over as long as one of them is borne.
        let apart = e.node.machine.config().accept_timeout / u64::from(embryonic);
        for n in 0..embryonic {
            e.dial(None)?;
            e.until(|e| e.node.machine.gauges().conns == (idle + n + 1) as usize)?;
            e.time.skip(apart);
        }
        Ok(e)
    }

    fn dial(&mut self, says: Option<u32>) -> Result<(), String> {
        let port = u16::try_from(self.port).map_err(|_| "no port is left to dial from".to_owned())?;
        self.port += 1;
        let d = Dial { local: SocketAddr::from((CLIENT, port)), remote: SocketAddr::from((SERVER, 988)) };
        let slot = self.peers.dial(self.time.step(), d).map_err(|e| e.to_string())?.slot() as usize;
        if self.says.len() <= slot {
            self.says.resize(slot + 1, None);
        }
        self.says[slot] = says;
        Ok(())
    }

    /// One turn of the dialling side.
    fn dialler(&mut self) -> Result<(), String> {
        self.peers.turn(self.time.step());
        while let Some(e) = self.peers.event() {
            match e {
                Event::Opened { flow, .. } => {
                    if let Some(peer) = self.says[flow.slot() as usize] {
                        let opening = opening(peer, ConnType::Control);
                        self.peers.push(flow, &opening, &[]).map_err(|e| e.to_string())?;
                    }
                }
                Event::Readable(flow) => {
                    while let Some(f) = self.peers.next(flow) {
                        self.peers.credit(flow, f.len());
                    }
                }
                Event::Closed { flow, why } => {
                    if let Some(peer) = self.says[flow.slot() as usize] {
                        return Err(format!("the connection of peer {peer} was closed: {why:?}"));
                    }
                    self.gone += 1;
                }
                Event::Progress { .. } | Event::PeerFin(_) | Event::Ended(_) => {}
            }
        }
        for _ in 0..std::mem::take(&mut self.gone) {
            self.dial(None)?;
        }
        Ok(())
    }

    fn until(&mut self, done: impl Fn(&Embryos) -> bool) -> Result<(), String> {
        for _ in 0..PATIENCE {
            if done(self) {
                return Ok(());
            }
            self.dialler()?;
            self.node.turn();
        }
        Err(format!("{} of {} peers are connected", self.node.machine.gauges().conns_up, self.next))
    }

    /// So many turns of the node, in blocks; gives the CPU time of one, in ns.
    fn turns(&mut self, n: u64) -> Result<f64, String> {
        let (mut cpu, mut done) = (Duration::ZERO, 0);
        let mut timeouts = self.node.machine.counters().err_hello_timeout;
        while done < n.max(1) {
            let from = thread_cpu();
            for _ in 0..BLOCK {
                let now = self.time.step();
                // Two looks at the clock cost a part of an idle turn: only where something may end.
                let timed = self.node.machine.deadline().is_some_and(|t| t <= now).then(Instant::now);
                self.node.turn();
                let so_far = self.node.machine.counters().err_hello_timeout;
                if let Some(from) = timed
                    && so_far > timeouts
                {
                    timeouts = so_far;
                    self.given_up.push(from.elapsed().as_nanos() as f64);
                }
            }
            cpu += thread_cpu().saturating_sub(from);
            done += BLOCK;
            self.dialler()?;
        }
        Ok(cpu.as_nanos() as f64 / done as f64)
    }
}

/// Measures all rows in every round, for so many turns. `each` hears which round it is.
///
/// # Errors
/// Connections that did not open, or that closed.
pub fn measure(
    rows: &[(u32, u32)],
    rounds: u32,
    turns: u64,
    each: &mut dyn FnMut(u32),
) -> Result<Vec<TurnRow>, String> {
    let mut all = rows.iter().map(|(i, e)| Embryos::new(*i, *e)).collect::<Result<Vec<_>, _>>()?;
    all.iter_mut().for_each(|e| e.given_up.clear());
    let mut figures = vec![Vec::new(); rows.len()];
    for r in 0..rounds {
        each(r);
        for (f, e) in figures.iter_mut().zip(&mut all) {
            f.push(e.turns(turns)?);
        }
    }
    let given_up: Vec<f64> = all.iter().map(|e| median(&e.given_up)).collect();
    let row = |(i, f): (usize, &Vec<f64>)| {
        let ratios: Vec<f64> = f.iter().zip(&figures[0]).map(|(x, base)| x / base).collect();
        TurnRow {
            idle_peers: rows[i].0,
            embryonic: rows[i].1,
            turn_ns: median(f),
            turn_ratio: median(&ratios),
            timeout_turn_ns: given_up[i],
            timeout_turn_ratio: given_up[i] / given_up[0],
            timeouts: all[i].given_up.len(),
        }
    };
    Ok(figures.iter().enumerate().map(row).collect())
}

/// The table.
pub fn table(rows: &[TurnRow]) -> String {
    let mut t = String::from(
        "\n  idle peers   handshakes that end by their deadline   ns a turn   to the first row   ns a turn with such an end   to the first row\n",
    );
    for r in rows {
        t += &format!(
            "  {:>10} {:>39} {:>11.1} {:>18.2} {:>28.0} {:>18.2}\n",
            r.idle_peers, r.embryonic, r.turn_ns, r.turn_ratio, r.timeout_turn_ns, r.timeout_turn_ratio
        );
    }
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_end_and_come_again_while_idle_peers_stay() {
        let rows = measure(&[(2, 200), (130, 400)], 1, 200_000, &mut |_| ()).unwrap();
        // A fifth of a second of five: one in 25 of them.
        let ended: Vec<usize> = rows.iter().map(|r| r.timeouts).collect();
        assert!((7..=9).contains(&ended[0]) && (15..=17).contains(&ended[1]), "{ended:?}");
        assert!(rows.iter().all(|r| r.turn_ns > 0.0 && r.timeout_turn_ns > 0.0), "{rows:?}");
        assert!(table(&rows).lines().count() == 4);
    }
}
