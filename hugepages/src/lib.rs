//! Memory that crosses a node without being copied.
//!
//! This crate owns four things and knows nothing of DPDK, TCP or LNet:
//!
//! * **Page runs** ([`PageRunMut`], [`PageRun`], [`PageSlice`]): contiguous memory from a [`Backing`], unique
//!   while it is written, shared and read-only from the moment it is frozen. An [`Arena`] hands them out. A slice may
//!   also be of received pieces ([`PageSlice::received`]), which are sent on by reference.
//! * **Lendings** ([`LendSlab`], [`Lent`], [`NicRef`]): one per (message, run) on the lcore that transmits. They
//!   count who still needs the pages: the stream, the wait for the zero-copy ACK, the NIC. The part that a NIC
//!   counts has the layout of DPDK's `rte_mbuf_ext_shared_info`.
//! * **Received fragments** ([`RxFrag`], [`RxLent`], [`RxHome`]): slices of receive buffers, either held on the
//!   lcore that received them or lent to an application on any thread, which gives them back over a ring.
//! * **Huge-page pools** ([`pool`]): what the machine has, how to reserve, and what to tell the user.
//!
//! `unsafe` is fenced into this crate so that the protocol above needs none.

pub mod arena;
pub mod backing;
mod gather;
pub mod lending;
pub mod pool;
mod relay;
pub mod run;
pub mod rx;
mod sync;

pub use arena::{Arena, ArenaError};
pub use backing::{
    BAD_IOVA, Backing, BackingError, BackingKind, HugePages, Io, Memfd, OwnPages, PrivatePages, RawRun,
};
pub use gather::RxPiece;
pub use lending::{
    AttachRefused, LendSlab, LendSlabError, Lent, NIC_REFS_MAX, NicRef, Place, ShInfo, Short, SlabCounters,
};
pub use relay::Relay;
pub use run::{Memory, PageRun, PageRunMut, PageSlice};
pub use rx::{HeapRxBuf, HeapRxPool, LendBudget, LendOwner, RxCounters, RxFrag, RxHome, RxLent, RxOps};
