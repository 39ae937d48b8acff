//! From a port's name to the device: found, made or probed, and not the one that carries the default route.

use std::ffi::CString;
use std::path::Path;

use dpdk_sys as sys;

use super::eal::strerror;
use super::port_config::{PortConfig, PortError};
use super::spec::{Needed, PortSpec};
use crate::doctor;

pub(super) fn call(port: &str, what: &'static str, r: i32, remedy: &'static str) -> Result<(), PortError> {
    if r >= 0 {
        return Ok(());
    }
    Err(PortError::Call { port: port.into(), call: what, errno: strerror(-r), remedy })
}

/// The ethdev of that name, if there is one.
fn lookup(name: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let mut id = 0;
    // SAFETY: a terminated name and a place for the answer.
    (unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut id) } == 0).then_some(id)
}

/// Finds the port, making or probing the device when need be. The name is Some when a virtual device was made.
pub(super) fn find(spec: &PortSpec) -> Result<(u16, Option<CString>), PortError> {
    if let Some(id) = lookup(spec.port_name()) {
        return Ok((id, None));
    }
    let missing = |e: i32, remedy| PortError::NotFound {
        port: spec.port_name().into(),
        // Drivers have -1 for whatever they refuse.
        errno: if e == -1 { "its driver refuses it".into() } else { strerror(e.abs()) },
        remedy,
    };
    let c =
        |s: &str| CString::new(s).map_err(|_| missing(libc::EINVAL, "remove the zero byte from its name"));
    match spec {
        PortSpec::Name(_) => Err(missing(libc::ENODEV, "`pollnd doctor` lists the ports")),
        PortSpec::Pci(addr) => {
            let remedy = "bind it to vfio-pci (pollnd doctor --fix --port ADDRESS), run as root or with access to its \
                          vfio group, with huge pages, and without --no-pci";
            // SAFETY: a terminated string.
            let r = unsafe { sys::rte_dev_probe(c(addr)?.as_ptr()) };
            if r < 0 {
                return Err(missing(r, remedy));
            }
            lookup(addr).map(|id| (id, None)).ok_or_else(|| missing(libc::ENODEV, remedy))
        }
        PortSpec::Vdev { name, args } => {
            let remedy = "check its arguments, that the driver's package is installed (librte-net-*), and that this user may make \
                          such a device (net_tap: CAP_NET_ADMIN, net_af_packet: CAP_NET_RAW)";
            if let Some(Needed { key, what, example }) = spec.lacking() {
                return Err(PortError::Lacks { port: name.clone(), key, what, example });
            }
            let (n, a) = (c(name)?, c(args)?);
            // SAFETY: terminated strings.
            let r = unsafe { sys::rte_eal_hotplug_add(c"vdev".as_ptr(), n.as_ptr(), a.as_ptr()) };
            if r < 0 {
                return Err(missing(r, remedy));
            }
            lookup(name).map(|id| (id, Some(n))).ok_or_else(|| missing(libc::ENODEV, remedy))
        }
    }
}

/// Refuses an interface with the default route, also one that carries it by way of a bridge, bond or VLAN, and collects
/// what the user should know of the device.
pub(super) fn guard(root: &Path, spec: &PortSpec, config: &PortConfig) -> Result<Vec<String>, PortError> {
    if let Some(qpairs) = spec.fanout().filter(|n| *n > 1) {
        return Err(PortError::Fanout { port: spec.port_name().into(), qpairs });
    }
    let net = doctor::Net::read(root);
    if let Some(iface) = spec.kernel_iface().filter(|i| !net.has(i)) {
        return Err(PortError::NoInterface { port: spec.port_name().into(), iface: iface.to_owned() });
    }
    let mut ifaces: Vec<String> = spec.kernel_iface().map(str::to_owned).into_iter().collect();
    let mut warnings: Vec<String> = super::joined::warning(root, spec).into_iter().collect();
    if let PortSpec::Pci(addr) = spec
        && let Some(p) = doctor::pci_port(root, addr)
    {
        if p.hidden(&net) {
            warnings.push(format!("port {addr}: {}", p.hidden_text()));
        }
        ifaces.extend(p.ifaces.iter().filter(|i| net.sees(i)).cloned());
        warnings.extend(p.dma_warning());
    }
    match ifaces.iter().find_map(|i| Some((i, net.carries(i)?))) {
        Some((iface, by)) if !config.allow_default_route => Err(PortError::DefaultRoute {
            port: spec.port_name().into(),
            iface: doctor::by_way_of(iface, &by),
        }),
        _ => Ok(warnings),
    }
}

impl PortSpec {
    /// The NUMA node of the device behind it, as far as that can be told before it is opened.
    pub fn node(&self) -> Option<u32> {
        self.node_below(Path::new("/"))
    }

    fn node_below(&self, root: &Path) -> Option<u32> {
        match self {
            PortSpec::Pci(addr) => doctor::pci_port(root, addr)?.node,
            _ => doctor::iface_node(root, self.kernel_iface()?),
        }
    }
}

