//! Datagrams through the stack: to open ports, from them, and errors about them.

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;
use dataplane::pkt::{Csum, Port};
use hugepages::Lent;
use smallvec::SmallVec;

use super::Stack;
use crate::addr::Addr;
use crate::config::ListenError;
use crate::csum::{Sum, pseudo};
use crate::icmp_error::{Cause, Lost};
use crate::io::{gather, small_ip, sum_from};
use crate::nd::ICMP6;
use crate::neighbour::Lookup;
use crate::pmtu::{FLOOR6, plateau};
use crate::table::Key;
use crate::udp::{self, Datagram, Outgoing, UDP, Undelivered};
use crate::wire::{self, Drop, ETH_IPV4, ETH_IPV6, Eth, HDR, HDR6, Ip};

/// Of a packet that nobody takes, so many bytes are sent back at most: its headers, and the first of what follows.
const QUOTED: usize = HDR6 + 64;

/// Headers of IP and UDP, in bytes.
fn headers(v6: bool) -> usize {
    (if v6 { HDR6 } else { HDR }) + udp::HEADER
}

impl<P: Port> Stack<P> {
    /// Takes datagrams to an address and port of ours.
    ///
    /// # Errors
    /// [`ListenError`]
    pub fn open_datagrams(&mut self, addr: IpAddr, port: u16) -> Result<(), ListenError> {
        let own = Addr::from(addr);
        if !self.host.owns(&own) {
            return Err(ListenError::NotOurs(addr));
        }
        if port != 0 && self.datagrams.open(own, port) { Ok(()) } else { Err(ListenError::Port(port)) }
    }

    /// Takes none there any more.
    pub fn close_datagrams(&mut self, addr: IpAddr, port: u16) {
        self.datagrams.close(&Addr::from(addr), port);
    }

    /// Sends a datagram of header bytes (copied, at most [`HDR_MAX`](crate::HDR_MAX)) and payload (by reference) from an open port. It leaves at
    /// [`Stack::flush`], or is told of ([`Stack::undelivered`]); the pages are free when it has left or is lost.
    pub fn send_datagram(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        hdr: &[u8],
        pay: SmallVec<[Lent; 2]>,
    ) {
        let (own, peer) = (Addr::from(local.ip()), Addr::from(remote.ip()));
        let key = Key::new(own, local.port(), peer, remote.port());
        let can = own.is_v6() == peer.is_v6() && peer.is_unicast() && !self.host.owns(&peer);
        match ArrayVec::try_from(hdr) {
            Ok(hdr) if can && self.datagrams.is_open(&own, local.port()) => {
                self.datagrams.out.push_back(Outgoing { key, hop: None, hdr, pay });
            }
            _ => self.datagrams.tell(&key, Undelivered::Local),
        }
    }

    /// The next datagram that has come.
    pub fn datagram(&mut self) -> Option<Datagram> {
        self.datagrams.next()
    }

    /// The next thing that is heard of datagrams on a path, ours first.
    pub fn undelivered(&mut self) -> Option<(SocketAddr, SocketAddr, Undelivered)> {
        self.datagrams.undelivered()
    }

    /// Sends what is to be sent, as far as the port's queue goes; how many went, or are lost.
    pub(super) fn serve_datagrams(&mut self) -> u32 {
        self.datagrams.look_again(self.link.neighbours().epoch());
        let mut n = 0;
        while !self.io.deep(&mut self.c)
            && let Some(mut o) = self.datagrams.out.pop_front()
        {
            let v6 = o.key.is_v6();
            let mtu =
                self.paths.get(&o.key.remote, self.now).map_or(self.io.mtu(), |p| p.0.min(self.io.mtu()));
            let most = usize::from(mtu).saturating_sub(headers(v6));
            if o.len() > most {
                n += 1;
                self.datagrams.tell(&o.key, Undelivered::TooBig(most as u32));
                continue;
            }
            let Some(hop) = o.hop.or_else(|| self.host.route(&o.key.remote, self.now)) else {
                n += 1;
                self.datagrams.tell(&o.key, Undelivered::Unreachable);
                continue;
            };
            o.hop = Some(hop);
            let Lookup::Known(mac) = self.link.lookup(&hop, self.now) else {
                self.c.udp_tx_lost += u64::from(self.datagrams.wait(o).is_some());
                continue;
            };
            match self.io.datagram(mac, &o, &mut self.c) {
                Some(sent) => {
                    n += 1;
                    self.datagrams.left(&o.key, self.now);
                    *if sent { &mut self.c.udp_tx } else { &mut self.c.udp_tx_lost } += 1;
                }
                None => {
                    // No buffer: later.
                    self.datagrams.out.push_front(o);
                    break;
                }
            }
        }
        n
    }

