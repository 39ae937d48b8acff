//! A console's node and members of lnet_selftest in virtual time, for the tests of both.

use std::sync::Arc;

use hugepages::PrivatePages;
use transport::lnd::{AppId, Config};
use transport::node::Input;
use transport::selftest::{self, AppIds, Ask, Bulk, Done, Member, Ops, Rpcs};
use transport::testing::data::payload;
use transport::testing::net::{Net, SEC};
use transport::testing::pair::{config, id};
use transport::wire::srpc::{self, Body, Message, Name, Service, Sid, TestParams, TestReq, opc};

pub(crate) const MIB: u32 = 1 << 20;
/// Any id: of RPCs that the console asks.
pub(crate) const CONSOLE: AppId = AppId::FIRST;
pub(crate) const SID: Sid = Sid { nid4: 0x0002_0000_0a00_0001, stamp: 77 };
pub(crate) const OTHER: Sid = Sid { nid4: 0x0002_0000_0a00_0063, stamp: 1 };

/// A console's node, which is 0 and 10.0.0.1, and members behind it.
pub(crate) struct Group {
    pub(crate) net: Net,
    pub(crate) members: Vec<Member>,
    pub(crate) rpcs: Rpcs,
    pub(crate) done: Vec<Done>,
}

impl Group {
    pub(crate) fn new(members: u8) -> Group {
        Group::with(members, |_| {}, |_| {})
    }

    pub(crate) fn with(
        members: u8,
        node: impl Fn(&mut Config),
        member: impl Fn(&mut selftest::Config),
    ) -> Group {
        let mut net = Net::new();
        let unix = 1_700_000_000 * SEC;
        let all = (0..=members).map(|n| {
            let mut cfg = config(n + 1);
            node(&mut cfg);
            net.add(cfg);
            let mut cfg = selftest::Config::new(AppIds::from(10).unwrap(), unix);
            member(&mut cfg);
            let backing: Arc<dyn hugepages::Backing> = Arc::new(PrivatePages);
            Member::new(cfg, &backing)
        });
        let members = all.collect();
        Group { members, rpcs: Rpcs::new(CONSOLE, selftest::first_id(unix, 1)), done: Vec::new(), net }
    }

    /// All that can be done at this time.
    pub(crate) fn settle(&mut self) {
        let mut ops = Ops::new();
        for turn in 0.. {
            assert!(turn < 10_000, "it does not come to rest at {}", self.net.now);
            let mut busy = false;
            let now = self.net.now;
            for (node, member) in self.members.iter_mut().enumerate() {
                // As a runtime does: what was given back may be lent again.
                self.net.nodes[node].pool.home().drain();
                for (_, app, ev) in std::mem::take(&mut self.net.nodes[node].events) {
                    busy = true;
                    if node == 0 && app == CONSOLE {
                        self.done.extend(self.rpcs.event(now, ev, &mut ops));
                    } else {
                        assert!(member.is_for(app), "{app:?}: {ev:?}");
                        member.event(now, app, ev, &mut ops);
                    }
                }
                member.turn(now, &mut ops);
                if node == 0 {
                    while let Some(done) = self.rpcs.turn(now, &mut ops) {
                        self.done.push(done);
                    }
                }
                for (app, op) in ops.drain(..) {
                    busy = true;
                    self.net.input(node, Input::Cmd(app, op));
                }
            }
            if !busy {
                return;
            }
        }
    }

    pub(crate) fn run_until(&mut self, end: u64, stop: impl Fn(&Group) -> bool) {
        loop {
            self.settle();
            if stop(self) || self.net.now >= end {
                return;
            }
            let due = self.members.iter().filter_map(Member::deadline).chain(self.rpcs.deadline()).min();
            let until = due.unwrap_or(end).clamp(self.net.now + 1, end);
            self.net.run_until(until, |n| n.nodes.iter().any(|n| !n.events.is_empty()));
            if self.net.nodes.iter().all(|n| n.events.is_empty()) {
                self.net.now = self.net.now.max(until);
            }
        }
    }

    pub(crate) fn run(&mut self, ns: u64) {
        self.run_until(self.net.now + ns, |_| false);
    }

