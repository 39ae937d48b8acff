//! Memory of a connection: idle TCP flows, and V3 connection sets of a node.
//!
//! Cost is a slope: so many are opened, memory is looked at, more are opened, memory is looked at again; what a
//! stack or a node takes by itself drops out. Everything stays open until the end, so memory that one
//! measurement frees cannot hide the next one's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dataplane::mem::{MemConfig, MemPort, pair};
use serde::Serialize;
use tcpstack::{Dial, Event, FlowId, Listen, Stack};
use transport::node::lcore::LcoreStreams;
use transport::node::{NoApp, Shard};
use transport::wire::{AcceptorReq, ByteOrder, ConnType, Hello, Version, hello, nid::PID_LUSTRE};

use crate::inmem::{CLIENT, SERVER, Time, nid, node, stack};

/// Opened at a time, so that no queue grows for the sake of the measurement.
const BATCH: u32 = 60;
/// Turns after which a batch that did not open is given up.
const PATIENCE: u32 = 100_000;
/// First source port of the dialling side.
pub(crate) const FIRST_PORT: u32 = 1024;
/// Most connections that one address can dial to one port from there.
const PORTS: u32 = 65_535 - FIRST_PORT;
/// Connections of a V3 set: CONTROL, BULK_IN, BULK_OUT.
pub const SET: u32 = 3;
/// Bytes of a HELLO.
pub(crate) const ANSWER: u32 = hello::LEN_V3 as u32;
/// Most connection sets that can be measured.
pub const MAX_SETS: u32 = PORTS / SET;

/// One slope.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Slope {
    /// Open at the first look.
    pub few: u32,
    /// Open at the second.
    pub many: u32,
    /// Memory between the two looks, in bytes.
    pub grown: u64,
    /// Bytes for each.
    pub each: f64,
}

impl Slope {
    fn new(few: u32, many: u32, before: u64, after: u64, share: f64) -> Slope {
        let grown = after.saturating_sub(before);
        Slope { few, many, grown, each: grown as f64 / f64::from(many - few) / share }
    }
}

/// The result.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// An established, idle TCP connection over which as much went as in a handshake: one end of it.
    pub flow: Slope,
    /// A set of three connections accepted by a node: TCP, runtime, handshakes done, the peer's entry.
    pub set: Slope,
    /// Of `set.each`, what is not TCP: the machine's and the runtime's state, in bytes.
    pub set_above_tcp: f64,
}

