//! netsock by datagrams: buffers of many packets in any order, lost ones, floods, refusals, and what is heard of the path
//! (docs/netsock.md, Datagrams).

use std::net::SocketAddr;

use transport::netsock::{AddError, Config, Datagrams, Gauges, Op, Queue, Refusal, Stats};
use transport::node::Input;
use transport::stream::Protocol;
use transport::testing::data::bytes;
use transport::testing::net::{Net, SEC};
use transport::testing::netsock::{End, TmNode, addr, dgram_addr, into, lent};
use transport::testing::rng::Rng;
use transport::wire::netsock::{
    Addr, Bdesc, Cookie, DGRAM_LEAST, HDR_LEN, PacketHdr, PacketType, dgram_payload_max, errno, fnv1,
};

const PORT: u16 = 5002;
const THEIRS: u16 = 6001;

fn at(net: &mut Net, n: u8) -> TmNode {
    TmNode::new(net, Config::new(dgram_addr(n, PORT), u64::from(n) << 50))
}

/// Packets of a buffer of a machine of the test's making at 10.0.0.9, each with `cut` bytes.
fn packets(from: u16, generation: u64, dst: Cookie, data: &[u8], cut: usize) -> Vec<Vec<u8>> {
    let src = Bdesc { addr: dgram_addr(9, from), cookie: Cookie { addr: 8, generation } };
    let dst = Bdesc { addr: dgram_addr(2, PORT), cookie: dst };
    let nr = data.len().div_ceil(cut).max(1) as u32;
    let packet = |idx: u32| {
        let offset = idx as usize * cut;
        let part = &data[offset..data.len().min(offset + cut)];
        let (size, total) = (part.len() as u64, data.len() as u64);
        let h = PacketHdr { kind: PacketType::Put, src, dst, idx, nr, size, offset: offset as u64, total };
        [&h.emit()[..], part].concat()
    };
    (0..nr).map(packet).collect()
}

fn give(net: &mut Net, to: &TmNode, from: u16, packet: &[u8]) {
    net.raw_datagram(to.node, SocketAddr::new([10, 0, 0, 9].into(), from), PORT, packet);
}

fn why(tm: &TmNode) -> Vec<Refusal> {
    std::iter::from_fn(|| tm.tm().notice()).map(|n| n.why).collect()
}

fn gauges(tm: &TmNode) -> Gauges {
    tm.tm().gauges()
}

fn stats(tm: &TmNode) -> Stats {
    tm.tm().stats()
}

fn count(tm: &TmNode, name: &str) -> u64 {
    let mut n = 0;
    tm.tm().counts(&mut |k, v| n += if k == name { v } else { 0 });
    n
}

fn shuffle<T>(v: &mut [T], rng: &mut Rng) {
    (1..v.len()).for_each(|i| v.swap(i, rng.below(i as u64 + 1) as usize));
}

/// Every packet says how its buffer was cut; nothing else fits.
#[test]
fn a_cut_is_told_by_each_packet() {
    let mut rng = Rng(5);
    for _ in 0..300 {
        let (total, cut) = (1 + rng.below(200_000), DGRAM_LEAST + rng.below(3000));
        let nr = total.div_ceil(cut) as u32;
        let dst = Bdesc::default();
        let packet = |idx: u32| {
            let offset = u64::from(idx) * cut;
            let size = cut.min(total - offset);
            PacketHdr { kind: PacketType::Put, src: dst, dst, idx, nr, size, offset, total }
        };
        let whole = if nr == 1 { total } else { cut };
        assert!((0..nr).all(|i| packet(i).cut() == Some(whole)));
        let h = packet(rng.below(nr.into()) as u32);
        for bad in [
            PacketHdr { size: h.size + 1, ..h },
            PacketHdr { offset: h.offset + 1, ..h },
            PacketHdr { nr: nr + 1, ..h },
            PacketHdr { total: total + cut, ..h },
            PacketHdr { nr: u32::MAX, ..h },
        ] {
            // Its words are then another cut, in which it has that place.
            if let Some(c) = bad.cut() {
                assert_eq!((u64::from(bad.nr), bad.offset), (bad.total.div_ceil(c), u64::from(bad.idx) * c));
                assert_eq!(bad.size, c.min(bad.total - bad.offset));
            }
        }
    }
    let h = PacketHdr {
        kind: PacketType::Put,
        src: Bdesc::default(),
        dst: Bdesc::default(),
        idx: 0,
        nr: 2,
        size: 255,
        offset: 0,
        total: 300,
    };
    assert_eq!((h.cut(), PacketHdr { size: 256, ..h }.cut()), (None, Some(256)));
    assert_eq!((dgram_payload_max(false), dgram_payload_max(true)), (65_347, 65_327));
}

