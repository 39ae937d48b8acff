//! A domain of the net contract on its lcore: calls of the program come by a ring, and go to it by another. A buffer is
//! registered for as long as it is queued, so that its memory is the program's again with its last event.

mod pools;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use transport::net::{
    BufEvent, BufId, Colour, Desc, Domain, EpId, Event, Memory, NetApp, NetError, PoolId, QueueStats,
    Request, TmId, TmState, Unadded, Unregistered, Xprt,
};
use transport::node::Bell;

pub(crate) use self::pools::{AskPool, AskTm, Provisions, Setup};
use crate::error::Error;
use crate::program::{ACTIVE, LINGER, QUIET};

/// Calls taken from the ring at a time, so that one program cannot hold the lcore.
const CALLS_A_TURN: usize = 64;

/// A call. Numbers are the program's names of things.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are of buffers; a box each would be an allocation each"
)]
pub(crate) enum Call {
    /// Makes a transfer machine and starts it.
    Start(u64, Box<Setup>),
    /// Stops it, its buffers given up or not.
    Stop(u64, bool),
    /// Makes an end-point of a machine's.
    Ep { ep: u64, tm: u64, name: Box<str> },
    /// Gives a reference on one back.
    EpPut(u64),
    /// Queues memory, for so long at most, in ns.
    Add { buf: u64, tm: u64, mem: Memory, want: Want, time: Option<u64> },
    /// Gives it up.
    Del(u64),
    /// Makes a pool with a threshold and a number of colours.
    Pool(u64, usize, u32),
    /// Puts memory into one.
    PoolPut { buf: u64, pool: u64, colour: Colour, mem: Memory },
    /// Empties one, and takes it away when no machine has it.
    PoolFree(u64),
    /// Asks something about a pool.
    AskPool(u64, u64, AskPool),
    /// Asks something about a machine, or has its events delivered.
    AskTm(u64, u64, AskTm),
}

/// Use of a buffer.
pub(crate) enum Want {
    /// A message to an end-point, so many bytes.
    Send(u64, u64),
    /// Anything else.
    Other(Request),
}

/// An event for the program.
pub(crate) struct Said {
    /// The operation's name.
    pub(crate) name: u64,
    /// Its last one.
    pub(crate) last: bool,
    pub(crate) status: Result<(), Error>,
    pub(crate) what: What,
}

/// Its content.
pub(crate) enum What {
    /// A machine's state.
    State(TmState),
    /// An end-point is there, or not.
    Ep,
    /// A buffer is queued; the descriptor of a passive one.
    Added(Option<Desc>),
    /// Bytes came or went.
    Bytes { len: u64, offset: u64, from: Option<(u64, String)> },
    /// A number that was asked for.
    Count(u64),
    /// Counts of a queue.
    Stats(QueueStats),
    /// Events wait to be delivered.
    Pending,
    /// A pool that was empty has a buffer.
    NotEmpty,
    /// A pool has fewer than its threshold.
    Below,
    /// A pool is gone.
    PoolGone,
}

/// Both rings.
pub(crate) struct Lines {
    pub(crate) calls: ArrayQueue<Call>,
    pub(crate) said: ArrayQueue<Said>,
    pub(crate) bell: Bell,
}

/// References of the program's on an end-point.
struct Ep {
    ep: EpId,
    tm: TmId,
    refs: u32,
}

/// The program on the domain.
pub(crate) struct Tenant {
    lines: Arc<Lines>,
    backlog: VecDeque<Said>,
    tms: HashMap<u64, TmId>,
    bufs: HashMap<u64, BufId>,
    names: HashMap<BufId, u64>,
    eps: HashMap<u64, Ep>,
    /// Names of end-points that came with messages.
    strangers: HashMap<EpId, u64>,
    last_stranger: u64,
    /// Machines that have come to their end, and whose buffers have not all.
    leaving: Vec<TmId>,
    pools: HashMap<u64, PoolId>,
    /// Pools that were freed, and that machines still have.
    leaving_pools: Vec<(u64, PoolId)>,
    /// Machines whose threads are to hear of events that wait, and the tags of their calls.
    notified: Vec<(TmId, u64)>,
    now: u64,
    active_until: u64,
}

