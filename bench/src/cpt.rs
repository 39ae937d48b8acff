//! `pollnd bench cpt`: what the second lcore of a CPT is good for when all bulk comes over one connection set.
//!
//! A node of two lcores, of which one owns the queue, takes bulk PUTs in from a node that only sends. All three are
//! turned by one thread over the in-memory port, so neither a second core nor a quiet machine is needed: each lcore has a
//! clock, its turns' CPU time moves it on, and the lcore that is behind has the next turn. One that finds nothing waits for
//! the other. A node's throughput is what the clocks say of a message.
//!
//! Told are: the home where the queue is, so that one lcore does all; the same with large messages in boxes, for whichever
//! lcore has time to copy and sum; and the home on the other lcore, so that TCP and message work are apart.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dataplane::mem::{MemConfig, MemPort, pair};
use hugepages::{Backing, PrivatePages};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use transport::lnd::Shards;
use transport::node::lcore::LcoreStreams;
use transport::node::{BuildError, Lcores, NoApp, NodeEnd, Shard, Turn};
use transport::stream::{Bucket, ShardId};
use transport::wire::Version;

use crate::ctl::{Ctl, Traffic};
use crate::inmem::{SERVER, Time, builder, nid, stack};
use crate::measure::MeasureError;
use crate::repeat::{Spread, median};
use crate::report::many;
use crate::workload::{Client, ClientConfig, Intake, Server};

/// Rounds of turns after which something that did not happen is given up.
const PATIENCE: u64 = 2_000_000;
/// Messages before a measurement.
const WARM_UP: u64 = 64;
/// The lcores of the node that is measured.
const LCORES: u16 = 2;
/// The in-memory port's receive buffers: a window of 16 MiB in segments of 9000 bytes, and as many again to lend.
const BUFFERS: usize = 8192;

fn thread_time() -> Duration {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec.unsigned_abs(), t.tv_nsec.unsigned_abs() as u32)
}

/// Treatment of payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// Lent to the application in the buffers that it came in.
    Lent,
    /// Copied into an MD.
    Copied,
    /// Copied, and summed: V2 with checksums.
    Summed,
}

impl Payload {
    /// All of them.
    pub const ALL: [Payload; 3] = [Payload::Lent, Payload::Copied, Payload::Summed];

    fn name(self) -> &'static str {
        match self {
            Payload::Lent => "lent",
            Payload::Copied => "copied",
            Payload::Summed => "copied and summed",
        }
    }
}

/// Time of a message, in us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// CPU time of the lcore with the queue.
    pub queue_us: f64,
    /// Of the other one.
    pub other_us: f64,
    /// From message to message, with both at work.
    pub message_us: f64,
}

/// One round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Round {
    /// The home is where the queue is: one lcore does all.
    pub fixed: Cost,
    /// The same, with boxes.
    pub boxed: Cost,
    /// The home has moved.
    pub moved: Cost,
}

impl Round {
    /// Throughput that the move makes possible, as a multiple of one lcore's.
    pub fn gain_moved(&self) -> f64 {
        self.fixed.message_us / self.moved.message_us.max(1e-9)
    }

    /// Number of times; number of boxes.
    pub fn gain_boxed(&self) -> f64 {
        self.fixed.message_us / self.boxed.message_us.max(1e-9)
    }
}

/// A way of taking payload in, over all rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Treatment of payload.
    pub payload: Payload,
    /// Medians.
    pub median: Round,
    /// By boxes.
    pub boxed: Spread,
    /// By moving the home.
    pub moved: Spread,
}

impl Row {
    /// Of the rounds.
    pub fn of(payload: Payload, rounds: &[Round]) -> Row {
        let all = |f: &dyn Fn(&Round) -> f64| rounds.iter().map(f).collect::<Vec<_>>();
        let cost = |f: &dyn Fn(&Round) -> Cost| Cost {
            queue_us: median(&all(&|r| f(r).queue_us)),
            other_us: median(&all(&|r| f(r).other_us)),
            message_us: median(&all(&|r| f(r).message_us)),
        };
        Row {
            payload,
            median: Round { fixed: cost(&|r| r.fixed), boxed: cost(&|r| r.boxed), moved: cost(&|r| r.moved) },
            boxed: Spread::of(&all(&Round::gain_boxed)),
            moved: Spread::of(&all(&Round::gain_moved)),
        }
    }
}

