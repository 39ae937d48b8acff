//! Formats of the socklnd and LNet wire, and of Motr's netsock, byte for byte.
//!
//! Each module holds plain `Repr` types with `parse` and `emit`. `parse` looks at the front of a buffer and never
//! reads past it; a buffer that ends too early is [`WireError::Truncated`], which says how many bytes are needed,
//! so a stream reader can collect them and call again. `emit` returns an array of the format's size. Nothing here
//! panics, allocates in proportion to a length field, or knows of connections.
//!
//! Sources: docs/protocol/socklnd.md (§1 acceptor, §2 HELLO, §5 framing), docs/protocol/lnet.md (§1 identifiers,
//! §2 header, §6.2 ping info), docs/protocol/selftest.md (§2, §3), docs/protocol/netsock.md (§2, §3).

pub mod acceptor;
mod brief;
mod bytes;
pub mod hello;
pub mod ksock;
pub mod lnet;
pub mod netsock;
pub mod nid;
pub mod ping;
pub mod srpc;

pub use acceptor::AcceptorReq;
pub use brief::{Brief, without_controls};
pub use bytes::ByteOrder;
pub use hello::{ConnType, Hello, HelloStart, Version};
pub use ksock::{KsockHdr, KsockType};
pub use lnet::{LnetBody, LnetHdr, WireHandle};
pub use nid::{NetId, Nid, NidParseError, Pid, ProcessId};
pub use ping::{NiEntry, NiStatus, PingInfo};

/// Reason why bytes are not the message they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The buffer ends inside the format. Not an error on a stream: collect `need` bytes and parse again.
    #[error("{what} needs {need} bytes, {have} are there")]
    Truncated {
        /// Format.
        what: &'static str,
        /// Bytes needed to go on.
        need: usize,
        /// Bytes given.
        have: usize,
    },
    /// The first word is not the format's magic in either byte order.
    #[error("{what}: magic {got:#010x} is not known (another protocol on this port?)")]
    BadMagic {
        /// Format.
        what: &'static str,
        /// The word, read as little endian.
        got: u32,
    },
    /// A version that no release speaks.
    #[error("{what}: version {got} is not known")]
    BadVersion {
        /// Format.
        what: &'static str,
        /// Version as sent (for TCP-magic HELLOs: major << 16 | minor).
        got: u32,
    },
    /// A V1 HELLO is an LNet header of type HELLO; this was another one.
    #[error("HELLO: LNet message type {0} where HELLO (4) belongs")]
    NoHello(u32),
    /// A connection type outside NONE, ANY, CONTROL, BULK_IN, BULK_OUT.
    #[error("HELLO: connection type {0} is not known")]
    BadConnType(i32),
    /// More interface addresses than the protocol's 16.
    #[error("HELLO: {0} interface addresses, at most 16 are allowed")]
    TooManyIps(u32),
    /// An interface address of zero.
    #[error("HELLO: interface address {0} of the list is zero")]
    ZeroIp(u32),
    /// A ksock header that is neither NOOP nor LNET.
    #[error("ksock header: type {0:#x} is neither NOOP (0xc0) nor LNET (0xc1)")]
    BadKsockType(u32),
    /// An LNet message type that a connection may not carry.
    #[error("LNet header: message type {0} is not ACK, PUT, GET or REPLY")]
    BadLnetType(u32),
    /// A payload length that the message type does not allow.
    #[error("LNet {what}: payload of {got} bytes, at most {max} are allowed")]
    BadPayload {
        /// Message type.
        what: &'static str,
        /// Length field.
        got: u32,
        /// Limit.
        max: u32,
    },
    /// Ping info that breaks a rule of lnet.md §6.2.
    #[error("ping info: {0}")]
    BadPingInfo(&'static str),
    /// A message of lnet_selftest has exactly 160 bytes.
    #[error("lnet_selftest: a message of {0} bytes, where all have 160")]
    BadSrpcLength(usize),
    /// A message type that lnet_selftest does not have.
    #[error("lnet_selftest: message type {0} is not known; types are 0 to 17")]
    BadSrpcType(u32),
}

/// Fails with [`WireError::Truncated`] unless `buf` has `need` bytes.
pub(crate) fn need(what: &'static str, buf: &[u8], need: usize) -> Result<(), WireError> {
    if buf.len() < need { Err(WireError::Truncated { what, need, have: buf.len() }) } else { Ok(()) }
}