/// Anonymous memory of this process that is resident, in bytes: `RssAnon` of /proc/self/status.
///
/// # Errors
/// The kernel does not tell.
pub fn resident() -> Result<u64, String> {
    let s = std::fs::read_to_string("/proc/self/status").map_err(|e| format!("/proc/self/status: {e}"))?;
    s.lines()
        .find_map(|l| l.strip_prefix("RssAnon:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .map(|kb| kb * 1024)
        .ok_or_else(|| "/proc/self/status has no line RssAnon: Linux 4.5 or later is needed".into())
}

/// The side that dials: a bare stack, which speaks as many handshakes as it has connections.
struct Dialler {
    stack: Stack<MemPort>,
    next: u32,
    /// Claims of the connections, by slot of the flow: which peer, and which type.
    claims: Vec<(u32, ConnType)>,
    opened: u32,
    answered: u32,
}

/// The NID that the `n`-th peer claims to have.
fn peer_nid(n: u32) -> transport::wire::Nid {
    let [_, _, c, d] = n.to_be_bytes();
    nid(Ipv4Addr::new(10, 79, c, d))
}

/// First bytes of the `n`-th peer on a connection of this type.
pub(crate) fn opening(n: u32, ctype: ConnType) -> Vec<u8> {
    let req = AcceptorReq::new(nid(SERVER));
    let mut b = req.emit()[..req.wire_len()].to_vec();
    let hello = Hello {
        version: Version::V3,
        order: ByteOrder::Little,
        tcp_magic: false,
        src_nid: peer_nid(n),
        dst_nid: nid(SERVER),
        src_pid: PID_LUSTRE,
        dst_pid: PID_LUSTRE,
        src_incarnation: 1,
        dst_incarnation: 0,
        ctype,
        ips: Default::default(),
    };
    b.extend_from_slice(&hello.emit());
    b
}

impl Dialler {
    fn new(port: MemPort) -> Result<Dialler, String> {
        let stack = stack(CLIENT, port)?;
        // Reserved for all that may come, so that the list itself is not counted.
        let claims = vec![(0, ConnType::None); PORTS as usize + 1];
        Ok(Dialler { stack, next: 0, claims, opened: 0, answered: 0 })
    }

    fn dial(&mut self, now: u64, peer: u32, ctype: ConnType) -> Result<(), String> {
        let port = u16::try_from(FIRST_PORT + self.next).map_err(|_| {
            format!("more than {PORTS} connections: one address has no more ports to dial from")
        })?;
        self.next += 1;
        let d = Dial { local: SocketAddr::from((CLIENT, port)), remote: SocketAddr::from((SERVER, 988)) };
        let flow = self.stack.dial(now, d).map_err(|e| e.to_string())?;
        if let Some(place) = self.claims.get_mut(flow.slot() as usize) {
            *place = (peer, ctype);
        }
        Ok(())
    }

    fn hear(&mut self, flow: FlowId) {
        while let Some(f) = self.stack.next(flow) {
            self.answered += f.len();
            self.stack.credit(flow, f.len());
        }
    }

    fn turn(&mut self, now: u64) -> Result<(), String> {
        self.stack.turn(now);
        while let Some(e) = self.stack.event() {
            match e {
                Event::Opened { flow, .. } => {
                    self.opened += 1;
                    if let Some(&(n, ctype)) = self.claims.get(flow.slot() as usize) {
                        self.stack.push(flow, &opening(n, ctype), &[]).map_err(|e| e.to_string())?;
                    }
                }
                Event::Readable(flow) => self.hear(flow),
                Event::Progress { .. } => {}
                Event::PeerFin(_) | Event::Ended(_) => return Err("the node closed a connection".into()),
                Event::Closed { why, .. } => return Err(format!("a connection was closed: {why:?}")),
            }
        }
        Ok(())
    }
}

/// Idle flows between two bare stacks. Each has carried what a handshake carries, and so has the memory that
/// the first bytes take.
struct Flows {
    time: Time,
    dialler: Dialler,
    listener: Stack<MemPort>,
}

impl Flows {
    fn new() -> Result<Flows, String> {
        let (a, b) = pair(&MemConfig::default());
        let mut listener = stack(SERVER, b)?;
        let l = Listen { addr: IpAddr::V4(SERVER), port: 988, backlog: BATCH };
        listener.listen(l).map_err(|e| e.to_string())?;
        Ok(Flows { time: Time::new(), dialler: Dialler::new(a)?, listener })
    }

    /// The listening end: as many bytes as a HELLO for every opening.
    fn answer(&mut self, now: u64) -> Result<(), String> {
        self.listener.turn(now);
        while let Some(e) = self.listener.event() {
            match e {
                Event::Readable(flow) => {
                    let mut read = 0;
                    while let Some(f) = self.listener.next(flow) {
                        read += f.len();
                    }
                    self.listener.credit(flow, read);
                    if read > 0 {
                        let answer = [0; ANSWER as usize];
                        self.listener.push(flow, &answer, &[]).map_err(|e| e.to_string())?;
                    }
                }
                Event::PeerFin(_) | Event::Ended(_) | Event::Closed { .. } => {
                    return Err("a connection between two stacks was closed".into());
                }
                Event::Opened { .. } | Event::Progress { .. } => {}
            }
        }
        Ok(())
    }

    fn grow_to(&mut self, n: u32) -> Result<(), String> {
        while self.dialler.opened < n {
            let goal = n.min(self.dialler.opened + BATCH);
            let now = self.time.step();
            (self.dialler.opened..goal).try_for_each(|n| self.dialler.dial(now, n, ConnType::Control))?;
            let bytes = goal * ANSWER;
            for _ in 0..PATIENCE {
                let now = self.time.step();
                self.dialler.turn(now)?;
                self.answer(now)?;
                if self.dialler.answered == bytes {
                    break;
                }
            }
            if self.dialler.answered != bytes {
                return Err(format!("{} of {goal} connections opened and answered", self.dialler.opened));
            }
        }
        Ok(())
    }
}

/// Connection sets accepted by a node.
struct Sets {
    time: Time,
    dialler: Dialler,
    node: Shard<LcoreStreams<MemPort>, NoApp>,
    sets: u32,
}

impl Sets {
    fn new() -> Result<Sets, String> {
        let (a, b) = pair(&MemConfig::default());
        let time = Time::new();
        let node = node(SERVER, b, &time, NoApp)?;
        Ok(Sets { time, dialler: Dialler::new(a)?, node, sets: 0 })
    }

    fn grow_to(&mut self, n: u32) -> Result<(), String> {
        while self.sets < n {
            let goal = n.min(self.sets + BATCH / SET);
            let now = self.time.step();
            for set in self.sets..goal {
                for ctype in [ConnType::Control, ConnType::BulkIn, ConnType::BulkOut] {
                    self.dialler.dial(now, set, ctype)?;
                }
            }
            let bytes = goal * SET * ANSWER;
            for _ in 0..PATIENCE {
                let now = self.time.step();
                self.dialler.turn(now)?;
                self.node.turn();
                if self.dialler.answered == bytes {
                    break;
                }
            }
            let up = self.node.machine.counters().conns_up;
            if self.dialler.answered != bytes || up != u64::from(goal * SET) {
                return Err(format!("{up} of {} connections came up", goal * SET));
            }
            self.sets = goal;
        }
        Ok(())
    }
}

/// Measures with `few` and `many` connection sets (three connections each); `used` tells the memory in use now,
/// in bytes.
///
/// # Errors
/// A number out of range, no memory, or connections that did not come up.
pub fn measure(few: u32, many: u32, used: &dyn Fn() -> Result<u64, String>) -> Result<Memory, String> {
    if few == 0 || few >= many || many > MAX_SETS {
        return Err(format!("{few} and {many} connection sets: needed are 0 < few < many <= {MAX_SETS}"));
    }
    let mut flows = Flows::new()?;
    flows.grow_to(few * SET)?;
    let before = used()?;
    flows.grow_to(many * SET)?;
    // Both ends of each are in this process.
    let flow = Slope::new(few * SET, many * SET, before, used()?, 2.0);
    let mut sets = Sets::new()?;
    sets.grow_to(few)?;
    let before = used()?;
    sets.grow_to(many)?;
    let mut set = Slope::new(few, many, before, used()?, 1.0);
    // The dialling ends are no part of the node.
    set.each -= f64::from(SET) * flow.each;
    Ok(Memory { flow, set, set_above_tcp: set.each - f64::from(SET) * flow.each })
}

impl Memory {
    /// The table.
    pub fn table(&self) -> String {
        let (f, s) = (&self.flow, &self.set);
        format!(
            "\n  idle, established                        from      to     grown     bytes each\n  \
             TCP connection, one end               {:>7} {:>7} {:>7} KiB {:>10.0}\n  \
             V3 set of 3 connections, one node     {:>7} {:>7} {:>7} KiB {:>10.0}   of which {:.0} above TCP\n",
            f.few,
            f.many,
            f.grown / 1024,
            f.each,
            s.few,
            s.many,
            s.grown / 1024,
            s.each,
            self.set_above_tcp
        )
    }
}
