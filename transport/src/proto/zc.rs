//! Zero-copy cookies of one peer (docs/protocol/socklnd.md §6).

use std::collections::VecDeque;

use super::slab::Key;
use crate::wire::Version;
use crate::wire::ksock::{COOKIE_FIRST, COOKIE_KEEPALIVE, KsockHdr, KsockType};

/// A message whose zero-copy ACK has not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) cookie: u64,
    pub(super) lend: Key,
    /// Connection that carries the bytes.
    pub(super) conn: Key,
    /// Stream position of the message's end there.
    pub(super) end: u64,
    /// When the set is given up.
    pub(super) deadline: u64,
}

/// What the ACK words of a ksock header say (socklnd.md §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acks {
    /// Nothing, or a keepalive.
    None,
    /// One cookie.
    One(u64),
    /// Exactly two.
    Two(u64, u64),
    /// All from the first to the second.
    Range(u64, u64),
    /// A keepalive with a second word: a protocol error.
    Bad,
}

/// Reads the ACK words of a header. V2 knows no keepalive: there 1 is a cookie that was never given out.
pub(super) fn acks(version: Version, h: &KsockHdr) -> Acks {
    let (c0, c1) = (h.cookie0, h.cookie1);
    let keepalive = c1 == COOKIE_KEEPALIVE && version.is_typed();
    match h.kind {
        _ if c1 == 0 => Acks::None,
        KsockType::Lnet if keepalive => Acks::None,
        KsockType::Lnet => Acks::One(c1),
        KsockType::Noop if keepalive && c0 <= COOKIE_KEEPALIVE => Acks::None,
        KsockType::Noop if keepalive => Acks::Bad,
        KsockType::Noop if c0 == 0 => Acks::One(c1),
        KsockType::Noop if c0 > c1 => Acks::Two(c0, c1),
        KsockType::Noop => Acks::Range(c0, c1),
    }
}

/// The pending cookies of a peer, oldest first. The counter lives as long as the set of connections and restarts
/// with it, as kernels' do.
#[derive(Debug)]
pub(super) struct ZcTable {
    next: u64,
    /// Sorted by cookie. ACKed entries in the middle stay as holes until they reach the front.
    pending: VecDeque<(Pending, bool)>,
    live: usize,
}

impl ZcTable {
    pub(super) fn new() -> ZcTable {
        ZcTable { next: COOKIE_FIRST, pending: VecDeque::new(), live: 0 }
    }

    /// Cookies pending.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// Gives the next message its cookie.
    pub(super) fn request(&mut self, lend: Key, conn: Key, end: u64, deadline: u64) -> u64 {
        let cookie = self.next;
        // 0 and 1 have meanings of their own; a u64 does not get there in practice.
        self.next = cookie.checked_add(1).unwrap_or(COOKIE_FIRST);
        self.pending.push_back((Pending { cookie, lend, conn, end, deadline }, true));
        self.live += 1;
        cookie
    }

    fn find(&self, cookie: u64) -> Option<usize> {
        let i = self.pending.binary_search_by_key(&cookie, |(p, _)| p.cookie).ok()?;
        self.pending.get(i).is_some_and(|(_, live)| *live).then_some(i)
    }

    /// Takes the ACKed cookies out, calling `each` on them. `all_sent` says whether a message's bytes have all been
    /// transmitted: an ACK for one that has not is unmatched (a peer cannot have read it).
    ///
    /// # Errors
    /// The first cookie that is not pending; nothing is taken then.
    pub(super) fn ack(
        &mut self,
        acks: Acks,
        all_sent: impl Fn(&Pending) -> bool,
        mut each: impl FnMut(&Pending),
    ) -> Result<(), u64> {
        let matched = |t: &ZcTable, cookie: u64| {
            let i = t.find(cookie).ok_or(cookie)?;
            match t.pending.get(i) {
                Some((p, _)) if all_sent(p) => Ok(i),
                _ => Err(cookie),
            }
        };
        match acks {
            Acks::None => return Ok(()),
            Acks::Bad => return Err(COOKIE_KEEPALIVE),
            Acks::One(a) => {
                let i = matched(self, a)?;
                self.take(i, &mut each);
            }
            Acks::Two(a, b) => {
                let (i, j) = (matched(self, a)?, matched(self, b)?);
                self.take(i, &mut each);
                self.take(j, &mut each);
            }
            Acks::Range(first, last) => {
                // A range longer than what is pending has a hole: this bounds the loop by our own table.
                if last - first >= self.live as u64 {
                    return Err(last);
                }
                for cookie in first..=last {
                    matched(self, cookie)?;
                }
                for cookie in first..=last {
                    if let Some(i) = self.find(cookie) {
                        self.take(i, &mut each);
                    }
                }
            }
        }
        while self.pending.front().is_some_and(|(_, live)| !live) {
            self.pending.pop_front();
        }
        Ok(())
    }

    fn take(&mut self, i: usize, each: &mut impl FnMut(&Pending)) {
        if let Some((p, live)) = self.pending.get_mut(i)
            && *live
        {
            *live = false;
            self.live -= 1;
            each(p);
        }
    }

