//! Operations of a client that have begun and not ended.

/// Operations that are outstanding: completions are matched one by one.
#[derive(Debug)]
pub(super) struct Outstanding {
    /// Tag of the first slot.
    first: u64,
    /// Start of each, in ns, and its bulk payload in bytes.
    slots: Vec<Option<(u64, u64)>>,
    free: Vec<u32>,
}

impl Outstanding {
    pub(super) fn new(n: u64, first: u64) -> Outstanding {
        Outstanding { first, slots: vec![None; n as usize], free: (0..n as u32).rev().collect() }
    }
    pub(super) fn start(&mut self, now: u64, bytes: u64) -> Option<u64> {
        let i = self.free.pop()?;
        self.slots[i as usize] = Some((now, bytes));
        Some(self.first + u64::from(i))
    }
    fn slot(&self, tag: u64) -> Option<usize> {
        usize::try_from(tag.checked_sub(self.first)?).ok().filter(|i| *i < self.slots.len())
    }
    pub(super) fn end(&mut self, tag: u64) -> Option<(u64, u64)> {
        let i = self.slot(tag)?;
        let t = self.slots.get_mut(i)?.take()?;
        self.free.push(i as u32);
        Some(t)
    }
    /// Bulk payload of an operation that is outstanding, in bytes.
    pub(super) fn asked(&self, tag: u64) -> Option<u64> {
        self.slots.get(self.slot(tag)?)?.map(|(_, bytes)| bytes)
    }
    pub(super) fn tags(&self) -> impl Iterator<Item = u64> + '_ {
        (self.first..).zip(&self.slots).filter(|(_, s)| s.is_some()).map(|(tag, _)| tag)
    }
    /// Most that there may be.
    pub(super) fn room(&self) -> usize {
        self.slots.len()
    }
    pub(super) fn count(&self) -> u64 {
        (self.slots.len() - self.free.len()) as u64
    }
}
