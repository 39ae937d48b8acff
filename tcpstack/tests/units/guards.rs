//! What must hold on an open connection against peers that lie and networks that garble.

use crate::common::bench::Bench;
use crate::common::{MS, SEC, config, ip};
use dataplane::mem::MemConfig;
use dataplane::pkt::Port;
use tcpstack::seq::Seq;
use tcpstack::wire::{ACK, FIN, RST, SYN};
use tcpstack::{Close, CloseWhy, Event, KeepAlive, Listen, StackConfig};

#[test]
fn an_ack_of_bytes_never_sent_is_dropped_with_its_data() {
    let mut b = Bench::new();
    let p = b.accept(1, 100);
    b.put(&p, ACK, p.seq, p.ack.plus(1), 1000, b"evil");
    assert_eq!(b.s.counters().rx_ack_unsent, 1);
    assert_eq!(b.read(p.flow), b"");
    assert_eq!(b.one().seg.ack, p.seq, "challenged");
    // The same for bytes that are queued but do not fit the initial window (10 segments of 1460).
    b.push(p.flow, 200_000);
    let sent: usize = b.segs().iter().map(|g| g.data.len()).sum();
    assert_eq!(sent, 14_600);
    b.put(&p, ACK, p.seq, p.ack.plus(150_000), 1000, b"");
    assert_eq!((b.s.counters().rx_ack_unsent, b.s.counters().desync), (2, 0));
    assert_eq!(b.s.flow_counters(p.flow).unwrap().acked_bytes, 0);
}

#[test]
fn an_old_ack_with_new_data_delivers_the_data() {
    let mut b = Bench::new();
    let mut p = b.accept(1, 100);
    b.push(p.flow, 3000);
    b.segs();
    b.put(&p, ACK, p.seq, p.ack.plus(3000), 1000, b"");
    // Sent before the one above, but it came later: its ACK is old, its data is news.
    b.data(&mut p, b"late");
    assert_eq!(b.read(p.flow), b"late");
    assert_eq!(b.s.flow_counters(p.flow).unwrap().acked_bytes, 3000);
    // An ACK older than any window is no ACK at all (RFC 5961).
    let ancient = Seq(p.ack.0.wrapping_sub(1 << 29));
    b.put(&p, ACK, p.seq, ancient, 1000, b"x");
    assert_eq!((b.s.counters().rx_ack_old, b.read(p.flow).len(), b.s.counters().desync), (1, 0, 0));
}

#[test]
fn only_a_reset_exactly_in_sequence_resets() {
    let mut b = Bench::new();
    let p = b.accept(1, 100);
    for (off, answers) in [(-1i64, 0), (1, 1), (60_000, 0), (3_000_000, 0)] {
        b.wait(4 * MS * u64::from(off == 1)); // challenge ACKs have a limit of their own
        b.put(&p, RST, p.seq.plus(off as u64), Seq(0), 0, b"");
        assert_eq!(b.segs().len(), answers, "{off}");
        assert_eq!(b.closed(), None);
    }
    assert_eq!(b.s.counters().rx_bad_rst, 4);
    b.put(&p, RST, p.seq, Seq(0), 0, b"");
    assert_eq!(b.closed(), Some(CloseWhy::Reset));
}

#[test]
fn a_syn_into_an_open_connection_is_challenged() {
    let mut b = Bench::new();
    let p = b.accept(1, 100);
    b.put(&p, SYN, Seq(77), Seq(0), 0, b"");
    let c = b.one().seg;
    assert_eq!((c.flags, c.ack, b.s.counters().challenge_acks), (ACK, p.seq, 1));
    b.put(&p, SYN, Seq(77), Seq(0), 0, b"");
    assert_eq!(b.segs().len(), 0, "not at any rate");
}

#[test]
fn data_beyond_the_window_is_cut_off() {
    let mut b = Bench::with(
        StackConfig { rx_window: 65_536, ..config(1) },
        &MemConfig { mtu: 9000, tso_max: 0, csum: false, ..MemConfig::default() },
    );
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
    let mut p = b.accept(1, 100);
    let big = vec![5; 1400];
    for _ in 0..60 {
        b.data(&mut p, &big);
    }
    let g = b.segs();
    let last = g.last().unwrap().seg;
    assert_eq!(last.ack.since(Seq(101)) as usize, 65_535, "not a byte more than was offered");
    assert!(b.s.counters().rx_beyond_window > 0);
    assert_eq!((b.read(p.flow).len(), b.s.counters().desync), (65_535, 0));
}

