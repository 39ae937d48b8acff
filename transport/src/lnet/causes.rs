//! Causes of failures, and the health of an NI, as they are counted and shown (docs/protocol/upper.md §3).

use crate::lnd::{Counters, LnetError};

/// Value of an NI without failures.
pub const BEST: u16 = 1000;
/// Cause of a message's failure, as kernels tell them apart, in the order of
/// [`HEALTH_ERRORS`](super::faults::HEALTH_ERRORS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The NI was interrupted.
    LocalInterrupt,
    /// The NI dropped it.
    LocalDropped,
    /// The NI gave it up.
    LocalAborted,
    /// The NI knew no way.
    LocalNoRoute,
    /// It was on its way when its connection died.
    LocalError,
    /// It waited too long at the NI.
    LocalTimeout,
    /// The peer failed it.
    RemoteError,
    /// It never left: the peer refused, was not reachable, or reset the connection that it was queued on.
    RemoteDropped,
    /// The peer was too slow.
    RemoteTimeout,
    /// Too slow was the peer, or what lies between.
    NetworkTimeout,
}

impl Cause {
    /// All of them.
    pub const ALL: [Cause; 10] = [
        Cause::LocalInterrupt,
        Cause::LocalDropped,
        Cause::LocalAborted,
        Cause::LocalNoRoute,
        Cause::LocalError,
        Cause::LocalTimeout,
        Cause::RemoteError,
        Cause::RemoteDropped,
        Cause::RemoteTimeout,
        Cause::NetworkTimeout,
    ];

    /// Whether it counts against the own NI; else it does against the peer's.
    pub fn is_local(self) -> bool {
        (self as usize) <= Cause::LocalTimeout as usize
    }

    /// Whether a message that ends so may be sent again: it has not left.
    pub(super) fn may_resend(self) -> bool {
        self.is_local() && self != Cause::LocalError || self == Cause::RemoteDropped
    }

    /// The cause of a message that has not left; `None` where nobody is to blame.
    pub(super) fn unsent(why: LnetError) -> Option<Cause> {
        match why {
            LnetError::Refused | LnetError::Unreachable | LnetError::ConnLost => Some(Cause::RemoteDropped),
            // Kernels blame the own NI. But what it waited for was this peer alone.
            LnetError::TimedOut => Some(Cause::NetworkTimeout),
            _ => None,
        }
    }

    /// The cause of a message that was on its way.
    pub(super) fn died(why: LnetError) -> Option<Cause> {
        match why {
            LnetError::ConnLost => Some(Cause::LocalError),
            LnetError::TimedOut => Some(Cause::NetworkTimeout),
            _ => None,
        }
    }

    pub(super) fn count(self, c: &mut Counters) {
        *match self {
            Cause::LocalInterrupt => &mut c.local_interrupt_count,
            Cause::LocalDropped => &mut c.local_dropped_count,
            Cause::LocalAborted => &mut c.local_aborted_count,
            Cause::LocalNoRoute => &mut c.local_no_route_count,
            Cause::LocalError => &mut c.local_error_count,
            Cause::LocalTimeout => &mut c.local_timeout_count,
            Cause::RemoteError => &mut c.remote_error_count,
            Cause::RemoteDropped => &mut c.remote_dropped_count,
            Cause::RemoteTimeout => &mut c.remote_timeout_count,
            Cause::NetworkTimeout => &mut c.network_timeout_count,
        } += 1;
    }
}

/// Failures by cause, in the order of [`Cause::ALL`].
pub type Causes = [u64; Cause::ALL.len()];

/// Health of an own NI, on one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NiHealth {
    /// From 0 to [`BEST`].
    pub value: u16,
    /// Its port has no link: it is not chosen, and peers hear that it is down.
    pub fatal: bool,
    /// Failures of messages by it on this shard.
    pub causes: Causes,
}

impl Default for NiHealth {
    fn default() -> NiHealth {
        NiHealth { value: BEST, fatal: false, causes: Causes::default() }
    }
}

impl NiHealth {
    /// Health of the same NI on both of two shards.
    #[must_use]
    pub fn and(mut self, other: &NiHealth) -> NiHealth {
        self.value = self.value.min(other.value);
        self.fatal |= other.fatal;
        self.causes.iter_mut().zip(other.causes).for_each(|(n, m)| *n += m);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lnet::faults::HEALTH_ERRORS;

    #[test]
    fn causes_have_the_names_of_health_errors() {
        for (cause, (name, _)) in Cause::ALL.into_iter().zip(HEALTH_ERRORS) {
            let mut c = Counters::default();
            cause.count(&mut c);
            let counted: Vec<_> = c.iter().filter(|n| n.1 == 1).map(|n| n.0).collect();
            assert_eq!(counted, [format!("{name}_count")]);
            assert_eq!(cause.is_local(), name.starts_with("local_"));
            assert_eq!(Cause::ALL[cause as usize], cause);
        }
        let again: Vec<_> = Cause::ALL.into_iter().filter(|c| !c.may_resend()).collect();
        use Cause::*;
        assert_eq!(again, [LocalError, RemoteError, RemoteTimeout, NetworkTimeout]);
    }
}
