//! Copy jobs of the CPT: which lcore takes one, and when.
//!
//! A home puts a copy job on its CPT's queue; whoever takes it owns it, runs a part of it each turn, so that its own streams
//! wait for no more than that, and sends it to the home that the copy job's bucket has by then. An lcore takes one when it has
//! nothing else to do, when more wait than idle siblings would leave, or when one has waited for so many of its turns:
//! so a copy job is run even where everybody is busy, and a queue that is full is no reason to wait.

use super::Mesh;
use super::mail::{Home, Jobs, Mail, StreamEvent};
use crate::node::handover::Common;
use crate::node::streams::Work;
use crate::node::{CopyJob, Input};
use crate::stream::ShardId;

/// Bytes copied and summed in one turn, about 10 us of a core.
const A_TURN: u32 = 64 << 10;

/// An lcore's part in the work of its CPT.
pub(super) struct Helper {
    all: Vec<Jobs>,
    common: Common<CopyJob>,
    /// Copy jobs of other homes that were run here, and the bytes copied and summed for them.
    helped: (u64, u64),
}

impl Helper {
    pub(super) fn new(all: &[Jobs]) -> Helper {
        Helper { all: all.to_vec(), common: Common::new(None), helped: (0, 0) }
    }

    /// Of the CPT whose first shard this is.
    pub(super) fn join(&mut self, first: Option<ShardId>) {
        self.common = Common::new(first.and_then(|s| self.all.get(usize::from(s.0)).cloned()));
    }

    /// Puts a copy job on the queue; gives it back where there is no room or no sibling.
    pub(super) fn offer(&mut self, b: CopyJob) -> Option<CopyJob> {
        self.common.offer(b)
    }

    pub(super) fn has_work(&self) -> bool {
        self.common.has_work()
    }

    pub(super) fn rests(&self) -> bool {
        !self.common.has_begun()
    }

    pub(super) fn counts(&self, f: &mut dyn FnMut(&'static str, u64)) {
        f("boxes_helped", self.helped.0);
        f("boxes_helped_bytes", self.helped.1);
    }

    /// Bytes copied and summed for other homes.
    pub(super) fn helped_bytes(&self) -> u64 {
        self.helped.1
    }
}

impl Mesh {
    /// Runs a part of a copy job, if there is one to run; `idle` if this turn had nothing else to do.
    pub(super) fn help(&mut self, idle: bool, sink: &mut dyn FnMut(Input<'_>)) -> Work {
        let Some(mut b) = self.helper.common.take(idle) else { return Work::Idle };
        if !b.run(A_TURN) {
            self.helper.common.keep(b);
            return Work::Busy(1);
        }
        let bucket = b.bucket();
        let home = self.homes.at(bucket);
        if home != self.shards.me {
            self.helper.helped.0 += 1;
            self.helper.helped.1 += b.work();
            self.post.send(home, Mail::Stream(Home::Of(bucket), StreamEvent::JobDone(b)));
        } else if self.holding(bucket) {
            self.incoming.direct.push(StreamEvent::JobDone(b));
        } else {
            sink(Input::JobDone(b));
        }
        Work::Busy(1)
    }
}
