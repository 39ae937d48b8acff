//! Pages that BRW data leaves from: one run with the words of this node, for all RPCs, since nobody writes to it.

use std::sync::Arc;

use hugepages::{Backing, PageRunMut, PageSlice};
use smallvec::smallvec;

use super::super::pattern;
use crate::lnd::Payload;
use crate::wire::srpc::BRW_MAX;

/// The run, made when it is first wanted: a node that nobody tests has none.
pub(super) struct Source {
    backing: Arc<dyn Backing>,
    run: Option<PageSlice>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Source({})", self.run.is_some())
    }
}

impl Source {
    pub(super) fn new(backing: &Arc<dyn Backing>) -> Source {
        Source { backing: backing.clone(), run: None }
    }

    /// The first `len` bytes; `None` where there is no memory for the run.
    pub(super) fn pages(&mut self, len: u32) -> Option<Payload> {
        if self.run.is_none() {
            let mut run = PageRunMut::new(self.backing.clone(), BRW_MAX as usize).ok()?;
            pattern::fill(run.bytes_mut());
            self.run = Some(run.freeze().slice_all());
        }
        let part = self.run.as_ref()?.slice(0, len)?;
        Some(Payload::Pages(smallvec![part]))
    }
}
