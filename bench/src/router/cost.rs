//! `pollnd bench router`: what a router costs beside the two ends that it joins.
//!
//! A round measures the same ends on one link and with a router between, over virtio links that all are on one lcore, and over
//! kernel sockets that block when idle. The CPU time that a Gbit takes more with the router is the router's own. Two links carry it
//! then and one before, so the second link's work is the router's, too, on either side.

use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::ctl::{Ctl, Load, Traffic};
use crate::figures::{Figure, Row, rows};
use crate::measure::{MeasureError, Stretch, last_rtt, stretch, wait_for};
use crate::report::{RanOn, many};

/// Traffic between two ends.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Side {
    /// PUTs of 1 MiB.
    pub bulk: Stretch,
    /// PUTs of 64 bytes.
    pub small: Stretch,
    /// Median of the round trips of one such PUT in flight and its ACK, in us.
    pub p50_us: f64,
    /// The same of a PUT of 1 MiB.
    pub long_p50_us: f64,
}

impl Side {
    /// Measures nodes that run, each kind of traffic for `secs`.
    ///
    /// # Errors
    /// As [`stretch`].
    pub fn of(ctl: &Ctl, secs: f64) -> Result<Side, MeasureError> {
        wait_for(ctl, "the server", 10, || ctl.ready.load(Ordering::Acquire))?;
        let bulk = stretch(ctl, Traffic::Bulk, secs, &mut |_| ())?;
        let small = stretch(ctl, Traffic::Rate, secs, &mut |_| ())?;
        stretch(ctl, Traffic::Rtt, secs, &mut |_| ())?;
        // The client gives its histogram away before it is quiet.
        let p50_us = last_rtt(ctl).p50_us;
        Ok(Side { bulk, small, p50_us, long_p50_us: long(ctl, secs)? })
    }

    /// Measures round trips of 64 bytes alone.
    ///
    /// # Errors
    /// As [`stretch`].
    pub fn of_round_trips(ctl: &Ctl, secs: f64) -> Result<Side, MeasureError> {
        wait_for(ctl, "the server", 10, || ctl.ready.load(Ordering::Acquire))?;
        stretch(ctl, Traffic::Rtt, secs, &mut |_| ())?;
        Ok(Side { p50_us: last_rtt(ctl).p50_us, ..Side::default() })
    }
}

/// Median of the round trips of one PUT of 1 MiB in flight and its ACK, in us.
fn long(ctl: &Ctl, secs: f64) -> Result<f64, MeasureError> {
    ctl.set_load(Some(Load { len: LONG, flight: 1 }));
    stretch(ctl, Traffic::Bulk, secs, &mut |_| ())?;
    ctl.set_load(None);
    Ok(last_rtt(ctl).p50_us)
}

/// Payload of a long PUT, in bytes.
const LONG: usize = 1 << 20;

/// The same ends without a router and with one.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Beside {
    /// One hop.
    pub direct: Side,
    /// Two, and the router between.
    pub through: Side,
    /// The same where the router sends long messages on before they are whole.
    pub cut: Side,
}

impl Beside {
    /// CPU seconds that a Gbit takes at the two ends, and that it takes more through the router.
    fn costs(&self) -> (f64, f64) {
        let [direct, through] = [&self.direct, &self.through].map(|s| 1.0 / s.bulk.gbit_per_cpu_s());
        (direct, through - direct)
    }

    /// Gbit a CPU second of the router; infinite where the difference says that it costs nothing.
    fn router(&self) -> f64 {
        per(1.0, self.costs().1)
    }

    /// The same, to that of the two ends.
    fn against_ends(&self) -> f64 {
        let (ends, router) = self.costs();
        per(ends, router)
    }

    fn added_us(&self) -> f64 {
        self.through.p50_us - self.direct.p50_us
    }

    /// Time that a router adds to the round trip of 1 MiB, to that of one hop: stored, and cut through.
    fn added_to_long(&self) -> [f64; 2] {
        [&self.through, &self.cut].map(|s| s.long_p50_us).map(|us| us / self.direct.long_p50_us - 1.0)
    }
}

fn per(what: f64, cost: f64) -> f64 {
    if cost > 0.0 { what / cost } else { f64::INFINITY }
}

/// Medians of round trips of 64 bytes, in us, where each node polls on a core of its own or with one that is not its neighbour.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Apart {
    /// One hop: an lcore for each end.
    pub direct_us: f64,
    /// Two: an lcore for the router, one for both ends.
    pub through_us: f64,
}

impl Apart {
    fn added_us(&self) -> f64 {
        self.through_us - self.direct_us
    }
}

/// One round.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Round {
    /// Over virtio links between two lcores; absent without links or a second CPU.
    pub apart: Option<Apart>,
    /// Over virtio links; absent without them.
    pub link: Option<Beside>,
    /// Over kernel sockets.
    pub sockets: Beside,
}

