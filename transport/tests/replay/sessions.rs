//! The recorded sessions of lnet_selftest, as the replays play them, and the loop over them.
//!
//! Two of them are not played as they were captured: `lst-stop-force` begins in the middle of the session that
//! `lst-distribute-discard` began, so it is played behind that; the nodes of `mr-*` had two NIDs each, and are played as nodes
//! of one, with what was said over both.

use std::collections::BTreeSet;

use transport::testing::dialogue::{self, Said, rpcs};
use transport::testing::srpc::{self, Srpc, kind, service};
use transport::wire::{LnetBody, Nid, WireHandle};

use crate::{captures, folder, orders};

/// A recorded session.
pub struct Session {
    /// Its folder.
    pub dir: &'static str,
    /// Its capture.
    pub capture: String,
    /// Everything that was said.
    pub said: Vec<Said>,
}

impl Session {
    /// Lines of `lst` that the user of the console at `me` typed; none where it is no console.
    pub fn orders(&self, me: Nid) -> Vec<String> {
        orders::of(self.dir, &self.capture, me, &self.said)
    }

    /// The session without a test that our console refuses before it asks anybody (`lists_of_servers_stay_within_a_page` of
    /// `selftest::console`): lst gives the servers their part first.
    pub fn without_refused_tests(&self) -> Session {
        let mut gone = BTreeSet::new();
        for r in rpcs(&self.said) {
            let q = Srpc::of(&self.said[r.request].payload);
            // --distribute 3:5 of one client and two servers.
            let three = q.kind() == kind::TEST && q.get("is_client") == 0 && q.get("loop") == 3;
            if self.capture == "lst-full-session" && three && q.get("service") == service::PING {
                gone.extend([Some(r.request), r.reply].into_iter().flatten());
            }
        }
        let kept = self.said.iter().enumerate().filter(|(n, _)| !gone.contains(n));
        let said = kept.map(|(_, s)| s.clone()).collect();
        Session { dir: self.dir, capture: self.capture.clone(), said }
    }
}

/// Whether our console refuses an order that lst began with.
pub fn is_refused(line: &str) -> bool {
    line.contains("--distribute 3:5")
}

/// Nodes of a dialogue that take part in lnet_selftest.
pub fn nodes(said: &[Said]) -> BTreeSet<Nid> {
    let of = |s: &Said| matches!(s.portal(), Some(srpc::TESTS..=srpc::BULK));
    said.iter().filter(|s| of(s)).flat_map(|s| [s.hdr.src_nid, s.hdr.dest_nid]).collect()
}

