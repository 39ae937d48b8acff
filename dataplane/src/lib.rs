//! NIC queues, as a TCP stack sees them, and what stands behind.
//!
//! * [`pkt`]: the seam. Received packets, packets to be sent, ports and what they can do. No DPDK.
//! * [`mem`]: a port pair of plain memory.
//! * [`fault`] and [`capture`]: wrappers round any port that lose, delay, double, reorder and corrupt packets,
//!   and that write pcap files.
//! * [`link`]: ports joined by a network with rate, queue, delay, loss and outages, in virtual time.
//! * [`steer`]: which of a port's queues a connection's packets come to.
//! * [`stdio`]: whether the process has a standard output.
//! * [`doctor`]: what the machine has and lacks for a node.
#![cfg_attr(feature = "lcore", doc = "* [`cpt`], [`lcore`]: CPU partitions and pinned polling threads.")]
#![cfg_attr(feature = "dpdk", doc = "* [`dpdk`]: the EAL, ethdev ports, mempools.")]

pub mod capture;
pub mod clock;
#[cfg(feature = "lcore")]
pub mod cpt;
pub mod doctor;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod fault;
mod forward;
pub mod latefree;
#[cfg(feature = "lcore")]
pub mod lcore;
pub mod link;
pub mod mem;
pub mod pkt;
pub mod stdio;
pub mod steer;
#[cfg(feature = "dpdk")]
mod sync;
pub mod tap;
mod whole;

pub use hugepages;
