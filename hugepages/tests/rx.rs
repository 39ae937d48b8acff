//! Received fragments by their public face: freed once, by their home.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use hugepages::{
    BAD_IOVA, BackingKind, HeapRxPool, Io, LendBudget, LendOwner, LendSlab, PageSlice, Relay, RxFrag, RxHome,
    RxOps, RxPiece,
};

fn frag(p: &HeapRxPool, s: &[u8]) -> RxFrag {
    p.copy_of(s).unwrap()
}

#[test]
fn a_split_buffer_is_freed_when_both_parts_are() {
    let p = HeapRxPool::new(64, 2);
    let mut f = frag(&p, b"abcdef");
    let head = f.split_to(2);
    assert_eq!((head.bytes(), f.bytes()), (&b"ab"[..], &b"cdef"[..]));
    drop(f);
    assert_eq!(p.out(), 1);
    drop(head);
    assert_eq!(p.out(), 0);
    let mut f = frag(&p, b"abc");
    assert_eq!(f.split_to(99).bytes(), b"abc");
    assert!(f.is_empty());
}

#[test]
fn lent_fragments_come_home_over_the_ring_from_any_thread() {
    let p = HeapRxPool::new(64, 8);
    let lent = frag(&p, b"hello").lend(LendOwner(1)).unwrap();
    std::thread::spawn(move || assert_eq!(lent.bytes(), b"hello")).join().unwrap();
    assert_eq!(p.out(), 1, "only the home frees");
    assert_eq!(p.home().drain(), 1);
    assert_eq!((p.out(), p.home().lent_out(), p.home().counters().lent_bytes), (0, 0, 0));
}

#[test]
fn the_budget_refuses_and_gives_the_fragment_back() {
    let p = HeapRxPool::new(64, 8); // 512 B: 256 for the lcore, 128 an owner
    let a: Vec<_> = (0..2).map(|_| frag(&p, b"a").lend(LendOwner(1)).unwrap()).collect();
    let back = frag(&p, b"b").lend(LendOwner(1)).unwrap_err();
    assert_eq!(back.bytes(), b"b");
    let c: Vec<_> = (0..2).map(|_| frag(&p, b"c").lend(LendOwner(2)).unwrap()).collect();
    assert!(frag(&p, b"d").lend(LendOwner(3)).is_err(), "half of the pool is out");
    assert_eq!(p.home().counters().refused, 2);
    drop((a, c));
    p.home().drain();
    assert!(back.lend(LendOwner(1)).is_ok());
}

#[test]
fn a_relayed_fragment_goes_home_through_both_rings() {
    let p = HeapRxPool::new(64, 8);
    let relay = Relay::new(LendBudget { lcore_bytes: 1 << 20, owner_bytes: 1 << 20, handles: 8 });
    let lent = frag(&p, b"hello").lend(LendOwner(1)).unwrap();
    let mut f = relay.frag(lent);
    assert_eq!(f.split_to(2).bytes(), b"he");
    let again = f.lend(LendOwner(1)).unwrap();
    assert_eq!(again.bytes(), b"llo");
    std::thread::spawn(move || drop(again)).join().unwrap();
    assert_eq!((p.home().drain(), p.out()), (0, 1));
    assert_eq!(relay.home().drain(), 1);
    assert_eq!((p.home().drain(), p.out()), (1, 0));
}

#[test]
fn a_drained_pool_gives_nothing_and_recovers() {
    let p = HeapRxPool::new(16, 1);
    let f = frag(&p, b"x");
    assert!(p.take().is_none());
    drop(f);
    drop(p.take().unwrap());
    assert!(p.copy_of(&[0; 17]).is_none());
    assert!(p.copy_of(&[0; 16]).is_some());
}

/// Those that nobody took from the ring were lost with their memory.
#[test]
fn what_comes_back_when_its_home_has_gone_is_freed() {
    let p = HeapRxPool::new(64, 32);
    let relay = Relay::new(LendBudget { lcore_bytes: 1 << 20, owner_bytes: 1 << 20, handles: 8 });
    let lend = |s: &[u8]| frag(&p, s).lend(LendOwner(1)).unwrap();
    let mut f = frag(&p, b"two parts");
    let parts = [f.split_to(3), f].map(|f| f.lend(LendOwner(1)).unwrap());
    let (early, late, relayed) = (lend(b"early"), lend(b"late"), relay.frag(lend(b"far")));
    let again = relayed.lend(LendOwner(2)).unwrap();
    drop(early);
    drop((p, relay));
    let threads = [late, again].map(|l| std::thread::spawn(move || assert!(!l.is_empty())));
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(parts.each_ref().map(|l| l.bytes()), [&b"two"[..], b" parts"]);
    // The last one frees them all: seen by leak checkers (scripts/sanitize), as memory that is used after its end is.
    drop(parts);
}

