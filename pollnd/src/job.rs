//! A transfer: so many messages, every byte checked at the receiving end; and how far it is.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bench::ctl::{Ctl, Traffic};
use bench::measure::cpu_time;
use bench::workload::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::units;

/// Most payload of an LNet message, in bytes.
const MTU: u64 = 1 << 20;

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

/// Figures of a transfer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Moved {
    /// LNet messages.
    pub(crate) messages: u64,
    /// Whole transfers.
    pub(crate) transfers: u64,
    /// Payload.
    pub(crate) bytes: u64,
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
    /// Segments that its TCP sent again.
    pub(crate) retransmits: u64,
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

    /// The workload, with so many messages in flight.
    pub(crate) fn client(&self, flight: u32) -> ClientConfig {
        let tail = self.size - (self.pieces() - 1) * MTU;
        ClientConfig {
            bulk_len: self.size.min(MTU) as usize,
            pieces: self.pieces(),
            tail: tail as usize,
            bulk_flight: flight.into(),
            small_flight: 1,
            limit: self.limit(),
            begin_for: self.seconds.map(|s| (s * 1e9) as u64),
            ..ClientConfig::default()
        }
    }

    /// The error that ends it.
    pub(crate) fn failure(&self, m: &Moved, e: &str) -> String {
        let what = if self.way == Way::Put { "PUT to" } else { "GET from" };
        let of = match self.count {
            Some(_) => format!("{} of {}", m.messages, units::many(self.limit(), "message")),
            None => units::many(m.messages, "message"),
        };
        format!("{what} {}: {e}; {of} had completed", self.target)
    }
}

/// Next step of whoever follows a transfer.
pub(crate) enum Step {
    /// Go on.
    On,
    /// Tell this.
    Beat(Beat),
    /// Nothing has completed for so long.
    Silent(Duration),
    /// It has ended.
    End(Result<(), String>),
}

/// Follows a transfer to its end, a look at a time.
pub(crate) struct Follow<'a> {
    job: &'a Job,
    ctl: Arc<Ctl>,
    /// Time at which the first operation was seen to have begun: an lcore that sleeps takes a while to come to it.
    begun: Option<Instant>,
    cpu: Duration,
    /// Completions at the last change, and when that was.
    last: (u64, Instant),
    /// Messages, bytes and time of the last beat.
    beat: (u64, u64, f64),
}

impl<'a> Follow<'a> {
    /// Begins `job`, whose client has `ctl`.
    pub(crate) fn new(job: &'a Job, ctl: Arc<Ctl>) -> Follow<'a> {
        ctl.set_traffic(if job.way == Way::Put { Traffic::BulkChecked } else { Traffic::Get });
        let now = Instant::now();
        Follow { job, ctl, begun: None, cpu: cpu_time(), last: (0, now), beat: (0, 0, 0.0) }
    }

    fn counts(&self) -> (u64, u64) {
        (self.ctl.completed.load(Ordering::Relaxed), self.ctl.moved.load(Ordering::Relaxed))
    }

    /// Looks; `stopped` says that the node goes down, or that nobody wants it any more.
    pub(crate) fn step(&mut self, stopped: bool) -> Step {
        // First: what is outstanding fails when the node goes down, and that is no error of its own.
        if stopped {
            return Step::End(Err("interrupted".into()));
        }
        // In this order: the counts are final when it is done.
        let done = self.ctl.done.load(Ordering::Acquire);
        if self.ctl.failed.load(Ordering::Relaxed) > 0 {
            return Step::End(Err(self.error()));
        }
        let (n, bytes) = self.counts();
        if done || n >= self.job.limit() {
            return Step::End(Ok(()));
        }
        if self.begun.is_none() && self.ctl.started.load(Ordering::Relaxed) > 0 {
            self.begun = Some(Instant::now());
        }
        if n != self.last.0 {
            self.last = (n, Instant::now());
        }
        let timeout = Duration::try_from_secs_f64(self.job.timeout).unwrap_or(Duration::MAX);
        if self.last.1.elapsed() > timeout {
            return Step::Silent(timeout);
        }
        let at = self.begun.map_or(0.0, |t| t.elapsed().as_secs_f64());
        let (messages, before, then) = self.beat;
        if self.job.every.is_some_and(|e| at >= then + e) {
            self.beat = (n, bytes, at);
            let (messages, bytes) = (n - messages, bytes - before);
            return Step::Beat(Beat { at_s: at, wall_s: at - then, messages, bytes });
        }
        Step::On
    }

    fn error(&self) -> String {
        self.ctl.first_error().unwrap_or_else(|| "an operation failed".into())
    }

    /// Figures so far.
    pub(crate) fn moved(&self) -> Moved {
        let (messages, bytes) = self.counts();
        Moved {
            messages,
            transfers: messages / self.job.pieces(),
            bytes,
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
            let c = job(size, Some(5)).client(8);
            let got = (c.pieces, c.bulk_len as u64, c.tail as u64, c.limit);
            assert_eq!(got, (pieces, len, tail, 5 * pieces), "{size}");
        }
        assert_eq!(job(1, None).client(8).limit, u64::MAX);
        assert_eq!(job(MTU + 1, Some(u64::MAX)).client(8).limit, u64::MAX);
    }

    #[test]
    fn a_failure_tells_how_far_it_had_come() {
        let m = Moved { messages: 3, ..Moved::default() };
        let say = |count| job(2 * MTU, count).failure(&m, "why");
        assert_eq!(say(Some(8)), "PUT to 10.0.0.2@tcp: why; 3 of 16 messages had completed");
        assert_eq!(say(None), "PUT to 10.0.0.2@tcp: why; 3 messages had completed");
    }
}
