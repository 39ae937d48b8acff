//! Tools of the tests: a capture reader, seeded randomness and nodes on a simulated network. Not part of a running node.

pub mod capture;
pub mod net;
pub mod rng;
