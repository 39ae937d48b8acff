//! The sock transport: net buffers on transfer machines of netsock (docs/netsock.md).
//!
//! A domain over it has any number of machines, each at an address of its own, where it has its node listen
//! ([`Action::Listen`]). Machines name dials and loans for themselves: on their way out these get names of the transport, which
//! say whose they are when they come back.

mod member;

use std::collections::VecDeque;
use std::net::SocketAddr;

use self::member::{Member, MemberEvent, MemberState, Names};
use super::{
    Admitted, BufId, Came, Desc, Done, Job, Limits, Memory, NetError, RpcSizes, Said, Sink, TmId, Xprt,
};
use crate::hash::OwnMap;
use crate::netsock::{self, Completion, Config, Notice, Op, Stats, Tm, TmError, Unadded};
use crate::stream::slab::{Key, Slab};
use crate::stream::timers::Timers;
use crate::stream::{
    Action, Close, ConnId, DialError, DialId, Happened, LendId, ListenError, Protocol, SendMsg,
};
use crate::wire::netsock::{Addr, BDESC_LEN, Bdesc, Name, errno};

/// Bytes of a segment that RPC is told.
const RPC_SEGMENT: u64 = 128 << 10;
/// Bytes of the smallest message that RPC is told.
const RPC_LEAST: u64 = 4096;

/// The sock transport, and as a [`Protocol`] what it does on streams.
#[derive(Debug)]
pub struct Sock {
    cfg: Config,
    machines: Slab<Member>,
    by_tm: OwnMap<TmId, Key>,
    conns: OwnMap<ConnId, Key>,
    dials: Names,
    loans: Names,
    /// Machines that may want something done on streams.
    ready: VecDeque<Key>,
    timers: Timers,
    due: Vec<u32>,
    /// The transport's own, and those of machines that have gone.
    actions: VecDeque<Action>,
    said: VecDeque<Said<Addr, Token>>,
    /// Counts of machines that have gone.
    gone: Stats,
    down: bool,
}

/// Names one use of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(Key, netsock::BufId);

impl Sock {
    /// The transport. `cfg` is that of all its machines, but for the address: each has its own, which is not looked at before.
    ///
    /// # Errors
    /// There can be no machine of this configuration.
    pub fn new(cfg: Config) -> Result<Sock, TmError> {
        Tm::new(cfg.clone())?;
        Ok(Sock {
            cfg,
            machines: Slab::new(),
            by_tm: OwnMap::default(),
            conns: OwnMap::default(),
            dials: Names::default(),
            loans: Names::default(),
            ready: VecDeque::new(),
            timers: Timers::new(),
            due: Vec::new(),
            actions: VecDeque::new(),
            said: VecDeque::new(),
            gone: Stats::default(),
            down: false,
        })
    }

    /// The machines, those that close their connections among them.
    pub fn machines(&self) -> impl Iterator<Item = &Tm> {
        self.members().map(|m| &m.machine)
    }

    /// Counts of all machines since the start.
    pub fn stats(&self) -> Stats {
        self.machines().fold(self.gone, |sum, m| sum.and(m.stats()))
    }

    /// The next connection that was ended for what its peer did.
    pub fn notice(&mut self) -> Option<Notice> {
        (0..self.machines.capacity()).find_map(|i| {
            let key = self.machines.key_at(i)?;
            self.machines.get_mut(key)?.machine.notice()
        })
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.machines.values()
    }

    /// The machine that is to listen, or listens, at an address.
    fn at(&self, local: SocketAddr) -> Option<Key> {
        let all = self.machines.keys();
        let mut live = all.filter(|k| self.machines.get(*k).is_some_and(|m| m.state != MemberState::Leaving));
        live.find(|k| self.machines.get(*k).is_some_and(|m| m.at == local))
    }

    /// The lowest address of a name, behind `after`, that no machine has.
    fn free(&self, name: Name, after: Option<Addr>) -> Result<Addr, NetError> {
        let taken = |a: &Addr| a.reached().is_some_and(|at| self.at(at).is_some());
        let mut rest = name.candidates().skip_while(|a| after.is_some_and(|after| a.port <= after.port));
        match (rest.find(|a| !taken(a)), name) {
            (Some(a), _) => Ok(a),
            (None, Name::Addr(a)) => Err(NetError::Taken(a.to_string())),
            (None, Name::Any { ip, portal }) => {
                Err(crate::wire::netsock::NameError::NoTmid { ip, portal }.into())
            }
        }
    }

