//! A machine of the transport, and names that say whose a dial or a loan is.
//!
//! ```text
//!             Listens           Leave
//!   OPENING ----------> UP -------------> LEAVING     it has stopped, failed, or lost its address, and goes when its
//!      |                                     ^        connections and buffers have
//!      '--------------- Leave ---------------'
//! ```

use std::net::SocketAddr;

use fsm::Fsm;

use crate::net::TmId;
use crate::netsock::Tm;
use crate::stream::slab::{Key, Slab};
use crate::wire::netsock::Name;

fsm::fsm! {
    /// State of a machine of the transport.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum MemberState {
        /// Its node is asked to listen.
        Opening,
        /// Peers can reach it.
        Up,
        /// Its buffers and connections come to their end.
        Leaving,
    }

    /// Events of it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum MemberEvent {
        /// Its node listens.
        Listens,
        /// It is stopped, or cannot go on.
        Leave,
    }

    table MemberState + MemberEvent {
        start Opening;
        else "nothing changes";
        Opening + Listens => Up;
        Opening | Up + Leave => Leaving;
    }
}

/// A machine.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) tm: TmId,
    pub(super) machine: Tm,
    /// Address that its node listens at for it.
    pub(super) at: SocketAddr,
    /// The name that it was started at.
    pub(super) name: Name,
    pub(super) state: Fsm<MemberState>,
    /// The domain waits for its end.
    pub(super) stopped: bool,
    /// It stands among those that may want something done.
    pub(super) listed: bool,
}

impl Member {
    pub(super) fn new(tm: TmId, machine: Tm, at: SocketAddr, name: Name) -> Member {
        Member { tm, machine, at, name, state: Fsm::START, stopped: false, listed: false }
    }
}

/// Names for what machines have named themselves, below 2^44.
///
/// ```text
///   20 bits: user of the place   24: place
/// ```
#[derive(Debug)]
pub(super) struct Names(Slab<(Key, u64)>);

const PLACE_BITS: u32 = 24;
const USER_BITS: u32 = 20;

fn word(key: Key) -> u64 {
    let user = u64::from(key.generation) & ((1 << USER_BITS) - 1);
    user << PLACE_BITS | u64::from(key.index) & ((1 << PLACE_BITS) - 1)
}

impl Default for Names {
    fn default() -> Names {
        Names(Slab::new())
    }
}

impl Names {
    /// A name for what a machine calls `own`.
    pub(super) fn give(&mut self, machine: Key, own: u64) -> u64 {
        word(self.0.insert((machine, own)))
    }

    /// The machine of a name, and what it called it. The name may be given again.
    pub(super) fn take(&mut self, name: u64) -> Option<(Key, u64)> {
        let key = self.0.key_at((name & ((1 << PLACE_BITS) - 1)) as usize)?;
        if word(key) == name { self.0.remove(key) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<MemberState>(), @r"
        Opening + Listens -> Up
        Opening + Leave -> Leaving
        Up + Leave -> Leaving
        otherwise: nothing changes
        ");
    }

    #[test]
    fn a_name_is_good_once() {
        let (mut names, m) = (Names::default(), Key { index: 1, generation: 2 });
        let [a, b] = [7, 8].map(|own| names.give(m, own));
        assert_eq!((names.take(a), names.take(a)), (Some((m, 7)), None));
        let again = names.give(m, 9);
        assert!(again != a && again != b && again < 1 << 44);
        assert_eq!((names.take(a), names.take(again), names.take(b)), (None, Some((m, 9)), Some((m, 8))));
    }
}
