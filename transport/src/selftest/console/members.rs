//! Verbs about the session and its members: new_session, end_session, add_group, update_group, del_group, ping.

use std::collections::VecDeque;

use super::book::{Group, NodeState};
use super::command::{Change, Who};
use super::desk::{Desk, Doing, Question, REFUSED, Row, SEC, Session, Step, TRANSACTION};
use super::nidlist;
use super::report::Report;
use crate::wire::Nid;
use crate::wire::srpc::{Body, Name, status};

/// Ends the session, then begins another, if one is given.
pub(super) struct Ending {
    pub(super) then: Option<Session>,
}

fn remove(desk: &Desk, nid: Nid) -> Question {
    Question::new(nid, Body::RemoveSession { rpyid: 0, sid: desk.sid() })
}

impl Ending {
    /// Asks all members that are ACTIVE to leave.
    pub(super) fn begin(self, desk: &mut Desk) -> Step {
        let active = desk.book.nodes.iter().filter(|(_, n)| n.state == NodeState::Active);
        let asked: Vec<Nid> = active.map(|(nid, _)| *nid).collect();
        let asked: Vec<Question> = asked.into_iter().map(|nid| remove(desk, nid)).collect();
        if asked.is_empty() {
            return Box::new(self).go_on(desk, Vec::new());
        }
        Step::Ask(Box::new(self), asked, TRANSACTION)
    }
}

impl Doing for Ending {
    fn go_on(self: Box<Self>, desk: &mut Desk, _: Vec<Row>) -> Step {
        // As with kernels: a member that does not answer ends its session by itself.
        desk.book.clear();
        desk.session = self.then;
        if let Some(s) = &desk.session {
            let new = session(s, 0, true);
            desk.book.add_batch(super::command::DEFAULT_BATCH);
            desk.say(new);
        }
        Step::End(0)
    }
}

/// The session in words.
pub(super) fn session(s: &Session, nodes: usize, new: bool) -> Report {
    Report::Session {
        name: s.name.clone(),
        stamp: s.sid.stamp,
        nid: s.nid,
        key: s.key,
        features: s.features,
        timeout_s: s.timeout_s,
        force: s.force,
        nodes,
        new,
    }
}

/// Invites nodes into a group.
pub(super) struct Inviting {
    group: String,
    lists: VecDeque<String>,
    /// The list that is asked, with its new members.
    asked: Option<(String, Vec<Nid>)>,
    /// The group is new: it goes if nobody comes.
    new: bool,
    /// `update_group --refresh`: nothing is said of success.
    refresh: bool,
    /// A list was taken.
    taken: bool,
    /// Members that took another console's place are asked to leave again.
    undoing: bool,
    /// Members are asked again that are in an earlier session of this node's; the answers of the others.
    reclaiming: Option<Vec<Row>>,
    status: u8,
}

impl Inviting {
    /// `add_group`.
    pub(super) fn add(desk: &mut Desk, group: String, ids: Vec<String>) -> Step {
        if desk.book.group(&group).is_some() {
            let text = format!("group already exists: {group}; del_group it, or choose another name");
            return Step::End(desk.fail(text));
        }
        desk.book.groups.push(Group { name: group.clone(), nodes: Vec::new() });
        let it = Inviting { group, lists: ids.into(), new: true, ..Inviting::none() };
        Box::new(it).next(desk)
    }

    fn none() -> Inviting {
        Inviting {
            group: String::new(),
            lists: VecDeque::new(),
            asked: None,
            new: false,
            refresh: false,
            taken: false,
            undoing: false,
            reclaiming: None,
            status: 0,
        }
    }

    /// `update_group --refresh`.
    fn refresh(desk: &mut Desk, group: String, nodes: Vec<Nid>) -> Step {
        let it = Box::new(Inviting { group: group.clone(), refresh: true, ..Inviting::none() });
        it.invite(desk, group, nodes)
    }

    fn invitation(desk: &Desk, force: bool) -> Body {
        let name = Name::new(desk.session.as_ref().map_or("", |s| &s.name));
        Body::MakeSession { rpyid: 0, sid: desk.sid(), force: u32::from(force), name }
    }

    /// Invites those of `nids` that are not in the session.
    fn invite(mut self: Box<Self>, desk: &mut Desk, list: String, nids: Vec<Nid>) -> Step {
        nids.iter().for_each(|n| desk.book.know(*n));
        let body = Inviting::invitation(desk, desk.session.as_ref().is_some_and(|s| s.force));
        let strangers = nids.iter().filter(|n| desk.book.state(**n) != NodeState::Active);
        let asked: Vec<Question> = strangers.map(|n| Question::new(*n, body)).collect();
        self.asked = Some((list, nids));
        if asked.is_empty() {
            return self.go_on(desk, Vec::new());
        }
        Step::Ask(self, asked, TRANSACTION)
    }

