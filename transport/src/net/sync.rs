//! Synchronous delivery: a machine's events wait until they are asked for (docs/protocol/netxprt.md §5.9). It is the domain's,
//! so it works over every transport.

use super::domain::Domain;
use super::rows::Hold;
use super::{Event, NetError, TmId, TmState, Xprt};
use crate::stream::slab::Key;

const SYNC: &str = "synchronous delivery";

impl<X: Xprt> Domain<X> {
    /// From its start on, events of the machine's buffers are delivered when they are asked for.
    ///
    /// # Errors
    /// It is not just initialised.
    pub fn deliver_synchronously(&mut self, tm: TmId) -> Result<(), NetError> {
        self.tm_in(tm, SYNC, &[TmState::Initialized], "one that is initialised only")?.sync = true;
        Ok(())
    }

    /// Whether events wait to be asked for.
    ///
    /// # Errors
    /// The machine is not started.
    pub fn pending(&mut self, tm: TmId) -> Result<bool, NetError> {
        let t = self.tm_in(tm, SYNC, &[TmState::Started], "one that is started")?;
        Ok(!t.pending.is_empty())
    }

    /// Delivers the events that wait; gives their number.
    ///
    /// # Errors
    /// The machine is not started.
    pub fn deliver_all(&mut self, tm: TmId) -> Result<usize, NetError> {
        self.tm_in(tm, SYNC, &[TmState::Started], "one that is started")?;
        Ok(self.flush_pending(tm.0))
    }

    /// Says [`Event::Pending`] once, when an event waits.
    ///
    /// # Errors
    /// The machine is not started, or its events do not wait.
    pub fn notify(&mut self, tm: TmId) -> Result<(), NetError> {
        let t = self.tm_in(tm, SYNC, &[TmState::Started], "one that is started")?;
        if !t.sync {
            let (call, state) = ("notify", t.state.get());
            return Err(NetError::State { call, state, wanted: "a machine with synchronous delivery" });
        }
        t.notify = true;
        self.tell_pending(tm.0);
        Ok(())
    }

    /// Tells whoever asked that an event waits.
    pub(super) fn tell_pending(&mut self, tm: Key) {
        if let Some(t) = self.tms.get_mut(tm)
            && !t.pending.is_empty()
            && std::mem::take(&mut t.notify)
        {
            self.events.push_back((Event::Pending(TmId(tm)), Hold::NOTHING));
        }
    }

    /// Delivers what waits; gives the number.
    pub(super) fn flush_pending(&mut self, tm: Key) -> usize {
        let Some(t) = self.tms.get_mut(tm) else { return 0 };
        let n = t.pending.len();
        self.events.extend(t.pending.drain(..).map(|(event, hold)| (Event::Buffer(event), hold)));
        n
    }
}
