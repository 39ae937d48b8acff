//! Goodput over a matrix of networks and conditions, in virtual time, as tables that a person can read.
//!
//! Every cell is byte-exact and leaves nothing behind (`tcpstack::testing::run` checks it); goodput is a snapshot.
//! It changes whenever recovery or congestion control does, and should: `scripts/goodput` takes the new one over,
//! here and in docs/performance.md. `CELL="1 % lost/25G 40us 9000"` plays the cells whose names contain it and tells
//! more.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use dataplane::link::{Burst, LinkCounters};
use tcpstack::testing::{Conn, MS, Outcome, Pause, Reader, Scenario, Stop, US, Writer, run};

const SEEDS: u64 = 3;

/// A network: name, line rate in bit/s, round trip, MTU, TSO, virtual time of a run.
struct Net(&'static str, u64, u64, u16, bool, u64);

const GBIT: u64 = 1_000_000_000;
const NETS: [Net; 5] = [
    Net("25G 40us 9000", 25 * GBIT, 40 * US, 9000, false, 20 * MS),
    Net("25G 40us 1500", 25 * GBIT, 40 * US, 1500, false, 20 * MS),
    Net("25G 40us TSO", 25 * GBIT, 40 * US, 1500, true, 20 * MS),
    Net("10G 1ms 9000", 10 * GBIT, MS, 9000, false, 100 * MS),
    Net("1G 20ms 1500", GBIT, 20 * MS, 1500, false, 1000 * MS),
];

type Change = fn(&mut Scenario, &Net);

/// Host 0 sends to host 1.
const CONDITIONS: [(&str, Change); 25] = [
    ("nothing", |_, _| ()),
    ("0.1 % lost", |s, _| each(s, |p| p.loss = 0.001)),
    ("1 % lost", |s, _| each(s, |p| p.loss = 0.01)),
    ("5 % lost", |s, _| each(s, |p| p.loss = 0.05)),
    ("bursts of 5 lost", |s, _| {
        s.link.paths[1].burst = Some(Burst { enter: 0.001, leave: 0.2, loss: 1.0, most_ns: MS })
    }),
    ("ACKs: 10 % lost", |s, _| s.link.paths[0].faults.loss = 0.1),
    ("2 % out of order", |s, n| {
        let rtt = n.2;
        (s.link.paths[1].faults.reorder, s.link.paths[1].faults.reorder_ns) = (0.02, rtt / 2);
    }),
    ("1 % doubled", |s, _| each(s, |p| p.dup = 0.01)),
    ("0.5 % damaged", |s, _| each(s, |p| p.corrupt = 0.005)),
    ("jitter of RTT/2", |s, n| s.link.paths[1].jitter_ns = n.2 / 2),
    ("queue of BDP/4", |s, n| bottleneck(s, n, 1, 4)),
    ("queue of BDP", |s, n| bottleneck(s, n, 1, 1)),
    ("queue of 8 BDP", |s, n| bottleneck(s, n, 8, 1)),
    ("slow reader", |s, n| {
        s.conns[0].readers[1] = Reader::Slow { bytes: 400_000, every: (n.2).max(200 * US) };
    }),
    ("reader stops", |s, n| s.conns[0].readers[1] = Reader::Shut { from: n.5 / 4, to: n.5 / 2 }),
    ("buffers held", |s, _| s.conns[0].readers[1] = Reader::Holds { frags: 100 }),
    ("receiver stolen", |s, n| s.pauses[1] = Some(Pause { every: n.5 / 10, most: n.5 / 40 })),
    ("sender stolen", |s, n| s.pauses[0] = Some(Pause { every: n.5 / 10, most: n.5 / 40 })),
    ("link down a while", |s, n| each_path(s, (n.5 / 4, n.5 / 4 + n.5 / 50))),
    // No router says so: the sender has to find out.
    ("MTU of 2/3 from then on", |s, n| s.link.paths[1].mtu = vec![(n.5 / 2, n.3 / 3 * 2)]),
    ("8 connections", |s, _| more(s, 0, 7)),
    ("incast of 4 hosts", |s, n| incast(s, n)),
    ("both ways", |s, _| s.conns[0].writers[1] = Writer::bulk(u64::MAX)),
    ("IPv6, 0.1 % lost", |s, _| {
        s.conns[0].v6 = true;
        each(s, |p| p.loss = 0.001);
    }),
    ("all of it", |s, n| {
        bottleneck(s, n, 2, 1);
        s.pauses[1] = Some(Pause { every: n.5 / 5, most: n.5 / 80 });
        let rtt = n.2;
        each(s, move |p| {
            (p.loss, p.dup, p.corrupt, p.reorder, p.reorder_ns) = (0.001, 0.001, 0.001, 0.005, rtt / 4);
        });
    }),
];

fn each(s: &mut Scenario, f: impl Fn(&mut dataplane::fault::Faults)) {
    s.link.paths.iter_mut().for_each(|p| f(&mut p.faults));
}

fn each_path(s: &mut Scenario, down: (u64, u64)) {
    s.link.paths.iter_mut().for_each(|p| p.down = vec![down]);
}

/// The line's rate is found behind a NIC four times as fast, with a queue of `num / den` bandwidth-delay products.
fn bottleneck(s: &mut Scenario, n: &Net, num: u64, den: u64) {
    s.link.line = 4 * n.1;
    let bdp = (u128::from(n.1) * u128::from(n.2) / 8_000_000_000) as u64;
    for p in &mut s.link.paths {
        (p.rate, p.queue) = (n.1, bdp * num / den);
    }
}

fn more(s: &mut Scenario, from: usize, count: usize) {
    for _ in 0..count {
        let c = Conn { from, ..s.conns[0].clone() };
        s.conns.push(c);
    }
}

/// Three more hosts send to host 1 through one queue.
fn incast(s: &mut Scenario, n: &Net) {
    for i in 3..=5 {
        s.stacks.push(Scenario::stack(i, s.seed));
        s.pauses.push(None);
        s.link.paths.push(s.link.paths[0].clone());
        more(s, usize::from(i) - 1, 1);
    }
    bottleneck(s, n, 1, 1);
    s.link.line = n.1;
}

fn scenario(net: &Net, change: Change, seed: u64) -> Scenario {
    let &Net(_, rate, rtt, mtu, tso, time) = net;
    let bdp = (u128::from(rate) * u128::from(rtt) / 8_000_000_000) as u32;
    let window = (4 * bdp).clamp(1 << 20, 16 << 20);
    let mut s = Scenario::new(seed)
        .with_link(rate, rtt, mtu)
        .each_stack(|c| c.rx_window = window)
        .bulk_for(time / 10, time);
    s.link.mem.tso_max = if tso { 65_535 } else { 0 };
    s.turn = (rtt / 1000).clamp(US, 10 * US);
    change(&mut s, net);
    s
}

/// Two significant digits.
fn short(x: f64) -> String {
    digits(x, 2)
}

fn digits(x: f64, count: i32) -> String {
    if x <= 0.0 {
        return "0".into();
    }
    let digits = count - 1 - x.log10().floor() as i32;
    let unit = 10f64.powi(digits);
    let x = (x * unit).round() / unit;
    format!("{x:.*}", digits.max(0) as usize)
}

#[derive(Clone, Copy, Default)]
struct Cell {
    goodput: f64,
    resent: f64,
    needless: f64,
    rto: u64,
}

fn cell(o: &Outcome) -> Cell {
    let part = |n: u64, of: u64| n as f64 * 100.0 / of.max(1) as f64;
    let r = &o.resends[0];
    Cell {
        goodput: o.goodput.iter().sum::<f64>() * 1e-9,
        resent: part(r.resent, r.segments),
        needless: part(r.needless, r.segments),
        rto: o.count(0, "rto"),
    }
}

/// The middle run by goodput.
fn play(net: &Net, name: &str, change: Change, tell: bool) -> Cell {
    let one = |seed| {
        let o =
            run(&scenario(net, change, seed)).unwrap_or_else(|e| panic!("CELL=\"{name}/{}\": {e}", net.0));
        if tell {
            println!("{name}/{} seed {seed}: {:.3} Gbit/s {:?}", net.0, cell(&o).goodput, o.resends[0]);
            for c in &o.stacks {
                let mut t = String::new();
                c.each(|k, v| t += &if v > 0 { format!(" {k} {v}") } else { String::new() });
                println!("   {t}");
            }
            println!("    {:?}", o.links);
        }
        let drawn = |l: &LinkCounters| l.lost + l.burst + l.corrupted + l.reordered + l.doubled > 0;
        (cell(&o), o.links.iter().any(drawn))
    };
    let (first, drawn) = one(1);
    // Where the network drew nothing, another seed brings nothing else.
    let more = if drawn { SEEDS } else { 1 };
    let mut cells: Vec<Cell> = std::iter::once(first).chain((2..=more).map(|s| one(s).0)).collect();
    cells.sort_by(|a, b| a.goodput.total_cmp(&b.goodput));
    cells[cells.len() / 2]
}

/// All cells, on two threads.
fn matrix(conditions: &[(&'static str, Change)]) -> Vec<Vec<Cell>> {
    let only = std::env::var("CELL").ok();
    let (next, done) =
        (AtomicUsize::new(0), Mutex::new(vec![vec![Cell::default(); NETS.len()]; conditions.len()]));
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let (row, col) = (i / NETS.len(), i % NETS.len());
                    let Some((name, change)) = conditions.get(row) else { return };
                    let full = format!("{name}/{}", NETS[col].0);
                    if only.as_ref().is_some_and(|o| !full.contains(o.as_str())) {
                        continue;
                    }
                    let t = std::time::Instant::now();
                    let c = play(&NETS[col], name, *change, only.is_some());
                    if std::env::var("TIMES").is_ok() {
                        println!("{full}: {:?}", t.elapsed());
                    }
                    done.lock().unwrap()[row][col] = c;
                }
            });
        }
    });
    done.into_inner().unwrap()
}