/// Messages of several machines at a time, their packets in any order and more than once, into memory given and lent.
#[test]
fn packets_come_in_any_order_and_any_number_of_times() {
    for seed in 0..30 {
        let (mut rng, mut net) = (Rng(seed), Net::new());
        net.chunk = rng.pick(&[300, 1448, 9000]);
        let mut tm = at(&mut net, 2);
        let data: Vec<(u16, Vec<u8>)> = (0..6)
            .map(|n| (THEIRS + n % 3, bytes(1 + rng.below(20_000) as usize, seed * 10 + u64::from(n))))
            .collect();
        for n in 0..6 {
            if n % 2 == 0 {
                tm.msg_recv(&mut net, 20_000, None)
            } else {
                tm.msg_recv_lent(&mut net, 20_000)
            };
        }
        let mut all: Vec<(u16, Vec<u8>)> = Vec::new();
        for (n, (from, d)) in data.iter().enumerate() {
            let cut = 256 + rng.below(3000) as usize;
            for p in packets(*from, 100 + n as u64, Cookie::NONE, d, cut) {
                (0..1 + rng.below(2)).for_each(|_| all.push((*from, p.clone())));
            }
        }
        shuffle(&mut all, &mut rng);
        let sent = all.len() as u64;
        all.iter().for_each(|(from, p)| give(&mut net, &tm, *from, p));
        let ends = tm.take();
        let came =
            |e: &End| data.iter().position(|(f, d)| e.from == Some(dgram_addr(9, *f)) && e.bytes == *d);
        let mut got: Vec<usize> = ends.iter().map(|e| came(e).expect("bytes that were sent")).collect();
        got.sort_unstable();
        assert_eq!(got, [0, 1, 2, 3, 4, 5], "seed {seed}");
        let (s, g) = (stats(&tm), gauges(&tm));
        assert_eq!((s.packets_rx, g.parts, why(&tm)), (sent, 0, vec![]));
        // Once more, all of it: nothing comes twice.
        let until = Some(net.now + 1);
        tm.msg_recv(&mut net, 20_000, until);
        all.iter().for_each(|(from, p)| give(&mut net, &tm, *from, p));
        net.run(SEC);
        assert_eq!(tm.take().iter().map(|e| e.status).collect::<Vec<_>>(), [errno::ETIMEDOUT]);
        tm.assert_at_rest(&net);
    }
}

