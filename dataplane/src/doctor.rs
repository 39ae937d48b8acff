//! State of the machine: parts that are there, parts that are missing, and the line that mends it.
//!
//! Every probe reads below a root that tests can set; nothing here changes the machine. [`examine`] collects all
//! findings; the command only prints them.

mod iommu;
mod net;
mod quiet;
mod quota;
mod routes;

use std::fmt;
use std::fs;
use std::path::Path;

pub use self::iommu::{Group, Member, group, told, unsafe_mode};
pub use self::net::{Net, by_way_of, default_route_ifaces, iface_node};
pub use self::quota::{Quota, cpu_quota};

/// Severity of a finding for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Good,
    /// It runs, but slower, or with a risk.
    Warning,
    /// Something that was asked for cannot run.
    Missing,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Good => "ok",
            Severity::Warning => "warning",
            Severity::Missing => "missing",
        })
    }
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Subject of the finding: `huge pages`, `port 0000:03:00.0`.
    pub subject: String,
    /// Severity.
    pub severity: Severity,
    /// The finding, in words.
    pub detail: String,
    /// The remedy, as a command where there is one; `None` when all is well.
    pub remedy: Option<String>,
}

impl Finding {
    fn good(subject: impl Into<String>, detail: impl Into<String>) -> Finding {
        Finding { subject: subject.into(), severity: Severity::Good, detail: detail.into(), remedy: None }
    }

    fn bad(
        severity: Severity,
        subject: impl Into<String>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding { subject: subject.into(), severity, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7} {}: {}", self.severity, self.subject, self.detail)?;
        self.remedy.iter().try_for_each(|r| write!(f, "\n        -> {r}"))
    }
}

/// A network device on the PCI bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciPort {
    /// Address, `0000:03:00.0`.
    pub addr: String,
    /// `vendor:device` in hexadecimal.
    pub id: String,
    /// Driver it is bound to, if any.
    pub driver: Option<String>,
    /// Kernel interfaces it has.
    pub ifaces: Vec<String>,
    /// NUMA node, if it has one.
    pub node: Option<u32>,
}

/// Drivers that give a device to user space.
const USER_DRIVERS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

/// Drivers that only hold a device for others.
const STUBS: [&str; 2] = ["pci-stub", "xen-pciback"];

impl PciPort {
    /// Whether DPDK can open it as it is. Bifurcated drivers (mlx5, mlx4) keep their kernel interface.
    pub fn usable(&self) -> bool {
        self.driver.as_deref().is_some_and(|d| USER_DRIVERS.contains(&d) || d.starts_with("mlx"))
    }

    /// Whether the kernel's own network driver has it. Such a driver makes an interface, in whatever namespace.
    pub fn kernels(&self) -> bool {
        self.driver.as_deref().is_some_and(|d| !USER_DRIVERS.contains(&d) && !STUBS.contains(&d))
    }

    /// Whether its interface belongs to another network namespace than ours, so that nothing is known of its routes.
    pub fn hidden(&self, net: &Net) -> bool {
        self.kernels() && (self.ifaces.is_empty() || !self.ifaces.iter().all(|i| net.sees(i)))
    }

    /// Text about it if it is [`hidden`](Self::hidden).
    pub fn hidden_text(&self) -> String {
        let which =
            if self.ifaces.is_empty() { String::new() } else { format!(" {}", self.ifaces.join(", ")) };
        format!(
            "its interface{which} is not in this network namespace: it may carry the machine's default route, which \
             cannot be told from here"
        )
    }

    /// uio does not stop a device's DMA when its process is killed; vfio does.
    pub fn dma_warning(&self) -> Option<String> {
        let d = self.driver.as_deref().filter(|d| d.contains("uio"))?;
        Some(format!(
            "port {} is bound to {d}: after a kill -9 the device keeps writing into memory that the kernel has given \
             to others; bind it to vfio-pci instead (dpdk-devbind.py -b vfio-pci {})",
            self.addr, self.addr
        ))
    }
}

fn text(p: &Path) -> Option<String> {
    fs::read_to_string(p).ok().map(|s| s.trim().to_owned())
}

fn names(dir: &Path) -> Vec<String> {
    let mut v: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    v.sort();
    v
}

