//! The functions that C calls, and all that is unsafe in this crate: pointers are checked and become references, slices and
//! texts here; what is done with them is safe code elsewhere.
#![allow(
    clippy::missing_safety_doc,
    reason = "the header's rules are the safety rules, and each comment is the header's"
)]

mod contract;
mod lnet;
mod memory;
mod provisions;

use std::ffi::{CStr, c_char, c_void};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

pub use self::contract::*;
pub use self::lnet::*;
pub(crate) use self::memory::Block;
pub use self::provisions::*;
use crate::error::Error;

/// The text that [`pollnd_error`] gives this thread, for tests in Rust.
pub fn error_text() -> String {
    // SAFETY: the text is ended by a zero, and this thread fails in nothing meanwhile.
    unsafe { CStr::from_ptr(pollnd_error()) }.to_string_lossy().into_owned()
}

fn no(what: &str, how: &str) -> Error {
    Error::invalid(format_args!("{what} is {how}: give the address of one"))
}

/// The thing that a pointer of C's points to.
///
/// # Safety
/// It is null, or what it points to is there and not written during the call.
unsafe fn given<'a, T>(p: *const T, what: &str) -> Result<&'a T, Error> {
    if !p.is_aligned() {
        return Err(no(what, "not aligned"));
    }
    // SAFETY: aligned, and null or valid by the caller's promise.
    unsafe { p.as_ref() }.ok_or_else(|| no(what, "null"))
}

/// The thing that a pointer of C's points to, or `None` for null.
///
/// # Safety
/// As [`given`].
unsafe fn maybe<'a, T>(p: *const T, what: &str) -> Result<Option<&'a T>, Error> {
    if p.is_null() {
        return Ok(None);
    }
    // SAFETY: passed on.
    unsafe { given(p, what) }.map(Some)
}

/// The place that a pointer of C's points to.
///
/// # Safety
/// It is null, or the place is there and nobody else's during the call.
unsafe fn place<'a, T>(p: *mut T, what: &str) -> Result<&'a mut MaybeUninit<T>, Error> {
    if !p.is_aligned() {
        return Err(no(what, "not aligned"));
    }
    // SAFETY: aligned, and null or valid by the caller's promise; a MaybeUninit takes any bytes.
    unsafe { p.cast::<MaybeUninit<T>>().as_mut() }.ok_or_else(|| no(what, "null"))
}

/// Arguments in a structure whose first member is its size.
///
/// # Safety
/// It is null, or points to as many bytes as its first member says, and to that one at least.
unsafe fn sized<'a, T>(p: *const T, what: &str) -> Result<&'a T, Error> {
    let want = size_of::<T>();
    if !p.is_aligned() {
        return Err(no(what, "not aligned"));
    }
    // SAFETY: aligned (a structure is aligned at least as its first member), and null or valid for that member.
    let size = unsafe { p.cast::<u32>().as_ref() }.ok_or_else(|| no(what, "null"))?;
    if *size as usize != want {
        return Err(Error::invalid(format_args!(
            "{what} has size {size}: set it to sizeof, which is {want}, and compile with the header of this version"
        )));
    }
    // SAFETY: it is as long as `T`, by its own word.
    unsafe { given(p, what) }
}

/// A text of C's; null is the empty one.
///
/// # Safety
/// It is null, or points to bytes up to a zero that are not written during the call.
unsafe fn text<'a>(p: *const c_char, what: &str) -> Result<&'a str, Error> {
    if p.is_null() {
        return Ok("");
    }
    // SAFETY: not null; ended by a zero, by the caller's promise.
    let text = unsafe { CStr::from_ptr(p) };
    text.to_str().map_err(|_| Error::invalid(format_args!("{what} {text:?} is not UTF-8: give it as such")))
}

/// Bytes of C's.
///
/// # Safety
/// It is null, or points to so many bytes that are not written during the call.
unsafe fn bytes<'a>(p: *const c_void, len: usize, what: &str) -> Result<&'a [u8], Error> {
    if len == 0 {
        return Ok(&[]);
    }
    if p.is_null() {
        return Err(no(what, "null"));
    }
    if isize::try_from(len).is_err() {
        return Err(Error::invalid(format_args!("{len} bytes at {what}: no memory has so many")));
    }
    // SAFETY: not null, no longer than memory can be, and valid by the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(p.cast(), len) })
}

/// Room of C's for a text: writes as much as fits with a zero behind it; gives the text's length.
///
/// # Safety
/// `p` is null, or points to `room` bytes that are nobody else's during the call.
unsafe fn write_text(text: &str, p: *mut c_char, room: usize, what: &str) -> Result<i32, Error> {
    let to = NonNull::new(p.cast::<u8>()).ok_or_else(|| no(what, "null"))?;
    if room <= text.len() {
        return Err(Error::new(
            libc::ENOSPC,
            format_args!("{room} bytes for a text of {}: give room for a zero behind it, too", text.len()),
        ));
    }
    // SAFETY: `room` bytes are there by the caller's promise, and the text with its zero is not longer.
    unsafe {
        to.copy_from_nonoverlapping(NonNull::from(text.as_bytes()).cast(), text.len());
        to.add(text.len()).write(0);
    }
    Ok(i32::try_from(text.len()).unwrap_or(i32::MAX))
}
