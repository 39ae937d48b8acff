//! Nodes and raw peers in virtual time, the wire types, and the checklists of the protocol.

mod acks;
mod answers;
mod bad_input;
mod builder;
mod captures;
mod claims;
mod copy_jobs;
mod dialling;
mod discovery;
mod examples;
mod faults;
mod figures;
mod group;
mod homes;
mod hostile;
mod identity;
mod lazy;
mod multi_rail;
mod net;
mod netsock;
mod netsock_dgram;
mod netsock_press;
mod netsock_wire;
mod never_sent;
mod nis;
mod nothing_lost;
mod own_nid;
mod pair;
mod protocompat;
#[path = "../common/raw.rs"]
mod raw;
mod requirements;
mod rooms;
#[path = "../common/routed.rs"]
mod routed;
mod routes;
mod routes_hostile;
mod routes_selftest;
mod selftest;
mod selftest_bounds;
mod shards;
mod timers;
mod tunables;
mod versions;
mod wire_props;
mod zero_copy;
