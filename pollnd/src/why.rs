//! Reasons why a peer does not answer, in words for people: one text for each.

use std::sync::OnceLock;
use std::time::Duration;

use tcpstack::Phase;
use transport::lnd::LnetError;
use transport::lnet::BEST;
use transport::lnet::routes::RouteView;
use transport::node::inspect::{Filter, Inspection};
use transport::socklnd::{Contact, DialWhy, PeerBrief};
use transport::stream::DialError;
use transport::wire::{Nid, ProcessId};

use crate::units;

/// Knowledge of a running node about `nid`.
fn brief(front: &Inspection, nid: Nid) -> Option<PeerBrief> {
    let mut found = None;
    // An lcore that does not answer knows nothing that could be told.
    let _ = front.peers(Some(ProcessId::lustre(nid)), |b| {
        found = Some(*b);
        false
    });
    found
}

/// Remedies for ports whose frames come cut: those of all ports of this process.
static CUT: OnceLock<String> = OnceLock::new();

/// Keeps what mends this process's ports where their frames come cut.
#[cfg(feature = "dpdk")]
pub(crate) fn keep_cut_remedy(remedy: Option<String>) {
    if let Some(r) = remedy {
        let _ = CUT.set(r);
    }
}

/// Frames that came cut, and what mends it.
fn cut_frames(n: u64, remedy: &str) -> String {
    format!(
        "; {} came cut and were dropped (counter port_rx_cut), as the kernel below joins them: {remedy}",
        units::many(n, "frame")
    )
}

/// `e`, and behind it the likely reason where frames came cut: it was told when the node started, long before.
fn with_cut(front: &Inspection, e: String) -> String {
    let Some(remedy) = CUT.get() else { return e };
    let cut = |lcore| {
        front
            .counts(lcore)
            .map_or(0, |c| c.more.iter().filter(|m| m.0 == "port_rx_cut").map(|m| m.1).sum::<u64>())
    };
    match (0..front.lcores()).map(cut).sum::<u64>() {
        0 => e,
        n => e + &cut_frames(n, remedy),
    }
}

/// The error of an operation, with the reason in place of "cannot be reached", and the NID that it fails by where that is not `nid`.
pub(crate) fn failed(front: &Inspection, nid: Nid, e: String) -> String {
    let unreachable = [LnetError::Unreachable, LnetError::Refused].iter().any(|u| e == u.to_string());
    let why = if unreachable { brief(front, nid).and_then(|b| b.why) } else { None };
    let e = why.map_or(e, |w| format!("the peer cannot be reached: {}", reason(w)));
    with_cut(front, with_other(front, nid, e))
}

/// A NID that messages to another one may go by.
#[derive(Clone, Copy, Debug)]
struct Other {
    nid: Nid,
    /// It is a gateway, and not another NID of the same node.
    gateway: bool,
    /// The last dial's failure, of one that is not connected.
    why: Option<DialWhy>,
    health: u16,
    up: bool,
}

impl Other {
    fn fails(&self) -> bool {
        self.why.is_some() || self.health < BEST || !self.up
    }

    /// Its name, its state, and what helps.
    fn text(&self) -> String {
        let Other { nid, gateway, why, health, up } = *self;
        let what = if gateway { "its gateway" } else { "its NID" };
        match why {
            Some(w) => format!("{what} {nid} cannot be reached: {}", reason(w)),
            None if gateway && !up => {
                format!("the route by {what} {nid} is down: `pollnd ping {nid}` asks it")
            }
            None if !up => format!("{what} {nid} is down, as its node says: is its link up there?"),
            None => format!(
                "{what} {nid} has lost messages (health {health} of {BEST}): `pollnd connections {}` shows where they wait",
                nid.ip().map_or_else(|| nid.to_string(), |ip| ip.to_string())
            ),
        }
    }
}

/// The NID, other than `target`, that messages to it fail by: the worst of its node's, or of the gateways to its network.
fn other_at_fault(front: &Inspection, target: Nid) -> Option<Other> {
    let mut known = Vec::new();
    // As above.
    let _ = front.peer_nis(|v| {
        known.push((v.nid, v.primary, v.health, v.up));
        true
    });
    let primary = known.iter().find(|v| v.0 == target).map_or(target, |v| v.1);
    let health = |nid| known.iter().find(|v| v.0 == nid).map_or(BEST, |v| v.2);
    let mut all: Vec<Other> = known
        .iter()
        .filter(|v| v.0 != target && v.1 == primary)
        .map(|v| Other { nid: v.0, gateway: false, why: None, health: v.2, up: v.3 })
        .collect();
    if let Ok((_, routes)) = front.routes(None) {
        let to = routes.iter().filter(|r| r.net == target.net());
        let of = |r: &RouteView| {
            let (nid, up) = (r.gateway, r.up);
            Other { nid, gateway: true, why: None, health: health(nid), up }
        };
        all.extend(to.map(of));
    }
    for other in &mut all {
        other.why = brief(front, other.nid).filter(|b| b.conns == 0).and_then(|b| b.why);
    }
    all.into_iter().filter(Other::fails).min_by_key(|o| (o.why.is_none(), o.up, o.health))
}

