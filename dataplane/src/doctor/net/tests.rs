use std::fs;

use super::*;

/// A tree with these folders and files; a name that ends with / is a folder.
fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let d = tempfile::tempdir().unwrap();
    for (p, s) in files {
        let path = d.path().join(p);
        if p.ends_with('/') {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, s).unwrap();
        }
    }
    d
}

const BR0: &str = "I D G F R U M Mask\nbr0 00000000 0100A8C0 0003 0 0 0 00000000\n";

/// A /sys as the kernel lays it out: a folder for each device below `devices`, and links to it and among them.
struct Sys(tempfile::TempDir);

/// Place of a virtual interface.
const VIRTUAL: &str = "devices/virtual/net";

impl Sys {
    /// With these interfaces: the folder that each is in, its name and number.
    fn new(all: &[(&str, &str, u32)]) -> Sys {
        let sys = Sys(tempfile::tempdir().unwrap());
        for (at, name, index) in all {
            let dir = sys.path(&format!("{at}/{name}"));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("ifindex"), format!("{index}\n")).unwrap();
            fs::write(dir.join("address"), format!("02:fc:00:00:00:{index:02x}\n")).unwrap();
            fs::write(dir.join("operstate"), "up\n").unwrap();
            sys.link(&format!("class/net/{name}"), &format!("{at}/{name}"));
        }
        sys
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn path(&self, p: &str) -> PathBuf {
        self.root().join("sys").join(p)
    }

    /// A link at `from` to `to`, relative as the kernel's are.
    fn link(&self, from: &str, to: &str) {
        let (a, b): (Vec<_>, Vec<_>) = (from.split('/').collect(), to.split('/').collect());
        let same = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
        let target = "../".repeat(a.len() - 1 - same) + &b[same..].join("/");
        let at = self.path(from);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, &at).unwrap();
        assert!(at.exists(), "{} leads nowhere", at.display());
    }

    /// The interface at `upper` sits on the one at `lower`.
    fn over(&self, upper: &str, lower: &str) {
        let name = |p: &str| p.rsplit('/').next().unwrap().to_owned();
        self.link(&format!("{upper}/lower_{}", name(lower)), lower);
        self.link(&format!("{lower}/upper_{}", name(upper)), upper);
    }

    /// The interface at `port` is a port of the bridge at `bridge`.
    fn bridge(&self, bridge: &str, port: &str) {
        self.over(bridge, port);
        fs::create_dir_all(self.path(&format!("{port}/brport"))).unwrap();
        fs::create_dir_all(self.path(&format!("{bridge}/bridge"))).unwrap();
        self.link(&format!("{port}/master"), bridge);
        self.link(&format!("{port}/brport/bridge"), bridge);
        let name = port.rsplit('/').next().unwrap();
        self.link(&format!("{bridge}/brif/{name}"), &format!("{port}/brport"));
    }

    /// The interfaces, as the kernel would list them.
    fn own(&self) -> Vec<Own> {
        let class = self.path("class/net");
        let read = |i: &str, f: &str| text(&class.join(i).join(f));
        let one = |i: &String| Own {
            name: i.clone(),
            index: read(i, "ifindex").and_then(|n| n.parse().ok()),
            mac: read(i, "address"),
            addresses: Vec::new(),
        };
        names(&class).iter().map(one).collect()
    }
}

fn chain(net: &Net, iface: &str) -> Option<String> {
    net.carries(iface).map(|by| by_way_of(iface, &by))
}

/// Field report 11: a VLAN over a bridge over a bond of two NICs, and what is beside it.
#[test]
fn a_default_route_is_followed_down_to_the_nics() {
    let d = tree(&[
        ("proc/net/route", &BR0.replace("br0", "br0.5")),
        ("sys/class/net/br0.5/lower_br0/", ""),
        ("sys/class/net/br0/brif/bond0/", ""),
        ("sys/class/net/br0/brif/tap7/", ""),
        ("sys/class/net/bond0/bonding/slaves", "eth0 eth1\n"),
        ("sys/class/net/eth2/", ""),
    ]);
    let net = Net::read(d.path());
    assert_eq!(net.routed().collect::<Vec<_>>(), ["br0.5"]);
    assert_eq!(net.below("br0.5"), ["br0", "bond0", "tap7", "eth0", "eth1"]);
    assert_eq!(chain(&net, "br0.5").unwrap(), "br0.5");
    assert_eq!(chain(&net, "eth1").unwrap(), "eth1, by way of bond0 and br0 and br0.5");
    assert_eq!(chain(&net, "eth2"), None);
}

