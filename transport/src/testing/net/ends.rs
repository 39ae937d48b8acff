//! An end of a connection: its machine's view of it, and its TCP's.
//!
//! ```text
//!         Close             Told             Forget
//!  OPEN ---------> CLOSING -------> ENDED ----------> GONE
//!   | | |             |               ^                ^ ^
//!   | | '--- Reset ---|---------------'                | |
//!   | '----- Forget --|--------------------------------' |
//!   |                 | Forget                           |
//!   |                 v                                  |
//!   '------ Kill --> LOST -------------------------------'
//!                                  Told
//! ```
//!
//! In GONE and LOST the TCP has forgotten the connection, and resets whoever sends to it.

use fsm::Fsm;

fsm::fsm! {
    /// States of an end.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum EndState {
        /// The machine uses it.
        Open,
        /// The machine has closed it and was not told yet that it is closed.
        Closing,
        /// The machine was told; the TCP sends what is left.
        Ended,
        /// The TCP has forgotten it, and the machine was not told.
        Lost,
        /// The TCP has forgotten it, and the machine was told.
        Gone,
    }

    /// Events of an end.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum EndEvent {
        /// The machine closes it.
        Close,
        /// The machine is to be told that what it closed is closed.
        Told,
        /// A RST has come from the other end.
        Reset,
        /// The TCP forgets it.
        Forget,
        /// The process ends.
        Kill,
    }

    /// Consequences for the machine.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum EndAction {
        /// Nothing.
        None,
        /// It is told that the connection is closed.
        Tell,
    }

    table EndState + EndEvent => EndAction {
        start Open;
        else "nothing changes";
        Open + Close => Closing, None;
        Open + Reset => Ended, Tell;
        Open + Forget => Gone, Tell;
        Open + Kill => Lost, None;
        Closing + Told => Ended, Tell;
        Closing + Forget => Lost, None;
        Ended + Forget => Gone, None;
        Lost + Told => Gone, Tell;
    }
}

/// The state of an end that is made.
pub(super) const OPEN: Fsm<EndState> = Fsm::START;

#[cfg(test)]
mod tests {
    use super::EndState;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<EndState>(), @r"
        Open + Close -> Closing, None
        Open + Reset -> Ended, Tell
        Open + Forget -> Gone, Tell
        Open + Kill -> Lost, None
        Closing + Told -> Ended, Tell
        Closing + Forget -> Lost, None
        Ended + Forget -> Gone, None
        Lost + Told -> Gone, Tell
        otherwise: nothing changes
        ");
    }
}
