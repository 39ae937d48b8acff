//! Workloads, baselines and reports.
//!
//! A figure of pollnd is a ratio of two things run side by side in one run: [`pair`] joins two nodes and turns
//! them on one thread or two, [`workload`] is what they do, [`measure`] what it cost, [`report`] how it is told.
//! The kernel-socket runtime over loopback is the baseline ([`sock`]). [`tcp`] measures the TCP stack by itself, [`tcpsim`]
//! its goodput over a simulated network.
#![forbid(unsafe_code)]

#[cfg(feature = "dpdk")]
pub mod bare;
pub mod connections;
pub mod cpt;
pub mod ctl;
pub mod embryos;
pub mod figures;
pub mod growth;
pub mod idle;
pub mod inmem;
pub mod latency;
#[cfg(feature = "dpdk")]
pub mod link;
pub mod measure;
pub mod memory;
pub mod net;
pub mod pair;
pub mod rate;
pub mod repeat;
pub mod report;
pub mod router;
pub mod selftest;
pub mod setup;
pub mod sock;
pub mod stacks;
pub mod suite;
pub mod tcp;
mod tcp_base;
pub mod tcpsim;
#[cfg(feature = "dpdk")]
pub mod wide;
pub mod workload;
