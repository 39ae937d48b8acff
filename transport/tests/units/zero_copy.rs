//! The rule by which pages come home (docs/lifetimes.md), step by step: cookies, holds, TCP's word, death.

use std::net::SocketAddr;

use hugepages::HeapRxPool;
use transport::lnd::{AppId, Config, LnetError, Shards, Sink};
use transport::lnet::{Event, MdMem, MdSpec};
use transport::node::{Input, Machine, Output};
use transport::stream::{
    Action, Close, CloseWhy, ConnId, ConnInfo, Happened, LendId, Progress, SendMsg, ShardId,
};
use transport::testing::data::{self, Queue, Spot, pages};
use transport::testing::net::SEC;
use transport::testing::pair::{Pair, id, nid};
use transport::wire::{
    ByteOrder, ConnType, Hello, KsockHdr, KsockType, LnetBody, LnetHdr, Version, WireHandle,
};

use crate::raw;

/// A machine whose streams are in the test's hands. The peer is 10.0.0.2.
struct Bench {
    m: Machine,
    now: u64,
    pool: HeapRxPool,
    conns: u32,
    /// Our positions by connection.
    pushed: Vec<u64>,
    out: Vec<Output>,
}

impl Bench {
    fn new(f: impl FnOnce(&mut Config)) -> Bench {
        // Messages are counted.
        let mut cfg = Config { discovery: false, ..Config::new(nid(1), 5) };
        f(&mut cfg);
        let pool = HeapRxPool::new(1 << 16, 1 << 12);
        Bench { m: Machine::new(cfg), now: SEC, pool, conns: 0, pushed: Vec::new(), out: Vec::new() }
    }

    fn id(n: u32) -> ConnId {
        ConnId { shard: ShardId(0), index: n, generation: 0 }
    }

    fn input(&mut self, input: Input<'_>) {
        self.m.handle(self.now, input);
        while let Some(o) = self.m.poll() {
            if let Output::Stream(Action::Send(c, msg)) = &o {
                let pay: u64 = msg.pay.iter().map(|p| u64::from(p.len())).sum();
                self.pushed[c.index as usize] += msg.hdr.len() as u64 + pay;
            }
            self.out.push(o);
        }
    }

    /// All that the connections of a set that is being closed have received has been read.
    fn read_out(&mut self) {
        self.now += SEC / 100;
        self.input(Input::Timer);
    }

    fn feed(&mut self, conn: u32, bytes: &[u8]) {
        let mut q = Queue::default();
        q.0.extend(bytes.chunks(1 << 16).map(|b| self.pool.copy_of(b).unwrap()));
        self.input(Input::Stream(Happened::Bytes(Bench::id(conn), &mut q)));
        let taken = q.0.is_empty()
            || self.out.iter().any(|o| matches!(o, Output::Stream(Action::Close(..)) | Output::To(..)));
        assert!(taken, "the machine left bytes");
    }

    /// The peer opens a connection on which we hold `mine`.
    fn open(&mut self, mine: ConnType) -> u32 {
        let n = self.conns;
        self.conns += 1;
        self.pushed.push(0);
        let remote = SocketAddr::new([10, 0, 0, 2].into(), 1023 - n as u16);
        let local = SocketAddr::new([10, 0, 0, 1].into(), 988);
        self.input(Input::Stream(Happened::Opened(Bench::id(n), ConnInfo { local, remote, dial: None })));
        let hello = Hello { src_nid: nid(2), ..raw::hello(Version::V3, mine.invert()) };
        self.feed(n, &raw::start(&hello));
        self.sent(n);
        self.acked(n, self.pushed[n as usize]);
        self.out.clear();
        n
    }

    /// CONTROL, BULK_IN, BULK_OUT: connections 0, 1, 2.
    fn set(f: impl FnOnce(&mut Config)) -> Bench {
        let mut b = Bench::new(f);
        for t in [ConnType::Control, ConnType::BulkIn, ConnType::BulkOut] {
            b.open(t);
        }
        b
    }

    /// Everything pushed has been transmitted once, nothing acknowledged.
    fn sent(&mut self, n: u32) {
        let sent = self.pushed[n as usize];
        self.input(Input::Stream(Happened::Progress(Bench::id(n), Progress { acked: 0, sent })));
    }

