//! The timers of a connection: one for resends, probes and the last FIN, one for keep-alive; and since when it is
//! waited.

use super::input::Cx;
use super::recv::RecvSide;
use super::send::SendSide;
use crate::config::{FlowCounters, KeepAlive};
use crate::sender::Silence;

/// Time between challenge ACKs of one connection, in ns (RFC 5961 §10 asks for a limit).
const CHALLENGE_GAP: u64 = 5_000_000;
/// Time at which a SYN is sent again that an old connection of the peer's has met, in ns.
const SYN_AGAIN: u64 = 1_000_000;

/// Purpose of the one resend timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    Off,
    /// SYN or SYN-ACK unanswered.
    Syn,
    /// Data or FIN unacknowledged: reordering window, probe or time-out, whatever [`SendSide::deadline`] says.
    Data,
    /// The peer's window is shut and data waits.
    Persist,
    /// Our FIN is acknowledged, the peer's has not come.
    Fin,
}

/// Consequence of a timer that has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// Nothing is due yet.
    Early,
    /// The SYN is to be sent again.
    Syn,
    /// Something is to be sent.
    Serve,
    /// A probe is to be sent.
    Probe,
    /// It is over.
    GiveUp,
}

/// The timers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timers {
    clock: Clock,
    at: u64,
    tries: u8,
    /// Keep-alive probes without an answer; of a SYN, whether it was tried again early.
    probes: u8,
    /// Time at which the wait for an answer began.
    stuck_since: u64,
    last_rx: u64,
    challenge_at: u64,
}

impl Timers {
    pub(super) fn new(now: u64) -> Timers {
        Timers {
            clock: Clock::Off,
            at: u64::MAX,
            tries: 0,
            probes: 0,
            stuck_since: now,
            last_rx: now,
            challenge_at: 0,
        }
    }

    /// Sets the resend timer to `at` (ns).
    #[inline]
    pub(super) fn set(&mut self, clock: Clock, at: u64) {
        (self.clock, self.at) = (clock, at);
    }

    /// Stops it.
    #[inline]
    pub(super) fn stop(&mut self) {
        self.set(Clock::Off, u64::MAX);
    }

    /// Time at which it is due (ns).
    #[inline]
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Its purpose.
    #[inline]
    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// Starts waiting for an answer.
    #[inline]
    pub(super) fn wait_from(&mut self, now: u64) {
        self.stuck_since = now;
    }

    /// Time at which the peer was last heard (ns).
    pub(super) fn last_rx(&self) -> u64 {
        self.last_rx
    }

    /// An acceptable segment has come.
    #[inline]
    pub(super) fn heard(&mut self, now: u64) {
        (self.last_rx, self.probes) = (now, 0);
    }

    /// An answer to our SYN has come.
    pub(super) fn syn_heard(&mut self, now: u64) {
        self.last_rx = now;
    }

    /// Keep-alive probes in a row without an answer.
    pub(super) fn unanswered(&self) -> u8 {
        self.probes
    }

    /// When a keep-alive probe is due, if nothing is out.
    pub(super) fn keepalive_at(&self, k: &KeepAlive) -> u64 {
        self.last_rx + k.idle + u64::from(self.probes) * k.interval
    }

    /// Whether a challenge ACK, or an answer to a probe, may be sent.
    pub(super) fn may_challenge(&self, now: u64) -> bool {
        now >= self.challenge_at
    }

    /// One is sent.
    pub(super) fn challenged(&mut self, now: u64) {
        self.challenge_at = now + CHALLENGE_GAP;
    }

    /// A SYN was sent, `wait` ns before it is sent again unless that doubles. Whether it was sent before.
    pub(super) fn syn_sent(&mut self, now: u64, wait: u64) -> bool {
        self.stuck_since = now;
        self.set(Clock::Syn, now + (wait << self.tries.min(6)));
        self.tries > 0
    }

    /// A SYN-ACK went out that nothing is known of but that: as if it had been sent twice, and never again.
    pub(super) fn syn_unseen(&mut self) {
        self.set(Clock::Syn, u64::MAX);
        self.tries = 1;
    }

    /// An old connection of the peer's has met our SYN: it is tried again soon, once, or forged ACKs would use up the
    /// retries.
    pub(super) fn syn_again(&mut self, now: u64) {
        if self.probes == 0 {
            self.probes = 1;
            self.at = self.at.min(now + SYN_AGAIN);
        }
    }

    /// The SYN is answered. How long that took, if it was sent once only.
    pub(super) fn syn_answered(&mut self, now: u64) -> Option<u64> {
        self.stop();
        let first = std::mem::take(&mut self.tries) == 0;
        first.then(|| now.saturating_sub(self.stuck_since))
    }

    /// An ACK has come: `news` says that it acknowledges new bytes.
    #[inline]
    pub(super) fn acked(&mut self, news: bool, snd: &SendSide, fin_rcvd: bool, fin_timeout: u64, now: u64) {
        if news {
            (self.tries, self.stuck_since) = (0, now);
        }
        if !snd.is_quiet() {
            self.set(Clock::Data, snd.deadline());
        } else if news && snd.fin_acked() && !fin_rcvd {
            self.set(Clock::Fin, now + fin_timeout);
        } else if news {
            self.stop();
        }
    }

    /// The peer's window has opened.
    #[inline]
    pub(super) fn window_opened(&mut self) {
        if self.clock == Clock::Persist {
            self.stop();
            self.tries = 0;
        }
    }

