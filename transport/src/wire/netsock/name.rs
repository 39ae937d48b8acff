//! Names of addresses (netsock.md §3): Motr's lnet form `IP@NET:PID:PORTAL:TMID`, and the native `family:type:ip@port`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Addr, errno};
use crate::wire::Brief;

const PID: u32 = 12345;
const PORTALS: std::ops::RangeInclusive<u32> = 30..=61;
const TMID_MAX: u32 = 1023;
/// Set in the port of every lnet form.
const TMID_BIT: u16 = 0x400;

/// A name, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// It says the address.
    Addr(Addr),
    /// `IP@NET:12345:PORTAL:*`: the number of the transfer machine is to be chosen ([`Tmids`]).
    Any {
        /// Address.
        ip: Ipv4Addr,
        /// Portal, 30 to 61.
        portal: u8,
    },
}

impl Name {
    /// The addresses that it may mean, the lowest number first.
    pub(crate) fn candidates(self) -> impl Iterator<Item = Addr> {
        let (one, any) = match self {
            Name::Addr(a) => (Some(a), None),
            Name::Any { ip, portal } => (None, Some((ip, portal))),
        };
        let all = |(ip, portal)| (0..=TMID_MAX as u16).map(move |tmid| lnet_addr(ip, portal, tmid));
        one.into_iter().chain(any.into_iter().flat_map(all))
    }
}

/// Text that names no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing.
    #[error("an empty address: give IP@tcp:12345:PORTAL:TMID or inet:stream:IP@PORT")]
    Empty,
    /// Not of the lnet form though it begins with a digit.
    #[error("{:?} is no address of the form IP@NET:12345:PORTAL:TMID: {what}", Brief(.text))]
    Lnet {
        /// The text.
        text: String,
        /// The part that is wrong.
        what: &'static str,
    },
    /// Not of the native form.
    #[error("{:?} is no address of the form inet|inet6:stream|dgram:IP@PORT: {what}", Brief(.text))]
    Native {
        /// The text.
        text: String,
        /// The part that is wrong.
        what: &'static str,
    },
    /// A port over 65535.
    #[error("{:?}: the port is over 65535", Brief(.0))]
    Port(String),
    /// `unix:`, which Motr names and cannot use.
    #[error("{:?}: UNIX sockets have no addresses here: give inet or inet6", Brief(.0))]
    Unix(String),
    /// No number left for a `*`.
    #[error("all 1024 transfer machines of {ip} portal {portal} are taken: give another portal")]
    NoTmid {
        /// Address.
        ip: Ipv4Addr,
        /// Portal.
        portal: u8,
    },
}

impl NameError {
    /// Motr's error number.
    pub fn errno(&self) -> i32 {
        match self {
            NameError::Empty | NameError::Lnet { .. } => errno::EPROTO,
            NameError::Native { .. } => errno::EINVAL,
            NameError::Port(_) => errno::ERANGE,
            NameError::Unix(_) => errno::EAFNOSUPPORT,
            NameError::NoTmid { .. } => errno::EADDRNOTAVAIL,
        }
    }
}

/// The port of a transfer machine in the lnet form.
fn port(portal: u8, tmid: u16) -> u16 {
    u16::from(portal - *PORTALS.start() as u8) << 11 | TMID_BIT | tmid
}

fn lnet_addr(ip: Ipv4Addr, portal: u8, tmid: u16) -> Addr {
    Addr::stream(SocketAddr::new(ip.into(), port(portal, tmid)))
}

/// The digits at the front of `s`, as a number, and the rest. A number that is too large for its type is `u32::MAX`.
fn number(s: &str) -> Option<(u32, &str)> {
    let end = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
    let (digits, rest) = s.split_at(end);
    (!digits.is_empty()).then(|| (digits.parse().unwrap_or(u32::MAX), rest))
}

impl Name {
    /// Takes `text` apart: a digit in front means the lnet form, anything else the native one.
    ///
    /// # Errors
    /// [`NameError`]
    pub fn parse(text: &str) -> Result<Name, NameError> {
        match text.chars().next() {
            None => Err(NameError::Empty),
            Some('0'..='9') => {
                Name::lnet(text).map_err(|what| NameError::Lnet { text: text.to_owned(), what })
            }
            Some(_) => Name::native(text),
        }
    }