/// `e`, and behind it the other NID that it fails by.
fn with_other(front: &Inspection, nid: Nid, e: String) -> String {
    match other_at_fault(front, nid) {
        Some(o) => format!("{e}; {}", o.text()),
        None => e,
    }
}

/// The NID, other than `nid`, that messages to it have failed by, in words.
pub(crate) fn other(front: &Inspection, nid: Nid) -> Option<String> {
    other_at_fault(front, nid).map(|o| o.text())
}

/// The error of an operation as a kernel's number.
pub(crate) fn number(front: &Inspection, nid: Nid, e: LnetError) -> i32 {
    match e {
        LnetError::Refused => libc::ECONNREFUSED,
        LnetError::Unreachable => match brief(front, nid).and_then(|b| b.why) {
            Some(DialWhy::Tcp(DialError::Refused)) => libc::ECONNREFUSED,
            Some(DialWhy::Tcp(DialError::TimedOut)) => libc::ETIMEDOUT,
            _ => libc::EHOSTUNREACH,
        },
        _ => libc::EIO,
    }
}

/// Text about a peer that has not answered for so long.
pub(crate) fn silent(front: &Inspection, nid: Nid, patience: Duration) -> String {
    let waited = units::time(patience.as_secs_f64());
    let e = format!("no answer within {waited} (--timeout): {}", silence(front, nid));
    with_cut(front, with_other(front, nid, e))
}

/// Text about a peer that has not answered until the time of a transfer was over, so long after its start.
pub(crate) fn none_in_time(front: &Inspection, nid: Nid, after: Duration) -> String {
    let waited = units::time(after.as_secs_f64());
    let e = format!("no answer within {waited} (--seconds): {}", silence(front, nid));
    with_cut(front, with_other(front, nid, e))
}

/// The likely reason why a node does not answer that messages go to by routers.
const BEHIND: &str = "it is behind a router: no answer has come back by one";

/// Whether a route leads to the network of `nid`.
fn leads(front: &Inspection, nid: Nid) -> bool {
    front.routes(None).is_ok_and(|(_, all)| all.iter().any(|r| r.net == nid.net()))
}

/// The likely reason why a peer does not answer.
fn silence(front: &Inspection, nid: Nid) -> String {
    let resolving = || {
        let mut any = false;
        let filter = Filter { peer: nid.ip(), state: Some(Phase::Resolve), ..Filter::default() };
        let _ = front.connections(filter, |_| {
            any = true;
            false
        });
        any
    };
    match brief(front, nid) {
        Some(b) if b.conns > 0 => "it is connected, and its node has not answered".to_owned(),
        Some(PeerBrief { contact: Contact::Shaking, .. }) => {
            format!("connected, but silent: {}", reason(DialWhy::Silent))
        }
        Some(PeerBrief { contact: Contact::Connecting, .. }) if resolving() => {
            reason(DialWhy::Tcp(DialError::NoNeighbour)).to_owned()
        }
        Some(PeerBrief { contact: Contact::Connecting, .. }) => {
            reason(DialWhy::Tcp(DialError::TimedOut)).to_owned()
        }
        Some(PeerBrief { contact: Contact::Routed, .. }) => BEHIND.to_owned(),
        Some(PeerBrief { why: Some(w), .. }) => reason(w).to_owned(),
        // One that has never answered is forgotten as soon as nothing waits for it.
        _ if leads(front, nid) => BEHIND.to_owned(),
        _ => "nothing is known of it".to_owned(),
    }
}

/// Text about messages to a peer that end with `e`, and a transfer that goes on for so long.
pub(crate) fn goes_on(front: &Inspection, nid: Nid, patience: Duration, e: String) -> String {
    let most = units::time(patience.as_secs_f64());
    format!("messages end with an error: {}; others are tried for {most} (--timeout)", failed(front, nid, e))
}

