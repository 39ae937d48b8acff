//! HELLO, the handshake after the acceptor request (docs/protocol/socklnd.md §2).
//!
//! Four layouts, told apart by their first 8 bytes ([`HelloStart`]) and read into one [`Hello`]:
//!
//! | layout | size | order | NIDs | addresses |
//! |---|---|---|---|---|
//! | V1: an LNet header | 72 | little endian | 8 bytes | follow |
//! | V2, V3 | 56 | the sender's | 8 bytes | follow |
//! | V2 with the TCP magic (origins.md) | 56 | the sender's | 8 bytes | follow |
//! | V4 | 80 | the sender's | 20 bytes | none |

use arrayvec::ArrayVec;

use super::bytes::{ByteOrder, array, put};
use super::{Nid, Pid, WireError, ksock, lnet, need};

/// First word of a HELLO of V2, V3 and V4.
pub const MAGIC: u32 = 0x4572_6963;
/// First word of a V1 HELLO, always little endian there; and of V2's first design, in either order.
pub const TCP_MAGIC: u32 = 0xEEBC_0DED;
/// Size of a V1 HELLO without interface addresses, in bytes.
pub const LEN_V1: usize = 72;
/// Size of a V2 or V3 HELLO without interface addresses, in bytes.
pub const LEN_V3: usize = 56;
/// Size of a V4 HELLO in bytes.
pub const LEN_V4: usize = 80;
/// Most interface addresses a HELLO may list.
pub const MAX_IPS: usize = 16;
/// Most bytes that a HELLO takes on the wire.
pub const MAX_LEN: usize = LEN_V1 + 4 * MAX_IPS;
/// LNet message type of a V1 HELLO.
const TYPE_HELLO: u32 = 4;

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

impl Version {
    /// Whether a ksock header goes in front of every message; without one there are no NOOPs, cookies or sums.
    pub fn has_ksock(self) -> bool {
        self != Version::V1
    }

    /// Size of the LNet header, in bytes.
    pub fn lnet_len(self) -> usize {
        if self == Version::V4 { lnet::LEN_V4 } else { lnet::LEN }
    }

    /// Size of all headers of an LNet message, in bytes.
    pub fn hdr_len(self) -> usize {
        if self.has_ksock() { ksock::LEN + self.lnet_len() } else { self.lnet_len() }
    }

    /// Whether types have a direction, BULK_IN carries only NOOPs, and NOOPs with cookie 1 ask for a sign of life.
    pub fn is_typed(self) -> bool {
        self >= Version::V3
    }
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
    /// V2 as it was first designed: TCP magic, major 2, minor 0 (origins.md).
    pub tcp_magic: bool,
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
            return Ok(HelloStart { version, order, tcp_magic: false });
        }
        let Some(order) = ByteOrder::of_magic(buf, TCP_MAGIC) else {
            return Err(WireError::BadMagic { what: WHAT, got: ByteOrder::Little.u32(buf, 0) });
        };
        need(WHAT, buf, 8)?;
        match (order.u16(buf, 4), order.u16(buf, 6), order) {
            (1, 0, ByteOrder::Little) => Ok(HelloStart { version: Version::V1, order, tcp_magic: true }),
            (2, 0, _) => Ok(HelloStart { version: Version::V2, order, tcp_magic: true }),
            (major, minor, _) => {
                Err(WireError::BadVersion { what: WHAT, got: u32::from(major) << 16 | u32::from(minor) })
            }
        }
    }
}

/// A HELLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Version.
    pub version: Version,
    /// Order of the sender's integers; on a flipped connection its ksock headers are flipped too. V1 knows little
    /// endian only.
    pub order: ByteOrder,
    /// V2 begins with the TCP magic (origins.md). Of no meaning in the other versions.
    pub tcp_magic: bool,
    /// Sender.
    pub src_nid: Nid,
    /// Receiver, as the sender believes; [`Nid::ANY`] in V1, which does not say.
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
    /// Interface addresses: parsed, then ignored (socklnd.md §2.5); always sent empty, and none in V4.
    pub ips: ArrayVec<u32, MAX_IPS>,
}

impl Hello {
    /// Parses the front of `buf`; gives the HELLO and its length in bytes.
    ///
    /// # Errors
    /// [`WireError::Truncated`] until all of it is there; the rest as [`HelloStart::parse`], and
    /// [`WireError::BadConnType`], [`WireError::TooManyIps`], [`WireError::ZeroIp`], [`WireError::NoHello`].
    pub fn parse(buf: &[u8]) -> Result<(Hello, usize), WireError> {
        let start = HelloStart::parse(buf)?;
        match start.version {
            Version::V1 => Hello::parse_v1(buf),
            Version::V2 | Version::V3 => Hello::parse_v3(buf, start),
            Version::V4 => Hello::parse_v4(buf, start),
        }
    }

    /// V1, as an LNet header (socklnd.md §2.1).
    fn parse_v1(buf: &[u8]) -> Result<(Hello, usize), WireError> {
        need(WHAT, buf, LEN_V1)?;
        let order = ByteOrder::Little;
        let kind = order.u32(buf, 24);
        if kind != TYPE_HELLO {
            return Err(WireError::NoHello(kind));
        }
        // A length that is no whole number of addresses is cut to one, as kernels do.
        let (ips, len) = parse_ips(buf, LEN_V1, order.u32(buf, 28) / 4, order)?;
        let hello = Hello {
            version: Version::V1,
            order,
            tcp_magic: true,
            src_nid: Nid::from_nid4(order.u64(buf, 8)),
            dst_nid: Nid::ANY,
            src_pid: order.u32(buf, 20),
            dst_pid: order.u32(buf, 16),
            src_incarnation: order.u64(buf, 32),
            dst_incarnation: 0,
            ctype: ConnType::from_wire(order.u32(buf, 40).cast_signed())?,
            ips,
        };
        Ok((hello, len))
    }

