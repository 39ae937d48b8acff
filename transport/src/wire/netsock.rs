//! Motr's netsock (docs/protocol/netsock.md): the 160-byte packet header, buffer descriptors, cookies and addresses (§2), names
//! of addresses ([`Name`], §3), and the descriptor of Motr's other transport ([`LnetDesc`], netxprt.md §9).
//!
//! Integers are little endian throughout; the 16 address bytes are in network order. An [`Addr`] keeps what was sent, sense or
//! nonsense, so that a header and a descriptor are written as they were read.

mod lnet_desc;
mod name;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use self::lnet_desc::{LnetDesc, LnetDescError, LnetQueue};
pub use self::name::{Name, NameError, Tmids};
use super::bytes::{ByteOrder, array, put};

const LE: ByteOrder = ByteOrder::Little;

/// Size of a packet header, in bytes.
pub const HDR_LEN: usize = 160;
/// Size of a buffer descriptor, in bytes.
pub const BDESC_LEN: usize = 48;
/// Size of an address, in bytes.
pub const ADDR_LEN: usize = 32;

const HEADER_MAGIC: u64 = 0x3301_1ca5_e511_de77;
const FOOTER_MAGIC: u64 = 0x33f0_07e7_f007_e777;
/// Place of the footer: the only place that the tag may name.
const FOOTER: usize = 144;
const TAG_PUT: u64 = tag(1);
const TAG_GET: u64 = tag(2);

/// Version 1, a type, the place of the footer.
const fn tag(kind: u64) -> u64 {
    1 << 48 | kind << 32 | FOOTER as u64
}

/// Linux error numbers that Motr gives for what goes wrong here.
pub mod errno {
    /// A protocol error.
    pub const EPROTO: i32 = 71;
    /// Not this buffer's.
    pub const EPERM: i32 = 1;
    /// A number too large.
    pub const EFBIG: i32 = 27;
    /// More than the buffer holds.
    pub const EMSGSIZE: i32 = 90;
    /// An argument that makes no sense.
    pub const EINVAL: i32 = 22;
    /// A number out of range.
    pub const ERANGE: i32 = 34;
    /// An address family that cannot be used.
    pub const EAFNOSUPPORT: i32 = 97;
    /// Somebody listens there.
    pub const EADDRINUSE: i32 = 98;
    /// The process may not.
    pub const EACCES: i32 = 13;
    /// The network does not work.
    pub const ENETDOWN: i32 = 100;
    /// All numbers are taken, or the address is another machine's.
    pub const EADDRNOTAVAIL: i32 = 99;
    /// A timeout that is over already.
    pub const ETIME: i32 = 62;
    /// Its timeout is over.
    pub const ETIMEDOUT: i32 = 110;
    /// It was given up.
    pub const ECANCELED: i32 = 125;
    /// The connection that carried it is lost.
    pub const ECONNRESET: i32 = 104;
    /// Nobody listens there.
    pub const ECONNREFUSED: i32 = 111;
    /// The peer does not answer any more.
    pub const EHOSTUNREACH: i32 = 113;
    /// No route leads there.
    pub const ENETUNREACH: i32 = 101;
    /// No room for more.
    pub const ENOBUFS: i32 = 105;
    /// The transfer machine goes down.
    pub const ESHUTDOWN: i32 = 108;
}

/// The 64-bit FNV-1 hash: multiplied first, then XORed (not FNV-1a).
#[inline]
pub fn fnv1(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| h.wrapping_mul(0x0000_0100_0000_01b3) ^ u64::from(*b))
}

/// An address (§2.1). Two are one end-point when all fields are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Addr {
    /// [`Addr::INET`] or [`Addr::INET6`].
    pub family: u32,
    /// [`Addr::STREAM`] or [`Addr::DGRAM`].
    pub socktype: u32,
    /// 6 for TCP, 17 for UDP.
    pub protocol: u32,
    /// Port.
    pub port: u32,
    /// IPv4: 4 bytes and 12 zeros. IPv6: 16 bytes.
    pub data: [u8; 16],
}

impl Addr {
    /// IPv4.
    pub const INET: u32 = 2;
    /// IPv6.
    pub const INET6: u32 = 10;
    /// A byte stream.
    pub const STREAM: u32 = 1;
    /// Datagrams.
    pub const DGRAM: u32 = 2;
    const TCP: u32 = 6;
    const UDP: u32 = 17;

