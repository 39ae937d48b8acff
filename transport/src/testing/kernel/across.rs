//! Model kernels on both sides of routers of ours: each has a model socklnd for every router of its network, says what it is
//! told to say to whom it is told, and hears what comes; pings and pushes of routers are answered.

use std::collections::BTreeMap;

use super::lnet::{FEATURES, Wire};
use super::{Kernel, KernelConfig, Up, step};
use crate::testing::net::{Cut, Net};
use crate::testing::srpc::{FRAMEWORK, TESTS};
use crate::wire::{LnetBody, LnetHdr, Nid, PingInfo, Version, ping};

/// A message that has come to one of them.
#[derive(Clone, Debug)]
pub struct Heard {
    /// To whom.
    pub by: Nid,
    /// The router that it came from.
    pub from: usize,
    /// Its header.
    pub hdr: LnetHdr,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// All of them.
#[derive(Default)]
pub struct Across {
    /// By NID and the router's place.
    kernels: BTreeMap<(Nid, usize), Kernel>,
    versions: BTreeMap<Nid, Version>,
    /// Messages that have come, but for those of routers themselves.
    pub heard: Vec<Heard>,
    /// Features and statuses of NIs that routers have told, by the one who was told, in order.
    pub told: Vec<(Nid, usize, PingInfo)>,
    /// Messages by their tokens that have left their source for good, or not.
    pub ended: Vec<(u64, bool)>,
}

impl Across {
    /// Nobody yet.
    pub fn new(net: &mut Net) -> Across {
        net.raw_seen = Some(Vec::new());
        Across::default()
    }

    /// A kernel of this version that knows the routers at these places.
    pub fn add(&mut self, net: &mut Net, nid: Nid, version: Version, routers: &[usize], seed: u64) {
        self.versions.insert(nid, version);
        for router in routers {
            let incarnation = 78 + *router as u64;
            let cfg = KernelConfig {
                nid,
                nids: Vec::new(),
                peer: None,
                version,
                conns_per_peer: 1,
                incarnation,
                discovery: false,
            };
            let mut k = Kernel::new(net, cfg, *router, seed);
            k.begin(0);
            // Each router sees ports of its own.
            k.port = 1023 - 60 * (*router as u16 % 8);
            if let Some(a) = &mut k.above {
                a.posted = (0..64).flat_map(|s| [(TESTS, s), (FRAMEWORK, s)]).collect();
            }
            self.kernels.insert((nid, *router), k);
        }
    }

    /// The version that one of them speaks at most.
    pub fn version(&self, nid: Nid) -> Option<Version> {
        self.versions.get(&nid).copied()
    }

    /// All that they have open with a router is lost: it has died.
    pub fn lose(&mut self, net: &mut Net, router: usize, cut: Cut) {
        for k in self.kernels.iter_mut().filter(|(at, _)| at.1 == router).map(|(_, k)| k) {
            k.end(net, cut);
        }
    }

    /// Links of one of them with a router.
    pub fn cut(&mut self, net: &mut Net, nid: Nid, router: usize, cut: Cut) {
        if let Some(k) = self.kernels.get_mut(&(nid, router)) {
            k.end(net, cut);
        }
    }

    /// One of them says something to another, or to the router itself.
    ///
    /// # Panics
    /// It does not know the router.
    pub fn say(&mut self, net: &mut Net, (from, router): (Nid, usize), m: Wire) {
        self.told_by(from, router).give(net, m);
        self.settle(net);
    }

    /// One of them sends a message with a header that it should not have.
    ///
    /// # Panics
    /// It has no connection to the router.
    pub fn say_as(&mut self, net: &mut Net, (from, router): (Nid, usize), hdr: LnetHdr, payload: Vec<u8>) {
        self.told_by(from, router).raw(net, hdr, &payload);
    }

    fn told_by(&mut self, from: Nid, router: usize) -> &mut Kernel {
        match self.kernels.get_mut(&(from, router)) {
            Some(k) => k,
            None => panic!("{from} knows no router {router}"),
        }
    }

    /// Lets the next thing happen; `false`, with the time at `until`, when there is none before that.
    pub fn step(&mut self, net: &mut Net, until: u64) -> bool {
        let more = step(&mut self.kernels, net, until, |k, ends| {
            [k.cfg.nid, k.them].iter().all(|nid| nid.ip().is_some_and(|ip| ends.contains(&ip)))
        });
        self.settle(net);
        more
    }

    /// Runs until then, in ns.
    pub fn run_until(&mut self, net: &mut Net, until: u64) {
        while self.step(net, until) {}
    }

    fn settle(&mut self, net: &mut Net) {
        for ((nid, router), k) in &mut self.kernels {
            loop {
                let ups = k.ups();
                if ups.is_empty() {
                    break;
                }
                for up in ups {
                    let (hdr, payload) = match up {
                        Up::Came(hdr, payload) => (hdr, payload),
                        Up::Ended(0, _) => continue,
                        Up::Ended(token, ok) => {
                            self.ended.push((token, ok));
                            continue;
                        }
                    };
                    let router_own = hdr.src_nid == k.them;
                    let answer = match hdr.body {
                        LnetBody::Get { handle, portal: ping::PORTAL, .. } if router_own => {
                            let mut info = Vec::new();
                            PingInfo::new([*nid], hdr.dest_pid, FEATURES, 2).emit(&mut info);
                            (LnetBody::Reply { handle }, info)
                        }
                        LnetBody::Put { ack, match_bits, portal: ping::PORTAL, .. } if router_own => {
                            let mlength = payload.len() as u32;
                            self.told.extend(PingInfo::parse(&payload).ok().map(|i| (*nid, *router, i)));
                            (LnetBody::Ack { handle: ack, match_bits, mlength }, Vec::new())
                        }
                        _ => {
                            self.heard.push(Heard { by: *nid, from: *router, hdr, payload });
                            continue;
                        }
                    };
                    let (body, payload) = answer;
                    k.give(net, Wire { to: hdr.src_nid, body, payload, token: 0 });
                }
            }
        }
    }
}
