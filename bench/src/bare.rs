//! The virtio link of [`crate::link`] without nodes: what it carries of 64 KiB super-segments, payload by reference, and
//! how long a round trip of small frames takes.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dataplane::clock::Clock;
use dataplane::dpdk::{
    BareEnd, BareLoad, BareReceiver, BareSender, Eal, EthPort, EthQueue, PairConfig, QueueSeed, virtio_pair,
};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::link::this_lcore;
use crate::measure::Rtt;
use crate::pair::{Enter, Threads};

/// Headers of a frame, in bytes: Ethernet, IPv4 and TCP.
const HEADERS: u64 = 54;
/// Before it is measured.
const WARM: Duration = Duration::from_millis(100);

/// Bytes of payload that came, and frames.
#[derive(Default)]
struct Came(AtomicU64);

impl Came {
    fn add(&self, (frames, bytes): (u64, u64)) {
        self.0.fetch_add(bytes - HEADERS * frames, Ordering::Relaxed);
    }

    /// Gbit/s over `time`, after the link has warmed up; `wait` passes time.
    fn rate(&self, time: Duration, mut wait: impl FnMut(Duration)) -> f64 {
        wait(WARM);
        let (before, t) = (self.0.load(Ordering::Relaxed), Instant::now());
        wait(time);
        let n = self.0.load(Ordering::Relaxed) - before;
        n as f64 * 8e-9 / t.elapsed().as_secs_f64()
    }
}

/// Payload of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The same 64 KiB again and again, dropped as they come: in the caches.
    Cached,
    /// Different pages, as many as the nodes' PUTs in flight have, dropped by the message: what the memory alone costs.
    Messages,
}

/// Frames of a message of 1 MiB.
const MESSAGE: usize = 16;
/// Messages in flight.
const FLIGHT: usize = 8;

impl Payload {
    /// Frames that have pages of their own, and frames that are held.
    fn frames(self) -> (usize, usize) {
        match self {
            Payload::Cached => (1, 1),
            Payload::Messages => (FLIGHT * MESSAGE, MESSAGE),
        }
    }
}

/// Payload that the link carries from the virtio side to vhost, in Gbit/s, over `time`: both ends on one thread or on one
/// each, as the nodes are.
///
/// # Errors
/// The port that could not be had, and the remedy.
pub fn rate(
    eal: &Eal,
    sockdir: &Path,
    mtu: u16,
    threads: Threads,
    enter: &Enter,
    (payload, time): (Payload, Duration),
) -> Result<f64, String> {
    // Segments with the timestamps that the nodes' have.
    let load = BareLoad::Tso(mtu.saturating_sub(52));
    over_pair(eal, sockdir, mtu, |queues| match threads {
        Threads::One => on_one(eal, (load, payload), queues, enter, time),
        Threads::Two => on_two(eal, (load, payload), queues, enter, time),
    })
}

/// Makes the pair, gives the queues of its virtio and its vhost end to `f`, and closes it.
fn over_pair<T>(
    eal: &Eal,
    sockdir: &Path,
    mtu: u16,
    f: impl FnOnce((QueueSeed, QueueSeed)) -> Result<T, String>,
) -> Result<T, String> {
    let mut pair = PairConfig { tso: true, ..PairConfig::default() };
    pair.port.mtu = mtu;
    let (mut vhost, mut virtio) = virtio_pair(eal, sockdir, &pair).map_err(|e| e.to_string())?;
    let seed =
        |p: &mut EthPort| p.take_queue(0).ok_or_else(|| format!("queue 0 of port {} is taken", p.name()));
    let got = f((seed(&mut virtio)?, seed(&mut vhost)?));
    for mut p in [virtio, vhost] {
        p.close(Duration::from_secs(2)).map_err(|e| e.to_string())?;
    }
    got
}

fn joined<T>(t: std::thread::ScopedJoinHandle<'_, Result<T, String>>) -> Result<T, String> {
    t.join().map_err(|_| "a thread of the bare link panicked".to_owned())?
}

