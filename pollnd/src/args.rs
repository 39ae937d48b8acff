//! The command line.

mod ask;
pub(crate) mod common;
mod conf;
mod ctl;
mod fault;
mod look;
mod lst;
mod mend;
mod motr;
mod parse;
pub(crate) mod tuned;
pub(crate) mod values;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use transport::lnd::{PeerByHand, Route};
use transport::lnet::faults::FaultRule;
use transport::wire::Nid;

pub(crate) use self::ask::{BulkArgs, PingArgs, Via};
use self::common::{EalArgs, TableOut};
pub(crate) use self::conf::{ConfigArgs, ConfigVerb, Told};
pub(crate) use self::ctl::{
    CtlDebug, CtlGlobal, CtlNet, CtlPeer, CtlRoute, CtlRouting, CtlStats, CtlVerb, Detail, ForeignNetArg,
    LnetctlArgs, NetArg, PeerArg, RouteArg,
};
pub(crate) use self::fault::{FaultAddArgs, FaultArgs, FaultKind, FaultVerb};
pub(crate) use self::look::{CaptureArgs, ConnFilter, ConnectionsArgs, StatsArgs, TopArgs, TunablesArgs};
pub(crate) use self::lst::{CheckArg, QuickArgs, SelftestArgs, What};
pub(crate) use self::mend::{DoctorArgs, DriverArg};
pub(crate) use self::motr::{NetArgs, NetAskArgs, NetBulkArgs, NetNodeArgs, NetPingArgs, NetVerb, XprtArg};
pub(crate) use self::parse::{parse, value};
use self::tuned::{Filed, Tuned, tunable, tuned};
use self::values::{each, ip, listen_at, nid, number, seconds};
use crate::bench::BenchArgs;

/// Environment of commands.
const ENVIRONMENT: &str = "\
Environment:
  POLLND_LOG       what is logged on standard error, in place of -v: error, warn, info, debug or trace, also for one
                   part: warn,transport=debug
  XDG_RUNTIME_DIR  where nodes have their control sockets, before /run/pollnd and /tmp/pollnd-UID
  HWLOC_SYNTHETIC, HWLOC_XMLFILE
                   another machine's topology, on which patterns are tried: a node on a port does not start with it";

/// A user-space LNet node: socklnd over its own TCP on DPDK queues, without copying a bulk byte.
#[derive(Parser, Debug)]
#[command(name = "pollnd", version, about, propagate_version = true, after_help = ENVIRONMENT)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// More to say: -v information, -vv details.
    #[arg(short, long, global = true, display_order = 900, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Two nodes over an in-process virtio link, measured against kernel sockets.
    Demo(DemoArgs),
    /// Runs a node: answers pings, takes bulk PUTs in, serves bulk GETs, is a member for lnet_selftest.
    Node(ServeArgs),
    /// Configuration files in lnetctl's YAML: checks and explains one, applies it to a running node, prints a node's.
    Config(ConfigArgs),
    /// Pings a node, as `lctl ping` does.
    Ping(PingArgs),
    /// PUTs messages to a pollnd node and has every byte checked there.
    Put(BulkArgs),
    /// GETs messages from a pollnd node and checks every byte.
    Get(BulkArgs),
    /// lnet_selftest: lst's verbs, and one line that does all.
    Selftest(Box<SelftestArgs>),
    /// Motr's network transport: a node that answers, pings and bulk to one, over netsock or over LNet.
    Net(Box<NetArgs>),
    /// A running node's connections, as `ss -ti` shows the kernel's.
    Connections(ConnectionsArgs),
    /// What a running node's lcores count, and how busy they are.
    Stats(StatsArgs),
    /// A live view of a running node: lcores, NIs, peers, connections, latencies.
    Top(TopArgs),
    /// Packets of one peer, from a running node, into a pcap file.
    Capture(CaptureArgs),
    /// A running node's tunables, by the kernel's names: shows them, sets one.
    Tunables(TunablesArgs),
    /// Drops, fails or delays messages of a running node by rules, as `lnetctl fault` does.
    Fault(FaultArgs),
    /// lnetctl's questions to a running node, in its words, layout and numbers.
    Lnetctl(LnetctlArgs),
    /// Looks at the machine: huge pages, ports and drivers, cores, NUMA; what is missing, and the line that mends it. Mends
    /// it (--fix), and takes that back (--undo).
    Doctor(DoctorArgs),
    /// Measures what the documentation claims.
    Bench(BenchArgs),
    /// Words for a shell to complete: where it looks for them is the shell's (`make install` knows it).
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Manual pages, a file for each command.
    #[command(hide = true)]
    Man {
        /// Folder for them.
        folder: PathBuf,
    },
}

