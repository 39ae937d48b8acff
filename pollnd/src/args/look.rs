//! Arguments of the commands that ask a running node.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use dataplane::tap::HEADERS;
use tcpstack::Phase;
use transport::wire::Brief;

use super::common::{Again, TextOut, Which};
use super::values::{number, seconds};

/// An address, and perhaps a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PeerArg {
    pub(crate) ip: IpAddr,
    pub(crate) port: Option<u16>,
}

impl FromStr for PeerArg {
    type Err = String;

    fn from_str(s: &str) -> Result<PeerArg, String> {
        if let Ok(ip) = s.parse() {
            return Ok(PeerArg { ip, port: None });
        }
        match s.parse::<SocketAddr>() {
            Ok(a) => Ok(PeerArg { ip: a.ip(), port: Some(a.port()) }),
            Err(_) => Err(format!(
                "{:?} is no peer: give an address with or without a port, such as 10.0.0.2, 10.0.0.2:1023 or [fd00::2]:1023",
                Brief(s)
            )),
        }
    }
}

impl std::fmt::Display for PeerArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(p) => SocketAddr::new(self.ip, p).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

/// Filter of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnFilter {
    /// Those of a peer.
    Peer(PeerArg),
    /// Those in a state.
    State(Phase),
}

impl FromStr for ConnFilter {
    type Err = String;

    fn from_str(s: &str) -> Result<ConnFilter, String> {
        if let Some(p) = Phase::named(s) {
            return Ok(ConnFilter::State(p));
        }
        s.parse().map(ConnFilter::Peer).map_err(|_| {
            format!(
                "{:?} is neither a peer, such as 10.0.0.2 or 10.0.0.2:1023, nor a state, such as ESTABLISHED",
                Brief(s)
            )
        })
    }
}

/// `pollnd connections`.
#[derive(Args, Debug, Clone)]
#[command(after_help = "Examples:
  pollnd connections                    all connections of the node that runs
  pollnd connections 10.0.0.2           those with one peer
  pollnd connections syn-sent -w 1      those that do not open, every second
  pollnd connections --json | jq '.connections[] | select(.retransmits > 0) | .remote'

Bytes are of payload, times in ms (in --json: ns), cwnd and ssthresh in bytes; - is what the carrier does not tell.")]
pub(crate) struct ConnectionsArgs {
    /// A peer (10.0.0.2, 10.0.0.2:1023) or a state (ESTABLISHED, SYN-SENT).
    pub(crate) filter: Option<ConnFilter>,
    /// The form of the result.
    #[command(flatten)]
    pub(crate) out: TextOut,
    /// Repeating it.
    #[command(flatten)]
    pub(crate) again: Again,
    /// The node that is asked.
    #[command(flatten)]
    pub(crate) asked: Which,
}

/// `pollnd stats`.
#[derive(Args, Debug, Clone)]
#[command(after_help = "Examples:
  pollnd stats             one line an lcore, counted since the node came up
  pollnd stats -w 1        every second, counted since the line before
  pollnd stats --all       and each counter that is not 0

busy is the share of time in turns that found something to do. \"a burst\" is packets a receive burst that was not
empty; a full burst (32 packets) left more behind.")]
pub(crate) struct StatsArgs {
    /// Every counter that is not 0, too.
    #[arg(long, short)]
    pub(crate) all: bool,
    /// One JSON object instead of text: always all counters, since the start.
    #[arg(long)]
    pub(crate) json: bool,
    /// Repeating it.
    #[command(flatten)]
    pub(crate) again: Again,
    /// The node that is asked.
    #[command(flatten)]
    pub(crate) asked: Which,
}

/// `pollnd top`.
#[derive(Args, Debug, Clone)]
#[command(after_help = "Examples:
  pollnd top                    the node that runs, every second
  pollnd top --node 1234 -i 5   that one, every five seconds
  pollnd top --once             one frame as text: all rows, rates of one interval

Keys: q, Esc or Ctrl-C leave; Tab or 1 to 4 choose a pane; arrows, PgUp, PgDn, Home and End scroll it; s orders its rows; p pauses; +
and - change the interval; ? tells them. Nothing is changed on the node; where it ends, a node of its NID is waited for.")]
pub(crate) struct TopArgs {
    /// Seconds from one look to the next.
    #[arg(long, short, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub(crate) interval: f64,
    /// Prints one frame as text, of every row, and ends: for scripts, and without a terminal.
    #[arg(long)]
    pub(crate) once: bool,
    /// Columns of that text. Default: COLUMNS of the environment, or 120.
    #[arg(long, requires = "once", value_name = "COLUMNS", value_parser = number::<u16>(50..=500))]
    pub(crate) width: Option<u16>,
    /// The node that is asked.
    #[command(flatten)]
    pub(crate) asked: Which,
}

/// `pollnd capture`.
#[derive(Args, Debug, Clone)]
#[command(after_help = "Examples:
  pollnd capture --peer 10.0.0.2 --out /tmp/x.pcap --seconds 10
  pollnd capture --peer 10.0.0.2:1021 --out /tmp/x.pcap --packets 1000 --snaplen 65535
  tshark -r /tmp/x.pcap -z io,stat,1

The node writes the file, with its rights. Packets are as they are handed to and from the device: super-segments
whole, checksums not yet filled in. Without --packets and --seconds it lasts until it is interrupted.")]
pub(crate) struct CaptureArgs {
    /// Whose TCP packets: an address, with or without a port.
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub(crate) peer: PeerArg,
    /// Only those to and from this port of ours.
    #[arg(long, value_parser = number::<u16>(1..=65_535))]
    pub(crate) local_port: Option<u16>,
    /// The pcap file.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Ends after so many packets.
    #[arg(long, conflicts_with = "seconds", value_parser = number::<u64>(1..=u64::MAX))]
    pub(crate) packets: Option<u64>,
    /// Ends after so many seconds.
    #[arg(long, value_parser = seconds)]
    pub(crate) seconds: Option<f64>,
    /// Bytes kept of each packet; the default has room for all headers.
    #[arg(long, default_value_t = HEADERS as u32, value_parser = number::<u32>(54..=65_535))]
    pub(crate) snaplen: u32,
    /// The node that is asked.
    #[command(flatten)]
    pub(crate) asked: Which,
}

/// `pollnd tunables`.
#[derive(Args, Debug, Clone)]
#[command(after_help = "Examples:
  pollnd tunables                       all of a running node, with what each takes
  pollnd tunables zc_min_payload        one
  pollnd tunables zc_min_payload=65536  sets it, on all lcores, for what comes
  pollnd tunables --defaults            without a node

Names, defaults and units are those of the kernel's modules ksocklnd and lnet. rw: may be set while the node runs; ro: is
read when it starts, from --tunable NAME=VALUE or --options FILE.")]
pub(crate) struct TunablesArgs {
    /// Only this one; with =VALUE sets it.
    #[arg(value_name = "NAME[=VALUE]")]
    pub(crate) which: Option<String>,
    /// Defaults; no node is asked.
    #[arg(long, conflicts_with = "node")]
    pub(crate) defaults: bool,
    /// The form of the result.
    #[command(flatten)]
    pub(crate) out: TextOut,
    /// The node that is asked.
    #[command(flatten)]
    pub(crate) asked: Which,
}
