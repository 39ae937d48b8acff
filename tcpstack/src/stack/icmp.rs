//! ICMP to the stack, of both families: echo, neighbour discovery, and errors (RFC 5927, RFC 1122 §4.2.3.9, RFC 1191,
//! RFC 8201).
//!
//! Anybody can send an ICMP message. So an error counts only when the segment it quotes is out: of a connection that
//! exists, with a sequence number that has been sent and is not acknowledged. Even then none ends a connection that
//! is open: it is remembered as the reason, should the peer stay silent. A dial is ended by an error that says that nobody
//! is there or that it is forbidden.

use dataplane::pkt::{Port, RxPkt};

use super::Stack;
use crate::csum::{Sum, pseudo};
use crate::flow::{Flow, Heeded};
use crate::icmp::{self, ECHO4, ECHO6};
use crate::icmp_error::{self, LOOKED_AT, Quoted, Report};
use crate::io::{gather, small_ip, sum_from, upper_sum};
use crate::nd::{self, ICMP6};
use crate::pmtu::{FLOOR6, plateau};
use crate::table::Place;
use crate::wire::{self, Drop, ETH_IPV4, ETH_IPV6, Eth, HDR, HDR6, Ip};

/// Longest message looked at: what fits beside the headers in a packet's first buffer, in bytes.
const MESSAGE_MAX: usize = 1480;
/// Room for it and its headers.
const ROOM: usize = 18 + HDR6 + MESSAGE_MAX;

impl<P: Port> Stack<P> {
    pub(super) fn on_icmp(&mut self, p: &P::Rx, e: &Eth, ip: &Ip) -> Result<(), Drop> {
        let off = e.len + ip.hlen;
        match p.head().get(off) {
            Some(t) if *t == ECHO4.0 => self.echo(p, e, ip),
            // Unreachable, source quench, redirect, time exceeded, parameter problem.
            Some(3..=5 | 11 | 12) => {
                if sum_from(p, off, ip.payload, Sum::default()) != 0xffff {
                    return Err(Drop::Checksum);
                }
                let mut m = [0; LOOKED_AT];
                let n = gather(p, off, &mut m).min(ip.payload);
                self.judge_quoted(icmp_error::parse4(&m[..n]));
                Ok(())
            }
            Some(_) => Err(Drop::Protocol),
            None => Err(Drop::Malformed),
        }
    }

    pub(super) fn on_icmp6(&mut self, p: &P::Rx, e: &Eth, ip: &Ip) -> Result<(), Drop> {
        let off = e.len + ip.hlen;
        let Some(&kind) = p.head().get(off) else { return Err(Drop::Malformed) };
        if ip.dst.0[0] != 0xff && kind == ECHO6.0 {
            return self.echo(p, e, ip);
        }
        if upper_sum(p, off, ip) != 0xffff {
            return Err(Drop::Checksum);
        }
        if kind < 128 {
            let mut m = [0; LOOKED_AT];
            let n = gather(p, off, &mut m).min(ip.payload);
            self.judge_quoted(icmp_error::parse6(&m[..n]));
            return Ok(());
        }
        let mut b = [0u8; MESSAGE_MAX];
        let m = b.get_mut(..ip.payload).ok_or(Drop::Malformed)?;
        let n = gather(p, off, m);
        let said = m.get(..n).and_then(|m| nd::parse(m, &ip.src, &ip.dst, ip.ttl));
        let said = said.ok_or(Drop::Protocol)?;
        let (link, mut around) = self.link();
        link.on_nd(said, e, ip, &mut around);
        Ok(())
    }

