//! Values of options: numbers in their ranges, sizes, times, addresses.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use transport::wire::{Brief, Nid};

use crate::units;

/// A whole number in `range`.
pub(crate) fn number<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |s| {
        let n = s.parse().ok().filter(|n| range.contains(n)).and_then(|n| T::try_from(n).ok());
        n.ok_or_else(|| format!("it takes a whole number from {} to {}", range.start(), range.end()))
    }
}

/// A whole number in `range`; or -1, which lnetctl has for one that is not said.
pub(crate) fn or_unsaid(range: RangeInclusive<i64>) -> impl Fn(&str) -> Result<i64, String> + Clone {
    move |s| {
        let n = s.parse().ok().filter(|n| *n == -1 || range.contains(n));
        n.ok_or_else(|| {
            format!("it takes a whole number from {} to {}, or -1 for none", range.start(), range.end())
        })
    }
}

/// A number of bytes in `range`, perhaps with a unit.
pub(crate) fn size<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |s| {
        let n = u64::try_from(units::size(s)?)
            .ok()
            .filter(|n| range.contains(n))
            .and_then(|n| T::try_from(n).ok());
        n.ok_or_else(|| format!("it takes {} to {} bytes", range.start(), range.end()))
    }
}

/// A number in `range`, which the error calls `what`.
fn real(s: &str, what: &str, range: RangeInclusive<f64>) -> Result<f64, String> {
    match s.parse() {
        Ok(v) if range.contains(&v) => Ok(v),
        _ => Err(format!("{:?} is not a {what} from {} to {}", Brief(s), range.start(), range.end())),
    }
}

/// A value of one of several ports, or `default` for what it has unless told.
pub(crate) fn each<T>(
    one: impl Fn(&str) -> Result<T, String> + Clone,
) -> impl Fn(&str) -> Result<Option<T>, String> + Clone {
    move |s| if s == "default" { Ok(None) } else { one(s).map(Some) }
}

/// An IP address.
pub(crate) fn ip(s: &str) -> Result<IpAddr, String> {
    s.parse().map_err(|_| "it is no IP address, such as 10.0.0.254 or fd00::1".to_owned())
}

/// An address to listen at.
pub(crate) fn listen_at(s: &str) -> Result<SocketAddr, String> {
    s.parse().map_err(|_| {
        let port = s.parse().unwrap_or(9988_u16);
        format!("it takes an address of this machine and a port, such as 127.0.0.1:{port}, or 0.0.0.0:{port} for all")
    })
}

/// Seconds of a wait or a measurement.
pub(crate) fn seconds(s: &str) -> Result<f64, String> {
    real(s, "number of seconds", 0.1..=3600.0)
}

/// A NID of the tcp LND.
pub(crate) fn nid(s: &str) -> Result<Nid, String> {
    let n = Nid::from_str(s).and_then(Nid::station).map_err(|e| e.to_string())?;
    match n.ip() {
        Some(_) => Ok(n),
        None => Err(format!(
            "{:?} is no NID of a tcp network; it should look like 10.0.0.1@tcp or fd00::1@tcp",
            Brief(s)
        )),
    }
}

/// Most bytes of a transfer.
pub(crate) const TRANSFER_MAX: u64 = 1 << 30;

fn count(s: &str, most: u64) -> Result<u64, String> {
    s.parse()
        .ok()
        .filter(|n| (1..=most).contains(n))
        .ok_or_else(|| format!("{:?} is no number from 1 to {most}", Brief(s)))
}

/// A number of pings.
pub(crate) fn pings(s: &str) -> Result<u64, String> {
    count(s, 1_000_000)
}

/// A number of transfers.
pub(crate) fn transfers(s: &str) -> Result<u64, String> {
    count(s, u64::MAX)
}

/// Seconds from one ping to the next.
pub(crate) fn pause(s: &str) -> Result<f64, String> {
    real(s, "number of seconds", 0.001..=3600.0)
}

/// The size of a transfer.
pub(crate) fn bytes(s: &str) -> Result<u64, String> {
    let n = units::size(s)?;
    let fits = u64::try_from(n).ok().filter(|n| *n <= TRANSFER_MAX);
    fits.ok_or_else(|| format!("{:?} is {n} bytes: a transfer has at most {TRANSFER_MAX} (1G)", Brief(s)))
}

/// A positive number that is neither tiny nor huge.
pub(crate) fn positive(s: &str) -> Result<f64, String> {
    real(s, "number", 0.001..=1_000_000.0)
}

/// A part of a hundred.
pub(crate) fn per_cent(s: &str) -> Result<f64, String> {
    real(s, "number of per cent", 0.0..=100.0)
}

/// Seconds of a run in virtual time, or of CPU time.
pub(crate) fn run_seconds(s: &str) -> Result<f64, String> {
    real(s, "number of seconds", 0.001..=60.0)
}

/// A run of `bench growth`: a line through fewer than a handful of samples, one a second, tells nothing.
pub(crate) fn growth_seconds(s: &str) -> Result<f64, String> {
    real(s, "number of seconds", 5.0..=86_400.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field report 21.
    #[test]
    fn sizes_have_units() {
        for (s, n) in [
            ("0", 0),
            ("1", 1),
            ("97", 97),
            ("4k", 4096),
            ("1M", 1 << 20),
            ("1048577", (1 << 20) + 1),
            ("16m", 16 << 20),
            ("2KiB", 2048),
            ("1G", 1 << 30),
        ] {
            assert_eq!(bytes(s), Ok(n), "{s}");
        }
        for (s, says) in [
            ("", "no size"),
            ("-1", "no size"),
            ("4x", "no size"),
            ("1.5M", "no size"),
            ("M", "no size"),
            ("1025M", "1074790400 bytes"),
            ("99999999999999999999", "no size"),
            ("18446744073709551615k", "at most"),
        ] {
            let e = bytes(s).unwrap_err();
            assert!(e.contains(&format!("{s:?}")) && e.contains(says), "{s}: {e}");
        }
    }
}
