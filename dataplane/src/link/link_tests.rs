use super::*;
use crate::pkt::{Csum, RxPkt, TxCsum, TxMeta};

const GBIT: u64 = 1_000_000_000;

struct Run {
    /// Time of arrival (ns) and number of each frame.
    got: Vec<(u64, u32)>,
    counters: LinkCounters,
    seen: Vec<Fate>,
}

impl Run {
    fn numbers(&self) -> Vec<u32> {
        self.got.iter().map(|g| g.1).collect()
    }
}

fn frame(port: &mut LinkPort, to: u8, number: u32, len: usize) -> MemTx {
    let mut t = port.tx_alloc().unwrap();
    t.copy_in(&[2, 0, 0, 0, 0, to + 1, 2, 0, 0, 0, 0, 9, 0x08, 0x00, 0x45]).unwrap();
    t.copy_in(&number.to_be_bytes()).unwrap();
    t.copy_in(&vec![0; len - 19]).unwrap();
    t.finish(TxMeta { l2: 14, l3: 20, l4: 20, csum: TxCsum::Done, ..TxMeta::default() })
}

fn number(p: &MemRx) -> u32 {
    u32::from_be_bytes(p.head()[15..19].try_into().unwrap())
}

/// Sends `n` frames of `len` bytes from port 0 to port 1, one each `gap` ns, and waits for all.
fn run(path: Path, line: u64, n: u32, len: usize, gap: u64, seed: u64) -> Run {
    let clock = Rc::new(Cell::new(0));
    let cfg = LinkConfig { line, paths: vec![Path::default(), path], ..LinkConfig::default() };
    let mut ports = join(&cfg, seed, &clock);
    let seen = Rc::new(RefCell::new(vec![]));
    let s2 = seen.clone();
    ports[0].observe(Box::new(move |s| s2.borrow_mut().push(s.fate)));
    let mut got = vec![];
    let mut q = VecDeque::new();
    let mut sent = 0;
    for _ in 0..1_000_000 {
        let now = clock.get();
        while sent < n && u64::from(sent) * gap <= now {
            q.push_back(frame(&mut ports[0], 1, sent, len));
            sent += 1;
        }
        ports[0].tx_burst(&mut q);
        loop {
            let mut v = ArrayVec::new();
            ports[1].rx_burst(&mut v);
            if v.is_empty() {
                break;
            }
            got.extend(v.iter().map(|p| (now, number(p))));
        }
        let next = (sent < n).then(|| u64::from(sent) * gap);
        let all = [next, ports[0].deadline(), ports[1].deadline()];
        match all.into_iter().flatten().filter(|t| *t > now).min() {
            Some(t) => clock.set(t),
            None => break,
        }
    }
    assert_eq!(ports[1].memory_out(), 0, "buffers out");
    let counters = ports[1].link_counters();
    let seen = seen.borrow().clone();
    Run { got, counters, seen }
}

impl LinkPort {
    fn memory_out(&self) -> u64 {
        let (free, all) = self.rx_memory();
        all - free
    }
}

#[test]
fn rate_and_delay_set_the_time_of_each_frame() {
    let r = run(Path::default().delay(1000), GBIT, 3, 976, 0, 1);
    assert_eq!(r.got, [(9000, 0), (17_000, 1), (25_000, 2)]);
    let r = run(Path { rate: GBIT / 10, ..Path::default() }.delay(1000), GBIT, 3, 976, 0, 1);
    assert_eq!(r.got, [(89_000, 0), (169_000, 1), (249_000, 2)]);
}

#[test]
fn the_queue_drops_its_tail_and_the_ring_only_waits() {
    let path = Path { rate: GBIT, queue: 3 * 976, ..Path::default() };
    let r = run(path.clone(), 0, 10, 976, 0, 1);
    assert_eq!((r.numbers(), r.counters.queue), (vec![0, 1, 2], 7));
    // At the line's rate nothing queues up; the TX ring of 1,024 holds the rest back.
    let r = run(path, GBIT, 3000, 976, 0, 1);
    assert_eq!((r.got.len(), r.counters.queue), (3000, 0));
}

