//! Parameters of a run.

use std::net::{Ipv4Addr, Ipv6Addr};

use dataplane::link::{LinkConfig, Path};

use super::app::{Reader, Writer};
use crate::StackConfig;

/// A microsecond in ns.
pub const US: u64 = 1_000;
/// A millisecond in ns.
pub const MS: u64 = 1_000_000;
/// A second in ns.
pub const SEC: u64 = 1_000_000_000;

/// A connection and what its ends do.
#[derive(Clone, Debug, PartialEq)]
pub struct Conn {
    /// The host that dials.
    pub from: usize,
    /// The host that listens.
    pub to: usize,
    /// Time at which it is dialled, in ns from the start.
    pub at: u64,
    /// Over IPv6.
    pub v6: bool,
    /// Traffic of the dialling end, and of the other.
    pub writers: [Writer; 2],
    /// Reading habits of the dialling end and of the other.
    pub readers: [Reader; 2],
}

impl Default for Conn {
    fn default() -> Conn {
        Conn { from: 0, to: 1, at: 0, v6: false, writers: [Writer::Silent; 2], readers: [Reader::Eager; 2] }
    }
}

/// A host that is not run for a while, again and again: its vCPU is stolen, its ring fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Mean time between pauses, in ns.
    pub every: u64,
    /// Longest pause, in ns.
    pub most: u64,
}

/// Time at which a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Time at which every writer is done; one that takes longer than so many ns has failed.
    Done(u64),
    /// Writers stop at `at` ns; goodput counts from `warm` ns on. What is on its way then still has to arrive.
    At {
        /// Start of the measurement.
        warm: u64,
        /// Its end.
        at: u64,
    },
}

/// A whole run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where all draws come from.
    pub seed: u64,
    /// The network, one path towards each host.
    pub link: LinkConfig,
    /// The stacks, 10.0.0.1 and fd00::1 and up.
    pub stacks: Vec<StackConfig>,
    /// The connections.
    pub conns: Vec<Conn>,
    /// Pauses of each host.
    pub pauses: Vec<Option<Pause>>,
    /// From one turn of a busy host to the next, in ns.
    pub turn: u64,
    /// The end.
    pub stop: Stop,
    /// Virtual time after which what should be quiet is not, in ns from the start.
    pub limit: u64,
}

impl Scenario {
    /// Two hosts on a perfect link, and nothing to do.
    pub fn new(seed: u64) -> Scenario {
        Scenario {
            seed,
            link: LinkConfig::default(),
            stacks: (1..=2).map(|n| Scenario::stack(n, seed)).collect(),
            conns: Vec::new(),
            pauses: vec![None; 2],
            turn: 500,
            stop: Stop::Done(600 * SEC),
            limit: 1200 * SEC,
        }
    }

    /// The configuration of host `n` (from 1), sequence numbers from the seed.
    pub fn stack(n: u8, seed: u64) -> StackConfig {
        let secret = Some([u64::from(n) * 77, seed ^ 0xfeed]);
        let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n));
        let mut c = StackConfig { secret, ..StackConfig::new(Ipv4Addr::new(10, 0, 0, n), 24) };
        c.addrs.push((v6.into(), 64));
        c
    }

    /// With a line of `rate` bit/s, a round trip of `rtt` ns and an MTU of `mtu` bytes.
    #[must_use]
    pub fn with_link(mut self, rate: u64, rtt: u64, mtu: u16) -> Scenario {
        self.link.line = rate;
        self.link.mem.mtu = mtu;
        self.link.mem.rx_buf = if mtu > 2000 { 9216 } else { 2048 };
        self.link.mem.rx_bufs = 8192;
        self.each_path(|p| p.faults.delay_ns = rtt / 2)
    }

    /// With random loss both ways.
    #[must_use]
    pub fn with_loss(self, loss: f64) -> Scenario {
        self.each_path(|p| p.faults.loss = loss)
    }

    /// With a change to every path.
    #[must_use]
    pub fn each_path(mut self, f: impl Fn(&mut Path)) -> Scenario {
        self.link.paths.iter_mut().for_each(f);
        self
    }

    /// With a change to every stack's configuration.
    #[must_use]
    pub fn each_stack(mut self, f: impl Fn(&mut StackConfig)) -> Scenario {
        self.stacks.iter_mut().for_each(f);
        self
    }

    /// With one more connection.
    #[must_use]
    pub fn with(mut self, c: Conn) -> Scenario {
        self.conns.push(c);
        self
    }

    /// One connection that sends for ever, measured from `warm` to `at` (ns).
    #[must_use]
    pub fn bulk_for(mut self, warm: u64, at: u64) -> Scenario {
        self.stop = Stop::At { warm, at };
        self.with(Conn { writers: [Writer::bulk(u64::MAX), Writer::Silent], ..Conn::default() })
    }
}
