//! Giving a port to a driver for user space, and back, as dpdk-devbind does: by `driver_override` and `drivers_probe`.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::back::Back;
use super::kernel::Kernel;

/// A port goes to another driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bind {
    /// PCI address.
    pub(crate) port: String,
    /// Driver before, if any.
    pub(crate) from: Option<String>,
    /// `driver_override` before, if any.
    pub(crate) over: Option<String>,
    /// The driver for user space.
    pub(crate) to: String,
    /// Kernel interfaces that go with the driver before.
    pub(crate) ifaces: Vec<String>,
}

/// File that has a device be bound.
const PROBE: &str = "sys/bus/pci/drivers_probe";

fn device(k: &dyn Kernel, port: &str) -> PathBuf {
    k.at("sys/bus/pci/devices").join(port)
}

/// The driver that a device is bound to.
pub(crate) fn driver(k: &dyn Kernel, port: &str) -> Option<String> {
    let link = fs::read_link(device(k, port).join("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// The driver that alone may have a device, if there is one.
pub(crate) fn overridden(k: &dyn Kernel, port: &str) -> Option<String> {
    let t = fs::read_to_string(device(k, port).join("driver_override")).ok()?;
    Some(t.trim().to_owned()).filter(|t| !t.is_empty() && t != "(null)")
}

/// Processes that have a device open, by its uio device or its IOMMU group.
pub(crate) fn holders(k: &dyn Kernel, port: &str) -> Vec<u32> {
    let dev = device(k, port);
    let uio = fs::read_dir(dev.join("uio")).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = uio.map(|e| PathBuf::from("/dev").join(e.file_name())).collect();
    let group = fs::read_link(dev.join("iommu_group")).ok();
    if let Some(n) = group.as_deref().and_then(|g| g.file_name()) {
        files.push(PathBuf::from("/dev/vfio").join(n));
    }
    let has = |pid: &u32| {
        let fds = fs::read_dir(k.at(&format!("proc/{pid}/fd"))).into_iter().flatten().flatten();
        fds.filter_map(|e| fs::read_link(e.path()).ok()).any(|f| files.contains(&f))
    };
    let pids = fs::read_dir(k.at("proc")).into_iter().flatten().flatten();
    let mut found: Vec<u32> = pids.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(has).collect();
    found.sort_unstable();
    found
}

fn named(driver: Option<&str>) -> &str {
    driver.unwrap_or("no driver")
}

impl Bind {
    pub(super) fn commands(&self) -> Vec<String> {
        let dev = format!("/sys/bus/pci/devices/{}", self.port);
        let mut v = vec![format!("echo {} > {dev}/driver_override", self.to)];
        if self.from.is_some() {
            v.push(format!("echo {} > {dev}/driver/unbind", self.port));
        }
        v.push(format!("echo {} > /{PROBE}", self.port));
        v
    }

    /// Takes the driver away that a device has.
    fn unbind(&self, k: &dyn Kernel) -> Result<(), String> {
        k.told(&device(k, &self.port).join("driver/unbind"), &self.port)
    }

    fn probe(&self, k: &dyn Kernel) -> Result<(), String> {
        k.told(&k.at(PROBE), &self.port)
    }

    pub(super) fn apply(&self, k: &dyn Kernel) -> Result<(), String> {
        let now = driver(k, &self.port);
        if now != self.from {
            return Err(format!(
                "port {} is bound to {} now, not to {}: look again",
                self.port,
                named(now.as_deref()),
                named(self.from.as_deref())
            ));
        }
        k.told(&device(k, &self.port).join("driver_override"), &self.to)?;
        if now.is_some() {
            self.unbind(k)?;
        }
        let probed = self.probe(k);
        if driver(k, &self.port).as_ref() == Some(&self.to) {
            return Ok(());
        }
        let why = probed.err().map_or_else(String::new, |e| format!(" ({e})"));
        Err(format!(
            "{} does not take port {}{why}: the kernel's log says why (dmesg | tail), another may (--driver)",
            self.to, self.port
        ))
    }

    pub(super) fn undo(&self, k: &dyn Kernel) -> Back {
        let (now, over) = (driver(k, &self.port), overridden(k, &self.port));
        if !device(k, &self.port).exists() {
            return Back::Left("the device is not there any more".into());
        }
        if now == self.from && over == self.over {
            return Back::Undone(self.back(k));
        }
        let ours = over.as_deref() == Some(&self.to);
        let bound = now.as_deref() == Some(&self.to);
        if !(ours && (bound || now.is_none() || now == self.from) || over == self.over && now.is_none()) {
            return Back::Left(format!(
                "somebody has bound it since: to {}, driver_override {}",
                named(now.as_deref()),
                over.as_deref().unwrap_or("empty")
            ));
        }
        match self.take_back(k, ours, bound) {
            Ok(()) => Back::Undone(self.back(k)),
            Err(e) => Back::NotNow(e),
        }
    }

    fn take_back(&self, k: &dyn Kernel, ours: bool, bound: bool) -> Result<(), String> {
        let held = holders(k, &self.port);
        if bound && !held.is_empty() {
            let pids: Vec<_> = held.iter().map(u32::to_string).collect();
            return Err(format!(
                "process {} has it open: end it, then `pollnd doctor --undo` again",
                pids.join(", ")
            ));
        }
        // In this order: a device without a driver is ours by its override, and one with it by both.
        if bound {
            self.unbind(k)?;
        }
        if ours {
            // A line alone empties it.
            let over = self.over.as_deref().unwrap_or("\n");
            k.told(&device(k, &self.port).join("driver_override"), over)?;
        }
        let Some(from) = &self.from else { return Ok(()) };
        if driver(k, &self.port).as_ref() != Some(from) {
            let _ = self.probe(k);
        }
        if driver(k, &self.port).is_none() {
            // A driver that knows the device by no number of its own takes it when it is told so.
            let _ = k.write(&k.at("sys/bus/pci/drivers").join(from).join("bind"), &self.port);
        }
        match driver(k, &self.port) {
            Some(d) if d == *from => Ok(()),
            d => Err(format!(
                "it is bound to {}, and {from} does not take it: modprobe {from}, then `pollnd doctor --undo` again",
                named(d.as_deref())
            )),
        }
    }

    /// In words: where it is now.
    fn back(&self, k: &dyn Kernel) -> String {
        let to = format!("bound to {} again", named(self.from.as_deref()));
        match dataplane::doctor::pci_port(k.root(), &self.port) {
            Some(p) if !p.ifaces.is_empty() => format!("{to}, interface {}", p.ifaces.join(", ")),
            _ => to,
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ifaces = match &self.ifaces[..] {
            [] => String::new(),
            all => format!(" (its interface {} goes)", all.join(", ")),
        };
        let from = self.from.as_deref().map_or_else(String::new, |d| format!(" from {d}"));
        write!(f, "bind port {}{ifaces}{from} to {}", self.port, self.to)
    }
}
