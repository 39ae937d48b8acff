//! Differences between a replayed machine and the node in whose place it stood.

use std::collections::BTreeMap;

use transport::stream::Close;
use transport::testing::capture::SignKind;

use super::play::{Link, Place, Play, REACTION, Step};

impl Play {
    /// Differences between the machine and the captured node, by the connection's number.
    pub fn differences(&self) -> BTreeMap<usize, String> {
        let (mut out, script) = (BTreeMap::new(), self.script());
        for l in &self.links {
            let mut all = l.wrong.clone();
            all.extend(l.bytes_differ());
            if self.place == Place::Kernel {
                all.extend(self.end_differs(l, &script));
            }
            let last = self.links.iter().rfind(|o| o.peer == l.peer).is_some_and(|o| o.number == l.number);
            let dials =
                self.place == Place::Kernel && self.dials.iter().any(|(_, d)| d.remote.ip() == l.peer);
            if last && dials {
                all.push("dials once more".into());
            }
            if !all.is_empty() {
                out.insert(l.number, all.join("; "));
            }
        }
        out
    }

    /// Whether the other end had ended a connection beside this one at the time.
    fn sibling_ended(&self, l: &Link, at: u64) -> bool {
        let ends = [SignKind::Fin, SignKind::Reset];
        let others = self.links.iter().filter(|o| o.peer == l.peer && o.number != l.number);
        others.filter_map(|o| o.sign(false, &ends)).any(|e| e <= at)
    }

    /// Whether the machine ends the connection otherwise than the captured node: by itself or not, and when.
    fn end_differs(&self, l: &Link, script: &[Step]) -> Option<String> {
        let ends = [SignKind::Fin, SignKind::Reset];
        let (ours, theirs) = (l.sign(true, &ends), l.sign(false, &ends));
        let ms = |t: u64| t / 1_000_000;
        // The other end may have closed because of what the node wrote before it closed, too; and a connection of
        // the same set may have been closed first.
        if let (Some(k), Some((c, how))) = (ours, l.closed)
            && c.abs_diff(k) <= REACTION
            && !(l.followed && theirs.is_some_and(|e| k < e))
            && !(l.flow.refused() && !l.dials && how != Close::Fin)
        {
            return None;
        }
        match (ours, theirs, l.closed) {
            (Some(k), e, c) if e.is_none_or(|e| k < e) => {
                let Some((c, how)) = c else { return Some("does not close".into()) };
                // Timers of kernels tick slowly: any time does in which the other end was silent.
                let silent = !script
                    .iter()
                    .any(|(at, n, ours, _)| self.links[*n].peer == l.peer && !ours && *at > c && *at < k);
                if l.followed {
                    return Some(format!("closes after the other end, not at {} ms", ms(k)));
                }
                if c > k || (c + REACTION < k && !silent) {
                    return Some(format!("closes at {} ms, not at {} ms", ms(c), ms(k)));
                }
                let none = l.flow.refused() && !l.dials;
                (none && how != Close::Fin).then(|| "NONE is lost with a RST".into())
            }
            (_, Some(e), Some((c, _))) if c < e && (ours.is_some() || !self.sibling_ended(l, c)) => {
                Some(format!("closes at {} ms, before {} ms", ms(c), ms(e)))
            }
            // A node that had died would have closed it with its siblings.
            (None, _, Some((c, _))) if self.sibling_ended(l, c) => None,
            (None, None, Some((c, how))) => Some(format!("closes at {} ms: {how:?}", ms(c))),
            _ => None,
        }
    }
}

impl Link {
    fn bytes_differ(&self) -> Option<String> {
        let want = self.want();
        if want == self.wrote {
            return None;
        }
        let same = want.iter().zip(&self.wrote).take_while(|(a, b)| a == b).count();
        let at = self.ours.iter().find(|m| m.range.contains(&same));
        let at = at.map(|m| format!("{:?}", m.msg).chars().take(200).collect::<String>());
        Some(format!(
            "byte {same} of {}, {} written, in {}",
            want.len(),
            self.wrote.len(),
            at.as_deref().unwrap_or("no message")
        ))
    }
}