pub(super) fn remove_vdev(name: &CString) {
    // SAFETY: terminated strings; the device's port is closed. A refusal leaves an idle device, which is harmless.
    unsafe { sys::rte_eal_hotplug_remove(c"vdev".as_ptr(), name.as_ptr()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_19_af_packet_with_several_sockets_is_refused() {
        let d = tempfile::tempdir().unwrap();
        let ask = |s: &str| guard(d.path(), &s.parse().unwrap(), &PortConfig::default());
        let e = ask("net_af_packet0,iface=x,qpairs=2").unwrap_err().to_string();
        assert!(
            e.contains("net_af_packet0") && e.contains("qpairs=2") && e.contains("leave qpairs out"),
            "{e}"
        );
        assert!(ask("net_af_packet0,iface=x,qpairs=1").is_ok() && ask("net_af_packet0,iface=x").is_ok());
    }

    /// "Operation not permitted" was said of it.
    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let d = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(d.path().join("proc/net")).unwrap();
        std::fs::write(d.path().join("proc/net/dev"), "\n\nlan0: 0\n").unwrap();
        let ask = |s: &str| guard(d.path(), &s.parse().unwrap(), &PortConfig::default());
        for s in ["net_af_packet0,iface=wan0", "net_tap0,remote=wan0"] {
            let e = ask(s).unwrap_err().to_string();
            assert!(e.contains("no interface wan0"), "{s}: {e}");
        }
        for fine in
            ["net_af_packet0,iface=lan0", "net_tap0", "net_tap0,iface=new0", "net_null0", "net_af_packet0"]
        {
            assert!(ask(fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn the_interface_with_the_default_route_is_refused_however_it_is_named() {
        let d = tempfile::tempdir().unwrap();
        let pci = d.path().join("sys/bus/pci/devices/0000:03:00.0");
        std::fs::create_dir_all(pci.join("net/wan0")).unwrap();
        std::fs::write(pci.join("class"), "0x020000\n").unwrap();
        std::os::unix::fs::symlink("../drivers/igb_uio", pci.join("driver")).unwrap();
        std::fs::create_dir_all(d.path().join("proc/net")).unwrap();
        let route =
            "Iface Destination Gateway Flags RefCnt Use Metric Mask\nwan0 00000000 01 3 0 0 0 00000000\n";
        std::fs::write(d.path().join("proc/net/route"), route).unwrap();
        let ask = |s: &str, allow| {
            let config = PortConfig { allow_default_route: allow, ..PortConfig::default() };
            guard(d.path(), &s.parse().unwrap(), &config)
        };
        for s in ["03:00.0", "net_af_packet0,iface=wan0", "net_tap0,remote=wan0"] {
            let e = ask(s, false).unwrap_err().to_string();
            assert!(e.contains("wan0") && e.contains("default route"), "{e}");
            assert!(ask(s, true).is_ok());
        }
        assert!(ask("net_af_xdp0,iface=lan0", false).unwrap().is_empty());
        let w = ask("03:00.0", true).unwrap();
        assert!(w.len() == 1 && w[0].contains("vfio-pci"), "uio is warned of: {w:?}");
    }

    /// Field report 11: the route is over a bridge over a bond over the NIC; and of a NIC that is in another namespace
    /// nothing can be told.
    #[test]
    fn an_interface_below_the_one_with_the_default_route_is_refused() {
        let d = tempfile::tempdir().unwrap();
        let dir = |p: &str| std::fs::create_dir_all(d.path().join(p)).unwrap();
        let put = |p: &str, s: &str| std::fs::write(d.path().join(p), s).unwrap();
        let pci = "sys/bus/pci/devices/0000:03:00.0";
        dir(&format!("{pci}/net/eth0"));
        dir("proc/net");
        put(&format!("{pci}/class"), "0x020000\n");
        put(&format!("{pci}/numa_node"), "1\n");
        std::os::unix::fs::symlink("../drivers/mlx5_core", d.path().join(pci).join("driver")).unwrap();
        dir("sys/class/net/br0/lower_bond0");
        dir("sys/class/net/bond0/lower_eth0");
        dir("sys/class/net/eth0/device");
        put("sys/class/net/eth0/device/numa_node", "1\n");
        dir("sys/class/net/lan0");
        put("proc/net/route", "I D G F R U M Mask\nbr0 00000000 01 3 0 0 0 00000000\n");
        put("proc/net/dev", "\n\nbr0: 0\nbond0: 0\neth0: 0\nlan0: 0\n");
        let ask = |s: &str| guard(d.path(), &s.parse().unwrap(), &PortConfig::default());
        for s in ["03:00.0", "net_af_packet0,iface=eth0", "net_tap0,remote=bond0", "net_af_xdp0,iface=br0"] {
            let e = ask(s).unwrap_err().to_string();
            assert!(e.contains("br0") && e.contains("default route"), "{e}");
        }
        assert!(ask("03:00.0").unwrap_err().to_string().contains("eth0, by way of bond0 and br0,"));
        assert!(ask("net_af_packet0,iface=lan0").unwrap().is_empty());
        let near = |s: &str| s.parse::<PortSpec>().unwrap().node_below(d.path());
        assert_eq!(
            [near("03:00.0"), near("net_af_xdp0,iface=br0"), near("net_tap0")],
            [Some(1), Some(1), None]
        );

        put("proc/net/dev", "\n\nlan0: 0\n");
        let w = ask("03:00.0").unwrap();
        assert!(w.len() == 1 && w[0].contains("eth0 is not in this network namespace"), "{w:?}");
    }
}
