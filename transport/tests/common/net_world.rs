//! Domains on nodes of a simulated network, over either transport, with every event looked at.
#![allow(dead_code, reason = "each program of tests uses a part")]
#![allow(clippy::result_large_err, reason = "buffers and memory come back, unboxed")]

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use transport::lnd::{AppId, Config as NodeConfig};
use transport::net::{
    Added, BufEvent, BufId, Buffer, Colour, Domain, Event, LnetXprt, Memory, NetError, PoolId, Queue,
    Request, Sock, TmId, TmState, Xprt,
};
use transport::netsock::Config;
use transport::node::{Input, Machine};
use transport::stream::{Action, Happened, Protocol};
use transport::testing::net::{Net, SEC};
use transport::testing::netsock::{addr, dgram_addr, into, lent, pages};
use transport::testing::pair;
use transport::wire::Nid;
use transport::wire::netsock::Addr;

/// The port of every sock machine: 10.0.0.n@tcp:12345:34:1.
const PORT: u16 = 9217;

pub(super) type Shared<X> = Arc<Mutex<Domain<X>>>;

pub(super) fn get<X: Xprt>(d: &Shared<X>) -> MutexGuard<'_, Domain<X>> {
    d.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A transport on a node.
pub(super) trait Stack: 'static {
    type X: Xprt;
    /// Several messages may come into one buffer.
    const RETAINS: bool;
    /// Adds node 10.0.0.n with a domain.
    fn node(net: &mut Net, n: u8) -> (usize, Shared<Self::X>);
    /// The name of machine `i`.
    fn name(i: usize) -> String {
        format!("10.0.0.{}@tcp:12345:34:1", i + 1)
    }
    /// Carries what the domain has told its transport to the node, and back.
    fn carry(net: &mut Net, node: usize, d: &Shared<Self::X>);
}

pub(super) struct OverLnet;

impl Stack for OverLnet {
    type X = LnetXprt;
    const RETAINS: bool = true;

    fn node(net: &mut Net, n: u8) -> (usize, Shared<LnetXprt>) {
        let cfg = pair::config(n);
        let xprt = LnetXprt::new(AppId::FIRST, cfg.nids().collect(), cfg.pid);
        (net.add(cfg), Arc::new(Mutex::new(Domain::new(xprt, 0))))
    }

    fn carry(net: &mut Net, node: usize, d: &Shared<LnetXprt>) {
        loop {
            for e in net.take_events(node) {
                get(d).xprt_mut().event(e);
            }
            get(d).turn(net.now);
            let ops: Vec<_> = std::iter::from_fn(|| get(d).xprt_mut().op()).collect();
            if ops.is_empty() {
                return;
            }
            for (app, op) in ops {
                net.input(node, Input::Cmd(app, op));
            }
        }
    }
}

pub(super) struct OverSock;

/// A domain that its node and its test share.
pub(super) struct Carried(pub(super) Shared<Sock>);

impl Protocol for Carried {
    fn handle(&mut self, now: u64, happened: Happened<'_>) {
        get(&self.0).xprt_mut().handle(now, happened);
        get(&self.0).turn(now);
    }
    fn act(&mut self) -> Option<Action> {
        get(&self.0).xprt_mut().act()
    }
    fn deadline(&self) -> Option<u64> {
        get(&self.0).deadline()
    }
    fn timer(&mut self, now: u64) {
        get(&self.0).xprt_mut().timer(now);
        get(&self.0).turn(now);
    }
    fn shut_down(&mut self, now: u64) {
        get(&self.0).xprt_mut().shut_down(now);
        get(&self.0).turn(now);
    }
}

fn sock_node(net: &mut Net, n: u8, addr: Addr) -> (usize, Shared<Sock>) {
    let cfg = Config { stall: 3 * SEC, ..Config::new(addr, u64::from(n) << 56) };
    let d = Arc::new(Mutex::new(Domain::new(Sock::new(cfg).unwrap(), 0)));
    let nid = Nid::tcp([10, 0, 0, n].into(), 0);
    let cfg = NodeConfig { tx_window: u64::MAX / 4, ..NodeConfig::new(nid, 1) };
    let node = net.add(cfg.clone());
    net.nodes[node].machine = Machine::new(cfg).with(PORT, Box::new(Carried(d.clone()))).unwrap();
    (node, d)
}

impl Stack for OverSock {
    type X = Sock;
    const RETAINS: bool = false;

