//! `pollnd lnetctl` on nodes that run, over kernel sockets: layouts and refusals are lnetctl's (testdata/texts).

#![allow(missing_docs)]

#[allow(dead_code)]
mod proc;

use std::fs::File;
use std::path::Path;

use proc::{End, Place, Proc, nid, own_ip, pollnd};

const PORT: [&str; 2] = ["--accept-port", "10988"];

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/texts/lnetctl").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

impl Place {
    fn node(&self, nids: &[&str]) -> Proc {
        let more: Vec<&str> = nids[1..].iter().flat_map(|n| ["--ni", n]).collect();
        self.start(&[&["node", "--nid", nids[0]], &more[..], &PORT].concat()).up()
    }

    /// `lnetctl` without a verb, whose standard input is a file of this text.
    fn lines(&self, node: &Proc, text: &str) -> End {
        let path = self.0.path().join("verbs");
        std::fs::write(&path, text).unwrap();
        let mut c = pollnd(&["lnetctl", "--node", &node.id().to_string()]);
        c.env("XDG_RUNTIME_DIR", self.0.path()).stdin(File::open(path).unwrap());
        Proc::reading(c).end()
    }
}

/// Keys of a text, with their indentation, and without values and NIDs.
fn keys(text: &str) -> Vec<String> {
    text.lines().filter_map(|l| l.split_once(':')).map(|(k, _)| k.to_owned()).collect()
}

/// The part of lnetctl's text that is about its last network.
fn last_net(text: &str) -> Vec<String> {
    let at = text.rfind("-     net type").unwrap();
    keys(&text[at..])
}

#[test]
fn what_a_node_shows_has_lnetctl_s_layout() {
    let (at, a, b) = (Place(tempfile::tempdir().unwrap()), own_ip(), own_ip());
    let (first, second) = (nid(a), format!("{a}@tcp1"));
    let (node, peer) = (at.node(&[&first, &second]), at.node(&[&nid(b)]));
    for (words, name) in [
        (&["net", "show"][..], "net-show.yaml"),
        (&["net", "show", "-v"], "net-show-v.yaml"),
        (&["net", "show", "-v", "2"], "net-show-v-2.yaml"),
        (&["net", "show", "-v5"], "net-show-v-5.yaml"),
    ] {
        let shown = at.ctl(&node, words).good().out;
        assert_eq!(last_net(&shown), last_net(&golden(name)), "{words:?}\n{shown}");
        assert!(shown.contains(&format!("nid: {second}")), "{shown}");
    }
    assert_eq!(keys(&at.ctl(&node, &["stats", "show"]).good().out), keys(&golden("stats-show.yaml")));
    assert_eq!(at.ctl(&node, &["global", "show"]).good().out, golden("global-show.yaml"));
    // A ping of a node that has not been discovered, and a discovery.
    let answer = |verb: &str, rail: bool| {
        let nid = nid(b);
        format!("{verb}:\n- primary nid: {nid}\n  Multi-Rail: {rail}\n  peer_ni:\n  - nid: {nid}\n")
    };
    assert_eq!(at.ctl(&node, &["ping", &nid(b)]).good().out, answer("ping", false));
    assert_eq!(at.ctl(&node, &["discover", &nid(b)]).good().out, answer("discover", true));
    assert_eq!(at.ctl(&node, &["ping", &nid(b)]).good().out, answer("ping", true));
    for (words, name) in [
        (&["peer", "show"][..], "peer-show-nid.yaml"),
        (&["peer", "show", "-v", "4", "--nid", &nid(b)], "peer-show-v-5.yaml"),
    ] {
        let shown = at.ctl(&node, words).good().out;
        let one = keys(&golden(name)).len().min(keys(&shown).len());
        assert_eq!(keys(&shown)[..], keys(&golden(name))[..one], "{words:?}\n{shown}");
    }
    at.ctl(&node, &["peer", "show", "-v", "4"]).good().says(&[
        "peer state: 273",
        "get: ",
        "Multi-Rail: true",
    ]);
    at.ctl(&node, &["stats", "reset"]).good();
    at.ctl(&node, &["stats", "show"]).good().says(&["send_count: 0"]);
    peer.stop().good();
    node.stop().good();
}

