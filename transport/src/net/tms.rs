//! The life of a domain's transfer machines (docs/protocol/netxprt.md §3).

use super::domain::Domain;
use super::machine::{TmInput, TmState};
use super::rows::{Below, Hold, Tm};
use super::{EpId, Event, NetError, Queue, QueueStats, TmId, Xprt};

impl<X: Xprt> Domain<X> {
    /// A new transfer machine, INITIALIZED.
    pub fn tm_init(&mut self) -> TmId {
        let mut tm = Tm::new();
        tm.state.apply(TmInput::Init);
        TmId(self.tms.insert(tm))
    }

    /// Its state; UNDEFINED for one that is gone.
    pub fn state(&self, tm: TmId) -> TmState {
        self.tms.get(tm.0).map_or(TmState::Undefined, |t| t.state.get())
    }

    /// A machine in one of these states.
    pub(super) fn tm_in(
        &mut self,
        tm: TmId,
        call: &'static str,
        states: &[TmState],
        wanted: &'static str,
    ) -> Result<&mut Tm, NetError> {
        let t = self.tms.get_mut(tm.0).ok_or(NetError::Gone("a transfer machine"))?;
        let state = t.state.get();
        if states.contains(&state) { Ok(t) } else { Err(NetError::State { call, state, wanted }) }
    }

    /// Wants the machine served by one of the CPTs of a mask, which is what its domain's shard must be of.
    ///
    /// # Errors
    /// The shard is of none of them, or the machine is not just initialised.
    pub fn confine(&mut self, tm: TmId, cpts: u64) -> Result<(), NetError> {
        let cpt = self.cpt;
        self.tm_in(tm, "confine", &[TmState::Initialized], "one that is initialised only")?;
        let here = 1u64.checked_shl(cpt).unwrap_or(0);
        if cpts & here != 0 { Ok(()) } else { Err(NetError::Cpt(cpt)) }
    }

    /// Starts a machine at a name, which may end in `*`. Once it is started, or has failed, an event says so.
    ///
    /// # Errors
    /// It is not just initialised; or it has failed at once, and no event follows.
    pub fn start(&mut self, tm: TmId, name: &str) -> Result<(), NetError> {
        let now = self.now;
        let t = self.tm_in(tm, "start", &[TmState::Initialized], "one that is initialised only")?;
        t.state.apply(TmInput::Start);
        t.below = Below::Yes;
        let started = self.xprt.start(now, tm, name);
        if started.is_err()
            && let Some(t) = self.tms.get_mut(tm.0)
        {
            t.state.apply(TmInput::Fail);
            t.below = Below::No;
        }
        self.settle();
        started
    }

    /// Stops a machine. With `abort` its buffers are given up; else it is stopped when they have ended by themselves, or were
    /// given up. An event says so, behind those of its buffers.
    ///
    /// # Errors
    /// It is neither initialised nor started.
    pub fn stop(&mut self, tm: TmId, abort: bool) -> Result<(), NetError> {
        use TmState::{Initialized, Started, Starting};
        let t = self.tm_in(tm, "stop", &[Initialized, Starting, Started], "one that runs")?;
        t.state.apply(TmInput::Stop);
        self.stopping += 1;
        // Nobody need ask for the events that wait.
        self.flush_pending(tm.0);
        if abort {
            self.del_all(tm.0);
        }
        self.settle();
        Ok(())
    }

    /// Takes a machine away.
    ///
    /// # Errors
    /// It runs, or has events that were not taken, buffers or end-points.
    pub fn tm_fini(&mut self, tm: TmId) -> Result<(), NetError> {
        use TmState::{Failed, Initialized, Stopped};
        self.release();
        let t = self.tm_in(tm, "fini", &[Initialized, Stopped, Failed], "one that is stopped")?;
        let (callbacks, queued, own) = (t.callbacks, t.all_queued(), t.ep);
        let others = t.eps - usize::from(own.is_some());
        let busy = |what, count, remedy| Err(NetError::Busy { what, count, remedy });
        if callbacks > 0 {
            return busy("events are", callbacks, "take them");
        }
        if queued > 0 {
            return busy("buffers are", queued, "take their events");
        }
        let more = own.and_then(|e| self.eps.get(e)).map_or(0, |e| e.refs.saturating_sub(1));
        if others > 0 || more > 0 {
            return busy("end-points are", others + more as usize, "give their references back");
        }
        if let Some(ep) = own {
            self.put_ep(ep);
        }
        if let Some(mut t) = self.tms.remove(tm.0) {
            t.state.apply(TmInput::Fini);
        }
        Ok(())
    }

    /// The statistics of a queue, set to zero if `reset`.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn stats(&mut self, tm: TmId, queue: Queue, reset: bool) -> Result<QueueStats, NetError> {
        let t = self.tms.get_mut(tm.0).ok_or(NetError::Gone("a transfer machine"))?;
        let stats = t.stats_mut(queue);
        Ok(if reset { std::mem::take(stats) } else { *stats })
    }

    /// The transport is ready, unless a stop came before.
    pub(super) fn started(&mut self, tm: TmId, addr: X::Addr) {
        let on = self.tms.get_mut(tm.0).is_some_and(|t| t.state.apply(TmInput::Started).is_some());
        if !on {
            return;
        }
        let ep = self.find_ep(tm.0, addr, None);
        if let Some(t) = self.tms.get_mut(tm.0) {
            t.ep = Some(ep);
        }
        self.tell_state(tm, 0, Some(EpId(ep)));
    }

    /// It has come to its end.
    pub(super) fn ends(&mut self, tm: TmId, input: TmInput, status: i32) {
        let Some(t) = self.tms.get_mut(tm.0) else { return };
        let stopping = t.state == TmState::Stopping;
        if t.state.apply(input).is_some() {
            t.below = Below::No;
            self.stopping -= usize::from(stopping);
            self.flush_pending(tm.0);
            self.tell_state(tm, status, None);
        }
    }

    fn tell_state(&mut self, tm: TmId, status: i32, ep: Option<EpId>) {
        let (state, time) = (self.state(tm), self.now);
        let hold = Hold { tm: Some(tm.0), provision: state == TmState::Started, ..Hold::NOTHING };
        self.tell(Event::State { tm, state, status, ep, time }, hold);
    }

    /// Stops machines that have nothing left; gives whether there was one.
    pub(super) fn drained(&mut self) -> bool {
        let mut any = false;
        for i in 0..self.tms.capacity() {
            let Some(key) = self.tms.key_at(i) else { continue };
            let Some(t) = self.tms.get_mut(key) else { continue };
            if t.state != TmState::Stopping || t.all_queued() > 0 || t.callbacks > 0 {
                continue;
            }
            match t.below {
                Below::Yes => {
                    t.below = Below::Leaving;
                    self.xprt.stop(self.now, TmId(key));
                }
                Below::No => self.ends(TmId(key), TmInput::Stopped, 0),
                Below::Leaving => continue,
            }
            any = true;
        }
        any
    }
}
