//! Rate of frames over the in-process virtio pair, through the `Port` trait.
//!
//! ```sh
//! cargo run --release -p pollnd-dataplane --features dpdk --example virtio_rate -- [SECONDS]
//! ```
//!
//! For each direction, on one thread and on two: 64-byte frames (60 bytes and the checksum that no link adds here) in
//! Mpps, and 64 KiB TSO super-segments of 16 attached pieces in Gbit/s of payload. Payload is attached by reference
//! and dropped by the receiver; the pair itself copies it once, as a NIC's DMA would.

use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dataplane::cpt::Topology;
use dataplane::dpdk::{
    BareLoad, BareReceiver, BareSender, Eal, EalConfig, PairConfig, QueueSeed, virtio_pair,
};
use dataplane::lcore;

const SEGSZ: u16 = 8948;

fn one_thread(
    eal: &Eal,
    load: BareLoad,
    tx: QueueSeed,
    rx: QueueSeed,
    secs: u64,
) -> Result<(f64, f64), Box<dyn Error>> {
    let lcore = eal.enter()?;
    let (mut tx, mut rx) = (tx.build(&lcore), rx.build(&lcore));
    let mut s = BareSender::new(eal, load, 1)?;
    let mut receiver = BareReceiver::default();
    let (mut packets, mut bytes) = (0, 0);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(secs) {
        for _ in 0..64 {
            s.turn(&mut tx);
            let (n, b) = receiver.turn(&mut rx);
            packets += n;
            bytes += b;
        }
    }
    let t = start.elapsed().as_secs_f64();
    s.finish(&mut tx, || {
        receiver.turn(&mut rx);
    });
    rx.park();
    Ok((packets as f64 / t, bytes as f64 * 8.0 / t))
}

fn two_threads(
    eal: &Eal,
    load: BareLoad,
    tx: QueueSeed,
    rx: QueueSeed,
    secs: u64,
) -> Result<(f64, f64), Box<dyn Error>> {
    let machine = Topology::detect()?;
    let cpus = machine.cpus();
    if cpus.len() < 2 {
        return Err("two threads need two CPUs".into());
    }
    let (stop, sent) = (AtomicBool::new(false), AtomicBool::new(false));
    let (packets, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let (machine, cpus, counts) = (&machine, &cpus, (&packets, &bytes));
    let (stop, sent) = (&stop, &sent);
    std::thread::scope(|s| -> Result<(f64, f64), Box<dyn Error>> {
        let sender = s.spawn(move || -> Result<(), String> {
            lcore::pin(machine, cpus[0]).map_err(|e| e.to_string())?;
            let l = eal.enter().map_err(|e| e.to_string())?;
            let mut p = tx.build(&l);
            let mut s = BareSender::new(eal, load, 1).map_err(|e| e.to_string())?;
            while !stop.load(Ordering::Relaxed) {
                s.turn(&mut p);
            }
            s.finish(&mut p, std::thread::yield_now);
            sent.store(true, Ordering::Relaxed);
            Ok(())
        });
        let receiver = s.spawn(move || -> Result<(), String> {
            lcore::pin(machine, cpus[1]).map_err(|e| e.to_string())?;
            let l = eal.enter().map_err(|e| e.to_string())?;
            let mut p = rx.build(&l);
            let mut receiver = BareReceiver::default();
            while !sent.load(Ordering::Relaxed) {
                let (n, b) = receiver.turn(&mut p);
                counts.0.fetch_add(n, Ordering::Relaxed);
                counts.1.fetch_add(b, Ordering::Relaxed);
            }
            Ok(())
        });
        std::thread::sleep(Duration::from_millis(200));
        let (p0, b0, start) =
            (packets.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed), Instant::now());
        std::thread::sleep(Duration::from_secs(secs));
        let (p1, b1, t) =
            (packets.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed), start.elapsed().as_secs_f64());
        stop.store(true, Ordering::Relaxed);
        for h in [sender, receiver] {
            h.join().map_err(|_| "a thread panicked")??;
        }
        Ok(((p1 - p0) as f64 / t, (b1 - b0) as f64 * 8.0 / t))
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let secs = std::env::args().nth(1).map_or(Ok(2), |a| a.parse())?;
    let eal = Eal::start(&EalConfig { no_pci: true, mem_mb: 400, ..EalConfig::default() })?;
    println!(
        "{} with {} pages",
        dataplane::dpdk::dpdk_version(),
        if eal.huge() { "huge" } else { "ordinary" }
    );
    println!("{:24} {:>7} {:>10} {:>10}", "direction and load", "threads", "Mpps", "Gbit/s");
    let dir = std::env::temp_dir();
    for to_vhost in [true, false] {
        for load in [BareLoad::Small, BareLoad::Tso(SEGSZ)] {
            for threads in [1, 2] {
                let (mut vhost, mut virtio) = virtio_pair(&eal, &dir, &PairConfig::default())?;
                let (Some(a), Some(b)) = (vhost.take_queue(0), virtio.take_queue(0)) else {
                    return Err("the ports have no queue".into());
                };
                let (tx, rx) = if to_vhost { (b, a) } else { (a, b) };
                let run = if threads == 1 { one_thread } else { two_threads };
                let (pps, bps) = run(&eal, load, tx, rx, secs)?;
                let what = format!(
                    "{} {}",
                    if to_vhost { "virtio -> vhost" } else { "vhost -> virtio" },
                    if load == BareLoad::Small { "64 B" } else { "64K TSO" }
                );
                println!("{what:24} {threads:>7} {:>10.2} {:>10.1}", pps / 1e6, bps / 1e9);
                virtio.close(Duration::from_secs(5))?;
                vhost.close(Duration::from_secs(5))?;
            }
        }
    }
    eal.cleanup_within(Duration::from_secs(5))?;
    Ok(())
}
