//! A node on a DPDK port: the EAL, the port, lcores, and the control thread that looks after them.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bench::link::this_lcore;
use dataplane::capture::CapturePort;
use dataplane::clock::Clock;
use dataplane::cpt::Topology;
use dataplane::dpdk::{Eal, EalBacking, EalConfig, EthPort, Offloads, PortConfig, PortSpec, QueueSeed, Want};
use dataplane::lcore::{self, Lcore};
use dataplane::pkt::Port;
use hugepages::{Backing, LendSlab};
use tcpstack::{Stack, StackConfig};
use transport::lnd::tunables::Change;
use transport::lnd::{Tcp, TcpKind};
use transport::node::inspect::Inspection;
use transport::node::lcore::{Duplicates, LcoreStreams, keepalive};
use transport::node::{
    App, Control, IdlePolicy, Lcores, NoApp, NodeBuilder, NodeEnd, Order, Protocols, Turn, run,
};
use transport::stream::ShardId;
use transport::wire::netsock::Addr;

use crate::args::{Idle, NodeArgs, Offload, Switch};
use crate::cpus;
use crate::inspect::telemetry;
use crate::keeper::{Duties, Keeper, speed};
use crate::running::{MakeParts, Node, Started};
use crate::{iface, limits, settings, units, why};

/// Memory for pages of applications and for slack, in MiB.
const PAGES_MB: u64 = 64;
/// Smallest window of a connection that the TCP stack has, in bytes.
const WINDOW_MIN: u32 = 64 << 10;
type Ended = Result<Vec<Option<NodeEnd>>, String>;

fn port_spec(a: &NodeArgs) -> Result<PortSpec, String> {
    match (&a.port, &a.vdev) {
        (Some(_), Some(_)) => Err("--port and --vdev do not go together: a node has one port".into()),
        (Some(s), None) | (None, Some(s)) => s.parse::<PortSpec>().map_err(|e| e.to_string()),
        (None, None) => {
            Err("--carrier dpdk needs --port (a PCI address) or --vdev (such as net_tap0)".into())
        }
    }
}

/// Looks for the socket of a vhost link, whose absence drivers tell only in their log. One that a killed node has left
/// behind is taken away (field report 9).
fn vhost_socket(spec: &PortSpec) -> Result<(), String> {
    let Some(s) = spec.socket() else { return Ok(()) };
    let (name, p) = (spec.port_name(), s.path.display());
    if !s.listens {
        // A vhost device that connects tries until somebody listens.
        let waits = name.starts_with("net_vhost");
        let first = format!(
            "start the other end first (a node with --vdev net_vhost0,iface={p}, a virtual switch), or correct the path"
        );
        return match s.path.metadata() {
            Err(e) if e.kind() == ErrorKind::NotFound && waits => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Err(format!("{name}: there is no vhost socket {p}: {first}"))
            }
            Err(e) => {
                Err(format!("{name} cannot reach its vhost socket {p}: {e}; correct the path, or its rights"))
            }
            Ok(m) if !m.file_type().is_socket() => Err(format!(
                "{name}: {p} is no socket but a file of another kind: give the path of the vhost socket that the other end serves"
            )),
            // It need not be disturbed to find out.
            Ok(_) if waits || listed(&s.path) => Ok(()),
            Ok(_) => match UnixStream::connect(&s.path) {
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => Err(format!(
                    "{name}: nobody listens on the vhost socket {p}, whoever made it has gone: {first}"
                )),
                Err(e) if e.kind() == ErrorKind::PermissionDenied => Err(format!(
                    "{name} may not connect to the vhost socket {p} ({e}): run as a user that may write to it"
                )),
                _ => Ok(()),
            },
        };
    }
    if let Some(d) = s.path.parent().filter(|d| !d.as_os_str().is_empty() && !d.is_dir()) {
        let d = d.display();
        return Err(format!(
            "{name} cannot make its socket {p}: the folder {d} does not exist; make it, or give another path"
        ));
    }
    let Ok(meta) = s.path.symlink_metadata() else { return Ok(()) };
    if !meta.file_type().is_socket() {
        return Err(format!(
            "{name} cannot make its socket {p}: a file of another kind is there; give another path"
        ));
    }
    let served = || {
        Err(format!(
            "{name} cannot make its socket {p}: another program serves it; stop that one, or give another path"
        ))
    };
    if listed(&s.path) {
        return served();
    }
    match UnixStream::connect(&s.path) {
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => match std::fs::remove_file(&s.path) {
            Ok(()) => {
                tracing::info!("{name}: took away the socket {p}, which nobody serves");
                Ok(())
            }
            Err(e) => Err(format!(
                "{name} cannot make its socket {p}: an old one that nobody serves is there and cannot be removed ({e}): rm {p}"
            )),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        // Too many wait for whoever listens, or it is of another type: it is served.
        _ => served(),
    }
}

