//! `stat` on a terminal: bars that are drawn again in place, and what lst does not show.

use std::io::IsTerminal;

use console::Term;

use super::host::{Own, Piece};
use super::width::{bar, fit};
use super::{number, table, width};
use crate::{out, units};

/// Columns of a group's name, where they are few.
const NAME: usize = 12;

/// The block of lines that is drawn.
#[derive(Default)]
pub(super) struct Live {
    /// Groups, each with its latest rates.
    groups: Vec<Group>,
    drawn: usize,
    /// Greatest rate that was seen, in bytes a second: the full bar.
    top: f64,
    before: Option<Own>,
}

impl Live {
    /// Where standard output is a terminal, and is to have text.
    pub(super) fn on_terminal(json: bool) -> Option<Live> {
        (!json && std::io::stdout().is_terminal()).then(Live::default)
    }

    /// Takes the rates of a group in, and draws all.
    pub(super) fn show(&mut self, p: &Piece) -> Result<(), String> {
        let block = self.block(p, width::of(&Term::stdout()));
        let up = if self.drawn > 0 { format!("\x1b[{}A\x1b[J", self.drawn) } else { String::new() };
        self.drawn = block.lines().count();
        // Where it has become narrower meanwhile the terminal cuts: a line that it breaks would be two of those to go up.
        out::text(format!("{up}\x1b[?7l{block}\x1b[?7h"))
    }

    fn block(&mut self, p: &Piece, width: usize) -> String {
        let name_of = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
        let name = name_of(&p.result["group"]);
        let nodes = p.result["nodes"].as_array();
        let sum = |key: &str| nodes.into_iter().flatten().map(|n| number(n, key)).sum::<f64>();
        let ways = [("recv_bytes_per_s", "recv_per_s"), ("send_bytes_per_s", "send_per_s")];
        let group = Group {
            name,
            ways: ways.map(|(bytes, messages)| (sum(bytes), sum(messages))),
            unheard: p.result["unheard"].as_array().into_iter().flatten().map(name_of).collect(),
        };
        self.top = group.ways.iter().map(|w| w.0).fold(self.top, f64::max);
        match self.groups.iter_mut().find(|g| g.name == group.name) {
            Some(g) => *g = group,
            None => self.groups.push(group),
        }
        let mut all: String = self.groups.iter().map(|g| g.text(self.top, width)).collect();
        if let Some(own) = &p.own {
            if let Some(b) = &self.before {
                all += &table::own(b, own, own.rtt_us, width).map_or_else(String::new, |l| l + "\n");
            }
            self.before.get_or_insert_with(|| own.clone());
        }
        all
    }
}

/// Rates of a group: bytes and messages a second, in and out.
struct Group {
    name: String,
    ways: [(f64, f64); 2],
    /// Nodes of it that did not answer.
    unheard: Vec<String>,
}

