//! A device: found, configured, started, stopped, closed. All on the control thread.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dpdk_sys as sys;

use super::eal::{Eal, Hold, HoldKind};
use super::gate::{GateCell, GateEvent};
use super::ifname;
use super::offload::{Offer, negotiate};
use super::pools::{QueuePools, least, pools_of};
use super::port_config::{Closed, LinkState, PortConfig, PortError, Want};
use super::port_shared::PortShared;
use super::probe::{call, find, guard, remove_vdev};
use super::queue::QueueSeed;
use super::sockdir;
use super::spec::PortSpec;
use super::spread::{self, Spread, Table};
use super::trouble::Trouble;
use crate::lcore::Lcore;
use crate::pkt::{PortCaps, TX_HEAD_ROOM};
use crate::steer::Steering;

/// An ethdev port of the EAL.
pub struct EthPort {
    pub(super) shared: Arc<PortShared>,
    pub(super) pools: Vec<QueuePools>,
    taken: Vec<bool>,
    rx_desc: u16,
    /// Virtual device that was made for this port and goes with it.
    pub(super) made: Option<CString>,
    /// The specification from which it was opened, and will be again.
    pub(super) spec: PortSpec,
    pub(super) config: PortConfig,
    pub(super) eal: Eal,
    driver: String,
    /// The kernel's name of net_tap's device, by which that driver asks for the link.
    tap: Option<CString>,
    node: i32,
    warnings: Vec<String>,
    closed: bool,
    /// The device is given up until the other end is back ([`EthPort::detach`]).
    pub(super) away: bool,
    pub(super) spread: Spread,
    table: Table,
    /// Keeps the folder of its socket at hand under a short name.
    pub(super) folder: Option<OwnedFd>,
}

impl EthPort {
    /// Whether [`EthPort::open`] may take this port: asked before the EAL starts, since some drivers take hold of
    /// a device when the EAL finds it.
    ///
    /// # Errors
    /// [`PortError::DefaultRoute`], [`PortError::Arguments`], [`PortError::Fanout`].
    pub fn check(spec: &PortSpec, config: &PortConfig) -> Result<(), PortError> {
        sockdir::shortened(spec)?;
        guard(Path::new("/"), spec, config).map(drop)
    }

    /// Opens the port, configures queues, offloads and pools, and starts it.
    ///
    /// # Errors
    /// [`PortError`] names the port, what failed and the remedy; nothing stays half open but the device itself.
    pub fn open(eal: &Eal, spec: &PortSpec, config: &PortConfig) -> Result<EthPort, PortError> {
        let hold = eal.hold(HoldKind::Ports).ok_or(PortError::Stopped)?;
        let warnings = guard(Path::new("/"), spec, config)?;
        let (spec, folder) = sockdir::shortened(spec)?;
        let (id, made) = find(&spec)?;
        let opened = Self::configure(eal, &spec, id, config, hold, None).map(|mut p| {
            p.made.clone_from(&made);
            p.warnings.extend(warnings);
            p.folder = folder;
            p
        });
        match opened {
            Ok(mut p) => {
                p.start()?;
                let why = match p.learn_spread() {
                    Ok(()) => return Ok(p),
                    Err(why) => why,
                };
                if !config.fewer || config.offloads.rss == Want::On {
                    return Err(p.queues_refused(why));
                }
                p.with_one_queue(eal, config, why)
            }
            Err(e) => {
                // SAFETY: the port was never started, so no lcore polls it.
                unsafe { sys::rte_eth_dev_close(id) };
                if let Some(n) = made {
                    remove_vdev(&n);
                }
                Err(e)
            }
        }
    }

    /// Finds out how the running port spreads its packets.
    pub(super) fn learn_spread(&mut self) -> Result<(), String> {
        if let Spread::One(Some(_)) = self.spread {
            return Ok(());
        }
        self.spread = spread::learn(self.shared.id, self.queues(), &self.shared.choice, self.table)?;
        Ok(())
    }

    fn queues_refused(&self, why: String) -> PortError {
        PortError::Queues { port: self.name().into(), queues: self.queues(), why }
    }

