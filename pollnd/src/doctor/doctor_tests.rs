use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::fix::{self, Done, End, carry_out, take_back};
use super::kernel::Kernel;
use super::plan::{self, Plan, Wanted};
use super::record::{Record, State};
use super::step::Step;
use super::ulimit;
use crate::args::DriverArg;

const NIC: &str = "0000:00:06.0";
const POOL: &str = "sys/devices/system/node/node0/hugepages/hugepages-2048kB";
const CONF: &str = ulimit::FILE;

/// A fault of the kernel at one of its writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It refuses.
    Refuses,
    /// We die before it has it, or behind it.
    Before,
    Behind,
}

/// A kernel on a tree: what it does when its files are written.
struct Fake {
    root: tempfile::TempDir,
    /// Most huge pages that it has to give.
    most: Cell<u64>,
    /// Huge pages in use.
    used: Cell<u64>,
    /// Number of writes, and the one at which something happens.
    writes: Cell<usize>,
    fault: Cell<Option<(usize, Fault)>>,
    /// Own drivers of devices.
    own: RefCell<BTreeMap<String, String>>,
    /// Interfaces of devices under their own drivers.
    ifaces: RefCell<BTreeMap<String, String>>,
}

impl Fake {
    fn new() -> Fake {
        let f = Fake {
            root: tempfile::tempdir().unwrap(),
            most: Cell::new(u64::MAX),
            used: Cell::new(0),
            writes: Cell::new(0),
            fault: Cell::new(None),
            own: RefCell::default(),
            ifaces: RefCell::default(),
        };
        for d in ["uio_pci_generic", "vfio-pci", "e1000e", "ahci"] {
            fs::create_dir_all(f.at(&format!("sys/bus/pci/drivers/{d}"))).unwrap();
        }
        for (p, t) in [
            ("sys/bus/pci/drivers_probe", ""),
            (&*format!("{POOL}/nr_hugepages"), "10\n"),
            (&*format!("{POOL}/free_hugepages"), "4\n"),
            (&*format!("{POOL}/surplus_hugepages"), "0\n"),
            (
                "sys/devices/system/node/node0/meminfo",
                "Node 0 MemTotal: 8000000 kB\nNode 0 MemFree: 4000000 kB\n",
            ),
            ("proc/net/dev", "a|b\nc|d\n  eth7: 0\n  eth8: 0\n"),
            ("proc/net/route", "Iface\n"),
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\nmotr:x:7:7::/:/bin/sh\n"),
        ] {
            f.put(p, t);
        }
        f.nic(NIC, "e1000e", "eth7")
    }

    fn put(&self, path: &str, text: &str) {
        let p = self.at(path);
        fs::create_dir_all(p.parent().unwrap()).unwrap();
        fs::write(p, text).unwrap();
    }

    /// With a NIC in the hands of the kernel.
    fn nic(self, addr: &str, driver: &str, iface: &str) -> Fake {
        for (f, t) in [
            ("class", "0x020000\n"),
            ("vendor", "0x8086\n"),
            ("device", "0x10d3\n"),
            ("numa_node", "0\n"),
            ("irq", "11\n"),
        ] {
            self.put(&format!("sys/bus/pci/devices/{addr}/{f}"), t);
        }
        self.put(&format!("sys/bus/pci/devices/{addr}/driver_override"), "(null)\n");
        self.own.borrow_mut().insert(addr.into(), driver.into());
        self.ifaces.borrow_mut().insert(addr.into(), iface.into());
        self.bind(addr, driver);
        self
    }

    /// With these devices in IOMMU group 7.
    fn grouped(self, all: &[&str]) -> Fake {
        for a in all {
            self.put(&format!("sys/kernel/iommu_groups/7/devices/{a}/class"), "");
            let link = self.at(&format!("sys/bus/pci/devices/{a}/iommu_group"));
            symlink("../../../../kernel/iommu_groups/7", link).unwrap();
        }
        self.put("sys/module/vfio_iommu_type1/refcnt", "0\n");
        self
    }

    fn device(&self, addr: &str) -> PathBuf {
        self.at(&format!("sys/bus/pci/devices/{addr}"))
    }

