//! Configuration files in lnetctl's YAML (docs/config.md).
//!
//! A file is read into a [`model::Model`], which says of a node what a command line can say of it: [`merge`] makes one command
//! line of both, in which what the user typed wins. So there is one set of settings, with one set of checks. A running node
//! ([`reload`]) compares what it was told with what it is told now, and takes all of it or nothing; or it is given what a file says, and keeps
//! all else ([`adding`]).

mod adding;
pub(crate) mod checked;
pub(crate) mod command;
mod credits;
mod elsewhere;
mod faulty;
#[cfg(test)]
mod fuzz;
mod hands;
mod kept;
pub(crate) mod keys;
pub(crate) mod merge;
pub(crate) mod model;
mod options;
pub(crate) mod outcome;
pub(crate) mod own_nis;
pub(crate) mod reader;
mod readings;
pub(crate) mod reload;
pub(crate) mod source;
mod steps;
mod ways;
pub(crate) mod write;
pub(crate) mod yaml;
