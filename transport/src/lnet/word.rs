//! A node's word about itself, and for how long it holds (docs/protocol/lnet.md §6.3, docs/protocol/upper.md §2).
//!
//! Names outlive connections: a node of which nothing is connected is still known by all the NIDs that it told, and is reached by any of
//! them. But one that comes back may have other NIDs, and knows nothing of us. So its word holds while the NID by which it was heard is
//! connected, as that of a peer with one NID does; that of a node behind a router until it does not answer, or a push to it fails. Then the next message to any of its NIDs asks again, on whichever
//! shard: each has the same table of who is who (`transport/src/lnet/aliases.rs`), and is told when a word ends. The first NID to answer is the one that it is
//! heard by from then on, and that is told of us.
//!
//! A kernel keeps what it knows of a peer whose connections have ended, and hears of its restart by the other's push alone.

use super::Lnet;
use super::discovery::News;
use super::remote::Body;
use crate::lnd::{Cx, Lnd};
use crate::stream::slab::Key;
use crate::wire::{Nid, ProcessId};

impl Lnet {
    /// The last connection with a peer has ended.
    #[cold]
    pub(super) fn lost_sight(&mut self, cx: &Cx, peer: Key) {
        if cx.down {
            return;
        }
        self.lose(peer);
        if let Some(nid) = self.peers.get(peer).map(|p| p.id.nid) {
            self.gateway_lost(cx, nid);
            self.unheard(cx, nid);
        }
    }

    /// A node is heard by this NID no longer: whatever it was, the next message to any of its NIDs asks.
    pub(super) fn unheard(&mut self, cx: &Cx, nid: Nid) {
        if self.aliases.heard_by(nid) == Some(nid) {
            self.post_all(cx, || Body::Unheard(nid));
            self.unheard_there(nid);
        }
    }

    /// Another shard's word of that: the node of this NID is to be asked again.
    pub(super) fn unheard_there(&mut self, nid: Nid) {
        if self.aliases.set_heard(nid, false) {
            self.discovery.news.push_back(News::Unheard(nid));
        }
    }

    /// All entries that stand by the word of a node are to ask again.
    pub(super) fn unheard_here<L: Lnd<Lnet>>(&mut self, cx: &Cx, lnds: &[L], nid: Nid) {
        let nids: Vec<Nid> = self.aliases.nids(nid).unwrap_or_default().to_vec();
        nids.iter().for_each(|nid| self.end_moot(cx, *nid));
        for id in nids.into_iter().map(ProcessId::lustre) {
            let peers: Vec<Key> = lnds.iter().filter_map(|l| l.find(id)).collect();
            peers.into_iter().for_each(|peer| self.lose(peer));
            self.far_lose(id.nid);
        }
    }

    fn lose(&mut self, peer: Key) {
        let serial = self.peers.get_mut(peer).and_then(|p| p.discovery.lose());
        if let Some(serial) = serial {
            self.discovery.asked.remove(&serial);
        }
    }
}
