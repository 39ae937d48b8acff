//! The header is what cbindgen makes of the sources, C and C++ compile it, and C programs run with both libraries: those
//! that cargo has built beside this program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pollnd::error::{Error, guard};

const HERE: &str = env!("CARGO_MANIFEST_DIR");
const SONAME: &str = concat!("libpollnd.so.", env!("CARGO_PKG_VERSION_MAJOR"));
const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

fn here(file: &str) -> PathBuf {
    Path::new(HERE).join(file)
}

/// A compiler by the variable that names it, or as the system has it.
fn compiler(variable: &str, usual: &str) -> Command {
    Command::new(std::env::var_os(variable).unwrap_or_else(|| usual.into()))
}

fn ran(mut c: Command) -> Output {
    ran_with(&mut c)
}

fn ran_with(c: &mut Command) -> Output {
    let out = c.output().unwrap_or_else(|e| panic!("{c:?}: {e}"));
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    assert!(out.status.success(), "{c:?}: {}\n{}{}", out.status, text(&out.stdout), text(&out.stderr));
    out
}

/// `POLLND_HEADER=write cargo test -p pollnd-capi header` writes it.
#[test]
fn the_header_is_what_cbindgen_makes() {
    let config = cbindgen::Config::from_file(here("cbindgen.toml")).unwrap();
    let made = cbindgen::Builder::new().with_config(config).with_crate(HERE).generate().unwrap();
    let mut text = Vec::new();
    made.write(&mut text);
    let (text, file) = (String::from_utf8(text).unwrap(), here("include/pollnd.h"));
    if std::env::var_os("POLLND_HEADER").is_some_and(|v| v == "write") {
        std::fs::write(&file, &text).unwrap();
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        there == text,
        "include/pollnd.h is not what the sources make: POLLND_HEADER=write cargo test -p pollnd-capi header"
    );
}

/// Nothing that the sources export is missing in the header.
#[test]
fn the_header_has_each_function() {
    let header = std::fs::read_to_string(here("include/pollnd.h")).unwrap();
    let mut found = 0;
    for file in ["src/abi/lnet.rs", "src/abi/contract.rs", "src/abi/provisions.rs"] {
        let text = std::fs::read_to_string(here(file)).unwrap();
        for name in
            text.lines().filter_map(|l| l.split_once("extern \"C\" fn ")?.1.split_once('(')).map(|n| n.0)
        {
            assert!(header.contains(&format!("{name}(")), "{name} is not in the header");
            found += 1;
        }
    }
    assert!(found > 30, "this test sees {found} functions");
}

#[test]
fn the_header_is_c_and_cpp_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    for (variable, usual, file, standard) in [
        ("CC", "cc", "x.c", "-std=c99"),
        ("CC", "cc", "y.c", "-std=c11"),
        ("CXX", "c++", "z.cpp", "-std=c++11"),
    ] {
        let file = dir.path().join(file);
        std::fs::write(&file, "#include \"pollnd.h\"\n#include \"pollnd.h\"\nint main(void) { return pollnd_version() == 0; }\n").unwrap();
        let mut c = compiler(variable, usual);
        c.args(WARNINGS).args([standard, "-fsyntax-only", "-I"]).arg(here("include")).arg(&file);
        if usual == "c++" && c.output().is_err() {
            println!("SKIP: the_header_is_c_and_cpp_by_itself: no C++ compiler (apt-get install g++)");
            continue;
        }
        ran(c);
    }
}

/// Folder of the libraries that were built with this program.
fn built() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.parent().unwrap().to_owned()
}

/// Libraries that the static one needs, as the .pc file tells them.
fn private_libs() -> Vec<String> {
    let pc = std::fs::read_to_string(here("pollnd-static.pc.in")).unwrap();
    let all = pc.lines().find_map(|l| l.strip_prefix("Libs: -L${libdir} -l:libpollnd.a")).unwrap();
    let mut dpdk = String::new();
    if cfg!(feature = "dpdk") {
        let mut c = Command::new("pkg-config");
        c.args(["--libs", "libdpdk"]);
        dpdk = String::from_utf8_lossy(&ran(c).stdout).into_owned();
    }
    all.replace("@DPDK@", &dpdk).split_whitespace().map(str::to_owned).collect()
}

/// Compiles a program against one of the libraries.
fn compiled(source: &str, library: &str, to: &Path) -> PathBuf {
    let program = to.join(library.replace('.', "-"));
    let mut c = compiler("CC", "cc");
    c.args(WARNINGS).args(["-std=c11", "-O1", "-D_GNU_SOURCE", "-I"]).arg(here("include")).arg(here(source));
    c.arg(built().join(library)).arg(format!("-Wl,-rpath,{}", to.display()));
    // By its soname, as an installed one is found.
    let _ = std::os::unix::fs::symlink(built().join("libpollnd.so"), to.join(SONAME));
    if library.ends_with(".a") {
        c.arg("-Wl,--gc-sections").args(private_libs());
    }
    c.arg("-o").arg(&program);
    ran(c);
    program
}

