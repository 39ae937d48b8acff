//! A wrapper round any port that writes what passes to a pcap file (nanosecond stamps, Ethernet).

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use arrayvec::ArrayVec;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, TsResolution};

use crate::forward::forward_port;
use crate::pkt::{Port, RX_BURST, RxPkt, TxPkt};

/// Errors of writing a capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file could not be made.
    #[error("cannot write capture {path}: {source}")]
    Open {
        /// Path.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// The header could not be written.
    #[error("cannot write capture {path}: {reason}")]
    Header {
        /// Path.
        path: String,
        /// The writer's error.
        reason: String,
    },
}

/// The device /dev/null, major and minor number 1 and 3.
const NULL: u64 = 0x103;

/// Makes a file for packets, or empties it. A FIFO would stop whoever writes to it when nobody reads.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    match options.open(path).and_then(|f| Ok((f.metadata()?, f))) {
        Ok((m, file)) if m.is_file() || (m.file_type().is_char_device() && m.rdev() == NULL) => Ok(file),
        // A FIFO that nobody reads says that there is no such device.
        Err(e) if e.raw_os_error() != Some(libc::ENXIO) => Err(e),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file; give the path of one, or of none yet",
        )),
    }
}

/// A port that writes a pcap. System calls and copies on the packet path: for looking, not for measuring.
pub struct CapturePort<P: Port> {
    inner: P,
    out: PcapWriter<BufWriter<File>>,
    clock: Box<dyn Fn() -> u64>,
    snap: usize,
    scratch: Vec<u8>,
    errors: u64,
}

impl<P: Port> CapturePort<P> {
    /// Wraps `inner`; writes at most `snap` bytes of each packet to `path`. `clock` gives ns since the epoch
    /// that the reader should show.
    ///
    /// # Errors
    /// [`CaptureError`] names the path.
    pub fn new(
        inner: P,
        path: &Path,
        snap: usize,
        clock: Box<dyn Fn() -> u64>,
    ) -> Result<CapturePort<P>, CaptureError> {
        let name = path.display().to_string();
        let file = create(path).map_err(|source| CaptureError::Open { path: name.clone(), source })?;
        let header = PcapHeader {
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::NanoSecond,
            snaplen: 262_144,
            ..PcapHeader::default()
        };
        let out = PcapWriter::with_header(BufWriter::new(file), header)
            .map_err(|e| CaptureError::Header { path: name, reason: e.to_string() })?;
        Ok(CapturePort { inner, out, clock, snap, scratch: Vec::new(), errors: 0 })
    }

    /// Packets that could not be written (a full disk).
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// Unwraps the port; the file is complete after this.
    pub fn into_inner(self) -> P {
        self.inner
    }

    fn write(&mut self, len: u32) {
        let p = PcapPacket::new(Duration::from_nanos((self.clock)()), len, &self.scratch);
        if self.out.write_packet(&p).is_err() {
            self.errors += 1;
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

    forward_port!(inner: caps, tx_alloc, reclaim, nap, arm, home, rx_memory, link_up, counters);

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

    #[test]
    fn both_directions_are_written_once_each() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pcap");
        let (a, mut b) = pair(&MemConfig::default());
        let mut a = CapturePort::new(a, &path, 10, Box::new(|| 5_000_000_001)).unwrap();
        let mut t = a.tx_alloc().unwrap();
        t.copy_in(b"0123456789abcdef").unwrap();
        assert_eq!(a.tx_burst(&mut VecDeque::from([t])), 1);
        let mut t = b.tx_alloc().unwrap();
        t.copy_in(b"back").unwrap();
        b.tx_burst(&mut VecDeque::from([t]));
        let mut v = ArrayVec::new();
        a.rx_burst(&mut v);
        assert_eq!((v.len(), a.errors()), (1, 0));
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
        let e = CapturePort::new(a, Path::new("/nonexistent/x.pcap"), 10, Box::new(|| 0)).err().unwrap();
        assert!(e.to_string().contains("/nonexistent/x.pcap"));
    }
}
