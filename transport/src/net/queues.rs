//! Buffers onto the queues, and off them: exactly one last event for each (docs/protocol/netxprt.md §5).

use super::domain::Domain;
use super::rows::{Hold, Queued};
use super::{
    Added, Admitted, BufEvent, BufId, Buffer, Done, EpId, Event, Job, Memory, NetError, PoolId, Queue,
    Request, TmId, TmState, Unadded, Xprt,
};
use crate::stream::slab::Key;

impl<X: Xprt> Domain<X> {
    /// Queues a buffer of a machine that is started. Its event says how it ended, with ETIMEDOUT soon after `until`, in ns.
    ///
    /// # Errors
    /// [`NetError`], with the buffer.
    #[expect(clippy::result_large_err, reason = "the buffer itself comes back, unboxed")]
    pub fn add(
        &mut self,
        tm: TmId,
        buffer: Buffer,
        req: &Request,
        until: Option<u64>,
    ) -> Result<Added, Unadded> {
        let added = self.admit(tm.0, buffer, req, until, None);
        self.settle();
        added
    }

    /// Looks at what a transport need not look at.
    fn may_add(&self, tm: Key, buffer: &Buffer, req: &Request, until: Option<u64>) -> Result<(), NetError> {
        let state = self.state(TmId(tm));
        if state != TmState::Started {
            return Err(NetError::State { call: "add", state, wanted: "one that is started" });
        }
        if !self.owns(buffer) {
            return Err(NetError::Gone("a buffer"));
        }
        if until.is_some_and(|t| t <= self.now) {
            return Err(NetError::Past);
        }
        let size = buffer.size;
        let within = |what, len| match len {
            1.. if len <= size => Ok(()),
            _ => Err(NetError::Length { what, len, size }),
        };
        match (&buffer.mem, req.len()) {
            (Memory::Send(_), Some(len)) => within("a length", len)?,
            (Memory::Recv(_), None) => {}
            (Memory::Send(_), None) => {
                return Err(NetError::Memory { has: "send", wants: "receive into" });
            }
            (Memory::Recv(_), Some(_)) => {
                return Err(NetError::Memory { has: "receive into", wants: "send" });
            }
        }
        match req {
            Request::MsgRecv { max_msgs: 0, .. } => Err(NetError::NoMessages),
            Request::MsgRecv { min_size, .. } => within("a minimum", *min_size),
            _ => Ok(()),
        }
    }

    /// Queues a buffer, out of a pool perhaps.
    #[expect(clippy::result_large_err, reason = "the buffer itself comes back, unboxed")]
    pub(super) fn admit(
        &mut self,
        tm: Key,
        mut buffer: Buffer,
        req: &Request,
        until: Option<u64>,
        pool: Option<PoolId>,
    ) -> Result<Added, Unadded> {
        if let Err(why) = self.may_add(tm, &buffer, req, until) {
            return Err(Unadded { why, buffer });
        }
        buffer.clear();
        let mut ep = None;
        let job = match req {
            Request::MsgRecv { min_size, max_msgs } => {
                Job::MsgRecv { min_size: *min_size, max_msgs: *max_msgs }
            }
            Request::MsgSend { to: EpId(to), len } => match self.eps.get(*to).filter(|e| e.tm == tm) {
                Some(e) => {
                    ep = Some(*to);
                    Job::MsgSend { to: e.addr, len: *len }
                }
                None => return Err(Unadded { why: NetError::Gone("an end-point"), buffer }),
            },
            Request::PassiveRecv => Job::PassiveRecv,
            Request::PassiveSend { len } => Job::PassiveSend { len: *len },
            Request::ActiveRecv { desc } => Job::ActiveRecv { desc },
            Request::ActiveSend { desc, len } => Job::ActiveSend { desc, len: *len },
        };
        let id = buffer.id;
        let Admitted { token, desc } =
            match self.xprt.add(self.now, TmId(tm), id, &mut buffer.mem, job, until) {
                Ok(admitted) => admitted,
                Err(why) => return Err(Unadded { why, buffer }),
            };
        if let Some(e) = ep.and_then(|e| self.eps.get_mut(e)) {
            e.refs += 1;
        }
        let (queue, len, added) = (req.queue(), req.len().unwrap_or(0), self.now);
        if let Some(t) = self.tms.get_mut(tm) {
            t.count(queue, true);
            t.stats_mut(queue).adds += 1;
        }
        if let Some(b) = self.bufs.get_mut(id.0) {
            b.queued = Some(Queued { buffer, tm, queue, ep, len, added, token, pool, messages: 0 });
        }
        Ok(Added { id, desc })
    }

