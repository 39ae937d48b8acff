//! Names and descriptors that a domain of the `net` contract is given (docs/protocol/netxprt.md §8, §9), over both transports.
//!
//! Invariants: no panic; a name that is taken names the address that it prints, and makes one end-point; a buffer whose descriptor
//! is taken ends once; one whose descriptor is refused comes back at once, and leaves nothing behind.

use crate::fuzz::{Bytes, LEN, TIME};
use transport::lnd::{AppId, LnetError};
use transport::lnet::{self, Op};
use transport::net::{Desc, Domain, Event, LnetXprt, Memory, Queue, Request, Sock, TmId, TmState, Xprt};
use transport::netsock::Config;
use transport::stream::{Action, Happened, Protocol};
use transport::testing::netsock::{addr, into, pages};
use transport::wire::Nid;
use transport::wire::netsock::{LnetDesc, LnetQueue};

/// A domain with a machine that is started; `below` makes the transport so far.
fn started<X: Xprt>(xprt: X, below: impl Fn(&mut X)) -> (Domain<X>, TmId) {
    let mut d = Domain::new(xprt, 0);
    let tm = d.tm_init();
    d.start(tm, "10.0.0.1@tcp:12345:34:1").unwrap();
    below(d.xprt_mut());
    d.turn(0);
    assert!(matches!(d.event(), Some(Event::State { state: TmState::Started, .. })));
    (d, tm)
}

fn over_lnet() -> (Domain<LnetXprt>, TmId) {
    let nid = Nid::tcp([10, 0, 0, 1].into(), 0);
    started(LnetXprt::new(AppId::FIRST, vec![nid], 12345), |_| ())
}

fn over_sock() -> (Domain<Sock>, TmId) {
    started(Sock::new(Config::new(addr(1, 9217), 1)).unwrap(), |sock| {
        let Some(Action::Listen(at)) = sock.act() else { panic!("it listens nowhere") };
        sock.handle(0, Happened::Listening(at, Ok(())));
    })
}

fn text(b: &mut Bytes<'_>) -> String {
    const PARTS: [&str; 24] = [
        "10.0.0.2@tcp",
        "10.0.0.2@tcp7",
        "fd00::2@tcp",
        "0@lo",
        "10.0.0.2",
        "@o2ib",
        ":12345",
        ":12344",
        ":34",
        ":0",
        ":63",
        ":64",
        ":1",
        ":*",
        ":4095",
        ":4096",
        "*",
        ":",
        "inet:stream:",
        "inet6:stream:",
        "@5000",
        "4294967296",
        " ",
        "é",
    ];
    if b.chance() {
        String::from_utf8_lossy(&b.rest(100)).into_owned()
    } else {
        (0..b.below(7)).map(|_| PARTS[b.below(PARTS.len() as u64) as usize]).collect()
    }
}

fn names_of<X: Xprt>((mut d, tm): (Domain<X>, TmId), text: &str) {
    match d.ep_create(tm, text) {
        Ok(ep) => {
            let own = d.own_ep(tm) == Some(ep);
            assert!(own || d.ep_name(ep).unwrap() == text);
            let printed = d.ep_addr(ep).unwrap().to_string();
            assert_eq!(d.ep_create(tm, &printed), Ok(ep), "{text:?} is {printed}");
            assert_eq!(d.ep_refs(ep), 2 + u32::from(own));
            d.ep_put(ep).unwrap();
            d.ep_put(ep).unwrap();
            assert!(d.ep_put(ep).is_err(), "{text:?}");
        }
        Err(e) => assert!([22, 34, 71, 97].contains(&e.errno()), "{text:?}: {e}"),
    }
    // A second machine at a name: it runs at the address that it says, or has failed.
    let second = d.tm_init();
    match d.start(second, text) {
        Err(_) => assert_eq!(d.state(second), TmState::Failed),
        // Over netsock its node is asked to listen, and does not answer here.
        Ok(()) => assert!(matches!(d.state(second), TmState::Starting | TmState::Started | TmState::Failed)),
    }
    let (state, own) = (d.state(second), d.own_ep(second));
    assert_eq!(own.is_some(), state == TmState::Started, "{text:?}");
    if let Some(own) = own {
        assert!(!d.ep_addr(own).unwrap().to_string().contains('*'));
    }
    if matches!(state, TmState::Starting | TmState::Started) {
        d.stop(second, true).unwrap();
    }
    while d.event().is_some() {}
    d.tm_fini(second).unwrap();
}

fn names(input: &[u8]) {
    let text = text(&mut Bytes::new(input));
    names_of(over_lnet(), &text);
    names_of(over_sock(), &text);
}

