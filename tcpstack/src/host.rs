//! Our own addresses, the networks they are in, and the next hop towards everybody else.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use crate::addr::Addr;
use crate::config::{StackConfig, StackError};
use crate::wire::Mac;

/// Addresses of a stack at most, those that it is given: as many as a node has NIs.
pub const ADDRS_MAX: usize = 16;

/// A stack's addresses and routes.
#[derive(Clone, Debug)]
pub struct Host {
    /// Address and prefix length. The link-local one is the last, when IPv6 is spoken at all.
    addrs: ArrayVec<(Addr, u8), { ADDRS_MAX + 1 }>,
    gateway4: Option<Addr>,
    gateway6: Option<Addr>,
    /// The router that announced itself, and until when (ns).
    router: Option<(Addr, u64)>,
}

/// An address that a stack may have.
fn checked(ip: IpAddr, prefix: u8) -> Result<Addr, StackError> {
    let a = Addr::from(ip);
    let bits = if a.is_v6() { 128 } else { 32 };
    if !a.is_unicast() || a.is_v6() != ip.is_ipv6() || prefix > bits {
        return Err(StackError::Address(ip, prefix));
    }
    Ok(a)
}

impl Host {
    /// The addresses and gateways of `cfg`, and the link-local address of `mac` where one of them is IPv6.
    ///
    /// # Errors
    /// [`StackError::Address`] and [`StackError::Addresses`] and [`StackError::Gateway`] name what is wrong.
    pub fn new(cfg: &StackConfig, mac: Mac) -> Result<Host, StackError> {
        let mut addrs: ArrayVec<(Addr, u8), { ADDRS_MAX + 1 }> = ArrayVec::new();
        if cfg.addrs.is_empty() || cfg.addrs.len() > ADDRS_MAX {
            return Err(StackError::Addresses(cfg.addrs.len()));
        }
        for &(ip, prefix) in &cfg.addrs {
            let a = checked(ip, prefix)?;
            if addrs.iter().all(|x| x.0 != a) {
                addrs.push((a, prefix));
            }
        }
        let mut h = Host { addrs, gateway4: None, gateway6: None, router: None };
        h.link_local(mac);
        for &ip in &cfg.gateways {
            let a = Addr::from(ip);
            let slot = if a.is_v6() { &mut h.gateway6 } else { &mut h.gateway4 };
            if !a.is_unicast() || slot.replace(a).is_some() {
                return Err(StackError::Gateway(ip));
            }
        }
        Ok(h)
    }

    /// The link-local address comes with the first of IPv6, and goes with the last.
    fn link_local(&mut self, mac: Mac) {
        let own = Addr::link_local(mac);
        if !self.addrs.iter().any(|x| x.0.is_v6() && x.0 != own) {
            self.addrs.retain(|x| x.0 != own);
        } else if !self.owns(&own) {
            self.addrs.push((own, 64));
        }
    }

    /// One more address; `mac` is the port's. One that is there stays as it is.
    ///
    /// # Errors
    /// [`StackError::Address`], [`StackError::Addresses`] where there are [`ADDRS_MAX`] already.
    pub fn add(&mut self, ip: IpAddr, prefix: u8, mac: Mac) -> Result<(), StackError> {
        let (a, own) = (checked(ip, prefix)?, Addr::link_local(mac));
        if self.owns(&a) {
            return Ok(());
        }
        let given = self.addrs.iter().filter(|x| x.0 != own).count();
        if given >= ADDRS_MAX {
            return Err(StackError::Addresses(given + 1));
        }
        // The link-local one stays the last.
        self.addrs.retain(|x| x.0 != own);
        self.addrs.push((a, prefix));
        self.link_local(mac);
        Ok(())
    }

    /// One address less.
    pub fn remove(&mut self, ip: IpAddr, mac: Mac) {
        let a = Addr::from(ip);
        self.addrs.retain(|x| x.0 != a);
        self.link_local(mac);
    }

    /// Whether `a` is ours.
    #[inline]
    pub fn owns(&self, a: &Addr) -> bool {
        self.addrs.iter().any(|x| x.0 == *a)
    }

