//! Ping info: what a node says of itself (docs/protocol/lnet.md §6.2).

use super::bytes::{ByteOrder, array};
use super::{Nid, Pid, WireError, need};

/// Magic of ping info.
pub const MAGIC: u32 = 0x7069_6E67;
/// Size of the part before the entries, in bytes.
pub const HDR_LEN: usize = 16;
/// Size of an entry, in bytes.
pub const ENTRY_LEN: usize = 16;
/// Most entries that a receiver accepts.
pub const MAX_NIS: u32 = 4096;
/// Longest info that is asked for, in bytes: all entries that may be.
pub const LEN_MAX: u32 = HDR_LEN as u32 + ENTRY_LEN as u32 * MAX_NIS;
/// Portal of pings and pushes.
pub const PORTAL: u32 = 0;
/// Match bits of pings and pushes.
pub const MATCH_BITS: u64 = 0x8000_0000_0000_0000;

/// Entries carry a status; info without it is rejected by every kernel.
pub const FEAT_NI_STATUS: u32 = 0x02;
/// The node does not route.
pub const FEAT_RTE_DISABLED: u32 = 0x04;
/// The node is Multi-Rail.
pub const FEAT_MULTI_RAIL: u32 = 0x08;
/// The node takes part in discovery.
pub const FEAT_DISCOVERY: u32 = 0x10;
/// Large entries follow.
pub const FEAT_LARGE_ADDR: u32 = 0x20;
/// The primary NID is the first large entry.
pub const FEAT_PRIMARY_LARGE: u32 = 0x40;
/// Features that a node without Multi-Rail reports: peers then use only the NID they know and never push.
pub const FEAT_MINIMAL: u32 = FEAT_NI_STATUS | FEAT_RTE_DISABLED;

/// State of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NiStatus {
    /// Up.
    Up,
    /// Down.
    Down,
    /// Any other word.
    Other(u32),
}

impl NiStatus {
    fn from_wire(v: u32) -> NiStatus {
        match v {
            0x15AA_C0DE => NiStatus::Up,
            0xDEAD_FACE => NiStatus::Down,
            other => NiStatus::Other(other),
        }
    }

    fn to_wire(self) -> u32 {
        match self {
            NiStatus::Up => 0x15AA_C0DE,
            NiStatus::Down => 0xDEAD_FACE,
            NiStatus::Other(v) => v,
        }
    }
}

/// One interface of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NiEntry {
    /// Its NID.
    pub nid: Nid,
    /// Its state.
    pub status: NiStatus,
}

/// Ping info. `nis` leaves out the loopback entry, which carries the sequence number instead of a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PingInfo {
    /// Feature bits.
    pub features: u32,
    /// Process of the node.
    pub pid: Pid,
    /// Grows by one with each interface that comes, goes or goes down: 2 for a fresh node with one. Features may change without
    /// it (upper.md §1.4).
    pub sequence: u32,
    /// Interfaces with 4-byte addresses; the first is the primary NID unless `PRIMARY_LARGE` is set.
    pub nis: Vec<NiEntry>,
    /// Interfaces with larger addresses.
    pub large: Vec<NiEntry>,
    /// Order of the sender's integers.
    pub order: ByteOrder,
}

impl PingInfo {
    /// Info of a node with these interfaces, up. NIDs that do not fit the entries with 8 bytes stand among the large ones;
    /// the first of `nids` is the primary one.
    pub fn new(nids: impl IntoIterator<Item = Nid>, pid: Pid, features: u32, sequence: u32) -> PingInfo {
        let up = |nid| NiEntry { nid, status: NiStatus::Up };
        let all: Vec<NiEntry> = nids.into_iter().map(up).collect();
        let is_large = |e: &NiEntry| e.nid.to_nid4().is_none();
        let primary = if all.first().is_some_and(is_large) { FEAT_PRIMARY_LARGE } else { 0 };
        let (large, nis): (Vec<_>, Vec<_>) = all.into_iter().partition(is_large);
        let features = if large.is_empty() { features } else { features | FEAT_LARGE_ADDR | primary };
        PingInfo { features, pid, sequence, nis, large, order: ByteOrder::Little }
    }

