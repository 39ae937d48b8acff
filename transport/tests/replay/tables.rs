//! Differences between our machine and the node in whose place it stands, and why. The tests hold these tables to
//! be exact: an entry that no longer differs fails as much as a difference that is in none.

/// Connections of a capture, and the reason why they differ.
pub struct Exception {
    /// The capture, in testdata/captures/probes.
    pub capture: &'static str,
    /// Its connections, numbered as in the list beside it.
    pub conns: &'static [usize],
    /// Beginning of what the test finds there.
    pub what: &'static str,
    /// The difference, and why.
    pub why: &'static str,
}

const fn e(capture: &'static str, conns: &'static [usize], why: &'static str) -> Exception {
    Exception { capture, conns, what: "", why }
}

const BEFORE: &str = "the connection, or the set that it belongs to, was there before the capture began";
const DIED: &str = "the kernel died of this message; we answer it (replay_crashes.rs)";
const SWAP: &str = "kernels do not swap the NIDs of a big-endian V2 or V3 HELLO (socklnd.md §2.8); we do, and \
                    answer the peer where a kernel answers a NID made of its halves";
const ANOTHER_PID: &str = "a kernel that fails to reach one pid of a NID closes the connections of the others \
                           (socklnd.md §4); we close only what failed";

const NONES: &str = "a kernel says NONE to a peer of another incarnation or version, and closes the set; we close the set \
                     and take the peer (field report L1: kernels count NONEs, and die of the third)";

/// Our machine in the kernels' place.
pub const KERNELS: &[Exception] = &[
    e("active-hellos", &[40], SWAP),
    e("active-hellos", &[45, 51], BEFORE),
    e("active-hellos", &[49], ANOTHER_PID),
    e(
        "active-hellos",
        &[55],
        "a kernel without BULK_IN has no connection for a zero-copy ACK and closes; we send it on CONTROL",
    ),
    e("active-sets", &[1, 33, 45], BEFORE),
    e(
        "active-sets",
        &[22, 23],
        "a FIN together with part of a message goes unnoticed by a kernel (socklnd.md §8); we close at once",
    ),
    e("active-sets", &[30, 37, 49], NONES),
    e("active-sets", &[54, 55], SWAP),
    e("active-sets", &[69], DIED),
    e("crashes-and-stall", &[4, 5], DIED),
    e("lnet-bad-headers", &[1, 2, 3], ANOTHER_PID),
    e(
        "passive-hello-answers",
        &[10],
        "BULK_IN refused three times costs a kernel BULK_OUT as well (LU-17258); we dial that then",
    ),
    e(
        "selftest-requests",
        &[3],
        "the kernel had died of another probe (active-sets, connection 69); we keep alive, and close with the \
         siblings",
    ),
    e(
        "zc-of-ours",
        &[1, 2, 3],
        "a kernel asks for zero-copy ACKs over CONTROL, too; we ask once our BULK_OUT is up (socklnd.md §6.3, \
         §12.6), so that the hand's ACK is for a cookie that we never gave, and closes the set",
    ),
];

const ACCEPTOR: &str = "the hand writes acceptor requests that are wrong, of another version or order, or from \
                        ports of its choice, one connection each";
const HELLO: &str = "the hand writes HELLOs of unknown versions and types, with addresses, in the other order, \
                     from NIDs that are not its own, or says too little";
const V4: &str = "the hand speaks V4 over IPv4; a node begins with V3 there (socklnd.md §2.4)";
const MORE: &str = "the hand opens connections that a node has no reason for: a type that it has, another pid, \
                    another version or incarnation, one of the types alone";
const MESSAGE: &str = "the hand writes what no node does: unknown types, wrong NIDs, lengths, pids or offsets, \
                       and half messages";
const SUM: &str = "the hand writes checksums on V3, right and wrong; nodes have none there (socklnd.md §5.3)";
const ACKS: &str = "the hand acknowledges cookies twice, in places of its choice, or some that nobody gave";
const COOKIE: &str =
    "the hand asks for zero-copy ACKs with cookies of its choice, where a node would not ask";
const ANSWER: &str = "the hand answers HELLOs with NONE, another version, type, NID or pid, or not at all, \
                      where a node agrees";
