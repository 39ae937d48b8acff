//! A transfer: so many messages, every byte checked at the receiving end; and how far it is.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bench::ctl::{Ctl, Traffic};
use bench::measure::cpu_time;
use bench::workload::{ClientConfig, Losing, NO_ANSWER};
use serde::{Deserialize, Serialize};
use transport::lnd::LnetError;
use transport::node::inspect::Inspection;
use transport::wire::Nid;

use crate::{units, why};

/// Most payload of an LNet message, in bytes.
const MTU: u64 = 1 << 20;
/// Most messages without an answer beside those in flight.
pub(crate) const SPARE: usize = 32;
/// Error of a transfer that somebody ends.
const INTERRUPTED: &str = "interrupted";
/// Time for which an error is the present reason why nothing comes through: after one another message is tried at once.
const RECENT: Duration = Duration::from_secs(2);

/// Direction of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// From here to the target, which checks it.
    Put,
    /// From the target to here.
    Get,
}

/// Description of a transfer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Job {
    /// Direction.
    pub(crate) way: Way,
    /// The peer's NID.
    pub(crate) target: String,
    /// Bytes of a transfer.
    pub(crate) size: u64,
    /// Number of transfers; without end where this is not given.
    pub(crate) count: Option<u64>,
    /// Time during which new ones are begun, in seconds.
    pub(crate) seconds: Option<f64>,
    /// The longest time without any completion, in seconds.
    pub(crate) timeout: f64,
    /// Interval of reports, in seconds.
    pub(crate) every: Option<f64>,
}

/// Messages that ended with an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lost {
    /// The error.
    pub(crate) error: String,
    /// Number of those messages.
    pub(crate) messages: u64,
}

/// Figures of a transfer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Moved {
    /// LNet messages.
    pub(crate) messages: u64,
    /// Whole transfers.
    pub(crate) transfers: u64,
    /// Payload.
    pub(crate) bytes: u64,
    /// LNet messages that ended with an error.
    #[serde(default)]
    pub(crate) failed: u64,
    /// Those errors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<Lost>,
    /// The NID that they failed by, where it is not the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<String>,
    /// LNet messages that had neither when it ended.
    #[serde(default)]
    pub(crate) unanswered: u64,
    /// Wall time.
    pub(crate) wall_s: f64,
    /// CPU time of the process whose node it was.
    pub(crate) cpu_s: f64,
    /// Answers whose bytes were wrong.
    pub(crate) crc_bad: u64,
    /// Payload that the node copied on sending.
    pub(crate) tx_copied_bytes: u64,
    /// Payload that it copied on receiving.
    pub(crate) rx_copied_bytes: u64,
    /// Segments that its TCP sent again; not known of a kernel's.
    #[serde(default)]
    pub(crate) retransmits: Option<u64>,
    /// Whether the node went down in order; not known of one that goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) clean: Option<bool>,
}

/// Figures since the last of these.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Beat {
    /// Seconds since the start.
    pub(crate) at_s: f64,
    /// Seconds since the last.
    pub(crate) wall_s: f64,
    /// LNet messages.
    pub(crate) messages: u64,
    /// Payload.
    pub(crate) bytes: u64,
    /// LNet messages that ended with an error.
    #[serde(default)]
    pub(crate) failed: u64,
}

/// Something that is told of a transfer before its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Told {
    /// Figures of an interval.
    Beat(Beat),
    /// Messages end with an error, and the transfer goes on.
    Trouble {
        /// The error, and for how long it goes on.
        trouble: String,
    },
}

impl Job {
    /// LNet messages of a transfer.
    pub(crate) fn pieces(&self) -> u64 {
        self.size.div_ceil(MTU).max(1)
    }

    /// LNet messages in all, at most.
    pub(crate) fn limit(&self) -> u64 {
        self.count.map_or(u64::MAX, |n| n.saturating_mul(self.pieces()))
    }

