//! A node as a service: what it tells systemd and Prometheus, and what an installation has.

#![allow(missing_docs)]

mod openmetrics;
#[allow(dead_code)]
mod proc;

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use proc::{Proc, can, nid, node, own_ip, pollnd, run};
use rustix::process::Signal;

/// The words of sd_notify(3), as systemd would hear them: up, alive, going down.
#[test]
fn a_service_manager_is_told_when_a_node_is_up_alive_and_going_down() {
    let test = "a_service_manager_is_told_when_a_node_is_up_alive_and_going_down";
    if !can(test) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let heard = UnixDatagram::bind(&path).unwrap();
    heard.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let next = || {
        let mut bytes = [0; 4096];
        let n = heard.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    };
    let ip = own_ip();
    let mut c = pollnd(&["node", "--nid", &nid(ip)]);
    c.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000").env_remove("WATCHDOG_PID");
    let node = Proc::start(c).up();
    let up = next();
    assert!(
        up.contains("READY=1") && up.contains(&format!("STATUS={} on kernel sockets", nid(ip))),
        "{up:?}"
    );
    for _ in 0..3 {
        assert_eq!(next().trim(), "WATCHDOG=1");
    }
    node.signal(Signal::TERM);
    let down = std::iter::repeat_with(next).find(|w| w.trim() != "WATCHDOG=1");
    assert_eq!(down.as_deref().map(str::trim), Some("STOPPING=1"));
    node.end().good();
}

/// `make install` into a folder: the program runs there, the unit names files that are there, and words and pages are whole.
#[test]
fn an_installation_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_pollnd"));
    let (target, profile) = (program.ancestors().nth(2).unwrap(), program.ancestors().nth(1).unwrap());
    let mut c = Command::new(root.join("scripts/install"));
    c.arg(dir.path())
        .arg("/usr")
        .env("CARGO_TARGET_DIR", target)
        .env("PROFILE", profile.file_name().unwrap());
    let done = c.stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let read = |p: &str| std::fs::read_to_string(dir.path().join(p)).unwrap_or_else(|e| panic!("{p}: {e}"));
    let unit = read("usr/lib/systemd/system/pollnd.service");
    let starts = unit.lines().find_map(|l| l.strip_prefix("ExecStart=")).unwrap();
    let words: Vec<_> = starts.split(' ').collect();
    assert_eq!((words[1], words[2]), ("node", "--config"));
    for file in [words[0], words[3]] {
        assert!(dir.path().join(file.trim_start_matches('/')).exists(), "{file} of the unit");
    }
    // Each verb has its page, and each shell its words.
    let help = String::from_utf8(pollnd(&["--help"]).output().unwrap().stdout).unwrap();
    let verbs = help.split("Commands:\n").nth(1).unwrap().lines().take_while(|l| !l.is_empty());
    let verbs: Vec<_> = verbs.filter_map(|l| l.split_whitespace().next()).filter(|v| *v != "help").collect();
    assert!(verbs.len() > 10, "{verbs:?}");
    let shells = [
        "bash-completion/completions/pollnd",
        "zsh/site-functions/_pollnd",
        "fish/vendor_completions.d/pollnd.fish",
    ];
    for verb in verbs {
        assert!(
            dir.path().join(format!("usr/share/man/man1/pollnd-{verb}.1.gz")).exists(),
            "no page of {verb}"
        );
        assert!(shells.iter().all(|s| read(&format!("usr/share/{s}")).contains(verb)), "no words of {verb}");
    }
    // A configuration that its owner has changed stays.
    std::fs::write(dir.path().join("etc/pollnd/pollnd.yaml"), "mine").unwrap();
    assert!(c.output().unwrap().status.success());
    assert_eq!(read("etc/pollnd/pollnd.yaml"), "mine");
    assert!(read("etc/pollnd/pollnd.yaml.new").contains("net:"));
}

