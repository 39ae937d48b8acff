//! Datagrams out: a buffer is cut into packets of the path's size, all of it at once, and buffers take turns, a packet each.
//!
//! Nobody says what has arrived, so the pace is a configured one: a burst that the smallest usual socket buffer holds, then so
//! many bytes a second. A send is done when its packets have left and its pages are home.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use super::buffer::{self, BufEvent, BufState};
use super::{Queue, SEC, Tm};
use crate::stream::slab::Key;
use crate::stream::{Action, DgramError, InlineHdr, LendId, Pages, Path, SendMsg};
use crate::wire::netsock::{
    Addr, Bdesc, DGRAM_LEAST, HDR_LEN, PacketHdr, PacketType, dgram_payload_max, errno,
};

/// Cost of a datagram beside its bytes, in bytes: a receiver's socket buffer pays for both.
const BESIDE: u64 = 1024;
/// Datagrams with pages that may be with the runtime: more wait here, where they can be given up.
const OUT: u32 = 512;
/// A path's size is tried anew after so long, in ns (RFC 1191 §6.3).
const AGE: u64 = 600 * SEC;
/// Paths whose size is remembered.
const PATHS: usize = 4096;

/// Packets that wait to be sent.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Buffers, the one whose turn it is first. Some may have gone since.
    queue: VecDeque<Key>,
    /// Bytes that may leave at once, as of `at` in ns.
    tokens: u64,
    at: u64,
    /// Time at which there is room for the next packet, in ns; `u64::MAX` where none waits for that.
    pub(super) wake: u64,
    /// Datagrams with pages that are with the runtime.
    out: u32,
    /// Most bytes of a datagram to an address that takes less than others, and when it was learned, in ns.
    paths: HashMap<IpAddr, (u32, u64)>,
}

impl Outbox {
    pub(super) fn new(burst: u64) -> Outbox {
        let (queue, paths) = (VecDeque::new(), HashMap::new());
        Outbox { queue, tokens: burst, at: 0, wake: u64::MAX, out: 0, paths }
    }

    /// Takes what a packet costs; else the time when it can, in ns.
    fn take(&mut self, cost: u64, now: u64, (burst, rate): (u64, u64)) -> Result<(), u64> {
        let (burst, rate) = (burst.max(cost), rate.max(1));
        let came = (u128::from(now.saturating_sub(self.at)) * u128::from(rate) / u128::from(SEC)) as u64;
        if came > 0 {
            self.tokens = self.tokens.saturating_add(came).min(burst);
            // Time for less than a token stays due: askers that come often would else wait for ever.
            let used = (u128::from(came) * u128::from(SEC)).div_ceil(u128::from(rate)) as u64;
            self.at = if self.tokens == burst { now } else { self.at.saturating_add(used) };
        }
        match self.tokens.checked_sub(cost) {
            Some(left) => self.tokens = left,
            None => {
                let lack = u128::from(cost - self.tokens) * u128::from(SEC);
                return Err(now + (lack.div_ceil(u128::from(rate)) as u64).max(1));
            }
        }
        Ok(())
    }
}

impl Tm {
    /// A buffer has packets to send.
    pub(super) fn write_datagrams(&mut self, b: Key) {
        self.outbox.queue.push_back(b);
        self.pump_datagrams();
    }

    /// Pages of a datagram are home.
    pub(super) fn datagram_left(&mut self) {
        self.outbox.out = self.outbox.out.saturating_sub(1);
    }

    /// Sends what may leave now.
    pub(super) fn pump_datagrams(&mut self) {
        self.outbox.wake = u64::MAX;
        while self.outbox.out < OUT
            && let Some(b) = self.outbox.queue.pop_front()
        {
            let waits = |b: &&buffer::Buf| matches!(b.state.get(), BufState::Waiting | BufState::Sending);
            let Some(buf) = self.bufs.get(b).filter(waits) else { continue };
            let size =
                if buf.queue == Queue::ActiveRecv { 0 } else { buf.len.min(self.most(&buf.other.addr)) };
            let pace = (self.cfg.datagrams.burst, self.cfg.datagrams.rate);
            if let Err(at) = self.outbox.take(HDR_LEN as u64 + size + BESIDE, self.now, pace) {
                self.outbox.queue.push_front(b);
                self.outbox.wake = at;
                return;
            }
            if self.push_datagram(b) {
                self.outbox.queue.push_back(b);
            }
        }
    }

    /// Most payload of a packet to a machine, in bytes.
    fn most(&self, to: &Addr) -> u64 {
        let ceiling = dgram_payload_max(self.ip.is_ipv6());
        let known = to.ip().and_then(|ip| self.outbox.paths.get(&ip)).filter(|p| self.now < p.1 + AGE);
        u64::from(known.map_or(ceiling, |p| p.0.saturating_sub(HDR_LEN as u32).min(ceiling)))
    }

