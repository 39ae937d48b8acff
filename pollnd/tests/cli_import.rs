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

/// Whoever asks reads the file: what its path is to the node says nothing. `/proc/self/fd/0` is another file for each process.
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
    at.fed(here, &["lnetctl", "--node", &pid, "import"]).failed(234, &["standard input:1:", "nosuch0"]);

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
