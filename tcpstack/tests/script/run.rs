//! Runs a script line by line in virtual time.
//!
//! Whatever the stack sends, and every opening, FIN and end that it reports, has to be expected by a line before
//! time goes on; so a script that passes has seen everything.

use std::collections::VecDeque;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use tcpstack::{Close, Event, FlowId};

use super::conn::Conn;
use super::lang::{Heard, IcmpSpec, Line, Range, Script, Seg, Step, Want, When};
use super::packet::{ACK, Body, Ip, SYN, Tcp};
use super::parse::icmp_kind;
use super::world::{Did, Family, START, Setup, World};

/// Moments that one line may go through.
const STEPS: u32 = 200_000;
/// First port of the peers of a flood.
const FLOOD_PORT: u16 = 20_000;

/// A packet that no line has expected yet.
struct Sent {
    at: u64,
    conn: Option<usize>,
    ip: Ip,
}

enum Noted {
    Opened(bool),
    Fin,
    Closed(String),
}

pub(crate) struct Run {
    pub(crate) w: World,
    pub(crate) conns: Vec<Conn>,
    /// The moment of the line before.
    pub(crate) base: u64,
    sent: VecDeque<Sent>,
    solicits: VecDeque<(u64, IpAddr)>,
    noted: VecDeque<(u64, usize, Noted)>,
    /// Connections with news to read, and with progress: acked, sent.
    readable: Vec<usize>,
    progress: Vec<(usize, u64, u64)>,
    pub(crate) trace: Vec<String>,
    tolerance: u64,
    pub(crate) family: Family,
    isn: u32,
    /// Peers of the flood, and packets to them.
    flood: u32,
    flood_answers: u64,
}

/// Runs a script over a family with `isn` as the peer's first number. `None` when it is not for this family. The
/// error has line, expectation, and all that went before.
pub(crate) fn run(script: &Script, family: Family, isn: u32) -> Result<Option<Vec<String>>, String> {
    let setup = Setup::of(script, family)?;
    if setup.only.is_some_and(|f| f != family) {
        return Ok(None);
    }
    let mut r = Run {
        w: World::new(&setup).map_err(|e| format!("{}: {e}", script.file))?,
        conns: vec![],
        base: START,
        sent: VecDeque::new(),
        solicits: VecDeque::new(),
        noted: VecDeque::new(),
        readable: vec![],
        progress: vec![],
        trace: vec![],
        tolerance: setup.tolerance,
        family,
        isn: setup.isn.unwrap_or(isn),
        flood: 0,
        flood_answers: 0,
    };
    for l in &script.lines {
        if let Err(e) = r.line(l) {
            return Err(r.failure(&format!("{}:{}", script.file, l.no), Some(l), &e));
        }
    }
    if let Err(e) = r.quiet("the script ended").and_then(|()| r.finish()) {
        return Err(r.failure(&script.file, None, &e));
    }
    Ok(Some(r.trace))
}

impl Run {
    fn failure(&self, at: &str, line: Option<&Line>, what: &str) -> String {
        let mut s = format!("{at}: {what}\n");
        if let Some(l) = line {
            let _ = writeln!(s, "    line:  {}", l.text);
        }
        let (family, isn) = (self.family, self.isn);
        let _ = writeln!(s, "    over {family:?}, peer's first number {isn}; what went before:");
        self.trace.iter().for_each(|t| {
            let _ = writeln!(s, "    {t}");
        });
        s
    }

    pub(crate) fn log(&mut self, at: u64, what: &str) {
        let t = at - START;
        self.trace.push(format!("{:>5}.{:06}  {what}", t / 1_000_000_000, t / 1_000 % 1_000_000));
    }

    pub(crate) fn conn(&mut self, label: Option<&str>) -> usize {
        let label = label.unwrap_or("a");
        if let Some(i) = self.conns.iter().position(|c| c.label == label) {
            return i;
        }
        let n = self.conns.len() as u16;
        let (port, ours) = (1023 - n, 988);
        let isn = self.isn.wrapping_add(u32::from(n) * 1_000_003);
        self.conns.push(Conn::new(label, self.family.host(2), port, ours, isn));
        usize::from(n)
    }

