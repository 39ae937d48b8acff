//! A model of received payload on its way through a node: from its home over another lcore, whose lending a driver on any
//! thread may end, and home again.

#[path = "../src/gather.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod gather;
#[path = "../src/lending.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod lending;
mod model;
#[path = "../src/run.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod run;
#[path = "../src/rx.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod rx;
use model as sync;

mod backing {
    pub(crate) use hugepages::{Backing, BackingError, BackingKind, Io, OwnPages, RawRun};
}
pub(crate) use hugepages::PrivatePages;

use gather::RxPiece;
use lending::LendSlab;
use loom::thread;
use run::PageSlice;
use rx::{HeapRxPool, LendBudget, LendOwner};

/// The buffers are their pool's again once each, after the stream, the driver and the lcore that sent them have let go,
/// and what the driver reads is what was received.
#[test]
fn pieces_go_home_once_whoever_is_last() {
    sync::every(3, || {
        let budget = LendBudget { lcore_bytes: 1 << 20, owner_bytes: 1 << 20, handles: 2 };
        let pool = HeapRxPool::with_budget(8, 2, budget);
        let piece = |b: &[u8]| RxPiece::Lent(pool.copy_of(b).unwrap().lend(LendOwner::FORWARDER).unwrap());
        let whole = PageSlice::received([piece(b"ab"), piece(b"cd")]);
        let other = thread::spawn(move || {
            let slab = LendSlab::new(1);
            let stream = slab.lend(whole, 7).unwrap();
            let nic = stream.nic_ref(2, 2).unwrap();
            let driver = thread::spawn(move || {
                assert_eq!(nic.bytes(), b"cd");
                drop(nic);
            });
            drop(stream);
            let mut home = slab.reap(|token, _| assert_eq!(token, 7));
            driver.join().unwrap();
            home += slab.reap(|token, _| assert_eq!(token, 7));
            assert_eq!((home, slab.out()), (1, 0));
        });
        let early = pool.home().drain();
        other.join().unwrap();
        assert_eq!((early + pool.home().drain(), pool.out(), pool.home().lent_out()), (2, 0, 0));
    });
}
