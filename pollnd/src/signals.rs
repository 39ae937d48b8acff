//! SIGINT and SIGTERM: the first drains, the second leaves at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use transport::node::{Control, Order};

use crate::limits;

/// Watches for signals on a thread of its own.
///
/// # Errors
/// The kernel refuses the handlers, or a thread.
pub(crate) fn watch(control: Arc<Control>) -> Result<(), String> {
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|e| format!("cannot watch for signals: {}", limits::told(&e)))?;
    let watch = limits::thread("watches for signals", move || {
        for (n, _) in signals.forever().enumerate() {
            if n == 0 {
                crate::out::note("going down (once more to leave at once)");
                control.give(Order::Drain);
            } else {
                control.give(Order::Leave);
            }
        }
    });
    watch.map(drop)
}

/// Sets `told` at the first signal, for a command that ends in order by itself; the second one ends the node at once.
///
/// # Errors
/// The kernel refuses the handlers, or a thread.
pub(crate) fn tell(control: Arc<Control>, told: Arc<AtomicBool>) -> Result<(), String> {
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|e| format!("cannot watch for signals: {}", limits::told(&e)))?;
    let watch = limits::thread("watches for signals", move || {
        for _ in signals.forever() {
            if told.swap(true, Ordering::Relaxed) {
                control.give(Order::Leave);
            } else {
                crate::out::note("ending the session (once more to leave at once)");
            }
        }
    });
    watch.map(drop)
}

/// Calls `end` at the first signal, on a thread of its own; the second one does what it does by default.
///
/// # Errors
/// The kernel refuses the handlers, or a thread.
pub(crate) fn first(end: impl Fn() + Send + 'static) -> Result<(), String> {
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|e| format!("cannot watch for signals: {}", limits::told(&e)))?;
    let watch = limits::thread("watches for signals", move || {
        for (n, signal) in signals.forever().enumerate() {
            if n == 0 {
                end();
            } else {
                let _ = emulate_default_handler(signal);
            }
        }
    });
    watch.map(drop)
}
