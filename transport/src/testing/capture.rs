//! Reads captures: Ethernet, IPv4 and IPv6, TCP reassembly, and the messages in the streams.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use pcap_file::PcapError;
use pcap_file::pcap::PcapReader;

use crate::wire::ksock::{self, KsockType};
use crate::wire::{AcceptorReq, ByteOrder, ConnType, Hello, KsockHdr, LnetHdr, Version, WireError};

/// Payload of one TCP segment, in order and without repeats.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Since the first frame of the capture, in ns.
    pub at: u64,
    /// Bytes.
    pub bytes: Vec<u8>,
}

/// One direction of a connection.
#[derive(Clone, Debug, Default)]
pub struct Dir {
    /// Segments sent, in order.
    pub segments: Vec<Segment>,
    next_seq: Option<u32>,
    held: BTreeMap<u32, Segment>,
}

impl Dir {
    /// The whole stream.
    pub fn bytes(&self) -> Vec<u8> {
        self.segments.iter().flat_map(|s| s.bytes.iter().copied()).collect()
    }

    /// Bytes that were captured behind a gap.
    pub fn stranded(&self) -> usize {
        self.held.len()
    }

    fn take(&mut self, seq: u32, at: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let next = *self.next_seq.get_or_insert(seq);
        // Old bytes: retransmissions and keepalive probes.
        let behind = next.wrapping_sub(seq);
        if behind as i32 >= 0 {
            if let Some(fresh) = bytes.get(behind as usize..)
                && !fresh.is_empty()
            {
                self.segments.push(Segment { at, bytes: fresh.to_vec() });
                self.next_seq = Some(next.wrapping_add(fresh.len() as u32));
                self.take_held();
            }
            return;
        }
        self.held.insert(seq, Segment { at, bytes: bytes.to_vec() });
    }

    fn take_held(&mut self) {
        while let Some(next) = self.next_seq {
            let Some(seq) = self.held.keys().copied().find(|s| next.wrapping_sub(*s) as i32 >= 0) else {
                return;
            };
            if let Some(s) = self.held.remove(&seq) {
                self.take(seq, s.at, &s.bytes);
            }
        }
    }
}

/// A TCP connection.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The end that connected.
    pub active: SocketAddr,
    /// The end that accepted (port 988 when the SYN is not in the capture).
    pub passive: SocketAddr,
    /// The capture holds its beginning.
    pub from_start: bool,
    /// Bytes of the active end.
    pub a: Dir,
    /// Bytes of the passive end.
    pub p: Dir,
    /// Time at which it began and ended.
    pub signs: Vec<Sign>,
}

/// Signs of TCP itself on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SignKind {
    /// The active end asked for the connection.
    Syn,
    /// The active end knows that it has it.
    Open,
    /// An end sends no more. Repeats are left out.
    Fin,
    /// An end has given it up. Repeats are left out.
    Reset,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sign {
    /// Since the first frame of the capture, in ns.
    pub at: u64,
    /// The active end's doing.
    pub active: bool,
    /// Its kind.
    pub kind: SignKind,
}

/// Reads the connections of a capture, in the order of their first frames.
///
/// # Errors
/// Those of the file reader; frames that are not TCP over IP over Ethernet are skipped.
pub fn flows(path: &Path) -> Result<Vec<Flow>, PcapError> {
    let mut reader = PcapReader::new(File::open(path).map_err(PcapError::IoError)?)?;
    let mut out: Vec<Flow> = Vec::new();
    let mut start = None;
    let resolution = reader.header().ts_resolution;
    while let Some(raw) = reader.next_raw_packet() {
        // Of long frames only the front may have been captured.
        let packet = raw?.try_into_pcap_packet(resolution, u32::MAX)?;
        let ns = packet.timestamp.as_nanos() as u64;
        let at = ns.saturating_sub(*start.get_or_insert(ns));
        let Some(seg) = tcp(&packet.data) else { continue };
        let syn = seg.flags & 0x12 == 0x02;
        let known = out.iter_mut().rev().find(|f| {
            (f.active, f.passive) == (seg.src, seg.dst) || (f.active, f.passive) == (seg.dst, seg.src)
        });
        let flow = match known {
            // The same ports again: a new connection, unless the SYN is sent again.
            Some(f) if !syn || !f.used() => f,
            _ => {
                let from_active = syn || seg.dst.port() == 988;
                let (active, passive) = if from_active { (seg.src, seg.dst) } else { (seg.dst, seg.src) };
                out.push(Flow {
                    active,
                    passive,
                    from_start: syn,
                    a: Dir::default(),
                    p: Dir::default(),
                    signs: Vec::new(),
                });
                let Some(f) = out.last_mut() else { continue };
                f
            }
        };
        flow.note(at, seg.src == flow.active, seg.flags);
        let dir = if seg.src == flow.active { &mut flow.a } else { &mut flow.p };
        if seg.flags & 0x02 != 0 {
            dir.next_seq = Some(seg.seq.wrapping_add(1));
        }
        dir.take(seg.seq, at, seg.payload);
    }
    Ok(out)
}

