//! The virtio link of [`crate::link`] without nodes: what it carries of 64 KiB super-segments, payload by reference.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dataplane::dpdk::{BareLoad, BareReceiver, BareSender, Eal, EthPort, PairConfig, QueueSeed, virtio_pair};

use crate::link::this_lcore;
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
    time: Duration,
) -> Result<f64, String> {
    let mut pair = PairConfig { tso: true, ..PairConfig::default() };
    pair.port.mtu = mtu;
    let (mut vhost, mut virtio) = virtio_pair(eal, sockdir, &pair).map_err(|e| e.to_string())?;
    let seed =
        |p: &mut EthPort| p.take_queue(0).ok_or_else(|| format!("queue 0 of port {} is taken", p.name()));
    let (rx, tx) = (seed(&mut vhost)?, seed(&mut virtio)?);
    // Segments with the timestamps that the nodes' have.
    let load = BareLoad::Tso(mtu.saturating_sub(52));
    let gbps = match threads {
        Threads::One => on_one(eal, load, (tx, rx), enter, time),
        Threads::Two => on_two(eal, load, (tx, rx), enter, time),
    };
    for mut p in [virtio, vhost] {
        p.close(Duration::from_secs(2)).map_err(|e| e.to_string())?;
    }
    gbps
}

fn joined<T>(t: std::thread::ScopedJoinHandle<'_, Result<T, String>>) -> Result<T, String> {
    t.join().map_err(|_| "a thread of the bare link panicked".to_owned())?
}

fn on_one(
    eal: &Eal,
    load: BareLoad,
    (tx, rx): (QueueSeed, QueueSeed),
    enter: &Enter,
    time: Duration,
) -> Result<f64, String> {
    std::thread::scope(|s| {
        joined(s.spawn(|| {
            enter(0)?;
            let lcore = this_lcore(eal)?;
            let (mut tx, mut rx) = (tx.build(&lcore), rx.build(&lcore));
            let mut sender = BareSender::new(eal, load).map_err(|e| e.to_string())?;
            let (came, mut receiver) = (Came::default(), BareReceiver::default());
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
            rx.park();
            Ok(gbps)
        }))
    })
}

fn on_two(
    eal: &Eal,
    load: BareLoad,
    (tx, rx): (QueueSeed, QueueSeed),
    enter: &Enter,
    time: Duration,
) -> Result<f64, String> {
    let (came, stop, sent) = (Came::default(), AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|s| {
        let sender = s.spawn(|| {
            let made = enter(0).and_then(|()| this_lcore(eal)).and_then(|lcore| {
                BareSender::new(eal, load).map(|s| (tx.build(&lcore), s)).map_err(|e| e.to_string())
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
            let (mut p, mut receiver) = (rx.build(&this_lcore(eal)?), BareReceiver::default());
            while !sent.load(Ordering::Acquire) {
                came.add(receiver.turn(&mut p));
            }
            p.park();
            Ok(())
        });
        let gbps = came.rate(time, std::thread::sleep);
        stop.store(true, Ordering::Relaxed);
        joined(sender).and(joined(receiver)).map(|()| gbps)
    })
}
