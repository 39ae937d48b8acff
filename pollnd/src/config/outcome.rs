//! Outcomes of an attempt to change a node that runs, as its answer, for people, and for its log.

use serde_json::{Value, json};

use crate::inspect::failure::Failure;

/// Outcome of an attempt to change a node.
pub(crate) enum Outcome {
    /// These are other now; and what is to know of the file.
    Changed(Vec<String>, Vec<String>),
    /// Nothing is: these need a restart.
    Restart(Vec<String>),
    /// Nothing is: the file is wrong. A line each, and the kernel's number for the first that has one.
    Faults(Failure),
    /// Nothing is, or what is cannot be known.
    Failed(Failure),
}

impl Outcome {
    /// An outcome, from a node's answer.
    pub(crate) fn read(answer: &Value) -> Outcome {
        let texts = |name: &str| -> Option<Vec<String>> {
            Some(answer[name].as_array()?.iter().filter_map(|t| t.as_str().map(str::to_owned)).collect())
        };
        let errno = answer["errno"].as_i64().and_then(|n| i32::try_from(n).ok());
        let text = |name: &str| Some(Failure { text: answer[name].as_str()?.to_owned(), errno });
        let changed = texts("changed").map(|all| Outcome::Changed(all, texts("notes").unwrap_or_default()));
        changed
            .or_else(|| texts("restart").map(Outcome::Restart))
            .or_else(|| text("faults").map(Outcome::Faults))
            .or_else(|| text("failed").map(Outcome::Failed))
            .unwrap_or_else(|| {
                Outcome::Failed("the node's answer is not understood: it is another release".into())
            })
    }

    /// As a node answers.
    pub(crate) fn answer(&self) -> Value {
        match self {
            Outcome::Changed(all, notes) => json!({ "changed": all, "notes": notes }),
            Outcome::Restart(all) => json!({ "restart": all }),
            Outcome::Faults(e) => json!({ "faults": e.text, "errno": e.errno }),
            Outcome::Failed(e) => json!({ "failed": e.text, "errno": e.errno }),
        }
    }

    /// Told in the log, for a node that has had a signal.
    pub(crate) fn log(&self) {
        match self {
            Outcome::Changed(all, _) if all.is_empty() => tracing::info!("configuration: nothing is other"),
            Outcome::Changed(all, _) => tracing::info!("configuration: {}", all.join("; ")),
            Outcome::Restart(all) => tracing::error!(
                "configuration: nothing was changed, this needs a restart: {}",
                all.join("; ")
            ),
            Outcome::Faults(e) => {
                tracing::error!("configuration: nothing was changed:\n{}", e.text.trim_end());
            }
            Outcome::Failed(e) => tracing::error!("configuration: {}", e.text),
        }
    }
}
