//! Captured routers (docs/protocol/upper.md §1): our machine in the router's place, both neighbours as they were recorded,
//! whole and byte at a time. What it writes on each connection is byte for byte what the kernel wrote, in its order, but for what
//! [`DIFFER`] lists, message by message.
//!
//! Most captures begin with connections that are there: those are made first, and the neighbours tell of themselves on them, as
//! they had. Left to the capture are incarnations, the router's own handles, and the number of its first zero-copy cookie.

use transport::lnet::RoutingState;

use crate::CHUNKS;
use crate::differ::{Differs, Found};
use crate::place::{Case, Play};

const CASES: [Case; 7] = [
    Case { forwards: false, ..Case::router("rt-setup", 25, 4_700, [0; 3]) },
    Case::router("rt-ping-discover", 25, 26_000, [0; 3]),
    Case::router("rt-lst-write-1M", 25, 26_000, [0; 3]),
    Case::router("rt-lst-write-4k", 25, 26_000, [0; 3]),
    Case::router("rt-buffers-exhausted", 10, 11_000, [0, 1, 1]),
    // The client's LNet ends and begins anew with V2; its network is silent three times for longer than two checks.
    Case::router("rt-v2-to-v3", 10, 11_000, [0; 3]),
    // Of the router that died nothing is in the capture; the one that returned is not told to route.
    Case {
        enabled: None,
        begins: 235_000,
        forwards: false,
        ..Case::router("rt-router-dies-and-returns", 25, 0, [0; 3])
    },
];

const TICK: &str = "a kernel looks for silent networks once a second, ours when the time is over: here the last ping came at 26.54, the kernel \
                    says down at 36.73, and a question comes at 36.67";
const LINE: &str = "a kernel's threads put an answer and a push in line in either order (#83 and #405 of rt-v2-to-v3); ours answers first";

const DIFFER: &[Differs] = &[
    (
        "rt-v2-to-v3",
        6,
        "not dialled",
        1,
        "a kernel remembers a peer that has closed all its connections, and dials it to push; ours tells it when it is heard again",
    ),
    ("rt-v2-to-v3", 7, "later: PUT Down Up", 1, "the same: it is pushed once it has told of itself"),
    ("rt-v2-to-v3", 7, "later: PUT Up Up", 2, LINE),
    ("rt-v2-to-v3", 3, "missing: REPLY Up Up", 1, TICK),
    ("rt-v2-to-v3", 3, "besides: REPLY Down Up", 1, TICK),
    ("rt-v2-to-v3", 3, "later: ACK of 0", 1, TICK),
    ("rt-router-dies-and-returns", 11, "later: PUT Up Up", 1, LINE),
];

#[test]
fn in_a_routers_place_ours_writes_what_the_kernel_wrote() {
    let (mut wrong, mut found) = (Vec::new(), Found::new(DIFFER));
    for case in &CASES {
        for chunk in CHUNKS {
            let mut played = Play::new(case, chunk).run(case);
            let view = played.machine.routing(played.now, None);
            let state = if case.enabled.is_some() { RoutingState::On } else { RoutingState::Off };
            assert_eq!(view.state, state, "{}", case.name);
            found.add(case.name, chunk, &played);
            let c = played.machine.counters();
            let across = c.forward_rx_msgs;
            let lost = c.drop_no_route + c.drop_route_loop + c.drop_not_for_us + c.drop_next_hop;
            let copied = if chunk == 1 { 0 } else { c.forward_copied_bytes };
            let good = across == c.forwarded_msgs && lost + copied == 0;
            if !good || (across > 0) != case.forwards {
                wrong.push(format!(
                    "{} {chunk}: {across} messages came, {} left",
                    case.name, c.forwarded_msgs
                ));
            }
        }
    }
    wrong.extend(found.wrong());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// With one large buffer each zero-copy ACK to the source follows the next hop's of the message before (upper.md §1.3).
#[test]
fn with_one_buffer_the_source_is_acknowledged_when_the_next_hop_has_acknowledged() {
    let case = CASES.iter().find(|c| c.name == "rt-buffers-exhausted").unwrap();
    for chunk in CHUNKS {
        let mut played = Play::new(case, chunk).run(case);
        // To the source on connection 1: 9 to 13; from the next hop on connection 4: 2 to 6.
        let acks: Vec<(bool, u64)> = played.acks.iter().map(|(heard, _, cookie)| (*heard, *cookie)).collect();
        let turns = (0..5).flat_map(|k| [(false, 9 + k), (true, 2 + k)]);
        assert_eq!(acks, turns.collect::<Vec<_>>(), "{chunk}");
        let view = played.machine.routing(played.now, None);
        assert_eq!((view.buffers[2].credits, view.buffers[2].least_credits), (1, -1));
        assert!(played.machine.counters().forward_waits >= 4);
    }
}