    /// Our addresses, of one family.
    pub fn own(&self, v6: bool) -> impl Iterator<Item = Addr> + '_ {
        self.addrs.iter().map(|x| x.0).filter(move |a| a.is_v6() == v6)
    }

    /// Whether we speak IPv6.
    pub fn v6(&self) -> bool {
        self.own(true).next().is_some()
    }

    /// Whether we listen to the IPv6 group `g`: all nodes, and those in which neighbours ask for our addresses.
    pub fn hears(&self, g: &Addr) -> bool {
        self.own(true).any(|a| a.solicited_node() == *g || *g == Addr::ALL_NODES)
    }

    /// Our address that a question about neighbour `a` comes from: one in its network, else any of its family.
    pub fn asks_from(&self, a: &Addr) -> Option<Addr> {
        let near = self.addrs.iter().find(|(own, bits)| own.same_prefix(a, *bits)).map(|x| x.0);
        near.or_else(|| self.own(a.is_v6()).next())
    }

    /// Next hop towards an address at `now` (ns); `None` when it is in none of our networks and there is no
    /// gateway.
    pub fn route(&self, a: &Addr, now: u64) -> Option<Addr> {
        if self.addrs.iter().any(|(own, bits)| own.same_prefix(a, *bits)) {
            return Some(*a);
        }
        match (a.is_v6(), a.is_link_local()) {
            (false, _) => self.gateway4,
            (true, true) => None,
            (true, false) => self.gateway6.or(self.router.filter(|r| now < r.1).map(|r| r.0)),
        }
    }

    /// Whether no packet from `a` can be right: no host's address, our own, or a network's.
    pub fn is_martian(&self, a: &Addr) -> bool {
        !a.is_unicast() || self.owns(a) || self.is_broadcast(a)
    }

    /// Whether `a` is the broadcast address of one of our IPv4 networks.
    pub fn is_broadcast(&self, a: &Addr) -> bool {
        let Some(ip) = a.as_v4() else { return false };
        self.addrs.iter().any(|(own, bits)| {
            let host = u32::MAX.checked_shr(u32::from(*bits)).unwrap_or(0);
            *bits < 31 && ip & host == host && own.same_prefix(a, *bits)
        })
    }

    /// Whether routers are to be listened to: IPv6 without a gateway of its own.
    pub fn wants_router(&self) -> bool {
        self.gateway6.is_none() && self.v6()
    }

    /// A router announced itself for `lifetime` seconds (RFC 4861 §6.3.4). The first one stays until it retires or
    /// falls silent.
    pub fn on_router(&mut self, router: Addr, lifetime: u16, now: u64) {
        if !self.wants_router() || !router.is_link_local() {
            return;
        }
        let known = self.router.filter(|r| now < r.1).map(|r| r.0);
        if known.is_none_or(|r| r == router) {
            let until = now + u64::from(lifetime) * 1_000_000_000;
            self.router = (lifetime > 0).then_some((router, until));
        }
    }

    /// The router in use that announced itself.
    pub fn router(&self, now: u64) -> Option<IpAddr> {
        self.router.filter(|r| now < r.1).map(|r| r.0.to_ip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const MAC: Mac = [2, 0, 0, 0, 0, 1];
    const S: u64 = 1_000_000_000;

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn a(s: &str) -> Addr {
        ip(s).into()
    }

    fn host(addrs: &[(&str, u8)], gateways: &[&str]) -> Result<Host, StackError> {
        let cfg = StackConfig {
            addrs: addrs.iter().map(|(s, n)| (ip(s), *n)).collect(),
            gateways: gateways.iter().map(|s| ip(s)).collect(),
            ..StackConfig::new(ip("10.0.0.1"), 24)
        };
        Host::new(&cfg, MAC)
    }

    #[test]
    fn a_link_local_address_comes_with_ipv6_and_only_then() {
        let h = host(&[("10.0.0.1", 24)], &[]).unwrap();
        assert!(!h.v6() && h.own(true).count() == 0 && !h.hears(&Addr::ALL_NODES));
        let h = host(&[("fd00::1", 64)], &[]).unwrap();
        assert_eq!(h.own(true).collect::<Vec<_>>(), [a("fd00::1"), a("fe80::ff:fe00:1")]);
        assert!(h.owns(&a("fe80::ff:fe00:1")) && !h.owns(&a("fd00::2")) && h.own(false).count() == 0);
        for (g, heard) in
            [("ff02::1", true), ("ff02::1:ff00:1", true), ("ff02::1:ff00:2", false), ("ff02::2", false)]
        {
            assert_eq!(h.hears(&a(g)), heard, "{g}");
        }
    }

    #[test]
    fn addresses_come_and_go_and_the_link_local_one_with_those_of_ipv6() {
        let mut h = host(&[("10.0.0.1", 24)], &[]).unwrap();
        h.add(ip("fd00::1"), 64, MAC).unwrap();
        h.add(ip("10.1.0.1"), 16, MAC).unwrap();
        h.add(ip("10.1.0.1"), 8, MAC).unwrap();
        assert_eq!(h.own(true).collect::<Vec<_>>(), [a("fd00::1"), a("fe80::ff:fe00:1")]);
        assert_eq!(h.route(&a("10.1.200.1"), 0), Some(a("10.1.200.1")));
        assert_eq!(h.route(&a("10.2.0.1"), 0), None, "the prefix of an address that is there stays");
        h.remove(ip("fd00::1"), MAC);
        h.remove(ip("10.0.0.1"), MAC);
        assert_eq!((h.v6(), h.own(false).collect::<Vec<_>>()), (false, vec![a("10.1.0.1")]));
        h.remove(ip("10.1.0.1"), MAC);
        assert!(h.own(false).next().is_none() && h.route(&a("10.1.0.2"), 0).is_none());
        for n in 0..ADDRS_MAX as u8 {
            h.add(ip(&format!("fd00::{n:x}1")), 64, MAC).unwrap();
        }
        assert!(h.owns(&a("fe80::ff:fe00:1")));
        let full = h.add(ip("10.0.0.1"), 24, MAC).unwrap_err().to_string();
        let bad = h.add(ip("224.0.0.1"), 24, MAC).unwrap_err().to_string();
        assert!(full.contains("17 addresses") && bad.contains("224.0.0.1/24"), "{full} {bad}");
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (addrs, gateways, want) in [
            (&[("224.0.0.1", 24)][..], &[][..], "224.0.0.1/24"),
            (&[("10.0.0.1", 33)], &[], "10.0.0.1/33"),
            (&[("fd00::1", 129)], &[], "fd00::1/129"),
            (&[("::ffff:10.0.0.1", 64)], &[], "::ffff:10.0.0.1/64"),
            (&[("::1", 64)], &[], "::1/64"),
            (&[], &[], "0 addresses"),
            (&[("10.0.0.1", 24); 17], &[], "17 addresses"),
            (&[("10.0.0.1", 24)], &["10.0.0.2", "10.0.0.3"], "10.0.0.3"),
            (&[("10.0.0.1", 24)], &["ff02::2"], "ff02::2"),
        ] {
            let e = host(addrs, gateways).unwrap_err().to_string();
            assert!(e.contains(want), "{e} does not name {want}");
        }
    }

    #[test]
    fn routes_of_both_families() {
        let h = host(&[("10.0.0.1", 24), ("fd00::1", 64)], &["10.0.0.9", "fe80::9"]).unwrap();
        for (to, hop) in [
            ("10.0.0.7", Some("10.0.0.7")),
            ("192.168.0.1", Some("10.0.0.9")),
            ("fd00::7", Some("fd00::7")),
            ("fd01::7", Some("fe80::9")),
            ("fe80::7", Some("fe80::7")),
            ("fe80:1::7", None),
        ] {
            assert_eq!(h.route(&a(to), 0), hop.map(a), "{to}");
        }
        assert!(h.is_broadcast(&a("10.0.0.255")) && !h.is_broadcast(&a("10.0.1.255")));
        assert_eq!(h.asks_from(&a("fd00::7")), Some(a("fd00::1")));
        assert_eq!(h.asks_from(&a("fe80::7")), Some(a("fe80::ff:fe00:1")));
        assert_eq!(h.asks_from(&a("10.0.9.9")), Some(a("10.0.0.1")));
    }

    #[test]
    fn a_router_is_used_until_it_retires_and_only_without_a_gateway() {
        let mut h = host(&[("fd00::1", 64)], &[]).unwrap();
        let to = a("fd01::7");
        assert_eq!(h.route(&to, 0), None);
        h.on_router(a("fd00::9"), 100, 0);
        assert_eq!(h.route(&to, 0), None, "routers speak from link-local addresses");
        h.on_router(a("fe80::9"), 100, 0);
        h.on_router(a("fe80::a"), 100, 0);
        assert_eq!((h.route(&to, 99 * S), h.router(0)), (Some(a("fe80::9")), Some(ip("fe80::9"))));
        assert_eq!(h.route(&to, 100 * S), None);
        h.on_router(a("fe80::a"), 100, 100 * S);
        h.on_router(a("fe80::9"), 0, 101 * S);
        assert_eq!(h.route(&to, 101 * S), Some(a("fe80::a")), "another's farewell");
        h.on_router(a("fe80::a"), 0, 101 * S);
        assert_eq!(h.route(&to, 101 * S), None);
        let mut h = host(&[("fd00::1", 64)], &["fe80::1"]).unwrap();
        h.on_router(a("fe80::9"), 100, 0);
        assert_eq!((h.route(&to, 0), h.wants_router()), (Some(a("fe80::1")), false));
    }
}