/// All queues between two of ours, in packets of the path's size, which is found out.
#[test]
fn all_queues_in_packets_that_the_path_takes() {
    for most in [65_507u32, 9000 - 28, 1472, 548] {
        let mut net = Net::new();
        net.weather.most = most;
        let (mut a, mut b) = (at(&mut net, 1), at(&mut net, 2));
        let len = 200_000;
        let tags = [b.msg_recv(&mut net, len, None), b.msg_recv_lent(&mut net, len)];
        let (filled, p) = b.passive_recv(&mut net, len, None);
        let (fetched, q) = b.passive_send(&mut net, len, 4, None);
        let sends = [
            a.msg_send(&mut net, b.addr, len, 1, None),
            a.msg_send(&mut net, b.addr, 100, 2, None),
            a.active_send(&mut net, p, (len, 3), None),
        ];
        let fetch = a.active_recv(&mut net, q, len, None);
        net.run(SEC);
        let (mut at_a, mut at_b) = (a.take(), b.take());
        at_a.sort_by_key(|e| e.tag);
        at_b.sort_by_key(|e| e.tag);
        assert_eq!(
            at_a.iter().map(|e| (e.tag, e.status)).collect::<Vec<_>>(),
            [sends[0], sends[1], sends[2], fetch].map(|t| (t, 0)),
            "{most}"
        );
        assert!(at_a[3].bytes == bytes(len, 4));
        assert_eq!(
            at_b.iter().map(|e| (e.tag, e.status)).collect::<Vec<_>>(),
            [tags[0], tags[1], filled, fetched].map(|t| (t, 0))
        );
        let mut messages = [at_b[0].bytes.clone(), at_b[1].bytes.clone()];
        messages.sort_by_key(Vec::len);
        assert!(messages == [bytes(100, 2), bytes(len, 1)] && at_b[2].bytes == bytes(len, 3));
        assert!(at_b[..2].iter().all(|e| e.from == Some(a.addr)));
        assert_eq!((why(&a), why(&b)), (vec![], vec![]));
        // Of each path it is found out once.
        let before = stats(&a).packets_tx;
        b.msg_recv(&mut net, len, None);
        a.msg_send(&mut net, b.addr, len, 5, None);
        net.run(SEC);
        let payload = u64::from(most).min(65_507) - HDR_LEN as u64;
        assert_eq!(stats(&a).packets_tx - before, (len as u64).div_ceil(payload.min(65_347)));
        assert!(b.take()[0].bytes == bytes(len, 5));
        a.take();
        a.assert_at_rest(&net);
        b.assert_at_rest(&net);
    }
}

/// A buffer of which a packet is lost is whole again after a silence, and before that if a newer message needs it.
#[test]
fn a_lost_packet_leaves_the_buffer_whole() {
    let mut net = Net::new();
    let mut tm = at(&mut net, 2);
    let tag = tm.msg_recv(&mut net, 5000, None);
    let (bulk, desc) = tm.passive_recv(&mut net, 5000, None);
    let send = |net: &mut Net, tm: &TmNode, generation, dst, salt, lost: usize| {
        let all = packets(THEIRS, generation, dst, &bytes(5000, salt), 1000);
        all.iter().enumerate().filter(|(n, _)| *n != lost).for_each(|(_, p)| give(net, tm, THEIRS, p));
        all[lost.min(4)].clone()
    };
    let late = send(&mut net, &tm, 10, Cookie::NONE, 1, 2);
    send(&mut net, &tm, 11, desc.cookie, 2, 0);
    assert_eq!(gauges(&tm).parts, 2);
    assert_eq!(tm.take(), []);
    // Not at once: the rest may be on its way.
    send(&mut net, &tm, 12, Cookie::NONE, 3, 9);
    assert_eq!((why(&tm).len(), count(&tm, "netsock_refused_no_room"), tm.take()), (1, 1, vec![]));
    net.run(SEC / 20);
    send(&mut net, &tm, 13, Cookie::NONE, 4, 9);
    let got = tm.take();
    assert!(got.len() == 1 && got[0].tag == tag && got[0].bytes == bytes(5000, 4), "{:?}", got.len());
    // A packet that was lost for it stays lost.
    tm.msg_recv(&mut net, 5000, None);
    give(&mut net, &tm, THEIRS, &late);
    assert_eq!((gauges(&tm).parts, stats(&tm).incomplete), (1, 1));
    net.run(2 * SEC);
    assert_eq!((gauges(&tm).parts, stats(&tm).incomplete), (0, 2));
    // The sender begins anew, from the start or in the middle of the one before.
    send(&mut net, &tm, 14, desc.cookie, 5, 1);
    send(&mut net, &tm, 13, desc.cookie, 5, 1);
    assert_eq!(why(&tm), [Refusal::Foreign; 4], "an older one");
    send(&mut net, &tm, 15, desc.cookie, 6, 9);
    let got = tm.take();
    assert!(got.len() == 1 && got[0].tag == bulk && got[0].bytes == bytes(5000, 6));
    send(&mut net, &tm, 16, desc.cookie, 6, 9);
    assert_eq!((why(&tm), count(&tm, "netsock_repeated")), (vec![], 10), "too late is nobody's fault");
}

