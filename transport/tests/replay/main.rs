//! Tools of the replays: bytes for a machine, the handles that differ from a kernel's, and the operations behind
//! captured messages. `play` is a node in the place of one of a capture's, in the capture's time.
#![allow(missing_docs, unreachable_pub, reason = "a program of tests has no users")]

mod as_captured;
mod compare;
mod dialogues;
mod differ;
pub mod lst;
pub mod orders;
pub mod place;
pub mod play;
mod replay_among_us;
mod replay_crashes;
mod replay_kernel;
mod replay_netsock;
mod replay_pairs;
mod replay_pollnd;
mod replay_probes;
mod replay_rails;
mod replay_router;
mod replay_routes;
mod replay_selftest;
mod replay_sets;
mod replay_two_nis;
pub mod sessions;
mod slots;
pub mod tables;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;

use hugepages::PageSlice;
use transport::lnd::Sink;
use transport::lnet::Op;
use transport::node::{Input, Machine};
use transport::stream::{ConnId, Happened, LendId, SendMsg, ShardId};
use transport::testing::capture::Msg;
pub use transport::testing::data::{Queue, payload as pages};
pub use transport::testing::net::SEC;
use transport::wire::{
    ByteOrder, KsockHdr, LnetBody, LnetHdr, Nid, ProcessId, Version, WireHandle, ksock, ping,
};

/// Whole segments (or messages, where a capture is cut by them), and one byte at a time.
pub const CHUNKS: [usize; 2] = [1 << 16, 1];

/// Path of a folder of captures.
pub fn folder(name: &str) -> PathBuf {
    PathBuf::from(format!("{}/../testdata/captures/{name}", env!("CARGO_MANIFEST_DIR")))
}

