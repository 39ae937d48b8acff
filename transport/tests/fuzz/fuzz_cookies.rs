//! Requests, ACK words and resets on the table of zero-copy cookies, beside a model that is too simple to be wrong
//! (docs/protocol/socklnd.md §6.2, §6.3). Hostile ranges cost no more than what is pending: that is counted.

use std::collections::BTreeMap;

use crate::fuzz::{Bytes, LEN, TIME};
use transport::socklnd::testing::Cookies;
use transport::wire::{KsockHdr, KsockType, Version};

/// The cookies that a header's words name; `Err` for words that are an error by themselves, `None` for more cookies
/// than anybody has.
fn named(version: Version, h: &KsockHdr, most: u64) -> Result<Option<Vec<u64>>, ()> {
    let (c0, c1) = (h.cookie0, h.cookie1);
    let keepalive = c1 == 1 && version >= Version::V3;
    Ok(match h.kind {
        _ if c1 == 0 => Some(vec![]),
        KsockType::Lnet if keepalive => Some(vec![]),
        KsockType::Lnet => Some(vec![c1]),
        KsockType::Noop if keepalive && c0 <= 1 => Some(vec![]),
        KsockType::Noop if keepalive => return Err(()),
        KsockType::Noop if c0 == 0 => Some(vec![c1]),
        KsockType::Noop if c0 > c1 => Some(vec![c0, c1]),
        KsockType::Noop if c1 - c0 >= most => None,
        KsockType::Noop => Some((c0..=c1).collect()),
    })
}

fn run(input: &[u8]) {
    let mut b = Bytes::new(input);
    // Counters that come to their end, too.
    let mut next = if b.chance() { 2 } else { u64::MAX - b.below(200) };
    let mut table = Cookies::starting_at(next);
    // Pending: cookie, then end and deadline. In the order they were given out.
    let mut model: Vec<(u64, (u64, u64))> = Vec::new();
    let (mut end, mut sent, mut now) = (0u64, 0u64, 0u64);
    let mut last = next;
    while !b.done() {
        match b.u8() % 8 {
            0..=2 => {
                (end, now) = (end + 1 + b.below(1000), now + b.below(50));
                assert_eq!(table.request(end, now), next);
                model.push((next, (end, now)));
                last = next;
                next = if next == u64::MAX { 2 } else { next + 1 };
            }
            3 => sent = end - b.below(2000).min(end - sent.min(end)),
            4 if b.below(8) == 0 => {
                let failed: Vec<u64> = model.drain(..).map(|(c, _)| c).collect();
                assert_eq!(table.reset(), failed);
                next = 2;
            }
            _ => {
                let near = |b: &mut Bytes<'_>| match b.u8() % 8 {
                    0 => b.below(3),
                    1 => u64::MAX - b.below(3),
                    2 => 1 << 63,
                    3 => last.wrapping_add(b.below(4)),
                    _ if model.is_empty() => b.below(9),
                    _ => {
                        model[b.below(model.len() as u64) as usize].0.wrapping_add(b.below(3)).wrapping_sub(1)
                    }
                };
                let (cookie0, cookie1) = (if b.chance() { near(&mut b) } else { 0 }, near(&mut b));
                let kind = if b.below(4) == 0 { KsockType::Lnet } else { KsockType::Noop };
                let version = [Version::V2, Version::V3, Version::V4][b.below(3) as usize];
                let h = KsockHdr { kind, csum: 0, cookie0, cookie1 };
                let (looks, pending) = (table.looks(), model.len());
                let got = table.ack(version, &h, sent);
                assert!(table.looks() - looks <= pending as u64, "{h:?} with {pending} pending");
                let by: BTreeMap<u64, (u64, u64)> = model.iter().copied().collect();
                let good = |c: &u64| by.get(c).is_some_and(|(end, _)| *end <= sent);
                match named(version, &h, pending as u64 + 1) {
                    Ok(Some(want)) if want.iter().all(good) => {
                        assert_eq!(got.as_ref(), Ok(&want), "{h:?}");
                        model.retain(|(c, _)| !want.contains(c));
                    }
                    _ => assert!(got.is_err(), "{h:?} {got:?}"),
                }
            }
        }
        assert_eq!((table.pending(), table.deadline()), (model.len(), model.first().map(|(_, (_, d))| *d)));
    }
}

#[test]
fn cookies_behave_as_their_model() {
    bolero::check!().with_test_time(TIME).with_max_len(LEN).for_each(run);
}
