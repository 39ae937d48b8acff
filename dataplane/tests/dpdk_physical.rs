//! Where devices use physical addresses, every run is contiguous for them.

#![cfg(feature = "dpdk")]

mod dpdk;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use dataplane::dpdk::{Eal, EalBacking, EalConfig, Huge};
use hugepages::{BAD_IOVA, Backing, PageRunMut};

/// Whether the kernel shows physical addresses (CAP_SYS_ADMIN), which physical mode takes; see proc_pid_pagemap(5).
fn physical_addresses() -> bool {
    let here = 1u8;
    let Ok(f) = File::open("/proc/self/pagemap") else { return false };
    let mut word = [0; 8];
    let at = (&raw const here) as u64 / 4096 * 8;
    f.read_exact_at(&mut word, at).is_ok() && u64::from_ne_bytes(word) & ((1 << 55) - 1) != 0
}

#[test]
fn runs_are_contiguous_for_the_device_or_refused() {
    let reserved = hugepages::pool::reserve(std::path::Path::new("/"), 2 << 20, 32).is_ok();
    let physical = reserved && physical_addresses();
    let mode = if physical { "pa" } else { "va" };
    let huge = if physical { Huge::On } else { Huge::Off };
    let raw = vec!["--iova-mode".to_owned(), mode.to_owned()];
    let eal = Eal::start(&EalConfig { huge, mem_mb: 64, no_pci: true, raw, ..EalConfig::default() })
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(eal.iova_is_va(), !physical);
    let backing = Arc::new(EalBacking::new(&eal, -1));
    for len in [1, 4096, 65_536, 1 << 20] {
        let r = PageRunMut::new(backing.clone(), len).unwrap();
        assert!(r.bytes().iter().all(|b| *b == 0), "what an earlier user left is not shown");
        let r = r.freeze();
        assert_ne!(r.iova(), BAD_IOVA);
        assert_eq!((r.contig(), r.addr() as usize % 4096, r.len()), (0, 0, len));
        let virt = r.addr() as u64;
        assert_eq!(r.iova() == virt, !physical, "a physical address is not the virtual one");
    }
    // Longer than anything contiguous that 64 MiB can have: refused, not handed out in pieces.
    let e = backing.alloc(1 << 30).unwrap_err().to_string();
    assert!(e.contains("1073741824") && e.contains("more memory"), "{e}");
    drop(backing);
    eal.cleanup().unwrap();
}
