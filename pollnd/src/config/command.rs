//! `pollnd config`: checks and shows files, has a running node take one, prints a running node's.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use transport::lnd::TcpKind;

use super::keys::{Key, Means};
use super::merge::{self, Bad, Loaded};
use super::model::{Ni, Said};
use super::outcome::Outcome;
use super::source::Source;
use super::write::Style;
use crate::args::ConfigVerb;
use crate::inspect::Request;
use crate::inspect::client::Client;
use crate::{out, units};

/// Exit code for files that are wrong.
const FAULTY: u8 = 2;
/// Exit code where something that was asked for did not work.
const FAILED: u8 = 1;

/// Reads a file, and looks at it as a node that starts with it would.
fn checked(path: &Path) -> Result<Loaded, String> {
    let file = merge::load(path)?;
    if file.model.nis.is_empty() {
        return Ok(file);
    }
    let argv: Vec<OsString> = ["pollnd".into(), "node".into()].into();
    match merge::with(&argv, Some(&file), None) {
        Ok(_) => Ok(file),
        Err(Bad::File(e)) => Err(e),
        Err(Bad::Line(e)) => Err(format!("{}: {e}\n", path.display())),
    }
}

fn check(path: &Path) -> Result<ExitCode, String> {
    let file = match checked(path) {
        Ok(f) => f,
        Err(e) => {
            out::err(&e);
            return Ok(ExitCode::from(FAULTY));
        }
    };
    for p in &file.model.passed {
        out::note(format_args!("{}: {}", file.at(p.at), p.text));
    }
    let nis = match file.model.nis.len() as u64 {
        0 => "no NI, so --nid has to name one".to_owned(),
        n => units::many(n, "NI"),
    };
    let n = file.model.said.len() as u64;
    out::line(format_args!("{}: good: {nis}, {}", path.display(), units::many(n, "value")))?;
    Ok(ExitCode::SUCCESS)
}

fn show(path: &Path) -> Result<ExitCode, String> {
    let file = match checked(path) {
        Ok(f) => f,
        Err(e) => {
            out::err(&e);
            return Ok(ExitCode::from(FAULTY));
        }
    };
    let kind = if file.model.on_port() { TcpKind::Port } else { TcpKind::Sockets };
    let remark = |key: &Key, said: Option<&Said>| {
        let from = match (said, key.means) {
            (Some(s), _) => file.at(s.at),
            (None, Means::Only(..)) => return "always so".to_owned(),
            (None, _) if key.default().is_empty() => return format!("no default: {}", key.about),
            (None, _) => "default".to_owned(),
        };
        let when = if key.runtime(kind) { "" } else { ", at start" };
        format!("{from}{when}")
    };
    let on_ni = |ni: &Ni| file.at(ni.at);
    out::text(Style { remark: &remark, on_ni: &on_ni, all: true }.yaml(&file.model))?;
    Ok(ExitCode::SUCCESS)
}

fn apply(path: Option<PathBuf>, node: Option<&str>) -> Result<ExitCode, String> {
    let good = |file: Source| merge::read(file.clone()).map(|_| file);
    let file = match path.map(|p| Source::asked(Some(&p)).and_then(good)).transpose() {
        Ok(f) => f,
        Err(e) => {
            out::err(&e);
            return Ok(ExitCode::from(FAULTY));
        }
    };
    let answer = Client::new(node)?.one(&Request::Apply { file })?;
    match Outcome::read(&answer["end"]) {
        Outcome::Changed(changed, notes) => {
            notes.iter().for_each(out::note);
            let said = if changed.is_empty() { vec!["nothing is other".to_owned()] } else { changed };
            out::text(said.iter().map(|l| format!("{l}\n")).collect::<String>())?;
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Restart(restart) => {
            out::note("nothing was changed: this needs a restart");
            out::err(&restart.iter().map(|l| format!("  {l}\n")).collect::<String>());
            Ok(ExitCode::from(FAILED))
        }
        Outcome::Faults(faults) => {
            out::err(&faults.text);
            Ok(ExitCode::from(FAULTY))
        }
        Outcome::Failed(e) => Err(e.text),
    }
}

/// `pollnd config`.
///
/// # Errors
/// No node, or it does not answer.
pub(crate) fn main(verb: ConfigVerb) -> Result<ExitCode, String> {
    match verb {
        ConfigVerb::Check { file } => check(&file),
        ConfigVerb::Show { file } => show(&file),
        ConfigVerb::Export { asked } => {
            let answer = Client::new(asked.node.as_deref())?.one(&Request::Export {})?;
            out::text(answer["end"].as_str().unwrap_or_default())?;
            Ok(ExitCode::SUCCESS)
        }
        ConfigVerb::Apply { file, asked } => apply(file, asked.node.as_deref()),
    }
}