#[test]
fn routing_is_shown_and_changed_as_lnetctl_does() {
    let (at, a) = (Place(tempfile::tempdir().unwrap()), own_ip());
    let node = at.node(&[&nid(a), &format!("{}@tcp1", own_ip())]);
    let show = || at.ctl(&node, &["routing", "show"]).good().out;
    assert_eq!(show(), golden("a-routing-show-off.yaml"));
    assert_eq!(at.ctl(&node, &["set", "routing", "1"]).good().out, "");
    // Its users look first: 110 s.
    let shown = show();
    assert_eq!(keys(&shown), keys(&golden("a-routing-show-starting.yaml")), "{shown}");
    assert!(
        shown.contains("    - enable: 3\nbuffers:\n    tiny: 2048\n    small: 16384\n    large: 1024\n"),
        "{shown}"
    );
    at.ctl(&node, &["set", "large_buffers", "7"]).good();
    assert!(show().ends_with("    large: 7\n"), "{}", show());
    let kept = at.ctl(&node, &["export", "--backup"]).good().out;
    assert!(kept.contains("routing:\n    enable: 1\nbuffers:\n    tiny: 2048\n"), "{kept}");
    for bad in ["5", "x", "-1"] {
        let end = at.ctl(&node, &["set", "routing", bad]);
        assert_eq!(
            (end.status.code(), &*end.err),
            (Some(255), &*golden("err-set-routing.txt.stderr")),
            "{bad}"
        );
    }
    at.ctl(&node, &["set", "small_buffers", "many"]).failed(255, &["cannot parse small_buffers value"]);
    at.ctl(&node, &["set", "small_buffers", "1048577"])
        .failed(234, &["errno: -22", "0 to 1048576 (buffers)"]);
    at.ctl(&node, &["set", "routing", "0"]).good();
    assert_eq!(show(), "");
    node.stop().good();
}

#[test]
fn verbs_are_read_from_standard_input() {
    let (at, a) = (Place::new(), own_ip());
    let node = at.node(&[&nid(a)]);
    // Nothing is read, and nothing said: no prompt either.
    let end = at.lines(&node, "").good();
    assert_eq!((end.out.as_str(), end.err.as_str()), (&*golden("err-noargs.txt"), ""));
    let [nets, stats] = [&["net", "show", "-v"], &["global", "show", "-v"]];
    let apart = at.ctl(&node, nets).good().out + &at.ctl(&node, &stats[..2]).good().out;
    let end = at.lines(&node, "  net  show -v # all\n\n# nothing\n'global' show").good();
    assert_eq!((end.out, end.err.as_str()), (apart, ""));
    // One that fails is the last; what is no verb fails as on a command line.
    let end = at.lines(&node, "set retry_count 7\nnet show --net tcp9\nset retry_count 8\n");
    let end = end.failed(234, &["standard input:2: net show --net tcp9: exit status 234"]);
    assert!(end.err.starts_with(&golden("err-net-show-none.yaml.stderr")), "{end:?}");
    at.ctl(&node, &["global", "show"]).good().says(&["retry_count: 7"]);
    at.lines(&node, "\nfrobnicate\n").failed(2, &["'frobnicate'", "standard input:2: frobnicate"]);
    at.lines(&node, "set 'retry_count 8\n").failed(255, &["a ' that does not end", "standard input:1: "]);
    at.lines(&node, "net show --help\nexit\nfrobnicate\n").good().says(&["Usage: pollnd lnetctl net show"]);
    at.lines(&node, &format!("set {}", "1".repeat(64 << 10))).failed(1, &["a line of 65536 bytes or more"]);
    // A configuration may stand behind the verb that takes it.
    at.lines(&node, "import\nglobal: {retry_count: 9}\n").good().tells(&["lnet_retry_count: was 7, is 9"]);
    node.stop().good();
}

