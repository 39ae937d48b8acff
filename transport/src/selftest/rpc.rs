//! The asking side of an RPC (selftest.md §1, §4.1): entries for reply and bulk first, then the request; done when the
//! request has left and reply and bulk have come, in any order.

use std::collections::VecDeque;

use super::{FRAMEWORK_PORTAL, Ops, RDMA_PORTAL, TEST_PORTAL, pattern};
use crate::lnd::timers::Timers;
use crate::lnd::{AppId, Data, LnetError, Payload, Sink, pop};
use crate::lnet::{Event, MdMem, MdSpec, MeId, Op, OpRefused, PutEvent};
use crate::stream::slab::{Key, Slab};
use crate::wire::srpc::{self, Message, RpcCounters, Service, check};
use crate::wire::{ByteOrder, Nid, ProcessId};

/// Bulk of an RPC.
#[derive(Debug)]
pub enum Bulk {
    /// None.
    None,
    /// The server GETs it.
    Source(Payload),
    /// The server PUTs so many bytes at most: they are lent to us.
    Sink(u32),
    /// The server PUTs so many bytes of a BRW: they are looked at as they come, and given back before the reply.
    Checked {
        /// Bytes.
        len: u32,
        /// [`srpc::check`].
        flags: u32,
    },
}

/// An RPC to be asked.
#[derive(Debug)]
pub struct Ask {
    /// The caller's own: comes back in [`Done`].
    pub tag: u64,
    /// The server.
    pub peer: ProcessId,
    /// The NID of ours that it leaves from, and that the reply comes to; `None`: LNet chooses.
    pub from: Option<Nid>,
    /// The service.
    pub service: Service,
    /// The request; [`Rpcs`] puts the ids in.
    pub request: Message,
    /// Its bulk.
    pub bulk: Bulk,
    /// Until it is given up, in ns.
    pub timeout_ns: u64,
}

/// An RPC that has ended.
#[derive(Debug)]
pub struct Done {
    /// Its tag.
    pub tag: u64,
    /// The reply, whose status may be an error, or why there is none.
    pub outcome: Result<Message, RpcError>,
    /// Bytes of a [`Bulk::Sink`].
    pub data: Data,
    /// Whether the bytes of a [`Bulk::Checked`] are right as the words of a node of little endian, and of big endian.
    pub right: [bool; 2],
    /// From the start to here, in ns.
    pub rtt_ns: u64,
}

/// Reason why an RPC has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// LNet took an operation of it not.
    #[error(transparent)]
    Refused(OpRefused),
    /// An operation of it failed.
    #[error(transparent)]
    Lnet(LnetError),
    /// No reply, or no bulk, in time.
    #[error("no reply in time")]
    TimedOut,
    /// Its caller gave it up.
    #[error("given up")]
    Aborted,
    /// The reply is none of this service.
    #[error("the reply is none of the service that was asked")]
    BadReply,
}

impl RpcError {
    /// As Linux numbers it, and lst prints it.
    pub fn errno(&self) -> u32 {
        match self {
            RpcError::Refused(
                OpRefused::Target(_)
                | OpRefused::NoRoute(_)
                | OpRefused::LongNid(_)
                | OpRefused::Unprivileged(_),
            ) => 113,
            RpcError::Refused(OpRefused::QueueFull(_) | OpRefused::TooManyPeers(_)) => 12,
            RpcError::Refused(OpRefused::ShuttingDown) | RpcError::Lnet(LnetError::ShuttingDown) => 108,
            RpcError::Refused(_) => 22,
            RpcError::Lnet(LnetError::Unreachable) => 113,
            RpcError::Lnet(LnetError::NoNi) => 100,
            RpcError::Lnet(LnetError::Refused) => 111,
            RpcError::Lnet(LnetError::TimedOut) | RpcError::TimedOut => 110,
            RpcError::Lnet(_) => srpc::status::EIO,
            RpcError::Aborted => 4,
            RpcError::BadReply => srpc::status::EBADMSG,
        }
    }
}

/// An operation of a call, in its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Reply,
    Bulk,
    Request,
    Unlink,
}

const PART_SHIFT: u32 = 29;

fn tag(key: Key, part: Part) -> u64 {
    key.word() | (part as u64) << PART_SHIFT
}

