//! The rooms of this crate, as ARCHITECTURE.md draws them: read from the sources, so that an arrow that turns round, or
//! two files that need each other, fail here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

type Names = BTreeSet<String>;

/// Room -> the rooms that it may name.
const ARROWS: [(&str, &[&str]); 9] = [
    ("wire", &[]),
    ("hash", &[]),
    ("sync", &[]),
    ("stream", &[]),
    ("lnd", &["stream", "wire"]),
    ("socklnd", &["lnd", "stream", "wire", "hash"]),
    ("lnet", &["lnd", "stream", "wire", "hash"]),
    ("node", &["lnet", "socklnd", "lnd", "stream", "wire", "hash", "sync"]),
    ("testing", &["node", "lnet", "socklnd", "lnd", "stream", "wire"]),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for e in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        if e.is_dir() {
            sources(&e, found);
        } else if e.extension().is_some_and(|x| x == "rs") {
            found.push(e);
        }
    }
}

/// Code without comments and without its tests.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = text.lines().filter(|l| !l.trim_start().starts_with("//"));
    lines.fold(String::new(), |all, l| all + l + "\n")
}

/// The names that follow `prefix` in `text`: one, or those between braces.
fn names(text: &str, prefix: &str) -> Names {
    let word =
        |s: &str| s.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Names::new();
    for (at, _) in text.match_indices(prefix) {
        let rest = &text[at + prefix.len()..];
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        match rest.strip_prefix('{').and_then(|r| r.split_once('}')) {
            Some((list, _)) => found.extend(list.split(',').map(word)),
            None => drop(found.insert(word(rest))),
        }
    }
    found
}

/// Modules of the crate by path (`["socklnd", "peer"]`), with their code.
fn modules() -> BTreeMap<Vec<String>, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut all = BTreeMap::new();
    for f in files {
        let rel = f.strip_prefix(&src).unwrap().with_extension("");
        let mut path: Vec<String> =
            rel.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect();
        if path.last().is_some_and(|l| l == "mod" || l == "lib") {
            path.pop();
        }
        all.insert(path, code(&f));
    }
    assert!(all.len() > 60, "this test sees no modules: {:?}", all.keys());
    all
}

#[test]
fn rooms_know_only_those_below_them() {
    let arrows = BTreeMap::from(ARROWS);
    let mut seen = 0;
    for (path, code) in modules().iter().filter(|(p, _)| !p.is_empty()) {
        let room = path[0].as_str();
        let may = arrows.get(room).unwrap_or_else(|| {
            panic!("{room} is a new room: give it its arrows here and in ARCHITECTURE.md")
        });
        for other in names(code, "crate::") {
            if arrows.contains_key(other.as_str()) && other != room {
                seen += 1;
                assert!(may.contains(&other.as_str()), "{} names crate::{other}", path.join("/"));
            }
        }
    }
    assert!(seen > 100, "this test sees no arrows: {seen}");
}

/// What a module names of its own room: `super::x`, `super::super::x`, `crate::room::x`.
fn neighbours(path: &[String], code: &str, all: &BTreeMap<Vec<String>, String>) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    let mut at = |root: &[String], names: Names| {
        for n in names {
            let module = [root, &[n]].concat();
            if all.contains_key(&module) {
                found.insert(module);
            }
        }
    };
    at(&path[..path.len() - 1], names(code, "super::"));
    if path.len() > 1 {
        at(&path[..path.len() - 2], names(code, "super::super::"));
    }
    at(&path[..1], names(code, &format!("crate::{}::", path[0])));
    found.remove(path);
    // A parent and its child are one.
    found.retain(|other| !other.starts_with(path) && !path.starts_with(other));
    found
}

#[test]
fn no_two_files_of_a_room_need_each_other() {
    let all = modules();
    let edges: BTreeMap<_, _> = all
        .iter()
        .filter(|(p, _)| !p.is_empty())
        .map(|(p, code)| (p.clone(), neighbours(p, code, &all)))
        .collect();
    assert!(edges.values().map(BTreeSet::len).sum::<usize>() > 60, "this test sees no neighbours");
    // Whoever can be reached from itself stands in a circle.
    for start in edges.keys() {
        let (mut reached, mut next) = (BTreeSet::new(), vec![start]);
        while let Some(n) = next.pop() {
            for other in edges.get(n).into_iter().flatten() {
                assert!(other != start, "{} and {} are in a circle", start.join("/"), n.join("/"));
                if reached.insert(other) {
                    next.push(other);
                }
            }
        }
    }
}
