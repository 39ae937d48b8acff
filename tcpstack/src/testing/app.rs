//! Applications on a connection, and the check of every byte.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use dataplane::fault::Rng;
use dataplane::link::LinkPort;
use hugepages::{PageRun, PageRunMut, PrivatePages, RxFrag};

use crate::{Close, CloseWhy, FlowId, PushError, Stack};

/// Traffic of one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// Nothing.
    Silent,
    /// So many bytes, as fast as the stack takes them: headers and payload of all sizes where `mixed`, else
    /// 256 KiB at a time.
    Bulk {
        /// Bytes.
        total: u64,
        /// Pushes of all sizes.
        mixed: bool,
    },
    /// `bytes` each `every` ns.
    Paced {
        /// Bytes at a time.
        bytes: u32,
        /// Nanoseconds from one time to the next.
        every: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Asks: `ask` bytes, and again when `answer` bytes have come, with `ahead` questions out at a time.
    Asks {
        /// Length of a question.
        ask: u32,
        /// Length of an answer.
        answer: u32,
        /// Questions in all.
        rounds: u64,
        /// Questions out at a time.
        ahead: u32,
    },
    /// Answers each `ask` bytes with `answer` bytes.
    Answers {
        /// Length of a question.
        ask: u32,
        /// Length of an answer.
        answer: u32,
    },
}

impl Writer {
    /// Bytes as fast as they go.
    pub fn bulk(total: u64) -> Writer {
        Writer::Bulk { total, mixed: false }
    }

    /// Offset that the stream may have reached by now: `age` ns after the start, `got` bytes received.
    fn limit(&self, age: u64, got: u64) -> u64 {
        match *self {
            Writer::Silent => 0,
            Writer::Bulk { total, .. } => total,
            Writer::Paced { bytes, every, total } => total.min((1 + age / every.max(1)) * u64::from(bytes)),
            Writer::Asks { ask, answer, rounds, ahead } => {
                rounds.min(u64::from(ahead) + got / u64::from(answer.max(1))) * u64::from(ask)
            }
            Writer::Answers { ask, answer } => got / u64::from(ask.max(1)) * u64::from(answer),
        }
    }

    /// The stream's length, where it does not depend on the peer.
    fn total(&self) -> Option<u64> {
        match *self {
            Writer::Silent => Some(0),
            Writer::Bulk { total, .. } | Writer::Paced { total, .. } => Some(total),
            Writer::Asks { ask, rounds, .. } => Some(rounds.saturating_mul(u64::from(ask))),
            Writer::Answers { .. } => None,
        }
    }
}

/// Reading habit of one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Everything at once.
    Eager,
    /// At most `bytes` each `every` ns, and gives half of it back to the window only later.
    Slow {
        /// Bytes at a time.
        bytes: u32,
        /// Nanoseconds from one time to the next.
        every: u64,
    },
    /// Everything at once, but keeps the last so many receive buffers.
    Holds {
        /// Fragments kept.
        frags: usize,
    },
    /// Nothing between two times after the connection opened (ns): the window shuts.
    Shut {
        /// First such time.
        from: u64,
        /// Time at which it reads again.
        to: u64,
    },
}

/// The pattern's length: a prime, so that bytes at a wrong place differ.
const PATTERN: u64 = 1_048_573;
/// Longest payload of one push, in bytes.
const PIECE: u64 = 256 << 10;

