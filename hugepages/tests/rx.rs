//! Received fragments by their public face: freed once, by their home.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use hugepages::{BackingKind, HeapRxPool, Io, LendBudget, LendOwner, Relay, RxFrag, RxHome, RxOps};

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
