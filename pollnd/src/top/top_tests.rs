use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::{Value, json};

use super::draw::{shown, text};
use super::rates::{Identity, Sample, Sort, View};
use super::screen::{Pane, Screen, Step};

fn rows<T: serde::de::DeserializeOwned>(all: Vec<Value>) -> Vec<T> {
    all.into_iter().map(|v| serde_json::from_value(v).unwrap()).collect()
}

/// A node of two lcores over a port, after so many seconds of the same: 1000 PUTs of 1 MiB a second on lcore 0, and a peer that
/// is not there.
fn sample(seconds: u64) -> Sample {
    let puts = 1000 * seconds;
    let lcore = |n: u64, busy: u64| {
        let mut buckets = [0; 26];
        (buckets[5], buckets[7]) = (puts * n.abs_diff(1) * 9 / 10, puts * n.abs_diff(1) / 10);
        json!({
            "lcore": n, "busy_ns": busy * 10_000_000 * seconds, "idle_ns": (100 - busy) * 10_000_000 * seconds,
            "counters": {
                "rx_polls": 2_000_000 * seconds, "port_rx_packets": 8000 * seconds, "port_tx_packets": 16_000 * seconds,
                "port_rx_bytes": 500_000 * seconds, "port_tx_bytes": (puts << 20) * n.abs_diff(1), "port_naps": 3 * seconds,
                "conns": 3 * n.abs_diff(1), "drop_no_match": 2, "drop_no_match_portal_9": 2, "tx_copied_bytes": 0,
                "linearised": n * 4, "err_magic": 1,
            },
            "nis": [{
                "nid": "10.0.0.1@tcp", "send_count": puts * n.abs_diff(1), "recv_count": puts * n.abs_diff(1), "drop_count": 2,
                "send_bytes": (puts << 20) * n.abs_diff(1), "recv_bytes": 0, "credits": 256, "credits_used": 8 * n.abs_diff(1),
                "lnet_latency": { "put_ack": { "sum_ns": puts * 30_000, "buckets": buckets } },
            }, { "nid": "0@lo" }],
        })
    };
    let kind = |n: u64| ["control", "bulk in", "bulk out"][n as usize];
    let place = |n: u64| json!({ "lcore": 0, "place": n, "type": kind(n) });
    let conn = |n: u64| {
        json!({
            "lcore": 0, "place": n, "local": format!("10.0.0.1:{}", 1023 - n), "remote": "10.0.0.2:988", "state": "ESTABLISHED",
            "backlog": n * 1000, "recv_queue": 0, "bytes_acked": (puts << 20) * (n / 2), "bytes_received": 50_000 * seconds,
            "srtt_ns": 41_000, "retransmits": n, "cwnd": 14480,
        })
    };
    Sample {
        at: Duration::from_secs(seconds),
        node: Identity {
            pid: 4711,
            nids: vec!["10.0.0.1@tcp".into(), "10.1.0.1@tcp1".into()],
            carrier: "a DPDK port".into(),
        },
        lcores: rows(vec![lcore(0, 75), lcore(1, 1), json!({ "lcore": 2, "silent": "lcore 2 has ended" })]),
        peers: rows(vec![
            json!({ "peer": "12345-10.0.0.9@tcp", "conns": 0, "contact": "waiting", "why": "nobody answers", "queued": 7 }),
            json!({ "peer": "12345-10.0.0.2@tcp", "conns": 3, "contact": "idle", "why": null, "credits_used": 8,
                "queued": 120, "typed": [place(0), place(1), place(2)] }),
        ]),
        conns: rows(vec![conn(0), conn(1), conn(2)]),
        cut: false,
    }
}

/// A screen that has seen the node twice.
fn screen() -> Screen {
    let mut s = Screen::new(Duration::from_secs(1));
    s.seen(Ok(sample(3600)));
    s.seen(Ok(sample(3602)));
    s
}

fn press(s: &mut Screen, code: KeyCode) -> Step {
    s.key(KeyEvent::new(code, KeyModifiers::NONE))
}

