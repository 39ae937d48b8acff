//! Commands of pollnd's own on DPDK's telemetry socket (`dpdk-telemetry.py`).

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::Mutex;

use dpdk_sys as sys;

use super::eal::{Eal, strerror};

/// Answer of a command: one level of names and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TelemetryValue {
    /// A number.
    U64(u64),
    /// A text; DPDK cuts it at 127 bytes.
    Text(String),
}

/// Answers a command: takes what the user wrote after the comma. Runs on DPDK's telemetry thread, so it may only
/// read what may be read from any thread.
pub type TelemetryFn = fn(&str) -> Vec<(String, TelemetryValue)>;

/// Errors of registering a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TelemetryError {
    /// DPDK refused.
    #[error(
        "telemetry command {cmd} is not accepted ({errno}): it starts with / and has letters, digits, _ and / only, at most 55 of them, and is registered once"
    )]
    Refused {
        /// The command.
        cmd: String,
        /// DPDK's name for the error.
        errno: String,
    },
}

/// DPDK hands no argument of ours to the callback, so commands are found by name.
static COMMANDS: Mutex<BTreeMap<String, TelemetryFn>> = Mutex::new(BTreeMap::new());

fn commands() -> std::sync::MutexGuard<'static, BTreeMap<String, TelemetryFn>> {
    COMMANDS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Registers `cmd` (such as `/pollnd/ports`), answered by `f`, for the life of the process.
///
/// # Errors
/// [`TelemetryError::Refused`] names the command and the rule.
pub fn telemetry(_eal: &Eal, cmd: &str, help: &str, f: TelemetryFn) -> Result<(), TelemetryError> {
    let refused = |errno: String| TelemetryError::Refused { cmd: cmd.into(), errno };
    let c = CString::new(cmd).map_err(|e| refused(e.to_string()))?;
    let h = CString::new(help).map_err(|e| refused(e.to_string()))?;
    if cmd.len() > 55 {
        return Err(refused("too long".into()));
    }
    // First, so that the callback finds it at once.
    if commands().contains_key(cmd) {
        return Err(refused("registered before".into()));
    }
    commands().insert(cmd.into(), f);
    // SAFETY: terminated strings, which DPDK copies; the callback is a plain function.
    let r = unsafe { sys::rte_telemetry_register_cmd(c.as_ptr(), Some(answer), h.as_ptr()) };
    if r < 0 {
        commands().remove(cmd);
        return Err(refused(strerror(-r)));
    }
    Ok(())
}

/// Calls the command's function and writes its answer. A panic of the function is an error answer, since it must
/// not cross into C.
unsafe extern "C" fn answer(cmd: *const c_char, params: *const c_char, d: *mut sys::rte_tel_data) -> c_int {
    let text = |p: *const c_char| {
        if p.is_null() {
            return String::new();
        }
        // SAFETY: DPDK passes terminated strings.
        unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned()
    };
    let Some(f) = commands().get(&text(cmd)).copied() else { return -libc::ENOENT };
    let params = text(params);
    let Ok(values) = std::panic::catch_unwind(|| f(&params)) else { return -libc::EIO };
    // SAFETY: `d` is the answer under construction; names and texts are terminated and copied by DPDK.
    unsafe {
        sys::rte_tel_data_start_dict(d);
        for (name, v) in values {
            let Ok(name) = CString::new(name) else { continue };
            let r = match v {
                TelemetryValue::U64(n) => sys::shim_tel_data_add_dict_uint(d, name.as_ptr(), n),
                TelemetryValue::Text(t) => {
                    let Ok(t) = CString::new(t) else { continue };
                    sys::rte_tel_data_add_dict_string(d, name.as_ptr(), t.as_ptr())
                }
            };
            // Full: DPDK's dictionary has 256 entries.
            if r < 0 {
                break;
            }
        }
    }
    0
}
