//! Neighbour discovery (RFC 4861) and the report of the groups we listen to (RFC 3810): the packets. What they say
//! goes to [`crate::neighbour`].

use crate::addr::Addr;
use crate::csum::pseudo;
use crate::wire::{self, ETH_IPV6, HDR6, Mac};

/// Protocol number of ICMPv6.
pub const ICMP6: u8 = 58;
/// Longest frame written here, in bytes: a tag, IPv6, a report of nine groups behind a router alert.
pub const FRAME_MAX: usize = 18 + HDR6 + 8 + 8 + 20 * (crate::host::ADDRS_MAX + 1);

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const LISTENER_QUERY: u8 = 130;
const LISTENER_REPORT: u8 = 143;

const SOURCE_LINK: u8 = 1;
const TARGET_LINK: u8 = 2;

/// A message of neighbour or listener discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Neighbour solicitation: who has `target`?
    Solicit {
        /// The address asked for.
        target: Addr,
        /// Where the asker is; `None` while it makes sure that nobody has the address (RFC 4862 §5.4).
        source: Option<Mac>,
    },
    /// Somebody has `target`.
    Advert {
        /// The address.
        target: Addr,
        /// As an answer.
        solicited: bool,
        /// Even if we know another place.
        overrides: bool,
        /// Where.
        mac: Option<Mac>,
    },
    /// A router is there for `lifetime` seconds.
    Router {
        /// Seconds; 0 when it retires.
        lifetime: u16,
        /// Where.
        mac: Option<Mac>,
    },
    /// A question which groups are listened to.
    Query,
}

/// Parses the ICMPv6 message `m`, whose checksum is right, from a packet with these addresses and hop limit.
/// `None` for another message, or one that RFC 4861 §6.1 and §7.1 tell to discard: hop limit, code, lengths,
/// addresses that cannot be.
pub fn parse(m: &[u8], src: &Addr, dst: &Addr, hops: u8) -> Option<Message> {
    let kind = *m.first()?;
    if *m.get(1)? != 0 {
        return None;
    }
    if kind == LISTENER_QUERY {
        // RFC 3810 §6.2.
        return (src.is_link_local() && hops == 1 && m.len() >= 24).then_some(Message::Query);
    }
    if hops != 255 {
        return None;
    }
    let target = || m.get(8..24).and_then(|t| t.try_into().ok()).map(Addr).filter(Addr::is_unicast);
    match kind {
        NEIGHBOUR_SOLICITATION => {
            let (target, source) = (target()?, option(m.get(24..)?, SOURCE_LINK)?);
            let probes = *src == Addr::UNSPECIFIED;
            let fine = if probes { source.is_none() && *dst == target.solicited_node() } else { true };
            fine.then_some(Message::Solicit { target, source })
        }
        NEIGHBOUR_ADVERTISEMENT => {
            let (target, mac) = (target()?, option(m.get(24..)?, TARGET_LINK)?);
            let flags = *m.get(4)?;
            let (solicited, overrides) = (flags & 0x40 != 0, flags & 0x20 != 0);
            let fine = *src != Addr::UNSPECIFIED && !(solicited && dst.0[0] == 0xff);
            fine.then_some(Message::Advert { target, solicited, overrides, mac })
        }
        ROUTER_ADVERTISEMENT if src.is_link_local() => {
            let lifetime = u16::from_be_bytes([*m.get(6)?, *m.get(7)?]);
            Some(Message::Router { lifetime, mac: option(m.get(16..)?, SOURCE_LINK)? })
        }
        _ => None,
    }
}

/// The Ethernet address in the first option of this kind; the outer `None` when the options are malformed. Each
/// round consumes at least 8 bytes.
fn option(mut o: &[u8], kind: u8) -> Option<Option<Mac>> {
    let mut found = None;
    while !o.is_empty() {
        let len = usize::from(*o.get(1)?) * 8;
        if len == 0 {
            return None;
        }
        let (this, rest) = o.split_at_checked(len)?;
        if this.first() == Some(&kind) && len == 8 && found.is_none() {
            let mac: Mac = this.get(2..8)?.try_into().ok()?;
            // A group address is no station's.
            found = (mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac);
        }
        o = rest;
    }
    Some(found)
}

/// A packet that we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Its contents.
    pub say: Say,
}

/// Contents of a packet of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say {
    /// Neighbour solicitation. Our place is told unless the source is unspecified.
    Solicit(Addr),
    /// This address is here.
    Advert {
        /// The address, ours.
        target: Addr,
        /// As an answer.
        solicited: bool,
    },
    /// Is there a router?
    Routers,
}

impl Packet {
    /// A solicitation for `target`, to everybody in its group or to one station.
    pub fn solicit(src: Addr, target: Addr, to: Option<Mac>) -> Packet {
        let dst = if to.is_some() { target } else { target.solicited_node() };
        Packet { src, dst, say: Say::Solicit(target) }
    }

