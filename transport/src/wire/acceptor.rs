//! The acceptor request: the first bytes of every connection (docs/protocol/socklnd.md §1).

use super::bytes::{ByteOrder, array, put};
use super::{Nid, WireError, need};

/// Magic of the acceptor request.
pub const MAGIC: u32 = 0xACCE_7100;
/// Magic of a HELLO; an acceptor that gets it instead of its own answers with a refusal.
pub const LNET_MAGIC: u32 = super::hello::MAGIC;
/// Size of a version 1 request, and of a refusal, in bytes.
pub const LEN_V1: usize = 16;
/// Size of a version 2 request in bytes.
pub const LEN_V2: usize = 28;

/// A request to the acceptor of a node: which of its NIDs is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptorReq {
    /// 1 (4-byte addresses) or 2 (any).
    pub version: u32,
    /// NID that the active side wants to reach.
    pub target: Nid,
    /// Order in which the sender wrote its integers.
    pub order: ByteOrder,
}

impl AcceptorReq {
    /// The request for `target`: version 1 when its address has 4 bytes, else 2.
    pub fn new(target: Nid) -> AcceptorReq {
        let version = if target.to_nid4().is_some() { 1 } else { 2 };
        AcceptorReq { version, target, order: ByteOrder::Little }
    }

    /// Parses the front of `buf`; gives the request and its length in bytes.
    ///
    /// # Errors
    /// [`WireError::Truncated`] until all of it is there, [`WireError::BadMagic`], [`WireError::BadVersion`].
    pub fn parse(buf: &[u8]) -> Result<(AcceptorReq, usize), WireError> {
        const WHAT: &str = "acceptor request";
        need(WHAT, buf, 4)?;
        let Some(order) = ByteOrder::of_magic(buf, MAGIC) else {
            return Err(WireError::BadMagic { what: WHAT, got: ByteOrder::Little.u32(buf, 0) });
        };
        need(WHAT, buf, 8)?;
        match order.u32(buf, 4) {
            1 => {
                need(WHAT, buf, LEN_V1)?;
                let target = Nid::from_nid4(order.u64(buf, 8));
                Ok((AcceptorReq { version: 1, target, order }, LEN_V1))
            }
            2 => {
                need(WHAT, buf, LEN_V2)?;
                let target = Nid::from_nid16(array(buf, 8));
                Ok((AcceptorReq { version: 2, target, order }, LEN_V2))
            }
            got => Err(WireError::BadVersion { what: WHAT, got }),
        }
    }

    /// Length on the wire in bytes.
    pub fn wire_len(&self) -> usize {
        if self.version == 1 { LEN_V1 } else { LEN_V2 }
    }

    /// The bytes; the first [`AcceptorReq::wire_len`] of the array count.
    pub fn emit(&self) -> [u8; LEN_V2] {
        let mut b = [0; LEN_V2];
        self.order.put_u32(&mut b, 0, MAGIC);
        self.order.put_u32(&mut b, 4, self.version);
        match self.version {
            1 => self.order.put_u64(&mut b, 8, self.target.to_nid4().unwrap_or(u64::MAX)),
            _ => put(&mut b, 8, self.target.to_nid16()),
        }
        b
    }
}

/// The acceptor's last words before it closes on a version (or a protocol) that it does not speak.
pub fn refusal() -> [u8; LEN_V1] {
    let mut b = [0; LEN_V1];
    ByteOrder::Little.put_u32(&mut b, 0, MAGIC);
    ByteOrder::Little.put_u32(&mut b, 4, 1);
    b
}

/// Whether a request that failed with `e` is answered with [`refusal`] before the close, or closed silently.
pub fn deserves_refusal(e: &WireError) -> bool {
    match e {
        WireError::BadVersion { .. } => true,
        WireError::BadMagic { got, .. } => *got == LNET_MAGIC || *got == LNET_MAGIC.swap_bytes(),
        _ => false,
    }
}
