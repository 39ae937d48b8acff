//! Those who ask a node through its control socket, so many at a time.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// One who asks.
pub(super) struct Asker {
    pub(super) stream: UnixStream,
    pub(super) thread: JoinHandle<()>,
    pub(super) silent: Silent,
}

/// Since when an asker's next question is waited for; none while one is answered.
#[derive(Clone, Default)]
pub(super) struct Silent(Arc<Mutex<Option<Instant>>>);

impl Silent {
    pub(super) fn since(&self, then: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = then;
    }

    fn get(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last line to an asker whose place another takes; its `over` says that no other line follows.
fn cut_off() -> Vec<u8> {
    let why = "many others ask it, and this command was silent for longest: try again";
    let mut line = serde_json::json!({ "error": why, "over": true }).to_string();
    line.push('\n');
    line.into_bytes()
}

/// Cuts off whoever has been silent longest, with a last word; false where all are being answered.
pub(super) fn make_room(all: &mut Vec<Asker>) -> bool {
    let silent = all.iter().enumerate().filter_map(|(at, a)| Some((a.silent.get()?, at)));
    let Some((_, at)) = silent.min() else { return false };
    let mut asker = all.swap_remove(at);
    // Without a word it would take the node for one that has ended. One that does not read is not waited for.
    let _ = asker.stream.set_nonblocking(true);
    let _ = asker.stream.write_all(&cut_off());
    // Its thread ends by itself.
    let _ = asker.stream.shutdown(std::net::Shutdown::Both);
    true
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Duration;

    use super::*;

    #[test]
    fn whoever_is_silent_longest_makes_room_and_nobody_who_is_answered() {
        let now = Instant::now();
        let silent_for = [None, Some(2), Some(9), Some(5)];
        let (mut all, mut others) = (Vec::new(), Vec::new());
        for secs in silent_for {
            let (stream, other) = UnixStream::pair().unwrap();
            let silent = Silent::default();
            silent.since(secs.map(|s| now.checked_sub(Duration::from_secs(s)).unwrap()));
            all.push(Asker { stream, thread: std::thread::spawn(|| ()), silent });
            others.push(other);
        }
        for cut in [2, 3, 1] {
            assert!(make_room(&mut all));
            let mut heard = Vec::new();
            others[cut].read_to_end(&mut heard).unwrap();
            assert_eq!(heard, cut_off(), "{cut} hears the end, and why");
        }
        assert_eq!((make_room(&mut all), all.len()), (false, 1));
    }
}
