//! Ends of taking a step back.

/// Result of taking a step back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Back {
    /// All is as it was; what was found.
    Undone(String),
    /// It can no longer be taken back, and why.
    Left(String),
    /// It can be taken back once something has happened that is named.
    NotNow(String),
}
