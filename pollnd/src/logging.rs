//! The log on standard error: what is logged, by the command line, by a variable, or by a node's configuration file.

use std::ffi::OsString;
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use transport::wire::Brief;

/// The variable that says what is logged, in place of `-v`.
const VARIABLE: &str = "POLLND_LOG";

/// The log as it was begun.
struct Log {
    /// Whether a variable or an option says what is logged: then a file does not.
    given: bool,
    /// Words for it.
    first: String,
    change: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// The filter that `text` says.
///
/// # Errors
/// The word that is none, and what may be said.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, String> {
    let wrong = |e: &dyn std::fmt::Display| {
        format!("{e}; write error, warn, info, debug or trace, or such as warn,transport=debug")
    };
    // A word that is no level would name a part of the program, and everything else fall silent.
    let level = |w: &str| w.contains(['=', '[']) || w.parse::<LevelFilter>().is_ok();
    if let Some(w) = text.split(',').map(str::trim).find(|w| !w.is_empty() && !level(w)) {
        return Err(wrong(&format_args!("{:?} is no level", Brief(w))));
    }
    EnvFilter::try_new(text).map_err(|e| wrong(&e))
}

/// The value of [`VARIABLE`], if it is one.
fn variable(value: Option<OsString>) -> Result<Option<String>, String> {
    let Some(v) = value.filter(|v| !v.is_empty()) else { return Ok(None) };
    let text = v.into_string().map_err(|v| format!("{VARIABLE}={v:?}: it is not UTF-8"))?;
    filter(&text).map_err(|e| format!("{VARIABLE}={text}: {e}"))?;
    Ok(Some(text))
}

/// The journal, where standard error is one of systemd's: it has levels and areas as fields then (`journalctl -p warning
/// TARGET=transport::node`).
fn journal() -> Option<tracing_journald::Layer> {
    let told = std::env::var("JOURNAL_STREAM").ok()?;
    let stream = File::from(std::io::stderr().as_fd().try_clone_to_owned().ok()?).metadata().ok()?;
    let same = told == format!("{}:{}", stream.dev(), stream.ino());
    same.then(tracing_journald::layer)?.ok()
}

/// Begins the log; `verbose` is how often `-v` was given.
///
/// # Errors
/// The variable's value that is none.
pub(crate) fn begin(verbose: u8) -> Result<(), String> {
    let said = variable(std::env::var_os(VARIABLE))?;
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let given = said.is_some() || verbose > 0;
    let first = said.unwrap_or_else(|| level.to_owned());
    let (filter, handle) = reload::Layer::new(filter(&first)?);
    let journal = journal();
    // Colours are for people: a file has the text alone.
    let colours =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    // Where standard error cannot be written to, nobody is to be told of it there.
    let text = journal.is_none().then(|| {
        let text = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        text.with_ansi(colours).log_internal_errors(false)
    });
    tracing_subscriber::registry().with(filter).with(journal).with(text).init();
    let change = Box::new(move |f| handle.reload(f).map_err(|e| e.to_string()));
    let _ = LOG.set(Log { given, first, change });
    Ok(())
}

/// Logs what a file says, or as at first where it says nothing; `false` where the command line, or the variable, wins.
///
/// # Errors
/// The text is no filter.
pub(crate) fn by_file(text: Option<&str>) -> Result<bool, String> {
    match LOG.get() {
        Some(l) if !l.given => {
            (l.change)(filter(text.unwrap_or(&l.first))?)?;
            Ok(true)
        }
        _ => Ok(text.is_none()),
    }
}

/// Words for what was logged before a file said something, and whether a file may.
pub(crate) fn first() -> (String, bool) {
    LOG.get().map_or_else(|| ("warn".to_owned(), true), |l| (l.first.clone(), !l.given))
}
