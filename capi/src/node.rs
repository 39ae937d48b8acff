//! A node: its operations under tags of ours, its events under the program's.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hugepages::{Backing, PageRunMut};
use slab::Slab;
use transport::lnd::{AppId, Payload, Sink};
use transport::lnet::{Event, MdMem, MdSpec, MeId, Op};
use transport::node::{Bell, Control, Handle, rings};
use transport::wire::{Nid, ProcessId};

use crate::abi::Block;
use crate::error::Error;
use crate::event;
use crate::program::Program;
use crate::types::{POLLND_LAST, pollnd_event};

/// Most bytes of an operation.
const LENGTH_MAX: u32 = 1 << 20;
/// Operations and events that wait, unless told.
const DEPTH: u32 = 256;
/// More would take memory that nobody means to give.
const DEPTH_MAX: u32 = 1 << 20;
/// Portals.
const PORTALS: u32 = 64;

/// Tag of an operation that has no event of its own.
const NOBODY: u64 = u64::MAX;

/// An operation that has not ended.
struct Pending {
    /// The program's.
    tag: u64,
    /// Distinguishes those that had the same place.
    serial: u32,
    portal: u32,
    /// A match entry, once it is in place.
    me: Option<MeId>,
}

/// Takes a node down, and waits for that.
pub(crate) type Stop = Box<dyn FnOnce() -> Result<(), Error> + Send>;

/// A node that runs.
pub(crate) struct Started {
    /// Stops it.
    pub(crate) stop: Stop,
    /// Orders to it.
    pub(crate) control: Arc<Control>,
    /// Source of memory that its port can send.
    pub(crate) backing: Arc<dyn Backing>,
}

/// The program's end of a node.
pub(crate) struct Lines {
    handle: Handle,
    bell: Arc<Bell>,
    depth: usize,
}

impl Lines {
    /// Operations and events that may wait.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// It, and the application on the lcore.
    pub(crate) fn new(depth: u32) -> Result<(Lines, Program), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::invalid(format_args!(
                "depth {depth}: so many operations may not wait; give 1 to {DEPTH_MAX}, or 0 for {DEPTH}"
            )));
        }
        let depth = if depth == 0 { DEPTH } else { depth } as usize;
        let (handle, ring) = rings(AppId::FIRST, depth);
        let bell = Arc::new(Bell::default());
        Ok((Lines { handle, bell: bell.clone(), depth }, Program::new(ring, bell)))
    }
}

