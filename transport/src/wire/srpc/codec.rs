//! Reading and writing of the messages.

use super::{
    Body, FEAT_BULK_LEN, FrameworkCounters, LEN, LnetCounters, MAGIC, Message, Name, RpcCounters, Service,
    Sid, TestParams, TestReq, VERSION,
};
use crate::wire::bytes::{ByteOrder, array, put};
use crate::wire::{Nid, Pid, ProcessId, WireError};

/// Size of the part before the body, in bytes.
const HDR: usize = 24;

/// Reads the fields of a body.
struct Reader<'a>(ByteOrder, &'a [u8]);

impl Reader<'_> {
    fn u16(&self, at: usize) -> u16 {
        self.0.u16(self.1, HDR + at)
    }
    fn u32(&self, at: usize) -> u32 {
        self.0.u32(self.1, HDR + at)
    }
    fn u64(&self, at: usize) -> u64 {
        self.0.u64(self.1, HDR + at)
    }
    fn byte(&self, at: usize) -> bool {
        self.1.get(HDR + at).is_some_and(|b| *b != 0)
    }
    fn name(&self, at: usize) -> Name {
        Name(array(self.1, HDR + at))
    }
    fn sid(&self, at: usize) -> Sid {
        Sid { nid4: self.u64(at), stamp: self.u64(at + 8).cast_signed() }
    }
    fn u32s<const N: usize>(&self, at: usize) -> [u32; N] {
        std::array::from_fn(|i| self.u32(at + 4 * i))
    }
}

/// Writes the fields of a body.
struct Writer<'a>(ByteOrder, &'a mut [u8]);

impl Writer<'_> {
    fn u16(&mut self, at: usize, v: u16) {
        self.0.put_u16(self.1, HDR + at, v);
    }
    fn u32(&mut self, at: usize, v: u32) {
        self.0.put_u32(self.1, HDR + at, v);
    }
    fn u64(&mut self, at: usize, v: u64) {
        self.0.put_u64(self.1, HDR + at, v);
    }
    fn byte(&mut self, at: usize, v: bool) {
        put(self.1, HDR + at, [u8::from(v)]);
    }
    fn name(&mut self, at: usize, v: &Name) {
        put(self.1, HDR + at, v.0);
    }
    fn sid(&mut self, at: usize, v: Sid) {
        self.u64(at, v.nid4);
        self.u64(at + 8, v.stamp.cast_unsigned());
    }
    fn u32s(&mut self, at: usize, vs: &[u32]) {
        vs.iter().enumerate().for_each(|(i, v)| self.u32(at + 4 * i, *v));
    }
    fn status(&mut self, status: u32, sid: Sid) {
        self.u32(0, status);
        self.sid(4, sid);
    }
    fn asked(&mut self, rpyid: u64, sid: Sid) {
        self.u64(0, rpyid);
        self.sid(8, sid);
    }
}

impl Message {
    /// A request or reply of ours: in little endian, as of all nodes that are known.
    pub fn new(features: u32, body: Body) -> Message {
        Message { order: ByteOrder::Little, version: VERSION, features, body }
    }

    /// Parses a message; its version is for the caller to judge.
    ///
    /// # Errors
    /// [`WireError::BadSrpcLength`], [`WireError::BadMagic`], [`WireError::BadSrpcType`].
    pub fn parse(buf: &[u8]) -> Result<Message, WireError> {
        if buf.len() != LEN {
            return Err(WireError::BadSrpcLength(buf.len()));
        }
        let Some(order) = ByteOrder::of_magic(buf, MAGIC) else {
            return Err(WireError::BadMagic { what: "lnet_selftest", got: ByteOrder::Little.u32(buf, 0) });
        };
        let features = order.u32(buf, 20);
        let body = parse_body(&Reader(order, buf), order.u32(buf, 8), features)?;
        Ok(Message { order, version: order.u32(buf, 4), features, body })
    }

    /// The bytes.
    pub fn emit(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        let o = self.order;
        o.put_u32(&mut out, 0, MAGIC);
        o.put_u32(&mut out, 4, self.version);
        o.put_u32(&mut out, 8, self.body.wire_type());
        o.put_u32(&mut out, 20, self.features);
        emit_body(&mut Writer(o, &mut out), &self.body);
        out
    }
}

