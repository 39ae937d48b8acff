//! Orders that change what is the same on all lcores: tunables, fault rules, routes, peers by hand. NIs have more steps
//! (`transport/src/node/nis_orders.rs`).
//!
//! An order goes to one lcore after the other. Two askers at once would have theirs come to the lcores in different orders, and the
//! lcores differ from then on; so each waits for the one before.

use super::inspect::{AboutByHand, AboutFaults, AboutRoutes, Inspection, NoAnswer, Question};
use crate::lnd::tunables::Change;
use crate::lnd::{BY_HAND_MAX, PeerByHand, PeerError, ROUTES_MAX, RouteError};
use crate::lnet::by_hand::{ByHandView, PeerAsk};
use crate::lnet::faults::{FaultAsk, FaultError, FaultView, RULES_MAX};
use crate::lnet::routes::{RouteAsk, RouteView};

impl Inspection {
    /// Changes a tunable on all lcores, one after the other.
    ///
    /// # Errors
    /// [`NoAnswer`] of the first lcore that does not: those before it have changed.
    pub fn tune(&self, change: Change) -> Result<(), NoAnswer> {
        let _alone = self.changing();
        (0..self.lcores()).try_for_each(|lcore| self.ask(lcore, Question::Tune(change)).map(drop))
    }

    /// Changes fault rules on all lcores, if `ask` says so, and gives the rules with their counts of all lcores; and how many
    /// rules were concerned, or why none was.
    ///
    /// # Errors
    /// [`NoAnswer`] of the first lcore that does not: those before it have changed.
    pub fn faults(
        &self,
        ask: Option<FaultAsk>,
    ) -> Result<(Result<usize, FaultError>, Vec<FaultView>), NoAnswer> {
        let _alone = ask.is_some().then(|| self.changing());
        let (mut done, mut all): (_, Vec<FaultView>) = (Ok(0), Vec::new());
        for lcore in 0..self.lcores() {
            let room = Vec::with_capacity(RULES_MAX);
            let question = Question::Faults(Box::new(AboutFaults { ask, done: Ok(0), rules: room }));
            let Question::Faults(about) = self.ask(lcore, question)? else { break };
            done = about.done;
            if lcore == 0 {
                all = about.rules;
            } else {
                all.iter_mut().zip(&about.rules).for_each(|(sum, one)| sum.add(one));
            }
            if done.is_err() {
                break;
            }
        }
        Ok((done, all))
    }

    /// Changes the routes on all lcores, if `ask` says so, and gives the routes; and why they were not changed.
    ///
    /// # Errors
    /// [`NoAnswer`] of the first lcore that does not: those before it have changed.
    pub fn routes(
        &self,
        ask: Option<RouteAsk>,
    ) -> Result<(Result<(), RouteError>, Vec<RouteView>), NoAnswer> {
        let _alone = ask.is_some().then(|| self.changing());
        let (mut done, mut all) = (Ok(()), Vec::new());
        for lcore in 0..self.lcores() {
            // All have the same routes: one is asked for them.
            let room = if lcore == 0 { ROUTES_MAX } else { 0 };
            let about = AboutRoutes { ask, done: Ok(()), routes: Vec::with_capacity(room) };
            let Question::Routes(about) = self.ask(lcore, Question::Routes(Box::new(about)))? else { break };
            done = about.done;
            if lcore == 0 {
                all = about.routes;
            }
            if done.is_err() || ask.is_none() {
                break;
            }
        }
        Ok((done, all))
    }

    /// Changes the peers by hand on all lcores, if `ask` says so, and gives them; and why they were not changed.
    ///
    /// # Errors
    /// [`NoAnswer`] of the first lcore that does not: those before it have changed.
    pub fn by_hand(
        &self,
        ask: Option<&PeerAsk>,
    ) -> Result<(Result<(), PeerError>, Vec<PeerByHand>), NoAnswer> {
        let _alone = ask.is_some().then(|| self.changing());
        let (mut done, mut all) = (Ok(()), Vec::new());
        for lcore in 0..self.lcores() {
            // All have the same ones: one is asked for them.
            let room = if lcore == 0 { BY_HAND_MAX } else { 0 };
            let about = AboutByHand { ask: ask.cloned(), done: Ok(()), nids: Vec::with_capacity(room) };
            let Question::ByHand(about) = self.ask(lcore, Question::ByHand(Box::new(about)))? else { break };
            done = about.done;
            if lcore == 0 {
                all = ByHandView::peers(&about.nids);
            }
            if done.is_err() || ask.is_none() {
                break;
            }
        }
        Ok((done, all))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use dataplane::clock::Clock;

    use super::*;
    use crate::lnd::route::Route;

    /// Two askers add and delete the same route: whatever comes of it, it is the same on both lcores.
    #[test]
    fn orders_of_several_askers_come_to_all_lcores_in_one_order() {
        let (f, end) = (Inspection::new(2, Clock::monotonic()), AtomicBool::new(false));
        let heard = [(); 2].map(|()| Mutex::new(Vec::new()));
        std::thread::scope(|s| {
            for (i, heard) in heard.iter().enumerate() {
                let (mailbox, end) = (f.mailbox(i).unwrap(), &end);
                s.spawn(move || {
                    while !end.load(Ordering::Relaxed) {
                        mailbox.answer(|q| {
                            let Question::Routes(about) = q else { panic!("{q:?}") };
                            heard.lock().unwrap().extend(about.ask);
                        });
                        std::thread::yield_now();
                    }
                });
            }
            let askers = [7, 8].map(|hop| {
                let route: Route = format!("tcp1 10.0.0.9@tcp {hop}").parse().unwrap();
                let f = &f;
                s.spawn(move || {
                    for _ in 0..200 {
                        f.routes(Some(RouteAsk::Add(route))).unwrap().0.unwrap();
                    }
                })
            });
            askers.into_iter().for_each(|a| a.join().unwrap());
            end.store(true, Ordering::Relaxed);
        });
        let [first, second] = heard.map(|h| h.into_inner().unwrap());
        assert_eq!((first.len(), first == second), (400, true));
    }
}
