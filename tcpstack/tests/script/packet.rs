//! Packets as the scripts see them. Written and read here without the stack's own code, so that an error in that
//! code does not cancel out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const FLAGS: [(char, u8); 8] =
    [('S', 0x02), ('F', 0x01), ('R', 0x04), ('P', 0x08), ('.', 0x10), ('U', 0x20), ('E', 0x40), ('C', 0x80)];
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// A TCP option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opt {
    Eol,
    Nop,
    Mss(u16),
    Scale(u8),
    SackOk,
    Sack(Vec<(u32, u32)>),
    Ts(u32, u32),
    /// Bytes as they stand.
    Raw(Vec<u8>),
}

/// A TCP segment.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Tcp {
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) win: u16,
    pub(crate) urg: u16,
    pub(crate) opts: Vec<Opt>,
    pub(crate) data: Vec<u8>,
}

/// What an IP packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Tcp(Tcp),
    /// Type, code, the rest behind the checksum.
    Icmp(u8, u8, Vec<u8>),
    Other(u8),
}

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ip {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) ttl: u8,
    /// Traffic class: DSCP and ECN.
    pub(crate) tos: u8,
    pub(crate) body: Body,
}

/// What is wrong with a packet on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tweak {
    BadChecksum,
    BadIpChecksum,
    IpOptions,
    Fragment,
    /// TCP header length in 32-bit words.
    DataOffset(u8),
    /// Bytes missing at the end.
    Cut(usize),
    /// The Ethernet destination is the broadcast address.
    Broadcast,
    Ttl(u8),
    /// ECN codepoint "congestion experienced".
    Ce,
}

pub(crate) fn sum(parts: &[&[u8]]) -> u16 {
    let (mut s, mut odd) = (0u64, false);
    for b in parts.iter().flat_map(|p| p.iter()) {
        s += if odd { u64::from(*b) } else { u64::from(*b) << 8 };
        odd = !odd;
    }
    while s > 0xffff {
        s = (s & 0xffff) + (s >> 16);
    }
    s as u16
}

fn pseudo(src: IpAddr, dst: IpAddr, proto: u8, len: usize) -> Vec<u8> {
    let mut b = vec![];
    for a in [src, dst] {
        match a {
            IpAddr::V4(a) => b.extend_from_slice(&a.octets()),
            IpAddr::V6(a) => b.extend_from_slice(&a.octets()),
        }
    }
    b.extend_from_slice(&(len as u32).to_be_bytes());
    b.extend_from_slice(&u32::from(proto).to_be_bytes());
    b
}

impl Opt {
    fn write(&self, b: &mut Vec<u8>) {
        match self {
            Opt::Eol => b.push(0),
            Opt::Nop => b.push(1),
            Opt::Mss(m) => b.extend_from_slice(&[2, 4, (m >> 8) as u8, *m as u8]),
            Opt::Scale(s) => b.extend_from_slice(&[3, 3, *s]),
            Opt::SackOk => b.extend_from_slice(&[4, 2]),
            Opt::Sack(v) => {
                b.extend_from_slice(&[5, 2 + 8 * v.len() as u8]);
                for (l, r) in v {
                    b.extend_from_slice(&l.to_be_bytes());
                    b.extend_from_slice(&r.to_be_bytes());
                }
            }
            Opt::Ts(val, ecr) => {
                b.extend_from_slice(&[8, 10]);
                b.extend_from_slice(&val.to_be_bytes());
                b.extend_from_slice(&ecr.to_be_bytes());
            }
            Opt::Raw(r) => b.extend_from_slice(r),
        }
    }

    fn read(mut b: &[u8]) -> Result<Vec<Opt>, String> {
        let mut v = vec![];
        while let Some((&kind, rest)) = b.split_first() {
            if kind < 2 {
                v.push(if kind == 0 { Opt::Eol } else { Opt::Nop });
                b = rest;
                continue;
            }
            let len = usize::from(*rest.first().ok_or("an option without a length")?);
            let o = b.get(..len).filter(|o| o.len() >= 2).ok_or("an option beyond the header")?;
            let w = |i: usize| u32::from_be_bytes([o[i], o[i + 1], o[i + 2], o[i + 3]]);
            v.push(match (kind, len) {
                (2, 4) => Opt::Mss(u16::from_be_bytes([o[2], o[3]])),
                (3, 3) => Opt::Scale(o[2]),
                (4, 2) => Opt::SackOk,
                (5, n) if n > 2 && n % 8 == 2 => {
                    Opt::Sack((0..n / 8).map(|i| (w(2 + 8 * i), w(6 + 8 * i))).collect())
                }
                (8, 10) => Opt::Ts(w(2), w(6)),
                _ => Opt::Raw(o.to_vec()),
            });
            b = &b[len..];
        }
        Ok(v)
    }
}

impl Tcp {
    pub(crate) fn has(&self, f: u8) -> bool {
        self.flags & f == f
    }

