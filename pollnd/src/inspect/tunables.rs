//! `pollnd tunables`: shows them, sets one.

use std::io;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use transport::lnd::Config;
use transport::lnd::tunables::{self, ALL, Change, Tunable};
use transport::node::inspect::Inspection;
use transport::wire::Nid;

use super::Request;
use super::client::Client;
use super::shared::say;
use crate::args::TunablesArgs;

/// One as JSON, with its value in `cfg`.
fn row(t: &Tunable, cfg: &Config) -> Value {
    let show = |c: &Config| t.number(c).map_or_else(|| json!(t.value(c)), |n| json!(n));
    json!({
        "name": t.name,
        "value": show(cfg),
        "default": show(&defaults()),
        "module": t.module.name(),
        "unit": t.unit,
        "change": if t.runtime(cfg) { "rw" } else { "ro" },
        "takes": t.takes(),
        "fixed": t.fixed(cfg).or(t.at_start(cfg)),
        "about": t.about,
        "line": tunables::line(t, cfg),
    })
}

fn defaults() -> Config {
    Config::new(Nid::LO, 0)
}

/// Those that are asked for: all, or one.
///
/// # Errors
/// There is none of that name.
pub(super) fn rows(cfg: &Config, name: Option<&str>) -> Result<Vec<Value>, String> {
    match name {
        None => Ok(ALL.iter().map(|t| row(t, cfg)).collect()),
        Some(n) => tunables::find(n).map(|t| vec![row(t, cfg)]).map_err(|e| e.to_string()),
    }
}

/// The node's side of showing.
pub(super) fn show(
    s: &mut UnixStream,
    front: &Inspection,
    name: Option<&str>,
) -> io::Result<Result<Value, String>> {
    let rows = match front.config(0).map_err(|e| e.to_string()).and_then(|c| rows(&c, name)) {
        Ok(rows) => rows,
        Err(e) => return Ok(Err(e)),
    };
    for r in &rows {
        say(s, r)?;
    }
    Ok(Ok(json!(rows.len())))
}

/// The node's side of setting: gives the tunable as it is then.
///
/// # Errors
/// A fault of name or value, or the lcore that does not answer.
pub(super) fn set(front: &Inspection, name: &str, value: &str) -> Result<Value, String> {
    let before = front.config(0).map_err(|e| e.to_string())?;
    let change = Change::new(&before, name, value).map_err(|e| e.to_string())?;
    front
        .tune(change)
        .map_err(|e| format!("{name}={value}: only the lcores before this one have it: {e}"))?;
    let t = tunables::find(name).map_err(|e| e.to_string())?;
    let after = front.config(0).map_err(|e| e.to_string())?;
    tracing::info!("{name}: was {}, is {}", t.value(&before), t.value(&after));
    Ok(row(t, &after))
}

fn print(mut rows: Vec<Value>, a: &TunablesArgs) -> Result<(), String> {
    let lines: Vec<String> = rows
        .iter_mut()
        .filter_map(|r| r.as_object_mut()?.remove("line")?.as_str().map(str::to_owned))
        .collect();
    let mut out = String::new();
    if a.out.json {
        out = json!({ "tunables": rows }).to_string() + "\n";
    } else {
        for (line, r) in lines.iter().zip(&rows) {
            out += &format!("{line}\n");
            if a.which.is_some() {
                let text = |k: &str| r[k].as_str().map_or_else(|| r[k].to_string(), str::to_owned);
                out += &format!("    {}; default {}\n", text("about"), text("default"));
            }
        }
    }
    crate::out::text(out)
}

/// `pollnd tunables`.
///
/// # Errors
/// No node, it does not answer, or what it objects to.
pub(crate) fn main(a: &TunablesArgs) -> Result<(), String> {
    let (name, value) = match a.which.as_deref().map(|w| (w, w.split_once('='))) {
        None => (None, None),
        Some((_, Some((n, v)))) => (Some(n), Some(v)),
        Some((n, None)) => (Some(n), None),
    };
    let found = match (value, a.defaults) {
        (Some(_), true) => {
            return Err(
                "--defaults asks no node, so there is none to set a tunable of: leave one of them out".into(),
            );
        }
        (None, true) => rows(&defaults(), name)?,
        (Some(v), false) => {
            let name = name.unwrap_or_default().to_owned();
            let mut c = Client::new(a.asked.node.as_deref())?;
            vec![c.one(&Request::Tune { name, value: v.to_owned() })?["end"].take()]
        }
        (None, false) => {
            let mut all = Vec::new();
            let r = Request::Tunables { name: name.map(str::to_owned) };
            Client::new(a.asked.node.as_deref())?.rows(&r, |v| all.push(v))?;
            all
        }
    };
    print(found, a)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_all_of_them_with_their_defaults() {
        let text = include_str!("../../../docs/tunables.md");
        let table: Vec<Vec<&str>> = text
            .lines()
            // Other things that files may say are told behind.
            .take_while(|l| !l.starts_with("## A site's own files"))
            .filter(|l| l.starts_with("| `"))
            .map(|l| l.split('|').map(str::trim).collect())
            .collect();
        let mut told = 0;
        for cells in &table {
            let names: Vec<&str> = cells[1].split(", ").map(|n| n.trim_matches('`')).collect();
            let values: Vec<&str> = cells[2].split(", ").collect();
            assert_eq!(names.len(), values.len(), "{cells:?}");
            for (name, value) in names.iter().zip(values) {
                let t = tunables::find(name).unwrap();
                let change = if t.runtime(&defaults()) { "rw" } else { "ro" };
                assert_eq!((value, cells[4]), (&t.value(&defaults())[..], change), "{name}");
                assert_eq!(cells[3] == "fixed", t.fixed(&defaults()).is_some(), "{name}");
                told += 1;
            }
        }
        assert_eq!(told, ALL.len());
    }
}
