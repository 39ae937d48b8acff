//! The names of a connection's state: RFC 9293 §3.3.2, and one before it for address resolution.
//!
//! smoltcp's socket alone has the state, and moves it. It is fed what changes it (the ACK of our SYN or FIN, the peer's
//! FIN) as that comes, all else when what it permits leads no more. The shim adds one fact: whether the next hop of a dial
//! is known.

use crate::engine::State;

/// A connection's state. The order is that of smoltcp's states, so that one becomes the other for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Over.
    Closed,
    /// Dialled; the next hop's Ethernet address is being asked for.
    Resolve,
    /// SYN sent.
    SynSent,
    /// SYN received and answered.
    SynReceived,
    /// Open both ways.
    Established,
    /// Our FIN is out.
    FinWait1,
    /// Our FIN is acknowledged.
    FinWait2,
    /// The peer's FIN is in; we may still send.
    CloseWait,
    /// Both FINs are out, ours is not acknowledged.
    Closing,
    /// As Closing, the peer's FIN having come first.
    LastAck,
    /// Both sides are done; old segments may still come.
    TimeWait,
}

impl Phase {
    /// The state of smoltcp's socket, which has none for address resolution: there it is about to send its SYN, or to
    /// take the peer's.
    #[inline]
    pub(crate) fn of(state: State, resolved: bool) -> Phase {
        match state {
            State::SynSent if !resolved => Phase::Resolve,
            State::Closed => Phase::Closed,
            State::Listen => Phase::Resolve,
            State::SynSent => Phase::SynSent,
            State::SynReceived => Phase::SynReceived,
            State::Established => Phase::Established,
            State::FinWait1 => Phase::FinWait1,
            State::FinWait2 => Phase::FinWait2,
            State::CloseWait => Phase::CloseWait,
            State::Closing => Phase::Closing,
            State::LastAck => Phase::LastAck,
            State::TimeWait => Phase::TimeWait,
        }
    }

    /// The name that RFC 9293 §3.3.2 gives it; what comes before has none there.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Resolve => "RESOLVING",
            Phase::SynSent => "SYN-SENT",
            Phase::SynReceived => "SYN-RECEIVED",
            Phase::Established => "ESTABLISHED",
            Phase::FinWait1 => "FIN-WAIT-1",
            Phase::FinWait2 => "FIN-WAIT-2",
            Phase::CloseWait => "CLOSE-WAIT",
            Phase::Closing => "CLOSING",
            Phase::LastAck => "LAST-ACK",
            Phase::TimeWait => "TIME-WAIT",
            Phase::Closed => "CLOSED",
        }
    }

    /// The state of that name, in any case, `-` and `_` alike or left out; also as `ss` writes it (`ESTAB`,
    /// `SYN-RECV`).
    pub fn named(s: &str) -> Option<Phase> {
        use Phase::*;
        let plain = |s: &str| s.replace(['-', '_'], "").to_ascii_uppercase();
        let s = plain(s);
        match s.as_str() {
            "ESTAB" => return Some(Established),
            "SYNRECV" => return Some(SynReceived),
            _ => (),
        }
        let all = [
            Resolve,
            SynSent,
            SynReceived,
            Established,
            FinWait1,
            FinWait2,
            CloseWait,
            Closing,
            LastAck,
            TimeWait,
            Closed,
        ];
        all.into_iter().find(|p| plain(p.name()) == s)
    }

    /// Whether both ends know each other's sequence numbers.
    #[inline]
    pub fn synchronised(self) -> bool {
        !matches!(self, Phase::Resolve | Phase::SynSent | Phase::SynReceived | Phase::Closed)
    }

    /// Whether the application may still send.
    #[inline]
    pub fn may_send(self) -> bool {
        matches!(self, Phase::Established | Phase::CloseWait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_people_write_them() {
        for (s, p) in [
            ("ESTABLISHED", Some(Phase::Established)),
            ("estab", Some(Phase::Established)),
            ("syn-recv", Some(Phase::SynReceived)),
            ("fin_wait_1", Some(Phase::FinWait1)),
            ("FINWAIT2", Some(Phase::FinWait2)),
            ("open", None),
        ] {
            assert_eq!(Phase::named(s), p, "{s}");
        }
    }
}