#[test]
fn a_full_ring_takes_no_more_until_the_line_has_drained() {
    let clock = Rc::new(Cell::new(0));
    let mem = MemConfig { depth: 2, ..LinkConfig::default().mem };
    let mut ports = join(&LinkConfig { mem, line: GBIT, ..LinkConfig::default() }, 1, &clock);
    let mut q: VecDeque<_> = (0..3).map(|i| frame(&mut ports[0], 1, i, 976)).collect();
    assert_eq!((ports[0].tx_burst(&mut q), ports[0].deadline()), (2, Some(8000)));
    clock.set(8000);
    assert_eq!((ports[0].tx_burst(&mut q), q.len(), ports[0].deadline()), (1, 0, None));
}

#[test]
fn jitter_keeps_the_order_and_reordering_does_not() {
    let r = run(Path { jitter_ns: 50_000, ..Path::default() }, 0, 500, 100, 1000, 3);
    assert!(r.numbers().is_sorted() && r.got.len() == 500);
    assert!(r.got.iter().any(|(t, n)| *t > u64::from(*n) * 1000 + 20_000));
    let faults = Faults { reorder: 0.1, reorder_ns: 20_000, ..Faults::default() };
    let r = run(Path { faults, ..Path::default() }, 0, 500, 100, 1000, 3);
    assert!(!r.numbers().is_sorted() && r.got.len() == 500);
    assert!((20..90).contains(&r.counters.reordered), "{:?}", r.counters);
}

#[test]
fn losses_copies_and_damage_come_as_often_as_asked_and_a_seed_repeats() {
    let faults = Faults { loss: 0.05, dup: 0.05, corrupt: 0.05, ..Faults::default() };
    let path = Path { faults, ..Path::default() };
    let (a, b) = (run(path.clone(), 0, 2000, 100, 1000, 7), run(path.clone(), 0, 2000, 100, 1000, 7));
    assert_eq!((&a.got, a.counters), (&b.got, b.counters));
    assert_ne!(a.got, run(path, 0, 2000, 100, 1000, 8).got);
    let c = a.counters;
    for n in [c.lost, c.doubled, c.corrupted] {
        assert!((60..150).contains(&n), "{c:?}");
    }
    assert_eq!(a.got.len() as u64, 2000 - c.lost + c.doubled);
    let fates = |f: fn(&Fate) -> bool| a.seen.iter().filter(|x| f(x)).count() as u64;
    assert_eq!(
        (fates(|f| *f == Fate::Lost), fates(|f| matches!(f, Fate::Corrupted(_)))),
        (c.lost, c.corrupted)
    );
}

#[test]
fn bursts_lose_several_in_a_row() {
    let burst = Burst { enter: 0.01, leave: 0.2, loss: 1.0, most_ns: 1_000_000 };
    let r = run(Path { burst: Some(burst), ..Path::default() }, 0, 5000, 100, 100, 5);
    let lost = r.counters.burst;
    // A stay in the bad state: 5 frames on average; a twentieth of the time.
    assert!((120..400).contains(&lost), "{lost}");
    let runs = r.seen.chunk_by(|a, b| a == b).filter(|c| c[0] == Fate::Burst).count() as u64;
    assert!(lost > 3 * runs, "{lost} losses in {runs} bursts");
}

#[test]
fn a_smaller_mtu_and_an_outage_lose_what_they_should() {
    let path = Path { mtu: vec![(5000, 500), (8000, 1500)], down: vec![(10_000, 12_000)], ..Path::default() };
    let r = run(path, 0, 15, 1000, 1000, 1);
    assert_eq!(r.numbers(), [0, 1, 2, 3, 4, 8, 9, 12, 13, 14]);
    assert_eq!((r.counters.too_big, r.counters.down), (3, 2));
}

#[test]
fn the_link_tells_that_it_is_down() {
    let clock = Rc::new(Cell::new(0));
    let path = Path { down: vec![(10, 20)], ..Path::default() };
    let ports = join(&LinkConfig { paths: vec![Path::default(), path], ..LinkConfig::default() }, 1, &clock);
    let mut up = vec![];
    for t in [9, 10, 19, 20] {
        clock.set(t);
        up.push((ports[0].link_up(), ports[1].link_up(), ports[1].deadline()));
    }
    assert_eq!(
        up,
        [(true, true, Some(20)), (true, false, Some(20)), (true, false, Some(20)), (true, true, None)]
    );
}

