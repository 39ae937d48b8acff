//! Nodes of ours with lnet_selftest on a simulated network: a member, and a console beside it.

use std::sync::Arc;

use hugepages::PrivatePages;

use super::net::{Net, SEC};
use super::srpc::Srpc;
use crate::lnd::{AppId, Config, Data};
use crate::lnet::{Event, Op, PutEvent};
use crate::selftest::console::{Console, Said, Setup, split};
use crate::selftest::member::Member;
use crate::selftest::{self, AppIds, Ops};
use crate::wire::Nid;
use crate::wire::srpc::FEATS;

/// Unix time at the time 0 of the network, in s.
const UNIX_S: u64 = 1_795_000_000;

/// A node.
pub struct LstNode {
    /// Its place in the network.
    pub node: usize,
    /// The member.
    pub member: Member,
    /// The console.
    pub console: Console,
    /// Everything that the console has said.
    pub said: Vec<Said>,
    /// RPCs that its units have begun, and that its console has, by the requests that they gave LNet.
    pub issued: [u64; 2],
    /// Requests of these that have left.
    pub left: [u64; 2],
    /// Replies to its console, with their senders, but for those that were cut.
    pub replies: Vec<(Nid, Srpc)>,
    ids: AppIds,
    cfg: Config,
    features: u32,
    life: u64,
}

fn fresh(cfg: &Config, features: u32, ids: AppIds, life: u64) -> (Member, Console) {
    // Another second in each life: names of RPCs are never used again.
    let unix_ns = (UNIX_S + life * 10_000) * SEC;
    let own = cfg.nid();
    let setup = Setup { app: ids.console, own, name: "test".to_owned(), features, unix_ns };
    let backing: Arc<dyn hugepages::Backing> = Arc::new(PrivatePages);
    (Member::new(selftest::Config::new(ids, unix_ns), &backing), Console::new(setup))
}

/// The message that a PUT brought.
fn reply(p: &PutEvent) -> Option<Srpc> {
    let Data::Lent(pieces) = &p.data else { return None };
    let bytes: Vec<u8> = pieces.iter().flat_map(|p| p.bytes().iter().copied()).collect();
    Some(Srpc { bytes }).filter(Srpc::is_whole)
}

impl LstNode {
    /// Adds a node.
    ///
    /// # Panics
    /// There are no such applications.
    pub fn new(net: &mut Net, cfg: Config) -> LstNode {
        LstNode::with_features(net, cfg, FEATS)
    }

    /// The same, with the features that its console's sessions begin with.
    ///
    /// # Panics
    /// There are no such applications.
    pub fn with_features(net: &mut Net, cfg: Config, features: u32) -> LstNode {
        let ids = AppIds::from(3).expect("three applications");
        let (member, console) = fresh(&cfg, features, ids, 1);
        let node = net.add(cfg.clone());
        let (said, replies, issued, left) = (Vec::new(), Vec::new(), [0; 2], [0; 2]);
        let mut n =
            LstNode { node, member, console, said, issued, left, replies, ids, cfg, features, life: 1 };
        n.pump(net);
        n
    }

    /// Types a line of lst.
    ///
    /// # Panics
    /// The line cannot be split into words.
    pub fn type_in(&mut self, net: &mut Net, line: &str) {
        let words = split(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        self.console.type_in(words, Some(7), None);
        self.pump(net);
    }

    /// Whether the node runs.
    pub fn alive(&self, net: &Net) -> bool {
        net.nodes[self.node].alive
    }

    /// Its process ends, with RSTs or in silence.
    pub fn kill(&mut self, net: &mut Net, rst: bool) {
        net.kill(self.node, rst);
        net.nodes[self.node].mute = !rst;
        net.nodes[self.node].events.clear();
    }

    /// It begins anew.
    pub fn restart(&mut self, net: &mut Net) {
        self.life += 1;
        self.cfg.incarnation += 1000;
        self.cfg.interface_cookie += 1000;
        (self.member, self.console) = fresh(&self.cfg, self.features, self.ids, self.life);
        (self.issued, self.left) = ([0; 2], [0; 2]);
        net.nodes[self.node].mute = false;
        net.restart(self.node, self.cfg.clone());
        self.pump(net);
    }

    /// Owner of the RPCs that an application asks: the units (0) or the console (1).
    fn asks(&self, app: AppId) -> Option<usize> {
        [self.ids.client, self.ids.console].iter().position(|a| *a == app)
    }

    /// Carries events and operations between the machine and its applications until there are none.
    pub fn pump(&mut self, net: &mut Net) {
        if !self.alive(net) {
            return;
        }
        loop {
            let mut ops = Ops::new();
            let events = std::mem::take(&mut net.nodes[self.node].events);
            let (heard, now) = (events.len(), net.now);
            for (_, app, ev) in events {
                if let (Some(who), Event::Send { status: Ok(()), .. }) = (self.asks(app), &ev) {
                    self.left[who] += 1;
                }
                if let (true, Event::Put(p)) = (app == self.ids.console, &ev) {
                    self.replies.extend(reply(p).map(|r| (p.initiator.nid, r)));
                }
                if self.member.is_for(app) {
                    self.member.event(now, app, ev, &mut ops);
                } else {
                    self.console.event(now, ev, &mut ops);
                }
            }
            let did = self.member.turn(now, &mut ops);
            let busy = self.console.turn(now, &mut ops);
            while let Some(said) = self.console.said() {
                self.said.push(said);
            }
            if heard == 0 && did == 0 && !busy && ops.is_empty() {
                return;
            }
            for (app, op) in ops {
                if let (Some(who), Op::Put { .. }) = (self.asks(app), &op) {
                    self.issued[who] += 1;
                }
                net.input(self.node, crate::node::Input::Cmd(app, op));
            }
        }
    }

    /// Time at which its applications have something to do next, in ns.
    pub fn deadline(&self, net: &Net) -> Option<u64> {
        let both = [self.member.deadline(), self.console.deadline()];
        both.into_iter().flatten().min().filter(|_| self.alive(net))
    }
}
