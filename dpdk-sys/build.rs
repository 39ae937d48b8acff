//! Generates the bindings from the DPDK headers that are installed, compiles the shims, links the shared libraries.
//!
//! Linking is shared so that the drivers are the system's affair: the EAL loads every driver library in DPDK's
//! plugin folder when it starts.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

/// Debian's and Ubuntu's packages for this build.
const APT: &str = "apt-get install libdpdk-dev pkg-config libclang-dev";
/// The oldest DPDK whose names are used here (`RTE_MBUF_F_*`, `RTE_ETH_*`).
const OLDEST: &str = "21.11";

fn main() {
    for f in ["build.rs", "shim/wrapper.h", "shim/shim.c"] {
        println!("cargo:rerun-if-changed={f}");
    }
    // Which DPDK pkg-config finds.
    for v in ["PKG_CONFIG", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "PKG_CONFIG_SYSROOT_DIR"] {
        println!("cargo:rerun-if-env-changed={v}");
    }
    if let Err(e) = build() {
        for line in e.lines() {
            println!("cargo:warning={line}");
        }
        eprintln!("error: {e}");
        exit(1);
    }
}

fn build() -> Result<(), String> {
    if Command::new("pkg-config").arg("--version").output().is_err() {
        return Err(format!("pkg-config is not installed, so DPDK cannot be found.\nInstall it: {APT}"));
    }
    // The shims first: a static library must come before the shared ones that it needs.
    let lib =
        pkg_config::Config::new().atleast_version(OLDEST).cargo_metadata(false).probe("libdpdk").map_err(
            |e| format!("DPDK {OLDEST} or newer is not installed.\nInstall it: {APT}\npkg-config says: {e}"),
        )?;
    let cflags = cflags()?;
    check_libclang()?;

    let mut cc = cc::Build::new();
    cc.file("shim/shim.c").include("shim");
    for f in &cflags {
        cc.flag(f);
    }
    // DPDK's own headers are not ours to warn about.
    cc.warnings(false);
    cc.try_compile("pollnd_dpdk_shim").map_err(|e| {
        format!("the C shims do not compile: {e}\nIs a C compiler there? apt-get install gcc")
    })?;

    for dir in &lib.link_paths {
        println!("cargo:rustc-link-search=native={}", dir.display());
    }
    // Everything that the package names; the linker keeps what is used (--as-needed is rustc's default).
    for l in lib.libs.iter().filter(|l| l.starts_with("rte_")) {
        println!("cargo:rustc-link-lib=dylib={l}");
    }
    bindings(&cflags)?;
    println!("cargo:version={}", lib.version);
    Ok(())
}

/// The compiler flags, whole: `-include rte_config.h` and `-march` matter and the pkg-config crate drops them.
fn cflags() -> Result<Vec<String>, String> {
    let out = Command::new("pkg-config").args(["--cflags", "libdpdk"]).output().map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&out.stdout).split_whitespace().map(str::to_owned).collect())
}

/// bindgen panics when libclang is missing; this says what to install instead.
fn check_libclang() -> Result<(), String> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = std::panic::catch_unwind(bindgen::clang_version);
    std::panic::set_hook(hook);
    found.map(|_| ()).map_err(|_| {
        format!("libclang is not installed, so DPDK's headers cannot be read.\nInstall it: {APT}")
    })
}

fn bindings(cflags: &[String]) -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let functions = [
        "shim_.*",
        "rte_eal_(init|cleanup|hotplug_add|hotplug_remove|process_type|has_hugepages|iova_mode|get_runtime_dir)",
        "rte_dev_(probe|remove)",
        "rte_(strerror|version)",
        "rte_log_(register|get_level|set_level)",
        "rte_openlog_stream",
        "rte_(malloc_socket|zmalloc_socket|free|malloc_virt2iova|malloc_get_socket_stats)",
        "rte_mem_virt2iova",
        "rte_memzone_(reserve|reserve_aligned|free|lookup)",
        "rte_mempool_(avail_count|in_use_count|free|obj_iter)",
        "rte_pktmbuf_pool_create(_by_ops)?",
        "rte_(thread_register|thread_unregister|get_main_lcore|get_next_lcore|lcore_count|socket_id|lcore_to_socket_id)",
        "rte_(socket_count|socket_id_by_idx)",
        "rte_eal_(remote_launch|wait_lcore|mp_wait_lcore)",
        "rte_eth_dev_(configure|start|stop|close|reset|info_get|get_port_by_name|get_name_by_port|set_mtu|get_mtu|set_link_up|set_link_down|socket_id|is_valid_port|count_avail|adjust_nb_rx_tx_desc|set_vlan_offload|rx_intr_ctl_q|rx_intr_enable|rx_intr_disable|rss_reta_query|rss_reta_update|tx_queue_stop|tx_queue_start|rx_queue_stop|rx_queue_start|callback_register|callback_unregister)",
        "rte_eth_(find_next|macaddr_get|stats_get|stats_reset|promiscuous_enable|promiscuous_get|allmulticast_enable|tx_done_cleanup|tx_queue_setup|rx_queue_setup|from_rings|iterator_init|iterator_next|iterator_cleanup)",
        "rte_epoll_wait",
        "rte_(telemetry_register_cmd|tel_data_(start_dict|add_dict_string))",
    ];
    let types = ["shim_.*", "rte_eth_(conf|rxconf|txconf|dev_info|stats|rss_reta_entry64)"];
    let vars = [
        "SHIM_.*",
        "RTE_MAX_LCORE",
        "RTE_MAX_ETHPORTS",
        "RTE_MEMZONE_IOVA_CONTIG",
        "RTE_MEMPOOL_CACHE_MAX_SIZE",
        "RTE_ETH_MQ_.*",
        "RTE_(EPOLL_PER_THREAD|INTR_EVENT_ADD|INTR_EVENT_DEL)",
        "SOCKET_ID_ANY",
    ];
    let mut b = bindgen::Builder::default()
        .header("shim/wrapper.h")
        .clang_args(cflags)
        .clang_arg("-Ishim")
        .generate_comments(false)
        .layout_tests(true)
        .derive_default(true)
        .prepend_enum_name(false)
        .size_t_is_usize(true)
        .merge_extern_blocks(true)
        // Both packed and aligned, or packed around an aligned member: Rust cannot say that.
        .opaque_type("rte_arp_ipv4|rte_arp_hdr|rte_l2tpv2_.*|rte_gtp_psc_generic_hdr")
        // Not used, and their bodies drag half of DPDK in.
        .opaque_type("rte_mbuf|rte_mempool|rte_memzone|rte_device|rte_bus|rte_devargs|rte_pci_.*|eth_dev_ops|rte_flow_.*")
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()));
    for f in functions {
        b = b.allowlist_function(f);
    }
    for t in types {
        b = b.allowlist_type(t);
    }
    for v in vars {
        b = b.allowlist_var(v);
    }
    let bindings = b
        .generate()
        .map_err(|e| format!("DPDK's headers cannot be read: {e}\nInstall what they need: {APT}"))?;
    bindings.write_to_file(out.join("bindings.rs")).map_err(|e| e.to_string())
}
