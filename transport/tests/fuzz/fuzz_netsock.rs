//! Headers, descriptors and names of netsock (docs/protocol/netsock.md §2, §3, §6): good ones, changed ones and noise.
//!
//! A machine among peers that send packets of all kinds, whole, changed, cut or late.
//!
//! Invariants: no panic; a buffer ends once, with pages home; when all is over nothing is out; what is taken is written back bit for bit and keeps its rules; a name that is taken names the
//! address that it prints.

use std::net::SocketAddr;

use crate::fuzz::{Bytes, LEN, TIME};
use transport::netsock::Config;
use transport::node::Input;
use transport::stream::Protocol;
use transport::testing::net::{Net, SEC};
use transport::testing::netsock::{self, TmNode};
use transport::wire::netsock::{
    Addr, BDESC_LEN, Bdesc, Cookie, HDR_LEN, LnetDesc, LnetQueue, Name, PacketError, PacketHdr, PacketType,
    Tmids, fnv1,
};

fn addr(b: &mut Bytes<'_>) -> Addr {
    let port = u32::from(b.u16());
    let mut data = [0; 16];
    let v6 = b.chance();
    data[..if v6 { 16 } else { 4 }].fill_with(|| b.u8());
    let family = if v6 { Addr::INET6 } else { Addr::INET };
    let (socktype, protocol) = [(1, 6), (2, 17), (3, 0)][b.below(3) as usize];
    Addr { family, socktype, protocol, port, data }
}

fn bdesc(b: &mut Bytes<'_>) -> Bdesc {
    let word = |b: &mut Bytes<'_>| u64::from(b.u32()) << 32 | u64::from(b.u32());
    Bdesc { addr: addr(b), cookie: Cookie { addr: word(b), generation: word(b) } }
}

fn header(input: &[u8]) {
    let mut b = Bytes::new(input);
    let edge = |b: &mut Bytes<'_>| match b.below(6) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => 1 << 63,
        _ => u64::from(b.u16()),
    };
    let h = PacketHdr {
        kind: if b.chance() { PacketType::Put } else { PacketType::Get },
        src: bdesc(&mut b),
        dst: bdesc(&mut b),
        idx: edge(&mut b) as u32,
        nr: edge(&mut b) as u32,
        size: edge(&mut b),
        offset: edge(&mut b),
        total: edge(&mut b),
    };
    let mut raw = h.emit();
    // Some are changed, and summed again or not.
    for _ in 0..b.below(3) {
        raw[b.below(HDR_LEN as u64) as usize] = b.u8();
    }
    if b.chance() {
        let sum = fnv1(&raw[..144]);
        raw[152..].copy_from_slice(&sum.to_le_bytes());
    }
    let cut = if b.below(8) == 0 { b.below(HDR_LEN as u64) as usize } else { HDR_LEN };
    match PacketHdr::parse(&raw[..cut]) {
        Ok(h) => {
            assert_eq!(h.emit(), raw);
            assert!(h.idx < h.nr && h.offset.checked_add(h.size).is_some_and(|end| end <= h.total));
            assert!(h.nr > 1 || (h.offset, h.size) == (0, h.total));
        }
        Err(PacketError::Truncated(n)) => assert_eq!(n, cut),
        Err(e) => assert!(e.errno() == 71 || e.errno() == 27),
    }
}

fn descriptor(input: &[u8]) {
    let mut b = Bytes::new(input);
    let d = bdesc(&mut b);
    assert_eq!(Bdesc::parse(&d.emit()), Ok(d));
    let noise = b.rest(60);
    match Bdesc::parse(&noise) {
        Ok(d) => assert_eq!(d.emit(), noise[..BDESC_LEN]),
        Err(e) => assert_eq!(e.0, noise.len()),
    }
    let tmid = u32::from(b.u16()) & 0xfff;
    let d = LnetDesc {
        match_bits: u64::from(tmid) << 52 | u64::from(b.u32().max(1)),
        nid: u64::from(b.u32()),
        pid: b.u32(),
        portal: b.u32(),
        tmid,
        queue: if b.chance() { LnetQueue::PassiveRecv } else { LnetQueue::PassiveSend },
        size: u64::from(b.u32()),
    };
    let mut raw = d.emit();
    assert_eq!(LnetDesc::parse(&raw), Ok(d));
    let (at, by) = (b.below(48) as usize, b.u8());
    raw[at] ^= by;
    assert!(by == 0 || LnetDesc::parse(&raw).is_err(), "one byte that is changed is seen");
}

