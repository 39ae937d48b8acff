//! Ends: in order, at once, by RST, and what remains afterwards.

use crate::common::bench::{Bench, dial, segment};
use crate::common::{MS, SEC, addr, ip};
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{ACK, FIN, Fields, RST, SYN};
use tcpstack::{Close, CloseWhy, Dial, PushError};

#[test]
fn both_close_at_once_and_the_place_is_reused_by_a_later_syn_only() {
    let mut b = Bench::new();
    let p = b.accept(1, 100);
    b.s.close(p.flow, Close::Fin);
    b.turn();
    let fin = b.one().seg;
    assert_eq!((fin.flags & FIN, fin.seq), (FIN, p.ack));
    b.put(&p, ACK | FIN, p.seq, p.ack, 1000, b""); // does not acknowledge our FIN
    assert_eq!(b.one().seg.ack, p.seq.plus(1));
    assert_eq!(b.closed(), None);
    b.put(&p, ACK, p.seq.plus(1), p.ack.plus(1), 1000, b"");
    assert_eq!((b.closed(), b.s.time_waits(), b.s.flows()), (Some(CloseWhy::Fin), 1, 0));
    // The FIN again: its ACK was lost.
    b.put(&p, ACK | FIN, p.seq, p.ack.plus(1), 1000, b"");
    assert_eq!(b.one().seg.ack, p.seq.plus(1));
    b.syn(1, p.seq.0); // not later than what was received
    assert_eq!(b.one().seg.flags, ACK);
    b.syn(1, p.seq.0 + 100);
    let sa = b.one().seg;
    assert_eq!((sa.flags, b.s.time_waits(), b.s.counters().time_wait_reused), (SYN | ACK, 0, 1));
    assert!(sa.seq.after(p.ack), "beyond what the old connection used");
}

#[test]
fn time_wait_ends_by_itself() {
    let mut b = Bench::new();
    let p = b.accept(1, 100);
    b.s.close(p.flow, Close::Fin);
    b.turn();
    b.put(&p, ACK | FIN, p.seq, p.ack.plus(1), 1000, b"");
    assert_eq!(b.s.time_waits(), 1);
    b.wait(4900 * MS);
    assert_eq!(b.s.time_waits(), 1);
    b.wait(200 * MS);
    assert_eq!((b.s.time_waits(), b.s.deadline()), (0, None));
}

#[test]
fn dialling_from_a_place_in_time_wait_starts_beyond_it() {
    let mut b = Bench::new();
    let (f, syn) = dial(&mut b);
    let key = Key::new(ip(2).into(), 988, ip(1).into(), 1023);
    let reply = |b: &mut Bench, flags, seq, ack| {
        b.send(&segment(&key, &Fields { seq, ack, flags, win: 900 }, &[], b""))
    };
    reply(&mut b, SYN | ACK, Seq(9), syn.seq.plus(1));
    b.s.close(f, Close::Fin);
    b.turn();
    reply(&mut b, ACK | FIN, Seq(10), syn.seq.plus(2));
    assert_eq!((b.closed(), b.s.time_waits()), (Some(CloseWhy::Fin), 1));
    b.segs();
    b.s.dial(b.now, Dial { local: addr(1, 1023), remote: addr(2, 988) }).unwrap();
    b.turn();
    let again = b.one().seg;
    assert!(again.flags == SYN && again.seq.since(syn.seq) > 1 << 19, "{again:?} after {syn:?}");
}

#[test]
fn a_lost_fin_is_sent_again() {
    let mut b = Bench::new();
    let p = b.accept(1, 100);
    b.push(p.flow, 10);
    b.s.close(p.flow, Close::Fin);
    b.turn();
    b.segs();
    b.put(&p, ACK, p.seq, p.ack.plus(10), 1000, b"");
    b.wait(3 * SEC);
    let again = b.segs();
    assert!(!again.is_empty());
    assert!(again.iter().all(|g| g.seg.has(FIN) && g.seg.seq == p.ack.plus(10) && g.data.is_empty()));
    assert_eq!(b.s.push(p.flow, b"x", &[]), Err(PushError::NotOpen));
}

