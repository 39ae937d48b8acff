//! A wire between a virtio_user port and the Linux kernel: a vhost-user port on one side, a TAP device on the other.
//! Frames cross whole, super-segments and partial checksums included, so that the kernel's TCP talks to a DPDK
//! node at full speed. A tool for tests.
//!
//! ```text
//! vhost_tap --sock PATH --tap NAME [--addr 10.99.0.1/24] [--mtu N] [--no-tso] [--complete]
//!           [--loss F] [--dup F] [--reorder F] [--loss-back F] [--reorder-back F]
//!           [--seed N] [-- EAL ARGUMENTS]
//! ```
//!
//! Run it with `ip netns exec NS` to have the TAP device in a network namespace. It prints `ready` when the socket
//! listens and the device is up, runs until SIGTERM, SIGINT or the end of its standard input, and then prints its
//! counters as one JSON object. Rates F are fractions of packets (0 to 1): `--loss`, `--dup` and `--reorder` for
//! packets from the vhost side, `--loss-back` and `--reorder-back` (a packet is held until three more have passed, or
//! none comes) for packets from the TAP.
//!
//! `--complete` fills in partial checksums instead of passing them on, so that the kernel judges every one of them;
//! it goes with packets that are no super-segments, so it implies `--no-tso`.

use std::collections::VecDeque;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, ExitCode};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use dataplane::clock::Clock;
use dataplane::dpdk::{Eal, EalBacking, EalConfig, EthPort, EthQueue, PortConfig};
use dataplane::fault::{FaultCounters, FaultPort, Faults, Rng};
use dataplane::pkt::{Csum, Port, RX_BURST, RxPkt, TxCsum, TxMeta, TxPkt};
use hugepages::{Arena, LendSlab};

/// `struct virtio_net_hdr_mrg_rxbuf` (virtio 1.2, section 5.1.6), in bytes.
const VNET: usize = 12;
const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;
/// Offset of the checksum in a TCP header.
const TCP_CSUM: u16 = 16;

/// Room for a 65,535-byte IP packet with its Ethernet header and VLAN tag, in whole pages.
const RUN: usize = 17 * 4096;
/// Runs for packets on their way to the vhost side.
const RUNS: usize = 256;
/// Up to here a packet is copied; from here on its payload is attached.
const COPY_MAX: usize = 1024;
/// Packets waiting for the vhost side at most; beyond that the TAP is not read, and the kernel queues.
const QUEUE_MAX: usize = 128;
/// Packets that the kernel queues for us.
const TAP_QUEUE: &str = "4096";
/// Most buffers of a packet that is written to the TAP.
const IOV_MAX: usize = 64;
/// EAL memory: 4096 receive buffers of 9 KiB, heads, and the runs.
const MEM_MB: u32 = 160;
/// Packets that pass one held back.
const PASS: u32 = 3;

type Res<T> = Result<T, Box<dyn Error>>;

static STOP: AtomicBool = AtomicBool::new(false);

struct Args {
    sock: String,
    tap: String,
    addr: Option<String>,
    mtu: u16,
    tso: bool,
    complete: bool,
    faults: Faults,
    loss_back: f64,
    reorder_back: f64,
    seed: u64,
    eal: Vec<String>,
}

fn value<T: FromStr>(name: &str, v: Option<String>) -> Res<T> {
    let v = v.ok_or_else(|| format!("{name} takes a value"))?;
    v.parse().map_err(|_| format!("{name}: {v:?} is no value for it").into())
}

fn rate(name: &str, v: Option<String>) -> Res<f64> {
    let f: f64 = value(name, v)?;
    if (0.0..=1.0).contains(&f) { Ok(f) } else { Err(format!("{name}: {f} is not from 0 to 1").into()) }
}

