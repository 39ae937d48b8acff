//! States of a transfer machine (docs/protocol/netxprt.md §3.1).
//!
//! ```text
//!              Init                Start             Started            Stop              Stopped
//!   UNDEFINED ------> INITIALIZED -------> STARTING ---------> STARTED ------> STOPPING ---------> STOPPED
//!    ^  ^  ^           |      |                | |                |                |                  |
//!    |  |  |           |      '----- Stop -----+-+----------------+--------------> |                  |
//!    |  |  '--- Fini --'                       |                  |                |                  |
//!    |  |                                      '------ Fail ------+---- Fail ------'                  |
//!    |  |                                                         v                                   |
//!    |  '-------------------------- Fini ---------------------- FAILED                                |
//!    '----------------------------- Fini -------------------------------------------------------------'
//! ```
//!
//! STARTING: Stop leads to STOPPING. STOPPING drains: it lasts until no queue has a buffer and every event was taken.

fsm::fsm! {
    /// State of a transfer machine, by Motr's numbers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum TmState {
        /// It is none.
        Undefined,
        /// It may be furnished, and started.
        Initialized,
        /// The transport gets ready.
        Starting,
        /// Buffers may be added.
        Started,
        /// Queued buffers come to their ends.
        Stopping,
        /// It has come to its end.
        Stopped,
        /// It could not be started, or not go on.
        Failed
    }

    /// Events of a transfer machine.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum TmInput {
        /// It is made.
        Init,
        /// It is to be started.
        Start,
        /// The transport is ready.
        Started,
        /// The transport cannot.
        Fail,
        /// It is to be stopped.
        Stop,
        /// The transport has let go.
        Stopped,
        /// It is taken away.
        Fini,
    }

    table TmState + TmInput {
        start Undefined;
        else "refused with EINVAL, or too late";
        Undefined + Init => Initialized;
        Initialized + Start => Starting;
        Starting + Started => Started;
        Starting | Started | Stopping + Fail => Failed;
        Initialized | Starting | Started + Stop => Stopping;
        Stopping + Stopped => Stopped;
        Initialized | Stopped | Failed + Fini => Undefined;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<TmState>(), @r"
        Undefined + Init -> Initialized
        Initialized + Start -> Starting
        Initialized + Stop -> Stopping
        Initialized + Fini -> Undefined
        Starting + Started -> Started
        Starting + Fail -> Failed
        Starting + Stop -> Stopping
        Started + Fail -> Failed
        Started + Stop -> Stopping
        Stopping + Fail -> Failed
        Stopping + Stopped -> Stopped
        Stopped + Fini -> Undefined
        Failed + Fini -> Undefined
        otherwise: refused with EINVAL, or too late
        ");
    }

    #[test]
    fn numbers_are_motrs() {
        assert_eq!((TmState::Undefined as u8, TmState::Started as u8, TmState::Failed as u8), (0, 3, 6));
    }
}