fn says_done(program: &Path, args: &[&str]) {
    let mut c = Command::new(program);
    c.args(args);
    let out = ran(c);
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.ends_with("done\n"), "{text}");
}

#[test]
fn two_nodes_in_a_c_program_exchange_their_bytes_with_the_shared_and_the_static_library() {
    let dir = tempfile::tempdir().unwrap();
    for library in ["libpollnd.so", "libpollnd.a"] {
        says_done(&compiled("examples/hello_pollnd.c", library, dir.path()), &[]);
    }
}

/// Motr's net contract over both transports.
#[test]
fn two_nodes_in_a_c_program_exchange_messages_and_bulk_by_the_net_contract() {
    let dir = tempfile::tempdir().unwrap();
    says_done(&compiled("examples/motr_net.c", "libpollnd.so", dir.path()), &[]);
}

#[test]
#[cfg(feature = "dpdk")]
fn the_same_over_a_virtio_link() {
    for program in ["examples/hello_pollnd.c", "examples/motr_net.c"] {
        let dir = tempfile::tempdir().unwrap();
        let program = compiled(program, "libpollnd.so", dir.path());
        says_done(&program, &[dir.path().to_str().unwrap(), "--no-telemetry"]);
    }
}

#[test]
fn bad_arguments_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    says_done(&compiled("tests/refusals.c", "libpollnd.so", dir.path()), &[]);
}

/// An installed library, found with pkg-config, shared and static. The folder it is installed below is not the one where it
/// is to be.
#[test]
fn programs_find_the_installed_library_with_pkg_config() {
    let dir = tempfile::tempdir().unwrap();
    let mut c = Command::new(here("../scripts/install-capi"));
    ran_with(c.arg(dir.path()).arg("/opt/pollnd").env("BUILT", built()));
    let root = dir.path().join("opt/pollnd");
    let lib = root.join("lib");
    for (link, to) in
        [("libpollnd.so", SONAME), (SONAME, concat!("libpollnd.so.", env!("CARGO_PKG_VERSION")))]
    {
        assert_eq!(std::fs::read_link(lib.join(link)).unwrap(), Path::new(to), "{link}");
    }
    let source = dir.path().join("program.c");
    let program = "#include <stdio.h>
        #include \"pollnd.h\"
        int main(void) {
            struct pollnd_options o = { .size = sizeof o, .nids = \"127.0.74.1@tcp\", .flags = POLLND_UNPRIVILEGED, .port = 20988 };
            struct pollnd_node *node;
            if (pollnd_node_start(&o, &node)) { puts(pollnd_error()); return 1; }
            pollnd_node_free(node);
            puts(pollnd_version());
            return 0;
        }";
    std::fs::write(&source, program).unwrap();
    for package in ["pollnd", "pollnd-static"] {
        let mut c = Command::new("pkg-config");
        c.env("PKG_CONFIG_PATH", lib.join("pkgconfig")).env("PKG_CONFIG_SYSROOT_DIR", dir.path());
        let flags = ran_with(c.args(["--cflags", "--libs", package]));
        let out = dir.path().join(package);
        let mut c = compiler("CC", "cc");
        c.args(WARNINGS).args(["-std=c11", "-o"]).arg(&out).arg(&source).arg("-Wl,--gc-sections");
        ran_with(c.args(String::from_utf8(flags.stdout).unwrap().split_whitespace()));
        let mut c = Command::new(&out);
        // The static one needs no library of pollnd's to run; the other one does.
        if package == "pollnd" {
            assert!(!c.output().unwrap().status.success(), "it is not shared");
            c.env("LD_LIBRARY_PATH", &lib);
        }
        let said = String::from_utf8(ran_with(&mut c).stdout).unwrap();
        assert_eq!(said.trim(), env!("CARGO_PKG_VERSION"), "{package}");
    }
}

#[test]
fn a_panic_does_not_leave_the_library() {
    assert_eq!(guard(|| Ok(7)), 7);
    assert_eq!(guard(|| Err(Error::new(libc::EBUSY, "x"))), -libc::EBUSY);
    for panics in [|| panic!("seven"), || panic!("{}", "se".to_owned() + "ven")] {
        assert_eq!(guard(panics), -libc::ENOTRECOVERABLE);
        let text = pollnd::abi::error_text();
        assert!(text.contains("seven") && text.contains("a bug of pollnd"), "{text}");
    }
    // Another thread's text is its own.
    assert_eq!(std::thread::spawn(pollnd::abi::error_text).join().unwrap(), "");
}
