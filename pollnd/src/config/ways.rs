//! Routes in a file, in lnetctl's form: from its tree, and from them its text.

use std::ops::RangeInclusive;

use transport::lnd::Route;
use transport::wire::Brief;

use super::readings;
use super::yaml::{Fault, Kind, Node, Place};
use crate::lnetctl::layout::NETLINK;
use crate::lnetctl::routed::{RouteShown, Routes};

const KEYS: &str = "net, gateway, hop, priority";
const HOPS: RangeInclusive<i64> = 1..=255;

/// A number of `range`; -1, where lnetctl prints that for what was not said, is none.
fn number<T: TryFrom<i64>>(name: &str, text: &str, range: RangeInclusive<i64>) -> Result<Option<T>, String> {
    let n: Option<i64> = text.parse().ok();
    if n == Some(-1) {
        return Ok(None);
    }
    let good = n.filter(|n| range.contains(n)).and_then(|n| T::try_from(n).ok());
    let (least, most) = range.into_inner();
    good.map(Some)
        .ok_or_else(|| format!("{name}: {:?} is none of its values; it takes {least} to {most}", Brief(text)))
}

fn one(node: &Node, faults: &mut Vec<Fault>, passed: &mut Vec<Fault>) -> Option<Route> {
    let Kind::Map(all) = &node.kind else {
        faults.push(Fault::new(node.at, format!("route: {} where a mapping should be", node.what())));
        return None;
    };
    let before = faults.len();
    let (mut net, mut gateway, mut hop, mut priority) = (None, None, None, 0);
    for (key, value) in all.iter().filter(|(k, _)| !readings::ROUTE.contains(&&*k.text)) {
        if let Some(word) = readings::passed(key) {
            passed.push(word);
            continue;
        }
        let Kind::Text(text) = &value.kind else {
            faults.push(Fault::new(
                value.at,
                format!("{}: {}; it takes a value", Brief(&key.text), value.what()),
            ));
            continue;
        };
        let said = match &*key.text {
            "net" => text.parse().map(|n| net = Some(n)).map_err(|e| format!("net: {e}")),
            "gateway" => text.parse().map(|n| gateway = Some(n)).map_err(|e| format!("gateway: {e}")),
            "hop" => number("hop", text, HOPS).map(|n| hop = n),
            "priority" => number("priority", text, 0..=u32::MAX.into()).map(|n| priority = n.unwrap_or(0)),
            other => {
                let text = format!("{:?} is no key of a route; there are {KEYS}", Brief(other));
                faults.push(Fault::new(key.at, text));
                continue;
            }
        };
        faults.extend(said.err().map(|e| Fault::new(value.at, e)));
    }
    match (net, gateway) {
        (Some(net), Some(gateway)) => Some(Route { net, gateway, hop, priority }),
        _ if faults.len() > before => None,
        _ => {
            faults.push(Fault::new(node.at, "a route without net or gateway: give both"));
            None
        }
    }
}

/// The routes of a section, with their places, and what is passed over of them.
pub(super) fn read(section: &Node, faults: &mut Vec<Fault>, passed: &mut Vec<Fault>) -> Vec<(Route, Place)> {
    let all = match &section.kind {
        Kind::List(all) => &all[..],
        Kind::Nothing => &[],
        _ => {
            let text = format!("route: {} where a list (- ...) should be", section.what());
            faults.push(Fault::new(section.at, text));
            &[]
        }
    };
    let mut found: Vec<(Route, Place)> = Vec::new();
    for node in all {
        let Some(route) = one(node, faults, passed) else { continue };
        match found.iter().find(|(r, _)| (r.net, r.gateway) == (route.net, route.gateway)) {
            Some((_, first)) => {
                let (net, by, line) = (route.net, route.gateway, first.line);
                let text =
                    format!("the route to {net} by {by} stands here a second time, first in line {line}");
                faults.push(Fault::new(node.at, text));
            }
            None => found.push((route, node.at)),
        }
    }
    found
}

/// The section of these routes; nothing for none.
pub(super) fn text(routes: &[(Route, Place)]) -> String {
    if routes.is_empty() {
        return String::new();
    }
    let route = routes.iter().map(|(r, _)| RouteShown::of(r)).collect();
    // Numbers and names always have a text.
    NETLINK.text(&Routes { route }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use crate::config::reader;

    #[test]
    fn routes_are_read_and_what_is_wrong_is_said() {
        let m = reader::read("route: [{net: tcp5, gateway: 10.0.0.9@tcp, hop: -1, priority: -1}, {net: o2ib, gateway: 10.0.0.9@tcp, hop: 3, priority: 7, state: up}]\n").unwrap();
        let told: Vec<String> = m.routes.iter().map(|(r, _)| r.to_string()).collect();
        assert_eq!(told, ["tcp5 10.0.0.9@tcp", "o2ib 10.0.0.9@tcp 3 7"]);
        let bad = "route:\n- net: tcp5\n- {net: x5, gateway: 1@tcp}\n- {net: tcp5, gateway: 10.0.0.9@tcp, hop: 0, priority: -2}\n\
                   - {net: tcp5, gateway: [], via: 3}\n- 5\n- {net: tcp6, gateway: 10.0.0.9@tcp}\n- {gateway: 10.0.0.9@tcp, net: tcp6}\n\
                   - {net: tcp7, gateway: 10.0.0.9@tcp, hop: 256}\n";
        let faults = reader::read(bad).unwrap_err();
        let told: String = faults.iter().map(|f| format!("{}: {}\n", f.at, f.text)).collect();
        for says in [
            "2:3: a route without net or gateway",
            "3:9: net: ",
            "3:22: gateway: ",
            "4:43: hop: \"0\" is none of its values; it takes 1 to 255",
            "4:56: priority: \"-2\" is none of its values; it takes 0 to 4294967295",
            "5:24: gateway: a list",
            "5:28: \"via\" is no key of a route; there are net, gateway, hop, priority",
            "6:3: route: a value where a mapping should be",
            "8:3: the route to tcp6 by 10.0.0.9@tcp stands here a second time, first in line 7",
            "9:43: hop: \"256\" is none of its values; it takes 1 to 255",
        ] {
            assert!(told.contains(says), "{says}\n{told}");
        }
        assert!(reader::read("route: 5\n").is_err());
    }
}
