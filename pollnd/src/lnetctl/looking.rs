//! `debug recovery`, `cpt-of-nid`: what the node does for NIDs.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use transport::wire::Nid;

use super::Asked;
use super::layout::{ANSWER, NETLINK};
use super::refusal::Refusal;
use super::shown::CptOfNid;
use crate::inspect::account::Ask;
use crate::out;

/// NIDs that are being recovered, by number from 0, under the name of their list.
struct Queue<'a>(&'static str, &'a [String]);

struct Numbered<'a>(&'a [String]);

impl Serialize for Queue<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(1))?;
        map.serialize_entry(self.0, &Numbered(self.1))?;
        map.end()
    }
}

impl Serialize for Numbered<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.0.iter().enumerate().map(|(i, nid)| (format!("nid-{i}"), nid)))
    }
}

/// NIDs in a question, which is one line of 8 KiB at most: none is longer than 60 bytes.
const AT_A_TIME: usize = 100;

/// The list of NIDs of peers, or of this node's own; nothing where it is empty.
fn queue(peers: bool, nids: &[String]) -> Result<String, String> {
    if nids.is_empty() {
        return Ok(String::new());
    }
    let name = if peers { "Peer NI recovery" } else { "Local NI recovery" };
    NETLINK.text(&Queue(name, nids))
}

pub(super) fn recovery(mut node: Asked, peers: bool) -> Result<(), Refusal> {
    let nids: Vec<String> = node.rows(Ask::Recovery { peers })?;
    Ok(out::text(queue(peers, &nids)?)?)
}

pub(super) fn cpts(words: &[String], node: impl FnOnce() -> Result<Asked, Refusal>) -> Result<(), Refusal> {
    if words.iter().any(|w| w.parse::<Nid>().is_err()) {
        let descr = "Invalid input data or parameter";
        return Err(Refusal::netlink("show", "cpt-of-nid", libc::EINVAL, descr));
    }
    let (mut node, mut all) = (node()?, Vec::new());
    for some in words.chunks(AT_A_TIME) {
        all.extend(node.rows(Ask::CptOfNid { nids: some.to_vec() })?);
    }
    Ok(out::text(ANSWER.text(&CptOfNid { all })?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lnetctl::lnetctl_tests::golden;

    /// debug-recovery-local.yaml and debug-recovery-peer.yaml are empty.
    #[test]
    fn recovery_is_listed_as_lnetctl_does() {
        let one = ["192.168.80.23@tcp".to_owned()];
        assert_eq!(queue(true, &one).unwrap(), golden("mr-link/a-recovery-peer.yaml"));
        assert_eq!(queue(true, &[]).unwrap(), golden("lnetctl/debug-recovery-peer.yaml"));
        assert_eq!(queue(false, &[]).unwrap(), golden("lnetctl/debug-recovery-local.yaml"));
        let many: Vec<String> = (0..12).map(|n| format!("10.0.0.{n}@tcp")).collect();
        let text = queue(false, &many).unwrap();
        let last = "\n      nid-9: 10.0.0.9@tcp\n      nid-10: 10.0.0.10@tcp\n      nid-11: 10.0.0.11@tcp\n";
        assert!(
            text.starts_with("Local NI recovery:\n      nid-0: 10.0.0.0@tcp\n") && text.ends_with(last),
            "{text}"
        );
    }

    #[test]
    fn a_nid_that_is_none_is_refused_as_lnetctl_does() {
        let e = cpts(&["10.0.0.1@tcp".into(), "foo".into()], || panic!("a node is looked for")).unwrap_err();
        assert_eq!((e.text(), e.status), (golden("lnetctl/cpt-of-nid-bad.txt.stderr"), 234));
    }
}
