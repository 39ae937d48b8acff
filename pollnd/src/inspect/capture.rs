//! `pollnd capture`: packets of one peer, from a node that runs, into a pcap file.
//!
//! The node writes the file: its lcores copy what matches into a ring, and the thread that serves the asker
//! empties it. The capture lasts as long as the asker stays on the line.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dataplane::tap::{PcapFile, Tap, TapEnd, TapFilter};
use serde_json::{Value, json};

use super::Request;
use super::client::Client;
use super::shared::{Shared, say};
use crate::args::CaptureArgs;
use crate::{out, signals, units};

/// Memory of a capture's ring, in bytes; and the fewest and most records that it is divided into.
const RING: usize = 32 << 20;
const RECORDS: (usize, usize) = (256, 16_384);
/// Sleep of a writer that has nothing to write.
const NAP: Duration = Duration::from_millis(2);

/// `pollnd capture`.
///
/// # Errors
/// No node, or what keeps it from capturing.
pub(crate) fn main(a: &CaptureArgs) -> Result<(), String> {
    let out = std::path::absolute(&a.out).map_err(|e| format!("--out {}: {e}", a.out.display()))?;
    if out.to_str().is_none() {
        return Err(format!(
            "--out {}: its path is not UTF-8, in which nodes are asked; give another",
            a.out.display()
        ));
    }
    let mut c = Client::new(a.asked.node.as_deref())?;
    c.send(&Request::Capture {
        peer: a.peer.ip,
        port: a.peer.port,
        local_port: a.local_port,
        out,
        packets: a.packets,
        seconds: a.seconds,
        snaplen: a.snaplen,
    })?;
    c.next()?;
    c.patient();
    out::note(format_args!("capturing packets of {} (SIGINT, Ctrl-C, ends it)", a.peer));
    let hang_up = c.hang_up()?;
    signals::first(hang_up)?;
    let end = c.next()?;
    let n = |k: &str| end["end"][k].as_u64().unwrap_or(0);
    if n("dropped") > 0 {
        out::note("the file could not be written as fast as packets came: a smaller --snaplen may help");
    }
    let packets = units::many(n("packets"), "packet");
    out::line(format_args!("{packets} in {}, {} dropped", a.out.display(), n("dropped")))
}

/// Serves one capture.
pub(super) fn serve(
    s: &mut UnixStream,
    shared: &Shared,
    filter: TapFilter,
    out: &Path,
    packets: Option<u64>,
    seconds: Option<f64>,
    snaplen: u32,
) -> io::Result<Result<Value, String>> {
    if shared.capturing.swap(true, Ordering::SeqCst) {
        return Ok(Err("another capture is under way on this node: end it first".into()));
    }
    let done = capture(s, shared, filter, out, packets, seconds, snaplen as usize);
    // Lcores that do not answer now do so before they answer anything else.
    let _ = shared.front.tap(|| None);
    shared.capturing.store(false, Ordering::SeqCst);
    done
}

fn capture(
    s: &mut UnixStream,
    shared: &Shared,
    filter: TapFilter,
    out: &Path,
    packets: Option<u64>,
    seconds: Option<f64>,
    snap: usize,
) -> io::Result<Result<Value, String>> {
    let records = (RING / snap.max(1)).clamp(RECORDS.0, RECORDS.1);
    let tap = Tap::new(filter, snap, records);
    match shared.front.tap(|| Some(TapEnd::new(&tap))) {
        Ok(true) => {}
        Ok(false) => {
            return Ok(Err(format!(
                "this node is on kernel sockets and sees no packets: tcpdump -i any -w {} tcp and host {}",
                out.display(),
                filter.peer
            )));
        }
        Err(e) => return Ok(Err(e.to_string())),
    }
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let epoch = u64::try_from(unix).unwrap_or(u64::MAX).saturating_sub(shared.front.now());
    let mut file = match PcapFile::create(out, epoch) {
        Ok(f) => f,
        Err(e) => return Ok(Err(e.to_string())),
    };
    say(s, &json!({ "capturing": out }))?;
    s.set_read_timeout(Some(NAP))?;
    let until = seconds.map(|s| Instant::now() + Duration::from_secs_f64(s));
    let want = packets.unwrap_or(u64::MAX);
    let mut n = 0;
    let mut drain = |n: &mut u64| {
        let mut some = false;
        while *n < want {
            let Some(shot) = tap.take() else { break };
            let wrote = file.write(&shot);
            tap.give_back(shot);
            *n += 1;
            wrote.map_err(|e| e.to_string())?;
            some = true;
        }
        Ok::<_, String>(some)
    };
    let mut problem = None;
    loop {
        let some = match drain(&mut n) {
            Ok(some) => some,
            Err(e) => {
                problem = Some(e);
                break;
            }
        };
        let over = n >= want
            || until.is_some_and(|t| Instant::now() >= t)
            || shared.stop.load(Ordering::SeqCst)
            // The asker says nothing more: it waits, or it has gone.
            || (!some && matches!(s.read(&mut [0; 16]), Ok(0)));
        if over {
            break;
        }
    }
    s.set_read_timeout(None)?;
    // Packets that were on their way.
    let _ = shared.front.tap(|| None);
    if problem.is_none() {
        problem = drain(&mut n).err();
    }
    if problem.is_none() {
        problem = file.finish().err().map(|e| e.to_string());
    }
    Ok(match problem {
        None => Ok(json!({ "packets": n, "dropped": tap.dropped() })),
        Some(e) => Err(format!("{e}; {} are in the file, whole", units::many(n - file.lost(), "packet"))),
    })
}
