//! Peers by hand in a file, in lnetctl's form: from its tree, and from them its text.

use transport::lnd::{PeerByHand, PeerError};
use transport::wire::{Brief, Nid};

use super::readings;
use super::yaml::{Fault, Key, Kind, Node, Place, quoted};

const KEYS: &str = "primary nid, Multi-Rail, peer ni";

pub(super) fn mapping<'n>(name: &str, node: &'n Node, faults: &mut Vec<Fault>) -> Option<&'n [(Key, Node)]> {
    match &node.kind {
        Kind::Map(all) => Some(all),
        _ => {
            faults.push(Fault::new(node.at, format!("{name}: {} where a mapping should be", node.what())));
            None
        }
    }
}

pub(super) fn list<'n>(name: &str, node: &'n Node, faults: &mut Vec<Fault>) -> &'n [Node] {
    match &node.kind {
        Kind::List(all) => all,
        Kind::Nothing => &[],
        _ => {
            let text = format!("{name}: {} where a list (- ...) should be", node.what());
            faults.push(Fault::new(node.at, text));
            &[]
        }
    }
}

pub(super) fn text<'n>(key: &Key, node: &'n Node, faults: &mut Vec<Fault>) -> Option<&'n str> {
    match &node.kind {
        Kind::Text(text) => Some(text),
        _ => {
            faults.push(Fault::new(
                node.at,
                format!("{}: {}; it takes a value", Brief(&key.text), node.what()),
            ));
            None
        }
    }
}

fn nid(key: &Key, node: &Node, faults: &mut Vec<Fault>) -> Option<Nid> {
    let read = text(key, node, faults)?.parse();
    read.map_err(|e| faults.push(Fault::new(node.at, format!("{}: {e}", key.text)))).ok()
}

/// The NID of one of its NIs: the other keys there are readings.
fn ni(node: &Node, faults: &mut Vec<Fault>) -> Option<Nid> {
    let all = mapping("peer ni", node, faults)?;
    match all.iter().find(|(k, _)| k.text == "nid") {
        Some((key, value)) => nid(key, value, faults),
        None => {
            faults.push(Fault::new(node.at, "peer ni: an NI without nid: give it"));
            None
        }
    }
}

fn one(node: &Node, faults: &mut Vec<Fault>, passed: &mut Vec<Fault>) -> Option<PeerByHand> {
    let before = faults.len();
    let (mut primary, mut multi_rail, mut nids) = (None, true, Vec::new());
    for (key, value) in mapping("peer", node, faults)?.iter().filter(|(k, _)| k.text != readings::PEER) {
        match &*key.text {
            "primary nid" => primary = nid(key, value, faults),
            "Multi-Rail" => match text(key, value, faults) {
                Some(t) if t.eq_ignore_ascii_case("true") => multi_rail = true,
                Some(t) if t.eq_ignore_ascii_case("false") => multi_rail = false,
                Some(t) => {
                    let text =
                        format!("Multi-Rail: {:?} is none of its values; it takes true or false", Brief(t));
                    faults.push(Fault::new(value.at, text));
                }
                None => {}
            },
            "peer ni" => {
                for item in list("peer ni", value, faults) {
                    nids.extend(ni(item, faults));
                }
            }
            other => match readings::passed(key) {
                Some(word) => passed.push(word),
                None => {
                    let text = format!("{:?} is no key of a peer; there are {KEYS}", Brief(other));
                    faults.push(Fault::new(key.at, text));
                }
            },
        }
    }
    if faults.len() > before {
        return None;
    }
    let Some(primary) = primary else {
        faults.push(Fault::new(node.at, "a peer without primary nid: give it"));
        return None;
    };
    // Wherever it stands among them, it comes first.
    if let Some(at) = nids.iter().position(|n| *n == primary) {
        nids.remove(at);
    }
    nids.insert(0, primary);
    Some(PeerByHand { nids, multi_rail })
}

/// The peers of a section, with their places, and what is passed over of them.
pub(super) fn read(
    section: &Node,
    faults: &mut Vec<Fault>,
    passed: &mut Vec<Fault>,
) -> Vec<(PeerByHand, Place)> {
    let mut found: Vec<(PeerByHand, Place)> = Vec::new();
    for node in list("peer", section, faults) {
        let Some(peer) = one(node, faults, passed) else { continue };
        match peer.check(&[], found.iter().map(|(p, _)| &p.nids[..])) {
            Ok(()) => found.push((peer, node.at)),
            Err(PeerError::Taken { nid, .. }) => {
                let first = found.iter().find(|(p, _)| p.nids.contains(&nid)).map_or(0, |(_, at)| at.line);
                let text = format!("peer: {nid} stands here a second time, first in line {first}");
                faults.push(Fault::new(node.at, text));
            }
            Err(e) => faults.push(Fault::new(node.at, format!("peer: {e}"))),
        }
    }
    found
}

