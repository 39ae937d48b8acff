//! The arrows between the crates, as ARCHITECTURE.md draws them: read from `cargo tree`, so that a dependency
//! that turns one round, or adds one, fails here.
//!
//! Files within a crate have arrows, too: no two of them need each other, but for a parent and its child.
//!
//! It sits in this crate because this one has no arrows of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

type Names = BTreeSet<String>;

/// Crate -> the crates that it may name, all features on. What one of those may use, it may use, too: an arrow
/// may be shortened. `dpdk-sys` is the exception: only `dataplane` touches it.
const ARROWS: [(&str, &[&str]); 10] = [
    ("hugepages", &[]),
    ("fsm", &[]),
    ("wheel", &[]),
    ("dpdk-sys", &[]),
    ("dataplane", &["hugepages", "fsm", "dpdk-sys"]),
    ("tcpstack", &["dataplane", "wheel"]),
    ("transport", &["tcpstack", "fsm"]),
    ("capi", &["transport"]),
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

/// Folders of crates in whose sources no two files need each other.
const NO_CIRCLES: [&str; 9] = [
    "hugepages",
    "hugepages/fsm",
    "tcpstack/wheel",
    "dpdk-sys",
    "dataplane",
    "transport",
    "capi",
    "bench",
    "pollnd",
];

/// Those in which no two files have one name, either.
const ONE_NAME: [&str; 8] =
    ["hugepages", "hugepages/fsm", "tcpstack/wheel", "dpdk-sys", "dataplane", "capi", "bench", "pollnd"];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for e in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        if e.is_dir() {
            sources(&e, found);
        } else if e.extension().is_some_and(|x| x == "rs") {
            found.push(e);
        }
    }
}

/// A module of a crate: `["dpdk", "port"]`; the crate itself has no parts.
type Module = Vec<String>;

/// Modules below a folder, with their code: without comments and tests.
fn modules(src: &Path) -> BTreeMap<Module, String> {
    let mut files = Vec::new();
    sources(src, &mut files);
    let of = |f: &PathBuf| {
        let rel = f.strip_prefix(src).unwrap().with_extension("");
        let mut path: Module =
            rel.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
        path.pop_if(|l| ["mod", "lib", "main"].contains(&l.as_str()));
        let text = std::fs::read_to_string(f).unwrap();
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let lines = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        (path, lines.fold(String::new(), |all, l| all + l + "\n"))
    };
    files.iter().map(of).collect()
}

/// Paths that begin with `prefix` in `text`, the prefix left out; a group in braces gives one for each of its members.
fn paths(text: &str, prefix: &str) -> BTreeSet<Module> {
    fn expand(root: &[String], rest: &str, found: &mut BTreeSet<Module>) {
        let inner = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let (head, tail) = rest.split_at(rest.find(|c: char| !inner(c)).unwrap_or(rest.len()));
        let path: Module = root
            .iter()
            .cloned()
            .chain(head.split("::").filter(|w| !w.is_empty()).map(str::to_owned))
            .collect();
        let Some(group) = tail.strip_prefix('{').filter(|_| head.is_empty() || head.ends_with("::")) else {
            found.insert(path);
            return;
        };
        let (mut depth, mut from) = (0, 0);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                ',' | '}' if depth == 0 => {
                    expand(&path, group[from..i].trim(), found);
                    from = i + 1;
                    if c == '}' {
                        break;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices(prefix) {
        let before = text[..at].chars().next_back();
        if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':') {
            expand(&[], &text[at + prefix.len()..], &mut found);
        }
    }
    found
}

/// Modules that the code of one names, itself, its parents and its children left out.
fn named(of: &Module, all: &BTreeMap<Module, String>) -> BTreeSet<Module> {
    let (code, root) = (&all[of], &all[&Module::new()]);
    // An item that the crate shows under its own name belongs to the module that it comes from.
    let shown = |name: &str| {
        let mut modules = all.keys().filter(|m| m.len() == 1);
        modules.find(|m| paths(root, &format!("use {}::", m[0])).contains(&vec![name.to_owned()]))
    };
    let mut found = BTreeSet::new();
    for up in 0..=of.len() {
        let prefix = if up == 0 { "crate::".to_owned() } else { "super::".repeat(up) };
        let base = if up == 0 { &[][..] } else { &of[..of.len() - up] };
        for path in paths(code, &prefix).iter().filter(|p| !p.is_empty()) {
            let full: Module = base.iter().chain(path).cloned().collect();
            let longest = (1..=full.len()).rev().find_map(|n| all.get_key_value(&full[..n]).map(|(m, _)| m));
            let module = if up == 0 { longest.or_else(|| shown(&path[0])) } else { longest };
            found.extend(module.cloned());
        }
    }
    // A parent and its child are one.
    found.retain(|m| !m.starts_with(of) && !of.starts_with(m));
    found
}

/// Modules to which arrows lead from `start`.
fn reached<'a>(edges: &'a BTreeMap<&Module, BTreeSet<Module>>, start: &Module) -> BTreeSet<&'a Module> {
    let (mut seen, mut next) = (BTreeSet::new(), edges[start].iter().collect::<Vec<_>>());
    while let Some(n) = next.pop() {
        if seen.insert(n) {
            next.extend(&edges[n]);
        }
    }
    seen
}

