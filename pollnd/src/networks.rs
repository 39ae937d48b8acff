//! Networks of a node: its ports as the command line has them, the addresses on each, and those that no machine there has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use transport::wire::Nid;

use crate::args::{CarrierArg, NodeArgs, Use};
use crate::{iface, units};

/// Most ports of a node.
const PORTS_MAX: usize = transport::node::PORTS_MAX;

/// A port as the command line has it.
#[derive(Debug)]
#[cfg_attr(not(feature = "dpdk"), allow(dead_code, reason = "who opens ports needs all of it"))]
pub(crate) struct Asked<'a> {
    /// Its place among the ports, for [`of`].
    pub(crate) place: usize,
    /// PCI address, name, or virtual device with its arguments.
    pub(crate) device: &'a str,
    /// NIs on it, the node's order.
    pub(crate) nids: Vec<Nid>,
    prefix: Option<u8>,
    /// Router.
    pub(crate) gateway: Option<IpAddr>,
}

/// The value that `all`, of an option with one for all ports or one for each, has for the port at `place`.
pub(crate) fn of<T: Copy>(all: &[T], place: usize) -> Option<T> {
    match all {
        [one] => Some(*one),
        _ => all.get(place).copied(),
    }
}

/// Bits of the network's prefix where nothing is said of them, by the address family.
fn usual_prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv6() { 64 } else { 24 }
}

impl Asked<'_> {
    /// Addresses of its NIs, each once.
    #[cfg_attr(not(feature = "dpdk"), allow(dead_code, reason = "who opens ports needs all of it"))]
    pub(crate) fn ips(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = Vec::new();
        for ip in self.nids.iter().filter_map(|n| n.ip()) {
            if !all.contains(&ip) {
                all.push(ip);
            }
        }
        all
    }

    /// An address of its NIs, and that NI, of the family of `ip`.
    fn like(&self, ip: IpAddr) -> Option<(Nid, IpAddr)> {
        let all = self.nids.iter().filter_map(|n| Some((*n, n.ip()?)));
        all.into_iter().find(|(_, own)| own.is_ipv6() == ip.is_ipv6())
    }

    /// Bits of the prefix of the network of its address `ip`: what was said holds for the family of the first one.
    pub(crate) fn prefix(&self, ip: IpAddr) -> u8 {
        let said = self.said(ip);
        said.unwrap_or(usual_prefix(ip))
    }

    fn said(&self, ip: IpAddr) -> Option<u8> {
        let first = self.nids.first().and_then(|n| n.ip());
        self.prefix.filter(|_| first.is_some_and(|f| f.is_ipv6() == ip.is_ipv6()))
    }

    /// Fault of an address in its network.
    fn in_network(&self, ip: IpAddr) -> Option<String> {
        let (IpAddr::V4(v4), Some((_, IpAddr::V4(own)))) = (ip, self.like(ip)) else { return None };
        let prefix = self.prefix(ip);
        // RFC 3021: a network of two, or of one, has no addresses but machines'.
        if !(1..=30).contains(&prefix) {
            return None;
        }
        let mask = u32::MAX << (32 - prefix);
        if u32::from(v4) & mask != u32::from(own) & mask {
            return None;
        }
        let what = match u32::from(v4) & !mask {
            0 => "the address of the network itself",
            host if host == !mask => "the broadcast address of the network",
            _ => return None,
        };
        let network = self.network(IpAddr::V4(own));
        Some(format!("it is {what} {network}: give the address of one machine, or the prefix that is right"))
    }

    /// The network of its address `own`, in words.
    fn network(&self, own: IpAddr) -> String {
        let prefix = self.prefix(own);
        let usual = if self.said(own).is_none() { ", as nothing else is said" } else { "" };
        let first = match masked(own, prefix) {
            (n, 32) => IpAddr::V4(Ipv4Addr::from_bits(n as u32)),
            (n, _) => IpAddr::V6(Ipv6Addr::from_bits(n)),
        };
        format!("{first}/{prefix} (--prefix {prefix}{usual})")
    }

    /// Reason why `g` cannot be its router, where `all` are the node's NIs.
    fn no_router(&self, all: &[Nid], g: IpAddr) -> Option<String> {
        let first = self.nids.first()?;
        if g.is_unspecified() || g.is_multicast() || g.is_loopback() || g == Ipv4Addr::BROADCAST {
            return Some(format!("no router has this address; give its address in the network of {first}"));
        }
        let Some((nid, own)) = self.like(g) else {
            return Some(format!("it has to be of the address family of {first}"));
        };
        if let Some(nid) = all.iter().find(|n| n.ip() == Some(g)) {
            return Some(format!("it is this node's own address, of {nid}; give that of the router"));
        }
        // IPv6 routers are known by these, whatever the network is.
        if matches!(g, IpAddr::V6(v) if v.is_unicast_link_local()) {
            return None;
        }
        let prefix = self.prefix(own);
        if masked(g, prefix) == masked(own, prefix) {
            return self.in_network(g);
        }
        let link_local = if g.is_ipv6() { ", or its link-local address (fe80::...)" } else { "" };
        Some(format!(
            "it is outside of the network of {nid}, {}, so there is no way to it; give the router's address in that network\
             {link_local}, or the prefix of a network that has both",
            self.network(own)
        ))
    }
}

