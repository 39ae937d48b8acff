//! One TCP stack an lcore.
#![deny(unsafe_code)]

pub mod csum;
pub mod engine;
pub mod isn;
pub mod phantom;
pub mod phase;
pub mod reasm;
pub mod recover;
pub mod rtt;
pub mod seq;
pub mod shadow;
pub mod table;
pub mod wheel;
pub mod wire;
