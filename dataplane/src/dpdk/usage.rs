//! Output of the EAL beside its log: the text of its options, which it prints to the standard output whenever it refuses an
//! argument, where results belong (`--json`), and around the line that says what is wrong.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// The standard output, held back while the EAL starts.
pub(super) struct Output {
    before: OwnedFd,
    held: File,
}

impl Output {
    /// Holds back what is written to descriptor 1 from now on; not where the text is asked for, since the EAL prints it and
    /// ends the process.
    pub(super) fn hold(args: &[String]) -> Option<Output> {
        let asks = |a: &String| matches!(a.as_str(), "-h" | "--help" | "help") || a == "--log-level=help";
        if args.iter().any(asks) {
            return None;
        }
        // SAFETY: plain calls of the C library; each descriptor that they give is owned once.
        unsafe {
            libc::fflush(std::ptr::null_mut());
            let fd = libc::memfd_create(c"eal".as_ptr(), libc::MFD_CLOEXEC);
            let held = (fd >= 0).then(|| File::from_raw_fd(fd))?;
            let fd = libc::fcntl(libc::STDOUT_FILENO, libc::F_DUPFD_CLOEXEC, 3);
            let before = (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))?;
            (libc::dup2(held.as_raw_fd(), libc::STDOUT_FILENO) >= 0).then_some(Output { before, held })
        }
    }

    /// Gives the standard output back, and writes to it what was held; of a start that failed, without the options' text.
    pub(super) fn release(mut self, started: bool) {
        // SAFETY: flushes streams, and puts back the descriptor that was there.
        unsafe {
            libc::fflush(std::ptr::null_mut());
            libc::dup2(self.before.as_raw_fd(), libc::STDOUT_FILENO);
        }
        let mut text = Vec::new();
        if self.held.rewind().is_ok() && self.held.read_to_end(&mut text).is_ok() {
            // Best effort, as for whoever wrote it.
            let _ = File::from(self.before).write_all(without_usage(&text, started));
        }
    }
}

fn without_usage(text: &[u8], started: bool) -> &[u8] {
    let usage = b"\nUsage: ";
    let end = text.windows(usage.len()).position(|w| w == usage).filter(|_| !started);
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_options_is_left_out_where_the_start_failed() {
        let text = b"first\n\nUsage: pollnd [options]\n";
        assert_eq!(without_usage(text, false), b"first\n");
        assert_eq!(without_usage(text, true), text);
        assert_eq!(without_usage(b"first\n", false), b"first\n");
    }
}
