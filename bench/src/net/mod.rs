//! Motr's net test on both transports of [`transport::net`]: a node that answers, and a client that measures.
//!
//! Ping: a message is sent, and comes back as it is. Bulk: the client has a passive buffer, and sends its descriptor in an
//! [`Ask`]; the node fills or fetches it. Or the node has it, and sends its descriptor in answer to an [`Ask`]. docs/net.md has
//! the messages, for peers that are other programs.

mod ask;
mod both_ends;
mod client;
mod node;
mod sample;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use hugepages::{BackingError, LendOwner, PageRunMut};
use serde::Serialize;
use transport::net::{Buffer, Domain, Memory, NetError, RecvVec, Sink, Xprt};
use transport::netsock::Notice;

pub use self::ask::{ASK_LEN, Ask, AskKind};
pub use self::both_ends::NetPair;
pub use self::client::Client;
pub use self::node::{Node, NodeConfig};
pub use self::sample::{Sample, beside, measure, name};
use crate::measure::Rtt;

/// Most bytes of a bulk transfer.
pub const BULK_MAX: u64 = 64 << 20;
/// Fewest bytes of a ping: its number.
pub const PING_MIN: u64 = 8;
/// An operation of more than this is counted as a stall, in ns.
pub const STALL: u64 = 1_000_000;

/// The work of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Messages that come back.
    Ping,
    /// The node fetches: its active receive of the client's passive send.
    ActiveRecv,
    /// The node fills: its active send to the client's passive receive.
    ActiveSend,
    /// The client fills: its active send to the node's passive receive.
    OwnSend,
    /// The client fetches: its active receive of the node's passive send.
    OwnRecv,
}

impl Work {
    /// Payload goes from the client to the node.
    fn writes(self) -> bool {
        matches!(self, Work::ActiveRecv | Work::OwnSend)
    }

    /// The client has the active part.
    fn is_own(self) -> bool {
        matches!(self, Work::OwnSend | Work::OwnRecv)
    }

    /// The ask for it.
    fn ask(self) -> AskKind {
        match self {
            Work::ActiveRecv => AskKind::Fetch,
            Work::OwnSend => AskKind::Take,
            Work::OwnRecv => AskKind::Give,
            Work::ActiveSend | Work::Ping => AskKind::Fill,
        }
    }
}

/// Payload that comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// It stays in the receive buffers, which are lent.
    Lent,
    /// It is copied into pages.
    Copied,
}

/// A client's orders.
#[derive(Clone, Debug)]
pub struct Job {
    /// The work.
    pub work: Work,
    /// The node's transfer machine.
    pub target: String,
    /// Bytes of each operation.
    pub size: u64,
    /// Operations under way.
    pub flight: usize,
    /// Operations in all.
    pub limit: u64,
    /// New ones are begun for so long, in ns.
    pub begin_for: Option<u64>,
    /// Time for each, connecting included, in ns.
    pub timeout: u64,
    /// Every byte is checked where it arrives.
    pub check: bool,
    /// Bulk that comes in.
    pub intake: Intake,
}

impl Job {
    /// Bytes of memory that it takes.
    pub fn memory(&self) -> u64 {
        // A ping has several buffers, a bulk transfer has one.
        let each = if self.work == Work::Ping { client::BUFFERS as u64 } else { 1 };
        self.size.saturating_mul(self.flight as u64).saturating_mul(each)
    }
}