/// Text about a transfer with a peer of which nothing has come through for so long; the latest message ended with `e`.
pub(crate) fn stuck(front: &Inspection, nid: Nid, patience: Duration, e: String) -> String {
    let waited = units::time(patience.as_secs_f64());
    format!("nothing has come through for {waited} (--timeout): {}", failed(front, nid, e))
}

/// One text for each reason.
fn reason(w: DialWhy) -> &'static str {
    match w {
        DialWhy::Tcp(DialError::Refused) => {
            "its host refuses connections (TCP RST): is a node listening on its port 988 (or the one of --accept-port)?"
        }
        DialWhy::Tcp(DialError::TimedOut) => {
            "nobody answers the connection request: its host is down, or a firewall drops what comes to the port"
        }
        DialWhy::Tcp(DialError::NoNeighbour) => {
            "no host answers for its address (ARP, neighbour discovery): is it up, and on this network?"
        }
        DialWhy::Tcp(DialError::NoRoute) => {
            "no route leads there: `ip route get ADDRESS` shows the kernel's; a node on a DPDK port takes --prefix and --gateway"
        }
        DialWhy::Tcp(DialError::Unreachable) => "a router or its host says that there is no way (ICMP)",
        DialWhy::Tcp(DialError::NoPort) => {
            "all local ports that may be dialled from are in use: `pollnd connections` shows them"
        }
        DialWhy::Tcp(DialError::Local) => "the connection could not be made from here: -v tells more",
        DialWhy::Silent => {
            "it has taken the TCP connection and says nothing: something else listens on that port, or its node hangs"
        }
        DialWhy::Closed => {
            "it has taken the TCP connection and closed it without a HELLO: it has another NID than that, or takes nobody from \
             this port (its tunable accept)"
        }
        DialWhy::Refused => {
            "its acceptor has refused the request: it speaks another version, or has no such NID"
        }
        DialWhy::None => {
            "it has refused with HELLO NONE: it dials this node itself at this moment, or has as many connections as it wants"
        }
        DialWhy::Version => {
            "it has refused the HELLO's version, and there is no other that both speak (the tunable protocol)"
        }
        DialWhy::Malformed => {
            "it answers with something that is no HELLO, or with that of another NID: what listens there is another node, or none"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field report 19.
    #[test]
    fn cut_frames_are_told_with_what_mends_them() {
        assert_eq!(
            cut_frames(1, "ethtool -K vb tso off"),
            "; 1 frame came cut and were dropped (counter port_rx_cut), as the kernel below joins them: ethtool -K vb tso off"
        );
    }

    /// Of several the one that is not reached stands first, then one that is down, then the least healthy one.
    #[test]
    fn another_nid_is_named_with_what_is_wrong_and_what_helps() {
        let nid: Nid = "10.0.1.2@tcp1".parse().unwrap();
        let good = Other { nid, gateway: false, why: None, health: BEST, up: true };
        assert!(!good.fails());
        for (other, want) in [
            (
                Other { why: Some(DialWhy::Silent), ..good },
                "its NID 10.0.1.2@tcp1 cannot be reached: it has taken the TCP connection and says nothing",
            ),
            (
                Other { up: false, ..good },
                "its NID 10.0.1.2@tcp1 is down, as its node says: is its link up there?",
            ),
            (
                Other { health: 800, ..good },
                "its NID 10.0.1.2@tcp1 has lost messages (health 800 of 1000): `pollnd connections 10.0.1.2` shows",
            ),
            (
                Other { gateway: true, up: false, ..good },
                "the route by its gateway 10.0.1.2@tcp1 is down: `pollnd ping 10.0.1.2@tcp1` asks it",
            ),
        ] {
            assert!(other.fails() && other.text().starts_with(want), "{}", other.text());
        }
    }

    /// Field report 17.
    #[test]
    fn each_reason_has_a_text_of_its_own() {
        use {DialError as D, DialWhy as W};
        let all = [
            W::Tcp(D::Refused),
            W::Tcp(D::TimedOut),
            W::Tcp(D::NoNeighbour),
            W::Tcp(D::NoRoute),
            W::Tcp(D::Unreachable),
            W::Tcp(D::NoPort),
            W::Tcp(D::Local),
            W::Silent,
            W::Closed,
            W::Refused,
            W::None,
            W::Version,
            W::Malformed,
        ];
        let texts: std::collections::BTreeSet<_> = all.into_iter().map(reason).collect();
        assert_eq!(texts.len(), all.len());
    }
}
