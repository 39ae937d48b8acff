//! From the text of a script to its lines.

use std::iter::Peekable;
use std::net::IpAddr;
use std::vec::IntoIter;

use tcpstack::Close;

use super::lang::{Call, Heard, IcmpSpec, Line, Num, OptSpec, Range, Script, Seg, Step, Want, When};
use super::packet::{ACK, FIN, FLAGS, SYN, Tweak};

type Words = Peekable<IntoIter<String>>;

/// Reads a script; the error names the line.
pub(crate) fn script(file: &str, text: &str) -> Result<Script, String> {
    let mut s = Script { file: file.into(), sets: vec![], lines: vec![] };
    for (no, text) in unrolled(text).map_err(|(no, e)| format!("{file}:{no}: {e}"))? {
        let words = words(&text);
        if words.is_empty() {
            continue;
        }
        let at = |e: String| format!("{file}:{no}: {e}\n    {}", text.trim());
        if words[0] == "set" {
            if !s.lines.is_empty() {
                return Err(at("`set` belongs before everything else".into()));
            }
            let name = words.get(1).cloned().ok_or_else(|| at("`set` what?".into()))?;
            s.sets.push((no, name, words[2..].to_vec()));
            continue;
        }
        for (text, words) in shortened(&text, words, &s.lines).map_err(at)? {
            s.lines.push(line(no, &text, words).map_err(at)?);
        }
    }
    if s.lines.is_empty() {
        return Err(format!("{file}: nothing in it"));
    }
    Ok(s)
}

/// Writes out `accepted` and `dialled`, the usual ways to an open connection.
fn shortened(text: &str, words: Vec<String>, before: &[Line]) -> Result<Vec<(String, Vec<String>)>, String> {
    let label = words.first().filter(|w| w.starts_with('[')).cloned().unwrap_or_default();
    let passive = match words.get(usize::from(!label.is_empty())).map(String::as_str) {
        Some("accepted") => true,
        Some("dialled") => false,
        _ => return Ok(vec![(text.into(), words)]),
    };
    let rest: Vec<String> = words.into_iter().skip(1 + usize::from(!label.is_empty())).collect();
    let mut w = rest.into_iter().peekable();
    let (mut rtt, mut win, mut opts) = ("1ms".to_string(), None, "<mss 1460, nop, wscale 7>".to_string());
    while let Some(k) = w.next() {
        match k.as_str() {
            "rtt" => rtt = next(&mut w)?,
            "win" => win = Some(next(&mut w)?),
            o if o.starts_with('<') => opts = k,
            other => return Err(format!("`{other}` is not understood here")),
        }
    }
    let mut lines = vec![];
    if passive {
        if !before.iter().any(|l| matches!(l.step, Step::Call(Call::Listen { .. }))) {
            lines.push("listen".into());
        }
        let win = win.unwrap_or_else(|| "1000".into());
        lines.push(format!("{label} < S 0:0(0) win 65535 {opts}"));
        lines.push(format!("{label} > S. 0:0(0) ack 1"));
        lines.push(format!("+{rtt} {label} < . 1:1(0) ack 1 win {win}"));
        lines.push(format!("{label} event opened passive"));
    } else {
        lines.push(format!("{label} dial"));
        lines.push(format!("{label} > S 0:0(0)"));
        lines.push(format!("+{rtt} {label} < S. 0:0(0) ack 1 win 65535 {opts}"));
        lines.push(format!("{label} > . 1:1(0) ack 1"));
        lines.push(format!("{label} event opened active"));
        lines.extend(win.map(|w| format!("{label} < . 1:1(0) ack 1 win {w}")));
    }
    Ok(lines.into_iter().map(|l| (l.clone(), self::words(&l))).collect())
}

/// The lines, comments cut off, with `repeat NAME A..B` ... `end` written out.
fn unrolled(text: &str) -> Result<Vec<(usize, String)>, (usize, String)> {
    let lines: Vec<(usize, String)> =
        text.lines().enumerate().map(|(i, l)| (i + 1, uncommented(l).to_string())).collect();
    let mut out = vec![];
    expand(&lines, &mut out)?;
    Ok(out)
}