    fn lnet(text: &str) -> Result<Name, &'static str> {
        let (ip, rest) = text.split_once('@').ok_or("there is no @")?;
        let ip = match ip {
            "0" if rest.starts_with("lo") => Ipv4Addr::LOCALHOST,
            ip => ip.parse().map_err(|_| "the address is no dotted quad")?,
        };
        // Every network is TCP here.
        let (_, rest) = rest.split_once(':').ok_or("there is no process")?;
        let (pid, rest) = number(rest).ok_or("the process is no number")?;
        if pid != PID {
            return Err("the process must be 12345");
        }
        let rest = rest.strip_prefix(':').ok_or("there is no portal")?;
        let (portal, rest) = number(rest).ok_or("the portal is no number")?;
        if !PORTALS.contains(&portal) {
            return Err("the portal must be 30 to 61");
        }
        let (portal, rest) = (portal as u8, rest.strip_prefix(':').ok_or("there is no transfer machine")?);
        // Text behind the number is ignored, as Motr does.
        if rest.starts_with('*') {
            return Ok(Name::Any { ip, portal });
        }
        let (tmid, _) = number(rest).ok_or("the transfer machine is neither a number nor *")?;
        if tmid > TMID_MAX {
            return Err("the transfer machine must be 0 to 1023");
        }
        Ok(Name::Addr(lnet_addr(ip, portal, tmid as u16)))
    }

    fn native(text: &str) -> Result<Name, NameError> {
        let bad = |what| NameError::Native { text: text.to_owned(), what };
        let (family, rest) = text.split_once(':').ok_or_else(|| bad("there is no type"))?;
        let (kind, rest) = rest.split_once(':').ok_or_else(|| bad("there is no address"))?;
        let (ip, port) = rest.rsplit_once('@').ok_or_else(|| bad("there is no port"))?;
        let dgram = match kind {
            "stream" => false,
            "dgram" => true,
            _ => return Err(bad("the type is neither stream nor dgram")),
        };
        let ip: IpAddr = match family {
            "inet" => ip.parse::<Ipv4Addr>().map_err(|_| bad("the address is no dotted quad"))?.into(),
            "inet6" => ip.parse::<Ipv6Addr>().map_err(|_| bad("the address is none of IPv6"))?.into(),
            "unix" => return Err(NameError::Unix(text.to_owned())),
            _ => return Err(bad("the family is neither inet nor inet6")),
        };
        let (port, rest) = number(port).ok_or_else(|| bad("the port is no number"))?;
        if !rest.is_empty() {
            return Err(bad("something follows the port"));
        }
        let port = u16::try_from(port).map_err(|_| NameError::Port(text.to_owned()))?;
        let at = SocketAddr::new(ip, port);
        Ok(Name::Addr(if dgram { Addr::dgram(at) } else { Addr::stream(at) }))
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Name, NameError> {
        Name::parse(text)
    }
}

/// The native form, as Motr names peers that it knows from packets alone; fields that it has no word for are numbers.
impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.family {
            Addr::INET => f.write_str("inet:")?,
            Addr::INET6 => f.write_str("inet6:")?,
            other => write!(f, "{other}:")?,
        }
        match (self.socktype, self.protocol) {
            (Addr::STREAM, 6) => f.write_str("stream:")?,
            (Addr::DGRAM, 17) => f.write_str("dgram:")?,
            (socktype, protocol) => write!(f, "{socktype}/{protocol}:")?,
        }
        match self.ip() {
            Some(ip) => write!(f, "{ip}")?,
            None => self.data.iter().try_for_each(|b| write!(f, "{b:02x}"))?,
        }
        write!(f, "@{}", self.port)
    }
}

impl Addr {
    /// The lnet form of the address, on network tcp; `None` where it has none.
    pub fn lnet_form(&self) -> Option<String> {
        let at = self.dialled().filter(|at| at.is_ipv4() && at.port() & TMID_BIT != 0)?;
        let (portal, tmid) = (*PORTALS.start() + u32::from(at.port() >> 11), at.port() & TMID_MAX as u16);
        Some(format!("{}@tcp:{PID}:{portal}:{tmid}", at.ip()))
    }
}

/// Numbers of transfer machines that this process has seen: a `*` becomes the lowest one of its address and portal that it
/// has not. (Motr counts those of all addresses and portals together.)
#[derive(Clone, Debug, Default)]
pub struct Tmids(BTreeSet<Addr>);

impl Tmids {
    /// The address that a name means. Every one is marked as seen.
    ///
    /// # Errors
    /// [`NameError::NoTmid`]
    pub fn resolve(&mut self, name: Name) -> Result<Addr, NameError> {
        let addr = match name {
            Name::Addr(a) => a,
            Name::Any { ip, portal } => {
                let free = name.candidates().find(|a| !self.0.contains(a));
                free.ok_or(NameError::NoTmid { ip, portal })?
            }
        };
        self.0.insert(addr);
        Ok(addr)
    }

