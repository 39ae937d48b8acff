//! The command: `pollnd demo`, `node`, `ping`, `put`, `get`, `connections`, `stats`, `capture`, `tunables`, `doctor`, `bench`.
#![forbid(unsafe_code)]

mod args;
mod assemble;
mod benchcmd;
mod bulk;
mod cptcmd;
mod cpus;
mod demo;
mod doctor;
#[cfg(feature = "dpdk")]
mod dpdk;
mod iface;
mod inspect;
#[cfg(feature = "dpdk")]
mod keeper;
mod limits;
mod node;
mod ping;
#[cfg(feature = "dpdk")]
mod place;
mod ratecmd;
mod settings;
mod signals;
mod stackcmd;

use std::ffi::OsString;
use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;
use tracing_subscriber::EnvFilter;

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
    EnvFilter::try_new(text).map(Some).map_err(|e| {
        format!("{LOG}={text}: {e}; write error, warn, info, debug or trace, or such as warn,transport=debug")
    })
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match cli.verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = match log_filter(std::env::var_os(LOG)) {
        Ok(given) => given.unwrap_or_else(|| level.into()),
        Err(e) => {
            eprintln!("pollnd: {e}");
            return ExitCode::from(MISUSED);
        }
    };
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let done = match cli.command {
        Command::Demo(a) => demo::main(&a),
        Command::Node(a) => node::main(a),
        Command::Ping(a) => ping::main(a),
        Command::Put(a) => bulk::main(a, bulk::Way::Put),
        Command::Get(a) => bulk::main(a, bulk::Way::Get),
        Command::Connections(a) => inspect::connections::main(&a),
        Command::Stats(a) => inspect::lcores::main(&a),
        Command::Capture(a) => inspect::capture::main(&a),
        Command::Tunables(a) => inspect::tunables::main(&a),
        Command::Doctor(a) => match doctor::main(&a) {
            Ok(code) => return code,
            Err(e) => Err(e),
        },
        Command::Bench(a) => benchcmd::main(&a.what),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("pollnd: {e}");
            ExitCode::from(FAILED)
        }
    }
}
