//! Counts of what carries streams.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts of streams, for the nothing-lost line and telemetry. Bytes and pieces, since the start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct StreamCounters { $($(#[$doc])* pub $name: u64,)* }

        impl StreamCounters {
            /// Sum of both.
            #[must_use]
            pub fn and(&self, other: &StreamCounters) -> StreamCounters {
                StreamCounters { $($name: self.$name + other.$name,)* }
            }

            /// Every count by name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {

    /// Payload bytes that had to be copied on sending, though pages were given (unreachable memory, limits).
    tx_copied_bytes,
    /// Payload bytes below the attach threshold, copied into the header's buffer.
    tx_short_bytes,
    /// Payload bytes sent by reference.
    tx_attached_bytes,
    /// Packets joined into one buffer since the port takes no chains.
    linearised,
    /// Lendings made.
    lent,
    /// Lendings that are out now.
    lendings_out,
    /// Received fragments that applications hold now.
    rx_lent_out,
    /// Bytes of the receive pools in use, buffers posted to the NIC not counted.
    rx_pool_bytes_in_use,
    /// Bytes of the receive pools, the same buffers not counted.
    rx_pool_bytes,
    /// Harmless frames sent to make a driver let go of pages.
    nudges,
    /// Lendings given up as quarantined.
    quarantined,
    /// TCP segments sent again.
    retransmits,
    /// Connections open.
    conns,
    /// Messages that waited for a free lending.
    lend_waits,
    /// Times that connections had to wait to be accepted for want of descriptors or memory.
    accept_waits,
    /// Times that a connection was not read since its host held too much of the receive buffers.
    rx_host_waits,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::lnd::Counters;

    /// They are shown side by side, in JSON by name: of payload that LNet copied, the stack's copies of small pieces were shown.
    #[test]
    fn names_of_different_counts_differ() {
        let of_lnet: BTreeSet<_> = Counters::default().iter().map(|(k, _)| k).collect();
        let of_streams: BTreeSet<_> = StreamCounters::default().iter().map(|(k, _)| k).collect();
        let (mut of_stack, mut of_port) = (BTreeSet::new(), BTreeSet::new());
        tcpstack::config::Counters::default().each(|k, _| {
            of_stack.insert(k);
        });
        dataplane::pkt::PortCounters::default().each(&mut |k, _| {
            of_port.insert(k);
        });
        let same = |a: &BTreeSet<&'static str>, b: &BTreeSet<&'static str>| -> Vec<&'static str> {
            a.intersection(b).copied().collect()
        };
        let none: Vec<&str> = Vec::new();
        assert_eq!(same(&of_lnet, &of_streams), none);
        assert_eq!(same(&of_lnet, &of_stack), none);
        // The stack's own, taken over as they are.
        assert_eq!(same(&of_streams, &of_stack), ["tx_attached_bytes", "tx_copied_bytes", "tx_short_bytes"]);
        for others in [&of_lnet, &of_streams, &of_stack] {
            assert_eq!(same(&of_port, others), none);
        }
    }
}