    fn acked(&mut self, n: u32, acked: u64) {
        self.input(Input::Stream(Happened::Progress(
            Bench::id(n),
            Progress { acked, sent: self.pushed[n as usize] },
        )));
    }

    fn put(&mut self, tag: u64, len: usize) {
        self.input(Input::Cmd(AppId::FIRST, Spot(9, 0).put(tag, id(2), pages(len), false)));
    }

    fn noop(&mut self, conn: u32, c0: u64, c1: u64) {
        self.feed(conn, &raw::noop(c0, c1));
    }

    /// A message of the peer's for nobody, with a zero-copy request.
    fn asks(&mut self, conn: u32, cookie: u64) {
        let body = LnetBody::Put { ack: WireHandle::NONE, match_bits: 0, hdr_data: 0, portal: 3, offset: 0 };
        let h = LnetHdr { src_nid: nid(2), ..raw::header(body, 4) };
        self.feed(conn, &raw::message(Version::V3, &h, cookie));
    }

    fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.out)
    }

    /// The messages written, by connection.
    fn sends(&mut self) -> Vec<(u32, SendMsg)> {
        let sends = |o| match o {
            Output::Stream(Action::Send(c, m)) => Some((c.index, m)),
            _ => None,
        };
        self.take().into_iter().filter_map(sends).collect()
    }

    fn events(&mut self) -> Vec<(u64, Result<(), LnetError>)> {
        let event = |o| match o {
            Output::Complete(_, Event::Send { tag, status, done: true }) => Some((tag, status)),
            Output::Complete(_, e) => panic!("{e:?}"),
            _ => None,
        };
        self.take().into_iter().filter_map(event).collect()
    }
}

fn cookies(m: &SendMsg) -> (u64, u64) {
    let h = KsockHdr::parse(&m.hdr, ByteOrder::Little).unwrap();
    (h.cookie0, h.cookie1)
}

#[test]
fn the_ack_on_another_connection_lifts_the_hold_and_no_more() {
    let mut b = Bench::set(|_| {});
    b.put(1, 1 << 20);
    let [(2, msg)] = &b.sends()[..] else { panic!("bulk goes on BULK_OUT") };
    assert_eq!((cookies(msg), msg.hold, msg.hdr.len()), ((2, 0), true, 96));
    let lend = msg.lend.unwrap();
    b.sent(2);
    b.noop(0, 0, 2);
    let out = b.take();
    assert!(
        matches!(out[..], [Output::Stream(Action::Unhold(c, l))] if c.index == 2 && l == lend),
        "{out:?}"
    );
    // TCP may still retransmit from the pages: no event yet.
    b.acked(2, b.pushed[2]);
    assert!(b.take().is_empty());
    b.input(Input::Stream(Happened::Released(lend)));
    assert_eq!(b.events(), [(1, Ok(()))]);
    // A second release of the same name says nothing.
    b.input(Input::Stream(Happened::Released(lend)));
    assert!(b.take().is_empty());
    assert_eq!(b.m.gauges().credits_used, 0);
}

/// Whoever drops a message ACKs it as soon as it has the headers (socklnd.md §6.3): that lifts the hold, and no more.
#[test]
fn an_ack_for_a_payload_not_sent_lifts_the_hold_alone() {
    for sent in [0, 1000, (1 << 20) - 1] {
        let mut b = Bench::set(|_| {});
        b.put(1, 1 << 20);
        let lend = b.sends()[0].1.lend.unwrap();
        let sent = b.pushed[2] - (1 << 20) + sent;
        b.input(Input::Stream(Happened::Progress(Bench::id(2), Progress { acked: 0, sent })));
        b.noop(0, 0, 2);
        assert_eq!((b.m.counters().err_cookie, b.m.counters().zc_acked), (0, 1));
        let out = b.take();
        assert!(matches!(out[..], [Output::Stream(Action::Unhold(_, l))] if l == lend), "{out:?}");
        b.noop(0, 0, 2);
        assert_eq!(b.m.counters().err_cookie, 1, "once");
        b.take();
        (0..3).for_each(|n| b.input(Input::Stream(Happened::Closed(Bench::id(n), CloseWhy::Local))));
        b.input(Input::Stream(Happened::Released(lend)));
        assert_eq!(b.events(), [(1, Err(LnetError::ConnLost))], "not all of it came");
    }
}

