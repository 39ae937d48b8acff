//! Reports of a run: one table for people, one JSON object for programs.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use serde::Serialize;
use transport::node::NodeEnd;

use crate::ctl::Ctl;
use crate::measure::{Rtt, Stretch};
use crate::pair::NothingLost;

/// Bulk PUTs on one arrangement of threads.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Bulk {
    /// Payload that arrived, Gbit/s.
    pub goodput_gbps: f64,
    /// CPU time of both ends, spinning counted, in seconds.
    pub cpu_s: f64,
    /// Goodput for a second of CPU time, in Gbit.
    pub gbit_per_cpu_s: f64,
    /// The same, divided by the kernel-socket runtime's in this run; absent where nothing was compared.
    pub ratio_to_kernel_sockets: Option<f64>,
    /// Rate of the bare link, on the same threads in this run, in Gbit/s; absent where it was not
    /// measured.
    pub bare_link_gbps: Option<f64>,
    /// Goodput as a share of that.
    pub share_of_bare_link: Option<f64>,
    /// The same of frames that have as many pages as the PUTs in flight and are held until a message of 1 MiB is whole:
    /// its memory, and nothing above it.
    pub bare_messages_gbps: Option<f64>,
    /// Goodput as a share of that.
    pub share_of_bare_messages: Option<f64>,
    /// Payload bytes that pollnd copied on sending.
    pub tx_copied_bytes: u64,
    /// Payload bytes that pollnd copied on receiving.
    pub rx_copied_bytes: u64,
    /// Messages that arrived.
    pub messages: u64,
}

/// Rates of the bare link, in Gbit/s.
#[derive(Clone, Copy, Debug)]
pub struct Carries {
    /// Of payload that stays in the caches.
    pub cached: f64,
    /// Of as many pages, and messages held as long, as the nodes have.
    pub messages: f64,
}

impl Bulk {
    /// Of a stretch; copies are those of all bulk messages of the run.
    pub fn of(s: &Stretch, ctl: &Ctl, ends: &[NodeEnd]) -> Bulk {
        Bulk {
            goodput_gbps: s.gbps(),
            cpu_s: s.cpu_s,
            gbit_per_cpu_s: s.gbit_per_cpu_s(),
            ratio_to_kernel_sockets: None,
            bare_link_gbps: None,
            share_of_bare_link: None,
            bare_messages_gbps: None,
            share_of_bare_messages: None,
            tx_copied_bytes: ends.iter().map(|e| e.streams.tx_copied_bytes).sum(),
            rx_copied_bytes: ctl.bulk_copied.load(Ordering::Relaxed),
            messages: s.messages,
        }
    }

    /// With its shares of what the bare link carries.
    #[must_use]
    pub fn over(self, bare: Option<Carries>) -> Bulk {
        let share = |b: f64| (b > 0.0).then(|| self.goodput_gbps / b);
        Bulk {
            bare_link_gbps: bare.map(|b| b.cached),
            share_of_bare_link: bare.and_then(|b| share(b.cached)),
            bare_messages_gbps: bare.map(|b| b.messages),
            share_of_bare_messages: bare.and_then(|b| share(b.messages)),
            ..self
        }
    }

    /// With the ratio to a baseline.
    #[must_use]
    pub fn against(self, base: &Bulk) -> Bulk {
        let r = (base.gbit_per_cpu_s > 0.0).then(|| self.gbit_per_cpu_s / base.gbit_per_cpu_s);
        Bulk { ratio_to_kernel_sockets: r, ..self }
    }
}

/// Round trips of small PUTs with ACK.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Trips {
    /// Percentiles.
    #[serde(flatten)]
    pub rtt: Rtt,
    /// Messages a second, one in flight.
    pub messages_per_s: f64,
    /// Median divided by that of kernel sockets that spin, in this run.
    pub ratio_to_kernel_sockets: Option<f64>,
    /// Median divided by that of kernel sockets that block.
    pub ratio_to_blocking_sockets: Option<f64>,
}

