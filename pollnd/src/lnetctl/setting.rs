//! `set`: a setting of the node, by lnetctl's name.

use super::Asked;
use super::refusal::Refusal;
use crate::config::keys::{self, Key, Means, Part, negated};
use crate::inspect::Request;
use transport::lnd::tunables::{self, Tunable};

/// Settings by the names that `set` has for them: their names in `global show`, and what lnetctl calls a value that is none.
const NAMES: [(&str, &str, &str); 12] = [
    ("numa_range", "numa_range", "NUMA range"),
    ("max_interfaces", "max_interfaces", "max interfaces"),
    ("max_intf", "max_interfaces", "max interfaces"),
    ("discovery", "discovery", "discovery"),
    ("drop_asym_route", "drop_asym_route", "drop_asym_route"),
    ("retry_count", "retry_count", "retry_count"),
    ("transaction_timeout", "transaction_timeout", "transaction timeout"),
    ("health_sensitivity", "health_sensitivity", "health sensitivity"),
    ("recovery_interval", "recovery_interval", "recovery interval"),
    ("router_sensitivity", "router_sensitivity", "router health sensitivity"),
    ("response_tracking", "response_tracking", "response_tracking"),
    ("recovery_limit", "recovery_limit", "recovery_limit"),
];

/// One whose name is the same everywhere.
const INTERVAL: &str = "max_recovery_ping_interval";

/// The reading of `global show` that is set for NIs.
const LND_TIMEOUT: &str = "lnd_timeout";

/// Router buffers, and their tunables.
const BUFFERS: [(&str, &str); 3] = [
    ("tiny_buffers", "tiny_router_buffers"),
    ("small_buffers", "small_router_buffers"),
    ("large_buffers", "large_router_buffers"),
];

/// Whether the node routes, as the tunable `forwarding`.
fn routing(value: &str) -> Result<(&'static str, String), Refusal> {
    let word = match value.parse() {
        Ok(0) => "disabled",
        Ok(1) => "enabled",
        _ => {
            let why = "cannot parse routing value.\nmust be 0 for disable or 1 for enable";
            return Err(Refusal::old("parser", "set", libc::EPERM, why));
        }
    };
    Ok(("forwarding", word.to_owned()))
}

/// A number of router buffers, as the tunable of that name.
fn buffers(name: &str, tunable: &'static str, value: &str) -> Result<(&'static str, String), Refusal> {
    let takes = tunables::find(tunable).map_or_else(|_| String::new(), Tunable::takes);
    value.parse::<u32>().map(|n| (tunable, n.to_string())).map_err(|_| {
        let why = format!("cannot parse {name} value.\nmust be {takes}, 0 for a kernel's number");
        Refusal::old("parser", "set", libc::EPERM, why)
    })
}

fn named(name: &str) -> Option<(&'static str, &'static str)> {
    let listed = NAMES.iter().find(|n| n.0 == name).map(|n| (n.1, n.2));
    listed.or((name == INTERVAL).then_some((INTERVAL, INTERVAL)))
}

fn key(name: &str) -> Option<&'static Key> {
    keys::of(Part::Global).find(|k| k.name == name)
}

/// The other way to set what `global show` shows, or a tunable, that is no setting of `set`.
fn remedy(name: &str, value: &str) -> Option<String> {
    if name == LND_TIMEOUT {
        return Some(format!(
            "{name} is a reading: it follows from transaction_timeout and retry_count; `pollnd lnetctl net set --all --lnd-timeout {value}` sets that of the NIs"
        ));
    }
    let tunable = tunables::find(name).ok()?.name;
    Some(format!("{tunable} is a tunable: `pollnd tunables {tunable}={value}` sets it"))
}

pub(super) fn set(
    name: &str,
    value: &str,
    node: impl FnOnce() -> Result<Asked, Refusal>,
) -> Result<(), Refusal> {
    let unknown = || {
        let unknown = format!("lnetctl: '{name}' is not a valid command. See 'lnetctl --list-commands'.");
        let hint = remedy(name, value).map_or_else(String::new, |r| format!("\npollnd: {r}"));
        Refusal::words(255, unknown + &hint)
    };
    let tune = |mut node: Asked, tunable: &str, value: String| {
        node.0.one(&Request::Tune { name: tunable.to_owned(), value }).map(drop)
    };
    if name == "routing" {
        let (tunable, value) = routing(value)?;
        return Ok(tune(node()?, tunable, value)?);
    }
    if let Some((_, tunable)) = BUFFERS.iter().find(|b| b.0 == name) {
        let (tunable, value) = buffers(name, tunable, value)?;
        let refused = |why: String| Refusal::old("add", name, libc::EINVAL, format!("\"{why}\""));
        return tune(node()?, tunable, value).map_err(refused);
    }
    let (shown, words) = named(name).ok_or_else(unknown)?;
    let key = key(shown).ok_or_else(unknown)?;
    let Ok(number) = value.parse::<i64>() else {
        return Err(Refusal::old("parser", "set", libc::EPERM, format!("cannot parse {words} value")));
    };
    let refused = |why: String| Refusal::old("add", shown, libc::EINVAL, format!("\"{why}\""));
    let (tunable, value) = match key.means {
        Means::Tunable(t) => (t, number.to_string()),
        // Whatever is not 0 is on, as with kernels.
        Means::Not(t) => (t, negated(if number == 0 { "0" } else { "1" })),
        Means::Only(_, why) => {
            // Others of its values stand in files of older lnetctls alone.
            let only = key.default();
            let always = || refused(format!("here it is always {only}, since {why}"));
            return if number.to_string() == only { node().map(drop) } else { Err(always()) };
        }
        _ => return Err(unknown()),
    };
    tune(node()?, tunable.name, value).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each has a key, so none is refused as unknown.
    #[test]
    fn each_name_is_a_setting() {
        for name in NAMES.iter().map(|n| n.0).chain([INTERVAL]) {
            let (shown, _) = named(name).unwrap();
            let means = key(shown).unwrap_or_else(|| panic!("{name}")).means;
            assert!(
                matches!(means, Means::Tunable(_) | Means::Not(_) | Means::Only(..)),
                "{name}: {means:?}"
            );
        }
    }
}
