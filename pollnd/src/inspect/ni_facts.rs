//! Facts about an NI of a node or of a peer, as lnetctl shows them: its interface, settings, messages.

use transport::lnd::tunables::Tunable;
use transport::lnd::{ByType, Config, Moved};
use transport::lnet::figures::{Dropped, Span, Spans};
use transport::lnet::{Cause, Causes};
use transport::wire::Nid;

use crate::args::NodeArgs;
use crate::config::keys::{self, Means, Part, negated};
use crate::lnetctl::shown::{Messages, Statistics, UdspInfo};
use crate::{iface, networks};

/// The interface of an NI: the kernel's with its address, or its port.
pub(super) fn interface(a: &NodeArgs, nid: Nid) -> Option<String> {
    if networks::on_port(a) {
        let ports = networks::ports(a).ok()?;
        return ports.iter().find(|p| p.nids.contains(&nid)).map(|p| device_name(p.device));
    }
    let ip = nid.ip()?;
    // Every address of that network is the loopback's.
    iface::owner(ip).map(|(name, _)| name).or_else(|| ip.is_loopback().then(|| "lo".into()))
}

/// The name that DPDK gives a port: a virtual device's without its arguments.
fn device_name(device: &str) -> String {
    device.split(',').next().unwrap_or(device).to_owned()
}

/// The tunable that a setting of `part` is, by lnetctl's name, if it is one.
pub(super) fn tuned(part: Part, name: &str) -> Option<&'static Tunable> {
    keys::of(part).find(|k| k.name == name).and_then(|k| match k.means {
        Means::Tunable(t) => Some(t),
        _ => None,
    })
}

/// Whole seconds of so many ns.
pub(super) fn seconds(ns: u64) -> i64 {
    i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX)
}

/// The value of a setting of `part`, by lnetctl's name; 0 for one that has no number.
pub(super) fn tunable(cfg: &Config, part: Part, name: &str) -> i64 {
    let number = |n: Option<i64>| n.unwrap_or(0);
    match keys::of(part).find(|k| k.name == name).map(|k| (k, k.means)) {
        Some((_, Means::Tunable(t))) => number(t.number(cfg)),
        Some((_, Means::Not(t))) => number(negated(&t.value(cfg)).parse().ok()),
        Some((k, Means::Only(..))) => number(k.default().parse().ok()),
        _ => 0,
    }
}

/// No policy says anything.
pub(super) const NO_UDSP: UdspInfo = UdspInfo { net_priority: -1, nid_priority: -1 };

impl From<ByType> for Messages {
    fn from(b: ByType) -> Messages {
        Messages { put: b.put, get: b.get, reply: b.reply, ack: b.ack, hello: 0 }
    }
}

/// Messages and times, as lnetctl has them.
pub(super) fn statistics(moved: &Moved, dropped: &Dropped, spans: &Spans) -> Statistics {
    let times = |s: &Span| (s.samples, s.min_ns, s.max_ns, s.mean_ns());
    let (left, got, acked) = (times(&spans.put_egress), times(&spans.get_rtt), times(&spans.put_ack));
    Statistics {
        send_count: moved.sent.all(),
        recv_count: moved.received.all(),
        drop_count: dropped.messages.all(),
        put_egress_samples: left.0,
        put_egress_min_nsec: left.1,
        put_egress_max_nsec: left.2,
        put_egress_avg_nsec: left.3,
        get_rtt_samples: got.0,
        get_rtt_min_nsec: got.1,
        get_rtt_max_nsec: got.2,
        get_rtt_avg_nsec: got.3,
        put_ack_samples: acked.0,
        put_ack_min_nsec: acked.1,
        put_ack_max_nsec: acked.2,
        put_ack_avg_nsec: acked.3,
    }
}

/// Failures by that cause.
pub(super) fn caused(causes: &Causes, cause: Cause) -> u64 {
    causes.get(cause as usize).copied().unwrap_or(0)
}
