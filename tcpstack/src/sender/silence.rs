//! Silence: the reordering window is over, a probe is due, or the timer has run out.

use super::{Ctx, NEVER, Sender, Undo};
use crate::cc::CongestionControl;
use crate::recover::Event;
use crate::scoreboard::Fate;

/// Result of silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Nothing is due.
    Early,
    /// The reordering window is over: something may be lost. `entered` says that fast recovery began.
    Reorder {
        /// Whether it did.
        entered: bool,
    },
    /// A tail loss probe is to be sent.
    Probe,
    /// The retransmission timer ran out.
    Timeout,
}

impl Sender {
    /// Acts on silence, if [`Sender::deadline`] has come. `new_data` says that there is data never sent that the
    /// peer's window has room for.
    pub fn on_silence(&mut self, new_data: bool, c: &mut Ctx<'_>) -> Silence {
        if self.rto_at <= c.now {
            self.timeout(c);
            return Silence::Timeout;
        }
        if self.reo_at <= c.now {
            let before = self.board.end() - self.board.una() - self.board.sacked();
            let lost = self.detect(c);
            let entered = lost > 0 && !self.state.get().recovering();
            if entered {
                self.enter(before, c);
            }
            self.adapt(0, false, false, c);
            self.arm_probe(c);
            return Silence::Reorder { entered };
        }
        if self.pto_at <= c.now {
            self.probe(new_data, c);
            return Silence::Probe;
        }
        Silence::Early
    }

    fn probe(&mut self, new_data: bool, c: &Ctx<'_>) {
        let m = u64::from(c.mss);
        let (una, end) = (self.board.una(), self.board.end());
        let mut again = None;
        if !(new_data && self.board.lost() == 0) {
            // The last segment; in recovery the first one that is missing.
            let gap = self.state.get().recovering() || self.board.sacked() > 0;
            let head = self.board.records().find(|r| r.fate != Fate::Sacked).map_or(una, |r| r.start);
            let r = if gap { head..(head + m).min(end) } else { end.saturating_sub(m).max(una)..end };
            self.board.lose(r.clone());
            again = Some(r);
        }
        self.force = true;
        self.tlp.probed(end, again);
        self.rto_at = c.now + c.rto();
        self.arm_probe(c);
    }

    fn timeout(&mut self, c: &mut Ctx<'_>) {
        let una = self.board.una();
        // A second time-out in a row, or a sacked first byte: the peer may have let go of what it sacked.
        let again = self.timeout_una == una;
        let head = self.board.records().next().is_some_and(|r| r.fate == Fate::Sacked);
        let used = self.used();
        self.owed = 0;
        self.cc.on_timeout(used, c.mss, !again);
        self.board.lose_all(again || head);
        let _ = self.state.apply(Event::Timeout);
        self.recover = self.board.end();
        if !again {
            self.undo = Undo { armed: true, from: una, ..Undo::default() };
        }
        self.timeout_una = una;
        self.newreno.acked();
        self.tlp.reset();
        c.rtt.on_timeout();
        (self.pto_at, self.reo_at) = (NEVER, NEVER);
        self.rto_at = c.now + c.rto();
    }
}
