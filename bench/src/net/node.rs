//! The node that answers: messages go back as they came, and bulk is filled and fetched.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hugepages::{Backing, PageRunMut};
use transport::net::{
    BufEvent, BufId, Buffer, Domain, EpId, Event, NetApp, Queue, Request, TmId, TmState, Xprt,
};
use transport::wire::netsock::errno;

use super::ask::WRONG;
use super::{ASK_LEN, Ask, AskKind, Intake, NetCtl, fill, is_filled, room, run_of, to_recv, to_send, words};
use crate::ctl::bump;

/// Longest time until it looks whether it is to stop, in ns.
const LOOK: u64 = 10_000_000;

/// Memory of a node.
#[derive(Clone, Copy, Debug)]
pub struct NodeConfig {
    /// Buffers for messages: what all clients have under way.
    pub messages: usize,
    /// Bytes of each.
    pub message: u64,
    /// Buffers for bulk, each of which may be filled from, or fetched to.
    pub bulks: usize,
    /// Bytes of each.
    pub bulk: u64,
    /// Bulk that comes in.
    pub intake: Intake,
}

/// An ask and whoever it came from; its message's buffer is kept for the answer.
struct Asked {
    ask: Ask,
    from: EpId,
    message: PageRunMut,
}

/// Memory for bulk.
struct Bulk {
    /// The buffer to fetch to, while it is not queued.
    room: Option<Buffer>,
    /// The buffer to fill from, while it is not queued.
    source: Option<Buffer>,
    /// Queued, for this.
    at: Option<(BufId, Asked)>,
}

/// The node's application.
pub struct Node {
    cfg: NodeConfig,
    ctl: Arc<NetCtl>,
    backing: Arc<dyn Backing>,
    bulks: Vec<Bulk>,
    waiting: VecDeque<Asked>,
    tm: Option<TmId>,
    next: u64,
}

impl Node {
    /// A node with pages of `backing`.
    pub fn new(cfg: NodeConfig, ctl: Arc<NetCtl>, backing: &Arc<dyn Backing>) -> Node {
        let cfg = NodeConfig { message: cfg.message.max(ASK_LEN as u64), ..cfg };
        let (bulks, waiting) = (Vec::new(), VecDeque::new());
        Node { cfg, ctl, backing: backing.clone(), bulks, waiting, tm: None, next: 0 }
    }

    fn page_run(&self, len: u64) -> Result<PageRunMut, hugepages::BackingError> {
        PageRunMut::new(self.backing.clone(), len as usize)
    }

    /// Queues all buffers for messages, and makes those for bulk.
    fn furnish<X: Xprt>(&mut self, net: &mut Domain<X>, tm: TmId) -> Result<(), String> {
        for _ in 0..self.cfg.messages {
            let run = self.page_run(self.cfg.message).map_err(|e| e.to_string())?;
            self.listen(net, tm, run)?;
        }
        let size = self.cfg.bulk.min(net.limits().buffer);
        for _ in 0..self.cfg.bulks {
            let mem = room(self.cfg.intake, size, || self.page_run(size))?;
            let mut run = self.page_run(size).map_err(|e| e.to_string())?;
            fill(&mut run, 0, 0, size as usize);
            let room = Some(net.register(mem).map_err(|u| u.why.to_string())?);
            let source = Some(to_send(net, run, size).map_err(|e| e.to_string())?);
            self.bulks.push(Bulk { room, source, at: None });
        }
        Ok(())
    }

    /// Waits for a message in a run.
    fn listen<X: Xprt>(&self, net: &mut Domain<X>, tm: TmId, run: PageRunMut) -> Result<(), String> {
        let buffer = to_recv(net, run).map_err(|e| e.to_string())?;
        let req = Request::MsgRecv { min_size: buffer.size(), max_msgs: 1 };
        if let Err(u) = net.add(tm, buffer, &req, None) {
            let _ = net.deregister(u.buffer);
            return Err(u.why.to_string());
        }
        Ok(())
    }

