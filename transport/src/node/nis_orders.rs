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

use super::inspect::{Inspection, NoAnswer, Question};
use super::nis::{AboutNis, NiAsk, Site};
use crate::lnd::{NIS_MAX, NewNi, NiError};
use crate::lnet::NiStage as Stage;
use crate::wire::Nid;

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
        let _alone = self.changing();
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
        let _alone = self.changing();
        let Some(place) = self.place_of(nid)? else { return Ok(Err(NiError::Unknown(nid))) };
        for lcore in 0..self.lcores() {
            self.about_nis(lcore, NiAsk::Close(place))?;
        }
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use dataplane::clock::Clock;

    use super::*;

    const NID: &str = "10.0.0.2@tcp";

    /// An lcore that answers until it is told to end, and refuses to open a place where it `refuses`.
    fn lcore(
        front: &Inspection,
        n: usize,
        (refuses, end): (bool, &AtomicBool),
        heard: &Mutex<Vec<(usize, NiAsk)>>,
    ) {
        let mailbox = front.mailbox(n).unwrap();
        let mut places = [(Stage::Free, None); NIS_MAX];
        places[0] = (Stage::Running, Some("10.0.0.1@tcp".parse().unwrap()));
        // One that was deleted is not over on the second.
        if n == 1 {
            places[1].0 = Stage::Leaving;
        }
        while !end.load(Ordering::Relaxed) {
            if !mailbox.asked() {
                std::thread::yield_now();
                continue;
            }
            mailbox.answer(|q| {
                let Question::Nis(about) = q else { panic!("{q:?}") };
                if about.ask != NiAsk::Look {
                    heard.lock().unwrap().push((n, about.ask));
                }
                match about.ask {
                    NiAsk::Open(..) if refuses => about.done = Err(NiError::Down),
                    NiAsk::Open(place, ni, _) => places[usize::from(place)] = (Stage::Ready, Some(ni.nid)),
                    NiAsk::Begin(place) => places[usize::from(place)].0 = Stage::Running,
                    NiAsk::Close(place) => places[usize::from(place)] = (Stage::Leaving, None),
                    NiAsk::Look => {}
                }
                about.places = places;
            });
        }
    }

    /// Orders that two lcores have heard, the second of which `refuses`, and what came of them.
    fn asked<T>(refuses: bool, ask: impl FnOnce(&Inspection) -> T) -> (T, Vec<(usize, NiAsk)>) {
        let (front, heard) = (Inspection::new(2, Clock::monotonic()), Mutex::new(Vec::new()));
        let end = AtomicBool::new(false);
        let done = std::thread::scope(|s| {
            for n in 0..2 {
                let (front, end, heard) = (&front, &end, &heard);
                s.spawn(move || lcore(front, n, (refuses && n == 1, end), heard));
            }
            let done = ask(&front);
            end.store(true, Ordering::Relaxed);
            done
        });
        (done, heard.into_inner().unwrap())
    }

    fn new(nid: &str) -> (NewNi, Site) {
        let nid: Nid = nid.parse().unwrap();
        (NewNi { nid, credits: None, incarnation: 7 }, Site { ip: nid.ip().unwrap(), prefix: 24, port: 0 })
    }

    #[test]
    fn all_are_ready_before_the_first_begins_and_the_place_is_free_on_all() {
        let (ni, site) = new(NID);
        let (done, heard) = asked(false, |front| front.add_ni(&ni, &site).unwrap());
        assert_eq!(done, Ok(()));
        let open = NiAsk::Open(2, ni, site);
        assert_eq!(heard, [(0, open), (1, open), (0, NiAsk::Begin(2)), (1, NiAsk::Begin(2))]);
    }

    #[test]
    fn what_one_refuses_none_has() {
        let (ni, site) = new(NID);
        let (done, heard) = asked(true, |front| front.add_ni(&ni, &site).unwrap());
        assert_eq!(done, Err(NiError::Down));
        let open = NiAsk::Open(2, ni, site);
        assert_eq!(heard, [(0, open), (1, open), (0, NiAsk::Close(2))]);
    }

    #[test]
    fn what_is_there_is_not_added_and_what_is_not_is_not_deleted() {
        let (ni, site) = new("10.0.0.1@tcp");
        let (done, heard) = asked(false, |front| front.add_ni(&ni, &site).unwrap());
        assert_eq!((done, heard), (Err(NiError::Twice(ni.nid)), Vec::new()));
        let nid: Nid = NID.parse().unwrap();
        let (done, heard) = asked(false, |front| front.del_ni(nid).unwrap());
        assert_eq!((done, heard), (Err(NiError::Unknown(nid)), Vec::new()));
        let (done, heard) = asked(false, |front| front.del_ni(ni.nid).unwrap());
        assert_eq!((done, heard), (Ok(()), vec![(0, NiAsk::Close(0)), (1, NiAsk::Close(0))]));
    }
}
