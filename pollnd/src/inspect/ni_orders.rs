//! NIs that a node is told to have, or to have no more: `lnetctl net add` and `net del` (docs/lnetctl.md).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use transport::lnd::Config;
use transport::lnd::tunables::{Change, fewer_credits};
use transport::wire::Nid;

use super::failure::Failure;
use super::ni_facts::{interface, seconds, tunable, tuned};
use super::shared::Shared;
use crate::args::NodeArgs;
use crate::config::checked::cpt_list;
use crate::config::keys::Part;
use crate::config::model::network;
use crate::config::own_nis::Wanted;
use crate::{iface, networks};

/// NIs, as lnetctl's options name them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetOrder {
    /// The network, such as tcp1.
    pub(crate) net: Option<String>,
    /// The NID, which says network and address.
    pub(crate) nid: Option<String>,
    /// The interfaces, or the ports.
    pub(crate) interfaces: Vec<String>,
    /// The address, where the interface does not say it.
    pub(crate) ip: Option<IpAddr>,
    /// Messages that it may have in flight.
    pub(crate) credits: Option<u32>,
    /// Settings that all NIs of a node share, by their names in `net show`: they must be the node's.
    #[serde(default)]
    pub(crate) shared: Vec<(String, i64)>,
    /// CPTs.
    pub(crate) cpt: Option<String>,
}

/// No such interface: lnetctl's number.
const NO_INTERFACE: i32 = libc::ENETDOWN;

pub(super) fn bad(text: String) -> Failure {
    Failure::numbered(text, libc::EINVAL)
}

pub(super) fn parsed(nid: &str) -> Result<Nid, Failure> {
    nid.parse().map_err(|e| bad(format!("{e}")))
}

/// The number of the network that an order names.
fn net_number(order: &NetOrder) -> Result<Option<u16>, Failure> {
    let number = |n: &str| {
        let no = || {
            Failure::numbered(
                format!("{n} is no network that this node can have: tcp, tcp1 .."),
                libc::ENOENT,
            )
        };
        network(n).ok_or_else(no)
    };
    order.net.as_deref().map(number).transpose()
}

/// The place of the port that `name` names, or of the only one, or of the one that has the address.
fn port(a: &NodeArgs, name: Option<&str>, ip: IpAddr) -> Result<usize, Failure> {
    let all = networks::ports(a)?;
    let listed = || networks::devices_of(&all);
    let Some(name) = name else {
        let found = networks::of_address(&all, ip).map(|p| p.place);
        return found.ok_or_else(|| bad(format!("{ip}: name its port with --if: {}", listed())));
    };
    networks::named(&all, name).map(|p| p.place).ok_or_else(|| {
        let text = format!(
            "{name}: this node drives {}, and ports are opened when it starts: restart it with that one, too (--port, --vdev)",
            listed()
        );
        Failure::numbered(text, libc::ENODEV)
    })
}

/// Where a setting that all NIs of a node share is, by its name in `net show`.
fn part_of(name: &str) -> Part {
    if ["conns_per_peer", "timeout", "tos"].contains(&name) { Part::Lnd } else { Part::Tunables }
}

/// Its value.
pub(super) fn of_all(cfg: &Config, name: &str) -> i64 {
    match name {
        "conns_per_peer" => cfg.conns().into(),
        "timeout" => seconds(cfg.timeout()),
        _ => tunable(cfg, part_of(name), name),
    }
}

/// It is to be another for some NIs alone.
pub(super) fn of_one(cfg: &Config, name: &str, value: i64) -> Failure {
    let remedy = tuned(part_of(name), name).map(|t| match Change::new(cfg, t.name, &value.to_string()) {
        Ok(_) => format!(", or change it for all: `pollnd tunables {}={value}`", t.name),
        Err(e) => format!(" ({e})"),
    });
    let (own, remedy) = (of_all(cfg, name), remedy.unwrap_or_default());
    bad(format!("{name} {value}: all NIs of this node have {own}; leave it out{remedy}"))
}

/// Settings that are not an NI's own here.
fn check(order: &NetOrder, cfg: &Config, a: &NodeArgs) -> Result<(), Failure> {
    for (name, value) in &order.shared {
        let own = of_all(cfg, name);
        if own != *value {
            return Err(of_one(cfg, name, *value));
        }
    }
    let all = cpt_list(a.cpu_pattern.as_deref());
    match order.cpt.as_deref().filter(|c| c.replace(' ', "") != all) {
        Some(cpt) => {
            Err(bad(format!("cpt {cpt}: an NI is served by all CPTs of the node, {all}; leave it out")))
        }
        None => Ok(()),
    }
}

