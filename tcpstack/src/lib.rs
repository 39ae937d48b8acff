//! One TCP stack an lcore.
#![deny(unsafe_code)]

pub mod arp;
mod clock;
pub mod config;
pub mod csum;
mod egress;
pub mod engine;
mod flow;
pub mod icmp;
mod ingress;
mod io;
pub mod isn;
mod open;
pub mod phantom;
pub mod phase;
pub mod reasm;
pub mod recover;
pub mod rtt;
mod segment;
pub mod seq;
pub mod shadow;
pub mod stack;
pub mod table;
pub mod timewait;
pub mod wheel;
pub mod wire;

pub use config::{
    Counters, Dial, DialError, FlowCounters, HDR_MAX, KeepAlive, Listen, ListenError, PushError, StackConfig,
    StackError,
};
pub use rtt::RtoLimits;
pub use stack::{Close, CloseWhy, Event, FlowId, Pos, Stack, Work};