/// Field report 11: default routes over a VLAN of a bridge of a NIC and a virtual device, over a second next hop, and of
/// another table, on a /sys as the kernel has it.
#[test]
fn default_routes_are_followed_through_the_links_of_sys() {
    let nic = "devices/pci0000:00/0000:00:03.0/virtio1/net";
    let sys = Sys::new(&[
        (VIRTUAL, "lo", 1),
        (nic, "eth0", 2),
        (VIRTUAL, "low1", 3),
        (VIRTUAL, "br9", 4),
        (VIRTUAL, "br9.5", 5),
        (VIRTUAL, "hop1", 6),
        (VIRTUAL, "other", 7),
        (VIRTUAL, "aside", 8),
    ]);
    let at = |i: &str| format!("{VIRTUAL}/{i}");
    sys.bridge(&at("br9"), &format!("{nic}/eth0"));
    sys.bridge(&at("br9"), &at("low1"));
    sys.over(&at("br9.5"), &at("br9"));
    fs::write(sys.path("devices/pci0000:00/0000:00:03.0/virtio1/numa_node"), "1\n").unwrap();
    sys.link(&format!("{nic}/eth0/device"), "devices/pci0000:00/0000:00:03.0/virtio1");
    // The kernel's table gives the two next hops of one route, the one of another table, and loopback's own.
    let routed: Vec<String> = numbered(sys.own(), &[1, 5, 6, 7]).collect();
    let net = Net::of(sys.root(), Some(sys.own()), routed);
    assert_eq!(net.routed().collect::<Vec<_>>(), ["br9.5", "hop1", "other"]);
    assert_eq!(net.below("br9.5"), ["br9", "eth0", "low1"]);
    assert_eq!(chain(&net, "eth0").unwrap(), "eth0, by way of br9 and br9.5");
    assert_eq!((net.below("hop1"), chain(&net, "aside")), (vec![], None));
    assert_eq!(iface_node(sys.root(), "br9.5"), Some(1));
    // Looked at from another namespace, whose br9.5 is none of this one, nothing below it is ours.
    let mut own = sys.own();
    own.iter_mut().filter(|o| o.name == "br9.5").for_each(|o| o.index = Some(99));
    assert_eq!(chain(&Net::of(sys.root(), Some(own), vec!["br9.5".into()]), "eth0"), None);
}

/// Field report 11: a VLAN over a bond of two NICs, whose interfaces the bond enslaves.
#[test]
fn a_bond_is_followed_by_its_links_and_by_its_list() {
    let nic = |n: u8| format!("devices/pci0000:00/0000:00:0{n}.0/net");
    let sys = Sys::new(&[
        (&nic(3), "eth0", 2),
        (&nic(4), "eth1", 3),
        (VIRTUAL, "bond0", 4),
        (VIRTUAL, "bond0.7", 5),
    ]);
    let bond = format!("{VIRTUAL}/bond0");
    sys.over(&format!("{VIRTUAL}/bond0.7"), &bond);
    sys.over(&bond, &format!("{}/eth0", nic(3)));
    sys.link(&format!("{}/eth0/master", nic(3)), &bond);
    // The second one in the list alone.
    fs::create_dir_all(sys.path(&format!("{bond}/bonding"))).unwrap();
    fs::write(sys.path(&format!("{bond}/bonding/slaves")), "eth0 eth1\n").unwrap();
    let net = Net::of(sys.root(), Some(sys.own()), vec!["bond0.7".into()]);
    assert_eq!(net.below("bond0.7"), ["bond0", "eth0", "eth1"]);
}

/// Field report 11: the ports of an Open vSwitch hang on one another by their master alone.
#[test]
fn an_internal_port_of_open_vswitch_is_over_the_other_ports() {
    let d = tree(&[
        ("proc/net/route", BR0),
        ("sys/class/net/br0/ifindex", "5"),
        ("sys/class/net/ovs-system/lower_eth0/", ""),
        ("sys/class/net/ovs-system/lower_br0/", ""),
    ]);
    std::os::unix::fs::symlink("../ovs-system", d.path().join("sys/class/net/br0/master")).unwrap();
    assert_eq!(chain(&Net::read(d.path()), "eth0").unwrap(), "eth0, by way of ovs-system and br0");
}

#[test]
fn a_circle_ends() {
    let d = tree(&[
        ("proc/net/route", BR0),
        ("sys/class/net/br0/lower_a/", ""),
        ("sys/class/net/a/lower_br0/", ""),
    ]);
    let net = Net::read(d.path());
    assert_eq!(net.below("br0"), ["a"]);
    assert_eq!(iface_node(d.path(), "br0"), None);
}