/// The whole bench.
#[derive(Clone, Debug, Serialize)]
pub struct Cpt {
    /// Bytes of a message.
    pub size: usize,
    /// Messages measured in each part of a round.
    pub messages: u64,
    /// Rounds.
    pub rounds: u32,
    /// By what is done with payload.
    pub rows: Vec<Row>,
}

impl Cpt {
    /// The table.
    pub fn table(&self) -> String {
        let mut t = format!(
            "\n  PUTs of {} bytes into a node of two lcores: us a message takes, and CPU us of it on each lcore\n\
             \n  payload                          message    queue    other   gain (lowest - highest)\n",
            self.size
        );
        for r in &self.rows {
            let m = &r.median;
            let ways = [
                ("home at the queue", m.fixed, None),
                ("  boxes", m.boxed, Some(r.boxed)),
                ("  home moved", m.moved, Some(r.moved)),
            ];
            t += &format!("  {}\n", r.payload.name());
            for (name, c, gain) in ways {
                t += &format!("    {name:<28} {:>7.1} {:>8.1} {:>8.1}", c.message_us, c.queue_us, c.other_us);
                if let Some(Spread { median, range: [low, high] }) = gain {
                    t += &format!("   {median:.2} x ({low:.2} - {high:.2})");
                }
                t.push('\n');
            }
        }
        t + &format!(
            "  medians of {} of {}; one thread, a clock for each lcore\n",
            many(self.rounds.into(), "round"),
            many(self.messages, "message")
        )
    }
}

type Node<A> = Shard<LcoreStreams<MemPort>, A>;

/// The node of two lcores, and who sends to it.
struct Bench {
    ctl: Arc<Ctl>,
    time: Time,
    client: Shard<LcoreStreams<MemPort>, Client>,
    queue: Node<Server>,
    other: Node<NoApp>,
    bucket: Bucket,
    spent: [Duration; 2],
    clocks: [Duration; 2],
}

impl Bench {
    fn new(payload: Payload, size: usize) -> Result<Bench, String> {
        let (ctl, time) = (Arc::new(Ctl::default()), Time::new());
        let backing: Arc<dyn Backing> = Arc::new(PrivatePages);
        let mem = MemConfig { rx_bufs: BUFFERS, ..MemConfig::default() };
        let (a, b) = pair(&mem);
        let shards = Shards::new(0, LCORES).map_err(|e| e.to_string())?;
        let ip = (2..=250)
            .map(|i| Ipv4Addr::new(10, 78, 0, i))
            .find(|ip| *ip != SERVER && shards.home_of(IpAddr::V4(*ip)) == ShardId(0));
        let ip = ip.ok_or("no address whose home is the first lcore")?;
        let load = ClientConfig { bulk_len: size, ..ClientConfig::default() };
        let app = Client::new(load, ctl.clone(), nid(SERVER), &backing).map_err(|e| e.to_string())?;
        let summed = payload == Payload::Summed;
        let client = builder(ip, &time).config(|c| {
            c.enable_csum = summed;
            c.version = summed.then_some(Version::V2);
        });
        let said = |e: BuildError| e.to_string();
        let client = client.listen_at([]).over(stack(ip, a)?, app).map_err(said)?;
        let intake = if payload == Payload::Lent { Intake::Lent } else { Intake::Copied };
        let server = Server::new(ctl.clone(), intake, &backing).map_err(|e| e.to_string())?;
        let lcores = Lcores::new(LCORES, (mem.rx_buf * mem.rx_bufs) as u64, mem.rx_bufs);
        let node = builder(SERVER, &time).lcores(Lcores { queues: 1, ..lcores }).plan().map_err(said)?;
        let own = node.lcore(ShardId(0), stack(SERVER, b)?).map_err(said)?;
        let queue = node.meshed(ShardId(0), Some(own), server).map_err(said)?;
        let other = node.meshed(ShardId(1), None, NoApp).map_err(said)?;
        let bucket = Bucket::of(IpAddr::V4(ip));
        Ok(Bench {
            ctl,
            time,
            client,
            queue,
            other,
            bucket,
            spent: [Duration::ZERO; 2],
            clocks: [Duration::ZERO; 2],
        })
    }

    fn turn(&mut self) {
        self.time.step();
        self.client.turn();
        let i = usize::from(self.clocks[1] < self.clocks[0]);
        let from = thread_time();
        let work = if i == 0 { self.queue.turn() } else { self.other.turn() };
        let took = thread_time().saturating_sub(from);
        if work.is_busy() {
            self.spent[i] += took;
            self.clocks[i] += took;
        } else {
            self.clocks[i] = self.clocks[1 - i].max(self.clocks[i]) + Duration::from_nanos(1);
        }
    }

