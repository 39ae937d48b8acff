//! Streams whose owner and home are two lcores: their owner exports them, their home imports them.
//!
//! An owner sends at most 1 MiB of a stream that its home has not taken. Of an exported stream it knows:
//!
//! ```text
//!              Full
//!            ────────>                    Full: as much is on its way as may be, and there is more
//!    FLOWING           WAITING            Taken: its home has taken some; read again
//!     │   ^  <────────    │
//!     │   │    Taken      │
//!     │   │ Away          │ Here          Here: its home is this lcore now; Away: another lcore again
//!     │   │               v
//!     │   '─────────── RETURNING          nothing more is sent: when all is taken, the stream leaves the ring
//!     '── Here ───────────^
//! ```

use std::collections::VecDeque;

use fsm::Fsm;
use hugepages::{LendOwner, RxFrag};

use super::Mesh;
use super::mail::{Home, Mail, StreamEvent};
use crate::lnd::Owner;
use crate::node::Input;
use crate::node::streams::{Streams, Work};
use crate::stream::{Action, Bucket, Close, CloseWhy, ConnId, Happened, StreamRx};

/// Bytes of one stream on their way to its home, or waiting there.
const IN_FLIGHT: u64 = 1 << 20;

fsm::fsm! {
    /// State of an exported stream.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Export {
        /// Bytes are sent to its home as they come.
        Flowing,
        /// There is more to read than may be on its way.
        Waiting,
        /// Its home has moved here: nothing more is sent over the ring, and when all that was is taken, none is needed.
        Returning,
    }

    /// Events that change it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum ExportEvent {
        /// As much is on its way as may be.
        Full,
        /// The home has taken some.
        Taken,
        /// Its home is this lcore.
        Here,
        /// Its home is another lcore.
        Away,
    }

    table Export + ExportEvent {
        start Flowing;
        else "the state stays";
        Flowing + Full => Waiting;
        Waiting + Taken => Flowing;
        Flowing | Waiting + Here => Returning;
        Returning + Away => Flowing;
    }
}

/// A stream that this lcore owns and another shard is the home of.
pub(super) struct Exported {
    pub(super) home: Home,
    /// Bytes sent there and not yet taken.
    pub(super) in_flight: u64,
    pub(super) state: Fsm<Export>,
}

impl Exported {
    pub(super) fn new(home: Home) -> Exported {
        Exported { home, in_flight: 0, state: Fsm::START }
    }
}

/// A stream that another lcore owns and this shard is the home of.
pub(super) struct Imported {
    pub(super) home: Home,
    pub(super) rx: VecDeque<RxFrag>,
    /// Bytes came, or the machine asked: tell it.
    pub(super) readable: bool,
    pub(super) fin: bool,
    pub(super) closed: Option<CloseWhy>,
    /// The machine has closed it, and takes nothing more.
    pub(super) closing: bool,
    listed: bool,
}

impl Imported {
    pub(super) fn new(home: Home) -> Imported {
        let rx = VecDeque::new();
        Imported { home, rx, readable: false, fin: false, closed: None, closing: false, listed: false }
    }
}

/// The receiving end of an imported stream.
struct ImportedRx<'a> {
    rx: &'a mut VecDeque<RxFrag>,
    took: u64,
}

impl StreamRx for ImportedRx<'_> {
    fn next(&mut self) -> Option<RxFrag> {
        let f = self.rx.pop_front()?;
        self.took += u64::from(f.len());
        Some(f)
    }
    fn unread(&mut self, rest: RxFrag) {
        self.took -= u64::from(rest.len());
        self.rx.push_front(rest);
    }
}

/// Sends a stream's bytes to its home, as far as they may be on their way. True when nothing is, and yet nothing
/// could be lent.
fn ship(
    c: ConnId,
    e: &mut Exported,
    owner: LendOwner,
    stream: &mut dyn StreamRx,
    to: &mut dyn FnMut(Home, StreamEvent),
) -> bool {
    while e.in_flight < IN_FLIGHT {
        let Some(f) = stream.next() else { return false };
        let n = u64::from(f.len());
        match f.lend(owner) {
            Ok(lent) => {
                e.in_flight += n;
                to(e.home, StreamEvent::Bytes(c, lent));
            }
            Err(f) => {
                // Too much is lent already. What is in flight comes back, and asks for more then.
                stream.unread(f);
                break;
            }
        }
    }
    if e.in_flight == 0 {
        return true;
    }
    e.state.apply(ExportEvent::Full);
    false
}

