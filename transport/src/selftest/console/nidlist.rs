//! Lists of NIDs as lst takes them: `192.168.80.[12-13,20]@tcp`, `10.0.*.7@tcp`, `10.0.0.[2-20/2]@tcp1`.
//!
//! A list is of items between blanks, or commas outside of brackets. An item is a NID, perhaps with `12345-` in front, whose
//! IPv4 address may have, in the place of each number, `*` or brackets with numbers and ranges; a range may have a stride.

use std::net::Ipv4Addr;

use crate::wire::nid::PID_LUSTRE;
use crate::wire::{Brief, Nid};

/// Most NIDs of one list.
pub const NIDS_MAX: usize = 4096;

/// Reason why a text is no list of NIDs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NidListError {
    /// Nothing in it.
    #[error("an empty list of NIDs: write at least one, such as 192.168.80.[12-13,20]@tcp")]
    Empty,
    /// No NID.
    #[error("{}: {why}", Brief(.item))]
    Item {
        /// The part of the list.
        item: String,
        /// The fault, and the form that is right.
        why: String,
    },
    /// More than [`NIDS_MAX`].
    #[error("{} stands for {} NIDs; a list has at most {NIDS_MAX}: name fewer", Brief(.0), .1)]
    TooMany(String, u64),
}

fn bad(item: &str, why: impl Into<String>) -> NidListError {
    NidListError::Item { item: item.to_owned(), why: why.into() }
}

/// The items of a list.
pub fn items(list: &str) -> Vec<&str> {
    let mut depth = 0u32;
    let mut all = list.split(|c: char| {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c.is_ascii_whitespace() || (c == ',' && depth == 0)
    });
    let mut found = Vec::new();
    for item in all.by_ref().filter(|s| !s.is_empty()) {
        found.push(item);
    }
    found
}

/// The NIDs of a list, in the order in which they are written, each once.
///
/// # Errors
/// The item that is no NID, with the remedy.
pub fn parse(list: &str) -> Result<Vec<Nid>, NidListError> {
    let mut nids = Vec::new();
    let mut seen = rustc_hash::FxHashSet::default();
    for item in items(list) {
        for nid in expand(item)? {
            if seen.insert(nid) {
                nids.push(nid);
            }
        }
        if nids.len() > NIDS_MAX {
            return Err(NidListError::TooMany(list.to_owned(), nids.len() as u64));
        }
    }
    if nids.is_empty() { Err(NidListError::Empty) } else { Ok(nids) }
}

/// The NIDs of one item.
fn expand(item: &str) -> Result<Vec<Nid>, NidListError> {
    let pid = PID_LUSTRE.to_string();
    let text = item.strip_prefix(pid.as_str()).and_then(|r| r.strip_prefix('-')).unwrap_or(item);
    let (addr, net) = text.split_once('@').unwrap_or((text, "tcp"));
    if !addr.contains(['*', '[', ']']) {
        let nid = text.parse::<Nid>().and_then(Nid::station).map_err(|e| bad(item, e.to_string()))?;
        return match nid.ip() {
            Some(_) => Ok(vec![nid]),
            None => {
                Err(bad(item, "only NIDs of tcp networks can be members; write one such as 10.0.0.1@tcp"))
            }
        };
    }
    // The network is judged once, with an address that any machine may have.
    let example: Nid = format!("10.0.0.1@{net}")
        .parse()
        .map_err(|e: crate::wire::NidParseError| bad(item, e.to_string()))?;
    if example.ip().is_none() {
        return Err(bad(
            item,
            "only NIDs of tcp networks can be members; write one such as 10.0.0.[1-4]@tcp",
        ));
    }
    if addr == "*" {
        return Err(bad(item, "* alone stands for every address there is: write those that are meant"));
    }
    let parts: Vec<&str> = addr.split('.').collect();
    let [a, b, c, d] = parts.as_slice() else {
        return Err(bad(item, "an address with * or brackets has four parts, such as 10.0.0.[1-4]@tcp"));
    };
    let octets = |p: &str| octets(p).map_err(|why| bad(item, why));
    let [a, b, c, d] = [octets(a)?, octets(b)?, octets(c)?, octets(d)?];
    let many = [&a, &b, &c, &d].iter().fold(1u64, |n, o| n.saturating_mul(o.len() as u64));
    if many > NIDS_MAX as u64 {
        return Err(NidListError::TooMany(item.to_owned(), many));
    }
    let mut nids = Vec::new();
    for a in &a {
        for b in &b {
            for c in &c {
                for d in &d {
                    let nid = Nid::tcp(Ipv4Addr::new(*a, *b, *c, *d).into(), example.net_num());
                    nids.push(nid.station().map_err(|e| bad(item, e.to_string()))?);
                }
            }
        }
    }
    Ok(nids)
}