/// Shared by an application and whoever runs it. Each counter has one writer.
#[derive(Debug)]
pub struct NetCtl {
    /// No more operations are begun; those under way end, and the transfer machine stops.
    pub stop: AtomicBool,
    /// The transfer machine is started.
    pub up: AtomicBool,
    /// The transfer machine is stopped.
    pub done: AtomicBool,
    /// Operations begun, by a client.
    pub started: AtomicU64,
    /// Operations that ended well; of a node, those it served.
    pub completed: AtomicU64,
    /// Payload of those, in bytes; a ping's counts once.
    pub bytes: AtomicU64,
    /// Operations that failed.
    pub failed: AtomicU64,
    /// Operations whose bytes were looked at.
    pub checked: AtomicU64,
    /// Operations with wrong bytes.
    pub wrong: AtomicU64,
    /// Operations that took longer than [`STALL`].
    pub stalls: AtomicU64,
    /// Begin of the first operation, and end of the last one, in ns.
    pub first_ns: AtomicU64,
    /// As `first_ns`.
    pub last_ns: AtomicU64,
    /// Times of operations in ns. Whoever measures a stretch empties it.
    pub times: Mutex<Histogram<u64>>,
    /// The first error, in words.
    error: Mutex<Option<String>>,
    /// The transfer machine's name, once it is up.
    name: Mutex<Option<String>>,
    /// A packet that was refused, for whoever tells people.
    refusal: Mutex<Option<(Notice, u64)>>,
}

impl Default for NetCtl {
    fn default() -> NetCtl {
        // 1 ns to 1000 s, three digits: the bounds are constants that the constructor accepts.
        let times = Histogram::new_with_bounds(1, 1_000_000_000_000, 3);
        NetCtl {
            stop: AtomicBool::new(false),
            up: AtomicBool::new(false),
            done: AtomicBool::new(false),
            started: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            checked: AtomicU64::new(0),
            wrong: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
            first_ns: AtomicU64::new(0),
            last_ns: AtomicU64::new(0),
            times: Mutex::new(times.unwrap_or_else(|_| unreachable!("histogram bounds"))),
            error: Mutex::new(None),
            name: Mutex::new(None),
            refusal: Mutex::new(None),
        }
    }
}

impl NetCtl {
    /// Keeps the first error.
    pub fn fail(&self, what: impl Into<String>) {
        if let Ok(mut e) = self.error.lock() {
            e.get_or_insert_with(|| what.into());
        }
    }

    /// The first error.
    pub fn first_error(&self) -> Option<String> {
        self.error.lock().ok().and_then(|e| e.clone())
    }

    /// The transfer machine's name.
    pub fn name(&self) -> Option<String> {
        self.name.lock().ok().and_then(|n| n.clone())
    }

    /// A packet that was refused since this was asked last, the latest, and how many were refused in all.
    pub fn refusal(&self) -> Option<(Notice, u64)> {
        self.refusal.lock().ok().and_then(|mut r| r.take())
    }

    /// Keeps a refusal, unless somebody looks just now: nothing waits on a lcore.
    fn refused(&self, notice: Notice, all: u64) {
        if let Ok(mut r) = self.refusal.try_lock() {
            *r = Some((notice, all));
        }
    }

    fn came_up(&self, name: String) {
        if let Ok(mut n) = self.name.lock() {
            *n = Some(name);
        }
        self.up.store(true, Ordering::Release);
    }

    /// From the begin of the first operation to the end of the last one.
    pub fn span(&self) -> Duration {
        let [from, to] = [&self.first_ns, &self.last_ns].map(|n| n.load(Ordering::Relaxed));
        Duration::from_nanos(to.saturating_sub(from))
    }

    /// Times of operations so far: percentiles and the longest, in us.
    pub fn times(&self) -> (Rtt, f64) {
        self.times.lock().map_or((Rtt::default(), 0.0), |h| (Rtt::of(&h), h.max() as f64 / 1000.0))
    }

    /// Forgets the times so far.
    pub fn forget_times(&self) {
        if let Ok(mut h) = self.times.lock() {
            h.reset();
        }
    }

    /// Takes the times of operations in: many at once, since it takes a lock.
    fn took(&self, all: &mut Vec<u64>) {
        if let Ok(mut h) = self.times.lock() {
            all.drain(..).for_each(|ns| h.saturating_record(ns.max(1)));
        }
    }
}

/// Words for an error number.
fn words(status: i32) -> String {
    std::io::Error::from_raw_os_error(status).to_string()
}

