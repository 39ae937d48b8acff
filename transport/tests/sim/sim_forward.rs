//! A node that sends on what it is lent, by reference: across lcores, homes that move, bad networks, and where the lend budget
//! is spent.

use dataplane::fault::Faults;
use dataplane::mem::MemConfig;
use transport::lnd::{AppId, Data, Payload, Sink};
use transport::lnet::{Event, MdMem, MdSpec};
use transport::testing::data::{Spot, sum, summed};
use transport::wire::ProcessId;

use crate::nodes::{bad_network, logged, target};
use crate::sim_node::{SERVER, World};

/// Portal and match bits at which payload comes back.
const BACK: Spot = Spot(30, 7);

/// PUTs to a portal of each shard of the server, `flight` at a time, which puts back what it was lent. Gives the bytes that it
/// could not be lent, and copied, and how often a home has moved.
fn there_and_back(mut w: World, (puts, flight): (u64, u64), len: usize) -> (u64, u64) {
    let n = w.servers.len() as u32;
    let lend = || MdSpec::new(MdMem::Sink(Sink::Lend(1 << 20)));
    for portal in 10..10 + n {
        w.servers[0].app.todo.push_back((AppId::FIRST, Spot(portal, 7).attach(portal.into(), lend())));
    }
    w.client.app.todo.push_back((AppId::FIRST, BACK.attach(1, lend())));
    let (server, client) = (w.servers[0].app.log.clone(), w.client.app.log.clone());
    let attached = |e: &Event| matches!(e, Event::Attached { .. });
    w.run("attach", |_| (logged(&server, attached), logged(&client, attached)) == (n as usize, 1));
    let us = ProcessId::lustre(w.client.machine.config().nid());
    let (mut out, mut back) = (0, 0);
    w.run("there and back", |w| {
        while out < puts.min(back + flight) {
            let (p, crc) = summed(len, out);
            let put = Spot(10 + out as u32 % n, 7).put_with(out, crc, target(SERVER), p, true);
            w.client.app.todo.push_back((AppId::FIRST, put));
            out += 1;
        }
        for e in server.borrow_mut().drain(..) {
            let Event::Put(p) = e else { continue };
            let Data::Lent(pieces) = p.data else { panic!("{:?}", p.data) };
            let payload = Payload::forwarded(pieces);
            assert!(matches!(&payload, Payload::Pages(p) if p.len() == 1));
            w.servers[0].app.todo.push_back((AppId::FIRST, BACK.put_with(0, p.hdr_data, us, payload, false)));
        }
        for e in client.borrow_mut().drain(..) {
            let Event::Put(p) = e else { continue };
            back += 1;
            assert_eq!((p.status, p.mlength, sum(&p.data)), (Ok(()), len as u32, p.hdr_data));
        }
        back == puts
    });
    let tcp = w.servers[0].streams().unwrap().stack().counters();
    assert_eq!(tcp.tx_copied_bytes, 0, "{tcp:?}");
    assert!(tcp.tx_attached_bytes + tcp.tx_short_bytes >= puts * len as u64);
    let copied = w.servers.iter().map(|s| s.machine.counters().rx_copied_bytes).sum();
    let moves = w.moves();
    w.shut_down();
    (copied, moves)
}

#[test]
fn nothing_is_copied_wherever_the_home_is() {
    for (shards, home) in [(1, 0), (3, 0), (3, 1), (3, 2)] {
        let w = World::new(shards, home, Faults::default(), 1, &MemConfig::default());
        assert_eq!(there_and_back(w, (60, 4), 100_000).0, 0, "{shards} {home}");
    }
}

#[test]
fn segments_of_1448_bytes_go_on_in_one_lending_a_message() {
    let mem = MemConfig {
        mtu: 1500,
        tso_max: 0,
        max_segs: 3,
        rx_buf: 2048,
        rx_bufs: 16_384,
        ..MemConfig::default()
    };
    // A message has 725 pieces, a node 512 lendings.
    let w = World::new(1, 0, Faults::default(), 1, &mem);
    assert_eq!(there_and_back(w, (20, 3), 1 << 20).0, 0);
}

#[test]
fn a_bad_network_and_homes_that_move_change_nothing() {
    let faults = bad_network();
    let mut moved = 0;
    for seed in 1..=8 {
        println!("seed {seed}");
        let lazy = (seed % 3) as usize * 4;
        let mem = MemConfig { tso_max: 0, mtu: 9000, csum: false, lazy, ..MemConfig::default() };
        let mut w = World::new(1 + (seed % 3) as u16, 0, faults, seed, &mem);
        w.move_every = (seed % 3 > 0).then_some(3 + 5 * seed);
        moved += there_and_back(w, (12, 12), 200_000).1;
    }
    assert!(moved > 4, "{moved}");
}

/// Nothing waits for the budget: what cannot be lent is copied, counted, and sent on all the same.
#[test]
fn where_the_budget_is_spent_payload_is_copied_and_goes_on() {
    for home in [0, 1] {
        let mem = MemConfig { rx_bufs: 128, ..MemConfig::default() };
        let w = World::new(2, home, Faults::default(), 1, &mem);
        assert!(there_and_back(w, (60, 60), 300_000).0 > 300_000, "{home}");
    }
}
