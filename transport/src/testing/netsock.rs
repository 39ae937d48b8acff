//! Transfer machines of netsock on the simulated network, each on a node of its own, watched: every buffer completes once, with
//! the bytes that were sent to it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hugepages::{LendOwner, PageRun};

use super::data;
use super::net::Net;
use crate::lnd::Config as NodeConfig;
use crate::netsock::{Added, BufId, Completion, Config, Op, Queue, RecvVec, Sink, Tm, Unadded};
use crate::node::{Input, Machine};
use crate::stream::{Action, Happened, Pages, Protocol};
use crate::wire::Nid;
use crate::wire::netsock::{Addr, Bdesc};

/// A machine that its node and its test share.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Tm>>);

impl Shared {
    /// A machine of this configuration.
    ///
    /// # Panics
    /// There can be none.
    pub fn new(cfg: Config) -> Shared {
        Shared(Arc::new(Mutex::new(Tm::new(cfg).expect("a machine"))))
    }

    /// The machine.
    pub fn get(&self) -> MutexGuard<'_, Tm> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Protocol for Shared {
    fn handle(&mut self, now: u64, happened: Happened<'_>) {
        self.get().handle(now, happened);
    }
    fn act(&mut self) -> Option<Action> {
        self.get().act()
    }
    fn deadline(&self) -> Option<u64> {
        self.get().deadline()
    }
    fn timer(&mut self, now: u64) {
        self.get().timer(now);
    }
    fn shut_down(&mut self, now: u64) {
        self.get().shut_down(now);
    }
}

/// A test's record of a buffer.
struct Under {
    id: BufId,
    queue: Queue,
    size: u64,
    /// Pages that must be home with the completion.
    pages: Option<PageRun>,
}

/// The end of a buffer, looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// As it was given.
    pub tag: u64,
    /// Its queue.
    pub queue: Queue,
    /// 0, or an error number.
    pub status: i32,
    /// Source of a message.
    pub from: Option<Addr>,
    /// Bytes that came.
    pub bytes: Vec<u8>,
}

/// A transfer machine on a node.
pub struct TmNode {
    /// The node's number.
    pub node: usize,
    /// Its address.
    pub addr: Addr,
    tm: Shared,
    under: HashMap<u64, Under>,
    next: u64,
    /// Tags of buffers given up by [`TmNode::cancel`].
    cancelled: Vec<u64>,
}

/// The address of a machine at 10.0.0.n.
pub fn addr(n: u8, port: u16) -> Addr {
    Addr::stream(SocketAddr::new([10, 0, 0, n].into(), port))
}

/// The address of a machine at 10.0.0.n that is reached by datagrams.
pub fn dgram_addr(n: u8, port: u16) -> Addr {
    Addr::dgram(SocketAddr::new([10, 0, 0, n].into(), port))
}

impl TmNode {
    /// A machine at an address, on a node of its own.
    ///
    /// # Panics
    /// The address is none.
    pub fn new(net: &mut Net, cfg: Config) -> TmNode {
        let addr = cfg.addr;
        let ip: IpAddr = addr.ip().expect("an address");
        let tm = Shared::new(cfg);
        let node = NodeConfig { tx_window: u64::MAX / 4, ..NodeConfig::new(Nid::tcp(ip, 0), 1) };
        let at = net.add(node.clone());
        net.nodes[at].machine =
            Machine::new(node).with(addr.port as u16, Box::new(tm.clone())).expect("a port of its own");
        TmNode { node: at, addr, tm, under: HashMap::new(), next: 0, cancelled: Vec::new() }
    }