/// A whole demonstration.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Bulk over the virtio link: two lcores where there are two cores, else one.
    pub bulk: Option<Bulk>,
    /// Bulk with both nodes on one lcore.
    pub bulk_one_lcore: Option<Bulk>,
    /// Round trips over the virtio link.
    pub rtt: Option<Trips>,
    /// LNet pings over the virtio link.
    pub ping: Option<Rtt>,
    /// The baseline: kernel sockets over loopback.
    pub kernel_sockets: Baseline,
    /// Nothing was lost, on any runtime.
    pub nothing_lost: bool,
    /// Its parts.
    pub nothing_lost_detail: NothingLost,
    /// Zero copy, counted.
    pub counts: Counts,
    /// The machine.
    pub ran_on: RanOn,
}

/// Kernel sockets in the same run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Baseline {
    /// Bulk.
    pub bulk: Bulk,
    /// Round trips, both ends spinning.
    pub rtt_spin: Trips,
    /// Round trips, both ends sleeping in the kernel.
    pub rtt_block: Trips,
}

/// Counts over the virtio link.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Counts {
    /// Payload bytes sent by reference.
    pub tx_attached_bytes: u64,
    /// Payload bytes below the attach threshold, copied with their headers.
    pub tx_inline_bytes: u64,
    /// Payload bytes handed to the application in the buffers they arrived in.
    pub rx_lent_bytes: u64,
    /// Payload bytes copied since the lend budget was spent.
    pub rx_copied_bytes: u64,
    /// Packets that had to be joined into one buffer.
    pub linearised: u64,
    /// Frames sent to make a driver let go.
    pub nudges: u64,
    /// TCP segments that stacks of ours sent again.
    pub retransmits: u64,
    /// Zero-copy ACKs asked for, and received.
    pub zc_requested: u64,
    /// Zero-copy ACKs received.
    pub zc_acked: u64,
}

impl Counts {
    /// Adds what two nodes came to.
    pub fn add(&mut self, ends: &[NodeEnd]) {
        for e in ends {
            self.tx_attached_bytes += e.streams.tx_attached_bytes;
            self.tx_inline_bytes += e.streams.tx_short_bytes;
            self.rx_lent_bytes += e.proto.rx_lent_bytes;
            self.rx_copied_bytes += e.proto.rx_copied_bytes;
            self.linearised += e.streams.linearised;
            self.nudges += e.streams.nudges;
            self.retransmits += e.streams.retransmits.unwrap_or(0);
            self.zc_requested += e.proto.zc_requested;
            self.zc_acked += e.proto.zc_acked;
        }
    }
}

/// The machine and the arrangement.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RanOn {
    /// CPU model.
    pub cpu: String,
    /// Cores that the process may use.
    pub cores: usize,
    /// Lcores that the link's nodes ran on.
    pub lcores: usize,
    /// Kernel release.
    pub kernel: String,
    /// DPDK release, or what is missing.
    pub dpdk: String,
    /// Huge pages, or that it ran without.
    pub memory: String,
    /// The link.
    pub link: String,
}

impl RanOn {
    /// The last line of a table: whether all arrived, `what` more there is to say, the load before and after, and where.
    pub fn foot(&self, nothing_lost: bool, what: &str, [before, after]: [f64; 2]) -> String {
        let lost = if nothing_lost { "nothing lost" } else { "SOMETHING WAS LOST" };
        let RanOn { cpu, cores, dpdk, memory, .. } = self;
        format!(
            "  {lost}; {what}; load {before:.1} before, {after:.1} after; {cpu} ({cores} cores), {dpdk}, {memory}\n"
        )
    }

    /// The machine as the system tells it.
    pub fn look() -> RanOn {
        let read = |p: &str| std::fs::read_to_string(p).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let model = cpu
            .lines()
            .find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|x| x.1.trim().to_owned()));
        RanOn {
            cpu: model.unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            ..RanOn::default()
        }
    }
}

fn ratio(r: Option<f64>) -> String {
    r.map_or_else(|| "-".into(), |r| format!("{r:.2} x"))
}

