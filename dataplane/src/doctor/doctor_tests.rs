use std::os::unix::fs::symlink;

use super::*;

struct Tree(tempfile::TempDir);

impl Tree {
    fn new(files: &[(&str, &str)]) -> Tree {
        let t = Tree(tempfile::tempdir().unwrap());
        for (p, s) in files {
            let p = t.0.path().join(p);
            fs::create_dir_all(p.parent().unwrap()).unwrap();
            fs::write(p, s).unwrap();
        }
        t
    }
    fn pci(self, addr: &str, class: &str, driver: Option<&str>, iface: Option<&str>) -> Tree {
        let d = self.0.path().join("sys/bus/pci/devices").join(addr);
        fs::create_dir_all(&d).unwrap();
        for (f, s) in [("class", class), ("vendor", "0x8086"), ("device", "0x10d3"), ("numa_node", "-1")] {
            fs::write(d.join(f), format!("{s}\n")).unwrap();
        }
        if let Some(x) = driver {
            symlink(format!("../../../../bus/pci/drivers/{x}"), d.join("driver")).unwrap();
        }
        if let Some(i) = iface {
            fs::create_dir_all(d.join("virtio3/net").join(i)).unwrap();
        }
        self
    }
}

const ROUTE: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
    eth1\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
    eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n";

#[test]
fn default_routes_of_both_families_are_found_and_the_kernels_own_are_not() {
    let z = "0".repeat(32);
    let v6 = format!(
        "{z} 00 {z} 00 {z} 00000400 00000001 00000000 00000003 wan6\n\
         {z} 00 {z} 00 {z} ffffffff 00000001 00000000 00200200 lo\n\
         fe800000000000000000000000000000 40 {z} 00 {z} 00000100 00000001 00000000 00000001 eth1\n"
    );
    let t = Tree::new(&[("proc/net/route", ROUTE), ("proc/net/ipv6_route", &v6)]);
    assert_eq!(default_route_ifaces(t.0.path()), ["eth0", "wan6"]);
    assert!(default_route_ifaces(Path::new("/nonexistent")).is_empty());
    let broken = Tree::new(&[("proc/net/route", "x\ny z\n\n00000000\n"), ("proc/net/ipv6_route", "a\n")]);
    assert!(default_route_ifaces(broken.0.path()).is_empty());
}

