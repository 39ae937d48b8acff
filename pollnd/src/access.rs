//! Choice of the node that a command uses: one that runs already, or one of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use transport::lnd::Route;
use transport::lnet::routes::RouteView;
use transport::wire::{NetId, Nid};

use crate::args::{NodeArgs, Use, Via};
use crate::inspect::Request;
use crate::inspect::account::Ask;
use crate::inspect::claim::{self, Claim, Holder};
use crate::inspect::client::{self, Client, Running};
use crate::running::Node;
use crate::{limits, networks, out};

/// Longest time of a node that has just been started until it is there.
const COMING: Duration = Duration::from_secs(5);

/// Node of a command.
pub(crate) enum Access {
    /// A node that runs.
    Node(Client),
    /// One of its own, whose NID is this one's alone.
    Own(Option<Claim>),
}

/// Finds the node for a `command` on `target`, and fills in the NID of `node`.
///
/// # Errors
/// A NID that cannot be had, with the remedy.
pub(crate) fn find(via: &Via, node: &mut NodeArgs, target: Nid, command: &str) -> Result<Access, String> {
    if let Some(which) = &via.through {
        let (client, running) = client::any(Some(which))?;
        if !running.guests {
            return Err(format!(
                "--node {which}: that is `pollnd {}` of {}, which nobody else can use: name a `pollnd node`",
                running.command, running.nid
            ));
        }
        return Ok(Access::Node(client));
    }
    // Before the kernel is asked for a way to what is no machine's address.
    networks::target(node, target)?;
    let first = first_hop(&node.route, target);
    let bare = node.carrier.is_none() && node.port.is_empty() && node.vdev.is_empty();
    let scope = claim::scope(node);
    // A node on a port has no kernel address: who names its NID, and no port, means it.
    let node_of = |nid: Nid| {
        let own = nid.to_string();
        let near = |r: &Running| r.scope == scope || (bare && r.scope.starts_with("port-"));
        client::running(nid, |r| r.nids.contains(&own) && near(r))
    };
    node.nid = match via.nid {
        Some(nid) => nid,
        None => {
            let own = by_route(first, "--nid, or --node for a node that runs");
            let runs = || own.as_ref().is_ok_and(|nid| node_of(*nid).is_some());
            if bare
                && node.route.is_empty()
                && !runs()
                && let Some(client) = by_its_route(node, target)?
            {
                return Ok(Access::Node(client));
            }
            own?
        }
    };
    networks::target(node, target)?;
    let nid = node.nid;
    let end = Instant::now() + COMING;
    loop {
        if let Some((client, r)) = node_of(nid) {
            if !r.guests {
                return Err(Holder { pid: Some(r.pid), command: r.command }.refusal("--nid", nid));
            }
            let unused = unused(node);
            out::note(format_args!("through the node of {nid} that runs here (process {}){unused}", r.pid));
            return Ok(Access::Node(client));
        }
        match claim::take(nid, &scope, command) {
            Ok(c) => {
                if via.nid.is_none() {
                    own_address(nid, first)?;
                    let to = first.ip().map_or_else(String::new, |ip| ip.to_string());
                    out::note(format_args!(
                        "as {nid}, from where this machine reaches {to} (--nid for another)"
                    ));
                }
                return claim::further(c, nid, &node.ni, &scope, command).map(Access::Own);
            }
            // Its control socket comes when it is up.
            Err(h) if h.command == "node" && Instant::now() < end => {
                dataplane::clock::pause(Duration::from_millis(50));
            }
            Err(h) => return Err(h.refusal("--nid", nid)),
        }
    }
}

/// Options that a node which runs does not use, in words.
fn unused(node: &NodeArgs) -> String {
    let unused: Vec<_> = node.given().filter(|o| o.1 != Use::Finding).map(|o| o.0).collect();
    match &unused[..] {
        [] => String::new(),
        [one] => format!("; it has settings of its own, {one} is not used"),
        all => format!("; it has settings of its own, these are not used: {}", all.join(", ")),
    }
}

/// Whether the node has a route to the network, up or not; false where it does not say.
fn has_route(node: &mut Client, net: NetId) -> bool {
    let (net, mut found) = (net.to_string(), false);
    let asked = node.try_rows(&Request::Lnet { ask: Ask::Routes {} }, |row| {
        found |= row["net"] == net;
        Ok(())
    });
    asked.is_ok() && found
}

