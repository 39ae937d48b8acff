//! Command lines of lnet_selftest's console, changed and cut, against two members (docs/selftest.md).
//!
//! Invariants: no panic; each line ends, once, with a status, and one that failed says why; nothing goes out that stops
//! a kernel (docs/protocol/selftest.md §6); when the session has ended nothing is under way and every entry is gone.

use std::sync::Arc;

use crate::fuzz::{Bytes, LEN, TIME};
use hugepages::{Backing, PrivatePages};
use transport::lnd::AppId;
use transport::lnet::Op;
use transport::node::Input;
use transport::selftest::console::{Console, Said, Setup, split};
use transport::selftest::{self, AppIds, Member, Ops};
use transport::testing::net::{Net, SEC};
use transport::testing::pair::{config, nid};
use transport::wire::srpc::{BRW_MAX, Body, Message, TestParams, check};

const CONSOLE: AppId = AppId::FIRST;
/// Longest time of a verb, in ns: three transactions of 30 s each, and as long a sleep as the lines below ask for.
const PATIENCE: u64 = 200 * SEC;

/// Lines of a session as it should be; `%` is a number.
const LINES: [&str; 24] = [
    "new_session --timeout 300 s",
    "add_group a 10.0.0.[1-2]@tcp",
    "add_group b 10.0.0.2@tcp 10.0.0.9@tcp",
    "add_group c 10.0.0.1@tcp,10.0.0.[2-%/%]@tcp",
    "add_batch x",
    "add_test --from a --to a --loop 3 --concurrency % brw write check=full size=%",
    "add_test --batch x --from a --to b --loop 2 --distribute %:% brw read check=simple size=4k off=%",
    "add_test --from b --to a --loop -1 ping",
    "run",
    "run x",
    "query --all",
    "query x --test % --loop 2 --delay 1",
    "stop",
    "stop x --force",
    "stat --delay 1 --count 2 a b",
    "stat --bw --max a",
    "show_error --session a b",
    "list_batch x --all",
    "list_group a b --active",
    "update_group b --clean down|unknown",
    "update_group a --refresh",
    "del_group b",
    "ping --session --timeout 3",
    "end_session",
];

/// A line of those, perhaps changed.
fn line(b: &mut Bytes<'_>) -> String {
    let mut text: String = LINES[b.below(LINES.len() as u64) as usize].to_owned();
    while let Some(at) = text.find('%') {
        let n = match b.below(4) {
            0 => b.below(9000),
            1 => b.below(5) * 8,
            _ => b.below(4),
        };
        text.replace_range(at..=at, &n.to_string());
    }
    for _ in 0..b.below(4) / 2 {
        let at = b.below(text.len() as u64 + 1) as usize;
        if !text.is_char_boundary(at) {
            continue;
        }
        match b.below(3) {
            0 => text.truncate(at),
            1 => text.insert(at, char::from(b' ' + b.u8() % 95)),
            _ => text.insert_str(at, &String::from_utf8_lossy(&b.rest(3))),
        }
    }
    text
}

/// Whether a kernel survives a request.
fn survives(m: &Message) -> bool {
    let Body::Test(t) = m.body else { return true };
    match t.params {
        TestParams::Brw { flags, len, offset, .. } => {
            (1..=BRW_MAX).contains(&len)
                && len % 8 == 0
                && offset % 8 == 0
                && (offset % 4096 + len).div_ceil(4096) == len.div_ceil(4096)
                && (check::NONE..=check::DISCARD).contains(&flags.into())
                && t.ndest <= 341
        }
        _ => t.ndest <= 341,
    }
}

struct Lab {
    net: Net,
    members: Vec<Member>,
    console: Console,
    entries: i64,
}

impl Lab {
    fn new() -> Lab {
        let mut net = Net::new();
        let backing: Arc<dyn Backing> = Arc::new(PrivatePages);
        let unix_ns = 1_700_000_000 * SEC;
        let members = (1..=2).map(|n| {
            net.add(config(n));
            Member::new(selftest::Config::new(AppIds::from(10).unwrap(), unix_ns), &backing)
        });
        let members = members.collect();
        let setup = Setup { app: CONSOLE, own: nid(1), name: "fuzz".into(), features: 1, unix_ns };
        Lab { net, members, console: Console::new(setup), entries: 0 }
    }

