//! Pools of buffers that wait to be given to transfer machines (docs/protocol/netxprt.md §6).

use std::collections::VecDeque;

use super::Buffer;

/// Colour of a buffer: who had it last. A machine prefers those of its own colour, which may be in its caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Colour(pub u32);

impl Colour {
    /// No colour in particular.
    pub const ANY: Colour = Colour(u32::MAX);
}

/// Most colours of a pool, each with a list of its own.
const COLOURS_MAX: u32 = 1024;

/// Free buffers, by colour, the one used last behind the others.
#[derive(Debug)]
pub(super) struct Pool {
    /// Behind the colours those of none.
    free: Vec<VecDeque<(u64, Buffer)>>,
    count: usize,
    threshold: usize,
    /// Number of the next buffer that is put back.
    turn: u64,
}

impl Pool {
    pub(super) fn new(threshold: usize, colours: u32) -> Pool {
        let free = (0..=colours.min(COLOURS_MAX)).map(|_| VecDeque::new()).collect();
        Pool { free, count: 0, threshold, turn: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Puts a buffer in; gives whether the pool was empty.
    pub(super) fn put(&mut self, colour: Colour, buffer: Buffer) -> bool {
        let last = self.free.len() - 1;
        let place = (colour.0 as usize).min(last);
        self.turn += 1;
        if let Some(list) = self.free.get_mut(place) {
            list.push_back((self.turn, buffer));
            self.count += 1;
        }
        self.count == 1
    }

    /// Takes a buffer: of that colour the one used last, else of all the one used longest ago. Gives whether the pool is below
    /// its threshold with it.
    pub(super) fn get(&mut self, colour: Colour) -> Option<(Buffer, bool)> {
        let none = self.free.len() - 1;
        let of_colour = self.free.get_mut(colour.0 as usize).filter(|_| (colour.0 as usize) < none);
        let taken = match of_colour.and_then(VecDeque::pop_back) {
            Some(taken) => taken,
            None => {
                let oldest = self.free.iter_mut().min_by_key(|l| l.front().map_or(u64::MAX, |b| b.0))?;
                oldest.pop_front()?
            }
        };
        self.count -= 1;
        Some((taken.1, self.count + 1 == self.threshold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{BufId, Memory};
    use crate::stream::Pages;
    use crate::stream::slab::Key;

    fn buffer(index: u32) -> Buffer {
        let id = BufId(Key { index, generation: 0 });
        Buffer { domain: 0, id, size: 1, gone: 0, mem: Memory::Send(Pages::new()) }
    }

    #[test]
    fn of_a_colour_the_one_used_last_else_of_all_the_one_used_longest_ago() {
        let mut p = Pool::new(2, 2);
        let was_empty = [(0, Colour::ANY), (1, Colour(0)), (2, Colour(1)), (3, Colour(0)), (4, Colour(7))]
            .map(|(n, colour)| p.put(colour, buffer(n)));
        assert_eq!(was_empty, [true, false, false, false, false]);
        let mut get = |colour| p.get(colour).map(|(b, below)| (b.id.0.index, below));
        assert_eq!(get(Colour(0)), Some((3, false)));
        assert_eq!(get(Colour(0)), Some((1, false)));
        assert_eq!(get(Colour(0)), Some((0, false)));
        assert_eq!(get(Colour::ANY), Some((2, true)));
        assert_eq!(get(Colour(1)), Some((4, false)));
        assert_eq!(get(Colour(1)), None);
        assert_eq!(p.len(), 0);
    }
}
