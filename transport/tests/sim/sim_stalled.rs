//! Connections that are not read since their host is over its budget, and whose peer goes meanwhile: over a port, over a port
//! whose queue another lcore than the peer's home polls, and over kernel sockets. After a RST they end at once, with what is
//! unread; what came before a FIN is answered when there is room.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use dataplane::mem::{MemConfig, MemPort, pair};
use socket2::SockRef;
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{ACK, FIN, RST, SYN};
use transport::lnd::{Accept, AppId, Config, Shards, Sink, Tcp};
use transport::lnet::{MdMem, MdSpec};
use transport::node::lcore::LcoreStreams;
use transport::node::sock::SockStreams;
use transport::node::{Input, Inspect, Machine, NoApp, NodeBuilder, Shard, Streams};
use transport::stream::ShardId;
use transport::testing::data::Spot;
use transport::wire::{ConnType, Hello, LnetBody, LnetHdr, Nid, Version, WireHandle};

use crate::nodes::{Now, beginning, builder, lcores, stack};
use crate::raw::{hello, message, pages, request};
use crate::sim_ends::{PEER, US, Wire};

const BUDGET: u64 = 1 << 20;
/// Bytes of an ACK on the wire, and of a PUT without its payload.
pub(super) const ACKED: usize = 96;
/// Requests that are over the budget of one host, an answer being charged 1 KiB, beside what a kernel's sockets take.
pub(super) const FLOOD: usize = 1500;

/// Ways of a peer to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goes {
    Reset,
    InOrder,
}

/// A node and peers of one host, all of whose bytes are the test's.
pub(super) trait World {
    /// Connects as a process of its own, and has its HELLO answered.
    fn join(&mut self, pid: u32) -> usize;
    fn send(&mut self, conn: usize, bytes: &[u8]);
    fn go(&mut self, conn: usize, how: Goes);
    /// Bytes that the peer has read so far, which it does here.
    fn got(&mut self, conn: usize) -> usize;
    fn turn(&mut self);
    fn machine(&self) -> &Machine;
    /// Connections, and receive memory in use.
    fn left(&self) -> (u64, u64);
    fn nids(&self) -> (Nid, Nid);
}

pub(super) fn poor(c: &mut Config) {
    (c.accept, c.budget) = (Accept::Trust, BUDGET);
}

/// The node with 1 KiB to GET at portal 5, and an entry for PUTs at portal 6.
pub(super) fn serving<S: Streams + Inspect>(mut node: Shard<S, NoApp>) -> Shard<S, NoApp> {
    let m = &mut node.machine;
    let md = MdSpec { truncate: true, ..MdSpec::new(MdMem::Source(pages(1024))) };
    m.handle(1, Input::Cmd(AppId::FIRST, Spot(5, 5).attach(9, md)));
    let md = MdSpec::new(MdMem::Sink(Sink::Lend(4096)));
    m.handle(1, Input::Cmd(AppId::FIRST, Spot(6, 6).attach(9, md)));
    node
}

pub(super) fn start((us, peer): (Nid, Nid), pid: u32) -> Vec<u8> {
    let h = Hello { src_nid: peer, dst_nid: us, src_pid: pid, ..hello(Version::V3, ConnType::Control) };
    [request(us), h.emit().to_vec()].concat()
}

pub(super) fn get((us, peer): (Nid, Nid), pid: u32) -> Vec<u8> {
    let handle = WireHandle { interface: 1, object: 1 };
    let body = LnetBody::Get { handle, match_bits: 5, portal: 5, src_offset: 0, sink_length: 1024 };
    let h = LnetHdr { dest_nid: us, src_nid: peer, dest_pid: 12345, src_pid: pid, payload_len: 0, body };
    message(Version::V3, &h, 0)
}

/// A PUT of `len` bytes that wants an ACK.
pub(super) fn put((us, peer): (Nid, Nid), pid: u32, len: u32) -> Vec<u8> {
    let ack = WireHandle { interface: 1, object: 3 };
    let body = LnetBody::Put { ack, match_bits: 6, hdr_data: 0, portal: 6, offset: 0 };
    let h = LnetHdr { dest_nid: us, src_nid: peer, dest_pid: 12345, src_pid: pid, payload_len: len, body };
    message(Version::V3, &h, 0)
}

struct Flow {
    key: Key,
    seq: Seq,
    /// Position up to which it has read.
    next: Seq,
    got: usize,
}

