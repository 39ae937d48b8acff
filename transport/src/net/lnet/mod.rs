//! The lnet transport (docs/protocol/netxprt.md §9): net buffers on match entries, PUTs and GETs of LNet.
//!
//! A buffer that receives is an entry, or a GET, whose payload is lent and stored by the domain, so that LNet has none of its
//! memory. Pages to send are LNet's until its event.

mod addr;
mod events;
mod table;

use std::collections::VecDeque;

pub use self::addr::LnetAddr;
pub use self::table::UseId;
use self::table::{At, Use};
use super::{Admitted, BufId, Desc, Done, Job, Limits, Memory, NetError, Queue, RpcSizes, Said, TmId, Xprt};
use crate::lnd::{AppId, Payload, Sink};
use crate::lnet::{MdMem, MdSpec, Op, PIECES_MAX};
use crate::stream::slab::{Key, Slab};
use crate::stream::timers::Timers;
use crate::wire::netsock::{BDESC_LEN, LnetDesc, LnetQueue, errno};
use crate::wire::nid::Pid;
use crate::wire::{Nid, ProcessId, lnet};

/// Bytes of a page, which Motr's segments are.
const PAGE: u64 = 4096;
/// Buffers at a time.
const BUFFERS_MAX: usize = 1 << 20;

/// Operations for LNet, in order.
type Ops = VecDeque<(AppId, Op)>;

/// A machine that is started.
#[derive(Clone, Copy, Debug)]
struct Machine {
    tm: TmId,
    addr: LnetAddr,
}

/// The lnet transport: an application of a node. Its operations are to be given to LNet, and its events to it.
#[derive(Debug)]
pub struct LnetXprt {
    app: AppId,
    nids: Vec<Nid>,
    pid: Pid,
    machines: Vec<Machine>,
    /// Number of the next passive buffer, of whichever machine.
    counter: u64,
    uses: Slab<Use>,
    ops: Ops,
    said: VecDeque<Said<LnetAddr, UseId>>,
    timers: Timers,
    due: Vec<u32>,
    /// The node goes down: no machine starts any more.
    down: bool,
}

impl LnetXprt {
    /// The transport of application `app` on a node with these NIDs.
    pub fn new(app: AppId, nids: Vec<Nid>, pid: Pid) -> LnetXprt {
        LnetXprt {
            app,
            nids,
            pid,
            machines: Vec::new(),
            counter: 1,
            uses: Slab::new(),
            ops: Ops::new(),
            said: VecDeque::new(),
            timers: Timers::new(),
            due: Vec::new(),
            down: false,
        }
    }

    /// The application that its operations and events are of.
    pub fn app(&self) -> AppId {
        self.app
    }

    /// The next operation for LNet.
    pub fn op(&mut self) -> Option<(AppId, Op)> {
        self.ops.pop_front()
    }

    fn machine(&mut self, tm: TmId) -> Option<&mut Machine> {
        self.machines.iter_mut().find(|m| m.tm == tm)
    }

    /// The address that a machine gets, or the error number with which it fails.
    fn assign(&self, mut addr: LnetAddr, star: bool) -> Result<LnetAddr, NetError> {
        if !self.nids.contains(&addr.nid) || addr.pid != self.pid {
            return Err(NetError::NotLocal(addr.nid));
        }
        if addr.nid.to_nid4().is_none() {
            return Err(NetError::LargeNid(addr.nid));
        }
        let taken = |a: &LnetAddr| self.machines.iter().any(|m| m.addr == *a);
        if star {
            let free = (1..=addr::TMID_MAX).rev().find(|tmid| !taken(&LnetAddr { tmid: *tmid, ..addr }));
            addr.tmid = free.ok_or_else(|| NetError::Taken(format!("each of {addr}")))?;
        }
        if taken(&addr) { Err(NetError::Taken(addr.to_string())) } else { Ok(addr) }
    }

    /// The name of another shape of loopback, as its node has it.
    fn real(&self, nid: Nid) -> Nid {
        if nid == Nid::LO { self.nids.first().copied().unwrap_or(nid) } else { nid }
    }

    /// Makes a place for the use of a buffer.
    fn begin(
        &mut self,
        now: u64,
        (tm, buf, lent): (TmId, BufId, bool),
        queue: Queue,
        until: Option<u64>,
    ) -> Key {
        let until = until.unwrap_or(u64::MAX);
        let at = if matches!(queue, Queue::MsgSend | Queue::ActiveSend | Queue::ActiveRecv) {
            At::Out
        } else {
            At::Asked
        };
        let key = self.uses.insert(Use { tm, buf, queue, at, until, given_up: None, came: 0, lent });
        self.timers.by(now, key, until);
        key
    }

