//! The text of a configuration file, with the name that errors call it by. Whoever asks a node to take a file reads it, and sends its text: a
//! service sees neither home folders nor everybody's /tmp (docs/config.md).

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::file;

/// The remedy for a file that will not do.
const WANTED: &str = "a configuration in YAML (docs/config.md)";
/// The path that stands for standard input, and its name.
const INPUT: &str = "-";
const INPUT_NAME: &str = "standard input";

/// A configuration's text, of at most [`file::BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    /// The path, or `standard input`.
    pub(super) name: String,
    pub(super) text: String,
}

impl Source {
    /// That of the file at `path`.
    ///
    /// # Errors
    /// As [`file::bytes`], or the place of a byte that is not UTF-8; a line.
    pub(crate) fn of_file(path: &Path) -> Result<Source, String> {
        let name = path.display().to_string();
        let bytes = file::bytes(&name, path, WANTED).map_err(|e| e + "\n")?;
        Source::of(name, bytes)
    }

    /// That of standard input, for `-` or no path; else of a file, by a name that does not depend on the folder where one is.
    ///
    /// # Errors
    /// As [`Source::of_file`].
    pub(crate) fn asked(path: Option<&Path>) -> Result<Source, String> {
        let Some(path) = path.filter(|p| !Source::is_input(p)) else {
            let bytes = file::at_most(INPUT_NAME, std::io::stdin().lock(), WANTED).map_err(|e| e + "\n")?;
            return Source::of(INPUT_NAME.to_owned(), bytes);
        };
        let whole = std::path::absolute(path).map_err(|e| format!("{}: {e}\n", path.display()))?;
        Source::of_file(&whole)
    }

    /// A text of this name.
    #[cfg(test)]
    pub(super) fn named(name: &str, text: &str) -> Source {
        Source { name: name.to_owned(), text: text.to_owned() }
    }

    /// Whether `path` stands for standard input.
    pub(crate) fn is_input(path: &Path) -> bool {
        path == Path::new(INPUT)
    }

    fn of(name: String, bytes: Vec<u8>) -> Result<Source, String> {
        let text = String::from_utf8(bytes).map_err(|e| {
            let good =
                String::from_utf8_lossy(e.as_bytes().get(..e.utf8_error().valid_up_to()).unwrap_or_default());
            let line = good.rsplit('\n').next().unwrap_or_default();
            let (line, col) = (good.matches('\n').count() + 1, line.chars().count() + 1);
            format!("{name}:{line}:{col}: a byte that is not UTF-8\n")
        })?;
        Ok(Source { name, text })
    }
}
