//! Whatever happens, each operation ends once and everything comes home.

use std::collections::BTreeMap;

use proptest::prelude::*;
use transport::lnd::{Config, Sink};
use transport::lnet::{Event, MdMem, MdSpec, MeId, Op};
use transport::testing::data::{Spot, pages, run};
use transport::testing::net::{Net, SEC};
use transport::testing::pair::{id, nid};

fn config(n: usize, epoch: u64) -> Config {
    Config { peer_credits: 3, ni_credits: 2, tx_window: 100_000, ..Config::new(nid(n as u8 + 1), epoch) }
}

#[derive(Clone, Debug)]
enum Step {
    Put {
        from: usize,
        to: usize,
        len: u32,
        ack: bool,
        portal: u32,
    },
    Get {
        from: usize,
        to: usize,
        len: u32,
        portal: u32,
        lend: bool,
    },
    Ping {
        from: usize,
        to: usize,
    },
    /// Of node 0's entries.
    Unlink(usize),
    Attach(u32),
    /// Node 1 or 2, with RST or in silence; it comes back.
    Kill(usize, bool),
    Run(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let len = || prop_oneof![0u32..100, 900u32..1100, 16_000u32..17_000, 0u32..300_000];
    let node = || 0usize..3;
    prop_oneof![
        6 => (node(), node(), len(), any::<bool>(), 0u32..6)
            .prop_map(|(from, to, len, ack, portal)| Step::Put { from, to, len, ack, portal }),
        4 => (node(), node(), len(), 0u32..6, any::<bool>())
            .prop_map(|(from, to, len, portal, lend)| Step::Get { from, to, len, portal, lend }),
        2 => (node(), node()).prop_map(|(from, to)| Step::Ping { from, to }),
        1 => (0usize..4).prop_map(Step::Unlink),
        1 => (1u32..6).prop_map(Step::Attach),
        1 => (1usize..3, any::<bool>()).prop_map(|(n, rst)| Step::Kill(n, rst)),
        6 => prop_oneof![Just(0u64), 1_000u64..200_000, 1_000_000u64..3 * SEC, Just(60 * SEC)].prop_map(Step::Run),
    ]
}

/// An entry on each portal from 1: sinks of every kind on the odd ones, sources on the even ones.
fn attach(net: &mut Net, node: usize, portal: u32, tag: u64) {
    let mem = match portal {
        1 => MdMem::Sink(Sink::Copy(run(200_000))),
        3 => MdMem::Sink(Sink::Lend(1 << 20)),
        5 => MdMem::Sink(Sink::Discard(1 << 20)),
        _ => MdMem::Source(pages(100_000)),
    };
    let md = MdSpec { truncate: portal == 1, ..MdSpec::new(mem) };
    net.op(node, Spot(portal, 7).attach(tag, md));
}

/// Events of node 0, by tag, and its entries.
#[derive(Default)]
struct Told {
    ends: BTreeMap<u64, u32>,
    entries: Vec<(u32, MeId)>,
}

impl Told {
    fn hear(&mut self, net: &mut Net) {
        for e in net.take_events(0) {
            let tag = match e {
                Event::Send { tag, done: true, .. }
                | Event::Ack { tag, done: true, .. }
                | Event::Reply { tag, .. }
                | Event::Ping { tag, .. }
                | Event::Refused { tag, .. } => tag,
                Event::Attached { tag, me } => {
                    self.entries.push(((tag % 10) as u32, me));
                    continue;
                }
                _ => continue,
            };
            *self.ends.entry(tag).or_default() += 1;
        }
    }
}

proptest! {
    #[test]
    fn each_operation_ends_once(steps in prop::collection::vec(step(), 1..120)) {
        let mut net = Net::new();
        let mut epoch = 1;
        for n in 0..3 {
            net.add(config(n, epoch));
            (1..6).for_each(|p| attach(&mut net, n, p, u64::from(p)));
        }
        let (mut told, mut tag, mut wanted) = (Told::default(), 100, 0u32);
        for s in steps {
            tag += 10;
            let op = match s {
                Step::Put { from, to, len, ack, portal } => {
                    Some((from, Spot(portal, 7).put(tag, id(to as u8 + 1), pages(len as usize), ack)))
                }
                Step::Get { from, to, len, portal, lend } => {
                    let sink = if lend || len == 0 { Sink::Lend(len) } else { Sink::Copy(run(len as usize)) };
                    Some((from, Spot(portal, 7).get(tag, id(to as u8 + 1), sink)))
                }
                Step::Ping { from, to } => Some((from, Op::Ping { tag, target: id(to as u8 + 1) })),
                Step::Unlink(i) => {
                    told.hear(&mut net);
                    if !told.entries.is_empty() {
                        let (portal, me) = told.entries.swap_remove(i % told.entries.len());
                        net.op(0, Op::Unlink { tag: 1, portal, me });
                    }
                    None
                }
                Step::Attach(portal) => {
                    attach(&mut net, 0, portal, u64::from(portal));
                    None
                }
                Step::Kill(n, rst) => {
                    net.kill(n, rst);
                    net.run(1000);
                    epoch += 1;
                    net.restart(n, config(n, epoch));
                    (1..6).for_each(|p| attach(&mut net, n, p, u64::from(p)));
                    None
                }
                Step::Run(ns) => {
                    net.run(ns);
                    None
                }
            };
            if let Some((from, op)) = op {
                wanted += u32::from(from == 0);
                net.op(from, op);
            }
        }
        net.run(600 * SEC);
        told.hear(&mut net);
        told.ends.remove(&1);
        prop_assert!(told.ends.values().all(|n| *n == 1), "{:?}", told.ends);
        prop_assert_eq!(told.ends.len() as u32, wanted);
        for n in 0..3 {
            net.take_events(n);
        }
        net.assert_quiet();
    }
}
