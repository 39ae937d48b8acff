//! Receive memory of a node's port while one host's connections are stalled with their windows full: others' bulk goes on.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;

use dataplane::mem::{MemConfig, MemPort, pair};
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{ACK, RST, SYN, Seg};
use transport::node::lcore::LcoreStreams;
use transport::node::{NoApp, Shard};
use transport::wire::Nid;

use crate::nodes::{Now, beginning, builder, stack};
use crate::sim_ends::{PEER, US, Wire};
use crate::sim_stalled::{ACKED, FLOOD, get, poor, put, serving, start};

const HONEST: Ipv4Addr = Ipv4Addr::new(10, 6, 0, 3);
const MSS: usize = 1400;
const BUFS: usize = 1024;
/// Connections of one host whose first windows are more than all buffers.
const CONNS: u32 = 30;

/// A peer that keeps to the window that it is offered, and sends again what is not acknowledged.
struct Peer {
    key: Key,
    ids: (Nid, Nid),
    /// The bytes that it sends, from `first` on; how much of them the node has.
    bytes: Vec<u8>,
    first: Seq,
    acked: usize,
    sent: usize,
    window: usize,
    /// The node's next number, and bytes that came.
    next: Seq,
    got: usize,
    /// It acknowledges nothing that comes.
    deaf: bool,
}

struct World {
    node: Shard<LcoreStreams<MemPort>, NoApp>,
    wire: Wire,
    now: Now,
    peers: Vec<Peer>,
}

impl World {
    fn new() -> World {
        let now = beginning();
        let (a, b) = pair(&MemConfig { rx_bufs: BUFS, ..MemConfig::default() });
        let node = builder(US, 5, &now).config(poor).over(stack(US, a, 3, 4096), NoApp).unwrap();
        World { node: serving(node), wire: Wire(b), now, peers: vec![] }
    }

    fn join(&mut self, from: Ipv4Addr, pid: u32) -> usize {
        let key = Key::new(from.into(), 500 + pid as u16, US.into(), 988);
        let irs = Seq(pid << 16);
        self.wire.send(&key, SYN, irs, Seq(0), b"");
        let ids = (Nid::tcp(IpAddr::V4(US), 0), Nid::tcp(IpAddr::V4(from), 0));
        let bytes = start(ids, pid);
        self.peers.push(Peer {
            key,
            ids,
            bytes,
            first: irs.plus(1),
            acked: 0,
            sent: 0,
            window: 0,
            next: Seq(0),
            got: 0,
            deaf: false,
        });
        let i = self.peers.len() - 1;
        for _ in 0..100 {
            self.turn();
        }
        assert!(self.peers[i].got > 0, "a HELLO");
        i
    }

    fn hear(&mut self, s: &Seg, len: usize) {
        let Some(p) = self.peers.iter_mut().find(|p| p.key == s.key) else {
            if s.flags == SYN {
                // It dials back for what waits: nobody listens.
                let key = Key::new(s.key.local, s.key.lport(), s.key.remote, s.key.rport());
                self.wire.send(&key, RST | ACK, Seq(0), s.seq.plus(1), b"");
            }
            return;
        };
        if s.has(SYN) {
            p.next = s.seq.plus(1);
        } else if s.seq == p.next && !p.deaf {
            p.next = p.next.plus(len as u64);
            p.got += len;
        }
        p.acked = p.acked.max(s.ack.since(p.first).max(0) as usize);
        p.window = usize::from(s.win);
    }

    /// Everybody sends as far as it may; the node turns; everybody hears.
    fn turn(&mut self) {
        for p in &mut self.peers {
            if p.next == Seq(0) {
                continue;
            }
            while p.sent < p.bytes.len().min(p.acked + p.window) {
                let end = (p.sent + MSS).min(p.bytes.len()).min(p.acked + p.window);
                let seq = p.first.plus(p.sent as u64);
                self.wire.send(&p.key, ACK, seq, p.next, &p.bytes[p.sent..end]);
                p.sent = end;
            }
            self.wire.send(&p.key, ACK, p.first.plus(p.sent as u64), p.next, b"");
            self.node.turn();
        }
        self.now.fetch_add(1_000_000, Ordering::Relaxed);
        self.node.turn();
        for (s, data) in self.wire.heard() {
            self.hear(&s, data.len());
        }
        // Bytes that are not acknowledged within a turn were not taken.
        for p in &mut self.peers {
            p.sent = p.acked;
        }
    }

    /// Buffers in use.
    fn used(&self) -> u64 {
        self.node.counters().rx_pool_bytes_in_use / MemConfig::default().rx_buf as u64
    }
}

#[test]
fn bulk_of_others_goes_on_while_many_connections_of_one_host_are_not_read() {
    let mut w = World::new();
    let early = w.join(HONEST, 100);
    let all: Vec<usize> = (0..CONNS).map(|n| w.join(PEER, 200 + n)).collect();
    // One does not read its answers, which puts the host over its share: none of its connections is read any more.
    let (ids, pid) = (w.peers[all[0]].ids, 200);
    w.peers[all[0]].deaf = true;
    w.peers[all[0]].bytes.extend(get(ids, pid).repeat(FLOOD));
    (0..50).for_each(|_| w.turn());
    for (n, i) in (0..CONNS).zip(&all) {
        let message = put(ids, 200 + n, 4000);
        w.peers[*i].bytes.extend(message.repeat(20));
    }
    (0..50).for_each(|_| w.turn());
    let (used, stalled) = (w.used(), w.node.machine.held().stalled);
    assert!(used > BUFS as u64 / 3 && stalled >= 10, "{used} buffers are unread by {stalled} connections");
    // A peer that was there, and one that comes now.
    let late = w.join(Ipv4Addr::new(10, 6, 0, 4), 300);
    for (i, pid) in [(early, 100), (late, 300)] {
        let (before, ids) = (w.peers[i].got, w.peers[i].ids);
        let message = put(ids, pid, 4000);
        w.peers[i].bytes.extend(message.repeat(256));
        // A MiB, some 20 KiB a turn.
        (0..120).for_each(|_| w.turn());
        assert_eq!(
            w.peers[i].got - before,
            256 * ACKED,
            "{} of {}",
            w.peers[i].acked,
            w.peers[i].bytes.len()
        );
    }
    assert!(w.node.machine.held().stalled >= stalled, "all the while");
    // They go, and with them what nobody has read.
    for i in &all {
        let p = &w.peers[*i];
        w.wire.send(&p.key, RST, p.first.plus(p.acked as u64), Seq(0), b"");
    }
    w.peers.truncate(all[0]);
    (0..20).for_each(|_| w.turn());
    assert_eq!((w.used(), w.node.machine.held().stalled), (0, 0));
}
