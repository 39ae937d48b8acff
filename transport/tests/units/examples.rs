//! Every example of testdata/examples/lnet-examples.json, parsed and written back byte for byte.

use serde_json::Value;
use transport::wire::hello::{HelloStart, Version};
use transport::wire::ksock::{self, KsockType};
use transport::wire::srpc::{Body, Message, Name, Service, Sid, TestParams, TestReq};
use transport::wire::{
    AcceptorReq, ByteOrder, Hello, KsockHdr, LnetBody, LnetHdr, PingInfo, WireError, acceptor, lnet, srpc,
};

fn examples() -> Vec<(String, Vec<u8>, Value)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/examples/lnet-examples.json");
    let json: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let list = json["examples"].as_array().unwrap();
    list.iter()
        .map(|e| {
            let hex = e["hex"].as_str().unwrap();
            let bytes: Vec<u8> =
                (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
            assert_eq!(bytes.len() as u64, e["length"].as_u64().unwrap());
            (e["name"].as_str().unwrap().to_owned(), bytes, e["fields"].clone())
        })
        .collect()
}

fn number(v: &Value) -> u64 {
    v.as_u64().unwrap_or_else(|| {
        let s = v.as_str().unwrap();
        u64::from_str_radix(s.strip_prefix("0x").unwrap(), 16).unwrap()
    })
}

fn check(fields: &Value, known: &[(&str, u64)], name: &str) {
    for (key, got) in known {
        if let Some(v) = fields.get(*key) {
            assert_eq!(number(v), *got, "{name}: {key}");
        }
    }
}

fn lnet_example(name: &str, bytes: &[u8], fields: &Value) {
    let k = KsockHdr::parse(bytes, ByteOrder::Little).unwrap();
    assert_eq!(k.kind, KsockType::Lnet);
    let h = LnetHdr::parse(&bytes[ksock::LEN..]).unwrap();
    assert_eq!(h.payload_len as usize, bytes.len() - ksock::LEN - lnet::LEN, "{name}");
    let again = [&k.emit(ByteOrder::Little)[..], &h.emit(), &bytes[ksock::LEN + lnet::LEN..]].concat();
    assert_eq!(again, bytes, "{name}");
    check(fields, &[("zc_req", k.cookie0), ("zc_ack", k.cookie1), ("csum", k.csum.into())], name);
    match h.body {
        LnetBody::Put { ack, match_bits, portal, .. } => {
            check(fields, &[("match_bits", match_bits), ("ptl_index", portal.into())], name);
            check(fields, &[("iface_cookie", ack.interface), ("obj_cookie", ack.object)], name);
        }
        LnetBody::Get { match_bits, portal, src_offset, sink_length, .. } => {
            check(fields, &[("match_bits", match_bits), ("ptl_index", portal.into())], name);
            check(fields, &[("src_offset", src_offset.into()), ("sink_length", sink_length.into())], name);
        }
        LnetBody::Ack { mlength, .. } => check(fields, &[("mlength", mlength.into())], name),
        LnetBody::Reply { .. } => {}
    }
    if k.csum != 0 {
        // Only V2 senders set it: over the header with a zeroed checksum, and all that follows.
        let zeroed = KsockHdr { csum: 0, ..k }.emit(ByteOrder::Little);
        assert_eq!(ksock::checksum(&[&zeroed[..], &bytes[ksock::LEN..]].concat()), k.csum, "{name}");
    }
    if let Ok(info) = PingInfo::parse(&bytes[ksock::LEN + lnet::LEN..]) {
        assert!(name.starts_with("ping_") || name.starts_with("push_"));
        let mut out = Vec::new();
        info.emit(&mut out);
        assert_eq!(out, &bytes[ksock::LEN + lnet::LEN..]);
    }
}

