//! The connection that may carry a message (docs/protocol/socklnd.md §7).

use crate::wire::{ConnType, Version};

/// Kinds of messages, as far as the choice of a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cargo {
    /// A NOOP; `nonblk` when it must not queue behind LNet messages.
    Noop { nonblk: bool },
    /// An LNet message of at least `min_bulk` bytes with its headers.
    Bulk,
    /// A smaller one.
    Small,
}

/// Suitability of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    No,
    May,
    Yes,
}

/// The table of socklnd.md §7.
pub(super) fn fit(version: Version, ctype: ConnType, cargo: Cargo) -> Fit {
    if version.is_typed() { fit_typed(ctype, cargo) } else { fit_untyped(ctype, cargo) }
}

/// V1 and V2: types are preferences, anything may go anywhere.
fn fit_untyped(ctype: ConnType, cargo: Cargo) -> Fit {
    match (ctype, cargo) {
        (ConnType::None, _) => Fit::No,
        (ConnType::Any, _) => Fit::Yes,
        (ConnType::Control, Cargo::Bulk) => Fit::May,
        (ConnType::Control, _) => Fit::Yes,
        (ConnType::BulkOut, Cargo::Bulk) => Fit::Yes,
        (ConnType::BulkOut | ConnType::BulkIn, _) => Fit::May,
    }
}

/// V3 and V4: types have directions.
fn fit_typed(ctype: ConnType, cargo: Cargo) -> Fit {
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
        let letter = |f| match f {
            Fit::No => '-',
            Fit::May => 'm',
            Fit::Yes => 'Y',
        };
        let cargo = [Cargo::Small, Cargo::Bulk, Cargo::Noop { nonblk: false }, Cargo::Noop { nonblk: true }];
        let mut text = String::from("small, bulk, NOOP, NOOP nonblk: Yes, may, -\n");
        for v in [Version::V1, Version::V2, Version::V3, Version::V4] {
            for c in [None, Any, Control, BulkIn, BulkOut] {
                text += &format!(
                    "{v:?} {c:?}: {}\n",
                    cargo.map(|m| letter(fit(v, c, m))).iter().collect::<String>()
                );
            }
        }
        insta::assert_snapshot!(text, @r"
        small, bulk, NOOP, NOOP nonblk: Yes, may, -
        V1 None: ----
        V1 Any: YYYY
        V1 Control: YmYY
        V1 BulkIn: mmmm
        V1 BulkOut: mYmm
        V2 None: ----
        V2 Any: YYYY
        V2 Control: YmYY
        V2 BulkIn: mmmm
        V2 BulkOut: mYmm
        V3 None: ----
        V3 Any: ----
        V3 Control: YmY-
        V3 BulkIn: --mY
        V3 BulkOut: mYm-
        V4 None: ----
        V4 Any: ----
        V4 Control: YmY-
        V4 BulkIn: --mY
        V4 BulkOut: mYm-
        ");
    }
}
