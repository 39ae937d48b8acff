//! The command: `pollnd demo`, `node`, `ping`, `put`, `get`, `selftest`, `net`, `connections`, `stats`, `capture`, `tunables`,
//! `fault`, `doctor`, `bench`.
#![forbid(unsafe_code)]
// All of it goes through `out`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod access;
mod args;
mod assemble;
mod bench;
mod bulk;
mod cpus;
mod demo;
mod doctor;
#[cfg(feature = "dpdk")]
mod dpdk;
mod iface;
mod inspect;
mod job;
#[cfg(feature = "dpdk")]
mod keeper;
mod known;
mod limits;
mod member;
mod net;
mod node;
mod out;
#[cfg(feature = "dpdk")]
mod pairs;
mod ping;
mod running;
mod selftest;
mod settings;
mod signals;
mod units;
mod why;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use args::Command;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Exit code when something that was asked for did not work.
const FAILED: u8 = 1;

/// Exit code when what was asked for makes no sense; clap ends with the same.
const MISUSED: u8 = 2;
/// The variable that says what is logged, in place of `-v`.
const LOG: &str = "POLLND_LOG";

/// The filter in [`LOG`], if there is one.
fn log_filter(value: Option<OsString>) -> Result<Option<EnvFilter>, String> {
    let Some(v) = value.filter(|v| !v.is_empty()) else { return Ok(None) };
    let text = v.to_str().ok_or_else(|| format!("{LOG}={v:?}: it is not UTF-8"))?;
    let wrong = |e: &dyn std::fmt::Display| {
        format!("{LOG}={text}: {e}; write error, warn, info, debug or trace, or such as warn,transport=debug")
    };
    // A word that is no level would name a part of the program, and everything else fall silent.
    let level = |w: &str| w.contains(['=', '[']) || w.parse::<LevelFilter>().is_ok();
    if let Some(w) = text.split(',').map(str::trim).find(|w| !w.is_empty() && !level(w)) {
        return Err(wrong(&format_args!("{w:?} is no level")));
    }
    EnvFilter::try_new(text).map(Some).map_err(|e| wrong(&e))
}

fn main() -> ExitCode {
    // Rust opens /dev/null in the place of a stream that is closed: nothing that is written there would ever fail.
    if dataplane::stdio::output_was_closed() {
        out::note("standard output is closed: open it, as >/dev/null if nobody is to read it");
        return ExitCode::from(FAILED);
    }
    limits::raise();
    let cli = match args::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(e) => return unparsed(&e),
    };
    let level = match cli.verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = match log_filter(std::env::var_os(LOG)) {
        Ok(given) => given.unwrap_or_else(|| level.into()),
        Err(e) => {
            out::note(e);
            return ExitCode::from(MISUSED);
        }
    };
    // Colours are for people: a file, or a journal, has the text alone.
    let colours =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    // Where standard error cannot be written to, nobody is to be told of it there.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .log_internal_errors(false)
        .init();
    let done = match cli.command {
        Command::Demo(a) => demo::main(&a),
        Command::Node(a) => node::main(a),
        Command::Ping(a) => ping::main(a),
        Command::Put(a) => bulk::main(a, job::Way::Put),
        Command::Get(a) => bulk::main(a, job::Way::Get),
        Command::Connections(a) => inspect::connections::main(&a),
        Command::Stats(a) => inspect::lcores::main(&a),
        Command::Capture(a) => inspect::capture::main(&a),
        Command::Tunables(a) => inspect::tunables::main(&a),
        Command::Fault(a) => inspect::faults::main(&a),
        Command::Doctor(a) => match doctor::main(&a) {
            Ok(code) => return code,
            Err(e) => Err(e),
        },
        Command::Selftest(a) => return selftest::main(*a),
        Command::Net(a) => return net::main(a.what),
        Command::Bench(a) => bench::main(&a.what),
    };
    finish(done)
}

fn finish(done: Result<(), String>) -> ExitCode {
    out::end_if_closed();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            out::note(e);
            ExitCode::from(FAILED)
        }
    }
}

/// Help that was asked for, or what is wrong with the command line.
fn unparsed(e: &clap::Error) -> ExitCode {
    let printed = e.print().and_then(|()| std::io::stdout().flush());
    match e.use_stderr() {
        true => ExitCode::from(MISUSED),
        false => finish(out::written(printed)),
    }
}
