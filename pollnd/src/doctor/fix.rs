//! `pollnd doctor --fix` and `--undo`: carries steps out, and takes them back.

use std::path::Path;

use serde_json::{Value, json};

use super::back::Back;
use super::kernel::Kernel;
use super::plan::Plan;
use super::record::{self, Entry, Event, Record, State};
use super::step::Step;

/// End of a command, which is its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing is to be done, or all of it was.
    Good = 0,
    /// A step failed, or cannot be taken back yet.
    Failed = 1,
    /// It may not be done.
    Refused = 2,
    /// Something was left as it is.
    Left = 3,
    /// Something is to be done.
    Planned = 4,
}

/// Outcome of a step.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) step: Step,
    pub(crate) state: State,
    /// In words.
    pub(crate) said: String,
}

impl Outcome {
    pub(crate) fn json(&self) -> Value {
        json!({"step": self.step.kind(), "what": self.step.to_string(), "state": self.state, "said": self.said})
    }

    /// A line of text.
    pub(crate) fn line(&self) -> String {
        let state = match self.state {
            State::Planned => "planned",
            State::Begun => "not yet taken back",
            State::Done => "done",
            State::Undone => "taken back",
            State::Left => "left",
        };
        let said = if self.said.is_empty() { String::new() } else { format!(": {}", self.said) };
        format!("{state:10} {}{said}", self.step)
    }
}

/// Steps that were done; or why one failed, and what became of those before it.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) steps: Vec<Outcome>,
    pub(crate) failed: Option<String>,
}

/// Carries out the steps of a plan: all, or none.
pub(crate) fn carry_out(k: &dyn Kernel, record: &mut Record, plan: Plan) -> Done {
    let boot = record::boot(k.root());
    // A restart of the machine has taken them back.
    record.entries.retain(|e| e.boot == boot || !e.step.ends_with_the_boot());
    let first = record.entries.len();
    let mut failed = None;
    for step in plan.steps {
        if let Err(e) = one(k, record, Entry::new(step, &boot)) {
            failed = Some(e);
            break;
        }
    }
    if failed.is_some() {
        return Done { steps: take_back(k, record, first), failed };
    }
    let done = record.entries.iter().skip(first);
    let done = done.map(|e| Outcome { step: e.step.clone(), state: e.state.get(), said: String::new() });
    Done { steps: done.collect(), failed }
}

/// Records a step, does it, and records that it is done.
fn one(k: &dyn Kernel, record: &mut Record, entry: Entry) -> Result<(), String> {
    let step = entry.step.clone();
    record.entries.push(entry);
    advance(record, Event::Begin)?;
    step.apply(k)?;
    advance(record, Event::Finish)
}

/// Tells the last step of an event.
fn advance(record: &mut Record, event: Event) -> Result<(), String> {
    if let Some(e) = record.entries.last_mut() {
        e.state.apply(event);
    }
    record.save()
}

/// Takes back all steps from number `first` on, the last first. What is taken back leaves the record.
pub(crate) fn take_back(k: &dyn Kernel, record: &mut Record, first: usize) -> Vec<Outcome> {
    let boot = record::boot(k.root());
    let mut all = Vec::new();
    let mut waits = false;
    for i in (first..record.entries.len()).rev() {
        let Some(e) = record.entries.get_mut(i) else { continue };
        let back = if e.boot != boot && e.step.ends_with_the_boot() {
            Back::Undone("the machine's restart took it back".into())
        } else if waits && matches!(e.step, Step::Module(_)) {
            Back::NotNow("a port waits that may be bound to it".into())
        } else {
            e.step.undo(k, e.state == State::Done)
        };
        let (event, mut said) = match back {
            Back::Undone(s) => (Some(Event::TakeBack), s),
            Back::Left(s) => (Some(Event::LetBe), s),
            Back::NotNow(s) => (None, s),
        };
        match event {
            Some(v) => _ = e.state.apply(v),
            None => waits = true,
        }
        let (step, state) = (e.step.clone(), e.state.get());
        // One that is taken back a second time, since this could not be written, is seen to be back.
        if let Err(e) = record.save() {
            said = format!("{said} (not recorded: {e})");
        }
        all.push(Outcome { step, state, said });
    }
    all
}

/// The exit code of what was taken back.
pub(crate) fn end(all: &[Outcome]) -> End {
    let any = |s: &[State]| all.iter().any(|o| s.contains(&o.state));
    match () {
        () if any(&[State::Begun, State::Done]) => End::Failed,
        () if any(&[State::Left]) => End::Left,
        () => End::Good,
    }
}

/// A plan, in words.
pub(crate) fn told(plan: &Plan) -> String {
    let mut s = String::new();
    if plan.steps.is_empty() {
        s.push_str("nothing is to be done\n");
    } else {
        s.push_str("would be done, with --yes:\n");
    }
    for step in &plan.steps {
        s.push_str(&format!("  {step}\n"));
        step.commands().iter().for_each(|c| s.push_str(&format!("      {c}\n")));
    }
    plan.notes.iter().for_each(|n| s.push_str(&format!("as it is:   {n}\n")));
    s
}

/// A plan, in JSON.
pub(crate) fn json(plan: &Plan) -> Value {
    let step = |s: &Step| json!({"step": s.kind(), "what": s.to_string(), "commands": s.commands()});
    json!({"steps": plan.steps.iter().map(step).collect::<Vec<_>>(), "notes": plan.notes})
}

/// Opens the record in `folder` only if there is one.
///
/// # Errors
/// As [`Record::open`].
pub(crate) fn recorded(folder: &Path) -> Result<Option<Record>, String> {
    if !folder.exists() {
        return Ok(None);
    }
    Record::open(folder).map(|r| Some(r).filter(|r| !r.entries.is_empty()))
}
