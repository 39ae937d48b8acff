//! Calls about pools and synchronous delivery, and about a machine that is furnished with them.

use transport::net::{
    Colour, Domain, Memory, NetError, PoolId, Provision, Queue, TmId, TmSetup, Unadded, Unregistered, Xprt,
};

use super::{Call, Tenant, What, gone, refused};
use crate::error::Error;

/// A transfer machine to be made.
pub(crate) struct Setup {
    pub(crate) name: Box<str>,
    pub(crate) pool: Option<Provisions>,
    pub(crate) colour: Colour,
    pub(crate) sync: bool,
    pub(crate) cpts: Option<u64>,
}

/// Its pool, by the program's name of it.
pub(crate) struct Provisions {
    pub(crate) pool: u64,
    pub(crate) min_size: u64,
    pub(crate) max_msgs: u32,
    pub(crate) min_queue: usize,
}

/// A question about a transfer machine.
#[derive(Clone, Copy)]
pub(crate) enum AskTm {
    /// Lets so many buffers wait for messages; the answer is the deficit.
    Length(usize),
    /// Buffers that its pool did not have.
    Deficit,
    /// Whether events wait.
    Pending,
    /// Delivers those; the answer is their number.
    Deliver,
    /// Answered when an event waits.
    Notify,
    /// A queue's counts, set to zero or not.
    Stats(Queue, bool),
}

/// A question about a pool.
#[derive(Clone, Copy)]
pub(crate) enum AskPool {
    /// Its free buffers.
    Len,
    /// One of them goes back to the program; the answer is 1, or 0.
    Get(Colour),
}

fn given_up(why: &str) -> Error {
    Error::new(libc::ECANCELED, why)
}

impl Tenant {
    /// Carries out a call that is not of the simplest machine's.
    pub(super) fn furnish<X: Xprt>(&mut self, net: &mut Domain<X>, call: Call) {
        match call {
            Call::Pool(name, threshold, colours) => {
                self.pools.insert(name, net.pool(threshold, colours));
            }
            Call::PoolPut { buf, pool, colour, mem } => {
                if let Err(e) = self.pool_put(net, buf, pool, colour, mem) {
                    self.say(buf, true, Err(e), What::Bytes { len: 0, offset: 0, from: None });
                }
            }
            // Its event tells, when no machine has it any more.
            Call::PoolFree(name) => {
                if let Some(pool) = self.pools.remove(&name) {
                    while self.take_out(net, pool, Colour::ANY, "its pool was freed") == Ok(true) {}
                    self.leaving_pools.push((name, pool));
                }
            }
            Call::AskPool(op, pool, ask) => {
                let answer = self.pools.get(&pool).copied().ok_or_else(|| gone("pool", pool));
                let answer = answer.and_then(|pool| match ask {
                    AskPool::Len => net.pool_len(pool).map(|n| n as u64).map_err(|e| refused(&e)),
                    AskPool::Get(colour) => self.take_out(net, pool, colour, TAKEN).map(u64::from),
                });
                self.count(op, answer);
            }
            Call::AskTm(op, tm, ask) => match self.tms.get(&tm).copied() {
                Some(tm) => self.ask_tm(net, op, tm, ask),
                None => self.count(op, Err(gone("transfer machine", tm))),
            },
            _ => {}
        }
    }

    fn count(&mut self, op: u64, answer: Result<u64, Error>) {
        let n = answer.as_ref().map_or(0, |n| *n);
        self.say(op, true, answer.map(drop), What::Count(n));
    }

    fn ask_tm<X: Xprt>(&mut self, net: &mut Domain<X>, op: u64, tm: TmId, ask: AskTm) {
        let wide = |n: Result<usize, NetError>| n.map(|n| n as u64);
        let answer = match ask {
            AskTm::Length(n) => net.pool_length(tm, n).and_then(|()| wide(net.deficit(tm))),
            AskTm::Deficit => wide(net.deficit(tm)),
            AskTm::Pending => net.pending(tm).map(u64::from),
            AskTm::Deliver => wide(net.deliver_all(tm)),
            AskTm::Notify => match net.notify(tm) {
                Ok(()) => return self.notified.push((tm, op)),
                Err(e) => return self.say(op, true, Err(refused(&e)), What::Pending),
            },
            AskTm::Stats(queue, reset) => match net.stats(tm, queue, reset) {
                Ok(stats) => return self.say(op, true, Ok(()), What::Stats(stats)),
                Err(e) => Err(e),
            },
        };
        self.count(op, answer.map_err(|e| refused(&e)));
    }