fn on_one(
    eal: &Eal,
    (load, payload): (BareLoad, Payload),
    (tx, rx): (QueueSeed, QueueSeed),
    enter: &Enter,
    time: Duration,
) -> Result<f64, String> {
    std::thread::scope(|s| {
        joined(s.spawn(|| {
            enter(0)?;
            let lcore = this_lcore(eal)?;
            let (mut tx, mut rx) = (tx.build(&lcore), rx.build(&lcore));
            let (frames, hold) = payload.frames();
            let mut sender = BareSender::new(eal, load, frames).map_err(|e| e.to_string())?;
            let (came, mut receiver) = (Came::default(), BareReceiver::holding(hold));
            let gbps = came.rate(time, |time| {
                let end = Instant::now() + time;
                while Instant::now() < end {
                    for _ in 0..64 {
                        sender.turn(&mut tx);
                        came.add(receiver.turn(&mut rx));
                    }
                }
            });
            sender.finish(&mut tx, || {
                receiver.turn(&mut rx);
            });
            receiver.finish();
            rx.park();
            Ok(gbps)
        }))
    })
}

fn on_two(
    eal: &Eal,
    (load, payload): (BareLoad, Payload),
    (tx, rx): (QueueSeed, QueueSeed),
    enter: &Enter,
    time: Duration,
) -> Result<f64, String> {
    let (came, stop, sent) = (Came::default(), AtomicBool::new(false), AtomicBool::new(false));
    let (frames, hold) = payload.frames();
    std::thread::scope(|s| {
        let sender = s.spawn(|| {
            let made = enter(0).and_then(|()| this_lcore(eal)).and_then(|lcore| {
                BareSender::new(eal, load, frames).map(|s| (tx.build(&lcore), s)).map_err(|e| e.to_string())
            });
            let ended = made.map(|(mut p, mut s)| {
                while !stop.load(Ordering::Relaxed) {
                    s.turn(&mut p);
                }
                s.finish(&mut p, std::thread::yield_now);
            });
            // The other one ends behind it, whatever it came to.
            sent.store(true, Ordering::Release);
            ended
        });
        let receiver = s.spawn(|| {
            enter(1)?;
            let (mut p, mut receiver) = (rx.build(&this_lcore(eal)?), BareReceiver::holding(hold));
            while !sent.load(Ordering::Acquire) {
                came.add(receiver.turn(&mut p));
            }
            receiver.finish();
            p.park();
            Ok(())
        });
        let gbps = came.rate(time, std::thread::sleep);
        stop.store(true, Ordering::Relaxed);
        joined(sender).and(joined(receiver)).map(|()| gbps)
    })
}

/// Frames of a 64-byte PUT and of its ACK, in bytes: TCP with timestamps, the ksock header, the LNet header, payload.
const PUT_FRAME: usize = 66 + 24 + 72 + 64;
const ACK_FRAME: usize = 66 + 24 + 72;

/// Round trips with nothing above the link, or with no link.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Floor {
    /// Frames as long as those of a 64-byte PUT and of its ACK, made anew and dropped as they come.
    pub link: Rtt,
    /// One word in a cache line of its own each way, between the two cores; absent on one.
    pub cores: Option<Rtt>,
}

fn new_histogram() -> Result<Histogram<u64>, String> {
    Histogram::new_with_bounds(1, 100_000_000_000, 3).map_err(|e| e.to_string())
}

/// Longest wait for an answer, in ns.
const PATIENCE: u64 = 2_000_000_000;

/// One who asks and is answered.
trait Trip {
    fn ask(&mut self);
    fn is_answered(&mut self) -> bool;
}

/// Times round trips for `time` after the link has warmed up.
fn trips(time: Duration, mut trip: impl Trip) -> Result<Rtt, String> {
    let (clock, mut h) = (Clock::calibrated(), new_histogram()?);
    let start = clock.now() + WARM.as_nanos() as u64;
    let (mut then, end) = (clock.now(), start + time.as_nanos() as u64);
    // On a machine that stands still the first round trip may outlast all of it.
    while then < end || h.is_empty() {
        trip.ask();
        let mut looks = 0_u64;
        while !trip.is_answered() {
            looks += 1;
            if looks.is_multiple_of(1 << 16) && clock.now() - then > PATIENCE {
                return Err(format!(
                    "the other end of the bare link has not answered for {} s: it has no CPU to itself; stop what else runs, or take \
                     --one-lcore",
                    PATIENCE / 1_000_000_000
                ));
            }
        }
        let now = clock.now();
        if then >= start {
            h.saturating_record((now - then).max(1));
        }
        then = now;
    }
    Ok(Rtt::of(&h))
}

/// An end of the link, and its queue.
struct End<'a>(&'a mut EthQueue, BareEnd);