fn table(
    what: &str,
    rows: &[(&'static str, Change)],
    cells: &[Vec<Cell>],
    show: impl Fn(&Cell, &Net) -> String,
) -> String {
    let mut t = format!("{what:<24}");
    NETS.iter().for_each(|n| _ = write!(t, " {:>14}", n.0));
    for ((name, _), row) in rows.iter().zip(cells) {
        _ = write!(t, "\n{name:<24}");
        row.iter().zip(&NETS).for_each(|(c, n)| _ = write!(t, " {:>14}", show(c, n)));
    }
    t + "\n"
}

#[test]
fn goodput_of_every_cell() {
    let cells = matrix(&CONDITIONS);
    if std::env::var("CELL").is_ok() {
        return;
    }
    let goodput = table("Gbit/s", &CONDITIONS, &cells, |c, n| {
        // Little goodput hangs on few losses: one digit.
        digits(c.goodput, if c.goodput * 1e10 < n.1 as f64 { 1 } else { 2 })
    });
    let resends = table("% resent / needless", &CONDITIONS, &cells, |c, _| {
        format!("{} / {}", short(c.resent), short(c.needless))
    });
    let rtos = table("time-outs", &CONDITIONS, &cells, |c, _| c.rto.to_string());
    println!("{goodput}\n{resends}\n{rtos}");
    for ((name, _), row) in CONDITIONS.iter().zip(&cells) {
        assert!(row.iter().all(|c| c.needless < 2.5), "needless retransmissions: {name}");
    }
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("goodput", goodput);
    });
}

