//! NIDs as lnetctl's users list them: with commas between, and with ranges in place of numbers of an IPv4 address (`10.8.0.[10-12]@tcp1`).

use transport::lnd::NIDS_OF_PEER;
use transport::wire::{Brief, Nid};

/// Reason why a word names no NIDs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotNids {
    /// It is no NID: lnetctl says nothing of that (docs/protocol/upper.md §5).
    Nid,
    /// It has a range that is none, or names too many.
    Range(String),
}

/// The words of a list: a comma within brackets parts none.
fn words(list: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    list.split(move |c| {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
}

/// The numbers that a part of an address names: `7`, `*`, or `[1,5-9,10-20/2]`.
fn numbers(part: &str) -> Option<Vec<u8>> {
    if part == "*" {
        return Some((0..=u8::MAX).collect());
    }
    let Some(inner) = part.strip_prefix('[').and_then(|p| p.strip_suffix(']')) else {
        return Some(vec![part.parse().ok()?]);
    };
    let mut all = Vec::new();
    for word in inner.split(',').map(str::trim) {
        let (range, step) = word.split_once('/').map_or((word, Some(1)), |(r, s)| (r, s.parse().ok()));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u8, u8) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        let step = step.filter(|s| *s > 0)?;
        if last < first {
            return None;
        }
        all.extend((first..=last).step_by(step));
    }
    Some(all)
}

/// The NIDs of a word with a range.
fn range(word: &str) -> Result<Vec<Nid>, String> {
    let (address, net) = word.split_once('@').map_or((word, ""), |(a, n)| (a, n));
    let at = if net.is_empty() { "" } else { "@" };
    let none = || {
        format!(
            "{} is no range of NIDs: write one such as 10.8.0.[10-12]@tcp1, or 10.8.0.[1,5,10-20/2]@tcp1",
            Brief(word)
        )
    };
    let parts: Option<Vec<Vec<u8>>> = address.split('.').map(numbers).collect();
    let parts = parts.filter(|p| p.len() == 4).ok_or_else(none)?;
    let many = parts.iter().fold(1_usize, |n, p| n.saturating_mul(p.len()));
    if many > NIDS_OF_PEER {
        return Err(format!("{} names {many} NIDs, and a peer has {NIDS_OF_PEER} at most", Brief(word)));
    }
    let mut all = vec![String::new()];
    for part in &parts {
        let more = |a: &String| {
            let dot = if a.is_empty() { "" } else { "." };
            part.iter().map(|n| format!("{a}{dot}{n}")).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(more).collect();
    }
    all.iter().map(|a| format!("{a}{at}{net}").parse().map_err(|_| none())).collect()
}

/// The NIDs of a list.
///
/// # Errors
/// [`NotNids`] of the first word that names none.
pub(super) fn nids(list: &str) -> Result<Vec<Nid>, NotNids> {
    let mut all = Vec::new();
    for word in words(list) {
        if word.contains(['[', '*']) {
            all.extend(range(word).map_err(NotNids::Range)?);
        } else {
            all.push(word.parse().map_err(|_| NotNids::Nid)?);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(list: &str) -> Result<String, NotNids> {
        Ok(nids(list)?.iter().map(Nid::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn ranges_are_all_their_nids() {
        for (list, all) in [
            ("10.8.0.9@tcp1", "10.8.0.9@tcp1"),
            ("10.8.0.9@tcp1,fd00::1@tcp", "10.8.0.9@tcp1 fd00::1@tcp"),
            ("10.8.0.[10-12]@tcp1", "10.8.0.10@tcp1 10.8.0.11@tcp1 10.8.0.12@tcp1"),
            (
                "10.8.[0-1].[1,7]@tcp,10.9.0.1",
                "10.8.0.1@tcp 10.8.0.7@tcp 10.8.1.1@tcp 10.8.1.7@tcp 10.9.0.1@tcp",
            ),
            ("10.8.0.[1-9/4]@tcp", "10.8.0.1@tcp 10.8.0.5@tcp 10.8.0.9@tcp"),
            ("10.8.0.[254-255]@tcp", "10.8.0.254@tcp 10.8.0.255@tcp"),
        ] {
            assert_eq!(told(list).unwrap(), all, "{list}");
        }
        for (list, says) in [
            ("10.8.0.[12-10]@tcp", "10.8.0.[12-10]@tcp is no range"),
            ("10.8.0.[1-300]@tcp", "is no range"),
            ("10.8.0.[1-9/0]@tcp", "is no range"),
            ("10.8.0.[1-2", "is no range"),
            ("10.8.[1-2]@tcp", "is no range"),
            ("10.8.0.[1-2]@nonsense", "is no range"),
            ("10.8.0.*@tcp", "names 256 NIDs, and a peer has 32 at most"),
            ("*.*.*.*@tcp", "names 4294967296 NIDs"),
        ] {
            let Err(NotNids::Range(e)) = told(list) else { panic!("{list}") };
            assert!(e.contains(says), "{list}: {e}");
        }
        assert_eq!(told("foo"), Err(NotNids::Nid));
        assert_eq!(told(""), Err(NotNids::Nid));
    }
}
