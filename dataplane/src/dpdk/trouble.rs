//! Troubles of a port's queues, on their way to whoever can tell the user: counted on lcores, told by the control thread.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use super::eal::strerror;

/// Counts since they were last told. Touched where something has gone wrong only.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    refused: AtomicU64,
    dropped: AtomicU64,
    /// Of the latest packet that `rte_eth_tx_prepare` refused; 0 where the driver refused in the burst.
    errno: AtomicI32,
    cut: AtomicU64,
}

impl Trouble {
    /// The driver refused a packet.
    pub(crate) fn refused(&self, errno: i32, dropped: bool) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.dropped.fetch_add(u64::from(dropped), Ordering::Relaxed);
        self.errno.store(errno, Ordering::Relaxed);
    }

    /// A received frame had lost its end.
    pub(crate) fn cut(&self) {
        self.cut.fetch_add(1, Ordering::Relaxed);
    }

    /// The troubles since the last call; counting begins anew.
    pub(crate) fn tell(&self, port: &str, driver: &str) -> Vec<String> {
        let take = |n: &AtomicU64| n.swap(0, Ordering::Relaxed);
        let mut all = Vec::new();
        let (refused, dropped, cut) = (take(&self.refused), take(&self.dropped), take(&self.cut));
        if refused > 0 {
            let why = match self.errno.swap(0, Ordering::Relaxed) {
                0 => "its ring took nothing for half a second".to_owned(),
                e => strerror(e),
            };
            all.push(format!(
                "port {port}: driver {driver} refused {} as they were ({why}): they were sent another way, by \
                 copying, and {dropped} dropped; lower the MTU, use another driver, or see why the other end takes nothing (counters port_tx_refused, port_tx_dropped)",
                many(refused, "packet")
            ));
        }
        if cut > 0 {
            all.push(format!(
                "port {port}: {} came without an end and had to be dropped (counter port_rx_cut): the kernel below had joined \
                 several to one that {driver} has no room for; {}",
                many(cut, "frame"),
                cut_remedy(port)
            ));
        }
        all
    }
}

fn many(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Remedy for a kernel that joins frames before an AF_PACKET port sees them.
pub(crate) fn cut_remedy(port: &str) -> String {
    format!(
        "on the interface of {port}: ethtool -K IFACE gro off lro off; if it is a veth, where its other end is: ethtool -K PEER tso off"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_5_and_19_troubles_are_told_once_with_port_driver_counter_and_remedy() {
        let t = Trouble::default();
        assert!(t.tell("p", "d").is_empty());
        t.refused(libc::EINVAL, false);
        t.refused(libc::EINVAL, true);
        t.cut();
        let all = t.tell("p0", "net_x");
        assert_eq!(all.len(), 2, "{all:?}");
        for want in ["port p0", "net_x", "2 packets", "1 dropped", "Invalid argument", "port_tx_refused"] {
            assert!(all[0].contains(want), "{want}: {}", all[0]);
        }
        for want in ["p0", "1 frame came", "port_rx_cut", "gro off", "tso off"] {
            assert!(all[1].contains(want), "{want}: {}", all[1]);
        }
        assert!(t.tell("p0", "net_x").is_empty());
        t.refused(0, true);
        assert!(t.tell("p0", "net_x")[0].contains("its ring took nothing for half a second"));
    }
}
