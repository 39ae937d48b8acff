//! Routes, peers and fault rules of a node that runs and is given a file, where its command line has such: the command line wins, as at start
//! (docs/config.md).
//!
//! It says of them what it says of NIs (`own_nis.rs` beside this file): its own are there again, the file's are passed over, and those that came while
//! the node ran stay. So a node takes its own export, and nothing is other.

use std::ffi::OsString;

use transport::lnd::Route;
use transport::lnet::faults::FaultRule;
use transport::wire::Nid;

use super::adding;
use super::merge::{self, Loaded};
use super::steps::Lists;
use crate::fault_rules;

/// A node's own `now`, with the `line`'s in place of those that are the same; of the others those that may stay. The line's that are not there
/// come last.
fn beside<T: Clone + PartialEq>(
    now: &[T],
    line: &[T],
    same: impl Fn(&T, &T) -> bool,
    may: impl Fn(&T) -> bool,
) -> Vec<T> {
    let mut all: Vec<T> = Vec::new();
    let there = now.iter().filter_map(|n| match line.iter().find(|l| same(n, l)) {
        Some(l) => Some(l),
        None => may(n).then_some(n),
    });
    for one in there.chain(line) {
        if !all.contains(one) {
            all.push(one.clone());
        }
    }
    all
}

fn same_route(a: &Route, b: &Route) -> bool {
    (a.net, a.gateway) == (b.net, b.gateway)
}

/// The lists that the node is to have, whose NIs will be `nids`: of those that its command line `argv` has in `then`, also what it has `now`. Tells
/// of what stays though neither that nor the file names it.
pub(super) fn lists(
    argv: &[OsString],
    file: &Loaded,
    nids: &[Nid],
    now: &Lists,
    then: Lists,
) -> (Lists, Vec<String>) {
    let (mut all, mut notes) = (then, Vec::new());
    let mut kept = |flag: &str, what: String| {
        let why =
            format!("it was added while the node ran, and --{flag} of the command line wins over files");
        notes.push(format!("{what} is kept, though {} does not name it: {why}", file.name()));
    };
    let model = &file.model;
    if merge::by_line(argv, "route") {
        let line = all.routes;
        // Others go with the NI that led to their gateway, or with the network that is the node's own then.
        let may = |r: &Route| r.check(nids, [].iter()).is_ok();
        all.routes = beside(&now.routes, &line, same_route, may);
        let named = |r: &Route| line.contains(r) || model.routes.iter().any(|(f, _)| same_route(f, r));
        let unnamed = all.routes.iter().filter(|r| !named(r) && !model.routes.is_empty());
        unnamed.for_each(|r| kept("route", format!("route: {} {}", r.net, r.gateway)));
    }
    if merge::by_line(argv, "peer-nids") {
        let line = all.peers;
        all.peers = beside(
            &now.peers,
            &line,
            |a, b| a.nids.iter().any(|n| b.nids.contains(n)),
            |p| p.check(nids, std::iter::empty()).is_ok(),
        );
        let unnamed = all.peers.iter().filter(|p| {
            let named = model.peers.iter().any(|(f, _)| f.primary() == p.primary());
            !line.contains(p) && !named && !model.peers.is_empty()
        });
        unnamed.for_each(|p| kept("peer-nids", format!("peer: {p}")));
    }
    if merge::by_line(argv, "fault") {
        let line = all.faults;
        all.faults = adding::rules(&line, &now.faults);
        let named = |r: &FaultRule| line.contains(r) || model.faults.iter().any(|(f, _)| f == r);
        let unnamed = all.faults.iter().filter(|r| !named(r) && !model.faults.is_empty());
        unnamed.for_each(|r| kept("fault", format!("fault: {}", fault_rules::words(r))));
    }
    (all, notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_s_are_as_it_says_and_what_came_stays() {
        let all = |words: &[&str]| words.iter().map(|w| w.parse().unwrap()).collect::<Vec<Route>>();
        let line = all(&["tcp1 10.0.0.2@tcp 2", "tcp2 10.0.0.2@tcp"]);
        let now = all(&["tcp8 10.0.0.2@tcp", "tcp1 10.0.0.2@tcp -1 7", "tcp9 10.9.0.2@tcp9"]);
        let then = all(&["tcp8 10.0.0.2@tcp", "tcp1 10.0.0.2@tcp 2", "tcp2 10.0.0.2@tcp"]);
        let may = |r: &Route| r.gateway.net() != "tcp9".parse().unwrap();
        assert_eq!(beside(&now, &line, same_route, may), then);
        assert_eq!(beside(&then, &line, same_route, may), then);
    }
}
