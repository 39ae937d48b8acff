//! Errors: a number for programs, a text for people. No panic leaves the library.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use libc::c_int;
use transport::lnd::LnetError;
use transport::lnet::OpRefused;
use transport::node::BuildError;

/// An error number of Linux's, positive, and a text that names the thing, the value and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The number.
    pub errno: c_int,
    /// The text.
    pub text: String,
}

impl Error {
    /// An error.
    pub fn new(errno: c_int, text: impl Display) -> Error {
        Error { errno, text: text.to_string() }
    }

    /// An argument that cannot be.
    pub(crate) fn invalid(text: impl Display) -> Error {
        Error::new(libc::EINVAL, text)
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// The text, ended by a zero as C has it.
pub(crate) fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}

/// The text of this thread's last call that failed; valid until its next one fails, or it ends.
pub(crate) fn last() -> *const c_char {
    LAST.with_borrow(|l| l.as_ptr())
}

/// Runs a call of a C program's: gives its result, or the error's number, negative, and keeps the text for
/// `pollnd_error()`. A panic is an error.
pub fn guard(call: impl FnOnce() -> Result<c_int, Error>) -> c_int {
    let done = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(bug(&*panic)));
    done.unwrap_or_else(|e| {
        LAST.set(c_text(&e.text));
        -e.errno
    })
}

/// The same for a call that has no result.
pub(crate) fn guard_void(call: impl FnOnce()) {
    guard(|| {
        call();
        Ok(0)
    });
}

fn bug(panic: &(dyn Any + Send)) -> Error {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
    Error::new(
        libc::ENOTRECOVERABLE,
        format_args!("the call panicked ({said}): this is a bug of pollnd; stop the node"),
    )
}

impl From<BuildError> for Error {
    fn from(e: BuildError) -> Error {
        let mut source: Option<&dyn std::error::Error> = Some(&e);
        let mut errno = None;
        while let Some(s) = source {
            if let Some(n) = s.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
                errno = Some(n);
            }
            source = s.source();
        }
        Error::new(errno.unwrap_or(libc::EINVAL), e)
    }
}

impl From<LnetError> for Error {
    fn from(e: LnetError) -> Error {
        let errno = match e {
            LnetError::Unreachable => libc::EHOSTUNREACH,
            LnetError::Refused => libc::ECONNREFUSED,
            LnetError::ConnLost | LnetError::BrokenOff => libc::ECONNRESET,
            LnetError::TimedOut => libc::ETIMEDOUT,
            LnetError::TooLong => libc::EMSGSIZE,
            LnetError::Malformed => libc::EPROTO,
            LnetError::Checksum => libc::EBADMSG,
            LnetError::ShuttingDown => libc::ESHUTDOWN,
            LnetError::NoNi => libc::ENETDOWN,
        };
        Error::new(errno, e)
    }
}

impl From<OpRefused> for Error {
    fn from(e: OpRefused) -> Error {
        let errno = match e {
            OpRefused::Portal(_) | OpRefused::LazyOwn(_) | OpRefused::PortalKind(_) => libc::EINVAL,
            OpRefused::TooLong(_) | OpRefused::Pieces(_) => libc::EMSGSIZE,
            OpRefused::Target(_) | OpRefused::FromAway { .. } => libc::ENETUNREACH,
            OpRefused::NoRoute(_) | OpRefused::LongNid(_) => libc::EHOSTUNREACH,
            OpRefused::From(_) => libc::EADDRNOTAVAIL,
            OpRefused::SelftestGet(_) => libc::EPERM,
            OpRefused::Unprivileged(_) => libc::EACCES,
            OpRefused::QueueFull(_) | OpRefused::TooManyPeers(_) => libc::ENOBUFS,
            OpRefused::NoSuchMe(_) => libc::ENOENT,
            OpRefused::ShuttingDown => libc::ESHUTDOWN,
        };
        Error::new(errno, e)
    }
}
