//! A device: found, configured, started, stopped, closed. All on the control thread.

use std::ffi::CString;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use dpdk_sys as sys;

use super::eal::{Eal, Hold, HoldKind};
use super::gate::{GateCell, GateEvent};
use super::mempool::{Mempool, PoolError};
use super::offload::{Choice, Offer, negotiate};
use super::port_config::{Closed, LinkState, PortConfig, PortError};
use super::probe::{call, find, guard, remove_vdev};
use super::queue::QueueSeed;
use super::spec::PortSpec;
use super::spread::{self, Spread, Table};
use crate::lcore::Lcore;
use crate::pkt::{PortCaps, TX_HEAD_ROOM};
use crate::steer::Steering;

/// What the control thread and the lcores share.
pub(crate) struct PortShared {
    pub id: u16,
    pub caps: PortCaps,
    pub choice: Choice,
    pub gates: Vec<GateCell>,
    pub link: AtomicBool,
    /// Whether the port is started; held while gates change on behalf of the port.
    running: Mutex<bool>,
    _hold: Hold,
}

impl PortShared {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// An lcore has taken queue `q`: it runs as soon as the port does.
    pub(crate) fn built(&self, q: usize) {
        let running = self.lock();
        self.gates[q].on(GateEvent::Built);
        if *running {
            self.gates[q].on(GateEvent::Resume);
        }
    }
}

/// The pools of one queue.
pub(crate) struct QueuePools {
    pub rx: Arc<Mempool>,
    pub heads: Arc<Mempool>,
    pub bare: Arc<Mempool>,
}

/// An ethdev port of the EAL.
pub struct EthPort {
    shared: Arc<PortShared>,
    pools: Vec<QueuePools>,
    taken: Vec<bool>,
    rx_desc: u16,
    /// Virtual device that was made for this port and goes with it.
    made: Option<CString>,
    driver: String,
    node: i32,
    warnings: Vec<String>,
    closed: bool,
    restarts: u64,
    spread: Spread,
    table: Table,
}

impl EthPort {
    /// Whether [`EthPort::open`] may take this port: asked before the EAL starts, since some drivers take hold of
    /// a device when the EAL finds it.
    ///
    /// # Errors
    /// [`PortError::DefaultRoute`].
    pub fn check(spec: &PortSpec, config: &PortConfig) -> Result<(), PortError> {
        guard(Path::new("/"), spec, config).map(drop)
    }