impl End<'_> {
    /// Answers each frame that came.
    fn answer(&mut self) {
        for _ in 0..self.1.receive(self.0) {
            self.1.send(self.0);
        }
    }
}

impl Trip for End<'_> {
    fn ask(&mut self) {
        self.1.send(self.0);
    }
    fn is_answered(&mut self) -> bool {
        self.1.receive(self.0) > 0
    }
}

/// Both ends on one thread.
struct Both<'a>(End<'a>, End<'a>);

impl Trip for Both<'_> {
    fn ask(&mut self) {
        self.0.ask();
    }
    fn is_answered(&mut self) -> bool {
        self.1.answer();
        self.0.is_answered()
    }
}

/// Round trips of small frames from the virtio side to vhost and back, one at a time: what a node's round trip cannot be
/// below. Both ends on one thread or on one each, as the nodes are.
///
/// # Errors
/// The port that could not be had, and the remedy.
pub fn round_trip(
    eal: &Eal,
    sockdir: &Path,
    mtu: u16,
    threads: Threads,
    enter: &Enter,
    time: Duration,
) -> Result<Floor, String> {
    let link = over_pair(eal, sockdir, mtu, |queues| match threads {
        Threads::One => trips_on_one(eal, queues, enter, time),
        Threads::Two => trips_on_two(eal, queues, enter, time),
    })?;
    let cores = (threads == Threads::Two).then(|| cores(enter, time)).transpose()?;
    Ok(Floor { link, cores })
}

fn trips_on_one(
    eal: &Eal,
    (near, far): (QueueSeed, QueueSeed),
    enter: &Enter,
    time: Duration,
) -> Result<Rtt, String> {
    std::thread::scope(|s| {
        joined(s.spawn(|| {
            enter(0)?;
            let lcore = this_lcore(eal)?;
            let (mut near, mut far) = (near.build(&lcore), far.build(&lcore));
            let ends = [(&mut near, PUT_FRAME), (&mut far, ACK_FRAME)].map(|(q, n)| End(q, BareEnd::new(n)));
            let [asks, answers] = ends;
            let took = trips(time, Both(asks, answers));
            near.park();
            far.park();
            took
        }))
    })
}

fn trips_on_two(
    eal: &Eal,
    (near, far): (QueueSeed, QueueSeed),
    enter: &Enter,
    time: Duration,
) -> Result<Rtt, String> {
    let over = AtomicBool::new(false);
    std::thread::scope(|s| {
        let asks = s.spawn(|| {
            let took = enter(0).and_then(|()| this_lcore(eal)).and_then(|lcore| {
                let mut near = near.build(&lcore);
                let took = trips(time, End(&mut near, BareEnd::new(PUT_FRAME)));
                near.park();
                took
            });
            over.store(true, Ordering::Release);
            took
        });
        let answers = s.spawn(|| {
            enter(1)?;
            let mut far = far.build(&this_lcore(eal)?);
            let mut end = End(&mut far, BareEnd::new(ACK_FRAME));
            while !over.load(Ordering::Acquire) {
                end.answer();
            }
            far.park();
            Ok(())
        });
        let (took, answered) = (joined(asks), joined(answers));
        answered.and(took)
    })
}

/// A word that no other shares a cache line with, nor the line that is fetched with it.
#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

/// A word that another core sends back.
struct Word<'a>(&'a Line, &'a Line, u64);

impl Trip for Word<'_> {
    fn ask(&mut self) {
        self.2 += 1;
        self.0.0.store(self.2, Ordering::Release);
    }
    fn is_answered(&mut self) -> bool {
        self.1.0.load(Ordering::Acquire) == self.2
    }
}

/// Round trips of a word between two cores.
fn cores(enter: &Enter, time: Duration) -> Result<Rtt, String> {
    let (there, back, over) = (Line::default(), Line::default(), AtomicBool::new(false));
    std::thread::scope(|s| {
        let asks = s.spawn(|| {
            let took = enter(0).and_then(|()| trips(time, Word(&there, &back, 0)));
            over.store(true, Ordering::Release);
            took
        });
        let answers = s.spawn(|| {
            enter(1)?;
            let mut seen = 0;
            while !over.load(Ordering::Acquire) {
                let n = there.0.load(Ordering::Acquire);
                if n != seen {
                    seen = n;
                    back.0.store(n, Ordering::Release);
                }
            }
            Ok(())
        });
        let (took, answered) = (joined(asks), joined(answers));
        answered.and(took)
    })
}
