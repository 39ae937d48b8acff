//! What carries a machine's streams: the seam between protocol and wire.

use dataplane::tap::TapEnd;
use tcpstack::SiblingMsg;

use super::counters::RtCounters;
use super::desk::Page;
use super::moving::Mover;
use crate::lnd::{AppId, Tcp};
use crate::lnet::{Event, ShardMsg};
use crate::node::{Input, MsgBox};
use crate::stream::{Close, ConnId, DialSpec, LendId, SendMsg, ShardId};

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// So many things were done; come back at once.
    Busy(u32),
    /// Nothing to do now.
    Idle,
}

impl Work {
    /// Of two turns' work, all of it.
    #[must_use]
    pub fn and(self, other: Work) -> Work {
        match (self, other) {
            (Work::Busy(a), Work::Busy(b)) => Work::Busy(a.saturating_add(b)),
            (Work::Idle, w) | (w, Work::Idle) => w,
        }
    }

    /// Whether there was any.
    pub fn is_busy(self) -> bool {
        matches!(self, Work::Busy(_))
    }

    /// `Busy(n)`, or `Idle` for 0.
    pub fn of(n: usize) -> Work {
        if n == 0 { Work::Idle } else { Work::Busy(u32::try_from(n).unwrap_or(u32::MAX)) }
    }
}

/// What a stream is asked to do. The same four whether the flow's owner is this lcore or another.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are messages; a box each would be an allocation each"
)]
pub enum StreamCmd {
    /// Push a message.
    Send(SendMsg),
    /// Lift the hold on a lend.
    Unhold(LendId),
    /// The machine takes bytes again.
    Read,
    /// Close.
    Close(Close),
}

/// Streams of one lcore. Implemented over DPDK queues, kernel sockets and the simulated network.
pub trait Runtime {
    /// The time in ns.
    fn now(&self) -> u64;

    /// Starts a connection. Exactly one [`Happened::Opened`](crate::stream::Happened::Opened) or [`Happened::DialFailed`](crate::stream::Happened::DialFailed) with this id follows.
    fn dial(&mut self, d: &DialSpec);

    /// Pushes a message on a stream: [`StreamCmd::Send`] by itself, which moves it less often.
    fn send(&mut self, c: ConnId, m: SendMsg);

    /// Does something to a stream. Commands for streams that have gone are dropped (their lends come home all
    /// the same).
    fn command(&mut self, c: ConnId, cmd: StreamCmd);

    /// Sends a message to another shard's machine. A node of one shard has nobody to send to.
    fn post(&mut self, to: ShardId, m: ShardMsg) {
        debug_assert!(false, "a node of one shard posted to {to:?}");
        drop(m);
    }

    /// Gives a box to the other lcores of the CPT; gives it back where there are none, or they have enough.
    fn offer(&mut self, b: MsgBox) -> Option<MsgBox> {
        Some(b)
    }

    /// Sends an event to the shard where its application lives.
    fn post_event(&mut self, to: ShardId, app: AppId, ev: Event) {
        debug_assert!(false, "a node of one shard has {app:?} on {to:?}");
        drop(ev);
    }

    /// The next event that another shard sent here.
    fn posted_event(&mut self) -> Option<(AppId, Event)> {
        None
    }

    /// Receives, runs timers, and tells what happened: all `Progress` before any `Bytes`.
    fn turn(&mut self, sink: &mut dyn FnMut(Input<'_>)) -> Work;

    /// Sends what was commanded since the last turn.
    fn flush(&mut self) -> Work;

    /// When [`Runtime::turn`] wants to be called next if nothing arrives, in ns.
    fn deadline(&self) -> Option<u64>;

    /// Waits for something to arrive, until `until` (ns) at the latest. Runtimes that can only poll return at
    /// once.
    fn wait(&mut self, until: Option<u64>);

    /// Ends every stream at once, as far as peers can still be told: for a runtime that will not be turned again.
    /// One whose streams end with it has nothing to do.
    fn abort_all(&mut self) {}

    /// Takes in what is to be true of connections that are made from now on. One that makes none has nothing to do.
    fn tune(&mut self, _: &Tcp) {}

    /// Whether it has streams of its own, not those of other lcores alone.
    fn owns_streams(&self) -> bool {
        true
    }

    /// What moves peers to other shards, where there are any.
    fn mover(&mut self) -> Option<&mut dyn Mover> {
        None
    }

    /// Whether no other shard needs this one any more: it has no stream of theirs, and no peers are on their way.
    fn settled(&self) -> bool {
        true
    }

    /// A queue of the same port, and what its stack should hear ([`tcpstack::Stack::tell`]).
    fn tell(&mut self) -> Option<(u16, SiblingMsg)> {
        None
    }

    /// Takes in what the stack of another queue told.
    fn hear(&mut self, _: SiblingMsg) {}

    /// Counts.
    fn counters(&self) -> RtCounters;

    /// Adds a page of connections, for somebody who looks at the node ([`super::desk`]).
    fn look(&mut self, page: &mut Page) {
        page.from = None;
    }

    /// Names and values of what else is counted, for the same.
    fn details(&self, _: &mut dyn FnMut(&'static str, u64)) {}

    /// Shows packets to `tap`, or to nobody; returns whom they were shown to so far, or `tap` where there are no
    /// packets to show.
    fn tap(&mut self, tap: Option<Box<TapEnd>>) -> Option<Box<TapEnd>> {
        tap
    }
}
