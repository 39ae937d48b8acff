//! Retransmissions that were needed: an observer between the ports, who knows what became of every frame.

use std::collections::{BTreeMap, HashMap};

use dataplane::link::{Fate, Seen};

/// Retransmissions of one host, as the network saw them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resends {
    /// Frames with payload.
    pub segments: u64,
    /// Payload bytes, those sent again included.
    pub bytes: u64,
    /// Frames of which some payload had been sent before.
    pub resent: u64,
    /// Bytes that had been sent before.
    pub resent_bytes: u64,
    /// Frames sent again of which every byte had arrived before, or was on its way to.
    pub needless: u64,
    /// Such bytes.
    pub needless_bytes: u64,
}

#[derive(Default)]
struct Stream {
    /// Sequence number and offset of the highest byte seen, plus one.
    max: Option<(u32, u64)>,
    /// Byte ranges of which every copy so far was lost: start -> end.
    lost: BTreeMap<u64, u64>,
}

impl Stream {
    fn lose(&mut self, start: u64, end: u64) {
        let (mut start, mut end) = (start, end);
        let touching: Vec<u64> =
            self.lost.range(..=end).rev().take_while(|(_, e)| **e >= start).map(|(s, _)| *s).collect();
        for s in touching {
            let e = self.lost.remove(&s).unwrap_or(s);
            (start, end) = (start.min(s), end.max(e));
        }
        if start < end {
            self.lost.insert(start, end);
        }
    }

    /// Bytes of the range that were lost; with `mend` they are so no more.
    fn overlap(&mut self, start: u64, end: u64, mend: bool) -> u64 {
        let hit: Vec<(u64, u64)> =
            self.lost.range(..end).rev().take_while(|(_, e)| **e > start).map(|(s, e)| (*s, *e)).collect();
        let mut n = 0;
        for (s, e) in hit {
            n += e.min(end) - s.max(start);
            if mend {
                self.lost.remove(&s);
                if s < start {
                    self.lost.insert(s, start);
                }
                if e > end {
                    self.lost.insert(end, e);
                }
            }
        }
        n
    }
}

/// The observer.
#[derive(Default)]
pub struct Oracle {
    streams: HashMap<(usize, usize, u32), Stream>,
    hosts: Vec<Resends>,
}

/// Offset of the TCP header, and the end of the segment.
fn bounds(f: &[u8]) -> Option<(usize, usize)> {
    let mut ip = 14;
    let mut kind = [*f.get(12)?, *f.get(13)?];
    if kind == [0x81, 0] {
        kind = [*f.get(16)?, *f.get(17)?];
        ip = 18;
    }
    let word = |at: usize| f.get(at..at + 2).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]])));
    match kind {
        [8, 0] if *f.get(ip + 9)? == 6 => Some((ip + usize::from(f[ip] & 15) * 4, ip + word(ip + 2)?)),
        [0x86, 0xdd] if *f.get(ip + 6)? == 6 => Some((ip + 40, ip + 40 + word(ip + 4)?)),
        _ => None,
    }
}

/// A frame in one line: when, from and to whom, ports, flags, numbers, what became of it.
pub(super) fn line(s: &Seen<'_>) -> String {
    let start = format!("{:>14} {}>{}", s.at, s.from, s.to);
    let t = bounds(s.frame).and_then(|(tcp, end)| s.frame.get(tcp..end.min(s.frame.len())));
    let Some(t) = t.filter(|t| t.len() >= 20) else {
        return format!("{start} {} bytes, not TCP: {:?}", s.frame.len(), s.fate);
    };
    let long = |at: usize| u32::from_be_bytes([t[at], t[at + 1], t[at + 2], t[at + 3]]);
    let hlen = usize::from(t[12] >> 4) * 4;
    let flags: String =
        "FSRPA".chars().enumerate().filter(|(i, _)| t[13] >> i & 1 == 1).map(|x| x.1).collect();
    let (ports, win) = (long(0), u16::from_be_bytes([t[14], t[15]]));
    format!(
        "{start} {}>{} {flags} seq {} len {} ack {} win {win} {:?} {:02x?}",
        ports >> 16,
        ports & 0xffff,
        long(4),
        t.len().saturating_sub(hlen),
        long(8),
        s.fate,
        t.get(20..hlen).unwrap_or(&[]),
    )
}

