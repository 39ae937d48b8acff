//! What a connection shows of itself, against what was done to it.

use crate::common::bench::Bench;
use crate::common::{MS, SEC, World, addr, config, ip, pattern};
use dataplane::fault::Faults;
use dataplane::mem::MemConfig;
use tcpstack::wire::ACK;
use tcpstack::{Close, ConnStats, FlowId, Listen, Phase, StackConfig};

fn stats(b: &Bench, f: FlowId) -> ConnStats {
    b.s.connection(f).unwrap()
}

#[test]
fn counts_are_those_of_the_segments_that_went_by() {
    let mut b = Bench::new();
    let mut p = b.accept(1, 100);
    let s = stats(&b, p.flow);
    assert_eq!((s.local, s.remote), (addr(1, 988), addr(2, 1)));
    assert_eq!((s.state.name(), s.passive, s.recovery), ("ESTABLISHED", Some(true), Some("open")));
    assert_eq!(
        (s.segs_in, s.segs_out, s.data_segs_in, s.data_segs_out),
        (Some(2), Some(1), Some(0), Some(0))
    );
    assert_eq!((s.snd_wscale, s.mss, s.pmtu), (Some(7), Some(1460), Some(1500)));
    assert_eq!((s.last_send_ago_ns, s.last_recv_ago_ns), (None, None), "no payload yet");
    b.data(&mut p, b"hello");
    b.segs();
    let s = stats(&b, p.flow);
    assert_eq!((s.bytes_received, s.recv_queue, s.data_segs_in), (Some(5), Some(5), Some(1)));
    b.read(p.flow);
    assert_eq!(stats(&b, p.flow).recv_queue, Some(0));
    b.push(p.flow, 3000);
    assert_eq!(b.segs().len(), 3);
    b.now += 2 * MS;
    b.turn();
    let s = stats(&b, p.flow);
    assert_eq!(
        (s.bytes_sent, s.in_flight, s.backlog, s.not_sent),
        (Some(3000), Some(3000), Some(3000), Some(0))
    );
    assert_eq!((s.data_segs_out, s.last_send_ago_ns), (Some(3), Some(2 * MS)));
    b.put(&p, ACK, p.seq, p.ack.plus(3000), 1000, b"");
    let s = stats(&b, p.flow);
    assert_eq!((s.bytes_acked, s.in_flight, s.backlog), (Some(3000), Some(0), Some(0)));
    assert_eq!((s.retransmits, s.bytes_retrans, s.rtos), (Some(0), Some(0), Some(0)));
    assert_eq!((s.snd_wnd, s.last_ack_ago_ns, s.min_rtt_ns > Some(0)), (Some(128_000), Some(0), true));
    assert!(s.srtt_ns > Some(0) && s.rttvar_ns > Some(0) && s.rto_ns >= Some(50 * MS), "{s:?}");
    // Out of order, then a time-out.
    b.put(&p, ACK, p.seq.plus(10), p.ack.plus(3000), 1000, b"later");
    let s = stats(&b, p.flow);
    assert_eq!((s.out_of_order, s.bytes_received), (Some(1), Some(5)));
    assert!(s.out_of_order_bytes > Some(0));
    b.push(p.flow, 100);
    b.wait(SEC);
    let s = stats(&b, p.flow);
    assert!(s.rtos > Some(0) && s.retransmits >= s.rtos && s.backoff > Some(0), "{s:?}");
    assert_eq!(s.bytes_retrans, s.retransmits.map(|n| 100 * n));
    assert_eq!((s.bytes_sent.unwrap(), s.recovery), (3100 + s.bytes_retrans.unwrap(), Some("loss")));
}

#[test]
fn a_shut_window_is_timed_on_either_side() {
    let cfg = StackConfig { rx_window: 65_536, ..config(1) };
    let mut b = Bench::with(cfg, &MemConfig { mtu: 1500, tso_max: 0, csum: false, ..MemConfig::default() });
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 2 }).unwrap();
    let mut p = b.accept(1, 100);
    assert_eq!(
        (stats(&b, p.flow).snd_zero_window_ns, stats(&b, p.flow).rcv_zero_window_ns),
        (Some(0), Some(0))
    );
    b.put(&p, ACK, p.seq, p.ack, 0, b"");
    b.wait(3 * MS);
    assert_eq!((stats(&b, p.flow).snd_wnd, stats(&b, p.flow).snd_zero_window_ns), (Some(0), Some(3 * MS)));
    b.put(&p, ACK, p.seq, p.ack, 1000, b"");
    b.wait(5 * MS);
    assert_eq!(stats(&b, p.flow).snd_zero_window_ns, Some(3 * MS));
    // Ours: more than the window comes and nobody reads.
    for _ in 0..70 {
        let room = stats(&b, p.flow).rcv_wnd.unwrap().min(1000) as usize;
        b.data(&mut p, &vec![7; room]);
    }
    assert_eq!(stats(&b, p.flow).rcv_wnd, Some(0));
    b.wait(4 * MS);
    let shut = stats(&b, p.flow).rcv_zero_window_ns;
    assert_eq!(shut, Some(4 * MS));
    b.read(p.flow);
    b.turn();
    b.wait(4 * MS);
    assert_eq!(stats(&b, p.flow).rcv_zero_window_ns, shut);
}