/// The bits of an address that its network has, and how many an address has.
fn masked(ip: IpAddr, prefix: u8) -> (u128, u8) {
    let (n, bits) = match ip {
        IpAddr::V4(v) => (u32::from(v).into(), 32),
        IpAddr::V6(v) => (u128::from(v), 128),
    };
    let host = bits - prefix.min(bits);
    (n.checked_shr(host.into()).unwrap_or(0).checked_shl(host.into()).unwrap_or(0), bits)
}

/// The NIs of `a`, the primary one first.
pub(crate) fn nids(a: &NodeArgs) -> Vec<Nid> {
    [a.nid].into_iter().chain(a.ni.iter().copied()).collect()
}

/// Number of the ports of `a`.
pub(crate) fn count(a: &NodeArgs) -> usize {
    a.port.len() + a.vdev.len()
}

/// The place of the port of each NI of `a`, which has `ports` of them.
fn places(a: &NodeArgs, ports: usize) -> Result<Vec<usize>, String> {
    let nids = nids(a);
    let said = || a.ni_ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    if !a.ni_ports.is_empty() && a.ni_ports.len() != nids.len() {
        return Err(format!(
            "--ni-ports {}: {} for {}: name the port of each, in the order of --nid and --ni, from 0 on",
            said(),
            units::many(a.ni_ports.len() as u64, "place"),
            units::many(nids.len() as u64, "NI")
        ));
    }
    if let Some(p) = a.ni_ports.iter().find(|p| usize::from(**p) >= ports) {
        return Err(format!(
            "--ni-ports {}: there is no port {p}: they are numbered from 0 to {}",
            said(),
            ports - 1
        ));
    }
    let mut known: Vec<Option<IpAddr>> = Vec::new();
    let mut all: Vec<usize> = Vec::new();
    for (i, nid) in nids.iter().enumerate() {
        let ip = nid.ip();
        let new = known.len();
        let nth = known.iter().position(|k| *k == ip).unwrap_or(new);
        if nth == new {
            known.push(ip);
        }
        let place = match a.ni_ports.get(i) {
            Some(p) => usize::from(*p),
            None if ports == 1 => 0,
            None => nth,
        };
        let before = nids[..i].iter().position(|n| n.ip() == ip);
        if let Some(b) = before.filter(|b| all[*b] != place) {
            return Err(format!(
                "--ni-ports {}: {} and {nid} have one address, and an address is on one port: give them the same",
                said(),
                nids[b]
            ));
        }
        all.push(place);
    }
    if a.ni_ports.is_empty() && ports > 1 && known.len() != ports {
        return Err(format!(
            "{} addresses of NIs for {ports} ports: each port takes one, in the order of --nid and --ni; or name the port of \
             each NI with --ni-ports, such as --ni-ports 0,0,1",
            known.len()
        ));
    }
    Ok(all)
}

/// The NIs of `a`, each with the place of its port: 0 on kernel sockets.
///
/// # Errors
/// As [`ports`].
pub(crate) fn with_places(a: &NodeArgs) -> Result<Vec<(Nid, usize)>, String> {
    let ports = if on_port(a) { ports(a)? } else { Vec::new() };
    let place = |nid: &Nid| ports.iter().find(|p| p.nids.contains(nid)).map_or(0, |p| p.place);
    Ok(nids(a).into_iter().map(|nid| (nid, place(&nid))).collect())
}

