//! Hand-made segments against one stack, and parts of the shim by themselves.

mod below_tcp;
mod blind;
mod closing;
#[path = "../common/mod.rs"]
mod common;
mod ending;
mod flood;
mod guards;
mod hostile;
mod icmp;
mod ipv6;
mod opening;
mod pmtu;
mod pool_short;
mod pressure;
mod sack;
mod shares;
mod siblings;
mod stats;
mod timestamps;
mod udp;
mod units;
mod units_scoreboard;
mod windows;