const INFO: &str = "the hand's ping info differs from what a node has: features, order, NIDs";

/// Our machine in the hand's place.
pub const PROBERS: &[Exception] = &[
    e("active-hellos", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], ACCEPTOR),
    e("active-hellos", &[16, 34], V4),
    e("active-hellos", &[17, 18, 19, 20, 21, 22, 23, 24, 25, 26], HELLO),
    e(
        "active-hellos",
        &[27],
        "the hand's GET goes over ANY on V3, which carries nothing for a node (socklnd.md §7)",
    ),
    e("active-hellos", &[29, 30, 31, 32, 33, 35, 36, 37, 38, 39, 40, 42, 43, 44, 52], HELLO),
    e("active-hellos", &[45, 51], BEFORE),
    e("active-hellos", &[46, 48], MORE),
    e("active-hellos", &[55], COOKIE),
    e("active-hellos", &[59], ANSWER),
    e("active-sets", &[1, 33, 45], BEFORE),
    e("active-sets", &[2, 4, 5, 38, 42, 57, 60, 63], SUM),
    e("active-sets", &[11, 13, 14, 27, 30, 31, 32, 37, 41, 49, 50, 53], MORE),
    e("active-sets", &[21, 24], MESSAGE),
    e("active-sets", &[54, 65, 66, 67, 68], HELLO),
    e("active-sets", &[69], COOKIE),
    e("crashes-and-stall", &[1], MESSAGE),
    e("crashes-and-stall", &[4, 5, 18], COOKIE),
    e("crashes-and-stall", &[9, 10, 11], ANSWER),
    e("crashes-and-stall", &[12, 14], "the hand sends a small GET on BULK_OUT, beside CONTROL"),
    e("discovery-and-lst-failures", &[25, 28, 31], INFO),
    e("lnet-bad-headers", &[1, 5, 8, 11, 14, 17, 20, 21, 22, 23, 24, 25, 26, 27, 28], MESSAGE),
    e("passive-hello-answers", &[1, 3, 5, 8, 9, 10, 14, 19, 20, 22, 24], ANSWER),
    e("zc-and-csum-bad", &[1, 5, 8, 10], ACKS),
    e("zc-and-csum-bad", &[13, 15, 16, 20, 23, 27, 30, 33], SUM),
    e("zc-of-ours", &[1, 2], COOKIE),
    e("zc-of-ours", &[3], MORE),
    e("zc-piggyback", &[1, 2, 3], ACKS),
];

const RAILS: &str = "what the node does on one rail comes of the other: played with both NIs, byte for byte by replay_two_nis, and beside model kernels by \
                     replay_rails";
const OFF: &str =
    "a node is switched off in the middle: in its place we go on, and the replay's TCP does not fall silent";
const ROUTED: &str =
    "both links of a router are in one file: replay_router plays it, replay_routes its users";

/// Captures of `upper/` that are not played node by node, and why.
pub const UPPER_LEFT_OUT: &[(&str, &str)] = &[
    ("fault-drop-delay", BEFORE),
    ("lst-session-expiry", OFF),
    ("lst-stop-force", BEFORE),
    ("mr-discover-ping", RAILS),
    ("mr-link-down-fatal", RAILS),
    ("mr-lst", RAILS),
    ("mr-net-del-add", BEFORE),
    ("mr-rail-silent", RAILS),
    ("mr-resend-refused", RAILS),
    ("mr-resend-zc-put", RAILS),
    ("rt-*", ROUTED),
];

const NOBODY: &str = "the user pings an address at which nobody listens: the refusal is no end of ours";

/// Our machine in the place of the kernels of `upper/`, each address a node of one NI.
pub const UPPER: &[Exception] = &[
    Exception { what: "begins before the capture", ..e("lst-distribute-discard", &[1, 2, 3, 13], BEFORE) },
    Exception {
        what: "byte 120 of 33416, 33416 written",
        ..e(
            "lst-full-session",
            &[6],
            "the order in which bulk of two RPCs leaves is their applications' doing",
        )
    },
    Exception { what: "does not close", ..e("lst-full-session", &[7], NOBODY) },
    Exception { what: "does not close", ..e("lst-node-panic-off8", &[7], NOBODY) },
];