fn args() -> Res<Args> {
    let mut a = Args {
        sock: String::new(),
        tap: String::new(),
        addr: None,
        mtu: 1500,
        tso: true,
        complete: false,
        faults: Faults::default(),
        loss_back: 0.0,
        reorder_back: 0.0,
        seed: 1,
        eal: Vec::new(),
    };
    let mut it = std::env::args().skip(1);
    while let Some(n) = it.next() {
        match n.as_str() {
            "--sock" => a.sock = value(&n, it.next())?,
            "--tap" => a.tap = value(&n, it.next())?,
            "--addr" => a.addr = Some(value(&n, it.next())?),
            "--mtu" => a.mtu = value(&n, it.next())?,
            "--no-tso" => a.tso = false,
            "--complete" => (a.complete, a.tso) = (true, false),
            "--loss" => a.faults.loss = rate(&n, it.next())?,
            "--dup" => a.faults.dup = rate(&n, it.next())?,
            "--reorder" => a.faults.reorder = rate(&n, it.next())?,
            "--loss-back" => a.loss_back = rate(&n, it.next())?,
            "--reorder-back" => a.reorder_back = rate(&n, it.next())?,
            "--seed" => a.seed = value(&n, it.next())?,
            "--" => a.eal.extend(it.by_ref()),
            _ => return Err(format!("{n} is no option: see the head of vhost_tap.rs").into()),
        }
    }
    if a.sock.is_empty() || a.tap.is_empty() {
        return Err("--sock PATH and --tap NAME are needed".into());
    }
    Ok(a)
}

/// The header before each frame on the TAP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct VnetHdr {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl VnetHdr {
    /// Fields in the machine's byte order, as the TAP has them unless told otherwise.
    fn bytes(self) -> [u8; VNET] {
        let mut b = [0; VNET];
        (b[0], b[1]) = (self.flags, self.gso_type);
        for (i, v) in [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset].iter().enumerate() {
            b[2 + 2 * i..4 + 2 * i].copy_from_slice(&v.to_ne_bytes());
        }
        b
    }

    fn parse(b: &[u8; VNET]) -> VnetHdr {
        let at = |i: usize| u16::from_ne_bytes([b[i], b[i + 1]]);
        VnetHdr {
            flags: b[0],
            gso_type: b[1],
            hdr_len: at(2),
            gso_size: at(4),
            csum_start: at(6),
            csum_offset: at(8),
        }
    }
}

/// Lengths of the headers of a TCP packet.
#[derive(Clone, Copy, Debug)]
struct Layers {
    l2: u8,
    l3: u8,
    l4: u8,
    v6: bool,
}

impl Layers {
    /// `None` for anything but TCP on IPv4, or on IPv6 without extension headers.
    fn of(f: &[u8]) -> Option<Layers> {
        let be = |i: usize| Some(u16::from_be_bytes([*f.get(i)?, *f.get(i + 1)?]));
        let (l2, kind) = if be(12)? == 0x8100 { (18u8, be(16)?) } else { (14, be(12)?) };
        let ip = usize::from(l2);
        let (l3, proto, v6) = match kind {
            0x0800 => ((f.get(ip)? & 15) * 4, *f.get(ip + 9)?, false),
            0x86dd => (40, *f.get(ip + 6)?, true),
            _ => return None,
        };
        let l4 = (f.get(ip + usize::from(l3) + 12)? >> 4) * 4;
        (proto == 6 && l3 >= 20 && l4 >= 20).then_some(Layers { l2, l3, l4, v6 })
    }

    fn csum_start(self) -> u16 {
        u16::from(self.l2) + u16::from(self.l3)
    }
}

