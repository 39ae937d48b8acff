//! Peers of a transfer machine that mean no good.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use bench::net::{ASK_LEN, Ask, AskKind};
use rustix::net::{AddressFamily, SocketType, bind, connect, ipproto, socket};
use transport::net::Desc;
use transport::wire::netsock::{Addr, Bdesc, Cookie, HDR_LEN, PacketHdr, PacketType, fnv1};

use super::net;
use crate::proc::{eventually, own_ip, run, start};

/// A peer of a transfer machine that speaks netsock, and means no good.
struct Mallory {
    ip: Ipv4Addr,
    at: SocketAddr,
    to: SocketAddr,
    number: u64,
    /// The connection that the machine has made to it.
    heard: Option<TcpStream>,
}

impl Mallory {
    fn new(ip: Ipv4Addr, to: Ipv4Addr) -> Mallory {
        Mallory { ip, at: (ip, 7001).into(), to: (to, 7000).into(), number: 0, heard: None }
    }

    fn dial(&self) -> TcpStream {
        let s = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::TCP)).unwrap();
        bind(&s, &SocketAddr::from((self.ip, 0))).unwrap();
        connect(&s, &self.to).unwrap();
        let s = TcpStream::from(s);
        s.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        s
    }

    /// A packet in the name of the machine at `from`, for the buffer of a cookie or for none.
    fn packet(&mut self, kind: PacketType, from: SocketAddr, dst: Cookie, size: u64) -> PacketHdr {
        self.number += 1;
        let bdesc = |at, cookie| Bdesc { addr: Addr::stream(at), cookie };
        let src = bdesc(from, Cookie { addr: 0x7000, generation: self.number });
        PacketHdr { kind, src, dst: bdesc(self.to, dst), idx: 0, nr: 1, size, offset: 0, total: size }
    }

    /// A message of these bytes.
    fn message(&mut self, from: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let hdr = self.packet(PacketType::Put, from, Cookie::NONE, payload.len() as u64);
        [&hdr.emit()[..], payload].concat()
    }

    /// Asks for bulk, between the node and a buffer that is not there where it needs one.
    fn ask(&mut self, kind: AskKind, len: u64) -> Vec<u8> {
        self.ask_at(kind, len, self.at)
    }

    /// The same with a buffer of the machine at `of`.
    fn ask_at(&mut self, kind: AskKind, len: u64, of: SocketAddr) -> Vec<u8> {
        let cookie = Cookie { addr: 0x7000, generation: 1 };
        let desc = Desc::new(&Bdesc { addr: Addr::stream(of), cookie }.emit()).unwrap();
        let desc = matches!(kind, AskKind::Fill | AskKind::Fetch).then_some(desc);
        let ask = Ask { kind, check: false, tag: 1, len, seed: 0, status: 0, desc };
        let mut b = [0; ASK_LEN];
        assert!(ask.write(&mut b));
        self.message(self.at, &b)
    }

    /// The next message of the machine's.
    fn hear(&mut self, back: &TcpListener) -> Vec<u8> {
        let s = self.heard.get_or_insert_with(|| back.accept().unwrap().0);
        s.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut hdr = [0; HDR_LEN];
        s.read_exact(&mut hdr).unwrap();
        let mut payload = vec![0; PacketHdr::parse(&hdr).unwrap().size as usize];
        s.read_exact(&mut payload).unwrap();
        payload
    }

    /// The cookie of a buffer that the node gives out.
    fn offer(&mut self, back: &TcpListener, kind: AskKind, len: u64) -> Cookie {
        let ask = self.ask(kind, len);
        self.dial().write_all(&ask).unwrap();
        let offer = Ask::parse(&self.hear(back)).unwrap();
        assert_eq!((offer.kind, offer.status), (AskKind::Offer, 0));
        Bdesc::parse(offer.desc.unwrap().bytes()).unwrap().cookie
    }

    /// Sends bytes by a connection of their own; gives all that comes until the other side ends it.
    fn until_closed(&self, bytes: &[u8]) -> Vec<u8> {
        let mut s = self.dial();
        s.write_all(bytes).unwrap();
        let mut got = Vec::new();
        // A reset ends it as well.
        if let Err(e) = s.read_to_end(&mut got) {
            assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "not closed");
        }
        got
    }
}