/// `pollnd demo`.
#[derive(Args, Debug, Clone)]
pub(crate) struct DemoArgs {
    /// The form of the result.
    #[command(flatten)]
    pub(crate) out: TableOut,
    /// Seconds for each measured stretch.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// Run both nodes on one lcore only, even if there are more cores.
    #[arg(long)]
    pub(crate) one_lcore: bool,
    /// Kernel sockets only (what the program does where DPDK is not to be had): nothing is said of the link then.
    #[arg(long, conflicts_with_all = ["one_lcore", "mtu", "no_tso", "eal"])]
    pub(crate) sockets_only: bool,
    /// Copy received payload into page runs instead of lending it.
    #[arg(long)]
    pub(crate) copy: bool,
    /// Largest IP packet on the virtio link, in bytes.
    #[arg(long, default_value_t = 9000, value_parser = number::<u16>(1280..=9000))]
    pub(crate) mtu: u16,
    /// Every packet is a frame of its own on the virtio link, as on a wire: no segmentation offload.
    #[arg(long)]
    pub(crate) no_tso: bool,
    /// The EAL.
    #[command(flatten)]
    pub(crate) dpdk: EalArgs,
}

/// The time of polling lcores without work.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    /// They spin: the shortest round trips, and their CPUs for them alone.
    Spin,
    /// They yield their CPUs to whoever waits for them, and take them again.
    Yield,
    /// They sleep until a packet comes, where the driver has interrupts; else for 50 us, and up to 1 ms as nothing comes.
    Sleep,
}

/// On or off.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// Use of a feature of a port.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offload {
    /// Where the port offers it.
    Auto,
    /// Always: a port without it is refused.
    On,
    /// Never.
    Off,
}

/// Carrier of a node.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CarrierArg {
    /// The kernel's sockets.
    Sockets,
    /// A DPDK port.
    Dpdk,
}

/// Peers that are accepted.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcceptArg {
    /// Peers with source ports up to 1023.
    Secure,
    /// Everybody; a peer on a port above 1023 is known by its address and port only, as kernels have it.
    All,
    /// Everybody, and what peers say of themselves is believed.
    Trust,
    /// Nobody: this node only dials.
    None,
}