    /// Takes in a UDP packet to an address of ours.
    pub(super) fn on_udp(
        &mut self,
        p: P::Rx,
        (head, e): (&[u8], &Eth),
        ip: &Ip,
        csum: Csum,
    ) -> Result<(), Drop> {
        let off = e.len + ip.hlen;
        let h = udp::parse(head.get(off..).unwrap_or(&[]), ip.payload).ok_or(Drop::Malformed)?;
        let len = usize::from(h.len);
        if !h.summed && ip.src.is_v6() {
            return Err(Drop::Checksum);
        }
        if h.summed
            && csum == Csum::None
            && sum_from(&p, off, len, pseudo(&ip.src, &ip.dst, UDP, len)) != 0xffff
        {
            return Err(Drop::Checksum);
        }
        if !self.datagrams.is_open(&ip.dst, h.dst) {
            self.c.udp_no_port += 1;
            self.port_unreachable(&p, e, ip);
            return Ok(());
        }
        let payload = (len - udp::HEADER) as u32;
        self.take_payload(p, off + udp::HEADER, payload);
        let frags = self.frags.drain(..).filter(|f| !f.is_empty()).collect();
        let (local, remote) =
            (SocketAddr::new(ip.dst.to_ip(), h.dst), SocketAddr::new(ip.src.to_ip(), h.src));
        let taken = self.datagrams.arrived(Datagram { local, remote, len: payload, frags });
        *if taken { &mut self.c.udp_rx } else { &mut self.c.udp_rx_lost } += 1;
        Ok(())
    }

    /// Tells the sender of a packet that nobody takes it (RFC 1122 §4.1.3.1, RFC 4443 §3.1), at a bounded rate.
    fn port_unreachable(&mut self, p: &P::Rx, e: &Eth, ip: &Ip) {
        if !self.icmp.take(self.now) {
            self.c.icmp_limited += 1;
            return;
        }
        let v6 = ip.dst.is_v6();
        let (kind, l3, quoted) =
            if v6 { (ETH_IPV6, HDR6, QUOTED) } else { (ETH_IPV4, HDR, (ip.hlen + 8).min(QUOTED)) };
        let mut b = [0u8; 18 + HDR6 + 8 + QUOTED];
        let l2 = wire::write_eth(&mut b, self.io.mac(), e.src, self.io.soft_vlan(), kind);
        let at = l2 + l3;
        let n = (ip.hlen + ip.payload).min(quoted);
        let end = at + 8 + n;
        let Some(room) = b.get_mut(at + 8..end) else { return };
        gather(p, e.len, room);
        let Some(m) = b.get_mut(at..end) else { return };
        let (t, code, sum) = match v6 {
            true => (1, 4, pseudo(&ip.dst, &ip.src, ICMP6, 8 + n)),
            false => (3, 3, Sum::default()),
        };
        wire::put(m, 0, &[t, code]);
        let mut sum = sum;
        sum.add(m);
        wire::put(m, 2, &sum.finish().to_be_bytes());
        if v6 {
            let Some(h) = b.get_mut(l2..at) else { return };
            wire::write_ip6(h, &ip.dst, &ip.src, ICMP6, 64, 8 + n);
        } else {
            wire::put(&mut b, l2 + 12, ip.dst.octets());
            wire::put(&mut b, l2 + 16, ip.src.octets());
            let Some(frame) = b.get_mut(..end) else { return };
            small_ip(frame, l2, 1);
        }
        if let Some(frame) = b.get(..end) {
            self.io.raw(frame, &mut self.c);
        }
    }

    /// Judges an ICMP error about a datagram of ours: anybody can send one, so it counts only on a path that was used lately.
    pub(super) fn judge_datagram(&mut self, l: &Lost) {
        let heeded = self.errors.take(self.now)
            && self.datagrams.sent_lately(&l.key, self.now)
            && match l.cause {
                Cause::Refused => self.told(l, Undelivered::Refused),
                Cause::Prohibited => self.told(l, Undelivered::Unreachable),
                // The next one may arrive.
                Cause::Soft => false,
                Cause::TooBig(mtu) => self.datagram_too_big(l, mtu),
            };
        let c = &mut self.c;
        *if heeded { &mut c.icmp_errors } else { &mut c.icmp_errors_ignored } += 1;
    }

    fn told(&mut self, l: &Lost, what: Undelivered) -> bool {
        self.datagrams.tell(&l.key, what);
        true
    }

    fn datagram_too_big(&mut self, l: &Lost, mtu: u32) -> bool {
        let v6 = l.key.is_v6();
        let floor = if v6 { FLOOR6 } else { self.cfg.min_pmtu };
        let mtu = if mtu == 0 && !v6 { plateau(l.len).max(floor) } else { mtu.min(65_535) as u16 };
        if l.len > self.io.mtu() || mtu >= l.len || mtu < floor {
            self.c.pmtu_ignored += 1;
            return false;
        }
        self.paths.learn(&l.key.remote, mtu, self.now);
        self.told(l, Undelivered::TooBig(u32::from(mtu).saturating_sub(headers(v6) as u32)))
    }
}