impl Mesh {
    /// Turns the own streams, and tells what happened to the machine here or to the home that it is for.
    pub(super) fn turn_own(
        &mut self,
        now: u64,
        own: &mut impl Streams,
        sink: &mut dyn FnMut(Input<'_>),
    ) -> Work {
        let (exported, post, me) = (&mut self.exported, &mut self.post, self.shards.me);
        let (homes, dials, imported) = (&self.homes, &mut self.dials, &mut self.imported);
        let (reread, listening) = (&mut self.reread, &mut self.listening);
        for c in reread.drain(..) {
            own.read(c);
        }
        own.turn(now, &mut |happened| {
            let mut to = |home: Home, ev| post.send(home.shard(homes), Mail::Stream(home, ev));
            let here = match happened {
                Happened::Opened(c, info) => {
                    let home = info.dial.and_then(|d| dials.remove(&d));
                    let home = home.or_else(|| listening.home_of(&info));
                    let home = home.unwrap_or_else(|| Home::Of(Bucket::of(info.remote.ip())));
                    if home.shard(homes) != me {
                        listening.handed_over += u64::from(home.is_fixed());
                        exported.insert(c, Exported::new(home));
                        return to(home, StreamEvent::Opened(c, info));
                    }
                    happened
                }
                Happened::DialFailed(d, why) => match dials.remove(&d) {
                    Some(home) if home.shard(homes) != me => {
                        return to(home, StreamEvent::DialFailed(d, why));
                    }
                    _ => happened,
                },
                Happened::Released(l) => {
                    let home = Home::of_lend(l);
                    if home.shard(homes) != me {
                        return to(home, StreamEvent::Released(l));
                    }
                    happened
                }
                Happened::Datagram(..) | Happened::Undelivered(..) => happened,
                Happened::Listening(at, _) if listening.bound(at) => happened,
                Happened::Listening(at, done) => {
                    // The home counts the answers of all owners, its own among them.
                    let Some(home) = listening.answered(at, done) else { return };
                    return to(home, StreamEvent::Listening(at, done));
                }
                Happened::Progress(c, p) => match exported.get(&c) {
                    Some(e) => return to(e.home, StreamEvent::Progress(c, p)),
                    None => happened,
                },
                Happened::Bytes(c, stream) => match exported.get_mut(&c) {
                    // Read again when it needs the ring no more.
                    Some(e) if e.state == Export::Returning => return,
                    Some(e) => {
                        let owner = Owner::Shard(e.home.shard(homes)).into();
                        if ship(c, e, owner, stream, &mut to) {
                            reread.push(c);
                        }
                        return;
                    }
                    None => Happened::Bytes(c, stream),
                },
                Happened::LastBytes(c) => match exported.get(&c) {
                    Some(e) => return to(e.home, StreamEvent::LastBytes(c)),
                    None => happened,
                },
                Happened::PeerFin(c) => match exported.get(&c) {
                    Some(e) => return to(e.home, StreamEvent::PeerFin(c)),
                    None => happened,
                },
                Happened::Ended(c) => match exported.get(&c) {
                    Some(e) => return to(e.home, StreamEvent::Ended(c)),
                    None => happened,
                },
                Happened::Closed(c, why) => match exported.remove(&c) {
                    Some(e) => return to(e.home, StreamEvent::Closed(c, why)),
                    None => {
                        imported.remove(&c);
                        happened
                    }
                },
            };
            sink(Input::Stream(here));
        })
    }

    pub(super) fn touch(&mut self, c: ConnId, f: impl FnOnce(&mut Imported)) {
        let Some(i) = self.imported.get_mut(&c) else { return };
        f(i);
        if !i.listed {
            i.listed = true;
            self.touched.push(c);
        }
    }

    /// Takes in news of a stream, in the order in which its owner gave them.
    pub(super) fn stream_event(&mut self, home: Home, ev: StreamEvent, sink: &mut dyn FnMut(Input<'_>)) {
        let happened = match ev {
            // The listening ended while it was on its way.
            StreamEvent::Opened(c, info) if home.is_fixed() && !self.listening.wants(&info) => {
                return self.post.send(c.shard, Mail::Act(Action::Close(c, Close::Abort)));
            }
            StreamEvent::Opened(c, info) => {
                self.imported.insert(c, Imported::new(home));
                Happened::Opened(c, info)
            }
            StreamEvent::DialFailed(d, why) => Happened::DialFailed(d, why),
            StreamEvent::JobDone(b) => return sink(Input::JobDone(b)),
            StreamEvent::Progress(c, p) => Happened::Progress(c, p),
            StreamEvent::Bytes(c, lent) => {
                let f = self.relay.frag(lent);
                return self.touch(c, |i| {
                    if !i.closing {
                        i.rx.push_back(f);
                        i.readable = true;
                    }
                });
            }
            // The machine may wait for the peer, whatever lies here.
            StreamEvent::LastBytes(c) => Happened::LastBytes(c),
            StreamEvent::Ended(c) => Happened::Ended(c),
            // One that just left the ring has nothing waiting here.
            StreamEvent::PeerFin(c) if !self.imported.contains_key(&c) => Happened::PeerFin(c),
            StreamEvent::PeerFin(c) => return self.touch(c, |i| i.fin = true),
            StreamEvent::Closed(c, why) if !self.imported.contains_key(&c) => Happened::Closed(c, why),
            StreamEvent::Closed(c, why) => return self.touch(c, |i| i.closed = Some(why)),
            StreamEvent::Released(l) => Happened::Released(l),
            StreamEvent::Listening(at, done) => return self.heard_of(at, done, sink),
            StreamEvent::Direct(c) => return self.direct(home, c),
        };
        sink(Input::Stream(happened));
    }

    /// The home of an exported stream has taken `n` bytes of it.
    pub(super) fn took(&mut self, c: ConnId, n: u64) {
        let Some(e) = self.exported.get_mut(&c) else { return };
        e.in_flight = e.in_flight.saturating_sub(n);
        if e.state == Export::Returning {
            if e.in_flight == 0 {
                self.post.send(self.shards.me, Mail::Stream(e.home, StreamEvent::Direct(c)));
            }
        } else if e.state.apply(ExportEvent::Taken).is_some() {
            self.reread.push(c);
        }
    }

    /// Tells bytes and ends of imported streams, after everything else that the mail said.
    pub(super) fn deliver(&mut self, sink: &mut dyn FnMut(Input<'_>)) {
        // The list keeps its memory: it is used in every turn.
        let mut touched = std::mem::take(&mut self.touched);
        for c in touched.drain(..) {
            let Some(i) = self.imported.get_mut(&c) else { continue };
            i.listed = false;
            let mut took = 0;
            if std::mem::take(&mut i.readable) && !i.rx.is_empty() {
                let mut rx = ImportedRx { rx: &mut i.rx, took: 0 };
                sink(Input::Stream(Happened::Bytes(c, &mut rx)));
                took = rx.took;
            }
            if i.fin && i.rx.is_empty() {
                i.fin = false;
                sink(Input::Stream(Happened::PeerFin(c)));
            } else if i.fin {
                sink(Input::Stream(Happened::LastBytes(c)));
            }
            // Bytes from before the end are taken first, unless the machine has closed.
            if let Some(why) = i.closed.filter(|_| i.rx.is_empty()) {
                self.imported.remove(&c);
                sink(Input::Stream(Happened::Closed(c, why)));
                continue;
            }
            if i.closed.is_some() {
                sink(Input::Stream(Happened::Ended(c)));
            }
            if took > 0 {
                self.post.send(c.shard, Mail::Took(c, took));
            }
        }
        self.touched = touched;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn export_transitions() {
        insta::assert_snapshot!(fsm::listing::<Export>(), @r"
        Flowing + Full -> Waiting
        Flowing + Here -> Returning
        Waiting + Taken -> Flowing
        Waiting + Here -> Returning
        Returning + Away -> Flowing
        otherwise: the state stays
        ");
    }
}
