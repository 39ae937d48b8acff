//! Captures in which both ends dial at once, or several connections could carry a message.

use std::collections::BTreeMap;

use crate::CHUNKS;
use crate::play::{Capture, Place, Play};
use transport::testing::capture::{Dir, Msg, Segment, good_messages};
use transport::wire::{ConnType, Hello, Version};

/// Both dial. The kernel with the higher NID refuses the other's connections with NONE while it connects, and its own
/// come to be; the other tries again after a second. In its place we answer both of the other's with the right type
/// (field report L1), and use none of them: all that we write on our own is what the kernel wrote.
#[test]
fn connect_race() {
    let read = Capture::read("lnet/v3-connect-race");
    for chunk in CHUNKS {
        for (me, list) in read.nodes(true, |_| true) {
            let played = Play::new(&read, Place::Kernel, me, &list, chunk, |_| ()).run();
            let mut differ = played.differences();
            let higher = !me.to_string().ends_with(".11");
            if higher {
                // The capture ends between the acceptor request and the HELLO of the last connection.
                differ.remove(&5).expect("the fifth connection is cut off");
                let last = played.links.last().unwrap();
                assert!(last.wrote.starts_with(&last.want()) && last.want().len() == 16);
            }
            let c = played.machine.counters();
            if higher {
                for refused in [1, 4] {
                    let l = played.links.iter().find(|l| l.number == refused).unwrap();
                    let (said, len) = Hello::parse(&l.wrote).unwrap();
                    assert!(differ.remove(&refused).is_some() && len == l.wrote.len());
                    assert_ne!(said.ctype, ConnType::None);
                }
                assert_eq!((c.races, c.duplicates, c.duplicates_ended), (0, 2, 1), "{c:?}");
            } else {
                // The NONEs of the first connection and of the retry.
                assert_eq!((c.races, c.duplicates), (2, 1), "{c:?}");
            }
            assert!(differ.is_empty(), "{me} {chunk}: {differ:?}");
            assert_eq!(c.sets_closed, 0, "{me}: {c:?}");
        }
    }
}

/// The messages of one direction, handshake aside, by the type of the connection and in no order.
fn by_type(version: Version, active: bool, bytes: &[u8], out: &mut BTreeMap<ConnType, Vec<Vec<u8>>>) {
    let mut dir = Dir::default();
    dir.segments.push(Segment { at: 0, bytes: bytes.to_vec() });
    let (list, left, bad) = good_messages(&dir, active, true, version);
    assert!(left == 0 && bad.is_none());
    let ctype = list.iter().find_map(|m| match &m.msg {
        Msg::Hello(h) => Some(h.ctype),
        _ => None,
    });
    let messages = list.iter().filter(|m| !matches!(m.msg, Msg::Acceptor(_) | Msg::Hello(_)));
    out.entry(ctype.unwrap()).or_default().extend(messages.map(|m| bytes[m.range.clone()].to_vec()));
}

/// Four connections of each bulk type. A kernel takes the one whose socket buffer holds least at that moment, which
/// the capture does not tell: which of the four carries a message is left open. That it is one of the right type, and
/// every byte of it, is not.
#[test]
fn four_of_a_type() {
    let read = Capture::read("lnet/v3-conns_per_peer4");
    for chunk in CHUNKS {
        for (me, list) in read.nodes(true, |_| true) {
            let four = |cfg: &mut transport::lnd::Config| {
                cfg.conns_per_peer = 4;
                cfg.max_conns_per_type = 4;
            };
            let played = Play::new(&read, Place::Kernel, me, &list, chunk, four).run();
            let differ = played.differences();
            let bulk: Vec<usize> = (2..=9).collect();
            assert!(differ.keys().all(|n| bulk.contains(n)), "{me}: {:?}", differ.keys());
            assert!(differ.values().all(|why| why.starts_with("byte")), "{me}: {differ:?}");
            let (mut want, mut wrote) = (BTreeMap::new(), BTreeMap::new());
            for l in &played.links {
                let active = l.flow.active.ip() == me;
                by_type(l.flow.version(), active, &l.want(), &mut want);
                by_type(l.flow.version(), active, &l.wrote, &mut wrote);
            }
            for (ctype, mut want) in want {
                let mut wrote = wrote.remove(&ctype).unwrap();
                // CONTROL is one connection: there the order counts.
                if ctype != ConnType::Control {
                    want.sort();
                    wrote.sort();
                }
                assert!(want == wrote, "{me} {chunk}: {ctype:?} carries something else");
            }
        }
    }
}
