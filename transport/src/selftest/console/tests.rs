//! The console against members that a table of rules plays, in virtual time; its texts against those that lst printed on live
//! kernels (testdata/texts).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::core::{Core, Said, Want};
use super::desk::{Fail, SEC, strerror};
use super::report::id;
use super::words::split;
use crate::wire::Nid;
use crate::wire::srpc::{Body, FrameworkCounters, LnetCounters, Message, Name, RpcCounters, Sid, opc};

/// A member, as far as a console sees it.
#[derive(Clone, Default)]
struct Member {
    session: Option<(Sid, Name, u32)>,
    /// Batches that are active.
    active: BTreeSet<u64>,
    /// Tests without an end, by batch.
    endless: BTreeSet<u64>,
    /// It does not answer, but by this errno.
    dead: Option<u32>,
    /// Features that it knows.
    features: u32,
    rpc_errors: u32,
    stats: u32,
    /// Its RPCs do not end by themselves: only a stop by force ends its batches.
    stuck: bool,
}

impl Member {
    fn answer(&mut self, m: &Message) -> Message {
        let sid = self.session.map_or(Sid::INVALID, |s| s.0);
        let features = self.session.map_or(self.features, |s| s.2);
        let ours = m.body.sid() == Some(sid);
        let body = match m.body {
            Body::MakeSession { .. } if m.features & !self.features != 0 => {
                Body::MakeSessionReply { status: 71, sid, timeout: 100, name: Name::default() }
            }
            Body::MakeSession { sid: new, force, name, .. } => match self.session {
                Some((_, name, _)) if !ours && force == 0 => {
                    Body::MakeSessionReply { status: 16, sid, timeout: 100, name }
                }
                _ => {
                    self.session = Some((new, name, m.features));
                    let name = Name::default();
                    let body = Body::MakeSessionReply { status: 0, sid: new, timeout: 100, name };
                    return Message::new(m.features, body);
                }
            },
            Body::RemoveSession { .. } if ours => {
                *self = Member { session: None, ..self.clone() };
                Body::RemoveSessionReply { status: 0, sid: Sid::INVALID }
            }
            Body::RemoveSession { .. } => Body::RemoveSessionReply { status: 3, sid },
            Body::Debug { .. } => {
                let name = self.session.map_or(Name::default(), |s| s.1);
                let status = if sid.is_any() { 3 } else { 0 };
                Body::DebugReply { status, sid, timeout: 100, nbatch: 0, name }
            }
            Body::Test(t) => {
                if t.is_client && t.loops > 10_000 {
                    self.endless.insert(t.batch);
                }
                Body::TestReply { status: if ours { 0 } else { 2 }, sid }
            }
            Body::Batch { batch, opc: what, arg, .. } => {
                match what {
                    opc::RUN if self.endless.contains(&batch) => drop(self.active.insert(batch)),
                    opc::STOP if arg == 1 || !self.stuck => drop(self.active.remove(&batch)),
                    _ => {}
                }
                let active = u32::from(self.active.contains(&batch));
                Body::BatchReply { status: if ours { 0 } else { 3 }, sid, active, time: 0 }
            }
            Body::Stat { .. } => {
                self.stats += 1;
                let fw = FrameworkCounters { running_ms: self.stats * 1000, ..Default::default() };
                let rpc = RpcCounters { errors: self.rpc_errors, ..Default::default() };
                let (n, b) = (self.stats * 100, u64::from(self.stats) << 16);
                let lnet = LnetCounters {
                    send_count: n,
                    recv_count: n,
                    send_length: b,
                    recv_length: b,
                    ..Default::default()
                };
                Body::StatReply { status: if ours { 0 } else { 3 }, sid, fw, rpc, lnet }
            }
            other => panic!("a console asks no {other:?}"),
        };
        Message::new(features, body)
    }
}

/// A console among members.
struct Lab {
    core: Core,
    now: u64,
    members: BTreeMap<Nid, Member>,
    /// Questions, as they went out.
    asked: Vec<String>,
}

