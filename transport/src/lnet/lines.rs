//! Lines of those who wait for router buffers of one class (`buffers.rs`): peers in the order in which they came, those that have
//! something for a network in the same order, and those that wait until others hold fewer.
//!
//! Strangers decide how many stand there, so nothing goes through them all: each step costs the logarithm of their number.

use std::collections::BTreeMap;

use crate::lnd::NIS_MAX;
use crate::stream::slab::Key;
use crate::wire::Nid;

/// Those for whose sake a peer waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sake {
    /// Its host's other peers have their part.
    Host(Key),
    /// Messages for this NID have theirs.
    Dest(Nid),
}

/// The standing of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// It waits for nothing, or may not hold one more.
    #[default]
    Nowhere,
    /// In the line.
    Line,
    /// Among those who wait for that sake.
    Crowd(Sake),
}

/// A peer's place.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    standing: Standing,
    serial: u64,
    /// Networks for which it has something, a bit each: in the line only.
    nets: u16,
}

const _: () = assert!(NIS_MAX <= u16::BITS as usize);

/// The lines of a class.
#[derive(Debug, Default)]
pub(super) struct Lines {
    serial: u64,
    line: BTreeMap<u64, Key>,
    to: BTreeMap<(u8, u64), Key>,
    crowd: BTreeMap<(Sake, u64), Key>,
}

impl Lines {
    /// Peers in the line.
    pub(super) fn len(&self) -> usize {
        self.line.len()
    }

    /// The peer that stands first.
    pub(super) fn first(&self) -> Option<Key> {
        self.line.first_key_value().map(|(_, key)| *key)
    }

    /// Peers in the line that have something for a network, by the place of its first NI.
    pub(super) fn for_net(&self, out: u8) -> impl Iterator<Item = Key> + '_ {
        self.to.range((out, 0)..=(out, u64::MAX)).map(|(_, key)| *key)
    }

    /// The peer that has waited longest for these to hold fewer.
    pub(super) fn crowded(&self, sake: Sake) -> Option<Key> {
        self.crowd.range((sake, 0)..=(sake, u64::MAX)).next().map(|(_, key)| *key)
    }

    /// Any peer that waits for others' sake.
    pub(super) fn any_crowded(&self) -> Option<Key> {
        self.crowd.first_key_value().map(|(_, key)| *key)
    }

    /// A peer that has something for these networks stands last in the line, unless it stands somewhere.
    pub(super) fn stand(&mut self, key: Key, place: &mut Place, nets: impl Iterator<Item = u8>) {
        if place.standing == Standing::Nowhere {
            self.serial += 1;
            *place = Place { standing: Standing::Line, serial: self.serial, nets: 0 };
            self.line.insert(place.serial, key);
            nets.for_each(|out| self.wants(key, place, out));
        }
    }

    /// A peer has something for this network, too.
    pub(super) fn wants(&mut self, key: Key, place: &mut Place, out: u8) {
        let bit = 1u16.checked_shl(out.into()).unwrap_or(0);
        if place.standing == Standing::Line && place.nets & bit == 0 {
            place.nets |= bit;
            self.to.insert((out, place.serial), key);
        }
    }

    /// A peer has nothing more for this network.
    pub(super) fn wants_no_more(&mut self, place: &mut Place, out: u8) {
        let bit = 1u16.checked_shl(out.into()).unwrap_or(0);
        if place.nets & bit != 0 {
            place.nets &= !bit;
            self.to.remove(&(out, place.serial));
        }
    }

    /// A peer waits for others' sake.
    pub(super) fn crowds(&mut self, key: Key, place: &mut Place, sake: Sake) {
        self.leave(place);
        self.serial += 1;
        *place = Place { standing: Standing::Crowd(sake), serial: self.serial, nets: 0 };
        self.crowd.insert((sake, place.serial), key);
    }

    /// A peer stands nowhere any more.
    pub(super) fn leave(&mut self, place: &mut Place) {
        let Place { standing, serial, nets } = std::mem::take(place);
        match standing {
            Standing::Nowhere => {}
            Standing::Line => {
                self.line.remove(&serial);
                for out in (0..NIS_MAX as u8).filter(|out| nets >> out & 1 != 0) {
                    self.to.remove(&(out, serial));
                }
            }
            Standing::Crowd(sake) => drop(self.crowd.remove(&(sake, serial))),
        }
    }
}

impl Place {
    /// Whether it stands somewhere.
    pub(super) fn is_taken(&self) -> bool {
        self.standing != Standing::Nowhere
    }

    /// Whether it waits for the sake of messages for the NID of its own.
    pub(super) fn is_behind(&self) -> bool {
        matches!(self.standing, Standing::Crowd(Sake::Dest(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u32) -> Key {
        Key { index, generation: 0 }
    }

    #[test]
    fn each_stands_once_and_leaves_nothing_behind() {
        let mut lines = Lines::default();
        let mut places = [Place::default(); 4];
        for (n, p) in places.iter_mut().enumerate() {
            lines.stand(key(n as u32), p, [n as u8 % 2, 5].into_iter());
            lines.stand(key(n as u32), p, [9].into_iter());
        }
        assert_eq!((lines.len(), lines.first()), (4, Some(key(0))));
        assert_eq!(lines.for_net(1).collect::<Vec<_>>(), [key(1), key(3)]);
        assert_eq!((lines.for_net(5).count(), lines.for_net(9).count()), (4, 0));
        lines.wants(key(2), &mut places[2], 9);
        assert_eq!(lines.for_net(9).collect::<Vec<_>>(), [key(2)]);
        lines.wants_no_more(&mut places[2], 9);
        assert_eq!(lines.for_net(9).count(), 0);
        // Two of one host step aside, and come back as they went.
        let host = Sake::Host(key(77));
        for n in [1, 0] {
            lines.crowds(key(n), &mut places[n as usize], host);
        }
        assert_eq!(
            (lines.first(), lines.crowded(host), lines.crowded(Sake::Host(key(78)))),
            (Some(key(2)), Some(key(1)), None)
        );
        assert_eq!(lines.for_net(5).collect::<Vec<_>>(), [key(2), key(3)]);
        lines.wants(key(1), &mut places[1], 3);
        assert_eq!(lines.for_net(3).count(), 0, "not in the line");
        lines.leave(&mut places[1]);
        lines.stand(key(1), &mut places[1], [3].into_iter());
        assert_eq!(lines.for_net(3).collect::<Vec<_>>(), [key(1)]);
        assert_eq!(lines.any_crowded(), Some(key(0)));
        places.iter_mut().for_each(|p| lines.leave(p));
        assert!(places.iter().all(|p| !p.is_taken()));
        assert!(lines.line.is_empty() && lines.to.is_empty() && lines.crowd.is_empty());
    }
}
