//! Data of BRW tests (selftest.md §4.3): one word, over and over, in the order of the node that made it.
//!
//! Looked at where it lies: a word may straddle two pieces of receive buffer, so what is compared with is turned by as many
//! bytes as the piece begins inside of one.

use crate::wire::ByteOrder;
use crate::wire::srpc::{BRW_WORD, check};

/// Fills memory with the words of this node.
pub fn fill(bytes: &mut [u8]) {
    let word = BRW_WORD.to_le_bytes();
    for chunk in bytes.chunks_mut(word.len()) {
        for (dst, src) in chunk.iter_mut().zip(word) {
            *dst = src;
        }
    }
}

/// The word as its maker has it in memory.
fn made(order: ByteOrder) -> [u8; 8] {
    if order == ByteOrder::Little { BRW_WORD.to_le_bytes() } else { BRW_WORD.to_be_bytes() }
}

/// Whether bytes that begin at `at` of the data are right.
fn right(bytes: &[u8], at: u64, word: [u8; 8]) -> bool {
    let mut turned = word;
    turned.rotate_left((at % 8) as usize);
    let (words, rest) = bytes.as_chunks::<8>();
    let want = u64::from_ne_bytes(turned);
    // Without a way out in the middle: a vector a step.
    let wrong = words.iter().fold(0, |wrong, w| wrong | (u64::from_ne_bytes(*w) ^ want));
    wrong == 0 && rest.iter().zip(turned).all(|(got, want)| *got == want)
}

/// Whether `len` bytes of data are as a check wants them. Of check=simple only the first and the last word of the whole
/// count: what else a sender fills depends on its pages.
pub fn holds<'a>(pieces: impl Iterator<Item = &'a [u8]>, len: u32, flags: u32, order: ByteOrder) -> bool {
    if flags != check::SIMPLE && flags != check::FULL {
        return true;
    }
    let (word, len) = (made(order), u64::from(len));
    let (mut at, mut good) = (0, true);
    for piece in pieces {
        let end = at + piece.len() as u64;
        if flags == check::FULL {
            good &= right(piece, at, word);
        } else {
            let mut part = |from: u64, to: u64| {
                let (from, to) = (from.max(at), to.min(end));
                if from < to
                    && let Some(bytes) = piece.get((from - at) as usize..(to - at) as usize)
                {
                    good &= right(bytes, from, word);
                }
            };
            part(0, 8);
            part(len.saturating_sub(8), len);
        }
        at = end;
    }
    good && at == len
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(len: usize, order: ByteOrder) -> Vec<u8> {
        made(order).into_iter().cycle().take(len).collect()
    }

    fn pieces(bytes: &[u8], size: usize) -> impl Iterator<Item = &[u8]> {
        bytes.chunks(size.max(1))
    }

    /// Words straddle pieces of any length, and each wrong byte is found.
    #[test]
    fn every_byte_counts_wherever_the_seams_are() {
        for order in [ByteOrder::Little, ByteOrder::Big] {
            let good = data(256, order);
            for size in 1..=40 {
                for flags in [check::SIMPLE, check::FULL] {
                    assert!(holds(pieces(&good, size), 256, flags, order));
                    assert!(!holds(pieces(&good, size), 264, flags, order), "too short");
                    assert!(!holds(pieces(&good, size), 248, flags, order), "too long");
                }
                for i in 0..256 {
                    let mut bad = good.clone();
                    bad[i] ^= 1;
                    assert!(
                        !holds(pieces(&bad, size), 256, check::FULL, order),
                        "byte {i}, pieces of {size}"
                    );
                    let seen = !(8..248).contains(&i);
                    assert_eq!(!holds(pieces(&bad, size), 256, check::SIMPLE, order), seen, "byte {i}");
                    assert!(holds(pieces(&bad, size), 256, check::NONE, order));
                    assert!(holds(pieces(&bad, size), 256, check::DISCARD, order));
                }
            }
        }
    }

    #[test]
    fn a_node_of_the_other_order_has_other_bytes() {
        let mut ours = vec![0; 64];
        fill(&mut ours);
        assert_eq!(ours, data(64, ByteOrder::Little));
        assert!(!holds(pieces(&ours, 64), 64, check::FULL, ByteOrder::Big));
        assert!(holds(pieces(&data(64, ByteOrder::Big), 64), 64, check::FULL, ByteOrder::Big));
    }
}