struct Tcp<'a> {
    src: SocketAddr,
    dst: SocketAddr,
    seq: u32,
    flags: u8,
    payload: &'a [u8],
}

/// Takes a frame apart as far as TCP.
fn tcp(frame: &[u8]) -> Option<Tcp<'_>> {
    let be = ByteOrder::Big;
    let mut off = 14;
    let mut kind = be.u16(frame, 12);
    if kind == 0x8100 {
        kind = be.u16(frame, 16);
        off = 18;
    }
    let ip = frame.get(off..)?;
    let (src, dst, segment): (IpAddr, IpAddr, &[u8]) = match kind {
        0x0800 => {
            let ihl = usize::from(ip.first()? & 15) * 4;
            // Frames that a guest left to segment offload may carry a length of 0.
            let total = match usize::from(be.u16(ip, 2)) {
                0 => ip.len(),
                n => n.min(ip.len()),
            };
            if *ip.get(9)? != 6 {
                return None;
            }
            let addr = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?));
            (addr(12)?.into(), addr(16)?.into(), ip.get(ihl..total)?)
        }
        0x86DD => {
            if *ip.get(6)? != 6 {
                return None;
            }
            let total = match usize::from(be.u16(ip, 4)) {
                0 => ip.len(),
                n => (n + 40).min(ip.len()),
            };
            let addr = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?));
            (addr(8)?.into(), addr(24)?.into(), ip.get(40..total)?)
        }
        _ => return None,
    };
    let data = usize::from(segment.get(12)? >> 4) * 4;
    Some(Tcp {
        src: SocketAddr::new(src, be.u16(segment, 0)),
        dst: SocketAddr::new(dst, be.u16(segment, 2)),
        seq: be.u32(segment, 4),
        flags: *segment.get(13)?,
        payload: segment.get(data..)?,
    })
}

/// A message in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Msg {
    /// Acceptor request.
    Acceptor(AcceptorReq),
    /// HELLO.
    Hello(Hello),
    /// NOOP.
    Noop(KsockHdr),
    /// LNet message with its payload. On V1 there is no ksock header: an empty one stands for it.
    Lnet(KsockHdr, LnetHdr, Vec<u8>),
}

impl Msg {
    /// Name as the capture lists have it.
    pub fn name(&self) -> &'static str {
        match self {
            Msg::Acceptor(_) => "ACCEPTOR",
            Msg::Hello(_) => "HELLO",
            Msg::Noop(_) => "NOOP",
            Msg::Lnet(..) => "LNET",
        }
    }
}

/// A message and where its bytes lie in the stream.
#[derive(Clone, Debug)]
pub struct Located {
    /// The message.
    pub msg: Msg,
    /// Its bytes.
    pub range: std::ops::Range<usize>,
    /// Time at which its last byte was captured, in ns.
    pub at: u64,
}

impl Flow {
    /// Whether anything but its SYN has been seen of it.
    fn used(&self) -> bool {
        !self.a.segments.is_empty() || self.signs.iter().any(|s| s.kind == SignKind::Reset)
    }

