//! The client's rules.

use std::collections::HashSet;

use hugepages::PrivatePages;
use transport::lnd::{LnetError, Shards};
use transport::wire::lnet;

use super::*;

fn client(cfg: ClientConfig, ctl: &Arc<Ctl>) -> Client {
    let backing: Arc<dyn Backing> = Arc::new(PrivatePages);
    Client::new(cfg, ctl.clone(), Nid::LO, &backing).unwrap()
}

/// Transfers that a turn at `now` begins, each ended a microsecond later.
fn turn(c: &mut Client, now: u64) -> usize {
    let mut ops = Ops::new();
    c.turn(now, &mut ops);
    let tags: Vec<u64> = ops
        .iter()
        .filter_map(|(_, op)| if let Op::Put { tag, .. } = op { Some(*tag) } else { None })
        .collect();
    for tag in &tags {
        let ack = Event::Ack { tag: *tag, status: Ok(()), mlength: 0, done: true };
        c.event(now + 1000, APP, ack, &mut Ops::new());
    }
    tags.len()
}

#[test]
fn each_lcore_owns_portals_that_no_other_has() {
    for lcores in 1..=16 {
        let all = (0..lcores).flat_map(|me| {
            let Portals { bulk, small, source } = Portals::owned_by(me, lcores);
            let owner = |p: u32| Shards::new(me, lcores).unwrap().owner_of(p).0;
            assert_eq!([bulk, small, source].map(owner), [me; 3], "of {lcores}");
            [bulk, small, source]
        });
        let all: HashSet<u32> = all.filter(|p| (1..lnet::PORTALS).contains(p)).collect();
        assert_eq!(all.len(), 3 * usize::from(lcores));
    }
}

/// Field report 21: when the time is over no transfer is begun, and the one that is half begun is ended.
#[test]
fn no_transfer_is_begun_when_the_time_is_over() {
    let ctl = Arc::new(Ctl::default());
    let cfg = ClientConfig {
        bulk_len: 64,
        pieces: 3,
        tail: 8,
        bulk_flight: 2,
        begin_for: Some(10_000),
        ..ClientConfig::default()
    };
    let mut c = client(cfg, &ctl);
    assert_eq!(turn(&mut c, 500), 0, "nothing is asked for yet");
    ctl.set_traffic(Traffic::BulkChecked);
    // The time begins with the first, however long it took to come to it.
    let begun: Vec<usize> = [1_000_000, 1_009_999, 1_010_000, 1_010_001].map(|t| turn(&mut c, t)).into();
    assert_eq!((begun, ctl.done.load(Ordering::Relaxed)), (vec![2, 2, 2, 0], true), "two transfers of three");
    assert_eq!(ctl.completed.load(Ordering::Relaxed), 6);
}