/// Options of lnetctl's that say what a node does anyway are taken, and others are refused by name, with the reason.
#[test]
fn options_of_lnetctl_s_are_known() {
    let (at, a) = (Place::new(), own_ip());
    let node = at.node(&[&nid(a)]);
    let more = format!("{}@tcp1", own_ip());
    at.ctl(&node, &["net", "add", "--nid", &more, "--skip-mr-route-setup"]).good();
    let file = at.file("global: {retry_count: 5}\n");
    let file = file.to_str().unwrap();
    at.ctl(&node, &["import", "--add", file]).good().tells(&["lnet_retry_count: was 2, is 5"]);
    for (words, says) in [
        (&["net", "add", "--ip2net", "tcp(eth0) 10.0.0.*"][..], &["ip2net", "give --nid"][..]),
        (&["net", "add", "--net", "tcp2", "--if", "lo", "--auth-key", "5"], &["auth-key", "kfilnd"]),
        (
            &["net", "add", "--net", "tcp2", "--if", "lo", "--traffic-class", "x"],
            &["traffic-class", "kfilnd"],
        ),
        (&["ping", &nid(a), "--source", &more], &["source", "leave it out"]),
        (&["import", "--show", file], &["--show", "`net show`"]),
        (&["import", "--exec", file], &["--exec", "`discover`"]),
    ] {
        at.ctl(&node, words).failed(161, &[&["errno: -95"], says].concat());
    }
    at.ctl(&node, &["import", "--add", "--del", file]).failed(2, &["--add", "--del"]);
    // A remedy that is one.
    at.ctl(&node, &["net", "set", "--net", "tcp", "--health", "300"])
        .failed(234, &["errno: -22", "give --nid NID, or --all"]);
    at.ctl(&node, &["net", "set", "--net", "tcp"]).failed(234, &["nothing to set"]);
    at.ctl(&node, &["net", "set", "--net", "tcp9", "--lnd-timeout", "5"])
        .failed(234, &["this node has no NI on the network tcp9"]);
    let end = at.ctl(&node, &["set", "lnd_timeout", "5"]).failed(255, &["net set --all --lnd-timeout 5"]);
    assert!(end.err.starts_with("lnetctl: 'lnd_timeout' is not a valid command."), "{end:?}");
    at.ctl(&node, &["net", "set", "--all", "--lnd-timeout", "5"]).good();
    at.ctl(&node, &["set", "keepalive", "5"]).failed(255, &["pollnd tunables keepalive=5"]);
    at.run(&["tunables", "retry_count", "--defaults"]).failed(1, &["did you mean lnet_retry_count?"]);
    // All of none are gone; one that is named has to be there.
    for kind in ["drop", "delay"] {
        let end = at.ctl(&node, &["fault", kind, "del", "--all"]).good();
        assert_eq!((end.out.as_str(), end.err.as_str()), ("", ""), "{kind}");
        at.ctl(&node, &["fault", kind, "del", "--source", "*", "--dest", "*"]).failed(254, &[kind]);
    }
    node.stop().good();
}

/// The file is the asker's, as that of `import` is.
#[test]
fn an_export_goes_to_a_file() {
    let (at, a) = (Place::new(), own_ip());
    let node = at.node(&[&nid(a)]);
    let path = at.0.path().join("now.yaml");
    let file = path.to_str().unwrap();
    let printed = at.ctl(&node, &["export", "--backup", "-"]).good().out;
    assert_eq!(printed, at.ctl(&node, &["export", "--backup"]).good().out);
    std::fs::write(&path, "x".repeat(100_000)).unwrap();
    let end = at.ctl(&node, &["export", "--backup", file]).good();
    assert_eq!((end.out.as_str(), end.err.as_str()), ("", ""));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), printed);
    at.ctl(&node, &["import", file]).good().tells(&["nothing is other"]);
    at.ctl(&node, &["export", file]).good();
    let keys_of = |text: &str| keys(text).into_iter().filter(|k| k.contains("sent_stats")).count();
    assert_eq!(keys_of(&std::fs::read_to_string(&path).unwrap()), 2, "0@lo and the NI");
    at.lines(&node, &format!("export --backup {file}\n")).good();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), printed);
    let nowhere = at.0.path().join("no/such/folder").display().to_string();
    at.ctl(&node, &["export", &nowhere]).failed(255, &["export: cannot write", &nowhere, "No such file"]);
    // One that cannot be asked leaves the file as it is.
    let pid = node.id().to_string();
    node.stop().good();
    assert!(!at.run(&["lnetctl", "--node", &pid, "export", file]).status.success());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), printed);
}

/// lnetctl has -1 for a number that is not said, and prints it of hops.
#[test]
fn a_number_that_is_not_said_may_be_said_so() {
    let (at, a) = (Place::new(), own_ip());
    let node = at.node(&[&nid(a)]);
    let gateway = nid(own_ip());
    let route = |verb: &str, more: &[&str]| {
        at.ctl(&node, &[&["route", verb, "--net", "tcp5", "--gateway", &gateway], more].concat())
    };
    route("add", &["--hop", "-1", "--priority", "-1"]).good();
    for filter in [&[][..], &["--hop", "-1"], &["--priority=-1"], &["--priority", "0"]] {
        route("show", &[&["-v"], filter].concat()).good().says(&["hop: -1", "priority: 0"]);
    }
    assert_eq!(route("show", &["--priority", "1"]).good().out, "");
    route("del", &[]).good();
    route("add", &["--hop", "-2"]).failed(234, &["errno: -22", "between 1 and 255"]);
    route("add", &["--priority", "-2"]).failed(234, &["errno: -22", "invalid priority"]);
    let all = [
        "--credits",
        "--peer-credits",
        "--peer-buffer-credits",
        "--peer-timeout",
        "--conns-per-peer",
        "--tos",
    ];
    let more: Vec<&str> = all.iter().flat_map(|name| [*name, "-1"]).collect();
    let nid = format!("{}@tcp1", own_ip());
    at.ctl(&node, &[&["net", "add", "--nid", &nid], &more[..]].concat()).good();
    at.ctl(&node, &["net", "show", "-v", "--net", "tcp1"])
        .good()
        .says(&[" peer_credits: 8\n", " credits: 256\n"]);
    at.ctl(&node, &["net", "add", "--net", "tcp2", "--if", "lo", "--credits", "0"])
        .failed(2, &["1 to 65535"]);
    at.ctl(&node, &["net", "add", "--net", "tcp2", "--if", "lo", "--peer-credits", "-2"])
        .failed(234, &["errno: -22", "peer_credits -2: all NIs of this node have 8"]);
    node.stop().good();
}

