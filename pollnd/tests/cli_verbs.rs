//! Verbs of `pollnd lnetctl` that set values and look, and fault rules in files, on nodes that run over kernel sockets.

#![allow(missing_docs)]

#[allow(dead_code)]
mod proc;

use std::path::Path;

use proc::{Place, Proc, eventually, nid, own_ip};
use rustix::process::Signal;

const PORT: [&str; 2] = ["--accept-port", "10992"];

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/texts").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

impl Place {
    fn node(&self, more: &[&str]) -> Proc {
        self.start(&[&["node"], more, &PORT].concat()).up()
    }

    /// The number behind `key` of the NI of that NID.
    fn number(&self, node: &Proc, what: &str, nid: &str, key: &str) -> i64 {
        let shown = self.ctl(node, &[what, "show", "-v", "2"]).good().out;
        let at = shown.find(&format!(" nid: {nid}\n")).unwrap_or_else(|| panic!("{nid}\n{shown}"));
        let value = shown[at..].lines().find_map(|l| l.trim().strip_prefix(key)?.strip_prefix(": "));
        value.unwrap_or_else(|| panic!("{key}\n{shown}")).parse().unwrap()
    }

    /// Fault rules of a node.
    fn rules(&self, node: &Proc) -> Vec<String> {
        let list = |kind| self.ctl(node, &["fault", kind, "list"]).good().out;
        let all = list("drop") + &list("delay");
        all.lines()
            .filter(|l| !l.starts_with("found"))
            .map(|l| l.split(" ptl").next().unwrap().to_owned())
            .collect()
    }
}

/// Health is set, listed as being recovered, and comes back; what a node has not is refused by name.
#[test]
fn values_of_nis_are_set_and_recovered() {
    let (at, [a, a1, b, b1, c]) = (Place::new(), [(); 5].map(|()| own_ip()));
    let (first, second) = (nid(a), format!("{a1}@tcp1"));
    let (theirs, other) = (nid(b), format!("{b1}@tcp1"));
    let node = at.node(&["--nid", &first, "--ni", &second]);
    let (peer, single) = (at.node(&["--nid", &theirs, "--ni", &other]), at.node(&["--nid", &nid(c)]));
    at.ctl(&node, &["discover", &format!("{theirs},{}", nid(c))]).good();
    let told = |words: &[&str], code: i32, says: &[&str]| drop(at.ctl(&node, words).failed(code, says));
    let good = |words: &[&str]| assert_eq!(at.ctl(&node, words).good().out, "", "{words:?}");
    // A step is a point, so that what was set is seen.
    good(&["set", "health_sensitivity", "1"]);

    let own = |nid: &str| at.number(&node, "net", nid, "health value");
    good(&["net", "set", "--nid", &first, "--health", "300"]);
    assert!((300..400).contains(&own(&first)) && own(&second) == 1000, "{}", own(&first));
    for flag in ["--local", "-l"] {
        let list = at.ctl(&node, &["debug", "recovery", flag]).good().out;
        assert_eq!(
            list,
            golden("mr-link/a-recovery-peer.yaml")
                .replace("Peer", "Local")
                .replace("192.168.80.23@tcp", &first)
        );
    }
    good(&["net", "set", "--all", "--health", "1000"]);
    assert_eq!((own(&first), own(&second)), (1000, 1000));
    good(&["debug", "recovery", "--local"]);

    let health = |nid: &str| at.number(&node, "peer", nid, "health value");
    good(&["peer", "set", "--nid", &other, "--health", "500"]);
    assert!((500..600).contains(&health(&other)) && health(&theirs) == 1000);
    for flag in ["--peer", "-p"] {
        let list = at.ctl(&node, &["debug", "recovery", flag]).good().out;
        assert_eq!(list, golden("mr-link/a-recovery-peer.yaml").replace("192.168.80.23@tcp", &other));
    }
    good(&["peer", "set", "--all", "--health", "1000"]);
    assert_eq!(health(&other), 1000);
    good(&["debug", "recovery", "--peer"]);
    // Its pings bring it back, a step each.
    good(&["set", "health_sensitivity", "1000"]);
    good(&["peer", "set", "--nid", &other, "--health", "0"]);
    eventually("recovery", || health(&other) == 1000);
    good(&["debug", "recovery", "--peer"]);

    told(
        &["net", "set", "--nid", "10.9.9.9@tcp", "--health", "1"],
        234,
        &["set:\n-     net:\n      errno: -22", "is no NI of this node"],
    );
    told(&["net", "set", "--nid", "0@lo", "--health", "1"], 234, &["0@lo has no values"]);
    told(&["net", "set", "--all", "--health", "1001"], 234, &["health 1001: it takes 0 to 1000"]);
    told(&["net", "set", "--health", "5"], 234, &["give --nid NID, or --all"]);
    told(&["net", "set", "--nid", &first, "--all", "--health", "5"], 2, &["--all"]);
    told(
        &["peer", "set", "--nid", "10.9.9.9@tcp", "--health", "1"],
        234,
        &["set:\n-     peer:\n      errno: -22", "no peer has the NID"],
    );
    told(
        &["peer", "set", "--nid", &nid(c), "--health", "1"],
        161,
        &["errno: -95", "nothing is chosen by its health"],
    );
    told(&["peer", "set", "--all", "--state", "5"], 161, &["a peer's state is what it has said"]);
    told(&["debug", "recovery"], 2, &["--local"]);

    // Settings of the node are changed for all of its NIs, or refused.
    let connections = |nid: &str| at.number(&node, "net", nid, "conns_per_peer");
    good(&["net", "set", "--all", "--conns-per-peer", "3"]);
    assert_eq!((connections(&first), connections(&second)), (3, 3));
    good(&["net", "set", "--nid", &first, "--conns-per-peer", "3", "--health", "1000"]);
    told(
        &["net", "set", "--nid", &first, "--conns-per-peer", "2"],
        234,
        &["conns_per_peer 2: all NIs of this node have 3"],
    );
    told(&["net", "set", "--all", "--conns-per-peer", "128"], 234, &["0 to 127"]);
    told(
        &["net", "set", "--net", "tcp", "--lnd-timeout", "7"],
        234,
        &["timeout 7: all NIs of this node have 50"],
    );
    good(&["net", "set", "--all", "--lnd-timeout", "7"]);
    assert_eq!(at.number(&node, "net", &second, "timeout"), 7);
    for p in [node, peer, single] {
        p.stop().good();
    }
}

