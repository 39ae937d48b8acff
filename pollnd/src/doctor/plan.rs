//! Steps that a machine lacks for a node on ports that the user names; and reasons against them.

use std::fs;
use std::path::Path;

use dataplane::doctor::{self, Net, PciPort, by_way_of, group, unsafe_mode};
use hugepages::pool;

use super::bind::{self, Bind};
use super::kernel::Kernel;
use super::reserve::{HugePages, PAGE_KIB};
use super::step::{Module, Step};
use super::ulimit::{self, Limits};
use crate::args::DriverArg;

/// Wishes of the user.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// PCI addresses.
    pub(crate) ports: Vec<String>,
    pub(crate) driver: DriverArg,
    /// Free huge memory for each port, in MiB, if it was said.
    pub(crate) huge_mib: Option<u64>,
    /// Memory that a node of one lcore takes, in MiB.
    pub(crate) usual_mib: u64,
    /// The user whose limits are raised.
    pub(crate) user: Option<String>,
    /// Address of this machine that the user's SSH connection comes to.
    pub(crate) ssh: Option<String>,
}

/// Steps, and what is well as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) notes: Vec<String>,
}

const VFIO: &str = "vfio-pci";
const UIO: &str = "uio_pci_generic";
const IGB: &str = "igb_uio";

/// Plans it. Nothing is changed.
///
/// # Errors
/// Everything that may not be done, each with its reason and remedy.
pub(crate) fn plan(k: &dyn Kernel, w: &Wanted) -> Result<Plan, Vec<String>> {
    let mut p = Plan::default();
    let mut refused = Vec::new();
    let mut ports = Vec::new();
    let net = Net::read(k.root());
    for addr in &w.ports {
        match port(k, w, &net, addr) {
            Ok(found) => ports.push(found),
            Err(e) => refused.push(format!("--port {addr}: {e}")),
        }
    }
    huge_pages(k, w, &ports, &mut p).unwrap_or_else(|e| refused.push(e));
    for found in &ports {
        bound(k, w, found, &mut p).unwrap_or_else(|e| refused.push(format!("--port {}: {e}", found.addr)));
    }
    if let Some(user) = &w.user {
        limits(k.root(), user, &mut p).unwrap_or_else(|e| refused.push(format!("--user {user}: {e}")));
    }
    if refused.is_empty() { Ok(p) } else { Err(refused) }
}

/// A port that may be taken from the kernel.
fn port(k: &dyn Kernel, w: &Wanted, net: &Net, addr: &str) -> Result<PciPort, String> {
    let Some(p) = doctor::pci_port(k.root(), addr) else {
        let there = k.at("sys/bus/pci/devices").join(addr).exists();
        let all: Vec<_> = doctor::pci_ports(k.root()).into_iter().map(|p| p.addr).collect();
        let all = if all.is_empty() { "this machine has none".to_owned() } else { all.join(", ") };
        let what = if there { "no network device" } else { "no such device" };
        return Err(format!("{what}; network devices on the PCI bus: {all}"));
    };
    if p.hidden(net) {
        return Err(format!(
            "{}; run it there: nsenter --net=/proc/1/ns/net pollnd doctor --fix",
            p.hidden_text()
        ));
    }
    for i in &p.ifaces {
        if let Some(by) = net.carries(i) {
            let by = by_way_of(i, &by);
            return Err(format!(
                "interface {by} carries the default route: leave it to the kernel, use another port"
            ));
        }
        if let Some(a) = net.addresses(i).iter().find(|a| w.ssh.as_ref().is_some_and(|s| *s == a.to_string()))
        {
            return Err(format!("your SSH connection comes by interface {i} ({a}): leave it to the kernel"));
        }
        if let Some(a) = net.addresses(i).first() {
            return Err(format!(
                "interface {i} has the address {a}, which would be gone: if nobody needs it, ip addr flush dev {i}"
            ));
        }
        if let Some(above) = net.above(i).first() {
            return Err(format!("interface {i} is part of {above}: take it out first, or use another port"));
        }
    }
    shared_group(k, w, addr)?;
    Ok(p)
}

/// Whether devices that nobody named would have to go to user space with a port.
fn shared_group(k: &dyn Kernel, w: &Wanted, addr: &str) -> Result<(), String> {
    let Some(g) = group(k.root(), addr) else { return Ok(()) };
    let others: Vec<_> =
        g.others.iter().filter(|o| o.blocks() && !w.ports.contains(&o.addr)).map(doctor::told).collect();
    if others.is_empty() {
        return Ok(());
    }
    Err(format!(
        "IOMMU group {} has {} too, and goes to user space as a whole: move the port to another slot, or take those from the \
         kernel first",
        g.number,
        others.join(", ")
    ))
}

/// Whether a driver is there, or its module is, which is loaded then.
enum Found {
    There,
    Module,
    Nowhere,
}

