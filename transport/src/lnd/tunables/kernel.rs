//! Every parameter that the modules `ksocklnd` and `lnet` of a released Lustre have, from 2.10 to 2.17, and those two
//! of `libcfs` that lay out CPUs: what a node's files may say. A site's file serves all of its nodes, so none of these
//! is an error in a file, whether this node has something to tune there or not.

use super::Module;

/// A release, by its second number: 10 for 2.10.
pub type Release = u8;
/// The first that is looked at.
pub const OLDEST: Release = 10;
/// The last.
pub const NEWEST: Release = 17;

/// The kernel's reading of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number.
    Number,
    /// Text of a syntax of its own.
    Text,
}

/// This node's treatment of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Here {
    /// It is one of [`super::ALL`].
    Tunable,
    /// Routes of the node, in its own syntax.
    Routes,
    /// Nothing, since...
    PassedOver(&'static str),
}

/// A parameter of a kernel module.
#[derive(Debug)]
pub struct Param {
    /// Its module.
    pub module: Module,
    /// Its name.
    pub name: &'static str,
    /// First release that has it, at the earliest [`OLDEST`].
    pub since: Release,
    /// Last release that has it, at the latest [`NEWEST`]: none has been taken away yet, only emptied.
    pub until: Release,
    /// The kernel's reading of it.
    pub kind: Kind,
    /// Its treatment here.
    pub here: Here,
}

impl Param {
    const fn new(module: Module, name: &'static str, since: Release, here: Here) -> Param {
        Param { module, name, since, until: NEWEST, kind: Kind::Number, here }
    }

    const fn text(self) -> Param {
        Param { kind: Kind::Text, ..self }
    }
}

const fn sock(name: &'static str, since: Release) -> Param {
    Param::new(Module::Ksocklnd, name, since, Here::Tunable)
}

const fn ours(name: &'static str, since: Release) -> Param {
    Param::new(Module::Lnet, name, since, Here::Tunable)
}

const fn over(name: &'static str, since: Release, why: &'static str) -> Param {
    Param::new(Module::Lnet, name, since, Here::PassedOver(why))
}

const fn cpus(module: Module, name: &'static str, since: Release) -> Param {
    Param::new(module, name, since, Here::PassedOver(CPUS))
}

const NETWORKS: &str = "--nid names the network and the address";
const BUFFER_CREDITS: &str = "ksocklnd's of that name goes before it";
const AUTO_DOWN: &str = "a silent peer is not declared dead: its connections end";
const OLD_CHECKS: &str =
    "kernels do not heed it any more: alive_router_check_interval says when gateways are checked";
const BEFORE_USE: &str = "routes are down until their gateways have answered, whatever it says";
const SENSITIVITY: &str = "a route is up while its gateway answers";
const HEALTH: &str = "no message changes to another NI";
const DISCOVERY: &str = "this node sends to the NID that it is told, whichever others the peer has";
const CPUS: &str = "--cpu-pattern says where this node's lcores are";
const START: &str = "a node is configured when it starts";
const PORTALS: &str = "portals are not spread over CPUs";