fn parse_body(r: &Reader<'_>, kind: u32, features: u32) -> Result<Body, WireError> {
    let (rpyid, status) = (r.u64(0), r.u32(0));
    Ok(match kind {
        0 => Body::MakeSession { rpyid, sid: r.sid(8), force: r.u32(24), name: r.name(28) },
        1 => Body::MakeSessionReply { status, sid: r.sid(4), timeout: r.u32(20), name: r.name(24) },
        2 => Body::RemoveSession { rpyid, sid: r.sid(8) },
        3 => Body::RemoveSessionReply { status, sid: r.sid(4) },
        4 => Body::Batch {
            rpyid,
            sid: r.sid(8),
            batch: r.u64(24),
            opc: r.u32(32),
            testidx: r.u32(36),
            arg: r.u32(40),
        },
        5 => Body::BatchReply { status, sid: r.sid(4), active: r.u32(20), time: r.u32(24) },
        6 => Body::Stat { rpyid, sid: r.sid(8), kind: r.u32(24) },
        7 => stat_reply(r),
        8 => test(r, features),
        9 => Body::TestReply { status, sid: r.sid(4) },
        10 => Body::Debug { rpyid, sid: r.sid(8), flags: r.u32(24) },
        11 => Body::DebugReply {
            status,
            sid: r.sid(4),
            timeout: r.u32(20),
            nbatch: r.u32(24),
            name: r.name(28),
        },
        12 => Body::Brw { rpyid, bulkid: r.u64(8), rw: r.u32(16), len: r.u32(20), flags: r.u32(24) },
        13 => Body::BrwReply { status },
        14 => Body::Ping { rpyid, magic: r.u32(8), seq: r.u32(12), secs: r.u64(16), nanos: r.u64(24) },
        15 => Body::PingReply { status, magic: r.u32(4), seq: r.u32(8) },
        16 => Body::Join { rpyid, sid: r.sid(8), group: r.name(24) },
        17 => Body::JoinReply { status, sid: r.sid(4), timeout: r.u32(20), session: r.name(24) },
        other => return Err(WireError::BadSrpcType(other)),
    })
}

fn stat_reply(r: &Reader<'_>) -> Body {
    let [running_ms, active_batches, zombie_sessions, brw_errors, ping_errors] = r.u32s(20);
    let [errors, rpcs_sent, rpcs_rcvd, rpcs_dropped, rpcs_expired] = r.u32s(40);
    let [msgs_alloc, msgs_max, lnet_errors, send_count, recv_count, route_count, drop_count] = r.u32s(76);
    Body::StatReply {
        status: r.u32(0),
        sid: r.sid(4),
        fw: FrameworkCounters { running_ms, active_batches, zombie_sessions, brw_errors, ping_errors },
        rpc: RpcCounters {
            errors,
            rpcs_sent,
            rpcs_rcvd,
            rpcs_dropped,
            rpcs_expired,
            bulk_get: r.u64(60),
            bulk_put: r.u64(68),
        },
        lnet: LnetCounters {
            msgs_alloc,
            msgs_max,
            errors: lnet_errors,
            send_count,
            recv_count,
            route_count,
            drop_count,
            send_length: r.u64(104),
            recv_length: r.u64(112),
            route_length: r.u64(120),
            drop_length: r.u64(128),
        },
    }
}

fn test(r: &Reader<'_>, features: u32) -> Body {
    let service = r.u32(40);
    // Neither the number of destinations nor the parameters are aligned.
    let params = match Service::by_id(service) {
        Some(Service::Ping) => TestParams::Ping { size: r.u32(58), flags: r.u32(62) },
        Some(Service::Brw) if features & FEAT_BULK_LEN == 0 => {
            TestParams::BrwV0 { opc: r.u32(58), npages: r.u32(62), flags: r.u32(66) }
        }
        Some(Service::Brw) => {
            TestParams::Brw { opc: r.u16(58), flags: r.u16(60), len: r.u32(62), offset: r.u32(66) }
        }
        _ => TestParams::Other(array(r.1, HDR + 58)),
    };
    Body::Test(TestReq {
        rpyid: r.u64(0),
        bulkid: r.u64(8),
        sid: r.sid(16),
        batch: r.u64(32),
        service,
        loops: r.u32(44),
        concur: r.u32(48),
        is_client: r.byte(52),
        stop_onerr: r.byte(53),
        ndest: r.u32(54),
        params,
    })
}