/// Identity and carrier of a node.
#[derive(Args, Debug, Clone)]
pub(crate) struct NodeArgs {
    /// This node's NID: `--nid` of a node, and what a command has found for itself.
    #[arg(skip = Nid::ANY)]
    pub(crate) nid: Nid,
    /// One more NI: another network on the same address, such as 10.0.0.1@tcp1, or another address of this machine or of the
    /// port. May be given several times.
    #[arg(long, value_name = "NID", requires = "nid", value_parser = nid)]
    pub(crate) ni: Vec<Nid>,
    /// A route: a network that none of this node's NIs is on, and the NID of a router on one of theirs, such as "tcp1 10.0.0.254@tcp";
    /// with the number of hops, and the priority (the lowest is taken first). May be given several times.
    #[arg(long, value_name = "NET GATEWAY [HOP [PRIORITY]]")]
    pub(crate) route: Vec<Route>,
    /// A peer by hand: its NIDs, the primary one first, which are used as one node's before it has said so, and whatever it says;
    /// "NID non-mr" for one that is not Multi-Rail. May be given several times.
    #[arg(long, value_name = "NID[,NID...]")]
    pub(crate) peer_nids: Vec<PeerByHand>,
    /// A fault rule that it begins with: drop or delay, and the options of `pollnd fault drop add` as NAME=VALUE, such as
    /// "drop source=*@tcp dest=*@tcp rate=10 message=PUT,GET". May be given several times.
    #[arg(long, value_name = "RULE", requires = "nid", value_parser = crate::fault_rules::typed)]
    pub(crate) fault: Vec<FaultRule>,
    /// Kernel sockets, or a DPDK port (the default when --port or --vdev is given).
    #[arg(long, value_enum)]
    pub(crate) carrier: Option<CarrierArg>,
    /// DPDK port: a PCI address (0000:03:00.0) or the name of a port. With several, given once for each, every NI's address is
    /// on one of them. Options of ports take one value for all, or one for each with commas between (9000,default; auto,off).
    #[arg(long, requires = "nid")]
    pub(crate) port: Vec<String>,
    /// DPDK virtual device to create and use, such as net_virtio_user0,path=/tmp/vhost.sock; several stand behind the ports of
    /// --port.
    #[arg(long, requires = "nid")]
    pub(crate) vdev: Vec<String>,
    /// Of several ports, the number of each NI's, from 0 on, in the order of --nid and --ni, such as 0,0,1. Default: each port has
    /// one address, in that order.
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = number::<u16>(0..=15))]
    pub(crate) ni_ports: Vec<u16>,
    /// Prefix length of the port's network. Default: 24, and 64 for IPv6.
    #[arg(long, value_delimiter = ',', value_parser = each(number::<u8>(1..=128)))]
    pub(crate) prefix: Vec<Option<u8>>,
    /// Gateway for addresses outside it, of the NID's family. Without one an IPv6 node uses the router that advertises
    /// itself.
    #[arg(long, value_delimiter = ',', value_parser = each(ip))]
    pub(crate) gateway: Vec<Option<IpAddr>>,
    /// VLAN id on the port.
    #[arg(long, value_delimiter = ',', value_parser = each(number::<u16>(1..=4094)))]
    pub(crate) vlan: Vec<Option<u16>>,
    /// MTU of the port, in bytes. Default: 1500.
    #[arg(long, value_delimiter = ',', value_parser = each(number::<u16>(576..=9600)))]
    pub(crate) mtu: Vec<Option<u16>>,
    #[allow(rustdoc::broken_intra_doc_links, reason = "brackets of cpu_pattern, as --help shows them")]
    /// CPU partitions in Lustre's syntax, such as "0[0-3] 1[4-7]" or "N"; "C[0]" leaves out the first CPU of each NUMA
    /// node, "X[0,8]" those CPUs.
    #[arg(long)]
    pub(crate) cpu_pattern: Option<String>,
    /// Lcores that poll, each a queue of the port where the port tells which packets come to which (RSS, or virtio
    /// links whose both ends have queues=N).
    #[arg(long, default_value_t = 1, value_parser = number::<u16>(1..=64))]
    pub(crate) lcores: u16,
    /// A busy lcore gives peers, and copies of large messages, to an idle one of its CPU partition.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub(crate) balance: Switch,
    /// The time of lcores without work. Default: they spin where there are more CPUs than lcores, else they yield soon.
    #[arg(long, value_enum)]
    pub(crate) idle: Option<Idle>,
    /// Queues of each port that are used: 1 to --lcores. Default: as many as there are lcores, where all ports have so many.
    #[arg(long, value_parser = number::<u16>(1..=64))]
    pub(crate) queues: Option<u16>,
    /// TCP segmentation by the port: used where it is offered (auto, which is the default), needed, or left alone.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) tso: Vec<Offload>,
    /// Checksums of what is sent, by the port; without them there is no TCP segmentation either.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) tx_csum: Vec<Offload>,
    /// Checksums of what comes, by the port. Not off on a vhost port, whose other end may leave them out.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) rx_csum: Vec<Offload>,
    /// Joining of segments that come, by the port.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) lro: Vec<Offload>,
    /// Spreading of packets over queues by a hash of the port's; off: one queue, where they cannot be mirrored either.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) rss: Vec<Offload>,
    /// Tunables from a file in the syntax of modprobe.d (options ksocklnd NAME=VALUE...), or from the *.conf files of
    /// a folder in the order of their names; of several files, later ones win.
    #[arg(long, value_name = "PATH")]
    pub(crate) options: Vec<PathBuf>,
    /// A tunable, by the kernel's name (`pollnd tunables --defaults` lists them); wins over files.
    #[arg(long, value_name = "NAME=VALUE", value_parser = tunable)]
    pub(crate) tunable: Vec<Tuned>,
    /// Port that nodes listen on, for connections of all types: accept_port and accept_port_bulk. Default: 988.
    #[arg(long, value_name = "PORT", value_parser = tuned("accept_port"))]
    pub(crate) accept_port: Option<Tuned>,
    /// Whom to accept: the tunable of that name. Default: secure where this node may use reserved ports itself, else
    /// trust.
    #[arg(long, value_enum)]
    pub(crate) accept: Option<AcceptArg>,
    /// Messages in flight to a peer: the tunable peer_credits. Default: 8.
    #[arg(long, value_name = "MESSAGES", value_parser = tuned("peer_credits"))]
    pub(crate) peer_credits: Option<Tuned>,
    /// Payload from which a zero-copy ACK is asked for: the tunable zc_min_payload. Default: 16384.
    #[arg(long, value_name = "BYTES", value_parser = tuned("zc_min_payload"))]
    pub(crate) zc_min_payload: Option<Tuned>,
    /// Silence after which a peer is asked for a sign of life, 0 for never: the tunable keepalive. Default: 30.
    #[arg(long, value_name = "SECONDS", value_parser = tuned("keepalive"))]
    pub(crate) keepalive: Option<Tuned>,
    /// Pass messages on between the networks of the NIs: the tunable forwarding. It begins once routers' users have had time to
    /// look: alive_router_check_interval and router_ping_timeout after the start.
    #[arg(long)]
    pub(crate) routing: bool,
    /// Of messages that are passed on, those of 32 KiB or more begin to leave before they are whole: the tunable cut_through. One
    /// that then breaks off ends the connections that it was leaving on.
    #[arg(long)]
    pub(crate) cut_through: bool,
    /// Memory that strangers may make each lcore hold (answers that they do not read, handshakes, connections, peers), in
    /// MiB. Default: a 64th of the machine's for all lcores, at least 32 and at most 1024 each.
    #[arg(long, value_name = "MIB", value_parser = number::<u32>(1..=1 << 20))]
    pub(crate) budget: Option<u32>,
    /// Writes all packets of the DPDK port to this pcap file (slow: for looking, not for measuring); those of
    /// further queues to the same name with .1, .2 and so on behind it, those of further ports with .port1 and so on before
    /// that.
    #[arg(long)]
    pub(crate) pcap: Option<PathBuf>,
    /// The EAL.
    #[command(flatten)]
    pub(crate) dpdk: EalArgs,
    /// Tunables of the file of `--config`.
    #[arg(skip)]
    pub(crate) filed: Filed,
}

