//! Input of the users of recorded consoles: orders in the language of `lst`, drawn from the dialogue where the console
//! itself was the only other member, written down where it was not.

use transport::testing::dialogue::{Said, rpcs};
use transport::testing::srpc::{Srpc, kind, service};
use transport::wire::Nid;

/// A line of `lst`.
pub type Order = String;

/// Whether a kernel is at this NID: the others are hands and nodes of ours.
pub fn is_kernel(dir: &str, nid: Nid) -> bool {
    dir != "probes" || crate::play::kernel(nid.ip().unwrap())
}

/// Lines of the consoles whose groups are not to be seen in the dialogue: capture, lines.
const LINES: &[(&str, &str)] = &[
    (
        "lst-full-session",
        "new_session full2
         add_group servers 192.168.80.12@tcp 192.168.80.13@tcp
         add_group clients 192.168.80.11@tcp
         ping servers
         ping 192.168.80.12@tcp
         add_batch bulk
         add_test --batch bulk --loop 5 --concurrency 2 --from clients --to servers ping
         add_test --batch bulk --loop 2 --concurrency 1 --distribute 1:1 --from clients --to servers brw write size=4096
         add_test --batch bulk --loop 2 --concurrency 1 --distribute 1:2 --from clients --to servers brw write check=simple size=8192
         add_test --batch bulk --loop 2 --concurrency 1 --from servers --to clients brw read check=full size=4096 off=0
         add_test --batch bulk --loop 2 --concurrency 1 --from clients --to servers brw read check=discard size=4096
         add_test --batch bulk --loop 1 --concurrency 1 --distribute 3:5 --from clients --to servers ping
         stop bulk
         run bulk
         query bulk
         query bulk
         query bulk
         query bulk
         stop bulk
         add_batch b2
         add_test --batch b2 --loop 20000 --concurrency 1 --from clients --to servers ping
         run b2",
    ),
    (
        "lst-distribute-discard",
        "new_session dist
         add_group c 192.168.80.11@tcp 192.168.80.12@tcp
         add_group s 192.168.80.13@tcp 192.168.80.14@tcp
         add_batch b1
         add_test --batch b1 --loop 1 --concurrency 2 --distribute 1:1 --from c --to s brw write check=discard size=4096
         add_test --batch b1 --loop 1 --concurrency 2 --distribute 2:1 --from c --to s brw read check=discard size=8192
         add_test --batch b1 --loop 1 --concurrency 2 --distribute 1:2 --from c --to s brw read check=discard size=20480
         add_test --batch b1 --loop 1 --concurrency 1 --distribute 2:2 --from c --to s brw write check=discard size=4096
         run b1
         query b1
         show_error c s
         add_batch b2
         add_test --batch b2 --loop -1 --concurrency 1 --distribute 1:1 --from c --to s brw write check=discard size=4096",
    ),
    (
        "lst-stop-force",
        "run b2
         stop b2 --force
         query b2
         show_error c s
         end_session",
    ),
    (
        "mr-lst",
        "new_session mr
         add_group me 192.168.80.11@tcp
         add_group g 192.168.80.12@tcp
         add_batch b1
         add_test --batch b1 --loop 6 --concurrency 2 --distribute 1:1 --from me --to g brw write check=full size=4096
         add_batch b2
         add_test --batch b2 --loop 4 --concurrency 1 --distribute 1:1 --from me --to g brw read check=full size=20480
         run b1
         run b2
         show_error g
         end_session",
    ),
    (
        "mr-resend-zc-put",
        "new_session mr
         add_group me 192.168.80.11@tcp
         add_group g 192.168.80.12@tcp
         add_batch b
         add_test --batch b --loop 12 --concurrency 1 --distribute 1:1 --from g --to me brw read check=full size=16384
         run b
         query b
         show_error g
         end_session",
    ),
    (
        "rt-v2-to-v3",
        "new_session rt
         add_group me 192.168.80.11@tcp
         add_group g 192.168.81.13@tcp1
         add_batch w
         add_test --batch w --loop 1 --concurrency 1 --distribute 1:1 --from me --to g brw write check=full size=65536
         add_batch r
         add_test --batch r --loop 1 --concurrency 1 --distribute 1:1 --from me --to g brw read check=full size=65536
         run w
         run r
         show_error g
         end_session",
    ),
    (
        "lst-session-expiry",
        "new_session exp
         add_group c 192.168.80.12@tcp
         add_group s 192.168.80.13@tcp
         add_batch b
         add_test --batch b --loop -1 --concurrency 1 --from c --to s ping
         run b",
    ),
];