pub(super) struct OnPort {
    /// The first one polls the queue.
    shards: Vec<Shard<LcoreStreams<MemPort>, NoApp>>,
    /// The peer's home among them.
    home: usize,
    wire: Wire,
    pub(super) now: Now,
    flows: Vec<Flow>,
    /// Nobody answers dials; else they are refused.
    pub(super) mute: bool,
    /// Port, number and length of what came, a FIN in it, and the bytes of it.
    heard: Vec<(u16, Seq, usize, usize)>,
}

impl OnPort {
    /// A node of one lcore.
    fn new() -> Self {
        OnPort::of(poor)
    }

    /// The same with this configuration.
    pub(super) fn of(cfg: fn(&mut Config)) -> Self {
        let now = beginning();
        let (a, b) = pair(&MemConfig::default());
        let node = builder(US, 5, &now).config(cfg).over(stack(US, a, 3, 4096), NoApp).unwrap();
        OnPort {
            shards: vec![serving(node)],
            home: 0,
            wire: Wire(b),
            now,
            flows: vec![],
            mute: false,
            heard: vec![],
        }
    }

    /// A node of several lcores, one of which polls the queue and so owns every stream; the peer's home is another.
    fn across() -> Self {
        OnPort::across_of(poor)
    }

    /// The same with this configuration.
    pub(super) fn across_of(cfg: fn(&mut Config)) -> Self {
        let (now, mem) = (beginning(), MemConfig::default());
        let (a, b) = pair(&mem);
        let home_of = |count| usize::from(Shards::new(0, count).unwrap().home_of(IpAddr::V4(PEER)).0);
        let count = (2..=8).find(|count| home_of(*count) != 0).unwrap();
        let plan = builder(US, 5, &now).config(cfg).lcores(lcores(count, 1, &mem)).plan().unwrap();
        let mut own = Some(plan.lcore(ShardId(0), stack(US, a, 3, 4096)).unwrap());
        let mut shards: Vec<_> =
            (0..count).map(|i| plan.meshed(ShardId(i), own.take(), NoApp).unwrap()).collect();
        let home = home_of(count);
        let at_home = serving(shards.remove(home));
        shards.insert(home, at_home);
        OnPort { shards, home, wire: Wire(b), now, flows: vec![], mute: false, heard: vec![] }
    }
}

impl OnPort {
    pub(super) fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.shards.iter().map(|s| &s.machine)
    }

    fn put(&mut self, conn: usize, flags: u8, data: &[u8]) {
        let f = &mut self.flows[conn];
        self.wire.send(&f.key, flags, f.seq, f.next, data);
        f.seq = f.seq.plus(data.len() as u64 + u64::from(flags & FIN != 0));
    }
}

impl World for OnPort {
    fn join(&mut self, pid: u32) -> usize {
        let conn = self.flows.len();
        let key = Key::new(PEER.into(), 1001 + conn as u16, US.into(), 988);
        let irs = Seq(pid << 16);
        self.wire.send(&key, SYN, irs, Seq(0), b"");
        self.turn();
        let (_, isn, ..) = self.heard.pop().unwrap();
        self.flows.push(Flow { key, seq: irs.plus(1), next: isn.plus(1), got: 0 });
        let all = start(self.nids(), pid);
        self.put(conn, ACK, &all);
        self.turn();
        assert!(self.got(conn) > 0, "a HELLO");
        conn
    }

    fn send(&mut self, conn: usize, bytes: &[u8]) {
        // As much at a time as the node's window takes.
        for (i, part) in bytes.chunks(1400 * 128).enumerate() {
            if i > 0 {
                self.turn();
            }
            part.chunks(1400).for_each(|b| self.put(conn, ACK, b));
        }
    }

    fn go(&mut self, conn: usize, how: Goes) {
        self.put(conn, if how == Goes::Reset { RST } else { ACK | FIN }, b"");
    }

    fn got(&mut self, conn: usize) -> usize {
        let f = &mut self.flows[conn];
        for (port, seq, len, bytes) in &self.heard {
            if *port == 1001 + conn as u16 && *seq == f.next {
                f.next = f.next.plus(*len as u64);
                f.got += bytes;
            }
        }
        self.heard.retain(|h| h.0 != 1001 + conn as u16);
        let got = f.got;
        self.put(conn, ACK, b"");
        got
    }

