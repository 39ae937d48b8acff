//! Configuration files of any contents: lnetctl's texts and ours, changed, cut and mixed, and noise (docs/testing.md).
//!
//! Invariants: no panic; a file that is taken is written again, and the text says the same; one that is refused has faults, each
//! at a place that it has, and no more than a bounded number.

use std::time::Duration;

use super::model::Model;
use super::reader::read;
use super::write::Style;
use super::yaml::FAULTS_MAX;

const TIME: Duration = Duration::from_secs(3);

const TEXTS: [&str; 7] = [
    include_str!("../../../testdata/texts/lnetctl/net-show.yaml"),
    include_str!("../../../testdata/texts/lnetctl/export-backup.yaml"),
    include_str!("../../../testdata/texts/lnetctl/global-show.yaml"),
    include_str!("../../../testdata/config/bad.yaml"),
    include_str!("../../../dist/pollnd.yaml"),
    "dpdk: {device: net_ring0, lcores: 2, eal: [-a, b]}\ntelemetry: {dpdk: off}\n",
    "fault: {drop: [{source: '*@tcp', dest: '*', rate: 9, portal: [7, 50], health_error: [random]}], delay: [{source: '*', dest: 10.0.0.2@tcp, interval: 5, message: PUT, latency: 0.3}]}\n",
];

const PIECES: [&str; 28] = [
    "&a ",
    "*a",
    "!!int ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ": ",
    "? ",
    "|\n ",
    ">\n ",
    "\"",
    "'",
    "# ",
    "\t",
    "---\n",
    "...\n",
    "<<: *a\n",
    "\0",
    "\u{feff}",
    "\u{85}",
    "é",
    "-1",
    "0x20",
    "null",
    "%YAML 1.1\n",
    "dpdk:\n    device: net_ring0\n    queues: 1\n",
];

/// An input read from the front: a text, then changes to it. One that begins with 255 is a text itself.
fn text(input: &[u8]) -> String {
    let mut bytes = input.iter().copied();
    let mut next = || usize::from(bytes.next().unwrap_or(0));
    let first = next();
    if first == 255 {
        return String::from_utf8_lossy(&input[1..]).into_owned();
    }
    let mut s: Vec<String> = TEXTS[first % TEXTS.len()].split_inclusive('\n').map(str::to_owned).collect();
    // Few changes leave a file that is taken.
    for _ in 0..next() % 8 {
        let (what, at, which) = (next(), next() << 8 | next(), next());
        if s.is_empty() {
            break;
        }
        let line = at % s.len();
        match what % 6 {
            0 => drop(s.remove(line)),
            1 => {
                let l = s[line].clone();
                s.insert(which % s.len(), l);
            }
            2 => {
                let col = s[line].char_indices().map(|(i, _)| i).nth(which % 40).unwrap_or(0);
                s[line].insert_str(col, PIECES[at % PIECES.len()]);
            }
            3 => {
                let cut = s[line].char_indices().map(|(i, _)| i).nth(which % 40).unwrap_or(0);
                s[line].truncate(cut);
            }
            4 => s[line].insert_str(0, &" ".repeat(which % 9)),
            _ => {
                let other: Vec<&str> = TEXTS[which % TEXTS.len()].split_inclusive('\n').collect();
                s.insert(line, other[at % other.len()].to_owned());
            }
        }
    }
    s.concat()
}

fn values(m: &Model) -> Vec<String> {
    let mut all: Vec<String> =
        m.said.iter().map(|s| format!("{:?} {} {:?}", s.key.part, s.key.name, s.values)).collect();
    all.extend(
        m.nis
            .iter()
            .map(|n| format!("{} {:?} {:?} {:?}", n.net, n.nid, n.interface, n.cpt.as_ref().map(|c| &c.0))),
    );
    all.extend(m.routes.iter().map(|(r, _)| r.to_string()));
    all.extend(m.peers.iter().map(|(p, _)| p.to_string()));
    all.extend(m.faults.iter().map(|(r, _)| crate::fault_rules::words(r)));
    all.sort();
    all
}

fn any(input: &[u8]) {
    let text = text(input);
    match read(&text) {
        Ok(m) => {
            // Tunables of NIs are written with them: without any there is no place for them.
            let out = Style::PLAIN.yaml(&m);
            if out.is_empty() {
                return;
            }
            let again = read(&out).unwrap_or_else(|f| panic!("{f:?}\n{out}\n{text}"));
            assert_eq!(values(&again), values(&m), "{out}\n{text}");
        }
        Err(faults) => {
            assert!(!faults.is_empty() && faults.len() <= FAULTS_MAX);
            let lines = text.split(['\n', '\r']).count() + 1;
            for f in &faults {
                assert!(
                    (1..=lines).contains(&f.at.line) && f.at.col >= 1 && !f.text.is_empty(),
                    "{f:?}\n{text}"
                );
            }
        }
    }
}

#[test]
fn any_text_is_read_or_refused_whole() {
    bolero::check!().with_test_time(TIME).with_max_len(256).for_each(any);
}
