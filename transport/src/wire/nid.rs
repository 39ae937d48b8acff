//! Network identifiers and process identifiers (docs/protocol/lnet.md §1).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::Brief;
use super::bytes::{array, put};

/// LND type of socklnd.
pub const LND_TCP: u8 = 2;
/// LND type of loopback.
pub const LND_LO: u8 = 9;

/// LND types by name (lnet.md §1.1).
const LNDS: &[(u8, &str)] = &[
    (LND_TCP, "tcp"),
    (5, "o2ib"),
    (LND_LO, "lo"),
    (13, "gni"),
    (14, "gip"),
    (15, "ptlf"),
    (16, "kfi"),
    (18, "efa"),
    (19, "bxi3f"),
];

/// Form of a machine's address.
const ONE6: &str = "give the address of one machine, for example fd00::1@tcp";

/// A network identifier: address, LND type and network number.
///
/// Kept in the byte-order-free 20-byte form of lnet.md §1.2, whose byte order is also the order of the race rule
/// (socklnd.md §2.6 step 6): size, type, number, address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nid([u8; 20]);

impl Hash for Nid {
    /// All have one length, which need not be hashed for each message.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl Nid {
    /// Matches every NID.
    pub const ANY: Nid = {
        let mut raw = [0xff; 20];
        raw[0] = 0;
        Nid(raw)
    };

    /// Loopback, `0@lo`.
    pub const LO: Nid = {
        let mut raw = [0; 20];
        raw[1] = LND_LO;
        Nid(raw)
    };

    /// The NID of an IP address on `tcp<num>`.
    pub fn tcp(addr: IpAddr, num: u16) -> Nid {
        let mut raw = [0; 20];
        raw[1] = LND_TCP;
        put(&mut raw, 2, num.to_be_bytes());
        match addr {
            IpAddr::V4(a) => put(&mut raw, 4, a.octets()),
            IpAddr::V6(a) => {
                raw[0] = 12;
                put(&mut raw, 4, a.octets());
            }
        }
        Nid(raw)
    }

    /// From the 64-bit form. Its top byte has no meaning and is dropped; all ones is [`Nid::ANY`].
    pub fn from_nid4(nid4: u64) -> Nid {
        if nid4 == u64::MAX {
            return Nid::ANY;
        }
        let mut raw = [0; 20];
        put(&mut raw, 0, nid4.to_be_bytes());
        raw[0] = 0;
        if raw[1] == 0xff { Nid::ANY } else { Nid(raw) }
    }

    /// The 64-bit form, or `None` when the address does not fit it (IPv6).
    pub fn to_nid4(self) -> Option<u64> {
        if self.is_any() {
            return Some(u64::MAX);
        }
        (self.0[0] == 0).then(|| u64::from_be_bytes(array(&self.0, 0)))
    }

    /// From the 20-byte form; any type byte of 0xff is [`Nid::ANY`].
    pub fn from_nid16(raw: [u8; 20]) -> Nid {
        if raw[1] == 0xff { Nid::ANY } else { Nid(raw) }
    }

    /// The 20-byte form.
    pub fn to_nid16(self) -> [u8; 20] {
        self.0
    }

    /// Whether this is the wildcard.
    pub fn is_any(self) -> bool {
        self.0[1] == 0xff
    }

    /// LND type.
    pub fn lnd(self) -> u8 {
        self.0[1]
    }

    /// Network number.
    pub fn net_num(self) -> u16 {
        u16::from_be_bytes(array(&self.0, 2))
    }

    /// Whether the address takes more than 4 bytes.
    pub fn is_large(self) -> bool {
        self.0[0] != 0 && !self.is_any()
    }

    /// Its network.
    pub fn net(self) -> NetId {
        NetId(u32::from(self.lnd()) << 16 | u32::from(self.net_num()))
    }

    /// Whether both NIDs are on the same network (type and number).
    pub fn same_net(self, other: Nid) -> bool {
        self.lnd() == other.lnd() && self.net_num() == other.net_num()
    }