/// Bytes that tell their place.
fn pattern() -> PageRun {
    static RUN: OnceLock<Option<PageRun>> = OnceLock::new();
    let make = || {
        let mut r = PageRunMut::new(Arc::new(PrivatePages), PATTERN as usize).ok()?;
        for (i, b) in r.bytes_mut().iter_mut().enumerate() {
            *b = ((i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
        }
        Some(r.freeze())
    };
    RUN.get_or_init(make).clone().expect("1 MiB of memory")
}

/// One end of a connection.
pub(super) struct End {
    pub(super) flow: Option<FlowId>,
    pub(super) opened: Option<u64>,
    pub(super) closed: Option<CloseWhy>,
    pub(super) peer_fin: bool,
    pub(super) pushed: u64,
    pub(super) acked: u64,
    pub(super) got: u64,
    pub(super) last_got: u64,
    writer: Writer,
    reader: Reader,
    /// Where in the pattern each direction starts.
    salts: [u64; 2],
    fin: bool,
    /// The stack refused a push; there is room again after some progress.
    pub(super) full: bool,
    rng: Rng,
    next_read: u64,
    owed: u32,
    held: VecDeque<RxFrag>,
    pages: PageRun,
}

/// Lendings of one host, by number.
pub(super) struct Tokens {
    pub(super) out: std::collections::HashSet<u64>,
    next: u64,
}

impl Tokens {
    pub(super) fn new() -> Tokens {
        Tokens { out: std::collections::HashSet::new(), next: 0 }
    }
}

impl End {
    /// `side` is 0 for the end that dials.
    pub(super) fn new(side: usize, conn: u64, writer: Writer, reader: Reader, seed: u64) -> End {
        let salt = |s: u64| (conn * 2 + s).wrapping_mul(77_773) % PATTERN;
        let side = side as u64;
        End {
            flow: None,
            opened: None,
            closed: None,
            peer_fin: false,
            pushed: 0,
            acked: 0,
            got: 0,
            last_got: 0,
            writer,
            reader,
            salts: [salt(side), salt(1 - side)],
            fin: false,
            full: false,
            rng: Rng::new(seed.wrapping_mul(1000) + conn * 2 + side),
            next_read: 0,
            owed: 0,
            held: VecDeque::new(),
            pages: pattern(),
        }
    }

    /// Nothing more is begun.
    pub(super) fn stop(&mut self) {
        self.writer = match self.writer {
            Writer::Bulk { mixed, .. } => Writer::Bulk { total: self.pushed, mixed },
            Writer::Paced { bytes, every, .. } => Writer::Paced { bytes, every, total: self.pushed },
            Writer::Asks { ask, answer, ahead, .. } => {
                Writer::Asks { ask, answer, ahead, rounds: self.pushed.div_ceil(u64::from(ask.max(1))) }
            }
            w => w,
        };
    }

    /// Reads whatever comes from now on, and lets go of what it holds.
    pub(super) fn relax(&mut self) {
        self.reader = Reader::Eager;
        self.held.clear();
    }

    /// Time at which this end does something by itself, in ns.
    pub(super) fn next_time(&self, now: u64) -> Option<u64> {
        let opened = self.opened?;
        self.flow?;
        let read = match self.reader {
            Reader::Slow { .. } => Some(self.next_read),
            Reader::Shut { to, .. } => Some(opened + to).filter(|t| *t >= now),
            _ => None,
        };
        let write = match self.writer {
            Writer::Paced { every, total, .. } if self.pushed < total => {
                let every = every.max(1);
                Some(opened + ((now.saturating_sub(opened)) / every + 1) * every)
            }
            _ => None,
        };
        [read, write].into_iter().flatten().min()
    }

    /// Whether something was done.
    pub(super) fn serve(
        &mut self,
        s: &mut Stack<LinkPort>,
        tokens: &mut Tokens,
        now: u64,
    ) -> Result<bool, String> {
        let Some((f, opened)) = self.flow.zip(self.opened) else { return Ok(false) };
        let mut did = match self.reader {
            Reader::Slow { bytes, every } => {
                if now < self.next_read {
                    false
                } else {
                    self.next_read = now + every;
                    self.read(s, f, bytes, now)?
                }
            }
            Reader::Shut { from, to } if (from..to).contains(&(now - opened)) => false,
            _ => self.read(s, f, u32::MAX, now)?,
        };
        did |= self.write(s, f, tokens, now - opened)?;
        Ok(did)
    }

    fn write(
        &mut self,
        s: &mut Stack<LinkPort>,
        f: FlowId,
        tokens: &mut Tokens,
        age: u64,
    ) -> Result<bool, String> {
        let limit = self.writer.limit(age, self.got);
        let mut did = false;
        while self.pushed < limit && !self.full {
            let left = limit - self.pushed;
            let mixed = matches!(self.writer, Writer::Bulk { mixed: true, .. });
            let (h, n) = if mixed {
                let max = if self.rng.chance(0.5) { 60_000 } else { 300 };
                (self.rng.below(193), self.rng.below(max))
            } else {
                (if left < 512 { left } else { 96 }, PIECE)
            };
            let h = h.min(left).min(192);
            let at = (self.salts[0] + self.pushed) % PATTERN;
            let h = h.min(PATTERN - at);
            let from = (at + h) % PATTERN;
            let n = n.min(left - h).min(PATTERN - from);
            let mut pay = Vec::new();
            // Two lendings where sizes are mixed.
            let cut = if mixed { self.rng.below(n + 1) } else { 0 };
            for (o, l) in [(0, cut), (cut, n - cut)] {
                if l == 0 {
                    continue;
                }
                let slice = self.pages.slice((from + o) as u32, l as u32).ok_or("pattern")?;
                let lent = match s.slab().lend(slice, tokens.next) {
                    Ok(l) => l,
                    // The slab is used up: pages that come home make room.
                    Err(_) => return Ok(did),
                };
                tokens.out.insert(tokens.next);
                tokens.next += 1;
                pay.push(lent);
            }
            match s.push(f, &self.pages.bytes()[at as usize..(at + h) as usize], &pay) {
                Ok(pos) => {
                    self.pushed += h + n;
                    if pos != self.pushed {
                        return Err(format!("push came to {pos}, not {}", self.pushed));
                    }
                    did = true;
                }
                Err(PushError::Full { .. }) => {
                    self.full = true;
                    return Ok(did);
                }
                Err(PushError::NotOpen) => return Ok(did),
                Err(e) => return Err(e.to_string()),
            }
        }
        let done = self.writer.total().map_or(self.peer_fin, |t| self.pushed >= t);
        if !self.fin && done {
            self.fin = true;
            s.close(f, Close::Fin);
            did = true;
        }
        Ok(did)
    }

    fn read(&mut self, s: &mut Stack<LinkPort>, f: FlowId, max: u32, now: u64) -> Result<bool, String> {
        let mut n = 0;
        while n < max {
            let Some(x) = s.next(f) else { break };
            let mut b = x.bytes();
            while !b.is_empty() {
                let at = ((self.salts[1] + self.got) % PATTERN) as usize;
                let k = b.len().min(PATTERN as usize - at);
                if b[..k] != self.pages.bytes()[at..at + k] {
                    return Err(format!(
                        "other bytes than were sent at {}..{}",
                        self.got,
                        self.got + k as u64
                    ));
                }
                self.got += k as u64;
                b = &b[k..];
            }
            self.last_got = now;
            n += x.len();
            self.owed += x.len();
            if let Reader::Holds { frags } = self.reader {
                self.held.push_back(x);
                if self.held.len() > frags {
                    self.held.pop_front();
                }
            }
        }
        let lazy = matches!(self.reader, Reader::Slow { .. });
        let give = if lazy && n > 0 { self.owed / 2 } else { self.owed };
        s.credit(f, give);
        self.owed -= give;
        Ok(n > 0)
    }
}