fn name(input: &[u8]) {
    let mut b = Bytes::new(input);
    const PARTS: [&str; 24] = [
        "10.0.0.1",
        "0@lo",
        "@tcp",
        "@",
        ":",
        "12345",
        ":34:",
        "61",
        "*",
        "1023",
        "inet:",
        "inet6:",
        "unix:",
        "stream:",
        "dgram:",
        "fd00::1",
        "::",
        "65535",
        "65536",
        "99999999999",
        "1.2.3",
        " ",
        "é",
        "0",
    ];
    let text = if b.chance() {
        String::from_utf8_lossy(&b.rest(90)).into_owned()
    } else {
        (0..b.below(9)).map(|_| PARTS[b.below(PARTS.len() as u64) as usize]).collect()
    };
    let mut seen = Tmids::default();
    match Name::parse(&text) {
        Ok(n) => {
            let a = seen.resolve(n).unwrap();
            assert_eq!(Name::parse(&a.to_string()), Ok(Name::Addr(a)), "{text}");
            if let Some(l) = a.lnet_form() {
                assert_eq!(Name::parse(&l), Ok(Name::Addr(a)), "{text}");
            }
        }
        Err(e) => assert!([71, 22, 34, 97].contains(&e.errno()), "{text}: {e}"),
    }
    // Whatever peers say they are can be printed.
    let _ = addr(&mut b).to_string();
}

fn peers(input: &[u8]) {
    let mut b = Bytes::new(input);
    let mut net = Net::new();
    net.raw_listen([10, 0, 0, 1].into());
    let there = netsock::addr(1, 6001);
    let mut tm = TmNode::new(&mut net, Config { stall: SEC, ..Config::new(netsock::addr(2, 5002), 1 << 40) });
    let mut known = vec![Bdesc { addr: tm.addr, cookie: Cookie::NONE }];
    let mut links = Vec::new();
    for n in 0..80u16 {
        if b.done() {
            break;
        }
        let until = b.chance().then_some(net.now + 1 + u64::from(b.u8()) * SEC / 100);
        match b.below(12) {
            0 => {
                tm.msg_recv(&mut net, 1 + b.below(300) as usize, until);
            }
            1 => known.push(tm.passive_recv(&mut net, 1 + b.below(300) as usize, until).1),
            2 => known.push(tm.passive_send(&mut net, 1 + b.below(300) as usize, 1, until).1),
            3 => {
                tm.msg_send(&mut net, there, 1 + b.below(300) as usize, 1, until);
            }
            4 => {
                let desc = Bdesc { addr: there, cookie: Cookie { addr: 1, generation: n.into() } };
                tm.active_recv(&mut net, desc, 1 + b.below(300) as usize, until);
            }
            5 => {
                let open = tm.under_way();
                if !open.is_empty() {
                    let tag = open[b.below(open.len() as u64) as usize];
                    tm.cancel(&mut net, tag);
                }
            }
            6 => {
                let from = SocketAddr::new([10, 0, 0, 1].into(), 40_000 + n);
                links.push(net.raw_connect_to(from, tm.node, 5002));
            }
            7 => {
                // The machine's own connections are answered on, too.
                links.extend((0..net.links()).filter(|l| net.addresses(*l)[1].port() == 6001));
                links.sort_unstable();
                links.dedup();
            }
            8 if !links.is_empty() => {
                let l = links[b.below(links.len() as u64) as usize];
                if b.chance() { net.raw_fin(l) } else { net.raw_reset(l) }
            }
            _ if !links.is_empty() => {
                let l = links[b.below(links.len() as u64) as usize];
                // Cookies of GETs that it sent are in what it wrote.
                let wrote = net.wire(l, usize::from(net.addresses(l)[1].port() == 5002)).0.to_vec();
                let asked =
                    wrote.len().checked_sub(HDR_LEN).and_then(|at| PacketHdr::parse(&wrote[at..]).ok());
                let size = u64::from(b.u8());
                let mut h = PacketHdr {
                    kind: if b.below(4) == 0 { PacketType::Get } else { PacketType::Put },
                    src: Bdesc { addr: there, cookie: Cookie { addr: 1, generation: b.u8().into() } },
                    dst: known[b.below(known.len() as u64) as usize],
                    idx: 0,
                    nr: 1,
                    size,
                    offset: 0,
                    total: size,
                };
                if let Some(a) = asked.filter(|_| b.chance()) {
                    (h.src, h.dst) = (a.dst, a.src);
                }
                if h.kind == PacketType::Get {
                    (h.size, h.total) = (0, 0);
                }
                match b.below(12) {
                    0 => h.nr = b.u32(),
                    1 => h.dst.cookie.generation ^= 1,
                    2 => h.src.addr = addr(&mut b),
                    3 => h.total += 1,
                    _ => {}
                }
                let mut bytes = h.emit().to_vec();
                bytes.resize(HDR_LEN + h.size as usize, 7);
                let cut = if b.below(6) == 0 { b.below(bytes.len() as u64) as usize } else { bytes.len() };
                net.raw_send(l, &bytes[..cut]);
            }
            _ => net.run(SEC / 50),
        }
        if b.chance() {
            net.run(u64::from(b.u8()) * SEC / 1000);
            tm.take();
        }
    }
    for tag in tm.under_way() {
        tm.cancel(&mut net, tag);
    }
    net.run(5 * SEC);
    tm.take();
    assert_eq!(tm.under_way(), []);
    let now = net.now;
    tm.tm().shut_down(now);
    net.input(tm.node, Input::Timer);
    net.run(SEC);
    tm.assert_at_rest(&net);
    assert_eq!(tm.tm().gauges().conns, 0);
}