/// A fetch whose answer is lost ends by its own time, and takes nothing after that.
#[test]
fn a_fetch_that_loses_a_packet_ends_by_its_time() {
    let mut net = Net::new();
    let (mut a, mut b) = (at(&mut net, 1), at(&mut net, 2));
    let (sent, q) = b.passive_send(&mut net, 300_000, 1, None);
    net.weather.rng = Rng(3);
    net.weather.lost = 40;
    let until = net.now + 3 * SEC;
    let fetch = a.active_recv(&mut net, q, 300_000, Some(until));
    net.run(2 * SEC);
    // The question, or a part of the answer, is lost.
    assert_eq!(a.take(), []);
    net.run(2 * SEC);
    assert_eq!(a.take().iter().map(|e| (e.tag, e.status)).collect::<Vec<_>>(), [(fetch, errno::ETIMEDOUT)]);
    b.cancel(&mut net, sent);
    b.take();
    a.assert_at_rest(&net);
    b.assert_at_rest(&net);
}

/// Each of §6's faults by its name, in datagrams; nothing else ends, and what is good comes all the same.
#[test]
fn each_malformed_datagram_is_dropped_by_name() {
    let mut net = Net::new();
    let mut tm = at(&mut net, 2);
    let message = tm.msg_recv(&mut net, 1000, None);
    let (bulk, desc) = tm.passive_recv(&mut net, 1000, None);
    let (fetched, source) = tm.passive_send(&mut net, 10, 1, None);
    let fetch = tm.active_recv(
        &mut net,
        Bdesc { addr: dgram_addr(9, THEIRS), cookie: Cookie { addr: 8, generation: 5 } },
        100,
        None,
    );
    net.run(SEC / 1000);
    let src = Bdesc { addr: dgram_addr(9, THEIRS), cookie: Cookie { addr: 8, generation: 77 } };
    let dst = Bdesc { addr: tm.addr, cookie: Cookie::NONE };
    let good = PacketHdr { kind: PacketType::Put, src, dst, idx: 0, nr: 1, size: 2, offset: 0, total: 2 };
    let gets = PacketHdr { kind: PacketType::Get, dst: source, size: 0, total: 0, ..good };
    let of = |h: PacketHdr| [&h.emit()[..], &vec![0; h.size.min(5000) as usize]].concat();
    let summed = |at: usize, to: u8| {
        let mut b = of(good);
        b[at] = to;
        let sum = fnv1(&b[..144]);
        b[152..160].copy_from_slice(&sum.to_le_bytes());
        b
    };
    let flipped = |at: usize| {
        let mut b = of(good);
        b[at] ^= 1;
        b
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("truncated", Vec::new()),
        ("truncated", of(good)[..159].to_vec()),
        ("header_magic", flipped(0)),
        ("footer_magic", flipped(144)),
        ("checksum", flipped(152)),
        ("tag", summed(14, 2)),
        ("index", of(PacketHdr { nr: 0, ..good })),
        ("wraps", of(PacketHdr { nr: 2, offset: u64::MAX, ..good })),
        ("past_total", of(PacketHdr { size: 3, ..good })),
        ("first_offset", of(PacketHdr { size: 1, offset: 1, ..good })),
        ("last_end", of(PacketHdr { size: 1, ..good })),
        ("not_ours", of(PacketHdr { dst: Bdesc { addr: dgram_addr(2, 9), ..dst }, ..good })),
        ("not_ours", of(PacketHdr { dst: Bdesc { addr: addr(2, PORT), ..dst }, ..good })),
        ("not_theirs", of(PacketHdr { src: Bdesc { addr: dgram_addr(8, THEIRS), ..src }, ..good })),
        ("not_theirs", of(PacketHdr { src: Bdesc { addr: dgram_addr(9, 5), ..src }, ..good })),
        ("no_buffer", of(PacketHdr { src: Bdesc { cookie: Cookie::NONE, ..src }, ..good })),
        ("length", of(good)[..161].to_vec()),
        ("length", [of(good), vec![0]].concat()),
        ("cut", of(PacketHdr { nr: 2, size: 255, total: 300, ..good })),
        ("cut", of(PacketHdr { nr: u32::MAX, size: 300, total: 1 << 41, ..good })),
        ("stale", of(PacketHdr { dst: Bdesc { cookie: Cookie { addr: 64, generation: 1 }, ..dst }, ..good })),
        ("wrong_queue", of(PacketHdr { dst: source, ..good })),
        ("wrong_queue", of(PacketHdr { dst: desc, ..gets })),
        ("get_cookie", of(PacketHdr { dst, ..gets })),
        ("get_shape", of(PacketHdr { nr: 2, ..gets })),
        ("get_shape", of(PacketHdr { size: 5, total: 5, ..gets })),
        ("too_long", of(PacketHdr { size: 1001, total: 1001, dst: desc, ..good })),
        ("no_room", of(PacketHdr { size: 1001, total: 1001, ..good })),
    ];
    for (name, datagram) in cases {
        let full = format!("netsock_refused_{name}");
        let before = count(&tm, &full);
        give(&mut net, &tm, THEIRS, &datagram);
        assert_eq!((count(&tm, &full) - before, tm.take()), (1, vec![]), "{name}: {:?}", why(&tm));
    }
    // A source that is not the one that was asked.
    give(
        &mut net,
        &tm,
        THEIRS,
        &of(PacketHdr { dst: Bdesc { cookie: Cookie { addr: 0, ..desc.cookie }, ..desc }, ..good }),
    );
    assert!(gauges(&tm).parts == 0 && tm.take().is_empty());
    give(
        &mut net,
        &tm,
        THEIRS,
        &of(PacketHdr { src: Bdesc { cookie: Cookie { addr: 8, generation: 78 }, ..src }, ..good }),
    );
    give(&mut net, &tm, THEIRS, &of(PacketHdr { dst: desc, ..good }));
    give(&mut net, &tm, THEIRS, &of(gets));
    net.run(SEC / 100);
    let mut ends: Vec<_> = tm.take().iter().map(|e| (e.tag, e.status)).collect();
    ends.sort_unstable();
    assert_eq!(ends, [(message, 0), (bulk, 0), (fetched, 0)]);
    tm.cancel(&mut net, fetch);
    tm.take();
    tm.assert_at_rest(&net);
}

