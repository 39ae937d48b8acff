//! The transfer machine: its tables, buffers in, completions out, and what it is as a protocol on streams.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use fsm::Fsm;

use super::buffer::{self, Buf, BufEvent, BufState, Place};
use super::conn::Conn;
use super::dgram_send::Outbox;
use super::list::{Links, List};
use super::parts::Parts;
use super::peer::Peer;
use super::press::Press;
use super::{
    AddError, Added, BufId, Completion, Config, Gauges, Notice, Op, Queue, Refusal, Stats, TmError, Unadded,
};
use crate::hash::OwnMap;
use crate::stream::slab::{Key, Slab};
use crate::stream::timers::Timers;
use crate::stream::{Action, ConnId, DialError, Happened, LendId, Pages, Protocol};
use crate::wire::netsock::{Addr, Bdesc, Cookie, errno};

/// Refusals that wait for [`Tm::notice`].
const NOTICES: usize = 64;

/// A transfer machine. [`Protocol::act`] is to be asked after each call that takes a time.
pub struct Tm {
    pub(super) cfg: Config,
    pub(super) ip: IpAddr,
    pub(super) at: SocketAddr,
    pub(super) now: u64,
    pub(super) bufs: Slab<Buf>,
    pub(super) conns: Slab<Conn>,
    pub(super) by_id: OwnMap<ConnId, Key>,
    pub(super) peers: Slab<Peer>,
    /// Descriptors, which peers make, say who is here: their keys are hashed with a secret.
    pub(super) by_addr: HashMap<Addr, Key>,
    /// Connections that peers have made, in all and by host.
    pub(super) accepted: usize,
    pub(super) hosts: HashMap<IpAddr, usize>,
    /// Buffers for messages, in their order.
    pub(super) messages: List,
    /// Connections whose message has no buffer, in the order in which it came.
    pub(super) parked: List,
    pub(super) press: Press,
    pub(super) generation: u64,
    /// Loans so far.
    pub(super) loans: u64,
    pub(super) buf_timers: Timers,
    pub(super) conn_timers: Timers,
    pub(super) peer_timers: Timers,
    pub(super) part_timers: Timers,
    due: Vec<u32>,
    pub(super) outbox: Outbox,
    pub(super) parts: Parts,
    pub(super) actions: VecDeque<Action>,
    pub(super) done: VecDeque<Completion>,
    notices: VecDeque<Notice>,
    /// Refusals by name.
    refusals: BTreeMap<&'static str, u64>,
    pub(super) stats: Stats,
    /// A message found no buffer since somebody asked.
    pub(super) starved: bool,
    pub(super) down: bool,
}

impl std::fmt::Debug for Tm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tm({}, {:?})", self.cfg.addr, self.gauges())
    }
}

impl Tm {
    /// A machine without connections. The runtime must listen at its address.
    ///
    /// # Errors
    /// [`TmError`]
    pub fn new(cfg: Config) -> Result<Tm, TmError> {
        let Some(at) = cfg.addr.reached() else { return Err(TmError::Addr(cfg.addr)) };
        if cfg.buffers > 1 << buffer::SLOT_BITS {
            return Err(TmError::Buffers(cfg.buffers));
        }
        Ok(Tm {
            ip: at.ip(),
            at,
            now: 0,
            bufs: Slab::new(),
            conns: Slab::new(),
            by_id: OwnMap::default(),
            peers: Slab::new(),
            by_addr: HashMap::new(),
            accepted: 0,
            hosts: HashMap::new(),
            messages: List::EMPTY,
            parked: List::EMPTY,
            press: Press::default(),
            generation: cfg.first_generation,
            loans: 0,
            buf_timers: Timers::new(),
            conn_timers: Timers::new(),
            peer_timers: Timers::new(),
            part_timers: Timers::new(),
            due: Vec::new(),
            outbox: Outbox::new(cfg.datagrams.burst),
            parts: Parts::new(),
            actions: VecDeque::new(),
            done: VecDeque::new(),
            notices: VecDeque::new(),
            refusals: BTreeMap::new(),
            stats: Stats::default(),
            starved: false,
            down: false,
            cfg,
        })
    }

    /// Its address.
    pub fn addr(&self) -> Addr {
        self.cfg.addr
    }

