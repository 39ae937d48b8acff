//! Motr's `net` contract by threads' handles, over any kind of streams: messages and answers, bulk both ways, cancels, timeouts,
//! refusals, a stop with buffers queued.
#![allow(dead_code, unreachable_pub)]

use std::collections::VecDeque;
use std::sync::Arc;

use hugepages::{Backing, LendOwner, PageRunMut};
use transport::net::{
    Added, BufEvent, Buffer, Call, Colour, Desc, EpId, Event, Heard, Memory, NetError, NetHandle, PoolId,
    Provision, Queue, RecvVec, Request, Sink, TmId, TmSetup, TmState,
};

const ECANCELED: i32 = 125;
const ETIMEDOUT: i32 = 110;
/// Looks of a thread at its ring before it says that nothing comes.
const LOOKS: usize = 20_000_000;
/// A second in ns.
const SEC: u64 = 1_000_000_000;

fn pattern(seed: u8, i: usize) -> u8 {
    (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed
}

/// Turns the nodes, or lets them be turned.
pub type Pass<'a> = &'a mut dyn FnMut();

/// A thread's machine.
pub struct Side {
    handle: NetHandle,
    backing: Arc<dyn Backing>,
    name: String,
    tm: TmId,
    events: VecDeque<Event>,
}

impl Side {
    /// Starts the machine of a domain at `name`.
    pub fn start(handle: NetHandle, backing: Arc<dyn Backing>, name: &str, pass: Pass<'_>) -> Side {
        handle.call(Call::Start(7, name.into())).unwrap();
        Side::started(handle, backing, name, pass)
    }

    fn started(handle: NetHandle, backing: Arc<dyn Backing>, name: &str, pass: Pass<'_>) -> Side {
        let Heard::Machine(7, Ok(tm)) = hear(&handle, pass) else { panic!("{name} does not start") };
        let mut side = Side { handle, backing, name: name.to_owned(), tm, events: VecDeque::new() };
        let started = side.event(pass);
        assert!(matches!(started, Event::State { state: TmState::Started, ep: Some(_), .. }), "{started:?}");
        side
    }

    /// A call with a result.
    fn ask(&mut self, call: Call, pass: Pass<'_>) -> Heard {
        self.tell(call, pass);
        loop {
            match hear(&self.handle, pass) {
                Heard::Event(e) => self.events.push_back(e),
                result => return result,
            }
        }
    }

    /// A call without one.
    fn tell(&mut self, mut call: Call, pass: Pass<'_>) {
        while let Err(back) = self.handle.call(call) {
            call = back;
            pass();
        }
    }

    fn event(&mut self, pass: Pass<'_>) -> Event {
        self.events.pop_front().unwrap_or_else(|| match hear(&self.handle, pass) {
            Heard::Event(e) => e,
            result => panic!("nobody asked for {result:?}"),
        })
    }

    fn register(&mut self, mem: Memory, pass: Pass<'_>) -> Buffer {
        match self.ask(Call::Register(1, mem), pass) {
            Heard::Registered(1, Ok(b)) => b,
            other => panic!("{other:?}"),
        }
    }

    fn pages(&self, len: usize) -> PageRunMut {
        PageRunMut::new(self.backing.clone(), len).unwrap()
    }

    /// Pages with a pattern.
    fn source(&mut self, len: usize, seed: u8, pass: Pass<'_>) -> Buffer {
        let mut run = self.pages(len);
        run.bytes_mut().iter_mut().enumerate().for_each(|(i, b)| *b = pattern(seed, i));
        self.register(Memory::Send([run.freeze().slice_all()].into_iter().collect()), pass)
    }

    /// Memory to receive into: of its own, or lent.
    fn room(&mut self, len: usize, lent: bool, pass: Pass<'_>) -> Buffer {
        let sink = if lent {
            Sink::Lend { most: len as u64, owner: LendOwner(3), pieces: Vec::new() }
        } else {
            Sink::Into(RecvVec::new([self.pages(len)]))
        };
        self.register(Memory::Recv(sink), pass)
    }

    fn try_add(
        &mut self,
        b: Buffer,
        req: Request,
        until: Option<u64>,
        pass: Pass<'_>,
    ) -> Result<Added, NetError> {
        match self.ask(Call::Add(2, self.tm, b, req, until), pass) {
            Heard::Added(2, Ok(added)) => Ok(added),
            Heard::Added(2, Err(u)) => {
                self.retire(u.buffer, pass);
                Err(u.why)
            }
            other => panic!("{other:?}"),
        }
    }

    fn add(&mut self, b: Buffer, req: Request, pass: Pass<'_>) -> Added {
        self.try_add(b, req, None, pass).unwrap()
    }

    fn end_point(&mut self, name: &str, pass: Pass<'_>) -> EpId {
        match self.ask(Call::EpCreate(3, self.tm, name.into()), pass) {
            Heard::EndPoint(3, Ok(ep)) => ep,
            other => panic!("{other:?}"),
        }
    }

    /// Deregisters a buffer: pages that were sent are nobody's but ours.
    fn retire(&mut self, b: Buffer, pass: Pass<'_>) {
        let mem = match self.ask(Call::Deregister(4, b), pass) {
            Heard::Deregistered(4, Ok(mem)) => mem,
            other => panic!("{other:?}"),
        };
        if let Memory::Send(pages) = mem {
            for p in pages {
                p.into_run().expect("a run").try_thaw().expect("pages that are home");
            }
        }
    }

    /// The last event of a buffer of this queue, with its bytes looked at; gives its time and the sender.
    fn ended(
        &mut self,
        queue: Queue,
        status: i32,
        bytes: Option<(usize, u8)>,
        pass: Pass<'_>,
    ) -> (u64, Option<EpId>) {
        // Those of other queues may come before it.
        let mut others = Vec::new();
        let e: BufEvent = loop {
            match self.event(pass) {
                Event::Buffer(e) if e.queue == queue => break e,
                Event::Buffer(e) => others.push(Event::Buffer(e)),
                other => panic!("{other:?}"),
            }
        };
        others.into_iter().rev().for_each(|e| self.events.push_front(e));
        assert_eq!((e.status, e.tm), (status, self.tm), "{queue:?}");
        let buffer = e.buffer.expect("a last event");
        if let Some((len, seed)) = bytes {
            let got = buffer.bytes(e.offset, e.len).collect::<Vec<_>>().concat();
            assert_eq!(got.len(), len, "{queue:?}");
            assert!(got.iter().enumerate().all(|(i, b)| *b == pattern(seed, i)), "{queue:?}: other bytes");
        }
        self.retire(buffer, pass);
        (e.time, e.ep)
    }

    /// Stops the machine with buffers on its queues, and takes it away.
    pub fn stop(mut self, pass: Pass<'_>) {
        for req in [Request::MsgRecv { min_size: 100, max_msgs: 1 }, Request::PassiveRecv] {
            let b = self.room(100, false, pass);
            self.add(b, req, pass);
        }
        self.tell(Call::Stop(self.tm, true), pass);
        self.ended(Queue::MsgRecv, ECANCELED, None, pass);
        self.ended(Queue::PassiveRecv, ECANCELED, None, pass);
        let stopped = self.event(pass);
        assert!(
            matches!(stopped, Event::State { state: TmState::Stopped, status: 0, .. }),
            "{}: {stopped:?}",
            self.name
        );
        assert!(matches!(self.ask(Call::Fini(5, self.tm), pass), Heard::Gone(5, Ok(()))));
    }
}

fn is_message(queue: Queue) -> bool {
    matches!(queue, Queue::MsgRecv | Queue::MsgSend)
}

fn hear(handle: &NetHandle, pass: Pass<'_>) -> Heard {
    for _ in 0..LOOKS {
        if let Some(heard) = handle.heard() {
            return heard;
        }
        pass();
    }
    panic!("nothing is heard")
}

/// All queues, `a` being the active side, with so many bytes.
pub fn all_queues(a: &mut Side, b: &mut Side, len: usize, seed: u8, pass: Pass<'_>) {
    let n = len as u64;
    let recv = Request::MsgRecv { min_size: n, max_msgs: 1 };
    // A message, and its answer to the end-point that it came from.
    let room = b.room(len, true, pass);
    b.add(room, recv.clone(), pass);
    let room = a.room(len, false, pass);
    a.add(room, recv, pass);
    let to = a.end_point(&b.name.clone(), pass);
    let data = a.source(len, seed, pass);
    a.add(data, Request::MsgSend { to, len: n }, pass);
    a.tell(Call::EpPut(to), pass);
    let from = b.ended(Queue::MsgRecv, 0, Some((len, seed)), pass).1.expect("a sender");
    assert_eq!(b.name_of(from, pass), a.name);
    let data = b.source(len, seed ^ 1, pass);
    b.add(data, Request::MsgSend { to: from, len: n }, pass);
    b.tell(Call::EpPut(from), pass);
    let back = a.ended(Queue::MsgRecv, 0, Some((len, seed ^ 1)), pass).1.expect("a sender");
    a.tell(Call::EpPut(back), pass);
    a.ended(Queue::MsgSend, 0, None, pass);
    b.ended(Queue::MsgSend, 0, None, pass);
    // Bulk, both ways at a time.
    let room = b.room(len, false, pass);
    let fill = b.add(room, Request::PassiveRecv, pass).desc.expect("a descriptor");
    let data = b.source(len, seed ^ 2, pass);
    let fetch = b.add(data, Request::PassiveSend { len: n }, pass).desc.expect("a descriptor");
    let data = a.source(len, seed ^ 3, pass);
    a.add(data, Request::ActiveSend { desc: fill, len: n }, pass);
    let room = a.room(len, true, pass);
    a.add(room, Request::ActiveRecv { desc: fetch }, pass);
    b.ended(Queue::PassiveRecv, 0, Some((len, seed ^ 3)), pass);
    b.ended(Queue::PassiveSend, 0, None, pass);
    a.ended(Queue::ActiveSend, 0, None, pass);
    a.ended(Queue::ActiveRecv, 0, Some((len, seed ^ 2)), pass);
}

impl Side {
    /// Events without an error on a queue.
    fn successes(&mut self, queue: Queue, pass: Pass<'_>) -> u64 {
        match self.ask(Call::Stats(6, self.tm, queue, false), pass) {
            Heard::Stats(6, Ok(s)) => s.successes,
            other => panic!("{other:?}"),
        }
    }

    fn name_of(&mut self, ep: EpId, pass: Pass<'_>) -> String {
        match self.ask(Call::EpName(8, ep), pass) {
            Heard::Name(8, Ok(name)) => name,
            other => panic!("{other:?}"),
        }
    }
}

/// The main part of the contract: `a` at `b`, then `b` at `a`, then both stop.
pub fn contract(mut a: Side, mut b: Side, pass: Pass<'_>) {
    for (n, len) in [1, 4096, 100_000, 1 << 20].into_iter().enumerate() {
        all_queues(&mut a, &mut b, len, n as u8 * 16, pass);
        all_queues(&mut b, &mut a, len, n as u8 * 16 + 8, pass);
    }
    assert!(Queue::ALL.into_iter().all(|q| a.successes(q, pass) == 4 + 4 * u64::from(is_message(q))));
    // Given up by the thread, and by its time.
    let room = a.room(100, false, pass);
    let id = a.add(room, Request::PassiveRecv, pass).id;
    a.tell(Call::Del(id), pass);
    let (now, _) = a.ended(Queue::PassiveRecv, ECANCELED, None, pass);
    let room = a.room(100, false, pass);
    a.try_add(room, Request::PassiveRecv, Some(now + SEC), pass).unwrap();
    let (end, _) = a.ended(Queue::PassiveRecv, ETIMEDOUT, None, pass);
    assert!(end >= now + SEC, "before its time");
    // Refused, each with its buffer.
    let room = a.room(100, false, pass);
    assert_eq!(a.try_add(room, Request::PassiveRecv, Some(now), pass).unwrap_err().errno(), 62);
    let room = a.room(100, false, pass);
    assert_eq!(a.try_add(room, Request::PassiveSend { len: 1 }, None, pass).unwrap_err().errno(), 22);
    let room = a.room(100, false, pass);
    let desc = Desc::new(&[1; 47]).unwrap();
    let errno = a.try_add(room, Request::ActiveRecv { desc }, None, pass).unwrap_err().errno();
    assert!([22, 71].contains(&errno), "{errno}");
    a.stop(pass);
    b.stop(pass);
}

/// Several messages into one buffer (over LNet): each is seen with its event, before the buffer comes back with the last.
pub fn several([a, b]: [NetHandle; 2], backing: &Arc<dyn Backing>, [at, to]: [&str; 2], pass: Pass<'_>) {
    let mut a = Side::start(a, backing.clone(), at, pass);
    let mut b = Side::start(b, backing.clone(), to, pass);
    let ep = a.end_point(to, pass);
    for lent in [true, false] {
        let room = b.room(60_000, lent, pass);
        b.add(room, Request::MsgRecv { min_size: 20_000, max_msgs: 3 }, pass);
        for (seed, len) in [(1, 20_000), (2, 7), (3, 15_000)] {
            let data = a.source(len, seed, pass);
            a.add(data, Request::MsgSend { to: ep, len: len as u64 }, pass);
            a.ended(Queue::MsgSend, 0, None, pass);
            let Event::Buffer(e) = b.event(pass) else { panic!("no message") };
            let got = e.parts().collect::<Vec<_>>().concat();
            assert_eq!((e.status, e.len, got.len()), (0, len as u64, len));
            assert!(got.iter().enumerate().all(|(i, byte)| *byte == pattern(seed, i)), "{lent} {seed}");
            assert_eq!(e.buffer.is_some(), seed == 3, "{lent} {seed}");
            b.tell(Call::EpPut(e.ep.expect("a sender")), pass);
            if let Some(buffer) = e.buffer {
                // Memory of its own has the messages before, too.
                let first =
                    buffer.bytes(0, 20_000).flatten().enumerate().all(|(i, byte)| *byte == pattern(1, i));
                assert!(lent || first);
                b.retire(buffer, pass);
            }
        }
    }
    a.tell(Call::EpPut(ep), pass);
    a.stop(pass);
    b.stop(pass);
}

/// A machine whose events wait until they are asked for (`a`), and one that fills its queue from a pool (`b`).
pub fn furnished([a, b]: [NetHandle; 2], backing: &Arc<dyn Backing>, [at, to]: [&str; 2], pass: Pass<'_>) {
    let setup = TmSetup { synchronous: true, cpts: Some(1), ..TmSetup::new(at) };
    a.call(Call::StartWith(7, Box::new(TmSetup { cpts: Some(2), ..setup.clone() }))).unwrap();
    let elsewhere = hear(&a, pass);
    assert!(matches!(&elsewhere, Heard::Machine(7, Err(NetError::Cpt(0)))), "{elsewhere:?}");
    a.call(Call::StartWith(7, Box::new(setup))).unwrap();
    let mut a = Side::started(a, backing.clone(), at, pass);
    b.call(Call::Pool(9, 1, 2)).unwrap();
    let Heard::Pool(9, pool) = hear(&b, pass) else { panic!("no pool") };
    let provision = Provision { pool, min_size: 1000, max_msgs: 1, min_queue: 2 };
    let setup = TmSetup { pool: Some(provision), colour: Colour(1), ..TmSetup::new(to) };
    b.call(Call::StartWith(7, Box::new(setup))).unwrap();
    let mut b = Side::started(b, backing.clone(), to, pass);
    let tm = b.tm;
    assert_eq!(b.count(Call::Deficit(10, tm), pass), 2);
    // The machine takes the first two at once, the third is left.
    for n in 0..3 {
        b.put(pool, Colour::ANY, pass);
        assert!(matches!(b.event(pass), Event::NotEmpty(p) if p == pool));
        if n < 2 {
            assert!(matches!(b.event(pass), Event::BelowThreshold(p) if p == pool));
        }
    }
    assert_eq!([Call::PoolLen(10, pool), Call::Deficit(10, tm)].map(|c| b.count(c, pass)), [1, 0]);
    let busy = b.ask(Call::PoolFini(11, pool), pass);
    assert!(matches!(&busy, Heard::Gone(11, Err(e)) if e.errno() == 16), "{busy:?}");

    // A message, into a buffer of the pool, which the third one follows.
    let ep = a.end_point(to, pass);
    let data = a.source(1000, 5, pass);
    a.add(data, Request::MsgSend { to: ep, len: 1000 }, pass);
    a.tell(Call::EpPut(ep), pass);
    let Event::Buffer(e) = b.event(pass) else { panic!("no message") };
    assert_eq!((e.status, e.len, e.pool), (0, 1000, Some(pool)));
    assert!(e.parts().flatten().enumerate().all(|(i, byte)| *byte == pattern(5, i)));
    b.tell(Call::EpPut(e.ep.expect("a sender")), pass);
    assert!(matches!(b.event(pass), Event::BelowThreshold(p) if p == pool));
    let back = b.ask(Call::PoolPut(12, pool, Colour(1), e.buffer.expect("a last event")), pass);
    assert!(matches!(back, Heard::Put(12, Ok(()))), "{back:?}");
    assert!(matches!(b.event(pass), Event::NotEmpty(p) if p == pool));

    // Its sender hears nothing of the end until it asks.
    while !matches!(a.ask(Call::Pending(13, a.tm), pass), Heard::Pending(13, Ok(true))) {
        pass();
    }
    assert!(a.events.is_empty(), "{:?}", a.events);
    assert!(matches!(a.ask(Call::Notify(14, a.tm), pass), Heard::Set(14, Ok(()))));
    assert!(matches!(a.event(pass), Event::Pending(tm) if tm == a.tm));
    let tm = a.tm;
    assert_eq!(a.count(Call::Deliver(10, tm), pass), 1);
    a.ended(Queue::MsgSend, 0, None, pass);
    assert!(matches!(a.ask(Call::Pending(13, a.tm), pass), Heard::Pending(13, Ok(false))));
    let other = b.ask(Call::Notify(14, b.tm), pass);
    assert!(matches!(&other, Heard::Set(14, Err(e)) if e.errno() == 22), "{other:?}");

    // One more in the queue leaves the pool empty.
    assert!(matches!(b.ask(Call::PoolLength(15, b.tm, 3), pass), Heard::Set(15, Ok(()))));
    assert!(matches!(b.event(pass), Event::BelowThreshold(p) if p == pool));
    assert!(matches!(b.ask(Call::PoolGet(16, pool, Colour(1)), pass), Heard::Got(16, Ok(None))));
    a.stop(pass);
    b.tell(Call::Stop(b.tm, true), pass);
    for _ in 0..3 {
        b.ended(Queue::MsgRecv, ECANCELED, None, pass);
    }
    let stopped = b.event(pass);
    assert!(matches!(stopped, Event::State { state: TmState::Stopped, status: 0, .. }), "{stopped:?}");
    assert!(matches!(b.ask(Call::Fini(5, b.tm), pass), Heard::Gone(5, Ok(()))));
    // Without a machine it keeps its buffers.
    b.put(pool, Colour(0), pass);
    assert!(matches!(b.event(pass), Event::NotEmpty(p) if p == pool));
    let got = b.ask(Call::PoolGet(16, pool, Colour(0)), pass);
    let Heard::Got(16, Ok(Some(buffer))) = got else { panic!("{got:?}") };
    b.retire(buffer, pass);
    assert!(matches!(b.event(pass), Event::BelowThreshold(p) if p == pool));
    assert!(matches!(b.ask(Call::PoolFini(11, pool), pass), Heard::Gone(11, Ok(()))));
    let gone = b.ask(Call::PoolLen(10, pool), pass);
    assert!(matches!(&gone, Heard::Count(10, Err(NetError::Pool))), "{gone:?}");
}

impl Side {
    fn count(&mut self, call: Call, pass: Pass<'_>) -> usize {
        match self.ask(call, pass) {
            Heard::Count(10, Ok(n)) => n,
            other => panic!("{other:?}"),
        }
    }

    /// Puts a new buffer into a pool.
    fn put(&mut self, pool: PoolId, colour: Colour, pass: Pass<'_>) {
        let buffer = self.room(1000, false, pass);
        let put = self.ask(Call::PoolPut(12, pool, colour, buffer), pass);
        assert!(matches!(put, Heard::Put(12, Ok(()))), "{put:?}");
    }
}
