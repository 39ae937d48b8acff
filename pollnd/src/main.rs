//! The command: `pollnd demo`, `node`, `config`, `ping`, `put`, `get`, `selftest`, `net`, `connections`, `stats`, `top`, `capture`,
//! `tunables`, `fault`, `lnetctl`, `doctor`, `bench`.
#![forbid(unsafe_code)]
// All of it goes through `out`.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod access;
mod args;
mod assemble;
mod bench;
mod bulk;
mod config;
mod cpus;
mod demo;
mod doctor;
#[cfg(feature = "dpdk")]
mod dpdk;
mod fault_rules;
mod file;
mod iface;
mod inspect;
mod job;
#[cfg(feature = "dpdk")]
mod keeper;
mod known;
mod limits;
mod links;
mod lnetctl;
mod logging;
mod member;
mod metrics;
mod net;
mod networks;
mod node;
mod out;
mod pages;
#[cfg(feature = "dpdk")]
mod pairs;
mod ping;
mod running;
mod selftest;
mod service;
mod settings;
mod signals;
mod top;
mod units;
mod why;

use std::io::Write;
use std::process::ExitCode;

use args::Command;
use config::merge::{self, Bad};

/// Exit code when something that was asked for did not work.
const FAILED: u8 = 1;

/// Exit code when what was asked for makes no sense; clap ends with the same.
pub(crate) const MISUSED: u8 = 2;

fn main() -> ExitCode {
    // Rust opens /dev/null in the place of a stream that is closed: nothing that is written there would ever fail.
    if dataplane::stdio::output_was_closed() {
        out::note("standard output is closed: open it, as >/dev/null if nobody is to read it");
        return ExitCode::from(FAILED);
    }
    limits::raise();
    let cli = match merge::parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(Bad::Line(e)) => return unparsed(&e),
        Err(Bad::File(e)) => {
            out::err(&e);
            return ExitCode::from(MISUSED);
        }
    };
    // Its -v is lnetctl's.
    let verbose = if let Command::Lnetctl(_) = &cli.command { 0 } else { cli.verbose };
    if let Err(e) = logging::begin(verbose) {
        out::note(e);
        return ExitCode::from(MISUSED);
    }
    // As with --config: who starts it anew for a failure must not do so for a file that is missing or wrong.
    if let Some(Err(e)) = cli.command.node().map(settings::files_are_good) {
        out::note(e);
        return ExitCode::from(MISUSED);
    }
    let done = match cli.command {
        Command::Demo(a) => demo::main(&a),
        Command::Node(a) => node::main(a),
        Command::Ping(a) => ping::main(a),
        Command::Put(a) => bulk::main(a, job::Way::Put),
        Command::Get(a) => bulk::main(a, job::Way::Get),
        Command::Connections(a) => inspect::connections::main(&a),
        Command::Stats(a) => inspect::lcores::main(&a),
        Command::Top(a) => match top::main(&a) {
            Ok(code) => return code,
            Err(e) => Err(e),
        },
        Command::Capture(a) => inspect::capture::main(&a),
        Command::Tunables(a) => inspect::tunables::main(&a),
        Command::Fault(a) => inspect::faults::main(&a),
        Command::Lnetctl(a) => return lnetctl::main(&a),
        Command::Doctor(a) => match doctor::main(&a) {
            Ok(code) => return code,
            Err(e) => Err(e),
        },
        Command::Config(a) => match config::command::main(a.verb) {
            Ok(code) => return code,
            Err(e) => Err(e),
        },
        Command::Selftest(a) => return selftest::main(*a),
        Command::Net(a) => return net::main(a.what),
        Command::Bench(a) => match bench::main(a.what) {
            Ok(code) => return code,
            Err(e) => Err(e),
        },
        Command::Completions { shell } => pages::completions(shell),
        Command::Man { folder } => pages::man(&folder),
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
