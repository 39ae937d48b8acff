//! Operation sequences on the tables of the shim, each beside a model that is too simple to be wrong.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::fuzz::{Bytes, LEN, TIME};
use hugepages::{HeapRxPool, LendSlab, PageRunMut, PrivatePages};
use tcpstack::opts::Ts;
use tcpstack::reasm::Reasm;
use tcpstack::seq::Seq;
use tcpstack::shadow::{Chunk, Shadow};
use tcpstack::table::{FlowTable, Key, Place};
use tcpstack::timewait::{Entry, TimeWait, Verdict};
use tcpstack::wheel::Wheel;
use tcpstack::wire::{ACK, FIN, RST, SYN, Seg};

fn table(b: &mut Bytes<'_>) {
    let mut t = FlowTable::new([u64::from(b.u32()), u64::from(b.u32())]);
    let mut m = HashMap::new();
    while !b.done() {
        let op = b.u8();
        let k = Key::v4(1, u16::from(b.u8() & 7), 2, u16::from(b.u8()));
        match op & 3 {
            0 => assert_eq!(t.remove(&k), m.remove(&k)),
            n => {
                let p = if n == 1 { Place::Flow(u32::from(op)) } else { Place::TimeWait(u32::from(op)) };
                t.insert(k, p);
                m.insert(k, p);
            }
        }
        assert_eq!((t.len(), t.get(&k)), (m.len(), m.get(&k).copied()));
    }
    for (k, p) in &m {
        assert_eq!(t.get(k), Some(*p));
    }
}

fn wheel(b: &mut Bytes<'_>) {
    let mut now = u64::from(b.u32());
    let mut w = Wheel::new(now);
    let mut m: HashMap<u32, u64> = HashMap::new();
    let mut out = vec![];
    while !b.done() {
        let (op, id) = (b.u8(), u32::from(b.u8() & 31));
        // From nanoseconds to hours.
        let span = u64::from(b.u16()) << (b.u8() % 32);
        match op % 3 {
            0 => {
                w.cancel(id);
                m.remove(&id);
            }
            1 => {
                w.set(id, now + span);
                m.insert(id, now + span);
            }
            _ => {
                now += span;
                let max = 1 + usize::from(op >> 4);
                out.clear();
                w.expire(now, max, &mut out);
                for id in &out {
                    assert!(m.remove(id).expect("fired twice or not set") <= now, "early");
                }
                // Those that were too many fire at the next call, at the same time.
                while !out.is_empty() && out.len() >= max {
                    out.clear();
                    w.expire(now, max, &mut out);
                    out.iter().for_each(|id| assert!(m.remove(id).expect("fired twice") <= now));
                }
                // Late by no more than one tick, which next() rounds to.
                let tick = 1 << 12;
                assert!(m.values().all(|at| at + 2 * tick > now), "late: {m:?} at {now}");
            }
        }
        assert_eq!(w.len(), m.len());
        assert_eq!(w.is_empty(), w.next().is_none());
        assert!(m.iter().all(|(id, at)| w.at(*id) == Some(*at)));
        if let (Some(n), Some(first)) = (w.next(), m.values().min()) {
            assert!(n <= first + (1 << 12), "sleeps past a timer");
        }
    }
}

fn reasm(b: &mut Bytes<'_>) {
    let pool = HeapRxPool::new(64, 4096);
    let max = if b.chance() { u64::MAX } else { 64 * b.below(40) };
    let (mut r, mut m, mut nxt) = (Reasm::default(), BTreeMap::new(), 0u64);
    while !b.done() {
        if b.u8() & 3 == 0 {
            while let Some(f) = r.pop(nxt) {
                for x in f.bytes() {
                    assert_eq!(m.remove(&nxt), Some(*x), "at {nxt}");
                    nxt += 1;
                }
            }
            assert!(!m.contains_key(&nxt), "{nxt} is held and does not come out");
        } else {
            let (start, len, v) = (nxt + b.below(200), 1 + b.below(60) as usize, b.u8());
            let whole = r.insert(start, pool.copy_of(&vec![v; len]).unwrap(), max).is_ok();
            if whole {
                for i in start..start + len as u64 {
                    m.entry(i).or_insert(v);
                }
            } else {
                // Some of it may have been kept: what the islands say is what counts.
                let kept: Vec<u64> = r.islands().flatten().collect();
                for i in (start..start + len as u64).filter(|i| kept.binary_search(i).is_ok()) {
                    m.entry(i).or_insert(v);
                }
            }
            assert!(r.truesize() <= max, "{} of {max}", r.truesize());
        }
        assert_eq!(r.islands().flatten().collect::<Vec<_>>(), m.keys().copied().collect::<Vec<_>>());
        assert_eq!(r.is_empty(), m.is_empty());
    }
    r.clear();
    assert_eq!((r.truesize(), pool.out()), (0, 0));
}