    /// Puts a buffer on its queue, at `now` in ns. Exactly one [`Completion`] follows; with [`errno::ETIMEDOUT`] soon after
    /// `until`, in ns. Nobody may write to its pages before that.
    ///
    /// # Errors
    /// [`AddError`], with the buffer.
    #[expect(clippy::result_large_err, reason = "the buffer itself comes back, unboxed")]
    pub fn add(&mut self, now: u64, op: Op, tag: u64, until: Option<u64>) -> Result<Added, Unadded> {
        self.now = self.now.max(now);
        if let Err(why) = self.may_add(&op, until) {
            return Err(Unadded { why, op });
        }
        let (queue, size) = (op.queue(), op.size());
        let (other, mut data, sink) = match op {
            Op::MsgRecv(s) | Op::PassiveRecv(s) => (Bdesc::default(), Pages::new(), Some(s)),
            Op::MsgSend { to, data } => (Bdesc { addr: to, cookie: Cookie::NONE }, data, None),
            Op::PassiveSend(data) => (Bdesc::default(), data, None),
            Op::ActiveRecv { desc, sink } => (desc, Pages::new(), Some(sink)),
            Op::ActiveSend { desc, data } => (desc, data, None),
        };
        data.retain(|p| !p.is_empty());
        let (until, generation) = (until.unwrap_or(u64::MAX), self.generation);
        self.generation += 1;
        let b = self.bufs.insert_with(|key| Buf {
            queue,
            tag,
            until,
            cookie: buffer::cookie(key, queue, generation),
            state: Fsm::START,
            other,
            data,
            len: if sink.is_some() { 0 } else { size },
            sink,
            at: (0, 0),
            conn: Key::NOWHERE,
            end: 0,
            filler: Key::NOWHERE,
            part: Key::NOWHERE,
            cut: 0,
            idx: 0,
            lent: 0,
            fate: None,
            cancelled: None,
            given_up: false,
            place: Place::Nowhere,
            links: Links::NONE,
        });
        self.buf_timers.by(now, b, until);
        let cookie = self.bufs.get(b).map_or(Cookie::NONE, |b| b.cookie);
        let passive = matches!(queue, Queue::PassiveRecv | Queue::PassiveSend);
        let desc = passive.then_some(Bdesc { addr: self.cfg.addr, cookie });
        match queue {
            Queue::MsgRecv => {
                self.moves(b, BufEvent::Listen);
                self.press.longest = self.press.longest.max(size);
                self.wait_for_message(b, false);
            }
            Queue::PassiveRecv | Queue::PassiveSend => self.moves(b, BufEvent::Listen),
            Queue::MsgSend | Queue::ActiveRecv | Queue::ActiveSend => {
                self.moves(b, BufEvent::Write);
                self.write(b);
            }
        }
        Ok(Added { id: b.into(), desc })
    }

    fn may_add(&self, op: &Op, until: Option<u64>) -> Result<(), AddError> {
        if self.down {
            return Err(AddError::Down);
        }
        if until.is_some_and(|t| t <= self.now) {
            return Err(AddError::Past);
        }
        if op.size() == 0 {
            return Err(AddError::Empty);
        }
        if let Some(to) = op.target()
            && (to.reached().is_none() || !to.same_kind(&self.cfg.addr))
        {
            return Err(AddError::Addr(to));
        }
        if let Op::ActiveRecv { desc, .. } | Op::ActiveSend { desc, .. } = op
            && desc.cookie.is_none()
        {
            return Err(AddError::NoCookie);
        }
        if self.bufs.len() >= self.cfg.buffers {
            return Err(AddError::Full(self.bufs.len()));
        }
        Ok(())
    }

    /// Gives a buffer up, at `now` in ns. Its completion follows, with [`errno::ECANCELED`] unless it is too late for that;
    /// `false` when there is none to come, or its end is known already.
    pub fn cancel(&mut self, now: u64, id: BufId) -> bool {
        self.now = self.now.max(now);
        let b = Key::from_word(id.0);
        let open = self.bufs.get(b).is_some_and(|b| b.state != BufState::Ending && b.fate.is_none());
        if open {
            self.give_up(b, errno::ECANCELED);
        }
        open
    }

    /// The next buffer that has come to its end.
    pub fn done(&mut self) -> Option<Completion> {
        self.done.pop_front()
    }

    /// The next connection that was ended for what its peer did, or datagram that was dropped for that.
    pub fn notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    pub(super) fn note(&mut self, remote: SocketAddr, why: Refusal) {
        self.stats.refused += 1;
        *self.refusals.entry(why.name()).or_default() += 1;
        if self.notices.len() < NOTICES {
            let dgram = self.cfg.addr.is_dgram();
            self.notices.push_back(Notice { remote, dgram, why });
        } else {
            self.stats.unnoticed += 1;
        }
    }

    /// The last dial to an address, which came to nothing; `None` where there is a connection, or none is wanted.
    pub fn unreached(&self, addr: &Addr) -> Option<DialError> {
        self.peers.get(*self.by_addr.get(addr)?)?.why
    }

    /// Whether it goes down.
    pub fn is_down(&self) -> bool {
        self.down
    }

    /// Counts since the start.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The gauges.
    pub fn gauges(&self) -> Gauges {
        let bufs = self.bufs.keys();
        let mut parked = 0;
        let mut at = self.parked.head();
        while let Some(c) = at {
            parked += 1;
            at = List::after(&self.conns, c);
        }
        Gauges {
            buffers: self.bufs.len(),
            conns: self.conns.len(),
            peers: self.peers.len(),
            parked,
            parts: self.parts.all.len(),
            loans: bufs.filter_map(|b| self.bufs.get(b)).map(|b| b.lent as usize).sum(),
        }
    }

