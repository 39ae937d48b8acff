//! Ends of connections at the seam between TCP and the machine: a runtime over an in-memory port, and a raw peer.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use dataplane::mem::{MemConfig, MemPort, MemRx, pair};
use dataplane::pkt::{Port, RxPkt, TxCsum, TxMeta, TxPkt};
use tcpstack::arp::Packet as Arp;
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{self, ACK, FIN, Fields, RST, SYN, Seg, Template};
use transport::node::lcore::LcoreStreams;
use transport::node::{Inspect, NoApp, Shard, Streams};
use transport::stream::{
    Close, CloseWhy, ConnId, DialId, DialSpec, Happened, InlineHdr, Pages, SendMsg, ShardId, StreamRx,
};

use crate::nodes::{Now, beginning, builder, stack};

pub(super) const US: Ipv4Addr = Ipv4Addr::new(10, 6, 0, 1);
pub(super) const PEER: Ipv4Addr = Ipv4Addr::new(10, 6, 0, 2);
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// The peer's end of the wire: segments made by hand.
pub(super) struct Wire(pub(super) MemPort);

impl Wire {
    fn frame(&mut self, b: &[u8]) {
        let mut t = self.0.tx_alloc().unwrap();
        t.copy_in(b).unwrap();
        // It never crossed a wire: nobody looks at checksums.
        let meta = TxMeta { csum: TxCsum::Offload, ..TxMeta::default() };
        self.0.tx_burst(&mut VecDeque::from([t.finish(meta)]));
    }

    pub(super) fn send(&mut self, key: &Key, flags: u8, seq: Seq, ack: Seq, data: &[u8]) {
        let t = Template::new(PEER_MAC, OUR_MAC, None, key);
        let mut b = t.head(&Fields { seq, ack, flags, win: 60_000 }, &[]).bytes().to_vec();
        b.extend_from_slice(data);
        wire::patch(&mut b[14..], usize::from(t.l3), seq, flags, 20 + data.len(), 0);
        self.frame(&b);
    }

    /// Segments that came; questions for our address are answered.
    pub(super) fn heard(&mut self) -> Vec<(Seg, Vec<u8>)> {
        let mut segs = vec![];
        loop {
            let mut v: ArrayVec<MemRx, 32> = ArrayVec::new();
            self.0.rx_burst(&mut v);
            if v.is_empty() {
                return segs;
            }
            for p in v {
                let mut b = vec![];
                p.for_each(&mut |x| b.extend_from_slice(x));
                let e = wire::eth(&b).unwrap();
                if let Some(a) =
                    Arp::parse(&b[e.len..]).filter(|a| e.kind == wire::ETH_ARP && a.tpa == PEER.into())
                {
                    let answer = Arp { op: 2, sha: PEER_MAC, spa: a.tpa, tha: a.sha, tpa: a.spa };
                    let mut f = [0; 46];
                    let n = answer.frame(OUR_MAC, None, &mut f);
                    self.frame(&f[..n]);
                    continue;
                }
                let Ok(ip) = wire::ip4(&b[e.len..], b.len() - e.len, false) else { continue };
                let t = &b[e.len + ip.hlen..e.len + ip.hlen + ip.payload];
                let s = wire::tcp(t, &ip).unwrap();
                segs.push((s, t[s.hlen..].to_vec()));
            }
        }
    }
}

/// Events that the machine was told of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Opened(ConnId, Option<DialId>),
    DialFailed(DialId),
    Bytes(ConnId, Vec<u8>),
    Last(ConnId),
    Fin(ConnId),
    Ended(ConnId),
    Closed(ConnId, CloseWhy),
}

/// Ways of the machine to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    All,
    /// Not at all: its stream waits.
    Nothing,
    /// This many bytes, and puts the rest of the fragment back.
    Some(usize),
}

struct World {
    rt: LcoreStreams<MemPort>,
    wire: Wire,
    now: Now,
    reads: Reads,
    next_port: u16,
}

/// The peer's side of a connection.
#[derive(Clone, Copy)]
struct Peer {
    id: ConnId,
    key: Key,
    seq: Seq,
    ack: Seq,
}