/// Result of a verb.
#[derive(Debug, Default)]
struct Gave {
    out: String,
    err: String,
    status: u8,
}

fn nid(n: u8) -> Nid {
    format!("192.168.80.{n}@tcp").parse().unwrap()
}

impl Lab {
    fn new(nodes: &[u8]) -> Lab {
        let member = Member { features: 1, ..Member::default() };
        let members = nodes.iter().map(|n| (nid(*n), member.clone())).collect();
        Lab { core: Core::new(nid(11), 1, 1_000, "root@c".into()), now: 0, members, asked: Vec::new() }
    }

    fn reply(&mut self, w: &Want) -> Result<Message, Fail> {
        let fail = |errno| Err(Fail { errno, why: "as the test has it".into() });
        match self.members.get_mut(&w.nid) {
            None if w.nid.net_num() == 7 => fail(113),
            None => fail(111),
            Some(Member { dead: Some(errno), .. }) => fail(*errno),
            Some(m) => Ok(m.answer(&w.request)),
        }
    }

    fn ask(&mut self, line: &str) -> Gave {
        self.ask_as(line, None)
    }

    fn ask_as(&mut self, line: &str, key: Option<u32>) -> Gave {
        self.core.type_in(split(line).unwrap(), key, None);
        let mut gave = Gave::default();
        for _ in 0..10_000 {
            let busy = self.core.turn(self.now);
            while let Some(w) = self.core.wants.pop_front() {
                // What a peer would parse.
                assert_eq!(Message::parse(&w.request.emit()).unwrap(), w.request);
                self.asked.push(format!("{} {:?} {:?}", w.nid, w.request.body, w.dests));
                let got = self.reply(&w);
                self.core.answer(self.now, w.tag, got);
            }
            while let Some((_, s)) = self.core.said() {
                match s {
                    Said::Report(r) if r.is_fault() => gave.err += &r.text(),
                    Said::Report(r) => gave.out += &r.text(),
                    Said::End(status) => {
                        gave.status = status;
                        return gave;
                    }
                    Said::Exit => {}
                }
            }
            if !busy {
                self.now = self.core.deadline().unwrap_or(self.now).max(self.now + 1_000_000);
            }
        }
        panic!("{line} does not end");
    }
}

/// Texts of a folder, by command: file, exit status, command line.
fn commands(dir: &Path) -> Vec<(String, u8, String)> {
    let text = std::fs::read_to_string(dir.join("commands.txt")).unwrap();
    let mut all = Vec::new();
    for l in text.lines() {
        let mut parts = l.splitn(4, " | ");
        let mut part = || parts.next().unwrap().to_owned();
        let (file, _, status, line) = (part(), part(), part(), part());
        all.push((file, status.parse().unwrap(), line));
    }
    all
}

/// A text without what differs from run to run: NIDs with pid, whole numbers with digits behind a point, rates, stamps.
fn plain(text: &str) -> String {
    let mut o = String::new();
    for line in text.lines() {
        let words: Vec<String> = line
            .split(' ')
            .map(|w| {
                let end = w.trim_end_matches([':', ',']);
                let tabs = end.len() - end.trim_start_matches('\t').len();
                let is_nid = end[tabs..].starts_with("0-") && end.contains("@<")
                    || end[tabs..].starts_with("12345-") && end.contains('@');
                match is_nid {
                    true => format!("{}NODE{}", &end[..tabs], &w[end.len()..]),
                    false => w.to_owned(),
                }
            })
            .collect();
        let mut l = words.join(" ");
        if l.starts_with("[R] ") || l.starts_with("[W] ") {
            let shape = |w: &&str| !w.is_empty();
            let each = l.split(' ').filter(shape);
            let each = each.map(|w| if w.parse::<f64>().is_ok() { "N" } else { w });
            l = each.collect::<Vec<_>>().join(" ");
        }
        if let Some((name, rest)) = l.split_once(" ID: ")
            && let Some((_, rest)) = rest.split_once('@')
        {
            l = format!("{name} ID: N@{rest}");
        }
        o += &l;
        o.push('\n');
    }
    o
}