#[test]
fn a_receiver_that_does_not_look_loses_what_its_ring_cannot_hold() {
    let clock = Rc::new(Cell::new(0));
    let mem = MemConfig { rx_bufs: 4, ..LinkConfig::default().mem };
    let mut ports = join(&LinkConfig { mem, ..LinkConfig::default() }, 1, &clock);
    let mut q: VecDeque<_> = (0..10).map(|i| frame(&mut ports[0], 1, i, 100)).collect();
    assert_eq!(ports[0].tx_burst(&mut q), 10);
    assert_eq!(ports[1].memory_out(), 0, "what is in flight is nobody's memory");
    clock.set(1000);
    let mut v = ArrayVec::new();
    ports[1].rx_burst(&mut v);
    assert_eq!(v.iter().map(number).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!((ports[1].counters().rx_nombuf, ports[1].memory_out()), (6, 4 * 9216));
    drop(v);
    assert_eq!(ports[1].memory_out(), 0);
}

#[test]
fn a_burst_ends_by_itself_where_hardly_anything_is_sent() {
    let burst = Burst { enter: 1.0, leave: 0.0, loss: 1.0, most_ns: 2_500 };
    let r = run(Path { burst: Some(burst), ..Path::default() }, 0, 8, 100, 1000, 5);
    assert_eq!(r.numbers(), [3, 7]);
}

/// Frames of two senders meet in one queue in the order in which they get there.
#[test]
fn three_ports_share_the_way_towards_one() {
    let clock = Rc::new(Cell::new(0));
    let slow = Path { rate: GBIT, ..Path::default() };
    let paths = vec![slow, Path::default(), Path::default()];
    let mut ports = join(&LinkConfig { line: 10 * GBIT, paths, ..LinkConfig::default() }, 1, &clock);
    for (from, n) in [(1, 10), (2, 20)] {
        let mut q: VecDeque<_> = (0..3).map(|i| frame(&mut ports[from], 0, n + i, 976)).collect();
        ports[from].tx_burst(&mut q);
    }
    let mut got = vec![];
    while let Some(t) = ports[0].deadline() {
        clock.set(t.max(clock.get()));
        let mut v = ArrayVec::new();
        ports[0].rx_burst(&mut v);
        got.extend(v.iter().map(|p| (clock.get(), number(p))));
    }
    let numbers: Vec<_> = got.iter().map(|g| g.1).collect();
    assert_eq!(numbers, [10, 20, 11, 21, 12, 22]);
    assert_eq!(got.last().unwrap().0, 800 + 6 * 8000);
    let mut q = VecDeque::from([frame(&mut ports[0], 0xfe, 7, 100)]);
    q[0].head_mut()[0] = 0xff;
    ports[0].tx_burst(&mut q);
    clock.set(clock.get() + 1000);
    for p in &mut ports[1..] {
        let mut v = ArrayVec::new();
        p.rx_burst(&mut v);
        assert_eq!(v.iter().map(number).collect::<Vec<_>>(), [7], "broadcast reaches all");
    }
}

/// Software finds every damaged frame, whether or not the sender left the checksum to the device.
#[test]
fn a_damaged_frame_says_that_nobody_looked_at_its_checksum() {
    let clock = Rc::new(Cell::new(0));
    let path = Path { faults: Faults { corrupt: 1.0, ..Faults::default() }, ..Path::default() };
    let mut ports =
        join(&LinkConfig { paths: vec![Path::default(), path], ..LinkConfig::default() }, 1, &clock);
    let mut t = frame(&mut ports[0], 1, 3, 100);
    t.head_mut()[14 + 9] = 6;
    let t = t.finish(TxMeta { l2: 14, l3: 20, l4: 20, csum: TxCsum::Offload, ..TxMeta::default() });
    ports[0].tx_burst(&mut VecDeque::from([t]));
    let mut v = ArrayVec::new();
    ports[1].rx_burst(&mut v);
    assert_eq!(v[0].meta().csum, Csum::None);
}
