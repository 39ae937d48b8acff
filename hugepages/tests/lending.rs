//! Lendings by their public face: released once, when the last of three has let go.

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hugepages::{
    AttachRefused, HeapRxPool, LendOwner, LendSlab, LendSlabError, NIC_REFS_MAX, PageRun, PageRunMut,
    PageSlice, PrivatePages, RxPiece,
};

fn run() -> PageRun {
    PageRunMut::new(Arc::new(PrivatePages), 65536).unwrap().freeze()
}

fn reaped(s: &LendSlab) -> Vec<u64> {
    let mut v = vec![];
    s.reap(|t, _| v.push(t));
    v
}

#[test]
fn released_only_when_stream_hold_and_nic_have_all_let_go_in_any_order() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let s = LendSlab::new(4);
        let stream = s.lend(run().slice_all(), 42).unwrap();
        let hold = stream.clone();
        let nic = stream.nic_ref(0, 100).unwrap();
        let mut parts: [Option<Box<dyn FnOnce()>>; 3] = [
            Some(Box::new(move || drop(stream))),
            Some(Box::new(move || drop(hold))),
            Some(Box::new(move || drop(nic))),
        ];
        for (n, i) in order.into_iter().enumerate() {
            assert_eq!(reaped(&s), [], "order {order:?} step {n}");
            parts[i].take().unwrap()();
        }
        assert_eq!(reaped(&s), [42]);
        assert_eq!(reaped(&s), []);
        assert_eq!(s.out(), 0);
    }
}

#[test]
fn a_slot_is_not_reused_while_the_nic_counts_in_it() {
    let s = LendSlab::new(1);
    let l = s.lend(run().slice_all(), 1).unwrap();
    let nic = l.nic_ref(0, 1).unwrap();
    drop(l);
    assert_eq!(s.lend(run().slice_all(), 2).unwrap_err(), LendSlabError::Full(1));
    assert_eq!((s.out(), s.nic_held()), (1, 1));
    drop(nic);
    assert_eq!((s.out(), s.nic_held()), (1, 1), "home, but not reaped");
    assert_eq!(reaped(&s), [1]);
    assert!(s.lend(run().slice_all(), 2).is_ok());
}

#[test]
fn all_slices_are_lent_or_none() {
    let s = LendSlab::new(4);
    let (r, mut out) = (run(), vec![]);
    let slices = |n: u32| (0..n).map(|i| r.slice(i * 10, 10).unwrap()).collect::<Vec<_>>();
    let other = s.lend(r.slice_all(), 1).unwrap();
    let hold = other.clone();
    // Three are free: the fourth lend would fail.
    let short = s.lend_all(slices(4), 2, |l| out.push(l)).unwrap_err();
    assert_eq!((short.asked, short.free, short.never(), out.len(), s.out()), (4, 3, false, 0, 1));
    assert!(short.to_string().starts_with("4 lendings are needed and 3 of 4 are free"), "{short}");
    assert_eq!(short.slices.iter().map(|x| x.off()).collect::<Vec<_>>(), [0, 10, 20, 30]);
    drop((other, hold));
    assert_eq!(reaped(&s), [1]);
    s.lend_all(short.slices, 2, |l| out.push(l)).unwrap();
    assert_eq!(
        out.iter().map(|l| (l.off(), l.len())).collect::<Vec<_>>(),
        [(0, 10), (10, 10), (20, 10), (30, 10)]
    );
    assert!(s.lend_all(slices(5), 3, |_| ()).unwrap_err().never(), "waiting is of no use");
    assert!(s.lend_all(slices(0), 3, |_| ()).is_ok());
    out.clear();
    assert_eq!(reaped(&s), [2; 4]);
}

#[test]
fn attach_is_refused_at_half_the_count_and_nothing_wraps() {
    let s = LendSlab::new(1);
    let l = s.lend(run().slice_all(), 1).unwrap();
    let refs: Vec<_> = (0..NIC_REFS_MAX - 1).map(|_| l.nic_ref(0, 1448).unwrap()).collect();
    assert_eq!(l.nic_ref(0, 1).err(), Some(AttachRefused::Count));
    drop(refs);
    assert!(l.nic_ref(0, 1).is_ok());
    drop(l);
    assert_eq!(reaped(&s), [1]);
}

#[test]
fn the_last_nic_reference_may_fall_on_another_thread() {
    let s = LendSlab::new(64);
    for round in 0..50 {
        let l = s.lend(run().slice_all(), round).unwrap();
        let refs: Vec<_> = (0..8).map(|i| l.nic_ref(i, 8).unwrap()).collect();
        let t = std::thread::spawn(move || drop(refs));
        drop(l);
        t.join().unwrap();
        assert_eq!(reaped(&s), [round]);
    }
    assert_eq!(s.counters().stale, 0);
}

#[test]
fn a_late_callback_of_an_older_generation_is_counted_not_obeyed() {
    let s = LendSlab::new(1);
    let l = s.lend(run().slice_all(), 1).unwrap();
    let (sh, ..) = l.nic_ref(0, 1).unwrap().into_raw();
    // SAFETY: the slot is lent, so its shared info stays.
    let sh = unsafe { sh.as_ref() };
    // As a driver gives back what it was given.
    sh.refcnt.fetch_sub(1, Ordering::AcqRel);
    let (free, old) = (sh.free_cb, sh.fcb_opaque);
    drop(l);
    assert_eq!(reaped(&s), [1]);
    let l = s.lend(run().slice_all(), 2).unwrap();
    free(ptr::null_mut(), old);
    assert_eq!(reaped(&s), []);
    assert_eq!(s.counters().stale, 1);
    drop(l);
    assert_eq!(reaped(&s), [2]);
}