/// lst's standard error as ours begins: `Unknown error -N` is the text of the errno.
fn errors(text: &str) -> String {
    let mut o = String::new();
    for line in text.lines() {
        match line.split_once("Unknown error -") {
            Some((head, n)) => o += &format!("{head}{}\n", strerror(n.parse().unwrap())),
            None => o += &format!("{line}\n"),
        }
    }
    o
}

/// Texts that differ by intent, with the reason: docs/selftest.md lists them.
const DIFFERENT: [&str; 18] = [
    // A session is there: lst is told so by its ioctl's absence, and then has lost it.
    "01-new_session",
    // The reader error and the (null) names of lst's netlink code; no filtering.
    "00-no-session-list_group",
    "04-list_group-name",
    "04-list_group-all",
    "04-list_group-active",
    "04-list_group-busy",
    "04-list_group-down",
    "04-list_group-part-all",
    "04-list_group-unknown-state",
    "04-list_group-unknown",
    "05-list_group-all-after",
    "31-list_group-busy",
    // A row of garbage behind the nodes; a session can be pinged.
    "07-ping-group",
    "07-ping-session",
    // --read and --write mixed up.
    "17-stat-read",
    "17-stat-write",
    // NIDs may be named, as lst's manual says.
    "17-stat-timeout",
    "31-ping-busy",
];

fn golden(
    dir: &str,
    mut lab: Lab,
    mut before: impl FnMut(&mut Lab, &str),
    skip: &[&str],
    different: &[&str],
) -> usize {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../testdata/texts").join(dir);
    let mut same = 0;
    for (file, status, line) in commands(&dir) {
        let name = file.trim_end_matches(".txt");
        if skip.contains(&name) {
            continue;
        }
        before(&mut lab, name);
        let mut gave = Gave::default();
        for line in line.split("; ") {
            let session = line.strip_prefix("LST_SESSION=").and_then(|l| l.split_once(' '));
            let (key, line) = session.map_or((None, line), |(key, l)| (key.parse().ok(), l));
            let g = lab.ask_as(line, key);
            gave = Gave { out: gave.out + &g.out, err: gave.err + &g.err, status: g.status };
        }
        if different.contains(&name) {
            continue;
        }
        let read = |ext: &str| std::fs::read_to_string(dir.join(format!("{file}{ext}"))).unwrap_or_default();
        assert_eq!(plain(&gave.out), plain(&errors(&read(""))), "{line}");
        assert_eq!(gave.status, status, "{line}: {gave:?}");
        // Ours says more: each line begins with lst's, and the remedy follows.
        let (ours, theirs) = (plain(&gave.err), plain(&errors(&read(".stderr"))));
        let mut ours_lines = ours.lines();
        for l in theirs.lines().filter(|l| !l.contains("Reader error")) {
            let o = ours_lines.next().unwrap_or_default();
            assert!(o.starts_with(l), "{line}\nours:   {o}\ntheirs: {l}");
        }
        // lst counts the nodes that do not answer `stat`, and names none.
        let ours: Vec<&str> = ours.lines().filter(|l| !l.starts_with("RPC failure, can't stat ")).collect();
        assert!(theirs.is_empty() <= ours.is_empty(), "{line}: {ours:?}");
        same += 1;
    }
    same
}

#[test]
fn texts_and_statuses_are_those_of_lst() {
    let mut lab = Lab::new(&[11, 12, 13]);
    lab.members.get_mut(&nid(11)).unwrap().rpc_errors = 2;
    let before = |lab: &mut Lab, name: &str| match name {
        // The session that `full2` is begun in place of.
        "01-new_session-again" => drop(lab.ask("end_session")),
        // Another console's.
        "31-new_session" => {
            let sid = Sid { nid4: nid(99).to_nid4().unwrap(), stamp: 7 };
            lab.members.get_mut(&nid(13)).unwrap().session = Some((sid, Name::new("other"), 1));
        }
        _ => {}
    };
    // Of another console, or of lst as a program.
    let skip = [
        "00-no-env-new_session",
        "30-other-console-new_session",
        "30-other-console-add_group",
        "33-other-console-list_group",
        "33-other-console-end_session",
    ];
    assert!(golden("lst", lab, before, &skip, &DIFFERENT) > 70);
}