fn shadow(b: &mut Bytes<'_>) {
    let slab = LendSlab::new(64);
    let (mut s, mut m, mut una) = (Shadow::default(), vec![], 0u64);
    while !b.done() {
        match b.u8() % 4 {
            0 => {
                let h: Vec<u8> = (0..b.u8()).map(|i| i ^ m.len() as u8).collect();
                s.push_inline(&h);
                m.extend_from_slice(&h);
            }
            1 if slab.out() < 60 => {
                let mut r = PageRunMut::new(Arc::new(PrivatePages), 1 + b.below(3000) as usize).unwrap();
                let salt = m.len() as u8;
                r.bytes_mut().iter_mut().enumerate().for_each(|(i, x)| *x = (i as u8).wrapping_mul(7) ^ salt);
                let l = slab.lend(r.freeze().slice_all(), 1).unwrap();
                s.push_lent(&l);
                l.chunks().for_each(|b| m.extend_from_slice(b));
            }
            2 => {
                una += b.below(m.len() as u64 - una + 1);
                s.release(una);
                slab.reap(|_, _| ());
            }
            _ => {
                let (off, max) = (b.below(m.len() as u64 + 2), b.u16() as u32);
                match s.chunk(off, max) {
                    None => {
                        assert!(off < una || off >= m.len() as u64 || max == 0, "{off} of {una}..{}", m.len())
                    }
                    Some(c) => {
                        let got = match c {
                            Chunk::Inline(x) => x,
                            Chunk::Lent { lent, off, len } => &lent.chunk(off)[..len as usize],
                        };
                        assert!(!got.is_empty() && got.len() <= max as usize);
                        assert_eq!(got, &m[off as usize..][..got.len()]);
                    }
                }
            }
        }
        assert_eq!(s.end(), m.len() as u64);
    }
    s.clear();
    slab.reap(|_, _| ());
    assert_eq!(slab.out(), 0);
}

fn time_wait(b: &mut Bytes<'_>) {
    let (wait, max) = (1 + u64::from(b.u8()), 1 + usize::from(b.u8() & 7));
    let mut t = TimeWait::new(wait, max);
    // Number, key, until; in the order in which they end.
    let mut m: VecDeque<(u32, u32, u64)> = VecDeque::new();
    let (mut now, mut n) = (0u64, 0u32);
    while !b.done() {
        let op = b.u8();
        match op % 4 {
            0 => {
                n += 1;
                let e = Entry {
                    key: Key::v4(1, 2, n, 3),
                    snd_nxt: Seq(100),
                    rcv_nxt: Seq(200),
                    win: 5,
                    until: 0,
                    ts: b.chance().then_some(50),
                };
                let i = t.insert(e, now);
                assert!(m.iter().all(|x| x.0 != i), "a number in use");
                m.push_back((i, n, now + wait));
            }
            1 => {
                now += u64::from(b.u8());
                while let Some(e) = t.expired(now) {
                    // The oldest first; of two that end together either may be.
                    let first = m.iter().map(|x| x.2).min().expect("more than there are");
                    let at = m.iter().position(|x| Key::v4(1, 2, x.1, 3) == e.key).expect("unknown");
                    let (i, _, until) = m.remove(at).unwrap();
                    assert_eq!((e.until, until), (first, first));
                    assert!(until <= now || m.len() + 1 > max, "early");
                    assert_eq!(t.get(i), None);
                }
                assert!(m.len() <= max && m.iter().all(|x| x.2 > now), "late: {m:?} at {now}");
            }
            2 if !m.is_empty() => {
                let (i, k, _) = m.remove(b.below(m.len() as u64) as usize).unwrap();
                assert_eq!(t.remove(i).map(|e| e.key), Some(Key::v4(1, 2, k, 3)));
            }
            _ if !m.is_empty() => {
                let at = b.below(m.len() as u64) as usize;
                let (i, k, until) = m[at];
                let flags = [ACK, SYN, RST, ACK | FIN, SYN | ACK, 0][b.below(6) as usize];
                let plen = u32::from(b.u8() & 1);
                let s = Seg {
                    key: Key::v4(1, 2, k, 3),
                    seq: Seq(198 + b.u8() as u32 % 5),
                    ack: Seq(100),
                    flags,
                    win: 0,
                    hlen: 20,
                    plen,
                };
                let ts = b.chance().then(|| Ts { val: 48 + u32::from(b.u8() % 5), ecr: 0 });
                let v = t.on_segment(i, &s, ts, now);
                if flags & RST != 0 {
                    assert!(!matches!(v, Verdict::Reuse(_) | Verdict::Ack), "{v:?} for a RST");
                }
                if let Verdict::Reuse(after) = v {
                    assert_eq!((flags, after), (SYN, Seq(100)));
                }
                let e = t.get(i).expect("a segment takes nothing away");
                assert!(e.until >= until && e.until <= now + wait || e.until == until);
                if e.until != until {
                    m.remove(at);
                    m.push_back((i, k, e.until));
                }
            }
            _ => (),
        }
        assert_eq!((t.len(), t.is_empty()), (m.len(), m.is_empty()));
        assert!(m.is_empty() || t.deadline().is_some_and(|d| m.iter().all(|x| d <= x.2)));
    }
}

#[test]
fn maps_behave_as_their_models() {
    bolero::check!().with_test_time(TIME).with_max_len(LEN).for_each(|input: &[u8]| {
        let mut b = Bytes::new(input);
        match b.u8() % 5 {
            0 => table(&mut b),
            1 => wheel(&mut b),
            2 => reasm(&mut b),
            3 => shadow(&mut b),
            _ => time_wait(&mut b),
        }
    });
}
