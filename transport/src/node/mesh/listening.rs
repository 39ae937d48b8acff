//! Addresses at which the owners listen for a shard, and what they say of it.
//!
//! A shard that wants to listen asks every owner, since a connection may come to any queue. It listens when all of them do;
//! if one cannot, or no longer can, none does.

use std::net::SocketAddr;

use super::Mesh;
use super::mail::{Home, Mail, StreamEvent};
use crate::node::Input;
use crate::node::streams::Streams;
use crate::stream::{ConnInfo, DialSpec, Happened, Homes, LendId, ListenError, ShardId};

impl Home {
    /// The home of what a dial comes to.
    pub(super) fn of_dial(d: &DialSpec) -> Home {
        d.id.stays_on().map_or_else(|| Home::Of(crate::stream::Bucket::of(d.remote.ip())), Home::Fixed)
    }

    /// The home of a loan.
    pub(super) fn of_lend(l: LendId) -> Home {
        l.stays_on().map_or_else(|| Home::Of(l.bucket()), Home::Fixed)
    }

    /// The shard that is it now.
    pub(super) fn shard(self, homes: &Homes) -> ShardId {
        match self {
            Home::Of(b) => homes.at(b),
            Home::Fixed(s) => s,
        }
    }

    /// Whether it never moves.
    pub(super) fn is_fixed(self) -> bool {
        matches!(self, Home::Fixed(_))
    }
}

/// An address that this shard asked for.
struct Asked {
    at: SocketAddr,
    /// Owners that have not answered.
    missing: usize,
    failed: Option<ListenError>,
}

/// A shard's part in listening.
#[derive(Default)]
pub(super) struct Listening {
    /// Addresses at which this owner listens, and for whom.
    of_others: Vec<(SocketAddr, ShardId)>,
    asked: Vec<Asked>,
    /// Addresses at which the own streams take datagrams.
    bound: Vec<SocketAddr>,
    /// Connections that came here, or were dialled here, and are a protocol's of another shard.
    pub(super) handed_over: u64,
}

impl Listening {
    /// Whether datagrams are taken at an address, or are to be.
    pub(super) fn bound(&self, at: SocketAddr) -> bool {
        self.bound.contains(&at)
    }

    /// The home of a connection that came to an address that somebody asked for.
    pub(super) fn home_of(&self, info: &ConnInfo) -> Option<Home> {
        self.of_others
            .iter()
            .find(|(at, _)| info.dial.is_none() && *at == info.local)
            .map(|l| Home::Fixed(l.1))
    }

    /// Whether a connection is one that this shard dialled or listens for.
    pub(super) fn wants(&self, info: &ConnInfo) -> bool {
        info.dial.is_some() || self.asked.iter().any(|a| a.at == info.local)
    }

    /// This owner's streams listen at an address, or do not; gives who is to hear.
    pub(super) fn answered(&mut self, at: SocketAddr, done: Result<(), ListenError>) -> Option<Home> {
        let n = self.of_others.iter().position(|l| l.0 == at)?;
        let home = self.of_others.get(n).map(|l| Home::Fixed(l.1));
        if done.is_err() {
            self.of_others.remove(n);
        }
        home
    }
}

impl Mesh {
    /// This shard wants to take datagrams: they come to its own queue, or to none of which it is told.
    pub(super) fn bind<S: Streams>(&mut self, own: &mut Option<S>, at: SocketAddr) {
        match own {
            Some(own) if self.owners.len() <= 1 => {
                self.listening.bound.push(at);
                own.bind(at);
            }
            _ => {
                self.listening.asked.push(Asked { at, missing: 1, failed: None });
                self.answer(self.shards.me, at, Err(ListenError::Local));
            }
        }
    }

    /// This shard wants to listen.
    pub(super) fn listen<S: Streams>(&mut self, own: &mut Option<S>, at: SocketAddr) {
        let me = self.shards.me;
        self.listening.asked.push(Asked { at, missing: self.owners.len(), failed: None });
        if self.owners.is_empty() {
            self.answer(me, at, Err(ListenError::Local));
        }
        for i in 0..self.owners.len() {
            match self.owners.get(i).copied() {
                Some(owner) if owner != me => self.post.send(owner, Mail::Listen(me, at)),
                _ => self.listen_for(own, me, at),
            }
        }
    }

    /// This shard listens no more.
    pub(super) fn unlisten<S: Streams>(&mut self, own: &mut Option<S>, at: SocketAddr) {
        self.listening.asked.retain(|a| a.at != at);
        if let Some(n) = self.listening.bound.iter().position(|a| *a == at)
            && let Some(own) = own
        {
            self.listening.bound.swap_remove(n);
            return own.unlisten(at);
        }
        self.tell_owners_to_end(at);
        self.unlisten_for(own, self.shards.me, at);
    }

    fn tell_owners_to_end(&mut self, at: SocketAddr) {
        let me = self.shards.me;
        for owner in self.owners.iter().filter(|o| **o != me) {
            self.post.send(*owner, Mail::Unlisten(me, at));
        }
    }

    fn answer(&mut self, home: ShardId, at: SocketAddr, done: Result<(), ListenError>) {
        self.post.send(home, Mail::Stream(Home::Fixed(home), StreamEvent::Listening(at, done)));
    }

    /// This owner is to listen for a shard.
    pub(super) fn listen_for<S: Streams>(&mut self, own: &mut Option<S>, home: ShardId, at: SocketAddr) {
        let taken = self.listening.of_others.iter().any(|l| l.0 == at);
        match own {
            Some(own) if !taken => {
                self.listening.of_others.push((at, home));
                own.listen(at);
            }
            _ => {
                let why = if taken { ListenError::InUse } else { ListenError::Local };
                self.answer(home, at, Err(why));
            }
        }
    }

    /// This owner is to listen for a shard no more.
    pub(super) fn unlisten_for<S: Streams>(&mut self, own: &mut Option<S>, home: ShardId, at: SocketAddr) {
        let before = self.listening.of_others.len();
        self.listening.of_others.retain(|l| *l != (at, home));
        if let Some(own) = own
            && self.listening.of_others.len() < before
        {
            own.unlisten(at);
        }
    }

    /// An owner has answered.
    pub(super) fn heard_of(
        &mut self,
        at: SocketAddr,
        done: Result<(), ListenError>,
        sink: &mut dyn FnMut(Input<'_>),
    ) {
        // One that was taken back may be answered still.
        let Some(n) = self.listening.asked.iter().position(|a| a.at == at) else { return };
        let Some(a) = self.listening.asked.get_mut(n) else { return };
        let all_did = a.missing == 0;
        a.missing = a.missing.saturating_sub(1);
        if let Err(why) = done {
            a.failed.get_or_insert(why);
        }
        let (missing, failed) = (a.missing, a.failed);
        match failed {
            _ if missing > 0 => {}
            None if all_did => {}
            None => sink(Input::Stream(Happened::Listening(at, Ok(())))),
            Some(why) => {
                self.listening.asked.remove(n);
                self.tell_owners_to_end(at);
                // The own streams are not here to be told: a letter to itself does that.
                self.post.send(self.shards.me, Mail::Unlisten(self.shards.me, at));
                sink(Input::Stream(Happened::Listening(at, Err(why))));
            }
        }
    }
}
