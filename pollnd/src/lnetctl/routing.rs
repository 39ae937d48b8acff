//! `route`: shows, adds and deletes routes.

use transport::lnd::Route;
use transport::wire::{NetId, Nid};

use super::layout::NETLINK;
use super::refusal::{Refusal, status};
use super::routed::{RouteShown, Routes};
use super::shown::Level;
use super::{Asked, said};
use crate::args::{CtlRoute, RouteArg};
use crate::inspect::account::Ask;
use crate::out;

fn refused(verb: &'static str, errno: i32, descr: &str) -> Refusal {
    // Whatever the error number, the status is that of a bad argument.
    Refusal::netlink(verb, "route", errno, descr).with_status(status(libc::EINVAL))
}

/// The texts that lnetctl has for error numbers of the kernel's.
fn told(verb: &'static str, errno: i32, otherwise: &str) -> Refusal {
    let descr = match (verb, errno) {
        ("add", libc::EEXIST) => "Route already exists or the specified network is local",
        ("add", libc::EHOSTUNREACH) => "No interface configured on the same net as gateway",
        ("del", libc::ENOENT) => "failed to delete route",
        _ => otherwise,
    };
    refused(verb, errno, descr)
}

fn of(verb: &'static str, a: &RouteArg) -> Result<(NetId, Nid), Refusal> {
    let net = a.net.parse().map_err(|_| refused(verb, libc::EINVAL, "cannot parse net"))?;
    let gateway = a.gateway.parse().map_err(|_| refused(verb, libc::EINVAL, "cannot parse gateway"))?;
    Ok((net, gateway))
}

fn order(mut node: Asked, verb: &'static str, ask: Ask) -> Result<(), Refusal> {
    node.order(ask, |errno, e| told(verb, errno, e))
}

pub(super) fn main(verb: &CtlRoute, node: impl FnOnce() -> Result<Asked, Refusal>) -> Result<(), Refusal> {
    match verb {
        CtlRoute::Add { route, hop, priority } => {
            let (net, gateway) = of("add", route)?;
            let bad_hop = || refused("add", libc::EINVAL, "invalid hop count must be between 1 and 255");
            let hop = said(*hop)
                .map(|h| u8::try_from(h).ok().filter(|h| *h > 0).ok_or_else(bad_hop))
                .transpose()?;
            let bad = |_| refused("add", libc::EINVAL, "invalid priority must be between 0 and 4294967295");
            let priority = said(*priority).map_or(Ok(0), u32::try_from).map_err(bad)?;
            let route = Route { net, gateway, hop, priority };
            order(node()?, "add", Ask::AddRoute { route: route.to_string() })
        }
        CtlRoute::Del { route } => {
            let (net, gateway) = of("del", route)?;
            order(node()?, "del", Ask::DelRoute { net: net.to_string(), gateway: gateway.to_string() })
        }
        CtlRoute::Show { net, gateway, hop, priority, detail } => {
            let bad = |what| refused("show", libc::EINVAL, what);
            let net =
                net.as_deref().map(str::parse::<NetId>).transpose().map_err(|_| bad("cannot parse net"))?;
            let gateway = gateway.as_deref().map(str::parse::<Nid>).transpose();
            let gateway = gateway.map_err(|_| bad("cannot parse gateway"))?;
            let mut route: Vec<RouteShown> = node()?.rows(Ask::Routes {})?;
            let number = |asked: Option<i64>, is: Option<i64>| asked.is_none_or(|a| Some(a) == is);
            // tcp0 is tcp.
            route.retain(|r| net.is_none_or(|n| r.net.parse() == Ok(n)));
            route.retain(|r| gateway.is_none_or(|g| r.gateway.parse() == Ok(g)));
            route.retain(|r| number(said(*hop), r.hop) && number(said(*priority), r.priority));
            if route.is_empty() {
                return Ok(());
            }
            route.iter_mut().for_each(|r| r.at(Level(detail.verbose.unwrap_or(0))));
            Ok(out::text(NETLINK.text(&Routes { route })?)?)
        }
    }
}
