//! Values of files, each by itself: in the form in which they are compared and shown, and their faults.

use transport::lnd::tunables::TuneError;
use transport::lnd::{Config, TcpKind};
use transport::wire::{Brief, Nid};

use super::keys::{Key, Means};
use crate::{args, logging};

/// CPTs of a node with that `cpu_pattern`, as lnetctl writes them; those of a pattern that leaves them to the machine are taken for one.
pub(crate) fn cpt_list(pattern: Option<&str>) -> String {
    listed(&pattern.and_then(cpts).unwrap_or_else(|| vec![0]))
}

/// CPTs as lnetctl writes them.
pub(super) fn listed(cpts: &[u32]) -> String {
    format!("[{}]", cpts.iter().map(u32::to_string).collect::<Vec<_>>().join(","))
}

/// CPTs that a pattern names: `0[0-3] 1[4-7]`; `None` for one that leaves them to the machine.
pub(super) fn cpts(pattern: &str) -> Option<Vec<u32>> {
    let mut all: Vec<u32> = pattern
        .split('[')
        .rev()
        .skip(1)
        .map(|w| w.rsplit([' ', ']']).next()?.trim().parse().ok())
        .collect::<Option<_>>()?;
    all.sort_unstable();
    Some(all).filter(|a| !a.is_empty())
}

/// A value in the form in which it is compared and shown.
pub(super) fn plain(key: &Key, value: &str) -> String {
    let mut c = Config::new(Nid::LO, 0);
    match key.means {
        // Numbers that the kernel reads may be written in several ways.
        Means::Tunable(t) | Means::Not(t) if t.set(&mut c, value).is_ok() => t.value(&c),
        Means::OnOff(_) => if truth(value) == Some(true) { "on" } else { "off" }.to_owned(),
        Means::Flag(..) | Means::Telemetry => truth(value).unwrap_or_default().to_string(),
        _ => value.to_owned(),
    }
}

pub(super) fn truth(s: &str) -> Option<bool> {
    match s.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Some(true),
        "false" | "off" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// The fault of a value, and what is allowed.
pub(super) fn fault_of(key: &Key, value: &str, kind: TcpKind) -> Option<String> {
    let takes = || format!("{:?} is none of its values; it takes {}", Brief(value), key.takes());
    match key.means {
        Means::Tunable(t) | Means::Not(t) => {
            let e = t.set(&mut Config { tcp_kind: kind, ..Config::new(Nid::LO, 0) }, value).err()?;
            Some(match e {
                TuneError::Value { takes, .. } => {
                    format!("{:?} is none of its values; it takes {takes}", Brief(value))
                }
                TuneError::Fixed { only, why, .. } => {
                    format!("{:?}: here it is always {only}, since {why}", Brief(value))
                }
                e => e.to_string(),
            })
        }
        Means::Option(flag) => args::value(flag, value).err().map(|_| takes()),
        Means::Each(flag) => (value.contains(',') || args::value(flag, value).is_err()).then(takes),
        Means::Device => device(value).err(),
        Means::OnOff(_) | Means::Flag(..) | Means::Telemetry => truth(value).is_none().then(takes),
        Means::Level => logging::filter(value).err(),
        Means::Only(all, why) => {
            let good = value.parse().is_ok_and(|n: i64| all.contains(&n));
            (!good).then(|| format!("{:?}: here it is always {}, since {why}", Brief(value), key.default()))
        }
        Means::Options | Means::Eal | Means::Reading => None,
    }
}

#[cfg(feature = "dpdk")]
fn device(value: &str) -> Result<(), String> {
    let e = value.parse::<dataplane::dpdk::PortSpec>().err();
    e.map_or(Ok(()), |e| Err(e.to_string().replace(value, &Brief(value).to_string())))
}

#[cfg(not(feature = "dpdk"))]
fn device(_: &str) -> Result<(), String> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpts_of_a_pattern() {
        assert_eq!(cpts("0[0-3] 1[4-7]"), Some(vec![0, 1]));
        assert_eq!(cpts("3[1,2]"), Some(vec![3]));
        assert_eq!((cpts("N"), cpts("0[0] C[0]")), (None, None));
    }
}