    fn node(net: &mut Net, n: u8) -> (usize, Shared<Sock>) {
        sock_node(net, n, addr(n, PORT))
    }

    fn carry(net: &mut Net, node: usize, _: &Shared<Sock>) {
        net.input(node, Input::Timer);
    }
}

/// The sock transport by datagrams.
pub(super) struct OverDgram;

impl Stack for OverDgram {
    type X = Sock;
    const RETAINS: bool = false;

    fn name(i: usize) -> String {
        dgram_addr(i as u8 + 1, PORT).to_string()
    }

    fn node(net: &mut Net, n: u8) -> (usize, Shared<Sock>) {
        sock_node(net, n, dgram_addr(n, PORT))
    }

    fn carry(net: &mut Net, node: usize, _: &Shared<Sock>) {
        net.input(node, Input::Timer);
    }
}

/// The event of a buffer, looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) id: BufId,
    pub(super) queue: Queue,
    pub(super) status: i32,
    /// Bytes that came.
    pub(super) bytes: Vec<u8>,
    pub(super) offset: u64,
    /// Name of the sender.
    pub(super) from: Option<String>,
    /// It is the last one.
    pub(super) last: bool,
    /// The pool that the buffer came from.
    pub(super) pool: Option<PoolId>,
}

/// A domain with one machine.
pub(super) struct End<S: Stack> {
    pub(super) d: Shared<S::X>,
    pub(super) node: usize,
    pub(super) tm: TmId,
    open: HashSet<BufId>,
    /// Buffers of its pools, wherever they are.
    pooled: HashSet<BufId>,
    home: HashMap<BufId, Buffer>,
    /// Events that are no buffer's.
    pub(super) others: Vec<Event>,
}

/// Machines on a network, numbered from 0, at 10.0.0.1 and so on.
pub(super) struct World<S: Stack> {
    pub(super) net: Net,
    pub(super) ends: Vec<End<S>>,
}

impl<S: Stack> World<S> {
    /// Machines that are initialised.
    pub(super) fn cold(n: u8) -> World<S> {
        World::on(Net::new(), n)
    }

    /// The same on this network.
    pub(super) fn on(mut net: Net, n: u8) -> World<S> {
        let ends = (1..=n).map(|n| {
            let (node, d) = S::node(&mut net, n);
            get(&d).turn(net.now);
            let tm = get(&d).tm_init();
            End {
                d,
                node,
                tm,
                open: HashSet::new(),
                pooled: HashSet::new(),
                home: HashMap::new(),
                others: Vec::new(),
            }
        });
        let ends = ends.collect();
        World { net, ends }
    }

    /// Machines that are started.
    pub(super) fn new(n: u8) -> World<S> {
        let mut w = World::cold(n);
        for i in 0..w.ends.len() {
            w.start(i);
        }
        w
    }

    pub(super) fn start(&mut self, i: usize) {
        self.with(i, |d, tm| d.start(tm, &S::name(i))).unwrap();
        self.run(SEC / 1000);
        assert_eq!(self.with(i, |d, tm| d.state(tm)), TmState::Started);
        self.take(i);
    }

    /// Calls on a domain.
    pub(super) fn with<R>(&mut self, i: usize, f: impl FnOnce(&mut Domain<S::X>, TmId) -> R) -> R {
        let end = &self.ends[i];
        let r = {
            let mut d = get(&end.d);
            d.turn(self.net.now);
            f(&mut d, end.tm)
        };
        S::carry(&mut self.net, end.node, &end.d);
        r
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, ns: u64) {
        let until = self.net.now + ns;
        loop {
            // One whose node has gone is never told of its time.
            let alive = self.ends.iter().filter(|e| self.net.nodes[e.node].alive);
            let wake = alive.filter_map(|e| get(&e.d).deadline()).min().unwrap_or(until);
            let next = until.min(wake.max(self.net.now + 1000));
            loop {
                let more = self.net.step_before(next);
                for end in &self.ends {
                    if self.net.nodes[end.node].alive && !self.net.nodes[end.node].events.is_empty() {
                        S::carry(&mut self.net, end.node, &end.d);
                    }
                }
                self.check();
                if !more {
                    break;
                }
            }
            for end in &self.ends {
                if self.net.nodes[end.node].alive {
                    get(&end.d).turn(self.net.now);
                    S::carry(&mut self.net, end.node, &end.d);
                }
            }
            if self.net.now >= until {
                return;
            }
        }
    }

