//! Properties of every wire type: what is written is read back; no bytes panic; every cut is noticed.

use arrayvec::ArrayVec;
use proptest::prelude::*;
use transport::wire::hello::{HelloStart, Version};
use transport::wire::ping::{FEAT_LARGE_ADDR, FEAT_NI_STATUS};
use transport::wire::{
    AcceptorReq, ByteOrder, ConnType, Hello, KsockHdr, KsockType, LnetBody, LnetHdr, NiEntry, NiStatus, Nid,
    PingInfo, ProcessId, WireError, WireHandle, lnet,
};

fn order() -> impl Strategy<Value = ByteOrder> {
    prop_oneof![Just(ByteOrder::Little), Just(ByteOrder::Big)]
}

fn nid4() -> impl Strategy<Value = Nid> {
    any::<u64>().prop_map(Nid::from_nid4)
}

fn handle() -> impl Strategy<Value = WireHandle> {
    any::<(u64, u64)>().prop_map(|(interface, object)| WireHandle { interface, object })
}

fn hello() -> impl Strategy<Value = Hello> {
    let types = [ConnType::None, ConnType::Any, ConnType::Control, ConnType::BulkIn, ConnType::BulkOut];
    let ips =
        prop::collection::vec(1u32.., 0..=16).prop_map(|v| v.into_iter().collect::<ArrayVec<u32, 16>>());
    let versions = prop::sample::select(vec![Version::V1, Version::V2, Version::V3, Version::V4]);
    let words = any::<(u32, u32, u64, u64)>();
    let version = (versions, any::<bool>(), order());
    (version, nid4(), nid4(), words, prop::sample::select(types.to_vec()), ips).prop_map(
        |((version, tcp_magic, order), src_nid, dst_nid, words, ctype, ips)| {
            let (src_pid, dst_pid, src_incarnation, dst_incarnation) = words;
            let h = Hello {
                version,
                order,
                tcp_magic: tcp_magic && version == Version::V2,
                src_nid,
                dst_nid,
                src_pid,
                dst_pid,
                src_incarnation,
                dst_incarnation,
                ctype,
                ips,
            };
            match version {
                // Fields that the layout has no room for.
                Version::V1 => Hello {
                    order: ByteOrder::Little,
                    tcp_magic: true,
                    dst_nid: Nid::ANY,
                    dst_incarnation: 0,
                    ..h
                },
                Version::V4 => Hello { ips: ArrayVec::new(), ..h },
                Version::V2 | Version::V3 => h,
            }
        },
    )
}

fn lnet_hdr() -> impl Strategy<Value = LnetHdr> {
    let body = prop_oneof![
        (handle(), any::<(u64, u32)>()).prop_map(|(handle, (match_bits, mlength))| LnetBody::Ack {
            handle,
            match_bits,
            mlength
        }),
        (handle(), any::<(u64, u64, u32, u32)>()).prop_map(
            |(ack, (match_bits, hdr_data, portal, offset))| {
                LnetBody::Put { ack, match_bits, hdr_data, portal, offset }
            }
        ),
        (handle(), any::<(u64, u32, u32, u32)>()).prop_map(
            |(handle, (match_bits, portal, src_offset, sink_length))| {
                LnetBody::Get { handle, match_bits, portal, src_offset, sink_length }
            }
        ),
        handle().prop_map(|handle| LnetBody::Reply { handle }),
    ];
    (nid4(), nid4(), any::<(u32, u32, u32)>(), body).prop_map(|(dest_nid, src_nid, (dp, sp, len), body)| {
        LnetHdr {
            dest_nid,
            src_nid,
            dest_pid: dp,
            src_pid: sp,
            payload_len: len.min(body.max_payload()),
            body,
        }
    })
}

fn ping_info() -> impl Strategy<Value = PingInfo> {
    let status = prop_oneof![Just(NiStatus::Up), Just(NiStatus::Down), Just(NiStatus::Other(0))];
    let entry = (nid4(), status.clone()).prop_map(|(nid, status)| NiEntry { nid, status });
    let v6 =
        (any::<[u8; 16]>(), any::<u16>()).prop_map(|(a, n)| Nid::tcp(std::net::Ipv6Addr::from(a).into(), n));
    let large = (v6, status).prop_map(|(nid, status)| NiEntry { nid, status });
    let lists = (prop::collection::vec(entry, 0..20), prop::collection::vec(large, 0..8));
    (any::<(u32, u32, u32)>(), lists, order()).prop_map(|((features, pid, sequence), (nis, large), order)| {
        let announce = if large.is_empty() { 0 } else { FEAT_LARGE_ADDR };
        let features = features & !FEAT_LARGE_ADDR | FEAT_NI_STATUS | announce;
        PingInfo { features, pid, sequence, nis, large, order }
    })
}

