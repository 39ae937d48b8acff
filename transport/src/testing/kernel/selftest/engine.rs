//! The client's part of the model: units that do one RPC after the other (selftest.md §4.1).

use super::{Ask, Bulk, Selftest, Who, brw};
use crate::testing::srpc::{BULK_LEN, Srpc, errno, kind, service};
use crate::wire::Nid;

/// A test of a batch.
#[derive(Debug)]
pub(super) struct Test {
    /// Of a client: what its units do.
    plan: Option<Plan>,
    /// RPCs that a unit has left (−1: no end), or that it has ended.
    units: Vec<Option<i32>>,
}

#[derive(Clone, Debug)]
struct Plan {
    service: u64,
    dests: Vec<Nid>,
    turns: i32,
    concur: usize,
    stop_onerr: bool,
    features: u32,
    /// Read or write, flags, length, offset.
    brw: (u32, u32, u32, u32),
}

impl Test {
    /// The test of a server: buffers, and nothing to run.
    pub(super) fn server() -> Test {
        Test { plan: None, units: Vec::new() }
    }

    /// The test of a request for a client, or the status that refuses it.
    pub(super) fn client(q: &Srpc, dests: Vec<Nid>) -> Result<Test, u32> {
        let brw = q.brw();
        if q.get("service") == service::BRW {
            let (opc, flags, len, off) = brw;
            let good = matches!(opc, 1 | 2) && (1..=4).contains(&flags) && len > 0 && len <= 1 << 20;
            if !good || off % 8 != 0 {
                return Err(errno::EINVAL);
            }
            let within = off & 4095;
            assert!(
                (within + len).div_ceil(4096) == len.div_ceil(4096),
                "the kernel panics: offset {off} and length {len} need more pages than the length alone"
            );
        }
        Ok(Test {
            plan: Some(Plan {
                service: q.get("service"),
                dests,
                turns: q.word("loop") as i32,
                concur: q.get("concur") as usize,
                stop_onerr: q.get("stop_onerr") != 0,
                features: q.features(),
                brw,
            }),
            units: Vec::new(),
        })
    }

    /// Units that are at work.
    pub(super) fn active(&self) -> usize {
        self.units.iter().filter(|u| u.is_some()).count()
    }
}

impl Selftest {
    fn test_at(&mut self, batch: u64, test: usize) -> Option<&mut Test> {
        self.session.as_mut()?.batches.get_mut(&batch)?.tests.get_mut(test)
    }

    /// Starts the tests of a batch.
    pub(super) fn run(&mut self, now: u64, batch: u64) {
        let Some(b) = self.session.as_mut().and_then(|s| s.batches.get_mut(&batch)) else { return };
        b.stopping = false;
        let mut all = Vec::new();
        for (t, test) in b.tests.iter_mut().enumerate() {
            let Some(p) = &test.plan else { continue };
            test.units = vec![Some(p.turns); p.dests.len() * p.concur];
            all.extend((0..test.units.len()).map(|u| (t, u)));
        }
        for (t, u) in all {
            self.unit_goes_on(now, (batch, t, u));
        }
    }

    /// Stops a batch; by force, what is under way is abandoned.
    pub(super) fn stop(&mut self, now: u64, batch: u64, force: bool) {
        let Some(b) = self.session.as_mut().and_then(|s| s.batches.get_mut(&batch)) else { return };
        if b.active() == 0 {
            return;
        }
        b.stopping = true;
        if force {
            let of_it = |w: &Who| matches!(w, Who::Unit(id, ..) if *id == batch);
            let asks: Vec<u64> = self.asks.iter().filter(|a| of_it(&a.1.who)).map(|a| *a.0).collect();
            asks.into_iter().for_each(|a| self.fail(now, a, errno::EINTR));
        }
    }

    fn unit_goes_on(&mut self, now: u64, (batch, test, unit): (u64, usize, usize)) {
        let Some(p) = self.test_at(batch, test).and_then(|t| t.plan.clone()) else { return };
        let who = Who::Unit(batch, test, unit);
        let to = p.dests[unit / p.concur];
        if p.service == service::PING {
            let Some(s) = &mut self.session else { return };
            let (seq, at) = (s.pings, now / 1_000_000_000);
            s.pings += 1;
            let q = Srpc::new(kind::PING, p.features).with("ping_magic", brw::PING_MAGIC).with("seq", seq);
            let q = q.with("seconds", at).with("nanos", now % 1_000_000_000);
            return self.ask(now, who, to, q, Bulk::None);
        }
        let (rw, flags, len, off) = p.brw;
        let q = Srpc::new(kind::BRW, p.features).with("rw", u64::from(rw)).with("len", u64::from(len));
        let q = q.with("flags", u64::from(flags));
        let bulk = match rw {
            1 => Bulk::Sink(len),
            _ => Bulk::Source(brw::filled(len, off, flags, &mut self.rng)),
        };
        self.ask(now, who, to, q, bulk);
    }

    /// An RPC of a unit has ended.
    pub(super) fn unit_done(&mut self, now: u64, at: (u64, usize, usize), a: &Ask, why: u32) {
        let Some(b) = self.session.as_ref().and_then(|s| s.batches.get(&at.0)) else { return };
        let stopping = b.stopping;
        let Some(p) = self.test_at(at.0, at.1).and_then(|t| t.plan.clone()) else { return };
        let good = why == 0 && self.unit_judges(&p, a);
        self.done[usize::from(!good)] += 1;
        if !good && !stopping && p.service == service::BRW {
            self.brw_errors += 1;
        } else if !good && !stopping {
            self.ping_errors += 1;
        }
        let Some(left) = self.test_at(at.0, at.1).and_then(|t| t.units.get_mut(at.2)) else { return };
        if let Some(n) = left
            && *n > 0
        {
            *n -= 1;
        }
        if stopping || *left == Some(0) || (!good && p.stop_onerr) {
            *left = None;
        } else {
            self.unit_goes_on(now, at);
        }
    }

    fn unit_judges(&self, p: &Plan, a: &Ask) -> bool {
        let Some(reply) = &a.reply else { return false };
        if p.service == service::PING {
            let same = reply.get("seq") == a.request.get("seq") && reply.get("ping_magic") == brw::PING_MAGIC;
            return same && reply.get("status") == 0;
        }
        if reply.get("status") != 0 || p.features & BULK_LEN == 0 && reply.features() != p.features {
            return false;
        }
        // Bytes come into the client's pages: fragments are its own.
        let (rw, flags, len, off) = p.brw;
        rw == 2 || (a.data.len() == len as usize && brw::right(&a.data, off, flags, reply.order()))
    }
}
