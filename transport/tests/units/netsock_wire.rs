//! netsock's formats: every example of testdata/examples/netsock-examples.json, and every header of every capture of real Motr
//! peers, read and written back bit for bit.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::Value;
use transport::testing::capture::{Dir, flows};
use transport::wire::netsock::{
    Addr, Bdesc, HDR_LEN, Name, PacketError, PacketHdr, PacketType, Tmids, errno, fnv1,
};

fn examples() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/examples/netsock-examples.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn hex(v: &Value) -> Vec<u8> {
    let s = v.as_str().unwrap();
    (0..s.len()).step_by(2).map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap()).collect()
}

fn number(v: &Value) -> u64 {
    v.as_u64().unwrap_or_else(|| {
        let s = v.as_str().unwrap();
        u64::from_str_radix(s.strip_prefix("0x").unwrap_or(s), 16).unwrap()
    })
}

fn check_bdesc(d: &Bdesc, v: &Value, name: &str) {
    let a = &v["addr"];
    let fields = [d.addr.family, d.addr.socktype, d.addr.protocol, d.addr.port].map(u64::from);
    assert_eq!(fields, ["family", "socktype", "protocol", "port"].map(|f| number(&a[f])), "{name}");
    assert_eq!(d.addr.data.to_vec(), hex(&a["data"]), "{name}");
    assert_eq!(d.addr.ip().unwrap().to_string(), a["ip"].as_str().unwrap(), "{name}");
    assert_eq!(
        [d.cookie.addr, d.cookie.generation],
        [number(&v["co_addr"]), number(&v["co_generation"])],
        "{name}"
    );
}

#[test]
fn every_header_of_the_examples_is_read_and_written_bit_for_bit() {
    let all = examples();
    let list = ["constructed", "captured"].map(|k| all[k].as_array().unwrap().clone()).concat();
    assert!(list.len() >= 12);
    for e in &list {
        let (bytes, f) = (hex(&e["header_hex"]), &e["fields"]);
        let name = e["name"].as_str().or(e["pcap"].as_str()).unwrap();
        let h = PacketHdr::parse(&bytes).unwrap_or_else(|err| panic!("{name}: {err}"));
        assert_eq!(h.emit().to_vec(), bytes, "{name}");
        assert_eq!(h.kind == PacketType::Put, f["type"] == "PUT", "{name}");
        check_bdesc(&h.src, &f["src"], name);
        check_bdesc(&h.dst, &f["dst"], name);
        let got = [h.idx.into(), h.nr.into(), h.size, h.offset, h.total];
        assert_eq!(got, ["idx", "nr", "size", "offset", "totalsize"].map(|k| number(&f[k])), "{name}");
        if let Some(d) = e.get("descriptor_hex").filter(|d| d.is_string()) {
            assert_eq!(Bdesc::parse(&hex(d)).unwrap().emit().to_vec(), hex(d), "{name}");
        }
    }
}

#[test]
fn the_hash_is_fnv_1() {
    for e in examples()["fnv1_64"].as_array().unwrap() {
        assert_eq!(fnv1(&hex(&e["input_hex"])), number(&e["fnv1"]), "{e}");
    }
}

#[test]
fn every_bad_header_of_the_examples_has_a_name_and_motrs_error() {
    let all = examples();
    let list = all["reject"].as_array().unwrap();
    assert_eq!(list.len(), 12);
    for e in list {
        let name = e["name"].as_str().unwrap();
        let got = PacketHdr::parse(&hex(&e["header_hex"]));
        let expected = match name {
            "header magic" => matches!(got, Err(PacketError::HeaderMagic(_))),
            "footer magic" => matches!(got, Err(PacketError::FooterMagic(_))),
            "checksum" => matches!(got, Err(PacketError::Checksum { .. })),
            "version 2" | "type 3" => matches!(got, Err(PacketError::Tag(_))),
            "nr 0" | "idx>=nr" => matches!(got, Err(PacketError::Index { .. })),
            "offset+size wraps" => matches!(got, Err(PacketError::Wraps { .. })),
            "offset!=0 at idx 0" => matches!(got, Err(PacketError::FirstOffset(_))),
            "last packet short" => matches!(got, Err(PacketError::LastEnd { .. })),
            // Values that the header may have, and its receiver refuses (the checks from 10 on).
            "both cookies zero" | "GET without dst cookie" => got.is_ok(),
            other => panic!("{other} is a new example"),
        };
        assert!(expected, "{name}: {got:?}");
        if let Err(err) = got {
            let want = if e["error"] == "EFBIG" { errno::EFBIG } else { errno::EPROTO };
            assert_eq!(err.errno(), want, "{name}: {err}");
        }
    }
}