    pub(crate) fn ts(&self) -> Option<(u32, u32)> {
        self.opts.iter().find_map(|o| if let Opt::Ts(v, e) = o { Some((*v, *e)) } else { None })
    }

    /// Sequence space that it takes.
    pub(crate) fn space(&self) -> u32 {
        self.data.len() as u32 + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }

    fn bytes(&self, offset: Option<u8>) -> Vec<u8> {
        let mut o = vec![];
        self.opts.iter().for_each(|x| x.write(&mut o));
        while !o.len().is_multiple_of(4) {
            o.push(1);
        }
        let words = 5 + o.len() / 4;
        assert!(words <= 15, "{} bytes of options: a TCP header has room for 40", o.len());
        let mut b = vec![];
        b.extend_from_slice(&self.sport.to_be_bytes());
        b.extend_from_slice(&self.dport.to_be_bytes());
        b.extend_from_slice(&self.seq.to_be_bytes());
        b.extend_from_slice(&self.ack.to_be_bytes());
        b.push(offset.unwrap_or(words as u8) << 4);
        b.push(self.flags);
        b.extend_from_slice(&self.win.to_be_bytes());
        b.extend_from_slice(&[0, 0]);
        b.extend_from_slice(&self.urg.to_be_bytes());
        b.extend_from_slice(&o);
        b.extend_from_slice(&self.data);
        b
    }
}

fn icmp_proto(a: IpAddr) -> u8 {
    if a.is_ipv4() { 1 } else { 58 }
}

impl Ip {
    pub(crate) fn tcp(src: IpAddr, dst: IpAddr, t: Tcp) -> Ip {
        Ip { src, dst, ttl: 64, tos: 0, body: Body::Tcp(t) }
    }

    pub(crate) fn icmp(src: IpAddr, dst: IpAddr, kind: (u8, u8), rest: Vec<u8>) -> Ip {
        let ttl = if src.is_ipv4() { 64 } else { 255 };
        Ip { src, dst, ttl, tos: 0, body: Body::Icmp(kind.0, kind.1, rest) }
    }

    /// The packet from the IP header on, checksums complete but for what `tweaks` spoil.
    pub(crate) fn bytes(&self, tweaks: &[Tweak]) -> Vec<u8> {
        let words = tweaks.iter().find_map(|t| if let Tweak::DataOffset(n) = t { Some(*n) } else { None });
        let (proto, at, mut p) = match &self.body {
            Body::Tcp(t) => (6, 16, t.bytes(words)),
            Body::Icmp(t, c, rest) => (icmp_proto(self.src), 2, [&[*t, *c, 0, 0][..], rest].concat()),
            Body::Other(proto) => (*proto, 0, vec![0; 20]),
        };
        let ph = if proto == 1 { vec![] } else { pseudo(self.src, self.dst, proto, p.len()) };
        let mut c = !sum(&[&ph, &p]);
        if tweaks.contains(&Tweak::BadChecksum) {
            c ^= 0x0100;
        }
        if at > 0 {
            p[at..at + 2].copy_from_slice(&c.to_be_bytes());
        }
        let mut b = self.header(proto, p.len(), tweaks);
        b.extend_from_slice(&p);
        for t in tweaks {
            if let Tweak::Cut(n) = t {
                b.truncate(b.len().saturating_sub(*n));
            }
        }
        b
    }

