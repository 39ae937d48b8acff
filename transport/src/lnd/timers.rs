//! Timers of entries, and how late a second look may be.

use super::config::SEC;
pub(crate) use crate::stream::timers::Timers;

/// Until something is looked at again that another's deadline should have ended, in ns: the kernel's reaper ticks as
/// often.
pub(crate) const LOOK_AGAIN: u64 = SEC;
