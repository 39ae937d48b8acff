//! Cost to a node of many peers that dial it at the same time.
//!
//! Each peer opens a V3 set as a kernel does: CONTROL, and when its HELLO is answered BULK_IN, then BULK_OUT. Peers are
//! played by one bare TCP stack, joined to the node by the in-memory port, in virtual time: connections and turns are
//! counts that repeat exactly, and CPU time is the node's turns alone.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use dataplane::mem::{MemConfig, MemPort, pair};
use serde::Serialize;
use tcpstack::{Dial, Event, Stack};
use transport::node::NoApp;
use transport::wire::ConnType;

use crate::inmem::{CLIENT, SERVER, TURN_NS, Time, node, stack};
use crate::measure::cpu_time;
use crate::memory::{ANSWER, FIRST_PORT, MAX_SETS, SET, opening};

/// SYNs a turn, so that no ring of the port is full: all peers dial within a few microseconds.
const SYNS: usize = 32;
/// Turns after which it is given up.
const PATIENCE: u64 = 4_000_000;
/// The order of a set's connections.
const ORDER: [ConnType; SET as usize] = [ConnType::Control, ConnType::BulkIn, ConnType::BulkOut];

/// The result.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Setup {
    /// Peers, each with a set of three connections.
    pub sets: u32,
    /// Connections that came up.
    pub connections: u64,
    /// Turns of the node until the last one was up.
    pub turns: u64,
    /// Those of them that did something.
    pub busy_turns: u64,
    /// From the first SYN to the last HELLO, in ns of virtual time, where a turn is a microsecond.
    pub virtual_ns: u64,
    /// CPU time of the node's turns for each set, in ns.
    pub cpu_ns_per_set: f64,
}

struct Peers {
    stack: Stack<MemPort>,
    wanted: VecDeque<(u32, usize)>,
    port: u32,
    /// By slot of the flow: which peer, which connection of its set, bytes of the answer so far.
    at: Vec<(u32, usize, u32)>,
    done: u32,
}

impl Peers {
    fn dial(&mut self, now: u64) -> Result<(), String> {
        for _ in 0..SYNS {
            let Some((peer, nth)) = self.wanted.pop_front() else { break };
            let port = u16::try_from(self.port).map_err(|_| "no port is left".to_owned())?;
            self.port += 1;
            let d = Dial { local: SocketAddr::from((CLIENT, port)), remote: SocketAddr::from((SERVER, 988)) };
            let slot = self.stack.dial(now, d).map_err(|e| e.to_string())?.slot() as usize;
            if self.at.len() <= slot {
                self.at.resize(slot + 1, (0, 0, 0));
            }
            self.at[slot] = (peer, nth, 0);
        }
        Ok(())
    }

    fn turn(&mut self, now: u64) -> Result<(), String> {
        self.stack.turn(now);
        while let Some(e) = self.stack.event() {
            match e {
                Event::Opened { flow, .. } => {
                    let (peer, nth, _) = self.at[flow.slot() as usize];
                    self.stack.push(flow, &opening(peer, ORDER[nth]), &[]).map_err(|e| e.to_string())?;
                }
                Event::Readable(flow) => {
                    let mut read = 0;
                    while let Some(f) = self.stack.next(flow) {
                        read += f.len();
                    }
                    self.stack.credit(flow, read);
                    let (peer, nth, got) = &mut self.at[flow.slot() as usize];
                    *got += read;
                    if read > 0 && *got == ANSWER {
                        match *nth + 1 {
                            next if next < ORDER.len() => self.wanted.push_back((*peer, next)),
                            _ => self.done += 1,
                        }
                    }
                }
                Event::Progress { .. } => {}
                Event::PeerFin(_) | Event::Ended(_) => return Err("the node closed a connection".into()),
                Event::Closed { why, .. } => return Err(format!("a connection was closed: {why:?}")),
            }
        }
        Ok(())
    }
}

/// Lets `sets` peers dial at the same time.
///
/// # Errors
/// A number out of range, no memory, or connections that did not come up.
pub fn measure(sets: u32) -> Result<Setup, String> {
    if sets == 0 || sets > MAX_SETS {
        return Err(format!("{sets} connection sets: 1 to {MAX_SETS} can be dialled from one address"));
    }
    let (a, b) = pair(&MemConfig::default());
    let time = Time::new();
    let mut node = node(SERVER, b, &time, NoApp)?;
    let mut peers = Peers {
        stack: stack(CLIENT, a)?,
        wanted: (0..sets).map(|peer| (peer, 0)).collect(),
        port: FIRST_PORT,
        at: Vec::new(),
        done: 0,
    };
    let (mut turns, mut busy_turns, mut cpu) = (0, 0, Duration::ZERO);
    while peers.done < sets {
        if turns == PATIENCE {
            let up = node.machine.counters().conns_up;
            return Err(format!("{up} of {} connections came up", sets * SET));
        }
        let now = time.step();
        peers.dial(now)?;
        peers.turn(now)?;
        let before = cpu_time();
        let work = node.turn();
        cpu += cpu_time().saturating_sub(before);
        turns += 1;
        busy_turns += u64::from(work.is_busy());
    }
    let connections = node.machine.counters().conns_up;
    Ok(Setup {
        sets,
        connections,
        turns,
        busy_turns,
        virtual_ns: turns * TURN_NS,
        cpu_ns_per_set: cpu.as_nanos() as f64 / f64::from(sets),
    })
}

impl Setup {
    /// The table.
    pub fn table(&self) -> String {
        format!(
            "\n  {} peers dial at once, sets of {SET}: {} connections up in {:.2} ms of virtual time\n  \
             {} turns of the node, {} of them busy; {:.1} us of CPU time a set\n",
            self.sets,
            self.connections,
            self.virtual_ns as f64 * 1e-6,
            self.turns,
            self.busy_turns,
            self.cpu_ns_per_set * 1e-3
        )
    }
}
