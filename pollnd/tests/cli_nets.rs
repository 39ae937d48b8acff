//! NIs that a running node gets and loses, over kernel sockets: `pollnd lnetctl net add` and `net del`, and files whose NIs are others.

#![allow(missing_docs)]

#[allow(dead_code)]
mod proc;

use std::path::Path;

use proc::{Place, Proc, eventually, nid, own_ip};
use rustix::process::Signal;

const PORT: [&str; 2] = ["--accept-port", "10990"];

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/texts/lnetctl").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

impl Place {
    fn node(&self, more: &[&str]) -> Proc {
        self.start(&[&["node"], more, &PORT].concat()).up()
    }

    fn nets(&self, node: &Proc) -> Vec<String> {
        let shown = self.ctl(node, &["net", "show"]).good().out;
        shown.lines().filter_map(|l| Some(l.split_once("nid: ")?.1.to_owned())).collect()
    }
}

/// A file of these NIs.
fn net(nids: &[&str]) -> String {
    let one = |n: &&str| {
        let net = n.rsplit('@').next().unwrap();
        format!("  - {{net type: {net}, local NI(s): [{{nid: \"{n}\"}}]}}\n")
    };
    format!("net:\n{}", nids.iter().map(one).collect::<String>())
}

#[test]
fn an_ni_comes_and_goes_while_others_run() {
    let (at, a, b, a1, b1) = (Place::new(), own_ip(), own_ip(), own_ip(), own_ip());
    let (first, second) = (nid(a), format!("{a1}@tcp1"));
    let (node, peer) = (at.node(&["--nid", &first]), at.node(&["--nid", &nid(b)]));
    at.ctl(&node, &["ping", &nid(b)]).good();
    at.ctl(&node, &["discover", &nid(b)]).good();

    at.ctl(&node, &["net", "add", "--net", "tcp1", "--ip", &a1.to_string(), "--credits", "77"]).good();
    assert_eq!(at.nets(&node), ["0@lo", &*first, &*second]);
    at.ctl(&node, &["net", "show", "--net", "tcp1", "-v"]).good().says(&["credits: 77", "peer_credits: 8"]);
    // The peer was told, and reaches it once it is on that network itself.
    at.ctl(&peer, &["ping", &second]).failed(255, &[]);
    at.ctl(&peer, &["net", "add", "--nid", &format!("{b1}@tcp1")]).good();
    eventually("news of the new NI", || at.ctl(&peer, &["peer", "show", "--nid", &second]).status.success());
    at.ctl(&peer, &["ping", &second]).good().says(&[&second]);
    // Another network on an address that is there.
    at.ctl(&node, &["net", "add", "--net", "tcp2", "--ip", &a.to_string()]).good();
    assert_eq!(at.nets(&node).last(), Some(&format!("{a}@tcp2")));
    at.ctl(&node, &["net", "del", "--net", "tcp2"]).good();
    at.ctl(&node, &["ping", &nid(b)]).good();

    // The NID that it was started with goes; what is left is enough.
    at.ctl(&node, &["net", "del", "--net", "tcp"]).good();
    assert_eq!(at.nets(&node), ["0@lo", &*second]);
    at.ctl(&peer, &["ping", &second]).good();
    // Another process may have it meanwhile.
    let heir = at.node(&["--nid", &first]);
    at.ctl(&peer, &["ping", &first]).good();
    let taken = format!("process {}", heir.id());
    at.ctl(&node, &["net", "add", "--nid", &first]).failed(234, &[&taken]);
    heir.stop().good();
    at.ctl(&node, &["net", "add", "--nid", &first]).good();
    at.ctl(&peer, &["ping", &first]).good();
    assert_eq!(at.nets(&node), ["0@lo", &*second, &*first]);
    // All of them, and one again.
    for nid in [&first, &second] {
        at.ctl(&node, &["net", "del", "--nid", nid]).good();
    }
    assert_eq!(at.nets(&node), ["0@lo"]);
    at.ctl(&node, &["ping", &nid(b)]).failed(255, &[]);
    at.ctl(&node, &["net", "add", "--nid", &first]).good();
    at.ctl(&node, &["ping", &nid(b)]).good();
    peer.stop().good();
    node.stop().good();
}

