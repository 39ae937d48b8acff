//! Links of the kernel's interfaces, for a node over kernel sockets: an NI whose interface is down, or has lost its
//! carrier or its address, is down, and its peers are told at once (docs/protocol/upper.md §2). Ports are looked at by their lcores.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with};
use transport::node::inspect::Inspection;

use crate::{iface, limits};

/// `RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR`.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;
/// Time after which it is looked in any case: NIs come while the node runs, looks fail, and messages are lost.
const AGAIN: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The thread that watches.
pub(crate) struct Links {
    /// Closed, it ends.
    stop: UnixStream,
    thread: JoinHandle<()>,
}

/// State of the interface with an address, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    /// An interface had the address itself. Others are the machine's by a route, as all of 127.0.0.0/8.
    seen: bool,
    up: bool,
}

impl Known {
    /// Until it is looked at.
    const NEW: Known = Known { seen: false, up: true };

    /// After a look, which found an interface with the address that runs or not, or found none.
    fn after(self, running: Option<bool>) -> Known {
        let seen = self.seen || running.is_some();
        Known { seen, up: running.unwrap_or(!seen) }
    }
}

fn socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&fd, &netlink::SocketAddrNetlink::new(0, GROUPS))?;
    Ok(fd)
}

/// Looks at all NIs, and tells the node what is other.
fn look(front: &Inspection, known: &mut HashMap<IpAddr, Known>) {
    let Ok(cfg) = front.config(0) else { return };
    let ips: Vec<IpAddr> = cfg.nids().filter_map(|n| n.ip()).collect();
    known.retain(|ip, _| ips.contains(ip));
    for ip in ips {
        let was = *known.get(&ip).unwrap_or(&Known::NEW);
        let is = was.after(iface::running(ip));
        if is.up != was.up {
            if front.link(ip, is.up).is_err() {
                // The node is asked again.
                return;
            }
            tracing::warn!("the interface of {ip} is {}", if is.up { "up again" } else { "down" });
        }
        known.insert(ip, is);
    }
}

fn watch(front: &Inspection, fd: &OwnedFd, stop: &UnixStream) {
    let mut known = HashMap::new();
    let mut buf = vec![0; 16 << 10];
    loop {
        // A change that comes meanwhile is another reason to look.
        look(front, &mut known);
        let mut fds = [PollFd::new(fd, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        // A signal is another reason to look.
        let _ = poll(&mut fds, Some(&AGAIN));
        if fds.iter().skip(1).any(|f| !f.revents().is_empty()) {
            return;
        }
        // Messages only say that something is other. One that did not fit in is an error, and so is the end.
        while let Ok((_, n)) = recv(fd, &mut buf[..], RecvFlags::empty()) {
            if n == 0 {
                break;
            }
        }
    }
}

impl Links {
    /// Watches for the node behind `front`.
    ///
    /// # Errors
    /// The kernel gives no socket for it, or no thread.
    pub(crate) fn watch(front: Arc<Inspection>) -> Result<Links, String> {
        let told = |e: rustix::io::Errno| limits::told(&e.into());
        let fd = socket().map_err(told)?;
        let (stop, stopped) = UnixStream::pair().map_err(|e| limits::told(&e))?;
        let thread = limits::thread("watches links", move || watch(&front, &fd, &stopped))?;
        Ok(Links { stop, thread })
    }

    /// Ends the watch.
    pub(crate) fn end(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_no_interface_has_is_up_unless_one_had_it() {
        let route = Known::NEW.after(None);
        assert_eq!(route, Known { seen: false, up: true });
        let down = route.after(Some(false));
        assert_eq!(down, Known { seen: true, up: false });
        assert_eq!(down.after(None), down, "IPv6 addresses go with the link");
        assert_eq!(down.after(Some(true)), Known { seen: true, up: true });
    }
}