#[test]
fn what_was_kept_first_wins() {
    let mut b = Bench::new();
    let p = b.accept(1, 100);
    b.put(&p, ACK, p.seq.plus(5), p.ack, 1000, b"GOOD");
    b.put(&p, ACK, p.seq.plus(3), p.ack, 1000, b"xxEVIL");
    b.put(&p, ACK, p.seq, p.ack, 1000, b"12345");
    assert_eq!(b.read(p.flow), b"123xxGOOD");
}

#[test]
fn a_fin_on_a_trimmed_segment_counts_only_when_it_is_next() {
    let mut b = Bench::new();
    let p = b.accept(1, 100);
    b.put(&p, ACK | FIN, p.seq.plus(4), p.ack, 1000, b"tail");
    assert!(!b.events().contains(&Event::PeerFin(p.flow)));
    b.put(&p, ACK, p.seq, p.ack, 1000, b"head+x");
    let e = b.events();
    assert!(e.contains(&Event::PeerFin(p.flow)), "{e:?}");
    assert_eq!(b.read(p.flow), b"headtail");
    assert_eq!(b.segs().last().unwrap().seg.ack, p.seq.plus(9));
    // Data after the FIN, and another FIN elsewhere, mean nothing.
    b.put(&p, ACK | FIN, p.seq.plus(8), p.ack, 1000, b"more");
    assert_eq!((b.read(p.flow).len(), b.s.counters().desync), (0, 0));
}

#[test]
fn duplicate_acks_are_one_for_each_segment_out_of_order() {
    let mut b = Bench::new();
    let p = b.accept(1, 100);
    for i in 1..=3 {
        b.put(&p, ACK, p.seq.plus(i * 10), p.ack, 1000, b"abcdefghij");
        let d = b.one().seg;
        assert_eq!((d.ack, d.plen), (p.seq, 0));
    }
    b.put(&p, ACK, p.seq, p.ack, 1000, b"0123456789");
    assert_eq!(b.one().seg.ack, p.seq.plus(40));
}

#[test]
fn three_duplicate_acks_resend_one_segment_from_the_shadow_queue() {
    let mut b = Bench::new();
    let p = b.accept(1, 100);
    b.push(p.flow, 14_600);
    let first = b.segs();
    assert_eq!(first.len(), 10);
    for i in 0..4 {
        b.put(&p, ACK, p.seq, p.ack, 1000, b"");
        let r = b.segs();
        assert_eq!(r.len(), usize::from(i == 2));
        if i == 2 {
            assert_eq!((r[0].seg.seq, &r[0].data), (p.ack, &first[0].data));
        }
    }
    assert_eq!((b.s.counters().fast_recoveries, b.s.counters().smoltcp_resent), (1, 0));
}

#[test]
fn the_time_out_backs_off_and_in_the_end_gives_up() {
    let mut b = Bench::new();
    let p = b.accept(1, 100);
    b.push(p.flow, 100);
    b.segs();
    b.wait(99 * SEC);
    let n = b.segs().len();
    assert!((9..12).contains(&n), "{n} resends in 99 s");
    b.wait(100 * SEC);
    assert_eq!(b.closed(), Some(CloseWhy::Timeout));
    assert_eq!(b.segs().last().unwrap().seg.flags & RST, RST);
    b.s.slab().reap(|_, _| ());
    assert_eq!(b.s.slab().out(), 0, "its lending is home");
}

#[test]
fn never_more_than_the_window_and_probes_when_it_is_shut() {
    let mut b = Bench::new();
    let mut p = b.accept(1, 100);
    b.put(&p, ACK, p.seq, p.ack, 10, b"x");
    p.seq = p.seq.plus(1);
    b.put(&p, ACK, p.seq, p.ack, 10, b""); // 1280 bytes, in a newer segment
    b.segs();
    b.push(p.flow, 5000);
    let n: usize = b.segs().iter().map(|g| g.data.len()).sum();
    assert_eq!(n, 1280);
    b.put(&p, ACK, p.seq, p.ack.plus(1280), 0, b"");
    b.wait(10 * SEC);
    let probes = b.segs();
    assert!((4..9).contains(&probes.len()), "{}", probes.len());
    assert!(probes.iter().all(|g| g.data.is_empty() && g.seg.seq == p.ack.plus(1279)));
    assert!(b.s.counters().window_probes >= 2);
    b.put(&p, ACK, p.seq, p.ack.plus(1280), 1000, b"");
    let n: usize = b.segs().iter().map(|g| g.data.len()).sum();
    assert_eq!(n, 3720);
}

#[test]
fn keepalive_probes_an_idle_peer_and_gives_it_up() {
    let ka = KeepAlive { idle: 10 * SEC, interval: SEC, count: 3 };
    let mem = MemConfig { csum: false, tso_max: 0, ..MemConfig::default() };
    let mut b = Bench::with(StackConfig { keepalive: Some(ka), ..config(1) }, &mem);
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
    let p = b.accept(1, 100);
    b.wait(10_500 * MS);
    b.put(&p, ACK, p.seq, p.ack, 1000, b"");
    assert_eq!(b.s.counters().keepalive_probes, 1);
    b.wait(12_500 * MS);
    assert_eq!((b.closed(), b.s.counters().keepalive_probes), (None, 4));
    b.wait(SEC);
    assert_eq!(b.closed(), Some(CloseWhy::Timeout));
}