/// The whole bench.
#[derive(Clone, Debug, Serialize)]
pub struct Router {
    /// Every round, in order.
    pub rounds: Vec<Round>,
    /// Figures over them; infinite ones are null.
    pub figures: Vec<Row>,
    /// Payload bytes that the router between virtio links copied.
    pub copied: u64,
    /// Nothing was lost in any round.
    pub nothing_lost: bool,
    /// Load of the machine before and after.
    pub load: [f64; 2],
    /// The machine.
    pub ran_on: RanOn,
}

fn cpu(s: &Stretch) -> f64 {
    s.gbit_per_cpu_s()
}

fn k_per_s(s: &Stretch) -> f64 {
    s.rate() / 1000.0
}

const GBIT: &str = "Gbit/CPU s";
const KILO: &str = "k/s";

const FIGURES: [Figure<Round>; 36] = [
    ("link: 1 MiB PUTs, one hop", GBIT, |r| Some(cpu(&r.link?.direct.bulk))),
    ("link: 1 MiB PUTs through a router", GBIT, |r| Some(cpu(&r.link?.through.bulk))),
    ("link: the router by itself", GBIT, |r| Some(r.link?.router())),
    ("link: the router to the two ends", "x", |r| Some(r.link?.against_ends())),
    ("sockets: 1 MiB PUTs, one hop", GBIT, |r| Some(cpu(&r.sockets.direct.bulk))),
    ("sockets: 1 MiB PUTs through a router", GBIT, |r| Some(cpu(&r.sockets.through.bulk))),
    ("sockets: the router by itself", GBIT, |r| Some(r.sockets.router())),
    ("the link's router to that of sockets", "x", |r| Some(r.link?.router() / r.sockets.router())),
    ("link: 64 B PUTs, one hop", KILO, |r| Some(k_per_s(&r.link?.direct.small))),
    ("link: 64 B PUTs through a router", KILO, |r| Some(k_per_s(&r.link?.through.small))),
    ("sockets: 64 B PUTs, one hop", KILO, |r| Some(k_per_s(&r.sockets.direct.small))),
    ("sockets: 64 B PUTs through a router", KILO, |r| Some(k_per_s(&r.sockets.through.small))),
    ("link: p50 of a 64 B PUT + ACK, one hop", "us", |r| Some(r.link?.direct.p50_us)),
    ("link: p50 of the same through a router", "us", |r| Some(r.link?.through.p50_us)),
    ("link: added by the router", "us", |r| Some(r.link?.added_us())),
    ("link: added, to one hop", "x", |r| Some(r.link?.added_us() / r.link?.direct.p50_us)),
    ("two lcores: p50 of a 64 B PUT + ACK, one hop", "us", |r| Some(r.apart?.direct_us)),
    ("two lcores: p50 of the same through a router", "us", |r| Some(r.apart?.through_us)),
    ("two lcores: added by the router", "us", |r| Some(r.apart?.added_us())),
    ("two lcores: added, to one hop", "x", |r| Some(r.apart?.added_us() / r.apart?.direct_us)),
    ("sockets: p50 of a 64 B PUT + ACK, one hop", "us", |r| Some(r.sockets.direct.p50_us)),
    ("sockets: p50 of the same through a router", "us", |r| Some(r.sockets.through.p50_us)),
    ("sockets: added by the router", "us", |r| Some(r.sockets.added_us())),
    ("sockets: added, to one hop", "x", |r| Some(r.sockets.added_us() / r.sockets.direct.p50_us)),
    ("link: 1 MiB PUTs, cut through", GBIT, |r| Some(cpu(&r.link?.cut.bulk))),
    ("sockets: 1 MiB PUTs, cut through", GBIT, |r| Some(cpu(&r.sockets.cut.bulk))),
    ("link: p50 of a 1 MiB PUT + ACK, one hop", "us", |r| Some(r.link?.direct.long_p50_us)),
    ("link: p50 of the same, stored by a router", "us", |r| Some(r.link?.through.long_p50_us)),
    ("link: p50 of the same, cut through", "us", |r| Some(r.link?.cut.long_p50_us)),
    ("link: added where it is stored, to one hop", "x", |r| Some(r.link?.added_to_long()[0])),
    ("link: added where it is cut through, to one hop", "x", |r| Some(r.link?.added_to_long()[1])),
    ("sockets: p50 of a 1 MiB PUT + ACK, one hop", "us", |r| Some(r.sockets.direct.long_p50_us)),
    ("sockets: p50 of the same, stored by a router", "us", |r| Some(r.sockets.through.long_p50_us)),
    ("sockets: p50 of the same, cut through", "us", |r| Some(r.sockets.cut.long_p50_us)),
    ("sockets: added where it is stored, to one hop", "x", |r| Some(r.sockets.added_to_long()[0])),
    ("sockets: added where it is cut through, to one hop", "x", |r| Some(r.sockets.added_to_long()[1])),
];