/// The NIs that an order to add means.
fn wanted(order: &NetOrder, a: &NodeArgs) -> Result<Vec<Wanted>, Failure> {
    let net = net_number(order)?;
    let named = order.nid.as_deref().map(parsed).transpose()?;
    if let (Some(nid), Some(net)) = (named, net)
        && nid.net_num() != net
    {
        return Err(bad(format!("{nid} is of another network than --net tcp{net}: leave one of them out")));
    }
    let on_port = networks::on_port(a);
    let ip = named.and_then(Nid::ip).or(order.ip);
    let number = named.map(Nid::net_num).or(net).unwrap_or(0);
    let names: Vec<Option<&str>> = match &order.interfaces[..] {
        [] => vec![None],
        all => all.iter().map(|i| Some(i.as_str())).collect(),
    };
    if names.len() > 1 && ip.is_some() {
        return Err(bad("one address for several interfaces: name one, or leave the address out".into()));
    }
    let one = |name: Option<&str>| {
        let ip = match (ip, name) {
            (Some(ip), Some(name)) if !on_port => {
                let owner = iface::owner(ip).map(|(name, _)| name);
                match owner.filter(|o| o != name && !ip.is_loopback()) {
                    Some(other) => {
                        return Err(bad(format!(
                            "{ip} is an address of {other}, and not of {name}: correct either"
                        )));
                    }
                    None => ip,
                }
            }
            (Some(ip), _) => ip,
            (None, Some(name)) if !on_port => iface::address(name).ok_or_else(|| {
                Failure::numbered(
                    format!("{name} is no interface of this machine with an address"),
                    NO_INTERFACE,
                )
            })?,
            (None, _) => {
                return Err(bad("it needs an address: give --nid, such as 10.0.0.1@tcp1, or --ip".into()));
            }
        };
        let place = if on_port { port(a, name, ip)? } else { 0 };
        Ok(Wanted { nid: Nid::tcp(ip, number), place, credits: order.credits })
    };
    names.into_iter().map(one).collect()
}

/// Adds NIs: all of them, or none.
pub(super) fn add(shared: &Shared, order: &NetOrder) -> Result<Value, Failure> {
    let (live, front) = (shared.live()?, &shared.front);
    let _alone = live.alone();
    let (a, cfg) = (live.current().node, front.config(0).map_err(|e| e.to_string())?);
    check(order, &cfg, &a)?;
    let all = wanted(order, &a)?;
    for said in all.iter().filter_map(|ni| fewer_credits(cfg.peer_credits, ni.credits?, ni.nid)) {
        tracing::warn!("{said}");
    }
    for (i, ni) in all.iter().enumerate() {
        if let Err(e) = live.nis.add(front, &a, ni) {
            for before in all.iter().take(i) {
                live.nis.del(front, before.nid)?;
            }
            return Err(e);
        }
    }
    Ok(json!(null))
}

/// The text about an order that no NI is meant by.
fn nobody(order: &NetOrder) -> String {
    let lists = "`pollnd lnetctl net show` lists those that there are";
    if let Some(nid) = &order.nid {
        return format!("{nid} is no NI of this node: {lists}");
    }
    let mut text = "this node has no NI".to_owned();
    text.extend(order.net.iter().map(|n| format!(" on the network {n}")));
    text.extend(order.ip.iter().map(|ip| format!(" at {ip}")));
    if !order.interfaces.is_empty() {
        text += &format!(" by the interface {}", order.interfaces.join(" or "));
    }
    format!("{text}: {lists}")
}

/// Deletes NIs: all of a network, or those of interfaces there, or one by its NID.
pub(super) fn del(shared: &Shared, order: &NetOrder) -> Result<Value, Failure> {
    let (live, front) = (shared.live()?, &shared.front);
    let _alone = live.alone();
    let a = live.current().node;
    let (net, named) = (net_number(order)?, order.nid.as_deref().map(parsed).transpose()?);
    let on = |nid: Nid| {
        let own = interface(&a, nid);
        let short = own.as_deref().and_then(|o| o.split(',').next());
        order.interfaces.iter().any(|i| own.as_deref() == Some(i.as_str()) || short == Some(i.as_str()))
    };
    let means = |nid: &Nid| {
        named.is_none_or(|n| n == *nid)
            && net.is_none_or(|n| nid.net_num() == n)
            && (order.interfaces.is_empty() || on(*nid))
            && order.ip.is_none_or(|ip| nid.ip() == Some(ip))
    };
    let all: Vec<Nid> = live.nis.nids().into_iter().filter(means).collect();
    if all.is_empty() {
        return Err(bad(nobody(order)));
    }
    all.into_iter().try_for_each(|nid| live.nis.del(front, nid))?;
    Ok(json!(null))
}
