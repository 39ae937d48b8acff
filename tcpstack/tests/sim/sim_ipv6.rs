//! Super-segments over IPv6 and IPv4 through a path whose MTU shrinks in the middle of a transfer: a router that says
//! so, or one that drops without a word. Both streams arrive byte for byte, and every lending comes home.

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;

use crate::common::bench::icmp_error;
use crate::common::{End, SEC, config, ip, pattern};
use arrayvec::ArrayVec;
use dataplane::fault::{FaultPort, Faults, Rng};
use dataplane::mem::{MemConfig, MemPort, MemRx, MemTx, pair};
use dataplane::pkt::{Port, PortCaps, PortCounters, RX_BURST, Reclaimed, RxMeta, TxPkt};
use hugepages::{HeapRxPool, LendSlab, RxHome};
use tcpstack::{CloseWhy, Counters, Dial, Listen, Stack, StackConfig, Work};

/// What is between the ends, from one of them on.
struct Router {
    inner: MemPort,
    /// Its MTU once so many bytes have passed, and whether it says so.
    after: usize,
    mtu: usize,
    speaks: bool,
    said: VecDeque<Vec<u8>>,
    pool: HeapRxPool,
    dropped: u64,
}

impl Router {
    /// Whether `t` fits, as the device would have cut it.
    fn passes(&mut self, t: &mut MemTx) -> bool {
        let m = t.tx_meta();
        let (l2, l3) = (usize::from(m.l2), usize::from(m.l3));
        let whole = t.len() as usize - l2;
        let size = if m.segsz > 0 { l3 + usize::from(m.l4) + usize::from(m.segsz) } else { whole };
        if self.after > 0 || size <= self.mtu {
            self.after = self.after.saturating_sub(whole);
            return true;
        }
        self.dropped += 1;
        if self.speaks {
            let mut head = t.head_mut()[..l2 + l3 + 20].to_vec();
            let (at, len) = if m.v6 { (l2 + 4, size - l3) } else { (l2 + 2, size) };
            head[at..at + 2].copy_from_slice(&(len as u16).to_be_bytes());
            let [a, b] = (self.mtu as u16).to_be_bytes();
            // A quote of a packet longer than itself, as routers send it.
            let frame = quoted(&head);
            self.said.push_back(icmp_error(
                &frame,
                if m.v6 { 2 } else { 3 },
                if m.v6 { 0 } else { 4 },
                [0, 0, a, b],
            ));
        }
        false
    }
}

/// Makes the frame as long as it says, so that it parses.
fn quoted(head: &[u8]) -> Vec<u8> {
    let mut f = head.to_vec();
    f.resize(14 + 9000, 0);
    f
}

impl Port for Router {
    type Rx = MemRx;
    type Tx = MemTx;

    fn caps(&self) -> &PortCaps {
        self.inner.caps()
    }
    fn rx_burst(&mut self, out: &mut ArrayVec<MemRx, RX_BURST>) {
        self.pool.home().drain();
        while out.remaining_capacity() > 0
            && let Some(b) = self.said.pop_front()
        {
            out.extend(MemRx::of_bytes(&self.pool, &b, RxMeta::default()));
        }
        self.inner.rx_burst(out);
    }
    fn tx_alloc(&mut self) -> Option<MemTx> {
        self.inner.tx_alloc()
    }
    fn tx_burst(&mut self, q: &mut VecDeque<MemTx>) -> usize {
        let n = q.len();
        let mut pass: VecDeque<MemTx> =
            q.drain(..).filter_map(|mut t| self.passes(&mut t).then_some(t)).collect();
        self.inner.tx_burst(&mut pass);
        let left = pass.len();
        q.append(&mut pass);
        n - left
    }
    fn reclaim(&mut self, want: u32) -> Reclaimed {
        self.inner.reclaim(want)
    }
    fn home(&self) -> &RxHome {
        self.inner.home()
    }
    fn rx_memory(&self) -> (u64, u64) {
        self.inner.rx_memory()
    }
    fn link_up(&self) -> bool {
        self.inner.link_up()
    }
    fn counters(&self) -> PortCounters {
        self.inner.counters()
    }
}

struct Case {
    v6: bool,
    mtu: usize,
    speaks: bool,
    faults: Faults,
    mem: MemConfig,
    len: usize,
}

fn case(seed: u64) -> Case {
    let mut r = Rng::new(seed);
    let v6 = r.chance(0.7);
    let csum = r.chance(0.7);
    let mem = MemConfig {
        mtu: [1500, 9000][r.below(2) as usize],
        csum,
        tso_max: if csum && r.chance(0.8) { 65_535 } else { 0 },
        ..MemConfig::default()
    };
    let mtu = [1280, 1400, 1500, 4000, 65_535][r.below(5) as usize];
    let loss = if r.chance(0.6) { 0.02 } else { 0.0 };
    let faults = Faults { loss, reorder: loss, reorder_ns: 50_000, delay_ns: 20_000, ..Faults::default() };
    Case { v6, mtu, speaks: r.chance(0.5), faults, mem, len: 400_000 + r.below(3_000_000) as usize }
}