    /// Goes on with the next list.
    fn next(mut self: Box<Self>, desk: &mut Desk) -> Step {
        while let Some(list) = self.lists.pop_front() {
            match nidlist::parse(&list) {
                Ok(nids) => return self.invite(desk, list, nids),
                Err(e) => {
                    desk.fail(format!("Invalid nid: {e}\nIgnore invalid id list {list}"));
                }
            }
        }
        if self.new && !self.taken && desk.book.group(&self.group).is_some_and(|g| !active(desk, &g.nodes)) {
            desk.fail(format!("No nodes added successfully, deleting group {}", self.group));
            desk.book.delete(&self.group);
            desk.say(Report::GroupDeleted);
        }
        desk.book.sweep();
        Step::End(self.status)
    }

    /// Whether a node refuses since it is in an earlier session of this node's, whose end it has not heard of: it would stay there until
    /// it misses a sign of its console. That console is this one, and has no other session.
    fn is_left_over(desk: &Desk, r: &Row) -> bool {
        let ours = desk.sid();
        let refusal = r.got.as_ref().ok().map(|m| &m.body);
        matches!(refusal, Some(Body::MakeSessionReply { status: status::EBUSY, sid, .. })
            if sid.nid4 == ours.nid4 && sid.stamp < ours.stamp)
    }

    /// Features that the first members have, and ours would not be taken by: those of them that we know.
    fn agree(desk: &mut Desk, rows: &[Row]) -> bool {
        let Some(s) = desk.session.as_mut().filter(|s| !s.fixed) else { return false };
        let of = |want: u32| {
            let replies = rows.iter().filter_map(|r| r.got.as_ref().ok());
            replies.filter(move |m| m.body.status() == Some(want)).map(|m| m.features)
        };
        if let Some(f) = of(0).next() {
            s.fixed = true;
            s.features &= f;
            return false;
        }
        let Some(f) = of(status::EPROTO).find(|f| *f < s.features) else { return false };
        s.features = f;
        true
    }
}

fn active(desk: &Desk, nids: &[Nid]) -> bool {
    nids.iter().any(|n| desk.book.state(*n) == NodeState::Active)
}

impl Doing for Inviting {
    fn go_on(mut self: Box<Self>, desk: &mut Desk, rows: Vec<Row>) -> Step {
        if std::mem::take(&mut self.undoing) {
            return self.next(desk);
        }
        let Some((list, nids)) = self.asked.take() else { return self.next(desk) };
        let mut rows = rows;
        if let Some(others) = self.reclaiming.take() {
            rows.extend(others);
        } else if rows.iter().any(|r| Inviting::is_left_over(desk, r)) {
            let (left, others): (Vec<Row>, Vec<Row>) =
                rows.into_iter().partition(|r| Inviting::is_left_over(desk, r));
            let body = Inviting::invitation(desk, true);
            let asked = left.iter().map(|r| Question::new(r.nid, body)).collect();
            (self.asked, self.reclaiming) = (Some((list, nids)), Some(others));
            return Step::Ask(self, asked, TRANSACTION);
        }
        if Inviting::agree(desk, &rows) {
            return self.invite(desk, list, nids);
        }
        let features = desk.features();
        let mut status = desk.judge("create session", &rows, &[]);
        let odd = rows.iter().filter(|r| r.got.as_ref().is_ok_and(|m| m.features != features));
        for r in odd.filter(|r| r.good().is_some() || refused_for(r, status::EPROTO)) {
            let theirs = r.got.as_ref().map_or(0, |m| m.features);
            desk.fail(format!(
                "test nodes might have different LST features: {} has {theirs}, this session {features}: begin a session for \
                 such nodes alone",
                r.nid
            ));
            status = REFUSED;
        }
        if status > self.status && self.status != REFUSED || status == REFUSED {
            self.status = status;
        }
        if status == REFUSED {
            // Those that came are asked to leave: the list is taken whole or not at all.
            let came = rows.iter().filter(|r| r.good().is_some() && !self.refresh);
            let asked: Vec<Question> = came.map(|r| remove(desk, r.nid)).collect();
            self.undoing = true;
            return if asked.is_empty() {
                self.go_on(desk, rows)
            } else {
                Step::Ask(self, asked, TRANSACTION)
            };
        }
        nids.iter().for_each(|n| desk.book.join(&self.group, *n));
        if status == 0 {
            self.taken = true;
            if !self.refresh {
                desk.say(Report::Added { ids: list });
            }
        }
        self.next(desk)
    }
}

fn refused_for(r: &Row, errno: u32) -> bool {
    r.got.as_ref().is_ok_and(|m| m.body.status() == Some(errno))
}

/// Takes nodes out of a group, or the group away.
pub(super) struct Leaving {
    group: String,
    nodes: Vec<Nid>,
    delete: bool,
}

