//! Files that users name: what is none is refused, and none is waited for.

use std::fs::{self, Metadata, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Most bytes of a file: a site's has a few hundred.
pub(crate) const BYTES_MAX: u64 = 1 << 20;
/// The device /dev/null, major and minor number 1 and 3: a link to it is how sites switch a file off.
const NULL: u64 = 0x103;

fn is_null(m: &Metadata) -> bool {
    m.file_type().is_char_device() && m.rdev() == NULL
}

/// The bytes of the file at `path`, which messages call `name`; `wanted` is what is to be given in place of one that will not do.
///
/// # Errors
/// The kernel's, or that it is no regular file, or too long.
pub(crate) fn bytes(name: &str, path: &Path, wanted: &str) -> Result<Vec<u8>, String> {
    let fail = |e| format!("{name}: {e}");
    let m = fs::metadata(path).map_err(fail)?;
    if is_null(&m) {
        return Ok(Vec::new());
    }
    // To open a FIFO would wait for somebody who writes.
    if !m.is_file() {
        return Err(format!("{name}: it is no regular file; give {wanted}"));
    }
    // Some regular files of the kernel's wait, too, for something to tell (/proc/kmsg).
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).map_err(fail)?;
    at_most(name, file, wanted)
}

/// All bytes of `from`, which messages call `name`.
///
/// # Errors
/// The kernel's, or that it is too long.
pub(crate) fn at_most(name: &str, from: impl Read, wanted: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let n = from.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| match e.kind() {
        ErrorKind::WouldBlock => format!("{name}: its end would have to be waited for; give {wanted}"),
        _ => format!("{name}: {e}"),
    })?;
    if n as u64 > BYTES_MAX {
        return Err(format!("{name}: it has more than {BYTES_MAX} bytes; give {wanted}"));
    }
    Ok(bytes)
}
