//! The ksock header in front of every message of V2 and later (docs/protocol/socklnd.md §5).

use super::bytes::{ByteOrder, array};
use super::{WireError, need};

/// Size of the header in bytes.
pub const LEN: usize = 24;
/// The cookie of a keepalive NOOP (socklnd.md §6.3); never used for a message.
pub const COOKIE_KEEPALIVE: u64 = 1;
/// The first cookie of a peer's counter.
pub const COOKIE_FIRST: u64 = 2;

/// Kinds of ksock messages, by what follows the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KsockType {
    /// Nothing: the header carries ACKs or a keepalive.
    Noop,
    /// An LNet header and its payload.
    Lnet,
}

/// The header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KsockHdr {
    /// Kind of message.
    pub kind: KsockType,
    /// Checksum, 0 for none.
    pub csum: u32,
    /// LNET: the sender's zero-copy request. NOOP: second ACK or start of a range. 0 for none.
    pub cookie0: u64,
    /// The ACKed cookie, or the end of a range. 0 for none.
    pub cookie1: u64,
}

impl KsockHdr {
    /// Parses the first 24 bytes of `buf`, whose integers are in the sender's order.
    ///
    /// # Errors
    /// [`WireError::Truncated`], [`WireError::BadKsockType`].
    #[inline]
    pub fn parse(buf: &[u8], order: ByteOrder) -> Result<KsockHdr, WireError> {
        need("ksock header", buf, LEN)?;
        let buf = &array::<LEN>(buf, 0)[..];
        let kind = match order.u32(buf, 0) {
            0xC0 => KsockType::Noop,
            0xC1 => KsockType::Lnet,
            other => return Err(WireError::BadKsockType(other)),
        };
        Ok(KsockHdr {
            kind,
            csum: order.u32(buf, 4),
            cookie0: order.u64(buf, 8),
            cookie1: order.u64(buf, 16),
        })
    }

    /// The bytes, integers in `order`.
    #[inline]
    pub fn emit(&self, order: ByteOrder) -> [u8; LEN] {
        let mut b = [0; LEN];
        let kind = match self.kind {
            KsockType::Noop => 0xC0,
            KsockType::Lnet => 0xC1,
        };
        order.put_u32(&mut b, 0, kind);
        order.put_u32(&mut b, 4, self.csum);
        order.put_u64(&mut b, 8, self.cookie0);
        order.put_u64(&mut b, 16, self.cookie1);
        b
    }
}

/// Puts a checksum into an emitted header at the front of `buf`.
pub fn put_csum(buf: &mut [u8], csum: u32, order: ByteOrder) {
    order.put_u32(buf, 4, csum);
}

/// The checksum of socklnd.md §5.3 over bytes that come in pieces: CRC-32 without its final inversion.
#[derive(Clone, Default)]
pub struct Checksum(crc32fast::Hasher);

impl Checksum {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The value that goes on the wire.
    pub fn value(self) -> u32 {
        !self.0.finalize()
    }
}

impl std::fmt::Debug for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Checksum({:#010x})", self.clone().value())
    }
}

/// [`Checksum`] of one slice.
pub fn checksum(bytes: &[u8]) -> u32 {
    let mut c = Checksum::default();
    c.update(bytes);
    c.value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_crc32_uninverted() {
        assert_eq!(checksum(b"123456789"), 0x340B_C6D9);
        assert_eq!(checksum(b""), 0xFFFF_FFFF);
    }
}
