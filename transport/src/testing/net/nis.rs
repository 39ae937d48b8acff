//! NIs that a node gets and loses while it runs.

use std::ops::Range;

use super::Net;
use crate::lnd::{NIS_MAX, NewNi, NiError};
use crate::lnet::NiStage;
use crate::wire::Nid;

impl Net {
    /// Adds an NI to the shards of a node, as a runtime does: all of them are ready before the first has it running.
    ///
    /// # Errors
    /// [`NiError`]: none of them has it.
    pub fn add_ni(&mut self, shards: Range<usize>, nid: Nid) -> Result<(), NiError> {
        shards.clone().for_each(|n| self.let_nis_go(n));
        let free = |net: &Net, place: u8| {
            let is_free =
                |n: usize| net.nodes[n].machine.places_of_nis()[usize::from(place)].0 == NiStage::Free;
            shards.clone().all(is_free)
        };
        let Some(place) = (0..NIS_MAX as u8).find(|place| free(self, *place)) else {
            return Err(NiError::Closing(nid));
        };
        let new = NewNi { nid, credits: None, incarnation: self.now };
        for (n, node) in shards.clone().enumerate() {
            if let Err(e) = self.nodes[node].machine.open_ni(self.now, place, &new) {
                for before in shards.clone().take(n) {
                    self.nodes[before].machine.close_ni(self.now, place).unwrap();
                    self.drain(before);
                }
                return Err(e);
            }
        }
        if let Some(ip) = nid.ip() {
            self.by_ip.entry(ip).or_insert(shards.start);
        }
        for node in shards {
            self.nodes[node].machine.begin_ni(self.now, place)?;
            self.drain(node);
        }
        Ok(())
    }

    /// Deletes an NI of the shards of a node.
    ///
    /// # Errors
    /// [`NiError::Unknown`]: they have none.
    pub fn del_ni(&mut self, shards: Range<usize>, nid: Nid) -> Result<(), NiError> {
        let of = |node: usize| self.nodes[node].machine.places_of_nis().iter().position(|p| p.1 == Some(nid));
        let place = of(shards.start).ok_or(NiError::Unknown(nid))? as u8;
        let ip = nid.ip();
        for node in shards.clone() {
            self.nodes[node].machine.close_ni(self.now, place)?;
            self.drain(node);
        }
        let has = |p: &(NiStage, Option<Nid>)| p.1.and_then(Nid::ip) == ip;
        if let Some(ip) = ip.filter(|_| !self.nodes[shards.start].machine.places_of_nis().iter().any(has)) {
            self.by_ip.remove(&ip);
        }
        Ok(())
    }

    /// Has a node free the places of NIs of which nothing is left.
    pub fn let_nis_go(&mut self, node: usize) {
        while self.nodes[node].machine.left_ni().is_some() {}
        self.drain(node);
    }
}
