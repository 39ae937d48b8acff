//! A protocol of its own, beside socklnd: whoever takes a connection sends back what comes, copied or by reference; whoever
//! dials sends some pages, one of them behind a hold, and counts what comes back.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hugepages::{LendOwner, PageRunMut, PageSlice, PrivatePages, RxPiece};
use transport::stream::{
    Action, Close, ConnId, DialId, DialSpec, Happened, INLINE_MAX, InlineHdr, LendId, Pages, Protocol,
    SendMsg, StreamRx,
};

/// Record of a side.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) back: Vec<u8>,
    pub(crate) home: Vec<u64>,
    pub(crate) closed: usize,
    /// Messages sent back by reference, and bytes in them that were not lent.
    pub(crate) by_reference: usize,
    pub(crate) copied: usize,
}

/// Addresses to dial and to dial from, and the payload.
pub(crate) struct Job {
    pub(crate) to: SocketAddr,
    pub(crate) from: IpAddr,
    pub(crate) parts: Vec<Vec<u8>>,
}

#[derive(Default)]
pub(crate) struct Echo {
    job: Option<Job>,
    seen: Arc<Mutex<Seen>>,
    want: usize,
    by_reference: bool,
    out: VecDeque<Action>,
    /// Bytes pushed, and the end of the message that is held.
    conns: HashMap<ConnId, (u64, Option<(u64, LendId)>)>,
    dialled: Option<ConnId>,
}

fn message(hdr: &[u8]) -> SendMsg {
    let hdr = InlineHdr::try_from(hdr).unwrap();
    SendMsg { hdr, pay: Pages::new(), lend: None, hold: false, answer: false }
}

impl Echo {
    /// One that dials.
    pub(crate) fn client(job: Job) -> (Echo, Arc<Mutex<Seen>>) {
        let seen = Arc::<Mutex<Seen>>::default();
        let want = job.parts.iter().map(Vec::len).sum();
        (Echo { job: Some(job), seen: seen.clone(), want, ..Echo::default() }, seen)
    }

    /// One that sends back by reference.
    pub(crate) fn by_reference() -> (Echo, Arc<Mutex<Seen>>) {
        let seen = Arc::<Mutex<Seen>>::default();
        (Echo { by_reference: true, seen: seen.clone(), ..Echo::default() }, seen)
    }

    /// All that has come, as one message and one loan.
    fn send_back(&mut self, c: ConnId, rx: &mut dyn StreamRx) {
        let (mut pieces, mut copied) = (Vec::new(), 0);
        while let Some(f) = rx.next() {
            pieces.push(match f.lend(LendOwner::FORWARDER) {
                Ok(lent) => RxPiece::Lent(lent),
                Err(f) => {
                    copied += f.bytes().len();
                    RxPiece::Copied(f.bytes().into())
                }
            });
        }
        let n = {
            let mut seen = self.seen.lock().unwrap();
            seen.copied += copied;
            seen.by_reference += 1;
            seen.by_reference as u64 - 1
        };
        let pay = Pages::from_iter([PageSlice::received(pieces)]);
        self.push(c, SendMsg { pay, lend: Some(LendId(n + (1 << 30))), ..message(&[]) });
    }

    fn push(&mut self, c: ConnId, m: SendMsg) {
        let len = m.hdr.len() as u64 + m.pay.iter().map(|p| u64::from(p.len())).sum::<u64>();
        let (pushed, held) = self.conns.get_mut(&c).unwrap();
        *pushed += len;
        if m.hold {
            *held = Some((*pushed, m.lend.unwrap()));
        }
        self.out.push_back(Action::Send(c, m));
    }

    fn send_parts(&mut self, c: ConnId) {
        for (n, part) in self.job.take().unwrap().parts.into_iter().enumerate() {
            let mut run = PageRunMut::new(Arc::new(PrivatePages), part.len()).unwrap();
            run.bytes_mut()[..part.len()].copy_from_slice(&part);
            let pay = run.freeze().slice(0, part.len() as u32).into_iter().collect();
            let lend = Some(LendId(n as u64 + (1 << 30)));
            self.push(c, SendMsg { pay, lend, hold: n == 0, ..message(&[]) });
        }
    }
}

impl Protocol for Echo {
    fn handle(&mut self, _: u64, happened: Happened<'_>) {
        match happened {
            Happened::Opened(c, info) => {
                self.conns.insert(c, (0, None));
                if info.dial.is_some() {
                    assert_eq!(info.dial, Some(DialId(7)), "its own name");
                    self.dialled = Some(c);
                    self.send_parts(c);
                }
            }
            Happened::Bytes(c, rx) if self.by_reference => self.send_back(c, rx),
            Happened::Bytes(c, rx) => {
                let mut got = Vec::new();
                while let Some(f) = rx.next() {
                    got.extend_from_slice(f.bytes());
                }
                if self.dialled != Some(c) {
                    got.chunks(INLINE_MAX).for_each(|b| self.push(c, message(b)));
                    return;
                }
                let mut seen = self.seen.lock().unwrap();
                seen.back.extend_from_slice(&got);
                if seen.back.len() == self.want {
                    self.out.push_back(Action::Close(c, Close::Fin));
                }
            }
            Happened::Progress(c, p) => {
                if let Some((_, held)) = self.conns.get_mut(&c)
                    && let Some((_, lend)) = held.take_if(|(end, _)| p.acked >= *end)
                {
                    self.out.push_back(Action::Unhold(c, lend));
                }
            }
            Happened::Released(l) => self.seen.lock().unwrap().home.push(l.0 - (1 << 30)),
            Happened::PeerFin(c) => self.out.push_back(Action::Close(c, Close::Fin)),
            Happened::Closed(c, _) => {
                self.conns.remove(&c);
                self.seen.lock().unwrap().closed += usize::from(self.dialled == Some(c));
            }
            Happened::DialFailed(d, why) => panic!("{d:?}: {why}"),
            Happened::LastBytes(_)
            | Happened::Ended(_)
            | Happened::Listening(..)
            | Happened::Datagram(..)
            | Happened::Undelivered(..) => {}
        }
    }

    fn act(&mut self) -> Option<Action> {
        self.out.pop_front()
    }

    fn deadline(&self) -> Option<u64> {
        (self.job.is_some() && self.dialled.is_none()).then_some(0)
    }

    fn timer(&mut self, now: u64) {
        let Some(job) = &self.job else { return };
        let until = now + 10_000_000_000;
        let (remote, local_ip) = (job.to, job.from);
        self.out.push_back(Action::Dial(DialSpec {
            id: DialId(7),
            remote,
            local_ip,
            privileged: false,
            until,
        }));
        // Asked for once: what is left of the job is sent when the connection is up.
        self.dialled = Some(ConnId { shard: transport::stream::ShardId(0), index: u32::MAX, generation: 0 });
    }

    fn shut_down(&mut self, _: u64) {
        self.out.extend(self.conns.keys().map(|c| Action::Close(*c, Close::Abort)));
    }
}