#[test]
fn distribution_and_discard_are_those_of_lst() {
    let mut lab = Lab::new(&[11, 12, 13, 14]);
    lab.members.get_mut(&nid(11)).unwrap().rpc_errors = 2;
    let before = |lab: &mut Lab, name: &str| {
        if name == "18-show_error" {
            lab.members.get_mut(&nid(12)).unwrap().rpc_errors = 1;
        }
    };
    assert_eq!(golden("lst-distribute", lab, before, &[], &[]), 19);
}

/// The servers stop when they are sent the test that panics kernels, which ours does not send: they are stopped there.
#[test]
fn members_that_went_down_are_told_of_as_lst_does() {
    let mut lab = Lab::new(&[11, 12, 13]);
    lab.members.get_mut(&nid(11)).unwrap().rpc_errors = 57;
    let before = |lab: &mut Lab, name: &str| match name {
        "01-new_session-again" => drop(lab.ask("end_session")),
        "09-add_test-read-discard" => {
            for n in [12, 13] {
                lab.members.get_mut(&nid(n)).unwrap().dead = Some(110);
            }
            // lst has heard of it by the test itself.
            let gave = lab
                .ask("add_test --batch bulk --loop 2 --concurrency 1 --from servers --to clients brw read");
            assert_eq!(gave.status, 254);
        }
        "13-query" => {
            for (n, errno) in [(12, 5), (13, 113)] {
                lab.members.get_mut(&nid(n)).unwrap().dead = Some(errno);
            }
        }
        "14-stop" => lab.members.get_mut(&nid(13)).unwrap().dead = Some(5),
        _ => {}
    };
    // lst reaches -111 by -5 at the second try. The test of off=8 is refused.
    let skip = ["00-no-env-new_session", "03-add_group-partly-down", "09-add_test-read-full-off"];
    let mut lab2 = lab;
    let mut part = |lab: &mut Lab, name: &str| {
        if name == "04-list_group" {
            assert_eq!(lab.ask("add_group part 192.168.80.12@tcp 192.168.80.1@tcp").status, 254);
        }
        before(lab, name);
    };
    lab2.now = SEC;
    assert!(golden("lst-nodes-down", lab2, &mut part, &skip, &DIFFERENT) > 60);
}

fn session(lab: &mut Lab) {
    for l in [
        "new_session s",
        "add_group c 192.168.80.[11-12]@tcp",
        "add_group s 192.168.80.[13-14]@tcp",
        "add_batch b",
    ] {
        assert_eq!(lab.ask(l).status, 0, "{l}");
    }
    lab.asked.clear();
}

/// selftest.md §5, upper.md §4: servers first, then clients with their destinations.
#[test]
fn requests_go_out_in_the_order_of_lst() {
    let mut lab = Lab::new(&[11, 12, 13, 14]);
    session(&mut lab);
    for l in [
        "add_test --batch b --loop 1 --concurrency 2 --distribute 2:1 --from c --to s brw read check=full size=8k",
        "run b",
        "stop b --force",
        "end_session",
    ] {
        assert_eq!(lab.ask(l).status, 0, "{l}");
    }
    insta::assert_snapshot!(lab.asked.join("\n"));
}

