//! A domain for a thread: calls and events over a pair of rings. The lcore waits for no thread; a thread may wait for what it is
//! to hear.
//!
//! A call that has a result has a tag, which comes back with it. Times in calls are of the shard's clock, in ns.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    Added, BufId, Buffer, Colour, Domain, EpId, Event, Memory, NetApp, NetError, PoolId, Provision, Queue,
    QueueStats, Request, TmId, Unadded, Unregistered, Xprt,
};
use crate::node::Bell;
use crate::node::handover::{Lines, Served};

/// Calls taken from the ring at a time, so that one thread cannot hold the lcore.
const CALLS_A_TURN: usize = 64;
/// Longest time for which an lcore may sleep while there is a thread, in ns: no ring wakes one that waits for its sockets.
const PATIENCE: u64 = 50_000;
/// The same for so long after a call or an event, in ns: the next one is likely to be near.
const BRISK: u64 = 1_000;
const BRISK_FOR: u64 = 100_000;

/// A transfer machine to be made, furnished and started.
#[derive(Clone, Debug)]
pub struct TmSetup {
    /// Its name, which may end in `*`.
    pub name: Box<str>,
    /// Its pool ([`Domain::attach_pool`]).
    pub pool: Option<Provision>,
    /// Colour of its buffers ([`Domain::colour`]).
    pub colour: Colour,
    /// Whether its events wait until they are asked for ([`Domain::deliver_synchronously`]).
    pub synchronous: bool,
    /// CPTs that may serve it ([`Domain::confine`]); `None`: any.
    pub cpts: Option<u64>,
}

impl TmSetup {
    /// A machine of this name, without a pool, whose events come by themselves.
    pub fn new(name: &str) -> TmSetup {
        TmSetup { name: name.into(), pool: None, colour: Colour::ANY, synchronous: false, cpts: None }
    }

    /// Makes it; nothing is left of one that was refused.
    ///
    /// # Errors
    /// As of the calls that make it.
    pub fn start<X: Xprt>(&self, net: &mut Domain<X>) -> Result<TmId, NetError> {
        let tm = net.tm_init();
        self.furnish(net, tm).and_then(|()| net.start(tm, &self.name)).map(|()| tm).inspect_err(|_| {
            let _ = net.tm_fini(tm);
        })
    }

    fn furnish<X: Xprt>(&self, net: &mut Domain<X>, tm: TmId) -> Result<(), NetError> {
        if let Some(pool) = self.pool {
            net.attach_pool(tm, pool)?;
        }
        if self.synchronous {
            net.deliver_synchronously(tm)?;
        }
        if let Some(cpts) = self.cpts {
            net.confine(tm, cpts)?;
        }
        net.colour(tm, self.colour)
    }
}

/// A call of a thread.
#[derive(Debug)]
pub enum Call {
    /// [`Domain::register`]; gives [`Heard::Registered`].
    Register(u64, Memory),
    /// [`Domain::deregister`]; gives [`Heard::Deregistered`].
    Deregister(u64, Buffer),
    /// Makes a machine and starts it at a name; gives [`Heard::Machine`], and an event once it is started.
    Start(u64, Box<str>),
    /// The same with a pool, with synchronous delivery, or of certain CPTs.
    StartWith(u64, Box<TmSetup>),
    /// [`Domain::stop`]; an event follows.
    Stop(TmId, bool),
    /// [`Domain::tm_fini`]; gives [`Heard::Gone`].
    Fini(u64, TmId),
    /// [`Domain::ep_create`]; gives [`Heard::EndPoint`].
    EpCreate(u64, TmId, Box<str>),
    /// [`Domain::ep_put`].
    EpPut(EpId),
    /// [`Domain::ep_name`]; gives [`Heard::Name`].
    EpName(u64, EpId),
    /// [`Domain::stats`], set to zero if so; gives [`Heard::Stats`].
    Stats(u64, TmId, Queue, bool),
    /// [`Domain::add`]; gives [`Heard::Added`].
    Add(u64, TmId, Buffer, Request, Option<u64>),
    /// [`Domain::del`]; the buffer's last event follows in any case.
    Del(BufId),
    /// [`Domain::pool`] with a threshold and a number of colours; gives [`Heard::Pool`].
    Pool(u64, usize, u32),
    /// [`Domain::pool_put`]; gives [`Heard::Put`].
    PoolPut(u64, PoolId, Colour, Buffer),
    /// [`Domain::pool_get`]; gives [`Heard::Got`].
    PoolGet(u64, PoolId, Colour),
    /// [`Domain::pool_len`]; gives [`Heard::Count`].
    PoolLen(u64, PoolId),
    /// [`Domain::pool_fini`]; gives [`Heard::Gone`].
    PoolFini(u64, PoolId),
    /// [`Domain::pool_length`]; gives [`Heard::Set`].
    PoolLength(u64, TmId, usize),
    /// [`Domain::deficit`]; gives [`Heard::Count`].
    Deficit(u64, TmId),
    /// [`Domain::pending`]; gives [`Heard::Pending`].
    Pending(u64, TmId),
    /// [`Domain::deliver_all`]; gives [`Heard::Count`], and the events follow.
    Deliver(u64, TmId),
    /// [`Domain::notify`]; gives [`Heard::Set`], and [`Event::Pending`] comes once.
    Notify(u64, TmId),
}

