//! Zero-copy cookies of one peer (docs/protocol/socklnd.md §6): what becomes of each.
//!
//! ```text
//!           Request / holds pages             Ack / lifts the hold
//!    FREE -----------------------> PENDING -----------------------> ACKED
//!    ^  ^                             |                               |
//!    |  '-- Reset / message fails ----'                               |
//!    '----- Oldest, Reset --------------------------------------------'
//!
//!    PENDING: EarlyAck, Overdue / closes the set;  ConnLost / message fails --> LOST
//!    LOST:    Ack, EarlyAck / nothing --> ACKED;  Reset --> FREE
//!    ACKED:   Ack, EarlyAck / closes the set (a second ACK)
//!    FREE:    Ack, EarlyAck / closes the set (never given out, or long done)
//! ```
//!
//! `EarlyAck` is an ACK for a message whose headers have not been transmitted: no peer can have read them. The payload need
//! not have been: a peer that drops the message ACKs it as soon as it has the headers (socklnd.md §6.3). Progress is
//! asked when the ACK comes, so that it costs the table nothing on the way. An ACKED cookie stays in the table
//! until it is the oldest, and so a second ACK for it is known to be one. As the set closes every cookie is `Reset`; a
//! cookie is LOST while the set of a connection that died is read to its end, where its ACK may still be.

use std::collections::VecDeque;

use fsm::Fsm;

use crate::stream::slab::Key;
use crate::wire::Version;
use crate::wire::ksock::{COOKIE_FIRST, COOKIE_KEEPALIVE, KsockHdr, KsockType};

/// A message whose zero-copy ACK has not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) cookie: u64,
    pub(super) lend: Key,
    /// Connection that carries the bytes.
    pub(super) conn: Key,
    /// Stream position there behind the message's headers.
    pub(super) head: u64,
    /// Time at which the set is given up.
    pub(super) deadline: u64,
}

fsm::fsm! {
    /// States of a cookie.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Cookie {
        /// Not given out, or done and forgotten.
        Free,
        /// Its ACK is to come.
        Pending,
        /// Its ACK has come; an older one's has not.
        Acked,
        /// Its connection is gone.
        Lost,
    }

    /// Events of a cookie.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum ZcEvent {
        /// A message takes it.
        Request,
        /// Its ACK comes, and the message's headers have been transmitted.
        Ack,
        /// Its ACK comes before that.
        EarlyAck,
        /// Its time is over.
        Overdue,
        /// Its connection is gone, and the set will follow.
        ConnLost,
        /// No older cookie is in the table.
        Oldest,
        /// The set of connections ends.
        Reset,
    }

    /// Consequences for its message.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum ZcAction {
        /// Nothing.
        None,
        /// Its pages are held.
        Hold,
        /// The hold is lifted.
        Lift,
        /// The message fails.
        Fail,
        /// The set of connections is closed.
        CloseSet,
    }

    table Cookie + ZcEvent => ZcAction {
        start Free;
        else "it cannot be";
        Free + Request => Pending, Hold;
        Pending + Ack => Acked, Lift;
        Pending + EarlyAck | Overdue => same, CloseSet;
        Pending + Reset => Free, Fail;
        Pending + ConnLost => Lost, Fail;
        Lost + Ack | EarlyAck => Acked, None;
        Lost + Reset => Free, None;
        Free | Acked + Ack | EarlyAck => same, CloseSet;
        Acked + Oldest | Reset => Free, None;
    }
}

/// Cookies that the ACK words of a ksock header acknowledge (socklnd.md §6.3).
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

/// The cookies of a peer that are not free, oldest first. The counter lives as long as the set of connections and
/// restarts with it, as kernels' do.
#[derive(Debug)]
pub(super) struct ZcTable {
    next: u64,
    /// One cookie after the other.
    cookies: VecDeque<(Pending, Fsm<Cookie>)>,
    pending: usize,
    /// Those whose connection is gone.
    lost: usize,
}

impl ZcTable {
    pub(super) fn new() -> ZcTable {
        ZcTable::starting_at(COOKIE_FIRST)
    }

    /// One whose first cookie is `next`.
    pub(super) fn starting_at(next: u64) -> ZcTable {
        ZcTable { next, cookies: VecDeque::new(), pending: 0, lost: 0 }
    }

    /// Cookies pending.
    pub(super) fn len(&self) -> usize {
        self.pending
    }

