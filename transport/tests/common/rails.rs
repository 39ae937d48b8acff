//! Two nodes of two NIs each over any kind of streams: PUT, GET and ping on each NI, both ways.
#![allow(dead_code, unreachable_pub)]

use std::sync::Arc;

use hugepages::{Backing, PageRunMut};
use transport::lnd::{AppId, Data, Payload, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::node::{Handle, Inspect, RingApp, Shard, Streams, rings};
use transport::wire::{Nid, ProcessId};

const PORTAL: u32 = 9;
const BITS: u64 = 4;
/// Longer than a message's header has room for, and than any packet.
const LONG: usize = 300_000;

/// Ends that a node's application is used by.
pub fn app() -> (Handle, RingApp) {
    rings(AppId::FIRST, 64)
}

/// Pages with a pattern.
pub fn pages(backing: &Arc<dyn Backing>, seed: u8, len: usize) -> Payload {
    let mut run = PageRunMut::new(backing.clone(), len).unwrap();
    run.bytes_mut().iter_mut().enumerate().for_each(|(i, b)| *b = pattern(seed, i));
    Payload::Pages([run.freeze().slice_all()].into_iter().collect())
}

fn pattern(seed: u8, i: usize) -> u8 {
    (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed
}

fn good(data: &Data, seed: u8, len: usize) -> bool {
    let Data::Lent(parts) = data else { return false };
    let all: Vec<u8> = parts.iter().flat_map(|p| p.bytes().to_vec()).collect();
    all.len() == len && all.iter().enumerate().all(|(i, b)| *b == pattern(seed, i))
}

/// One end: what its application is used by, its NIDs, memory for its pages.
pub struct End<'a> {
    pub handle: &'a Handle,
    pub nids: &'a [Nid],
    pub backing: &'a Arc<dyn Backing>,
}

fn wait(turn: &mut dyn FnMut(), what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3_000_000 {
        if done() {
            return;
        }
        turn();
    }
    panic!("{what} does not end");
}

/// Opens an entry of `to` for PUTs and one for GETs; each NI of it is put to, got from and pinged from `from`.
pub fn all_ways(from: &End<'_>, to: &End<'_>, turn: &mut dyn FnMut()) {
    let attach = |portal, mem| Op::Attach {
        tag: 1,
        portal,
        who: ProcessId::ANY,
        match_bits: BITS,
        ignore_bits: 0,
        md: MdSpec::new(mem),
    };
    to.handle.submit(attach(PORTAL, MdMem::Sink(Sink::Lend(1 << 20)))).unwrap();
    to.handle.submit(attach(PORTAL + 1, MdMem::Source(pages(to.backing, 9, LONG)))).unwrap();
    let mut entries = Vec::new();
    wait(turn, "attaching", || {
        entries.extend(to.handle.event().and_then(|e| match e {
            Event::Attached { me, .. } => Some(me),
            _ => None,
        }));
        entries.len() == 2
    });
    for (tag, nid) in (1u64..).zip(to.nids) {
        let target = ProcessId::lustre(*nid);
        let put = |len: usize, hdr_data| Op::Put {
            tag,
            target,
            from: None,
            portal: PORTAL,
            match_bits: BITS,
            offset: 0,
            hdr_data,
            payload: pages(from.backing, tag as u8, len),
            ack: true,
        };
        from.handle.submit(put(LONG, tag)).unwrap();
        from.handle.submit(put(64, tag)).unwrap();
        let sink = Sink::Lend(LONG as u32);
        from.handle
            .submit(Op::Get { tag, target, from: None, portal: PORTAL + 1, match_bits: BITS, sink })
            .unwrap();
        from.handle.submit(Op::Ping { tag, target }).unwrap();
    }
    let (mut acks, mut replies, mut pings, mut puts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let all = to.nids.len();
    wait(turn, "an operation", || {
        match from.handle.event() {
            Some(Event::Ack { tag, status, done: true, .. } | Event::Send { tag, status, done: true }) => {
                assert_eq!(status, Ok(()), "{tag}");
                acks.push(tag);
            }
            Some(Event::Reply { tag, status, data, .. }) => {
                assert!(status.is_ok() && good(&data, 9, LONG), "{tag}: {status:?}");
                replies.push(tag);
            }
            Some(Event::Ping { tag, info, .. }) => {
                let said: Vec<Nid> = info.unwrap().nis.iter().map(|n| n.nid).collect();
                assert_eq!(said, to.nids, "{tag}");
                pings.push(tag);
            }
            Some(Event::Ack { .. } | Event::Send { .. }) | None => {}
            Some(other) => panic!("{other:?}"),
        }
        if let Some(Event::Put(p)) = to.handle.event() {
            let len = p.rlength as usize;
            assert!(p.status.is_ok() && good(&p.data, p.hdr_data as u8, len), "{p:?}");
            puts.push((p.hdr_data, p.source));
        }
        (acks.len(), replies.len(), pings.len(), puts.len()) == (2 * all, all, all, 2 * all)
    });
    for nid in from.nids {
        let by_it = puts.iter().filter(|p| p.1 == *nid).count();
        assert_eq!(by_it, 2, "each NI has its turn, or is the one of the network that was named: {puts:?}");
    }
    for (portal, me) in [PORTAL, PORTAL + 1].into_iter().zip(entries) {
        to.handle.submit(Op::Unlink { tag: 2, portal, me }).unwrap();
    }
    let mut left = 2;
    wait(turn, "unlinking", || {
        // An entry that is still in use ends with the event of its last use.
        let ends = match to.handle.event() {
            Some(Event::Unlink { .. }) => true,
            Some(Event::Get(g)) => g.unlinked,
            Some(Event::Put(p)) => p.unlinked.is_some(),
            _ => false,
        };
        left -= usize::from(ends);
        left == 0
    });
}

/// Nothing of it is out, and connections are up: three for each pair of NIDs.
pub fn at_rest<S: Streams + Inspect>(shards: &mut [Shard<S, RingApp>], pairs: usize) -> bool {
    let all = shards.iter().map(|s| s.machine.gauges());
    let sum = all.fold((0, 0, 0), |(up, out, peers), g| {
        (up + g.conns_up, out + g.lends + g.cookies + g.credits_used + g.ops + g.queued, peers + g.peers)
    });
    sum == (3 * pairs, 0, pairs)
}
