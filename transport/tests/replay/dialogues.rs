//! lnet_selftest in the captures: every message is read, every RPC has the parts that its service has, and the few that
//! lack one are named.

use std::collections::BTreeMap;

use crate::{captures, folder};
use transport::testing::dialogue::{self, Rpc, Said, has_bulk};
use transport::testing::srpc::{self, Srpc, service};
use transport::wire::LnetBody;

/// Folders with lnet_selftest in them.
const FOLDERS: [&str; 3] = ["lnet", "probes", "upper"];

/// RPCs without a reply, or without the bulk that they ask for, and why.
const UNFINISHED: &[(&str, usize, &str)] = &[
    ("active-hellos", 1, "asked by a pid to which the kernel has no connection that would carry the reply"),
    ("crashes-and-stall", 4, "the kernel panicked of the first; the others are to services without buffers"),
    ("lst-full-session", 1, "the capture ends before"),
    ("lst-node-panic-off8", 2, "both kernels panicked"),
    ("lst-stop-force", 1, "stopped by force"),
    ("mr-resend-zc-put", 1, "the server's bulk was lost with its connections: no reply is ever sent"),
    (
        "selftest-requests",
        7,
        "malformed, of a wrong magic, or to a kernel that had died: dropped without a reply",
    ),
];

fn read(folder_name: &str, capture: &str) -> (Vec<Said>, Vec<Rpc>) {
    let said = dialogue::said(&folder(folder_name).join(capture).with_extension("pcap")).unwrap();
    let rpcs = dialogue::rpcs(&said);
    (said, rpcs)
}

#[test]
fn the_lists_name_as_many_messages_of_selftest() {
    let mut all = 0;
    for dir in FOLDERS {
        for capture in captures(dir) {
            let (said, _) = read(dir, &capture);
            let list = std::fs::read_to_string(folder(dir).join(&capture).with_extension("txt")).unwrap();
            let named = list.lines().filter(|l| ["ptl=50", "ptl=51", "ptl=52"].iter().any(|p| l.contains(p)));
            let found = said.iter().filter(|s| matches!(s.portal(), Some(srpc::TESTS..=srpc::BULK))).count();
            // A list of a router's links names what it forwards twice.
            let named = if capture.starts_with("rt-") { named.count() / 2 } else { named.count() };
            assert_eq!(found, named, "{dir}/{capture}");
            all += found;
        }
    }
    assert!(all > 1200, "{all} messages");
}

#[test]
fn every_rpc_has_its_parts() {
    let mut unfinished = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    for dir in FOLDERS {
        for capture in captures(dir) {
            let (said, rpcs) = read(dir, &capture);
            for rpc in &rpcs {
                let request = Srpc::of(&said[rpc.request].payload);
                *kinds.entry((rpc.service, request.name())).or_insert(0) += 1;
                if let Some(n) = rpc.reply {
                    let reply = Srpc::of(&said[n].payload);
                    assert_eq!(reply.kind(), request.kind() + 1, "{capture} {n}: {reply:?} of {request:?}");
                    let bulk = has_bulk(&request, rpc.service) && reply.get("status") == 0;
                    assert!(!bulk || !rpc.bulk.is_empty(), "{capture} {n}: no bulk");
                } else {
                    unfinished.entry(capture.clone()).or_insert_with(Vec::new).push(request.clone());
                }
                if let (service::BRW, [get, reply]) = (rpc.service, &rpc.bulk[..]) {
                    let LnetBody::Get { sink_length, .. } = said[*get].hdr.body else { panic!("{capture}") };
                    assert_eq!(sink_length as usize, said[*reply].payload.len());
                    assert_eq!(u64::from(sink_length), request.get("len"));
                }
            }
        }
    }
    let found: Vec<(&str, usize)> = unfinished.iter().map(|(c, l)| (c.as_str(), l.len())).collect();
    let listed: Vec<(&str, usize)> = UNFINISHED.iter().map(|(c, n, _)| (*c, *n)).collect();
    assert_eq!(found, listed, "{unfinished:#?}");
    assert!(kinds.len() >= 9 && kinds.values().sum::<usize>() > 600, "{kinds:?}");
}