/// Ports, sequence number and payload length of a TCP segment.
fn segment(f: &[u8]) -> Option<(u32, u32, u32)> {
    let (tcp, end) = bounds(f)?;
    let t = f.get(tcp..end.min(f.len()))?;
    let long = |at: usize| t.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let hlen = usize::from(*t.get(12)? >> 4) * 4;
    Some((long(0)?, long(4)?, t.len().checked_sub(hlen)? as u32))
}

impl Oracle {
    /// Bytes that `host` sent again so far.
    pub fn of(&self, host: usize) -> Resends {
        self.hosts.get(host).copied().unwrap_or_default()
    }

    /// Takes note of a frame.
    pub fn see(&mut self, s: &Seen<'_>) {
        // A damaged header tells nothing; what was sent is known, since damage is done after the sender.
        let Some((ports, seq, len)) = segment(s.frame).filter(|x| x.2 > 0) else { return };
        if self.hosts.len() <= s.from {
            self.hosts.resize(s.from + 1, Resends::default());
        }
        let r = &mut self.hosts[s.from];
        let st = self.streams.entry((s.from, s.to, ports)).or_default();
        let (top, max) = *st.max.get_or_insert((seq, 1 << 32));
        let start = max.wrapping_add_signed(i64::from(seq.wrapping_sub(top) as i32));
        let end = start + u64::from(len);
        match s.fate {
            Fate::NoBuffer => return st.lose(start, end),
            Fate::Copy(_) => {
                st.overlap(start, end, true);
                return;
            }
            _ => (),
        }
        let arrives = matches!(s.fate, Fate::Arrives(_));
        r.segments += 1;
        r.bytes += u64::from(len);
        if start < max {
            let old = end.min(max) - start;
            let needed = st.overlap(start, end.min(max), arrives);
            r.resent += 1;
            r.resent_bytes += old;
            r.needless += u64::from(needed == 0);
            r.needless_bytes += old - needed;
        }
        if end > max {
            if !arrives {
                st.lose(start.max(max), end);
            }
            st.max = Some((seq.wrapping_add(len), end));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(seq: u32, len: usize) -> Vec<u8> {
        let mut f = vec![0; 54 + len];
        f[12..14].copy_from_slice(&[8, 0]);
        f[14] = 0x45;
        f[16..18].copy_from_slice(&(40 + len as u16).to_be_bytes());
        f[23] = 6;
        f[34..38].copy_from_slice(&[3, 255, 3, 220]);
        f[38..42].copy_from_slice(&seq.to_be_bytes());
        f[46] = 0x50;
        f
    }

    #[test]
    fn a_resend_is_needed_as_far_as_every_copy_before_was_lost() {
        let mut t = Oracle::default();
        let start = u32::MAX - 1500; // sequence numbers wrap on the way
        let mut see = |off: u32, len: usize, fate| {
            let f = frame(start.wrapping_add(off), len);
            t.see(&Seen { from: 1, to: 0, at: 0, fate, frame: &f });
            let r = t.of(1);
            (r.resent, r.needless, r.resent_bytes, r.needless_bytes)
        };
        assert_eq!(see(0, 1000, Fate::Arrives(1)), (0, 0, 0, 0));
        assert_eq!(see(1000, 1000, Fate::Lost), (0, 0, 0, 0));
        assert_eq!(see(2000, 1000, Fate::Queue), (0, 0, 0, 0));
        assert_eq!(see(3000, 1000, Fate::Arrives(1)), (0, 0, 0, 0));
        assert_eq!(see(1000, 500, Fate::Arrives(1)), (1, 0, 500, 0));
        assert_eq!(see(1000, 1000, Fate::Lost), (2, 0, 1500, 500), "half of it is there");
        assert_eq!(see(1500, 1500, Fate::Arrives(1)), (3, 0, 3000, 500));
        assert_eq!(see(1500, 500, Fate::Arrives(1)), (4, 1, 3500, 1000));
        assert_eq!(see(0, 1000, Fate::NoBuffer), (4, 1, 3500, 1000));
        assert_eq!(see(0, 1000, Fate::Copy(1)), (4, 1, 3500, 1000), "no host sent that");
        assert_eq!(see(0, 5000, Fate::Arrives(1)), (5, 2, 7500, 5000));
        assert_eq!(t.of(0), Resends::default());
    }
}