#[test]
fn an_ack_for_headers_not_sent_is_unmatched() {
    let mut b = Bench::set(|_| {});
    b.put(1, 1 << 20);
    let lend = b.sends()[0].1.lend.unwrap();
    let sent = b.pushed[2] - (1 << 20) - 1;
    b.input(Input::Stream(Happened::Progress(Bench::id(2), Progress { acked: 0, sent })));
    b.noop(0, 0, 2);
    assert_eq!(b.m.counters().err_cookie, 1);
    let out = b.take();
    assert_eq!(
        out.iter().filter(|o| matches!(o, Output::Stream(Action::Close(_, Close::Abort)))).count(),
        3,
        "one fate"
    );
    assert!(out.iter().any(|o| matches!(o, Output::Stream(Action::Unhold(_, l)) if *l == lend)));
    assert!(!out.iter().any(|o| matches!(o, Output::Complete(..))), "the error waits for the pages");
    for n in 0..3 {
        b.input(Input::Stream(Happened::Closed(Bench::id(n), CloseWhy::Local)));
    }
    assert!(b.events().is_empty());
    b.input(Input::Stream(Happened::Released(lend)));
    assert_eq!(b.events(), [(1, Err(LnetError::ConnLost))]);
    assert_eq!(b.m.gauges(), Default::default());
}

#[test]
fn what_tcp_had_delivered_before_death_is_sent() {
    let mut b = Bench::set(|_| {});
    // Below zc_min_payload: pages, no cookie. One is acknowledged when the connection dies, one is not.
    b.put(1, 4096);
    b.put(2, 4096);
    let lends: Vec<LendId> = b.sends().iter().map(|(_, m)| (m.lend.unwrap(), assert!(!m.hold)).0).collect();
    b.acked(2, b.pushed[2] - 1);
    b.input(Input::Stream(Happened::Closed(Bench::id(0), CloseWhy::Reset)));
    b.read_out();
    b.take();
    for l in lends {
        b.input(Input::Stream(Happened::Released(l)));
    }
    assert_eq!(b.events(), [(1, Ok(())), (2, Err(LnetError::ConnLost))]);
}

#[test]
fn no_request_without_bulk_out() {
    let mut b = Bench::new(|_| {});
    b.open(ConnType::Control);
    b.open(ConnType::BulkIn);
    b.put(1, 1 << 20);
    let [(0, msg)] = &b.sends()[..] else { panic!("bulk falls back to CONTROL") };
    assert_eq!((cookies(msg), msg.hold, msg.lend.is_some()), ((0, 0), false, true));
    b.open(ConnType::BulkOut);
    b.put(2, 16_384);
    b.put(3, 16_383);
    let sends = b.sends();
    assert_eq!(sends.iter().map(|(c, m)| (*c, cookies(m))).collect::<Vec<_>>(), [(2, (2, 0)), (2, (0, 0))]);
}

#[test]
fn pairs_and_ranges_and_what_breaks_them() {
    let setup = || {
        let mut b = Bench::set(|c| c.peer_credits = 64);
        for tag in 2..10 {
            b.put(tag, 20_000);
        }
        b.sent(2);
        b.take();
        b
    };
    let unheld =
        |b: &mut Bench| b.take().iter().filter(|o| matches!(o, Output::Stream(Action::Unhold(..)))).count();
    let mut b = setup();
    b.noop(1, 5, 3);
    assert_eq!(unheld(&mut b), 2);
    b.noop(0, 6, 9);
    assert_eq!(unheld(&mut b), 4);
    assert_eq!((b.m.gauges().cookies, b.m.counters().zc_acked), (2, 6));
    // One hole spoils a range, and the set.
    b.noop(2, 2, 4);
    assert_eq!(b.m.counters().err_cookie, 1);
    assert_eq!(b.m.gauges().cookies, 0);
    for (c0, c1) in [(0, 10), (10, 2), (2, 10), (0, u64::MAX)] {
        let mut b = setup();
        b.noop(1, c0, c1);
        assert_eq!((b.m.counters().err_cookie, b.m.gauges().conns_up), (1, 0), "{c0} {c1}");
    }
    // A duplicate is as bad.
    let mut b = setup();
    b.noop(1, 0, 2);
    b.noop(1, 0, 2);
    assert_eq!(b.m.counters().err_cookie, 1);
}