/// Circles of files in one crate, each with all its files.
fn circles(all: &BTreeMap<Module, String>) -> Vec<String> {
    let edges: BTreeMap<_, _> = all.keys().filter(|m| !m.is_empty()).map(|m| (m, named(m, all))).collect();
    let reach: BTreeMap<_, _> = edges.keys().map(|m| (*m, reached(&edges, m))).collect();
    let ring = |m: &&Module| -> Vec<String> {
        reach[*m].iter().filter(|o| reach[**o].contains(*m)).map(|o| o.join("/")).collect()
    };
    let rings: BTreeSet<Vec<String>> = edges.keys().map(ring).filter(|r| !r.is_empty()).collect();
    rings.iter().map(|r| r.join(", ")).collect()
}

#[test]
fn no_two_files_of_a_crate_need_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for name in NO_CIRCLES {
        let all = modules(&root.join(name).join("src"));
        assert!(all.contains_key(&Module::new()), "this test sees no {name}");
        let seen: usize = all.keys().filter(|m| !m.is_empty()).map(|m| named(m, &all).len()).sum();
        assert!(seen > all.len() / 2 || all.len() < 3, "this test sees few arrows in {name}: {seen}");
        assert_eq!(circles(&all), [""; 0], "{name}: these files are in a circle");
    }
}

#[test]
fn a_file_name_says_one_thing_within_its_crate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for name in ONE_NAME {
        let mut names = BTreeMap::new();
        for m in modules(&root.join(name).join("src")).keys().filter(|m| !m.is_empty()) {
            let other = names.insert(m.last().cloned(), m.join("/"));
            assert_eq!(other, None, "{name}: {} has the name of another file", m.join("/"));
        }
    }
}

/// The reading of sources is itself no guess: each way to name a module is seen.
#[test]
fn a_circle_is_found_however_a_file_names_another() {
    let found = |a: &str, b: &str| {
        let of =
            |path: &[&str], code: &str| (path.iter().map(|p| (*p).to_owned()).collect(), code.to_owned());
        circles(&BTreeMap::from([
            of(&[], "mod a; mod b;\npub use a::{A, Other};"),
            of(&["a"], "struct A;"),
            of(&["a", "x"], a),
            of(&["b"], b),
            of(&["b", "y"], "use super::super::a;"),
        ]))
    };
    for a in
        ["crate::b::B", "use crate::{c, b::{self, B}};", "use crate::{\n    b,\n};", "super::super::b::B"]
    {
        for b in ["use crate::a::x;", "use super::{a::{x::X}};"] {
            assert_eq!(found(a, b), ["a/x, b"], "{a} and {b}");
        }
    }
    for (a, b) in
        [("crate::b::B", "crate::A"), ("crate::bb::B", "use crate::a::x;"), ("b::B", "use crate::a::x;")]
    {
        assert_eq!(found(a, b), [""; 0], "{a} and {b}");
    }
    let child = |a: &str| {
        let of =
            |path: &[&str], code: &str| (path.iter().map(|p| (*p).to_owned()).collect(), code.to_owned());
        circles(&BTreeMap::from([of(&[], "pub use a::A;"), of(&["a"], a), of(&["b"], "use crate::A;")]))
    };
    assert_eq!((child("use crate::b;"), child("struct A;")), (vec!["a, b".to_owned()], Vec::new()));
}
