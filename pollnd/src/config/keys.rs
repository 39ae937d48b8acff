//! Keys of configuration files: the meaning of each, its default, its values, and whether a running node takes a change.

use std::sync::LazyLock;

use transport::lnd::tunables::kernel::{Here, PARAMS};
use transport::lnd::tunables::{self, ALL, Module, Tunable};
use transport::lnd::{Config, TcpKind};
use transport::wire::Nid;

/// The mapping that a key stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// `tunables` of an NI.
    Tunables,
    /// `lnd tunables` of an NI.
    Lnd,
    /// `global`.
    Global,
    /// `node`.
    Node,
    /// `dpdk`.
    Dpdk,
    /// `telemetry`.
    Telemetry,
    /// `log`.
    Log,
}

impl Part {
    /// Its own keys in words.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Part::Tunables => "net: tunables",
            Part::Lnd => "net: lnd tunables",
            Part::Global => "global",
            Part::Node => "node",
            Part::Dpdk => "dpdk",
            Part::Telemetry => "telemetry",
            Part::Log => "log",
        }
    }

    /// The sections that are mappings of keys.
    pub(crate) const SECTIONS: [Part; 5] = [Part::Global, Part::Node, Part::Dpdk, Part::Telemetry, Part::Log];
}

/// The meaning of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Means {
    /// The tunable.
    Tunable(&'static Tunable),
    /// The flag that this tunable switches off.
    Not(&'static Tunable),
    /// The value of an option of `pollnd node`, without its dashes.
    Option(&'static str),
    /// The value of an option of ports, without its dashes; or a list of one for each.
    Each(&'static str),
    /// The port, or a list of them: `--port` or `--vdev`.
    Device,
    /// on or off, the value of an option of `pollnd node`.
    OnOff(&'static str),
    /// true or false; an option of `pollnd node` says the second of these.
    Flag(&'static str, bool),
    /// Files in the syntax of modprobe.d.
    Options,
    /// Arguments of the EAL.
    Eal,
    /// false: an argument of the EAL.
    Telemetry,
    /// The log's filter.
    Level,
    /// Nothing that can be set: these values are taken, since...
    Only(&'static [i64], &'static str),
    /// Something that is measured, and ignored.
    Reading,
}

/// A key.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its mapping.
    pub(crate) part: Part,
    /// Its name.
    pub(crate) name: &'static str,
    /// Its meaning.
    pub(crate) means: Means,
    default: &'static str,
    takes: &'static str,
    /// Its effect, but for tunables, which have words of their own.
    pub(crate) about: &'static str,
}

fn defaults() -> Config {
    Config::new(Nid::LO, 0)
}

impl Key {
    /// The value of a node that is told nothing; empty where there is none.
    pub(crate) fn default(&self) -> String {
        match self.means {
            Means::Tunable(t) => t.value(&defaults()),
            Means::Not(t) => negated(&t.value(&defaults())),
            Means::Only(all, _) => all.iter().max().map_or_else(String::new, i64::to_string),
            _ => self.default.to_owned(),
        }
    }

    /// The values that it takes, with their unit.
    pub(crate) fn takes(&self) -> String {
        match self.means {
            Means::Tunable(t) | Means::Not(t) => t.takes(),
            Means::Only(all, _) => all.iter().map(i64::to_string).collect::<Vec<_>>().join(" or "),
            _ => self.takes.to_owned(),
        }
    }

    /// Whether a node that runs takes a change, over TCP of this kind.
    pub(crate) fn runtime(&self, kind: TcpKind) -> bool {
        match self.means {
            Means::Tunable(t) | Means::Not(t) => t.runtime(&Config { tcp_kind: kind, ..defaults() }),
            Means::Options | Means::Level => true,
            _ => false,
        }
    }

    /// Its row in the documentation.
    #[cfg(test)]
    pub(crate) fn row(&self) -> String {
        let about = match self.means {
            Means::Tunable(t) | Means::Not(t) if t.fixed(&defaults()).is_some() => {
                format!("nothing to set: {}", t.fixed(&defaults()).unwrap_or_default())
            }
            Means::Tunable(t) if t.name == self.name => t.about.to_owned(),
            Means::Tunable(t) => format!("the tunable `{}`: {}", t.name, t.about),
            Means::Not(t) => format!("the opposite of the tunable `{}`", t.name),
            Means::Only(_, why) => format!("nothing to set: {why}"),
            Means::Reading => "a reading: ignored".to_owned(),
            Means::Option(flag) | Means::Each(flag) | Means::OnOff(flag) | Means::Flag(flag, _) => {
                format!("`--{flag}`: {}", self.about)
            }
            _ => self.about.to_owned(),
        };
        let ports = Config { tcp_kind: TcpKind::Port, ..defaults() };
        let fixed = |c: &Config| match self.means {
            Means::Tunable(t) | Means::Not(t) => t.fixed(c).is_some(),
            Means::Only(..) | Means::Reading => true,
            _ => false,
        };
        let when = match (fixed(&defaults()), self.runtime(TcpKind::Sockets), self.runtime(TcpKind::Port)) {
            (true, ..) => "",
            (_, true, true) if fixed(&ports) => "running; nothing to set on ports",
            (_, true, true) => "running",
            (_, true, false) => "running; ports: start",
            _ => "start",
        };
        let cell = |s: String| s.replace('|', "\\|");
        format!("| `{}` | {} | {} | {when} | {about} |", self.name, cell(self.default()), cell(self.takes()))
    }
}

/// The opposite of a flag.
pub(crate) fn negated(flag: &str) -> String {
    if flag == "0" { "1" } else { "0" }.to_owned()
}

/// Reason why a kernel's parameter has no use here.
fn why(name: &str) -> &'static str {
    let passed = PARAMS.iter().find(|p| p.name == name).map(|p| p.here);
    if let Some(Here::PassedOver(why)) = passed { why } else { "it has no use here" }
}

/// Tunables of an NI.
const OF_NI: [&str; 4] = ["peer_timeout", "peer_credits", "peer_buffer_credits", "credits"];
/// Keys of lnetctl's whose names are other than the tunables'.
const OTHERWISE: [(Part, &str, &str); 4] = [
    (Part::Lnd, "timeout", "sock_timeout"),
    (Part::Global, "retry_count", "lnet_retry_count"),
    (Part::Global, "transaction_timeout", "lnet_transaction_timeout"),
    (Part::Global, "drop_asym_route", "lnet_drop_asym_route"),
];
const OFFLOAD: &str = "auto, on, off";
const DISCOVERY: &str = "lnet_peer_discovery_disabled";

fn all() -> Vec<Key> {
    let key = |part, name, means, default, takes, about| Key { part, name, means, default, takes, about };
    let tuned = |part, name, t: &'static Tunable| key(part, name, Means::Tunable(t), "", "", "");
    let mut all = Vec::new();
    all.extend(OF_NI.iter().filter_map(|n| Some(tuned(Part::Tunables, *n, tunables::find(n).ok()?))));
    for (part, name, of) in OTHERWISE {
        all.extend(tunables::find(of).ok().map(|t| tuned(part, name, t)));
    }
    all.extend(
        tunables::find(DISCOVERY).ok().map(|t| key(Part::Global, "discovery", Means::Not(t), "", "", "")),
    );
    for t in ALL {
        let otherwise = t.name == DISCOVERY || OTHERWISE.iter().any(|o| o.2 == t.name);
        if OF_NI.contains(&t.name) || otherwise {
            continue;
        }
        let part = if t.module == Module::Ksocklnd { Part::Lnd } else { Part::Node };
        all.push(tuned(part, t.name, t));
    }
    let only = |name, of: &str, values| key(Part::Global, name, Means::Only(values, why(of)), "", "", "");
    all.extend([
        only("numa_range", "lnet_numa_range", &[0]),
        // The kernel's default became another.
        only("max_interfaces", "lnet_interfaces_max", &[200, 4096]),
        only("health_sensitivity", "lnet_health_sensitivity", &[100]),
        only("recovery_interval", "lnet_recovery_interval", &[1]),
        only("router_sensitivity", "router_sensitivity_percentage", &[100]),
        only("response_tracking", "lnet_response_tracking", &[3]),
        only("recovery_limit", "lnet_recovery_limit", &[0]),
        only("max_recovery_ping_interval", "lnet_max_recovery_ping_interval", &[900]),
        key(Part::Global, "lnd_timeout", Means::Reading, "", "anything", ""),
    ]);
    let (n, d) = (Part::Node, Part::Dpdk);
    all.extend([
        key(
            n,
            "options",
            Means::Options,
            "",
            "a list of paths",
            "files in the syntax of modprobe.d; what this file says wins over them",
        ),
        key(
            n,
            "budget",
            Means::Option("budget"),
            "",
            "1 to 1048576 (MiB)",
            "memory that strangers may make each lcore hold",
        ),
        key(
            n,
            "selftest",
            Means::Flag("no-selftest", false),
            "true",
            "true, false",
            "false says it: lnet_selftest is left out",
        ),
        key(
            n,
            "copy",
            Means::Flag("copy", true),
            "false",
            "true, false",
            "true says it: received payload is copied, not lent",
        ),
        key(n, "run_for", Means::Option("run-for"), "", "0.1 to 3600 (s)", "goes down after that"),
        key(
            d,
            "device",
            Means::Device,
            "",
            "a PCI address, a virtual device with its arguments, or a port's name",
            "`--port` or `--vdev`: the port, or a list of ports; needed where there is this section",
        ),
        key(
            d,
            "ni_ports",
            Means::Each("ni-ports"),
            "",
            "0 to 15 (number of a port)",
            "for each NI, its port, where several addresses are on a port; else each port has one, in their order",
        ),
        key(
            d,
            "lcores",
            Means::Option("lcores"),
            "1",
            "1 to 64 (lcores)",
            "each polls a queue of each port, where all have so many",
        ),
        key(
            d,
            "queues",
            Means::Option("queues"),
            "",
            "1 to the number of lcores (queues)",
            "of each port; as many as there are lcores, where all have so many",
        ),
        key(d, "tso", Means::Each("tso"), "auto", OFFLOAD, "TCP segmentation by the port"),
        key(
            d,
            "tx_csum",
            Means::Each("tx-csum"),
            "auto",
            OFFLOAD,
            "checksums of what is sent, by the port",
        ),
        key(d, "rx_csum", Means::Each("rx-csum"), "auto", OFFLOAD, "checksums of what comes, by the port"),
        key(d, "lro", Means::Each("lro"), "auto", OFFLOAD, "joining of segments that come, by the port"),
        key(
            d,
            "rss",
            Means::Each("rss"),
            "auto",
            OFFLOAD,
            "spreading over queues by the port's hash; off: one queue, where they cannot be mirrored",
        ),
        key(d, "cpu_pattern", Means::Option("cpu-pattern"), "", "Lustre's syntax", "CPUs of the lcores"),
        key(d, "balance", Means::OnOff("balance"), "on", "on, off", "busy lcores give work to idle ones"),
        key(
            d,
            "idle",
            Means::Option("idle"),
            "",
            "spin, yield, sleep",
            "the time of lcores without work; unless told they spin where there are more CPUs than lcores, else they yield",
        ),
        key(d, "mtu", Means::Each("mtu"), "1500", "576 to 9600 (bytes)", "the port's"),
        key(d, "vlan", Means::Each("vlan"), "", "1 to 4094 (VLAN id)", "of all packets"),
        key(
            d,
            "prefix",
            Means::Each("prefix"),
            "",
            "1 to 128 (bits)",
            "length of the network's prefix; 24, and 64 for IPv6",
        ),
        key(d, "gateway", Means::Each("gateway"), "", "an IP address", "for addresses outside of it"),
        key(d, "pcap", Means::Option("pcap"), "", "a path", "file for all packets"),
        key(d, "eal", Means::Eal, "", "a list of words", "arguments of the EAL, as those after `--`"),
        key(
            Part::Telemetry,
            "dpdk",
            Means::Telemetry,
            "true",
            "true, false",
            "`-- --no-telemetry` where false: whether `dpdk-telemetry.py` may ask a node on a port",
        ),
        key(
            Part::Telemetry,
            "metrics",
            Means::Option("metrics"),
            "",
            "an IP address and a port",
            "figures for Prometheus, at /metrics there",
        ),
        key(
            Part::Log,
            "level",
            Means::Level,
            "warn",
            "error, warn, info, debug or trace, or such as warn,transport=debug",
            "what is logged; `-v` and POLLND_LOG win over it",
        ),
    ]);
    all.sort_by_key(|k| k.part);
    all
}

/// All keys, those of a mapping together.
pub(crate) static KEYS: LazyLock<Vec<Key>> = LazyLock::new(all);

/// Keys of a mapping.
pub(crate) fn of(part: Part) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |k| k.part == part)
}

/// Of `known`, the name that `given` was probably meant to be.
pub(crate) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.into_iter().map(|k| (strsim::osa_distance(&given.to_lowercase(), &k.to_lowercase()), k));
    near.min_by_key(|(d, _)| *d).filter(|(d, k)| *d <= k.len().max(3) / 3).map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_and_each_tunable_is_there_once() {
        for (i, k) in KEYS.iter().enumerate() {
            assert!(!KEYS[..i].iter().any(|o| (o.part, o.name) == (k.part, k.name)), "{k:?}");
        }
        for t in ALL {
            let of = |k: &&Key| matches!(k.means, Means::Tunable(o) | Means::Not(o) if o.name == t.name);
            assert_eq!(KEYS.iter().filter(of).count(), 1, "{}", t.name);
        }
    }

    /// The tables of docs/config.md are those of the code, row by row.
    #[test]
    fn the_document_has_all_keys() {
        let text = include_str!("../../../docs/config.md");
        let mut part = None;
        let mut rows = Vec::new();
        for l in text.lines() {
            if let Some(h) = l.strip_prefix("### ") {
                part = [Part::Tunables, Part::Lnd]
                    .into_iter()
                    .chain(Part::SECTIONS)
                    .find(|p| h.trim_matches('`') == p.path());
            } else if let Some(p) = part.filter(|_| l.starts_with("| `")) {
                rows.push((p, l));
            }
        }
        let mut missing = String::new();
        for k in KEYS.iter().filter(|k| !rows.contains(&(k.part, &k.row()))) {
            missing += &format!("{}: {}\n", k.part.path(), k.row());
        }
        assert!(missing.is_empty(), "docs/config.md lacks these rows:\n{missing}");
        assert_eq!(rows.len(), KEYS.len(), "rows of no key");
    }

    #[test]
    fn the_nearest_name_is_near() {
        let names = || of(Part::Dpdk).map(|k| k.name);
        assert_eq!(nearest("MTUU", names()), Some("mtu"));
        assert_eq!(nearest("gatway", names()), Some("gateway"));
        assert_eq!(nearest("cpu-pattern", names()), Some("cpu_pattern"));
        assert_eq!(nearest("colour", names()), None);
    }
}