fn expand(lines: &[(usize, String)], out: &mut Vec<(usize, String)>) -> Result<(), (usize, String)> {
    let mut i = 0;
    while let Some((no, l)) = lines.get(i) {
        let w: Vec<&str> = l.split_whitespace().collect();
        match w[..] {
            ["repeat", var, range] => {
                let bad = || (*no, format!("`repeat NAME FIRST..LAST`, not {range}"));
                let (a, b) = range.split_once("..").ok_or_else(bad)?;
                let (a, b) = (number(a).map_err(|_| bad())?, number(b).map_err(|_| bad())?);
                let mut depth = 1;
                let body: Vec<_> = lines[i + 1..]
                    .iter()
                    .take_while(|(_, l)| {
                        let first = l.split_whitespace().next();
                        depth += i32::from(first == Some("repeat")) - i32::from(first == Some("end"));
                        depth > 0
                    })
                    .cloned()
                    .collect();
                if depth > 0 || b - a > 100_000 {
                    return Err((*no, "a `repeat` without its `end`, or of more than 100,000".into()));
                }
                for k in a..=b {
                    let one: Vec<_> = body
                        .iter()
                        .map(|(n, l)| (*n, l.replace(&format!("${var}"), &k.to_string())))
                        .collect();
                    expand(&one, out)?;
                }
                i += body.len() + 2;
            }
            ["end"] => return Err((*no, "an `end` without a `repeat`".into())),
            _ => {
                out.push((*no, l.clone()));
                i += 1;
            }
        }
    }
    Ok(())
}

fn uncommented(l: &str) -> &str {
    let mut quoted = false;
    let cut = l.char_indices().find(|(_, c)| {
        quoted ^= *c == '"';
        *c == '#' && !quoted
    });
    cut.map_or(l, |(i, _)| &l[..i])
}

/// Words; a quoted text or a list of options in angle brackets is one.
fn words(l: &str) -> Vec<String> {
    let (mut out, mut cur, mut close) = (vec![], String::new(), None);
    let mut chars = l.chars().peekable();
    while let Some(c) = chars.next() {
        match close {
            Some(end) => {
                cur.push(c);
                if c == end {
                    close = None;
                }
            }
            None if c.is_whitespace() => {
                if !cur.is_empty() {
                    out.push(std::mem::take(&mut cur));
                }
            }
            None => {
                if cur.is_empty() && c == '"' {
                    close = Some('"');
                } else if cur.is_empty() && c == '<' && chars.peek().is_some_and(|n| !" <".contains(*n)) {
                    close = Some('>');
                }
                cur.push(c);
            }
        }
    }
    if !cur.is_empty() {
        out.push(cur);
    }
    out
}

fn line(no: usize, text: &str, words: Vec<String>) -> Result<Line, String> {
    let mut w = words.into_iter().peekable();
    let when = match w.peek().map(String::as_str) {
        Some("within") => {
            w.next();
            When::Within(duration(&next(&mut w)?)?)
        }
        Some(t) if t.starts_with('+') => {
            let t = duration(&t[1..])?;
            w.next();
            if t == 0 { When::Now } else { When::After(t) }
        }
        _ => When::Now,
    };
    let label = |t: &str| t.strip_prefix('[').and_then(|t| t.strip_suffix(']')).map(str::to_string);
    let conn = w.peek().and_then(|t| label(t));
    if conn.is_some() {
        w.next();
    }
    let step = step(&mut w)?;
    match w.next() {
        Some(rest) => return Err(format!("`{rest}` is not understood here")),
        None if matches!(when, When::Within(_)) && !matches!(step, Step::Expect(_) | Step::Event(_)) => {
            return Err("`within` is for what is expected".into());
        }
        None => (),
    }
    Ok(Line { no, text: text.trim().into(), when, conn, step })
}

