//! Verbs that look at counters: stat, show_error.

use super::command::Columns;
use super::desk::{Desk, Doing, INTERRUPTED, Question, Row, SEC, Step, UNHEARD};
use super::nidlist;
use super::report::{NodeRates, Report};
use crate::wire::Nid;
use crate::wire::srpc::{Body, LnetCounters};

/// A group, or nodes of a list, by name.
type Named = (String, Vec<Nid>);

/// The nodes that names stand for: groups, or lists of NIDs.
fn named(desk: &Desk, names: &[String]) -> Result<Vec<Named>, String> {
    let mut all = Vec::new();
    for name in names {
        let nodes = match desk.book.group(name) {
            Some(g) => g.nodes.clone(),
            None => nidlist::parse(name).map_err(|_| name.clone())?,
        };
        all.push((name.clone(), nodes));
    }
    Ok(all)
}

/// One question for each node of each name, in order.
fn questions(desk: &Desk, all: &[Named]) -> Vec<Question> {
    let body = Body::Stat { rpyid: 0, sid: desk.sid(), kind: 0 };
    all.iter().flat_map(|(_, nodes)| nodes).map(|n| Question::new(*n, body)).collect()
}

/// Rows by name, in order.
fn by_name<'a>(all: &'a [Named], rows: &'a [Row]) -> impl Iterator<Item = (&'a str, &'a [Row])> {
    let mut rest = rows;
    all.iter().map(move |(name, nodes)| {
        let (these, others) = rest.split_at_checked(nodes.len()).unwrap_or((rest, &[]));
        rest = others;
        (name.as_str(), these)
    })
}

/// Counters of a node at a time of its own, in ms.
type Sample = Option<(u32, LnetCounters)>;

fn sample(r: &Row) -> Sample {
    match r.good()?.body {
        Body::StatReply { fw, lnet, .. } => Some((fw.running_ms, lnet)),
        _ => None,
    }
}

fn rates((then, a): (u32, LnetCounters), (now, b): (u32, LnetCounters)) -> Option<NodeRates> {
    let s = f64::from(now.wrapping_sub(then)) / 1000.0;
    let count = |a: u32, b: u32| f64::from(b.wrapping_sub(a)) / s;
    let bytes = |a: u64, b: u64| b.wrapping_sub(a) as f64 / s;
    (s > 0.0).then(|| NodeRates {
        recv_rate: count(a.recv_count, b.recv_count),
        send_rate: count(a.send_count, b.send_count),
        recv_bytes: bytes(a.recv_length, b.recv_length),
        send_bytes: bytes(a.send_length, b.send_length),
    })
}

/// `stat`.
pub(super) struct Watching {
    all: Vec<Named>,
    columns: Columns,
    delay_s: u32,
    timeout_s: u32,
    /// Rounds that are left; none for no end.
    count: Option<u32>,
    before: Option<Vec<Sample>>,
    waiting: bool,
    status: u8,
}

impl Watching {
    pub(super) fn begin(
        desk: &mut Desk,
        names: &[String],
        columns: Columns,
        delay_s: u32,
        count: Option<u32>,
        timeout_s: u32,
    ) -> Step {
        let all = match named(desk, names) {
            Ok(all) => all,
            Err(name) => return Step::End(desk.missing("stat", &name, "list_group")),
        };
        let it =
            Watching { all, columns, delay_s, timeout_s, count, before: None, waiting: false, status: 0 };
        Box::new(it).ask(desk)
    }

    fn ask(mut self: Box<Self>, desk: &Desk) -> Step {
        self.waiting = false;
        let (asked, patience) = (questions(desk, &self.all), u64::from(self.timeout_s) * SEC);
        Step::Ask(self, asked, patience)
    }

