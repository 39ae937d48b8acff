//! Files that a running node takes from whoever asks: `pollnd lnetctl import` and `pollnd config apply`, over kernel sockets.

#![allow(missing_docs)]

#[allow(dead_code)]
mod proc;

use std::fs::File;

use proc::{End, Place, Proc, nid, own_ip, pollnd};

const PORT: [&str; 2] = ["--accept-port", "10990"];

/// Most bytes of a file.
const BYTES_MAX: usize = 1 << 20;

impl Place {
    fn node(&self, more: &[&str]) -> Proc {
        self.start(&[&["node"], more, &PORT].concat()).up()
    }

    fn config(&self, node: &Proc, words: &[&str]) -> End {
        self.run(&[&["config"], words, &["--node", &node.id().to_string()]].concat())
    }

    /// Runs a command whose standard input is a file of this text, and which has no folder for files that are in its way.
    fn fed(&self, text: &str, words: &[&str]) -> End {
        let path = self.0.path().join("input.yaml");
        std::fs::write(&path, text).unwrap();
        let mut c = pollnd(words);
        c.env("XDG_RUNTIME_DIR", self.0.path()).env("TMPDIR", "/no/such/folder");
        c.stdin(File::open(path).unwrap());
        Proc::reading(c).end()
    }
}

/// A file of these NIs, and `more`.
fn file(nids: &[&str], more: &str) -> String {
    let one = |n: &&str| {
        let net = n.rsplit('@').next().unwrap();
        format!("  - {{net type: {net}, local NI(s): [{{nid: \"{n}\"}}]}}\n")
    };
    format!("net:\n{}{more}", nids.iter().map(one).collect::<String>())
}

/// The asker reads the file: its path says nothing to the node. `/proc/self/fd/0` is another file for each process.
#[test]
fn the_asker_s_file_is_taken_and_not_the_node_s() {
    let (at, a) = (Place::new(), nid(own_ip()));
    let node = at.node(&["--nid", &a]);
    let pid = node.id().to_string();
    let import: [&[&str]; 3] = [&["import"], &["import", "-"], &["import", "/proc/self/fd/0"]];
    for (i, words) in import.iter().enumerate() {
        let count = format!("retry_count: {}", 3 + i);
        at.fed(&format!("global: {{{count}}}\n"), &[&["lnetctl", "--node", &pid], *words].concat()).good();
        at.ctl(&node, &["global", "show"]).good().says(&[&count]);
    }
    for (i, name) in ["-", "/proc/self/fd/0"].iter().enumerate() {
        let (was, is) = (if i == 0 { 5 } else { 6 }, 6 + i);
        at.fed(
            &file(&[&a], &format!("global: {{retry_count: {is}}}\n")),
            &["config", "apply", name, "--node", &pid],
        )
        .good()
        .says(&[&format!("lnet_retry_count: was {was}, is {is}")]);
    }

    // Faults are named after what whoever asks knows of it.
    let bad = "global:\n  healthy: 5\n";
    let at_input = "standard input:2:3: \\\"healthy\\\" is no key of global";
    at.fed(bad, &["lnetctl", "--node", &pid, "import"]).failed(234, &[at_input]);
    at.fed(bad, &["lnetctl", "--node", &pid, "import", "--del"]).failed(234, &["del:", at_input]);
    at.fed(bad, &["config", "apply", "-", "--node", &pid]).failed(2, &["standard input:2:3: \"healthy\""]);
    // The node finds this one.
    let here = "net: [{net type: tcp, local NI(s): [{interfaces: {0: nosuch0}}]}]\n";
    at.fed(here, &["lnetctl", "--node", &pid, "import"]).failed(214, &["standard input:1:", "nosuch0"]);

    // All that a file may have comes over, whatever is in it, and no more is taken.
    let full = |more: usize| {
        let text = "global: {retry_count: 9}\n# ";
        format!("{text}{}", "\"".repeat(BYTES_MAX + more - text.len()))
    };
    at.fed(&full(0), &["lnetctl", "--node", &pid, "import"]).good();
    at.ctl(&node, &["global", "show"]).good().says(&["retry_count: 9"]);
    let long = "standard input: it has more than 1048576 bytes";
    at.fed(&full(1), &["lnetctl", "--node", &pid, "import"]).failed(234, &[long]);
    at.fed(&full(1), &["config", "apply", "-", "--node", &pid]).failed(2, &[long]);
    node.stop().good();
}