    /// Takes the flags of a frame.
    fn note(&mut self, at: u64, active: bool, flags: u8) {
        let kinds = [
            (flags & 0x12 == 0x02 && active, SignKind::Syn),
            (flags & 0x16 == 0x10 && active, SignKind::Open),
            (flags & 0x01 != 0, SignKind::Fin),
            (flags & 0x04 != 0, SignKind::Reset),
        ];
        for (_, kind) in kinds.into_iter().filter(|k| k.0) {
            if !self.signs.iter().any(|s| (s.active, s.kind) == (active, kind)) {
                self.signs.push(Sign { at, active, kind });
            }
        }
    }

    /// The version agreed upon: the one of the answer, which is also what a refusal asks for. V3 for a connection
    /// whose beginning is not there.
    pub fn version(&self) -> Version {
        let answer = self.from_start.then(|| Hello::parse(&self.p.bytes()).ok()).flatten();
        answer.map_or(Version::V3, |(h, _)| h.version)
    }

    /// Whether the passive side refused.
    pub fn refused(&self) -> bool {
        let answer = self.from_start.then(|| Hello::parse(&self.p.bytes()).ok()).flatten();
        answer.is_some_and(|(h, _)| h.ctype == ConnType::None)
    }
}

/// The messages of one direction of a connection of `version`, and the number of bytes left over.
///
/// # Errors
/// Those of the parser, for bytes that are no message.
pub fn messages(
    dir: &Dir,
    active: bool,
    from_start: bool,
    version: Version,
) -> Result<(Vec<Located>, usize), WireError> {
    match good_messages(dir, active, from_start, version) {
        (_, _, Some(e)) => Err(e),
        (list, left, None) => Ok((list, left)),
    }
}

/// The messages of one direction up to the first bytes that are none, the number of bytes left over, and what the
/// parser says of them.
pub fn good_messages(
    dir: &Dir,
    active: bool,
    from_start: bool,
    version: Version,
) -> (Vec<Located>, usize, Option<WireError>) {
    let stream = dir.bytes();
    let mut times = Vec::new();
    let mut end = 0;
    for s in &dir.segments {
        end += s.bytes.len();
        times.push((end, s.at));
    }
    let at = |pos: usize| times.iter().find(|(e, _)| pos <= *e).map_or(0, |(_, t)| *t);
    let (mut out, mut pos) = (Vec::new(), 0);
    let mut opening = if !from_start {
        0
    } else if active {
        2
    } else {
        1
    };
    let mut order = ByteOrder::Little;
    while let Some(rest) = stream.get(pos..).filter(|r| !r.is_empty()) {
        let parsed = match opening {
            2 => AcceptorReq::parse(rest).map(|(m, n)| (Msg::Acceptor(m), n)),
            1 => Hello::parse(rest).map(|(m, n)| {
                order = m.order;
                (Msg::Hello(m), n)
            }),
            _ => message(rest, version, order),
        };
        let (msg, len) = match parsed {
            Ok(ok) => ok,
            Err(WireError::Truncated { .. }) => break,
            Err(e) => return (out, stream.len() - pos, Some(e)),
        };
        opening = i32::max(opening - 1, 0);
        out.push(Located { msg, range: pos..pos + len, at: at(pos + len) });
        pos += len;
    }
    (out, stream.len() - pos, None)
}

/// The message at the front of a stream of `version`, and its length in bytes.
pub(super) fn message(buf: &[u8], version: Version, order: ByteOrder) -> Result<(Msg, usize), WireError> {
    let (k, ksm) = if version.has_ksock() {
        (KsockHdr::parse(buf, order)?, ksock::LEN)
    } else {
        (KsockHdr { kind: KsockType::Lnet, csum: 0, cookie0: 0, cookie1: 0 }, 0)
    };
    if k.kind == KsockType::Noop {
        return Ok((Msg::Noop(k), ksm));
    }
    let rest = buf.get(ksm..).unwrap_or_default();
    let h = LnetHdr::parse_as(version, rest)?;
    let end = version.lnet_len() + h.payload_len as usize;
    match rest.get(version.lnet_len()..end) {
        Some(pay) => Ok((Msg::Lnet(k, h, pay.to_vec()), ksm + end)),
        None => Err(WireError::Truncated { what: "payload", need: end, have: rest.len() }),
    }
}
