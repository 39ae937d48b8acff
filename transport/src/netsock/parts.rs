//! Buffers of which some datagrams have come and others have not.
//!
//! There are few of them: what a sender has begun and not ended is let go after a silence, or for a newer one. Messages have
//! no second chance, so a packet of one that was let go, or that found no buffer, begins nothing: who sends is known by
//! what it sent last.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::list::{Linked, Links, List};
use crate::stream::slab::{Key, Slab};
use crate::wire::netsock::{Addr, Bdesc, PacketHdr};

/// Generations below the highest one seen of a machine that are told apart: what is older has come already, or is lost.
const WINDOW: u64 = 1024;
/// Machines that are remembered for sure.
const MACHINES: usize = 4096;

/// A buffer's packets.
#[derive(Debug)]
pub(super) struct Part {
    /// The buffer that they fill.
    pub(super) buf: Key,
    /// The buffer that they come from.
    pub(super) src: Bdesc,
    /// Whether it is a message.
    pub(super) message: bool,
    /// Bytes of each packet but the last.
    cut: u64,
    total: u64,
    nr: u32,
    have: u32,
    /// Packets that have come.
    bits: SmallVec<[u64; 16]>,
    /// Packets in the order in which they came, where their fragments are lent: one entry a fragment.
    pub(super) order: Vec<u32>,
    /// Time at which the last packet came, in ns.
    pub(super) heard: u64,
    links: Links,
}

impl Linked for Part {
    fn links(&self) -> Links {
        self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl Part {
    fn new(buf: Key, h: &PacketHdr, cut: u64, now: u64) -> Part {
        let words = (h.nr as usize).div_ceil(64);
        Part {
            buf,
            src: h.src,
            message: h.dst.cookie.is_none(),
            cut,
            total: h.total,
            nr: h.nr,
            have: 0,
            bits: SmallVec::from_elem(0, words),
            order: Vec::new(),
            heard: now,
            links: Links::NONE,
        }
    }

    /// Whether a packet is of the same cut of the buffer.
    pub(super) fn is_of(&self, h: &PacketHdr, cut: u64) -> bool {
        (self.src, self.cut, self.total, self.nr) == (h.src, cut, h.total, h.nr)
    }

    /// Whether a packet is here already.
    pub(super) fn has(&self, idx: u32) -> bool {
        self.bits.get(idx as usize / 64).is_none_or(|word| word & 1 << (idx % 64) != 0)
    }

    /// Notes a packet that was not here; whether all are now.
    pub(super) fn note(&mut self, idx: u32) -> bool {
        if let Some(word) = self.bits.get_mut(idx as usize / 64) {
            *word |= 1 << (idx % 64);
            self.have += 1;
        }
        self.have == self.nr
    }
}

/// Messages that a machine has sent: generations of its buffers grow.
#[derive(Clone, Copy, Debug)]
struct Seen {
    high: u64,
    bits: [u64; (WINDOW / 64) as usize],
}

impl Seen {
    fn new(generation: u64) -> Seen {
        Seen { high: generation, bits: [0; (WINDOW / 64) as usize] }
    }

    /// Marks a generation; `false` if it was seen, or is too old to tell.
    fn mark(&mut self, generation: u64) -> bool {
        if generation > self.high {
            if generation - self.high >= WINDOW {
                self.bits = Seen::new(0).bits;
            } else {
                for g in self.high + 1..=generation {
                    self.word(g, |word, bit| *word &= !bit);
                }
            }
            self.high = generation;
        } else if self.high - generation >= WINDOW {
            return false;
        }
        let mut new = false;
        self.word(generation, |word, bit| {
            new = *word & bit == 0;
            *word |= bit;
        });
        new
    }

    fn word(&mut self, generation: u64, f: impl FnOnce(&mut u64, u64)) {
        if let Some(word) = self.bits.get_mut((generation % WINDOW / 64) as usize) {
            f(word, 1 << (generation % 64));
        }
    }
}

/// The buffers that are filled in part, and what machines have sent.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) all: Slab<Part>,
    /// Messages by where they come from.
    messages: HashMap<Bdesc, Key>,
    /// Messages of each machine.
    of: HashMap<Addr, usize>,
    /// Messages, the one that was silent for longest first.
    pub(super) silent: List,
    seen: HashMap<Addr, Seen>,
    seen_before: HashMap<Addr, Seen>,
}

impl Parts {
    pub(super) fn new() -> Parts {
        Parts {
            all: Slab::new(),
            messages: HashMap::new(),
            of: HashMap::new(),
            silent: List::EMPTY,
            seen: HashMap::new(),
            seen_before: HashMap::new(),
        }
    }

