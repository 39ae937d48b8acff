//! Inputs found at random: docs/testing.md.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/fuzz.rs"]
mod fuzz;
mod fuzz_maps;
mod fuzz_parsers;
mod fuzz_segments;
