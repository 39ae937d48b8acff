//! The node's side: a thread that listens, and one for each asker.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tcpstack::Phase;
use transport::node::inspect::{Filter, Inspection};

use super::askers::{ASKERS, Asker, Place, Silent, place};
use super::baseline::Baseline;
use super::seats::Seats;
use super::shared::{About, Shared, say};
use super::{
    Request, account, capture, connection, diag, faults, guests, lcore, peer, run_dir, tunables, verbs,
};
use crate::{file, limits};

/// Longest request in bytes: a configuration file, of which JSON writes a character in two bytes at most, and its name beside it.
const REQUEST_MAX: usize = 2 * file::BYTES_MAX as usize + 32_768;
/// Longest time of an asker to read what was written before it is cut off.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// Time in which all askers hear the end of a node that goes down; who reads a little now and then has no more.
const GOODBYE: Duration = Duration::from_secs(1);
/// Interval of looks whether they have, and for a place that comes free.
const LOOK: Duration = Duration::from_millis(2);

/// A node's control socket. It is served until this is dropped.
pub(crate) struct Server {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

fn askers(s: &Shared) -> MutexGuard<'_, Vec<Asker>> {
    s.askers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Listens in a folder of this user's, for a node that `about` describes; `guests` may go through it.
    ///
    /// # Errors
    /// Folders that were tried, or what the kernel says to the socket.
    pub(crate) fn start(
        front: Arc<Inspection>,
        about: About,
        guests: Option<Arc<Seats>>,
    ) -> Result<Server, String> {
        let elsewhere = "set XDG_RUNTIME_DIR to a folder that this user alone can write to, with a path of at most 80 bytes";
        let path = run_dir::own().map_err(|e| format!("{e}; {elsewhere}"))?;
        let fail = |e: io::Error| {
            let told = limits::told(&e);
            let remedy = if limits::none_left(&e) { told } else { format!("{told}; {elsewhere}") };
            format!("cannot listen on {}: {remedy}", path.display())
        };
        // It gets its name when it is served, so that nobody takes it for one that was left behind. A process of the same number
        // that was killed before us may have left either.
        let unnamed = path.with_extension("new");
        let _ = fs::remove_file(&unnamed);
        let listener = UnixListener::bind(&unnamed).map_err(fail)?;
        fs::set_permissions(&unnamed, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&unnamed, &path))
            .map_err(fail)?;
        let shared = Arc::new(Shared {
            front,
            stop: AtomicBool::new(false),
            capturing: AtomicBool::new(false),
            guests,
            serial: AtomicU64::new(0),
            baseline: Baseline::default(),
            about,
            askers: Mutex::default(),
        });
        let s = shared.clone();
        let thread =
            limits::thread("serves the control socket", move || serve(&listener, &s)).inspect_err(|_| {
                // Nobody serves it.
                let _ = fs::remove_file(&path);
            })?;
        Ok(Server { path, shared, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that listens.
        let _ = UnixStream::connect(&self.path);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
        let _ = fs::remove_file(&self.path);
        let all = std::mem::take(&mut *askers(&self.shared));
        // An asker with no question open hears no more; one that is being answered hears the end.
        for a in &all {
            let _ = a.stream.shutdown(std::net::Shutdown::Read);
        }
        let until = Instant::now() + GOODBYE;
        for a in all {
            while !a.thread.is_finished() && Instant::now() < until {
                dataplane::clock::pause(LOOK);
            }
            let _ = a.stream.shutdown(std::net::Shutdown::Both);
            let _ = a.thread.join();
        }
    }
}

/// The askers, with a place for one more, when the latest that was free was so at `free`. None while all are taken for long,
/// and of a node that ends.
fn with_a_place<'a>(shared: &'a Shared, free: &mut Instant) -> Option<MutexGuard<'a, Vec<Asker>>> {
    loop {
        let mut all = askers(shared);
        let now = Instant::now();
        match place(&mut all, *free, now) {
            Place::Free => {
                *free = now;
                return Some(all);
            }
            Place::None => return None,
            Place::Wait => {}
        }
        drop(all);
        if shared.stop.load(Ordering::SeqCst) {
            return None;
        }
        dataplane::clock::pause(LOOK);
    }
}

fn serve(listener: &UnixListener, shared: &Arc<Shared>) {
    let mut free = Instant::now();
    for s in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(mut s) = s else {
            // Out of descriptors, very likely: not a reason to spin.
            dataplane::clock::pause(Duration::from_millis(50));
            continue;
        };
        let Ok(keep) = s.try_clone().and_then(|k| s.set_write_timeout(Some(WRITE_PATIENCE)).map(|()| k))
        else {
            continue;
        };
        let Some(mut all) = with_a_place(shared, &mut free) else {
            let _ = say(
                &mut s,
                &json!({ "error": format!("{ASKERS} others are asking it: try again later"), "over": true }),
            );
            continue;
        };
        let (sh, silent) = (shared.clone(), Silent::new());
        let of = silent.clone();
        let spawned = std::thread::Builder::new().name("control".into()).spawn(move || {
            let fd = s.try_clone();
            converse(s, &sh, &of);
            if let Ok(fd) = fd {
                let _ = fd.shutdown(std::net::Shutdown::Both);
            }
        });
        all.extend(spawned.ok().map(|thread| Asker { stream: keep, thread, silent }));
    }
}

