//! The router between kernel sockets on loopback: the baseline of the one between links (`linked`).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use dataplane::clock::Clock;
use hugepages::{Backing, PrivatePages};
use transport::node::{NoApp, NodeBuilder};
use transport::wire::Nid;

use super::{Passes, Reaching, beside, between, reached};
use crate::ctl::Ctl;
use crate::pair::{Make, Running};
use crate::sock::{SockPair, addresses, port_for, run};
use crate::workload::{Client, Server};

/// Starts the three nodes, a thread each, with the workload that [`Ctl`] orders, and waits until the ends reach each other. Ports are
/// those of [`crate::sock::start`].
///
/// # Errors
/// As [`Running::start`], or that no message came through.
pub fn start(p: SockPair, passes: Passes, ctl: &Arc<Ctl>) -> Result<Running, String> {
    let ips = addresses::<4>();
    let [a, near, far, b] = [0, 1, 2, 3].map(|i| Nid::tcp(IpAddr::V4(ips[i]), i as u16 / 2));
    let at_port = port_for(&ips);
    let finish = move |node: NodeBuilder| {
        at_port(node.config(|c| c.peer_credits = p.peer_credits)).idle(p.idle).clock(Clock::calibrated())
    };
    let told = Arc::new(AtomicBool::new(false));
    let (c, t, f) = (ctl.clone(), told.clone(), finish.clone());
    let client: Make = Box::new(move || {
        let backing: Arc<dyn Backing> = Arc::new(PrivatePages);
        let app = Client::new(p.client, c, b, &backing).map_err(|e| e.to_string())?;
        let node = f(beside(near, a, b)).sockets(Reaching::new(app, b, t));
        Ok(Box::new(node.map_err(|e| e.to_string())?) as _)
    });
    let f = finish.clone();
    let router: Make = Box::new(move || {
        let node = f(between([near, far], passes)).sockets(NoApp);
        Ok(Box::new(node.map_err(|e| e.to_string())?) as _)
    });
    let c = ctl.clone();
    let server: Make = Box::new(move || {
        let backing: Arc<dyn Backing> = Arc::new(PrivatePages);
        let app = Server::new(c, p.intake, &backing).map_err(|e| e.to_string())?;
        Ok(Box::new(finish(beside(far, b, a)).sockets(app).map_err(|e| e.to_string())?) as _)
    });
    let running = run(ctl, vec![client, router, server])?;
    if let Err(e) = reached(ctl, &told) {
        // The first reason counts.
        let _ = running.stop();
        return Err(e.to_string());
    }
    Ok(running)
}

#[cfg(test)]
mod tests {
    use transport::node::sock::IdleMode;

    use super::*;
    use crate::ctl::{Load, Traffic};
    use crate::measure::{stretch, wait_for};
    use crate::pair::NothingLost;
    use crate::workload::{ClientConfig, Intake};

    /// Long PUTs one by one, whose payload is looked at: all of them arrive, and where that is asked for the router sends some on
    /// before they are whole.
    #[test]
    fn puts_pass_through_a_router_stored_or_cut_through() {
        for passes in [Passes::Stored, Passes::Cut] {
            let client = ClientConfig::default();
            let p = SockPair { idle: IdleMode::Block, intake: Intake::Lent, client, peer_credits: 8 };
            let ctl = Arc::new(Ctl::default());
            let nodes = start(p, passes, &ctl).unwrap();
            let ready = || ctl.ready.load(std::sync::atomic::Ordering::Acquire);
            wait_for(&ctl, "the server", 20, ready).unwrap();
            let several = stretch(&ctl, Traffic::BulkChecked, 0.2, &mut |_| ()).unwrap();
            ctl.set_load(Some(Load { len: 1 << 20, flight: 1 }));
            let single = stretch(&ctl, Traffic::BulkChecked, 0.2, &mut |_| ()).unwrap();
            let ends = nodes.stop().unwrap();
            let lost = NothingLost::of(&ctl, &ends);
            assert!(lost.ok, "{lost:?}");
            let r = &ends[1].proto;
            assert!(r.forwarded_msgs >= several.messages + single.messages && single.messages > 0, "{r:?}");
            assert_eq!((r.forward_copied_bytes, r.forward_cut_aborted, r.sets_closed), (0, 0, 2), "{r:?}");
            assert_eq!(r.forward_cut_msgs > 0, passes == Passes::Cut, "{r:?}");
        }
    }
}
