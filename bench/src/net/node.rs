//! The node that answers: messages go back as they came, and bulk is filled and fetched.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hugepages::{Backing, PageRunMut};
use transport::net::{
    BufEvent, BufId, Buffer, Domain, EpId, Event, NetApp, Queue, Request, TmId, TmState, Xprt,
};
use transport::netsock::Notice;
use transport::wire::netsock::errno;

use super::ask::WRONG;
use super::{ASK_LEN, Ask, AskKind, Intake, NetCtl, fill, is_filled, room, run_of, to_recv, to_send, words};
use crate::ctl::bump;

/// Longest time until it looks whether it is to stop, in ns.
const LOOK: u64 = 10_000_000;
/// Longest time in ns that a peer holds memory which others wait for: an answer that it does not take, or bulk that it asks
/// for and then neither takes nor gives. Each [`SLOWEST`] bytes under way give it a second more.
const PATIENCE: u64 = 4_000_000_000;
const SLOWEST: u64 = 8 << 20;

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
    /// Queued since then, in ns, for this.
    at: Option<(BufId, u64, Asked)>,
}

/// An answer on its way.
struct Answer {
    id: BufId,
    since: u64,
    len: u64,
    /// The buffer whose descriptor it has.
    offers: Option<BufId>,
}

/// The node's application.
pub struct Node {
    cfg: NodeConfig,
    ctl: Arc<NetCtl>,
    backing: Arc<dyn Backing>,
    bulks: Vec<Bulk>,
    waiting: VecDeque<Asked>,
    answers: VecDeque<Answer>,
    /// Runs for answers with descriptors, one for each buffer for bulk.
    offers: Vec<PageRunMut>,
    /// Buffers that wait for messages.
    listening: usize,
    tm: Option<TmId>,
    /// The machine's own end-point.
    own: Option<EpId>,
    next: u64,
}

