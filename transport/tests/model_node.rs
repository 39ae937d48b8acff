//! Models of what the threads of a node hand each other: questions to an lcore, an application's rings, parcels.

#[path = "../src/node/bell.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, rustdoc::all)]
mod bell;
#[path = "../src/node/handover.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, rustdoc::all)]
mod handover;
#[path = "../../hugepages/tests/model/mod.rs"]
mod model;
use model as sync;

use std::collections::VecDeque;
use std::sync::Arc;

use bell::Bell;
use handover::{Common, Lines, Mailbox, Served, flush, post};
use loom::thread;
use sync::ArrayQueue;

/// A question is answered once and to whoever asked it, though the one before was given up; and a question that waits
/// is always announced, so an lcore that turns finds it.
#[test]
fn a_question_is_answered_once_and_never_overlooked() {
    sync::every(3, || {
        let mailbox = Arc::new(Mailbox::new(2));
        let asker = {
            let mailbox = mailbox.clone();
            thread::spawn(move || {
                let mut answered = 0;
                for serial in [1_u64, 2] {
                    mailbox.ask(serial, serial * 10).unwrap();
                    for _ in 0..2 {
                        if let Some(a) = mailbox.take(serial) {
                            assert_eq!(a, serial * 10 + 1, "another's answer");
                            answered += 1;
                        }
                        thread::yield_now();
                    }
                }
                assert!(answered <= 2);
            })
        };
        let mut seen = Vec::new();
        let turn = |seen: &mut Vec<u64>| {
            if mailbox.asked() {
                mailbox.answer(|a| {
                    seen.push(*a);
                    *a += 1;
                });
            }
        };
        turn(&mut seen);
        turn(&mut seen);
        asker.join().unwrap();
        turn(&mut seen);
        assert_eq!((seen, mailbox.waiting()), (vec![10, 20], 0));
    });
}

/// An answer that was given before the end is never taken for none.
#[test]
fn what_was_answered_before_the_end_is_heard() {
    sync::every(3, || {
        let mailbox = Arc::new(Mailbox::new(2));
        mailbox.ask(1_u64, 10).unwrap();
        let lcore = {
            let mailbox = mailbox.clone();
            thread::spawn(move || {
                mailbox.answer(|a| *a += 1);
                mailbox.close();
            })
        };
        // The order of an asker: the flag first, then the answers.
        let closed = mailbox.closed();
        let answer = mailbox.take(1);
        assert!(!closed || answer == Some(11));
        lcore.join().unwrap();
        assert!(mailbox.closed());
    });
}

/// Events reach a thread in order and none is lost, though its ring is full; so do operations the other way. When it
/// leaves, what waits for it is dropped and the lcore goes on.
#[test]
fn rings_keep_order_and_lose_nothing() {
    sync::every(2, || {
        let lines = Arc::new(Lines::<u32, u32>::new(1));
        let app = {
            let lines = lines.clone();
            thread::spawn(move || {
                let mut ops = VecDeque::from([1, 2]);
                let mut heard = Vec::new();
                for _ in 0..3 {
                    if let Some(op) = ops.pop_front()
                        && let Err(op) = lines.submit(op)
                    {
                        ops.push_front(op);
                    }
                    heard.extend(lines.event());
                }
                lines.leave();
                (ops, heard)
            })
        };
        let mut served = Served { lines: lines.clone(), backlog: VecDeque::new() };
        let mut taken = Vec::new();
        for ev in [10, 20, 30] {
            served.deliver(ev);
            served.turn(64, |op| taken.push(op));
        }
        let (left, heard) = app.join().unwrap();
        served.turn(64, |op| taken.push(op));
        assert!(served.backlog.is_empty(), "kept for somebody who has left");
        taken.extend(left);
        assert_eq!(taken, [1, 2]);
        assert_eq!(heard, [10, 20, 30][..heard.len()]);
    });
}