    /// The NID, if one machine can have it: what a user names has to be of this kind. A peer may say anything of
    /// itself, and is answered by the rules of the protocol.
    ///
    /// # Errors
    /// [`NidParseError::Station`] tells what the address is instead.
    pub fn station(self) -> Result<Nid, NidParseError> {
        let bad = |is, remedy| NidParseError::Station { nid: self.to_string(), is, remedy };
        let one = "give the address of one machine, for example 10.0.0.1@tcp";
        match self.ip() {
            Some(IpAddr::V4(a)) if a.is_unspecified() => Err(bad("no address but stands for any", one)),
            // RFC 1122 §3.2.1.3: a machine that does not know its network.
            Some(IpAddr::V4(a)) if a.octets()[0] == 0 => Err(bad("no address of a machine (0.0.0.0/8)", one)),
            Some(IpAddr::V4(a)) if a.is_multicast() => Err(bad("a multicast address", one)),
            Some(IpAddr::V4(a)) if a.is_broadcast() => Err(bad("the broadcast address", one)),
            Some(IpAddr::V6(a)) if a.is_unspecified() => Err(bad("no address but stands for any", ONE6)),
            Some(IpAddr::V6(a)) if a.is_multicast() => Err(bad("a multicast address", ONE6)),
            Some(IpAddr::V6(a)) if a.is_unicast_link_local() => Err(bad(
                "a link-local address, which means something only together with an interface, and a NID names none",
                "give a global or unique local address, for example fd00::1@tcp",
            )),
            Some(IpAddr::V6(a)) if a.to_ipv4_mapped().is_some() => Err(bad(
                "an IPv4 address in the clothes of IPv6, which peers know under another NID",
                "write the IPv4 address as it is, for example 10.0.0.1@tcp",
            )),
            _ => Ok(self),
        }
    }

    /// The IP address of a `tcp` NID.
    pub fn ip(self) -> Option<IpAddr> {
        if self.lnd() != LND_TCP {
            return None;
        }
        match self.0[0] {
            0 => Some(IpAddr::V4(Ipv4Addr::from(array::<4>(&self.0, 4)))),
            12 => Some(IpAddr::V6(Ipv6Addr::from(array::<16>(&self.0, 4)))),
            _ => None,
        }
    }
}

impl fmt::Display for Nid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_any() {
            return f.write_str("<?>");
        }
        let num = self.net_num();
        let Some((_, name)) = LNDS.iter().find(|(t, _)| *t == self.lnd()) else {
            let addr = u32::from_be_bytes(array(&self.0, 4));
            return write!(f, "{addr:x}@<{}:{num}>", self.lnd());
        };
        match self.ip() {
            Some(ip) => write!(f, "{ip}@{name}")?,
            None if self.lnd() == LND_LO => write!(f, "{}@{name}", u32::from_be_bytes(array(&self.0, 4)))?,
            None => write!(f, "{}@{name}", Ipv4Addr::from(array::<4>(&self.0, 4)))?,
        }
        if num != 0 { write!(f, "{num}") } else { Ok(()) }
    }
}

impl fmt::Debug for Nid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reason why a string is no NID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NidParseError {
    /// The part before `@`.
    #[error("`{}` is no IPv4 or IPv6 address; write a NID as ADDRESS@NETWORK, for example 10.0.0.1@tcp", Brief(.0))]
    Address(String),
    /// Of `lo`, and not its only NID.
    #[error(
        "`{}`: the only NID of lo is 0@lo; write an address of this machine's with its network, for example 10.0.0.1@tcp",
        Brief(.0)
    )]
    Loopback(String),
    /// The part before `@` has a zone (`fe80::1%eth0`).
    #[error(
        "`{}` names an interface, and a NID cannot: give an address without %, and not a link-local one (fe80::), for example fd00::1@tcp",
        Brief(.0)
    )]
    Zone(String),
    /// An address that no machine has for itself.
    #[error("`{nid}` is {is}; {remedy}")]
    Station {
        /// The NID.
        nid: String,
        /// The kind of address that it is.
        is: &'static str,
        /// Text to write instead.
        remedy: &'static str,
    },
    /// The part after `@`.
    #[error("`{}` is no network that this node can name; write tcp, or tcp and a number up to 65535", Brief(.0))]
    Network(String),
    /// The process id.
    #[error("`{}` is no process id; write PID-NID, for example 12345-10.0.0.1@tcp", Brief(.0))]
    Pid(String),
}

impl FromStr for Nid {
    type Err = NidParseError;

    /// `ADDR[@NET[num]]`; a missing network is `tcp` (lnet.md §1.3).
    fn from_str(s: &str) -> Result<Nid, NidParseError> {
        let (addr, net) = s.split_once('@').unwrap_or((s, "tcp"));
        let net: NetId = net.parse()?;
        let (lnd, num) = (net.lnd(), net.num());
        match lnd {
            LND_TCP => {
                let ip: IpAddr = addr.parse().map_err(|_| match addr.split_once('%') {
                    Some((a, _)) if a.parse::<Ipv6Addr>().is_ok() => NidParseError::Zone(addr.to_owned()),
                    _ => NidParseError::Address(addr.to_owned()),
                })?;
                Ok(Nid::tcp(ip, num))
            }
            LND_LO if addr == "0" && num == 0 => Ok(Nid::LO),
            LND_LO => Err(NidParseError::Loopback(s.to_owned())),
            _ => {
                let ip: Ipv4Addr = addr.parse().map_err(|_| NidParseError::Address(addr.to_owned()))?;
                let nid4 = u64::from(lnd) << 48 | u64::from(num) << 32 | u64::from(u32::from(ip));
                Ok(Nid::from_nid4(nid4))
            }
        }
    }
}