/// Completes a checksum whose field holds the sum of the pseudo-header.
fn complete(f: &mut [u8], start: usize, offset: usize) {
    let Some(rest) = f.get_mut(start..).filter(|r| r.len() >= offset + 2) else { return };
    let (pairs, odd) = rest.as_chunks::<2>();
    let mut sum: u64 = pairs.iter().map(|c| u64::from(u16::from_be_bytes(*c))).sum();
    sum += odd.first().map_or(0, |b| u64::from(*b) << 8);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    rest[offset..offset + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// Shows a frame's bytes, buffer by buffer.
type Show<'a> = dyn Fn(&mut dyn FnMut(&[u8])) + 'a;

/// A TAP device of ours; it goes when it is closed.
struct Tap(File);

fn ip(args: &[&str]) -> Res<()> {
    let out = Command::new("ip").args(args).output().map_err(|e| format!("ip: {e}; install iproute2"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    if out.status.success() { Ok(()) } else { Err(format!("ip {}: {}", args.join(" "), said.trim()).into()) }
}

impl Tap {
    fn open(a: &Args) -> Res<Tap> {
        let f = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(|e| format!("/dev/net/tun: {e}; run as root, with the tun module"))?;
        // SAFETY: plain data, all-zero valid.
        let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
        if a.tap.len() >= req.ifr_name.len() {
            return Err(format!("--tap {:?}: at most {} bytes", a.tap, req.ifr_name.len() - 1).into());
        }
        for (to, from) in req.ifr_name.iter_mut().zip(a.tap.bytes()) {
            *to = from as libc::c_char;
        }
        req.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        let check = |what: &str, r: libc::c_int| match r {
            r if r < 0 => Err(format!("{what} on TAP {}: {}", a.tap, io::Error::last_os_error())),
            _ => Ok(()),
        };
        let size = VNET as libc::c_int;
        let offloads = libc::TUN_F_CSUM | if a.tso { libc::TUN_F_TSO4 | libc::TUN_F_TSO6 } else { 0 };
        let offloads = if a.complete { 0 } else { offloads };
        let fd = f.as_raw_fd();
        // SAFETY: an open file; `req` and `size` live through the calls; the last one takes its argument by value.
        unsafe {
            check("TUNSETIFF", libc::ioctl(fd, libc::TUNSETIFF, &mut req))?;
            check("TUNSETVNETHDRSZ", libc::ioctl(fd, libc::TUNSETVNETHDRSZ, &size))?;
            check("TUNSETOFFLOAD", libc::ioctl(fd, libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)))?;
        }
        ip(&["link", "set", "dev", &a.tap, "mtu", &a.mtu.to_string(), "txqueuelen", TAP_QUEUE])?;
        if let Some(addr) = &a.addr {
            ip(&["addr", "add", addr, "dev", &a.tap])?;
        }
        ip(&["link", "set", "dev", &a.tap, "up"])?;
        Ok(Tap(f))
    }

    /// One frame from the kernel: its header and length, or `None` when there is none.
    fn read(&self, into: &mut [u8]) -> io::Result<Option<(VnetHdr, usize)>> {
        let mut h = [0u8; VNET];
        let iov = [
            libc::iovec { iov_base: h.as_mut_ptr().cast(), iov_len: VNET },
            libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() },
        ];
        // SAFETY: both buffers are ours, writable and as long as said.
        let n = unsafe { libc::readv(self.0.as_raw_fd(), iov.as_ptr(), 2) };
        match n {
            n if n < 0 => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
                e => Err(e),
            },
            n => Ok(Some((VnetHdr::parse(&h), (n as usize).saturating_sub(VNET)))),
        }
    }

    /// One frame to the kernel. False when it did not take it.
    fn write(&self, h: VnetHdr, show: &Show<'_>) -> bool {
        let h = h.bytes();
        let mut iov: ArrayVec<libc::iovec, IOV_MAX> = ArrayVec::new();
        iov.push(libc::iovec { iov_base: h.as_ptr().cast_mut().cast(), iov_len: VNET });
        let mut fits = true;
        show(&mut |b| {
            let v = libc::iovec { iov_base: b.as_ptr().cast_mut().cast(), iov_len: b.len() };
            fits &= iov.try_push(v).is_ok();
        });
        // SAFETY: the pieces belong to what `show` borrows, which outlives the call; they are only read.
        fits && unsafe { libc::writev(self.0.as_raw_fd(), iov.as_ptr(), iov.len() as libc::c_int) } > 0
    }
}

/// Counts of one direction.
#[derive(Default)]
struct Way {
    packets: u64,
    bytes: u64,
    /// Super-segments.
    supers: u64,
    /// Packets with a partial checksum.
    partial: u64,
    /// Packets that the far side did not take, or that came without a link.
    dropped: u64,
    /// Packets lost on purpose.
    lost: u64,
    /// Packets held back on purpose.
    reordered: u64,
}

impl Way {
    fn json(&self) -> String {
        format!(
            r#"{{"packets":{},"bytes":{},"supers":{},"partial":{},"dropped":{},"lost":{},"reordered":{}}}"#,
            self.packets, self.bytes, self.supers, self.partial, self.dropped, self.lost, self.reordered
        )
    }
}

/// A port, and what was injected in it.
trait Injected: Port {
    fn injected(&self) -> FaultCounters {
        FaultCounters::default()
    }
}

impl Injected for EthQueue {}

impl<P: Port> Injected for FaultPort<P> {
    fn injected(&self) -> FaultCounters {
        self.fault_counters()
    }
}

struct Bridge<'a, P: Port> {
    args: &'a Args,
    tap: Tap,
    port: P,
    arena: Arena,
    slab: LendSlab,
    queue: VecDeque<P::Tx>,
    /// A packet held back, and how many have yet to pass it.
    late: Option<(P::Tx, u32)>,
    rng: Rng,
    to_tap: Way,
    to_vhost: Way,
}