/// Answers one asker until it has no more questions, or does not read, or another takes its place while it is silent.
fn converse(mut s: UnixStream, shared: &Shared, silent: &Silent) {
    let mut buf = Vec::new();
    let mut chunk = [0; 16_384];
    // Bytes that have been looked at, and have no end of a line.
    let mut seen = 0;
    loop {
        while let Some(end) = buf.iter().skip(seen).position(|b| *b == b'\n') {
            let rest = buf.split_off(seen + end + 1);
            // The time that a long one took goes with it.
            let line = std::mem::replace(&mut buf, rest);
            seen = 0;
            if !silent.answers() || answer(&mut s, &line, shared).is_err() {
                return;
            }
            silent.waits();
        }
        seen = buf.len();
        if seen > REQUEST_MAX {
            let _ = say(
                &mut s,
                &json!({ "error": format!("a request is one line of at most {REQUEST_MAX} bytes") }),
            );
            return;
        }
        match s.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(n) => buf.extend_from_slice(&chunk[..n]),
        }
    }
}

fn answer(s: &mut UnixStream, line: &[u8], shared: &Shared) -> io::Result<()> {
    let request = match serde_json::from_slice::<Request>(line) {
        Ok(r) => r,
        Err(e) => return say(s, &json!({ "error": format!("not a request: {e}") })),
    };
    if let Err(e) = request.check() {
        return say(s, &json!({ "error": e }));
    }
    let done = match request {
        Request::Hello {} => return say(s, &shared.hello()),
        Request::Connections { peer, port, state, most } => {
            let of = Filter { peer, port, state: None };
            connections(s, shared, of, state, most)?
        }
        Request::Peers { most } => peers(s, shared, most)?,
        Request::Lcores {} => lcores(s, shared)?,
        Request::Tunables { name } => tunables::show(s, &shared.front, name.as_deref())?,
        Request::Ping { target, timeout, discover } => {
            match guests::ping(s, shared, &target, timeout, discover) {
                Ok(pong) => Ok(json!(pong)),
                Err(e) => return say(s, &e.answer()),
            }
        }
        Request::Bulk { job } => match guests::bulk(s, shared, &job)? {
            Ok(moved) => Ok(moved),
            Err(told) => return say(s, &told),
        },
        Request::Selftest { words, key, features } => verbs::serve(s, shared, words, (key, features))?,
        Request::Tune { name, value } => tunables::set(&shared.front, &name, &value),
        Request::Export {} => shared.live().and_then(|l| l.export(&shared.front)).map(|text| json!(text)),
        Request::Apply { file } => shared.live().map(|l| l.apply(&shared.front, file).answer()),
        Request::Import { file } => shared.live().map(|l| l.import(&shared.front, file).answer()),
        Request::Lnet { ask } => match account::serve(s, shared, &ask)? {
            Ok(end) => Ok(end),
            Err(e) => return say(s, &e.answer()),
        },
        Request::Fault { delay, order } => faults::serve(s, &shared.front, delay, &order)?,
        Request::Capture { peer, port, local_port, out, packets, seconds, snaplen } => {
            let filter = dataplane::tap::TapFilter { peer, port, local_port };
            capture::serve(s, shared, filter, &out, packets, seconds, snaplen)?
        }
    };
    match done {
        Ok(end) => say(s, &json!({ "end": end })),
        Err(e) => say(s, &json!({ "error": e })),
    }
}

type Outcome = Result<Value, String>;

fn connections(
    s: &mut UnixStream,
    shared: &Shared,
    // The kernel's connections have their state from it: it is compared afterwards.
    filter: Filter,
    state: Option<String>,
    most: Option<u32>,
) -> io::Result<Outcome> {
    let state = match state.map(|n| Phase::named(&n).ok_or(n)).transpose() {
        Ok(p) => p,
        Err(n) => return Ok(Err(format!("{n:?} is no state of a connection, such as ESTABLISHED"))),
    };
    let mut kernel = None;
    let (mut n, mut broken) = (0u64, None);
    let asked = shared.front.connections(filter, |row| {
        let mut row = *row;
        if row.kernel {
            let k = kernel.get_or_insert_with(diag::Diag::open);
            if let Ok(k) = k {
                k.complete(&mut row.stats);
            }
        }
        if state.is_some_and(|p| p != row.stats.state) {
            return true;
        }
        n += 1;
        match say(s, &connection(&row)) {
            Ok(()) => most.is_none_or(|m| n < m.into()),
            Err(e) => {
                broken = Some(e);
                false
            }
        }
    });
    match (broken, asked) {
        (Some(e), _) => Err(e),
        (None, Ok(())) => Ok(Ok(json!(n))),
        (None, Err(e)) => Ok(Err(e.to_string())),
    }
}

fn peers(s: &mut UnixStream, shared: &Shared, most: Option<u32>) -> io::Result<Outcome> {
    let (mut n, mut broken) = (0u64, None);
    let asked = shared.front.peers(None, |p| {
        n += 1;
        broken = say(s, &peer(p)).err();
        broken.is_none() && most.is_none_or(|m| n < m.into())
    });
    match (broken, asked) {
        (Some(e), _) => Err(e),
        (None, Ok(())) => Ok(Ok(json!(n))),
        (None, Err(e)) => Ok(Err(e.to_string())),
    }
}

fn lcores(s: &mut UnixStream, shared: &Shared) -> io::Result<Outcome> {
    let n = shared.front.lcores();
    for i in 0..n {
        let mut v = match shared.front.counts(i) {
            Ok(c) => lcore(i, &c),
            Err(e) => json!({ "lcore": i, "silent": e.to_string() }),
        };
        // Of the whole node: they count once.
        if i == 0
            && let Some(guests) = shared.guests.as_deref()
            && let Some(counters) = v["counters"].as_object_mut()
        {
            counters.extend(guests.figures().map(|(name, n)| (name.to_owned(), json!(n))));
        }
        say(s, &v)?;
    }
    Ok(Ok(json!(n)))
}
