//! The kernel's interfaces by their addresses: the speed of the one that has an address, as the kernel's LND finds it
//! (docs/protocol/socklnd.md §3), and which addresses are for broadcasts.

use std::cell::Cell;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto, socket_with,
};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
/// `IFF_UP | IFF_RUNNING`.
const RUNNING: u32 = 0x1 | 0x40;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const FLAGS: u16 = 1 | 0x300;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// IFA_ADDRESS is the other end's on point-to-point links; IFA_LOCAL is there as well then.
const OWN: [u16; 2] = [IFA_ADDRESS, IFA_LOCAL];
/// Lengths of `nlmsghdr` and `ifaddrmsg`, in bytes.
const NLMSG: usize = 16;
const MSG: usize = 8;
/// Length of `ifinfomsg`, the longer question, in bytes; of a question for addresses the rest is not looked at.
const ASK: usize = 16;

/// Speed of the interface that has `ip`, in Mbit/s; `None` when there is none, or it does not tell (loopback).
pub(crate) fn mbps(ip: IpAddr) -> Option<u32> {
    speed(Path::new("/sys/class/net"), look(&owns(ip))?.index)
}

/// Whether the kernel takes `ip` for the broadcast address of a network of one of its interfaces: that is the last
/// address, whatever else the interface is told.
pub(crate) fn is_broadcast(ip: IpAddr) -> bool {
    look(&broadcasts(ip)).is_some()
}

/// The interface of the kernel's that has `ip`: its name, and the length of the address's prefix.
pub(crate) fn owner(ip: IpAddr) -> Option<(String, u8)> {
    let found = look(&owns(ip))?;
    let fd = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    Some((rustix::net::netdevice::index_to_name(&fd, found.index).ok()?, found.prefix))
}

/// The address of the interface `name`: the first IPv4 one, or else the first IPv6 one that is no link's own.
pub(crate) fn address(name: &str) -> Option<IpAddr> {
    let read = fs::read_to_string(Path::new("/sys/class/net").join(name).join("ifindex")).ok()?;
    let own: u32 = read.trim().parse().ok()?;
    let found = Cell::new(None);
    let take = |ip: IpAddr| {
        found.set(Some(ip));
        true
    };
    let v4 = |a: &Attribute<'_>| {
        let ip = <[u8; 4]>::try_from(a.value).ok().filter(|_| a.index == own && a.kind == IFA_LOCAL);
        ip.is_some_and(|ip| take(ip.into()))
    };
    let v6 = |a: &Attribute<'_>| {
        let ip = <[u8; 16]>::try_from(a.value).ok().filter(|_| a.index == own && a.kind == IFA_ADDRESS);
        let ip = ip.map(Ipv6Addr::from).filter(|ip| !ip.is_unicast_link_local());
        ip.is_some_and(|ip| take(ip.into()))
    };
    look(&v4).or_else(|| look(&v6)).and(found.get())
}

/// An attribute of an address of an interface.
struct Attribute<'a> {
    /// Number of the interface.
    index: u32,
    /// Length of the address's prefix.
    prefix: u8,
    kind: u16,
    value: &'a [u8],
}

/// Whether an attribute is that an interface has `ip`.
fn owns(ip: IpAddr) -> impl Fn(&Attribute<'_>) -> bool {
    move |a| OWN.contains(&a.kind) && a.value == octets(ip)
}

fn broadcasts(ip: IpAddr) -> impl Fn(&Attribute<'_>) -> bool {
    move |a| match (a.kind, ip) {
        (IFA_BROADCAST, _) => a.value == octets(ip),
        (IFA_LOCAL, IpAddr::V4(ip)) if (1..=30).contains(&a.prefix) => {
            let last = |own: [u8; 4]| u32::from_be_bytes(own) | u32::MAX >> a.prefix;
            a.value.try_into().is_ok_and(|own| last(own) == u32::from(ip))
        }
        _ => false,
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().into(),
        IpAddr::V6(a) => a.octets().into(),
    }
}

/// The speed of interface number `index`.
fn speed(net: &Path, index: u32) -> Option<u32> {
    let read = |p: &Path, f: &str| fs::read_to_string(p.join(f)).ok();
    let mut all = fs::read_dir(net).ok()?.filter_map(|e| Some(e.ok()?.path()));
    let dir = all.find(|p| read(p, "ifindex").and_then(|n| n.trim().parse().ok()) == Some(index))?;
    // -1, or an error, when it is not known.
    read(&dir, "speed")?.trim().parse().ok()
}

/// Whether the interface that has `ip` is up and has a carrier; `None` where none has it.
pub(crate) fn running(ip: IpAddr) -> Option<bool> {
    let index = look(&owns(ip))?.index;
    let mut flags = None;
    dump(RTM_GETLINK, &mut |part| {
        flags = flags.or(messages(part).find_map(|(kind, m)| {
            let own = kind == RTM_NEWLINK && u32_at(m, NLMSG + 4) == Some(index);
            own.then(|| u32_at(m, NLMSG + 8)).flatten()
        }));
        flags.is_none()
    });
    Some(flags? & RUNNING == RUNNING)
}