impl Leaving {
    /// `del_group`.
    pub(super) fn delete(desk: &mut Desk, group: String) -> Step {
        match desk.book.group(&group).map(|g| g.nodes.clone()) {
            None => Step::End(desk.missing("group", &group, "list_group")),
            Some(nodes) => Leaving { group, nodes, delete: true }.begin(desk),
        }
    }

    fn begin(self, desk: &mut Desk) -> Step {
        if let Some(b) = desk.book.user(&self.group) {
            let what = if self.delete { "delete" } else { "update" };
            let text = format!(
                "Failed to {what} group: Device or resource busy: a test of batch {} has group {}; end_session lets go of it",
                b.name, self.group
            );
            return Step::End(desk.fail(text));
        }
        // A member of another group stays in the session.
        let leaves =
            |n: &&Nid| desk.book.nodes.get(n).is_some_and(|n| n.groups == 1 && n.state == NodeState::Active);
        let asked: Vec<Question> = self.nodes.iter().filter(leaves).map(|n| remove(desk, *n)).collect();
        if asked.is_empty() {
            return Box::new(self).go_on(desk, Vec::new());
        }
        Step::Ask(Box::new(self), asked, TRANSACTION)
    }
}

impl Doing for Leaving {
    fn go_on(self: Box<Self>, desk: &mut Desk, _: Vec<Row>) -> Step {
        if self.delete {
            desk.book.delete(&self.group);
            desk.say(Report::GroupDeleted);
        } else {
            desk.book.leave(&self.group, &self.nodes);
        }
        Step::End(0)
    }
}

/// `update_group`.
pub(super) fn update(desk: &mut Desk, group: String, change: Change) -> Step {
    let Some(nodes) = desk.book.group(&group).map(|g| g.nodes.clone()) else {
        return Step::End(desk.missing("group", &group, "list_group"));
    };
    let nodes = match change {
        Change::Refresh => return Inviting::refresh(desk, group, nodes),
        Change::Clean(states) => desk.book.among(&nodes, states).into_iter().map(|(n, _)| n).collect(),
        Change::Remove(list) => match nidlist::parse(&list) {
            Ok(nids) => nids,
            Err(e) => return Step::End(desk.fail(format!("Invalid nid: {e}"))),
        },
    };
    Leaving { group, nodes, delete: false }.begin(desk)
}

/// `ping`.
pub(super) struct Pinging;

impl Pinging {
    pub(super) fn begin(desk: &mut Desk, who: &Who, timeout_s: u32) -> Step {
        let (name, nodes) = match who {
            Who::Session => ("session".to_owned(), desk.book.nodes.keys().copied().collect()),
            Who::Group(g) => match desk.book.group(g).map(|g| g.nodes.clone()) {
                Some(nodes) => (g.clone(), nodes),
                None => {
                    desk.missing("group", g, "list_group");
                    (g.clone(), Vec::new())
                }
            },
            Who::Batch(b, side) => match desk.book.batch(b).map(|b| b.nodes(*side)) {
                Some(nodes) => (b.clone(), nodes),
                None => return Step::End(no_batch(desk, b)),
            },
            Who::Nodes(list) => match nidlist::parse(list) {
                Ok(nids) => (list.clone(), nids),
                Err(e) => return Step::End(desk.fail(format!("Invalid nid: {e}"))),
            },
        };
        if nodes.is_empty() {
            desk.say(Report::NoNodes { name });
            return Step::End(0);
        }
        let sid = desk.sid();
        let asked = nodes.iter().map(|n| Question::new(*n, Body::Debug { rpyid: 0, sid, flags: 0 }));
        Step::Ask(Box::new(Pinging), asked.collect(), u64::from(timeout_s) * SEC)
    }
}

/// A batch that is not there, in the words of lst's run, stop, query and ping.
pub(super) fn no_batch(desk: &mut Desk, name: &str) -> u8 {
    desk.fail(format!(
        "Failed to get count of nodes from {name}: No such file or directory: list_batch shows what batches there are"
    ))
}

impl Doing for Pinging {
    fn go_on(self: Box<Self>, desk: &mut Desk, rows: Vec<Row>) -> Step {
        for r in rows {
            let session = match &r.got {
                Ok(m) => match m.body {
                    Body::DebugReply { sid, name, .. } if !sid.is_any() => Some((name.text(), sid)),
                    _ => None,
                },
                Err(_) => None,
            };
            // Also of nodes that are in no group, which the book does not know.
            let state = match (&session, desk.book.nodes.get(&r.nid)) {
                (_, Some(n)) => n.state,
                (Some((_, sid)), None) if *sid == desk.sid() => NodeState::Active,
                (Some(_), None) => NodeState::Busy,
                (None, None) => NodeState::Unknown,
            };
            let session = session.map(|(name, sid)| (name, sid.nid()));
            desk.say(Report::Pinged { nid: r.nid, state, session });
        }
        Step::End(0)
    }

    fn only_looks(&self) -> bool {
        true
    }
}
