//! The scoreboard against a map that knows the fate of each byte.

use proptest::prelude::*;
use tcpstack::scoreboard::{Fate, RECORDS_MAX, Scoreboard, Verdict};

const MSS: u32 = 10;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Byte {
    fate: Fate,
    sent_at: u64,
    resent: bool,
}

#[derive(Clone, Debug)]
enum Op {
    Send(u32),
    Tick(u64),
    Ack(u64),
    Sack(u64, u64),
    Lose(u64, u64),
    LoseAll(bool),
    Unlose,
    Resend(u32),
    LoseOlder(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1u32..60).prop_map(Op::Send),
        2 => (0u64..3).prop_map(Op::Tick),
        2 => (0u64..80).prop_map(Op::Ack),
        6 => (0u64..400, 1u64..60).prop_map(|(a, n)| Op::Sack(a, n)),
        2 => (0u64..400, 1u64..60).prop_map(|(a, n)| Op::Lose(a, n)),
        1 => any::<bool>().prop_map(Op::LoseAll),
        1 => Just(Op::Unlose),
        4 => (1u32..40).prop_map(Op::Resend),
        1 => (0u64..10).prop_map(Op::LoseOlder),
    ]
}

struct Model {
    una: u64,
    bytes: Vec<Byte>,
}

impl Model {
    fn at(&mut self, off: u64) -> &mut Byte {
        &mut self.bytes[(off - self.una) as usize]
    }

    /// Everything is lost. The times of what was sacked are not kept, so nothing is timed by it.
    fn forget(&mut self, b: &Scoreboard) {
        let mut it = self.bytes.iter_mut();
        for r in b.records() {
            for x in it.by_ref().take(r.len as usize) {
                let was = std::mem::replace(x, Byte { fate: r.fate, sent_at: r.sent_at, resent: r.resent });
                assert_eq!((x.fate, x.resent), (Fate::Lost, was.resent || was.fate == Fate::Sacked));
            }
        }
    }

    fn count(&self, fate: Fate) -> u64 {
        self.bytes.iter().filter(|b| b.fate == fate).count() as u64
    }