/// The place of the footer is looked at before the footer: whatever a tag says, nothing is read elsewhere.
#[test]
fn a_tag_with_another_footer_is_refused_before_the_footer_is_looked_for() {
    let mut bytes = hex(&examples()["constructed"][0]["header_hex"]);
    for footer in [0u32, 1, 143, 145, 160, 0x7fff_ffff, u32::MAX] {
        bytes[8..12].copy_from_slice(&footer.to_le_bytes());
        assert!(matches!(PacketHdr::parse(&bytes), Err(PacketError::Tag(_))), "{footer}");
    }
    assert_eq!(PacketHdr::parse(&bytes[..159]), Err(PacketError::Truncated(159)));
}

#[test]
fn names_and_descriptors_of_the_examples() {
    let all = examples();
    for e in all["lnet_addr"].as_array().unwrap() {
        let name = e["name"].as_str().unwrap();
        let Ok(Name::Addr(a)) = Name::parse(name) else { panic!("{name}") };
        let mut desc = hex(&e["addr_hex"]);
        desc.extend([0; 16]);
        assert_eq!(Bdesc::parse(&desc).unwrap().addr, a, "{name}");
        assert_eq!(u64::from(a.port), number(&e["port"]), "{name}");
    }
    let star = &all["lnet_addr_wildcard"];
    let any = Name::parse(star["name"].as_str().unwrap()).unwrap();
    let first = Tmids::default().resolve(any).unwrap();
    assert_eq!(u64::from(first.port), number(&star["first_use_in_process"]["port"]));
    for e in all["lnet_addr_bad"].as_array().unwrap() {
        let got = Name::parse(e["name"].as_str().unwrap()).map_err(|err| err.errno());
        match e["error"].as_str().unwrap() {
            "EPROTO" => assert_eq!(got, Err(errno::EPROTO), "{e}"),
            "EAFNOSUPPORT" => assert_eq!(got, Err(errno::EAFNOSUPPORT), "{e}"),
            // Motr cannot read names of IPv6, and we can.
            "EINVAL (quirk)" => {
                let v6 = Addr::stream(SocketAddr::from(([0u16, 0, 0, 0, 0, 0, 0, 1], 5000)));
                assert_eq!(got, Ok(Name::Addr(v6)), "{e}");
            }
            other => panic!("{other}"),
        }
    }
    let d = &all["descriptor"];
    let parsed = Bdesc::parse(&hex(&d["hex"])).unwrap();
    check_bdesc(&parsed, &d["decoded"], "descriptor");
    assert_eq!(parsed.emit().to_vec(), hex(&d["hex"]));
    let longer = [hex(&d["hex"]), vec![1, 2]].concat();
    assert_eq!(Bdesc::parse(&longer), Ok(parsed), "Motr ignores what follows");
    assert_eq!(Bdesc::parse(&longer[..8]).unwrap_err().errno(), errno::EPROTO);
}

/// Headers of one direction, as far as they can be read; the payload of the last may be short. A capture that begins in the
/// middle of a connection is read from the first magic on.
fn headers(dir: &Dir, from_start: bool) -> Vec<PacketHdr> {
    let (bytes, mut out) = (dir.bytes(), Vec::new());
    let first = bytes.windows(8).position(|w| w == [0x77, 0xde, 0x11, 0xe5, 0xa5, 0x1c, 0x01, 0x33]);
    let mut at = if from_start { 0 } else { first.unwrap_or(0) };
    while let Some(raw) = bytes.get(at..at + HDR_LEN) {
        let Ok(h) = PacketHdr::parse(raw) else { break };
        assert_eq!(h.emit().as_slice(), raw);
        at += HDR_LEN + h.size as usize;
        out.push(h);
    }
    out
}

#[test]
fn every_header_that_motr_sent_in_a_capture_is_written_as_it_was_read() {
    let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/captures/netsock"));
    let mut seen = std::collections::BTreeMap::new();
    for f in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        let mut n = [0; 3];
        for flow in flows(&f).unwrap() {
            for d in [&flow.a, &flow.p] {
                let list = headers(d, flow.from_start);
                n[2] += usize::from(!d.bytes().is_empty() && list.is_empty());
                list.iter().for_each(|h| n[usize::from(h.kind == PacketType::Get)] += 1);
            }
        }
        seen.insert(f.file_stem().unwrap().to_string_lossy().into_owned(), n);
    }
    // PUTs, GETs, and directions that begin with a bad header (probes), or of which too little was captured (lo_nagle).
    let probes = seen.remove("probes").unwrap();
    let read = format!("{seen:?}");
    assert_eq!(
        read,
        "{\"bulk_active_recv_get\": [1, 1, 0], \"bulk_active_send\": [1, 0, 0], \"lo_nagle\": [0, 0, 2], \
         \"m0nettest_ping_veth\": [1002, 0, 0], \"msg\": [3, 0, 0]}"
    );
    assert!(probes[0] > 40 && probes[1] > 6 && probes[2] > 8, "{probes:?}");
}
