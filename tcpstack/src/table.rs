//! From a segment's addresses to its connection: open addressing, one probe sequence, no allocation per look-up.

use crate::addr::Addr;

/// A connection's addresses, seen from this end. Both are of one family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Key {
    /// Our address.
    pub local: Addr,
    /// The peer's address.
    pub remote: Addr,
    /// Our port in the upper half, the peer's in the lower.
    pub ports: u32,
}

impl Key {
    /// A key from addresses and ports.
    pub fn new(local: Addr, lport: u16, remote: Addr, rport: u16) -> Key {
        Key { local, remote, ports: u32::from(lport) << 16 | u32::from(rport) }
    }

    /// A key from IPv4 addresses in host order, and ports.
    pub fn v4(local: u32, lport: u16, remote: u32, rport: u16) -> Key {
        Key::new(Addr::v4(local), lport, Addr::v4(remote), rport)
    }

    /// Whether it is a connection over IPv6.
    #[inline]
    pub fn is_v6(&self) -> bool {
        self.local.is_v6()
    }

    /// Our port.
    pub fn lport(&self) -> u16 {
        (self.ports >> 16) as u16
    }

    /// The peer's port.
    pub fn rport(&self) -> u16 {
        self.ports as u16
    }
}

/// Place that a key leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A connection, by slot.
    Flow(u32),
    /// A TIME-WAIT entry, by slot.
    TimeWait(u32),
}

const EMPTY: u32 = u32::MAX;
const TW: u32 = 1 << 31;

#[derive(Clone, Copy)]
struct Cell {
    key: Key,
    val: u32,
}

const _: () = assert!(size_of::<Cell>() == 40);

/// The table. Keyed by a secret, so that a peer cannot aim its ports at one bucket.
pub struct FlowTable {
    cells: Vec<Cell>,
    len: usize,
    secret: [u64; 2],
}

fn pack(p: Place) -> u32 {
    match p {
        Place::Flow(i) => i,
        Place::TimeWait(i) => i | TW,
    }
}

#[inline]
fn unpack(v: u32) -> Place {
    if v & TW == 0 { Place::Flow(v) } else { Place::TimeWait(v & !TW) }
}

impl FlowTable {
    /// Memory for one entry, in bytes, at the fullest that the table gets.
    pub const BYTES_AN_ENTRY: usize = 2 * size_of::<Cell>();

    /// An empty table.
    pub fn new(secret: [u64; 2]) -> FlowTable {
        FlowTable { cells: vec![Cell { key: Key::default(), val: EMPTY }; 64], len: 0, secret }
    }

    /// Two folded multiplications by halves of the addresses that the secret hides: who does not know it can
    /// neither aim at a cell nor find two keys that meet.
    #[inline]
    fn slot(&self, k: &Key) -> usize {
        let half = |a: &Addr| {
            let x = u128::from_ne_bytes(a.0);
            ((x >> 64) as u64, x as u64)
        };
        let fold = |a: u64, b: u64| {
            let p = u128::from(a) * u128::from(b);
            (p >> 64) as u64 ^ p as u64
        };
        let ((a, b), (c, d)) = (half(&k.remote), half(&k.local));
        let peer = fold(a ^ self.secret[0], b ^ self.secret[1]);
        let rest = c.rotate_left(32) ^ d ^ u64::from(k.ports).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        fold(peer ^ self.secret[1], rest ^ self.secret[0]) as usize & (self.cells.len() - 1)
    }

    /// The place that `k` leads to.
    #[inline]
    pub fn get(&self, k: &Key) -> Option<Place> {
        let mask = self.cells.len() - 1;
        let mut i = self.slot(k);
        // At most half of the cells are taken, so an empty one ends the walk.
        loop {
            let c = &self.cells[i];
            if c.val == EMPTY {
                return None;
            }
            if c.key == *k {
                return Some(unpack(c.val));
            }
            i = (i + 1) & mask;
        }
    }

    /// Sets the place that `k` leads to, whether or not there was one.
    pub fn insert(&mut self, k: Key, p: Place) {
        if (self.len + 1) * 2 > self.cells.len() {
            let empty = vec![Cell { key: Key::default(), val: EMPTY }; self.cells.len() * 2];
            let old = std::mem::replace(&mut self.cells, empty);
            self.len = 0;
            for c in old.into_iter().filter(|c| c.val != EMPTY) {
                self.put(c);
            }
        }
        self.put(Cell { key: k, val: pack(p) });
    }

    fn put(&mut self, c: Cell) {
        let mask = self.cells.len() - 1;
        let mut i = self.slot(&c.key);
        while self.cells[i].val != EMPTY && self.cells[i].key != c.key {
            i = (i + 1) & mask;
        }
        self.len += usize::from(self.cells[i].val == EMPTY);
        self.cells[i] = c;
    }

    /// Takes `k` out. The cells behind it move up, so no tombstones pile up.
    pub fn remove(&mut self, k: &Key) -> Option<Place> {
        let mask = self.cells.len() - 1;
        let mut i = self.slot(k);
        while self.cells[i].key != *k {
            if self.cells[i].val == EMPTY {
                return None;
            }
            i = (i + 1) & mask;
        }
        if self.cells[i].val == EMPTY {
            return None;
        }
        let was = unpack(self.cells[i].val);
        self.len -= 1;
        let mut j = i;
        loop {
            self.cells[i].val = EMPTY;
            loop {
                j = (j + 1) & mask;
                if self.cells[j].val == EMPTY {
                    return Some(was);
                }
                let home = self.slot(&self.cells[j].key);
                // Movable unless its home lies cyclically in (i, j].
                if (j.wrapping_sub(home) & mask) >= (j.wrapping_sub(i) & mask) {
                    break;
                }
            }
            self.cells[i] = self.cells[j];
            i = j;
        }
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn behaves_as_a_map_under_random_use() {
        let mut t = FlowTable::new([3, 5]);
        let mut m = HashMap::new();
        let mut r = 1u64;
        for n in 0..60_000u32 {
            r ^= r << 13;
            r ^= r >> 7;
            r ^= r << 17;
            let mut k = Key::v4(1, (r % 50) as u16, 2, (r >> 20 & 63) as u16);
            if r & 1 << 30 != 0 {
                k.remote = Addr::link_local([0, 0, 0, 0, 0, (r >> 31 & 3) as u8]);
            }
            if r >> 40 & 3 == 0 {
                assert_eq!(t.remove(&k), m.remove(&k));
            } else {
                let p = if n & 1 == 0 { Place::Flow(n) } else { Place::TimeWait(n) };
                t.insert(k, p);
                m.insert(k, p);
            }
            assert_eq!(t.len(), m.len());
            assert_eq!(t.get(&k), m.get(&k).copied());
        }
        for (k, p) in &m {
            assert_eq!(t.get(k), Some(*p));
        }
    }

    #[test]
    fn the_all_zero_key_is_a_key_like_any_other() {
        let mut t = FlowTable::new([0, 0]);
        assert_eq!((t.get(&Key::default()), t.remove(&Key::default())), (None, None));
        t.insert(Key::default(), Place::Flow(7));
        assert_eq!(t.remove(&Key::default()), Some(Place::Flow(7)));
        assert!(t.is_empty());
    }
}
