//! Figures in units that fit them.

use transport::wire::Brief;

/// Three digits of `x`, which is at least 1.
fn digits(x: f64) -> String {
    let places = if x < 9.995 {
        2
    } else if x < 99.95 {
        1
    } else {
        0
    };
    format!("{x:.places$}")
}

fn scaled(x: f64, units: &[(f64, &str)]) -> String {
    let last = units.last();
    let fits = units.iter().find(|(size, _)| x >= *size * 0.9995).or(last);
    fits.map_or_else(|| digits(x), |(size, name)| format!("{} {name}", digits(x / size)))
}

/// A rate of bytes.
pub(crate) fn rate(bytes: u64, seconds: f64) -> String {
    if bytes == 0 {
        return "0 bit/s".into();
    }
    let bits = bytes as f64 * 8.0 / seconds.max(1e-9);
    scaled(bits, &[(1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"), (1.0, "bit/s")])
}

pub(crate) use bench::report::many;

/// A size in bytes: digits, and perhaps a unit.
pub(crate) fn size(s: &str) -> Result<u128, String> {
    let end = s.find(|c: char| !c.is_ascii_digit()).unwrap_or(s.len());
    let (digits, unit) = s.split_at(end);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => Some(0),
        "k" | "kib" => Some(10),
        "m" | "mib" => Some(20),
        "g" | "gib" => Some(30),
        _ => None,
    };
    let n = digits.parse::<u64>().ok().zip(shift).map(|(n, shift)| u128::from(n) << shift);
    n.ok_or_else(|| {
        format!(
            "{:?} is no size: give bytes, or a number with k, M or G (KiB, MiB, GiB), such as 4k or 16M",
            Brief(s)
        )
    })
}

/// A rate of messages.
pub(crate) fn per_second(n: u64, seconds: f64) -> String {
    if n == 0 {
        return "0/s".into();
    }
    scaled(n as f64 / seconds.max(1e-9), &[(1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")]).replace(" /s", "/s")
}

/// A time.
pub(crate) fn time(seconds: f64) -> String {
    if seconds <= 0.0 {
        return "0 s".into();
    }
    // Minutes are told in seconds, to the tenth.
    if seconds >= 99.95 {
        return format!("{seconds:.1} s");
    }
    scaled(seconds, &[(1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2].map(|n| many(n, "byte")), ["0 bytes", "1 byte", "2 bytes"]);
    }

    /// Field report 21: small figures are no "0.00".
    #[test]
    fn three_digits_in_the_unit_that_fits() {
        let g = 1_000_000_000;
        assert_eq!(
            [1, 97, 125_000, g / 8, 31 * g].map(|b| rate(b, 1.0)),
            ["8.00 bit/s", "776 bit/s", "1.00 Mbit/s", "1.00 Gbit/s", "248 Gbit/s"]
        );
        assert_eq!(
            [rate(0, 1.0), rate(1, 100.0), rate(124_999_999, 1.0)],
            ["0 bit/s", "0.08 bit/s", "1.00 Gbit/s"]
        );
        assert_eq!(
            [0, 1, 999, 810_000, 1_400_000].map(|n| per_second(n, 1.0)),
            ["0/s", "1.00/s", "999/s", "810 k/s", "1.40 M/s"]
        );
        assert_eq!(
            [0.0, 0.000_000_2, 0.000_05, 0.012_34, 1.0, 61.25, 3600.0].map(time),
            ["0 s", "200 ns", "50.0 us", "12.3 ms", "1.00 s", "61.2 s", "3600.0 s"]
        );
    }
}
