//! The connection's state, as the shim sees it: RFC 9293 §3.3.2 and a state before it for address resolution.
//!
//! smoltcp keeps the authoritative machine; this one says which of the shim's duties (resends, probes, events)
//! apply, and the two are compared after each exchange.
//!
//! ```text
//!   Resolve ─Resolved─> SynSent ─SynAck─> Established ─Close─> FinWait1 ─AckOfFin─> FinWait2 ─PeerFin─> TimeWait
//!                          │ Syn              │  ^                 │ PeerFin                              ^
//!                          v                  │  │AckOfSyn         v                                      │
//!                      SynReceived ───────────┼──┘              Closing ─────────AckOfFin─────────────────┤
//!                                             │ PeerFin            (FinWait1 with FIN and its ACK at once)┘
//!                                             v
//!                                         CloseWait ─Close─> LastAck ─AckOfFin─> Closed
//!   any ─Reset/GiveUp/Abort─> Closed
//! ```

/// A connection's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
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
    /// Over.
    Closed,
}

/// What moves a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ev {
    /// The next hop is known.
    Resolved,
    /// A SYN without ACK came.
    Syn,
    /// A SYN with the right ACK came.
    SynAck,
    /// Our SYN was acknowledged.
    AckOfSyn,
    /// Our FIN goes out.
    Close,
    /// The peer's FIN is next in order.
    PeerFin,
    /// Our FIN was acknowledged.
    AckOfFin,
    /// A valid RST came.
    Reset,
    /// No answer for too long.
    GiveUp,
    /// The application ends it.
    Abort,
}

impl Phase {
    /// The transition; `None` when `ev` means nothing in this state.
    pub fn next(self, ev: Ev) -> Option<Phase> {
        use Phase::*;
        Some(match (self, ev) {
            (Closed, _) => return None,
            (_, Ev::Reset | Ev::GiveUp | Ev::Abort) => Closed,
            (Resolve, Ev::Resolved) => SynSent,
            (SynSent, Ev::Syn) => SynReceived,
            (SynSent, Ev::SynAck) => Established,
            (SynReceived, Ev::AckOfSyn) => Established,
            (Established, Ev::Close) => FinWait1,
            (Established, Ev::PeerFin) => CloseWait,
            (CloseWait, Ev::Close) => LastAck,
            (FinWait1, Ev::AckOfFin) => FinWait2,
            (FinWait1, Ev::PeerFin) => Closing,
            (FinWait2, Ev::PeerFin) => TimeWait,
            (Closing, Ev::AckOfFin) => TimeWait,
            (LastAck, Ev::AckOfFin) => Closed,
            _ => return None,
        })
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

    #[test]
    fn the_table() {
        use Phase::*;
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
        let evs = [
            Ev::Resolved,
            Ev::Syn,
            Ev::SynAck,
            Ev::AckOfSyn,
            Ev::Close,
            Ev::PeerFin,
            Ev::AckOfFin,
            Ev::Reset,
            Ev::GiveUp,
            Ev::Abort,
        ];
        let mut t = String::new();
        for p in all {
            let row: Vec<_> = evs.iter().filter_map(|e| p.next(*e).map(|n| format!("{e:?}>{n:?}"))).collect();
            t += &format!("{p:?}: {}\n", row.join(" "));
        }
        insta::assert_snapshot!(t, @"
        Resolve: Resolved>SynSent Reset>Closed GiveUp>Closed Abort>Closed
        SynSent: Syn>SynReceived SynAck>Established Reset>Closed GiveUp>Closed Abort>Closed
        SynReceived: AckOfSyn>Established Reset>Closed GiveUp>Closed Abort>Closed
        Established: Close>FinWait1 PeerFin>CloseWait Reset>Closed GiveUp>Closed Abort>Closed
        FinWait1: PeerFin>Closing AckOfFin>FinWait2 Reset>Closed GiveUp>Closed Abort>Closed
        FinWait2: PeerFin>TimeWait Reset>Closed GiveUp>Closed Abort>Closed
        CloseWait: Close>LastAck Reset>Closed GiveUp>Closed Abort>Closed
        Closing: AckOfFin>TimeWait Reset>Closed GiveUp>Closed Abort>Closed
        LastAck: AckOfFin>Closed Reset>Closed GiveUp>Closed Abort>Closed
        TimeWait: Reset>Closed GiveUp>Closed Abort>Closed
        Closed: 
        ");
    }
}
