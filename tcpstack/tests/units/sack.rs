//! What the receiver reports: blocks for all that it holds out of order (RFC 2018), and duplicates (RFC 2883).

use crate::common::bench::{Bench, Got, Peer, segment};
use crate::common::{config, ip, pattern};
use dataplane::mem::MemConfig;
use tcpstack::opts::{OptBytes, Ts};
use tcpstack::wire::{ACK, FIN, Fields};
use tcpstack::{Listen, StackConfig};

fn open() -> (Bench, Peer) {
    let mut b = Bench::new();
    let p = b.accept_with(1, 100, true, false);
    (b, p)
}

/// The blocks of a segment as offsets from the peer's first byte.
fn blocks(g: &Got) -> Vec<(i32, i32)> {
    g.opts.sack.iter().map(|x| (x.left.0 as i32 - 101, x.right.0 as i32 - 101)).collect()
}

/// Data of the peer's at an offset of its stream.
fn at(b: &mut Bench, p: &Peer, off: u64, n: usize) -> Vec<Got> {
    let seq = p.seq.plus(off);
    b.put(p, ACK, seq, p.ack, 1000, &vec![off as u8; n]);
    b.segs()
}

fn only(mut v: Vec<Got>) -> Got {
    assert_eq!(v.len(), 1, "{v:?}");
    v.remove(0)
}

#[test]
fn each_ack_tells_of_all_that_is_held_the_last_one_first() {
    let (mut b, p) = open();
    for (off, want) in [
        (100, vec![(100, 110)]),
        (200, vec![(200, 210), (100, 110)]),
        (110, vec![(100, 120), (200, 210)]),
        (300, vec![(300, 310), (100, 120), (200, 210)]),
        (400, vec![(400, 410), (300, 310), (100, 120), (200, 210)]),
        (500, vec![(500, 510), (400, 410), (300, 310), (100, 120)]),
    ] {
        let g = only(at(&mut b, &p, off, 10));
        assert_eq!((g.seg.ack, blocks(&g)), (p.seq, want), "after {off}");
    }
    // A gap filled: acknowledged at once, and what is still beyond the next gap is told of.
    let g = only(at(&mut b, &p, 0, 100));
    assert_eq!(
        (g.seg.ack, blocks(&g)),
        (p.seq.plus(120), vec![(500, 510), (400, 410), (300, 310), (200, 210)])
    );
    for (off, n) in [(120, 80), (210, 90), (310, 90), (410, 90)] {
        at(&mut b, &p, off, n);
    }
    let g = only(at(&mut b, &p, 510, 10));
    assert_eq!((g.seg.ack, blocks(&g)), (p.seq.plus(520), vec![]));
    assert_eq!((b.read(p.flow).len(), b.s.counters().dsacks), (520, 0));
}

#[test]
fn three_blocks_beside_timestamps_and_none_for_a_peer_that_did_not_ask() {
    for (sack, most) in [(true, 3), (false, 0)] {
        let mut b = Bench::new();
        let p = b.accept_with(1, 100, sack, true);
        for i in 1..=5 {
            b.stamped(&p, ACK, i * 100, Ts { val: 2, ecr: 0 }, b"0123456789");
            let g = b.one();
            assert_eq!(g.opts.sack.len(), most.min(i as usize));
            assert!(g.opts.ts.is_some() && g.seg.hlen <= 60);
        }
        assert_eq!(b.s.counters().sack_blocks, if sack { 1 + 2 + 3 * 3 } else { 0 });
    }
}

#[test]
fn one_ack_a_turn_is_enough_where_it_tells_of_everything() {
    let (mut b, p) = open();
    let put = |b: &mut Bench, off| {
        let f = Fields { seq: p.seq.plus(off), ack: p.ack, flags: ACK, win: 1000 };
        b.inject(&segment(&p.key, &f, &[], &[1; 10]));
    };
    for i in 10..20 {
        put(&mut b, i * 10);
    }
    b.turn();
    let g = b.one();
    assert_eq!(blocks(&g), [(100, 200)]);
    // Six islands at once: two ACKs, and each island is in one of them.
    for i in 3..9 {
        put(&mut b, i * 100);
    }
    b.turn();
    let g = b.segs();
    assert_eq!(g.len(), 2);
    for i in 3..9 {
        assert!(g.iter().any(|g| blocks(g).contains(&(i * 100, i * 100 + 10))), "{i}: {g:?}");
    }
}

#[test]
fn data_that_we_send_tells_of_them_too_and_is_shorter_for_it() {
    let (mut b, p) = open();
    at(&mut b, &p, 100, 10);
    b.push(p.flow, 4000);
    let g = b.segs();
    assert_eq!(
        g.iter().map(|g| (g.data.len(), blocks(g))).collect::<Vec<_>>(),
        [(1448, vec![(100, 110)]), (1448, vec![(100, 110)]), (1104, vec![(100, 110)])]
    );
    assert!(g.iter().all(|g| g.seg.hlen + g.data.len() <= 1480));
    let sent: Vec<u8> = g.into_iter().flat_map(|g| g.data).collect();
    assert_eq!(sent, pattern(4000, 3).bytes());
}