    fn turn(&mut self) {
        for _ in 0..10 {
            self.now.fetch_add(1000, Ordering::Relaxed);
            for s in &mut self.shards {
                s.turn();
            }
            for (s, data) in self.wire.heard() {
                if s.flags == SYN && self.mute {
                    continue;
                }
                if s.flags == SYN {
                    // It dials back for what waits: nobody listens.
                    let key = Key::new(PEER.into(), 988, US.into(), s.key.lport().max(s.key.rport()));
                    self.wire.send(&key, RST | ACK, Seq(0), s.seq.plus(1), b"");
                    continue;
                }
                let len = data.len() + usize::from(s.has(FIN));
                self.heard.push((s.key.lport().max(s.key.rport()), s.seq, len, data.len()));
            }
        }
    }

    fn machine(&self) -> &Machine {
        &self.shards[self.home].machine
    }

    fn left(&self) -> (u64, u64) {
        let each = self.shards.iter().map(|s| s.counters());
        each.fold((0, 0), |sum, c| (sum.0 + c.conns, sum.1 + c.rx_pool_bytes_in_use + c.rx_lent_out))
    }

    fn nids(&self) -> (Nid, Nid) {
        (Nid::tcp(IpAddr::V4(US), 0), Nid::tcp(IpAddr::V4(PEER), 0))
    }
}

pub(super) struct OnSockets {
    pub(super) node: Shard<SockStreams, NoApp>,
    us: Nid,
    at: SocketAddr,
    socks: Vec<Option<TcpStream>>,
    got: Vec<usize>,
}

impl OnSockets {
    fn new(last: u8) -> OnSockets {
        let ip: IpAddr = [127, 44, 1, last].into();
        // Bytes that the kernel takes count for acknowledged.
        let tcp = Tcp { tx_buffer: 8192, ..Tcp::default() };
        let us = crate::raw::nid(1);
        OnSockets::of(ip, us, NodeBuilder::of(Config { tcp, ..Config::new(us, 5) }).config(poor))
    }

    /// The same of any node.
    pub(super) fn of(ip: IpAddr, us: Nid, node: NodeBuilder) -> OnSockets {
        let mut node = serving(node.listen_at([SocketAddr::new(ip, 0)]).sockets(NoApp).unwrap());
        let at = node.streams().unwrap().local_addrs()[0];
        OnSockets { node, us, at, socks: vec![], got: vec![] }
    }
}

impl World for OnSockets {
    fn join(&mut self, pid: u32) -> usize {
        let mut s = TcpStream::connect(self.at).unwrap();
        s.write_all(&start(self.nids(), pid)).unwrap();
        s.set_nonblocking(true).unwrap();
        SockRef::from(&s).set_recv_buffer_size(4096).unwrap();
        let conn = self.socks.len();
        self.socks.push(Some(s));
        self.got.push(0);
        until(self, "a HELLO", |w| w.got(conn) > 0);
        conn
    }

    fn send(&mut self, conn: usize, bytes: &[u8]) {
        self.socks[conn].as_mut().unwrap().write_all(bytes).unwrap();
    }

    fn go(&mut self, conn: usize, how: Goes) {
        match how {
            Goes::Reset => {
                let s = self.socks[conn].take().unwrap();
                SockRef::from(&s).set_linger(Some(Duration::ZERO)).unwrap();
            }
            Goes::InOrder => self.socks[conn].as_ref().unwrap().shutdown(std::net::Shutdown::Write).unwrap(),
        }
    }

    fn got(&mut self, conn: usize) -> usize {
        let mut b = [0; 4096];
        while let Ok(n @ 1..) = self.socks[conn].as_mut().unwrap().read(&mut b) {
            self.got[conn] += n;
        }
        self.got[conn]
    }

    fn turn(&mut self) {
        self.node.turn();
    }

    fn machine(&self) -> &Machine {
        &self.node.machine
    }

    fn left(&self) -> (u64, u64) {
        let c = self.node.counters();
        (c.conns, c.rx_pool_bytes_in_use)
    }

    fn nids(&self) -> (Nid, Nid) {
        (self.us, crate::raw::nid(66))
    }
}

pub(super) fn until<W: World>(w: &mut W, what: &str, mut is: impl FnMut(&mut W) -> bool) {
    for _ in 0..20_000 {
        if is(w) {
            return;
        }
        w.turn();
    }
    panic!("{what}: {:?} {:?}", w.machine().held(), w.left());
}