    /// The number may be chosen again.
    pub fn forget(&mut self, addr: &Addr) {
        self.0.remove(addr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        match Name::parse(text) {
            Ok(Name::Addr(a)) => a,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn both_forms_of_an_address_are_one_end_point() {
        let a = addr("10.0.0.1@tcp:12345:34:1");
        assert_eq!(a, addr("inet:stream:10.0.0.1@9217"));
        assert_eq!(a, addr("10.0.0.1@o2ib7:12345:34:1 and more"));
        assert_eq!(a.to_string(), "inet:stream:10.0.0.1@9217");
        assert_eq!(a.lnet_form().as_deref(), Some("10.0.0.1@tcp:12345:34:1"));
        assert_ne!(a, addr("inet:dgram:10.0.0.1@9217"));
        assert!(
            a.same_host(&addr("inet:stream:10.0.0.1@5")) && !a.same_host(&addr("inet:stream:10.0.0.2@9217"))
        );
        assert_eq!(addr("inet:stream:1.2.3.4@0").dialled(), None);
    }

    /// Motr takes `inet` for the family there, and fails.
    #[test]
    fn ipv6_has_a_name_though_motr_cannot_read_it() {
        let a = addr("inet6:stream:fd00::1@5001");
        assert_eq!((a.family, a.socktype, a.protocol, a.port), (10, 1, 6, 5001));
        assert_eq!(a.to_string(), "inet6:stream:fd00::1@5001");
        assert_eq!(a.lnet_form(), None);
    }

    #[test]
    fn the_port_of_the_lnet_form_has_the_portal_in_front() {
        assert_eq!(addr("0@lo:12345:30:0").port, 1024);
        assert_eq!(addr("1.2.3.4@o2ib:12345:61:1023").port, 65535);
        for portal in 30..=61u8 {
            for tmid in [0, 1, 512, 1023] {
                let a = lnet_addr(Ipv4Addr::new(1, 2, 3, 4), portal, tmid);
                let name = a.lnet_form().unwrap();
                assert_eq!(addr(&name), a, "{name}");
            }
        }
    }

    #[test]
    fn what_is_no_address_is_named_with_motrs_error() {
        for (text, errno) in [
            ("", errno::EPROTO),
            ("1.2.3@tcp:12345:34:1", errno::EPROTO),
            ("1.2.3.4:12345:34:1", errno::EPROTO),
            ("1.2.3.4@tcp", errno::EPROTO),
            ("1.2.3.4@tcp:12344:34:1", errno::EPROTO),
            ("1.2.3.4@tcp:12345:29:1", errno::EPROTO),
            ("1.2.3.4@tcp:12345:62:1", errno::EPROTO),
            ("1.2.3.4@tcp:12345:34:1024", errno::EPROTO),
            ("1.2.3.4@tcp:12345:34:99999999999999", errno::EPROTO),
            ("1.2.3.4@tcp:12345:34", errno::EPROTO),
            ("1.2.3.4@tcp:12345:34:x", errno::EPROTO),
            ("inet:stream:1.2.3.4", errno::EINVAL),
            ("inet:stream:1.2.3.4@5x", errno::EINVAL),
            ("inet:stream:1.2.3.400@5", errno::EINVAL),
            ("inet:raw:1.2.3.4@5", errno::EINVAL),
            ("ipx:stream:1.2.3.4@5", errno::EINVAL),
            ("inet", errno::EINVAL),
            ("inet:stream:1.2.3.4@65536", errno::ERANGE),
            ("unix:stream:1.2.3.4@5", errno::EAFNOSUPPORT),
        ] {
            let e = Name::parse(text).unwrap_err();
            assert_eq!(e.errno(), errno, "{text:?}: {e}");
        }
    }

    #[test]
    fn a_star_is_the_lowest_number_that_nobody_has_there() {
        let mut seen = Tmids::default();
        let star = Name::parse("10.0.2.15@tcp:12345:34:*").unwrap();
        assert_eq!(seen.resolve(star).unwrap().port, 9216);
        seen.resolve(Name::parse("10.0.2.15@tcp:12345:34:1").unwrap()).unwrap();
        assert_eq!(seen.resolve(star).unwrap().port, 9218);
        let other = Name::parse("10.0.2.15@tcp:12345:35:*").unwrap();
        assert_eq!(seen.resolve(other).unwrap().port, 0x2c00);
        for _ in 3..1024 {
            seen.resolve(star).unwrap();
        }
        let e = seen.resolve(star).unwrap_err();
        assert_eq!(e.errno(), errno::EADDRNOTAVAIL);
        seen.forget(&addr("10.0.2.15@tcp:12345:34:700"));
        assert_eq!(seen.resolve(star).unwrap().lnet_form().as_deref(), Some("10.0.2.15@tcp:12345:34:700"));
    }
}