impl Command {
    /// The node that it may start, as it is told of it.
    pub(crate) fn node(&self) -> Option<&NodeArgs> {
        match self {
            Command::Node(a) => Some(&a.node),
            Command::Ping(a) => Some(&a.node),
            Command::Put(a) | Command::Get(a) => Some(&a.node),
            Command::Selftest(a) => Some(match &a.what {
                Some(What::Quick(q)) => &q.node,
                None => &a.node,
            }),
            Command::Net(a) => Some(match &a.what {
                NetVerb::Node(n) => &n.node,
                NetVerb::Ping(p) => &p.ask.node,
                NetVerb::Bulk(b) => &b.ask.node,
            }),
            _ => None,
        }
    }
}

/// Use of an option of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// It finds the node: also one that runs.
    Finding,
    /// It is for DPDK ports only.
    Port,
    /// It is for any node that is started.
    Any,
}

impl NodeArgs {
    /// The options that are given, as users write them.
    pub(crate) fn given(&self) -> impl Iterator<Item = (&'static str, Use)> {
        let all = [
            ("--ni", Use::Any, !self.ni.is_empty()),
            ("--route", Use::Any, !self.route.is_empty()),
            ("--peer-nids", Use::Any, !self.peer_nids.is_empty()),
            ("--fault", Use::Any, !self.fault.is_empty()),
            ("--carrier", Use::Finding, self.carrier.is_some()),
            ("--port", Use::Finding, !self.port.is_empty()),
            ("--vdev", Use::Finding, !self.vdev.is_empty()),
            ("--ni-ports", Use::Port, !self.ni_ports.is_empty()),
            ("--prefix", Use::Port, !self.prefix.is_empty()),
            ("--gateway", Use::Port, !self.gateway.is_empty()),
            ("--vlan", Use::Port, !self.vlan.is_empty()),
            ("--mtu", Use::Port, !self.mtu.is_empty()),
            ("--cpu-pattern", Use::Port, self.cpu_pattern.is_some()),
            ("--lcores", Use::Any, self.lcores != 1),
            ("--balance", Use::Any, self.balance != Switch::On),
            ("--idle", Use::Port, self.idle.is_some()),
            ("--queues", Use::Port, self.queues.is_some()),
            ("--tso", Use::Port, !self.tso.is_empty()),
            ("--tx-csum", Use::Port, !self.tx_csum.is_empty()),
            ("--rx-csum", Use::Port, !self.rx_csum.is_empty()),
            ("--lro", Use::Port, !self.lro.is_empty()),
            ("--rss", Use::Port, !self.rss.is_empty()),
            ("--options", Use::Any, !self.options.is_empty()),
            ("--tunable", Use::Any, !self.tunable.is_empty()),
            ("--accept-port", Use::Any, self.accept_port.is_some()),
            ("--accept", Use::Any, self.accept.is_some()),
            ("--peer-credits", Use::Any, self.peer_credits.is_some()),
            ("--zc-min-payload", Use::Any, self.zc_min_payload.is_some()),
            ("--keepalive", Use::Any, self.keepalive.is_some()),
            ("--routing", Use::Any, self.routing),
            ("--cut-through", Use::Any, self.cut_through),
            ("--budget", Use::Any, self.budget.is_some()),
            ("--pcap", Use::Port, self.pcap.is_some()),
            ("EAL arguments after --", Use::Port, !self.dpdk.eal.is_empty()),
        ];
        all.into_iter().filter_map(|(name, of, given)| given.then_some((name, of)))
    }
}