    fn with_one_queue(self, eal: &Eal, config: &PortConfig, why: String) -> Result<EthPort, PortError> {
        let mut p = self.begin_again(eal, config, 1)?;
        p.spread = Spread::One(Some(why));
        Ok(p)
    }

    /// The port with `queues` queues, fewer than it has, for the reason `why`. None may have been taken.
    ///
    /// # Errors
    /// As [`EthPort::open`], after which the port is closed.
    pub fn with_fewer(
        self,
        eal: &Eal,
        config: &PortConfig,
        queues: u16,
        why: &str,
    ) -> Result<EthPort, PortError> {
        if queues >= self.queues() {
            return Ok(self);
        }
        if queues <= 1 {
            return self.with_one_queue(eal, config, why.into());
        }
        let mut p = self.begin_again(eal, config, queues)?;
        match p.learn_spread() {
            Ok(()) => Ok(p),
            Err(why) => Err(p.queues_refused(why)),
        }
    }

    /// The same device with so many queues.
    fn begin_again(mut self, eal: &Eal, config: &PortConfig, queues: u16) -> Result<EthPort, PortError> {
        self.stop(Duration::from_secs(1))?;
        let hold = eal.hold(HoldKind::Ports).ok_or(PortError::Stopped)?;
        let config = PortConfig { queues, fewer: false, ..config.clone() };
        // Memory may not be there for other pools as well.
        let others = self.pools.split_off(usize::from(queues).min(self.pools.len()));
        let pools = std::mem::replace(&mut self.pools, others);
        let mut p = Self::configure(eal, &self.spec, self.shared.id, &config, hold, Some(pools))?;
        // The device is the new one's from here on; the pools of the queues that it no longer has go.
        self.closed = true;
        (p.made, p.folder) = (self.made.take(), self.folder.take());
        p.warnings = std::mem::take(&mut self.warnings);
        drop(self);
        p.start()?;
        Ok(p)
    }

