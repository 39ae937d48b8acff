//! IOMMU groups: devices that vfio gives to user space together or not at all.

use std::fs;
use std::path::Path;

use super::{Finding, Net, Severity, names, pci_ports, text};

/// A device of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// PCI address.
    pub addr: String,
    /// Driver it is bound to, if any.
    pub driver: Option<String>,
}

impl Member {
    /// Whether it keeps vfio from the group: a driver of the kernel's has it. Bridges of the bus do no DMA of their own.
    pub fn blocks(&self) -> bool {
        self.driver.as_deref().is_some_and(|d| !["vfio-pci", "pci-stub", "pcieport"].contains(&d))
    }
}

/// The group of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub number: String,
    /// The other devices in it.
    pub others: Vec<Member>,
    /// Whether addresses that its devices use are translated; else they are physical ones (`iommu=pt`).
    pub translates: bool,
}

/// The group of the device at a PCI address; `None` where no IOMMU has it. `root` is `/` but for tests.
pub fn group(root: &Path, addr: &str) -> Option<Group> {
    let devices = root.join("sys/bus/pci/devices");
    let link = fs::read_link(devices.join(addr).join("iommu_group")).ok()?;
    let number = link.file_name()?.to_str()?.to_owned();
    let dir = root.join("sys/kernel/iommu_groups").join(&number);
    let driver = |a: &String| {
        let link = fs::read_link(devices.join(a).join("driver")).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    };
    let others = names(&dir.join("devices")).into_iter().filter(|a| a != addr);
    let others = others.map(|a| Member { driver: driver(&a), addr: a }).collect();
    let translates = text(&dir.join("type")).is_none_or(|t| t != "identity");
    Some(Group { number, others, translates })
}

/// Whether vfio gives devices away without an IOMMU, which it calls unsafe. `root` is `/` but for tests.
pub fn unsafe_mode(root: &Path) -> bool {
    text(&root.join("sys/module/vfio/parameters/enable_unsafe_noiommu_mode")).is_some_and(|t| t == "Y")
}

/// The IOMMU, and ports that share a group with devices of the kernel's.
pub(super) fn findings(root: &Path, net: &Net, out: &mut Vec<Finding>) {
    let routed = |i: &String| net.sees(i) && net.carries(i).is_some();
    let ports = || pci_ports(root).into_iter().filter(|p| !p.hidden(net) && !p.ifaces.iter().any(routed));
    let groups = names(&root.join("sys/kernel/iommu_groups")).len();
    out.push(match (groups, ports().next()) {
        (0, Some(_)) => Finding::bad(
            Severity::Warning,
            "IOMMU",
            "none: ports go by uio_pci_generic, and nothing fences their DMA; vfio-pci would take its unsafe mode without \
             an IOMMU, which fences nothing either",
            "turn it on: VT-d or AMD-Vi in the firmware, and intel_iommu=on on the kernel's command line; in a guest the \
             hypervisor gives one",
        ),
        (0, None) => Finding::good("IOMMU", "none, and no port that may be bound needs one"),
        (1, _) => Finding::good("IOMMU", "1 group"),
        (n, _) => Finding::good("IOMMU", format!("{n} groups")),
    });
    if unsafe_mode(root) {
        out.push(Finding::bad(
            Severity::Warning,
            "IOMMU",
            "vfio's mode without an IOMMU is on (enable_unsafe_noiommu_mode=Y): what such a device writes is fenced by \
             nothing",
            "echo N > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode   (as root), and turn an IOMMU on",
        ));
    }
    for p in ports() {
        let Some(g) = group(root, &p.addr) else { continue };
        let blocking: Vec<_> = g.others.iter().filter(|o| o.blocks()).collect();
        if let Some(first) = blocking.first() {
            let all: Vec<_> = blocking.iter().map(|o| told(o)).collect();
            out.push(Finding::bad(
                Severity::Warning,
                format!("port {}", p.addr),
                format!("IOMMU group {} has {} too: vfio gives away a group as a whole", g.number, all.join(", ")),
                format!(
                    "move it to another slot, one whose bridge separates devices (ACS), or take the others from the kernel \
                     as well: echo {} > /sys/bus/pci/devices/{}/driver/unbind",
                    first.addr, first.addr
                ),
            ));
        }
    }
}

/// In words: `0000:05:00.1 (ahci)`.
pub fn told(m: &Member) -> String {
    format!("{} ({})", m.addr, m.driver.as_deref().unwrap_or("no driver"))
}