/// First packets of messages that never end, from ever so many machines: a bounded number is kept, none of them for long, and
/// a good message gets its buffer.
#[test]
fn a_flood_of_beginnings_is_bounded() {
    let mut net = Net::new();
    let limits = Datagrams { messages: 50, messages_of_machine: 5, ..Datagrams::default() };
    let cfg = Config { datagrams: limits, ..Config::new(dgram_addr(2, PORT), 1) };
    let mut tm = TmNode::new(&mut net, cfg);
    for _ in 0..100 {
        tm.msg_recv(&mut net, 2000, None);
    }
    for n in 0..20_000u64 {
        let from = 1000 + (n % 200) as u16;
        let first = packets(from, 10 + n, Cookie::NONE, &bytes(2000, n), 1000).remove(0);
        give(&mut net, &tm, from, &first);
        let parts = gauges(&tm).parts;
        assert!(parts <= 50, "{parts}");
    }
    assert_eq!(gauges(&tm).parts, 50);
    // One machine has its share.
    net.run(2 * SEC);
    (0..100).for_each(|n| {
        give(&mut net, &tm, THEIRS, &packets(THEIRS, 1 << 40 | n, Cookie::NONE, &bytes(2000, n), 1000)[1])
    });
    assert_eq!(gauges(&tm).parts, 5);
    for p in packets(THEIRS + 1, 1, Cookie::NONE, &bytes(2000, 9), 1000) {
        give(&mut net, &tm, THEIRS + 1, &p);
    }
    let got = tm.take();
    assert!(got.len() == 1 && got[0].bytes == bytes(2000, 9));
    net.run(2 * SEC);
    let g = gauges(&tm);
    assert_eq!((g.parts, g.buffers), (0, 99));
}