/// A network identifier as kernels count it: LND type in the upper half, number in the lower one (lnet.md §1.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetId(pub u32);

impl NetId {
    /// The network of `0@lo`.
    pub const LO: NetId = NetId((LND_LO as u32) << 16);

    /// LND type.
    pub fn lnd(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// Network number.
    pub fn num(self) -> u16 {
        self.0 as u16
    }
}

impl fmt::Display for NetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let num = self.num();
        match LNDS.iter().find(|(t, _)| *t == self.lnd()) {
            Some((_, name)) if num == 0 => f.write_str(name),
            Some((_, name)) => write!(f, "{name}{num}"),
            None => write!(f, "<{}:{num}>", self.lnd()),
        }
    }
}

impl fmt::Debug for NetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NetId {
    type Err = NidParseError;

    /// `tcp`, `tcp1`, `o2ib`: what stands behind the `@` of a NID.
    fn from_str(s: &str) -> Result<NetId, NidParseError> {
        // `o2ib` has a digit inside its name; the number is what follows the longest known name.
        let (lnd, num) =
            LNDS.iter().find_map(|(t, name)| s.strip_prefix(name).map(|rest| (*t, rest))).ok_or_else(
                || NidParseError::Network(s.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned()),
            )?;
        let num: u16 = match num {
            "" => 0,
            n if n.bytes().all(|b| b.is_ascii_digit()) => {
                n.parse().map_err(|_| NidParseError::Network(s.to_owned()))?
            }
            _ => return Err(NidParseError::Network(s.to_owned())),
        };
        Ok(NetId(u32::from(lnd) << 16 | u32::from(num)))
    }
}

/// A process id within a node (lnet.md §1.4).
pub type Pid = u32;
/// The process id of every kernel node.
pub const PID_LUSTRE: Pid = 12345;
/// Set in process ids that a receiver invents for unprivileged peers.
pub const PID_USER_FLAG: Pid = 0x8000_0000;
/// Matches every process id.
pub const PID_ANY: Pid = u32::MAX;

/// A process on a node; either part may be the wildcard when it is something to match.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId {
    /// Node.
    pub nid: Nid,
    /// Process.
    pub pid: Pid,
}

impl ProcessId {
    /// Matches everyone.
    pub const ANY: ProcessId = ProcessId { nid: Nid::ANY, pid: PID_ANY };

    /// The Lustre process ([`PID_LUSTRE`]) of a node.
    pub fn lustre(nid: Nid) -> ProcessId {
        ProcessId { nid, pid: PID_LUSTRE }
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            PID_ANY => write!(f, "*-{}", self.nid),
            p if p & PID_USER_FLAG != 0 => write!(f, "U{}-{}", p & !PID_USER_FLAG, self.nid),
            p => write!(f, "{p}-{}", self.nid),
        }
    }
}

impl fmt::Debug for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ProcessId {
    type Err = NidParseError;