impl Node {
    /// A node with pages of `backing`.
    pub fn new(cfg: NodeConfig, ctl: Arc<NetCtl>, backing: &Arc<dyn Backing>) -> Node {
        let cfg = NodeConfig { message: cfg.message.max(ASK_LEN as u64), ..cfg };
        Node {
            cfg,
            ctl,
            backing: backing.clone(),
            bulks: Vec::new(),
            waiting: VecDeque::new(),
            answers: VecDeque::new(),
            offers: Vec::new(),
            listening: 0,
            tm: None,
            own: None,
            next: 0,
        }
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
            self.offers.push(self.page_run(ASK_LEN as u64).map_err(|e| e.to_string())?);
        }
        Ok(())
    }

    /// Waits for a message in a run.
    fn listen<X: Xprt>(&mut self, net: &mut Domain<X>, tm: TmId, run: PageRunMut) -> Result<(), String> {
        let buffer = to_recv(net, run).map_err(|e| e.to_string())?;
        let req = Request::MsgRecv { min_size: buffer.size(), max_msgs: 1 };
        if let Err(u) = net.add(tm, buffer, &req, None) {
            let _ = net.deregister(u.buffer);
            return Err(u.why.to_string());
        }
        self.listening += 1;
        Ok(())
    }

    /// The same, where a machine that goes down is no error.
    fn listen_again<X: Xprt>(&mut self, net: &mut Domain<X>, tm: TmId, run: Option<PageRunMut>) {
        if let Some(run) = run
            && net.state(tm) == TmState::Started
            && let Err(e) = self.listen(net, tm, run)
        {
            self.ctl.fail(format!("a buffer for messages: {e}"));
        }
    }

    /// Sends `len` bytes of a run, which waits for a message again when they are gone.
    fn send<X: Xprt>(&mut self, net: &mut Domain<X>, (tm, to): (TmId, EpId), run: PageRunMut, len: u64) {
        let Ok(buffer) = to_send(net, run, len) else { return };
        match net.add(tm, buffer, &Request::MsgSend { to, len }, None) {
            Ok(added) => {
                self.answers.push_back(Answer { id: added.id, since: net.now(), len, offers: None });
            }
            Err(u) => {
                bump(&self.ctl.failed, 1);
                let run = run_of(net, u.buffer);
                self.listen_again(net, tm, run);
            }
        }
    }

    /// Gives up what a peer does not take, or give, while others wait for the memory.
    fn give_up<X: Xprt>(&mut self, net: &mut Domain<X>, tm: TmId) {
        let now = net.now();
        let late = |since: u64, bytes: u64| {
            now.saturating_sub(since)
                > PATIENCE.saturating_add((bytes / SLOWEST).saturating_mul(1_000_000_000))
        };
        let bytes = self.answers.iter().map(|a| a.len).sum();
        let wanted = |a: &Answer| match a.offers {
            Some(_) => !self.waiting.is_empty(),
            None => self.listening == 0,
        };
        for a in self.answers.iter().filter(|a| wanted(a) && late(a.since, bytes)) {
            net.del(a.id);
        }
        if self.waiting.is_empty() {
            return;
        }
        let bytes = self.bulks.iter().filter_map(|b| b.at.as_ref()).map(|(_, _, a)| a.ask.len).sum();
        let mut silent = Vec::new();
        for (id, since, asked) in self.bulks.iter().filter_map(|b| b.at.as_ref()) {
            if late(*since, bytes) {
                net.del(*id);
                silent.push(asked.from);
            }
        }
        if silent.is_empty() {
            return;
        }
        // More of the same peer's would hold it as long again.
        let (given_up, rest): (VecDeque<_>, _) =
            self.waiting.drain(..).partition(|a| silent.contains(&a.from));
        self.waiting = rest;
        for asked in given_up {
            self.answer(net, tm, asked, errno::ETIMEDOUT);
        }
    }

    fn message<X: Xprt>(&mut self, net: &mut Domain<X>, e: BufEvent) {
        let Some(buffer) = e.buffer else { return };
        self.listening = self.listening.saturating_sub(1);
        let ask = buffer.bytes(e.offset, e.len).next().and_then(Ask::parse);
        let run = run_of(net, buffer);
        let Some(run) = run else { return };
        // A message in the machine's own name would go round for ever.
        let Some(from) = e.ep.filter(|ep| e.status == 0 && self.own != Some(*ep)) else {
            return self.listen_again(net, e.tm, Some(run));
        };
        match ask {
            Some(ask) if is_asked(&ask) => {
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
            && self.waiting.front().is_some_and(|a| !a.ask.kind.wants_offer() || !self.offers.is_empty())
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
        let desc = asked.ask.desc.clone();
        // A stranger must not have this node send to a third machine, or dial its ports.
        if desc.as_ref().is_some_and(|d| !net.is_of(d, asked.from)) {
            return Err((asked, errno::EPERM));
        }
        let Some(bulk) = self.bulks.get_mut(i) else { return Err((asked, errno::ENOBUFS)) };
        let (buffer, req) = match (kind, desc) {
            (AskKind::Fetch, Some(desc)) => (bulk.room.take(), Request::ActiveRecv { desc }),
            (AskKind::Take, _) => (bulk.room.take(), Request::PassiveRecv),
            (_, desc) => {
                let mut source = bulk.source.take();
                if check && let Some(mut run) = source.take().and_then(|b| run_of(net, b)) {
                    let size = run.len() as u64;
                    fill(&mut run, seed, 0, len.min(size) as usize);
                    source = to_send(net, run, size).ok();
                }
                (
                    source,
                    desc.filter(|_| kind == AskKind::Fill)
                        .map_or(Request::PassiveSend { len }, |desc| Request::ActiveSend { desc, len }),
                )
            }
        };
        let Some(buffer) = buffer else { return Err((asked, errno::ENOBUFS)) };
        let put_back = |bulk: &mut Bulk, b| match kind {
            AskKind::Fetch | AskKind::Take => bulk.room = Some(b),
            _ => bulk.source = Some(b),
        };
        if len > buffer.size() {
            put_back(bulk, buffer);
            return Err((asked, errno::EMSGSIZE));
        }
        match net.add(tm, buffer, &req, None) {
            Ok(added) => {
                let (to, ask) = (asked.from, asked.ask.clone());
                bulk.at = Some((added.id, net.now(), asked));
                if let Some(desc) = added.desc {
                    self.offer(
                        net,
                        (tm, to),
                        added.id,
                        &Ask { kind: AskKind::Offer, desc: Some(desc), ..ask },
                    );
                }
                Ok(())
            }
            Err(u) => {
                put_back(bulk, u.buffer);
                Err((asked, u.why.errno()))
            }
        }
    }

    /// Gives the descriptor of a passive buffer out.
    fn offer<X: Xprt>(&mut self, net: &mut Domain<X>, (tm, to): (TmId, EpId), of: BufId, offer: &Ask) {
        let Some(mut run) = self.offers.pop() else { return };
        offer.write(run.bytes_mut());
        let len = ASK_LEN as u64;
        let Ok(buffer) = to_send(net, run, len) else { return };
        match net.add(tm, buffer, &Request::MsgSend { to, len }, None) {
            Ok(added) => {
                self.answers.push_back(Answer { id: added.id, since: net.now(), len, offers: Some(of) });
            }
            Err(u) => {
                self.offers.extend(run_of(net, u.buffer));
                net.del(of);
            }
        }
    }

    /// An answer has gone, or has not.
    fn sent<X: Xprt>(&mut self, net: &mut Domain<X>, e: BufEvent) {
        // Most end in the order of their begin.
        let at = self.answers.iter().position(|a| a.id == e.id);
        let offers = at.and_then(|i| self.answers.remove(i)).and_then(|a| a.offers);
        let run = e.buffer.and_then(|b| run_of(net, b));
        if let Some(of) = offers {
            self.offers.extend(run);
            // Nobody knows of the buffer. Its end is the failure that counts.
            if e.status != 0 {
                net.del(of);
            }
            return self.serve(net, e.tm);
        }
        if e.status != 0 {
            bump(&self.ctl.failed, 1);
        }
        self.listen_again(net, e.tm, run);
    }

    /// The end of a bulk operation.
    fn bulk<X: Xprt>(&mut self, net: &mut Domain<X>, e: BufEvent) {
        let (Some(mut buffer), id) = (e.buffer, e.id) else { return };
        let Some(bulk) = self.bulks.iter_mut().find(|b| b.at.as_ref().is_some_and(|a| a.0 == id)) else {
            return;
        };
        let Some((_, _, asked)) = bulk.at.take() else { return };
        // Nobody else cancels it but a machine that stops.
        let mut status = if e.status == errno::ECANCELED { errno::ETIMEDOUT } else { e.status };
        if matches!(e.queue, Queue::ActiveRecv | Queue::PassiveRecv) {
            if asked.ask.check && status == 0 {
                bump(&self.ctl.checked, 1);
                if !is_filled(buffer.bytes(e.offset, e.len), asked.ask.seed, asked.ask.len) {
                    bump(&self.ctl.wrong, 1);
                    status = WRONG as i32;
                }
            }
            // Lent pieces go home at once.
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
        let told = status == 0 && !(ask.check && matches!(ask.kind, AskKind::Fetch | AskKind::Take));
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

/// Whether a message asks for something, and says all that is needed.
fn is_asked(ask: &Ask) -> bool {
    match ask.kind {
        AskKind::Fill | AskKind::Fetch => ask.desc.is_some(),
        AskKind::Take | AskKind::Give => true,
        AskKind::Done | AskKind::Offer => false,
    }
}

impl<X: Xprt> NetApp<X> for Node {
    fn event(&mut self, net: &mut Domain<X>, event: Event) {
        match event {
            Event::State { tm, state: TmState::Started, ep, .. } => {
                (self.tm, self.own) = (Some(tm), ep);
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
                Queue::MsgSend => self.sent(net, e),
                _ => self.bulk(net, e),
            },
            _ => {}
        }
    }

    fn refused(&mut self, notice: &Notice, all: u64) {
        self.ctl.refused(*notice, all);
    }

    fn turn(&mut self, net: &mut Domain<X>) {
        let now = net.now();
        let looks = now >= self.next;
        if looks {
            self.next = now + LOOK;
        }
        let Some(tm) = self.tm.filter(|tm| net.state(*tm) == TmState::Started) else { return };
        if self.ctl.stop.load(Ordering::Relaxed) {
            for asked in self.waiting.drain(..) {
                let _ = net.ep_put(asked.from);
            }
            let _ = net.stop(tm, true);
        } else if looks {
            self.give_up(net, tm);
        }
    }

    fn deadline(&self) -> Option<u64> {
        Some(self.next)
    }
}
