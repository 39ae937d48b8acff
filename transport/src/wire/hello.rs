//! HELLO, the handshake after the acceptor request (docs/protocol/socklnd.md §2).
//!
//! V2 and V3 share one layout and are read and written here. V1 and V4 are recognised by [`HelloStart`] and named
//! in [`WireError::Unspoken`]; their layouts would be further arms of [`Hello::parse`].

use arrayvec::ArrayVec;

use super::bytes::ByteOrder;
use super::{Nid, Pid, WireError, need};

/// First word of a HELLO of V2, V3 and V4.
pub const MAGIC: u32 = 0x4572_6963;
/// First word of a V1 HELLO, always little endian.
pub const TCP_MAGIC: u32 = 0xEEBC_0DED;
/// Size of a V2 or V3 HELLO without interface addresses, in bytes.
pub const LEN_V3: usize = 56;
/// Most interface addresses a HELLO may list.
pub const MAX_IPS: usize = 16;
/// Most bytes that a HELLO takes on the wire.
pub const MAX_LEN: usize = LEN_V3 + 4 * MAX_IPS;

const WHAT: &str = "HELLO";

/// Version of the protocol on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Bare LNet headers, no zero-copy ACKs.
    V1,
    /// ksock headers, zero-copy ACKs, checksums.
    V2,
    /// As V2, typed connections used in one direction, keepalive NOOPs.
    V3,
    /// As V3, 16-byte NIDs.
    V4,
}

/// Type of a connection, as the end that sends it sees it (socklnd.md §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnType {
    /// A refusal: lost race, duplicate, or unknown version.
    None,
    /// Untyped.
    Any,
    /// Small messages, both directions.
    Control,
    /// Receives the peer's bulk; sends NOOPs only.
    BulkIn,
    /// Sends bulk.
    BulkOut,
}

impl ConnType {
    /// From its number on the wire.
    ///
    /// # Errors
    /// [`WireError::BadConnType`].
    pub fn from_wire(v: i32) -> Result<ConnType, WireError> {
        Ok(match v {
            -1 => ConnType::None,
            0 => ConnType::Any,
            1 => ConnType::Control,
            2 => ConnType::BulkIn,
            3 => ConnType::BulkOut,
            _ => return Err(WireError::BadConnType(v)),
        })
    }

    /// Its number on the wire.
    pub fn to_wire(self) -> i32 {
        match self {
            ConnType::None => -1,
            ConnType::Any => 0,
            ConnType::Control => 1,
            ConnType::BulkIn => 2,
            ConnType::BulkOut => 3,
        }
    }

    /// The type that the other end holds.
    pub fn invert(self) -> ConnType {
        match self {
            ConnType::BulkIn => ConnType::BulkOut,
            ConnType::BulkOut => ConnType::BulkIn,
            same => same,
        }
    }
}

/// Magic and version: what can be told from the first 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloStart {
    /// Version.
    pub version: Version,
    /// Order of the sender's integers.
    pub order: ByteOrder,
}

impl HelloStart {
    /// Parses the first 8 bytes of a HELLO (4 are enough to refuse a wrong magic).
    ///
    /// # Errors
    /// [`WireError::Truncated`], [`WireError::BadMagic`], [`WireError::BadVersion`].
    pub fn parse(buf: &[u8]) -> Result<HelloStart, WireError> {
        need(WHAT, buf, 4)?;
        if let Some(order) = ByteOrder::of_magic(buf, MAGIC) {
            need(WHAT, buf, 8)?;
            let version = match order.u32(buf, 4) {
                2 => Version::V2,
                3 => Version::V3,
                4 => Version::V4,
                got => return Err(WireError::BadVersion { what: WHAT, got }),
            };
            return Ok(HelloStart { version, order });
        }
        let le = ByteOrder::Little;
        if le.u32(buf, 0) != TCP_MAGIC {
            return Err(WireError::BadMagic { what: WHAT, got: le.u32(buf, 0) });
        }
        need(WHAT, buf, 8)?;
        match (le.u16(buf, 4), le.u16(buf, 6)) {
            (1, 0) => Ok(HelloStart { version: Version::V1, order: le }),
            (major, minor) => {
                Err(WireError::BadVersion { what: WHAT, got: u32::from(major) << 16 | u32::from(minor) })
            }
        }
    }
}

