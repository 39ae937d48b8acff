//! Verbs of other processes, for the console of this node.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};

use serde_json::{Value, json};

use super::guests::{GLANCE, gone};
use super::shared::{Shared, say};
use crate::selftest::host::{Out, Typed, end};

/// Serves a verb: a row for each piece that it says, then its exit status. An asker that says no more cuts it short.
pub(super) fn serve(
    s: &mut UnixStream,
    shared: &Shared,
    words: Vec<String>,
    (key, features): (Option<u32>, Option<u32>),
) -> io::Result<Result<Value, String>> {
    let (out, said) = mpsc::channel();
    let cut = Arc::new(AtomicBool::new(false));
    let typed = shared
        .guests
        .as_deref()
        .ok_or_else(|| shared.no_guests())
        .and_then(|g| g.console())
        .and_then(|c| c.type_in(Typed { words, key, features, out, cut: cut.clone() }));
    if let Err(e) = typed {
        return Ok(Err(e));
    }
    let mut broken = None;
    loop {
        match said.recv_timeout(GLANCE) {
            Ok(Out::Piece(p)) => broken = say(s, &json!(p)).err().or(broken),
            Ok(Out::End(status)) => {
                return match broken {
                    Some(e) => Err(e),
                    None => Ok(Ok(end(status))),
                };
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Ok(Err("the console of this node has ended".into()));
            }
        }
        let down = shared.stop.load(Ordering::SeqCst);
        if broken.is_some() || gone(s) || down {
            cut.store(true, Ordering::Relaxed);
        }
        if down {
            // Its lcores have ended: members would be waited for until the verb's time is over.
            return Ok(Err("the node goes down".into()));
        }
    }
}
