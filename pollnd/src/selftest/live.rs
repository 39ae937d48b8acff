//! `stat` on a terminal: bars that are drawn again in place, and what lst does not show.

use std::io::IsTerminal;

use super::host::{Own, Piece};
use super::{number, table};
use crate::{out, units};

/// Widest bar, in characters.
const WIDTH: usize = 24;

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
        let block = self.block(p);
        let up = if self.drawn > 0 { format!("\x1b[{}A\x1b[J", self.drawn) } else { String::new() };
        self.drawn = block.lines().count();
        // Text that is too wide is cut by the terminal: a line that it breaks would be two of those to go up.
        out::text(format!("{up}\x1b[?7l{block}\x1b[?7h"))
    }

    fn block(&mut self, p: &Piece) -> String {
        let name = p.result["group"].as_str().unwrap_or_default().to_owned();
        let nodes = p.result["nodes"].as_array();
        let sum = |key: &str| nodes.into_iter().flatten().map(|n| number(n, key)).sum::<f64>();
        let ways = [("recv_bytes_per_s", "recv_per_s"), ("send_bytes_per_s", "send_per_s")];
        let group = Group {
            name,
            ways: ways.map(|(bytes, messages)| (sum(bytes), sum(messages))),
            failed: number(&p.result, "failed"),
        };
        self.top = group.ways.iter().map(|w| w.0).fold(self.top, f64::max);
        match self.groups.iter_mut().find(|g| g.name == group.name) {
            Some(g) => *g = group,
            None => self.groups.push(group),
        }
        let mut all: String = self.groups.iter().map(|g| g.text(self.top)).collect();
        if let Some(own) = &p.own {
            if let Some(b) = &self.before {
                all += &table::own(b, own, own.rtt_us).map_or_else(String::new, |l| l + "\n");
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
    failed: f64,
}

impl Group {
    fn text(&self, top: f64) -> String {
        let mut lines = String::new();
        for (way, (bytes, messages)) in ["R", "W"].into_iter().zip(self.ways) {
            let rate = units::rate(bytes as u64, 1.0);
            let each = units::per_second(messages as u64, 1.0);
            lines +=
                &format!("{:<12} [{way}] {} {rate:>12} {each:>10} messages\n", self.name, bar(bytes, top));
        }
        if self.failed > 0.0 {
            lines += &format!("{:<12} {} of its nodes do not answer\n", self.name, self.failed);
        }
        lines
    }
}

/// A bar of a rate against the greatest one.
pub(super) fn bar(rate: f64, top: f64) -> String {
    let full = if top > 0.0 { (rate / top * WIDTH as f64).round() as usize } else { 0 };
    let full = full.min(WIDTH);
    "█".repeat(full) + &"░".repeat(WIDTH - full)
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
            result: json!({ "group": group, "failed": 0, "nodes": [
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
        live.block(&piece("c", 1e6, 0));
        live.block(&piece("s", 2e6, 0));
        insta::assert_snapshot!(live.block(&piece("c", 4e6, 1024)), @r"
        c            [R] ████████████░░░░░░░░░░░░  32.0 Mbit/s   1.00 k/s messages
        c            [W] ████████████████████████  64.0 Mbit/s   2.00 k/s messages
        s            [R] ██████░░░░░░░░░░░░░░░░░░  16.0 Mbit/s   1.00 k/s messages
        s            [W] ████████████░░░░░░░░░░░░  32.0 Mbit/s   2.00 k/s messages
        RPCs of this node: 1024, 0 errors; p50 10.0 us, p99 20.0 us, p99.9 1.50 ms; 0.25 CPU-seconds a GiB
        ");
    }
}
