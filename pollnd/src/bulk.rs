//! `pollnd put` and `pollnd get`: so many messages, every byte checked at the receiving end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bench::ctl::{Ctl, Phase};
use bench::measure::cpu_time;
use bench::workload::{Client, ClientConfig};

use crate::args::BulkArgs;
use crate::assemble::{self, Role};
use crate::settings;

/// Which way the payload goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From here to the target, which checks it.
    Put,
    /// From the target to here.
    Get,
}

/// Without a completion for so long, the command gives up. The machine's own time-outs come first.
const STUCK: Duration = Duration::from_secs(200);

pub(crate) fn main(a: BulkArgs, way: Way) -> Result<(), String> {
    settings::target(&a.node, a.target)?;
    let flight = settings::peer_credits(&a.node)?;
    let ctl = Arc::new(Ctl::default());
    let cfg = ClientConfig {
        bulk_len: a.size as usize,
        bulk_flight: flight.into(),
        limit: a.count,
        ..ClientConfig::default()
    };
    let (c, target) = (ctl.clone(), a.target);
    let make = Box::new(move |backing: &_| {
        Client::new(cfg, c, target, backing).map(|c| Box::new(c) as _).map_err(|e| e.to_string())
    });
    let node = assemble::start(&a.node, Role::Dialler, make)?;
    let (t0, c0) = (Instant::now(), cpu_time());
    ctl.set_phase(if way == Way::Put { Phase::BulkChecked } else { Phase::Get });
    let (mut last, mut since) = (0, Instant::now());
    let result = loop {
        // First: what is outstanding fails when the node goes down, and that is no error of its own.
        if node.stopped() {
            break Err("interrupted".into());
        }
        if ctl.failed.load(Ordering::Relaxed) > 0 {
            break Err(ctl.first_error().unwrap_or_else(|| "an operation failed".into()));
        }
        let n = ctl.completed.load(Ordering::Relaxed);
        if n >= a.count {
            break Ok(());
        }
        if n != last {
            (last, since) = (n, Instant::now());
        }
        if since.elapsed() > STUCK {
            break Err(format!("nothing has completed for {} s", STUCK.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let (wall, cpu) = (t0.elapsed().as_secs_f64(), (cpu_time() - c0).as_secs_f64());
    let what = if way == Way::Put { "PUT to" } else { "GET from" };
    let ends = node.stop_after(result.map_err(|e| {
        let done = ctl.completed.load(Ordering::Relaxed);
        format!("{what} {}: {e}; {done} of {} messages had completed", a.target, a.count)
    }))?;
    let done = ctl.completed.load(Ordering::Relaxed);
    if let Some(e) = ctl.first_error().filter(|_| done != a.count) {
        // The last operation has failed between two looks.
        return Err(format!("{what} {}: {e}; {done} of {} messages had completed", a.target, a.count));
    }
    let bad = ctl.crc_bad.load(Ordering::Relaxed);
    let bytes = done * u64::from(a.size);
    let copied_tx: u64 = ends.iter().map(|e| e.rt.tx_copied_bytes).sum();
    let copied_rx: u64 = ends.iter().map(|e| e.proto.rx_copied_bytes).sum();
    let retransmits: u64 = ends.iter().map(|e| e.rt.retransmits).sum();
    if a.json {
        println!(
            "{}",
            serde_json::json!({
                "messages": done, "bytes": bytes, "wall_s": wall, "cpu_s": cpu, "crc_bad": bad,
                "tx_copied_bytes": copied_tx, "rx_copied_bytes": copied_rx, "retransmits": retransmits,
                "clean": ends.iter().all(|e| e.clean),
            })
        );
    } else {
        println!(
            "{done} messages of {} bytes in {wall:.2} s: {:.2} Gbit/s; {cpu:.2} CPU-seconds here; copied by pollnd: {copied_tx} B \
             sent, {copied_rx} B received; {retransmits} TCP retransmissions",
            a.size,
            bytes as f64 * 8e-9 / wall.max(1e-9)
        );
    }
    if way == Way::Get && bad > 0 {
        return Err(format!("{bad} of {done} answers had wrong bytes"));
    }
    if done != a.count {
        return Err(format!("{done} of {} messages completed", a.count));
    }
    Ok(())
}