/// The ports of `a`, each of which has an NI when the node starts.
///
/// # Errors
/// A port without one; as [`ports`].
#[cfg_attr(not(feature = "dpdk"), allow(dead_code, reason = "who opens ports needs all of it"))]
pub(crate) fn asked(a: &NodeArgs) -> Result<Vec<Asked<'_>>, String> {
    let all = ports(a)?;
    let fault = all.iter().find_map(|p| empty(p, a));
    fault.map_or(Ok(all), Err)
}

/// The ports of `a`.
///
/// # Errors
/// There is none, one is there twice, an option has values for another number of ports, NIs and ports do not go together.
pub(crate) fn ports(a: &NodeArgs) -> Result<Vec<Asked<'_>>, String> {
    let devices = devices(a)?;
    if let Some((_, e)) = lists(a, devices.len()).next() {
        return Err(e);
    }
    let all = with_nis(a, devices)?;
    let fault = all.iter().find_map(overlong);
    fault.map_or(Ok(all), Err)
}

/// Names of the ports of `a`.
fn devices(a: &NodeArgs) -> Result<Vec<&str>, String> {
    let devices: Vec<&str> = a.port.iter().chain(&a.vdev).map(String::as_str).collect();
    if devices.is_empty() {
        return Err("--carrier dpdk needs --port (a PCI address) or --vdev (such as net_tap0)".into());
    }
    if devices.len() > PORTS_MAX {
        return Err(format!(
            "{} ports: a node has up to {PORTS_MAX}; run a second node for more",
            devices.len()
        ));
    }
    if let Some((i, d)) = devices.iter().enumerate().find(|(i, d)| devices[..*i].contains(d)) {
        let flag = if i < a.port.len() { "--port" } else { "--vdev" };
        return Err(format!("{flag} {d}: it is named twice; leave one of them out"));
    }
    Ok(devices)
}

/// Options of `a` with values for another number of ports than `ports`, each with its fault.
fn lists(a: &NodeArgs, ports: usize) -> impl Iterator<Item = (&'static str, String)> {
    let all = [
        ("--prefix", a.prefix.len()),
        ("--gateway", a.gateway.len()),
        ("--vlan", a.vlan.len()),
        ("--mtu", a.mtu.len()),
        ("--tso", a.tso.len()),
        ("--tx-csum", a.tx_csum.len()),
        ("--rx-csum", a.rx_csum.len()),
        ("--lro", a.lro.len()),
        ("--rss", a.rss.len()),
    ];
    all.into_iter().filter(move |(_, n)| *n > 1 && *n != ports).map(move |(flag, n)| {
        let there = if ports == 1 { "is 1 port".to_owned() } else { format!("are {ports} ports") };
        let remedy = "give one for all, or one for each, in the order of --port and --vdev";
        (flag, format!("{flag} with {n} values: there {there}; {remedy}"))
    })
}

/// The ports of `a` of these names, with their NIs.
fn with_nis<'a>(a: &NodeArgs, devices: Vec<&'a str>) -> Result<Vec<Asked<'a>>, String> {
    let places = places(a, devices.len())?;
    let nids = nids(a);
    let port = |(place, device)| {
        let own = nids.iter().zip(&places).filter(|(_, p)| **p == place).map(|(n, _)| *n).collect();
        let prefix = of(&a.prefix, place).flatten();
        Asked { place, device, nids: own, prefix, gateway: of(&a.gateway, place).flatten() }
    };
    Ok(devices.into_iter().enumerate().map(port).collect())
}

/// Fault of a prefix that is longer than an address.
fn overlong(p: &Asked<'_>) -> Option<String> {
    let (nid, ip) = p.nids.first().and_then(|n| Some((n, n.ip()?)))?;
    let most = if ip.is_ipv6() { 128 } else { 32 };
    let bits = p.prefix(ip);
    (bits > most).then(|| format!("--prefix {bits}: the network of {nid} has a prefix of 1 to {most} bits"))
}

/// Fault of a port without an NI.
fn empty(p: &Asked<'_>, a: &NodeArgs) -> Option<String> {
    p.nids.is_empty().then(|| {
        let said = a.ni_ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        format!("--ni-ports {said}: port {} has no NI: give it one with --ni, or leave the port out", p.place)
    })
}

