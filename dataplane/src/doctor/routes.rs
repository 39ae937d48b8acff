//! Default routes as the kernel's routing socket tells them: of all tables, with all next hops of each. /proc/net/route
//! has the main table only, and of a route over several interfaces the first one.

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto, socket_with,
};

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const FLAGS: u16 = 1 | 0x300;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_MULTIPATH: u16 = 9;
const RTN_UNICAST: u8 = 1;
/// The table of this machine's own addresses.
const LOCAL: u8 = 255;
/// Lengths of `nlmsghdr`, `rtmsg` and `rtnexthop`, in bytes.
const NLMSG: usize = 16;
const MSG: usize = 12;
const NEXTHOP: usize = 8;
/// Parts of an answer that are read at most: a machine may have the routes of the whole Internet.
const PARTS: usize = 8192;

/// Numbers of the interfaces that a default route leaves by; `None` when the kernel cannot be asked.
pub(super) fn interfaces() -> Option<Vec<u32>> {
    // NETLINK_ROUTE is protocol 0, the one that is taken where none is named.
    let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).ok()?;
    let mut q = Vec::with_capacity(NLMSG + MSG);
    q.extend(((NLMSG + MSG) as u32).to_ne_bytes());
    q.extend(RTM_GETROUTE.to_ne_bytes());
    q.extend(FLAGS.to_ne_bytes());
    q.extend(1u32.to_ne_bytes());
    q.extend(0u32.to_ne_bytes());
    // Of all families.
    q.extend([0; MSG]);
    sendto(&fd, &q, SendFlags::empty(), &netlink::SocketAddrNetlink::new(0, 0)).ok()?;
    let mut buf = vec![0; 64 << 10];
    let mut found = Vec::new();
    for _ in 0..PARTS {
        let (_, n) = recv(&fd, &mut buf[..], RecvFlags::empty()).ok()?;
        if read(buf.get(..n)?, &mut found) {
            break;
        }
    }
    found.sort_unstable();
    found.dedup();
    Some(found)
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Attributes from `at` on: kind and value.
fn attributes(b: &[u8], mut at: usize) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (len, kind) = (usize::from(u16_at(b, at)?), u16_at(b, at + 2)?);
        let value = b.get(at + 4..at + len)?;
        at += len.next_multiple_of(4);
        Some((kind, value))
    })
}

/// Takes the interfaces of default routes from a part of an answer; whether it is the last part.
fn read(mut b: &[u8], found: &mut Vec<u32>) -> bool {
    while let (Some(len), Some(kind)) = (u32_at(b, 0), u16_at(b, 4)) {
        let len = len as usize;
        let Some(m) = b.get(..len).filter(|_| len >= NLMSG) else { return true };
        if [NLMSG_DONE, NLMSG_ERROR].contains(&kind) {
            return true;
        }
        if kind == RTM_NEWROUTE {
            route(m, found);
        }
        b = b.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

/// One route: family, length of the destination, ..., table, protocol, scope, type.
fn route(m: &[u8], found: &mut Vec<u32>) -> Option<()> {
    let byte = |i: usize| m.get(NLMSG + i).copied();
    let (bits, table, kind) = (byte(1)?, byte(4)?, byte(7)?);
    let dst = attributes(m, NLMSG + MSG).find(|a| a.0 == RTA_DST).and_then(|a| a.1.first().copied());
    // All, a half of all, and 2000::/3, which is all that is routed in the Internet.
    let whole = bits <= 1 || bits == 3 && dst == Some(0x20);
    if !whole || kind != RTN_UNICAST || table == LOCAL {
        return None;
    }
    for (kind, value) in attributes(m, NLMSG + MSG) {
        match kind {
            RTA_OIF => found.extend(u32_at(value, 0)),
            RTA_MULTIPATH => {
                let mut at = 0;
                while let (Some(len), Some(index)) = (u16_at(value, at), u32_at(value, at + 4)) {
                    found.push(index);
                    at += usize::from(len).max(NEXTHOP).next_multiple_of(4);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut a = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
        a.extend(kind.to_ne_bytes());
        a.extend(value);
        a.resize(a.len().next_multiple_of(4), 0);
        a
    }

    /// A route to `bits` of an address, in `table`, of `kind`.
    fn message(bits: u8, table: u8, kind: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = attributes.concat();
        let mut m = ((NLMSG + MSG + body.len()) as u32).to_ne_bytes().to_vec();
        m.extend(RTM_NEWROUTE.to_ne_bytes());
        m.resize(NLMSG, 0);
        m.extend([2, bits, 0, 0, table, 0, 0, kind, 0, 0, 0, 0]);
        m.extend(body);
        m
    }

    fn out(index: u32) -> Vec<u8> {
        attribute(RTA_OIF, &index.to_ne_bytes())
    }

    fn hop(index: u32, gateway: &[u8]) -> Vec<u8> {
        let gateway = attribute(5, gateway);
        let mut h = ((NEXTHOP + gateway.len()) as u16).to_ne_bytes().to_vec();
        h.extend([0, 0]);
        h.extend(index.to_ne_bytes());
        h.extend(gateway);
        h
    }

    fn found(b: &[u8]) -> Vec<u32> {
        let mut v = Vec::new();
        read(b, &mut v);
        v
    }

    /// Field report 11: every next hop and every table counts.
    #[test]
    fn default_routes_of_all_tables_and_next_hops() {
        let hops = attribute(RTA_MULTIPATH, &[hop(7, &[10, 0, 0, 1]), hop(8, &[10, 0, 0, 2])].concat());
        let all = [
            message(0, 254, 1, &[hops]),
            message(0, 100, 1, &[out(9)]),
            message(1, 254, 1, &[attribute(RTA_DST, &[128, 0, 0, 0]), out(10)]),
            message(3, 254, 1, &[attribute(RTA_DST, &[0x20; 16]), out(11)]),
            // A network, multicast, what the kernel says of itself, an unreachable one.
            message(8, 254, 1, &[attribute(RTA_DST, &[10, 0, 0, 0]), out(1)]),
            message(3, 254, 1, &[attribute(RTA_DST, &[0x60; 16]), out(2)]),
            message(0, 254, 5, &[out(3)]),
            message(0, 255, 1, &[out(4)]),
            message(0, 254, 7, &[out(5)]),
        ]
        .concat();
        assert_eq!(found(&all), [7, 8, 9, 10, 11]);
        // Cut anywhere, it is read as far as it goes.
        for n in 0..all.len() {
            assert!(found(&all[..n]).len() <= 5);
        }
        for i in 0..all.len() {
            let mut broken = all.clone();
            broken[i] = 0xff;
            found(&broken);
            broken[i] = 0;
            found(&broken);
        }
    }

    #[test]
    fn the_kernel_can_be_asked() {
        assert!(interfaces().is_some());
    }
}
