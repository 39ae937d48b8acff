//! ARP for Ethernet and IPv4 (RFC 826): asking, answering, announcing, and noticing that somebody else has our
//! address (RFC 5227).

use std::collections::HashMap;

use crate::addr::Addr;
use crate::wire::{self, BROADCAST, ETH_ARP, Mac};

/// Length of an ARP packet behind the link header, in bytes.
pub const LEN: usize = 28;
/// Entries kept at most; the one confirmed longest ago makes room.
const MAX: usize = 1024;
/// Time between requests for one address, in ns.
pub const RETRY: u64 = 1_000_000_000;
/// Requests before an address counts as unreachable.
const TRIES: u8 = 3;
/// An answer is used without asking again for this long, in ns.
const FRESH: u64 = 60_000_000_000;
/// Own address defended at most this often (RFC 5227 §2.4), in ns.
const DEFEND: u64 = 10_000_000_000;

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Request (1) or reply (2).
    pub op: u16,
    /// Sender's Ethernet address.
    pub sha: Mac,
    /// Sender's IPv4 address, host order.
    pub spa: u32,
    /// Target's Ethernet address.
    pub tha: Mac,
    /// Target's IPv4 address, host order.
    pub tpa: u32,
}

impl Packet {
    /// Parses; `None` for another hardware or protocol, or when it is cut short.
    pub fn parse(b: &[u8]) -> Option<Packet> {
        let b: &[u8; LEN] = b.get(..LEN)?.try_into().ok()?;
        if b[..6] != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let mac = |i: usize| [b[i], b[i + 1], b[i + 2], b[i + 3], b[i + 4], b[i + 5]];
        let ip = |i: usize| u32::from_be_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let op = u16::from_be_bytes([b[6], b[7]]);
        Some(Packet { op, sha: mac(8), spa: ip(14), tha: mac(18), tpa: ip(24) })
    }

    /// The whole frame, link header included; returns its length (at most 46 bytes).
    pub fn frame(&self, dst: Mac, vlan: Option<u16>, out: &mut [u8; 46]) -> usize {
        let n = wire::write_eth(out, self.sha, dst, vlan, ETH_ARP);
        let b = &mut out[n..n + LEN];
        b[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
        b[6..8].copy_from_slice(&self.op.to_be_bytes());
        b[8..14].copy_from_slice(&self.sha);
        b[14..18].copy_from_slice(&self.spa.to_be_bytes());
        b[18..24].copy_from_slice(&self.tha);
        b[24..28].copy_from_slice(&self.tpa.to_be_bytes());
        n + LEN
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// Asked for; `used` says that somebody waits.
    Asking {
        tries: u8,
        next: u64,
        known: Option<Mac>,
    },
    Known {
        mac: Mac,
        at: u64,
    },
}

/// What to do about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Here it is.
    Known(Mac),
    /// It is being asked for.
    Wait,
}

/// What an incoming packet led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Heard {
    /// A reply to send, and to whom.
    pub reply: Option<(Packet, Mac)>,
    /// This address is now at that Ethernet address, and was not before.
    pub learned: Option<(u32, Mac)>,
    /// This station uses our IP address.
    pub duplicate: Option<Mac>,
}

/// The neighbours of one lcore.
pub struct Arp {
    mac: Mac,
    ip: u32,
    table: HashMap<u32, Entry>,
    next: u64,
    defend_at: u64,
}

impl Arp {
    /// A cache for our addresses.
    pub fn new(mac: Mac, ip: u32) -> Arp {
        Arp { mac, ip, table: HashMap::new(), next: u64::MAX, defend_at: 0 }
    }

    /// The announcement that we have our address now (RFC 5227 §2.3).
    pub fn announcement(&self) -> Packet {
        Packet { op: 1, sha: self.mac, spa: self.ip, tha: [0; 6], tpa: self.ip }
    }

    /// A question for `ip`.
    pub fn request(&self, ip: u32) -> Packet {
        Packet { op: 1, sha: self.mac, spa: self.ip, tha: [0; 6], tpa: ip }
    }

