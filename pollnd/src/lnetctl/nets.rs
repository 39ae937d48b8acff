//! `net add`, `net del`: NIs that a running node gets and loses.

use super::ni_values::{self, Which, given};
use super::refusal::{Refusal, status};
use super::{Asked, said};
use crate::args::{CtlNet, ForeignNetArg, NetArg};
use crate::config::model::network;
use crate::inspect::account::Ask;
use crate::inspect::ni_orders::NetOrder;
use crate::out;

fn refused(verb: &'static str, errno: i32, descr: &str) -> Refusal {
    // Whatever the error number, the status is that of a bad argument.
    Refusal::netlink(verb, "net", errno, descr).with_status(status(libc::EINVAL))
}

/// The texts that lnetctl has for error numbers of the kernel's.
fn told(verb: &'static str, errno: i32, otherwise: &str) -> Refusal {
    let descr = match (verb, errno) {
        ("add", libc::EEXIST | libc::ENETDOWN) => "cannot add LNet NI",
        ("add", libc::ENOENT) => "cannot parse net",
        ("del", libc::EINVAL) => "cannot del network",
        _ => otherwise,
    };
    refused(verb, errno, descr)
}

/// The order that these options make.
fn order(verb: &'static str, a: &NetArg) -> Result<NetOrder, Refusal> {
    if a.net.is_none() && a.nid.is_none() {
        // lnetctl says so on standard output.
        out::line(format_args!("missing mandatory parameters in NI config: 'network'"))?;
        return Err(Refusal::words(status(libc::EINVAL), ""));
    }
    if a.net.as_deref().is_some_and(|n| network(n).is_none()) {
        return Err(refused(verb, libc::ENOENT, "cannot parse net"));
    }
    let NetArg { net, nid, interfaces, ip } = a.clone();
    Ok(NetOrder { net, nid, interfaces, ip, ..NetOrder::default() })
}

/// Options that say what no NI here has.
fn refuse_foreign(a: &ForeignNetArg) -> Result<(), Refusal> {
    let kfilnd = "it is kfilnd's, and NIs here are socklnd's: leave it out";
    let (option, why) = match a {
        ForeignNetArg { ip2net: Some(_), .. } => (
            "ip2net",
            "addresses are not looked for by patterns here: give --nid, such as 10.0.0.1@tcp1, or --net and --if",
        ),
        ForeignNetArg { auth_key: Some(_), .. } => ("auth-key", kfilnd),
        ForeignNetArg { traffic_class: Some(_), .. } => ("traffic-class", kfilnd),
        _ => return Ok(()),
    };
    Err(Refusal::netlink("add", "net", libc::EOPNOTSUPP, format!("--{option}: {why}")))
}

/// Does what is asked; `net show` is another's.
pub(super) fn change(verb: &CtlNet, node: impl FnOnce() -> Result<Asked, Refusal>) -> Result<(), Refusal> {
    match verb {
        CtlNet::Add {
            ni,
            credits,
            peer_credits,
            peer_buffer_credits,
            peer_timeout,
            conns_per_peer,
            tos,
            cpt,
            foreign,
            ..
        } => {
            refuse_foreign(foreign)?;
            let shared = [
                ("peer_timeout", &said(*peer_timeout)),
                ("peer_credits", &said(*peer_credits)),
                ("peer_buffer_credits", &said(*peer_buffer_credits)),
                ("conns_per_peer", &said(*conns_per_peer)),
                ("tos", &said(*tos)),
            ];
            let shared = given(&shared);
            let credits = said(*credits).and_then(|n| u32::try_from(n).ok());
            let order = NetOrder { credits, shared, cpt: cpt.clone(), ..order("add", ni)? };
            node()?.order(Ask::AddNet(Box::new(order)), |errno, e| told("add", errno, e))
        }
        CtlNet::Del { ni } => {
            let ask = Ask::DelNet(Box::new(order("del", ni)?));
            node()?.order(ask, |errno, e| told("del", errno, e))
        }
        CtlNet::Set { nid, all, net, health, conns_per_peer, lnd_timeout } => {
            let shared = [("conns_per_peer", conns_per_peer), ("timeout", lnd_timeout)];
            let which = Which { nid: nid.as_deref(), all: *all, net: net.as_deref() };
            ni_values::nets(&which, *health, &shared, node)
        }
        CtlNet::Show { net, detail } => super::tables::nets(node()?, net.as_deref(), detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lnetctl::lnetctl_tests::golden;

    #[test]
    fn refusals_are_lnetctl_s() {
        for (verb, errno, name) in [
            ("add", libc::ENOENT, "err-net-add-bad-net.txt.stderr"),
            ("add", libc::ENETDOWN, "err-net-add-bad-if.txt.stderr"),
            ("add", libc::EEXIST, "err-net-add-dup.txt.stderr"),
            ("del", libc::EINVAL, "err-net-del-unknown.txt.stderr"),
        ] {
            let r = told(verb, errno, "in other words");
            assert_eq!((r.text(), r.status), (golden(&format!("lnetctl/{name}")), 234), "{name}");
        }
        assert_eq!(told("add", libc::EUSERS, "a route leads there").descr, "a route leads there");
    }
}
