//! NIs added to a node that runs, and deleted from it: by all its lcores or by none.
//!
//! ```text
//!  asker            every lcore, one after the other
//!   Look   ------>  which places are free?
//!   Open   ------>  an LND, an address, listening       one refuses: those before it close again
//!   Begin  ------>  chosen, and told to peers           cannot fail
//!
//!   Close  ------>  chosen no more, closes in order     what is left of it goes by itself
//! ```

use std::net::IpAddr;

use super::inspect::{Inspection, NoAnswer, Question};
use super::machine::Places;
use crate::lnd::{NIS_MAX, NewNi, NiError};
use crate::lnet::NiStage as Stage;
use crate::wire::Nid;

/// The address of an NI, where streams have to be given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The address.
    pub ip: IpAddr,
    /// Bits of its network's prefix.
    pub prefix: u8,
    /// Place of the port that is to have it, among those of an lcore.
    pub port: u8,
}

/// Orders about a shard's places for NIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NiAsk {
    /// Shows them.
    Look,
    /// Makes one ready for an NI.
    Open(u8, NewNi, Site),
    /// Has the NI there run.
    Begin(u8),
    /// Deletes the NI there.
    Close(u8),
}

/// A question about NIs.
#[derive(Debug)]
pub struct AboutNis {
    /// An order, before they are shown.
    pub ask: NiAsk,
    /// Answer to the order.
    pub done: Result<(), NiError>,
    /// The places.
    pub places: Places,
}

impl Inspection {
    fn about_nis(&self, lcore: usize, ask: NiAsk) -> Result<Box<AboutNis>, NoAnswer> {
        let places = [(Stage::Free, None); NIS_MAX];
        match self.ask(lcore, Question::Nis(Box::new(AboutNis { ask, done: Ok(()), places })))? {
            Question::Nis(about) => Ok(about),
            _ => Err(NoAnswer::Unknown { lcore }),
        }
    }

    /// The place of `nid` on all lcores, or where there is none for it.
    fn place_of(&self, nid: Nid) -> Result<Option<u8>, NoAnswer> {
        let places = self.about_nis(0, NiAsk::Look)?.places;
        Ok((0..).zip(&places).find(|(_, p)| p.1 == Some(nid)).map(|(at, _)| at))
    }

    /// Adds an NI on all lcores.
    ///
    /// # Errors
    /// [`NoAnswer`] of the first lcore that does not: on those before it the NI is ready or runs. [`NiError`]: no lcore has it.
    pub fn add_ni(&self, ni: &NewNi, site: &Site) -> Result<Result<(), NiError>, NoAnswer> {
        let _alone = self.changing_nis();
        if self.place_of(ni.nid)?.is_some() {
            return Ok(Err(NiError::Twice(ni.nid)));
        }
        let (mut free, mut taken) = ([true; NIS_MAX], [false; NIS_MAX]);
        for lcore in 0..self.lcores() {
            let places = self.about_nis(lcore, NiAsk::Look)?.places;
            for ((free, taken), (stage, _)) in free.iter_mut().zip(&mut taken).zip(&places) {
                *free &= *stage == Stage::Free;
                *taken |= matches!(stage, Stage::Ready | Stage::Running);
            }
        }
        let Some(place) = (0..).zip(free).find(|(_, free)| *free).map(|(place, _)| place) else {
            let full = taken.iter().all(|t| *t);
            return Ok(Err(if full { NiError::Full(ni.nid) } else { NiError::Closing(ni.nid) }));
        };
        for lcore in 0..self.lcores() {
            let opened = self.about_nis(lcore, NiAsk::Open(place, *ni, *site)).map(|about| about.done);
            if matches!(opened, Ok(Ok(()))) {
                continue;
            }
            for before in 0..lcore {
                self.about_nis(before, NiAsk::Close(place))?;
            }
            return opened;
        }
        for lcore in 0..self.lcores() {
            self.about_nis(lcore, NiAsk::Begin(place))?;
        }
        Ok(Ok(()))
    }

    /// Deletes an NI on all lcores.
    ///
    /// # Errors
    /// [`NoAnswer`] of the first lcore that does not: those before it have deleted it. [`NiError::Unknown`]: there is none.
    pub fn del_ni(&self, nid: Nid) -> Result<Result<(), NiError>, NoAnswer> {
        let _alone = self.changing_nis();
        let Some(place) = self.place_of(nid)? else { return Ok(Err(NiError::Unknown(nid))) };
        for lcore in 0..self.lcores() {
            self.about_nis(lcore, NiAsk::Close(place))?;
        }
        Ok(Ok(()))
    }
}