/// selftest.md §6: nothing of it goes out.
#[test]
fn nothing_goes_out_that_stops_a_kernel() {
    let mut lab = Lab::new(&[11, 12, 13, 14]);
    session(&mut lab);
    for (test, says) in [
        ("brw read size=4100", "multiple of 8"),
        ("brw write size=4k off=8", "does not survive"),
        ("brw read size=1M off=4088", "does not survive"),
        ("brw write size=2M", "exceed"),
        ("brw write size=0", "Invalid size"),
        ("brw write check=9", "Unknow flag"),
        ("brw frob", "Unknow parameter"),
    ] {
        let gave = lab.ask(&format!("add_test --batch b --from c --to s {test}"));
        assert_eq!(gave.status, 255, "{test}");
        assert!(gave.err.contains(says), "{test}: {}", gave.err);
    }
    let many = "add_group many 10.0.[0-1].*@tcp";
    assert_eq!(lab.ask(many).status, 254, "nobody is there");
    assert_eq!(lab.asked.iter().filter(|a| a.contains("Test(")).count(), 0);
}

/// More servers for a client than a kernel's page of the list holds.
#[test]
fn lists_of_servers_stay_within_a_page() {
    let mut lab = Lab::new(&[11]);
    let big: Vec<Nid> = super::nidlist::parse("10.0.[0-1].[1-200]@tcp").unwrap();
    lab.members.extend(big.into_iter().map(|n| (n, Member { features: 1, ..Member::default() })));
    for l in ["new_session s", "add_group c 192.168.80.11@tcp", "add_group s 10.0.[0-1].[1-200]@tcp"] {
        assert_eq!(lab.ask(l).status, 0, "{l}");
    }
    lab.asked.clear();
    let gave = lab.ask("add_test --from c --to s --distribute 1:342 ping");
    assert!(gave.status == 255 && gave.err.contains("at most 341") && lab.asked.is_empty(), "{gave:?}");
    let gave = lab.ask("add_test --from c --to s --distribute 1:401 ping");
    assert!(gave.status == 255 && gave.err.contains("has 400") && lab.asked.is_empty(), "{gave:?}");
    assert_eq!(lab.ask("add_test --from c --to s --distribute 1:341 ping").status, 0);
}

#[test]
fn a_member_of_another_session_undoes_its_list_and_no_other() {
    let mut lab = Lab::new(&[11, 12, 13]);
    let sid = Sid { nid4: 7, stamp: 7 };
    lab.members.get_mut(&nid(13)).unwrap().session = Some((sid, Name::new("other"), 1));
    lab.ask("new_session s");
    let gave = lab.ask("add_group g 192.168.80.11@tcp 192.168.80.[12-13]@tcp");
    assert_eq!((gave.status, gave.out.as_str()), (253, "192.168.80.11@tcp are added to session\n"));
    assert!(gave.err.contains("it is in session other of") && gave.err.contains("--force"), "{}", gave.err);
    assert!(lab.members[&nid(12)].session.is_none(), "it was asked to leave again");
    assert_eq!(
        lab.ask("list_group g --all").out,
        "Group [ g ]\n\t12345-192.168.80.11@tcp: Active\nTotal 1 nodes [ g ]\n"
    );
}

/// A session that was never ended, as its node was killed or its members were not heard, is in nobody's way.
#[test]
fn a_member_of_an_earlier_session_of_this_node_is_taken_over() {
    let mut lab = Lab::new(&[11, 12, 13]);
    let left = |stamp| Some((Sid { nid4: nid(11).to_nid4().unwrap(), stamp }, Name::new("quick"), 1));
    lab.members.get_mut(&nid(12)).unwrap().session = left(1);
    lab.members.get_mut(&nid(13)).unwrap().session = left(i64::MAX);
    lab.ask("new_session s");
    let statuses = [11, 12, 13].map(|n| lab.ask(&format!("add_group g{n} {}", nid(n))).status);
    assert_eq!((statuses, lab.asked.iter().filter(|q| q.contains("force: 1")).count()), ([0, 0, 253], 1));
}