    /// Holds at any time: a buffer that is queued is queued below, and the budgets of a node are the sum of its parts.
    fn check(&self) {
        for end in self.ends.iter().filter(|e| self.net.nodes[e.node].alive) {
            let d = get(&end.d);
            let queued: usize = Queue::ALL.iter().map(|q| d.queue_len(end.tm, *q)).sum();
            assert_eq!(d.xprt().buffers(), queued, "{:?}", end.tm);
            let open = end.open.iter().chain(&end.pooled).filter(|b| d.queued(**b).is_some()).count();
            assert!(queued <= open, "{queued} of {open}");
            assert!(end.open.iter().all(|b| d.queued(*b).is_some()), "a buffer that is nowhere");
            let machine = &self.net.nodes[end.node].machine;
            let (held, g) = (machine.held(), machine.gauges());
            assert_eq!(held.used, machine.held_recounted(), "{held:?}");
            assert!(g.cookies <= g.lends, "a cookie without its pages: {g:?}");
        }
    }

    /// A buffer of pages with the bytes of a seed.
    pub(super) fn source(&mut self, i: usize, len: usize, seed: u64) -> Buffer {
        let (pages, _) = pages(len, seed);
        self.with(i, |d, _| d.register(Memory::Send(pages))).map_err(|u| u.why).unwrap()
    }

    /// A buffer to receive into.
    pub(super) fn sink(&mut self, i: usize, len: usize) -> Buffer {
        self.with(i, |d, _| d.register(Memory::Recv(into(len)))).map_err(|u| u.why).unwrap()
    }

    /// One whose receive buffers are lent.
    pub(super) fn lent(&mut self, i: usize, len: usize) -> Buffer {
        self.with(i, |d, _| d.register(Memory::Recv(lent(len)))).map_err(|u| u.why).unwrap()
    }

    pub(super) fn try_add(
        &mut self,
        i: usize,
        buffer: Buffer,
        req: &Request,
        until: Option<u64>,
    ) -> Result<Added, NetError> {
        let id = buffer.id();
        let added = self.with(i, |d, tm| d.add(tm, buffer, req, until));
        let end = &mut self.ends[i];
        match added {
            Ok(added) => {
                assert_eq!(added.id, id);
                assert!(end.open.insert(id), "queued twice");
                Ok(added)
            }
            Err(u) => {
                assert_eq!(u.buffer.id(), id);
                end.home.insert(id, u.buffer);
                Err(u.why)
            }
        }
    }

    pub(super) fn add(&mut self, i: usize, buffer: Buffer, req: &Request, until: Option<u64>) -> Added {
        self.try_add(i, buffer, req, until).unwrap()
    }

    /// A buffer for one message.
    pub(super) fn msg_recv(&mut self, i: usize, len: usize, until: Option<u64>) -> BufId {
        let b = self.sink(i, len);
        let req = Request::MsgRecv { min_size: len as u64, max_msgs: 1 };
        self.add(i, b, &req, until).id
    }

    /// A message of the bytes of a seed to machine `to`.
    pub(super) fn msg_send(
        &mut self,
        i: usize,
        to: usize,
        (len, seed): (usize, u64),
        until: Option<u64>,
    ) -> BufId {
        let ep = self.with(i, |d, tm| d.ep_create(tm, &S::name(to))).unwrap();
        let b = self.source(i, len, seed);
        let id = self.add(i, b, &Request::MsgSend { to: ep, len: len as u64 }, until).id;
        // The buffer has a reference of its own.
        self.with(i, |d, _| d.ep_put(ep)).unwrap();
        id
    }

    /// Puts a buffer into a pool.
    pub(super) fn pool_put(&mut self, i: usize, pool: PoolId, b: Buffer) {
        self.ends[i].pooled.insert(b.id());
        self.with(i, |d, _| d.pool_put(pool, Colour::ANY, b)).map_err(|u| u.why).unwrap();
    }

    /// Deregisters a buffer that came home. Pages that were sent are nobody's but ours, and are written to.
    pub(super) fn retire(&mut self, i: usize, id: BufId) {
        let b = self.home(i, id);
        self.ends[i].pooled.remove(&id);
        let Memory::Send(pages) = self.with(i, |d, _| d.deregister(b)).map_err(|b| b.id()).unwrap() else {
            return;
        };
        let mut runs: Vec<_> = pages.into_iter().filter_map(|p| p.into_run()).collect();
        let last = runs.pop();
        drop(runs);
        let Some(run) = last else { return };
        let run = run.try_thaw();
        run.unwrap_or_else(|_| panic!("{id:?} has ended, its pages are out")).bytes_mut().fill(0xEE);
    }