fn refused(e: &NetError) -> Error {
    Error::new(e.errno(), e)
}

fn gone(what: &str, name: u64) -> Error {
    Error::invalid(format_args!(
        "{what} {name:#x} is not there (any more): it was stopped, given back, or never made"
    ))
}

/// The text of an error number that comes from afar.
fn failed(status: i32) -> Result<(), Error> {
    match status {
        0 => Ok(()),
        n => Err(Error::new(n, std::io::Error::from_raw_os_error(n))),
    }
}

impl Tenant {
    pub(crate) fn new(lines: Arc<Lines>) -> Tenant {
        Tenant {
            lines,
            backlog: VecDeque::new(),
            tms: HashMap::new(),
            bufs: HashMap::new(),
            names: HashMap::new(),
            eps: HashMap::new(),
            strangers: HashMap::new(),
            last_stranger: 0,
            leaving: Vec::new(),
            pools: HashMap::new(),
            leaving_pools: Vec::new(),
            notified: Vec::new(),
            now: 0,
            active_until: 0,
        }
    }

    fn say(&mut self, name: u64, last: bool, status: Result<(), Error>, what: What) {
        let said = Said { name, last, status, what };
        if !self.backlog.is_empty() {
            self.backlog.push_back(said);
        } else if let Err(said) = self.lines.said.push(said) {
            self.backlog.push_back(said);
        }
        self.active_until = self.now + LINGER;
        self.lines.bell.ring();
    }

    /// Hands over what waits for room; gives whether none waits any more.
    fn flush(&mut self) -> bool {
        while let Some(said) = self.backlog.pop_front() {
            if let Err(said) = self.lines.said.push(said) {
                self.backlog.push_front(said);
                return false;
            }
            self.lines.bell.ring();
        }
        true
    }

    fn call<X: Xprt>(&mut self, net: &mut Domain<X>, call: Call) {
        match call {
            Call::Start(name, setup) => match self.start(net, *setup) {
                Ok(tm) => {
                    self.tms.insert(name, tm);
                }
                Err(e) => self.say(name, true, Err(e), What::State(TmState::Failed)),
            },
            // Its event tells.
            Call::Stop(name, abort) => {
                if let Some(tm) = self.tms.get(&name) {
                    let _ = net.stop(*tm, abort);
                }
            }
            Call::Ep { ep: name, tm, name: text } => {
                let made = self
                    .tms
                    .get(&tm)
                    .ok_or_else(|| gone("transfer machine", tm))
                    .and_then(|tm| Ok((*tm, net.ep_create(*tm, &text).map_err(|e| refused(&e))?)));
                let status = made.map(|(tm, ep)| {
                    self.eps.insert(name, Ep { ep, tm, refs: 1 });
                });
                self.say(name, true, status, What::Ep);
            }
            Call::EpPut(name) => self.put(net, name),
            Call::Add { buf, tm, mem, want, time } => {
                let until = time.map(|t| net.now().saturating_add(t));
                match self.add(net, tm, mem, want, until) {
                    Ok((id, desc)) => {
                        self.bufs.insert(buf, id);
                        self.names.insert(id, buf);
                        self.say(buf, false, Ok(()), What::Added(desc));
                    }
                    Err(e) => self.say(buf, true, Err(e), What::Bytes { len: 0, offset: 0, from: None }),
                }
            }
            // Its event tells, and may be under way.
            Call::Del(buf) => {
                if let Some(id) = self.bufs.get(&buf) {
                    net.del(*id);
                }
            }
            other => self.furnish(net, other),
        }
    }

