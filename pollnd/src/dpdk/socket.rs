//! The sockets of vhost links, looked at before a driver needs them.

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use dataplane::dpdk::PortSpec;

/// Looks for the socket of a vhost link, whose absence drivers tell only in their log. One that a killed node has left
/// behind is taken away (field report 9).
pub(super) fn vhost_socket(spec: &PortSpec) -> Result<(), String> {
    let Some(s) = spec.socket() else { return Ok(()) };
    let (name, p) = (spec.port_name(), s.path.display());
    if !s.listens {
        // A vhost device that connects tries until somebody listens.
        let waits = name.starts_with("net_vhost");
        let first = format!(
            "start the other end first (a node with --vdev net_vhost0,iface={p}, a virtual switch), or correct the path"
        );
        return match s.path.metadata() {
            Err(e) if e.kind() == ErrorKind::NotFound && waits => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Err(format!("{name}: there is no vhost socket {p}: {first}"))
            }
            Err(e) => {
                Err(format!("{name} cannot reach its vhost socket {p}: {e}; correct the path, or its rights"))
            }
            Ok(m) if !m.file_type().is_socket() => Err(format!(
                "{name}: {p} is no socket but a file of another kind: give the path of the vhost socket that the other end serves"
            )),
            // It need not be disturbed to find out.
            Ok(_) if waits || listed(&s.path) => Ok(()),
            Ok(_) => match UnixStream::connect(&s.path) {
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => Err(format!(
                    "{name}: nobody listens on the vhost socket {p}, whoever made it has gone: {first}"
                )),
                Err(e) if e.kind() == ErrorKind::PermissionDenied => Err(format!(
                    "{name} may not connect to the vhost socket {p} ({e}): run as a user that may write to it"
                )),
                _ => Ok(()),
            },
        };
    }
    if let Some(d) = s.path.parent().filter(|d| !d.as_os_str().is_empty() && !d.is_dir()) {
        let d = d.display();
        return Err(format!(
            "{name} cannot make its socket {p}: the folder {d} does not exist; make it, or give another path"
        ));
    }
    let Ok(meta) = s.path.symlink_metadata() else { return Ok(()) };
    if !meta.file_type().is_socket() {
        return Err(format!(
            "{name} cannot make its socket {p}: a file of another kind is there; give another path"
        ));
    }
    let served = || {
        Err(format!(
            "{name} cannot make its socket {p}: another program serves it; stop that one, or give another path"
        ))
    };
    if listed(&s.path) {
        return served();
    }
    match UnixStream::connect(&s.path) {
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => match std::fs::remove_file(&s.path) {
            Ok(()) => {
                tracing::info!("{name}: took away the socket {p}, which nobody serves");
                Ok(())
            }
            Err(e) => Err(format!(
                "{name} cannot make its socket {p}: an old one that nobody serves is there and cannot be removed ({e}): rm {p}"
            )),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        // Too many wait for whoever listens, or it is of another type: it is served.
        _ => served(),
    }
}

/// Whether the kernel lists a listener at `path`: then it need not be disturbed to find out. One in another namespace, or
/// under another name, is not listed.
fn listed(path: &Path) -> bool {
    // Flags of a socket that listens (`__SO_ACCEPTCON`).
    const LISTENS: &str = "00010000";
    let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let path = path.to_string_lossy();
    table.lines().any(|l| {
        let w: Vec<_> = l.split_whitespace().collect();
        w.len() > 7 && w[3] == LISTENS && l.ends_with(&*path) && w[7..].join(" ") == *path
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field report 9.
    #[test]
    fn what_is_no_vhost_socket_that_is_served_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: &str| dir.path().join(n);
        std::fs::write(at("file"), "").unwrap();
        drop(std::os::unix::net::UnixListener::bind(at("old")).unwrap());
        let served = std::os::unix::net::UnixListener::bind(at("served")).unwrap();
        let ask =
            |device: &str, n: &str| vhost_socket(&format!("{device}{}", at(n).display()).parse().unwrap());
        let virtio = "net_virtio_user0,path=";
        for (n, says) in [
            ("file", "is no socket but a file of another kind"),
            ("", "is no socket but a file of another kind"),
            ("old", "nobody listens"),
            ("none", "there is no vhost socket"),
            ("file/x", "cannot reach its vhost socket"),
        ] {
            let e = ask(virtio, n).unwrap_err();
            let path = at(n).display().to_string();
            assert!(e.contains("net_virtio_user0") && e.contains(&path) && e.contains(says), "{e}");
        }
        ask(virtio, "served").unwrap();
        // Nobody has been there.
        served.set_nonblocking(true).unwrap();
        assert_eq!(served.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        for waits in ["none", "old", "served"] {
            ask("net_vhost0,client=1,iface=", waits).unwrap();
        }
        assert!(ask("net_vhost0,client=1,iface=", "file").unwrap_err().contains("is no socket"));
    }
}
