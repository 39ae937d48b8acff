//! Sections of lnetctl's that are keys of others here: whether the node routes, its router buffers, and older lnetctls' NUMA range.

use transport::wire::Brief;

use super::keys::Part;
use super::yaml::{Fault, Key, Kind, Node};

/// Parts of `buffers:`, and the keys that they are here.
const BUFFERS: [(&str, &str); 3] =
    [("tiny", "tiny_router_buffers"), ("small", "small_router_buffers"), ("large", "large_router_buffers")];

/// Values of keys.
pub(super) type Values = Vec<(Part, &'static str, Node)>;

/// Reads a section, and tells its faults.
type Read = fn(&Node, &mut Vec<Fault>) -> Values;

/// Sections that are other keys here, and how they are read.
pub(super) const SECTIONS: [(&str, Read); 3] = [("routing", routing), ("buffers", buffers), ("numa", numa)];

fn text<'n>(name: &str, node: &'n Node, faults: &mut Vec<Fault>) -> Option<&'n str> {
    if let Kind::Text(s) = &node.kind {
        return Some(s);
    }
    faults.push(Fault::new(node.at, format!("{name}: {} where a number should be", node.what())));
    None
}

/// Keys of a mapping.
fn entries<'n>(name: &str, node: &'n Node, faults: &mut Vec<Fault>) -> &'n [(Key, Node)] {
    match &node.kind {
        Kind::Map(all) => all,
        Kind::Nothing => &[],
        _ => {
            faults.push(Fault::new(node.at, format!("{name}: {} where a mapping should be", node.what())));
            &[]
        }
    }
}

/// `routing:` as `lnetctl export` writes it: a mapping with `enable`, or a list with readings beside it.
fn routing(section: &Node, faults: &mut Vec<Fault>) -> Values {
    let items =
        if let Kind::List(all) = &section.kind { all.as_slice() } else { std::slice::from_ref(section) };
    let mut said = Values::new();
    let all: Vec<_> = items.iter().flat_map(|item| entries("routing", item, faults)).collect();
    for (key, node) in all {
        if key.text.starts_with("cpt[") {
            continue;
        }
        if key.text != "enable" {
            faults.push(Fault::new(
                key.at,
                format!("{:?} is no key of routing; there is enable", Brief(&key.text)),
            ));
            continue;
        }
        // One that ceases to route (2) does not any more; one that begins (3) does.
        let word = match text("enable", node, faults) {
            Some("1" | "3") => "enabled",
            Some("0" | "2") => "disabled",
            Some(other) => {
                let text = format!("enable: {:?} is none of its values; it takes 0 or 1", Brief(other));
                faults.push(Fault::new(node.at, text));
                continue;
            }
            None => continue,
        };
        said.push((Part::Node, "forwarding", Node { at: node.at, kind: Kind::Text(word.into()) }));
    }
    said
}

/// `buffers:`, by class.
fn buffers(section: &Node, faults: &mut Vec<Fault>) -> Values {
    let mut said = Values::new();
    for (key, node) in entries("buffers", section, faults) {
        match BUFFERS.iter().find(|b| b.0 == key.text) {
            Some((_, name)) => said.push((Part::Node, name, node.clone())),
            None => {
                let text =
                    format!("{:?} is no key of buffers; there are tiny, small, large", Brief(&key.text));
                faults.push(Fault::new(key.at, text));
            }
        }
    }
    said
}

/// `numa:`, as lnetctl had it before it was a part of `global:`.
fn numa(section: &Node, faults: &mut Vec<Fault>) -> Values {
    let mut said = Values::new();
    for (key, node) in entries("numa", section, faults) {
        if key.text == "range" {
            said.push((Part::Global, "numa_range", node.clone()));
        } else {
            faults.push(Fault::new(
                key.at,
                format!("{:?} is no key of numa; there is range", Brief(&key.text)),
            ));
        }
    }
    said
}