    fn bind(&self, addr: &str, driver: &str) {
        symlink(format!("../../drivers/{driver}"), self.device(addr).join("driver")).unwrap();
        if self.own.borrow().get(addr).is_some_and(|d| d == driver) {
            fs::create_dir_all(self.device(addr).join("net").join(&self.ifaces.borrow()[addr])).unwrap();
        }
        let at = self.at(&format!("sys/bus/pci/drivers/{driver}/{addr}"));
        symlink(format!("../../devices/{addr}"), at).unwrap();
    }

    fn unbind(&self, addr: &str) {
        let link = self.device(addr).join("driver");
        let driver = fs::read_link(&link).unwrap();
        let driver = driver.file_name().unwrap().to_str().unwrap();
        fs::remove_file(self.at(&format!("sys/bus/pci/drivers/{driver}/{addr}"))).unwrap();
        fs::remove_file(link).unwrap();
        let _ = fs::remove_dir_all(self.device(addr).join("net"));
    }

    fn driver(&self, addr: &str) -> Option<String> {
        super::bind::driver(self, addr)
    }

    /// The effect of a write.
    fn obey(&self, file: &Path, text: &str) -> io::Result<()> {
        let name = file.file_name().unwrap().to_str().unwrap();
        let missing = || io::Error::from_raw_os_error(libc::ENODEV);
        match name {
            "driver_override" => {
                let t = if text.trim().is_empty() { "(null)" } else { text.trim() };
                fs::write(file, format!("{t}\n"))
            }
            "unbind" => {
                self.driver(text).ok_or_else(missing)?;
                self.unbind(text);
                Ok(())
            }
            "drivers_probe" => {
                if self.driver(text).is_some() {
                    return Ok(());
                }
                let over = super::bind::overridden(self, text);
                let driver = over.unwrap_or_else(|| self.own.borrow()[text].clone());
                if !self.at(&format!("sys/bus/pci/drivers/{driver}")).exists() {
                    return Err(missing());
                }
                self.bind(text, &driver);
                Ok(())
            }
            "nr_hugepages" => {
                let number = |f: &str| -> u64 {
                    fs::read_to_string(file.with_file_name(f)).unwrap().trim().parse().unwrap()
                };
                let (had, free) = (number("nr_hugepages"), number("free_hugepages"));
                let reserved = text.parse::<u64>().unwrap().min(self.most.get().max(had));
                // Pages in use stay until they are freed, and count.
                let now = reserved.max(self.used.get());
                fs::write(file.with_file_name("surplus_hugepages"), format!("{}\n", now - reserved))?;
                fs::write(
                    file.with_file_name("free_hugepages"),
                    format!("{}\n", (free + now).saturating_sub(had)),
                )?;
                fs::write(file, format!("{now}\n"))
            }
            "compact_memory" => Ok(()),
            _ => panic!("{}: nobody writes there", file.display()),
        }
    }

    /// A write or a call of modprobe, unless the fault is due.
    fn due<T>(&self, act: impl FnOnce() -> T, refused: T) -> T {
        let n = self.writes.get();
        self.writes.set(n + 1);
        match self.fault.get().filter(|f| f.0 == n) {
            Some((_, Fault::Refuses)) => refused,
            Some((_, Fault::Before)) => panic!("killed"),
            Some((_, Fault::Behind)) => {
                act();
                panic!("killed")
            }
            None => act(),
        }
    }

    /// Every file and link, but for the record.
    fn state(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut todo = vec![self.root().to_owned()];
        while let Some(dir) = todo.pop() {
            for e in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
                let path = e.path();
                let kind = e.file_type().unwrap();
                if kind.is_dir() {
                    todo.push(path);
                } else if kind.is_symlink() {
                    found.insert(path.clone(), fs::read_link(path).unwrap().display().to_string());
                } else if !path.starts_with(self.at("var")) && !path.ends_with("drivers_probe") {
                    found.insert(path.clone(), fs::read_to_string(path).unwrap());
                }
            }
        }
        found
    }

    fn record(&self) -> Record {
        Record::open(&self.at("var/lib/pollnd")).unwrap()
    }

    fn recorded(&self) -> bool {
        self.at("var/lib/pollnd/fix.json").exists()
    }

    fn plan(&self, change: impl FnOnce(&mut Wanted)) -> Result<Plan, String> {
        let mut w = Wanted {
            ports: vec![NIC.into()],
            driver: DriverArg::Auto,
            huge_mib: None,
            usual_mib: 256,
            user: None,
            ssh: None,
        };
        change(&mut w);
        plan::plan(self, &w).map_err(|e| e.join("\n"))
    }

    fn undo(&self) -> (String, End) {
        let mut r = self.record();
        let all = take_back(self, &mut r, 0);
        (all.iter().map(|o| o.line() + "\n").collect(), fix::end(&all))
    }

    fn fix(&self) -> Done {
        let plan = self.plan(|w| w.user = Some("motr".into())).unwrap();
        carry_out(self, &mut self.record(), plan)
    }
}