    /// A buffer that came home.
    pub(super) fn home(&mut self, i: usize, id: BufId) -> Buffer {
        self.ends[i].home.remove(&id).expect("a buffer that is home")
    }

    /// Takes one event.
    pub(super) fn next(&mut self, i: usize) -> Option<Told> {
        loop {
            match self.with(i, |d, _| d.event())? {
                Event::Buffer(e) => return Some(self.look(i, e)),
                other => self.ends[i].others.push(other),
            }
        }
    }

    /// Takes the events of buffers.
    pub(super) fn take(&mut self, i: usize) -> Vec<Told> {
        std::iter::from_fn(|| self.next(i)).collect()
    }

    fn look(&mut self, i: usize, e: BufEvent) -> Told {
        let end = &mut self.ends[i];
        let seen: Vec<u8> = e.parts().collect::<Vec<_>>().concat();
        let BufEvent { id, queue, status, len, offset, ep, buffer, pool, .. } = e;
        let recv = matches!(queue, Queue::MsgRecv | Queue::PassiveRecv | Queue::ActiveRecv);
        let known = end.open.contains(&id) || pool.is_some() && end.pooled.contains(&id);
        assert!(known, "an event of a buffer that is not queued: {id:?}, {status}");
        assert_eq!(ep.is_some(), queue == Queue::MsgRecv && status == 0);
        assert!(status == 0 || (buffer.is_some() && len == 0), "an error that is not the last event");
        let from = ep.map(|ep| get(&end.d).ep_name(ep).unwrap());
        let bytes = match &buffer {
            _ if !recv || status != 0 => Vec::new(),
            Some(b) => b.bytes(offset, len).collect::<Vec<_>>().concat(),
            None => {
                // Memory of its own has them, too; lent ones are there alone.
                let kept = get(&end.d).queued(id).unwrap().bytes(offset, len).collect::<Vec<_>>().concat();
                assert!(seen.is_empty() || kept == seen);
                kept
            }
        };
        assert!(!recv || bytes.len() as u64 == len, "{} of {len} bytes", bytes.len());
        let last = buffer.is_some();
        assert_eq!(last, get(&end.d).queued(id).is_none());
        if let Some(b) = buffer {
            end.open.remove(&id);
            assert!(end.home.insert(id, b).is_none());
        }
        Told { id, queue, status, bytes, offset, from, last, pool }
    }

    /// Buffers of a machine whose last event has not come.
    pub(super) fn open(&self, i: usize) -> Vec<BufId> {
        let mut all: Vec<BufId> = self.ends[i].open.iter().copied().collect();
        all.sort_by_key(|b| format!("{b:?}"));
        all
    }

    /// Gives up every buffer of a machine, those of its pool among them.
    pub(super) fn del_all(&mut self, i: usize) {
        let mut all: Vec<BufId> = self.ends[i].pooled.iter().copied().collect();
        all.extend(self.open(i));
        for id in all {
            self.with(i, |d, _| d.del(id));
        }
    }

    /// Stops everything and takes it away: nothing is left, and pages that were sent are nobody's but ours.
    pub(super) fn finish(mut self) {
        for i in 0..self.ends.len() {
            if self.with(i, |d, tm| d.state(tm)) == TmState::Started {
                self.with(i, |d, tm| d.stop(tm, true)).unwrap();
            }
            for _ in 0..2000 {
                self.take(i);
                if self.with(i, |d, tm| d.state(tm)) != TmState::Stopping {
                    break;
                }
                self.run(SEC / 10);
            }
        }
        self.run(SEC);
        for i in 0..self.ends.len() {
            self.take(i);
            assert!(self.open(i).is_empty(), "{:?}", self.open(i));
            self.with(i, |d, tm| d.tm_fini(tm)).unwrap();
            let home: Vec<BufId> = self.ends[i].home.keys().copied().collect();
            for id in home {
                self.retire(i, id);
            }
            self.with(i, |d, _| d.fini()).unwrap();
        }
        self.net.run(200 * SEC);
        for end in self.ends.iter().filter(|e| self.net.nodes[e.node].alive) {
            self.net.assert_at_rest(end.node);
        }
    }
}