    /// The address of a TCP port.
    pub fn stream(at: SocketAddr) -> Addr {
        Addr::of(at, Addr::STREAM, Addr::TCP)
    }

    /// The address of a UDP port.
    pub fn dgram(at: SocketAddr) -> Addr {
        Addr::of(at, Addr::DGRAM, Addr::UDP)
    }

    fn of(at: SocketAddr, socktype: u32, protocol: u32) -> Addr {
        let mut data = [0; 16];
        let family = match at.ip() {
            IpAddr::V4(ip) => {
                put(&mut data, 0, ip.octets());
                Addr::INET
            }
            IpAddr::V6(ip) => {
                data = ip.octets();
                Addr::INET6
            }
        };
        Addr { family, socktype, protocol, port: at.port().into(), data }
    }

    /// The IP address; `None` where the family has none, or the bytes behind an IPv4 address are not zero.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.family {
            Addr::INET if array::<12>(&self.data, 4) == [0; 12] => {
                Some(Ipv4Addr::from(array::<4>(&self.data, 0)).into())
            }
            Addr::INET6 => Some(Ipv6Addr::from(self.data).into()),
            _ => None,
        }
    }

    /// The TCP or UDP port that a peer is reached at; `None` for what is no address of one.
    pub fn reached(&self) -> Option<SocketAddr> {
        let port = u16::try_from(self.port).ok().filter(|p| *p != 0)?;
        let ip = self.ip().filter(|ip| !ip.is_unspecified() && !ip.is_multicast())?;
        let stream = (self.socktype, self.protocol) == (Addr::STREAM, Addr::TCP);
        (stream || self.is_dgram()).then(|| SocketAddr::new(ip, port))
    }

    /// The TCP port that a peer can be dialled at; `None` for what is no address of one.
    pub fn dialled(&self) -> Option<SocketAddr> {
        self.reached().filter(|_| !self.is_dgram())
    }

    /// Whether it is reached by datagrams.
    pub fn is_dgram(&self) -> bool {
        (self.socktype, self.protocol) == (Addr::DGRAM, Addr::UDP)
    }

    /// Whether both are reached in the same way: IP and transport are the same.
    pub fn same_kind(&self, other: &Addr) -> bool {
        (self.family, self.socktype, self.protocol) == (other.family, other.socktype, other.protocol)
    }

    /// Whether both are of one host, family and protocol: all fields but the port are equal.
    pub fn same_host(&self, other: &Addr) -> bool {
        Addr { port: 0, ..*self } == Addr { port: 0, ..*other }
    }

    fn read(buf: &[u8], off: usize) -> Addr {
        Addr {
            family: LE.u32(buf, off),
            socktype: LE.u32(buf, off + 4),
            protocol: LE.u32(buf, off + 8),
            port: LE.u32(buf, off + 12),
            data: array(buf, off + 16),
        }
    }

    fn write(&self, buf: &mut [u8], off: usize) {
        LE.put_u32(buf, off, self.family);
        LE.put_u32(buf, off + 4, self.socktype);
        LE.put_u32(buf, off + 8, self.protocol);
        LE.put_u32(buf, off + 12, self.port);
        put(buf, off + 16, self.data);
    }
}

/// Names a buffer of the node that made it, and means nothing to others (§2.2, §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Cookie {
    /// Motr: the address of the buffer's generation.
    pub addr: u64,
    /// Distinguishes uses of a buffer.
    pub generation: u64,
}

impl Cookie {
    /// Names no buffer.
    pub const NONE: Cookie = Cookie { addr: 0, generation: 0 };

    /// Whether it names no buffer.
    pub fn is_none(&self) -> bool {
        *self == Cookie::NONE
    }
}

/// A buffer of a transfer machine; byte for byte the descriptor that is given to others (§2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Bdesc {
    /// The transfer machine.
    pub addr: Addr,
    /// The buffer.
    pub cookie: Cookie,
}

/// A descriptor that ends too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a buffer descriptor of {0} bytes, where 48 are needed: pass it on as it was made")]
pub struct ShortDesc(pub usize);

impl ShortDesc {
    /// Motr's error number.
    pub fn errno(self) -> i32 {
        errno::EPROTO
    }
}

