//! A wrapper round any port that writes what passes to a pcap file (nanosecond stamps, Ethernet).

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::forward::forward_port;
use crate::pkt::{Port, PortCounters, RX_BURST, RxPkt, TxPkt};
pub use crate::whole::CaptureError;
use crate::whole::WholePackets;

/// Time in which a file that cannot be written is not told of again, in ns.
const TELL: u64 = 60_000_000_000;

/// A port that writes a pcap. System calls and copies on the packet path: for looking, not for measuring.
pub struct CapturePort<P: Port> {
    inner: P,
    out: WholePackets,
    clock: Box<dyn Fn() -> u64>,
    tell: Box<dyn Fn(String)>,
    snap: usize,
    scratch: Vec<u8>,
    /// It has been told that the file takes no more, at a loss of so many packets before.
    failing: Option<u64>,
    /// Until then nothing is told, in ns of `clock`.
    silent: u64,
}

impl<P: Port> CapturePort<P> {
    /// Wraps `inner`; writes at most `snap` bytes of each packet to `path`. `clock` gives ns since the epoch
    /// that the reader should show. `tell` hears, once a minute at most, that the file takes no more (a full disk), and that
    /// it goes on: packets meanwhile are lost to it and counted, and the port does not mind.
    ///
    /// # Errors
    /// [`CaptureError`] names the path.
    pub fn new(
        inner: P,
        path: &Path,
        snap: usize,
        clock: Box<dyn Fn() -> u64>,
        tell: Box<dyn Fn(String)>,
    ) -> Result<CapturePort<P>, CaptureError> {
        let out = WholePackets::create(path)?;
        Ok(CapturePort { inner, out, clock, tell, snap, scratch: Vec::new(), failing: None, silent: 0 })
    }

    /// Packets that the file had no room for (a full disk).
    pub fn lost(&self) -> u64 {
        self.out.lost()
    }

    /// Unwraps the port; the file is complete after this.
    pub fn into_inner(self) -> P {
        self.inner
    }

    fn write(&mut self, len: u32) {
        let (now, before) = ((self.clock)(), self.out.lost());
        match self.out.write(Duration::from_nanos(now), len, &self.scratch) {
            Err(e) if self.failing.is_none() && now >= self.silent => {
                (self.failing, self.silent) = (Some(before), now + TELL);
                (self.tell)(format!(
                    "{e}; packets are missing there until it can be written again, and counted (port_capture_lost); nothing else \
                     suffers"
                ));
            }
            // Told of once what comes has been written, not only gathered.
            Ok(()) if self.out.is_written() => {
                if let Some(had) = self.failing.take() {
                    let (path, lost) = (self.out.path(), before - had);
                    (self.tell)(format!("capture {path} goes on; {lost} packets are missing before"));
                }
            }
            _ => {}
        }
    }
}

fn gather(scratch: &mut Vec<u8>, snap: usize) -> impl FnMut(&[u8]) {
    scratch.clear();
    move |b| {
        let n = b.len().min(snap - scratch.len());
        scratch.extend_from_slice(&b[..n]);
    }
}

impl<P: Port> Port for CapturePort<P> {
    type Rx = P::Rx;
    type Tx = P::Tx;

    forward_port!(inner: caps, tx_alloc, reclaim, nap, arm, home, rx_memory, link_up);

    fn counters(&self) -> PortCounters {
        PortCounters { capture_lost: self.out.lost(), ..self.inner.counters() }
    }

    fn rx_burst(&mut self, out: &mut ArrayVec<P::Rx, RX_BURST>) {
        let had = out.len();
        self.inner.rx_burst(out);
        for p in &out[had..] {
            p.for_each(&mut gather(&mut self.scratch, self.snap));
            self.write(p.len());
        }
    }

    fn tx_burst(&mut self, q: &mut VecDeque<P::Tx>) -> usize {
        // One at a time, so that only what the port took is written.
        let mut n = 0;
        while let Some(p) = q.pop_front() {
            let len = p.len();
            p.for_each(&mut gather(&mut self.scratch, self.snap));
            let mut one = VecDeque::from([p]);
            if self.inner.tx_burst(&mut one) == 0 {
                if let Some(p) = one.pop_front() {
                    q.push_front(p);
                }
                break;
            }
            self.write(len);
            n += 1;
        }
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{MemConfig, pair};
    use pcap_file::pcap::PcapReader;
    use std::fs::File;

    #[test]
    fn both_directions_are_written_once_each() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pcap");
        let (a, mut b) = pair(&MemConfig::default());
        let mut a = CapturePort::new(a, &path, 10, Box::new(|| 5_000_000_001), Box::new(drop)).unwrap();
        let mut t = a.tx_alloc().unwrap();
        t.copy_in(b"0123456789abcdef").unwrap();
        assert_eq!(a.tx_burst(&mut VecDeque::from([t])), 1);
        let mut t = b.tx_alloc().unwrap();
        t.copy_in(b"back").unwrap();
        b.tx_burst(&mut VecDeque::from([t]));
        let mut v = ArrayVec::new();
        a.rx_burst(&mut v);
        assert_eq!((v.len(), a.lost()), (1, 0));
        drop(a);
        let mut r = PcapReader::new(File::open(&path).unwrap()).unwrap();
        let p = r.next_packet().unwrap().unwrap();
        assert_eq!(
            (&p.data[..], p.orig_len, p.timestamp.as_nanos()),
            (&b"0123456789"[..], 16, 5_000_000_001)
        );
        assert_eq!(&r.next_packet().unwrap().unwrap().data[..], b"back");
        assert!(r.next_packet().is_none());
    }

    #[test]
    fn an_impossible_path_is_named() {
        let (a, _b) = pair(&MemConfig::default());
        let e = CapturePort::new(a, Path::new("/nonexistent/x.pcap"), 10, Box::new(|| 0), Box::new(drop))
            .err()
            .unwrap();
        assert!(e.to_string().contains("/nonexistent/x.pcap"));
    }
}