/// All of them, by module, in the order of the sources.
pub static PARAMS: &[Param] = &[
    sock("sock_timeout", OLDEST),
    sock("credits", OLDEST),
    sock("peer_credits", OLDEST),
    sock("peer_buffer_credits", OLDEST),
    sock("peer_timeout", OLDEST),
    sock("nscheds", OLDEST),
    sock("nconnds", OLDEST),
    sock("nconnds_max", OLDEST),
    sock("min_reconnectms", OLDEST),
    sock("max_reconnectms", OLDEST),
    sock("eager_ack", OLDEST),
    sock("typed_conns", OLDEST),
    sock("min_bulk", OLDEST),
    sock("tx_buffer_size", OLDEST),
    sock("rx_buffer_size", OLDEST),
    sock("nagle", OLDEST),
    sock("round_robin", OLDEST),
    sock("keepalive", OLDEST),
    sock("keepalive_idle", OLDEST),
    sock("keepalive_count", OLDEST),
    sock("keepalive_intvl", OLDEST),
    sock("enable_csum", OLDEST),
    sock("inject_csum_error", OLDEST),
    sock("enable_irq_affinity", OLDEST),
    sock("nonblk_zcack", OLDEST),
    sock("zc_min_payload", OLDEST),
    sock("zc_recv", OLDEST),
    sock("zc_recv_min_nfrags", OLDEST),
    sock("conns_per_peer", 15),
    sock("skip_mr_route_setup", 15),
    sock("tos", 16),
    // Of builds with a patched TCP stack, and of builds that debug the versions of the protocol.
    sock("backoff_init", OLDEST),
    sock("backoff_max", OLDEST),
    sock("protocol", OLDEST),
    ours("accept", OLDEST).text(),
    ours("accept_port", OLDEST),
    ours("accept_port_bulk", 17),
    ours("accept_backlog", OLDEST),
    ours("accept_timeout", OLDEST),
    over("networks", OLDEST, NETWORKS).text(),
    over("ip2nets", OLDEST, NETWORKS).text(),
    over("use_tcp_bonding", OLDEST, NETWORKS),
    Param::new(Module::Lnet, "routes", OLDEST, Here::Routes).text(),
    over("rnet_htable_size", OLDEST, "the table of routes grows by itself"),
    ours("forwarding", OLDEST).text(),
    ours("tiny_router_buffers", OLDEST),
    ours("small_router_buffers", OLDEST),
    ours("large_router_buffers", OLDEST),
    over("peer_buffer_credits", OLDEST, BUFFER_CREDITS),
    over("auto_down", OLDEST, AUTO_DOWN),
    over("check_routers_before_use", OLDEST, BEFORE_USE),
    ours("avoid_asym_router_failure", OLDEST),
    over("dead_router_check_interval", OLDEST, OLD_CHECKS),
    over("live_router_check_interval", OLDEST, OLD_CHECKS),
    ours("alive_router_check_interval", 13),
    ours("router_ping_timeout", OLDEST),
    over("router_sensitivity_percentage", 13, SENSITIVITY),
    ours("lnet_drop_asym_route", 13),
    over("lnet_numa_range", OLDEST, HEALTH),
    over("lnet_interfaces_max", 11, HEALTH),
    over("lnet_health_sensitivity", 12, HEALTH),
    over("lnet_recovery_interval", 12, HEALTH),
    over("lnet_recovery_limit", 14, HEALTH),
    over("lnet_max_recovery_ping_interval", 15, HEALTH),
    ours("lnet_peer_discovery_disabled", 11),
    over("lock_prim_nid", 15, DISCOVERY),
    ours("lnet_transaction_timeout", 12),
    ours("lnet_retry_count", 12),
    over("lnet_response_tracking", 14, "every message that awaits an answer is tracked"),
    over("local_nid_dist_zero", OLDEST, DISCOVERY),
    over("portal_rotor", OLDEST, PORTALS),
    over("config_on_load", OLDEST, START),
    cpus(Module::Libcfs, "cpu_npartitions", OLDEST),
    cpus(Module::Libcfs, "cpu_pattern", OLDEST).text(),
    cpus(Module::Lnet, "cpu_npartitions", 17),
    cpus(Module::Lnet, "cpu_pattern", 17).text(),
];

/// The parameter `name` of `module`.
pub(super) fn find(module: Module, name: &str) -> Option<&'static Param> {
    PARAMS.iter().find(|p| p.module == module && p.name == name)
}

/// The parameter `name` of any module.
pub(super) fn anywhere(name: &str) -> Option<&'static Param> {
    PARAMS.iter().find(|p| p.name == name)
}

#[cfg(test)]
mod tests {
    use super::super::ALL;
    use super::*;

    /// Field report 12.
    #[test]
    fn each_tunable_of_a_kernel_is_a_parameter_and_each_parameter_is_there_once() {
        let tunables = || ALL.iter().filter(|t| t.module != Module::Pollnd);
        for t in tunables() {
            assert!(PARAMS.iter().any(|p| p.name == t.name && p.module == t.module), "{}", t.name);
        }
        for (i, p) in PARAMS.iter().enumerate() {
            let again = PARAMS[..i].iter().any(|q| (q.module, q.name) == (p.module, p.name));
            assert!(!again, "{} twice", p.name);
            assert!(OLDEST <= p.since && p.since <= p.until && p.until <= NEWEST, "{}", p.name);
            let tunable = tunables().any(|t| t.name == p.name && t.module == p.module);
            assert_eq!(p.here == Here::Tunable, tunable, "{}", p.name);
        }
    }

    /// Field report 12: the page names each with the releases that have it.
    #[test]
    fn the_page_about_tunables_has_them_all() {
        let page = include_str!("../../../../docs/tunables.md");
        for p in PARAMS {
            assert!(page.contains(&format!("`{}`", p.name)), "{} is not in docs/tunables.md", p.name);
            if let Here::PassedOver(why) = p.here {
                let row = format!(
                    "| `{}` | {} | 2.{} to 2.{} | {why} |",
                    p.name,
                    p.module.name(),
                    p.since,
                    p.until
                );
                assert!(page.contains(&row), "docs/tunables.md should have the row\n{row}");
            }
        }
    }
}