/// Figures that every round has.
pub fn figures(rounds: &[Round]) -> Vec<Row> {
    rows(&FIGURES, rounds)
}

/// Word about a router that seems to take less than no time.
const NOISE: &str = "\n  What is added is the difference of two round trips: where it is below 0 they vary by more than the router adds. More \
                     rounds\n  and an idle machine tell it.\n";

impl Router {
    /// The table.
    pub fn table(&self) -> String {
        let mut t = format!("\n  {:<50} {:>9} {:>9} {:>9}\n", "", "median", "lowest", "highest");
        for r in &self.figures {
            let [low, high] = r.range;
            t += &format!("  {:<50} {:>9.3} {low:>9.3} {high:>9.3}  {}\n", r.name, r.median, r.unit);
        }
        let link = self.ran_on.lcores > 0;
        let copied = if link {
            format!("; {} copied at the link's router", many(self.copied, "byte"))
        } else {
            String::new()
        };
        if self.figures.iter().any(|r| r.range[0] < 0.0) {
            t += NOISE;
        }
        let what = format!("medians of {}{copied}", many(self.rounds.len() as u64, "round"));
        t + &self.ran_on.foot(self.nothing_lost, &what, self.load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(cpu_s: f64, p50_us: f64) -> Side {
        let bulk = Stretch { wall_s: 1.0, cpu_s, messages: 1000, bytes: 125_000_000 };
        Side { bulk, small: Stretch { wall_s: 0.5, ..bulk }, p50_us, long_p50_us: 100.0 * p50_us }
    }

    fn told(rounds: &[Round]) -> Vec<(&'static str, f64)> {
        figures(rounds).iter().map(|r| (r.name, r.median)).collect()
    }

    #[test]
    fn a_router_costs_what_a_gbit_takes_more_through_it() {
        let link = Beside { direct: side(0.5, 3.0), through: side(0.75, 5.0), cut: side(0.75, 3.75) };
        let sockets = Beside { direct: side(1.0, 9.0), through: side(2.0, 19.0), cut: side(2.0, 9.0) };
        let apart = Some(Apart { direct_us: 4.0, through_us: 7.0 });
        let all = told(&[Round { apart, link: Some(link), sockets }]);
        let of = |name| all.iter().find(|(n, _)| *n == name).unwrap().1;
        assert_eq!(of("link: the router by itself"), 4.0);
        assert_eq!(of("link: the router to the two ends"), 2.0);
        assert_eq!(of("sockets: the router by itself"), 1.0);
        assert_eq!(of("the link's router to that of sockets"), 4.0);
        assert_eq!(of("link: 64 B PUTs through a router"), 2.0);
        assert_eq!([of("link: added by the router"), of("sockets: added by the router")], [2.0, 10.0]);
        assert_eq!([of("two lcores: added by the router"), of("two lcores: added, to one hop")], [3.0, 0.75]);
        assert_eq!(of("link: added where it is stored, to one hop"), 5.0 / 3.0 - 1.0);
        assert_eq!(of("link: added where it is cut through, to one hop"), 0.25);
        assert_eq!(of("sockets: added where it is cut through, to one hop"), 0.0);
    }

    #[test]
    fn a_router_that_seems_to_take_less_than_no_time_is_told_as_noise() {
        let table = |through| {
            let sockets =
                Beside { direct: side(1.0, 9.0), through: side(2.0, through), cut: side(2.0, through) };
            let rounds = vec![Round { sockets, ..Round::default() }];
            let (copied, nothing_lost, load, ran_on) = (0, true, [0.0; 2], RanOn::default());
            Router { figures: figures(&rounds), rounds, copied, nothing_lost, load, ran_on }.table()
        };
        assert!(table(6.0).contains("more than the router adds"), "{}", table(6.0));
        assert!(!table(19.0).contains("more than the router adds"));
    }

    #[test]
    fn a_round_in_which_it_seems_to_cost_nothing_counts_as_the_best() {
        let round = |through| {
            let sockets =
                Beside { direct: side(1.0, 9.0), through: side(through, 19.0), cut: side(2.0, 9.0) };
            Round { sockets, ..Round::default() }
        };
        let f = figures(&[round(0.9), round(2.0), round(3.0)]);
        let router = f.iter().find(|r| r.name == "sockets: the router by itself").unwrap();
        assert_eq!((router.median, router.range), (1.0, [0.5, f64::INFINITY]));
        assert!(
            f.iter().all(|r| !r.name.starts_with("link") && !r.name.starts_with("two")),
            "there is no link"
        );
    }
}
