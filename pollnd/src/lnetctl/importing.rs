//! `import`: a running node gets what a configuration file says, and keeps all else; or loses what one names.

use std::path::Path;

use transport::lnd::{PeerByHand, Route};

use super::Asked;
use super::refusal::{Refusal, status, text};
use crate::config::merge;
use crate::config::model::Ni;
use crate::config::outcome::Outcome;
use crate::config::source::Source;
use crate::fault_rules::{self, RuleText};
use crate::inspect::Request;
use crate::inspect::account::Ask;
use crate::inspect::failure::Failure;
use crate::inspect::faults::Order;
use crate::inspect::ni_orders::NetOrder;
use crate::out;

fn refused(errno: i32, descr: &str) -> Refusal {
    Refusal::netlink("add", "import", errno, descr)
}

/// Reads the file, or standard input; one that cannot be opened is told of as lnetctl does.
fn read(file: Option<&Path>, verb: &'static str) -> Result<Source, Refusal> {
    let named = file.filter(|f| !Source::is_input(f));
    if let Some((path, Err(e))) = named.map(|f| (f, std::fs::metadata(f))) {
        let errno = e.raw_os_error().unwrap_or(libc::EIO);
        let descr = format!("cannot open '{}': {}", path.display(), text(errno));
        let missing = Refusal::old("yaml", "builder", libc::EPERM, descr);
        return Err(missing.with_status(status(errno)));
    }
    Source::asked(named).map_err(|e| faulty(verb, &e))
}

/// The faults of a file.
fn faulty(verb: &'static str, all: &str) -> Refusal {
    Refusal::netlink(verb, "import", libc::EINVAL, all.trim_end().replace('\n', "; "))
}

/// The refusal of a file, or of what it says, with the kernel's number or else this one.
fn not_taken(e: &Failure, otherwise: i32) -> Refusal {
    let refused = faulty("add", &e.text);
    match e.errno {
        // As lnetctl has it: an interface that is not there has its own status, and all else that a kernel refuses the same one.
        Some(errno @ libc::ENOMSG) => Refusal { errno, status: status(errno), ..refused },
        Some(errno) => Refusal { errno, ..refused },
        None => Refusal { errno: otherwise, status: status(otherwise), ..refused },
    }
}

/// The NID of an NI of a file, or the network and interface.
fn named(ni: &Ni) -> String {
    let by_interface = || format!("{} of {}", ni.net, ni.interface.as_deref().unwrap_or_default());
    ni.nid.map_or_else(by_interface, |n| n.to_string())
}

/// Deletes what the file names. What is not there is told of at the end, and all else is gone then: lnetctl goes on likewise.
pub(super) fn del(file: Option<&Path>, node: impl FnOnce() -> Result<Asked, Refusal>) -> Result<(), Refusal> {
    let file = merge::read(read(file, "del")?).map_err(|e| faulty("del", &e))?;
    let model = &file.model;
    let mut node = node()?;
    let route = |r: &Route| Ask::DelRoute { net: r.net.to_string(), gateway: r.gateway.to_string() };
    let peer = |p: &PeerByHand| Some(Ask::DelPeer { primary: p.primary()?.to_string(), nids: Vec::new() });
    let ni = |n: &Ni| {
        let (nid, interfaces) = (n.nid.map(|n| n.to_string()), n.interface.iter().cloned().collect());
        // The NID says the network, too, and interfaces may have other addresses by now.
        let interfaces = if nid.is_some() { Vec::new() } else { interfaces };
        Ask::DelNet(Box::new(NetOrder { net: Some(n.net.clone()), nid, interfaces, ..NetOrder::default() }))
    };
    // Routes would go with their networks.
    let routes =
        model.routes.iter().map(|(r, at)| (*at, format!("route: {} {}", r.net, r.gateway), route(r)));
    let peers = model.peers.iter().filter_map(|(p, at)| Some((*at, format!("peer: {p}"), peer(p)?)));
    let nis = model.nis.iter().map(|n| (n.at, format!("net: {}", named(n)), ni(n)));
    let mut left = Vec::new();
    let mut last = 0;
    let mut gone = Vec::new();
    for (at, what, ask) in routes.chain(peers).chain(nis) {
        let missing = |errno, e: &str| Refusal::netlink("del", "import", errno, e);
        match node.order(ask, missing) {
            Ok(()) => gone.push(format!("{what} is gone")),
            // No node any more.
            Err(e) if e.errno == 0 => return Err(e),
            Err(e) => {
                last = e.errno;
                let section = what.split(':').next().unwrap_or_default();
                left.push(format!("{}: {section}: {}", file.at(at), e.descr));
            }
        }
    }
    for (rule, at) in &model.faults {
        let order = Order::Remove(RuleText::of(rule));
        let removed = node.0.one(&Request::Fault { delay: fault_rules::delays(rule), order })?;
        let words = fault_rules::words(rule);
        if removed["end"] == 0 {
            last = libc::ENOENT;
            left.push(format!("{}: fault: there is no fault rule {words}", file.at(*at)));
        } else {
            gone.push(format!("fault: {words} is gone"));
        }
    }
    told(gone);
    if left.is_empty() { Ok(()) } else { Err(Refusal::netlink("del", "import", last, left.join("; "))) }
}

/// Says what is other now. lnetctl says nothing on standard output.
fn told(changed: Vec<String>) {
    let all = if changed.is_empty() { vec!["nothing is other".to_owned()] } else { changed };
    all.iter().for_each(out::note);
}

/// Has the node add and set what the file says.
pub(super) fn import(
    file: Option<&Path>,
    node: impl FnOnce() -> Result<Asked, Refusal>,
) -> Result<(), Refusal> {
    let file = read(file, "add")?;
    merge::read(file.clone()).map_err(|e| faulty("add", &e))?;
    let answer = node()?.0.one(&Request::Import { file })?;
    Err(match Outcome::read(&answer["end"]) {
        Outcome::Changed(changed, notes) => {
            notes.iter().for_each(out::note);
            told(changed);
            return Ok(());
        }
        Outcome::Restart(all) => {
            refused(libc::EBUSY, &format!("nothing was changed, this needs a restart: {}", all.join("; ")))
        }
        Outcome::Faults(e) => not_taken(&e, libc::EINVAL),
        Outcome::Failed(e) => not_taken(&e, libc::EIO),
    })
}