#[test]
fn a_probe_of_the_peers_is_answered() {
    let mut b = Bench::new();
    let p = b.accept(1, 100);
    b.put(&p, ACK, Seq(p.seq.0 - 1), p.ack, 1000, b"");
    assert_eq!(b.one().seg.ack, p.seq);
    b.wait(10 * MS);
    b.put(&p, ACK, Seq(p.seq.0 - 1), p.ack, 1000, b"\0");
    assert_eq!(b.one().seg.ack, p.seq, "with a byte of garbage, too");
    assert_eq!(b.read(p.flow), b"");
}

#[test]
fn small_payloads_leave_the_ports_buffers_at_once() {
    let mut b = Bench::new();
    let mut p = b.accept(1, 100);
    for _ in 0..100 {
        b.data(&mut p, &[1; 511]);
    }
    assert_eq!((b.s.port().rx_out(), b.s.counters().rx_small_bytes), (0, 51_100));
    b.data(&mut p, &[1; 512]);
    assert_eq!(b.s.port().rx_out(), 1);
    assert_eq!(b.read(p.flow).len(), 51_612);
    assert_eq!(b.s.port().rx_out(), 0);
}

#[test]
fn the_window_follows_the_ports_memory() {
    let mem = MemConfig { mtu: 9000, tso_max: 0, csum: false, rx_bufs: 64, ..MemConfig::default() };
    let mut b = Bench::with(config(1), &mem);
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
    let mut p = b.accept(1, 100);
    // 1000 bytes in each buffer of 9216: what is left of the pool is worth little.
    for _ in 0..40 {
        b.data(&mut p, &[1; 1000]);
    }
    let g = b.segs();
    let w = u64::from(g.last().unwrap().seg.win) << 9;
    assert!(w < 70_000, "{w} offered with 24 buffers of 1000 bytes left");
    b.read(p.flow);
    b.turn();
    assert_eq!(b.s.port().rx_out(), 0);
    assert_eq!(b.s.counters().desync, 0);
}

#[test]
fn out_of_order_data_is_bounded_in_pool_memory() {
    let mut b = Bench::with(
        StackConfig { ooo_max: 100_000, ..config(1) },
        &MemConfig { mtu: 1500, tso_max: 0, csum: false, ..MemConfig::default() },
    );
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
    let p = b.accept(1, 100);
    for i in 0..40 {
        b.put(&p, ACK, p.seq.plus(1000 + i * 1000), p.ack, 1000, &[1; 600]);
    }
    let held = b.s.flow_counters(p.flow).unwrap().ooo_truesize;
    assert!(held <= 100_000 && b.s.port().rx_out() <= 10, "{held}");
    assert!(b.s.counters().rx_overflow > 20);
    b.s.close(p.flow, Close::Abort);
    assert_eq!(b.s.port().rx_out(), 0);
}

#[test]
fn a_full_store_of_out_of_order_data_still_lets_the_gap_be_filled() {
    let mut b = Bench::with(
        StackConfig { ooo_max: 30_000, ..config(1) },
        &MemConfig { mtu: 1500, tso_max: 0, csum: false, ..MemConfig::default() },
    );
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
    let mut p = b.accept(1, 100);
    for i in 1..40 {
        b.put(&p, ACK, p.seq.plus(i * 1000), p.ack, 1000, &[1; 1000]);
    }
    let refused = b.s.counters().rx_overflow;
    assert!(refused > 20, "{refused}");
    b.segs();
    b.data(&mut p, &[0; 1000]);
    // In order now: the first one and those that were kept.
    let kept = 1000 * (40 - refused);
    assert_eq!(b.segs().last().unwrap().seg.ack, Seq(101 + kept as u32));
    // The rest comes again, each of them where a gap begins.
    for i in 40 - refused..40 {
        b.put(&p, ACK, Seq(101 + 1000 * i as u32), p.ack, 1000, &[1; 1000]);
    }
    let all = b.read(p.flow);
    assert_eq!((all.len(), all[..1000].iter().all(|x| *x == 0)), (40_000, true));
    assert!(all[1000..].iter().all(|x| *x == 1));
}