    fn attach(&mut self, key: Key, portal: u32, match_bits: u64, md: MdSpec) {
        let tag = table::tag(key, false);
        let who = ProcessId::ANY;
        self.ops.push_back((self.app, Op::Attach { tag, portal, who, match_bits, ignore_bits: 0, md }));
    }

    /// Match bits for a new passive buffer, and its descriptor.
    fn describe(&mut self, tm: TmId, queue: LnetQueue, size: u64) -> Option<(u32, u64, Desc)> {
        let LnetAddr { nid, pid, portal, tmid } = self.machine(tm)?.addr;
        let match_bits = addr::bits(tmid, self.counter);
        self.counter = if self.counter >= addr::counters() { 1 } else { self.counter + 1 };
        let nid = nid.to_nid4()?;
        let d = LnetDesc { match_bits, nid, pid, portal, tmid: tmid.into(), queue, size };
        Some((portal, match_bits, Desc::of(d.emit())))
    }

    fn put(&mut self, key: Key, from: LnetAddr, to: ProcessId, at: (u32, u64), payload: Payload) {
        self.ops.push_back((
            self.app,
            Op::Put {
                tag: table::tag(key, false),
                target: to,
                from: Some(from.nid),
                portal: at.0,
                match_bits: at.1,
                offset: 0,
                hdr_data: from.hdr_data(),
                payload,
                ack: false,
            },
        ));
    }

    /// A buffer's end.
    fn ends(&mut self, key: Key, done: impl FnOnce(&Use) -> Done<LnetAddr, UseId>) {
        let Some(u) = self.uses.remove(key) else { return };
        self.timers.cancel(key);
        self.said.push_back(Said::Done(done(&u)));
    }
}

/// A descriptor, for the queue at the other side that it must be of.
fn read(desc: &Desc, wanted: LnetQueue) -> Result<LnetDesc, NetError> {
    let d = LnetDesc::parse(desc.bytes())?;
    match (d.queue, wanted) {
        (LnetQueue::PassiveSend, LnetQueue::PassiveRecv) => Err(NetError::Direction("be fetched")),
        (LnetQueue::PassiveRecv, LnetQueue::PassiveSend) => Err(NetError::Direction("be filled")),
        _ => Ok(d),
    }
}

/// The bytes of a size that the limits have been looked at for.
fn lend(size: u64) -> Sink {
    Sink::Lend(u32::try_from(size).unwrap_or(lnet::MTU).min(lnet::MTU))
}

impl Xprt for LnetXprt {
    type Addr = LnetAddr;
    type Token = UseId;

    fn limits(&self) -> Limits {
        Limits { buffer: lnet::MTU.into(), segment: PAGE, segments: PIECES_MAX as u64, desc: BDESC_LEN }
    }

    fn enforces_limits(&self) -> bool {
        true
    }

    fn rpc_sizes(&self, message: u64) -> RpcSizes {
        let most = u64::from(lnet::MTU);
        let message = if message == 0 { most } else { message.clamp(PAGE, most) };
        RpcSizes { segment: PAGE, segments: most / PAGE, message, messages: (most / message) as u32 }
    }

    fn address(&self, name: &str) -> Result<LnetAddr, NetError> {
        let (addr, star) = LnetAddr::parse(name)?;
        if star {
            Err(NetError::Star(name.to_owned()))
        } else {
            Ok(LnetAddr { nid: self.real(addr.nid), ..addr })
        }
    }

    fn start(&mut self, now: u64, tm: TmId, name: &str) -> Result<(), NetError> {
        let (addr, star) = LnetAddr::parse(name)?;
        let addr = LnetAddr { nid: self.real(addr.nid), ..addr };
        if self.down {
            self.said.push_back(Said::Failed(tm, errno::ESHUTDOWN));
            return Ok(());
        }
        match self.assign(addr, star) {
            Ok(addr) => {
                // Descriptors of a machine that was there before name none of this one's buffers: it had fewer than ns have passed.
                self.counter = self.counter.max(now & addr::counters());
                self.machines.push(Machine { tm, addr });
                self.said.push_back(Said::Started(tm, addr));
            }
            Err(why) => self.said.push_back(Said::Failed(tm, why.errno())),
        }
        Ok(())
    }

    fn stop(&mut self, _: u64, tm: TmId) {
        self.machines.retain(|m| m.tm != tm);
        self.said.push_back(Said::Stopped(tm));
    }

