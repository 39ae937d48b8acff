//! Field report 1, L3: every reason to end a connection, with every kind of unread bytes, in every state. Pool and
//! connections are at baseline at once where we close, and as soon as what came in order is read where the peer or the
//! network ends it.

use crate::common::bench::{Bench, Peer, dial, icmp_error, segment};
use crate::common::{SEC, ip};
use tcpstack::seq::Seq;
use tcpstack::table::Key;
use tcpstack::wire::{ACK, FIN, Fields, RST, SYN};
use tcpstack::{Close, CloseWhy, Event, Phase};

const PHASES: [Phase; 7] = [
    Phase::Established,
    Phase::FinWait1,
    Phase::FinWait2,
    Phase::CloseWait,
    Phase::Closing,
    Phase::LastAck,
    Phase::Closed,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unread {
    Nothing,
    InOrder,
    Gap,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Both,
    FinThenBoth,
    Abort,
    Reset,
    PeerFin,
    Timeout,
    Unreachable,
}

/// Pool memory in use, of both kinds.
fn memory(b: &Bench) -> (usize, u64) {
    (b.s.port().rx_out(), b.s.small_memory().0)
}

struct Case {
    b: Bench,
    p: Peer,
    base: (usize, u64),
    phase: Phase,
    size: usize,
    in_order: usize,
    gap: bool,
    /// The last segment of ours that is not acknowledged.
    out: Option<Vec<u8>>,
}

impl Case {
    /// `None` where there is no such state with such bytes.
    fn new(phase: Phase, unread: Unread, size: usize) -> Option<Case> {
        let after_fin = matches!(phase, Phase::CloseWait | Phase::Closing | Phase::LastAck | Phase::Closed);
        let (some, gap) =
            (matches!(unread, Unread::InOrder | Unread::Both), matches!(unread, Unread::Gap | Unread::Both));
        // Nothing is held beyond a FIN; without unread bytes the end of both is the end.
        if (after_fin && gap) || (phase == Phase::Closed && !some) {
            return None;
        }
        let mut b = Bench::new();
        let p = b.accept(1, 100);
        let base = memory(&b);
        let mut c = Case { b, p, base, phase, size, in_order: 0, gap, out: None };
        if matches!(phase, Phase::FinWait1 | Phase::FinWait2 | Phase::Closing | Phase::Closed) {
            c.our_fin();
        }
        if matches!(phase, Phase::FinWait2 | Phase::Closed) {
            c.ack_ours();
        }
        if some {
            c.b.data(&mut c.p, &vec![7; size]);
            c.in_order = size;
        }
        if gap {
            c.b.put(&c.p, ACK, c.p.seq.plus(10), c.p.ack, 1000, &vec![8; size]);
        }
        if after_fin {
            c.peer_fin();
        }
        if phase == Phase::LastAck {
            c.our_fin();
        }
        c.b.segs();
        c.b.events();
        let is = c.b.s.connection(c.p.flow).map(|s| s.state);
        assert_eq!(is, Some(phase));
        assert_eq!(memory(&c.b) != base, some || gap);
        Some(c)
    }

    fn our_fin(&mut self) {
        self.b.s.close(self.p.flow, Close::Fin);
        self.b.turn();
        self.out = self.b.frames().pop();
    }

    fn ack_ours(&mut self) {
        self.p.ack = self.p.ack.plus(1);
        self.out = None;
        self.b.put(&self.p, ACK, self.p.seq, self.p.ack, 1000, b"");
    }

    fn peer_fin(&mut self) {
        self.b.put(&self.p, ACK | FIN, self.p.seq, self.p.ack, 1000, b"");
        self.p.seq = self.p.seq.plus(1);
    }

    fn at_baseline(&mut self, what: &str) {
        assert_eq!((memory(&self.b), self.b.s.flows()), (self.base, 0), "{what}");
        self.b.s.slab().reap(|_, _| ());
        assert_eq!(self.b.s.slab().out(), 0, "{what}: pages");
    }

    /// Closed for good: memory goes at once, the connection when the peer is done.
    fn finish(&mut self) {
        self.b.s.close(self.p.flow, Close::Both);
        assert_eq!(memory(&self.b), self.base, "at once");
        self.b.turn();
        if self.phase == Phase::Closed {
            assert_eq!(self.b.closed(), Some(CloseWhy::Fin));
            return;
        }
        let ours = matches!(self.phase, Phase::FinWait2);
        let fins = self.b.segs().iter().filter(|g| g.seg.has(FIN)).count();
        let begun = matches!(self.phase, Phase::FinWait1 | Phase::FinWait2 | Phase::Closing | Phase::LastAck);
        assert_eq!(fins, usize::from(!begun));
        if matches!(self.phase, Phase::CloseWait | Phase::Closing | Phase::LastAck) {
            self.ack_ours();
        } else {
            // It goes on for a while: the gap, what was beyond it, and more.
            if self.gap {
                self.b.data(&mut self.p, &[7; 10]);
                let again = vec![8; self.size];
                self.b.data(&mut self.p, &again);
            }
            for _ in 0..50 {
                self.b.data(&mut self.p, &vec![9; self.size]);
                assert_eq!(memory(&self.b), self.base);
            }
            self.b.put(&self.p, ACK, self.p.seq.plus(500), self.p.ack, 1000, &vec![9; self.size]);
            assert_eq!(memory(&self.b), self.base, "nor what is out of order");
            self.b.wait(SEC);
            assert_eq!(self.b.segs().last().map(|g| g.seg.ack), Some(self.p.seq), "acknowledged to the last");
            if !ours {
                self.ack_ours();
            }
            self.peer_fin();
        }
        let events = self.b.events();
        assert!(!events.iter().any(|e| matches!(e, Event::Readable(_))), "nobody reads: {events:?}");
        let end = Event::Closed { flow: self.p.flow, why: CloseWhy::Fin };
        assert_eq!(events.iter().filter(|e| matches!(e, Event::Closed { .. })).collect::<Vec<_>>(), [&end]);
    }

    /// Somebody else ended it, for this reason: that is told at once where bytes are unread; what came in order is read, then
    /// it is over.
    fn ended(&mut self, why: CloseWhy) {
        let held = if self.in_order > 0 { 1 } else { 0 };
        let (buffers, small) = memory(&self.b);
        assert_eq!(self.b.s.flows() as usize, held, "kept for what is unread, and for no more");
        assert_eq!(usize::from((buffers, small) != self.base), held);
        let mut told = self.b.events();
        let ended = told.iter().filter(|e| **e == Event::Ended(self.p.flow)).count();
        assert_eq!(ended, if self.phase == Phase::Closed { 0 } else { held }, "{told:?}");
        if held > 0 {
            assert!(!told.iter().any(|e| matches!(e, Event::Closed { .. })), "not before it is read");
            assert_eq!(self.b.s.tx_waiting(), 0);
            assert!(self.b.s.unread(self.p.flow));
            assert_eq!(self.b.read(self.p.flow), vec![7; self.in_order]);
            told = self.b.events();
        }
        assert_eq!(told.last(), Some(&Event::Closed { flow: self.p.flow, why }));
        assert!(self.b.s.next(self.p.flow).is_none() && !self.b.s.unread(self.p.flow));
    }

    fn play(&mut self, why: Why) {
        match why {
            Why::Both => self.finish(),
            Why::FinThenBoth => {
                self.b.s.close(self.p.flow, Close::Fin);
                if !matches!(self.phase, Phase::Closed) {
                    assert_eq!(memory(&self.b) != self.base, self.in_order > 0 || self.gap, "still read");
                }
                self.finish();
            }
            Why::Abort => {
                self.b.s.close(self.p.flow, Close::Abort);
                let first = if self.phase == Phase::Closed { CloseWhy::Fin } else { CloseWhy::LocalAbort };
                assert_eq!(self.b.closed(), Some(first), "at once");
            }
            Why::Reset => {
                self.b.put(&self.p, RST, self.p.seq, Seq(0), 0, b"");
                // A reset means nothing in TIME-WAIT (RFC 1337).
                self.ended(if self.phase == Phase::Closed { CloseWhy::Fin } else { CloseWhy::Reset });
            }
            Why::PeerFin => {
                // What was beyond the gap is forgotten with the rest when the peer's FIN is followed by its RST.
                if !self.gap {
                    self.peer_fin();
                }
                if self.phase == Phase::FinWait2 && !self.gap {
                    self.ended(CloseWhy::Fin);
                } else {
                    self.b.put(&self.p, RST, self.p.seq, Seq(0), 0, b"");
                    self.ended(CloseWhy::Reset);
                }
            }
            Why::Timeout => {
                self.b.wait(400 * SEC);
                self.b.frames();
                self.ended(if self.phase == Phase::Closed { CloseWhy::Fin } else { CloseWhy::Timeout });
            }
            Why::Unreachable => {
                if matches!(self.phase, Phase::Established | Phase::CloseWait) {
                    self.b.push(self.p.flow, 500);
                    self.out = self.b.frames().pop();
                }
                let out = self.out.take().unwrap();
                self.b.send(&icmp_error(&out, 3, 1, [0; 4]));
                self.b.wait(400 * SEC);
                self.b.frames();
                self.ended(CloseWhy::Unreachable);
            }
        }
        self.at_baseline(&format!("{:?}", why));
    }
}

#[test]
fn every_end_leaves_nothing_whatever_is_unread() {
    let mut played = 0;
    for why in
        [Why::Both, Why::FinThenBoth, Why::Abort, Why::Reset, Why::PeerFin, Why::Timeout, Why::Unreachable]
    {
        for phase in PHASES {
            let no = match why {
                // The peer has sent its FIN, or it must not be acknowledged twice.
                Why::PeerFin => !matches!(phase, Phase::Established | Phase::FinWait1 | Phase::FinWait2),
                // Nothing of ours is out that an error could be about.
                Why::Unreachable => matches!(phase, Phase::FinWait2 | Phase::Closed),
                Why::FinThenBoth => !matches!(phase, Phase::Established | Phase::CloseWait | Phase::Closed),
                _ => false,
            };
            if no {
                continue;
            }
            for unread in [Unread::Nothing, Unread::InOrder, Unread::Gap, Unread::Both] {
                // Copied into a small buffer, and in the port's own.
                for size in [100, 1400] {
                    let Some(mut c) = Case::new(phase, unread, size) else { continue };
                    println!("{why:?} {phase:?} {unread:?} {size}");
                    c.play(why);
                    played += 1;
                }
            }
        }
    }
    assert!(played > 180, "{played}");
}

#[test]
fn before_a_connection_is_open_every_end_is_at_once() {
    // Dialled, the next hop unknown; its SYN sent; its SYN answered by another SYN.
    for phase in [Phase::Resolve, Phase::SynSent, Phase::SynReceived] {
        for how in [Close::Fin, Close::Both, Close::Abort] {
            let mut b = Bench::new();
            let flow = if phase == Phase::Resolve {
                let d = tcpstack::Dial { local: (ip(1), 1023).into(), remote: (ip(2), 988).into() };
                b.s.dial(b.now, d).unwrap()
            } else {
                dial(&mut b).0
            };
            b.turn();
            let key = Key::new(ip(2).into(), 988, ip(1).into(), 1023);
            if phase == Phase::SynReceived {
                let f = Fields { seq: Seq(500), ack: Seq(0), flags: SYN, win: 900 };
                b.send(&segment(&key, &f, &[], b""));
            }
            assert_eq!(b.s.connection(flow).map(|c| c.state), Some(phase));
            let sa = b.segs().pop();
            b.s.close(flow, how);
            b.turn();
            if phase == Phase::SynReceived && how != Close::Abort {
                let ack = sa.unwrap().seg.seq.plus(1);
                let f = Fields { seq: Seq(501), ack, flags: ACK, win: 900 };
                b.send(&segment(&key, &f, &[], b"unread"));
                let f = Fields { seq: Seq(507), ack: ack.plus(1), flags: ACK | FIN, win: 900 };
                b.send(&segment(&key, &f, &[], b""));
                if how == Close::Fin {
                    assert_eq!(b.read(flow), b"unread");
                }
            }
            assert!(b.closed().is_some(), "{phase:?} {how:?}");
            assert_eq!((b.s.flows(), memory(&b)), (0, (0, 0)), "{phase:?} {how:?}");
        }
    }
}

/// Field report L3: a reset that comes in one burst with what stands in front of it.
#[test]
fn what_stands_in_front_of_a_reset_in_one_burst_is_read() {
    for size in [16, 1400] {
        let mut b = Bench::new();
        let p = b.accept(1, 100);
        let seg = |flags, seq, data: &[u8]| {
            segment(&p.key, &Fields { seq, ack: p.ack, flags, win: 1000 }, &[], data)
        };
        b.inject(&seg(ACK, p.seq, &vec![5; size]));
        b.inject(&seg(RST | ACK, p.seq.plus(size as u64), b""));
        b.turn();
        assert_eq!(b.events(), [Event::Readable(p.flow), Event::Ended(p.flow)]);
        assert_eq!(b.read(p.flow), vec![5; size]);
        assert_eq!(b.events(), [Event::Closed { flow: p.flow, why: CloseWhy::Reset }]);
        assert_eq!((b.s.flows(), memory(&b)), (0, (0, 0)));
    }
}

/// Field report 1: 370 refused connections with 60 kB unread put a node out of reach for good.
#[test]
fn refused_connections_with_unread_bytes_hold_nothing() {
    let mut b = Bench::new();
    for i in 0..400 {
        let mut p = b.accept(1 + i, 100 + u32::from(i));
        for _ in 0..40 {
            b.data(&mut p, &[0x45; 1400]);
        }
        assert!(b.s.port().rx_out() > 0);
        b.s.push(p.flow, b"refusal", &[]).unwrap();
        b.s.close(p.flow, Close::Both);
        b.turn();
        assert_eq!(memory(&b), (0, 0));
        let said: Vec<u8> = b.segs().into_iter().flat_map(|g| g.data).collect();
        assert_eq!(said, b"refusal");
        // More was on its way; then the peer ends in order.
        b.data(&mut p, &[0x45; 1400]);
        p.ack = p.ack.plus(8);
        b.put(&p, ACK | FIN, p.seq, p.ack, 1000, b"");
        assert_eq!(b.closed(), Some(CloseWhy::Fin));
        assert_eq!((b.s.flows(), memory(&b)), (0, (0, 0)));
        b.segs();
    }
}