impl Bdesc {
    /// Reads the first 48 bytes; more are ignored, as Motr does.
    ///
    /// # Errors
    /// [`ShortDesc`]
    pub fn parse(buf: &[u8]) -> Result<Bdesc, ShortDesc> {
        if buf.len() < BDESC_LEN { Err(ShortDesc(buf.len())) } else { Ok(Bdesc::read(buf, 0)) }
    }

    /// The bytes.
    pub fn emit(&self) -> [u8; BDESC_LEN] {
        let mut b = [0; BDESC_LEN];
        self.write(&mut b, 0);
        b
    }

    fn read(buf: &[u8], off: usize) -> Bdesc {
        let cookie =
            Cookie { addr: LE.u64(buf, off + ADDR_LEN), generation: LE.u64(buf, off + ADDR_LEN + 8) };
        Bdesc { addr: Addr::read(buf, off), cookie }
    }

    fn write(&self, buf: &mut [u8], off: usize) {
        self.addr.write(buf, off);
        LE.put_u64(buf, off + ADDR_LEN, self.cookie.addr);
        LE.put_u64(buf, off + ADDR_LEN + 8, self.cookie.generation);
    }
}

/// Kinds of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketType {
    /// Header and payload.
    Put,
    /// Header alone: put that buffer of yours into this one of mine.
    Get,
}

/// A packet header (§2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketHdr {
    /// PUT or GET.
    pub kind: PacketType,
    /// PUT: the buffer that the payload comes from. GET: the asker's, where it is to go.
    pub src: Bdesc,
    /// PUT: the buffer that the payload goes to. GET: the one asked for.
    pub dst: Bdesc,
    /// Number of the packet in its buffer, from 0.
    pub idx: u32,
    /// Packets of the buffer.
    pub nr: u32,
    /// Bytes of payload in this packet.
    pub size: u64,
    /// Where in the buffer they belong.
    pub offset: u64,
    /// Bytes of the whole buffer.
    pub total: u64,
}

/// Least payload of a datagram that others of its buffer follow, in bytes: it bounds the packets of a buffer.
pub const DGRAM_LEAST: u64 = 256;
/// Most bytes of a datagram of UDP over IPv4 or IPv6 without jumbograms, headers of UDP and IP counted.
const DGRAM_MOST: u32 = 65_535;

/// Most payload of a packet in a datagram (§5).
pub const fn dgram_payload_max(v6: bool) -> u32 {
    DGRAM_MOST - (if v6 { 40 } else { 20 }) - 8 - HDR_LEN as u32
}

/// A header that no sender may send. In the order of §6; the tag is looked at before the footer that it locates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Fewer bytes than a header has.
    #[error("a netsock header has 160 bytes, {0} are there")]
    Truncated(usize),
    /// Check 1.
    #[error("netsock header magic {0:#018x}: is another protocol's peer on this port?")]
    HeaderMagic(u64),
    /// Check 4: neither PUT nor GET of version 1 with its footer at 144.
    #[error("netsock header tag {0:#018x} is neither PUT nor GET of version 1")]
    Tag(u64),
    /// Check 2.
    #[error("netsock footer magic {0:#018x}")]
    FooterMagic(u64),
    /// Check 3.
    #[error("netsock header checksum {got:#018x}, it is {want:#018x}")]
    Checksum {
        /// The one sent.
        got: u64,
        /// The one of the bytes.
        want: u64,
    },
    /// Check 5.
    #[error("packet {idx} of {nr}")]
    Index {
        /// Number of the packet.
        idx: u32,
        /// Number of packets.
        nr: u32,
    },
    /// Check 6.
    #[error("{size} bytes at offset {offset} wrap round")]
    Wraps {
        /// Bytes.
        size: u64,
        /// Offset.
        offset: u64,
    },
    /// Check 7.
    #[error("bytes up to {end} in a buffer of {total}")]
    PastTotal {
        /// End of the packet.
        end: u64,
        /// Size of the buffer.
        total: u64,
    },
    /// Check 8.
    #[error("the first packet is at offset {0}")]
    FirstOffset(u64),
    /// Check 9.
    #[error("the last packet ends at {end} of {total}")]
    LastEnd {
        /// End of the packet.
        end: u64,
        /// Size of the buffer.
        total: u64,
    },
}