/// Every proper prefix is `Truncated`, and asks for more than it has.
fn cuts<T: std::fmt::Debug>(bytes: &[u8], parse: impl Fn(&[u8]) -> Result<T, WireError>) {
    for n in 0..bytes.len() {
        match parse(&bytes[..n]) {
            Err(WireError::Truncated { need, have, .. }) => {
                assert!(have == n && need > n && need <= bytes.len())
            }
            other => panic!("{n} of {} bytes: {other:?}", bytes.len()),
        }
    }
}

proptest! {
    #[test]
    fn acceptor(nid in nid4(), order in order(), v2: bool) {
        let req = AcceptorReq { version: 1 + u32::from(v2), target: nid, order };
        let bytes = &req.emit()[..req.wire_len()];
        prop_assert_eq!(AcceptorReq::parse(bytes), Ok((req, bytes.len())));
        cuts(bytes, AcceptorReq::parse);
    }

    #[test]
    fn hello_v2_v3(h in hello()) {
        let bytes = h.emit();
        prop_assert_eq!(Hello::parse(&bytes), Ok((h, bytes.len())));
        cuts(&bytes, Hello::parse);
    }

    #[test]
    fn ksock(noop: bool, csum: u32, cookie0: u64, cookie1: u64, order in order()) {
        let kind = if noop { KsockType::Noop } else { KsockType::Lnet };
        let k = KsockHdr { kind, csum, cookie0, cookie1 };
        let bytes = k.emit(order);
        prop_assert_eq!(KsockHdr::parse(&bytes, order), Ok(k));
        cuts(&bytes, |b| KsockHdr::parse(b, order));
    }

    #[test]
    fn lnet_header(h in lnet_hdr()) {
        let bytes = h.emit();
        prop_assert_eq!(LnetHdr::parse(&bytes), Ok(h));
        cuts(&bytes, LnetHdr::parse);
    }

    #[test]
    fn ping(info in ping_info()) {
        let mut bytes = Vec::new();
        info.emit(&mut bytes);
        prop_assert_eq!(PingInfo::parse(&bytes), Ok(info.clone()));
        // A short sink cuts the large entries off; the rest must be whole.
        let fixed = 16 + 16 * (1 + info.nis.len());
        cuts(&bytes[..fixed], PingInfo::parse);
        for n in fixed..bytes.len() {
            prop_assert!(PingInfo::parse(&bytes[..n]).unwrap().large.len() < info.large.len());
        }
    }

    #[test]
    fn nids(nid in nid4(), six: [u8; 16], num: u16, pid: u32) {
        prop_assert_eq!(Nid::from_nid4(nid.to_nid4().unwrap()), nid);
        let six = Nid::tcp(std::net::Ipv6Addr::from(six).into(), num);
        prop_assert_eq!(six.to_string().parse(), Ok(six));
        prop_assert_eq!(Nid::from_nid16(six.to_nid16()), six);
        let four = Nid::tcp(std::net::Ipv4Addr::from(pid).into(), num);
        let id = ProcessId { nid: four, pid: pid & 0x7fff_ffff };
        prop_assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), text in ".{0,40}") {
        let _ = AcceptorReq::parse(&bytes);
        let _ = HelloStart::parse(&bytes);
        let _ = Hello::parse(&bytes);
        let _ = KsockHdr::parse(&bytes, ByteOrder::Little);
        let _ = KsockHdr::parse(&bytes, ByteOrder::Big);
        let _ = LnetHdr::parse(&bytes);
        let _ = PingInfo::parse(&bytes);
        let _ = text.parse::<Nid>();
        let _ = text.parse::<ProcessId>();
    }

    /// Bytes that start right and go wrong later.
    #[test]
    fn no_damage_panics(h in hello(), l in lnet_hdr(), p in ping_info(), at: prop::sample::Index, to: u8) {
        let mut ping = Vec::new();
        p.emit(&mut ping);
        for mut bytes in [h.emit().to_vec(), l.emit().to_vec(), ping] {
            let i = at.index(bytes.len());
            bytes[i] = to;
            let _ = Hello::parse(&bytes);
            let _ = LnetHdr::parse(&bytes).map(|h| assert!(h.payload_len <= lnet::MTU));
            let _ = PingInfo::parse(&bytes);
        }
    }
}