impl Report {
    /// The table.
    pub fn table(&self) -> String {
        let mut s = String::new();
        let k = &self.kernel_sockets;
        let w = &mut s;
        let _ = writeln!(
            w,
            "\n  1 MiB PUTs                 goodput      CPU    Gbit per   against    copied by pollnd"
        );
        let _ = writeln!(
            w,
            "                              Gbit/s        s   CPU-second   sockets    sent / received"
        );
        let mut row = |name: &str, b: &Bulk| {
            let _ = writeln!(
                w,
                "  {name:<24} {:>9.1} {:>8.2} {:>12.1} {:>9}    {} B / {} B",
                b.goodput_gbps,
                b.cpu_s,
                b.gbit_per_cpu_s,
                ratio(b.ratio_to_kernel_sockets),
                b.tx_copied_bytes,
                b.rx_copied_bytes
            );
        };
        if let Some(b) = &self.bulk_one_lcore {
            row("virtio link, 1 lcore", b);
        }
        if let Some(b) = self.bulk.as_ref().filter(|_| self.ran_on.lcores > 1) {
            row("virtio link, 2 lcores", b);
        }
        row("kernel sockets", &k.bulk);
        let one = self.bulk_one_lcore.as_ref().map(|b| (1, b));
        let two = self.bulk.as_ref().filter(|_| self.ran_on.lcores > 1).map(|b| (2, b));
        for (lcores, b) in one.into_iter().chain(two) {
            if let (Some(bare), Some(share)) = (b.bare_link_gbps, b.share_of_bare_link) {
                let on = many(lcores, "lcore");
                let _ = writeln!(
                    w,
                    "  the bare link carries {bare:.1} Gbit/s on {on}: {:.0} % of it",
                    share * 100.0
                );
                if let (Some(bare), Some(share)) = (b.bare_messages_gbps, b.share_of_bare_messages) {
                    let _ = writeln!(
                        w,
                        "    {bare:.1} Gbit/s of pages and messages like these: {:.0} % of it",
                        share * 100.0
                    );
                }
            }
        }
        let _ = writeln!(
            w,
            "\n  64 B PUT + ACK                p50 us    p99 us  p99.9 us   messages/s   p50 against"
        );
        let mut row = |name: &str, t: &Trips, against: String| {
            let r = &t.rtt;
            let _ = writeln!(
                w,
                "  {name:<26} {:>9.2} {:>9.2} {:>9.2} {:>12.0}   {against}",
                r.p50_us, r.p99_us, r.p999_us, t.messages_per_s
            );
        };
        if let Some(t) = &self.rtt {
            let (a, b) = (ratio(t.ratio_to_kernel_sockets), ratio(t.ratio_to_blocking_sockets));
            row("virtio link", t, format!("{a} spinning, {b} blocking sockets"));
        }
        row("kernel sockets, spinning", &k.rtt_spin, "-".into());
        row("kernel sockets, blocking", &k.rtt_block, "-".into());
        if let Some(p) = &self.ping {
            let _ = writeln!(w, "  LNet ping over the link: p50 {:.2} us", p.p50_us);
        }
        let c = &self.counts;
        let _ = writeln!(
            w,
            "\n  zero copy: {} B sent by reference, {} B lent to the application, {} zero-copy ACKs of {} asked;\n  \
             {} B copied on receive (small PUTs, and what found the lend budget spent), {} linearised, {} nudges, {} TCP retransmissions",
            c.tx_attached_bytes,
            c.rx_lent_bytes,
            c.zc_acked,
            c.zc_requested,
            c.rx_copied_bytes,
            c.linearised,
            c.nudges,
            c.retransmits
        );
        let n = &self.nothing_lost_detail;
        let verdict = if n.ok { "nothing lost" } else { "SOMETHING WAS LOST" };
        let _ = writeln!(
            w,
            "  {verdict}: {} messages started, {} completed once ({} twice, {} failed); {} CRCs equal, {} not; cookies pending {}, \
             lendings out {},\n  lent fragments out {}, receive pool bytes out {}, mbufs not home {}",
            n.started,
            n.completed,
            n.completed_twice,
            n.failed,
            n.crc_checked - n.crc_bad,
            n.crc_bad,
            n.cookies_pending,
            n.lendings_out,
            n.rx_lent_out,
            n.rx_pool_bytes_in_use,
            n.buffers_left
        );
        let r = &self.ran_on;
        let _ = writeln!(
            w,
            "  on {} ({} cores), Linux {}, {}, {}, {}",
            r.cpu, r.cores, r.kernel, r.dpdk, r.memory, r.link
        );
        s
    }
}

/// So many of something: "1 message", "2 messages".
pub fn many(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