impl<P: Injected> Bridge<'_, P> {
    fn vhost_to_tap(&mut self) -> usize {
        let mut got = ArrayVec::<_, RX_BURST>::new();
        self.port.rx_burst(&mut got);
        let n = got.len();
        for p in got {
            self.one_to_tap(&p);
        }
        self.port.home().drain();
        n
    }

    fn one_to_tap(&mut self, p: &P::Rx) {
        let meta = p.meta();
        let w = &mut self.to_tap;
        w.packets += 1;
        w.bytes += u64::from(p.len());
        w.supers += u64::from(meta.lro_segsz > 0);
        w.partial += u64::from(meta.csum == Csum::Partial);
        let layers = Layers::of(p.head());
        let mut h = VnetHdr::default();
        if let Some(l) = layers.filter(|_| meta.csum == Csum::Partial) {
            h.flags = NEEDS_CSUM;
            (h.csum_start, h.csum_offset) = (l.csum_start(), TCP_CSUM);
            if meta.lro_segsz > 0 {
                h.gso_type = if l.v6 { GSO_TCPV6 } else { GSO_TCPV4 };
                h.gso_size = meta.lro_segsz;
                h.hdr_len = l.csum_start() + u16::from(l.l4);
            }
        }
        let taken = if self.args.complete && h.flags == NEEDS_CSUM {
            let mut whole = Vec::with_capacity(p.len() as usize);
            p.for_each(&mut |b| whole.extend_from_slice(b));
            complete(&mut whole, usize::from(h.csum_start), usize::from(TCP_CSUM));
            self.tap.write(VnetHdr::default(), &|f| f(&whole))
        } else {
            self.tap.write(h, &|f| p.for_each(f))
        };
        w.dropped += u64::from(!taken);
    }

    fn tap_to_vhost(&mut self) -> Res<usize> {
        let mut n = 0;
        while n < RX_BURST && self.queue.len() < QUEUE_MAX {
            let Ok(mut run) = self.arena.take() else { break };
            let Some((h, len)) = self.tap.read(run.bytes_mut())? else { break };
            n += 1;
            let w = &mut self.to_vhost;
            w.packets += 1;
            w.bytes += len as u64;
            w.supers += u64::from(h.gso_type != GSO_NONE);
            w.partial += u64::from(h.flags & NEEDS_CSUM != 0);
            if self.rng.chance(self.args.loss_back) {
                w.lost += 1;
                continue;
            }
            let frame = &mut run.bytes_mut()[..len];
            let mut meta = TxMeta::default();
            if h.flags & NEEDS_CSUM != 0 {
                match Layers::of(frame).filter(|_| h.csum_offset == TCP_CSUM) {
                    // The field goes to the far side as the kernel left it: virtio wants it so, super-segments
                    // included.
                    Some(l) => {
                        let segsz = if h.gso_type & !GSO_ECN == GSO_NONE { 0 } else { h.gso_size };
                        let (l2, l3, l4, v6) = (l.l2, l.l3, l.l4, l.v6);
                        meta = TxMeta { l2, l3, l4, segsz, csum: TxCsum::Offload, v6, vlan: None };
                    }
                    None => complete(frame, usize::from(h.csum_start), usize::from(h.csum_offset)),
                }
            }
            let head = if len <= COPY_MAX {
                len
            } else {
                usize::from(meta.l2) + usize::from(meta.l3) + usize::from(meta.l4).max(14)
            };
            let run = run.freeze();
            let whole = (|| {
                let mut p = self.port.tx_alloc()?;
                p.copy_in(&run.bytes()[..head]).ok()?;
                if head < len {
                    let s = run.slice(head as u32, (len - head) as u32)?;
                    p.attach(&self.slab.lend(s, 0).ok()?).ok()?;
                }
                Some(p.finish(meta))
            })();
            match whole {
                Some(p) if self.late.is_none() && self.rng.chance(self.args.reorder_back) => {
                    w.reordered += 1;
                    self.late = Some((p, PASS));
                }
                Some(p) => {
                    self.queue.push_back(p);
                    self.late = self.late.take().map(|(p, left)| (p, left.saturating_sub(1)));
                }
                None => w.dropped += 1,
            }
            if let Some((p, _)) = self.late.take_if(|(_, left)| *left == 0) {
                self.queue.push_back(p);
            }
        }
        if n == 0
            && let Some((p, _)) = self.late.take()
        {
            self.queue.push_back(p);
        }
        if !self.queue.is_empty() {
            self.port.tx_burst(&mut self.queue);
            self.slab.reap(|_, _| ());
        }
        Ok(n)
    }

    /// Until told to stop. `link` asks whether the far side is there.
    fn run(&mut self, link: &dyn Fn() -> bool) -> Res<()> {
        let (mut idle, mut looked, mut up) = (0u32, Instant::now(), link());
        while !STOP.load(Ordering::Relaxed) {
            let n = self.vhost_to_tap() + self.tap_to_vhost()?;
            idle = if n > 0 || !self.queue.is_empty() { 0 } else { idle.saturating_add(1) };
            if idle > 0 {
                std::thread::yield_now();
            }
            // Cores are scarce where tests run.
            if idle > 2000 {
                std::thread::sleep(Duration::from_micros(50));
            }
            if idle > 0 || !up {
                if looked.elapsed() > Duration::from_millis(5) {
                    (looked, up) = (Instant::now(), link());
                }
                if !up {
                    self.to_vhost.dropped += self.queue.len() as u64;
                    self.queue.clear();
                    self.slab.reap(|_, _| ());
                }
            } else if looked.elapsed() > Duration::from_millis(100) {
                (looked, up) = (Instant::now(), link());
            }
        }
        Ok(())
    }

    fn report(&self) {
        let f = self.port.injected();
        println!(
            r#"{{"to_tap":{},"to_vhost":{},"injected":{{"lost":{},"doubled":{},"reordered":{}}}}}"#,
            self.to_tap.json(),
            self.to_vhost.json(),
            f.lost,
            f.doubled,
            f.reordered
        );
    }
}

