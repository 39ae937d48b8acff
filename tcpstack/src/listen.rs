//! Listeners, and how many connections each has that are half-open.

use crate::addr::Addr;
use crate::cookie::VALID;
use crate::table::Key;

/// Listeners of a stack at most.
const MAX: usize = 1024;

struct Listener {
    /// Ours, or unspecified: `0.0.0.0` for all of IPv4, `::` for all.
    addr: Addr,
    port: u16,
    backlog: u32,
    half_open: u32,
    /// Time at which a SYN last found the backlog full and was answered with a cookie.
    overflow_at: Option<u64>,
    /// Closed: half-open connections may still name it.
    closed: bool,
}

/// The listeners, by number.
#[derive(Default)]
pub(crate) struct Listeners(Vec<Listener>);

impl Listeners {
    /// Adds a listener; `false` where the port is taken, or none, or there are too many.
    pub(crate) fn add(&mut self, addr: Addr, port: u16, backlog: u32) -> bool {
        let taken = self.open().any(|l| l.port == port && l.addr == addr);
        if port == 0 || taken {
            return false;
        }
        let new = Listener { addr, port, backlog, half_open: 0, overflow_at: None, closed: false };
        let room = self.0.len() < MAX;
        match self.0.iter_mut().find(|l| l.closed && l.half_open == 0) {
            Some(place) => *place = new,
            None if room => self.0.push(new),
            None => return false,
        }
        true
    }

    /// Takes a listener away; half-open connections of it go on.
    pub(crate) fn remove(&mut self, addr: Addr, port: u16) {
        let at = self.0.iter_mut().find(|l| !l.closed && l.port == port && l.addr == addr);
        at.into_iter().for_each(|l| l.closed = true);
    }

    fn open(&self) -> impl Iterator<Item = &Listener> {
        self.0.iter().filter(|l| !l.closed)
    }

    /// Whether somebody listens on `port`, on any address.
    pub(crate) fn has(&self, port: u16) -> bool {
        self.open().any(|l| l.port == port)
    }

    /// The listener for a SYN: on exactly this address, or else on all.
    pub(crate) fn find(&self, k: &Key) -> Option<u16> {
        self.for_end(k.local, k.lport(), k.is_v6())
    }

    /// The listener for a connection to this end.
    pub(crate) fn for_end(&self, local: Addr, port: u16, v6: bool) -> Option<u16> {
        let at = |a: Addr| self.0.iter().position(|l| l.port == port && l.addr == a && !l.closed);
        let any4 = if v6 { None } else { Some(Addr::v4(0)) };
        let l = at(local).or_else(|| any4.and_then(at)).or_else(|| at(Addr::UNSPECIFIED));
        l.map(|l| l as u16)
    }

    fn at(&mut self, l: u16) -> Option<&mut Listener> {
        self.0.get_mut(usize::from(l))
    }

    /// Whether a listener can have no further half-open connection.
    pub(crate) fn is_full(&self, l: u16) -> bool {
        self.0.get(usize::from(l)).is_none_or(|l| l.half_open >= l.backlog)
    }

    /// A half-open connection begins.
    pub(crate) fn begun(&mut self, l: u16) {
        self.at(l).into_iter().for_each(|l| l.half_open += 1);
    }

    /// A half-open connection is open, or over.
    pub(crate) fn done(&mut self, l: u16) {
        self.at(l).into_iter().for_each(|l| l.half_open = l.half_open.saturating_sub(1));
    }

    /// A SYN found the backlog full and was answered with a cookie.
    pub(crate) fn overflowed(&mut self, l: u16, now: u64) {
        self.at(l).into_iter().for_each(|l| l.overflow_at = Some(now));
    }

    /// Whether a cookie of this listener can be good at `now` (ns).
    pub(crate) fn has_cookies(&self, l: u16, now: u64) -> bool {
        let at = self.0.get(usize::from(l)).and_then(|l| l.overflow_at);
        at.is_some_and(|at| now.saturating_sub(at) < VALID)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_goes_is_found_no_more_and_its_place_is_used_again() {
        let (mut all, a) = (Listeners::default(), Addr::v4(0x0a00_0001));
        assert!(all.add(a, 7, 4) && all.add(a, 8, 4) && !all.add(a, 7, 4));
        let find = |all: &Listeners, port| all.for_end(a, port, false);
        all.begun(0);
        all.remove(a, 7);
        assert_eq!((find(&all, 7), find(&all, 8), all.has(7)), (None, Some(1), false));
        // Its half-open connection names place 0 still.
        assert!(all.add(a, 7, 4));
        assert_eq!(find(&all, 7), Some(2));
        all.done(0);
        assert!(all.add(a, 9, 4));
        assert_eq!((find(&all, 9), all.0.len()), (Some(0), 3));
        all.remove(a, 1000);
        assert_eq!(all.open().count(), 3);
    }
}
