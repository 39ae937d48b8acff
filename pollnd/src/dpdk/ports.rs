//! The ports of a node: what is asked for of each, and the opened ones, all with as many queues.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use dataplane::doctor::{self, PciPort};
use dataplane::dpdk::{Eal, EalConfig, EthPort, Huge, Offloads, PortConfig, PortSpec, Want, leave_nothing};
use tcpstack::StackConfig;
use transport::lnd::Tcp;
use transport::node::lcore::keepalive;
use transport::node::{Control, Order};

use super::socket::vhost_socket;
use crate::args::{Idle, NodeArgs, Offload};
use crate::keeper::speed;
use crate::networks::{self, Asked};
use crate::{iface, limits, out, units, why};

/// Memory for pages of applications and for slack, in MiB.
const PAGES_MB: u64 = 64;
/// Smallest window of a connection that the TCP stack has, in bytes.
const WINDOW_MIN: u32 = 64 << 10;

/// A port to be opened.
pub(super) struct Wanted {
    pub(super) spec: PortSpec,
    config: PortConfig,
    /// Addresses with the prefixes of their networks, the first NI's first.
    addrs: Vec<(IpAddr, u8)>,
    gateway: Option<IpAddr>,
    vlan: Option<u16>,
}

fn want(all: &[Offload], place: usize) -> Want {
    match networks::of(all, place) {
        None | Some(Offload::Auto) => Want::Auto,
        Some(Offload::On) => Want::On,
        Some(Offload::Off) => Want::Off,
    }
}

impl Wanted {
    fn new(a: &NodeArgs, port: &Asked<'_>) -> Result<Wanted, String> {
        let place = port.place;
        let offloads = Offloads {
            tso: want(&a.tso, place),
            tx_csum: want(&a.tx_csum, place),
            rx_csum: want(&a.rx_csum, place),
            lro: want(&a.lro, place),
            rss: want(&a.rss, place),
        };
        let config = PortConfig {
            mtu: networks::of(&a.mtu, place).flatten().unwrap_or(1500),
            queues: a.queues.unwrap_or(a.lcores),
            fewer: true,
            interrupts: a.idle == Some(Idle::Sleep),
            offloads,
            ..PortConfig::default()
        };
        Ok(Wanted {
            spec: port.device.parse::<PortSpec>().map_err(|e| e.to_string())?,
            config,
            addrs: port.ips().into_iter().map(|ip| (ip, port.prefix(ip))).collect(),
            gateway: port.gateway,
            vlan: networks::of(&a.vlan, place).flatten(),
        })
    }

    /// The TCP stack over it.
    ///
    /// # Errors
    /// It has no address.
    pub(super) fn stack(&self, tcp: &Tcp) -> Result<StackConfig, String> {
        let (ip, prefix) =
            self.addrs.first().ok_or_else(|| format!("port {} has no IP address", self.spec.port_name()))?;
        let mut c = StackConfig::new(*ip, *prefix);
        c.addrs.clone_from(&self.addrs);
        c.gateways = self.gateway.into_iter().collect();
        c.vlan = self.vlan;
        c.keepalive = keepalive(tcp);
        c.tos = tcp.mark().unwrap_or(0);
        // Less than a stack can do with is taken for as little as it can.
        let window = |bytes: u32, or: u32| if bytes == 0 { or } else { bytes.max(WINDOW_MIN) };
        c.rx_window = window(tcp.rx_buffer, c.rx_window);
        if tcp.tx_buffer > 0 {
            c.tx_window = window(tcp.tx_buffer, 0);
            c.backlog = c.tx_window.into();
        }
        Ok(c)
    }
}

/// Text about a port whose kernel interface is in the hands of a kernel that has the address, too.
fn kernel_answers(spec: &PortSpec, ip: IpAddr, owner: Option<(String, u8)>) -> Option<String> {
    let (name, (iface, prefix)) = (spec.port_name(), owner?);
    ["net_af_", "net_pcap", "net_tap"].iter().any(|d| name.starts_with(d)).then(|| {
        format!(
            "port {name}: this machine's kernel has the address {ip}, too (interface {iface}): it answers what comes for it, a \
             connection with RST; take it away (ip addr del {ip}/{prefix} dev {iface}), or give --nid an address that the kernel \
             does not have"
        )
    })
}

/// The ports that `a` asks for.
///
/// # Errors
/// As [`networks::asked`]; a device that is none.
pub(super) fn wanted(a: &NodeArgs) -> Result<Vec<Wanted>, String> {
    networks::asked(a)?.iter().map(|p| Wanted::new(a, p)).collect()
}

