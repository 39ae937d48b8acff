//! Handles, cookies and incarnations of a machine in a captured node's place (`place.rs`): what it writes has those that the node
//! had, what it hears has its own, and what both sides had told each other before the capture began is said to it.

use transport::node::Input;
use transport::stream::{ConnInfo, Happened};
use transport::testing::capture::{Located, Msg};
use transport::wire::{
    AcceptorReq, ByteOrder, ConnType, Hello, KsockHdr, KsockType, LnetBody, LnetHdr, Nid, WireHandle, ksock,
    ping,
};

use crate::id;
use crate::place::{Asked, Case, INVENTED, NEAR, Play, START, handle_of, is_users, request};

/// The type of a kernel's connection, by its port in a set of three.
fn by_port(port: u16) -> ConnType {
    match port {
        1023 => ConnType::Control,
        1022 => ConnType::BulkIn,
        _ => ConnType::BulkOut,
    }
}

impl Play {
    /// Keeps the bytes that the machine writes, with the cookies and handles that the kernel had.
    pub(super) fn said(&mut self, n: usize, mut bytes: Vec<u8>) {
        let (peer, own, version) = (self.links[n].peer, self.links[n].own, self.links[n].version);
        let ksm = version.hdr_len() - version.lnet_len();
        if !self.begun {
            let answer = match bytes.get(ksm..).map(|b| LnetHdr::parse_as(version, b)) {
                Some(Ok(LnetHdr { body, payload_len, .. })) => match body {
                    LnetBody::Put { ack: handle, match_bits, portal: ping::PORTAL, .. } => {
                        Some(LnetBody::Ack { handle, match_bits, mlength: payload_len })
                    }
                    LnetBody::Get { match_bits: INVENTED, .. } => None,
                    LnetBody::Get { handle, portal: ping::PORTAL, .. } => Some(LnetBody::Reply { handle }),
                    _ => None,
                },
                _ => None,
            };
            self.answers.extend(answer.map(|a| (n, a)));
            self.links[n].skipped += bytes.len();
            return;
        }
        let skip = AcceptorReq::parse(&bytes).map_or(0, |(_, len)| len);
        if let Some(&src_incarnation) = self.incarnations.get(&own)
            && let Ok((h, len)) = Hello::parse(&bytes[skip..])
            && self.links[n].wrote.is_empty()
        {
            let hello = Hello { src_incarnation, ..h }.emit();
            bytes[skip..skip + len].copy_from_slice(&hello);
        }
        let shaken = self.links[n].wrote.len() + self.links[n].skipped > 0;
        if shaken && let Ok(k) = KsockHdr::parse(&bytes, ByteOrder::Little) {
            if k.kind == KsockType::Noop {
                self.acks.push((false, n, k.cookie1));
            }
            if k.kind == KsockType::Lnet && k.cookie0 != 0 {
                let cookie0 = k.cookie0 + self.cookies.get(&(self.links[n].own, peer)).copied().unwrap_or(0);
                bytes[..ksock::LEN].copy_from_slice(&KsockHdr { cookie0, ..k }.emit(ByteOrder::Little));
            }
            if k.kind == KsockType::Lnet
                && let Ok(mut h) = LnetHdr::parse_as(version, &bytes[ksm..])
                && let Some((hdr, ours)) = request(own, &h)
            {
                // The one of the same content that was captured next to this time, by the same pair of NIDs if there is one.
                let (payload, now) = (&bytes[ksm + version.lnet_len()..], self.now.saturating_sub(START));
                let near = NEAR[usize::from(!is_users(&hdr))];
                let same = |a: &&mut Asked| {
                    let like = (a.hdr.body, a.ours) == (hdr.body, None) && a.payload == *payload;
                    like && a.at.abs_diff(now) < near
                };
                let pair = |a: &Asked| (a.hdr.src_nid, a.hdr.dest_nid) == (hdr.src_nid, hdr.dest_nid);
                let next = |a: &&mut Asked| (!pair(a), a.at.abs_diff(now));
                match self.asked.iter_mut().filter(same).min_by_key(next) {
                    Some(a) => {
                        a.ours = Some(ours);
                        *handle_of(&mut h.body).unwrap() = a.handle;
                    }
                    // It has a connection dialled: nothing that was captured stands for it.
                    None if matches!(h.body, LnetBody::Get { match_bits: INVENTED, .. }) => return,
                    None => {}
                }
                bytes[ksm..ksm + version.lnet_len()].copy_from_slice(&h.emit_as(version));
            }
        }
        self.links[n].wrote.extend(bytes);
    }

    /// A message of a neighbour, with the cookies and handles that our machine has.
    pub(super) fn turn(&mut self, n: usize, m: &Located) {
        let (peer, version) = (self.links[n].peer, self.links[n].version);
        let more = self.cookies.get(&(self.links[n].own, peer)).copied().unwrap_or(0);
        let bytes = &mut self.links[n].stream[m.range.clone()];
        let ksm = version.hdr_len() - version.lnet_len();
        match &m.msg {
            Msg::Noop(k) if k.cookie1 > 1 => {
                self.acks.push((true, n, k.cookie1));
                let cookie0 = if k.cookie0 == 0 { 0 } else { k.cookie0 - more };
                let k = KsockHdr { cookie0, cookie1: k.cookie1 - more, ..*k };
                bytes[..ksock::LEN].copy_from_slice(&k.emit(ByteOrder::Little));
            }
            Msg::Lnet(_, h, _) => {
                let mut h = *h;
                if let LnetBody::Reply { handle } | LnetBody::Ack { handle, .. } = &mut h.body
                    && let Some(a) = self.asked.iter().find(|a| (a.peer, a.handle) == (peer, *handle))
                    && let Some(ours) = a.ours
                {
                    *handle = ours;
                    bytes[ksm..ksm + version.lnet_len()].copy_from_slice(&h.emit_as(version));
                }
            }
            _ => {}
        }
    }