#[test]
fn our_acks_go_on_bulk_in_at_once_and_merge_when_they_wait() {
    let mut b = Bench::set(|c| c.tx_window = 48);
    // The first two leave at once and fill the window; the others wait and become one range.
    for k in [7, 8, 9, 10, 11] {
        b.asks(0, k);
    }
    let acks: Vec<_> = b.sends().iter().map(|(c, m)| (*c, cookies(m))).collect();
    assert_eq!(acks, [(1, (0, 7)), (1, (0, 8))]);
    b.acked(1, b.pushed[1]);
    let acks: Vec<_> = b.sends().iter().map(|(c, m)| (*c, cookies(m))).collect();
    assert_eq!(acks, [(1, (9, 11))]);
    assert_eq!((b.m.counters().zc_acks_tx, b.m.counters().zc_acks_merged), (5, 2));
}

#[test]
fn without_bulk_in_acks_ride_on_messages() {
    let mut b = Bench::new(|c| c.tx_window = 96);
    b.open(ConnType::Control);
    for tag in 0..3 {
        b.put(tag, 64);
    }
    b.asks(0, 40);
    b.asks(0, 41);
    b.asks(0, 42);
    b.acked(0, b.pushed[0]);
    b.acked(0, b.pushed[0]);
    b.acked(0, b.pushed[0]);
    b.acked(0, b.pushed[0]);
    let sends: Vec<_> = b.sends().iter().map(|(_, m)| (m.hdr.len(), cookies(m))).collect();
    assert_eq!(sends, [(160, (0, 0)), (160, (0, 40)), (160, (0, 41)), (24, (0, 42))]);
}

#[test]
fn a_peer_that_never_acks_is_given_up() {
    let mut b = Bench::set(|_| {});
    for tag in 0..10 {
        b.put(tag, 1 << 20);
    }
    let lends: Vec<LendId> = b.sends().iter().map(|(_, m)| m.lend.unwrap()).collect();
    assert_eq!(lends.len(), 4, "the stream's window holds the others back");
    assert_eq!(b.m.gauges().credits_used, 8);
    b.acked(2, b.pushed[2]);
    let lends: Vec<LendId> =
        lends.into_iter().chain(b.sends().iter().map(|(_, m)| m.lend.unwrap())).collect();
    assert_eq!(lends.len(), 8, "and the credits the last two");
    b.acked(2, b.pushed[2]);
    while b.m.counters().err_zc_timeout == 0 {
        b.now = b.m.deadline().expect("a cookie is timed");
        assert!(b.now < 60 * SEC);
        b.input(Input::Timer);
    }
    assert!(b.now >= 51 * SEC);
    for l in lends {
        b.input(Input::Stream(Happened::Released(l)));
    }
    // The credits free the other two, which find nobody: the machine dials.
    let out = b.take();
    assert_eq!(
        out.iter().filter(|o| matches!(o, Output::Complete(_, Event::Send { status: Err(_), .. }))).count(),
        8
    );
    assert_eq!(out.iter().filter(|o| matches!(o, Output::Stream(Action::Dial(_)))).count(), 1);
}

#[test]
fn the_counter_starts_again_with_a_new_set() {
    let mut b = Bench::set(|_| {});
    b.put(1, 1 << 20);
    let lend = b.sends()[0].1.lend.unwrap();
    b.input(Input::Stream(Happened::PeerFin(Bench::id(1))));
    for n in 0..3 {
        b.input(Input::Stream(Happened::Closed(Bench::id(n), CloseWhy::Local)));
    }
    b.input(Input::Stream(Happened::Released(lend)));
    assert_eq!(b.events(), [(1, Err(LnetError::ConnLost))]);
    for t in [ConnType::Control, ConnType::BulkIn, ConnType::BulkOut] {
        b.open(t);
    }
    b.put(2, 1 << 20);
    assert_eq!(cookies(&b.sends()[0].1), (2, 0));
}