impl World {
    fn new() -> World {
        let now = beginning();
        let (a, b) = pair(&MemConfig::default());
        let rt = builder(US, 5, &now).plan().unwrap().lcore(ShardId(0), stack(US, a, 3, 64)).unwrap();
        let mut w = World { rt, wire: Wire(b), now, reads: Reads::All, next_port: 1000 };
        w.turn();
        w
    }

    fn wait(&mut self, ns: u64) {
        self.now.fetch_add(ns, Ordering::Relaxed);
    }

    /// One turn of the lcore.
    fn once(&mut self, told: &mut Vec<Told>) -> bool {
        self.wait(1000);
        let reads = self.reads;
        let busy = self.rt.turn(self.rt.now(), &mut |happened| {
            told.push(match happened {
                Happened::Opened(c, info) => Told::Opened(c, info.dial),
                Happened::DialFailed(d, _) => Told::DialFailed(d),
                Happened::Bytes(c, rx) => Told::Bytes(c, read(rx, reads)),
                Happened::LastBytes(c) => Told::Last(c),
                Happened::PeerFin(c) => Told::Fin(c),
                Happened::Ended(c) => Told::Ended(c),
                Happened::Closed(c, why) => Told::Closed(c, why),
                Happened::Progress(..)
                | Happened::Released(_)
                | Happened::Listening(..)
                | Happened::Datagram(..)
                | Happened::Undelivered(..) => return,
            });
        });
        busy.is_busy() | self.rt.flush().is_busy()
    }

    /// Turns until nothing moves.
    fn turn(&mut self) -> Vec<Told> {
        let mut told = vec![];
        for _ in 0..100 {
            let busy = self.once(&mut told);
            if !busy && self.rt.deadline().is_none_or(|t| t > self.rt.now()) {
                return told;
            }
        }
        panic!("the runtime spins: {told:?}");
    }

    fn accept(&mut self) -> Peer {
        self.next_port += 1;
        let key = Key::new(PEER.into(), self.next_port, US.into(), 988);
        let irs = Seq(u32::from(self.next_port) << 16);
        self.wire.send(&key, SYN, irs, Seq(0), b"");
        self.turn();
        let sa = self.wire.heard().pop().unwrap().0;
        assert_eq!(sa.flags, SYN | ACK);
        let (seq, ack) = (irs.plus(1), sa.seq.plus(1));
        self.wire.send(&key, ACK, seq, ack, b"");
        match self.turn()[..] {
            [Told::Opened(id, None)] => Peer { id, key, seq, ack },
            ref t => panic!("{t:?}"),
        }
    }

    fn dial(&mut self, n: u64) {
        self.rt.dial(&DialSpec {
            id: DialId(n),
            local_ip: IpAddr::V4(US),
            remote: SocketAddr::from((PEER, 988)),
            privileged: true,
            until: self.rt.now() + 50_000_000_000,
        });
    }

    fn data(&mut self, p: &mut Peer, data: &[u8]) {
        self.wire.send(&p.key, ACK, p.seq, p.ack, data);
        p.seq = p.seq.plus(data.len() as u64);
    }

    fn put(&mut self, p: &Peer, flags: u8) {
        self.wire.send(&p.key, flags, p.seq, p.ack, b"");
    }

    fn close(&mut self, p: &Peer, how: Close) {
        self.rt.close(p.id, how);
    }

    /// Pool memory in use, fragments held, connections here and in the stack.
    fn left(&mut self) -> (u64, u64, u64, u32) {
        let c = self.rt.counters();
        (c.rx_pool_bytes_in_use, c.rx_lent_out, c.conns, self.rt.stack().flows())
    }
}

fn read(rx: &mut dyn StreamRx, reads: Reads) -> Vec<u8> {
    let mut got = vec![];
    let most = match reads {
        Reads::All => usize::MAX,
        Reads::Nothing => 0,
        Reads::Some(n) => n,
    };
    while got.len() < most {
        let Some(mut f) = rx.next() else { break };
        let n = f.bytes().len().min(most - got.len());
        got.extend_from_slice(&f.bytes()[..n]);
        f.advance(n as u32);
        if !f.is_empty() {
            rx.unread(f);
        }
    }
    got
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Fin,
    Abort,
    Reset,
    PeerFin,
    Timeout,
}