    /// The same, where a machine that goes down is no error.
    fn listen_again<X: Xprt>(&self, net: &mut Domain<X>, tm: TmId, run: Option<PageRunMut>) {
        if let Some(run) = run
            && net.state(tm) == TmState::Started
            && let Err(e) = self.listen(net, tm, run)
        {
            self.ctl.fail(format!("a buffer for messages: {e}"));
        }
    }

    /// Sends `len` bytes of a run, which waits for a message again when they are gone.
    fn send<X: Xprt>(&self, net: &mut Domain<X>, (tm, to): (TmId, EpId), run: PageRunMut, len: u64) {
        let Ok(buffer) = to_send(net, run, len) else { return };
        if let Err(u) = net.add(tm, buffer, &Request::MsgSend { to, len }, None) {
            bump(&self.ctl.failed, 1);
            let run = run_of(net, u.buffer);
            self.listen_again(net, tm, run);
        }
    }

    fn message<X: Xprt>(&mut self, net: &mut Domain<X>, e: BufEvent) {
        let Some(buffer) = e.buffer else { return };
        let ask = buffer.bytes(e.offset, e.len).next().and_then(Ask::parse);
        let run = run_of(net, buffer);
        let (Some(run), 0, Some(from)) = (run, e.status, e.ep) else { return };
        match ask {
            Some(ask) if ask.kind != AskKind::Done && ask.desc.is_some() => {
                if net.ep_get(from).is_ok() {
                    self.waiting.push_back(Asked { ask, from, message: run });
                    self.serve(net, e.tm);
                }
            }
            None if e.len > 0 => {
                bump(&self.ctl.completed, 1);
                bump(&self.ctl.bytes, e.len);
                self.send(net, (e.tm, from), run, e.len);
            }
            // Nothing that could be answered.
            _ => self.listen_again(net, e.tm, Some(run)),
        }
    }

    /// Begins what waits, as long as there is memory for it.
    fn serve<X: Xprt>(&mut self, net: &mut Domain<X>, tm: TmId) {
        while let Some(i) = self.bulks.iter().position(|b| b.at.is_none())
            && let Some(asked) = self.waiting.pop_front()
        {
            if let Err((asked, status)) = self.begin(net, tm, i, asked) {
                self.answer(net, tm, asked, status);
            }
        }
    }

    #[expect(clippy::result_large_err, reason = "the ask itself comes back, unboxed")]
    fn begin<X: Xprt>(
        &mut self,
        net: &mut Domain<X>,
        tm: TmId,
        i: usize,
        asked: Asked,
    ) -> Result<(), (Asked, i32)> {
        let Ask { kind, check, len, seed, .. } = asked.ask;
        let Some(desc) = asked.ask.desc.clone() else { return Err((asked, errno::EINVAL)) };
        let Some(bulk) = self.bulks.get_mut(i) else { return Err((asked, errno::ENOBUFS)) };
        let (buffer, req) = match kind {
            AskKind::Fetch => (bulk.room.take(), Request::ActiveRecv { desc }),
            _ => {
                let mut source = bulk.source.take();
                if check && let Some(mut run) = source.take().and_then(|b| run_of(net, b)) {
                    let size = run.len() as u64;
                    fill(&mut run, seed, 0, len.min(size) as usize);
                    source = to_send(net, run, size).ok();
                }
                (source, Request::ActiveSend { desc, len })
            }
        };
        let Some(buffer) = buffer else { return Err((asked, errno::ENOBUFS)) };
        let put_back = |bulk: &mut Bulk, b| match kind {
            AskKind::Fetch => bulk.room = Some(b),
            _ => bulk.source = Some(b),
        };
        if len > buffer.size() {
            put_back(bulk, buffer);
            return Err((asked, errno::EMSGSIZE));
        }
        match net.add(tm, buffer, &req, None) {
            Ok(added) => {
                bulk.at = Some((added.id, asked));
                Ok(())
            }
            Err(u) => {
                put_back(bulk, u.buffer);
                Err((asked, u.why.errno()))
            }
        }
    }