    /// The machine.
    pub fn tm(&self) -> MutexGuard<'_, Tm> {
        self.tm.get()
    }

    fn poke(&self, net: &mut Net) {
        net.input(self.node, Input::Timer);
    }

    /// Adds a buffer; gives its tag.
    ///
    /// # Errors
    /// The machine's.
    #[expect(clippy::result_large_err, reason = "as the machine's")]
    pub fn try_add(
        &mut self,
        net: &mut Net,
        op: Op,
        pages: Option<PageRun>,
        until: Option<u64>,
    ) -> Result<(u64, Added), Unadded> {
        let tag = self.next;
        let (queue, size) = (op.queue(), op.size());
        let added = self.tm().add(net.now, op, tag, until)?;
        self.next += 1;
        self.under.insert(tag, Under { id: added.id, queue, size, pages });
        self.poke(net);
        Ok((tag, added))
    }

    fn add(
        &mut self,
        net: &mut Net,
        op: Op,
        pages: Option<PageRun>,
        until: Option<u64>,
    ) -> (u64, Option<Bdesc>) {
        let (tag, added) = self.try_add(net, op, pages, until).map_err(|u| u.why).expect("taken");
        (tag, added.desc)
    }

    /// Adds a buffer that takes a message.
    pub fn msg_recv(&mut self, net: &mut Net, size: usize, until: Option<u64>) -> u64 {
        self.add(net, Op::MsgRecv(into(size)), None, until).0
    }

    /// The same, with receive buffers lent.
    pub fn msg_recv_lent(&mut self, net: &mut Net, size: usize) -> u64 {
        self.add(net, Op::MsgRecv(lent(size)), None, None).0
    }

    /// Sends a message of the bytes of a seed.
    pub fn msg_send(&mut self, net: &mut Net, to: Addr, len: usize, seed: u64, until: Option<u64>) -> u64 {
        let (data, run) = pages(len, seed);
        self.add(net, Op::MsgSend { to, data }, Some(run), until).0
    }

    /// Adds a passive receive.
    pub fn passive_recv(&mut self, net: &mut Net, size: usize, until: Option<u64>) -> (u64, Bdesc) {
        let (tag, desc) = self.add(net, Op::PassiveRecv(into(size)), None, until);
        (tag, desc.expect("passive"))
    }

    /// Adds a passive send of the bytes of a seed.
    pub fn passive_send(&mut self, net: &mut Net, len: usize, seed: u64, until: Option<u64>) -> (u64, Bdesc) {
        let (data, run) = pages(len, seed);
        let (tag, desc) = self.add(net, Op::PassiveSend(data), Some(run), until);
        (tag, desc.expect("passive"))
    }

    /// Fetches the buffer of a descriptor.
    pub fn active_recv(&mut self, net: &mut Net, desc: Bdesc, size: usize, until: Option<u64>) -> u64 {
        self.add(net, Op::ActiveRecv { desc, sink: into(size) }, None, until).0
    }

    /// Fills the buffer of a descriptor with the bytes of a seed.
    pub fn active_send(
        &mut self,
        net: &mut Net,
        desc: Bdesc,
        (len, seed): (usize, u64),
        until: Option<u64>,
    ) -> u64 {
        let (data, run) = pages(len, seed);
        self.add(net, Op::ActiveSend { desc, data }, Some(run), until).0
    }

    /// Cancels a buffer.
    pub fn cancel(&mut self, net: &mut Net, tag: u64) -> bool {
        let Some(id) = self.under.get(&tag).map(|u| u.id) else { return false };
        let open = self.tm().cancel(net.now, id);
        self.cancelled.push(tag);
        self.poke(net);
        open
    }

    /// Tags of buffers without completion, in their order.
    pub fn under_way(&self) -> Vec<u64> {
        let mut tags: Vec<u64> = self.under.keys().copied().collect();
        tags.sort_unstable();
        tags
    }

    /// Takes completions, and looks at each: its buffer was under way, its status is one that it may have, its pages are home.
    ///
    /// # Panics
    /// Something is not so.
    pub fn take(&mut self) -> Vec<End> {
        let mut out = Vec::new();
        loop {
            let next = self.tm().done();
            let Some(c) = next else { return out };
            let under = self.under.remove(&c.tag).unwrap_or_else(|| panic!("a second completion: {c:?}"));
            assert_eq!((c.id, c.queue, c.offset), (under.id, under.queue, 0));
            assert!(c.len <= under.size && (c.status == 0 || c.len == 0), "{c:?}");
            assert!(c.status != 125 || self.cancelled.contains(&c.tag) || self.tm().is_down(), "{c:?}");
            assert_eq!(c.from.is_some(), c.queue == Queue::MsgRecv && c.status == 0);
            if let Some(run) = under.pages {
                run.try_thaw().expect("a completion with pages that are still out");
            }
            assert_eq!(c.sink.is_some(), under.size > 0 && is_recv(c.queue));
            let bytes = if c.status == 0 { received(&c) } else { Vec::new() };
            assert!(!is_recv(c.queue) || bytes.len() as u64 == c.len);
            out.push(End { tag: c.tag, queue: c.queue, status: c.status, from: c.from, bytes });
        }
    }

    /// Nothing is out: no buffer, no loan, no receive buffer.
    ///
    /// # Panics
    /// Something is.
    pub fn assert_at_rest(&self, net: &Net) {
        let g = self.tm().gauges();
        assert_eq!((g.buffers, g.loans, g.parked), (0, 0, 0), "{g:?}");
        assert!(self.under.is_empty(), "{:?}", self.under_way());
        net.assert_at_rest(self.node);
    }
}

/// Whether bytes come in on a queue.
pub fn is_recv(q: Queue) -> bool {
    matches!(q, Queue::MsgRecv | Queue::PassiveRecv | Queue::ActiveRecv)
}

/// A vector of two runs.
pub fn into(size: usize) -> Sink {
    let first = size.div_ceil(3);
    let parts = [first, size - first];
    Sink::Into(RecvVec::new(parts.into_iter().filter(|n| *n > 0).map(data::run)))
}

/// Receive buffers are lent.
pub fn lent(size: usize) -> Sink {
    Sink::Lend { most: size as u64, owner: LendOwner(3), pieces: Vec::new() }
}

/// Pages with the bytes of a seed, and their run.
pub fn pages(len: usize, seed: u64) -> (Pages, PageRun) {
    let run = data::filled(len, seed).freeze();
    let cut = (len / 3) as u32;
    let parts = [(0, cut), (cut, len as u32 - cut)];
    (parts.into_iter().filter_map(|(off, n)| run.slice(off, n)).collect(), run)
}

/// The bytes of a completed receive.
pub fn received(c: &Completion) -> Vec<u8> {
    match &c.sink {
        Some(Sink::Into(v)) => v.parts().collect::<Vec<_>>().concat(),
        Some(Sink::Lend { pieces, .. }) => pieces.iter().flat_map(|p| p.bytes().iter().copied()).collect(),
        None => Vec::new(),
    }
}