    /// Whether a message found no buffer since the last call.
    pub(crate) fn take_starved(&mut self) -> bool {
        std::mem::take(&mut self.starved)
    }

    /// Buffers without completion.
    pub fn buffers(&self) -> usize {
        self.bufs.len()
    }

    /// Whether it has neither a buffer nor a connection.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.bufs.is_empty() && self.conns.is_empty()
    }

    /// Moves a buffer by its table.
    pub(super) fn moves(&mut self, b: Key, event: BufEvent) {
        if let Some(b) = self.bufs.get_mut(b) {
            let moved = b.state.apply(event);
            debug_assert!(moved.is_some(), "{event:?} in {:?}", b.state);
        }
    }

    fn expire_buffers(&mut self, now: u64) {
        let mut due = std::mem::take(&mut self.due);
        self.buf_timers.due(now, &mut due);
        for i in due.drain(..) {
            let Some(b) = self.bufs.key_at(i as usize) else { continue };
            match self.bufs.get(b).map_or(u64::MAX, |b| b.until) {
                u64::MAX => {}
                t if t <= now => self.give_up(b, errno::ETIMEDOUT),
                t => self.buf_timers.by(now, b, t),
            }
        }
        self.conn_timers.due(now, &mut due);
        for i in due.drain(..) {
            let Some(c) = self.conns.key_at(i as usize) else { continue };
            self.look(c);
        }
        self.peer_timers.due(now, &mut due);
        for i in due.drain(..) {
            if let Some(p) = self.peers.key_at(i as usize) {
                self.dial_again(p);
            }
        }
        self.part_timers.due(now, &mut due);
        for i in due.drain(..) {
            if let Some(p) = self.parts.all.key_at(i as usize) {
                self.look_at_part(p);
            }
        }
        self.due = due;
        if self.press.at <= now {
            self.press_on();
        }
        if self.outbox.wake <= now {
            self.pump_datagrams();
        }
    }
}

impl Protocol for Tm {
    fn handle(&mut self, now: u64, happened: Happened<'_>) {
        self.now = self.now.max(now);
        let of = |tm: &Tm, c: ConnId| tm.by_id.get(&c).copied();
        match happened {
            Happened::Opened(id, info) => self.opened(id, &info),
            Happened::DialFailed(d, why) => self.dial_failed(d, why),
            Happened::Released(LendId(name)) => self.released(name),
            Happened::Progress(c, p) => {
                if let Some(c) = of(self, c) {
                    self.progress(c, p);
                }
            }
            Happened::Bytes(c, rx) => {
                if let Some(c) = of(self, c) {
                    self.bytes(c, rx);
                }
            }
            // Its own time-outs end what waits.
            Happened::LastBytes(_) => {}
            Happened::PeerFin(c) => {
                if let Some(c) = of(self, c) {
                    self.peer_fin(c);
                }
            }
            Happened::Ended(c) => {
                if let Some(c) = of(self, c) {
                    self.ended(c);
                }
            }
            Happened::Closed(c, why) => self.closed(c, why),
            // The runtime listens for it, or whoever is above has it listen.
            Happened::Listening(..) => {}
            Happened::Datagram(path, len, rx) => self.datagram(path, len, rx),
            Happened::Undelivered(path, why) => self.undelivered(path, why),
        }
    }

    fn act(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn deadline(&self) -> Option<u64> {
        let t = self.buf_timers.wake().min(self.conn_timers.wake()).min(self.peer_timers.wake());
        let t = t.min(self.part_timers.wake()).min(self.outbox.wake).min(self.press.at);
        (t != u64::MAX).then_some(t)
    }

    fn timer(&mut self, now: u64) {
        self.now = self.now.max(now);
        self.expire_buffers(now);
    }

    fn counts(&self, each: &mut dyn FnMut(&'static str, u64)) {
        counts(&self.stats(), &self.gauges(), each);
        self.refusals.iter().for_each(|(name, n)| each(name, *n));
    }

    fn shut_down(&mut self, now: u64) {
        self.now = self.now.max(now);
        self.down = true;
        self.end_all();
    }
}

/// Shows `each` the names and values of counts and gauges.
pub(crate) fn counts(s: &Stats, g: &Gauges, each: &mut dyn FnMut(&'static str, u64)) {
    each("netsock_packets_rx", s.packets_rx);
    each("netsock_bytes_rx", s.bytes_rx);
    each("netsock_packets_tx", s.packets_tx);
    each("netsock_bytes_tx", s.bytes_tx);
    each("netsock_copied_bytes", s.copied);
    each("netsock_dials", s.dials);
    each("netsock_dials_failed", s.dials_failed);
    each("netsock_refused", s.refused);
    each("netsock_repeated", s.repeated);
    each("netsock_incomplete", s.incomplete);
    each("netsock_parked", s.parked);
    each("netsock_drained_bytes", s.drained);
    each("netsock_buffers", g.buffers as u64);
    each("netsock_conns", g.conns as u64);
    each("netsock_parts", g.parts as u64);
    each("netsock_loans", g.loans as u64);
}
