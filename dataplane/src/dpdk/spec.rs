//! How a user names a port.

use std::str::FromStr;

/// A port: a PCI device, a virtual device to be made, or one that the EAL has already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortSpec {
    /// PCI address, as `lspci -D` prints it: `0000:03:00.0`.
    Pci(String),
    /// Virtual device: driver name with a number, and its arguments.
    Vdev {
        /// Such as `net_tap0`.
        name: String,
        /// Such as `iface=tap7`; may be empty.
        args: String,
    },
    /// Name of a port that exists.
    Name(String),
}

/// The text names no port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" names no port: give a PCI address (0000:03:00.0), a virtual device (net_tap0,iface=tap7) or the name of a port"
)]
pub struct BadPortSpec(String);

/// `[dddd:]bb:dd.f`, completed with domain 0.
fn pci(s: &str) -> Option<String> {
    let hex = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_hexdigit());
    let parts: Vec<_> = s.split(':').collect();
    let (domain, bus, rest) = match parts[..] {
        [b, r] => ("0000", b, r),
        [d, b, r] => (d, b, r),
        _ => return None,
    };
    let (dev, func) = rest.split_once('.')?;
    (hex(domain, 4) && hex(bus, 2) && hex(dev, 2) && hex(func, 1))
        .then(|| format!("{domain}:{bus}:{dev}.{func}").to_ascii_lowercase())
}

impl FromStr for PortSpec {
    type Err = BadPortSpec;

    fn from_str(s: &str) -> Result<PortSpec, BadPortSpec> {
        if s.is_empty() || s.chars().any(|c| c.is_whitespace() || c == '\0') {
            return Err(BadPortSpec(s.into()));
        }
        if let Some(a) = pci(s) {
            return Ok(PortSpec::Pci(a));
        }
        let (name, args) = s.split_once(',').unwrap_or((s, ""));
        let driver = name.trim_end_matches(|c: char| c.is_ascii_digit());
        if name.starts_with("net_") || name.starts_with("eth_") {
            return if driver.len() < name.len() {
                Ok(PortSpec::Vdev { name: name.into(), args: args.into() })
            } else {
                // The bus matches "net_tap" with any number, but needs one to make a device.
                Err(BadPortSpec(s.into()))
            };
        }
        if args.is_empty() { Ok(PortSpec::Name(name.into())) } else { Err(BadPortSpec(s.into())) }
    }
}

impl PortSpec {
    /// The name that DPDK gives the port.
    pub fn port_name(&self) -> &str {
        match self {
            PortSpec::Pci(n) | PortSpec::Name(n) | PortSpec::Vdev { name: n, .. } => n,
        }
    }

    /// The kernel interface that a virtual device sits on (`iface=`, `remote=`), if any.
    pub fn kernel_iface(&self) -> Option<&str> {
        let PortSpec::Vdev { name, args } = self else { return None };
        // A tap's or vhost's iface is one that the device makes itself.
        let keys: &[&str] = if name.starts_with("net_af_") { &["iface="] } else { &["remote="] };
        args.split(',').find_map(|a| keys.iter().find_map(|k| a.strip_prefix(k)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_ways_to_name_a_port() {
        let p = |s: &str| s.parse::<PortSpec>();
        assert_eq!(p("0000:0A:00.1"), Ok(PortSpec::Pci("0000:0a:00.1".into())));
        assert_eq!(p("03:00.0"), Ok(PortSpec::Pci("0000:03:00.0".into())));
        let v = p("net_af_packet0,iface=eth1,qpairs=1").unwrap();
        assert_eq!((v.port_name(), v.kernel_iface()), ("net_af_packet0", Some("eth1")));
        assert_eq!(p("net_tap0,iface=tap7").unwrap().kernel_iface(), None);
        assert_eq!(p("net_tap0,remote=eth0").unwrap().kernel_iface(), Some("eth0"));
        assert_eq!(p("wan"), Ok(PortSpec::Name("wan".into())));
        for bad in ["", "net_tap", "net_tap,iface=x", "a b", "wan,x=1", "03:00", "zz:00.0:1"] {
            assert!(p(bad).is_err() || matches!(p(bad), Ok(PortSpec::Name(_))), "{bad}");
        }
        assert!(p("net_tap").unwrap_err().to_string().contains("net_tap0,iface=tap7"));
    }
}
