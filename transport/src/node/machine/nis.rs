//! NIs of a machine that come and go.

use std::net::{IpAddr, SocketAddr};

use super::Machine;
use crate::lnd::{NIS_MAX, NewNi, NiConfig, NiError, NiId};
use crate::lnet::Lnet;
use crate::lnet::NiStage as Stage;
use crate::socklnd::Socklnd;
use crate::wire::Nid;

/// The stages of a shard's places for NIs, and the NIDs there: none where one is free, or its NI was deleted.
pub type Places = [(Stage, Option<Nid>); NIS_MAX];

impl Machine {
    /// The places for NIs.
    pub fn places_of_nis(&self) -> Places {
        let mut all = [(Stage::Free, None); NIS_MAX];
        for (at, place) in (0..).map(NiId).zip(&mut all) {
            *place = (self.lnet.stage(at), self.lnet.nid_at(at));
        }
        all
    }

    /// Makes a place that is free ready for an NI: its peers may connect, and nothing goes by it yet.
    ///
    /// # Errors
    /// [`NiError`]
    pub fn open_ni(&mut self, now: u64, place: u8, ni: &NewNi) -> Result<(), NiError> {
        let NewNi { nid, credits, incarnation } = *ni;
        nid.station()?;
        nid.ip().ok_or(NiError::NoAddress(nid))?;
        if self.cx.down {
            return Err(NiError::Down);
        }
        if self.lnet.has_nid(nid) {
            return Err(NiError::Twice(nid));
        }
        if self.lnet.routes_lead_to(nid.net()) {
            return Err(NiError::Routed { nid, net: nid.net() });
        }
        let at = NiId(place);
        if at.index() >= NIS_MAX || at.index() > self.lnds.len() {
            return Err(NiError::Full(nid));
        }
        self.cx.now = self.cx.now.max(now);
        // A bucket that moved here may have brought what another shard had left of the one before.
        let lnd = self.lnds.get(at.index());
        let (over, moved) = (lnd.is_none_or(Socklnd::gone), lnd.map(|l| l.moved).unwrap_or_default());
        let ni = NiConfig { place, credits, ..NiConfig::new(nid) };
        if !over || !self.lnet.ni_open(&self.cx, &ni, moved) {
            return Err(NiError::Place);
        }
        match self.lnds.get_mut(at.index()) {
            Some(lnd) => lnd.renew(nid, incarnation),
            None => self.lnds.push(Socklnd::new(self.cx.cfg.shards.me, at, nid, incarnation)),
        }
        Ok(())
    }

    /// The NI at a place that is ready on all shards runs: peers are told of it.
    ///
    /// # Errors
    /// [`NiError::Place`]: it is not ready.
    pub fn begin_ni(&mut self, now: u64, place: u8) -> Result<(), NiError> {
        self.cx.now = self.cx.now.max(now);
        if !self.lnet.ni_begin(&mut self.cx, NiId(place)) {
            return Err(NiError::Place);
        }
        self.settle();
        Ok(())
    }

    /// Deletes the NI at a place. [`Machine::left_ni`] tells when nothing is left of it.
    ///
    /// # Errors
    /// [`NiError::Place`]: there is none.
    pub fn close_ni(&mut self, now: u64, place: u8) -> Result<(), NiError> {
        let Machine { cx, lnet, lnds, .. } = self;
        cx.now = cx.now.max(now);
        if !lnet.ni_close(cx, lnds, NiId(place)) {
            return Err(NiError::Place);
        }
        self.leaving += 1;
        self.settle();
        Ok(())
    }

    /// Whether NIs that were deleted are not over.
    #[inline]
    pub fn has_leaving_nis(&self) -> bool {
        self.leaving > 0
    }

    /// The place of an NI that was deleted, of which nothing is left. It is free now.
    pub fn left_ni(&mut self) -> Option<u8> {
        let leaves = |lnet: &Lnet, lnd: &Socklnd<Lnet>, at| lnet.stage(at) == Stage::Leaving && lnd.gone();
        let Machine { cx, lnet, lnds, .. } = self;
        let (at, lnd) = (0..).map(NiId).zip(lnds).find(|(at, lnd)| leaves(lnet, lnd, *at))?;
        lnd.forget_all(lnet, cx);
        lnet.ni_left(at);
        self.leaving -= 1;
        Some(at.0)
    }

    /// Addresses at which an NI of that address is listened for.
    pub fn listens_at(&self, ip: IpAddr) -> impl Iterator<Item = SocketAddr> + use<> {
        self.cx.cfg.listen_ports().map(move |port| SocketAddr::new(ip, port))
    }
}
