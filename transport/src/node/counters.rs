//! Counts of what carries streams.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts of streams, for the nothing-lost line and telemetry. Bytes and pieces, since the start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct StreamCounters {
            $($(#[$doc])* pub $name: u64,)*
            /// TCP segments sent again; `None` over kernel sockets: a kernel counts them of each connection, while it has that.
            pub retransmits: Option<u64>,
        }

        impl StreamCounters {
            /// Sum of both.
            #[must_use]
            pub fn and(&self, other: &StreamCounters) -> StreamCounters {
                let resent = [self.retransmits, other.retransmits];
                StreamCounters {
                    $($name: self.$name + other.$name,)*
                    retransmits: resent.into_iter().flatten().reduce(|a, b| a + b),
                }
            }

            /// Every count that is known, by name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                let known = [$((stringify!($name), self.$name),)*];
                known.into_iter().chain(self.retransmits.map(|n| ("retransmits", n)))
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
    /// Connections open.
    conns,
    /// Messages that waited for a free lending.
    lend_waits,
    /// Times that connections had to wait to be accepted for want of descriptors or memory.
    accept_waits,
    /// Times that a connection was not read since its host held too much of the receive buffers.
    rx_host_waits,
}

/// Counts that are the TCP stack's, taken over under its names: what tells of both leaves out the stack's.
pub(super) const OF_STACK: [&str; 3] = ["tx_attached_bytes", "tx_copied_bytes", "tx_short_bytes"];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::lnd::Counters;

    /// A kernel's connections have resent nobody knows how much: that is no 0.
    #[test]
    fn what_is_not_known_is_not_told() {
        let told = |c: StreamCounters| c.iter().find(|(k, _)| *k == "retransmits");
        let [none, three] =
            [None, Some(3)].map(|retransmits| StreamCounters { retransmits, ..StreamCounters::default() });
        assert_eq!((told(none), told(none.and(&none))), (None, None));
        assert_eq!(told(none.and(&three).and(&three)), Some(("retransmits", 6)));
    }

    /// They are shown side by side, in JSON by name: of payload that LNet copied, the stack's copies of small pieces were shown.
    #[test]
    fn names_of_different_counts_differ() {
        let of_lnet: BTreeSet<_> = Counters::default().iter().map(|(k, _)| k).collect();
        let streams = StreamCounters { retransmits: Some(0), ..StreamCounters::default() };
        let of_streams: BTreeSet<_> = streams.iter().map(|(k, _)| k).collect();
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
        assert_eq!(same(&of_streams, &of_stack), OF_STACK);
        for others in [&of_lnet, &of_streams, &of_stack] {
            assert_eq!(same(&of_port, others), none);
        }
    }
}