    /// All that can be done at this time.
    fn settle(&mut self) {
        let (mut ops, mut asked) = (Ops::new(), Ops::new());
        loop {
            let now = self.net.now;
            let mut busy = false;
            for (node, member) in self.members.iter_mut().enumerate() {
                for (_, app, ev) in std::mem::take(&mut self.net.nodes[node].events) {
                    busy = true;
                    if node == 0 && app == CONSOLE {
                        self.entries -= i64::from(gone(&ev));
                        self.console.event(now, ev, &mut asked);
                    } else {
                        member.event(now, app, ev, &mut ops);
                    }
                }
                member.turn(now, &mut ops);
                if node == 0 {
                    busy |= self.console.turn(now, &mut asked);
                    self.entries += entries(&asked);
                    ops.append(&mut asked);
                }
                for (app, op) in ops.drain(..) {
                    busy = true;
                    self.net.input(node, Input::Cmd(app, op));
                }
            }
            if !busy {
                return;
            }
        }
    }

    fn step(&mut self, end: u64) {
        self.settle();
        let due = self.members.iter().filter_map(Member::deadline).chain(self.console.deadline()).min();
        let until = due.unwrap_or(end).clamp(self.net.now + 1, end.max(self.net.now + 1));
        self.net.run_until(until, |n| n.nodes.iter().any(|n| !n.events.is_empty()));
        if self.net.nodes.iter().all(|n| n.events.is_empty()) {
            self.net.now = self.net.now.max(until);
        }
    }

    /// A line to its end; what repeats itself is interrupted on the way.
    fn run(&mut self, text: &str) {
        let Ok(words) = split(text) else { return };
        self.console.type_in(words, None, None);
        let (begun, mut ends, mut faults, mut cut) = (self.net.now, Vec::new(), String::new(), false);
        loop {
            let end = begun + PATIENCE;
            assert!(self.net.now < end, "{text:?} does not end");
            self.step(end);
            if !cut && self.net.now > begun + 100 * SEC {
                cut = true;
                let mut ops = Ops::new();
                self.console.interrupt(self.net.now, &mut ops);
                // It may be time to ask for signs of life, too.
                self.entries += entries(&ops);
                ops.drain(..).for_each(|(app, op)| self.net.input(0, Input::Cmd(app, op)));
            }
            while let Some(s) = self.console.said() {
                match s {
                    Said::Report(r) if r.is_fault() => faults += &r.text(),
                    Said::Report(r) => assert!(r.text().ends_with('\n') || r.text().is_empty(), "{r:?}"),
                    Said::End(status) => ends.push(status),
                    Said::Exit => {}
                }
            }
            if let [status] = ends[..] {
                assert!(
                    status == 0 || status == 130 || status == 254 || !faults.is_empty(),
                    "{text:?}: {status}"
                );
                return;
            }
            assert!(ends.is_empty(), "{text:?}: {ends:?}");
        }
    }
}

/// The entries that the console asks its node for. Nothing of what it asks for stops a kernel.
fn entries(asked: &Ops) -> i64 {
    for (_, op) in asked {
        if let Op::Put { payload, .. } = op {
            let bytes: Vec<u8> = payload.pieces().flatten().copied().collect();
            let m = Message::parse(&bytes).unwrap();
            assert!(survives(&m), "{m:?}");
        }
    }
    asked.iter().filter(|(_, op)| matches!(op, Op::Attach { .. })).count() as i64
}

/// Whether an event is the last of an entry.
fn gone(ev: &transport::lnet::Event) -> bool {
    use transport::lnet::Event;
    match ev {
        Event::Put(p) => p.unlinked.is_some(),
        Event::Get(g) => g.unlinked,
        Event::Unlink { .. } => true,
        _ => false,
    }
}

fn run(input: &[u8]) {
    let mut b = Bytes::new(input);
    let mut lab = Lab::new();
    // Without a session there is little to find.
    for l in ["new_session s", "add_group a 10.0.0.[1-2]@tcp"] {
        lab.run(l);
    }
    let lines: Vec<String> = (0..1 + b.below(10)).map(|_| line(&mut b)).collect();
    lines.iter().for_each(|l| lab.run(l));
    lab.run("stop");
    lab.run("end_session");
    lab.run("end_session");
    let end = lab.net.now + 2 * SEC;
    while lab.net.now < end {
        lab.step(end);
    }
    assert_eq!((lab.console.under_way(), lab.entries), (0, 0), "{lines:#?}");
    assert!(!lab.console.has_session() && lab.console.is_idle(), "{lines:#?}");
}

#[test]
fn command_lines_end_and_stop_no_kernel() {
    bolero::check!().with_test_time(TIME).with_max_len(LEN).for_each(run);
}