/// The network device at a PCI address, if there is one.
pub fn pci_port(root: &Path, addr: &str) -> Option<PciPort> {
    let dev = root.join("sys/bus/pci/devices").join(addr);
    // Class 0x02xxxx: network controller.
    if !text(&dev.join("class"))?.starts_with("0x02") {
        return None;
    }
    let hex = |f: &str| text(&dev.join(f)).unwrap_or_default().trim_start_matches("0x").to_owned();
    let driver = fs::read_link(dev.join("driver"))
        .ok()
        .and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
    let mut ifaces = names(&dev.join("net"));
    // virtio devices have their interface one level down.
    for child in names(&dev).iter().filter(|n| n.starts_with("virtio")) {
        ifaces.extend(names(&dev.join(child).join("net")));
    }
    let node = text(&dev.join("numa_node")).and_then(|n| n.parse().ok());
    Some(PciPort {
        addr: addr.to_owned(),
        id: format!("{}:{}", hex("vendor"), hex("device")),
        driver,
        ifaces,
        node,
    })
}

/// All network devices on the PCI bus, by address.
pub fn pci_ports(root: &Path) -> Vec<PciPort> {
    names(&root.join("sys/bus/pci/devices")).iter().filter_map(|a| pci_port(root, a)).collect()
}

/// Parses the kernel's list format: `0-3,8,10-11`. Empty or broken text is an empty list.
pub fn parse_cpu_list(s: &str) -> Vec<usize> {
    let mut v = Vec::new();
    for part in s.trim().split(',').filter(|p| !p.is_empty()) {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        match (a.parse::<usize>(), b.parse::<usize>()) {
            // No machine has more; a broken file must not exhaust memory.
            (Ok(a), Ok(b)) if a <= b && b < 65_536 => v.extend(a..=b),
            _ => return Vec::new(),
        }
    }
    v
}

fn ports(root: &Path, net: &Net, out: &mut Vec<Finding>) {
    let found = pci_ports(root);
    if found.is_empty() {
        out.push(Finding::bad(
            Severity::Warning,
            "ports",
            "no network device on the PCI bus",
            "virtual ports work: pollnd demo uses a virtio pair; --port net_tap0,iface=tap0 makes a TAP",
        ));
    }
    let enough = found.iter().any(|p| p.usable() && !p.hidden(net));
    for p in found {
        let subject = format!("port {}", p.addr);
        let driver = p.driver.as_deref().unwrap_or("no driver");
        let what = format!("{} bound to {driver}", p.id);
        let routed = p.ifaces.iter().find_map(|i| Some((i, net.carries(i).filter(|_| net.sees(i))?)));
        out.push(if p.hidden(net) {
            // Nothing is advised: what is done to it is done to somebody else.
            Finding::bad(
                Severity::Warning,
                subject,
                format!("{what}; {}", p.hidden_text()),
                "look from the namespace that has it: nsenter --net=/proc/1/ns/net pollnd doctor",
            )
        } else if let Some((i, by)) = routed {
            // All is well with it as long as it stays where it is.
            let by = if by.is_empty() { String::new() } else { format!(" by way of {}", by.join(" and ")) };
            Finding::good(
                subject,
                format!("{what}; interface {i} carries the default route{by}: leave it to the kernel, use another port"),
            )
        } else if let Some(w) = p.dma_warning() {
            Finding::bad(Severity::Warning, subject, what, w)
        } else if p.usable() {
            Finding::good(subject, what)
        } else if enough {
            Finding::good(subject, format!("{what}: the kernel's; another port is there for DPDK"))
        } else {
            let remedy = format!(
                "pollnd doctor --fix --port {0}   (or: modprobe vfio-pci && dpdk-devbind.py -b vfio-pci {0})",
                p.addr
            );
            Finding::bad(Severity::Warning, subject, format!("{what}: DPDK cannot open it"), remedy)
        });
    }
    for i in net.routed() {
        let below = net.below(i);
        let over = if below.is_empty() { String::new() } else { format!(", over {}", below.join(", ")) };
        out.push(Finding::good("default route", format!("interface {i}{over}")));
    }
}

/// DPDK libraries in its plugin folders that a node cannot do without, and what for.
const PLUGINS: [(&str, &str); 4] = [
    ("mempool_ring", "every mempool"),
    ("bus_vdev", "virtual ports"),
    ("net_vhost", "the in-process virtio pair"),
    ("net_virtio", "the in-process virtio pair, and virtio NICs"),
];

