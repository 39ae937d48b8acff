//! Goodput that is promised over a lossy network: 25 Gbit/s, a round trip of 40 us, MTU 9000, a window of 1 MiB.
//!
//! Virtual time, so the figures are the code's and repeat exactly. `pollnd bench tcp-sim` tells more.

use tcpstack::testing::{MS, Outcome, Scenario, US, run};

/// Median goodput in Gbit/s, and the run that has it.
fn median(change: impl Fn(Scenario) -> Scenario) -> (f64, Outcome) {
    let one = |seed| {
        let s = Scenario::new(seed).with_link(25_000_000_000, 40 * US, 9000).bulk_for(10 * MS, 100 * MS);
        run(&change(s)).unwrap()
    };
    let mut all: Vec<Outcome> = (1..=5).map(one).collect();
    all.sort_by(|a, b| a.goodput[1].total_cmp(&b.goodput[1]));
    let mid = all.swap_remove(2);
    let gbps = mid.goodput[1] * 1e-9;
    println!(
        "{gbps:.2} Gbit/s, {:?}, {} RTOs, {} fast",
        mid.resends[0],
        mid.count(0, "rto"),
        mid.count(0, "fast_recoveries")
    );
    (gbps, mid)
}

#[test]
fn goodput_at_random_loss() {
    for (loss, least) in [(0.0, 24.5), (0.001, 24.0), (0.01, 18.0), (0.05, 5.0)] {
        let (gbps, _) = median(|s| s.with_loss(loss));
        assert!(gbps >= least, "loss {loss}: {gbps:.2} Gbit/s, at least {least} are promised");
    }
}

#[test]
fn reordering_is_not_taken_for_loss() {
    let (gbps, o) = median(|mut s| {
        (s.link.paths[1].faults.reorder, s.link.paths[1].faults.reorder_ns) = (0.02, 40 * US);
        s
    });
    assert!(o.links[1].reordered > 100, "{:?}", o.links);
    assert!(o.needless(0) < 0.01 && gbps > 20.0, "{gbps:.2} Gbit/s, {:?}", o.resends[0]);
}