/// `--metrics`: the figures of `stats`, by their names, in OpenMetrics' text; askers that are slow, wrong or gone are nobody's trouble.
#[test]
fn prometheus_is_served_the_figures_of_a_node() {
    if !can("prometheus_is_served_the_figures_of_a_node") {
        return;
    }
    let (a, b) = (own_ip(), own_ip());
    let at = format!("{a}:9988");
    let nowhere = own_ip();
    let route = format!("tcp9 {nowhere}@tcp");
    let node = node(a, &["--metrics", &at, "--ni", &format!("{a}@tcp3"), "--route", &route, "--routing"]);
    let ask = |request: &str| openmetrics::ask(&at, request);
    let peer = proc::node(b, &[]);
    run(&["ping", &nid(a), "--node", &peer.id().to_string(), "-c", "3", "-i", "0.01"]).good();
    let text = openmetrics::page(&at);
    let value = |name: &str| {
        let line = text.lines().find(|l| l.strip_prefix(name).is_some_and(|l| l.starts_with(' ')));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .rsplit(' ')
            .next()
            .unwrap()
            .parse::<f64>()
            .unwrap()
    };
    // The discovery of the asker is a message, too.
    assert!(
        value("pollnd_msgs_rx_total{lcore=\"0\"}") >= 3.0 && value("pollnd_lcore_up{lcore=\"0\"}") == 1.0
    );
    assert!(value("pollnd_rx_pool_bytes{lcore=\"0\"}") > 0.0 && value("pollnd_peers") >= 1.0);
    assert!(value("pollnd_idle_seconds_total{lcore=\"0\"}") > 0.0);
    assert_eq!(value(&format!("pollnd_peer_dialled{{peer=\"12345-{b}@tcp\"}}")), 0.0);
    assert!(value(&format!("pollnd_peer_connections{{peer=\"12345-{b}@tcp\"}}")) > 0.0);
    for ni in [nid(a), format!("{a}@tcp3")] {
        assert!(text.contains(&format!("pollnd_ni_info{{nid=\"{ni}\",carrier=\"kernel sockets")), "{text}");
    }
    // The pings of the other node came here, and none began here.
    let of =
        |name: &str, more: &str, at: &str| value(&format!("pollnd_{name}{{{more}lcore=\"0\",nid=\"{at}\"}}"));
    assert!(of("ni_recv_count_total", "", &nid(a)) >= 3.0 && of("ni_credits", "", &nid(a)) > 0.0);
    assert_eq!((of("ni_recv_count_total", "", "0@lo"), of("ni_drop_count_total", "", &nid(a))), (0.0, 0.0));
    assert_eq!(value(&format!("pollnd_ni_up{{nid=\"{}\"}}", nid(a))), 1.0);
    assert_eq!(value(&format!("pollnd_ni_health{{nid=\"{}\"}}", nid(a))), 1000.0);
    // A gateway that nobody is at, and the peer that is there.
    assert_eq!(value(&format!("pollnd_route_up{{net=\"tcp9\",gateway=\"{nowhere}@tcp\"}}")), 0.0);
    let labels = format!("{{nid=\"{0}\",peer=\"{0}\"}}", nid(b));
    let [up, health] = ["up", "health"].map(|what| value(&format!("pollnd_peer_ni_{what}{labels}")));
    assert_eq!((up, health, value("pollnd_routing")), (1.0, 1000.0, 0.0));
    assert_eq!(of("lnet_latency_seconds_count", "op=\"ping\",", &nid(a)), 0.0);
    run(&["ping", &nid(b), "--node", &node.id().to_string(), "-c", "2", "-i", "0.01"]).good();
    let text = openmetrics::page(&at);
    let pings: Vec<&str> = text
        .lines()
        .filter(|l| l.starts_with("pollnd_lnet_latency_seconds") && l.contains("op=\"ping\""))
        .collect();
    let own = |part: &str| {
        let found = pings.iter().find(|l| l.contains(part) && l.contains(&format!("nid=\"{}\"", nid(a))));
        found
            .unwrap_or_else(|| panic!("no {part} in {pings:?}"))
            .rsplit(' ')
            .next()
            .unwrap()
            .parse::<f64>()
            .unwrap()
    };
    assert_eq!((own("_count{"), own("le=\"+Inf\""), own("le=\"0.000001024\"")), (2.0, 2.0, 0.0), "{pings:?}");
    assert!(own("_sum{") > 0.0 && own("le=\"17.179869184\"") <= 2.0, "{pings:?}");
    let stats = run(&["stats", "--node", &node.id().to_string()]).good();
    stats.says(&[&format!("{}: sent ", nid(a)), "credits in use", "ping: 2, mean", "(p99)"]);
    // Each figure of `stats` is there, and declared once.
    let v = run(&["stats", "--json", "--node", &node.id().to_string()]).good().json();
    for (name, _) in v["lcores"][0]["counters"].as_object().unwrap() {
        assert_eq!(
            text.lines().filter(|l| l.starts_with(&format!("# TYPE pollnd_{name} "))).count(),
            1,
            "{name}"
        );
    }
    // The dashboard asks for what is there.
    let dashboard = include_str!("../../dist/grafana/pollnd.json");
    let v: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let targets = v["panels"].as_array().unwrap().iter().flat_map(|p| p["targets"].as_array().unwrap());
    let asked: Vec<_> = targets
        .flat_map(|t| t["expr"].as_str().unwrap().split(|c: char| !c.is_alphanumeric() && c != '_'))
        .collect();
    let names: Vec<_> = asked.iter().filter(|w| w.starts_with("pollnd_")).collect();
    assert!(names.len() > 15, "{names:?}");
    // Nobody has counted a kernel's retransmissions.
    assert!(!text.contains("pollnd_retransmits"), "{text}");
    for name in names.into_iter().filter(|n| **n != "pollnd_retransmits_total") {
        assert!(
            text.lines().any(|l| l.strip_prefix(name).is_some_and(|l| l.starts_with(['{', ' ']))),
            "no {name}"
        );
    }
    for (request, says) in [
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
        ("POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
        ("\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
    ] {
        assert_eq!(ask(request).0, says, "{request:?}");
    }
    // Gone at once, too long, and never ending.
    drop(TcpStream::connect(&at));
    let mut long = TcpStream::connect(&at).unwrap();
    let _ = long.write_all(&[b'x'; 20_000]);
    let slow = TcpStream::connect(&at).unwrap();
    assert_eq!(ask("GET /metrics?x=1 HTTP/1.0\r\n\r\n").0, "HTTP/1.1 200 OK");
    drop(slow);
    // An address that is taken, and one that is none.
    peer.stop().good();
    run(&["node", "--nid", &nid(b), "--metrics", &at]).failed(1, &["--metrics", &at, "free port"]);
    run(&["node", "--nid", &nid(b), "--metrics", "9988"]).failed(2, &["--metrics", "9988", "127.0.0.1:9988"]);
    node.stop().good();
}

/// A peer that several NIs speak with had its figures told for each of them, by one name: parsers refuse such a page.
#[test]
fn a_peer_of_several_nis_is_told_of_once() {
    let (a, b, c) = (own_ip(), own_ip(), own_ip());
    let at = format!("{a}:9988");
    let node = node(a, &["--metrics", &at, "--ni", &nid(c)]);
    // It takes each NID for another node.
    let peer = proc::node(b, &["--tunable", "lnet_peer_discovery_disabled=1"]);
    for own in [a, c] {
        run(&["put", &nid(own), "--node", &peer.id().to_string(), "-c", "4"]).good();
        assert!(proc::connections(own) > 0, "nothing has come to {own}");
    }
    let text = openmetrics::page(&at);
    let name = format!("pollnd_peer_connections{{peer=\"12345-{b}@tcp\"}} ");
    let told = text.lines().find_map(|l| l.strip_prefix(&name)).unwrap_or_else(|| panic!("{text}"));
    // A set for each NI.
    assert!(told.parse::<u32>().unwrap() > 3, "{told}");
    assert!(text.contains("\npollnd_peers 1\n"), "{text}");
    peer.stop().good();
    node.stop().good();
}
