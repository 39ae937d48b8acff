//! Watching the packets of one peer while a node runs.
//!
//! The lcore copies what matches, cut to a length, into records that wait in a ring; another thread writes them to
//! a file. The records go round: all are made beforehand, and a packet that finds none free is counted and not
//! recorded, so that the lcore never waits and never allocates.
//!
//! ```text
//!   lcore:  TapEnd ── free record ─> copy ──> full ring ─┐
//!                          ^                             v
//!   control thread:        └──────── give_back <── take, PcapFile
//! ```

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use crate::pkt::{Port, RxPkt, TxPkt};
use crate::whole::{CaptureError, WholePackets};

/// Enough of a packet for all headers, in bytes: Ethernet with a VLAN tag, IPv6, TCP with all options.
pub const HEADERS: usize = 128;

/// Filter of TCP packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapFilter {
    /// The peer's address.
    pub peer: IpAddr,
    /// The peer's port; any when `None`.
    pub port: Option<u16>,
    /// Our port; any when `None`.
    pub local_port: Option<u16>,
}

/// Ethernet, perhaps one VLAN tag, IP, TCP: the peer's address and port and ours of a packet that came (`rx`) or goes.
fn ends(b: &[u8], rx: bool) -> Option<(IpAddr, u16, u16)> {
    let be16 = |at: usize| Some(u16::from_be_bytes(b.get(at..at + 2)?.try_into().ok()?));
    let (kind, l3) = match be16(12)? {
        0x8100 => (be16(16)?, 18),
        kind => (kind, 14),
    };
    let (proto, l4, src, dst): (u8, usize, IpAddr, IpAddr) = match kind {
        0x0800 => {
            let addr = |at: usize| Some(<[u8; 4]>::try_from(b.get(at..at + 4)?).ok()?.into());
            let ihl = usize::from(b.get(l3)? & 0x0f) * 4;
            (*b.get(l3 + 9)?, l3 + ihl, addr(l3 + 12)?, addr(l3 + 16)?)
        }
        0x86dd => {
            let addr = |at: usize| Some(<[u8; 16]>::try_from(b.get(at..at + 16)?).ok()?.into());
            (*b.get(l3 + 6)?, l3 + 40, addr(l3 + 8)?, addr(l3 + 24)?)
        }
        _ => return None,
    };
    let (sport, dport) = (be16(l4)?, be16(l4 + 2)?);
    (proto == 6).then_some(if rx { (src, sport, dport) } else { (dst, dport, sport) })
}

impl TapFilter {
    /// Whether a packet whose headers are at the start of `b` is wanted.
    pub fn wants(&self, b: &[u8], rx: bool) -> bool {
        ends(b, rx).is_some_and(|(ip, port, local)| {
            ip == self.peer
                && self.port.is_none_or(|p| p == port)
                && self.local_port.is_none_or(|p| p == local)
        })
    }
}

/// A packet as it was seen.
#[derive(Clone, Debug, Default)]
pub struct Shot {
    /// Time, in ns of the lcore's clock.
    pub at: u64,
    /// Its whole length in bytes.
    pub len: u32,
    /// Its first bytes.
    pub bytes: Vec<u8>,
}

/// A ring of records between lcores and the thread that writes.
#[derive(Debug)]
pub struct Tap {
    filter: TapFilter,
    snap: usize,
    free: ArrayQueue<Box<Shot>>,
    full: ArrayQueue<Box<Shot>>,
    dropped: AtomicU64,
}

impl Tap {
    /// A ring of `records` (at least 1) of `snap` bytes each.
    pub fn new(filter: TapFilter, snap: usize, records: usize) -> Arc<Tap> {
        let records = records.max(1);
        let (free, full) = (ArrayQueue::new(records), ArrayQueue::new(records));
        for _ in 0..records {
            // The ring has room for each.
            let _ = free.push(Box::new(Shot { bytes: Vec::with_capacity(snap), ..Shot::default() }));
        }
        Arc::new(Tap { filter, snap, free, full, dropped: AtomicU64::new(0) })
    }

    /// The next record.
    pub fn take(&self) -> Option<Box<Shot>> {
        self.full.pop()
    }

    /// Lets a record be used again.
    pub fn give_back(&self, shot: Box<Shot>) {
        let _ = self.free.push(shot);
    }

    /// Packets that found no record free.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// An lcore's end of a [`Tap`].
#[derive(Debug)]
pub struct TapEnd {
    tap: Arc<Tap>,
    spare: Option<Box<Shot>>,
    /// Records of packets that the port has not taken yet, by their place in its queue.
    staged: VecDeque<(usize, Box<Shot>)>,
}

impl TapEnd {
    /// An end of `tap`.
    pub fn new(tap: &Arc<Tap>) -> TapEnd {
        let spare = tap.free.pop();
        TapEnd { spare, staged: VecDeque::with_capacity(tap.free.capacity()), tap: tap.clone() }
    }

