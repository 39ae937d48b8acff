//! Answers that come to another shard than the one whose operation they answer: by another gateway, or by another NID of the peer,
//! than the request went (docs/protocol/upper.md §1.2).
//!
//! The handle in an ACK or REPLY tells which shard began the operation. That one is asked; where the operation's home has moved since,
//! the shards pass the question on, twice round. Anybody can make handles up: one is passed on only while an operation that began
//! there and went elsewhere can be under way, and if that shard has given it at all. An ACK travels as a whole. A REPLY waits on its connection for its place,
//! and what was stored there goes the same way.
//!
//! ```text
//!   connection's home                              operation's home
//!            ── Seek: a REPLY of so many bytes ────────>  takes the sink out
//!            <──────────────── Placed: the sink ──
//!   reads the payload
//!            ── Seek: stored ──────────────────────────>  ends the operation
//! ```

use super::ops::{OpKind, PutTold};
use super::remote::{Body, Placed, Seek, Sought};
use super::{Delivery, Lnet};
use crate::lnd::{
    AppId, Arrived, Config, Cx, Data, Dest, Hold, Lnd, LnetError, Owner, Placement, Shards, Stored, Ticket,
};
use crate::stream::ShardId;
use crate::stream::slab::Key;
use crate::wire::{Nid, WireHandle};

impl Lnet {
    /// The shard that began the operation of this handle; `None` where no shard of this node can have.
    fn beginner(cfg: &Config, handle: WireHandle) -> Option<ShardId> {
        let (step, count) = (cfg.object_step.max(1), u64::from(cfg.shards.count.max(1)));
        let passed = handle.object.wrapping_sub(cfg.first_object);
        let ours = handle.interface == cfg.interface_cookie && passed.is_multiple_of(step);
        ours.then(|| ShardId((passed / step % count) as u16))
    }

    fn seek(&mut self, cx: &Cx, handle: WireHandle, what: Sought) -> bool {
        let Shards { me, count } = cx.cfg.shards;
        let Some(beginner) = Lnet::beginner(&cx.cfg, handle).filter(|_| count > 1) else { return false };
        // It has been looked for here.
        let at = if beginner == me { after(me, count) } else { beginner };
        let stored = matches!(what, Sought::Stored { .. });
        if beginner == me && !stored && !self.ops.may_be_elsewhere(cx.now, handle.object) {
            return false;
        }
        self.post(at, Body::Seek(Box::new(Seek { left: 2 * count, what })));
        true
    }

    /// An ACK for no operation of this shard's; gives whether another one is asked.
    pub(super) fn seek_ack(&mut self, cx: &Cx, handle: WireHandle, source: Nid, mlength: u32) -> bool {
        self.seek(cx, handle, Sought::Ack { handle, source, mlength })
    }