/// Nobody has the port: what waits for that peer, and what was asked of it, ends with the error, once; others go on.
#[test]
fn a_peer_that_is_not_there_ends_what_is_for_it() {
    let mut net = Net::new();
    let (mut a, mut b) = (at(&mut net, 1), at(&mut net, 2));
    let _ = at(&mut net, 3);
    net.nodes[2].deaf = true;
    let gone = Bdesc { addr: dgram_addr(3, PORT), cookie: Cookie { addr: 1 << 16, generation: 9 } };
    let fetch = a.active_recv(&mut net, gone, 100, None);
    let long = a.msg_send(&mut net, gone.addr, 2 << 20, 1, None);
    b.msg_recv(&mut net, 100, None);
    let fine = a.msg_send(&mut net, b.addr, 100, 2, None);
    net.run(SEC / 10);
    let mut ends: Vec<_> = a.take().iter().map(|e| (e.tag, e.status)).collect();
    ends.sort_unstable();
    assert_eq!(ends, [(fetch, errno::ECONNREFUSED), (long, errno::ECONNREFUSED), (fine, 0)]);
    assert_eq!(b.take().len(), 1);
    // One that has left has left.
    let sent = a.msg_send(&mut net, gone.addr, 100, 3, None);
    net.run(SEC);
    assert_eq!(a.take().iter().map(|e| (e.tag, e.status)).collect::<Vec<_>>(), [(sent, 0)]);
    a.assert_at_rest(&net);
    assert_eq!(gauges(&a).peers, 0);
}

#[test]
fn cancels_timeouts_and_a_stop_end_everything_once() {
    let mut net = Net::new();
    net.nic_hold = Some((Rng(2), SEC / 100));
    let (mut a, mut b) = (at(&mut net, 1), at(&mut net, 2));
    let (_, q) = b.passive_send(&mut net, 1000, 1, None);
    b.tm().shut_down(net.now);
    let (until, soon) = (net.now + SEC, net.now + 1000);
    let tags = [
        a.active_recv(&mut net, q, 1000, Some(until)),
        a.active_recv(&mut net, q, 1000, None),
        a.msg_recv(&mut net, 100, None),
        // Longer than a burst: most of it waits for its turn.
        a.msg_send(&mut net, b.addr, 4 << 20, 1, None),
        a.msg_send(&mut net, b.addr, 4 << 20, 2, Some(soon)),
    ];
    net.run(SEC / 1000);
    assert!(a.cancel(&mut net, tags[1]) && a.cancel(&mut net, tags[3]));
    net.run(2 * SEC);
    let mut ends: Vec<_> = a.take().iter().map(|e| (e.tag, e.status)).collect();
    ends.sort_unstable();
    let (cancelled, late) = (errno::ECANCELED, errno::ETIMEDOUT);
    assert_eq!(ends, [(tags[0], late), (tags[1], cancelled), (tags[3], cancelled), (tags[4], late)]);
    let last = a.msg_send(&mut net, b.addr, 4 << 20, 3, None);
    a.tm().shut_down(net.now);
    net.input(a.node, Input::Timer);
    net.run(SEC);
    let mut ends: Vec<_> = a.take().iter().map(|e| (e.tag, e.status)).collect();
    ends.sort_unstable();
    assert_eq!(ends, [(tags[2], cancelled), (last, cancelled)]);
    a.assert_at_rest(&net);
}

/// Streams and datagrams do not reach each other.
#[test]
fn an_address_of_the_other_kind_is_refused() {
    let mut net = Net::new();
    let a = at(&mut net, 1);
    for to in
        [addr(2, PORT), Addr { port: 0, ..dgram_addr(2, PORT) }, Addr { family: 10, ..dgram_addr(2, PORT) }]
    {
        let (data, _) = transport::testing::netsock::pages(10, 1);
        let e = a.tm().add(net.now, Op::MsgSend { to, data }, 1, None).unwrap_err();
        assert_eq!((e.why, e.why.errno()), (AddError::Addr(to), errno::EPROTO));
    }
    let desc = Bdesc { addr: addr(2, PORT), cookie: Cookie { addr: 8, generation: 1 } };
    for sink in [into(10), lent(10)] {
        let e = a.tm().add(net.now, Op::ActiveRecv { desc, sink }, 1, None).unwrap_err();
        assert_eq!((e.why, e.op.queue()), (AddError::Addr(desc.addr), Queue::ActiveRecv));
    }
}
