//! Arguments of the commands that ask a peer: `ping`, `put`, `get`.

use clap::Args;
use transport::wire::Nid;

use super::NodeArgs;
use super::common::TextOut;
use super::values::{bytes, nid, pause, pings, seconds, transfers};

/// The node that asks.
#[derive(Args, Debug, Clone)]
pub(crate) struct Via {
    /// The NID that this command has: that of a node that runs on this machine, which is used then, or of a node of its own.
    /// Default over kernel sockets: the address from which this machine reaches the target, or the gateway of the --route to it.
    #[arg(long, value_parser = nid)]
    pub(crate) nid: Option<Nid>,
    /// Goes through a node that runs: its process number, or the path of its control socket.
    #[arg(long = "node", id = "through", value_name = "PID|PATH", conflicts_with_all = OF_A_NODE)]
    pub(crate) through: Option<String>,
}

/// Options of a node that is started: one that runs has its own.
pub(super) const OF_A_NODE: &[&str] = &[
    "nid",
    "ni",
    "route",
    "peer_nids",
    "fault",
    "carrier",
    "port",
    "vdev",
    "ni_ports",
    "prefix",
    "gateway",
    "vlan",
    "mtu",
    "cpu_pattern",
    "lcores",
    "balance",
    "idle",
    "queues",
    "tso",
    "tx_csum",
    "rx_csum",
    "lro",
    "rss",
    "options",
    "tunable",
    "accept_port",
    "accept",
    "peer_credits",
    "zc_min_payload",
    "keepalive",
    "routing",
    "cut_through",
    "budget",
    "pcap",
    "eal",
];

/// `pollnd ping`.
#[derive(Args, Debug, Clone)]
#[command(after_help = "Examples:
  pollnd ping 10.0.0.2@tcp                        from where this machine reaches it
  pollnd ping 10.0.0.2@tcp -c 10 -i 0.2           ten, five a second, and their sum
  pollnd ping 10.0.0.2@tcp --node 1234            from the node with that process number
  pollnd ping 10.0.0.2@tcp --nid 10.0.0.1@tcp     from that NID: of the node that runs, or else of its own

A ping that is not answered is said at once, and the next is sent; the exit code is 1 when any was not.")]
pub(crate) struct PingArgs {
    /// Whom to ping, such as 10.0.0.2@tcp.
    #[arg(value_parser = nid)]
    pub(crate) target: Nid,
    /// Number of pings.
    #[arg(long, short, default_value_t = 1, value_parser = pings)]
    pub(crate) count: u64,
    /// Seconds from one ping to the next, an answer that takes longer aside.
    #[arg(long, short, value_name = "SECONDS", default_value_t = 1.0, value_parser = pause)]
    pub(crate) interval: f64,
    /// Seconds to wait for an answer, connecting included. `lctl ping` says 1; a single packet that is lost while connecting
    /// costs that alone (RFC 6298), and ten bear three in a row.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds)]
    pub(crate) timeout: f64,
    /// The form of the result.
    #[command(flatten)]
    pub(crate) out: TextOut,
    /// The node that pings.
    #[command(flatten)]
    pub(crate) via: Via,
    /// The node of its own.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// `pollnd put` and `pollnd get`.
#[derive(Args, Debug, Clone)]
#[command(after_help = "Examples:
  pollnd put 10.0.0.2@tcp                         1024 messages of 1 MiB
  pollnd get 10.0.0.2@tcp -c 10 -s 16M            ten times 16 MiB, in 16 messages each
  pollnd put 10.0.0.2@tcp -t 60 -w 1 -s 4k        4 KiB messages for a minute, a line a second
  pollnd put 10.0.0.2@tcp --node 1234             from the node with that process number

A message that ends with an error is counted, and the next is sent; the exit code is 1 when any did.")]
pub(crate) struct BulkArgs {
    /// Whom to, such as 10.0.0.2@tcp.
    #[arg(value_parser = nid)]
    pub(crate) target: Nid,
    /// Number of transfers. Default: 1024, or as many as --seconds lets.
    #[arg(long, short, value_parser = transfers)]
    pub(crate) count: Option<u64>,
    /// Bytes of each transfer: a number, or one with k, M or G for KiB, MiB or GiB. What is more than 1 MiB, LNet's limit,
    /// goes in several messages.
    #[arg(long, short, value_name = "BYTES", default_value = "1M", value_parser = bytes)]
    pub(crate) size: u64,
    /// Begins no new transfer after so many seconds.
    #[arg(long, short = 't', value_name = "SECONDS", value_parser = seconds)]
    pub(crate) seconds: Option<f64>,
    /// A line every so many seconds: time, rate, messages a second, messages.
    #[arg(long, short, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) watch: Option<f64>,
    /// Gives up when nothing has been answered well for so many seconds, connecting included.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds)]
    pub(crate) timeout: f64,
    /// One JSON object instead of a line; with --watch one for each interval before it.
    #[arg(long)]
    pub(crate) json: bool,
    /// The node that asks.
    #[command(flatten)]
    pub(crate) via: Via,
    /// The node of its own.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}
