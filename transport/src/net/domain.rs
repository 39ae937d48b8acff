//! A domain: its tables, its memory, and events on their way out. The life of its transfer machines is in `tms`.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use super::machine::TmInput;
use super::pool::Pool;
use super::rows::{Ep, Hold, Registered, Tm};
use super::{BufId, Buffer, Event, Limits, Memory, NetError, RpcSizes, Said, Unregistered, Xprt};
use crate::stream::slab::{Key, Slab};

/// Numbers of domains of this process.
static DOMAINS: AtomicU64 = AtomicU64::new(0);

/// A domain over a transport: the transfer machines and buffers of one shard. See the [module](super).
#[derive(Debug)]
pub struct Domain<X: Xprt> {
    pub(super) xprt: X,
    limits: Limits,
    number: u64,
    pub(super) cpt: u32,
    pub(super) now: u64,
    pub(super) bufs: Slab<Registered<X::Token>>,
    pub(super) tms: Slab<Tm>,
    pub(super) eps: Slab<Ep<X::Addr>>,
    /// Peers say in their packets who they are: the keys are hashed with a secret.
    pub(super) by_addr: HashMap<(Key, X::Addr), Key>,
    pub(super) pools: Slab<Pool>,
    pub(super) events: VecDeque<(Event, Hold)>,
    held: Hold,
    /// Machines that are STOPPING.
    pub(super) stopping: usize,
}

impl<X: Xprt> Domain<X> {
    /// A domain on a shard of this CPT.
    pub fn new(xprt: X, cpt: u32) -> Domain<X> {
        Domain {
            limits: xprt.limits(),
            xprt,
            number: DOMAINS.fetch_add(1, Ordering::Relaxed),
            cpt,
            now: 0,
            bufs: Slab::new(),
            tms: Slab::new(),
            eps: Slab::new(),
            by_addr: HashMap::new(),
            pools: Slab::new(),
            events: VecDeque::new(),
            held: Hold::NOTHING,
            stopping: 0,
        }
    }

    /// Limits of its transport.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Sizes for RPC of messages of so many bytes, 0 for the most.
    pub fn rpc_sizes(&self, message: u64) -> RpcSizes {
        self.xprt.rpc_sizes(message)
    }

    /// Time of the last turn, in ns.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Its transport.
    pub fn xprt(&self) -> &X {
        &self.xprt
    }

    /// Its transport, for whoever carries its words.
    pub fn xprt_mut(&mut self) -> &mut X {
        &mut self.xprt
    }

    /// Whether nothing is left, so that it may go.
    ///
    /// # Errors
    /// The first of what is left.
    pub fn fini(&self) -> Result<(), NetError> {
        let busy = |what, count: usize, remedy| {
            if count > 0 { Err(NetError::Busy { what, count, remedy }) } else { Ok(()) }
        };
        busy("transfer machines are", self.tms.len(), "stop them and take them away")?;
        busy("pools are", self.pools.len(), "take them away")?;
        busy("buffers are", self.bufs.len(), "deregister them")
    }

    /// Registers memory.
    ///
    /// # Errors
    /// It has no bytes, or is over a limit; it comes back.
    pub fn register(&mut self, mem: Memory) -> Result<Buffer, Unregistered> {
        let (size, pieces) = (mem.size(), mem.segments());
        let Limits { buffer: most, segments, .. } = self.limits;
        let why = if size == 0 {
            Some(NetError::Length { what: "memory", len: 0, size: most })
        } else if self.xprt.enforces_limits() && size > most {
            Some(NetError::TooLarge { size, most })
        } else if self.xprt.enforces_limits() && pieces > segments {
            Some(NetError::Pieces { pieces, most: segments })
        } else {
            None
        };
        if let Some(why) = why {
            return Err(Unregistered { why, mem });
        }
        let id = BufId(self.bufs.insert(Registered { queued: None, ended: None }));
        Ok(Buffer { domain: self.number, id, size, gone: 0, mem })
    }

    /// Gives the memory of a buffer back.
    ///
    /// # Errors
    /// It is another domain's.
    pub fn deregister(&mut self, buffer: Buffer) -> Result<Memory, Buffer> {
        if !self.owns(&buffer) {
            return Err(buffer);
        }
        self.bufs.remove(buffer.id.0);
        Ok(buffer.mem)
    }

    pub(super) fn owns(&self, buffer: &Buffer) -> bool {
        let idle = |b: &Registered<_>| b.queued.is_none() && b.ended.is_none();
        buffer.domain == self.number && self.bufs.get(buffer.id.0).is_some_and(idle)
    }

    /// Time has come to `now`, in ns, or the transport was told something.
    pub fn turn(&mut self, now: u64) {
        self.now = self.now.max(now);
        self.xprt.turn(self.now);
        self.settle();
    }

    /// Time at which [`Domain::turn`] has something to do, in ns.
    pub fn deadline(&self) -> Option<u64> {
        self.xprt.deadline()
    }

    /// Whether there is an event.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The next event; what the one before it held is let go.
    pub fn event(&mut self) -> Option<Event> {
        self.release();
        let (mut event, hold) = self.events.pop_front()?;
        if hold.last
            && let Event::Buffer(e) = &mut event
        {
            e.buffer = self.bufs.get_mut(e.id.0).and_then(|b| b.ended.take());
        }
        self.held = hold;
        Some(event)
    }

    /// Lets go of what the last event held.
    pub(super) fn release(&mut self) {
        let Hold { tm, ep, provision, .. } = std::mem::replace(&mut self.held, Hold::NOTHING);
        let Some(tm) = tm else { return };
        if let Some(ep) = ep {
            self.put_ep(ep);
        }
        if let Some(t) = self.tms.get_mut(tm) {
            t.callbacks = t.callbacks.saturating_sub(1);
        }
        if provision {
            self.provision(tm);
        }
        self.settle();
    }

    /// Adds an event.
    pub(super) fn tell(&mut self, event: Event, hold: Hold) {
        if let Some(t) = hold.tm.and_then(|tm| self.tms.get_mut(tm)) {
            t.callbacks += 1;
        }
        self.events.push_back((event, hold));
    }

    /// Hears what the transport says, and goes on with machines that stop.
    pub(super) fn settle(&mut self) {
        loop {
            while let Some(said) = self.xprt.said() {
                self.hear(said);
            }
            if self.stopping == 0 || !self.drained() {
                return;
            }
        }
    }

    fn hear(&mut self, said: Said<X::Addr, X::Token>) {
        match said {
            Said::Done(done) => self.done(done),
            Said::Started(tm, addr) => self.started(tm, addr),
            Said::Failed(tm, status) => self.ends(tm, TmInput::Fail, status),
            Said::Stopped(tm) => self.ends(tm, TmInput::Stopped, 0),
            Said::Starved(tm) => self.feed(tm.0),
        }
    }
}