    /// V2 and V3 (socklnd.md §2.2).
    fn parse_v3(buf: &[u8], start: HelloStart) -> Result<(Hello, usize), WireError> {
        need(WHAT, buf, LEN_V3)?;
        let HelloStart { version, order, tcp_magic } = start;
        let ctype = ConnType::from_wire(order.u32(buf, 48).cast_signed())?;
        let (ips, len) = parse_ips(buf, LEN_V3, order.u32(buf, 52), order)?;
        let hello = Hello {
            version,
            order,
            tcp_magic,
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

    /// V4 (socklnd.md §2.3). Its count of addresses is not looked at, and none follow.
    fn parse_v4(buf: &[u8], start: HelloStart) -> Result<(Hello, usize), WireError> {
        need(WHAT, buf, LEN_V4)?;
        let order = start.order;
        let hello = Hello {
            version: Version::V4,
            order,
            tcp_magic: false,
            src_nid: Nid::from_nid16(array(buf, 8)),
            dst_nid: Nid::from_nid16(array(buf, 28)),
            src_pid: order.u32(buf, 48),
            dst_pid: order.u32(buf, 52),
            src_incarnation: order.u64(buf, 56),
            dst_incarnation: order.u64(buf, 64),
            ctype: ConnType::from_wire(order.u32(buf, 72).cast_signed())?,
            ips: ArrayVec::new(),
        };
        Ok((hello, LEN_V4))
    }

    /// The bytes. NIDs without a 64-bit form are written as ANY before V4, which cannot carry them.
    pub fn emit(&self) -> ArrayVec<u8, MAX_LEN> {
        let mut b = [0; MAX_LEN];
        let o = self.order;
        let nid4 = |n: Nid| n.to_nid4().unwrap_or(u64::MAX);
        let ctype = self.ctype.to_wire().cast_unsigned();
        let fixed = match self.version {
            Version::V1 => {
                let o = ByteOrder::Little;
                o.put_u32(&mut b, 0, TCP_MAGIC);
                o.put_u16(&mut b, 4, 1);
                o.put_u64(&mut b, 8, nid4(self.src_nid));
                o.put_u32(&mut b, 16, self.dst_pid);
                o.put_u32(&mut b, 20, self.src_pid);
                o.put_u32(&mut b, 24, TYPE_HELLO);
                o.put_u32(&mut b, 28, 4 * self.ips.len() as u32);
                o.put_u64(&mut b, 32, self.src_incarnation);
                o.put_u32(&mut b, 40, ctype);
                LEN_V1
            }
            Version::V2 | Version::V3 => {
                if self.version == Version::V2 && self.tcp_magic {
                    o.put_u32(&mut b, 0, TCP_MAGIC);
                    o.put_u16(&mut b, 4, 2);
                } else {
                    o.put_u32(&mut b, 0, MAGIC);
                    o.put_u32(&mut b, 4, if self.version == Version::V2 { 2 } else { 3 });
                }
                o.put_u64(&mut b, 8, nid4(self.src_nid));
                o.put_u64(&mut b, 16, nid4(self.dst_nid));
                o.put_u32(&mut b, 24, self.src_pid);
                o.put_u32(&mut b, 28, self.dst_pid);
                o.put_u64(&mut b, 32, self.src_incarnation);
                o.put_u64(&mut b, 40, self.dst_incarnation);
                o.put_u32(&mut b, 48, ctype);
                o.put_u32(&mut b, 52, self.ips.len() as u32);
                LEN_V3
            }
            Version::V4 => {
                o.put_u32(&mut b, 0, MAGIC);
                o.put_u32(&mut b, 4, 4);
                put(&mut b, 8, self.src_nid.to_nid16());
                put(&mut b, 28, self.dst_nid.to_nid16());
                o.put_u32(&mut b, 48, self.src_pid);
                o.put_u32(&mut b, 52, self.dst_pid);
                o.put_u64(&mut b, 56, self.src_incarnation);
                o.put_u64(&mut b, 64, self.dst_incarnation);
                o.put_u32(&mut b, 72, ctype);
                LEN_V4
            }
        };
        let ips = if self.version == Version::V4 { &[][..] } else { &self.ips[..] };
        for (i, ip) in ips.iter().enumerate() {
            o.put_u32(&mut b, fixed + 4 * i, *ip);
        }
        let mut out = ArrayVec::from(b);
        out.truncate(fixed + 4 * ips.len());
        out
    }
}

/// The list of `n` addresses behind the `fixed` bytes of a HELLO; gives the length of the whole, too.
fn parse_ips(
    buf: &[u8],
    fixed: usize,
    n: u32,
    order: ByteOrder,
) -> Result<(ArrayVec<u32, MAX_IPS>, usize), WireError> {
    if n as usize > MAX_IPS {
        return Err(WireError::TooManyIps(n));
    }
    let len = fixed + 4 * n as usize;
    need(WHAT, buf, len)?;
    let mut ips = ArrayVec::new();
    for i in 0..n {
        let ip = order.u32(buf, fixed + 4 * i as usize);
        if ip == 0 {
            return Err(WireError::ZeroIp(i));
        }
        ips.push(ip);
    }
    Ok((ips, len))
}