/// Bytes of a PUT, or that answer GETs.
pub(crate) enum Source<'a> {
    /// To be copied.
    Bytes(&'a [u8]),
    /// To be sent from where they are.
    Memory(&'a Block, u32, u32),
}

/// Target of a PUT or a GET.
pub(crate) struct To {
    pub(crate) target: ProcessId,
    /// The NID that it leaves from, if that is not LNet's choice.
    pub(crate) from: Option<Nid>,
    pub(crate) portal: u32,
    pub(crate) match_bits: u64,
}

/// Place for bytes that come.
pub(crate) enum Place<'a> {
    /// Memory, so many bytes of it.
    Memory(&'a Block, u32),
    /// The buffers that they come in, so many at most.
    Lend(u32),
    /// None, so many at most.
    Drop(u32),
}

/// A node.
pub(crate) struct Node {
    lines: Lines,
    nids: Vec<Nid>,
    pending: Mutex<Slab<Pending>>,
    serial: AtomicU32,
    stop: Mutex<Option<Stop>>,
    control: Arc<Control>,
    stopping: AtomicBool,
    backing: Arc<dyn Backing>,
}

fn locked<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ended() -> Error {
    Error::new(libc::ESHUTDOWN, "the node is stopped: start another one")
}

impl Node {
    pub(crate) fn new(lines: Lines, nids: Vec<Nid>, started: Started) -> Node {
        let Started { stop, control, backing } = started;
        Node {
            lines,
            nids,
            pending: Mutex::default(),
            serial: AtomicU32::new(1),
            stop: Mutex::new(Some(stop)),
            control,
            stopping: AtomicBool::new(false),
            backing,
        }
    }

    /// Its NIDs.
    pub(crate) fn nids(&self) -> &[Nid] {
        &self.nids
    }

    /// Memory that its port can send.
    pub(crate) fn memory(&self, len: usize) -> Result<Block, Error> {
        Block::new(self.backing.clone(), len)
    }

    /// Stops it; the operations that it had end.
    pub(crate) fn stop(&self) -> Result<(), Error> {
        self.stopping.store(true, Ordering::Release);
        // Whoever comes second waits for the first.
        let mut stop = locked(&self.stop);
        stop.take().map_or(Ok(()), |stop| stop())
    }

    /// Adds an operation, whose name in the node `op` is given.
    fn submit(&self, tag: u64, portal: u32, op: impl FnOnce(u64) -> Op) -> Result<u64, Error> {
        if self.stopping.load(Ordering::Acquire) || self.lines.bell.gone() {
            return Err(self.why_ended());
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed) | 1 << 31;
        let key = locked(&self.pending).insert(Pending { tag, serial, portal, me: None });
        let name = u64::from(serial) << 32 | key as u64;
        self.send(op(name)).inspect_err(|_| {
            locked(&self.pending).try_remove(key);
        })?;
        Ok(name)
    }

    fn send(&self, op: Op) -> Result<(), Error> {
        self.lines.handle.submit(op).map_err(|e| Error::new(libc::EAGAIN, e))
    }

    fn why_ended(&self) -> Error {
        if self.control.panics.load(Ordering::Acquire) > 0 {
            let text =
                "the node panicked: this is a bug of pollnd, and its log says where; start another node";
            return Error::new(libc::ENOTRECOVERABLE, text);
        }
        ended()
    }

    pub(crate) fn ping(&self, tag: u64, target: ProcessId) -> Result<(), Error> {
        self.submit(tag, 0, |tag| Op::Ping { tag, target }).map(|_| ())
    }

    pub(crate) fn put(
        &self,
        tag: u64,
        to: To,
        (offset, hdr_data, ack): (u32, u64, bool),
        source: &Source<'_>,
    ) -> Result<(), Error> {
        let To { target, from, portal, match_bits } = to;
        portal_is(portal)?;
        let payload = self.payload(source)?;
        self.submit(tag, portal, |tag| Op::Put {
            tag,
            target,
            from,
            portal,
            match_bits,
            offset,
            hdr_data,
            payload,
            ack,
        })?;
        Ok(())
    }

    pub(crate) fn get(&self, tag: u64, to: To, place: &Place<'_>) -> Result<(), Error> {
        let To { target, from, portal, match_bits } = to;
        portal_is(portal)?;
        let sink = sink(place)?;
        self.submit(tag, portal, |tag| Op::Get { tag, target, from, portal, match_bits, sink })?;
        Ok(())
    }

    /// Attaches a match entry that gives bytes, or takes some; `spec` sets the rest of it.
    pub(crate) fn attach(
        &self,
        tag: u64,
        who: ProcessId,
        portal: u32,
        (match_bits, ignore_bits): (u64, u64),
        mem: Result<&Source<'_>, &Place<'_>>,
        spec: impl FnOnce(&mut MdSpec),
    ) -> Result<u64, Error> {
        portal_is(portal)?;
        let mem = match mem {
            Ok(source) => MdMem::Source(self.payload(source)?),
            Err(place) => MdMem::Sink(sink(place)?),
        };
        let mut md = MdSpec::new(mem);
        spec(&mut md);
        self.submit(tag, portal, |tag| Op::Attach { tag, portal, who, match_bits, ignore_bits, md })
    }

    /// Takes a match entry away.
    pub(crate) fn unlink(&self, entry: u64) -> Result<(), Error> {
        let (portal, me) = {
            let pending = locked(&self.pending);
            let p = find(&pending, entry).ok_or_else(|| {
                Error::new(
                    libc::ENOENT,
                    format_args!(
                        "match entry {entry:#x} is not attached (any more): its last event was taken"
                    ),
                )
            })?;
            (p.portal, p.me)
        };
        let me = me.ok_or_else(|| {
            Error::new(
                libc::EAGAIN,
                format_args!("match entry {entry:#x} is not in place yet: take its ATTACHED event first"),
            )
        })?;
        // If it goes by itself meanwhile, its last event says so.
        self.send(Op::Unlink { tag: NOBODY, portal, me })
    }

    /// Makes a portal lazy, or ends that.
    pub(crate) fn lazy(&self, portal: u32, on: bool) -> Result<(), Error> {
        portal_is(portal)?;
        if portal == 0 {
            return Err(transport::lnet::OpRefused::LazyOwn(0).into());
        }
        if self.stopping.load(Ordering::Acquire) || self.lines.bell.gone() {
            return Err(self.why_ended());
        }
        self.send(Op::Lazy { tag: NOBODY, portal, on })
    }

    /// The next event, waited for so long at most, in ms; for ever if less than 0.
    pub(crate) fn next(&self, timeout_ms: i32) -> Result<Option<pollnd_event>, Error> {
        let until = u64::try_from(timeout_ms).ok().map(|ms| Instant::now() + Duration::from_millis(ms));
        if let Some(ev) = self.lines.bell.wait(until, || self.take()) {
            return Ok(Some(ev));
        }
        if !self.lines.bell.gone() {
            return Ok(None);
        }
        // Whatever has not ended went with the node.
        let mut pending = locked(&self.pending);
        let first = pending.iter().next().map(|(key, _)| key);
        match first.and_then(|key| pending.try_remove(key)) {
            Some(p) => Ok(Some(pollnd_event { tag: p.tag, ..event::refused(self.why_ended()) })),
            None => Err(self.why_ended()),
        }
    }

    /// The next event that the program is to hear.
    fn take(&self) -> Option<pollnd_event> {
        loop {
            let ev = self.lines.handle.event()?;
            let Some(name) = name_of(&ev) else { continue };
            let me = match &ev {
                Event::Attached { me, .. } => Some(*me),
                _ => None,
            };
            let Some(mut out) = event::of(ev) else { continue };
            let mut pending = locked(&self.pending);
            let Some(p) = find_mut(&mut pending, name) else { continue };
            out.tag = p.tag;
            if me.is_some() {
                p.me = me;
            }
            if p.me.is_some() {
                out.entry = name;
            }
            if out.flags & POLLND_LAST != 0 {
                pending.try_remove(key_of(name));
            }
            return Some(out);
        }
    }

    fn payload(&self, source: &Source<'_>) -> Result<Payload, Error> {
        match source {
            Source::Bytes(b) if b.len() > LENGTH_MAX as usize => Err(too_long(b.len() as u64)),
            Source::Memory(_, _, len) if *len > LENGTH_MAX => Err(too_long((*len).into())),
            Source::Bytes(b) => match Payload::inline(b) {
                Some(p) => Ok(p),
                None => {
                    let run = PageRunMut::new(self.backing.clone(), b.len());
                    let mut run = run.map_err(|e| Error::new(libc::ENOMEM, e))?;
                    run.bytes_mut().get_mut(..b.len()).unwrap_or_default().copy_from_slice(b);
                    Ok(Payload::Pages([run.freeze().slice_all()].into_iter().collect()))
                }
            },
            Source::Memory(_, _, 0) => Ok(Payload::empty()),
            Source::Memory(block, offset, len) => {
                Ok(Payload::Pages([block.slice(*offset, *len)?].into_iter().collect()))
            }
        }
    }
}

fn too_long(len: u64) -> Error {
    transport::lnet::OpRefused::TooLong(len).into()
}

fn portal_is(portal: u32) -> Result<(), Error> {
    if portal < PORTALS { Ok(()) } else { Err(transport::lnet::OpRefused::Portal(portal).into()) }
}

fn sink(place: &Place<'_>) -> Result<Sink, Error> {
    let (Place::Memory(_, len) | Place::Lend(len) | Place::Drop(len)) = place;
    if *len == 0 {
        return Err(Error::invalid("a length of 0 bytes: give the number of bytes that may come"));
    }
    Ok(match place {
        Place::Memory(block, len) => Sink::Copy(block.write(*len as usize)?),
        Place::Lend(len) => Sink::Lend(*len),
        Place::Drop(len) => Sink::Discard(*len),
    })
}

fn key_of(name: u64) -> usize {
    (name & u64::from(u32::MAX)) as usize
}

fn find(pending: &Slab<Pending>, name: u64) -> Option<&Pending> {
    pending.get(key_of(name)).filter(|p| u64::from(p.serial) == name >> 32)
}

fn find_mut(pending: &mut Slab<Pending>, name: u64) -> Option<&mut Pending> {
    pending.get_mut(key_of(name)).filter(|p| u64::from(p.serial) == name >> 32)
}

/// The operation that an event is of.
fn name_of(ev: &Event) -> Option<u64> {
    match ev {
        Event::Refused { tag, .. }
        | Event::Attached { tag, .. }
        | Event::Send { tag, .. }
        | Event::Ack { tag, .. }
        | Event::Reply { tag, .. }
        | Event::Unlink { tag, .. }
        | Event::Ping { tag, .. } => Some(*tag),
        Event::Put(p) => Some(p.tag),
        Event::Get(g) => Some(g.tag),
        Event::Counts { .. } | Event::ShutDown { .. } => None,
    }
}
