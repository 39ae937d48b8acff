//! Messages of lnet_selftest, read by tables that follow docs/protocol/selftest.md §2 and §3 and nothing else: a second
//! opinion on `wire::srpc`, for the models of kernels and for what captures hold.

use std::fmt;

use crate::wire::{ByteOrder, Nid};

/// Length of a message, in bytes.
pub const LEN: usize = 160;
/// Its first word.
pub const MAGIC: u32 = 0xEEB0_F00D;
/// Its version.
pub const VERSION: u32 = 1;
/// The feature of bulk of any length, which is all that is known.
pub const BULK_LEN: u32 = 1;
/// Portals of test requests, framework requests, and replies with bulk.
pub const TESTS: u32 = 50;
/// Portal of framework requests.
pub const FRAMEWORK: u32 = 51;
/// Portal of replies and bulk.
pub const BULK: u32 = 52;

/// Service ids, which are the match bits of requests.
pub mod service {
    #![allow(missing_docs, reason = "names of the protocol")]
    pub const DEBUG: u64 = 0;
    pub const MAKE: u64 = 1;
    pub const REMOVE: u64 = 2;
    pub const BATCH: u64 = 3;
    pub const TEST: u64 = 4;
    pub const STAT: u64 = 5;
    pub const JOIN: u64 = 6;
    pub const BRW: u64 = 11;
    pub const PING: u64 = 12;
}

/// Types of messages: a reply's is its request's plus one.
pub mod kind {
    #![allow(missing_docs, reason = "names of the protocol")]
    pub const MAKE: u32 = 0;
    pub const REMOVE: u32 = 2;
    pub const BATCH: u32 = 4;
    pub const STAT: u32 = 6;
    pub const TEST: u32 = 8;
    pub const DEBUG: u32 = 10;
    pub const BRW: u32 = 12;
    pub const PING: u32 = 14;
    pub const JOIN: u32 = 16;
}

/// Services, and the types of their requests.
pub const KINDS: [(u64, u32); 9] = [
    (service::DEBUG, kind::DEBUG),
    (service::MAKE, kind::MAKE),
    (service::REMOVE, kind::REMOVE),
    (service::BATCH, kind::BATCH),
    (service::TEST, kind::TEST),
    (service::STAT, kind::STAT),
    (service::BRW, kind::BRW),
    (service::PING, kind::PING),
    (service::JOIN, kind::JOIN),
];

/// Codes that stand in `status`.
pub mod errno {
    #![allow(missing_docs, reason = "names of the protocol")]
    pub const ENOENT: u32 = 2;
    pub const ESRCH: u32 = 3;
    pub const EINTR: u32 = 4;
    pub const EIO: u32 = 5;
    pub const EBUSY: u32 = 16;
    pub const EINVAL: u32 = 22;
    pub const EPROTO: u32 = 71;
    pub const EBADMSG: u32 = 74;
    pub const ETIMEDOUT: u32 = 110;
}

/// A session's name on the wire: the console's NID and a stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sid(pub u64, pub u64);

impl Sid {
    /// No session.
    pub const ANY: Sid = Sid(u64::MAX, u64::MAX);
}