    /// Where `ip` is. When that is not known, or is old, the next [`Arp::poll`] asks.
    pub fn lookup(&mut self, ip: u32, now: u64) -> Lookup {
        match self.table.get(&ip).copied() {
            Some(Entry::Known { mac, at }) => {
                if now.saturating_sub(at) > FRESH {
                    self.ask(ip, Some(mac), now);
                }
                Lookup::Known(mac)
            }
            Some(Entry::Asking { known: Some(mac), .. }) => Lookup::Known(mac),
            Some(Entry::Asking { known: None, .. }) => Lookup::Wait,
            None => {
                self.ask(ip, None, now);
                Lookup::Wait
            }
        }
    }

    /// Asks again for a neighbour that seems to have gone silent.
    pub fn doubt(&mut self, ip: u32, now: u64) {
        if let Some(Entry::Known { mac, .. }) = self.table.get(&ip).copied() {
            self.ask(ip, Some(mac), now);
        }
    }

    fn ask(&mut self, ip: u32, known: Option<Mac>, now: u64) {
        self.make_room();
        self.table.insert(ip, Entry::Asking { tries: 0, next: now, known });
        self.next = self.next.min(now);
    }

    fn make_room(&mut self) {
        if self.table.len() < MAX {
            return;
        }
        let age = |e: &Entry| match e {
            Entry::Known { at, .. } => *at,
            Entry::Asking { .. } => u64::MAX,
        };
        if let Some(old) = self.table.iter().min_by_key(|(_, e)| age(e)).map(|(ip, _)| *ip) {
            self.table.remove(&old);
        }
    }

    /// When [`Arp::poll`] has something to do (ns); `u64::MAX` for never.
    pub fn deadline(&self) -> u64 {
        self.next
    }

    /// Sends what is due: `ask` gets each request with the address to send it to, `dead` each address that did not
    /// answer.
    pub fn poll(&mut self, now: u64, mut ask: impl FnMut(Packet, Mac), mut dead: impl FnMut(u32)) {
        if now < self.next {
            return;
        }
        let (mac, ip) = (self.mac, self.ip);
        let mut soonest = u64::MAX;
        self.table.retain(|tpa, e| {
            let Entry::Asking { tries, next, known } = e else { return true };
            if now >= *next {
                if *tries == TRIES {
                    dead(*tpa);
                    return false;
                }
                // A neighbour that was known is asked directly first (RFC 1122 §2.3.2.1).
                let dst = known.filter(|_| *tries == 0).unwrap_or(BROADCAST);
                ask(Packet { op: 1, sha: mac, spa: ip, tha: [0; 6], tpa: *tpa }, dst);
                *tries += 1;
                *next = now + RETRY;
            }
            soonest = soonest.min(*next);
            true
        });
        self.next = soonest;
    }