/// Field report 1: every reason to close x what is unread, where the machine closes and where it is the peer. `rest` is
/// what the machine put back: the runtime holds it, not the stack.
#[test]
fn every_end_leaves_nothing_at_the_runtime() {
    for why in [Why::Fin, Why::Abort, Why::Reset, Why::PeerFin, Why::Timeout] {
        for reads in [Reads::All, Reads::Nothing, Reads::Some(300)] {
            for gap in [false, true] {
                // In a small buffer, and in the port's; one fragment, and several.
                for sizes in [&[400][..], &[1400], &[1400, 1400, 400]] {
                    println!("{why:?} {reads:?} {gap} {sizes:?}");
                    one_end(why, reads, gap, sizes);
                }
            }
        }
    }
}

fn one_end(why: Why, reads: Reads, gap: bool, sizes: &[usize]) {
    let mut w = World::new();
    let base = w.left();
    assert_eq!(base, (0, 0, 0, 0));
    let mut p = w.accept();
    w.reads = reads;
    let all: usize = sizes.iter().sum();
    for n in sizes {
        w.data(&mut p, &vec![7; *n]);
    }
    if gap {
        let beyond = p.seq.plus(10);
        w.wire.send(&p.key, ACK, beyond, p.ack, &[8; 1400]);
    }
    let got = w.turn();
    let read = match reads {
        Reads::All => all,
        Reads::Nothing => 0,
        Reads::Some(n) => n,
    };
    assert_eq!(got, [Told::Bytes(p.id, vec![7; read])]);
    assert_eq!(w.left().0 > 0, read < all || gap);
    w.wire.heard();
    let id = p.id;
    let end = |w: &mut World, told: Vec<Told>, why: CloseWhy| {
        assert_eq!(told, [Told::Closed(id, why)]);
        assert_eq!(w.left(), base);
    };
    match why {
        Why::Abort => {
            w.close(&p, Close::Abort);
            assert_eq!(w.left().0, 0, "at once");
            let told = w.turn();
            end(&mut w, told, CloseWhy::Local);
        }
        Why::Fin => {
            w.close(&p, Close::Fin);
            assert_eq!(w.left().0, 0, "at once");
            assert_eq!(w.turn(), []);
            assert!(w.wire.heard().iter().any(|(s, _)| s.has(FIN)));
            w.data(&mut p, &[9; 1400]);
            p.ack = p.ack.plus(1);
            w.put(&p, ACK | FIN);
            let told = w.turn();
            end(&mut w, told, CloseWhy::Fin);
        }
        Why::Reset | Why::PeerFin | Why::Timeout => {
            let mut told = vec![];
            let reason = match why {
                Why::Reset => {
                    w.put(&p, RST);
                    CloseWhy::Reset
                }
                Why::PeerFin => {
                    if gap {
                        return; // a FIN beyond a gap is none yet
                    }
                    w.put(&p, ACK | FIN);
                    CloseWhy::Fin
                }
                _ => {
                    for _ in 0..200 {
                        w.wait(1_000_000_000);
                        told = w.turn();
                        if !told.is_empty() {
                            break;
                        }
                    }
                    CloseWhy::Timeout
                }
            };
            if why == Why::Timeout && read == all {
                // It was told while time went on.
                return assert_eq!(w.left(), base);
            }
            told.extend(w.turn());
            let mut rest = all - read;
            if rest > 0 {
                // That nothing more comes is told once, and the end not before what came before it.
                let want = vec![if why == Why::PeerFin { Told::Last(id) } else { Told::Ended(id) }];
                assert_eq!(told, want);
                assert_eq!((w.left().2, gap && w.left().0 == 0), (1, false));
                // The machine takes a part, then all.
                w.reads = Reads::Some(50);
                w.rt.read(p.id);
                assert_eq!(w.turn(), [Told::Bytes(p.id, vec![7; 50])]);
                rest -= 50;
                w.reads = Reads::All;
                w.rt.read(p.id);
                told = w.turn();
                assert_eq!(told.remove(0), Told::Bytes(p.id, vec![7; rest]));
            }
            if why == Why::PeerFin {
                assert_eq!(told.remove(0), Told::Fin(p.id));
                w.close(&p, Close::Fin);
                assert_eq!(w.turn(), []);
                p.seq = p.seq.plus(1);
                p.ack = p.ack.plus(1);
                w.put(&p, ACK);
                told = w.turn();
            }
            end(&mut w, told, reason);
        }
    }
}

