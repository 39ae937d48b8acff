//! A connection of the model kernel (docs/protocol/socklnd.md §2.6, §2.7).
//!
//! ```text
//!       Accepted          Requested        Agreed
//!  NEW ----------> REQUEST ----------> HELLO -----.
//!   |                 |                  |        v
//!   |                 | Close            | Close  UP
//!   |                 v                  v        |
//!   |               CLOSED <----------------------'
//!   |                 ^              Close
//!   | Connected       | Close
//!   '--------------> REPLY -------> UP
//!                            Agreed
//! ```

use super::Conn;

fsm::fsm! {
    /// States of the connection.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum State {
        /// Nobody has said who dialled.
        New,
        /// Ours: the request is to come.
        Request,
        /// Ours: the HELLO is to come.
        Hello,
        /// Its own: connected, our answer is to come.
        Reply,
        /// Messages flow.
        Up,
        /// The kernel has closed it.
        Closed,
    }

    /// Events of the connection.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Move {
        /// We dialled.
        Accepted,
        /// It dialled, and TCP is connected.
        Connected,
        /// Our request has come.
        Requested,
        /// The HELLOs agree.
        Agreed,
        /// The kernel closes it.
        Close,
    }

    table State + Move {
        start New;
        else "the model is wrong";
        New + Accepted => Request;
        New + Connected => Reply;
        Request + Requested => Hello;
        Hello | Reply + Agreed => Up;
        Request | Hello | Reply | Up + Close => Closed;
    }
}

impl Conn {
    /// Goes through the table.
    pub(super) fn moves(&mut self, by: Move) {
        let from = self.state;
        assert!(
            self.state.apply(by).is_some(),
            "the model kernel's connection {}: {from:?} + {by:?}",
            self.link
        );
    }
}

#[cfg(test)]
mod tests {
    use super::State;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<State>(), @r"
        New + Accepted -> Request
        New + Connected -> Reply
        Request + Requested -> Hello
        Request + Close -> Closed
        Hello + Agreed -> Up
        Hello + Close -> Closed
        Reply + Agreed -> Up
        Reply + Close -> Closed
        Up + Close -> Closed
        otherwise: the model is wrong
        ");
    }
}
