//! The arrows between the crates, as ARCHITECTURE.md draws them: read from `cargo tree`, so that a dependency
//! that turns one round, or adds one, fails here.
//!
//! It sits in this crate because this one has no arrows of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

type Names = BTreeSet<String>;

/// Crate -> the crates that it may name, all features on. What one of those may use, it may use, too: an arrow
/// may be shortened. `dpdk-sys` is the exception: only `dataplane` touches it.
const ARROWS: [(&str, &[&str]); 9] = [
    ("hugepages", &[]),
    ("fsm", &[]),
    ("wheel", &[]),
    ("dpdk-sys", &[]),
    ("dataplane", &["hugepages", "dpdk-sys"]),
    ("tcpstack", &["dataplane", "wheel"]),
    ("transport", &["tcpstack", "fsm"]),
    ("bench", &["transport"]),
    ("pollnd", &["bench"]),
];

/// Crates that link no DPDK unless a feature asks for it.
const NO_DPDK_BY_DEFAULT: [&str; 6] = ["hugepages", "fsm", "wheel", "dataplane", "tcpstack", "transport"];

/// Outside crate -> the only crate of ours that may name it.
const FENCED: [(&str, &str); 3] =
    [("smoltcp", "tcpstack"), ("hwlocality", "dataplane"), ("bindgen", "dpdk-sys")];

fn package(name: &str) -> String {
    if name == "pollnd" { name.to_owned() } else { format!("pollnd-{name}") }
}

/// `cargo tree` of normal and build dependencies: lines of depth and crate name, ours without their prefix.
fn tree(args: &[&str]) -> Vec<(usize, String)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .args(["tree", "--edges", "normal,build", "--prefix", "depth", "--format", " {p}"])
        .args(args)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "cargo tree {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    text.lines()
        .filter_map(|l| {
            let mut words = l.split_whitespace();
            let (depth, name) = (words.next()?.parse().ok()?, words.next()?);
            Some((depth, name.strip_prefix("pollnd-").unwrap_or(name).to_owned()))
        })
        .collect()
}

fn members() -> Names {
    let found: Names = tree(&["--workspace", "--depth", "0"]).into_iter().map(|(_, n)| n).collect();
    assert!(found.contains("hugepages"), "{found:?}");
    found
}

fn direct(name: &str, features: &[&str]) -> Names {
    let package = package(name);
    let args = [&["--package", &package, "--depth", "1"], features].concat();
    tree(&args).into_iter().filter(|(d, _)| *d == 1).map(|(_, n)| n).collect()
}

fn all(name: &str, features: &[&str]) -> Names {
    let package = package(name);
    let args = [&["--package", &package], features].concat();
    tree(&args).into_iter().map(|(_, n)| n).collect()
}

/// Everything that `name` may use, arrows followed to their ends.
fn allowed(name: &str) -> Names {
    let arrows = BTreeMap::from(ARROWS);
    let mut found = Names::new();
    let mut next = arrows[name].to_vec();
    while let Some(n) = next.pop() {
        if found.insert(n.to_owned()) {
            next.extend(arrows[n]);
        }
    }
    if name != "dataplane" {
        found.remove("dpdk-sys");
    }
    found
}

#[test]
fn crates_depend_on_each_other_only_along_the_arrows() {
    let ours = members();
    assert!(direct("dataplane", &[]).contains("hugepages"), "this test sees no arrows");
    for name in &ours {
        assert!(
            ARROWS.iter().any(|(n, _)| n == name),
            "{name} is a new room: give it its arrows here and in ARCHITECTURE.md"
        );
        let used: Names = direct(name, &["--all-features"]).intersection(&ours).cloned().collect();
        let over = &used - &allowed(name);
        assert!(over.is_empty(), "{name} depends on {over:?}: no such arrow in ARCHITECTURE.md");
    }
}

#[test]
fn dpdk_stays_behind_its_feature() {
    let ours = members();
    for name in ours.iter().filter(|n| *n != "dpdk-sys") {
        let bare = all(name, &["--no-default-features"]);
        assert!(!bare.contains("dpdk-sys"), "{name} without features links DPDK");
        if NO_DPDK_BY_DEFAULT.contains(&name.as_str()) {
            assert!(!all(name, &[]).contains("dpdk-sys"), "{name} links DPDK by default");
        }
    }
    assert!(all("dataplane", &["--features", "dpdk"]).contains("dpdk-sys"), "this test sees no features");
}

#[test]
fn the_protocol_machines_know_only_pages_and_timers() {
    let ours = members();
    let used: Names = all("transport", &["--no-default-features"]).intersection(&ours).cloned().collect();
    assert_eq!(used, Names::from(["fsm", "hugepages", "transport", "wheel"].map(str::to_owned)));
}

#[test]
fn outside_crates_that_are_fenced_stay_in_their_room() {
    for name in members() {
        let used = direct(&name, &["--all-features"]);
        for (outside, room) in FENCED {
            assert!(!used.contains(outside) || name == room, "{name} depends on {outside}");
        }
    }
}