    /// Everything pending, to be renamed as the peer moves.
    pub(super) fn pending_mut(&mut self) -> impl Iterator<Item = &mut Pending> {
        self.pending.iter_mut().map(|(p, _)| p)
    }

    /// When the oldest pending cookie is overdue.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.pending.iter().find(|(_, live)| *live).map(|(p, _)| p.deadline)
    }

    /// Forgets everything, as the last connection of the set closes; `each` gets what was pending.
    pub(super) fn reset(&mut self, mut each: impl FnMut(&Pending)) {
        for (p, live) in self.pending.drain(..) {
            if live {
                each(&p);
            }
        }
        self.live = 0;
        self.next = COOKIE_FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONN: Key = Key { index: 0, generation: 0 };

    fn table(n: u64) -> ZcTable {
        let mut t = ZcTable::new();
        for i in 0..n {
            assert_eq!(t.request(CONN, CONN, 100 * (i + 1), 50 + i), i + 2);
        }
        t
    }

    fn ack(t: &mut ZcTable, a: Acks) -> Result<Vec<u64>, u64> {
        let mut got = Vec::new();
        t.ack(a, |_| true, |p| got.push(p.cookie)).map(|()| got)
    }

    fn noop(c0: u64, c1: u64) -> Acks {
        acks(Version::V3, &KsockHdr { kind: KsockType::Noop, csum: 0, cookie0: c0, cookie1: c1 })
    }

    fn lnet(c0: u64, c1: u64) -> Acks {
        acks(Version::V3, &KsockHdr { kind: KsockType::Lnet, csum: 0, cookie0: c0, cookie1: c1 })
    }

    #[test]
    fn words() {
        assert_eq!(lnet(9, 0), Acks::None);
        assert_eq!(lnet(9, 1), Acks::None);
        assert_eq!(lnet(9, 7), Acks::One(7));
        assert_eq!(noop(0, 2), Acks::One(2));
        assert_eq!(noop(7, 5), Acks::Two(7, 5));
        assert_eq!(noop(5, 9), Acks::Range(5, 9));
        assert_eq!(noop(5, 5), Acks::Range(5, 5));
        assert_eq!(noop(0, 1), Acks::None);
        assert_eq!(noop(1, 1), Acks::None);
        assert_eq!(noop(2, 1), Acks::Bad);
        assert_eq!(noop(77, 0), Acks::None);
        let v2 = |c0, c1| {
            acks(Version::V2, &KsockHdr { kind: KsockType::Noop, csum: 0, cookie0: c0, cookie1: c1 })
        };
        assert_eq!((v2(0, 1), v2(2, 1), v2(0, 7)), (Acks::One(1), Acks::Two(2, 1), Acks::One(7)));
    }

    #[test]
    fn single_pair_range() {
        let mut t = table(8);
        assert_eq!(ack(&mut t, noop(0, 2)), Ok(vec![2]));
        assert_eq!(ack(&mut t, noop(9, 4)), Ok(vec![9, 4]));
        assert_eq!(ack(&mut t, noop(5, 8)), Ok(vec![5, 6, 7, 8]));
        assert_eq!(t.len(), 1);
        assert_eq!(t.deadline(), Some(51));
        assert_eq!(ack(&mut t, lnet(0, 3)), Ok(vec![3]));
        assert_eq!((t.len(), t.deadline(), t.pending.len()), (0, None, 0));
        assert_eq!(t.request(CONN, CONN, 1, 1), 10);
    }

    #[test]
    fn unmatched_is_refused_whole() {
        let mut t = table(4); // 2..=5
        assert_eq!(ack(&mut t, noop(0, 6)), Err(6));
        assert_eq!(ack(&mut t, noop(6, 2)), Err(6));
        assert_eq!(ack(&mut t, noop(2, 6)), Err(6));
        assert_eq!(ack(&mut t, noop(1, u64::MAX)), Err(u64::MAX));
        assert_eq!(ack(&mut t, noop(2, 1)), Err(1));
        assert_eq!(ack(&mut t, noop(0, 3)), Ok(vec![3]));
        assert_eq!(ack(&mut t, noop(2, 4)), Err(3), "a range with a hole");
        assert_eq!(ack(&mut t, lnet(0, 3)), Err(3), "a duplicate");
        assert_eq!(t.len(), 3);
    }

    #[test]
    fn bytes_not_sent_cannot_be_acked() {
        let mut t = table(2);
        let sent = |p: &Pending| p.end <= 100;
        assert_eq!(t.ack(noop(0, 3), sent, |_| {}), Err(3));
        assert_eq!(t.ack(noop(2, 3), sent, |_| {}), Err(3));
        assert_eq!(t.ack(noop(0, 2), sent, |_| {}), Ok(()));
    }

    #[test]
    fn reset_restarts_the_counter() {
        let mut t = table(3);
        ack(&mut t, noop(0, 3)).unwrap();
        let mut left = Vec::new();
        t.reset(|p| left.push(p.cookie));
        assert_eq!(left, [2, 4]);
        assert_eq!(t.request(CONN, CONN, 1, 1), 2);
    }
}
