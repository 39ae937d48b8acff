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
        Some(vec![Own { name: name.into(), index: Some(index), mac: Some(mac.into()) }])
    };
    let sees = |o| Net::of(d.path(), o).sees("eth0");
    assert!(sees(own("eth0", 4, "02:fc:00:00:00:01")));
    assert!(!sees(own("eth1", 4, "02:fc:00:00:00:01")));
    assert!(!sees(own("eth0", 5, "02:fc:00:00:00:01")));
    assert!(!sees(own("eth0", 4, "02:fc:00:00:00:02")));
    assert!(sees(None), "nothing tells");
    // Our eth0 has the route; what is below the other one has nothing to do with it.
    let net = Net::of(d.path(), own("eth0", 9, "02:fc:00:00:00:01"));
    assert_eq!((net.carries("eth0"), net.carries("nic0")), (Some(vec![]), None));
    assert_eq!(chain(&Net::of(d.path(), None), "nic0").unwrap(), "nic0, by way of eth0");
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
