//! `pollnd node`: answers pings, takes bulk PUTs in and checks them, serves bulk GETs, is a member for lnet_selftest; other
//! commands go through it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bench::ctl::Ctl;
use bench::workload::{Intake, Server};
use dataplane::clock::pause;
use hugepages::Backing;
use transport::node::{
    Order, beside,
    run::{DRAIN, in_words},
};

use crate::args::ServeArgs;
use crate::assemble;
use crate::config::reload::Live;
use crate::inspect::claim;
use crate::inspect::seats::{DEPTH, Seats};
use crate::metrics::Bound;
use crate::running::{Role, Setup};
use crate::service::Service;
use crate::{logging, member, out, signals, units};

pub(crate) fn main(mut a: ServeArgs) -> Result<(), String> {
    let ctl = Arc::new(Ctl::default());
    let c = ctl.clone();
    let intake = if a.copy { Intake::Copied } else { Intake::Lent };
    a.node.nid = a.nid;
    for n in &a.told.notes {
        tracing::warn!("{n}");
    }
    logging::by_file(a.told.level.as_deref())?;
    let live = Arc::new(Live::new(&a));
    // A signal that comes while it starts is not its end, and is heeded afterwards.
    let hangups = a.config.is_some().then(signals::hangups).transpose()?;
    let command = Role::Server.command();
    let scope = claim::scope(&a.node);
    let claim = claim::take(a.nid, &scope, command).map_err(|h| h.refusal("--nid", a.nid))?;
    live.nis.starts(&a.node, command, claim.as_ref())?;
    let guests = Arc::new(Seats::default());
    guests.name(a.nid);
    let seats = guests.clone();
    let (no_selftest, lcores) = (a.no_selftest, a.node.lcores);
    let make = Box::new(move |backing: &Arc<dyn Backing>| {
        let server = Server::new(c, intake, backing).map_err(|e| e.to_string())?;
        let (app, free) = beside(server, Seats::ids(), DEPTH);
        seats.open(free, backing);
        if no_selftest {
            return Ok(Box::new(app) as _);
        }
        let (app, meter) = member::beside(app, lcores, backing)?;
        seats.measure(meter);
        Ok(app)
    });
    let metrics = a.metrics.map(Bound::at).transpose()?;
    let node = assemble::start(
        &a.node,
        Setup::new(Role::Server, claim).with_guests(guests.clone()).with_live(live.clone()),
        make,
    )?;
    if let Some(h) = hangups {
        let front = node.front().clone();
        let live = live.clone();
        signals::each_hangup(h, move || live.apply(&front, None).log())?;
    }
    let served = metrics.map(|m| {
        let nids = [a.nid].iter().chain(&a.node.ni).map(ToString::to_string).collect();
        m.serve((node.front().clone(), guests.clone()), nids, node.describe().to_owned())
    });
    let _served = match served.transpose() {
        Ok(s) => s,
        Err(e) => return node.stop_after(Err(e)).map(drop),
    };
    // One line on standard output says that the node is there: scripts wait for it.
    let nids: Vec<String> = [a.nid].iter().chain(&a.node.ni).map(ToString::to_string).collect();
    if let Err(e) = out::line(format_args!("{} is up on {}", nids.join(", "), node.describe())) {
        return node.stop_after(Err(e)).map(drop);
    }
    let mut service = Service::up(&format!("{} on {}", nids.join(", "), node.describe()));
    let until = a.run_for.map(|s| Instant::now() + Duration::from_secs_f64(s));
    while !node.stopped() && until.is_none_or(|t| Instant::now() < t) {
        service.look(node.front());
        guests.hear();
        pause(Duration::from_millis(20));
    }
    service.down();
    let control = node.control();
    let ends = node.stop();
    live.nis.ended();
    let ends = ends?;
    let get = |c: &std::sync::atomic::AtomicU64| c.load(Ordering::Relaxed);
    out::line(format_args!(
        "{}, {}; checked {}, wrong {}",
        units::many(get(&ctl.arrived), "PUT"),
        units::many(get(&ctl.bytes), "byte"),
        get(&ctl.crc_good) + get(&ctl.crc_bad),
        get(&ctl.crc_bad)
    ))?;
    for e in &ends {
        for (name, n) in e.proto.iter().chain(e.streams.iter()).filter(|(_, n)| *n > 0) {
            out::line(format_args!("{name} {n}"))?;
        }
    }
    if get(&ctl.crc_bad) > 0 {
        return Err(format!("{} had wrong bytes", units::many(get(&ctl.crc_bad), "message")));
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