/// A HELLO of V2 or V3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// [`Version::V2`] or [`Version::V3`].
    pub version: Version,
    /// Order of the sender's integers; on a flipped connection its ksock headers are flipped too.
    pub order: ByteOrder,
    /// Sender.
    pub src_nid: Nid,
    /// Whom the sender believes it talks to.
    pub dst_nid: Nid,
    /// Sender's process.
    pub src_pid: Pid,
    /// Ignored by receivers.
    pub dst_pid: Pid,
    /// Constant for the life of the sender's NI.
    pub src_incarnation: u64,
    /// Ignored by receivers.
    pub dst_incarnation: u64,
    /// Type that the sender holds or wants.
    pub ctype: ConnType,
    /// Interface addresses: parsed, then ignored (socklnd.md §2.5); always sent empty.
    pub ips: ArrayVec<u32, MAX_IPS>,
}

impl Hello {
    /// Parses the front of `buf`; gives the HELLO and its length in bytes.
    ///
    /// # Errors
    /// [`WireError::Truncated`] until all of it is there; [`WireError::Unspoken`] for V1 and V4; the rest as
    /// [`HelloStart::parse`], and [`WireError::BadConnType`], [`WireError::TooManyIps`], [`WireError::ZeroIp`].
    pub fn parse(buf: &[u8]) -> Result<(Hello, usize), WireError> {
        let HelloStart { version, order } = HelloStart::parse(buf)?;
        if !matches!(version, Version::V2 | Version::V3) {
            return Err(WireError::Unspoken { what: WHAT, version });
        }
        need(WHAT, buf, LEN_V3)?;
        let nips = order.u32(buf, 52);
        if nips as usize > MAX_IPS {
            return Err(WireError::TooManyIps(nips));
        }
        let ctype = ConnType::from_wire(order.u32(buf, 48).cast_signed())?;
        let len = LEN_V3 + 4 * nips as usize;
        need(WHAT, buf, len)?;
        let mut ips = ArrayVec::new();
        for i in 0..nips {
            let ip = order.u32(buf, LEN_V3 + 4 * i as usize);
            if ip == 0 {
                return Err(WireError::ZeroIp(i));
            }
            ips.push(ip);
        }
        let hello = Hello {
            version,
            order,
            src_nid: Nid::from_nid4(order.u64(buf, 8)),
            dst_nid: Nid::from_nid4(order.u64(buf, 16)),
            src_pid: order.u32(buf, 24),
            dst_pid: order.u32(buf, 28),
            src_incarnation: order.u64(buf, 32),
            dst_incarnation: order.u64(buf, 40),
            ctype,
            ips,
        };
        Ok((hello, len))
    }

    /// The bytes. NIDs without a 64-bit form are written as ANY: V2 and V3 cannot carry them.
    pub fn emit(&self) -> ArrayVec<u8, MAX_LEN> {
        let mut b = [0; MAX_LEN];
        let o = self.order;
        o.put_u32(&mut b, 0, MAGIC);
        o.put_u32(&mut b, 4, if self.version == Version::V2 { 2 } else { 3 });
        o.put_u64(&mut b, 8, self.src_nid.to_nid4().unwrap_or(u64::MAX));
        o.put_u64(&mut b, 16, self.dst_nid.to_nid4().unwrap_or(u64::MAX));
        o.put_u32(&mut b, 24, self.src_pid);
        o.put_u32(&mut b, 28, self.dst_pid);
        o.put_u64(&mut b, 32, self.src_incarnation);
        o.put_u64(&mut b, 40, self.dst_incarnation);
        o.put_u32(&mut b, 48, self.ctype.to_wire().cast_unsigned());
        o.put_u32(&mut b, 52, self.ips.len() as u32);
        for (i, ip) in self.ips.iter().enumerate() {
            o.put_u32(&mut b, LEN_V3 + 4 * i, *ip);
        }
        let mut out = ArrayVec::from(b);
        out.truncate(LEN_V3 + 4 * self.ips.len());
        out
    }
}