fn release(root: &Path) -> String {
    fs::read_to_string(root.join("proc/sys/kernel/osrelease")).unwrap_or_default().trim().to_owned()
}

/// Looks for the module `name`, whose folder in /sys is there once it is loaded.
fn module(root: &Path, name: &str) -> Found {
    if root.join("sys/bus/pci/drivers").join(name).exists()
        || root.join("sys/module").join(name.replace('-', "_")).exists()
    {
        return Found::There;
    }
    let dir = root.join("lib/modules").join(release(root));
    let has = |list: &str| {
        let all = fs::read_to_string(dir.join(list)).unwrap_or_default();
        let file =
            |l: &str| l.split(':').next().and_then(|p| p.rsplit('/').next()?.split('.').next().map(plain));
        all.lines().any(|l| file(l).as_deref() == Some(&plain(name)))
    };
    match () {
        () if has("modules.builtin") => Found::There,
        () if has("modules.dep") => Found::Module,
        () => Found::Nowhere,
    }
}

/// A module's name with underscores only.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// The driver for a port, and the modules to load for it.
fn driver(k: &dyn Kernel, w: &Wanted, p: &PciPort) -> Result<(&'static str, Vec<&'static str>), String> {
    let root = k.root();
    let grouped = group(root, &p.addr);
    let missing = |name: &str| {
        let release = release(root);
        format!(
            "no kernel module {name} for Linux {release}: apt-get install linux-image-amd64 (kernels for clouds leave it \
             out), or linux-modules-extra-{release} on Ubuntu"
        )
    };
    let needs = |names: &[&'static str]| -> Result<Vec<&'static str>, String> {
        let mut load = Vec::new();
        for name in names {
            match module(root, name) {
                Found::There => {}
                Found::Module => load.push(*name),
                Found::Nowhere => return Err(missing(name)),
            }
        }
        Ok(load)
    };
    match (w.driver, &grouped) {
        (DriverArg::Auto | DriverArg::VfioPci, Some(_)) => Ok((VFIO, needs(&[VFIO, "vfio_iommu_type1"])?)),
        (DriverArg::VfioPci, None) if unsafe_mode(root) => Ok((VFIO, needs(&[VFIO])?)),
        (DriverArg::VfioPci, None) => Err(
            "--driver vfio-pci takes an IOMMU, and none has this device: turn it on (intel_iommu=on on the kernel's command \
             line), take --driver uio_pci_generic, or vfio's unsafe mode: echo Y > \
             /sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
                .into(),
        ),
        (DriverArg::UioPciGeneric, Some(g)) if g.translates => Err(format!(
            "--driver uio_pci_generic: the IOMMU translates for group {}, and nothing would come through: take vfio-pci, or \
             iommu=pt on the kernel's command line",
            g.number
        )),
        (DriverArg::Auto | DriverArg::UioPciGeneric, _) => {
            let wired = fs::read_to_string(k.at("sys/bus/pci/devices").join(&p.addr).join("irq"));
            let wired = wired.map_or(true, |t| t.trim() != "0");
            let generic = needs(&[UIO]).and_then(|l| match wired {
                true => Ok(l),
                false => Err(format!("{UIO} takes no device without an interrupt line (irq 0)")),
            });
            match (generic, needs(&[IGB])) {
                (Ok(load), _) => Ok((UIO, load)),
                (Err(_), Ok(load)) if w.driver == DriverArg::Auto => Ok((IGB, load)),
                (Err(e), _) => Err(e),
            }
        }
    }
}

/// The steps that bind a port.
fn bound(k: &dyn Kernel, w: &Wanted, p: &PciPort, plan: &mut Plan) -> Result<(), String> {
    let now = p.driver.as_deref();
    let named = match w.driver {
        DriverArg::Auto => None,
        DriverArg::VfioPci => Some(VFIO),
        DriverArg::UioPciGeneric => Some(UIO),
    };
    // A driver that DPDK shares with the kernel (mlx5) stays whatever is asked for.
    if p.usable() && (p.kernels() || named.is_none_or(|n| now == Some(n))) {
        plan.notes.push(format!("port {} is bound to {}: DPDK can open it", p.addr, now.unwrap_or_default()));
        return Ok(());
    }
    if let Some(pid) = bind::holders(k, &p.addr).first() {
        return Err(format!("process {pid} has it open, by {}: end it first", now.unwrap_or_default()));
    }
    if !k.at("sys/bus/pci/devices").join(&p.addr).join("driver_override").exists() {
        return Err("this kernel has no driver_override for it (Linux 3.16 has)".into());
    }
    let (to, load) = driver(k, w, p)?;
    for name in load {
        let step = Step::Module(Module { name: name.to_owned() });
        if !plan.steps.contains(&step) {
            plan.steps.push(step);
        }
    }
    plan.steps.push(Step::Bind(Bind {
        port: p.addr.clone(),
        from: p.driver.clone(),
        over: bind::overridden(k, &p.addr),
        to: to.to_owned(),
        ifaces: p.ifaces.clone(),
    }));
    Ok(())
}

/// Memory in KiB that a node, or the machine, could turn into huge pages: what is free or holds files.
fn spare_kib(root: &Path, node: Option<u32>) -> Option<u64> {
    let file = match node {
        Some(n) => format!("sys/devices/system/node/node{n}/meminfo"),
        None => "proc/meminfo".to_owned(),
    };
    let text = fs::read_to_string(root.join(file)).ok()?;
    // `Node 0 MemFree:  1 kB`, `MemFree:  1 kB`.
    let of = |key: &str| {
        let line = text.lines().find(|l| l.split_whitespace().any(|w| w == key))?;
        line.split_whitespace().rev().nth(1)?.parse::<u64>().ok()
    };
    let files = of("Active(file):").unwrap_or(0) + of("Inactive(file):").unwrap_or(0);
    // The rest of the machine needs some.
    Some((of("MemFree:")? + files).saturating_sub(of("MemTotal:")? / 16))
}

/// The steps that reserve huge pages: for each port, on its NUMA node.
fn huge_pages(k: &dyn Kernel, w: &Wanted, ports: &[PciPort], plan: &mut Plan) -> Result<(), String> {
    let all = pool::discover(k.root()).pools;
    let pools: Vec<_> = all.iter().filter(|p| p.page_size == PAGE_KIB << 10).collect();
    let mib = w.huge_mib.unwrap_or(w.usual_mib);
    let asked = w.huge_mib.map_or_else(|| "huge pages".to_owned(), |n| format!("--huge-pages {n}"));
    let Some(first) = pools.first() else {
        let none = format!("{asked}: this kernel has none of 2 MiB (/sys/kernel/mm/hugepages)");
        if w.huge_mib.is_some() || !ports.is_empty() {
            return Err(none);
        }
        plan.notes.push(none);
        return Ok(());
    };
    let mut nodes: Vec<(Option<u32>, u64)> = Vec::new();
    let near =
        |p: &PciPort| pools.iter().find(|q| q.node.is_some() && q.node == p.node).unwrap_or(first).node;
    let each = ports.iter().map(near).collect::<Vec<_>>();
    for node in if each.is_empty() { vec![first.node] } else { each } {
        match nodes.iter_mut().find(|n| n.0 == node) {
            Some(n) => n.1 += mib,
            None => nodes.push((node, mib)),
        }
    }
    let reserved = fs::read_to_string(k.at("sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages"));
    let reserved: u64 = reserved.ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0);
    for (node, mib) in nodes {
        let Some(p) = pools.iter().find(|p| p.node == node) else { continue };
        let on = node.map_or_else(String::new, |n| format!(" on node {n}"));
        // The kernel does not tell the NUMA node of others' reservations.
        let free = p.free.saturating_sub(reserved);
        let more = (mib * 1024).div_ceil(PAGE_KIB).saturating_sub(free);
        if more == 0 {
            plan.notes.push(format!(
                "{} MiB of huge pages are free{on}, and {mib} are needed",
                free * PAGE_KIB / 1024
            ));
            continue;
        }
        if let Some(spare) = spare_kib(k.root(), node).filter(|s| more * PAGE_KIB > *s) {
            return Err(format!(
                "{asked}: that takes {} MiB more{on}, and {} can be had: ask for less",
                more * PAGE_KIB / 1024,
                spare / 1024
            ));
        }
        plan.steps.extend(HugePages::more(k, node, free, more).map(Step::HugePages));
    }
    Ok(())
}

/// Whether the machine knows a user.
fn known(root: &Path, user: &str) -> bool {
    let own = fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    let asked = || {
        // Directories know users, too.
        let mut c = std::process::Command::new("getent");
        c.args(["passwd", user]).output().is_ok_and(|o| o.status.success())
    };
    own.lines().any(|l| l.split(':').next() == Some(user)) || root == Path::new("/") && asked()
}

/// The step that raises a user's limits.
fn limits(root: &Path, user: &str, plan: &mut Plan) -> Result<(), String> {
    if !known(root, user) {
        return Err("this machine knows no user of that name (getent passwd)".into());
    }
    let most = fs::read_to_string(root.join("proc/sys/fs/nr_open")).ok().and_then(|t| t.trim().parse().ok());
    let step = Limits::new(user, most);
    match fs::read_to_string(root.join(ulimit::FILE)) {
        Ok(t) if t == step.text() => {
            plan.notes.push(format!("limits of {user} are raised (/{})", ulimit::FILE))
        }
        Ok(_) => return Err(format!("/{} is there with another text: remove it first", ulimit::FILE)),
        Err(_) => plan.steps.push(Step::Limits(step)),
    }
    Ok(())
}