    /// The peer's window is shut: it is probed from `rto` ns on, if nothing else is waited for.
    #[inline]
    pub(super) fn shut(&mut self, now: u64, rto: u64) {
        if self.clock == Clock::Off {
            (self.stuck_since, self.tries) = (now, 0);
            self.set(Clock::Persist, now + rto);
        }
    }

    /// Nobody reads any more: from here on the peer has a bounded time to take what it is still to be sent.
    pub(super) fn hurry(&mut self, now: u64, patience: u64) {
        self.stuck_since = now;
        if self.clock == Clock::Persist {
            self.at = self.at.min(now + patience);
        }
    }

    /// The link is back: what is waited for is asked for again at `at` (ns). Whether anything is.
    pub(super) fn link_is_back(&mut self, at: u64) -> bool {
        let waits = matches!(self.clock, Clock::Syn | Clock::Data | Clock::Persist);
        if waits {
            self.at = self.at.min(at);
        }
        waits
    }

    /// Acts on the timer that has come; `idle` says that the connection is open and nothing is out.
    pub(super) fn expire(
        &mut self,
        (idle, passive, permit): (bool, bool, u64),
        snd: &mut SendSide,
        rcv: &RecvSide,
        st: &mut FlowCounters,
        cx: &mut Cx<'_>,
    ) -> Expiry {
        if self.at <= cx.now {
            return self.on_clock(passive, permit, snd, rcv.discards(), st, cx);
        }
        let due = |k: &KeepAlive| idle && self.keepalive_at(k) <= cx.now;
        let Some(k) = cx.cfg.keepalive.filter(due) else { return Expiry::Early };
        if self.probes >= k.count {
            return Expiry::GiveUp;
        }
        self.probes += 1;
        cx.c.keepalive_probes += 1;
        Expiry::Probe
    }

    fn on_clock(
        &mut self,
        passive: bool,
        permit: u64,
        snd: &mut SendSide,
        discards: bool,
        st: &mut FlowCounters,
        cx: &mut Cx<'_>,
    ) -> Expiry {
        let stuck = cx.now.saturating_sub(self.stuck_since) > cx.cfg.user_timeout;
        let rto = snd.rtt().rto(&cx.cfg.rto);
        match self.clock {
            Clock::Off => {
                self.at = u64::MAX;
                Expiry::Early
            }
            Clock::Syn if passive && self.tries >= cx.cfg.synack_retries => Expiry::GiveUp,
            Clock::Syn if self.tries >= cx.cfg.syn_retries => Expiry::GiveUp,
            Clock::Syn => {
                self.tries += 1;
                self.at = cx.now + rto;
                Expiry::Syn
            }
            Clock::Data if stuck && (discards || !self.shrunk_by_a_live_peer(snd, cx)) => Expiry::GiveUp,
            Clock::Data => self.on_data_clock(permit, snd, st, cx),
            // Closed for good, and the peer may not hold that up by a shut window (Linux has a bound for its orphans, too).
            Clock::Persist if discards && cx.now.saturating_sub(self.stuck_since) >= cx.cfg.fin_timeout => {
                Expiry::GiveUp
            }
            // A peer that answers may keep its window shut for ever (RFC 9293 §3.8.6.1).
            Clock::Persist if cx.now.saturating_sub(self.last_rx) > cx.cfg.user_timeout && stuck => {
                Expiry::GiveUp
            }
            Clock::Persist => {
                self.tries = self.tries.saturating_add(1);
                cx.c.window_probes += 1;
                let wait = rto.saturating_mul(1 << self.tries.min(16)).min(cx.cfg.rto.max);
                self.at = cx.now + wait;
                if discards {
                    self.at = self.at.min(self.stuck_since + cx.cfg.fin_timeout);
                }
                Expiry::Probe
            }
            // A peer that still sends after our FIN is not lost, where it is read.
            Clock::Fin if !discards && cx.now < self.last_rx + cx.cfg.fin_timeout => {
                self.at = self.last_rx + cx.cfg.fin_timeout;
                Expiry::Early
            }
            Clock::Fin => Expiry::GiveUp,
        }
    }

    /// Bytes that are out lie beyond the window since the peer took some of it back, and the peer still answers: it may
    /// for as long as it likes (RFC 9293 §3.8.6, SHLD-17, and §3.8.6.1, MUST-37).
    fn shrunk_by_a_live_peer(&self, snd: &SendSide, cx: &Cx<'_>) -> bool {
        snd.is_shrunk() && cx.now.saturating_sub(self.last_rx) <= cx.cfg.user_timeout
    }

    /// Nothing was heard of what is out: the reordering window is over, a probe or a time-out is due.
    fn on_data_clock(
        &mut self,
        permit: u64,
        snd: &mut SendSide,
        st: &mut FlowCounters,
        cx: &mut Cx<'_>,
    ) -> Expiry {
        let silence = snd.on_silence(permit, cx.now, &cx.cfg.rto);
        self.set(Clock::Data, snd.deadline());
        match silence {
            Silence::Early => return Expiry::Early,
            Silence::Timeout => {
                cx.c.rto += 1;
                st.rto += 1;
                cx.c.pmtu_black_holes += u64::from(snd.on_timeout(cx.cfg, cx.now));
            }
            Silence::Probe => {
                cx.c.tlp_probes += 1;
                st.tlp_probes += 1;
            }
            Silence::Reorder { entered } => {
                cx.c.fast_recoveries += u64::from(entered);
                st.fast_recoveries += u64::from(entered);
            }
        }
        Expiry::Serve
    }
}
