//! A console that verbs are typed at: that of a node of this process, or one that runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hugepages::Backing;
use transport::node::{App, NoApp, beside};
use transport::wire::{Nid, srpc};

use super::host::{Out, Piece, Typed};
use crate::access::{self, Access};
use crate::args::{NodeArgs, Via};
use crate::assemble;
use crate::inspect::Request;
use crate::inspect::client::Client;
use crate::inspect::seats::{DEPTH, Seats};
use crate::member;
use crate::running::{Node, Role, Setup};
use crate::signals::{self, Interrupt};

/// The variable that says with which features sessions begin, as for lst.
const FEATURES: &str = "LST_FEATURES";

/// The command's name.
pub(super) const COMMAND: &str = "selftest";

/// Ends what another process answers.
type Cut = Arc<Mutex<Option<Box<dyn Fn() + Send>>>>;

/// A console.
pub(crate) struct Console {
    at: At,
    /// Told of signals.
    interrupted: Arc<Interrupt>,
}

enum At {
    /// Of a node of this process; it is not ours to take down if there is none here.
    Own { node: Option<Box<Node>>, seats: Arc<Seats> },
    /// Of one that runs.
    Through { client: Client, cut: Cut },
}

impl Console {
    /// The console of a node that leads to `target`.
    ///
    /// # Errors
    /// The node that cannot be had, and the remedy.
    pub(crate) fn open(via: &Via, node: &mut NodeArgs, target: Nid) -> Result<Console, String> {
        match access::find(via, node, target, COMMAND)? {
            Access::Node(client) => Console::through(client),
            Access::Own(claim) => {
                let interrupted = Arc::new(Interrupt::default());
                let seats = Arc::new(Seats::default());
                seats.name(node.nid);
                let open = seats.clone();
                let lcores = node.lcores;
                let make = Box::new(move |backing: &Arc<dyn Backing>| seat(&open, lcores, backing));
                let setup = Setup::new(Role::Dialler(COMMAND), claim).interrupted(interrupted.clone());
                let node = assemble::start(node, setup, make)?;
                access::await_all_routes(&node);
                Ok(Console { at: At::Own { node: Some(Box::new(node)), seats }, interrupted })
            }
        }
    }

    /// The console in `seats`, of a node of this process that somebody else takes down.
    pub(crate) fn beside(seats: Arc<Seats>) -> Console {
        Console { at: At::Own { node: None, seats }, interrupted: Arc::default() }
    }

    /// The console of a node that runs.
    ///
    /// # Errors
    /// The kernel refuses handlers of signals.
    pub(crate) fn through(client: Client) -> Result<Console, String> {
        let interrupted = Arc::new(Interrupt::default());
        let cut: Cut = Arc::default();
        let (told, end) = (interrupted.clone(), cut.clone());
        signals::tell_through(told, move || {
            if let Some(cut) = &*end.lock().unwrap_or_else(PoisonError::into_inner) {
                cut();
            }
        })?;
        Ok(Console { at: At::Through { client, cut }, interrupted })
    }

