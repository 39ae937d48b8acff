//! Bindings to the DPDK that the system has installed.
//!
//! Nothing here is safe or convenient; `dataplane::dpdk` is the crate's one user. Functions that DPDK only has as
//! inline code appear as `shim_*`, and macros that cannot be evaluated as `SHIM_*` (see `shim/wrapper.h`).
//!
//! The libraries are linked shared. Drivers are no part of the link: the EAL loads every library in DPDK's plugin
//! folder (`dpdk-sys` does not know which), so a driver package that the user installs needs no rebuild.

#![allow(
    missing_docs,
    unreachable_pub,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    rustdoc::all
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
