//! A stack, the other end of its wire, and a clock that only the script moves.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;
use dataplane::mem::{MemConfig, MemPort, MemRx, pair};
use dataplane::pkt::{Csum, Port, RxPkt, TxCsum, TxMeta, TxPkt};
use hugepages::{HeapRxBuf, LendSlab};
use tcpstack::{Congestion, Event, KeepAlive, Stack, StackConfig, Work};

use super::lang::Script;
use super::packet::{Body, Ip, Tweak};
use super::parse;

pub(crate) const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Time at which every script begins, in ns.
pub(crate) const START: u64 = 1_000_000_000;
/// Turns at one moment after which the stack is said to spin.
const TURNS: u32 = 10_000;

/// What a script runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    /// The same with a link MTU 20 bytes larger, so that segments are as long.
    V6,
}

impl Family {
    /// Our address (1), the peer's (2), and others of the network.
    pub(crate) fn host(self, n: u8) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::new(10, 0, 0, n).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)).into(),
        }
    }

    /// An address of a script: those of 10.0.0.0/24 stand for the same hosts of either family.
    pub(crate) fn address(self, a: IpAddr) -> IpAddr {
        match a {
            IpAddr::V4(v4) if v4.octets()[..3] == [10, 0, 0] => self.host(v4.octets()[3]),
            other => other,
        }
    }

    /// Header bytes beyond those of IPv4.
    pub(crate) fn extra(self) -> u16 {
        if self == Family::V4 { 0 } else { 20 }
    }
}

/// What a script's first lines set.
pub(crate) struct Setup {
    /// The only family that it is for, if it says so.
    pub(crate) only: Option<Family>,
    pub(crate) family: Family,
    pub(crate) cfg: StackConfig,
    pub(crate) mem: MemConfig,
    /// ARP and ND are answered by themselves.
    pub(crate) arp: bool,
    /// How far a segment may be from the moment that a line names, in ns.
    pub(crate) tolerance: u64,
    /// The peer's first number, instead of those that the runner tries.
    pub(crate) isn: Option<u32>,
}

impl Setup {
    pub(crate) fn of(s: &Script, family: Family) -> Result<Setup, String> {
        let prefix = if family == Family::V4 { 24 } else { 64 };
        // A window's rings are mapped for each run; a megabyte is enough for all scripts.
        let cfg = StackConfig {
            secret: Some([77, 0xfeed]),
            tx_window: 1 << 20,
            ..StackConfig::new(family.host(1), prefix)
        };
        let mtu = 1500 + family.extra();
        let mem = MemConfig { mtu, tso_max: 0, csum: false, rx_bufs: 1024, ..MemConfig::default() };
        let mut x = Setup { only: None, family, cfg, mem, arp: true, tolerance: 2_000_000, isn: None };
        for (no, name, values) in &s.sets {
            let v: Vec<&str> = values.iter().map(String::as_str).collect();
            x.set(name, &v).map_err(|e| format!("{}:{no}: set {name}: {e}", s.file))?;
        }
        Ok(x)
    }

    fn set(&mut self, name: &str, values: &[&str]) -> Result<(), String> {
        let v = *values.first().ok_or("a value is missing")?;
        let n = || parse::number(v);
        let t = || parse::duration(v);
        let size = || n().and_then(|n| usize::try_from(n).map_err(|e| e.to_string()));
        let onoff = || match v {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(format!("on or off, not {v}")),
        };
        let (c, m) = (&mut self.cfg, &mut self.mem);
        match name {
            "mtu" => m.mtu = n()? as u16 + self.family.extra(),
            "tso" => {
                let on = onoff()?;
                (m.tso_max, m.csum) = if on { (65_535, true) } else { (0, false) };
            }
            "rx_buf" => m.rx_buf = size()?,
            "rx_bufs" => m.rx_bufs = size()?,
            "tx_bufs" => m.tx_bufs = size()?,
            "port_depth" => m.depth = size()?,
            "rx_window" => c.rx_window = n()? as u32,
            "tx_window" => c.tx_window = n()? as u32,
            "backlog" => c.backlog = n()? as u64,
            "ooo_max" => c.ooo_max = n()? as u64,
            "ready_max" => c.ready_max = size()?,
            "copy_below" => c.copy_below = n()? as u32,
            "tx_depth" => c.tx_depth = size()?,
            "rto_initial" => c.rto.initial = t()?,
            "rto_min" => c.rto.min = t()?,
            "rto_max" => c.rto.max = t()?,
            "syn_retries" => c.syn_retries = n()? as u8,
            "synack_retries" => c.synack_retries = n()? as u8,
            "syn_cookies" => c.syn_cookies = onoff()?,
            "min_pmtu" => c.min_pmtu = n()? as u16,
            "congestion" => {
                c.congestion = match v {
                    "cubic" => Congestion::Cubic,
                    "reno" => Congestion::Reno,
                    _ => return Err("cubic or reno".into()),
                };
            }
            "tlp_ack_delay" => c.tlp_ack_delay = t()?,
            "timestamps" => c.timestamps = onoff()?,
            "sack" => c.sack = onoff()?,
            "challenge_acks" => c.challenge_acks = n()? as u32,
            "resets" => c.resets = n()? as u32,
            "user_timeout" => c.user_timeout = t()?,
            "fin_timeout" => c.fin_timeout = t()?,
            "time_wait" => c.time_wait = t()?,
            "time_wait_max" => c.time_wait_max = size()?,
            "max_flows" => c.max_flows = n()? as u32,
            "keepalive" if v == "off" => c.keepalive = None,
            "keepalive" => {
                let [idle, interval, count] = values else {
                    return Err("IDLE INTERVAL COUNT, or off".into());
                };
                let (idle, interval) = (parse::duration(idle)?, parse::duration(interval)?);
                c.keepalive = Some(KeepAlive { idle, interval, count: parse::number(count)? as u8 });
            }
            "gateway" => c.gateways.push(parse::address(v)?),
            "family" => {
                self.only = Some(match v {
                    "v4" => Family::V4,
                    "v6" => Family::V6,
                    _ => return Err("v4 or v6".into()),
                });
            }
            "arp" => self.arp = onoff()?,
            "tolerance" => self.tolerance = t()?,
            "isn" => self.isn = Some(n()? as u32),
            _ => return Err("there is no such setting".into()),
        }
        Ok(())
    }
}