/// Text about each NI on a port of its own whose LNet network an NI of an earlier port has, too, on another network of addresses.
#[cfg_attr(not(feature = "dpdk"), allow(dead_code, reason = "who opens ports warns"))]
pub(crate) fn shared(all: &[Asked<'_>]) -> Vec<String> {
    let pairs = all.iter().enumerate().flat_map(|(i, b)| all[..i].iter().map(move |a| (a, b)));
    let nids =
        pairs.flat_map(|(a, b)| a.nids.iter().flat_map(move |x| b.nids.iter().map(move |y| (a, *x, b, *y))));
    let fault = |(a, x, b, y): (&Asked<'_>, Nid, &Asked<'_>, Nid)| {
        let (at, ip) = (x.ip()?, y.ip()?);
        let other = masked(at, a.prefix(at)) != masked(ip, b.prefix(ip));
        (x.same_net(y) && at.is_ipv6() == ip.is_ipv6() && other).then(|| {
            format!(
                "{x} and {y} are of one LNet network on two ports: peers are dialled from {x} alone, so those in {} are not found unless \
                 they dial; give {y} an LNet network of its own, such as @tcp7",
                b.network(ip)
            )
        })
    };
    nids.filter_map(fault).collect()
}

/// The place of the port for an NI of `ip` that a running node of these arguments is to have besides its own: the port that `name` names, or
/// that has the address, or whose network it is in, or the only one. 0 on kernel sockets.
///
/// # Errors
/// None of these.
pub(crate) fn place_for(a: &NodeArgs, name: Option<&str>, ip: IpAddr) -> Result<usize, String> {
    if !on_port(a) {
        return Ok(0);
    }
    let all = ports(a)?;
    let same = |own: IpAddr, p: &Asked<'_>| {
        own.is_ipv4() == ip.is_ipv4() && masked(own, p.prefix(own)) == masked(ip, p.prefix(own))
    };
    let within = || all.iter().find(|p| p.nids.iter().filter_map(|n| n.ip()).any(|own| same(own, p)));
    let found = name.and_then(|n| named(&all, n)).or_else(|| of_address(&all, ip)).or_else(within);
    found.map(|p| p.place).ok_or_else(|| {
        format!(
            "{ip}: it is in the network of none of {}: name its port, as `interfaces: 0: DEVICE` of the NI",
            devices_of(&all)
        )
    })
}

/// The port of a name: the device, or what stands before its arguments.
pub(crate) fn named<'p, 'a>(all: &'p [Asked<'a>], name: &str) -> Option<&'p Asked<'a>> {
    let short = |p: &&Asked<'_>| p.device.split(',').next() == Some(name);
    all.iter().find(|p| p.device == name).or_else(|| all.iter().find(short))
}

/// The port that has the address, or the only one.
pub(crate) fn of_address<'p, 'a>(all: &'p [Asked<'a>], ip: IpAddr) -> Option<&'p Asked<'a>> {
    let has = all.iter().find(|p| p.nids.iter().any(|n| n.ip() == Some(ip)));
    has.or(if let [only] = all { Some(only) } else { None })
}

