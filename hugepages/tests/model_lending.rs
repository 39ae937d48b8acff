//! Models of a lending's end: counts that fall on any thread, the list that the last one links into, reuse of the slot.

#[path = "../src/lending.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod lending;
mod model;
use model as sync;

mod run {
    pub(crate) use hugepages::PageRun;
}

use std::sync::{Arc, OnceLock};

use hugepages::{PageRunMut, PageSlice, PrivatePages};
use lending::{LendSlab, NicRef};
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
