//! Tunables on the command line.

use std::path::PathBuf;

use transport::lnd::Config;
use transport::lnd::tunables::{self, TuneError};
use transport::wire::{Brief, Nid};

/// A tunable and its value, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tuned {
    pub(crate) name: &'static str,
    pub(crate) value: String,
}

/// Tunables of a node's configuration file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filed {
    /// Files in the syntax of modprobe.d that it names.
    pub(crate) options: Vec<PathBuf>,
    /// Tunables that it says, each with its place in words.
    pub(crate) tunables: Vec<(Tuned, String)>,
    /// Credits of NIs that have their own.
    pub(crate) credits: Vec<(Nid, u32)>,
}

fn check(name: &str, value: &str) -> Result<Tuned, TuneError> {
    let t = tunables::find(name)?;
    t.set(&mut Config::new(Nid::LO, 0), value)?;
    Ok(Tuned { name: t.name, value: value.to_owned() })
}

/// A value of `--tunable`.
pub(crate) fn tunable(s: &str) -> Result<Tuned, String> {
    let (name, value) = s.split_once('=').ok_or_else(|| format!("{:?} is not NAME=VALUE", Brief(s)))?;
    check(name, value).map_err(|e| e.to_string())
}

/// A value of the option that is short for `--tunable name=...`.
pub(crate) fn tuned(name: &'static str) -> impl Fn(&str) -> Result<Tuned, TuneError> + Clone {
    move |value| check(name, value)
}
