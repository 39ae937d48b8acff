//! Statistics of the node since they were last reset.

use std::sync::{Mutex, PoisonError};

use crate::lnetctl::shown::NodeStats;

/// The counts of a node when they were last reset.
#[derive(Debug, Default)]
pub(super) struct Baseline(Mutex<NodeStats>);

impl Baseline {
    /// Counts begin at 0 now.
    pub(super) fn reset(&self, now: NodeStats) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// The counts since then; what is so now, or was at most, stays.
    pub(super) fn since(&self, now: NodeStats) -> NodeStats {
        let was = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let grown = |get: fn(&NodeStats) -> u64| get(&now).saturating_sub(get(&was));
        NodeStats {
            msgs_alloc: now.msgs_alloc,
            msgs_max: now.msgs_max,
            rst_alloc: now.rst_alloc,
            errors: grown(|s| s.errors),
            send_count: grown(|s| s.send_count),
            resend_count: grown(|s| s.resend_count),
            response_timeout_count: grown(|s| s.response_timeout_count),
            local_interrupt_count: grown(|s| s.local_interrupt_count),
            local_dropped_count: grown(|s| s.local_dropped_count),
            local_aborted_count: grown(|s| s.local_aborted_count),
            local_no_route_count: grown(|s| s.local_no_route_count),
            local_timeout_count: grown(|s| s.local_timeout_count),
            local_error_count: grown(|s| s.local_error_count),
            remote_dropped_count: grown(|s| s.remote_dropped_count),
            remote_error_count: grown(|s| s.remote_error_count),
            remote_timeout_count: grown(|s| s.remote_timeout_count),
            network_timeout_count: grown(|s| s.network_timeout_count),
            failed_resends: grown(|s| s.failed_resends),
            successful_resends: grown(|s| s.successful_resends),
            recv_count: grown(|s| s.recv_count),
            route_count: grown(|s| s.route_count),
            drop_count: grown(|s| s.drop_count),
            send_length: grown(|s| s.send_length),
            recv_length: grown(|s| s.recv_length),
            route_length: grown(|s| s.route_length),
            drop_length: grown(|s| s.drop_length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_before_a_reset_is_not_counted() {
        let base = Baseline::default();
        let then = NodeStats { send_count: 7, send_length: 70, msgs_max: 3, ..NodeStats::default() };
        assert_eq!(base.since(then), then);
        base.reset(then);
        let now = NodeStats { send_count: 9, send_length: 75, msgs_max: 4, recv_count: 2, ..then };
        let since = NodeStats { send_count: 2, send_length: 5, ..now };
        assert_eq!(base.since(now), since);
    }
}