/// Names of the DPDK libraries in the plugin folders, such as `net_ixgbe`. `root` is `/` but for tests.
pub fn dpdk_plugins(root: &Path) -> Vec<String> {
    let mut v = Vec::new();
    let bases = ["usr/lib", "usr/lib64", "usr/local/lib", "usr/local/lib64"].map(|b| root.join(b));
    // Debian keeps libraries one folder down, by architecture.
    let arch = names(&bases[0]).into_iter().filter(|n| n.contains("-linux-")).map(|n| bases[0].join(n));
    for dir in arch.chain(bases.iter().cloned()).map(|d| d.join("dpdk")) {
        for pmds in names(&dir).iter().filter(|n| n.starts_with("pmds")) {
            v.extend(names(&dir.join(pmds)).iter().filter_map(|f| {
                let (stem, _) = f.strip_prefix("librte_")?.split_once(".so")?;
                Some(stem.to_owned())
            }));
        }
    }
    v.sort();
    v.dedup();
    v
}

fn plugins(root: &Path, out: &mut Vec<Finding>) {
    let have = dpdk_plugins(root);
    let nics = have.iter().filter(|n| n.starts_with("net_")).count();
    let missing: Vec<_> = PLUGINS.iter().filter(|p| !have.iter().any(|h| h == p.0)).collect();
    if missing.is_empty() {
        out.push(Finding::good("drivers", format!("{nics} port drivers in DPDK's plugin folder")));
    }
    for (name, what) in missing {
        let remedy = format!("apt-get install '^librte-{}[0-9]+$'", name.replace('_', "-"));
        out.push(Finding::bad(Severity::Missing, "drivers", format!("no librte_{name} ({what})"), remedy));
    }
}

fn memory(root: &Path, out: &mut Vec<Finding>) {
    let h = hugepages::pool::discover(root);
    let reserve = "echo 512 > /proc/sys/vm/nr_hugepages   (as root; 1 GiB in pages of 2 MiB)";
    for p in h.pools.iter().filter(|p| p.total > 0) {
        let node = p.node.map_or_else(String::new, |n| format!(" on node {n}"));
        let detail = format!("{} of {} pages of {} KiB free{node}", p.free, p.total, p.page_size / 1024);
        out.push(if p.free > 0 {
            Finding::good("huge pages", detail)
        } else {
            Finding::bad(Severity::Warning, "huge pages", detail, reserve)
        });
    }
    if h.pools.iter().all(|p| p.total == 0) {
        let detail =
            "none reserved: nodes run with ordinary pages (--no-huge), slower and without physical ports";
        out.push(Finding::bad(Severity::Warning, "huge pages", detail, reserve));
    }
}

/// CPUs that this process may use, and those of the machine that are online.
fn usable_cpus(root: &Path) -> (Vec<usize>, Vec<usize>) {
    let online = parse_cpu_list(&text(&root.join("sys/devices/system/cpu/online")).unwrap_or_default());
    let status = text(&root.join("proc/self/status")).unwrap_or_default();
    let allowed = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
    (allowed.map_or_else(|| online.clone(), parse_cpu_list), online)
}

/// A quota that the lcores on so many CPUs may use up.
fn quota(root: &Path, cpus: u64, out: &mut Vec<Finding>) {
    if let Some(q) = cpu_quota(root).filter(|q| q.stop_us(cpus).is_some()) {
        let of = match q.stop_us(1) {
            Some(us) => format!("an lcore that polls is stopped for {} ms at a time", us as f64 / 1000.0),
            None => "lcores that poll are stopped as soon as all threads together have used it up".into(),
        };
        out.push(Finding::bad(Severity::Warning, "CPU quota", format!("{q}: {of}"), q.remedy()));
    }
}

fn cores(root: &Path, out: &mut Vec<Finding>) {
    let sys = root.join("sys/devices/system");
    let (usable, online) = usable_cpus(root);
    let detail = format!("{} online, {} usable by this process", online.len(), usable.len());
    out.push(if usable.len() < 2 {
        let remedy = "run with at least 2 cores for a node and its applications; on one core lcores yield";
        Finding::bad(Severity::Warning, "cores", detail, remedy)
    } else {
        Finding::good("cores", detail)
    });
    quota(root, usable.len() as u64, out);
    let nodes: Vec<_> = names(&sys.join("node"))
        .into_iter()
        .filter_map(|n| {
            let id: u32 = n.strip_prefix("node")?.parse().ok()?;
            let cpus = parse_cpu_list(&text(&sys.join("node").join(&n).join("cpulist"))?);
            Some(format!("node {id}: {} cores", cpus.len()))
        })
        .collect();
    let detail =
        if nodes.is_empty() { "the kernel names no nodes: one is assumed".into() } else { nodes.join(", ") };
    out.push(Finding::good("NUMA", detail));
}