/// One transfer. Returns A's counters, and how many packets the router dropped.
fn run(seed: u64, c: &Case) -> (Counters, u64) {
    let at = |n: u8| -> IpAddr {
        if c.v6 { Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into() } else { ip(n).into() }
    };
    let clock = Rc::new(Cell::new(SEC));
    let (pa, pb) = pair(&c.mem);
    let router = |inner, mtu| Router {
        inner,
        after: c.len / 4,
        mtu,
        speaks: c.speaks,
        said: VecDeque::new(),
        pool: HeapRxPool::new(2048, 256),
        dropped: 0,
    };
    let port = |p, seed| {
        let t = clock.clone();
        FaultPort::new(p, c.faults, seed, Box::new(move || t.get()))
    };
    let cfg = |n| {
        let bits = if c.v6 { 64 } else { 24 };
        StackConfig { addrs: vec![(at(n), bits)], rx_window: 1 << 20, backlog: 1 << 20, ..config(n) }
    };
    let mut sa = Stack::new(cfg(1), port(router(pa, c.mtu), seed * 2 + 1), LendSlab::new(4096)).unwrap();
    let mut sb = Stack::new(cfg(2), port(router(pb, 65_535), seed * 2 + 2), LendSlab::new(4096)).unwrap();
    let (x, y) = (pattern(c.len, 1), pattern(1, 2));
    let mut a = End::new(x.clone(), y.clone(), seed, false);
    let mut b = End::new(y, x, seed + 1, false);
    sb.listen(Listen { addr: at(2), port: 988, backlog: 4 }).unwrap();
    let d = Dial { local: (at(1), 1023).into(), remote: (at(2), 988).into() };
    a.flow = Some(sa.dial(clock.get(), d).unwrap());
    for step in 0.. {
        let now = clock.get();
        assert!(step < 1_000_000 && now < 600 * SEC, "stuck: {} of {}\n{:?}", b.got, c.len, sa.counters());
        let mut busy = false;
        for _ in 0..20 {
            busy = sa.turn(now) != Work::Idle;
            busy |= a.serve(&mut sa);
            busy |= sb.turn(now) != Work::Idle;
            busy |= b.serve(&mut sb);
            if !busy {
                break;
            }
        }
        if a.done() && b.done() {
            break;
        }
        let due = [sa.deadline(), sb.deadline(), sa.port().deadline(), sb.port().deadline()];
        let next = if busy { now + 1000 } else { due.into_iter().flatten().min().unwrap() };
        clock.set(next.max(now + 1));
    }
    assert_eq!((a.closed, b.closed), (Some(CloseWhy::Fin), Some(CloseWhy::Fin)));
    assert_eq!((b.got, a.got), (c.len, 1));
    sa.reclaim(u32::MAX);
    sb.reclaim(u32::MAX);
    a.settle_lendings(&sa);
    b.settle_lendings(&sb);
    let dropped = sa.port_mut().inner().dropped;
    assert_eq!((sa.counters().desync, sa.counters().smoltcp_resent, sb.counters().desync), (0, 0, 0));
    (sa.counters(), dropped)
}

#[test]
fn streams_arrive_whatever_the_path_takes() {
    let seeds = match std::env::var("SEED") {
        Ok(s) => s.parse().map(|n| n..n + 1).unwrap(),
        Err(_) => 1..61,
    };
    let (mut failed, mut told, mut guessed, mut super_segments) = (vec![], 0, 0, 0);
    for seed in seeds.clone() {
        match std::panic::catch_unwind(|| run(seed, &case(seed))) {
            Ok((c, _)) => {
                told += c.pmtu_lowered;
                guessed += c.pmtu_black_holes;
                super_segments += u64::from(c.tx_bytes / c.tx_segments.max(1) > 9000);
            }
            Err(_) => failed.push(seed),
        }
    }
    assert!(failed.is_empty(), "repeat with SEED=n: {failed:?}");
    if seeds.end > seeds.start + 1 {
        assert!(told > 5 && guessed > 5 && super_segments > 5, "{told} {guessed} {super_segments}");
    }
}

/// Without any other loss a router that speaks costs no time-out and no congestion reaction; one that does not costs
/// a few time-outs, not the connection.
#[test]
fn a_word_is_cheap_and_silence_is_survived() {
    for v6 in [true, false] {
        let mut c = case(1);
        (c.v6, c.mtu, c.len, c.faults) =
            (v6, 1400, 3_000_000, Faults { delay_ns: 20_000, ..Faults::default() });
        c.mem = MemConfig { mtu: 9000, ..MemConfig::default() };
        for speaks in [true, false] {
            c.speaks = speaks;
            let (n, dropped) = run(7, &c);
            assert!(dropped > 0);
            let want = if speaks { (1, 0) } else { (0, 1) };
            assert_eq!((n.pmtu_lowered.min(1), n.pmtu_black_holes.min(1)), want, "v6 {v6}: {n:?}");
            assert!(!speaks || n.rto + n.fast_recoveries == 0, "v6 {v6}: {n:?}");
        }
    }
}