    fn make(&self, now: u64, addr: Addr) -> Result<(Tm, SocketAddr), NetError> {
        // Cookies of a machine that was there before are never used again: it had fewer buffers than ns have passed.
        let first_generation = self.cfg.first_generation.saturating_add(now);
        let machine = Tm::new(Config { addr, first_generation, ..self.cfg.clone() })?;
        let at = addr.reached().ok_or(TmError::Addr(addr))?;
        Ok((machine, at))
    }

    /// A machine was told something: what it has done, wants to do, and when, is looked at.
    fn touched(&mut self, now: u64, key: Key) {
        let Some(m) = self.machines.get_mut(key) else { return };
        while let Some(c) = m.machine.done() {
            self.said.push_back(Said::Done(done(key, c)));
        }
        if m.machine.take_starved() {
            self.said.push_back(Said::Starved(m.tm));
        }
        if !std::mem::replace(&mut m.listed, true) {
            self.ready.push_back(key);
        }
        self.timers.by(now, key, m.machine.deadline().unwrap_or(u64::MAX));
        if m.state == MemberState::Leaving && m.machine.is_at_rest() {
            self.let_go(key);
        }
    }

    /// A machine has come to its end.
    fn let_go(&mut self, key: Key) {
        while let Some(a) = self.machines.get_mut(key).and_then(|m| m.machine.act()) {
            let a = self.named(key, a);
            self.actions.extend(a);
        }
        let Some(m) = self.machines.remove(key) else { return };
        self.timers.cancel(key);
        self.gone = self.gone.and(m.machine.stats());
        self.by_tm.remove(&m.tm);
        if m.stopped {
            self.said.push_back(Said::Stopped(m.tm));
        }
    }

    /// A machine takes nothing more: what it has comes to its end.
    fn leave(&mut self, now: u64, key: Key) {
        let Some(m) = self.machines.get_mut(key) else { return };
        if m.state.apply(MemberEvent::Leave).is_some() {
            self.actions.push_back(Action::Unlisten(m.at));
            m.machine.shut_down(now);
        }
        self.touched(now, key);
    }

    /// A machine fails.
    fn fail(&mut self, now: u64, key: Key, status: i32) {
        let Some(m) = self.machines.get(key).filter(|m| m.state != MemberState::Leaving) else { return };
        self.said.push_back(Said::Failed(m.tm, status));
        self.leave(now, key);
    }

    /// The node listens at a machine's address, or does not.
    fn listening(&mut self, now: u64, at: SocketAddr, done: Result<(), ListenError>) {
        let Some(key) = self.at(at) else { return };
        let Some(m) = self.machines.get_mut(key) else { return };
        let (tm, addr, name) = (m.tm, m.machine.addr(), m.name);
        match done {
            Ok(()) => {
                if m.state.apply(MemberEvent::Listens).is_some() {
                    self.said.push_back(Said::Started(tm, addr));
                }
            }
            // Another process has that number: the next one will do.
            Err(ListenError::InUse)
                if m.state == MemberState::Opening && matches!(name, Name::Any { .. }) =>
            {
                match self.free(name, Some(addr)).and_then(|a| self.make(now, a)) {
                    Ok((machine, at)) => {
                        if let Some(m) = self.machines.get_mut(key) {
                            (m.machine, m.at) = (machine, at);
                        }
                        self.actions.push_back(Action::Listen(at));
                    }
                    Err(why) => self.fail(now, key, why.errno()),
                }
            }
            Err(why) => self.fail(now, key, status(why)),
        }
    }

    /// An action of a machine, by the transport's names. Netsock holds no loan, so there is none to let go.
    fn named(&mut self, key: Key, action: Action) -> Option<Action> {
        Some(match action {
            Action::Dial(mut d) => {
                d.id = DialId(self.dials.give(key, d.id.0));
                Action::Dial(d)
            }
            Action::Send(c, m) => {
                let lend = m.lend.map(|l| LendId(self.loans.give(key, l.0)));
                Action::Send(c, SendMsg { lend, ..m })
            }
            Action::Datagram(path, m) => {
                let lend = m.lend.map(|l| LendId(self.loans.give(key, l.0)));
                Action::Datagram(path, SendMsg { lend, ..m })
            }
            Action::Unhold(..) => return None,
            other => other,
        })
    }
}

/// Linux's number for it.
fn status(why: ListenError) -> i32 {
    match why {
        ListenError::InUse => errno::EADDRINUSE,
        ListenError::NotOurs => errno::EADDRNOTAVAIL,
        ListenError::Denied => errno::EACCES,
        ListenError::Local => errno::ENETDOWN,
    }
}