/// A field: its name, its offset in the message, its length in bytes. Longer ones than a word are bytes.
pub type Field = (&'static str, usize, usize);

const HEADER: &[Field] = &[
    ("magic", 0, 4),
    ("version", 4, 4),
    ("type", 8, 4),
    ("reserved0", 12, 4),
    ("reserved1", 16, 4),
    ("features", 20, 4),
];

/// Name of a type, and the fields of its body.
const TYPES: &[(u32, &str, &[Field])] = &[
    (
        0,
        "MKSN_REQST",
        &[("rpyid", 24, 8), ("sid_nid", 32, 8), ("sid_stamp", 40, 8), ("force", 48, 4), ("name", 52, 32)],
    ),
    (
        1,
        "MKSN_REPLY",
        &[("status", 24, 4), ("sid_nid", 28, 8), ("sid_stamp", 36, 8), ("timeout", 44, 4), ("name", 48, 32)],
    ),
    (2, "RMSN_REQST", &[("rpyid", 24, 8), ("sid_nid", 32, 8), ("sid_stamp", 40, 8)]),
    (3, "RMSN_REPLY", &[("status", 24, 4), ("sid_nid", 28, 8), ("sid_stamp", 36, 8)]),
    (
        4,
        "BATCH_REQST",
        &[
            ("rpyid", 24, 8),
            ("sid_nid", 32, 8),
            ("sid_stamp", 40, 8),
            ("batch", 48, 8),
            ("opc", 56, 4),
            ("testidx", 60, 4),
            ("arg", 64, 4),
        ],
    ),
    (
        5,
        "BATCH_REPLY",
        &[("status", 24, 4), ("sid_nid", 28, 8), ("sid_stamp", 36, 8), ("active", 44, 4), ("time", 48, 4)],
    ),
    (6, "STAT_REQST", &[("rpyid", 24, 8), ("sid_nid", 32, 8), ("sid_stamp", 40, 8), ("stat_type", 48, 4)]),
    (
        7,
        "STAT_REPLY",
        &[
            ("status", 24, 4),
            ("sid_nid", 28, 8),
            ("sid_stamp", 36, 8),
            ("running_ms", 44, 4),
            ("active_batches", 48, 4),
            ("zombie_sessions", 52, 4),
            ("brw_errors", 56, 4),
            ("ping_errors", 60, 4),
            ("rpc_errors", 64, 4),
            ("rpcs_sent", 68, 4),
            ("rpcs_rcvd", 72, 4),
            ("rpcs_dropped", 76, 4),
            ("rpcs_expired", 80, 4),
            ("bulk_get", 84, 8),
            ("bulk_put", 92, 8),
            ("msgs_alloc", 100, 4),
            ("msgs_max", 104, 4),
            ("lnet_errors", 108, 4),
            ("send_count", 112, 4),
            ("recv_count", 116, 4),
            ("route_count", 120, 4),
            ("drop_count", 124, 4),
            ("send_length", 128, 8),
            ("recv_length", 136, 8),
            ("route_length", 144, 8),
            ("drop_length", 152, 8),
        ],
    ),
    (
        8,
        "TEST_REQST",
        &[
            ("rpyid", 24, 8),
            ("bulkid", 32, 8),
            ("sid_nid", 40, 8),
            ("sid_stamp", 48, 8),
            ("batch", 56, 8),
            ("service", 64, 4),
            ("loop", 68, 4),
            ("concur", 72, 4),
            ("is_client", 76, 1),
            ("stop_onerr", 77, 1),
            ("ndest", 78, 4),
            ("param0", 82, 4),
            ("param1", 86, 4),
            ("param2", 90, 4),
        ],
    ),
    (9, "TEST_REPLY", &[("status", 24, 4), ("sid_nid", 28, 8), ("sid_stamp", 36, 8)]),
    (10, "DEBUG_REQST", &[("rpyid", 24, 8), ("sid_nid", 32, 8), ("sid_stamp", 40, 8), ("flags", 48, 4)]),
    (
        11,
        "DEBUG_REPLY",
        &[
            ("status", 24, 4),
            ("sid_nid", 28, 8),
            ("sid_stamp", 36, 8),
            ("timeout", 44, 4),
            ("nbatch", 48, 4),
            ("name", 52, 32),
        ],
    ),
    (
        12,
        "BRW_REQST",
        &[("rpyid", 24, 8), ("bulkid", 32, 8), ("rw", 40, 4), ("len", 44, 4), ("flags", 48, 4)],
    ),
    (13, "BRW_REPLY", &[("status", 24, 4)]),
    (
        14,
        "PING_REQST",
        &[("rpyid", 24, 8), ("ping_magic", 32, 4), ("seq", 36, 4), ("seconds", 40, 8), ("nanos", 48, 8)],
    ),
    (15, "PING_REPLY", &[("status", 24, 4), ("ping_magic", 28, 4), ("seq", 32, 4)]),
    (16, "JOIN_REQST", &[("rpyid", 24, 8), ("sid_nid", 32, 8), ("sid_stamp", 40, 8), ("group", 48, 32)]),
    (
        17,
        "JOIN_REPLY",
        &[("status", 24, 4), ("sid_nid", 28, 8), ("sid_stamp", 36, 8), ("timeout", 44, 4), ("name", 48, 32)],
    ),
];

/// A message. What is missing of a short one reads as zeros.
#[derive(Clone, PartialEq, Eq)]
pub struct Srpc {
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Srpc {
    /// An empty message of a type, in little endian.
    pub fn new(kind: u32, features: u32) -> Srpc {
        let empty = Srpc { bytes: vec![0; LEN] };
        let m = empty.with("magic", u64::from(MAGIC)).with("version", u64::from(VERSION));
        m.with("type", u64::from(kind)).with("features", u64::from(features))
    }

    /// These bytes.
    pub fn of(bytes: &[u8]) -> Srpc {
        Srpc { bytes: bytes.to_vec() }
    }

    /// The order of its sender.
    pub fn order(&self) -> ByteOrder {
        if ByteOrder::Big.u32(&self.bytes, 0) == MAGIC { ByteOrder::Big } else { ByteOrder::Little }
    }

    /// A whole message of this version's with the right first word.
    pub fn is_whole(&self) -> bool {
        self.bytes.len() == LEN && self.get("magic") == u64::from(MAGIC)
    }

    /// Its type.
    pub fn kind(&self) -> u32 {
        self.order().u32(&self.bytes, 8)
    }

    /// Its features.
    pub fn features(&self) -> u32 {
        self.order().u32(&self.bytes, 20)
    }

    /// Its type's name.
    pub fn name(&self) -> &'static str {
        TYPES.iter().find(|t| t.0 == self.kind()).map_or("UNKNOWN", |t| t.1)
    }

    /// Its fields.
    pub fn fields(&self) -> impl Iterator<Item = Field> + use<> {
        let body = TYPES.iter().find(|t| t.0 == self.kind()).map_or(&[][..], |t| t.2);
        HEADER.iter().chain(body).copied()
    }

    fn field(&self, name: &str) -> Field {
        let found =
            HEADER.iter().copied().find(|f| f.0 == name).or_else(|| self.fields().find(|f| f.0 == name));
        found.unwrap_or_else(|| panic!("{} has no {name}", self.name()))
    }

    /// Whether its type has such a field.
    pub fn has(&self, name: &str) -> bool {
        self.fields().any(|f| f.0 == name)
    }

    fn read(&self, (_, at, len): Field) -> u64 {
        let o = self.order();
        match len {
            1 => u64::from(self.bytes.get(at).copied().unwrap_or_default()),
            4 => u64::from(o.u32(&self.bytes, at)),
            8 => o.u64(&self.bytes, at),
            _ => u64::from(crc32fast::hash(self.bytes.get(at..at + len).unwrap_or_default())),
        }
    }

    /// The value of a field; the checksum of a text.
    ///
    /// # Panics
    /// The type has none of that name.
    pub fn get(&self, name: &str) -> u64 {
        self.read(self.field(name))
    }

    /// The same; 0 where the type has no such field.
    pub fn get_or(&self, name: &str) -> u64 {
        if self.has(name) { self.get(name) } else { 0 }
    }

    /// The same as 32 bits.
    pub fn word(&self, name: &str) -> u32 {
        self.get(name) as u32
    }

    /// With another value in a field.
    ///
    /// # Panics
    /// The type has none of that name.
    #[must_use]
    pub fn with(mut self, name: &str, v: u64) -> Srpc {
        let (order, (_, at, len)) = (self.order(), self.field(name));
        match len {
            1 => self.bytes[at] = v as u8,
            4 => order.put_u32(&mut self.bytes, at, v as u32),
            _ => order.put_u64(&mut self.bytes, at, v),
        }
        self
    }

    /// With this text in a field.
    #[must_use]
    pub fn with_text(mut self, name: &str, text: &str) -> Srpc {
        let (_, at, len) = self.field(name);
        let text = &text.as_bytes()[..text.len().min(len - 1)];
        self.bytes[at..at + len].fill(0);
        self.bytes[at..at + text.len()].copy_from_slice(text);
        self
    }

    /// The text in a field.
    pub fn text(&self, name: &str) -> String {
        let (_, at, len) = self.field(name);
        let all = self.bytes.get(at..at + len).unwrap_or_default();
        let end = all.iter().position(|b| *b == 0).unwrap_or(all.len());
        String::from_utf8_lossy(&all[..end]).into_owned()
    }

    /// The session that it names.
    pub fn sid(&self) -> Sid {
        Sid(self.get("sid_nid"), self.get("sid_stamp"))
    }

    /// With a session's name.
    #[must_use]
    pub fn with_sid(self, sid: Sid) -> Srpc {
        self.with("sid_nid", sid.0).with("sid_stamp", sid.1)
    }

    /// Names of the fields that differ from `other`'s of the same type; `length` and `rest` for what is no field's.
    pub fn differs(&self, other: &Srpc) -> Vec<&'static str> {
        let (mut out, mut named) = (Vec::new(), vec![false; LEN]);
        for f in self.fields() {
            named[f.1..f.1 + f.2].fill(true);
            if self.read(f) != other.read(f) {
                out.push(f.0);
            }
        }
        if self.bytes.len() != other.bytes.len() {
            out.push("length");
        }
        let rest = |s: &Srpc| -> Vec<u8> {
            s.bytes.iter().zip(&named).filter(|(_, n)| !**n).map(|(b, _)| *b).collect()
        };
        if rest(self) != rest(other) {
            out.push("rest");
        }
        out
    }

    /// Parameters of a BRW test: read (1) or write (2), flags, length, offset.
    pub fn brw(&self) -> (u32, u32, u32, u32) {
        let [a, b, c] = ["param0", "param1", "param2"].map(|p| self.word(p));
        if self.features() & BULK_LEN != 0 {
            // 16-bit halves change places with the byte order.
            let halves = [a & 0xFFFF, a >> 16];
            let [opc, flags] =
                if self.order() == ByteOrder::Little { halves } else { [halves[1], halves[0]] };
            (opc, flags, b, c)
        } else {
            (a, c, b * 4096, 0)
        }
    }

    /// With such parameters. Without bulk of any length a length is so many whole pages, and there is no offset.
    #[must_use]
    pub fn with_brw(self, (opc, flags, len, off): (u32, u32, u32, u32)) -> Srpc {
        if self.features() & BULK_LEN == 0 {
            let all = [("param0", opc), ("param1", len.div_ceil(4096)), ("param2", flags)];
            return all.into_iter().fold(self, |m, (name, v)| m.with(name, u64::from(v)));
        }
        let first = u64::from(opc | flags << 16);
        self.with("param0", first).with("param1", u64::from(len)).with("param2", u64::from(off))
    }
}

