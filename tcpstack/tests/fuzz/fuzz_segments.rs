//! Segments injected into a live pair of connections.
//!
//! Two kinds of input, by its first bit. *Blind*: whoever forges does not know the exact numbers, and what bytes
//! lie inside the window are those of the stream. Both streams must then arrive byte for byte, and both ends close
//! in order: nothing of it may cost more than time. *Wild*: anything goes, the exact numbers included. The
//! connection may die; nothing panics, spins, stays behind, or makes smoltcp and the shim disagree.

use std::collections::VecDeque;

use crate::common::bench::segment;
use crate::common::{End, MS, SEC, TestStack, World, config, ip, pattern};
use crate::fuzz::{Bytes, LEN, TIME};
use dataplane::fault::Faults;
use dataplane::mem::MemConfig;
use dataplane::pkt::{Port, TxCsum, TxMeta, TxPkt};
use tcpstack::isn::Secret;
use tcpstack::opts::{OptBytes, SackBlock, Ts};
use tcpstack::seq::Seq;
use tcpstack::stamps;
use tcpstack::table::Key;
use tcpstack::wire::{ACK, FIN, Fields, RST, SYN};
use tcpstack::{Close, CloseWhy, Event, FlowId, Phase, StackConfig, Work};

const STREAM: usize = 60_000;
const WINDOW: u64 = 65_536;

struct Pair {
    w: World,
    ends: [End; 2],
    flows: [FlowId; 2],
    iss: [Seq; 2],
    wild: bool,
    stamps: bool,
    sack: bool,
    turns: u32,
}

fn key(side: usize) -> Key {
    match side {
        0 => Key::new(ip(1).into(), 1023, ip(2).into(), 988),
        _ => Key::new(ip(2).into(), 988, ip(1).into(), 1023),
    }
}

fn secret(side: usize) -> Secret {
    Secret([(side as u64 + 1) * 77, 0xfeed])
}

fn stack(w: &mut World, side: usize) -> &mut TestStack {
    if side == 0 { &mut w.a } else { &mut w.b }
}

impl Pair {
    fn new(how: u8) -> Pair {
        let (stamps, sack) = (how & 2 != 0, how & 4 != 0);
        let cfg = |n| StackConfig {
            rx_window: WINDOW as u32,
            tx_window: 131_072,
            backlog: 30_000,
            ooo_max: 200_000,
            timestamps: stamps,
            sack,
            ..config(n)
        };
        let mem = MemConfig {
            mtu: 1500,
            tso_max: 0,
            csum: false,
            rx_bufs: 512,
            rx_buf: 2048,
            ..MemConfig::default()
        };
        let mut w = World::new(&mem, Faults::default(), 1, cfg(1), cfg(2));
        let began = w.now();
        let (f, g) = w.connect();
        let (x, y) = (pattern(STREAM, 1), pattern(STREAM, 2));
        let ends = [End::new(x.clone(), y.clone(), 3, false), End::new(y, x, 4, false)];
        let iss = [0, 1].map(|side| secret(side).isn(&key(side), began));
        let mut p = Pair { w, ends, flows: [f, g], iss, wild: how & 1 == 1, stamps, sack, turns: 0 };
        (p.ends[0].flow, p.ends[1].flow) = (Some(f), Some(g));
        p
    }

    /// One turn of each, and of whoever uses them; whether anything was done.
    fn turn(&mut self) -> bool {
        let now = self.w.now();
        let mut busy = false;
        for side in 0..2 {
            busy |= stack(&mut self.w, side).turn(now) != Work::Idle;
            if self.wild {
                busy |= self.serve_wild(side);
            } else {
                busy |= self.ends[side].serve(stack(&mut self.w, side));
            }
        }
        self.turns += 1;
        let c = [self.w.a.counters(), self.w.b.counters()];
        assert_eq!([c[0].desync, c[1].desync, c[0].smoltcp_resent, c[1].smoltcp_resent], [0; 4]);
        assert!(self.w.a.flows() <= 1 && self.w.b.flows() <= 2, "forged segments open nothing");
        busy
    }