/// The one node of this network namespace that has a route to the target's network.
///
/// # Errors
/// Several have.
fn by_its_route(node: &NodeArgs, target: Nid) -> Result<Option<Client>, String> {
    let net = target.net();
    let others = client::here().filter(|(_, r)| r.guests);
    let mut all: Vec<_> = others.filter_map(|(mut c, r)| has_route(&mut c, net).then_some((c, r))).collect();
    if all.len() > 1 {
        let line = |(_, r): &(Client, Running)| format!("\n  --node {}  {}", r.pid, r.nids.join(", "));
        let list: String = all.iter().map(line).collect();
        return Err(format!(
            "{} nodes that run here have a route to {net}: choose one with --node, or give --nid for a node of this process{list}",
            all.len()
        ));
    }
    let Some((client, r)) = all.pop() else { return Ok(None) };
    let (pid, nid, unused) = (r.pid, &r.nid, unused(node));
    out::note(format_args!(
        "through the node of {nid} that runs here (process {pid}), which has a route to {net}{unused}"
    ));
    client.wait_as_usual();
    Ok(Some(client))
}

/// Interval of looks at routes.
const LOOK: Duration = Duration::from_millis(5);
/// Longest wait for all routes of a node whose targets are not known yet.
const ROUTES: Duration = Duration::from_secs(5);

/// Waits until `enough` of the node's routes are up, but no longer than so long: they are down until their gateways have answered.
fn await_routes(node: &Node, time: Duration, enough: impl Fn(&[RouteView]) -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end
        && !node.stopped()
        && let Ok((_, routes)) = node.front().routes(None)
        && !enough(&routes)
    {
        dataplane::clock::pause(LOOK);
    }
}

/// Whether one leads to the network, if any does.
fn leads(routes: &[RouteView], net: NetId) -> bool {
    routes.iter().any(|r| r.net == net && r.up) || !routes.iter().any(|r| r.net == net)
}

/// Waits until a route to `target` is up, where there are any, but no longer than so many seconds.
pub(crate) fn await_route(node: &Node, target: Nid, seconds: f64) {
    let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    await_routes(node, time, |routes| leads(routes, target.net()));
}

/// Waits until each network that routes lead to is reached, but no longer than 5 s.
pub(crate) fn await_all_routes(node: &Node) {
    await_routes(node, ROUTES, |routes| routes.iter().all(|r| leads(routes, r.net)));
}

/// The NID that a message to `target` is given to first: the gateway's, where a route leads to its network.
pub(crate) fn first_hop(routes: &[Route], target: Nid) -> Nid {
    let ways = routes.iter().filter(|r| r.net == target.net());
    ways.min_by_key(|r| r.priority).map_or(target, |r| r.gateway)
}

/// The NID of the address from which the kernel would send to `target`; `instead` are options for where there is none.
pub(crate) fn by_route(target: Nid, instead: &str) -> Result<Nid, String> {
    let Some(ip) = target.ip() else { return Err(format!("{target} has no IP address")) };
    let any = match ip {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED),
    };
    // A datagram socket that is connected sends nothing: the kernel only looks for a route.
    let from = UdpSocket::bind(SocketAddr::new(any, 0))
        .and_then(|s| s.connect(SocketAddr::new(ip, 988)).and_then(|()| s.local_addr()))
        .map_err(|e| {
            let (e, net) = (limits::told(&e), target.net());
            format!(
                "this machine has no way to {ip} ({e}): name the router of LNet that leads to {net} (--route \"{net} GATEWAY\"), \
                 add a route of IP (`ip route add`), or give {instead}"
            )
        })?;
    let mut ip = from.ip();
    if Some(ip) == target.ip() && ip == IpAddr::from(Ipv4Addr::LOCALHOST) {
        // All of 127.0.0.0/8 is this machine.
        ip = Ipv4Addr::new(127, 0, 0, 2).into();
    }
    Ok(Nid::tcp(ip, target.net_num()))
}

/// A node of its own at the target's address would talk to itself, whoever else is there.
fn own_address(nid: Nid, target: Nid) -> Result<(), String> {
    if nid != target {
        return Ok(());
    }
    Err(format!(
        "{target} is this machine's own address, and no `pollnd node` of it runs here: give --nid another address of this machine"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nid_is_found_by_the_route() {
        let by = |t: &str| by_route(t.parse().unwrap(), "").map(|n| n.to_string());
        assert_eq!(by("127.0.0.9@tcp3").unwrap(), "127.0.0.1@tcp3");
        assert_eq!(by("127.0.0.1@tcp").unwrap(), "127.0.0.2@tcp");
        let to = |t: &str| {
            let routes = ["tcp9 127.0.0.8@tcp3 1 7", "tcp9 127.0.0.9@tcp3"].map(|r| r.parse().unwrap());
            by_route(first_hop(&routes, t.parse().unwrap()), "").unwrap().to_string()
        };
        assert_eq!(to("192.0.2.9@tcp9"), "127.0.0.1@tcp3", "the gateway's network");
        assert_eq!(to("127.0.0.9@tcp4"), "127.0.0.1@tcp4");
        let own = own_address("10.0.0.1@tcp".parse().unwrap(), "10.0.0.1@tcp".parse().unwrap()).unwrap_err();
        assert!(own.contains("10.0.0.1@tcp") && own.contains("--nid"), "{own}");
    }
}