/// The section of these peers; nothing for none.
pub(super) fn section(peers: &[(PeerByHand, Place)]) -> String {
    let mut out = String::new();
    for (i, (peer, _)) in peers.iter().enumerate() {
        out += if i == 0 { "peer:\n" } else { "" };
        let Some(primary) = peer.primary() else { continue };
        let rails = peer.multi_rail;
        out += &format!("-     primary nid: {}\n      Multi-Rail: {rails}\n", quoted(&primary.to_string()));
        out += "      peer ni:\n";
        out.extend(peer.nids.iter().map(|n| format!("      -     nid: {}\n", quoted(&n.to_string()))));
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::config::reader;
    use crate::config::write::Style;

    fn told(text: &str) -> Vec<String> {
        let m = reader::read(text).unwrap();
        m.peers.iter().map(|(p, _)| p.to_string()).collect()
    }

    /// Texts that lnetctl exports, with its readings, and without.
    #[test]
    fn peers_of_an_export_are_read_and_written_again() {
        let golden = |name: &str| {
            let path =
                std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/texts/lnetctl").join(name);
            let text = std::fs::read_to_string(path).unwrap();
            let at = text.find("peer:\n").unwrap();
            // Sections begin at the line's beginning; a list's dashes do, too.
            let end = text[at + 6..].lines().take_while(|l| l.starts_with([' ', '-'])).map(|l| l.len() + 1);
            text[at..at + 6 + end.sum::<usize>()].to_owned()
        };
        for (name, all) in [
            ("export.yaml", ["192.168.80.11@tcp", "192.168.81.13@tcp1"]),
            ("export-backup.yaml", ["192.168.80.11@tcp", "192.168.81.13@tcp1"]),
            ("export-backup-after-import.yaml", ["192.168.81.13@tcp1 non-mr", "192.168.80.11@tcp"]),
        ] {
            let text = golden(name);
            assert_eq!(told(&text), all, "{name}");
            if name != "export.yaml" {
                assert_eq!(Style::PLAIN.yaml(&reader::read(&text).unwrap()), text, "{name}");
            }
        }
    }

    #[test]
    fn peers_are_read_and_what_is_wrong_is_said() {
        let two = "peer: [{primary nid: 10.0.0.2@tcp, Multi-Rail: True, peer ni: [{nid: 10.0.1.2@tcp1}, {nid: 10.0.0.2@tcp, state: up}]}]\n";
        assert_eq!(told(two), ["10.0.0.2@tcp,10.0.1.2@tcp1"]);
        assert_eq!(told("peer: [{primary nid: 10.0.0.2@tcp}]\n"), ["10.0.0.2@tcp"]);
        let bad = "peer:\n- Multi-Rail: true\n- {primary nid: 1@x}\n- {primary nid: 10.0.0.2@tcp, Multi-Rail: 7}\n- 5\n\
                   - {primary nid: 10.0.0.2@tcp, peer ni: [{state: up}], nids: 3}\n\
                   - {primary nid: 10.0.0.3@tcp, Multi-Rail: false, peer ni: [{nid: 10.0.0.4@tcp}]}\n\
                   - {primary nid: 10.0.0.5@tcp}\n- {primary nid: 10.0.0.6@tcp, peer ni: [{nid: 10.0.0.5@tcp}]}\n";
        let faults = reader::read(bad).unwrap_err();
        let told: String = faults.iter().map(|f| format!("{}: {}\n", f.at, f.text)).collect();
        for says in [
            "2:3: a peer without primary nid",
            "3:17: primary nid: ",
            "4:43: Multi-Rail: \"7\" is none of its values; it takes true or false",
            "5:3: peer: a value where a mapping should be",
            "6:41: peer ni: an NI without nid",
            "6:55: \"nids\" is no key of a peer; there are primary nid, Multi-Rail, peer ni",
            "7:3: peer: the peer 10.0.0.3@tcp is not Multi-Rail",
            "9:3: peer: 10.0.0.5@tcp stands here a second time, first in line 8",
        ] {
            assert!(told.contains(says), "{says}\n{told}");
        }
        assert!(reader::read("peer: 5\n").is_err());
    }
}