/// A file adds and sets, and all that it does not say stays: nobody loses a route by a file that has another.
#[test]
fn an_import_adds_and_sets_and_keeps_all_else() {
    let (at, [a, b, c]) = (Place::new(), [(); 3].map(|()| nid(own_ip())));
    let rules = "fault: {drop: [{source: \"*@tcp7\", dest: \"*\", rate: 9}]}\n";
    let path = at.file(&file(&[&a], &format!("{rules}node: {{selftest: false, budget: 48}}\n")));
    let path = path.to_str().unwrap();
    // A setting of the command line may be changed as by any other order.
    let node = at.node(&["--config", path, "--tunable", "keepalive=10", "--tunable", "zc_min_payload=65536"]);
    at.ctl(&node, &["route", "add", "--net", "tcp3", "--gateway", &b, "--hop", "2"]).good();
    at.ctl(&node, &["peer", "add", "--prim_nid", "10.0.0.2@tcp", "--nid", "10.0.1.2@tcp1"]).good();
    at.ctl(&node, &["set", "retry_count", "5"]).good();
    at.ctl(
        &node,
        &["fault", "delay", "add", "--source", "*", "--dest", "*@tcp8", "--rate", "3", "--latency", "1"],
    )
    .good();
    let own = || {
        let out = at.config(&node, &["export"]).good().out;
        let mut all: Vec<String> = out.lines().map(|l| l.trim().to_owned()).collect();
        all.sort();
        all
    };
    let before = own();
    let given = |text: &str| {
        let path = at.0.path().join("given.yaml");
        std::fs::write(&path, text).unwrap();
        at.ctl(&node, &["import", path.to_str().unwrap()])
    };

    let lost = |before: &[String]| {
        let now = own();
        before.iter().filter(|l| !now.contains(l)).cloned().collect::<Vec<_>>()
    };
    // Its own export, in each form, is nothing new; lnetctl's has peers that discovery has told of, such as gateways, which are by hand then.
    for words in [&["export", "--backup"][..], &["export"]] {
        let end = given(&at.ctl(&node, words).good().out).good();
        assert!(end.out.is_empty() && !end.err.contains("is gone") && !end.err.contains("was"), "{end:?}");
        assert_eq!(lost(&before), [""; 0], "{words:?}");
    }
    given(&at.config(&node, &["export"]).good().out).good().tells(&["nothing is other"]);
    let before = own();

    // One of each, and nothing of the others.
    let more = format!(
        "route: [{{net: tcp4, gateway: \"{c}\"}}]\n\
         peer: [{{primary nid: 10.0.0.2@tcp, peer ni: [{{nid: 10.0.2.2@tcp2}}]}}, {{primary nid: 10.0.0.4@tcp}}]\n\
         fault: {{drop: [{{source: \"*\", dest: \"*@tcp9\", rate: 8}}]}}\n\
         global: {{transaction_timeout: 77}}\nlog: {{level: error}}\n"
    );
    let end = given(&more).good().tells(&[
        &format!("route: tcp4 {c} is new"),
        "peer: 10.0.0.2@tcp has 10.0.2.2@tcp2, too",
        "peer: 10.0.0.4@tcp is new",
        "fault: drop source=* dest=*@tcp9 rate=8 is new",
        "lnet_transaction_timeout: was 150, is 77",
        "log: level: was warn, is error",
    ]);
    assert!(!end.err.contains("is gone") && end.out.is_empty(), "{end:?}");
    assert_eq!(lost(&before), ["transaction_timeout: 150"]);
    // A route, or a value, that is there is made what the file says.
    given(&format!("route: [{{net: tcp3, gateway: \"{b}\", hop: 3}}]\nnet: [{{net type: tcp, local NI(s): [{{nid: \"{a}\", lnd tunables: {{keepalive: 11}}}}]}}]\n"))
        .good()
        .tells(&[&format!("route: tcp3 {b}: hop: was 2, is 3"), "keepalive: was 10, is 11"]);

    // An order that cannot be met changes nothing: a value for the next start, a peer that another has, one of two NIs.
    let before = own();
    for (text, status, says) in [
        ("node: {budget: 49}\nglobal: {retry_count: 1}\n", 240, "budget: 49 ("),
        (
            "peer: [{primary nid: 10.0.0.9@tcp, peer ni: [{nid: 10.0.1.2@tcp1}]}]\nglobal: {retry_count: 1}\n",
            234,
            "10.0.1.2@tcp1",
        ),
        (
            "route: [{net: tcp5, gateway: 10.0.0.9@tcp6}]\nglobal: {retry_count: 1}\n",
            234,
            "given.yaml:1:9: route: ",
        ),
        (
            &file(&[&format!("{}@tcp1", own_ip()), "203.0.113.9@tcp8"], "global: {retry_count: 1}\n"),
            234,
            "given.yaml:3:36: net: cannot listen on 203.0.113.9:10990",
        ),
    ] {
        given(text).failed(status, &[says]);
        assert_eq!(own(), before, "{text}");
    }

    // `config apply` is the exchange: what the file does not say goes, and is told.
    let end = at.config(&node, &["apply", path]).good().says(&[
        &format!("route: tcp3 {b} is gone"),
        &format!("route: tcp4 {c} is gone"),
        "peer: 10.0.0.4@tcp is gone",
        "fault: drop source=* dest=*@tcp9 rate=8 is gone",
        "keepalive: was 11, is 10",
        "lnet_retry_count: was 5, is 2",
    ]);
    assert!(!end.out.contains("is new"), "{end:?}");

    // And what a file names can be deleted by it; that is told, too.
    given(&more).good();
    let words = ["import", "--del", &at.0.path().join("given.yaml").display().to_string()];
    at.ctl(&node, &words).good().tells(&[
        &format!("route: tcp4 {c} is gone"),
        "peer: 10.0.0.4@tcp is gone",
        "fault: drop source=* dest=*@tcp9 rate=8 is gone",
    ]);
    node.stop().good();
}