    /// Gives a queued buffer up; `false` when it is not queued. Its event follows, with ECANCELED unless it is too late for that.
    pub fn del(&mut self, id: BufId) -> bool {
        let Some(q) = self.bufs.get(id.0).and_then(|b| b.queued.as_ref()) else { return false };
        let (tm, queue, token) = (q.tm, q.queue, q.token);
        if let Some(t) = self.tms.get_mut(tm) {
            t.stats_mut(queue).dels += 1;
        }
        self.xprt.del(self.now, token);
        self.settle();
        true
    }

    /// Gives all buffers of a machine up.
    pub(super) fn del_all(&mut self, tm: Key) {
        for i in 0..self.bufs.capacity() {
            let of = |b: Key| self.bufs.get(b).and_then(|b| b.queued.as_ref()).is_some_and(|q| q.tm == tm);
            if let Some(b) = self.bufs.key_at(i).filter(|b| of(*b)) {
                self.del(BufId(b));
            }
        }
    }

    /// The lent bytes of an event that is not its buffer's last, for whoever cannot look into the buffer.
    #[cfg(feature = "node")]
    pub(super) fn take_view(&mut self, event: &mut BufEvent) {
        if event.buffer.is_some() || event.view.is_some() {
            return;
        }
        let Some(b) = self.bufs.get_mut(event.id.0) else { return };
        let buffer = b.queued.as_mut().map(|q| &mut q.buffer).or(b.ended.as_mut());
        event.view = buffer.and_then(|b| b.take_first(event.len));
    }

    /// A buffer whose last event was not taken.
    pub fn queued(&self, id: BufId) -> Option<&Buffer> {
        let b = self.bufs.get(id.0)?;
        b.queued.as_ref().map(|q| &q.buffer).or(b.ended.as_ref())
    }

    /// Buffers on a machine's queue.
    pub fn queue_len(&self, tm: TmId, queue: Queue) -> usize {
        self.tms.get(tm.0).map_or(0, |t| t.queued(queue))
    }

    /// A message came, or a buffer has come to its end.
    pub(super) fn done(&mut self, done: Done<X::Addr, X::Token>) {
        let Done { buf, token, status, mut len, offset, from, came, retained } = done;
        let Some(b) = self.bufs.get_mut(buf.0) else { return };
        let Some(q) = b.queued.as_mut().filter(|q| q.token == token) else { return };
        let view = q.buffer.store(came, offset, retained);
        let (tm, queue, pool) = (q.tm, q.queue, q.pool);
        let ok = status == 0;
        match queue {
            _ if !ok => len = 0,
            Queue::MsgSend | Queue::PassiveSend | Queue::ActiveSend => len = q.len,
            Queue::MsgRecv => q.messages += 1,
            _ => {}
        }
        // The buffer's own reference goes on to its last event.
        let (held, waited) = (q.ep, self.now.saturating_sub(q.added));
        if !retained {
            b.ended = b.queued.take().map(|q| q.buffer);
        }
        if let Some(t) = self.tms.get_mut(tm) {
            let s = t.stats_mut(queue);
            if ok {
                s.successes += 1;
                s.bytes += len;
                s.max_bytes = s.max_bytes.max(len);
            } else {
                s.failures += 1;
            }
            if !retained {
                s.time += waited;
                t.count(queue, false);
            }
        }
        let sender = match (queue, ok, from) {
            (Queue::MsgRecv, true, Some(addr)) => Some(self.find_ep(tm, addr, None)),
            _ => None,
        };
        let event = BufEvent {
            tm: TmId(tm),
            id: buf,
            queue,
            status,
            len,
            offset: if ok { offset } else { 0 },
            ep: sender.map(EpId),
            time: self.now,
            pool,
            view,
            buffer: None,
        };
        let hold = Hold { tm: Some(tm), ep: sender.or(held), provision: false, last: !retained };
        match self.tms.get_mut(tm) {
            Some(t) if t.sync && t.state == TmState::Started => {
                t.callbacks += 1;
                t.pending.push_back((event, hold));
                self.tell_pending(tm);
            }
            _ => self.tell(Event::Buffer(event), hold),
        }
        if queue == Queue::MsgRecv && !retained {
            self.provision(tm);
        }
    }

    /// Messages that have come into a queued buffer.
    pub fn messages(&self, id: BufId) -> u32 {
        self.bufs.get(id.0).and_then(|b| b.queued.as_ref()).map_or(0, |q| q.messages)
    }
}