/// A peer that takes no answers, gives nothing that it is asked for, and takes no bulk holds all of a node's memory for a few
/// seconds, not for ever. Connections with garbage end, and the node says why.
#[test]
fn peers_that_take_nothing_starve_nobody_of_a_transfer_machine() {
    let (ip, hostile, honest) = (own_ip(), own_ip(), own_ip());
    let here = format!("inet:stream:{ip}@7000");
    let mut node = start(&["net", "node", &here, "--buffers", "8", "--bulks", "2"]).up();
    let mut mallory = Mallory::new(hostile, ip);
    // It listens, and accepts nothing.
    let _silent = TcpListener::bind(mallory.at).unwrap();
    // Until nothing more is taken.
    let mut flood = mallory.dial();
    let message = mallory.message(mallory.at, &[7; 60_000]);
    assert!((0..4000).any(|_| flood.write_all(&message).is_err()), "all of 240 MB were taken");
    let mut asks = [mallory.dial(), mallory.dial()];
    for (s, kind) in asks.iter_mut().zip([AskKind::Fetch, AskKind::Fill]) {
        let ask = mallory.ask(kind, 1 << 20);
        assert!((0..20).all(|_| s.write_all(&ask).is_ok()), "asks were not taken");
    }
    let from = format!("inet:stream:{honest}@7000");
    let all = ["--from", &from, "-c", "3", "--concurrency", "1", "--check", "--timeout", "60"];
    for (verb, served) in [(&["ping", &here][..], 3), (&["bulk", &here], 3), (&["bulk", &here, "--read"], 3)]
    {
        let v = net(&[verb, &all[..]].concat());
        assert_eq!((v["operations"].as_u64(), v["wrong"].as_u64()), (Some(served), Some(0)), "{v}");
    }
    drop((flood, asks));
    let mut s = mallory.dial();
    s.write_all(&[0x55; HDR_LEN]).unwrap();
    assert_eq!(s.read(&mut [0]).unwrap(), 0);
    node.until("a word about garbage", |_, err| {
        err.contains("refused") && err.contains(&hostile.to_string())
    });
    node.stop().good().says(&["wrong 0"]);
}

/// A message in the node's own name goes to nobody: an answer to it would go round for ever.
#[test]
fn a_message_in_a_transfer_machines_own_name_is_not_answered() {
    let ip = own_ip();
    let node = start(&["net", "node", &format!("inet:stream:{ip}@7000")]).up();
    let mut mallory = Mallory::new(ip, ip);
    let back = TcpListener::bind(mallory.at).unwrap();
    let mut s = mallory.dial();
    let (own, ours) = (mallory.message(mallory.to, b"round"), mallory.message(mallory.at, b"there and back"));
    s.write_all(&[own, ours].concat()).unwrap();
    let mut answer = [0; HDR_LEN + 14];
    back.accept().unwrap().0.read_exact(&mut answer).unwrap();
    assert_eq!(&answer[HDR_LEN..], b"there and back");
    node.stop().good().says(&["1 operation, 14 bytes; failed 0"]);
}

