//! Addresses of transfer machines on a command line, and where the node below one is.

use std::net::{IpAddr, TcpListener, UdpSocket};

use transport::lnd::Route;
use transport::net::LnetAddr;
use transport::wire::Nid;
use transport::wire::netsock::{Addr, Name, Tmids};

use crate::args::XprtArg;
use crate::{access, limits};

/// A transfer machine's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Over netsock.
    Sock(Addr),
    /// Over LNet; whether a free number is to be taken.
    Lnet(LnetAddr, bool),
}

impl Place {
    /// Reads an address of a transport: of the one that its form is usual for, unless told.
    ///
    /// # Errors
    /// The part of it that is wrong.
    pub(super) fn parse(text: &str, xprt: Option<XprtArg>) -> Result<Place, String> {
        // A port stands behind the last @, or the network of an NID.
        let native = match text.rsplit_once('@') {
            Some((_, at)) => at.starts_with(|c: char| c.is_ascii_digit()),
            None => ["inet:", "inet6:", "unix:"].iter().any(|f| text.starts_with(f)),
        };
        match xprt.unwrap_or(if native { XprtArg::Sock } else { XprtArg::Lnet }) {
            XprtArg::Lnet if native => Err(format!(
                "{text}: that is an address of netsock: give --xprt sock, or NID:12345:PORTAL:TMID"
            )),
            XprtArg::Lnet => {
                LnetAddr::parse(text).map(|(a, star)| Place::Lnet(a, star)).map_err(|e| e.to_string())
            }
            XprtArg::Sock => {
                let addr = resolve(Name::parse(text).map_err(|e| e.to_string())?)?;
                addr.reached().map(|_| Place::Sock(addr)).ok_or_else(|| {
                    format!("{text}: peers cannot get there; give inet:stream:IP@PORT or inet:dgram:IP@PORT of one machine, with a port from 1 on")
                })
            }
        }
    }

    /// The address here for a peer's: on the way to it, with a number that is free.
    ///
    /// # Errors
    /// There is no way, or no port.
    pub(super) fn towards(peer: &Place, routes: &[Route]) -> Result<Place, String> {
        let nid = access::by_route(access::first_hop(routes, peer.nid()), "--from")?;
        match peer {
            Place::Lnet(a, _) => Ok(Place::Lnet(LnetAddr { nid, ..*a }, true)),
            Place::Sock(a) => {
                // All of 127.0.0.0/8 is this machine: the peer's own address does as well.
                let ip = match (a.ip(), nid.ip()) {
                    (Some(to), Some(IpAddr::V4(from))) if from.is_loopback() => to,
                    (_, from) => from.unwrap_or(IpAddr::from([127, 0, 0, 1])),
                };
                let free = match a.is_dgram() {
                    true => UdpSocket::bind((ip, 0)).and_then(|s| s.local_addr()).map(Addr::dgram),
                    false => TcpListener::bind((ip, 0)).and_then(|l| l.local_addr()).map(Addr::stream),
                };
                let none = |e| format!("no port is free at {ip}: {}; give --from", limits::told(&e));
                free.map(Place::Sock).map_err(none)
            }
        }
    }

    /// The NID of its node.
    pub(super) fn nid(&self) -> Nid {
        match self {
            Place::Sock(a) => Nid::tcp(a.ip().unwrap_or(IpAddr::from([0, 0, 0, 0])), 0),
            Place::Lnet(a, _) => a.nid,
        }
    }

    /// Its address over netsock.
    pub(super) fn addr(&self) -> Option<Addr> {
        match self {
            Place::Sock(a) => Some(*a),
            Place::Lnet(..) => None,
        }
    }

    /// The transport.
    pub(super) fn xprt(&self) -> &'static str {
        match self {
            Place::Sock(_) => "sock",
            Place::Lnet(..) => "lnet",
        }
    }

    /// As the contract has it.
    pub(super) fn name(&self) -> String {
        match self {
            Place::Sock(a) => a.to_string(),
            Place::Lnet(LnetAddr { nid, pid, portal, .. }, true) => format!("{nid}:{pid}:{portal}:*"),
            Place::Lnet(a, false) => a.to_string(),
        }
    }
}

/// The address of a name; `*` is the first number whose port is free here.
fn resolve(name: Name) -> Result<Addr, String> {
    let mut tmids = Tmids::default();
    loop {
        let addr = tmids.resolve(name).map_err(|e| e.to_string())?;
        let free = || addr.dialled().is_none_or(|at| TcpListener::bind(at).is_ok() || !is_here(at.ip()));
        if matches!(name, Name::Addr(_)) || free() {
            return Ok(addr);
        }
    }
}

/// Whether the kernel has the address: a DPDK port's it has not.
fn is_here(ip: IpAddr) -> bool {
    TcpListener::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_motr_writes_them() {
        use XprtArg::{Lnet, Sock};
        for (text, xprt, name, nid) in [
            ("inet:stream:10.0.0.1@7000", None, "inet:stream:10.0.0.1@7000", "10.0.0.1@tcp"),
            ("inet6:stream:fd00::1@7000", None, "inet6:stream:fd00::1@7000", "fd00::1@tcp"),
            ("inet:dgram:10.0.0.1@7000", None, "inet:dgram:10.0.0.1@7000", "10.0.0.1@tcp"),
            ("10.0.0.1@tcp1:12345:34:1", None, "10.0.0.1@tcp1:12345:34:1", "10.0.0.1@tcp1"),
            ("10.0.0.1@tcp1:12345:34:*", Some(Lnet), "10.0.0.1@tcp1:12345:34:*", "10.0.0.1@tcp1"),
            ("10.0.0.1@tcp1:12345:34:1", Some(Sock), "inet:stream:10.0.0.1@9217", "10.0.0.1@tcp"),
            ("10.9.8.7@tcp:12345:34:*", Some(Sock), "inet:stream:10.9.8.7@9216", "10.9.8.7@tcp"),
        ] {
            let p = Place::parse(text, xprt).unwrap();
            assert_eq!((p.name().as_str(), p.nid().to_string().as_str()), (name, nid), "{text}");
        }
        for (text, xprt, says) in [
            ("inet:stream:10.0.0.1@7000", Some(Lnet), "--xprt sock"),
            ("inet:stream:10.0.0.1", None, "\"inet:stream:10.0.0.1\""),
            ("inet:stream:10.0.0.1@0", None, "a port from 1 on"),
            ("inet:dgram:10.0.0.1@0", None, "inet:dgram:IP@PORT"),
            ("10.0.0.1@tcp", None, "NID:12345:PORTAL:TMID"),
            ("10.0.0.1@tcp:12345:64:1", None, "the portal must be 1 to 63"),
            ("10.0.0.1@tcp:12345:29:1", Some(Sock), "the portal must be 30 to 61"),
            ("", None, "NID:12345:PORTAL:TMID"),
        ] {
            let e = Place::parse(text, xprt).unwrap_err();
            assert!(e.contains(says), "{text}: {e}");
        }
    }

    #[test]
    fn over_netsock_star_is_a_number_whose_port_is_free() {
        let taken = TcpListener::bind("127.61.7.9:9216").unwrap();
        let p = Place::parse("127.61.7.9@tcp:12345:34:*", Some(XprtArg::Sock)).unwrap();
        assert_eq!(p.name(), "inet:stream:127.61.7.9@9217");
        drop(taken);
    }
}
