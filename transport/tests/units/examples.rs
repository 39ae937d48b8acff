//! Every example of testdata/examples/lnet-examples.json, parsed and written back byte for byte.

use serde_json::Value;
use transport::wire::hello::{HelloStart, Version};
use transport::wire::ksock::{self, KsockType};
use transport::wire::{AcceptorReq, ByteOrder, Hello, KsockHdr, LnetBody, LnetHdr, PingInfo, acceptor, lnet};

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

#[test]
fn every_example_that_we_know() {
    let (mut known, mut skipped) = (0, Vec::new());
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
            _ => {
                assert!(n.starts_with("srpc_") || n == "brw_data_word_le", "{n} has no rule");
                skipped.push(name);
                continue;
            }
        }
        known += 1;
    }
    // What stays: lnet_selftest's own messages.
    assert_eq!((known, skipped.len()), (37, 25), "skipped: {skipped:?}");
}