fn step(w: &mut Words) -> Result<Step, String> {
    let first = next(w)?;
    Ok(match first.as_str() {
        d @ ("<" | "<<") => match w.peek().map(String::as_str) {
            Some("icmp") => Step::Icmp(icmp(w)?),
            Some("arp") => {
                w.next();
                Step::Arp { reply: next(w)? == "reply" }
            }
            _ => {
                let seg = segment(w)?;
                if seg.has_win && seg.win.min != seg.win.max {
                    return Err("a window to send is one number".into());
                }
                Step::Inject { seg, late: d == "<<" }
            }
        },
        ">" => Step::Expect(want(w)?),
        "event" => Step::Event(event(w)?),
        "count" | "flow" => Step::Count { flow: first == "flow", name: next(w)?, range: range(&next(w)?)? },
        "conn" => {
            let to = next(w)?;
            let (addr, port) = match to.rsplit_once('@') {
                Some((p, a)) => (Some(a.parse().map_err(|_| format!("{a} is no address"))?), p.to_string()),
                None => (None, to),
            };
            let ours = if take(w, "ours") { Some(small(&next(w)?)?) } else { None };
            Step::Conn { addr, port: Some(small(&port)?), ours }
        }
        "fresh" => Step::Fresh { isn: if take(w, "isn") { Some(small(&next(w)?)?) } else { None } },
        "flood" => Step::Flood {
            count: small(&next(w)?)?,
            answers: if take(w, "answered") { range(&next(w)?)? } else { Range::ANY },
        },
        "link" => Step::Link(next(w)? == "up"),
        "buffers" => Step::Buffers(small(&next(w)?)?),
        _ => Step::Call(call(&first, w)?),
    })
}

fn call(name: &str, w: &mut Words) -> Result<Call, String> {
    let fails = |w: &mut Words| if take(w, "fails") { next(w).map(Some) } else { Ok(None) };
    Ok(match name {
        "listen" => {
            let port = if take(w, "port") { small(&next(w)?)? } else { 988 };
            let backlog = if take(w, "backlog") { small(&next(w)?)? } else { 16 };
            Call::Listen { port, backlog }
        }
        "dial" => Call::Dial { fails: fails(w)? },
        "push" => {
            let bytes = small(&next(w)?)?;
            let copied = take(w, "copied");
            Call::Push { bytes, copied, fails: fails(w)? }
        }
        "read" | "hold" => {
            let n = next(w)?;
            let bytes = if n == "nothing" { 0 } else { small(&n)? };
            let text = w.next_if(|t| t.starts_with('"')).map(|t| quoted(&t)).transpose()?;
            Call::Read { bytes, text, keep: name == "hold" }
        }
        "credit" => Call::Credit(small(&next(w)?)?),
        "release" => Call::Release,
        "close" => Call::Close(Close::Fin),
        "finish" => Call::Close(Close::Both),
        "abort" => Call::Close(Close::Abort),
        other => return Err(format!("`{other}` is nothing that a script can do")),
    })
}

fn event(w: &mut Words) -> Result<Heard, String> {
    let first = next(w)?;
    Ok(match first.as_str() {
        "opened" => Heard::Opened(match w.peek().map(String::as_str) {
            Some("passive") => w.next().map(|_| true),
            Some("active") => w.next().map(|_| false),
            _ => None,
        }),
        "readable" => Heard::Readable,
        "fin" => Heard::Fin,
        "closed" => Heard::Closed(next(w)?),
        "acked" => Heard::Progress { acked: range(&next(w)?)?, sent: Range::ANY },
        "sent" => Heard::Progress { acked: Range::ANY, sent: range(&next(w)?)? },
        other => return Err(format!("`{other}` is no event: opened, readable, fin, closed, acked, sent")),
    })
}