    fn header(&self, proto: u8, len: usize, tweaks: &[Tweak]) -> Vec<u8> {
        let tos = if tweaks.contains(&Tweak::Ce) { self.tos | 3 } else { self.tos };
        let ttl = tweaks.iter().find_map(|t| if let Tweak::Ttl(n) = t { Some(*n) } else { None });
        let ttl = ttl.unwrap_or(self.ttl);
        let (options, frag) = (tweaks.contains(&Tweak::IpOptions), tweaks.contains(&Tweak::Fragment));
        match (self.src, self.dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                let ihl = if options { 24 } else { 20 };
                let total = (ihl + len) as u16;
                let mut h = vec![0x40 | (ihl as u8 / 4), tos, (total >> 8) as u8, total as u8];
                h.extend_from_slice(&[0, 1, if frag { 0x20 } else { 0x40 }, 0, ttl, proto, 0, 0]);
                h.extend_from_slice(&s.octets());
                h.extend_from_slice(&d.octets());
                if options {
                    h.extend_from_slice(&[1, 1, 1, 0]);
                }
                let c = !sum(&[&h]) ^ u16::from(tweaks.contains(&Tweak::BadIpChecksum));
                h[10..12].copy_from_slice(&c.to_be_bytes());
                h
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                // A hop-by-hop header of padding for options, a fragment header for fragments.
                let extra: Vec<u8> = match (options, frag) {
                    (true, _) => vec![proto, 0, 1, 4, 0, 0, 0, 0],
                    (_, true) => vec![proto, 0, 0, 1, 0, 0, 0, 1],
                    _ => vec![],
                };
                let next = if options {
                    0
                } else if frag {
                    44
                } else {
                    proto
                };
                let total = ((len + extra.len()) as u16).to_be_bytes();
                let mut h = vec![0x60 | tos >> 4, tos << 4, 0, 0, total[0], total[1], next, ttl];
                h.extend_from_slice(&s.octets());
                h.extend_from_slice(&d.octets());
                h.extend_from_slice(&extra);
                h
            }
            _ => panic!("{} to {}: addresses of two families", self.src, self.dst),
        }
    }

    /// Reads a packet that the stack sent; every length and checksum has to be right. `partial` is the TSO segment
    /// size of a packet whose checksums are left to the device.
    pub(crate) fn read(b: &[u8], partial: Option<u16>) -> Result<Ip, String> {
        let short = "shorter than an IP header";
        let (src, dst, ttl, tos, proto, p): (IpAddr, IpAddr, _, _, _, _);
        if b.first().ok_or(short)? >> 4 == 4 {
            let ihl = usize::from(b[0] & 15) * 4;
            let h = b.get(..ihl).filter(|h| h.len() >= 20).ok_or(short)?;
            let total = usize::from(u16::from_be_bytes([h[2], h[3]]));
            if total != b.len() {
                return Err(format!("IP length {total} in a packet of {} bytes", b.len()));
            }
            if partial.is_none() && sum(&[h]) != 0xffff {
                return Err("the IP header checksum is wrong".into());
            }
            if h[6] & 0x40 == 0 || h[6] & 0x3f != 0 || h[7] != 0 {
                return Err("a fragment, or may be made one".into());
            }
            let a = |i: usize| Ipv4Addr::new(h[i], h[i + 1], h[i + 2], h[i + 3]).into();
            (src, dst, ttl, tos, proto, p) = (a(12), a(16), h[8], h[1], h[9], &b[ihl..]);
        } else {
            let h = b.get(..40).ok_or(short)?;
            let len = usize::from(u16::from_be_bytes([h[4], h[5]]));
            if h[0] >> 4 != 6 || len + 40 != b.len() {
                return Err(format!("IPv6 length {len} in a packet of {} bytes", b.len()));
            }
            let a = |i: usize| <[u8; 16]>::try_from(&h[i..i + 16]).map(|x| Ipv6Addr::from(x).into());
            let a = |i| a(i).map_err(|_| short.to_string());
            (src, dst, ttl, tos, proto, p) = (a(8)?, a(24)?, h[7], (h[0] << 4) | (h[1] >> 4), h[6], &b[40..]);
        }
        let ph = if proto == 1 { vec![] } else { pseudo(src, dst, proto, p.len()) };
        let body = match proto {
            6 => {
                let t = read_tcp(p)?;
                match partial {
                    None if sum(&[&ph, p]) != 0xffff => return Err("the TCP checksum is wrong".into()),
                    None => (),
                    Some(segsz) => {
                        let len = if segsz > 0 { 0 } else { p.len() };
                        let want = sum(&[&pseudo(src, dst, 6, len)]);
                        if u16::from_be_bytes([p[16], p[17]]) != want {
                            return Err("the checksum field does not hold the pseudo-header's sum".into());
                        }
                    }
                }
                Body::Tcp(t)
            }
            1 | 58 => {
                if sum(&[&ph, p]) != 0xffff || p.len() < 4 {
                    return Err("the ICMP checksum is wrong".into());
                }
                Body::Icmp(p[0], p[1], p[4..].to_vec())
            }
            other => Body::Other(other),
        };
        Ok(Ip { src, dst, ttl, tos, body })
    }
}

fn read_tcp(p: &[u8]) -> Result<Tcp, String> {
    let h = p.get(..20).ok_or("shorter than a TCP header")?;
    let hlen = usize::from(h[12] >> 4) * 4;
    let opts = p.get(20..hlen).ok_or_else(|| format!("TCP header length {hlen}"))?;
    if h[12] & 15 != 0 {
        return Err("reserved bits are set".into());
    }
    let (n, w) = (
        |i: usize| u16::from_be_bytes([h[i], h[i + 1]]),
        |i: usize| u32::from_be_bytes([h[i], h[i + 1], h[i + 2], h[i + 3]]),
    );
    if h[13] & ACK == 0 && w(8) != 0 {
        return Err("an acknowledgement number without the ACK flag".into());
    }
    if h[13] & 0x20 == 0 && n(18) != 0 {
        return Err("an urgent pointer without the URG flag".into());
    }
    Ok(Tcp {
        sport: n(0),
        dport: n(2),
        seq: w(4),
        ack: w(8),
        flags: h[13],
        win: n(14),
        urg: n(18),
        opts: Opt::read(opts)?,
        data: p[hlen..].to_vec(),
    })
}