    /// Takes in a packet from the wire. Only neighbours that we asked for or already know are learned, plus those
    /// that ask for us.
    pub fn hear(&mut self, p: &Packet, now: u64) -> Heard {
        let mut h = Heard::default();
        if p.sha[0] & 1 != 0 || p.sha == [0; 6] {
            return h;
        }
        if p.spa == self.ip {
            if p.sha != self.mac {
                h.duplicate = Some(p.sha);
                if now >= self.defend_at {
                    self.defend_at = now + DEFEND;
                    h.reply = Some((self.announcement(), BROADCAST));
                }
            }
            return h;
        }
        let for_us = p.tpa == self.ip;
        if Addr::v4(p.spa).is_unicast() && (self.table.contains_key(&p.spa) || (for_us && p.op == 1)) {
            let old = match self.table.get(&p.spa) {
                Some(Entry::Known { mac, .. }) => Some(*mac),
                _ => None,
            };
            if old.is_none() && !self.table.contains_key(&p.spa) {
                self.make_room();
            }
            self.table.insert(p.spa, Entry::Known { mac: p.sha, at: now });
            h.learned = (old != Some(p.sha)).then_some((p.spa, p.sha));
        }
        if for_us && p.op == 1 {
            h.reply = Some((Packet { op: 2, sha: self.mac, spa: self.ip, tha: p.sha, tpa: p.spa }, p.sha));
        }
        h
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const ME: Mac = [2, 0, 0, 0, 0, 1];
    const YOU: Mac = [2, 0, 0, 0, 0, 2];
    const A: u32 = 0x0a00_0001;
    const B: u32 = 0x0a00_0002;
    const S: u64 = 1_000_000_000;

    fn polled(a: &mut Arp, now: u64) -> (Vec<(u32, Mac)>, Vec<u32>) {
        let (mut q, mut d) = (vec![], vec![]);
        a.poll(now, |p, m| q.push((p.tpa, m)), |ip| d.push(ip));
        (q, d)
    }

    #[test]
    fn a_packet_parses_back_and_foreign_ones_do_not() {
        let p = Packet { op: 2, sha: ME, spa: A, tha: YOU, tpa: B };
        let mut b = [0; 46];
        for (vlan, n) in [(None, 42), (Some(5), 46)] {
            assert_eq!(p.frame(YOU, vlan, &mut b), n);
            assert_eq!(Packet::parse(&b[n - LEN..n]), Some(p));
        }
        b[18 + 1] = 6;
        assert_eq!(Packet::parse(&b[18..]), None, "another hardware type");
        assert_eq!(Packet::parse(&[0; 27]), None);
    }

    #[test]
    fn asks_three_times_then_gives_up() {
        let mut a = Arp::new(ME, A);
        assert_eq!(a.lookup(B, 0), Lookup::Wait);
        for t in 0..3 {
            assert_eq!(polled(&mut a, t * S), (vec![(B, BROADCAST)], vec![]));
            assert_eq!(polled(&mut a, t * S + 1), (vec![], vec![]));
            assert_eq!(a.deadline(), (t + 1) * S);
        }
        assert_eq!(polled(&mut a, 3 * S), (vec![], vec![B]));
        assert_eq!(a.deadline(), u64::MAX);
    }

    #[test]
    fn learns_from_replies_and_from_those_who_ask_for_us_only() {
        let mut a = Arp::new(ME, A);
        let stray = Packet { op: 2, sha: YOU, spa: B, tha: ME, tpa: A };
        assert_eq!(a.hear(&stray, 0), Heard::default(), "nobody asked");
        let ask = Packet { op: 1, sha: YOU, spa: B, tha: [0; 6], tpa: A };
        let h = a.hear(&ask, 0);
        assert_eq!(h.reply, Some((Packet { op: 2, sha: ME, spa: A, tha: YOU, tpa: B }, YOU)));
        assert_eq!((h.learned, a.lookup(B, 0)), (Some((B, YOU)), Lookup::Known(YOU)));
        let moved = Packet { op: 1, sha: [6; 6], spa: B, tha: [0; 6], tpa: B };
        assert_eq!(a.hear(&moved, 0).learned, Some((B, [6; 6])), "gratuitous, of one we know");
        let group = Packet { sha: [1; 6], ..moved };
        assert_eq!(a.hear(&group, 0), Heard::default(), "a group address is no station's");
    }

    #[test]
    fn an_old_answer_is_used_while_it_is_checked() {
        let mut a = Arp::new(ME, A);
        a.lookup(B, 0);
        a.hear(&Packet { op: 2, sha: YOU, spa: B, tha: ME, tpa: A }, 0);
        assert_eq!(a.lookup(B, 61 * S), Lookup::Known(YOU));
        assert_eq!(polled(&mut a, 61 * S).0, [(B, YOU)], "asked directly");
        assert_eq!(polled(&mut a, 62 * S).0, [(B, BROADCAST)]);
        polled(&mut a, 63 * S);
        assert_eq!(polled(&mut a, 64 * S).1, [B]);
        assert_eq!(a.lookup(B, 64 * S), Lookup::Wait);
    }

    #[test]
    fn somebody_with_our_address_is_reported_and_answered_now_and_then() {
        let mut a = Arp::new(ME, A);
        let thief = Packet { op: 1, sha: YOU, spa: A, tha: [0; 6], tpa: A };
        let h = a.hear(&thief, S);
        assert_eq!((h.duplicate, h.reply), (Some(YOU), Some((a.announcement(), BROADCAST))));
        assert_eq!(a.hear(&thief, 2 * S), Heard { duplicate: Some(YOU), ..Heard::default() });
        assert_eq!(a.hear(&a.announcement(), 0), Heard::default(), "our own, looped back");
    }

    #[test]
    fn the_table_is_bounded() {
        let mut a = Arp::new(ME, A);
        for ip in 10..5000 {
            a.hear(&Packet { op: 1, sha: YOU, spa: 0x0a00_0000 + ip, tha: [0; 6], tpa: A }, u64::from(ip));
        }
        assert!(a.table.len() <= MAX);
    }
}
