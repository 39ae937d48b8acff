//! The services of tests in the model: BRW and ping (selftest.md §4.2, §4.3), and the patterns of their data.

use super::{DATA, Selftest, WORK};
use crate::testing::rng::Rng;
use crate::testing::srpc::{BULK, BULK_LEN, Srpc, errno, kind};
use crate::wire::ByteOrder;

/// The word that a ping carries.
pub(super) const PING_MAGIC: u64 = 0xBABE_FACE;
/// The word that data is made of.
const PATTERN: u64 = 0xEEB0_EEB1_EEB2_EEB3;
const PAGE: usize = 4096;
/// Flags: what is checked.
const NONE: u32 = 1;
const SIMPLE: u32 = 2;
const FULL: u32 = 3;
const DISCARD: u32 = 4;

/// Fragments of a buffer that begins at this offset of a page.
fn fragments(len: usize, off: u32) -> Vec<std::ops::Range<usize>> {
    let (mut out, mut at, mut room) = (Vec::new(), 0, PAGE - off as usize % PAGE);
    while at < len {
        let end = len.min(at + room);
        out.push(at..end);
        (at, room) = (end, PAGE);
    }
    out
}

/// Bytes as a kernel sends them: with a simple check the first and last word of each fragment alone.
pub(super) fn filled(len: u32, off: u32, flags: u32, rng: &mut Rng) -> Vec<u8> {
    let word = PATTERN.to_le_bytes();
    let mut out = vec![rng.word() as u8; len as usize];
    match flags {
        FULL => out.chunks_mut(8).for_each(|c| c.copy_from_slice(&word[..c.len()])),
        SIMPLE => {
            for f in fragments(len as usize, off) {
                if f.len() >= 8 {
                    out[f.start..f.start + 8].copy_from_slice(&word);
                    out[f.end - 8..f.end].copy_from_slice(&word);
                }
            }
        }
        _ => {}
    }
    out
}

/// Whether data is what its check wants, in fragments of the receiver's.
pub(super) fn right(data: &[u8], off: u32, flags: u32, order: ByteOrder) -> bool {
    let good = |b: &[u8]| b.len() < 8 || order.u64(b, 0) == PATTERN;
    match flags {
        FULL => data.chunks(8).all(good),
        SIMPLE => fragments(data.len(), off).into_iter().all(|f| {
            let f = &data[f];
            good(f) && f.len().checked_sub(8).is_none_or(|last| good(&f[last..]))
        }),
        _ => true,
    }
}

impl Selftest {
    /// A request of a test.
    pub(super) fn serve(&mut self, now: u64, work: u64) {
        let Some(w) = self.works.get(&work) else { return };
        let (q, from) = (w.request.clone(), w.from);
        if q.kind() == kind::PING {
            return self.pinged(now, work, &q);
        }
        let [rw, len, flags] = ["rw", "len", "flags"].map(|f| q.word(f));
        // A kernel dies of any status that it would give here, and of a length that is no multiple of 8 (§6).
        let known = q.features() & !BULK_LEN == 0 && q.word("version") == 1;
        let whole = q.features() & BULK_LEN != 0 || len.is_multiple_of(PAGE as u32);
        let good = known && whole && matches!(rw, 1 | 2) && (NONE..=DISCARD).contains(&flags);
        assert!(
            good && len > 0 && len <= 1 << 20 && len.is_multiple_of(8),
            "the kernel panics of a BRW request: {q:?}"
        );
        let bits = q.get("bulkid");
        let token = WORK | (work * 4 + DATA);
        if rw == 2 {
            self.lnet.get(now, from, bits, len, token);
        } else {
            let bytes = filled(len, 0, flags, &mut self.rng);
            self.lnet.put(now, from, (BULK, bits), bytes, token);
        }
    }

    fn pinged(&mut self, now: u64, work: u64, q: &Srpc) {
        if q.get("ping_magic") != PING_MAGIC {
            self.rpc.dropped += 1;
            self.works.remove(&work);
            return;
        }
        let unknown = q.features() & !BULK_LEN != 0;
        let (features, status) = if unknown { (BULK_LEN, errno::EPROTO) } else { (q.features(), 0) };
        let r = Srpc::new(kind::PING + 1, features).with("status", u64::from(status));
        let r = r.with("ping_magic", PING_MAGIC).with("seq", q.get("seq"));
        self.reply(now, work, &r);
    }

    fn brw_reply(&mut self, now: u64, work: u64, status: u32) {
        let Some(w) = self.works.get(&work) else { return };
        let r = Srpc::new(kind::BRW + 1, w.request.features()).with("status", u64::from(status));
        self.reply(now, work, &r);
    }

    /// The data of a write.
    pub(super) fn written(&mut self, now: u64, work: u64, data: &[u8]) {
        let Some(w) = self.works.get(&work) else { return };
        let q = &w.request;
        if data.len() != q.get("len") as usize {
            // Less than was asked for: the bulk has failed, and there is no reply.
            self.rpc.errors += 1;
            self.works.remove(&work);
            return;
        }
        let good = right(data, 0, q.word("flags"), q.order());
        self.brw_reply(now, work, if good { 0 } else { errno::EBADMSG });
    }

    /// The bulk of a read has been acknowledged.
    pub(super) fn read_sent(&mut self, now: u64, work: u64) {
        self.brw_reply(now, work, 0);
    }
}