    fn same(&self, b: &Scoreboard) {
        let mut at = self.una;
        let mut flat = vec![];
        for r in b.records() {
            assert_eq!(r.start, at, "records lie end to end");
            assert!(r.len > 0);
            flat.extend((0..r.len).map(|_| *r));
            at = r.end();
        }
        assert_eq!((b.una(), b.end(), at), (self.una, self.una + self.bytes.len() as u64, b.end()));
        for (x, y) in flat.iter().zip(&self.bytes) {
            assert_eq!(x.fate, y.fate, "{x:?}");
            // Of what is sacked only that is known.
            if y.fate != Fate::Sacked {
                assert_eq!((x.sent_at, x.resent), (y.sent_at, y.resent), "{x:?}");
            }
        }
        let counts = (b.flight(), b.lost(), b.sacked());
        assert_eq!(counts, (self.count(Fate::Flight), self.count(Fate::Lost), self.count(Fate::Sacked)));
        let sacked: Vec<_> = b.records().map(|r| r.fate == Fate::Sacked).collect();
        assert!(sacked.windows(2).all(|w| !(w[0] && w[1])), "sacked neighbours are one");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_has_the_fate_it_should(ops in proptest::collection::vec(op(), 1..120)) {
        let mut b = Scoreboard::default();
        let mut m = Model { una: 0, bytes: vec![] };
        let mut now = 1;
        for op in ops {
            let end = b.end();
            match op {
                Op::Send(n) => {
                    b.sent(end + u64::from(n), now, MSS);
                    let new = Byte { fate: Fate::Flight, sent_at: now, resent: false };
                    m.bytes.extend((0..n).map(|_| new));
                }
                Op::Tick(n) => now += n,
                Op::Ack(n) => {
                    let una = (b.una() + n).min(end);
                    let mut told = 0;
                    let a = b.ack(una, |r| told += u64::from(r.len));
                    let gone: Vec<Byte> = m.bytes.drain(..(una - m.una) as usize).collect();
                    m.una = una;
                    let new = gone.iter().filter(|x| x.fate != Fate::Sacked);
                    prop_assert_eq!(a.resent, new.clone().filter(|x| x.resent).count() as u64);
                    prop_assert_eq!((a.delivered, told), (new.clone().count() as u64, new.count() as u64));
                    let head = m.bytes.first().is_some_and(|x| x.fate == Fate::Sacked);
                    prop_assert_eq!(a.reneged, head && !gone.is_empty());
                    if a.reneged {
                        b.lose_all(true);
                        m.forget(&b);
                    }
                }
                Op::Sack(at, n) => {
                    let (from, to) = ((b.una() + at).min(end), (b.una() + at + n).min(end));
                    // What may be sacked: the block, less parts of segments at its ends.
                    let before: Vec<Byte> = m.bytes.clone();
                    let mut told = vec![];
                    let (a, whole) = b.sack(from..to, MSS, |r| told.push(*r));
                    prop_assert!(whole);
                    for r in &told {
                        prop_assert!(r.start >= from && r.end() <= to, "{:?} of {:?}", r, from..to);
                        for o in r.start..r.end() {
                            let x = m.at(o);
                            prop_assert!(x.fate != Fate::Sacked);
                            prop_assert_eq!((x.sent_at, x.resent), (r.sent_at, r.resent));
                            x.fate = Fate::Sacked;
                        }
                    }
                    let unsacked: Vec<u64> =
                        (from..to).filter(|o| m.at(*o).fate != Fate::Sacked).collect();
                    // At each end less than a segment is left, and nothing between.
                    prop_assert!(unsacked.iter().all(|o| o - from < u64::from(MSS) || to - o <= u64::from(MSS)));
                    let resent = told.iter().filter(|r| r.resent).map(|r| u64::from(r.len)).sum::<u64>();
                    let all = told.iter().map(|r| u64::from(r.len)).sum::<u64>();
                    prop_assert_eq!((a.delivered, a.resent), (all, resent));
                    let newly = m.bytes.iter().zip(&before).filter(|(x, y)| x.fate != y.fate).count();
                    prop_assert_eq!(newly as u64, all);
                }
                Op::Lose(at, n) => {
                    let (from, to) = ((b.una() + at).min(end), (b.una() + at + n).min(end));
                    let mut lost = 0;
                    for o in from..to {
                        let x = m.at(o);
                        if x.fate == Fate::Flight {
                            x.fate = Fate::Lost;
                            lost += 1;
                        }
                    }
                    prop_assert_eq!(b.lose(from..to), lost);
                }
                Op::LoseAll(forget) => {
                    b.lose_all(forget);
                    if forget {
                        m.forget(&b);
                    }
                    m.bytes.iter_mut().filter(|x| x.fate == Fate::Flight).for_each(|x| x.fate = Fate::Lost);
                }
                Op::Unlose => {
                    b.unlose();
                    m.bytes.iter_mut().filter(|x| x.fate == Fate::Lost).for_each(|x| x.fate = Fate::Flight);
                }
                Op::Resend(n) => {
                    let first = (0..m.bytes.len()).find(|i| m.bytes[*i].fate == Fate::Lost);
                    let r = b.next_lost();
                    prop_assert_eq!(r.as_ref().map(|r| r.start), first.map(|i| m.una + i as u64));
                    if let Some(r) = r {
                        b.resent(n, now, MSS);
                        for o in r.start..r.end.min(r.start + u64::from(n)) {
                            *m.at(o) = Byte { fate: Fate::Flight, sent_at: now, resent: true };
                        }
                    }
                }
                Op::LoseOlder(t) => {
                    let lost = b.judge(|r| if r.sent_at < t { Verdict::Lost } else { Verdict::Keep });
                    let mut n = 0;
                    for x in m.bytes.iter_mut().filter(|x| x.fate == Fate::Flight && x.sent_at < t) {
                        x.fate = Fate::Lost;
                        n += 1;
                    }
                    prop_assert_eq!(lost, n);
                }
            }
            if m.bytes.first().is_some_and(|x| x.fate == Fate::Sacked) {
                // A connection's first byte is never sacked by a sound peer; what follows need not hold then.
                return Ok(());
            }
            m.same(&b);
        }
    }
}

#[test]
fn one_burst_is_one_record_up_to_64_kib() {
    let mut b = Scoreboard::default();
    for i in 1..=100 {
        b.sent(i * 1000, 5, 1000);
    }
    assert_eq!(b.records().count(), 2);
    b.sent(100_500, 5, 1000);
    b.sent(101_500, 5, 1000);
    assert_eq!(b.records().count(), 3, "nothing is joined to a short segment: blocks are cut by whole ones");
    b.sent(102_500, 6, 1000);
    assert_eq!(b.records().count(), 4);
}

#[test]
fn a_window_that_is_sacked_in_order_stays_two_records() {
    let mut b = Scoreboard::default();
    for i in 1..=1000u64 {
        b.sent(i * 1000, i, 1000);
    }
    for i in 2..=1000u64 {
        b.sack(1000..i * 1000, 1000, |_| ());
        assert!(b.records().take_while(|r| r.fate != Fate::Flight || r.start == 0).count() == 2);
    }
    assert_eq!((b.records().count(), b.flight(), b.sacked()), (2, 1000, 999_000));
}

/// Blocks of one byte, or of every other segment, do not grow the scoreboard without bound.
#[test]
fn a_peer_that_sacks_crumbs_costs_no_more_than_the_limit() {
    let mut b = Scoreboard::default();
    b.sent(60_000, 1, 1000);
    for i in 0..30_000u64 {
        b.sack(i * 2 + 1..i * 2 + 2, 1000, |_| ());
    }
    assert_eq!((b.records().count(), b.sacked()), (1, 0), "parts of segments count for nothing");
    let mut b = Scoreboard::default();
    let n = 4 * RECORDS_MAX as u64;
    b.sent(n * 48, 1, 48);
    let mut refused = 0;
    for i in 0..n / 2 {
        let (_, whole) = b.sack((2 * i + 1) * 48..(2 * i + 2) * 48, 48, |_| ());
        refused += u64::from(!whole);
    }
    assert!(refused > 0 && b.records().count() <= RECORDS_MAX + 2, "{refused} {}", b.records().count());
    assert!(b.memory() <= 2 * 24 * RECORDS_MAX, "{}", b.memory());
    // Sends beyond the limit are joined, whenever they were.
    let end = b.end();
    for i in 1..=1000 {
        b.sent(end + i * 48, 1 + i, 48);
    }
    assert!(b.records().count() <= RECORDS_MAX + 3);
    // And what is resent a segment at a time.
    b.lose_all(false);
    for i in 0..20_000 {
        b.resent(48, 5000 + i, 48);
    }
    assert!(b.records().count() <= RECORDS_MAX + 3, "{}", b.records().count());
}