extern "C" fn on_signal(_: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

fn watch() {
    let f = on_signal as extern "C" fn(libc::c_int);
    // SAFETY: the handler only stores to an atomic.
    unsafe {
        libc::signal(libc::SIGTERM, f as libc::sighandler_t);
        libc::signal(libc::SIGINT, f as libc::sighandler_t);
    }
    std::thread::spawn(|| {
        let mut b = [0; 256];
        while io::stdin().read(&mut b).is_ok_and(|n| n > 0) {}
        STOP.store(true, Ordering::Relaxed);
    });
}

fn serve<P: Injected>(args: &Args, eal: &Eal, port: P, link: &dyn Fn() -> bool) -> Res<()> {
    let tap = Tap::open(args)?;
    let mut b = Bridge {
        args,
        tap,
        port,
        arena: Arena::new(Arc::new(EalBacking::new(eal, -1)), RUN, RUNS),
        slab: LendSlab::new(RUNS),
        queue: VecDeque::new(),
        late: None,
        rng: Rng::new(args.seed ^ 0x5eed),
        to_tap: Way::default(),
        to_vhost: Way::default(),
    };
    println!("ready");
    io::stdout().flush()?;
    let done = b.run(link);
    b.queue.clear();
    b.late = None;
    b.slab.reap(|_, _| ());
    b.report();
    done
}

fn main_() -> Res<()> {
    let args = args()?;
    watch();
    let config = EalConfig { mem_mb: MEM_MB, no_pci: true, raw: args.eal.clone(), ..EalConfig::default() };
    let eal = Eal::start(&config)?;
    // A socket that an ended process left would be refused.
    match std::fs::remove_file(&args.sock) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(format!("{}: {e}", args.sock).into()),
        _ => {}
    }
    let spec = format!("net_vhost0,iface={},queues=1,tso={}", args.sock, u8::from(args.tso)).parse()?;
    let config = PortConfig { mtu: args.mtu, silent_tso: args.tso, ..PortConfig::default() };
    let mut port = EthPort::open(&eal, &spec, &config)?;
    let lcore = eal.enter()?;
    let queue = port.take_queue(0).ok_or("the port has no queue 0")?.build(&lcore);
    let link = || port.refresh_link().up;
    let f = args.faults;
    let done = if f.loss + f.dup + f.reorder > 0.0 {
        let clock = Clock::calibrated();
        let bad = FaultPort::new(queue, f, args.seed, Box::new(move || clock.now()));
        serve(&args, &eal, bad, &link)
    } else {
        serve(&args, &eal, queue, &link)
    };
    port.close(Duration::from_secs(5))?;
    drop((port, lcore));
    done?;
    Ok(eal.cleanup()?)
}

fn main() -> ExitCode {
    match main_() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("vhost_tap: {e}");
            ExitCode::FAILURE
        }
    }
}