#[test]
fn refusals_are_lnetctl_s_or_say_what_to_do() {
    let (at, a, b) = (Place::new(), own_ip(), own_ip());
    let (node, other) = (at.node(&["--nid", &nid(a)]), at.node(&["--nid", &nid(b)]));
    for (words, name) in [
        (&["net", "add", "--net", "foo", "--if", "lo"][..], "err-net-add-bad-net.txt.stderr"),
        (&["net", "add", "--net", "tcp2", "--if", "none9"], "err-net-add-bad-if.txt.stderr"),
        (&["net", "add", "--net", "tcp", "--ip", &a.to_string()], "err-net-add-dup.txt.stderr"),
        (&["net", "del", "--net", "tcp9"], "err-net-del-unknown.txt.stderr"),
    ] {
        let end = at.ctl(&node, words);
        assert_eq!((end.status.code(), &*end.err), (Some(234), &*golden(name)), "{words:?}");
    }
    for verb in ["add", "del"] {
        let end = at.ctl(&node, &["net", verb]);
        assert_eq!((end.status.code(), &*end.out), (Some(234), &*golden("err-net-add-noarg.txt")), "{end:?}");
    }
    let add = |more: &[&str], says: &[&str]| {
        drop(at.ctl(&node, &[&["net", "add"], more].concat()).failed(234, says));
    };
    add(&["--net", "tcp1"], &["it needs an address: give --nid"]);
    add(&["--nid", "203.0.113.9@tcp1"], &["cannot listen on 203.0.113.9:10990", "no address of this node"]);
    let only_at_start = ["peer_credits 9", "have 8", "start the node again with --tunable peer_credits=9"];
    add(&["--nid", &format!("{a}@tcp1"), "--peer-credits", "9"], &only_at_start);
    // Addresses that no machine has are told of in one form, whether they are so by themselves or by the network.
    for (nid, says) in [
        ("255.255.255.255@tcp1", "broadcast"),
        ("127.255.255.255@tcp1", "broadcast"),
        ("224.0.0.1@tcp1", "multicast"),
    ] {
        add(&["--nid", nid], &["add:\n-     net:\n      errno: -22\n", says]);
    }
    add(&["--nid", &format!("{a}@tcp1"), "--cpt", "[0,1]"], &["cpt [0,1]", "[0]"]);
    add(&["--nid", &format!("{a}@tcp1"), "--net", "tcp2"], &["another network than --net tcp2"]);
    add(&["--nid", &nid(b)], &[&format!("process {}", other.id())]);
    at.ctl(&node, &["route", "add", "--net", "tcp7", "--gateway", &nid(b)]).good();
    add(&["--nid", &format!("{a}@tcp7")], &["a route leads to tcp7", "route del"]);
    assert_eq!(at.nets(&node), ["0@lo", &*nid(a)]);
    // As at start, where a node on the machine's own network may be asked for.
    at.ctl(&node, &["net", "add", "--net", "tcp3", "--if", "lo"]).good();
    assert_eq!(at.nets(&node).last().map(String::as_str), Some("127.0.0.1@tcp3"));
    // A peer has no more credits than the NI.
    at.ctl(&node, &["net", "add", "--nid", &format!("{a}@tcp4"), "--credits", "4"]).good();
    at.ctl(&node, &["net", "show", "--net", "tcp4", "-v"])
        .good()
        .says(&["credits: 4\n", "peer_credits: 4\n"]);
    node.err_has(&["peer_credits=8 is more than credits=4"]);
    other.stop().good();
    node.stop().good();
}

/// Messages that have not left go by another NI, others end with an error, and the transfer goes on.
#[test]
fn a_transfer_survives_nis_that_come_and_go_at_either_end() {
    let (at, [a, b]) = (Place::new(), [(); 2].map(|()| own_ip()));
    let of = |ip| (nid(ip), format!("{ip}@tcp1"));
    let ((first, own), (there, theirs)) = (of(a), of(b));
    let node = at.node(&["--nid", &first, "--ni", &own]);
    let peer = at.node(&["--nid", &there, "--ni", &theirs]);
    at.ctl(&node, &["discover", &there]).good();
    let pid = node.id().to_string();
    for what in ["put", "get"] {
        let mut p = at.start(&[what, &there, "--node", &pid, "-t", "3", "-s", "64k", "--json"]);
        while p.runs() {
            for (at_node, nid) in [(&node, &own), (&peer, &theirs)] {
                at.ctl(at_node, &["net", "del", "--nid", nid]).good();
                eventually("room for it", || at.ctl(at_node, &["net", "add", "--nid", nid]).status.success());
            }
        }
        let end = p.end();
        let v = end.json();
        assert!(v["wall_s"].as_f64() > Some(2.9) && v["messages"].as_u64() > Some(0), "{what}: {end:?}");
        match v["failed"].as_u64() {
            Some(0) => assert_eq!(end.status.code(), Some(0), "{what}: {end:?}"),
            _ => drop(end.failed(1, &["ended with an error"])),
        }
    }
    at.run(&["put", &there, "--node", &pid, "-c", "20"]).good();
    peer.stop().good();
    node.stop().good();
}