/// Nobody took in what had come home last, and the slab kept pages and its own memory for good.
#[test]
fn a_slab_that_is_dropped_gives_back_what_has_come_home() {
    let (s, r) = (LendSlab::new(2), run());
    let l = s.lend(r.slice_all(), 1).unwrap();
    let nic = l.nic_ref(0, 16).unwrap();
    drop((l, nic));
    drop(s);
    assert!(r.try_thaw().is_ok(), "nobody else has the pages");
}

#[test]
fn a_slab_dropped_with_references_out_leaves_their_memory() {
    let s = LendSlab::new(1);
    let l = s.lend(run().slice_all(), 1).unwrap();
    let nic = l.nic_ref(0, 16).unwrap();
    drop(l);
    drop(s);
    assert_eq!(nic.bytes().len(), 16);
}

#[test]
fn windows_stay_inside() {
    let s = LendSlab::new(1);
    let l = s.lend(run().slice(100, 200).unwrap(), 1).unwrap();
    assert_eq!((l.off(), l.len()), (100, 200));
    assert!(l.window(1, 200).is_none());
    let w = l.window(50, 150).unwrap();
    assert_eq!((w.off(), w.len()), (150, 150));
    assert_eq!(w.nic_ref(0, 150).unwrap().into_raw().2, 150);
}

/// `parts` as they came in, those of odd places copied.
fn received(pool: &HeapRxPool, parts: &[&[u8]]) -> PageSlice {
    let piece = |(i, b): (usize, &&[u8])| match i % 2 {
        0 => RxPiece::Lent(pool.copy_of(b).unwrap().lend(LendOwner::FORWARDER).unwrap()),
        _ => RxPiece::Copied((*b).into()),
    };
    PageSlice::received(parts.iter().enumerate().map(piece))
}

#[test]
fn received_pieces_take_one_slot_and_go_home_when_nothing_needs_them() {
    let (pool, s) = (HeapRxPool::new(16, 8), LendSlab::new(1));
    let whole = received(&pool, &[b"abcd", b"efg", b"hijkl"]);
    assert_eq!((whole.len(), whole.chunks().collect::<Vec<_>>()), (12, vec![&b"abcd"[..], b"efg", b"hijkl"]));
    let stream = s.lend(whole.slice(2, 9).unwrap(), 7).unwrap();
    drop(whole);
    assert_eq!(stream.chunks().collect::<Vec<_>>(), [&b"cd"[..], b"efg", b"hijk"]);
    assert_eq!(
        [0, 1, 2, 5, 8, 9].map(|off| stream.chunk(off)),
        [&b"cd"[..], b"d", b"efg", b"hijk", b"k", b""]
    );
    assert_eq!([(0, 9), (1, 1), (3, 6), (5, 2)].map(|(off, len)| stream.together(off, len)), [2, 1, 2, 2]);
    let window = stream.window(4, 3).unwrap();
    assert_eq!((window.place().bytes(), window.chunks().count()), (&b"g"[..], 2));
    let nic = stream.nic_ref(6, 2).unwrap();
    assert_eq!(nic.bytes(), b"ij");
    let again = nic.into_raw();
    drop((stream, window));
    assert_eq!((reaped(&s), pool.home().drain()), (vec![], 0), "the NIC reads them");
    // SAFETY: the count that was given away keeps the slot.
    let sh = unsafe { again.0.as_ref() };
    assert_eq!(sh.refcnt.fetch_sub(1, Ordering::AcqRel), 1);
    (sh.free_cb)(ptr::null_mut(), sh.fcb_opaque);
    assert_eq!((reaped(&s), pool.home().drain(), pool.out()), (vec![7], 2, 0));
}

/// A frame is never of bytes that lie in two buffers.
#[test]
#[should_panic(expected = "range end index")]
fn no_reference_goes_beyond_a_piece() {
    let pool = HeapRxPool::new(16, 8);
    let lent = LendSlab::new(1).lend(received(&pool, &[b"abcd", b"efg"]), 7).unwrap();
    let _ = lent.nic_ref(2, 3);
}

/// Received here, sent on by another lcore, and back here to be used again: each piece is freed by its home alone, once.
#[test]
fn pieces_come_home_from_another_lcore() {
    let pool = HeapRxPool::new(16, 8);
    for _ in 0..3 {
        let whole = received(&pool, &[b"abcd", b"efg", b"hij"]);
        let other = std::thread::spawn(move || {
            let s = LendSlab::new(4);
            let (first, rest) = (whole.slice(0, 5).unwrap(), whole.slice(5, 5).unwrap());
            drop(whole);
            let both = [first, rest].map(|p| s.lend(p, 1).unwrap());
            let bytes = both.iter().flat_map(|l| l.chunks().flatten()).copied().collect::<Vec<_>>();
            drop(both);
            assert_eq!((reaped(&s).len(), bytes.as_slice()), (2, &b"abcdefghij"[..]));
        });
        other.join().unwrap();
        assert_eq!((pool.out(), pool.home().drain(), pool.out()), (2, 2, 0));
    }
}

#[test]
fn only_what_is_a_run_is_one() {
    let pool = HeapRxPool::new(16, 8);
    assert!(received(&pool, &[b"abcd"]).into_run().is_none());
    assert_eq!((pool.home().drain(), pool.out()), (1, 0));
    let pages = run();
    let slice = pages.slice_all();
    drop(pages);
    assert!(slice.into_run().unwrap().try_thaw().is_ok());
    let empty = received(&pool, &[]);
    assert!(empty.is_empty() && empty.chunks().next().is_none() && empty.slice(0, 1).is_none());
}