    fn time(&self) -> Duration {
        self.clocks[0].max(self.clocks[1])
    }

    fn until(&mut self, what: &'static str, done: impl Fn(&Bench) -> bool) -> Result<(), MeasureError> {
        for _ in 0..PATIENCE {
            if done(self) {
                return Ok(());
            }
            if let Some(e) = self.ctl.first_error() {
                return Err(MeasureError::Failed(e));
            }
            self.turn();
        }
        Err(MeasureError::Stuck { what, secs: PATIENCE * crate::inmem::TURN_NS / 1_000_000_000 })
    }

    fn messages(&mut self, n: u64) -> Result<(), MeasureError> {
        let goal = self.ctl.arrived.load(Ordering::Relaxed) + n;
        self.until("messages", |b| b.ctl.arrived.load(Ordering::Relaxed) >= goal)
    }

    fn cost(&mut self, n: u64) -> Result<Cost, MeasureError> {
        self.messages(WARM_UP)?;
        self.spent = [Duration::ZERO; 2];
        let from = self.time();
        self.messages(n)?;
        let us = |d: Duration| d.as_secs_f64() * 1e6 / n as f64;
        let message_us = us(self.time() - from);
        Ok(Cost { queue_us: us(self.spent[0]), other_us: us(self.spent[1]), message_us })
    }

    fn round(&mut self, n: u64) -> Result<Round, MeasureError> {
        self.until("the server", |b| b.ctl.ready.load(Ordering::Acquire))?;
        self.ctl.set_traffic(Traffic::Bulk);
        let fixed = self.cost(n)?;
        self.queue.offload(true);
        let boxed = self.cost(n)?;
        self.queue.offload(false);
        self.until("the last box", |x| x.queue.machine.gauges().copy_jobs == 0)?;
        let b = self.bucket;
        if !self.queue.move_home(b, ShardId(1)) {
            return Err(MeasureError::Failed("the home could not be moved".into()));
        }
        self.until("the move", |x| x.other.machine.home_of(b) == ShardId(1))?;
        let moved = self.cost(n)?;
        Ok(Round { fixed, boxed, moved })
    }

    fn stop(mut self) -> Result<Vec<NodeEnd>, MeasureError> {
        self.ctl.set_traffic(Traffic::Quiet);
        self.until("rest", |b| b.ctl.is_quiet())?;
        self.client.shut_down();
        self.queue.shut_down();
        self.other.shut_down();
        self.until("the end of the nodes", |b| b.client.is_down() && b.queue.is_down() && b.other.is_down())?;
        (0..16).for_each(|_| self.turn());
        Ok(vec![Turn::end(&self.client), Turn::end(&self.queue), Turn::end(&self.other)])
    }
}

/// Measures one way of taking payload in: `n` messages of `size` bytes (up to 1 MiB) with the home at the queue, as many
/// with boxes, as many with the home moved.
///
/// # Errors
/// No memory, an operation failed, or something was lost.
pub fn measure(payload: Payload, n: u64, size: usize) -> Result<Round, String> {
    let mut b = Bench::new(payload, size)?;
    let ctl = b.ctl.clone();
    let round = b.round(n).map_err(|e| e.to_string())?;
    let ends = b.stop().map_err(|e| e.to_string())?;
    let lost = crate::pair::NothingLost::of(&ctl, &ends);
    if lost.ok { Ok(round) } else { Err(format!("something was lost: {lost:?}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_is_shared_and_nothing_lost() {
        for payload in Payload::ALL {
            let r = measure(payload, 64, 1 << 20).unwrap();
            assert_eq!(r.fixed.other_us, 0.0, "{payload:?}: the other lcore had nothing to do");
            assert!(r.moved.other_us > 0.0 && r.moved.queue_us > 0.0, "{payload:?}: {r:?}");
            assert_eq!(r.boxed.other_us > 0.0, payload != Payload::Lent, "{payload:?}: {r:?}");
        }
    }

    #[test]
    fn gains_are_of_what_a_message_takes() {
        let cost = |message_us| Cost { message_us, ..Cost::default() };
        let r = Round { fixed: cost(100.0), boxed: cost(40.0), moved: cost(50.0) };
        assert_eq!((r.gain_boxed(), r.gain_moved()), (2.5, 2.0));
        let row = Row::of(Payload::Copied, &[r, Round { fixed: cost(200.0), ..r }, r]);
        assert_eq!((row.moved.median, row.moved.range, row.boxed.median), (2.0, [2.0, 4.0], 2.5));
    }
}
