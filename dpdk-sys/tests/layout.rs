//! What pollnd relies on in DPDK's structures and constants, beyond what bindgen's own layout checks say.

use std::mem::{align_of, offset_of, size_of};

use dpdk_sys::*;

// The headers' own offsets and sizes are compared with these at compile time (shim/shim.c).
#[test]
fn an_mbuf_has_two_cache_lines_and_the_fields_where_the_drivers_write_them() {
    assert_eq!(size_of::<shim_mbuf>(), 128);
    assert_eq!(align_of::<shim_mbuf>(), 64);
    assert_eq!(offset_of!(shim_mbuf, buf_addr), 0);
    assert_eq!(offset_of!(shim_mbuf, data_off), 16);
    assert_eq!(offset_of!(shim_mbuf, nb_segs), 20);
    assert_eq!(offset_of!(shim_mbuf, ol_flags), 24);
    assert_eq!(offset_of!(shim_mbuf, rss), 44);
    assert_eq!(offset_of!(shim_mbuf, tx_offload), 72);
}

#[test]
fn shared_info_is_callback_argument_and_a_16_bit_count() {
    assert_eq!(offset_of!(shim_shared_info, free_cb), 0);
    assert_eq!(offset_of!(shim_shared_info, fcb_opaque), size_of::<usize>());
    assert_eq!(offset_of!(shim_shared_info, refcnt), 2 * size_of::<usize>());
    assert_eq!(size_of::<shim_shared_info>(), 3 * size_of::<usize>());
}

#[test]
fn the_shims_count_as_dpdk_does() {
    let mut s = shim_shared_info::default();
    // SAFETY: `s` is a valid shared info that nobody else sees.
    unsafe {
        shim_mbuf_ext_refcnt_set(&mut s, 1);
        assert_eq!(shim_mbuf_ext_refcnt_update(&mut s, 2), 3);
        assert_eq!(shim_mbuf_ext_refcnt_read(&s), 3);
    }
    assert_eq!(s.refcnt, 3);
}

#[test]
fn the_library_that_runs_is_of_the_version_that_was_compiled_against() {
    // SAFETY: returns a static string, with or without an initialised EAL.
    let v = unsafe { std::ffi::CStr::from_ptr(rte_version()) };
    assert!(v.to_string_lossy().starts_with("DPDK "), "{v:?}");
    // SAFETY: reads thread-local state that exists without the EAL.
    assert_eq!(unsafe { shim_lcore_id() }, SHIM_LCORE_ID_ANY);
    assert_eq!(SHIM_BAD_IOVA, u64::MAX);
    assert_eq!(SHIM_MBUF_F_TX_TCP_SEG, 1 << 50);
}