    /// The end of a bulk operation.
    fn bulk<X: Xprt>(&mut self, net: &mut Domain<X>, e: BufEvent) {
        let (Some(mut buffer), id) = (e.buffer, e.id) else { return };
        let Some(bulk) = self.bulks.iter_mut().find(|b| b.at.as_ref().is_some_and(|a| a.0 == id)) else {
            return;
        };
        let Some((_, asked)) = bulk.at.take() else { return };
        let mut status = e.status;
        if e.queue == Queue::ActiveRecv {
            if asked.ask.check && status == 0 {
                bump(&self.ctl.checked, 1);
                if !is_filled(buffer.bytes(e.offset, e.len), asked.ask.seed, asked.ask.len) {
                    bump(&self.ctl.wrong, 1);
                    status = WRONG as i32;
                }
            }
            // What was lent goes home at once.
            buffer.clear();
            bulk.room = Some(buffer);
        } else {
            bulk.source = Some(buffer);
        }
        if status == 0 {
            bump(&self.ctl.completed, 1);
            bump(&self.ctl.bytes, e.len);
        }
        self.answer(net, e.tm, asked, status);
        self.serve(net, e.tm);
    }

    /// Answers an ask where its end does not tell the asker all: that bytes were looked at, or that it failed.
    fn answer<X: Xprt>(&mut self, net: &mut Domain<X>, tm: TmId, asked: Asked, status: i32) {
        let Asked { ask, from, message: mut run } = asked;
        if status != 0 {
            bump(&self.ctl.failed, 1);
        }
        let told = status == 0 && !(ask.check && ask.kind == AskKind::Fetch);
        if told || net.state(tm) != TmState::Started {
            self.listen_again(net, tm, Some(run));
        } else {
            let done = Ask { kind: AskKind::Done, status: status.unsigned_abs(), desc: None, ..ask };
            done.write(run.bytes_mut());
            self.send(net, (tm, from), run, ASK_LEN as u64);
        }
        let _ = net.ep_put(from);
    }
}

impl<X: Xprt> NetApp<X> for Node {
    fn event(&mut self, net: &mut Domain<X>, event: Event) {
        match event {
            Event::State { tm, state: TmState::Started, ep, .. } => {
                self.tm = Some(tm);
                if let Err(e) = self.furnish(net, tm) {
                    self.ctl.fail(e);
                }
                self.ctl.came_up(ep.and_then(|e| net.ep_name(e).ok()).unwrap_or_default());
            }
            Event::State { tm, state: TmState::Stopped | TmState::Failed, status, .. } => {
                if self.tm.is_none() {
                    self.ctl.fail(format!("the transfer machine does not start: {}", words(status)));
                }
                let _ = net.tm_fini(tm);
                self.ctl.done.store(true, Ordering::Release);
            }
            Event::Buffer(e) => match e.queue {
                Queue::MsgRecv => self.message(net, e),
                Queue::MsgSend => {
                    if e.status != 0 {
                        bump(&self.ctl.failed, 1);
                    }
                    let run = e.buffer.and_then(|b| run_of(net, b));
                    self.listen_again(net, e.tm, run);
                }
                _ => self.bulk(net, e),
            },
            _ => {}
        }
    }

    fn turn(&mut self, net: &mut Domain<X>) {
        self.next = net.now() + LOOK;
        if let Some(tm) = self.tm
            && self.ctl.stop.load(Ordering::Relaxed)
            && net.state(tm) == TmState::Started
        {
            for asked in self.waiting.drain(..) {
                let _ = net.ep_put(asked.from);
            }
            let _ = net.stop(tm, true);
        }
    }

    fn deadline(&self) -> Option<u64> {
        Some(self.next)
    }
}