#[test]
fn cpts_are_told_as_lnetctl_does() {
    let (at, a) = (Place::new(), nid(own_ip()));
    let node = at.node(&["--nid", &a]);
    let text = golden("lnetctl/cpt-of-nid.yaml").replace("192.168.80.12@tcp", &a);
    for words in [
        &["cpt-of-nid", &a, "192.168.80.11@tcp"][..],
        &["cpt-of-nid", "--nid", &format!("{a},192.168.80.11@tcp")],
    ] {
        assert_eq!(at.ctl(&node, words).good().out, text, "{words:?}");
    }
    // However many: they are asked in several questions.
    let many: Vec<String> = (0..3000u32).map(|n| format!("10.2.{}.{}@tcp", n / 250, 1 + n % 250)).collect();
    let words: Vec<&str> = std::iter::once("cpt-of-nid").chain(many.iter().map(String::as_str)).collect();
    let all = at.ctl(&node, &words).good();
    assert_eq!(all.out.matches("nid: 10.2.").count(), many.len());
    let end = at.ctl(&node, &["cpt-of-nid", "foo"]);
    assert_eq!((end.status.code(), &*end.err), (Some(234), &*golden("lnetctl/cpt-of-nid-bad.txt.stderr")));
    node.stop().good();
}

/// A peer that is not Multi-Rail stays so whatever it says, and one whose primary NID is locked keeps it.
#[test]
fn peers_are_added_as_not_multi_rail_and_with_a_locked_primary_nid() {
    let (at, [a, b]) = (Place::new(), [(); 2].map(|()| own_ip()));
    let (own, own1, theirs, other) = (nid(a), format!("{a}@tcp1"), nid(b), format!("{b}@tcp1"));
    let (node, peer) =
        (at.node(&["--nid", &own, "--ni", &own1]), at.node(&["--nid", &theirs, "--ni", &other]));
    at.ctl(&node, &["peer", "add", "--prim_nid", &theirs, "--nid", &other, "--non_mr"])
        .failed(255, &["errno: -1\n", "is not Multi-Rail, and has one NID"]);
    at.ctl(&node, &["peer", "add", "--prim_nid", &theirs, "--non_mr"]).good();
    let shown = || at.ctl(&node, &["peer", "show", "-v", "4", "--nid", &theirs]).good().out;
    assert!(shown().contains("Multi-Rail: false\n      peer state: 8\n"), "{}", shown());
    at.ctl(&node, &["discover", &theirs]).good();
    let now = shown();
    assert!(now.contains("Multi-Rail: false\n      peer state: 280\n") && !now.contains(&other), "{now}");
    at.ctl(&node, &["peer", "del", "--prim_nid", &theirs]).good();

    at.ctl(&node, &["peer", "add", "--prim_nid", &other, "--nid", &theirs, "--lock_prim"]).good();
    at.ctl(&node, &["discover", "--force", &theirs]).good().says(&[&format!("primary nid: {other}")]);
    assert!(
        shown().starts_with(&format!("peer:\n-     primary nid: {other}\n      Multi-Rail: true\n")),
        "{}",
        shown()
    );
    at.ctl(&node, &["peer", "del", "--prim_nid", &other, "--force"]).good();
    peer.stop().good();
    node.stop().good();
}

