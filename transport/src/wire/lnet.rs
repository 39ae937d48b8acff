//! The LNet header (docs/protocol/lnet.md §2) in its two forms: 8-byte NIDs up to V3, 20-byte NIDs on V4. What
//! follows the NIDs is the same. Integers are always little endian.

use arrayvec::ArrayVec;

use super::bytes::{ByteOrder, array, put};
use super::{Nid, Pid, Version, WireError, need};

/// Size of the header with 8-byte NIDs (V1 to V3), in bytes.
pub const LEN: usize = 72;
/// Size of the header with 20-byte NIDs (V4), in bytes.
pub const LEN_V4: usize = 96;
/// Offset of the part behind the NIDs in each form, in bytes.
const TAIL: usize = 16;
const TAIL_V4: usize = 40;
/// Length of that part, in bytes.
const TAIL_LEN: usize = LEN - TAIL;
/// Largest payload of a PUT or REPLY, in bytes.
pub const MTU: u32 = 1 << 20;
/// Portal at which lnet_selftest takes its requests: PUTs only.
pub const SELFTEST_PORTAL: u32 = 50;
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
        /// The initiator's handle for the ACK; [`WireHandle::NONE`] when none is wanted.
        ack: WireHandle,
        /// Bits that the receiver's match entry must match.
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
        /// The initiator's handle for the REPLY.
        handle: WireHandle,
        /// Bits that the receiver's match entry must match.
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
    #[inline]
    pub fn parse(buf: &[u8]) -> Result<LnetHdr, WireError> {
        need("LNet header", buf, LEN)?;
        let nid = |off| Nid::from_nid4(LE.u64(buf, off));
        LnetHdr::parse_tail(nid(0), nid(8), &array(buf, TAIL))
    }

    /// Parses the first 96 bytes of `buf`: the form of V4.
    ///
    /// # Errors
    /// As [`LnetHdr::parse`].
    pub fn parse_v4(buf: &[u8]) -> Result<LnetHdr, WireError> {
        need("LNet header", buf, LEN_V4)?;
        let nid = |off| Nid::from_nid16(array(buf, off));
        LnetHdr::parse_tail(nid(0), nid(20), &array(buf, TAIL_V4))
    }

    /// Parses the form that `version` has.
    ///
    /// # Errors
    /// As [`LnetHdr::parse`].
    #[inline]
    pub fn parse_as(version: Version, buf: &[u8]) -> Result<LnetHdr, WireError> {
        if version == Version::V4 { LnetHdr::parse_v4(buf) } else { LnetHdr::parse(buf) }
    }

    /// The bytes in the form that `version` has.
    pub fn emit_as(&self, version: Version) -> ArrayVec<u8, LEN_V4> {
        if version == Version::V4 {
            return ArrayVec::from(self.emit_v4());
        }
        let mut out = ArrayVec::new();
        // The shorter form fits.
        let _ = out.try_extend_from_slice(&self.emit());
        out
    }

    #[inline]
    fn parse_tail(dest_nid: Nid, src_nid: Nid, b: &[u8; TAIL_LEN]) -> Result<LnetHdr, WireError> {
        let b = &b[..];
        let body = match LE.u32(b, 8) {
            0 => LnetBody::Ack {
                handle: WireHandle::read(b, 16),
                match_bits: LE.u64(b, 32),
                mlength: LE.u32(b, 40),
            },
            1 => LnetBody::Put {
                ack: WireHandle::read(b, 16),
                match_bits: LE.u64(b, 32),
                hdr_data: LE.u64(b, 40),
                portal: LE.u32(b, 48),
                offset: LE.u32(b, 52),
            },
            2 => LnetBody::Get {
                handle: WireHandle::read(b, 16),
                match_bits: LE.u64(b, 32),
                portal: LE.u32(b, 40),
                src_offset: LE.u32(b, 44),
                sink_length: LE.u32(b, 48),
            },
            3 => LnetBody::Reply { handle: WireHandle::read(b, 16) },
            other => return Err(WireError::BadLnetType(other)),
        };
        let payload_len = LE.u32(b, 12);
        if payload_len > body.max_payload() {
            return Err(WireError::BadPayload {
                what: body.name(),
                got: payload_len,
                max: body.max_payload(),
            });
        }
        Ok(LnetHdr { dest_nid, src_nid, dest_pid: LE.u32(b, 0), src_pid: LE.u32(b, 4), payload_len, body })
    }

    /// Whether the form of versions before V4 can carry its NIDs.
    #[inline]
    pub(crate) fn fits_nid4(&self) -> bool {
        !self.dest_nid.is_large() && !self.src_nid.is_large()
    }

    /// The bytes. NIDs without a 64-bit form are written as ANY: this form cannot carry them.
    #[inline]
    pub fn emit(&self) -> [u8; LEN] {
        let mut b = [0; LEN];
        self.emit_to(&mut b);
        b
    }

    /// The same, written over `b`, which is 0.
    #[inline]
    pub(crate) fn emit_to(&self, b: &mut [u8; LEN]) {
        LE.put_u64(b, 0, self.dest_nid.to_nid4().unwrap_or(u64::MAX));
        LE.put_u64(b, 8, self.src_nid.to_nid4().unwrap_or(u64::MAX));
        self.emit_tail(&mut b[TAIL..]);
    }

    /// The bytes in the form of V4.
    pub fn emit_v4(&self) -> [u8; LEN_V4] {
        let mut b = [0; LEN_V4];
        put(&mut b, 0, self.dest_nid.to_nid16());
        put(&mut b, 20, self.src_nid.to_nid16());
        self.emit_tail(&mut b[TAIL_V4..]);
        b
    }

    #[inline]
    fn emit_tail(&self, b: &mut [u8]) {
        LE.put_u32(b, 0, self.dest_pid);
        LE.put_u32(b, 4, self.src_pid);
        LE.put_u32(b, 12, self.payload_len);
        let kind = match self.body {
            LnetBody::Ack { handle, match_bits, mlength } => {
                handle.write(b, 16);
                LE.put_u64(b, 32, match_bits);
                LE.put_u32(b, 40, mlength);
                0
            }
            LnetBody::Put { ack, match_bits, hdr_data, portal, offset } => {
                ack.write(b, 16);
                LE.put_u64(b, 32, match_bits);
                LE.put_u64(b, 40, hdr_data);
                LE.put_u32(b, 48, portal);
                LE.put_u32(b, 52, offset);
                1
            }
            LnetBody::Get { handle, match_bits, portal, src_offset, sink_length } => {
                handle.write(b, 16);
                LE.put_u64(b, 32, match_bits);
                LE.put_u32(b, 40, portal);
                LE.put_u32(b, 44, src_offset);
                LE.put_u32(b, 48, sink_length);
                2
            }
            LnetBody::Reply { handle } => {
                handle.write(b, 16);
                3
            }
        };
        LE.put_u32(b, 8, kind);
    }
}