impl Call {
    /// The tag with which its result comes back; `None` of a call that has none.
    pub fn tag(&self) -> Option<u64> {
        use Call::*;
        match self {
            Register(tag, _)
            | Deregister(tag, _)
            | Start(tag, _)
            | StartWith(tag, _)
            | Fini(tag, _)
            | EpCreate(tag, ..)
            | EpName(tag, _)
            | Stats(tag, ..)
            | Add(tag, ..)
            | Pool(tag, ..)
            | PoolPut(tag, ..)
            | PoolGet(tag, ..)
            | PoolLen(tag, _)
            | PoolFini(tag, _)
            | PoolLength(tag, ..)
            | Deficit(tag, _)
            | Pending(tag, _)
            | Deliver(tag, _)
            | Notify(tag, _) => Some(*tag),
            Stop(..) | EpPut(_) | Del(_) => None,
        }
    }
}

/// A result or an event for a thread.
#[derive(Debug)]
pub enum Heard {
    /// Memory was registered.
    Registered(u64, Result<Buffer, Unregistered>),
    /// A buffer was deregistered.
    Deregistered(u64, Result<Memory, Buffer>),
    /// A machine starts.
    Machine(u64, Result<TmId, NetError>),
    /// A machine or a pool was taken away.
    Gone(u64, Result<(), NetError>),
    /// An end-point, with a reference.
    EndPoint(u64, Result<EpId, NetError>),
    /// The name of an end-point.
    Name(u64, Result<String, NetError>),
    /// The statistics of a queue.
    Stats(u64, Result<QueueStats, NetError>),
    /// A buffer was queued.
    Added(u64, Result<Added, Unadded>),
    /// A pool without buffers.
    Pool(u64, PoolId),
    /// A buffer was put into a pool.
    Put(u64, Result<(), Unadded>),
    /// A buffer out of a pool; `None` of an empty one.
    Got(u64, Result<Option<Buffer>, NetError>),
    /// A number of buffers or events.
    Count(u64, Result<usize, NetError>),
    /// Whether events wait to be asked for.
    Pending(u64, Result<bool, NetError>),
    /// It was done.
    Set(u64, Result<(), NetError>),
    /// An event. The end-point that a message came from has a reference, which the thread gives back ([`Call::EpPut`]).
    Event(Event),
}

impl Heard {
    /// The tag of the call whose result it is; `None` of an event.
    pub fn tag(&self) -> Option<u64> {
        use Heard::*;
        match self {
            Registered(tag, _)
            | Deregistered(tag, _)
            | Machine(tag, _)
            | Gone(tag, _)
            | EndPoint(tag, _)
            | Name(tag, _)
            | Stats(tag, _)
            | Added(tag, _)
            | Pool(tag, _)
            | Put(tag, _)
            | Got(tag, _)
            | Count(tag, _)
            | Pending(tag, _)
            | Set(tag, _) => Some(*tag),
            Event(_) => None,
        }
    }
}