impl fmt::Debug for Srpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.name())?;
        for field in self.fields().filter(|x| x.1 >= 20) {
            if field.2 > 8 {
                write!(f, "{}={:?} ", field.0, self.text(field.0))?;
            } else {
                write!(f, "{}={:#x} ", field.0, self.read(field))?;
            }
        }
        write!(f, "{} bytes)", self.bytes.len())
    }
}

/// A destination list: 12 bytes a node, none across the border of two pages of 4096 bytes.
pub fn dests(bytes: &[u8], ndest: usize) -> Vec<Nid> {
    let le = ByteOrder::Little;
    (0..ndest).map(|i| Nid::from_nid4(le.u64(bytes, i / 341 * 4096 + i % 341 * 12))).collect()
}

/// The bytes of a destination list of at most one page.
pub fn dest_list(nids: &[Nid]) -> Vec<u8> {
    let mut out = Vec::new();
    for n in nids {
        out.extend(n.to_nid4().unwrap_or(u64::MAX).to_le_bytes());
        out.extend(12345u32.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_fit_and_fields_do_not_overlap() {
        for (kind, name, _) in TYPES {
            let (m, mut used) = (Srpc::new(*kind, 1), vec![false; LEN]);
            assert_eq!(m.name(), *name);
            for (field, at, len) in m.fields() {
                assert!(used[at..at + len].iter().all(|u| !u), "{name} {field}");
                used[at..at + len].fill(true);
            }
        }
    }

    #[test]
    fn differences_have_names() {
        let a = Srpc::new(kind::MAKE, 1).with("rpyid", 7).with_text("name", "x").with_sid(Sid(1, 2));
        let mut b = a.clone().with("rpyid", 8).with_text("name", "y");
        assert_eq!(a.differs(&b), ["rpyid", "name"]);
        b.bytes[159] = 1;
        assert_eq!(a.differs(&b), ["rpyid", "name", "rest"]);
        b.bytes.pop();
        assert!(a.differs(&b).contains(&"length") && !b.is_whole());
        assert_eq!((a.sid(), a.text("name")), (Sid(1, 2), "x".into()));
    }
}
