//! `pollnd completions` and `pollnd man`: for shells, and for `man`, from the command line's own description.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::out;

/// Words that a shell completes.
pub(crate) fn completions(shell: Shell) -> Result<(), String> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "pollnd", &mut text);
    out::text(String::from_utf8_lossy(&text))
}

/// A page for the program and one for each command, in section 1.
pub(crate) fn man(folder: &Path) -> Result<(), String> {
    clap_mangen::generate_to(Cli::command(), folder)
        .map_err(|e| format!("{}: {e}; give a folder that is there and can be written", folder.display()))
}