/// A descriptor: one that a passive buffer has, changed or cut, or noise.
fn desc<X: Xprt>(b: &mut Bytes<'_>, d: &mut Domain<X>, tm: TmId) -> Option<Desc> {
    let mut raw = match b.below(3) {
        0 => b.rest(70).to_vec(),
        1 => {
            let (queue, tmid) = (b.below(2), u32::from(b.u16()) & 0xfff);
            let d = LnetDesc {
                match_bits: u64::from(tmid) << 52 | u64::from(b.u32().max(1)),
                nid: u64::from(b.u32()) << 32 | u64::from(b.u32()),
                pid: b.u32(),
                portal: u32::from(b.u8()),
                tmid,
                queue: if queue == 0 { LnetQueue::PassiveRecv } else { LnetQueue::PassiveSend },
                size: u64::from(b.u16()),
            };
            d.emit().to_vec()
        }
        _ => {
            let fill = b.chance();
            let mem = if fill { Memory::Recv(into(100)) } else { Memory::Send(pages(100, 1).0) };
            let req = if fill { Request::PassiveRecv } else { Request::PassiveSend { len: 100 } };
            let buffer = d.register(mem).unwrap();
            d.add(tm, buffer, &req, None).unwrap().desc.unwrap().bytes().to_vec()
        }
    };
    for _ in 0..b.below(3) {
        let at = b.below(raw.len().max(1) as u64) as usize;
        if let Some(byte) = raw.get_mut(at) {
            *byte = b.u8();
        }
    }
    Desc::new(&raw).ok()
}

/// Adds active buffers, and gives up what was added; `end` makes the transport tell of all ends.
fn descriptors_of<X: Xprt>(b: &mut Bytes<'_>, (mut d, tm): (Domain<X>, TmId), end: fn(&mut Domain<X>)) {
    for _ in 0..8 {
        if b.done() {
            break;
        }
        let Some(desc) = desc(b, &mut d, tm) else { continue };
        let (mem, req) = if b.chance() {
            (Memory::Recv(into(1 + b.below(200) as usize)), Request::ActiveRecv { desc })
        } else {
            let len = 1 + b.below(200);
            (Memory::Send(pages(len as usize, 1).0), Request::ActiveSend { desc, len })
        };
        let (buffer, queue) = (d.register(mem).unwrap(), req.queue());
        let (id, before) = (buffer.id(), d.queue_len(tm, queue));
        match d.add(tm, buffer, &req, None) {
            Ok(added) => assert_eq!((added.id, d.queue_len(tm, queue)), (id, before + 1)),
            Err(u) => {
                assert!([1, 22, 27, 71, 97].contains(&u.why.errno()), "{}", u.why);
                assert_eq!((u.buffer.id(), d.queue_len(tm, queue)), (id, before));
                d.deregister(u.buffer).unwrap();
            }
        }
    }
    d.stop(tm, true).unwrap();
    end(&mut d);
    while let Some(e) = d.event() {
        if let Event::Buffer(e) = e {
            d.deregister(e.buffer.expect("a last event")).unwrap();
        }
        end(&mut d);
    }
    assert_eq!((d.state(tm), d.xprt().buffers()), (TmState::Stopped, 0));
    assert!(Queue::ALL.iter().all(|q| d.queue_len(tm, *q) == 0));
    d.tm_fini(tm).unwrap();
    d.fini().unwrap();
}

/// LNet's answers: entries are attached and unlinked, all else has failed.
fn lnet_answers(d: &mut Domain<LnetXprt>) {
    while let Some((_, op)) = d.xprt_mut().op() {
        let event = match op {
            Op::Attach { tag, portal, .. } => {
                assert!((1..64).contains(&portal));
                lnet::Event::Attached { tag, me: lnet::MeId(tag) }
            }
            // Its entry is named by the entry's own tag.
            Op::Unlink { me, .. } => lnet::Event::Unlink { tag: me.0, me, sink: None },
            Op::Put { tag, .. } => lnet::Event::Send { tag, status: Err(LnetError::Unreachable), done: true },
            // Given up already: nobody waits for its answer.
            Op::Get { .. } => continue,
            other => panic!("{other:?}"),
        };
        d.xprt_mut().event(event);
        d.turn(1);
    }
    d.turn(1);
}

fn descriptors(input: &[u8]) {
    let mut b = Bytes::new(input);
    if b.chance() {
        descriptors_of(&mut b, over_lnet(), lnet_answers);
    } else {
        descriptors_of(&mut b, over_sock(), |d| d.turn(1));
    }
}

#[test]
fn names_are_taken_as_they_are_or_refused() {
    bolero::check!().with_test_time(TIME).with_max_len(LEN).for_each(names);
}

#[test]
fn a_buffer_of_any_descriptor_ends_once() {
    bolero::check!().with_test_time(TIME).with_max_len(LEN).for_each(descriptors);
}
