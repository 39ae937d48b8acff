//! Which connection may carry a message (docs/protocol/socklnd.md §7).

use crate::wire::ConnType;

/// What is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cargo {
    /// A NOOP; `nonblk` when it must not queue behind LNet messages.
    Noop { nonblk: bool },
    /// An LNet message of at least `min_bulk` bytes with its headers.
    Bulk,
    /// A smaller one.
    Small,
}

/// How well a connection suits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    No,
    May,
    Yes,
}

/// The table for V3 (socklnd.md §7). V1 and V2 would be another column.
pub(super) fn fit(ctype: ConnType, cargo: Cargo) -> Fit {
    use Cargo::{Bulk, Noop, Small};
    match (ctype, cargo) {
        (ConnType::None | ConnType::Any, _) => Fit::No,
        (ConnType::BulkIn, Noop { nonblk: true }) => Fit::Yes,
        (ConnType::BulkIn, Noop { nonblk: false }) => Fit::May,
        (ConnType::BulkIn, Bulk | Small) => Fit::No,
        (_, Noop { nonblk: true }) => Fit::No,
        (ConnType::Control, Small | Noop { nonblk: false }) => Fit::Yes,
        (ConnType::Control, Bulk) => Fit::May,
        (ConnType::BulkOut, Bulk) => Fit::Yes,
        (ConnType::BulkOut, Small | Noop { nonblk: false }) => Fit::May,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ConnType::*;

    #[test]
    fn table() {
        let mut text = String::new();
        for c in [None, Any, Control, BulkIn, BulkOut] {
            for m in [Cargo::Small, Cargo::Bulk, Cargo::Noop { nonblk: false }, Cargo::Noop { nonblk: true }]
            {
                text += &format!("{c:?} {m:?}: {:?}\n", fit(c, m));
            }
        }
        insta::assert_snapshot!(text, @r"
        None Small: No
        None Bulk: No
        None Noop { nonblk: false }: No
        None Noop { nonblk: true }: No
        Any Small: No
        Any Bulk: No
        Any Noop { nonblk: false }: No
        Any Noop { nonblk: true }: No
        Control Small: Yes
        Control Bulk: May
        Control Noop { nonblk: false }: Yes
        Control Noop { nonblk: true }: No
        BulkIn Small: No
        BulkIn Bulk: No
        BulkIn Noop { nonblk: false }: May
        BulkIn Noop { nonblk: true }: Yes
        BulkOut Small: May
        BulkOut Bulk: Yes
        BulkOut Noop { nonblk: false }: May
        BulkOut Noop { nonblk: true }: No
        ");
    }
}
