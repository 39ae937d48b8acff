//! Configuration of a port, its errors, its reports.

use std::time::Duration;

use super::mempool::{HEADROOM, PoolError, RX_ROOM, RX_ROOM_SMALL};
use crate::pkt::TX_HEAD_ROOM;

/// Configuration of a port. Sizes are per queue.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Queue pairs: one an lcore.
    pub queues: u16,
    /// Take fewer queues where the device has fewer, and one where it cannot be known which packets come to which:
    /// `EthPort::describe_queues` then says why. Else that is an error.
    pub fewer: bool,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Receive descriptors; the driver may round.
    pub rx_desc: u16,
    /// Transmit descriptors; the driver may round.
    pub tx_desc: u16,
    /// Receive buffers of about 9 KiB; where no frame is over 2 KiB, four times as many of a quarter are made.
    pub rx_bufs: u32,
    /// Heads of packets to be sent, 2 KiB each: in the ring, in the stack's queue, and held by a lazy driver.
    pub tx_heads: u32,
    /// Bare mbufs that pages are attached to, 128 bytes each.
    pub tx_bare: u32,
    /// Receive packets for other addresses, too.
    pub promiscuous: bool,
    /// Take the port even if its kernel interface carries the default route.
    pub allow_default_route: bool,
    /// Receive interrupts where the driver has them, for lcores that sleep ([`crate::pkt::Port::nap`]).
    pub interrupts: bool,
    /// Use TSO although the driver does not advertise it (net_vhost made with `tso=1`).
    pub silent_tso: bool,
    /// Features that are to be there, or to be left alone.
    pub offloads: Offloads,
}

/// A wish about a feature of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Want {
    /// Used where the device offers it.
    #[default]
    Auto,
    /// Used; a device without it is refused.
    On,
    /// Left alone: for devices that promise and do not do.
    Off,
}

/// Features of a device that can be done in software, or done without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Segments TCP; takes `tx_csum`, too.
    pub tso: Want,
    /// Sums what is sent.
    pub tx_csum: Want,
    /// Judges the sums of what comes.
    pub rx_csum: Want,
    /// Joins segments that come.
    pub lro: Want,
    /// Spreads TCP connections over queues by a hash of their addresses and ports.
    pub rss: Want,
}

impl Default for PortConfig {
    fn default() -> PortConfig {
        PortConfig {
            queues: 1,
            fewer: false,
            mtu: 1500,
            rx_desc: 1024,
            tx_desc: 1024,
            rx_bufs: 4096,
            tx_heads: 4096,
            tx_bare: 8192,
            promiscuous: false,
            allow_default_route: false,
            interrupts: false,
            silent_tso: false,
            offloads: Offloads::default(),
        }
    }
}

impl PortConfig {
    /// Memory that the pools of all queues take, in bytes.
    pub fn pool_bytes(&self) -> u64 {
        // At most what a mempool adds to an element: headers, and padding that spreads elements over memory channels.
        const ELEMENT: u64 = 256;
        let mbuf = ELEMENT + size_of::<dpdk_sys::shim_mbuf>() as u64;
        let with = |room: u16| mbuf + u64::from(room) + u64::from(HEADROOM);
        // A port of small frames has four times as many buffers.
        let rx = with(RX_ROOM).max(4 * with(RX_ROOM_SMALL));
        let queue = u64::from(self.rx_bufs) * rx
            + u64::from(self.tx_heads) * with(TX_HEAD_ROOM as u16)
            + u64::from(self.tx_bare) * mbuf;
        u64::from(self.queues) * queue
    }
}

