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
    tx_inline_bytes,
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
