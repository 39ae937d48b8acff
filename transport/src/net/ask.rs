//! Calls of a thread that wait for their results. Whatever else comes meanwhile is kept, in order, for
//! [`NetHandle::wait`] and [`NetHandle::heard`].

use std::time::Duration;

use super::{
    Added, Call, EpId, Event, Heard, Memory, NetError, NetHandle, Request, TmId, TmSetup, TmState, Unadded,
    Unregistered,
};

/// Pause of a thread that finds the ring of calls full.
const FULL: Duration = Duration::from_micros(50);
/// Tag of the calls that are made here.
const OWN: u64 = u64::MAX;

/// A call that was asked, and has no good result.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The domain has ended.
    #[error("the domain has ended with its node: start another one")]
    Ended,
    /// The call has no result to wait for.
    #[error("{0:?} has no result to wait for: use NetHandle::call")]
    Silent(Box<Call>),
    /// A call under the same tag was under way, and this is its result.
    #[error(
        "{0:?} is another call's result: give each call that is under way a tag of its own, below 2^64 - 1"
    )]
    Another(Box<Heard>),
    /// It was refused.
    #[error(transparent)]
    Refused(#[from] NetError),
    /// The memory was not registered, and is here.
    #[error("{}", .0.why)]
    Unregistered(Box<Unregistered>),
    /// The buffer was not queued, and is here.
    #[error("{}", .0.why)]
    Unadded(Box<Unadded>),
    /// The transfer machine failed before it was started.
    #[error("the transfer machine failed with error {0} before it was started")]
    Failed(i32),
}

impl NetHandle {
    /// Calls, and waits for the result. Not for a thread that turns the domain's shard itself.
    ///
    /// # Errors
    /// The call has no result ([`Call::tag`]), or the domain has ended.
    pub fn ask(&self, mut call: Call) -> Result<Heard, AskError> {
        let Some(tag) = call.tag() else { return Err(AskError::Silent(Box::new(call))) };
        while let Err(back) = self.call(call) {
            call = back;
            if self.ended() {
                return Err(AskError::Ended);
            }
            // It is looked at again once there is room for events.
            match self.rings.event() {
                Some(heard) => self.keep(heard),
                None => std::thread::sleep(FULL),
            }
        }
        self.hear(|heard| heard.tag() == Some(tag))
    }

    /// Starts a transfer machine at a name, and waits until it is started.
    ///
    /// # Errors
    /// It was refused, or has failed; nothing of it is left. Or the domain has ended.
    pub fn start(&self, name: &str) -> Result<TmId, AskError> {
        self.start_with(TmSetup::new(name))
    }

    /// The same with a pool, with synchronous delivery, or of certain CPTs.
    ///
    /// # Errors
    /// As [`NetHandle::start`].
    pub fn start_with(&self, setup: TmSetup) -> Result<TmId, AskError> {
        let tm = match self.ask(Call::StartWith(OWN, Box::new(setup)))? {
            Heard::Machine(_, made) => made?,
            other => return Err(AskError::Another(Box::new(other))),
        };
        let of = |heard: &Heard| matches!(heard, Heard::Event(Event::State { tm: of, .. }) if *of == tm);
        match self.hear(of)? {
            Heard::Event(Event::State { state: TmState::Started, .. }) => Ok(tm),
            Heard::Event(Event::State { status, .. }) => {
                self.ask(Call::Fini(OWN, tm))?;
                Err(AskError::Failed(status))
            }
            other => Err(AskError::Another(Box::new(other))),
        }
    }

    /// The end-point of a name, with a reference ([`Call::EpPut`]).
    ///
    /// # Errors
    /// It was refused, or the domain has ended.
    pub fn end_point(&self, tm: TmId, name: &str) -> Result<EpId, AskError> {
        match self.ask(Call::EpCreate(OWN, tm, name.into()))? {
            Heard::EndPoint(_, made) => Ok(made?),
            other => Err(AskError::Another(Box::new(other))),
        }
    }

    /// Registers memory and queues it. The buffer comes with its last event; it may be queued again ([`Call::Add`]), or its
    /// memory taken back ([`Call::Deregister`]).
    ///
    /// # Errors
    /// It was refused, and the memory or the buffer is in the error; or the domain has ended.
    pub fn add(&self, tm: TmId, mem: Memory, req: Request) -> Result<Added, AskError> {
        let buffer = match self.ask(Call::Register(OWN, mem))? {
            Heard::Registered(_, made) => made.map_err(|u| AskError::Unregistered(Box::new(u)))?,
            other => return Err(AskError::Another(Box::new(other))),
        };
        match self.ask(Call::Add(OWN, tm, buffer, req, None))? {
            Heard::Added(_, added) => added.map_err(|u| AskError::Unadded(Box::new(u))),
            other => Err(AskError::Another(Box::new(other))),
        }
    }

    /// Waits for what is wanted, and keeps all that comes before it.
    fn hear(&self, wanted: impl Fn(&Heard) -> bool) -> Result<Heard, AskError> {
        loop {
            let heard = self.bell.wait(None, || self.rings.event()).ok_or(AskError::Ended)?;
            if wanted(&heard) {
                return Ok(heard);
            }
            self.keep(heard);
        }
    }

    fn keep(&self, heard: Heard) {
        self.kept.borrow_mut().push_back(heard);
    }
}