impl Group {
    fn text(&self, top: f64, width: usize) -> String {
        let mut lines = String::new();
        let most = if width < 80 { NAME } else { self.name.len() };
        let name: String = self.name.chars().take(most).collect();
        for (way, (bytes, messages)) in ["R", "W"].into_iter().zip(self.ways) {
            let rate = units::rate(bytes as u64, 1.0);
            let each = units::per_second(messages as u64, 1.0);
            let head = format!("{name:<NAME$} [{way}] ");
            let rest = [(0, format!("{rate:>12}")), (1, format!(" {each:>10}")), (2, " messages".to_owned())];
            let rest = fit(&rest, width.saturating_sub(head.chars().count()));
            let bar = bar(bytes, top, width.saturating_sub(head.chars().count() + rest.chars().count()));
            lines += &format!("{head}{bar}{rest}\n");
        }
        if !self.unheard.is_empty() {
            let head = format!("{name:<NAME$} no answer ({}): ", self.unheard.len());
            let text = [(0, head), (0, self.unheard.join(", "))];
            lines += &(fit(&text, width) + "\n");
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bars_are_drawn_in_place_with_what_lst_does_not_show() {
        let mut live = Live::default();
        let piece = |group: &str, bytes: f64, rpcs: u64| Piece {
            text: String::new(),
            fault: false,
            result: json!({ "group": group, "failed": 1, "unheard": ["10.0.0.7@tcp"], "nodes": [
                { "nid": "10.0.0.1@tcp", "recv_per_s": 1000.0, "send_per_s": 2000.0, "recv_bytes_per_s": bytes,
                  "send_bytes_per_s": 2.0 * bytes }] }),
            own: Some(Own {
                rpcs,
                moved: rpcs << 20,
                cpu_s: rpcs as f64 / 4096.0,
                rtt_us: Some([10.0, 20.0, 1500.0]),
                ..Own::default()
            }),
        };
        live.block(&piece("clients-of-all-racks", 1e6, 0), 100);
        live.block(&piece("s", 2e6, 0), 100);
        let mut at = |width: usize| {
            let block = live.block(&piece("s", 4e6, 1024), width);
            assert!(block.lines().all(|l| l.chars().count() <= width), "{width}: {block}");
            block
        };
        insta::assert_snapshot!(at(100), @r"
        clients-of-all-racks [R] ███░░░░░░░░░░░░░░░░░░░░░  8.00 Mbit/s   1.00 k/s messages
        clients-of-all-racks [W] ██████░░░░░░░░░░░░░░░░░░  16.0 Mbit/s   2.00 k/s messages
        clients-of-all-racks no answer (1): 10.0.0.7@tcp
        s            [R] ████████████░░░░░░░░░░░░  32.0 Mbit/s   1.00 k/s messages
        s            [W] ████████████████████████  64.0 Mbit/s   2.00 k/s messages
        s            no answer (1): 10.0.0.7@tcp
        RPCs of this node: 1024, 0 errors; p50 10.0 us, p99 20.0 us, p99.9 1.50 ms; 0.25 CPU-seconds a GiB
        ");
        insta::assert_snapshot!(at(80), @r"
        clients-of-all-racks [R] ███░░░░░░░░░░░░░░░░░░░  8.00 Mbit/s   1.00 k/s messages
        clients-of-all-racks [W] ██████░░░░░░░░░░░░░░░░  16.0 Mbit/s   2.00 k/s messages
        clients-of-all-racks no answer (1): 10.0.0.7@tcp
        s            [R] ████████████░░░░░░░░░░░░  32.0 Mbit/s   1.00 k/s messages
        s            [W] ████████████████████████  64.0 Mbit/s   2.00 k/s messages
        s            no answer (1): 10.0.0.7@tcp
        1024 RPCs, 0 errors; p50 10.0 us, p99 20.0 us, p99.9 1.50 ms; 0.25 CPU-s/GiB
        ");
        insta::assert_snapshot!(at(60), @r"
        clients-of-a [R] █░░░░░░░░░  8.00 Mbit/s   1.00 k/s messages
        clients-of-a [W] ███░░░░░░░  16.0 Mbit/s   2.00 k/s messages
        clients-of-a no answer (1): 10.0.0.7@tcp
        s            [R] █████░░░░░  32.0 Mbit/s   1.00 k/s messages
        s            [W] ██████████  64.0 Mbit/s   2.00 k/s messages
        s            no answer (1): 10.0.0.7@tcp
        1024 RPCs, 0 errors; p50 10.0 us, p99 20.0 us
        ");
        insta::assert_snapshot!(at(40), @r"
        clients-of-a [R]  8.00 Mbit/s   1.00 k/s
        clients-of-a [W]  16.0 Mbit/s   2.00 k/s
        clients-of-a no answer (1): 10.0.0.7@tcp
        s            [R]  32.0 Mbit/s   1.00 k/s
        s            [W]  64.0 Mbit/s   2.00 k/s
        s            no answer (1): 10.0.0.7@tcp
        1024 RPCs, 0 errors; p50 10.0 us
        ");
        for width in 40..200 {
            at(width);
        }
    }
}