/// Datagrams of all kinds to a machine, in any order: parts of messages and of bulk, changed, cut or by themselves.
fn datagrams(input: &[u8]) {
    let mut b = Bytes::new(input);
    let mut net = Net::new();
    let there = netsock::dgram_addr(1, 6001);
    let at = SocketAddr::new([10, 0, 0, 1].into(), 6001);
    let mut tm = TmNode::new(&mut net, Config::new(netsock::dgram_addr(2, 5002), 1 << 40));
    let mut known = vec![Bdesc { addr: tm.addr, cookie: Cookie::NONE }];
    for n in 0..80u64 {
        if b.done() {
            break;
        }
        let until = b.chance().then_some(net.now + 1 + u64::from(b.u8()) * SEC / 100);
        let size = |b: &mut Bytes<'_>| 1 + b.below(3000) as usize;
        match b.below(12) {
            0 => {
                let len = size(&mut b);
                if b.chance() {
                    tm.msg_recv(&mut net, len, until)
                } else {
                    tm.msg_recv_lent(&mut net, len)
                };
            }
            1 => known.push(tm.passive_recv(&mut net, size(&mut b), until).1),
            2 => known.push(tm.passive_send(&mut net, size(&mut b), 1, until).1),
            3 => {
                let desc = Bdesc { addr: there, cookie: Cookie { addr: 1, generation: n % 4 } };
                tm.active_recv(&mut net, desc, size(&mut b), until);
                // Cookies are guessed: the machine names its buffers one after the other.
                let (_, next) = tm.passive_recv(&mut net, 1, until);
                let cookie = Cookie {
                    addr: ((next.cookie.addr >> 16) - 1) << 16 | 4 << 3,
                    generation: next.cookie.generation - 1,
                };
                known.push(Bdesc { addr: tm.addr, cookie });
            }
            4 => {
                let open = tm.under_way();
                if !open.is_empty() {
                    let tag = open[b.below(open.len() as u64) as usize];
                    tm.cancel(&mut net, tag);
                }
            }
            5 => net.run(u64::from(b.u8()) * SEC / 100),
            6 => net.raw_datagram(tm.node, at, 5002, &b.rest(200)),
            _ => {
                // A packet of a buffer that is cut somehow: others of it may come, or not.
                let (total, cut) = (b.below(3000), 256 + b.below(4) * 300);
                let nr = total.div_ceil(cut).max(1) as u32;
                let idx = b.below(nr.into()) as u32;
                let offset = u64::from(idx) * cut;
                let mut h = PacketHdr {
                    kind: if b.below(6) == 0 { PacketType::Get } else { PacketType::Put },
                    src: Bdesc { addr: there, cookie: Cookie { addr: 1, generation: b.below(4) } },
                    dst: known[b.below(known.len() as u64) as usize],
                    idx,
                    nr,
                    size: (total - offset).min(cut),
                    offset,
                    total,
                };
                if h.kind == PacketType::Get {
                    (h.idx, h.nr, h.size, h.offset, h.total) = (0, 1, 0, 0, 0);
                }
                match b.below(16) {
                    0 => h.nr = b.u32(),
                    1 => h.dst.cookie.generation ^= 1,
                    2 => h.src.addr = addr(&mut b),
                    3 => h.total += 1,
                    4 => h.offset = b.u32().into(),
                    _ => {}
                }
                let mut bytes = h.emit().to_vec();
                bytes.resize(HDR_LEN + h.size as usize, 7);
                let cut = if b.below(8) == 0 { b.below(bytes.len() as u64) as usize } else { bytes.len() };
                net.raw_datagram(tm.node, at, 5002, &bytes[..cut]);
            }
        }
        let g = tm.tm().gauges();
        assert!(g.parts <= g.buffers, "{g:?}");
        if b.chance() {
            tm.take();
        }
    }
    for tag in tm.under_way() {
        tm.cancel(&mut net, tag);
    }
    net.run(5 * SEC);
    tm.take();
    assert_eq!(tm.under_way(), []);
    let g = tm.tm().gauges();
    assert_eq!((g.parts, g.peers), (0, 0));
    tm.assert_at_rest(&net);
}

#[test]
fn a_machine_ends_what_it_began_whatever_datagrams_come() {
    bolero::check!().with_test_time(TIME / 4).with_max_len(LEN).for_each(datagrams);
}

#[test]
fn a_machine_ends_what_it_began_whatever_peers_send() {
    bolero::check!().with_test_time(TIME).with_max_len(LEN).for_each(peers);
}

#[test]
fn headers_are_taken_as_they_are_or_refused() {
    bolero::check!().with_test_time(TIME).with_max_len(LEN).for_each(header);
}

#[test]
fn descriptors_are_taken_as_they_are_or_refused() {
    bolero::check!().with_test_time(TIME).with_max_len(LEN).for_each(descriptor);
}

#[test]
fn names_mean_what_they_print() {
    bolero::check!().with_test_time(TIME).with_max_len(LEN).for_each(name);
}
