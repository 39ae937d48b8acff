//! Verbs that show: `net show`, `peer show`, `peer list`, `stats show`, `global show`, `export`.

use std::fs;
use std::path::Path;

use super::Asked;
use super::layout::{NETLINK, OLD};
use super::refusal::Refusal;
use super::routed::{RouteShown, Routes, RoutingShown};
use super::shown::{GlobalShow, Level, LocalNi, Net, Nets, NidOnly, Peer, PeerList, Peers, StatsShow};
use crate::args::Detail;
use crate::config::model::network;
use crate::config::source::Source;
use crate::inspect::account::Ask;
use crate::{limits, out};

/// The level of `export`.
const EXPORTED: Level = Level(3);
/// The exit status of `export` whose file cannot be written: lnetctl's.
const NOT_WRITTEN: u8 = 255;

fn level(d: &Detail) -> Level {
    Level(d.verbose.unwrap_or(0))
}

fn no_net(errno: i32, descr: &str) -> Refusal {
    Refusal::netlink("show", "net", errno, descr).with_status(super::refusal::status(libc::EINVAL))
}

pub(super) fn nets(mut node: Asked, only: Option<&str>, detail: &Detail) -> Result<(), Refusal> {
    if only.is_some_and(|n| n != "lo" && network(n).is_none()) {
        return Err(no_net(libc::ENOENT, "Object not found"));
    }
    // tcp0 is tcp.
    let same = |a: &str, b: &str| a == b || network(a).is_some() && network(a) == network(b);
    let mut net: Vec<Net> = node.rows(Ask::Nets { backup: false })?;
    net.iter_mut().flat_map(|n| &mut n.nis).for_each(LocalNi::cap);
    net.retain(|n| only.is_none_or(|o| same(o, &n.name)));
    if net.is_empty() {
        return Err(no_net(libc::ESRCH, "Network is down"));
    }
    net.iter_mut().flat_map(|n| &mut n.nis).for_each(|ni| ni.at(level(detail)));
    Ok(out::text(NETLINK.text(&Nets { net })?)?)
}

pub(super) fn peers(mut node: Asked, nid: Option<&str>, detail: &Detail) -> Result<(), Refusal> {
    let none = || Refusal::words(super::refusal::status(libc::EINVAL), "");
    if nid.is_some_and(|n| n.parse::<transport::wire::Nid>().is_err()) {
        return Err(none());
    }
    let mut peer: Vec<Peer> = node.rows(Ask::Peers { nid: nid.map(str::to_owned) })?;
    if peer.is_empty() {
        return if nid.is_some() { Err(none()) } else { Ok(()) };
    }
    peer.iter_mut().for_each(|p| p.at(level(detail)));
    Ok(out::text(NETLINK.text(&Peers { peer })?)?)
}

pub(super) fn peer_list(mut node: Asked) -> Result<(), Refusal> {
    let all: Vec<Peer> = node.rows(Ask::Peers { nid: None })?;
    if all.is_empty() {
        return Ok(());
    }
    let peers = all.into_iter().map(|p| NidOnly { nid: p.primary }).collect();
    Ok(out::text(NETLINK.text(&PeerList { peers })?)?)
}

pub(super) fn stats(mut node: Asked) -> Result<(), Refusal> {
    let statistics = node.one(Ask::Stats {})?;
    Ok(out::text(OLD.text(&StatsShow { statistics })?)?)
}

/// Of a node that does not route nothing is shown.
pub(super) fn routing(mut node: Asked) -> Result<(), Refusal> {
    match node.one::<Option<RoutingShown>>(Ask::Routing { settings: false })? {
        Some(shown) => Ok(out::text(OLD.text(&shown)?)?),
        None => Ok(()),
    }
}

pub(super) fn global(mut node: Asked) -> Result<(), Refusal> {
    let global = node.one(Ask::Global {})?;
    Ok(out::text(OLD.text(&GlobalShow { global })?)?)
}

/// Writes a text to the asker's file, or prints it.
fn put(text: &str, file: Option<&Path>) -> Result<(), Refusal> {
    match file.filter(|f| !Source::is_input(f)) {
        None => Ok(out::text(text)?),
        Some(f) => fs::write(f, text).map_err(|e| {
            let why = limits::told(&e);
            Refusal::words(NOT_WRITTEN, format!("pollnd: export: cannot write {}: {why}", f.display()))
        }),
    }
}

pub(super) fn export(mut node: Asked, backup: bool, file: Option<&Path>) -> Result<(), Refusal> {
    let mut net: Vec<Net> = node.rows(Ask::Nets { backup })?;
    let mut peer: Vec<Peer> = node.rows(Ask::Peers { nid: None })?;
    if backup {
        peer.retain(Peer::is_there);
        peer.iter_mut().for_each(Peer::backup);
    } else {
        net.iter_mut().flat_map(|n| &mut n.nis).for_each(|ni| ni.at(EXPORTED));
        peer.iter_mut().for_each(Peer::exported);
    }
    let mut route: Vec<RouteShown> = node.rows(Ask::Routes {})?;
    if backup {
        route.iter_mut().for_each(RouteShown::backup);
    }
    let mut text = String::new();
    if !net.is_empty() {
        text += &NETLINK.text(&Nets { net })?;
    }
    if !route.is_empty() {
        text += &NETLINK.text(&Routes { route })?;
    }
    if !peer.is_empty() {
        text += &NETLINK.text(&Peers { peer })?;
    }
    if let Some(mut routing) = node.one::<Option<RoutingShown>>(Ask::Routing { settings: true })? {
        if backup {
            routing.backup();
        }
        text += &OLD.text(&routing)?;
    }
    text += &OLD.text(&GlobalShow { global: node.one(Ask::Global {})? })?;
    // The file is the asker's, and stays as it is where the node does not answer.
    put(&text, file)
}
