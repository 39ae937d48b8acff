//! The kernel's figures of its own connections: `tcp_info` by sock_diag (netlink), as `ss -ti` asks for it.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto, socket_with,
};
use tcpstack::{ConnStats, Phase};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const IPPROTO_TCP: u8 = 6;
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_CONG: u16 = 4;
/// Lengths of `nlmsghdr`, `inet_diag_req_v2` and `inet_diag_msg`, in bytes.
const NLMSG: usize = 16;
const REQ: usize = 56;
const MSG: usize = 72;

/// A question at a time to the kernel.
pub(super) struct Diag {
    fd: OwnedFd,
    serial: u32,
    buf: Vec<u8>,
}

impl Diag {
    /// Opens the way to the kernel.
    pub(super) fn open() -> Result<Diag, rustix::io::Errno> {
        let fd = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        Ok(Diag { fd, serial: 0, buf: vec![0; 8192] })
    }

    /// Adds what the kernel knows; nothing where it knows no such connection (any more).
    pub(super) fn complete(&mut self, s: &mut ConnStats) {
        self.serial = self.serial.wrapping_add(1);
        let q = question(s.local, s.remote, self.serial);
        let to = netlink::SocketAddrNetlink::new(0, 0);
        if sendto(&self.fd, &q, SendFlags::empty(), &to).is_err() {
            return;
        }
        if let Ok((_, n)) = recv(&self.fd, &mut self.buf[..], RecvFlags::empty()) {
            read(&self.buf[..n.min(self.buf.len())], self.serial, s);
        }
    }
}

fn question(local: SocketAddr, remote: SocketAddr, serial: u32) -> Vec<u8> {
    let mut b = Vec::with_capacity(NLMSG + REQ);
    b.extend(((NLMSG + REQ) as u32).to_ne_bytes());
    b.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    b.extend(NLM_F_REQUEST.to_ne_bytes());
    b.extend(serial.to_ne_bytes());
    b.extend(0u32.to_ne_bytes());
    let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let ext = 1 << (INET_DIAG_INFO - 1) | 1 << (INET_DIAG_CONG - 1);
    b.extend([family.as_raw() as u8, IPPROTO_TCP, ext, 0]);
    b.extend(u32::MAX.to_ne_bytes());
    b.extend(local.port().to_be_bytes());
    b.extend(remote.port().to_be_bytes());
    for ip in [local.ip(), remote.ip()] {
        let mut a = [0; 16];
        match ip {
            IpAddr::V4(ip) => a[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => a = ip.octets(),
        }
        b.extend(a);
    }
    b.extend(0u32.to_ne_bytes());
    b.extend([0xff; 8]); // no cookie
    b
}

fn num<const N: usize>(b: &[u8], at: usize) -> Option<[u8; N]> {
    b.get(at..at + N)?.try_into().ok()
}

fn u32_at(b: &[u8], at: usize) -> Option<u64> {
    num(b, at).map(|x| u64::from(u32::from_ne_bytes(x)))
}

fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    num(b, at).map(u64::from_ne_bytes)
}

/// Takes an answer apart; one that is not to question `serial`, or is short, tells less or nothing.
fn read(b: &[u8], serial: u32, s: &mut ConnStats) {
    let kind = num(b, 4).map(u16::from_ne_bytes);
    if kind != Some(SOCK_DIAG_BY_FAMILY) || u32_at(b, 8) != Some(u64::from(serial)) {
        return;
    }
    // For a connection that has gone the kernel shows the socket that listens on its port.
    let dport = num(b, NLMSG + 6).map(u16::from_be_bytes);
    let Some(p) = b.get(NLMSG + 1).and_then(|p| state(*p)).filter(|_| dport == Some(s.remote.port())) else {
        return;
    };
    s.state = p;
    s.recv_queue = u32_at(b, NLMSG + 56);
    let unacked = u32_at(b, NLMSG + 60);
    s.backlog = Some(s.backlog.unwrap_or(0) + unacked.unwrap_or(0));
    let mut at = NLMSG + MSG;
    while let (Some(len), Some(kind)) =
        (num(b, at).map(u16::from_ne_bytes), num(b, at + 2).map(u16::from_ne_bytes))
    {
        let Some(value) = b.get(at + 4..at + usize::from(len)) else { return };
        match kind {
            INET_DIAG_INFO => info(value, unacked, s),
            INET_DIAG_CONG => {
                let name = value.split(|b| *b == 0).next().and_then(|n| std::str::from_utf8(n).ok());
                s.algorithm = name.and_then(|n| n.parse().ok());
            }
            _ => {}
        }
        at += usize::from(len).next_multiple_of(4).max(4);
    }
}