    /// The whole frame, link header included, to station `to` (the group's when `None`); returns its length.
    pub fn frame(&self, mac: Mac, to: Option<Mac>, vlan: Option<u16>, out: &mut [u8; FRAME_MAX]) -> usize {
        let mut m = [0u8; 32];
        let tell = self.src != Addr::UNSPECIFIED;
        let (target, option, at) = match self.say {
            Say::Solicit(t) => {
                m[0] = NEIGHBOUR_SOLICITATION;
                (Some(t), tell.then_some(SOURCE_LINK), 24)
            }
            Say::Advert { target, solicited } => {
                m[0] = NEIGHBOUR_ADVERTISEMENT;
                m[4] = 0x20 | u8::from(solicited) << 6;
                (Some(target), Some(TARGET_LINK), 24)
            }
            Say::Routers => {
                m[0] = ROUTER_SOLICITATION;
                (None, tell.then_some(SOURCE_LINK), 8)
            }
        };
        if let Some(t) = target {
            m[8..24].copy_from_slice(&t.0);
        }
        let mut len = at;
        if let Some(kind) = option {
            wire::put(&mut m, at, &[kind, 1]);
            wire::put(&mut m, at + 2, &mac);
            len += 8;
        }
        let l2 = wire::write_eth(out, mac, to.unwrap_or(self.dst.group_mac()), vlan, ETH_IPV6);
        seal(out, l2, (self.src, self.dst), 255, &[], m.get_mut(..len).unwrap_or_default())
    }
}

/// A report that we listen to `groups` (RFC 3810 §5.2): an "exclude nothing" record for each. `src` is our
/// link-local address. The whole frame; returns its length.
pub fn report(
    src: Addr,
    groups: impl Iterator<Item = Addr>,
    mac: Mac,
    vlan: Option<u16>,
    out: &mut [u8; FRAME_MAX],
) -> usize {
    // To all routers that understand MLDv2.
    const TO: Addr = Addr([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16]);
    let mut m = [0u8; 8 + 20 * (crate::host::ADDRS_MAX + 1)];
    m[0] = LISTENER_REPORT;
    let mut n = 0;
    for (r, g) in m[8..].as_chunks_mut::<20>().0.iter_mut().zip(groups) {
        r[0] = 4; // CHANGE_TO_EXCLUDE_MODE
        r[4..].copy_from_slice(&g.0);
        n += 1;
    }
    m[7] = n;
    let l2 = wire::write_eth(out, mac, TO.group_mac(), vlan, ETH_IPV6);
    // Hop-by-hop: the router alert option (RFC 2711), padded.
    let alert = [ICMP6, 0, 5, 2, 0, 0, 1, 0];
    seal(out, l2, (src, TO), 1, &alert, m.get_mut(..8 + 20 * usize::from(n)).unwrap_or_default())
}

