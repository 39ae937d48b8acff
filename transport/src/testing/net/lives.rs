//! Processes that end, and begin again.

use super::ends::EndEvent;
use super::{Ev, Net};
use crate::lnd::Config;
use crate::node::Machine;
use crate::stream::CloseWhy;
use crate::wire::Nid;

impl Net {
    /// Ends a node's process. Its peers get RSTs if `rst`, else silence.
    pub fn kill(&mut self, node: usize, rst: bool) {
        self.nodes[node].alive = false;
        self.nodes[node].life += 1;
        self.nodes[node].lends.clear();
        self.listens.retain(|_, n| *n != Some(node));
        for link in 0..self.links.len() {
            for end in 0..2 {
                if self.links[link][end].node == node && !self.links[link][end].closed() {
                    let e = &mut self.links[link][end];
                    e.moves(EndEvent::Kill);
                    e.inbox.frags.clear();
                    e.backlog.clear();
                    if rst && !self.links[link].silent {
                        self.at(self.latency, Ev::Closed(link, 1 - end, CloseWhy::Reset));
                    }
                }
            }
        }
    }

    /// Starts a killed node again, with another incarnation and perhaps other NIDs.
    pub fn restart(&mut self, node: usize, cfg: Config) {
        self.by_ip.retain(|_, n| *n != node);
        for ip in cfg.nids().filter_map(Nid::ip) {
            self.by_ip.entry(ip).or_insert(node);
        }
        self.nodes[node].machine = Machine::new(cfg);
        self.nodes[node].alive = true;
        self.nodes[node].timer = None;
        self.note_timer(node);
    }
}
