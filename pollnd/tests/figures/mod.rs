//! Figures of `pollnd net --json`.

use serde_json::Value;

/// Looks whether `count` operations of `size` bytes went well, each looked at.
pub(crate) fn went_well(v: &Value, count: u64, size: u64) {
    let all =
        [("operations", count), ("bytes", count * size), ("checked", count), ("wrong", 0), ("failed", 0)];
    for (name, want) in all {
        assert_eq!(v[name].as_u64(), Some(want), "{name}: {v}");
    }
}