/// Field report 11: what VPNs lay over the default route, and what all of the Internet is, are default routes, too.
#[test]
fn halves_of_the_address_space_count() {
    let v4 = "I D G F R U M Mask\n\
        tun0 00000000 01 3 0 0 0 00000080\ntun1 00000080 01 3 0 0 0 00000080\n\
        lan0 0000000A 01 3 0 0 0 000000FF\nlan1 00000040 01 3 0 0 0 000000C0\n* 00000000 0 200 0 0 0 00000000\n";
    let z = "0".repeat(31);
    let v6 = format!(
        "2{z} 03 {z}0 00 {z}0 1 1 0 3 wan6\n8{z} 01 {z}0 00 {z}0 1 1 0 3 vpn6\n3{z} 03 {z}0 00 {z}0 1 1 0 3 x\n"
    );
    let d = tree(&[("proc/net/route", v4), ("proc/net/ipv6_route", &v6)]);
    assert_eq!(default_route_ifaces(d.path()), ["tun0", "tun1", "vpn6", "wan6"]);
}

/// Field report 11: /sys may be another namespace's than the process's, and its eth0 not our eth0.
#[test]
fn an_interface_of_another_namespace_is_told_by_number_and_address() {
    let d = tree(&[
        ("proc/net/route", &BR0.replace("br0", "eth0")),
        ("sys/class/net/eth0/ifindex", "4\n"),
        ("sys/class/net/eth0/address", "02:fc:00:00:00:01\n"),
        ("sys/class/net/eth0/lower_nic0/", ""),
        ("sys/class/net/nic0/", ""),
    ]);
    let own = |name: &str, index, mac: &str| {
        Some(vec![Own {
            name: name.into(),
            index: Some(index),
            mac: Some(mac.into()),
            addresses: Vec::new(),
        }])
    };
    let of = |o| Net::of(d.path(), o, default_route_ifaces(d.path()));
    let sees = |o| of(o).sees("eth0");
    assert!(sees(own("eth0", 4, "02:fc:00:00:00:01")));
    assert!(!sees(own("eth1", 4, "02:fc:00:00:00:01")));
    assert!(!sees(own("eth0", 5, "02:fc:00:00:00:01")));
    assert!(!sees(own("eth0", 4, "02:fc:00:00:00:02")));
    assert!(sees(None), "nothing tells");
    // Our eth0 has the route; what is below the other one has nothing to do with it.
    let net = of(own("eth0", 9, "02:fc:00:00:00:01"));
    assert_eq!((net.carries("eth0"), net.carries("nic0")), (Some(vec![]), None));
    assert_eq!(chain(&of(None), "nic0").unwrap(), "nic0, by way of eth0");
}

/// The kernel's own list and /sys agree where both are of one namespace.
#[test]
fn our_own_interfaces_are_seen() {
    let all = own().unwrap();
    assert!(all.iter().any(|o| o.name == "lo" && o.index.is_some()), "{all:?}");
    if Path::new("/sys/class/net/lo").exists() {
        assert!(Net::read(Path::new("/")).sees("lo"));
    }
    assert!(!Net::read(Path::new("/")).sees("no-such-iface"));
}

#[test]
fn the_node_of_the_device_below() {
    let d = tree(&[
        ("sys/class/net/br0/lower_bond0/", ""),
        ("sys/class/net/bond0/lower_eth0/", ""),
        ("sys/class/net/eth0/device/numa_node", "1\n"),
        ("sys/class/net/eth1/device/numa_node", "-1\n"),
    ]);
    assert_eq!(
        ["br0", "eth0", "eth1", "none"].map(|i| iface_node(d.path(), i)),
        [Some(1), Some(1), None, None]
    );
}

#[test]
fn addresses_and_what_an_interface_is_part_of_are_told() {
    let six = "fd000000000000000000000000000001 02 40 00 80 eth7\nfe800000000000000000000000000001 02 40 20 80 eth7\n";
    let d = tree(&[
        ("proc/net/dev", "a|b\nc|d\n  eth7: 0\n  eth8: 0\n"),
        ("proc/net/if_inet6", six),
        ("sys/class/net/eth8/upper_br0/", ""),
    ]);
    std::os::unix::fs::symlink("../br0", d.path().join("sys/class/net/eth8/master")).unwrap();
    let net = Net::read(d.path());
    assert_eq!(net.addresses("eth7"), ["fd00::1".parse::<IpAddr>().unwrap()]);
    assert!(net.addresses("eth8").is_empty() && net.addresses("eth9").is_empty());
    assert_eq!((net.above("eth7"), net.above("eth8")), (vec![], vec!["br0".to_owned()]));
    // This machine's, as the kernel lists them.
    let own = Net::read(Path::new("/"));
    assert!(own.addresses("lo").iter().all(IpAddr::is_loopback) && !own.addresses("lo").is_empty());
}
