//! Segments forged by somebody who cannot see the connection, and segments that no honest peer sends.

use crate::common::bench::{Bench, Peer, dial, segment};
use crate::common::{MS, SEC, config, ip};
use dataplane::mem::MemConfig;
use tcpstack::isn::Secret;
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{ACK, FIN, Fields, PSH, RST, SYN};
use tcpstack::{Close, CloseWhy, Event, Listen, StackConfig};

const URG: u8 = 0x20;

fn bench(cfg: StackConfig) -> Bench {
    let mut b = Bench::with(cfg, &MemConfig { mtu: 1500, tso_max: 0, csum: false, ..MemConfig::default() });
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 8 }).unwrap();
    b
}

fn to(port: u16) -> Key {
    Key::new(ip(2).into(), 7, ip(1).into(), port)
}

fn stray(b: &mut Bench, key: &Key, flags: u8, seq: Seq, ack: Seq) {
    b.send(&segment(key, &Fields { seq, ack, flags, win: 1000 }, &[], &[]));
}

#[test]
fn challenges_are_limited_for_all_connections_together() {
    let mut b = bench(StackConfig { challenge_acks: 20, ..config(1) });
    let peers: Vec<Peer> = (1..=100).map(|port| b.accept(port, 100)).collect();
    let mut sent = vec![];
    for _ in 0..20 {
        for p in &peers {
            b.put(p, RST, p.seq.plus(1), Seq(0), 0, b"");
        }
        sent.push(b.segs().len());
        b.wait(SEC);
    }
    assert!(sent.iter().all(|n| (10..=30).contains(n)), "{sent:?}");
    assert!(sent.iter().any(|n| n != &sent[0]), "the same number each second can be measured: {sent:?}");
    let c = b.s.counters();
    assert_eq!(c.challenge_acks + c.challenge_limited, 2000);
    assert_eq!(b.closed(), None);
}

#[test]
fn no_stranger_can_silence_the_answer_to_a_keepalive() {
    let mut b = bench(StackConfig { challenge_acks: 0, ..config(1) });
    let p = b.accept(1, 100);
    b.put(&p, RST, p.seq.plus(1), Seq(0), 0, b"");
    assert_eq!(b.segs().len(), 0);
    b.put(&p, ACK, Seq(p.seq.0 - 1), p.ack, 1000, b"");
    assert_eq!(b.one().seg.ack, p.seq);
}

#[test]
fn two_ends_that_disagree_do_not_answer_each_other_for_ever() {
    let mut b = bench(config(1));
    let p = b.accept(1, 100);
    for seq in [p.seq.plus(3_000_000), Seq(p.seq.0.wrapping_sub(70_000))] {
        b.wait(10 * MS);
        for _ in 0..50 {
            b.put(&p, ACK, seq, p.ack, 1000, b"");
        }
        assert_eq!(b.segs().len(), 1, "{seq:?}");
    }
    // Data is paced by whoever sends it again, and tells its sender where we are.
    b.put(&p, ACK, Seq(p.seq.0.wrapping_sub(5)), p.ack, 1000, b"12345");
    assert_eq!(b.one().seg.ack, p.seq);
}

#[test]
fn resets_to_strangers_are_limited() {
    let mut b = bench(StackConfig { resets: 100, ..config(1) });
    for i in 0..5000 {
        stray(&mut b, &to(8), ACK, Seq(i), Seq(i));
        b.segs();
    }
    let c = b.s.counters();
    assert_eq!(c.rst_sent + c.rst_limited, 5000);
    assert!((50..=150).contains(&c.rst_sent), "{}", c.rst_sent);
    b.wait(SEC);
    stray(&mut b, &to(8), ACK, Seq(1), Seq(1));
    assert_eq!(b.one().seg.flags & RST, RST, "the next second has its own");
    assert_eq!((b.s.flows(), b.s.tx_waiting()), (0, 0));
}

#[test]
fn forged_acks_do_not_use_up_the_retries_of_a_dial() {
    let mut b = bench(config(1));
    let (_, syn) = dial(&mut b);
    let key = Key::new(ip(2).into(), 988, ip(1).into(), 1023);
    for i in 0..200 {
        stray(&mut b, &key, ACK, Seq(7), Seq(999 + i));
        b.wait(2 * MS);
    }
    let again = b.segs().iter().filter(|g| g.seg == syn).count();
    assert_eq!((again, b.closed()), (1, None));
    stray(&mut b, &key, SYN | ACK, Seq(9), syn.seq.plus(1));
    assert!(matches!(b.events()[..], [Event::Opened { .. }]));
}

