//! The conformance scripts: a language (`lang`, `parse`), packets written independently of the stack (`packet`), a
//! connection as scripts see it (`conn`), the stack with its wire and clock (`world`), and who runs a script (`run`,
//! `app`). docs/scripts.md is for those who write scripts.

mod app;
mod conn;
mod lang;
mod packet;
mod parse;
mod run;
mod script_runner;
mod script_tcp;
mod world;

pub(crate) use parse::script as parse;
pub(crate) use run::run;
pub(crate) use world::Family;