/// Members without BULK_LEN: the first one says which features a session has.
#[test]
fn members_that_know_no_features_have_tests_of_version_0() {
    let mut lab = Lab::new(&[11, 12]);
    lab.members.values_mut().for_each(|m| m.features = 0);
    lab.ask("new_session s");
    assert_eq!(lab.ask("add_group g 192.168.80.[11-12]@tcp").status, 0);
    assert!(lab.ask("show_session").out.contains("FEATURES: 0"));
    assert!(lab.ask("add_test --from g --to g brw write size=4088").err.contains("features 0"));
    lab.asked.clear();
    assert_eq!(lab.ask("add_test --from g --to g brw write size=8k").status, 0);
    assert!(lab.asked.iter().all(|a| a.contains("BrwV0 { opc: 2, npages: 2, flags: 1 }")), "{:?}", lab.asked);
    // One of another kind comes too late.
    let mut lab = Lab::new(&[11, 12]);
    lab.members.get_mut(&nid(12)).unwrap().features = 0;
    lab.ask("new_session s");
    assert_eq!(lab.ask("add_group a 192.168.80.11@tcp").status, 0);
    let gave = lab.ask("add_group b 192.168.80.12@tcp");
    assert!(gave.status == 253 && gave.err.contains("different LST features"), "{gave:?}");
}

/// selftest.md §5: DEBUG to members that have been silent for half of their time, each 8 s; an unused session ends.
#[test]
fn silent_members_are_asked_for_a_sign_and_an_unused_session_ends() {
    let mut lab = Lab::new(&[11, 12]);
    lab.ask("new_session --timeout 300 s");
    lab.ask("add_group g 192.168.80.[11-12]@tcp");
    lab.asked.clear();
    let end = lab.now + 299 * SEC;
    while lab.now < end {
        lab.core.turn(lab.now);
        while let Some(w) = lab.core.wants.pop_front() {
            lab.asked.push(format!("{} {}", lab.now / SEC, id(w.nid)));
            let got = lab.reply(&w);
            lab.core.answer(lab.now, w.tag, got);
        }
        lab.now += SEC;
    }
    // 56, 112, 168, 224, 280 s, the first multiples of 8 past 50 s of silence.
    assert_eq!(lab.asked.len(), 2 * 5, "{:?}", lab.asked);
    lab.now = end + 2 * SEC;
    while lab.core.turn(lab.now) {
        while let Some(w) = lab.core.wants.pop_front() {
            let got = lab.reply(&w);
            lab.core.answer(lab.now, w.tag, got);
        }
    }
    assert!(!lab.core.has_session() && lab.members.values().all(|m| m.session.is_none()));
    assert_eq!(lab.core.said(), None, "nobody waits for it");
    assert!(lab.ask("list_group").err.contains("No session exists"));
}

/// A sign of life that a member owes when its session ends is nothing to anybody: it is given up with its entries.
#[test]
fn a_session_that_ends_waits_for_no_sign_of_life() {
    let mut lab = Lab::new(&[11, 12]);
    lab.ask("new_session --timeout 300 s");
    lab.ask("add_group g 192.168.80.[11-12]@tcp");
    lab.now += 64 * SEC;
    lab.core.turn(lab.now);
    let owed: Vec<u64> = std::mem::take(&mut lab.core.wants).iter().map(|w| w.tag).collect();
    assert_eq!(owed.len(), 2);
    assert!(lab.core.dropped.is_empty());
    assert_eq!(lab.ask("end_session").status, 0);
    assert_eq!(lab.core.dropped, owed);
}

/// RPCs that nobody answers may keep a test active: a stop gives up waiting for it, says for whom it has waited and what ends it, and that
/// does.
#[test]
fn a_stop_waits_for_100_s_at_most() {
    let mut lab = Lab::new(&[11, 12, 13, 14]);
    session(&mut lab);
    assert_eq!(lab.ask("add_test --batch b --loop -1 --from c --to s ping").status, 0);
    assert_eq!(lab.ask("run b").status, 0);
    lab.members.get_mut(&nid(12)).unwrap().stuck = true;
    let begun = lab.now;
    let gave = lab.ask("stop b");
    let waited = lab.now - begun;
    assert!((100 * SEC..102 * SEC).contains(&waited), "{waited} ns");
    assert_eq!((gave.out.as_str(), gave.status), ("", 254));
    let says = "stop batch b: tests are active after 100 s on 12345-192.168.80.12@tcp; stop --force";
    assert!(gave.err.starts_with(says), "{}", gave.err);
    let gave = lab.ask("stop b --force");
    assert_eq!((gave.out.as_str(), gave.status), ("Batch is stopped\n", 0), "{}", gave.err);
}

