//! Data of tests: pages with bytes that tell their place, the operations that move them, and what came of them.

use std::collections::VecDeque;
use std::sync::Arc;

use hugepages::{PageRunMut, PrivatePages, RxFrag};

use crate::lnd::{Data, Payload, Sink};
use crate::lnet::{MdSpec, Op};
use crate::stream::StreamRx;
use crate::wire::ProcessId;

/// A portal and match bits: the spot at which operations of a test meet its entries.
///
/// ```
/// use transport::lnd::Sink;
/// use transport::lnet::{Event, MdMem, MdSpec};
/// use transport::testing::data::{Spot, lent, pages};
/// use transport::testing::net::SEC;
/// use transport::testing::pair::{Pair, id};
///
/// let (mut pair, at) = (Pair::new(), Spot(7, 0x42));
/// pair.op(1, at.attach(1, MdSpec::new(MdMem::Source(pages(5000)))));
/// pair.op(0, at.get(2, id(2), Sink::Lend(5000)));
/// pair.run(SEC);
/// assert!(matches!(&pair.take_events(0)[..], [Event::Reply { data, .. }] if lent(data).len() == 5000));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot(pub u32, pub u64);

impl Spot {
    /// Attaches an entry that everybody may use.
    pub fn attach(self, tag: u64, md: MdSpec) -> Op {
        Op::Attach { tag, portal: self.0, who: ProcessId::ANY, match_bits: self.1, ignore_bits: 0, md }
    }

    /// Puts `payload` to the entry of `target`; the `hdr_data` is the tag.
    pub fn put(self, tag: u64, target: ProcessId, payload: Payload, ack: bool) -> Op {
        self.put_with(tag, tag, target, payload, ack)
    }

    /// The same with other `hdr_data`.
    pub fn put_with(self, tag: u64, hdr_data: u64, target: ProcessId, payload: Payload, ack: bool) -> Op {
        Op::Put {
            tag,
            target,
            from: None,
            portal: self.0,
            match_bits: self.1,
            offset: 0,
            hdr_data,
            payload,
            ack,
        }
    }

    /// Gets from the entry of `target`.
    pub fn get(self, tag: u64, target: ProcessId, sink: Sink) -> Op {
        Op::Get { tag, target, from: None, portal: self.0, match_bits: self.1, sink }
    }
}

/// Byte `i` of the data with this seed.
pub fn byte(seed: u64, i: usize) -> u8 {
    (i as u64).wrapping_add(seed.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[0]
}

/// So many bytes of the data with this seed.
pub fn bytes(len: usize, seed: u64) -> Vec<u8> {
    (0..len).map(|i| byte(seed, i)).collect()
}

/// A run of `len` bytes, at least one.
pub fn run(len: usize) -> PageRunMut {
    PageRunMut::new(Arc::new(PrivatePages), len).expect("pages of the process's own")
}

/// A run with the [`bytes`] of a seed.
pub fn filled(len: usize, seed: u64) -> PageRunMut {
    let mut run = run(len);
    run.bytes_mut().copy_from_slice(&bytes(len, seed));
    run
}

/// Pages with the [`bytes`] of the seed 0; no pages for no bytes.
pub fn pages(len: usize) -> Payload {
    seeded(len, 0)
}

/// Pages with the [`bytes`] of a seed.
pub fn seeded(len: usize, seed: u64) -> Payload {
    Payload::Pages((len > 0).then(|| filled(len, seed).freeze().slice_all()).into_iter().collect())
}

/// The same bytes in two runs: a message with a seam.
pub fn parted(len: usize, seed: u64) -> Payload {
    let all = bytes(len, seed);
    let (a, b) = all.split_at(len / 3);
    let part = |part: &[u8]| {
        let mut run = run(part.len());
        run.bytes_mut().copy_from_slice(part);
        run.freeze().slice_all()
    };
    Payload::Pages([part(a), part(b)].into_iter().collect())
}

/// Pages with these bytes.
pub fn payload(bytes: &[u8]) -> Payload {
    if bytes.is_empty() {
        return Payload::empty();
    }
    let mut run = run(bytes.len());
    run.bytes_mut().copy_from_slice(bytes);
    Payload::Pages([run.freeze().slice_all()].into_iter().collect())
}

/// Pages with the [`bytes`] of a seed, and their sum, which [`sum`] gives of them where they have come.
pub fn summed(len: usize, seed: u64) -> (Payload, u64) {
    (seeded(len, seed), u64::from(crc32fast::hash(&bytes(len, seed))))
}

/// The sum of bytes that were lent.
///
/// # Panics
/// Nothing was lent.
pub fn sum(data: &Data) -> u64 {
    u64::from(crc32fast::hash(&lent(data)))
}

/// Bytes that were lent.
///
/// # Panics
/// Nothing was lent.
pub fn lent(data: &Data) -> Vec<u8> {
    let Data::Lent(pieces) = data else { panic!("nothing was lent: {data:?}") };
    pieces.iter().flat_map(|p| p.bytes().iter().copied()).collect()
}

/// Received bytes of a stream, as its machine reads them.
#[derive(Default)]
pub struct Queue(pub VecDeque<RxFrag>);

impl StreamRx for Queue {
    fn next(&mut self) -> Option<RxFrag> {
        self.0.pop_front()
    }

    fn unread(&mut self, rest: RxFrag) {
        self.0.push_front(rest);
    }
}