    // ---- time ----

    /// Everything that the stack did so far, sorted.
    pub(crate) fn take_in(&mut self) -> Result<(), String> {
        while let Some((at, did)) = self.w.did.pop_front() {
            match did {
                Did::Packet(ip) => self.packet(at, ip)?,
                Did::Solicit(a) => {
                    self.log(at, &format!("> solicit {a}"));
                    self.solicits.push_back((at, a));
                }
                Did::Event(e) => self.event(at, e)?,
            }
        }
        Ok(())
    }

    fn packet(&mut self, at: u64, ip: Ip) -> Result<(), String> {
        let conn = match &ip.body {
            Body::Tcp(t) => {
                self.conns.iter().position(|c| (c.addr, c.port, c.ours) == (ip.dst, t.dport, t.sport))
            }
            _ => None,
        };
        let text = match (&ip.body, conn) {
            (Body::Tcp(t), Some(i)) => {
                self.conns[i].heard(t);
                format!("{}> {}", self.tag(i), self.conns[i].show(t, true))
            }
            (Body::Tcp(t), None) => {
                if (u32::from(t.dport) - u32::from(FLOOD_PORT.min(t.dport))) < self.flood {
                    self.flood_answers += 1;
                    return Ok(());
                }
                format!("> a segment from port {} to {}:{}", t.sport, ip.dst, t.dport)
            }
            (Body::Icmp(t, c, b), _) => format!("> icmp {t}/{c} {}", b.len()),
            (Body::Other(p), _) => format!("> a packet of protocol {p}"),
        };
        self.log(at, &text);
        self.sent.push_back(Sent { at, conn, ip });
        Ok(())
    }

    fn tag(&self, i: usize) -> String {
        if self.conns.len() > 1 { format!("[{}] ", self.conns[i].label) } else { String::new() }
    }

    fn event(&mut self, at: u64, e: Event) -> Result<(), String> {
        let of = |r: &Self, f: FlowId| r.conns.iter().position(|c| c.flow == Some(f));
        let (i, n) = match e {
            Event::Opened { flow, remote, local, passive } => {
                let ends = |c: &Conn| SocketAddr::new(c.addr, c.port) == remote && c.ours == local.port();
                let i = self
                    .conns
                    .iter()
                    .position(ends)
                    .ok_or(format!("{remote} is open, but no line knows it"))?;
                self.conns[i].flow = Some(flow);
                (i, Noted::Opened(passive))
            }
            Event::Readable(f) => {
                let i = of(self, f).ok_or("readable: a connection that no line knows")?;
                self.log(at, &format!("{}event readable", self.tag(i)));
                self.readable.push(i);
                return Ok(());
            }
            Event::Progress { flow, acked, sent } => {
                let i = of(self, flow).ok_or("progress of a connection that no line knows")?;
                self.log(at, &format!("{}event acked {acked} sent {sent}", self.tag(i)));
                self.progress.retain(|p| p.0 != i);
                self.progress.push((i, acked, sent));
                return Ok(());
            }
            // Scripts say what is read, and when it is over.
            Event::Ended(f) => {
                let i = of(self, f).ok_or("the end of a connection that no line knows")?;
                self.log(at, &format!("{}event ended", self.tag(i)));
                return Ok(());
            }
            Event::PeerFin(f) => (of(self, f).ok_or("a FIN of a connection that no line knows")?, Noted::Fin),
            Event::Closed { flow, why } => {
                let i = of(self, flow).ok_or("the end of a connection that no line knows")?;
                (i, Noted::Closed(format!("{why:?}").to_lowercase()))
            }
        };
        let text = show_noted(&n);
        self.log(at, &format!("{}event {text}", self.tag(i)));
        self.noted.push_back((at, i, n));
        Ok(())
    }

