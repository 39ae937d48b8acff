//! ICMP to the stack, of both families.

use dataplane::pkt::{Port, RxPkt};

use crate::csum::{Sum, pseudo};
use crate::icmp::{self, ECHO4, ECHO6};
use crate::icmp_error::{self, LOOKED_AT};
use crate::io::{small_ip, sum_from, upper_sum};
use crate::nd::{self, ICMP6};
use crate::stack::Stack;
use crate::wire::{self, Drop, ETH_IPV4, ETH_IPV6, Eth, HDR, HDR6, Ip};

/// Longest message looked at: what fits beside the headers in a packet's first buffer, in bytes.
const MESSAGE_MAX: usize = 1480;
/// Room for it and its headers.
const ROOM: usize = 18 + HDR6 + MESSAGE_MAX;

impl<P: Port> Stack<P> {
    pub(crate) fn on_icmp(&mut self, p: &P::Rx, e: &Eth, ip: &Ip) -> Result<(), Drop> {
        let off = e.len + ip.hlen;
        match p.head().get(off) {
            Some(t) if *t == ECHO4.0 => self.echo(p, e, ip),
            // Unreachable, source quench, redirect, time exceeded, parameter problem.
            Some(3..=5 | 11 | 12) => {
                if sum_from(p, off, ip.payload, Sum::default()) != 0xffff {
                    return Err(Drop::Checksum);
                }
                let mut m = [0; LOOKED_AT];
                let n = Self::gather(p, off, &mut m).min(ip.payload);
                self.on_icmp_error(icmp_error::parse4(&m[..n]));
                Ok(())
            }
            Some(_) => Err(Drop::Protocol),
            None => Err(Drop::Malformed),
        }
    }

    pub(crate) fn on_icmp6(&mut self, p: &P::Rx, e: &Eth, ip: &Ip) -> Result<(), Drop> {
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
            let n = Self::gather(p, off, &mut m).min(ip.payload);
            self.on_icmp_error(icmp_error::parse6(&m[..n]));
            return Ok(());
        }
        let mut b = [0u8; MESSAGE_MAX];
        let m = b.get_mut(..ip.payload).ok_or(Drop::Malformed)?;
        let n = Self::gather(p, off, m);
        let said = m.get(..n).and_then(|m| nd::parse(m, &ip.src, &ip.dst, ip.ttl));
        self.on_nd(said.ok_or(Drop::Protocol)?, e, ip);
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
        let l2 = wire::write_eth(&mut b, self.io.mac, e.src, self.io.soft_vlan(), kind);
        let at = l2 + l3;
        let end = at + ip.payload;
        Self::gather(p, e.len + ip.hlen, &mut b[at..end]);
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
}