/// `import`, `config apply` and SIGHUP: NIs of the file come, others go, and what cannot be changes nothing.
#[test]
fn files_whose_nis_are_others_change_a_node_that_runs() {
    let (at, [a, b, c]) = (Place::new(), [(); 3].map(|()| own_ip()));
    let (first, second, third) = (nid(a), format!("{b}@tcp1"), format!("{c}@tcp2"));
    let path = at.file(&net(&[&first, &second]));
    let path = path.to_str().unwrap();
    let node = at.node(&["--config", path]);
    let peer = at.node(&["--nid", &nid(own_ip())]);
    let config = |verb: &str| {
        let words = ["config", verb, "--node", &node.id().to_string()];
        at.start(&words).end()
    };
    at.file(&net(&[&first, &third]));
    config("apply").good().says(&[&format!("net: {third} is new"), &format!("net: {second} is gone")]);
    assert_eq!(at.nets(&node), ["0@lo", &*first, &*third]);
    config("apply").good().says(&["nothing is other"]);
    config("export").good().says(&[&third]);

    // One of two cannot be: nothing is other, a tunable neither.
    let bad = format!("{}global: {{transaction_timeout: 77}}\n", net(&[&first, &second, "203.0.113.9@tcp3"]));
    at.file(&bad);
    let before = at.ctl(&node, &["global", "show"]).good().out;
    config("apply").failed(1, &["net: cannot listen on 203.0.113.9"]);
    assert_eq!(at.nets(&node), ["0@lo", &*first, &*third]);
    assert_eq!(at.ctl(&node, &["global", "show"]).good().out, before);

    // A route by an NI that is new, and one that goes with its network.
    let gateway = format!("{}@tcp1", own_ip());
    at.file(&format!("{}route: [{{net: tcp9, gateway: \"{gateway}\"}}]\n", net(&[&first, &second])));
    at.ctl(&node, &["import", path]).good();
    assert_eq!(at.nets(&node), ["0@lo", &*first, &*third, &*second], "an import deletes none");
    at.ctl(&node, &["route", "show"]).good().says(&[&gateway]);

    at.file(&net(&[&third]));
    node.signal(Signal::HUP);
    eventually("the signal's effect", || at.nets(&node) == ["0@lo", &*third]);
    assert_eq!(at.ctl(&node, &["route", "show"]).good().out, "");
    // Its own export makes the same node, with credits of an NI's own, too.
    at.ctl(&node, &["net", "add", "--nid", &second, "--credits", "99"]).good();
    for backup in [&["export", "--backup"][..], &["export"]] {
        let kept = at.ctl(&node, backup).good().out;
        assert!(kept.contains("credits: 99") && kept.contains("credits: 256"), "{kept}");
        at.file(&kept);
        config("apply").good();
        at.ctl(&node, &["net", "del", "--nid", &second]).good();
        at.ctl(&node, &["import", path]).good();
        at.ctl(&node, &["net", "show", "--net", "tcp1", "-v"]).good().says(&["credits: 99"]);
        assert_eq!(at.nets(&node), ["0@lo", &*third, &*second]);
    }
    config("export").good().says(&["credits: 99"]);
    at.file(&at.ctl(&node, &["export", "--backup"]).good().out.replace("credits: 99", "credits: 98"));
    config("apply").failed(1, &["needs a restart", &format!("credits of {second}: 98 ("), "runs with 99"]);
    peer.stop().good();
    node.stop().good();
}

