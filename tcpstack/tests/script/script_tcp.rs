//! Runs the conformance scripts in `tests/scripts`, and tries the runner itself.
//!
//! `SCRIPT=half_close cargo test -p pollnd-tcpstack --test script -- --nocapture script_tcp` runs the scripts whose path
//! has that in it, and shows what happened in them. `SCRIPTS=FOLDER` takes them from another folder.

use std::path::{Path, PathBuf};

use crate::Family;

/// What every script is run with: the family, and the peer's first number: plain, across the sign, across the wrap.
const RUNS: [(Family, u32); 3] =
    [(Family::V4, 1000), (Family::V4, u32::MAX - 700), (Family::V6, (1 << 31) - 700)];

/// Lines of a trace that are shown when a script fails among all.
const TRACE: usize = 30;

fn folder() -> PathBuf {
    let elsewhere = std::env::var_os("SCRIPTS").map(PathBuf::from);
    elsewhere.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts"))
}

/// All scripts, by path below the folder.
fn scripts() -> Vec<PathBuf> {
    let (mut found, mut folders) = (vec![], vec![folder()]);
    while let Some(d) = folders.pop() {
        for e in std::fs::read_dir(&d).unwrap_or_else(|e| panic!("{}: {e}", d.display())) {
            let p = e.unwrap().path();
            if p.is_dir() {
                folders.push(p);
            } else if p.extension().is_some_and(|x| x == "tcp") {
                found.push(p);
            }
        }
    }
    found.sort();
    found
}

/// A failure among others, with the end of its trace.
fn shortened(e: &str, name: &str) -> String {
    let lines: Vec<&str> = e.lines().collect();
    let Some(trace) = lines.iter().position(|l| l.contains("what went before:")) else { return e.into() };
    let from = (trace + 1).max(lines.len().saturating_sub(TRACE));
    let left_out = format!("    ({} lines before; SCRIPT={name} shows all)", from - trace - 1);
    let note = if from > trace + 1 { vec![left_out.as_str()] } else { vec![] };
    [&lines[..=trace], &note, &lines[from..], &[""]].concat().join("\n")
}

#[test]
fn every_script_passes() {
    let only = std::env::var("SCRIPT").ok();
    let (mut ran, mut failed) = (0, vec![]);
    for path in scripts() {
        let name = path.strip_prefix(folder()).unwrap().display().to_string();
        if only.as_ref().is_some_and(|o| !name.contains(o.as_str())) {
            continue;
        }
        ran += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        let script = match crate::parse(&format!("tests/scripts/{name}"), &text) {
            Ok(s) => s,
            Err(e) => {
                failed.push(e);
                continue;
            }
        };
        for (family, isn) in RUNS {
            match crate::run(&script, family, isn) {
                Ok(Some(trace)) if only.is_some() => {
                    println!("{name} over {family:?}, from {isn}:\n{}\n", trace.join("\n"));
                }
                Ok(_) => (),
                Err(e) => {
                    failed.push(if only.is_some() { e } else { shortened(&e, &name) });
                    break;
                }
            }
        }
    }
    assert!(ran > 0, "no script has {} in its path", only.unwrap_or_default());
    assert!(failed.is_empty(), "{} of {ran} scripts fail\n\n{}", failed.len(), failed.join("\n"));
    println!("{ran} scripts");
}

/// What stands between backquotes and has a script folder before its slash.
fn named_in(text: &str, folders: &[String]) -> Vec<String> {
    let names = text.split('`').skip(1).step_by(2);
    let known =
        |n: &&str| n.split_once('/').is_some_and(|(d, f)| folders.iter().any(|x| x == d) && !f.is_empty());
    names.filter(known).map(str::to_string).collect()
}

#[test]
fn the_table_of_rules_names_every_script_and_no_other() {
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rfcs.md");
    let text = std::fs::read_to_string(&table).unwrap_or_else(|e| panic!("{}: {e}", table.display()));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let scripts: Vec<String> = scripts()
        .iter()
        .filter_map(|p| Some(p.strip_prefix(&root).ok()?.with_extension("").display().to_string()))
        .collect();
    let mut folders: Vec<String> =
        scripts.iter().filter_map(|s| Some(s.split_once('/')?.0.to_string())).collect();
    folders.dedup();
    let named = named_in(&text, &folders);
    let missing: Vec<_> = scripts.iter().filter(|s| !named.contains(s)).collect();
    let unknown: Vec<_> = named.iter().filter(|n| !scripts.contains(n)).collect();
    assert!(missing.is_empty(), "docs/rfcs.md does not name {missing:?}");
    assert!(unknown.is_empty(), "docs/rfcs.md names {unknown:?}, which are not there");
    assert_eq!(named_in("`a/b` `c/d` a/e `a/` `a`", &["a".into()]), ["a/b"]);
}
