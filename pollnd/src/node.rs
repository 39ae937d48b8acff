//! `pollnd node`: answers pings, takes bulk PUTs in and checks them, serves bulk GETs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bench::ctl::Ctl;
use bench::workload::{Intake, Server};
use transport::node::{
    Order,
    run::{DRAIN, in_words},
};

use crate::args::ServeArgs;
use crate::assemble::{self, Role};

pub(crate) fn main(a: ServeArgs) -> Result<(), String> {
    let ctl = Arc::new(Ctl::default());
    let c = ctl.clone();
    let intake = if a.copy { Intake::Copied } else { Intake::Lent };
    let make = Box::new(move |backing: &_| {
        Server::new(c, intake, backing).map(|s| Box::new(s) as _).map_err(|e| e.to_string())
    });
    let node = assemble::start(&a.node, Role::Server, make)?;
    // One line on standard output says that the node is there: scripts wait for it.
    println!("{} is up on {}", a.node.nid, node.describe());
    let until = a.run_for.map(|s| Instant::now() + Duration::from_secs_f64(s));
    while !node.stopped() && until.is_none_or(|t| Instant::now() < t) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let control = node.control();
    let ends = node.stop()?;
    let get = |c: &std::sync::atomic::AtomicU64| c.load(Ordering::Relaxed);
    println!(
        "{} PUTs, {} bytes; checked {}, wrong {}",
        get(&ctl.arrived),
        get(&ctl.bytes),
        get(&ctl.crc_good) + get(&ctl.crc_bad),
        get(&ctl.crc_bad)
    );
    for e in &ends {
        for (name, n) in e.proto.iter().chain(e.rt.iter()).filter(|(_, n)| *n > 0) {
            println!("{name} {n}");
        }
    }
    if get(&ctl.crc_bad) > 0 {
        return Err(format!("{} messages had wrong bytes", get(&ctl.crc_bad)));
    }
    match ends.iter().all(|e| e.clean) {
        true => Ok(()),
        false if control.order() == Order::Leave => Err("left at once, as told, before it was down".into()),
        false => {
            let left: Vec<String> = ends.iter().filter(|e| !e.clean).map(|e| in_words(&e.left)).collect();
            Err(format!(
                "the node did not go down in order within {} s: left were {}",
                DRAIN.as_secs(),
                left.join("; ")
            ))
        }
    }
}
