//! A pcap file that holds whole packets only, also where the disk is full for a while.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, TsResolution};

/// Errors of writing a capture.
#[derive(Debug, thiserror::Error)]
#[error("cannot write capture {path}: {source}")]
pub struct CaptureError {
    /// Path of the file.
    pub path: String,
    /// The system's error.
    pub source: io::Error,
}

/// The device /dev/null, major and minor number 1 and 3.
const NULL: u64 = 0x103;
/// Bytes that are gathered before they are written.
const GATHER: usize = 32 << 10;
/// Length of a pcap file's header, in bytes.
const HEADER: usize = 24;

/// Makes a file for packets, or empties it. A FIFO would stop whoever writes to it when nobody reads.
fn create(path: &Path) -> io::Result<File> {
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

/// A file of packets (Ethernet, stamps in ns). Packets that it has no room for are counted, and the next ones tried again.
pub(crate) struct WholePackets {
    file: File,
    path: String,
    /// Length of the file, which ends with a whole packet.
    end: u64,
    /// Packets that are not in the file yet, and how many.
    gathered: Vec<u8>,
    waiting: u64,
    lost: u64,
    scratch: Vec<u8>,
}

impl WholePackets {
    /// Makes the file, or empties it.
    ///
    /// # Errors
    /// [`CaptureError`] names the path.
    pub(crate) fn create(path: &Path) -> Result<WholePackets, CaptureError> {
        let name = path.display().to_string();
        let fail = |source| CaptureError { path: name.clone(), source };
        let mut w = WholePackets {
            file: create(path).map_err(fail)?,
            path: name.clone(),
            end: 0,
            gathered: Vec::with_capacity(2 * GATHER),
            waiting: 0,
            lost: 0,
            scratch: Vec::new(),
        };
        // Memory takes everything: what is left is a header that makes no sense.
        let header = PcapWriter::with_header(Vec::new(), Self::header()).map_err(io::Error::other);
        w.gathered = header.map_err(fail)?.into_writer();
        w.flush()?;
        Ok(w)
    }

    fn header() -> PcapHeader {
        PcapHeader {
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::NanoSecond,
            // Of the packets before they are cut: some readers refuse larger ones.
            snaplen: 262_144,
            ..PcapHeader::default()
        }
    }

    /// Appends a packet of `len` bytes, of which the first ones are `bytes`, seen at `at` since 1970.
    ///
    /// # Errors
    /// As [`WholePackets::flush`].
    pub(crate) fn write(&mut self, at: Duration, len: u32, bytes: &[u8]) -> Result<(), CaptureError> {
        self.scratch.clear();
        let p = PcapPacket::new(at, len.max(bytes.len() as u32), bytes);
        let made = PcapWriter::with_header(std::mem::take(&mut self.scratch), Self::header())
            .and_then(|mut w| w.write_packet(&p).map(|_| w.into_writer()))
            .map_err(|e| self.error(io::Error::other(e)))?;
        self.scratch = made;
        // The crate writes packets behind a header only, and the file has one.
        self.gathered.extend_from_slice(self.scratch.get(HEADER..).unwrap_or_default());
        self.waiting += 1;
        if self.gathered.len() < GATHER { Ok(()) } else { self.flush() }
    }

    fn error(&self, source: io::Error) -> CaptureError {
        CaptureError { path: self.path.clone(), source }
    }

    /// Writes what is gathered. Where the file takes no more, that is lost and counted, and the file ends as before.
    ///
    /// # Errors
    /// The system's (a full disk).
    pub(crate) fn flush(&mut self) -> Result<(), CaptureError> {
        let wrote = self.file.write_all_at(&self.gathered, self.end);
        match &wrote {
            Ok(()) => self.end += self.gathered.len() as u64,
            Err(_) => {
                self.lost += self.waiting;
                // Part of a packet would make all behind it unreadable. A device has no length to set.
                let _ = self.file.set_len(self.end);
            }
        }
        self.gathered.clear();
        self.waiting = 0;
        wrote.map_err(|e| self.error(e))
    }

    /// Whether the file has all packets that came and are not lost.
    pub(crate) fn is_written(&self) -> bool {
        self.waiting == 0
    }

    /// Packets that the file had no room for.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Path of the file.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

impl Drop for WholePackets {
    fn drop(&mut self) {
        // Nobody is there any more to hear of it.
        let _ = self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcap::PcapReader;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    /// The largest file that this process may write, in bytes.
    fn room(bytes: Option<u64>) {
        let maximum = getrlimit(Resource::Fsize).maximum;
        setrlimit(Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum }).unwrap();
    }

    fn first_bytes(path: &Path) -> Vec<u8> {
        let mut r = PcapReader::new(File::open(path).unwrap()).unwrap();
        std::iter::from_fn(|| r.next_packet().map(|p| p.unwrap().data[0])).collect()
    }

    /// Runs in a process of its own: a limit on the length of files is a disk that is full, and the process's.
    #[test]
    fn a_disk_that_is_full_for_a_while_costs_the_packets_of_that_while() {
        const ALONE: &str = "POLLND_WHOLE_PACKETS_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let name = "whole::tests::a_disk_that_is_full_for_a_while_costs_the_packets_of_that_while";
            let mut me = std::process::Command::new(std::env::current_exe().unwrap());
            let done = me.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
            let said = String::from_utf8_lossy(&done.stdout);
            assert!(done.status.success() && said.contains("1 passed"), "{done:?}");
            return;
        }
        // SAFETY: changes what a signal of this process does, which is to end it.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pcap");
        let mut f = WholePackets::create(&path).unwrap();
        let packet = |n: u8| [n; 1000];
        let write = |f: &mut WholePackets, n: u8| f.write(Duration::from_nanos(n.into()), 1500, &packet(n));
        for n in 0..33 {
            write(&mut f, n).unwrap();
        }
        // The first 33 are in the file; of the next, so many that the end is in the middle of one.
        room(Some(40_000));
        let failed: Vec<u8> = (33..99).filter(|n| write(&mut f, *n).is_err()).collect();
        assert_eq!((&failed[..], f.lost()), (&[65, 98][..], 66));
        assert_eq!(first_bytes(&path), (0..33).collect::<Vec<_>>(), "whole, whatever came of the rest");
        room(None);
        for n in 99..140 {
            write(&mut f, n).unwrap();
        }
        drop(f);
        assert_eq!(first_bytes(&path), (0..33).chain(99..140).collect::<Vec<_>>());
    }
}
