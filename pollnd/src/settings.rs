//! A node's configuration: the defaults, then files, then the command line.

use std::fs;
use std::path::{Path, PathBuf};

use bench::sock::epoch;
use transport::lnd::tunables;
use transport::lnd::{Accept, Config, TcpKind};

use crate::args::tuned::Tuned;
use crate::args::{AcceptArg, NodeArgs};
use crate::{file, limits};

/// Tunables that the command line sets, and the options by which it does.
pub(crate) fn given(a: &NodeArgs) -> Vec<(String, Tuned)> {
    let accept = a.accept.map(|a| {
        let word = match a {
            AcceptArg::Secure => "secure",
            AcceptArg::All => "all",
            AcceptArg::Trust => "trust",
            AcceptArg::None => "none",
        };
        Tuned { name: "accept", value: word.into() }
    });
    let short = [
        ("--accept", accept),
        ("--accept-port", a.accept_port.clone()),
        ("--peer-credits", a.peer_credits.clone()),
        ("--zc-min-payload", a.zc_min_payload.clone()),
        ("--keepalive", a.keepalive.clone()),
    ];
    let mut all: Vec<_> =
        short.into_iter().filter_map(|(flag, t)| t.map(|t| (format!("{flag} {}", t.value), t))).collect();
    if a.routing {
        all.push(("--routing".into(), Tuned { name: "forwarding", value: "enabled".into() }));
    }
    if a.cut_through {
        all.push(("--cut-through".into(), Tuned { name: "cut_through", value: "1".into() }));
    }
    all.extend(a.tunable.iter().map(|t| (format!("--tunable {}={}", t.name, t.value), t.clone())));
    all
}

/// The text of a file of options.
fn text(path: &Path) -> Result<String, String> {
    let folder = if path.is_file() { "" } else { ", or a folder of them" };
    let wanted = format!("a file in the syntax of modprobe.d{folder}");
    let bytes = file::bytes(&format!("--options {}", path.display()), path, &wanted)?;
    // Comments may be in another encoding.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The files behind a value of `--options`.
fn files(path: &Path) -> Result<Vec<PathBuf>, String> {
    let fail = |e| format!("--options {}: {e}", path.display());
    if !fs::metadata(path).map_err(fail)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).map_err(fail)?.collect::<Result<Vec<_>, _>>().map_err(fail)?;
    let mut all: Vec<PathBuf> = entries.into_iter().map(|e| e.path()).collect();
    all.retain(|p| p.extension().is_some_and(|x| x == "conf") && !p.is_dir());
    all.sort_unstable();
    Ok(all)
}

/// Whether the files of `--options`, and those that a configuration names, can be read, and have no fault in themselves.
///
/// # Errors
/// The first that cannot, or its fault.
pub(crate) fn files_are_good(a: &NodeArgs) -> Result<(), String> {
    let mut c = Config::new(a.nid, 0);
    a.filed.options.iter().chain(&a.options).try_for_each(|path| from_files(&mut c, path, &mut Vec::new()))
}

/// Messages that a node of `a` may have in flight to a peer.
///
/// # Errors
/// As [`config`].
pub(crate) fn peer_credits(a: &NodeArgs) -> Result<u32, String> {
    let mut c = read(a, TcpKind::Sockets, true)?.0;
    tunables::settle(&mut c);
    Ok(c.peer_credits)
}

/// Configuration of a node by `a`, over TCP of this kind, whose process may dial from reserved ports or not; `mbps` is the
/// speed of its link, as far as it is known.
///
/// # Errors
/// Faults of a file, or settings that do not go together, by name.
pub(crate) fn config(
    a: &NodeArgs,
    kind: TcpKind,
    may_privileged: bool,
    mbps: Option<u32>,
) -> Result<Config, String> {
    let (mut c, mut said) = read(a, kind, may_privileged)?;
    c.link_mbps = mbps;
    c.budget = a.budget.map_or_else(|| limits::budget(a.lcores), |mib| u64::from(mib) << 20);
    said.extend(tunables::settle(&mut c));
    for s in said {
        tracing::warn!("{s}");
    }
    Ok(c)
}