    /// The longest time without any completion.
    fn patience(&self) -> Duration {
        Duration::try_from_secs_f64(self.timeout).unwrap_or(Duration::MAX)
    }

    /// The workload, with so many messages in flight and so many more of which no answer comes, whose tags begin with `tags`.
    pub(crate) fn client(&self, flight: u32, spare: u64, tags: u64) -> ClientConfig {
        let patience = u64::try_from(self.patience().as_nanos()).unwrap_or(u64::MAX);
        let tail = self.size - (self.pieces() - 1) * MTU;
        ClientConfig {
            bulk_len: self.size.min(MTU) as usize,
            pieces: self.pieces(),
            tail: tail as usize,
            bulk_flight: flight.into(),
            small_flight: 1,
            limit: self.limit(),
            begin_for: self.seconds.map(|s| (s * 1e9) as u64),
            losing: Some(Losing { spare, patience }),
            tags,
            ..ClientConfig::default()
        }
    }

    /// The direction and the peer, in words.
    pub(crate) fn what(&self) -> String {
        format!("{} {}", if self.way == Way::Put { "PUT to" } else { "GET from" }, self.target)
    }

    /// The error that ends it.
    pub(crate) fn failure(&self, m: &Moved, e: &str) -> String {
        let of = match self.count {
            Some(_) => format!("{} of {}", m.messages, units::many(self.limit(), "message")),
            None => units::many(m.messages, "message"),
        };
        let mut lost = String::new();
        // Of one that is interrupted they are those under way.
        let unanswered = if e == INTERRUPTED { 0 } else { m.unanswered };
        for (n, what) in [(m.failed, "ended with an error"), (unanswered, "no answer")] {
            // Without a message nothing else has happened.
            if m.messages > 0 && n > 0 {
                lost += &format!(", {n} had {what}");
            }
        }
        format!("{}: {e}; {of} had completed{lost}", self.what())
    }

    /// The error of one that came to its end and lost messages.
    fn losses(&self, m: &Moved) -> String {
        let mut all: Vec<_> = m.errors.iter().collect();
        all.sort_by_key(|l| std::cmp::Reverse(l.messages));
        let why: Vec<String> = all.iter().map(|l| format!("{} with \"{}\"", l.messages, l.error)).collect();
        let of = units::many(m.messages + m.failed, "message");
        let by = m.by.as_ref().map_or_else(String::new, |by| format!("; {by}"));
        format!("{}: {} of {of} ended with an error: {}{by}", self.what(), m.failed, why.join(", "))
    }

    /// Judges one that came to its end.
    ///
    /// # Errors
    /// Messages that were wrong, lost or missing.
    pub(crate) fn judge(&self, m: &Moved) -> Result<(), String> {
        if self.way == Way::Get && m.crc_bad > 0 {
            let of = units::many(m.messages, "answer");
            return Err(format!("{}: {} of {of} had wrong bytes", self.what(), m.crc_bad));
        }
        if m.failed > 0 {
            return Err(self.losses(m));
        }
        if self.count.is_some() && self.seconds.is_none() && m.messages != self.limit() {
            let of = units::many(self.limit(), "message");
            return Err(format!("{}: {} of {of} completed", self.what(), m.messages));
        }
        Ok(())
    }
}

/// Next step of whoever follows a transfer.
pub(crate) enum Step {
    /// Go on.
    On,
    /// Tell this.
    Tell(Told),
    /// It has ended.
    End(Result<(), String>),
}

