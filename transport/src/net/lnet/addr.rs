//! Addresses of the lnet transport: `NID:PID:PORTAL:TMID` (docs/protocol/netxprt.md §8).

use std::fmt;

use crate::net::NetError;
use crate::wire::nid::{PID_LUSTRE, Pid};
use crate::wire::{Nid, ProcessId, lnet};

/// Longest address, in bytes.
const TEXT_MAX: usize = 80;
/// Largest number of a transfer machine.
pub(super) const TMID_MAX: u16 = 4095;
/// Bits of a buffer's number in match bits; above them is the transfer machine's.
const TMID_SHIFT: u32 = 52;

/// An end-point of the lnet transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LnetAddr {
    /// NID.
    pub nid: Nid,
    /// Process.
    pub pid: Pid,
    /// Portal, 1 to 63.
    pub portal: u32,
    /// Number of the transfer machine, 1 to 4095.
    pub tmid: u16,
}

impl fmt::Display for LnetAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.nid, self.pid, self.portal, self.tmid)
    }
}

/// The machine's number in match bits and header data.
pub(super) fn tmid_of(word: u64) -> u64 {
    word >> TMID_SHIFT
}

/// Match bits of a machine's buffer number `counter`; 0 is for messages.
pub(super) fn bits(tmid: u16, counter: u64) -> u64 {
    u64::from(tmid) << TMID_SHIFT | counter & counters()
}

/// The largest number of a buffer.
pub(super) fn counters() -> u64 {
    (1 << TMID_SHIFT) - 1
}

impl LnetAddr {
    /// The process.
    pub fn process(&self) -> ProcessId {
        ProcessId { nid: self.nid, pid: self.pid }
    }

    /// Its word in the header of each PUT.
    pub(super) fn hdr_data(&self) -> u64 {
        bits(self.tmid, self.portal.into())
    }

    /// The sender of a PUT with this header data; `None` for one that does not tell, or tells nonsense.
    pub(super) fn sender(from: ProcessId, hdr_data: u64) -> Option<LnetAddr> {
        let portal = u32::try_from(hdr_data & counters()).ok().filter(|p| (1..lnet::PORTALS).contains(p))?;
        let tmid = u16::try_from(tmid_of(hdr_data)).ok().filter(|t| *t > 0)?;
        Some(LnetAddr { nid: from.nid, pid: from.pid, portal, tmid })
    }

    /// Takes a name apart; the number is `None` for a `*`.
    ///
    /// # Errors
    /// [`NetError::LnetName`]
    pub fn parse(text: &str) -> Result<(LnetAddr, bool), NetError> {
        let bad = |what| NetError::LnetName { text: text.to_owned(), what };
        if text.len() > TEXT_MAX {
            return Err(bad("it is longer than 80 characters"));
        }
        // From behind: an IPv6 address has colons of its own.
        let mut parts = text.rsplitn(4, ':');
        let (tmid, portal, pid) = (parts.next(), parts.next(), parts.next());
        let nid = parts.next().ok_or_else(|| bad("it has not four parts"))?;
        let nid: Nid = nid.parse().map_err(|_| bad("the NID is none"))?;
        let pid: Pid = pid.and_then(|p| p.parse().ok()).ok_or_else(|| bad("the process is no number"))?;
        if pid != PID_LUSTRE {
            return Err(bad("the process must be 12345"));
        }
        let portal = portal.and_then(|p| p.parse::<u32>().ok()).filter(|p| (1..lnet::PORTALS).contains(p));
        let portal = portal.ok_or_else(|| bad("the portal must be 1 to 63"))?;
        let star = tmid == Some("*");
        let tmid = tmid.and_then(|t| t.parse::<u16>().ok()).filter(|t| (1..=TMID_MAX).contains(t));
        match tmid {
            None if !star => Err(bad("the transfer machine must be 1 to 4095, or *")),
            tmid => Ok((LnetAddr { nid, pid, portal, tmid: tmid.unwrap_or(0) }, star)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let at = |t: &str| LnetAddr::parse(t).map(|(a, star)| (a.to_string(), star));
        for name in [
            "10.0.0.1@tcp:12345:1:1",
            "10.0.0.1@tcp7:12345:63:4095",
            "fd00::1@tcp:12345:34:2",
            "0@lo:12345:30:9",
        ] {
            assert_eq!(at(name), Ok((name.to_owned(), false)));
        }
        assert_eq!(at("10.0.0.1@tcp:12345:34:*"), Ok(("10.0.0.1@tcp:12345:34:0".to_owned(), true)));
        for name in [
            "",
            "10.0.0.1@tcp",
            "10.0.0.1@tcp:12345:34",
            "10.0.0.1@tcp:12344:34:1",
            "10.0.0.1@tcp:12345:0:1",
            "10.0.0.1@tcp:12345:64:1",
            "10.0.0.1@tcp:12345:34:0",
            "10.0.0.1@tcp:12345:34:4096",
            "x@y:12345:34:1",
            "10.0.0.1@tcp:12345:34:1*",
            "inet:stream:10.0.0.1@5000",
        ] {
            let e = at(name).unwrap_err();
            assert_eq!(e.errno(), 22, "{name}: {e}");
        }
        assert!(at(&format!("{}10.0.0.1@tcp:12345:34:1", "0".repeat(60))).is_err());
    }

    #[test]
    fn a_sender_is_known_by_its_word() {
        let (a, _) = LnetAddr::parse("10.0.0.1@tcp:12345:34:4095").unwrap();
        assert_eq!(a.hdr_data(), 0xfff0_0000_0000_0022);
        assert_eq!(LnetAddr::sender(a.process(), a.hdr_data()), Some(a));
        for word in [0, 34, 1 << 52, 1 << 52 | 64, 1 << 52 | 1 << 40] {
            assert_eq!(LnetAddr::sender(a.process(), word), None, "{word:#x}");
        }
    }
}
