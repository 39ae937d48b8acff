//! Peers by hand of nodes that run, over kernel sockets: `pollnd lnetctl peer add` and `peer del`, and files that have them.

#![allow(missing_docs)]

#[allow(dead_code)]
mod proc;

use proc::{Place, Proc, eventually, nid, own_ip, pollnd};
use rustix::process::Signal;

const PORT: [&str; 2] = ["--accept-port", "10991"];

impl Place {
    fn node(&self, more: &[&str]) -> Proc {
        self.start(&[&["node"], more, &PORT].concat()).up()
    }

    /// Peers of a node: their primary NIDs, whether they are Multi-Rail, and all NIDs.
    fn peers(&self, node: &Proc) -> Vec<String> {
        let shown = self.ctl(node, &["peer", "show"]).good().out;
        let value = |l: &str| {
            let (key, value) = l.trim_start_matches(['-', ' ']).split_once(": ")?;
            ["primary nid", "Multi-Rail", "nid"].contains(&key).then(|| value.to_owned())
        };
        shown.lines().filter_map(value).collect()
    }
}

/// lnetctl's words and statuses, and what is shown of them.
#[test]
fn peers_are_added_and_deleted_by_hand() {
    let (at, a, b) = (Place::new(), own_ip(), own_ip());
    let (first, second, own) = (nid(b), format!("{b}@tcp1"), nid(a));
    let node = at.node(&["--nid", &own, "--ni", &format!("{a}@tcp1")]);
    let peer = at.node(&["--nid", &first, "--ni", &second]);
    let told = |words: &[&str], code: i32, says: &[&str]| {
        let end = at.ctl(&node, words);
        assert_eq!((end.status.code(), &*end.out), (Some(code), ""), "{words:?}\n{}", end.err);
        assert!(
            says.iter().all(|s| end.err.contains(s)) && says.is_empty() == end.err.is_empty(),
            "{words:?}\n{}",
            end.err
        );
    };
    // testdata/texts/lnetctl/err-peer-add-bad.txt and err-peer-del-unknown.txt: no text.
    told(&["peer", "add", "--prim_nid", "foo", "--nid", "10.1.1.1@tcp"], 234, &[]);
    told(&["peer", "del", "--prim_nid", "10.9.9.9@tcp"], 234, &[]);

    // Ranges, as lnetctl takes them; one that is none is told of.
    told(
        &["peer", "add", "--prim_nid", "10.8.0.1@tcp", "--nid", "10.8.0.[10-12]@tcp1,10.8.1.[1,3]@tcp"],
        0,
        &[],
    );
    let all = [
        "10.8.0.1@tcp",
        "10.8.0.10@tcp1",
        "10.8.0.11@tcp1",
        "10.8.0.12@tcp1",
        "10.8.1.1@tcp",
        "10.8.1.3@tcp",
    ];
    assert_eq!(at.peers(&node), [&["10.8.0.1@tcp", "true"][..], &all].concat());
    told(&["peer", "del", "--prim_nid", "10.8.0.1@tcp", "--nid", "10.8.0.[10-11]@tcp1"], 0, &[]);
    assert_eq!(at.peers(&node).len(), 2 + 4);
    told(&["peer", "del", "--prim_nid", "10.8.0.1@tcp"], 0, &[]);
    told(
        &["peer", "add", "--prim_nid", "10.8.0.1@tcp", "--nid", "10.8.0.[12-10]@tcp1"],
        234,
        &["errno: -22", "10.8.0.[12-10]@tcp1 is no range of NIDs"],
    );
    told(&["peer", "add", "--prim_nid", "10.8.0.[1-2]@tcp"], 234, &["--prim_nid", "one NID"]);

    told(&["peer", "add", "--prim_nid", &second, "--nid", &first], 0, &[]);
    assert_eq!(at.peers(&node), [&*second, "true", &second, &first]);
    at.ctl(&node, &["peer", "show", "-v", "4", "--nid", &first]).good().says(&["peer state: 9\n"]);
    // A NID that cannot be added is named, and `--prim_nid` is not: it has to be there.
    told(
        &["peer", "add", "--prim_nid", &second],
        239,
        &[
            "add:\n-     peer:\n      errno: -17\n",
            &format!("peer {second} is there by hand already: give a NID"),
        ],
    );
    told(
        &["peer", "add", "--prim_nid", &second, "--nid", &first],
        239,
        &[&format!("the peer {second} has {first} already: give a NID that it does not have")],
    );
    told(&["peer", "add", "--prim_nid", "10.9.9.9@tcp", "--nid", &first], 239, &["delete it there"]);
    told(&["peer", "add", "--prim_nid", "10.9.9.9@tcp", "--nid", &own], 234, &["this node's own"]);
    told(&["peer", "del", "--prim_nid", &first], 237, &["not the primary NID", &second]);
    told(&["peer", "del", "--prim_nid", &second, "--nid", "10.9.9.9@tcp"], 254, &["no NID of the peer"]);

    // The node says that it goes by the other one, and is known by this one nevertheless.
    at.ctl(&node, &["discover", &first]).good().says(&[&format!("primary nid: {second}")]);
    assert_eq!(at.peers(&node), [&*second, "true", &second, &first]);
    at.ctl(&node, &["peer", "show", "-v", "4"]).good().says(&["peer state: 281\n"]);
    told(&["peer", "del", "--prim_nid", &second, "--nid", &first], 0, &[]);
    told(&["peer", "del", "--prim_nid", &second], 0, &[]);
    // It is what it says of itself again.
    at.ctl(&node, &["discover", "--force", &first]).good();
    eventually("its own word", || at.peers(&node) == [&*first, "true", &first, &second]);

    // A NID that was only tried is no peer that a backup has.
    let mistyped = nid(own_ip());
    eventually("an entry of a NID that was tried", || {
        assert!(!at.ctl(&node, &["ping", &mistyped]).status.success());
        at.ctl(&node, &["export"]).good().out.contains(&mistyped)
    });
    let kept = at.ctl(&node, &["export", "--backup"]).good().says(&[&first]);
    assert!(!kept.out.contains(&mistyped), "{kept:?}");
    peer.stop().good();
    node.stop().good();
}

