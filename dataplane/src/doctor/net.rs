//! Network interfaces as this process may see them: which carry a default route, also by way of bridges, bonds and
//! VLANs, and which belong to another network namespace than ours.
//!
//! /proc/net is of the namespace of the process, /sys/class/net of that in which /sys was mounted: with `unshare -n` or
//! `nsenter --net` they are not the same, and an interface in /sys may be somebody else's.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use super::{names, routes, text};

/// An interface of our own namespace. Parts that are not known are not compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) name: String,
    pub(super) index: Option<u32>,
    /// Its link address, `52:54:00:12:34:56`.
    pub(super) mac: Option<String>,
    /// Its IP addresses, but for those of the link alone.
    pub(super) addresses: Vec<IpAddr>,
}

/// Interfaces with an IPv4 or IPv6 default route. `root` is `/` but for tests.
pub fn default_route_ifaces(root: &Path) -> Vec<String> {
    let mut v = Vec::new();
    // Iface, destination, gateway, flags, ..., mask as the eighth word: 0/0 is the default route. 0/1 and 128/1 are what
    // VPNs put over it.
    let whole = |dest: &str, mask: &str| {
        dest == "00000000" && mask == "00000000"
            || matches!(dest, "00000000" | "00000080") && mask == "00000080"
    };
    for l in text(&root.join("proc/net/route")).unwrap_or_default().lines().skip(1) {
        let w: Vec<_> = l.split_whitespace().collect();
        if w.len() > 7 && w[0] != "*" && whole(w[1], w[7]) {
            v.push(w[0].to_owned());
        }
    }
    // Destination, its length, ..., interface last. Flag 0x200 (RTF_REJECT) is the kernel's own "unreachable". 2000::/3
    // is all that is routed in the Internet.
    let whole = |dest: &str, len: &str| match len {
        "00" => dest.bytes().all(|b| b == b'0'),
        "01" => dest.get(1..).is_some_and(|d| d.bytes().all(|b| b == b'0')),
        "03" => dest.starts_with('2') && dest.get(1..).is_some_and(|d| d.bytes().all(|b| b == b'0')),
        _ => false,
    };
    for l in text(&root.join("proc/net/ipv6_route")).unwrap_or_default().lines() {
        let w: Vec<_> = l.split_whitespace().collect();
        if let [dest, len, .., flags, iface] = w[..]
            && whole(dest, len)
            && u32::from_str_radix(flags, 16).is_ok_and(|f| f & 0x200 == 0)
            && iface != "lo"
        {
            v.push(iface.to_owned());
        }
    }
    // The kernel itself knows more; the files are what a tree has.
    if root == Path::new("/") {
        v.extend(numbered(own().unwrap_or_default(), &routes::interfaces().unwrap_or_default()));
    }
    v.sort();
    v.dedup();
    v
}

/// Names of the interfaces with these numbers, but for loopback's.
fn numbered(own: Vec<Own>, by: &[u32]) -> impl Iterator<Item = String> {
    own.into_iter().filter(|o| o.name != "lo" && o.index.is_some_and(|i| by.contains(&i))).map(|o| o.name)
}

/// The NUMA node of the device behind an interface, also by way of bridges, bonds and VLANs. `root` is `/` but for tests.
pub fn iface_node(root: &Path, iface: &str) -> Option<u32> {
    let mut seen = vec![iface.to_owned()];
    let mut at = 0;
    while let Some(i) = seen.get(at).cloned() {
        // -1 where the machine has no nodes.
        if let Some(n) = text(&class(root, &i).join("device/numa_node")).and_then(|n| n.parse().ok()) {
            return Some(n);
        }
        for l in lower(root, &i) {
            if !seen.contains(&l) {
                seen.push(l);
            }
        }
        at += 1;
    }
    None
}

fn class(root: &Path, iface: &str) -> PathBuf {
    root.join("sys/class/net").join(iface)
}

/// Interfaces whose packets `iface` sends: what a VLAN, bond, bridge, team or macvlan sits on.
fn lower(root: &Path, iface: &str) -> Vec<String> {
    let dir = class(root, iface);
    let mut v: Vec<String> =
        names(&dir).iter().filter_map(|n| n.strip_prefix("lower_")).map(str::to_owned).collect();
    v.extend(names(&dir.join("brif")));
    let slaves = text(&dir.join("bonding/slaves")).unwrap_or_default();
    v.extend(slaves.split_whitespace().map(str::to_owned));
    // An internal port of Open vSwitch has nothing below it: it and the NICs are all ports of the switch.
    let master = std::fs::read_link(dir.join("master")).ok();
    let master = master.and_then(|m| Some(m.file_name()?.to_str()?.to_owned()));
    v.extend(master.filter(|m| m.starts_with("ovs-") && m != iface));
    v.sort();
    v.dedup();
    v
}

