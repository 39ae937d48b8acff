//! Discovery that others begin: pushes of ping info that come, and what applications ask for (docs/protocol/lnet.md §6.4).

use super::Lnet;
use super::discovery::{PAUSE, Standing, Step, Subject};
use crate::lnd::{AppId, Cx, Dest, Lnd, Owner, Placement};
use crate::stream::slab::Key;
use crate::wire::ksock::Checksum;
use crate::wire::{LnetBody, LnetHdr, PingInfo, ping};

/// Most room for a push: more is cut, and asked for by a ping. Connections that only begin one cost no more.
const PUSH_ROOM_MAX: u32 = 1040;

/// Whether a message is a push of ping info.
pub(super) fn is_push(h: &LnetHdr) -> bool {
    matches!(h.body, LnetBody::Put { portal: ping::PORTAL, match_bits: ping::MATCH_BITS, .. })
}

impl Lnet {
    /// Asks a node that is not known who it is, or with `force` one that is.
    pub(super) fn discover<L: Lnd<Lnet>>(&mut self, cx: &mut Cx, lnd: &mut L, subject: Subject, force: bool) {
        let asks = self.known(subject).is_some_and(|k| force || k.unsure());
        if cx.cfg.discovery && asks {
            self.step(cx, lnd, subject, Step::Ask);
        }
    }

    /// The place for a push, and how much of it is taken.
    pub(super) fn push_place(&self, hdr: &LnetHdr, sum: Option<Checksum>) -> (Option<Placement>, u32) {
        let mlength = hdr.payload_len.min(self.discovery.room);
        let sum = sum.filter(|_| mlength == hdr.payload_len && mlength > 0);
        let dest = Dest::Own(Vec::with_capacity(mlength as usize));
        let placement = Placement::new(dest, mlength, Owner::App(AppId::NODE).into(), sum);
        (Some(placement).filter(|_| mlength > 0), mlength)
    }

    /// A push has come, and has been acknowledged. It is taken, of a stranger, too, as an answer to our ping would be: but of one
    /// that is not Multi-Rail, and where it is cut, the peer is asked. What makes no sense is nothing.
    pub(super) fn pushed<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        peer: Key,
        hdr: &LnetHdr,
        bytes: &[u8],
    ) {
        cx.counters.pushes_rx += 1;
        let Some(p) = self.peers.get(peer) else { return };
        let (by, host) = (p.id.nid, p.host);
        let (whole, mut introduced) = (bytes.len() == hdr.payload_len as usize, false);
        let info = PingInfo::parse(bytes);
        if cx.down {
            return;
        }
        if whole && let Ok(info) = &info {
            self.gateway_tells(cx, by, hdr.src_nid, info);
        }
        if !cx.cfg.discovery {
            return;
        }
        // A peer that speaks for others is not asked about them, unless it is the gateway to them.
        let subject = if by == hdr.src_nid {
            Subject::from(peer)
        } else if self.routes.get(hdr.src_nid.net(), by).is_some_and(|r| !r.is_of_gateway(hdr.src_nid))
            && let Some(far) = self.far_subject(lnd.ni(), peer, hdr.src_nid)
        {
            far
        } else {
            return;
        };
        if whole && info.is_err() {
            cx.counters.err_ping_info += 1;
            return;
        }
        let now = cx.now;
        let is_alias = self.aliases.is_told(hdr.src_nid);
        if !whole {
            // Large enough for what was pushed, in steps that do not follow each byte.
            let wanted = hdr.payload_len.min(PUSH_ROOM_MAX);
            self.discovery.room = self.discovery.room.max(wanted);
            let sink = ping::whole_len(bytes).unwrap_or(hdr.payload_len).min(ping::LEN_MAX);
            self.discovery.sink = self.discovery.sink.max(sink);
        } else if let Some(known) = self.known(subject)
            && (is_alias
                || info.as_ref().is_ok_and(|i| i.features & ping::FEAT_MULTI_RAIL != 0)
                    && !known.is_quiet(now)
                    && !cx.budget.over(host))
        {
            introduced = known.standing.apply(Step::Heard).is_some();
        }
        let Some(known) = self.known(subject) else { return };
        match (known.standing.get(), info) {
            (Standing::Known | Standing::Telling | Standing::Stale, Ok(info)) if whole => {
                let features = known.more().features | if introduced || is_alias { !0 } else { 0 };
                if features & info.features & ping::FEAT_MULTI_RAIL != 0 {
                    cx.counters.pushes_taken += 1;
                    if self.take_info(cx, subject, &info) {
                        self.step(cx, lnd, subject, Step::Tell);
                    }
                }
            }
            (Standing::Unknown | Standing::Known, _) => {
                let more = known.more();
                if now >= more.pushes_from.max(more.quiet_until) && !cx.budget.over(host) {
                    more.pushes_from = now + PAUSE;
                    self.step(cx, lnd, subject, Step::Ask);
                }
            }
            _ => {}
        }
    }
}
