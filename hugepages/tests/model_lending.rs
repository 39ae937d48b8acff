//! Models of a lending's end: counts that fall on any thread, the list that the last one links into, reuse of the slot.

#[path = "../src/lending.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod lending;
mod model;
use model as sync;

mod backing {
    pub(crate) use hugepages::{BackingKind, Io};
}

mod run {
    pub(crate) use hugepages::{Memory, PageSlice};
}

use std::sync::{Arc, OnceLock};

use hugepages::{PageRunMut, PageSlice, PrivatePages};
use lending::{LendSlab, NicRef};
use loom::cell::UnsafeCell;
use loom::thread;
use sync::{AtomicUsize, Ordering};

fn pages() -> PageSlice {
    static RUN: OnceLock<hugepages::PageRun> = OnceLock::new();
    RUN.get_or_init(|| PageRunMut::new(Arc::new(PrivatePages), 4096).unwrap().freeze()).slice_all()
}

fn reaped(slab: &LendSlab) -> Vec<u64> {
    let mut tokens = Vec::new();
    slab.reap(|token, _| tokens.push(token));
    tokens
}

/// Lets go of a reference on another thread, and says that it is about to.
fn let_go(nic: NicRef, gone: &Arc<AtomicUsize>) -> thread::JoinHandle<()> {
    let gone = gone.clone();
    thread::spawn(move || {
        gone.fetch_add(1, Ordering::Relaxed);
        drop(nic);
    })
}

/// Lets go as DPDK does, which has taken the reference over: `rte_mbuf_ext_refcnt_update(shinfo, -1)` and
/// `__rte_pktmbuf_free_extbuf` of rte_mbuf.h. A count of 1 is read relaxed and set to 0 by a relaxed store; only another
/// count is subtracted from with acquire and release.
fn dpdk_lets_go(nic: NicRef) {
    let (info, addr, _) = nic.into_raw();
    // SAFETY: the count that was taken over keeps the slot.
    let last = unsafe {
        let count = &info.as_ref().refcnt;
        if count.load(Ordering::Relaxed) == 1 {
            count.store(0, Ordering::Relaxed);
            true
        } else {
            count.fetch_sub(1, Ordering::AcqRel) == 1
        }
    };
    if last {
        // SAFETY: the count has fallen to 0: until the callback has linked it, the slot is ours.
        let (call, opaque) = unsafe { (info.as_ref().free_cb, info.as_ref().fcb_opaque) };
        call(addr.cast_mut().cast(), opaque);
    }
}

/// Bytes of pages: loom sees who reads and who writes them.
struct Bytes(UnsafeCell<u8>);

// SAFETY: loom ends the model where an access is not ordered after a write, which is what is to be shown.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Bytes {
    fn new() -> Arc<Bytes> {
        Arc::new(Bytes(UnsafeCell::new(0)))
    }

    fn read(&self) {
        // SAFETY: as above.
        self.0.with(|p| assert_eq!(unsafe { *p }, 0));
    }

    fn write(&self) {
        // SAFETY: as above.
        self.0.with_mut(|p| unsafe { *p = 1 });
    }
}

/// As [`let_go`], by a driver that reads the pages until it lets go as DPDK does.
fn driver_lets_go(nic: NicRef, bytes: &Arc<Bytes>, gone: &Arc<AtomicUsize>) -> thread::JoinHandle<()> {
    let (bytes, gone) = (bytes.clone(), gone.clone());
    thread::spawn(move || {
        bytes.read();
        gone.fetch_add(1, Ordering::Relaxed);
        dpdk_lets_go(nic);
    })
}

/// Pages that came home are written again while no driver can still read them, and they come home once: DPDK's plain
/// store of 0 orders nothing, and yet all that was done before other references fell comes before the reuse.
#[test]
fn pages_that_dpdk_let_go_are_written_only_when_all_have_read_them() {
    sync::every(3, || {
        let (slab, bytes) = (LendSlab::new(1), Bytes::new());
        let gone = Arc::new(AtomicUsize::new(0));
        let stream = slab.lend(pages(), 7).unwrap();
        let threads = [0, 1].map(|i| driver_lets_go(stream.nic_ref(i, 1).unwrap(), &bytes, &gone));
        drop(stream);
        let mut home = Vec::new();
        // Before anything is joined: nothing but the list orders the drivers and this thread.
        while home.is_empty() {
            slab.reap(|token, _| {
                bytes.write();
                home.push(token);
            });
            thread::yield_now();
        }
        assert_eq!(gone.load(Ordering::Relaxed), 2, "a driver still holds it");
        for t in threads {
            t.join().unwrap();
        }
        assert_eq!(home, [7]);
        assert_eq!((slab.out(), slab.counters().stale), (0, 0));
    });
}