    /// Tells of one round.
    fn tell(&mut self, desk: &mut Desk, rows: &[Row], before: &[Sample]) {
        let mut at = 0;
        for (name, rows) in by_name(&self.all, rows) {
            let mut nodes = Vec::new();
            for r in rows {
                let then = before.get(at).copied().flatten();
                at += 1;
                if let (Some(a), Some(b)) = (then, sample(r))
                    && let Some(rates) = rates(a, b)
                {
                    nodes.push((r.nid, rates));
                }
            }
            let unheard: Vec<Nid> = rows.iter().filter(|r| sample(r).is_none()).map(|r| r.nid).collect();
            // As lst: the last group's.
            self.status = if unheard.is_empty() { 0 } else { UNHEARD };
            let (group, columns) = (name.to_owned(), self.columns);
            desk.say(Report::Stat { group: group.clone(), columns, unheard: unheard.clone(), nodes });
            if !unheard.is_empty() {
                desk.say(Report::StatUnheard { group, nodes: unheard });
            }
        }
    }
}

impl Doing for Watching {
    fn go_on(mut self: Box<Self>, desk: &mut Desk, rows: Vec<Row>) -> Step {
        if desk.interrupted {
            return Step::End(self.cut());
        }
        if self.waiting {
            return self.ask(desk);
        }
        let after = rows.iter().map(sample).collect();
        if let Some(before) = self.before.replace(after) {
            self.tell(desk, &rows, &before);
            self.count = self.count.map(|n| n.saturating_sub(1));
        }
        if self.count == Some(0) {
            return Step::End(self.status);
        }
        self.waiting = true;
        let until = desk.now + u64::from(self.delay_s) * SEC;
        Step::Wait(self, until)
    }

    fn only_looks(&self) -> bool {
        true
    }

    /// One without an end is ended so.
    fn cut(&self) -> u8 {
        if self.count.is_none() { 0 } else { INTERRUPTED }
    }
}

/// `show_error`.
pub(super) struct Errors {
    all: Vec<Named>,
    session_only: bool,
}

impl Errors {
    pub(super) fn begin(desk: &mut Desk, names: &[String], session_only: bool) -> Step {
        let all = match named(desk, names) {
            Ok(all) => all,
            Err(name) => return Step::End(desk.missing(&name, "it", "list_group")),
        };
        let asked = questions(desk, &all);
        Step::Ask(Box::new(Errors { all, session_only }), asked, 5 * SEC)
    }
}

impl Doing for Errors {
    fn go_on(self: Box<Self>, desk: &mut Desk, rows: Vec<Row>) -> Step {
        let mut status = 0;
        for (name, rows) in by_name(&self.all, &rows) {
            desk.say(Report::ErrorsOf { group: name.to_owned() });
            let mut bad = 0;
            status = 0;
            for r in rows {
                let Some(Body::StatReply { fw, rpc, .. }) = r.good().map(|m| m.body) else {
                    bad += 1;
                    status = UNHEARD;
                    desk.say(Report::NodeUnheard { nid: r.nid });
                    continue;
                };
                let of_rpcs = [rpc.errors, rpc.rpcs_dropped, rpc.rpcs_expired];
                let of_rpcs = (!self.session_only).then_some(of_rpcs);
                let some = of_rpcs.is_some_and(|e| e.iter().any(|n| *n > 0));
                if some || fw.brw_errors > 0 || fw.ping_errors > 0 {
                    bad += 1;
                    let (brw, ping) = (fw.brw_errors, fw.ping_errors);
                    desk.say(Report::NodeErrors { nid: r.nid, brw, ping, rpc: of_rpcs });
                }
            }
            desk.say(Report::ErrorsTotal { group: name.to_owned(), nodes: bad });
        }
        Step::End(status)
    }

    fn only_looks(&self) -> bool {
        true
    }
}

/// `sleep`.
pub(super) struct Sleeping;

impl Sleeping {
    pub(super) fn begin(desk: &Desk, seconds: u32) -> Step {
        Step::Wait(Box::new(Sleeping), desk.now + u64::from(seconds) * SEC)
    }
}

impl Doing for Sleeping {
    fn go_on(self: Box<Self>, desk: &mut Desk, _: Vec<Row>) -> Step {
        Step::End(if desk.interrupted { INTERRUPTED } else { 0 })
    }
}
