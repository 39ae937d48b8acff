//! A capture as the dialogue of its nodes: LNet messages of each pair in order, and the RPCs of lnet_selftest in them.

use std::collections::HashMap;
use std::path::Path;

use pcap_file::PcapError;

use super::capture::{Dir, Flow, Located, Msg, Segment, flows, good_messages};
use super::net::Net;
use super::srpc::{self, Srpc, service};
use crate::wire::{LnetBody, LnetHdr, Nid, Version, WireHandle, ping};

/// A message that a node said to another.
#[derive(Clone, Debug)]
pub struct Said {
    /// Time at which its last byte was captured, in ns.
    pub at: u64,
    /// The connection, from 1 as in the list beside the capture, and its version.
    pub conn: usize,
    /// Its version.
    pub version: Version,
    /// The header.
    pub hdr: LnetHdr,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Said {
    /// The portal that it goes to, if it goes to one.
    pub fn portal(&self) -> Option<u32> {
        match self.hdr.body {
            LnetBody::Put { portal, .. } | LnetBody::Get { portal, .. } => Some(portal),
            LnetBody::Reply { .. } | LnetBody::Ack { .. } => None,
        }
    }

    /// Its match bits, if it has some.
    pub fn bits(&self) -> Option<u64> {
        match self.hdr.body {
            LnetBody::Put { match_bits, .. } | LnetBody::Get { match_bits, .. } => Some(match_bits),
            LnetBody::Reply { .. } | LnetBody::Ack { .. } => None,
        }
    }

    /// A ping, or a push.
    pub fn is_ping(&self) -> bool {
        (self.portal(), self.bits()) == (Some(ping::PORTAL), Some(ping::MATCH_BITS))
    }

    /// The initiator's handle in a request, or in its answer.
    pub fn handle(&self) -> WireHandle {
        match self.hdr.body {
            LnetBody::Ack { handle, .. } | LnetBody::Get { handle, .. } | LnetBody::Reply { handle } => {
                handle
            }
            LnetBody::Put { ack, .. } => ack,
        }
    }

    /// The request or reply of lnet_selftest in it.
    pub fn srpc(&self) -> Option<Srpc> {
        let put = matches!(self.hdr.body, LnetBody::Put { .. });
        let m = Srpc::of(&self.payload);
        let selftest = matches!(self.portal(), Some(srpc::TESTS..=srpc::BULK));
        (put && selftest && (self.portal() != Some(srpc::BULK) || m.is_whole())).then_some(m)
    }
}

/// All messages of a capture, in order. A message that crosses a router counts on the hop of its source.
///
/// # Errors
/// Those of the file reader.
pub fn said(path: &Path) -> Result<Vec<Said>, PcapError> {
    Ok(of_flows(&flows(path)?))
}

/// All messages on these connections of a simulated network that keeps what its ends push.
pub fn on_wire(net: &Net, links: impl IntoIterator<Item = usize>) -> Vec<Said> {
    let dir = |link, end| {
        let mut dir = Dir::default();
        dir.segments.push(Segment { at: 0, bytes: net.wire(link, end).0.to_vec() });
        dir
    };
    let flow = |link| {
        let [active, passive] = net.addresses(link);
        Flow { active, passive, from_start: true, a: dir(link, 0), p: dir(link, 1), signs: Vec::new() }
    };
    of_flows(&links.into_iter().map(flow).collect::<Vec<_>>())
}

/// The same of connections that were read already.
pub fn of_flows(flows: &[Flow]) -> Vec<Said> {
    let mut out = Vec::new();
    for (n, flow) in flows.iter().enumerate() {
        let version = flow.version();
        for (active, dir) in [(true, &flow.a), (false, &flow.p)] {
            let from = if active { flow.active } else { flow.passive };
            let (list, ..) = good_messages(dir, active, flow.from_start, version);
            for Located { msg, range, at } in list {
                if let Msg::Lnet(_, hdr, payload) = msg
                    && hdr.src_nid.ip() == Some(from.ip())
                {
                    out.push((range.start, Said { at, conn: n + 1, version, hdr, payload }));
                }
            }
        }
    }
    out.sort_by_key(|(start, s)| (s.at, s.conn, *start));
    out.into_iter().map(|o| o.1).collect()
}

/// An RPC: places of its messages in the dialogue.
#[derive(Clone, Debug)]
pub struct Rpc {
    /// The one that asked.
    pub client: Nid,
    /// The one that was asked.
    pub server: Nid,
    /// The service, which is the match bits of the request.
    pub service: u64,
    /// The request.
    pub request: usize,
    /// The reply, if it came.
    pub reply: Option<usize>,
    /// GET, REPLY or PUT of the bulk.
    pub bulk: Vec<usize>,
}

/// The RPCs of a dialogue, in the order of their requests.
pub fn rpcs(said: &[Said]) -> Vec<Rpc> {
    let mut out: Vec<Rpc> = Vec::new();
    // By the NID that asked, and the match bits of the reply or of the bulk.
    let (mut replies, mut bulks) = (HashMap::new(), HashMap::new());
    let mut gets: HashMap<WireHandle, usize> = HashMap::new();
    for (n, s) in said.iter().enumerate() {
        let (src, dest) = (s.hdr.src_nid, s.hdr.dest_nid);
        match (s.hdr.body, s.portal()) {
            (LnetBody::Put { match_bits, .. }, Some(srpc::TESTS | srpc::FRAMEWORK)) => {
                let m = Srpc::of(&s.payload);
                if m.has("rpyid") {
                    replies.insert((src, m.get("rpyid")), out.len());
                }
                if m.has("bulkid") && m.get("bulkid") != 0 {
                    bulks.insert((src, m.get("bulkid")), out.len());
                }
                out.push(Rpc {
                    client: src,
                    server: dest,
                    service: match_bits,
                    request: n,
                    reply: None,
                    bulk: Vec::new(),
                });
            }
            (LnetBody::Put { match_bits, .. } | LnetBody::Get { match_bits, .. }, Some(srpc::BULK)) => {
                if let Some(rpc) = bulks.get(&(dest, match_bits)) {
                    out[*rpc].bulk.push(n);
                    gets.insert(s.handle(), *rpc);
                } else if let Some(rpc) = replies.get(&(dest, match_bits)) {
                    out[*rpc].reply = Some(n);
                }
            }
            (LnetBody::Reply { handle }, _) => {
                if let Some(rpc) = gets.get(&handle) {
                    out[*rpc].bulk.push(n);
                }
            }
            _ => {}
        }
    }
    out
}

/// Whether a service's RPC has bulk: a test for a client, and BRW.
pub fn has_bulk(request: &Srpc, of: u64) -> bool {
    match of {
        service::TEST => request.get("is_client") == 1,
        service::BRW => true,
        _ => false,
    }
}