/// Linux capabilities that matter, with their bit numbers (capabilities(7)).
const CAPS: [(&str, u32, &str); 4] = [
    ("CAP_NET_BIND_SERVICE", 10, "kernel-socket nodes dial Linux peers from ports below 1024"),
    ("CAP_NET_ADMIN", 12, "TAP and AF_PACKET ports"),
    ("CAP_IPC_LOCK", 14, "locking device memory"),
    ("CAP_SYS_ADMIN", 21, "physical addresses of pages, for ports without an IOMMU"),
];

fn rights(root: &Path, out: &mut Vec<Finding>) {
    let status = text(&root.join("proc/self/status")).unwrap_or_default();
    let word = |k: &str| status.lines().find_map(|l| l.strip_prefix(k)).map(|v| v.trim().to_owned());
    let effective = word("CapEff:").and_then(|v| u64::from_str_radix(&v, 16).ok()).unwrap_or(0);
    let uid = word("Uid:").and_then(|v| v.split_whitespace().nth(1)?.parse::<u32>().ok());
    let missing: Vec<_> = CAPS.iter().filter(|c| effective & (1 << c.1) == 0).collect();
    let who = uid
        .map_or_else(|| "unknown user".into(), |u| if u == 0 { "root".into() } else { format!("uid {u}") });
    if missing.is_empty() {
        out.push(Finding::good("rights", format!("{who}, all capabilities needed")));
    }
    // All in one: setcap replaces what was there before.
    let names: Vec<_> = missing.iter().map(|c| c.0.to_ascii_lowercase()).collect();
    let remedy = format!("run as root, or: setcap {}+ep $(command -v pollnd)", names.join(","));
    for (name, _, what) in missing {
        let remedy = remedy.clone();
        out.push(Finding::bad(Severity::Warning, "rights", format!("{who} lacks {name} ({what})"), remedy));
    }
}

/// The worst severity over all findings. A command ends with this code: 0 for [`Severity::Good`], 1 for
/// [`Severity::Missing`], 3 for [`Severity::Warning`]; 2 is a command line that makes no sense.
pub fn exit_code(all: &[Finding]) -> u8 {
    match all.iter().map(|f| f.severity).max() {
        None | Some(Severity::Good) => 0,
        Some(Severity::Warning) => 3,
        Some(Severity::Missing) => 1,
    }
}

/// Warnings of what slows a node on a port down, or is a risk, and is nobody's to change without being asked: IOMMU groups,
/// the CPU quota, isolated cores, irqbalance. Arguments as of [`examine`].
pub fn cautions(root: &Path, chosen: &[usize]) -> Vec<Finding> {
    let mut out = Vec::new();
    iommu::findings(root, &Net::read(root), &mut out);
    quota(root, usable_cpus(root).0.len() as u64, &mut out);
    quiet::findings(root, chosen, &mut out);
    out.retain(|f| f.severity != Severity::Good);
    out
}

/// Looks at everything. `dpdk` is the version of the DPDK that is linked, if any; `chosen` are the CPUs that a node of one
/// lcore polls unless told otherwise. `root` is `/` but for tests.
pub fn examine(root: &Path, dpdk: Option<&str>, chosen: &[usize]) -> Vec<Finding> {
    let mut out = Vec::new();
    out.push(match dpdk {
        Some(v) => Finding::good("DPDK", v),
        None => Finding::bad(
            Severity::Missing,
            "DPDK",
            "this pollnd was built without it: kernel sockets only",
            "apt-get install libdpdk-dev libclang-dev pkg-config && cargo build --release",
        ),
    });
    if dpdk.is_some() {
        plugins(root, &mut out);
    }
    memory(root, &mut out);
    let net = Net::read(root);
    ports(root, &net, &mut out);
    iommu::findings(root, &net, &mut out);
    cores(root, &mut out);
    quiet::findings(root, chosen, &mut out);
    rights(root, &mut out);
    out
}

#[cfg(test)]
mod doctor_tests;
