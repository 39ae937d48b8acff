//! The kernel as steps use it: its files, and its modules.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The kernel of this machine, or the one that tests have on a tree.
pub(crate) trait Kernel {
    /// Folder below which it has its files.
    fn root(&self) -> &Path;

    /// Writes to one of its files, which is there.
    ///
    /// # Errors
    /// The kernel's.
    fn write(&self, file: &Path, text: &str) -> io::Result<()>;

    /// Loads a module, or unloads it.
    ///
    /// # Errors
    /// The text of modprobe.
    fn modprobe(&self, name: &str, load: bool) -> Result<(), String>;

    /// A file of it.
    fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// Writes to a file.
    ///
    /// # Errors
    /// The kernel's, with the file and the value.
    fn told(&self, file: &Path, text: &str) -> Result<(), String> {
        self.write(file, text)
            .map_err(|e| format!("cannot write {:?} to {}: {e}", text.trim_end(), file.display()))
    }
}

/// This machine's.
pub(crate) struct Host;

impl Kernel for Host {
    fn root(&self) -> &Path {
        Path::new("/")
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        // In one call, since each is a command to the kernel.
        OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
    }

    fn modprobe(&self, name: &str, load: bool) -> Result<(), String> {
        let mut c = Command::new("modprobe");
        let c = if load { &mut c } else { c.arg("-r") };
        let said = c.arg(name).stdin(Stdio::null()).output();
        let said = said.map_err(|e| format!("modprobe: {e} (apt-get install kmod)"))?;
        if said.status.success() {
            return Ok(());
        }
        Err(format!("modprobe {name}: {}", String::from_utf8_lossy(&said.stderr).trim()))
    }
}