/// A machine that closes instead of reading, after the peer's end.
#[test]
fn a_close_after_the_peers_end_is_told_at_once() {
    for how in [Close::Fin, Close::Abort] {
        for reads in [Reads::Nothing, Reads::Some(300)] {
            let mut w = World::new();
            let mut p = w.accept();
            w.reads = reads;
            w.data(&mut p, &[7; 1400]);
            w.turn();
            w.put(&p, RST);
            assert_eq!(w.turn(), [Told::Ended(p.id)]);
            w.close(&p, how);
            assert_eq!(w.left().0, 0);
            assert_eq!(w.turn(), [Told::Closed(p.id, CloseWhy::Reset)], "{how:?} {reads:?}");
            assert_eq!(w.left(), (0, 0, 0, 0));
        }
    }
}

/// Field report L3: a kernel refuses a version in its own, and its reset follows within 33 us.
#[test]
fn what_stands_in_front_of_a_reset_is_told_first() {
    let mut w = World::new();
    for fin in [false, true] {
        let mut p = w.accept();
        w.data(&mut p, b"a NONE in version 1");
        if fin {
            w.put(&p, ACK | FIN);
            p.seq = p.seq.plus(1);
        }
        w.put(&p, RST);
        let mut want = vec![Told::Bytes(p.id, b"a NONE in version 1".to_vec())];
        want.extend(fin.then_some(Told::Fin(p.id)));
        want.push(Told::Closed(p.id, CloseWhy::Reset));
        assert_eq!(w.turn(), want);
        assert_eq!(w.left(), (0, 0, 0, 0));
    }
}

/// End of one connection in a batch in which another one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Abort,
    /// Unread bytes are dropped with it.
    AbortUnread,
    /// The peer's FIN came before.
    LastAck,
    Reset,
    /// The bytes before it were put back.
    ResetUnread,
    Refused,
}

/// Field report L4: an end and a dial in one batch. The stack gives the slot to the new connection before the old one's
/// end was told; each is told of, once, and the old one first.
#[test]
fn every_end_and_dial_in_one_batch_are_told_once_each() {
    for end in [End::Abort, End::AbortUnread, End::LastAck, End::Reset, End::ResetUnread, End::Refused] {
        // The dial comes to a connection, is refused, or is given up.
        for answer in [SYN | ACK, RST | ACK] {
            for dials in 1..4 {
                println!("{end:?} {answer:#x} {dials}");
                end_and_dial(end, answer, dials);
            }
        }
    }
}

