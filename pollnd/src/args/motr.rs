//! `pollnd net`: Motr's network transport.

use clap::{Args, Subcommand, ValueEnum};

use super::NodeArgs;
use super::common::TextOut;
use super::values::{number, seconds, size, transfers};

/// `pollnd net`.
#[derive(Args, Debug, Clone)]
#[command(after_help = "Addresses, as Motr writes them:
  inet:stream:10.0.0.1@7000    netsock at an IP and a port; inet6:stream:fd00::1@7000
  10.0.0.1@tcp:12345:34:1      lnet: NID, process 12345, portal, transfer machine. With --xprt sock the port that Motr's sock
                               transport makes of it; * for the transfer machine takes one that is free

A Motr process may be the other end over netsock: docs/net.md has the messages, and how it learns a descriptor.")]
pub(crate) struct NetArgs {
    /// The verb.
    #[command(subcommand)]
    pub(crate) what: NetVerb,
}

/// Verbs of `pollnd net`.
#[derive(Subcommand, Debug, Clone)]
pub(crate) enum NetVerb {
    /// A transfer machine that sends messages back as they came, and fills and fetches buffers by descriptor.
    Node(NetNodeArgs),
    /// Sends messages to one, which come back, and measures.
    Ping(NetPingArgs),
    /// Has one fetch or fill buffers here, and measures.
    Bulk(NetBulkArgs),
}

/// Transports of Motr.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum XprtArg {
    /// LNet.
    Lnet,
    /// netsock, over TCP.
    Sock,
}

/// `pollnd net node`.
#[derive(Args, Debug, Clone)]
#[command(after_help = "Examples:
  pollnd net node inet:stream:10.0.0.1@7000
  pollnd net node 10.0.0.1@tcp:12345:34:1                          over LNet
  pollnd net node inet:stream:10.0.0.1@7000 --port 0000:03:00.0    on a DPDK port")]
pub(crate) struct NetNodeArgs {
    /// The address of its transfer machine.
    #[arg(id = "nid", value_name = "ADDRESS")]
    pub(crate) address: String,
    /// The transport. Default: sock for inet:..., else lnet.
    #[arg(long, value_enum)]
    pub(crate) xprt: Option<XprtArg>,
    /// Buffers for messages: at least what all clients have under way. What comes beyond them waits over netsock, and is lost
    /// over LNet.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = number::<u32>(1..=65_536))]
    pub(crate) buffers: u32,
    /// Bytes of each: the longest message.
    #[arg(long, value_name = "BYTES", default_value = "64k", value_parser = size::<u32>(96..=64 << 20))]
    pub(crate) message: u32,
    /// Bulk transfers at a time; more wait.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = number::<u32>(1..=1024))]
    pub(crate) bulks: u32,
    /// Bytes of the largest; over LNet 1 MiB at most.
    #[arg(long, value_name = "BYTES", default_value = "1M", value_parser = size::<u32>(1..=64 << 20))]
    pub(crate) bulk: u32,
    /// Copies bulk that comes into pages of its own instead of having receive buffers lent.
    #[arg(long)]
    pub(crate) copy: bool,
    /// Goes down after so many seconds.
    #[arg(long, value_parser = seconds)]
    pub(crate) run_for: Option<f64>,
    /// A JSON object when it is up, and one at its end, instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// The node below it.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// A test of a node.
#[derive(Args, Debug, Clone)]
pub(crate) struct NetAskArgs {
    /// The node's address.
    #[arg(value_name = "ADDRESS")]
    pub(crate) target: String,
    /// The address here. Default over kernel sockets: that from which this machine reaches the target, with a number that is
    /// free.
    #[arg(long = "from", id = "nid", value_name = "ADDRESS")]
    pub(crate) from: Option<String>,
    /// The transport. Default: sock for inet:..., else lnet.
    #[arg(long, value_enum)]
    pub(crate) xprt: Option<XprtArg>,
    /// Number of operations. Default: as many as --seconds lets.
    #[arg(long, short, value_parser = transfers)]
    pub(crate) count: Option<u64>,
    /// Begins no new operation after so many seconds. Default: 10, or none with --count.
    #[arg(long, short = 't', value_name = "SECONDS", value_parser = seconds)]
    pub(crate) seconds: Option<f64>,
    /// Operations under way.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = number::<u32>(1..=1024))]
    pub(crate) concurrency: u32,
    /// Checks every byte where it arrives.
    #[arg(long)]
    pub(crate) check: bool,
    /// Time for each operation, connecting included, in seconds; the first that takes longer ends all.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds)]
    pub(crate) timeout: f64,
    /// The form of the result.
    #[command(flatten)]
    pub(crate) out: TextOut,
    /// The node below it.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// `pollnd net ping`.
#[derive(Args, Debug, Clone)]
#[command(after_help = "Examples:
  pollnd net ping inet:stream:10.0.0.1@7000                      4 KiB, 8 at a time, 10 s
  pollnd net ping 10.0.0.1@tcp:12345:34:1 -c 1000 --concurrency 1 -s 64 --check

Exit code: 0 if all went well, 1 if not, 130 if it was interrupted.")]
pub(crate) struct NetPingArgs {
    /// Bytes of each message: a number, or one with k or M.
    #[arg(long, short, value_name = "BYTES", default_value = "4k", value_parser = size::<u32>(8..=64 << 20))]
    pub(crate) size: u32,
    /// The test.
    #[command(flatten)]
    pub(crate) ask: NetAskArgs,
}

/// `pollnd net bulk`.
#[derive(Args, Debug, Clone)]
#[command(after_help = "Examples:
  pollnd net bulk inet:stream:10.0.0.1@7000                      the node fetches 1 MiB (its active receive), 8 at a time, 10 s
  pollnd net bulk inet:stream:10.0.0.1@7000 --read --check       the node fills buffers here (its active send)
  pollnd net bulk inet:stream:10.0.0.1@7000 --active             this end fills buffers of the node's (its own active send)

Exit code: 0 if all went well, 1 if not, 130 if it was interrupted.")]
pub(crate) struct NetBulkArgs {
    /// Bytes of each transfer: a number, or one with k or M. Over LNet 1 MiB at most.
    #[arg(long, short, value_name = "BYTES", default_value = "1M", value_parser = size::<u32>(1..=64 << 20))]
    pub(crate) size: u32,
    /// Moves payload from the node to here: its active sends to passive receives.
    #[arg(long)]
    pub(crate) read: bool,
    /// Has the active part here, by descriptors that the node gives out: active sends, or with --read active receives.
    #[arg(long)]
    pub(crate) active: bool,
    /// Moves payload from here to the node: its active receives of passive sends (so it is if nothing is said).
    #[arg(long, conflicts_with = "read")]
    pub(crate) write: bool,
    /// Copies bulk that comes into pages of its own instead of having receive buffers lent.
    #[arg(long)]
    pub(crate) copy: bool,
    /// The test.
    #[command(flatten)]
    pub(crate) ask: NetAskArgs,
}
