//! A peer whose every byte is the test's, over the kernel's TCP: what it says to a node that runs, and what it leaves
//! unread.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, connect, ipproto, socket, sockopt};
use transport::wire::{
    AcceptorReq, ByteOrder, ConnType, Hello, KsockHdr, KsockType, LnetBody, LnetHdr, Nid, ProcessId, Version,
    WireHandle, ping,
};

/// Portal and match bits that `pollnd node` serves 1 MiB from.
const SOURCE: (u32, u64) = (42, 0x706f_6c6c_6e64);
/// How long anything here may take: for a run that hangs, no measure.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn nid(ip: Ipv4Addr) -> Nid {
    format!("{ip}@tcp").parse().unwrap()
}

/// A connection from a port of `from`'s, as the kernel makes it; an error is the kernel's.
pub(crate) fn dial(from: Ipv4Addr, port: u16, to: Ipv4Addr) -> rustix::io::Result<TcpStream> {
    let s = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&s, true)?;
    // What is not read is to stand at the node, not in our kernel.
    sockopt::set_socket_recv_buffer_size(&s, 16_384)?;
    bind(&s, &SocketAddr::new(IpAddr::V4(from), port))?;
    connect(&s, &SocketAddr::new(IpAddr::V4(to), 988))?;
    let s = TcpStream::from(s);
    let _ = s.set_read_timeout(Some(LIMIT));
    let _ = s.set_write_timeout(Some(LIMIT));
    let _ = s.set_nodelay(true);
    Ok(s)
}

/// Request and HELLO of process `pid` at `from` to the node at `to`.
pub(crate) fn start(from: Ipv4Addr, pid: u32, to: Ipv4Addr, ctype: ConnType) -> Vec<u8> {
    let req = AcceptorReq::new(nid(to));
    let hello = Hello {
        version: Version::V3,
        order: ByteOrder::Little,
        tcp_magic: false,
        src_nid: nid(from),
        dst_nid: nid(to),
        src_pid: pid,
        dst_pid: 0,
        src_incarnation: 6,
        dst_incarnation: 0,
        ctype,
        ips: Default::default(),
    };
    [&req.emit()[..req.wire_len()], &hello.emit()].concat()
}

/// A CONTROL connection of `pid` that carries messages: the node's HELLO has been read.
pub(crate) fn join(from: Ipv4Addr, port: u16, pid: u32, to: Ipv4Addr) -> std::io::Result<TcpStream> {
    join_as(from, port, pid, to, ConnType::Control)
}

/// The same of any type.
pub(crate) fn join_as(
    from: Ipv4Addr,
    port: u16,
    pid: u32,
    to: Ipv4Addr,
    ctype: ConnType,
) -> std::io::Result<TcpStream> {
    let mut s = dial(from, port, to)?;
    s.write_all(&start(from, pid, to, ctype))?;
    let mut hello = [0; 56];
    s.read_exact(&mut hello)?;
    Ok(s)
}

fn message(from: (Ipv4Addr, u32), to: Ipv4Addr, body: LnetBody) -> Vec<u8> {
    let h = LnetHdr {
        dest_nid: nid(to),
        src_nid: nid(from.0),
        dest_pid: ProcessId::lustre(nid(to)).pid,
        src_pid: from.1,
        payload_len: 0,
        body,
    };
    let k = KsockHdr { kind: KsockType::Lnet, csum: 0, cookie0: 0, cookie1: 0 };
    [&k.emit(ByteOrder::Little)[..], &h.emit()].concat()
}

/// `n` GETs of 1 MiB each, which says that it comes from `source`.
pub(crate) fn gets(source: (Ipv4Addr, u32), to: Ipv4Addr, n: usize) -> Vec<u8> {
    let handle = WireHandle { interface: 1, object: 1 };
    let (portal, match_bits) = SOURCE;
    message(source, to, LnetBody::Get { handle, match_bits, portal, src_offset: 0, sink_length: 1 << 20 })
        .repeat(n)
}

/// A ping.
pub(crate) fn ping_get(source: (Ipv4Addr, u32), to: Ipv4Addr) -> Vec<u8> {
    let handle = WireHandle { interface: 1, object: 2 };
    let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
    message(source, to, LnetBody::Get { handle, match_bits, portal, src_offset: 0, sink_length: 272 })
}

/// Writes as much as the peer takes within `patience`; gives how much.
pub(crate) fn write_some(s: &mut TcpStream, bytes: &[u8], patience: Duration) -> usize {
    let end = Instant::now() + patience;
    let _ = s.set_nonblocking(true);
    let mut n = 0;
    while n < bytes.len() && Instant::now() < end {
        match s.write(&bytes[n..]) {
            Ok(k) => n += k,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1))
            }
            Err(_) => break,
        }
    }
    let _ = s.set_nonblocking(false);
    n
}

/// Pings one after the other on a connection of its own, as an honest peer does; gives how long each took, in order.
pub(crate) struct Honest {
    from: Ipv4Addr,
    to: Ipv4Addr,
    sock: TcpStream,
    pub(crate) times: Vec<Duration>,
}

impl Honest {
    pub(crate) fn new(from: Ipv4Addr, to: Ipv4Addr) -> Honest {
        let sock = join(from, 1023, 12345, to).expect("an honest peer connects");
        Honest { from, to, sock, times: Vec::new() }
    }

    /// One ping: the answer must come.
    pub(crate) fn ping(&mut self) {
        let began = Instant::now();
        self.sock.write_all(&ping_get((self.from, 12345), self.to)).expect("a ping leaves");
        // ksock and LNet headers, and the info of one NI.
        let mut reply = [0; 24 + 72 + 48];
        self.sock.read_exact(&mut reply).expect("an honest peer's ping is answered");
        self.times.push(began.elapsed());
    }

    /// Prints its p50 and p99.
    pub(crate) fn tell(mut self, test: &str) {
        self.times.sort_unstable();
        let at = |q: usize| self.times[(self.times.len() * q / 100).min(self.times.len() - 1)];
        println!("{test}: honest pings {}, p50 {:?}, p99 {:?}", self.times.len(), at(50), at(99));
    }
}