    /// Makes a transfer machine and starts it.
    pub(super) fn start<X: Xprt>(&self, net: &mut Domain<X>, setup: Setup) -> Result<TmId, Error> {
        let Setup { name, pool, colour, sync: synchronous, cpts } = setup;
        let provision = |p: Provisions| {
            let Provisions { pool, min_size, max_msgs, min_queue } = p;
            let pool = *self.pools.get(&pool).ok_or_else(|| gone("pool", pool))?;
            Ok::<_, Error>(Provision { pool, min_size, max_msgs, min_queue })
        };
        let pool = pool.map(provision).transpose()?;
        TmSetup { name, pool, colour, synchronous, cpts }.start(net).map_err(|e| refused(&e))
    }

    fn pool_put<X: Xprt>(
        &mut self,
        net: &mut Domain<X>,
        buf: u64,
        pool: u64,
        colour: Colour,
        mem: Memory,
    ) -> Result<(), Error> {
        let pool = *self.pools.get(&pool).ok_or_else(|| gone("pool", pool))?;
        let buffer = net.register(mem).map_err(|Unregistered { why, .. }| refused(&why))?;
        let id = buffer.id();
        if let Err(Unadded { why, buffer }) = net.pool_put(pool, colour, buffer) {
            let _ = net.deregister(buffer);
            return Err(refused(&why));
        }
        self.bufs.insert(buf, id);
        self.names.insert(id, buf);
        Ok(())
    }

    /// Takes a free buffer out of a pool, and gives its memory back; gives whether there was one.
    fn take_out<X: Xprt>(
        &mut self,
        net: &mut Domain<X>,
        pool: PoolId,
        colour: Colour,
        why: &str,
    ) -> Result<bool, Error> {
        let Some(buffer) = net.pool_get(pool, colour).map_err(|e| refused(&e))? else { return Ok(false) };
        let name = self.names.remove(&buffer.id());
        drop(net.deregister(buffer));
        if let Some(name) = name {
            self.bufs.remove(&name);
            self.say(name, true, Err(given_up(why)), What::Bytes { len: 0, offset: 0, from: None });
        }
        Ok(true)
    }

    /// Events of a machine wait, and whoever asked hears so.
    pub(super) fn pending(&mut self, tm: TmId) {
        self.notify(tm, || Ok(()));
    }

    /// Nobody who asked will hear of events that wait.
    pub(super) fn unnotified(&mut self, tm: TmId) {
        self.notify(tm, || Err(given_up("the transfer machine has come to its end")));
    }

    fn notify(&mut self, tm: TmId, status: impl Fn() -> Result<(), Error>) {
        let (of, others) = self.notified.drain(..).partition(|(t, _)| *t == tm);
        self.notified = others;
        let of: Vec<(TmId, u64)> = of;
        for (_, op) in of {
            self.say(op, true, status(), What::Pending);
        }
    }

    /// A pool has a buffer again, or few of them.
    pub(super) fn pool_says(&mut self, pool: PoolId, what: What) {
        let all = self.pools.iter().map(|(name, p)| (*name, *p)).chain(self.leaving_pools.iter().copied());
        let name = all.into_iter().find(|(_, p)| *p == pool).map(|(name, _)| name);
        if let Some(name) = name {
            self.say(name, false, Ok(()), what);
        }
    }

    /// Takes away the pools that were freed and that no machine has any more.
    pub(super) fn free_pools<X: Xprt>(&mut self, net: &mut Domain<X>) {
        let mut left = std::mem::take(&mut self.leaving_pools);
        left.retain(|(name, pool)| {
            let stays = net.pool_fini(*pool).is_err();
            if !stays {
                self.say(*name, true, Ok(()), What::PoolGone);
            }
            stays
        });
        self.leaving_pools = left;
    }
}

/// Reason why a buffer ended that the program took out.
const TAKEN: &str = "it was taken out of its pool";
