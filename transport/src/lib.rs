//! The protocols of pollnd: what goes over the wire, and the machines that speak it.
//!
//! * [`wire`]: formats of socklnd, LNet and netsock, parsed and written byte for byte.
//! * [`stream`]: what a protocol asks of whoever carries bytes, and is told.
//! * [`lnd`], [`socklnd`], [`lnet`]: LNet above its LNDs, and the contract between. They take bytes, a time in ns and
//!   completions; they give sends, placements and events. They know no socket, no packet, no clock and no thread.
//! * [`netsock`]: Motr's netsock, a protocol on streams that is not LNet's.
//! * [`net`]: Motr's `net` contract, over netsock and over LNet.
//! * [`selftest`]: lnet_selftest, which uses LNet as an application does.
//! * [`node`]: one shard of them ([`node::Machine`]), and with feature `node` the runtimes that join it to a TCP stack.
//! * `testing` (feature `testing`): a capture reader and a two-node harness in virtual time.
//!
//! Specifications: `docs/protocol/`.

#![forbid(unsafe_code)]

mod hash;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod lnd;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod lnet;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod net;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod netsock;
pub mod node;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod selftest;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod socklnd;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod stream;
#[cfg(feature = "node")]
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg_attr(not(test), deny(clippy::indexing_slicing))]
pub mod wire;
