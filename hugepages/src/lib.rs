//! Memory that crosses a node without being copied.
//!
//! This crate owns four things and knows nothing of DPDK, TCP or LNet:
//!
//! * **Page runs** ([`PageRunMut`], [`PageRun`], [`PageSlice`]): contiguous memory from a [`Backing`], unique
//!   while it is written, shared and read-only from the moment it is frozen. An [`Arena`] hands them out.
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
pub mod lending;
pub mod pool;
pub mod run;
pub mod rx;
mod sync;

pub use arena::{Arena, ArenaError};
pub use backing::{BAD_IOVA, Backing, BackingError, BackingKind, HugePages, Memfd, PrivatePages, RawRun};
pub use lending::{
    AttachRefused, LendSlab, LendSlabError, Lent, NIC_REFS_MAX, NicRef, ShInfo, Short, SlabCounters,
};
pub use run::{PageRun, PageRunMut, PageSlice};
pub use rx::{
    HeapRxBuf, HeapRxPool, LendBudget, LendOwner, Relay, RxCounters, RxFrag, RxHome, RxLent, RxOps,
};