fn done(key: Key, c: Completion) -> Done<Addr, Token> {
    let Completion { id, tag, status, len, offset, from, sink, .. } = c;
    let came = sink.map_or(Came::Nothing, Came::In);
    Done {
        buf: BufId(Key::from_word(tag)),
        token: Token(key, id),
        status,
        len,
        offset,
        from,
        came,
        retained: false,
    }
}

impl Xprt for Sock {
    type Addr = Addr;
    type Token = Token;

    fn limits(&self) -> Limits {
        let most = i64::MAX as u64;
        Limits { buffer: most, segment: most, segments: i32::MAX as u64 / 2, desc: BDESC_LEN }
    }

    fn enforces_limits(&self) -> bool {
        false
    }

    fn rpc_sizes(&self, message: u64) -> RpcSizes {
        let most = self.limits().buffer;
        let message = if message == 0 { most } else { message.clamp(RPC_LEAST, most) };
        RpcSizes { segment: RPC_SEGMENT, segments: 1, message, messages: 1 }
    }

    fn address(&self, name: &str) -> Result<Addr, NetError> {
        match Name::parse(name)? {
            Name::Addr(a) => Ok(a),
            Name::Any { .. } => Err(NetError::Star(name.to_owned())),
        }
    }

    fn start(&mut self, now: u64, tm: TmId, name: &str) -> Result<(), NetError> {
        let name = Name::parse(name)?;
        if self.down {
            return Err(netsock::AddError::Down.into());
        }
        let addr = self.free(name, None)?;
        let (machine, at) = self.make(now, addr)?;
        let key = self.machines.insert(Member::new(tm, machine, at, name));
        self.by_tm.insert(tm, key);
        self.actions.push_back(if addr.is_dgram() { Action::Bind(at) } else { Action::Listen(at) });
        Ok(())
    }

    fn stop(&mut self, now: u64, tm: TmId) {
        let Some(key) = self.by_tm.get(&tm).copied() else { return self.said.push_back(Said::Stopped(tm)) };
        if let Some(m) = self.machines.get_mut(key) {
            m.stopped = true;
        }
        self.leave(now, key);
    }

    fn add(
        &mut self,
        now: u64,
        tm: TmId,
        buf: BufId,
        mem: &mut Memory,
        job: Job<'_, Addr>,
        until: Option<u64>,
    ) -> Result<Admitted<Token>, NetError> {
        let key = self.by_tm.get(&tm).copied().ok_or(NetError::Gone("a transfer machine"))?;
        let Some(Member { machine, .. }) = self.machines.get_mut(key) else {
            return Err(NetError::Gone("a transfer machine"));
        };
        let desc = match job {
            Job::ActiveRecv { desc } | Job::ActiveSend { desc, .. } => Bdesc::parse(desc.bytes())?,
            _ => Bdesc::default(),
        };
        let op = match job {
            Job::MsgSend { len, to } => Op::MsgSend { to, data: mem.pages(len).unwrap_or_default() },
            Job::PassiveSend { len } => Op::PassiveSend(mem.pages(len).unwrap_or_default()),
            Job::ActiveSend { len, .. } => Op::ActiveSend { desc, data: mem.pages(len).unwrap_or_default() },
            Job::MsgRecv { .. } => Op::MsgRecv(taken(mem)),
            Job::PassiveRecv => Op::PassiveRecv(taken(mem)),
            Job::ActiveRecv { .. } => Op::ActiveRecv { desc, sink: taken(mem) },
        };
        match machine.add(now, op, buf.0.word(), until) {
            Ok(added) => {
                self.touched(now, key);
                let desc = added.desc.map(|d| Desc::of(d.emit()));
                Ok(Admitted { token: Token(key, added.id), desc })
            }
            Err(Unadded { why, op }) => {
                if let Op::MsgRecv(s) | Op::PassiveRecv(s) | Op::ActiveRecv { sink: s, .. } = op {
                    *mem = Memory::Recv(s);
                }
                Err(why.into())
            }
        }
    }

    fn del(&mut self, now: u64, Token(key, id): Token) {
        if let Some(m) = self.machines.get_mut(key) {
            m.machine.cancel(now, id);
            self.touched(now, key);
        }
    }

    fn turn(&mut self, _: u64) {}

    fn deadline(&self) -> Option<u64> {
        Protocol::deadline(self)
    }

