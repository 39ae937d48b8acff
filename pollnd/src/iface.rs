//! The kernel's interfaces by their addresses: the speed of the one that has an address, as the kernel's LND finds it
//! (docs/protocol/socklnd.md §3), and which addresses are for broadcasts.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto, socket_with,
};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
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

/// Speed of the interface that has `ip`, in Mbit/s; `None` when there is none, or it does not tell (loopback).
pub(crate) fn mbps(ip: IpAddr) -> Option<u32> {
    speed(Path::new("/sys/class/net"), index(ip, &OWN)?)
}

/// Whether `ip` is the broadcast address of an interface.
pub(crate) fn is_broadcast(ip: IpAddr) -> bool {
    index(ip, &[IFA_BROADCAST]).is_some()
}

/// The speed of interface number `index`.
fn speed(net: &Path, index: u32) -> Option<u32> {
    let read = |p: &Path, f: &str| fs::read_to_string(p.join(f)).ok();
    let mut all = fs::read_dir(net).ok()?.filter_map(|e| Some(e.ok()?.path()));
    let dir = all.find(|p| read(p, "ifindex").and_then(|n| n.trim().parse().ok()) == Some(index))?;
    // -1, or an error, when it is not known.
    read(&dir, "speed")?.trim().parse().ok()
}

/// The number of the interface that has `ip` in one of these attributes.
fn index(ip: IpAddr, attributes: &[u16]) -> Option<u32> {
    // NETLINK_ROUTE is protocol 0, the one that is taken where none is named.
    let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).ok()?;
    let mut q = Vec::with_capacity(NLMSG + MSG);
    q.extend(((NLMSG + MSG) as u32).to_ne_bytes());
    q.extend(RTM_GETADDR.to_ne_bytes());
    q.extend(FLAGS.to_ne_bytes());
    q.extend(1u32.to_ne_bytes());
    q.extend(0u32.to_ne_bytes());
    q.extend([0; MSG]);
    sendto(&fd, &q, SendFlags::empty(), &netlink::SocketAddrNetlink::new(0, 0)).ok()?;
    let mut buf = vec![0; 32 << 10];
    // The kernel says when it is done; the bound is for one that does not.
    for _ in 0..1024 {
        let (_, n) = recv(&fd, &mut buf[..], RecvFlags::empty()).ok()?;
        match find(buf.get(..n)?, ip, attributes) {
            Dump::Found(i) => return Some(i),
            Dump::More => {}
            Dump::End => return None,
        }
    }
    None
}

#[derive(Debug, PartialEq, Eq)]
enum Dump {
    Found(u32),
    More,
    End,
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Looks for `ip` in a part of a dump.
fn find(mut b: &[u8], ip: IpAddr, attributes: &[u16]) -> Dump {
    let want: &[u8] = match &ip {
        IpAddr::V4(a) => &a.octets(),
        IpAddr::V6(a) => &a.octets(),
    };
    while let (Some(len), Some(kind)) = (u32_at(b, 0), u16_at(b, 4)) {
        let len = len as usize;
        let Some(m) = b.get(..len).filter(|_| len >= NLMSG) else { return Dump::End };
        if kind == NLMSG_DONE {
            return Dump::End;
        }
        if let Some(index) = u32_at(m, NLMSG + 4).filter(|_| kind == RTM_NEWADDR) {
            let mut at = NLMSG + MSG;
            while let (Some(len), Some(kind)) = (u16_at(m, at), u16_at(m, at + 2)) {
                let len = usize::from(len);
                if attributes.contains(&kind) && m.get(at + 4..at + len) == Some(want) {
                    return Dump::Found(index);
                }
                at += len.next_multiple_of(4).max(4);
            }
        }
        b = b.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Dump::More
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_and_has_no_speed() {
        let lo: u32 = fs::read_to_string("/sys/class/net/lo/ifindex").unwrap().trim().parse().unwrap();
        let ip: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(index(ip, &OWN), Some(lo));
        assert_eq!(mbps(ip), None);
        // Nobody's (RFC 5737).
        assert_eq!(index("192.0.2.77".parse().unwrap(), &OWN), None);
        assert!(!is_broadcast(ip));
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
        assert_eq!(find(&m, ip, &OWN), Dump::Found(5));
        assert_eq!(find(&m, ip, &[IFA_BROADCAST]), Dump::More);
        assert_eq!(find(&m, "10.0.0.2".parse().unwrap(), &OWN), Dump::More);
        for n in 1..m.len() {
            assert_ne!(find(&m[..n], ip, &OWN), Dump::Found(5));
        }
        m[..4].copy_from_slice(&[0; 4]);
        assert_eq!(find(&m, ip, &OWN), Dump::End, "a message of no length");
    }
}