fn stalled<W: World>(w: &W) -> usize {
    w.machine().held().stalled
}

fn nothing_is_left<W: World>(w: &mut W) {
    until(w, "nothing is left", |w| {
        let h = w.machine().held();
        (w.left(), h.answers, h.conns, h.stalled) == ((0, 0), 0, 0, 0)
    });
}

/// Field report 2: 300 peers that had been reset were known only by time-out. One peer puts their host over its share;
/// another has sent so many PUTs of `len` bytes and so many bytes of the next, is stalled at the first, and goes.
fn one<W: World>(mut w: W, how: Goes, len: u32, (puts, more): (usize, usize)) {
    let nids = w.nids();
    let (greedy, b) = (w.join(1000), w.join(1001));
    let hello = w.got(b);
    w.send(greedy, &get(nids, 1000).repeat(FLOOD));
    until(&mut w, "the first is stalled", |w| stalled(w) == 1);
    let before = w.machine().counters().msgs_rx;
    let message = put(nids, 1001, len);
    w.send(b, &[message.repeat(puts), message[..more].to_vec()].concat());
    until(&mut w, "the second is stalled", |w| stalled(w) == 2);
    (0..100).for_each(|_| w.turn());
    assert_eq!((stalled(&w), w.got(b)), (2, hello), "{how:?} {puts} {more}");
    w.go(b, how);
    if how == Goes::Reset {
        until(&mut w, "it ends", |w| w.machine().gauges().conns == 1);
        assert_eq!((stalled(&w), w.machine().counters().msgs_rx), (1, before));
        w.go(greedy, Goes::Reset);
    } else {
        (0..100).for_each(|_| w.turn());
        assert_eq!((stalled(&w), w.machine().gauges().conns), (2, 2), "nothing is lost");
        // The first goes with its answers: all that came whole is taken and acknowledged, then the FIN is heard.
        w.go(greedy, Goes::Reset);
        until(&mut w, "the FIN is heard", |w| w.machine().gauges().conns == 0 || w.got(b) == 0);
        assert_eq!(w.machine().counters().msgs_rx, before + puts as u64);
        assert_eq!(w.machine().counters().err_eof_inside, u64::from(more > 0));
        if more == 0 {
            until(&mut w, "all is acknowledged", |w| w.got(b) == hello + puts * ACKED);
        }
    }
    nothing_is_left(&mut w);
    assert_eq!(w.machine().counters().err_rx_timeout, 0);
}

/// One message; a part of the next; several chunks, that end at a message or in it.
fn each(mut f: impl FnMut(Goes, u32, (usize, usize))) {
    for how in [Goes::Reset, Goes::InOrder] {
        for len in [0, 8] {
            for sent in [(1, 0), (2, 50), (40, 0), (40, 7)] {
                println!("{how:?} {len} {sent:?}");
                f(how, len, sent);
            }
        }
    }
}

#[test]
fn who_goes_while_it_is_stalled_on_a_port() {
    each(|how, len, sent| one(OnPort::new(), how, len, sent));
}

/// The bytes wait at the home, which another lcore tells of the end.
#[test]
fn who_goes_while_it_is_stalled_on_another_lcores_queue() {
    each(|how, len, sent| one(OnPort::across(), how, len, sent));
}

/// More waits than may be on its way to the home: the rest, and the end behind it, stay with the lcore that polls the queue.
#[test]
fn who_goes_while_its_bytes_wait_at_both_lcores() {
    for more in [0, 50] {
        one(OnPort::across(), Goes::Reset, 8, (11_000, more));
    }
}

#[test]
fn who_goes_while_it_is_stalled_on_sockets() {
    each(|how, len, sent| one(OnSockets::new(1), how, len, sent));
}

/// The RST comes with the requests: it is known before the connection would stall.
fn burst<W: World>(mut w: W) {
    let nids = w.nids();
    let a = w.join(1000);
    w.send(a, &get(nids, 1000).repeat(FLOOD));
    w.go(a, Goes::Reset);
    until(&mut w, "it ends", |w| w.machine().gauges().conns == 0);
    nothing_is_left(&mut w);
}

#[test]
fn who_has_gone_is_not_stalled() {
    burst(OnPort::new());
    burst(OnPort::across());
    burst(OnSockets::new(3));
}