/// Peers of files: at start, by `config apply`, SIGHUP and `import`; and what cannot be changes nothing.
#[test]
fn files_have_peers() {
    let (at, a) = (Place::new(), nid(own_ip()));
    let net = format!("net: [{{net type: tcp, local NI(s): [{{nid: \"{a}\"}}]}}]\n");
    let of = |primary: &str, more: &str| {
        format!(
            "- primary nid: {primary}\n  Multi-Rail: True\n  peer ni:\n  - nid: {primary}\n  - nid: {more}\n"
        )
    };
    let (two, four) = (of("10.0.0.2@tcp", "10.0.1.2@tcp1"), of("10.0.0.4@tcp", "10.0.1.4@tcp1"));
    let shown = |p: &str, q: &str| [p, "true", p, q].map(str::to_owned);
    let (shown_two, shown_four) =
        (shown("10.0.0.2@tcp", "10.0.1.2@tcp1"), shown("10.0.0.4@tcp", "10.0.1.4@tcp1"));
    let path = at.file(&format!("{net}peer:\n{two}"));
    let path = path.to_str().unwrap();
    let node = at.node(&["--config", path]);
    assert_eq!(at.peers(&node), shown_two);
    let config = |verb: &str| at.start(&["config", verb, "--node", &node.id().to_string()]).end();

    at.file(&format!("{net}peer:\n{two}{four}"));
    config("apply").good().says(&["peer: 10.0.0.4@tcp,10.0.1.4@tcp1 is new"]);
    assert_eq!(at.peers(&node), [shown_two.clone(), shown_four.clone()].concat());
    config("apply").good().says(&["nothing is other"]);
    let kept = at.ctl(&node, &["export", "--backup"]).good().out;
    config("export").good().says(&["primary nid: 10.0.0.4@tcp", "nid: 10.0.1.2@tcp1"]);

    // One that cannot be: nothing is other.
    let own = of("10.0.0.5@tcp", &a);
    at.file(&format!("{net}peer:\n{own}"));
    config("apply").failed(2, &["this node's own", ":3:"]);
    // Nor where an NI cannot be that comes after the peers have gone.
    at.file("net: [{net type: tcp, local NI(s): [{nid: \"203.0.113.9@tcp\"}]}]\n");
    config("apply").failed(1, &["203.0.113.9"]);
    let mut now = at.peers(&node);
    now.sort();
    let mut before = [shown_two.clone(), shown_four.clone()].concat();
    before.sort();
    assert_eq!(now, before);

    at.file(&format!("{net}peer:\n{four}"));
    node.signal(Signal::HUP);
    eventually("the signal's effect", || at.peers(&node) == shown_four);
    at.file(&net);
    at.ctl(&node, &["import", path]).good().tells(&["nothing is other"]);
    assert_eq!(at.peers(&node), shown_four, "an import deletes none");
    at.ctl(&node, &["peer", "del", "--prim_nid", "10.0.0.4@tcp"]).good();
    // A habit of lnetctl's users: the file is standard input.
    at.file(&kept);
    for file in [&["import"][..], &["import", "-"]] {
        at.ctl(&node, &["peer", "del", "--prim_nid", "10.0.0.4@tcp"]);
        let pid = node.id().to_string();
        let mut c = pollnd(&[&["lnetctl", "--node", &pid], file].concat());
        c.env("XDG_RUNTIME_DIR", at.0.path()).stdin(std::fs::File::open(path).unwrap());
        Proc::reading(c).end().good();
        assert_eq!(at.peers(&node), [shown_two.clone(), shown_four.clone()].concat());
    }

    // All that a file names goes, and a name that is not there stops nothing.
    let gateway = nid(own_ip());
    at.ctl(&node, &["route", "add", "--net", "tcp7", "--gateway", &gateway]).good();
    let routes = format!("route: [{{net: tcp7, gateway: \"{gateway}\"}}]\n");
    let gone = of("10.0.0.9@tcp", "10.0.1.9@tcp1");
    at.file(&format!("{routes}peer:\n{gone}{two}{four}"));
    at.ctl(&node, &["import", "--del", path])
        .failed(234, &["errno: -22", "no peer has the NID 10.0.0.9@tcp"]);
    // The gateway is a peer that has been asked.
    assert!(!at.peers(&node).iter().any(|p| p.starts_with("10.0.")));
    assert_eq!(at.ctl(&node, &["route", "show"]).good().out, "");
    at.file(&net);
    at.ctl(&node, &["import", "--del", path]).good();
    at.ctl(&node, &["net", "show"]).good().says(&["0@lo"]);
    assert!(!at.ctl(&node, &["net", "show"]).good().out.contains(&a));
    at.ctl(&node, &["import", "--del", "/nothing/here.yaml"]).failed(254, &["cannot open"]);
    node.stop().good();
}
