//! Configuration files in lnetctl's YAML (docs/config.md).
//!
//! A file is read into a [`model::Model`], which says of a node what a command line can say of it: [`merge`] makes one command
//! line of both, in which what the user typed wins. So there is one set of settings, with one set of checks. A running node
//! ([`reload`]) compares what it was told with what it is told now, and takes all of it or nothing.

pub(crate) mod checked;
pub(crate) mod command;
mod credits;
mod elsewhere;
mod faulty;
#[cfg(test)]
mod fuzz;
mod hands;
pub(crate) mod keys;
pub(crate) mod merge;
pub(crate) mod model;
pub(crate) mod own_nis;
pub(crate) mod reader;
pub(crate) mod reload;
pub(crate) mod source;
mod ways;
pub(crate) mod write;
pub(crate) mod yaml;