/// Options that one side has switched off are off for both, and nothing breaks.
#[test]
fn options_of_one_side() {
    let mut t = String::from("Gbit/s at 1 % loss, 25G 40us 9000\n");
    for (name, off) in [
        ("all on", [[false; 2]; 2]),
        ("sender without timestamps", [[true, false], [false; 2]]),
        ("receiver without timestamps", [[false; 2], [true, false]]),
        ("sender without SACK", [[false, true], [false; 2]]),
        ("receiver without SACK", [[false; 2], [false, true]]),
        ("neither on either side", [[true; 2], [true; 2]]),
    ] {
        let one = |seed| {
            let mut s = scenario(&NETS[0], |s, _| each(s, |p| p.loss = 0.01), seed);
            for (c, [stamps, sack]) in s.stacks.iter_mut().zip(off) {
                (c.timestamps, c.sack) = (!stamps, !sack);
            }
            cell(&run(&s).unwrap()).goodput
        };
        let mut all: Vec<f64> = (1..=SEEDS).map(one).collect();
        all.sort_by(f64::total_cmp);
        _ = writeln!(t, "{name:<28} {:>5}", short(all[all.len() / 2]));
    }
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("options", t);
    });
}

/// Request and reply, small messages, as many as go in the time.
#[test]
fn round_trips() {
    let mut t = String::from("round trips a millisecond, 64 bytes each way, one at a time\n");
    for (name, loss) in [("25G 40us", 0.0), ("25G 40us, 0.1 % lost", 0.001)] {
        let mut s = Scenario::new(1).with_link(25 * GBIT, 40 * US, 9000).with_loss(loss);
        s.stop = Stop::At { warm: 10 * MS, at: 1010 * MS };
        let writers = [
            Writer::Asks { ask: 64, answer: 64, rounds: u64::MAX / 64, ahead: 1 },
            Writer::Answers { ask: 64, answer: 64 },
        ];
        let o = run(&s.with(Conn { writers, ..Conn::default() })).unwrap();
        _ = writeln!(t, "{name:<28} {:>5}", short(o.goodput[1] / 512.0 / 1000.0));
    }
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("round_trips", t);
    });
}