/// Descriptors name machines: a stranger's do not have a node dial others, nor send to them.
#[test]
fn a_transfer_machine_dials_no_third_machine_that_a_stranger_names() {
    let (ip, third) = (own_ip(), TcpListener::bind((own_ip(), 0)).unwrap());
    let node = start(&["net", "node", &format!("inet:stream:{ip}@7000")]).up();
    let mut mallory = Mallory::new(own_ip(), ip);
    let back = TcpListener::bind(mallory.at).unwrap();
    for kind in [AskKind::Fill, AskKind::Fetch] {
        let ask = mallory.ask_at(kind, 4096, third.local_addr().unwrap());
        mallory.dial().write_all(&ask).unwrap();
        let answer = Ask::parse(&mallory.hear(&back)).unwrap();
        // EPERM.
        assert_eq!((answer.kind, answer.status), (AskKind::Done, 1));
    }
    third.set_nonblocking(true).unwrap();
    assert_eq!(third.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    node.stop().good();
}

/// Resident memory of a process, in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Netsock's counters of a node.
fn counters(pid: u32) -> impl Fn(&str) -> u64 {
    let stats = run(&["stats", "--node", &pid.to_string(), "--json"]).good().json();
    move |name| stats["lcores"][0]["counters"][name].as_u64().unwrap_or_else(|| panic!("{name} in {stats}"))
}

/// Packets that are refused. `room` is a passive receive, and `source` a passive send, of [`LONG`].
fn malformed(m: &mut Mallory, room: Cookie, source: Cookie) -> Vec<Vec<u8>> {
    let at = m.at;
    let good = m.packet(PacketType::Put, at, Cookie::NONE, 2);
    let with = |f: &dyn Fn(&mut PacketHdr)| {
        let mut h = good;
        f(&mut h);
        h.emit().to_vec()
    };
    // Changed, and the checksum made anew or not.
    let changed = |at: usize, by: u8, summed: bool| {
        let mut b = good.emit();
        b[at] ^= by;
        if summed {
            let sum = fnv1(&b[..144]);
            b[152..].copy_from_slice(&sum.to_le_bytes());
        }
        b.to_vec()
    };
    let get = m.packet(PacketType::Get, at, source, 0);
    let put = |cookie, size| PacketHdr { size, total: size, dst: Bdesc { cookie, ..good.dst }, ..good };
    let headers = vec![
        changed(0, 1, false),
        changed(144, 1, false),
        changed(152, 1, false),
        changed(20, 1, false),
        changed(14, 3, true),
        changed(12, 2, true),
        changed(8, 0x10, true),
        with(&|h| h.nr = 0),
        with(&|h| h.idx = 1),
        with(&|h| (h.nr, h.offset) = (2, u64::MAX)),
        with(&|h| h.size = 3),
        with(&|h| (h.size, h.offset) = (1, 1)),
        with(&|h| h.size = 1),
        with(&|h| h.dst.addr.port = 7003),
        with(&|h| h.src.addr = Addr::stream(SocketAddr::from(([127, 0, 0, 77], 7001)))),
        with(&|h| h.src.cookie = Cookie::NONE),
        with(&|h| h.dst.cookie = Cookie { addr: 64, generation: 1 }),
        with(&|h| h.dst.cookie = Cookie { generation: 1, ..room }),
        // To the wrong queue, and more than the buffer holds.
        put(source, 2).emit().to_vec(),
        PacketHdr { dst: Bdesc { cookie: room, ..get.dst }, ..get }.emit().to_vec(),
        put(room, LONG + 1).emit().to_vec(),
        // No GET of one packet with both cookies.
        PacketHdr { dst: Bdesc { cookie: Cookie::NONE, ..get.dst }, ..get }.emit().to_vec(),
        PacketHdr { src: Bdesc { cookie: Cookie::NONE, ..get.src }, ..get }.emit().to_vec(),
        PacketHdr { size: 5, total: 5, ..get }.emit().to_vec(),
        PacketHdr { nr: 2, ..get }.emit().to_vec(),
        // So many packets that a bit for each takes 512 MiB, and some that are fewer.
        PacketHdr { nr: u32::MAX, total: 1 << 40, ..good }.emit().to_vec(),
        PacketHdr { nr: u32::MAX, total: 100, ..put(room, 2) }.emit().to_vec(),
        PacketHdr { nr: 2, total: 100, ..put(room, 2) }.emit().to_vec(),
    ];
    let payload = |h: &Vec<u8>| PacketHdr::parse(h).map_or(50, |h| h.size.min(LONG + 1) as usize);
    headers.into_iter().map(|h| [&h[..], &vec![0; payload(&h)]].concat()).collect()
}

/// Bytes of the node's buffers for bulk: more than kernels keep of what a peer does not take.
const LONG: u64 = 16 << 20;

/// One round of it all against the node `pid`; gives the number of packets that were refused, at least.
fn hostile_round(m: &mut Mallory, back: &TcpListener, pid: u32) -> u64 {
    const LEN: u64 = 100;
    let (at, mut refused) = (m.at, 0);
    let (room, source) = (m.offer(back, AskKind::Take, LEN), m.offer(back, AskKind::Give, LONG));
    for packet in malformed(m, room, source) {
        assert!(m.until_closed(&packet).is_empty(), "an answer to {:?}", &packet[..HDR_LEN]);
        refused += 1;
    }
    // A message, one for the buffer, and a GET, each cut off at every byte, by a FIN and by a reset in turn.
    let payload = [9; LEN as usize];
    let put = m.packet(PacketType::Put, at, room, LEN).emit();
    let get = m.packet(PacketType::Get, at, source, 0).emit();
    for whole in [m.message(at, &payload), [&put[..], &payload].concat(), get.to_vec()] {
        for cut in 0..whole.len() {
            let mut s = m.dial();
            s.write_all(&whole[..cut]).unwrap();
            if cut % 2 == 0 {
                rustix::net::sockopt::set_socket_linger(&s, Some(Duration::ZERO)).unwrap();
            }
        }
    }
    // All of them are seen to have ended: a packet that is under way has its buffer.
    eventually("end of what was cut", || counters(pid)("netsock_conns") <= 1);
    // An answer of which little is taken; one that is taken, and asked for again: it was, so it is refused.
    let mut s = m.dial();
    rustix::net::sockopt::set_socket_recv_buffer_size(&s, 4096).unwrap();
    s.write_all(&get).unwrap();
    s.read_exact(&mut [0; 50]).unwrap();
    rustix::net::sockopt::set_socket_linger(&s, Some(Duration::ZERO)).unwrap();
    drop(s);
    eventually("whole answer", || {
        // Refused as long as the first answer is under way.
        let got = m.until_closed(&get.repeat(2));
        refused += 1;
        assert!([0, HDR_LEN + LONG as usize].contains(&got.len()), "{} bytes", got.len());
        !got.is_empty()
    });
    assert!(m.until_closed(&[&put[..], &payload].concat().repeat(2)).is_empty());
    // Both have had their time.
    assert!(m.until_closed(&get).is_empty());
    assert!(m.until_closed(&[&put[..], &payload].concat()).is_empty());
    refused + 3
}

/// Against a node that runs: malformed headers, cuts at every byte, GETs twice, cookies that have had their time, more packets
/// than there can be. Each connection ends, with a word about it; nothing is kept, and the node goes on.
#[test]
fn packets_that_mean_no_good_end_their_connection_and_nothing_else() {
    let (ip, hostile, honest) = (own_ip(), own_ip(), own_ip());
    let here = format!("inet:stream:{ip}@7000");
    let mut node = start(&["net", "node", &here, "--buffers", "8", "--bulks", "2", "--bulk", "16M"]).up();
    let mut mallory = Mallory::new(hostile, ip);
    let back = TcpListener::bind(mallory.at).unwrap();
    let at_rest = |what: &str| {
        // The one to mallory stays.
        eventually(what, || {
            let n = counters(node.id());
            n("netsock_conns") <= 1 && n("netsock_loans") == 0 && n("netsock_buffers") == 8
        });
    };
    let mut refused = hostile_round(&mut mallory, &back, node.id());
    at_rest("rest after the first round");
    let before = resident(node.id());
    for _ in 0..2 {
        refused += hostile_round(&mut mallory, &back, node.id());
    }
    at_rest("rest");
    assert!(counters(node.id())("netsock_refused") >= refused, "{refused} packets were to be refused");
    let after = resident(node.id());
    assert!(after < before + 1024, "{before} KiB, then {after} KiB");
    let from = format!("inet:stream:{honest}@7000");
    for verb in [&["ping"][..], &["bulk"], &["bulk", "--active", "--read"]] {
        let v = net(&[verb, &[&here, "--from", &from, "-c", "3", "--check"]].concat());
        assert_eq!((v["operations"].as_u64(), v["wrong"].as_u64()), (Some(3), Some(0)), "{v}");
    }
    node.until("a word about it", |_, err| {
        err.contains("refused") && err.contains(&hostile.to_string()) && err.contains("a cookie of no buffer")
    });
    node.stop().good().says(&["wrong 0"]);
}