    /// Another end of the same tap.
    #[must_use]
    pub fn twin(&self) -> TapEnd {
        TapEnd::new(&self.tap)
    }

    /// Copies a packet whose buffers `each` shows, if it is wanted.
    fn shoot(
        &mut self,
        rx: bool,
        len: u32,
        at: u64,
        each: impl FnOnce(&mut dyn FnMut(&[u8])),
    ) -> Option<Box<Shot>> {
        let (filter, snap) = (self.tap.filter, self.tap.snap);
        let mut shot = self.spare.take().or_else(|| self.tap.free.pop());
        let (mut first, mut wanted) = (true, false);
        each(&mut |b| {
            if std::mem::take(&mut first) {
                wanted = filter.wants(b, rx);
                if let Some(s) = &mut shot {
                    s.bytes.clear();
                }
            }
            if let Some(s) = shot.as_mut().filter(|_| wanted) {
                let n = b.len().min(snap - s.bytes.len());
                s.bytes.extend_from_slice(&b[..n]);
            }
        });
        if !wanted {
            self.spare = shot;
            return None;
        }
        if shot.is_none() {
            self.tap.dropped.fetch_add(1, Ordering::Relaxed);
        }
        shot.map(|mut s| {
            (s.at, s.len) = (at, len);
            s
        })
    }

    /// A packet came, at `now` (ns).
    pub fn received<R: RxPkt>(&mut self, p: &R, now: u64) {
        if let Some(s) = self.shoot(true, p.len(), now, |f| p.for_each(f)) {
            let _ = self.tap.full.push(s);
        }
    }

    /// [`Port::tx_burst`], with a look at what the port takes.
    pub fn send<P: Port>(&mut self, port: &mut P, q: &mut VecDeque<P::Tx>, now: u64) -> usize {
        for (i, p) in q.iter().enumerate() {
            if let Some(s) = self.shoot(false, p.len(), now, |f| p.for_each(f)) {
                self.staged.push_back((i, s));
            }
        }
        let n = port.tx_burst(q);
        for (i, s) in self.staged.drain(..) {
            if i < n {
                let _ = self.tap.full.push(s);
            } else {
                // Still in the queue: it is looked at again at the next burst.
                let _ = self.tap.free.push(s);
            }
        }
        n
    }
}

/// A capture file under way.
pub struct PcapFile {
    out: WholePackets,
    epoch: u64,
}

impl PcapFile {
    /// Makes the file. `epoch` is the time of the lcores' clock at 0, in ns since 1970.
    ///
    /// # Errors
    /// [`CaptureError`] names the path.
    pub fn create(path: &Path, epoch: u64) -> Result<PcapFile, CaptureError> {
        Ok(PcapFile { out: WholePackets::create(path)?, epoch })
    }

    /// Appends a packet. The file has whole packets whatever comes of it; how many are lost, [`PcapFile::lost`] tells.
    ///
    /// # Errors
    /// [`CaptureError`] with what the system said (a full disk).
    pub fn write(&mut self, s: &Shot) -> Result<(), CaptureError> {
        self.out.write(Duration::from_nanos(self.epoch.saturating_add(s.at)), s.len, &s.bytes)
    }

    /// Packets that could not be written.
    pub fn lost(&self) -> u64 {
        self.out.lost()
    }

    /// Completes the file.
    ///
    /// # Errors
    /// As [`PcapFile::write`].
    pub fn finish(&mut self) -> Result<(), CaptureError> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{MemConfig, MemPort, pair};
    use crate::pkt::TxMeta;
    use arrayvec::ArrayVec;

