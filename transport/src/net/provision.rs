//! Pools in a domain, and receive queues that they keep filled (docs/protocol/netxprt.md §6).

use super::domain::Domain;
use super::pool::Pool;
use super::rows::Hold;
use super::{Buffer, Colour, Event, NetError, PoolId, Queue, Request, TmId, TmState, Unadded, Xprt};
use crate::stream::slab::Key;

/// Fewest buffers that a machine with a pool has queued for messages.
const MIN_QUEUE: usize = 2;
/// Buffers that a machine takes beyond its queue's length when a message finds none.
const MORE: usize = 2;

/// A machine's pool.
#[derive(Clone, Copy, Debug)]
pub struct Provision {
    /// The pool.
    pub pool: PoolId,
    /// As [`Request::MsgRecv`] has it.
    pub min_size: u64,
    /// As [`Request::MsgRecv`] has it.
    pub max_msgs: u32,
    /// Buffers that wait for messages; 2 at least.
    pub min_queue: usize,
}

impl<X: Xprt> Domain<X> {
    /// Makes a pool without buffers. Below `threshold` free ones it says so; its buffers have `colours` colours, 1024
    /// at most: one beyond them is none.
    pub fn pool(&mut self, threshold: usize, colours: u32) -> PoolId {
        PoolId(self.pools.insert(Pool::new(threshold, colours)))
    }

    /// Free buffers of a pool.
    ///
    /// # Errors
    /// There is no such pool.
    pub fn pool_len(&self, pool: PoolId) -> Result<usize, NetError> {
        self.pools.get(pool.0).map(Pool::len).ok_or(NetError::Pool)
    }

    /// Puts a buffer into a pool; machines that have too few get it at once.
    ///
    /// # Errors
    /// There is no such pool, or the buffer is another domain's; it comes back.
    #[expect(clippy::result_large_err, reason = "the buffer itself comes back, unboxed")]
    pub fn pool_put(&mut self, pool: PoolId, colour: Colour, buffer: Buffer) -> Result<(), Unadded> {
        if !self.owns(&buffer) {
            return Err(Unadded { why: NetError::Gone("a buffer"), buffer });
        }
        let Some(p) = self.pools.get_mut(pool.0) else { return Err(Unadded { why: NetError::Pool, buffer }) };
        if p.put(colour, buffer) {
            self.tell(Event::NotEmpty(pool), Hold::NOTHING);
        }
        for i in 0..self.tms.capacity() {
            let Some(tm) = self.tms.key_at(i) else { continue };
            let short = self.tms.get(tm).is_some_and(|t| t.deficit > 0);
            if short && self.tms.get(tm).and_then(|t| t.provision).is_some_and(|p| p.pool == pool) {
                self.provision(tm);
            }
        }
        self.settle();
        Ok(())
    }

    /// Takes a buffer out of a pool.
    ///
    /// # Errors
    /// There is no such pool.
    pub fn pool_get(&mut self, pool: PoolId, colour: Colour) -> Result<Option<Buffer>, NetError> {
        let p = self.pools.get_mut(pool.0).ok_or(NetError::Pool)?;
        let Some((buffer, below)) = p.get(colour) else { return Ok(None) };
        if below {
            self.tell(Event::BelowThreshold(pool), Hold::NOTHING);
        }
        Ok(Some(buffer))
    }

    /// Takes a pool away that no machine has and that is empty.
    ///
    /// # Errors
    /// It is not so, or there is no such pool.
    pub fn pool_fini(&mut self, pool: PoolId) -> Result<(), NetError> {
        let count = self.pool_len(pool)?;
        if count > 0 {
            let remedy = "take them out and deregister them";
            return Err(NetError::Busy { what: "buffers of the pool are", count, remedy });
        }
        let users = self.tms.keys();
        let count = users
            .filter(|t| self.tms.get(*t).and_then(|t| t.provision).is_some_and(|p| p.pool == pool))
            .count();
        if count > 0 {
            let remedy = "stop them and take them away";
            return Err(NetError::Busy { what: "transfer machines with the pool are", count, remedy });
        }
        self.pools.remove(pool.0);
        Ok(())
    }