/// The interfaces and default routes of this process's network namespace.
pub struct Net {
    /// `None`: nothing tells them, and /sys is believed.
    own: Option<Vec<Own>>,
    /// Devices that carry a default route, and the interface by way of which they do: none for those that have it themselves.
    carriers: BTreeMap<String, Option<String>>,
    root: PathBuf,
}

impl Net {
    /// Reads it. `root` is `/` but for tests.
    pub fn read(root: &Path) -> Net {
        let own = if root == Path::new("/") { own() } else { listed(root) };
        Net::of(root, own, default_route_ifaces(root))
    }

    /// Of these interfaces of our own, of which `routed` have a default route.
    fn of(root: &Path, own: Option<Vec<Own>>, routed: Vec<String>) -> Net {
        let mut carriers: BTreeMap<String, Option<String>> = routed.into_iter().map(|i| (i, None)).collect();
        let mut net = Net { own, carriers: BTreeMap::new(), root: root.to_owned() };
        let mut todo: Vec<String> = carriers.keys().cloned().collect();
        while let Some(i) = todo.pop() {
            // Of another namespace by the same name: what is below it is not below ours.
            if !net.sees(&i) {
                continue;
            }
            for l in lower(root, &i) {
                if !carriers.contains_key(&l) {
                    carriers.insert(l.clone(), Some(i.clone()));
                    todo.push(l);
                }
            }
        }
        net.carriers = carriers;
        net
    }

    /// Whether the interface of that name in /sys is one of our own namespace.
    pub fn sees(&self, iface: &str) -> bool {
        let Some(own) = &self.own else { return true };
        let dir = class(&self.root, iface);
        let index = text(&dir.join("ifindex")).and_then(|n| n.parse::<u32>().ok());
        let mac = text(&dir.join("address"));
        let index_differs = |o: &Own| o.index.zip(index).is_some_and(|(a, b)| a != b);
        let mac_differs = |o: &Own| o.mac.as_ref().zip(mac.as_ref()).is_some_and(|(a, b)| a != b);
        own.iter().any(|o| o.name == iface && !index_differs(o) && !mac_differs(o))
    }

    /// Whether our own namespace has an interface of that name, as far as can be told.
    pub fn has(&self, iface: &str) -> bool {
        self.own.as_ref().is_none_or(|own| own.iter().any(|o| o.name == iface))
    }

    /// IP addresses that an interface of our own namespace has itself, but for those of the link alone (fe80::).
    pub fn addresses(&self, iface: &str) -> &[IpAddr] {
        let own = self.own.as_deref().unwrap_or_default();
        own.iter().find(|o| o.name == iface).map_or(&[], |o| &o.addresses)
    }

    /// Interfaces that send through `iface`: the bridge or bond that it is part of, its VLANs.
    pub fn above(&self, iface: &str) -> Vec<String> {
        let dir = class(&self.root, iface);
        let mut v: Vec<String> =
            names(&dir).iter().filter_map(|n| n.strip_prefix("upper_")).map(str::to_owned).collect();
        let master = std::fs::read_link(dir.join("master")).ok();
        v.extend(master.and_then(|m| Some(m.file_name()?.to_string_lossy().into_owned())));
        v.sort();
        v.dedup();
        v
    }

    /// Interfaces that have a default route themselves.
    pub fn routed(&self) -> impl Iterator<Item = &str> {
        self.carriers.iter().filter(|(_, by)| by.is_none()).map(|(i, _)| i.as_str())
    }

    /// Interfaces that carry a default route for `iface`, which has one itself or carries one: the next ones first.
    pub fn below(&self, iface: &str) -> Vec<&str> {
        let under = |i: &str| -> Vec<&str> {
            self.carriers.iter().filter(|(_, by)| by.as_deref() == Some(i)).map(|(l, _)| l.as_str()).collect()
        };
        let mut v = under(iface);
        let mut at = 0;
        while let Some(&i) = v.get(at) {
            v.extend(under(i));
            at += 1;
        }
        v
    }

