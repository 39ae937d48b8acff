//! A stack, and a peer made of hand-written segments.
#![allow(dead_code, unreachable_pub)]

use std::collections::VecDeque;
use std::sync::Arc;

use super::{SEC, addr, config, ip, pattern};
use arrayvec::ArrayVec;
use dataplane::mem::{Crossing, MemConfig, MemPort, MemRx, pair};
use dataplane::pkt::{Port, RxPkt, TxCsum, TxMeta, TxPkt};
use hugepages::{LendSlab, PageRunMut, PrivatePages};
use tcpstack::arp::Packet as Arp;
use tcpstack::csum::{Sum, pseudo};
use tcpstack::opts::{OptBytes, Opts, Ts};
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{self, ACK, Fields, SYN, Seg, Template};
use tcpstack::{CloseWhy, Dial, Event, FlowId, Listen, Stack, StackConfig, Work};

pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A port of 1500 bytes that neither segments nor sums.
pub const PLAIN: MemConfig = MemConfig {
    mtu: 1500,
    tso_max: 0,
    csum: false,
    max_segs: 64,
    crossing: Crossing::Copy,
    lazy: 0,
    depth: 1024,
    tx_bufs: 4096,
    rx_bufs: 2048,
    rx_buf: 9216,
};

/// A stack (10.0.0.1) and, at the other end of the wire, whatever the test makes of 10.0.0.2.
pub struct Bench {
    pub s: Stack<MemPort>,
    pub wire: MemPort,
    pages: LendSlab,
    pub now: u64,
}

/// A connection of which the test plays the peer.
pub struct Peer {
    pub flow: FlowId,
    pub key: Key,
    /// Our next number, and the stack's.
    pub seq: Seq,
    pub ack: Seq,
}

#[derive(Debug)]
pub struct Got {
    pub seg: Seg,
    pub opts: Opts,
    pub data: Vec<u8>,
}

impl Bench {
    /// A stack and the other end of its wire.
    pub fn over(s: Stack<MemPort>, wire: MemPort) -> Bench {
        Bench { s, wire, pages: LendSlab::new(16_384), now: SEC }
    }

    pub fn with(cfg: StackConfig, mem: &MemConfig) -> Bench {
        let (p, wire) = pair(mem);
        let s = Stack::new(cfg, p, LendSlab::new(64)).unwrap();
        let mut b = Bench::over(s, wire);
        b.turn();
        b.frames();
        b
    }

    pub fn new() -> Bench {
        let mut b = Bench::with(config(1), &PLAIN);
        b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
        b
    }

    pub fn turn(&mut self) {
        for _ in 0..1000 {
            if self.s.turn(self.now) == Work::Idle {
                return;
            }
        }
        panic!("the stack spins");
    }

    pub fn wait(&mut self, ns: u64) {
        let end = self.now + ns;
        for _ in 0..100_000 {
            match self.s.deadline() {
                Some(t) if t <= end => self.now = t.max(self.now + 1),
                _ => break,
            }
            self.turn();
        }
        self.now = end;
        self.turn();
    }

    pub fn send(&mut self, frame: &[u8]) {
        self.inject(frame);
        self.turn();
    }

    /// Puts a frame on the wire; the stack has not seen it yet.
    pub fn inject(&mut self, frame: &[u8]) {
        let mut t = self.wire.tx_alloc().unwrap();
        let (head, rest) = frame.split_at(frame.len().min(1000));
        t.copy_in(head).unwrap();
        if !rest.is_empty() {
            let mut r = PageRunMut::new(Arc::new(PrivatePages), rest.len()).unwrap();
            r.bytes_mut()[..rest.len()].copy_from_slice(rest);
            let slice = r.freeze().slice(0, rest.len() as u32).unwrap();
            t.attach(&self.pages.lend(slice, 0).unwrap()).unwrap();
        }
        let t = t.finish(TxMeta { csum: TxCsum::Done, ..TxMeta::default() });
        self.wire.tx_burst(&mut VecDeque::from([t]));
        self.pages.reap(|_, _| ());
    }

    pub fn frames(&mut self) -> Vec<Vec<u8>> {
        let mut all = vec![];
        loop {
            let mut v: ArrayVec<MemRx, 32> = ArrayVec::new();
            self.wire.rx_burst(&mut v);
            if v.is_empty() {
                return all;
            }
            for p in v {
                let mut b = vec![];
                p.for_each(&mut |x| b.extend_from_slice(x));
                all.push(b);
            }
        }
    }

