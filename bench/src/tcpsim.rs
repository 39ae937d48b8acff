//! Goodput of the TCP stack over a simulated network in virtual time: no clock, no machine and no neighbour takes
//! part, so a figure is a property of the code and repeats exactly.

use serde::Serialize;
use tcpstack::cc::Congestion;
use tcpstack::testing::{Outcome, Scenario, run};

use crate::repeat::median;

/// The simulation: one bulk connection between two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SimConfig {
    /// Line rate of both ports, in Gbit/s.
    pub rate_gbps: f64,
    /// Round trip of an empty network, in microseconds.
    pub rtt_us: f64,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// The receiver's window, and half of what the sender may have out, in bytes.
    pub window: u32,
    /// Frames lost, both ways (0 to 1).
    pub loss: f64,
    /// Data frames that arrive out of order, up to one round trip late (0 to 1).
    pub reorder: f64,
    /// Queue of a bottleneck at the line's rate behind a NIC that is four times as fast, in bytes; without one the
    /// sender's own NIC is the narrowest place, which loses nothing.
    pub queue: Option<u64>,
    /// The sender hands super-segments to its port.
    pub tso: bool,
    /// Reno instead of CUBIC.
    pub reno: bool,
    /// Virtual time of each run, in seconds; its first tenth is not measured.
    pub seconds: f64,
}

impl Default for SimConfig {
    fn default() -> SimConfig {
        SimConfig {
            rate_gbps: 25.0,
            rtt_us: 40.0,
            mtu: 9000,
            window: 1 << 20,
            loss: 0.0,
            reorder: 0.0,
            queue: None,
            tso: false,
            reno: false,
            seconds: 0.5,
        }
    }
}

impl SimConfig {
    /// The rows of the documentation: random loss of 0, 0.1, 1 and 5 %, reordering of 2 %.
    pub fn rows(self) -> Vec<SimConfig> {
        let loss = |loss| SimConfig { loss, reorder: 0.0, ..self };
        vec![loss(0.0), loss(0.001), loss(0.01), loss(0.05), SimConfig { loss: 0.0, reorder: 0.02, ..self }]
    }

    /// As the simulator wants it.
    pub fn scenario(&self, seed: u64) -> Scenario {
        let rate = (self.rate_gbps * 1e9) as u64;
        let rtt = (self.rtt_us * 1e3) as u64;
        let end = (self.seconds * 1e9) as u64;
        let mut s = Scenario::new(seed)
            .with_link(rate, rtt, self.mtu)
            .with_loss(self.loss)
            .each_stack(|c| (c.rx_window, c.tx_window) = (self.window, self.window.saturating_mul(2)))
            // A SYN that is lost would cost a second, more than the run has.
            .each_stack(|c| c.rto.initial = c.rto.min)
            .each_stack(|c| c.backlog = c.backlog.max(u64::from(2 * self.window)))
            .bulk_for(end / 10, end);
        let data = &mut s.link.paths[1];
        (data.faults.reorder, data.faults.reorder_ns) = (self.reorder, rtt);
        if let Some(queue) = self.queue {
            (data.rate, data.queue) = (rate, queue);
            s.link.line = 4 * rate;
        }
        if self.reno {
            s = s.each_stack(|c| c.congestion = Congestion::Reno);
        }
        if self.tso {
            s.link.mem.tso_max = 65_535;
        }
        // Receive memory is no limit here: twice the window.
        let need = 2 * self.window as usize / usize::from(self.mtu);
        s.link.mem.rx_bufs = s.link.mem.rx_bufs.max(2 * need);
        s
    }
}

/// One configuration over several seeds.
#[derive(Clone, Debug, Serialize)]
pub struct SimRow {
    /// The simulation.
    pub config: SimConfig,
    /// Seeds, from the first one on.
    pub seeds: Vec<u64>,
    /// Payload received in order, Gbit/s of virtual time: median, lowest, highest.
    pub goodput_gbps: [f64; 3],
    /// Of the run with the median goodput (the lower one of two): frames with payload.
    pub segments: u64,
    /// Frames that carried bytes sent before.
    pub resent: u64,
    /// Such frames of which every byte had arrived before, or was on its way to.
    pub needless: u64,
    /// `needless` over `segments`.
    pub needless_part: f64,
    /// Retransmission time-outs.
    pub rto: u64,
    /// Tail loss probes.
    pub tlp: u64,
    /// Reductions of the window undone since nothing had been lost.
    pub undone: u64,
}

