//! The `net` contract (docs/protocol/netxprt.md), one suite for both transports, netsock by streams and by datagrams, on the simulated network: every buffer has
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

/// Each test over both transports, netsock by datagrams, too.
macro_rules! all {
    ($($name:ident)*) => {
        both! { $($name)* }
        mod dgram {
            $( #[test] fn $name() { super::$name::<crate::net::world::OverDgram>(); } )*
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
