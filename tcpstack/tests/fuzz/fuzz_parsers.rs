//! Everything that reads bytes off the wire, on any bytes: no panic, and nothing said that the bytes do not hold.

use crate::fuzz::{Bytes, LEN, TIME};
use tcpstack::addr::Addr;
use tcpstack::csum::Sum;
use tcpstack::opts::{OptBytes, Opts, SACK_MAX, SCALE_MAX};
use tcpstack::{arp, icmp, nd, wire};

fn options(b: &[u8]) {
    let o = Opts::parse(b);
    assert!(o.scale.is_none_or(|s| s <= SCALE_MAX) && o.mss != Some(0) && o.sack.len() <= SACK_MAX);
    // What was read can be written, and reads the same.
    if let Some(mss) = o.mss {
        let w = Opts::parse(&OptBytes::syn(mss, o.sack_permitted, o.ts, o.scale));
        assert_eq!((w.mss, w.sack_permitted, w.ts, w.scale), (o.mss, o.sack_permitted, o.ts, o.scale));
    }
    let mut w = OptBytes::plain(o.ts);
    let n = w.add_sack(&o.sack);
    let r = Opts::parse(&w);
    assert!(
        w.len() <= 40 && w.len().is_multiple_of(4) && n + usize::from(o.ts.is_some()) >= o.sack.len().min(3)
    );
    assert_eq!((r.ts, &r.sack[..]), (o.ts, &o.sack[..n]));
}

fn tcp(b: &[u8], ip: &wire::Ip) {
    let Ok(s) = wire::tcp(b, ip) else { return };
    assert!(s.hlen >= 20 && s.hlen + s.plen as usize == ip.payload);
    assert!(s.key.lport() != 0 && s.key.rport() != 0 && s.flags & 0xc0 == 0);
    options(b.get(20..s.hlen).unwrap_or(&[]));
}

fn icmp_and_nd(b: &[u8], ip: &wire::Ip) {
    let mut m = b.to_vec();
    let before = m.clone();
    if icmp::echo_reply(&mut m, icmp::ECHO4, Sum::default()) {
        assert_eq!((m[0], m.len(), &m[4..]), (0, before.len(), &before[4..]));
    }
    let _ = nd::parse(b, &ip.src, &ip.dst, 255);
    let _ = nd::parse(b, &ip.src, &ip.dst, 64);
}

fn frame(b: &[u8], len: usize) {
    let Some(e) = wire::eth(b) else { return };
    assert!(e.len == 14 || e.len == 18);
    let rest = b.get(e.len..).unwrap_or(&[]);
    if let Some(p) = arp::Packet::parse(rest) {
        let mut out = [0; 46];
        let n = p.frame([1; 6], e.vlan, &mut out);
        assert_eq!(arp::Packet::parse(&out[n - arp::LEN..n]), Some(p));
    }
    for sum in [false, true] {
        if let Ok(ip) = wire::ip4(rest, len, sum) {
            assert!(ip.hlen >= 20 && ip.hlen + ip.payload <= len && !ip.src.is_v6());
            tcp(rest.get(ip.hlen..).unwrap_or(&[]), &ip);
            icmp_and_nd(rest.get(ip.hlen..).unwrap_or(&[]), &ip);
        }
    }
    if let Ok(ip) = wire::ip6(rest, len) {
        assert!(ip.hlen >= 40 && ip.hlen + ip.payload <= len);
        tcp(rest.get(ip.hlen..).unwrap_or(&[]), &ip);
        icmp_and_nd(rest.get(ip.hlen..).unwrap_or(&[]), &ip);
    }
}

/// A good frame with some bytes changed: random bytes alone hardly get past the first length.
fn mended(b: &mut Bytes<'_>) -> Vec<u8> {
    let v6 = b.chance();
    let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let (kind, changes) = (b.u8() % 3, b.u8() & 3);
    let proto = if kind == 0 {
        6
    } else if v6 {
        58
    } else {
        1
    };
    let mut payload = b.rest(40 + usize::from(changes) * 40);
    if kind == 0 && payload.len() >= 20 {
        payload[12] = (5 + payload[12] % 11) << 4;
    }
    if kind == 1 && !payload.is_empty() {
        payload[0] = [8, 128, 133, 134, 135, 136, 137, 130][usize::from(payload[0] & 7)];
    }
    if v6 {
        f.extend_from_slice(&[0x86, 0xdd]);
        let mut h = [0; 40];
        wire::write_ip6(&mut h, &Addr::ALL_NODES, &Addr::ALL_ROUTERS, proto, 255, payload.len());
        f.extend_from_slice(&h);
    } else {
        f.extend_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, proto, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
        let total = (20 + payload.len()) as u16;
        f[16..18].copy_from_slice(&total.to_be_bytes());
        wire::fill_ip_csum(&mut f[14..]);
    }
    f.extend_from_slice(&payload);
    for _ in 0..changes {
        let at = b.below(f.len() as u64) as usize;
        f[at] = b.u8();
    }
    f
}

#[test]
fn parsers_take_any_bytes() {
    bolero::check!().with_test_time(TIME).with_max_len(LEN).for_each(|input: &[u8]| {
        let mut b = Bytes::new(input);
        match b.u8() % 3 {
            0 => options(&b.rest(60)),
            1 => {
                let more = usize::from(b.u8() & 3);
                let f = b.rest(LEN);
                frame(&f, f.len() + more);
            }
            _ => {
                let f = mended(&mut b);
                let e = wire::eth(&f).map_or(0, |e| e.len);
                frame(&f, f.len() - e);
            }
        }
    });
}
