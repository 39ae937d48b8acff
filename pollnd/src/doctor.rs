//! `pollnd doctor`: what the machine has, what is missing, and the line that mends it; `--fix` mends it.

mod back;
mod bind;
mod fix;
mod kernel;
mod plan;
mod record;
mod reserve;
mod step;
mod ulimit;

use std::path::Path;
use std::process::ExitCode;

use dataplane::doctor::{Finding, Net, cautions, examine, exit_code, pci_ports};
use rustix::process::geteuid;
use serde_json::{Value, json};

use self::fix::End;
use self::kernel::Host;
use self::plan::{Plan, Wanted};
use self::record::Record;
use crate::args::DoctorArgs;
use crate::{cpus, out};

#[cfg(feature = "dpdk")]
mod linked {
    /// Version of DPDK.
    pub(super) fn dpdk() -> Option<String> {
        Some(dataplane::dpdk::dpdk_version())
    }

    pub(super) use crate::dpdk::usual_memory_mb;
}

#[cfg(not(feature = "dpdk"))]
mod linked {
    pub(super) fn dpdk() -> Option<String> {
        None
    }

    /// There is no node on a port.
    pub(super) fn usual_memory_mb() -> u32 {
        0
    }
}

fn finding(f: &Finding) -> Value {
    json!({
        "subject": f.subject, "severity": f.severity.to_string(),
        "detail": f.detail, "remedy": f.remedy,
    })
}

/// Prints what it finds or does, and ends with a code for it (`pollnd doctor --help`).
pub(crate) fn main(a: &DoctorArgs) -> Result<ExitCode, String> {
    match (a.fix, a.undo) {
        (true, _) => mend(a),
        (_, true) => undo(a.out.json),
        _ => look(a.out.json),
    }
}

fn look(json: bool) -> Result<ExitCode, String> {
    let version = linked::dpdk();
    let findings = examine(Path::new("/"), version.as_deref(), &cpus::usual());
    if json {
        out::line(findings.iter().map(finding).collect::<Value>())?;
    } else {
        for f in &findings {
            out::line(f)?;
        }
    }
    Ok(ExitCode::from(exit_code(&findings)))
}

/// Whether it may be done; else that is said.
fn root(option: &str) -> bool {
    let may = geteuid().is_root();
    if !may {
        out::note(format_args!("{option} takes root: sudo pollnd doctor {option} ...; nothing is done"));
    }
    may
}

fn wanted(a: &DoctorArgs) -> Wanted {
    let var = |n: &str| std::env::var(n).ok().filter(|v| !v.is_empty());
    // Addresses and ports of both ends.
    let ssh = var("SSH_CONNECTION").and_then(|v| v.split_whitespace().nth(2).map(str::to_owned));
    Wanted {
        ports: a.port.clone(),
        driver: a.driver,
        huge_mib: a.huge_pages,
        usual_mib: linked::usual_memory_mb().into(),
        user: a.user.clone().or_else(|| var("SUDO_USER").filter(|u| u != "root")),
        ssh,
    }
}

fn ended(e: End) -> ExitCode {
    ExitCode::from(e as u8)
}

/// Ports that could be named, where none was.
fn unnamed(a: &DoctorArgs) -> Option<String> {
    let net = Net::read(Path::new("/"));
    let free = |i: &String| net.carries(i).is_none() && net.addresses(i).is_empty();
    let may = pci_ports(Path::new("/"))
        .into_iter()
        .filter(|p| !p.usable() && !p.hidden(&net) && p.ifaces.iter().all(free));
    let may: Vec<_> = may.map(|p| p.addr).collect();
    let none = a.port.is_empty() && !may.is_empty();
    none.then(|| format!("no port is named, so none is bound; --port takes {}", may.join(", ")))
}

fn mend(a: &DoctorArgs) -> Result<ExitCode, String> {
    if a.yes && !root("--fix --yes") {
        return Ok(ended(End::Refused));
    }
    let mut plan = match plan::plan(&Host, &wanted(a)) {
        Ok(p) => p,
        Err(all) => {
            all.iter().for_each(out::note);
            out::note("nothing is done");
            return Ok(ended(End::Refused));
        }
    };
    plan.notes.extend(unnamed(a));
    let warnings = cautions(Path::new("/"), &cpus::usual());
    if a.yes && !plan.steps.is_empty() {
        return done(a.out.json, plan, &warnings);
    }
    if a.out.json {
        let mut all = fix::json(&plan);
        all["warnings"] = warnings.iter().map(finding).collect();
        out::line(all)?;
    } else {
        out::text(fix::told(&plan))?;
        warnings.iter().try_for_each(out::line)?;
    }
    Ok(ended(if plan.steps.is_empty() { End::Good } else { End::Planned }))
}

/// Carries a plan out, and tells of it.
fn done(json: bool, plan: Plan, warnings: &[Finding]) -> Result<ExitCode, String> {
    let mut record = Record::open(&record::folder())?;
    let notes = plan.notes.clone();
    let done = fix::carry_out(&Host, &mut record, plan);
    let file = record.path().display().to_string();
    if json {
        let steps: Vec<_> = done.steps.iter().map(fix::Outcome::json).collect();
        let warnings: Value = warnings.iter().map(finding).collect();
        out::line(json!({
            "steps": steps, "failed": done.failed, "record": file, "notes": notes, "warnings": warnings,
        }))?;
    } else {
        done.steps.iter().try_for_each(|o| out::line(o.line()))?;
        notes.iter().try_for_each(|n| out::line(format_args!("as it is   {n}")))?;
        warnings.iter().try_for_each(out::line)?;
    }
    let Some(why) = done.failed else { return Ok(ended(End::Good)) };
    let rest = match fix::end(&done.steps) {
        End::Good => "all that was done is taken back".to_owned(),
        _ => format!("not all that was done is taken back: {file}, pollnd doctor --undo"),
    };
    out::note(format_args!("{why}; {rest}"));
    Ok(ended(End::Failed))
}

fn undo(json: bool) -> Result<ExitCode, String> {
    if !root("--undo") {
        return Ok(ended(End::Refused));
    }
    let folder = record::folder();
    let all = match fix::recorded(&folder)? {
        Some(mut record) => fix::take_back(&Host, &mut record, 0),
        None => Vec::new(),
    };
    if json {
        out::line(json!({"steps": all.iter().map(fix::Outcome::json).collect::<Vec<_>>()}))?;
    } else if all.is_empty() {
        out::line(format_args!(
            "nothing is recorded in {}: there is nothing to take back",
            folder.display()
        ))?;
    } else {
        all.iter().try_for_each(|o| out::line(o.line()))?;
    }
    Ok(ended(fix::end(&all)))
}

#[cfg(test)]
mod doctor_tests;
