//! Packet buffers and ports: what a TCP stack sees of a NIC queue pair.
//!
//! Nothing here knows DPDK. A port's packets are `!Send`: they live and die on the lcore that polls the port.
//!
//! ```
//! use std::collections::VecDeque;
//! use std::sync::Arc;
//! use dataplane::mem::{MemConfig, pair};
//! use dataplane::pkt::{Port, RxPkt, TxMeta, TxPkt};
//! use hugepages::{LendSlab, PageRunMut, PrivatePages};
//!
//! let (mut a, mut b) = pair(&MemConfig::default());
//! let slab = LendSlab::new(4);
//! let pages = slab.lend(PageRunMut::new(Arc::new(PrivatePages), 4096)?.freeze().slice_all(), 1)?;
//!
//! let mut p = a.tx_alloc().ok_or("no buffer")?;
//! p.copy_in(b"headers")?;
//! p.attach(&pages)?; // by reference
//! a.tx_burst(&mut VecDeque::from([p.finish(TxMeta::default())]));
//!
//! let mut got = Default::default();
//! b.rx_burst(&mut got);
//! let mut payload = 0;
//! got.remove(0).frags(7, 4096, &mut |f| payload += f.len()); // split by reference
//! assert_eq!(payload, 4096);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use arrayvec::ArrayVec;
use hugepages::{BackingKind, Io, Lent, RxFrag, RxHome};

use crate::steer::Steering;

/// Most packets that one receive burst brings.
pub const RX_BURST: usize = 32;

/// Room for copied bytes (headers and small payload) in a transmit packet's first buffer, in bytes.
pub const TX_HEAD_ROOM: usize = 2048;

/// The port's verdict on a received packet's TCP checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Csum {
    /// Verified by the device.
    Good,
    /// Wrong: drop and count.
    Bad,
    /// Not looked at: verify in software.
    #[default]
    None,
    /// The sender left it partial (it never crossed a wire): accept.
    Partial,
}

/// Metadata of a received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RxMeta {
    /// TCP checksum.
    pub csum: Csum,
    /// Segment size that a coalesced packet (LRO) was made of, in bytes; 0 when it is a plain one.
    pub lro_segsz: u16,
    /// RSS hash, or 0.
    pub hash: u32,
    /// VLAN id that the device stripped.
    pub vlan: Option<u16>,
    /// Pool memory behind the packet, in bytes.
    pub truesize: u32,
}

/// Meaning of the TCP checksum field of a packet to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TxCsum {
    /// Complete; the device leaves it alone.
    #[default]
    Done,
    /// Holds the pseudo-header sum (without the length when `segsz` is set); the device completes it, and the
    /// IPv4 header's, too.
    Offload,
}

/// Metadata of a packet to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TxMeta {
    /// Length of the link header, in bytes.
    pub l2: u8,
    /// Length of the IP header, in bytes.
    pub l3: u8,
    /// Length of the TCP header, in bytes.
    pub l4: u8,
    /// Segment size for TSO in payload bytes; 0 when the packet goes out as it is.
    pub segsz: u16,
    /// TCP checksum.
    pub csum: TxCsum,
    /// IPv6 rather than IPv4.
    pub v6: bool,
    /// VLAN id for the device to insert; only where [`PortCaps::vlan_insert`] says so.
    pub vlan: Option<u16>,
}

/// Memory that the device behind a port can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Any memory of this process (the port copies).
    Any,
    /// Memory of the EAL with a valid I/O address.
    Eal,
    /// No external memory at all: everything is copied.
    None,
}

impl Reach {
    /// Whether memory there may be attached.
    pub fn covers(self, io: Io) -> bool {
        match self {
            Reach::Any => true,
            Reach::Eal => io.kind == BackingKind::Eal && io.iova != hugepages::BAD_IOVA,
            Reach::None => false,
        }
    }
}