    /// Whether a signal came that ends the session.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.ends_session()
    }

    /// A verb begins, or has ended, that was typed at a prompt: SIGINT ends that alone.
    pub(crate) fn at_prompt(&self, on: bool) {
        self.interrupted.runs(on);
    }

    /// Something that ends the verb that runs, from another thread; it gives whether there was one.
    pub(crate) fn ender(&self) -> impl Fn() -> bool + Send + use<> {
        let told = self.interrupted.clone();
        let cut = match &self.at {
            At::Through { cut, .. } => Some(cut.clone()),
            At::Own { .. } => None,
        };
        move || {
            let ends = told.end_verb();
            if let Some(cut) = cut.as_ref().filter(|_| ends)
                && let Some(cut) = &*cut.lock().unwrap_or_else(PoisonError::into_inner)
            {
                cut();
            }
            ends
        }
    }

    /// Types a verb, and gives its exit status. A signal ends it early, if it may be `cut`.
    ///
    /// # Errors
    /// The node has gone, or `each` failed.
    pub(crate) fn verb(
        &mut self,
        words: &[String],
        key: Option<u32>,
        cut: bool,
        each: &mut dyn FnMut(Piece) -> Result<(), String>,
    ) -> Result<u8, String> {
        let key = (key, features()?);
        match &mut self.at {
            At::Own { node, seats } => {
                let told = cut.then_some(&*self.interrupted);
                own(node.as_deref(), seats, words, key, told, each)
            }
            At::Through { client, cut: hook } => {
                let mut asked = client.again()?;
                asked.patient();
                let hang_up = asked.hang_up()?;
                if cut {
                    let mut hook = hook.lock().unwrap_or_else(PoisonError::into_inner);
                    // A signal that came a moment ago found nothing to end.
                    if self.interrupted.ends_verb() {
                        hang_up();
                    }
                    *hook = Some(Box::new(hang_up));
                }
                let (key, features) = key;
                let request = Request::Selftest { words: words.to_vec(), key, features };
                let answer = asked.try_rows(&request, |v| {
                    let piece = serde_json::from_value(v.clone()).map_err(|e| format!("{e} in {v}"))?;
                    each(piece)
                });
                *hook.lock().unwrap_or_else(PoisonError::into_inner) = None;
                let answer = answer?;
                let status = answer["end"]["status"].as_u64().and_then(|s| u8::try_from(s).ok());
                status.ok_or_else(|| format!("no status in {answer}"))
            }
        }
    }

    /// Takes down what is of this process, after `outcome`.
    ///
    /// # Errors
    /// `outcome`'s, or one on the way down.
    pub(crate) fn close(self, outcome: Result<(), String>) -> Result<(), String> {
        match self.at {
            At::Own { node, seats } => {
                drop(seats);
                match node {
                    Some(node) => node.stop_after(outcome).map(drop),
                    None => outcome,
                }
            }
            At::Through { .. } => outcome,
        }
    }
}

/// The features that LST_FEATURES asks for, where it is there.
///
/// # Errors
/// It says nothing that a session could begin with.
pub(super) fn features() -> Result<Option<u32>, String> {
    let Some(v) = std::env::var_os(FEATURES) else { return Ok(None) };
    asked(&v.to_string_lossy()).map(Some)
}

fn asked(v: &str) -> Result<u32, String> {
    match v.trim() {
        "0" => Ok(0),
        "1" => Ok(srpc::FEATS),
        _ => Err(format!(
            "{FEATURES}={v}: no features of a session; 1 is bulk of any length, as without it, 0 leaves that out: unset it, or give 0 or 1"
        )),
    }
}

/// The application of a node that is a member and has a console, in `seats`.
///
/// # Errors
/// None that a caller could mend.
pub(crate) fn seat(seats: &Seats, lcores: u16, backing: &Arc<dyn Backing>) -> Result<Box<dyn App>, String> {
    let (app, free) = beside(NoApp, Seats::ids(), DEPTH);
    seats.open(free, backing);
    let (app, meter) = member::beside(app, lcores, backing)?;
    seats.measure(meter);
    Ok(app)
}

/// Types a verb at the console of a node of this process.
fn own(
    node: Option<&Node>,
    seats: &Seats,
    words: &[String],
    (key, features): (Option<u32>, Option<u32>),
    told: Option<&Interrupt>,
    each: &mut dyn FnMut(Piece) -> Result<(), String>,
) -> Result<u8, String> {
    let (out, said) = mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    seats.console()?.type_in(Typed { words: words.to_vec(), key, features, out, cut: stop.clone() })?;
    let mut failed = None;
    loop {
        if failed.is_some() || told.is_some_and(Interrupt::ends_verb) {
            stop.store(true, Ordering::Relaxed);
        }
        match said.recv_timeout(Duration::from_millis(20)) {
            Ok(Out::Piece(p)) => failed = each(*p).err().or(failed),
            Ok(Out::End(status)) => return failed.map_or(Ok(status), Err),
            Err(RecvTimeoutError::Timeout) if node.is_some_and(Node::stopped) => {
                return Err("the node has gone down".into());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err("the console has ended".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_that_are_none_are_refused() {
        assert_eq!((asked("0"), asked(" 1 ")), (Ok(0), Ok(1)));
        for bad in ["", "2", "-1", "0x1", "yes"] {
            let told = asked(bad).unwrap_err();
            assert!(
                told.starts_with(&format!("LST_FEATURES={bad}: ")) && told.ends_with("give 0 or 1"),
                "{told}"
            );
        }
    }
}