/// Writes IPv6 header, hop-by-hop options and the ICMPv6 message with its checksum behind the link header.
fn seal(
    out: &mut [u8; FRAME_MAX],
    l2: usize,
    (src, dst): (Addr, Addr),
    hops: u8,
    ext: &[u8],
    m: &mut [u8],
) -> usize {
    let mut s = pseudo(&src, &dst, ICMP6, m.len());
    s.add(m);
    wire::put(m, 2, &s.finish().to_be_bytes());
    let (ip, at) = (l2, l2 + HDR6);
    wire::write_ip6(
        out.get_mut(ip..at).unwrap_or_default(),
        &src,
        &dst,
        if ext.is_empty() { ICMP6 } else { 0 },
        hops,
        ext.len() + m.len(),
    );
    wire::put(out, at, ext);
    wire::put(out, at + ext.len(), m);
    at + ext.len() + m.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    fn a(s: &str) -> Addr {
        s.parse::<std::net::IpAddr>().unwrap().into()
    }

    /// Parses a frame as a receiver would.
    fn read(f: &[u8]) -> (wire::Eth, wire::Ip, Vec<u8>) {
        let e = wire::eth(f).unwrap();
        let ip = wire::ip6(&f[e.len..], f.len() - e.len).unwrap();
        let m = f[e.len + ip.hlen..].to_vec();
        let mut s = pseudo(&ip.src, &ip.dst, ICMP6, m.len());
        s.add(&m);
        assert_eq!((s.finish(), ip.proto, m.len()), (0, ICMP6, ip.payload));
        (e, ip, m)
    }

    #[test]
    fn what_we_send_parses_back() {
        let (ours, theirs) = (a("fe80::1"), a("fd00::2"));
        let mut b = [0; FRAME_MAX];
        let n = Packet::solicit(ours, theirs, None).frame(MAC, None, Some(7), &mut b);
        let (e, ip, m) = read(&b[..n]);
        assert_eq!((e.dst, ip.dst, ip.ttl), ([0x33, 0x33, 0xff, 0, 0, 2], a("ff02::1:ff00:2"), 255));
        let want = Message::Solicit { target: theirs, source: Some(MAC) };
        assert_eq!(parse(&m, &ip.src, &ip.dst, ip.ttl), Some(want));

        let n = Packet::solicit(Addr::UNSPECIFIED, theirs, None).frame(MAC, None, None, &mut b);
        let (_, ip, m) = read(&b[..n]);
        assert_eq!(parse(&m, &ip.src, &ip.dst, 255), Some(Message::Solicit { target: theirs, source: None }));

        let p = Packet { src: theirs, dst: ours, say: Say::Advert { target: theirs, solicited: true } };
        let n = p.frame(MAC, Some([4; 6]), None, &mut b);
        let (e, ip, m) = read(&b[..n]);
        let want = Message::Advert { target: theirs, solicited: true, overrides: true, mac: Some(MAC) };
        assert_eq!((e.dst, parse(&m, &ip.src, &ip.dst, 255)), ([4; 6], Some(want)));

        let p = Packet { src: ours, dst: Addr::ALL_ROUTERS, say: Say::Routers };
        let n = p.frame(MAC, None, None, &mut b);
        let (_, ip, m) = read(&b[..n]);
        assert_eq!((m[0], m.len(), ip.dst), (133, 16, a("ff02::2")));

        let groups = [a("ff02::1:ff00:1"), a("ff02::1:ff00:2")];
        let n = report(ours, groups.into_iter(), MAC, None, &mut b);
        let (e, ip, m) = read(&b[..n]);
        assert_eq!(
            (e.dst, ip.ttl, ip.hlen, m[0], m[7], m.len()),
            ([0x33, 0x33, 0, 0, 0, 0x16], 1, 48, 143, 2, 48)
        );
        assert_eq!((&m[12..28], &m[32..48]), (&groups[0].0[..], &groups[1].0[..]));
    }

    fn ns(options: &[u8]) -> Vec<u8> {
        let mut m = vec![135, 0, 0, 0, 0, 0, 0, 0];
        m.extend_from_slice(&a("fd00::1").0);
        m.extend_from_slice(options);
        m
    }

    #[test]
    fn what_must_be_discarded_is() {
        let (src, group) = (a("fd00::2"), a("ff02::1:ff00:1"));
        let link = [1, 1, 2, 0, 0, 0, 0, 2];
        let ok = ns(&link);
        let want = Message::Solicit { target: a("fd00::1"), source: Some([2, 0, 0, 0, 0, 2]) };
        assert_eq!(parse(&ok, &src, &group, 255), Some(want));
        assert_eq!(parse(&ok, &src, &group, 254), None, "it has crossed a router");
        assert_eq!(parse(&ok[..23], &src, &group, 255), None);
        assert_eq!(parse(&ok, &Addr::UNSPECIFIED, &group, 255), None, "a place for no address");
        assert_eq!(parse(&ns(&[]), &Addr::UNSPECIFIED, &a("fd00::1"), 255), None, "a probe not to the group");
        assert_eq!(parse(&ns(&[1, 0, 0, 0, 0, 0, 0, 0]), &src, &group, 255), None, "an option of length 0");
        assert_eq!(parse(&ns(&[1, 2, 0, 0, 0, 0, 0, 0]), &src, &group, 255), None, "an option too long");
        assert_eq!(parse(&ns(&[1, 1, 0]), &src, &group, 255), None, "an option cut short");
        let mut m = ok.clone();
        m[1] = 1;
        assert_eq!(parse(&m, &src, &group, 255), None, "a code");
        let mut m = ok.clone();
        m[8] = 0xff;
        assert_eq!(parse(&m, &src, &group, 255), None, "a group as target");
        let none = |m: Message| matches!(m, Message::Solicit { source: None, .. });
        assert!(
            parse(&ns(&[1, 1, 3, 0, 0, 0, 0, 2]), &src, &group, 255).is_some_and(none),
            "a group as station"
        );
        // An answer to a question is not for a group.
        let mut m = ns(&[]);
        (m[0], m[4]) = (136, 0x40);
        assert_eq!(parse(&m, &src, &Addr::ALL_NODES, 255), None);
        assert!(parse(&m, &src, &a("fd00::1"), 255).is_some());
        let ra = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 9];
        let want = Message::Router { lifetime: 1800, mac: Some([2, 0, 0, 0, 0, 9]) };
        assert_eq!(parse(&ra, &a("fe80::9"), &Addr::ALL_NODES, 255), Some(want));
        assert_eq!(parse(&ra, &src, &Addr::ALL_NODES, 255), None, "routers speak from link-local addresses");
        let query = [130; 1].into_iter().chain([0; 27]).collect::<Vec<_>>();
        assert_eq!(parse(&query, &a("fe80::9"), &Addr::ALL_NODES, 1), Some(Message::Query));
        assert_eq!(parse(&query, &a("fe80::9"), &Addr::ALL_NODES, 2), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            kind in 128u8..144, b in proptest::collection::vec(any::<u8>(), 0..200), src: [u8; 16], dst: [u8; 16]
        ) {
            let mut m = b.clone();
            if let [k, code, ..] = &mut m[..] {
                (*k, *code) = (kind, 0);
            }
            for m in [&m, &b] {
                let _ = parse(m, &Addr(src), &Addr(dst), 255);
                let _ = parse(m, &Addr::link_local([1; 6]), &Addr(dst), 255);
            }
        }
    }
}