#[test]
fn segments_are_the_peers_size_where_the_port_cannot_cut_them() {
    let mem = MemConfig { mtu: 9000, tso_max: 0, csum: false, ..MemConfig::default() };
    let mut b = Bench::with(config(1), &mem);
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
    let p = b.accept(1, 100); // its MSS is 1460
    b.push(p.flow, 14_000);
    let sizes: Vec<usize> = b.segs().iter().map(|g| g.data.len()).collect();
    assert_eq!((sizes.iter().sum::<usize>(), sizes.iter().max()), (14_000, Some(&1460)));
    assert_eq!(b.s.port().counters().tx_dropped, 0);
}

#[test]
fn a_fin_outside_the_window_is_none() {
    let mut b = Bench::new();
    let mut p = b.accept(1, 100);
    b.data(&mut p, b"0123456789");
    // Before what is next, forged or left over from somewhere: with data behind it, it would end the stream.
    b.put(&p, ACK | FIN, Seq(p.seq.0 - 7), p.ack, 1000, b"");
    b.put(&p, ACK | FIN, Seq(p.seq.0 - 7), p.ack, 1000, b"abc");
    b.data(&mut p, b"more");
    assert_eq!(b.read(p.flow), b"0123456789more");
    // Where its bytes reach beyond the window, what is cut off takes the FIN with it.
    let mut b = Bench::with(
        StackConfig { rx_window: 65_536, ..config(1) },
        &MemConfig { mtu: 9000, tso_max: 0, csum: false, ..MemConfig::default() },
    );
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
    let mut p = b.accept(1, 100);
    for _ in 0..65 {
        b.data(&mut p, &[5; 1000]);
    }
    b.put(&p, ACK | FIN, p.seq, p.ack, 1000, &[6; 1000]); // 535 of them fit
    assert_eq!(b.read(p.flow).len(), 65_535);
    b.turn();
    b.put(&p, ACK, p.seq.plus(535), p.ack, 1000, &[6; 465]);
    assert_eq!(b.read(p.flow).len(), 465);
    b.put(&p, ACK, p.seq.plus(1000), p.ack, 1000, b"on");
    assert_eq!((b.read(p.flow), b.events().contains(&Event::PeerFin(p.flow))), (b"on".to_vec(), false));
}

#[test]
fn a_window_taken_back_with_data_in_flight_does_not_end_the_connection() {
    let mut b = Bench::new();
    let p = b.accept(1, 100);
    b.push(p.flow, 5000);
    let n: usize = b.segs().iter().map(|g| g.data.len()).sum();
    assert_eq!(n, 5000);
    // Shut with everything in flight: what is sent again is answered, by a window that stays shut.
    for _ in 0..30 {
        b.put(&p, ACK, p.seq, p.ack, 0, b"");
        b.segs();
        b.push(p.flow, 1);
        b.wait(10 * SEC);
        let again = b.segs();
        assert!(again.iter().all(|g| g.seg.seq.since(p.ack) < 5000), "nothing new into a shut window");
    }
    assert_eq!(b.closed(), None);
    b.put(&p, ACK, p.seq, p.ack.plus(5000), 1000, b"");
    assert_eq!(b.segs().iter().map(|g| g.data.len()).sum::<usize>(), 30);
    // A peer that does not answer is another matter.
    b.put(&p, ACK, p.seq, p.ack.plus(5000), 0, b"");
    b.wait(200 * SEC);
    assert_eq!(b.closed(), Some(CloseWhy::Timeout));
}

#[test]
fn two_ends_with_shut_windows_hear_each_others_probes() {
    let mut b = Bench::with(
        StackConfig { rx_window: 65_536, ..config(1) },
        &MemConfig { mtu: 9000, tso_max: 0, csum: false, ..MemConfig::default() },
    );
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
    let mut p = b.accept(1, 100);
    for _ in 0..65 {
        b.data(&mut p, &[5; 1000]);
    }
    b.data(&mut p, &[5; 535]);
    let ours = b.segs().last().unwrap().seg;
    assert_eq!((ours.ack, ours.win), (p.seq, 0), "nobody reads here");
    b.put(&p, ACK, p.seq, p.ack, 0, b"");
    b.push(p.flow, 3000);
    b.wait(SEC);
    assert!(b.segs().iter().all(|g| g.data.is_empty()) && b.s.counters().window_probes > 0);
    // The peer's probe is a byte that does not fit. It is answered, and the window that it brings counts.
    b.put(&p, ACK, p.seq, p.ack, 0, b"x");
    assert_eq!(b.one().seg.ack, p.seq);
    b.put(&p, ACK, p.seq, p.ack, 1000, b"x");
    let n: usize = b.segs().iter().map(|g| g.data.len()).sum();
    assert_eq!((n, b.s.counters().desync), (3000, 0));
    b.put(&p, ACK, p.seq, p.ack.plus(3000), 1000, b"");
    assert_eq!(b.read(p.flow).len(), 65_535, "and the byte was not taken");
}