fn emit_body(w: &mut Writer<'_>, body: &Body) {
    match *body {
        Body::MakeSession { rpyid, sid, force, name } => {
            w.asked(rpyid, sid);
            w.u32(24, force);
            w.name(28, &name);
        }
        Body::MakeSessionReply { status, sid, timeout, name } => {
            w.status(status, sid);
            w.u32(20, timeout);
            w.name(24, &name);
        }
        Body::RemoveSession { rpyid, sid } => w.asked(rpyid, sid),
        Body::RemoveSessionReply { status, sid } | Body::TestReply { status, sid } => w.status(status, sid),
        Body::Batch { rpyid, sid, batch, opc, testidx, arg } => {
            w.asked(rpyid, sid);
            w.u64(24, batch);
            w.u32s(32, &[opc, testidx, arg]);
        }
        Body::BatchReply { status, sid, active, time } => {
            w.status(status, sid);
            w.u32s(20, &[active, time]);
        }
        Body::Test(t) => emit_test(w, &t),
        Body::Stat { rpyid, sid, kind: word } | Body::Debug { rpyid, sid, flags: word } => {
            w.asked(rpyid, sid);
            w.u32(24, word);
        }
        Body::StatReply { status, sid, fw, rpc, lnet } => {
            w.status(status, sid);
            emit_stat(w, &fw, &rpc, &lnet);
        }
        Body::DebugReply { status, sid, timeout, nbatch, name } => {
            w.status(status, sid);
            w.u32s(20, &[timeout, nbatch]);
            w.name(28, &name);
        }
        Body::Join { rpyid, sid, group } => {
            w.asked(rpyid, sid);
            w.name(24, &group);
        }
        Body::JoinReply { status, sid, timeout, session } => {
            w.status(status, sid);
            w.u32(20, timeout);
            w.name(24, &session);
        }
        Body::Brw { rpyid, bulkid, rw, len, flags } => {
            w.u64(0, rpyid);
            w.u64(8, bulkid);
            w.u32s(16, &[rw, len, flags]);
        }
        Body::BrwReply { status } => w.u32(0, status),
        Body::Ping { rpyid, magic, seq, secs, nanos } => {
            w.u64(0, rpyid);
            w.u32s(8, &[magic, seq]);
            w.u64(16, secs);
            w.u64(24, nanos);
        }
        Body::PingReply { status, magic, seq } => w.u32s(0, &[status, magic, seq]),
    }
}

fn emit_test(w: &mut Writer<'_>, t: &TestReq) {
    w.u64(0, t.rpyid);
    w.u64(8, t.bulkid);
    w.sid(16, t.sid);
    w.u64(32, t.batch);
    w.u32s(40, &[t.service, t.loops, t.concur]);
    w.byte(52, t.is_client);
    w.byte(53, t.stop_onerr);
    w.u32(54, t.ndest);
    match t.params {
        TestParams::Ping { size, flags } => w.u32s(58, &[size, flags]),
        TestParams::BrwV0 { opc, npages, flags } => w.u32s(58, &[opc, npages, flags]),
        TestParams::Brw { opc, flags, len, offset } => {
            w.u16(58, opc);
            w.u16(60, flags);
            w.u32s(62, &[len, offset]);
        }
        TestParams::Other(raw) => put(w.1, HDR + 58, raw),
    }
}

fn emit_stat(w: &mut Writer<'_>, fw: &FrameworkCounters, rpc: &RpcCounters, lnet: &LnetCounters) {
    let framework = [fw.running_ms, fw.active_batches, fw.zombie_sessions, fw.brw_errors, fw.ping_errors];
    w.u32s(20, &framework);
    w.u32s(40, &[rpc.errors, rpc.rpcs_sent, rpc.rpcs_rcvd, rpc.rpcs_dropped, rpc.rpcs_expired]);
    w.u64(60, rpc.bulk_get);
    w.u64(68, rpc.bulk_put);
    let messages = [lnet.msgs_alloc, lnet.msgs_max, lnet.errors, lnet.send_count, lnet.recv_count];
    w.u32s(76, &messages);
    w.u32s(96, &[lnet.route_count, lnet.drop_count]);
    let lengths = [lnet.send_length, lnet.recv_length, lnet.route_length, lnet.drop_length];
    lengths.iter().enumerate().for_each(|(i, n)| w.u64(104 + 8 * i, *n));
}

/// An entry of a destination list, always in little endian.
pub fn dest(id: ProcessId) -> [u8; super::DEST_LEN] {
    let mut out = [0; super::DEST_LEN];
    ByteOrder::Little.put_u64(&mut out, 0, id.nid.to_nid4().unwrap_or(u64::MAX));
    ByteOrder::Little.put_u32(&mut out, 8, id.pid);
    out
}

/// An entry of a destination list, in the order of the console that made it.
pub fn parse_dest(order: ByteOrder, raw: &[u8]) -> ProcessId {
    let pid: Pid = order.u32(raw, 8);
    ProcessId { nid: Nid::from_nid4(order.u64(raw, 0)), pid }
}