/// The names of a folder's captures.
pub fn captures(name: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder(name))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "pcap"))
        .map(|p| p.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The NID at an address.
pub fn nid(addr: SocketAddr) -> Nid {
    Nid::tcp(addr.ip(), 0)
}

/// The machine's name for a capture's connection.
pub fn id(n: usize) -> ConnId {
    ConnId { shard: ShardId(0), index: n as u32, generation: 0 }
}

/// Whether `said` answers the request of a message.
pub fn answers(request: &Msg, said: &Msg) -> bool {
    let (Msg::Lnet(_, request, _), Msg::Lnet(_, said, _)) = (request, said) else { return false };
    match (request.body, said.body) {
        (LnetBody::Put { ack, .. }, LnetBody::Ack { handle, .. }) => ack == handle,
        (LnetBody::Get { handle: asked, .. }, LnetBody::Reply { handle }) => asked == handle,
        _ => false,
    }
}

/// Pages on loan to a peer that acknowledges at once: they are home unless they are held.
#[derive(Default)]
pub struct Loans {
    held: BTreeSet<LendId>,
    home: Vec<LendId>,
}

impl Loans {
    /// A message is sent: gives its bytes.
    pub fn sent(&mut self, msg: &SendMsg) -> Vec<u8> {
        match msg.lend {
            Some(id) if msg.hold => drop(self.held.insert(id)),
            Some(id) => self.home.push(id),
            None => {}
        }
        msg.hdr.iter().chain(msg.pay.iter().flat_map(PageSlice::chunks).flatten()).copied().collect()
    }

    /// The hold of a message is lifted.
    pub fn unhold(&mut self, id: LendId) {
        assert!(self.held.remove(&id));
        self.home.push(id);
    }

    /// Tells the machine of the pages that are home.
    pub fn release(&mut self, machine: &mut Machine, now: u64) {
        for id in std::mem::take(&mut self.home) {
            machine.handle(now, Input::Stream(Happened::Released(id)));
        }
    }
}

/// The machine's handle for each of the captured node's: which numbers a node picks is its own affair.
#[derive(Default)]
pub struct Handles {
    map: HashMap<WireHandle, WireHandle>,
    given: u64,
}

impl Handles {
    /// The machine will give the request `captured` its next handle; `None` for one that was not captured.
    fn expect(&mut self, machine: &Machine, captured: Option<WireHandle>) {
        let cfg = machine.config();
        let object = cfg.first_object + cfg.object_step * self.given;
        self.given += 1;
        if let Some(captured) = captured {
            self.map.insert(captured, WireHandle { interface: cfg.interface_cookie, object });
        }
    }

    /// The machine's handle for a captured one.
    pub fn ours(&self, captured: WireHandle) -> Option<WireHandle> {
        self.map.get(&captured).copied()
    }

    /// The captured handle for one of the machine's.
    pub fn captured(&self, ours: WireHandle) -> Option<WireHandle> {
        self.map.iter().find(|(_, o)| **o == ours).map(|(c, _)| *c)
    }

    /// An LNet message of the machine's, with the handles that the captured node gave its requests; `false` for a
    /// request of [`Handles::ping`]'s, which it never made.
    pub fn as_captured(&self, version: Version, bytes: &mut [u8]) -> bool {
        let mut known = true;
        turn(
            version,
            ByteOrder::Little,
            bytes,
            |h| {
                let captured = self.captured(h);
                known = captured.is_some() || h == WireHandle::NONE;
                captured
            },
            false,
        );
        known
    }

    /// A captured LNet message to the machine, with the handles that the machine gave its requests.
    pub fn as_ours(&self, version: Version, order: ByteOrder, bytes: &mut [u8]) {
        turn(version, order, bytes, |h| self.ours(h), true);
    }

    /// The operation that makes the machine send a captured request; `None` for what no application asks for.
    pub fn op(&mut self, machine: &Machine, msg: &Msg) -> Option<Op> {
        let Msg::Lnet(_, h, payload) = msg else { return None };
        let target = ProcessId { nid: h.dest_nid, pid: h.dest_pid };
        match h.body {
            LnetBody::Get { handle, match_bits: ping::MATCH_BITS, sink_length: 3960, .. } => {
                self.expect(machine, Some(handle));
                Some(Op::Ping { tag: 0, target })
            }
            LnetBody::Get { handle, portal, match_bits, sink_length, .. } => {
                self.expect(machine, Some(handle));
                Some(Op::Get {
                    tag: 0,
                    target,
                    from: None,
                    portal,
                    match_bits,
                    sink: Sink::Lend(sink_length),
                })
            }
            LnetBody::Put { portal, match_bits, offset, hdr_data, ack, .. } => {
                let payload = pages(payload);
                let wanted = ack != WireHandle::NONE;
                if wanted {
                    self.expect(machine, Some(ack));
                }
                let ack = wanted;
                Some(Op::Put {
                    tag: 0,
                    target,
                    from: None,
                    portal,
                    match_bits,
                    offset,
                    hdr_data,
                    payload,
                    ack,
                })
            }
            LnetBody::Ack { .. } | LnetBody::Reply { .. } => None,
        }
    }

    /// A ping of the machine's that no captured message stands for.
    pub fn ping(&mut self, machine: &Machine, target: Nid) -> Op {
        self.expect(machine, None);
        Op::Ping { tag: 0, target: ProcessId::lustre(target) }
    }
}

/// Turns handles in an LNet message into others: those of a request, or those of its answer. The sum of a V2
/// message is made anew, if it was right.
fn turn(
    version: Version,
    order: ByteOrder,
    bytes: &mut [u8],
    mut turn: impl FnMut(WireHandle) -> Option<WireHandle>,
    answer: bool,
) {
    let ksm = version.hdr_len() - version.lnet_len();
    let Some(Ok(mut h)) = bytes.get(ksm..).map(|b| LnetHdr::parse_as(version, b)) else { return };
    let handle = match &mut h.body {
        LnetBody::Get { handle, .. } | LnetBody::Put { ack: handle, .. } if !answer => handle,
        LnetBody::Reply { handle } | LnetBody::Ack { handle, .. } if answer => handle,
        _ => return,
    };
    let Some(to) = turn(*handle) else { return };
    *handle = to;
    let sum = |bytes: &[u8]| {
        let mut zeroed = bytes.to_vec();
        zeroed[4..8].fill(0);
        ksock::checksum(&zeroed)
    };
    let right = version == Version::V2
        && KsockHdr::parse(bytes, order).is_ok_and(|k| k.csum != 0 && k.csum == sum(bytes));
    bytes[ksm..ksm + version.lnet_len()].copy_from_slice(&h.emit_as(version));
    if right {
        let new = sum(bytes);
        ksock::put_csum(bytes, new, order);
    }
}