    /// Opens the port, configures queues, offloads and pools, and starts it.
    ///
    /// # Errors
    /// [`PortError`] names the port, what failed and the remedy; nothing stays half open but the device itself.
    pub fn open(eal: &Eal, spec: &PortSpec, config: &PortConfig) -> Result<EthPort, PortError> {
        let hold = eal.hold(HoldKind::Ports).ok_or(PortError::Stopped)?;
        let warnings = guard(Path::new("/"), spec, config)?;
        let (id, made) = find(spec)?;
        let opened = Self::configure(eal, spec.port_name(), id, config, hold).map(|mut p| {
            p.made.clone_from(&made);
            p.warnings = warnings;
            p
        });
        match opened {
            Ok(mut p) => {
                p.start()?;
                let why = match p.learn_spread() {
                    Ok(()) => return Ok(p),
                    Err(why) => why,
                };
                if !config.fewer {
                    return Err(p.queues_refused(why));
                }
                p.begin_again(eal, config, why)
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
    fn learn_spread(&mut self) -> Result<(), String> {
        if let Spread::One(Some(_)) = self.spread {
            return Ok(());
        }
        self.spread = spread::learn(self.shared.id, self.queues(), &self.shared.choice, self.table)?;
        Ok(())
    }

    fn queues_refused(&self, why: String) -> PortError {
        PortError::Queues { port: self.name().into(), queues: self.queues(), why }
    }

    /// The same device with one queue, since `why` stands against several.
    fn begin_again(mut self, eal: &Eal, config: &PortConfig, why: String) -> Result<EthPort, PortError> {
        self.stop(Duration::from_secs(1))?;
        let hold = eal.hold(HoldKind::Ports).ok_or(PortError::Stopped)?;
        let config = PortConfig { queues: 1, fewer: false, ..config.clone() };
        let mut p = Self::configure(eal, self.name(), self.shared.id, &config, hold)?;
        // The device is the new one's from here on; the pools of the queues that it no longer has go.
        self.closed = true;
        (p.made, p.warnings) = (self.made.take(), std::mem::take(&mut self.warnings));
        drop(self);
        p.start()?;
        p.spread = Spread::One(Some(why));
        Ok(p)
    }

    fn configure(
        eal: &Eal,
        name: &str,
        id: u16,
        config: &PortConfig,
        hold: Hold,
    ) -> Result<EthPort, PortError> {
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
            rss: info.flow_type_rss_offloads,
            queues: config.queues,
            silent_tso: config.silent_tso,
        };
        let mut choice = negotiate(&offer);
        if let Some(why) = spread::refusal(&offer, &choice, info.reta_size) {
            if !config.fewer {
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
        let remedy = "the driver refuses this set of queues, MTU and offloads: look at its log line above";
        // SAFETY: a configuration of plain data that the call copies.
        let r = unsafe { sys::rte_eth_dev_configure(id, config.queues, config.queues, &conf) };
        call(name, "rte_eth_dev_configure", r, remedy)?;
        let (mut rx_desc, mut tx_desc) = (config.rx_desc, config.tx_desc);
        // SAFETY: adjusts the two numbers to what the driver can do.
        let r = unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &mut rx_desc, &mut tx_desc) };
        call(name, "rte_eth_dev_adjust_nb_rx_tx_desc", r, remedy)?;
        // SAFETY: `id` is a port that exists.
        let node = unsafe { sys::rte_eth_dev_socket_id(id) };
        let pools = (0..config.queues)
            .map(|_| queue_pools(eal, &config, (rx_desc, tx_desc), choice.rx_room, node))
            .collect::<Result<Vec<_>, _>>()?;
        for (q, p) in (0..config.queues).zip(&pools) {
            let mut rxc = info.default_rxconf;
            rxc.offloads = choice.rx;
            let mut txc = info.default_txconf;
            txc.offloads = choice.tx;
            if choice.lazy_free && tx_desc > 8 {
                // As near the ring size as virtio allows: the next burst then frees all but a few.
                txc.tx_free_thresh = tx_desc - 4;
            }
            let at = node as u32;
            // SAFETY: configurations and pool live through the calls; the pool lives until the port is closed.
            let r = unsafe { sys::rte_eth_rx_queue_setup(id, q, rx_desc, at, &rxc, p.rx.raw()) };
            call(name, "rte_eth_rx_queue_setup", r, remedy)?;
            // SAFETY: as above.
            let r = unsafe { sys::rte_eth_tx_queue_setup(id, q, tx_desc, at, &txc) };
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
            // Whoever may send super-segments to a vhost port does.
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
            gates: (0..queues).map(|_| GateCell::default()).collect(),
            link: AtomicBool::new(false),
            running: Mutex::new(false),
            _hold: hold,
        });
        let (made, warnings) = (None, Vec::new());
        let taken = vec![false; queues];
        Ok(EthPort {
            shared,
            pools,
            taken,
            rx_desc,
            made,
            driver,
            node,
            warnings,
            closed: false,
            restarts: 0,
            spread: Spread::One(alone),
            table: Table { reta: info.reta_size, key_len: info.hash_key_size },
        })
    }

    /// Starts the port, or starts it again after [`EthPort::stop`]; its queues then run.
    ///
    /// # Errors
    /// [`PortError::Call`] when the device does not start.
    pub fn start(&mut self) -> Result<(), PortError> {
        let mut running = self.shared.lock();
        if *running || self.closed {
            return Ok(());
        }
        // SAFETY: the port is configured and stopped.
        let r = unsafe { sys::rte_eth_dev_start(self.shared.id) };
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
    /// As [`EthPort::stop`] and [`EthPort::start`].
    pub fn restart(&mut self, limit: Duration) -> Result<(), PortError> {
        self.stop(limit)?;
        self.restarts += 1;
        self.start()
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
            // SAFETY: the port is stopped and no lcore touches it: its gates never run again.
            unsafe { sys::rte_eth_dev_close(self.shared.id) };
            if let Some(n) = self.made.take() {
                remove_vdev(&n);
            }
        }
        let sum = |f: fn(&QueuePools) -> u32| self.pools.iter().map(f).sum();
        Ok(Closed {
            attachments_out: sum(|p| p.bare.in_use()),
            heads_out: sum(|p| p.heads.in_use()),
            rx_out: sum(|p| p.rx.in_use()),
        })
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

    /// Asks the driver for the link state and tells the queues. Called by the control thread now and then: some
    /// drivers make a system call.
    pub fn refresh_link(&self) -> LinkState {
        let mut mbps = 0;
        // SAFETY: a place for the answer; a closed port answers with an error.
        let up = unsafe { sys::shim_eth_link(self.shared.id, &mut mbps) } == 1;
        self.shared.link.store(up && !self.closed, Ordering::Release);
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

    /// What to tell the user when `lcore` is far from the device; `None` when it is near, or either has no node.
    pub fn numa_warning(&self, lcore: &Lcore) -> Option<String> {
        numa_mismatch(self.name(), self.node, lcore)
    }

    /// What was negotiated.
    pub fn caps(&self) -> &PortCaps {
        &self.shared.caps
    }

    /// Queue pairs: as many as were asked for, or fewer ([`PortConfig::fewer`]).
    pub fn queues(&self) -> u16 {
        self.pools.len() as u16
    }

    /// How many queues there are and how packets come to them, or why there is only one.
    pub fn describe_queues(&self) -> String {
        self.spread.describe(self.queues())
    }

    /// What the user should know: a driver whose DMA outlives the process, for one.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// How often [`EthPort::restart`] was needed.
    pub fn restarts(&self) -> u64 {
        self.restarts
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

fn queue_pools(
    eal: &Eal,
    c: &PortConfig,
    rings: (u16, u16),
    rx_room: u16,
    node: i32,
) -> Result<QueuePools, PoolError> {
    let pool = |what, count: u32, ring: u16, room| {
        // The ring, two caches (the main lcore fills the receive ring, its own lcore refills it), two bursts.
        let need = u32::from(ring) + 2 * 384 + 64;
        if count < need {
            let why = "one ring, the caches of two lcores and two bursts";
            return Err(PoolError::TooSmall { what, count, need, why });
        }
        Mempool::new(eal, what, count, room, node).map(Arc::new)
    };
    Ok(QueuePools {
        rx: pool("receive buffers", c.rx_bufs, rings.0, rx_room)?,
        heads: pool("packet heads", c.tx_heads, rings.1, TX_HEAD_ROOM as u16)?,
        bare: pool("attachments", c.tx_bare, rings.1, 0)?,
    })
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