#[test]
fn the_screen_by_its_size() {
    for (width, height) in [(80, 24), (120, 40), (20, 5)] {
        insta::assert_snapshot!(format!("{width}x{height}"), shown(&mut screen(), width, height));
    }
    insta::assert_snapshot!("once", text(&mut screen(), 150));
    // No figure is cut: what has no room is left out.
    for width in 50..150 {
        let shown = text(&mut screen(), width);
        let rates = shown.matches("8.39 Gbit/s").count();
        assert_eq!(shown.matches("39 Gbit/s").count(), rates, "{shown}");
        assert!(shown.lines().all(|l| !l.ends_with("bit") && !l.ends_with("Gbit/")), "{shown}");
    }
    // Ports are told in full, which is longer than a line; what changes stands before them.
    let (mut s, mut many) = (screen(), sample(3604));
    many.node.carrier = "port net_tap0 (net_tap), 1 queue, MTU 1400; port net_tap1 (net_tap), 1 queue, MTU 1500, 1 lcore on CPU [1]".into();
    s.seen(Ok(many));
    press(&mut s, KeyCode::Char('p'));
    let narrow = shown(&mut s, 50, 24);
    assert!(narrow.contains("paused, process 4711") && narrow.contains("errors 2"), "{narrow}");
    // A node that is stopped is not seen to be by its figures, which stay.
    press(&mut s, KeyCode::Char('p'));
    s.late = Some(4);
    assert!(shown(&mut s, 80, 24).contains("10.0.0.1@tcp (and 1 more)  no answer for 4 s, process 4711"));
    let widths = [None, Some("x"), Some("7"), Some("80"), Some("65535"), Some("100000")].map(super::width);
    assert_eq!(widths, [120, 120, 50, 80, 500, 500]);
    let first = shown(&mut Screen::new(Duration::from_secs(1)), 80, 24);
    assert!(first.contains("no operations") && first.contains("[3] peers: 0"), "{first}");
}

#[test]
fn a_node_that_has_gone_is_waited_for() {
    let mut s = screen();
    s.seen(Err("the node at /run/x.sock does not answer: it has ended".into()));
    let gone = shown(&mut s, 80, 24);
    assert!(gone.contains("gone") && gone.contains("it has ended; waiting for it"), "{gone}");
    assert!(gone.contains("10.0.0.2@tcp"), "what was known stays: {gone}");
    // Another process of its NID: its counts have begun anew, and nothing is negative.
    let mut again = sample(1);
    again.node.pid = 4712;
    again.at = Duration::from_secs(3700);
    s.seen(Ok(again));
    let back = shown(&mut s, 80, 24);
    assert!(back.contains("process 4712") && !back.contains("waiting for it"), "{back}");
    assert!(back.contains("in - -   out - -"), "{back}");
}

#[test]
fn rates_are_of_the_time_between_two_looks() {
    let v = View::between(Some(&sample(10)), &sample(12));
    assert_eq!((v.head.msgs, v.head.bytes), ([Some(1000.0); 2], [Some(0.0), Some(1_048_576_000.0)]));
    assert_eq!((v.lcores[0].busy, v.lcores[1].busy, v.lcores[2].busy), (Some(0.75), Some(0.01), None));
    assert_eq!((v.lcores[0].packets, v.lcores[0].naps), ([Some(8000.0), Some(16_000.0)], Some(3.0)));
    assert_eq!((v.lcores[0].drops, v.head.errors, v.head.up), (2, 2, Duration::from_secs(12)));
    let put = v.head.operations.iter().find(|o| o.name == "put_ack").unwrap();
    assert_eq!((put.rate, put.latency.count(), put.latency.at_most(0.5)), (Some(1000.0), 2000, Some(32_768)));
    // A peer's bytes are those of its connections.
    assert_eq!(v.peers[1].bytes, [Some(150_000.0), Some(1_048_576_000.0)]);
    assert_eq!((v.peers[0].bytes, v.peers[0].state.as_str()), ([None; 2], "waiting"));
    let kinds: Vec<_> = v.conns.iter().map(|c| c.kind.as_str()).collect();
    assert_eq!(kinds, ["control", "bulk in", "bulk out"]);
    // Counts that have gone back, also of one process, are no rates; nor are those of a first look.
    for before in [Some(&sample(20)), None] {
        let v = View::between(before, &sample(12));
        assert_eq!((v.head.msgs, v.lcores[0].bytes, v.conns[2].bytes), ([None; 2], [None; 2], [None; 2]));
        let l = v.head.operations.iter().find(|o| o.name == "put_ack").unwrap().latency;
        assert_eq!(l.count(), 12_000, "all of them");
    }
}