    /// TCP segments that the stack sent, checksums verified where the stack has to fill them in.
    pub fn segs(&mut self) -> Vec<Got> {
        let done = !self.wire.caps().tx_csum;
        self.frames()
            .into_iter()
            .filter_map(|b| {
                let e = wire::eth(&b)?;
                let ip = if e.kind == wire::ETH_IPV6 {
                    wire::ip6(&b[e.len..], b.len() - e.len)
                } else {
                    wire::ip4(&b[e.len..], b.len() - e.len, done)
                };
                let ip = ip.ok().filter(|i| i.proto == 6)?;
                let t = &b[e.len + ip.hlen..];
                let mut sum = pseudo(&ip.src, &ip.dst, 6, ip.payload);
                sum.add(t);
                assert!(!done || sum.finish() == 0, "TCP checksum");
                let seg = wire::tcp(t, &ip).unwrap();
                Some(Got { seg, opts: Opts::parse(&t[20..seg.hlen]), data: t[seg.hlen..].to_vec() })
            })
            .collect()
    }

    pub fn one(&mut self) -> Got {
        let mut v = self.segs();
        assert_eq!(v.len(), 1, "{v:?}");
        v.remove(0)
    }

    pub fn arp(&mut self, op: u16, spa: u8, tpa: u8) {
        let mut b = [0; 46];
        let p = Arp { op, sha: PEER_MAC, spa: ip(spa).into(), tha: [0; 6], tpa: ip(tpa).into() };
        let n = p.frame(wire::BROADCAST, None, &mut b);
        self.send(&b[..n]);
    }

    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.s.event()).collect()
    }

    pub fn closed(&mut self) -> Option<CloseWhy> {
        self.events().into_iter().find_map(|e| match e {
            Event::Closed { why, .. } => Some(why),
            _ => None,
        })
    }

    pub fn syn(&mut self, port: u16, seq: u32) {
        self.syn_of(&Key::new(ip(2).into(), port, ip(1).into(), 988), seq);
    }

    fn syn_of(&mut self, key: &Key, seq: u32) {
        let f = Fields { seq: Seq(seq), ack: Seq(0), flags: SYN, win: 65_535 };
        self.send(&segment(key, &f, &[2, 4, 5, 0xb4, 1, 3, 3, 7], &[]));
    }

    /// A connection that the test dials.
    pub fn accept(&mut self, port: u16, seq: u32) -> Peer {
        self.accept_of(Key::new(ip(2).into(), port, ip(1).into(), 988), seq)
    }

    /// The same from any address to any of the stack's.
    pub fn accept_of(&mut self, key: Key, seq: u32) -> Peer {
        self.syn_of(&key, seq);
        let sa = self.one().seg;
        assert_eq!((sa.flags, sa.ack), (SYN | ACK, Seq(seq + 1)));
        let f = Fields { seq: Seq(seq + 1), ack: sa.seq.plus(1), flags: ACK, win: 1000 };
        self.send(&segment(&key, &f, &[], &[]));
        match self.events()[..] {
            [Event::Opened { flow, passive: true, .. }] => {
                Peer { flow, key, seq: Seq(seq + 1), ack: sa.seq.plus(1) }
            }
            ref e => panic!("{e:?}"),
        }
    }

    pub fn put(&mut self, p: &Peer, flags: u8, seq: Seq, ack: Seq, win: u16, data: &[u8]) {
        self.send(&segment(&p.key, &Fields { seq, ack, flags, win }, &[], data));
    }

    /// A connection that the test dials with these options in its SYN; the handshake is done, timestamps starting
    /// at 1 where there are any.
    pub fn accept_with(&mut self, port: u16, seq: u32, sack: bool, stamps: bool) -> Peer {
        let key = Key::new(ip(2).into(), port, ip(1).into(), 988);
        let ts = stamps.then_some(Ts { val: 1, ecr: 0 });
        let f = Fields { seq: Seq(seq), ack: Seq(0), flags: SYN, win: 65_535 };
        self.send(&segment(&key, &f, &OptBytes::syn(1460, sack, ts, Some(7)), &[]));
        let sa = self.one();
        let ts = sa.opts.ts.map(|t| Ts { val: 1, ecr: t.val });
        let f = Fields { seq: Seq(seq + 1), ack: sa.seg.seq.plus(1), flags: ACK, win: 1000 };
        self.send(&segment(&key, &f, &OptBytes::plain(ts), &[]));
        match self.events()[..] {
            [Event::Opened { flow, passive: true, .. }] => {
                Peer { flow, key, seq: Seq(seq + 1), ack: sa.seg.seq.plus(1) }
            }
            ref e => panic!("{e:?}"),
        }
    }

    /// A segment of the peer's with a timestamp, at an offset from the next number.
    pub fn stamped(&mut self, p: &Peer, flags: u8, off: i64, ts: Ts, data: &[u8]) {
        let f = Fields { seq: p.seq.plus(off as u64), ack: p.ack, flags, win: 1000 };
        self.send(&segment(&p.key, &f, &OptBytes::plain(Some(ts)), data));
    }

    /// The next data of the peer, in order.
    pub fn data(&mut self, p: &mut Peer, data: &[u8]) {
        self.put(p, ACK, p.seq, p.ack, 1000, data);
        p.seq = p.seq.plus(data.len() as u64);
    }

    pub fn read(&mut self, f: FlowId) -> Vec<u8> {
        let mut v = vec![];
        while let Some(x) = self.s.next(f) {
            v.extend_from_slice(x.bytes());
        }
        self.s.credit(f, v.len() as u32);
        v
    }

    pub fn push(&mut self, f: FlowId, n: usize) {
        let l = self.s.slab().lend(pattern(n, 3).slice_all(), 1).unwrap();
        self.s.push(f, b"", &[l]).unwrap();
        self.turn();
    }
}