fn selftest_example(name: &str, bytes: &[u8], fields: &Value) {
    let m = Message::parse(bytes).unwrap();
    assert_eq!(m.emit(), bytes[..], "{name}");
    assert_eq!((m.version, m.features), (srpc::VERSION, srpc::FEATS), "{name}");
    let (service, request) = m.body.kind();
    assert_eq!((request, !request), (m.body.rpyid().is_some(), m.body.status().is_some()), "{name}");
    assert_eq!(name.ends_with("_reply") || name.ends_with("_no_session"), !request);
    assert_eq!(Service::by_id(service.id()), Some(service));
    // A node of the other order sends the same fields, names as they are.
    let big = Message { order: ByteOrder::Big, ..m };
    let swapped = big.emit();
    assert_eq!(swapped[..4], srpc::MAGIC.to_be_bytes());
    assert_eq!(Message::parse(&swapped), Ok(big), "{name}");
    if let Some(id) = m.body.rpyid() {
        check(fields, &[("rpyid", id)], name);
        let mut again = m.body;
        again.set_ids(id + 1, 77);
        assert_eq!(again.rpyid(), Some(id + 1));
    }
    if let Some(status) = m.body.status() {
        check(fields, &[("status", status.into())], name);
    }
    if let Some(sid) = m.body.sid() {
        check(fields, &[("ses_nid", sid.nid4), ("ses_stamp", sid.stamp.cast_unsigned())], name);
        assert_eq!(sid.is_any(), sid == Sid::INVALID, "{name}");
    }
    match m.body {
        Body::MakeSession { force, name: given, .. } => {
            check(fields, &[("force", force.into())], name);
            assert_eq!(
                (given.text().as_str(), given),
                (fields["mksn_name"].as_str().unwrap(), Name::new("ses1"))
            );
        }
        Body::MakeSessionReply { timeout, .. } => check(fields, &[("timeout", timeout.into())], name),
        Body::Batch { batch, opc, testidx, arg, .. } => {
            check(fields, &[("bat_id", batch), ("opc", opc.into())], name);
            check(fields, &[("testidx", testidx.into()), ("arg", arg.into())], name);
        }
        Body::BatchReply { active, time, .. } => {
            check(fields, &[("active", active.into()), ("time", time.into())], name);
        }
        Body::StatReply { fw, rpc, lnet, .. } => {
            check(
                fields,
                &[("running_ms", fw.running_ms.into()), ("active_batches", fw.active_batches.into())],
                name,
            );
            check(fields, &[("bulk_get", rpc.bulk_get), ("bulk_put", rpc.bulk_put)], name);
            assert_eq!((lnet.send_count, lnet.send_length, lnet.recv_length), (200, 300_000, 400_000));
        }
        Body::Test(t) => {
            check(fields, &[("service", t.service.into()), ("loop", t.loops.into())], name);
            check(fields, &[("concur", t.concur.into()), ("is_client", t.is_client.into())], name);
            check(fields, &[("stop_onerr", t.stop_onerr.into()), ("ndest", t.ndest.into())], name);
            match t.params {
                TestParams::Brw { opc, flags, len, offset } => {
                    assert_eq!((opc, flags, len, offset), (2, 3, 1 << 20, 0));
                }
                TestParams::Ping { size, flags } => assert_eq!((size, flags), (0, 0)),
                other => panic!("{name}: {other:?}"),
            }
        }
        Body::Brw { rw, len, flags, .. } => {
            check(fields, &[("rw", rw.into()), ("len", len.into()), ("flags", flags.into())], name);
        }
        Body::Ping { magic, seq, .. } => check(fields, &[("magic", magic.into()), ("seq", seq.into())], name),
        _ => {}
    }
}

/// Each length, magic and type that is none, and the layout of version 0 of a BRW test.
#[test]
fn what_is_no_message_of_selftest_is_refused() {
    let body = Body::BrwReply { status: 74 };
    let bytes = Message::new(1, body).emit();
    for len in [0, 1, 24, 159] {
        assert_eq!(Message::parse(&bytes[..len]), Err(WireError::BadSrpcLength(len)));
    }
    assert_eq!(Message::parse(&[0; 161]), Err(WireError::BadSrpcLength(161)));
    assert!(matches!(Message::parse(&[0; 160]), Err(WireError::BadMagic { got: 0, .. })));
    let mut other = bytes;
    other[8] = 18;
    assert_eq!(Message::parse(&other), Err(WireError::BadSrpcType(18)));
    // The version is answered, so it parses.
    other[8] = bytes[8];
    other[4] = 9;
    assert_eq!(Message::parse(&other).map(|m| (m.version, m.body)), Ok((9, body)));
    let t = TestReq {
        rpyid: 1,
        bulkid: 2,
        sid: Sid { nid4: 3, stamp: -4 },
        batch: 5,
        service: Service::Brw.id(),
        loops: u32::MAX,
        concur: 6,
        is_client: true,
        stop_onerr: false,
        ndest: 7,
        params: TestParams::BrwV0 { opc: 1, npages: 256, flags: 4 },
    };
    let v0 = Message { order: ByteOrder::Big, ..Message::new(0, Body::Test(t)) };
    assert_eq!(Message::parse(&v0.emit()), Ok(v0));
    let none = TestParams::Other([9; 12]);
    let odd = Message::new(1, Body::Test(TestReq { service: 77, params: none, ..t }));
    assert_eq!(Message::parse(&odd.emit()), Ok(odd));
}

