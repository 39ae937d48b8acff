//! `set`: a setting of the node, by lnetctl's name.

use super::Asked;
use super::refusal::Refusal;
use crate::config::keys::{self, Key, Means, Part, negated};
use crate::inspect::Request;
use crate::inspect::account::Ask;

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

/// Router buffers, by class.
const BUFFERS: [&str; 3] = ["tiny_buffers", "small_buffers", "large_buffers"];
/// Most of a class.
const BUFFERS_MAX: u32 = 1 << 20;

fn routing(value: &str, node: impl FnOnce() -> Result<Asked, Refusal>) -> Result<(), Refusal> {
    let on = match value.parse() {
        Ok(0) => false,
        Ok(1) => true,
        _ => {
            let why = "cannot parse routing value.\nmust be 0 for disable or 1 for enable";
            return Err(Refusal::old("parser", "set", libc::EPERM, why));
        }
    };
    node()?.one::<()>(Ask::SetRouting { on })
}

fn buffers(class: usize, value: &str, node: impl FnOnce() -> Result<Asked, Refusal>) -> Result<(), Refusal> {
    let number: u32 = value.parse().ok().filter(|n| *n <= BUFFERS_MAX).ok_or_else(|| {
        let name = BUFFERS.get(class).copied().unwrap_or_default();
        let why = format!("cannot parse {name} value.\nmust be 0 to {BUFFERS_MAX}, 0 for a kernel's number");
        Refusal::old("parser", "set", libc::EPERM, why)
    })?;
    node()?.one::<()>(Ask::SetBuffers { class, number })
}

fn named(name: &str) -> Option<(&'static str, &'static str)> {
    let listed = NAMES.iter().find(|n| n.0 == name).map(|n| (n.1, n.2));
    listed.or((name == INTERVAL).then_some((INTERVAL, INTERVAL)))
}

fn key(name: &str) -> Option<&'static Key> {
    keys::of(Part::Global).find(|k| k.name == name)
}

pub(super) fn set(
    name: &str,
    value: &str,
    node: impl FnOnce() -> Result<Asked, Refusal>,
) -> Result<(), Refusal> {
    let unknown = || {
        Refusal::words(
            255,
            format!("lnetctl: '{name}' is not a valid command. See 'lnetctl --list-commands'."),
        )
    };
    if name == "routing" {
        return routing(value, node);
    }
    if let Some(class) = BUFFERS.iter().position(|b| *b == name) {
        return buffers(class, value, node);
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
        Means::Only(all, why) => {
            let takes = key.takes();
            let always = || refused(format!("here it is always {takes}, since {why}"));
            return if all.contains(&number) { Ok(()) } else { Err(always()) };
        }
        _ => return Err(unknown()),
    };
    let r = Request::Tune { name: tunable.name.to_owned(), value };
    node()?.0.one(&r).map(drop).map_err(refused)
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
