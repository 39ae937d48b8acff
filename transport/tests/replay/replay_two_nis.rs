//! Captured nodes of two rails (docs/protocol/upper.md §2, §3): our machine with both NIs in the place of one, the other one as it was
//! recorded, whole and byte at a time. What it writes on each connection is byte for byte what the kernel wrote, in its order, but
//! for what [`DIFFER`] lists, message by message.

use crate::CHUNKS;
use crate::SEC;
use crate::differ::{Differs, Found};
use crate::place::{Case, Play};

const A: [&str; 2] = ["192.168.80.11@tcp", "192.168.80.21@tcp"];
const B: [&str; 2] = ["192.168.80.12@tcp", "192.168.80.22@tcp"];
const C: [&str; 2] = ["192.168.80.13@tcp", "192.168.80.23@tcp"];

/// The place, and what is known of it.
const CASES: [(&str, Case); 6] = [
    ("mr-discover-ping, A", Case { discovers: Some(2_316), ..Case::rails("mr-discover-ping", A, &[&B]) }),
    (
        "mr-discover-ping, B",
        Case { tune: |c| c.ping_sequence = Some(8), ..Case::rails("mr-discover-ping", B, &[&A]) },
    ),
    ("mr-lst, A", Case::rails("mr-lst", A, &[&B])),
    (
        "mr-link-down-fatal, A",
        Case { loses: true, under_way: Some((A[1], C[1])), ..Case::rails("mr-link-down-fatal", A, &[&C]) },
    ),
    // sock_timeout is 6 s on both.
    (
        "mr-rail-silent, B",
        Case {
            silent: Some((6_000, 28_270, B[1])),
            tune: |c| c.timeout = 6 * SEC,
            ..Case::rails("mr-rail-silent", B, &[&A])
        },
    ),
    // It refuses below its LNet: nothing that is for that NID comes until it is over.
    (
        "mr-resend-refused, B",
        Case {
            silent: Some((1_400, 55_000, C[1])),
            loses: true,
            tune: |c| c.ping_sequence = Some(5),
            ..Case::rails("mr-resend-refused", C, &[&A])
        },
    ),
];

const FIRST: &str = "a kernel's turns of own NIs count for a node of which it knows one NID, too; ours asks by the NI that leads there";
const TURNS: &str = "turns begin elsewhere: ours count the messages among whose ways there was a choice";
const CLAIM: &str =
    "ours has each NID say itself whose it is, before messages for its node go there (claims.rs)";
const BACK: &str = "a kernel pushes back by the next pair of its turns, ours by the pair that it was told by";
const TOLD_DOWN: &str = "a kernel pings a NID that has failed though its node says that it is down, and hears so that it is up again: the push was \
                         lost (#60, #61); ours pings it at other times, and by the NI whose turn it is";
const COMPLETES: &str = "a kernel completes with dials of its own a set that the other one has begun, if it had dialled that NID before, and says NONE to \
                         what crosses them; ours leaves a set to who dialled it";
const KEEPALIVE: &str = "the first keepalive follows what was said before the capture";