#[test]
fn after_a_fin_a_window_update_does_not_upset_last_ack() {
    let mut b = Bench::new();
    let p = b.accept(1, 100);
    b.put(&p, ACK, p.seq, p.ack, 0, b"");
    b.push(p.flow, 500);
    b.put(&p, ACK | FIN, p.seq, p.ack, 0, b"");
    b.s.close(p.flow, Close::Fin);
    b.turn();
    b.segs();
    b.put(&p, ACK, p.seq.plus(1), p.ack, 1000, b"");
    let g = b.segs();
    assert_eq!(g[0].data.len(), 500, "the window opened in CLOSE-WAIT with our FIN pending");
    assert!(g.last().unwrap().seg.has(FIN));
    b.put(&p, ACK, p.seq.plus(1), p.ack.plus(501), 1000, b"");
    assert_eq!((b.closed(), b.s.counters().desync, b.s.time_waits()), (Some(CloseWhy::Fin), 0, 0));
}

#[test]
fn an_abort_resets_the_peer_and_lets_everything_go() {
    let mut b = Bench::new();
    let mut p = b.accept(1, 100);
    b.push(p.flow, 5000);
    b.data(&mut p, &[7; 1000]);
    b.segs();
    b.s.close(p.flow, Close::Abort);
    b.turn();
    let r = b.one().seg;
    assert_eq!((r.flags & RST, r.seq), (RST, p.ack.plus(5000)));
    assert_eq!(b.closed(), Some(CloseWhy::LocalAbort));
    b.s.slab().reap(|_, _| ());
    assert_eq!((b.s.slab().out(), b.s.port().rx_out(), b.s.flows()), (0, 0, 0));
    assert!(b.s.flow_counters(p.flow).is_none());
    b.s.close(p.flow, Close::Abort);
    assert!(b.s.next(p.flow).is_none() && b.events().is_empty(), "an id that is over does nothing");
}

#[test]
fn pages_stay_lent_until_the_peer_has_acknowledged_past_their_end() {
    let mut b = Bench::new();
    let p = b.accept(1, 100);
    b.push(p.flow, 3000);
    b.segs();
    for (acked, home) in [(1460, 0), (2999, 0), (3000, 1)] {
        b.put(&p, ACK, p.seq, p.ack.plus(acked), 1000, b"");
        assert_eq!(b.s.slab().reap(|_, _| ()), home, "{acked}");
    }
}

#[test]
fn what_was_received_can_be_read_after_both_ends_have_closed() {
    let mut b = Bench::new();
    let mut p = b.accept(1, 100);
    b.data(&mut p, b"last words");
    b.s.close(p.flow, Close::Fin);
    b.turn();
    b.put(&p, ACK | FIN, p.seq, p.ack.plus(1), 1000, b"");
    assert_eq!((b.closed(), b.s.time_waits()), (None, 1));
    assert_eq!(b.read(p.flow), b"last words");
    assert_eq!((b.closed(), b.s.flows()), (Some(CloseWhy::Fin), 0));
}

#[test]
fn a_port_that_takes_nothing_bounds_what_waits_for_it() {
    use dataplane::mem::MemConfig;
    use tcpstack::{Listen, StackConfig};
    let mem = MemConfig { depth: 1, csum: false, tso_max: 0, mtu: 1500, ..MemConfig::default() };
    let mut b = Bench::with(StackConfig { tx_depth: 8, ..crate::common::config(1) }, &mem);
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
    // Nobody reads the wire: strays, echo and ARP pile up answers.
    let key = Key::new(ip(2).into(), 7, ip(1).into(), 8);
    for _ in 0..200 {
        b.inject(&segment(&key, &Fields { seq: Seq(5), ack: Seq(6), flags: ACK, win: 0 }, &[], b"abc"));
        b.s.turn(b.now);
    }
    assert_eq!(b.s.tx_waiting(), 16);
    assert!(b.s.counters().tx_deep > 100);
}

#[test]
fn a_peer_that_still_sends_after_our_fin_is_kept_and_a_silent_one_is_not() {
    let mut b = Bench::new();
    let mut p = b.accept(1, 100);
    b.s.close(p.flow, Close::Fin);
    b.turn();
    b.put(&p, ACK, p.seq, p.ack.plus(1), 1000, b"");
    p.ack = p.ack.plus(1);
    for _ in 0..5 {
        b.wait(20 * SEC);
        b.data(&mut p, b"more");
        assert_eq!(b.read(p.flow), b"more");
    }
    assert_eq!(b.closed(), None);
    b.wait(61 * SEC);
    assert_eq!(b.closed(), Some(CloseWhy::Timeout));
}
