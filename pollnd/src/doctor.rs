//! `pollnd doctor`: what the machine has, what is missing, and the line that mends it.

use std::path::Path;

use dataplane::doctor::examine;

use crate::args::DoctorArgs;

#[cfg(feature = "dpdk")]
fn dpdk() -> Option<String> {
    Some(dataplane::dpdk::dpdk_version())
}

#[cfg(not(feature = "dpdk"))]
fn dpdk() -> Option<String> {
    None
}

pub(crate) fn main(a: &DoctorArgs) -> Result<(), String> {
    let version = dpdk();
    let findings = examine(Path::new("/"), version.as_deref());
    if a.json {
        let all: Vec<_> = findings
            .iter()
            .map(|f| {
                serde_json::json!({
                    "subject": f.subject, "severity": f.severity.to_string(),
                    "detail": f.detail, "remedy": f.remedy,
                })
            })
            .collect();
        println!("{}", serde_json::Value::Array(all));
    } else {
        for f in &findings {
            println!("{f}");
        }
    }
    Ok(())
}
