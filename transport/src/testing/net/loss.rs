//! Packets that are lost: TCP sends them again, and what is behind them waits. A RST is sent once.

use super::ends::EndEvent;
use super::{Ev, Net};
use crate::stream::CloseWhy;

/// First time until a segment, or a SYN, is sent again, in ns; it doubles.
const AGAIN: u64 = 200_000_000;
const SYN_AGAIN: u64 = 1_000_000_000;
/// Losses in a row at most.
const IN_A_ROW: u32 = 4;

impl Net {
    fn lost(&mut self) -> bool {
        self.loss.as_mut().is_some_and(|(rng, percent)| rng.chance(*percent))
    }

    /// Delay of a packet that is sent until it comes, in ns.
    fn late(&mut self, first: u64) -> u64 {
        (0..IN_A_ROW).take_while(|_| self.lost()).map(|n| first << n).sum()
    }

    /// Delay of a connection that is made, in ns.
    pub(super) fn lost_syns(&mut self) -> u64 {
        self.late(SYN_AGAIN)
    }

    /// Time of a segment to an end that leaves in `left` ns: it comes behind those before it.
    pub(super) fn travel(&mut self, link: usize, end: usize, left: u64) -> u64 {
        let delay = left + self.latency;
        if self.loss.is_none() {
            return delay;
        }
        let comes = self.now + delay + self.late(AGAIN);
        let e = &mut self.links[link][end];
        e.comes = e.comes.max(comes);
        e.comes - self.now
    }

    /// An end of a connection that the network has forgotten sends again what was not acknowledged, and is reset.
    pub(super) fn sends_again(&mut self, link: usize, end: usize) {
        let e = &self.links[link][end];
        if e.sent > e.acked {
            self.at(AGAIN, Ev::Closed(link, end, CloseWhy::Reset));
        }
    }

    /// Tells an end that the other has reset the connection, unless that is lost: then it finds out when it sends.
    pub(super) fn reset(&mut self, link: usize, end: usize) {
        if self.loss.is_none() {
            return self.at(self.latency, Ev::Closed(link, end, CloseWhy::Reset));
        }
        // An end that is the test's own stays as it is.
        if self.links[link][1 - end].closed() {
            self.links[link][1 - end].moves(EndEvent::Forget);
        }
        if !self.lost() {
            let behind = self.links[link][end].comes.saturating_sub(self.now).max(self.latency);
            self.at(behind, Ev::Closed(link, end, CloseWhy::Reset));
        }
    }
}