/// Follows a transfer to its end, a look at a time.
///
/// One that nothing has come through of ends with its first error. Later ones are those of their messages alone: the peer may be
/// there again, another NI may carry the next. It ends when nothing has come through for the job's time-out.
pub(crate) struct Follow<'a> {
    job: &'a Job,
    ctl: Arc<Ctl>,
    /// Time at which the first operation was seen to have begun: an lcore that sleeps takes a while to come to it.
    begun: Option<Instant>,
    cpu: Duration,
    /// Completions at the last change, and when that was.
    last: (u64, Instant),
    /// Errors until then, and whether later ones have been told of.
    before: (u64, bool),
    /// Errors at the last look, and the time of the latest.
    erred: (u64, Instant),
    /// Figures and time of the last beat.
    beat: Beat,
    /// The NID that messages had failed by at its end.
    by: Option<String>,
}

impl<'a> Follow<'a> {
    /// Begins `job`, whose client has `ctl`.
    pub(crate) fn new(job: &'a Job, ctl: Arc<Ctl>) -> Follow<'a> {
        ctl.set_traffic(if job.way == Way::Put { Traffic::BulkChecked } else { Traffic::Get });
        let beat = Beat { at_s: 0.0, wall_s: 0.0, messages: 0, bytes: 0, failed: 0 };
        let now = Instant::now();
        Follow {
            job,
            ctl,
            begun: None,
            cpu: cpu_time(),
            last: (0, now),
            before: (0, false),
            erred: (0, now),
            beat,
            by: None,
        }
    }

    fn counts(&self) -> (u64, u64) {
        (self.ctl.completed.load(Ordering::Relaxed), self.ctl.moved.load(Ordering::Relaxed))
    }

    /// Looks at it, of the node behind `front` with `target`; `stopped` says that the node goes down, or that nobody wants it any more.
    pub(crate) fn step(&mut self, stopped: bool, front: &Inspection, target: Nid) -> Step {
        // First: what is outstanding fails when the node goes down, and that is no error of its own.
        if stopped {
            return Step::End(Err(INTERRUPTED.into()));
        }
        // In this order: the counts are final when it is done.
        let done = self.ctl.done.load(Ordering::Acquire);
        let failed = self.ctl.failed.load(Ordering::Relaxed);
        let (n, bytes) = self.counts();
        let latest = || self.ctl.losses().pop().map_or_else(String::new, |l| l.0);
        if failed != self.erred.0 {
            self.erred = (failed, Instant::now());
        }
        if failed > self.before.0 && n == 0 && latest() == NO_ANSWER {
            return Step::End(Err(why::none_in_time(front, target, self.last.1.elapsed())));
        }
        if failed > self.before.0 && (n == 0 || latest() == LnetError::ShuttingDown.to_string()) {
            return Step::End(Err(why::failed(front, target, latest())));
        }
        if done || n.saturating_add(failed) >= self.job.limit() {
            self.by = if failed > 0 { why::other(front, target) } else { None };
            return Step::End(Ok(()));
        }
        if self.begun.is_none() && self.ctl.started.load(Ordering::Relaxed) > 0 {
            self.begun = Some(Instant::now());
        }
        if n != self.last.0 {
            self.last = (n, Instant::now());
            self.before = (failed, false);
        }
        let patience = self.job.patience();
        let troubled = failed > self.before.0;
        if self.last.1.elapsed() > patience {
            // The reason is the present one: an error of long ago may have been another's.
            return Step::End(Err(match troubled && self.erred.1.elapsed() < RECENT {
                true => why::stuck(front, target, patience, latest()),
                false => why::silent(front, target, patience),
            }));
        }
        // That one is given up says nothing of others: it was begun long ago.
        if troubled && !self.before.1 && latest() != NO_ANSWER {
            self.before.1 = true;
            let trouble = why::goes_on(front, target, patience, latest());
            return Step::Tell(Told::Trouble { trouble });
        }
        let at_s = self.begun.map_or(0.0, |t| t.elapsed().as_secs_f64());
        let was = self.beat;
        if self.job.every.is_some_and(|e| at_s >= was.at_s + e) {
            self.beat = Beat { at_s, wall_s: 0.0, messages: n, bytes, failed };
            return Step::Tell(Told::Beat(Beat {
                at_s,
                wall_s: at_s - was.at_s,
                messages: n - was.messages,
                bytes: bytes - was.bytes,
                failed: failed - was.failed,
            }));
        }
        Step::On
    }

    /// Figures so far.
    pub(crate) fn moved(&self) -> Moved {
        let (messages, bytes) = self.counts();
        let lost = |(error, messages)| Lost { error, messages };
        Moved {
            messages,
            transfers: messages / self.job.pieces(),
            bytes,
            failed: self.ctl.failed.load(Ordering::Relaxed),
            unanswered: self.ctl.outstanding(),
            errors: self.ctl.losses().into_iter().map(lost).collect(),
            by: self.by.clone(),
            wall_s: self.ctl.span().as_secs_f64(),
            cpu_s: (cpu_time() - self.cpu).as_secs_f64(),
            crc_bad: self.ctl.crc_bad.load(Ordering::Relaxed),
            ..Moved::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(size: u64, count: Option<u64>) -> Job {
        let target = "10.0.0.2@tcp".to_owned();
        Job { way: Way::Put, target, size, count, seconds: None, timeout: 10.0, every: None }
    }

    /// Field report 21.
    #[test]
    fn transfers_of_any_size_are_messages_of_at_most_1_mib() {
        for (size, pieces, len, tail) in [
            (0, 1, 0, 0),
            (1, 1, 1, 1),
            (MTU, 1, MTU, MTU),
            (MTU + 1, 2, MTU, 1),
            (16 * MTU, 16, MTU, MTU),
            (3 * MTU - 7, 3, MTU, MTU - 7),
        ] {
            let c = job(size, Some(5)).client(8, 0, 0);
            let got = (c.pieces, c.bulk_len as u64, c.tail as u64, c.limit);
            assert_eq!(got, (pieces, len, tail, 5 * pieces), "{size}");
        }
        assert_eq!(job(1, None).client(8, 0, 0).limit, u64::MAX);
        assert_eq!(job(MTU + 1, Some(u64::MAX)).client(8, 0, 0).limit, u64::MAX);
    }

    #[test]
    fn a_failure_tells_how_far_it_had_come() {
        let m = Moved { messages: 3, ..Moved::default() };
        let say = |count| job(2 * MTU, count).failure(&m, "why");
        assert_eq!(say(Some(8)), "PUT to 10.0.0.2@tcp: why; 3 of 16 messages had completed");
        assert_eq!(say(None), "PUT to 10.0.0.2@tcp: why; 3 messages had completed");
        let m = Moved { messages: 3, failed: 2, ..Moved::default() };
        let told = job(2 * MTU, None).failure(&m, "why");
        assert_eq!(told, "PUT to 10.0.0.2@tcp: why; 3 messages had completed, 2 had ended with an error");
    }

    #[test]
    fn losses_of_one_that_came_to_its_end_are_told_by_kind() {
        let lost = |error: &str, messages| Lost { error: error.into(), messages };
        let errors = vec![lost("a", 1), lost("b", 2)];
        let m = Moved { messages: 5, failed: 3, errors, ..Moved::default() };
        assert_eq!(
            job(MTU, Some(8)).judge(&m).unwrap_err(),
            "PUT to 10.0.0.2@tcp: 3 of 8 messages ended with an error: 2 with \"b\", 1 with \"a\""
        );
        assert_eq!(job(MTU, Some(5)).judge(&Moved { messages: 5, ..Moved::default() }), Ok(()));
        let few = job(MTU, Some(6)).judge(&Moved { messages: 5, ..Moved::default() });
        assert_eq!(few.unwrap_err(), "PUT to 10.0.0.2@tcp: 5 of 6 messages completed");
        let m = Moved {
            by: Some("its gateway fails".into()),
            failed: 1,
            errors: vec![lost("a", 1)],
            ..Moved::default()
        };
        let told = job(MTU, None).judge(&m).unwrap_err();
        assert!(told.ends_with("1 with \"a\"; its gateway fails"), "{told}");
    }

    /// An error of a message is not the transfer's, unless nothing has come through, or does for the time-out.
    #[test]
    fn a_transfer_survives_errors_of_messages() {
        use bench::ctl::bump;
        let front = Inspection::new(0, dataplane::clock::Clock::monotonic());
        let j = Job { timeout: 0.05, ..job(MTU, Some(100)) };
        let (ctl, target) = (Arc::new(Ctl::default()), Nid::LO);
        let mut f = Follow::new(&j, ctl.clone());
        let lose = |e: &str| {
            ctl.lose(e.into());
            bump(&ctl.failed, 1);
        };
        bump(&ctl.completed, 3);
        assert!(matches!(f.step(false, &front, target), Step::On));
        lose("why");
        let told = f.step(false, &front, target);
        assert!(matches!(&told, Step::Tell(Told::Trouble { trouble }) if trouble.contains("why")));
        lose("why");
        assert!(matches!(f.step(false, &front, target), Step::On), "once for each trouble");
        bump(&ctl.completed, 1);
        assert!(matches!(f.step(false, &front, target), Step::On));
        lose("other");
        assert!(matches!(f.step(false, &front, target), Step::Tell(Told::Trouble { .. })));
        std::thread::sleep(Duration::from_millis(60));
        let Step::End(Err(e)) = f.step(false, &front, target) else { panic!("goes on") };
        assert!(e.contains("50.0 ms") && e.contains("other"), "{e}");
        let m = f.moved();
        let errors: Vec<_> = m.errors.iter().map(|l| (&*l.error, l.messages)).collect();
        assert_eq!((m.messages, m.failed, errors), (4, 3, vec![("why", 2), ("other", 1)]));
        bump(&ctl.completed, 1);
        assert!(matches!(f.step(false, &front, target), Step::On));
        lose(&LnetError::ShuttingDown.to_string());
        assert!(matches!(f.step(false, &front, target), Step::End(Err(_))), "there is nothing to wait for");
        // One that is given up is counted, and no trouble of others.
        let mut f = Follow::new(&j, Arc::new(Ctl::default()));
        bump(&f.ctl.started, 3);
        bump(&f.ctl.completed, 1);
        assert!(matches!(f.step(false, &front, target), Step::On));
        f.ctl.lose(NO_ANSWER.into());
        bump(&f.ctl.failed, 1);
        assert!(matches!(f.step(false, &front, target), Step::On));
        let m = f.moved();
        assert_eq!((m.failed, m.unanswered), (1, 1));
        let e = j.failure(&m, "why");
        assert!(
            e.ends_with("1 of 100 messages had completed, 1 had ended with an error, 1 had no answer"),
            "{e}"
        );
        assert!(!j.failure(&m, INTERRUPTED).contains("no answer"));
        // Of errors of long ago nothing is said where nothing comes any more; and without a first answer there is no error to end with.
        f.erred.1 = Instant::now().checked_sub(RECENT).unwrap();
        std::thread::sleep(Duration::from_millis(60));
        assert!(
            matches!(f.step(false, &front, target), Step::End(Err(e)) if e.starts_with("no answer within"))
        );
        let mut f = Follow::new(&j, Arc::new(Ctl::default()));
        f.ctl.lose(NO_ANSWER.into());
        bump(&f.ctl.failed, 1);
        let end = f.step(false, &front, target);
        assert!(matches!(end, Step::End(Err(e)) if e.contains("(--seconds): ")));
        // Nothing has come through.
        let fresh = Arc::new(Ctl::default());
        let mut f = Follow::new(&j, fresh.clone());
        fresh.lose("at once".into());
        bump(&fresh.failed, 1);
        assert!(matches!(f.step(false, &front, target), Step::End(Err(e)) if e == "at once"));
    }
}
