//! Options that several commands have, each with its one help text.

use clap::Args;

use super::values::seconds;

/// The form of a result that is a table.
#[derive(Args, Debug, Clone)]
pub(crate) struct TableOut {
    /// One JSON object instead of the table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The form of a result that is text.
#[derive(Args, Debug, Clone)]
pub(crate) struct TextOut {
    /// One JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Repeating what is shown.
#[derive(Args, Debug, Clone)]
pub(crate) struct Again {
    /// Shows them again every so many seconds.
    #[arg(long, short, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) watch: Option<f64>,
}

/// The node that is asked.
#[derive(Args, Debug, Clone)]
pub(crate) struct Which {
    /// Which node, where several run: its process number, or the path of its control socket.
    #[arg(long, value_name = "PID|PATH")]
    pub(crate) node: Option<String>,
}

/// Arguments of DPDK.
#[derive(Args, Debug, Clone)]
pub(crate) struct EalArgs {
    /// EAL arguments, as DPDK documents them.
    #[arg(last = true)]
    pub(crate) eal: Vec<String>,
}

/// A measurement over a virtio link and over kernel sockets.
#[derive(Args, Debug, Clone)]
pub(crate) struct OverLink {
    /// Kernel sockets only.
    #[arg(long, conflicts_with = "eal")]
    pub(crate) sockets_only: bool,
    /// The form of the result.
    #[command(flatten)]
    pub(crate) out: TableOut,
    /// The EAL of the link.
    #[command(flatten)]
    pub(crate) dpdk: EalArgs,
}
