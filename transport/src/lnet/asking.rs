//! Questions of discovery that are on their way, and what has come of them: the operations of a shard's own, which asks and tells
//! the peers whose home it is (the states are in `discovery.rs`).

use std::collections::VecDeque;

use super::aliases::Claim;
use super::api::Event;
use crate::hash::OwnMap;
use crate::lnd::{Config, LnetError};
use crate::stream::slab::Key;
use crate::wire::Nid;

/// First sink of a ping, and first room for a push, in bytes: what kernels begin with (lnet.md §6.1).
pub(super) const ROOM: u32 = 272;

/// Events that move the states.
#[derive(Debug)]
pub(super) enum News {
    /// An operation of the node's own has ended.
    Answer(u64, Result<Vec<u8>, LnetError>),
    Pushed(u64, Result<(), LnetError>),
    /// A peer whose home is this shard says who it is, or that of another.
    Claim(Box<Claim>, bool),
    /// A peer that another shard knows is there, too, by one of the NIDs claimed.
    Contest(Nid, Box<Claim>),
    /// A peer has connected by a NID that another node claims.
    Came(Key),
    /// The node that was heard by this NID is so no longer.
    Unheard(Nid),
    /// The question of that number about a node behind a gateway is lost with the gateway.
    Lost(Key, u64),
}

/// The node that an operation of the node's own is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// A peer.
    Peer(Key),
    /// A node behind a router.
    Far(Key),
    /// A gateway that is checked.
    Gateway(Nid),
}

/// Discovery on one shard: it asks the peers whose home this is.
#[derive(Debug)]
pub(super) struct Discovery {
    /// Nodes by the number of the operation that is on its way. Numbers are a node's: they last when homes move.
    pub(super) asked: OwnMap<u64, About>,
    next: u64,
    step: u64,
    pub(super) news: VecDeque<News>,
    /// Sink of the next ping.
    pub(super) sink: u32,
    /// Room for the next push.
    pub(super) room: u32,
    /// Number of our info, as it is now.
    pub(super) info: u32,
    /// It has changed, and nobody knows: our features before and now.
    pub(super) changed: Option<u32>,
    /// The list of our NIs that are up has changed, and nobody knows.
    pub(super) links: bool,
    /// Messages that wait until their peer is known.
    pub(super) held: usize,
}

impl Discovery {
    pub(super) fn new(cfg: &Config) -> Discovery {
        Discovery {
            asked: OwnMap::default(),
            next: u64::from(cfg.shards.me.0) + 1,
            step: u64::from(cfg.shards.count.max(1)),
            news: VecDeque::new(),
            sink: ROOM,
            room: ROOM,
            info: 1,
            changed: None,
            links: false,
            held: 0,
        }
    }

    /// Our info is another from now on; `features` are those of before and of now.
    pub(super) fn info_changed(&mut self, features: u32) {
        self.info = self.info.wrapping_add(1);
        *self.changed.get_or_insert(0) |= features;
    }

    /// Number of the next operation of the node's own.
    pub(super) fn serial(&mut self) -> u64 {
        let serial = self.next;
        self.next = serial.wrapping_add(self.step);
        serial
    }

    /// An operation of the node's own has ended, or not yet.
    #[cold]
    pub(super) fn hear(&mut self, event: &Event) {
        match event {
            Event::Ping { tag, info: Err(e), .. } => self.news.push_back(News::Answer(*tag, Err(*e))),
            Event::Ack { tag, status, .. } => self.news.push_back(News::Pushed(*tag, *status)),
            Event::Send { tag, status: Err(e), .. } => self.news.push_back(News::Pushed(*tag, Err(*e))),
            _ => {}
        }
    }
}