/// Whether the kernel lists a listener at `path`: then it need not be disturbed to find out. One in another namespace, or
/// under another name, is not listed.
fn listed(path: &Path) -> bool {
    // Flags of a socket that listens (`__SO_ACCEPTCON`).
    const LISTENS: &str = "00010000";
    let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let path = path.to_string_lossy();
    table.lines().any(|l| {
        let w: Vec<_> = l.split_whitespace().collect();
        w.len() > 7 && w[3] == LISTENS && l.ends_with(&*path) && w[7..].join(" ") == *path
    })
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

/// Memory that the port's pools and the applications' pages take, in MiB.
fn memory_mb(c: &PortConfig) -> u32 {
    u32::try_from((c.pool_bytes() >> 20) + PAGES_MB).unwrap_or(u32::MAX)
}

fn want(o: Offload) -> Want {
    match o {
        Offload::Auto => Want::Auto,
        Offload::On => Want::On,
        Offload::Off => Want::Off,
    }
}

/// Lcores of the node, from the pattern and the number asked for, near the port.
fn lcores(a: &NodeArgs, cores: &Topology, spec: &PortSpec) -> Result<Vec<Lcore>, String> {
    let pattern = a.cpu_pattern.as_deref().unwrap_or("");
    let (all, shared) = cpus::choose(cores, pattern, a.lcores.into(), spec.node(), &cpus::polled())
        .map_err(|e| e.to_string())?;
    for w in shared {
        tracing::warn!("{w}");
    }
    Ok(all)
}

/// Longest prefix of the family, and the one that a port's network has unless told.
fn usual_prefix(ip: IpAddr) -> (u8, u8) {
    if ip.is_ipv6() { (128, 64) } else { (32, 24) }
}

/// Prefix length and gateway of the port's network.
fn network(a: &NodeArgs, ip: IpAddr) -> Result<(u8, Option<IpAddr>), String> {
    let (most, usual) = usual_prefix(ip);
    let prefix = a.prefix.unwrap_or(usual);
    if prefix > most {
        return Err(format!("--prefix {prefix}: the network of {} has a prefix of 1 to {most} bits", a.nid));
    }
    match a.gateway {
        Some(g) if g.is_ipv6() != ip.is_ipv6() => {
            Err(format!("--gateway {g}: it has to be of the address family of {}", a.nid))
        }
        g => Ok((prefix, g)),
    }
}

fn stack_config(a: &NodeArgs, tcp: &Tcp, ip: IpAddr, (prefix, gateway): (u8, Option<IpAddr>)) -> StackConfig {
    let mut c = StackConfig::new(ip, prefix);
    for more in a.ni.iter().filter_map(|ni| ni.ip()) {
        if c.addrs.iter().all(|(ip, _)| *ip != more) {
            let like_it = more.is_ipv6() == ip.is_ipv6();
            c.addrs.push((more, if like_it { prefix } else { usual_prefix(more).1 }));
        }
    }
    c.gateways = gateway.into_iter().collect();
    c.vlan = a.vlan;
    c.keepalive = keepalive(tcp);
    c.tos = tcp.mark().unwrap_or(0);
    // Less than a stack can do with is taken for as little as it can.
    let window = |bytes: u32, or: u32| if bytes == 0 { or } else { bytes.max(WINDOW_MIN) };
    c.rx_window = window(tcp.rx_buffer, c.rx_window);
    if tcp.tx_buffer > 0 {
        c.tx_window = window(tcp.tx_buffer, 0);
        c.backlog = c.tx_window.into();
    }
    c
}

/// File for the packets of an lcore's queue: each queue has its own.
fn capture_path(path: &Path, me: ShardId) -> PathBuf {
    if me.0 == 0 {
        return path.into();
    }
    let mut p = path.as_os_str().to_owned();
    p.push(format!(".{}", me.0));
    p.into()
}

/// Parts of which the polling threads make their shards.
struct Plan {
    node: transport::node::Plan,
    stack: StackConfig,
    pcap: Option<PathBuf>,
    eal: Eal,
    backing: Arc<dyn Backing>,
    restart: Arc<Mutex<Vec<Arc<AtomicBool>>>>,
    duplicates: Arc<Mutex<Vec<Duplicates>>>,
}

impl Plan {
    fn runtime<P: Port>(&self, port: P, me: ShardId) -> Result<LcoreStreams<P>, String> {
        let slab = LendSlab::new(self.node.config().lendings as usize);
        let stack = Stack::new(self.stack.clone(), port, slab).map_err(|e| e.to_string())?;
        let rt = self.node.lcore(me, stack).map_err(|e| e.to_string())?;
        self.restart.lock().unwrap_or_else(PoisonError::into_inner).push(rt.restart_wanted());
        self.duplicates.lock().unwrap_or_else(PoisonError::into_inner).push(rt.duplicates());
        Ok(rt)
    }

    /// One shard, over `port` if its lcore has a queue.
    fn shard<P: Port + 'static>(
        &self,
        port: Option<P>,
        me: ShardId,
        make: Option<MakeParts>,
    ) -> Result<Box<dyn Turn>, String> {
        let (app, protocols): (Box<dyn App>, _) = match make {
            Some(make) => make(&self.backing)?,
            None => (Box::new(NoApp), Protocols::new()),
        };
        let own = port.map(|p| self.runtime(p, me)).transpose()?;
        self.node.turnable_with(me, own, app, protocols).map_err(|e| e.to_string())
    }

    fn make(
        &self,
        seed: Option<QueueSeed>,
        me: ShardId,
        make: Option<MakeParts>,
    ) -> Result<Box<dyn Turn>, String> {
        let lcore = this_lcore(&self.eal)?;
        let queue = seed.map(|s| s.build(&lcore));
        match (&self.pcap, queue) {
            (Some(path), Some(q)) => {
                let path = &capture_path(path, me);
                let clock = self.node.clock().clone();
                let epoch = bench::sock::epoch().saturating_sub(clock.now());
                let stamp = Box::new(move || epoch + clock.now());
                let port = CapturePort::new(q, path, 65_535, stamp).map_err(|e| e.to_string())?;
                self.shard(Some(port), me, make)
            }
            (_, queue) => self.shard(queue, me, make),
        }
    }
}