/// Lines that the user of the console at `me` typed; none where another node is the console, or where it was not written down.
pub fn of(dir: &str, capture: &str, me: Nid, said: &[Said]) -> Vec<Order> {
    let first = said.iter().find(|s| s.srpc().is_some_and(|m| m.kind() == kind::MAKE));
    if first.is_none_or(|s| s.hdr.src_nid != me) {
        return Vec::new();
    }
    let written = |of: &str| {
        let (_, lines) = LINES.iter().find(|l| l.0 == of)?;
        Some(lines.lines().map(|l| l.trim().to_owned()).collect::<Vec<Order>>())
    };
    if capture == "lst-stop-force" {
        let before = written("lst-distribute-discard").unwrap_or_default();
        return [before, written(capture).unwrap_or_default()].concat();
    }
    match written(capture) {
        Some(lines) => lines,
        None if dir == "upper" && !capture.starts_with("rt-") => Vec::new(),
        None => drawn(me, said),
    }
}

/// Orders drawn from what a console said.
fn drawn(me: Nid, said: &[Said]) -> Vec<Order> {
    let all = rpcs(said);
    let asked: Vec<(u64, Srpc, Nid)> = all
        .iter()
        .filter(|r| r.client == me)
        .map(|r| (r.service, Srpc::of(&said[r.request].payload), r.server))
        .collect();
    let (mut out, mut n, mut sid, mut group, mut ended) = (Vec::new(), 0, None, 0, false);
    // Consecutive requests of a kind are one order's.
    let run = |n: &mut usize, same: &dyn Fn(&Srpc) -> bool| {
        let mut to = Vec::new();
        while let Some((s, q, nid)) = asked.get(*n)
            && *s < 10
            && same(q)
            && !to.contains(nid)
        {
            to.push(*nid);
            *n += 1;
        }
        to
    };
    let list = |nids: &[Nid]| nids.iter().map(Nid::to_string).collect::<Vec<_>>().join(" ");
    while let Some((of, q, _)) = asked.get(n) {
        let q = q.clone();
        match *of {
            service::MAKE => {
                if sid != Some(q.sid()) {
                    // One that ends without a word: nobody was in it.
                    if sid.replace(q.sid()).is_some() && !std::mem::take(&mut ended) {
                        out.push("end_session".to_owned());
                    }
                    let force = if q.get("force") != 0 { "--force " } else { "" };
                    out.push(format!("new_session {force}{}", q.text("name")));
                    out.push(format!("add_group me {me}"));
                    out.push("add_batch b".to_owned());
                }
                let to = run(&mut n, &|m| m.kind() == kind::MAKE && m.sid() == q.sid());
                group += 1;
                out.push(format!("add_group g{group} {}", list(&to)));
            }
            service::TEST => {
                let to = run(&mut n, &|m| m.kind() == kind::TEST && m.get("is_client") == 0);
                let concur = q.get("concur");
                // RPCs of the console's own units until the next test of its.
                let mine = asked[n..].iter().take_while(|a| a.0 != service::TEST && a.0 != service::REMOVE);
                let count = mine.filter(|a| a.0 == q.get("service")).count() as u64;
                let turns = count.div_ceil(concur * to.len() as u64).max(1);
                let test = match q.brw() {
                    _ if q.get("service") == service::PING => "ping".to_owned(),
                    (rw, flags, len, off) => {
                        let rw = ["", "read", "write"][rw as usize];
                        let check = ["", "none", "simple", "full", "discard"][flags as usize];
                        format!("brw {rw} check={check} size={len} off={off}")
                    }
                };
                out.push(format!(
                    "add_test --batch b --loop {turns} --concurrency {concur} --distribute 1:1 --from me --to g{group} {test}"
                ));
                out.push("run b".to_owned());
            }
            service::STAT => {
                run(&mut n, &|m| m.kind() == kind::STAT);
                out.push(format!("show_error g{group}"));
            }
            service::DEBUG => {
                run(&mut n, &|m| m.kind() == kind::DEBUG);
                out.push(format!("ping g{group}"));
            }
            service::REMOVE => {
                run(&mut n, &|m| m.kind() == kind::REMOVE);
                out.push("end_session".to_owned());
                ended = true;
            }
            _ => n += 1,
        }
    }
    out
}

/// A line as `lst` itself wants it.
pub fn for_lst(line: &str) -> Order {
    match line.split_once(' ') {
        Some(("ping", to)) if to.contains('@') => format!("ping --nodes {to}"),
        Some(("ping", to)) => format!("ping --group {to}"),
        _ => line.to_owned(),
    }
}
