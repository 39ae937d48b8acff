//! Tools of the tests: a capture reader, seeded randomness, data, nodes on a simulated network, two of them ready to speak, and a
//! kernel and a Motr for them to speak with. Not part of a running node.

pub mod capture;
pub mod data;
pub mod dialogue;
pub mod kernel;
pub mod members;
pub mod motr;
pub mod net;
pub mod netsock;
pub mod pair;
pub mod rng;
pub mod srpc;
