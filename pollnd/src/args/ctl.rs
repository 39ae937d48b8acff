//! Arguments of `pollnd lnetctl`: lnetctl's verbs and options.

use std::path::PathBuf;

use clap::{Args, Command, Subcommand};

use super::fault::FaultArgs;
use super::values::{number, or_unsaid};

/// `pollnd lnetctl`.
#[derive(Args, Debug, Clone)]
#[command(
    infer_long_args = true,
    after_help = "Examples:
  pollnd lnetctl net show -v 2
  pollnd lnetctl net add --net tcp1 --if eth1
  pollnd lnetctl net del --net tcp1
  pollnd lnetctl net set --nid 10.0.0.1@tcp --health 500
  pollnd lnetctl peer show -v --nid 10.0.0.2@tcp
  pollnd lnetctl peer add --prim_nid 10.0.0.2@tcp --nid 10.0.1.2@tcp1
  pollnd lnetctl stats show
  pollnd lnetctl ping 10.0.0.2@tcp,10.0.0.3@tcp
  pollnd lnetctl set transaction_timeout 50
  pollnd lnetctl export --backup > now.yaml
  pollnd lnetctl < verbs

Without a verb they are read from standard input, a line each, with a prompt at a terminal: exit or quit leaves.

Verbs, options, texts and exit statuses are lnetctl's, as far as a node has what they are about (docs/lnetctl.md)."
)]
pub(crate) struct LnetctlArgs {
    /// Which node, where several run: its process number, or the path of its control socket.
    #[arg(long, value_name = "PID|PATH", global = true)]
    pub(crate) node: Option<String>,
    /// Lists the verbs, and does nothing else.
    #[arg(long = "list-commands")]
    pub(crate) list: bool,
    /// The verb.
    #[command(subcommand)]
    pub(crate) verb: Option<CtlVerb>,
}

impl LnetctlArgs {
    /// Names of all verbs, as the help has them.
    pub(crate) fn verbs() -> Vec<String> {
        let all = CtlVerb::augment_subcommands(Command::new("lnetctl"));
        all.get_subcommands().map(|c| c.get_name().to_owned()).collect()
    }
}

