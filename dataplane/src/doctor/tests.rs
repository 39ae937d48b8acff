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
    let mut out = Vec::new();
    ports(t.0.path(), &mut out);
    let text: String = out.iter().map(|f| format!("{f}\n")).collect();
    insta::assert_snapshot!(text, @r"
    warning port 0000:00:03.0: 8086:10d3 bound to virtio-pci; interface eth0 carries the default route
            -> leave it to the kernel; use another port
    ok      port 0000:00:04.0: 8086:10d3 bound to vfio-pci
    warning port 0000:00:05.0: 8086:10d3 bound to uio_pci_generic
            -> port 0000:00:05.0 is bound to uio_pci_generic: after a kill -9 the device keeps writing into memory that the kernel has given to others; bind it to vfio-pci instead (dpdk-devbind.py -b vfio-pci 0000:00:05.0)
    warning port 0000:00:06.0: 8086:10d3 bound to e1000e: DPDK cannot open it
            -> modprobe vfio-pci && dpdk-devbind.py -b vfio-pci 0000:00:06.0
    warning port 0000:00:07.0: 8086:10d3 bound to no driver: DPDK cannot open it
            -> modprobe vfio-pci && dpdk-devbind.py -b vfio-pci 0000:00:07.0
    ok      port 0000:00:08.0: 8086:10d3 bound to mlx5_core
    ok      default route: interface eth0
    ");
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
    let out = examine(t.0.path(), None);
    assert!(out.iter().all(|f| (f.severity == Severity::Good) == f.remedy.is_none()), "{out:?}");
    let text: String = out.iter().map(|f| format!("{f}\n")).collect();
    insta::assert_snapshot!(text, @r"
    missing DPDK: this pollnd was built without it: kernel sockets only
            -> apt-get install libdpdk-dev libclang-dev pkg-config && cargo build --release
    warning huge pages: none reserved: nodes run with ordinary pages (--no-huge), slower and without physical ports
            -> echo 512 > /proc/sys/vm/nr_hugepages   (as root; 1 GiB in pages of 2 MiB)
    warning ports: no network device on the PCI bus
            -> virtual ports work: pollnd demo uses a virtio pair; --port net_tap0,iface=tap0 makes a TAP
    warning cores: 8 online, 1 usable by this process
            -> run with at least 2 cores for a node and its applications; on one core lcores yield
    ok      NUMA: node 0: 4 cores, node 1: 4 cores
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
    ])
    .pci("0000:00:04.0", "0x020000", Some("vfio-pci"), None);
    let out = examine(t.0.path(), Some("DPDK 22.11"));
    let (lacking, rest): (Vec<_>, Vec<_>) = out.into_iter().partition(|f| f.subject == "drivers");
    assert!(rest.iter().all(|f| f.remedy.is_none()), "{rest:?}");
    assert_eq!(lacking.len(), 4);
    assert_eq!(lacking[2].remedy.as_deref(), Some("apt-get install '^librte-net-vhost[0-9]+$'"));

    let dir = t.0.path().join("usr/lib/x86_64-linux-gnu/dpdk/pmds-23.0");
    fs::create_dir_all(&dir).unwrap();
    for l in ["mempool_ring", "bus_vdev", "net_vhost", "net_virtio"] {
        fs::write(dir.join(format!("librte_{l}.so.23.0")), "").unwrap();
    }
    let out = examine(t.0.path(), Some("DPDK 22.11"));
    assert!(out.iter().all(|f| f.remedy.is_none()), "{out:?}");
    assert!(out.iter().any(|f| f.detail.starts_with("2 port drivers")), "{out:?}");
}

#[test]
fn cpu_lists() {
    assert_eq!(parse_cpu_list("0-2,5,7-8\n"), [0, 1, 2, 5, 7, 8]);
    for bad in ["", "x", "3-1", "0-99999999999", "1-", ","] {
        assert!(parse_cpu_list(bad).is_empty(), "{bad}");
    }
}