/// All captures of these folders.
pub fn all(dirs: &[&'static str]) -> Vec<Session> {
    let mut out = Vec::new();
    for dir in dirs.iter().copied() {
        for capture in captures(dir) {
            let read = |name: &str| dialogue::said(&folder(dir).join(name).with_extension("pcap")).unwrap();
            let mut said = read(&capture);
            if capture == "lst-stop-force" {
                said = behind(read("lst-distribute-discard"), said);
            }
            if capture.starts_with("mr-") {
                said.iter_mut().for_each(on_one_rail);
            }
            out.push(Session { dir, capture, said });
        }
    }
    out
}

/// The second NIDs of the nodes of `mr-*`, and their first ones.
const RAILS: [(&str, &str); 3] = [
    ("192.168.80.21@tcp", "192.168.80.11@tcp"),
    ("192.168.80.22@tcp", "192.168.80.12@tcp"),
    ("192.168.80.23@tcp", "192.168.80.13@tcp"),
];

fn on_one_rail(s: &mut Said) {
    for nid in [&mut s.hdr.src_nid, &mut s.hdr.dest_nid] {
        if let Some((_, first)) = RAILS.iter().find(|r| r.0 == nid.to_string()) {
            *nid = first.parse().unwrap();
        }
    }
}

/// RPCs that were under way when `lst-stop-force` began: client, server, id of the reply (that of the bulk is the next), and
/// the handle of the server's GET.
const UNDER_WAY: [(&str, &str, u64, u64); 2] = [
    ("192.168.80.11@tcp", "192.168.80.13@tcp", 0x8e61_0000_0000_0dbe, 0x4b91),
    ("192.168.80.12@tcp", "192.168.80.14@tcp", 0x8e3a_0000_0000_0035, 0x315d),
];

/// `second` behind `first`, with what lies between them: the batch is run, and RPCs are under way.
fn behind(first: Vec<Said>, second: Vec<Said>) -> Vec<Said> {
    let batch = |said: &[Said], opc: u64| {
        let all = rpcs(said);
        let is = |m: &Srpc| m.kind() == kind::BATCH && m.get("opc") == opc;
        let r = all.into_iter().find(|r| is(&Srpc::of(&said[r.request].payload))).unwrap();
        [said[r.request].clone(), said[r.reply.unwrap()].clone()]
    };
    // The other batch's, with the number of this one.
    let [mut run, mut ran] = batch(&first, 1);
    let id = Srpc::of(&batch(&second, 2)[0].payload).get("batch");
    let rpyid = 0x8e61_0000_0000_0d97;
    run.payload = Srpc::of(&run.payload).with("batch", id).with("rpyid", rpyid).bytes;
    if let LnetBody::Put { match_bits, .. } = &mut ran.hdr.body {
        *match_bits = rpyid;
    }
    let mut between = vec![run, ran];
    for (client, server, rpyid, object) in UNDER_WAY {
        let (client, server): (Nid, Nid) = (client.parse().unwrap(), server.parse().unwrap());
        let find = |from: Nid, is: &dyn Fn(&Said) -> bool| {
            second.iter().find(|s| s.hdr.src_nid == from && is(s)).unwrap().clone()
        };
        let is_request = |s: &Said| s.portal() == Some(srpc::TESTS);
        let mut request = find(client, &is_request);
        let ids = Srpc::of(&request.payload).with("rpyid", rpyid).with("bulkid", rpyid + 1);
        request.payload = ids.bytes;
        let mut get = find(server, &|s| matches!(s.hdr.body, LnetBody::Get { .. }));
        let mut interface = 0;
        if let LnetBody::Get { handle, match_bits, .. } = &mut get.hdr.body {
            interface = handle.interface;
            (handle.object, *match_bits) = (object, rpyid + 1);
        }
        between.extend([request, get]);
        let handle = WireHandle { interface, object };
        let is_reply = |s: &Said| matches!(s.hdr.body, LnetBody::Reply { handle: h } if h == handle);
        if !second.iter().any(is_reply) {
            let mut reply = find(client, &|s| matches!(s.hdr.body, LnetBody::Reply { .. }));
            reply.hdr.body = LnetBody::Reply { handle };
            between.push(reply);
        }
    }
    let mut out = first;
    let mut at = out.last().map_or(0, |s| s.at) + 100_000_000;
    for mut s in between {
        at += 10_000_000;
        s.at = at;
        out.push(s);
    }
    at += 10_000_000;
    out.extend(second.into_iter().map(|s| Said { at: s.at + at, ..s }));
    out
}

/// Captures that a replay leaves out (a `*` at the end for all that begin so), nodes of one that it leaves out (none: all of
/// them), and why.
pub type LeftOut = (&'static str, &'static str, &'static str);

/// Gives every kernel of every session to `play`, but for those that are left out. An entry that leaves out nothing fails.
pub fn each_kernel(out: &[LeftOut], mut play: impl FnMut(&Session, Nid)) {
    let mut used = BTreeSet::new();
    for session in all(&["lnet", "probes", "upper"]) {
        for me in nodes(&session.said) {
            if !orders::is_kernel(session.dir, me) {
                continue;
            }
            let is = |l: &LeftOut| named(l.0, &session.capture) && (l.1.is_empty() || l.1 == me.to_string());
            match out.iter().position(is) {
                Some(n) => drop(used.insert(n)),
                None => play(&session, me),
            }
        }
    }
    assert_eq!(used.len(), out.len(), "an entry leaves nothing out: {out:?}");
}

/// Whether a name, or a beginning with a `*`, is this capture's.
pub fn named(name: &str, capture: &str) -> bool {
    name.strip_suffix('*').map_or(name == capture, |p| capture.starts_with(p))
}

/// Time at which slots of 8 s begin, a kernel's with its clock, ours with a node's first framework request, in ns.
pub const SLOTS_BEGIN: u64 = 1_000_000_000_000;
/// Time at which the dialogue of lst-session-expiry begins, so that its sessions end when they did, in ns.
pub const SESSION_IN_SLOT: u64 = 1_003_340_000_000;