/// `pollnd node`.
#[derive(Args, Debug, Clone)]
pub(crate) struct ServeArgs {
    /// This node's NID, such as 10.0.0.1@tcp or fd00::1@tcp. Not needed where --config names NIs.
    #[arg(long, value_parser = nid)]
    pub(crate) nid: Nid,
    /// Configuration in lnetctl's YAML (docs/config.md); what else stands on the command line wins over it. SIGHUP has it
    /// read again.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Copy received payload into page runs instead of lending it.
    #[arg(long)]
    pub(crate) copy: bool,
    /// Leave lnet_selftest out: consoles cannot make it a member of a group, and nobody's bulk is served.
    #[arg(long)]
    pub(crate) no_selftest: bool,
    /// Serve the node's figures for Prometheus at http://ADDRESS:PORT/metrics; anybody who reaches it may read them.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen_at)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Go down after so many seconds.
    #[arg(long, value_parser = seconds)]
    pub(crate) run_for: Option<f64>,
    /// The node.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// The rest of the file of `--config`, and notes on it.
    #[arg(skip)]
    pub(crate) told: Told,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_named() {
        for (args, says) in [
            (&["ping", "0@lo", "--nid", "10.0.0.1@tcp"][..], "0@lo"),
            (&["node", "--nid", "fd00::1@tcp", "--prefix", "129"], "129"),
            (&["ping", "10.0.0.2@tcp", "--nid", "nonsense"], "nonsense"),
            (&["demo", "--seconds", "0"], "0.1 to 3600"),
            (&["node", "--nid", "10.0.0.1@tcp", "--zc-min-payload", "100"], "100"),
            (
                &["node", "--nid", "10.0.0.1@tcp", "--tunable", "tos=256"],
                "tos=256: it takes -1 to 255 (byte)",
            ),
            (&["node", "--nid", "10.0.0.1@tcp", "--tunable", "credit=1"], "credit is no tunable"),
            (&["node", "--nid", "10.0.0.1@tcp", "--tunable", "credits"], "NAME=VALUE"),
            (&["node", "--nid", "10.0.0.1@tcp", "--route", "tcp1"], "NETWORK GATEWAY [HOP [PRIORITY]]"),
            (&["node", "--nid", "10.0.0.1@tcp", "--route", "tcp1 10.0.0.9@tcp 0"], "1 to 255"),
            (&["node", "--nid", "10.0.0.1@tcp", "--peer-nids", "10.0.0.2@tcp mr"], "NID[,NID...]"),
            (&["node", "--nid", "10.0.0.1@tcp", "--fault", "drop source=* dest=*"], "drop rate or interval"),
            (
                &["node", "--nid", "10.0.0.1@tcp", "--metrics", "9988"],
                "such as 127.0.0.1:9988, or 0.0.0.0:9988",
            ),
            (&["node", "--nid", "10.0.0.1@tcp", "--metrics", "nine"], "such as 127.0.0.1:9988"),
            (&["tunables", "--defaults", "--node", "7"], "--node"),
            (&["connections", "10.0.0.300"], "10.0.0.300"),
            (&["connections", "listening"], "neither a peer"),
            (&["capture", "--peer", "x", "--out", "y"], "10.0.0.2:1023"),
            (&["capture", "--peer", "1.2.3.4", "--out", "y", "--snaplen", "40"], "40"),
            (&["top", "--width", "80"], "--once"),
            (&["top", "--once", "--width", "9"], "50 to 500"),
            (&["top", "--interval", "0"], "0.1 to 3600"),
            (&["bench", "growth", "--seconds", "1"], "5 to 86400"),
            (&["bench", "tcp-sim", "--loss", "101"], "101"),
            (&["put", "10.0.0.2@tcp", "--nid", "10.0.0.1@tcp", "-s", "2G"], "\"2G\" is 2147483648 bytes"),
        ] {
            let e = Cli::try_parse_from(std::iter::once("pollnd").chain(args.iter().copied())).unwrap_err();
            assert!(e.to_string().contains(says), "{e}");
        }
    }

