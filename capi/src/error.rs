//! Status and message of what failed.

use std::ffi::{CString, c_char};
use std::path::PathBuf;

use poda::formats::{OpenError, WriteError};
use poda::pruner::PruneError;
use poda::pruning::PruningError;
use poda::runtime::{LoadError, PrepareError, RunError};

/// How a call went.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodaStatus {
    /// As it should.
    Ok = 0,
    /// A pointer is NULL that must not be, text is not UTF-8, or a number is out of range.
    Argument = 1,
    /// A file cannot be read or written.
    Io = 2,
    /// A file or bytes are no valid model.
    Model = 3,
    /// The model needs an operator that Poda has not, which the message names.
    Unsupported = 4,
    /// Names, types or shapes of inputs do not fit the model.
    Input = 5,
    /// The caller's buffers for outputs do not fit: names, types, shapes or bytes.
    Output = 6,
    /// The run was cancelled, or its time was over.
    Stopped = 7,
    /// There is not enough memory, or less than the limit that was set.
    Memory = 8,
    /// The model cannot be pruned as asked.
    Pruning = 9,
    /// A defect of Poda's; please report it.
    Internal = 10,
}

/// What failed, and why.
#[derive(Debug)]
pub struct PodaError {
    pub(crate) status: PodaStatus,
    pub(crate) message: CString,
}

impl PodaError {
    pub(crate) fn new(status: PodaStatus, message: impl std::fmt::Display) -> Self {
        // (A name in a model may hold a NUL, at which C would stop.)
        let text = format!("{message}").replace('\0', "\\0");
        Self { status, message: CString::new(text).expect("no NUL is left") }
    }

    pub(crate) fn argument(message: impl std::fmt::Display) -> Self {
        Self::new(PodaStatus::Argument, message)
    }
}

impl From<OpenError> for PodaError {
    fn from(error: OpenError) -> Self {
        let status = if matches!(error, OpenError::Io { .. }) { PodaStatus::Io } else { PodaStatus::Model };
        Self::new(status, error)
    }
}

impl From<LoadError> for PodaError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Open(error) => error.into(),
            other => Self::new(PodaStatus::Model, other),
        }
    }
}

impl From<PrepareError> for PodaError {
    fn from(error: PrepareError) -> Self {
        let status = match &error {
            error if error.is_unsupported() => PodaStatus::Unsupported,
            PrepareError::Threads(_) => PodaStatus::Argument,
            _ => PodaStatus::Model,
        };
        Self::new(status, error)
    }
}

impl From<RunError> for PodaError {
    fn from(error: RunError) -> Self {
        let status = match &error {
            error if error.is_input() => PodaStatus::Input,
            error if error.is_stopped() => PodaStatus::Stopped,
            error if error.is_memory() => PodaStatus::Memory,
            RunError::Plan(plan) if plan.is_unsupported() => PodaStatus::Unsupported,
            _ => PodaStatus::Model,
        };
        Self::new(status, error)
    }
}

impl From<WriteError> for PodaError {
    fn from(error: WriteError) -> Self {
        let status =
            if matches!(error, WriteError::Format { .. }) { PodaStatus::Argument } else { PodaStatus::Io };
        Self::new(status, error)
    }
}

impl From<PruningError> for PodaError {
    fn from(error: PruningError) -> Self {
        match error {
            PruningError::Open(error) => error.into(),
            PruningError::Write(error) => error.into(),
            other => Self::new(PodaStatus::Pruning, other),
        }
    }
}

impl From<PruneError> for PodaError {
    fn from(error: PruneError) -> Self {
        let status =
            if matches!(error, PruneError::Recipe(_)) { PodaStatus::Argument } else { PodaStatus::Pruning };
        Self::new(status, error)
    }
}

/// The path that a text names.
pub(crate) fn path(text: &str) -> PathBuf {
    PathBuf::from(text)
}

/// The status that came with an error; PODA_STATUS_OK of NULL.
///
/// # Safety
/// `error` is NULL or an error that was not released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_error_status(error: *const PodaError) -> PodaStatus {
    // SAFETY: by the contract above.
    unsafe { error.as_ref() }.map_or(PodaStatus::Ok, |error| error.status)
}

/// What failed and why, in one line; "" of NULL. The text lives as long as the error.
///
/// # Safety
/// As poda_error_status.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_error_message(error: *const PodaError) -> *const c_char {
    // SAFETY: by the contract above.
    unsafe { error.as_ref() }.map_or(c"".as_ptr(), |error| error.message.as_ptr())
}

/// Lets an error go.
///
/// # Safety
/// As poda_error_status.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poda_error_release(error: *mut PodaError) {
    // SAFETY: by the contract above.
    unsafe { crate::guard::release(error) };
}