#[test]
fn stat_names_the_nodes_that_do_not_answer() {
    let mut lab = Lab::new(&[11, 12, 13, 14]);
    session(&mut lab);
    lab.members.get_mut(&nid(12)).unwrap().dead = Some(110);
    let gave = lab.ask("stat --count 1 c s");
    assert!(gave.out.starts_with("Failed to stat on 1 nodes\n[LNet Rates of c]\n"), "{}", gave.out);
    assert_eq!(gave.err, "RPC failure, can't stat c on 12345-192.168.80.12@tcp\n");
}

#[test]
fn an_interruption_ends_what_repeats_itself() {
    let mut lab = Lab::new(&[11, 12, 13, 14]);
    session(&mut lab);
    lab.core.type_in(split("stat c").unwrap(), None, None);
    let mut said = Vec::new();
    for _ in 0..100 {
        lab.core.turn(lab.now);
        while let Some(w) = lab.core.wants.pop_front() {
            let got = lab.reply(&w);
            lab.core.answer(lab.now, w.tag, got);
        }
        said.extend(std::iter::from_fn(|| lab.core.said().map(|(_, s)| s)));
        lab.now += SEC;
    }
    assert!(said.len() > 10 && !said.contains(&Said::End(0)));
    lab.core.interrupt(lab.now);
    assert_eq!(lab.core.said().map(|(_, s)| s), Some(Said::End(0)));
    assert!(lab.core.is_idle());
    // Also while it waits for an answer, whose coming is nothing to the next verb.
    lab.core.type_in(split("ping --session").unwrap(), None, None);
    lab.core.turn(lab.now);
    assert_eq!(lab.core.wants.len(), 4);
    lab.core.interrupt(lab.now);
    let end = lab.core.said().map(|(_, s)| s);
    assert_eq!((end, lab.core.dropped.len()), (Some(Said::End(130)), 4));
    assert!(lab.core.wants.is_empty());
    assert_eq!(lab.ask("list_batch").out, "1) batch\n2) b\nTotal 2 batches\n");
}

#[test]
fn query_shows_the_nodes_that_are_asked_for() {
    let mut lab = Lab::new(&[11, 12, 13, 14]);
    session(&mut lab);
    lab.ask("add_test --batch b --from c --to s ping");
    lab.ask("run b");
    let all = lab.ask("query b --all").out;
    let with =
        |word: &str| all.lines().filter(|l| l.ends_with(word)).map(|l| format!("{l}\n")).collect::<String>();
    assert!(all.contains("Running") || all.contains("Idle"), "{all}");
    assert_eq!(lab.ask("query b -l").out, all);
    assert_eq!(lab.ask("query b -a").out, with("Running"));
    assert_eq!(lab.ask("query b --idle").out, with("Idle"));
    assert_eq!(lab.ask("query b --active --idle").out, all);
    assert_eq!(lab.ask("query b -e").out, "");
    lab.ask("stop b");
    let idle = lab.ask("query b -i").out;
    assert!(idle.contains("Idle") && lab.ask("query b --active").out.is_empty(), "{idle}");
}

#[test]
fn a_session_is_found_by_its_key() {
    let mut lab = Lab::new(&[11]);
    assert_eq!(lab.ask_as("new_session s", Some(80)).status, 0);
    assert!(lab.ask_as("show_session", Some(80)).out.contains("KEY: 80"));
    let gave = lab.ask_as("list_group", Some(81));
    assert!(gave.status == 255 && gave.err.contains("has key 80, and LST_SESSION says 81"), "{gave:?}");
    assert_eq!(lab.ask_as("end_session", Some(81)).status, 255);
    let gave = lab.ask_as("new_session t", Some(81));
    let says = "session s is there; end_session it with LST_SESSION=80, or give --force";
    assert!(gave.status == 255 && gave.err.contains(says), "{gave:?}");
    assert_eq!(lab.ask_as("new_session --force t", Some(81)).status, 0);
    assert_eq!(lab.ask_as("end_session", Some(81)).status, 0);
    // Stamps are never used twice, though the clock stands still.
    let stamp = |lab: &mut Lab| {
        lab.ask("new_session --force x");
        lab.ask("show_session").out
    };
    let (a, b) = (stamp(&mut lab), stamp(&mut lab));
    assert_ne!(a, b);
}