    fn add<X: Xprt>(
        &mut self,
        net: &mut Domain<X>,
        tm: u64,
        mem: Memory,
        want: Want,
        until: Option<u64>,
    ) -> Result<(BufId, Option<Desc>), Error> {
        let tm = *self.tms.get(&tm).ok_or_else(|| gone("transfer machine", tm))?;
        let req = match want {
            Want::Other(req) => req,
            Want::Send(to, len) => {
                let to = self.eps.get(&to).ok_or_else(|| gone("end-point", to))?.ep;
                Request::MsgSend { to, len }
            }
        };
        let buffer = net.register(mem).map_err(|Unregistered { why, .. }| refused(&why))?;
        match net.add(tm, buffer, &req, until) {
            Ok(added) => Ok((added.id, added.desc)),
            Err(Unadded { why, buffer }) => {
                let _ = net.deregister(buffer);
                Err(refused(&why))
            }
        }
    }

    /// Gives a reference on an end-point back.
    fn put<X: Xprt>(&mut self, net: &mut Domain<X>, name: u64) {
        let Some(e) = self.eps.get_mut(&name) else { return };
        let _ = net.ep_put(e.ep);
        e.refs -= 1;
        if e.refs == 0 {
            if self.strangers.get(&e.ep) == Some(&name) {
                self.strangers.remove(&e.ep);
            }
            self.eps.remove(&name);
        }
    }

    /// The sender of a message, with a reference for the program.
    fn sender<X: Xprt>(&mut self, net: &mut Domain<X>, tm: TmId, ep: EpId) -> Option<(u64, String)> {
        let text = net.ep_name(ep).ok()?;
        net.ep_get(ep).ok()?;
        let name = *self.strangers.entry(ep).or_insert_with(|| {
            self.last_stranger += 1;
            self.last_stranger
        });
        self.eps.entry(name).or_insert(Ep { ep, tm, refs: 0 }).refs += 1;
        Some((name, text))
    }

    /// A machine has come to its end, and its end-points go with it.
    fn end<X: Xprt>(&mut self, net: &mut Domain<X>, name: u64, tm: TmId) {
        let of: Vec<(u64, u32)> =
            self.eps.iter().filter(|(_, e)| e.tm == tm).map(|(n, e)| (*n, e.refs)).collect();
        for (ep, refs) in of {
            (0..refs).for_each(|_| self.put(net, ep));
        }
        self.tms.remove(&name);
        self.leaving.push(tm);
        self.unnotified(tm);
    }

    fn ended<X: Xprt>(&mut self, net: &mut Domain<X>, e: BufEvent) {
        let Some(name) = self.names.get(&e.id).copied() else { return };
        let from = e.ep.and_then(|ep| self.sender(net, e.tm, ep));
        let last = e.buffer.is_some();
        if let Some(buffer) = e.buffer {
            self.names.remove(&e.id);
            self.bufs.remove(&name);
            // The memory is not used any more, before the program hears so.
            drop(net.deregister(buffer));
        }
        let what = What::Bytes { len: e.len, offset: e.offset, from };
        self.say(name, last, failed(e.status), what);
    }
}

impl<X: Xprt> NetApp<X> for Tenant {
    fn event(&mut self, net: &mut Domain<X>, event: Event) {
        match event {
            Event::Buffer(e) => self.ended(net, e),
            Event::State { tm, state, status, .. } => {
                let Some(name) = self.tms.iter().find(|(_, t)| **t == tm).map(|(n, _)| *n) else { return };
                let last = matches!(state, TmState::Stopped | TmState::Failed);
                if last {
                    self.end(net, name, tm);
                }
                self.say(name, last, failed(status.abs()), What::State(state));
            }
            Event::Pending(tm) => self.pending(tm),
            Event::NotEmpty(pool) => self.pool_says(pool, What::NotEmpty),
            Event::BelowThreshold(pool) => self.pool_says(pool, What::Below),
        }
    }

    fn turn(&mut self, net: &mut Domain<X>) {
        self.now = net.now();
        self.leaving.retain(|tm| net.tm_fini(*tm).is_err());
        self.free_pools(net);
        if !self.flush() {
            return;
        }
        for _ in 0..CALLS_A_TURN {
            let Some(call) = self.lines.calls.pop() else { break };
            self.active_until = self.now + LINGER;
            self.call(net, call);
        }
    }

    fn deadline(&self) -> Option<u64> {
        Some(self.now + if self.now < self.active_until { ACTIVE } else { QUIET })
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        self.lines.bell.leave();
    }
}
