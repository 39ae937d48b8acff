//! Reasons why a question was not answered, for people and, where a kernel has one, as its error number.

use serde_json::{Value, json};

/// A reason.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// In words.
    pub(crate) text: String,
    /// The kernel's number, positive.
    pub(crate) errno: Option<i32>,
}

impl Failure {
    /// One that kernels know, too.
    pub(crate) fn numbered(text: impl ToString, errno: i32) -> Failure {
        Failure { text: text.to_string(), errno: Some(errno) }
    }

    /// As a node answers.
    pub(super) fn answer(&self) -> Value {
        match self.errno {
            Some(n) => json!({ "error": self.text, "errno": n }),
            None => json!({ "error": self.text }),
        }
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure { text, errno: None }
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Failure {
        text.to_owned().into()
    }
}