/// While an application listens, nothing that was delivered is missing at the end.
#[test]
fn a_full_event_ring_only_delays() {
    sync::every(3, || {
        let lines = Arc::new(Lines::<u32, u32>::new(1));
        let mut served = Served { lines: lines.clone(), backlog: VecDeque::new() };
        let app = {
            let lines = lines.clone();
            thread::spawn(move || (0..2).filter_map(|_| lines.event()).collect::<Vec<_>>())
        };
        (1..=3).for_each(|ev| served.deliver(ev));
        served.turn(64, |_| {});
        let mut heard = app.join().unwrap();
        for _ in 0..3 {
            heard.extend(lines.event());
            served.turn(64, |_| {});
        }
        assert_eq!(heard, [1, 2, 3]);
    });
}

/// A thread that waits for its ring is woken by what is put in, and by the end. loom's waits have no time limit: a wake-up that
/// is lost is a deadlock here.
#[test]
fn whoever_sleeps_is_woken() {
    sync::every(3, || {
        let (bell, lines) = (Arc::new(Bell::default()), Arc::new(Lines::<u32, u32>::new(2)));
        let app = {
            let (bell, lines) = (bell.clone(), lines.clone());
            thread::spawn(move || {
                let first = bell.wait(None, || lines.event());
                (first, bell.wait(None, || lines.event()), bell.wait(None, || lines.event()))
            })
        };
        let mut served = Served { lines, backlog: VecDeque::new() };
        served.deliver(10);
        bell.ring();
        served.deliver(20);
        bell.leave();
        assert_eq!(app.join().unwrap(), (Some(10), Some(20), None));
    });
}

/// Parcels arrive in the order they were posted, from each sender, though the ring is full now and then.
#[test]
fn parcels_keep_their_order_when_the_ring_is_full() {
    sync::every(2, || {
        let ring = Arc::new(ArrayQueue::new(2));
        let other = {
            let ring = ring.clone();
            thread::spawn(move || {
                let mut spill = VecDeque::new();
                for p in [(2, 1), (2, 2)] {
                    post(&ring, &mut spill, p);
                    flush(&ring, &mut spill);
                }
                spill
            })
        };
        let owner = {
            let ring = ring.clone();
            thread::spawn(move || {
                let mut spill = VecDeque::new();
                for p in [(1, 1), (1, 2), (1, 3)] {
                    post(&ring, &mut spill, p);
                    flush(&ring, &mut spill);
                }
                spill
            })
        };
        let mut came = Vec::new();
        for _ in 0..2 {
            came.extend(ring.pop());
        }
        let mut spills = [owner.join().unwrap(), other.join().unwrap()];
        while spills.iter().any(|s| !s.is_empty()) || !ring.is_empty() {
            came.extend(ring.pop());
            spills.iter_mut().for_each(|s| flush(&ring, s));
        }
        let from = |who| came.iter().filter(|p| p.0 == who).map(|p| p.1).collect::<Vec<_>>();
        assert_eq!((from(1), from(2)), (vec![1, 2, 3], vec![1, 2]));
    });
}

/// Each piece of common work is done once, by one lcore, and what a helper did comes home, though the queue is full now and
/// then and both take at once.
#[test]
fn common_work_is_done_once_and_comes_home() {
    sync::every(3, || {
        let queue = Arc::new(ArrayQueue::new(1));
        let home = Arc::new(ArrayQueue::new(2));
        let helper = {
            let (queue, home) = (queue.clone(), home.clone());
            thread::spawn(move || {
                let mut common = Common::new(Some(queue));
                let mut spill = VecDeque::new();
                for _ in 0..3 {
                    match common.take(true) {
                        // Half of it now, half in the next turn.
                        Some(n) if n < 10 => common.keep(n + 10),
                        Some(n) => post(&home, &mut spill, n),
                        None => thread::yield_now(),
                    }
                }
                assert!(spill.is_empty());
                common.take(false)
            })
        };
        let mut common = Common::new(Some(queue.clone()));
        let mut done = Vec::new();
        for n in [1, 2] {
            // Where there is no room it is done here.
            done.extend(common.offer(n).map(|n| n + 10));
        }
        done.extend(common.take(true).map(|n| n + 10));
        done.extend(helper.join().unwrap().map(|n| if n < 10 { n + 10 } else { n }));
        done.extend(std::iter::from_fn(|| home.pop()));
        done.extend(std::iter::from_fn(|| queue.pop()).map(|n| n + 10));
        done.sort_unstable();
        assert_eq!(done, [11, 12]);
    });
}