    /// A user who takes what comes.
    fn serve_wild(&mut self, side: usize) -> bool {
        let (f, s) = (self.flows[side], stack(&mut self.w, side));
        let mut did = false;
        while let Some(e) = s.event() {
            did = true;
            if let Event::Progress { acked, sent, .. } = e {
                assert!(acked <= sent);
            }
        }
        while let Some(x) = s.next(f) {
            s.credit(f, x.len());
            did = true;
        }
        let _ = s.push(f, &[7; 100], &[]);
        did
    }

    /// Lets time pass: up to `ns`, or to the next timer.
    fn pass(&mut self, ns: u64) {
        let end = self.w.now() + ns;
        let step = (ns / 50).max(20_000);
        while self.w.now() < end {
            let busy = self.turn() && !self.wild;
            let now = self.w.now();
            let next = if busy { now + step } else { self.w.next_time().unwrap_or(end).max(now + step) };
            self.w.clock.set(next.min(end));
            assert!(self.turns < 400_000, "it spins");
        }
    }

    /// A segment to `to` as if from the other side.
    fn inject(&mut self, to: usize, b: &mut Bytes<'_>) {
        let from = 1 - to;
        // What `to` has had, and how far `from` may think that its own bytes came.
        let (had, acked) = (self.ends[to].got as u64, self.ends[from].got as u64);
        let len = [0, 0, 1, 7, 100, 512, 1448][usize::from(b.u8() % 7)];
        let mut f = Fields { seq: Seq(0), ack: Seq(0), flags: ACK, win: b.u16() };
        let mut data = vec![];
        let mut off = had.saturating_sub(70_000) + b.below(140_000);
        if self.wild {
            f.flags =
                [ACK, ACK, ACK, ACK | FIN, RST, SYN, SYN | ACK, RST | ACK, 0, 0x3f][usize::from(b.u8() % 10)];
            off = [had, had + b.below(4), had.saturating_sub(b.below(4)), off][usize::from(b.u8() & 3)];
            f.ack = [self.seq(to, acked), self.seq(to, acked + b.below(3000)), Seq(b.u32())]
                [usize::from(b.u8() % 3)];
            data.resize(len, b.u8());
        } else {
            let end = STREAM as u64;
            match b.u8() % 8 {
                // The stream's own bytes, cut differently; or old ones, garbled.
                0..=3 => {
                    off = off.min(end);
                    let n = (len as u64).min(end - off) as usize;
                    let bytes = &self.ends[from].out.bytes()[off as usize..off as usize + n];
                    // Nothing may come that its sender has not sent yet: the answer would acknowledge what never was,
                    // and the two would never agree again.
                    if off + n as u64 <= self.ends[from].sent {
                        data.extend_from_slice(bytes);
                    }
                    if off + n as u64 <= had && b.chance() {
                        data.iter_mut().for_each(|x| *x ^= 0x55);
                        f.flags |= if b.chance() && off + (n as u64) < had { FIN } else { 0 };
                    }
                    off = if data.is_empty() { off.min(had) } else { off };
                }
                // A reset anywhere but where the next byte will ever be.
                4 => {
                    f.flags = RST | (b.u8() & ACK);
                    off = if off >= had { end + 2 + off } else { off };
                }
                5 => f.flags = SYN | (b.u8() & ACK),
                6 => f.flags = [0, SYN | FIN, SYN | RST, 0x3f][usize::from(b.u8() & 3)],
                _ => (),
            }
            f.ack = match b.u8() % 4 {
                0 => self.seq(to, end + 2 + b.below(1 << 30)),
                1 => Seq(self.seq(to, 0).0.wrapping_sub(b.below(1 << 30) as u32)),
                _ => self.seq(to, b.below(acked + 1)),
            };
        }
        f.seq = self.seq(from, off);
        let opts = self.options(to, b);
        self.put(to, segment(&key(from), &f, &opts, &data));
    }

    /// The number on the wire of an offset of the stream from `side`.
    fn seq(&self, side: usize, off: u64) -> Seq {
        self.iss[side].plus(1).plus(off)
    }

