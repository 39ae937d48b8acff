//! `lnetctl` without a verb: verbs from standard input, a line each, as lnetctl reads them (docs/lnetctl.md).

use std::io::{BufRead, IsTerminal, Read, Write};

use transport::selftest::console::split;

use super::run;
use crate::args::{self, Command};
use crate::{MISUSED, out};

/// The prompt of lnetctl.
const PROMPT: &str = "lnetctl > ";
/// Longest line, in bytes.
const LINE_MAX: u64 = 64 << 10;
/// Exit status of a line that has no words.
const NO_WORDS: u8 = 255;

/// The next line. Standard input is not held between two of them: `import` without a file reads there, too.
fn next() -> Result<Option<String>, String> {
    let mut line = String::new();
    let read = std::io::stdin().lock().take(LINE_MAX).read_line(&mut line);
    match read.map_err(|e| format!("standard input: {e}; it should be lines of text, a verb in each"))? {
        0 => Ok(None),
        n if n as u64 == LINE_MAX => {
            Err(format!("standard input: a line of {LINE_MAX} bytes or more, which no verb is"))
        }
        _ => Ok(Some(line)),
    }
}

/// Does what a line says, and gives its exit status; none where it says to leave.
fn one(line: &str, node: Option<&str>) -> Result<Option<u8>, String> {
    let words = match split(line) {
        Ok(w) => w,
        Err(e) => {
            out::note(e);
            return Ok(Some(NO_WORDS));
        }
    };
    match words.first().map(String::as_str) {
        None => return Ok(Some(0)),
        Some("exit" | "quit") => return Ok(None),
        Some(_) => {}
    }
    let asked = ["pollnd", "lnetctl"].into_iter().map(str::to_owned).chain(words);
    let mut a = match args::parse(asked).map(|cli| cli.command) {
        Ok(Command::Lnetctl(a)) => a,
        Ok(_) => return Ok(Some(MISUSED)),
        Err(e) => {
            out::written(e.print().and_then(|()| std::io::stdout().flush()))?;
            return Ok(Some(if e.use_stderr() { MISUSED } else { 0 }));
        }
    };
    a.node = a.node.or_else(|| node.map(str::to_owned));
    Ok(Some(run(&a).map_or_else(|r| r.end(), |()| 0)))
}

/// Does what the lines say, and gives the exit status of the last. At a terminal it prompts, and goes on behind a line that failed; else that one is the
/// last.
///
/// # Errors
/// Standard input or output that is not to be had.
pub(super) fn main(node: Option<&str>) -> Result<u8, String> {
    let talk = std::io::stdin().is_terminal();
    let mut status = 0;
    for n in 1.. {
        if talk {
            out::text(PROMPT)?;
        }
        let Some(line) = next()? else { break };
        match one(&line, node)? {
            None => return Ok(status),
            Some(s) => status = s,
        }
        if status != 0 && !talk {
            let line = line.trim();
            out::note(format_args!(
                "standard input:{n}: {line}: exit status {status}; the lines behind it were not read"
            ));
            return Ok(status);
        }
    }
    if talk {
        out::line("")?;
    }
    Ok(status)
}