#[test]
fn a_peer_that_began_anew_gets_the_place_of_its_half_open_connection() {
    let mut b = bench(config(1));
    b.syn(7, 100);
    let first = b.one().seg;
    b.syn(7, 5_000_000);
    let c = b.one().seg;
    assert_eq!((c.flags, c.seq, c.ack), (ACK, first.seq.plus(1), Seq(101)), "challenged");
    // What a peer in SYN-SENT says to that (RFC 9293 §3.10.7.3).
    stray(&mut b, &to(988), RST, c.ack, Seq(0));
    assert_eq!((b.s.flows(), b.s.counters().half_open_lost), (0, 1));
    b.syn(7, 5_000_000);
    assert_eq!(b.one().seg.ack, Seq(5_000_001));
}

#[test]
fn a_half_open_connection_falls_to_an_exact_reset_only() {
    let mut b = bench(config(1));
    b.syn(7, 100);
    b.segs();
    for seq in [100, 102, 60_000] {
        b.wait(10 * MS);
        stray(&mut b, &to(988), RST, Seq(seq), Seq(0));
        assert_eq!(b.s.flows(), 1, "{seq}");
    }
    stray(&mut b, &to(988), RST, Seq(101), Seq(0));
    assert_eq!(b.s.flows(), 0);
}

#[test]
fn flags_that_contradict_each_other_are_dropped_everywhere() {
    let mut b = bench(config(1));
    let p = b.accept(1, 100);
    let (f, syn) = dial(&mut b);
    let dialled = Key::new(ip(2).into(), 988, ip(1).into(), 1023);
    let mut n = 0;
    for flags in [SYN | FIN, SYN | RST, SYN | FIN | ACK, 0x3f] {
        for key in [to(988), to(8), p.key, dialled] {
            stray(&mut b, &key, flags, p.seq, syn.seq.plus(1));
            n += 1;
        }
    }
    // Without any flag: nothing for a connection, a RST (RFC 9293 §3.10.7.1) for none.
    stray(&mut b, &p.key, 0, p.seq, p.ack);
    assert_eq!((b.segs().len(), b.s.counters().rx_bad_flags, b.s.counters().rx_malformed), (0, n, 1));
    stray(&mut b, &to(8), 0, p.seq, p.ack);
    assert_eq!(b.one().seg.flags, RST | ACK);
    assert_eq!((b.closed(), b.s.flows(), b.s.flow_counters(f).is_some()), (None, 2, true));
}

#[test]
fn a_reset_with_data_resets_and_delivers_nothing() {
    let mut b = bench(config(1));
    let p = b.accept(1, 100);
    b.put(&p, RST | ACK, p.seq, p.ack, 1000, b"why I left");
    assert_eq!((b.closed(), b.s.counters().rx_bytes, b.s.port().rx_out()), (Some(CloseWhy::Reset), 0, 0));
}

#[test]
fn urgent_data_is_data_in_its_place() {
    let mut b = bench(config(1));
    let p = b.accept(1, 100);
    for (at, pointer, data) in [(0u64, 2u16, b"abcd"), (4, 60_000, b"efgh"), (8, 0, b"ijkl")] {
        let f = Fields { seq: p.seq.plus(at), ack: p.ack, flags: ACK | PSH | URG, win: 1000 };
        let mut frame = segment(&p.key, &f, &[], data);
        frame[52..54].copy_from_slice(&pointer.to_be_bytes());
        let sum = u32::from(u16::from_be_bytes([frame[50], frame[51]]) ^ 0xffff) + u32::from(pointer);
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        frame[50..52].copy_from_slice(&sum.to_be_bytes());
        b.send(&frame);
    }
    assert_eq!((b.read(p.flow), b.s.counters().rx_bad_csum), (b"abcdefghijkl".to_vec(), 0));
}