/// Capabilities of a port, negotiated when it was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortCaps {
    /// Name, as DPDK or the test gave it.
    pub name: String,
    /// Ethernet address.
    pub mac: [u8; 6],
    /// Largest IP packet, in bytes, link header not counted.
    pub mtu: u16,
    /// Largest IP packet handed over for TSO, in bytes; 0 when the port cannot segment.
    pub tso_max: u32,
    /// Most buffers in one packet to be sent, the header's included.
    pub max_segs: u16,
    /// The device completes TCP and IPv4 checksums ([`TxCsum::Offload`]).
    pub tx_csum: bool,
    /// The device judges TCP checksums of received packets.
    pub rx_csum: bool,
    /// The device may hand over coalesced packets.
    pub lro: bool,
    /// The device inserts VLAN tags.
    pub vlan_insert: bool,
    /// The device strips VLAN tags.
    pub vlan_strip: bool,
    /// External memory that may be attached.
    pub reach: Reach,
    /// Number of this queue among the port's, and the packets that come to it.
    pub steering: Steering,
}

/// Bytes that did not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the packet's first buffer has no room for the bytes")]
pub struct Full;

/// Errors of attaching pages. The caller copies them and counts, or refuses the operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The device cannot read this memory.
    #[error("port {port} cannot reach {kind:?} memory: allocate the pages from the EAL")]
    Unreachable {
        /// Port name.
        port: String,
        /// Kind of memory of the pages.
        kind: BackingKind,
    },
    /// The packet has as many buffers as the device takes.
    #[error("the packet already has {max} buffers")]
    Segments {
        /// The limit.
        max: u16,
    },
    /// The NIC holds too many references on these pages.
    #[error(transparent)]
    Count(#[from] hugepages::AttachRefused),
    /// The window is of more than one received piece.
    #[error("the bytes do not lie together: attach them piece by piece")]
    Scattered,
    /// No mbuf was left for the attachment.
    #[error("no buffer left to attach pages with")]
    NoBuffer,
}

/// A received packet.
pub trait RxPkt: Sized {
    /// The first buffer. Ethernet, IP and TCP headers are contiguous in it (up to 128 bytes).
    fn head(&self) -> &[u8];
    /// The first buffer, to change headers in place. Payload is not written through it.
    fn head_mut(&mut self) -> &mut [u8];
    /// Length of the whole packet in bytes.
    fn len(&self) -> u32;
    /// Whether the packet is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Metadata from the device.
    fn meta(&self) -> RxMeta;
    /// Shows all bytes in order, buffer by buffer (checksums, captures).
    fn for_each(&self, f: &mut dyn FnMut(&[u8]));
    /// Takes the packet apart: the `len` bytes from `off` go to `out` by reference, in order; the rest is freed.
    fn frags(self, off: u32, len: u32, out: &mut dyn FnMut(RxFrag));
}

/// A packet to be sent: a first buffer with copied bytes, then attached pages.
pub trait TxPkt: Sized {
    /// The bytes copied so far.
    fn head_mut(&mut self) -> &mut [u8];
    /// Appends bytes to the first buffer. Only before the first `attach`.
    ///
    /// # Errors
    /// [`Full`] beyond [`TX_HEAD_ROOM`]; nothing was copied then.
    fn copy_in(&mut self, b: &[u8]) -> Result<(), Full>;
    /// Appends the window of `s`, whose bytes lie together, by reference. On an error nothing was appended.
    ///
    /// # Errors
    /// [`AttachError`] says why; the packet is as before.
    fn attach(&mut self, s: &Lent) -> Result<(), AttachError>;
    /// Length of the whole packet in bytes.
    fn len(&self) -> u32;
    /// Whether the packet is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Shows all bytes in order (software checksums, captures).
    fn for_each(&self, f: &mut dyn FnMut(&[u8]));
    /// Sets what the device has to know.
    fn finish(self, m: TxMeta) -> Self;
    /// Metadata that `finish` set.
    fn tx_meta(&self) -> TxMeta;
}

/// Result of [`Port::reclaim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reclaimed {
    /// The driver let this many buffers go.
    Freed(u32),
    /// The driver holds nothing.
    Clean,
    /// The driver frees only when something is sent: send one harmless frame.
    Nudge,
}