    fn add(
        &mut self,
        now: u64,
        tm: TmId,
        buf: BufId,
        mem: &mut Memory,
        job: Job<'_, LnetAddr>,
        until: Option<u64>,
    ) -> Result<Admitted<UseId>, NetError> {
        let from = self.machine(tm).map(|m| m.addr).ok_or(NetError::Gone("a transfer machine"))?;
        if self.uses.len() >= BUFFERS_MAX {
            return Err(NetError::Full(self.uses.len()));
        }
        let (size, lent) = (mem.size(), matches!(mem, Memory::Recv(super::Sink::Lend { .. })));
        let pages = |len| mem.pages(len).map_or_else(Payload::empty, Payload::Pages);
        let (token, desc) = match job {
            Job::MsgRecv { min_size, max_msgs } => {
                let key = self.begin(now, (tm, buf, lent), Queue::MsgRecv, until);
                let md = MdSpec {
                    threshold: Some(max_msgs),
                    max_size: Some(u32::try_from(min_size).unwrap_or(lnet::MTU)),
                    manage_remote: false,
                    ack_disable: true,
                    ..MdSpec::new(MdMem::Sink(lend(size)))
                };
                self.attach(key, from.portal, addr::bits(from.tmid, 0), md);
                (key, None)
            }
            Job::MsgSend { to, len } => {
                let payload = pages(len);
                let key = self.begin(now, (tm, buf, lent), Queue::MsgSend, until);
                self.put(key, from, to.process(), (to.portal, addr::bits(to.tmid, 0)), payload);
                (key, None)
            }
            Job::PassiveRecv | Job::PassiveSend { .. } => {
                let (queue, passive, size, mem) = match job {
                    Job::PassiveSend { len } => {
                        (Queue::PassiveSend, LnetQueue::PassiveSend, len, MdMem::Source(pages(len)))
                    }
                    _ => (Queue::PassiveRecv, LnetQueue::PassiveRecv, size, MdMem::Sink(lend(size))),
                };
                let (portal, match_bits, desc) =
                    self.describe(tm, passive, size).ok_or(NetError::LargeNid(from.nid))?;
                let key = self.begin(now, (tm, buf, lent), queue, until);
                let md = MdSpec {
                    threshold: Some(1),
                    manage_remote: false,
                    ack_disable: true,
                    ..MdSpec::new(mem)
                };
                self.attach(key, portal, match_bits, md);
                (key, Some(desc))
            }
            Job::ActiveRecv { desc } => {
                let d = read(desc, LnetQueue::PassiveSend)?;
                if d.size > size {
                    return Err(NetError::Fit { len: d.size, room: size });
                }
                let key = self.begin(now, (tm, buf, lent), Queue::ActiveRecv, until);
                self.ops.push_back((
                    self.app,
                    Op::Get {
                        tag: table::tag(key, false),
                        target: ProcessId { nid: Nid::from_nid4(d.nid), pid: d.pid },
                        from: Some(from.nid),
                        portal: d.portal,
                        match_bits: d.match_bits,
                        sink: lend(d.size),
                    },
                ));
                (key, None)
            }
            Job::ActiveSend { desc, len } => {
                let d = read(desc, LnetQueue::PassiveRecv)?;
                if len > d.size {
                    return Err(NetError::Fit { len, room: d.size });
                }
                let payload = pages(len);
                let key = self.begin(now, (tm, buf, lent), Queue::ActiveSend, until);
                let to = ProcessId { nid: Nid::from_nid4(d.nid), pid: d.pid };
                self.put(key, from, to, (d.portal, d.match_bits), payload);
                (key, None)
            }
        };
        Ok(Admitted { token: UseId(token), desc })
    }

    fn del(&mut self, _: u64, token: UseId) {
        self.give_up(token.0, errno::ECANCELED);
    }

    fn turn(&mut self, now: u64) {
        let mut due = std::mem::take(&mut self.due);
        self.timers.due(now, &mut due);
        for i in due.drain(..) {
            let Some(key) = self.uses.key_at(i as usize) else { continue };
            match self.uses.get(key).map_or(u64::MAX, |u| u.until) {
                u64::MAX => {}
                t if t <= now => self.give_up(key, errno::ETIMEDOUT),
                t => self.timers.by(now, key, t),
            }
        }
        self.due = due;
    }

    fn deadline(&self) -> Option<u64> {
        Some(self.timers.wake()).filter(|t| *t < u64::MAX)
    }

    fn buffers(&self) -> usize {
        self.uses.len()
    }

    fn said(&mut self) -> Option<Said<LnetAddr, UseId>> {
        self.said.pop_front()
    }
}
