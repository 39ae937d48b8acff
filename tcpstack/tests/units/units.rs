//! smoltcp is shown a stream in units of 256 bytes; none of that shows on the wire.
#![forbid(unsafe_code)]

use crate::common::bench::Bench;
use tcpstack::wire::{ACK, FIN};
use tcpstack::{Close, CloseWhy};

const LENGTHS: [usize; 12] = [1, 2, 127, 255, 256, 257, 511, 512, 513, 1460, 14_336, 14_337];

#[test]
fn every_length_is_sent_acknowledged_and_closed_to_the_byte() {
    for (i, n) in LENGTHS.into_iter().enumerate() {
        let mut b = Bench::new();
        let mut p = b.accept(1 + i as u16, 100);
        // Both ways twice, so that the second begins inside a unit.
        for _ in 0..2 {
            b.push(p.flow, n);
            let sent: usize = b.segs().iter().map(|g| g.data.len()).sum();
            assert_eq!(sent, n);
            // All but the last byte, then that.
            b.put(&p, ACK, p.seq, p.ack.plus(n as u64 - 1), 1000, b"");
            let left = b.s.flow_counters(p.flow).unwrap().backlog;
            assert_eq!(left, 1, "length {n}");
            p.ack = p.ack.plus(n as u64);
            b.put(&p, ACK, p.seq, p.ack, 1000, b"");
            for x in vec![7; n].chunks(1400) {
                b.data(&mut p, x);
            }
            b.wait(1_000_000);
            assert_eq!(b.segs().last().unwrap().seg.ack, p.seq, "length {n}");
            assert_eq!(b.read(p.flow).len(), n);
        }
        b.s.close(p.flow, Close::Fin);
        b.turn();
        let fin = b.segs().pop().unwrap().seg;
        assert_eq!((fin.flags & FIN, fin.seq, fin.plen), (FIN, p.ack, 0), "length {n}");
        b.put(&p, ACK | FIN, p.seq, p.ack.plus(1), 1000, b"");
        assert_eq!(b.segs().pop().unwrap().seg.ack, p.seq.plus(1), "length {n}");
        assert_eq!(b.closed(), Some(CloseWhy::Fin), "length {n}");
        let c = b.s.counters();
        assert_eq!((c.desync, c.smoltcp_resent, c.tx_resent), (0, 0, 0), "length {n}");
    }
}

#[test]
fn the_peers_window_is_used_to_the_byte_and_not_beyond() {
    let mut b = Bench::new();
    let mut p = b.accept(1, 100);
    b.put(&p, ACK, p.seq.plus(0), p.ack, 0, b"x");
    p.seq = p.seq.plus(1);
    b.segs();
    b.push(p.flow, 10_000);
    assert_eq!(b.segs().len(), 0, "shut");
    // The scale is 7: 128 bytes, half a unit, then one and a half.
    for win in [1u16, 3, 4, 5] {
        b.put(&p, ACK, p.seq, p.ack, win, b"");
        let sent: usize = b.segs().iter().map(|g| g.data.len()).sum();
        assert_eq!(sent, usize::from(win) << 7);
        p.ack = p.ack.plus(sent as u64);
    }
    assert_eq!((b.s.counters().desync, b.s.counters().smoltcp_resent), (0, 0));
}

#[test]
fn windows_that_round_to_the_same_units_are_no_duplicate_acks() {
    let mut b = Bench::new();
    let p = b.accept(1, 100);
    b.push(p.flow, 60_000);
    b.segs();
    // More than smoltcp takes for a loss.
    for i in 0..20 {
        b.put(&p, ACK, p.seq, p.ack, 1000 + i % 2, b"");
    }
    assert_eq!(b.s.counters().smoltcp_resent, 0);
}

/// A message and its answer, a thousand times: smoltcp is given more than was pushed, and hears of many at once.
#[test]
fn small_messages_do_not_ask_smoltcp_for_each_turn() {
    let mut b = Bench::new();
    let mut p = b.accept(1, 100);
    let before = b.s.counters();
    for i in 0..1000 {
        b.push(p.flow, 160);
        let sent = b.segs().pop().unwrap();
        assert_eq!((sent.seg.plen, sent.seg.ack), (160, p.seq), "message {i}");
        p.ack = p.ack.plus(160);
        b.data(&mut p, &[7; 96]);
        assert_eq!(b.read(p.flow).len(), 96);
        b.s.slab().reap(|_, _| ());
    }
    let c = b.s.counters();
    let (fed, emitted) = (c.fed - before.fed, c.emitted - before.emitted);
    assert!((1..20).contains(&fed) && (1..20).contains(&emitted), "fed {fed}, emitted {emitted}");
    // What smoltcp was given ahead is in nobody's way at the end.
    b.wait(1_000_000);
    b.segs();
    b.s.close(p.flow, Close::Fin);
    b.turn();
    let fin = b.segs().pop().unwrap().seg;
    assert_eq!((fin.flags & FIN, fin.seq), (FIN, p.ack));
    b.put(&p, ACK | FIN, p.seq, p.ack.plus(1), 1000, b"");
    assert_eq!(b.closed(), Some(CloseWhy::Fin));
    assert_eq!((b.s.counters().desync, b.s.counters().smoltcp_resent), (0, 0));
}
