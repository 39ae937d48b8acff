//! Events on their way to applications.

use std::collections::VecDeque;

use crate::lnd::{AppId, LnetError, pop};
use crate::lnet::api::Event;

/// An event in its turn. Most are SEND and ACK, whose few words are moved in place of the largest event's.
#[derive(Debug)]
enum Turn {
    Send {
        tag: u64,
        status: Result<(), LnetError>,
        done: bool,
    },
    Ack {
        tag: u64,
        status: Result<(), LnetError>,
        mlength: u32,
        done: bool,
    },
    /// The next of the others.
    Other,
}

/// Events in order.
#[derive(Debug, Default)]
pub(crate) struct Events {
    turns: VecDeque<(AppId, Turn)>,
    others: VecDeque<Event>,
}

impl Events {
    /// Adds one.
    #[inline(always)]
    pub(super) fn push(&mut self, app: AppId, event: Event) {
        let turn = match event {
            Event::Send { tag, status, done } => Turn::Send { tag, status, done },
            Event::Ack { tag, status, mlength, done } => Turn::Ack { tag, status, mlength, done },
            other => return self.push_other(app, other),
        };
        self.turns.push_back((app, turn));
    }

    /// Adds a SEND.
    #[inline]
    pub(super) fn push_send(&mut self, app: AppId, tag: u64, status: Result<(), LnetError>, done: bool) {
        self.turns.push_back((app, Turn::Send { tag, status, done }));
    }

    /// Adds an ACK that says yes.
    #[inline]
    pub(super) fn push_ack(&mut self, app: AppId, tag: u64, mlength: u32, done: bool) {
        self.turns.push_back((app, Turn::Ack { tag, status: Ok(()), mlength, done }));
    }

    /// Adds one that is neither a SEND nor an ACK.
    #[inline]
    pub(super) fn push_other(&mut self, app: AppId, event: Event) {
        self.others.push_back(event);
        self.turns.push_back((app, Turn::Other));
    }

    /// Takes the next one out.
    pub(crate) fn pop(&mut self) -> Option<(AppId, Event)> {
        let Some((app, turn)) = pop(&mut self.turns) else {
            self.emptied();
            return None;
        };
        let event = match turn {
            Turn::Send { tag, status, done } => Event::Send { tag, status, done },
            Turn::Ack { tag, status, mlength, done } => Event::Ack { tag, status, mlength, done },
            Turn::Other => pop(&mut self.others)?,
        };
        Some((app, event))
    }

    /// Gives all to `f`.
    #[inline]
    pub(crate) fn tell(&mut self, mut f: impl FnMut(AppId, Event)) {
        if self.turns.is_empty() {
            return;
        }
        while let Some((app, turn)) = pop(&mut self.turns) {
            match turn {
                Turn::Send { tag, status, done } => f(app, Event::Send { tag, status, done }),
                Turn::Ack { tag, status, mlength, done } => {
                    f(app, Event::Ack { tag, status, mlength, done });
                }
                Turn::Other => {
                    if let Some(event) = pop(&mut self.others) {
                        f(app, event);
                    }
                }
            }
        }
        self.emptied();
    }

    /// Places for events.
    #[cfg(feature = "testing")]
    pub(super) fn places(&self) -> usize {
        self.turns.capacity() + self.others.capacity()
    }

    /// All are out: a storm's memory is given back.
    fn emptied(&mut self) {
        let left = pop(&mut self.others);
        debug_assert!(left.is_none(), "an event without a turn");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lnet::api::MeId;

    #[test]
    fn all_kinds_come_out_in_the_order_they_went_in() {
        let mut q = Events::default();
        let app = |n| AppId::new(n).unwrap();
        let event = |tag: u64| match tag % 3 {
            0 => Event::Send { tag, status: Ok(()), done: tag > 9 },
            1 => Event::Ack { tag, status: Err(LnetError::TooLong), mlength: 7, done: tag > 9 },
            _ => Event::Attached { tag, me: MeId(tag) },
        };
        for by_one in [true, false] {
            (0..20).for_each(|n| q.push(app(n), event(n.into())));
            let mut got = Vec::new();
            if by_one {
                got.extend(std::iter::from_fn(|| q.pop()));
            } else {
                q.tell(|a, e| got.push((a, e)));
            }
            q.tell(|_, e| panic!("{e:?}"));
            assert!(q.pop().is_none());
            let want: Vec<_> = (0..20).map(|n| (app(n), event(n.into()))).collect();
            assert_eq!(format!("{got:?}"), format!("{want:?}"));
        }
    }
}