/// Writes the bytes of a number: each 8 of them tell it and their place.
fn fill(run: &mut PageRunMut, seed: u64, from: usize, to: usize) {
    let Some(bytes) = run.bytes_mut().get_mut(from..to) else { return };
    let mut word = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for w in bytes.chunks_mut(8) {
        w.copy_from_slice(&word.to_le_bytes()[..w.len()]);
        word = word.wrapping_add(0x0001_0001_0001_0001);
    }
}

/// Whether these are the bytes of a number, in parts that need not end where words do.
fn is_filled<'a>(parts: impl Iterator<Item = &'a [u8]>, seed: u64, len: u64) -> bool {
    let mut word = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let (mut at, mut seen, mut good) = (0_usize, 0_u64, true);
    for mut part in parts {
        seen += part.len() as u64;
        while !part.is_empty() {
            if at == 0 && part.len() >= 8 {
                let (words, rest) = part.as_chunks::<8>();
                for w in words {
                    good &= u64::from_le_bytes(*w) == word;
                    word = word.wrapping_add(0x0001_0001_0001_0001);
                }
                part = rest;
                continue;
            }
            let n = part.len().min(8 - at);
            good &= part[..n] == word.to_le_bytes()[at..at + n];
            part = &part[n..];
            at += n;
            if at == 8 {
                at = 0;
                word = word.wrapping_add(0x0001_0001_0001_0001);
            }
        }
    }
    good && seen == len
}

/// Memory that bulk comes into.
fn room(
    intake: Intake,
    size: u64,
    pages: impl FnOnce() -> Result<PageRunMut, BackingError>,
) -> Result<Memory, String> {
    Ok(Memory::Recv(match intake {
        Intake::Lent => Sink::Lend { most: size, owner: LendOwner(1), pieces: Vec::new() },
        Intake::Copied => Sink::Into(RecvVec::new([pages().map_err(|e| e.to_string())?])),
    }))
}

/// Takes the only run of a buffer that nobody else has.
fn run_of<X: Xprt>(net: &mut Domain<X>, buffer: Buffer) -> Option<PageRunMut> {
    match net.deregister(buffer).ok()? {
        Memory::Send(pages) => pages.into_iter().next()?.into_run()?.try_thaw().ok(),
        Memory::Recv(Sink::Into(v)) => v.into_runs().next(),
        Memory::Recv(Sink::Lend { .. }) => None,
    }
}

/// A buffer that sends `len` bytes of a run.
fn to_send<X: Xprt>(net: &mut Domain<X>, run: PageRunMut, len: u64) -> Result<Buffer, NetError> {
    let run = run.freeze();
    let part = u32::try_from(len).ok().and_then(|len| run.slice(0, len));
    net.register(Memory::Send(part.into_iter().collect())).map_err(|u| u.why)
}

/// A buffer that takes a message into a run.
fn to_recv<X: Xprt>(net: &mut Domain<X>, run: PageRunMut) -> Result<Buffer, NetError> {
    net.register(Memory::Recv(Sink::Into(RecvVec::new([run])))).map_err(|u| u.why)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hugepages::PrivatePages;

    use super::*;

    #[test]
    fn bytes_tell_their_number_and_their_place() {
        let mut run = PageRunMut::new(Arc::new(PrivatePages), 1000).unwrap();
        fill(&mut run, 7, 0, 1000);
        let is = |b: &[u8], cuts: &[usize], seed| {
            let (mut parts, mut from) = (Vec::new(), 0);
            for to in cuts.iter().copied().chain([b.len()]) {
                parts.push(&b[from..to]);
                from = to;
            }
            is_filled(parts.into_iter(), seed, 1000)
        };
        let good = run.bytes().to_vec();
        for cuts in [&[][..], &[8, 16], &[1, 2, 3, 20], &[997], &[5, 500, 501]] {
            assert!(is(&good, cuts, 7), "{cuts:?}");
            assert!(!is(&good, cuts, 8) && !is(&good[..999], &cuts[..0], 7));
            for at in [0, 4, 7, 8, 500, 999] {
                let mut bad = good.clone();
                bad[at] ^= 1;
                assert!(!is(&bad, cuts, 7), "{at} {cuts:?}");
            }
        }
    }
}
