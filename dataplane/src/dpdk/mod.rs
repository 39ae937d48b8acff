//! DPDK: the EAL, ethdev ports, mempools, page runs in EAL memory.
//!
//! * [`Eal`] is started once a process. Polling threads are the caller's own: they pin themselves and call
//!   [`Eal::enter`]; the EAL launches and pins none.
//! * [`EthPort`] is a device: configured, started, stopped and closed by the control thread.
//! * [`EthQueue`] is one of its queue pairs, on the lcore that polls it: a [`crate::pkt::Port`].
//! * [`EalBacking`] gives page runs that every port can reach.
//!
//! Order of shutdown: stop polling (park or drop the queues) -> [`EthPort::close`] -> lendings home -> queues and
//! pools dropped -> arenas -> [`Eal::cleanup`], which refuses while anything is out.

mod backing;
mod bare;
mod config;
mod eal;
mod eal_error;
mod gate;
#[cfg(test)]
mod gate_tests;
mod ifname;
mod joined;
mod mempool;
mod offload;
mod pair;
mod pools;
mod port;
mod port_config;
mod port_shared;
mod probe;
mod queue;
mod reopen;
mod resend;
mod rx;
mod sockdir;
mod spec;
mod spread;
mod telemetry;
mod trouble;
mod tx;
mod usage;
mod wake;

pub use backing::EalBacking;
pub use bare::{BareEnd, BareError, BareLoad, BareReceiver, BareSender};
pub use config::{EalConfig, Huge};
pub use eal::{Eal, LcoreError, PollLcore, dpdk_version};
pub use eal_error::{CleanupError, EalError};
pub use mempool::{HEADROOM, Mempool, PoolError, RX_ROOM, RX_ROOM_SMALL, RX_ROOM_SUPER};
pub use pair::{PairConfig, leave_nothing, virtio_pair};
pub use port::EthPort;
pub use port_config::{Closed, LinkState, Offloads, PortConfig, PortError, Want};
pub use queue::{EthQueue, QueueSeed};
pub use rx::EthRxPkt;
pub use spec::{PortSpec, VhostSocket};
pub use telemetry::{TelemetryError, TelemetryFn, TelemetryValue, telemetry};
pub use tx::EthTxPkt;
