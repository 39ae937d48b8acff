//! An EAL that cannot start says why and what to do.

#![cfg(feature = "dpdk")]

use dataplane::dpdk::{Eal, EalConfig, EalError, Huge};

#[test]
fn the_cause_the_arguments_and_the_log_are_in_the_error() {
    let start = |huge, mem_mb, raw: &[&str]| {
        let raw = raw.iter().map(|s| (*s).to_owned()).collect();
        Eal::start(&EalConfig { huge, mem_mb, no_pci: true, raw, ..EalConfig::default() }).unwrap_err()
    };
    // These are found before DPDK is asked, so that the process can still start one that works.
    assert!(matches!(start(Huge::Off, 64, &["--proc-type=secondary"]), EalError::Secondary(_)));
    let e = start(Huge::On, 1 << 30, &[]);
    assert!(matches!(e, EalError::HugeShort { want_mb: 0x4000_0000, .. }), "{e}");
    assert!(e.to_string().contains("nr_hugepages"));

    let e = start(Huge::Off, 64, &["--vdev", "net_nosuch0"]);
    let text = e.to_string();
    assert!(matches!(e, EalError::Init { .. }), "{text}");
    for want in ["net_nosuch0", "--no-huge", "arguments:", "log below"] {
        assert!(text.contains(want), "{want}: {text}");
    }
    assert!(matches!(start(Huge::Off, 64, &[]), EalError::AlreadyStarted));
}