    /// Nothing may wait to be expected when time goes on or the script ends.
    pub(crate) fn quiet(&self, why: &str) -> Result<(), String> {
        if let Some(s) = self.sent.front() {
            return Err(format!("{why}, and nobody expected\n    got:   {}", self.show(s)));
        }
        if let Some((_, i, n)) = self.noted.front() {
            return Err(format!(
                "{why}, and nobody expected\n    got:   {}event {}",
                self.tag(*i),
                show_noted(n)
            ));
        }
        Ok(())
    }

    fn show(&self, s: &Sent) -> String {
        match (&s.ip.body, s.conn) {
            (Body::Tcp(t), Some(i)) => format!("{}> {}", self.tag(i), self.conns[i].show(t, true)),
            (Body::Tcp(t), None) => {
                format!("> a segment from port {} to {}:{} {t:?}", t.sport, s.ip.dst, t.dport)
            }
            (Body::Icmp(t, c, b), _) => format!("> icmp {t}/{c} {}", b.len()),
            (Body::Other(p), _) => format!("> a packet of protocol {p}"),
        }
    }

    /// Goes on to `until`; whatever happens on the way is an error.
    pub(crate) fn go(&mut self, until: u64) -> Result<(), String> {
        if until > self.w.now {
            self.quiet("time goes on")?;
        }
        for _ in 0..STEPS {
            if self.w.now >= until {
                self.base = until;
                return Ok(());
            }
            self.w.step(until)?;
            self.take_in()?;
            if self.w.now < until {
                self.quiet("this came before the time of the line")?;
            }
        }
        Err(format!("{STEPS} moments went by, and it is still not {} us", (until - START) / 1000))
    }

    /// Goes on until a packet (or, with `event`, an event) is there, at the latest to `until`.
    fn wait(&mut self, until: u64, event: bool) -> Result<bool, String> {
        for _ in 0..STEPS {
            let there = if event { !self.noted.is_empty() } else { !self.sent.is_empty() };
            if there {
                return Ok(true);
            }
            if self.w.now >= until {
                return Ok(false);
            }
            self.quiet("time goes on")?;
            self.w.step(until)?;
            self.take_in()?;
        }
        Err(format!("{STEPS} moments went by, and it is still not {} us", (until - START) / 1000))
    }

    // ---- lines ----

    fn line(&mut self, l: &Line) -> Result<(), String> {
        let i = self.conn(l.conn.as_deref());
        if !matches!(l.step, Step::Expect(_) | Step::Event(_))
            && let When::After(t) = l.when
        {
            self.go(self.base + t)?;
        }
        match &l.step {
            Step::Inject { seg, late } => self.inject(i, seg, *late)?,
            Step::Icmp(m) => self.icmp(i, m)?,
            Step::Arp { reply } => {
                self.log(self.base, &format!("< arp {}", if *reply { "reply" } else { "request" }));
                let a = self.conns[i].addr;
                self.w.neighbour(*reply, a);
                self.w.settle()?;
            }
            Step::Flood { count, answers } => self.flood(*count, answers)?,
            Step::Expect(w) => self.expect(i, w, l.when)?,
            Step::Event(e) => self.heard(i, e, l.when)?,
            Step::Call(c) => self.call(i, c)?,
            Step::Count { flow, name, range } => self.count(i, *flow, name, range)?,
            Step::Conn { addr, port, ours } => {
                let to = addr.map(|a| self.family.address(a));
                if to.is_some_and(|a| a.is_ipv4() != (self.family == Family::V4)) {
                    return Err("an address of the other family: say `set family v4` or `v6`".into());
                }
                let c = &mut self.conns[i];
                c.addr = to.unwrap_or(c.addr);
                c.port = port.unwrap_or(c.port);
                c.ours = ours.unwrap_or(c.ours);
            }
            Step::Fresh { isn } => {
                let next = self.conns[i].isn.wrapping_add(10_000_000);
                self.conns[i].fresh(isn.unwrap_or(next));
            }
            Step::Link(up) => {
                self.log(self.base, if *up { "link up" } else { "link down" });
                self.w.link(*up);
                self.w.settle()?;
            }
            Step::Buffers(n) => self.w.buffers(*n)?,
        }
        self.take_in()
    }