/// The first address of an interface that has an attribute as it is wanted.
fn look(wanted: &dyn Fn(&Attribute<'_>) -> bool) -> Option<Found> {
    let mut found = None;
    dump(RTM_GETADDR, &mut |part| match find(part, wanted) {
        Dump::Found(f) => {
            found = Some(f);
            false
        }
        Dump::More => true,
        Dump::End => false,
    });
    found
}

/// Shows the parts of the kernel's answer to a question for all of a kind, until `each` has seen enough.
fn dump(get: u16, each: &mut dyn FnMut(&[u8]) -> bool) -> Option<()> {
    // NETLINK_ROUTE is protocol 0, the one that is taken where none is named.
    let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).ok()?;
    let mut q = Vec::with_capacity(NLMSG + ASK);
    q.extend(((NLMSG + ASK) as u32).to_ne_bytes());
    q.extend(get.to_ne_bytes());
    q.extend(FLAGS.to_ne_bytes());
    q.extend(1u32.to_ne_bytes());
    q.extend(0u32.to_ne_bytes());
    q.extend([0; ASK]);
    sendto(&fd, &q, SendFlags::empty(), &netlink::SocketAddrNetlink::new(0, 0)).ok()?;
    let mut buf = vec![0; 32 << 10];
    // The kernel says when it is done; the bound is for one that does not.
    for _ in 0..1024 {
        let (_, n) = recv(&fd, &mut buf[..], RecvFlags::empty()).ok()?;
        let part = buf.get(..n)?;
        if !each(part) || messages(part).any(|(kind, _)| kind == NLMSG_DONE) {
            break;
        }
    }
    Some(())
}

/// An address: the number of its interface, and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    index: u32,
    prefix: u8,
}

#[derive(Debug, PartialEq, Eq)]
enum Dump {
    Found(Found),
    More,
    End,
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// The messages of a part of a dump, with their kinds, as far as they are whole.
fn messages(mut b: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, kind) = (u32_at(b, 0)? as usize, u16_at(b, 4)?);
        let m = b.get(..len).filter(|_| len >= NLMSG)?;
        b = b.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, m))
    })
}

/// Looks for it in a part of a dump.
fn find(b: &[u8], wanted: &dyn Fn(&Attribute<'_>) -> bool) -> Dump {
    let mut rest = b.len();
    for (kind, m) in messages(b) {
        rest = rest.saturating_sub(m.len().next_multiple_of(4));
        if kind == NLMSG_DONE {
            return Dump::End;
        }
        if let (RTM_NEWADDR, Some(index), Some(prefix)) =
            (kind, u32_at(m, NLMSG + 4), m.get(NLMSG + 1).copied())
        {
            let mut at = NLMSG + MSG;
            while let (Some(len), Some(kind)) = (u16_at(m, at), u16_at(m, at + 2)) {
                let len = usize::from(len);
                if m.get(at + 4..at + len)
                    .is_some_and(|value| wanted(&Attribute { index, prefix, kind, value }))
                {
                    return Dump::Found(Found { index, prefix });
                }
                at += len.next_multiple_of(4).max(4);
            }
        }
    }
    // A part that is cut short ends it.
    if rest == 0 { Dump::More } else { Dump::End }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_and_has_no_speed() {
        let lo: u32 = fs::read_to_string("/sys/class/net/lo/ifindex").unwrap().trim().parse().unwrap();
        let ip: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(look(&owns(ip)), Some(Found { index: lo, prefix: 8 }));
        assert_eq!((owner(ip), running(ip)), (Some(("lo".into(), 8)), Some(true)));
        assert_eq!((mbps(ip), address("lo"), address("none0")), (None, Some(ip), None));
        // Nobody's (RFC 5737).
        let nobody = "192.0.2.77".parse().unwrap();
        assert_eq!((look(&owns(nobody)), running(nobody)), (None, None));
        // No interface says so; the kernel has it so by the prefix alone.
        let last = |ip: &str| is_broadcast(ip.parse().unwrap());
        assert!(last("127.255.255.255") && !last("127.0.0.1") && !last("127.0.0.255") && !last("::1"));
    }

    #[test]
    fn speeds_are_read_where_the_kernel_shows_them() {
        let net = tempfile::tempdir().unwrap();
        for (name, index, speed) in [("a", "7\n", "25000\n"), ("b", "8\n", "-1\n")] {
            let d = net.path().join(name);
            fs::create_dir(&d).unwrap();
            fs::write(d.join("ifindex"), index).unwrap();
            fs::write(d.join("speed"), speed).unwrap();
        }
        assert_eq!([7, 8, 9].map(|i| speed(net.path(), i)), [Some(25_000), None, None]);
    }

    #[test]
    fn an_answer_that_is_cut_short_ends_the_search() {
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        let mut m = vec![0; NLMSG + MSG + 8];
        let len = m.len() as u32;
        m[..4].copy_from_slice(&len.to_ne_bytes());
        m[4..6].copy_from_slice(&RTM_NEWADDR.to_ne_bytes());
        m[NLMSG + 4] = 5;
        m[NLMSG + MSG..NLMSG + MSG + 4]
            .copy_from_slice(&[8u16.to_ne_bytes(), IFA_LOCAL.to_ne_bytes()].concat());
        m[NLMSG + MSG + 4..].copy_from_slice(&[10, 0, 0, 1]);
        let found = Dump::Found(Found { index: 5, prefix: 0 });
        assert_eq!(find(&m, &owns(ip)), found);
        assert_eq!(find(&m, &broadcasts(ip)), Dump::More);
        assert_eq!(find(&m, &owns("10.0.0.2".parse().unwrap())), Dump::More);
        for n in 1..m.len() {
            assert_ne!(find(&m[..n], &owns(ip)), found);
        }
        m[..4].copy_from_slice(&[0; 4]);
        assert_eq!(find(&m, &owns(ip)), Dump::End, "a message of no length");
    }
}