/// The same, counted; and memory that is not ours to free from any thread stays.
#[test]
fn only_memory_that_is_nobodys_is_freed_without_a_home() {
    static FREED: AtomicUsize = AtomicUsize::new(0);
    unsafe fn retain(_: NonNull<()>) {}
    unsafe fn io(_: NonNull<()>, _: NonNull<u8>) -> Io {
        Io::of(BackingKind::Private)
    }
    unsafe fn release(_: NonNull<()>) {
        FREED.fetch_add(1, Ordering::Relaxed);
    }
    static OURS: RxOps = RxOps { retain, release, io, outlives_home: true };
    static POOLED: RxOps = RxOps { retain, release, io, outlives_home: false };
    static BYTES: [u8; 4] = *b"abcd";
    for (ops, want) in [(&OURS, 2), (&POOLED, 0)] {
        FREED.store(0, Ordering::Relaxed);
        let home = RxHome::new(ops, LendBudget::of_pool(1 << 20, 4));
        let lend = || {
            let at = NonNull::from(&BYTES);
            // SAFETY: nobody writes the bytes, and the functions do nothing with the buffer.
            let f = unsafe { home.frag(at.cast(), at.cast(), 4, 4, true) };
            f.lend(LendOwner(1)).unwrap()
        };
        let (a, b) = (lend(), lend());
        drop(a);
        assert_eq!(FREED.load(Ordering::Relaxed), 0, "only the home frees");
        drop(home);
        assert_eq!(FREED.load(Ordering::Relaxed), 0, "one is still out");
        std::thread::spawn(move || drop(b)).join().unwrap();
        assert_eq!(FREED.load(Ordering::Relaxed), want);
    }
}

#[test]
fn fragments_may_outlive_their_pool() {
    let p = HeapRxPool::new(16, 1);
    let f = frag(&p, b"x");
    let l = p.home().clone();
    drop(p);
    assert_eq!(f.bytes(), b"x");
    drop(f);
    assert_eq!(l.drain(), 0);
}

/// Applications that keep what they are lent could take all that is lent at a time.
#[test]
fn whoever_sends_on_is_left_half_of_its_share() {
    let p = HeapRxPool::new(64, 16); // 1,024 B: 512 for the lcore, 256 an owner
    let lend = |owner| frag(&p, b"x").lend(owner);
    let all = |owner| std::iter::from_fn(|| lend(owner).ok()).collect::<Vec<_>>();
    let held = [1, 2].map(|n| all(LendOwner(n)));
    assert_eq!(held.each_ref().map(Vec::len), [4, 4]);
    assert!(lend(LendOwner::FORWARDER).is_err(), "it came too late");
    drop(held);
    p.home().drain();
    // Since it has asked, two buffers are its own.
    let held = [1, 2].map(|n| all(LendOwner(n)));
    assert_eq!(held.each_ref().map(Vec::len), [4, 2]);
    let sent = all(LendOwner::FORWARDER);
    assert_eq!(sent.len(), 2, "and no more, where others have the rest");
    drop(held);
    p.home().drain();
    let more = all(LendOwner::FORWARDER);
    assert_eq!(sent.len() + more.len(), 4, "its share is as everybody's");
    // Its share is not set aside once more while it has that.
    let held = [1, 2].map(|n| all(LendOwner(n)));
    assert_eq!(held.each_ref().map(Vec::len), [4, 0]);
    drop((held, sent, more));
    p.home().drain();
    assert_eq!((p.out(), p.home().lent_out()), (0, 0));
}

/// The address at which a device finds a byte is its home's to say, over however many lcores the fragment came.
#[test]
fn a_relayed_fragment_lies_where_its_home_says() {
    unsafe fn keep(_: NonNull<()>) {}
    unsafe fn io(raw: NonNull<()>, data: NonNull<u8>) -> Io {
        let into = data.addr().get() - raw.addr().get();
        Io { kind: BackingKind::Eal, iova: 0x7000 + into as u64, contig: 0 }
    }
    static OPS: RxOps = RxOps { retain: keep, release: keep, io, outlives_home: true };
    static BYTES: [u8; 8] = *b"abcdefgh";
    let home = RxHome::new(&OPS, LendBudget::of_pool(1 << 20, 4));
    let at = NonNull::from(&BYTES);
    // SAFETY: nobody writes the bytes, and the functions do nothing with the buffer.
    let mut f = unsafe { home.frag(at.cast(), at.cast(), 8, 8, true) };
    f.advance(2);
    let lent = f.lend(LendOwner(1)).unwrap();
    assert_eq!(lent.io(), Io { kind: BackingKind::Eal, iova: 0x7002, contig: 0 });
    let relay = Relay::new(LendBudget { lcore_bytes: 1 << 20, owner_bytes: 1 << 20, handles: 8 });
    let mut f = relay.frag(lent);
    f.advance(3);
    let again = f.lend(LendOwner::FORWARDER).unwrap();
    assert_eq!((again.io().iova, again.bytes()), (0x7005, &b"fgh"[..]));
    let slab = LendSlab::new(1);
    let lent = slab.lend(PageSlice::received([RxPiece::Lent(again)]), 1).unwrap();
    let part = lent.window(1, 2).unwrap();
    assert_eq!((part.place().io().iova, part.place().kind()), (0x7006, BackingKind::Eal));
    assert_eq!(frag(&HeapRxPool::new(8, 8), b"x").lend(LendOwner(1)).unwrap().io().iova, BAD_IOVA);
    drop((lent, part));
    assert_eq!(slab.reap(|_, _| ()), 1);
    assert_eq!((relay.home().drain(), home.drain()), (1, 1));
}
