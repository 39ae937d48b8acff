//! `fault`: rules that drop, fail or delay messages, as `pollnd fault` has them.

use super::refusal::{Refusal, status};
use crate::args::FaultKind;
use crate::fault_rules::Failed;
use crate::inspect::faults;

pub(super) fn main(kind: &FaultKind, node: Option<&str>) -> Result<(), Refusal> {
    faults::run(kind, node).map_err(|e| match e {
        Failed::Nid { nid, .. } => Refusal::words(status(libc::EINVAL), format!("Invalid NID: {nid}")),
        Failed::Words(e) => Refusal::words(255, e),
        Failed::None(e) => Refusal::words(status(libc::ENOENT), format!("pollnd: {e}")),
        Failed::Node(e) => e.into(),
    })
}
