//! Health values that a user sets decide as those do that failures have made, and recovery brings them back (docs/protocol/upper.md §3).

use transport::lnet::{BEST, HealthAsk};
use transport::node::Input;
use transport::stream::{Bucket, ShardId};
use transport::testing::net::{Net, SEC};
use transport::wire::Nid;

use crate::multi_rail::{A_NETS, B_NETS, acquaint, came, ended, nid, nodes, own_health, put, view};

/// Orders the first shard of a node; gives how many values it concerned, when the others have heard of it.
fn set(net: &mut Net, ask: &HealthAsk) -> usize {
    let n = net.nodes[0].machine.set_health(net.now, ask);
    // As a runtime does: the deadline is asked for.
    net.input(0, Input::Timer);
    net.run(SEC / 100);
    n
}

/// NIDs of the other node that four PUTs come to.
fn used(net: &mut Net, shards: usize) -> Vec<Nid> {
    for tag in 0..4 {
        net.op(0, put(tag, B_NETS[0], 64));
        net.run(SEC / 50);
    }
    assert_eq!(ended(net, 0..shards), [0, 1, 2, 3].map(|t| (t, Ok(()))));
    came(net, shards..2 * shards).iter().map(|c| c.2).collect()
}

fn both(all: &[Nid]) -> bool {
    B_NETS.iter().all(|b| all.iter().filter(|n| **n == nid(b)).count() == 2)
}

/// That of an own NI is the same on all shards: nothing leaves by it while another is better, and a step each second brings it back.
#[test]
fn an_own_ni_is_chosen_by_the_value_that_it_is_given() {
    for shards in [1u16, 3] {
        let n = usize::from(shards);
        let mut net = nodes(&A_NETS, &B_NETS, shards);
        acquaint(&mut net, B_NETS[0], n);
        assert!(both(&used(&mut net, n)));
        assert_eq!(set(&mut net, &HealthAsk::Own(Some(nid(A_NETS[0])), BEST - 500)), 1);
        for node in 0..n {
            assert_eq!([0, 1].map(|at| own_health(&net, node, at).0), [BEST - 500, BEST], "{node}");
        }
        assert_eq!(used(&mut net, n), [nid(B_NETS[1]); 4]);
        net.run(6 * SEC);
        assert_eq!(own_health(&net, n - 1, 0), (BEST, false));
        assert!(both(&used(&mut net, n)));
        // All of them: they are equals again.
        assert_eq!(set(&mut net, &HealthAsk::Own(None, 0)), 2);
        assert!(both(&used(&mut net, n)));
        assert_eq!(set(&mut net, &HealthAsk::Own(None, u16::MAX)), 2);
        assert_eq!([0, 1].map(|at| own_health(&net, n - 1, at).0), [BEST; 2]);
        assert_eq!(set(&mut net, &HealthAsk::Own(Some(nid("10.9.9.9@tcp")), 7)), 0);
    }
}

/// That of a peer's NID is its home's affair, which pings it from then on as after a failure.
#[test]
fn a_peer_s_nid_is_chosen_by_the_value_that_it_is_given() {
    for shards in [1u16, 3] {
        let n = usize::from(shards);
        let mut net = nodes(&A_NETS, &B_NETS, shards);
        acquaint(&mut net, B_NETS[0], n);
        let ill = nid(B_NETS[1]);
        let ask = |value| HealthAsk::Peers(vec![ill, nid("10.9.9.9@tcp")], value);
        assert_eq!(set(&mut net, &ask(BEST - 300)), 1, "the other one is nobody's");
        let home = net.home(0, ill.ip().unwrap());
        let v = view(&net, home, B_NETS[1]);
        assert_eq!((v.health, v.recovering, v.ping_count), (BEST - 300, true, 0));
        assert_eq!(used(&mut net, n), [nid(B_NETS[0]); 4]);
        // A ping after 1 s, and after each answer; each is a step.
        net.run(2 * SEC);
        let v = view(&net, home, B_NETS[1]);
        assert!(v.recovering && v.health > BEST - 300 && v.health < BEST, "{v:?}");
        net.run(3 * SEC);
        let v = view(&net, home, B_NETS[1]);
        assert_eq!((v.health, v.recovering), (BEST, false));
        assert!(both(&used(&mut net, n)));
        // The user's word that it is well ends it at once, and with the next failure it begins as ever.
        assert_eq!((set(&mut net, &ask(0)), set(&mut net, &ask(BEST))), (1, 1));
        let v = view(&net, home, B_NETS[1]);
        assert_eq!((v.health, v.recovering, v.next_ping), (BEST, false, 0));
        set(&mut net, &ask(BEST - 100));
        net.run(SEC / 2);
        assert!(view(&net, home, B_NETS[1]).recovering, "its first ping comes after 1 s");
        net.run(SEC);
        assert_eq!(view(&net, home, B_NETS[1]).health, BEST);
        for node in 0..2 * n {
            net.assert_at_rest(node);
        }
    }
}

/// An order that finds the home moved is passed on.
#[test]
fn a_value_finds_the_home_that_has_moved() {
    let mut net = nodes(&A_NETS, &B_NETS, 2);
    acquaint(&mut net, B_NETS[0], 2);
    net.run(200 * SEC);
    let ip = nid(B_NETS[1]).ip().unwrap();
    let old = net.home(0, ip);
    assert!((0..1000).any(|_| {
        net.run(SEC / 100);
        net.move_home(old, Bucket::of(ip), ShardId(1 - old as u16))
    }));
    net.run(SEC);
    let new = net.home(0, ip);
    assert_ne!(new, old);
    assert_eq!(set(&mut net, &HealthAsk::Peers(vec![nid(B_NETS[1])], 900)), 1);
    let v = view(&net, new, B_NETS[1]);
    assert_eq!((v.health, v.recovering), (900, true));
    net.run(2 * SEC);
    assert_eq!(view(&net, new, B_NETS[1]).health, BEST);
}
