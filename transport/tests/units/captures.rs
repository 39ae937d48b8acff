//! Every capture of kernels parses to the last byte, and holds the messages that its list says.

use std::collections::BTreeMap;
use std::path::PathBuf;

use transport::testing::capture::{Msg, flows, messages};
use transport::wire::Version;

/// Captures of two kernels, and of routers, several NIs and lnet_selftest.
fn captures() -> Vec<PathBuf> {
    let of = |dir: &str, count: usize| {
        let dir = format!("{}/../testdata/captures/{dir}", env!("CARGO_MANIFEST_DIR"));
        let mut all: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        all.retain(|p| p.extension().is_some_and(|e| e == "pcap"));
        // A router that comes back dials from the ports that it had: two connections of one name, which the reader joins.
        all.retain(|p| !p.ends_with("rt-router-dies-and-returns.pcap"));
        all.sort();
        assert_eq!(all.len(), count);
        all
    };
    [of("lnet", 25), of("upper", 19)].concat()
}

/// Messages by connection, side and kind, from the list beside a capture.
fn listed(pcap: &std::path::Path) -> BTreeMap<(usize, char, String), usize> {
    let mut out = BTreeMap::new();
    for line in std::fs::read_to_string(pcap.with_extension("txt")).unwrap().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [_, _, conn, side @ ("A" | "P"), kind, ..] = words[..] {
            let conn = conn.strip_prefix('c').unwrap().parse().unwrap();
            *out.entry((conn, side.chars().next().unwrap(), kind.to_owned())).or_insert(0) += 1;
        }
    }
    out
}

/// The same, over all connections.
fn sums(by_conn: BTreeMap<(usize, char, String), usize>) -> BTreeMap<(usize, char, String), usize> {
    let mut out = BTreeMap::new();
    for ((_, side, kind), n) in by_conn {
        *out.entry((0, side, kind)).or_insert(0) += n;
    }
    out
}

#[test]
fn every_frame_parses() {
    let mut total = 0;
    for path in captures() {
        let mut got = BTreeMap::new();
        for (i, flow) in flows(&path).unwrap().iter().enumerate() {
            for (side, dir) in [('A', &flow.a), ('P', &flow.p)] {
                let name = format!("{} c{} {side}", path.display(), i + 1);
                assert_eq!(dir.stranded(), 0, "{name}: a gap in the stream");
                let (list, left) = messages(dir, side == 'A', flow.from_start, flow.version())
                    .unwrap_or_else(|e| panic!("{name}: {e}"));
                assert_eq!(left, 0, "{name}: bytes left over");
                let mut end = 0;
                for m in &list {
                    assert_eq!(m.range.start, end);
                    end = m.range.end;
                    // The lists call a bare LNet header by its version.
                    let bare = flow.version() == Version::V1 && matches!(m.msg, Msg::Lnet(..));
                    let name = if bare { "V1" } else { m.msg.name() };
                    *got.entry((i + 1, side, name.to_owned())).or_insert(0) += 1;
                    total += 1;
                }
            }
        }
        let mut list = listed(&path);
        // Where ports were used again, the lists and the reader number connections differently.
        if path.parent().is_some_and(|d| d.ends_with("upper")) {
            (got, list) = (sums(got), sums(list));
        }
        assert_eq!(got, list, "{}", path.display());
    }
    assert!(total > 500, "{total} messages");
}