impl PacketError {
    /// Motr's error number.
    pub fn errno(&self) -> i32 {
        match self {
            PacketError::Wraps { .. } => errno::EFBIG,
            _ => errno::EPROTO,
        }
    }
}

impl PacketHdr {
    /// Reads the first 160 bytes of `buf` by checks 1 to 9 of §6.
    ///
    /// # Errors
    /// [`PacketError`]
    pub fn parse(buf: &[u8]) -> Result<PacketHdr, PacketError> {
        let Some(buf) = buf.get(..HDR_LEN) else { return Err(PacketError::Truncated(buf.len())) };
        let magic = LE.u64(buf, 0);
        if magic != HEADER_MAGIC {
            return Err(PacketError::HeaderMagic(magic));
        }
        let kind = match LE.u64(buf, 8) {
            TAG_PUT => PacketType::Put,
            TAG_GET => PacketType::Get,
            other => return Err(PacketError::Tag(other)),
        };
        let magic = LE.u64(buf, FOOTER);
        if magic != FOOTER_MAGIC {
            return Err(PacketError::FooterMagic(magic));
        }
        let (got, want) = (LE.u64(buf, FOOTER + 8), fnv1(buf.get(..FOOTER).unwrap_or_default()));
        if got != want {
            return Err(PacketError::Checksum { got, want });
        }
        let h = PacketHdr {
            kind,
            src: Bdesc::read(buf, 16),
            dst: Bdesc::read(buf, 64),
            idx: LE.u32(buf, 112),
            nr: LE.u32(buf, 116),
            size: LE.u64(buf, 120),
            offset: LE.u64(buf, 128),
            total: LE.u64(buf, 136),
        };
        h.check()?;
        Ok(h)
    }

    fn check(&self) -> Result<(), PacketError> {
        let PacketHdr { idx, nr, size, offset, total, .. } = *self;
        if idx >= nr {
            return Err(PacketError::Index { idx, nr });
        }
        let Some(end) = offset.checked_add(size) else { return Err(PacketError::Wraps { size, offset }) };
        if end > total {
            return Err(PacketError::PastTotal { end, total });
        }
        if idx == 0 && offset != 0 {
            return Err(PacketError::FirstOffset(offset));
        }
        if idx == nr - 1 && end != total {
            return Err(PacketError::LastEnd { end, total });
        }
        Ok(())
    }

    /// The sender's cut of the buffer: bytes of each packet but the last, which has the rest; `None` where the packet is
    /// none of a buffer that was cut so. Every packet tells all of it (datagrams; §5).
    pub fn cut(&self) -> Option<u64> {
        let PacketHdr { idx, nr, size, offset, total, .. } = *self;
        let (idx, last) = (u64::from(idx), u64::from(nr).checked_sub(1)?);
        if last == 0 {
            return (size == total && offset == 0).then_some(total);
        }
        let piece = if idx < last { size } else { offset.checked_div(last)? };
        let rest = total.checked_sub(piece.checked_mul(last)?)?;
        let fits = piece >= DGRAM_LEAST && (1..=piece).contains(&rest) && piece.checked_mul(idx)? == offset;
        (fits && size == if idx < last { piece } else { rest }).then_some(piece)
    }

    /// The bytes, with footer and checksum.
    pub fn emit(&self) -> [u8; HDR_LEN] {
        let mut b = [0; HDR_LEN];
        LE.put_u64(&mut b, 0, HEADER_MAGIC);
        LE.put_u64(&mut b, 8, if self.kind == PacketType::Put { TAG_PUT } else { TAG_GET });
        self.src.write(&mut b, 16);
        self.dst.write(&mut b, 64);
        LE.put_u32(&mut b, 112, self.idx);
        LE.put_u32(&mut b, 116, self.nr);
        LE.put_u64(&mut b, 120, self.size);
        LE.put_u64(&mut b, 128, self.offset);
        LE.put_u64(&mut b, 136, self.total);
        LE.put_u64(&mut b, FOOTER, FOOTER_MAGIC);
        let sum = fnv1(b.get(..FOOTER).unwrap_or_default());
        LE.put_u64(&mut b, FOOTER + 8, sum);
        b
    }
}
