//! `pollnd doctor`: what the machine has, what is missing, and the line that mends it.

use std::path::Path;
use std::process::ExitCode;

use dataplane::doctor::{examine, exit_code};

use crate::args::DoctorArgs;

#[cfg(feature = "dpdk")]
fn dpdk() -> Option<String> {
    Some(dataplane::dpdk::dpdk_version())
}

#[cfg(not(feature = "dpdk"))]
fn dpdk() -> Option<String> {
    None
}

/// Prints what it finds, and ends with the worst of it (`pollnd doctor --help`).
pub(crate) fn main(a: &DoctorArgs) -> Result<ExitCode, String> {
    let version = dpdk();
    let findings = examine(Path::new("/"), version.as_deref());
    if a.out.json {
        let all: Vec<_> = findings
            .iter()
            .map(|f| {
                serde_json::json!({
                    "subject": f.subject, "severity": f.severity.to_string(),
                    "detail": f.detail, "remedy": f.remedy,
                })
            })
            .collect();
        crate::out::line(serde_json::Value::Array(all))?;
    } else {
        for f in &findings {
            crate::out::line(f)?;
        }
    }
    Ok(ExitCode::from(exit_code(&findings)))
}
