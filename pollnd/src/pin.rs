//! Which core a polling thread runs on.

/// Pins the calling thread to the `i`-th core that the process may use, counted from the last: the first one has
/// the most interrupts. With fewer cores than that the thread stays where the kernel puts it.
///
/// # Errors
/// The kernel refuses.
#[cfg(feature = "dpdk")]
pub(crate) fn core(i: usize) -> Result<(), String> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    match cores.iter().rev().nth(i) {
        Some(c) if cores.len() > 1 => match core_affinity::set_for_current(*c) {
            true => Ok(()),
            false => {
                Err(format!("cannot pin to core {}: check the cpuset of this process (taskset -p $$)", c.id))
            }
        },
        _ => Ok(()),
    }
}