    fn inject(&mut self, i: usize, seg: &Seg, late: bool) -> Result<(), String> {
        let ms = ((self.base - START) / 1_000_000) as u32;
        let t = self.conns[i].build(seg, ms);
        let spoilt: String = seg.tweaks.iter().map(|t| format!(" {t:?}")).collect();
        self.log(self.base, &format!("{}< {}{spoilt}", self.tag(i), self.conns[i].show(&t, false)));
        let ip = Ip::tcp(self.conns[i].addr, self.family.host(1), t);
        self.w.inject(&ip, &seg.tweaks)?;
        if late { Ok(()) } else { self.w.settle() }
    }

    fn icmp(&mut self, i: usize, m: &IcmpSpec) -> Result<(), String> {
        let (c, us) = (&self.conns[i], self.family.host(1));
        let v4 = c.addr.is_ipv4();
        let kind = icmp_kind(&m.kind, v4).ok_or_else(|| format!("{} is not in this family", m.kind))?;
        let rest = if m.kind.starts_with("echo") {
            let mut b = vec![0, 7, 0, 1];
            b.resize(4 + m.len, 0x5a);
            b
        } else {
            let seq = match m.quote {
                Some(q) => c.abs(q, true),
                None => c.last.ok_or("there is no segment to quote")?,
            };
            // As it was sent; a guess of what never was.
            let guess = || {
                let data = vec![0; 1460];
                Tcp { sport: c.ours, dport: c.port, seq, flags: ACK, data, ..Tcp::default() }
            };
            let t = c.sent.get(&seq).cloned().unwrap_or_else(guess);
            let quoted = Ip::tcp(us, c.addr, t).bytes(&[]);
            let len = if v4 { 20 } else { 40 } + if m.len > 0 { m.len } else { 8 };
            let mtu = m.mtu + if m.mtu == 0 { 0 } else { u32::from(self.family.extra()) };
            [&mtu.to_be_bytes()[..], &quoted[..len.min(quoted.len())]].concat()
        };
        let from = m.from.map_or(c.addr, |a| self.family.address(a));
        self.log(self.base, &format!("{}< icmp {} mtu {}", self.tag(i), m.kind, m.mtu));
        self.w.inject(&Ip::icmp(from, us, kind, rest), &m.tweaks)?;
        self.w.settle()
    }

    fn flood(&mut self, count: u32, answers: &Range) -> Result<(), String> {
        self.flood = count;
        self.flood_answers = 0;
        self.log(self.base, &format!("< {count} SYNs from other ports"));
        let (us, peer) = (self.family.host(1), self.family.host(2));
        for n in 0..count {
            let sport = FLOOD_PORT.checked_add(n as u16).ok_or("too many for one address")?;
            let t = Tcp { sport, dport: 988, seq: n * 7919, flags: SYN, win: 1000, ..Tcp::default() };
            self.w.inject(&Ip::tcp(peer, us, t), &[])?;
            self.w.settle()?;
            self.take_in()?;
        }
        let n = self.flood_answers;
        if answers.has(n) { Ok(()) } else { Err(format!("expected {answers} answers, got {n}")) }
    }

    /// Bounds in time of what a line expects: earliest, latest.
    fn bounds(&self, when: When) -> (u64, u64) {
        match when {
            When::Now => (self.base, self.base),
            When::After(t) => (self.base + t.saturating_sub(self.tolerance), self.base + t + self.tolerance),
            When::Within(t) => (self.base, self.base + t),
        }
    }

    /// The next packet, at a time that a line allows; `what` was expected.
    fn take(&mut self, when: When, what: &str) -> Result<Sent, String> {
        let (from, to) = self.bounds(when);
        if !self.wait(to, false)? {
            return Err(format!("nothing came\n    expected: {what}"));
        }
        let early = self.sent.front().filter(|s| s.at < from).map(|s| (from - s.at, self.show(s)));
        if let Some((by, got)) = early {
            return Err(format!("it came {} ms too early\n    got:   {got}", by / 1_000_000));
        }
        let s = self.sent.pop_front().ok_or("nothing came")?;
        self.base = s.at.max(self.base);
        Ok(s)
    }

