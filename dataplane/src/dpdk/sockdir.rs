//! Devices whose socket lies deep in the file system.
//!
//! The argument of a virtual device has at most 127 bytes (the EAL's request to plug one in, in DPDK 24.11.8 and later;
//! older ones cut what they pass on), a socket's path 107. So a long path is named by its folder's descriptor,
//! `/proc/self/fd/N/FILE`, which stays short wherever the folder is (field report 7).

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::port_config::PortError;
use super::spec::PortSpec;

/// Bytes that the EAL has for a device to be plugged in, `vdev:` and the name included.
pub(crate) const ARGUMENT_MAX: usize = 127;
/// Bytes of a Unix socket's path (`sun_path` has 108 with the terminator).
pub(crate) const SOCKET_PATH_MAX: usize = 107;

/// The device as the EAL is told of it, in bytes.
fn whole(name: &str, args: &str) -> usize {
    "vdev:".len() + name.len() + usize::from(!args.is_empty()) + args.len()
}

/// `path` by way of its folder's descriptor, which has to stay open for as long as the name is used.
pub(crate) fn short(path: &Path) -> std::io::Result<(String, OwnedFd)> {
    let folder = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?;
    let open = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(folder)?;
    Ok((format!("/proc/self/fd/{}/{}", open.as_raw_fd(), file.to_string_lossy()), open.into()))
}

/// The device with a path that fits, and what keeps the path good.
pub(crate) fn shortened(spec: &PortSpec) -> Result<(PortSpec, Option<OwnedFd>), PortError> {
    let PortSpec::Vdev { name, args } = spec else { return Ok((spec.clone(), None)) };
    let socket = spec.socket();
    let fits = |args: &str, path: usize| whole(name, args) <= ARGUMENT_MAX && path <= SOCKET_PATH_MAX;
    let path_len = |s: &Option<super::spec::VhostSocket>| s.as_ref().map_or(0, |s| s.path.as_os_str().len());
    if fits(args, path_len(&socket)) {
        return Ok((spec.clone(), None));
    }
    let refuse = |len| PortError::Arguments { port: name.clone(), len, max: ARGUMENT_MAX };
    let Some(s) = socket else { return Err(refuse(whole(name, args))) };
    // A folder that is not there is told of by who looks for the socket.
    let Ok((path, folder)) = short(&s.path) else { return Err(refuse(whole(name, args))) };
    let args: Vec<String> = args
        .split(',')
        .map(|a| if a.starts_with(s.key) { format!("{}{path}", s.key) } else { a.into() })
        .collect();
    let args = args.join(",");
    if !fits(&args, path.len()) {
        return Err(refuse(whole(name, &args)));
    }
    Ok((PortSpec::Vdev { name: name.clone(), args }, Some(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_7_a_long_path_is_named_by_its_folder_and_the_rest_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        for (device, key) in [("net_virtio_user0", "path="), ("net_vhost0", "iface=")] {
            let spec: PortSpec = format!("{device},{key}{}/v.sock,queues=1", deep.display()).parse().unwrap();
            let (short, folder) = shortened(&spec).unwrap();
            let PortSpec::Vdev { name, args } = short else { panic!("{short:?}") };
            let path = args.strip_prefix(key).and_then(|a| a.strip_suffix(",queues=1")).unwrap();
            assert!(
                path.starts_with("/proc/self/fd/") && path.ends_with("/v.sock") && name == device,
                "{args}"
            );
            // The short name is the long one's file.
            let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
            assert!(deep.join("v.sock").exists());
            std::fs::remove_file(deep.join("v.sock")).unwrap();
            drop((listener, folder));
        }
        let brief: PortSpec = "net_tap0,iface=x".parse().unwrap();
        assert_eq!(shortened(&brief).unwrap().0, brief);
        // 127 bytes with "vdev:" pass.
        let tap = |n: usize| format!("net_tap0,iface={}", "x".repeat(n)).parse::<PortSpec>().unwrap();
        assert!(shortened(&tap(107)).is_ok());
        let e = shortened(&tap(108)).unwrap_err().to_string();
        assert!(e.contains("net_tap0") && e.contains("128") && e.contains("127"), "{e}");
    }
}
