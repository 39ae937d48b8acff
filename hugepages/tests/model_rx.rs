//! Models of lent receive buffers: dropped on any thread, freed once by their home, over a ring that is never full.

mod model;
#[path = "../src/relay.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod relay;
#[path = "../src/rx.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod rx;
use model as sync;

mod backing {
    pub(crate) use hugepages::{BackingKind, Io, OwnPages};
}

use loom::thread;
use relay::Relay;
use rx::{HeapRxPool, LendBudget, LendOwner};

const OWNER: LendOwner = LendOwner(1);

fn budget(handles: usize) -> LendBudget {
    LendBudget { lcore_bytes: 1 << 20, owner_bytes: 1 << 20, handles }
}

/// Two are out at most. A third is lent as soon as one has come home, whichever it is, and there is always room on
/// the ring for whoever lets go (a push that failed would panic).
#[test]
fn the_ring_has_room_for_all_that_is_out() {
    sync::every(3, || {
        let pool = HeapRxPool::with_budget(8, 3, budget(2));
        let lend = |n: u8| pool.copy_of(&[n]).unwrap().lend(OWNER);
        let mut threads: Vec<_> = [1, 2]
            .map(|n| {
                let lent = lend(n).unwrap();
                thread::spawn(move || assert_eq!(lent.bytes(), [n]))
            })
            .into();
        let mut home = pool.home().drain();
        match lend(3) {
            Ok(lent) => {
                assert!(home > 0, "a third is out");
                threads.push(thread::spawn(move || assert_eq!(lent.bytes(), [3])));
            }
            Err(f) => assert_eq!((home, f.bytes()), (0, &[3][..])),
        }
        let out = threads.len();
        for t in threads {
            t.join().unwrap();
        }
        home += pool.home().drain();
        assert_eq!((home, pool.out(), pool.home().lent_out()), (out, 0, 0));
    });
}

/// From its home to another lcore, from there to an application, and back the same way.
#[test]
fn a_relayed_buffer_goes_home_by_both_rings() {
    sync::every(3, || {
        let pool = HeapRxPool::with_budget(8, 1, budget(1));
        let lent = pool.copy_of(b"x").unwrap().lend(OWNER).unwrap();
        let other = thread::spawn(move || {
            let relay = Relay::new(budget(1));
            let again = relay.frag(lent).lend(OWNER).unwrap();
            let app = thread::spawn(move || assert_eq!(again.bytes(), b"x"));
            let early = relay.home().drain();
            app.join().unwrap();
            assert_eq!(early + relay.home().drain(), 1);
        });
        let early = pool.home().drain();
        assert!(early == 0 || pool.out() == 0);
        other.join().unwrap();
        assert_eq!((early + pool.home().drain(), pool.out()), (1, 0));
    });
}