#[test]
fn each_port_gets_the_finding_and_remedy_of_its_driver() {
    let t = Tree::new(&[("proc/net/route", ROUTE)])
        .pci("0000:00:03.0", "0x020000", Some("virtio-pci"), Some("eth0"))
        .pci("0000:00:04.0", "0x020000", Some("vfio-pci"), None)
        .pci("0000:00:05.0", "0x020000", Some("uio_pci_generic"), None)
        .pci("0000:00:06.0", "0x020000", Some("e1000e"), Some("eth7"))
        .pci("0000:00:07.0", "0x020000", None, None)
        .pci("0000:00:08.0", "0x020000", Some("mlx5_core"), Some("eth8"))
        .pci("0000:00:09.0", "0x010802", Some("nvme"), None);
    insta::assert_snapshot!(looked_at(&t), @r"
    ok      port 0000:00:03.0: 8086:10d3 bound to virtio-pci; interface eth0 carries the default route: leave it to the kernel, use another port
    ok      port 0000:00:04.0: 8086:10d3 bound to vfio-pci
    warning port 0000:00:05.0: 8086:10d3 bound to uio_pci_generic
            -> port 0000:00:05.0 is bound to uio_pci_generic: after a kill -9 the device keeps writing into memory that the kernel has given to others; bind it to vfio-pci instead (dpdk-devbind.py -b vfio-pci 0000:00:05.0)
    ok      port 0000:00:06.0: 8086:10d3 bound to e1000e: the kernel's; another port is there for DPDK
    ok      port 0000:00:07.0: 8086:10d3 bound to no driver: the kernel's; another port is there for DPDK
    ok      port 0000:00:08.0: 8086:10d3 bound to mlx5_core
    ok      default route: interface eth0
    ");
}

fn looked_at(t: &Tree) -> String {
    let mut out = Vec::new();
    ports(t.0.path(), &Net::read(t.0.path()), &mut out);
    out.iter().map(|f| format!("{f}\n")).collect()
}

#[test]
fn where_no_port_is_there_for_dpdk_each_that_may_be_taken_is_told() {
    let t = Tree::new(&[("proc/net/route", ROUTE)])
        .pci("0000:00:03.0", "0x020000", Some("virtio-pci"), Some("eth0"))
        .pci("0000:00:06.0", "0x020000", Some("e1000e"), Some("eth7"))
        .pci("0000:00:07.0", "0x020000", None, None);
    insta::assert_snapshot!(looked_at(&t), @r"
    ok      port 0000:00:03.0: 8086:10d3 bound to virtio-pci; interface eth0 carries the default route: leave it to the kernel, use another port
    warning port 0000:00:06.0: 8086:10d3 bound to e1000e: DPDK cannot open it
            -> pollnd doctor --fix --port 0000:00:06.0   (or: modprobe vfio-pci && dpdk-devbind.py -b vfio-pci 0000:00:06.0)
    warning port 0000:00:07.0: 8086:10d3 bound to no driver: DPDK cannot open it
            -> pollnd doctor --fix --port 0000:00:07.0   (or: modprobe vfio-pci && dpdk-devbind.py -b vfio-pci 0000:00:07.0)
    ok      default route: interface eth0
    ");
}

/// Field report 11: three NICs in a network namespace that is not theirs: one whose interface /sys does not show, one
/// whose interface /sys shows and the process has not, one that DPDK shares with the kernel. No word of binding.
#[test]
fn nothing_is_advised_on_a_device_whose_interface_is_in_another_namespace() {
    let t = Tree::new(&[("proc/net/route", "Iface\n"), ("proc/net/dev", "a|b\nc|d\n    lo:  0 0\n")])
        .pci("0000:00:03.0", "0x020000", Some("virtio-pci"), None)
        .pci("0000:00:06.0", "0x020000", Some("e1000e"), Some("eth0"))
        .pci("0000:00:08.0", "0x020000", Some("mlx5_core"), None)
        .pci("0000:00:09.0", "0x020000", Some("vfio-pci"), None);
    let text = looked_at(&t);
    assert!(!text.contains("devbind") && !text.contains("vfio-pci 0000"), "{text}");
    insta::assert_snapshot!(text, @r"
    warning port 0000:00:03.0: 8086:10d3 bound to virtio-pci; its interface is not in this network namespace: it may carry the machine's default route, which cannot be told from here
            -> look from the namespace that has it: nsenter --net=/proc/1/ns/net pollnd doctor
    warning port 0000:00:06.0: 8086:10d3 bound to e1000e; its interface eth0 is not in this network namespace: it may carry the machine's default route, which cannot be told from here
            -> look from the namespace that has it: nsenter --net=/proc/1/ns/net pollnd doctor
    warning port 0000:00:08.0: 8086:10d3 bound to mlx5_core; its interface is not in this network namespace: it may carry the machine's default route, which cannot be told from here
            -> look from the namespace that has it: nsenter --net=/proc/1/ns/net pollnd doctor
    ok      port 0000:00:09.0: 8086:10d3 bound to vfio-pci
    ");
}

/// Field report 11: the default route is over a bridge whose member is the NIC.
#[test]
fn nothing_is_advised_on_a_device_below_the_default_route() {
    let t = Tree::new(&[
        ("proc/net/route", &ROUTE.replace("eth0", "br0")),
        ("proc/net/dev", "a|b\nc|d\n    lo:  0 0\n   br0: 0\n  eth7: 0\n"),
        ("sys/class/net/br0/lower_eth7/x", ""),
    ])
    .pci("0000:00:06.0", "0x020000", Some("e1000e"), Some("eth7"));
    insta::assert_snapshot!(looked_at(&t), @r"
    ok      port 0000:00:06.0: 8086:10d3 bound to e1000e; interface eth7 carries the default route by way of br0: leave it to the kernel, use another port
    ok      default route: interface br0, over eth7
    ");
}

/// Findings on the IOMMU of a tree with an e1000e, a virtio NIC with the default route, and these files.
fn iommu_of(files: &[(&str, &str)]) -> String {
    let t = Tree::new(&[&[("proc/net/route", ROUTE)], files].concat())
        .pci("0000:00:03.0", "0x020000", Some("virtio-pci"), Some("eth0"))
        .pci("0000:00:06.0", "0x020000", Some("e1000e"), Some("eth7"))
        .pci("0000:00:06.1", "0x010601", Some("ahci"), None)
        .pci("0000:00:01.0", "0x060400", Some("pcieport"), None);
    if files.iter().any(|f| f.0.contains("iommu_groups")) {
        let dev = t.0.path().join("sys/bus/pci/devices/0000:00:06.0");
        symlink("../../../../kernel/iommu_groups/7", dev.join("iommu_group")).unwrap();
    }
    let mut out = Vec::new();
    iommu::findings(t.0.path(), &Net::read(t.0.path()), &mut out);
    out.iter().map(|f| format!("{f}\n")).collect()
}

#[test]
fn ports_without_an_iommu_and_in_groups_with_others_are_told() {
    insta::assert_snapshot!(iommu_of(&[("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n")]), @r"
    warning IOMMU: none: ports go by uio_pci_generic, and nothing fences their DMA; vfio-pci would take its unsafe mode without an IOMMU, which fences nothing either
            -> turn it on: VT-d or AMD-Vi in the firmware, and intel_iommu=on on the kernel's command line; in a guest the hypervisor gives one
    warning IOMMU: vfio's mode without an IOMMU is on (enable_unsafe_noiommu_mode=Y): what such a device writes is fenced by nothing
            -> echo N > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode   (as root), and turn an IOMMU on
    ");
    let of = |a: &str| (format!("sys/kernel/iommu_groups/7/devices/{a}/class"), "");
    let files = ["0000:00:06.0", "0000:00:06.1", "0000:00:01.0"].map(of);
    let files: Vec<_> = files.iter().map(|(p, s)| (p.as_str(), *s)).collect();
    insta::assert_snapshot!(iommu_of(&files), @r"
    ok      IOMMU: 1 group
    warning port 0000:00:06.0: IOMMU group 7 has 0000:00:06.1 (ahci) too: vfio gives away a group as a whole
            -> move it to another slot, one whose bridge separates devices (ACS), or take the others from the kernel as well: echo 0000:00:06.1 > /sys/bus/pci/devices/0000:00:06.1/driver/unbind
    ");
    assert_eq!(iommu_of(&files[..1]), "ok      IOMMU: 1 group\n");
}

/// Field report 21: what the command ends with.
#[test]
fn the_worst_finding_is_the_exit_code() {
    let of = |s: &[Severity]| {
        let f = |s: &Severity| Finding { severity: *s, ..Finding::good("x", "y") };
        exit_code(&s.iter().map(f).collect::<Vec<_>>())
    };
    use Severity::{Good, Missing, Warning};
    assert_eq!([of(&[]), of(&[Good, Good]), of(&[Good, Warning])], [0, 0, 3]);
    assert_eq!([of(&[Missing]), of(&[Warning, Missing, Good])], [1, 1]);
}

/// Field report 13.
#[test]
fn a_cpu_quota_in_force_is_told() {
    let look = |max: &str| {
        let t = Tree::new(&[
            ("sys/devices/system/cpu/online", "0-3\n"),
            ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/cpu.max", max),
        ]);
        let mut out = Vec::new();
        cores(t.0.path(), &mut out);
        let root = t.0.path().display().to_string();
        out.into_iter().find(|f| f.subject == "CPU quota").map(|f| f.to_string().replace(&root, ""))
    };
    assert_eq!(look("max 100000\n"), None);
    assert_eq!(look("500000 100000\n"), None, "more than the CPUs that there are");
    insta::assert_snapshot!(look("50000 100000\n").unwrap(), @r"
    warning CPU quota: 50 ms of CPU time in every 100 ms (/sys/fs/cgroup/cpu.max): an lcore that polls is stopped for 50 ms at a time
            -> lift it: echo max > /sys/fs/cgroup/cpu.max   (as root), or where it was set: CPUQuota= of a systemd unit, --cpus of a container, limits.cpu of a pod
    ");
    assert!(look("200000 100000\n").unwrap().contains("as soon as all threads together have used it up"));
}

#[test]
fn a_bare_machine_gets_a_remedy_for_everything_that_is_not_well() {
    let t = Tree::new(&[
        ("sys/devices/system/cpu/online", "0-7\n"),
        ("sys/devices/system/node/node0/cpulist", "0-3\n"),
        ("sys/devices/system/node/node1/cpulist", "4-7\n"),
        (
            "proc/self/status",
            "Uid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000001000\nCpus_allowed_list:\t2\n",
        ),
    ]);
    let out = examine(t.0.path(), None, &[]);
    assert!(out.iter().all(|f| (f.severity == Severity::Good) == f.remedy.is_none()), "{out:?}");
    let text: String = out.iter().map(|f| format!("{f}\n")).collect();
    insta::assert_snapshot!(text, @r"
    missing DPDK: this pollnd was built without it: kernel sockets only
            -> apt-get install libdpdk-dev libclang-dev pkg-config && cargo build --release
    warning huge pages: none reserved: nodes run with ordinary pages (--no-huge), slower and without physical ports
            -> echo 512 > /proc/sys/vm/nr_hugepages   (as root; 1 GiB in pages of 2 MiB)
    warning ports: no network device on the PCI bus
            -> virtual ports work: pollnd demo uses a virtio pair; --port net_tap0,iface=tap0 makes a TAP
    ok      IOMMU: none, and no port that may be bound needs one
    warning cores: 8 online, 1 usable by this process
            -> run with at least 2 cores for a node and its applications; on one core lcores yield
    ok      NUMA: node 0: 4 cores, node 1: 4 cores
    ok      isolated cores: none: lcores share their CPUs with what the scheduler puts there (isolcpus= and nohz_full= on the kernel's command line keep it off)
    warning rights: uid 1000 lacks CAP_NET_BIND_SERVICE (kernel-socket nodes dial Linux peers from ports below 1024)
            -> run as root, or: setcap cap_net_bind_service,cap_ipc_lock,cap_sys_admin+ep $(command -v pollnd)
    warning rights: uid 1000 lacks CAP_IPC_LOCK (locking device memory)
            -> run as root, or: setcap cap_net_bind_service,cap_ipc_lock,cap_sys_admin+ep $(command -v pollnd)
    warning rights: uid 1000 lacks CAP_SYS_ADMIN (physical addresses of pages, for ports without an IOMMU)
            -> run as root, or: setcap cap_net_bind_service,cap_ipc_lock,cap_sys_admin+ep $(command -v pollnd)
    ");
}

#[test]
fn a_good_machine_needs_no_remedy() {
    let g = "sys/devices/system/node/node0/hugepages/hugepages-2048kB";
    let t = Tree::new(&[
        ("sys/devices/system/cpu/online", "0-3\n"),
        ("sys/devices/system/node/node0/cpulist", "0-3\n"),
        ("proc/self/status", "Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\nCpus_allowed_list:\t0-3\n"),
        (&format!("{g}/nr_hugepages"), "512"),
        (&format!("{g}/free_hugepages"), "500"),
        ("sys/kernel/iommu_groups/1/devices/0000:00:04.0/class", "0x020000"),
    ])
    .pci("0000:00:04.0", "0x020000", Some("vfio-pci"), None);
    let out = examine(t.0.path(), Some("DPDK 22.11"), &[]);
    let (lacking, rest): (Vec<_>, Vec<_>) = out.into_iter().partition(|f| f.subject == "drivers");
    assert!(rest.iter().all(|f| f.remedy.is_none()), "{rest:?}");
    assert_eq!(lacking.len(), 4);
    assert_eq!(lacking[2].remedy.as_deref(), Some("apt-get install '^librte-net-vhost[0-9]+$'"));

    let dir = t.0.path().join("usr/lib/x86_64-linux-gnu/dpdk/pmds-23.0");
    fs::create_dir_all(&dir).unwrap();
    for l in ["mempool_ring", "bus_vdev", "net_vhost", "net_virtio"] {
        fs::write(dir.join(format!("librte_{l}.so.23.0")), "").unwrap();
    }
    let out = examine(t.0.path(), Some("DPDK 22.11"), &[]);
    assert!(out.iter().all(|f| f.remedy.is_none()), "{out:?}");
    assert_eq!(exit_code(&out), 0);
    assert!(out.iter().any(|f| f.detail.starts_with("2 port drivers")), "{out:?}");
}

#[test]
fn cpu_lists() {
    assert_eq!(parse_cpu_list("0-2,5,7-8\n"), [0, 1, 2, 5, 7, 8]);
    for bad in ["", "x", "3-1", "0-99999999999", "1-", ","] {
        assert!(parse_cpu_list(bad).is_empty(), "{bad}");
    }
}