/// The stream sends pages again while drivers let go of what was sent before, and the slot is lent again at once: no
/// count is lost by a plain store, since a driver that reads 1 is the only one that holds the lending.
#[test]
fn a_plain_store_takes_no_count_of_another_away() {
    sync::every(3, || {
        let (slab, bytes) = (LendSlab::new(1), Bytes::new());
        let gone = Arc::new(AtomicUsize::new(0));
        let stream = slab.lend(pages(), 1).unwrap();
        let first = driver_lets_go(stream.nic_ref(0, 1).unwrap(), &bytes, &gone);
        let again = stream.nic_ref(0, 1).unwrap();
        drop(stream);
        let mut home = reaped(&slab);
        assert!(home.is_empty(), "a driver still holds it");
        bytes.read();
        dpdk_lets_go(again);
        home.extend(reaped(&slab));
        first.join().unwrap();
        home.extend(reaped(&slab));
        bytes.write();
        assert_eq!(home, [1]);
        let again = slab.lend(pages(), 2).unwrap();
        assert_eq!((slab.out(), slab.counters().stale), (1, 0));
        dpdk_lets_go(again.nic_ref(0, 1).unwrap());
        drop(again);
        assert_eq!(reaped(&slab), [2]);
    });
}

/// Whoever lets go last, the lending comes home once, and not before all three have let go.
#[test]
fn released_once_whoever_is_last() {
    sync::every(3, || {
        let slab = LendSlab::new(1);
        let gone = Arc::new(AtomicUsize::new(0));
        let stream = slab.lend(pages(), 7).unwrap();
        let threads = [0, 1].map(|i| let_go(stream.nic_ref(i, 1).unwrap(), &gone));
        let early = reaped(&slab);
        assert!(early.is_empty(), "the stream still holds it");
        drop(stream);
        let mut home = reaped(&slab);
        assert!(home.is_empty() || gone.load(Ordering::Relaxed) == 2, "a NIC still holds it");
        for t in threads {
            t.join().unwrap();
        }
        home.extend(reaped(&slab));
        assert_eq!(home, [7]);
        assert_eq!((slab.out(), slab.counters().stale), (0, 0));
    });
}

/// Lendings that fall at the same time on several threads are all found, each once, though the list is taken away
/// meanwhile.
#[test]
fn none_is_lost_on_the_list() {
    sync::every(3, || {
        let slab = LendSlab::new(3);
        let gone = Arc::new(AtomicUsize::new(0));
        let threads = [0, 1, 2].map(|token| {
            let lent = slab.lend(pages(), token).unwrap();
            let nic = lent.nic_ref(0, 1).unwrap();
            drop(lent);
            // The third falls here.
            (token < 2).then(|| let_go(nic, &gone))
        });
        let mut home = reaped(&slab);
        for t in threads.into_iter().flatten() {
            t.join().unwrap();
        }
        home.extend(reaped(&slab));
        home.sort_unstable();
        assert_eq!(home, [0, 1, 2]);
    });
}

/// A slot that came home is lent again while nobody of its former life can touch it: loom sees the accesses.
#[test]
fn a_slot_is_used_again_only_when_nobody_touches_it() {
    sync::every(3, || {
        let slab = LendSlab::new(1);
        let gone = Arc::new(AtomicUsize::new(0));
        let mut threads = Vec::new();
        let mut tokens = Vec::new();
        for token in [1, 2] {
            let lent = loop {
                match slab.lend(pages(), token) {
                    Ok(lent) => break lent,
                    Err(_) => {
                        tokens.extend(reaped(&slab));
                        thread::yield_now();
                    }
                }
            };
            threads.push(let_go(lent.nic_ref(0, 1).unwrap(), &gone));
            drop(lent);
        }
        for t in threads {
            t.join().unwrap();
        }
        tokens.extend(reaped(&slab));
        assert_eq!((tokens, slab.counters().stale), (vec![1, 2], 0));
    });
}

/// References may be added while others fall: the count never comes back from nothing.
#[test]
fn a_count_rises_only_while_it_is_held() {
    sync::every(3, || {
        let slab = LendSlab::new(1);
        let gone = Arc::new(AtomicUsize::new(0));
        let stream = slab.lend(pages(), 1).unwrap();
        let first = let_go(stream.nic_ref(0, 1).unwrap(), &gone);
        // Sent again, after TCP has let go of nothing yet.
        let again = stream.nic_ref(0, 1).unwrap();
        let second = let_go(again, &gone);
        drop(stream);
        first.join().unwrap();
        second.join().unwrap();
        assert_eq!(reaped(&slab), [1]);
    });
}