fn want(w: &mut Words) -> Result<Want, String> {
    let Some(first) = w.peek().cloned() else { return Err("what is expected?".into()) };
    let lasting = |w: &mut Words| if take(w, "for") { duration(&next(w)?) } else { Ok(0) };
    let count = |w: &mut Words| if take(w, "in") { range(&next(w)?) } else { Ok(Range::ANY) };
    Ok(match first.as_str() {
        "nothing" => {
            w.next();
            Want::Nothing(lasting(w)?)
        }
        "anything" => {
            w.next();
            Want::Anything(lasting(w)?)
        }
        "cover" => {
            w.next();
            let span = next(w)?;
            let (a, b) = span.split_once(':').ok_or("`cover FIRST:END`")?;
            Want::Cover(number(a)?, number(b)?, count(w)?)
        }
        "acks" => {
            w.next();
            Want::Acks(number(&next(w)?)?, count(w)?)
        }
        "icmp" => {
            w.next();
            let kind = next(w)?;
            let (t, c) = icmp_kind(&kind, true).ok_or_else(|| format!("`{kind}` is no ICMP message"))?;
            Want::Icmp(t, c, w.next().map(|n| small(&n)).transpose()?)
        }
        "solicit" => {
            w.next();
            let a = next(w)?;
            Want::Solicit(a.parse().map_err(|_| format!("{a} is no address"))?)
        }
        _ => Want::Seg(segment(w)?),
    })
}

/// Type and code of an ICMP message; `v6` and the numbers of the two families are told apart by the sender.
pub(crate) fn icmp_kind(kind: &str, v4: bool) -> Option<(u8, u8)> {
    if let Some((t, c)) = kind.split_once('/') {
        return Some((t.parse().ok()?, c.parse().ok()?));
    }
    Some(match (kind, v4) {
        ("echo-request", true) => (8, 0),
        ("echo-reply", true) => (0, 0),
        ("net-unreachable", true) => (3, 0),
        ("host-unreachable", true) => (3, 1),
        ("protocol-unreachable", true) => (3, 2),
        ("port-unreachable", true) => (3, 3),
        ("too-big", true) => (3, 4),
        ("source-quench", true) => (4, 0),
        ("time-exceeded", true) => (11, 0),
        ("parameter-problem", true) => (12, 0),
        ("echo-request", false) => (128, 0),
        ("echo-reply", false) => (129, 0),
        ("net-unreachable", false) => (1, 0),
        ("host-unreachable", false) => (1, 3),
        ("protocol-unreachable", false) => (4, 1),
        ("port-unreachable", false) => (1, 4),
        ("too-big", false) => (2, 0),
        ("time-exceeded", false) => (3, 0),
        ("parameter-problem", false) => (4, 0),
        _ => return None,
    })
}

fn icmp(w: &mut Words) -> Result<IcmpSpec, String> {
    w.next();
    let kind = next(w)?;
    if icmp_kind(&kind, true).is_none() {
        return Err(format!("`{kind}` is no ICMP message"));
    }
    let mut s = IcmpSpec { kind, mtu: 0, quote: None, len: 0, from: None, tweaks: vec![] };
    while let Some(k) = w.next() {
        match k.as_str() {
            "mtu" => s.mtu = small(&next(w)?)?,
            "quote" => s.quote = Some(num(&next(w)?)?),
            "len" => s.len = small(&next(w)?)?,
            "from" => s.from = Some(next(w)?.parse().map_err(|e| format!("from: {e}"))?),
            t => s.tweaks.push(tweak(t)?),
        }
    }
    Ok(s)
}