fn end_and_dial(end: End, answer: u8, dials: u64) {
    let mut w = World::new();
    let (mut told, mut old) = (vec![], None);
    let mut late = false;
    if end == End::Refused {
        w.dial(100);
        w.turn();
        let syn = dialled(&mut w);
        // Its refusal and the next dial are of one batch.
        w.wire.send(&syn.0, RST | ACK, Seq(0), syn.1.plus(1), b"");
        w.rt.stack().poll(w.now.load(Ordering::Relaxed));
    } else {
        let mut p = w.accept();
        old = Some(p.id);
        match end {
            End::AbortUnread | End::ResetUnread => {
                w.reads = Reads::Some(100);
                w.data(&mut p, &[7; 1400]);
                w.turn();
            }
            End::LastAck => {
                w.put(&p, ACK | FIN);
                p.seq = p.seq.plus(1);
                assert_eq!(w.turn(), [Told::Fin(p.id)]);
                w.close(&p, Close::Fin);
                w.turn();
                p.ack = p.ack.plus(1);
            }
            _ => {}
        }
        match end {
            End::Abort | End::AbortUnread => w.close(&p, Close::Abort),
            End::LastAck => {
                w.put(&p, ACK);
                w.rt.stack().turn(w.now.load(Ordering::Relaxed));
            }
            _ => {
                w.put(&p, RST);
                w.rt.stack().poll(w.now.load(Ordering::Relaxed));
                late = end == End::ResetUnread;
            }
        }
    }
    w.wire.heard();
    (0..dials).for_each(|d| w.dial(d));
    told.extend(w.turn());
    for _ in 0..dials + 1 {
        for (s, _) in w.wire.heard() {
            if s.flags == SYN {
                let key = Key::new(PEER.into(), 988, US.into(), s.key.rport().max(s.key.lport()));
                w.wire.send(&key, answer, Seq(77), s.seq.plus(1), b"");
            }
        }
        told.extend(w.turn());
    }
    if late {
        // The last bytes were put back, and are read before the end.
        let id = old.unwrap();
        assert!(!told.iter().any(|t| matches!(t, Told::Closed(c, _) if *c == id)), "{told:?}");
        w.reads = Reads::All;
        w.rt.read(id);
        let last = w.turn();
        assert_eq!(last, [Told::Bytes(id, vec![7; 1300]), Told::Closed(id, CloseWhy::Reset)]);
        told.extend(last);
    }
    let first = match old {
        Some(id) => told.iter().position(|t| matches!(t, Told::Closed(c, _) if *c == id)),
        None => told.iter().position(|t| *t == Told::DialFailed(DialId(100))),
    };
    let first = first.unwrap_or_else(|| panic!("never told: {told:?}"));
    let mut opened = vec![];
    for d in 0..dials {
        let of = |t: &Told| match t {
            Told::Opened(c, Some(x)) if *x == DialId(d) => Some(Some(*c)),
            Told::DialFailed(x) if *x == DialId(d) => Some(None),
            _ => None,
        };
        let all: Vec<_> = told.iter().enumerate().filter_map(|(i, t)| Some((i, of(t)?))).collect();
        let [(at, how)] = all[..] else { panic!("dial {d}: {told:?}") };
        assert!(late || at > first, "{told:?}");
        assert_eq!(how.is_some(), answer == SYN | ACK);
        opened.extend(how);
    }
    let ends = told.iter().filter(|t| matches!(t, Told::Closed(..))).count();
    assert_eq!(ends, usize::from(old.is_some()), "{told:?}");
    assert_eq!(w.left().2, opened.len() as u64);
    for c in &opened {
        w.rt.close(*c, Close::Abort);
    }
    assert_eq!(w.turn().len(), opened.len());
    assert_eq!(w.left(), (0, 0, 0, 0));
}

/// The key, from the peer's side, and the number of the SYN that went out last.
fn dialled(w: &mut World) -> (Key, Seq) {
    for _ in 0..4 {
        if let Some((s, _)) = w.wire.heard().into_iter().find(|(s, _)| s.flags == SYN) {
            return (Key::new(PEER.into(), 988, US.into(), s.key.rport().max(s.key.lport())), s.seq);
        }
        w.turn();
    }
    panic!("no SYN")
}