const DIFFER: &[Differs] = &[
    ("mr-discover-ping, A", 4, "not dialled", 1, FIRST),
    ("mr-discover-ping, A", 4, "missing: GET of 272", 1, FIRST),
    ("mr-discover-ping, A", 4, "missing: PUT Up Up", 1, FIRST),
    ("mr-discover-ping, A", 1, "besides: GET of 272", 1, FIRST),
    ("mr-discover-ping, A", 1, "besides: PUT Up Up", 1, FIRST),
    // One of them shows the user what was discovered.
    ("mr-discover-ping, A", 1, "besides: GET of 3960", 2, TURNS),
    ("mr-discover-ping, A", 1, "missing: GET of 3960", 2, TURNS),
    ("mr-discover-ping, A", 4, "besides: GET of 3960", 1, TURNS),
    ("mr-discover-ping, A", 7, "missing: GET of 3960", 1, TURNS),
    ("mr-discover-ping, A", 7, "besides: GET of 272", 1, CLAIM),
    ("mr-discover-ping, B", 1, "besides: GET of 272", 1, CLAIM),
    ("mr-discover-ping, B", 7, "not dialled", 1, BACK),
    ("mr-discover-ping, B", 7, "missing: PUT Up Up", 1, BACK),
    ("mr-discover-ping, B", 4, "besides: PUT Up Up", 1, BACK),
    ("mr-lst, A", 2, "missing: NOOP", 1, KEEPALIVE),
    (
        "mr-link-down-fatal, A",
        1,
        "besides: PUT Up Up",
        1,
        "ours tells a node by each pair of NIDs that it is told by; a kernel has told it before the capture",
    ),
    ("mr-link-down-fatal, A", 7, "not dialled", 1, TOLD_DOWN),
    ("mr-link-down-fatal, A", 7, "missing: ACCEPTOR", 1, TOLD_DOWN),
    ("mr-link-down-fatal, A", 7, "missing: HELLO", 1, TOLD_DOWN),
    ("mr-link-down-fatal, A", 7, "missing: GET of 272", 2, TOLD_DOWN),
    ("mr-link-down-fatal, A", 7, "missing: GET of 3960", 1, TOLD_DOWN),
    ("mr-link-down-fatal, A", 1, "besides: GET of 3960", 2, TOLD_DOWN),
    ("mr-link-down-fatal, A", 6, "besides: GET of 272", 1, TOLD_DOWN),
    ("mr-link-down-fatal, A", 8, "missing: GET of 3960", 1, TOLD_DOWN),
    ("mr-link-down-fatal, A", 7, "missing: REPLY Up Up", 1, TOLD_DOWN),
    ("mr-link-down-fatal, A", 9, "not dialled", 1, TOLD_DOWN),
    ("mr-link-down-fatal, A", 10, "not dialled", 1, TOLD_DOWN),
    ("mr-link-down-fatal, A", 10, "missing: ACCEPTOR", 1, TOLD_DOWN),
    ("mr-link-down-fatal, A", 10, "missing: HELLO", 1, TOLD_DOWN),
    ("mr-rail-silent, B", 5, "missing: NOOP", 1, KEEPALIVE),
    ("mr-resend-refused, B", 14, "not dialled", 1, COMPLETES),
    ("mr-resend-refused, B", 14, "missing: ACCEPTOR", 1, COMPLETES),
    ("mr-resend-refused, B", 14, "missing: HELLO", 1, COMPLETES),
    ("mr-resend-refused, B", 19, "missing: HELLO", 1, COMPLETES),
    ("mr-resend-refused, B", 19, "besides: HELLO", 1, COMPLETES),
    ("mr-resend-refused, B", 20, "not dialled", 1, COMPLETES),
    ("mr-resend-refused, B", 20, "missing: ACCEPTOR", 1, COMPLETES),
    ("mr-resend-refused, B", 20, "missing: HELLO", 1, COMPLETES),
    ("mr-resend-refused, B", 21, "not dialled", 1, COMPLETES),
    ("mr-resend-refused, B", 21, "missing: HELLO", 1, COMPLETES),
    ("mr-resend-refused, B", 21, "besides: HELLO", 1, COMPLETES),
];

/// Whether all that applications asked for came to a good end, and nothing was taken for what it is not.
fn is_well(played: &Play) -> bool {
    let c = played.machine.counters();
    let odd = c.err_cookie + c.err_ksock_type + c.err_lnet_type + c.err_dest_nid + c.drop_no_match;
    played.failed.is_empty() && odd == 0
}

#[test]
fn in_the_place_of_a_node_with_two_nis_ours_writes_what_the_kernel_wrote() {
    let mut found = Found::new(DIFFER);
    for (place, case) in &CASES {
        for chunk in CHUNKS {
            let played = Play::new(case, chunk).run(case);
            found.add(place, chunk, &played);
            assert!(
                is_well(&played),
                "{place} {chunk}: {:?}, {:?}",
                played.failed,
                played.machine.counters()
            );
        }
    }
    let wrong: Vec<String> = found.wrong().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Requests of lnet_selftest take turns among own NIs, as the kernel's did, if the pair is left to LNet.
#[test]
fn requests_of_selftest_take_turns_among_own_nis() {
    let case = Case { paired: false, ..Case::rails("mr-lst", A, &[&B]) };
    for chunk in CHUNKS {
        let played = Play::new(&case, chunk).run(&case);
        let of = |own: &str, wrote: bool| {
            let mine = played.links.iter().filter(|l| l.own == own.parse().unwrap());
            mine.map(|l| if wrote { l.requests_written() } else { l.requests_captured() }).sum::<usize>()
        };
        let [ours, captured] = [true, false].map(|wrote| A.map(|own| of(own, wrote)));
        assert_eq!(ours.iter().sum::<usize>(), captured.iter().sum::<usize>());
        assert!(
            captured[0].abs_diff(captured[1]) <= 1 && ours[0].abs_diff(ours[1]) <= 1,
            "{ours:?} {captured:?}"
        );
    }
}