/// Takes the tunables of the files behind a value of `--options`.
///
/// # Errors
/// One that cannot be read, or its fault.
pub(crate) fn from_files(c: &mut Config, path: &Path, said: &mut Vec<String>) -> Result<(), String> {
    for file in files(path)? {
        let name = file.display();
        let notices = tunables::from_modprobe(c, &text(&file)?).map_err(|e| format!("{name}: {e}"))?;
        said.extend(notices.iter().map(|n| format!("{name}: {n}")));
    }
    Ok(())
}

/// Defaults, files and command line; and what is to be said of them.
fn read(a: &NodeArgs, kind: TcpKind, may_privileged: bool) -> Result<(Config, Vec<String>), String> {
    let mut said = Vec::new();
    let mut c = a.ni.iter().fold(Config::new(a.nid, epoch()), |c, ni| c.also(*ni));
    c.routes.clone_from(&a.route);
    c.peers.clone_from(&a.peer_nids);
    for ni in &mut c.nis {
        ni.credits = a.filed.credits.iter().find(|own| own.0 == ni.nid).map(|own| own.1);
    }
    c.strangers = crate::member::strangers();
    (c.tcp_kind, c.privileged) = (kind, may_privileged);
    if !may_privileged {
        c.accept = Accept::Trust;
    }
    for path in &a.filed.options {
        from_files(&mut c, path, &mut said)?;
    }
    for (t, at) in &a.filed.tunables {
        tunables::set(&mut c, t.name, &t.value).map_err(|e| format!("{at}: {e}"))?;
    }
    let filed = c.clone();
    for path in &a.options {
        from_files(&mut c, path, &mut said)?;
    }
    for (t, at) in &a.filed.tunables {
        if let Ok(tunable) = tunables::find(t.name)
            && tunable.value(&filed) != tunable.value(&c)
        {
            said.push(format!("{}={} of --options wins over {at}", t.name, tunable.value(&c)));
        }
    }
    let given = given(a);
    for (i, (how, t)) in given.iter().enumerate() {
        if let Some((before, _)) = given[..i].iter().find(|(_, x)| x.name == t.name) {
            return Err(format!("{before} and {how}: both set {}; leave one of them out", t.name));
        }
        tunables::set(&mut c, t.name, &t.value).map_err(|e| e.to_string())?;
    }
    if a.accept_port.is_some() && !given.iter().any(|(_, t)| t.name == "accept_port_bulk") {
        c.port_bulk = None;
    }
    tunables::check(&c).map_err(|e| e.to_string())?;
    Ok((c, said))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    use crate::args::{Cli, Command};

    fn node(args: &[&str]) -> Result<Config, String> {
        let c = Cli::try_parse_from([&["pollnd", "node", "--nid", "10.0.0.1@tcp"], args].concat());
        let Command::Node(n) = c.map_err(|e| e.to_string())?.command else { panic!("not node") };
        config(&n.node, TcpKind::Sockets, true, None)
    }

    #[test]
    fn the_command_line_wins_over_files_and_later_files_over_earlier_ones() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let p = dir.path().join(name);
            fs::write(&p, text).unwrap();
            p.display().to_string()
        };
        put("20-more.conf", "options ksocklnd peer_credits=32\noptions lnet accept_port=5000");
        put(
            "10-site.conf",
            "options ksocklnd credits=512 peer_credits=16 keepalive=7\noptions lnet accept=all",
        );
        put("notes.txt", "options ksocklnd nonsense");
        let late = put("late", "options ksocklnd credits=1024");
        let folder = dir.path().display().to_string();
        let c = node(&["--options", &folder, "--options", &late, "--keepalive", "9"]).unwrap();
        assert_eq!((c.ni_credits, c.peer_credits, c.keepalive / 1_000_000_000), (1024, 32, 9));
        assert_eq!((c.accept, c.port, c.bulk_port()), (Accept::All, 5000, 988));
        let c = node(&["--options", &folder, "--accept-port", "6000", "--tunable", "accept=none"]).unwrap();
        assert_eq!((c.accept, c.port, c.bulk_port()), (Accept::None, 6000, 6000));
        let c = node(&["--accept-port", "6000", "--tunable", "accept_port_bulk=6001"]).unwrap();
        assert_eq!((c.port, c.bulk_port()), (6000, 6001));
        let bad = put("30-bad.conf", "\noptions ksocklnd tos=999");
        assert_eq!(
            node(&["--options", &folder]).unwrap_err(),
            format!("{bad}: line 2: tos=999: it takes -1 to 255 (byte)")
        );
        assert!(node(&["--options", "/no/such.conf"]).unwrap_err().starts_with("--options /no/such.conf: "));
    }

    /// Field report 12: a file that never ends, or is none, is refused and not waited for.
    #[test]
    fn what_is_no_file_of_options_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: &str| dir.path().join(n).display().to_string();
        assert_eq!(
            node(&["--options", "/dev/zero"]).unwrap_err(),
            "--options /dev/zero: it is no regular file; give a file in the syntax of modprobe.d, or a folder of them"
        );
        let fifo = at("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        assert!(node(&["--options", &fifo]).unwrap_err().contains("no regular file"));
        let long = at("long");
        fs::File::create(&long).unwrap().set_len(1 << 40).unwrap();
        assert!(node(&["--options", &long]).unwrap_err().contains("more than 1048576 bytes"));
        // A regular file that waits for the kernel to say something; whoever may not read it is told so.
        assert!(node(&["--options", "/proc/kmsg"]).unwrap_err().starts_with("--options /proc/kmsg: "));
        // A folder as sites have it: one file switched off, a folder in it, a comment in another encoding.
        let site = dir.path().join("site");
        fs::create_dir_all(site.join("old.conf")).unwrap();
        std::os::unix::fs::symlink("/dev/null", site.join("10-off.conf")).unwrap();
        fs::write(site.join("20-on.conf"), b"# gr\xfcn\noptions ksocklnd credits=300\n").unwrap();
        assert_eq!(node(&["--options", &site.display().to_string()]).unwrap().ni_credits, 300);
        assert_eq!(node(&["--options", "/dev/null"]).unwrap().ni_credits, 256);
        fs::write(site.join("30-bad.conf"), "\noptons ksocklnd credits=1\n").unwrap();
        let e = node(&["--options", &site.display().to_string()]).unwrap_err();
        assert!(e.contains("30-bad.conf: line 2: \"optons\" is no command of modprobe.d"), "{e}");
    }

    /// Field report 12: each thing passed over is told, with its file and line.
    #[test]
    fn what_is_passed_over_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lustre.conf");
        fs::write(&file, "options lnet lock_prim_nid=1\noptions ksocklnd nscheds=6 min_reconnectms=500\n")
            .unwrap();
        let name = file.display().to_string();
        let c = Cli::try_parse_from(["pollnd", "node", "--nid", "10.0.0.1", "--options", &name]).unwrap();
        let Command::Node(n) = c.command else { panic!("not node") };
        let (_, said) = read(&n.node, TcpKind::Sockets, true).unwrap();
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[1].starts_with(&format!("{name}: line 2: nscheds=6 is passed over: ")), "{said:?}");
    }

    #[test]
    fn two_ways_of_saying_the_same_are_named() {
        assert_eq!(
            node(&["--peer-credits", "16", "--tunable", "peer_credits=8"]).unwrap_err(),
            "--peer-credits 16 and --tunable peer_credits=8: both set peer_credits; leave one of them out"
        );
        assert_eq!(
            node(&["--tunable", "tos=8", "--tunable", "tos=16"]).unwrap_err(),
            "--tunable tos=8 and --tunable tos=16: both set tos; leave one of them out"
        );
        let e = node(&["--tunable", "lnet_retry_count=150"]).unwrap_err();
        assert!(e.contains("lnet_transaction_timeout=150 and lnet_retry_count=150"), "{e}");
    }

    #[test]
    fn what_only_sockets_have_is_refused_over_a_port() {
        let c = Cli::try_parse_from(["pollnd", "node", "--nid", "1.2.3.4", "--tunable", "nagle=1"]).unwrap();
        let Command::Node(n) = c.command else { panic!("not node") };
        assert!(config(&n.node, TcpKind::Sockets, true, None).unwrap().tcp.nagle);
        let e = config(&n.node, TcpKind::Port, true, None).unwrap_err();
        assert!(e.starts_with("nagle=1: here it is always 0"), "{e}");
    }

    #[test]
    fn more_credits_for_a_peer_than_there_are_is_as_many_as_there_are() {
        let c = node(&["--peer-credits", "300"]).unwrap();
        assert_eq!((c.peer_credits, c.ni_credits), (256, 256));
    }
}