fn segment(w: &mut Words) -> Result<Seg, String> {
    let mut flags = 0;
    let f = next(w)?;
    for c in f.chars().filter(|_| f != "-") {
        let known = FLAGS.iter().find(|x| x.0 == c);
        flags |= known.ok_or_else(|| format!("`{f}` are no flags: S F R P . U E C, or - for none"))?.1;
    }
    let (seq, len) = span(&next(w)?, flags)?;
    let mut s = Seg {
        flags,
        seq,
        len,
        ack: None,
        win: Range::ANY,
        has_win: false,
        edge: None,
        urg: None,
        opts: None,
        data: None,
        tweaks: vec![],
    };
    while let Some(k) = w.next() {
        match k.as_str() {
            "ack" => s.ack = Some(num(&next(w)?)?),
            "win" => (s.win, s.has_win) = (range(&next(w)?)?, true),
            "edge" => s.edge = Some(range(&next(w)?)?),
            "urg" => s.urg = Some(small(&next(w)?)?),
            "data" => {
                let d = quoted(&next(w)?)?;
                if d.len() != len as usize {
                    return Err(format!("{} bytes of data in a segment of {len}", d.len()));
                }
                s.data = Some(d);
            }
            "fill" => {
                let b = u8::from_str_radix(&next(w)?, 16).map_err(|e| format!("fill: {e}"))?;
                s.data = Some(vec![b; len as usize]);
            }
            o if o.starts_with('<') => s.opts = Some(options(o)?),
            t => s.tweaks.push(tweak(t)?),
        }
    }
    if s.ack.is_some() != (flags & ACK != 0) {
        return Err("an `ack` number belongs to the flag `.`, and the flag to a number".into());
    }
    Ok(s)
}

/// `seq:end(len)` or `seq(len)`; a SYN or FIN takes no room in it.
fn span(t: &str, flags: u8) -> Result<(Num, u32), String> {
    let bad = || format!("`{t}`: sequence numbers are FIRST:END(LENGTH) or FIRST(LENGTH)");
    let (a, rest) = t.split_once('(').ok_or_else(bad)?;
    let len: u32 = small(rest.strip_suffix(')').ok_or_else(bad)?)?;
    let (a, end) = a.split_once(':').map_or((a, None), |(a, b)| (a, Some(b)));
    let seq = num(a)?;
    if let (Some(end), Num::Rel(a)) = (end, seq)
        && number(end)? != a + i64::from(len)
    {
        return Err(format!("`{t}`: the end is not the first number and the length (flags {flags:#x})"));
    }
    if flags & SYN != 0 && flags & FIN != 0 && len > 0 {
        return Err(bad());
    }
    Ok((seq, len))
}

fn options(o: &str) -> Result<Vec<OptSpec>, String> {
    let list = o.strip_prefix('<').and_then(|o| o.strip_suffix('>')).ok_or("options end with `>`")?;
    let items = list.split(',').map(str::trim).filter(|s| !s.is_empty() && *s != "none");
    items.map(|o| option(o).ok_or_else(|| format!("`{o}` is no option"))).collect()
}

fn option(o: &str) -> Option<OptSpec> {
    let w: Vec<&str> = o.split_whitespace().collect();
    Some(match w[..] {
        ["eol"] => OptSpec::Eol,
        ["nop"] => OptSpec::Nop,
        ["mss", m] => OptSpec::Mss(range(m).ok()?),
        ["wscale", s] => OptSpec::Scale(range(s).ok()?),
        ["sackOK"] => OptSpec::SackOk,
        ["sack", ref v @ ..] => OptSpec::Sack(
            v.iter()
                .map(|b| b.split_once(':').and_then(|(l, r)| Some((number(l).ok()?, number(r).ok()?))))
                .collect::<Option<_>>()?,
        ),
        ["TS", "val", v, "ecr", e] => OptSpec::Ts(num(v).ok()?, num(e).ok()?),
        ["raw", hex] if hex.len() % 2 == 0 => OptSpec::Raw(
            (0..hex.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(hex.get(i..i + 2)?, 16).ok())
                .collect::<Option<_>>()?,
        ),
        _ => return None,
    })
}

fn tweak(t: &str) -> Result<Tweak, String> {
    let value = |t: &str| t.split_once('=').map_or(Ok(0), |(_, v)| small::<u8>(v));
    Ok(match t.split('=').next().unwrap_or(t) {
        "bad-checksum" => Tweak::BadChecksum,
        "bad-ip-checksum" => Tweak::BadIpChecksum,
        "ip-options" => Tweak::IpOptions,
        "fragment" => Tweak::Fragment,
        "broadcast" => Tweak::Broadcast,
        "ce" => Tweak::Ce,
        "data-offset" => Tweak::DataOffset(value(t)?),
        "cut" => Tweak::Cut(usize::from(value(t)?)),
        "ttl" => Tweak::Ttl(value(t)?),
        _ => return Err(format!("`{t}` is not understood here")),
    })
}