/// A frame from `key.local` with complete checksums.
pub fn segment(key: &Key, f: &Fields, opts: &[u8], data: &[u8]) -> Vec<u8> {
    let t = Template::new(PEER_MAC, [2, 0, 0, 0, 0, 1], None, key);
    // Options as they are, whole words or not.
    let mut b = t.head(f, &[]).bytes().to_vec();
    b.extend_from_slice(opts);
    b.extend_from_slice(data);
    wire::patch(&mut b[14..], usize::from(t.l3), f.seq, f.flags, 20 + opts.len() + data.len(), 0);
    b[t.tcp_at() + 12] = ((20 + opts.len()) as u8 / 4) << 4;
    wire::fill_ip_csum(&mut b[14..]);
    let at = t.tcp_at();
    let mut s = pseudo(&key.local, &key.remote, 6, b.len() - at);
    s.add(&b[at..]);
    let c = s.finish().to_be_bytes();
    b[at + 16..at + 18].copy_from_slice(&c);
    b
}

/// Dials the peer and answers ARP; returns the SYN.
pub fn dial(b: &mut Bench) -> (FlowId, Seg) {
    let now = b.now;
    let f = b.s.dial(now, Dial { local: addr(1, 1023), remote: addr(2, 988) }).unwrap();
    b.turn();
    b.arp(2, 2, 1);
    let syn = b.one().seg;
    assert_eq!(syn.flags, SYN);
    (f, syn)
}

/// An ICMP error about `frame`, a packet of the stack's: type and code, the 4 bytes behind the checksum, and as much
/// of the packet as a router quotes (IPv4: 28 bytes; IPv6: up to 64). From 10.0.0.9 or fd00::9.
pub fn icmp_error(frame: &[u8], t: u8, code: u8, rest: [u8; 4]) -> Vec<u8> {
    let e = wire::eth(frame).unwrap();
    let v6 = e.kind == wire::ETH_IPV6;
    let quote = &frame[14..frame.len().min(14 + if v6 { 64 } else { 28 })];
    let mut m = vec![t, code, 0, 0];
    m.extend_from_slice(&rest);
    m.extend_from_slice(quote);
    let mut b = vec![0; 14];
    wire::write_eth(&mut b, PEER_MAC, [2, 0, 0, 0, 0, 1], None, e.kind);
    let mut s = Sum::default();
    if v6 {
        let ip = wire::ip6(&frame[14..], frame.len() - 14).unwrap();
        let router = "fd00::9".parse::<std::net::Ipv6Addr>().unwrap().into();
        let mut h = [0; 40];
        wire::write_ip6(&mut h, &router, &ip.src, 58, 64, m.len());
        b.extend_from_slice(&h);
        s = pseudo(&router, &ip.src, 58, m.len());
    } else {
        let mut h = vec![0x45, 0, 0, (20 + m.len()) as u8, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 9];
        h.extend_from_slice(&frame[26..30]);
        wire::fill_ip_csum(&mut h);
        b.extend_from_slice(&h);
    }
    s.add(&m);
    m[2..4].copy_from_slice(&s.finish().to_be_bytes());
    b.extend_from_slice(&m);
    b
}