#[test]
fn groups_of_tests_are_kept_and_running_batches_left_alone() {
    let mut lab = Lab::new(&[11, 12, 13, 14]);
    session(&mut lab);
    lab.ask("add_test --batch b --from c --to s ping");
    for (line, says) in [
        ("del_group s", "Failed to delete group: Device or resource busy: a test of batch b"),
        ("update_group s --remove 192.168.80.13@tcp", "Failed to update group"),
    ] {
        let gave = lab.ask(line);
        assert!(gave.status == 255 && gave.err.contains(says), "{line}: {gave:?}");
    }
    assert_eq!(lab.ask("run b").status, 0);
    assert!(lab.ask("run b").err.contains("Operation not permitted: b runs already"));
    assert!(lab.ask("add_test --batch b --from c --to s ping").err.contains("runs: stop it first"));
    assert_eq!(lab.ask("query b").out, "b [0] is running\n");
    assert_eq!(lab.ask("query b --test 2").status, 255);
    assert_eq!(lab.ask("stop b").out, "Batch is stopped\n");
    assert_eq!(lab.ask("run b").status, 0);
}

/// `stat` without end in one shell, `stop` in another.
#[test]
fn what_waits_for_its_next_look_keeps_nobody_from_typing() {
    let mut lab = Lab::new(&[11, 12, 13, 14]);
    session(&mut lab);
    let [watch, sleep] =
        ["stat --delay 2 c", "sleep 3"].map(|l| lab.core.type_in(split(l).unwrap(), None, None));
    let mut said: Vec<(u64, Said)> = Vec::new();
    let go = |lab: &mut Lab, until: u64| {
        let mut said = Vec::new();
        while lab.now < until {
            lab.core.turn(lab.now);
            while let Some(w) = lab.core.wants.pop_front() {
                let got = lab.reply(&w);
                lab.core.answer(lab.now, w.tag, got);
            }
            said.extend(std::iter::from_fn(|| lab.core.said()));
            lab.now += SEC / 10;
        }
        said
    };
    let t = lab.now;
    said.extend(go(&mut lab, t + SEC));
    let list = lab.core.type_in(split("list_group").unwrap(), None, None);
    said.extend(go(&mut lab, t + 10 * SEC));
    let ends: Vec<_> = said.iter().filter(|(_, s)| matches!(s, Said::End(_))).map(|(v, _)| *v).collect();
    assert_eq!(ends, [list, sleep], "{said:?}");
    let looks = said.iter().filter(|(v, s)| *v == watch && matches!(s, Said::Report(_))).count();
    assert_eq!(looks, 4, "every two seconds: {said:?}");
    // Interrupted alone, and when its session goes.
    let other = lab.core.type_in(split("stat --delay 2 s").unwrap(), None, None);
    said = go(&mut lab, t + 13 * SEC);
    lab.core.interrupt_one(lab.now, watch);
    said.extend(std::iter::from_fn(|| lab.core.said()));
    assert_eq!(said.last(), Some(&(watch, Said::End(0))));
    let end = lab.core.type_in(split("end_session").unwrap(), None, None);
    said = go(&mut lab, t + 17 * SEC);
    let ends: Vec<_> = said.iter().filter(|(_, s)| matches!(s, Said::End(_))).cloned().collect();
    assert_eq!(ends, [(end, Said::End(0)), (other, Said::End(255))], "{said:?}");
    assert!(lab.core.is_idle());
}
