//! pollnd for C. `include/pollnd.h`, made of [`abi`] and [`types`], says what there is; this crate gives it a static and a
//! shared library.
//!
//! * [`abi`]: the functions. Pointers become references and slices there, and nowhere else: it is the crate's one place for
//!   unsafe code.
//! * [`types`]: structures and constants that C sees.
//! * `node`: a node, its operations and its events; `start` has one over kernel sockets, `dpdk` over a port.
//! * `net`: Motr's net contract for a program, `domain` its part on the lcore, pools and synchronous delivery included.
//! * `program`: the application on the node's lcore.
//! * [`error`]: error numbers and texts.

#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "a C ABI is made of pointers")]
pub mod abi;
mod domain;
#[cfg(feature = "dpdk")]
mod dpdk;
pub mod error;
mod event;
mod net;
mod node;
mod program;
mod start;
pub mod types;