/// A node whose command line has a route, a peer by hand and a rule takes its own export, and loses nothing that came while it ran. A file that
/// does not name what came does not delete it either, and that is told.
#[test]
fn a_node_by_its_command_line_takes_its_own_export() {
    let (at, [a, b, c]) = (Place::new(), [(); 3].map(|()| nid(own_ip())));
    let rule = "drop source=*@tcp7 dest=* rate=9";
    let by = ["--nid", &a, "--route", &format!("tcp3 {b} 2"), "--peer-nids", "10.0.0.2@tcp", "--fault", rule];
    let node = at.node(&by);
    for words in [
        &["net", "add", "--nid", &c][..],
        &["route", "add", "--net", "tcp4", "--gateway", &b],
        &["peer", "add", "--prim_nid", "10.0.0.3@tcp"],
        &["fault", "drop", "add", "--source", "*@tcp8", "--dest", "*", "--rate", "5"],
    ] {
        at.ctl(&node, words).good();
    }
    let own = || at.config(&node, &["export"]).good().out;
    let before = own();
    let apply = |text: &str| {
        let path = at.file(text);
        at.config(&node, &["apply", path.to_str().unwrap()]).good()
    };
    let end = apply(&before).says(&["nothing is other"]);
    assert!(!end.err.contains("is kept") && own() == before, "{end:?}");

    // A route of the command line that is away comes again.
    at.ctl(&node, &["route", "del", "--net", "tcp3", "--gateway", &b]).good();
    at.ctl(&node, &["peer", "del", "--prim_nid", "10.0.0.2@tcp"]).good();
    at.ctl(&node, &["fault", "drop", "del", "--source", "*@tcp7", "--dest", "*"]).good();
    let others = format!(
        "route: [{{net: tcp9, gateway: \"{b}\"}}]\npeer: [{{primary nid: 10.0.0.9@tcp}}]\n\
         fault: {{drop: [{{source: \"*\", dest: \"*@tcp9\", rate: 8}}]}}\n"
    );
    let end = apply(&file(&[&a], &others))
        .says(&[
            &format!("route: tcp3 {b} 2 is new"),
            "peer: 10.0.0.2@tcp is new",
            &format!("fault: {rule} is new"),
        ])
        .tells(&[
            &format!("route: tcp4 {b} is kept, though"),
            "--route of the command line wins",
            "peer: 10.0.0.3@tcp is kept, though",
            "fault: drop source=*@tcp8 dest=* rate=5 is kept, though",
            &format!("net: {c} is kept, though"),
        ]);
    assert!(!end.out.contains("is gone") && !end.out.contains("tcp9"), "{end:?}");
    // A route that is there is as the command line has it.
    let words = ["lnetctl", "--node", &node.id().to_string(), "import"];
    at.fed(&format!("route: [{{net: tcp3, gateway: \"{b}\", hop: 2, priority: 7}}]\n"), &words)
        .good()
        .tells(&[&format!("route: tcp3 {b}: priority: was 0, is 7")]);
    apply("global: {}\n").says(&[&format!("route: tcp3 {b}: priority: was 7, is 0")]);
    node.stop().good();
}