    pub(crate) fn ask_with(&mut self, to: u8, request: Message, bulk: Bulk) -> Done {
        let mut ops = Ops::new();
        let (service, _) = request.body.kind();
        let ask = Ask { tag: 5, peer: id(to), from: None, service, request, bulk, timeout_ns: 64 * SEC };
        self.rpcs.start(self.net.now, ask, &mut ops);
        ops.drain(..).for_each(|(app, op)| self.net.input(0, Input::Cmd(app, op)));
        self.run_until(self.net.now + 100 * SEC, |g| !g.done.is_empty());
        let done = self.done.pop().expect("it ends");
        assert_eq!((done.tag, self.done.len()), (5, 0));
        done
    }

    pub(crate) fn ask(&mut self, to: u8, body: Body) -> Message {
        self.ask_with(to, Message::new(1, body), Bulk::None).outcome.unwrap()
    }

    pub(crate) fn status(&mut self, to: u8, body: Body) -> u32 {
        self.ask(to, body).body.status().unwrap()
    }

    pub(crate) fn begin(&mut self, to: u8) {
        assert_eq!(self.status(to, make(SID, 0)), 0);
    }

    /// Adds a test to a server and to a client of it.
    pub(crate) fn test(&mut self, batch: u64, client: u8, servers: &[u8], test: TestReq) {
        for s in servers {
            let t = TestReq { batch, is_client: false, ndest: 0, ..test };
            assert_eq!(self.status(*s, Body::Test(t)), 0);
        }
        let ndest = servers.len() as u32;
        let list: Vec<u8> = servers.iter().flat_map(|s| srpc::dest(id(*s))).collect();
        let features = u32::from(!matches!(test.params, TestParams::BrwV0 { .. }));
        let request = Message::new(features, Body::Test(TestReq { batch, is_client: true, ndest, ..test }));
        let done = self.ask_with(client, request, Bulk::Source(payload(&list)));
        assert_eq!(done.outcome.unwrap().body, Body::TestReply { status: 0, sid: SID });
    }

    pub(crate) fn batch(&mut self, to: u8, batch: u64, opc: u32, word: u32) -> (u32, u32) {
        let (testidx, arg) = if opc == opc::QUERY { (word, 0) } else { (0, word) };
        match self.ask(to, Body::Batch { rpyid: 0, sid: SID, batch, opc, testidx, arg }).body {
            Body::BatchReply { status, active, .. } => (status, active),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn stat(
        &mut self,
        to: u8,
    ) -> (srpc::FrameworkCounters, srpc::RpcCounters, srpc::LnetCounters) {
        match self.ask(to, Body::Stat { rpyid: 0, sid: SID, kind: 0 }).body {
            Body::StatReply { status: 0, fw, rpc, lnet, .. } => (fw, rpc, lnet),
            other => panic!("{other:?}"),
        }
    }

    /// Nothing is under way or held anywhere.
    pub(crate) fn assert_quiet(&mut self) {
        // A GET that nobody answers ends by LNet's time-out.
        self.run(self.net.nodes[0].machine.config().transaction_timeout + 2 * SEC);
        self.net.assert_quiet();
        assert!(self.rpcs.is_empty());
        for (n, m) in self.members.iter().enumerate() {
            assert_eq!(m.under_way(), (0, 0), "node {n}");
        }
    }
}

pub(crate) fn make(sid: Sid, force: u32) -> Body {
    Body::MakeSession { rpyid: 0, sid, force, name: Name::new("ours") }
}

pub(crate) fn remove(sid: Sid) -> Body {
    Body::RemoveSession { rpyid: 0, sid }
}

pub(crate) fn debug() -> Body {
    Body::Debug { rpyid: 0, sid: SID, flags: 0 }
}

pub(crate) fn ping_test(loops: u32, concur: u32) -> TestReq {
    TestReq {
        rpyid: 0,
        bulkid: 0,
        sid: SID,
        batch: 1,
        service: Service::Ping.id(),
        loops,
        concur,
        is_client: true,
        stop_onerr: true,
        ndest: 1,
        params: TestParams::Ping { size: 0, flags: 0 },
    }
}

pub(crate) fn brw_test(opc: u32, flags: u32, len: u32, loops: u32, concur: u32) -> TestReq {
    let params = TestParams::Brw { opc: opc as u16, flags: flags as u16, len, offset: 0 };
    TestReq { service: Service::Brw.id(), params, ..ping_test(loops, concur) }
}
