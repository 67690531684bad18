//! What every entry does alike: catches panics, gives status and message, reads what C passes.

use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{PodaError, PodaStatus};

/// Calls `f`; what it fails with, or a panic, becomes a status, and an error at `error` unless that is NULL.
///
/// # Safety
/// `error` is NULL, or a place that may be written.
pub(crate) unsafe fn guard(
    error: *mut *mut PodaError,
    f: impl FnOnce() -> Result<(), PodaError>,
) -> PodaStatus {
    let failed = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(())) => return PodaStatus::Ok,
        Ok(Err(failed)) => failed,
        Err(_) => PodaError::new(PodaStatus::Internal, "internal error, please report it"),
    };
    let status = failed.status;
    if !error.is_null() {
        // SAFETY: not NULL, and so by the contract a place that may be written.
        unsafe { error.write(Box::into_raw(Box::new(failed))) };
    }
    status
}

/// Calls `f`, which cannot fail; a panic gives `otherwise`.
pub(crate) fn quiet<T>(otherwise: T, f: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or(otherwise)
}

/// Lets a handle go, unless it is NULL.
///
/// # Safety
/// `handle` is NULL, or came from `Box::into_raw` and is used no more.
pub(crate) unsafe fn release<T>(handle: *mut T) {
    if !handle.is_null() {
        // SAFETY: not NULL, and so by the contract a box of ours.
        quiet((), || drop(unsafe { Box::from_raw(handle) }));
    }
}

/// What a pointer points to.
///
/// # Safety
/// `pointer` is NULL, or points to a `T` that nobody writes to and that lives for `'a`.
pub(crate) unsafe fn get<'a, T>(pointer: *const T, name: &str) -> Result<&'a T, PodaError> {
    // SAFETY: by the contract.
    unsafe { pointer.as_ref() }.ok_or_else(|| PodaError::argument(format!("{name} is NULL")))
}

/// A text of C's.
///
/// # Safety
/// `text` is NULL, or a text that ends in NUL and lives unchanged for `'a`.
pub(crate) unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str, PodaError> {
    if text.is_null() {
        return Err(PodaError::argument(format!("{name} is NULL")));
    }
    // SAFETY: not NULL, and so by the contract a text with its NUL.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| PodaError::argument(format!("{name} is not UTF-8")))
}

/// An array of C's; NULL will do for an empty one.
///
/// # Safety
/// `start` is NULL, or points to `len` elements that live unchanged for `'a`.
pub(crate) unsafe fn array<'a, T>(start: *const T, len: usize, name: &str) -> Result<&'a [T], PodaError> {
    if len == 0 {
        return Ok(&[]);
    }
    check_array(start, len, name)?;
    // SAFETY: not NULL, aligned, and no longer than memory can be, all checked above; the rest is the contract.
    Ok(unsafe { std::slice::from_raw_parts(start, len) })
}

/// Whether an array is one that a slice may be made of, as far as that can be told.
pub(crate) fn check_array<T>(start: *const T, len: usize, name: &str) -> Result<(), PodaError> {
    if start.is_null() {
        return Err(PodaError::argument(format!("{name} is NULL")));
    }
    if !start.is_aligned() {
        return Err(PodaError::argument(format!("{name} is not aligned")));
    }
    match len.checked_mul(size_of::<T>()) {
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(()),
        _ => Err(PodaError::argument(format!("{name} has {len} elements, more than memory holds"))),
    }
}

/// Where a result goes.
///
/// # Errors
/// When it is NULL.
pub(crate) fn place<T>(place: *mut T, name: &str) -> Result<*mut T, PodaError> {
    if place.is_null() { Err(PodaError::argument(format!("{name} is NULL"))) } else { Ok(place) }
}