/// An NI by hand goes with a file that lacks it only where the node was configured by a file, and is not imported. Whoever asks is told what is
/// kept, added and deleted.
#[test]
fn only_a_node_by_its_file_loses_nis_by_hand_with_it() {
    for by in ["nid", "nid and options", "config", "nid and config"] {
        let (at, [a, b, c]) = (Place::new(), [(); 3].map(|()| own_ip()));
        let (first, hand, new) = (nid(a), format!("{b}@tcp1"), format!("{c}@tcp2"));
        let path = at.file(&net(&[&first]));
        let path = path.to_str().unwrap();
        let options = at.0.path().join("lustre.conf");
        std::fs::write(&options, "options ksocklnd keepalive=7\n").unwrap();
        let mut words = Vec::new();
        for (word, more) in [("nid", &*first), ("options", options.to_str().unwrap()), ("config", path)] {
            if by.contains(word) {
                words.extend([format!("--{word}"), more.to_owned()]);
            }
        }
        let node = at.node(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let (by_file, has_file) = (by == "config", by.contains("config"));
        let apply = || at.run(&["config", "apply", path, "--node", &node.id().to_string()]);
        let add = |nid: &str| drop(at.ctl(&node, &["net", "add", "--nid", nid, "--credits", "99"]).good());
        add(&hand);

        at.file(&net(&[&first, &new]));
        let end = at.ctl(&node, &["import", path]).good();
        let end = end.tells(&[&format!("net: {new} is new")]);
        assert!(end.out.is_empty() && !end.err.contains("is gone"), "{by}: {end:?}");
        assert_eq!(at.nets(&node), ["0@lo", &*first, &*hand, &*new], "{by}");
        at.ctl(&node, &["net", "show", "--net", "tcp1", "-v"]).good().says(&["credits: 99"]);
        at.ctl(&node, &["net", "del", "--nid", &new]).good();

        let end = apply().good();
        if by_file {
            end.says(&[&format!("net: {new} is new"), &format!("net: {hand} is gone")]);
            assert_eq!(at.nets(&node), ["0@lo", &*first, &*new]);
            add(&hand);
        } else {
            end.says(&["nothing is other"])
                .tells(&[&format!("net: {hand} is kept"), "--nid of the command line wins"]);
            assert_eq!(at.nets(&node), ["0@lo", &*first, &*hand], "{by}");
            // One of the command line comes again.
            at.ctl(&node, &["net", "del", "--nid", &first]).good();
            apply().good().says(&[&format!("net: {first} is new")]);
            assert_eq!(at.nets(&node), ["0@lo", &*hand, &*first], "{by}");
        }
        if has_file {
            at.file(&(net(&[&first, &new]) + "global: {retry_count: 1}\n"));
            node.signal(Signal::HUP);
            eventually("the signal's effect", || {
                at.ctl(&node, &["global", "show"]).good().out.contains("retry_count: 1\n")
            });
            let all = if by_file { ["0@lo", &*first, &*new] } else { ["0@lo", &*hand, &*first] };
            eventually("NIs", || at.nets(&node) == all);
        }
        // A file that names no NI says nothing of them.
        let before = at.nets(&node);
        at.file("global: {retry_count: 3}\n");
        let end = at.ctl(&node, &["import", path]).good();
        assert!(!end.err.contains("net:"), "{by}: {end:?}");
        if by_file {
            apply().failed(2, &["it names no NI"]);
        } else {
            apply().good();
        }
        assert_eq!(at.nets(&node), before, "{by}");
        node.stop().good();
    }
}

/// A node imports its own export for lnetctl, though its file has more than lnetctl's files can say.
#[test]
fn an_import_leaves_what_its_file_cannot_say() {
    let (at, a) = (Place::new(), nid(own_ip()));
    let path = at.file(&(net(&[&a]) + "node: {selftest: false, budget: 48}\n"));
    let node = at.node(&["--config", path.to_str().unwrap()]);
    // lnetctl's form has the connections that 0 comes to.
    let own = || {
        let out = at.run(&["config", "export", "--node", &node.id().to_string()]).good().out;
        out.replace("conns_per_peer: 0", "conns_per_peer: 1")
    };
    let before = own();
    assert!(before.contains("selftest: false") && before.contains("budget: 48"), "{before}");
    for level in [&["export"][..], &["export", "--backup"]] {
        let out = at.0.path().join("exported.yaml");
        std::fs::write(&out, at.ctl(&node, level).good().out).unwrap();
        at.ctl(&node, &["import", out.to_str().unwrap()]).good();
        assert_eq!(own(), before, "{level:?}");
    }
    node.stop().good();
}