/// Counts of one queue pair since the port was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets that the receiver had no buffer for.
    pub rx_nombuf: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets dropped on sending (malformed for the device).
    pub tx_dropped: u64,
    /// Packets that the driver refused as they were: they were sent another way, or dropped.
    pub tx_refused: u64,
    /// Frames dropped since the kernel below the port had joined or cut them.
    pub rx_cut: u64,
    /// Payload pieces attached by reference.
    pub tx_attached: u64,
    /// Packets whose buffers had to be joined into one.
    pub linearised: u64,
    /// `tx_alloc` calls that found no buffer.
    pub tx_nombuf: u64,
    /// Times that the lcore slept, or was about to.
    pub naps: u64,
    /// Packets that a capture file had no room for.
    pub capture_lost: u64,
    /// Times that the port was stopped and started, so that its driver let go of sent pages.
    pub restarts: u64,
    /// Times that it did not start.
    pub failed_starts: u64,
}

impl PortCounters {
    /// Names and values, for telemetry; each begins with `port_`.
    pub fn each(&self, f: &mut dyn FnMut(&'static str, u64)) {
        for (name, n) in [
            ("port_rx_packets", self.rx_packets),
            ("port_rx_bytes", self.rx_bytes),
            ("port_rx_nombuf", self.rx_nombuf),
            ("port_tx_packets", self.tx_packets),
            ("port_tx_bytes", self.tx_bytes),
            ("port_tx_dropped", self.tx_dropped),
            ("port_tx_refused", self.tx_refused),
            ("port_rx_cut", self.rx_cut),
            ("port_tx_attached", self.tx_attached),
            ("port_linearised", self.linearised),
            ("port_tx_nombuf", self.tx_nombuf),
            ("port_naps", self.naps),
            ("port_capture_lost", self.capture_lost),
            ("port_restarts", self.restarts),
            ("port_failed_starts", self.failed_starts),
        ] {
            f(name, n);
        }
    }
}

/// Sleep of an lcore that has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nap {
    /// Longest time where nothing wakes the lcore.
    pub short: Duration,
    /// Longest time where a packet does.
    pub long: Duration,
}

/// Whether a packet ends a nap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Armed {
    /// It does not: there are no interrupts.
    Never,
    /// From now on; what came before it has to be looked for.
    Now,
    /// It does since an earlier call.
    Before,
}

/// One receive and one transmit queue of a port, polled by one lcore.
pub trait Port {
    /// Received packets.
    type Rx: RxPkt;
    /// Packets to be sent.
    type Tx: TxPkt;

    /// Capabilities of the port.
    fn caps(&self) -> &PortCaps;
    /// Appends received packets to `out` until it is full or none is left.
    fn rx_burst(&mut self, out: &mut ArrayVec<Self::Rx, RX_BURST>);
    /// An empty packet, or `None` when no buffer is left.
    fn tx_alloc(&mut self) -> Option<Self::Tx>;
    /// Sends from the front of `q`; what the device does not take stays in it. Returns how many were sent.
    fn tx_burst(&mut self, q: &mut VecDeque<Self::Tx>) -> usize;
    /// Asks the driver to let go of sent buffers, `want` of them.
    fn reclaim(&mut self, want: u32) -> Reclaimed;
    /// Sleeps until a packet comes, or for the time of the nap. It may return at once.
    fn nap(&mut self, nap: Nap) {
        std::thread::sleep(nap.short);
    }
    /// Has a packet end the next nap of the lcore, of whichever of its queues it is.
    fn arm(&mut self) -> Armed {
        Armed::Never
    }
    /// The home of this port's receive buffers: drained each turn by whoever polls.
    fn home(&self) -> &RxHome;
    /// Receive memory: (bytes free, bytes in all).
    fn rx_memory(&self) -> (u64, u64);
    /// Whether the link is up.
    fn link_up(&self) -> bool;
    /// Counts since the start.
    fn counters(&self) -> PortCounters;
}