/// A thread's handle on a domain.
pub struct NetHandle {
    pub(super) rings: Arc<Lines<Call, Heard>>,
    pub(super) bell: Arc<Bell>,
    /// Came while a call was asked, and has not been heard.
    pub(super) kept: RefCell<VecDeque<Heard>>,
}

impl NetHandle {
    /// Calls.
    ///
    /// # Errors
    /// The call, when the ring is full: take what there is to hear, then try again.
    #[expect(clippy::result_large_err, reason = "the call itself comes back, unboxed")]
    pub fn call(&self, call: Call) -> Result<(), Call> {
        self.rings.submit(call)
    }

    /// The next result or event, if there is one.
    pub fn heard(&self) -> Option<Heard> {
        let kept = self.kept.borrow_mut().pop_front();
        kept.or_else(|| self.rings.event())
    }

    /// The next result or event, waited for so long at most; `None` then, and at once when there is none and the domain has
    /// ended.
    pub fn wait(&self, limit: Duration) -> Option<Heard> {
        // Without an end where it is too far away to be told.
        self.bell.wait(Instant::now().checked_add(limit), || self.heard())
    }

    /// Whether the domain has ended, with its node: nothing more is heard than what waits.
    pub fn ended(&self) -> bool {
        self.bell.gone()
    }
}

impl Drop for NetHandle {
    fn drop(&mut self) {
        self.rings.leave();
    }
}

/// The domain's end of a [`NetHandle`]: its application. When the thread has gone it stops the thread's
/// machines, and empties its pools.
pub struct Threaded {
    served: Served<Call, Heard>,
    bell: Arc<Bell>,
    calls: VecDeque<Call>,
    machines: Vec<TmId>,
    pools: Vec<PoolId>,
    /// The thread has gone, and what was its own was given up.
    left: bool,
    now: u64,
    /// Until then it looks at its rings all the time, in ns.
    brisk: u64,
}

/// A handle of `depth` calls and events, and the application that serves it.
pub fn threaded(depth: usize) -> (NetHandle, Threaded) {
    let (lines, bell) = (Arc::new(Lines::new(depth.max(1))), Arc::new(Bell::default()));
    let handle = NetHandle { rings: lines.clone(), bell: bell.clone(), kept: RefCell::default() };
    let served = Served { lines, backlog: VecDeque::new() };
    let (calls, machines, pools) = (VecDeque::new(), Vec::new(), Vec::new());
    (handle, Threaded { served, bell, calls, machines, pools, left: false, now: 0, brisk: 0 })
}

impl Drop for Threaded {
    fn drop(&mut self) {
        self.bell.leave();
    }
}