#[test]
fn a_message_half_received_gives_its_sink_back() {
    let mut b = Bench::set(|_| {});
    let run = data::run(4096);
    let md = MdSpec { threshold: Some(1), ..MdSpec::new(MdMem::Sink(Sink::Copy(run))) };
    b.input(Input::Cmd(AppId::FIRST, Spot(3, 0).attach(8, md)));
    b.take();
    let k = KsockHdr { kind: KsockType::Lnet, csum: 0, cookie0: 6, cookie1: 0 };
    let body = LnetBody::Put { ack: WireHandle::NONE, match_bits: 0, hdr_data: 0, portal: 3, offset: 0 };
    let h =
        LnetHdr { dest_nid: nid(1), src_nid: nid(2), dest_pid: 0, src_pid: 12345, payload_len: 4096, body };
    b.feed(0, &[&k.emit(ByteOrder::Little)[..], &h.emit(), &[1; 4000]].concat());
    assert!(b.take().is_empty(), "no ACK and no event before the last byte");
    b.input(Input::Stream(Happened::Closed(Bench::id(2), CloseWhy::Timeout)));
    b.read_out();
    let out = b.take();
    let put = out.iter().find_map(|o| match o {
        Output::Complete(_, Event::Put(p)) => Some(p),
        _ => None,
    });
    let put = put.expect("the entry's last event");
    assert_eq!(put.status, Err(LnetError::ConnLost));
    assert!(matches!(&put.unlinked, Some(Some(run)) if run.len() == 4096));
    assert_eq!((b.m.counters().zc_acks_tx, b.m.gauges().entries), (0, 0));
}

#[test]
fn a_grant_for_a_connection_that_died_goes_back_to_its_owner() {
    let shards = |me| Shards::new(me, 2).unwrap();
    let mut b = Bench::set(|c| c.shards = shards(0));
    let mut owner = Machine::new(Config { shards: shards(1), ..Config::new(nid(1), 5) });
    let sink = Sink::Copy(data::run(64));
    let md = MdSpec::new(MdMem::Sink(sink));
    owner.handle(1, Input::Cmd(AppId::FIRST, Spot(3, 0).attach(8, md)));
    assert!(matches!(owner.poll(), Some(Output::Complete(_, Event::Attached { .. }))));
    let to = |out: Vec<Output>| {
        let mut msgs = out.into_iter().filter_map(|o| match o {
            Output::To(_, m) => Some(m),
            _ => None,
        });
        (msgs.next().expect("a message to the other shard"), assert!(msgs.next().is_none())).0
    };
    b.asks(0, 6);
    assert_eq!(b.m.counters().msgs_rx, 0, "it waits for the owner");
    owner.handle(2, Input::From(ShardId(0), to(b.take())));
    let Some(Output::To(ShardId(0), answer)) = owner.poll() else { panic!() };
    b.input(Input::Stream(Happened::Closed(Bench::id(0), CloseWhy::Reset)));
    b.take();
    b.input(Input::From(ShardId(1), answer));
    owner.handle(3, Input::From(ShardId(0), to(b.take())));
    let Some(Output::Complete(_, Event::Put(put))) = owner.poll() else { panic!() };
    assert_eq!((put.status, put.mlength, put.unlinked.is_none()), (Err(LnetError::ConnLost), 4, true));
}

/// A peer that drops a message ACKs it as soon as it has the headers, when most of the payload has not left here
/// (socklnd.md §6.3): the set goes on.
#[test]
fn a_dropped_message_may_be_acked_before_its_payload_has_left() {
    let mut pair = Pair::new();
    pair.window = 20_000;
    assert!(pair.ping(0).is_ok());
    pair.run(SEC);
    let target = id(2);
    for tag in 0..4 {
        let payload = pages(1_000_000);
        pair.op(0, Spot(9, 9).put(tag, target, payload, false));
    }
    pair.run(20 * SEC);
    let ended = pair.take_events(0);
    assert_eq!(ended.len(), 4);
    assert!(ended.iter().all(|e| matches!(e, Event::Send { status: Ok(()), done: true, .. })), "{ended:?}");
    let c = *pair.nodes[0].machine.counters();
    assert_eq!((c.err_cookie, c.sets_closed, c.zc_acked), (0, 0, c.zc_requested));
    assert!(c.zc_requested >= 3, "{c:?}");
    pair.assert_quiet();
}
