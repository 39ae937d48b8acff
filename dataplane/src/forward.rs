//! Calls that a wrapper round a port leaves to the port inside.

/// The named methods of [`crate::pkt::Port`], answered by the port in a field.
macro_rules! forward_port {
    ($inner:ident: $($method:ident),+) => { $(forward_port!(@ $inner $method);)+ };
    (@ $i:ident caps) => {
        fn caps(&self) -> &$crate::pkt::PortCaps { self.$i.caps() }
    };
    (@ $i:ident tx_alloc) => {
        fn tx_alloc(&mut self) -> Option<Self::Tx> { self.$i.tx_alloc() }
    };
    (@ $i:ident tx_burst) => {
        fn tx_burst(&mut self, q: &mut std::collections::VecDeque<Self::Tx>) -> usize { self.$i.tx_burst(q) }
    };
    (@ $i:ident reclaim) => {
        fn reclaim(&mut self, want: u32) -> $crate::pkt::Reclaimed { self.$i.reclaim(want) }
    };
    (@ $i:ident nap) => {
        fn nap(&mut self, nap: $crate::pkt::Nap) { self.$i.nap(nap) }
    };
    (@ $i:ident arm) => {
        fn arm(&mut self) -> $crate::pkt::Armed { self.$i.arm() }
    };
    (@ $i:ident home) => {
        fn home(&self) -> &hugepages::RxHome { self.$i.home() }
    };
    (@ $i:ident rx_memory) => {
        fn rx_memory(&self) -> (u64, u64) { self.$i.rx_memory() }
    };
    (@ $i:ident link_up) => {
        fn link_up(&self) -> bool { self.$i.link_up() }
    };
    (@ $i:ident counters) => {
        fn counters(&self) -> $crate::pkt::PortCounters { self.$i.counters() }
    };
}

pub(crate) use forward_port;