    /// Each option of a node is one that `--node` refuses, and one that is seen to be given.
    #[test]
    fn options_of_a_node_are_listed_whole() {
        let command = NodeArgs::augment_args(clap::Command::new("node"));
        let ids: Vec<_> = command.get_arguments().map(|a| a.get_id().as_str().to_owned()).collect();
        assert_eq!(ids, ask::OF_A_NODE[1..], "and nid");
        let words = "node --nid 1.2.3.4 --ni 1.2.3.6 --route=ROUTE --peer-nids 1.2.3.7,1.2.3.8 --fault=FAULT --carrier dpdk --port a --vdev b --ni-ports 0,1 --prefix 8 --gateway 1.2.3.5 --vlan 2 --mtu 1500 \
                     --cpu-pattern N --lcores 2 --balance off --idle sleep --queues 2 --tso off --tx-csum on --rx-csum off --lro off --rss on --options f --tunable credits=9 --accept-port 999 --accept all \
                     --peer-credits 9 --zc-min-payload 8192 --keepalive 1 --routing --cut-through --budget 1 --pcap p -- x";
        let words = words
            .split_whitespace()
            .map(|w| w.replace("ROUTE", "tcp1 1.2.3.9").replace("FAULT", "drop source=* dest=* rate=1"));
        let c = Cli::try_parse_from(std::iter::once("pollnd".to_owned()).chain(words)).unwrap();
        let Command::Node(n) = c.command else { panic!("not node") };
        let given: Vec<_> = n.node.given().map(|o| o.0.trim_start_matches("--").replace('-', "_")).collect();
        assert_eq!(given[..given.len() - 1], ids[..ids.len() - 1]);
        assert!(given.len() == ids.len() && given.last().is_some_and(|l| l.starts_with("EAL")), "{given:?}");
    }

    #[test]
    fn eal_arguments_pass_through() {
        let c =
            Cli::try_parse_from(["pollnd", "node", "--nid", "1.2.3.4", "--", "-a", "0000:03:00.0"]).unwrap();
        let Command::Node(n) = c.command else { panic!("not node") };
        assert_eq!(
            (n.node.dpdk.eal.join(" ").as_str(), n.nid.to_string().as_str()),
            ("-a 0000:03:00.0", "1.2.3.4@tcp")
        );
    }
}
