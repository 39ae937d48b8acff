//! A connection as a script sees it: numbers counted from each side's first, data by place, options that follow
//! from those of the SYNs.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::net::IpAddr;

use hugepages::RxFrag;
use tcpstack::FlowId;

use super::lang::{Num, OptSpec, Range, Seg};
use super::packet::{ACK, FLAGS, Opt, RST, SYN, Tcp};

/// The stream's byte at an offset; `ours` for what the stack sends.
pub(crate) fn pattern(at: u64, ours: bool) -> u8 {
    ((at ^ u64::from(ours) << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

pub(crate) struct Conn {
    pub(crate) label: String,
    pub(crate) addr: IpAddr,
    pub(crate) port: u16,
    pub(crate) ours: u16,
    /// The peer's first number.
    pub(crate) isn: u32,
    /// The stack's, once it has said it.
    pub(crate) iss: Option<u32>,
    pub(crate) flow: Option<FlowId>,
    pub(crate) pushed: u64,
    pub(crate) read: u64,
    /// Read beyond what a line asked for.
    pub(crate) left: VecDeque<RxFrag>,
    pub(crate) kept: Vec<RxFrag>,
    /// Number of the stack's last segment that took any, and all of those by number, for ICMP to quote.
    pub(crate) last: Option<u32>,
    pub(crate) sent: HashMap<u32, Tcp>,
    our_scale: Option<u8>,
    peer_scale: bool,
    our_ts: Option<u32>,
    peer_ts: bool,
    /// The stack's latest timestamp.
    pub(crate) ts_recent: u32,
    ts_base: u32,
    /// The peer's clock less the script's, in ms: never behind what a line made it say.
    ts_clock: u32,
}

impl Conn {
    pub(crate) fn new(label: &str, addr: IpAddr, port: u16, ours: u16, isn: u32) -> Conn {
        Conn {
            label: label.into(),
            addr,
            port,
            ours,
            isn,
            iss: None,
            flow: None,
            pushed: 0,
            read: 0,
            left: VecDeque::new(),
            kept: vec![],
            last: None,
            sent: HashMap::new(),
            our_scale: None,
            peer_scale: false,
            our_ts: None,
            peer_ts: false,
            ts_recent: 0,
            ts_base: isn.rotate_left(7),
            ts_clock: isn.rotate_left(7),
        }
    }

    /// Another connection takes the place of this one.
    pub(crate) fn fresh(&mut self, isn: u32) {
        *self = Conn::new(&self.label, self.addr, self.port, self.ours, isn);
    }

    pub(crate) fn timestamps(&self) -> bool {
        self.peer_ts && self.our_ts.is_some()
    }

    fn base(&self, ours: bool) -> u32 {
        if ours { self.iss.unwrap_or(0) } else { self.isn }
    }

    /// The number on the wire.
    pub(crate) fn abs(&self, n: Num, ours: bool) -> u32 {
        match n {
            Num::Any => 0,
            Num::Rel(r) => self.base(ours).wrapping_add(r as u32),
            Num::Abs(a) => a,
        }
    }

    /// From the number on the wire to the one in the script.
    pub(crate) fn rel(&self, n: u32, ours: bool) -> i64 {
        i64::from(n.wrapping_sub(self.base(ours)) as i32)
    }

    fn ts_abs(&self, n: Num, ours: bool) -> u32 {
        match n {
            Num::Rel(r) if !ours => self.ts_base.wrapping_add(r as u32),
            Num::Rel(r) => self.our_ts.unwrap_or(0).wrapping_add(r as u32),
            Num::Any => 0,
            Num::Abs(a) => a,
        }
    }

    fn ts_rel(&self, n: u32, ours: bool) -> i64 {
        let base = if ours { self.our_ts.unwrap_or(0) } else { self.ts_base };
        i64::from(n.wrapping_sub(base) as i32)
    }

    /// Makes the peer's segment; `ms` is the script's time.
    pub(crate) fn build(&mut self, s: &Seg, ms: u32) -> Tcp {
        let syn = s.flags & SYN != 0;
        let seq = self.abs(s.seq, false);
        let first = self.rel(seq, false) - i64::from(!syn);
        let data = s.data.clone().unwrap_or_else(|| {
            (0..i64::from(s.len)).map(|i| pattern((first + i).max(0) as u64, false)).collect()
        });
        let mut opts = vec![];
        match &s.opts {
            Some(list) => list.iter().for_each(|o| opts.push(self.option(o, syn && s.ack.is_none()))),
            None if self.timestamps() && !syn => {
                opts = vec![Opt::Nop, Opt::Nop, Opt::Ts(self.ts_clock.wrapping_add(ms), self.ts_recent)];
            }
            None => (),
        }
        let val =
            opts.iter().find_map(|o| if let Opt::Ts(v, _) = o { Some(v.wrapping_sub(ms)) } else { None });
        if let Some(v) = val
            && (syn || (v.wrapping_sub(self.ts_clock) as i32) > 0)
        {
            self.ts_clock = v;
        }
        if syn {
            self.peer_ts = opts.iter().any(|o| matches!(o, Opt::Ts(..)));
            self.peer_scale = opts.iter().any(|o| matches!(o, Opt::Scale(_)));
        }
        Tcp {
            sport: self.port,
            dport: self.ours,
            seq,
            ack: s.ack.map_or(0, |a| self.abs(a, true)),
            flags: s.flags,
            win: if s.has_win { s.win.min as u16 } else { 65_535 },
            urg: s.urg.unwrap_or(0),
            opts,
            data,
        }
    }

    fn option(&self, o: &OptSpec, first: bool) -> Opt {
        match o {
            OptSpec::Eol => Opt::Eol,
            OptSpec::Nop => Opt::Nop,
            OptSpec::Mss(m) => Opt::Mss(m.min as u16),
            OptSpec::Scale(s) => Opt::Scale(s.min as u8),
            OptSpec::SackOk => Opt::SackOk,
            OptSpec::Sack(v) => {
                let n = |x: i64| self.abs(Num::Rel(x), true);
                Opt::Sack(v.iter().map(|(l, r)| (n(*l), n(*r))).collect())
            }
            // A first SYN has nothing to echo; the field is 0 as it stands.
            OptSpec::Ts(v, Num::Rel(0)) if first => Opt::Ts(self.ts_abs(*v, false), 0),
            OptSpec::Ts(v, e) => Opt::Ts(self.ts_abs(*v, false), self.ts_abs(*e, true)),
            OptSpec::Raw(b) => Opt::Raw(b.clone()),
        }
    }

    /// Takes note of what the stack sent.
    pub(crate) fn heard(&mut self, t: &Tcp) {
        if t.has(SYN) {
            self.iss.get_or_insert(t.seq);
            self.our_scale = t.opts.iter().find_map(|o| if let Opt::Scale(s) = o { Some(*s) } else { None });
            if let Some((v, _)) = t.ts() {
                self.our_ts.get_or_insert(v);
            }
        }
        if let Some((v, _)) = t.ts() {
            self.ts_recent = v;
        }
        if t.space() > 0 {
            self.last = Some(t.seq);
            self.sent.insert(t.seq, t.clone());
        }
    }

    /// Right edge of the window that a segment of the stack offers, relative.
    pub(crate) fn edge(&self, t: &Tcp) -> i64 {
        let scale = if t.has(SYN) || !self.peer_scale { 0 } else { self.our_scale.unwrap_or(0) };
        self.rel(t.ack, false) + (i64::from(t.win) << scale)
    }

    /// Reason why a segment of the stack is not the expected one; `None` when it is.
    pub(crate) fn differs(&self, want: &Seg, got: &Tcp) -> Option<String> {
        if want.flags != got.flags {
            return Some("the flags differ".into());
        }
        if want.seq != Num::Any && self.abs(want.seq, true) != got.seq {
            return Some("the sequence number differs".into());
        }
        if want.len as usize != got.data.len() {
            return Some(format!("{} bytes instead of {}", got.data.len(), want.len));
        }
        if let Some(a) = want.ack.filter(|a| *a != Num::Any)
            && self.abs(a, false) != got.ack
        {
            return Some("the acknowledgement differs".into());
        }
        if !want.win.has(u64::from(got.win)) {
            return Some(format!("the window field should be {}", want.win));
        }
        if let Some(e) = want.edge
            && !e.has(self.edge(got).max(0) as u64)
        {
            return Some(format!("the window's edge is {}, not {e}", self.edge(got)));
        }
        if want.urg.unwrap_or(0) != got.urg {
            return Some("the urgent pointer differs".into());
        }
        self.options_differ(want.opts.as_deref(), got)
            .or_else(|| self.data_differs(want.data.as_deref(), got))
    }

    /// Reason why the options are not those that a line names, or, where it names none, those that follow from the SYNs.
    pub(crate) fn options_differ(&self, want: Option<&[OptSpec]>, got: &Tcp) -> Option<String> {
        let mut have: Vec<&Opt> = got.opts.iter().filter(|o| !matches!(o, Opt::Nop | Opt::Eol)).collect();
        if got.has(SYN) && want.is_none() {
            return None;
        }
        let named = want.unwrap_or(&[]);
        for w in named.iter().filter(|w| !matches!(w, OptSpec::Nop | OptSpec::Eol)) {
            let Some(i) = have.iter().position(|h| self.same_option(w, h, got.has(SYN) && !got.has(ACK)))
            else {
                return Some(format!("the options lack {}", option_text(w)));
            };
            have.remove(i);
        }
        if !got.has(SYN) && !named.iter().any(|w| matches!(w, OptSpec::Ts(..))) {
            let ts = have.iter().position(|h| matches!(h, Opt::Ts(..)));
            match (self.timestamps(), ts) {
                (true, Some(i)) => drop(have.remove(i)),
                (true, None) if !got.has(RST) => {
                    return Some(
                        "a timestamp is missing (RFC 7323 §3.2: on every segment once agreed)".into(),
                    );
                }
                _ => (),
            }
        }
        (!have.is_empty()).then(|| format!("it has {} option(s) more than expected", have.len()))
    }

    fn same_option(&self, w: &OptSpec, h: &Opt, first: bool) -> bool {
        match (w, h) {
            (OptSpec::Mss(r), Opt::Mss(m)) => r.has(u64::from(*m)),
            (OptSpec::Scale(r), Opt::Scale(s)) => r.has(u64::from(*s)),
            (OptSpec::SackOk, Opt::SackOk) => true,
            (OptSpec::Sack(w), Opt::Sack(h)) => {
                let rel: Vec<_> = h.iter().map(|(l, r)| (self.rel(*l, false), self.rel(*r, false))).collect();
                *w == rel
            }
            (OptSpec::Ts(v, e), Opt::Ts(hv, he)) => {
                let echo = if first && *e == Num::Rel(0) { 0 } else { self.ts_abs(*e, false) };
                (*v == Num::Any || self.ts_abs(*v, true) == *hv) && (*e == Num::Any || echo == *he)
            }
            (OptSpec::Raw(w), Opt::Raw(h)) => w == h,
            _ => false,
        }
    }

    /// Reason why the payload is not the stream's.
    pub(crate) fn data_differs(&self, want: Option<&[u8]>, got: &Tcp) -> Option<String> {
        let first = self.rel(got.seq, true) - i64::from(!got.has(SYN));
        let (i, w) = got.data.iter().enumerate().find_map(|(i, b)| {
            let w = want.map_or_else(|| pattern((first + i as i64) as u64, true), |d| d[i]);
            (w != *b).then_some((i, w))
        })?;
        Some(format!("byte {} of the stream is {:#04x}, not {w:#04x}", first + i as i64, got.data[i]))
    }

    /// A segment in the language of the scripts.
    pub(crate) fn show(&self, t: &Tcp, ours: bool) -> String {
        let flags: String = FLAGS.iter().filter(|f| t.flags & f.1 != 0).map(|f| f.0).collect();
        let flags = if flags.is_empty() { "-".into() } else { flags };
        let (seq, len) = (self.rel(t.seq, ours), t.data.len());
        let mut s = format!("{flags} {seq}:{}({len})", seq + len as i64);
        if t.has(ACK) {
            let _ = write!(s, " ack {}", self.rel(t.ack, !ours));
        }
        let _ = write!(s, " win {}", t.win);
        if t.urg != 0 {
            let _ = write!(s, " urg {}", t.urg);
        }
        let opts: Vec<String> =
            t.opts.iter().filter(|o| !matches!(o, Opt::Nop)).map(|o| self.show_option(o, ours)).collect();
        if !opts.is_empty() {
            let _ = write!(s, " <{}>", opts.join(", "));
        }
        s
    }

    fn show_option(&self, o: &Opt, ours: bool) -> String {
        match o {
            Opt::Eol => "eol".into(),
            Opt::Nop => "nop".into(),
            Opt::Mss(m) => format!("mss {m}"),
            Opt::Scale(s) => format!("wscale {s}"),
            Opt::SackOk => "sackOK".into(),
            Opt::Sack(v) => v.iter().fold("sack".into(), |s, (l, r)| {
                format!("{s} {}:{}", self.rel(*l, !ours), self.rel(*r, !ours))
            }),
            Opt::Ts(v, 0) => format!("TS val {} ecr =0", self.ts_rel(*v, ours)),
            Opt::Ts(v, e) => format!("TS val {} ecr {}", self.ts_rel(*v, ours), self.ts_rel(*e, !ours)),
            Opt::Raw(b) => b.iter().fold("raw ".into(), |s, b| format!("{s}{b:02x}")),
        }
    }
}

fn option_text(o: &OptSpec) -> String {
    match o {
        OptSpec::Eol => "eol".into(),
        OptSpec::Nop => "nop".into(),
        OptSpec::Mss(Range { min, .. }) => format!("mss {min}"),
        OptSpec::Scale(Range { min, .. }) => format!("wscale {min}"),
        OptSpec::SackOk => "sackOK".into(),
        OptSpec::Sack(v) => v.iter().fold("sack".into(), |s, (l, r)| format!("{s} {l}:{r}")),
        OptSpec::Ts(v, e) => format!("TS val {v:?} ecr {e:?}"),
        OptSpec::Raw(_) => "those bytes".into(),
    }
}
