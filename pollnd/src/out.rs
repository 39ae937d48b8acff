//! Output of pollnd: all of it goes through here, so that a reader who has left and a disk that is full are met in one place.
//!
//! A reader that leaves (`pollnd stats -w 1 | head`) ends the program without a word, as it ends every Unix program: the
//! command goes down in order first, then [`end_if_closed`] lets SIGPIPE do what it does by default. Anything else that
//! keeps standard output from being written is an error. Nothing is an error on standard error: there is nowhere to say so.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::SIGPIPE;
use signal_hook::low_level::emulate_default_handler;
use transport::wire::without_controls;

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Writes to standard output, as it is.
///
/// # Errors
/// It cannot be written to: the command should end in order.
pub(crate) fn text(s: impl Display) -> Result<(), String> {
    let mut out = io::stdout().lock();
    written(write!(out, "{s}").and_then(|()| out.flush()))
}

/// Writes a line to standard output.
///
/// # Errors
/// As [`text`].
pub(crate) fn line(s: impl Display) -> Result<(), String> {
    text(format_args!("{s}\n"))
}

/// The result of writing to standard output.
///
/// # Errors
/// As [`text`].
pub(crate) fn written(r: io::Result<()>) -> Result<(), String> {
    match r {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => {
            CLOSED.store(true, Ordering::Relaxed);
            Err("nobody reads standard output any more".into())
        }
        Err(e) => Err(format!("cannot write to standard output: {e}")),
    }
}

/// Lines that may have in them what others have said: their control characters are escaped.
fn lines(s: &str) -> String {
    s.split('\n').map(without_controls).collect::<Vec<_>>().join("\n")
}

/// Writes lines to standard error; control characters of what they say are escaped.
pub(crate) fn err(s: &str) {
    let _ = io::stderr().lock().write_all(lines(s).as_bytes());
}

/// Says something on standard error, as this program, likewise.
pub(crate) fn note(s: impl Display) {
    let _ = writeln!(io::stderr().lock(), "pollnd: {}", lines(&s.to_string()));
}

/// Ends the program as SIGPIPE does, where the reader of standard output has left.
pub(crate) fn end_if_closed() {
    if CLOSED.load(Ordering::Relaxed) {
        // Where the kernel will not have it, the error that follows says what is the matter.
        let _ = emulate_default_handler(SIGPIPE);
    }
}
