//! Showing what passes to somebody who watches: a branch a burst while nobody does.

use dataplane::pkt::Port;
use dataplane::tap::TapEnd;

use crate::stack::Stack;

impl<P: Port> Stack<P> {
    /// Shows the packets that pass to `tap`, or to nobody any more. Returns whom they were shown to so far.
    pub fn tap(&mut self, tap: Option<Box<TapEnd>>) -> Option<Box<TapEnd>> {
        std::mem::replace(&mut self.tap, tap)
    }

    #[inline]
    pub(crate) fn watch(&mut self, burst: &[P::Rx]) {
        if let Some(t) = &mut self.tap {
            burst.iter().for_each(|p| t.received(p, self.now));
        }
    }

    /// Sends what is queued, as far as the port takes it.
    #[inline]
    pub(crate) fn transmit(&mut self) -> u32 {
        (match &mut self.tap {
            None => self.io.port.tx_burst(&mut self.io.q),
            Some(t) => t.send(&mut self.io.port, &mut self.io.q, self.now),
        }) as u32
    }
}
