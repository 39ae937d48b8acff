//! Discovery as kernels do it (docs/protocol/lnet.md §6.3, §6.4): the first PUT to a peer waits for a ping, and where both sides
//! say that they take part, for the acknowledgement of a push.

use super::super::net::Net;
use super::{Kernel, Out, TIMEOUT};
use crate::wire::{LnetBody, PingInfo, WireHandle, ping};

/// Features that it tells of itself: NI_STATUS, no routing, Multi-Rail, discovery.
const FEATURES: u32 = 0x1e;
/// Features of those who push.
const PUSHERS: u32 = ping::FEAT_MULTI_RAIL | ping::FEAT_DISCOVERY;

/// Progress of its discovery of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Known {
    #[default]
    No,
    /// The operation of this number is on its way since then: a ping, or a push.
    Asked(u64, u64),
    Pushed(u64, u64),
    Yes,
}

impl Kernel {
    /// Whether a PUT of its user's waits; it is kept then.
    pub(super) fn discovers(&mut self, net: &mut Net, body: LnetBody, payload: &[u8]) -> bool {
        if !self.cfg.discovery || self.known == Known::Yes {
            return false;
        }
        self.held.push(Out { body, payload: payload.to_vec(), since: net.now, token: 0 });
        self.discover(net);
        true
    }

    /// Asks its peer, unless it does already.
    fn discover(&mut self, net: &mut Net) {
        if !matches!(self.known, Known::No | Known::Yes) {
            return;
        }
        let handle = self.handle();
        self.known = Known::Asked(handle.object, net.now);
        self.peer.route = true;
        let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
        self.at(net.now + TIMEOUT, super::Due::Look);
        self.launch(
            net,
            LnetBody::Get { handle, match_bits, portal, src_offset: 0, sink_length: 272 },
            Vec::new(),
            0,
        );
    }

    fn handle(&mut self) -> WireHandle {
        self.next += 1;
        WireHandle { interface: self.cfg.incarnation, object: self.next }
    }

    pub(super) fn own_info(&self) -> Vec<u8> {
        let (mut bytes, pid) = (Vec::new(), crate::wire::ProcessId::lustre(self.cfg.nid).pid);
        let all = if self.cfg.nids.is_empty() { vec![self.cfg.nid] } else { self.cfg.nids.clone() };
        let sequence = 1 + all.len() as u32;
        PingInfo::new(all, pid, FEATURES, sequence).emit(&mut bytes);
        bytes
    }

    /// An operation of discovery was answered, a ping with `info`; `false` for one of its user's.
    pub(super) fn discovered(&mut self, net: &mut Net, object: u64, info: &[u8]) -> bool {
        match self.known {
            Known::Asked(n, _) if n == object => {
                let info = PingInfo::parse(info);
                // It would ask again without pause, hundreds of times a second.
                let info = info.unwrap_or_else(|e| panic!("an info that a kernel never has enough of: {e}"));
                assert!(info.nids().any(|n| n == self.them), "{info:?} does not name {}", self.them);
                self.features = info.features;
                if info.features & PUSHERS == PUSHERS {
                    let ack = self.handle();
                    self.known = Known::Pushed(ack.object, net.now);
                    self.seen.pushes += 1;
                    let (match_bits, portal, bytes) = (ping::MATCH_BITS, ping::PORTAL, self.own_info());
                    self.launch(
                        net,
                        LnetBody::Put { ack, match_bits, hdr_data: 0, portal, offset: 0 },
                        bytes,
                        0,
                    );
                } else {
                    self.release(net);
                }
            }
            Known::Pushed(n, _) if n == object => {
                self.seen.pushes_acked += 1;
                self.release(net);
            }
            _ => return false,
        }
        true
    }

    /// Messages that waited go.
    fn release(&mut self, net: &mut Net) {
        self.known = Known::Yes;
        for m in std::mem::take(&mut self.held) {
            self.launch(net, m.body, m.payload, m.token);
        }
    }

    /// Discovery has failed, and what waited with it.
    pub(super) fn undiscovered(&mut self) {
        self.known = Known::No;
        for m in std::mem::take(&mut self.held) {
            self.failed(&m.body, m.token);
        }
    }

    /// An operation of discovery lasts too long.
    pub(super) fn discovery_overdue(&mut self, now: u64) {
        if let Known::Asked(_, since) | Known::Pushed(_, since) = self.known
            && since + TIMEOUT <= now
        {
            self.undiscovered();
        }
    }

    /// A push of ours: taken if it knows us as Multi-Rail; else we are asked, before the ACK leaves.
    pub(super) fn pushed(&mut self, net: &mut Net, bytes: &[u8]) {
        let info = PingInfo::parse(bytes).unwrap_or_else(|e| panic!("a push that a kernel throws away: {e}"));
        assert_ne!(info.features & PUSHERS, 0, "who pushes says that it does");
        self.seen.pushes_taken += 1;
        self.features = info.features;
        if self.cfg.discovery && self.known == Known::No {
            self.discover(net);
        }
    }
}