/// `struct tcp_info`: fields are only ever added at its end, so older kernels tell less.
fn info(b: &[u8], unacked: Option<u64>, s: &mut ConnStats) {
    const NS: u64 = 1000;
    let us = |at| u32_at(b, at).map(|t| t * NS);
    let ms = |at| u32_at(b, at).map(|t| t * 1_000_000);
    let mss = u32_at(b, 16);
    let segs = |n: Option<u64>| n.zip(mss).map(|(n, mss)| n * mss);
    s.recovery =
        b.get(1).and_then(|c| ["open", "disorder", "cwr", "recovery", "loss"].get(usize::from(*c)).copied());
    s.backoff = b.get(4).map(|n| u64::from(*n));
    let options = b.get(5).copied().unwrap_or(0);
    (s.timestamps, s.sack) = (Some(options & 1 != 0), Some(options & 2 != 0));
    if let Some(w) = b.get(6).filter(|_| options & 4 != 0) {
        (s.snd_wscale, s.rcv_wscale) = (Some(u64::from(w & 15)), Some(u64::from(w >> 4)));
    }
    s.rto_ns = us(8);
    s.mss = mss;
    s.last_send_ago_ns = ms(44);
    s.last_recv_ago_ns = ms(52);
    s.last_ack_ago_ns = ms(56);
    s.pmtu = u32_at(b, 60);
    s.srtt_ns = us(68).filter(|t| *t > 0);
    s.rttvar_ns = us(72).filter(|t| *t > 0);
    // "Infinite" until the first loss.
    s.ssthresh = segs(u32_at(b, 76).filter(|n| *n < 0x7fff_ffff));
    s.cwnd = segs(u32_at(b, 80));
    s.sacked = segs(u32_at(b, 28));
    s.lost = segs(u32_at(b, 32));
    s.reordering = u32_at(b, 88);
    s.retransmits = u32_at(b, 100);
    s.bytes_acked = u64_at(b, 120);
    s.bytes_received = u64_at(b, 128);
    s.segs_out = u32_at(b, 136);
    s.segs_in = u32_at(b, 140);
    let in_kernel = u32_at(b, 144);
    s.in_flight = unacked.zip(in_kernel).map(|(all, not_sent)| all.saturating_sub(not_sent));
    s.not_sent = Some(s.not_sent.unwrap_or(0) + in_kernel.unwrap_or(0));
    s.min_rtt_ns = us(148).filter(|t| *t > 0 && *t < u64::from(u32::MAX) * NS);
    s.data_segs_in = u32_at(b, 152);
    s.data_segs_out = u32_at(b, 156);
    s.bytes_sent = u64_at(b, 200).or(s.bytes_sent);
    s.bytes_retrans = u64_at(b, 208);
    s.dsacks = u32_at(b, 216);
    s.out_of_order = u32_at(b, 224);
    s.snd_wnd = u32_at(b, 228);
    s.rcv_wnd = u32_at(b, 232);
}

/// The kernel's numbers of states (`include/net/tcp_states.h`).
fn state(n: u8) -> Option<Phase> {
    Some(match n {
        1 => Phase::Established,
        2 => Phase::SynSent,
        3 | 12 => Phase::SynReceived,
        4 => Phase::FinWait1,
        5 => Phase::FinWait2,
        6 => Phase::TimeWait,
        7 => Phase::Closed,
        8 => Phase::CloseWait,
        9 => Phase::LastAck,
        11 => Phase::Closing,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_kernel_tells_of_a_connection_what_was_sent_over_it() {
        let l = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut a = TcpStream::connect(l.local_addr().unwrap()).unwrap();
        let (mut b, _) = l.accept().unwrap();
        a.write_all(&[7; 5000]).unwrap();
        b.read_exact(&mut [0; 3000]).unwrap();
        let mut d = Diag::open().unwrap();
        let mut ask = |s: &TcpStream| {
            let mut c = ConnStats::new(s.local_addr().unwrap(), s.peer_addr().unwrap(), Phase::SynSent);
            d.complete(&mut c);
            c
        };
        let (x, y) = (ask(&a), ask(&b));
        assert_eq!((x.state, y.state), (Phase::Established, Phase::Established), "{x:?}");
        assert_eq!((x.bytes_acked, y.bytes_received, y.recv_queue), (Some(5001), Some(5000), Some(2000)));
        assert!(
            x.cwnd > Some(0) && x.mss > Some(500) && x.srtt_ns > Some(0) && x.algorithm.is_some(),
            "{x:?}"
        );
        assert!(x.pmtu > x.mss && x.rto_ns >= Some(1_000_000) && x.ssthresh.is_none(), "{x:?}");
        assert_eq!((x.retransmits, x.recovery), (Some(0), Some("open")));
        // The one that listens is not the one that was asked for.
        let from = l.local_addr().unwrap();
        let mut gone = ConnStats::new(from, "127.0.0.1:1".parse().unwrap(), Phase::CloseWait);
        let before = gone;
        d.complete(&mut gone);
        assert_eq!(gone, before);
        let mut none =
            ConnStats::new("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap(), Phase::Closed);
        let before = none;
        d.complete(&mut none);
        assert_eq!(none, before, "nothing is known of a connection that is not there");
    }

    #[test]
    fn an_answer_that_is_cut_short_tells_less_and_harms_nobody() {
        let mut b = vec![0u8; 400];
        b[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        b[8..12].copy_from_slice(&9u32.to_ne_bytes());
        b[NLMSG + 1] = 1;
        b[NLMSG + 7] = 2;
        b[NLMSG + MSG..NLMSG + MSG + 2].copy_from_slice(&312u16.to_ne_bytes());
        b[NLMSG + MSG + 2..NLMSG + MSG + 4].copy_from_slice(&INET_DIAG_INFO.to_ne_bytes());
        let mut s = ConnStats::new("1.2.3.4:1".parse().unwrap(), "1.2.3.4:2".parse().unwrap(), Phase::Closed);
        for n in 0..b.len() {
            read(&b[..n], 9, &mut s);
        }
        read(&b, 8, &mut s);
        assert_eq!(s.cwnd, None);
        read(&b, 9, &mut s);
        assert_eq!(s.cwnd, Some(0));
    }
}