    /// Parses and validates (magic, NI_STATUS, number of entries, loopback first). Bytes behind the entries that
    /// the feature bits do not announce are ignored; a tail cut short by a small sink is left out.
    ///
    /// # Errors
    /// [`WireError::Truncated`], [`WireError::BadMagic`], [`WireError::BadPingInfo`].
    pub fn parse(buf: &[u8]) -> Result<PingInfo, WireError> {
        const WHAT: &str = "ping info";
        need(WHAT, buf, HDR_LEN)?;
        let Some(order) = ByteOrder::of_magic(buf, MAGIC) else {
            return Err(WireError::BadMagic { what: WHAT, got: ByteOrder::Little.u32(buf, 0) });
        };
        let features = order.u32(buf, 4);
        if features & FEAT_NI_STATUS == 0 {
            return Err(WireError::BadPingInfo("the mandatory NI_STATUS feature is missing"));
        }
        let nnis = order.u32(buf, 12);
        if nnis == 0 || nnis > MAX_NIS {
            return Err(WireError::BadPingInfo("the number of entries is not 1 to 4096"));
        }
        let end = HDR_LEN + ENTRY_LEN * nnis as usize;
        need(WHAT, buf, end)?;
        if Nid::from_nid4(order.u64(buf, HDR_LEN)) != Nid::LO {
            return Err(WireError::BadPingInfo("the first entry is not 0@lo"));
        }
        let nis = (1..nnis as usize)
            .map(|i| HDR_LEN + ENTRY_LEN * i)
            .map(|at| NiEntry {
                nid: Nid::from_nid4(order.u64(buf, at)),
                status: NiStatus::from_wire(order.u32(buf, at + 8)),
            })
            .collect();
        let mut large = Vec::new();
        if features & FEAT_LARGE_ADDR != 0 {
            let total = (order.u32(buf, HDR_LEN + 12) as usize).min(buf.len());
            let mut at = end;
            while let Some(&size) = buf.get(..total).and_then(|b| b.get(at + 4)) {
                let nid_len = usize::from(size) + 8;
                if nid_len > 20 || at + 4 + nid_len > total {
                    break;
                }
                let mut raw: [u8; 20] = array(buf, at + 4);
                if at + 24 > buf.len() {
                    raw = [0; 20];
                    for (dst, src) in raw.iter_mut().zip(buf.get(at + 4..).unwrap_or_default()) {
                        *dst = *src;
                    }
                }
                raw.get_mut(nid_len..).unwrap_or_default().fill(0);
                large.push(NiEntry {
                    nid: Nid::from_nid16(raw),
                    status: NiStatus::from_wire(order.u32(buf, at)),
                });
                at += (4 + nid_len).next_multiple_of(4);
            }
        }
        Ok(PingInfo {
            features,
            pid: order.u32(buf, 8),
            sequence: order.u32(buf, HDR_LEN + 8),
            nis,
            large,
            order,
        })
    }

    /// NIDs of the node, the primary one first.
    pub fn nids(&self) -> impl Iterator<Item = Nid> + '_ {
        let primary = self.features & FEAT_PRIMARY_LARGE != 0;
        let first = if primary { self.large.first() } else { None };
        let rest = if primary { self.large.get(1..).unwrap_or_default() } else { &self.large };
        first.into_iter().chain(&self.nis).chain(rest).map(|e| e.nid).filter(|n| !n.is_any() && *n != Nid::LO)
    }

    /// State of one of its NIs; `None` for a NID that is none of them.
    pub fn status_of(&self, nid: Nid) -> Option<NiStatus> {
        self.nis.iter().chain(&self.large).find(|e| e.nid == nid).map(|e| e.status)
    }

    /// Appends the bytes to `out`.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let o = self.order;
        let start = out.len();
        let large: usize = self.large.iter().map(|e| large_len(e.nid)).sum();
        let nnis = 1 + self.nis.len();
        let total = HDR_LEN + ENTRY_LEN * nnis + large;
        out.resize(start + total, 0);
        let Some(b) = out.get_mut(start..) else { return };
        o.put_u32(b, 0, MAGIC);
        o.put_u32(b, 4, self.features);
        o.put_u32(b, 8, self.pid);
        o.put_u32(b, 12, nnis as u32);
        o.put_u64(b, HDR_LEN, Nid::LO.to_nid4().unwrap_or(0));
        o.put_u32(b, HDR_LEN + 8, self.sequence);
        if self.features & FEAT_LARGE_ADDR != 0 {
            o.put_u32(b, HDR_LEN + 12, total as u32);
        }
        for (i, e) in self.nis.iter().enumerate() {
            let at = HDR_LEN + ENTRY_LEN * (i + 1);
            o.put_u64(b, at, e.nid.to_nid4().unwrap_or(u64::MAX));
            o.put_u32(b, at + 8, e.status.to_wire());
        }
        let mut at = HDR_LEN + ENTRY_LEN * nnis;
        for e in &self.large {
            o.put_u32(b, at, e.status.to_wire());
            let raw = e.nid.to_nid16();
            for (dst, src) in b.get_mut(at + 4..).unwrap_or_default().iter_mut().zip(raw) {
                *dst = src;
            }
            at += large_len(e.nid);
        }
    }
}

/// Length of all of an info that is here in part, in bytes and [`LEN_MAX`] at most; `None` for what is none.
pub fn whole_len(part: &[u8]) -> Option<u32> {
    let order = ByteOrder::of_magic(part, MAGIC).filter(|_| part.len() >= HDR_LEN)?;
    let nnis = Some(order.u32(part, 12)).filter(|n| (1..=MAX_NIS).contains(n))?;
    let entries = HDR_LEN as u32 + ENTRY_LEN as u32 * nnis;
    let large = order.u32(part, 4) & FEAT_LARGE_ADDR != 0 && part.len() >= HDR_LEN + ENTRY_LEN;
    let total = if large { order.u32(part, HDR_LEN + 12) } else { 0 };
    Some(entries.max(total).min(LEN_MAX))
}

/// Bytes that a large entry takes.
fn large_len(nid: Nid) -> usize {
    (4 + 8 + usize::from(nid.to_nid16()[0])).next_multiple_of(4)
}