/// Rules of files hold from the first message on; `config apply`, SIGHUP and `import` change them, all or nothing.
#[test]
fn files_have_fault_rules() {
    let (at, a) = (Place::new(), own_ip());
    let net = format!("net: [{{net type: tcp, local NI(s): [{{nid: \"{}\"}}]}}]\n", nid(a));
    let path = at.0.path().join("node.yaml");
    let path = path.to_str().unwrap();
    let file = |text: &str| std::fs::write(path, format!("{net}{text}")).unwrap();
    let gets = "{source: \"*\", dest: \"*\", rate: 1, message: GET}";
    let of = |drop: &[&str], delay: &[&str]| {
        let list = |all: &[&str]| all.iter().map(|r| format!("  - {r}\n")).collect::<String>();
        format!("fault:\n  drop:\n{}  delay:\n{}", list(drop), list(delay))
    };
    file(&of(&[gets], &[]));
    at.run(&["config", "check", path]).good();
    let node = at.node(&["--config", path]);
    let config = |verb: &str| at.run(&["config", verb, "--node", &node.id().to_string()]);
    let ping = || at.run(&["ping", &nid(a), "--nid", &nid(own_ip()), "--timeout", "1", PORT[0], PORT[1]]);
    ping().failed(1, &[]);
    let listed = at.rules(&node);
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert!(listed[0].contains("(1/1 | 0)"), "{listed:?}");

    // A rule by hand goes with the file, as routes and peers do.
    at.ctl(&node, &["fault", "drop", "add", "--source", "*@tcp7", "--dest", "*", "--rate", "9"]).good();
    let late = "{source: \"*@tcp\", dest: \"*@tcp\", interval: 86000, latency: 0.5}";
    file(&of(&["{source: \"*\", dest: \"*\", rate: 1000000, message: [GET, PUT]}"], &[late]));
    config("apply").good().says(&[
        "fault: drop source=*@tcp7 dest=* rate=9 is gone",
        "fault: drop source=* dest=* rate=1 message=GET is gone",
        "fault: drop source=* dest=* rate=1000000 message=PUT,GET is new",
        "fault: delay source=*@tcp dest=*@tcp interval=86000 latency=0.5 is new",
    ]);
    config("apply").good().says(&["nothing is other"]);
    ping().good();
    let kept = config("export").good().out;
    for says in ["fault:\n    drop:\n        - source: ", "message: [PUT, GET]", "latency: 0.5"] {
        assert!(kept.contains(says), "{says}\n{kept}");
    }

    // A later failure takes them back, and a wrong order changes nothing.
    let before = at.rules(&node);
    let beyond = net.replace(&nid(a), "203.0.113.9@tcp");
    std::fs::write(path, format!("{beyond}{}", of(&[gets], &[]))).unwrap();
    config("apply").failed(1, &["203.0.113.9"]);
    assert_eq!(at.rules(&node), before);
    file(&of(&["{source: \"*\", dest: \"*\", rate: 1, speed: 3}"], &[]));
    config("apply").failed(2, &[":4:39: \"speed\" is no key of a fault rule", "health_error"]);
    at.ctl(&node, &["import", path]).failed(234, &["\\\"speed\\\""]);
    assert_eq!(at.rules(&node), before);

    file("");
    node.signal(Signal::HUP);
    eventually("the signal's effect", || at.rules(&node).is_empty());
    std::fs::write(path, &kept).unwrap();
    at.ctl(&node, &["import", path]).good();
    assert_eq!(at.rules(&node), before);
    at.ctl(&node, &["import", "--del", path]).good();
    assert_eq!(at.rules(&node), [""; 0]);
    at.ctl(&node, &["import", "--del", path]).failed(254, &["there is no fault rule drop source=*"]);
    node.stop().good();

    // The command line's rules win over the file's.
    let end = at.node(&[
        "--config",
        path,
        "--nid",
        &nid(a),
        "--fault",
        "drop source=* dest=* rate=3 message=REPLY",
    ]);
    end.err_has(&["--fault of the command line wins over"]);
    assert!(at.rules(&end)[0].contains("(1/3 | 0)"), "{:?}", at.rules(&end));
    end.stop().good();
}
