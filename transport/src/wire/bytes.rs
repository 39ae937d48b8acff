//! Reading and writing integers at fixed offsets, without panics. Always inlined: each is a load or a store where the length
//! of the format is known.

/// Byte order of a sender (socklnd.md §1, §2.2: integers travel in the sender's own order).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ByteOrder {
    /// Least significant byte first: every sender known to exist.
    Little,
    /// Most significant byte first.
    Big,
}

impl ByteOrder {
    /// The order in which `buf` starts with `magic`, if it does in either.
    pub(crate) fn of_magic(buf: &[u8], magic: u32) -> Option<ByteOrder> {
        let got = ByteOrder::Little.u32(buf, 0);
        if got == magic {
            Some(ByteOrder::Little)
        } else if got == magic.swap_bytes() {
            Some(ByteOrder::Big)
        } else {
            None
        }
    }

    // The readers give zero past the end of `buf`: callers check the length of the whole format first.

    #[inline(always)]
    pub(crate) fn u16(self, buf: &[u8], off: usize) -> u16 {
        let b = array::<2>(buf, off);
        if self == ByteOrder::Little { u16::from_le_bytes(b) } else { u16::from_be_bytes(b) }
    }

    #[inline(always)]
    pub(crate) fn u32(self, buf: &[u8], off: usize) -> u32 {
        let b = array::<4>(buf, off);
        if self == ByteOrder::Little { u32::from_le_bytes(b) } else { u32::from_be_bytes(b) }
    }

    #[inline(always)]
    pub(crate) fn u64(self, buf: &[u8], off: usize) -> u64 {
        let b = array::<8>(buf, off);
        if self == ByteOrder::Little { u64::from_le_bytes(b) } else { u64::from_be_bytes(b) }
    }

    #[inline(always)]
    pub(crate) fn put_u16(self, buf: &mut [u8], off: usize, v: u16) {
        put(buf, off, if self == ByteOrder::Little { v.to_le_bytes() } else { v.to_be_bytes() });
    }

    #[inline(always)]
    pub(crate) fn put_u32(self, buf: &mut [u8], off: usize, v: u32) {
        put(buf, off, if self == ByteOrder::Little { v.to_le_bytes() } else { v.to_be_bytes() });
    }

    #[inline(always)]
    pub(crate) fn put_u64(self, buf: &mut [u8], off: usize, v: u64) {
        put(buf, off, if self == ByteOrder::Little { v.to_le_bytes() } else { v.to_be_bytes() });
    }
}

/// `N` bytes from `off`; zeros where `buf` has none.
#[inline(always)]
pub(crate) fn array<const N: usize>(buf: &[u8], off: usize) -> [u8; N] {
    let mut a = [0; N];
    if let Some(src) = buf.get(off..).and_then(|b| b.get(..N)) {
        a.copy_from_slice(src);
    }
    a
}

/// Writes `src` at `off`; a field outside `buf` is left out.
#[inline(always)]
pub(crate) fn put<const N: usize>(buf: &mut [u8], off: usize, src: [u8; N]) {
    if let Some(dst) = buf.get_mut(off..).and_then(|b| b.get_mut(..N)) {
        dst.copy_from_slice(&src);
    }
}