/// Looks at `all` as far as it goes before the EAL is started.
///
/// # Errors
/// Two of a name; one that cannot be opened, or whose socket cannot.
pub(super) fn check(all: &[Wanted]) -> Result<(), String> {
    for (i, w) in all.iter().enumerate() {
        let name = w.spec.port_name();
        if all[..i].iter().any(|o| o.spec.port_name() == name) {
            return Err(format!(
                "two ports are called {name}: number virtual devices of one driver, such as net_tap0 and net_tap1"
            ));
        }
        if let Some((o, tap)) = all[..i].iter().find_map(|o| Some((o, same_tap(&o.spec, &w.spec)?))) {
            return Err(format!(
                "ports {} and {name} are queues of one tap, {tap}, and each would have a part of what comes for the other: give each \
                 its own iface, or both NIs to one port (--ni-ports)",
                o.spec.port_name()
            ));
        }
        EthPort::check(&w.spec, &w.config).map_err(|e| e.to_string())?;
        vhost_socket(&w.spec)?;
    }
    Ok(())
}

/// The kernel interface that two taps would both make.
fn same_tap<'a>(a: &PortSpec, b: &'a PortSpec) -> Option<&'a str> {
    fn tap(spec: &PortSpec) -> Option<&str> {
        let PortSpec::Vdev { name, args } = spec else { return None };
        let iface = args.split(',').find_map(|a| a.strip_prefix("iface="));
        iface.filter(|_| name.starts_with("net_tap"))
    }
    tap(b).filter(|iface| tap(a) == Some(iface))
}

/// Warns of what the kernel may do with what comes for the addresses of `all`.
pub(super) fn warn_of_kernel(all: &[Wanted]) {
    for (w, (ip, _)) in all.iter().flat_map(|w| w.addrs.iter().map(move |a| (w, a))) {
        if let Some(text) = kernel_answers(&w.spec, *ip, iface::owner(*ip)) {
            tracing::warn!("{text}");
        }
    }
    let remedies: Vec<String> = all.iter().filter_map(|w| w.spec.cut_remedy()).collect();
    why::keep_cut_remedy((!remedies.is_empty()).then(|| remedies.join("; ")));
}

/// Memory that pools of so many bytes and the applications' pages take, in MiB, with some to spare where that is little.
fn memory_mb(pools: u64) -> u32 {
    u32::try_from((pools >> 20) + PAGES_MB).unwrap_or(u32::MAX).max(256)
}

/// Memory that a node of one lcore takes on a port of the usual MTU, in MiB.
pub(crate) fn usual_memory_mb() -> u32 {
    memory_mb(PortConfig::default().pool_bytes())
}

/// The EAL that these ports need, with `raw` arguments of its own.
pub(super) fn eal(all: &[Wanted], raw: &[String]) -> EalConfig {
    let bytes: u64 = all.iter().map(|w| w.config.pool_bytes()).sum();
    let allow: Vec<String> = all
        .iter()
        .filter_map(|w| match &w.spec {
            PortSpec::Pci(p) => Some(p.clone()),
            _ => None,
        })
        .collect();
    // Such a device knows physical addresses alone, which ordinary pages do not keep.
    let uio = |p: &PciPort| p.driver.as_deref().is_some_and(|d| d.contains("uio"));
    let physical = doctor::pci_ports(Path::new("/")).iter().any(|p| uio(p) && allow.contains(&p.addr));
    EalConfig {
        huge: if physical { Huge::On } else { Huge::Auto },
        mem_mb: memory_mb(bytes),
        no_pci: allow.is_empty(),
        allow,
        raw: raw.to_vec(),
        ..EalConfig::default()
    }
}

/// The NUMA node that most of them are on, as far as it is known before they are opened.
pub(super) fn node(all: &[Wanted]) -> Option<u32> {
    let nodes: Vec<u32> = all.iter().filter_map(|w| w.spec.node()).collect();
    // Of equals the first port's.
    let ports_on = |n: &u32| nodes.iter().filter(|o| *o == n).count();
    nodes.iter().rev().max_by_key(|n| ports_on(n)).copied()
}

/// Interval of looks at whether a node is told to go down while it waits for the other end of a port, in ms.
const LOOK_MS: u64 = 50;

/// Ends the process when it is told to go down before the result is dropped: a driver that waits for its backend hears nobody, and holds
/// what would have to be given back in order.
fn leave_if_told(control: Arc<Control>, socket: PathBuf) -> Result<mpsc::Sender<()>, String> {
    let (waits, connected) = mpsc::channel::<()>();
    limits::thread("watches a port that waits", move || {
        while connected.recv_timeout(Duration::from_millis(LOOK_MS)) == Err(RecvTimeoutError::Timeout) {
            if control.order() != Order::Run {
                out::note("told to go down before it was up");
                let _ = std::fs::remove_file(&socket);
                leave_nothing();
                std::process::exit(1);
            }
        }
    })?;
    Ok(waits)
}

