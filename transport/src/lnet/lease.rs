//! A router buffer that a message holds (`buffers.rs`), wherever it goes: whose it is, and what it counts as there.

use super::class::BufferClass;
use crate::lnd::budget::{Room, Uses};
use crate::lnd::counters::MsgType;
use crate::lnd::{NIS_MAX, NiId};
use crate::stream::Bucket;
use crate::stream::slab::Key;
use crate::wire::ProcessId;

/// The account that a message's buffer is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Charge {
    /// One of its source's own.
    Own,
    /// The same, and its next hop had no connection.
    NoConn,
    /// One beside those.
    Beside,
}

/// The network that a message goes to, by the place of its first NI, and what its buffer counts as: in a byte, since each connection
/// has room for what a message holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat(u8);

const _: () = assert!(NIS_MAX <= 16);

impl Seat {
    /// One of the source's own.
    pub(super) fn own(out: u8) -> Seat {
        Seat(out & 15)
    }

    /// The network.
    pub(super) fn out(self) -> u8 {
        self.0 & 15
    }

    /// The account that the buffer is on.
    pub(super) fn charge(self) -> Charge {
        match self.0 >> 4 {
            0 => Charge::Own,
            1 => Charge::NoConn,
            _ => Charge::Beside,
        }
    }

    /// It counts as that from now on.
    pub(super) fn set(&mut self, charge: Charge) {
        self.0 = self.out() | (charge as u8) << 4;
    }
}

/// A router buffer that a message holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lease {
    /// The NI that it came by.
    pub(super) ni: NiId,
    /// The one that it is for.
    pub(super) to: ProcessId,
    /// The message's type, and its payload in bytes.
    pub(super) kind: MsgType,
    pub(super) len: u32,
    /// Time at which what its sender left is over, in ns, if that has gone.
    pub(super) over: u64,
    /// The network that it goes to, and what it counts as at its source's.
    pub(super) seat: Seat,
    /// The connection's, whose home has the buffer.
    pub(super) bucket: Bucket,
    /// The peer that sent it, and its entry there, if it has not moved.
    pub(super) peer: ProcessId,
    pub(super) key: Key,
}

/// A router buffer on its way home.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Returned {
    pub(super) lease: Lease,
    /// Its message was dropped: the NI and the peer that it came from have that counted when the buffer is home.
    pub(super) dropped: bool,
}

impl From<Lease> for Returned {
    fn from(lease: Lease) -> Returned {
        Returned { lease, dropped: false }
    }
}

impl Lease {
    /// The class of the buffer.
    pub(super) fn class(&self) -> BufferClass {
        BufferClass::of(self.len)
    }

    pub(super) fn room(&self) -> Room {
        Room { buffers: 1, bytes: self.len.into() }
    }

    pub(super) fn uses(&self) -> Uses {
        Uses { buffers: 1, bytes: self.len.into(), ..Uses::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_a_network_and_a_charge() {
        for out in 0..NIS_MAX as u8 {
            let mut seat = Seat::own(out);
            assert_eq!((seat.out(), seat.charge()), (out, Charge::Own));
            for charge in [Charge::NoConn, Charge::Beside, Charge::Own] {
                seat.set(charge);
                assert_eq!((seat.out(), seat.charge()), (out, charge));
            }
        }
    }
}
