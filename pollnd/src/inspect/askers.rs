//! Those who ask a node through its control socket, so many at a time.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Askers at a time.
pub(super) const ASKERS: usize = 16;
/// Time in which a place comes free when many commands ask one question each.
const SOON: Duration = Duration::from_millis(50);
/// Silence after which an asker has no question that its thread has merely not read yet.
const SILENT: Duration = Duration::from_secs(2);
/// Time without a free place after which a newcomer is refused at once.
const FULL: Duration = Duration::from_secs(3);

/// One who asks.
pub(super) struct Asker {
    pub(super) stream: UnixStream,
    pub(super) thread: JoinHandle<()>,
    pub(super) silent: Silent,
}

/// The state of an asker's thread.
enum Turn {
    /// It waits for the next question since then.
    Waits(Instant),
    Answers,
    /// Another has its place: it answers no more.
    CutOff,
}

/// The turn of an asker. Its thread and the one that gives places agree by it: nobody whose question is answered is cut off.
#[derive(Clone)]
pub(super) struct Silent(Arc<Mutex<Turn>>);

impl Silent {
    /// One whose first question is waited for.
    pub(super) fn new() -> Silent {
        Silent(Arc::new(Mutex::new(Turn::Waits(Instant::now()))))
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a wait; false where it has ended otherwise.
    fn ends_wait(&self, by: Turn) -> bool {
        let mut turn = self.turn();
        let waited = matches!(*turn, Turn::Waits(_));
        if waited {
            *turn = by;
        }
        waited
    }

    /// A question is there; false where its asker has been told that it is not answered.
    pub(super) fn answers(&self) -> bool {
        self.ends_wait(Turn::Answers)
    }

    /// The answer is given.
    pub(super) fn waits(&self) {
        *self.turn() = Turn::Waits(Instant::now());
    }

    /// Takes the turn away; false where a question has just come.
    fn cut_off(&self) -> bool {
        self.ends_wait(Turn::CutOff)
    }

    fn since(&self) -> Option<Instant> {
        match *self.turn() {
            Turn::Waits(then) => Some(then),
            Turn::Answers | Turn::CutOff => None,
        }
    }
}

/// An answer to a newcomer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    Free,
    /// One may come free soon: ask again.
    Wait,
    None,
}

/// Looks for a newcomer's place, at `now`, when the latest that was free was so at `free`. Whoever has been silent for long and
/// longest is cut off with a last word where none comes free by itself.
pub(super) fn place(all: &mut Vec<Asker>, free: Instant, now: Instant) -> Place {
    all.retain(|a| !a.thread.is_finished());
    let full = now.saturating_duration_since(free);
    if all.len() < ASKERS || full >= SOON && make_room(all, now) {
        Place::Free
    } else if full < FULL {
        Place::Wait
    } else {
        Place::None
    }
}

/// The last line to an asker whose place another takes; its `over` says that no other line follows.
fn cut_off() -> Vec<u8> {
    let why = "many others ask it, and this command was silent for longest: try again";
    let mut line = serde_json::json!({ "error": why, "over": true }).to_string();
    line.push('\n');
    line.into_bytes()
}

/// Cuts off whoever has been silent longest; false where nobody has been so for long.
fn make_room(all: &mut Vec<Asker>, now: Instant) -> bool {
    let silent = all.iter().enumerate().filter_map(|(at, a)| Some((a.silent.since()?, at)));
    let Some((_, at)) = silent.filter(|(since, _)| now.saturating_duration_since(*since) >= SILENT).min()
    else {
        return false;
    };
    // A question of the last moment is answered.
    if !all.get(at).is_some_and(|a| a.silent.cut_off()) {
        return false;
    }
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

    use super::*;

    /// An asker whose thread lives until `ends` is dropped.
    struct Held {
        other: UnixStream,
        silent: Silent,
        ends: std::sync::mpsc::Sender<()>,
    }

    fn ask(all: &mut Vec<Asker>) -> Held {
        let (stream, other) = UnixStream::pair().unwrap();
        let silent = Silent::new();
        let (ends, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let _ = ended.recv();
        });
        all.push(Asker { stream, thread, silent: silent.clone() });
        Held { other, silent, ends }
    }

    #[test]
    fn whoever_is_silent_longest_makes_room_and_nobody_who_is_answered() {
        let now = Instant::now() + Duration::from_secs(100);
        let mut all = Vec::new();
        let mut others: Vec<Held> = (0..4).map(|_| ask(&mut all)).collect();
        for (held, secs) in others.iter().zip([0, 20, 90, 50]) {
            *held.silent.turn() = Turn::Waits(now.checked_sub(Duration::from_secs(secs)).unwrap());
        }
        assert!(others[0].silent.answers());
        for cut in [2, 3, 1] {
            assert!(make_room(&mut all, now));
            let mut heard = Vec::new();
            others[cut].other.read_to_end(&mut heard).unwrap();
            assert_eq!(heard, cut_off(), "{cut} hears the end, and why");
            assert!(!others[cut].silent.answers(), "its question is not answered later");
        }
        assert_eq!((make_room(&mut all, now), all.len()), (false, 1));
        others[0].silent.waits();
        let later = Instant::now() + SILENT;
        assert!(make_room(&mut all, later), "it is silent when its answer is given");
    }

    /// A command that had asked, and whose thread had not run yet, was cut off when many asked at once.
    #[test]
    fn many_who_ask_at_once_wait_for_a_place_and_cut_nobody_off() {
        let begin = Instant::now();
        let mut all = Vec::new();
        assert_eq!(place(&mut all, begin, begin), Place::Free);
        let mut held: Vec<Held> = (0..ASKERS).map(|_| ask(&mut all)).collect();
        let soon = SOON.checked_mul(2).unwrap();
        for after in [Duration::ZERO, SOON, soon] {
            assert_eq!(place(&mut all, begin, begin + after), Place::Wait);
        }
        // One has been answered, and ends.
        drop(held.remove(5).ends);
        while !all[5].thread.is_finished() {
            std::thread::yield_now();
        }
        assert_eq!(place(&mut all, begin, begin + soon), Place::Free);
        held.push(ask(&mut all));
        for one in &held {
            assert!(one.silent.answers(), "nobody was cut off");
        }
        assert_eq!(place(&mut all, begin, begin + FULL), Place::None);
        held[3].silent.waits();
        let late = Instant::now() + SILENT + FULL;
        assert_eq!(place(&mut all, late, late), Place::Wait, "a place may come free by itself");
        assert_eq!(place(&mut all, late, late + SOON), Place::Free);
        assert!(!held[3].silent.answers());
    }
}