/// Names of ports, for those who choose one.
pub(crate) fn devices_of(all: &[Asked<'_>]) -> String {
    all.iter().map(|p| p.device).collect::<Vec<_>>().join(", ")
}

/// Whether the node is on ports, and not on kernel sockets.
pub(crate) fn on_port(a: &NodeArgs) -> bool {
    let named = !(a.port.is_empty() && a.vdev.is_empty());
    a.carrier.map_or(named, |c| c == CarrierArg::Dpdk)
}

/// Whether `a`, of a node on kernel sockets, has what such a node can have.
///
/// # Errors
/// An option of ports, by name.
pub(crate) fn without_port(a: &NodeArgs) -> Result<(), String> {
    match a.given().find(|o| o.1 == Use::Port) {
        Some((what, _)) => {
            Err(format!("{what}: for DPDK ports only; leave it out, or give --port or --vdev"))
        }
        None => Ok(()),
    }
}

/// Whether the addresses of `a` are those of machines.
///
/// # Errors
/// The first of [`faults`].
pub(crate) fn addresses(a: &NodeArgs) -> Result<(), String> {
    faults(a).into_iter().next().map_or(Ok(()), Err)
}

/// All that is wrong with the ports of `a` and with its addresses, each of which should be a machine's.
pub(crate) fn faults(a: &NodeArgs) -> Vec<String> {
    let (nids, on_port) = (nids(a), on_port(a));
    let (mut all, mut ports) = (Vec::new(), Vec::new());
    if on_port {
        let found = devices(a).and_then(|devices| {
            let unequal: Vec<_> = lists(a, devices.len()).collect();
            // With another number of these nobody can tell which is whose.
            let known = !unequal.iter().any(|(flag, _)| ["--prefix", "--gateway"].contains(flag));
            all.extend(unequal.into_iter().map(|(_, e)| e));
            Ok((with_nis(a, devices)?, known))
        });
        match found {
            Ok((found, known)) => {
                all.extend(found.iter().filter_map(|p| empty(p, a)));
                if known {
                    all.extend(found.iter().filter_map(overlong));
                    ports = found;
                }
            }
            Err(e) => all.push(e),
        }
    }
    for (i, nid) in nids.iter().enumerate() {
        let flag = if i == 0 { "--nid" } else { "--ni" };
        let own = ports.iter().filter(|p| p.nids.contains(nid));
        let fault = nid.ip().and_then(|ip| machine(on_port, own, ip).err());
        all.extend(fault.map(|e| format!("{flag} {nid}: {e}")));
    }
    for p in &ports {
        let fault = p.gateway.and_then(|g| Some((g, p.no_router(&nids, g)?)));
        all.extend(fault.map(|(g, e)| format!("--gateway {g}: {e}")));
    }
    all
}

/// Whether `target` can be the NID of a machine that `a` asks.
///
/// # Errors
/// Its real kind.
pub(crate) fn target(a: &NodeArgs, target: Nid) -> Result<(), String> {
    let Some(ip) = target.ip().filter(|_| target != a.nid) else { return Ok(()) };
    // Behind a router any address may be a machine's.
    if a.route.iter().any(|r| r.net == target.net()) {
        return Ok(());
    }
    let on_port = on_port(a);
    // Of a node that runs a port may have lost its last NI.
    let ports = if on_port { ports(a)? } else { Vec::new() };
    machine(on_port, ports.iter(), ip).map_err(|e| format!("{target}: {e}"))
}

/// Whether the address of an NI that a node of `a`, which runs, is to have is a machine's.
///
/// # Errors
/// Its real kind.
pub(crate) fn one_more(a: &NodeArgs, nid: Nid, place: usize) -> Result<(), String> {
    let Some(ip) = nid.ip() else { return Ok(()) };
    let on_port = on_port(a);
    let ports = if on_port { ports(a)? } else { Vec::new() };
    machine(on_port, ports.iter().filter(|p| p.place == place), ip).map_err(|e| format!("{nid}: {e}"))
}

fn machine<'a>(
    on_port: bool,
    mut ports: impl Iterator<Item = &'a Asked<'a>>,
    ip: IpAddr,
) -> Result<(), String> {
    if !on_port {
        return match iface::is_broadcast(ip) {
            true => Err(
                "it is a broadcast address, of a network of this machine; give the address of one machine"
                    .into(),
            ),
            false => Ok(()),
        };
    }
    if ip.is_loopback() {
        return Err(
            "a loopback address never leaves its machine; give an address of the port's network".into()
        );
    }
    ports.find_map(|p| p.in_network(ip)).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    use crate::args::{Cli, Command};

    /// Field report 15: addresses that are wrong by the network, not by themselves.
    #[test]
    fn addresses_that_no_machine_of_the_network_has_are_named() {
        let node = |nid: &str, more: &[&str]| {
            let c = Cli::try_parse_from([&["pollnd", "node", "--nid", nid], more].concat()).unwrap();
            let Command::Node(n) = c.command else { panic!("not node") };
            NodeArgs { nid: n.nid, ..n.node }
        };
        let port =
            |nid: &str, more: &[&str]| addresses(&node(nid, &[more, &["--vdev", "net_ring0"]].concat()));
        let own = |nid: &str| port(nid, &[]).unwrap_err();
        assert_eq!(
            own("10.0.0.255@tcp"),
            "--nid 10.0.0.255@tcp: it is the broadcast address of the network 10.0.0.0/24 (--prefix 24, as nothing else \
             is said): give the address of one machine, or the prefix that is right"
        );
        assert!(own("10.0.0.0@tcp").contains("the address of the network itself 10.0.0.0/24"));
        assert!(own("127.0.0.1@tcp").contains("loopback") && own("::1@tcp").contains("loopback"));
        for (nid, prefix) in [("10.0.0.255", "16"), ("10.0.0.0", "31"), ("10.0.0.1", "32"), ("10.0.0.7", "1")]
        {
            port(nid, &["--prefix", prefix]).unwrap();
        }
        port("10.0.0.1@tcp", &["--gateway", "10.0.0.254"]).unwrap();
        port("fd00::1@tcp", &["--gateway", "fe80::1"]).unwrap();
        // Field report 15: a router that no packet could reach.
        let gateway = |nid: &str, more: &[&str], g: &str| port(nid, &[more, &["--gateway", g]].concat());
        assert_eq!(
            gateway("10.0.0.1@tcp", &[], "10.0.1.254").unwrap_err(),
            "--gateway 10.0.1.254: it is outside of the network of 10.0.0.1@tcp, 10.0.0.0/24 (--prefix 24, as nothing else is \
             said), so there is no way to it; give the router's address in that network, or the prefix of a network that has both"
        );
        gateway("10.0.0.1@tcp", &["--prefix", "23"], "10.0.1.254").unwrap();
        gateway("10.0.0.1@tcp", &["--prefix", "1"], "99.0.1.254").unwrap();
        gateway("fd00::1@tcp", &[], "fd00::ffff").unwrap();
        for (nid, more, g, says) in [
            ("10.0.0.1@tcp", &["--prefix", "32"][..], "10.0.0.2", "10.0.0.1/32 (--prefix 32)"),
            ("10.0.0.1@tcp", &[], "10.0.0.1", "this node's own address"),
            ("10.0.0.1@tcp", &["--ni", "10.0.0.7@tcp1"], "10.0.0.7", "own address, of 10.0.0.7@tcp1"),
            ("10.0.0.1@tcp", &[], "10.0.0.255", "the broadcast address of the network"),
            ("10.0.0.1@tcp", &[], "10.0.0.0", "the address of the network itself"),
            ("fd00::1@tcp", &[], "fd00::1", "this node's own address"),
            ("fd00::1@tcp", &[], "fd00:0:0:1::1", "link-local address (fe80::...)"),
            ("fd00::1@tcp", &["--prefix", "128"], "fd00::2", "fd00::1/128"),
        ] {
            let e = gateway(nid, more, g).unwrap_err();
            assert!(e.starts_with(&format!("--gateway {g}: ")) && e.contains(says), "{e}");
        }
        for gateway in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "127.0.0.1", "::"] {
            let e = port("10.0.0.1@tcp", &["--gateway", gateway]).unwrap_err();
            assert!(e.starts_with(&format!("--gateway {gateway}: no router")), "{e}");
        }
        let ask = |on: &[&str], nid: &str| target(&node("10.0.0.1@tcp", on), nid.parse().unwrap());
        let port = &["--port", "0000:03:00.0"];
        assert!(ask(port, "10.0.0.255@tcp").unwrap_err().starts_with("10.0.0.255@tcp: it is the broadcast"));
        assert!(ask(port, "127.0.0.1@tcp").unwrap_err().contains("loopback"));
        for good in ["10.0.0.2@tcp", "10.0.1.255@tcp", "10.0.0.1@tcp", "fd00::1@tcp"] {
            ask(port, good).unwrap();
        }
        // Over kernel sockets loopback is a network like any other, and the kernel knows the prefixes.
        addresses(&node("127.0.0.1@tcp", &[])).unwrap();
        ask(&[], "127.0.0.1@tcp").unwrap();
    }

    fn node(words: &[&str]) -> NodeArgs {
        let c = Cli::try_parse_from([&["pollnd", "node"], words].concat()).unwrap();
        let Command::Node(n) = c.command else { panic!("not node") };
        NodeArgs { nid: n.nid, ..n.node }
    }

    /// Each port's NIs, prefix of its first address, gateway and MTU, as far as said.
    fn told(words: &str) -> Result<Vec<String>, String> {
        let words: Vec<_> = words.split_whitespace().collect();
        let a = node(&words);
        addresses(&a)?;
        let port = |p: &Asked<'_>| {
            let nids: Vec<_> = p.nids.iter().map(ToString::to_string).collect();
            let prefix = p.ips().first().map(|ip| p.prefix(*ip));
            let mtu = of(&a.mtu, p.place).flatten();
            format!("{} {} {prefix:?} {:?} {mtu:?}", p.device, nids.join("+"), p.gateway)
        };
        Ok(asked(&a)?.iter().map(port).collect())
    }

    #[test]
    fn ports_take_addresses_in_their_order_or_as_they_are_told() {
        let two = "--port 0000:03:00.0 --vdev net_tap0";
        assert_eq!(
            told(&format!(
                "--nid 10.0.0.1 --ni 10.0.0.1@tcp1 --ni 10.1.0.1@tcp2 {two} --mtu 9000,default --prefix 24,16 \
                 --gateway default,10.1.255.254"
            ))
            .unwrap(),
            [
                "0000:03:00.0 10.0.0.1@tcp+10.0.0.1@tcp1 Some(24) None Some(9000)",
                "net_tap0 10.1.0.1@tcp2 Some(16) Some(10.1.255.254) None",
            ]
        );
        assert_eq!(
            told(&format!(
                "--nid 10.0.0.1 --ni fd00::1 --ni 10.1.0.1@tcp1 {two} --ni-ports 1,1,0 --mtu 4000"
            ))
            .unwrap(),
            [
                "0000:03:00.0 10.1.0.1@tcp1 Some(24) None Some(4000)",
                "net_tap0 10.0.0.1@tcp+fd00::1@tcp Some(24) None Some(4000)",
            ]
        );
        for (words, says) in [
            ("--nid 10.0.0.1", "1 addresses of NIs for 2 ports"),
            ("--nid 10.0.0.1 --ni 10.0.0.2 --ni 10.0.0.3", "--ni-ports 0,0,1"),
            ("--nid 10.0.0.1 --ni 10.1.0.1 --mtu 1500,1500,1500", "--mtu with 3 values: there are 2 ports"),
            ("--nid 10.0.0.1 --ni 10.1.0.1 --vdev net_tap0", "--vdev net_tap0: it is named twice"),
            ("--nid 10.0.0.1 --ni 10.1.0.1 --ni-ports 0", "--ni-ports 0: 1 place for 2 NIs"),
            ("--nid 10.0.0.1 --ni 10.1.0.1 --ni-ports 0,2", "--ni-ports 0,2: there is no port 2"),
            ("--nid 10.0.0.1 --ni 10.1.0.1 --ni-ports 0,0", "--ni-ports 0,0: port 1 has no NI"),
            (
                "--nid 10.0.0.1 --ni 10.0.0.1@tcp1 --ni 10.1.0.1 --ni-ports 0,1,1",
                "10.0.0.1@tcp and 10.0.0.1@tcp1 have one address",
            ),
            // Each is judged by the network of its own port.
            (
                "--nid 10.0.0.1 --ni 10.1.0.255 --prefix 24,16 --gateway 10.0.0.9",
                "--gateway 10.0.0.9: it is outside",
            ),
            ("--nid 10.0.0.1 --ni 10.1.255.255 --prefix 24,16", "--ni 10.1.255.255@tcp: it is the broadcast"),
            ("--nid 10.0.0.1 --ni fd00::1 --prefix 64", "--prefix 64: the network of 10.0.0.1@tcp"),
            (
                "--nid 10.0.0.1 --ni fd00::1 --gateway fd00::2",
                "--gateway fd00::2: it has to be of the address family",
            ),
        ] {
            let e = told(&format!("{words} {two}")).unwrap_err();
            assert!(e.contains(says), "{words}: {e}");
        }
        let shared = |words: &str| {
            let words = format!("{words} {two}");
            shared(&asked(&node(&words.split_whitespace().collect::<Vec<_>>())).unwrap())
        };
        let told = shared("--nid 10.0.0.1 --ni 10.1.0.1");
        assert!(told.len() == 1 && told[0].contains("those in 10.1.0.0/24"), "{told:?}");
        for good in ["10.1.0.1@tcp1", "10.0.0.2", "fd00::1"] {
            assert!(shared(&format!("--nid 10.0.0.1 --ni {good}")).is_empty(), "{good}");
        }
        let ask = |t: &str| {
            let words = format!("--nid 10.0.0.1 --ni 10.1.0.1 --prefix 24,16 {two}");
            target(&node(&words.split_whitespace().collect::<Vec<_>>()), t.parse().unwrap())
        };
        assert!(ask("10.1.255.255@tcp").is_err() && ask("10.0.0.255@tcp").is_err());
        ask("10.1.0.255@tcp").unwrap();
    }
}