/// Field report 1, as it came: the magic of a HELLO where a request belongs, 60 kB more, the refusal read, closed in order.
/// 80 of these held two thirds of the pool for good.
#[test]
fn refused_hellos_with_unread_bytes_hold_nothing() {
    let now = beginning();
    let (a, b) = pair(&MemConfig::default());
    let mut node = builder(US, 5, &now).over(stack(US, a, 3, 64), NoApp).unwrap();
    let mut wire = Wire(b);
    let turn = |node: &mut Shard<LcoreStreams<MemPort>, NoApp>| {
        for _ in 0..20 {
            now.fetch_add(1000, Ordering::Relaxed);
            node.turn();
        }
    };
    turn(&mut node);
    for i in 0..100u16 {
        let key = Key::new(PEER.into(), 1023 - i, US.into(), 988);
        let irs = Seq(u32::from(i) << 18);
        wire.send(&key, SYN, irs, Seq(0), b"");
        turn(&mut node);
        let sa = wire.heard().pop().unwrap().0;
        let (mut seq, ack) = (irs.plus(1), sa.seq.plus(1));
        // The magic of a HELLO, version 1, 8 bytes of nothing.
        let mut all = [0x63, 0x69, 0x72, 0x45, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
        all.extend_from_slice(&[b'x'; 60_000]);
        for x in all.chunks(1400) {
            wire.send(&key, ACK, seq, ack, x);
            seq = seq.plus(x.len() as u64);
        }
        turn(&mut node);
        let said = wire.heard();
        let refusal: Vec<u8> = said.iter().flat_map(|(_, d)| d.clone()).collect();
        assert_eq!(refusal.len(), 16, "the refusal, and no reset: {:?}", said.last());
        assert!(said.iter().all(|(s, _)| !s.has(RST)));
        assert!(said.iter().any(|(s, _)| s.has(FIN)));
        assert_eq!(node.counters().rx_pool_bytes_in_use, 0, "at once");
        wire.send(&key, ACK | FIN, seq, ack.plus(17), b"");
        turn(&mut node);
        wire.heard();
        let c = node.counters();
        assert_eq!(
            (c.conns, c.rx_pool_bytes_in_use, node.streams().unwrap().stack().flows()),
            (0, 0, 0),
            "{i}"
        );
    }
    node.shut_down();
    // The last handshake was a moment ago, and another may follow.
    for _ in 0..20 {
        now.fetch_add(5_000_000, Ordering::Relaxed);
        turn(&mut node);
    }
    assert!(node.is_down());
}

/// A dial that is given up after 50 s leaves nothing in the stack, which would go on for two minutes.
#[test]
fn a_dial_that_is_over_is_told_and_leaves_nothing() {
    let mut w = World::new();
    w.dial(1);
    w.turn();
    w.wire.heard();
    w.wait(49_000_000_000);
    assert_eq!((w.turn(), w.left().2), (vec![], 1));
    w.wait(1_000_000_000);
    assert_eq!(w.turn(), [Told::DialFailed(DialId(1))]);
    assert_eq!(w.left(), (0, 0, 0, 0));
    // One that has opened is no dial any more.
    w.dial(2);
    w.turn();
    let (syn, _) = w.wire.heard().pop().unwrap();
    assert_eq!(syn.flags & SYN, SYN);
}

/// A message that waits for room in its stream goes home when the connection is closed.
#[test]
fn messages_that_wait_go_home_with_a_close() {
    for how in [Close::Fin, Close::Abort] {
        let mut w = World::new();
        let p = w.accept();
        let hdr = || InlineHdr::try_from(&[1u8; 100][..]).unwrap();
        // The peer acknowledges nothing.
        for _ in 0..100_000 {
            let m = SendMsg { hdr: hdr(), pay: Pages::new(), lend: None, hold: false, answer: false };
            w.rt.send(p.id, m);
        }
        w.turn();
        w.close(&p, how);
        w.turn();
        if how == Close::Abort {
            assert_eq!(w.left(), (0, 0, 0, 0));
        } else {
            // It has its time; then it is over, however often the peer says that it is there.
            for _ in 0..200 {
                w.wait(1_000_000_000);
                w.put(&p, ACK);
                w.turn();
                w.wire.heard();
            }
            assert_eq!(w.left(), (0, 0, 0, 0));
        }
    }
}

/// Field report 21: duplicate addresses are told, with the other station.
#[test]
fn a_station_with_our_address_is_told_of() {
    let mut w = World::new();
    let seen = w.rt.duplicates();
    assert!(seen.next_one().is_none());
    let thief = [2, 0, 0, 0, 0, 9];
    let p = Arp { op: 1, sha: thief, spa: US.into(), tha: [0; 6], tpa: US.into() };
    let mut f = [0; 46];
    let n = p.frame(wire::BROADCAST, None, &mut f);
    for _ in 0..20 {
        w.wire.frame(&f[..n]);
        w.turn();
        w.wire.heard();
    }
    let d = seen.next_one().unwrap();
    assert_eq!((d.addr, d.mac, d.packets), (IpAddr::V4(US), thief, 1));
    assert!(seen.next_one().is_none(), "once a minute");
}
