//! A configuration as YAML, in lnetctl's form.

use super::keys::{self, Key, Part};
use super::model::{Model, Ni, Said};
use super::reader::CREDITS;
use super::yaml::quoted;
use super::{faulty, hands, ways};

/// The remark behind a value, and whether keys that are not said are written.
pub(crate) struct Style<'a> {
    /// A remark on a key.
    pub(crate) remark: &'a dyn Fn(&Key, Option<&Said>) -> String,
    /// A remark on an NI.
    pub(crate) on_ni: &'a dyn Fn(&Ni) -> String,
    /// Keys that are not said, too, with their defaults.
    pub(crate) all: bool,
}

impl Style<'_> {
    /// Nothing but values that are said.
    pub(crate) const PLAIN: Style<'static> =
        Style { remark: &|_, _| String::new(), on_ni: &|_| String::new(), all: false };

    fn line(&self, indent: usize, key: &Key, model: &Model) -> Option<String> {
        // A node on kernel sockets has no DPDK whose telemetry could be asked.
        if matches!(key.means, keys::Means::Telemetry) && !model.on_port() {
            return None;
        }
        let said = model.said(key.part, key.name);
        if said.is_none() && (!self.all || matches!(key.means, keys::Means::Reading)) {
            return None;
        }
        let several = said.is_some_and(|s| s.values.len() > 1);
        let list = several || matches!(key.means, keys::Means::Options | keys::Means::Eal);
        let value = match said {
            Some(s) if list => {
                format!("[{}]", s.values.iter().map(|v| inner(v)).collect::<Vec<_>>().join(", "))
            }
            Some(s) => quoted(s.value()),
            None => quoted(&key.default()),
        };
        let nothing = said.is_none() && (list || key.default().is_empty());
        let text = match nothing {
            true => format!("# {}:", key.name),
            false => format!("{}: {value}", key.name),
        };
        let remark = (self.remark)(key, said);
        let pad = if remark.is_empty() {
            String::new()
        } else {
            format!("{:1$} # {remark}", "", 40usize.saturating_sub(indent + text.len()))
        };
        Some(format!("{:indent$}{text}{pad}\n", ""))
    }

    fn part(&self, indent: usize, head: &str, part: Part, model: &Model) -> String {
        let lines: String = keys::of(part).filter_map(|k| self.line(indent + 4, k, model)).collect();
        if lines.is_empty() { lines } else { format!("{:indent$}{head}:\n{lines}", "") }
    }

    fn ni(&self, ni: &Ni, model: &Model) -> String {
        let mut out = String::new();
        let remark = (self.on_ni)(ni);
        let remark = if remark.is_empty() { remark } else { format!("  # {remark}") };
        if let Some(nid) = ni.nid {
            out += &format!("            nid: {nid}{remark}\n");
        }
        if let Some(i) = &ni.interface {
            out += &format!("            interfaces:\n                  0: {}\n", quoted(i));
        }
        for (name, part) in [("tunables", Part::Tunables), ("lnd tunables", Part::Lnd)] {
            let own = |k: &Key| ni.credits.filter(|_| part == Part::Tunables && k.name == CREDITS);
            let line = |k: &'static Key| match own(k) {
                Some(n) => Some(format!("{:18}{CREDITS}: {n}\n", "")),
                None => self.line(18, k, model),
            };
            let lines: String = keys::of(part).filter_map(line).collect();
            if !lines.is_empty() {
                out += &format!("            {name}:\n{lines}");
            }
        }
        if let Some((c, _)) = &ni.cpt {
            out += &format!("            CPT: \"{c}\"\n");
        }
        // The list's dash stands in the place of the first key's indentation.
        match out.get(12..) {
            Some(rest) => format!("      -     {rest}"),
            None => out,
        }
    }

    /// The whole.
    pub(crate) fn yaml(&self, model: &Model) -> String {
        let mut out = String::new();
        let mut nets: Vec<&str> = Vec::new();
        for ni in &model.nis {
            if !nets.contains(&&*ni.net) {
                nets.push(&ni.net);
            }
        }
        // The primary NI comes first, whatever the order of the networks.
        for (i, net) in nets.iter().enumerate() {
            out += if i == 0 { "net:\n" } else { "" };
            out += &format!("-     net type: {net}\n      local NI(s):\n");
            out.extend(model.nis.iter().filter(|n| n.net == *net).map(|n| self.ni(n, model)));
        }
        out += &ways::text(&model.routes);
        out += &hands::section(&model.peers);
        out += &faulty::section(&model.faults);
        for part in Part::SECTIONS {
            if part == Part::Dpdk && !model.on_port() {
                continue;
            }
            out += &self.part(0, part.path(), part, model);
        }
        out
    }
}

/// A word within a flow list.
fn inner(s: &str) -> String {
    let q = quoted(s);
    if q.starts_with('"') || !s.contains(',') { q } else { format!("\"{s}\"") }
}