/// Starts a node on a DPDK port.
///
/// # Errors
/// A part that is missing, and the remedy.
pub(crate) fn start(
    a: &NodeArgs,
    (make, instead): (MakeParts, Option<Addr>),
    control: Arc<Control>,
) -> Result<Started, String> {
    let spec = port_spec(a)?;
    let ip = a.nid.ip().ok_or_else(|| format!("{} has no IP address", a.nid))?;
    let network = network(a, ip)?;
    let cores = Topology::detect().map_err(|e| e.to_string())?;
    let lcores = lcores(a, &cores, &spec)?;
    let of_node = Lcores {
        cpts: lcores.iter().map(|l| l.cpt).collect(),
        balanced: a.balance == Switch::On,
        queues: a.queues.unwrap_or(a.lcores),
        ..Lcores::new(a.lcores, 0, 0)
    };
    let node = a.ni.iter().fold(NodeBuilder::new(a.nid), |n, ni| n.also(*ni));
    let node = node.cores(cores.cpus().len()).lcores(of_node.clone());
    node.check().map_err(|e| e.to_string())?;
    let mtu = a.mtu.unwrap_or(1500);
    let offloads =
        Offloads { tso: want(a.tso), tx_csum: want(a.tx_csum), rx_csum: want(a.rx_csum), lro: want(a.lro) };
    let queues = a.queues.unwrap_or(a.lcores);
    let interrupts = a.idle == Some(Idle::Sleep);
    let port_config = PortConfig { mtu, queues, fewer: true, interrupts, offloads, ..PortConfig::default() };
    EthPort::check(&spec, &port_config).map_err(|e| e.to_string())?;
    vhost_socket(&spec)?;
    limits::descriptors_for_eal()?;
    for ip in [a.nid].iter().chain(&a.ni).filter_map(|n| n.ip()) {
        if let Some(w) = kernel_answers(&spec, ip, iface::owner(ip)) {
            tracing::warn!("{w}");
        }
    }
    why::keep_cut_remedy(spec.cut_remedy());
    let pci = match &spec {
        PortSpec::Pci(p) => Some(p.clone()),
        _ => None,
    };
    let eal = EalConfig {
        mem_mb: memory_mb(&port_config).max(256),
        no_pci: pci.is_none(),
        allow: pci.into_iter().collect(),
        raw: a.dpdk.eal.clone(),
        ..EalConfig::default()
    };
    let eal = Eal::start(&eal).map_err(|e| e.to_string())?;
    eal.notes().iter().for_each(|n| tracing::warn!("{n}"));
    if spec.socket().is_some_and(|s| s.listens) && spec.port_name().starts_with("net_virtio_user") {
        tracing::warn!("{}: waits for its vhost backend to connect", spec.port_name());
    }
    let mut port = EthPort::open(&eal, &spec, &port_config).map_err(|e| e.to_string())?;
    for w in port.warnings() {
        tracing::warn!("{w}");
    }
    if usize::from(port.queues()) < lcores.len() {
        tracing::warn!(
            "port {} has {} for {} lcores: those without a queue serve peers over rings",
            port.name(),
            port.describe_queues(),
            lcores.len()
        );
    }
    for l in &lcores {
        if let Some(n) = l.node.filter(|n| port.node() >= 0 && *n != port.node().unsigned_abs()) {
            tracing::warn!(
                "lcore {} is on NUMA node {n}, port {} on node {}: choose CPUs near the port with --cpu-pattern",
                l.index,
                port.name(),
                port.node()
            );
        }
    }
    // The stack is ours: reserved ports need nobody's leave.
    let config = settings::config(a, TcpKind::Port, true, speed(port.refresh_link()))?;
    let told = config.link_mbps;
    let describe = format!(
        "port {} ({}), {}, {} on CPU {:?}, MTU {}, {}",
        port.name(),
        port.driver(),
        port.describe_queues(),
        units::many(lcores.len() as u64, "lcore"),
        lcores.iter().map(|l| l.cpu).collect::<Vec<_>>(),
        port.caps().mtu,
        if eal.huge() { "huge pages" } else { "ordinary pages" }
    );
    let clock = Clock::calibrated();
    let front = Arc::new(Inspection::new(lcores.len(), clock.clone()));
    let (bufs, bytes) = port.rx_memory();
    let queues = port.queues();
    let of_node = Lcores {
        queues,
        rx_bytes: bytes / u64::from(queues),
        rx_bufs: bufs as usize / usize::from(queues),
        ..of_node
    };
    let stack = stack_config(a, &config.tcp, ip, network);
    let mut node = NodeBuilder::of(config).clock(clock).inspection(front.clone()).lcores(of_node);
    if instead.is_some() {
        // Its address is asked for by whoever stands instead of LNet.
        node = node.listen_at([]);
    }
    let plan = Arc::new(Plan {
        node: node.plan().map_err(|e| e.to_string())?,
        stack,
        pcap: a.pcap.clone(),
        backing: Arc::new(EalBacking::new(&eal, port.node())),
        eal: eal.clone(),
        restart: Arc::default(),
        duplicates: Arc::default(),
    });
    telemetry::offer(&eal, &control, &front);
    let idle = match a.idle {
        None => IdlePolicy::for_machine(cores.cpus().len(), lcores.len()),
        Some(Idle::Spin) => IdlePolicy::spins(u32::MAX, u32::MAX),
        Some(Idle::Yield) => IdlePolicy::spins(0, 1),
        Some(Idle::Sleep) => IdlePolicy::sleeps(lcores.len()),
    };
    let mut seeds = (0..port.queues()).map(|q| port.take_queue(q)).collect::<Vec<_>>().into_iter();
    let mut make = Some(make);
    let (made, wait) = mpsc::channel::<()>();
    let threads = lcores
        .iter()
        .map(|l| {
            let (plan, control, seed, make) =
                (plan.clone(), control.clone(), seeds.next().flatten(), make.take());
            let made = made.clone();
            lcore::spawn(&cores, l, move |l| -> Ended {
                let me = ShardId(u16::try_from(l.index).unwrap_or(u16::MAX));
                let node = plan.make(seed, me, make).inspect_err(|_| control.give(Order::Drain))?;
                drop(made);
                Ok(run(vec![node], &control, idle))
            })
            .map_err(|e| e.to_string())
        })
        .collect::<Result<Vec<_>, _>>()
        .inspect_err(|_| control.give(Order::Drain))?;
    // A thread that could not be pinned has told so already and ended.
    let threads = threads
        .into_iter()
        .map(|t| {
            limits::thread("waits for an lcore", move || {
                t.join().map_err(|_| "an lcore panicked".to_owned())?.unwrap_or(Ok(Vec::new()))
            })
        })
        .collect::<Result<_, _>>()
        .inspect_err(|_| control.give(Order::Drain))?;
    drop(made);
    // Every polling thread has made its shard, or has failed to, when the last sender has gone.
    let _ = wait.recv();
    let tuned = front.clone();
    let duties = Duties {
        restart: plan.restart.clone(),
        duplicates: plan.duplicates.clone(),
        speed: Box::new(move |mbps| tuned.tune(Change::link(Some(mbps))).is_ok()),
        told,
    };
    let keeper = Keeper::start(port, &spec, duties).inspect_err(|_| control.give(Order::Drain))?;
    let after = Box::new(move || {
        let mut port = keeper.end()?;
        let left = port.close(Duration::from_secs(2)).map_err(|e| e.to_string())?;
        if left.attachments_out > 0 {
            tracing::error!(
                "port {}: its driver kept {} attached pages: they are not used again",
                port.name(),
                left.attachments_out
            );
        }
        drop(port);
        if left.attachments_out > 0 {
            // The pages that the driver kept are the EAL's: it stays until the process ends, as they do.
            return Ok(());
        }
        // A peer that has gone for good leaves pages lent: the process ends, and they with it.
        if let Err(e) = eal.cleanup_within(Duration::from_secs(1)) {
            tracing::warn!("{e}");
        }
        Ok(())
    });
    Ok((Node::new(threads, control, describe, Some(after)), front))
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Field report 9.
    #[test]
    fn what_is_no_vhost_socket_that_is_served_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: &str| dir.path().join(n);
        std::fs::write(at("file"), "").unwrap();
        drop(std::os::unix::net::UnixListener::bind(at("old")).unwrap());
        let served = std::os::unix::net::UnixListener::bind(at("served")).unwrap();
        let ask =
            |device: &str, n: &str| vhost_socket(&format!("{device}{}", at(n).display()).parse().unwrap());
        let virtio = "net_virtio_user0,path=";
        for (n, says) in [
            ("file", "is no socket but a file of another kind"),
            ("", "is no socket but a file of another kind"),
            ("old", "nobody listens"),
            ("none", "there is no vhost socket"),
            ("file/x", "cannot reach its vhost socket"),
        ] {
            let e = ask(virtio, n).unwrap_err();
            let path = at(n).display().to_string();
            assert!(e.contains("net_virtio_user0") && e.contains(&path) && e.contains(says), "{e}");
        }
        ask(virtio, "served").unwrap();
        // Nobody has been there.
        served.set_nonblocking(true).unwrap();
        assert_eq!(served.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        for waits in ["none", "old", "served"] {
            ask("net_vhost0,client=1,iface=", waits).unwrap();
        }
        assert!(ask("net_vhost0,client=1,iface=", "file").unwrap_err().contains("is no socket"));
    }
}
