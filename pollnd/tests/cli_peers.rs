//! Hostile and broken peers against a running `pollnd node`: each is counted by name and loses its connections
//! (docs/protocol/socklnd.md §1, §2.6, §8), and nobody else notices. Their bytes are the worked examples, bent.

#![allow(missing_docs)]

#[allow(dead_code)]
mod proc;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::Duration;

use proc::{nid, node, own_ip, run, start};

const PORT: u16 = 10_988;
/// Bound of every read: for a node that hangs, no measure.
const LIMIT: Duration = Duration::from_secs(60);

/// What a node says to those that it takes for no node.
const NOTHING: Vec<u8> = Vec::new();

/// The bytes of a worked example.
fn example(name: &str) -> Vec<u8> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/examples/lnet-examples.json");
    let all: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let found = all["examples"].as_array().unwrap().iter().find(|e| e["name"] == name);
    let hex = found.unwrap_or_else(|| panic!("no example {name}"))["hex"].as_str().unwrap();
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
}

/// `bytes` with `new` at `at`.
fn with(mut bytes: Vec<u8>, at: usize, new: &[u8]) -> Vec<u8> {
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

/// A NID of network tcp as V3 writes it.
fn nid4(ip: Ipv4Addr) -> [u8; 8] {
    let [a, b, c, d] = ip.octets();
    [d, c, b, a, 0, 0, 2, 0]
}

/// The node, and who its peer says it is.
#[derive(Clone, Copy)]
struct Ids {
    server: Ipv4Addr,
    me: Ipv4Addr,
}

impl Ids {
    fn request(&self) -> Vec<u8> {
        with(example("acceptor_v1_to_10.0.0.2@tcp"), 8, &nid4(self.server))
    }

    /// The example `name` of a HELLO or message with our NIDs; those of a message come behind its ksock header.
    fn hello(&self, name: &str) -> Vec<u8> {
        with(with(example(name), 8, &nid4(self.me)), 16, &nid4(self.server))
    }

    fn message(&self, name: &str) -> Vec<u8> {
        with(with(example(name), 24, &nid4(self.server)), 32, &nid4(self.me))
    }
}

/// The peer's end of a connection.
struct Peer {
    ids: Ids,
    sock: TcpStream,
}

impl Peer {
    fn connect(ids: Ids) -> Peer {
        let sock = TcpStream::connect((ids.server, PORT)).unwrap();
        sock.set_read_timeout(Some(LIMIT)).unwrap();
        sock.set_nodelay(true).unwrap();
        Peer { ids, sock }
    }

    /// A connection that has passed its handshake.
    fn up(ids: Ids, hello: &str) -> Peer {
        let mut p = Peer::connect(ids);
        p.send(&[ids.request(), ids.hello(hello)].concat());
        let mut answer = [0; 56];
        p.sock.read_exact(&mut answer).unwrap();
        let kinds =
            [("hello_v3_active_control", 1), ("hello_v3_active_bulk_in", 3), ("hello_v3_active_bulk_out", 2)];
        let want = kinds.iter().find(|k| k.0 == hello).unwrap().1;
        assert_eq!((&answer[..8], answer[48]), (&example(hello)[..8], want), "{answer:x?}");
        assert_eq!(
            (&answer[8..16], &answer[16..24]),
            (&nid4(ids.server)[..], &nid4(ids.me)[..]),
            "{answer:x?}"
        );
        p
    }

    fn send(&mut self, bytes: &[u8]) {
        self.sock.write_all(bytes).unwrap();
    }

    /// What the node says until it closes the connection with FIN.
    fn rest_in_order(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        self.sock.read_to_end(&mut said).unwrap();
        said
    }

    /// What the node says until it closes the connection, with FIN or RST.
    fn rest(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        let mut buf = [0; 4096];
        loop {
            match self.sock.read(&mut buf) {
                Ok(0) => return said,
                Ok(n) => said.extend_from_slice(&buf[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                    return said;
                }
                Err(e) => panic!("the connection stays open: {e}"),
            }
        }
    }
}

/// Handshakes that go wrong at once: the bytes, and what the node says before it closes.
fn bad_handshakes(ids: Ids) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let (req, control) = (ids.request(), ids.hello("hello_v3_active_control"));
    let then = |hello: Vec<u8>| [&req[..], &hello].concat();
    let refusal = example("acceptor_version_refusal");
    let loopback = [0, 0, 0, 0, 0, 0, 9, 0];
    vec![
        ("acceptor magic", with(req.clone(), 0, b"HTTP"), NOTHING),
        ("HELLO where the request belongs", control.clone(), refusal.clone()),
        ("acceptor version", with(req.clone(), 4, &[3]), refusal),
        ("foreign NID", with(req.clone(), 8, &nid4(Ipv4Addr::new(10, 9, 9, 9))), NOTHING),
        ("request in version 2 for an IPv6 NID", example("acceptor_v2_ipv6"), NOTHING),
        ("HELLO magic", then(with(control.clone(), 0, b"GET ")), NOTHING),
        ("HELLO type", then(with(control.clone(), 48, &[7])), NOTHING),
        ("HELLO of no type", then(with(control.clone(), 48, &[0xff; 4])), NOTHING),
        ("17 addresses", then(with(control.clone(), 52, &[17])), NOTHING),
        ("2^32 - 1 addresses", then(with(control.clone(), 52, &[0xff; 4])), NOTHING),
        ("address 0", then([with(control.clone(), 52, &[1]), vec![0; 4]].concat()), NOTHING),
        ("nobody's NID", then(with(control.clone(), 8, &[0xff; 8])), NOTHING),
        ("the NID of loopback", then(with(control.clone(), 8, &loopback)), NOTHING),
    ]
}

/// HELLOs of the other versions, where their NID's address is, and their length: that of the answer, too.
const OTHER_VERSIONS: [(&str, usize, usize); 3] =
    [("hello_v1_active_control", 8, 72), ("hello_v2_active_any", 8, 56), ("hello_v4_nid4_control", 12, 80)];

#[test]
fn every_wrong_byte_is_named_and_nobody_else_notices() {
    let server = own_ip();
    let mut next = 0;
    // Who the peers say they are.
    let mut someone = || {
        next += 1;
        Ids { server, me: Ipv4Addr::new(10, 66, 0, next) }
    };
    let port = PORT.to_string();
    let up = node(server, &["--accept-port", &port, "--accept", "trust"]);
    let healthy = start(&["ping", &nid(server), "--nid", &nid(own_ip()), "--accept-port", &port, "-c", "7"]);

    // They take their 5 s beside all that follows.
    let mut silent = Peer::connect(someone());
    let mut half = Peer::connect(someone());
    half.send(&half.ids.request());
    let mut drip = Peer::connect(someone());
    let dripping = std::thread::spawn(move || {
        let hello = drip.ids.hello("hello_v3_active_control");
        let endless = [with(hello, 52, &[16]), vec![1; 64]].concat();
        drip.send(&drip.ids.request());
        drip.sock.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        for b in endless {
            // The write behind the node's close is the first that fails.
            match drip.sock.write_all(&[b]).and_then(|()| drip.sock.read(&mut [0; 64])) {
                Ok(n) => return n == 0,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return true,
            }
        }
        false
    });

    for (what, bytes, says) in bad_handshakes(someone()) {
        let mut p = Peer::connect(someone());
        p.send(&bytes);
        assert_eq!(p.rest(), says, "{what}");
    }
    let unknown = example("hello_v3_passive_unknown_version");
    let newer = with(example("hello_v3_active_control"), 4, &[5]);
    let mut p = Peer::connect(someone());
    p.send(&[p.ids.request(), newer].concat());
    let said = p.rest();
    assert_eq!(said.len(), 56, "{said:x?}");
    // Its incarnation is its own; all else is as in the example, which is of 10.0.0.2.
    let expected = with(with(unknown, 8, &nid4(server)), 16, &nid4(server));
    assert_eq!(with(said.clone(), 32, &expected[32..40]), expected, "{said:x?}");
    for (name, at, len) in OTHER_VERSIONS {
        let mut p = Peer::connect(someone());
        let address = if at == 8 { nid4(p.ids.me).to_vec() } else { p.ids.me.octets().to_vec() };
        p.send(&[p.ids.request(), with(example(name), at, &address)].concat());
        let mut answer = vec![0; len];
        p.sock.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..8], example(name)[..8], "{name} is answered in kind");
    }

    let truncated = someone();
    for n in 1..16 + 56 {
        let mut p = Peer::connect(truncated);
        let all = [truncated.request(), truncated.hello("hello_v3_active_control")].concat();
        p.send(&all[..n]);
        p.sock.shutdown(Shutdown::Write).unwrap();
        assert_eq!(p.rest(), NOTHING, "after {n} bytes");
    }

    // Past the handshake: the first connection gets the bytes, and the whole set goes.
    let put = "lnet_put_noack_v3";
    type Bend = fn(Ids) -> Vec<u8>;
    let bad: [(&str, Bend); 9] = [
        ("ksock type", |p| with(p.message("lnet_put_noack_v3"), 0, &[0xc2])),
        ("LNet type", |p| with(p.message("lnet_put_noack_v3"), 48, &[9])),
        ("PUT of 1 MiB and a byte", |p| with(p.message("lnet_put_noack_v3"), 52, &[1, 0, 0x10, 0])),
        ("PUT of 4 GiB - 1", |p| with(p.message("lnet_put_noack_v3"), 52, &[0xff; 4])),
        ("GET with payload", |p| with(p.message("lnet_get_v3"), 52, &[1])),
        ("NID of somebody else on our network", |p| with(p.message("ping_get_v3"), 24, &nid4(p.me))),
        ("cookie that is not pending", |_| example("noop_zcack_single")),
        ("a range of 2^64 cookies", |_| with(with(example("noop_zcack_range"), 8, &[2]), 16, &[0xff; 8])),
        ("NOOP checksum", |_| with(example("noop_keepalive_ping"), 4, &[1, 2, 3, 4])),
    ];
    for (what, bend) in bad {
        let ids = someone();
        let mut control = Peer::up(ids, "hello_v3_active_control");
        let mut bulk_in = Peer::up(ids, "hello_v3_active_bulk_in");
        let mut bulk_out = Peer::up(ids, "hello_v3_active_bulk_out");
        control.send(&bend(ids));
        for c in [&mut control, &mut bulk_in, &mut bulk_out] {
            assert_eq!(c.rest(), NOTHING, "{what}");
        }
    }
    // Ended inside a payload.
    let mut p = Peer::up(someone(), "hello_v3_active_bulk_out");
    p.send(&p.ids.message(put)[..24 + 72 + 5]);
    p.sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(p.rest(), NOTHING);

    // What may happen between good nodes is dropped, counted, and the connection lives on.
    let mut p = Peer::up(someone(), "hello_v3_active_control");
    p.send(&p.ids.message(put));
    p.send(&p.ids.message("lnet_ack_v3"));
    p.send(&with(p.ids.message("ping_get_v3"), 24, &[2, 0, 0, 10, 9, 0, 2, 0]));
    p.send(&example("noop_keepalive_ping"));
    p.send(&p.ids.message("ping_get_v3"));
    let mut reply = [0; 96];
    p.sock.read_exact(&mut reply).unwrap();
    let want = example("ping_reply_v3");
    assert_eq!(reply[..24], want[..24]);
    assert_eq!((&reply[24..32], &reply[32..40]), (&nid4(p.ids.me)[..], &nid4(server)[..]));
    assert_eq!(reply[48..52], want[48..52], "a REPLY");
    drop(p);

    assert_eq!((silent.rest(), half.rest()), (NOTHING, NOTHING));
    assert!(dripping.join().unwrap(), "a HELLO that never ends is cut off");

    healthy.end().good();
    run(&["put", &nid(server), "--nid", &nid(own_ip()), "--accept-port", &port, "-c", "4"]).good();
    let end = up.stop().good().says(&["4 PUTs,", "checked 4, wrong 0"]);
    let mut errors = end.errors();
    errors.sort_unstable();
    assert_eq!(
        errors,
        [
            // One of them was then cut off.
            "drop_no_match 2",
            "drop_not_for_us 1",
            "drop_stale_handle 1",
            "err_checksum 1",
            "err_conn_type 2",
            "err_cookie 2",
            "err_dest_nid 1",
            // 71 in a handshake, one in a payload.
            "err_eof_inside 72",
            "err_hello_ips 3",
            "err_hello_nid 2",
            "err_hello_timeout 3",
            "err_ksock_type 1",
            "err_lnet_type 1",
            "err_magic 3",
            "err_payload_len 3",
            "err_target_nid 2",
            "err_version 2",
        ],
        "{end:#?}"
    );
    assert_eq!(
        (end.counter("rx_lent_out"), end.counter("rx_pool_bytes_in_use"), end.counter("conns")),
        (0, 0, 0)
    );
}

/// Field report L5: a peer that has begun a handshake when the node is told to go down is answered, then sees a FIN.
#[test]
fn a_node_that_goes_down_answers_who_has_begun() {
    let ids = Ids { server: own_ip(), me: Ipv4Addr::new(10, 66, 1, 1) };
    let up = node(ids.server, &["--accept-port", &PORT.to_string(), "--accept", "trust"]);
    let mut set = Peer::up(ids, "hello_v3_active_control");
    let mut p = Peer::connect(ids);
    p.send(&ids.request());
    let mut up = up;
    // The node has read it: the set's answer to a ping has come behind.
    set.send(&with(ids.message("ping_get_v3"), 24, &nid4(ids.server)));
    let mut answer = [0; 24];
    set.sock.read_exact(&mut answer).unwrap();
    up.signal(rustix::process::Signal::TERM);
    up.until("its way down", |_, err| err.contains("going down"));
    p.send(&ids.hello("hello_v3_active_bulk_in"));
    let said = p.rest_in_order();
    assert_eq!((said.len(), said[48]), (56, 3), "{said:x?}");
    set.rest_in_order();
    up.end().good();
}