    /// Gives the next message its cookie.
    pub(super) fn request(&mut self, lend: Key, conn: Key, head: u64, deadline: u64) -> u64 {
        let cookie = self.next;
        // 0 and 1 have meanings of their own; a u64 does not get there in practice.
        self.next = cookie.checked_add(1).unwrap_or(COOKIE_FIRST);
        let mut state = Fsm::<Cookie>::START;
        if state.apply(ZcEvent::Request) == Some(ZcAction::Hold) {
            self.cookies.push_back((Pending { cookie, lend, conn, head, deadline }, state));
            self.pending += 1;
        }
        cookie
    }

    /// Place of a cookie in the table: its distance from the oldest, since none but 0 and 1 is left out.
    fn find(&self, cookie: u64) -> Option<usize> {
        let (first, _) = self.cookies.front()?;
        let distance = match cookie.checked_sub(first.cookie) {
            Some(d) => d,
            None => cookie.checked_sub(COOKIE_FIRST)?.checked_add(u64::MAX - first.cookie)?.checked_add(1)?,
        };
        let at = usize::try_from(distance).ok()?;
        self.cookies.get(at).is_some_and(|(p, _)| p.cookie == cookie).then_some(at)
    }

    /// Place of a cookie that an ACK may take.
    ///
    /// # Errors
    /// The cookie, if it is not pending or its headers have not been sent.
    fn ackable(&self, cookie: u64, head_sent: &impl Fn(&Pending) -> bool) -> Result<usize, u64> {
        let found = self.find(cookie);
        let (state, event) = match found.and_then(|at| self.cookies.get(at)) {
            Some((p, state)) if head_sent(p) => (*state, ZcEvent::Ack),
            Some((_, state)) => (*state, ZcEvent::EarlyAck),
            None => (Fsm::START, ZcEvent::Ack),
        };
        match (found, state.would(event)) {
            (Some(at), Some(ZcAction::Lift | ZcAction::None)) => Ok(at),
            _ => Err(cookie),
        }
    }

    /// Takes the ACKed cookies out, calling `each` on them. `head_sent` says whether a message's headers have been
    /// transmitted: an ACK for one whose have not is unmatched (a peer cannot have read them). The work is bounded by what
    /// is pending, whatever the ACK says.
    ///
    /// # Errors
    /// The first cookie that is not pending; nothing is taken then.
    pub(super) fn ack(
        &mut self,
        acks: Acks,
        head_sent: impl Fn(&Pending) -> bool,
        mut each: impl FnMut(&Pending),
    ) -> Result<(), u64> {
        match acks {
            Acks::None => return Ok(()),
            Acks::Bad => return Err(COOKIE_KEEPALIVE),
            Acks::One(a) => {
                let i = self.ackable(a, &head_sent)?;
                self.take(i, &mut each);
            }
            Acks::Two(a, b) => {
                let (i, j) = (self.ackable(a, &head_sent)?, self.ackable(b, &head_sent)?);
                self.take(i, &mut each);
                self.take(j, &mut each);
            }
            Acks::Range(first, last) => {
                // A range longer than all that may be ACKed has a hole.
                if last - first >= (self.pending + self.lost) as u64 {
                    return Err(last);
                }
                let mut from = None;
                for cookie in first..=last {
                    let at = self.ackable(cookie, &head_sent)?;
                    from = from.or(Some(at));
                }
                let count = (last - first) as usize + 1;
                for at in from.into_iter().flat_map(|from| from..from + count) {
                    self.take(at, &mut each);
                }
            }
        }
        while let Some((_, state)) = self.cookies.front_mut()
            && state.apply(ZcEvent::Oldest).is_some()
        {
            self.cookies.pop_front();
        }
        Ok(())
    }

    fn take(&mut self, at: usize, each: &mut impl FnMut(&Pending)) {
        let Some((p, state)) = self.cookies.get_mut(at) else { return };
        let was = state.get();
        let Some(action) = state.apply(ZcEvent::Ack) else { return };
        self.lost -= usize::from(was == Cookie::Lost).min(self.lost);
        if action == ZcAction::Lift {
            self.pending -= 1;
            each(p);
        }
    }

    /// A connection is gone: what it carried has failed.
    pub(super) fn lost(&mut self, conn: Key) {
        for (p, state) in self.cookies.iter_mut().filter(|(p, _)| p.conn == conn) {
            if state.apply(ZcEvent::ConnLost) == Some(ZcAction::Fail) {
                p.deadline = u64::MAX;
                self.pending -= 1;
                self.lost += 1;
            }
        }
    }

    /// Everything in the table, to be renamed as the peer moves.
    pub(super) fn pending_mut(&mut self) -> impl Iterator<Item = &mut Pending> {
        self.cookies.iter_mut().map(|(p, _)| p)
    }

