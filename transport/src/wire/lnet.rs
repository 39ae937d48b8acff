//! The LNet header in its 8-byte-NID form (docs/protocol/lnet.md §2). Integers are always little endian.

use super::bytes::{ByteOrder, put};
use super::{Nid, Pid, WireError, need};

/// Size of the header with 8-byte NIDs (V1 to V3), in bytes.
pub const LEN: usize = 72;
/// Largest payload of a PUT or REPLY, in bytes.
pub const MTU: u32 = 1 << 20;
/// Number of portals.
pub const PORTALS: u32 = 64;

const LE: ByteOrder = ByteOrder::Little;

/// Names an MD of the node that made it; opaque to the other one (lnet.md §1.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WireHandle {
    /// The node's epoch.
    pub interface: u64,
    /// The MD in that epoch.
    pub object: u64,
}

impl WireHandle {
    /// "No ACK wanted".
    pub const NONE: WireHandle = WireHandle { interface: u64::MAX, object: u64::MAX };

    fn read(buf: &[u8], off: usize) -> WireHandle {
        WireHandle { interface: LE.u64(buf, off), object: LE.u64(buf, off + 8) }
    }

    fn write(self, buf: &mut [u8], off: usize) {
        put(buf, off, self.interface.to_le_bytes());
        put(buf, off + 8, self.object.to_le_bytes());
    }
}

/// The part of the header that depends on the message type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LnetBody {
    /// The PUT that named this handle was stored.
    Ack {
        /// Handle of the PUT.
        handle: WireHandle,
        /// Match bits of the PUT.
        match_bits: u64,
        /// Bytes stored.
        mlength: u32,
    },
    /// Store the payload.
    Put {
        /// Where the ACK goes; [`WireHandle::NONE`] when none is wanted.
        ack: WireHandle,
        /// What the receiver's match entry must match.
        match_bits: u64,
        /// Opaque to LNet, for the receiver.
        hdr_data: u64,
        /// Portal.
        portal: u32,
        /// Offset in the receiver's MD, in bytes, if that MD lets us manage it.
        offset: u32,
    },
    /// Send me bytes.
    Get {
        /// Where the REPLY goes.
        handle: WireHandle,
        /// What the receiver's match entry must match.
        match_bits: u64,
        /// Portal.
        portal: u32,
        /// Offset in the receiver's MD, in bytes. Anything but 0 has crashed kernels (lnet.md §3).
        src_offset: u32,
        /// Most bytes wanted.
        sink_length: u32,
    },
    /// The bytes that the GET of this handle asked for.
    Reply {
        /// Handle of the GET.
        handle: WireHandle,
    },
}

impl LnetBody {
    /// Name of the message type.
    pub fn name(&self) -> &'static str {
        match self {
            LnetBody::Ack { .. } => "ACK",
            LnetBody::Put { .. } => "PUT",
            LnetBody::Get { .. } => "GET",
            LnetBody::Reply { .. } => "REPLY",
        }
    }

    /// Largest payload that the type may carry, in bytes.
    pub fn max_payload(&self) -> u32 {
        match self {
            LnetBody::Ack { .. } | LnetBody::Get { .. } => 0,
            LnetBody::Put { .. } | LnetBody::Reply { .. } => MTU,
        }
    }
}

/// An LNet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LnetHdr {
    /// Final destination.
    pub dest_nid: Nid,
    /// Original source.
    pub src_nid: Nid,
    /// Process at the destination; receivers do not check it.
    pub dest_pid: Pid,
    /// Process at the source.
    pub src_pid: Pid,
    /// Bytes that follow the header.
    pub payload_len: u32,
    /// The rest.
    pub body: LnetBody,
}

impl LnetHdr {
    /// Parses the first 72 bytes of `buf` and checks the payload length against the type (lnet.md §5, first row).
    ///
    /// # Errors
    /// [`WireError::Truncated`], [`WireError::BadLnetType`], [`WireError::BadPayload`].
    pub fn parse(buf: &[u8]) -> Result<LnetHdr, WireError> {
        need("LNet header", buf, LEN)?;
        let body = match LE.u32(buf, 24) {
            0 => LnetBody::Ack {
                handle: WireHandle::read(buf, 32),
                match_bits: LE.u64(buf, 48),
                mlength: LE.u32(buf, 56),
            },
            1 => LnetBody::Put {
                ack: WireHandle::read(buf, 32),
                match_bits: LE.u64(buf, 48),
                hdr_data: LE.u64(buf, 56),
                portal: LE.u32(buf, 64),
                offset: LE.u32(buf, 68),
            },
            2 => LnetBody::Get {
                handle: WireHandle::read(buf, 32),
                match_bits: LE.u64(buf, 48),
                portal: LE.u32(buf, 56),
                src_offset: LE.u32(buf, 60),
                sink_length: LE.u32(buf, 64),
            },
            3 => LnetBody::Reply { handle: WireHandle::read(buf, 32) },
            other => return Err(WireError::BadLnetType(other)),
        };
        let payload_len = LE.u32(buf, 28);
        if payload_len > body.max_payload() {
            return Err(WireError::BadPayload {
                what: body.name(),
                got: payload_len,
                max: body.max_payload(),
            });
        }
        Ok(LnetHdr {
            dest_nid: Nid::from_nid4(LE.u64(buf, 0)),
            src_nid: Nid::from_nid4(LE.u64(buf, 8)),
            dest_pid: LE.u32(buf, 16),
            src_pid: LE.u32(buf, 20),
            payload_len,
            body,
        })
    }

    /// The bytes. NIDs without a 64-bit form are written as ANY: this form cannot carry them.
    pub fn emit(&self) -> [u8; LEN] {
        let mut b = [0; LEN];
        LE.put_u64(&mut b, 0, self.dest_nid.to_nid4().unwrap_or(u64::MAX));
        LE.put_u64(&mut b, 8, self.src_nid.to_nid4().unwrap_or(u64::MAX));
        LE.put_u32(&mut b, 16, self.dest_pid);
        LE.put_u32(&mut b, 20, self.src_pid);
        LE.put_u32(&mut b, 28, self.payload_len);
        let kind = match self.body {
            LnetBody::Ack { handle, match_bits, mlength } => {
                handle.write(&mut b, 32);
                LE.put_u64(&mut b, 48, match_bits);
                LE.put_u32(&mut b, 56, mlength);
                0
            }
            LnetBody::Put { ack, match_bits, hdr_data, portal, offset } => {
                ack.write(&mut b, 32);
                LE.put_u64(&mut b, 48, match_bits);
                LE.put_u64(&mut b, 56, hdr_data);
                LE.put_u32(&mut b, 64, portal);
                LE.put_u32(&mut b, 68, offset);
                1
            }
            LnetBody::Get { handle, match_bits, portal, src_offset, sink_length } => {
                handle.write(&mut b, 32);
                LE.put_u64(&mut b, 48, match_bits);
                LE.put_u32(&mut b, 56, portal);
                LE.put_u32(&mut b, 60, src_offset);
                LE.put_u32(&mut b, 64, sink_length);
                2
            }
            LnetBody::Reply { handle } => {
                handle.write(&mut b, 32);
                3
            }
        };
        LE.put_u32(&mut b, 24, kind);
        b
    }
}