    fn expect(&mut self, i: usize, want: &Want, when: When) -> Result<(), String> {
        match want {
            Want::Nothing(t) => {
                if let When::After(t) = when {
                    self.go(self.base + t)?;
                }
                self.quiet("nothing was expected")?;
                self.go(self.base + t)?;
                self.quiet("nothing was expected")
            }
            Want::Anything(t) => {
                let until = self.base + t;
                while self.wait(until, false)? {
                    self.sent.pop_front();
                }
                self.base = until;
                Ok(())
            }
            Want::Seg(seg) => {
                let s = self.take(when, "a segment")?;
                self.belongs(i, &s)?;
                self.segment(i, seg, &s)
            }
            Want::Cover(a, b, n) => self.cover(i, (*a, *b), n, when),
            Want::Acks(last, n) => self.acks(i, *last, n, when),
            Want::Icmp(t, c, len) => {
                let s = self.take(when, "an ICMP message")?;
                let (t, c) = if s.ip.dst.is_ipv4() { (*t, *c) } else { v6_kind(*t, *c) };
                match &s.ip.body {
                    Body::Icmp(gt, gc, b) if (*gt, *gc) == (t, c) && len.is_none_or(|n| b.len() == n + 4) => {
                        Ok(())
                    }
                    _ => Err(format!("another packet\n    got:   {}", self.show(&s))),
                }
            }
            Want::Solicit(a) => {
                let (_, to) = self.bounds(when);
                while self.solicits.is_empty() && self.w.now < to {
                    self.quiet("time goes on")?;
                    self.w.step(to)?;
                    self.take_in()?;
                }
                let (at, got) = self.solicits.pop_front().ok_or("nobody was asked for")?;
                self.base = at.max(self.base);
                let a = self.family.address(*a);
                if got == a { Ok(()) } else { Err(format!("{got} was asked for, not {a}")) }
            }
        }
    }

    fn belongs(&self, i: usize, s: &Sent) -> Result<(), String> {
        let ttl = if s.ip.ttl < 64 { format!("hop limit {}", s.ip.ttl) } else { String::new() };
        match s.conn {
            Some(k) if k == i && ttl.is_empty() && s.ip.src == self.family.host(1) => Ok(()),
            Some(k) if k == i => Err(format!("from {} with {ttl}\n    got:   {}", s.ip.src, self.show(s))),
            _ => Err(format!("of another connection\n    got:   {}", self.show(s))),
        }
    }

    fn segment(&mut self, i: usize, want: &Seg, s: &Sent) -> Result<(), String> {
        let t = World::body(&s.ip).ok_or("no TCP segment")?;
        match self.conns[i].differs(want, t) {
            None => Ok(()),
            Some(why) => Err(format!("{why}\n    got:   {}", self.show(s))),
        }
    }

    fn cover(&mut self, i: usize, (from, to): (i64, i64), n: &Range, when: When) -> Result<(), String> {
        let (mut at, mut count) = (from, 0);
        let mut when = when;
        while at < to {
            let s = self.take(when, &format!("the bytes from {at} to {to}"))?;
            self.belongs(i, &s)?;
            let c = &self.conns[i];
            let t = World::body(&s.ip).ok_or("no TCP segment")?;
            let first = c.rel(t.seq, true);
            let fault = if first != at {
                Some(format!("the next byte should be {at}"))
            } else if t.data.is_empty() || t.flags & !0x08 != ACK {
                Some("no plain data".into())
            } else if first + t.data.len() as i64 > to {
                Some(format!("it goes beyond {to}"))
            } else {
                c.options_differ(None, t).or_else(|| c.data_differs(None, t))
            };
            if let Some(f) = fault {
                return Err(format!("{f}\n    got:   {}", self.show(&s)));
            }
            at += t.data.len() as i64;
            count += 1;
            if matches!(when, When::After(_)) {
                when = When::Now;
            }
        }
        if n.has(count) { Ok(()) } else { Err(format!("it came in {count} segments, not {n}")) }
    }