/// A refusal has lnetctl's number and status, and the place in the file, also where it is found when the node is at it already.
#[test]
fn a_refusal_of_an_import_has_its_place_and_number() {
    let (at, [a, b]) = (Place::new(), [(); 2].map(|()| nid(own_ip())));
    let node = at.node(&["--nid", &a, "--route", &format!("tcp9 {b}")]);
    let pid = node.id().to_string();
    let import = |text: &str| at.fed(text, &["lnetctl", "--node", &pid, "import"]);
    let golden = |name: &str| {
        let path = format!("{}/../testdata/texts/lnetctl/{name}.txt.stderr", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().find(|l| l.contains("errno: ")).unwrap().to_owned()
    };
    let no_interface =
        "net:\n    - net type: tcp8\n      local NI(s):\n        - interfaces:\n              0: eth9\n";
    import(no_interface).failed(214, &[&golden("import-bad-if"), "standard input:4:11: ", "eth9"]);
    let no_gateway = "route:\n    - net: tcp6\n      gateway: 10.1.1.1@tcp9\n";
    import(no_gateway)
        .failed(234, &[&golden("import-bad-route"), "standard input:2:7: route: gateway 10.1.1.1"]);
    let here = "standard input:2:36: net: ";
    import(&file(&["10.1.2.3@tcp3"], ""))
        .failed(234, &["errno: -99", &format!("{here}cannot listen on 10.1.2.3")]);
    let led_to = format!("{}@tcp9", own_ip());
    import(&file(&[&led_to], ""))
        .failed(234, &["errno: -87", &format!("{here}{led_to}: a route leads to tcp9")]);
    let own = format!("peer: [{{primary nid: 10.0.0.9@tcp, peer ni: [{{nid: \"{a}\"}}]}}]\n");
    import(&own).failed(234, &["errno: -22", "standard input:1:8: peer: "]);
    node.stop().good();
}

/// Things that are not there are told of with their places, each by its name.
#[test]
fn what_cannot_be_deleted_is_told_with_its_place() {
    let (at, a) = (Place::new(), nid(own_ip()));
    let node = at.node(&["--nid", &a]);
    let pid = node.id().to_string();
    let text = "route:\n- {net: tcp7, gateway: 10.0.0.8@tcp}\npeer:\n- {primary nid: 10.0.0.9@tcp}\n\
                net:\n- net type: tcp9\n  local NI(s):\n  - {nid: 10.0.0.9@tcp9}\n  - {interfaces: {0: eth7}}\n\
                fault: {drop: [{source: \"*\", dest: \"*@tcp9\", rate: 8}]}\n";
    at.fed(text, &["lnetctl", "--node", &pid, "import", "--del"]).failed(
        254,
        &[
            "standard input:2:3: route: there is no route to tcp7 by 10.0.0.8@tcp",
            "standard input:4:3: peer: no peer has the NID 10.0.0.9@tcp",
            "standard input:8:5: net: 10.0.0.9@tcp9 is no NI of this node",
            "standard input:9:5: net: this node has no NI on the network tcp9 by the interface eth7",
            ": fault: there is no fault rule drop source=* dest=*@tcp9 rate=8",
        ],
    );
    // The number is that of the last, as the verbs have it.
    for (part, status) in [
        ("route: [{net: tcp7, gateway: 10.0.0.8@tcp}]\n", 254),
        ("peer: [{primary nid: 10.0.0.9@tcp}]\n", 234),
    ] {
        at.fed(part, &["lnetctl", "--node", &pid, "import", "--del"]).failed(status, &["standard input:1:"]);
    }
    node.stop().good();
}

/// A node without NIs exports no `net`, as lnetctl's text after `import --del`, and takes that; and one with the key alone.
#[test]
fn a_backup_without_nis_is_taken() {
    let (at, a) = (Place::new(), nid(own_ip()));
    let node = at.node(&["--nid", &a]);
    at.ctl(&node, &["net", "del", "--net", "tcp"]).good();
    let kept = at.ctl(&node, &["export", "--backup"]).good().out;
    assert!(kept.starts_with("global:\n"), "{kept}");
    let pid = node.id().to_string();
    for text in [&kept[..], "net:\n"] {
        at.fed(text, &["lnetctl", "--node", &pid, "import"]).good().tells(&["nothing is other"]);
        at.run(&["config", "check", at.file(text).to_str().unwrap()]).good();
    }
    node.stop().good();
}

/// NIs of a file that are new have the credits that it says, and those that are there are not concerned.
#[test]
fn a_new_ni_has_its_own_credits() {
    let (at, a, b, c) =
        (Place::new(), nid(own_ip()), format!("{}@tcp1", own_ip()), format!("{}@tcp1", own_ip()));
    let node = at.node(&["--nid", &a]);
    let of = |nis: &[(&str, &str)]| {
        let one = |(nid, more): &(&str, &str)| {
            let net = nid.rsplit('@').next().unwrap();
            format!("  - {{net type: {net}, local NI(s): [{{nid: \"{nid}\"{more}}}]}}\n")
        };
        format!("net:\n{}", nis.iter().map(one).collect::<String>())
    };
    let credits = |n: u32| format!(", tunables: {{credits: {n}}}");
    let import = |text: &str| at.fed(text, &["lnetctl", "--node", &node.id().to_string(), "import"]);
    import(&of(&[(&b, &credits(512)), (&c, "")])).good().tells(&[&format!("net: {b} is new")]);
    let shown = at.ctl(&node, &["net", "show", "-v"]).good().out;
    let all: Vec<&str> = shown.lines().filter_map(|l| l.trim().strip_prefix("credits: ")).collect();
    assert_eq!(all, ["0", "256", "512", "256"], "{shown}");
    // The same again is nothing new; another number is for the next start.
    import(&of(&[(&b, &credits(512))])).good().tells(&["nothing is other"]);
    import(&of(&[(&b, &credits(511))]))
        .failed(240, &[&format!("credits of {b}: 511 (standard input:2:"), "runs with 512"]);
    node.stop().good();
}

/// All that a node says of itself it takes again.
#[test]
fn an_export_has_the_figures_address() {
    let (at, a) = (Place::new(), nid(own_ip()));
    let path = at.file(&file(&[&a], "telemetry: {metrics: \"127.0.0.1:0\"}\n"));
    let node = at.node(&["--config", path.to_str().unwrap()]);
    let text = at.config(&node, &["export"]).good().says(&["telemetry:\n    metrics: "]).out;
    at.file(&text);
    at.config(&node, &["apply"]).good().says(&["nothing is other"]);
    node.stop().good();
}

/// `lnetctl export` writes what 0 comes to.
#[test]
fn a_router_s_own_export_changes_nothing() {
    let (at, a, b) = (Place::new(), own_ip(), own_ip());
    let router = at.node(&["--nid", &nid(a), "--ni", &format!("{}1", nid(b)), "--routing"]);
    for words in [&["export"][..], &["export", "--backup"]] {
        let text = at.ctl(&router, words).good().out;
        let pid = router.id().to_string();
        at.fed(&text, &["lnetctl", "import", "--node", &pid]).good().tells(&["nothing is other"]);
    }
    router.stop().good();
}