/// Verbs of `pollnd lnetctl`.
#[derive(Subcommand, Debug, Clone)]
pub(crate) enum CtlVerb {
    /// Networks and this node's NIs.
    #[command(subcommand)]
    Net(CtlNet),
    /// Peers.
    #[command(subcommand)]
    Peer(CtlPeer),
    /// Routes: networks that no NI of this node is on, and the routers that lead there.
    #[command(subcommand)]
    Route(CtlRoute),
    /// Routing between this node's networks, and its buffers.
    #[command(subcommand)]
    Routing(CtlRouting),
    /// Statistics of the node.
    #[command(subcommand)]
    Stats(CtlStats),
    /// Settings of the node.
    #[command(subcommand)]
    Global(CtlGlobal),
    /// Changes a setting, by the names of `global show` but lnd_timeout; or routing, tiny_buffers, small_buffers, large_buffers.
    Set {
        /// Its name.
        name: String,
        /// Its value.
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Pings NIDs.
    Ping {
        /// NIDs, with commas between.
        #[arg(required = true, value_delimiter = ',')]
        nids: Vec<String>,
        /// Seconds to wait for each.
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = number::<u32>(1..=86_400))]
        timeout: u32,
        /// The own NID to ping from, which cannot be said here: health, credits and turn choose it.
        #[arg(long, value_name = "NID")]
        source: Option<String>,
    },
    /// Has the node find out who has these NIDs.
    Discover {
        /// NIDs, with commas between.
        #[arg(required = true, value_delimiter = ',')]
        nids: Vec<String>,
        /// Asks those that are known, too.
        #[arg(long, short)]
        force: bool,
    },
    /// Drops, fails or delays messages by rules.
    Fault(FaultArgs),
    /// Prints the configuration and all figures, or writes them to a file.
    Export {
        /// Only what makes the same node again.
        #[arg(long, short)]
        backup: bool,
        /// The file, which is made, or written anew; standard output if it is left out, or `-`.
        file: Option<PathBuf>,
    },
    /// Gives the node what a configuration says; all else stays as it is.
    Import {
        /// The same as without it.
        #[arg(long, short, conflicts_with_all = ["del", "show", "exec"])]
        #[allow(dead_code, reason = "it is what is done without it")]
        add: bool,
        /// Deletes the routes, peers, NIs and fault rules that it names, in place of that.
        #[arg(long, short, conflicts_with_all = ["show", "exec"])]
        del: bool,
        /// Shows what the node has of what it names: refused, since `net show` and others do.
        #[arg(long, short, conflicts_with = "exec")]
        show: bool,
        /// Does what its sections ping and discover say: refused, since these are verbs.
        #[arg(long, short)]
        exec: bool,
        /// The file; standard input if it is left out, or `-`.
        file: Option<PathBuf>,
    },
    /// Looks into the node.
    #[command(subcommand)]
    Debug(CtlDebug),
    /// Tells the CPTs whose lcores have the connections with these NIDs.
    CptOfNid {
        /// NIDs, with spaces or commas between.
        #[arg(required_unless_present = "named", value_delimiter = ',')]
        nids: Vec<String>,
        /// The same.
        #[arg(long = "nid", id = "named", value_name = "NID[,NID...]", value_delimiter = ',')]
        named: Vec<String>,
    },
    /// LNet itself, which comes and goes with the node.
    Lnet {
        /// The verb and its options.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Selection policies, which a node does not have.
    Udsp {
        /// The verb and its options.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// Level of detail.
#[derive(Args, Debug, Clone)]
pub(crate) struct Detail {
    /// Shows more: states, settings and statistics; of nets and peers with 2 messages by type and health, with 4 all.
    #[arg(long, short, value_name = "LEVEL", num_args = 0..=1, default_missing_value = "1", value_parser = number::<u8>(0..=255))]
    pub(crate) verbose: Option<u8>,
}

/// NIs, as lnetctl names them.
#[derive(Args, Debug, Clone)]
pub(crate) struct NetArg {
    /// The network, such as tcp1.
    #[arg(long, short)]
    pub(crate) net: Option<String>,
    /// The NID, which says network and address.
    #[arg(long)]
    pub(crate) nid: Option<String>,
    /// The interfaces, with commas between. Of a node on DPDK ports: the port, by its device as `net show` has it, or the part of that
    /// before the first comma.
    #[arg(long = "if", short, value_name = "INTERFACE", value_delimiter = ',')]
    pub(crate) interfaces: Vec<String>,
    /// The address, where the interface does not say it: it has several, or is a port. lnetctl has no such option.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ip: Option<std::net::IpAddr>,
}

/// Options of lnetctl's `net add` that are refused by name.
#[derive(Args, Debug, Clone)]
pub(crate) struct ForeignNetArg {
    /// Patterns of addresses, which a node does not have: --nid or --if says the NI.
    #[arg(long, value_name = "PATTERNS")]
    pub(crate) ip2net: Option<String>,
    /// A key of kfilnd, which a node does not have.
    #[arg(long, value_name = "KEY")]
    pub(crate) auth_key: Option<String>,
    /// A class of kfilnd, which a node does not have: --tos is TCP's.
    #[arg(long, value_name = "CLASS")]
    pub(crate) traffic_class: Option<String>,
}

/// `pollnd lnetctl net`.
#[derive(Subcommand, Debug, Clone)]
pub(crate) enum CtlNet {
    /// Adds an NI, or one for each interface, while others run.
    Add {
        /// The NI.
        #[command(flatten)]
        ni: NetArg,
        /// Messages that it may have in flight. Default: not said (-1), the node's number.
        #[arg(long, allow_negative_numbers = true, value_parser = or_unsaid(1..=65_535))]
        credits: Option<i64>,
        /// Messages that a peer may have in flight: the node's number, which all its NIs have. -1: not said.
        #[arg(long, allow_negative_numbers = true)]
        peer_credits: Option<i64>,
        /// Router buffers that a peer may hold: as above.
        #[arg(long, allow_negative_numbers = true)]
        peer_buffer_credits: Option<i64>,
        /// Seconds after which a silent peer is dead: as above.
        #[arg(long, allow_negative_numbers = true)]
        peer_timeout: Option<i64>,
        /// Connections of each bulk type to a peer: as above.
        #[arg(long, allow_negative_numbers = true)]
        conns_per_peer: Option<i64>,
        /// IP's type of service: as above.
        #[arg(long, allow_negative_numbers = true)]
        tos: Option<i64>,
        /// CPTs that serve it: all that the node has, as `[0,1]`.
        #[arg(long)]
        cpt: Option<String>,
        /// Leaves the machine's routes as they are: so it is with every NI, since a node sets none.
        #[arg(long)]
        #[allow(dead_code, reason = "no NI is otherwise")]
        skip_mr_route_setup: bool,
        /// lnetctl's options that no NI here has.
        #[command(flatten)]
        foreign: ForeignNetArg,
    },
    /// Deletes the NIs of a network, or those that are named.
    Del {
        /// The NIs.
        #[command(flatten)]
        ni: NetArg,
    },
    /// Sets values of them.
    Set {
        /// The NI.
        #[arg(long, conflicts_with = "all")]
        nid: Option<String>,
        /// All of them.
        #[arg(long, short)]
        all: bool,
        /// The network whose NIs get the time of --lnd-timeout.
        #[arg(long, short)]
        net: Option<String>,
        /// Health, 0 to 1000: messages go by the best NI. Recovery brings it back, as after a failure.
        #[arg(long, short = 't', allow_hyphen_values = true)]
        health: Option<i64>,
        /// Connections of each bulk type to a peer, which all NIs of a node have.
        #[arg(long, allow_hyphen_values = true)]
        conns_per_peer: Option<i64>,
        /// Seconds without progress that end a peer's connections, which all NIs of a node have.
        #[arg(long, allow_hyphen_values = true)]
        lnd_timeout: Option<i64>,
    },
    /// Shows them.
    Show {
        /// Only this network, such as tcp1.
        #[arg(long, short)]
        net: Option<String>,
        /// The level.
        #[command(flatten)]
        detail: Detail,
    },
}

/// A peer, or NIDs of it.
#[derive(Args, Debug, Clone)]
pub(crate) struct PeerArg {
    /// The NID that it goes by.
    #[arg(long = "prim_nid", value_name = "NID")]
    pub(crate) prim_nid: String,
    /// Others of its NIDs, ranges too, such as 10.8.0.[10-12]@tcp1.
    #[arg(long, value_name = "NID[,NID...]")]
    pub(crate) nid: Vec<String>,
}

/// `pollnd lnetctl peer`.
#[derive(Subcommand, Debug, Clone)]
pub(crate) enum CtlPeer {
    /// Shows them.
    Show {
        /// Only the one that has this NID.
        #[arg(long)]
        nid: Option<String>,
        /// The level.
        #[command(flatten)]
        detail: Detail,
    },
    /// Lists their primary NIDs.
    List,
    /// Has NIDs be one peer's, whatever it says of itself; or adds some to one that is there by hand.
    Add {
        /// It.
        #[command(flatten)]
        peer: PeerArg,
        /// It is not Multi-Rail, and has the primary NID alone.
        #[arg(long = "non_mr", visible_alias = "non-mr", short = 'm')]
        non_mr: bool,
        /// Discovery does not change its primary NID: so it is with every peer by hand.
        #[arg(long = "lock_prim", visible_alias = "lock-prim", short = 'l')]
        #[allow(dead_code, reason = "no peer by hand is otherwise")]
        lock_prim: bool,
    },
    /// Deletes one, or NIDs of it. What discovery has told of it is asked for anew.
    Del {
        /// It.
        #[command(flatten)]
        peer: PeerArg,
        /// One whose primary NID is locked, too: so it is with every peer by hand.
        #[arg(long, short)]
        #[allow(dead_code, reason = "no peer by hand is otherwise")]
        force: bool,
    },
    /// Sets values of their NIs.
    Set {
        /// The NI.
        #[arg(long, conflicts_with = "all")]
        nid: Option<String>,
        /// All of them.
        #[arg(long, short)]
        all: bool,
        /// Health, 0 to 1000: messages go to the best one. Recovery brings it back, as after a failure.
        #[arg(long, short = 't', allow_hyphen_values = true)]
        health: Option<i64>,
        /// A peer's state, which a node does not let be set.
        #[arg(long, short, allow_hyphen_values = true)]
        state: Option<String>,
    },
}

/// `pollnd lnetctl debug`.
#[derive(Subcommand, Debug, Clone)]
pub(crate) enum CtlDebug {
    /// Lists NIDs that are being recovered.
    #[command(group = clap::ArgGroup::new("whose").required(true))]
    Recovery {
        /// This node's.
        #[arg(long, short, group = "whose")]
        local: bool,
        /// Peers'.
        #[arg(long, short, group = "whose")]
        peer: bool,
    },
}

/// A route by its ends.
#[derive(Args, Debug, Clone)]
pub(crate) struct RouteArg {
    /// The network that it leads to, such as tcp1.
    #[arg(long, short)]
    pub(crate) net: String,
    /// The NID of the router, on a network of this node's.
    #[arg(long, short)]
    pub(crate) gateway: String,
}

/// `pollnd lnetctl route`.
#[derive(Subcommand, Debug, Clone)]
pub(crate) enum CtlRoute {
    /// Adds one.
    Add {
        /// Its ends.
        #[command(flatten)]
        route: RouteArg,
        /// Networks between: 1 to 255. Default: not said (-1), which counts as 1.
        #[arg(long, short = 'c', allow_negative_numbers = true)]
        hop: Option<i64>,
        /// Routes with the lowest number are taken first. Default: not said (-1), which is 0.
        #[arg(long, short, allow_negative_numbers = true)]
        priority: Option<i64>,
    },
    /// Deletes one.
    Del {
        /// Its ends.
        #[command(flatten)]
        route: RouteArg,
    },
    /// Shows them.
    Show {
        /// Only those to this network.
        #[arg(long, short)]
        net: Option<String>,
        /// Only those by this router.
        #[arg(long, short)]
        gateway: Option<String>,
        /// Only those with so many hops; -1: all.
        #[arg(long, short = 'c', allow_negative_numbers = true)]
        hop: Option<i64>,
        /// Only those with this priority; -1: all.
        #[arg(long, short, allow_negative_numbers = true)]
        priority: Option<i64>,
        /// The level.
        #[command(flatten)]
        detail: Detail,
    },
}

/// `pollnd lnetctl routing`.
#[derive(Subcommand, Debug, Clone)]
pub(crate) enum CtlRouting {
    /// Shows them; nothing on a node that does not route.
    Show,
}

/// `pollnd lnetctl stats`.
#[derive(Subcommand, Debug, Clone)]
pub(crate) enum CtlStats {
    /// Shows them.
    Show,
    /// Counts from 0 on.
    Reset,
}

/// `pollnd lnetctl global`.
#[derive(Subcommand, Debug, Clone)]
pub(crate) enum CtlGlobal {
    /// Shows them.
    Show,
}
