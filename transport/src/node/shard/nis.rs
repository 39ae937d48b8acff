//! NIs of a shard that come and go: its machine's, and the addresses of its streams.

use std::net::{IpAddr, SocketAddr};

use super::Shard;
use crate::lnd::NiError;
use crate::node::app::App;
use crate::node::inspect::Inspect;
use crate::node::nis::{AboutNis, NiAsk};
use crate::node::streams::Streams;

impl<S: Streams + Inspect, A: App> Shard<S, A> {
    /// Does what is asked about NIs.
    #[cold]
    pub(super) fn asked_of_nis(&mut self, now: u64, about: &mut AboutNis) {
        about.done = match about.ask {
            NiAsk::Look => Ok(()),
            NiAsk::Open(place, ni, site) => self.machine.open_ni(now, place, &ni).and_then(|()| {
                let at: Vec<SocketAddr> = self.machine.listens_at(site.ip).collect();
                let opened = self.outside.streams_mut().map_or(Ok(()), |s| s.open_ni(&site, &at));
                opened.or_else(|e| self.machine.close_ni(now, place).and(Err(e)))
            }),
            NiAsk::Begin(place) => self.machine.begin_ni(now, place),
            NiAsk::Close(place) => self.close_ni(now, place),
        };
        about.places = self.machine.places_of_nis();
    }

    fn close_ni(&mut self, now: u64, place: u8) -> Result<(), NiError> {
        let places = self.machine.places_of_nis();
        let ip = places.get(usize::from(place)).and_then(|p| p.1?.ip());
        self.machine.close_ni(now, place)?;
        let Some(ip) = ip.filter(|ip| !self.is_address(*ip)) else { return Ok(()) };
        self.left_addresses.push((place, ip));
        for at in self.machine.listens_at(ip) {
            if let Some(s) = self.outside.streams_mut() {
                s.close_ni(at);
            }
        }
        Ok(())
    }

    /// Whether an NI that is not deleted has the address.
    fn is_address(&self, ip: IpAddr) -> bool {
        self.machine.places_of_nis().iter().any(|p| p.1.and_then(|n| n.ip()) == Some(ip))
    }

    /// Lets go of NIs that were deleted, and of which nothing is left.
    #[cold]
    pub(super) fn let_nis_go(&mut self) {
        while let Some(place) = self.machine.left_ni() {
            let Some(n) = self.left_addresses.iter().position(|l| l.0 == place) else { continue };
            let (_, ip) = self.left_addresses.swap_remove(n);
            let wanted = self.is_address(ip) || self.left_addresses.iter().any(|l| l.1 == ip);
            if let Some(s) = self.outside.streams_mut().filter(|_| !wanted) {
                s.drop_address(ip);
            }
        }
    }
}
