//! What carries a machine's streams: the seam between protocol and wire.

use crate::proto::{Close, ConnId, DialSpec, Input, LendId, SendMsg};

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

/// Counts of a runtime, for the nothing-lost line and telemetry. Bytes and pieces, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RtCounters {
    /// Payload bytes that had to be copied on sending, though pages were given (unreachable memory, limits).
    pub tx_copied_bytes: u64,
    /// Payload bytes below the attach threshold, copied into the header's buffer.
    pub tx_inline_bytes: u64,
    /// Payload bytes sent by reference.
    pub tx_attached_bytes: u64,
    /// Packets joined into one buffer since the port takes no chains.
    pub linearised: u64,
    /// Lendings made.
    pub lent: u64,
    /// Lendings that are out now.
    pub lendings_out: u64,
    /// Received fragments that applications hold now.
    pub rx_lent_out: u64,
    /// Receive buffers in use, those posted to the NIC not counted.
    pub rx_bufs_in_use: u64,
    /// Harmless frames sent to make a driver let go of pages.
    pub nudges: u64,
    /// Lendings given up as quarantined.
    pub quarantined: u64,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// Connections open.
    pub conns: u64,
    /// Messages that waited for a free lending.
    pub lend_waits: u64,
}

/// Streams of one lcore. Implemented over DPDK queues, kernel sockets and the simulated network.
pub trait Runtime {
    /// The time in ns.
    fn now(&self) -> u64;

    /// Starts a connection. Exactly one [`Input::Opened`] or [`Input::DialFailed`] with this id follows.
    fn dial(&mut self, d: &DialSpec);

    /// Does something to a stream. Commands for streams that have gone are dropped (their lends come home all
    /// the same).
    fn command(&mut self, c: ConnId, cmd: StreamCmd);

    /// Receives, runs timers, and tells what happened: all `Progress` before any `Bytes`.
    fn turn(&mut self, sink: &mut dyn FnMut(Input<'_>)) -> Work;

    /// Sends what was commanded since the last turn.
    fn flush(&mut self) -> Work;

    /// When [`Runtime::turn`] wants to be called next if nothing arrives, in ns.
    fn deadline(&self) -> Option<u64>;

    /// Waits for something to arrive, until `until` (ns) at the latest. Runtimes that can only poll return at
    /// once.
    fn wait(&mut self, until: Option<u64>);

    /// Counts.
    fn counters(&self) -> RtCounters;
}