/// A peer that has gone is asked again, one message at a time, and not as fast as it can be refused.
#[test]
fn after_an_error_one_at_a_time_asks_until_one_ends_well() {
    let ctl = Arc::new(Ctl::default());
    let cfg = ClientConfig { bulk_len: 64, bulk_flight: 3, limit: 9, tags: 700, ..ClientConfig::default() };
    let mut c = client(cfg, &ctl);
    ctl.set_traffic(Traffic::BulkChecked);
    let mut ops = Ops::new();
    let mut begun = |c: &mut Client, now| {
        c.turn(now, &mut ops);
        std::mem::take(&mut ops).len()
    };
    let end = |c: &mut Client, now, tag, status: Result<(), LnetError>| {
        c.event(now, APP, Event::Ack { tag, status, mlength: 0, done: true }, &mut Ops::new());
    };
    assert_eq!(begun(&mut c, 0), 3);
    assert_eq!(c.outstanding().collect::<Vec<_>>(), [700, 701, 702]);
    end(&mut c, 1, 700, Ok(()));
    for tag in [701, 702] {
        end(&mut c, 2, tag, Err(LnetError::NoNi));
    }
    assert_eq!((begun(&mut c, 3), c.patience()), (0, Some(AGAIN - 1)));
    assert_eq!((begun(&mut c, 2 + AGAIN), begun(&mut c, 3 + AGAIN)), (1, 0));
    let again = c.outstanding().next().unwrap();
    end(&mut c, 4 + AGAIN, again, Err(LnetError::Unreachable));
    assert_eq!((begun(&mut c, 5 + AGAIN), begun(&mut c, 4 + 2 * AGAIN)), (0, 1));
    let again = c.outstanding().next().unwrap();
    end(&mut c, 5 + 2 * AGAIN, again, Ok(()));
    assert_eq!(begun(&mut c, 6 + 2 * AGAIN), 3, "as before");
    // Foreign tags are none of its.
    end(&mut c, 7 + 2 * AGAIN, 0, Ok(()));
    assert_eq!(ctl.twice.load(Ordering::Relaxed), 1);
    // Those that failed are among the nine.
    let tags: Vec<u64> = c.outstanding().collect();
    tags.into_iter().for_each(|tag| end(&mut c, 8 + 2 * AGAIN, tag, Ok(())));
    assert_eq!((begun(&mut c, 9 + 2 * AGAIN), ctl.done.load(Ordering::Relaxed)), (1, false));
    let last = c.outstanding().next().unwrap();
    end(&mut c, 10 + 2 * AGAIN, last, Ok(()));
    assert_eq!((begun(&mut c, 11 + 2 * AGAIN), ctl.done.load(Ordering::Relaxed)), (0, true));
    let lost = [(LnetError::NoNi, 2), (LnetError::Unreachable, 1)].map(|(e, n)| (e.to_string(), n));
    assert_eq!((ctl.completed.load(Ordering::Relaxed), ctl.losses()), (6, lost.into()));
}

/// Field report 21: an lcore that was asleep when it was told to begin, and who looks at it later, add nothing.
#[test]
fn a_transfer_takes_from_its_first_beginning_to_its_last_end() {
    let ctl = Arc::new(Ctl::default());
    let mut c =
        client(ClientConfig { bulk_len: 1, bulk_flight: 1, limit: 2, ..ClientConfig::default() }, &ctl);
    ctl.set_traffic(Traffic::BulkChecked);
    for now in [90_000_000, 90_002_000, 190_000_000] {
        turn(&mut c, now);
    }
    assert_eq!(ctl.span().as_nanos(), 3000);
    assert!(ctl.done.load(Ordering::Relaxed));
}

/// Time of a transfer's clock, in ns.
const S: u64 = 1_000_000_000;

/// A client that goes on without answers, its clock, and what it has begun.
struct Going {
    c: Client,
    ctl: Arc<Ctl>,
    now: u64,
}

impl Going {
    fn new(cfg: ClientConfig) -> Going {
        let ctl = Arc::new(Ctl::default());
        let losing = Some(Losing { spare: 5, patience: 10 * S });
        let c = client(ClientConfig { bulk_len: 64, bulk_flight: 3, small_flight: 1, losing, ..cfg }, &ctl);
        ctl.set_traffic(Traffic::BulkChecked);
        Going { c, ctl, now: 7 }
    }

    /// A turn after so many ns; gives the tags of what is begun.
    fn turn(&mut self, after: u64) -> Vec<u64> {
        self.now += after;
        let mut ops = Ops::new();
        self.c.turn(self.now, &mut ops);
        ops.iter()
            .filter_map(|(_, op)| if let Op::Put { tag, .. } = op { Some(*tag) } else { None })
            .collect()
    }

    fn end(&mut self, tag: u64, status: Result<(), LnetError>) {
        let ack = Event::Ack { tag, status, mlength: 0, done: true };
        self.c.event(self.now, APP, ack, &mut Ops::new());
    }

    fn done(&self) -> bool {
        self.ctl.done.load(Ordering::Relaxed)
    }

    fn counts(&self) -> [u64; 3] {
        [&self.ctl.completed, &self.ctl.failed, &self.ctl.twice].map(|c| c.load(Ordering::Relaxed))
    }
}