/// What the stack did.
pub(crate) enum Did {
    Packet(Ip),
    /// Asked for the link address of somebody.
    Solicit(IpAddr),
    Event(Event),
}

pub(crate) struct World {
    pub(crate) s: Stack<MemPort>,
    pub(crate) now: u64,
    /// What happened and was not looked at yet.
    pub(crate) did: VecDeque<(u64, Did)>,
    pub(crate) arp: bool,
    family: Family,
    wire: MemPort,
    taken: Vec<HeapRxBuf>,
}

impl World {
    pub(crate) fn new(x: &Setup) -> Result<World, String> {
        let (port, wire) = pair(&x.mem);
        let s = Stack::new(x.cfg.clone(), port, LendSlab::new(1024)).map_err(|e| e.to_string())?;
        let (arp, family) = (x.arp, x.family);
        let mut w = World { s, now: START, did: VecDeque::new(), arp, family, wire, taken: vec![] };
        w.settle()?;
        w.did.clear();
        Ok(w)
    }

    /// Turns the stack until it has nothing to do at this moment.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        for _ in 0..TURNS {
            let work = self.s.turn(self.now);
            let answered = self.collect()?;
            if work == Work::Idle && !answered {
                return Ok(());
            }
        }
        Err(format!("the stack spins: {TURNS} turns at one moment, and it is still busy"))
    }

    /// Goes to the next moment at which the stack has something to do, not beyond `end`. Returns whether there is
    /// one.
    pub(crate) fn step(&mut self, end: u64) -> Result<bool, String> {
        let next = self.s.deadline().map_or(u64::MAX, |t| t.max(self.now + 1));
        let there = next <= end;
        self.now = next.min(end).max(self.now);
        self.settle()?;
        Ok(there)
    }

    /// Takes in frames and events; answers neighbour requests. Returns whether it answered.
    fn collect(&mut self) -> Result<bool, String> {
        let mut answered = false;
        loop {
            let mut v: ArrayVec<MemRx, 32> = ArrayVec::new();
            self.wire.rx_burst(&mut v);
            if v.is_empty() {
                break;
            }
            for p in v {
                let mut b = vec![];
                p.for_each(&mut |x| b.extend_from_slice(x));
                let partial = (p.meta().csum == Csum::Partial).then_some(p.meta().lro_segsz);
                answered |= self.frame(&b, partial)?;
            }
        }
        while let Some(e) = self.s.event() {
            self.did.push_back((self.now, Did::Event(e)));
        }
        Ok(answered)
    }

    fn frame(&mut self, b: &[u8], partial: Option<u16>) -> Result<bool, String> {
        let (Some(dst), Some(src), Some(kind), Some(rest)) =
            (b.get(..6), b.get(6..12), b.get(12..14), b.get(14..))
        else {
            return Err(format!("the stack sent a frame of {} bytes", b.len()));
        };
        if src != OUR_MAC {
            return Err(format!("the stack sent a frame from {src:02x?}"));
        }
        match kind {
            [0x08, 0x06] => Ok(self.on_arp(rest)),
            [0x08, 0x00] | [0x86, 0xdd] => {
                let ip = Ip::read(rest, partial).map_err(|e| format!("the stack sent a bad packet: {e}"))?;
                if let Some(asked) = self.discovery(&ip) {
                    return Ok(asked);
                }
                if dst != PEER_MAC {
                    return Err(format!("the stack sent a packet to station {dst:02x?}"));
                }
                self.did.push_back((self.now, Did::Packet(ip)));
                Ok(false)
            }
            other => Err(format!("the stack sent a frame of type {other:02x?}")),
        }
    }

    fn on_arp(&mut self, p: &[u8]) -> bool {
        let Some(p) = p.get(..28).filter(|p| p[7] == 1 && p[14..18] != p[24..28]) else { return false };
        let target = Ipv4Addr::new(p[24], p[25], p[26], p[27]);
        self.asked(target.into())
    }

    /// Somebody's link address was asked for. Returns whether it was answered.
    fn asked(&mut self, target: IpAddr) -> bool {
        if self.arp {
            self.neighbour(true, target);
            return true;
        }
        self.did.push_back((self.now, Did::Solicit(target)));
        false
    }

    /// Takes neighbour discovery and group reports out of the stream. `Some(true)` when there was an answer.
    fn discovery(&mut self, ip: &Ip) -> Option<bool> {
        match &ip.body {
            // A report of groups, behind a hop-by-hop header.
            Body::Other(0) => Some(false),
            Body::Icmp(135, 0, rest) if ip.dst.is_ipv6() => {
                let target: [u8; 16] = rest.get(4..20)?.try_into().ok()?;
                let target = IpAddr::from(target);
                // Not whether somebody else has our address.
                let own = ip.src == IpAddr::from(Ipv6Addr::UNSPECIFIED);
                Some(!own && self.asked(target))
            }
            Body::Icmp(133 | 136, 0, _) if ip.dst.is_ipv6() => Some(false),
            _ => None,
        }
    }

    /// The peer's answer for its address `a`, or its question for ours.
    pub(crate) fn neighbour(&mut self, reply: bool, a: IpAddr) {
        let us = self.family.host(1);
        match (a, us) {
            (IpAddr::V4(a), _) => self.arp_packet(if reply { 2 } else { 1 }, a),
            (IpAddr::V6(v6), IpAddr::V6(ours)) => {
                let (kind, flags, target, option) =
                    if reply { (136, 0x60, v6, 2) } else { (135, 0, ours, 1) };
                let mut rest = vec![flags, 0, 0, 0];
                rest.extend_from_slice(&target.octets());
                rest.extend_from_slice(&[option, 1]);
                rest.extend_from_slice(&PEER_MAC);
                let ip = Ip::icmp(a, us, (kind, 0), rest);
                let b = [&OUR_MAC[..], &PEER_MAC, &[0x86, 0xdd], &ip.bytes(&[])].concat();
                self.put(&b);
            }
            _ => (),
        }
    }

    /// The peer's ARP request (1) for our address, or its reply (2); `spa` is its address.
    fn arp_packet(&mut self, op: u8, spa: Ipv4Addr) {
        let mut b = [&[0xff; 6][..], &PEER_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, op], &PEER_MAC].concat();
        b.extend_from_slice(&spa.octets());
        b.extend_from_slice(&if op == 1 { [0; 6] } else { OUR_MAC });
        b.extend_from_slice(&[10, 0, 0, 1]);
        self.put(&b);
    }

    /// Puts a packet on the wire; the stack has not seen it yet.
    pub(crate) fn inject(&mut self, ip: &Ip, tweaks: &[Tweak]) -> Result<(), String> {
        let dst = if tweaks.contains(&Tweak::Broadcast) { [0xff; 6] } else { OUR_MAC };
        let kind = if ip.src.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
        let b = [&dst[..], &PEER_MAC, &kind, &ip.bytes(tweaks)].concat();
        self.put(&b);
        let lost = self.wire.counters().tx_dropped + self.s.port().counters().rx_nombuf;
        if lost > 0 {
            Err("the wire does not carry this packet: is it larger than the MTU?".into())
        } else {
            Ok(())
        }
    }

    fn put(&mut self, frame: &[u8]) {
        let Some(mut t) = self.wire.tx_alloc() else { return };
        if t.copy_in(&frame[..frame.len().min(128)]).is_err() {
            return;
        }
        // What does not fit the first buffer is attached, as any sender would.
        if frame.len() > 128 {
            let mut run =
                hugepages::PageRunMut::new(std::sync::Arc::new(hugepages::PrivatePages), frame.len() - 128)
                    .expect("memory for a frame");
            run.bytes_mut()[..frame.len() - 128].copy_from_slice(&frame[128..]);
            let slab = LendSlab::new(1);
            let all = run.freeze().slice(0, (frame.len() - 128) as u32).expect("within the run");
            let lent = slab.lend(all, 0).expect("room in the slab");
            t.attach(&lent).expect("room in the packet");
        }
        let t = t.finish(TxMeta { csum: TxCsum::Done, ..TxMeta::default() });
        self.wire.tx_burst(&mut VecDeque::from([t]));
    }

    /// Takes `n` receive buffers out of the port's pool, or gives back all that were taken.
    pub(crate) fn buffers(&mut self, n: usize) -> Result<(), String> {
        if n == 0 {
            self.taken.clear();
        }
        for k in 0..n {
            let b = self.s.port().pool().take();
            self.taken.push(b.ok_or_else(|| format!("the pool has only {k} buffers left"))?);
        }
        Ok(())
    }

    pub(crate) fn link(&mut self, up: bool) {
        self.s.port_mut().set_link(up);
    }

    /// Packets, but no events: what a connection has to say at its end.
    pub(crate) fn body(ip: &Ip) -> Option<&super::packet::Tcp> {
        if let Body::Tcp(t) = &ip.body { Some(t) } else { None }
    }
}
