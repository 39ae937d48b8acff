//! Operations of a client that have begun and not ended.

/// An operation that is outstanding.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Start, in ns.
    since: u64,
    /// Bulk payload, in bytes.
    bytes: u64,
    stand: Stand,
}

/// Expectation of an operation's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// It will come.
    Awaited,
    /// It may be lost: others are begun beside it.
    Doubtful,
    /// It counts as lost. The node still has it, and says when it ends.
    GivenUp,
}

/// Operations that are outstanding: completions are matched one by one.
#[derive(Debug)]
pub(super) struct Outstanding {
    /// Tag of the first slot.
    first: u64,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    doubtful: u64,
    given_up: u64,
}

/// An operation that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// Start, in ns.
    pub(super) since: u64,
    /// Bulk payload, in bytes.
    pub(super) bytes: u64,
    /// Its end was never doubted.
    pub(super) awaited: bool,
    /// It has been counted as lost.
    pub(super) given_up: bool,
}

impl Outstanding {
    pub(super) fn new(n: u64, first: u64) -> Outstanding {
        let (slots, free) = (vec![None; n as usize], (0..n as u32).rev().collect());
        Outstanding { first, slots, free, doubtful: 0, given_up: 0 }
    }
    pub(super) fn start(&mut self, now: u64, bytes: u64) -> Option<u64> {
        let i = self.free.pop()?;
        self.slots[i as usize] = Some(Slot { since: now, bytes, stand: Stand::Awaited });
        Some(self.first + u64::from(i))
    }
    fn slot(&self, tag: u64) -> Option<usize> {
        usize::try_from(tag.checked_sub(self.first)?).ok().filter(|i| *i < self.slots.len())
    }
    pub(super) fn end(&mut self, tag: u64) -> Option<Ended> {
        let i = self.slot(tag)?;
        let Slot { since, bytes, stand } = self.slots.get_mut(i)?.take()?;
        self.free.push(i as u32);
        self.doubtful -= u64::from(stand == Stand::Doubtful);
        self.given_up -= u64::from(stand == Stand::GivenUp);
        let (awaited, given_up) = (stand == Stand::Awaited, stand == Stand::GivenUp);
        Some(Ended { since, bytes, awaited, given_up })
    }
    /// Nothing ends: all that are awaited may be lost.
    pub(super) fn doubt(&mut self) {
        for s in self.slots.iter_mut().flatten().filter(|s| s.stand == Stand::Awaited) {
            s.stand = Stand::Doubtful;
            self.doubtful += 1;
        }
    }
    /// Counts those as lost that may be, and have begun by then; gives how many.
    pub(super) fn give_up(&mut self, by: u64) -> u64 {
        let mut n = 0;
        for s in self.slots.iter_mut().flatten().filter(|s| s.stand == Stand::Doubtful && s.since <= by) {
            s.stand = Stand::GivenUp;
            n += 1;
        }
        self.doubtful -= n;
        self.given_up += n;
        n
    }
    /// Bulk payload of an operation that is outstanding, in bytes.
    pub(super) fn asked(&self, tag: u64) -> Option<u64> {
        self.slots.get(self.slot(tag)?)?.map(|s| s.bytes)
    }
    /// Tags of all of which the node will say something.
    pub(super) fn tags(&self) -> impl Iterator<Item = u64> + '_ {
        (self.first..).zip(&self.slots).filter(|(_, s)| s.is_some()).map(|(tag, _)| tag)
    }
    /// Most that there may be.
    pub(super) fn room(&self) -> usize {
        self.slots.len()
    }
    /// Whether one more may begin.
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }
    /// Those whose end has not come and that are not given up.
    pub(super) fn count(&self) -> u64 {
        (self.slots.len() - self.free.len()) as u64 - self.given_up
    }
    /// Those that may be lost.
    pub(super) fn doubtful(&self) -> u64 {
        self.doubtful
    }
    /// Those whose end is awaited.
    pub(super) fn awaited(&self) -> u64 {
        self.count() - self.doubtful
    }
}
