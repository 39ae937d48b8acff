//! Detection of a standard output that was closed when the process was started.
//!
//! Rust's start code opens /dev/null for each of the three streams that is closed, so that no file that is opened later
//! gets its number. Nobody can tell afterwards, so it is looked at before.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};

static CLOSED: AtomicBool = AtomicBool::new(false);

extern "C" fn look() {
    // SAFETY: asks about a number, which need not be a descriptor.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    CLOSED.store(flags == -1, Ordering::Relaxed);
}

// SAFETY: the C library calls what is in this section once, before main; `look` needs nothing that is set up later.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

/// Whether standard output was closed when the process was started.
#[inline(never)]
pub fn output_was_closed() -> bool {
    // The static is linked where it is referred to.
    black_box(&LOOK);
    CLOSED.load(Ordering::Relaxed)
}
