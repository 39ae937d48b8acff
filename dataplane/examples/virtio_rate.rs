//! How fast frames cross the in-process virtio pair through the `Port` trait.
//!
//! ```sh
//! cargo run --release -p pollnd-dataplane --features dpdk --example virtio_rate -- [SECONDS]
//! ```
//!
//! For each direction, on one thread and on two: 64-byte frames (60 bytes and the checksum that no link adds here) in
//! Mpps, and 64 KiB TSO super-segments of 16 attached pieces in Gbit/s of payload. Payload is attached by reference
//! and dropped by the receiver; the pair itself copies it once, as a NIC's DMA would.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use dataplane::cpt::Topology;
use dataplane::dpdk::{Eal, EalBacking, EalConfig, EthQueue, PairConfig, QueueSeed, virtio_pair};
use dataplane::lcore;
use dataplane::pkt::{Port, RX_BURST, RxPkt, TxCsum, TxMeta, TxPkt};
use hugepages::{LendSlab, Lent, PageRunMut};

const PIECES: usize = 16;
const PIECE: usize = 4090;
const SEGSZ: u16 = 8948;

#[derive(Clone, Copy)]
enum Load {
    Small,
    Tso,
}

struct Sender {
    load: Load,
    q: VecDeque<<EthQueue as Port>::Tx>,
    head: Vec<u8>,
    pages: Vec<Lent>,
    slab: LendSlab,
}

fn headers(payload: usize) -> Vec<u8> {
    let mut h = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    h.extend(((40 + payload) as u16).to_be_bytes());
    h.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    h.extend([3, 0xff, 3, 0xdc, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    h
}

impl Sender {
    fn new(eal: &Eal, load: Load) -> Result<Sender, Box<dyn Error>> {
        let slab = LendSlab::new(PIECES);
        let mut pages = Vec::new();
        if matches!(load, Load::Tso) {
            let backing = Arc::new(EalBacking::new(eal, -1));
            for i in 0..PIECES {
                let run = PageRunMut::new(backing.clone(), PIECE)?.freeze();
                pages.push(slab.lend(run.slice_all(), i as u64)?);
            }
        }
        let payload = if matches!(load, Load::Tso) { PIECES * PIECE } else { 6 };
        let mut head = headers(payload);
        if matches!(load, Load::Small) {
            head.resize(60, 0);
        }
        Ok(Sender { load, q: VecDeque::with_capacity(64), head, pages, slab })
    }

    fn turn(&mut self, p: &mut EthQueue) {
        while self.q.len() < RX_BURST {
            let Some(mut t) = p.tx_alloc() else { break };
            if t.copy_in(&self.head).is_err() || self.pages.iter().any(|l| t.attach(l).is_err()) {
                break;
            }
            let meta = match self.load {
                Load::Small => TxMeta::default(),
                Load::Tso => TxMeta {
                    l2: 14,
                    l3: 20,
                    l4: 20,
                    segsz: SEGSZ,
                    csum: TxCsum::Offload,
                    ..TxMeta::default()
                },
            };
            self.q.push_back(t.finish(meta));
        }
        p.tx_burst(&mut self.q);
    }

    /// Sends small frames until the driver has let go of every page; `other` keeps the far end moving.
    fn finish(mut self, p: &mut EthQueue, mut other: impl FnMut()) {
        self.q.clear();
        self.pages.clear();
        for _ in 0..1_000_000 {
            self.slab.reap(|_, _| ());
            if self.slab.out() == 0 {
                break;
            }
            if self.q.is_empty()
                && let Some(mut t) = p.tx_alloc()
                && t.copy_in(&[0; 60]).is_ok()
            {
                self.q.push_back(t.finish(TxMeta::default()));
            }
            p.tx_burst(&mut self.q);
            other();
        }
        p.park();
    }
}

fn receive(p: &mut EthQueue, batch: &mut ArrayVec<<EthQueue as Port>::Rx, RX_BURST>) -> (u64, u64) {
    p.rx_burst(batch);
    let n = (batch.len() as u64, batch.iter().map(|b| u64::from(b.len())).sum());
    batch.clear();
    n
}

fn one_thread(
    eal: &Eal,
    load: Load,
    tx: QueueSeed,
    rx: QueueSeed,
    secs: u64,
) -> Result<(f64, f64), Box<dyn Error>> {
    let lcore = eal.enter()?;
    let (mut tx, mut rx) = (tx.build(&lcore), rx.build(&lcore));
    let mut s = Sender::new(eal, load)?;
    let mut batch = ArrayVec::new();
    let (mut packets, mut bytes) = (0, 0);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(secs) {
        for _ in 0..64 {
            s.turn(&mut tx);
            let (n, b) = receive(&mut rx, &mut batch);
            packets += n;
            bytes += b;
        }
    }
    let t = start.elapsed().as_secs_f64();
    s.finish(&mut tx, || {
        receive(&mut rx, &mut batch);
    });
    rx.park();
    Ok((packets as f64 / t, bytes as f64 * 8.0 / t))
}

fn two_threads(
    eal: &Eal,
    load: Load,
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
            let mut s = Sender::new(eal, load).map_err(|e| e.to_string())?;
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
            let mut batch = ArrayVec::new();
            while !sent.load(Ordering::Relaxed) {
                let (n, b) = receive(&mut p, &mut batch);
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
        for load in [Load::Small, Load::Tso] {
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
                    if matches!(load, Load::Small) { "64 B" } else { "64K TSO" }
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
