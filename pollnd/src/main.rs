//! The command: `pollnd demo`, `node`, `ping`, `put`, `get`, `connections`, `stats`, `capture`, `tunables`, `doctor`, `bench`.
#![forbid(unsafe_code)]

mod args;
mod assemble;
mod benchcmd;
mod bulk;
mod cptcmd;
mod demo;
mod doctor;
#[cfg(feature = "dpdk")]
mod dpdk;
mod iface;
mod inspect;
mod node;
mod ping;
#[cfg(feature = "dpdk")]
mod place;
mod ratecmd;
mod settings;
mod signals;
mod stackcmd;

use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;

/// Exit code when something that was asked for did not work.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match cli.verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("POLLND_LOG").unwrap_or_else(|_| level.into());
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
        Command::Doctor(a) => doctor::main(&a),
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
