//! Steps that make a machine ready for a node: each with its commands, and the way back.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::back::Back;
use super::bind::Bind;
use super::kernel::Kernel;
use super::reserve::{HugePages, PAGE_KIB};
use super::ulimit::Limits;

/// A step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    HugePages(HugePages),
    Module(Module),
    Bind(Bind),
    Limits(Limits),
}

/// A kernel module is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Module {
    pub(crate) name: String,
}

impl Module {
    /// Its folder in /sys, which has underscores; there once it is loaded, and always if it is part of the kernel.
    fn folder(&self) -> String {
        format!("sys/module/{}", self.name.replace('-', "_"))
    }

    fn apply(&self, k: &dyn Kernel) -> Result<(), String> {
        k.modprobe(&self.name, true)?;
        match k.at(&self.folder()).exists() {
            true => Ok(()),
            false => Err(format!("modprobe {} said nothing, and no /{} is there", self.name, self.folder())),
        }
    }

    fn undo(&self, k: &dyn Kernel) -> Back {
        let folder = k.at(&self.folder());
        if !folder.exists() {
            return Back::Undone("it is not loaded".into());
        }
        let count = std::fs::read_to_string(folder.join("refcnt")).unwrap_or_default();
        let used = count.trim().parse().unwrap_or(1) > 0;
        let devices = k.at("sys/bus/pci/drivers").join(&self.name);
        let binds = std::fs::read_dir(devices).into_iter().flatten().flatten();
        // Devices are links with addresses for names, `0000:00:05.0`.
        let bound = binds.filter_map(|e| e.file_name().into_string().ok()).find(|n| n.contains(':'));
        if let Some(port) = bound {
            return Back::Left(format!("it stays loaded, which does no harm: {port} is bound to it"));
        }
        if used {
            return Back::Left("it stays loaded, which does no harm: something else uses it".into());
        }
        // Some modprobes fail where a module beneath it is in use, and have unloaded this one.
        match k.modprobe(&self.name, false) {
            Err(e) if folder.exists() => Back::Left(format!("it stays loaded, which does no harm: {e}")),
            _ => Back::Undone("unloaded".into()),
        }
    }
}

impl Step {
    /// Kind of the step, as the record and JSON have it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Step::HugePages(_) => "huge_pages",
            Step::Module(_) => "module",
            Step::Bind(_) => "bind",
            Step::Limits(_) => "limits",
        }
    }

    /// The command that an administrator would type for it.
    pub(crate) fn commands(&self) -> Vec<String> {
        match self {
            Step::HugePages(s) => s.commands(),
            Step::Module(m) => vec![format!("modprobe {}", m.name)],
            Step::Bind(s) => s.commands(),
            Step::Limits(s) => s.commands(),
        }
    }

    /// Whether it can be a step at all, as a record has it: its names become names of files, and arguments.
    pub(crate) fn is_possible(&self) -> bool {
        let strange = |c: char| c == '/' || c.is_control();
        let name = |s: &str| !s.is_empty() && !s.starts_with(['-', '.']) && !s.contains(strange);
        match self {
            Step::HugePages(s) => s.before <= s.want && s.want <= u64::MAX / PAGE_KIB,
            Step::Module(m) => name(&m.name),
            Step::Bind(s) => name(&s.port) && name(&s.to) && s.from.as_deref().is_none_or(name),
            // Its user's name is compared, and nothing else.
            Step::Limits(_) => true,
        }
    }

    /// Whether a restart of the machine takes it back.
    pub(crate) fn ends_with_the_boot(&self) -> bool {
        !matches!(self, Step::Limits(_))
    }

    /// Does it.
    ///
    /// # Errors
    /// The failure and its remedy. A part of it may have been done.
    pub(crate) fn apply(&self, k: &dyn Kernel) -> Result<(), String> {
        match self {
            Step::HugePages(s) => s.apply(k),
            Step::Module(s) => s.apply(k),
            Step::Bind(s) => s.apply(k),
            Step::Limits(s) => s.apply(k),
        }
    }

    /// Takes it back: all of it, or if it is not `finished` the part of it that was done.
    pub(crate) fn undo(&self, k: &dyn Kernel, finished: bool) -> Back {
        match self {
            Step::HugePages(s) => s.undo(k, finished),
            Step::Module(s) => s.undo(k),
            Step::Bind(s) => s.undo(k),
            Step::Limits(s) => s.undo(k),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::HugePages(s) => s.fmt(f),
            Step::Module(m) => write!(f, "load the kernel module {}", m.name),
            Step::Bind(s) => s.fmt(f),
            Step::Limits(s) => s.fmt(f),
        }
    }
}