    /// Configures port `id`. `pools` are those of an earlier opening of the same, whose buffers may still be out.
    pub(super) fn configure(
        eal: &Eal,
        spec: &PortSpec,
        id: u16,
        config: &PortConfig,
        hold: Hold,
        pools: Option<Vec<QueuePools>>,
    ) -> Result<EthPort, PortError> {
        let name = spec.port_name();
        // SAFETY: plain data, all-zero valid; the call fills it in.
        let mut info: sys::rte_eth_dev_info = unsafe { std::mem::zeroed() };
        // SAFETY: `id` is a port that exists.
        let r = unsafe { sys::rte_eth_dev_info_get(id, &mut info) };
        call(name, "rte_eth_dev_info_get", r, "the driver is broken or the device is gone")?;
        // SAFETY: the driver's name is a static string.
        let driver = unsafe { std::ffi::CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned();
        let range = |what, min: u32, max: u32, asked: u32, remedy| {
            if (min..=max).contains(&asked) {
                return Ok(());
            }
            Err(PortError::Range { port: name.into(), driver: driver.clone(), what, min, max, asked, remedy })
        };
        let most = info.max_rx_queues.min(info.max_tx_queues);
        let mut alone = None;
        let mut config = config.clone();
        if config.fewer && config.queues > most && most > 0 {
            config.queues = most;
            alone = (most == 1).then(|| "the device has one".to_owned());
        }
        range(
            "queue pairs",
            1,
            u32::from(most),
            u32::from(config.queues),
            "use fewer lcores for this port, or more ports",
        )?;
        let (min_mtu, max_mtu) = (u32::from(info.min_mtu.max(576)), u32::from(info.max_mtu));
        range(
            "MTU",
            min_mtu,
            max_mtu,
            u32::from(config.mtu),
            "choose an MTU in this range, on all hosts of the network",
        )?;
        let mut offer = Offer {
            driver: driver.clone(),
            rx: info.rx_offload_capa,
            tx: info.tx_offload_capa,
            seg_max: info.tx_desc_lim.nb_seg_max,
            mtu_seg_max: info.tx_desc_lim.nb_mtu_seg_max,
            max_lro: info.max_lro_pkt_size,
            mtu: config.mtu,
            rss: info.flow_type_rss_offloads,
            queues: config.queues,
            silent_tso: config.silent_tso,
        }
        .without(&config.offloads);
        let mut choice = negotiate(&offer);
        if let Some(what) = choice.lacks(&offer, &config.offloads) {
            return Err(PortError::Offload { port: name.into(), driver, what });
        }
        if let Some(mut why) = spread::refusal(&offer, &choice, info.reta_size) {
            if config.offloads.rss == Want::Off {
                why = "rss is off, and its queues are not mirrored".into();
            }
            if !config.fewer || config.offloads.rss == Want::On {
                return Err(PortError::Queues { port: name.into(), queues: config.queues, why });
            }
            (config.queues, offer.queues, alone) = (1, 1, Some(why));
            choice = negotiate(&offer);
        }
        if choice.max_segs == 1 {
            let most = TX_HEAD_ROOM as u32 - 18;
            range(
                "MTU without scattered sending",
                576,
                most,
                u32::from(config.mtu),
                "lower the MTU, or use a driver that sends chained buffers",
            )?;
        }
        // SAFETY: plain data, all-zero valid.
        let mut conf: sys::rte_eth_conf = unsafe { std::mem::zeroed() };
        conf.rxmode.mtu = u32::from(config.mtu);
        conf.rxmode.offloads = choice.rx;
        conf.txmode.offloads = choice.tx;
        if choice.lro {
            conf.rxmode.max_lro_pkt_size = info.max_lro_pkt_size;
        }
        conf.rxmode.mq_mode = if choice.rss == 0 { sys::RTE_ETH_MQ_RX_NONE } else { sys::RTE_ETH_MQ_RX_RSS };
        conf.rx_adv_conf.rss_conf.rss_hf = choice.rss;
        let server = spec.socket().is_some_and(|s| s.listens) && name.starts_with("net_virtio_user");
        // SAFETY: a static number of the driver's.
        let flags = unsafe { info.dev_flags.as_ref() }.copied().unwrap_or(0);
        if server && flags & sys::SHIM_ETH_DEV_INTR_LSC != 0 {
            // The driver accepts and drops its backend where the link is looked at. The EAL's interrupt thread does
            // that alone then, and our looks read what it found; two at once break the driver's list of interrupts.
            conf.intr_conf.set_lsc(1);
        }
        let remedy = "the driver refuses this set of queues, MTU and offloads: look at its log line above";
        // Drivers have interrupts for the link or for queues, not both.
        let mut interrupts = config.interrupts && conf.intr_conf.lsc() == 0;
        conf.intr_conf.set_rxq(u32::from(interrupts));
        let configure = |conf: &sys::rte_eth_conf| {
            // SAFETY: a configuration of plain data that the call copies.
            unsafe { sys::rte_eth_dev_configure(id, config.queues, config.queues, conf) }
        };
        let mut r = configure(&conf);
        if r != 0 && interrupts {
            interrupts = false;
            conf.intr_conf.set_rxq(0);
            r = configure(&conf);
        }
        call(name, "rte_eth_dev_configure", r, remedy)?;
        let (mut rx_desc, mut tx_desc) = (config.rx_desc, config.tx_desc);
        // SAFETY: adjusts the two numbers to what the driver can do.
        let r = unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &mut rx_desc, &mut tx_desc) };
        call(name, "rte_eth_dev_adjust_nb_rx_tx_desc", r, remedy)?;
        // SAFETY: `id` is a port that exists.
        let node = unsafe { sys::rte_eth_dev_socket_id(id) };
        let (pools, far) = match pools {
            Some(p) => (p, false),
            None => {
                let rx_bufs = choice.rx_bufs(config.rx_bufs, least(rx_desc));
                let config = PortConfig { rx_bufs, ..config.clone() };
                pools_of(eal, &config, (rx_desc, tx_desc), choice.rx_room, node)?
            }
        };
        for (q, p) in (0..config.queues).zip(&pools) {
            let mut rxc = info.default_rxconf;
            rxc.offloads = choice.rx;
            let mut txc = info.default_txconf;
            txc.offloads = choice.tx;
            let at = node as u32;
            // SAFETY: configurations and pool live through the calls; the pool lives until the port is closed.
            let r = unsafe { sys::rte_eth_rx_queue_setup(id, q, rx_desc, at, &rxc, p.rx.raw()) };
            call(name, "rte_eth_rx_queue_setup", r, remedy)?;
            let mut ring = spec.ring().map_or(tx_desc, |n| n.min(tx_desc));
            let r = loop {
                if choice.lazy_free && ring > 8 {
                    // As near the ring size as virtio allows: the next burst then frees all but a few.
                    txc.tx_free_thresh = ring - 4;
                }
                // SAFETY: as above.
                let r = unsafe { sys::rte_eth_tx_queue_setup(id, q, tx_desc, at, &txc) };
                // The rings of a virtio device are as large as its other end says, which the driver tells by refusing.
                if r != -libc::EINVAL || !choice.lazy_free || ring < 64 {
                    break r;
                }
                ring /= 2;
            };
            call(name, "rte_eth_tx_queue_setup", r, remedy)?;
        }
        if config.promiscuous {
            // SAFETY: `id` is a configured port. Drivers without the notion say so, which is no error here.
            unsafe { sys::rte_eth_promiscuous_enable(id) };
        }
        // Neighbours of IPv6 ask in groups (RFC 4861 §7.2.2); the stack keeps what is for its own.
        // SAFETY: as above.
        unsafe { sys::rte_eth_allmulticast_enable(id) };
        let mut mac = sys::rte_ether_addr::default();
        // SAFETY: a place for the answer.
        let r = unsafe { sys::rte_eth_macaddr_get(id, &mut mac) };
        call(name, "rte_eth_macaddr_get", r, "the device has no Ethernet address")?;
        let caps = PortCaps {
            name: name.to_owned(),
            mac: mac.addr_bytes,
            mtu: config.mtu,
            // The frame with its VLAN tag stays within 16 bits.
            tso_max: if choice.tso { u32::from(u16::MAX) - 18 } else { 0 },
            max_segs: choice.max_segs,
            tx_csum: choice.tx_csum,
            rx_csum: choice.rx_csum,
            // Peers that may send super-segments to a vhost port do.
            lro: choice.lro || config.silent_tso,
            // In software where the device cannot.
            vlan_insert: true,
            vlan_strip: true,
            reach: choice.reach,
            // Each queue's own.
            steering: Steering::default(),
        };
        let queues = usize::from(config.queues);
        let shared = Arc::new(PortShared {
            id,
            caps,
            choice,
            interrupts,
            gates: (0..queues).map(|_| GateCell::default()).collect(),
            link: AtomicBool::new(false),
            trouble: Trouble::default(),
            restarts: AtomicU64::new(0),
            failed_starts: AtomicU64::new(0),
            running: Mutex::new(false),
            _hold: hold,
        });
        let warnings = far.then(|| {
            format!(
                "port {name} is on NUMA node {node}, where too little memory is left for its buffers: they are on another; set huge \
                 pages aside there (echo N > /sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages)"
            )
        });
        let taken = vec![false; queues];
        Ok(EthPort {
            shared,
            pools,
            taken,
            rx_desc,
            made: None,
            spec: spec.clone(),
            config,
            eal: eal.clone(),
            tap: if driver == "net_tap" { ifname::of(info.if_index) } else { None },
            driver,
            node,
            warnings: warnings.into_iter().collect(),
            closed: false,
            away: false,
            spread: Spread::One(alone),
            table: Table { reta: info.reta_size, key_len: info.hash_key_size },
            folder: None,
        })
    }

    /// Starts the port, or starts it again after [`EthPort::stop`]; its queues then run.
    ///
    /// # Errors
    /// [`PortError::Call`] when the device does not start.
    pub fn start(&mut self) -> Result<(), PortError> {
        let mut running = self.shared.lock();
        if *running || self.closed || self.away {
            return Ok(());
        }
        // SAFETY: the port is configured and stopped.
        let r = unsafe { sys::rte_eth_dev_start(self.shared.id) };
        if r != 0 {
            self.shared.failed_starts.fetch_add(1, Ordering::Relaxed);
        }
        call(self.name(), "rte_eth_dev_start", r, "look at the driver's log line above")?;
        *running = true;
        for g in &self.shared.gates {
            g.on(GateEvent::Resume);
        }
        drop(running);
        self.refresh_link();
        Ok(())
    }

    /// Stops the port: waits up to `limit` until every lcore has yielded, then makes the driver let go of every
    /// buffer. An lcore yields at its next burst; a queue of the calling thread must be parked first.
    ///
    /// # Errors
    /// [`PortError::Polled`] when an lcore does not yield; the port then runs on.
    pub fn stop(&mut self, limit: Duration) -> Result<(), PortError> {
        let mut running = self.shared.lock();
        if !*running {
            return Ok(());
        }
        for g in &self.shared.gates {
            g.on(GateEvent::Ask);
        }
        let end = Instant::now() + limit;
        while let Some(queue) = self.shared.gates.iter().position(|g| !g.quiet()) {
            if Instant::now() >= end {
                for g in &self.shared.gates {
                    g.on(GateEvent::Resume);
                }
                return Err(PortError::Polled { port: self.name().into(), queue, waited: limit });
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        // SAFETY: no lcore touches the port: all gates are quiet and stay so while `running` is held or false.
        let r = unsafe { sys::rte_eth_dev_stop(self.shared.id) };
        *running = false;
        self.shared.link.store(false, Ordering::Release);
        call(self.name(), "rte_eth_dev_stop", r, "close the port; what the driver holds is quarantined then")
    }

    /// Stops and starts the port, so that a driver that holds on to sent buffers lets them go.
    ///
    /// # Errors
    /// As [`EthPort::stop`] and [`EthPort::start`]; [`EthPort::is_running`] tells whether the port has to be started again.
    pub fn restart(&mut self, limit: Duration) -> Result<(), PortError> {
        let stopped = self.stop(limit);
        if matches!(stopped, Err(PortError::Polled { .. })) {
            return stopped;
        }
        self.shared.restarts.fetch_add(1, Ordering::Relaxed);
        // A driver that stopped with an error has stopped.
        self.start()?;
        stopped
    }

    /// Whether the port is started.
    pub fn is_running(&self) -> bool {
        *self.shared.lock()
    }

    /// Stops and closes the port, and says what is still out. A virtual device made by `open` is removed.
    ///
    /// # Errors
    /// [`PortError::Polled`]: nothing was closed then.
    pub fn close(&mut self, limit: Duration) -> Result<Closed, PortError> {
        if !self.closed {
            if let Err(e @ PortError::Polled { .. }) = self.stop(limit) {
                return Err(e);
            }
            self.closed = true;
            if !self.away {
                self.release();
            }
        }
        let sum = |f: fn(&QueuePools) -> u32| self.pools.iter().map(f).sum();
        Ok(Closed {
            attachments_out: sum(|p| p.bare.in_use()),
            heads_out: sum(|p| p.heads.in_use()),
            rx_out: sum(|p| p.rx.in_use()),
        })
    }

    /// Leaves the device to another value.
    pub(super) fn forget(&mut self) {
        self.closed = true;
    }

    /// Closes the device, which lets go of every buffer, and removes it if it was made for this port.
    pub(super) fn release(&mut self) {
        // SAFETY: the port is stopped and no lcore touches it: its gates do not run.
        unsafe { sys::rte_eth_dev_close(self.shared.id) };
        if let Some(n) = self.made.take() {
            remove_vdev(&n);
        }
    }

    /// Queue pair `q`, to be handed to the lcore that polls it; each can be taken once.
    pub fn take_queue(&mut self, q: u16) -> Option<QueueSeed> {
        let i = usize::from(q);
        let p = self.pools.get(i)?;
        if std::mem::replace(&mut self.taken[i], true) {
            return None;
        }
        Some(QueueSeed {
            shared: self.shared.clone(),
            queue: q,
            rx: p.rx.clone(),
            heads: p.heads.clone(),
            bare: p.bare.clone(),
            rx_desc: self.rx_desc,
            steering: self.spread.steering(q, self.queues()),
        })
    }

    /// Asks the driver for the link state and tells the queues; a port that does not run has none. Called by the control thread
    /// now and then: some drivers make a system call.
    pub fn refresh_link(&self) -> LinkState {
        let mut mbps = 0;
        // SAFETY: a place for the answer; a closed port answers with an error.
        let up = !self.away && unsafe { sys::shim_eth_link(self.shared.id, &mut mbps) } == 1;
        // One that was moved to another network namespace is out of the driver's sight, not down.
        let up = up || self.tap.as_deref().is_some_and(ifname::is_elsewhere);
        let up = up && !self.closed && self.is_running();
        self.shared.link.store(up, Ordering::Release);
        LinkState { up, mbps }
    }

    /// Waits until the link is up; false when it is not within `limit`.
    pub fn wait_link(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while !self.refresh_link().up {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Name, as DPDK knows it.
    pub fn name(&self) -> &str {
        &self.shared.caps.name
    }

    /// DPDK's number of the port.
    pub fn id(&self) -> u16 {
        self.shared.id
    }

    /// Driver name, such as `net_virtio_user`.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// NUMA node, or -1 when it has none.
    pub fn node(&self) -> i32 {
        self.node
    }

    /// Warning for the user when `lcore` is far from the device; `None` when it is near, or either has no node.
    pub fn numa_warning(&self, lcore: &Lcore) -> Option<String> {
        numa_mismatch(self.name(), self.node, lcore)
    }

    /// The features that were negotiated.
    pub fn caps(&self) -> &PortCaps {
        &self.shared.caps
    }

    /// Queue pairs: as many as were asked for, or fewer ([`PortConfig::fewer`]).
    pub fn queues(&self) -> u16 {
        self.pools.len() as u16
    }

    /// Number of queues and the way of packets to them, or the reason for one alone.
    pub fn describe_queues(&self) -> String {
        self.spread.describe(self.queues())
    }

    /// Notes for the user: a driver whose DMA outlives the process, for one.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Troubles of queues since the last call that a user should hear of, each with its remedy. Empty as a rule.
    pub fn troubles(&self) -> Vec<String> {
        self.shared.trouble.tell(self.name(), &self.driver)
    }

    /// Memory for what is received, of all queues: buffers, and their bytes.
    pub fn rx_memory(&self) -> (u32, u64) {
        let one = |p: &QueuePools| (p.rx.count(), u64::from(p.rx.count()) * u64::from(p.rx.truesize()));
        self.pools.iter().map(one).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    }

    /// Mbufs in use by queue: (receive, heads, attachments). Not for the poll loop.
    pub fn in_use(&self, q: u16) -> Option<(u32, u32, u32)> {
        let p = self.pools.get(usize::from(q))?;
        Some((p.rx.in_use(), p.heads.in_use(), p.bare.in_use()))
    }
}

fn numa_mismatch(port: &str, node: i32, lcore: &Lcore) -> Option<String> {
    let far = lcore.node.filter(|n| node >= 0 && i64::from(*n) != i64::from(node))?;
    Some(format!(
        "port {port} is on NUMA node {node} and its lcore on CPU {} on node {far}: every packet crosses between them; \
         choose cores of node {node} in cpu_pattern",
        lcore.cpu
    ))
}

impl Drop for EthPort {
    fn drop(&mut self) {
        if self.close(Duration::from_secs(1)).is_err() {
            // An lcore polls on, so the port runs on: its hold keeps the EAL from being stopped under it.
            std::mem::forget(self.shared.clone());
        }
    }
}

impl std::fmt::Debug for EthPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EthPort({} {} {:?})", self.shared.id, self.driver, self.shared.choice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lcore_far_from_its_port_is_warned_of() {
        let lcore = |node| Lcore { index: 0, cpu: 5, cpt: 0, node };
        for (port, lcore_node) in [(-1, Some(1)), (1, Some(1)), (0, None)] {
            assert_eq!(numa_mismatch("p", port, &lcore(lcore_node)), None);
        }
        let w = numa_mismatch("p", 0, &lcore(Some(1))).unwrap();
        assert!(w.contains("CPU 5 on node 1") && w.contains("cpu_pattern"), "{w}");
    }
}