impl Kernel for Fake {
    fn root(&self) -> &Path {
        self.root.path()
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        self.due(|| self.obey(file, text), Err(io::Error::from_raw_os_error(libc::EACCES)))
    }

    fn modprobe(&self, name: &str, load: bool) -> Result<(), String> {
        let folder = self.at(&format!("sys/module/{}", name.replace('-', "_")));
        let act = || {
            if load {
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join("refcnt"), "0\n").unwrap();
                fs::create_dir_all(self.at(&format!("sys/bus/pci/drivers/{name}"))).unwrap();
            } else {
                fs::remove_dir_all(&folder).unwrap();
                fs::remove_dir_all(self.at(&format!("sys/bus/pci/drivers/{name}"))).unwrap();
            }
            Ok(())
        };
        self.due(act, Err("modprobe: FATAL: Operation not permitted".into()))
    }
}

/// A kernel whose uio_pci_generic is a module that is not loaded, and what its state is.
fn unloaded() -> (Fake, BTreeMap<PathBuf, String>) {
    let f = Fake::new();
    fs::remove_dir(f.at("sys/bus/pci/drivers/uio_pci_generic")).unwrap();
    f.put("proc/sys/kernel/osrelease", "6.1.0\n");
    f.put(
        "lib/modules/6.1.0/modules.dep",
        "kernel/uio/uio.ko:\nkernel/uio/uio_pci_generic.ko.xz: kernel/uio/uio.ko\n",
    );
    f.put("etc/security/limits.d/README", "");
    let state = f.state();
    (f, state)
}

