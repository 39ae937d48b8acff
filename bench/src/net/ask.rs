//! Messages that ask for bulk, and answers to them; docs/net.md has the table.

use transport::net::Desc;

/// First bytes of each: "pollndMB".
const MAGIC: u64 = u64::from_le_bytes(*b"pollndMB");
/// Bytes of one.
pub const ASK_LEN: usize = 96;
const DESC: usize = 48;
/// EBADMSG: wrong bytes.
pub(super) const WRONG: u32 = 74;

/// The kind of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskKind {
    /// Fill the buffer of this descriptor.
    Fill,
    /// Fetch the buffer of this descriptor.
    Fetch,
    /// It is done, or has failed.
    Done,
    /// Queue a passive receive, which the asker fills.
    Take,
    /// Queue a passive send, which the asker fetches.
    Give,
    /// The answer to those two: the descriptor.
    Offer,
}

impl AskKind {
    /// All of them, each at the place of its number, which counts from 1.
    const ALL: [AskKind; 6] =
        [AskKind::Fill, AskKind::Fetch, AskKind::Done, AskKind::Take, AskKind::Give, AskKind::Offer];

    /// Whether the asker has the active part, by a descriptor that is given out.
    pub(super) fn wants_offer(self) -> bool {
        matches!(self, AskKind::Take | AskKind::Give)
    }
}

/// A message about bulk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The kind.
    pub kind: AskKind,
    /// The bytes are those of `seed`: fill them so, or look whether they are.
    pub check: bool,
    /// The asker's number of the operation, which the answer has too.
    pub tag: u64,
    /// Bytes to move.
    pub len: u64,
    /// Number that the bytes tell.
    pub seed: u64,
    /// Of an answer: 0, or a Linux error number; EBADMSG where bytes were wrong.
    pub status: u32,
    /// The descriptor of the passive buffer, with 48 bytes at most.
    pub desc: Option<Desc>,
}

fn word(b: &[u8], at: usize) -> Option<u64> {
    b.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

fn half(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

impl Ask {
    /// The message in these bytes; `None` where they are another's.
    pub fn parse(b: &[u8]) -> Option<Ask> {
        if word(b, 0)? != MAGIC {
            return None;
        }
        let kind = *AskKind::ALL.get((half(b, 8)? as usize).checked_sub(1)?)?;
        let desc = b.get(DESC..)?.get(..half(b, 44)? as usize)?;
        if desc.len() > ASK_LEN - DESC || b.len() < ASK_LEN {
            return None;
        }
        Some(Ask {
            kind,
            check: half(b, 12)? & 1 != 0,
            tag: word(b, 16)?,
            len: word(b, 24)?,
            seed: word(b, 32)?,
            status: half(b, 40)?,
            desc: if desc.is_empty() { None } else { Desc::new(desc).ok() },
        })
    }

    /// Writes it to the front of `b`; gives whether there was room.
    pub fn write(&self, b: &mut [u8]) -> bool {
        let Some(b) = b.get_mut(..ASK_LEN) else { return false };
        let desc = self.desc.as_ref().map_or(&[][..], Desc::bytes);
        let Some(room) = b.get_mut(DESC..DESC + desc.len()) else { return false };
        room.copy_from_slice(desc);
        let kind = AskKind::ALL.iter().position(|k| *k == self.kind).map_or(0, |i| i as u32 + 1);
        let mut put = |at: usize, v: &[u8]| b[at..at + v.len()].copy_from_slice(v);
        put(0, &MAGIC.to_le_bytes());
        put(8, &kind.to_le_bytes());
        put(12, &u32::from(self.check).to_le_bytes());
        put(16, &self.tag.to_le_bytes());
        put(24, &self.len.to_le_bytes());
        put(32, &self.seed.to_le_bytes());
        put(40, &self.status.to_le_bytes());
        put(44, &(desc.len() as u32).to_le_bytes());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_anything_else_is_none() {
        let ask = |kind, desc: usize| Ask {
            kind,
            check: desc == 48,
            tag: 0x0102_0304_0506_0708,
            len: 1 << 20,
            seed: 9,
            status: 90,
            desc: (desc > 0).then(|| Desc::new(&vec![7; desc]).unwrap()),
        };
        for (kind, desc) in AskKind::ALL.into_iter().zip([48, 48, 0, 0, 0, 48]) {
            let (a, mut b) = (ask(kind, desc), [0; 120]);
            assert!(a.write(&mut b) && !a.write(&mut [0; ASK_LEN - 1]));
            assert_eq!(Ask::parse(&b), Some(a.clone()));
            assert_eq!(Ask::parse(&b[..ASK_LEN]), Some(a));
            assert_eq!(Ask::parse(&b[..ASK_LEN - 1]), None);
            for (at, v) in [(0, 0), (8, 0), (8, 7), (44, 49), (47, 255)] {
                let mut bad = b;
                bad[at] = v;
                assert_eq!(Ask::parse(&bad), None, "{at}");
            }
        }
        assert!(!ask(AskKind::Fill, 49).write(&mut [0; 200]));
        assert_eq!(Ask::parse(&[]), None);
    }

    /// Other programs speak it: docs/net.md.
    #[test]
    fn the_layout_is_the_documented_one() {
        let a = Ask {
            kind: AskKind::Fetch,
            check: true,
            tag: 2,
            len: 3,
            seed: 4,
            status: 5,
            desc: Some(Desc::new(&[0xdd; 48]).unwrap()),
        };
        let mut b = [0; ASK_LEN];
        assert!(a.write(&mut b));
        let mut want = b"pollndMB".to_vec();
        want.extend([2, 0, 0, 0, 1, 0, 0, 0]);
        want.extend([2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        want.extend([5, 0, 0, 0, 48, 0, 0, 0]);
        want.extend([0xdd; 48]);
        assert_eq!(b[..], want);
    }
}
