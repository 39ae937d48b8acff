//! Inputs found at random: docs/testing.md.

#[path = "../../../tcpstack/tests/common/fuzz.rs"]
mod fuzz;
mod fuzz_console;
mod fuzz_cookies;
mod fuzz_handshake;
mod fuzz_info;
mod fuzz_messages;
mod fuzz_net;
mod fuzz_netsock;
mod fuzz_selftest;
#[path = "../common/raw.rs"]
mod raw;