    /// Gives a machine a pool, from which it fills its queue for messages as long as it is started.
    ///
    /// # Errors
    /// It is not just initialised, or there is no such pool.
    pub fn attach_pool(&mut self, tm: TmId, provision: Provision) -> Result<(), NetError> {
        self.pool_len(provision.pool)?;
        if provision.max_msgs == 0 {
            return Err(NetError::NoMessages);
        }
        let t = self.tm_in(tm, "a pool", &[TmState::Initialized], "one that is initialised only")?;
        t.provision = Some(Provision { min_queue: provision.min_queue.max(MIN_QUEUE), ..provision });
        Ok(())
    }

    /// Changes how many buffers of a machine wait for messages.
    ///
    /// # Errors
    /// It has no pool, or is gone.
    pub fn pool_length(&mut self, tm: TmId, min_queue: usize) -> Result<(), NetError> {
        let t = self.tms.get_mut(tm.0).ok_or(NetError::Gone("a transfer machine"))?;
        t.provision.as_mut().ok_or(NetError::Pool)?.min_queue = min_queue.max(MIN_QUEUE);
        self.provision(tm.0);
        self.settle();
        Ok(())
    }

    /// Gives a machine's buffers a colour.
    ///
    /// # Errors
    /// It is gone.
    pub fn colour(&mut self, tm: TmId, colour: Colour) -> Result<(), NetError> {
        self.tms.get_mut(tm.0).ok_or(NetError::Gone("a transfer machine"))?.colour = colour;
        Ok(())
    }

    /// Buffers for messages that a machine's pool did not have.
    ///
    /// # Errors
    /// It is gone.
    pub fn deficit(&self, tm: TmId) -> Result<usize, NetError> {
        Ok(self.tms.get(tm.0).ok_or(NetError::Gone("a transfer machine"))?.deficit)
    }

    /// The pool of a machine that is started, and its colour.
    fn provision_of(&self, tm: Key) -> Option<(Provision, Colour)> {
        let t = self.tms.get(tm).filter(|t| t.state == TmState::Started)?;
        Some((t.provision?, t.colour))
    }

    /// Queues a buffer of a machine's pool for messages; `false` when there is none.
    fn take_from(&mut self, tm: Key, (p, colour): (Provision, Colour)) -> bool {
        let Ok(Some(buffer)) = self.pool_get(p.pool, colour) else { return false };
        let req = Request::MsgRecv { min_size: p.min_size, max_msgs: p.max_msgs };
        let Err(Unadded { buffer, .. }) = self.admit(tm, buffer, &req, None, Some(p.pool)) else {
            return true;
        };
        if let Some(pool) = self.pools.get_mut(p.pool.0) {
            pool.put(colour, buffer);
        }
        false
    }

    /// A message found no buffer, though the queue may be as long as it should: those that are being filled count.
    pub(super) fn feed(&mut self, tm: Key) {
        let Some(of) = self.provision_of(tm) else { return };
        for _ in 0..MORE {
            if !self.take_from(tm, of) {
                return;
            }
        }
    }

    /// Fills a machine's queue for messages.
    pub(super) fn provision(&mut self, tm: Key) {
        let Some((p, colour)) = self.provision_of(tm) else { return };
        let have = |d: &Self| d.tms.get(tm).map_or(0, |t| t.queued(Queue::MsgRecv));
        while have(self) < p.min_queue && self.take_from(tm, (p, colour)) {}
        let deficit = p.min_queue.saturating_sub(have(self));
        if let Some(t) = self.tms.get_mut(tm) {
            t.stats_mut(Queue::MsgRecv).failures += deficit.saturating_sub(t.deficit) as u64;
            t.deficit = deficit;
        }
    }
}