#[test]
fn both_ends_of_a_lossy_transfer_tell_the_same_story() {
    let faults = Faults { loss: 0.02, ..Faults::default() };
    let mem = MemConfig { mtu: 1500, tso_max: 0, ..MemConfig::default() };
    let mut w = World::new(&mem, faults, 7, config(1), config(2));
    let (len, none) = (2_000_000, pattern(0, 9).slice_all());
    let data = pattern(len, 1);
    w.b.listen(Listen { addr: ip(2).into(), port: 988, backlog: 16 }).unwrap();
    let now = w.now();
    let dial = tcpstack::Dial { local: addr(1, 1023), remote: addr(2, 988) };
    let f = w.a.dial(now, dial).unwrap();
    let (mut one, mut two) = (data.slice_all(), false);
    let mut got = 0;
    let mut server = None;
    let limit = w.now() + 100 * SEC;
    let mut lent = 0;
    while w.now() < limit && !two {
        w.settle();
        for e in World::events(&mut w.a) {
            if matches!(e, tcpstack::Event::Opened { .. }) {
                let l = w.a.slab().lend(one.clone(), 1).unwrap();
                w.a.push(f, b"", &[l]).unwrap();
                lent += 1;
                one = none.clone();
            }
        }
        for e in World::events(&mut w.b) {
            if let tcpstack::Event::Opened { flow, .. } = e {
                server = Some(flow);
            }
        }
        if let Some(g) = server {
            while let Some(x) = w.b.next(g) {
                got += x.len() as usize;
                w.b.credit(g, x.len());
            }
        }
        let s = w.a.connection(f).unwrap();
        two = got == len && s.bytes_acked == Some(len as u64);
        if let Some(t) = w.next_time() {
            w.clock.set(t.max(w.now() + 1));
        }
    }
    assert!(two && lent == 1, "{got} bytes");
    let (s, r) = (w.a.connection(f).unwrap(), w.b.connection(server.unwrap()).unwrap());
    assert_eq!((s.bytes_acked, r.bytes_received), (Some(len as u64), Some(len as u64)));
    assert!(s.retransmits > Some(0) && s.dup_acks > Some(0) && r.out_of_order > Some(0), "{s:?} {r:?}");
    assert_eq!(s.bytes_sent.unwrap(), len as u64 + s.bytes_retrans.unwrap());
    assert!(s.cwnd > Some(0) && s.ssthresh > Some(0) && s.fast_recoveries > Some(0), "{s:?}");
    assert!(s.sack_blocks > Some(0) && s.sack_blocks <= r.sack_blocks_out, "{s:?} {r:?}");
    assert!(s.dsacks <= r.dsacks_out && s.pipe == Some(0) && s.sacked == Some(0), "{s:?}");
    assert!(r.segs_in < s.segs_out, "some were lost");
    assert_eq!((s.local, s.remote, s.passive), (r.remote, r.local, Some(false)));
    let total = w.a.counters();
    assert_eq!(
        (s.retransmits, s.rtos),
        (Some(total.tx_resent), Some(total.rto)),
        "one connection: all of it"
    );
    assert_eq!(s.segs_out, Some(total.tx_segments), "no super-segments here");
}

#[test]
fn the_table_is_walked_in_pieces_and_meets_each_connection_once() {
    let mut b =
        Bench::with(config(1), &MemConfig { mtu: 1500, tso_max: 0, csum: false, ..MemConfig::default() });
    b.s.listen(Listen { addr: ip(1).into(), port: 988, backlog: 64 }).unwrap();
    let peers: Vec<_> = (1..=40).map(|n| b.accept(n, 100)).collect();
    b.s.close(peers[7].flow, Close::Abort);
    b.turn();
    b.syn(99, 5);
    let mut seen = vec![];
    for first in (0..b.s.slots()).step_by(7) {
        seen.extend(b.s.connections(first, 7));
    }
    assert_eq!(seen.len(), 40, "39 open and one half-open");
    assert_eq!(seen.iter().filter(|(_, s)| s.state == Phase::SynReceived).count(), 1);
    for (id, s) in &seen {
        assert_eq!(b.s.connection(*id).as_ref(), Some(s));
    }
    assert!(b.s.connection(peers[7].flow).is_none());
}