    /// Sends the next packet of a buffer; whether there is another.
    fn push_datagram(&mut self, b: Key) -> bool {
        let here = self.cfg.addr;
        let Some((get, len, to)) = self.bufs.get(b).map(|b| (b.queue == Queue::ActiveRecv, b.len, b.other))
        else {
            return false;
        };
        let Some(at) = to.addr.reached() else { return false };
        let most = self.most(&to.addr);
        if !get && len > most && most < DGRAM_LEAST {
            self.end(b, errno::EMSGSIZE);
            return false;
        }
        let Some(buf) = self.bufs.get_mut(b) else { return false };
        if buf.state == BufState::Waiting {
            (buf.cut, buf.idx, buf.at) = (most.max(1), 0, (0, 0));
        }
        let (idx, cut) = (buf.idx, buf.cut);
        let offset = u64::from(idx) * cut;
        let (kind, total, nr) = match get {
            true => (PacketType::Get, 0, 1),
            false => (PacketType::Put, len, u32::try_from(len.div_ceil(cut)).unwrap_or(u32::MAX)),
        };
        let size = total.saturating_sub(offset).min(cut);
        let src = Bdesc { addr: here, cookie: buf.cookie };
        let mut hdr = InlineHdr::new();
        // It fits: 160 of 280.
        let _ =
            hdr.try_extend_from_slice(&PacketHdr { kind, src, dst: to, idx, nr, size, offset, total }.emit());
        let (mut pay, mut taken) = (Pages::new(), 0);
        while taken < size
            && let Some(slice) = buf.data.get(buf.at.0)
        {
            let n = u64::from(slice.len() - buf.at.1).min(size - taken) as u32;
            pay.extend(slice.slice(buf.at.1, n));
            taken += u64::from(n);
            buf.at.1 += n;
            if buf.at.1 == slice.len() {
                buf.at = (buf.at.0 + 1, 0);
            }
        }
        let lend = (!pay.is_empty()).then(|| LendId(buffer::name(b, self.loans)));
        self.loans += 1;
        buf.lent += u32::from(lend.is_some());
        self.outbox.out += u32::from(lend.is_some());
        buf.idx += 1;
        let whole = buf.idx >= nr;
        let event = match (get, whole) {
            (true, _) => BufEvent::Asked,
            (_, true) => BufEvent::Whole,
            (_, false) => BufEvent::Part,
        };
        if whole || buf.state != BufState::Sending {
            buf.state.apply(event);
        }
        if whole && !get {
            buf.fate.get_or_insert(0);
        }
        self.stats.packets_tx += 1;
        self.stats.bytes_tx += taken;
        let answer = buf.queue == Queue::PassiveSend;
        let msg = SendMsg { hdr, pay, lend, hold: false, answer };
        self.actions.push_back(Action::Datagram(Path::new(self.at, at), msg));
        !whole
    }

    /// Datagrams to a machine did not get there, as far as one hears of it. Nobody says which: sends that wait, and fetches
    /// that are out, end; those that are too big begin again, in smaller packets.
    pub(super) fn undelivered(&mut self, path: Path, why: DgramError) {
        let status = match why {
            DgramError::TooBig(most) => {
                if self.outbox.paths.len() >= PATHS {
                    self.outbox.paths.clear();
                }
                self.outbox.paths.insert(path.remote_ip, (most, self.now));
                None
            }
            DgramError::Refused => Some(errno::ECONNREFUSED),
            DgramError::Unreachable => Some(errno::EHOSTUNREACH),
            DgramError::Local => Some(errno::EADDRNOTAVAIL),
        };
        let to = Addr::dgram(path.remote());
        let Some(peer) = self.by_addr.get(&to).and_then(|p| self.peers.get(*p)) else { return };
        let mut sends = Vec::new();
        let mut at = peer.writers.head();
        while let Some(b) = at {
            sends.push(b);
            at = super::list::List::after(&self.bufs, b);
        }
        let most = self.most(&to);
        for b in sends {
            let Some(buf) = self.bufs.get_mut(b) else { continue };
            match (status, buf.state.get()) {
                (None, BufState::Sending | BufState::Pushed) if buf.cut > most => {
                    let queued = buf.state == BufState::Sending;
                    buf.state.apply(BufEvent::Reset);
                    buf.state.apply(BufEvent::Write);
                    buf.fate = None;
                    if !queued {
                        self.outbox.queue.push_back(b);
                    }
                }
                (Some(_), BufState::Filling) | (None, _) => {}
                (Some(status), _) => self.end(b, status),
            }
        }
        self.pump_datagrams();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_a_burst_and_then_a_rate() {
        let pace = (3000, 1_000_000);
        let mut o = Outbox::new(3000);
        assert_eq!(
            [o.take(1000, 0, pace), o.take(2000, 0, pace), o.take(500, 0, pace)],
            [Ok(()), Ok(()), Err(500_000)]
        );
        assert_eq!((o.take(500, 499_999, pace), o.take(500, 500_000, pace)), (Err(500_999), Ok(())));
        // However long nothing was sent, no more than a burst leaves at once; a packet that is larger leaves by itself.
        assert_eq!((o.take(3000, 60 * SEC, pace), o.take(1, 60 * SEC, pace)), (Ok(()), Err(60 * SEC + 1000)));
        assert_eq!(o.take(9000, 120 * SEC, pace), Ok(()));
    }
}
