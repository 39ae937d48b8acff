//! SIGINT and SIGTERM: the first drains, the second leaves at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use transport::node::{Control, Order};

use crate::limits;

/// Watches for signals on a thread of its own.
///
/// # Errors
/// The kernel refuses the handlers, or a thread.
pub(crate) fn watch(control: Arc<Control>) -> Result<(), String> {
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|e| format!("cannot watch for signals: {}", limits::told(&e)))?;
    let watch = limits::thread("watches for signals", move || {
        for (n, _) in signals.forever().enumerate() {
            if n == 0 {
                crate::out::note("going down (once more to leave at once)");
                control.give(Order::Drain);
            } else {
                control.give(Order::Leave);
            }
        }
    });
    watch.map(drop)
}

/// Holds back SIGHUP, which ends a process by default.
///
/// # Errors
/// The kernel refuses the handler.
pub(crate) fn hangups() -> Result<Signals, String> {
    Signals::new([SIGHUP]).map_err(|e| format!("cannot watch for signals: {}", limits::told(&e)))
}

/// Calls `heard` at each SIGHUP, on a thread of its own.
///
/// # Errors
/// The kernel refuses a thread.
pub(crate) fn each_hangup(mut signals: Signals, heard: impl Fn() + Send + 'static) -> Result<(), String> {
    limits::thread("watches for SIGHUP", move || signals.forever().for_each(|_| heard())).map(drop)
}

/// Words for what a signal, or Enter, ends at a console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// The verb that runs.
    Verb,
    /// The session, and the command.
    Session,
    /// Everything, at once.
    All,
}

/// A console between its user and what runs. At a prompt SIGINT ends a verb, and the prompt is back; where none runs, in scripts and
/// by SIGTERM the session ends, and by a signal more all.
#[derive(Debug, Default)]
pub(crate) struct Interrupt {
    /// A verb runs that was typed at a prompt.
    at_prompt: AtomicBool,
    verb: AtomicBool,
    session: AtomicBool,
}

impl Interrupt {
    /// A verb begins, or has ended, at a prompt.
    pub(crate) fn runs(&self, on: bool) {
        self.verb.store(false, Ordering::Relaxed);
        self.at_prompt.store(on, Ordering::Relaxed);
    }

    /// A signal came.
    pub(crate) fn signal(&self, signal: i32) -> Ends {
        if signal == SIGINT && self.end_verb() {
            Ends::Verb
        } else if !self.session.swap(true, Ordering::Relaxed) {
            Ends::Session
        } else {
            Ends::All
        }
    }

    /// Ends the verb that runs; `false` where none does that was typed at a prompt, or it was told so before.
    pub(crate) fn end_verb(&self) -> bool {
        self.at_prompt.load(Ordering::Relaxed) && !self.verb.swap(true, Ordering::Relaxed)
    }

    /// Whether the verb that runs is to end.
    pub(crate) fn ends_verb(&self) -> bool {
        self.verb.load(Ordering::Relaxed) || self.ends_session()
    }

    /// Whether the session is to end.
    pub(crate) fn ends_session(&self) -> bool {
        self.session.load(Ordering::Relaxed)
    }
}

/// Tells `told` of each signal, for a command that ends in order by itself.
///
/// # Errors
/// The kernel refuses the handlers, or a thread.
pub(crate) fn tell(control: Arc<Control>, told: Arc<Interrupt>) -> Result<(), String> {
    each(move |signal| match told.signal(signal) {
        Ends::Verb => {}
        Ends::Session => crate::out::note("ending the session (once more to leave at once)"),
        Ends::All => control.give(Order::Leave),
    })
}

/// The same for one whose node is another process's: `end` ends what that answers.
///
/// # Errors
/// The kernel refuses the handlers, or a thread.
pub(crate) fn tell_through(told: Arc<Interrupt>, end: impl Fn() + Send + 'static) -> Result<(), String> {
    each(move |signal| match told.signal(signal) {
        Ends::Verb | Ends::Session => end(),
        Ends::All => drop(emulate_default_handler(signal)),
    })
}

/// Calls `heard` with each signal, on a thread of its own.
fn each(heard: impl Fn(i32) + Send + 'static) -> Result<(), String> {
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|e| format!("cannot watch for signals: {}", limits::told(&e)))?;
    limits::thread("watches for signals", move || signals.forever().for_each(heard)).map(drop)
}

/// Calls `clean` at a signal, on a thread of its own; then the signal does what it does by default.
///
/// # Errors
/// The kernel refuses the handlers, or a thread.
#[cfg(feature = "dpdk")]
pub(crate) fn last_wish(clean: impl Fn() + Send + 'static) -> Result<(), String> {
    each(move |signal| {
        clean();
        let _ = emulate_default_handler(signal);
    })
}

/// Calls `end` at the first signal, on a thread of its own; the second one does what it does by default.
///
/// # Errors
/// The kernel refuses the handlers, or a thread.
pub(crate) fn first(end: impl Fn() + Send + 'static) -> Result<(), String> {
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|e| format!("cannot watch for signals: {}", limits::told(&e)))?;
    let watch = limits::thread("watches for signals", move || {
        for (n, signal) in signals.forever().enumerate() {
            if n == 0 {
                end();
            } else {
                let _ = emulate_default_handler(signal);
            }
        }
    });
    watch.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_ends_the_verb_at_a_prompt_the_session_elsewhere() {
        let told = Interrupt::default();
        for _ in 0..3 {
            told.runs(true);
            assert_eq!((told.ends_verb(), told.signal(SIGINT)), (false, Ends::Verb));
            assert!(told.ends_verb() && !told.ends_session() && !told.end_verb());
            told.runs(false);
        }
        assert!(!told.ends_verb() && !told.end_verb(), "Enter ends a verb alone");
        // One that does not end at once, and the prompt.
        told.runs(true);
        let all = [SIGINT, SIGINT, SIGINT].map(|s| told.signal(s));
        assert_eq!(all, [Ends::Verb, Ends::Session, Ends::All]);
        let told = Interrupt::default();
        told.runs(true);
        assert_eq!((told.signal(SIGTERM), told.ends_session()), (Ends::Session, true));
        let told = Interrupt::default();
        assert_eq!(
            (told.signal(SIGINT), told.ends_verb(), told.signal(SIGINT)),
            (Ends::Session, true, Ends::All)
        );
    }
}