    /// A TCP packet in IPv4 between 10.0.0.`src` and 10.0.0.`dst`, with or without a VLAN tag.
    fn packet(src: (u8, u16), dst: (u8, u16), proto: u8, vlan: bool) -> Vec<u8> {
        let mut b = vec![2; 12];
        if vlan {
            b.extend([0x81, 0, 0, 7]);
        }
        b.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, proto, 0, 0, 10, 0, 0, src.0, 10, 0, 0, dst.0]);
        b.extend(src.1.to_be_bytes());
        b.extend(dst.1.to_be_bytes());
        b.resize(b.len() + 16, 0);
        b
    }

    fn filter(port: Option<u16>, local_port: Option<u16>) -> TapFilter {
        TapFilter { peer: IpAddr::from([10, 0, 0, 9]), port, local_port }
    }

    #[test]
    fn only_the_peers_tcp_is_wanted_each_way_its_own() {
        let (peer, us, other) = ((9, 1023), (1, 988), (8, 1023));
        for vlan in [false, true] {
            let wants = |f: TapFilter, s, d, proto, rx| f.wants(&packet(s, d, proto, vlan), rx);
            assert!(wants(filter(None, None), peer, us, 6, true));
            assert!(wants(filter(Some(1023), Some(988)), us, peer, 6, false));
            assert!(!wants(filter(Some(1022), None), us, peer, 6, false), "another port of the peer's");
            assert!(!wants(filter(None, Some(987)), us, peer, 6, false), "another port of ours");
            assert!(!wants(filter(None, None), us, peer, 6, true), "the direction matters");
            assert!(!wants(filter(None, None), other, us, 6, true));
            assert!(!wants(filter(None, None), peer, us, 17, true));
        }
        let mut six = vec![2; 12];
        six.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
        six.extend(std::iter::repeat_n(7, 16).chain(std::iter::repeat_n(8, 16)));
        six.extend([3, 255, 3, 220]);
        let f = TapFilter { peer: IpAddr::from([7; 16]), port: Some(1023), local_port: Some(988) };
        assert!(f.wants(&six, true) && !f.wants(&six, false));
        for cut in 0..six.len() {
            assert!(!f.wants(&six[..cut], true), "headers that are not there, {cut}");
        }
    }

    fn queue(a: &mut MemPort, packets: &[Vec<u8>]) -> VecDeque<<MemPort as Port>::Tx> {
        let made = packets.iter().map(|b| {
            let mut t = a.tx_alloc().unwrap();
            t.copy_in(b).unwrap();
            t.finish(TxMeta::default())
        });
        made.collect()
    }

    #[test]
    fn what_the_port_takes_is_recorded_once_and_what_finds_no_record_is_counted() {
        let (mut a, mut b) = pair(&MemConfig { depth: 2, ..MemConfig::default() });
        let mine = packet((1, 988), (9, 1023), 6, false);
        let tap = Tap::new(filter(None, None), 40, 3);
        let mut end = TapEnd::new(&tap);
        let mut q = queue(&mut a, &[mine.clone(), packet((1, 988), (8, 5), 6, false), mine.clone()]);
        assert_eq!(end.send(&mut a, &mut q, 5), 2);
        let s = tap.take().unwrap();
        assert_eq!((s.at, s.len as usize, &s.bytes[..]), (5, mine.len(), &mine[..40]));
        assert!(tap.take().is_none(), "the third is not on the wire yet");
        tap.give_back(s);
        let mut v = ArrayVec::new();
        b.rx_burst(&mut v);
        v.clear();
        assert_eq!(end.send(&mut a, &mut q, 6), 1);
        // Two more records are free; nobody takes any.
        let mut got = ArrayVec::new();
        b.rx_burst(&mut got);
        let back = packet((9, 1023), (1, 988), 6, false);
        for _ in 0..2 {
            let mut q = queue(&mut b, &[back.clone(), back.clone()]);
            b.tx_burst(&mut q);
            let mut v = ArrayVec::new();
            a.rx_burst(&mut v);
            for p in &v {
                end.received(p, 7);
            }
        }
        assert_eq!(tap.dropped(), 2);
        let at: Vec<_> = std::iter::from_fn(|| tap.take()).map(|s| s.at).collect();
        assert_eq!(at, [6, 7, 7]);
    }

    #[test]
    fn a_file_is_what_was_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pcap");
        let mut f = PcapFile::create(&path, 1_000_000_000).unwrap();
        f.write(&Shot { at: 7, len: 99, bytes: b"abc".to_vec() }).unwrap();
        f.finish().unwrap();
        let mut r = pcap_file::pcap::PcapReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        let p = r.next_packet().unwrap().unwrap();
        assert_eq!((&p.data[..], p.orig_len, p.timestamp.as_nanos()), (&b"abc"[..], 99, 1_000_000_007));
        assert!(r.next_packet().is_none());
        // Field report 12: what nobody reads, or everybody writes to, is refused and not waited for.
        let fifo = dir.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        for p in [&fifo, Path::new("/dev/full")] {
            let e = PcapFile::create(p, 0).err().unwrap().to_string();
            assert!(e.contains(&p.display().to_string()) && e.contains("no regular file"), "{e}");
        }
        let e = PcapFile::create(Path::new("/nonexistent/x.pcap"), 0).err().unwrap();
        assert!(e.to_string().contains("/nonexistent/x.pcap"));
    }
}
