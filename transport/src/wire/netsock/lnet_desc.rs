//! The buffer descriptor of Motr's lnet transport (netxprt.md §9): 48 bytes as netsock's, and another layout.

use super::super::bytes::ByteOrder;
use super::{BDESC_LEN, errno};

const LE: ByteOrder = ByteOrder::Little;

/// Queues of passive buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LnetQueue {
    /// The holder of the descriptor sends.
    PassiveRecv,
    /// The holder of the descriptor fetches.
    PassiveSend,
}

/// Where a passive buffer lies in LNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LnetDesc {
    /// Transfer machine << 52 | number of the buffer.
    pub match_bits: u64,
    /// NID of the passive side, in its 64-bit form.
    pub nid: u64,
    /// Its process.
    pub pid: u32,
    /// Portal.
    pub portal: u32,
    /// Transfer machine.
    pub tmid: u32,
    /// Direction.
    pub queue: LnetQueue,
    /// Size of the buffer's vector for a passive receive, length of its data for a passive send, in bytes.
    pub size: u64,
}

/// Bytes that are no descriptor of the lnet transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LnetDescError {
    /// Another length.
    #[error("a descriptor of {0} bytes, where the lnet transport's have 48: is it another transport's?")]
    Length(usize),
    /// The words do not XOR to it.
    #[error("descriptor checksum {got:#018x}, it is {want:#018x}: is it netsock's?")]
    Checksum {
        /// The one given.
        got: u64,
        /// The one of the words.
        want: u64,
    },
    /// Neither of the passive queues.
    #[error("queue type {0} in a descriptor, where 2 or 3 belongs")]
    Queue(u32),
    /// The match bits name another machine than the descriptor, or no buffer.
    #[error("match bits {match_bits:#018x} are no buffer of transfer machine {tmid}")]
    Counter {
        /// Match bits.
        match_bits: u64,
        /// Transfer machine.
        tmid: u32,
    },
}

impl LnetDescError {
    /// Motr's error number.
    pub fn errno(&self) -> i32 {
        errno::EINVAL
    }
}

fn checksum(b: &[u8]) -> u64 {
    (0..5).fold(0, |sum, word| sum ^ LE.u64(b, word * 8))
}

impl LnetDesc {
    /// Reads a descriptor.
    ///
    /// # Errors
    /// [`LnetDescError`]
    pub fn parse(buf: &[u8]) -> Result<LnetDesc, LnetDescError> {
        if buf.len() != BDESC_LEN {
            return Err(LnetDescError::Length(buf.len()));
        }
        let (got, want) = (LE.u64(buf, 40), checksum(buf));
        if got != want {
            return Err(LnetDescError::Checksum { got, want });
        }
        let queue = match LE.u32(buf, 28) {
            2 => LnetQueue::PassiveRecv,
            3 => LnetQueue::PassiveSend,
            other => return Err(LnetDescError::Queue(other)),
        };
        let (match_bits, tmid) = (LE.u64(buf, 0), LE.u32(buf, 24));
        if match_bits >> 52 != u64::from(tmid) || match_bits << 12 == 0 {
            return Err(LnetDescError::Counter { match_bits, tmid });
        }
        let (nid, size) = (LE.u64(buf, 8), LE.u64(buf, 32));
        Ok(LnetDesc { match_bits, nid, pid: LE.u32(buf, 16), portal: LE.u32(buf, 20), tmid, queue, size })
    }

    /// The bytes, with their checksum.
    pub fn emit(&self) -> [u8; BDESC_LEN] {
        let mut b = [0; BDESC_LEN];
        LE.put_u64(&mut b, 0, self.match_bits);
        LE.put_u64(&mut b, 8, self.nid);
        LE.put_u32(&mut b, 16, self.pid);
        LE.put_u32(&mut b, 20, self.portal);
        LE.put_u32(&mut b, 24, self.tmid);
        LE.put_u32(&mut b, 28, if self.queue == LnetQueue::PassiveRecv { 2 } else { 3 });
        LE.put_u64(&mut b, 32, self.size);
        let sum = checksum(&b);
        LE.put_u64(&mut b, 40, sum);
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESC: LnetDesc = LnetDesc {
        match_bits: 7 << 52 | 3,
        nid: 0x0002_0000_0a00_0001,
        pid: 12345,
        portal: 34,
        tmid: 7,
        queue: LnetQueue::PassiveSend,
        size: 1 << 20,
    };

    /// The layout of netxprt.md §9, word by word.
    #[test]
    fn a_descriptor_is_six_words_of_which_the_last_sums_the_others() {
        let b = DESC.emit();
        let words: Vec<u64> = (0..6).map(|w| LE.u64(&b, w * 8)).collect();
        assert_eq!(words[..5], [7 << 52 | 3, 0x0002_0000_0a00_0001, 34 << 32 | 12345, 3 << 32 | 7, 1 << 20]);
        assert_eq!(words.iter().fold(0, |a, w| a ^ w), 0);
        assert_eq!(LnetDesc::parse(&b), Ok(DESC));
    }

    #[test]
    fn each_fault_has_its_name() {
        assert_eq!(LnetDesc::parse(&[0; 47]), Err(LnetDescError::Length(47)));
        let mut b = DESC.emit();
        b[36] ^= 1;
        assert!(matches!(LnetDesc::parse(&b), Err(LnetDescError::Checksum { .. })));
        let summed = |at: usize, v: u8| {
            let mut b = DESC.emit();
            b[40 + at % 8] ^= b[at] ^ v;
            b[at] = v;
            LnetDesc::parse(&b)
        };
        assert_eq!(summed(28, 4), Err(LnetDescError::Queue(4)));
        assert!(matches!(summed(24, 8), Err(LnetDescError::Counter { tmid: 8, .. })));
        assert!(matches!(summed(0, 0), Err(LnetDescError::Counter { .. })));
        assert_eq!(summed(0, 0).map_err(|e| e.errno()), Err(errno::EINVAL));
    }
}