#[test]
fn a_duplicate_is_reported_once_with_the_block_around_it() {
    let (mut b, p) = open();
    at(&mut b, &p, 0, 50);
    let g = only(at(&mut b, &p, 10, 20));
    assert_eq!((g.seg.ack, blocks(&g)), (p.seq.plus(50), vec![(10, 30)]), "below the ACK");
    at(&mut b, &p, 100, 50);
    let g = only(at(&mut b, &p, 120, 20));
    assert_eq!(blocks(&g), [(120, 140), (100, 150)], "inside a block: the block comes next");
    let g = only(at(&mut b, &p, 200, 10));
    assert_eq!(blocks(&g), [(200, 210), (100, 150)], "once");
    let g = only(at(&mut b, &p, 40, 20));
    assert_eq!(
        (g.seg.ack, blocks(&g)),
        (p.seq.plus(60), vec![(40, 50), (200, 210), (100, 150)]),
        "the old part"
    );
    let g = only(at(&mut b, &p, 140, 30));
    assert_eq!(blocks(&g)[..2], [(140, 150), (100, 170)]);
    assert_eq!(b.s.counters().dsacks, 4);
    assert_eq!(b.s.counters().rx_duplicate, 1, "a segment counts when nothing of it is new");
}

#[test]
fn what_paws_turns_away_is_a_duplicate_as_well() {
    let mut b = Bench::new();
    let p = b.accept_with(1, 100, true, true);
    b.stamped(&p, ACK, 0, Ts { val: 50, ecr: 0 }, &[1; 100]);
    b.segs();
    b.stamped(&p, ACK, 20, Ts { val: 9, ecr: 0 }, &[1; 30]);
    let g = b.one();
    assert_eq!((g.seg.ack, blocks(&g)), (p.seq.plus(100), vec![(20, 50)]));
    b.stamped(&p, ACK, 100, Ts { val: 9, ecr: 0 }, &[1; 30]);
    assert_eq!(blocks(&b.one()), [], "new bytes with an old timestamp are none");
}

#[test]
fn duplicates_never_ride_on_payload() {
    let (mut b, p) = open();
    at(&mut b, &p, 0, 50);
    let f = Fields { seq: p.seq, ack: p.ack, flags: ACK, win: 1000 };
    b.inject(&segment(&p.key, &f, &[], &[1; 50]));
    b.push(p.flow, 3000);
    let g = b.segs();
    assert!(g.iter().filter(|g| !g.data.is_empty()).all(|g| g.opts.sack.is_empty()));
    assert_eq!(g.iter().map(blocks).filter(|b| !b.is_empty()).collect::<Vec<_>>(), [[(0, 50)]]);
}

#[test]
fn without_sack_duplicates_and_gaps_are_acknowledged_as_ever() {
    let mut b = bench(StackConfig { sack: false, ..config(1) });
    let p = b.accept_with(1, 100, true, false);
    let f = |off| Fields { seq: p.seq.plus(off), ack: p.ack, flags: ACK, win: 1000 };
    for i in 1..=3 {
        b.inject(&segment(&p.key, &f(i * 10), &[], &[1; 10]));
    }
    b.turn();
    let g = b.segs();
    assert_eq!(
        (g.len(), g.iter().all(|g| g.opts.sack.is_empty())),
        (3, true),
        "RFC 5681: the peer counts them"
    );
    assert_eq!(only(at(&mut b, &p, 0, 10)).seg.ack, p.seq.plus(40));
    assert_eq!(b.s.counters().dsacks, 0);
}

#[test]
fn a_fin_beyond_a_gap_does_not_upset_the_blocks() {
    let (mut b, p) = open();
    b.put(&p, ACK | FIN, p.seq.plus(10), p.ack, 1000, b"tail");
    assert_eq!(blocks(&b.one()), [(10, 14)]);
    let g = only(at(&mut b, &p, 0, 10));
    assert_eq!((g.seg.ack, blocks(&g)), (p.seq.plus(15), vec![]));
    // The FIN once more: a duplicate without bytes is no block.
    b.put(&p, ACK | FIN, p.seq.plus(14), p.ack, 1000, b"");
    assert_eq!(blocks(&b.one()), []);
}

#[test]
fn sacks_of_the_peers_do_no_harm() {
    let (mut b, p) = open();
    b.push(p.flow, 1000);
    b.segs();
    let block = |l: u32, r: u32| {
        let (left, right) = (p.ack.plus(u64::from(l)), p.ack.plus(u64::from(r)));
        tcpstack::opts::SackBlock { left, right }
    };
    let junk = [block(500, 100), block(5_000, 9_000), block(u32::MAX, 1 << 31), block(0, 0)];
    let mut o = OptBytes::NONE;
    assert_eq!(o.add_sack(&junk), 4);
    let f = Fields { seq: p.seq, ack: p.ack, flags: ACK, win: 1000 };
    b.send(&segment(&p.key, &f, &o, &[]));
    b.put(&p, ACK, p.seq, p.ack.plus(1000), 1000, b"");
    assert_eq!((b.s.flow_counters(p.flow).unwrap().backlog, b.s.counters().desync), (0, 0));
}

fn bench(cfg: StackConfig) -> Bench {
    let mut b = Bench::with(cfg, &MemConfig { mtu: 1500, tso_max: 0, csum: false, ..MemConfig::default() });
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
    b
}