    /// When the oldest pending cookie is overdue: it is the front, which is never an ACKed one.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.cookies.front().map(|(p, _)| p.deadline)
    }

    /// Whether the set has to be closed since the oldest cookie is overdue at `now`.
    pub(super) fn overdue(&self, now: u64) -> bool {
        self.cookies.front().is_some_and(|(p, state)| {
            p.deadline <= now && state.would(ZcEvent::Overdue) == Some(ZcAction::CloseSet)
        })
    }

    /// Forgets everything, as the last connection of the set closes; `each` gets what was pending.
    pub(super) fn reset(&mut self, mut each: impl FnMut(&Pending)) {
        for (p, mut state) in self.cookies.drain(..) {
            if state.apply(ZcEvent::Reset) == Some(ZcAction::Fail) {
                each(&p);
            }
        }
        (self.pending, self.lost) = (0, 0);
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
        assert_eq!((t.len(), t.deadline(), t.cookies.len()), (0, None, 0));
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
        let sent = |p: &Pending| p.head <= 100;
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

    #[test]
    fn the_counter_wraps_past_0_and_1() {
        let mut t = ZcTable::starting_at(u64::MAX - 1);
        let given: Vec<u64> = (0..4).map(|_| t.request(CONN, CONN, 1, 1)).collect();
        assert_eq!(given, [u64::MAX - 1, u64::MAX, 2, 3]);
        assert_eq!(ack(&mut t, noop(0, u64::MAX)), Ok(vec![u64::MAX]));
        assert_eq!(ack(&mut t, noop(2, 3)), Ok(vec![2, 3]));
        assert_eq!(ack(&mut t, noop(0, 2)), Err(2), "a duplicate behind the wrap");
        assert_eq!(ack(&mut t, noop(0, 4)), Err(4));
        assert_eq!(ack(&mut t, noop(0, u64::MAX - 1)), Ok(vec![u64::MAX - 1]));
        assert_eq!((t.len(), t.cookies.len()), (0, 0));
    }

    /// 2^63 cookies in 24 bytes: refused by looking at none of them, or at those that are pending.
    #[test]
    fn hostile_ranges_cost_what_is_pending() {
        for n in [0, 1, 8] {
            for (first, last) in [(2, 1 << 63), (2, u64::MAX), (1, 1 << 63), (1, u64::MAX), (2, 100)] {
                let (mut t, looked) = (table(n), std::cell::Cell::new(0));
                let sent = |_: &Pending| {
                    looked.set(looked.get() + 1);
                    true
                };
                assert!(t.ack(noop(first, last), sent, |_| {}).is_err());
                assert_eq!((looked.get(), t.len()), (0, n as usize), "{first} to {last}");
            }
        }
        // As long as what is pending, but beside it.
        let (mut t, looked) = (table(8), std::cell::Cell::new(0));
        let sent = |_: &Pending| {
            looked.set(looked.get() + 1);
            true
        };
        assert_eq!(t.ack(noop(9, 16), sent, |_| {}), Err(10));
        assert_eq!((looked.get(), t.len()), (1, 8));
    }

    /// While the set of a connection that died is read to its end, an ACK of what it carried is no error.
    #[test]
    fn an_ack_may_come_after_its_connection_died() {
        let other = Key { index: 1, generation: 0 };
        let mut t = table(2);
        assert_eq!(t.request(CONN, other, 300, 60), 4);
        t.lost(CONN);
        assert_eq!((t.len(), t.overdue(1000)), (1, false));
        let mut t2 = table(1);
        t2.lost(CONN);
        assert_eq!(ack(&mut t2, noop(0, 2)), Ok(vec![]));
        assert_eq!(ack(&mut t2, noop(0, 2)), Err(2), "once");
        assert_eq!(ack(&mut t, noop(2, 4)), Ok(vec![4]));
        t.reset(|_| panic!("nothing was pending"));
    }

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<Cookie>(), @r"
        Free + Request -> Pending, Hold
        Free + Ack -> Free, CloseSet
        Free + EarlyAck -> Free, CloseSet
        Pending + Ack -> Acked, Lift
        Pending + EarlyAck -> Pending, CloseSet
        Pending + Overdue -> Pending, CloseSet
        Pending + ConnLost -> Lost, Fail
        Pending + Reset -> Free, Fail
        Acked + Ack -> Acked, CloseSet
        Acked + EarlyAck -> Acked, CloseSet
        Acked + Oldest -> Free, None
        Acked + Reset -> Free, None
        Lost + Ack -> Acked, None
        Lost + EarlyAck -> Acked, None
        Lost + Reset -> Free, None
        otherwise: it cannot be
        ");
    }
}