    /// Answers an echo request (RFC 792, RFC 4443 §4.2), at a bounded rate.
    fn echo(&mut self, p: &P::Rx, e: &Eth, ip: &Ip) -> Result<(), Drop> {
        if ip.payload > MESSAGE_MAX || !self.icmp.take(self.now) {
            self.c.icmp_limited += 1;
            return Ok(());
        }
        let v6 = ip.dst.is_v6();
        let (kind, l3) = if v6 { (ETH_IPV6, HDR6) } else { (ETH_IPV4, HDR) };
        let mut b = [0u8; ROOM];
        let l2 = wire::write_eth(&mut b, self.io.mac(), e.src, self.io.soft_vlan(), kind);
        let at = l2 + l3;
        let end = at + ip.payload;
        gather(p, e.len + ip.hlen, &mut b[at..end]);
        let m = &mut b[at..end];
        let fine = if v6 {
            icmp::echo_reply(m, ECHO6, pseudo(&ip.dst, &ip.src, ICMP6, ip.payload))
        } else {
            icmp::echo_reply(m, ECHO4, Sum::default())
        };
        if !fine {
            return Err(Drop::Protocol);
        }
        if v6 {
            wire::write_ip6(&mut b[l2..at], &ip.dst, &ip.src, ICMP6, 64, ip.payload);
        } else {
            b[l2 + 12..l2 + 16].copy_from_slice(ip.dst.octets());
            b[l2 + 16..l2 + 20].copy_from_slice(ip.src.octets());
            small_ip(&mut b[..end], l2, 1);
        }
        self.c.icmp_echo += u64::from(self.io.raw(&b[..end], &mut self.c));
        Ok(())
    }

    fn judge_quoted(&mut self, q: Option<Quoted>) {
        match q {
            Some(Quoted::Datagram(l)) => self.judge_datagram(&l),
            Some(Quoted::Segment(r)) => self.judge(Some(r), true),
            None => self.judge(None, true),
        }
    }

    /// Judges an ICMP error with the right checksum, `None` for one that is not about a segment. `ask` says whether another
    /// stack of the node may know of the connection.
    pub(super) fn judge(&mut self, r: Option<Report>, ask: bool) {
        let heeded = r.is_some_and(|r| {
            let looked_into = self.errors.take(self.now);
            let here = matches!(self.flows.find(&r.key), Some(Place::Flow(_)));
            looked_into && if here { self.heed(&r) } else { ask && self.siblings.pass_error(&r, &mut self.c) }
        });
        let c = &mut self.c;
        *if heeded { &mut c.icmp_errors } else { &mut c.icmp_errors_ignored } += 1;
    }

    fn heed(&mut self, r: &Report) -> bool {
        let Some(Place::Flow(i)) = self.flows.find(&r.key) else { return false };
        match self.flows.at(i).map(|f| f.heed(r)) {
            None | Some(Heeded::No) => return false,
            Some(Heeded::Noted) => (),
            Some(Heeded::TooBig(mtu)) => return self.too_big(i, mtu, r.len),
            Some(Heeded::Ends(why)) => self.abort(i, why),
        }
        true
    }

    /// A packet of `len` bytes was too big. A size above what was sent, or below what any path has, is not believed.
    fn too_big(&mut self, i: u32, mtu: u32, len: u16) -> bool {
        let (now, floor) = (self.now, self.cfg.min_pmtu);
        let Some(f) = self.flows.at(i) else { return false };
        let (v6, size) = (f.v6(), f.packet_size());
        let mtu = if mtu == 0 && !v6 { plateau(len).max(floor) } else { mtu.min(65_535) as u16 };
        let floor = if v6 { FLOOR6 } else { floor };
        if len > self.io.mtu() || mtu >= len || mtu < floor {
            self.c.pmtu_ignored += 1;
            return false;
        }
        if mtu >= size {
            return true; // about what went out before the last change
        }
        self.paths.learn(&f.key().remote, mtu, now);
        self.c.pmtu_lowered += u64::from(f.too_big(mtu, &self.cfg, now));
        self.flows.mark(i);
        true
    }

    /// The size learned for a path has aged: more is tried, unless another connection has heard since.
    pub(super) fn path_due(&mut self, f: &mut Flow) {
        let heard = self.paths.get(&f.key().remote, self.now);
        self.c.pmtu_raised += u64::from(f.path_aged(heard, &self.cfg, self.now));
    }
}
