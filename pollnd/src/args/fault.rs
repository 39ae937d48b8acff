//! Arguments of `pollnd fault`, by the names that `lnetctl fault` has.

use clap::{Args, Subcommand};

use super::common::{TextOut, Which};
use super::values::{number, seconds};

/// `pollnd fault`.
#[derive(Args, Debug, Clone)]
#[command(after_help = "Examples:
  pollnd fault drop add --source '*@tcp' --dest '*@tcp' --rate 10 --message PUT
  pollnd fault drop add --source '*' --dest 10.0.0.2@tcp --rate 1 --message GET --health_error local_timeout
  pollnd fault delay add --source '*@tcp' --dest '*@tcp' --interval 5 --latency 2
  pollnd fault drop list
  pollnd fault drop del --all

A drop rule works on messages that the node receives; with --health_error on those that it sends, which then fail at once.
A delay rule works on both. Each lcore has the rules and counts for itself: of --rate N it takes one in N of its messages.")]
pub(crate) struct FaultArgs {
    /// The kind of the rules.
    #[command(subcommand)]
    pub(crate) kind: FaultKind,
}

/// Kinds of rules.
#[derive(Subcommand, Debug, Clone)]
pub(crate) enum FaultKind {
    /// Rules that drop messages, or have them fail.
    #[command(subcommand)]
    Drop(FaultVerb),
    /// Rules that delay messages.
    #[command(subcommand)]
    Delay(FaultVerb),
}

/// Actions on rules.
#[derive(Subcommand, Debug, Clone)]
pub(crate) enum FaultVerb {
    /// Adds a rule.
    Add(FaultAddArgs),
    /// Deletes rules.
    Del(FaultDelArgs),
    /// Lists the rules with their counts, as `lctl net_drop_list` and `net_delay_list` do.
    #[command(visible_alias = "show")]
    List(FaultListArgs),
    /// Sets the counts to 0, and begins the rates anew.
    Reset(FaultResetArgs),
}

/// `pollnd fault drop add`, `pollnd fault delay add`.
#[derive(Args, Debug, Clone)]
pub(crate) struct FaultAddArgs {
    /// Sources: a NID, all of a network ('*@tcp'), or all ('*').
    #[arg(long, short, value_name = "NID")]
    pub(crate) source: String,
    /// Destinations, in the same way.
    #[arg(long, short, value_name = "NID")]
    pub(crate) dest: String,
    /// One of so many messages.
    #[arg(long, short, value_name = "N", value_parser = number::<u32>(1..=u64::from(u32::MAX)))]
    pub(crate) rate: Option<u32>,
    /// One message every so many seconds.
    #[arg(long, short, value_name = "SECONDS", value_parser = number::<u32>(1..=86_400))]
    pub(crate) interval: Option<u32>,
    /// Only to this portal, which only PUTs and GETs have. May be given several times.
    #[arg(long, short, value_parser = number::<u8>(0..=63))]
    pub(crate) portal: Vec<u8>,
    /// Only of this type: PUT, ACK, GET or REPLY. May be given several times.
    #[arg(long, short, value_name = "TYPE")]
    pub(crate) message: Vec<String>,
    /// Seconds of a delay.
    #[arg(long, short, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) latency: Option<f64>,
    /// Messages sent fail at once with this error, such as local_timeout, or a random one. May be given several times.
    #[arg(long = "health_error", visible_alias = "health-error", short = 'e', value_name = "ERROR")]
    pub(crate) health_error: Vec<String>,
    /// The node that is asked.
    #[command(flatten)]
    pub(crate) asked: Which,
}

/// `pollnd fault drop del`, `pollnd fault delay del`.
#[derive(Args, Debug, Clone)]
pub(crate) struct FaultDelArgs {
    /// Rules with these sources, as they were given.
    #[arg(long, short, value_name = "NID", required_unless_present = "all")]
    pub(crate) source: Option<String>,
    /// And these destinations.
    #[arg(long, short, value_name = "NID", required_unless_present = "all")]
    pub(crate) dest: Option<String>,
    /// All of the kind.
    #[arg(long, short, conflicts_with_all = ["source", "dest"])]
    pub(crate) all: bool,
    /// The node that is asked.
    #[command(flatten)]
    pub(crate) asked: Which,
}

/// `pollnd fault drop list`, `pollnd fault delay list`.
#[derive(Args, Debug, Clone)]
pub(crate) struct FaultListArgs {
    /// The form of the result.
    #[command(flatten)]
    pub(crate) out: TextOut,
    /// The node that is asked.
    #[command(flatten)]
    pub(crate) asked: Which,
}

/// `pollnd fault drop reset`, `pollnd fault delay reset`.
#[derive(Args, Debug, Clone)]
pub(crate) struct FaultResetArgs {
    /// The node that is asked.
    #[command(flatten)]
    pub(crate) asked: Which,
}
