//! Whether a node routes (docs/protocol/upper.md §1.4): its states, orders about it, and what shards tell each other.
//!
//! ```text
//!         Enable               Due
//!   OFF ---------> STARTING ---------> ON
//!    ^ ^  Disable   |    ^              |
//!    | '------------'    | Enable       | Disable
//!    |                   |              v
//!    '--------------- STOPPING <--------'
//!         Free, Due
//! ```
//!
//! | state | messages are passed on | ping info says RTE_DISABLED |
//! |---|---|---|
//! | OFF, STARTING | no | yes |
//! | ON | yes | no, and each peer is pushed that |
//! | STOPPING | yes | yes; peers learn it when they ask |
//!
//! STARTING lasts until each user has checked this router once more, and so does STOPPING at least: then until all buffers are
//! free, or three times as long.

use super::buffers::{BufferClass, BuffersView};
use crate::lnd::{NIS_MAX, NiId};

fsm::fsm! {
    /// Whether a node routes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum RoutingState {
        /// It does not.
        Off,
        /// It will, once its users have looked again.
        Starting,
        /// It does.
        On,
        /// It does still, and its users may learn that it will not.
        Stopping,
    }

    /// Causes of change.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Step {
        /// It is to route.
        Enable,
        /// It is not to.
        Disable,
        /// The state's time is over.
        Due,
        /// Its time is over that it lasts at least, and no message is on its way through.
        Free,
    }

    /// Actions on a transition.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Act {
        /// Our info is another, and peers are told.
        Push,
        /// Our info is another, or the same; nobody is told.
        Say,
    }

    table RoutingState + Step => Act {
        start Off;
        else "nothing changes";
        Off | Stopping + Enable => Starting, Say;
        Starting + Due => On, Push;
        Starting + Disable => Off, Say;
        On + Disable => Stopping, Say;
        Stopping + Free | Due => Off, Say;
    }
}

impl RoutingState {
    /// The number that `lnetctl routing show` has for it.
    pub fn number(self) -> u32 {
        match self {
            RoutingState::Off => 0,
            RoutingState::On => 1,
            RoutingState::Stopping => 2,
            RoutingState::Starting => 3,
        }
    }

    pub(super) fn forwards(self) -> bool {
        matches!(self, RoutingState::On | RoutingState::Stopping)
    }

    /// Whether it routes, or is about to.
    pub(super) fn goes_on(self) -> bool {
        matches!(self, RoutingState::On | RoutingState::Starting)
    }
}

/// An order about routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutingAsk {
    /// Begin to route.
    Enable,
    /// Cease to.
    Disable,
    /// So many buffers of the class, over the node; 0 for a kernel's number. Those that are too many vanish when they come home.
    Buffers(BufferClass, u32),
}

/// Routing of a shard, as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutingView {
    /// Whether the node routes.
    pub state: RoutingState,
    /// Buffers of the node that were asked for, by class.
    pub asked: [u32; 3],
    /// Buffers of the shard, by class.
    pub buffers: [BuffersView; 3],
}

impl RoutingView {
    /// Of a shard that has not been asked.
    pub const NONE: RoutingView = RoutingView {
        state: RoutingState::Off,
        asked: [0; 3],
        buffers: [BuffersView { buffers: 0, wanted: 0, credits: 0, least_credits: 0 }; 3],
    };
}

/// NIs, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NiSet(u16);

const _: () = assert!(NIS_MAX <= u16::BITS as usize);

impl NiSet {
    pub(super) fn of(ni: NiId) -> NiSet {
        NiSet(1u16.checked_shl(ni.0.into()).unwrap_or(0))
    }

    pub(super) fn has(self, ni: NiId) -> bool {
        self.0 & NiSet::of(ni).0 != 0
    }

    pub(super) fn and(self, o: NiSet) -> NiSet {
        NiSet(self.0 | o.0)
    }

    pub(super) fn without(self, o: NiSet) -> NiSet {
        NiSet(self.0 & !o.0)
    }
}

/// Time at which each NI last received, in ns; 0 where that is not known.
pub(crate) type HeardAt = [u64; NIS_MAX];

/// Routing as the whole node knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(super) state: RoutingState,
    /// NIs of networks that are silent.
    pub(super) down: NiSet,
    /// Buffers of the node that are asked for, by class.
    pub(super) asked: [u32; 3],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<RoutingState>(), @r"
        Off + Enable -> Starting, Say
        Starting + Disable -> Off, Say
        Starting + Due -> On, Push
        On + Disable -> Stopping, Say
        Stopping + Enable -> Starting, Say
        Stopping + Due -> Off, Say
        Stopping + Free -> Off, Say
        otherwise: nothing changes
        ");
    }
}
