//! What a machine in a node's place (`place.rs`) wrote otherwise than the captured node, message by message, and the tables that
//! say why: each is exact, so an entry that no longer differs fails as much as a difference that is in none.

use transport::testing::capture::{Dir, Located, Msg, Segment, good_messages};
use transport::wire::{LnetBody, LnetHdr, PingInfo, WireError};

use crate::CHUNKS;
use crate::place::{Link, Play};

/// Capture, connection in the list beside it, the difference, how often it is there, and why.
pub(super) type Differs = (&'static str, usize, &'static str, usize, &'static str);

/// Differences that were found, against a table.
pub(super) struct Found {
    table: &'static [Differs],
    times: Vec<usize>,
    wrong: Vec<String>,
}

impl Found {
    pub(super) fn new(table: &'static [Differs]) -> Found {
        Found { table, times: vec![0; table.len()], wrong: Vec::new() }
    }

    /// Looks at what was played, in pieces of `chunk` bytes.
    pub(super) fn add(&mut self, name: &str, chunk: usize, played: &Play) {
        for (n, what) in played.differences() {
            match self.table.iter().position(|d| (d.0, d.1, d.2) == (name, n, what.as_str())) {
                Some(at) => self.times[at] += 1,
                None => self.wrong.push(format!("{name} {chunk}, connection {n}: {what}")),
            }
        }
    }

    /// What is in no table, or not as often as it says.
    pub(super) fn wrong(self) -> impl Iterator<Item = String> {
        let not_so = self.table.iter().zip(self.times).filter(|(d, n)| *n != d.3 * CHUNKS.len());
        self.wrong.into_iter().chain(not_so.map(|(d, n)| format!("{n} times: {d:?}")))
    }
}

impl Play {
    /// Differences by connection, message by message.
    fn differences(&self) -> Vec<(usize, String)> {
        let mut out: Vec<_> = self.undialled.iter().map(|n| (*n, "not dialled".to_owned())).collect();
        for l in &self.links {
            let (ours, left, bad) = l.written();
            if left > 0 || bad.is_some() {
                out.push((l.number, format!("{left} bytes are no message, {bad:?}")));
                continue;
            }
            let captured = if l.dials { l.flow.a.bytes() } else { l.flow.p.bytes() };
            let (mut besides, mut both): (Vec<&Located>, Vec<_>) = (ours.iter().collect(), Vec::new());
            for m in &l.want {
                let same = |o: &&Located| l.wrote[o.range.clone()] == captured[m.range.clone()];
                match besides.iter().position(same) {
                    Some(at) => both.push((m, besides.remove(at).range.start)),
                    None => out.push((l.number, format!("missing: {}", name(&m.msg)))),
                }
            }
            out.extend(besides.iter().map(|m| (l.number, format!("besides: {}", name(&m.msg)))));
            for (n, (m, at)) in both.iter().enumerate() {
                if both[n..].iter().any(|after| after.1 < *at) {
                    out.push((l.number, format!("later: {}", name(&m.msg))));
                }
            }
        }
        out
    }
}

/// A message, in a few words.
fn name(msg: &Msg) -> String {
    let Msg::Lnet(_, h, payload) = msg else { return msg.name().into() };
    match PingInfo::parse(payload) {
        Ok(info) => {
            let nis: Vec<_> = info.nis.iter().map(|n| format!("{:?}", n.status)).collect();
            format!("{} {}", h.body.name(), nis.join(" "))
        }
        Err(_) => match h.body {
            LnetBody::Get { sink_length, .. } => format!("GET of {sink_length}"),
            body => format!("{} of {}", body.name(), payload.len()),
        },
    }
}

/// Requests to lnet_selftest's services.
fn to_services(m: &Located) -> bool {
    matches!(&m.msg, Msg::Lnet(_, LnetHdr { body: LnetBody::Put { portal: 50 | 51, .. }, .. }, _))
}

impl Link {
    /// Requests to lnet_selftest's services, as they were captured.
    pub(super) fn requests_captured(&self) -> usize {
        self.want.iter().filter(|m| to_services(m)).count()
    }

    /// The same, as our machine wrote them.
    pub(super) fn requests_written(&self) -> usize {
        self.written().0.iter().filter(|m| to_services(m)).count()
    }

    /// What our machine wrote, what was left over, and what the parser says of that.
    fn written(&self) -> (Vec<Located>, usize, Option<WireError>) {
        let mut dir = Dir::default();
        dir.segments.push(Segment { at: 0, bytes: self.wrote.clone() });
        good_messages(&dir, self.dials, self.flow.from_start, self.version)
    }
}