#[test]
fn nobody_is_port_0_or_ourselves() {
    let mut b = bench(config(1));
    let mut n = 0;
    for (src, dst) in [(0, 988), (7, 0), (0, 0)] {
        let key = Key::new(ip(2).into(), src, ip(1).into(), dst);
        for flags in [SYN, ACK, RST, SYN | ACK] {
            stray(&mut b, &key, flags, Seq(1), Seq(1));
            n += 1;
        }
    }
    // The land attack: from our own address and port to themselves.
    let land = Key::new(ip(1).into(), 988, ip(1).into(), 988);
    stray(&mut b, &land, SYN, Seq(1), Seq(1));
    let c = b.s.counters();
    assert_eq!((c.rx_malformed, c.rx_martian, b.s.flows(), b.frames().len()), (n, 1, 0, 0));
}

#[test]
fn data_on_a_syn_is_not_taken_and_comes_again() {
    let mut b = bench(config(1));
    let f = Fields { seq: Seq(100), ack: Seq(0), flags: SYN, win: 1000 };
    b.send(&segment(&to(988), &f, &[], b"early"));
    let sa = b.one().seg;
    assert_eq!(
        (sa.flags, sa.ack, b.s.port().rx_out()),
        (SYN | ACK, Seq(101), 0),
        "the SYN alone is acknowledged"
    );
    let f = Fields { seq: Seq(101), ack: sa.seq.plus(1), flags: ACK, win: 1000 };
    b.send(&segment(&to(988), &f, &[], b"early"));
    let Some(Event::Opened { flow, .. }) = b.events().into_iter().next() else { panic!("not open") };
    assert_eq!(b.read(flow), b"early");
}

#[test]
fn sequence_numbers_on_the_wire_are_those_of_rfc_6528() {
    let mut b = bench(config(1));
    let secret = Secret([77, 0xfeed]);
    b.wait(3 * SEC);
    b.syn(7, 100);
    let key = Key::new(ip(1).into(), 988, ip(2).into(), 7);
    assert_eq!(b.one().seg.seq, secret.isn(&key, b.now));
    b.wait(SEC);
    let (_, syn) = dial(&mut b);
    let key = Key::new(ip(1).into(), 1023, ip(2).into(), 988);
    assert!(secret.isn(&key, b.now).since(syn.seq) <= 1, "the SYN waited for ARP, its number did not");
}

#[test]
fn time_wait_answers_what_is_sent_again_and_few_others() {
    let mut b = bench(StackConfig { challenge_acks: 4, ..config(1) });
    let p = b.accept(1, 100);
    b.s.close(p.flow, Close::Fin);
    b.turn();
    b.put(&p, ACK | FIN, p.seq, p.ack.plus(1), 1000, b"");
    assert_eq!(b.s.time_waits(), 1);
    b.segs();
    for _ in 0..100 {
        b.put(&p, ACK, p.seq, p.ack, 1000, b""); // before its FIN
    }
    let n = b.segs().len();
    assert!((2..=6).contains(&n), "{n}");
    b.put(&p, ACK | FIN, p.seq, p.ack.plus(1), 1000, b"");
    assert_eq!(b.one().seg.ack, p.seq.plus(1));
}

#[test]
fn nobody_acknowledges_a_syn_that_has_not_left() {
    let mut b = bench(config(1));
    // Somebody has guessed the number, and sends both in one burst.
    let isn = Secret([77, 0xfeed]).isn(&Key::new(ip(1).into(), 988, ip(2).into(), 7), b.now);
    let syn = Fields { seq: Seq(100), ack: Seq(0), flags: SYN, win: 1000 };
    b.inject(&segment(&to(988), &syn, &[], &[]));
    b.inject(&segment(
        &to(988),
        &Fields { seq: Seq(101), ack: isn.plus(1), flags: ACK, win: 1000 },
        &[],
        &[],
    ));
    b.turn();
    let g = b.segs();
    assert_eq!(g.iter().map(|g| g.seg.flags).collect::<Vec<_>>(), [RST, SYN | ACK]);
    assert_eq!((g[1].seg.seq, b.s.counters().desync, b.events().len()), (isn, 0, 0));
    stray(&mut b, &to(988), ACK, Seq(101), isn.plus(1));
    assert!(matches!(b.events()[..], [Event::Opened { .. }]), "once it has");
}