#[test]
fn rows_are_ordered_by_rate_queue_and_name() {
    let mut s = screen();
    let peers = |s: &Screen| s.view.peers.iter().map(|p| p.peer.clone()).collect::<Vec<_>>();
    assert_eq!(
        (s.order(Pane::Peers), peers(&s)),
        (Sort::Rate, vec!["10.0.0.2@tcp".into(), "10.0.0.9@tcp".into()])
    );
    press(&mut s, KeyCode::Char('s'));
    assert_eq!((s.order(Pane::Peers), peers(&s)[0].as_str()), (Sort::Queue, "10.0.0.2@tcp"));
    press(&mut s, KeyCode::Char('4'));
    let first = |s: &Screen| s.view.conns[0].kind.clone();
    assert_eq!((s.pane, first(&s).as_str()), (Pane::Connections, "bulk out"));
    for _ in 0..2 {
        press(&mut s, KeyCode::Char('s'));
    }
    assert_eq!((s.order(Pane::Connections), s.view.conns[0].local.as_str()), (Sort::Name, "10.0.0.1:1021"));
}

#[test]
fn keys_choose_scroll_pause_and_leave() {
    let mut s = screen();
    let peers =
        (0..1000).map(|n| json!({ "peer": format!("10.0.{}.{}@tcp", n / 250, n % 250), "contact": "idle" }));
    let mut many = sample(3604);
    many.peers = rows(peers.collect());
    s.seen(Ok(many));
    let draw = |s: &mut Screen| shown(s, 80, 24);
    // Header, keys, title and titles of columns take eight lines.
    assert!(draw(&mut s).contains("[3] peers: 1000, 1 to 16"));
    for (code, says) in [
        (KeyCode::Down, "2 to 17"),
        (KeyCode::PageDown, "18 to 33"),
        (KeyCode::Up, "17 to 32"),
        (KeyCode::End, "985 to 1000"),
        (KeyCode::Down, "985 to 1000"),
        (KeyCode::PageUp, "969 to 984"),
        (KeyCode::Home, "1 to 16"),
        (KeyCode::PageUp, "1 to 16"),
    ] {
        assert_eq!(press(&mut s, code), Step::Draw);
        let d = draw(&mut s);
        assert!(d.contains(&format!("1000, {says}")), "{code:?}: {d}");
    }
    // Fewer rows than before: the last page is shown, not an empty one.
    press(&mut s, KeyCode::End);
    s.seen(Ok(sample(3606)));
    assert!(draw(&mut s).contains("10.0.0.2@tcp"));
    let pace = |s: &mut Screen, c| {
        press(s, KeyCode::Char(c));
        s.interval.as_secs_f64()
    };
    assert_eq!([pace(&mut s, '+'), pace(&mut s, '-'), pace(&mut s, '-')], [0.5, 1.0, 2.0]);
    press(&mut s, KeyCode::Char('p'));
    assert!(s.paused && draw(&mut s).contains("paused"));
    let panes = [KeyCode::Tab, KeyCode::Tab, KeyCode::BackTab, KeyCode::Char('2')].map(|c| {
        press(&mut s, c);
        s.pane
    });
    assert_eq!(panes, [Pane::Connections, Pane::Lcores, Pane::Connections, Pane::Nis]);
    assert!(draw(&mut s).contains("credits"));
    // Any key takes the help away, and only Ctrl-C leaves from there.
    press(&mut s, KeyCode::Char('?'));
    assert!(draw(&mut s).contains("another pane"));
    assert_eq!((press(&mut s, KeyCode::Char('q')), s.help), (Step::Draw, false));
    let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(
        [press(&mut s, KeyCode::Char('q')), press(&mut s, KeyCode::Esc), s.key(control)],
        [Step::Quit; 3]
    );
    let released = KeyEvent::new_with_kind(KeyCode::Char('q'), KeyModifiers::NONE, KeyEventKind::Release);
    assert_eq!((press(&mut s, KeyCode::Char('c')), s.key(released)), (Step::Draw, Step::Draw));
}