/// All rows.
#[derive(Clone, Debug, Serialize)]
pub struct SimReport {
    /// In order.
    pub rows: Vec<SimRow>,
}

fn row(config: SimConfig, seeds: &[u64]) -> Result<SimRow, String> {
    let mut runs: Vec<Outcome> =
        seeds.iter().map(|s| run(&config.scenario(*s))).collect::<Result<_, String>>()?;
    runs.sort_by(|a, b| a.goodput[1].total_cmp(&b.goodput[1]));
    let all: Vec<f64> = runs.iter().map(|o| o.goodput[1] * 1e-9).collect();
    let mid = runs.get((runs.len().max(1) - 1) / 2).ok_or("no seed")?;
    let r = mid.resends[0];
    Ok(SimRow {
        config,
        seeds: seeds.to_vec(),
        goodput_gbps: [median(&all), all[0], all[all.len() - 1]],
        segments: r.segments,
        resent: r.resent,
        needless: r.needless,
        needless_part: mid.needless(0),
        rto: mid.count(0, "rto"),
        tlp: mid.count(0, "tlp_probes"),
        undone: mid.count(0, "undone"),
    })
}

/// Simulates every row with `count` seeds from `first` on; `each` hears of every finished row.
///
/// # Errors
/// A run failed; the text names its seed.
pub fn simulate(
    rows: &[SimConfig],
    first: u64,
    count: u64,
    each: &mut dyn FnMut(&SimRow),
) -> Result<SimReport, String> {
    let seeds: Vec<u64> = (first..first.saturating_add(count.max(1))).collect();
    let mut report = SimReport { rows: Vec::new() };
    for c in rows {
        let r = row(*c, &seeds)?;
        each(&r);
        report.rows.push(r);
    }
    Ok(report)
}

impl SimReport {
    /// The table.
    pub fn table(&self) -> String {
        let mut t = String::from(
            "\n  Gbit/s   RTT us    MTU  window KiB  loss %  reorder %    goodput (low - high) Gbit/s      \
             frames   resent  needless        %   RTOs   TLPs  undone\n",
        );
        for r in &self.rows {
            let c = &r.config;
            let [mid, low, high] = r.goodput_gbps;
            t += &format!(
                "  {:>6} {:>8} {:>6} {:>11} {:>7} {:>10} {mid:>10.2} ({low:>6.2} - {high:>6.2}) {:>14} {:>8} {:>9} {:>8.3} {:>6} {:>6} {:>7}\n",
                c.rate_gbps,
                c.rtt_us,
                c.mtu,
                c.window / 1024,
                c.loss * 100.0,
                c.reorder * 100.0,
                r.segments,
                r.resent,
                r.needless,
                r.needless_part * 100.0,
                r.rto,
                r.tlp,
                r.undone,
            );
        }
        t
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_repeats_exactly_and_shows_the_loss() {
        let quick = SimConfig { seconds: 0.01, ..SimConfig::default() };
        let run = || {
            let mut heard = 0;
            let r = simulate(&quick.rows()[..3], 1, 2, &mut |_| heard += 1).unwrap();
            assert_eq!(heard, 3);
            r
        };
        let (a, b) = (run(), run());
        assert_eq!(serde_json::to_string(&a).unwrap(), serde_json::to_string(&b).unwrap());
        let g: Vec<f64> = a.rows.iter().map(|r| r.goodput_gbps[0]).collect();
        assert!(g[0] > 24.0 && g[0] < 25.0 && g[0] > g[2], "{g:?}");
        assert!(a.rows[0].resent == 0 && a.rows[2].resent > 0);
        assert!(a.table().contains(" 9000 "));
    }
}
