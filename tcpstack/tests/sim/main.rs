//! Seeded networks in virtual time.

#[path = "../common/mod.rs"]
mod common;
mod sim;
mod sim_forward;
mod sim_ipv6;
mod sim_matrix;
mod sim_net;
mod sim_targets;
