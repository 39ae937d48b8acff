//! The sock transport: net buffers on a transfer machine of netsock (docs/netsock.md).
//!
//! A domain over it has one port of its node, and so one machine at a time: the one at the port's address.

use std::collections::VecDeque;

use super::{
    Admitted, BufId, Came, Desc, Done, Job, Limits, Memory, NetError, RpcSizes, Said, Sink, TmId, Xprt,
};
use crate::netsock::{self, Completion, Config, Notice, Op, Tm, TmError, Unadded};
use crate::stream::slab::Key;
use crate::stream::{Action, Close, Happened, Protocol};
use crate::wire::netsock::{Addr, BDESC_LEN, Bdesc, Name, errno};

/// Bytes of a segment that RPC is told.
const RPC_SEGMENT: u64 = 128 << 10;
/// Bytes of the smallest message that RPC is told.
const RPC_LEAST: u64 = 4096;

/// The sock transport, and as a [`Protocol`] what it does on streams.
#[derive(Debug)]
pub struct Sock {
    cfg: Config,
    tm: Option<(TmId, Tm)>,
    /// The machine's buffers have ended, and its connections close.
    stopping: bool,
    /// Dials that are out.
    dials: usize,
    /// The end of connections while there is no machine.
    actions: VecDeque<Action>,
    said: VecDeque<Said<Addr, netsock::BufId>>,
    down: bool,
}

impl Sock {
    /// The transport over the port at `cfg.addr`.
    ///
    /// # Errors
    /// There can be no machine at that address.
    pub fn new(cfg: Config) -> Result<Sock, TmError> {
        Tm::new(cfg.clone())?;
        Ok(Sock {
            cfg,
            tm: None,
            stopping: false,
            dials: 0,
            actions: VecDeque::new(),
            said: VecDeque::new(),
            down: false,
        })
    }

    /// The machine, while there is one.
    pub fn machine(&self) -> Option<&Tm> {
        self.tm.as_ref().map(|t| &t.1)
    }

    /// The next connection that was ended for what its peer did.
    pub fn notice(&mut self) -> Option<Notice> {
        self.tm.as_mut()?.1.notice()
    }

    /// Whether a name means the port's address.
    fn means_here(&self, name: Name) -> bool {
        match name {
            Name::Addr(a) => a == self.cfg.addr,
            Name::Any { .. } => {
                let star =
                    self.cfg.addr.lnet_form().and_then(|f| Some(format!("{}:*", f.rsplit_once(':')?.0)));
                star.and_then(|s| Name::parse(&s).ok()) == Some(name)
            }
        }
    }

    /// Passes on what the machine has done, and lets it go when it has stopped.
    fn collect(&mut self) {
        let Some((tm, machine)) = &mut self.tm else { return };
        while let Some(c) = machine.done() {
            self.said.push_back(Said::Done(done(c)));
        }
        if self.stopping && machine.gauges().conns == 0 {
            self.said.push_back(Said::Stopped(*tm));
            while let Some(a) = machine.act() {
                self.dials += usize::from(matches!(a, Action::Dial(_)));
                self.actions.push_back(a);
            }
            (self.tm, self.stopping) = (None, false);
        }
    }
}

fn done(c: Completion) -> Done<Addr, netsock::BufId> {
    let Completion { id, tag, status, len, offset, from, sink, .. } = c;
    let came = sink.map_or(Came::Nothing, Came::In);
    Done { buf: BufId(Key::from_word(tag)), token: id, status, len, offset, from, came, retained: false }
}

impl Xprt for Sock {
    type Addr = Addr;
    type Token = netsock::BufId;

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
        if !self.means_here(Name::parse(name)?) {
            return Err(NetError::NotListening { here: self.cfg.addr, asked: name.to_owned() });
        }
        if self.tm.is_some() || self.down {
            return Err(NetError::Taken(self.cfg.addr.to_string()));
        }
        // The names of its dials may be those of the machine before it.
        if self.dials > 0 {
            return Err(NetError::Dialling);
        }
        // Cookies of the machine before it are never used again: it had fewer buffers than ns have passed.
        let cfg =
            Config { first_generation: self.cfg.first_generation.saturating_add(now), ..self.cfg.clone() };
        let addr = cfg.addr;
        let made = Tm::new(cfg).map_err(|_| NetError::NotListening { here: addr, asked: name.to_owned() })?;
        self.tm = Some((tm, made));
        self.said.push_back(Said::Started(tm, addr));
        Ok(())
    }

    fn stop(&mut self, now: u64, tm: TmId) {
        match &mut self.tm {
            Some((t, machine)) if *t == tm => {
                machine.shut_down(now);
                self.stopping = true;
                self.collect();
            }
            _ => self.said.push_back(Said::Stopped(tm)),
        }
    }

    fn add(
        &mut self,
        now: u64,
        tm: TmId,
        buf: BufId,
        mem: &mut Memory,
        job: Job<'_, Addr>,
        until: Option<u64>,
    ) -> Result<Admitted<netsock::BufId>, NetError> {
        let Some((_, machine)) = self.tm.as_mut().filter(|t| t.0 == tm) else {
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
                self.collect();
                let desc = added.desc.map(|d| Desc::of(d.emit()));
                Ok(Admitted { token: added.id, desc })
            }
            Err(Unadded { why, op }) => {
                if let Op::MsgRecv(s) | Op::PassiveRecv(s) | Op::ActiveRecv { sink: s, .. } = op {
                    *mem = Memory::Recv(s);
                }
                Err(why.into())
            }
        }
    }

    fn del(&mut self, now: u64, token: netsock::BufId) {
        if let Some((_, machine)) = &mut self.tm {
            machine.cancel(now, token);
        }
        self.collect();
    }

    fn turn(&mut self, _: u64) {
        self.collect();
    }

    fn deadline(&self) -> Option<u64> {
        Protocol::deadline(self)
    }

    fn buffers(&self) -> usize {
        self.machine().map_or(0, |m| m.gauges().buffers)
    }

    fn said(&mut self) -> Option<Said<Addr, netsock::BufId>> {
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
        let dialled = match &happened {
            Happened::Opened(_, info) => info.dial.is_some(),
            Happened::DialFailed(..) => true,
            _ => false,
        };
        self.dials -= usize::from(dialled && self.dials > 0);
        match &mut self.tm {
            Some((_, machine)) => machine.handle(now, happened),
            None => {
                if let Happened::Opened(c, _) = happened {
                    self.actions.push_back(Action::Close(c, Close::Abort));
                }
            }
        }
        self.collect();
    }

    fn act(&mut self) -> Option<Action> {
        if let Some(a) = self.actions.pop_front() {
            return Some(a);
        }
        let action = self.tm.as_mut()?.1.act()?;
        self.dials += usize::from(matches!(action, Action::Dial(_)));
        Some(action)
    }

    fn deadline(&self) -> Option<u64> {
        self.tm.as_ref()?.1.deadline()
    }

    fn timer(&mut self, now: u64) {
        if let Some((_, machine)) = &mut self.tm {
            machine.timer(now);
        }
        self.collect();
    }

    fn counts(&self, each: &mut dyn FnMut(&'static str, u64)) {
        if let Some((_, machine)) = &self.tm {
            machine.counts(each);
        }
    }

    fn shut_down(&mut self, now: u64) {
        self.down = true;
        if let Some((tm, machine)) = &mut self.tm {
            machine.shut_down(now);
            if !self.stopping {
                self.said.push_back(Said::Failed(*tm, errno::ESHUTDOWN));
            }
        }
        self.collect();
    }
}