    /// A REPLY for no operation of this shard's: it waits while another one is asked. Gives whether it does.
    pub(super) fn seek_place<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        msg: &Arrived,
        handle: WireHandle,
    ) -> bool {
        let Some(ticket) = lnd.ticket(msg.key) else { return false };
        let what = Sought::Place { handle, source: msg.hdr.src_nid, len: msg.hdr.payload_len, ticket };
        let asks = self.seek(cx, handle, what);
        if asks {
            lnd.hold(self, cx, msg.key, Hold::Match);
        }
        asks
    }

    /// A REPLY has been stored for an operation of another shard, or will not be.
    pub(super) fn stored_elsewhere(&mut self, cx: &Cx, object: u64, len: u32, stored: Stored) {
        let handle = WireHandle { interface: cx.cfg.interface_cookie, object };
        self.seek(cx, handle, Sought::Stored { object, len, stored });
    }

    /// Another shard asks for an operation.
    pub(super) fn sought(&mut self, cx: &mut Cx, mut seek: Box<Seek>) {
        let op = match &seek.what {
            Sought::Ack { handle, source, .. } | Sought::Place { handle, source, .. } => {
                self.ops.find(*handle, *source, &self.aliases)
            }
            Sought::Stored { object, .. } => self.ops.by_object(*object),
        };
        let Some(op) = op else {
            let Shards { me, count } = cx.cfg.shards;
            if seek.left > 0 && self.passes_seek(cx, &seek.what) {
                seek.left -= 1;
                return self.post(after(me, count), Body::Seek(seek));
            }
            cx.counters.drop_stale_handle += 1;
            if let Sought::Place { handle, ticket, .. } = seek.what {
                self.post_placed(cx, ticket, Placed { object: handle.object, dest: None });
            }
            return;
        };
        match seek.what {
            Sought::Ack { mlength, .. } => match self.ops.put_acked(op, Some(cx.now)) {
                Some(PutTold { app, tag, done, .. }) => self.complete_ack(app, tag, mlength, done),
                None => cx.counters.drop_stale_handle += 1,
            },
            Sought::Place { handle, len, ticket, .. } => {
                let dest = self.place_of(cx, op, len).ok();
                self.post_placed(cx, ticket, Placed { object: handle.object, dest });
            }
            Sought::Stored { len, stored, .. } => self.replied(cx, op, stored, len),
        }
    }

    /// Whether the operation that is sought, and is not here, can be elsewhere: its beginner knows.
    fn passes_seek(&self, cx: &Cx, what: &Sought) -> bool {
        let handle = match what {
            Sought::Ack { handle, .. } | Sought::Place { handle, .. } => *handle,
            // Nobody makes that up.
            Sought::Stored { .. } => return true,
        };
        let beginner = Lnet::beginner(&cx.cfg, handle);
        beginner != Some(cx.cfg.shards.me) || self.ops.may_be_elsewhere(cx.now, handle.object)
    }

    fn post_placed(&mut self, cx: &Cx, ticket: Ticket, placed: Placed) {
        self.post(cx.homes.at(ticket.bucket), Body::Placed(ticket, Box::new(placed)));
    }

    /// The shard that has a REPLY's operation has said where it goes.
    pub(super) fn placed<L: Lnd<Lnet>>(
        &mut self,
        cx: &mut Cx,
        lnd: &mut L,
        ticket: Ticket,
        placed: Box<Placed>,
    ) {
        let home = cx.homes.at(ticket.bucket);
        if home != cx.cfg.shards.me {
            // The connection has moved since it asked.
            return self.post(home, Body::Placed(ticket, placed));
        }
        let Placed { object, dest } = *placed;
        match (lnd.held(&ticket), dest) {
            (Some(msg), Some((app, dest))) => {
                let len = msg.hdr.payload_len;
                let sum = msg.sum.clone().filter(|_| len > 0);
                let placement = Placement::new(dest, len, Owner::App(app).into(), sum);
                lnd.recv(self, cx, msg.key, &mut Some(placement), Delivery::Elsewhere(object), len);
                lnd.read(self, cx, msg.key);
            }
            (Some(msg), None) => {
                self.drop_counted((lnd.ni(), Some(msg.peer)), &msg.hdr);
                lnd.skip(self, cx, msg.key);
                lnd.read(self, cx, msg.key);
            }
            (None, Some((_, dest))) => {
                let status = Err(LnetError::ConnLost);
                let stored = Stored { dest: Some(dest), data: Data::Discarded, status };
                self.stored_elsewhere(cx, object, 0, stored);
            }
            (None, None) => {}
        }
    }

    /// The place for a REPLY of so many bytes, taken out of its operation, and whose that is. Where there is none the operation ends;
    /// but not where another answer is being read.
    pub(super) fn place_of(&mut self, cx: &mut Cx, op: Key, len: u32) -> Result<(AppId, Dest), Unplaced> {
        let Some(rec) = self.ops.get_mut(op) else { return Err(Unplaced::Stale) };
        let app = rec.app;
        let why = match &mut rec.kind {
            OpKind::Get { sink } => match sink.take() {
                Some(s) if s.len() >= len => return Ok((app, Dest::Sink { sink: s, offset: 0 })),
                Some(s) => {
                    *sink = Some(s);
                    LnetError::TooLong
                }
                // A second answer while the first is being read.
                None => return Err(Unplaced::Stale),
            },
            OpKind::Ping { placing, sink, .. } if !*placing && len <= *sink => {
                *placing = true;
                return Ok((app, Dest::Own(Vec::with_capacity(len as usize))));
            }
            _ => LnetError::Malformed,
        };
        cx.counters.drop_too_long += u64::from(why == LnetError::TooLong);
        let event = self.ops.fail(op, cx.now, why);
        self.complete_some(event);
        Err(Unplaced::Failed)
    }
}

/// Reason why a REPLY has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unplaced {
    /// Nobody waits for it.
    Stale,
    /// Its operation has failed for it.
    Failed,
}

fn after(shard: ShardId, count: u16) -> ShardId {
    ShardId((shard.0 + 1) % count.max(1))
}