fn next(w: &mut Words) -> Result<String, String> {
    w.next().ok_or_else(|| "something is missing at the end of the line".into())
}

fn take(w: &mut Words, word: &str) -> bool {
    w.next_if(|t| t == word).is_some()
}

fn quoted(t: &str) -> Result<Vec<u8>, String> {
    let inner = t.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    inner.map(|t| t.as_bytes().to_vec()).ok_or_else(|| format!("{t} is no text in quotes"))
}

/// Sums of products: `1+10*1460`.
pub(crate) fn number(t: &str) -> Result<i64, String> {
    let bad = || format!("`{t}` is no number");
    let (mut total, mut sign, mut start) = (0i64, 1, 0);
    let body = t.strip_prefix('-').unwrap_or(t);
    if body.len() < t.len() {
        sign = -1;
    }
    let term = |s: &str| -> Result<i64, String> {
        s.split('*')
            .try_fold(1i64, |p, f| f.parse::<i64>().ok().and_then(|f| p.checked_mul(f)).ok_or_else(bad))
    };
    for (i, c) in body.char_indices().filter(|(_, c)| "+-".contains(*c)) {
        total += sign * term(&body[start..i])?;
        (sign, start) = (if c == '+' { 1 } else { -1 }, i + 1);
    }
    Ok(total + sign * term(&body[start..])?)
}

fn small<T: TryFrom<i64>>(t: &str) -> Result<T, String> {
    T::try_from(number(t)?).map_err(|_| format!("{t} is out of range"))
}

fn num(t: &str) -> Result<Num, String> {
    Ok(match t.strip_prefix('=') {
        _ if t == "*" => Num::Any,
        Some(a) => Num::Abs(small(a)?),
        None => Num::Rel(number(t)?),
    })
}

/// A number or a time, the latter in ns.
fn value(t: &str) -> Result<u64, String> {
    if t.ends_with('s') { duration(t) } else { small(t) }
}

pub(crate) fn range(t: &str) -> Result<Range, String> {
    if t == "*" {
        return Ok(Range::ANY);
    }
    if let Some(v) = t.strip_prefix(">=") {
        return Ok(Range { min: value(v)?, max: u64::MAX });
    }
    if let Some(v) = t.strip_prefix("<=") {
        return Ok(Range { min: 0, max: value(v)? });
    }
    if let Some((a, b)) = t.split_once("..") {
        return Ok(Range { min: value(a)?, max: value(b)? });
    }
    value(t).map(|v| Range { min: v, max: v })
}

/// `10ms`, `1.5s`, `40us`, `7ns`; a bare number is in seconds. In ns.
pub(crate) fn duration(t: &str) -> Result<u64, String> {
    let units = [("ns", 1u64), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000), ("", 1_000_000_000)];
    let (n, unit) = units
        .iter()
        .find_map(|(u, f)| t.strip_suffix(u).map(|n| (n, *f)))
        .ok_or_else(|| format!("`{t}` is no time"))?;
    let (whole, frac) = n.split_once('.').unwrap_or((n, ""));
    let bad = || format!("`{t}` is no time: write 10ms, 1.5s, 40us");
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    let mut ns = whole.checked_mul(unit).ok_or_else(bad)?;
    let mut place = unit;
    for d in frac.chars() {
        place /= 10;
        ns += u64::from(d.to_digit(10).ok_or_else(bad)?) * place;
    }
    Ok(ns)
}

/// An address, for `set` lines.
pub(crate) fn address(t: &str) -> Result<IpAddr, String> {
    t.parse().map_err(|_| format!("{t} is no address"))
}
