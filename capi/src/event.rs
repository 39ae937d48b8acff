//! Events of LNet as C sees them.

use std::ffi::CString;
use std::ptr;

use transport::lnd::Data;
use transport::lnet::{Event, GetEvent, PutEvent};
use transport::wire::PingInfo;

use crate::error::{Error, c_text};
use crate::types::{
    POLLND_EVENT_ACK, POLLND_EVENT_ATTACHED, POLLND_EVENT_GET, POLLND_EVENT_PING, POLLND_EVENT_PUT,
    POLLND_EVENT_REFUSED, POLLND_EVENT_REPLY, POLLND_EVENT_SEND, POLLND_EVENT_UNLINK, POLLND_LAST,
    pollnd_event, pollnd_ni, pollnd_nid, pollnd_piece, pollnd_process,
};

/// Parts of an event that lie elsewhere.
#[derive(Default)]
pub(crate) struct Held {
    pieces: Vec<pollnd_piece>,
    nis: Vec<pollnd_ni>,
    error: Option<CString>,
    /// The pieces' home.
    _data: Option<Data>,
}

/// An event that is empty but for its kind.
pub(crate) const EMPTY: pollnd_event = pollnd_event {
    kind: 0,
    flags: 0,
    status: 0,
    portal: 0,
    tag: 0,
    entry: 0,
    match_bits: 0,
    hdr_data: 0,
    rlength: 0,
    mlength: 0,
    offset: 0,
    initiator: pollnd_process::NONE,
    source: pollnd_nid::NONE,
    dest: pollnd_nid::NONE,
    rtt_ns: 0,
    features: 0,
    pid: 0,
    pieces: ptr::null(),
    pieces_count: 0,
    nis: ptr::null(),
    nis_count: 0,
    error: ptr::null(),
    held: ptr::null_mut(),
};

/// Bytes that were lent, as pieces.
pub(crate) fn pieces(data: &Data) -> Vec<pollnd_piece> {
    let Data::Lent(all) = data else { return Vec::new() };
    all.iter()
        .map(|p| pollnd_piece { base: p.bytes().as_ptr().cast(), length: p.bytes().len() })
        .filter(|p| p.length > 0)
        .collect()
}

/// An event of `kind` with what is common to all.
fn plain(kind: u32, status: Result<(), Error>, last: bool) -> pollnd_event {
    hold(pollnd_event { kind, flags: if last { POLLND_LAST } else { 0 }, ..EMPTY }, Held::default(), status)
}

/// Gives an event what it holds.
fn hold(mut ev: pollnd_event, mut held: Held, status: Result<(), Error>) -> pollnd_event {
    if let Err(e) = status {
        ev.status = -e.errno;
        held.error = Some(c_text(&e.text));
    }
    if held.error.is_none() && held.pieces.is_empty() && held.nis.is_empty() {
        return ev;
    }
    let held = Box::new(held);
    let Held { pieces, nis, error, .. } = &*held;
    (ev.pieces, ev.pieces_count) = (pieces.as_ptr(), pieces.len());
    (ev.nis, ev.nis_count) = (nis.as_ptr(), nis.len());
    ev.error = error.as_ref().map_or(ptr::null(), |e| e.as_ptr());
    ev.held = Box::into_raw(held).cast();
    ev
}

fn with_data(ev: pollnd_event, data: Data, status: Result<(), Error>) -> pollnd_event {
    hold(ev, Held { pieces: pieces(&data), _data: Some(data), ..Held::default() }, status)
}

/// The event of an operation that was not accepted.
pub(crate) fn refused(why: Error) -> pollnd_event {
    plain(POLLND_EVENT_REFUSED, Err(why), true)
}

/// An event as C sees it, without the names that the node knows it by; `None` for one that no operation of C's has.
pub(crate) fn of(ev: Event) -> Option<pollnd_event> {
    Some(match ev {
        Event::Refused { why, .. } => refused(why.into()),
        Event::Attached { .. } => plain(POLLND_EVENT_ATTACHED, Ok(()), false),
        Event::Send { status, done, .. } => plain(POLLND_EVENT_SEND, status.map_err(Error::from), done),
        Event::Ack { status, mlength, done, .. } => {
            pollnd_event { mlength, ..plain(POLLND_EVENT_ACK, status.map_err(Error::from), done) }
        }
        Event::Reply { status, mlength, data, .. } => {
            let ev = pollnd_event { kind: POLLND_EVENT_REPLY, flags: POLLND_LAST, mlength, ..EMPTY };
            with_data(ev, data, status.map_err(Error::from))
        }
        Event::Put(p) => put(p),
        Event::Get(g) => get(&g),
        Event::Unlink { .. } => plain(POLLND_EVENT_UNLINK, Ok(()), true),
        Event::Ping { info: Ok(info), rtt_ns, .. } => ping(&info, rtt_ns),
        Event::Ping { info: Err(e), rtt_ns, .. } => {
            pollnd_event { rtt_ns, ..plain(POLLND_EVENT_PING, Err(e.into()), true) }
        }
        Event::Counts { .. } | Event::ShutDown { .. } => return None,
    })
}

fn put(p: PutEvent) -> pollnd_event {
    let ev = pollnd_event {
        kind: POLLND_EVENT_PUT,
        flags: if p.unlinked.is_some() { POLLND_LAST } else { 0 },
        portal: p.portal,
        match_bits: p.match_bits,
        hdr_data: p.hdr_data,
        rlength: p.rlength,
        mlength: p.mlength,
        offset: p.offset,
        initiator: p.initiator.into(),
        source: p.source.into(),
        dest: p.dest.into(),
        ..EMPTY
    };
    with_data(ev, p.data, p.status.map_err(Error::from))
}

fn get(g: &GetEvent) -> pollnd_event {
    pollnd_event {
        portal: g.portal,
        match_bits: g.match_bits,
        rlength: g.rlength,
        mlength: g.mlength,
        offset: g.offset,
        initiator: g.initiator.into(),
        source: g.source.into(),
        dest: g.dest.into(),
        ..plain(POLLND_EVENT_GET, g.status.map_err(Error::from), g.unlinked)
    }
}

fn ping(info: &PingInfo, rtt_ns: u64) -> pollnd_event {
    let ni = |e: &transport::wire::NiEntry| pollnd_ni {
        nid: e.nid.into(),
        up: u32::from(e.status == transport::wire::NiStatus::Up),
    };
    let nis = info.nis.iter().chain(&info.large).map(ni).collect();
    let (features, pid) = (info.features, info.pid);
    let ev = pollnd_event { kind: POLLND_EVENT_PING, flags: POLLND_LAST, rtt_ns, features, pid, ..EMPTY };
    hold(ev, Held { nis, ..Held::default() }, Ok(()))
}