    /// `PID-NID`, `U<port>-NID`, or a bare NID, which means [`PID_LUSTRE`].
    fn from_str(s: &str) -> Result<ProcessId, NidParseError> {
        let Some((pid, nid)) = s.split_once('-') else {
            return Ok(ProcessId::lustre(s.parse()?));
        };
        let bad = || NidParseError::Pid(pid.to_owned());
        let number = match pid.strip_prefix('U') {
            Some(p) => p.parse::<u32>().map_err(|_| bad())? | PID_USER_FLAG,
            None => pid.parse().map_err(|_| bad())?,
        };
        Ok(ProcessId { nid: nid.parse()?, pid: number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_print_and_parse() {
        for (text, n) in
            [("tcp", 0x2_0000), ("tcp3", 0x2_0003), ("o2ib", 0x5_0000), ("o2ib4", 0x5_0004), ("lo", 0x9_0000)]
        {
            let net: NetId = text.parse().unwrap();
            assert_eq!((net, net.to_string().as_str()), (NetId(n), text));
        }
        assert_eq!("10.0.0.1@o2ib4".parse::<Nid>().unwrap().net().to_string(), "o2ib4");
        assert_eq!(NetId(0x63_0007).to_string(), "<99:7>");
        for bad in ["", "tcpx", "tcp-1", "tcp65536", "eth0", "10.0.0.1@tcp"] {
            assert!(bad.parse::<NetId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn prints_and_parses() {
        for (text, nid4) in [
            ("10.0.0.1@tcp3", Some(0x0002_0003_0A00_0001)),
            ("10.0.0.1@tcp", Some(0x0002_0000_0A00_0001)),
            ("0@lo", Some(0x0009_0000_0000_0000)),
            ("10.0.0.1@o2ib4", Some(0x0005_0004_0A00_0001)),
            ("2001:db8::1@tcp", None),
        ] {
            let nid: Nid = text.parse().unwrap();
            assert_eq!(nid.to_string(), text);
            assert_eq!(nid.to_nid4(), nid4);
            assert_eq!(Nid::from_nid16(nid.to_nid16()), nid);
            if let Some(n) = nid4 {
                assert_eq!(Nid::from_nid4(n), nid);
            }
        }
        assert_eq!("10.0.0.1@tcp0".parse::<Nid>(), "10.0.0.1".parse());
        assert_eq!(Nid::from_nid4(u64::MAX).to_string(), "<?>");
        assert_eq!(Nid::from_nid4(0x0011_0002_0000_beef).to_string(), "beef@<17:2>");
        assert!("10.0.0.1@tcpx".parse::<Nid>().is_err());
        assert!("10.0.0.1@tcp65536".parse::<Nid>().is_err());
        assert!("10.0.0.1@nosuch".parse::<Nid>().is_err());
        assert!("host@tcp".parse::<Nid>().is_err());
        assert!("1@lo".parse::<Nid>().is_err());
    }

    /// Field report 15.
    #[test]
    fn addresses_that_no_machine_has_are_named_with_what_they_are() {
        let say = |s: &str| s.parse::<Nid>().and_then(Nid::station).unwrap_err().to_string();
        let said = [
            "0.0.0.0@tcp",
            "0.1.2.3@tcp",
            "224.0.0.1@tcp",
            "239.255.255.255@tcp9",
            "255.255.255.255",
            "::@tcp",
            "ff02::1@tcp",
            "fe80::1@tcp",
            "febf::1",
            "::ffff:10.0.0.1@tcp",
            "fe80::1%eth0@tcp",
        ]
        .map(say)
        .join("\n");
        insta::assert_snapshot!(said, @r"
        `0.0.0.0@tcp` is no address but stands for any; give the address of one machine, for example 10.0.0.1@tcp
        `0.1.2.3@tcp` is no address of a machine (0.0.0.0/8); give the address of one machine, for example 10.0.0.1@tcp
        `224.0.0.1@tcp` is a multicast address; give the address of one machine, for example 10.0.0.1@tcp
        `239.255.255.255@tcp9` is a multicast address; give the address of one machine, for example 10.0.0.1@tcp
        `255.255.255.255@tcp` is the broadcast address; give the address of one machine, for example 10.0.0.1@tcp
        `::@tcp` is no address but stands for any; give the address of one machine, for example fd00::1@tcp
        `ff02::1@tcp` is a multicast address; give the address of one machine, for example fd00::1@tcp
        `fe80::1@tcp` is a link-local address, which means something only together with an interface, and a NID names none; give a global or unique local address, for example fd00::1@tcp
        `febf::1@tcp` is a link-local address, which means something only together with an interface, and a NID names none; give a global or unique local address, for example fd00::1@tcp
        `::ffff:10.0.0.1@tcp` is an IPv4 address in the clothes of IPv6, which peers know under another NID; write the IPv4 address as it is, for example 10.0.0.1@tcp
        `fe80::1%eth0` names an interface, and a NID cannot: give an address without %, and not a link-local one (fe80::), for example fd00::1@tcp
        ");
        for good in
            ["10.0.0.1@tcp", "127.0.0.1@tcp", "169.254.1.1@tcp", "240.0.0.1@tcp", "fd00::1@tcp", "::1@tcp"]
        {
            assert!(good.parse::<Nid>().and_then(Nid::station).is_ok(), "{good}");
        }
        // A peer may say so of itself.
        assert_eq!(Nid::from_nid4(0x0002_0000_0000_0000).to_string(), "0.0.0.0@tcp");
        assert!("224.0.0.1@tcp".parse::<Nid>().is_ok());
    }

    #[test]
    fn process_ids() {
        for text in ["12345-10.0.0.1@tcp", "U988-10.0.0.1@tcp"] {
            assert_eq!(text.parse::<ProcessId>().unwrap().to_string(), text);
        }
        assert_eq!("10.0.0.1@tcp".parse::<ProcessId>().unwrap().pid, PID_LUSTRE);
        assert!("x-10.0.0.1@tcp".parse::<ProcessId>().is_err());
        assert_eq!("U988-10.0.0.1@tcp".parse::<ProcessId>().unwrap().pid, 0x8000_0000 | 988);
    }

    #[test]
    fn order_is_that_of_the_race_rule() {
        let a: Nid = "10.0.0.9@tcp".parse().unwrap();
        let b: Nid = "10.0.0.10@tcp".parse().unwrap();
        let six: Nid = "::1@tcp".parse().unwrap();
        assert!(a < b && b < six);
    }
}