    fn buffers(&self) -> usize {
        self.machines().map(Tm::buffers).sum()
    }

    fn unreached(&self, tm: TmId, addr: &Addr) -> Option<DialError> {
        self.machines.get(*self.by_tm.get(&tm)?)?.machine.unreached(addr)
    }

    fn is_of(&self, desc: &Desc, addr: &Addr) -> bool {
        // Nonsense is refused as such when the buffer is added.
        Bdesc::parse(desc.bytes()).ok().and_then(|d| d.addr.ip()).is_none_or(|ip| Some(ip) == addr.ip())
    }

    fn said(&mut self) -> Option<Said<Addr, Token>> {
        self.said.pop_front()
    }
}

/// The memory that a machine needs until the end of the buffer.
fn taken(mem: &mut Memory) -> Sink {
    match std::mem::replace(mem, Memory::Send(crate::stream::Pages::new())) {
        Memory::Recv(sink) => sink,
        other => {
            // The domain has looked: such a buffer is refused before.
            *mem = other;
            Sink::Into(super::RecvVec::default())
        }
    }
}

impl Protocol for Sock {
    fn handle(&mut self, now: u64, happened: Happened<'_>) {
        let (key, happened) = match happened {
            Happened::Opened(c, mut info) => {
                let key = match info.dial {
                    Some(d) => self.dials.take(d.0).map(|(key, name)| {
                        info.dial = Some(DialId(name));
                        key
                    }),
                    None => self.at(info.local),
                };
                let Some(key) = key.filter(|k| self.machines.get(*k).is_some()) else {
                    return self.actions.push_back(Action::Close(c, Close::Abort));
                };
                self.conns.insert(c, key);
                (key, Happened::Opened(c, info))
            }
            Happened::DialFailed(d, why) => match self.dials.take(d.0) {
                Some((key, name)) => (key, Happened::DialFailed(DialId(name), why)),
                None => return,
            },
            Happened::Released(l) => match self.loans.take(l.0) {
                Some((key, name)) => (key, Happened::Released(LendId(name))),
                None => return,
            },
            Happened::Listening(at, done) => return self.listening(now, at, done),
            Happened::Datagram(path, ..) | Happened::Undelivered(path, _) => {
                let Some(key) = self.at(path.local()) else { return };
                (key, happened)
            }
            Happened::Closed(c, why) => match self.conns.remove(&c) {
                Some(key) => (key, Happened::Closed(c, why)),
                None => return,
            },
            Happened::Progress(c, _)
            | Happened::Bytes(c, _)
            | Happened::LastBytes(c)
            | Happened::PeerFin(c)
            | Happened::Ended(c) => {
                let Some(key) = self.conns.get(&c).copied() else { return };
                (key, happened)
            }
        };
        if let Some(m) = self.machines.get_mut(key) {
            m.machine.handle(now, happened);
            self.touched(now, key);
        }
    }

    fn act(&mut self) -> Option<Action> {
        loop {
            if let Some(a) = self.actions.pop_front() {
                return Some(a);
            }
            let key = self.ready.front().copied()?;
            let Some(m) = self.machines.get_mut(key) else {
                self.ready.pop_front();
                continue;
            };
            match m.machine.act() {
                Some(a) => match self.named(key, a) {
                    None => continue,
                    named => return named,
                },
                None => {
                    m.listed = false;
                    self.ready.pop_front();
                }
            }
        }
    }

    fn deadline(&self) -> Option<u64> {
        Some(self.timers.wake()).filter(|t| *t < u64::MAX)
    }

    fn timer(&mut self, now: u64) {
        let mut due = std::mem::take(&mut self.due);
        self.timers.due(now, &mut due);
        for i in due.drain(..) {
            let Some(key) = self.machines.key_at(i as usize) else { continue };
            if let Some(m) = self.machines.get_mut(key) {
                m.machine.timer(now);
                self.touched(now, key);
            }
        }
        self.due = due;
    }

    fn counts(&self, each: &mut dyn FnMut(&'static str, u64)) {
        let gauges = self.machines().fold(netsock::Gauges::default(), |sum, m| sum.and(m.gauges()));
        netsock::counts(&self.stats(), &gauges, each);
    }

    fn shut_down(&mut self, now: u64) {
        self.down = true;
        for i in 0..self.machines.capacity() {
            if let Some(key) = self.machines.key_at(i) {
                self.fail(now, key, errno::ESHUTDOWN);
            }
        }
    }
}