/// Opens `all`. An lcore has a queue of each or of none, so they get as many as the one has that has least. `control` may end the
/// process while one waits for its backend.
///
/// # Errors
/// A port that cannot be opened.
pub(super) fn open(eal: &Eal, all: &[Wanted], control: &Arc<Control>) -> Result<Vec<EthPort>, String> {
    let mut ports = Vec::new();
    for w in all {
        let name = w.spec.port_name();
        let waits = w.spec.socket().filter(|s| s.listens && name.starts_with("net_virtio_user"));
        let _watch = match waits {
            Some(s) => {
                tracing::warn!("{name}: waits for its vhost backend to connect");
                Some(leave_if_told(control.clone(), s.path)?)
            }
            None => None,
        };
        ports.push(EthPort::open(eal, &w.spec, &w.config).map_err(|e| e.to_string())?);
    }
    let least = ports.iter().min_by_key(|p| p.queues()).map(|p| (p.queues(), p.name().to_owned()));
    let Some((queues, narrow)) = least else { return Ok(ports) };
    let mut even = Vec::new();
    for (p, w) in ports.into_iter().zip(all) {
        let why = format!("port {narrow} has no more");
        even.push(p.with_fewer(eal, &w.config, queues, &why).map_err(|e| e.to_string())?);
    }
    for w in even.iter().flat_map(EthPort::warnings) {
        tracing::warn!("{w}");
    }
    Ok(even)
}

/// Speed of the fastest of their links in Mbit/s, as far as it is known.
pub(super) fn fastest(all: &[EthPort]) -> Option<u32> {
    all.iter().filter_map(|p| speed(p.refresh_link())).max()
}

/// Receive memory of a queue of each: buffers, and their bytes.
pub(super) fn rx_of_queue(all: &[EthPort]) -> (usize, u64) {
    let one = |p: &EthPort| {
        let ((bufs, bytes), queues) = (p.rx_memory(), p.queues().max(1));
        (bufs as usize / usize::from(queues), bytes / u64::from(queues))
    };
    all.iter().map(one).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
}

/// As users read them.
pub(super) fn describe(all: &[EthPort]) -> String {
    let one = |p: &EthPort| {
        format!("port {} ({}), {}, MTU {}", p.name(), p.driver(), p.describe_queues(), p.caps().mtu)
    };
    all.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Closes `all`, and says which pages their drivers kept; whether there are any.
///
/// # Errors
/// An lcore still polls one.
pub(super) fn close(all: Vec<EthPort>) -> Result<bool, String> {
    let mut kept = false;
    for mut port in all {
        let left = port.close(Duration::from_secs(2)).map_err(|e| e.to_string())?;
        if left.attachments_out > 0 {
            kept = true;
            tracing::error!(
                "port {}: its driver kept {} attached pages: they are not used again",
                port.name(),
                left.attachments_out
            );
        }
    }
    Ok(kept)
}

/// Warns of lcores without a queue, and of those far from a port.
pub(super) fn warn_of_lcores(all: &[EthPort], lcores: &[dataplane::lcore::Lcore]) {
    for port in all {
        if usize::from(port.queues()) < lcores.len() {
            tracing::warn!(
                "port {} has {} for {}: those without a queue serve peers over rings",
                port.name(),
                port.describe_queues(),
                units::many(lcores.len() as u64, "lcore")
            );
        }
        for l in lcores {
            if let Some(n) = l.node.filter(|n| port.node() >= 0 && *n != port.node().unsigned_abs()) {
                tracing::warn!(
                    "lcore {} is on NUMA node {n}, port {} on node {}: choose CPUs near the port with --cpu-pattern",
                    l.index,
                    port.name(),
                    port.node()
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each got a part of what came for the other.
    #[test]
    fn two_ports_on_one_tap_are_refused() {
        let ask = |a: &str, b: &str| {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            same_tap(&a, &b).map(str::to_owned)
        };
        assert_eq!(ask("net_tap0,iface=t", "net_tap1,mac=fixed,iface=t").as_deref(), Some("t"));
        assert_eq!(ask("net_tap0,iface=t", "net_tap1,iface=t1"), None);
        assert_eq!(ask("net_tap0", "net_tap1"), None);
        // Each of these sees all frames of the interface.
        assert_eq!(ask("net_af_packet0,iface=va", "net_af_packet1,iface=va"), None);
    }

    /// Field report 19: the kernel resets what it knows nothing of.
    #[test]
    fn an_address_that_the_kernel_has_too_is_told() {
        let ask = |spec: &str, owner: Option<(&str, u8)>| {
            let ip = "10.0.0.1".parse().unwrap();
            kernel_answers(&spec.parse().unwrap(), ip, owner.map(|(i, p)| (i.to_owned(), p)))
        };
        let text = ask("net_af_packet0,iface=va", Some(("va", 24))).unwrap();
        for says in ["port net_af_packet0", "10.0.0.1", "RST", "ip addr del 10.0.0.1/24 dev va", "--nid"] {
            assert!(text.contains(says), "{says}: {text}");
        }
        assert_eq!(ask("net_af_packet0,iface=va", None), None);
        // A device that no kernel has its hand on.
        assert_eq!(ask("net_virtio_user0,path=/x", Some(("va", 24))), None);
    }
}
