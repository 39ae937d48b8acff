//! SIGINT and SIGTERM: the first drains, the second leaves at once.

use std::sync::Arc;

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