    /// The message that is on its way from a buffer.
    pub(super) fn message(&self, src: &Bdesc) -> Option<Key> {
        self.messages.get(src).copied()
    }

    /// Messages of a machine that have come in part.
    pub(super) fn messages_of(&self, addr: &Addr) -> usize {
        self.of.get(addr).copied().unwrap_or(0)
    }

    /// Messages that have come in part.
    pub(super) fn messages(&self) -> usize {
        self.messages.len()
    }

    /// Marks what a machine sent from a buffer as seen; `false` if it was, or is older than can be told.
    pub(super) fn is_new(&mut self, src: &Bdesc) -> bool {
        if !self.seen.contains_key(&src.addr) {
            if self.seen.len() >= MACHINES / 2 {
                self.seen_before = std::mem::take(&mut self.seen);
            }
            let known = self.seen_before.remove(&src.addr);
            self.seen.insert(src.addr, known.unwrap_or(Seen::new(src.cookie.generation)));
        }
        self.seen.get_mut(&src.addr).is_some_and(|s| s.mark(src.cookie.generation))
    }

    pub(super) fn begin(&mut self, buf: Key, h: &PacketHdr, cut: u64, now: u64) -> Key {
        let part = Part::new(buf, h, cut, now);
        let (src, message) = (part.src, part.message);
        let key = self.all.insert(part);
        if message {
            self.messages.insert(src, key);
            *self.of.entry(src.addr).or_default() += 1;
            self.silent.push_back(&mut self.all, key);
        }
        key
    }

    /// A packet of it has come.
    pub(super) fn hear(&mut self, key: Key, now: u64) {
        let Some(part) = self.all.get_mut(key) else { return };
        part.heard = now;
        if part.message {
            self.silent.remove(&mut self.all, key);
            self.silent.push_back(&mut self.all, key);
        }
    }

    /// Forgets one.
    pub(super) fn end(&mut self, key: Key) -> Option<Part> {
        if self.all.get(key)?.message {
            self.silent.remove(&mut self.all, key);
        }
        let part = self.all.remove(key)?;
        if part.message {
            self.messages.remove(&part.src);
            if let Some(n) = self.of.get_mut(&part.src.addr) {
                *n -= 1;
                if *n == 0 {
                    self.of.remove(&part.src.addr);
                }
            }
        }
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_generation_is_new_once_in_any_order_up_to_the_window() {
        let mut s = Seen::new(5000);
        for g in [5000, 5003, 5001, 4999, 6000, 5999, 5002] {
            assert!(s.mark(g), "{g}");
            assert!(!s.mark(g), "{g}");
        }
        assert!(!s.mark(6000 - WINDOW), "too old to tell");
        assert!(s.mark(6000 - WINDOW + 1));
        assert!(s.mark(1 << 40) && !s.mark(1 << 40) && s.mark((1 << 40) - 1) && !s.mark(6001));
        // A window that moved on has nothing of the one before.
        let mut s = Seen::new(0);
        assert!((0..10 * WINDOW).all(|g| s.mark(g)) && (0..10 * WINDOW).all(|g| !s.mark(g)));
    }
}
