//! The rooms of this crate, as ARCHITECTURE.md draws them: read from the sources, so that an arrow that turns round fails
//! here. That no two files need each other is held for all crates together (`hugepages/tests/arrows.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

type Names = BTreeSet<String>;

/// Room -> the rooms that it may name.
const ARROWS: [(&str, &[&str]); 12] = [
    ("wire", &[]),
    ("hash", &[]),
    ("sync", &[]),
    ("stream", &[]),
    ("netsock", &["stream", "wire", "hash"]),
    ("lnd", &["stream", "wire"]),
    ("socklnd", &["lnd", "stream", "wire", "hash"]),
    ("lnet", &["lnd", "stream", "wire", "hash"]),
    ("node", &["lnet", "socklnd", "lnd", "stream", "wire", "hash", "sync"]),
    ("net", &["node", "lnet", "netsock", "lnd", "stream", "wire", "hash"]),
    ("selftest", &["node", "lnet", "lnd", "stream", "wire"]),
    ("testing", &["selftest", "net", "node", "lnet", "socklnd", "netsock", "lnd", "stream", "wire"]),
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
