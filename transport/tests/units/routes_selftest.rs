//! lnet_selftest across a router: bulk is stored and forwarded, so the reply to an RPC may come before it (docs/protocol/upper.md §1.2).

use transport::selftest::console::Said;
use transport::testing::kernel::router::Routers;
use transport::testing::members::LstNode;
use transport::testing::net::{Net, SEC};
use transport::wire::{LnetBody, Nid};

use crate::routed::{CLIENT, R1, SERVER, config, nid};

/// A console that is a member, a member behind the router, and the router.
struct Across {
    net: Net,
    routers: Routers,
    nodes: [LstNode; 2],
}

impl Across {
    fn new(bulk_delay: u64) -> Across {
        let mut net = Net::new();
        let mut routers = Routers::new(&mut net);
        let own = [(CLIENT, "tcp1 10.0.0.11@tcp"), (SERVER, "tcp 10.1.0.11@tcp1")];
        let nodes = own.map(|(own, route)| LstNode::new(&mut net, config(own, &[route])));
        let hops: Vec<(Nid, usize)> =
            own.iter().zip(&nodes).map(|((own, _), n)| (nid(own), n.node)).collect();
        routers.add(&mut net, &R1.map(nid), &hops);
        routers.list[0].bulk_delay = bulk_delay;
        let mut a = Across { net, routers, nodes };
        a.run(SEC);
        a
    }

    fn run(&mut self, ns: u64) {
        let until = self.net.now + ns;
        loop {
            self.nodes.iter_mut().for_each(|n| n.pump(&mut self.net));
            let due = self.nodes.iter().filter_map(|n| n.deadline(&self.net)).min();
            let at = due.map_or(until, |d| d.clamp(self.net.now, until));
            let went = self.routers.step(&mut self.net, at);
            if !went && at >= until {
                return;
            }
        }
    }

    /// Types a line, and waits until it has been obeyed.
    fn order(&mut self, line: &str) {
        let net = &mut self.net;
        self.nodes[0].type_in(net, line);
        for _ in 0..2000 {
            if self.nodes[0].console.is_idle() {
                let said: Vec<_> = self.nodes[0].said.drain(..).collect();
                assert!(said.iter().any(|s| matches!(s, Said::End(0))), "{line}: {said:?}");
                return;
            }
            self.run(SEC / 20);
        }
        panic!("{line} does not end");
    }
}

#[test]
fn bulk_may_come_after_the_reply() {
    for what in
        ["brw read check=full size=64k", "brw write check=full size=64k", "brw read check=simple size=1M"]
    {
        let mut before = None;
        for delay in [0, SEC / 2] {
            let mut a = Across::new(delay);
            for line in [
                "new_session one",
                "add_group c 10.0.0.1@tcp",
                "add_group s 10.1.0.1@tcp1",
                "add_batch b",
                &format!("add_test --batch b --loop 3 --concurrency 2 --from c --to s {what}"),
                "run b",
            ] {
                a.order(line);
            }
            a.run(10 * SEC);
            let c = a.nodes.each_ref().map(|n| n.member.counters());
            let len: u64 = if what.contains("1M") { 1 << 20 } else { 64 << 10 };
            let bulk = if what.contains("read") { c[1].bulk_put } else { c[1].bulk_get };
            assert_eq!((bulk, c[0].errors, c[1].errors), (6 * len, 0, 0), "{what} {delay}: {c:?}");
            // Replies that came before the first bulk: with a router that holds bulk up those to reads are among them.
            let puts = a.routers.list[0]
                .forwarded
                .iter()
                .filter(|h| h.dest_nid == nid(CLIENT) && matches!(h.body, LnetBody::Put { portal: 52, .. }));
            let replies = puts.take_while(|h| h.payload_len == 160).count();
            let overtakes = what.contains("read") && delay > 0;
            assert_eq!(
                replies > before.unwrap_or(replies),
                overtakes,
                "{what} {delay}: {replies} {before:?}"
            );
            before = Some(replies);
            a.order("stop b");
            a.order("end_session");
            a.run(200 * SEC);
            (0..2).for_each(|n| a.net.assert_at_rest(n));
        }
    }
}
