//! `pollnd ping`: what `lctl ping` shows, with the time it took.

use std::time::{Duration, Instant};

use transport::node::rings;
use transport::proto::{AppId, Event, Op};
use transport::wire::{PingInfo, ProcessId};

use crate::args::PingArgs;
use crate::assemble::{self, Role};
use crate::settings;

/// How long one ping may take: the machine's own limit comes first.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn main(a: PingArgs) -> Result<(), String> {
    settings::target(&a.node, a.target)?;
    let (handle, app) = rings(AppId::FIRST, 64);
    let node = assemble::start(&a.node, Role::Dialler, Box::new(move |_| Ok(Box::new(app) as _)))?;
    let mut outcome = Ok(());
    for n in 0..a.count {
        if n > 0 {
            std::thread::sleep(Duration::from_secs(1));
        }
        let op = Op::Ping { tag: n, target: ProcessId::lustre(a.target) };
        handle.submit(op).map_err(|e| e.to_string())?;
        let end = Instant::now() + LIMIT;
        let answer = loop {
            match handle.event() {
                Some(Event::Ping { tag, info, rtt_ns }) if tag == n => {
                    break info.map(|i| (i, rtt_ns)).map_err(|e| e.to_string());
                }
                Some(Event::Refused { why, .. }) => break Err(why.to_string()),
                _ if Instant::now() > end => break Err(format!("no answer within {} s", LIMIT.as_secs())),
                _ if node.stopped() => break Err("interrupted".into()),
                _ => std::thread::sleep(Duration::from_micros(50)),
            }
        };
        match answer {
            Ok((info, rtt_ns)) => print(&info, rtt_ns),
            Err(e) => {
                outcome = Err(format!("ping {}: {e}", a.target));
                break;
            }
        }
    }
    node.stop_after(outcome).map(drop)
}

fn print(info: &PingInfo, rtt_ns: u64) {
    println!("{}-0@lo", info.pid);
    for ni in info.nis.iter().chain(&info.large) {
        println!("{}-{}", info.pid, ni.nid);
    }
    println!("time {:.1} us, features {:#x}", rtt_ns as f64 / 1000.0, info.features);
}
