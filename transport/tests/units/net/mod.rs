//! The `net` contract (docs/protocol/netxprt.md), one suite for both transports, on the simulated network: every buffer has
//! exactly one last event, which each step looks at.
#![allow(clippy::result_large_err, reason = "buffers and memory come back, unboxed")]

/// Each test over both transports.
macro_rules! both {
    ($($name:ident)*) => {
        mod lnet {
            $( #[test] fn $name() { super::$name::<crate::net::world::OverLnet>(); } )*
        }
        mod sock {
            $( #[test] fn $name() { super::$name::<crate::net::world::OverSock>(); } )*
        }
    };
}

mod contract;
mod edges;
mod host;
mod machines;
mod races;
#[path = "../../common/net_world.rs"]
mod world;