    /// The handle of a request that the router has made by then, and ours has not: what is said of it comes when it has.
    pub(super) fn is_early(&self, n: usize, msg: &Msg) -> Option<WireHandle> {
        let Msg::Lnet(_, LnetHdr { body: LnetBody::Reply { handle } | LnetBody::Ack { handle, .. }, .. }, _) =
            msg
        else {
            return None;
        };
        let made = |a: &Asked| (a.peer, a.handle, a.ours) == (self.links[n].peer, *handle, None);
        self.asked.iter().any(made).then_some(*handle)
    }

    /// Answers that came before ours had asked.
    pub(super) fn late_answers(&mut self) {
        for (n, handle, mut bytes) in std::mem::take(&mut self.early) {
            let version = self.links[n].version;
            let ksm = version.hdr_len() - version.lnet_len();
            let ours = self.asked.iter().find(|a| (a.peer, a.handle) == (self.links[n].peer, handle));
            let Some(ours) = ours.and_then(|a| a.ours) else {
                self.early.push((n, handle, bytes));
                continue;
            };
            let mut h = LnetHdr::parse_as(version, &bytes[ksm..]).unwrap();
            if let LnetBody::Reply { handle } | LnetBody::Ack { handle, .. } = &mut h.body {
                *handle = ours;
            }
            bytes[ksm..ksm + version.lnet_len()].copy_from_slice(&h.emit_as(version));
            self.bytes(n, &bytes);
        }
    }

    /// Connections that were there when the capture began, and neighbours that had told of themselves.
    pub(super) fn set_up(&mut self, case: &Case) {
        let there: Vec<usize> = (0..self.links.len()).filter(|n| !self.links[*n].flow.from_start).collect();
        for n in there.iter().copied() {
            let (peer, own, version) = (self.links[n].peer, self.links[n].own, self.links[n].version);
            let dials = self.links[n].dials;
            let (mut local, mut remote) = (self.links[n].flow.passive, self.links[n].flow.active);
            // Whoever dialled it: here the other one has.
            let port = remote.port();
            if dials {
                (local, remote) = (remote, local);
            }
            self.links[n].open = true;
            self.input(Input::Stream(Happened::Opened(id(n), ConnInfo { local, remote, dial: None })));
            let req = AcceptorReq::new(own);
            let hello = Hello {
                version,
                order: ByteOrder::Little,
                tcp_magic: false,
                src_nid: peer,
                dst_nid: own,
                src_pid: 12345,
                dst_pid: 0,
                src_incarnation: case
                    .enabled
                    .is_none()
                    .then(|| self.their_incarnation(peer))
                    .flatten()
                    .unwrap_or(1),
                dst_incarnation: 0,
                ctype: match by_port(port) {
                    ConnType::BulkIn if dials => ConnType::BulkOut,
                    ConnType::BulkOut if dials => ConnType::BulkIn,
                    as_dialled => as_dialled,
                },
                ips: Default::default(),
            };
            let bytes = [&req.emit()[..req.wire_len()], &hello.emit()].concat();
            self.bytes(n, &bytes);
        }
        for n in there {
            if by_port(self.links[n].flow.active.port()) != ConnType::Control {
                continue;
            }
            let info = case.info_of(self.links[n].peer);
            let ack = WireHandle { interface: 7, object: 7 };
            let (match_bits, portal) = (ping::MATCH_BITS, ping::PORTAL);
            self.message(n, LnetBody::Put { ack, match_bits, hdr_data: 0, portal, offset: 0 }, &info);
        }
        while let Some((n, answer)) = self.answers.pop_front() {
            let info = case.info_of(self.links[n].peer);
            let tells = matches!(answer, LnetBody::Reply { .. });
            self.message(n, answer, if tells { &info } else { &[] });
        }
    }

    /// The incarnation that a node says in the capture.
    fn their_incarnation(&self, peer: Nid) -> Option<u64> {
        let said = self.links.iter().filter(|l| l.peer == peer).flat_map(|l| &l.theirs);
        said.filter_map(|m| if let Msg::Hello(h) = &m.msg { Some(h.src_incarnation) } else { None }).next()
    }

    /// A message of a neighbour that is in no capture.
    fn message(&mut self, n: usize, body: LnetBody, payload: &[u8]) {
        let l = &self.links[n];
        let h = LnetHdr {
            dest_nid: l.own,
            src_nid: l.peer,
            dest_pid: 12345,
            src_pid: 12345,
            payload_len: payload.len() as u32,
            body,
        };
        let k = KsockHdr { kind: KsockType::Lnet, csum: 0, cookie0: 0, cookie1: 0 };
        let bytes = [&k.emit(ByteOrder::Little)[..], &h.emit_as(l.version), payload].concat();
        self.bytes(n, &bytes);
    }
}
