//! Classes of router buffers (docs/protocol/upper.md §1.3).

/// Number of the classes.
pub(super) const CLASSES: usize = 3;
/// Longest payload of a small buffer, in bytes: a page.
const SMALL: u32 = 4096;
/// Number of the groups in which a peer's buffers are counted.
pub(super) const GROUPS: usize = 2;

/// Classes of router buffers, by payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BufferClass {
    /// None.
    Tiny,
    /// Up to 4 KiB.
    Small,
    /// More.
    Large,
}

impl BufferClass {
    /// All of them, in order.
    pub const ALL: [BufferClass; CLASSES] = [BufferClass::Tiny, BufferClass::Small, BufferClass::Large];

    pub(super) fn of(len: u32) -> BufferClass {
        match len {
            0 => BufferClass::Tiny,
            1..=SMALL => BufferClass::Small,
            _ => BufferClass::Large,
        }
    }

    /// The group of classes of which a peer may hold so many: what is small does not wait for what is large.
    pub(super) fn group(self) -> usize {
        usize::from(self == BufferClass::Large)
    }

    /// Pages of 4 KiB of a kernel's buffer.
    pub fn pages(self) -> u32 {
        match self {
            BufferClass::Tiny => 0,
            BufferClass::Small => 1,
            BufferClass::Large => 256,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_by_payload() {
        let all = [0, 1, 4096, 4097, 1 << 20].map(BufferClass::of);
        use BufferClass::{Large, Small, Tiny};
        assert_eq!(all, [Tiny, Small, Small, Large, Large]);
    }
}