#[test]
fn a_plan_has_the_commands_and_changes_nothing() {
    let (f, before) = unloaded();
    let plan = f.plan(|w| w.user = Some("motr".into())).unwrap();
    insta::assert_snapshot!(fix::told(&plan), @r"
    would be done, with --yes:
      reserve 124 more huge pages of 2 MiB on node 0 (248 MiB; 10 are there, 4 of them free)
          echo 134 > /sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages
      load the kernel module uio_pci_generic
          modprobe uio_pci_generic
      bind port 0000:00:06.0 (its interface eth7 goes) from e1000e to uio_pci_generic
          echo uio_pci_generic > /sys/bus/pci/devices/0000:00:06.0/driver_override
          echo 0000:00:06.0 > /sys/bus/pci/devices/0000:00:06.0/driver/unbind
          echo 0000:00:06.0 > /sys/bus/pci/drivers_probe
      let processes of motr lock memory and have 1048576 descriptors, from the next login on (the service has its own: LimitMEMLOCK, LimitNOFILE)
          echo 'motr - memlock unlimited' > /etc/security/limits.d/90-pollnd.conf
          echo 'motr - nofile 1048576' >> /etc/security/limits.d/90-pollnd.conf
    ");
    assert_eq!((f.state(), f.writes.get()), (before, 0));
    assert_eq!(fix::json(&plan)["steps"][0]["step"], "huge_pages");
}

#[test]
fn all_is_done_and_taken_back() {
    let (f, before) = unloaded();
    let done = f.fix();
    assert_eq!(done.failed, None);
    assert!(done.steps.iter().all(|o| o.state == State::Done) && done.steps.len() == 4, "{done:?}");
    assert_eq!(f.driver(NIC).as_deref(), Some("uio_pci_generic"));
    assert!(f.recorded() && !f.device(NIC).join("net").exists());
    let conf = fs::read_to_string(f.at(CONF)).unwrap();
    assert!(conf.contains("motr - memlock unlimited\nmotr - nofile 1048576\n"), "{conf}");
    // A second time there is nothing to do.
    let again = f.plan(|w| w.user = Some("motr".into())).unwrap();
    assert!(again.steps.is_empty() && again.notes.len() == 3, "{again:?}");
    let (said, end) = f.undo();
    assert_eq!(end, End::Good, "{said}");
    insta::assert_snapshot!(said, @r"
    taken back let processes of motr lock memory and have 1048576 descriptors, from the next login on (the service has its own: LimitMEMLOCK, LimitNOFILE): /etc/security/limits.d/90-pollnd.conf is removed; logins from before keep their limits
    taken back bind port 0000:00:06.0 (its interface eth7 goes) from e1000e to uio_pci_generic: bound to e1000e again, interface eth7
    taken back load the kernel module uio_pci_generic: unloaded
    taken back reserve 124 more huge pages of 2 MiB on node 0 (248 MiB; 10 are there, 4 of them free): 10 pages on node 0, as before
    ");
    assert_eq!(f.state(), before);
    assert!(!f.recorded());
    assert_eq!(f.undo(), (String::new(), End::Good));
}

/// Whatever the kernel refuses, what was done before is taken back at once; whenever we are killed, the record has it.
#[test]
fn a_refusal_or_a_death_at_any_write_leaves_nothing_that_is_not_taken_back() {
    let all = {
        let (f, _) = unloaded();
        f.fix();
        f.writes.get()
    };
    assert!(all >= 5, "{all}");
    for n in 0..all {
        let (f, before) = unloaded();
        f.fault.set(Some((n, Fault::Refuses)));
        let done = f.fix();
        assert!(done.failed.is_some() && fix::end(&done.steps) == End::Good, "{n}: {done:?}");
        assert_eq!(f.state(), before, "{n}: {done:?}");
        assert!(!f.recorded());
        for fault in [Fault::Before, Fault::Behind] {
            let (f, before) = unloaded();
            f.fault.set(Some((n, fault)));
            assert!(catch_unwind(AssertUnwindSafe(|| f.fix())).is_err());
            assert!(f.recorded());
            f.fault.set(None);
            let (said, end) = f.undo();
            assert_eq!((f.state(), end), (before, End::Good), "{n} {fault:?}: {said}");
            assert!(!f.recorded());
        }
    }
}

/// Killed while it takes back, it goes on the next time.
#[test]
fn a_death_while_taking_back_is_made_good_by_the_next() {
    for n in 0.. {
        let (f, before) = unloaded();
        f.fix();
        f.fault.set(Some((f.writes.get() + n / 2, [Fault::Before, Fault::Behind][n % 2])));
        if catch_unwind(AssertUnwindSafe(|| f.undo())).is_ok() {
            assert!(n >= 10, "{n}");
            return;
        }
        f.fault.set(None);
        let (said, end) = f.undo();
        assert_eq!((f.state(), end), (before, End::Good), "{n}: {said}");
    }
}

#[test]
fn what_somebody_else_has_changed_since_is_left_and_said() {
    let (f, _) = unloaded();
    f.fix();
    f.put(&format!("{POOL}/nr_hugepages"), "500\n");
    let conf = fs::read_to_string(f.at(CONF)).unwrap();
    f.put(CONF, &format!("{conf}# mine\n"));
    f.unbind(NIC);
    f.put(&format!("sys/bus/pci/devices/{NIC}/driver_override"), "vfio-pci\n");
    f.bind(NIC, "vfio-pci");
    f.put("sys/module/uio_pci_generic/refcnt", "1\n");
    let (said, end) = f.undo();
    assert_eq!((end, f.recorded()), (End::Left, false));
    insta::assert_snapshot!(said, @r"
    left       let processes of motr lock memory and have 1048576 descriptors, from the next login on (the service has its own: LimitMEMLOCK, LimitNOFILE): /etc/security/limits.d/90-pollnd.conf has been changed since: remove it by hand if it is of no use
    left       bind port 0000:00:06.0 (its interface eth7 goes) from e1000e to uio_pci_generic: somebody has bound it since: to vfio-pci, driver_override vfio-pci
    left       load the kernel module uio_pci_generic: it stays loaded, which does no harm: something else uses it
    left       reserve 124 more huge pages of 2 MiB on node 0 (248 MiB; 10 are there, 4 of them free): somebody has set another number of pages since (500, not 134): to go back to 10: echo 10 > /sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages
    ");
    assert_eq!(f.driver(NIC).as_deref(), Some("vfio-pci"));
}

/// A node that runs on the port is not robbed of it.
#[test]
fn a_port_that_a_process_has_open_waits_for_its_end() {
    let (f, before) = unloaded();
    f.fix();
    f.put(&format!("sys/bus/pci/devices/{NIC}/uio/uio3/dev"), "");
    fs::create_dir_all(f.at("proc/77/fd")).unwrap();
    symlink("/dev/uio3", f.at("proc/77/fd/9")).unwrap();
    f.used.set(100);
    let (said, end) = f.undo();
    assert_eq!((end, f.recorded()), (End::Failed, true));
    assert!(said.contains("10 pages on node 0, as before; 90 more are in use"), "{said}");
    f.put(&format!("{POOL}/nr_hugepages"), "10\n");
    f.put(&format!("{POOL}/free_hugepages"), "4\n");
    f.put(&format!("{POOL}/surplus_hugepages"), "0\n");
    assert!(
        said.contains("process 77 has it open") && f.driver(NIC).as_deref() == Some("uio_pci_generic"),
        "{said}"
    );
    fs::remove_dir_all(f.at("proc/77")).unwrap();
    fs::remove_dir_all(f.device(NIC).join("uio")).unwrap();
    assert_eq!(f.undo().1, End::Good);
    assert_eq!(f.state(), before);
}

#[test]
fn a_restart_of_the_machine_takes_back_all_but_limits() {
    let (f, _) = unloaded();
    f.put("proc/sys/kernel/random/boot_id", "one\n");
    f.fix();
    f.put("proc/sys/kernel/random/boot_id", "two\n");
    f.put("etc/security/limits.d/90-pollnd.half", "motr - mem");
    let writes = f.writes.get();
    let (said, end) = f.undo();
    assert_eq!((end, f.writes.get()), (End::Good, writes), "{said}");
    assert_eq!(said.matches("the machine's restart took it back").count(), 3, "{said}");
    assert!(!f.at(CONF).exists() && !f.at("etc/security/limits.d/90-pollnd.half").exists());
}

#[test]
fn fewer_pages_than_were_asked_for_are_told_and_given_back() {
    let (f, before) = unloaded();
    f.most.set(60);
    let done = f.fix();
    insta::assert_snapshot!(done.failed.unwrap(), @r"
    the kernel reserved 50 of 124 huge pages of 2 MiB on node 0, 148 MiB are missing: free memory is short, or in pieces even after /proc/sys/vm/compact_memory; end what takes memory, ask for less (--huge-pages), or reserve them at boot (hugepages=134 on the kernel's command line)
    ");
    assert_eq!(f.state(), before);
}

/// Reasons why a plan is refused, each by its cause.
#[test]
fn what_may_not_be_done_is_refused_with_the_reason() {
    let why = |f: &Fake, change: &dyn Fn(&mut Wanted)| {
        let before = f.state();
        let e = f.plan(change).unwrap_err();
        assert_eq!((f.state(), f.writes.get()), (before, 0));
        e
    };
    let port = |a: &'static str| move |w: &mut Wanted| w.ports = vec![a.into()];
    let same = |_: &mut Wanted| {};
    let f = Fake::new();
    f.put("sys/bus/pci/devices/0000:00:1f.2/class", "0x010601\n");
    let mut said = vec![
        why(&f, &port("0000:0a:00.0")),
        why(&f, &port("0000:00:1f.2")),
        why(&f, &|w| w.user = Some("nobody7".into())),
        why(&f, &|w| w.huge_mib = Some(1 << 30)),
        why(&f, &|w| w.driver = DriverArg::VfioPci),
    ];
    let routed = Fake::new();
    let head = "Iface D G F R U M Mask\n";
    routed.put("proc/net/route", &format!("{head}eth7 00000000 0100A8C0 0003 0 0 0 00000000\n"));
    said.push(why(&routed, &same));
    let addressed = Fake::new();
    let fd00 = "fd000000000000000000000000000001 02 40 00 80 eth7\n";
    addressed.put("proc/net/if_inet6", fd00);
    said.push(why(&addressed, &same));
    said.push(why(&addressed, &|w| w.ssh = Some("fd00::1".into())));
    let member = Fake::new();
    fs::create_dir_all(member.at("sys/class/net/eth7/upper_br0")).unwrap();
    said.push(why(&member, &same));
    let hidden = Fake::new();
    hidden.put("proc/net/dev", "a|b\nc|d\n  eth9: 0\n");
    said.push(why(&hidden, &same));
    let shared = Fake::new().nic("0000:00:06.1", "e1000e", "eth8").grouped(&[NIC, "0000:00:06.1"]);
    said.push(why(&shared, &same));
    said.push(why(&shared, &|w| {
        w.driver = DriverArg::UioPciGeneric;
        w.ports.push("0000:00:06.1".into());
    }));
    let bare = Fake::new();
    fs::remove_dir(bare.at("sys/bus/pci/drivers/uio_pci_generic")).unwrap();
    bare.put("proc/sys/kernel/osrelease", "6.1.0\n");
    said.push(why(&bare, &same));
    let taken = Fake::new();
    taken.put(CONF, "motr - nofile 10\n");
    said.push(why(&taken, &|w| w.user = Some("motr".into())));
    insta::assert_snapshot!(said.join("\n"), @r"
    --port 0000:0a:00.0: no such device; network devices on the PCI bus: 0000:00:06.0
    --port 0000:00:1f.2: no network device; network devices on the PCI bus: 0000:00:06.0
    --user nobody7: this machine knows no user of that name (getent passwd)
    --huge-pages 1073741824: that takes 1073741816 MiB more on node 0, and 3417 can be had: ask for less
    --port 0000:00:06.0: --driver vfio-pci takes an IOMMU, and none has this device: turn it on (intel_iommu=on on the kernel's command line), take --driver uio_pci_generic, or vfio's unsafe mode: echo Y > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode
    --port 0000:00:06.0: interface eth7 carries the default route: leave it to the kernel, use another port
    --port 0000:00:06.0: interface eth7 has the address fd00::1, which would be gone: if nobody needs it, ip addr flush dev eth7
    --port 0000:00:06.0: your SSH connection comes by interface eth7 (fd00::1): leave it to the kernel
    --port 0000:00:06.0: interface eth7 is part of br0: take it out first, or use another port
    --port 0000:00:06.0: its interface eth7 is not in this network namespace: it may carry the machine's default route, which cannot be told from here; run it there: nsenter --net=/proc/1/ns/net pollnd doctor --fix
    --port 0000:00:06.0: IOMMU group 7 has 0000:00:06.1 (e1000e) too, and goes to user space as a whole: move the port to another slot, or take those from the kernel first
    --port 0000:00:06.0: --driver uio_pci_generic: the IOMMU translates for group 7, and nothing would come through: take vfio-pci, or iommu=pt on the kernel's command line
    --port 0000:00:06.1: --driver uio_pci_generic: the IOMMU translates for group 7, and nothing would come through: take vfio-pci, or iommu=pt on the kernel's command line
    --port 0000:00:06.0: no kernel module uio_pci_generic for Linux 6.1.0: apt-get install linux-image-amd64 (kernels for clouds leave it out), or linux-modules-extra-6.1.0 on Ubuntu
    --user motr: /etc/security/limits.d/90-pollnd.conf is there with another text: remove it first
    ");
}

#[test]
fn the_driver_follows_the_iommu_and_what_there_is() {
    let to = |f: &Fake, driver: DriverArg| {
        let plan = f.plan(|w| w.driver = driver).unwrap();
        plan.steps.iter().find_map(|s| match s {
            Step::Bind(b) => Some(b.to.clone()),
            _ => None,
        })
    };
    let behind = Fake::new().grouped(&[NIC]);
    assert_eq!(to(&behind, DriverArg::Auto).as_deref(), Some("vfio-pci"));
    behind.put("sys/kernel/iommu_groups/7/type", "identity\n");
    assert_eq!(to(&behind, DriverArg::UioPciGeneric).as_deref(), Some("uio_pci_generic"));
    // Both functions of a group may go together.
    let both = Fake::new().nic("0000:00:06.1", "e1000e", "eth8").grouped(&[NIC, "0000:00:06.1"]);
    let plan = both.plan(|w| w.ports.push("0000:00:06.1".into())).unwrap();
    assert_eq!(plan.steps.iter().filter(|s| matches!(s, Step::Bind(_))).count(), 2);
    let unsafely = Fake::new();
    unsafely.put("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
    assert_eq!(to(&unsafely, DriverArg::VfioPci).as_deref(), Some("vfio-pci"));
    assert_eq!(to(&unsafely, DriverArg::Auto).as_deref(), Some("uio_pci_generic"));
    // A virtual function has no interrupt line.
    let function = Fake::new();
    function.put(&format!("sys/bus/pci/devices/{NIC}/irq"), "0\n");
    fs::create_dir(function.at("sys/bus/pci/drivers/igb_uio")).unwrap();
    assert_eq!(to(&function, DriverArg::Auto).as_deref(), Some("igb_uio"));
    function.fix();
    assert_eq!(to(&function, DriverArg::Auto), None, "DPDK can open it as it is");
}

#[test]
fn a_record_that_cannot_be_read_is_named_and_one_is_at_work_at_a_time() {
    let f = Fake::new();
    let held = f.record();
    let second = Record::open(&f.at("var/lib/pollnd")).err().unwrap();
    assert!(second.contains("another `pollnd doctor` is at work"), "{second}");
    drop(held);
    for (text, says) in [("{", "EOF"), ("{\"version\": 9, \"steps\": []}", "version 9"), ("[]", "fix.json")] {
        f.put("var/lib/pollnd/fix.json", text);
        let e = Record::open(&f.at("var/lib/pollnd")).err().unwrap();
        assert!(e.contains(says) && e.contains("fix.json") && e.contains("move it away"), "{e}");
    }
}

#[test]
fn a_record_that_others_may_have_written_is_not_believed() {
    let (f, folder) = (Fake::new(), "var/lib/pollnd");
    let file = f.at(&format!("{folder}/fix.json"));
    let mode = |p: &Path, m: u32| fs::set_permissions(p, fs::Permissions::from_mode(m)).unwrap();
    let open = || Record::open(&f.at(folder)).map(|r| r.entries.len());
    let step = |step: &str| {
        f.put(
            &format!("{folder}/fix.json"),
            &format!(
                "{{\"version\": 1, \"steps\": [{{\"state\": \"done\", \"boot\": \"\", \"step\": {step}}}]}}"
            ),
        );
        mode(&file, 0o644);
        open()
    };
    let bind = |port: &str, from: &str, to: &str| {
        step(&format!(
            "{{\"bind\": {{\"port\": {port:?}, \"from\": {from:?}, \"over\": null, \"to\": {to:?}, \"ifaces\": []}}}}"
        ))
    };
    let pages = |n: &str| step(&format!("{{\"huge_pages\": {{\"node\": 0, \"free\": 0, {n}}}}}"));
    assert_eq!(bind(NIC, "e1000e", "vfio-pci"), Ok(1));
    assert_eq!(pages("\"before\": 10, \"want\": 20"), Ok(1));
    for (e, what) in [
        (bind("../../../../tmp/x", "e1000e", "vfio-pci"), "a port elsewhere"),
        (bind("/tmp/x", "e1000e", "vfio-pci"), "a port at the root"),
        (bind(NIC, "../x", "vfio-pci"), "a driver elsewhere"),
        (bind(NIC, "e1000e", ""), "no driver"),
        (step("{\"module\": {\"name\": \"-C/tmp\"}}"), "an option of modprobe"),
        (pages("\"before\": 20, \"want\": 10"), "fewer pages"),
        (pages("\"before\": 0, \"want\": 18446744073709551615"), "pages beyond all memory"),
    ] {
        assert!(e.as_ref().is_err_and(|e| e.contains("steps[0]") && e.contains("fix.json")), "{what}: {e:?}");
    }
    bind(NIC, "e1000e", "vfio-pci").unwrap();
    mode(&file, 0o666);
    assert!(open().is_err_and(|e| e.contains("somebody else") && e.contains("666")));
    mode(&file, 0o644);
    mode(&f.at(folder), 0o777);
    assert!(open().is_err_and(|e| e.contains("somebody else") && e.contains("777")));
    mode(&f.at(folder), 0o755);
    fs::rename(&file, f.at("var/other")).unwrap();
    symlink(f.at("var/other"), &file).unwrap();
    assert!(open().is_err_and(|e| e.contains("a link")));
    // One that is no file, which would be waited for.
    fs::remove_file(&file).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&file).unwrap());
    assert!(open().is_err_and(|e| e.contains("no regular file")));
}
