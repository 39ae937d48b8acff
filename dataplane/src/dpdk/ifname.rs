//! Names of the kernel's interfaces, which each network namespace has of its own.

use std::ffi::{CStr, CString};

/// Name of an interface of this network namespace.
pub(super) fn of(index: u32) -> Option<CString> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: a place for the longest name.
    let known = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    if known.is_null() { None } else { CStr::from_bytes_until_nul(&name).ok().map(CStr::to_owned) }
}

/// Whether no interface of this network namespace has the name.
pub(super) fn is_elsewhere(name: &CStr) -> bool {
    // SAFETY: a terminated name.
    unsafe { libc::if_nametoindex(name.as_ptr()) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_here_and_no_interface_is_number_0() {
        let lo = of(1).unwrap();
        assert!(!is_elsewhere(&lo), "{lo:?}");
        assert!(of(0).is_none() && is_elsewhere(c"no-such-0"));
    }
}