/// Values that stand in files of older lnetctls are none that can be set.
#[test]
fn what_cannot_be_set_is_refused() {
    let (at, a) = (Place::new(), own_ip());
    let node = at.node(&[&nid(a)]);
    at.ctl(&node, &["set", "max_interfaces", "200"])
        .failed(234, &["errno: -22", "here it is always 4096, since a node has at most 16 NIs"]);
    at.ctl(&node, &["set", "max_interfaces", "4096"]).good();
    let file = at.file("global: {max_intf: 200, retry_count: 7}\n");
    at.ctl(&node, &["import", file.to_str().unwrap()]).good().tells(&[
        "node.yaml:1:20: max_interfaces: 200 is passed over: here it is always 4096",
        "lnet_retry_count: was 2, is 7",
    ]);
    node.stop().good();
}

#[test]
fn refusals_and_their_statuses_are_lnetctl_s() {
    let (at, a) = (Place(tempfile::tempdir().unwrap()), own_ip());
    let node = at.node(&[&nid(a)]);
    let told = |words: &[&str], status: i32, text: &str| {
        let end = at.ctl(&node, words);
        assert_eq!((end.status.code(), end.err.as_str()), (Some(status), text), "{words:?}: {end:?}");
    };
    told(&["net", "show", "--net", "tcpx"], 234, &golden("err-net-show-bad.yaml.stderr"));
    told(&["net", "show", "--net", "tcp9"], 234, &golden("err-net-show-none.yaml.stderr"));
    told(&["ping", "foo"], 234, &golden("err-ping-garbage.yaml.stderr"));
    told(&["discover", "foo"], 234, &golden("err-discover-garbage.yaml.stderr"));
    told(&["peer", "show", "--nid", "10.9.9.9@tcp"], 234, "");
    told(&["set", "discovery", "x"], 255, &golden("err-set-discovery.txt.stderr"));
    told(&["set", "foo", "1"], 255, &golden("err-set-unknown.txt.stderr"));
    let gateway = format!("{}@tcp", own_ip());
    let local = ["route", "add", "--net", "tcp", "--gateway", &gateway];
    told(&local, 234, &golden("err-route-add-local.txt.stderr"));
    let hops = ["route", "add", "--net", "tcp6", "--gateway", &gateway, "--hop", "300"];
    told(&hops, 234, &golden("err-route-add-bad-hop.txt.stderr"));
    let far = ["route", "add", "--net", "tcp6", "--gateway", "10.1.1.1@tcp9"];
    told(&far, 234, &golden("err-route-add-bad-gw.txt.stderr"));
    let none = ["route", "del", "--net", "tcp6", "--gateway", &gateway];
    told(&none, 234, &golden("err-route-del-none.txt.stderr"));
    // One that there is: shown, and refused a second time.
    let add = ["route", "add", "--net", "tcp5", "--gateway", &gateway];
    told(&add, 0, "");
    told(&add, 234, &golden("route-add-dup.txt.stderr"));
    let shown = at.ctl(&node, &["route", "show", "-v"]).good().out;
    assert_eq!(keys(&shown), keys(&golden("c-route-show-1.yaml")), "{shown}");
    at.ctl(&node, &["export", "--backup"]).good().says(&["net: tcp5", "hop: -1"]);
    told(&["route", "del", "--net", "tcp5", "--gateway", &gateway], 0, "");
    // Answers and errors of one command.
    let end = at.ctl(&node, &["ping", &format!("{},10.9.9.9@tcp9", nid(a))]);
    assert_eq!(end.status.code(), Some(255), "{end:?}");
    let bad =
        "manage:\n- ping:\n  errno: -113\n  descr: ! 'failed to ping 10.9.9.9@tcp9: No route to host'\n";
    assert!(end.out.starts_with("ping:\n- primary nid: ") && end.out.ends_with(bad), "{end:?}");
    at.ctl(&node, &["udsp", "add", "--src", "tcp"]).failed(161, &["errno: -95", "selection policies"]);
    at.ctl(&node, &["numa", "show"]).failed(2, &["numa"]);
    at.ctl(&node, &["import", "/no/such.yaml"]).failed(254, &["cannot open '/no/such.yaml'"]);
    node.stop().good();
}
