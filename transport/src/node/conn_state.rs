//! State of a connection, as its machine has been told of it: the same over a TCP stack and over a kernel socket. News that
//! wait to be told (bytes, a FIN, an end) are the owner's own.
//!
//! ```text
//!              Opened         Fin
//!    DIALLING ───────> OPEN ────────> FIN_TOLD     Fin: the peer sends no more, and all that it sent was taken
//!                       │ │ Last         ^ ^       Last: it sends no more, and not all was taken
//!                       │ '──> LAST_TOLD─┘ │       End: the peer is gone, and not all was taken
//!                       │ End   │ End      │ Fin   Close: by the machine, which is told the end alone from then on
//!                       '───────┴──> END_TOLD
//!
//!    OPEN, LAST_TOLD, FIN_TOLD, END_TOLD: Close / CLOSING
//! ```

fsm::fsm! {
    /// State of a connection.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum ConnState {
        /// TCP is connecting: the machine knows the dial alone.
        Dialling,
        /// It is open.
        Open,
        /// The machine knows that the peer sends no more than what is here.
        LastTold,
        /// The machine knows that the peer sends no more, and has it all.
        FinTold,
        /// The machine knows that the peer is gone, and may still take bytes.
        EndTold,
        /// The machine has closed it, and takes nothing more.
        Closing,
    }

    /// Events of a connection.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum ConnEvent {
        /// TCP is connected.
        Opened,
        /// The peer sends no more, and not all that it sent was taken.
        Last,
        /// The peer sends no more, and all that it sent was taken.
        Fin,
        /// The peer is gone, and not all that it sent was taken.
        End,
        /// The machine closes it.
        Close,
    }

    table ConnState + ConnEvent {
        start Dialling;
        else "nothing is told";
        Dialling + Opened => Open;
        Open + Last => LastTold;
        Open | LastTold | EndTold + Fin => FinTold;
        Open | LastTold + End => EndTold;
        Open | LastTold | FinTold | EndTold + Close => Closing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<ConnState>(), @r"
        Dialling + Opened -> Open
        Open + Last -> LastTold
        Open + Fin -> FinTold
        Open + End -> EndTold
        Open + Close -> Closing
        LastTold + Fin -> FinTold
        LastTold + End -> EndTold
        LastTold + Close -> Closing
        FinTold + Close -> Closing
        EndTold + Fin -> FinTold
        EndTold + Close -> Closing
        otherwise: nothing is told
        ");
    }
}