/// The numbers that a part of an address stands for, in order, each once.
fn octets(part: &str) -> Result<Vec<u8>, String> {
    if part == "*" {
        return Ok((0..=255).collect());
    }
    let Some(inner) = part.strip_prefix('[') else {
        return octet(part).map(|n| vec![n]);
    };
    let inner = inner.strip_suffix(']').ok_or_else(|| format!("{part} has no ] at its end"))?;
    let mut set = [false; 256];
    for range in inner.split(',') {
        let range = range.trim();
        let (from, to, stride) = match range.split_once('-') {
            _ if range == "*" => (0, 255, 1),
            None => (octet(range)?, octet(range)?, 1),
            Some((from, rest)) => {
                let (to, stride) = match rest.split_once('/') {
                    None => (rest, 1),
                    Some((to, s)) => (to, octet(s)?),
                };
                (octet(from)?, octet(to)?, stride)
            }
        };
        if from > to {
            return Err(format!("{range} begins after its end: write {to}-{from}"));
        }
        if stride == 0 {
            return Err(format!("{range} has a stride of 0: write 1 or more"));
        }
        for n in (from..=to).step_by(usize::from(stride)) {
            if let Some(s) = set.get_mut(usize::from(n)) {
                *s = true;
            }
        }
    }
    Ok((0..=255).filter(|n: &u8| set.get(usize::from(*n)).is_some_and(|s| *s)).collect())
}

fn octet(s: &str) -> Result<u8, String> {
    let digits = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    digits
        .then(|| s.parse().ok())
        .flatten()
        .ok_or_else(|| format!("{:?} is no number from 0 to 255, nor * or such as [2-20/2,30]", Brief(s)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(list: &str) -> String {
        match parse(list) {
            Ok(n) => n.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(e) => format!("error: {e}"),
        }
    }

    #[test]
    fn lists_are_expanded_as_lst_does() {
        for (list, nids) in [
            ("192.168.80.[12-13]@tcp", "192.168.80.12@tcp 192.168.80.13@tcp"),
            ("192.168.80.[12,13]@tcp1", "192.168.80.12@tcp1 192.168.80.13@tcp1"),
            ("10.0.0.[2-9/3,7]", "10.0.0.2@tcp 10.0.0.5@tcp 10.0.0.7@tcp 10.0.0.8@tcp"),
            ("10.[0,1].0.[1-2]@tcp", "10.0.0.1@tcp 10.0.0.2@tcp 10.1.0.1@tcp 10.1.0.2@tcp"),
            ("10.0.0.1@tcp 10.0.0.[1-2]@tcp", "10.0.0.1@tcp 10.0.0.2@tcp"),
            ("10.0.0.[1,2]@tcp,10.0.0.9@tcp", "10.0.0.1@tcp 10.0.0.2@tcp 10.0.0.9@tcp"),
            ("12345-10.0.0.1@tcp", "10.0.0.1@tcp"),
            ("fd00::1@tcp", "fd00::1@tcp"),
        ] {
            assert_eq!(say(list), nids, "{list}");
        }
        assert_eq!(parse("10.0.0.*@tcp").unwrap().len(), 256);
        assert_eq!(parse("10.0.[0-15].*@tcp").unwrap().len(), NIDS_MAX);
    }

    #[test]
    fn what_is_no_list_is_named_with_the_remedy() {
        let said = [
            "",
            " , ",
            "foo@bar",
            "10.0.0.[1-300]@tcp",
            "10.0.0.[3-1]@tcp",
            "10.0.0.[1-9/0]@tcp",
            "10.0.0.[1-3@tcp",
            "10.0.0.[]@tcp",
            "10.0.[1-2]@tcp",
            "10.0.0.[1-2]@tcpx",
            "10.0.0.[1-2]@o2ib",
            "10.0.0.1@o2ib",
            "0@lo",
            "*@tcp",
            "10.0.*.*@tcp",
            "224.0.0.[1-2]@tcp",
            "10.0.0.-1@tcp",
        ]
        .map(say)
        .join("\n");
        insta::assert_snapshot!(said);
    }
}
