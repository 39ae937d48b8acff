//! A judge of pages for Prometheus: the rules of OpenMetrics 1.0 that its parsers refuse a page by.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;

/// The endings that the samples of a family have, by its type; those that a family may have besides claim a name, too.
fn endings(kind: &str) -> (&'static [&'static str], &'static [&'static str]) {
    match kind {
        "counter" => (&["_total"], &["_created"]),
        "histogram" => (&["_bucket", "_count", "_sum"], &["_created"]),
        "info" => (&["_info"], &[]),
        "gauge" => (&[""], &[]),
        other => panic!("a type that no figure of a node has: {other}"),
    }
}

/// Looks at the whole page: each family is declared once and stands in one piece, no two claim a name, each sample is of the family
/// before it, and none is there twice.
pub(crate) fn judge(page: &str) {
    let mut lines: Vec<&str> = page.lines().collect();
    assert_eq!(lines.pop(), Some("# EOF"), "{page}");
    let (mut claimed, mut helped, mut samples) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut family: Option<(&str, &str)> = None;
    for line in lines {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "TYPE", name, kind] => {
                let (own, more) = endings(kind);
                let all: BTreeSet<String> =
                    own.iter().chain(more).chain(&[""]).map(|e| format!("{name}{e}")).collect();
                for claim in all {
                    assert!(claimed.insert(claim.clone()), "{line}: the name {claim} is taken");
                }
                family = Some((name, kind));
            }
            ["#", "HELP", name, _] => {
                assert!(helped.insert(name), "{line}: a second time");
            }
            _ => {
                let (sample, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
                let name = sample.split('{').next().unwrap();
                let (of, kind) = family.unwrap_or_else(|| panic!("{line}: of no family"));
                let ending = name.strip_prefix(of).unwrap_or_else(|| panic!("{line}: in the family {of}"));
                assert!(endings(kind).0.contains(&ending), "{line}: in the family {of}, a {kind}");
                assert!(samples.insert(sample), "{line}: a second time");
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
    }
    assert!(samples.len() > 50, "{page}");
}

/// The first line of the answer at `at` to a request, and its body.
pub(crate) fn ask(at: &str, request: &str) -> (String, String) {
    let mut s = TcpStream::connect(at).unwrap();
    s.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    s.write_all(request.as_bytes()).unwrap();
    let mut all = String::new();
    s.read_to_string(&mut all).unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

/// The page of the node at `at`, which is judged.
pub(crate) fn page(at: &str) -> String {
    let (status, page) = ask(at, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(status, "HTTP/1.1 200 OK");
    judge(&page);
    page
}