    fn options(&self, to: usize, b: &mut Bytes<'_>) -> OptBytes {
        let now = self.w.now();
        let clock = |side| stamps::clock(secret(side).stamp_offset(&key(side)), now);
        let ts = match b.u8() & 3 {
            0 => None,
            1 => Some(Ts { val: clock(1 - to).wrapping_sub(1 + u32::from(b.u8())), ecr: clock(to) }),
            2 if self.wild => Some(Ts { val: b.u32(), ecr: b.u32() }),
            _ => Some(Ts { val: clock(1 - to), ecr: clock(to) }),
        };
        let mut o = OptBytes::plain(ts.filter(|_| self.stamps || self.wild));
        if self.sack && b.u8() & 3 == 0 {
            let blocks: Vec<_> = (0..b.u8() & 3)
                .map(|_| {
                    let left = self.seq(to, b.below(STREAM as u64));
                    SackBlock { left, right: left.plus(b.below(3000)) }
                })
                .collect();
            o.add_sack(&blocks);
        }
        o
    }

    fn put(&mut self, to: usize, mut frame: Vec<u8>) {
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, to as u8 + 1]);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2 - to as u8]);
        let port = stack(&mut self.w, 1 - to).port_mut().inner();
        let Some(mut t) = port.tx_alloc() else { return };
        t.copy_in(&frame).unwrap();
        port.tx_burst(&mut VecDeque::from([t.finish(TxMeta { csum: TxCsum::Done, ..TxMeta::default() })]));
    }

    /// A frame of any bytes at all behind good addresses.
    fn raw(&mut self, to: usize, b: &mut Bytes<'_>) {
        let n = usize::from(b.u8() % 60);
        let f = Fields { seq: self.seq(1 - to, b.u16().into()), ack: Seq(b.u32()), flags: b.u8(), win: 9 };
        let mut frame = segment(&key(1 - to), &f, &[], &b.rest(n));
        for _ in 0..1 + b.u8() % 4 {
            let at = b.below(frame.len() as u64) as usize;
            frame[at] = b.u8(); // nearly always a wrong checksum or length
        }
        self.put(to, frame);
    }

    fn finish(mut self) {
        let end = self.w.now() + 400 * SEC;
        while !self.wild && self.w.now() < end && !self.ends.iter().all(End::done) {
            self.pass(100 * MS);
        }
        if self.wild {
            self.pass(SEC);
            for side in 0..2 {
                let f = self.flows[side];
                stack(&mut self.w, side).close(f, Close::Abort);
            }
        } else {
            for e in &self.ends {
                assert_eq!(
                    (e.got, e.closed),
                    (STREAM, Some(CloseWhy::Fin)),
                    "{:?}\n{:?}",
                    self.w.a.counters(),
                    self.w.b.counters()
                );
            }
        }
        self.ends.iter_mut().for_each(End::drop_held);
        let end = self.w.now() + 700 * SEC;
        self.w.run_to(end);
        for side in 0..2 {
            let s = stack(&mut self.w, side);
            while s.event().is_some() {}
            // Forged SYNs have opened some that nobody read: what is unread stays until it is read or closed.
            let slots = s.slots();
            let left: Vec<_> = s.connections(0, slots).map(|(f, c)| (f, c.state, c.recv_queue)).collect();
            for (f, state, unread) in left {
                assert!(self.wild && state == Phase::Closed && unread > Some(0), "{state:?} {unread:?}");
                s.close(f, Close::Abort);
            }
            while s.event().is_some() {}
            s.slab().reap(|_, _| ());
            s.turn(end);
            assert_eq!((s.flows(), s.time_waits(), s.slab().out(), s.tx_waiting()), (0, 0, 0, 0));
            assert_eq!(s.port_mut().inner().rx_out(), 0);
        }
    }
}

fn run(input: &[u8]) {
    let mut b = Bytes::new(input);
    let mut p = Pair::new(b.u8());
    while !b.done() {
        let op = b.u8();
        let to = usize::from(op >> 7);
        match op % 8 {
            0 => drop(p.turn()),
            1 => p.pass(1 << (b.u8() % 28)),
            2 if p.wild => p.raw(to, &mut b),
            _ => p.inject(to, &mut b),
        }
    }
    p.finish();
}

#[test]
fn a_live_pair_withstands_forged_segments() {
    bolero::check!().with_test_time(TIME).with_max_len(LEN).for_each(run);
}