    /// If `iface` carries a default route: by way of which interfaces, from the lowest; none if it has the route itself.
    pub fn carries(&self, iface: &str) -> Option<Vec<&str>> {
        let mut by = self.carriers.get(iface)?;
        let mut v = Vec::new();
        while let Some(i) = by {
            v.push(i.as_str());
            by = self.carriers.get(i)?;
        }
        Some(v)
    }
}

/// In words: `eth0`, or `eth0, by way of bond0 and br0`.
pub fn by_way_of(iface: &str, by: &[&str]) -> String {
    if by.is_empty() { iface.to_owned() } else { format!("{iface}, by way of {}", by.join(" and ")) }
}

/// Whether an address is of more than its link.
fn of_more_than_the_link(a: &IpAddr) -> bool {
    !matches!(a, IpAddr::V6(a) if a.is_unicast_link_local())
}

/// Names in a tree's /proc/net/dev, whose two lines of headings have bars, and addresses in its /proc/net/if_inet6.
fn listed(root: &Path) -> Option<Vec<Own>> {
    let dev = text(&root.join("proc/net/dev"))?;
    let six = text(&root.join("proc/net/if_inet6")).unwrap_or_default();
    let address = |l: &str, name: &str| {
        let (hex, iface) = (l.split_whitespace().next()?, l.split_whitespace().next_back()?);
        let a = Ipv6Addr::from(u128::from_str_radix(hex, 16).ok().filter(|_| iface == name)?);
        Some(IpAddr::from(a)).filter(of_more_than_the_link)
    };
    let own = |l: &str| {
        let name = l.split_once(':')?.0.trim();
        let addresses = six.lines().filter_map(|l| address(l, name)).collect();
        Some(Own { name: name.to_owned(), index: None, mac: None, addresses })
    };
    Some(dev.lines().filter(|l| !l.contains('|')).filter_map(own).collect())
}

/// The interfaces of our namespace, as the kernel lists them.
fn own() -> Option<Vec<Own>> {
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: a place for the list, which is freed below and not used after.
    if unsafe { libc::getifaddrs(&mut first) } != 0 {
        return None;
    }
    let mut v: Vec<Own> = Vec::new();
    let mut addresses: Vec<(String, IpAddr)> = Vec::new();
    let mut at = first;
    // SAFETY: each element is the list's own until it is freed, or null at its end.
    while let Some(a) = unsafe { at.as_ref() } {
        at = a.ifa_next;
        // SAFETY: null, or an address as long as its family says.
        let Some(family) = unsafe { a.ifa_addr.as_ref() }.map(|s| i32::from(s.sa_family)) else { continue };
        // SAFETY: a terminated string of the list's own.
        let name = unsafe { CStr::from_ptr(a.ifa_name) }.to_string_lossy().into_owned();
        if family == libc::AF_PACKET {
            // SAFETY: addresses of this family are of this type; it may lie anywhere.
            let ll = unsafe { a.ifa_addr.cast::<libc::sockaddr_ll>().read_unaligned() };
            let len = usize::from(ll.sll_halen).min(ll.sll_addr.len());
            let mac: Vec<_> = ll.sll_addr[..len].iter().map(|b| format!("{b:02x}")).collect();
            let index = u32::try_from(ll.sll_ifindex).ok();
            // Longer addresses than the structure has room for (InfiniBand) are not compared.
            v.push(Own { name, index, mac: (len == 6).then(|| mac.join(":")), addresses: Vec::new() });
        } else if family == libc::AF_INET {
            // SAFETY: as above.
            let a = unsafe { a.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned() };
            addresses.push((name, Ipv4Addr::from(a.sin_addr.s_addr.to_ne_bytes()).into()));
        } else if family == libc::AF_INET6 {
            // SAFETY: as above.
            let a = unsafe { a.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned() };
            addresses.push((name, Ipv6Addr::from(a.sin6_addr.s6_addr).into()));
        }
    }
    for (label, a) in addresses.into_iter().filter(|a| of_more_than_the_link(&a.1)) {
        // A further IPv4 address may have a label, `eth0:1`.
        let name = label.split(':').next().unwrap_or_default();
        v.iter_mut().filter(|o| o.name == name).for_each(|o| o.addresses.push(a));
    }
    // SAFETY: the list from above, once.
    unsafe { libc::freeifaddrs(first) };
    Some(v)
}

#[cfg(test)]
mod tests;