fn untag(tag: u64) -> (Key, Part) {
    let part = match tag >> PART_SHIFT & 7 {
        0 => Part::Reply,
        1 => Part::Bulk,
        2 => Part::Request,
        _ => Part::Unlink,
    };
    (Key::from_word(tag & !(7 << PART_SHIFT)), part)
}

/// An entry of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// Is being attached.
    Asked,
    /// Waits for its message.
    There(MeId),
    /// Has had it, or there is none.
    Gone,
}

#[derive(Debug)]
struct Call {
    tag: u64,
    peer: ProcessId,
    from: Option<Nid>,
    service: Service,
    request: Message,
    reply_at: Entry,
    bulk_at: Entry,
    sent: bool,
    reply: Option<Message>,
    bulk_done: bool,
    check: Option<(u32, u32)>,
    right: [bool; 2],
    data: Data,
    started: u64,
    deadline: u64,
}

/// The asking side of RPCs. Their match entries stand on portal 52 and name the server, so that nobody else fills them.
#[derive(Debug)]
pub struct Rpcs {
    app: AppId,
    next_id: u64,
    calls: Slab<Call>,
    timers: Timers,
    due: Vec<u32>,
    finished: VecDeque<Done>,
    counters: RpcCounters,
}

impl Rpcs {
    /// RPCs whose operations are those of `app`; ids begin behind `first_id` (see [`first_id`](super::first_id)).
    pub fn new(app: AppId, first_id: u64) -> Rpcs {
        Rpcs {
            app,
            next_id: first_id,
            calls: Slab::new(),
            timers: Timers::new(),
            due: Vec::new(),
            finished: VecDeque::new(),
            counters: RpcCounters::default(),
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    /// RPCs under way.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Counts: sent, expired, errors.
    pub fn counters(&self) -> &RpcCounters {
        &self.counters
    }

    /// Time at which [`Rpcs::turn`] has something to do, in ns.
    pub fn deadline(&self) -> Option<u64> {
        if self.finished.is_empty() { Some(self.timers.wake()).filter(|t| *t < u64::MAX) } else { Some(0) }
    }

    /// Begins an RPC: its entries first, then the request. Gives a name by which [`Rpcs::cancel`] knows it.
    pub fn start(&mut self, now: u64, ask: Ask, ops: &mut Ops) -> u64 {
        let Ask { tag: own, peer, from, service, mut request, bulk, timeout_ns } = ask;
        let (rpyid, bulkid) = match bulk {
            Bulk::None => (self.id(), 0),
            _ => (self.id(), self.id()),
        };
        request.body.set_ids(rpyid, bulkid);
        let (mem, check) = match bulk {
            Bulk::None => (None, None),
            Bulk::Source(pages) => (Some(MdMem::Source(pages)), None),
            Bulk::Sink(n) => (Some(MdMem::Sink(Sink::Lend(n))), None),
            Bulk::Checked { len, flags } => (Some(MdMem::Sink(Sink::Lend(len))), Some((len, flags))),
        };
        let deadline = now.saturating_add(timeout_ns);
        let key = self.calls.insert(Call {
            tag: own,
            peer,
            from,
            service,
            request,
            reply_at: Entry::Asked,
            bulk_at: if mem.is_some() { Entry::Asked } else { Entry::Gone },
            sent: false,
            reply: None,
            bulk_done: mem.is_none(),
            check,
            right: [false; 2],
            data: Data::Discarded,
            started: now,
            deadline,
        });
        self.timers.by(now, key, deadline);
        self.attach(key, Part::Reply, peer, rpyid, MdMem::Sink(Sink::Lend(srpc::LEN as u32)), ops);
        if let Some(mem) = mem {
            self.attach(key, Part::Bulk, peer, bulkid, mem, ops);
        }
        key.word()
    }

    fn attach(&self, key: Key, part: Part, who: ProcessId, match_bits: u64, mem: MdMem, ops: &mut Ops) {
        let md = MdSpec { threshold: Some(1), ack_disable: true, ..MdSpec::new(mem) };
        let tag = tag(key, part);
        ops.push_back((
            self.app,
            Op::Attach { tag, portal: RDMA_PORTAL, who, match_bits, ignore_bits: 0, md },
        ));
    }

    fn unlink(&self, key: Key, me: MeId, ops: &mut Ops) {
        ops.push_back((self.app, Op::Unlink { tag: tag(key, Part::Unlink), portal: RDMA_PORTAL, me }));
    }

    /// An event of this `app`'s; gives the RPC that it ends.
    pub fn event(&mut self, now: u64, ev: Event, ops: &mut Ops) -> Option<Done> {
        match ev {
            Event::Attached { tag, me } => {
                self.attached(tag, me, ops);
                None
            }
            Event::Refused { tag, why } => {
                let (key, part) = untag(tag);
                if part == Part::Unlink {
                    return None;
                }
                self.fail(now, key, RpcError::Refused(why), ops)
            }
            Event::Send { tag, status, .. } => {
                let (key, _) = untag(tag);
                if let Err(e) = status {
                    self.counters.errors = self.counters.errors.wrapping_add(1);
                    return self.fail(now, key, RpcError::Lnet(e), ops);
                }
                self.counters.rpcs_sent = self.counters.rpcs_sent.wrapping_add(1);
                self.calls.get_mut(key)?.sent = true;
                self.complete(now, key)
            }
            Event::Put(p) => self.put(now, p, ops),
            Event::Get(g) => {
                let (key, _) = untag(g.tag);
                if let Err(e) = g.status {
                    self.counters.errors = self.counters.errors.wrapping_add(1);
                    return self.fail(now, key, RpcError::Lnet(e), ops);
                }
                let call = self.calls.get_mut(key)?;
                (call.bulk_at, call.bulk_done) = (Entry::Gone, true);
                self.complete(now, key)
            }
            _ => None,
        }
    }

    /// An entry is in place. That of an RPC that was given up before goes at once.
    fn attached(&mut self, word: u64, me: MeId, ops: &mut Ops) {
        let (key, part) = untag(word);
        let Some(call) = self.calls.get_mut(key) else { return self.unlink(key, me, ops) };
        match part {
            Part::Reply => call.reply_at = Entry::There(me),
            _ => call.bulk_at = Entry::There(me),
        }
        if call.reply_at == Entry::Asked || call.bulk_at == Entry::Asked {
            return;
        }
        let (service, request) = (call.service, call.request.emit());
        let portal = if service.is_test() { TEST_PORTAL } else { FRAMEWORK_PORTAL };
        let put = Op::Put {
            tag: tag(key, Part::Request),
            target: call.peer,
            from: call.from,
            portal,
            match_bits: service.id().into(),
            offset: 0,
            hdr_data: 0,
            payload: Payload::copy_of(&request).unwrap_or_else(Payload::empty),
            ack: false,
        };
        ops.push_back((self.app, put));
    }

    fn put(&mut self, now: u64, p: PutEvent, ops: &mut Ops) -> Option<Done> {
        let (key, part) = untag(p.tag);
        if let Err(e) = p.status {
            self.counters.errors = self.counters.errors.wrapping_add(1);
            return self.fail(now, key, RpcError::Lnet(e), ops);
        }
        let call = self.calls.get_mut(key)?;
        if part == Part::Bulk {
            (call.bulk_at, call.bulk_done) = (Entry::Gone, true);
            match call.check {
                // The reply, which tells the server's byte order, comes when it has its zero-copy ACK: until then the
                // buffers would be missed.
                Some((len, flags)) => call.right = looked_at(&p.data, len, flags),
                None => call.data = p.data,
            }
            return self.complete(now, key);
        }
        call.reply_at = Entry::Gone;
        let reply = message(&p.data).filter(|m| m.body.kind() == (call.service, false));
        let Some(reply) = reply else {
            return self.fail(now, key, RpcError::BadReply, ops);
        };
        call.reply = Some(reply);
        // With an error the server has not begun its bulk, or will not end it.
        if reply.body.status() != Some(0) {
            call.bulk_done = true;
            if let Entry::There(me) = std::mem::replace(&mut call.bulk_at, Entry::Gone) {
                self.unlink(key, me, ops);
            }
        }
        self.complete(now, key)
    }

    /// Ends an RPC that has all it waits for.
    fn complete(&mut self, now: u64, key: Key) -> Option<Done> {
        let call = self.calls.get(key)?;
        if !(call.sent && call.bulk_done && call.reply.is_some()) {
            return None;
        }
        let call = self.calls.remove(key)?;
        let outcome = call.reply.ok_or(RpcError::BadReply);
        let rtt_ns = now.saturating_sub(call.started);
        Some(Done { tag: call.tag, outcome, data: call.data, right: call.right, rtt_ns })
    }

    /// Ends an RPC without a reply; its entries go, so that late bulk finds none.
    fn fail(&mut self, now: u64, key: Key, why: RpcError, ops: &mut Ops) -> Option<Done> {
        let call = self.calls.remove(key)?;
        for at in [call.reply_at, call.bulk_at] {
            if let Entry::There(me) = at {
                self.unlink(key, me, ops);
            }
        }
        Some(Done {
            tag: call.tag,
            outcome: Err(why),
            data: Data::Discarded,
            right: [false; 2],
            rtt_ns: now.saturating_sub(call.started),
        })
    }

    /// RPCs that were given up or are overdue: to be called until it gives none.
    pub fn turn(&mut self, now: u64, ops: &mut Ops) -> Option<Done> {
        if let Some(done) = pop(&mut self.finished) {
            return Some(done);
        }
        if self.timers.wake() > now {
            return None;
        }
        let mut due = std::mem::take(&mut self.due);
        self.timers.due(now, &mut due);
        for position in due.drain(..) {
            let Some(key) = self.calls.key_at(position as usize) else { continue };
            let at = self.calls.get(key).map_or(u64::MAX, |c| c.deadline);
            if at > now {
                self.timers.by(now, key, at);
                continue;
            }
            self.counters.rpcs_expired = self.counters.rpcs_expired.wrapping_add(1);
            let done = self.fail(now, key, RpcError::TimedOut, ops);
            self.finished.extend(done);
        }
        self.due = due;
        self.finished.pop_front()
    }

    /// Nobody needs timers for as many RPCs as there were: that memory goes back. That of the RPCs themselves does when they end.
    pub(super) fn give_back(&mut self) {
        if self.calls.is_empty() {
            self.timers = Timers::new();
        }
    }

    /// Places for RPCs under way, for those that have ended, and for timers.
    #[cfg(feature = "testing")]
    pub(super) fn places(&self) -> usize {
        self.calls.capacity() + self.finished.capacity() + self.timers.places()
    }

    /// Gives up the RPCs with this tag: [`Rpcs::turn`] tells their end.
    pub fn abort(&mut self, tag: u64, ops: &mut Ops) {
        for i in 0..self.calls.capacity() {
            let Some(key) = self.calls.key_at(i) else { continue };
            if self.calls.get(key).is_some_and(|c| c.tag == tag) {
                self.cancel(key.word(), ops);
            }
        }
    }

    /// Gives up the RPC that [`Rpcs::start`] named so: [`Rpcs::turn`] tells its end.
    pub fn cancel(&mut self, name: u64, ops: &mut Ops) {
        let done = self.fail(0, Key::from_word(name), RpcError::Aborted, ops);
        // As kernels count it: `lst show_error` has it among the RPCs, not the tests (upper.md §4).
        if done.is_some() {
            self.counters.errors = self.counters.errors.wrapping_add(1);
        }
        self.finished.extend(done);
    }
}

/// Whether data is right, made by a node of little endian, and of big endian.
fn looked_at(data: &Data, len: u32, flags: u32) -> [bool; 2] {
    let Data::Lent(pieces) = data else { return [false; 2] };
    let holds = |order| pattern::holds(pieces.iter().map(|p| p.bytes()), len, flags, order);
    let little = holds(ByteOrder::Little);
    // Both only where nothing is to be checked.
    let big = if little { flags != check::SIMPLE && flags != check::FULL } else { holds(ByteOrder::Big) };
    [little, big]
}

/// A message, from wherever its bytes lie; `None` where they are none.
pub(super) fn message(data: &Data) -> Option<Message> {
    let Data::Lent(pieces) = data else { return None };
    let mut bytes = [0; srpc::LEN];
    let mut at = 0;
    for p in pieces {
        let part = p.bytes();
        bytes.get_mut(at..at + part.len())?.copy_from_slice(part);
        at += part.len();
    }
    Message::parse(bytes.get(..at)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_names_the_call_and_its_part() {
        let key = Key { index: (1 << PART_SHIFT) - 1, generation: u32::MAX };
        for part in [Part::Reply, Part::Bulk, Part::Request, Part::Unlink] {
            assert_eq!(untag(tag(key, part)), (key, part));
        }
    }
}