#[test]
fn every_example_that_we_know() {
    let mut known = 0;
    for (name, bytes, fields) in examples() {
        let n = name.as_str();
        match n {
            "acceptor_version_refusal" => assert_eq!(acceptor::refusal(), bytes[..]),
            _ if n.starts_with("acceptor_") => {
                let (req, len) = AcceptorReq::parse(&bytes).unwrap();
                assert_eq!((len, &req.emit()[..len]), (bytes.len(), &bytes[..]), "{n}");
                if n != "acceptor_v2_ipv6" {
                    check(&fields, &[("acr_nid", req.target.to_nid4().unwrap())], n);
                } else {
                    assert_eq!(fields["nid"].as_str().unwrap(), req.target.to_string());
                }
            }
            _ if n.starts_with("hello_") => {
                let (h, len) = Hello::parse(&bytes).unwrap();
                assert_eq!((len, &h.emit()[..]), (bytes.len(), &bytes[..]), "{n}");
                let version = match &n[..8] {
                    "hello_v1" => Version::V1,
                    "hello_v2" => Version::V2,
                    "hello_v3" => Version::V3,
                    _ => Version::V4,
                };
                assert_eq!((h.version, HelloStart::parse(&bytes).unwrap().version), (version, version));
                let ctype = u64::from(h.ctype.to_wire().cast_unsigned());
                check(
                    &fields,
                    &[("ctype", ctype), ("nips", h.ips.len() as u64), ("src_inc", h.src_incarnation)],
                    n,
                );
                if let (Some(src), Some(dst)) = (h.src_nid.to_nid4(), h.dst_nid.to_nid4()) {
                    check(&fields, &[("src_nid", src), ("dst_nid", dst)], n);
                }
                check(&fields, &[("src_pid", h.src_pid.into()), ("dst_pid", h.dst_pid.into())], n);
            }
            _ if n.starts_with("noop_") => {
                let k = KsockHdr::parse(&bytes, ByteOrder::Little).unwrap();
                assert_eq!(k.emit(ByteOrder::Little), bytes[..], "{n}");
                check(&fields, &[("c0", k.cookie0), ("c1", k.cookie1), ("csum", k.csum.into())], n);
                if k.csum != 0 {
                    assert_eq!(ksock::checksum(&KsockHdr { csum: 0, ..k }.emit(ByteOrder::Little)), k.csum);
                }
            }
            // A bare header: V1 has no ksock header in front.
            "lnet_put_v1" => {
                let h = LnetHdr::parse(&bytes).unwrap();
                assert_eq!([&h.emit()[..], &bytes[lnet::LEN..]].concat(), bytes);
            }
            "lnet_put_v4_ipv6" => {
                let k = KsockHdr::parse(&bytes, ByteOrder::Little).unwrap();
                let h = LnetHdr::parse_v4(&bytes[ksock::LEN..]).unwrap();
                assert_eq!(h.src_nid.to_string(), "2001:db8::1@tcp");
                let hdr = [&k.emit(ByteOrder::Little)[..], &h.emit_v4()].concat();
                assert_eq!([&hdr[..], &bytes[hdr.len()..]].concat(), bytes);
                assert_eq!(bytes.len() - hdr.len(), h.payload_len as usize);
            }
            _ if n.starts_with("lnet_") || matches!(n, "ping_get_v3" | "ping_reply_v3" | "push_put_v3") => {
                lnet_example(n, &bytes, &fields);
            }
            _ if n.starts_with("ping_info") => {
                let info = PingInfo::parse(&bytes).unwrap();
                let mut out = Vec::new();
                info.emit(&mut out);
                assert_eq!(out, bytes, "{n}");
                check(&fields, &[("features", info.features.into()), ("seqno", info.sequence.into())], n);
                check(&fields, &[("pid", info.pid.into()), ("nnis", 1 + info.nis.len() as u64)], n);
            }
            "srpc_test_add_bulk_dest_list" => {
                let to = srpc::parse_dest(ByteOrder::Little, &bytes);
                assert_eq!(srpc::dest(to), bytes[..]);
                check(&fields, &[("nid", to.nid.to_nid4().unwrap()), ("pid", to.pid.into())], n);
            }
            "brw_data_word_le" => assert_eq!(srpc::BRW_WORD.to_le_bytes(), bytes[..]),
            _ => {
                assert!(n.starts_with("srpc_"), "{n} has no rule");
                selftest_example(n, &bytes, &fields);
            }
        }
        known += 1;
    }
    assert_eq!(known, 62);
}
