//! The receiving end of a connection over a TCP stack.

use dataplane::pkt::Port;
use hugepages::RxFrag;
use tcpstack::{FlowId, Stack};

use crate::stream::{StreamRx, copy_out};

/// The receiving end of a flow: taking a fragment opens the window by its length.
pub(super) struct FlowRx<'a, P: Port> {
    pub(super) stack: &'a mut Stack<P>,
    pub(super) flow: FlowId,
    pub(super) rest: &'a mut Option<(RxFrag, bool)>,
}

impl<P: Port> FlowRx<'_, P> {
    /// Takes the next fragment where the present one is used up, and opens the window for it.
    #[inline(never)]
    fn refill(&mut self) {
        if self.rest.as_ref().is_none_or(|(frag, _)| frag.is_empty()) {
            *self.rest = self.stack.next(self.flow).map(|f| (f, false));
        }
        if let Some((frag, credited)) = self.rest
            && !std::mem::replace(credited, true)
        {
            self.stack.credit(self.flow, frag.len());
        }
    }
}

impl<P: Port> StreamRx for FlowRx<'_, P> {
    fn next(&mut self) -> Option<RxFrag> {
        // Asked first: an empty one is not written.
        if self.rest.is_some() {
            let (frag, credited) = self.rest.take()?;
            if !credited {
                self.stack.credit(self.flow, frag.len());
            }
            if !frag.is_empty() {
                return Some(frag);
            }
        }
        let frag = self.stack.next(self.flow)?;
        self.stack.credit(self.flow, frag.len());
        Some(frag)
    }
    fn unread(&mut self, rest: RxFrag) {
        *self.rest = Some((rest, true));
    }
    fn front(&mut self) -> Option<&[u8]> {
        if !matches!(self.rest, Some((frag, true)) if !frag.is_empty()) {
            self.refill();
        }
        Some(self.rest.as_ref().map_or(&[], |(frag, _)| frag.bytes()))
    }
    fn skip(&mut self, n: u32) {
        // An empty fragment goes with the next look, or when the machine has taken all it will.
        if let Some((frag, _)) = self.rest {
            frag.advance(n);
        }
    }
    /// Where the fragment lies: headers are many to a fragment.
    fn read(&mut self, to: &mut [u8]) -> usize {
        let mut n = 0;
        while let Some(room) = to.get_mut(n..).filter(|r| !r.is_empty()) {
            self.front();
            let Some((frag, _)) = self.rest else { break };
            n += copy_out(frag, room);
        }
        n
    }
}