    fn acks(&mut self, i: usize, last: i64, n: &Range, when: When) -> Result<(), String> {
        let mut count = 0;
        loop {
            let s = self.take(when, &format!("acknowledgements up to {last}"))?;
            self.belongs(i, &s)?;
            let c = &self.conns[i];
            let t = World::body(&s.ip).ok_or("no TCP segment")?;
            let fault = if !t.data.is_empty() || t.flags != ACK || c.rel(t.ack, false) > last {
                Some(format!("no plain acknowledgement up to {last}"))
            } else {
                c.options_differ(None, t)
            };
            if let Some(f) = fault {
                return Err(format!("{f}\n    got:   {}", self.show(&s)));
            }
            count += 1;
            if c.rel(t.ack, false) == last {
                break;
            }
        }
        if n.has(count) { Ok(()) } else { Err(format!("it came in {count} segments, not {n}")) }
    }

    fn heard(&mut self, i: usize, want: &Heard, when: When) -> Result<(), String> {
        let (from, to) = self.bounds(when);
        match want {
            Heard::Readable | Heard::Progress { .. } => {
                self.go(to)?;
                let known = match want {
                    Heard::Readable => {
                        let n = self.readable.len();
                        self.readable.retain(|r| *r != i);
                        self.readable.len() < n
                    }
                    Heard::Progress { acked, sent } => {
                        self.progress.iter().any(|p| p.0 == i && acked.has(p.1) && sent.has(p.2))
                    }
                    _ => false,
                };
                if known { Ok(()) } else { Err("no such event".into()) }
            }
            _ => {
                if !self.wait(to, true)? {
                    return Err("no event came".into());
                }
                let (at, k, n) = self.noted.pop_front().ok_or("no event came")?;
                self.base = at.max(self.base);
                let same = match (want, &n) {
                    (Heard::Opened(w), Noted::Opened(p)) => w.is_none_or(|w| w == *p),
                    (Heard::Fin, Noted::Fin) => true,
                    (Heard::Closed(w), Noted::Closed(g)) => w == g,
                    _ => false,
                };
                match at < from {
                    true => Err(format!("it came {} ms too early", (from - at) / 1_000_000)),
                    false if same && k == i => Ok(()),
                    false => Err(format!(
                        "another event\n    got:   [{}] event {}",
                        self.conns[k].label,
                        show_noted(&n)
                    )),
                }
            }
        }
    }

    /// Lets everything go; nothing lent or received may stay behind.
    fn finish(&mut self) -> Result<(), String> {
        self.w.buffers(0)?;
        self.w.link(true);
        for i in 0..self.conns.len() {
            self.conns[i].left.clear();
            self.conns[i].kept.clear();
            if let Some(f) = self.conns[i].flow {
                self.w.s.close(f, Close::Abort);
            }
        }
        self.w.settle()?;
        self.w.s.slab().reap(|_, _| ());
        let (c, s) = (self.w.s.counters(), &self.w.s);
        if (c.desync, c.smoltcp_resent) != (0, 0) {
            return Err(format!("desync {}, smoltcp_resent {}: both must be 0", c.desync, c.smoltcp_resent));
        }
        if (s.slab().out(), s.port().rx_out(), s.lent_out()) != (0, 0, 0) {
            let left = (s.slab().out(), s.port().rx_out());
            return Err(format!("{} lendings and {} receive buffers are left over", left.0, left.1));
        }
        Ok(())
    }
}

fn show_noted(n: &Noted) -> String {
    match n {
        Noted::Opened(p) => format!("opened {}", if *p { "passive" } else { "active" }),
        Noted::Fin => "fin".into(),
        Noted::Closed(why) => format!("closed {why}"),
    }
}

fn v6_kind(t: u8, c: u8) -> (u8, u8) {
    let names =
        ["echo-request", "echo-reply", "net-unreachable", "host-unreachable", "port-unreachable", "too-big"];
    let name = names.iter().find(|n| icmp_kind(n, true) == Some((t, c)));
    name.and_then(|n| icmp_kind(n, false)).unwrap_or((t, c))
}
