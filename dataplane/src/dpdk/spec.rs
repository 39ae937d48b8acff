//! Names of ports, as users give them.

use std::path::PathBuf;
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
        if s.is_empty() || s.chars().any(|c| c.is_whitespace() || c.is_control()) {
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

/// An argument that a driver does not do without.
pub(crate) struct Needed {
    pub(crate) key: &'static str,
    pub(crate) what: &'static str,
    pub(crate) example: &'static str,
}

impl PortSpec {
    /// The argument that the driver does not do without, if a device that is to be made has not got it. Drivers answer that
    /// with EPERM, and net_vhost takes an empty one and waits on a socket that has no path.
    pub(crate) fn lacking(&self) -> Option<Needed> {
        let PortSpec::Vdev { name, args } = self else { return None };
        let (key, what, example) = match name.trim_end_matches(|c: char| c.is_ascii_digit()) {
            "net_vhost" | "eth_vhost" => ("iface", "the path of its socket", "/tmp/v.sock"),
            "net_virtio_user" => {
                ("path", "the path of the vhost socket that the other end serves", "/tmp/v.sock")
            }
            "net_af_packet" | "net_af_xdp" => ("iface", "the kernel interface that it sits on", "eth1"),
            _ => return None,
        };
        let value = args.split(',').find_map(|a| a.strip_prefix(key)?.strip_prefix('='));
        value.is_none_or(str::is_empty).then_some(Needed { key, what, example })
    }
}

/// The socket of a device that speaks vhost-user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VhostSocket {
    /// Its path.
    pub path: PathBuf,
    /// Whether the device makes the socket and waits there, rather than connecting to it.
    pub listens: bool,
    /// The argument that names it.
    pub(crate) key: &'static str,
}

impl PortSpec {
    /// The vhost-user socket of a `net_vhost` or `net_virtio_user` device.
    pub fn socket(&self) -> Option<VhostSocket> {
        let PortSpec::Vdev { name, args } = self else { return None };
        let (key, vhost) = match name.trim_end_matches(|c: char| c.is_ascii_digit()) {
            "net_vhost" | "eth_vhost" => ("iface=", true),
            "net_virtio_user" => ("path=", false),
            _ => return None,
        };
        let path = args.split(',').find_map(|a| a.strip_prefix(key)).filter(|p| !p.is_empty())?;
        let path = PathBuf::from(path);
        // vhost-net and vDPA are devices of the kernel.
        if !vhost && path.starts_with("/dev") && !path.starts_with("/dev/shm") {
            return None;
        }
        let has = |what| args.split(',').any(|a| a == what);
        let listens = if vhost { !has("client=1") } else { has("server=1") };
        Some(VhostSocket { path, listens, key })
    }

    /// Descriptors of each ring of a virtio_user device: `queue_size=`, or the driver's 256.
    pub(crate) fn ring(&self) -> Option<u16> {
        let PortSpec::Vdev { name, args } = self else { return None };
        if !name.starts_with("net_virtio_user") {
            return None;
        }
        args.split(',').find_map(|a| a.strip_prefix("queue_size=")).map_or(Some(256), |n| n.parse().ok())
    }

    /// Queue pairs that are asked of an AF_PACKET device.
    pub(crate) fn fanout(&self) -> Option<u16> {
        let PortSpec::Vdev { name, args } = self else { return None };
        let n = args
            .split(',')
            .find_map(|a| a.strip_prefix("qpairs="))
            .filter(|_| name.starts_with("net_af_packet"))?;
        n.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field report 9: without `queue_size=` the driver refused the queue.
    #[test]
    fn a_virtio_user_ring_is_as_large_as_its_arguments_say() {
        let ring = |s: &str| s.parse::<PortSpec>().unwrap().ring();
        assert_eq!(ring("net_virtio_user0,path=/tmp/v.sock"), Some(256));
        assert_eq!(ring("net_virtio_user0,path=/tmp/v.sock,queue_size=1024,mrg_rxbuf=1"), Some(1024));
        assert_eq!((ring("net_tap0"), ring("0000:03:00.0")), (None, None));
    }

    /// A node said that it was up on a vhost socket without a path.
    #[test]
    fn arguments_that_a_driver_needs_are_asked_for() {
        let lacks = |s: &str| s.parse::<PortSpec>().unwrap().lacking().map(|n| n.key);
        for (s, key) in [
            ("net_vhost0", "iface"),
            ("net_vhost0,iface=,tso=1", "iface"),
            ("net_virtio_user3,queues=1", "path"),
            ("net_virtio_user3,path=", "path"),
            ("net_af_packet0,qpairs=1", "iface"),
        ] {
            assert_eq!(lacks(s), Some(key), "{s}");
        }
        for fine in ["net_vhost0,tso=1,iface=/x", "net_virtio_user0,path=/x", "net_tap0", "net_null0", "wan"]
        {
            assert_eq!(lacks(fine), None, "{fine}");
        }
    }

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

    #[test]
    fn sockets_and_who_makes_them() {
        let s = |s: &str| {
            s.parse::<PortSpec>().unwrap().socket().map(|s| (s.path.display().to_string(), s.listens))
        };
        assert_eq!(s("net_vhost0,iface=/x/v,queues=1"), Some(("/x/v".into(), true)));
        assert_eq!(s("net_vhost0,iface=/x/v,client=1"), Some(("/x/v".into(), false)));
        assert_eq!(s("net_virtio_user1,path=/x/v"), Some(("/x/v".into(), false)));
        assert_eq!(s("net_virtio_user1,server=1,path=/x/v"), Some(("/x/v".into(), true)));
        for none in
            ["net_virtio_user0,path=/dev/vhost-net", "net_tap0,iface=x", "net_virtio_user0", "0000:03:00.0"]
        {
            assert_eq!(s(none), None, "{none}");
        }
    }
}