/// A router died with what it had accepted: no error tells of that.
#[test]
fn without_answers_others_are_begun_beside_those_that_are_out() {
    let mut g = Going::new(ClientConfig::default());
    let first = g.turn(0);
    assert_eq!(
        (first.len(), g.turn(100 * S).len()),
        (3, 0),
        "before the first answer there is nothing to doubt"
    );
    g.end(first[0], Ok(()));
    let lost = [first[1], first[2], g.turn(1)[0]];
    // The longest took 100 s, but half of what a user bears is enough.
    assert_eq!((g.turn(5 * S - 2).len(), g.c.patience()), (0, Some(LOOK)));
    let probe = g.turn(1);
    assert_eq!((probe.len(), g.turn(1).len()), (1, 0), "one asks");
    g.end(probe[0], Err(LnetError::Unreachable));
    assert_eq!((g.turn(1).len(), g.turn(AGAIN).len(), g.turn(1).len()), (0, 1, 0), "one at a time");
    // It has no answer either: another.
    let probe = g.turn(5 * S);
    assert_eq!(probe.len(), 1);
    g.end(probe[0], Ok(()));
    let on = g.turn(1);
    assert_eq!((on.len(), g.done()), (3, false), "all of them go on");
    assert_eq!(g.c.outstanding().count(), 7, "the lost ones are the node's still");
    // Those that have no answer are lost in the end, each once.
    for tag in on {
        g.end(tag, Ok(()));
    }
    assert_eq!(g.counts(), [5, 1, 0]);
    g.turn(400 * S);
    assert_eq!((g.counts(), g.ctl.losses()[1].clone()), ([5, 5, 0], (NO_ANSWER.to_owned(), 4)));
    g.end(lost[0], Ok(()));
    g.end(lost[1], Err(LnetError::TimedOut));
    assert_eq!(
        (g.counts(), g.c.outstanding().count()),
        ([5, 5, 0], 5),
        "what the node says then gives places back"
    );
    // There is an end of the places, not of the turn.
    (0..20).for_each(|_| drop(g.turn(100 * S)));
    assert!(g.c.outstanding().count() <= 8);
}

#[test]
fn an_end_in_time_waits_for_answers_as_long_as_they_come() {
    let mut g = Going::new(ClientConfig { begin_for: Some(2 * S), ..ClientConfig::default() });
    let [a, b, c] = g.turn(0)[..] else { panic!() };
    g.end(c, Ok(()));
    let d = g.turn(1)[0];
    for (after, tag, begun) in [(9 * S / 10, a, 1), (6 * S / 10, b, 1), (9 * S / 10, d, 0)] {
        g.turn(after);
        g.end(tag, Ok(()));
        assert_eq!(g.turn(0).len(), begun);
    }
    // The longest took some 2 s; others may take as long.
    g.turn(4 * S);
    assert_eq!((g.done(), g.counts()), (false, [4, 0, 0]));
    g.turn(S);
    assert_eq!((g.done(), g.counts()), (true, [4, 2, 0]));
    assert_eq!(g.ctl.outstanding(), 0, "each has ended, one way or the other");
    // While nothing ends a transfer that is half begun is not ended.
    let cfg = ClientConfig { pieces: 70, tail: 8, begin_for: Some(2 * S), ..ClientConfig::default() };
    let mut g = Going::new(cfg);
    let first = g.turn(0);
    g.end(first[0], Ok(()));
    assert_eq!((g.turn(1).len(), g.turn(S).len()), (1, 1));
    assert_eq!((g.turn(S - 2).len(), g.done()), (0, false));
    assert_eq!((g.turn(2).len(), g.done(), g.counts()), (0, true, [1, 4, 0]));
    // Nobody has ever answered.
    let mut g = Going::new(ClientConfig { begin_for: Some(S), ..ClientConfig::default() });
    g.turn(0);
    g.turn(3 * S - 1);
    assert!(!g.done());
    g.turn(1);
    assert_eq!((g.done(), g.counts()), (true, [0, 3, 0]));
}

#[test]
fn the_last_of_a_number_may_be_lost_too() {
    let mut g = Going::new(ClientConfig { limit: 3, ..ClientConfig::default() });
    let first = g.turn(0);
    g.end(first[0], Ok(()));
    g.turn(S);
    g.turn(8 * S);
    assert_eq!((g.done(), g.counts()), (false, [1, 0, 0]));
    g.turn(S);
    assert_eq!((g.done(), g.counts()), (true, [1, 2, 0]));
}