/// Errors of a port.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// No such device, or its driver is missing.
    #[error("no port {port} ({errno}): {remedy}")]
    NotFound {
        /// The request.
        port: String,
        /// DPDK's name for the error.
        errno: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// Its kernel interface carries the machine's default route.
    #[error(
        "port {port} is kernel interface {iface}, which carries the default route: taking it would cut the machine off; use another port (`pollnd doctor` lists them)"
    )]
    DefaultRoute {
        /// The request.
        port: String,
        /// The interface.
        iface: String,
    },
    /// An argument without which the driver makes no device is missing, or empty.
    #[error("port {port} has no {key}=: give it {what}, as in {port},{key}={example}")]
    Lacks {
        /// Device name.
        port: String,
        /// The argument.
        key: &'static str,
        /// Its meaning.
        what: &'static str,
        /// A value.
        example: &'static str,
    },
    /// The kernel interface that it sits on does not exist.
    #[error(
        "port {port}: there is no interface {iface} in this network namespace; ip link shows those that there are"
    )]
    NoInterface {
        /// Device name.
        port: String,
        /// The interface.
        iface: String,
    },
    /// Its arguments are longer than the EAL takes.
    #[error(
        "port {port}: its name and arguments come to {len} bytes, vdev: included, and DPDK takes {max}: leave out arguments that have their default, or shorten a file's name"
    )]
    Arguments {
        /// Device name.
        port: String,
        /// Bytes in all.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// AF_PACKET with several sockets.
    #[error(
        "port {port}: qpairs={qpairs} has the kernel spread what comes over {qpairs} sockets by a hash of its own, so connections would come to a queue that does not know them; leave qpairs out: one lcore polls it"
    )]
    Fanout {
        /// Device name.
        port: String,
        /// Asked for.
        qpairs: u16,
    },
    /// A device that was made anew is another than before.
    #[error(
        "port {port} came back with another {what}: have its other end offer what it did before, or start the node again"
    )]
    Changed {
        /// Port name.
        port: String,
        /// The difference.
        what: &'static str,
    },
    /// A number is outside of what the device can do.
    #[error("port {port} (driver {driver}) has {what} {min}..={max}, {asked} was asked for: {remedy}")]
    Range {
        /// Port name.
        port: String,
        /// Driver name.
        driver: String,
        /// Name of the number.
        what: &'static str,
        /// Least allowed.
        min: u32,
        /// Most allowed.
        max: u32,
        /// Asked for.
        asked: u32,
        /// The remedy.
        remedy: &'static str,
    },
    /// It cannot be known which packets come to which of several queues.
    #[error("port {port} cannot be used with {queues} queues: {why}; use one queue, which one lcore polls")]
    Queues {
        /// Port name.
        port: String,
        /// Asked for.
        queues: u16,
        /// The obstacle.
        why: String,
    },
    /// A feature that was asked for is not there.
    #[error(
        "port {port} (driver {driver}) does not offer {what}, which was asked for: take auto or off, or another device"
    )]
    Offload {
        /// Port name.
        port: String,
        /// Driver name.
        driver: String,
        /// The feature.
        what: &'static str,
    },
    /// A call failed.
    #[error("port {port}: {call} failed ({errno}); {remedy}")]
    Call {
        /// Port name.
        port: String,
        /// DPDK's function.
        call: &'static str,
        /// DPDK's name for the error.
        errno: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// An lcore still polls it.
    #[error(
        "port {port}: the lcore of queue {queue} did not yield within {waited:?}: it is stuck, or its poll loop no longer runs; drop the queue there"
    )]
    Polled {
        /// Port name.
        port: String,
        /// Number of the queue.
        queue: usize,
        /// Length of the wait.
        waited: Duration,
    },
    /// No memory for its buffers.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The EAL is stopped.
    #[error("the EAL is stopped: no port can be opened")]
    Stopped,
}

/// State of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Whether it is up.
    pub up: bool,
    /// Speed in Mbit/s; 0 when unknown, `u32::MAX` when the driver has none.
    pub mbps: u32,
}

/// Buffers that were out when a port was closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// Attachment mbufs that no driver gave back: the pages behind them are quarantined.
    pub attachments_out: u32,
    /// Heads of packets that are still out (in a stack's queue, or lost in a driver).
    pub heads_out: u32,
    /// Receive buffers still out (fragments and lent buffers).
    pub rx_out: u32,
}
