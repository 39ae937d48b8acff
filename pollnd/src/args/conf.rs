//! Arguments of `pollnd config`, and what a configuration file says besides them.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::common::Which;

/// `pollnd config`.
#[derive(Args, Debug, Clone)]
#[command(after_help = "Examples:
  pollnd config check /etc/pollnd.yaml     all that is wrong with it, and exit code 2
  pollnd config show /etc/pollnd.yaml      every key, its value and where that comes from
  pollnd config export > now.yaml          the configuration of the node that runs
  pollnd config apply                      has that node read its file again, as SIGHUP does
  pollnd config apply new.yaml             has it take this one

A running node takes all of a file or nothing: what needs a restart is named, and nothing has changed then (exit code 1).")]
pub(crate) struct ConfigArgs {
    /// The verb.
    #[command(subcommand)]
    pub(crate) verb: ConfigVerb,
}

/// Verbs of `pollnd config`.
#[derive(Subcommand, Debug, Clone)]
pub(crate) enum ConfigVerb {
    /// Says everything that is wrong with a file.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Shows a file with its defaults, and where each value comes from.
    Show {
        /// The file.
        file: PathBuf,
    },
    /// Prints the configuration of a running node.
    Export {
        /// The node that is asked.
        #[command(flatten)]
        asked: Which,
    },
    /// Has a running node take a file.
    Apply {
        /// The file; standard input for `-`. Default: the file with which the node was started, which the node reads.
        file: Option<PathBuf>,
        /// The node that is asked.
        #[command(flatten)]
        asked: Which,
    },
}

/// The part of a configuration file that is no command line, and notes on the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// The command line as it was given.
    pub(crate) argv: Vec<OsString>,
    /// The log's filter.
    pub(crate) level: Option<String>,
    /// Where the command line wins over the file, and what the file says to no use.
    pub(crate) notes: Vec<String>,
}