impl Threaded {
    fn call<X: Xprt>(&mut self, net: &mut Domain<X>, call: Call) -> Option<Heard> {
        Some(match call {
            Call::Register(tag, mem) => Heard::Registered(tag, net.register(mem)),
            Call::Deregister(tag, buffer) => Heard::Deregistered(tag, net.deregister(buffer)),
            Call::Start(tag, name) => self.start(net, tag, &TmSetup::new(&name)),
            Call::StartWith(tag, setup) => self.start(net, tag, &setup),
            Call::Fini(tag, tm) => {
                let gone = net.tm_fini(tm);
                if gone.is_ok() {
                    self.machines.retain(|m| *m != tm);
                }
                Heard::Gone(tag, gone)
            }
            Call::EpCreate(tag, tm, name) => Heard::EndPoint(tag, net.ep_create(tm, &name)),
            Call::EpName(tag, ep) => Heard::Name(tag, net.ep_name(ep)),
            Call::Stats(tag, tm, queue, reset) => Heard::Stats(tag, net.stats(tm, queue, reset)),
            Call::Add(tag, tm, buffer, req, until) => Heard::Added(tag, net.add(tm, buffer, &req, until)),
            Call::Pool(tag, threshold, colours) => {
                let pool = net.pool(threshold, colours);
                self.pools.push(pool);
                Heard::Pool(tag, pool)
            }
            Call::PoolPut(tag, pool, colour, buffer) => Heard::Put(tag, net.pool_put(pool, colour, buffer)),
            Call::PoolGet(tag, pool, colour) => Heard::Got(tag, net.pool_get(pool, colour)),
            Call::PoolLen(tag, pool) => Heard::Count(tag, net.pool_len(pool)),
            Call::PoolFini(tag, pool) => {
                let gone = net.pool_fini(pool);
                if gone.is_ok() {
                    self.pools.retain(|p| *p != pool);
                }
                Heard::Gone(tag, gone)
            }
            Call::PoolLength(tag, tm, min_queue) => Heard::Set(tag, net.pool_length(tm, min_queue)),
            Call::Deficit(tag, tm) => Heard::Count(tag, net.deficit(tm)),
            Call::Pending(tag, tm) => Heard::Pending(tag, net.pending(tm)),
            Call::Deliver(tag, tm) => Heard::Count(tag, net.deliver_all(tm)),
            Call::Notify(tag, tm) => Heard::Set(tag, net.notify(tm)),
            // Events tell the results of these, or nobody waits for them.
            Call::Stop(tm, abort) => {
                let _ = net.stop(tm, abort);
                return None;
            }
            Call::EpPut(ep) => {
                let _ = net.ep_put(ep);
                return None;
            }
            Call::Del(id) => {
                net.del(id);
                return None;
            }
        })
    }

    fn start<X: Xprt>(&mut self, net: &mut Domain<X>, tag: u64, setup: &TmSetup) -> Heard {
        let made = setup.start(net);
        self.machines.extend(made.as_ref().ok());
        Heard::Machine(tag, made)
    }

    /// Stops the machines of a thread that has gone, and empties its pools.
    fn clear<X: Xprt>(&mut self, net: &mut Domain<X>) {
        for tm in self.machines.drain(..) {
            let _ = net.stop(tm, true);
        }
        for pool in &self.pools {
            while let Ok(Some(buffer)) = net.pool_get(*pool, Colour::ANY) {
                let _ = net.deregister(buffer);
            }
        }
        self.left = true;
    }

    /// Whether the thread has dropped its handle.
    pub fn gone(&self) -> bool {
        self.served.lines.gone()
    }
}

impl<X: Xprt> NetApp<X> for Threaded {
    fn event(&mut self, net: &mut Domain<X>, mut event: Event) {
        if self.gone() {
            if let Event::Buffer(e) = event
                && let Some(b) = e.buffer
            {
                let _ = net.deregister(b);
            }
            return;
        }
        if let Event::Buffer(e) = &event
            && let Some(ep) = e.ep
        {
            // The thread's own, since the event's goes with the next event.
            let _ = net.ep_get(ep);
        }
        if let Event::Buffer(e) = &mut event {
            net.take_view(e);
        }
        self.brisk = net.now().saturating_add(BRISK_FOR);
        self.served.deliver(Heard::Event(event));
        self.bell.ring();
    }

    fn turn(&mut self, net: &mut Domain<X>) {
        self.now = net.now();
        // Whoever has gone calls no more: all of its calls are in the ring.
        let gone = self.gone();
        let most = if gone { usize::MAX } else { CALLS_A_TURN };
        let mut calls = std::mem::take(&mut self.calls);
        let any = self.served.turn(most, |call| calls.push_back(call)) > 0;
        if any {
            self.brisk = self.now.saturating_add(BRISK_FOR);
        }
        for call in calls.drain(..) {
            if let Some(heard) = self.call(net, call) {
                self.served.deliver(heard);
            }
        }
        self.calls = calls;
        if gone {
            self.clear(net);
        }
        if any {
            self.bell.ring();
        }
    }

    fn deadline(&self) -> Option<u64> {
        let patience = if self.now < self.brisk { BRISK } else { PATIENCE };
        (!self.left).then(|| self.now.saturating_add(patience))
    }
}
